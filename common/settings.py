"""Hyperparameters. Each field of these classes defines a flag with its help and published default, and an
entry of the record. A record without the entry means the default.

To add a hyperparameter, add a field: the scripts read its flag, record it and compare it with the default.
Does not import torch, so that `--help` answers at once.
"""

from argparse import Namespace
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Iterable

from common import values


def setting(default: Any, kind: Any, help: str) -> Any:
    """Returns a field with a flag; `kind` is a function that parses a text, a tuple of choices, or bool."""
    metadata = {"flag": (kind, default, help)}
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


def _precision() -> Any:
    return setting(
        "float32",
        ("float32", "tf32", "bfloat16"),
        "precision of training steps; tf32 affects CUDA convolutions only, bfloat16 uses autocast; losses, "
        "pruning criteria and evaluation stay in float32",
    )


def _compile() -> Any:
    return setting(
        False,
        bool,
        "compile the training step; needs a C++ compiler, changes the last digits, is slower on a CPU",
    )


@dataclass(frozen=True)
class Architecture:
    """The settings that determine a network's shapes. Supervised networks have no projection head; only
    WideResNets have depth and width."""

    model_depth: int = setting(16, values.model_depth, "depth of the WideResNet, 6 n + 4")
    widen_factor: int = setting(2, values.widen_factor, "width of the WideResNet")
    dropout: float = setting(0.0, values.fraction, "dropout rate inside the blocks")
    projection_head: str = setting("mlp", ("mlp", "linear"), "network between latent and loss")
    architecture: str = setting(
        "WideResNet", ("WideResNet", "resnet18"), "backbone; resnet18 has a 3x3 stem, as for CIFAR"
    )

    def __str__(self) -> str:
        if self.architecture != "WideResNet":
            return self.architecture
        return f"WideResNet-{self.model_depth}-{self.widen_factor}"

    def configuration(self, supervised: bool) -> dict:
        """Returns the entries of a record; the published backbone is left out."""
        omitted = {"projection_head"} if supervised else set()
        omitted |= {"architecture"} if self.architecture == "WideResNet" else {"model_depth", "widen_factor"}
        return {key: value for key, value in asdict(self).items() if key not in omitted}

    @classmethod
    def of_configuration(cls, configuration: dict) -> "Architecture":
        """Returns the architecture in a record's configuration."""
        return cls(**{key: configuration[key] for key in defaults(cls) if key in configuration})


@dataclass(frozen=True)
class SupervisedTraining:
    """Training of a whole network with cross-entropy."""

    epochs: int = setting(205, values.positive_integer, "training epochs")
    batch_size: int = setting(128, values.positive_integer, "batch size")
    learning_rate: float = setting(1.0, values.positive_float, "learning rate of the first epoch")
    lr_milestones: list[int] = setting(
        [5, 30, 50, 80],
        values.epoch_list,
        "epochs, counted from 0, at which the learning rate is multiplied by --lr_gamma",
    )
    lr_gamma: float = setting(0.1, values.milestone_factor, "factor of the learning rate at each milestone")
    cosine_annealing: bool = setting(
        False, bool, "anneal to learning_rate / 1000 along a cosine, instead of milestones"
    )
    momentum: float = setting(0.9, values.fraction, "momentum of SGD")
    weight_decay: float = setting(0.0005, values.natural_float, "weight decay of SGD")
    shuffle: bool = setting(True, bool, "shuffle the images in every epoch")
    precision: str = _precision()
    compile: bool = _compile()


@dataclass(frozen=True)
class ContrastiveTraining:
    """Training of an encoder and its projection head with a contrastive loss."""

    epochs: int = setting(500, values.positive_integer, "training epochs")
    batch_size: int = setting(1024, values.positive_integer, "batch size; each image has two views")
    learning_rate: float = setting(0.05, values.positive_float, "learning rate of SGD")
    momentum: float = setting(0.9, values.fraction, "momentum of SGD")
    weight_decay: float = setting(0.0004, values.natural_float, "weight decay of SGD")
    temperature: float = setting(0.5, values.positive_float, "temperature of the contrastive loss")
    base_temperature: float = setting(
        0.07, values.positive_float, "the loss is multiplied by temperature / base_temperature"
    )
    warmup_epochs: int = setting(
        0, values.natural_number, "epochs of linear warm-up from 0.01, for batches above 256"
    )
    cosine_annealing: bool = setting(False, bool, "anneal to learning_rate / 1000 along a cosine")
    lars: bool = setting(False, bool, "use LARS with trust coefficient 0.02")
    precision: str = _precision()
    compile: bool = _compile()


@dataclass(frozen=True)
class HeadTraining:
    """Training of a linear classifier on a frozen encoder with cross-entropy."""

    head_epochs: int = setting(100, values.positive_integer, "epochs of the linear classifier")
    batch_size_head: int = setting(256, values.positive_integer, "batch size of the linear classifier")
    precision: str = _precision()


@dataclass(frozen=True)
class Finetuning:
    """Training of a whole pruned network with cross-entropy, at a constant learning rate. Fields without a
    flag have the published values."""

    epochs: int = setting(30, values.positive_integer, "finetuning epochs")
    batch_size: int = setting(128, values.positive_integer, "finetuning batch size")
    learning_rate: float = setting(0.001, values.positive_float, "learning rate of finetuning, constant")
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 0.0
    precision: str = _precision()
    compile: bool = _compile()


@dataclass(frozen=True)
class Retraining:
    """Training of a pruned network with the settings of the dense one."""

    precision: str = _precision()
    compile: bool = _compile()


def defaults(*kinds: type) -> dict:
    """Returns name -> published default for the fields of these classes."""
    return {name: value for kind in kinds for name, value in asdict(kind()).items()}


def from_flags(kind: type, flags: Namespace) -> dict:
    """Returns name -> value for the fields of a class, as in the record; without a flag, the default."""
    return {name: getattr(flags, name, default) for name, default in defaults(kind).items()}


def flag_rows(kind: type, *names: str, without: Iterable[str] = ()) -> list[tuple]:
    """Returns (flag, kind, default, help) for the named fields of a class, or for all that have a flag."""
    return [
        (f"--{each.name}", *each.metadata["flag"])
        for each in fields(kind)
        if each.metadata and (each.name in names or not names) and each.name not in without
    ]
