"""Trainings that a command asks for: which networks, what of them is there, who makes the rest, and how it is
kept.

Processes share the work: one claims a network by an operating-system lock on a file beside it, which a crash
releases. `--workers N`, several shells, several machines on one file system, a Slurm array and torchrun are
the same thing: processes that claim, check what is finished, and do the rest. Results do not depend on who
does what.
"""

import argparse
import contextlib
import functools
import math
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable, Sequence

import numpy as np
import torch
from tqdm import tqdm

from common import methods, models, process, settings
from common.cli import WORKER, UserError, logger
from common.data import same_training_images
from common.methods import PruningMethod
from common.pruning import GradientSums, GradualPruning, layer_name, uses
from common.store import checkpoints
from common.store.checkpoints import TrainingState
from common.store.files import claim, write_arrays
from common.store.names import (
    CheckpointName,
    epoch_path,
    gradients_path,
    parse_name,
    record_path,
    state_path,
)
from common.store.table import write_rows
from common.study import Study
from common.training import Run, Training, check_outputs, fit
from common.twins import Twin, twin_of

SCRIPTS = Path(__file__).resolve().parent.parent.parent
POLL_SECONDS = 0.2


# What is asked for


@dataclass(frozen=True)
class Asked:
    """One file of a network that a command asks for.

    configuration: what all networks of the population share; pruning: by which it is pruned while it trains.
    """

    name: CheckpointName
    path: Path
    configuration: dict
    pruning: GradualPruning | None = None


def model_ids(flags: argparse.Namespace) -> range:
    """Ids from --index_start to --index_end, both inclusive.

    Raises:
        UserError: the last comes before the first; epochs that the training does not reach.
    """
    first, last, epochs = flags.index_start, flags.index_end, flags.epochs
    if last < first:
        raise UserError(f"--index_end {last} lies before --index_start {first} (both inclusive)")
    if flags.save_epochs and max(flags.save_epochs) >= epochs:
        raise UserError(
            f"--save_epochs {max(flags.save_epochs)}: give epochs below --epochs {epochs}, whose weights "
            "are the model itself"
        )
    if getattr(flags, "warmup_epochs", 0) >= epochs:
        raise UserError(f"--warmup_epochs {flags.warmup_epochs} must be fewer than --epochs {epochs}")
    return range(first, last + 1)


def asked_method(flags: argparse.Namespace, schedule: str, **iterative) -> PruningMethod:
    """The pruning method that --criterion and --scope ask for under a schedule.

    Raises:
        UserError: a combination that does not exist.
    """
    scope = flags.scope or methods.default_scope(schedule, flags.criterion)
    if methods.is_filter_criterion(flags.criterion) and scope != "layer":
        raise UserError(
            f"--scope {scope}: norms of filters of different layers cannot be compared; leave it out with "
            f"--criterion {flags.criterion}"
        )
    return PruningMethod(schedule, flags.criterion, scope, **iterative)


def sparsities_to_train(
    flags: argparse.Namespace, sparsity_flag: str, sparsities: list[float]
) -> list[float]:
    """The sparsities to train to; with --match_sparsity 0 alone. Flags of gradual pruning have no effect
    where all networks are dense: those that the published commands give are noted, the others refused.

    Raises:
        UserError: one that is refused.
    """
    if flags.accumulate_gradients and (all(sparsities) or flags.match_sparsity):
        raise UserError("--accumulate_gradients belongs to dense networks of the whole width; leave it out")
    if flags.match_sparsity:
        if sparsity_flag[2:] in flags.given and any(sparsities):
            raise UserError(f"--match_sparsity: narrower networks are not pruned; leave {sparsity_flag} out")
        sparsities = [0.0]
    if any(sparsities):
        return sparsities
    refused, noted = (
        ("criterion", "scope", "begin_epoch", "end_epoch"),
        ("schedule", "begin_step", "end_step", "frequency"),
    )
    if given := sorted(name for name in flags.given if name.startswith(refused)):
        raise UserError(
            f"--{given[0]}: nothing is pruned; give a sparsity above 0 ({sparsity_flag}), or leave it out"
        )
    for name in sorted(name for name in flags.given if name.startswith(noted)):
        logger.info(f"--{name} has no effect: nothing is pruned")
    return sparsities


