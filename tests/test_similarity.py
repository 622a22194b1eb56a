"""How alike masks, PIE sets and recalls are: against slow loops, Python sets, simulations and scipy."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import scipy.stats

from figures.report import similarity
from figures.report.similarity import Recalls


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


@pytest.mark.parametrize("sizes", [[40], [7, 1, 20, 3], [1, 1]])
def test_intersections_equal_those_of_sets_in_every_layer(sizes):
    masks = random_masks(5, sum(sizes), seed=len(sizes))
    found = similarity.mask_intersections(masks, sizes)
    assert found.shape == (5, 5, len(sizes)) and found.dtype == np.float64
    for layer, (start, size) in enumerate(zip(np.cumsum([0, *sizes]), sizes)):
        for one, other in itertools.product(range(5), repeat=2):
            assert found[one, other, layer] == len(
                kept_of(masks[one], start, start + size) & kept_of(masks[other], start, start + size)
            )


def test_intersections_of_large_layers_are_exact():
    masks = np.ones((2, 3_000_001), dtype=bool)
    masks[1, 17] = False
    assert similarity.mask_intersections(masks, [3_000_000, 1])[..., 0].tolist() == [
        [3_000_000, 2_999_999],
        [2_999_999, 2_999_999],
    ]


def test_jaccard_equals_that_of_sets_and_is_not_defined_for_empty_ones():
    sets = [set(), {1}, {1, 2, 3}, {4}, {2, 3, 4, 5}, set(range(10))]
    for one, other in itertools.product(sets, repeat=2):
        found = similarity.jaccard(
            np.array(float(len(one & other))), np.array(float(len(one))), np.array(float(len(other)))
        )
        assert found == pytest.approx(slow_jaccard(one, other), nan_ok=True)


@pytest.mark.parametrize("one, other", [(0.5, 0.5), (0.05, 0.05), (0.1, 0.7), (1.0, 0.3), (1.0, 1.0)])
def test_chance_jaccard_is_that_of_large_random_masks(one, other):
    rng = np.random.default_rng(0)
    simulated = slow_jaccard(
        *(
            set(np.flatnonzero(rng.permutation(200_000) < density * 200_000).tolist())
            for density in (one, other)
        )
    )
    assert similarity.chance_jaccard(np.array(one), np.array(other)) == pytest.approx(simulated, abs=0.004)
    if one == other:
        assert similarity.chance_jaccard(np.array(one), np.array(other)) == pytest.approx(one / (2 - one))


def test_chance_jaccard_of_empty_masks_is_not_defined():
    assert np.isnan(similarity.chance_jaccard(np.array(0.0), np.array(0.0)))
    assert similarity.chance_jaccard(np.array(0.0), np.array(0.5)) == 0


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


def check_mask_similarity(masks, sizes, groups, seeds):
    groups, seeds = np.array(groups), np.array(seeds)
    found = similarity.mask_similarity(masks, sizes, groups, seeds)
    count = groups.max() + 1
    assert found.same.shape == found.different.shape == found.chance.shape == (count, count, len(sizes) + 1)
    assert (
        found.chance_by_layer.shape == found.same_pairs.shape == found.different_pairs.shape == (count, count)
    )
    for one, other in itertools.product(range(count), repeat=2):
        same, different, chance, by_layer, same_pairs, different_pairs = slow_mask_similarity(
            masks, sizes, groups, seeds, one, other
        )
        np.testing.assert_allclose(found.same[one, other], same, rtol=1e-12)
        np.testing.assert_allclose(found.different[one, other], different, rtol=1e-12)
        np.testing.assert_allclose(found.chance[one, other], chance, rtol=1e-12)
        assert found.chance_by_layer[one, other] == pytest.approx(by_layer)
        assert (found.same_pairs[one, other], found.different_pairs[one, other]) == (
            same_pairs,
            different_pairs,
        )
    return found


def test_mask_similarities_equal_loops_over_all_pairs_of_networks():
    found = check_mask_similarity(
        random_masks(9, 60, seed=0), [30, 20, 10], [0, 0, 0, 1, 1, 1, 2, 2, 2], [0, 1, 2] * 3
    )
    assert (
        found.same_pairs.tolist() == [[0, 3, 3], [3, 0, 3], [3, 3, 0]] and (found.different_pairs == 6).all()
    )
    assert np.isnan(np.einsum("ggl->gl", found.same)).all(), "a network is no pair with itself"


def test_mask_similarities_of_groups_of_different_sizes_and_seeds_equal_loops():
    found = check_mask_similarity(
        random_masks(7, 50, seed=1), [25, 25], [2, 0, 0, 1, 2, 0, 2], [5, 0, 1, 0, 6, 2, 1]
    )
    assert (
        found.different_pairs[1, 1] == found.same_pairs[1, 1] == 0 and np.isnan(found.different[1, 1]).all()
    )
    assert (
        found.same_pairs[1, 2] == 0 and np.isnan(found.same[1, 2]).all() and found.different_pairs[1, 2] == 3
    )
    assert found.same_pairs[0, 2] == 1 and found.different_pairs[0, 2] == 8


def test_mask_similarities_of_a_single_network_are_not_defined():
    found = check_mask_similarity(random_masks(1, 30, seed=2, densities=(0.5,)), [10, 20], [0], [4])
    assert np.isnan(found.same).all() and np.isnan(found.different).all() and not np.isnan(found.chance).any()


def test_the_same_seed_twice_in_a_group_is_a_pair_of_the_same_seed():
    found = check_mask_similarity(random_masks(3, 30, seed=3), [30], [0, 0, 0], [0, 0, 1])
    assert found.same_pairs[0, 0] == 2 and found.different_pairs[0, 0] == 4


def test_equal_masks_have_similarity_one_and_disjoint_ones_zero():
    mask = np.arange(20) % 2 == 0
    found = similarity.mask_similarity(
        np.stack([mask, mask, ~mask, ~mask]), [12, 8], np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    )
    assert (
        (found.different[0, 0] == 1).all()
        and (found.different[0, 1] == 0).all()
        and (found.same[0, 1] == 0).all()
    )


def test_a_layer_of_which_one_group_keeps_nothing_says_nothing_about_that_group_only():
    masks = random_masks(6, 40, seed=4, densities=(0.5,))
    masks[:2, 30:] = False  # group 0 keeps nothing of the second layer
    sizes, groups, seeds = [30, 10], np.array([0, 0, 1, 1, 2, 2]), np.array([0, 1] * 3)
    found = check_mask_similarity(masks, sizes, groups, seeds)
    assert np.isnan(found.different[0, 0, 1]) and np.isnan(found.chance[0, 0, 1])
    assert (found.different[0, 1:, 1] == 0).all() and (found.different[1:, 1:, 1] > 0).all()
    assert not np.isnan(found.different[..., 2]).any()


def test_pairs_of_networks_that_both_keep_nothing_of_a_layer_do_not_count_in_its_mean():
    masks = random_masks(6, 40, seed=5, densities=(0.5,))
    masks[[0, 1, 3], 30:] = False
    found = check_mask_similarity(masks, [30, 10], [0, 0, 0, 1, 1, 1], [0, 1, 2, 0, 1, 2])
    assert found.different[0, 0, 1] == 0 and found.different[1, 1, 1] > 0


def test_random_masks_are_as_alike_as_chance_says():
    rng = np.random.default_rng(5)
    sizes, densities = [40_000, 20_000], [(0.05, 0.6), (0.5, 0.3)]
    masks = np.stack(
        [
            np.concatenate([rng.random(size) < density for size, density in zip(sizes, densities[m // 2])])
            for m in range(4)
        ]
    )
    found = similarity.mask_similarity(masks, sizes, np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]))
    np.testing.assert_allclose(found.different[..., :2], found.chance[..., :2], atol=0.01)
    np.testing.assert_allclose(found.different[..., 2], found.chance_by_layer, atol=0.01)
    assert abs(found.different[0, 0, 2] - found.chance[0, 0, 2]) > 0.1, (
        "densities of layers differ, so chance over all layers is another number"
    )


def test_shares_of_zero_filters_and_channels_equal_loops():
    rng = np.random.default_rng(0)
    for density in (0.02, 0.1, 0.5):
        mask = rng.random((6, 5, 3, 2)) < density
        filters = [
            not any(mask[f, c, y, x] for c in range(5) for y in range(3) for x in range(2)) for f in range(6)
        ]
        channels = [
            not any(mask[f, c, y, x] for f in range(6) for y in range(3) for x in range(2)) for c in range(5)
        ]
        assert similarity.zero_shares(mask) == (
            pytest.approx(sum(filters) / 6),
            pytest.approx(sum(channels) / 5),
        )


def test_shares_of_zero_filters_and_channels_of_hand_made_masks():
    mask = np.ones((4, 2, 1, 1), dtype=bool)
    assert similarity.zero_shares(mask) == (0, 0)
    mask[:3] = False
    assert similarity.zero_shares(mask) == (0.75, 0)
    mask[:, 1] = False
    assert similarity.zero_shares(mask) == (0.75, 0.5)
    assert similarity.zero_shares(np.zeros((4, 2, 3, 3), dtype=bool)) == (1, 1)


@pytest.mark.parametrize(
    "size, zeros, part",
    [
        (10, 5, 2),
        (432, 400, 27),
        (36_864, 35_000, 576),
        (589_824, 560_333, 1152),
        (20, 19, 1),
        (20, 20, 5),
        (12, 4, 4),
    ],
)
def test_chance_of_a_zero_part_is_hypergeometric(size, zeros, part):
    expected = scipy.stats.hypergeom(size, zeros, part).pmf(part)
    assert similarity.chance_zero_share(size, zeros, part) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "size, zeros, part, expected",
    [(20, 4, 5, 0), (20, 0, 1, 0), (20, 20, 5, 1), (20, 20, 20, 1), (20, 19, 20, 0), (20, 7, 1, 0.35)],
)
def test_chance_of_a_zero_part_at_its_ends(size, zeros, part, expected):
    assert similarity.chance_zero_share(size, zeros, part) == pytest.approx(expected)


def test_chance_of_zero_filters_is_that_of_shuffled_masks():
    rng = np.random.default_rng(0)
    mask = np.arange(6 * 2 * 2) >= 17
    simulated = np.mean(
        [similarity.zero_shares(rng.permutation(mask).reshape(6, 2, 2, 1)) for _ in range(4000)], axis=0
    )
    assert similarity.chance_zero_share(24, 17, 4) == pytest.approx(simulated[0], abs=0.01)
    assert similarity.chance_zero_share(24, 17, 12) == pytest.approx(simulated[1], abs=0.005)


# PIEs


@pytest.mark.parametrize("total", [1, 2, 5, 7])
def test_the_expected_jaccard_is_the_mean_over_all_sets(total):
    for one, other in itertools.product(range(total + 1), repeat=2):
        fixed = set(range(one))
        values = [slow_jaccard(fixed, set(chosen)) for chosen in itertools.combinations(range(total), other)]
        assert similarity.expected_jaccard(one, other, total) == pytest.approx(
            sum(values) / len(values), rel=1e-9, nan_ok=True
        )


def test_the_expected_jaccard_at_its_ends():
    assert math.isnan(similarity.expected_jaccard(0, 0, 10))
    assert similarity.expected_jaccard(0, 4, 10) == similarity.expected_jaccard(4, 0, 10) == 0
    assert similarity.expected_jaccard(10, 4, 10) == pytest.approx(0.4)
    assert similarity.expected_jaccard(10, 10, 10) == pytest.approx(1)


@pytest.mark.parametrize("one, other", [(5000, 6200), (3, 9999), (9000, 9500), (40, 70), (10000, 10000)])
def test_the_expected_jaccard_leaves_out_nothing_that_counts(one, other):
    common = np.arange(max(0, one + other - 10000), min(one, other) + 1)
    shares = scipy.stats.hypergeom.pmf(common, 10000, one, other)
    expected = (shares * common / (one + other - common)).sum()
    assert similarity.expected_jaccard(one, other, 10000) == pytest.approx(expected, rel=1e-12)


def test_the_expected_jaccard_of_many_images_is_near_that_of_large_random_sets():
    assert similarity.expected_jaccard(3000, 500, 10_000) == pytest.approx(
        float(similarity.chance_jaccard(np.array(0.3), np.array(0.05))), rel=1e-3
    )
    distribution = scipy.stats.hypergeom(10_000, 3000, 500)
    expected = sum(distribution.pmf(k) * k / (3500 - k) for k in range(501))
    assert similarity.expected_jaccard(3000, 500, 10_000) == pytest.approx(expected, rel=1e-7)


def check_pie_overlap(is_pie):
    found = similarity.pie_overlap(is_pie)
    groups, images = is_pie.shape
    sets = [kept_of(one) for one in is_pie]
    assert found["size"].tolist() == [len(one) for one in sets]
    for i, one in enumerate(sets):
        others = set().union(*(other for j, other in enumerate(sets) if j != i))
        assert found["unique"][i] == pytest.approx(
            len(one - others) / len(one) if one else math.nan, nan_ok=True
        )
        free = math.prod(1 - len(other) / images for j, other in enumerate(sets) if j != i)
        assert found["chance_unique"][i] == pytest.approx(free if one else math.nan, nan_ok=True)
        for j, other in enumerate(sets):
            assert found["jaccard"][i, j] == pytest.approx(slow_jaccard(one, other), nan_ok=True)
            assert found["chance_jaccard"][i, j] == pytest.approx(
                similarity.expected_jaccard(len(one), len(other), images), nan_ok=True
            )
            assert found["unique_pair"][i, j] == pytest.approx(
                len(one - other) / len(one) if one else math.nan, nan_ok=True
            )
            assert found["chance_unique_pair"][i, j] == pytest.approx(
                1 - len(other) / images if one else math.nan, nan_ok=True
            )
    return found


@pytest.mark.parametrize(
    "shares", [(0.1, 0.3, 0.5, 0.05), (0.2, 0.2), (0.4,), (0.0, 0.3, 0.0), (1.0, 0.5, 0.0), (0.0,)]
)
def test_overlaps_of_pie_sets_equal_those_of_python_sets(shares):
    rng = np.random.default_rng(len(shares))
    check_pie_overlap(np.stack([rng.random(80) < share for share in shares]))


def test_overlaps_of_hand_made_pie_sets():
    is_pie = np.array([[1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 0], [0, 0, 0, 1, 0, 0]], dtype=bool)
    found = check_pie_overlap(is_pie)
    assert (
        found["jaccard"][0, 1] == 0.4
        and found["jaccard"][2, 0] == 0.25
        and (found["jaccard"].diagonal() == 1).all()
    )
    assert (
        found["unique"].tolist() == [0.5, pytest.approx(1 / 3), 0]
        and found["unique_pair"][0, 2] == 0.75
        and found["unique_pair"][2, 0] == 0
    )
    assert found["chance_unique"][0] == pytest.approx(0.5 * 5 / 6)


def test_a_single_pie_set_is_all_unique():
    found = check_pie_overlap(np.array([[True, False, True]]))
    assert found["unique"].tolist() == found["chance_unique"].tolist() == [1]


def test_overlaps_by_chance_are_those_of_random_sets():
    rng = np.random.default_rng(0)
    sizes, images, found = (5, 12, 20), 40, []
    for _ in range(3000):
        is_pie = np.zeros((3, images), dtype=bool)
        for row, size in zip(is_pie, sizes):
            row[rng.permutation(images)[:size]] = True
        sets = [kept_of(one) for one in is_pie]
        unique = len(sets[0] - sets[1] - sets[2]) / 5, len(sets[2] - sets[0] - sets[1]) / 20
        found.append([slow_jaccard(sets[0], sets[1]), len(sets[1] - sets[2]) / 12, *unique])
    chance = similarity.pie_overlap(is_pie)
    expected = [
        chance["chance_jaccard"][0, 1],
        chance["chance_unique_pair"][1, 2],
        chance["chance_unique"][0],
        chance["chance_unique"][2],
    ]
    np.testing.assert_allclose(np.mean(found, axis=0), expected, atol=0.01)


@pytest.mark.parametrize("groups", [1, 2, 5])
def test_common_and_unique_pies_equal_a_slow_count_and_count_every_image_once(groups):
    rng = np.random.default_rng(groups)
    is_pie, labels = rng.random((groups, 200)) < 0.3, rng.integers(0, 5, 200)
    counts = [Counter() for _ in range(groups + 1)]
    for image in range(200):
        owners = [group for group in range(groups) if is_pie[group, image]]
        if owners:
            counts[owners[0] if len(owners) == 1 else groups][int(labels[image])] += 1
    found = similarity.common_and_unique_pies(is_pie, labels, 7)
    assert found.tolist() == [[count[label] for label in range(7)] for count in counts]
    for label in range(7):
        assert found[:, label].sum() == len(
            [image for image in range(200) if labels[image] == label and any(is_pie[:, image])]
        )


# Recalls


@pytest.mark.parametrize("rows, other_rows", [(2, 2), (2, 9), (5, 5), (30, 30), (30, 3)])
def test_welchs_test_equals_scipys(rows, other_rows):
    rng = np.random.default_rng(rows)
    one, other = (
        rng.normal(0.9, 0.01, (rows, 12)),
        rng.normal(np.linspace(0.85, 0.95, 12), np.linspace(0.001, 0.05, 12), (other_rows, 12)),
    )
    expected = scipy.stats.ttest_ind(one, other, equal_var=False).pvalue
    np.testing.assert_allclose(similarity.welch_test(one, other), expected, rtol=1e-8)


@pytest.mark.parametrize("rows", [2, 3, 10, 30])
def test_the_paired_test_equals_scipys(rows):
    rng = np.random.default_rng(rows)
    one = rng.normal(0.9, 0.05, (rows, 12))
    other = one + rng.normal(np.linspace(-0.03, 0.03, 12), 0.01, (rows, 12))
    expected = scipy.stats.ttest_rel(one, other).pvalue
    np.testing.assert_allclose(similarity.paired_test(one, other), expected, rtol=1e-8)


def test_the_paired_test_sees_what_welchs_test_does_not():
    one = np.linspace(0.1, 0.9, 8)[:, None]
    other = one + 0.02 + 0.001 * np.arange(8)[:, None] % 0.003
    assert similarity.paired_test(other, one)[0] < 1e-6 < 0.5 < similarity.welch_test(other, one)[0]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("test", [similarity.welch_test, similarity.paired_test])
def test_without_spread_or_with_one_row_there_is_no_p_value(test):
    rng = np.random.default_rng(0)
    one, other = rng.random((4, 3)), rng.random((4, 3))
    one[:, 1], other[:, 1] = 0.7, 0.1
    found = test(one, other)
    assert np.isnan(found).tolist() == [False, True, False]
    assert np.isnan(test(one[:1], other[:1])).tolist() == [True] * 3
    one[:, 2] = np.nan
    assert np.isnan(test(one, other)).tolist() == [False, True, True]


@pytest.mark.filterwarnings("error")
def test_welchs_test_of_one_row_and_several_has_no_p_value():
    rng = np.random.default_rng(0)
    one, other = rng.random((1, 3)), rng.random((4, 3))
    assert np.isnan([similarity.welch_test(one, other), similarity.welch_test(other, one)]).all()


@pytest.mark.filterwarnings("ignore:Precision loss")
def test_welchs_test_with_spread_on_one_side_only_equals_scipys():
    one, other = np.array([[0.5], [0.6], [0.8]]), np.full((4, 1), 0.9)
    expected = scipy.stats.ttest_ind(one, other, equal_var=False).pvalue
    np.testing.assert_allclose(similarity.welch_test(one, other), expected, rtol=1e-8)


def test_a_constant_difference_of_pairs_has_no_spread():
    one = np.random.default_rng(0).random((5, 2))
    assert np.isnan(similarity.paired_test(one + 0.25, one)).all()


@pytest.mark.parametrize("test", [similarity.welch_test, similarity.paired_test])
def test_p_values_of_equal_populations_are_about_uniform(test):
    rng = np.random.default_rng(0)
    p = test(rng.normal(0.9, 0.02, (10, 4000)), rng.normal(0.9, 0.02, (10, 4000)))
    for level in (0.01, 0.05, 0.25, 0.5, 0.75, 0.95):
        assert (p < level).mean() == pytest.approx(level, abs=0.025 if level > 0.05 else 0.35 * level)


def slow_holm(p):
    """The smallest level at which Holm's procedure rejects each hypothesis, from its definition: the largest
    corrected p so far."""
    known = sorted((value, index) for index, value in enumerate(p) if not math.isnan(value))
    corrected = [math.nan] * len(p)
    for rank, (_, index) in enumerate(known):
        corrected[index] = max(
            min(1.0, (len(known) - before) * known[before][0]) for before in range(rank + 1)
        )
    return corrected


def test_holms_correction_of_a_hand_computed_example():
    np.testing.assert_allclose(similarity.holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(similarity.holm(np.array([0.6, np.nan, 0.5])), [1, np.nan, 1])
    np.testing.assert_allclose(similarity.holm(np.array([0.03])), [0.03])
    assert np.isnan(similarity.holm(np.array([np.nan, np.nan]))).all() and similarity.holm(
        np.array([])
    ).shape == (0,)


def test_holms_correction_equals_a_slow_one_is_monotone_and_never_lowers_p():
    rng = np.random.default_rng(0)
    for count in (1, 2, 5, 10, 40):
        p = rng.random(count) ** 3
        p[rng.random(count) < 0.2] = np.nan
        p[: count // 4] = p[count // 2]  # equal values
        found = similarity.holm(p)
        np.testing.assert_allclose(found, slow_holm(p.tolist()), rtol=1e-12)
        known = np.flatnonzero(~np.isnan(p))
        assert np.isnan(found).tolist() == np.isnan(p).tolist()
        assert (found[known] >= p[known]).all() and (found[known] <= 1).all()
        for i, j in itertools.product(known, repeat=2):
            assert p[i] > p[j] or found[i] <= found[j]


def test_holms_correction_bounds_false_alarms_over_all_tests():
    rng = np.random.default_rng(1)
    alarms = [(similarity.holm(rng.random(10)) < 0.05).any() for _ in range(3000)]
    assert 0.03 < np.mean(alarms) < 0.065


def slow_comparison(dense, pruned):
    """Class by class (difference, welch_p, paired_p): relative recalls in lists, tests by scipy."""
    shared = [model_id for model_id in pruned.ids.tolist() if model_id in dense.ids.tolist()]

    def relative(population, c, ids):
        places = [population.ids.tolist().index(model_id) for model_id in ids]
        mean = sum(population.accuracy[place] for place in places) / max(len(places), 1)
        return [population.recall[place, c] - mean for place in places]

    rows = []
    for c in range(dense.recall.shape[1]):
        before, after = (relative(population, c, population.ids.tolist()) for population in (dense, pruned))
        pairs = [relative(population, c, shared) for population in (pruned, dense)]
        difference = sum(after) / len(after) - sum(before) / len(before)
        welch = scipy.stats.ttest_ind(after, before, equal_var=False).pvalue
        rows.append(
            (difference, welch, scipy.stats.ttest_rel(*pairs).pvalue if len(shared) > 1 else math.nan)
        )
    return np.array(rows).T


def recalls_of(dense_ids, pruned_ids, classes=5):
    rng = np.random.default_rng(0)
    return [
        Recalls(
            rng.uniform(0.6, 0.9, (len(ids), classes)) - shift,
            rng.uniform(0.6, 0.9, len(ids)) - shift,
            np.array(ids),
        )
        for ids, shift in ((dense_ids, 0), (pruned_ids, 0.1))
    ]


@pytest.mark.parametrize(
    "dense_ids, pruned_ids, shared",
    [
        ([0, 1, 2], [0, 1, 2], 3),
        ([3, 0, 2, 1], [1, 2, 3, 0], 4),
        ([0, 1, 2, 3, 4], [7, 4, 2], 2),
        ([5, 9, 1], [1, 5, 2, 9, 0, 8], 3),
        ([0, 1, 2], [3, 4, 2], 1),
        ([0, 1], [2, 3, 4], 0),
    ],
)
def test_comparisons_of_recalls_equal_loops_over_classes_and_shared_ids(dense_ids, pruned_ids, shared):
    populations = recalls_of(dense_ids, pruned_ids)
    found = similarity.compare_recalls(*populations)
    difference, welch, paired = slow_comparison(*populations)
    np.testing.assert_allclose(found["difference"], difference, rtol=1e-10)
    np.testing.assert_allclose(found["welch_p"], welch, rtol=1e-8)
    np.testing.assert_allclose(found["paired_p"], paired, rtol=1e-8)
    np.testing.assert_allclose(found["paired_p_holm"], slow_holm(paired.tolist()), rtol=1e-8)
    assert found["paired_models"] == shared


def test_a_recall_that_falls_as_the_accuracy_does_has_not_changed():
    dense, _ = recalls_of([0, 1, 2, 3], [0])
    pruned = Recalls(dense.recall - 0.2, dense.accuracy - 0.2, dense.ids)
    found = similarity.compare_recalls(dense, pruned)
    np.testing.assert_allclose(found["difference"], 0, atol=1e-12)
    assert (found["welch_p"] > 0.999).all()


def test_a_class_without_images_has_no_comparison():
    populations = recalls_of([0, 1, 2], [0, 1, 2])
    for population in populations:
        population.recall[:, 2] = np.nan
    found = similarity.compare_recalls(*populations)
    for key in ("difference", "welch_p", "paired_p", "paired_p_holm"):
        assert np.isnan(found[key]).tolist() == [False, False, True, False, False]
    known = [0, 1, 3, 4]
    np.testing.assert_allclose(found["paired_p_holm"][known], slow_holm(found["paired_p"][known].tolist()))
