"""Learning rates, LARS, and `fit` with its three trainings: cross-entropy, contrastive, classifier head."""

import dataclasses
import math
import types

import numpy as np
import pytest
import torch

from common import augment, evaluation, models, training
from common.cli import UserError
from common.criteria import magnitude
from common.data import load_dataset
from common.losses import contrastive_loss
from common.pruning import (
    GradientSums,
    GradualPruning,
    global_masks,
    measure_sparsity,
    prunable_parameters,
)
from common.settings import Architecture, Finetuning, SupervisedTraining, defaults
from common.training import Contrastive, CrossEntropy, Head, TrainingContext, fit

CPU = torch.device("cpu")
SUPERVISED = {"batch_size": 32, "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
CONTRASTIVE = {
    "learning_method": "SupCon",
    "epochs": 3,
    "batch_size": 32,
    "learning_rate": 0.05,
    "momentum": 0.9,
    "weight_decay": 4e-4,
    "temperature": 0.5,
    "base_temperature": 0.07,
    "cosine_annealing": False,
    "warmup_epochs": 0,
    "lars": False,
}


def few(train=70, test=20):
    data = load_dataset("digits", "data")
    parts = {"train_images": train, "train_labels": train, "test_images": test, "test_labels": test}
    return dataclasses.replace(data, **{part: getattr(data, part)[:count] for part, count in parts.items()})


def network(seed=0, dropout=0.0):
    training.seed_weights(seed, "weights")
    return training.prepare(models.SupervisedNetwork(Architecture(10, 1, dropout), 10), CPU)


def encoder(dropout=0.0, projection_head="mlp"):
    training.seed_weights(0, "weights")
    return training.prepare(models.ContrastiveEncoder(Architecture(10, 1, dropout, projection_head)), CPU)


def classifying(net, data=None, **settings):
    return CrossEntropy(net, data or few(), {**SUPERVISED, **settings})


def contrasting(model, data, **settings):
    return Contrastive(model, data, {**CONTRASTIVE, **settings})


def train_head(of, epochs=3, **more):
    """A new classifier head on a frozen encoder, and its history."""
    training.seed_weights(0, "head", "weights")
    head = models.ClassificationHead(of.latent_size, 10)
    settings = {"head_epochs": epochs, "batch_size_head": 32}
    return head, fit(Head(of, head, few(), settings), TrainingContext((0, "head")), range(epochs), **more)


def one_epoch(of, stage="supervised", epoch=0, masks=None):
    [entry] = fit(of, TrainingContext((0, stage)), range(epoch, epoch + 1), masks)
    return entry


def masks_at(module, sparsity):
    scores = {name: magnitude(weight.detach()) for name, weight in prunable_parameters(module).items()}
    return global_masks(scores, sparsity)


# Learning rates and LARS


def test_supervised_rates_are_the_published_ones_follow_other_milestones_or_a_cosine_or_are_constant():
    def rates(settings, epochs=6):
        return [training.supervised_learning_rate(settings, epoch) for epoch in range(epochs)]

    published = [1.0] * 5 + [0.1] * 25 + [0.01] * 20 + [1e-3] * 30 + [1e-4] * 20
    assert rates(defaults(SupervisedTraining), 100) == pytest.approx(published)
    settings = {"learning_rate": 0.4, "epochs": 20, "lr_milestones": [2, 4], "lr_gamma": 0.5}
    assert rates(settings) == [0.4, 0.4, 0.2, 0.2, 0.1, 0.1]
    annealed = [training.annealed_learning_rate(0.4, epoch, 20) for epoch in range(6)]
    assert rates({**settings, "cosine_annealing": True}) == annealed
    assert rates({**defaults(Finetuning), "learning_rate": 0.4}) == [0.4] * 6


def test_contrastive_rates_are_constant_or_a_cosine_to_a_thousandth():
    def rates(epoch, **settings):
        return training.contrastive_learning_rates({**CONTRASTIVE, "epochs": 20, **settings}, epoch, 2)

    assert [rates(epoch) for epoch in (0, 10, 19)] == [[0.05] * 2] * 3
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.05)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20, eta_min=0.05 / 1000)
    for epoch in range(20):
        expected = optimizer.param_groups[0]["lr"]
        assert rates(epoch, cosine_annealing=True) == pytest.approx([expected] * 2, rel=1e-6)
        optimizer.step()
        scheduler.step()


def test_warmup_is_linear_per_step_from_a_hundredth_and_for_large_batches_only():
    def rates(epoch, batch_size=300, cosine=False):
        settings = {"learning_rate": 0.5, "epochs": 10, "warmup_epochs": 2}
        settings |= {"batch_size": batch_size, "cosine_annealing": cosine}
        return training.contrastive_learning_rates(settings, epoch, 4)

    assert rates(0) + rates(1) == pytest.approx([0.01 + 0.49 * step / 8 for step in range(8)])
    assert rates(2) == [0.5] * 4 and rates(0, batch_size=256) == [0.5] * 4
    target = training.annealed_learning_rate(0.5, 2, 10)
    assert rates(1, cosine=True)[-1] == pytest.approx(0.01 + (target - 0.01) * 7 / 8)
    assert rates(2, cosine=True) == [target] * 4


