"""The contrastive losses against a double loop over anchors and positives, and against golden values."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import GOLDEN, golden_keys

from common.losses import chance_contrastive_loss, contrastive_loss

LABELS = torch.tensor([0, 2, 1, 0, 0, 3, 1])  # 2 and 3 are seen once


def random_features(images, views, size=16, seed=0):
    values = torch.randn(
        images, views, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    return F.normalize(values, dim=-1)


def slow_loss(features, labels, temperature, base_temperature=0.07):
    """Khosla et al. 2020, eq. 2, anchor by anchor and positive by positive, in float64."""
    features = features.double()
    anchors = [(image, view) for image in range(features.shape[0]) for view in range(features.shape[1])]
    total = torch.zeros((), dtype=torch.float64)
    for anchor in anchors:
        others = [other for other in anchors if other != anchor]
        similarity = {other: (features[anchor] * features[other]).sum() / temperature for other in others}
        denominator = sum(value.exp() for value in similarity.values())
        if labels is None:
            positives = [other for other in others if other[0] == anchor[0]]
        else:
            positives = [other for other in others if labels[other[0]] == labels[anchor[0]]]
        of_anchor = torch.zeros((), dtype=torch.float64)
        for positive in positives:
            of_anchor = of_anchor - (similarity[positive].exp() / denominator).log() / len(positives)
        total = total + temperature / base_temperature * of_anchor
    return total / len(anchors)


@pytest.mark.parametrize("labels", [LABELS, None], ids=["SupCon", "SimCLR"])
@pytest.mark.parametrize("views", [1, 2, 3])
@pytest.mark.parametrize("temperature", [0.07, 0.1, 0.5, 1.0])
def test_loss_and_gradient_equal_the_double_loop(temperature, views, labels):
    features = random_features(len(LABELS), views)
    fast, slow = features.float().requires_grad_(), features.clone().requires_grad_()
    loss, expected = contrastive_loss(fast, labels, temperature), slow_loss(slow, labels, temperature)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    loss.backward()
    if expected.requires_grad:  # no anchor has a positive: SimCLR with one view
        expected.backward()
    gradient = torch.zeros_like(features) if slow.grad is None else slow.grad
    torch.testing.assert_close(fast.grad.double(), gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("base_temperature", [0.07, 0.5, 2.0])
def test_loss_is_scaled_by_temperature_over_base_temperature(base_temperature):
    features = random_features(len(LABELS), 2)
    loss = contrastive_loss(features, LABELS, 0.5, base_temperature)
    torch.testing.assert_close(
        loss.double(), slow_loss(features, LABELS, 0.5, base_temperature), rtol=1e-5, atol=0
    )


def test_two_images_at_a_right_angle_give_the_loss_by_hand():
    features = torch.tensor([[[1.0, 0], [1, 0]], [[0, 1], [0, 1]]])
    # Every anchor sees its other view at similarity 1 and two views at 0.
    expected = 0.5 / 0.07 * math.log((math.exp(2) + 2) / math.exp(2))
    assert contrastive_loss(features, None, 0.5).item() == pytest.approx(expected, rel=1e-6)
    assert contrastive_loss(features, torch.tensor([4, 9]), 0.5).item() == pytest.approx(expected, rel=1e-6)
    # With one class for both images, one positive of three is at similarity 1.
    expected = 0.5 / 0.07 * (math.log(math.exp(2) + 2) - 2 / 3)
    assert contrastive_loss(features, torch.tensor([4, 4]), 0.5).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("method, temperature", golden_keys("losses.npz", r"(supcon|simclr)_T(.*)"))
def test_loss_equals_the_golden_value(method, temperature):
    golden = np.load(GOLDEN / "losses.npz")
    labels = torch.from_numpy(golden["labels"]) if method == "supcon" else None
    loss = contrastive_loss(torch.from_numpy(golden["features"]), labels, float(temperature))
    assert loss.item() == pytest.approx(golden[f"{method}_T{temperature}"].item(), rel=1e-6)


def test_supcon_of_golden_features_of_distinct_classes_is_finite_and_equals_simclr():
    features = torch.from_numpy(np.load(GOLDEN / "losses.npz")["features_unique"]).requires_grad_()
    loss = contrastive_loss(features, torch.arange(len(features)), 0.5)
    loss.backward()
    assert loss.isfinite() and features.grad.isfinite().all()
    assert loss.item() == contrastive_loss(features, None, 0.5).item()
    assert loss.item() == pytest.approx(slow_loss(features, None, 0.5).item(), rel=1e-5)


def test_a_class_seen_once_with_one_view_contributes_0_and_no_nan():
    features = random_features(3, 1).float().requires_grad_()
    labels = torch.tensor([5, 5, 6])
    loss = contrastive_loss(features, labels, 0.5)
    loss.backward()
    assert features.grad.isfinite().all()
    # The mean is over all three anchors, and the third adds nothing.
    similarity = (features @ features.transpose(1, 2)[..., 0].T).squeeze(1).double() / 0.5
    with_positives = [
        -(similarity[i, j] - torch.logsumexp(similarity[i, [j, 2]], 0)) for i, j in ((0, 1), (1, 0))
    ]
    assert loss.item() == pytest.approx(0.5 / 0.07 * sum(with_positives).item() / 3, rel=1e-5)


def test_the_loss_is_0_with_gradient_0_where_no_anchor_has_a_positive():
    features = random_features(4, 1).float().requires_grad_()
    loss = contrastive_loss(features, torch.arange(4), 0.5)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(features.grad, torch.zeros_like(features))


def test_a_temperature_at_which_exponentials_overflow_gives_a_finite_loss():
    features = random_features(6, 2).float()
    assert contrastive_loss(features, None, 0.001).isfinite()


@pytest.mark.parametrize("labels", [LABELS, None], ids=["SupCon", "SimCLR"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_features_of_any_precision_are_computed_in_float32(dtype, labels):
    features = random_features(len(LABELS), 2, 128).to(dtype)
    loss = contrastive_loss(features, labels, 0.1)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, contrastive_loss(features.float(), labels, 0.1))
    assert loss.item() == pytest.approx(slow_loss(features, labels, 0.1).item(), rel=1e-5)


def test_the_gradient_has_the_precision_of_the_features():
    features = random_features(len(LABELS), 2, 128).bfloat16().requires_grad_()
    contrastive_loss(features, LABELS, 0.1).backward()
    assert features.grad.dtype == torch.bfloat16 and features.grad.isfinite().all() and features.grad.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_autocast_does_not_lower_the_precision(dtype):
    features = random_features(len(LABELS), 2, 128).to(dtype)
    expected = contrastive_loss(features, LABELS, 0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (features.float() @ features.float()[0].T).dtype == torch.bfloat16  # autocast is on
        loss = contrastive_loss(features, LABELS, 0.1)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)


@pytest.mark.parametrize("scale", [2.0, 1.1, 0.9, 0.0, math.nan])
def test_features_that_are_not_normalised_are_refused(scale):
    features = random_features(4, 2).float()
    features[3, 1] *= scale  # one view is enough
    with pytest.raises(ValueError, match="unit L2 norm"):
        contrastive_loss(features, None, 0.5)


def test_the_check_of_the_norm_can_be_left_out():
    features = 2 * random_features(4, 2)
    loss = contrastive_loss(features, None, 0.5, check_norm=False)
    assert loss.item() == pytest.approx(slow_loss(features, None, 0.5).item(), rel=1e-5)


@pytest.mark.parametrize("shape", [(8, 16), (4, 2, 16, 1), (16,)])
def test_features_of_a_wrong_shape_are_refused(shape):
    with pytest.raises(ValueError, match="shape"):
        contrastive_loss(F.normalize(torch.ones(shape), dim=-1), None, 0.5)


@pytest.mark.parametrize("shape", [(1, 1, 16), (0, 2, 16)])
def test_fewer_than_two_views_are_refused(shape):
    with pytest.raises(ValueError, match="at least 2 views"):
        contrastive_loss(F.normalize(torch.ones(shape), dim=-1), None, 0.5)


@pytest.mark.parametrize("shape", [(3,), (8,), (4, 1), (4, 2), ()])
def test_labels_of_a_wrong_shape_are_refused(shape):
    with pytest.raises(ValueError, match="labels"):
        contrastive_loss(random_features(4, 2), torch.zeros(shape, dtype=torch.long), 0.5)


@pytest.mark.parametrize("labels", [LABELS, None], ids=["SupCon", "SimCLR"])
@pytest.mark.parametrize("temperature, base_temperature", [(0.5, 0.07), (0.1, 0.07), (0.5, 0.5)])
def test_the_chance_value_is_the_loss_of_features_that_are_all_alike(temperature, base_temperature, labels):
    features = random_features(1, 1).expand(len(LABELS), 2, 16)
    loss = contrastive_loss(features, labels, temperature, base_temperature)
    assert chance_contrastive_loss(2 * len(LABELS), temperature, base_temperature) == pytest.approx(
        loss.item(), rel=1e-6
    )
