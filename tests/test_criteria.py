"""Criteria against slow, obvious versions, schedules against the published ones, and pruning while training
against torch's hooks."""

import copy
import functools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import GOLDEN
from test_pruning import prunable_modules, random_network, scores_of, torch_masks
from torch import nn
from torch.nn.utils import prune

from common import methods, pruning
from common.pruning import (
    GradualPruning,
    apply_masks,
    filter_masks,
    global_masks,
    gradual_pruner,
    layer_masks,
    measure_sparsity,
    next_masks,
    prunable_parameters,
    score_weights,
    sum_gradients,
)

GRADIENT_CRITERIA = ("snip", "snip_batches")
FILTER_CRITERIA = ("filter_l1", "filter_l2", "filter_linf", "filter_random")
WAYS = [
    (criterion, scope)
    for criterion in methods.CRITERIA
    for scope in methods.SCOPES
    if criterion not in FILTER_CRITERIA or scope == "layer"
]


def double_network(seed):
    """In float64 the order in which a sum is taken does not matter; in eval mode batch norm does not change
    with the batches."""
    return random_network(seed).double().eval()


def some_batches(seed, count=4, size=7):
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(size, 3, 6, 6, generator=generator), torch.randint(0, 5, (size,), generator=generator))
        for _ in range(count)
    ]


def losses_of(network, batches):
    kind = next(network.parameters()).dtype
    return (F.cross_entropy(network(images.to(kind)), labels) for images, labels in batches)


def gradients_by_backward(network, batches):
    """name -> [the gradients of one batch as a flat list, for every batch]."""
    network, gradients = copy.deepcopy(network), {name: [] for name in prunable_parameters(network)}
    for loss in losses_of(network, batches):
        network.zero_grad()
        loss.backward()
        for name, parameter in prunable_parameters(network).items():
            gradients[name].append(parameter.grad.flatten().tolist())
    return gradients


def initial_weights(network, seed):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(weight.shape, generator=generator, dtype=weight.dtype) / 5
        for name, weight in prunable_parameters(network).items()
    }


def some_sums(network, seed=0):
    """Made-up sums of |g_t| and of g_t."""
    signed = initial_weights(network, seed)
    return {name: torch.stack([total.abs() * 9, total]) for name, total in signed.items()}


def score(network, criterion, batches=(), initial=None, key=("a key",)):
    losses = lambda: losses_of(network, batches or some_batches(9, 1))
    return score_weights(network, criterion, losses, initial, key, some_sums(network))


# Criteria


def test_both_lists_of_criteria_name_the_same_ones():
    assert list(pruning.CRITERIA) == list(methods.CRITERIA)


def test_criteria_use_gradients_and_initial_weights_where_they_say_so():
    assert tuple(name for name in pruning.CRITERIA if pruning.uses(name, "gradient")) == GRADIENT_CRITERIA
    of_initial = [name for name in pruning.CRITERIA if pruning.uses(name, "initial_weight")]
    assert of_initial == ["magnitude_increase"]
    of_sums = [name for name in pruning.CRITERIA if name.startswith("levai_zombori")]
    for quantity, names in (("accumulated", of_sums), ("hessian_gradient", ["grasp"])):
        assert [one for one in pruning.CRITERIA if pruning.uses(one, quantity)] == names


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("criterion", ["magnitude", "magnitude_increase", *GRADIENT_CRITERIA])
def test_scores_equal_those_of_loops_over_weights_and_batches(criterion, seed):
    network, batches = double_network(seed), some_batches(seed)
    initial, gradients = initial_weights(network, seed), gradients_by_backward(network, batches)
    slow = {
        "magnitude": lambda weight, start, of_batches: abs(weight),
        "magnitude_increase": lambda weight, start, of_batches: abs(weight) - abs(start),
        "snip": lambda weight, start, of_batches: abs(weight * sum(of_batches)),
        "snip_batches": lambda weight, start, of_batches: sum(
            abs(weight * gradient) for gradient in of_batches
        ),
    }[criterion]
    scores = score(network, criterion, batches, initial)
    assert list(scores) == list(prunable_parameters(network))
    for name, parameter in prunable_parameters(network).items():
        expected = [
            slow(weight, start, [of_batch[position] for of_batch in gradients[name]])
            for position, (weight, start) in enumerate(
                zip(parameter.flatten().tolist(), initial[name].flatten().tolist())
            )
        ]
        assert scores[name].shape == parameter.shape and max(map(abs, expected)) > 0
        torch.testing.assert_close(
            scores[name].flatten(), torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-14
        )


