"""What lies in a folder of models: networks by kind and settings, unfinished trainings, the rest; the flags
that choose and the commands that would remove each."""

import json
import re
import shlex
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

from common import methods
from common.cli import UserError
from common.store.checkpoints import (
    CheckpointName,
    network_flags,
    parse_name,
    read_payload,
    read_record,
)
from common.store.files import flat
from common.store.populations import show_ids, stage_of

# With weights and sums of gradients that were kept.
_FILE = re.compile(r"(.+_id)([0-9]+)((?:_epoch[0-9]+|_gradient_sums)?\.(?:pt|json))")


@dataclass(frozen=True)
class Group:
    """Files of networks that differ in their seed alone; each is the start, id and end of its name."""

    name: CheckpointName
    configuration: dict
    origin: str
    files: list[tuple[str, str, str]]

    @property
    def kind(self) -> tuple:
        name = self.name
        return name.learning_method, methods.order(name.pruning_method), name.sparsity, name.part

    @property
    def facts(self) -> dict:
        finetuned = methods.parse_method(self.name.pruning_method).finetuned
        epochs = "head_epochs" if self.name.part == "head" and not finetuned else "epochs"
        batch_size = self.name.batch_size or self.configuration.get("batch_size")
        return {epochs: self.name.epochs, **({"batch_size": batch_size} if batch_size else {})}

    @property
    def settings(self) -> dict:
        return {**flat(self.configuration), **self.facts, "origin": self.origin}

    @property
    def flags(self) -> dict:
        """Those that choose it."""
        name, stage = self.name, stage_of(self.name.pruning_method)
        flags = {f"{stage}_{fact}": value for fact, value in self.facts.items() if stage}
        if name.sparsity:
            flags |= {"pruning_methods": name.pruning_method, "pruning_percentages": name.sparsity}
        if name.part != "supervised":
            flags["method"] = name.learning_method
        return flags | network_flags(name, self.configuration)


def describe_folder(folder: Path) -> Iterator[str]:
    """The lines of the listing."""
    groups: dict[str, Group] = {}
    others = []
    for path in sorted(folder.iterdir()):
        file = _FILE.fullmatch(path.name)
        network = folder / f"{file[1]}{file[2]}.pt" if file else path
        if not file or not (name := parse_name(network.name)):
            others.append(path)
            continue
        configuration, origin = {}, "made elsewhere" if network.exists() else "the checkpoint is missing"
        try:
            if network.exists() and (record := read_record(network)):
                configuration, origin = record["configuration"], "made here"
        except UserError as error:
            origin = str(error)
        key = json.dumps([file[1], configuration, origin], sort_keys=True)
        groups.setdefault(key, Group(name, configuration, origin, [])).files.append(file.groups())
    for group in sorted(groups.values(), key=lambda group: group.kind):
        alike = [other for other in groups.values() if other.kind == group.kind]
        yield from _describe(folder, group, alike)
    for path in others:
        if path.is_dir():
            yield f"{path}/: a folder, which has a listing of its own"
            continue
        what = "no checkpoint of a known name"
        if path.name.startswith("."):
            what = "left by a process that was killed, unless one is at work"
        if state := parse_name(path.name[1:].removesuffix(".state")):
            with suppress(UserError):
                epoch = read_payload(path).get("epoch")
                what = f"unfinished, {epoch} of {state.epochs} epochs; the command that began it goes on"
        yield f"{path}: {what}; {_extent([path])}"
        yield f"    remove: {shlex.join(['rm', '--', str(path)])}"


def _describe(folder: Path, group: Group, alike: list[Group]) -> Iterator[str]:
    """Lines on a group: the settings that tell it from those of its kind, its flags, its removal."""
    differing = {*group.facts, "origin"}
    for other in alike:
        pairs = group.settings.items()
        differing |= {key for key, value in pairs if other.settings.get(key, value) != value}
    name = group.name
    part = "" if name.part == "supervised" else f" {name.part}"
    settings = [f"{key} {value}" for key, value in group.settings.items() if key in differing]
    yield f"{name.learning_method} {name.pruning_method} {name.sparsity}{part}: {', '.join(settings)}"
    ids = dict.fromkeys(file[1] for file in group.files)
    extent = _extent([folder / "".join(file) for file in group.files])
    yield f"    ids {show_ids([*map(int, ids)])}; {extent}"
    flags = [word for flag, value in group.flags.items() for word in (f"--{flag}", str(value))]
    if any(other is not group and group.flags.items() <= other.flags.items() for other in alike):
        flags = ["none tells it from others of its kind here; move it into a folder of its own"]
    yield f"    choose: {' '.join(flags)}"
    start = shlex.quote(str(folder / group.files[0][0]))
    files = " ".join(f"{start}${{i}}{end}" for end in sorted({file[2] for file in group.files}))
    yield f"    remove: for i in {' '.join(ids)}; do rm -f -- {files}; done"


def _extent(files: list[Path]) -> str:
    """First and last day, and megabytes on the disk."""
    stats = [path.stat() for path in files]
    days = sorted(time.strftime("%Y-%m-%d", time.localtime(stat.st_mtime)) for stat in stats)
    size = sum(stat.st_size for stat in stats) / 1e6
    return f"{' to '.join(dict.fromkeys((days[0], days[-1])))}, {size:.1f} MB"
