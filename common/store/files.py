"""Files that are there whole or not at all, arrays with what made them, locks, digests of code. No torch
here.

A file is written under a temporary name and renamed: one that is there is whole. An .npz has a digest of its
own directory as its comment: it is what `write_arrays` wrote, or it is not read.
"""

import ast
import errno
import functools
import hashlib
import inspect
import json
import os
import shlex
import zipfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Callable, Iterator

import filelock
import numpy as np

from common.cli import UserError, logger, refuse_pipe, say_once

LARGEST_BYTES, LARGEST_RATIO = 2**28, 20  # of what unpacks to more than both, nothing is unpacked
COMMON = Path(__file__).parent.parent  # where the modules are
FORMAT = 3  # of the stored arrays: another number means that they are computed anew
NEWS_SECONDS = 3  # a process that waits for longer says so


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Calls `write(temporary path)` and renames the result to `path`, which never names half a file.

    Another writer of `path` waits. What a killed one left is written over.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp{path.suffix}")
    refuse_pipe(path)
    with claim(temporary, wait=True):
        try:
            temporary.unlink(missing_ok=True)  # it may be a link: what it leads to is not written
            write(temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())  # before the name is there, the content is on the disk
            os.replace(temporary, path)
        except BaseException as error:
            with suppress(OSError):
                temporary.unlink()
            says_all(error, path)
            raise


def says_all(error: BaseException, path: Path) -> bool:
    """Whether an error is the user's, the memory's or the system's, which then names the file (that of a full
    disk names none). What else libraries raise at a file is about its content."""
    # EINVAL: a library that sought a place that the content made up.
    is_of_system = isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)
    if is_of_system:
        error.filename = error.filename or str(path)
    return is_of_system or isinstance(error, UserError | MemoryError)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        says_all(error, path)
        raise


def write_json(path: Path, content: dict) -> None:
    """Writes `content` as indented JSON, atomically."""
    write_atomically(path, lambda temporary: temporary.write_text(json.dumps(content, indent=1) + "\n"))


def write_arrays(path: Path, arrays: dict, made: dict) -> None:
    """Stores arrays in one .npz, atomically and stamped, with `made`: what they depend on."""
    content = {**arrays, "made": json.dumps({"format": FORMAT, **made}, sort_keys=True)}

    def write(temporary: Path) -> None:
        np.savez_compressed(temporary, **content)
        with zipfile.ZipFile(temporary, "a") as archive:
            archive.comment = directory_digest(archive)

    write_atomically(path, write)


def directory_digest(archive: zipfile.ZipFile) -> bytes:
    """The stamp of an .npz, its comment: a digest of names, sizes and CRCs of all entries. zipfile compares
    each entry that it reads with its CRC."""
    entries = [(entry.filename, entry.file_size, entry.CRC) for entry in archive.infolist()]
    return hashlib.sha256(repr(entries).encode()).hexdigest().encode()


def read_arrays(path: Path, made: dict | None = None, only: tuple[str, ...] | None = None) -> dict | None:
    """The arrays of an .npz that `write_arrays` wrote, with `only` those of these names; None where it is
    absent, damaged or, with `made` given, made from something else.

    Raises:
        UserError: an .npz without a stamp, which is older than stamps or was written by another program.
    """
    refuse_pipe(path)
    try:
        with zipfile.ZipFile(path) as archive:
            stamp, digest = archive.comment, directory_digest(archive)
        if not stamp:
            command = shlex.join(["python", "-m", "common.store.stamp", str(path.parents[1])])
            raise UserError(
                f"{path} has no stamp: an earlier version of this code wrote it, or another program; if it "
                f"is yours, stamp all of them once: {command}"
            )
        if stamp != digest:
            raise ValueError
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files if only is None or name in only}
            same = made is None or json.loads(str(stored["made"])) == {"format": FORMAT, **made}
    except FileNotFoundError:
        return None
    except Exception as error:  # a torn or foreign file is one of many errors; it is computed again
        if says_all(error, path):
            raise
        logger.info("%s cannot be read (%s): computed again", path, type(error).__name__)
        return None
    # float16 is for the disk alone: sums of it would not be exact.
    half = {name for name, values in arrays.items() if values.dtype == np.float16}
    arrays |= {name: arrays[name].astype(np.float32) for name in half}
    return arrays if same else None


def check_size(path: Path) -> None:
    """Whether a zip file that others made unpacks to a size that it may have, by its directory.

    Raises:
        ValueError: it does not; zipfile's errors; UserError: a pipe.
    """
    refuse_pipe(path)
    with zipfile.ZipFile(path) as file:
        size = sum(entry.file_size for entry in file.infolist())
    if size > max(LARGEST_BYTES, LARGEST_RATIO * path.stat().st_size):
        raise ValueError(f"it would take {size / 1e6:.0f} MB")


def flat(settings: dict, prefix: str = "") -> dict:
    """Settings without nesting: `dense.epochs` is a key of the nested `dense`."""
    entries = {}
    for key, value in settings.items():
        entries |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return entries


def differences(settings: dict, others: dict) -> dict[str, tuple]:
    """Key -> both values, for every key in which two settings differ."""
    first, second = flat(settings), flat(others)
    keys = sorted(key for key in {*first, *second} if first.get(key) != second.get(key))
    return {key: (first.get(key), second.get(key)) for key in keys}


@functools.cache
def module_digest(code: Path | Callable) -> str:
    """12 hexadecimal digits that change with the code of a module, given by its path, or of a function, not
    with its comments, docstrings or layout.

    The same in every version of Python: of the syntax tree only fields that are not empty count.
    """

    def facts(node) -> object:
        if isinstance(node, list):
            return [facts(part) for part in node]
        if not isinstance(node, ast.AST):
            return repr(node)
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            del node.body[0]
        fields = {name: facts(value) for name, value in ast.iter_fields(node) if value not in (None, [])}
        return [type(node).__name__, fields]

    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    source = code.read_text() if isinstance(code, Path) else inspect.getsource(code)
    tree = facts(ast.parse(source))
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:12]


def code_digest(*modules: Path | Callable) -> str:
    """`module_digest` of several modules and functions at once."""
    return hashlib.sha256("".join(map(module_digest, modules)).encode()).hexdigest()[:12]


@contextmanager
def claim(path: Path, wait: bool) -> Iterator[bool]:
    """Holds the lock of `path`; gives whether it is held. Without `wait` another's claim is left alone.

    Locks are files in a folder .locks beside `path`, which may be deleted while nothing runs. A process that
    ends, however it ends, holds none.

    Raises:
        OSError: no lock can be had there.
    """
    lock = filelock.FileLock(path.parent / ".locks" / f"{path.name}.lock")
    try:
        Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=NEWS_SECONDS if wait else 0)
        except filelock.Timeout:
            if wait:
                say_once(f"waits for another process, which holds {lock.lock_file}")
                lock.acquire()
    except OSError as error:
        says_all(error, lock.lock_file)
        raise
    try:
        yield lock.is_locked
    finally:
        lock.release()
