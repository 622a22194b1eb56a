"""Checkpoints, their records and the states of unfinished trainings: saved, checked and loaded.

A checkpoint is written under its published name and format, and beside it a JSON (its record) that says how
it was made. The checkpoint's own rename comes last, so that a checkpoint is there only when it and its record
are whole. An unfinished training keeps its state in a hidden file beside the checkpoint that it becomes.
"""

import functools
import hashlib
import io
import json
import re
import time
import warnings
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterable, Iterator, Sequence

import torch
from torch import nn

from common import models, settings
from common.cli import FLIPS, UserError, logger, refuse_pipe, say_once
from common.data import same_training_images
from common.evaluation import NotFiniteError, not_finite
from common.methods import SMALL
from common.pruning import Masks, measure_sparsity
from common.store.files import (
    COMMON,
    check_size,
    differences,
    file_sha256,
    module_digest,
    names_cause,
    write_atomically,
    write_json,
)
from common.store.names import Architecture, CheckpointName, record_path
from common.values import Interval

PUBLISHED_SPARSITY_TOLERANCE = 0.005  # the published gradual schedules end a little off the asked sparsity
STATE_FORMAT = 2
SCIENCE = ("augment", "criteria", "losses", "models", "pruning", "training", "learners")  # modules of common/


def torch_bytes(content: dict) -> bytes:
    """What torch.save writes. Given a path, it would write the file's name into the file: equal weights,
    other bytes; and into a full disk it raises what says nothing of the disk."""
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def save_checkpoint(path: Path, payload: dict, record: dict) -> None:
    """Writes a checkpoint and its record, which gets the checkpoint's SHA-256."""
    content = torch_bytes(payload)

    def write(temporary: Path) -> None:
        temporary.write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        write_json(record_path(path), {**record, "checkpoint_sha256": sha256})

    write_atomically(path, write)


def cpu_state(module: nn.Module) -> dict:
    """The state_dict on the CPU in the plain memory order, as published."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}


@functools.cache
def science_code() -> dict[str, str]:
    """Digests of the modules that a trained network depends on beside its configuration. Comments do not
    count."""
    return {name: module_digest(COMMON / f"{name}.py") for name in SCIENCE}


def differing_code(recorded: dict[str, str] | None) -> list[str]:
    """The science modules whose code has changed since; none where it was not recorded, which is said
    once."""
    if recorded is None:
        say_once("note: networks or states from before the code was recorded are taken as they are")
        return []
    return sorted(name for name, digest in science_code().items() if recorded.get(name) != digest)


def check_record(path: Path, record: dict, wanted: dict, remedy: str, other_code: bool) -> list[str]:
    """Refuses a checkpoint, or the state of an unfinished training, that is not the wanted one; returns the
    science modules whose code has changed since.

    Args:
        record: of the checkpoint, or what the state holds.
        wanted: the entries that it must have: data, and where they are known configuration, seed, stage,
            SHA-256 of the networks that it was made from. remedy: how to go on; other_code: take what other
            code made.
    Raises:
        UserError: it has others; the message says which.
    """
    configuration = record["configuration"]
    changed = differences(configuration, wanted.get("configuration", configuration))
    words = [f"{key} {old}, not {new}" for key, (old, new) in changed.items()]
    if not same_training_images(record["data"], wanted["data"]):
        words.append("other training images")
    if words:
        raise UserError(f"{path} was made with other settings ({', '.join(words)}); {remedy}")
    modules = differing_code(record.get("code"))
    if modules and not other_code:
        raise UserError(
            f"{path} was made by other code of {', '.join(modules)}; give --other_code to go on with it, or "
            f"{remedy}"
        )
    if any(record.get(key) != wanted[key] for key in wanted.keys() - {"configuration", "data"}):
        raise UserError(
            f"{path} was made from another dense model, encoder or iteration than the one that is there now; "
            f"delete it to have it made again, or {remedy}"
        )
    return modules


def made_from_other_code(paths: Iterable[Path]) -> dict[str, list[str]]:
    """Name -> differing modules of those of these files, and of what they were made from, that other code
    made."""
    found = {}
    for path in paths:
        record = read_record(path) or {"code": science_code()}
        found |= record.get("made_from_other_code", {})
        modules = differing_code(record.get("code"))
        if modules or record.get("other_code"):
            found[path.name] = modules
    return found


def origin_of(records: Iterable[dict | None]) -> str:
    """Whose networks have these records, None for one without: `trained here`, `external`, or `pruned here,
    dense external`; where other code than today's took part, that too."""
    records = list(records)
    known = [record for record in records if record]
    origin = "trained here"
    if len(known) < len(records):
        origin = "external"
    elif any(record["configuration"].get("dense", {}) is None for record in known):
        origin = "pruned here, dense external"
    signs = ("other_code", "made_from_other_code")
    if any(differing_code(record.get("code")) or any(map(record.get, signs)) for record in known):
        origin += ", other code"
    return origin