def test_the_heads_rate_of_epoch_99_is_the_published_one():
    rates = training.head_learning_rates(100)
    assert len(rates) == 100 and rates[0] == 0.1 and rates[99] == pytest.approx(9.95e-5, rel=1e-3)
    assert rates[60] / rates[59] == pytest.approx(0.2, rel=0.1)


def test_lars_scales_each_tensor_as_its_formula_says():
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(shape, generator=generator) for shape in ((5, 3), (7,), (4,))]
    gradients = [
        torch.randn(weight.shape, generator=generator) * scale for weight, scale in zip(weights, (1, 1e-4, 1))
    ]
    weights[2].zero_()
    parameters = [torch.nn.Parameter(weight) for weight in weights]
    for parameter, gradient in zip(parameters, gradients):
        parameter.grad = gradient.clone()
    training.lars_(parameters, learning_rate=0.05, weight_decay=4e-4)
    clipped = []
    for parameter, weight, gradient in zip(parameters, weights, gradients):
        weight, gradient = weight.double(), gradient.double()
        local = 0.02 * weight.norm() / (gradient.norm() + 4e-4 * weight.norm() + 1e-8)
        expected = (gradient + 4e-4 * weight) * min(local.item() / 0.05, 1.0) if weight.any() else gradient
        assert torch.allclose(parameter.grad.double(), expected, rtol=1e-5)
        clipped.append(local.item() > 0.05)
    assert clipped == [False, True, False]


# Epochs


@pytest.mark.parametrize("shuffle", [True, False])
def test_an_epoch_sees_every_image_once(shuffle):
    batches = training.epoch_order(few(), 32, torch.Generator().manual_seed(0), shuffle)
    assert [len(batch) for batch in batches] == [32, 32, 6]
    assert torch.cat(batches).sort().values.tolist() == list(range(70))
    assert (torch.cat(batches).tolist() == list(range(70))) != shuffle


def test_an_epoch_is_the_same_for_the_same_key_and_another_for_another_epoch():
    def weights(epoch, state=0):
        net = network(dropout=0.3)
        torch.manual_seed(state)  # the state of the global generator does not matter
        one_epoch(classifying(net), epoch=epoch)
        return torch.cat([parameter.flatten() for parameter in net.parameters()])

    assert torch.equal(weights(0), weights(0, state=99)) and not torch.equal(weights(0), weights(1))


def test_the_reported_loss_and_accuracy_are_means_over_images_not_batches():
    data, net = few(train=70), network()
    # A rate of 0 leaves the weights alone, so that the epoch's numbers can be recomputed image by image.
    reported = one_epoch(classifying(net, data, learning_rate=0.0))
    generator = augment.stream(0, "supervised", 0)
    batches = training.epoch_order(data, 32, generator)
    drawn = augment.draw_supervised(70, 8, 8, False, False, generator)
    net.train()
    losses, correct = [], 0
    for batch in batches:
        its_drawn = {name: values[batch] for name, values in drawn.items()}
        logits = net(augment.supervised_views(data.train_images[batch], its_drawn, data.mean, data.std))
        for row, label in zip(logits, data.train_labels[batch]):
            losses.append((row.logsumexp(0) - row[label]).item())
            correct += int(row.argmax() == label)
    assert reported["loss"] == pytest.approx(sum(losses) / 70, rel=1e-4)
    assert reported["train_accuracy"] == pytest.approx(correct / 70)
    shares = np.bincount(data.train_labels) / 70
    assert reported["chance_loss"] == pytest.approx(-sum(shares * np.log(shares)))
    assert reported["learning_rate"] == 0.0


def test_a_contrastive_epoch_compares_two_views_of_each_image():
    data, model = few(train=40), encoder()
    reported = one_epoch(contrasting(model, data, batch_size=16, learning_rate=0.0), "contrastive")
    generator = augment.stream(0, "contrastive", 0)
    batches = training.epoch_order(data, 16, generator)
    drawn, total = augment.draw_contrastive(80, 8, 8, False, generator), 0.0
    model.train()
    for batch in batches:
        its_drawn = [{name: values[batch + 40 * view] for name, values in drawn.items()} for view in range(2)]
        images = data.train_images[batch]
        views = [augment.contrastive_views(images, of_view, data.mean, data.std) for of_view in its_drawn]
        projections = torch.stack(model(torch.cat(views)).split(len(batch)), 1)
        total += contrastive_loss(projections, data.train_labels[batch], 0.5).item() * len(batch)
    assert reported["loss"] == pytest.approx(total / 40, rel=1e-4)
    chance = (2 * 16 * math.log(31) + 8 * math.log(15)) / 40
    assert reported["chance_loss"] == pytest.approx(0.5 / 0.07 * chance)
    assert "train_accuracy" not in reported and "test_accuracy" not in reported


