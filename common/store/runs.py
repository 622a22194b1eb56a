"""Trainings that a command requests: which files, what of them is there, who makes the rest, how it is kept.

A job makes one network. Processes share the jobs: each claims a network by a lock, which ends with the
process, checks what is finished, and does the rest. `--workers N`, several shells, several machines on one
file system, a Slurm array and torchrun are the same thing. Results do not depend on who does what.
"""

import contextlib
import functools
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable, Sequence

import torch
from tqdm import tqdm

from common import methods, models, process, requested, settings
from common.cli import WORKER, UserError, logger
from common.learners import Learner, learner_of
from common.methods import PruningMethod
from common.pruning import GradientSums, GradualPruning, layer_name
from common.store import records
from common.store.files import claim
from common.store.names import CheckpointName, epoch_path, gradients_path, record_path, state_path
from common.store.records import TrainingState
from common.store.table import write_rows
from common.study import Study
from common.training import TrainingContext, check_outputs, describe_epoch, fit

SCRIPTS = Path(__file__).resolve().parent.parent.parent
POLL_SECONDS = 0.2


# What is requested


@dataclass(frozen=True)
class CheckpointSpec:
    """A checkpoint that a command requests, and what its training leaves beside it.

    configuration: what all networks of the population share; pruning: by which it is pruned while it trains;
    kept_files: weights after some epochs, sums of gradients.
    """

    name: CheckpointName
    path: Path
    configuration: dict
    pruning: GradualPruning | None = None
    kept_files: tuple[Path, ...] = ()


def training_files(study: Study, sparsity: float, model_id: int) -> list[CheckpointSpec]:
    """The files of a network that a training script makes: dense, or pruned while it trains to a sparsity
    above 0."""
    flags, learner, files, matched = study.flags, learner_of(study), [], study.match_sparsity
    method = PruningMethod(methods.SMALL if matched else "dense")
    if sparsity:
        method = requested.method(flags, flags.schedule)
    configuration = study.configuration()
    if sparsity or matched:
        configuration |= {"pruning_method": str(method), "sparsity": sparsity or matched}
    if sparsity:
        configuration |= {key: getattr(method, key) for key in ("schedule", "criterion", "scope")}
    for place, (part, folder) in enumerate(zip(learner.parts, (study.folder, study.head_folder))):
        is_head, pruning = part == "head", None
        configuration = configuration | settings.from_flags(learner.settings(place), flags)
        if sparsity:
            kind = "contrastive" if part == "encoder" else part
            pruning = requested.gradual_pruning(flags, sparsity, kind, len(study.data.train_images))
        if pruning:
            for key in ("begin_step", "end_step", "frequency"):
                configuration[f"{key}_head" if is_head else key] = getattr(pruning, key)
        epochs = flags.head_epochs if is_head else flags.epochs
        name = study.name(part, str(method), sparsity or matched, epochs, flags.batch_size, model_id)
        path = folder / str(name)
        kept = [epoch_path(path, epoch) for epoch in flags.save_epochs if not is_head]
        if flags.accumulate_gradients and not sparsity:
            kept.append(gradients_path(path))
        files.append(CheckpointSpec(name, path, configuration, pruning, tuple(kept)))
    return files


# What is there


def is_finished(study: Study, file: CheckpointSpec, path: Path | None = None, **parents) -> bool:
    """Whether a checkpoint, or with `path` a file beside it, is there already: made with these settings, data
    and code. An external one, which has no record, is. No other function answers this; --debug saves and
    reads nothing.

    Args:
        parents: SHA-256 of the networks that it is made from, as its record names them.
    Raises:
        UserError: one made with other settings, code or networks is in the way; the message says what
            differs.
    """
    path = path or file.path
    if study.flags.debug or not path.exists():
        return False
    if path.is_dir():
        raise UserError(f"{path} is a folder where a checkpoint should be; move it away")
    if record := records.read_record(path):
        wanted = {"configuration": file.configuration, "data": study.data.facts(), **parents}
        records.check_record(path, record, wanted, keep_both(study, file), study.flags.other_code)
    return True


def keep_both(study: Study, file: CheckpointSpec) -> str:
    """What to do about a file that is in the way of another."""
    flag = "--head_save_path" if file.name.part == "head" else study.folder_flag
    return f"to keep both, give {flag} another folder"


def missing_files(study: Study, file: CheckpointSpec, **parents) -> list[Path]:
    """What the training of a checkpoint is to leave and is not there: the checkpoint, and files beside it.

    Raises:
        UserError: as `is_finished`; what an external training did not keep.
    """
    missing = [] if is_finished(study, file, **parents) else [file.path]
    if study.flags.debug:
        return missing
    missing += [path for path in file.kept_files if not is_finished(study, file, path)]
    if missing and is_external(file):
        raise UserError(
            f"{file.path} is external: its training is not known, so {missing[0].name} cannot be made; leave "
            "the flag out, or give another folder"
        )
    return missing


