"""Finds trained networks by data set, learning method, pruning method, sparsity and architecture.

The networks of a population lie in one folder, and their names differ only in the id. They have equal
settings. Populations are never mixed; pruned networks are compared with the dense networks they come from.
"""

import json
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Iterable

from common import settings
from common.cli import FLIPS, UserError, log_once, logger
from common.datasets import NOT_FLIPPED
from common.methods import FINETUNED, SCHEDULE_STEPS, PruningMethod, parse_method
from common.store.files import differences, same_finetuning
from common.store.names import CheckpointName, dense_checkpoints, kinds_in, name_of, unknown_checkpoints
from common.store.records import (
    check_record,
    file_sha256,
    log_external,
    origin_of,
    read_record,
    remedy_for,
    tensor_checksums,
)
from common.study import Study

SELECTION_KEYS = ("epochs", "batch_size", "head_epochs")  # flags select a population by these


@dataclass(frozen=True)
class Member:
    """One trained network: its files ([supervised] or [encoder, head]), their names, records and SHA-256."""

    paths: tuple[Path, ...]
    names: tuple[CheckpointName, ...]
    records: tuple[dict | None, ...]
    checksums: list[str]

    @property
    def id(self) -> int:
        return self.names[0].id

    @property
    def record(self) -> dict | None:
        return self.records[-1]

    @property
    def external(self) -> bool:
        return None in self.records

    @property
    def configuration(self) -> dict | None:
        """The settings, None for an external network."""
        return None if self.external else self.record["configuration"]

    @property
    def shared_names(self) -> list[str]:
        """Names without the id, which all networks of a population share."""
        return [str(replace(name, id=0)) for name in self.names]

    @property
    def population_key(self) -> str:
        """What all networks of a population share: names and settings."""
        return json.dumps([self.shared_names, self.configuration], sort_keys=True)


@dataclass(frozen=True)
class Population:
    """Networks that differ only in their seed."""

    learning_method: str
    pruning_method: str
    sparsity: float
    members: tuple[Member, ...]

    @property
    def method(self) -> PruningMethod:
        return parse_method(self.pruning_method)

    @property
    def role(self) -> str:
        """The word for its networks in logs and on axes."""
        return self.pruning_method if self.pruning_method in ("dense", FINETUNED) else "pruned"

    @property
    def flag_prefix(self) -> str:
        """The prefix of the flags that select such a population by its settings; '' if there are none."""
        if self.pruning_method == "dense":
            return "dense"
        return "finetune" if self.method.finetuned else ""

    @property
    def configuration(self) -> dict | None:
        """The settings that all of them share, None for external networks."""
        return self.members[0].configuration

    @property
    def external(self) -> bool:
        return self.members[0].external  # all are or none, see `population_key`

    @property
    def folder(self) -> Path:
        """The folder of its networks; the heads of contrastive networks may be in a different one."""
        return self.members[0].paths[0].parent

    @property
    def ids(self) -> list[int]:
        return [member.id for member in self.members]

    @property
    def checksums(self) -> list[str]:
        return ["+".join(member.checksums) for member in self.members]

    @property
    def settings(self) -> dict:
        """The configuration, or for external networks their file names; populations of the same method and
        sparsity differ in it."""
        return self.configuration or {"external": self.members[0].shared_names}

    @property
    def records(self) -> list[dict | None]:
        return [record for member in self.members for record in member.records]

    @property
    def non_default_settings(self) -> dict:
        """The settings that differ from the published ones, under the names of their flags."""
        if self.external:
            return {}
        training = [settings.ContrastiveTraining, settings.HeadTraining]
        if self.method.finetuned:
            training = [settings.Finetuning]
        elif self.learning_method == "supervised":
            training = [settings.SupervisedTraining]
        published = settings.defaults(settings.Architecture, *training)
        data_name = self.members[0].record["data"].get("name")
        published |= dict.fromkeys(FLIPS, data_name not in NOT_FLIPPED)
        if self.method.gradual:
            for name in self.members[0].names:
                suffix = "_head" if name.part == "head" else ""
                keys = (f"{key}{suffix}" for key in ("begin_step", "end_step", "frequency"))
                published |= zip(keys, SCHEDULE_STEPS[name.part][self.method.schedule])
        changed = differences(self.configuration, published)
        return {key: value for key, (value, default) in changed.items() if default is not None is not value}

    def facts(self) -> dict:
        """Returns epochs and batch size, as tables show them and flags select by them."""
        first, *heads = self.members[0].names
        columns = {"epochs": first.epochs}
        if batch_size := first.batch_size or (self.configuration or {}).get("batch_size"):
            columns["batch_size"] = batch_size
        if heads and not self.method.finetuned:
            columns["head_epochs"] = heads[0].epochs
        return columns

    def __str__(self) -> str:
        columns = ", ".join(f"{key} {value}" for key, value in self.facts().items())
        origin = f", {origin_of(self.records)}".removesuffix(", trained here")
        ids = show_ids(self.ids)
        return f"{self.learning_method} {self.pruning_method} {self.sparsity} ({columns}{origin}), ids {ids}"