def gradual_pruning(
    flags: argparse.Namespace, sparsity: float, kind: str, images: int
) -> GradualPruning | None:
    """The schedule that --schedule, --begin_step, --begin_epoch and their like ask for, refused where it does
    not fit the training; None for a classifier head where whole filters are pruned, of which it has none.

    Args:
        kind: 'contrastive', 'supervised' or 'head', whose flags end in _head.
    Raises:
        UserError: a schedule that ends after the training or never fires, with numbers that would fit; a step
            and an epoch for one thing; a flag of the head's schedule where whole filters are pruned.
    """
    epochs, batch_size, suffix = flags.epochs, flags.batch_size, ""
    if kind == "head":
        epochs, batch_size, suffix = flags.head_epochs, flags.batch_size_head, "_head"
        if methods.is_filter_criterion(flags.criterion):
            names = ("begin_step", "end_step", "frequency", "begin_epoch", "end_epoch")
            if given := sorted(flags.given & {f"{name}_head" for name in names}):
                raise UserError(
                    f"--{given[0]}: the classifier head has no filters and is not pruned by --criterion "
                    f"{flags.criterion}; leave it out"
                )
            return None
    steps_an_epoch = math.ceil(images / batch_size)
    *defaults, frequency = methods.SCHEDULE_STEPS[kind][flags.schedule]
    steps = []
    for end, default in zip(("begin", "end"), defaults):
        step, epoch = (getattr(flags, f"{end}_{unit}{suffix}") for unit in ("step", "epoch"))
        if step is not None and epoch is not None:
            raise UserError(f"--{end}_step{suffix} and --{end}_epoch{suffix} say the same: give one of them")
        if epoch is not None:  # the step before which so many epochs are done
            step = round(min(epoch, 2**31) * steps_an_epoch) + 1
        steps.append(default if step is None else step)
    begin, end = steps
    if any(getattr(flags, f"{name}_epoch{suffix}") is not None for name in ("begin", "end")):
        frequency = max(1, math.ceil((end - begin) / methods.INTERVALS))
    frequency = getattr(flags, f"frequency{suffix}") or frequency
    # The published places in the training; the last step of all is the latest that fits.
    fitting = [
        min(step / methods.PUBLISHED_STEPS[kind] * epochs, epochs - 1 / steps_an_epoch) for step in defaults
    ]
    numbers = [f"{float(f'{epoch:.2g}'):g}" for epoch in fitting]
    remedy = f"give --begin_epoch{suffix} {numbers[0]} --end_epoch{suffix} {numbers[1]}, say"
    what = {"contrastive": "encoder", "supervised": "network", "head": "classifier head"}[kind]
    if begin > end or end < 1:
        raise UserError(f"pruning of the {what} from step {begin} to step {end} never fires; {remedy}")
    if end > epochs * steps_an_epoch:
        raise UserError(
            f"pruning of the {what} ends at step {end}, its training at step {epochs * steps_an_epoch} "
            f"({epochs} epochs of {steps_an_epoch} steps); {remedy}, or train for longer"
        )
    scope = asked_method(flags, flags.schedule).scope
    pruning = GradualPruning(sparsity, begin, end, frequency, flags.criterion, scope)
    if uses(flags.criterion, "accumulated") and pruning.sparsities().get(1):
        raise UserError(
            f"--criterion {flags.criterion}: pruning of the {what} at step 1 has no training before it; "
            f"{remedy}"
        )
    return pruning


