"""Evaluates networks on the images. Stored results are used until the checkpoint, data or code changes."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common import metrics, neighbours, voting
from common.data import ImageDataset
from common.evaluation import check_finite, evaluation_batch, evaluation_batches, outputs
from common.models import Classifier
from common.pruning import layer_name, masks_of
from common.store.files import COMMON, code_digest, read_arrays, write_arrays
from common.store.populations import Member
from common.store.records import files_named, load_classifier
from common.study import Study
from common.training import prepare

PARTS = ("q_score", "z_score", "l1_norm")
# Stacked for a population.
OUTPUTS = ("predictions", *PARTS, "zero_latents", "log_probabilities", "latent_sample")
STORED = (*OUTPUTS, "layers", "layer_shapes", "mask_bits")  # arrays of every evaluation
HIDDEN_BYTES = 2**30  # limit on the representations of the training images in memory
LATENT_IMAGES = 2000  # largest number of images whose latents are stored


def load_member(study: Study, member: Member) -> Classifier:
    """Loads the network of a population's member onto the device, in eval mode."""
    network = load_classifier(
        member.paths, member.record, member.names[-1], study.architecture, len(study.data.class_names)
    )
    return prepare(network, study.device).eval()


def evaluation_path(study: Study, member: Member) -> Path:
    """Returns the file in which `evaluate` stores its arrays."""
    return study.method_folder / "evaluations" / f"{member.paths[0].stem}.npz"


def probe_path(study: Study, member: Member) -> Path:
    """Returns the file in which `probe` stores its arrays."""
    return study.method_folder / "prediction_depth" / "votes" / f"{member.paths[0].stem}.npz"


def code() -> str:
    """Returns the digest of the code on which stored evaluations depend. A new metric that reads stored
    arrays does not change it."""
    return code_digest(
        COMMON / "augment.py",
        COMMON / "evaluation.py",
        metrics.q_scores,
        neighbours.knn_labels,
        neighbours.nearest,
        voting.tie_ranks,
        COMMON / "models.py",
    )


def _made_from(study: Study, member: Member) -> dict:
    return {"checkpoints": member.checksums, "data": study.data.evaluated, "code": code()}


def sampled(images: int) -> np.ndarray:
    """Returns the indices of the images whose latents are stored: evenly spaced, because the images of a
    folder are sorted by class."""
    count = min(images, LATENT_IMAGES)
    return np.arange(count) * images // count


@torch.no_grad()
def evaluate(study: Study, member: Member, with_latent: bool = False) -> dict[str, np.ndarray]:
    """Computes predictions, Q-Scores and the mask of a network on the test images.

    Returns:
        predictions (N,); q_score, z_score, l1_norm (N,); zero_latents (), their number; log_probabilities
        (N, C) float16, the logits after log-softmax, which keeps them small; latent_sample (S, D) float16:
        the latents of at most 2,000 evenly spaced test images, divided by their largest magnitude; with
        `with_latent` also latent (N, D). For the mask: layers (L,), names that supervised and contrastive
        networks share, such as `block1.layer.0.conv1.weight`; layer_shapes (L, 4), padded with ones;
        mask_bits, the packed and concatenated bits of all layers, 1 for a kept weight.
    Raises:
        UserError: outputs that are not finite.
    """
    path, made = evaluation_path(study, member), _made_from(study, member)
    stored = read_arrays(path, made) or {}
    if {*STORED, *["latent"] * with_latent} <= stored.keys():  # a release has only some
        return stored
    network = load_member(study, member)
    with files_named(member.paths):
        latent = outputs(network.latent, study.data.test_images, study.data, study.flags.batch_size)
        logits = check_finite(network.classify(latent), "logits of the test images")
    masks = {layer_name(name): mask.cpu().numpy().astype(bool) for name, mask in masks_of(network).items()}
    sample = latent[sampled(len(latent))]
    arrays = {
        "predictions": logits.argmax(1).cpu().numpy().astype(np.int16),
        "log_probabilities": logits.log_softmax(1).half().cpu().numpy(),
        "latent_sample": (sample / sample.abs().max().clamp(min=1e-30)).half().cpu().numpy(),
        **metrics.q_scores(latent.cpu().numpy()),
        "zero_latents": int((latent == 0).all(1).sum()),
        "layers": np.array(list(masks)),
        "layer_shapes": np.array([(*mask.shape, 1, 1, 1)[:4] for mask in masks.values()]),
        "mask_bits": np.packbits(np.concatenate([mask.ravel() for mask in masks.values()])),
    }
    if with_latent:
        arrays["latent"] = latent.cpu().numpy()
    write_arrays(path, arrays, made)
    return arrays


