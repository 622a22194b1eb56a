"""Trains networks: one loop, `fit`, for three kinds of training, `CrossEntropy`, `Contrastive` and `Head`.

To change an optimizer, a learning rate or the loss of a batch, edit the class of the training. Losses and
counts are summed on the device and read once per epoch.
"""

import functools
import logging
import math
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from common import augment
from common.cli import UserError, logger
from common.data import ImageDataset
from common.evaluation import (
    NotFiniteError,
    evaluate_test_set,
    evaluation_batch,
    evaluation_size,
    not_finite,
    outputs,
    test_scores,
)
from common.losses import LOSSES
from common.models import ClassificationHead, Classifier, ContrastiveEncoder, WideResNet
from common.pruning import (
    GradientSums,
    GradualPruning,
    Masks,
    apply_masks,
    gradual_pruner,
    mask_gradients,
    measure_sparsity,
    uses,
)

HEAD_MILESTONES = (60, 75, 90)  # learning rate x 0.2, chained with a cosine to 1e-4
HEAD_OPTIMIZER, HEAD_LOWEST_RATE = {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.0}, 1e-4
WARMUP_FROM, WARMUP_ABOVE_BATCH = 0.01, 256
LARS_TRUST, LARS_EPSILON = 0.02, 1e-8
EPOCH_SHOWN_SECONDS = 60  # interval of log lines without a terminal; with one, a progress bar is shown
GRADIENT_BATCHES = 10  # training batches from which pruning criteria get gradients
# A warning follows EPOCHS_AT_CHANCE epochs in which a contrastive loss is within this share of its chance
# value, or an accuracy within this many standard deviations of guessing.
EPOCHS_AT_CHANCE, LOSS_AT_CHANCE, DEVIATIONS_AT_CHANCE = 5, 0.005, 3


# Learning rates


def annealed_learning_rate(initial: float, epoch: int, epochs: int) -> float:
    """Returns the rate of an epoch, counted from 0: a cosine from `initial` to `initial` / 1000."""
    lowest = initial / 1000
    return lowest + (initial - lowest) * (1 + math.cos(math.pi * epoch / epochs)) / 2


def supervised_learning_rate(settings: dict, epoch: int) -> float:
    """Returns the rate of an epoch. It is multiplied by lr_gamma at each of the lr_milestones (published: 0.1
    at 5, 30, 50, 80), or follows `annealed_learning_rate` with cosine_annealing. Without either setting, as
    in finetuning, it is constant."""
    if settings.get("cosine_annealing"):
        return annealed_learning_rate(settings["learning_rate"], epoch, settings["epochs"])
    passed = sum(epoch >= milestone for milestone in settings.get("lr_milestones", ()))
    return settings["learning_rate"] * settings.get("lr_gamma", 1.0) ** passed


def contrastive_learning_rates(settings: dict, epoch: int, steps: int) -> list[float]:
    """Returns the rate of every step of an epoch: constant or, with cosine_annealing, annealed per epoch. For
    batches above 256 it rises linearly with every step of the warm-up epochs, from 0.01 to the rate of the
    first epoch after them."""

    def rate_of(epoch: int) -> float:
        initial = settings["learning_rate"]
        return (
            annealed_learning_rate(initial, epoch, settings["epochs"])
            if settings["cosine_annealing"]
            else initial
        )

    warmup_epochs = settings["warmup_epochs"] if settings["batch_size"] > WARMUP_ABOVE_BATCH else 0
    if epoch >= warmup_epochs:
        return [rate_of(epoch)] * steps
    target, warmup_steps = rate_of(warmup_epochs), warmup_epochs * steps
    return [
        WARMUP_FROM + (target - WARMUP_FROM) * (epoch * steps + step) / warmup_steps for step in range(steps)
    ]


