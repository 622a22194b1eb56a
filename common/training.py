"""One epoch, one run, evaluation. Losses and counts add up on the device and are read once an epoch."""

import math
import time
from typing import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from common import augment
from common.cli import UserError
from common.data import ImageDataset
from common.losses import chance_contrastive_loss, contrastive_loss
from common.models import ClassificationHead, Classifier, ContrastiveEncoder, WideResNet
from common.pruning import Masks, apply_masks

SUPERVISED_MILESTONES = (5, 30, 50, 80)  # learning rate x 0.1
HEAD_MILESTONES = (60, 75, 90)  # learning rate x 0.2, chained with a cosine to 1e-4
HEAD_LEARNING_RATE = 0.1
FINETUNING_LEARNING_RATE = 1e-3
WARMUP_FROM = 0.01
WARMUP_ABOVE_BATCH = 256
LARS_TRUST, LARS_EPSILON = 0.02, 1e-8
EVALUATION_BATCH, EVALUATION_PIXELS = 1000, 1000 * 32 * 32  # images in a batch without gradients; fewer where they are large


def prepare(network: nn.Module, device: torch.device) -> nn.Module:
    """The network on `device`, its convolutions in channels-last order: the same numbers, a fifth faster on a CPU."""
    return network.to(device, memory_format=torch.channels_last)


def seed_weights(*key) -> None:
    """Seeds torch's global generators, before the first weight of a network (or the first dropout of an epoch)."""
    torch.manual_seed(augment.stream_seed(*key))


def progress_bar(steps: int, description: str) -> tqdm:
    """A bar on stderr with the loss and the time left; silent where stderr is not a terminal."""
    return tqdm(total=steps, desc=description, disable=None, leave=False)


def _advance(bar: tqdm, loss: Tensor) -> None:
    # Reading the loss waits for the device, so it is read once a second at most, and never without a terminal.
    if not bar.disable and time.monotonic() - getattr(bar, "loss_shown_at", 0) > 1:
        bar.loss_shown_at = time.monotonic()
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    bar.update()


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Sets the rate of all parameter groups."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def supervised_learning_rate(initial: float, epoch: int) -> float:
    """The published steps: x 0.1 at epochs 5, 30, 50, 80 (epochs count from 0)."""
    return initial * 0.1 ** sum(epoch >= milestone for milestone in SUPERVISED_MILESTONES)


def contrastive_learning_rate(initial: float, epoch: int, epochs: int, cosine_annealing: bool) -> float:
    """Constant, or per epoch along a cosine from `initial` to `initial` / 1000 (epochs count from 0)."""
    if not cosine_annealing:
        return initial
    lowest = initial / 1000
    return lowest + (initial - lowest) * (1 + math.cos(math.pi * epoch / epochs)) / 2


def contrastive_learning_rates(initial: float, epoch: int, epochs: int, cosine_annealing: bool, warmup_epochs: int, batch_size: int,
                               images: int) -> list[float]:
    """The rate of every step of an epoch: that of the epoch, or with a batch above 256, during the warm-up epochs, linear per step from
    0.01 to the rate of the first epoch after them."""
    steps = math.ceil(images / batch_size)
    warmup_epochs = warmup_epochs if batch_size > WARMUP_ABOVE_BATCH else 0
    rate = contrastive_learning_rate(initial, max(epoch, warmup_epochs), epochs, cosine_annealing)
    if epoch >= warmup_epochs:
        return [rate] * steps
    return [WARMUP_FROM + (rate - WARMUP_FROM) * (epoch * steps + step) / (warmup_epochs * steps) for step in range(steps)]


def chance_loss(images: int, batch_size: int, temperature: float, base_temperature: float) -> float:
    """The contrastive loss of an epoch in which all features are alike, the last, smaller batch counted by its images."""
    sizes = [min(batch_size, images - start) for start in range(0, images, batch_size)]
    return sum(size * chance_contrastive_loss(2 * size, temperature, base_temperature) for size in sizes) / images


def lars_(parameters: list[nn.Parameter], learning_rate: float, weight_decay: float) -> None:
    """Scales gradients in place as LARS does (You et al. 2017), clipped at the learning rate, weight decay inside.

    To be followed by an SGD step without weight decay. For each tensor w with gradient g:
        local = 0.02 |w| / (|g| + weight_decay |w| + 1e-8);  g <- (g + weight_decay w) * min(local / learning_rate, 1)
    Tensors whose weight or gradient is all zero keep their gradient.
    """
    for parameter in parameters:
        weight, gradient = parameter.detach(), parameter.grad
        weight_norm, gradient_norm = weight.norm(), gradient.norm()
        local = LARS_TRUST * weight_norm / (gradient_norm + weight_decay * weight_norm + LARS_EPSILON)
        scaled = (gradient + weight_decay * weight) * (local / learning_rate).clamp_max(1)
        gradient.copy_(torch.where((weight_norm > 0) & (gradient_norm > 0), scaled, gradient))


