"""What is computed once and kept: arrays (.npz) with what made them, evaluations of networks, and the table of a data set."""

import csv
import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common import methods, metrics
from common.cli import UserError, logger
from common.data import ImageDataset
from common.evaluation import evaluation_batch, evaluation_batches, outputs
from common.models import Classifier
from common.pruning import layer_name, masks_of
from common.store.checkpoints import load_classifier
from common.store.files import FORMAT, read_arrays, write_arrays
from common.store.populations import Member, Population
from common.store.sharing import claim
from common.store.table import (  # noqa: F401
    KEY_COLUMNS,
    NUMBERS,
    _show,
    format_table,
    table_path,
    write_rows,
)
from common.study import Study
from common.training import prepare

HIDDEN_BYTES = 2**30  # representations of the training images held at once


def load_member(study: Study, member: Member) -> Classifier:
    """The network of a population's member on the device, in eval mode."""
    network = load_classifier(
        list(member.paths), member.record, member.names[-1], study.architecture, len(study.data.class_names)
    )
    return prepare(network, study.device).eval()


def evaluation_path(study: Study, member: Member) -> Path:
    """Where `evaluate` stores what it finds."""
    return study.method_folder / "evaluations" / f"{member.paths[0].stem}.npz"


def probe_path(study: Study, member: Member) -> Path:
    """Where `probe` stores what it finds."""
    return study.method_folder / "prediction_depth" / "votes" / f"{member.paths[0].stem}.npz"


def _made_from(study: Study, member: Member) -> dict:
    """What is stored for a member depends on its checkpoints and the data."""
    return {"checkpoints": list(member.checksums), "data": study.data.checksum}


@torch.no_grad()
def evaluate(study: Study, member: Member, with_latent: bool = False) -> dict[str, np.ndarray]:
    """Predictions and Q-Scores of a network on the test images, computed once and reused while its checkpoint is unchanged.

    Returns:
        predictions (N,); q_score, z_score, l1_norm (N,); zero_latents (); with `with_latent` also latent (N, D); and the network's mask:
        layers (L,) names, layer_shapes (L, 4) padded with ones, mask_bits, the packed bits of all layers one after the other, 1 kept.
    """
    path, made = evaluation_path(study, member), _made_from(study, member)
    stored = read_arrays(path, made)
    if stored is not None and ("latent" in stored or not with_latent):
        return stored
    network = load_member(study, member)
    latent = outputs(network.latent, study.data.test_images, study.data, study.flags.batch_size)
    arrays = {
        "predictions": network.classify(latent).argmax(1).cpu().numpy().astype(np.int16),
        **metrics.q_scores(latent.cpu().numpy()),
        "zero_latents": int((latent == 0).all(1).sum()),
        **_mask_arrays(network),
    }
    if with_latent:
        arrays["latent"] = latent.cpu().numpy()
    write_arrays(path, arrays, made)
    return arrays


def _mask_arrays(network: Classifier) -> dict[str, np.ndarray]:
    """The mask of a network; its layers have the same names in supervised and contrastive networks: `block1.layer.0.conv1.weight`."""
    masks = {name: mask.cpu().numpy().astype(bool) for name, mask in masks_of(network).items()}
    return {
        "layers": np.array([layer_name(name) for name in masks]),
        "layer_shapes": np.array([(*mask.shape, 1, 1, 1)[:4] for mask in masks.values()]),
        "mask_bits": np.packbits(np.concatenate([mask.ravel() for mask in masks.values()])),
    }


@torch.no_grad()
def probe(study: Study, member: Member) -> dict[str, np.ndarray]:
    """The k-NN label of every test image at every probe place, and the network's own prediction; stored and reused.

    The k-NN is fitted on the un-augmented training images, with the network in eval mode.

    Returns:
        knn (P, N), predictions (N,), places (P,) their names.
    """
    path, made = probe_path(study, member), {**_made_from(study, member), "neighbours": metrics.NEIGHBOURS}
    stored = read_arrays(path, made)
    if stored is not None:
        return stored
    if len(study.data.train_images) < metrics.NEIGHBOURS:
        raise UserError(
            f"prediction depth needs at least {metrics.NEIGHBOURS} training images, {study.data.name} has "
            f"{len(study.data.train_images)}"
        )
    network = load_member(study, member)
    knn = knn_at_places(network, study.data, study.flags.batch_size)
    logits = outputs(network, study.data.test_images, study.data, study.flags.batch_size)
    arrays = {
        "knn": torch.stack(list(knn.values())).cpu().numpy().astype(np.int16),
        "predictions": logits.argmax(1).cpu().numpy().astype(np.int16),
        "places": np.array(list(knn)),
    }
    write_arrays(path, arrays, made)
    return arrays


@torch.no_grad()
def knn_at_places(network: Classifier, data: ImageDataset, batch_size: int) -> dict[str, Tensor]:
    """Place -> the k-NN label of every test image (N,) there; the network is in eval mode, `batch_size` as in `evaluation_batches`."""
    one = network.representations(evaluation_batch(data.test_images[:1], data))
    labels = {}
    for places in _place_groups(
        {name: place.shape[1] for name, place in one.items()}, len(data.train_images)
    ):
        train, test = (
            _representations(network, images, data, places, batch_size)
            for images in (data.train_images, data.test_images)
        )
        for place in places:
            labels[place] = metrics.knn_labels(
                train.pop(place), data.train_labels, test.pop(place), len(data.class_names)
            )
    return labels


