"""What the two training scripts share: which pruning the flags ask for, weights kept on the way, the story and curves of a run."""

import argparse
import math
import time
from pathlib import Path
from typing import Callable

import numpy as np
from torch import nn

from common import methods, process
from common.cli import UserError, logger
from common.methods import PruningMethod
from common.pruning import GradualPruning, layer_name
from common.store import checkpoints, results, resume
from common.store.checkpoints import CheckpointName
from common.study import Study


def model_ids(flags: argparse.Namespace) -> range:
    """Ids from --index_start to --index_end, both inclusive.

    Raises:
        UserError: the last comes before the first; epochs that the training does not reach.
    """
    if flags.index_end < flags.index_start:
        raise UserError(
            f"--index_end {flags.index_end} lies before --index_start {flags.index_start} (both inclusive)"
        )
    if flags.save_epochs and max(flags.save_epochs) >= flags.epochs:
        raise UserError(
            f"--save_epochs {max(flags.save_epochs)}: give epochs below --epochs {flags.epochs}, whose weights are the model itself"
        )
    if getattr(flags, "warmup_epochs", 0) >= flags.epochs:
        raise UserError(f"--warmup_epochs {flags.warmup_epochs} must be fewer than --epochs {flags.epochs}")
    return range(flags.index_start, flags.index_end + 1)


def asked_method(flags: argparse.Namespace, schedule: str, **iterative) -> PruningMethod:
    """The pruning method that --criterion and --scope ask for under a schedule.

    Raises:
        UserError: a combination that does not exist.
    """
    scope = flags.scope or methods.default_scope(schedule, flags.criterion)
    if methods.is_filter_criterion(flags.criterion) and scope != "layer":
        raise UserError(
            f"--scope {scope}: norms of filters of different layers cannot be compared; leave it out with --criterion {flags.criterion}"
        )
    return PruningMethod(schedule, flags.criterion, scope, **iterative)


def refuse_pruning_flags(flags: argparse.Namespace, sparsity_flag: str, sparsities: list[float]) -> None:
    """Flags of gradual pruning have no effect where all networks are dense: steps and --schedule are noted, the others refused.

    Raises:
        UserError: one that is refused.
    """
    if any(sparsities):
        return
    given = sorted(
        name
        for name in flags.given
        if name in ("criterion", "scope", "schedule")
        or name.startswith(("begin_epoch", "end_epoch", "begin_step", "end_step", "frequency"))
    )
    ours = [name for name in given if name in ("criterion", "scope") or "epoch" in name]
    if ours:
        raise UserError(
            f"--{ours[0]}: nothing is pruned; give a sparsity above 0 ({sparsity_flag}), or leave it out"
        )
    for name in given:
        logger.info("--%s has no effect: nothing is pruned", name)


