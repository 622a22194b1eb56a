"""Finding earlier networks by what they are: data set, learning method, pruning, sparsity, architecture.

A population is networks of one folder whose names differ in the id alone, and that agree in their settings.
Populations are never mixed; pruned ones come from the dense ones that they are compared with.
"""

import json
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Iterable

from common import settings
from common.cli import UserError, logger, say_once
from common.methods import FINETUNED, SCHEDULE_STEPS, parse_method
from common.store.files import differences
from common.store.names import CheckpointName, dense_checkpoints, kinds_in, name_of, unknown_checkpoints
from common.store.records import (
    check_record,
    file_sha256,
    find_duplicate_weights,
    origin_of,
    read_record,
    remedy_for,
    say_external,
)
from common.study import Study

OF_PRUNING = ("pruning_method", "criterion", "scope", "sparsity")  # keys of a one-shot configuration
FACTS = ("epochs", "batch_size", "head_epochs")  # that flags choose a population by


@dataclass(frozen=True)
class Member:
    """One trained network: its files ([supervised] or [encoder, head]), their names, records and SHA-256."""

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
    def external(self) -> bool:
        return None in self.records

    @property
    def kind(self) -> str:
        """What the networks of its population share: names but for the id, and settings."""
        names = [str(replace(name, id=0)) for name in self.names]
        return json.dumps([names, None if self.external else self.record["configuration"]], sort_keys=True)


@dataclass(frozen=True)
class Population:
    """Networks that differ in their seed alone."""

    learning_method: str
    pruning_method: str
    sparsity: float
    members: tuple[Member, ...]

    @property
    def configuration(self) -> dict | None:
        """What all of them share, None for external networks."""
        return None if self.external else self.members[0].record["configuration"]

    @property
    def external(self) -> bool:
        return any(member.external for member in self.members)

    @property
    def folder(self) -> Path:
        """Where its networks lie; the heads of contrastive ones may lie elsewhere."""
        return self.members[0].paths[0].parent

    @property
    def checksums(self) -> list[str]:
        return ["+".join(member.checksums) for member in self.members]

    @property
    def settings(self) -> dict:
        """What tells these networks from others of the same method and sparsity: their configuration, of
        external ones the names of their files."""
        names = [str(replace(name, id=0)) for name in self.members[0].names]
        return self.configuration or {"external": names}

    @property
    def records(self) -> list[dict | None]:
        return [record for member in self.members for record in member.records]

    @property
    def non_default_settings(self) -> dict:
        """The settings in which they differ from the published ones, as flags name them."""
        if self.external:
            return {}
        method = parse_method(self.pruning_method)
        supervised = self.learning_method == "supervised"
        training = [settings.ContrastiveTraining, settings.HeadTraining]
        if method.finetuned:
            training = [settings.Finetuning]
        elif supervised:
            training = [settings.SupervisedTraining]
        published = settings.defaults(settings.Architecture, *training)
        if method.gradual:
            kinds = {"": "supervised"} if supervised else {"": "contrastive", "_head": "head"}
            for suffix, kind in kinds.items():
                steps = SCHEDULE_STEPS[kind][method.schedule]
                keys = (f"{name}{suffix}" for name in ("begin_step", "end_step", "frequency"))
                published = published | dict(zip(keys, steps))
        changed = differences(self.configuration, published)
        return {key: own for key, (own, default) in changed.items() if default is not None is not own}

    def facts(self) -> dict:
        """What a table says of where its numbers come from."""
        first, *head = self.members[0].names
        facts = {"epochs": first.epochs}
        batch = first.batch_size or (self.members[0].record or {}).get("configuration", {}).get("batch_size")
        if batch:
            facts["batch_size"] = batch
        if head and not parse_method(self.pruning_method).finetuned:
            facts["head_epochs"] = head[0].epochs
        return facts

    def __str__(self) -> str:
        facts = ", ".join(f"{key} {value}" for key, value in self.facts().items())
        origin = origin_of(self.records)
        origin = "" if origin == "trained here" else f", {origin}"
        ids = show_ids([member.id for member in self.members])
        return f"{self.learning_method} {self.pruning_method} {self.sparsity} ({facts}{origin}), ids {ids}"