def _place_groups(widths: dict[str, int], images: int) -> list[list[str]]:
    """Consecutive places whose representations fit into memory together; one place at least."""
    groups, room = [], 0
    for place, width in widths.items():
        size = 4 * width * images
        if size > room:
            groups.append([])
            room = HIDDEN_BYTES
        groups[-1].append(place)
        room -= size
    return groups


def _representations(
    network: Classifier, images: Tensor, data: ImageDataset, places: list[str], batch_size: int
) -> dict[str, Tensor]:
    found, done = {}, 0
    for batch in evaluation_batches(images, data, batch_size):
        hidden = network.representations(batch)
        for place in places:
            # In place: parts that are put together at the end would be there twice.
            if place not in found:
                found[place] = hidden[place].new_empty(len(images), hidden[place].shape[1])
            found[place][done : done + len(batch)] = hidden[place]
        done += len(batch)
    return found


def read_table(results_folder: Path) -> list[dict[str, str]]:
    """The rows of the table, [] where there is none."""
    path = table_path(results_folder)
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            methods.order(row["pruning_method"]), row["learning_method"], row["status"]
            for column in NUMBERS & row.keys():
                float(row[column] or 0)
    except (ValueError, KeyError, TypeError, AttributeError, csv.Error):
        raise UserError(
            f"{path} is not a table of this study; move it away, it is written anew from the stored arrays"
        ) from None
    return rows


def update_table(results_folder: Path, rows: list[dict]) -> list[dict[str, str]]:
    """Writes rows into the table, by (learning method, pruning method, sparsity), and returns these rows as they now stand there.

    Columns that a row does not name keep their old values as long as the row comes from the same networks and data (`population`);
    otherwise the old row is forgotten. Rows of the learning method that were compared with other dense networks (`dense_population`)
    leave the table, so that it never mixes two. A combination that is absent in these folders does not replace its numbers.
    """
    with claim(table_path(results_folder), wait=True):  # scripts of both methods may run at once
        return _merge_into_table(results_folder, rows)


def _merge_into_table(results_folder: Path, rows: list[dict]) -> list[dict[str, str]]:
    def key(row: dict) -> tuple:
        return (row["learning_method"], row["pruning_method"], float(row["sparsity"]))

    rows = [{name: _show(value) for name, value in row.items()} for row in rows]
    dense = {row["learning_method"]: row["dense_population"] for row in rows}
    stored = read_table(results_folder)
    table = {
        key(row): row
        for row in stored
        if row.get("dense_population") == dense.get(row["learning_method"], row.get("dense_population"))
    }
    if len(table) < len(stored):
        logger.info("%d rows of other dense networks left the table", len(stored) - len(table))
    merged = []
    for row in rows:
        old = table.get(key(row), {})
        merged.append({**(old if old.get("population") == row["population"] else {}), **row})
        if row["status"] == "present" or old.get("status") != "present":
            table[key(row)] = merged[-1]
    ordered = sorted(
        table.values(),
        key=lambda row: (
            row["learning_method"],
            methods.order(row["pruning_method"]),
            float(row["sparsity"]),
        ),
    )
    write_rows(table_path(results_folder), ordered)
    return merged


def population_row(
    study: Study, population: Population | None, pruning_method: str, sparsity: float, dense: Population
) -> dict:
    """The columns that say which networks a row is about and which dense ones they are compared with; None is absent."""

    def identity(*populations: Population) -> str:
        parts = [FORMAT, study.data.checksum, *(one.checksums for one in populations)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]

    row = {
        "learning_method": study.learning_method,
        "pruning_method": pruning_method,
        "sparsity": sparsity,
        "dense_population": identity(dense),
        **{f"dense_{fact}": value for fact, value in dense.facts().items()},
    }
    if population is None:
        return {**row, "status": "absent", "population": ""}
    origin = "made elsewhere" if population.made_elsewhere or dense.made_elsewhere else "made here"
    return {
        **row,
        "status": "present",
        "models": len(population.members),
        "dense_models": len(dense.members),
        "origin": origin,
        "architecture": study.architecture_name,
        **population.facts(),
        "population": identity(population, dense),
    }


def accuracy_columns(population: Population, predictions: np.ndarray, labels: np.ndarray) -> dict:
    """Mean and standard deviation (n - 1; empty for one model) of test accuracy over the models, and before finetuning.

    Args:
        predictions: (K, N); labels: (N,).
    """
    accuracies = (predictions == labels).mean(1)
    before = [
        member.record["accuracy_as_pruned"]
        for member in population.members
        if "accuracy_as_pruned" in (member.record or {})
    ]
    return {
        "accuracy_mean": accuracies.mean(),
        "accuracy_std": accuracies.std(ddof=1) if len(accuracies) > 1 else None,
        "accuracy_before_finetuning_mean": np.mean(before) if before else None,
    }
