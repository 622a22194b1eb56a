"""One epoch, one run. Losses and counts add up on the device and are read once an epoch."""

import copy
import math
import time
from typing import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from common import augment
from common.cli import UserError, logger
from common.data import ImageDataset
from common.evaluation import evaluate_test_set, evaluation_batch, evaluation_size, outputs, test_scores
from common.losses import chance_contrastive_loss, contrastive_loss
from common.models import ClassificationHead, Classifier, ContrastiveEncoder, SupervisedNetwork, WideResNet
from common.optimization import (
    contrastive_learning_rates,
    head_optimizer,
    lars_,
    set_learning_rate,
    supervised_learning_rate,
)
from common.pruning import (
    GradualPruning,
    Masks,
    apply_masks,
    gradual_pruner,
    mask_gradients,
    measure_sparsity,
)
from common.store.resume import Progress, epochs_left

GRADIENT_BATCHES = 10  # training batches whose gradients a pruning criterion sees
AT_CHANCE, EPOCHS_AT_CHANCE = (
    0.005,
    5,
)  # a contrastive loss so near to its chance value for so many epochs is warned about
CHANCE_DEVIATIONS = 3  # an accuracy within so many standard deviations of guessing is at chance


def prepare(network: nn.Module, device: torch.device) -> nn.Module:
    """The network on `device`, its convolutions in channels-last order: the same numbers, a fifth faster on a CPU."""
    return network.to(device, memory_format=torch.channels_last)


_buffers: dict[tuple, nn.Module] = {}


def into_buffers(network: nn.Module, device: torch.device) -> nn.Module:
    """Copies a network's weights and statistics into the one set of buffers that this process has for its shape, and returns that.

    Every run of a shape then trains in the same memory, so that a step that is compiled or captured for one seed serves all. The
    network that was there before is overwritten: to be called at the start of a run, when the last one's is saved.
    """
    # All that two networks can differ in but for their numbers: kinds of layers, strides, dropout, shapes.
    key = (
        device,
        *(
            (
                type(module),
                *sorted(
                    (name, value)
                    for name, value in vars(module).items()
                    if isinstance(value, (float, str, tuple))
                ),
            )
            for module in network.modules()
        ),
        *(tensor.shape for tensor in network.state_dict().values()),
    )
    if key not in _buffers:
        _buffers[key] = prepare(copy.deepcopy(network), device)
    buffers = _buffers[key]
    buffers.load_state_dict(network.state_dict())
    for parameter in buffers.parameters():
        parameter.grad = None
    return buffers


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


def chance_loss(images: int, batch_size: int, temperature: float, base_temperature: float) -> float:
    """The contrastive loss of an epoch in which all features are alike, the last, smaller batch counted by its images."""
    sizes = [min(batch_size, images - start) for start in range(0, images, batch_size)]
    return (
        sum(size * chance_contrastive_loss(2 * size, temperature, base_temperature) for size in sizes)
        / images
    )


def epoch_order(
    count: int, batch_size: int, shuffle: bool, generator: torch.Generator, device: torch.device
) -> list[Tensor]:
    """Image indices of an epoch's batches; the last batch is smaller where `batch_size` does not divide `count`."""
    order = torch.randperm(count, generator=generator) if shuffle else torch.arange(count)
    return list(order.to(device).split(batch_size))


def _supervised_parameters(data: ImageDataset, generator: torch.Generator) -> dict[str, Tensor]:
    images = data.train_images
    drawn = augment.draw_supervised(
        len(images), *images.shape[-2:], data.horizontal_flip, data.vertical_flip, generator
    )
    return {name: values.to(images.device) for name, values in drawn.items()}


def _supervised_batch(data: ImageDataset, parameters: dict[str, Tensor], batch: Tensor) -> Tensor:
    return augment.supervised_views(
        data.train_images.index_select(0, batch),
        {name: values[batch] for name, values in parameters.items()},
        data.mean,
        data.std,
    )


