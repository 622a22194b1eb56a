"""Networks without gradients: what they give for images as they are, and their scores on the test set."""

import math
from typing import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from common import augment
from common.cli import UserError
from common.data import ImageDataset
from common.models import Classifier

EVALUATION_BATCH, EVALUATION_PIXELS = (
    1000,
    1000 * 32 * 32,
)  # images in a batch without gradients; fewer where they are large
CACHED_PIXELS = (
    64 * 32 * 32
)  # at once on a CPU, whose cache then holds the activations: twice as fast as 1000 images, the same numbers


class NotFiniteError(UserError):
    """Outputs of a network that are not finite; nothing may be computed from them."""


def not_finite(tensors: dict[str, Tensor]) -> str:
    """The name of the first of these tensors that is not finite and the number of others; empty: none is."""
    names = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    return "" if not names else names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def check_finite(outputs: Tensor, what: str) -> Tensor:
    """The outputs of a network as they are; on a GPU this waits for the device.

    Args:
        what: their name in the message.
    Raises:
        NotFiniteError: some are not finite.
    """
    if not outputs.isfinite().all():
        raise NotFiniteError(f"{what} are not finite")
    return outputs


def evaluation_size(images: Tensor, batch_size: int | None = None) -> int:
    """How many of these images go through a network at once without gradients; `batch_size` at most."""
    pixels = images[0, 0].numel()
    if images.device.type == "cpu":
        return max(1, min(batch_size or EVALUATION_BATCH, CACHED_PIXELS // pixels))
    return batch_size or max(1, min(EVALUATION_BATCH, EVALUATION_PIXELS // pixels))


@torch.no_grad()
def outputs(
    encode: Callable[[Tensor], Tensor], images: Tensor, data: ImageDataset, batch_size: int | None = None
) -> Tensor:
    """What `encode` of a network in eval mode, or the network, gives for un-augmented uint8 images (N, 3, H,
    W): latents (N, D), logits.

    Raises:
        NotFiniteError: they are not finite.
    """
    batches = evaluation_batches(images, data, batch_size)
    return check_finite(torch.cat([encode(batch) for batch in batches]), "outputs for un-augmented images")


def evaluation_batch(images: Tensor, data: ImageDataset) -> Tensor:
    """uint8 images -> network input without augmentation."""
    return augment.evaluation_images(images, data.mean, data.std)


def evaluation_batches(images: Tensor, data: ImageDataset, batch_size: int | None = None) -> Iterator[Tensor]:
    """The same in batches of `batch_size` images at most."""
    return (evaluation_batch(batch, data) for batch in images.split(evaluation_size(images, batch_size)))


@torch.no_grad()
def evaluate_test_set(network: Classifier, data: ImageDataset) -> dict[str, float]:
    """test_loss and test_accuracy over the whole test set, in eval mode.

    Raises:
        NotFiniteError: the logits are not finite.
    """
    network.eval()
    return test_scores(outputs(network, data.test_images, data), data)


@torch.no_grad()
def test_scores(logits: Tensor, data: ImageDataset) -> dict[str, float]:
    """test_loss and test_accuracy by the logits (N, C) of the test images.

    Raises:
        NotFiniteError: logits, or a loss, that are not finite.
    """
    accuracy = (logits.argmax(1) == data.test_labels).float().mean()
    scores = [F.cross_entropy(logits, data.test_labels), accuracy, logits.isfinite().all()]
    # Read together: every reading waits for the device.
    loss, accuracy, finite = torch.stack([score.float() for score in scores]).tolist()
    if not (finite and math.isfinite(loss)):
        raise NotFiniteError("logits of the test images are not finite")
    return {"test_loss": loss, "test_accuracy": accuracy}