def show_ids(ids: Iterable[int]) -> str:
    """Formats ids as ranges: [0, 1, 2, 5] -> '0-2, 5'."""
    groups = groupby(enumerate(sorted(ids)), lambda pair: pair[1] - pair[0])
    runs = [[model_id for _, model_id in group] for _, group in groups]
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def find_population(
    study: Study, pruning_method: str, sparsity: float, dense: Population | None = None
) -> Population | None:
    """Finds the population of this method and sparsity, ids 0 to --models_number - 1.

    If the folder that the flags name has no dense networks of any architecture, the default folder is
    searched. Pruned networks can thus have a separate folder.

    Args:
        dense: for pruned networks, the dense population that they must come from.
    Returns:
        None if no pruned network of this kind exists.
    Raises:
        UserError: several populations fit; ids are missing; data, code or dense networks differ.
    """
    kind, searched = Population(study.learning_method, pruning_method, sparsity, ()), study
    populations = populations_in(searched, kind)
    if not populations and pruning_method != "dense":
        return None
    if not populations and not dense_checkpoints(study.folder, study.learning_method):
        refuse_unknown_names(study)
        searched = replace(study, folder=study.default_folder)
        if not any(study.head_folder.glob(f"*_head_{study.learning_method}_0.0pruning_*")):
            searched = replace(searched, head_folder=study.default_folder)
        populations = populations_in(searched, kind)
        if populations:
            log_once(f"note: no dense networks in {study.folder}: those in {study.default_folder} are used")
    requested = {key: getattr(study.flags, f"{kind.flag_prefix}_{key}", None) for key in SELECTION_KEYS}
    selected = {key: value for key, value in requested.items() if value}
    fitting = [population for population in populations if selected.items() <= population.facts().items()]
    if not fitting:
        flags = "".join(f" --{kind.flag_prefix}_{key} {value}" for key, value in selected.items())
        existing = "; ".join(map(str, populations)) or kinds_in(searched.folder, kind.learning_method)
        others = "" if study.supervised else ", --temperature, --encoder_name, --projection_head"
        shape = f"--architecture, --model_depth, --widen_factor, --dropout{others}"
        training = f"give {shape} as in their training, or "
        raise UserError(
            f"no {kind.learning_method} models {pruning_method} {sparsity}{flags} of "
            f"{study.architecture_name} in {searched.folder}; found: {existing}; "
            f"{training * (existing != 'none')}{script_remedy(kind)}"
        )
    return choose_population(study, fitting, dense)


def find_control(study: Study, dense: Population, one_shot: list[Population]) -> Population | None:
    """Finds the control of some of these one-shot networks: the same dense networks, finetuned with the same
    settings without pruning. Logs the reason and returns None if there is none."""
    kind = Population(study.learning_method, FINETUNED, 0.0, ())
    reason = "pruning_finetune with --pruning_percentages 0.0 and the one-shot networks' settings makes one"
    try:
        controls = [
            control
            for control in populations_in(study, kind)
            if any(
                same_finetuning(control.settings, pruned.settings, control.facts(), pruned.facts())
                for pruned in one_shot
            )
        ]
        if controls:
            return choose_population(study, controls, dense)
    except UserError as error:
        reason = str(error)
    logger.info(f"no finetuned control: {reason}")
    return None


def populations_in(study: Study, kind: Population) -> list[Population]:
    """Returns the populations of this kind in the study's folders, with the requested ids."""
    members = sorted(find_members(study, kind), key=lambda member: (member.population_key, member.id))
    groups = groupby(members, lambda member: member.population_key)
    return [replace(kind, members=tuple(group)) for _, group in groups]


def choose_population(study: Study, candidates: list[Population], dense: Population | None) -> Population:
    """Checks, logs and returns the only candidate that was pruned from these dense networks."""
    if dense:
        candidates = from_dense(study, candidates, dense)
    population = only_population(candidates)
    check_population(study, population, dense)
    logger.info(f"{population.role} networks: {population} in {population.folder}")
    external = [
        path
        for member in population.members
        for path, record in zip(member.paths, member.records)
        if record is None
    ]
    log_external(external)
    if external and not study.data.normalization:
        log_once(
            f"note: pixels for external networks are normalised by {study.data.normalization_text}; if they "
            "were trained with different values, give --normalization MEAN STD"
        )
    return population


