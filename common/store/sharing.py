"""Sharing of work: a process claims a model by an operating-system lock on a file beside it, which a crash releases.

`--workers N`, several shells, several machines on one file system, a Slurm array and torchrun are the same thing: processes that claim,
check what is finished, and do the rest. Results do not depend on who does what.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Callable

import torch
from tqdm import tqdm

from common.cli import WORKER, UserError, logger
from common.store.files import claim
from common.study import Study

Job = tuple[
    Path, Callable[[], None]
]  # the file that is there when the job is done, and what does it unless it is done
SCRIPTS = Path(__file__).resolve().parent.parent.parent
POLL_SECONDS = 0.2


def rank_and_world() -> tuple[int, int]:
    """Which of how many processes this is, as torchrun and `--workers` say it; (0, 1) alone."""
    return int(os.environ.get("RANK", 0)), max(1, int(os.environ.get("WORLD_SIZE", 1)))


def share(study: Study, jobs: list[Job]) -> bool:
    """Does all jobs, together with whoever else works on them, and returns True when all are done.

    A worker returns False when nothing is left that it could begin: what follows is done once, by the process that started it.

    Raises:
        UserError: a worker stopped.
    """
    flags = study.flags
    if flags.debug:  # saves nothing that could be shared
        for _, work in jobs:
            work()
        return True
    if flags.workers and jobs:
        _run_workers(study, jobs)
    rank, world = rank_and_world()
    first = rank * len(jobs) // world
    busy = []
    for job in jobs[first:] + jobs[:first]:
        with claim(job[0], wait=False) as held:
            job[1]() if held else busy.append(job)
    if WORKER in os.environ:
        return False
    for path, work in busy:
        with claim(path, wait=True):
            work()
    return True


def _run_workers(study: Study, jobs: list[Job]) -> None:
    """Runs this script's command in --workers processes and waits for them."""
    flags = study.flags
    count = min(flags.workers, len(jobs))
    threads = flags.threads or max(1, torch.get_num_threads() // count)
    rank, world = rank_and_world()
    command = [
        sys.executable,
        str(SCRIPTS / f"{study.script}.py"),
        *flags.argv,
        "--workers",
        "0",
        "--threads",
        str(threads),
    ]
    logger.info("%d workers of %d threads", count, threads)
    said = [tempfile.TemporaryFile("w+") for _ in range(count)]
    workers = [
        subprocess.Popen(
            command,
            stderr=stderr,
            env={
                **os.environ,
                WORKER: str(index),
                "RANK": str(rank * count + index),
                "WORLD_SIZE": str(world * count),
                "OMP_NUM_THREADS": str(threads),
            },
        )
        for index, stderr in enumerate(said)
    ]
    try:
        with tqdm(total=len(jobs), desc=f"{study.script}, finished", disable=None, leave=False) as bar:
            while any(worker.poll() is None for worker in workers):
                bar.update(sum(path.exists() for path, _ in jobs) - bar.n)
                time.sleep(POLL_SECONDS)
    finally:
        for worker in workers:
            worker.terminate()  # of what is still running after an interruption
            worker.wait()
    flags.workers = 0  # all studies of the command have been worked on
    for index, worker in enumerate(workers):
        if worker.returncode != 0:
            said[index].seek(0)
            words = said[index].read().strip().splitlines()
            raise UserError(
                f"worker {index} of {count} ended with status {worker.returncode} ({words[-1] if words else 'without a word'}); finished models "
                "are kept, mend the cause and give the same command"
            )
