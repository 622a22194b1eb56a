"""Runs the trainings that a command requests: lists the files, skips finished ones, makes the others.

A job makes one network. Processes share the jobs: each locks a network, checks which files are finished and
makes the others. The lock ends with the process. `--workers N`, several shells, machines on one file system,
a Slurm array and torchrun all work this way. Results do not depend on which process does a job.
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
STOP_SECONDS = 20  # after which a worker is told again to stop


# Requested files


@dataclass(frozen=True)
class CheckpointSpec:
    """A requested checkpoint and the files that its training saves beside it.

    configuration: settings that all networks of the population share; pruning: the schedule of pruning during
    training; kept_files: weights after some epochs, sums of gradients.
    """

    name: CheckpointName
    path: Path
    configuration: dict
    pruning: GradualPruning | None = None
    kept_files: tuple[Path, ...] = ()


def training_files(study: Study, sparsity: float, model_id: int) -> list[CheckpointSpec]:
    """Returns the files of a network that a training script makes: dense, or pruned during training if the
    sparsity is above 0."""
    flags, learner, files, matched = study.flags, learner_of(study), [], study.match_sparsity
    method = PruningMethod(methods.SMALL if matched else "dense")
    if sparsity:
        method = requested.method(flags, flags.schedule)
    configuration = study.configuration()
    if sparsity or matched:
        configuration |= {"pruning_method": str(method), "sparsity": sparsity or matched}
    if sparsity:
        configuration |= {key: getattr(method, key) for key in ("schedule", "criterion", "scope")}
    for index, part in enumerate(learner.parts):
        is_head, pruning = part == "head", None
        configuration = configuration | settings.from_flags(learner.settings(index), flags)
        if sparsity:
            pruning = requested.gradual_pruning(flags, sparsity, part, len(study.data.train_images))
        if pruning:
            for key in ("begin_step", "end_step", "frequency"):
                configuration[f"{key}_head" if is_head else key] = getattr(pruning, key)
        epochs = flags.head_epochs if is_head else flags.epochs
        name = study.name(part, str(method), sparsity or matched, epochs, flags.batch_size, model_id)
        path = study.folder_of(part) / str(name)
        kept_files = []
        if not sparsity:
            kept_files += [epoch_path(path, epoch) for epoch in flags.save_epochs if not is_head]
            kept_files += [gradients_path(path)] * flags.accumulate_gradients
        files.append(CheckpointSpec(name, path, configuration, pruning, tuple(kept_files)))
    return files


# Finished and missing files


def is_finished(study: Study, file: CheckpointSpec, **parents) -> bool:
    """Whether a checkpoint exists and has these settings, data and code. External checkpoints, which have no
    record, count as finished.

    Args:
        parents: SHA-256 of the networks that it is made from, under their keys in the record.
    Raises:
        UserError: a file with different settings, code or parents is in the way; the message says what
            differs.
    """
    path = file.path
    if not path.exists():
        return False
    if path.is_dir():
        raise UserError(f"{path} is a folder where a checkpoint should be; move it away")
    if record := records.read_record(path, file.name):
        expected = {"configuration": file.configuration, "data": study.data.facts(), **parents}
        records.check_record(path, record, expected, keep_both(study, file), study.flags.other_code)
    return True


def keep_both(study: Study, file: CheckpointSpec) -> str:
    """Returns the remedy for a file with different settings that is in the way."""
    flag = "--head_save_path" if file.name.part == "head" else study.folder_flag
    # Without dense networks in the folder given, those of the default folder would be pruned.
    copied = " with a copy of the dense networks" if "dense" in file.configuration else ""
    return f"to keep both, give {flag} another folder{copied}"


def missing_files(study: Study, file: CheckpointSpec, **parents) -> list[Path]:
    """Returns which of a checkpoint and the files that its training saves beside it are missing; with --debug
    always the checkpoint.

    Raises:
        UserError: see `is_finished`; a file that the training of an external checkpoint did not save.
    """
    if study.flags.debug:
        return [file.path]
    missing = [] if is_finished(study, file, **parents) else [file.path]
    missing += [path for path in file.kept_files if not is_finished(study, replace(file, path=path))]
    if missing and is_external(file):
        raise UserError(
            f"{file.path} is external: its training is unknown, so {missing[0].name} cannot be made; leave "
            "the flag out, or give another folder"
        )
    return missing


def missing_parts(study: Study, files: Sequence[CheckpointSpec]) -> list[list[Path]]:
    """Returns the `missing_files` of each part of a network.

    Raises:
        UserError: see `missing_files`; an external head without its encoder.
    """
    first, *heads = files
    missing, parents = [missing_files(study, first)], {}
    if heads and first.path.exists():  # a head's record has the checksum of its encoder
        parents["encoder_sha256"] = records.file_sha256(first.path)
    missing += [missing_files(study, head, **parents) for head in heads]
    if first.path in missing[0] and not study.flags.debug:
        refuse_to_replace(heads)
    return missing


def is_external(file: CheckpointSpec) -> bool:
    """Whether a checkpoint exists without a record."""
    return file.path.exists() and not record_path(file.path).exists()


def refuse_to_replace(files: Sequence[CheckpointSpec]) -> None:
    """Refuses to overwrite an external checkpoint, which cannot be made again.

    Raises:
        UserError: one of the files is external.
    """
    for file in files:
        if is_external(file):
            raise UserError(
                f"{file.path} is external, and the other part of its network is missing or has changed; put "
                "them together or move it away"
            )


def log_finished(study: Study, networks: Sequence[Sequence[CheckpointSpec]], finished: int) -> None:
    """Logs how many of the networks, each given by its files, are finished, and which are external."""
    if study.flags.debug:
        return
    if finished:
        logger.info(f"finished before: {finished} of {len(networks)} networks")
    records.log_external([file.path for files in networks for file in files if is_external(file)])


# Training


def train_networks(study: Study) -> None:
    """Trains and saves the networks of a training script with ids from --index_start to --index_end; skips
    finished ones."""
    sparsities = requested.sparsities_to_train(study.flags)
    log_widths(study)
    ids = requested.model_ids(study.flags)
    networks = [training_files(study, sparsity, model_id) for sparsity in sparsities for model_id in ids]
    # Rejects conflicting files before the first training.
    finished = [not any(missing_parts(study, files)) for files in networks]
    log_finished(study, networks, sum(finished))
    share(study, [Job(files[-1].path, functools.partial(train_network, study, files)) for files in networks])


def log_widths(study: Study) -> None:
    """Logs how narrow the networks of --match_sparsity are.

    Raises:
        UserError: two groups have equally many channels, so that there is no shortcut between them.
    """
    depth, widen_factor = study.architecture.model_depth, study.architecture.widen_factor
    if sparsity := study.match_sparsity:
        narrow, full = models.channels(depth, widen_factor, sparsity), models.channels(depth, widen_factor)
        if len({*narrow[1:]}) < 3:
            raise UserError(f"--match_sparsity {sparsity} leaves groups of {narrow[1:]} channels; give less")
        weights, all_weights = (models.convolution_weights(depth, widths) for widths in (narrow, full))
        logger.info(
            f"{methods.SMALL} {sparsity}: {', '.join(map(str, narrow))} channels instead of "
            f"{', '.join(map(str, full))}, "
            f"{weights:,} of {all_weights:,} convolution weights ({100 * weights / all_weights:.1f} %)"
        )


def train_network(study: Study, files: list[CheckpointSpec]) -> None:
    """Trains and saves the missing parts of one network. If only a file beside a checkpoint is missing, the
    training is repeated, with the same result."""
    network = None
    for part, file in enumerate(files):
        with claim_beside(study, file.path, files[-1].path):
            missing = missing_parts(study, files)[part]
            if not missing:
                state_path(file.path).unlink(missing_ok=True)
                continue
            network = network or learner_of(study)(study, study.model_seed(file.name.id))
            if not study.flags.debug:  # a head is trained on the encoder in the file
                for earlier, finished in enumerate(files[:part]):
                    network.load(earlier, finished.path)
            train_file(study, network, part, files, missing)
    if study.flags.debug:
        return
    if network or not curves_path(files[-1].path).exists():  # an earlier run may have been killed before this
        store_curves(study, files)
    # A resumed training cannot save the weights of earlier epochs.
    if later := missing_parts(study, files)[0]:
        logger.info(f"note: repeat the same command for {', '.join(path.name for path in later)}")


def train_file(
    study: Study, network: Learner, part: int, files: list[CheckpointSpec], missing: list[Path]
) -> None:
    """Trains one part of a network and saves the missing files."""
    file, started, made_from = files[part], time.time(), [earlier.path for earlier in files[:part]]
    description, sums = describe_run(file.name), gradients_path(file.path)

    def at_epoch(done: int) -> None:
        if (path := epoch_path(file.path, done)) in missing:
            if file.name.part == "encoder":  # the test scores check a classifier's outputs
                check_outputs(network.counted(0), study.data)
            payload = {"model": records.cpu_state(network.kept)}
            entries = {
                "run": process.environment(study.device, time.time()),
                "epoch": done,
                **state.code_entry,
            }
            save(study, replace(file, path=path), payload, network.counted(0), **entries)
            logger.info(f"saved: {path}")
        if part == 0:
            network.at_epoch(done)

    with records.files_named(made_from):  # a head is trained on outputs of its encoder
        training = network.training(part, file.configuration)
    if sums in missing:
        training.accumulated = GradientSums(training.pruned)
    with training_state(study, file, file.name.part, made_from) as state:
        run = TrainingContext(network.key(part), description, state and state.epochs_left)
        history = fit(training, run, range(file.name.epochs), pruning=file.pruning, at_epoch=at_epoch)
        logger.info(
            f"{description}: {len(history)} epochs, {describe_epoch(history[-1])}, "
            f"{time.time() - started:.1f} s"
        )
        if study.flags.debug:
            return
        content = records.torch_bytes(network.payload(part))
        if file.path not in missing and content != file.path.read_bytes():
            logger.info(
                f"warning: repeated, the training of {file.path} ended in other weights (threads or machine "
                "differ): what it saved now belongs to those"
            )
        if sums in missing:
            save_gradients(study, file, network.counted(part), training.accumulated, **state.code_entry)
        if file.path in missing:
            entries = {"history": history, "run": process.environment(study.device, started)}
            if part:
                entries["encoder_sha256"] = records.file_sha256(made_from[0])
            entries |= state.code_entry
            save(study, file, network.payload(part), network.counted(part), made_from, **entries)


def save_gradients(study: Study, file: CheckpointSpec, network: torch.nn.Module, sums: dict, **facts) -> None:
    """Saves the sums of gradients beside their checkpoint, under layer names that all learners share; for
    `facts` see `save`."""
    payload = {layer_name(name): total.cpu().contiguous() for name, total in sums.items()}
    run, path = process.environment(study.device, time.time()), gradients_path(file.path)
    save(study, replace(file, path=path), payload, network, run=run, **facts)


def training_state(
    study: Study, file: CheckpointSpec, stage: str, made_from: Sequence[Path]
) -> contextlib.AbstractContextManager:
    """Returns the state of a checkpoint's training; with --debug, which saves nothing, an empty context.

    Args:
        stage: identifies the training; made_from: the checkpoints that it starts from.
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
        network: its sparsity is measured; made_from: the checkpoints that the training started from; facts:
            entries of the record besides name, configuration, seed, data and sparsity.
    """
    facts |= {"seed": study.model_seed(file.name.id), "data": study.data.facts()}
    if parents := records.made_from_other_code(made_from):
        facts["made_from_other_code"] = parents
    records.save_checkpoint(file.path, payload, file.name, file.configuration, network, **facts)


def describe_run(name: CheckpointName) -> str:
    """Names a training in the log: `SupCon later_GMP 0.9 id 3 head`, or `supervised id 3` if it is dense."""
    pruned = f" {name.pruning_method} {name.sparsity}" if name.sparsity else ""
    part = "" if name.part == "supervised" else f" {name.part}"
    return f"{name.learning_method}{pruned} id {name.id}{part}"


def curves_path(checkpoint: Path) -> Path:
    """Returns the path of the figure of a network's training curves, beside its last checkpoint."""
    return checkpoint.with_name(f"{checkpoint.stem}_curves.png")