def head_learning_rates(epochs: int) -> list[float]:
    """Returns the rate of every epoch of the classifier head. Two torch schedulers are stepped in turn, as
    published."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], HEAD_OPTIMIZER["learning_rate"])
    schedulers = [
        torch.optim.lr_scheduler.MultiStepLR(optimizer, list(HEAD_MILESTONES), gamma=0.2),
        torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs, eta_min=HEAD_LOWEST_RATE),
    ]
    rates = []
    for _ in range(epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    return rates


def lars_(parameters: list[nn.Parameter], learning_rate: float, weight_decay: float) -> None:
    """Scales gradients in place by LARS (You et al. 2017), clipped at the learning rate and including weight
    decay.

    An SGD step without weight decay must follow. For each tensor w with gradient g:
        local = 0.02 |w| / (|g| + weight_decay |w| + 1e-8)
        g <- (g + weight_decay w) * min(local / learning_rate, 1)
    Tensors whose weight or gradient is all zero keep their gradient.
    """
    for parameter in parameters:
        weight, gradient = parameter.detach(), parameter.grad
        weight_norm, gradient_norm = weight.norm(), gradient.norm()
        local = LARS_TRUST * weight_norm / (gradient_norm + weight_decay * weight_norm + LARS_EPSILON)
        scaled = (gradient + weight_decay * weight) * (local / learning_rate).clamp_max(1)
        gradient.copy_(torch.where((weight_norm > 0) & (gradient_norm > 0), scaled, gradient))


def sgd(parameters: Iterable[nn.Parameter], settings: dict) -> torch.optim.Optimizer:
    """Makes SGD with momentum. With LARS, `lars_` applies the weight decay."""
    return torch.optim.SGD(
        parameters,
        settings["learning_rate"],
        momentum=settings["momentum"],
        weight_decay=0.0 if settings.get("lars") else settings["weight_decay"],
        nesterov=settings.get("nesterov", False),
    )


# Setting `optimizer` -> function that makes it from parameters and settings.
OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter], dict], torch.optim.Optimizer]] = {"sgd": sgd}


# Trainings


class Training:
    """The interface between `fit` and the kinds of training below.

    network: trained in place; pruned: its module to which masks apply. settings: learning_rate, momentum,
    weight_decay, and optionally nesterov, lars, precision, compile. accumulated: gradient sums of `pruned`,
    if a criterion needs them.
    """

    shuffle = True
    accumulated: GradientSums | None = None
    chance_loss: float
    network: nn.Module
    pruned: nn.Module

    def __init__(self, data: ImageDataset, settings: dict, batch_size: int):
        self.data, self.settings, self.batch_size = data, settings, batch_size

    def optimizer(self) -> torch.optim.Optimizer:
        return OPTIMIZERS[self.settings.get("optimizer", "sgd")](self.network.parameters(), self.settings)

    def learning_rates(self, epoch: int, steps: int) -> list[float]:
        """Returns the rate of every step of an epoch, counted from 0."""

    def draw(self, batches: list[Tensor], generator: torch.Generator) -> None:
        """Draws the views of an epoch. Row i of the drawn parameters belongs to training image i."""
        self.drawn = draw_supervised(self.data, generator)

    def loss(self, batch: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns the mean loss of a batch (B,) of training images, and the number of correct predictions
        (None without a classifier)."""

    def forward(self, batch: Tensor) -> Tensor:
        """Returns the outputs of the network in a training step, in float32, computed with --precision.
        Pruning criteria and evaluation call the network itself, in float32."""
        bfloat16 = self.settings.get("precision") == "bfloat16"
        with torch.autocast(batch.device.type, torch.bfloat16, enabled=bfloat16):
            return self.network(batch).float()

    def before_step(self, masks: Masks, rate: float) -> None:
        """Called between the backward pass and the optimizer step."""

    def criterion_losses(self, key: tuple) -> Iterator[Tensor]:
        """Yields the losses of a few batches, for pruning criteria that use gradients."""

    def test_scores(self) -> dict[str, float]:
        """Returns test_loss and test_accuracy, for classifiers only."""
        return {}

    def check_outputs(self) -> None:
        """Refuses a trained network whose outputs are not finite. For classifiers `test_scores` does this."""


class CrossEntropy(Training):
    """Cross-entropy of a classifier on supervised views, for supervised training and for finetuning of pruned
    networks.

    Settings in addition to those of `Training`: batch_size, shuffle (True), and those of
    `supervised_learning_rate`.
    """

    def __init__(self, network: Classifier, data: ImageDataset, settings: dict):
        super().__init__(data, settings, settings["batch_size"])
        self.network = self.pruned = network
        self.shuffle, self.chance_loss = settings.get("shuffle", True), chance_of_classes(data)[0]

    def learning_rates(self, epoch: int, steps: int) -> list[float]:
        return [supervised_learning_rate(self.settings, epoch)] * steps

    def loss(self, batch: Tensor) -> tuple[Tensor, Tensor | None]:
        logits = self.forward(supervised_batch(self.data, self.drawn, batch))
        return cross_entropy(logits, self.data.train_labels[batch])

    def criterion_losses(self, key: tuple) -> Iterator[Tensor]:
        return classification_losses(self.network, self.data, self.batch_size, key)

    def test_scores(self) -> dict[str, float]:
        return evaluate_test_set(self.network, self.data)


