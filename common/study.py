"""Turns the flags of a script call into data, device, architecture, seeds and folders."""

import shlex
from argparse import Namespace
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Iterator

import torch

from common import process
from common.cli import FLIPS, UserError, logger
from common.data import ImageDataset, dataset_name, load_dataset
from common.models import channels, convolution_weights
from common.settings import Architecture, from_flags
from common.store.names import CheckpointName, check_writable, full_encoder_name, study_folder
from common.test_sets import other_test_sets

MOST_WEIGHTS = 1e9


@dataclass(frozen=True)
class Study:
    """One script call under one total seed."""

    script: str
    flags: Namespace
    learning_method: str
    architecture: Architecture
    data: ImageDataset
    device: torch.device
    total_seed: int
    folder: Path  # encoders, or supervised models
    head_folder: Path
    default_folder: Path  # models/ or models/NAME/
    results_folder: Path  # pies/NAME, or pies/NAME/runs/RUN; test_sets/TESTSET in it

    @property
    def method_folder(self) -> Path:
        """pies/NAME/METHOD: arrays and figures of one learning method."""
        return self.results_folder / self.learning_method

    @property
    def supervised(self) -> bool:
        return self.learning_method == "supervised"

    @property
    def match_sparsity(self) -> float:
        """Trained networks have as many weights as remain at this sparsity; 0 for the full width."""
        return getattr(self.flags, "match_sparsity", 0.0)

    def folder_of(self, part: str) -> Path:
        """Returns the folder of the files of a part."""
        return self.head_folder if part == "head" else self.folder

    @property
    def folder_flag(self) -> str:
        """The flag for `folder`, for messages."""
        return "--save_path" if self.supervised else "--encoder_save_path"

    def folder_flags(self, folder: Path) -> dict[str, str]:
        """Returns the given flags of folders of models, quoted for a shell; none if they do not name
        `folder`."""
        if folder not in (self.folder, self.head_folder):
            return {}
        names = ("save_path", "encoder_save_path", "head_save_path")
        values = {name: getattr(self.flags, name, None) for name in names}
        return {name: shlex.quote(value) for name, value in values.items() if value}

    @property
    def architecture_name(self) -> str:
        """The network's name in tables, titles and file names of figures. That of a contrastive network is
        its encoder's, as in file names of checkpoints."""
        if not self.supervised:
            return full_encoder_name(self.flags.encoder_name, self.architecture)
        dropout = self.architecture.dropout
        return f"{self.architecture}-dropout{dropout}" if dropout else str(self.architecture)

    def model_seed(self, model_id: int) -> int:
        """Returns a model's seed: its id, or under total seed s > 0 a different seed for every (s, id)."""
        return model_id + 1_000_000 * self.total_seed

    def name(
        self, part: str, pruning_method: str, sparsity: float, epochs: int, batch_size: int, model_id: int
    ) -> CheckpointName:
        """Returns the name of a checkpoint; `*` for epochs, batch size or id makes it a glob."""
        shape = self.architecture
        fields = {"widen_factor": shape.widen_factor, "depth": shape.model_depth, "dropout": shape.dropout}
        if shape.architecture != "WideResNet":
            fields["architecture"] = shape.architecture
            fields["depth"] = int("".join(filter(str.isdigit, shape.architecture)) or 0)  # resnet18: 18
        if not self.supervised:
            fields = {"encoder_name": self.architecture_name, "batch_size": batch_size}
            fields["temperature"] = self.flags.temperature
        return CheckpointName(
            part, self.learning_method, pruning_method, sparsity, epochs, model_id, **fields
        )

    def configuration(self) -> dict:
        """Returns the settings of the network and its input, which every configuration contains."""
        return {
            "learning_method": self.learning_method,
            **self.architecture.configuration(self.supervised),
            **self.data.pixel_settings,
        }


