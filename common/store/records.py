"""Saves, checks and loads checkpoints, their records and the states of unfinished trainings.

A checkpoint has its published name and format. The JSON beside it, its record, says how it was made. The
checkpoint is renamed into place last, so that it never exists without a complete record. An unfinished
training keeps its state in a hidden file beside the future checkpoint.
"""

import hashlib
import io
import json
import re
import time
import warnings
import zipfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterable, Iterator, Sequence

import torch
from torch import nn

from common import models, settings
from common.cli import FLIPS, UserError, log_once, logger, refuse_pipe
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

PUBLISHED_SPARSITY_TOLERANCE = 0.005  # published gradual schedules end slightly off the requested sparsity
STATE_FORMAT = 2
SCIENCE = ("augment", "criteria", "losses", "models", "pruning", "training", "learners")  # modules of common/


def torch_bytes(content: dict) -> bytes:
    """Returns the bytes that torch.save writes.

    Given a path, torch.save would store the file's name, so that equal weights give different bytes. On a
    full disk it would raise an error that does not mention the disk.
    """
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def save_checkpoint(
    path: Path, payload: dict, name: CheckpointName, configuration: dict, network: nn.Module, **facts
) -> None:
    """Writes a checkpoint and its record.

    Args:
        configuration: shared by all models of a population; checkpoints of the same name must agree in it.
        network: its sparsity is measured.
        facts: further entries: seed, data, run, history, the dense network that it comes from.
    """
    content = torch_bytes(payload)
    record = {
        "name": name.facts(),
        "configuration": configuration,
        "sparsity": measure_sparsity(network),
        "history": [],
        "code": science_code(),
        **facts,
        "checkpoint_sha256": hashlib.sha256(content).hexdigest(),
    }

    def write(temporary: Path) -> None:
        temporary.write_bytes(content)
        write_json(record_path(path), record)

    write_atomically(path, write)


