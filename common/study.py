"""What the flags of one script call mean: data, device, architecture, seeds and folders."""

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

import torch

from common import process
from common.cli import UserError, logger
from common.data import ImageDataset, dataset_name, load_dataset
from common.store.checkpoints import (
    Architecture,
    CheckpointName,
    check_writable,
    full_encoder_name,
    study_folder,
)


@dataclass(frozen=True)
class Study:
    """One script call under one total seed. `flags` holds the parsed flags."""

    script: str
    flags: argparse.Namespace
    learning_method: str
    architecture: Architecture
    encoder_name: str  # full, with what differs from 16, 2, mlp; wideResNet for supervised networks
    data: ImageDataset
    device: torch.device
    total_seed: int
    folder: Path  # encoders, or supervised models
    head_folder: Path
    default_folder: Path  # models/ or models/NAME/
    log_folder: Path
    results_folder: Path  # pies/NAME

    @property
    def method_folder(self) -> Path:
        """pies/NAME/METHOD: arrays and figures of one learning method."""
        return self.results_folder / self.learning_method

    @property
    def supervised(self) -> bool:
        return self.learning_method == "supervised"

    @property
    def folder_flag(self) -> str:
        """The flag that names `folder`, for messages."""
        return "--save_path" if self.supervised else "--encoder_save_path"

    @property
    def architecture_name(self) -> str:
        """The network in tables, titles and names of figures."""
        if not self.supervised:
            return self.encoder_name
        return (
            f"{self.architecture}-dropout{self.architecture.dropout}"
            if self.architecture.dropout
            else str(self.architecture)
        )

    def model_seed(self, model_id: int) -> int:
        """The seed of a model: its id, and under total seed s > 0 another one for every (s, id)."""
        return model_id + 1_000_000 * self.total_seed

    def name(
        self, part: str, pruning_method: str, sparsity: float, epochs: int, batch_size: int, model_id: int
    ) -> CheckpointName:
        """The name of a checkpoint of this study."""
        if self.supervised:
            return CheckpointName(
                part,
                self.learning_method,
                pruning_method,
                sparsity,
                epochs,
                model_id,
                widen_factor=self.architecture.widen_factor,
                depth=self.architecture.depth,
                dropout=self.architecture.dropout,
            )
        return CheckpointName(
            part,
            self.learning_method,
            pruning_method,
            sparsity,
            epochs,
            model_id,
            encoder_name=self.encoder_name,
            batch_size=batch_size,
            temperature=self.flags.temperature,
        )

    def architecture_configuration(self) -> dict:
        """What every configuration says of the network."""
        configuration = {
            "model_depth": self.architecture.depth,
            "widen_factor": self.architecture.widen_factor,
            "dropout": self.architecture.dropout,
        }
        return (
            configuration
            if self.supervised
            else {**configuration, "projection_head": self.architecture.projection_head}
        )

    def same_flags(self, folders: bool) -> list[str]:
        """The flags with which another script looks at the same data, architecture and, with `folders`,
        folders, for messages."""
        words = []
        paths = (
            (("encoder_save_path", None), ("head_save_path", None), ("save_path", None)) if folders else ()
        )
        for flag, default in (
            ("dataset", "cifar10"),
            ("data_dir", "data"),
            ("model_depth", 16),
            ("widen_factor", 2),
            ("dropout", 0.0),
            ("projection_head", "mlp"),
            ("temperature", 0.5),
            ("encoder_name", "WideResNet"),
            *paths,
        ):
            value = getattr(self.flags, flag, default)
            if value != default:
                words += [f"--{flag}", str(value)]
        return words + (["--total_seed", str(self.total_seed + 1)] if self.total_seed else [])


def open_studies(script: str, flags: argparse.Namespace, writes_models: bool = False) -> Iterator[Study]:
    """The study of each total seed, 0 to --total_seed - 1, with logging started and the data on the device.

    Raises:
        UserError: flags that do not fit the data.
        OSError: `writes_models`, and a folder of the models cannot be written.
    """
    name = dataset_name(flags.dataset, flags.data_dir)
    process.start_logging(script, study_folder("logs", name), flags.debug)
    logger.info("%s on %s", script, name)
    process.set_determinism(flags.cuda_deterministic)
    if flags.threads:
        torch.set_num_threads(flags.threads)
    cuda_device, rank = flags.cuda_device, os.environ.get("LOCAL_RANK")
    if rank and "cuda_device" not in flags.given:  # under torchrun each process has a device of its own
        cuda_device = int(rank) % max(1, torch.cuda.device_count())  # or sees no other
    device = process.select_device(cuda_device)
    if flags.workers and not flags.debug:  # this process only looks on, and takes no memory of the device
        device = torch.device("cpu")
    if device.type == "cpu":
        process.keep_freed_memory()
    data = load_dataset(flags.dataset, flags.data_dir).to(device)
    if getattr(flags, "num_classes", 10) not in (
        10,
        len(data.class_names),
    ):  # 10, the published default, leaves it to the data
        raise UserError(f"--num_classes {flags.num_classes}: {name} has {len(data.class_names)} classes")
    architecture = Architecture(
        flags.model_depth, flags.widen_factor, flags.dropout, getattr(flags, "projection_head", "mlp")
    )
    supervised = flags.learning_method == "supervised"
    own = flags.save_path if supervised else flags.encoder_save_path
    own_head = None if supervised else flags.head_save_path
    for total_seed in range(flags.total_seed):

        def seeded(path: Path) -> Path:
            return path / f"seed_{total_seed}" if total_seed else path

        default_folder = study_folder("models", name, total_seed)
        folder = default_folder if own is None else seeded(Path(own))
        head_folder = folder if own_head is None else seeded(Path(own_head))
        if writes_models and not flags.debug:
            check_writable(folder)
            check_writable(head_folder)
        yield Study(
            script,
            flags,
            flags.learning_method,
            architecture,
            "wideResNet" if supervised else full_encoder_name(flags.encoder_name, architecture),
            data,
            device,
            total_seed,
            folder,
            head_folder,
            default_folder,
            study_folder("logs", name, total_seed),
            seeded(Path("pies") / name),
        )
