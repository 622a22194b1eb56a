"""How alike masks and PIE sets are, and tests of means: against slow loops, Python sets, simulations and
scipy."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import scipy.stats

from figures.report import similarity


def slow_jaccard(one, other):
    """Of two Python sets."""
    return len(one & other) / len(one | other) if one | other else math.nan


def kept_of(mask, start=0, end=None):
    """The set of the places that a mask keeps between start and end."""
    end = len(mask) if end is None else end
    return {index for index in range(start, end) if mask[index]}


def mean_or_nan(values):
    return sum(values) / len(values) if values else math.nan


def defined(values):
    return [value for value in values if not math.isnan(value)]


def random_masks(count, size, seed, densities=(0.1, 0.5, 0.9)):
    rng = np.random.default_rng(seed)
    return np.stack([rng.random(size) < densities[index % len(densities)] for index in range(count)])


# Masks


def test_intersections_of_large_layers_are_exact():
    masks = np.ones((2, 3_000_001), dtype=bool)
    masks[1, 17] = False
    assert similarity.mask_intersections(masks, [3_000_000, 1])[..., 0].tolist() == [
        [3_000_000, 2_999_999],
        [2_999_999, 2_999_999],
    ]


def slow_mask_similarity(masks, sizes, groups, seeds, one, other):
    """(same, different, chance, chance_by_layer, same_pairs, different_pairs) of two groups: loops over all
    ordered pairs of networks."""
    bounds = [*zip(np.cumsum([0, *sizes]), np.cumsum(sizes)), (0, sum(sizes))]
    firsts, seconds = ([m for m in range(len(masks)) if groups[m] == group] for group in (one, other))
    pairs = {True: [], False: []}
    for a, b in itertools.product(firsts, seconds):
        if a != b:
            pairs[bool(seeds[a] == seeds[b])].append((a, b))
    same, different = (
        [
            mean_or_nan(
                defined(
                    [
                        slow_jaccard(kept_of(masks[a], *bound), kept_of(masks[b], *bound))
                        for a, b in pairs[alike]
                    ]
                )
            )
            for bound in bounds
        ]
        for alike in (True, False)
    )
    density = [
        [
            mean_or_nan([len(kept_of(masks[m], *bound)) / (bound[1] - bound[0]) for m in members])
            for bound in bounds
        ]
        for members in (firsts, seconds)
    ]
    chance = [d * e / (d + e - d * e) if d + e else math.nan for d, e in zip(*density)]
    both = sum(size * d * e for size, d, e in zip(sizes, *density))
    either = sum(size * (d + e - d * e) for size, d, e in zip(sizes, *density))
    return same, different, chance, both / either, len(pairs[True]), len(pairs[False])


MASKS = {  # groups, seeds of the networks; of those that keep nothing of the second layer which
    "other sizes and seeds": ([2, 0, 0, 1, 2, 0, 2], [5, 0, 1, 0, 6, 2, 1], []),
    "one network": ([0], [4], []),
    "a group without a layer": ([0, 0, 1, 1, 2, 2], [0, 1] * 3, [0, 1]),
    "pairs without a layer": ([0, 0, 0, 1, 1, 1], [0, 1, 2] * 2, [0, 1, 3]),
}


@pytest.mark.parametrize("groups, seeds, empty", MASKS.values(), ids=MASKS)
def test_mask_similarities_equal_loops_over_all_pairs_of_networks(groups, seeds, empty):
    sizes, masks = [30, 10], random_masks(len(groups), 40, seed=len(groups))
    masks[empty, 30:] = False
    found = similarity.mask_similarity(masks, sizes, np.array(groups), np.array(seeds))
    for one, other in itertools.product(range(max(groups) + 1), repeat=2):
        slow = slow_mask_similarity(masks, sizes, groups, seeds, one, other)
        names = ("same", "different", "chance", "chance_by_layer", "same_pairs", "different_pairs")
        for name, expected in zip(names, slow):
            np.testing.assert_allclose(getattr(found, name)[one, other], expected, rtol=1e-12, err_msg=name)


# PIEs


@pytest.mark.parametrize("total", [1, 2, 5, 7])
def test_the_expected_jaccard_is_the_mean_over_all_sets(total):
    for one, other in itertools.product(range(total + 1), repeat=2):
        fixed = set(range(one))
        values = [slow_jaccard(fixed, set(chosen)) for chosen in itertools.combinations(range(total), other)]
        assert similarity.expected_jaccard(one, other, total) == pytest.approx(
            sum(values) / len(values), rel=1e-9, nan_ok=True
        )


@pytest.mark.parametrize("groups", [1, 2, 5])
def test_common_and_unique_pies_equal_a_slow_count(groups):
    rng = np.random.default_rng(groups)
    is_pie, labels = rng.random((groups, 200)) < 0.3, rng.integers(0, 5, 200)
    counts = [Counter() for _ in range(groups + 1)]
    for image in range(200):
        owners = [group for group in range(groups) if is_pie[group, image]]
        if owners:
            counts[owners[0] if len(owners) == 1 else groups][int(labels[image])] += 1
    found = similarity.common_and_unique_pies(is_pie, labels, 7)
    assert found.tolist() == [[count[label] for label in range(7)] for count in counts]
    with pytest.raises(ValueError, match="labels must be whole numbers between 0 and 3"):
        similarity.common_and_unique_pies(is_pie, labels, 4)


# Tests


@pytest.mark.parametrize("rows, other_rows", [(2, 2), (2, 9), (30, 3)])
def test_tests_of_means_equal_scipys(rows, other_rows):
    rng = np.random.default_rng(rows)
    one = rng.normal(0.9, 0.01, (rows, 12))
    other = rng.normal(0.9, np.linspace(0.001, 0.05, 12), (other_rows, 12))
    expected = [scipy.stats.ttest_ind(a, b, equal_var=False).pvalue for a, b in zip(one.T, other.T)]
    np.testing.assert_allclose(similarity.t_test(one, other, paired=False), expected, rtol=1e-8)
    moved = one + rng.normal(0.01, 0.01, one.shape)
    expected = [scipy.stats.ttest_1samp(b - a, 0).pvalue for a, b in zip(one.T, moved.T)]
    np.testing.assert_allclose(similarity.t_test(moved, one, paired=True), expected, rtol=1e-8)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("paired", [True, False])
def test_without_spread_or_with_one_row_there_is_no_p_value(paired):
    rng = np.random.default_rng(0)
    one, other = rng.random((4, 3)), rng.random((4, 3))
    one[:, 1], other[:, 1] = 0.7, 0.1
    assert np.isnan(similarity.t_test(one, other, paired)).tolist() == [False, True, False]
    assert np.isnan(similarity.t_test(one[:1], other[:1], paired)).tolist() == [True] * 3
    one[:, 2] = np.nan
    assert np.isnan(similarity.t_test(one, other, paired)).tolist() == [False, True, True]


@pytest.mark.parametrize(
    "p, expected",
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.6, math.nan, 0.5], [1, math.nan, 1]),
        ([math.nan, math.nan], [math.nan, math.nan]),
        ([], []),
    ],
)
def test_holms_correction_equals_its_definition(p, expected):
    np.testing.assert_allclose(similarity.holm(np.array(p)), expected)
