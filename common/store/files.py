"""Files that are there whole or not at all."""

import glob
import io
import json
import os
from pathlib import Path
from typing import Callable

import numpy as np

from common.cli import logger

FORMAT = 2  # of the stored arrays: another number means that they are computed anew


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Calls `write(temporary path)` and renames the result to `path`: there is never half a file under that name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mine = f".{path.name}.{os.uname().nodename}."
    for left in path.parent.glob(f"{glob.escape(mine)}*.tmp{path.suffix}"):
        if not _is_running(left.name.removeprefix(mine).split(".")[0]):
            left.unlink(missing_ok=True)  # its process was killed
    temporary = path.with_name(f"{mine}{os.getpid()}.tmp{path.suffix}")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())  # before the name is there, the content is on the disk
        os.replace(temporary, path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk, say, names no file
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _is_running(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        pass  # of somebody else
    return True


def write_torch(path: Path, payload: dict) -> None:
    """torch.save by way of the memory: into a full disk it raises what says nothing of the disk.

    Given a path, it would write the file's name into the file: equal weights, other bytes.
    """
    import torch

    content = io.BytesIO()
    torch.save(payload, content)
    path.write_bytes(content.getbuffer())


def write_json(path: Path, content: dict) -> None:
    """Writes `content` as indented JSON, atomically."""
    write_atomically(path, lambda temporary: temporary.write_text(json.dumps(content, indent=1) + "\n"))


def write_arrays(path: Path, arrays: dict, made: dict) -> None:
    """Stores arrays in one .npz, atomically, with `made`: what they depend on."""
    content = {**arrays, "made": json.dumps({"format": FORMAT, **made}, sort_keys=True)}
    write_atomically(path, lambda temporary: np.savez_compressed(temporary, **content))


def read_arrays(path: Path, made: dict | None = None, only: tuple[str, ...] | None = None) -> dict | None:
    """The arrays of an .npz, with `only` those of these names; None where it is absent, unreadable or, with `made` given, made from
    something else."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files if only is None or name in only}
    except FileNotFoundError:
        return None
    except Exception as error:  # a torn or foreign file is one of many errors; it is computed again
        logger.info("%s cannot be read (%s): computed again", path, type(error).__name__)
        return None
    if made is not None and str(arrays.get("made")) != json.dumps({"format": FORMAT, **made}, sort_keys=True):
        return None
    return arrays