class Contrastive(Training):
    """A contrastive loss of an encoder with its projection head on two views of every image; only the encoder
    is pruned.

    Settings in addition to those of `Training`: learning_method (a name in `losses.LOSSES`), epochs (of the
    whole training), batch_size, temperature, base_temperature, cosine_annealing, warmup_epochs.

    Raises:
        UserError: batches hold one image, with nothing to contrast it with.
    """

    def __init__(self, model: ContrastiveEncoder, data: ImageDataset, settings: dict):
        super().__init__(data, settings, settings["batch_size"])
        self.network, self.pruned = model, model.encoder
        self.contrastive_loss, chance = LOSSES[settings["learning_method"]]
        self.temperatures = settings["temperature"], settings["base_temperature"]
        if self.batch_size == 1:
            raise UserError(
                "--batch_size 1: a contrastive loss compares the images of a batch; give 2 or more"
            )
        images = len(data.train_images)
        sizes = [min(self.batch_size, images - start) for start in range(0, images, self.batch_size)]
        # Batches are weighted by size, since the last one may be smaller.
        losses = [size * chance(2 * size, *self.temperatures) for size in sizes]
        self.chance_loss = sum(losses) / images

    def learning_rates(self, epoch: int, steps: int) -> list[float]:
        return contrastive_learning_rates(self.settings, epoch, steps)

    def draw(self, batches: list[Tensor], generator: torch.Generator) -> None:
        self.drawn = self._draw(len(self.data.train_images), generator)

    def check_outputs(self) -> None:
        check_outputs(self.pruned, self.data)

    def _draw(self, images: int, generator: torch.Generator) -> dict[str, Tensor]:
        device, (height, width) = self.data.train_images.device, self.data.train_images.shape[-2:]
        drawn = augment.draw_contrastive(2 * images, height, width, self.data.horizontal_flip, generator)
        return {name: values.to(device) for name, values in drawn.items()}

    def loss(self, batch: Tensor) -> tuple[Tensor, Tensor | None]:
        # The views of image i have their parameters in rows i and i + N.
        rows = torch.cat([batch, batch + len(self.data.train_images)])
        drawn = {name: values[rows] for name, values in self.drawn.items()}
        return self._loss(self.forward, batch, drawn), None

    def _loss(self, encode: Callable, batch: Tensor, drawn: dict[str, Tensor]) -> Tensor:
        data = self.data
        images = data.train_images.index_select(0, batch.repeat(2))
        views = augment.contrastive_views(images, drawn, data.mean, data.std)
        features = encode(views).unflatten(0, (2, len(batch))).transpose(0, 1)
        return self.contrastive_loss(features, data.train_labels[batch], *self.temperatures)

    def before_step(self, masks: Masks, rate: float) -> None:
        if self.settings["lars"]:
            mask_gradients(self.pruned, masks)
            lars_(list(self.network.parameters()), rate, self.settings["weight_decay"])

    def criterion_losses(self, key: tuple) -> Iterator[Tensor]:
        """Yields losses of newly drawn views, in eval mode."""
        generator = augment.stream(*key, "criterion")
        batches = epoch_order(self.data, self.batch_size, generator)[:GRADIENT_BATCHES]
        with in_eval_mode(self.network):
            for batch in batches:
                yield self._loss(self.network, batch, self._draw(len(batch), generator))


