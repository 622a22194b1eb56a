"""The networks against golden forward values and against a forward pass written out from the parameters'
names."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import GOLDEN_NETWORKS
from torch import nn

from common.models import (
    ClassificationHead,
    ContrastiveClassifier,
    ContrastiveEncoder,
    SupervisedNetwork,
    WideResNet,
    channels,
    convolution_weights,
    spatial_means,
)
from common.settings import Architecture


def checkpoint(folder, pattern):
    (path,) = folder.glob(pattern)
    return torch.load(path, map_location="cpu")


def golden_supervised(folder, depth):
    network = SupervisedNetwork(Architecture(depth, 2), 10)
    network.load_state_dict(checkpoint(folder, "wideResNet_*.pt"))
    return network.eval()


def golden_contrastive(folder, depth):
    """The encoder with its projection head, and the classifier that shares the encoder."""
    encoder, head = ContrastiveEncoder(Architecture(depth, 2, 0.0)), ClassificationHead(128, 10)
    encoder.load_state_dict(checkpoint(folder, "WideResNet*_encoder_*.pt")["model"])
    head.load_state_dict(checkpoint(folder, "WideResNet*_head_*.pt")["head"])
    return encoder.eval(), ContrastiveClassifier(encoder.encoder, head).eval()


@torch.no_grad()
def assert_golden_forward(network, golden):
    images = torch.from_numpy(golden["input"])
    hidden = sorted(name for name in golden.files if name.startswith("hidden_"))
    places = network.representations(images)
    assert len(places) == len(hidden)
    latent = network.latent(images)
    pairs = [
        ("logits", network(images)),
        ("latent", latent),
        ("logits", network.classify(latent)),
        *zip(hidden, places.values()),
    ]
    for name, actual in pairs:
        np.testing.assert_allclose(actual.numpy(), golden[name], rtol=0, atol=1e-5, err_msg=name)


def random_network(depth, widen_factor, seed=0):
    """A network in eval mode, its batch norm far from the identity."""
    torch.manual_seed(seed)
    network = WideResNet(depth, widen_factor)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight.data, module.running_var):
                values.uniform_(0.5, 1.5)
            for values in (module.bias.data, module.running_mean):
                values.normal_(std=0.3)
    return network.eval()


@torch.no_grad()
def slow_forward(network, images):
    """(latent, {place: values before averaging over space}) from the state_dict alone, in float64."""
    state = {name: tensor.double() for name, tensor in network.state_dict().items()}

    def norm_relu(x, prefix):
        mean, var, weight, bias = (
            state[f"{prefix}.{name}"][:, None, None]
            for name in ("running_mean", "running_var", "weight", "bias")
        )
        return ((x - mean) / (var + 1e-5).sqrt() * weight + bias).clamp_min(0)

    x = F.conv2d(images.double(), state["conv1.weight"], padding=1)
    places = {"conv1": x}
    for group in (1, 2, 3):
        index = 0
        while f"block{group}.layer.{index}.conv1.weight" in state:
            block, stride = f"block{group}.layer.{index}", 2 if group > 1 and index == 0 else 1
            place = f"block{group}.{index}"
            inner = norm_relu(x, f"{block}.bn1")
            hidden = norm_relu(
                F.conv2d(inner, state[f"{block}.conv1.weight"], stride=stride, padding=1), f"{block}.bn2"
            )
            residual = F.conv2d(hidden, state[f"{block}.conv2.weight"], padding=1)
            places |= {f"{place}.relu2": hidden, f"{place}.conv2": residual}
            if f"{block}.convShortcut.weight" in state:
                x = residual + F.conv2d(inner, state[f"{block}.convShortcut.weight"], stride=stride)
            else:
                x = residual + x
                places[f"{place}.sum"] = x
            index += 1
    return norm_relu(x, "bn1").mean((2, 3)), places


@pytest.mark.parametrize("folder, depth", GOLDEN_NETWORKS)
def test_supervised_networks_of_the_published_parameters_give_the_golden_values(folder, depth):
    network = golden_supervised(folder, depth)
    assert_golden_forward(network, np.load(folder / "sup_forward.npz"))
    assert list(network.state_dict()) == list(checkpoint(folder, "wideResNet_*.pt"))


@pytest.mark.parametrize("folder, depth", GOLDEN_NETWORKS)
def test_contrastive_networks_of_the_published_parameters_give_the_golden_values(folder, depth):
    encoder, network = golden_contrastive(folder, depth)
    assert_golden_forward(network, np.load(folder / "clr_forward.npz"))
    golden = np.load(folder / "clr_forward.npz")
    with torch.no_grad():
        projection = F.normalize(encoder(torch.from_numpy(golden["input"])), dim=1)
    np.testing.assert_allclose(projection.numpy(), golden["projection"], rtol=0, atol=1e-5)
    assert list(encoder.state_dict()) == list(checkpoint(folder, "WideResNet*_encoder_*.pt")["model"])


PUBLISHED_PLACES = ["conv1"] + [
    f"block{group}.{place}"
    for group in (1, 2, 3)
    for place in ("0.relu2", "0.conv2", "1.relu2", "1.conv2", "1.sum")
]


@pytest.mark.parametrize("depth, widen_factor", [(10, 1), (16, 2), (22, 4)])
def test_latent_and_representations_are_those_written_out_by_hand(depth, widen_factor):
    network, images = random_network(depth, widen_factor), torch.randn(3, 3, 9, 13)
    latent, places = slow_forward(network, images)
    with torch.no_grad():
        actual = {"latent": network(images), **spatial_means(network, images)}
    expected = {"latent": latent, **{name: place.mean((2, 3)) for name, place in places.items()}}
    assert list(actual) == list(expected) and latent.shape == (3, 64 * widen_factor)
    for name, values in actual.items():
        scale = max(1.0, places[name].abs().max().item()) if name in places else 1
        torch.testing.assert_close(values.double(), expected[name], rtol=0, atol=1e-5 * scale, msg=name)
    assert (depth, widen_factor) != (16, 2) or list(places) == PUBLISHED_PLACES


def weights_of_convolutions(network):
    return sum(module.weight.numel() for module in network.modules() if isinstance(module, nn.Conv2d))


@pytest.mark.parametrize("depth, widen_factor, sparsity", [(10, 1, 0.0), (16, 2, 0.3), (28, 4, 0.99)])
def test_narrower_networks_have_the_weights_that_pruning_would_leave(depth, widen_factor, sparsity):
    full, narrow = WideResNet(depth, widen_factor), WideResNet(depth, widen_factor, match_sparsity=sparsity)
    widths = channels(depth, widen_factor, sparsity)
    weights, left = weights_of_convolutions(narrow), (1 - sparsity) * weights_of_convolutions(full)
    assert weights == convolution_weights(depth, widths) and abs(weights - left) < 0.06 * left
    for step in (-1, 1):  # one channel more or fewer in all: no closer
        other = tuple(max(1, width + step) for width in widths)
        assert abs(weights - left) <= abs(convolution_weights(depth, other) - left)
    assert narrow(torch.randn(2, 3, 8, 8)).shape == (2, widths[3]) and narrow.latent_size == widths[3]


def test_parameter_counts_are_the_published_ones():
    # The encoder's is with its projection head: two linear layers of 128 x 128 + 128.
    networks = SupervisedNetwork(Architecture(16, 2), 10), ContrastiveEncoder(Architecture(16, 2))
    counts = [sum(map(torch.numel, network.parameters())) for network in networks]
    assert counts == [691_674, 723_408]


def test_weights_start_as_published():
    torch.manual_seed(0)
    network = SupervisedNetwork(Architecture(16, 2), 10)
    assert (network.base.fc.bias == 0).all()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all() and (module.bias == 0).all()
        elif isinstance(module, nn.Conv2d):  # Kaiming normal by fan-out
            weight = module.weight.detach().double()
            expected = math.sqrt(2 / (weight.shape[0] * weight.shape[2] * weight.shape[3]))
            assert abs(weight.std() / expected - 1) < 5 / math.sqrt(2 * weight.numel())
            assert abs(weight.mean() / expected) < 5 / math.sqrt(weight.numel())
            assert weight.abs().max() > 2.2 * expected  # normal, not uniform: a uniform one ends at 1.73


def test_a_linear_projection_head_is_one_layer():
    head = ContrastiveEncoder(Architecture(10, 1, 0.0, "linear")).head
    assert isinstance(head, nn.Linear) and head.weight.shape == (128, 64)


@pytest.mark.parametrize("depth", [-2, 4, 11, 13])
def test_a_depth_that_no_network_has_is_refused(depth):
    with pytest.raises(ValueError, match="depth"):
        WideResNet(depth, 2)


def test_dropout_acts_before_the_second_convolution_in_train_mode_only():
    torch.manual_seed(0)
    network, images, given = WideResNet(10, 2, dropout=0.3), torch.randn(8, 3, 16, 16), {}
    block = network.block1.layer[0]
    for name in ("conv1", "bn2", "conv2"):
        getattr(block, name).register_forward_pre_hook(
            lambda _, inputs, name=name: given.setdefault(name, []).append(inputs[0])
        )
    network.train()(images)
    before = F.relu(F.batch_norm(given["bn2"][0], None, None, training=True))
    after = given["conv2"][0]
    assert abs((after == 0)[before > 0].double().mean().item() - 0.3) < 0.02
    torch.testing.assert_close(after[after > 0], before[after > 0] / 0.7)
    network.eval()(images)
    assert torch.equal(given["conv2"][1], F.relu(block.bn2(given["bn2"][1])))
