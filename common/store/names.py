"""Builds and parses all file names in models/ and logs/. Does not import torch."""

import re
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from common.methods import FINETUNED
from common.settings import Architecture

PUBLISHED_TAGS = {"dense": "", "GMP": "", "later_GMP": "_later"}  # the tag of other methods is their name

CHECKPOINT_ENDINGS = (".pt", ".pth", ".ckpt", ".tar", ".bin", ".safetensors")  # as frameworks write them
KNOWN_NAMES = (  # of supervised and contrastive checkpoints and the files beside them
    "*_*pruning_*epochs_*depth_*dropout_id*.pt",
    "*_*_*_*pruning*_*batch_*temperature_*epochs_id*.pt",
)


@dataclass(frozen=True)
class CheckpointName:
    """The fields of a checkpoint's file name. With `*` for unknown fields the name is a glob.

    part: 'encoder', 'head' or 'supervised'; learning_method: SupCon, SimCLR or supervised; epochs: of
    training, of the head, or of finetuning. Contrastive parts have encoder_name, which includes depth and
    width, batch_size and temperature; supervised networks have widen_factor, depth and dropout.
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
        """Returns the entries of a record; the published backbone is left out."""
        entries = asdict(self)
        if self.architecture == "WideResNet":
            del entries["architecture"]
        return entries

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
    """Parses a file name by a pattern with `*` for id, epochs or batch size; None if it does not match."""
    unknown = [key for key in ("batch_size", "epochs", "id") if getattr(pattern, key) == "*"]
    match = re.fullmatch(re.escape(str(pattern)).replace(r"\*", "([0-9]+)"), path.name)
    name = match and replace(pattern, **dict(zip(unknown, map(int, match.groups()))))
    return name if name and str(name) == path.name else None


def full_encoder_name(encoder_name: str, architecture: Architecture) -> str:
    """Returns the encoder's name with depth, width and projection head unless they are 16, 2 and mlp, such as
    `WideResNet-10-4-linear`; the name of another backbone replaces WideResNet."""
    shape = architecture.model_depth, architecture.widen_factor
    suffix = "" if shape == (16, 2) else f"-{shape[0]}-{shape[1]}"
    if architecture.architecture != "WideResNet":
        prefix = "" if encoder_name == "WideResNet" else f"{encoder_name}-"
        encoder_name, suffix = prefix + architecture.architecture, ""
    head = "" if architecture.projection_head == "mlp" else f"-{architecture.projection_head}"
    return encoder_name + suffix + head


def study_folder(root: str, dataset_name: str) -> Path:
    """Returns `models/` or `logs/` for cifar10, as published, and a folder of the data set's name in it for
    other data sets."""
    return Path(root) if dataset_name == "cifar10" else Path(root) / dataset_name


def check_writable(folder: Path) -> None:
    """Creates the folder and writes a file into it, so that a failure shows before the training.

    Raises:
        OSError: the folder cannot be created or written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=folder).close()


def record_path(checkpoint: Path) -> Path:
    """Returns the path of the JSON beside a checkpoint."""
    return checkpoint.with_suffix(".json")


def unknown_checkpoints(folder: Path) -> list[Path]:
    """Returns the files that look like checkpoints but have no known name."""
    files = [path for path in sorted(folder.glob("[!.]*")) if path.suffix in CHECKPOINT_ENDINGS]
    return [path for path in files if not any(map(path.match, KNOWN_NAMES))]


def dense_checkpoints(folder: Path, learning_method: str) -> list[Path]:
    """Returns the dense networks of a learning method in a folder, of any architecture."""
    pattern = f"*_encoder_{learning_method}_0.0pruning_*_id*.pt"
    if learning_method == "supervised":
        pattern = "*_0.0pruning_*dropout_id*.pt"
    return [path for path in folder.glob(pattern) if f"_{FINETUNED}_" not in path.name]


def kinds_in(folder: Path, learning_method: str) -> str:
    """Lists the file names of a learning method's networks in a folder, each once, with `*` for the id; of
    all networks if it has none."""
    names = [re.sub(r"_id[0-9]+\.pt$", "_id*.pt", path.name) for path in sorted(folder.glob("*_id*.pt"))]
    names = [name for name in dict.fromkeys(names) if name.endswith("_id*.pt") and "_head_" not in name]
    part = "dropout_id" if learning_method == "supervised" else f"_encoder_{learning_method}_"
    return ", ".join([name for name in names if part in name] or names) or "none"


def epoch_path(checkpoint: Path, epoch: int) -> Path:
    """Returns the file beside a checkpoint with its network's weights after `epoch` epochs; 0 is the
    initialisation."""
    return checkpoint.with_name(f"{checkpoint.stem}_epoch{epoch}.pt")


def gradients_path(checkpoint: Path) -> Path:
    """Returns the file beside a checkpoint with the sums of |gradient| and gradient over its training."""
    return checkpoint.with_name(f"{checkpoint.stem}_gradient_sums.pt")


def state_path(checkpoint: Path) -> Path:
    """Returns the hidden file beside a checkpoint with the state of its unfinished training."""
    return checkpoint.with_name(f".{checkpoint.name}.state")