class Head(Training):
    """Cross-entropy of a linear classifier on the latents of a frozen encoder in eval mode, on supervised
    views.

    The encoder does not change, so the latents of all views of an epoch are computed first, in large batches
    and in float32, like those of the test images. Settings: head_epochs, batch_size_head, precision.
    """

    def __init__(self, encoder: WideResNet, head: ClassificationHead, data: ImageDataset, settings: dict):
        precision = {"precision": settings.get("precision")}
        super().__init__(data, HEAD_OPTIMIZER | precision, settings["batch_size_head"])
        self.encoder, self.network, self.pruned = encoder.eval(), head, head
        self.rates = head_learning_rates(settings["head_epochs"])
        self.chance_loss, _ = chance_of_classes(data)
        self.test_latents = outputs(encoder, data.test_images, data)

    def learning_rates(self, epoch: int, steps: int) -> list[float]:
        return [self.rates[epoch]] * steps

    @torch.no_grad()
    def draw(self, batches: list[Tensor], generator: torch.Generator) -> None:
        super().draw(batches, generator)
        images = self.data.train_images
        rows = torch.arange(len(images), device=images.device).split(evaluation_size(images))
        self.latents = torch.cat([self.encoder(supervised_batch(self.data, self.drawn, row)) for row in rows])
        self.batches = batches

    def loss(self, batch: Tensor) -> tuple[Tensor, Tensor | None]:
        return cross_entropy(self.forward(self.latents[batch]), self.data.train_labels[batch])

    def criterion_losses(self, key: tuple) -> Iterator[Tensor]:
        """Yields losses of the first batches of the epoch."""
        labels = self.data.train_labels
        for batch in self.batches[:GRADIENT_BATCHES]:
            yield F.cross_entropy(self.network(self.latents[batch]), labels[batch])

    def test_scores(self) -> dict[str, float]:
        return test_scores(self.network(self.test_latents), self.data)


@dataclass(frozen=True)
class TrainingContext:
    """Identifies a training run.

    key: (seed, stage); orders, views, dropout and random criteria depend only on it and on the epoch or step.
    epochs_left: yields the epochs still to be trained; `TrainingState.epochs_left`, for example, also saves
    the state of the training (None: all epochs).
    """

    key: tuple
    description: str = ""
    epochs_left: Callable[[range, dict, Masks, list[dict]], Iterator[int]] | None = None


def fit(
    training: Training,
    run: TrainingContext,
    epochs: range,
    masks: Masks | None = None,
    pruning: GradualPruning | None = None,
    at_epoch: Callable[[int], None] | None = None,
) -> list[dict]:
    """Trains in place and returns the history, with one entry per epoch.

    Args:
        epochs: the epochs to train; the network must be in its state before the first one.
        masks: fixed masks; pruning: a schedule that prunes the network while it trains. Pruned weights are
            zero after every step.
        at_epoch: called with the number of finished epochs, at the start and after every epoch.
    Raises:
        UserError: a loss, weights, buffers, gradient sums or outputs are not finite.
    """
    network, pruned, data = training.network, training.pruned, training.data
    images, device = len(data.train_images), data.train_images.device
    steps, loss_of = math.ceil(images / training.batch_size), loss_function(training)
    optimizer, history, masks = training.optimizer(), [], dict(masks or {})
    apply_masks(pruned, masks)
    if pruning and uses(pruning.criterion, "accumulated"):
        training.accumulated = GradientSums(pruned)
    sums = training.accumulated
    prune = gradual_pruner(
        pruned, masks, pruning, lambda step: training.criterion_losses((*run.key, step)), run.key, sums
    )
    at_epoch = at_epoch or (lambda done: None)
    bar = tqdm(total=len(epochs) * steps, desc=run.description, disable=None, leave=False)
    shown_at, trained = time.monotonic(), {"network": network, "optimizer": optimizer}
    trained |= {} if sums is None else {"gradients": sums}
    left = run.epochs_left(epochs, trained, masks, history) if run.epochs_left else epochs
    for epoch in left:
        bar.n = (epoch - epochs.start) * steps
        with refusing_divergence(epoch, run.description):
            at_epoch(epoch)
        generator = augment.stream(*run.key, epoch)
        batches = epoch_order(data, training.batch_size, generator, training.shuffle)
        training.draw(batches, generator)
        rates = training.learning_rates(epoch, steps)
        seed_weights(*run.key, epoch, "dropout")
        totals, losses = torch.zeros(2, device=device), []
        network.train()
        for step, (batch, rate) in enumerate(zip(batches, rates), epoch * steps + 1):
            prune(step)
            set_learning_rate(optimizer, rate)
            with tf32_of(training.settings):
                loss, correct = loss_of(batch)
                optimizer.zero_grad()
                loss.backward()
            if sums is not None:
                sums.add()
            training.before_step(masks, rate)
            optimizer.step()
            apply_masks(pruned, masks)
            losses.append(loss.detach())
            with torch.no_grad():
                totals += torch.stack(
                    [loss * len(batch), torch.zeros_like(loss) if correct is None else correct]
                )
            advance(bar, loss)
        tensors = network.state_dict() | {
            f"gradient sums of {name}": total for name, total in (sums or {}).items()
        }
        finite = torch.stack([tensor.isfinite().all() for tensor in tensors.values()]).all()
        # One transfer for all: each would wait for the device.
        loss_sum, correct_sum, finite = torch.cat([totals, finite.float()[None]]).tolist()
        mean_loss = loss_sum / images
        entry = {"epoch": epoch, "learning_rate": rates[-1], "loss": mean_loss}
        entry["chance_loss"] = training.chance_loss
        if correct is not None:
            entry["train_accuracy"] = correct_sum / images
        with refusing_divergence(epoch + 1, run.description):
            if not math.isfinite(mean_loss):
                first = next((step for step, loss in enumerate(losses, 1) if not loss.isfinite()), steps)
                raise NotFiniteError(f"the loss is {mean_loss}, from step {first} of {steps} on")
            if not finite:
                raise NotFiniteError(f"{not_finite(tensors)} are not finite")
            entry |= training.test_scores()
            if epoch + 1 == epochs.stop:
                training.check_outputs()
        if masks:
            entry["sparsity"] = measure_sparsity(pruned)["total"]
        history.append(entry)
        is_shown = bar.disable and time.monotonic() - shown_at > EPOCH_SHOWN_SECONDS
        shown_at = time.monotonic() if is_shown else shown_at
        log_epoch(run.description, epochs.stop, entry, logging.INFO if is_shown else logging.DEBUG)
        warn_at_chance(history, run.description, data)
    with refusing_divergence(epochs.stop, run.description):
        at_epoch(epochs.stop)
    bar.close()
    return history


