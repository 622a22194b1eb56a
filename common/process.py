"""What a call does to its process: the device, determinism, memory, the log in logs/. torch waits until it
is needed."""

import ctypes
import logging
import os
import platform
import re
import shlex
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from common.cli import UserError, logger, refuse_pipe

if TYPE_CHECKING:
    import torch

CACHES: list[tempfile.TemporaryDirectory] = []
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt, in glibc's malloc.h


def select_device(cuda_device: int) -> "torch.device":
    """The CUDA device of that id, or the CPU where there is no CUDA.

    Raises:
        UserError: CUDA is there but not a device of this id.
    """
    import torch

    if not torch.cuda.is_available():
        logger.info(f"no CUDA device: running on the CPU with {torch.get_num_threads()} threads")
        return torch.device("cpu")
    devices = range(torch.cuda.device_count())
    if cuda_device not in devices:
        names = ", ".join(f"{index} ({torch.cuda.get_device_name(index)})" for index in devices)
        raise UserError(f"--cuda_device {cuda_device} does not exist; devices: {names}")
    return torch.device("cuda", cuda_device)


def environment_number(name: str) -> int | None:
    """A whole number that a launcher (torchrun, Slurm) puts into the environment; None where there is none.

    Raises:
        UserError: something else is there.
    """
    text = os.environ.get(name, "")
    if text and not re.fullmatch("[0-9]{1,9}", text):
        raise UserError(f"the environment has {name}={text!r}, which is no whole number; unset {name}")
    return int(text) if text else None


def set_determinism(deterministic: bool) -> None:
    """`--cuda_deterministic`: deterministic algorithms alone, an error where an operation has none, cuDNN
    without autotuning and cuBLAS with a fixed workspace. No effect on the CPU."""
    import torch

    if deterministic:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    # As use_deterministic_algorithms, which would import the compiler, for seconds.
    torch.set_deterministic_debug_mode("error" if deterministic else "default")
    torch.utils.deterministic.fill_uninitialized_memory = False  # which is for finding bugs
    torch.backends.cudnn.allow_tf32 = False  # float32 means float32, in convolutions too
    torch.backends.cudnn.deterministic = deterministic
    torch.backends.cudnn.benchmark = not deterministic


def _end_run(handler: logging.Handler, record: logging.LogRecord) -> None:
    """What a log cannot write ends the run, as a model that cannot be written does."""
    error = sys.exc_info()[1]
    if isinstance(error, OSError):
        error.filename = getattr(handler, "baseFilename", None)
    raise error


class _Console(logging.StreamHandler):
    """Progress bars are taken off the terminal while a line is written."""

    def emit(self, record: logging.LogRecord) -> None:
        with tqdm.external_write_mode():
            super().emit(record)


def start_logging(script: str, folder: Path, debug: bool) -> None:
    """Messages go to stdout and, with their time, to FOLDER/SCRIPT.log; `debug` shows every step on stdout
    too."""
    folder.mkdir(parents=True, exist_ok=True)
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    path = folder / f"{script}.log"
    refuse_pipe(path)
    console, log_file = _Console(sys.stdout), logging.FileHandler(path)
    console.setLevel(logging.DEBUG if debug else logging.INFO)
    for handler, form in ((console, "%(message)s"), (log_file, "%(asctime)s %(message)s")):
        handler.setFormatter(logging.Formatter(form))
        handler.handleError = partial(_end_run, handler)
        logger.addHandler(handler)


def keep_freed_memory() -> bool:
    """Has the C library keep the memory of large freed tensors for the next ones; whether it can.

    Left alone it hands every tensor of more than 32 MB back to the system, whose next pages are cleared one
    by one: a third of a contrastive training step on a CPU. The process keeps what it needed at most. No
    number depends on it.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False  # another C library
    return bool(mallopt(M_MMAP_THRESHOLD, 2**30) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


def cache_compiled_code() -> bool:
    """Has numba, where it can write neither into its packages nor into the home, keep what it compiles in a
    folder that goes with this process; whether it did not before."""
    if not CACHES:
        CACHES.append(tempfile.TemporaryDirectory())
        os.environ["NUMBA_CACHE_DIR"] = CACHES[0].name
        if numba := sys.modules.get("numba"):
            numba.config.reload_config()
        return True
    return False


def environment(device: "torch.device", started: float) -> dict:
    """What a record says of the run: versions, device, threads, seconds."""
    import numpy as np
    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    return {
        "command": command_line(),
        "device": f"{device.type}: {name}",
        "threads": torch.get_num_threads(),
        "seconds": round(time.time() - started, 2),
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": versions,
    }


def command_line() -> str:
    """The command that started this process, as one would type it."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def processor() -> str:
    """The processor's name and its number of cores."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    match = re.search(r"^model name\s*:\s*(.*\S)", text, re.MULTILINE)
    name = match[1] if match else platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores"
