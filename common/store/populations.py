"""Finding earlier models by what they are: data set, learning method, pruning, sparsity, architecture. Populations are never mixed."""

import argparse
import json
import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from common.cli import UserError, logger
from common.methods import default_scope, iteration_sparsity, parse_method
from common.store.checkpoints import (
    CheckpointName,
    describe_differences,
    file_sha256,
    parse_name,
    read_record,
)
from common.study import Study

PRUNING_KEYS = {
    "pruning_method",
    "sparsity",
    "schedule",
    "criterion",
    "scope",
    *(f"{name}{suffix}" for name in ("begin_step", "end_step", "frequency") for suffix in ("", "_head")),
}


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
        if len(first.names) == 2 and not parse_method(self.pruning_method).finetuned:
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


def find_population(
    study: Study, pruning_method: str, sparsity: float, dense: Population | None = None
) -> Population | None:
    """The one population of this kind, ids 0 to --models_number - 1.

    Dense networks that are not in the folders that flags name are looked for in the default folder too, so that pruned networks can
    have a folder of their own.

    Args:
        dense: for pruned networks, the dense population whose descendants are wanted.
    Returns:
        None where no pruned model of this kind exists at all.
    Raises:
        UserError: several populations fit; ids are missing; models of other data or other dense models.
    """
    flags = study.flags
    folders = (study.folder, study.head_folder)
    members = _members(study, folders, pruning_method, sparsity)
    strangers = _strangers(study, study.folder, pruning_method, sparsity)
    if not members and pruning_method == "dense" and not _without_head(study, strangers):
        defaults = (study.default_folder, study.default_folder)
        if members := _members(study, defaults, pruning_method, sparsity):
            folders = defaults
    populations = _group(study, pruning_method, sparsity, members)
    wanted = _choices(flags, pruning_method)
    fitting = [
        population
        for population in populations
        if all(value in (None, population.facts().get(fact)) for fact, (_, value) in wanted.items())
    ]
    if dense is not None:
        related = [population for population in fitting if _is_related(population, dense)]
        if fitting and not related and parse_method(pruning_method).gradual:
            # Trained on their own: they may be compared with others, but not chosen among by chance.
            related = fitting
            logger.info(
                "note: %s were trained with other settings than the dense networks: %s",
                fitting[0],
                describe_differences(
                    {
                        key: value
                        for key, value in fitting[0].configuration.items()
                        if key not in PRUNING_KEYS
                    },
                    dense.configuration or {},
                ),
            )
        if fitting and not related:
            raise UserError(
                f"{fitting[0]}: pruned from other dense networks than the chosen ones ({dense}); choose with "
                f"{_flag_names(flags, 'dense')}, or finetune into a folder of its own ({study.folder_flag})"
            )
        fitting = related
    if len(fitting) > 1:
        differing = {
            flag
            for fact, (flag, _) in wanted.items()
            if len({population.facts().get(fact) for population in fitting} - {None}) > 1
        }
        remedy = (
            ("choose with " + " or ".join(sorted(differing)))
            if differing
            else (
                f"they differ in {_first_difference(fitting)}: move one into a folder of its own and name it ({study.folder_flag})"
            )
        )
        raise UserError(f"several populations fit: {'; '.join(map(str, fitting))}; {remedy}")
    if not fitting:
        if pruning_method != "dense" and not populations and not _without_head(study, strangers):
            return None
        raise UserError(_nothing_fits(study, pruning_method, sparsity, populations, strangers, wanted))
    population = fitting[0]
    missing = sorted(set(range(flags.models_number)) - {member.id for member in population.members})
    if missing and not getattr(flags, "allow_missing", False):
        go_on = ", or give a smaller --models_number" + (
            " or --allow_missing" if hasattr(flags, "allow_missing") else ""
        )
        own_folders = folders == (study.folder, study.head_folder)
        command = training_command(
            study, pruning_method, sparsity, missing, settings_of(population, dense), own_folders
        )
        raise UserError(
            f"{population} in {folders[0]}: ids {show_ids(missing)} are missing; train them: {command}{go_on}"
        )
    _check(study, population, dense)
    logger.info(
        "%s %s in %s",
        "dense networks:" if pruning_method == "dense" else "pruned networks:",
        population,
        folders[0],
    )
    return population