@pytest.mark.parametrize(
    "criterion, slow",
    [
        ("levai_zombori", lambda w, size, signed: abs(w) * size),
        ("levai_zombori_signed", lambda w, size, signed: abs(w * signed)),
        ("levai_zombori_power0.5", lambda w, size, signed: abs(w) * math.sqrt(size)),
        ("levai_zombori_power2", lambda w, size, signed: abs(w) * size * size),
        ("levai_zombori_power3", lambda w, size, signed: abs(w) * size * size * size),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_levai_zombori_is_the_weight_times_the_sum_that_was_accumulated(criterion, slow, seed):
    network = double_network(seed)
    for name, scores in score(network, criterion).items():
        weight, sums = prunable_parameters(network)[name].detach(), some_sums(network)[name]
        expected = [slow(*each) for each in zip(*(t.flatten().tolist() for t in (weight, *sums)))]
        torch.testing.assert_close(scores.flatten(), torch.tensor(expected, dtype=torch.float64))
        assert scores.max() > 0


def test_gradient_sums_add_up_the_sizes_of_all_steps_gradients_and_go_on_from_a_state():
    network, expected = double_network(1), {}
    sums = pruning.GradientSums(network)
    for index, batch in enumerate(some_batches(1, 5)):
        gradients = gradients_by_backward(network, [batch])
        for loss in losses_of(network, [batch]):
            network.zero_grad()
            loss.backward()
        sums.add()
        for name, of_batches in gradients.items():
            sizes = [*(abs(gradient) for gradient in of_batches[0]), *of_batches[0]]
            expected[name] = [a + b for a, b in zip(expected.get(name, [0] * len(sizes)), sizes)]
        if index == 2:
            state = copy.deepcopy(sums.state_dict())
            sums = pruning.GradientSums(network)
            sums.load_state_dict(state)
    for name, total in sums.items():
        torch.testing.assert_close(total.flatten(), torch.tensor(expected[name], dtype=torch.float64))


def test_grasp_is_the_weight_times_the_hessian_times_the_gradient_by_differences():
    """H g = (gradient at w + e g - gradient at w - e g) / (2 e), of the summed loss."""
    network, batches = double_network(0), some_batches(0, 3)
    network[2] = nn.Softplus()  # no kinks, at which differences lie
    summed = lambda: {
        name: torch.tensor(of_batches, dtype=torch.float64)
        .sum(0)
        .reshape(prunable_parameters(network)[name].shape)
        for name, of_batches in gradients_by_backward(network, batches).items()
    }
    scores, gradients, moved = score(network, "grasp", batches), summed(), []
    weights = {name: weight.detach().clone() for name, weight in prunable_parameters(network).items()}
    for step in (1e-6, -1e-6):
        for name, weight in prunable_parameters(network).items():
            weight.data = weights[name] + step * gradients[name]
        moved.append(summed())
    for name, weight in weights.items():
        product = (moved[0][name] - moved[1][name]) / 2e-6
        torch.testing.assert_close(scores[name], weight * product, rtol=1e-4, atol=1e-7)


def test_grasp_of_a_pruned_network_is_that_of_the_network_without_what_is_pruned():
    """Two filters and their weights in the layer after them are pruned: as if they had never been there."""
    torch.manual_seed(0)
    whole = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Softplus(), nn.Flatten(), nn.Linear(96, 5)).double()
    small = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Softplus(), nn.Flatten(), nn.Linear(64, 5)).double()
    masks = {name: torch.ones_like(weight) for name, weight in whole.named_parameters()}
    masks["0.weight"][4:], masks["0.bias"][4:], masks["3.weight"][:, 64:] = 0, 0, 0
    apply_masks(whole, masks)
    parts = {
        "0.weight": whole[0].weight[:4],
        "0.bias": whole[0].bias[:4],
        "3.weight": whole[3].weight[:, :64],
    }
    small.load_state_dict({**whole.state_dict(), **parts})
    losses = [functools.partial(losses_of, network, some_batches(3)) for network in (whole, small)]
    expected = score_weights(small, "grasp", losses[1], None, ())
    for known in (masks, None):  # None: by the zeros
        found = score_weights(whole, "grasp", losses[0], None, (), masks=known)
        torch.testing.assert_close(found["0.weight"][:4], expected["0.weight"])
        torch.testing.assert_close(found["0.bias"][:4], expected["0.bias"])
        torch.testing.assert_close(found["3.weight"][:, :64], expected["3.weight"])
    unaware = score_weights(whole, "grasp", losses[0], None, (), masks={})
    assert not torch.allclose(unaware["3.weight"][:, :64], expected["3.weight"])


