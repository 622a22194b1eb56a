"""Files that are there whole or not at all."""

import glob
import io
import json
import os
from pathlib import Path
from typing import Callable

import torch


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
    content = io.BytesIO()
    torch.save(payload, content)
    path.write_bytes(content.getbuffer())


def write_json(path: Path, content: dict) -> None:
    """Writes `content` as indented JSON, atomically."""
    write_atomically(path, lambda temporary: temporary.write_text(json.dumps(content, indent=1) + "\n"))
