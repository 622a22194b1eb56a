"""Masks against torch.nn.utils.prune, hand counts and golden masks; pruned weights that stay zero."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import GOLDEN_NETWORKS, golden_keys
from torch import nn
from torch.nn.utils import prune

from common.models import ClassificationHead, ContrastiveClassifier, ContrastiveEncoder, SupervisedNetwork
from common.pruning import (
    apply_masks,
    global_masks,
    layer_masks,
    magnitude,
    mask_gradients,
    masks_of,
    measure_sparsity,
    prunable_parameters,
    weight_movement,
)
from common.settings import Architecture


def random_network(seed, with_ties=False):
    """A small network for 3 x 6 x 6 images and 5 classes; with ties, its weights are multiples of 0.05."""
    torch.manual_seed(seed)
    width, hidden = torch.randint(3, 9, (2,)).tolist()
    network = nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Sequential(nn.Conv2d(width, hidden, 3, bias=False), nn.BatchNorm2d(hidden)),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(hidden * 16, hidden),
        nn.ReLU(),
        nn.Linear(hidden, 5),
    )
    if with_ties:
        for parameter in network.parameters():
            parameter.data.mul_(20).round_().div_(20)
    return network


def prunable_modules(network):
    """[(name, module, parameter's name)] listed by hand for torch's pruning."""
    return [
        (prefix, module, name)
        for prefix, module in network.named_modules()
        for name in ("weight", "bias")
        if isinstance(module, (nn.Conv2d, nn.Linear)) and getattr(module, name) is not None
    ]


def scores_of(network):
    return {name: magnitude(parameter.detach()) for name, parameter in prunable_parameters(network).items()}


def torch_masks(network):
    return {
        name.removesuffix("_mask"): mask for name, mask in network.named_buffers() if name.endswith("_mask")
    }


def assert_equal_up_to_ties(ours, theirs, scores):
    """As many pruned, and where the masks differ the score is that of the last pruned one."""
    assert ours.keys() == theirs.keys() == scores.keys()
    our, their, score = (
        torch.cat([values[name].flatten() for name in scores]) for values in (ours, theirs, scores)
    )
    assert (our == 0).sum() == (their == 0).sum()
    differ = score[our != their]
    assert len(differ) == 0 or (differ == score[their == 0].max()).all()


def golden_classifier(folder, depth, method):
    def load(pattern):
        (path,) = folder.glob(pattern)
        return torch.load(path, map_location="cpu")

    if method == "sup":
        network = SupervisedNetwork(Architecture(depth, 2), 10)
        network.load_state_dict(load("wideResNet_*.pt"))
        return network
    encoder, head = ContrastiveEncoder(Architecture(depth, 2)), ClassificationHead(128, 10)
    encoder.load_state_dict(load("WideResNet*_encoder_*.pt")["model"])
    head.load_state_dict(load("WideResNet*_head_*.pt")["head"])
    return ContrastiveClassifier(encoder.encoder, head)


# Criterion and scope


@pytest.mark.parametrize("with_ties", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_global_masks_equal_torchs_global_unstructured(seed, with_ties):
    network = random_network(seed, with_ties)
    sparsity = 0.05 + 0.9 * torch.rand(()).item()
    scores, theirs = scores_of(network), copy.deepcopy(network)
    pairs = [(module, name) for _, module, name in prunable_modules(theirs)]
    prune.global_unstructured(pairs, prune.L1Unstructured, amount=sparsity)
    assert_equal_up_to_ties(global_masks(scores, sparsity), torch_masks(theirs), scores)


@pytest.mark.parametrize("with_ties", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_layer_masks_equal_torchs_l1_unstructured_tensor_by_tensor(seed, with_ties):
    network = random_network(seed, with_ties)
    sparsity = 0.05 + 0.9 * torch.rand(()).item()
    scores, theirs = scores_of(network), copy.deepcopy(network)
    for _, module, name in prunable_modules(theirs):
        prune.l1_unstructured(module, name, amount=sparsity)
    ours, expected = layer_masks(scores, sparsity), torch_masks(theirs)
    assert ours.keys() == expected.keys()
    for name, score in scores.items():
        assert_equal_up_to_ties({name: ours[name]}, {name: expected[name]}, {name: score})


GOLDEN_MASKS = "pruning_masks_packbits.npz"


@pytest.mark.parametrize(
    "method, sparsity", golden_keys(GOLDEN_MASKS, r"(sup|clr)_([\d.]+)_sparsity_percent")
)
@pytest.mark.parametrize("folder, depth", GOLDEN_NETWORKS)
def test_global_masks_equal_the_golden_ones(folder, depth, method, sparsity):
    golden = np.load(folder / GOLDEN_MASKS)
    network = golden_classifier(folder, depth, method)
    masks = global_masks(scores_of(network), float(sparsity))
    prefix = f"{method}_{sparsity}/"
    assert [f"{prefix}{name}_mask" for name in masks] == [
        name for name in golden.files if name.startswith(prefix)
    ]
    for name, mask in masks.items():
        expected = np.unpackbits(golden[f"{prefix}{name}_mask"], count=mask.numel()).reshape(mask.shape)
        np.testing.assert_array_equal(mask.numpy(), expected, err_msg=name)
    apply_masks(network, masks)
    percent = golden[f"{method}_{sparsity}_sparsity_percent"].item()
    assert 100 * measure_sparsity(network)["weights_only"] == pytest.approx(percent, rel=1e-12)


@pytest.mark.parametrize("sparsity", golden_keys(GOLDEN_MASKS, r"sup_layerwise_(.*)_sparsity_percent"))
@pytest.mark.parametrize("folder, depth", GOLDEN_NETWORKS)
def test_layer_masks_give_the_golden_sparsity(folder, depth, sparsity):
    golden = np.load(folder / GOLDEN_MASKS)
    network = golden_classifier(folder, depth, "sup")
    apply_masks(network, layer_masks(scores_of(network), float(sparsity)))
    percent = golden[f"sup_layerwise_{sparsity}_sparsity_percent"].item()
    assert 100 * measure_sparsity(network)["weights_only"] == pytest.approx(percent, rel=1e-12)


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.3, 0.5, 0.77, 0.9, 0.95, 0.99, 1.0])
def test_equal_weights_are_pruned_in_the_asked_number_the_earlier_first(sparsity):
    scores = {"first": torch.ones(3, 5), "second": torch.ones(7), "third": torch.ones(2, 3, 2, 2)}
    masks = global_masks(scores, sparsity)
    pruned = round(sparsity * 46)
    flat = torch.cat([masks[name].flatten() for name in ("first", "second", "third")])
    assert flat.tolist() == [0] * pruned + [1] * (46 - pruned)
    for name, mask in layer_masks(scores, sparsity).items():
        size = scores[name].numel()
        assert mask.flatten().tolist() == [0] * round(sparsity * size) + [1] * (size - round(sparsity * size))


def test_among_scores_at_the_threshold_the_earlier_is_pruned_first():
    scores = {"a": torch.tensor([[3.0, 1, 2], [0.5, 2, 2]]), "b": torch.tensor([2.0, 0.1, 2, 4])}
    masks = global_masks(scores, 0.5)  # 0.1, 0.5, 1 and two of the five 2s
    assert masks["a"].tolist() == [[1, 0, 0], [0, 0, 1]]
    assert masks["b"].tolist() == [1, 0, 1, 1]
    masks = layer_masks(scores, 0.5)
    assert masks["a"].tolist() == [[1, 0, 0], [0, 1, 1]]
    assert masks["b"].tolist() == [0, 0, 1, 1]


def test_ties_in_a_large_tensor_are_pruned_in_order():
    # A sort that is not stable keeps the order of short inputs, and loses it in long ones.
    scores = {"a": torch.ones(300, 300), "b": torch.ones(30_000)}
    flat = torch.cat([mask.flatten() for mask in global_masks(scores, 0.6).values()])
    assert flat[:72_000].sum() == 0 and flat[72_000:].all()


@pytest.mark.parametrize("scope", [global_masks, layer_masks])
def test_sparsity_0_keeps_everything_and_masks_have_the_scores_shapes(scope):
    network = random_network(0)
    masks = scope(scores_of(network), 0.0)
    for name, parameter in prunable_parameters(network).items():
        assert torch.equal(masks[name], torch.ones_like(parameter))


@pytest.mark.parametrize("scope", [global_masks, layer_masks])
def test_masks_hold_only_0_and_1_and_neither_scores_nor_weights_change(scope):
    network = random_network(0)
    scores, state = scores_of(network), copy.deepcopy(network.state_dict())
    before = copy.deepcopy(scores)
    masks = scope(scores, 0.6)
    assert all(((mask == 0) | (mask == 1)).all() for mask in masks.values())
    assert all(torch.equal(scores[name], before[name]) for name in scores)
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())


def test_magnitude_is_the_absolute_value():
    assert magnitude(torch.tensor([-2.0, 0.0, 1.5])).tolist() == [2.0, 0.0, 1.5]


# What is pruned


def test_prunable_are_convolution_weights_linear_weights_and_linear_biases_in_order():
    network = random_network(3)
    expected = [f"{prefix}.{name}" for prefix, _, name in prunable_modules(network)]
    assert list(prunable_parameters(network)) == expected
    assert expected == ["0.weight", "3.0.weight", "6.weight", "6.bias", "8.weight", "8.bias"]
    parameters = dict(network.named_parameters())
    assert all(parameter is parameters[name] for name, parameter in prunable_parameters(network).items())


def test_a_bare_linear_layer_is_prunable_under_its_own_names():
    assert list(prunable_parameters(nn.Linear(3, 2))) == ["weight", "bias"]


def test_the_projection_head_is_not_part_of_a_contrastive_classifier():
    torch.manual_seed(0)
    encoder = ContrastiveEncoder(Architecture(16, 2))
    classifier = ContrastiveClassifier(encoder.encoder, ClassificationHead(128, 10))
    names = list(prunable_parameters(classifier))
    assert names[0] == "encoder.conv1.weight"
    assert names[-2:] == ["classification_head.fc.weight", "classification_head.fc.bias"]
    assert len(names) == 16 + 2
    projection = {id(parameter) for parameter in encoder.head.parameters()}
    assert projection.isdisjoint(id(parameter) for parameter in prunable_parameters(classifier).values())
    before = copy.deepcopy(encoder.head.state_dict())
    apply_masks(classifier, global_masks(scores_of(classifier), 0.95))
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.head.state_dict().items())


def test_batch_norm_is_left_alone():
    torch.manual_seed(0)
    network = SupervisedNetwork(Architecture(10, 2), 10)
    norms = {
        f"{prefix}.{name}": tensor.clone()
        for prefix, module in network.named_modules()
        if isinstance(module, nn.BatchNorm2d)
        for name, tensor in module.state_dict().items()
    }
    assert len(norms) == 7 * 5
    masks = global_masks(scores_of(network), 0.99)
    assert masks.keys().isdisjoint(norms)
    apply_masks(network, masks)
    state = network.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in norms.items())


# Staying zero


@pytest.mark.parametrize("scope", [global_masks, layer_masks])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.9},
        {"momentum": 0.9, "weight_decay": 5e-3},
        {"momentum": 0.9, "nesterov": True},
        {"momentum": 0.9, "nesterov": True, "weight_decay": 5e-3},
    ],
    ids=lambda options: "+".join(options) or "plain",
)
def test_masks_after_every_step_equal_torchs_pruning_hooks_step_by_step(options, scope):
    network = random_network(1)
    theirs = copy.deepcopy(network)
    masks = scope(scores_of(network), 0.7)
    for prefix, module, name in prunable_modules(theirs):
        prune.custom_from_mask(module, name, masks[f"{prefix}.{name}"])
    optimizer, their_optimizer = (
        torch.optim.SGD(model.parameters(), 0.05, **options) for model in (network, theirs)
    )
    apply_masks(network, masks)
    for step in range(6):
        images, labels = torch.randn(16, 3, 6, 6), torch.randint(0, 5, (16,))
        for model, its_optimizer in ((network, optimizer), (theirs, their_optimizer)):
            its_optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            its_optimizer.step()
        parameters = prunable_parameters(network)
        # The step moved pruned weights.
        assert any((parameters[name][mask == 0] != 0).any() for name, mask in masks.items())
        apply_masks(network, masks)
        for prefix, module, name in prunable_modules(theirs):
            ours = parameters[f"{prefix}.{name}"]
            assert (ours[masks[f"{prefix}.{name}"] == 0] == 0).all()
            effective = getattr(module, f"{name}_orig") * getattr(module, f"{name}_mask")
            torch.testing.assert_close(ours, effective, rtol=1e-6, atol=1e-7)
        their_state = theirs.state_dict()
        for name, tensor in network.state_dict().items():
            if name not in masks:  # batch norm
                torch.testing.assert_close(tensor, their_state[name], rtol=1e-6, atol=1e-7)


def test_applying_masks_keeps_the_others_and_the_parameter_itself():
    network = random_network(2)
    parameter, before = network[0].weight, copy.deepcopy(network.state_dict())
    apply_masks(network, {"0.weight": torch.zeros_like(parameter)})
    assert network[0].weight is parameter and parameter.requires_grad and not parameter.any()
    others = {name: tensor for name, tensor in network.state_dict().items() if name != "0.weight"}
    assert others and all(torch.equal(tensor, before[name]) for name, tensor in others.items())


def test_no_masks_change_nothing():
    network = random_network(2)
    before = copy.deepcopy(network.state_dict())
    apply_masks(network, {})
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_masking_gradients_zeroes_those_of_pruned_weights_and_leaves_weights_and_others_alone():
    layers = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2, bias=False))
    before = copy.deepcopy(layers.state_dict())
    layers[0].weight.grad = torch.tensor([[1.0, 2, 3], [4, 5, 6]])
    layers[0].bias.grad = torch.tensor([7.0, 8])
    layers[1].weight.grad = torch.tensor([[9.0, 10], [11, 12]])
    mask_gradients(layers, {})
    assert layers[0].bias.grad.tolist() == [7, 8]
    masks = {"0.weight": torch.tensor([[1.0, 0, 1], [0, 1, 0]]), "0.bias": torch.tensor([0.0, 1])}
    mask_gradients(layers, masks)
    assert layers[0].weight.grad.tolist() == [[1, 0, 3], [0, 5, 0]] and layers[0].bias.grad.tolist() == [0, 8]
    assert layers[1].weight.grad.tolist() == [[9, 10], [11, 12]]
    assert all(torch.equal(tensor, before[name]) for name, tensor in layers.state_dict().items())


# What masks and weights say of a network


def test_the_masks_of_a_network_keep_what_is_not_zero():
    layers = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 1, bias=False))
    layers[0].weight.data = torch.tensor([[0.5, 0, -1e-30], [0, -2, 3]])
    layers[0].bias.data = torch.tensor([0.0, -4])
    layers[2].weight.data = torch.tensor([[-0.0, 1]])
    masks = masks_of(layers)
    assert {name: mask.tolist() for name, mask in masks.items()} == {
        "0.weight": [[1, 0, 1], [0, 1, 1]],
        "0.bias": [0, 1],
        "2.weight": [[0, 1]],
    }
    assert all(mask.dtype == torch.float32 and not mask.requires_grad for mask in masks.values())


@pytest.mark.parametrize("scope", [global_masks, layer_masks])
def test_the_masks_of_a_pruned_network_are_those_that_pruned_it(scope):
    network = random_network(5)
    masks = scope(scores_of(network), 0.8)
    apply_masks(network, masks)
    found = masks_of(network)
    assert list(found) == list(masks) and all(torch.equal(found[name], mask) for name, mask in masks.items())


def test_weight_movement_is_that_of_kept_weights_relative_to_their_size():
    before = {
        "a": torch.tensor([0.03, 0.04, 1]),
        "b": torch.tensor([[1.0, 2], [2, 0]]),
        "nothing kept": torch.ones(2),
        "zero": torch.zeros(2),
    }
    after = {
        "a": torch.tensor([0.03, 0.05, 0]),
        "b": torch.tensor([[1.0, 2], [2, 0]]),
        "nothing kept": torch.zeros(2),
        "zero": torch.ones(2),
    }
    after = {name: nn.Parameter(weight) for name, weight in after.items()}
    masks = {
        "a": torch.tensor([1.0, 1, 0]),
        "b": torch.ones(2, 2),
        "nothing kept": torch.zeros(2),
        "zero": torch.ones(2),
    }
    assert weight_movement(before, after, masks) == {"a": pytest.approx(1 / 5, rel=1e-5), "b": 0.0}
    after["b"] = torch.tensor([[-1.0, 2], [2, 1]])  # moved by 2 and by 1
    assert weight_movement(before, after, masks)["b"] == pytest.approx(math.sqrt(5) / 3)


# Counting


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.95])
def test_measured_sparsity_equals_a_slow_count(sparsity):
    network = random_network(4)
    apply_masks(network, global_masks(scores_of(network), sparsity))
    network[6].bias.data.zero_()  # zeros that no mask made count as well
    zeros, sizes = {}, {}
    for prefix, module, name in prunable_modules(network):
        values = getattr(module, name).flatten().tolist()
        zeros[f"{prefix}.{name}"], sizes[f"{prefix}.{name}"] = values.count(0.0), len(values)
    weights = [name for name in zeros if not name.endswith("bias")]
    measured = measure_sparsity(network)
    assert measured["zeros"] == sum(zeros.values()) and measured["counted"] == sum(sizes.values())
    assert measured["total"] == sum(zeros.values()) / sum(sizes.values())
    assert measured["weights_only"] == sum(zeros[name] for name in weights) / sum(
        sizes[name] for name in weights
    )
    assert measured["weights_only"] != measured["total"]
    assert measured["per_tensor"] == {name: zeros[name] / sizes[name] for name in zeros}