def show_ids(ids: Iterable[int]) -> str:
    """[0, 1, 2, 5] -> '0-2, 5'."""
    groups = groupby(enumerate(sorted(ids)), lambda pair: pair[1] - pair[0])
    runs = [[model_id for _, model_id in group] for _, group in groups]
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def find_population(
    study: Study, pruning_method: str, sparsity: float, dense: Population | None = None
) -> Population | None:
    """The one population of this kind, ids 0 to --models_number - 1.

    Dense networks are looked for in the default folder too where the folder that flags name holds none of any
    architecture, so that pruned networks can have a folder of their own.

    Args:
        dense: for pruned networks, the dense population whose descendants are wanted.
    Returns:
        None where no pruned network of this kind exists at all.
    Raises:
        UserError: several populations fit; ids are missing; networks of other data, code or dense networks.
    """
    kind, folder = Population(study.learning_method, pruning_method, sparsity, ()), study.folder
    populations = populations_in(study, kind, (folder, study.head_folder))
    if not populations and pruning_method != "dense":
        return None
    if not populations and not dense_checkpoints(folder, study.learning_method):
        refuse_unknown_names(study)
        folder = study.default_folder
        populations = populations_in(study, kind, (folder, folder))
    stage, wanted = choice(study, pruning_method)
    fitting = [population for population in populations if wanted.items() <= population.facts().items()]
    if not fitting:
        flags = "".join(f" --{stage}_{fact} {value}" for fact, value in wanted.items())
        there = "; ".join(map(str, populations)) or kinds_in(folder)
        raise UserError(
            f"no {kind.learning_method} models {pruning_method} {sparsity}{flags} of "
            f"{study.architecture_name} in {study.folder}; there are: {there}; {with_script(kind)}"
        )
    population = only_population(stage, fitting if dense is None else from_dense(study, fitting, dense))
    return checked(study, population, dense)


def find_control(study: Study, dense: Population, one_shot: list[Population]) -> Population | None:
    """The finetuned control of these one-shot networks: the same dense networks, finetuned with the same
    settings, nothing pruned. None where there is none that can be compared, which is logged."""
    kind = Population(study.learning_method, FINETUNED, 0.0, ())
    try:
        populations = populations_in(study, kind, (study.folder, study.head_folder))
        alike = [each for each in populations if all(finetuned_alike(each, other) for other in one_shot)]
        reason = "--pruning_percentages 0.0 makes one with the settings of the one-shot networks"
        if alike:
            alike = from_dense(study, alike, dense)
            return checked(study, only_population("finetune", alike), dense)
    except UserError as error:
        reason = str(error)
    logger.info(f"no finetuned control: {reason}")
    return None


def finetuned_alike(population: Population, other: Population) -> bool:
    """Whether both were finetuned with the same settings; of external networks only the names tell."""
    if population.external or other.external:
        facts, others = population.facts(), other.facts()
        return all(facts[fact] == others[fact] for fact in facts.keys() & others)
    return differences(population.configuration, other.configuration).keys() <= {*OF_PRUNING}


def populations_in(study: Study, kind: Population, folders: tuple[Path, Path]) -> list[Population]:
    """All networks of this kind with a wanted id, those together that differ in their seed alone."""
    members = sorted(find_members(study, kind, folders), key=lambda member: (member.kind, member.id))
    groups = groupby(members, lambda member: member.kind)
    return [replace(kind, members=tuple(group)) for _, group in groups]


def checked(study: Study, population: Population, dense: Population | None) -> Population:
    """The population, once nothing is wrong with it; it is logged."""
    check_population(study, population, dense)
    pruning_method = population.pruning_method
    what = pruning_method if pruning_method in ("dense", FINETUNED) else "pruned"
    logger.info(f"{what} networks: {population} in {population.folder}")
    paths = [path for member in population.members for path in member.paths]
    external = [path for path, record in zip(paths, population.records) if record is None]
    say_external(external)
    if external and not study.data.normalization:
        say_once(
            f"note: external networks see pixels normalised by {study.data.normalization_text}; if they were "
            "trained with others, give --normalization MEAN STD"
        )
    return population


def refuse_unknown_names(study: Study) -> None:
    """Refuses to look elsewhere than in the folders that flags name where these hold files that may be the
    dense networks, under names that are not theirs."""
    places = {study.head_folder: "--head_save_path", study.folder: study.folder_flag}
    files = [path for folder in places for path in unknown_checkpoints(folder)]
    if not files or study.folder == study.default_folder:
        return
    training = [settings.SupervisedTraining] if study.supervised else [settings.ContrastiveTraining]
    published = settings.defaults(*training, settings.HeadTraining)
    parts = {"supervised": "epochs"} if study.supervised else {"encoder": "epochs", "head": "head_epochs"}
    names = [
        str(study.name(part, "dense", 0.0, published[epochs], published["batch_size"], 0))
        for part, epochs in parts.items()
    ]
    raise UserError(
        f"{places[files[0].parent]} {files[0].parent}: no dense checkpoint of a known name there, but "
        f"{files[0].name}; the name expected for id 0 after {published['epochs']} epochs: "
        f"{' and '.join(names)}; rename it, or move it away"
    )