def test_grasp_of_a_linear_layer_by_hand():
    """The gradient of the kept weights is (2, 1.5), that of the pruned one 1.5; H of the kept is I."""
    layer = nn.Linear(3, 1, bias=False).double()
    layer.weight.data[:] = torch.tensor([1.0, 1, 0])
    images, wanted = torch.tensor([[1.0, 0, 0], [0, 1, 1]]).double(), torch.tensor([[-1.0], [-0.5]]).double()
    losses = lambda: iter([((layer(images) - wanted) ** 2).sum() / 2])
    for masks, kept in (
        (None, [2, 1.5]),
        ({"weight": torch.tensor([[1.0, 1, 0]])}, [2, 1.5]),
        ({}, [2, 3]),  # a weight that is zero by chance
    ):
        assert score_weights(layer, "grasp", losses, None, (), masks=masks)["weight"][0, :2].tolist() == kept


@pytest.mark.parametrize("masks", [{}, None, "ones"], ids=str)
def test_grasp_of_a_dense_network_is_the_product_with_the_whole_gradient(masks):
    network = random_network(3).eval()
    for name, weight in prunable_parameters(network).items():
        if name.endswith("bias"):
            weight.data.zero_()  # as before their training
    if masks == "ones":
        masks = {name: torch.ones_like(weight) for name, weight in prunable_parameters(network).items()}
    weights, losses = list(prunable_parameters(network).values()), lambda: losses_of(network, some_batches(1))
    total = [sum(each) for each in zip(*(torch.autograd.grad(loss, weights) for loss in losses()))]
    products = [torch.zeros_like(weight) for weight in weights]
    for loss in losses():
        gradients = torch.autograd.grad(loss, weights, create_graph=True)
        along = sum((gradient * known).sum() for gradient, known in zip(gradients, total))
        for product, part in zip(products, torch.autograd.grad(along, weights)):
            product.add_(part)
    scores = score_weights(network, "grasp", losses, None, (), masks=masks)
    for found, weight, product in zip(scores.values(), weights, products):
        assert torch.equal(found, weight.detach() * product)


def test_grasp_prunes_first_what_keeps_the_norm_of_the_gradient():
    """Of loss (a x^2 + b y^2) / 2, H g = (a^2 x, b^2 y): shrinking a weight of positive w H g lowers the
    norm."""
    layer = nn.Linear(2, 1, bias=False)
    layer.weight.data = torch.tensor([[1.0, 1.0]])
    curvature = torch.tensor([[1.0, 3.0]])
    losses = lambda: iter([(curvature * layer.weight**2).sum() / 2])
    scores = score_weights(layer, "grasp", losses, None, ())["weight"]
    assert scores.tolist() == [[1.0, 9.0]]
    masks = global_masks({"weight": scores}, 0.5)["weight"]
    norms = [((curvature * layer.weight * kept) ** 2).sum() for kept in (masks, 1 - masks)]
    assert norms[0] > norms[1]


