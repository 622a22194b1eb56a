"""Every file name of models/ and logs/; no other module builds a path there. No torch here."""

import re
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from common.methods import FINETUNED
from common.settings import Architecture

PUBLISHED_TAGS = {"dense": "", "GMP": "", "later_GMP": "_later"}  # any other method's tag is its own name

CHECKPOINT_ENDINGS = (".pt", ".pth", ".ckpt", ".tar", ".bin", ".safetensors")  # as frameworks write them
# Of all checkpoints and of what their trainings kept beside them, supervised and contrastive.
KNOWN_NAMES = (
    "*_*pruning_*epochs_*depth_*dropout_id*.pt",
    "*_*_*_*pruning*_*batch_*temperature_*epochs_id*.pt",
)


@dataclass(frozen=True)
class CheckpointName:
    """What a file name of models/ says.

    part: 'encoder', 'head' or 'supervised'; learning_method: SupCon, SimCLR or supervised; epochs: of
    training, of the head, or of finetuning. encoder_name, batch_size and temperature belong to contrastive
    parts; widen_factor, depth and dropout to supervised ones (a contrastive encoder's name holds its depth
    and width). With `*` for what is not known it is a glob.
    """

    part: str
    learning_method: str
    pruning_method: str
    sparsity: float
    epochs: int | str
    id: int | str
    encoder_name: str = ""
    batch_size: int | str = 0
    temperature: float = 0.0
    widen_factor: int = 0
    depth: int = 0
    dropout: float = 0.0
    architecture: str = "WideResNet"

    def facts(self) -> dict:
        """What a record says of the name; the published backbone is not named."""
        facts = asdict(self)
        if self.architecture == "WideResNet":
            del facts["architecture"]
        return facts

    def __str__(self) -> str:
        tag = PUBLISHED_TAGS.get(self.pruning_method, f"_{self.pruning_method}")
        if self.part == "supervised":
            width = "" if self.widen_factor == 2 else f"-{self.widen_factor}"
            backbone = f"wideResNet{width}" if self.architecture == "WideResNet" else self.architecture
            return (
                f"{backbone}{tag}_{self.sparsity}pruning_{self.epochs}epochs_{self.depth}depth_"
                f"{self.dropout}dropout_id{self.id}.pt"
            )
        return (
            f"{self.encoder_name}_{self.part}_{self.learning_method}_{self.sparsity}pruning{tag}_"
            f"{self.batch_size}batch_{self.temperature}temperature_{self.epochs}epochs_id{self.id}.pt"
        )


def name_of(path: Path, pattern: CheckpointName) -> CheckpointName | None:
    """The name of a file that fits one with `*` for id, epochs or batch size; None where it does not."""
    unknown = [key for key in ("batch_size", "epochs", "id") if getattr(pattern, key) == "*"]
    found = re.fullmatch(re.escape(str(pattern)).replace(r"\*", "([0-9]+)"), path.name)
    name = found and replace(pattern, **dict(zip(unknown, map(int, found.groups()))))
    return name if name and str(name) == path.name else None


def full_encoder_name(encoder_name: str, architecture: Architecture) -> str:
    """The encoder's name with what differs from the published 16, 2, mlp: `WideResNet-10-4-linear`; with
    another backbone its name is in place of the published one."""
    shape = architecture.model_depth, architecture.widen_factor
    suffix = "" if shape == (16, 2) else f"-{shape[0]}-{shape[1]}"
    if architecture.architecture != "WideResNet":
        plain = "" if encoder_name == "WideResNet" else f"{encoder_name}-"
        encoder_name, suffix = plain + architecture.architecture, ""
    head = "" if architecture.projection_head == "mlp" else f"-{architecture.projection_head}"
    return encoder_name + suffix + head


def study_folder(root: str, dataset_name: str) -> Path:
    """`models/` or `logs/` of a data set: cifar10's as published, any other's in a folder of its name."""
    return Path(root) if dataset_name == "cifar10" else Path(root) / dataset_name


def check_writable(folder: Path) -> None:
    """Makes the folder and writes a file into it: better now than after the training.

    Raises:
        OSError: it cannot be made or written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=folder).close()


def record_path(checkpoint: Path) -> Path:
    """The JSON beside a checkpoint."""
    return checkpoint.with_suffix(".json")


def unknown_checkpoints(folder: Path) -> list[Path]:
    """Files that look like checkpoints, under names that none has here."""
    files = [path for path in sorted(folder.glob("[!.]*")) if path.suffix in CHECKPOINT_ENDINGS]
    return [path for path in files if not any(map(path.match, KNOWN_NAMES))]


def dense_checkpoints(folder: Path, learning_method: str) -> list[Path]:
    """The dense networks of a learning method in a folder, of any architecture."""
    pattern = f"*_encoder_{learning_method}_0.0pruning_*_id*.pt"
    if learning_method == "supervised":
        pattern = "*_0.0pruning_*dropout_id*.pt"
    return [path for path in folder.glob(pattern) if f"_{FINETUNED}_" not in path.name]


def kinds_in(folder: Path) -> str:
    """The kinds of checkpoints in a folder: their names, of any id."""
    names = [re.sub(r"_id[0-9]+\.pt$", "_id*.pt", path.name) for path in sorted(folder.glob("*_id*.pt"))]
    return ", ".join(dict.fromkeys(name for name in names if name.endswith("_id*.pt"))) or "none"


def epoch_path(checkpoint: Path, epoch: int) -> Path:
    """The weights of a checkpoint's network after so many epochs, 0 its initialisation: a file beside it."""
    return checkpoint.with_name(f"{checkpoint.stem}_epoch{epoch}.pt")


def gradients_path(checkpoint: Path) -> Path:
    """The sums of |gradient| and gradient over the training of a checkpoint's network: a file beside it."""
    return checkpoint.with_name(f"{checkpoint.stem}_gradient_sums.pt")


def state_path(checkpoint: Path) -> Path:
    """The state of the unfinished training of a checkpoint: a hidden file beside it."""
    return checkpoint.with_name(f".{checkpoint.name}.state")