@torch.no_grad()
def probe(study: Study, member: Member) -> dict[str, np.ndarray]:
    """Computes the k-NN label of every test image at every probe layer, and the network's prediction.

    The k-NN uses the training images without augmentation; the network is in eval mode.

    Returns:
        knn (P, N), predictions (N,), places (P,), the names of the probe layers.
    Raises:
        ValueError: fewer training images than neighbours.
        UserError: representations or outputs that are not finite.
    """
    path, made = probe_path(study, member), {**_made_from(study, member), "neighbours": neighbours.NEIGHBOURS}
    stored = read_arrays(path, made)
    if stored is not None:
        return stored
    data, batch_size = study.data, study.flags.batch_size
    network = load_member(study, member)
    with files_named(member.paths):
        knn = knn_at_layers(network, data, batch_size)
        logits = outputs(network, data.test_images, data, batch_size)
    arrays = {
        "knn": torch.stack(list(knn.values())).cpu().numpy().astype(np.int16),
        "predictions": logits.argmax(1).cpu().numpy().astype(np.int16),
        "places": np.array(list(knn)),
    }
    write_arrays(path, arrays, made)
    return arrays


@torch.no_grad()
def knn_at_layers(network: Classifier, data: ImageDataset, batch_size: int) -> dict[str, Tensor]:
    """Returns layer -> the k-NN labels of all test images (N,). The network is in eval mode; see
    `evaluation_batches` for `batch_size`."""
    one_image = network.representations(evaluation_batch(data.test_images[:1], data))
    widths = {layer: hidden.shape[1] for layer, hidden in one_image.items()}
    labels = {}
    for layers in _layer_groups(widths, len(data.train_images)):
        train, test = (
            _representations(network, images, data, layers, batch_size)
            for images in (data.train_images, data.test_images)
        )
        for layer in layers:
            labels[layer] = neighbours.knn_labels(
                train.pop(layer), data.train_labels, test.pop(layer), len(data.class_names)
            )
    return labels


def _layer_groups(widths: dict[str, int], images: int) -> list[list[str]]:
    """Groups consecutive layers whose representations fit into memory together; a group has at least one."""
    groups, free_bytes = [], 0
    for layer, width in widths.items():
        size = 4 * width * images
        if size > free_bytes:
            groups.append([])
            free_bytes = HIDDEN_BYTES
        groups[-1].append(layer)
        free_bytes -= size
    return groups


def _representations(
    network: Classifier, images: Tensor, data: ImageDataset, layers: list[str], batch_size: int
) -> dict[str, Tensor]:
    stored, done = {}, 0
    for batch in evaluation_batches(images, data, batch_size):
        hidden = network.representations(batch)
        for layer in layers:
            # Preallocated: concatenating the batches at the end would need twice the memory.
            if layer not in stored:
                stored[layer] = hidden[layer].new_empty(len(images), hidden[layer].shape[1])
            stored[layer][done : done + len(batch)] = hidden[layer]
        done += len(batch)
    return {layer: check_finite(hidden, f"representations at {layer}") for layer, hidden in stored.items()}