def classification_epoch(
    network: Classifier,
    data: ImageDataset,
    batch_size: int,
    optimizer: torch.optim.Optimizer,
    masks: Masks,
    key: tuple,
    bar: tqdm,
    shuffle: bool = True,
    prune: Callable[[int], None] | None = None,
) -> dict[str, float]:
    """Trains a classifier for one epoch with cross-entropy; masked weights are zero after every step.

    Args:
        key: what the order and the views depend on: (seed, stage, epoch).
        prune: called before the forward pass of every step with its number, counted from 1 over all epochs.
    Returns:
        loss, its value at chance, and train_accuracy over all images of the epoch.
    """
    generator = augment.stream(*key)
    batches = epoch_order(len(data.train_images), batch_size, shuffle, generator, data.train_images.device)
    parameters = _supervised_parameters(data, generator)
    seed_weights(*key, "dropout")
    totals, losses = torch.zeros(2, device=data.train_images.device), []
    network.train()
    for step, batch in enumerate(batches, key[-1] * len(batches) + 1):
        if prune is not None:
            prune(step)
        labels = data.train_labels[batch]
        logits = network(_supervised_batch(data, parameters, batch))
        loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        apply_masks(network, masks)
        with torch.no_grad():
            totals += torch.stack([loss * len(batch), (logits.argmax(1) == labels).sum()])
        losses.append(loss.detach())
        _advance(bar, loss)
    loss_sum, correct = totals.tolist()
    return {
        "loss": _finite(loss_sum / len(data.train_images), key, losses),
        "chance_loss": math.log(len(data.class_names)),
        "train_accuracy": correct / len(data.train_images),
    }


def classification_losses(
    network: Classifier, data: ImageDataset, batch_size: int, key: tuple
) -> Iterator[Tensor]:
    """The cross-entropy of some batches of un-augmented training images, in eval mode, for criteria that look at gradients."""
    order = torch.randperm(len(data.train_images), generator=augment.stream(*key, "criterion")).to(
        data.train_images.device
    )
    was_training = network.training
    network.eval()
    for batch in order.split(batch_size)[:GRADIENT_BATCHES]:
        yield F.cross_entropy(
            network(evaluation_batch(data.train_images[batch], data)), data.train_labels[batch]
        )
    network.train(was_training)


def contrastive_epoch(
    model: ContrastiveEncoder,
    data: ImageDataset,
    settings: dict,
    optimizer: torch.optim.Optimizer,
    learning_rates: list[float],
    masks: Masks,
    key: tuple,
    bar: tqdm,
    prune: Callable[[int], None] | None = None,
) -> dict[str, float]:
    """Trains an encoder with its projection head for one epoch on two views of every image.

    Args:
        settings: learning_method ('SupCon' or 'SimCLR'), batch_size, temperature, base_temperature, lars, weight_decay (of LARS).
        learning_rates: one per step.
        masks: of the encoder; masked weights are zero after every step.
        key: what the order and the views depend on: (seed, stage, epoch).
        prune: as in `classification_epoch`.
    Returns:
        loss: the mean over all images of the epoch; chance_loss: its value where all features are alike.
    """
    images = data.train_images
    generator = augment.stream(*key)
    batches = epoch_order(len(images), settings["batch_size"], True, generator, images.device)
    drawn = augment.draw_contrastive(2 * len(images), *images.shape[-2:], data.horizontal_flip, generator)
    parameters = {name: values.to(images.device) for name, values in drawn.items()}
    seed_weights(*key, "dropout")
    total, losses = torch.zeros((), device=images.device), []
    model.train()
    for step, batch in enumerate(batches):
        if prune is not None:
            prune(key[-1] * len(batches) + step + 1)
        set_learning_rate(optimizer, learning_rates[step])
        loss = _contrastive_batch_loss(
            model,
            data,
            settings,
            batch,
            {
                # image i has the parameters of rows i and i + N
                name: values[torch.cat([batch, batch + len(images)])]
                for name, values in parameters.items()
            },
        )
        optimizer.zero_grad()
        loss.backward()
        if settings["lars"]:
            mask_gradients(model.encoder, masks)
            lars_(list(model.parameters()), optimizer.param_groups[0]["lr"], settings["weight_decay"])
        optimizer.step()
        apply_masks(model.encoder, masks)
        total += loss.detach() * len(batch)
        losses.append(loss.detach())
        _advance(bar, loss)
    return {
        "loss": _finite(total.item() / len(images), key, losses),
        "chance_loss": chance_loss(
            len(images), settings["batch_size"], settings["temperature"], settings["base_temperature"]
        ),
    }


def _contrastive_batch_loss(
    model: ContrastiveEncoder,
    data: ImageDataset,
    settings: dict,
    batch: Tensor,
    parameters: dict[str, Tensor],
) -> Tensor:
    views = augment.contrastive_views(
        data.train_images.index_select(0, batch.repeat(2)), parameters, data.mean, data.std
    )
    features = model(views).unflatten(0, (2, len(batch))).transpose(0, 1)
    return contrastive_loss(
        features,
        data.train_labels[batch] if settings["learning_method"] == "SupCon" else None,
        settings["temperature"],
        settings["base_temperature"],
        check_norm=False,
    )  # the network normalises