def known_sparsities(study: Study, pruning_method: str) -> list[float]:
    """The sparsities at which there are models of a learning and pruning method, whatever their architecture."""
    names = (parse_name(path.name) for path in (study.folder.glob("*.pt") if study.folder.is_dir() else []))
    return sorted(
        {
            name.sparsity
            for name in names
            if name and (name.learning_method, name.pruning_method) == (study.learning_method, pruning_method)
        }
    )


def _is_related(population: Population, dense: Population) -> bool:
    """Whether pruned networks come from these dense ones; gradually pruned ones: whether they were trained with the same settings.

    Of networks made elsewhere nothing is known that could speak against it.
    """
    gradual = parse_method(population.pruning_method).gradual
    if population.made_elsewhere or gradual and dense.made_elsewhere:
        return True
    if gradual:
        return {
            key: value for key, value in population.configuration.items() if key not in PRUNING_KEYS
        } == dense.configuration
    return population.configuration.get("dense") == dense.configuration


def _members(study: Study, folders: tuple[Path, Path], pruning_method: str, sparsity: float) -> list[Member]:
    """All networks of this kind with a wanted id; an encoder with every head that was trained on it."""

    def find(folder: Path, part: str) -> list[tuple[Path, CheckpointName]]:
        named = (
            (path, parse_name(path.name)) for path in (sorted(folder.glob("*.pt")) if folder.is_dir() else [])
        )
        return [
            (path, name)
            for path, name in named
            if name
            and name.id < study.flags.models_number
            and name == study.name(part, pruning_method, sparsity, name.epochs, name.batch_size, name.id)
        ]

    def member(*files: tuple[Path, CheckpointName]) -> Member:
        paths = tuple(path for path, _ in files)
        return Member(
            paths,
            tuple(name for _, name in files),
            tuple(map(read_record, paths)),
            tuple(map(file_sha256, paths)),
        )

    def fits(candidate: Member) -> bool:
        """Whether the record's architecture (dropout is not in a contrastive name) is the asked one, and a head's encoder this one."""
        if candidate.record is None:
            return True
        architecture = study.architecture_configuration()
        same = all(
            candidate.record["configuration"].get(key, value) == value for key, value in architecture.items()
        )
        # Two encoders of other epochs may share the name of their heads: the head's record says whose it is.
        return same and (
            study.supervised or candidate.record.get("encoder_sha256") in (None, candidate.checksums[0])
        )

    if study.supervised:
        members = [member(file) for file in find(folders[0], "supervised")]
    else:
        heads = find(folders[1], "head")
        members = [
            member(encoder, head)
            for encoder in find(folders[0], "encoder")
            for head in heads
            if (encoder[1].id, encoder[1].batch_size) == (head[1].id, head[1].batch_size)
            and (not parse_method(pruning_method).finetuned or encoder[1].epochs == head[1].epochs)
        ]
    # A published dense network may carry the tag `_later` in one or both of its names: a plain one comes first, then one tagged in both.
    best: dict[tuple[CheckpointName, ...], Member] = {}
    for candidate in filter(fits, members):
        if candidate.names not in best or _tagged(candidate) < _tagged(best[candidate.names]):
            best[candidate.names] = candidate
    return list(best.values())


def _tagged(member: Member) -> int:
    """0: all files have the names that are given here; 1: all are tagged otherwise; 2: some are."""
    tagged = {path.name != str(name) for path, name in zip(member.paths, member.names)}
    return 2 if len(tagged) > 1 else int(True in tagged)