def say_external(paths: list[Path]) -> None:
    """Notes that nothing is known of checkpoints without a record."""
    if paths:
        others = " and others" * (len(paths) > 1)
        say_once(
            f"note: {paths[0]}{others}: no record, taken as external; settings, data and code of the "
            "training are not known and cannot be checked"
        )


def make_record(
    name: CheckpointName, configuration: dict, network: nn.Module, history: list[dict], **facts
) -> dict:
    """How a checkpoint was made.

    Args:
        configuration: what all models of a population share; two checkpoints of one name must agree in it.
        network: whose sparsity is counted.
        facts: entries of this checkpoint alone: seed, data, run, the dense network that it comes from.
    """
    return {
        "format": 1,
        "name": name.facts(),
        "configuration": configuration,
        "sparsity": measure_sparsity(network),
        "history": history,
        "code": science_code(),
        **facts,
    }


def read_record(checkpoint: Path) -> dict | None:
    """The record of a checkpoint, or None where it has none and so is external.

    Raises:
        UserError: a record that cannot be read, or that belongs to another file.
    """
    path = record_path(checkpoint)
    refuse_pipe(checkpoint)
    refuse_pipe(path)
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text())
        configuration, data = record["configuration"], record["data"]
        flips = {flip: data[flip] for flip in FLIPS if flip in data}
        record = {**record, "configuration": with_defaults(configuration, flips)}
        sha256, _, _ = record["checkpoint_sha256"], data["checksum"][:12], record["sparsity"]["zeros"]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise UserError(
            f"{path} is damaged; move it and {checkpoint.name} away to have them made again, or only the "
            "JSON if the checkpoint comes from elsewhere"
        ) from None
    if sha256 != file_sha256(checkpoint):
        raise UserError(
            f"{path} describes another file than the {checkpoint.name} beside it; move both away to have "
            "them made again, or only the JSON if the checkpoint comes from elsewhere"
        )
    return record


def with_defaults(configuration: dict, flips: dict) -> dict:
    """A configuration, and the dense one in it, with defaults in place of settings that a record lacks."""
    training = settings.Retraining
    if "shuffle" in configuration:
        training = settings.SupervisedTraining
    elif "base_temperature" in configuration:
        training = settings.ContrastiveTraining
    elif "nesterov" in configuration:
        training = settings.Finetuning
    configuration = {**settings.defaults(training), **flips, **configuration}
    if isinstance(configuration.get("dense"), dict):
        configuration["dense"] = with_defaults(configuration["dense"], flips)
    return configuration