def refuse_unknown_names(study: Study) -> None:
    """Refuses to search the default folder if the folders that the flags name hold checkpoints with unknown
    names, which may be the dense networks."""
    folder_flags = {study.head_folder: "--head_save_path", study.folder: study.folder_flag}
    files = [path for folder in folder_flags for path in unknown_checkpoints(folder)]
    if not files or study.folder == study.default_folder:
        return
    training, parts = settings.ContrastiveTraining, {"encoder": "epochs", "head": "head_epochs"}
    if study.supervised:
        training, parts = settings.SupervisedTraining, {"supervised": "epochs"}
    published = settings.defaults(training, settings.HeadTraining)
    names = [
        str(study.name(part, "dense", 0.0, published[epochs], published["batch_size"], 0))
        for part, epochs in parts.items()
    ]
    raise UserError(
        f"{folder_flags[files[0].parent]} {files[0].parent} holds no dense checkpoint with a known name, but "
        f"{files[0].name}; the name expected for id 0 after {published['epochs']} epochs: "
        f"{' and '.join(names)}; rename it, or move it away"
    )


def find_members(study: Study, kind: Population) -> list[Member]:
    """Finds the networks of this kind with a requested id. An encoder forms a network with each of its heads.

    Raises:
        UserError: encoders without any head.
    """
    method = kind.pruning_method

    def files(part: str, tag: str) -> list[tuple[Path, CheckpointName]]:
        pattern = study.name(part, tag, kind.sparsity, "*", "*", "*")
        paths = sorted(study.folder_of(part).glob(str(pattern)))
        named = [(path, name_of(path, pattern)) for path in paths]
        return [
            (path, replace(name, pruning_method=method))
            for path, name in named
            if name and name.id < study.flags.models_number
        ]

    def shared_fields(name: CheckpointName) -> tuple:
        """The fields in which the names of an encoder and its head agree."""
        return name.id, name.batch_size, kind.method.finetuned and name.epochs

    members: dict[tuple[CheckpointName, ...], Member] = {}
    # The names of published dense networks may have the tag `_later`; names without it take precedence.
    for tag in (method, "later_GMP") if method == "dense" else (method,):
        if study.supervised:
            networks = [(file,) for file in files("supervised", tag)]
        else:
            encoders, heads = files("encoder", tag), files("head", tag)
            networks = [
                (encoder, head)
                for encoder in encoders
                for head in heads
                if shared_fields(encoder[1]) == shared_fields(head[1])
            ]
            if encoders and not networks:
                raise UserError(
                    f"{encoders[0][0]} has no classifier head in {study.head_folder} (--head_save_path); "
                    f"give the folder of the heads, or {script_remedy(kind)}"
                )
        for member in map(read_member, networks):
            if fits(study, member):
                members.setdefault(member.names, member)
    return list(members.values())


def read_member(files: Iterable[tuple[Path, CheckpointName]]) -> Member:
    """Reads the records and checksums of a network's files."""
    paths, names = zip(*files)
    records = tuple(map(read_record, paths, names))
    return Member(paths, names, records, list(map(file_sha256, paths)))


def fits(study: Study, member: Member) -> bool:
    """Whether the record has the study's architecture (contrastive names lack the dropout), and the head was
    trained on this encoder."""
    if member.record is None:
        return True
    shape = study.architecture.configuration(study.supervised)
    # Heads of encoders with different epochs may share a name; the record says which encoder a head is for.
    encoder = member.checksums[0]
    is_its_head = member.record.get("encoder_sha256", encoder) == encoder
    return is_its_head and (shape | member.record["configuration"]).items() >= shape.items()


def from_dense(study: Study, candidates: list[Population], dense: Population) -> list[Population]:
    """Returns the populations that were pruned from these dense networks.

    Networks that were trained from scratch must have the settings of the dense ones; if none have, all are
    returned. External networks are accepted, because their training is unknown.
    """
    first = candidates[0]
    trained_alone = first.method.trained_alone

    def dense_settings(population: Population) -> dict | None:
        """The configuration of the dense networks, or the same settings of a training from scratch."""
        if not trained_alone:
            return population.configuration.get("dense")
        return {key: population.configuration.get(key) for key in dense.configuration}

    if trained_alone and dense.external:
        return candidates
    related = [
        population
        for population in candidates
        if population.external or dense_settings(population) == dense.configuration
    ]
    if related:
        return related
    if not trained_alone and dense.external:
        raise UserError(f"{first} were pruned from networks with a JSON, {dense} have none; restore it")
    if not trained_alone:
        flags = " or ".join(f"--dense_{key}" for key in dense.facts())
        raise UserError(
            f"{first} were not pruned from the selected dense networks ({dense}); select others with "
            f"{flags}, or finetune into a separate folder ({study.folder_flag})"
        )
    # They can be compared anyway; `only_population` still rejects several candidates.
    changed = differences(dense_settings(first), dense.configuration).items()
    words = ", ".join(f"{key} {old}, not {new}" for key, (old, new) in changed)
    logger.info(f"note: {first} were trained with different settings than the dense networks: {words}")
    return candidates


