"""Atomic writes, stored arrays with their dependencies, locks, and digests of code. Does not import torch.

A file is written under a temporary name and then renamed, so that it is complete or absent. The comment of an
.npz holds a digest of its directory; an .npz whose digest does not match is not read.
"""

import ast
import errno
import functools
import hashlib
import inspect
import json
import os
import zipfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Callable, Iterator

import filelock
import numpy as np

from common.cli import UserError, log_once, logger, refuse_pipe

LARGEST_BYTES, LARGEST_RATIO = 2**28, 20  # a zip file that unpacks to more than both allow is rejected
COMMON = Path(__file__).parent.parent
FORMAT = 3  # of stored arrays; arrays of another format are recomputed
PRUNING_KEYS = {"pruning_method", "criterion", "scope", "sparsity"}  # of a one-shot configuration
NEWS_SECONDS = 3  # a process that waits longer logs it


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Calls `write(temporary path)` and renames the result to `path`, so that `path` is never incomplete.

    Writers of the same `path` wait for each other. A temporary file that a killed writer left is replaced.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp{path.suffix}")
    refuse_pipe(path)
    with claim(temporary, wait=True):
        try:
            temporary.unlink(missing_ok=True)  # it may be a link, whose target must not be written
            write(temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())  # the content must reach the disk before the rename
            os.replace(temporary, path)
        except BaseException as error:
            with suppress(OSError):
                temporary.unlink()
            names_cause(error, path)
            raise


def names_cause(error: BaseException, path: Path) -> bool:
    """Returns whether an error names its cause: a `UserError`, a `MemoryError` or a system error.

    Adds the file's name to a system error without one, such as that of a full disk. Any other error that a
    library raises while it reads a file is caused by the file's content.
    """
    # EINVAL: a damaged file made a library seek to an impossible position.
    is_system_error = isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)
    if is_system_error:
        error.filename = error.filename2 or error.filename or str(path)
    return is_system_error or isinstance(error, UserError | MemoryError)


def file_sha256(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        names_cause(error, path)
        raise


def write_json(path: Path, content: dict) -> None:
    """Writes `content` as indented JSON, atomically."""
    write_atomically(path, lambda temporary: temporary.write_text(json.dumps(content, indent=1) + "\n"))


def write_arrays(path: Path, arrays: dict, made: dict) -> None:
    """Writes arrays to a stamped .npz, atomically, with `made`, the inputs that they depend on."""
    content = {**arrays, "made": json.dumps({"format": FORMAT, **made}, sort_keys=True)}

    def write(temporary: Path) -> None:
        np.savez_compressed(temporary, **content)
        with zipfile.ZipFile(temporary, "a") as archive:
            archive.comment = directory_digest(archive)

    write_atomically(path, write)


def directory_digest(archive: zipfile.ZipFile) -> bytes:
    """Returns the stamp of an .npz: a digest of the names, sizes and CRCs of its entries. zipfile checks
    the CRC of each entry when it reads it."""
    entries = [(entry.filename, entry.file_size, entry.CRC) for entry in archive.infolist()]
    return hashlib.sha256(repr(entries).encode()).hexdigest().encode()


def read_arrays(path: Path, made: dict | None = None, only: tuple[str, ...] | None = None) -> dict | None:
    """Reads the arrays of an .npz that `write_arrays` wrote; with `only`, the arrays of these names.

    Returns:
        None if the file is absent, damaged or, with `made` given, made from different inputs.
    Raises:
        UserError: an .npz without a stamp, written by an early version of this code or another program.
    """
    refuse_pipe(path)
    try:
        with zipfile.ZipFile(path) as archive:
            stamp, digest = archive.comment, directory_digest(archive)
        if not stamp:
            raise UserError(
                f"{path} has no stamp: another program wrote it (move it away), or an early version of this "
                "code (move all of pies/NAME away and run the scripts again)"
            )
        if stamp != digest:
            raise ValueError
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files if only is None or name in only}
            is_current = made is None or json.loads(str(stored["made"])) == {"format": FORMAT, **made}
    except FileNotFoundError:
        return None
    except Exception as error:  # damaged and foreign files raise many kinds of errors
        if names_cause(error, path):
            raise
        logger.info(
            "%s cannot be read (%s): the script that wrote it makes it again", path, type(error).__name__
        )
        return None
    for name, values in arrays.items():
        if values.dtype == np.float16:  # only saves disk space: sums in it would be inexact
            arrays[name] = values.astype(np.float32)
    return arrays if is_current else None