def contrastive_losses(
    model: ContrastiveEncoder, data: ImageDataset, settings: dict, key: tuple
) -> Iterator[Tensor]:
    """The contrastive loss of some batches of views, in eval mode, for criteria that look at gradients."""
    generator = augment.stream(*key, "criterion")
    order = torch.randperm(len(data.train_images), generator=generator).to(data.train_images.device)
    was_training = model.training
    model.eval()
    for batch in order.split(settings["batch_size"])[:GRADIENT_BATCHES]:
        drawn = augment.draw_contrastive(
            2 * len(batch), *data.train_images.shape[-2:], data.horizontal_flip, generator
        )
        yield _contrastive_batch_loss(
            model, data, settings, batch, {name: values.to(order.device) for name, values in drawn.items()}
        )
    model.train(was_training)


def _finite(loss: float, key: tuple, losses: list[Tensor]) -> float:
    """The loss of an epoch, refused where it is not finite: such a network is not saved. `losses` are those of its steps."""
    if not math.isfinite(loss):
        step = next((step for step, one in enumerate(losses, 1) if not torch.isfinite(one)), len(losses))
        raise UserError(
            f"the loss is {loss} in epoch {key[-1] + 1}, from its step {step} of {len(losses)} on, of model {key[0]} ({key[1]}): it diverged "
            "and was not saved; give a smaller --learning_rate, or look at the dense network"
        )
    return loss


def _warn_at_chance(history: list[dict], description: str, data: ImageDataset) -> None:
    """Says once when a network has learned nothing for some epochs: its accuracy on the training views is that of guessing the largest
    class, or, without an accuracy, its contrastive loss is that of features which are all alike."""
    images = len(data.train_labels)
    guessing = data.train_labels.bincount().max().item() / images
    highest = guessing + CHANCE_DEVIATIONS * math.sqrt(guessing * (1 - guessing) / images)
    recent = history[-EPOCHS_AT_CHANCE - 1 :]
    if "train_accuracy" in history[-1]:
        near = [entry["train_accuracy"] <= highest for entry in recent]
        what, remedy = (
            f"training accuracy of {description} has been at chance ({guessing:.2%})",
            "--learning_rate",
        )
    else:
        near = [
            abs(entry["loss"] - entry["chance_loss"]) < AT_CHANCE * entry["chance_loss"] for entry in recent
        ]
        what, remedy = (
            f"loss of {description} has been at chance ({history[-1]['chance_loss']:.4f})",
            "--learning_rate and --temperature",
        )
    if (
        len(near) >= EPOCHS_AT_CHANCE
        and all(near[-EPOCHS_AT_CHANCE:])
        and not (len(near) > EPOCHS_AT_CHANCE and near[0])
    ):
        logger.info(
            "warning: the %s for %d epochs: it learns nothing; look at %s", what, EPOCHS_AT_CHANCE, remedy
        )


def new_head(encoder: WideResNet, data: ImageDataset, key: tuple) -> ClassificationHead:
    """The linear classifier before its training; its weights depend on `key`: (seed, stage)."""
    seed_weights(*key, "weights")
    return ClassificationHead(encoder.latent_size, len(data.class_names))


