"""Masks against a stable sort and golden masks; what they do to a network, and what is counted."""

import copy

import numpy as np
import pytest
import torch
from conftest import GOLDEN_NETWORKS, golden_keys
from torch import nn

from common.criteria import magnitude
from common.models import ClassificationHead, ContrastiveClassifier, ContrastiveEncoder, SupervisedNetwork
from common.pruning import (
    apply_masks,
    global_masks,
    layer_masks,
    layer_name,
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
@pytest.mark.parametrize("sparsity", [0.0, 0.77, 1.0])
def test_masks_prune_the_asked_number_of_lowest_scores_the_earlier_first(sparsity, with_ties):
    network = random_network(0, with_ties)
    scores = scores_of(network) | {"large": torch.ones(300, 300)}  # where an unstable sort loses the order
    before = copy.deepcopy(scores)
    for groups, masks in (
        ([[*scores]], global_masks(scores, sparsity)),
        ([[name] for name in scores], layer_masks(scores, sparsity)),
    ):
        for names in groups:
            flat = torch.cat([scores[name].flatten() for name in names])
            expected = np.ones(len(flat), np.float32)
            expected[np.argsort(flat.numpy(), kind="stable")[: round(sparsity * len(flat))]] = 0
            found = torch.cat([masks[name].flatten() for name in names])
            np.testing.assert_array_equal(found, expected)
        assert all(mask.shape == scores[name].shape for name, mask in masks.items())
    assert all(torch.equal(scores[name], before[name]) for name in scores)


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


# What is pruned


def test_prunable_are_convolution_weights_linear_weights_and_linear_biases_in_order():
    network = random_network(3)
    expected = [f"{prefix}.{name}" for prefix, _, name in prunable_modules(network)]
    assert list(prunable_parameters(network)) == expected
    assert expected == ["0.weight", "3.0.weight", "6.weight", "6.bias", "8.weight", "8.bias"]


def test_methods_share_the_names_of_their_layers_and_the_projection_head_is_none():
    supervised, encoder = SupervisedNetwork(Architecture(10, 1), 5), ContrastiveEncoder(Architecture(10, 1))
    contrastive = ContrastiveClassifier(encoder.encoder, ClassificationHead(64, 5))
    names = [[layer_name(name) for name in prunable_parameters(each)] for each in (supervised, contrastive)]
    assert names[0] == names[1] and len(names[0]) == 11
    assert names[0][1] == "block1.layer.0.conv1.weight" and names[0][-1] == "fc.bias"


def test_applying_masks_changes_nothing_but_what_they_prune():
    network = random_network(2)
    parameter, before = network[0].weight, copy.deepcopy(network.state_dict())
    apply_masks(network, {})
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    masks = global_masks(scores_of(network), 0.8)
    apply_masks(network, masks)
    assert network[0].weight is parameter and parameter.requires_grad
    for name, tensor in network.state_dict().items():  # batch norm too
        assert torch.equal(tensor, before[name] * masks.get(name, 1))
    assert all(torch.equal(mask, masks[name]) for name, mask in masks_of(network).items())


def test_masking_gradients_zeroes_those_of_pruned_weights_alone():
    layer = nn.Linear(3, 2)
    before = copy.deepcopy(layer.state_dict())
    layer.weight.grad, layer.bias.grad = torch.tensor([[1.0, 2, 3], [4, 5, 6]]), torch.tensor([7.0, 8])
    mask_gradients(layer, {})
    assert layer.bias.grad.tolist() == [7, 8]
    mask_gradients(layer, {"weight": torch.tensor([[1.0, 0, 1], [0, 1, 0]])})
    assert layer.weight.grad.tolist() == [[1, 0, 3], [0, 5, 0]] and layer.bias.grad.tolist() == [7, 8]
    assert all(torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())


# What masks and weights say of a network


def test_the_masks_of_a_network_keep_what_is_not_zero():
    layers = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    layers[0].weight.data = torch.tensor([[0.5, 0, -1e-30], [-0.0, -2, 3]])
    layers[0].bias.data = torch.tensor([0.0, -4])
    masks = {name: mask.tolist() for name, mask in masks_of(layers).items()}
    assert masks == {"0.weight": [[1, 0, 1], [0, 1, 1]], "0.bias": [0, 1]}


def test_weight_movement_is_that_of_kept_weights_relative_to_their_size():
    cases = {  # before, after, mask, movement
        "pruned": ([0.03, 0.04, 1], [0.03, 0.05, 0], [1, 1, 0], 1 / 5),
        "moved": ([1, 2, 2, 0], [-1, 2, 2, 1], [1, 1, 1, 1], 5**0.5 / 3),
        "nothing kept": ([1, 1], [0, 0], [0, 0], None),
        "zero": ([0, 0], [1, 1], [1, 1], None),
    }
    before, after, masks = (
        {name: torch.tensor(case[place], dtype=torch.float32) for name, case in cases.items()}
        for place in range(3)
    )
    expected = {name: pytest.approx(case[3]) for name, case in cases.items() if case[3] is not None}
    assert weight_movement(before, after, masks) == expected


# Counting


def test_measured_sparsity_equals_a_slow_count():
    network = random_network(4)
    apply_masks(network, global_masks(scores_of(network), 0.3))
    network[6].bias.data.zero_()  # zeros that no mask made count as well
    zeros, sizes = {}, {}
    for prefix, module, name in prunable_modules(network):
        values = getattr(module, name).flatten().tolist()
        zeros[f"{prefix}.{name}"], sizes[f"{prefix}.{name}"] = values.count(0.0), len(values)
    weights = [name for name in zeros if not name.endswith("bias")]
    assert measure_sparsity(network) == {
        "zeros": sum(zeros.values()),
        "counted": sum(sizes.values()),
        "total": sum(zeros.values()) / sum(sizes.values()),
        "weights_only": sum(zeros[name] for name in weights) / sum(sizes[name] for name in weights),
        "per_tensor": {name: zeros[name] / sizes[name] for name in zeros},
    }