def requested_architecture(flags: Namespace) -> Architecture:
    """Returns the requested architecture.

    Raises:
        UserError: too many weights; flags of WideResNets with another backbone.
    """
    architecture = Architecture(**from_flags(Architecture, flags))
    if flags.learning_method == "supervised":
        architecture = replace(architecture, projection_head="mlp")  # --projection_head has no effect
    if architecture.architecture != "WideResNet":
        for name in ("model_depth", "widen_factor", "dropout", "match_sparsity"):
            if name in flags.given:
                raise UserError(
                    f"--{name} belongs to WideResNets; leave it out with --architecture {architecture}"
                )
        return architecture
    weights = convolution_weights(flags.model_depth, channels(flags.model_depth, flags.widen_factor))
    if weights > MOST_WEIGHTS:
        raise UserError(
            f"--model_depth {flags.model_depth} --widen_factor {flags.widen_factor}: about {weights:.1e} "
            "weights; give a smaller network"
        )
    return architecture


def open_studies(script: str, flags: Namespace, writes_models: bool = False) -> Iterator[Study]:
    """Yields a study for each test set and total seed, 0 to --total_seed - 1. Starts logging and moves the
    data to the device.

    Raises:
        UserError: flags that do not fit the data.
        OSError: with `writes_models`, a folder of the models cannot be written.
    """
    name = dataset_name(flags.dataset, flags.data_dir)
    log_folder = study_folder("logs", name)
    process.start_logging(script, log_folder, flags.debug)
    logger.info(f"{script} on {name}")
    logger.debug(f"command: {process.command_line()}")
    if flags.ignored:
        logger.info(
            f"note: {', '.join(flags.ignored)}: no effect, as published; the seed of a model is its id"
        )
    process.set_determinism(flags.cuda_deterministic)
    if flags.threads:
        torch.set_num_threads(flags.threads)
    rank = process.local_rank()
    # Under torchrun each process, with its workers, takes a different device, or sees only one.
    if rank is not None and "cuda_device" not in flags.given:
        flags.cuda_device = rank % max(1, torch.cuda.device_count())
    device = process.select_device(flags.cuda_device)
    if flags.workers and not flags.debug:  # this process only waits and must not take device memory
        device = torch.device("cpu")
    if device.type == "cpu":
        process.keep_freed_memory()
    data = load_dataset(flags.dataset, flags.data_dir, flags.follow_links)
    value_of = vars(flags)  # which flags there are depends on the script
    changed = {flip: value_of[flip] for flip in FLIPS if value_of.get(flip) is not None}
    if run := value_of.get("run"):
        changed["title"] = f"{data.title}, run {run}"
    data = replace(data, **changed)
    if flags.normalization:
        data = data.normalized_by(*flags.normalization)
        logger.info(f"pixels normalised by {data.normalization_text}")
    classes = len(data.class_names)
    # With 10, the published default, the data decides.
    if value_of.get("num_classes", 10) not in (10, classes):
        raise UserError(f"--num_classes {flags.num_classes}: {name} has {classes} classes")
    architecture = requested_architecture(flags)
    save_path = value_of.get("save_path") or value_of.get("encoder_save_path")
    head_save_path = value_of.get("head_save_path")
    requested = value_of.get("test_set"), value_of.get("severity")
    for test_set, data in other_test_sets(data, *requested, flags.follow_links):
        for total_seed in range(flags.total_seed):
            seed_folder = f"seed_{total_seed}" if total_seed else ""
            default_folder = study_folder("models", name) / seed_folder
            folder = Path(save_path) / seed_folder if save_path else default_folder
            head_folder = Path(head_save_path) / seed_folder if head_save_path else folder
            run_folder = f"runs/{run}" if run else ""
            test_set_folder = f"test_sets/{test_set}" if test_set else ""
            results_folder = Path("pies", name, run_folder, seed_folder, test_set_folder)
            if writes_models and not flags.debug:
                check_writable(folder)
                check_writable(head_folder)
            yield Study(
                script,
                flags,
                flags.learning_method,
                architecture,
                data.to(device),
                device,
                total_seed,
                folder,
                head_folder,
                default_folder,
                results_folder,
            )