def training_files(study: Study, sparsity: float, model_id: int) -> list[Asked]:
    """The files of a network that a training script makes: dense, or pruned while it trains to a sparsity
    above 0."""
    flags, twin, files, matched = study.flags, twin_of(study), [], study.match_sparsity
    method = PruningMethod(methods.SMALL if matched else "dense")
    if sparsity:
        method = asked_method(flags, flags.schedule)
    configuration = {"learning_method": study.learning_method, **study.architecture_configuration()}
    configuration |= study.data.pixel_settings
    if sparsity or matched:
        configuration |= {"pruning_method": str(method), "sparsity": sparsity or matched}
    if sparsity:
        configuration |= {key: getattr(method, key) for key in ("schedule", "criterion", "scope")}
    for place, (part, folder) in enumerate(zip(twin.parts, (study.folder, study.head_folder))):
        is_head, pruning = part == "head", None
        configuration = configuration | settings.from_flags(twin.settings(place), flags)
        if sparsity:
            kind = "contrastive" if part == "encoder" else part
            pruning = gradual_pruning(flags, sparsity, kind, len(study.data.train_images))
        if pruning:
            for key in ("begin_step", "end_step", "frequency"):
                configuration[f"{key}_head" if is_head else key] = getattr(pruning, key)
        epochs = flags.head_epochs if is_head else flags.epochs
        name = study.name(part, str(method), sparsity or matched, epochs, flags.batch_size, model_id)
        files.append(Asked(name, folder / str(name), configuration, pruning))
    return files


# What is there


def is_finished(study: Study, path: Path, configuration: dict, **facts) -> bool:
    """Whether this checkpoint is there already, made with this configuration, data and code.

    A checkpoint without a record is external, and is kept.

    Args:
        facts: entries of the record that must agree too.
    Raises:
        UserError: one made with other settings or code is in the way; the message says what differs.
    """
    if not path.exists():
        return False
    if path.is_dir():
        raise UserError(f"{path} is a folder where a checkpoint should be; move it away")
    record = checkpoints.read_record(path)
    if record is None:
        return True
    name = parse_name(path.name)
    folder_flag = "--head_save_path" if name and name.part == "head" else study.folder_flag
    keep_both = f"to keep both, give {folder_flag} another folder"
    differences = checkpoints.describe_differences(record["configuration"], configuration)
    if not same_training_images(record["data"], study.data.facts()):
        differences = ", ".join(filter(None, [differences, "other training images"]))
    if differences:
        raise UserError(f"{path} was made with other settings ({differences}); {keep_both}")
    checkpoints.check_code(path, record, study.flags.other_code, keep_both)
    if any(record.get(key) != value for key, value in facts.items()):
        raise UserError(
            f"{path} was made from another dense model, encoder or iteration than the one that is there "
            f"now; delete it to have it made again, or {keep_both}"
        )
    return True


def refuse_to_replace(paths: Sequence[Path]) -> None:
    """Refuses to write over a checkpoint that is external: nobody could make it again.

    Raises:
        UserError: one of the files is there and has no record.
    """
    for path in paths:
        if path.exists() and not record_path(path).exists():
            raise UserError(
                f"{path} is external, and its other half is missing or other; put them together or "
                "move it away"
            )


def finished_parts(study: Study, files: list[Asked]) -> list[bool]:
    """Which files of a network are there, made with these settings; --debug saves and reads nothing.

    Raises:
        UserError: something else is in the way.
    """
    if study.flags.debug:
        return [False] * len(files)
    finished, facts = [], {}
    for file in files:
        finished.append(is_finished(study, file.path, file.configuration, **facts))
        if finished == [True]:  # the head's record says which encoder it was trained on
            facts = {"encoder_sha256": checkpoints.file_sha256(file.path)}
    if finished[-1] and not all(finished):
        refuse_to_replace([files[-1].path])
        finished[-1] = False
    return finished