def cpu_state(module: nn.Module) -> dict:
    """Returns the state_dict on the CPU in contiguous memory order, as published."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}


def science_code() -> dict[str, str]:
    """Returns digests of the modules on which a trained network depends besides its configuration. Comments
    do not count."""
    return {name: module_digest(COMMON / f"{name}.py") for name in SCIENCE}


def differing_code(record: dict) -> list[str]:
    """Returns the science modules that the training of a record used and whose code has changed since:
    supervised trainings use no contrastive loss, dense ones no pruning criterion. All, if the code was not
    recorded."""
    configuration, unused = record["configuration"], set()
    if configuration.get("learning_method") == "supervised":
        unused.add("losses")
    if "pruning_method" not in configuration:
        unused.add("criteria")
    recorded = record.get("code", {})
    changed = {name for name, digest in science_code().items() if recorded.get(name) != digest}
    return sorted(changed - unused)


def check_record(path: Path, record: dict, expected: dict, remedy: str, other_code: bool) -> bool:
    """Rejects a checkpoint or training state whose record has unexpected entries; returns whether the code
    has changed since, and logs this once.

    Args:
        record: of the checkpoint, or the content of the state.
        expected: the entries that it must have: data, configuration and, if known, seed, stage and SHA-256 of
            the networks that it was made from.
        remedy: ends the message; other_code: accept changed code.
    Raises:
        UserError: the entries differ; the message says which.
    """
    changed = differences(record["configuration"], expected["configuration"])
    words = [f"{key} {old}, not {new}" for key, (old, new) in changed.items()]
    if not same_training_images(record["data"], expected["data"]):
        words.append("different training images")
    if words:
        raise UserError(
            f"{path} was made with different settings ({', '.join(words)}); give the same ones, or {remedy}"
        )
    modules = differing_code(record)
    if modules and not other_code:
        raise UserError(
            f"{path} was made by a different version of {', '.join(modules)}; give --other_code to use it "
            f"as it is, or {remedy}"
        )
    if any(record.get(key) != expected[key] for key in expected.keys() - {"configuration", "data"}):
        raise UserError(
            f"{path} was made from a different dense model, encoder or iteration than the current one; "
            f"delete it to have it made again, or {remedy}"
        )
    if modules:
        log_once(
            f"note: some files were made by a different version of {', '.join(modules)}; used as they are"
        )
    return bool(modules)


def made_from_other_code(paths: Iterable[Path]) -> dict[str, list[str]]:
    """Returns file name -> changed modules for those of these files and their parents that a different
    version of the code made."""
    changed_modules = {}
    for path in paths:
        if record := read_record(path):
            changed_modules |= record.get("made_from_other_code", {})
            modules = differing_code(record)
            if modules or record.get("other_code"):
                changed_modules[path.name] = modules
    return changed_modules


def origin_of(records: list[dict | None], dense_records: Iterable[dict | None] = ()) -> str:
    """Returns the origin of networks with these records, None for a network without one.

    It is `trained here`, `external` or `finetuned here, dense external`, followed by `, other code` if a
    different version of the code made them or the dense networks that they are compared with.
    """
    origin = "trained here"
    if None in records:
        origin = "external"
    elif any(record["configuration"].get("dense", {}) is None for record in records):
        origin = "finetuned here, dense external"
    for record in filter(None, [*records, *dense_records]):
        if differing_code(record) or any(map(record.get, ("other_code", "made_from_other_code"))):
            return f"{origin}, other code"
    return origin


def log_external(paths: list[Path]) -> None:
    """Logs once that checkpoints without a record cannot be checked."""
    if paths:
        others = " and others" * (len(paths) > 1)
        log_once(
            f"note: {paths[0]}{others}: no record, taken as external; the training's settings, data and code "
            "are unknown and cannot be checked"
        )


def read_record(checkpoint: Path, name: CheckpointName | None = None) -> dict | None:
    """Reads the record of a checkpoint; returns None if it has none, which makes it external.

    Args:
        name: if given, the record must have it.
    Raises:
        UserError: a record that cannot be read or belongs to a different file; a file that was renamed.
    """
    path = record_path(checkpoint)
    refuse_pipe(checkpoint)
    refuse_pipe(path)
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text())
        data = record["data"]
        flips = {flip: data[flip] for flip in FLIPS if flip in data}
        record["configuration"] = with_defaults(record["configuration"], flips)
        sha256, _, _ = record["checkpoint_sha256"], data["checksum"][:12], record["sparsity"]["zeros"]
        recorded = {**record["name"]}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise UserError(
            f"{path} is damaged; move it and {checkpoint.name} away to have them made again, or only the "
            "JSON if the checkpoint was trained elsewhere"
        ) from None
    if sha256 != file_sha256(checkpoint):
        raise UserError(
            f"{path} describes a different file than the {checkpoint.name} beside it; move both away to have "
            "them made again, or only the JSON if the checkpoint was trained elsewhere"
        )
    facts = name.facts() if name else {}
    changed = [key for key, value in facts.items() if recorded.get(key, value) != value]
    if changed:
        words = ", ".join(f"{key} {recorded[key]}" for key in changed)
        raise UserError(f"{checkpoint} was renamed: its JSON says {words}; give both files their former name")
    return record


def with_defaults(configuration: dict, flips: dict) -> dict:
    """Fills in the defaults of settings that a recorded configuration, or the dense one in it, lacks."""
    training = settings.Retraining
    if "shuffle" in configuration:
        training = settings.SupervisedTraining
    elif "base_temperature" in configuration:
        training = settings.ContrastiveTraining
    elif "nesterov" in configuration:
        training = settings.Finetuning
    configuration = settings.defaults(training) | flips | configuration
    if isinstance(configuration.get("dense"), dict):
        configuration["dense"] = with_defaults(configuration["dense"], flips)
    return configuration


def load_classifier(
    paths: Sequence[Path],
    record: dict | None,
    name: CheckpointName,
    architecture: Architecture,
    num_classes: int,
) -> models.Classifier:
    """Loads the classifier from a supervised checkpoint, or from an encoder's and its head's, onto the CPU in
    eval mode.

    Args:
        paths: supervised, or encoder and head.
        record: of the last path; None for an external checkpoint, whose names, shapes and sparsity must fit.
    Raises:
        UserError: a file that cannot be read, does not fit the architecture, or has the wrong sparsity.
    """
    match_sparsity = name.sparsity if name.pruning_method == SMALL else 0.0  # small networks have no zeros
    if len(paths) == 1:
        network = models.SupervisedNetwork(architecture, num_classes, match_sparsity)
        load_state(network, read_payload(paths[0]), paths[0])
    else:
        encoder = models.make_backbone(architecture, match_sparsity=match_sparsity)
        head = models.ClassificationHead(encoder.latent_size, num_classes)
        load_state(encoder, encoder_state(read_payload(paths[0])), paths[0])
        load_state(head, read_payload(paths[1]), paths[1])
        network = models.ContrastiveClassifier(encoder, head)
    measured, expected, path = measure_sparsity(network), name.sparsity - match_sparsity, paths[-1]
    if record is None and abs(measured["total"] - expected) > PUBLISHED_SPARSITY_TOLERANCE:
        raise UserError(
            f"{path} has {measured['total']:.4f} of its weights at zero, but its name says {expected}; "
            "rename it"
        )
    if record and measured["zeros"] != record["sparsity"]["zeros"]:
        raise UserError(
            f"{path} has {measured['zeros']} weights at zero, but its JSON says "
            f"{record['sparsity']['zeros']}; {remedy_for(path)}"
        )
    return network.eval()


def refuse_not_finite(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Rejects a file whose weights, buffers or sums of gradients are not finite.

    Raises:
        UserError: names some of the tensors, the file and the remedy.
    """
    if names := not_finite(tensors):
        raise UserError(f"{path} holds values that are not finite, in {names}; {remedy_for(path)}")


