"""The contrastive losses against a double loop over anchors and positives, and against golden values."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import GOLDEN, golden_keys

from common.losses import chance_contrastive_loss, contrastive_loss

LABELS = torch.tensor([0, 2, 1, 0, 0, 3, 1])  # 2 and 3 are seen once


def random_features(images, views, size=16):
    values = torch.randn(images, views, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return F.normalize(values, dim=-1)


def slow_loss(features, labels, temperature, base_temperature=0.07):
    """Khosla et al. 2020, eq. 2, anchor by anchor and positive by positive, in float64."""
    features = F.normalize(features.double(), dim=-1)
    anchors = [(image, view) for image in range(features.shape[0]) for view in range(features.shape[1])]
    labels = range(len(features)) if labels is None else labels.tolist()
    total = 0 * features.sum()
    for anchor in anchors:
        others = [other for other in anchors if other != anchor]
        logits = {other: features[anchor] @ features[other] / temperature for other in others}
        denominator = torch.stack([*logits.values()]).logsumexp(0)
        positives = [other for other in others if labels[other[0]] == labels[anchor[0]]]
        for positive in positives:
            total = total - (logits[positive] - denominator) / len(positives)
    return temperature / base_temperature * total / len(anchors)


@pytest.mark.parametrize("labels", [LABELS, None], ids=["SupCon", "SimCLR"])
@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("temperature, base", [(0.001, 0.07), (0.5, 0.07)])
def test_loss_and_gradient_equal_the_double_loop(temperature, base, views, labels):
    features = random_features(len(LABELS), views)
    fast, slow = features.float().requires_grad_(), features.clone().requires_grad_()
    loss, expected = (
        contrastive_loss(fast, labels, temperature, base),
        slow_loss(slow, labels, temperature, base),
    )
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    loss.backward(), expected.backward()
    torch.testing.assert_close(fast.grad.double(), slow.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method, temperature", golden_keys("losses.npz", r"(supcon|simclr)_T(.*)"))
def test_loss_equals_the_golden_value(method, temperature):
    golden = np.load(GOLDEN / "losses.npz")
    labels = torch.from_numpy(golden["labels"]) if method == "supcon" else None
    loss = contrastive_loss(torch.from_numpy(golden["features"]), labels, float(temperature))
    assert loss.item() == pytest.approx(golden[f"{method}_T{temperature}"].item(), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_features_of_any_precision_are_computed_in_float32(dtype):
    features = random_features(len(LABELS), 2, 128).to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = contrastive_loss(features, LABELS, 0.1)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, contrastive_loss(features.float(), LABELS, 0.1))
    loss.backward()
    assert features.grad.dtype == dtype and features.grad.isfinite().all()


UNIT = random_features(4, 2).float()


@pytest.mark.parametrize(
    "features, labels, words",
    [
        (UNIT[:, 0], None, "shape"),
        (UNIT[:1, :1], None, "2 views"),
        (UNIT, torch.zeros(8), "labels"),
        (UNIT, torch.zeros(4, 1), "labels"),
    ],
)
def test_features_of_wrong_shapes_are_rejected(features, labels, words):
    with pytest.raises(ValueError, match=words):
        contrastive_loss(features, labels, 0.5)


def test_the_length_of_projections_does_not_matter():
    loss = contrastive_loss(2 * UNIT, None, 0.5)
    assert loss.item() == pytest.approx(slow_loss(UNIT, None, 0.5).item(), rel=1e-5)


def test_the_chance_value_is_the_loss_of_features_that_are_all_alike():
    loss = contrastive_loss(random_features(1, 1).expand(len(LABELS), 2, 16), LABELS, 0.1, 0.5)
    chance = chance_contrastive_loss(2 * len(LABELS), 0.1, 0.5)
    assert chance == pytest.approx(loss.item(), rel=1e-6)