def test_synflow_is_what_all_paths_lose_without_the_weight():
    """R is linear in every single weight: |w dR/d|w|| = R - R with w = 0."""
    network = double_network(4)
    nn.init.uniform_(network[1].running_var, 0.5, 2.0)
    nn.init.normal_(network[1].running_mean)
    nn.init.normal_(network[1].bias)
    scores = score(network, "synflow", some_batches(1, 1))
    positive = copy.deepcopy(network)
    for parameter in positive.parameters():
        parameter.data.abs_()
    nn.init.zeros_(positive[1].running_mean), nn.init.zeros_(positive[1].bias)
    with torch.no_grad():
        flow = lambda: positive(torch.ones(1, 3, 6, 6, dtype=torch.float64)).sum().item()
        whole = flow()
        for name, parameter in prunable_parameters(positive).items():
            flat = parameter.view(-1)
            for position in range(0, len(flat), max(1, len(flat) // 7)):
                value = flat[position].item()
                flat[position] = 0
                lost = whole - flow()
                flat[position] = value
                assert scores[name].flatten()[position].item() == pytest.approx(
                    lost, rel=1e-6, abs=1e-9 * whole
                )


def test_synflow_prunes_in_rounds_each_of_which_scores_what_the_one_before_left(monkeypatch):
    network, sparsity, masks = double_network(2), 0.9, {}
    monkeypatch.setattr(pruning, "SYNFLOW_ROUNDS", 5)
    by_hand = copy.deepcopy(network)
    for done in range(1, 6):
        gone = sparsity if done == 5 else 1 - (1 - sparsity) ** (done / 5)
        masks = next_masks(score(by_hand, "synflow"), gone, "global", "synflow", masks)
        apply_masks(by_hand, masks)
    scores = lambda: score(network, "synflow")
    once = next_masks(scores(), sparsity, "global", "synflow", {})
    found = pruning.find_masks(network, "synflow", "global", sparsity, {}, scores)
    assert_counts(found, sparsity, "global", "synflow")
    assert all(torch.equal(found[name], mask) for name, mask in masks.items())
    assert any(not torch.equal(found[name], mask) for name, mask in once.items())


@pytest.mark.parametrize(
    "criterion, slow_norm",
    [
        ("filter_l1", lambda weights: sum(abs(weight) for weight in weights)),
        ("filter_l2", lambda weights: math.sqrt(sum(weight**2 for weight in weights))),
        ("filter_linf", lambda weights: max(abs(weight) for weight in weights)),
    ],
)
def test_filter_scores_are_the_norms_of_whole_filters(criterion, slow_norm):
    network = double_network(5)
    scores = score(network, criterion)
    for name in ("0.weight", "3.0.weight"):
        weight = prunable_parameters(network)[name].detach()
        for filter_weight, filter_score in zip(weight, scores[name]):
            assert (filter_score == filter_score.flatten()[0]).all()
            assert filter_score.flatten()[0].item() == pytest.approx(
                slow_norm(filter_weight.flatten().tolist()), rel=1e-12
            )
        order = {"filter_l1": 1, "filter_l2": 2, "filter_linf": float("inf")}[criterion]
        norms = torch.stack([torch.norm(filter_weight, p=order) for filter_weight in weight])
        assert torch.equal(scores[name][:, 0, 0, 0].argsort(), norms.argsort())


@pytest.mark.parametrize("criterion", ["random", "filter_random"])
def test_random_scores_depend_on_the_key_alone(criterion):
    network = random_network(0)
    torch.manual_seed(1)
    first = score(network, criterion, key=(0, "pruning", 1))
    torch.manual_seed(2)
    for parameter in network.parameters():
        parameter.data.mul_(-3)
    again, other = (score(network, criterion, key=(0, "pruning", number)) for number in (1, 2))
    for name in first:
        assert torch.equal(first[name], again[name]) and not torch.equal(first[name], other[name])


@pytest.mark.parametrize("criterion", list(methods.CRITERIA))
def test_scores_leave_the_global_generator_the_network_and_its_gradients_alone(criterion):
    network = random_network(0)
    network(some_batches(1)[0][0]).square().sum().backward()
    before, state = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    gradients = {name: parameter.grad.clone() for name, parameter in network.named_parameters()}
    network.eval()
    score(network, criterion, some_batches(0), initial_weights(network, 0))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(torch.equal(parameter.grad, gradients[name]) for name, parameter in network.named_parameters())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_scores_leave_the_generator_of_the_cuda_device_alone():
    state = torch.cuda.get_rng_state()
    score(random_network(0), "random")
    assert torch.equal(torch.cuda.get_rng_state(), state)


def test_random_pruning_takes_the_same_share_of_every_layer():
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(20, 30, 3, bias=False), nn.Linear(100, 60), nn.Linear(60, 100, bias=False)
    )
    nn.init.normal_(layers[0].weight, std=9.0)  # by magnitude, little of this layer would be pruned
    scores = score(layers, "random")
    for values in scores.values():
        assert 0 <= values.min() and values.max() < 1
        assert values.mean() == pytest.approx(0.5, abs=0.03 if values.numel() > 1000 else 0.2)
    for sparsity in (0.2, 0.7):
        masks = global_masks(scores, sparsity)
        for name in ("0.weight", "1.weight", "2.weight"):
            # Of 5400 or 6000 weights: 0.03 are four or five standard deviations.
            assert 1 - masks[name].mean().item() == pytest.approx(sparsity, abs=0.03)


def test_random_filter_scores_are_one_number_a_filter():
    weight = score(random_network(1), "filter_random")["3.0.weight"]
    assert (weight == weight[:, :1, :1, :1]).all()
    assert len(weight[:, 0, 0, 0].unique()) == len(weight) > 1


def test_gradients_are_summed_over_batches_in_two_ways_and_grad_stays_as_it_was():
    network, batches = double_network(2), some_batches(2)
    parameters, by_backward = prunable_parameters(network), gradients_by_backward(network, batches)
    network[0].weight.grad = torch.full_like(network[0].weight, 7.0)
    sums = sum_gradients(parameters, losses_of(network, batches))
    assert (network[0].weight.grad == 7).all()
    assert [name for name, weight in network.named_parameters() if weight.grad is not None] == ["0.weight"]
    assert sums.keys() == parameters.keys()
    for name, gradient in sums.items():
        of_batches = torch.tensor(by_backward[name], dtype=torch.float64)
        for found, expected in (
            (gradient.total, of_batches.sum(0)),
            (gradient.absolute, of_batches.abs().sum(0)),
        ):
            assert found.shape == parameters[name].shape and not found.requires_grad
            torch.testing.assert_close(found.flatten(), expected, rtol=1e-9, atol=1e-14)


# Scopes and what is pruned already


def erk_densities(shapes, density):
    """As Evci et al. write it: layers whose density would exceed 1 are dense, the rest share what is left."""
    dense, sizes = set(), {name: math.prod(shape) for name, shape in shapes.items()}
    while True:
        left = density * sum(sizes.values()) - sum(sizes[name] for name in dense)
        scale = left / sum(sum(shape) for name, shape in shapes.items() if name not in dense)
        found = {
            name: 1.0 if name in dense else scale * sum(shape) / sizes[name] for name, shape in shapes.items()
        }
        if over := {name for name, value in found.items() if value > 1}:
            dense |= over
        else:
            return found


@pytest.mark.parametrize("sparsity", [0.0, 0.05, 0.3, 0.77, 0.9, 0.98, 1.0])
def test_erk_masks_have_the_densities_of_erdos_renyi_kernel_and_prune_the_lowest_of_each(sparsity):
    shapes = {"a.weight": (16, 3, 3, 3), "b.weight": (40, 16, 3, 3), "c.weight": (40, 16, 1, 1)}
    shapes |= {"d.weight": (10, 40), "d.bias": (10,)}
    scores = {name: torch.rand(shape) for name, shape in shapes.items()}
    masks = pruning.erk_masks(scores, sparsity)
    total = sum(mask.numel() for mask in masks.values())
    assert sum(int((mask == 0).sum()) for mask in masks.values()) == round(sparsity * total)
    for name, density in erk_densities(shapes, 1 - sparsity).items():
        kept = masks[name].bool()
        assert abs(int(kept.sum()) - density * kept.numel()) <= 1, name
        if 0 < kept.sum() < kept.numel():
            assert scores[name][kept].min() >= scores[name][~kept].max()


def counts_by_hand(shapes, sparsity, scope, criterion):
    """{name: number pruned}, or the number in all under the key 'all'."""
    if criterion in FILTER_CRITERIA:
        return {
            name: round(sparsity * shape[0]) * math.prod(shape[1:]) if len(shape) == 4 else 0
            for name, shape in shapes.items()
        }
    if scope == "layer":
        return {name: round(sparsity * math.prod(shape)) for name, shape in shapes.items()}
    return {"all": round(sparsity * sum(math.prod(shape) for shape in shapes.values()))}


def assert_counts(masks, sparsity, scope, criterion):
    expected = counts_by_hand({name: mask.shape for name, mask in masks.items()}, sparsity, scope, criterion)
    found = {name: int((mask == 0).sum()) for name, mask in masks.items()}
    assert (found if "all" not in expected else {"all": sum(found.values())}) == expected
    if criterion in FILTER_CRITERIA:
        assert all(
            len(filter_mask.unique()) == 1
            for mask in masks.values()
            if mask.ndim == 4
            for filter_mask in mask
        )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("criterion, scope", WAYS)
def test_what_is_pruned_stays_pruned_and_counts_are_exact(criterion, scope, seed):
    network, batches, masks = random_network(seed).eval(), some_batches(seed), {}
    generator = torch.Generator().manual_seed(seed)
    for sparsity in (0.0, 0.1, 0.33, 0.33, 0.6, 0.9, 0.99, 1.0):
        # Initial weights of pruned weights are 0 and of others large: by their increase, pruned weights would
        # be kept.
        initial = {name: 9 * weight.detach() for name, weight in prunable_parameters(network).items()}
        scores = score(network, criterion, batches, initial, key=(seed, sparsity))
        later = next_masks(scores, sparsity, scope, criterion, masks)
        assert_counts(later, sparsity, scope, criterion)
        assert list(later) == list(scores) and all(
            ((mask == 0) | (mask == 1)).all() for mask in later.values()
        )
        assert all((later[name][mask == 0] == 0).all() for name, mask in masks.items())
        masks = later
        apply_masks(network, masks)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
        apply_masks(network, masks)


@pytest.mark.parametrize(
    "scope, criterion, first",
    [
        ("global", "magnitude", global_masks),
        ("layer", "magnitude", layer_masks),
        ("layer", "filter_l1", filter_masks),
    ],
)
def test_what_is_pruned_stays_pruned_even_where_its_score_is_the_highest(scope, criterion, first):
    generator = torch.Generator().manual_seed(0)
    shapes = {"a.weight": (10, 4, 3, 3), "b.weight": (6, 10, 1, 1), "c.weight": (5, 6), "c.bias": (5,)}
    scores = {
        name: torch.rand(shape[0], *[1] * (len(shape) - 1), generator=generator).expand(shape)
        for name, shape in shapes.items()
    }
    before = copy.deepcopy(scores)
    masks = first(scores, 0.4)
    highest = {name: values.masked_fill(masks[name] == 0, 1e9) for name, values in scores.items()}
    later = next_masks(highest, 0.5, scope, criterion, masks)
    assert_counts(later, 0.5, scope, criterion)
    assert all((later[name][mask == 0] == 0).all() for name, mask in masks.items())
    assert all(torch.equal(values, before[name]) for name, values in scores.items())
    kept = {name: values.masked_fill(masks[name] == 0, -1.0) for name, values in scores.items()}
    assert all(torch.equal(mask, first(kept, 0.5)[name]) for name, mask in later.items())


def test_masks_of_some_tensors_only_hold_for_these():
    scores = {"a": torch.tensor([4.0, 3, 2, 1]), "b": torch.tensor([1.0, 2, 3, 4])}
    masks = next_masks(scores, 0.5, "layer", "magnitude", {"a": torch.tensor([0.0, 1, 1, 1])})
    assert {name: mask.tolist() for name, mask in masks.items()} == {"a": [0, 1, 1, 0], "b": [0, 0, 1, 1]}


def test_a_kept_weight_that_is_zero_by_chance_does_not_break_up_its_filter():
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 4, 3, bias=False)
    layer.weight.data.abs_().add_(torch.tensor([1.0, 2, 3, 4]).reshape(4, 1, 1, 1))
    apply_masks(layer, next_masks(score(layer, "filter_l1"), 0.25, "layer", "filter_l1", {}))
    layer.weight.data[3, 0, 0, 0] = 0  # in the filter of the largest norm
    masks = next_masks(score(layer, "filter_l1"), 0.5, "layer", "filter_l1", pruning.masks_of(layer))
    assert_counts(masks, 0.5, "layer", "filter_l1")
    assert [filter_mask.any().item() for filter_mask in masks["weight"]] == [False, False, True, True]