def test_lars_sees_no_gradient_of_a_pruned_weight(monkeypatch):
    model, seen = encoder(), {}
    masks = masks_at(model.encoder, 0.5)

    def look(*_):
        seen.update(
            (name, weight.grad.clone()) for name, weight in prunable_parameters(model.encoder).items()
        )

    monkeypatch.setattr(training, "lars_", look)
    of = contrasting(model, few(train=32), lars=True)
    one_epoch(of, "contrastive", masks=masks)
    assert all((gradient[masks[name] == 0] == 0).all() for name, gradient in seen.items())
    assert any((gradient != 0).any() for gradient in seen.values())
    assert not of.optimizer().defaults["weight_decay"], "it is inside LARS"


def test_every_step_of_a_warmup_has_the_rate_of_its_own(monkeypatch):
    monkeypatch.setattr(training, "WARMUP_ABOVE_BATCH", 16)
    rates, set_rate = [], training.set_learning_rate
    seen = lambda optimizer, rate: rates.append(rate) or set_rate(optimizer, rate)
    monkeypatch.setattr(training, "set_learning_rate", seen)
    warming = contrasting(encoder(), few(train=64), learning_rate=0.5, warmup_epochs=2)
    entry = one_epoch(warming, "contrastive")
    assert rates == pytest.approx([0.01, 0.01 + 0.49 / 4]) and entry["learning_rate"] == rates[-1]


def test_the_head_learns_on_a_frozen_encoder_in_eval_mode():
    of, data = encoder().encoder.train(), few()
    before = {name: tensor.clone() for name, tensor in of.state_dict().items()}
    head, history = train_head(of, 8)
    assert all(torch.equal(tensor, before[name]) for name, tensor in of.state_dict().items())
    assert len(history) == 8 and history[-1]["loss"] < min(history[0]["loss"], math.log(10))
    right = head(evaluation.outputs(of, data.test_images, data)).argmax(1) == data.test_labels
    assert history[-1]["test_accuracy"] == pytest.approx(right.float().mean().item())
    assert torch.equal(head.fc.weight, train_head(of, 8)[0].fc.weight)
    assert [entry["learning_rate"] for entry in history] == training.head_learning_rates(8)


def test_finetuning_keeps_exactly_the_pruned_weights_at_zero():
    data, net = few(), network()
    torch.nn.init.ones_(net.base.fc.bias)
    masks = masks_at(net, 0.9)
    before = {name: mask.clone() for name, mask in masks.items()}
    finetuning = classifying(net, data, **{**defaults(Finetuning), "batch_size": 16})
    assert finetuning.optimizer().defaults["nesterov"] and not finetuning.optimizer().defaults["weight_decay"]
    history = fit(finetuning, TrainingContext((0, "finetuning")), range(2), masks)
    achieved = measure_sparsity(net)
    assert achieved["zeros"] == round(0.9 * achieved["counted"])
    assert all((weight[masks[name] == 0] == 0).all() for name, weight in prunable_parameters(net).items())
    assert [entry["epoch"] for entry in history] == [0, 1] and history[-1]["sparsity"] == achieved["total"]
    expected = evaluation.evaluate_test_set(net, data)["test_accuracy"]
    assert history[-1]["test_accuracy"] == pytest.approx(expected)
    fit(
        finetuning, TrainingContext((0, "supervised")), range(1), masks, GradualPruning(0.95, 5, 5, 1)
    )  # the last step
    assert measure_sparsity(net)["total"] == pytest.approx(0.95, abs=1e-4)
    assert all(torch.equal(masks[name], mask) for name, mask in before.items()), "those given stay"


@pytest.mark.parametrize("kind", ["supervised", "contrastive"])
def test_sums_of_gradients_are_those_of_every_step_and_change_nothing_else(kind):
    new, training_of = {"supervised": (network, classifying), "contrastive": (encoder, contrasting)}[kind]
    plain, summed = (training_of(new(), few()) for _ in range(2))
    one_epoch(plain, kind)
    summed.accumulated = GradientSums(summed.pruned)
    seen = {name: [] for name in summed.accumulated}
    for name, weight in prunable_parameters(summed.pruned).items():
        weight.register_hook(lambda gradient, name=name: seen[name].append(gradient.clone()))
    one_epoch(summed, kind)
    for name, total in summed.accumulated.items():
        gradients = torch.stack(seen[name])
        assert len(gradients) == 3
        torch.testing.assert_close(total, torch.stack([gradients.abs().sum(0), gradients.sum(0)]))
    for one, other in zip(plain.network.state_dict().values(), summed.network.state_dict().values()):
        assert torch.equal(one, other)


