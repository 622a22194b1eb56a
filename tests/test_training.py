"""Epochs, schedules, optimizers, heads and finetuning."""

import dataclasses
import math

import pytest
import torch

from common import evaluation, models, optimization, training
from common.data import load_dataset
from common.losses import contrastive_loss
from common.pruning import global_masks, magnitude, measure_sparsity, prunable_parameters
from common.store import checkpoints

CPU = torch.device("cpu")


def few(train=70, test=20):
    data = load_dataset("digits", "data")
    return dataclasses.replace(
        data,
        train_images=data.train_images[:train],
        train_labels=data.train_labels[:train],
        test_images=data.test_images[:test],
        test_labels=data.test_labels[:test],
    )


def network(seed=0, dropout=0.0):
    training.seed_weights(seed, "weights")
    return training.prepare(models.SupervisedNetwork(10, 1, dropout, 10), CPU)


def bar():
    return training.progress_bar(1, "")


def sgd(module, rate=0.1):
    return torch.optim.SGD(module.parameters(), rate, momentum=0.9, weight_decay=5e-4)


def test_supervised_rates_fall_at_the_published_epochs():
    settings = {"learning_rate": 1.0, **checkpoints.LATER_SETTINGS}
    rates = [optimization.supervised_learning_rate(settings, epoch) for epoch in range(100)]
    assert (
        rates[4] == 1.0
        and rates[5] == pytest.approx(0.1)
        and rates[29] == pytest.approx(0.1)
        and rates[30] == pytest.approx(0.01)
    )
    assert rates[50] == pytest.approx(1e-3) and rates[80] == pytest.approx(1e-4) == rates[99]


def test_supervised_rates_follow_other_milestones_or_the_cosine_of_the_contrastive_ones():
    settings = {
        "learning_rate": 0.4,
        "epochs": 20,
        "lr_milestones": [2, 4],
        "lr_gamma": 0.5,
        "cosine_annealing": False,
    }
    assert [optimization.supervised_learning_rate(settings, epoch) for epoch in range(6)] == [
        0.4,
        0.4,
        0.2,
        0.2,
        0.1,
        0.1,
    ]
    for epoch in range(20):
        assert optimization.supervised_learning_rate(
            {**settings, "cosine_annealing": True}, epoch
        ) == optimization.annealed_learning_rate(0.4, epoch, 20, True)


def test_contrastive_rates_are_constant_or_a_cosine_to_a_thousandth():
    assert {optimization.annealed_learning_rate(0.05, epoch, 500, False) for epoch in (0, 250, 499)} == {0.05}
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.05)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20, eta_min=0.05 / 1000)
    for epoch in range(20):
        assert optimization.annealed_learning_rate(0.05, epoch, 20, True) == pytest.approx(
            optimizer.param_groups[0]["lr"], rel=1e-6
        )
        optimizer.step()
        scheduler.step()


def test_warmup_is_linear_per_step_from_a_hundredth_and_for_large_batches_only():
    def rates(epoch, batch_size=300, cosine=False):
        return optimization.contrastive_learning_rates(0.5, epoch, 10, cosine, 2, batch_size, 1000)

    assert rates(0) + rates(1) == pytest.approx([0.01 + 0.49 * step / 8 for step in range(8)])
    assert rates(2) == [0.5] * 4 and rates(0, batch_size=256) == [0.5] * 4
    target = optimization.annealed_learning_rate(0.5, 2, 10, True)
    assert (
        rates(1, cosine=True)[-1] == pytest.approx(0.01 + (target - 0.01) * 7 / 8)
        and rates(2, cosine=True) == [target] * 4
    )


def test_the_heads_rate_of_epoch_99_is_the_published_one():
    optimizer, schedulers = optimization.head_optimizer(models.ClassificationHead(4, 2), 100)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    assert rates[0] == 0.1 and rates[99] == pytest.approx(9.95e-5, rel=1e-3)
    assert rates[60] / rates[59] == pytest.approx(0.2, rel=0.1)