def _group(study: Study, pruning_method: str, sparsity: float, members: list[Member]) -> list[Population]:
    groups: dict[str, list[Member]] = {}
    for member in members:
        key = json.dumps(
            [
                [str(replace(name, id=0)) for name in member.names],
                None if member.made_elsewhere else member.record["configuration"],
            ],
            sort_keys=True,
        )
        groups.setdefault(key, []).append(member)
    return [
        Population(
            study.learning_method,
            pruning_method,
            sparsity,
            tuple(sorted(group, key=lambda member: member.id)),
        )
        for group in groups.values()
    ]


def _choices(flags: argparse.Namespace, pruning_method: str) -> dict[str, tuple[str, int | None]]:
    """fact -> (the flag that chooses it, its value), for a kind of population; those trained as the dense ones are follow them."""
    method = parse_method(pruning_method)
    if method.schedule != "dense" and not method.finetuned:
        return {}
    stage = "dense" if method.schedule == "dense" else "finetune"
    facts = ("epochs", "batch_size", "head_epochs")
    return {
        fact: (f"--{stage}_{fact}", getattr(flags, f"{stage}_{fact}"))
        for fact in facts
        if hasattr(flags, f"{stage}_{fact}")
    }


def _flag_names(flags: argparse.Namespace, stage: str) -> str:
    return " or ".join(flag for flag, _ in _choices(flags, stage).values())


def _first_difference(populations: list[Population]) -> str:
    one, other = (population.configuration or {} for population in populations[:2])
    keys = [key for key in sorted({*one, *other}) if one.get(key) != other.get(key)]
    return ", ".join(keys) if one and other else "origin"


def _strangers(study: Study, folder: Path, pruning_method: str, sparsity: float) -> set[CheckpointName]:
    """Names (id 0) of encoders or supervised models of this learning method and sparsity, whatever their architecture or temperature."""
    names = {parse_name(path.name) for path in (folder.glob("*.pt") if folder.is_dir() else [])}
    return {
        replace(name, id=0)
        for name in names
        if name
        and name.part != "head"
        and (name.learning_method, name.pruning_method, name.sparsity)
        == (study.learning_method, pruning_method, sparsity)
    }


def _without_head(study: Study, strangers: set[CheckpointName]) -> bool:
    """Whether one of the names is an encoder that would fit, so that only its head can be missing."""
    return not study.supervised and any(
        name == study.name("encoder", name.pruning_method, name.sparsity, name.epochs, name.batch_size, 0)
        for name in strangers
    )


def _nothing_fits(
    study: Study,
    pruning_method: str,
    sparsity: float,
    populations: list[Population],
    strangers: set[CheckpointName],
    wanted: dict[str, tuple[str, int | None]],
) -> str:
    asked = {fact: (flag, value) for fact, (flag, value) in wanted.items() if value is not None}
    message = f"no {study.learning_method} models {pruning_method} {sparsity}"
    message += "".join(f" {flag} {value}" for flag, value in asked.values()) + f" in {study.folder}"
    others = [str(population) for population in populations] or sorted(
        str(name).replace("id0", "id*") for name in strangers
    )
    if others:
        message += f"; there are: {'; '.join(others)}"
    if not populations and _without_head(study, strangers):
        message += f", without classifier heads in {study.head_folder} (--head_save_path)"
    temperatures = {name.temperature for name in strangers if name.encoder_name == study.encoder_name} - {
        getattr(study.flags, "temperature", None)
    }
    if not populations and temperatures:
        message += f"; choose with --temperature {' or '.join(map(str, sorted(temperatures)))}"
    settings = {fact: value for fact, (_, value) in asked.items()}
    if parse_method(pruning_method).finetuned:
        settings |= {
            flag[2:]: value for flag, value in _choices(study.flags, "dense").values() if value is not None
        }
    return f"{message}; train them: " + training_command(
        study, pruning_method, sparsity, list(range(study.flags.models_number)), settings
    )