def missing_parts(study: Study, files: Sequence[CheckpointSpec]) -> list[list[Path]]:
    """`missing_files` of each part of a network.

    Raises:
        UserError: as they do; a head without its encoder that is external.
    """
    missing = []
    for part, file in enumerate(files):
        is_on_encoder = part and files[0].path.exists()  # the head's record says which one it was trained on
        parents = {"encoder_sha256": records.file_sha256(files[0].path)} if is_on_encoder else {}
        missing.append(missing_files(study, file, **parents))
    if files[0].path in missing[0]:
        refuse_to_replace(files[1:])
    return missing


def is_external(file: CheckpointSpec) -> bool:
    """Whether a checkpoint is there without a record."""
    return file.path.exists() and not record_path(file.path).exists()


def refuse_to_replace(files: Sequence[CheckpointSpec]) -> None:
    """Refuses to write over an external checkpoint, which cannot be made again.

    Raises:
        UserError: one of the files is external.
    """
    for path in [file.path for file in files if is_external(file)]:
        raise UserError(
            f"{path} is external, and its other half is missing or other; put them together or move it away"
        )


def say_finished(study: Study, networks: Sequence[Sequence[CheckpointSpec]]) -> None:
    """Says in one line how many of the networks, each given by its files, are there already; in another, of
    which of them nothing is known."""
    if study.flags.debug:
        return
    finished = sum(files[-1].path.exists() for files in networks)
    if finished:
        logger.info(f"finished before: {finished} of {len(networks)} networks")
    records.say_external([file.path for files in networks for file in files if is_external(file)])


# Training


def train_networks(study: Study, sparsities: list[float]) -> None:
    """Trains the networks of a training script, ids by --index_start and --index_end, and saves them;
    finished ones are skipped."""
    say_widths(study)
    jobs, networks = [], []
    for sparsity in sparsities:
        for model_id in requested.model_ids(study.flags):
            files = training_files(study, sparsity, model_id)
            missing_parts(study, files)  # refuses what is in the way before the first step
            networks.append(files)
            jobs.append(Job(files[-1].path, functools.partial(train_network, study, files)))
    say_finished(study, networks)
    share(study, jobs)


def say_widths(study: Study) -> None:
    """Says how narrow the networks of --match_sparsity are.

    Raises:
        UserError: so narrow that two groups have equally many channels, between which there is no shortcut.
    """
    shape, sparsity = (study.architecture.model_depth, study.architecture.widen_factor), study.match_sparsity
    if sparsity:
        narrow, full = (models.channels(*shape, each) for each in (sparsity, 0.0))
        if len({*narrow[1:]}) < 3:
            raise UserError(f"--match_sparsity {sparsity} leaves groups of {narrow[1:]} channels; give less")
        weights, all_weights = (models.convolution_weights(shape[0], each) for each in (narrow, full))
        logger.info(
            f"{methods.SMALL} {sparsity}: {', '.join(map(str, narrow))} channels of "
            f"{', '.join(map(str, full))}, "
            f"{weights:,} of {all_weights:,} weights of convolutions ({100 * weights / all_weights:.1f} %)"
        )


def train_network(study: Study, files: list[CheckpointSpec]) -> None:
    """Trains and saves what is missing of one network. Where only a file beside a checkpoint is missing, the
    training is done once more, with the same result."""
    network = None
    for part, file in enumerate(files):
        missing = missing_parts(study, files)[part]
        if not missing:
            state_path(file.path).unlink(missing_ok=True)
            continue
        if network is None:
            network = learner_of(study)(study, study.model_seed(file.name.id))
            for earlier, finished in enumerate(files[:part]):
                network.load(earlier, finished.path)
        train_file(study, network, part, files, missing)
        if file.path not in missing and file is not files[-1]:
            network.load(part, file.path)
    if network or not curves_path(study, files).exists():  # a kill came before them
        store_curves(study, files)
    # Epochs from before the state that the training went on from.
    if later := [path.name for path in missing_parts(study, files)[0] if not study.flags.debug]:
        logger.info(f"note: give the same command again for {', '.join(later)}")