def only_population(candidates: list[Population]) -> Population:
    """Returns the only candidate; the message about several says how they differ."""
    if len(candidates) == 1:
        return candidates[0]
    first, second, *_ = candidates
    settings_keys = ", ".join(differences(first.settings, second.settings))
    prefix = first.flag_prefix
    flags = [f"--{prefix}_{key}" for key in differences(first.facts(), second.facts()) if prefix]
    remedy = f"select one with {' or '.join(flags)}" if flags else "move one into a separate folder"
    words = f"they differ in {settings_keys}: {remedy}"
    if len({population.external for population in candidates}) > 1:
        words = "the external ones have no JSON: restore it if it was lost, or move them away"
    raise UserError(f"several populations fit: {'; '.join(map(str, candidates))}; {words}")


def script_of(population: Population) -> str:
    """Returns the script that trains such networks."""
    stage = "training" if population.method.trained_alone else "pruning_finetune"
    prefix = "sup" if population.learning_method == "supervised" else "clr"
    return f"{prefix}_{stage}.py"


def how_to_train(study: Study, population: Population, ids: Iterable[int]) -> str:
    """Returns the command that trains these ids of a population, or the script if no record has a command.
    The command skips finished networks."""
    script, flags = script_of(population), {"index_start": min(ids), "index_end": max(ids)}
    if script.endswith("finetune.py"):
        flags = {"models_number": max(ids) + 1}
    command = recorded_command(
        next(filter(None, population.records), None), study.folder_flags(population.folder) | flags
    )
    return f"train them: {command}" if script in command else script_remedy(population)


def script_remedy(population: Population) -> str:
    """Names the script that trains such networks, for messages when the flags are unknown."""
    return f"train them with {script_of(population)} (its defaults are the published ones, for CIFAR-10)"


def recorded_command(record: dict | None, flags: dict) -> str:
    """Returns the command that made a checkpoint, with these flags set and each flag once; '' if unknown. It
    includes the number of threads, on which the bytes depend."""
    run = (record or {}).get("run", {})
    script, *flag_texts = run.get("command", "").split(" --")
    values = {text.replace("=", " ").split(" ")[0]: text for text in flag_texts}
    if "threads" in run:
        values.setdefault("threads", f"threads {run['threads']}")
    values |= {flag: f"{flag} {value}".rstrip() for flag, value in flags.items()}
    return " --".join([f"python {script}", *values.values()]) if script else ""


def check_population(study: Study, population: Population, dense: Population | None) -> None:
    """Rejects a population if ids are missing (unless --allow_missing), two networks are the same, data, code
    or normalisation differ, or a dense network has changed since it was pruned."""
    flags, members = study.flags, population.members
    missing = sorted({*range(flags.models_number)}.difference(population.ids))
    if missing and not getattr(flags, "allow_missing", False):
        allow = " or --allow_missing" if hasattr(flags, "allow_missing") else ""
        raise UserError(
            f"{population} in {population.folder}: ids {show_ids(missing)} are missing; "
            f"{how_to_train(study, population, missing)}, or give a smaller --models_number{allow}"
        )
    path_of: dict[str | tuple, Path] = {}
    for member in members:
        first, last = member.paths[0], member.paths[-1]
        seed = str((member.record or {}).get("seed", last))
        for shared, path, key in (("weights", first, tensor_checksums(first)), ("seed", last, seed)):
            if (other := path_of.setdefault(key, path)) is not path:
                raise UserError(
                    f"{path} has the same {shared} as {other}: they are one network; {remedy_for(path)}"
                )
    parents = {member.id: member.checksums for member in (dense.members if dense else ())}
    remedy = "retrain all of them into a separate folder"
    for member in members:
        for path, record in zip(member.paths, member.records):
            if record is None:
                continue
            normalization = {"normalization": study.data.pixel_settings.get("normalization")}
            expected = {"data": study.data.facts(), "configuration": record["configuration"] | normalization}
            if "dense_sha256" in record and member.id in parents:
                expected["dense_sha256"] = parents[member.id]
            check_record(path, record, expected, remedy, flags.other_code)
    if any(record and record["data"]["checksum"] != study.data.checksum for record in population.records):
        logger.info(
            f"note: {population}: the test images have changed since the training; test accuracies in logs "
            "and records are those of the earlier images"
        )
