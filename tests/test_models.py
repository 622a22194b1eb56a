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
    probe_places,
)


def checkpoint(folder, pattern):
    (path,) = folder.glob(pattern)
    return torch.load(path, map_location="cpu")


def golden_supervised(folder, depth):
    network = SupervisedNetwork(depth, 2, 0.0, 10)
    network.load_state_dict(checkpoint(folder, "wideResNet_*.pt"))
    return network.eval()


def golden_contrastive(folder, depth):
    """The encoder with its projection head, and the classifier that shares the encoder."""
    encoder, head = ContrastiveEncoder(depth, 2, 0.0, "mlp"), ClassificationHead(128, 10)
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
def test_the_supervised_network_gives_the_golden_values(folder, depth):
    assert_golden_forward(golden_supervised(folder, depth), np.load(folder / "sup_forward.npz"))


@pytest.mark.parametrize("folder, depth", GOLDEN_NETWORKS)
def test_the_contrastive_classifier_gives_the_golden_values(folder, depth):
    assert_golden_forward(golden_contrastive(folder, depth)[1], np.load(folder / "clr_forward.npz"))


@pytest.mark.parametrize("folder, depth", GOLDEN_NETWORKS)
def test_the_contrastive_encoder_gives_the_golden_projections(folder, depth):
    golden = np.load(folder / "clr_forward.npz")
    with torch.no_grad():
        projection = golden_contrastive(folder, depth)[0](torch.from_numpy(golden["input"]))
    np.testing.assert_allclose(projection.numpy(), golden["projection"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(projection.norm(dim=1).numpy(), 1, rtol=1e-6)


@pytest.mark.parametrize("folder, depth", GOLDEN_NETWORKS)
def test_parameters_have_the_published_names_shapes_and_order(folder, depth):
    pairs = [
        (SupervisedNetwork(depth, 2, 0.0, 10), checkpoint(folder, "wideResNet_*.pt")),
        (ContrastiveEncoder(depth, 2, 0.0, "mlp"), checkpoint(folder, "WideResNet*_encoder_*.pt")["model"]),
        (ClassificationHead(128, 10), checkpoint(folder, "WideResNet*_head_*.pt")["head"]),
    ]
    for network, published in pairs:
        shapes = [(name, tuple(tensor.shape)) for name, tensor in network.state_dict().items()]
        assert shapes == [(name, tuple(tensor.shape)) for name, tensor in published.items()]


@pytest.mark.parametrize(
    "depth, widen_factor, places",
    [
        # The 16 published ones.
        (
            *(16, 2),
            "conv1 block1.0.relu2 block1.0.conv2 block1.1.relu2 block1.1.conv2 block1.1.sum "
            "block2.0.relu2 block2.0.conv2 block2.1.relu2 block2.1.conv2 block2.1.sum "
            "block3.0.relu2 block3.0.conv2 block3.1.relu2 block3.1.conv2 block3.1.sum",
        ),
        (
            *(10, 2),
            "conv1 block1.0.relu2 block1.0.conv2 block2.0.relu2 block2.0.conv2 block3.0.relu2 block3.0.conv2",
        ),
        # At widen factor 1 the first block keeps its width, and so has a sum.
        (
            *(10, 1),
            "conv1 block1.0.relu2 block1.0.conv2 block1.0.sum block2.0.relu2 block2.0.conv2 block3.0.relu2 "
            "block3.0.conv2",
        ),
    ],
)
def test_the_probe_places_are_the_published_ones(depth, widen_factor, places):
    assert probe_places(depth, channels(depth, widen_factor)) == places.split()


def weights_of_convolutions(network):
    return sum(module.weight.numel() for module in network.modules() if isinstance(module, nn.Conv2d))


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("depth, widen_factor", [(10, 1), (16, 1), (10, 2), (16, 2), (28, 4)])
def test_narrower_networks_have_the_weights_that_pruning_would_leave(depth, widen_factor, sparsity):
    full, narrow = WideResNet(depth, widen_factor), WideResNet(depth, widen_factor, match_sparsity=sparsity)
    widths = channels(depth, widen_factor, sparsity)
    weights = weights_of_convolutions(narrow)
    assert weights == convolution_weights(depth, widths)
    left = (1 - sparsity) * weights_of_convolutions(full)
    assert abs(weights - left) < 0.06 * left
    for other in (
        channels(depth, widen_factor),
        *(  # one channel more or fewer in all: no closer
            tuple(width + step for width in widths) for step in (-1, 1) if min(widths) + step
        ),
    ):
        assert abs(weights - left) <= abs(convolution_weights(depth, other) - left)
    assert narrow.latent_size == widths[3] and len(narrow.places) == len(full.places)
    assert narrow(torch.randn(2, 3, 8, 8)).shape == (2, widths[3])
    assert (widths == (16, *(16 * widen_factor * 2**group for group in range(3)))) == (sparsity == 0)


@pytest.mark.parametrize("widen_factor", [1, 2, 4])
@pytest.mark.parametrize("depth", [10, 16, 22, 28])
def test_representations_are_the_named_places_averaged_over_space(depth, widen_factor):
    network = random_network(depth, widen_factor)
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        representations = network.representations(images)
    expected = slow_forward(network, images)[1]
    assert list(expected) == probe_places(depth, channels(depth, widen_factor))
    for (own_name, values), (name, place) in zip(representations.items(), expected.items(), strict=True):
        assert own_name == name
        scale = max(1.0, place.abs().max().item())
        torch.testing.assert_close(values.double(), place.mean((2, 3)), rtol=0, atol=1e-5 * scale, msg=name)


@pytest.mark.parametrize("size", [(8, 8), (9, 9), (12, 20), (32, 32)])
@pytest.mark.parametrize("widen_factor", [1, 2])
def test_images_of_any_size_from_8_pixels_give_the_latent_written_out_by_hand(widen_factor, size):
    network = random_network(10, widen_factor)
    images = torch.randn(3, 3, *size)
    expected = slow_forward(network, images)[0]
    with torch.no_grad():
        latent = network(images)
    assert latent.shape == (3, 64 * widen_factor)
    torch.testing.assert_close(latent.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(8, 8), (9, 9), (12, 20), (32, 32)])
def test_networks_of_both_methods_classify_images_of_any_size(size):
    torch.manual_seed(0)
    images = torch.randn(2, 3, *size)
    contrastive = ContrastiveClassifier(WideResNet(10, 2), ClassificationHead(128, 7))
    for network in (SupervisedNetwork(10, 2, 0.0, 7), contrastive):
        logits = network(images)
        assert logits.shape == (2, 7) and logits.isfinite().all()


@pytest.mark.parametrize("network", ["supervised", "contrastive"])
def test_logits_are_the_classification_of_the_latent(network):
    torch.manual_seed(0)
    if network == "supervised":
        network = SupervisedNetwork(10, 1, 0.0, 5).eval()
        linear = network.base.fc
    else:
        network = ContrastiveClassifier(WideResNet(10, 1), ClassificationHead(64, 5)).eval()
        linear = network.classification_head.fc
    nn.init.normal_(linear.bias)
    images = torch.randn(2, 3, 8, 8)
    latent = network.latent(images)
    assert torch.equal(network(images), network.classify(latent))
    torch.testing.assert_close(network(images), latent @ linear.weight.T + linear.bias)


def test_parameter_counts_are_the_published_ones():
    supervised, contrastive = SupervisedNetwork(16, 2, 0.0, 10), ContrastiveEncoder(16, 2, 0.0, "mlp")
    assert sum(parameter.numel() for parameter in supervised.parameters()) == 691_674
    # The published figure of the encoder is with its projection head: two linear layers of 128 x 128 + 128.
    assert sum(parameter.numel() for parameter in contrastive.parameters()) == 723_408
    assert sum(parameter.numel() for parameter in contrastive.head.parameters()) == 33_024
    encoder = sum(parameter.numel() for parameter in contrastive.encoder.parameters())
    assert encoder == 690_384 == 691_674 - 1290


def test_batch_norm_starts_at_1_and_0_and_the_classifier_bias_at_0():
    for network in (SupervisedNetwork(16, 2, 0.0, 10), ContrastiveEncoder(16, 2, 0.0, "mlp")):
        norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
        assert len(norms) == 13
        assert all((norm.weight == 1).all() and (norm.bias == 0).all() for norm in norms)
    assert (SupervisedNetwork(10, 2, 0.0, 10).base.fc.bias == 0).all()


def test_convolutions_start_kaiming_normal_by_fan_out():
    torch.manual_seed(0)
    convolutions = [module for module in WideResNet(16, 2).modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == 16
    for convolution in convolutions:
        weight = convolution.weight.detach().double()
        expected = math.sqrt(2 / (weight.shape[0] * weight.shape[2] * weight.shape[3]))
        assert abs(weight.std() / expected - 1) < 5 / math.sqrt(2 * weight.numel())
        assert abs(weight.mean() / expected) < 5 / math.sqrt(weight.numel())
        assert weight.abs().max() > 2.2 * expected  # normal, not uniform: a uniform one ends at 1.73


@pytest.mark.parametrize(
    "make, with_bias",
    [
        (lambda: SupervisedNetwork(10, 2, 0.0, 100).base.fc, False),
        (lambda: ClassificationHead(128, 100).fc, True),
        (lambda: ContrastiveEncoder(10, 2, 0.0, "mlp").head[0], True),
        (lambda: ContrastiveEncoder(10, 2, 0.0, "mlp").head[2], True),
        (lambda: ContrastiveEncoder(10, 2, 0.0, "linear").head, True),
    ],
)
def test_linear_layers_start_as_torchs_default(make, with_bias):
    torch.manual_seed(0)
    linear = make()
    bound = 1 / math.sqrt(linear.in_features)
    for values in [linear.weight] + [linear.bias] * with_bias:
        assert 0.9 * bound < values.abs().max() <= bound
        assert abs(values.double().std() / (bound / math.sqrt(3)) - 1) < 3 / math.sqrt(values.numel())


@pytest.mark.parametrize("widen_factor", [1, 2])
@pytest.mark.parametrize("kind", ["mlp", "linear"])
def test_the_projection_head_maps_the_latent_to_128_numbers_of_unit_norm(kind, widen_factor):
    torch.manual_seed(0)
    network = ContrastiveEncoder(10, widen_factor, 0.0, kind).eval()
    images = torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        x = network.encoder(images)
        state = network.head.state_dict()
        if kind == "linear":
            assert list(state) == ["weight", "bias"]
            x = x @ state["weight"].T + state["bias"]
        else:
            assert list(state) == ["0.weight", "0.bias", "2.weight", "2.bias"]
            hidden = (x @ state["0.weight"].T + state["0.bias"]).clamp_min(0)
            x = hidden @ state["2.weight"].T + state["2.bias"]
        projections = network(images)
    assert projections.shape == (3, 128)
    torch.testing.assert_close(projections, x / x.pow(2).sum(1, keepdim=True).sqrt())


@pytest.mark.parametrize("depth", [-2, 0, 4, 9, 11, 15, 17, 18])
def test_a_depth_that_is_not_6_n_plus_4_is_refused(depth):
    with pytest.raises(ValueError, match="depth"):
        WideResNet(depth, 2)


@pytest.mark.parametrize("depth", [10, 16, 22, 28, 34, 40])
def test_a_depth_counts_the_convolutions_with_those_of_the_shortcuts(depth):
    assert sum(isinstance(module, nn.Conv2d) for module in WideResNet(depth, 2).modules()) == depth


def test_dropout_acts_before_the_second_convolution_in_train_mode_only():
    torch.manual_seed(0)
    network = WideResNet(10, 2, dropout=0.3)
    # Of each block's two batch norms.
    seen = {(norm, what): [] for norm in (1, 2) for what in ("before", "after")}
    for group in (network.block1, network.block2, network.block3):
        (block,) = group.layer
        for index, norm, convolution in ((1, block.bn1, block.conv1), (2, block.bn2, block.conv2)):
            norm.register_forward_hook(
                lambda module, inputs, output, index=index: seen[index, "before"].append(F.relu(output))
            )
            convolution.register_forward_pre_hook(
                lambda module, inputs, index=index: seen[index, "after"].append(inputs[0])
            )
    images = torch.randn(8, 3, 16, 16)
    network.train()
    network(images)
    network.eval()
    network(images)
    assert [len(values) for values in seen.values()] == [6] * 4
    for before, after in zip(seen[2, "before"][:3], seen[2, "after"][:3]):
        dropped = (after == 0)[before > 0].double().mean().item()
        assert abs(dropped - 0.3) < 0.02
        torch.testing.assert_close(after[after > 0], before[after > 0] / 0.7)
    without = zip(
        seen[1, "before"] + seen[2, "before"][3:], seen[1, "after"] + seen[2, "after"][3:], strict=True
    )
    assert all(torch.equal(before, after) for before, after in without)


def test_a_network_with_dropout_is_random_in_train_mode_and_the_plain_network_in_eval_mode():
    torch.manual_seed(0)
    network, plain = SupervisedNetwork(10, 1, 0.5, 10), SupervisedNetwork(10, 1, 0.0, 10)
    plain.load_state_dict(network.state_dict())
    images = torch.randn(4, 3, 8, 8)
    assert not torch.equal(network.train()(images), network(images))
    assert torch.equal(plain.train()(images), plain(images))
    network.load_state_dict(plain.state_dict())
    assert torch.equal(network.eval()(images), plain.eval()(images))