def settings_of(population: Population, dense: Population | None) -> dict:
    """The flags of the script that made a population, as far as they are known and the architecture and the method do not say them."""
    method, known = parse_method(population.pruning_method), population.configuration or population.facts()
    if method.schedule in ("one-shot", "iterative"):
        own = {
            key: known[key]
            for key in ("epochs", "batch_size", "learning_rate")
            if method.finetuned and key in known
        }
        return own | {f"dense_{fact}": value for fact, value in (dense.facts() if dense else {}).items()}
    said_elsewhere = {
        "learning_method",
        "model_depth",
        "widen_factor",
        "dropout",
        "projection_head",
        "temperature",
        "pruning_method",
        "sparsity",
        "schedule",
        "criterion",
        "scope",
    }
    return {key: value for key, value in known.items() if key not in said_elsewhere}


def training_command(
    study: Study,
    pruning_method: str,
    sparsity: float,
    missing: list[int],
    settings: dict,
    own_folders: bool = True,
) -> str:
    """The command that trains missing models; finished ones in between are skipped by it.

    Args:
        own_folders: into the folders that flags name; otherwise into the default ones.
    """
    prefix, method = "sup" if study.supervised else "clr", parse_method(pruning_method)
    if method.schedule in ("one-shot", "iterative"):
        words = ["python", f"{prefix}_pruning_finetune.py", "--models_number", str(max(missing) + 1)]
        if method.schedule == "one-shot":
            words += ["--pruning_percentages", str(sparsity)]
        else:
            iterations = next(
                (i for i in range(1, 1000) if iteration_sparsity(method.rate, i) >= sparsity), 1000
            )
            words += [
                "--pruning_schedule",
                "iterative",
                "--iterations",
                str(iterations),
                "--rate",
                str(method.rate),
                "--after",
                method.after,
            ]
            words += ["--rewind_epoch", str(method.rewind_epoch)] if method.after == "rewind" else []
    else:
        words = [
            "python",
            f"{prefix}_training.py",
            "--index_start",
            str(min(missing)),
            "--index_end",
            str(max(missing)),
        ]
        if (
            method.gradual or not study.supervised
        ):  # the contrastive script trains several sparsities where none is named
            words += ["--pruning" if study.supervised else "--pruning_percentages", str(sparsity)]
        words += ["--schedule", method.schedule] if method.gradual else []
    if method.schedule != "dense":
        words += ["--criterion", method.criterion] if method.criterion != "magnitude" else []
        words += (
            ["--scope", method.scope]
            if method.scope != default_scope(method.schedule, method.criterion)
            else []
        )
    if study.learning_method == "SimCLR":
        words += ["--method" if words[1].endswith("_training.py") else "--clr_method", "SimCLR"]
    for key, value in settings.items():
        words += [f"--{key}", ",".join(map(str, value)) if isinstance(value, list) else str(value)]
    return shlex.join(words + study.same_flags(own_folders))


def _check(study: Study, population: Population, dense: Population | None) -> None:
    """Refuses models of other data, and pruned models whose dense model has changed since."""
    _check_independence(population)
    dense_checksums = {member.id: list(member.checksums) for member in dense.members} if dense else {}
    for member in population.members:
        record = member.record
        if member.made_elsewhere:
            continue
        if record["data"]["checksum"] != study.data.checksum:
            raise UserError(
                f"{member.paths[-1]} was trained on another version of {study.data.name} than the one in "
                f"--data_dir {study.flags.data_dir}; train it again into a folder of its own"
            )
        if member.id in dense_checksums and record.get("dense_sha256") not in (
            None,
            dense_checksums[member.id],
        ):
            raise UserError(
                f"{member.paths[-1]} was pruned from another dense model {member.id} than the one that is there "
                "now; delete it to have it finetuned again"
            )


def _check_independence(population: Population) -> None:
    """Refuses a population in which a network is there twice, under two ids."""
    for what, facts in (
        ("weights", lambda member: member.checksums),
        ("seed", lambda member: (member.record or {}).get("seed")),
    ):
        seen: dict = {}
        for member in population.members:
            other = seen.setdefault(facts(member), member)
            if other is not member and facts(member) is not None:
                raise UserError(
                    f"{member.paths[-1]} has the same {what} as {other.paths[-1]}: they are one network; delete the second and have it trained"
                )
