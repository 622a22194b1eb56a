"""Learning rates of every training, LARS, and the optimizer of the classifier head."""

import math

import torch
from torch import nn

from common.models import ClassificationHead

HEAD_MILESTONES = (60, 75, 90)  # learning rate x 0.2, chained with a cosine to 1e-4
HEAD_LEARNING_RATE = 0.1
WARMUP_FROM = 0.01
WARMUP_ABOVE_BATCH = 256
LARS_TRUST, LARS_EPSILON = 0.02, 1e-8


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Sets the rate of all parameter groups."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def supervised_learning_rate(settings: dict, epoch: int) -> float:
    """The rate of an epoch, counted from 0: times lr_gamma at each of the lr_milestones (published: 0.1 at 5, 30, 50, 80), or with
    cosine_annealing along `annealed_learning_rate`.

    Args:
        settings: epochs (of the whole training), learning_rate, lr_milestones, lr_gamma, cosine_annealing.
    """
    if settings["cosine_annealing"]:
        return annealed_learning_rate(settings["learning_rate"], epoch, settings["epochs"], True)
    return settings["learning_rate"] * settings["lr_gamma"] ** sum(
        epoch >= milestone for milestone in settings["lr_milestones"]
    )


def annealed_learning_rate(initial: float, epoch: int, epochs: int, cosine_annealing: bool) -> float:
    """Constant, or per epoch along a cosine from `initial` to `initial` / 1000 (epochs count from 0)."""
    if not cosine_annealing:
        return initial
    lowest = initial / 1000
    return lowest + (initial - lowest) * (1 + math.cos(math.pi * epoch / epochs)) / 2


def contrastive_learning_rates(
    initial: float,
    epoch: int,
    epochs: int,
    cosine_annealing: bool,
    warmup_epochs: int,
    batch_size: int,
    images: int,
) -> list[float]:
    """The rate of every step of an epoch: that of the epoch, or with a batch above 256, during the warm-up epochs, linear per step from
    0.01 to the rate of the first epoch after them."""
    steps = math.ceil(images / batch_size)
    warmup_epochs = warmup_epochs if batch_size > WARMUP_ABOVE_BATCH else 0
    rate = annealed_learning_rate(initial, max(epoch, warmup_epochs), epochs, cosine_annealing)
    if epoch >= warmup_epochs:
        return [rate] * steps
    return [
        WARMUP_FROM + (rate - WARMUP_FROM) * (epoch * steps + step) / (warmup_epochs * steps)
        for step in range(steps)
    ]


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


def head_optimizer(head: ClassificationHead, epochs: int) -> tuple[torch.optim.Optimizer, list]:
    """SGD 0.1 with momentum 0.9, and the two chained schedulers that are stepped one after the other each epoch."""
    optimizer = torch.optim.SGD(head.parameters(), HEAD_LEARNING_RATE, momentum=0.9)
    return optimizer, [
        torch.optim.lr_scheduler.MultiStepLR(optimizer, list(HEAD_MILESTONES), gamma=0.2),
        torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs, eta_min=1e-4),
    ]