def epochs_to_keep(study: Study, file: Asked) -> list[int]:
    """Those of --save_epochs whose weights are not there yet.

    Raises:
        UserError: the network is external; other weights are in the way.
    """
    epochs = [] if study.flags.debug else study.flags.save_epochs
    if epochs and file.path.exists() and checkpoints.read_record(file.path) is None:
        raise UserError(
            f"--save_epochs: {file.path} is external, the weights on its way are not known; leave the "
            "flag out, or give another folder"
        )
    paths = {epoch: epoch_path(file.path, epoch) for epoch in epochs}
    return [
        epoch
        for epoch, path in paths.items()
        if not is_finished(study, path, file.configuration, epoch=epoch)
    ]


def say_finished(study: Study, networks: Sequence[Sequence[Asked]]) -> None:
    """Says in one line how many of the networks, each given by its files, are there already; in another, of
    which of them nothing is known."""
    if study.flags.debug:
        return
    there = [files[-1].path for files in networks if files[-1].path.exists()]
    if there:
        others = " and others" * (len(there) > 1)
        logger.info(f"finished before: {len(there)} of {len(networks)} networks, {there[0]}{others}")
    files = [file for files in networks for file in files]
    external = [file for file in files if file.path.exists() and not record_path(file.path).exists()]
    settings = {key: value for file in external for key, value in file.configuration.items()}
    checkpoints.say_external([(file.path, file.name) for file in external], settings, study.flags.given)


def lacks_gradients(study: Study, file: Asked) -> bool:
    """Whether --accumulate_gradients asks for sums of a dense network's gradients that are not there yet.

    Raises:
        UserError: the network is external; other sums are in the way.
    """
    flags = study.flags
    if flags.debug or not flags.accumulate_gradients or file.name.sparsity:
        return False
    if file.path.exists() and checkpoints.read_record(file.path) is None:
        raise UserError(
            f"--accumulate_gradients: {file.path} is external, its training is not known; leave the "
            "flag out, or give another folder"
        )
    return not is_finished(study, gradients_path(file.path), file.configuration)


def forget_states(paths: Sequence[Path]) -> None:
    """Deletes the states of finished trainings, and notes in the log that these are."""
    logger.debug(f"finished before: {paths[-1]}")
    for path in paths:
        state_path(path).unlink(missing_ok=True)


# Training


def train_networks(study: Study, sparsities: list[float]) -> None:
    """Trains the networks of a training script, ids by --index_start and --index_end, and saves them;
    finished ones are skipped."""
    say_flips(study)
    say_widths(study)
    jobs, networks = [], []
    for sparsity in sparsities:
        for model_id in model_ids(study.flags):
            files = training_files(study, sparsity, model_id)
            finished_parts(study, files)  # refuses what is in the way before the first step
            epochs_to_keep(study, files[0])
            for file in files:
                lacks_gradients(study, file)
            networks.append(files)
            jobs.append(Job(files[-1].path, functools.partial(train_network, study, files)))
    say_finished(study, networks)
    share(study, jobs)


def say_flips(study: Study) -> None:
    """Says how views are flipped."""
    ways = [flip.removesuffix("_flip") for flip, is_done in study.data.flips.items() if is_done]
    note = "" if study.supervised else " (no vertical ones in the contrastive loss)"
    logger.info(f"flips of views: {', '.join(ways) or 'none'}{note}")


def say_widths(study: Study) -> None:
    """Says how narrow the networks of --match_sparsity are."""
    shape, sparsity = (study.architecture.model_depth, study.architecture.widen_factor), study.match_sparsity
    if sparsity:
        narrow, full = (models.channels(*shape, each) for each in (sparsity, 0.0))
        weights, all_weights = (models.convolution_weights(shape[0], each) for each in (narrow, full))
        logger.info(
            f"{methods.SMALL} {sparsity}: {', '.join(map(str, narrow))} channels of "
            f"{', '.join(map(str, full))}, "
            f"{weights:,} of {all_weights:,} weights of convolutions ({100 * weights / all_weights:.1f} %)"
        )