def load_classifier(
    paths: list[Path], record: dict | None, name: CheckpointName, architecture: Architecture, num_classes: int
) -> models.Classifier:
    """The classifier in a supervised checkpoint, or in an encoder's and its head's, on the CPU in eval mode.

    Args:
        paths: [supervised] or [encoder, head].
        record: of the last path; None for an external one, which must then fit by names, shapes and
            sparsity.
    Raises:
        UserError: a file that cannot be read, does not fit the architecture, or has another sparsity than it
            should.
    """
    matched = name.sparsity if name.pruning_method == SMALL else 0.0  # of which no weight is at zero
    if len(paths) == 1:
        network = models.SupervisedNetwork(architecture, num_classes, matched)
        load_state(network, read_payload(paths[0]), paths[0])
    else:
        encoder = models.make_backbone(architecture, match_sparsity=matched)
        head = models.ClassificationHead(encoder.latent_size, num_classes)
        load_state(encoder, encoder_state(read_payload(paths[0])), paths[0])
        load_state(head, read_payload(paths[1]), paths[1])
        network = models.ContrastiveClassifier(encoder, head)
    _check_sparsity(network, paths[-1], record, name.sparsity - matched)
    return network.eval()


def refuse_not_finite(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Refuses tensors of a file that are not finite: weights, buffers or sums of gradients.

    Raises:
        UserError: names some of them, the file and, where there is one, the remedy.
    """
    if names := not_finite(tensors):
        raise UserError(f"{path} holds values that are not finite, in {names}; {remedy_for([path])}")


def remedy_for(paths: Sequence[Path]) -> str:
    """What helps where these files cannot be used."""
    if not all(record_path(path).exists() for path in paths):
        return "it was not trained here, so it cannot be made again here: get another copy or leave it out"
    return "delete it to have it made again by the command that its JSON names"


@contextmanager
def files_named(paths: Sequence[Path]) -> Iterator[None]:
    """A context in which outputs that are not finite are refused with the files of their network.

    Raises:
        UserError: names the files and, where there is one, the remedy.
    """
    try:
        yield
    except (NotFiniteError, FloatingPointError) as error:
        raise UserError(f"{' and '.join(map(str, paths))}: {error}; {remedy_for(paths)}") from None


def _check_sparsity(network: nn.Module, path: Path, record: dict | None, asked: float) -> None:
    found = measure_sparsity(network)
    if record is None:
        if abs(found["total"] - asked) > PUBLISHED_SPARSITY_TOLERANCE:
            raise UserError(
                f"{path} has {found['total']:.4f} of its weights at zero, but its name says {asked}"
            )
    elif found["zeros"] != record["sparsity"]["zeros"]:
        raise UserError(
            f"{path} has {found['zeros']} weights at zero, but its JSON says {record['sparsity']['zeros']}"
        )


def load_network(*paths: Path) -> models.Classifier:
    """The classifier in a checkpoint that was made here, or in an encoder's and its head's, on the CPU in
    eval mode: as `load_classifier`, with what the record says.

    Raises:
        UserError: a file without a record, or one that does not fit it.
    """
    record = read_record(paths[-1])
    if record is None:
        raise UserError(f"{paths[-1]} has no record of this study beside it; use load_classifier")
    name, architecture = (
        CheckpointName(**record["name"]),
        Architecture.of_configuration(record["configuration"]),
    )
    return load_classifier(list(paths), record, name, architecture, len(record["data"]["class_names"]))


def read_payload(path: Path, remedy: str = "") -> dict:
    """What torch.save wrote, without running any code in it.

    Args:
        remedy: where it cannot be read, '': as `remedy_for` says.
    Raises:
        UserError: it is no dictionary of tensors.
    """
    refuse_pipe(path)
    alone = "have the code that wrote it save the state_dict alone: torch.save(network.state_dict(), path)"
    try:
        if zipfile.is_zipfile(path):  # not of the oldest versions of torch
            check_size(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about foreign pickles: the one line below says enough
            payload = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a torn or foreign file
        if names_cause(error, path):
            raise
        if refused := re.search(r"GLOBAL (\S+)|TorchScript", str(error)):
            raise UserError(f"{path} holds {refused[1] or refused[0]}, not tensors alone; {alone}") from None
        raise UserError(
            f"{path} is not a readable checkpoint ({type(error).__name__}); {remedy or remedy_for([path])}"
        ) from None
    if not isinstance(payload, dict):
        raise UserError(f"{path} holds a {type(payload).__name__}, no state_dict; {alone}")
    return payload


def find_duplicate_weights(paths: Iterable[Path]) -> tuple[Path, Path] | None:
    """Two files with equal weights of a supervised network or encoder, however they were written, the later
    one first."""
    alike: dict[tuple, list[Path]] = {}
    for path in paths:
        suspects = alike.setdefault(_largest_entry(path), [])
        for other in suspects:
            weights, others = map(_weights, (path, other))
            if weights.keys() == others.keys() and all(map(torch.equal, weights.values(), others.values())):
                return path, other
        suspects.append(path)
    return None


def _largest_entry(path: Path) -> tuple:
    """Size and CRC of the largest tensor, from the zip file's directory: no tensor is read."""
    try:
        with zipfile.ZipFile(path) as file:
            return max(
                (entry.file_size, entry.CRC) for entry in file.infolist() if "/data/" in entry.filename
            )
    except Exception:  # torn, foreign, or written by the oldest versions of torch
        return (file_sha256(path),)


def _weights(path: Path) -> dict[str, torch.Tensor]:
    return {
        name: tensor
        for name, tensor in encoder_state(read_payload(path)).items()
        if isinstance(tensor, torch.Tensor)
    }


def encoder_state(payload: dict) -> dict:
    """The state_dict of the bare encoder, of a checkpoint that may hold a projection head too."""
    state = plain_state(payload)
    encoder = {name: value for name, value in state.items() if name.startswith(("encoder.", "backbone."))}
    return plain_state(encoder) or state


# What training frameworks wrap a state_dict in, and put before all names in it.
STATE_ENTRIES = ("state_dict", "model_state_dict", "model", "net", "network", "head", "classifier")
NAME_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.", "encoder.", "base.")


def plain_state(payload: dict) -> dict:
    """The state_dict in a checkpoint: known entries opened, prefixes of all names taken off, as often as they
    occur."""
    state = payload
    while entry := next((key for key in STATE_ENTRIES if isinstance(state.get(key), dict)), None):
        state = state[entry]
    state = {str(name): value for name, value in state.items()}

    def shared_prefix() -> str | None:
        return next((each for each in NAME_PREFIXES if all(name.startswith(each) for name in state)), None)

    while state and (prefix := shared_prefix()):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def load_state(module: nn.Module, state: dict, path: Path) -> None:
    """Loads what a file holds into a network.

    Raises:
        UserError: it does not fit.
    """
    state, names = plain_state(state), module.state_dict().keys()
    for prefix in ("base.", "fc."):  # which only the names of the module have
        if {prefix + name for name in state} <= names:
            state = {prefix + name: value for name, value in state.items()}
    # Older files lack num_batches_tracked.
    missing = [name for name in names if name not in state and not name.endswith("num_batches_tracked")]
    unknown = [name for name in state if name not in names]
    fits = f"{path} does not fit the network that the flags ask for"
    if missing or unknown:
        first, others = (", ".join(some[:4]) or "none" for some in (missing, unknown))
        raise UserError(
            f"{fits}: {len(missing)} names are missing: {first}; {len(unknown)} are unknown: {others}; "
            "docs/own_data.md shows how to rename them"
        )
    try:
        module.load_state_dict(state, strict=False)
    except (RuntimeError, AttributeError) as error:
        first = str(error).split("\n")[1].strip() if "\n" in str(error) else str(error)
        raise UserError(f"{fits}: {first[:200]}") from None
    refuse_not_finite(module.state_dict(), path)


@dataclass
class TrainingState:
    """The state of one unfinished training, in a file, and what it must belong to.

    A context: left by an error or a signal it writes the state after the last whole epoch and says so in a
    note of the error; left in peace, when the checkpoint is saved, it deletes the file. Orders, views,
    dropout and random criteria depend on (seed, stage, epoch or step) alone, so that a state needs no random
    generators: a training that was stopped and goes on ends bit for bit as one that was not, on a CPU at the
    same number of threads.

    facts: configuration, data, seed, stage and origin of the training, which a state must have too. every:
    between states that are written. remedy, other_code: as in `check_record`.
    """

    path: Path
    facts: dict
    every: Interval
    remedy: str
    other_code: bool
    unsaved: tuple[int, bytes] | None = None  # epochs done, and what the file is to hold
    saved_epoch: int = 0

    def __enter__(self) -> "TrainingState":
        return self

    def __exit__(self, kind, error: BaseException | None, trace) -> None:
        if error is None:
            self.path.unlink(missing_ok=True)
            return
        try:
            self._save()
        except (UserError, OSError, MemoryError):
            pass  # the disk is full, say: the state before it is still there
        if self.saved_epoch:
            error.add_note(f"{self.path} holds the state after {self.saved_epoch} epochs")

    def epochs_left(
        self, epochs: range, trained: dict[str, Any], masks: Masks, history: list[dict]
    ) -> Iterator[int]:
        """The epochs that are still to be trained, from the first, or after those of a state that was kept.

        Args:
            trained: network and optimizer, anything with state_dict and load_state_dict. With `masks` and
                `history` they are set, in place, to the state that was kept.
        Raises:
            UserError: a state of other settings or code, or one that does not fit.
        """
        first = epochs.start
        if self.path.exists():
            first = self.saved_epoch = self._take_up(trained, masks, history)
            logger.info("goes on after %d of %d epochs: %s", first, epochs.stop, self.path)
        written, written_at = first, time.monotonic()
        for done in range(first + 1, epochs.stop + 1):
            yield done - 1
            state = {
                **{"format": STATE_FORMAT, **self.facts, "code": science_code(), "epoch": done},
                **{"threads": torch.get_num_threads(), "masks": masks, "history": history},
                "parts": {name: part.state_dict() for name, part in trained.items()},
            }
            # A copy, in the main memory: a signal, or an error of the device, may come in the middle of the
            # next epoch.
            self.unsaved = done, torch_bytes(state)
            due = done - written >= self.every.epochs or time.monotonic() - written_at >= self.every.seconds
            if due and done < epochs.stop:
                self._save()
                written, written_at = done, time.monotonic()

    def _save(self) -> None:
        if self.unsaved is None:
            return
        epoch, content = self.unsaved
        write_atomically(self.path, lambda temporary: temporary.write_bytes(content))
        self.unsaved, self.saved_epoch = None, epoch
        logger.debug("kept: %s after %d epochs", self.path, epoch)

    def _take_up(self, trained: dict[str, Any], masks: Masks, history: list[dict]) -> int:
        """Sets what is trained to the state in the file; how many epochs it has done."""
        state = read_payload(self.path, "delete it to begin that training anew")
        if state.get("format") != STATE_FORMAT:
            raise UserError(
                f"{self.path} is not a state of this version; delete it to begin that training anew"
            )
        remedy = f"delete it to begin anew, or {self.remedy}"
        try:
            check_record(self.path, state, self.facts, remedy, self.other_code)
            if state["threads"] != (threads := torch.get_num_threads()):
                logger.info(
                    f"note: {self.path} was kept by a run of {state['threads']} threads, this one has "
                    f"{threads}: the result differs by rounding"
                )
            if names := not_finite(state["parts"]["network"]):
                raise UserError(f"{self.path} holds values that are not finite, in {names}; {remedy}")
            for name, part in trained.items():
                part.load_state_dict(state["parts"][name])
            device = next(iter(trained["network"].parameters())).device
            masks.update({name: mask.to(device) for name, mask in state["masks"].items()})
            history[:] = state["history"]
            return state["epoch"]
        except (RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise UserError(
                f"{self.path} does not fit the network ({type(error).__name__}); {remedy}"
            ) from None
