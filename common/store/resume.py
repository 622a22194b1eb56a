"""Trainings that go on where they were stopped: their state after an epoch, kept in a file beside the model that they become.

Orders, views, dropout and random criteria depend on (seed, stage, epoch or step) alone, so that a state needs no random generators: a
training that was stopped and goes on ends bit for bit as one that was not, on a CPU at the same number of threads.
"""

import copy
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator, Sequence

import torch

from common.cli import UserError, logger
from common.pruning import Masks
from common.store.checkpoints import (
    describe_differences,
    file_sha256,
    read_payload,
    state_path,
    with_later_settings,
)
from common.store.files import write_atomically, write_torch
from common.study import Study

FORMAT = 1


@dataclass(frozen=True)
class Progress:
    """Where the state of one training is kept, what it must belong to, and how often it is kept: every so many epochs, or seconds."""

    path: Path
    facts: dict
    every: tuple[str, float]
    folder_flag: str


_unsaved: dict[Path, dict] = {}  # states after the last epoch that are not on disk yet
_saved: dict[Path, int] = {}  # epochs of the states on disk of the trainings that are under way


def progress(
    study: Study, checkpoint: Path, configuration: dict, seed: int, stage: str, made_from: Sequence[Path] = ()
) -> Progress | None:
    """The progress of a checkpoint's training; None with --debug, which keeps nothing.

    Args:
        stage: which training it is; made_from: the checkpoints that it begins with.
    """
    if study.flags.debug:
        return None
    facts = {
        "configuration": configuration,
        "seed": seed,
        "stage": stage,
        "data": study.data.checksum[:12],
        "made_from": " ".join(file_sha256(path)[:12] for path in made_from),
    }
    return Progress(state_path(checkpoint), facts, study.flags.save_every, study.folder_flag)


def epochs_left(
    progress: Progress | None, epochs: range, parts: dict[str, Any], masks: Masks, history: list[dict]
) -> Iterator[int]:
    """The epochs that are still to be trained, from the first, or after those of a state that was kept; keeps the state between them.

    Args:
        parts: what is trained by name: network, optimizer, schedulers; anything with state_dict and load_state_dict. With `masks` and
            `history` they are set, in place, to the state that was kept.
    Raises:
        UserError: a state of other settings, or one that does not fit.
    """
    if progress is None:
        yield from epochs
        return
    state = _read(progress)
    first = epochs.start
    if state is not None:
        first = state["epoch"]
        _restore(progress, state, parts, masks, history)
        _saved[progress.path] = first
        logger.info("goes on after %d of %d epochs: %s", first, epochs.stop, progress.path)
    kept, kept_at = first, time.monotonic()
    for epoch in range(first, epochs.stop):
        yield epoch
        # Copies: a signal may come in the middle of the next epoch.
        _unsaved[progress.path] = copy.deepcopy(
            {
                "format": FORMAT,
                "facts": progress.facts,
                "epoch": epoch + 1,
                "threads": torch.get_num_threads(),
                "parts": {name: part.state_dict() for name, part in parts.items()},
                "masks": masks,
                "history": history,
            }
        )
        unit, every = progress.every
        if (
            epoch + 1 < epochs.stop
            and (epoch + 1 - kept if unit == "epochs" else time.monotonic() - kept_at) >= every
        ):
            _save(progress.path)
            kept, kept_at = epoch + 1, time.monotonic()


def _read(progress: Progress) -> dict | None:
    if not progress.path.exists():
        return None
    state = read_payload(progress.path)
    if (
        state.get("format") != FORMAT
        or not {"facts", "epoch", "threads", "parts", "masks", "history"} <= state.keys()
    ):
        raise UserError(
            f"{progress.path} is not a state of this version; delete it to begin that training anew"
        )
    facts = {**state["facts"], "configuration": with_later_settings(state["facts"].get("configuration", {}))}
    differences = describe_differences(facts, progress.facts)
    if differences:
        raise UserError(
            f"{progress.path} is the state of a training with other settings ({differences}); delete it to begin anew, or to keep both "
            f"give {progress.folder_flag} another folder"
        )
    if state["threads"] != torch.get_num_threads():
        logger.info(
            "note: %s was kept by a run of %d threads, this one has %d: the result differs by rounding",
            progress.path,
            state["threads"],
            torch.get_num_threads(),
        )
    return state


def _restore(
    progress: Progress, state: dict, parts: dict[str, Any], masks: Masks, history: list[dict]
) -> None:
    try:
        for name, part in parts.items():
            part.load_state_dict(state["parts"][name])
        device = next(iter(parts["network"].parameters())).device
        masks.update({name: mask.to(device) for name, mask in state["masks"].items()})
        history[:] = state["history"]
    except (RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{progress.path} does not fit the network ({type(error).__name__}); delete it to begin that training anew"
        ) from None


def _save(path: Path) -> None:
    state = _unsaved.pop(path)
    write_atomically(path, lambda temporary: write_torch(temporary, state))
    _saved[path] = state["epoch"]
    logger.debug("kept: %s after %d epochs", path, state["epoch"])


def save_all() -> dict[Path, int]:
    """Writes the states that are not on disk yet; file -> epochs of all trainings that are under way, and forgets these trainings."""
    for path in list(_unsaved):
        try:
            _save(path)
        except OSError:
            pass  # the disk is full, say: the state before it is still there
    saved = dict(_saved)
    _unsaved.clear()
    _saved.clear()
    return saved


def forget(*checkpoints: Path) -> None:
    """The checkpoints are finished: the states of their trainings are not needed any more."""
    for path in map(state_path, checkpoints):
        _unsaved.pop(path, None)
        _saved.pop(path, None)
        path.unlink(missing_ok=True)
