"""Files that are there whole or not at all, arrays with what made them, locks, digests of code. No torch
here."""

import ast
import errno
import fcntl
import functools
import hashlib
import inspect
import json
import os
import stat
import threading
import zipfile
from contextlib import contextmanager, suppress
from math import isfinite, prod
from pathlib import Path
from typing import Callable, Iterator

import numpy as np

from common.cli import UserError, logger, say_once

LARGEST_BYTES, LARGEST_RATIO = 2**28, 20  # of what unpacks to more than both, nothing is unpacked
# Stored arrays of networks, populations and figures: names, kind of values (numpy's letters), shape. N
# images, C classes, K networks, L layers, G images of a gallery. A name with a point: in one kind of figure.
SHAPES = """
predictions labels modal_labels iu N
q_score z_score l1_norm confidence f N
votes iu N
tied is_pie b N
log_probabilities f N,C
latent_sample latent f ?,?
zero_latents images lost_pies gained_pies wrong_pies iu .
layers movement_layers U L
evaluations U K
pie_images U ?
class_names U C
layer_shapes iu L,4
mask_bits u ?
ids iu K
accuracy f K
accuracy_pies accuracy_rest auroc_q_score calibration_error f ?
agreement cka agreement_others cka_others knn_accuracy auroc_depth f ?
recall f K,C
movement f K,L
pies_per_class iu C
gallery iu G
gallery_images u G,3,?,?
depth_prediction depth_label iu K,N
knn iu ?,N
figure title data_title architecture learning_method pruning_method population U .
made row settings runs U .
sparsity f .
coordinates f N,2
depth f N
prediction_depth.places iu .
gallery.images u ?,3,?,?
"""
# What must be there: in files of populations, of their depths, and of the scripts' figures.
NAMES = """
dense title data_title architecture class_names labels ids evaluations accuracy recall runs made

pruned title data_title architecture class_names labels ids evaluations accuracy recall runs made
is_pie modal_labels votes confidence q_score pie_images gallery gallery_images dense_modal_labels dense_votes
dense_ids dense_evaluations dense_accuracy dense_recall

depths is_pie ids pruned_depth_prediction row made

umap title class_names coordinates modal_labels made

q_score title is_pie dense_q_score pruned_q_score dense_z_score pruned_z_score dense_l1_norm pruned_l1_norm
made

prediction_depth title is_pie places dense_depth pruned_depth made

pies_distribution title class_names pies_per_class images made
"""
NEEDED = {kind: {*names} for kind, *names in map(str.split, NAMES.split("\n\n"))}
# Entries of JSONs, in arrays and beside checkpoints: where, and the first letters of the types that they may
# have (int, float, str, dict, list, bool, NoneType; x: a float that is not finite). `?`: may be absent, `*`:
# every one of a mapping, `#`: of a list.
ENTRIES = """
made.format? i
made.data? s
made.checkpoints?.# s
made.dense_checkpoints?.# s
row.* ifxsN
row.sparsity? if
row.learning_method? s
row.pruning_method? s
row.population? s
row.origin? s
row.unpublished? s
settings.dense? dN
runs.commands.# sN
runs.devices.# s
runs.versions.# s
runs.days.# s
runs.seeds.# i
runs.seconds if
runs.networks i
runs.made_elsewhere i
runs.analysis s
record.checkpoint_sha256 s
record.configuration.epochs? i
record.configuration.batch_size? i
record.configuration.head_epochs? i
record.configuration.batch_size_head? i
record.configuration.warmup_epochs? i
record.configuration.model_depth? i
record.configuration.widen_factor? i
record.configuration.learning_rate? if
record.configuration.momentum? if
record.configuration.weight_decay? if
record.configuration.dropout? if
record.configuration.temperature? if
record.configuration.base_temperature? if
record.configuration.lr_gamma? if
record.configuration.lr_milestones?.# i
record.configuration.learning_method? s
record.configuration.precision? s
record.configuration.dense? dN
record.history.#.* ifx
record.code?.* s
record.made_from_other_code?.*.# s
record.data.checksum s
record.data.class_names?.# s
record.data.horizontal_flip? b
record.data.vertical_flip? b
record.sparsity.zeros i
record.seed? i
record.accuracy_as_pruned? if
record.movement?.* ifx
record.run?.command? s
record.run?.seconds? if
record.run?.versions?.* s
"""
KINDS = {
    name: (kinds, [] if shape == "." else shape.split(","))
    for *names, kinds, shape in map(str.split, SHAPES.strip().splitlines())
    for name in names
}
OF_CLASSES = ("predictions", "labels", "modal_labels", "knn")
OBJECTS = ("made", "row", "settings", "runs")  # in JSON
COMMON = Path(__file__).parent.parent  # where the modules are
FORMAT = 3  # of the stored arrays: another number means that they are computed anew
NEWS_SECONDS = 3  # a process that waits for longer says so


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Calls `write(temporary path)` and renames the result to `path`, which never names half a file.

    The temporary file is locked: another writer of `path` waits, and what a killed one left is written over.

    Raises:
        UserError: the temporary name is a link.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp{path.suffix}")
    with _locked(temporary, wait=True):
        try:
            write(temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())  # before the name is there, the content is on the disk
            os.replace(temporary, path)
        except BaseException as error:
            with suppress(OSError):
                temporary.unlink()
            if isinstance(error, OSError):
                error.filename = error.filename or str(path)  # a full disk, say, names no file
            raise


