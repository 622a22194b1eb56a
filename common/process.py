"""Sets up the process of a script: device, determinism, memory, the log in logs/. torch is imported only when
needed."""

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
    """Returns the CUDA device with this id, or the CPU if CUDA is unavailable.

    Raises:
        UserError: CUDA is available but has no device with this id.
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


def local_rank() -> int | None:
    """Returns the number of this process on its machine, as torchrun sets it, or None.

    Raises:
        UserError: the value is not a whole number.
    """
    text = os.environ.get("LOCAL_RANK", "")
    if text and not re.fullmatch("[0-9]{1,9}", text):
        raise UserError(f"environment variable LOCAL_RANK={text!r} is not a whole number; unset LOCAL_RANK")
    return int(text) if text else None


def set_determinism(deterministic: bool) -> None:
    """Sets or unsets deterministic algorithms (--cuda_deterministic): an operation without one is an error,
    cuDNN does not autotune, cuBLAS has a fixed workspace. No effect on the CPU."""
    import torch

    if deterministic:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    # Equivalent to use_deterministic_algorithms, which would spend seconds on importing the compiler.
    torch.set_deterministic_debug_mode("error" if deterministic else "default")
    torch.utils.deterministic.fill_uninitialized_memory = False  # only useful for debugging
    torch.backends.cudnn.allow_tf32 = False  # convolutions in full float32
    torch.backends.cudnn.deterministic = deterministic
    torch.backends.cudnn.benchmark = not deterministic


def _end_run(handler: logging.Handler, record: logging.LogRecord) -> None:
    """Raises errors of writing the log, which would otherwise be ignored."""
    error = sys.exc_info()[1]
    if isinstance(error, OSError):
        error.filename = getattr(handler, "baseFilename", None)
    raise error


class _Console(logging.StreamHandler):
    """Hides progress bars while it writes a line to the terminal."""

    def emit(self, record: logging.LogRecord) -> None:
        with tqdm.external_write_mode():
            super().emit(record)


def start_logging(script: str, folder: Path, debug: bool) -> None:
    """Sends messages to stdout and, with their time, to FOLDER/SCRIPT.log. `debug` shows debug messages on
    stdout too."""
    folder.mkdir(parents=True, exist_ok=True)
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    path = folder / f"{script}.log"
    refuse_pipe(path)
    console = _Console(sys.stdout)
    log_file = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    console.setLevel(logging.DEBUG if debug else logging.INFO)
    for handler, line_format in ((console, "%(message)s"), (log_file, "%(asctime)s %(message)s")):
        handler.setFormatter(logging.Formatter(line_format))
        handler.handleError = partial(_end_run, handler)
        logger.addHandler(handler)


def keep_freed_memory() -> None:
    """Makes the C library reuse the memory of large freed tensors, if it is glibc.

    By default it returns tensors of more than 32 MB to the system. Clearing new pages then takes a third of a
    contrastive training step on a CPU. The process keeps its peak memory. Results do not change.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return  # not glibc
    if mallopt(M_MMAP_THRESHOLD, 2**30):
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def cache_compiled_code() -> bool:
    """Makes numba cache compiled code in a temporary folder, for when it can write neither to its package nor
    to the home directory; returns False if it already does."""
    if not CACHES:
        CACHES.append(tempfile.TemporaryDirectory())
        os.environ["NUMBA_CACHE_DIR"] = CACHES[0].name
        if numba := sys.modules.get("numba"):
            numba.config.reload_config()
        return True
    return False


def environment(device: "torch.device", started: float) -> dict:
    """Returns the run's entry in a record: command, device, threads, seconds, versions."""
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
    """Returns the command that started this process, quoted for a shell."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def processor() -> str:
    """Returns the processor's name and number of cores."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    match = re.search(r"^model name\s*:\s*(.*\S)", text, re.MULTILINE)
    name = match[1] if match else platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores"