def store_curves(study: Study, files: list[CheckpointSpec]) -> None:
    """Draws the training curves of a network and writes them to a CSV, from the histories in its records."""
    from common import plots

    name, path = files[-1].name, curves_path(files[-1].path)
    record_of = {file.name.part: records.read_record(file.path) for file in files}
    histories = {
        part.replace("encoder", study.learning_method): record["history"]
        for part, record in record_of.items()
        if record and record.get("history")
    }
    if not histories:  # external networks have no history
        return
    method = f"{study.learning_method} · {methods.with_sparsity(name.pruning_method, name.sparsity)}"
    external = "" if all(record_of.values()) else ", external"  # a head on an external encoder
    title = f"{study.data.title} · {method} · 1 model, id {name.id} ({study.architecture}{external})"
    rows = [{"stage": stage, **entry} for stage, history in histories.items() for entry in history]
    write_rows(path.with_suffix(".csv"), rows)
    plots.save_figure(path, plots.draw_curves(title, histories))


# Sharing


@dataclass(frozen=True)
class Job:
    """Work that makes a file; it does nothing if the file is finished."""

    path: Path
    work: Callable[[], object]


def share(study: Study, jobs: list[Job]) -> bool:
    """Does all jobs, together with other processes that work on them, and returns True when all are done.

    A worker does not wait for jobs of other processes. It returns False, and the process that started it
    continues with the next stage.

    Raises:
        UserError: a worker stopped.
    """
    flags, claimed_elsewhere = study.flags, []
    if flags.workers and not flags.debug:
        _run_workers(study, jobs)
    with progress(study, jobs) as bar:
        for job in jobs:
            # --debug saves nothing that could be shared.
            with contextlib.nullcontext(True) if flags.debug else claim(job.path, wait=False) as is_held:
                if is_held:
                    job.work()
                else:
                    claimed_elsewhere.append(job)
            bar.update()
    if WORKER in os.environ:
        return False
    for job in claimed_elsewhere:
        with claim(job.path, wait=True):
            job.work()
    return True