def train_head(
    encoder: WideResNet,
    data: ImageDataset,
    epochs: int,
    batch_size: int,
    key: tuple,
    description: str,
    masks: Masks | None = None,
    pruning: GradualPruning | None = None,
    progress: Progress | None = None,
) -> tuple[ClassificationHead, list[dict]]:
    """A linear classifier on the frozen encoder's latent (encoder in eval mode), and its history.

    The encoder does not change, so the latents of an epoch's views are computed first, in large batches.

    Args:
        key: what weights, orders and views depend on: (seed, stage).
        masks: of the head, fixed; pruning: a schedule by which it is pruned while it trains.
        progress: where the state of the training is kept; what is there already is gone on from.
    """
    device = data.train_images.device
    head = into_buffers(new_head(encoder, data, key), device)
    optimizer, schedulers = head_optimizer(head, epochs)
    encoder.eval()
    test_latents = outputs(encoder, data.test_images, data)
    bar, history, masks = progress_bar(epochs, description), [], dict(masks or {})
    apply_masks(head, masks)
    prune = gradual_pruner(
        head,
        masks,
        pruning,
        lambda step: (
            F.cross_entropy(head(train_latents[batch]), data.train_labels[batch])
            for batch in batches[:GRADIENT_BATCHES]
        ),
        key,
    )
    parts = {
        "network": head,
        "optimizer": optimizer,
        **{f"scheduler {index}": scheduler for index, scheduler in enumerate(schedulers)},
    }
    for epoch in epochs_left(progress, range(epochs), parts, masks, history):
        bar.n = epoch
        generator = augment.stream(*key, epoch)
        batches = epoch_order(len(data.train_images), batch_size, True, generator, device)
        train_latents = _view_latents(encoder, data, generator)
        totals, losses = torch.zeros(2, device=device), []
        for step, batch in enumerate(batches, epoch * len(batches) + 1):
            prune(step)
            labels = data.train_labels[batch]
            logits = head(train_latents[batch])
            loss = F.cross_entropy(logits, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            apply_masks(head, masks)
            with torch.no_grad():
                totals += torch.stack([loss * len(batch), (logits.argmax(1) == labels).sum()])
            losses.append(loss.detach())
        loss_sum, correct = totals.tolist()
        history.append(
            {
                "epoch": epoch,
                "learning_rate": optimizer.param_groups[0]["lr"],
                "loss": _finite(loss_sum / len(data.train_images), (*key, epoch), losses),
                "chance_loss": math.log(len(data.class_names)),
                "train_accuracy": correct / len(data.train_images),
                **test_scores(head(test_latents), data),
                **_sparsity_entry(head, masks),
            }
        )
        log_epoch(description, epochs, history[-1])
        _warn_at_chance(history, description, data)
        for scheduler in schedulers:
            scheduler.step()
        _advance(bar, loss)
    bar.close()
    return copy.deepcopy(head), history  # the buffers serve the next head


@torch.no_grad()
def _view_latents(encoder: WideResNet, data: ImageDataset, generator: torch.Generator) -> Tensor:
    parameters = _supervised_parameters(data, generator)
    rows = torch.arange(len(data.train_images), device=data.train_images.device)
    return torch.cat(
        [
            encoder(_supervised_batch(data, parameters, batch))
            for batch in rows.split(evaluation_size(data.train_images))
        ]
    )


def train_supervised(
    network: SupervisedNetwork,
    data: ImageDataset,
    settings: dict,
    seed: int,
    description: str,
    epochs: range,
    masks: Masks | None = None,
    pruning: GradualPruning | None = None,
    at_epoch: Callable[[int], None] | None = None,
    progress: Progress | None = None,
) -> list[dict]:
    """Trains a supervised network in place and returns its history.

    Args:
        settings: those of `supervised_learning_rate`, and batch_size, momentum, weight_decay, shuffle.
        epochs: those to train, from the first, at which the network already is.
        masks: fixed; pruning: a schedule by which it is pruned while it trains.
        at_epoch: called with the number of epochs done, at the start and after every epoch.
        progress: as in `train_head`.
    """
    optimizer = torch.optim.SGD(
        network.parameters(),
        settings["learning_rate"],
        momentum=settings["momentum"],
        weight_decay=settings["weight_decay"],
    )
    key, history, masks = (seed, "supervised"), [], dict(masks or {})
    apply_masks(network, masks)
    prune = gradual_pruner(
        network,
        masks,
        pruning,
        lambda step: classification_losses(network, data, settings["batch_size"], (*key, step)),
        key,
    )
    bar = progress_bar(len(epochs) * math.ceil(len(data.train_images) / settings["batch_size"]), description)
    for epoch in epochs_left(progress, epochs, {"network": network, "optimizer": optimizer}, masks, history):
        bar.n = (epoch - epochs.start) * bar.total // len(epochs)
        if at_epoch is not None:
            at_epoch(epoch)
        rate = supervised_learning_rate(settings, epoch)
        set_learning_rate(optimizer, rate)
        trained = classification_epoch(
            network,
            data,
            settings["batch_size"],
            optimizer,
            masks,
            (*key, epoch),
            bar,
            settings["shuffle"],
            prune,
        )
        history.append(
            {
                "epoch": epoch,
                "learning_rate": rate,
                **trained,
                **evaluate_test_set(network, data),
                **_sparsity_entry(network, masks),
            }
        )
        log_epoch(description, epochs.stop, history[-1])
        _warn_at_chance(history, description, data)
    if at_epoch is not None:
        at_epoch(epochs.stop)
    bar.close()
    return history


def train_contrastive(
    model: ContrastiveEncoder,
    data: ImageDataset,
    settings: dict,
    seed: int,
    description: str,
    epochs: range,
    masks: Masks | None = None,
    pruning: GradualPruning | None = None,
    at_epoch: Callable[[int], None] | None = None,
    progress: Progress | None = None,
) -> list[dict]:
    """Trains an encoder with its projection head in place and returns its history.

    Args:
        settings: those of `contrastive_epoch`, and epochs (of the whole training, for the learning rate), learning_rate, momentum,
            weight_decay, cosine_annealing, warmup_epochs.
        epochs, at_epoch: as in `train_supervised`; masks, pruning: the same, of the encoder, never of the projection head.
    """
    optimizer = torch.optim.SGD(
        model.parameters(),
        settings["learning_rate"],
        momentum=settings["momentum"],
        weight_decay=0.0 if settings["lars"] else settings["weight_decay"],
    )
    key, images, history, masks = (seed, "contrastive"), len(data.train_images), [], dict(masks or {})
    apply_masks(model.encoder, masks)
    prune = gradual_pruner(
        model.encoder,
        masks,
        pruning,
        lambda step: contrastive_losses(model, data, settings, (*key, step)),
        key,
    )
    bar = progress_bar(len(epochs) * math.ceil(images / settings["batch_size"]), description)
    for epoch in epochs_left(progress, epochs, {"network": model, "optimizer": optimizer}, masks, history):
        bar.n = (epoch - epochs.start) * bar.total // len(epochs)
        if at_epoch is not None:
            at_epoch(epoch)
        rates = contrastive_learning_rates(
            settings["learning_rate"],
            epoch,
            settings["epochs"],
            settings["cosine_annealing"],
            settings["warmup_epochs"],
            settings["batch_size"],
            images,
        )
        trained = contrastive_epoch(model, data, settings, optimizer, rates, masks, (*key, epoch), bar, prune)
        history.append(
            {"epoch": epoch, "learning_rate": rates[-1], **trained, **_sparsity_entry(model.encoder, masks)}
        )
        log_epoch(description, epochs.stop, history[-1])
        _warn_at_chance(history, description, data)
    if at_epoch is not None:
        at_epoch(epochs.stop)
    bar.close()
    return history


def _sparsity_entry(module: nn.Module, masks: Masks) -> dict[str, float]:
    """What the history says of a network that is being pruned, or was."""
    return {"sparsity": measure_sparsity(module)["total"]} if masks else {}


def log_epoch(what: str, epochs: int, entry: dict) -> None:
    """One line of the story: loss with its chance value, accuracies of the epoch's views and of the test images, sparsity."""
    words = [
        f"{what} epoch {entry['epoch'] + 1}/{epochs}",
        f"loss {entry['loss']:.4f} (chance {entry['chance_loss']:.4f})",
    ]
    words += [
        f"{name.replace('_', ' ')} {entry[name]:.2%}"
        for name in ("train_accuracy", "test_accuracy", "sparsity")
        if name in entry
    ]
    logger.debug("%s, learning rate %.3g", ", ".join(words), entry["learning_rate"])


def finetune(
    network: Classifier,
    data: ImageDataset,
    masks: Masks,
    settings: dict,
    key: tuple,
    description: str,
    progress: Progress | None = None,
) -> list[dict]:
    """Trains the whole pruned network with fixed masks: SGD at a constant rate, Nesterov momentum 0.9, no weight decay, cross-entropy.

    Args:
        settings: epochs, batch_size, learning_rate; progress: as in `train_head`.
    """
    epochs, batch_size, rate = settings["epochs"], settings["batch_size"], settings["learning_rate"]
    optimizer = torch.optim.SGD(network.parameters(), rate, momentum=0.9, nesterov=True)
    apply_masks(network, masks)
    history = []
    bar = progress_bar(epochs * math.ceil(len(data.train_images) / batch_size), description)
    for epoch in epochs_left(
        progress, range(epochs), {"network": network, "optimizer": optimizer}, {}, history
    ):
        bar.n = epoch * bar.total // epochs
        trained = classification_epoch(network, data, batch_size, optimizer, masks, (*key, epoch), bar)
        history.append({"epoch": epoch, "learning_rate": rate, **trained, **evaluate_test_set(network, data)})
        log_epoch(description, epochs, history[-1])
        _warn_at_chance(history, description, data)
    bar.close()
    return history