@pytest.mark.parametrize(
    "norm, criterion", [(1, "filter_l1"), (2, "filter_l2"), (float("inf"), "filter_linf")]
)
@pytest.mark.parametrize("seed", range(10))
def test_filter_masks_equal_torchs_ln_structured_once_and_again(seed, norm, criterion):
    network = random_network(seed)
    theirs, masks = copy.deepcopy(network), {}
    for sparsity in (0.2, 0.5, 0.5, 0.8):
        before = masks
        masks = next_masks(score(network, criterion), sparsity, "layer", criterion, masks)
        for prefix, module, name in prunable_modules(theirs):
            if isinstance(module, nn.Conv2d):
                target = round(sparsity * module.out_channels)
                already = sum(not mask.any() for mask in before.get(f"{prefix}.weight", ()))
                prune.ln_structured(module, "weight", amount=target - already, n=norm, dim=0)
                assert torch.equal(masks[f"{prefix}.weight"], module.weight_mask)
            else:
                assert masks[f"{prefix}.{name}"].all()
        apply_masks(network, masks)
    assert torch_masks(theirs).keys() == {"0.weight", "3.0.weight"}


# Schedules


@pytest.mark.parametrize("key", np.load(GOLDEN / "gmp_relative_amounts.npz").files)
def test_the_schedule_is_the_golden_one_on_its_grid(key):
    sparsity, begin, end, frequency = float(key.split("_")[0]), *map(int, key.split("_")[1:])
    published = 1 - np.cumprod(1 - np.load(GOLDEN / "gmp_relative_amounts.npz")[key])
    grid = [begin + index * frequency for index in range(len(published))]
    ours = GradualPruning(sparsity, begin, end, frequency).sparsities()
    assert list(ours) == sorted({*grid, end}) and grid[-1] <= end < grid[-1] + frequency
    np.testing.assert_allclose([ours[step] for step in grid], published, rtol=0, atol=1e-9)
    # The published grid ends before it where the frequency does not divide the length.
    assert ours[end] == sparsity


