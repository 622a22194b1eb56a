"""--precision: what of a training is in TF32 or bfloat16, and that populations of others never mix."""

import pytest
import torch
from test_training import classifying, contrasting, encoder, few, network, one_epoch

from common import models, training
from common.training import Head, tf32_of

KINDS = ["supervised", "SupCon", "SimCLR", "head"]
# Relative; measured: losses within 6e-4, gradients within 0.2.
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-3, 0.3


def training_of(kind, precision):
    """A training of some digits at its first step, whatever the precision."""
    data = few(train=64)
    if kind == "supervised":
        return classifying(network(), data, precision=precision)
    if kind == "head":
        of = encoder().encoder
        head = models.ClassificationHead(of.latent_size, 10)
        return Head(of, head, data, {"head_epochs": 1, "batch_size_head": 32, "precision": precision})
    return contrasting(encoder(), data, learning_method=kind, precision=precision)


def first_batch(of):
    """Its images; the views of the epoch are drawn."""
    generator = torch.Generator().manual_seed(0)
    batches = training.epoch_order(of.data, of.batch_size, generator)
    of.draw(batches, generator)
    of.network.train()
    return batches[0]


def first_step(kind, precision):
    """Loss and gradients of the first step."""
    of = training_of(kind, precision)
    loss, _ = of.loss(first_batch(of))
    loss.backward()
    return loss, torch.cat([parameter.grad.flatten() for parameter in of.network.parameters()])


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_in_bfloat16_is_near_that_in_float32(kind):
    (loss, gradient), (exact_loss, exact_gradient) = (
        first_step(kind, precision) for precision in ("bfloat16", "float32")
    )
    assert loss.dtype == gradient.dtype == torch.float32
    assert loss.item() == pytest.approx(exact_loss.item(), rel=LOSS_TOLERANCE)
    error = (gradient - exact_gradient).norm() / exact_gradient.norm()
    assert 0 < error < GRADIENT_TOLERANCE


@pytest.mark.parametrize("kind", KINDS)
def test_the_network_computes_in_bfloat16_and_the_loss_gets_float32(kind, monkeypatch):
    of, given, computed = training_of(kind, "bfloat16"), [], []
    [linear, *_] = [each for each in of.network.modules() if isinstance(each, torch.nn.Linear)]
    linear.register_forward_hook(lambda _, __, output: computed.append(output.dtype))
    if hasattr(of, "contrastive_loss"):
        module, name = of, "contrastive_loss"
    else:
        module, name = training.F, "cross_entropy"
    loss = getattr(module, name)
    seen = lambda x, *rest, **more: given.append(x.dtype) or loss(x, *rest, **more)
    monkeypatch.setattr(module, name, seen)
    of.loss(first_batch(of))
    assert computed == [torch.bfloat16] and given == [torch.float32]


@pytest.mark.parametrize("kind", KINDS)
def test_criteria_and_evaluation_are_in_float32(kind):
    seen = []
    for precision in ("bfloat16", "float32"):
        of = training_of(kind, precision)
        first_batch(of)
        losses = [loss.item() for loss in of.criterion_losses((0, "criterion"))]
        seen.append((losses, of.test_scores()))
    assert seen[0] == seen[1] and seen[0][0]


def allowed():
    """Whether convolutions may round to TF32; matrix products, losses among them, never."""
    assert not torch.backends.cuda.matmul.allow_tf32
    return torch.backends.cudnn.allow_tf32


@pytest.fixture
def tf32_off():
    with tf32_of({}):
        yield


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["tf32", "bfloat16", "float32"])
def test_tf32_is_allowed_in_steps_alone(tf32_off, kind, precision):
    of, seen = training_of(kind, precision), {True: [], False: []}

    def look(_, tensors):
        seen[len(tensors[0]) != len(of.data.test_images)].append(allowed())

    of.network.register_forward_pre_hook(look)
    of.network.register_full_backward_pre_hook(look)
    one_epoch(of)
    assert seen[True] == [precision == "tf32"] * 4  # forward and backward of two steps
    assert not allowed() and not any(seen[False])  # evaluation
