"""What the flags of one script call mean: data, device, architecture and folders, and finding earlier models by what they are."""

import argparse
import json
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Iterator

import torch

from common import cli
from common.checkpoints import (Architecture, CheckpointName, file_sha256, full_encoder_name, parse_name, read_record,
                                study_folder)
from common.cli import UserError, logger
from common.data import ImageDataset, dataset_name, load_dataset


@dataclass(frozen=True)
class Study:
    """One script call under one total seed. `flags` holds the parsed flags."""

    flags: argparse.Namespace
    learning_method: str
    architecture: Architecture
    encoder_name: str  # full, with what differs from 16, 2, mlp; wideResNet for supervised networks
    data: ImageDataset
    device: torch.device
    total_seed: int
    folder: Path  # encoders, or supervised models
    head_folder: Path
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
    def architecture_name(self) -> str:
        """The network in tables, titles and names of figures."""
        if not self.supervised:
            return self.encoder_name
        return f"{self.architecture}-dropout{self.architecture.dropout}" if self.architecture.dropout else str(self.architecture)

    def model_seed(self, model_id: int) -> int:
        """The seed of a model: its id, and under total seed s > 0 another one for every (s, id)."""
        return model_id + 1_000_000 * self.total_seed

    def name(self, part: str, pruning_method: str, sparsity: float, epochs: int, batch_size: int, model_id: int) -> CheckpointName:
        """The name of a checkpoint of this study."""
        if self.supervised:
            return CheckpointName(part, self.learning_method, pruning_method, sparsity, epochs, model_id,
                                  widen_factor=self.architecture.widen_factor, depth=self.architecture.depth,
                                  dropout=self.architecture.dropout)
        return CheckpointName(part, self.learning_method, pruning_method, sparsity, epochs, model_id, encoder_name=self.encoder_name,
                              batch_size=batch_size, temperature=self.flags.temperature)

    def architecture_configuration(self) -> dict:
        """What every configuration says of the network."""
        configuration = {"model_depth": self.architecture.depth, "widen_factor": self.architecture.widen_factor,
                         "dropout": self.architecture.dropout}
        return configuration if self.supervised else {**configuration, "projection_head": self.architecture.projection_head}

    def same_flags(self) -> str:
        """The flags of another script that would look at the same data and architecture, for messages."""
        flags = self.flags
        words = []
        if flags.dataset != "cifar10":
            words += ["--dataset", flags.dataset]
        if flags.data_dir != "data":
            words += ["--data_dir", flags.data_dir]
        for flag, default in (("model_depth", 16), ("widen_factor", 2), ("dropout", 0.0), ("projection_head", "mlp"),
                              ("temperature", 0.5), ("encoder_name", "WideResNet"), ("encoder_save_path", None),
                              ("head_save_path", None), ("save_path", None)):
            value = getattr(flags, flag, default)
            if value != default:
                words += [f"--{flag}", str(value)]
        return shlex.join(words)


def open_studies(script: str, flags: argparse.Namespace) -> Iterator[Study]:
    """The study of each total seed, 0 to --total_seed - 1, with logging started and the data on the device."""
    name = dataset_name(flags.dataset, flags.data_dir)
    cli.start_logging(script, study_folder("logs", name), flags.debug)
    logger.info("%s on %s", script, name)
    cli.set_determinism(flags.cuda_deterministic)
    device = cli.select_device(flags.cuda_device)
    data = load_dataset(flags.dataset, flags.data_dir).to(device)
    if getattr(flags, "num_classes", 10) not in (10, len(data.class_names)):  # 10, the published default, leaves it to the data
        raise UserError(f"--num_classes {flags.num_classes}: {name} has {len(data.class_names)} classes")
    architecture = Architecture(flags.model_depth, flags.widen_factor, flags.dropout, getattr(flags, "projection_head", "mlp"))
    supervised = flags.learning_method == "supervised"
    for total_seed in range(flags.total_seed):
        own = flags.save_path if supervised else flags.encoder_save_path
        folder = study_folder("models", name) if own is None else Path(own)
        head = folder if supervised or flags.head_save_path is None else Path(flags.head_save_path)
        seeded = (lambda path: path / f"seed_{total_seed}") if total_seed else (lambda path: path)
        yield Study(flags, flags.learning_method, architecture,
                    "wideResNet" if supervised else full_encoder_name(flags.encoder_name, architecture),
                    data, device, total_seed, seeded(folder), seeded(head), study_folder("logs", name, total_seed),
                    seeded(Path("pies") / name))


@dataclass(frozen=True)
class Member:
    """One trained network: its files ([supervised] or [encoder, head]), the name of the last, and their records."""

    paths: tuple[Path, ...]
    names: tuple[CheckpointName, ...]
    records: tuple[dict | None, ...]
    checksums: tuple[str, ...]

    @property
    def id(self) -> int:
        return self.names[0].id

    @property
    def record(self) -> dict | None:
        return self.records[-1]

    @property
    def made_elsewhere(self) -> bool:
        return None in self.records


