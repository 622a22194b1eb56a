"""Criteria against slow, obvious versions, schedules against the published ones, and pruning while training
against torch's hooks."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import GOLDEN
from test_pruning import prunable_modules, random_network, torch_masks
from torch import nn
from torch.nn.utils import prune

from common import methods, pruning
from common.pruning import (
    GradualPruning,
    apply_masks,
    gradual_pruner,
    measure_sparsity,
    next_masks,
    prunable_parameters,
    score_weights,
)

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


# Of a weight, its initial weight, its gradients by batches, the sums of |gradient| and gradient over steps.
SLOW_SCORES = {
    "magnitude": lambda w, start, batches, size, signed: abs(w),
    "magnitude_increase": lambda w, start, batches, size, signed: abs(w) - abs(start),
    "snip": lambda w, start, batches, size, signed: abs(w * sum(batches)),
    "snip_batches": lambda w, start, batches, size, signed: sum(abs(w * gradient) for gradient in batches),
    "levai_zombori": lambda w, start, batches, size, signed: abs(w) * size,
    "levai_zombori_signed": lambda w, start, batches, size, signed: abs(w * signed),
    "levai_zombori_power0.5": lambda w, start, batches, size, signed: abs(w) * math.sqrt(size),
    "levai_zombori_power2": lambda w, start, batches, size, signed: abs(w) * size**2,
    "levai_zombori_power3": lambda w, start, batches, size, signed: abs(w) * size**3,
}


@pytest.mark.parametrize("criterion, slow", SLOW_SCORES.items())
def test_scores_equal_those_of_loops_over_weights_and_batches(criterion, slow):
    network, batches = double_network(0), some_batches(0)
    initial, gradients = initial_weights(network, 0), gradients_by_backward(network, batches)
    scores, sums = score(network, criterion, batches, initial), some_sums(network)
    assert list(scores) == list(prunable_parameters(network))
    for name, parameter in prunable_parameters(network).items():
        columns = [each.flatten().tolist() for each in (parameter, initial[name], *sums[name])]
        facts = zip(*columns[:2], zip(*gradients[name]), *columns[2:])
        expected = torch.tensor([slow(*of_weight) for of_weight in facts], dtype=torch.float64)
        assert scores[name].shape == parameter.shape and expected.abs().max() > 0
        torch.testing.assert_close(scores[name].flatten(), expected, rtol=1e-9, atol=1e-14)


def test_gradual_pruning_scores_a_network_with_what_it_has_pruned_before(monkeypatch):
    network, masks, known = random_network(2), {}, []

    def scored(*arguments):
        known.append({name: mask.clone() for name, mask in arguments[6].items()})
        return score_weights(*arguments)

    monkeypatch.setattr(pruning, "score_weights", scored)
    schedule = GradualPruning(0.9, 1, 2, 1, "grasp", "global")
    prune = gradual_pruner(network, masks, schedule, lambda step: losses_of(network, some_batches(1)), (0,))
    prune(1), prune(2)
    first = {name: mask.clone() for name, mask in masks.items()}
    prune(2)
    assert known[0] == {} and known[1].keys() == masks.keys()
    assert all(torch.equal(known[2][name], mask) for name, mask in first.items())
    assert any(mask.min() == 0 for mask in known[2].values())


def test_grasp_of_a_linear_layer_by_hand():
    """The gradient of the kept weights is (2, 1.5), that of the pruned one 1.5; H of the kept is I."""
    layer = nn.Linear(3, 1, bias=False).double()
    layer.weight.data[:] = torch.tensor([1.0, 1, 0])
    images, wanted = torch.tensor([[1.0, 0, 0], [0, 1, 1]]).double(), torch.tensor([[-1.0], [-0.5]]).double()
    losses = lambda: (((layer(image) - number) ** 2).sum() / 2 for image, number in zip(images, wanted))
    for masks, kept in (
        ({"weight": torch.tensor([[1.0, 1, 0]])}, [2, 1.5]),
        ({}, [2, 3]),  # a weight that is zero by chance
    ):
        assert score_weights(layer, "grasp", losses, None, (), masks=masks)["weight"][0, :2].tolist() == kept


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
    check_counts(found, sparsity, "synflow", "global")
    assert all(torch.equal(found[name], mask) for name, mask in masks.items())
    assert any(not torch.equal(found[name], mask) for name, mask in once.items())


@pytest.mark.parametrize("criterion, order", [("filter_l1", 1), ("filter_l2", 2), ("filter_linf", math.inf)])
def test_filter_scores_are_the_norms_of_whole_filters(criterion, order):
    network = double_network(5)
    scores = score(network, criterion)
    for name in ("0.weight", "3.0.weight"):
        for weights, scored in zip(prunable_parameters(network)[name], scores[name]):
            norm = torch.linalg.vector_norm(weights.detach().flatten(), order)
            torch.testing.assert_close(scored, norm.expand_as(scored), rtol=1e-12, atol=0)


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


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.9, 1.0])
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


def check_counts(tensors, sparsity, criterion, scope):
    """Exactly the share that is asked for is zero, where the criterion and the scope say."""
    counts = {name: int((tensor == 0).sum()) for name, tensor in tensors.items()}
    by_layer = {name: round(sparsity * tensor.numel()) for name, tensor in tensors.items()}
    if criterion in FILTER_CRITERIA:
        for name, tensor in tensors.items():
            gone = (tensor.flatten(1) == 0).all(1).sum() if tensor.ndim == 4 else 0
            assert gone == (round(sparsity * len(tensor)) if tensor.ndim == 4 else 0), name
            assert counts[name] == gone * tensor[0].numel(), name
    elif scope == "layer":
        assert counts == by_layer
    else:
        assert sum(counts.values()) == round(sparsity * sum(tensor.numel() for tensor in tensors.values()))
        assert sparsity in (0, 1) or counts != by_layer


@pytest.mark.parametrize("criterion, scope", WAYS)
def test_what_is_pruned_stays_pruned_and_counts_are_exact(criterion, scope):
    network, masks = random_network(0).eval(), {}
    for sparsity in (0.0, 0.33, 0.33, 0.9, 1.0):
        for parameter in network.parameters():  # by new scores, what is pruned would come back
            nn.init.normal_(parameter)
        scores = score(network, criterion, some_batches(0), initial_weights(network, 0))
        later = next_masks(scores, sparsity, scope, criterion, masks)
        check_counts(later, sparsity, criterion, scope)
        assert list(later) == list(scores)
        assert all((later[name][mask == 0] == 0).all() for name, mask in masks.items())
        masks = later


def test_a_kept_weight_that_is_zero_by_chance_does_not_break_up_its_filter():
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 4, 3, bias=False)
    layer.weight.data.abs_().add_(torch.tensor([1.0, 2, 3, 4]).reshape(4, 1, 1, 1))
    apply_masks(layer, next_masks(score(layer, "filter_l1"), 0.25, "layer", "filter_l1", {}))
    layer.weight.data[3, 0, 0, 0] = 0  # in the filter of the largest norm
    masks = next_masks(score(layer, "filter_l1"), 0.5, "layer", "filter_l1", pruning.masks_of(layer))
    check_counts(masks, 0.5, "filter_l1", "layer")
    assert [filter_mask.any().item() for filter_mask in masks["weight"]] == [False, False, True, True]


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
        (0, 9, 4, [4, 8, 9]),
        (7, 7, 3, [7]),
        (3, 5, 100, [3, 5]),
    ],
)
def test_pruning_fires_on_the_grid_and_at_the_end_and_never_at_step_0(begin, end, frequency, steps):
    ours = GradualPruning(0.7, begin, end, frequency).sparsities()
    assert list(ours) == steps and ours[end] == 0.7
    for step in steps[:-1]:
        assert ours[step] == pytest.approx(0.7 * (1 - ((end - step) / (end - begin)) ** 3), abs=1e-12)


# While training


@pytest.mark.parametrize(
    "criterion, scope",
    [("levai_zombori", "erk"), ("filter_l1", "layer"), ("synflow", "layer")],
)
def test_at_every_firing_the_asked_number_is_zero_and_sums_begin_anew(criterion, scope):
    network, schedule, masks = random_network(3), GradualPruning(0.85, 2, 12, 4, criterion, scope), {}
    losses, sums = lambda step: losses_of(network, some_batches(step, 2)), some_sums(network)
    prune_at = gradual_pruner(network, masks, schedule, losses, (0, "a key"), sums)
    for step in range(1, 14):
        prune_at(step)
        zeros = measure_sparsity(network)["zeros"]
        if step in schedule.sparsities():
            check_counts(masks, schedule.sparsities()[step], criterion, scope)
            assert not any(total.any() for total in sums.values())
        assert zeros == sum(int((mask == 0).sum()) for mask in masks.values())
        for total in sums.values():
            total.add_(torch.rand(total.shape))
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.01)
        apply_masks(network, masks)
    assert len(schedule.sparsities()) == 4 and zeros > 0


def test_the_increase_is_measured_from_the_weights_at_the_start():
    layer = nn.Linear(4, 1, bias=False)
    layer.weight.data = torch.tensor([[4.0, 3, 2, 1]])
    masks = {}
    prune_at = gradual_pruner(layer, masks, GradualPruning(0.5, 1, 1, 1, "magnitude_increase"), None, ())
    layer.weight.data.copy_(torch.tensor([[4.5, -2.0, 1.0, -3.0]]))  # 0.5, -1, -1, 2 more than at the start
    prune_at(1)
    assert masks["weight"].tolist() == [[1, 0, 0, 1]] and layer.weight.tolist() == [[4.5, 0, 0, -3]]


def prune_with_hooks(network, sparsity, scope):
    """One more round of torch's pruning up to a sparsity, by counts."""
    triples = prunable_modules(network)
    for _, module, name in triples:
        if hasattr(module, f"{name}_orig"):
            # torch compares the values of the last forward pass, which are a step old.
            setattr(module, name, getattr(module, f"{name}_orig") * getattr(module, f"{name}_mask"))
    already = {key: int((mask == 0).sum()) for key, mask in torch_masks(network).items()}
    sizes = {f"{prefix}.{name}": getattr(module, name).numel() for prefix, module, name in triples}
    if scope == "global":
        amount = round(sparsity * sum(sizes.values())) - sum(already.values())
        pairs = [(module, name) for _, module, name in triples]
        prune.global_unstructured(pairs, prune.L1Unstructured, amount=amount)
    else:
        for prefix, module, name in triples:
            key = f"{prefix}.{name}"
            prune.l1_unstructured(module, name, amount=round(sparsity * sizes[key]) - already.get(key, 0))


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("options", [{}, {"nesterov": True, "weight_decay": 5e-3}])
def test_pruning_while_training_equals_torchs_hooks_applied_again_and_again(options, scope):
    network, masks, schedule = random_network(0), {}, GradualPruning(0.9, 3, 20, 4, "magnitude", scope)
    theirs = copy.deepcopy(network)
    prune_at, sparsities = gradual_pruner(network, masks, schedule, None, ()), schedule.sparsities()
    optimizer, their_optimizer = (
        torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, **options) for model in (network, theirs)
    )
    for step in range(1, 26):
        prune_at(step)
        if step in sparsities:
            prune_with_hooks(theirs, sparsities[step], scope)
        for model, its_optimizer in ((network, optimizer), (theirs, their_optimizer)):
            for loss in losses_of(model, some_batches(1000 + step, 1, 16)):
                its_optimizer.zero_grad()
                loss.backward()
                its_optimizer.step()
        apply_masks(network, masks)
        for prefix, module, name in prunable_modules(theirs):
            key, expected = f"{prefix}.{name}", getattr(module, name)
            if masks:
                expected = getattr(module, f"{name}_orig") * getattr(module, f"{name}_mask")
            torch.testing.assert_close(prunable_parameters(network)[key], expected, rtol=1e-5, atol=1e-6)
            assert not masks or torch.equal(masks[key], getattr(module, f"{name}_mask"))
    assert measure_sparsity(network)["total"] == pytest.approx(0.9, abs=0.01)