def test_lars_scales_each_tensor_as_its_formula_says():
    generator = torch.Generator().manual_seed(0)
    parameters = [
        torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((5, 3), (7,), (4,))
    ]
    gradients = [
        torch.randn(parameter.shape, generator=generator) * scale
        for parameter, scale in zip(parameters, (1, 1e-4, 1))
    ]
    with torch.no_grad():
        parameters[2].zero_()
    for parameter, gradient in zip(parameters, gradients):
        parameter.grad = gradient.clone()
    optimization.lars_(parameters, learning_rate=0.05, weight_decay=4e-4)
    for index, (parameter, gradient) in enumerate(zip(parameters, gradients)):
        weight = parameter.detach().double()
        local = 0.02 * weight.norm() / (gradient.double().norm() + 4e-4 * weight.norm() + 1e-8)
        expected = (
            (gradient.double() + 4e-4 * weight) * min(local.item() / 0.05, 1.0)
            if index < 2
            else gradient.double()
        )
        assert torch.allclose(parameter.grad.double(), expected, rtol=1e-5)
    assert (
        0.02 * parameters[1].norm() / (gradients[1].norm() + 4e-4 * parameters[1].norm())
    ).item() > 0.05, "one is clipped"


@pytest.mark.parametrize("shuffle", [True, False])
def test_an_epoch_sees_every_image_once(shuffle):
    batches = training.epoch_order(70, 32, shuffle, torch.Generator().manual_seed(0), CPU)
    assert [len(batch) for batch in batches] == [32, 32, 6]
    assert torch.cat(batches).sort().values.tolist() == list(range(70))
    assert (torch.cat(batches).tolist() == list(range(70))) != shuffle


def test_an_epoch_is_the_same_for_the_same_key_and_another_for_another_epoch():
    def weights(epoch, dropout=0.3):
        net = network(dropout=dropout)
        training.classification_epoch(net, few(), 32, sgd(net), {}, (0, "supervised", epoch), bar())
        return torch.cat([parameter.flatten() for parameter in net.parameters()])

    assert torch.equal(weights(0), weights(0))
    torch.manual_seed(99)  # the state of the global generator does not matter
    assert torch.equal(weights(0), weights(0)) and not torch.equal(weights(0), weights(1))


def test_seeds_give_independent_weights_and_orders():
    assert not torch.equal(network(0).base.conv1.weight, network(1).base.conv1.weight)
    assert torch.equal(network(0).base.conv1.weight, network(0).base.conv1.weight)


def test_the_reported_loss_and_accuracy_are_means_over_images_not_batches():
    data, net = few(train=70), network()
    # A rate of 0 leaves the weights alone, so that the epoch's numbers can be recomputed image by image.
    optimizer = torch.optim.SGD(net.parameters(), 0.0)
    reported = training.classification_epoch(net, data, 32, optimizer, {}, (0, "supervised", 0), bar())
    generator = training.augment.stream(0, "supervised", 0)
    batches = training.epoch_order(70, 32, True, generator, CPU)
    drawn = training.augment.draw_supervised(70, 8, 8, False, False, generator)
    net.train()
    losses, correct = [], 0
    for batch in batches:
        views = training.augment.supervised_views(
            data.train_images[batch],
            {name: values[batch] for name, values in drawn.items()},
            data.mean,
            data.std,
        )
        logits = net(views)
        for row, label in zip(logits, data.train_labels[batch]):
            losses.append((row.logsumexp(0) - row[label]).item())
            correct += int(row.argmax() == label)
    assert reported["loss"] == pytest.approx(sum(losses) / 70, rel=1e-4)
    assert reported["train_accuracy"] == pytest.approx(correct / 70)


def contrastive_settings(method, batch_size, lars=False):
    return {
        "learning_method": method,
        "batch_size": batch_size,
        "temperature": 0.5,
        "base_temperature": 0.07,
        "lars": lars,
        "weight_decay": 4e-4,
    }