@dataclass(frozen=True)
class Population:
    """Networks that differ in their seed alone."""

    learning_method: str
    pruning_method: str
    sparsity: float
    members: tuple[Member, ...]

    @property
    def configuration(self) -> dict | None:
        """What all of them share, None for models made elsewhere."""
        return None if self.made_elsewhere else self.members[0].record["configuration"]

    @property
    def made_elsewhere(self) -> bool:
        return any(member.made_elsewhere for member in self.members)

    @property
    def checksums(self) -> list[str]:
        return ["+".join(member.checksums) for member in self.members]

    def facts(self) -> dict:
        """What a table says of where its numbers come from."""
        first = self.members[0]
        batch = first.names[0].batch_size or (first.record or {}).get("configuration", {}).get("batch_size")
        facts = {"epochs": first.names[0].epochs, **({"batch_size": batch} if batch else {})}
        if len(first.names) == 2 and self.pruning_method == "dense":
            facts["head_epochs"] = first.names[1].epochs
        return facts

    def __str__(self) -> str:
        facts = ", ".join(f"{key} {value}" for key, value in self.facts().items())
        origin = ", made elsewhere" if self.made_elsewhere else ""
        return f"{self.learning_method} {self.pruning_method} {self.sparsity} ({facts}{origin}), ids {show_ids([m.id for m in self.members])}"


def show_ids(ids: list[int]) -> str:
    """[0, 1, 2, 5] -> '0-2, 5'."""
    runs: list[list[int]] = []
    for model_id in sorted(ids):
        if runs and model_id == runs[-1][-1] + 1:
            runs[-1].append(model_id)
        else:
            runs.append([model_id])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def find_population(study: Study, pruning_method: str, sparsity: float, dense: Population | None = None) -> Population | None:
    """The one population of this kind, ids 0 to --models_number - 1.

    Args:
        dense: for pruned networks, the dense population whose descendants are wanted.
    Returns:
        None where no pruned model of this kind exists at all.
    Raises:
        UserError: several populations fit; ids are missing; models of other data or other dense models.
    """
    flags = study.flags
    candidates = [member for member in _members(study, pruning_method, sparsity) if member.id < flags.models_number]
    populations = _group(study, pruning_method, sparsity, candidates)
    wanted = _choices(flags, pruning_method)
    fitting = [population for population in populations
               if all(value in (None, population.facts().get(fact)) for fact, (_, value) in wanted.items())]
    if dense is not None:
        related = [population for population in fitting
                   if population.made_elsewhere or population.configuration["dense"] == dense.configuration]
        if fitting and not related:
            raise UserError(f"{fitting[0]}: pruned from other dense networks than the chosen ones ({dense}); choose with "
                            f"{_flag_names(flags, 'dense')}, or finetune these into a folder of their own")
        fitting = related
    if len(fitting) > 1:
        differing = {flag for fact, (flag, _) in wanted.items() if len({population.facts().get(fact) for population in fitting} - {None}) > 1}
        remedy = ("choose with " + " or ".join(sorted(differing))) if differing else (
            f"they differ in {_first_difference(fitting)}: move one into a folder of its own and name it")
        raise UserError(f"several populations fit: {'; '.join(map(str, fitting))}; {remedy}")
    if not fitting:
        if pruning_method != "dense" and not populations:
            return None
        others = [str(population) for population in populations] or _elsewhere(study, pruning_method, sparsity)
        there = f"; there are: {'; '.join(others)}" if others else ""
        asked = "".join(f" {flag} {value}" for flag, value in wanted.values() if value is not None)
        raise UserError(f"no {study.learning_method} models {pruning_method} {sparsity}{asked} in {study.folder}{there}; "
                        f"train them: {_training_command(study, pruning_method, sparsity, None)}")
    population = fitting[0]
    missing = sorted(set(range(flags.models_number)) - {member.id for member in population.members})
    if missing and not getattr(flags, "allow_missing", False):
        go_on = ", or give --allow_missing" if hasattr(flags, "allow_missing") else ", or a smaller --models_number"
        raise UserError(f"{population}: ids {show_ids(missing)} are missing; train them: "
                        f"{_training_command(study, pruning_method, sparsity, missing, population, dense)}{go_on}")
    _check(study, population, dense)
    logger.info("%s %s", "dense networks:" if pruning_method == "dense" else "pruned networks:", population)
    return population


