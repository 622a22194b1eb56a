"""Inference without gradients: outputs for un-augmented images, and scores on the test set."""

import math
from typing import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from common import augment
from common.cli import UserError
from common.data import ImageDataset
from common.models import Classifier

# Limits on the images and on the pixels of a batch.
EVALUATION_BATCH, EVALUATION_PIXELS = 1000, 1000 * 32 * 32
# Limit on a CPU, so that activations fit its cache: twice as fast as 1000 images, with the same results.
CACHED_PIXELS = 64 * 32 * 32


class NotFiniteError(UserError):
    """The outputs of a network are not finite, so nothing may be computed from them."""


def not_finite(tensors: dict[str, Tensor]) -> str:
    """Returns the name of the first tensor with values that are not finite, and how many more there are;
    empty if all are finite."""
    names = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    return "" if not names else names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def check_finite(outputs: Tensor, what: str) -> Tensor:
    """Returns the outputs of a network unchanged if they are finite. On a GPU this waits for the device.

    Args:
        what: name of the outputs in the error message.
    Raises:
        NotFiniteError: some are not finite.
    """
    if not outputs.isfinite().all():
        raise NotFiniteError(f"{what} are not finite")
    return outputs


def evaluation_size(images: Tensor, batch_size: int | None = None) -> int:
    """Returns the batch size for these images without gradients, at most `batch_size`."""
    pixels = images[0, 0].numel()
    if images.device.type == "cpu":
        return max(1, min(batch_size or EVALUATION_BATCH, CACHED_PIXELS // pixels))
    return batch_size or max(1, min(EVALUATION_BATCH, EVALUATION_PIXELS // pixels))


@torch.no_grad()
def outputs(
    encode: Callable[[Tensor], Tensor], images: Tensor, data: ImageDataset, batch_size: int | None = None
) -> Tensor:
    """Returns the latents (N, D) or logits of a network in eval mode for un-augmented uint8 images (N, 3, H,
    W).

    Args:
        encode: the network, or the part of it that computes latents.
    Raises:
        NotFiniteError: the outputs are not finite.
    """
    batches = evaluation_batches(images, data, batch_size)
    return check_finite(torch.cat([encode(batch) for batch in batches]), "outputs for un-augmented images")


def evaluation_batch(images: Tensor, data: ImageDataset) -> Tensor:
    """Turns uint8 images into network input, without augmentation."""
    return augment.evaluation_images(images, data.mean, data.std)


def evaluation_batches(images: Tensor, data: ImageDataset, batch_size: int | None = None) -> Iterator[Tensor]:
    """Yields network input in batches of at most `batch_size` images, without augmentation."""
    return (evaluation_batch(batch, data) for batch in images.split(evaluation_size(images, batch_size)))


@torch.no_grad()
def evaluate_test_set(network: Classifier, data: ImageDataset) -> dict[str, float]:
    """Returns test_loss and test_accuracy over the whole test set, in eval mode.

    Raises:
        NotFiniteError: the logits are not finite.
    """
    network.eval()
    return test_scores(outputs(network, data.test_images, data), data)


@torch.no_grad()
def test_scores(logits: Tensor, data: ImageDataset) -> dict[str, float]:
    """Returns test_loss and test_accuracy, given the logits (N, C) of the test images.

    Raises:
        NotFiniteError: the logits or the loss are not finite.
    """
    accuracy = (logits.argmax(1) == data.test_labels).float().mean()
    scores = [F.cross_entropy(logits, data.test_labels), accuracy, logits.isfinite().all()]
    # One transfer for all: each would wait for the device.
    loss, accuracy, finite = torch.stack([score.float() for score in scores]).tolist()
    if not (finite and math.isfinite(loss)):
        raise NotFiniteError("logits of the test images are not finite")
    return {"test_loss": loss, "test_accuracy": accuracy}