@pytest.mark.parametrize(
    "begin, end, frequency, steps",
    [
        (1, 9, 4, [1, 5, 9]),
        (1, 10, 4, [1, 5, 9, 10]),
        (0, 8, 4, [4, 8]),
        (0, 9, 4, [4, 8, 9]),
        (7, 7, 3, [7]),
        (3, 5, 100, [3, 5]),
        (4, 6, 1, [4, 5, 6]),
    ],
)
def test_pruning_fires_on_the_grid_and_at_the_end_and_never_at_step_0(begin, end, frequency, steps):
    ours = GradualPruning(0.7, begin, end, frequency).sparsities()
    assert list(ours) == steps and ours[end] == 0.7
    for step in steps[:-1]:
        assert ours[step] == pytest.approx(0.7 * (1 - ((end - step) / (end - begin)) ** 3), abs=1e-12)


@pytest.mark.parametrize("begin, end, frequency", [(1, 100, 7), (0, 50, 50), (2440, 4760, 62), (5, 6, 1)])
def test_sparsity_rises_from_0_at_the_first_step_to_exactly_the_last(begin, end, frequency):
    ours = GradualPruning(0.9, begin, end, frequency).sparsities()
    values = list(ours.values())
    assert all(earlier < later for earlier, later in zip(values, values[1:])) and values[-1] == 0.9
    assert ours.get(begin, 0.0) == 0.0