def gradual_pruning(
    flags: argparse.Namespace, sparsity: float, kind: str, epochs: int, batch_size: int, images: int
) -> GradualPruning:
    """The schedule that --schedule, --begin_step, --begin_epoch and their like ask for, refused where it does not fit the training.

    Args:
        kind: 'contrastive', 'supervised' or 'head', whose flags end in _head.
    Raises:
        UserError: a schedule that ends after the training or never fires, with numbers that would fit; a step and an epoch for one thing.
    """
    suffix = "_head" if kind == "head" else ""
    begin_step, end_step, frequency, begin_epoch, end_epoch = (
        getattr(flags, f"{name}{suffix}")
        for name in ("begin_step", "end_step", "frequency", "begin_epoch", "end_epoch")
    )
    for name, step, epoch in (("begin", begin_step, begin_epoch), ("end", end_step, end_epoch)):
        if step is not None and epoch is not None:
            raise UserError(
                f"--{name}_step{suffix} and --{name}_epoch{suffix} say the same: give one of them"
            )
    an_epoch = math.ceil(images / batch_size)
    default = methods.SCHEDULE_STEPS[kind][flags.schedule]

    def step_of(step: int | None, epoch: float | None, otherwise: int) -> int:
        """The step before which so many epochs are done."""
        return (
            round(min(epoch, 2**31) * an_epoch) + 1
            if epoch is not None
            else otherwise
            if step is None
            else step
        )

    begin, end = step_of(begin_step, begin_epoch, default[0]), step_of(end_step, end_epoch, default[1])
    if frequency is None:
        by_epochs = begin_epoch is not None or end_epoch is not None
        frequency = max(1, math.ceil((end - begin) / methods.INTERVALS)) if by_epochs else default[2]
    # The published places in the training; the last step of all is the latest that fits.
    fitting = [
        min(step / methods.PUBLISHED_STEPS[kind] * epochs, epochs - 1 / an_epoch) for step in default[:2]
    ]
    words = [f"{float(f'{epoch:.2g}'):g}" for epoch in fitting]
    remedy = f"give --begin_epoch{suffix} {words[0]} --end_epoch{suffix} {words[1]}"
    what = {"contrastive": "encoder", "supervised": "network", "head": "classifier head"}[kind]
    if begin > end or end < 1:
        raise UserError(f"pruning of the {what} from step {begin} to step {end} never fires; {remedy}, say")
    if end > epochs * an_epoch:
        raise UserError(
            f"pruning of the {what} ends at step {end}, its training at step {epochs * an_epoch} ({epochs} epochs of {an_epoch} steps); "
            f"{remedy}, say, or train for longer"
        )
    return GradualPruning(
        sparsity, begin, end, frequency, flags.criterion, asked_method(flags, flags.schedule).scope
    )


def head_pruning(flags: argparse.Namespace, sparsity: float, images: int) -> GradualPruning | None:
    """The schedule of the contrastive classifier head; None where whole filters are pruned, of which it has none.

    Raises:
        UserError: as `gradual_pruning`; a flag of the head's schedule where whole filters are pruned.
    """
    if not methods.is_filter_criterion(flags.criterion):
        return gradual_pruning(flags, sparsity, "head", flags.head_epochs, flags.batch_size_head, images)
    given = [
        name
        for name in (
            "begin_step_head",
            "end_step_head",
            "frequency_head",
            "begin_epoch_head",
            "end_epoch_head",
        )
        if name in flags.given
    ]
    if given:
        raise UserError(
            f"--{given[0]}: the classifier head has no filters and is not pruned by --criterion {flags.criterion}; leave it out"
        )
    return None


def gradual_configuration(
    method: PruningMethod, pruning: GradualPruning, head_pruning: GradualPruning | None = None
) -> dict:
    """What the configuration of a network that is pruned while it trains says of it."""
    configuration = {
        "pruning_method": str(method),
        "sparsity": pruning.sparsity,
        "schedule": method.schedule,
        "criterion": method.criterion,
        "scope": method.scope,
    }
    for suffix, one in (("", pruning), ("_head", head_pruning)):
        if one is not None:
            configuration |= {
                f"begin_step{suffix}": one.begin_step,
                f"end_step{suffix}": one.end_step,
                f"frequency{suffix}": one.frequency,
            }
    return configuration


def missing_epochs(study: Study, path: Path, configuration: dict) -> list[int]:
    """Those of --save_epochs whose weights are not kept yet. --debug saves nothing, and reads nothing."""
    if study.flags.debug or not study.flags.save_epochs:
        return []
    if path.exists() and checkpoints.read_record(path) is None:
        raise UserError(
            f"--save_epochs: {path} was made elsewhere, the weights on its way are not known; leave the flag out, or give another folder"
        )
    return [
        epoch
        for epoch in study.flags.save_epochs
        if not checkpoints.is_finished(
            checkpoints.epoch_path(path, epoch), configuration, study.data, study.folder_flag, epoch=epoch
        )
    ]


