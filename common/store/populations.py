"""Finding earlier models by what they are: data set, learning method, pruning, sparsity, architecture."""

import json
import shlex
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Iterable

from common import settings
from common.cli import UserError, logger, say_once
from common.data import same_training_images
from common.methods import FINETUNED, NOT_PRUNED, RETRAINED, SCHEDULE_STEPS, SMALL, parse_method
from common.store.checkpoints import (
    check_code,
    describe_differences,
    file_sha256,
    find_twins,
    origin_of,
    read_record,
    say_external,
)
from common.store.files import differences
from common.store.names import (
    CheckpointName,
    network_flags,
    parse_name,
    record_path,
    unknown_checkpoints,
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
        """What all of them share, None for external networks."""
        return None if self.made_elsewhere else self.members[0].record["configuration"]

    @property
    def made_elsewhere(self) -> bool:
        return any(member.made_elsewhere for member in self.members)

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
    def unpublished(self) -> dict:
        """The settings in which they differ from the published ones, as flags name them."""
        if self.made_elsewhere:
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


def show_ids(ids: list[int]) -> str:
    """[0, 1, 2, 5] -> '0-2, 5'."""
    runs: list[list[int]] = []
    for model_id in sorted(ids):
        if runs and model_id == runs[-1][-1] + 1:
            runs[-1].append(model_id)
        else:
            runs.append([model_id])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def find_population(
    study: Study, pruning_method: str, sparsity: float, dense: Population | None = None
) -> Population | None:
    """The one population of this kind, ids 0 to --models_number - 1.

    Populations are never mixed. Dense networks are looked for in the default folder too where the folder that
    flags name has none at all, so that pruned networks can have a folder of their own.

    Args:
        dense: for pruned networks, the dense population whose descendants are wanted.
    Returns:
        None where no pruned network of this kind exists at all.
    Raises:
        UserError: several populations fit; ids are missing; models of other data, code or other dense models.
    """
    kind = Population(study.learning_method, pruning_method, sparsity, ())
    populations = _populations(study, kind, (study.folder, study.head_folder))
    strangers = {} if populations else _strangers(study, kind, study.folder)
    headless = not study.supervised and "" in strangers.values()
    if not populations and not headless:
        if pruning_method != "dense":
            return None
        if not strangers:
            _refuse_unknown_names(study)
            populations = _populations(study, kind, (study.default_folder, study.default_folder))
            strangers = _strangers(study, kind, study.default_folder)
    chosen = _chosen(study, pruning_method)
    fitting = [population for population in populations if chosen.items() <= population.facts().items()]
    if not fitting:
        asked = "".join(f" --{stage_of(pruning_method)}_{fact} {value}" for fact, value in chosen.items())
        message = [f"no {study.learning_method} models {pruning_method} {sparsity}{asked} in {study.folder}"]
        if others := [*map(str, populations)] or sorted(strangers):
            message.append(f"there are: {'; '.join(others)}")
        if headless:
            message[-1] += f", without classifier heads in {study.head_folder} (--head_save_path)"
        choices = sorted({*strangers.values()} - {""})
        if choices and not populations and not headless:
            message.append(f"choose with {' or '.join(choices)}")
        else:
            message.append(f"train them: {command_for(study, kind, range(study.flags.models_number))}")
        raise UserError("; ".join(message))
    return _checked(study, _only(study, fitting if dense is None else _related(study, fitting, dense)), dense)


def find_control(study: Study, dense: Population, one_shot: list[Population]) -> Population | None:
    """The finetuned control of these one-shot networks: the same dense networks, finetuned with the same
    settings, nothing pruned. None where there is none that can be compared, which is logged."""
    kind = Population(study.learning_method, FINETUNED, 0.0, ())
    try:
        populations = _populations(study, kind, (study.folder, study.head_folder))
        alike = [each for each in populations if all(_finetuned_alike(each, other) for other in one_shot)]
        reason = "none with the settings of the one-shot networks" if populations else "there is none"
        if alike:
            return _checked(study, _only(study, _related(study, alike, dense)), dense)
    except UserError as error:
        reason = str(error)
    logger.info(f"no finetuned control: {reason}")
    return None


def _finetuned_alike(population: Population, other: Population) -> bool:
    """Whether both were finetuned with the same settings; of external networks only the names tell."""
    if population.made_elsewhere or other.made_elsewhere:
        facts, others = population.facts(), other.facts()
        return all(facts[fact] == others[fact] for fact in facts.keys() & others)
    settings = [
        {key: value for key, value in each.configuration.items() if key not in OF_PRUNING}
        for each in (population, other)
    ]
    return settings[0] == settings[1]


def _checked(study: Study, population: Population, dense: Population | None) -> Population:
    """The population, once nothing is wrong with it; it is logged."""
    _check(study, population, dense)
    pruning_method = population.pruning_method
    what = pruning_method if pruning_method in ("dense", FINETUNED) else "pruned"
    logger.info(f"{what} networks: {population} in {population.folder}")
    files = ((path, name) for m in population.members for path, name in zip(m.paths, m.names))
    external = [file for file, record in zip(files, population.records) if record is None]
    say_external(external, study.architecture_configuration(), study.flags.given)
    if external and not study.data.normalization:
        say_once(
            f"note: external networks see pixels normalised by {study.data.normalization_text}; if they were "
            "trained with others, give --normalization MEAN STD"
        )
    return population


def _refuse_unknown_names(study: Study) -> None:
    """Refuses to look elsewhere than in the folders that flags name where these hold files that may be the
    dense networks, under names that are not theirs."""
    places = {study.head_folder: "--head_save_path", study.folder: study.folder_flag}
    files = [path for folder in places for path in unknown_checkpoints(folder)]
    if not files or study.folder == study.default_folder:
        return
    published = settings.defaults(settings.ContrastiveTraining, settings.HeadTraining)
    epochs = {"encoder": published["epochs"], "head": published["head_epochs"]}
    if study.supervised:
        published = settings.defaults(settings.SupervisedTraining)
        epochs = {"supervised": published["epochs"]}
    names = [study.name(part, "dense", 0.0, epochs[part], published["batch_size"], 0) for part in epochs]
    raise UserError(
        f"{places[files[0].parent]} {files[0].parent}: no dense checkpoint of a known name there, but "
        f"{files[0].name}; the name expected for id 0 after {published['epochs']} epochs: "
        f"{' and '.join(map(str, names))}; rename it, or move it away"
    )


def describe_absent(study: Study, absent: list[tuple[str, float]]) -> str:
    """Pruning methods and sparsities of which there is no network: `global 0.3, 0.7 (there: 0.5); GMP`."""
    there = {
        (name.pruning_method, name.sparsity)
        for _, name in _checkpoints(study.folder)
        if name.part != "head" and _is_asked(study, name)
    }
    words = []
    for method in dict.fromkeys(method for method, _ in absent):
        lacking, others = (
            ", ".join(str(sparsity) for name, sparsity in sorted(kinds) if name == method)
            for kinds in (absent, there)
        )
        words.append(f"{method} {lacking} (there: {others})" if others else method)
    return "; ".join(words)


def _checkpoints(folder: Path) -> list[tuple[Path, CheckpointName]]:
    named = [(path, parse_name(path.name)) for path in sorted(folder.glob("*.pt"))]
    return [(path, name) for path, name in named if name]


def _strangers(study: Study, kind: Population, folder: Path) -> dict[str, str]:
    """Encoders and supervised networks of this kind, whatever their architecture and temperature -> the flags
    that would ask for them, none where the flags do."""
    strangers = {}
    for path, name in _checkpoints(folder):
        facts = name.learning_method, name.pruning_method, name.sparsity
        if name.part == "head" or facts != (kind.learning_method, kind.pruning_method, kind.sparsity):
            continue
        configuration = {}
        with suppress(UserError):  # a damaged record of a network that nobody asked for
            configuration = (read_record(path) or {}).get("configuration", {})
        flags = network_flags(name, configuration).items()
        other = {f"--{flag}": value for flag, value in flags if value != getattr(study.flags, flag)}
        strangers[str(name).replace(f"_id{name.id}.pt", "_id*.pt")] = shlex.join(_words(other))
    return strangers


def _is_asked(study: Study, name: CheckpointName) -> bool:
    """Whether flags ask for the learning method, architecture and temperature of a name."""
    facts = (name.part, name.pruning_method, name.sparsity, name.epochs, name.batch_size, name.id)
    return name == study.name(*facts)


def _populations(study: Study, kind: Population, folders: tuple[Path, Path]) -> list[Population]:
    """All networks of this kind with a wanted id, those together that differ in their seed alone."""
    groups: dict[str, list[Member]] = {}
    for member in sorted(_members(study, kind, folders), key=lambda member: member.id):
        names = [str(replace(name, id=0)) for name in member.names]
        configuration = None if member.made_elsewhere else member.record["configuration"]
        groups.setdefault(json.dumps([names, configuration], sort_keys=True), []).append(member)
    return [replace(kind, members=tuple(members)) for members in groups.values()]


def _members(study: Study, kind: Population, folders: tuple[Path, Path]) -> list[Member]:
    """The networks of this kind with a wanted id; an encoder with every head that was trained on it."""
    finetuned = parse_method(kind.pruning_method).finetuned

    def files(folder: Path, part: str) -> list[tuple[Path, CheckpointName]]:
        wanted = part, kind.pruning_method, kind.sparsity
        return [
            (path, name)
            for path, name in _checkpoints(folder)
            if (name.part, name.pruning_method, name.sparsity) == wanted
            and name.id < study.flags.models_number
            and _is_asked(study, name)
        ]

    def network(name: CheckpointName) -> tuple:
        """What the names of an encoder and its head agree in."""
        return name.id, name.batch_size, finetuned and name.epochs

    if study.supervised:
        pairs = [(file,) for file in files(folders[0], "supervised")]
    else:
        both = product(files(folders[0], "encoder"), files(folders[1], "head"))
        pairs = [(encoder, head) for encoder, head in both if network(encoder[1]) == network(head[1])]
    members = [
        Member(paths, names, tuple(map(read_record, paths)), tuple(map(file_sha256, paths)))
        for paths, names in (zip(*pair) for pair in pairs)
    ]
    best: dict[tuple[CheckpointName, ...], Member] = {}
    for member in sorted(members, key=_tags):
        if _fits(study, member):
            best.setdefault(member.names, member)
    return list(best.values())


def _tags(member: Member) -> int:
    """Plain names come first, then those of published dense networks with the tag `_later`, then mixed
    ones."""
    tagged = [path.name != str(name) for path, name in zip(member.paths, member.names)]
    return 2 * any(tagged) - all(tagged)


def _fits(study: Study, member: Member) -> bool:
    """Whether the record's architecture (contrastive names lack the dropout) and a head's encoder are
    these."""
    if member.record is None:
        return True
    configuration = member.record["configuration"]
    shape = study.architecture_configuration()
    # Two encoders of other epochs may share the name of their heads: the head's record says whose it is.
    encoders = (None, member.checksums[0])
    return {**shape, **configuration}.items() >= shape.items() and (
        study.supervised or member.record.get("encoder_sha256") in encoders
    )


def stage_of(pruning_method: str) -> str:
    """How the flags begin that choose a population; none choose one that was trained as the dense one was."""
    method = parse_method(pruning_method)
    return "dense" if method.schedule == "dense" else "finetune" if method.finetuned else ""


def _chosen(study: Study, pruning_method: str) -> dict[str, int]:
    """The facts that flags choose a population of this method by."""
    values = {fact: getattr(study.flags, f"{stage_of(pruning_method)}_{fact}", None) for fact in FACTS}
    return {fact: value for fact, value in values.items() if value}


def _related(study: Study, fitting: list[Population], dense: Population) -> list[Population]:
    """Those that were pruned from these dense networks; trained alone: trained with their settings, else all.

    Of external networks nothing is known that could speak against it.
    """
    alone = parse_method(fitting[0].pruning_method).trained_alone

    def origin(population: Population) -> dict | None:
        """The dense configuration that a population comes from, or was trained with."""
        if not alone:
            return population.configuration.get("dense")
        return {key: population.configuration.get(key) for key in dense.configuration}

    unknown = alone and dense.made_elsewhere
    related = [
        population
        for population in fitting
        if unknown or population.made_elsewhere or origin(population) == dense.configuration
    ]
    if related:
        return related
    if not alone:
        flags = " or ".join(f"--dense_{fact}" for fact in dense.facts())
        raise UserError(
            f"{fitting[0]}: pruned from other dense networks than the chosen ones ({dense}); choose with "
            f"{flags}, or finetune into a folder of its own ({study.folder_flag})"
        )
    # Trained on their own: they may be compared with others, but not chosen among by chance.
    others = describe_differences(origin(fitting[0]), dense.configuration)
    logger.info(f"note: {fitting[0]} were trained with other settings than the dense networks: {others}")
    return fitting


def _only(study: Study, fitting: list[Population]) -> Population:
    """The population that fits; several are refused with what tells them apart."""
    if len(fitting) == 1:
        return fitting[0]
    stage, facts = stage_of(fitting[0].pruning_method), [population.facts() for population in fitting]
    flags = [f"--{stage}_{fact}" for fact in FACTS if len({each.get(fact) for each in facts} - {None}) > 1]
    remedy = f"choose with {' or '.join(sorted(flags))}"
    if not (stage and flags):
        first, second = (population.configuration for population in fitting[:2])
        keys = first and second and sorted(k for k in {*first, *second} if first.get(k) != second.get(k))
        remedy = (
            f"they differ in {', '.join(keys or ['origin'])}: move one into a folder of its own and name it "
            f"({study.folder_flag})"
        )
    raise UserError(
        f"several populations fit: {'; '.join(map(str, fitting))}; {_lost_records(study, fitting) or remedy}"
    )


def _lost_records(study: Study, populations: list[Population]) -> str:
    """What to do about files that have no JSON though the others of their population have one; '' where there
    are none."""
    lost = [
        str(path)
        for population in populations
        if not population.made_elsewhere
        for pair in zip(population.members[0].paths, population.members[0].names)
        for model_id in range(study.flags.models_number)
        if (path := pair[0].with_name(str(replace(pair[1], id=model_id)))).exists()
        and not record_path(path).exists()
    ]
    remedy = "which the others of that population have: put it back, or move the network away and train it"
    return f"{', '.join(lost)} without a JSON, {remedy}" if lost else ""


def command_for(study: Study, population: Population, ids: Iterable[int]) -> str:
    """The command that trains these ids of a population; it skips finished ones in between.

    It is that of a network that is there, as its record says, or else the script with the flags that matter.
    """
    flags, method = study.flags, parse_method(population.pruning_method)
    iterative = method.schedule == "iterative"
    if finetunes := iterative or method.finetuned:
        script, asked = "pruning_finetune.py", {"--models_number": max(ids) + 1}
    else:
        script, asked = "training.py", {"--index_start": min(ids), "--index_end": max(ids)}
    script = f"{'sup' if study.supervised else 'clr'}_{script}"
    if not iterative:
        flag = "--pruning" if script == "sup_training.py" else "--pruning_percentages"
        asked["--match_sparsity" if method.schedule == SMALL else flag] = population.sparsity
    for member in population.members:
        words = recorded_command(member.record)
        if words[:1] == [script]:
            return shlex.join(["python", *words, *_words(asked)])  # the last of two equal flags counts
    if iterative:
        asked |= {"--pruning_schedule": "iterative", "--rate": method.rate, "--after": method.after}
    if method.gradual:
        asked["--schedule"] = method.schedule
    if method.schedule not in NOT_PRUNED:
        asked |= {"--criterion": method.criterion, "--scope": method.scope}
    if not study.supervised:
        asked["--method"] = study.learning_method
    facts = (population.facts() if population.members else {}) | _chosen(study, population.pruning_method)
    asked |= {f"--{fact}": value for fact, value in facts.items() if method.after not in RETRAINED}
    if finetunes:
        asked |= {f"--dense_{fact}": value for fact, value in _chosen(study, "dense").items()}
    asked |= {"--threads": flags.threads} if flags.threads else {}
    here = not population.members or population.folder == study.folder
    return shlex.join(["python", script, *_words(asked), *study.same_flags(here)])


def recorded_command(record: dict | None) -> list[str]:
    """The words of the command that made a checkpoint, and the number of threads that its bytes depend on."""
    run, words = (record or {}).get("run", {}), []
    with suppress(ValueError):  # a quotation that does not end
        words = shlex.split(run.get("command", ""))
    if words and "threads" in run and not any(word.startswith("--threads") for word in words):
        words += ["--threads", str(run["threads"])]
    return words


def _words(flags: dict) -> list[str]:
    return [str(word) for pair in flags.items() for word in pair]


def _check_normalization(study: Study, path: Path, configuration: dict) -> None:
    """Refuses a network that was trained on pixels normalised otherwise than this call normalises them."""
    trained, wanted = (each.get("normalization") for each in (configuration, study.data.pixel_settings))
    if trained != wanted:
        words = shlex.join(["--normalization", *(",".join(map(str, values)) for values in trained or ())])
        remedy = f"give {words}" if trained else "leave --normalization out"
        raise UserError(f"{path} was trained with another normalisation of pixels; {remedy}")


def _check(study: Study, population: Population, dense: Population | None) -> None:
    """Refuses a population in which an asked id is missing, unless that is allowed; models of other data,
    pruned ones whose dense model has changed since, and one network twice."""
    flags = study.flags
    missing = sorted(set(range(flags.models_number)) - {member.id for member in population.members})
    if missing and not getattr(flags, "allow_missing", False):
        where = f"{population} in {population.folder}: ids {show_ids(missing)} are missing"
        if lost := _lost_records(study, [population]):
            raise UserError(f"{where}; {lost}")
        allow = " or --allow_missing" if hasattr(flags, "allow_missing") else ""
        raise UserError(
            f"{where}; train them: "
            f"{command_for(study, population, missing)}, or give a smaller --models_number{allow}"
        )
    remedy, modules = "train all of them again into a folder of its own", set()
    for member in population.members:
        for path, record in zip(member.paths, member.records):
            modules |= {*check_code(path, record, flags.other_code, remedy)} if record else set()
    if modules:
        logger.info(f"note: {population}: made by other code of {', '.join(sorted(modules))}")
    dense_checksums = {member.id: list(member.checksums) for member in dense.members} if dense else {}
    twins, seeds = {"weights": find_twins(member.paths[0] for member in population.members)}, {}
    for member in population.members:
        record, path = member.record or {}, member.paths[-1]
        other = seeds.setdefault(record.get("seed"), path)
        if "seed" in record and other is not path:
            twins["seed"] = path, other
    for what, pair in twins.items():
        if pair:
            raise UserError(
                f"{pair[0]} has the same {what} as {pair[1]}: they are one network; delete the second and "
                "have it trained"
            )
    for member in population.members:
        record, path = member.record or {}, member.paths[-1]
        if member.made_elsewhere:
            continue
        if not same_training_images(record["data"], study.data.facts()):
            raise UserError(
                f"{path} was trained on another version of {study.data.name} than the one in "
                f"--data_dir {flags.data_dir}; train it again into a folder of its own"
            )
        _check_normalization(study, path, record["configuration"])
        origin = record.get("dense_sha256")
        if origin not in (None, dense_checksums.get(member.id, origin)):
            raise UserError(
                f"{path} comes from another dense model {member.id} than the one that is there now; "
                "delete it to have it finetuned again"
            )
    if any(
        record["data"]["checksum"] != study.data.checksum
        for member in population.members
        if (record := member.record)
    ):
        logger.info(
            f"note: {population}: trained when the test images were others; test accuracies in their logs "
            "and records are of those"
        )