def write_json(path: Path, content: dict) -> None:
    """Writes `content` as indented JSON, atomically."""
    write_atomically(path, lambda temporary: temporary.write_text(json.dumps(content, indent=1) + "\n"))


def write_arrays(path: Path, arrays: dict, made: dict) -> None:
    """Stores arrays in one .npz, atomically, with `made`: what they depend on."""
    content = {**arrays, "made": json.dumps({"format": FORMAT, **made}, sort_keys=True)}
    write_atomically(path, lambda temporary: np.savez_compressed(temporary, **content))


def read_arrays(path: Path, made: dict | None = None, only: tuple[str, ...] | None = None) -> dict | None:
    """The arrays of an .npz, with `only` those of these names; None where it is absent, unreadable or, with
    `made` given, made from something else."""
    try:
        check_size(path)
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files if only is None or name in only}
            # float16 is for the disk alone: sums of it would not be exact.
            half = {name for name, values in arrays.items() if values.dtype == np.float16}
            arrays |= {name: arrays[name].astype(np.float32) for name in half}
            check_arrays(arrays, {}, str(arrays.get("figure")))
            same = made is None or read_object(str(stored["made"])) == {"format": FORMAT, **made}
    except FileNotFoundError:
        return None
    except Exception as error:  # a torn or foreign file is one of many errors; it is computed again
        logger.info("%s cannot be read (%s): computed again", path, type(error).__name__)
        return None
    return arrays if same else None


def check_size(path: Path) -> None:
    """Whether a zip file unpacks to a size that it may have, by its directory.

    Raises:
        ValueError: it does not; zipfile's errors.
    """
    with zipfile.ZipFile(path) as file:
        size = sum(entry.file_size for entry in file.infolist())
    if size > max(LARGEST_BYTES, LARGEST_RATIO * path.stat().st_size):
        raise ValueError(f"it would take {size / 1e6:.0f} MB")