def claim_beside(study: Study, path: Path, job_path: Path) -> contextlib.AbstractContextManager:
    """Locks a file that jobs of different commands may make, such as an encoder with several heads. `share`
    holds the lock of the job's last file."""
    if path == job_path or study.flags.debug:
        return contextlib.nullcontext()
    return claim(path, wait=True)


def progress(study: Study, jobs: list[Job]) -> tqdm:
    """Returns a progress bar of finished jobs; it is hidden without a terminal, as in workers."""
    return tqdm(total=len(jobs), desc=f"{study.script}, finished", disable=None, leave=False)


def _run_workers(study: Study, jobs: list[Job]) -> None:
    """Runs this script's command in --workers processes and waits for them; their output is in the log."""
    flags = study.flags
    count = min(flags.workers, len(jobs))
    threads = flags.threads or max(1, torch.get_num_threads() // count)
    # An explicit device makes the workers ignore LOCAL_RANK.
    extra_flags = f"--workers 0 --threads {threads} --cuda_device {flags.cuda_device}".split()
    command = [sys.executable, str(SCRIPTS / f"{study.script}.py"), *flags.argv, *extra_flags]
    environment = {**os.environ, WORKER: "1", "OMP_NUM_THREADS": str(threads)}
    logger.info(f"{count} workers with {threads} threads each")
    with tempfile.TemporaryFile("w+") as errors:
        workers = [
            subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, env=environment)
            for _ in range(count)
        ]
        try:
            with progress(study, jobs) as bar:
                while any(worker.poll() is None for worker in workers):
                    bar.update(sum(job.path.exists() for job in jobs) - bar.n)
                    time.sleep(POLL_SECONDS)
        finally:
            for worker in workers:
                worker.terminate()  # after an interruption; workers save their states
            for worker in workers:
                while worker.poll() is None:  # Python drops a signal that arrives in a destructor
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        worker.wait(STOP_SECONDS)
                    worker.terminate()
        errors.seek(0)
        lines = [line.strip() for line in errors if line.startswith(study.script)]
    flags.workers = 0  # the workers have done all studies of the command
    if failed := [worker.returncode for worker in workers if worker.returncode]:
        raise UserError(
            f"a worker of {count} stopped ({lines[0] if lines else f'status {failed[0]}'}); finished models "
            "are kept; fix the cause and repeat the same command"
        )