def epoch_saver(
    study: Study, path: Path, name: CheckpointName, configuration: dict, model: nn.Module, epochs: list[int]
) -> Callable[[int], None]:
    """A function of the number of epochs done that keeps the model's weights after `epochs` of them."""
    started = time.time()
    seen: list[int] = []

    def save(done: int) -> None:
        if not seen and any(epoch < done for epoch in epochs):
            logger.info(
                "note: the training goes on after %d epochs; give the same command again for the weights after %s",
                done,
                ", ".join(str(epoch) for epoch in epochs if epoch < done),
            )
        seen.append(done)
        if done in epochs:
            record = checkpoints.make_record(
                name,
                configuration,
                study.model_seed(name.id),
                study.data,
                getattr(model, "encoder", model),
                [],
                process.environment(study.device, started),
                epoch=done,
            )
            checkpoints.save_checkpoint(
                checkpoints.epoch_path(path, done),
                {"model": checkpoints.cpu_state(model)},
                record,
                getattr(model, "encoder", model),
            )
            logger.info("kept: %s", checkpoints.epoch_path(path, done))

    return save


def log_run(what: str, history: list[dict], started: float) -> None:
    """One line on a finished run: its last epoch and its seconds."""
    last = history[-1]
    accuracy = f", test accuracy {100 * last['test_accuracy']:.2f} %" if "test_accuracy" in last else ""
    sparsity = f", sparsity {last['sparsity']:.6f}" if "sparsity" in last else ""
    logger.info(
        "%s: %d epochs, loss %.4f (chance %.4f)%s%s, %.1f s",
        what,
        len(history),
        last["loss"],
        last["chance_loss"],
        accuracy,
        sparsity,
        time.time() - started,
    )


def describe_run(name: CheckpointName) -> str:
    """A network in the story: `SupCon later_GMP 0.9 id 3`, or `supervised id 3` of a dense one."""
    return " ".join(
        [
            name.learning_method,
            *([name.pruning_method, str(name.sparsity)] if name.sparsity else []),
            f"id {name.id}",
        ]
    )


def save_model(
    study: Study,
    name: CheckpointName,
    path: Path,
    payload: dict,
    configuration: dict,
    network: nn.Module,
    history: list[dict],
    started: float,
    **more,
) -> None:
    """Saves a finished model with its record; layers of which nothing is left are named."""
    record = checkpoints.make_record(
        name,
        configuration,
        study.model_seed(name.id),
        study.data,
        network,
        history,
        process.environment(study.device, started),
        **more,
    )
    log_emptied(describe_run(name), record["sparsity"]["per_tensor"])
    checkpoints.save_checkpoint(
        path, payload, record, network, configuration if "scope" in configuration else None
    )
    resume.forget(path)


def finished_before(*paths: Path) -> None:
    """Says that a model is there already."""
    logger.info("finished before: %s", paths[-1])
    resume.forget(*paths)


def log_emptied(what: str, sparsity_per_tensor: dict[str, float]) -> None:
    """Names the layers of which nothing is left."""
    emptied = [layer_name(name) for name, share in sparsity_per_tensor.items() if share == 1.0]
    if emptied:
        logger.info("%s: nothing left in %s", what, ", ".join(emptied))


def store_curves(study: Study, name: CheckpointName, stages: dict[str, list[dict]]) -> None:
    """Stores and draws the curves of a run beside its log: stage -> history."""
    from common import plots

    sparsity = f", sparsity {100 * name.sparsity:g} %" if name.sparsity else ""
    title = (
        f"{study.data.title} · {study.learning_method} · {methods.describe(name.pruning_method)}{sparsity} · "
        f"1 model, id {name.id} ({study.architecture})"
    )
    stages = {stage: history for stage, history in stages.items() if history}
    arrays = {"figure": "curves", "title": title, "stages": list(stages)}
    for stage, history in stages.items():
        keys = dict.fromkeys(
            key for entry in history for key in entry
        )  # sparsity is there from the first pruning on
        arrays |= {f"{stage}_{key}": np.array([entry.get(key, 0.0) for entry in history]) for key in keys}
    arrays = {key: np.asarray(value) for key, value in arrays.items()}
    stem = str(name).removesuffix(".pt")
    path = study.log_folder / f"{stem}_curves.npz"
    results.write_arrays(path, arrays, {"model": stem})
    plots.save_figure(path.with_suffix(".png"), plots.draw(arrays))