def check_arrays(arrays: dict, sizes: dict[str, int], kind: str = "") -> None:
    """Whether stored arrays have the kinds, shapes and ranges that `SHAPES` says.

    Args:
        sizes: N and C where they are known; what the arrays say of them is added.
        kind: of `NAMES`, which must be there.
    Raises:
        ValueError: they have not.
    """
    plain = {name: name.removeprefix("dense_").removeprefix("pruned_") for name in arrays}
    plain |= {name: own for name in arrays if (own := f"{arrays.get('figure')}.{name}") in KINDS}
    if not NEEDED.get(kind, set()) <= arrays.keys():
        raise ValueError(kind)
    for name in arrays:
        if plain[name] not in KINDS:
            continue
        values, (kinds, shape) = np.asarray(arrays[name]), KINDS[plain[name]]
        if values.dtype.kind not in kinds or values.ndim != len(shape):
            raise ValueError(name)
        for side, size in zip(shape, values.shape):
            if side in "KLG":  # dense networks have their own
                side += name[: -len(plain[name])].removeprefix("pruned_")
            if side != "?" and size != (int(side) if side.isdigit() else sizes.setdefault(side, size)):
                raise ValueError(name)
        if values.dtype.kind == "U":
            values.tolist()  # raises at what is no letter
        if plain[name] in OBJECTS:
            read_object(str(values), plain[name])
    bounds = {**dict.fromkeys(OF_CLASSES, sizes.get("C")), "gallery": sizes.get("N")}
    for name, values in arrays.items():
        bound = bounds.get(plain[name])
        if bound and np.size(values) and not 0 <= np.min(values) <= np.max(values) < bound:
            raise ValueError(name)
    if {"mask_bits", "layer_shapes"} <= arrays.keys():
        sides = arrays["layer_shapes"].tolist()
        if min(map(min, sides), default=1) < 1 or len(arrays["mask_bits"]) != -(-sum(map(prod, sides)) // 8):
            raise ValueError("mask_bits")


def read_object(text: str, kind: str = "") -> dict:
    """The mapping that a JSON holds.

    Args:
        kind: of `ENTRIES`, whose types the entries must have.
    Raises:
        ValueError: no JSON, another value, one nested too deeply, text that is no text, a number of too many
            digits, an entry that is missing or of another type.
    """
    try:
        content = json.loads(text, parse_int=lambda digits: int(np.int64(digits)))
        if not isinstance(content, dict):
            raise ValueError("no mapping")
        # Names of files may be bytes that are no text.
        json.dumps(content, ensure_ascii=False).encode("utf-8", "surrogateescape")
        flat(content)
        for entry, types in map(str.split, ENTRIES.strip().splitlines()):
            first, *place = entry.split(".")
            _check_entry([content] if first == kind else [], place, types)
    except (RecursionError, OverflowError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(type(error).__name__) from None
    return content


def _check_entry(values: list, place: list[str], types: str) -> None:
    for step in place:
        if step == "#":
            values = sum(values, [])
        elif step == "*":
            values = [part for value in values for part in value.values()]
        else:
            name = step.removesuffix("?")
            values = [value[name] for value in values if name == step or name in value.keys()]
    for value in values:
        finite = not isinstance(value, float) or isfinite(value)
        if (type(value).__name__[0] if finite else "x") not in types:
            raise TypeError


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
    """Holds the lock beside `path`; gives whether it is held. Without `wait` another's claim is left alone.

    The lock file goes when the claim ends.
    """
    lock_path = path.with_name(f".{path.name}.lock")
    lock_path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(lock_path, wait) as held:
        try:
            yield held
        finally:
            if held:
                with suppress(OSError):  # of a folder that cannot be written any more
                    lock_path.unlink()


@contextmanager
def _locked(path: Path, wait: bool) -> Iterator[bool]:
    """Makes a file where there is none and locks it. A process that waited for it may then hold the lock of a
    file that is gone, and tries again."""
    while True:
        file = _open_own(path)
        try:
            if not _lock(file, path, wait):
                yield False
                return
            try:
                is_there = os.path.samefile(path, file)
            except FileNotFoundError:
                is_there = False
            if is_there:
                yield True
                return
        finally:
            os.close(file)


def _open_own(path: Path) -> int:
    """The descriptor of a file that no other name leads to: what is written under this one changes no other.

    Raises:
        UserError: a link, or something that is no file.
    """
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
    else:
        facts = os.fstat(file)
        if stat.S_ISREG(facts.st_mode) and facts.st_nlink < 2:
            return file
        os.close(file)
    raise UserError(f"{path} is a link or no plain file, and this name is needed here; delete it")


def _lock(file: int, path: Path, wait: bool) -> bool:
    """Locks a file; False where another process holds it, for which `wait` waits."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if not wait:
            return False
        news = threading.Timer(NEWS_SECONDS, say_once, (f"waits for another process, which holds {path}",))
        news.start()
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        finally:
            news.cancel()
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        path.unlink(missing_ok=True)
        raise UserError(
            f"{path.parent}: its file system has no locks ({error.strerror}); name a folder on a local disk "
            "or NFS 4"
        ) from None
    return True