def train_file(
    study: Study, network: Learner, part: int, files: list[CheckpointSpec], missing: list[Path]
) -> None:
    """Trains one part of a network and saves what is missing of what its training leaves."""
    file, started, made_from = files[part], time.time(), [earlier.path for earlier in files[:part]]
    description, sums = describe_run(file.name), gradients_path(file.path)

    def at_epoch(done: int) -> None:
        if (path := epoch_path(file.path, done)) in missing:
            if file.name.part == "encoder":  # a classifier's outputs are seen by its test scores
                check_outputs(network.counted(0), study.data)
            payload = {"model": records.cpu_state(network.kept)}
            facts = {"run": process.environment(study.device, time.time()), "epoch": done}
            save(study, replace(file, path=path), payload, network.counted(0), **facts)
            logger.info(f"kept: {path}")
        if part == 0:
            network.at_epoch(done)

    with records.files_named(made_from):  # a head is trained on outputs of its encoder
        training = network.training(part, file.configuration)
    if sums in missing:
        training.accumulated = GradientSums(training.pruned)
    with training_state(study, file, file.name.part, made_from) as state:
        run = TrainingContext(network.key(part), description, state and state.epochs_left)
        history = fit(training, run, range(file.name.epochs), pruning=file.pruning, at_epoch=at_epoch)
        facts = f"{len(history)} epochs, {describe_epoch(history[-1])}"
        logger.info(f"{description}: {facts}, {time.time() - started:.1f} s")
        if study.flags.debug:
            return
        if sums in missing:
            save_gradients(study, file, network.counted(part), training.accumulated)
        if file.path in missing:
            facts = {"encoder_sha256": records.file_sha256(made_from[0])} if part else {}
            facts |= {"history": history, "run": process.environment(study.device, started)}
            save(study, file, network.payload(part), network.counted(part), made_from, **facts)


def save_gradients(study: Study, file: CheckpointSpec, network: torch.nn.Module, sums: dict) -> None:
    """Saves the sums of a training beside its checkpoint, under the names that all ways of learning share."""
    payload = {layer_name(name): total.cpu().contiguous() for name, total in sums.items()}
    facts = {"run": process.environment(study.device, time.time()), "gradients": True}
    save(study, replace(file, path=gradients_path(file.path)), payload, network, **facts)


def training_state(
    study: Study, file: CheckpointSpec, stage: str, made_from: Sequence[Path]
) -> contextlib.AbstractContextManager:
    """The state of a file's training; nothing with --debug, which keeps nothing.

    Args:
        stage: which training it is; made_from: the checkpoints that it begins with.
    """
    if study.flags.debug:
        return contextlib.nullcontext()
    facts = {
        "configuration": file.configuration,
        "data": study.data.facts(),
        "seed": study.model_seed(file.name.id),
        "stage": stage,
        "made_from": [records.file_sha256(path) for path in made_from],
    }
    flags, path = study.flags, state_path(file.path)
    return TrainingState(path, facts, flags.save_every, keep_both(study, file), flags.other_code)


# A file, what it holds, and what it comes from.
def save(
    study: Study,
    file: CheckpointSpec,
    payload: dict,
    network: torch.nn.Module,
    made_from: Sequence[Path] = (),
    **facts,
) -> None:
    """Saves a file of a network with its record.

    Args:
        network: whose sparsity is counted; made_from: the checkpoints that its training began with; facts:
            what the record says beside name, configuration, seed, data and sparsity.
    """
    facts = {"history": [], **facts, "seed": study.model_seed(file.name.id), "data": study.data.facts()}
    if study.flags.other_code:
        facts["other_code"] = True
    if parents := records.made_from_other_code(made_from):
        facts["made_from_other_code"] = parents
    record = records.make_record(file.name, file.configuration, network, **facts)
    records.save_checkpoint(file.path, payload, record)


def describe_run(name: CheckpointName) -> str:
    """A training in the log: `SupCon later_GMP 0.9 id 3 head`, or `supervised id 3` of a dense network."""
    pruned = f" {name.pruning_method} {name.sparsity}" if name.sparsity else ""
    part = "" if name.part == "supervised" else f" {name.part}"
    return f"{name.learning_method}{pruned} id {name.id}{part}"


def curves_path(study: Study, files: list[CheckpointSpec]) -> Path:
    """The picture of a network's curves."""
    return study.log_folder / f"{files[-1].path.stem}_curves.png"


def store_curves(study: Study, files: list[CheckpointSpec]) -> None:
    """Draws the curves of a network beside its log and lists them in a CSV, from the histories in its
    records."""
    from common import plots

    name, path = files[-1].name, curves_path(study, files)
    found = {file.name.part: records.read_record(file.path) for file in files}
    histories = {
        part.replace("encoder", study.learning_method): record["history"]
        for part, record in found.items()
        if record and record.get("history")
    }
    if study.flags.debug or not histories:
        return  # nothing is stored, or it is external
    method = f"{study.learning_method} · {methods.with_sparsity(name.pruning_method, name.sparsity)}"
    external = "" if all(found.values()) else ", external"  # a head on such an encoder
    title = f"{study.data.title} · {method} · 1 model, id {name.id} ({study.architecture}{external})"
    rows = [{"stage": stage, **entry} for stage, history in histories.items() for entry in history]
    write_rows(path.with_suffix(".csv"), rows)
    plots.save_figure(path, plots.draw_curves(title, histories))


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