# Shared by all trainings


def prepare(network: nn.Module, device: torch.device) -> nn.Module:
    """Moves a network to `device`, in channels-last order: the same results, a fifth faster on a CPU."""
    return network.to(device, memory_format=torch.channels_last)


def seed_weights(*key) -> None:
    """Seeds torch's global generators; called before weights are drawn, and before the dropout of an
    epoch."""
    torch.manual_seed(augment.stream_seed(*key))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets the learning rate of all parameter groups."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def epoch_order(
    data: ImageDataset, batch_size: int, generator: torch.Generator, shuffle: bool = True
) -> list[Tensor]:
    """Returns the indices of training images in every batch of an epoch. The last batch is smaller if
    `batch_size` does not divide their number."""
    count = len(data.train_images)
    order = torch.randperm(count, generator=generator) if shuffle else torch.arange(count)
    return list(order.to(data.train_images.device).split(batch_size))


def chance_of_classes(data: ImageDataset) -> tuple[float, float]:
    """Returns the cross-entropy of guessing by the class frequencies of the training images, and the accuracy
    of always predicting the largest class. On a GPU this waits for the device."""
    counts = data.train_labels.bincount().tolist()
    images = sum(counts)
    loss = math.fsum(count * math.log(images / count) for count in counts if count) / images
    return loss, max(counts) / images


def draw_supervised(data: ImageDataset, generator: torch.Generator) -> dict[str, Tensor]:
    """Draws the parameters of one supervised view per training image and moves them to the device."""
    images = data.train_images
    (height, width), flips = images.shape[-2:], (data.horizontal_flip, data.vertical_flip)
    drawn = augment.draw_supervised(len(images), height, width, *flips, generator)
    return {name: values.to(images.device) for name, values in drawn.items()}


def supervised_batch(data: ImageDataset, drawn: dict[str, Tensor], batch: Tensor) -> Tensor:
    """Returns the views (B, 3, H, W) of a batch of training images."""
    images = data.train_images.index_select(0, batch)
    drawn = {name: values[batch] for name, values in drawn.items()}
    return augment.supervised_views(images, drawn, data.mean, data.std)