def epoch_order(count: int, batch_size: int, shuffle: bool, generator: torch.Generator, device: torch.device) -> list[Tensor]:
    """Image indices of an epoch's batches; the last batch is smaller where `batch_size` does not divide `count`."""
    order = torch.randperm(count, generator=generator) if shuffle else torch.arange(count)
    return list(order.to(device).split(batch_size))


def _supervised_parameters(data: ImageDataset, generator: torch.Generator) -> dict[str, Tensor]:
    images = data.train_images
    drawn = augment.draw_supervised(len(images), *images.shape[-2:], data.horizontal_flip, data.vertical_flip, generator)
    return {name: values.to(images.device) for name, values in drawn.items()}


def _supervised_batch(data: ImageDataset, parameters: dict[str, Tensor], batch: Tensor) -> Tensor:
    views = augment.supervised_views(data.train_images[batch], {name: values[batch] for name, values in parameters.items()},
                                     data.mean, data.std)
    return views.contiguous(memory_format=torch.channels_last)


def classification_epoch(network: Classifier, data: ImageDataset, batch_size: int, optimizer: torch.optim.Optimizer,
                         masks: Masks, key: tuple, bar: tqdm, shuffle: bool = True) -> dict[str, float]:
    """Trains a classifier for one epoch with cross-entropy; masked weights are zero after every step.

    Args:
        key: what the order and the views depend on: (seed, stage, epoch).
    Returns:
        loss and train_accuracy over all images of the epoch.
    """
    generator = augment.stream(*key)
    batches = epoch_order(len(data.train_images), batch_size, shuffle, generator, data.train_images.device)
    parameters = _supervised_parameters(data, generator)
    seed_weights(*key, "dropout")
    totals = torch.zeros(2, device=data.train_images.device)
    network.train()
    for batch in batches:
        labels = data.train_labels[batch]
        logits = network(_supervised_batch(data, parameters, batch))
        loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        apply_masks(network, masks)
        with torch.no_grad():
            totals += torch.stack([loss * len(batch), (logits.argmax(1) == labels).sum()])
        _advance(bar, loss)
    loss_sum, correct = totals.tolist()
    return {"loss": _finite(loss_sum / len(data.train_images), key), "train_accuracy": correct / len(data.train_images)}


def contrastive_epoch(model: ContrastiveEncoder, data: ImageDataset, method: str, batch_size: int, temperature: float,
                      base_temperature: float, optimizer: torch.optim.Optimizer, learning_rates: list[float],
                      lars_weight_decay: float | None, key: tuple, bar: tqdm) -> dict[str, float]:
    """Trains an encoder with its projection head for one epoch on two views of every image.

    Args:
        method: 'SupCon' or 'SimCLR'.
        learning_rates: one per step.
        lars_weight_decay: weight decay of LARS, None: plain SGD.
        key: what the order and the views depend on: (seed, stage, epoch).
    Returns:
        loss: the mean over all images of the epoch.
    """
    images = data.train_images
    generator = augment.stream(*key)
    batches = epoch_order(len(images), batch_size, True, generator, images.device)
    drawn = augment.draw_contrastive(2 * len(images), *images.shape[-2:], data.horizontal_flip, generator)
    parameters = {name: values.to(images.device) for name, values in drawn.items()}
    seed_weights(*key, "dropout")
    total = torch.zeros((), device=images.device)
    model.train()
    for step, batch in enumerate(batches):
        set_learning_rate(optimizer, learning_rates[step])
        both = torch.cat([batch, batch + len(images)])  # image i has the parameters of rows i and i + N
        views = augment.contrastive_views(images[batch].repeat(2, 1, 1, 1),
                                          {name: values[both] for name, values in parameters.items()}, data.mean, data.std)
        projections = model(views.contiguous(memory_format=torch.channels_last))
        features = projections.unflatten(0, (2, len(batch))).transpose(0, 1)
        loss = contrastive_loss(features, data.train_labels[batch] if method == "SupCon" else None,
                                temperature, base_temperature, check_norm=False)  # the network normalises
        optimizer.zero_grad()
        loss.backward()
        if lars_weight_decay is not None:
            lars_(list(model.parameters()), optimizer.param_groups[0]["lr"], lars_weight_decay)
        optimizer.step()
        total += loss.detach() * len(batch)
        _advance(bar, loss)
    return {"loss": _finite(total.item() / len(images), key)}


def _finite(loss: float, key: tuple) -> float:
    """The loss of an epoch, refused where it is not finite: such a network is not saved."""
    if not math.isfinite(loss):
        raise UserError(f"the loss is {loss} after epoch {key[-1] + 1} of model {key[0]} ({key[1]}): it diverged and was not saved; "
                        "give a smaller --learning_rate, or look at the dense network")
    return loss