def test_a_contrastive_epoch_compares_two_views_of_each_image():
    data = few(train=40)
    training.seed_weights(0, "weights")
    model = training.prepare(models.ContrastiveEncoder(10, 1, 0.0, "mlp"), CPU)
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    reported = training.contrastive_epoch(
        model,
        data,
        contrastive_settings("SupCon", 16),
        optimizer,
        [0.0] * 3,
        {},
        (0, "contrastive", 0),
        bar(),
    )
    generator = training.augment.stream(0, "contrastive", 0)
    batches = training.epoch_order(40, 16, True, generator, CPU)
    drawn = training.augment.draw_contrastive(80, 8, 8, False, generator)
    total = 0.0
    model.train()
    for batch in batches:
        views = [
            training.augment.contrastive_views(
                data.train_images[batch],
                {name: values[batch + 40 * view] for name, values in drawn.items()},
                data.mean,
                data.std,
            )
            for view in range(2)
        ]
        projections = model(torch.cat(views)).split(len(batch))
        total += contrastive_loss(torch.stack(projections, 1), data.train_labels[batch], 0.5).item() * len(
            batch
        )
    assert reported["loss"] == pytest.approx(total / 40, rel=1e-4)


@pytest.mark.parametrize("method", ["SupCon", "SimCLR"])
def test_contrastive_training_gets_below_chance(method):
    data = few(train=64)
    training.seed_weights(0, "weights")
    model = training.prepare(models.ContrastiveEncoder(10, 1, 0.0, "linear"), CPU)
    chance = training.chance_loss(64, 32, 0.5, 0.07)
    assert chance == pytest.approx(0.5 / 0.07 * math.log(63))
    optimizer = sgd(model, 0.02)
    for epoch in range(8):
        loss = training.contrastive_epoch(
            model,
            data,
            contrastive_settings(method, 32),
            optimizer,
            [0.02] * 2,
            {},
            (0, "contrastive", epoch),
            bar(),
        )["loss"]
    assert loss < chance - 0.5


def test_lars_sees_no_gradient_of_a_pruned_weight(monkeypatch):
    data, model = few(train=32), training.prepare(models.ContrastiveEncoder(10, 1, 0.0, "mlp"), CPU)
    parameters = prunable_parameters(model.encoder)
    masks = global_masks({name: magnitude(weight) for name, weight in parameters.items()}, 0.5)
    seen = []
    monkeypatch.setattr(
        training,
        "lars_",
        lambda *_: seen.append({name: weight.grad.clone() for name, weight in parameters.items()}),
    )
    training.contrastive_epoch(
        model,
        data,
        contrastive_settings("SupCon", 32, lars=True),
        sgd(model, 0.1),
        [0.1],
        masks,
        (0, "contrastive", 0),
        bar(),
    )
    assert all((gradient[masks[name] == 0] == 0).all() for name, gradient in seen[0].items())
    assert any((gradient[masks[name] == 1] != 0).any() for name, gradient in seen[0].items())


def test_lars_and_warmup_run_through_an_epoch():
    data = few(train=64)
    model = training.prepare(models.ContrastiveEncoder(10, 1, 0.0, "mlp"), CPU)
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    training.contrastive_epoch(
        model,
        data,
        contrastive_settings("SupCon", 32, lars=True),
        optimizer,
        [0.01, 0.02],
        {},
        (0, "contrastive", 0),
        bar(),
    )
    assert optimizer.param_groups[0]["lr"] == 0.02
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def test_the_head_learns_on_a_frozen_encoder_in_eval_mode():
    data = few(train=200)
    training.seed_weights(0, "weights")
    encoder = training.prepare(models.WideResNet(10, 1), CPU)
    encoder.train()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    head, history = training.train_head(encoder, data, 5, 32, (0, "head"), "")
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())
    assert (
        len(history) == 5 and history[-1]["loss"] < history[0]["loss"] and history[-1]["loss"] < math.log(10)
    )
    latents = evaluation.outputs(encoder, data.test_images, data)
    assert history[-1]["test_accuracy"] == pytest.approx(
        (head(latents).argmax(1) == data.test_labels).float().mean().item()
    )
    again, _ = training.train_head(encoder, data, 5, 32, (0, "head"), "")
    assert torch.equal(head.fc.weight, again.fc.weight)