def remedy_for(*paths: Path) -> str:
    """Returns the remedy for unusable checkpoints."""
    if not all(record_path(path).exists() for path in paths):
        return "it was not trained here, so it cannot be made again here: get another copy or leave it out"
    return "delete it to have it made again by the command in its JSON"


@contextmanager
def files_named(paths: Sequence[Path]) -> Iterator[None]:
    """A context in which an error about outputs that are not finite names the files of the network.

    Raises:
        UserError: names the files and the remedy.
    """
    try:
        yield
    except (NotFiniteError, FloatingPointError) as error:
        raise UserError(f"{' and '.join(map(str, paths))}: {error}; {remedy_for(*paths)}") from None


def load_network(*paths: str | Path) -> models.Classifier:
    """Like `load_classifier`, with name, architecture and number of classes from the record.

    Args:
        paths: supervised, or encoder and head.
    Raises:
        UserError: a missing file, one without a record or that does not fit it, a head of another encoder.
    """
    paths = tuple(map(Path, paths))
    for path in paths:
        if not path.exists():
            raise UserError(f"{path} does not exist")
    record = read_record(paths[-1])
    if record is None:
        raise UserError(f"{paths[-1]} has no record of this study beside it; use load_classifier")
    if record["name"]["part"] != "supervised" and len(paths) < 2:
        raise UserError(f"{paths[-1]} is one part of a contrastive network; give its encoder and its head")
    encoder_sha256 = record.get("encoder_sha256")
    if encoder_sha256 and encoder_sha256 != file_sha256(paths[0]):
        raise UserError(f"{paths[-1]} was not trained on {paths[0]}; give the head of this encoder")
    name = CheckpointName(**record["name"])
    architecture = Architecture.of_configuration(record["configuration"])
    return load_classifier(paths, record, name, architecture, len(record["data"]["class_names"]))