def train_network(study: Study, files: list[Asked]) -> None:
    """Trains and saves what is missing of one network."""
    finished, epochs = finished_parts(study, files), epochs_to_keep(study, files[0])
    if there := [file.path for file, is_there in zip(files, finished) if is_there]:
        forget_states(there)
        if not all(finished):
            logger.info(f"finished before: {there[0]}")
    lacking = [lacks_gradients(study, file) for file in files]
    if all(finished) and not (epochs or any(lacking)):
        if not curves_path(study, files).exists():  # a kill came before them
            store_curves(study, files)
        return
    network = twin_of(study)(study, study.model_seed(files[0].name.id))
    for part, file in enumerate(files):
        if not finished[part]:
            train_file(study, network, part, files, [] if part else epochs)
            continue
        kept = [] if part else epochs
        if kept or lacking[part]:  # only what is kept on its way is missing
            keep = functools.partial(keep_epoch, study, network, file, kept)
            run = Run(network.key(part), describe_run(file.name))
            training = training_of(study, network, part, files)
            last = file.name.epochs if lacking[part] else max(kept)
            fit(training, run, range(last), pruning=file.pruning, at_epoch=keep)
            if lacking[part]:
                keep_gradients(study, network.counted(part), file, training.accumulated)
        if not all(finished) or (part == 0 and any(lacking)):
            network.load(part, file.path)
    store_curves(study, files)
    if later := epochs_to_keep(study, files[0]):  # from before the state that it went on from
        numbers = ", ".join(map(str, later))
        logger.info(f"note: give the same command again for the weights after {numbers} epochs")


def train_file(study: Study, network: Twin, part: int, files: list[Asked], kept_epochs: list[int]) -> None:
    """Trains one part of a network and saves it."""
    file, started, made_from = files[part], time.time(), [earlier.path for earlier in files[:part]]
    description = describe_run(file.name)

    def at_epoch(done: int) -> None:
        keep_epoch(study, network, file, kept_epochs, done)
        if part == 0:
            network.at_epoch(done)

    with training_state(study, file, network.seed, file.name.part, made_from) as state:
        run, training = (
            Run(network.key(part), description, state and state.epochs_left),
            training_of(study, network, part, files),
        )
        history = fit(training, run, range(file.name.epochs), pruning=file.pruning, at_epoch=at_epoch)
        last = history[-1]
        facts = [f"{len(history)} epochs, loss {last['loss']:.4f} (chance {last['chance_loss']:.4f})"]
        facts += [f"test accuracy {100 * last['test_accuracy']:.2f} %"] if "test_accuracy" in last else []
        facts += [f"sparsity {last['sparsity']:.6f}"] if "sparsity" in last else []
        logger.info(f"{description}: {', '.join(facts)}, {time.time() - started:.1f} s")
        if not study.flags.debug:
            facts = {"encoder_sha256": checkpoints.file_sha256(made_from[0])} if part else {}
            facts |= {"history": history, "run": process.environment(study.device, started)}
            if not file.pruning:
                keep_gradients(study, network.counted(part), file, training.accumulated)
            save(study, file, network.payload(part), network.counted(part), made_from, **facts)


def training_of(study: Study, network: Twin, part: int, files: list[Asked]) -> Training:
    """The training of a part, with sums of its gradients where they are asked for.

    Raises:
        UserError: the part before it, on whose outputs it is trained, gives some that are not finite.
    """
    file = files[part]
    with checkpoints.files_named([earlier.path for earlier in files[:part]]):
        training = network.training(part, file.configuration)
    if lacks_gradients(study, file):
        training.accumulated = GradientSums(training.pruned)
    return training


def keep_gradients(study: Study, network: torch.nn.Module, file: Asked, sums: dict | None) -> None:
    """Keeps the sums of a training beside its checkpoint, under the names that all ways of learning share."""
    if sums:
        payload = {layer_name(name): total.cpu().contiguous() for name, total in sums.items()}
        facts = {"run": process.environment(study.device, time.time()), "gradients": True}
        save(study, replace(file, path=gradients_path(file.path)), payload, network, **facts)