def find_members(study: Study, kind: Population, folders: tuple[Path, Path]) -> list[Member]:
    """The networks of this kind with a wanted id; an encoder with every head that was trained on it.

    Raises:
        UserError: encoders without any head.
    """
    method, finetuned = kind.pruning_method, parse_method(kind.pruning_method).finetuned

    def files(folder: Path, part: str, tag: str) -> list[tuple[Path, CheckpointName]]:
        pattern = study.name(part, tag, kind.sparsity, "*", "*", "*")
        named = [(path, name_of(path, pattern)) for path in sorted(folder.glob(str(pattern)))]
        wanted = [(path, name) for path, name in named if name and name.id < study.flags.models_number]
        return [(path, replace(name, pruning_method=method)) for path, name in wanted]

    def network(file: tuple[Path, CheckpointName]) -> tuple:
        """What the names of an encoder and its head agree in."""
        return file[1].id, file[1].batch_size, finetuned and file[1].epochs

    members: dict[tuple[CheckpointName, ...], Member] = {}
    # Published dense networks may have the tag `_later`: plain names come first.
    for tag in (method, "later_GMP") if method == "dense" else (method,):
        if study.supervised:
            pairs = [(file,) for file in files(folders[0], "supervised", tag)]
        else:
            encoders, heads = files(folders[0], "encoder", tag), files(folders[1], "head", tag)
            pairs = [(each, head) for each in encoders for head in heads if network(each) == network(head)]
            if encoders and not pairs:
                raise UserError(
                    f"{encoders[0][0]} is without classifier heads in {folders[1]} (--head_save_path); name "
                    "their folder, or train them with clr_training.py"
                )
        for member in map(read_member, pairs):
            if fits(study, member):
                members.setdefault(member.names, member)
    return list(members.values())


def read_member(files: Iterable[tuple[Path, CheckpointName]]) -> Member:
    """A network, of its files and their names."""
    paths, names = zip(*files)
    return Member(paths, names, tuple(map(read_record, paths)), tuple(map(file_sha256, paths)))


def fits(study: Study, member: Member) -> bool:
    """Whether the record's architecture (contrastive names lack the dropout) and a head's encoder are
    these."""
    if member.record is None:
        return True
    shape = study.architecture.configuration(study.supervised)
    # Two encoders of other epochs may share the name of their heads: the head's record says whose it is.
    encoder = member.record.get("encoder_sha256", member.checksums[0])
    is_head_of_it = study.supervised or encoder == member.checksums[0]
    return is_head_of_it and {**shape, **member.record["configuration"]}.items() >= shape.items()


def choice(study: Study, pruning_method: str) -> tuple[str, dict[str, int]]:
    """How the flags begin that choose a population of this method, and the facts that they choose it by; none
    choose one that was trained as the dense one was."""
    method = parse_method(pruning_method)
    stage = "dense" if method.schedule == "dense" else "finetune" if method.finetuned else ""
    values = {fact: getattr(study.flags, f"{stage}_{fact}", None) for fact in FACTS}
    return stage, {fact: value for fact, value in values.items() if value}


def from_dense(study: Study, fitting: list[Population], dense: Population) -> list[Population]:
    """Those that were pruned from these dense networks; trained alone: trained with their settings, else all.

    Of external networks nothing is known that could speak against it.
    """
    alone = parse_method(fitting[0].pruning_method).trained_alone

    def origin(population: Population) -> dict | None:
        """The dense configuration that a population comes from, or was trained with."""
        if not alone:
            return population.configuration.get("dense")
        return {key: population.configuration.get(key) for key in dense.configuration}

    unknown = alone and dense.external
    related = [each for each in fitting if unknown or each.external or origin(each) == dense.configuration]
    if related:
        return related
    if not alone:
        flags = " or ".join(f"--dense_{fact}" for fact in dense.facts())
        raise UserError(
            f"{fitting[0]}: pruned from other dense networks than the chosen ones ({dense}); choose with "
            f"{flags}, or finetune into a folder of its own ({study.folder_flag})"
        )
    # Trained on their own: they may be compared with others, but not chosen among by chance.
    changed = differences(origin(fitting[0]), dense.configuration).items()
    words = ", ".join(f"{key} {old}, not {new}" for key, (old, new) in changed)
    logger.info(f"note: {fitting[0]} were trained with other settings than the dense networks: {words}")
    return fitting