def check_size(path: Path) -> None:
    """Rejects a foreign zip file whose directory says that it unpacks to too many bytes.

    Raises:
        ValueError: it would be too large; zipfile's errors; UserError: a pipe.
    """
    refuse_pipe(path)
    with zipfile.ZipFile(path) as file:
        size = sum(entry.file_size for entry in file.infolist())
    if size > max(LARGEST_BYTES, LARGEST_RATIO * path.stat().st_size):
        raise ValueError(f"it would unpack to {size / 1e6:.0f} MB")


def flat(settings: dict, prefix: str = "") -> dict:
    """Flattens nested settings: `epochs` in the nested `dense` becomes `dense.epochs`."""
    entries = {}
    for key, value in settings.items():
        entries |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return entries


def differences(settings: dict, other_settings: dict) -> dict[str, tuple]:
    """Returns key -> both values, for every key in which two settings differ."""
    first, second = flat(settings), flat(other_settings)
    keys = sorted(key for key in {*first, *second} if first.get(key) != second.get(key))
    return {key: (first.get(key), second.get(key)) for key in keys}


def same_finetuning(settings: dict, other_settings: dict, facts: dict, other_facts: dict) -> bool:
    """Whether two populations were finetuned with the same settings; only how they were pruned may differ.
    External ones, whose settings are unknown, are compared by the facts in their names."""
    if "external" in {*settings, *other_settings}:
        return all(facts[key] == other_facts[key] for key in facts.keys() & other_facts)
    return differences(settings, other_settings).keys() <= PRUNING_KEYS


@functools.cache
def module_digest(code: Path | Callable) -> str:
    """Returns 12 hexadecimal digits that change with the code of a module (given by its path) or function,
    but not with its comments, docstrings or layout.

    Empty fields of the syntax tree are left out, so that all versions of Python give the same digits.
    """

    def as_json(node) -> object:
        if isinstance(node, list):
            return [as_json(part) for part in node]
        if not isinstance(node, ast.AST):
            return repr(node)
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            del node.body[0]
        fields = {name: as_json(value) for name, value in ast.iter_fields(node) if value not in (None, [])}
        return [type(node).__name__, fields]

    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    source = code.read_text() if isinstance(code, Path) else inspect.getsource(code)
    tree = as_json(ast.parse(source))
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:12]


def code_digest(*modules: Path | Callable) -> str:
    """Returns one digest like `module_digest` for several modules and functions."""
    return hashlib.sha256("".join(map(module_digest, modules)).encode()).hexdigest()[:12]


@contextmanager
def claim(path: Path, wait: bool) -> Iterator[bool]:
    """Holds the lock of `path` and yields whether it is held. Without `wait`, yields False if another process
    holds it.

    Locks are files in a folder .locks beside `path`, which may be deleted while nothing runs. The system
    releases the locks of a process when it ends or is killed.

    Raises:
        OSError: the file system does not allow the lock.
    """
    lock = filelock.FileLock(path.parent / ".locks" / f"{path.name}.lock")
    try:
        Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=NEWS_SECONDS if wait else 0)
        except filelock.Timeout:
            if wait:
                log_once(f"waiting for another process that holds {lock.lock_file}")
                lock.acquire()
    except OSError as error:
        names_cause(error, lock.lock_file)
        raise
    try:
        yield lock.is_locked
    finally:
        lock.release()