@pytest.mark.parametrize("mode", [True, False])
def test_a_module_is_in_eval_mode_for_a_while_and_then_as_before(mode):
    net = network().train(mode)
    with training.in_eval_mode(net):
        assert not any(module.training for module in net.modules())
    assert all(module.training == mode for module in net.modules())


# Trainings that learn nothing, and that diverge


GUESSING = few().train_labels.bincount().max().item() / 70
HIGHEST = GUESSING + 3 * math.sqrt(GUESSING * (1 - GUESSING) / 70)
LOSS, ACCURACY = "(chance 39.0000)", "train accuracy"


@pytest.mark.parametrize(
    "fact, values, warned",
    [
        (LOSS, [39.01] * 12, 1),
        (LOSS, [39.0] * 4 + [38.0, 37.0], 0),
        (ACCURACY, [0.1, 0.12, 0.1, 0.11, HIGHEST + 0.01, 0.3], 0),
        (ACCURACY, [HIGHEST - 0.01, 0.1, 0.12, 0.1, 0.11, 0.09, 0.1], 1),
    ],
)
def test_a_network_that_learns_nothing_is_warned_about_once(monkeypatch, fact, values, warned):
    said, data, history = [], few(), []
    monkeypatch.setattr(training.logger, "info", lambda text, *facts: said.append(text % facts))
    for value in values:
        of_classifier = {"train_accuracy": value, "loss": 2.3, "chance_loss": 2.3}
        history.append({"loss": value, "chance_loss": 39.0} if fact == LOSS else of_classifier)
        training.warn_at_chance(history, "a network", data)
    assert len(said) == warned and all(fact in message for message in said)


@pytest.mark.parametrize(
    "counts, accuracy, loss, warned",
    [
        ((4, 4), 1.0, 0.01, 0),  # so few images that guessing all of them right is within three deviations
        ((6, 2), 0.75, 0.57, 1),  # what guessing by frequency gives is 0.5623
        ((6, 2), 0.75, 0.5, 0),
        ((199, 1), None, 5.984, 0),  # SupCon of 400 views: chance 5.9890, at best 5.97
        ((100, 100), None, 5.984, 1),
    ],
)
def test_chance_is_what_guessing_by_frequency_gives(monkeypatch, counts, accuracy, loss, warned):
    said = []
    monkeypatch.setattr(training.logger, "info", lambda *words: said.append(words))
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    entry = {"loss": loss, "chance_loss": 5.9890}
    entry |= {} if accuracy is None else {"train_accuracy": accuracy}
    training.warn_at_chance([entry] * 5, "a network", types.SimpleNamespace(train_labels=labels))
    assert len(said) == warned


def test_a_loss_that_is_not_finite_names_its_epoch_and_step():
    said = r"a network after epoch 3: the loss is (nan|inf), from step [1-3] of 3 on: it diverged"
    with pytest.raises(UserError, match=said):
        fit(classifying(network(), learning_rate=1e30), TrainingContext((0,), "a network"), range(2, 4))


def overflow_a_buffer(of):
    of.network.base.bn1.running_var.fill_(math.inf)


def overflow_the_outputs(of):
    for weight in of.pruned.parameters():
        if weight.ndim == 4:
            weight.data.fill_(1e30)


def overflow_sums(of):
    for name in ("base.fc.weight", "base.fc.bias"):
        of.accumulated[name].fill_(-math.inf)


SUMS = "gradient sums of base.fc.weight and 1 more are not finite"
OUTPUTS = "outputs for un-augmented images are not finite"


@pytest.mark.parametrize(
    "of, spoil, told, epoch",
    [
        (classifying(network()), overflow_a_buffer, "base.bn1.running_var are not finite", 1),
        (classifying(network()), overflow_sums, SUMS, 3),
        (classifying(network()), overflow_the_outputs, OUTPUTS, 1),
        (contrasting(encoder(), few()), overflow_the_outputs, OUTPUTS, 3),
    ],
)
def test_a_training_whose_loss_alone_is_finite_is_refused(monkeypatch, of, spoil, told, epoch):
    """Spoilt after the last step of an epoch, when its loss is known; of contrastive trainings the last one
    alone has outputs that are looked at."""
    of.accumulated, steps = GradientSums(of.pruned), iter(range(9))
    monkeypatch.setattr(training, "advance", lambda *_: spoil(of) if next(steps) == 3 * epoch - 1 else None)
    words = f"a network after epoch {epoch}: {told}: it diverged and was not sav"
    with pytest.raises(UserError, match=words):
        fit(of, TrainingContext((0,), "a network"), range(3))