# While training


@pytest.mark.parametrize("criterion, scope", WAYS)
def test_a_network_pruned_while_it_trains_has_the_asked_number_of_zeros_at_every_firing(
    criterion, scope, monkeypatch
):
    monkeypatch.setattr(pruning, "SYNFLOW_ROUNDS", 4)
    network, schedule, masks = random_network(3), GradualPruning(0.85, 2, 12, 4, criterion, scope), {}
    losses = lambda step: losses_of(network, some_batches(step, 2))
    sums = some_sums(network)
    prune_at = gradual_pruner(network, masks, schedule, losses, (0, "a key"), sums)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, weight_decay=5e-3)
    sparsity, shapes = None, {name: weight.shape for name, weight in prunable_parameters(network).items()}
    for step in range(1, 16):
        earlier = dict(masks)
        prune_at(step)
        if step in schedule.sparsities():
            assert not any(total.any() for total in sums.values()), "sums begin anew after a pruning"
        for total in sums.values():
            total.add_(torch.rand(total.shape))
        sparsity = schedule.sparsities().get(step, sparsity)
        if sparsity is None:
            assert not masks and measure_sparsity(network)["zeros"] == 0
        else:
            measured, expected = measure_sparsity(network), counts_by_hand(shapes, sparsity, scope, criterion)
            assert measured["zeros"] == sum(expected.values())
            assert "all" in expected or measured["per_tensor"] == {
                name: count / math.prod(shapes[name]) for name, count in expected.items()
            }
            assert all((masks[name][mask == 0] == 0).all() for name, mask in earlier.items())
        for loss in losses_of(network, some_batches(100 + step, 1)):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        apply_masks(network, masks)
    assert sparsity == 0.85


def test_the_increase_is_measured_from_the_weights_at_the_start():
    layer = nn.Linear(4, 1, bias=False)
    layer.weight.data = torch.tensor([[4.0, 3, 2, 1]])
    masks = {}
    prune_at = gradual_pruner(layer, masks, GradualPruning(0.5, 1, 1, 1, "magnitude_increase"), None, ())
    layer.weight.data.copy_(torch.tensor([[4.5, -2.0, 1.0, -3.0]]))  # 0.5, -1, -1, 2 more than at the start
    prune_at(1)
    assert masks["weight"].tolist() == [[1, 0, 0, 1]] and layer.weight.tolist() == [[4.5, 0, 0, -3]]


def test_losses_are_asked_for_at_the_steps_that_prune_and_only_where_the_criterion_needs_them():
    for criterion, expected in (("snip", [2, 4, 5]), ("magnitude", []), ("random", [])):
        network, asked = random_network(0), []

        def losses(step):
            asked.append(step)
            return losses_of(network, some_batches(step, 1))

        prune_at = gradual_pruner(network, {}, GradualPruning(0.5, 2, 5, 2, criterion), losses, ())
        for step in range(8):
            prune_at(step)
        assert asked == expected