def training_state(
    study: Study, file: Asked, seed: int, stage: str, made_from: Sequence[Path]
) -> contextlib.AbstractContextManager:
    """The state of a file's training; nothing with --debug, which keeps nothing.

    Args:
        stage: which training it is; made_from: the checkpoints that it begins with.
    """
    if study.flags.debug:
        return contextlib.nullcontext()
    facts = {
        "configuration": file.configuration,
        "seed": seed,
        "stage": stage,
        "data": study.data.train_checksum[:12],
        "made_from": " ".join(checkpoints.file_sha256(path)[:12] for path in made_from),
    }
    flags = study.flags
    return TrainingState(state_path(file.path), facts, flags.save_every, study.folder_flag, flags.other_code)


def keep_epoch(study: Study, network: Twin, file: Asked, epochs: list[int], done: int) -> None:
    """Keeps the weights after `done` epochs where that is one of `epochs`."""
    if done not in epochs:
        return
    if file.name.part == "encoder":  # a classifier's outputs are seen by its test scores
        check_outputs(network.counted(0), study.data)
    path = epoch_path(file.path, done)
    run = process.environment(study.device, time.time())
    payload = {"model": checkpoints.cpu_state(network.kept)}
    save(study, replace(file, path=path), payload, network.counted(0), run=run, epoch=done)
    logger.info(f"kept: {path}")


def save(
    study: Study,
    file: Asked,
    payload: dict,
    network: torch.nn.Module,
    made_from: Sequence[Path] = (),
    **facts,
) -> None:
    """Saves a file of a network with its record; layers of which nothing is left are named.

    Args:
        made_from: the checkpoints that its training began with; facts: what the record says beside name,
            configuration, seed, data and sparsity.
    """
    facts = {"history": [], **facts, "seed": study.model_seed(file.name.id), "data": study.data.facts()}
    if study.flags.other_code:
        facts["other_code"] = True
    if parents := checkpoints.made_from_other_code(made_from):
        facts["made_from_other_code"] = parents
    record = checkpoints.make_record(file.name, file.configuration, network, **facts)
    shares, of_head = record["sparsity"]["per_tensor"], file.name.part == "head"
    # Encoder and head tell of the same network: each names its own layers. Without its bias a layer works.
    emptied = [
        layer_name(tensor).removesuffix(".weight")
        for tensor, share in shares.items()
        if share == 1.0
        and tensor.startswith("classification_head.") == of_head
        and tensor.endswith(".weight")
    ]
    if emptied and not facts.keys() & {"epoch", "gradients"}:
        logger.info(f"{describe_run(file.name)}: all weights of {', '.join(emptied)} are pruned")
    checkpoints.save_checkpoint(file.path, payload, record)


def describe_run(name: CheckpointName) -> str:
    """A training in the story: `SupCon later_GMP 0.9 id 3 head`, or `supervised id 3` of a dense network."""
    pruned = f" {name.pruning_method} {name.sparsity}" if name.sparsity else ""
    part = "" if name.part == "supervised" else f" {name.part}"
    return f"{name.learning_method}{pruned} id {name.id}{part}"


def curves_path(study: Study, files: list[Asked]) -> Path:
    """The picture of a network's curves."""
    return study.log_folder / f"{files[-1].path.stem}_curves.png"