def cross_entropy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the mean loss of a batch, and the number of correct predictions."""
    return F.cross_entropy(logits, labels), (logits.argmax(1) == labels).sum()


@contextmanager
def tf32_of(settings: dict) -> Iterator[None]:
    """A context in which CUDA convolutions may use TF32, if --precision says so. All other products, such as
    those in views and losses, are in float32."""
    before = torch.backends.cudnn.allow_tf32
    try:
        torch.backends.cudnn.allow_tf32 = settings.get("precision") == "tf32"
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def loss_function(training: Training) -> Callable:
    """Returns `training.loss`, compiled with --compile: views, network and loss form one graph, the backward
    pass another. Each batch size has a separate graph, which the networks of all seeds share."""
    if not training.settings.get("compile"):
        return training.loss
    return functools.partial(compiled_loss(type(training)), training)


@functools.cache
def compiled_loss(kind: type[Training]) -> Callable:
    """Returns the compiled `loss` of a kind of training; dropout draws the same numbers as without
    compilation."""
    return torch.compile(kind.loss, fullgraph=True, dynamic=False, options={"fallback_random": True})


@contextmanager
def in_eval_mode(module: nn.Module) -> Iterator[None]:
    """A context in which a module is in eval mode; its former mode is restored afterwards."""
    was_training = module.training
    module.eval()
    try:
        yield
    finally:  # also runs if a generator of losses is dropped early
        module.train(was_training)


def classification_losses(
    network: Classifier, data: ImageDataset, batch_size: int, key: tuple
) -> Iterator[Tensor]:
    """Yields the cross-entropy of a few batches of un-augmented training images, in eval mode, for criteria
    that use gradients."""
    batches = epoch_order(data, batch_size, augment.stream(*key, "criterion"))[:GRADIENT_BATCHES]
    with in_eval_mode(network):
        for batch in batches:
            logits = network(evaluation_batch(data.train_images[batch], data))
            yield F.cross_entropy(logits, data.train_labels[batch])


def advance(bar: tqdm, loss: Tensor) -> None:
    """Advances the progress bar by one step. It shows the loss at most once per second, because reading it
    waits for the device, and never without a terminal."""
    if not bar.disable and time.monotonic() - getattr(bar, "loss_shown_at", 0) > 1:
        bar.loss_shown_at = time.monotonic()
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    bar.update()


@contextmanager
def refusing_divergence(done: int, description: str) -> Iterator[None]:
    """A context that ends the training with a UserError if it meets values that are not finite, after `done`
    epochs."""
    try:
        yield
    except NotFiniteError as error:
        raise UserError(
            f"{description} after epoch {done}: {error}: it diverged and was not saved; give a smaller "
            "--learning_rate, or look at the dense network"
        ) from None


def check_outputs(network: nn.Module, data: ImageDataset) -> None:
    """Checks the outputs of a network for the test images during training.

    Raises:
        NotFiniteError: they are not finite.
    """
    with in_eval_mode(network):
        outputs(network, data.test_images, data)


def warn_at_chance(history: list[dict], description: str, data: ImageDataset) -> None:
    """Warns once if a network has learned nothing for several epochs: its loss is not below chance, and its
    accuracy on training views is that of guessing the largest class; or its contrastive loss is that of
    identical features."""
    chance, guessing = chance_of_classes(data)
    highest = guessing + DEVIATIONS_AT_CHANCE * math.sqrt(guessing * (1 - guessing) / len(data.train_labels))
    # If nearly all images belong to one class, even the best contrastive loss is close to chance.
    tolerance = LOSS_AT_CHANCE * min(1, chance)

    def is_at_chance(entry: dict) -> bool:
        if "train_accuracy" in entry:
            return entry["train_accuracy"] <= highest and entry["loss"] > (1 - tolerance) * chance
        return abs(entry["loss"] - entry["chance_loss"]) < tolerance * entry["chance_loss"]

    at_chance = [*map(is_at_chance, history[-EPOCHS_AT_CHANCE - 1 :])]
    # Warn only in the epoch in which the run of epochs at chance reaches this length.
    if at_chance in ([True] * EPOCHS_AT_CHANCE, [False] + [True] * EPOCHS_AT_CHANCE):
        logger.info(
            "warning: %s has been at chance for %d epochs (%s): it learns nothing; look at --learning_rate",
            description,
            EPOCHS_AT_CHANCE,
            describe_epoch(history[-1]),
        )


def log_epoch(description: str, epochs: int, entry: dict, level: int) -> None:
    """Logs one line about an epoch."""
    rate, facts = entry["learning_rate"], describe_epoch(entry)
    logger.log(
        level, "%s epoch %d/%d, %s, learning rate %.3g", description, entry["epoch"] + 1, epochs, facts, rate
    )


def describe_epoch(entry: dict) -> str:
    """Formats an entry of a history for the log: loss with its chance value, accuracies on training views and
    test images, sparsity."""
    facts = [f"loss {entry['loss']:.4f} (chance {entry['chance_loss']:.4f})"]
    shares = ("train_accuracy", "test_accuracy", "sparsity")
    facts += [f"{name.replace('_', ' ')} {entry[name]:.2%}" for name in shares if name in entry]
    return ", ".join(facts)