def _members(study: Study, pruning_method: str, sparsity: float) -> list[Member]:
    """All networks of this kind in the study's folders; an encoder with every head that was trained on it."""
    def find(folder: Path, part: str) -> list[tuple[Path, CheckpointName]]:
        found = []
        for path in sorted(folder.glob("*.pt")) if folder.is_dir() else []:
            name = parse_name(path.name)
            if name and (name.part, name.learning_method, name.pruning_method, name.sparsity) == (
                    part, study.learning_method, pruning_method, sparsity):
                like = study.name(part, pruning_method, sparsity, name.epochs, name.batch_size, name.id)
                if name == like:
                    found.append((path, name))
        return found

    def fits(member: Member) -> bool:
        """Whether the record's architecture (dropout is not in a contrastive name) is the asked one, and a head's encoder this one."""
        if member.record is None:
            return True
        architecture = study.architecture_configuration()
        same = all(member.record["configuration"].get(key, value) == value for key, value in architecture.items())
        # Two encoders of other epochs may share the name of their heads: the head's record says whose it is.
        return same and (study.supervised or member.record.get("encoder_sha256") in (None, member.checksums[0]))

    def member(*files: tuple[Path, CheckpointName]) -> Member:
        paths = tuple(path for path, _ in files)
        return Member(paths, tuple(name for _, name in files), tuple(map(read_record, paths)), tuple(map(file_sha256, paths)))

    if study.supervised:
        members = [member(file) for file in find(study.folder, "supervised")]
    else:
        heads = find(study.head_folder, "head")
        members = [member(encoder, head) for encoder in find(study.folder, "encoder") for head in heads
                   if (encoder[1].id, encoder[1].batch_size) == (head[1].id, head[1].batch_size)
                   and (pruning_method != "global" or encoder[1].epochs == head[1].epochs)]
    return [candidate for candidate in members if fits(candidate)]


def _group(study: Study, pruning_method: str, sparsity: float, members: list[Member]) -> list[Population]:
    groups: dict[str, list[Member]] = {}
    for member in members:
        key = json.dumps([[str(replace(name, id=0)) for name in member.names],
                          None if member.made_elsewhere else member.record["configuration"]], sort_keys=True)
        groups.setdefault(key, []).append(member)
    return [Population(study.learning_method, pruning_method, sparsity, tuple(sorted(group, key=lambda member: member.id)))
            for group in groups.values()]


def _choices(flags: argparse.Namespace, pruning_method: str) -> dict[str, tuple[str, int | None]]:
    """fact -> (the flag that chooses it, its value), for a kind of population."""
    stage = "dense" if pruning_method == "dense" else "finetune"
    facts = ("epochs", "batch_size", "head_epochs")
    return {fact: (f"--{stage}_{fact}", getattr(flags, f"{stage}_{fact}")) for fact in facts if hasattr(flags, f"{stage}_{fact}")}


def _flag_names(flags: argparse.Namespace, stage: str) -> str:
    return " or ".join(flag for flag, _ in _choices(flags, stage).values())


def _first_difference(populations: list[Population]) -> str:
    one, other = (population.configuration or {} for population in populations[:2])
    keys = [key for key in sorted({*one, *other}) if one.get(key) != other.get(key)]
    return ", ".join(keys) if one and other else "origin"


def _elsewhere(study: Study, pruning_method: str, sparsity: float) -> list[str]:
    """Checkpoints of this learning method and sparsity whose architecture or temperature is another one."""
    names = {replace(name, id=0) for path in (study.folder.glob("*.pt") if study.folder.is_dir() else [])
             if (name := parse_name(path.name)) and name.part != "head" and (name.learning_method, name.pruning_method, name.sparsity)
             == (study.learning_method, pruning_method, sparsity)}
    return sorted(str(name).replace("id0", "id*") for name in names)


def _training_command(study: Study, pruning_method: str, sparsity: float, missing: list[int] | None,
                      population: Population | None = None, dense: Population | None = None) -> str:
    """The command that trains missing models; finished ones in between are skipped by it."""
    prefix = "sup" if study.supervised else "clr"
    method = "" if study.learning_method in ("supervised", "SupCon") else (
        f" --{'clr_' if pruning_method == 'global' else ''}method {study.learning_method}")
    ids = missing or range(study.flags.models_number)
    if pruning_method == "global":
        script = f"python {prefix}_pruning_finetune.py --pruning_percentages {sparsity} --models_number {max(ids) + 1}"
        facts = population.facts() if population else {}
        facts |= {f"dense_{fact}": value for fact, value in (dense.facts() if dense else {}).items()}
    else:
        script = f"python {prefix}_training.py --index_start {min(ids)} --index_end {max(ids)}"
        facts = population.facts() if population else {}
        if pruning_method != "dense":
            script += f" {'--pruning' if study.supervised else '--pruning_percentages'} {sparsity}"
    flags = "".join(f" --{fact} {value}" for fact, value in facts.items())
    seeds = f" --total_seed {study.total_seed + 1}" if study.total_seed else ""
    return " ".join(f"{script}{method}{flags}{seeds} {study.same_flags()}".split())


def _check(study: Study, population: Population, dense: Population | None) -> None:
    """Refuses models of other data, and pruned models whose dense model has changed since."""
    dense_checksums = {member.id: list(member.checksums) for member in dense.members} if dense else {}
    for member in population.members:
        record = member.record
        if member.made_elsewhere:
            continue
        if record["data"]["checksum"] != study.data.checksum:
            raise UserError(f"{member.paths[-1]} was trained on another version of {study.data.name} than the one in "
                            f"--data_dir {study.flags.data_dir}; train it again into a folder of its own")
        if member.id in dense_checksums and record.get("dense_sha256") not in (None, dense_checksums[member.id]):
            raise UserError(f"{member.paths[-1]} was pruned from another dense model {member.id} than the one that is there "
                            "now; delete it to have it finetuned again")