def store_curves(study: Study, files: list[Asked]) -> None:
    """Stores and draws the curves of a network beside its log, from the histories in its records."""
    from common import plots

    name, path = files[-1].name, curves_path(study, files)
    records = {file.name.part: checkpoints.read_record(file.path) or {} for file in files}
    histories = {part: record.get("history", []) for part, record in records.items()}
    if study.flags.debug or not any(histories.values()):
        return  # nothing is stored, or it is external
    method = f"{study.learning_method} · {methods.with_sparsity(name.pruning_method, name.sparsity)}"
    external = ", external" * any(not record for record in records.values())  # a head on such an encoder
    title = f"{study.data.title} · {method} · 1 model, id {name.id} ({study.architecture}{external})"
    stages = {part.replace("encoder", study.learning_method): histories[part] for part in histories}
    stages = {stage: history for stage, history in stages.items() if history}
    arrays = {"figure": "curves", "title": title, "stages": list(stages)}
    for stage, history in stages.items():
        keys = dict.fromkeys(key for entry in history for key in entry)  # sparsity: from the first pruning on
        arrays |= {f"{stage}_{key}": [entry.get(key, 0.0) for entry in history] for key in keys}
    arrays = {key: np.asarray(value) for key, value in arrays.items()}
    write_arrays(path.with_suffix(".npz"), arrays, {"model": files[-1].path.stem})
    write_rows(
        path.with_suffix(".csv"),
        [{"stage": stage, **entry} for stage, history in stages.items() for entry in history],
    )
    plots.save_figure(path, plots.draw(arrays))


# Sharing


@dataclass(frozen=True)
class Job:
    """Work that makes a file, unless the file is there."""

    path: Path
    work: Callable[[], object]


def share(study: Study, jobs: list[Job]) -> bool:
    """Does all jobs, together with whoever else works on them, and returns True when all are done.

    A worker returns False when nothing is left that it could begin: what follows is done once, by the process
    that started it.

    Raises:
        UserError: a worker stopped.
    """
    flags, busy = study.flags, []
    if flags.workers and jobs and not flags.debug:
        _run_workers(study, jobs)
    with progress(study, jobs) as bar:
        for job in jobs:
            # --debug saves nothing that could be shared.
            with contextlib.nullcontext(True) if flags.debug else claim(job.path, wait=False) as held:
                job.work() if held else busy.append(job)
            bar.update()
    if WORKER in os.environ:
        return False
    for job in busy:
        with claim(job.path, wait=True):
            job.work()
    return True


def progress(study: Study, jobs: list[Job]) -> tqdm:
    """A bar of the jobs that are done; none without a terminal, which workers have not."""
    return tqdm(total=len(jobs), desc=f"{study.script}, finished", disable=None, leave=False)


def _run_workers(study: Study, jobs: list[Job]) -> None:
    """Gives this script's command to --workers processes and waits for them; what they say is in the log."""
    flags = study.flags
    count = min(flags.workers, len(jobs))
    threads = flags.threads or max(1, torch.get_num_threads() // count)
    # The device is named, so that it is not one for each worker.
    more = f"--workers 0 --threads {threads} --cuda_device {flags.cuda_device}".split()
    command = [sys.executable, str(SCRIPTS / f"{study.script}.py"), *flags.argv, *more]
    environment = {**os.environ, WORKER: "1", "OMP_NUM_THREADS": str(threads)}
    logger.info(f"{count} workers of {threads} threads")
    with tempfile.TemporaryFile("w+") as errors:
        kept_apart = {"stdout": subprocess.DEVNULL, "stderr": errors, "env": environment}
        workers = [subprocess.Popen(command, **kept_apart) for _ in range(count)]
        try:
            with progress(study, jobs) as bar:
                while any(worker.poll() is None for worker in workers):
                    bar.update(sum(job.path.exists() for job in jobs) - bar.n)
                    time.sleep(POLL_SECONDS)
        finally:
            for worker in workers:
                worker.terminate()  # after an interruption; they keep their states
            for worker in workers:
                worker.wait()
        errors.seek(0)
        lines = [line.strip() for line in errors if line.startswith(study.script)]
    flags.workers = 0  # all studies of the command have been worked on
    if failed := [worker.returncode for worker in workers if worker.returncode]:
        raise UserError(
            f"a worker of {count} ended ({lines[0] if lines else f'status {failed[0]}'}); finished models "
            "are kept, mend the cause and give the same command"
        )