def only_population(stage: str, fitting: list[Population]) -> Population:
    """The population that fits; several are refused with what tells them apart."""
    if len(fitting) == 1:
        return fitting[0]
    first, second, *_ = fitting
    keys, facts = differences(first.settings, second.settings), differences(first.facts(), second.facts())
    flags = [f"--{stage}_{fact}" for fact in facts if stage]
    remedy = f"choose with {' or '.join(flags)}" if flags else "move one into a folder of its own and name it"
    words = f"they differ in {', '.join(keys)}: {remedy}"
    if len({population.external for population in fitting}) > 1:
        words = "those that are external have no JSON: put it back where it is lost, or move them away"
    raise UserError(f"several populations fit: {'; '.join(map(str, fitting))}; {words}")


def script_of(population: Population) -> str:
    """The script that makes such networks."""
    method = parse_method(population.pruning_method)
    finetunes = method.schedule == "iterative" or method.finetuned
    side = "sup" if population.learning_method == "supervised" else "clr"
    return f"{side}_{'pruning_finetune' if finetunes else 'training'}.py"


def how_to_train(population: Population, ids: Iterable[int]) -> str:
    """How these ids of a population are trained: by the command that made one of its networks, or where no
    record says it, by which script. Finished networks in between are skipped."""
    script, first, last = script_of(population), min(ids), max(ids)
    flags = {"index_start": str(first), "index_end": str(last)}
    if script.endswith("finetune.py"):
        flags = {"models_number": str(last + 1)}
    command = recorded_command(next(filter(None, population.records), None), flags)
    return f"train them: {command}" if script in command else with_script(population)


def with_script(population: Population) -> str:
    """Which script trains them; nothing is known of the flags."""
    return f"train them with {script_of(population)} (its defaults are the published ones, for CIFAR-10)"


def recorded_command(record: dict | None, flags: dict[str, str]) -> str:
    """The command that made a checkpoint, with other values of these flags and each flag once; '' where it is
    not known. The number of threads is named, because bytes depend on it."""
    run = (record or {}).get("run", {})
    script, *given = run.get("command", "").split(" --")
    values = {words.replace("=", " ").split(" ")[0]: words for words in given}
    if "threads" in run:
        values.setdefault("threads", f"threads {run['threads']}")
    values |= {flag: f"{flag} {value}".rstrip() for flag, value in flags.items()}
    return " --".join([f"python {script}", *values.values()]) if script else ""


def check_population(study: Study, population: Population, dense: Population | None) -> None:
    """Refuses a population in which a wanted id is missing, unless that is allowed; networks of other data,
    code or normalisation, pruned ones whose dense network has changed since, and one network twice."""
    flags, members = study.flags, population.members
    missing = sorted(set(range(flags.models_number)) - {member.id for member in members})
    if missing and not getattr(flags, "allow_missing", False):
        allow = " or --allow_missing" if hasattr(flags, "allow_missing") else ""
        raise UserError(
            f"{population} in {population.folder}: ids {show_ids(missing)} are missing; "
            f"{how_to_train(population, missing)}, or give a smaller --models_number{allow}"
        )
    twice, what, seeds = find_duplicate_weights(member.paths[0] for member in members), "weights", {}
    for member in members:
        seed, path = (member.record or {}).get("seed"), member.paths[-1]
        other = path if seed is None else seeds.setdefault(str(seed), path)
        if other is not path and not twice:
            twice, what = (path, other), "seed"
    if twice:
        path, other = twice
        raise UserError(f"{path} has the same {what} as {other}: they are one network; {remedy_for([path])}")
    parents = {member.id: list(member.checksums) for member in (dense.members if dense else ())}
    remedy = "give the flags that they were trained with, or train all of them again into a folder of its own"
    modules = set()
    for member in members:
        for path, record in zip(member.paths, member.records):
            if record is None:
                continue
            normalization = {"normalization": study.data.pixel_settings.get("normalization")}
            wanted = {"data": study.data.facts(), "configuration": record["configuration"] | normalization}
            if "dense_sha256" in record and member.id in parents:
                wanted["dense_sha256"] = parents[member.id]
            modules |= {*check_record(path, record, wanted, remedy, flags.other_code)}
    if modules:
        logger.info(f"note: {population}: made by other code of {', '.join(sorted(modules))}")
    if any(record and record["data"]["checksum"] != study.data.checksum for record in population.records):
        logger.info(
            f"note: {population}: trained when the test images were others; test accuracies in their logs "
            "and records are of those"
        )
