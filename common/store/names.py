"""Every file name of models/ and logs/: nobody else builds a path there. No torch here."""

import math
import re
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common.methods import parse_method
from common.settings import Architecture

PUBLISHED_TAGS = {"dense": "", "GMP": "", "later_GMP": "_later"}  # any other method's tag is its own name

CHECKPOINT_ENDINGS = (".pt", ".pth", ".ckpt", ".tar", ".bin", ".safetensors")  # as frameworks write them


@dataclass(frozen=True)
class CheckpointName:
    """What a file name of models/ says.

    part: 'encoder', 'head' or 'supervised'; learning_method: SupCon, SimCLR or supervised; epochs: of
    training, of the head, or of finetuning. encoder_name, batch_size and temperature belong to contrastive
    parts; widen_factor, depth and dropout to supervised ones (a contrastive encoder's name holds its depth
    and width).
    """

    part: str
    learning_method: str
    pruning_method: str
    sparsity: float
    epochs: int
    id: int
    encoder_name: str = ""
    batch_size: int = 0
    temperature: float = 0.0
    widen_factor: int = 0
    depth: int = 0
    dropout: float = 0.0
    architecture: str = "WideResNet"

    def facts(self) -> dict:
        """What a record says of the name; the published backbone is not named."""
        facts = asdict(self)
        return (
            facts
            if self.architecture != "WideResNet"
            else {k: facts[k] for k in facts if k != "architecture"}
        )

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


_NUMBER = r"\d+(?:\.\d+)?(?:e[+-]?\d+)?"
_TAG = r"(?P<tag>_[A-Za-z][A-Za-z0-9_.]*)?"
_NAMES = (
    rf"(?P<part>wideResNet|resnet18)(?:-(?P<widen_factor>\d+))?{_TAG}_(?P<sparsity>{_NUMBER})pruning_"
    rf"(?P<epochs>\d+)epochs_(?P<depth>\d+)depth_(?P<dropout>{_NUMBER})dropout_id(?P<id>\d+)\.pt",
    rf"(?P<encoder_name>.+)_(?P<part>encoder|head)_(?P<learning_method>[A-Za-z0-9]+)_"
    rf"(?P<sparsity>{_NUMBER})pruning{_TAG}_(?P<batch_size>\d+)batch_"
    rf"(?P<temperature>{_NUMBER})temperature_(?P<epochs>\d+)epochs_id(?P<id>\d+)\.pt",
)


def parse_name(name: str) -> CheckpointName | None:
    """The facts in a file name, or None where it is not the name of a checkpoint.

    The published script tags dense networks `_later` where gradual ones would be: they are dense.
    """
    match = next(filter(None, (re.fullmatch(pattern, name) for pattern in _NAMES)), None)
    if not match:
        return None
    texts = match.groupdict()
    tag = texts.pop("tag")
    if texts["part"] in ("wideResNet", "resnet18"):
        is_wide = texts["part"] == "wideResNet"
        texts |= {"part": "supervised", "learning_method": "supervised"}
        texts["widen_factor"] = texts["widen_factor"] or "2"
        texts["architecture"] = "WideResNet" if is_wide else "resnet18"
    facts = {key: CheckpointName.__annotations__[key](text) for key, text in texts.items()}
    if tag in (None, "_later"):
        method = ("later_GMP" if tag else "GMP") if facts["sparsity"] else "dense"
    else:
        method = tag[1:] if tag[1:] not in PUBLISHED_TAGS and parse_method(tag[1:]) else None
    finite = all(map(math.isfinite, (value for value in facts.values() if isinstance(value, float))))
    return CheckpointName(pruning_method=method, **facts) if method and finite else None


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


def network_flags(name: CheckpointName, configuration: dict) -> dict[str, Any]:
    """The flags that ask for the network of a checkpoint.

    Args:
        configuration: of its record, if it has one: contrastive names lack the dropout.
    """
    if name.architecture != "WideResNet" or name.encoder_name.startswith("resnet18"):
        return {"architecture": "resnet18"}
    if name.part == "supervised":
        return {"model_depth": name.depth, "widen_factor": name.widen_factor, "dropout": name.dropout}
    plain, depth, width, head = re.fullmatch(r"(.+?)(?:-(\d+)-(\d+))?(-linear)?", name.encoder_name).groups()
    return {
        "encoder_name": plain,
        "model_depth": int(depth or 16),
        "widen_factor": int(width or 2),
        "projection_head": "linear" if head else "mlp",
        "temperature": name.temperature,
        "dropout": configuration.get("dropout", 0.0),
    }


def settings_in_name(name: CheckpointName) -> set[str]:
    """The settings that a file name tells, as a configuration names them."""
    told = {*network_flags(name, {}), "schedule", "criterion", "scope", "rate", "after", "rewind_epoch"}
    of_head = name.part == "head" and not parse_method(name.pruning_method).finetuned
    told.add("head_epochs" if of_head else "epochs")
    return told if name.part == "supervised" else told - {"dropout"} | {"batch_size"}


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
    kept = re.compile(r"(_epoch\d+|_gradient_sums)\.pt$")
    return [
        path
        for path in sorted(folder.glob("[!.]*"))
        if path.suffix in CHECKPOINT_ENDINGS and not parse_name(kept.sub(".pt", path.name))
    ]


def epoch_path(checkpoint: Path, epoch: int) -> Path:
    """The weights of a checkpoint's network after so many epochs, 0 its initialisation: a file beside it."""
    return checkpoint.with_name(f"{checkpoint.stem}_epoch{epoch}.pt")


def gradients_path(checkpoint: Path) -> Path:
    """The sums of |gradient| and gradient over the training of a checkpoint's network: a file beside it."""
    return checkpoint.with_name(f"{checkpoint.stem}_gradient_sums.pt")


def state_path(checkpoint: Path) -> Path:
    """The state of the unfinished training of a checkpoint: a hidden file beside it."""
    return checkpoint.with_name(f".{checkpoint.name}.state")