@pytest.mark.parametrize("sparsity", [0.5, 0.9, 0.99])
def test_finetuning_keeps_exactly_the_pruned_weights_at_zero(sparsity):
    data, net = few(), network()
    torch.nn.init.ones_(net.base.fc.bias)
    parameters = prunable_parameters(net)
    masks = global_masks({name: magnitude(weight) for name, weight in parameters.items()}, sparsity)
    history = training.finetune(
        net, data, masks, {"epochs": 2, "batch_size": 32, "learning_rate": 1e-3}, (0, "finetuning"), ""
    )
    achieved = measure_sparsity(net)
    assert achieved["zeros"] == round(sparsity * achieved["counted"])
    assert all((weight[masks[name] == 0] == 0).all() for name, weight in parameters.items())
    assert [entry["epoch"] for entry in history] == [0, 1]
    assert history[-1]["test_accuracy"] == pytest.approx(
        evaluation.evaluate_test_set(net, data)["test_accuracy"]
    )


def test_test_metrics_do_not_depend_on_the_batches(monkeypatch):
    data, net = few(test=20), network()
    whole = evaluation.evaluate_test_set(net, data)
    monkeypatch.setattr(evaluation, "EVALUATION_BATCH", 7)
    parts = evaluation.evaluate_test_set(net, data)
    assert parts["test_accuracy"] == whole["test_accuracy"] and parts["test_loss"] == pytest.approx(
        whole["test_loss"], rel=1e-5
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_an_epoch_on_cuda_agrees_with_the_cpu():
    def loss(device):
        data, net = few().to(device), network().to(device)
        return training.classification_epoch(net, data, 32, sgd(net, 0.01), {}, (0, "supervised", 0), bar())[
            "loss"
        ]

    assert loss(torch.device("cuda")) == pytest.approx(loss(CPU), rel=1e-2)


def train_briefly(module, data, masks, name):
    settings = {
        "batch_size": 16,
        "learning_rate": 0.1,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "shuffle": True,
        **checkpoints.LATER_SETTINGS,
    }
    training.train_supervised(module, data, settings, name, "few", range(2), masks)
    return {key: value.clone() for key, value in module.state_dict().items()}


def test_every_seed_trains_in_the_same_memory_and_ends_as_in_memory_of_its_own():
    data = few()
    masks = global_masks(
        {name: magnitude(weight.detach()) for name, weight in prunable_parameters(network(0)).items()}, 0.9
    )
    own = [train_briefly(network(seed), data, masks if seed == 0 else {}, seed) for seed in (0, 1)]
    addresses, shared = [], []
    for seed in (0, 1):
        buffers = training.into_buffers(network(seed), CPU)
        assert all(weight.grad is None for weight in buffers.parameters())
        shared.append(train_briefly(buffers, data, masks if seed == 0 else {}, seed))
        addresses.append([tensor.data_ptr() for tensor in buffers.state_dict().values()])
    assert addresses[0] == addresses[1]
    for one, other in zip(own, shared):
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert not all(torch.equal(shared[0][name], shared[1][name]) for name in shared[0])


def test_networks_of_other_shapes_have_buffers_of_their_own():
    buffers = [
        training.into_buffers(module, CPU)
        for module in (
            models.SupervisedNetwork(10, 1, 0.0, 10),
            models.SupervisedNetwork(10, 1, 0.5, 10),
            models.SupervisedNetwork(10, 1, 0.0, 7),
            models.SupervisedNetwork(16, 1, 0.0, 10),
            models.WideResNet(10, 1),
            models.ContrastiveEncoder(10, 1, 0.0, "mlp"),
        )
    ]
    assert len({id(module) for module in buffers}) == len(buffers)


class Compiled:
    """A backend that counts what it is given to compile."""

    def __init__(self):
        self.graphs = 0

    def __call__(self, graph, inputs):
        self.graphs += 1
        return graph


def test_a_step_compiled_for_one_seed_serves_the_next():
    torch._dynamo.reset()
    backend, outputs = Compiled(), []
    images = torch.randn(4, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    step = torch.compile(
        training.into_buffers(network(0), CPU).eval(), backend=backend, fullgraph=True, dynamic=False
    )
    for seed in (0, 1, 2):
        training.into_buffers(network(seed), CPU)
        with torch.no_grad():
            outputs.append(step(images))
            assert torch.equal(outputs[-1], network(seed).eval()(images))
    assert backend.graphs == 1 and not torch.equal(outputs[0], outputs[1])


class Waits(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts operations that would wait for a GPU: numbers read back, and results whose size depends on data."""

    waiting = (
        "aten::_local_scalar_dense",
        "aten::item",
        "aten::nonzero",
        "aten::masked_select",
        "aten::is_nonzero",
        "aten::equal",
        "aten::unique",
    )

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):
        self.count += operation.name().split(".")[0].startswith(self.waiting)
        return operation(*arguments, **(keywords or {}))


@pytest.mark.parametrize("lars", [False, True])
def test_no_step_waits_for_the_device(monkeypatch, lars):
    """The losses and counts of an epoch are read once, however many steps it has."""
    read = []
    for name in ("tolist", "numpy", "cpu"):
        original = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor,
            name,
            lambda tensor, *rest, original=original: (read.append(tensor), original(tensor, *rest))[1],
        )

    settings = {
        "learning_method": "SupCon",
        "batch_size": 8,
        "temperature": 0.5,
        "base_temperature": 0.07,
        "lars": lars,
        "weight_decay": 1e-4,
    }
    supervised, contrastive = network(), training.prepare(models.ContrastiveEncoder(10, 1, 0.0, "mlp"), CPU)
    masks = {
        id(module): global_masks(
            {name: magnitude(weight.detach()) for name, weight in prunable_parameters(module).items()}, 0.5
        )
        for module in (supervised, contrastive.encoder)
    }
    epochs = (
        lambda data: training.classification_epoch(
            supervised, data, 8, sgd(supervised), masks[id(supervised)], (0, "waits", 0), bar()
        ),
        lambda data: training.contrastive_epoch(
            contrastive,
            data,
            settings,
            sgd(contrastive),
            [0.1] * 10,
            masks[id(contrastive.encoder)],
            (0, "waits", 0),
            bar(),
        ),
    )
    for epoch in epochs:
        for images in (16, 64):
            data = few(images)
            read.clear()
            with Waits() as counted:
                epoch(data)
            assert counted.count + len(read) == 1


def test_a_contrastive_loss_at_chance_is_warned_about_once(monkeypatch):
    said = []
    monkeypatch.setattr(training.logger, "info", lambda words, *facts: said.append(words % facts))

    def warnings(*losses):
        said.clear()
        entries = [{"loss": loss, "chance_loss": 39.0} for loss in losses]
        for length in range(1, len(entries) + 1):
            training._warn_at_chance(entries[:length], "SupCon id 0", few())
        return list(said)

    assert len(warnings(*[39.01] * 12)) == 1
    [words] = warnings(*[38.9] * 5)
    assert words.startswith("warning: the loss of SupCon id 0 has been at chance (39.0000) for 5 epochs")
    assert warnings(39.0, 39.0, 39.0, 39.0, 38.0, 37.0) == [] and warnings(*[30.0] * 9) == []


def test_an_accuracy_at_chance_is_warned_about_once(monkeypatch):
    said = []
    monkeypatch.setattr(training.logger, "info", lambda message, *values: said.append(message % values))
    data = few()
    guessing = data.train_labels.bincount().max().item() / 70
    highest = guessing + 3 * math.sqrt(guessing * (1 - guessing) / 70)
    learning = [
        {"train_accuracy": accuracy, "loss": 2.3} for accuracy in (0.1, 0.12, 0.1, 0.11, highest + 0.01, 0.3)
    ]
    for length in range(1, 7):
        training._warn_at_chance(learning[:length], "supervised id 0", data)
    assert said == []
    stuck = [
        {"train_accuracy": accuracy, "loss": 2.3}
        for accuracy in (highest - 0.01, 0.1, 0.12, 0.1, 0.11, 0.09, 0.1)
    ]
    for length in range(1, 8):
        training._warn_at_chance(stuck[:length], "supervised id 0", data)
    assert len(said) == 1
    assert said[0].startswith(
        f"warning: the training accuracy of supervised id 0 has been at chance ({guessing:.2%}) for 5 epochs"
    )