def test_random_pruning_differs_between_keys_and_steps_and_without_a_schedule_nothing_happens():
    masks = {(key, step): {} for key, step in ((0, 1), (1, 1), (0, 2))}
    for (key, step), its_masks in masks.items():
        schedule = GradualPruning(0.5, step, step, 1, "random")
        gradual_pruner(random_network(0), its_masks, schedule, None, (key,))(step)
    for other in ((1, 1), (0, 2)):
        assert not torch.equal(masks[0, 1]["6.weight"], masks[other]["6.weight"])
    untouched = {}
    gradual_pruner(random_network(0), untouched, None, None, ())(1)
    assert untouched == {}


def prune_with_hooks(network, sparsity, scope):
    """One more round of torch's pruning up to a sparsity, by counts."""
    triples = prunable_modules_of_hooked(network)
    for _, module, name in triples:
        if hasattr(module, f"{name}_orig"):
            # torch compares the values of the last forward pass, which are a step old.
            setattr(module, name, getattr(module, f"{name}_orig") * getattr(module, f"{name}_mask"))
    already = {key: int((mask == 0).sum()) for key, mask in torch_masks(network).items()}
    sizes = {key: getattr(module, name).numel() for key, module, name in triples}
    if scope == "global":
        amount = round(sparsity * sum(sizes.values())) - sum(already.values())
        pairs = [(module, name) for _, module, name in triples]
        prune.global_unstructured(pairs, prune.L1Unstructured, amount=amount)
    else:
        for key, module, name in triples:
            prune.l1_unstructured(module, name, amount=round(sparsity * sizes[key]) - already.get(key, 0))


def prunable_modules_of_hooked(network):
    return [
        (f"{prefix}.{name}", module, name)
        for prefix, module in network.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
        for name in ("weight", "bias")
        if getattr(module, name, None) is not None
    ]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize(
    "options",
    [
        {"momentum": 0.9},
        {"momentum": 0.9, "nesterov": True},
        {"momentum": 0.9, "weight_decay": 5e-3},
        {"momentum": 0.9, "nesterov": True, "weight_decay": 5e-3},
    ],
    ids="+".join,
)
def test_pruning_while_training_equals_torchs_hooks_applied_again_and_again(options, scope, seed):
    network, masks, schedule = random_network(seed), {}, GradualPruning(0.9, 3, 20, 4, "magnitude", scope)
    theirs = copy.deepcopy(network)
    prune_at, sparsities = gradual_pruner(network, masks, schedule, None, ()), schedule.sparsities()
    optimizer, their_optimizer = (
        torch.optim.SGD(model.parameters(), 0.05, **options) for model in (network, theirs)
    )
    for step in range(1, 26):
        prune_at(step)
        if step in sparsities:
            prune_with_hooks(theirs, sparsities[step], scope)
        for model, its_optimizer in ((network, optimizer), (theirs, their_optimizer)):
            for loss in losses_of(model, some_batches(1000 * seed + step, 1, 16)):
                its_optimizer.zero_grad()
                loss.backward()
                its_optimizer.step()
        apply_masks(network, masks)
        for key, module, name in prunable_modules_of_hooked(theirs):
            expected = getattr(module, name)
            if masks:
                expected = getattr(module, f"{name}_orig") * getattr(module, f"{name}_mask")
            torch.testing.assert_close(prunable_parameters(network)[key], expected, rtol=1e-5, atol=1e-6)
            assert not masks or torch.equal(masks[key], getattr(module, f"{name}_mask"))
    assert measure_sparsity(network)["total"] == pytest.approx(0.9, abs=0.01)


# Magnitude pruning again and again, without training


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_repeated_magnitude_masks_equal_torchs(scope, seed):
    network, masks = random_network(seed), {}
    theirs, generator = copy.deepcopy(network), torch.Generator().manual_seed(seed)
    for sparsity in (0.25, 0.6, 0.61, 0.95):
        prune_with_hooks(theirs, sparsity, scope)
        masks = next_masks(scores_of(network), sparsity, scope, "magnitude", masks)
        apply_masks(network, masks)
        expected = torch_masks(theirs)
        assert masks.keys() == expected.keys() and all(
            torch.equal(mask, expected[key]) for key, mask in masks.items()
        )
        with torch.no_grad():  # weights move between the rounds, the pruned ones of torch's hooks too
            for key, module, name in prunable_modules_of_hooked(theirs):
                noise = torch.randn(masks[key].shape, generator=generator) / 50
                prunable_parameters(network)[key].add_(noise)
                getattr(module, f"{name}_orig").add_(noise)
        apply_masks(network, masks)
