"""Networks without gradients: what they give for images as they are, and their scores on the test set."""

from typing import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from common import augment
from common.data import ImageDataset
from common.models import Classifier

EVALUATION_BATCH, EVALUATION_PIXELS = (
    1000,
    1000 * 32 * 32,
)  # images in a batch without gradients; fewer where they are large
CACHED_PIXELS = (
    64 * 32 * 32
)  # at once on a CPU, whose cache then holds the activations: twice as fast as 1000 images, the same numbers


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
    W): latents (N, D), logits."""
    return torch.cat([encode(batch) for batch in evaluation_batches(images, data, batch_size)])


def evaluation_batch(images: Tensor, data: ImageDataset) -> Tensor:
    """uint8 images -> network input without augmentation."""
    return augment.evaluation_images(images, data.mean, data.std)


def evaluation_batches(images: Tensor, data: ImageDataset, batch_size: int | None = None) -> Iterator[Tensor]:
    """The same in batches of `batch_size` images at most."""
    return (evaluation_batch(batch, data) for batch in images.split(evaluation_size(images, batch_size)))


@torch.no_grad()
def evaluate_test_set(network: Classifier, data: ImageDataset) -> dict[str, float]:
    """test_loss and test_accuracy over the whole test set, in eval mode."""
    network.eval()
    return test_scores(outputs(network, data.test_images, data), data)


@torch.no_grad()
def test_scores(logits: Tensor, data: ImageDataset) -> dict[str, float]:
    return {
        "test_loss": F.cross_entropy(logits, data.test_labels).item(),
        "test_accuracy": (logits.argmax(1) == data.test_labels).float().mean().item(),
    }