def read_payload(path: Path, remedy: str = "") -> dict:
    """Reads a file that torch.save wrote, without running code in it.

    Args:
        remedy: for a file that cannot be read; '' for that of `remedy_for`.
    Raises:
        UserError: it is no dictionary of tensors.
    """
    refuse_pipe(path)
    hint = "have the code that wrote it save only the state_dict: torch.save(network.state_dict(), path)"
    try:
        if zipfile.is_zipfile(path):  # files of the oldest versions of torch are not
            check_size(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on foreign pickles: the error message below is enough
            payload = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds of errors for a damaged or foreign file
        if names_cause(error, path):
            raise
        if match := re.search(r"GLOBAL (\S+)|TorchScript", str(error)):
            raise UserError(f"{path} holds {match[1] or match[0]}, not only tensors; {hint}") from None
        raise UserError(
            f"{path} is not a readable checkpoint ({type(error).__name__}); {remedy or remedy_for(path)}"
        ) from None
    if not isinstance(payload, dict):
        raise UserError(f"{path} holds a {type(payload).__name__}, no state_dict; {hint}")
    return payload


def tensor_checksums(path: Path) -> tuple:
    """Returns sizes and CRCs of all tensors from the zip file's directory, without reading tensors. Files of
    the same supervised network or encoder have the same ones, in any format."""
    try:
        with zipfile.ZipFile(path) as file:
            tensors = [entry for entry in file.infolist() if "/data/" in entry.filename]
    except Exception:  # damaged, foreign, or written by one of the oldest versions of torch
        tensors = []
    return tuple(sorted((entry.file_size, entry.CRC) for entry in tensors)) or (file_sha256(path),)


def encoder_state(payload: dict) -> dict:
    """Returns the state_dict of the encoder in a checkpoint, without a projection head."""
    state = plain_state(payload)
    encoder = {name: value for name, value in state.items() if name.startswith(("encoder.", "backbone."))}
    return plain_state(encoder) or state


# Entries in which training frameworks wrap a state_dict, and prefixes that they add to all names.
STATE_ENTRIES = ("state_dict", "model_state_dict", "model", "net", "network", "head", "classifier")
NAME_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.", "encoder.", "base.")


def plain_state(payload: dict) -> dict:
    """Returns the state_dict in a checkpoint: unwraps known entries and removes prefixes that all names
    share, repeatedly."""
    state = payload
    while entry := next((key for key in STATE_ENTRIES if isinstance(state.get(key), dict)), None):
        state = state[entry]
    state = {str(name): value for name, value in state.items()}

    def shared_prefix() -> str | None:
        return next((known for known in NAME_PREFIXES if all(name.startswith(known) for name in state)), None)

    while state and (prefix := shared_prefix()):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def load_state(module: nn.Module, state: dict, path: Path) -> None:
    """Loads the content of a file into a network.

    Raises:
        UserError: the names or shapes do not fit, or values are not finite.
    """
    state, names = plain_state(state), module.state_dict().keys()
    for prefix in ("base.", "fc."):  # names of bare backbones and heads lack these
        if {prefix + name for name in state} <= names:
            state = {prefix + name: value for name, value in state.items()}
    # Older files lack num_batches_tracked.
    missing = [name for name in names if name not in state and not name.endswith("num_batches_tracked")]
    unknown = [name for name in state if name not in names]
    problem = f"{path} does not fit the network that the flags describe"
    if missing or unknown:
        some_missing, some_unknown = (", ".join(group[:4]) or "none" for group in (missing, unknown))
        raise UserError(
            f"{problem}: {len(missing)} names are missing: {some_missing}; {len(unknown)} are unknown: "
            f"{some_unknown}; docs/own_data.md shows how to rename them"
        )
    try:
        module.load_state_dict(state, strict=False)
    except (RuntimeError, AttributeError) as error:
        detail = str(error).split("\n")[:2][-1]  # the first of two lines only names the module
        raise UserError(f"{problem}: {detail.strip()[:200]}") from None
    refuse_not_finite(module.state_dict(), path)


@dataclass
class TrainingState:
    """Keeps the state of one unfinished training in a file.

    It is a context manager. On an error or signal it writes the state after the last complete epoch and adds
    a note to the error. Without an error, once the checkpoint is saved, it deletes the file. A state needs no
    random generators, because orders, views, dropout and random criteria depend only on (seed, stage, epoch
    or step). A resumed training ends bit for bit like an undisturbed one, on a CPU with the same number of
    threads.

    facts: configuration, data, seed, stage and origin of the training; a state with different ones is
    rejected. every: interval between saved states. remedy, other_code: see `check_record`.
    is_of_other_code: whether changed code trained some of the epochs.
    """

    path: Path
    facts: dict
    every: Interval
    remedy: str
    other_code: bool
    unsaved: tuple[int, bytes] | None = None  # number of epochs done, content of the file
    saved_epoch: int = 0
    is_of_other_code: bool = False

    @property
    def code_entry(self) -> dict:
        """The entry of a record if changed code trained some of the epochs, else none."""
        return {"other_code": True} if self.is_of_other_code else {}

    def __enter__(self) -> "TrainingState":
        return self

    def __exit__(self, kind, error: BaseException | None, trace) -> None:
        # A training that diverged would do so again.
        if error is None or isinstance(error.__context__, NotFiniteError):
            self.path.unlink(missing_ok=True)
            return
        with suppress(UserError, OSError, MemoryError):  # a full disk, say; the previous state still exists
            self._save()
        if self.saved_epoch:
            error.add_note(f"{self.path} holds the state after {self.saved_epoch} epochs")

    def epochs_left(
        self, epochs: range, trained: dict[str, Any], masks: Masks, history: list[dict]
    ) -> Iterator[int]:
        """Yields the epochs that remain to be trained: all, or those after a saved state.

        Args:
            trained: network and optimizer, or anything with state_dict and load_state_dict. They, `masks` and
                `history` are set to the saved state in place.
        Raises:
            UserError: a state with different settings or code, or one that does not fit.
        """
        first = epochs.start
        if self.path.exists():
            first = self.saved_epoch = self._resume(trained, masks, history)
            logger.info("resuming after %d of %d epochs: %s", first, epochs.stop, self.path)
        saved_at = time.monotonic()
        for done in range(first + 1, epochs.stop + 1):
            yield done - 1
            state = {
                "format": STATE_FORMAT,
                **self.facts,
                "code": science_code(),
                "other_code": self.is_of_other_code,
                "epoch": done,
                "threads": torch.get_num_threads(),
                "masks": masks,
                "history": history,
                "parts": {name: part.state_dict() for name, part in trained.items()},
            }
            # A copy in main memory, because a signal or a device error may interrupt the next epoch.
            self.unsaved = done, torch_bytes(state)
            epochs_since, seconds_since = done - self.saved_epoch, time.monotonic() - saved_at
            is_due = epochs_since >= self.every.epochs or seconds_since >= self.every.seconds
            if is_due and done < epochs.stop:
                self._save()
                saved_at = time.monotonic()

    def _save(self) -> None:
        if self.unsaved is None:
            return
        epoch, content = self.unsaved
        write_atomically(self.path, lambda temporary: temporary.write_bytes(content))
        self.unsaved, self.saved_epoch = None, epoch
        logger.debug("saved: %s after %d epochs", self.path, epoch)

    def _resume(self, trained: dict[str, Any], masks: Masks, history: list[dict]) -> int:
        """Loads the state in the file; returns the number of epochs done."""
        remedy = "delete it to start that training over"
        state = read_payload(self.path, remedy)
        if state.get("format") != STATE_FORMAT:
            raise UserError(f"{self.path} is of a different version; finish it with that one, or {remedy}")
        remedy = f"{remedy}, or {self.remedy}"
        try:
            has_changed = check_record(self.path, state, self.facts, remedy, self.other_code)
            self.is_of_other_code = bool(has_changed or state.get("other_code"))
            if state["threads"] != (threads := torch.get_num_threads()):
                logger.info(
                    f"note: {self.path} was saved by a run with {state['threads']} threads, this one has "
                    f"{threads}: the result will differ by rounding"
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