def head_optimizer(head: ClassificationHead, epochs: int) -> tuple[torch.optim.Optimizer, list]:
    """SGD 0.1 with momentum 0.9, and the two chained schedulers that are stepped one after the other each epoch."""
    optimizer = torch.optim.SGD(head.parameters(), HEAD_LEARNING_RATE, momentum=0.9)
    return optimizer, [torch.optim.lr_scheduler.MultiStepLR(optimizer, list(HEAD_MILESTONES), gamma=0.2),
                       torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs, eta_min=1e-4)]


def train_head(encoder: WideResNet, data: ImageDataset, epochs: int, batch_size: int, key: tuple,
               description: str) -> tuple[ClassificationHead, list[dict]]:
    """A linear classifier on the frozen encoder's latent (encoder in eval mode), and its history.

    The encoder does not change, so the latents of an epoch's views are computed first, in large batches.

    Args:
        key: what weights, orders and views depend on: (seed, stage).
    """
    device = data.train_images.device
    seed_weights(*key, "weights")
    head = ClassificationHead(encoder.latent_size, len(data.class_names)).to(device)
    optimizer, schedulers = head_optimizer(head, epochs)
    encoder.eval()
    test_latents = latents(encoder, data.test_images, data)
    bar, history = progress_bar(epochs, description), []
    for epoch in range(epochs):
        generator = augment.stream(*key, epoch)
        batches = epoch_order(len(data.train_images), batch_size, True, generator, device)
        train_latents = _view_latents(encoder, data, generator)
        totals = torch.zeros(2, device=device)
        for batch in batches:
            labels = data.train_labels[batch]
            logits = head(train_latents[batch])
            loss = F.cross_entropy(logits, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                totals += torch.stack([loss * len(batch), (logits.argmax(1) == labels).sum()])
        loss_sum, correct = totals.tolist()
        history.append({"epoch": epoch, "learning_rate": optimizer.param_groups[0]["lr"],
                        "loss": _finite(loss_sum / len(data.train_images), (*key, epoch)),
                        "train_accuracy": correct / len(data.train_images), **_test_scores(head(test_latents), data)})
        for scheduler in schedulers:
            scheduler.step()
        _advance(bar, loss)
    bar.close()
    return head, history


def _evaluation_size(data: ImageDataset) -> int:
    return max(1, min(EVALUATION_BATCH, EVALUATION_PIXELS // data.train_images[0, 0].numel()))


@torch.no_grad()
def _view_latents(encoder: WideResNet, data: ImageDataset, generator: torch.Generator) -> Tensor:
    parameters = _supervised_parameters(data, generator)
    rows = torch.arange(len(data.train_images), device=data.train_images.device)
    return torch.cat([encoder(_supervised_batch(data, parameters, batch)) for batch in rows.split(_evaluation_size(data))])


@torch.no_grad()
def latents(encode: Callable[[Tensor], Tensor], images: Tensor, data: ImageDataset, batch_size: int | None = None) -> Tensor:
    """Latents (N, D) of un-augmented uint8 images (N, 3, H, W); `encode` belongs to a network in eval mode."""
    batch_size = batch_size or _evaluation_size(data)
    return torch.cat([encode(evaluation_batch(batch, data)) for batch in images.split(batch_size)])


def evaluation_batch(images: Tensor, data: ImageDataset) -> Tensor:
    """uint8 images -> network input without augmentation."""
    return augment.evaluation_images(images, data.mean, data.std).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def evaluate_test_set(network: Classifier, data: ImageDataset) -> dict[str, float]:
    """test_loss and test_accuracy over the whole test set, in eval mode."""
    network.eval()
    return _test_scores(torch.cat([network(evaluation_batch(batch, data)) for batch in data.test_images.split(_evaluation_size(data))]), data)


@torch.no_grad()
def _test_scores(logits: Tensor, data: ImageDataset) -> dict[str, float]:
    return {"test_loss": F.cross_entropy(logits, data.test_labels).item(),
            "test_accuracy": (logits.argmax(1) == data.test_labels).float().mean().item()}


def finetune(network: Classifier, data: ImageDataset, masks: Masks, epochs: int, batch_size: int, key: tuple,
             description: str) -> list[dict]:
    """Trains the whole pruned network with fixed masks: SGD 1e-3, Nesterov momentum 0.9, no weight decay, cross-entropy.

    Returns:
        The history, its first entry (epoch -1) the network as pruned.
    """
    optimizer = torch.optim.SGD(network.parameters(), FINETUNING_LEARNING_RATE, momentum=0.9, nesterov=True)
    apply_masks(network, masks)
    history = [{"epoch": -1, **evaluate_test_set(network, data)}]
    bar = progress_bar(epochs * math.ceil(len(data.train_images) / batch_size), description)
    for epoch in range(epochs):
        trained = classification_epoch(network, data, batch_size, optimizer, masks, (*key, epoch), bar)
        history.append({"epoch": epoch, "learning_rate": FINETUNING_LEARNING_RATE, **trained, **evaluate_test_set(network, data)})
    bar.close()
    return history
