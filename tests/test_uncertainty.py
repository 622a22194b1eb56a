"""Intervals over seeds against slow loops, classical formulas and worlds whose truth is known."""

import itertools
import math

import numpy as np
import pytest
import worlds
from conftest import GOLDEN_HERE

from common import metrics, voting
from figures.report import uncertainty

# Modal labels of many sets


# Sets of seeds


@pytest.mark.parametrize("seeds", [6, 7, 8])
def test_few_seeds_have_all_their_halves_once_and_what_each_leaves_out(seeds):
    halves = uncertainty.half_samples(seeds)
    first, second = np.split(halves, 2)
    assert (first == ~second).all() and (first.sum(1) == seeds // 2).all()
    sizes = (seeds // 2, seeds - seeds // 2)
    expected = {subset for size in sizes for subset in itertools.combinations(range(seeds), size)}
    assert {tuple(np.flatnonzero(half)) for half in halves} == expected and len(halves) == len(expected)


@pytest.mark.parametrize("seeds", [12, 13, 30])
def test_many_seeds_have_300_random_halves_the_same_every_time(seeds):
    halves = uncertainty.half_samples(seeds)
    first, second = np.split(halves, 2)
    assert len(halves) == 300 and (first == ~second).all() and (first.sum(1) == seeds // 2).all()
    assert (halves == uncertainty.half_samples(seeds)).all() and len({*map(bytes, first)}) > 100


@pytest.mark.parametrize("seeds", [6, 7])
def test_half_samples_of_unrelated_seeds_are_paired_anew_within_their_size(seeds):
    halves = uncertainty.half_samples(seeds)
    assert uncertainty.reordered(len(halves), 0).tolist() == list(range(len(halves)))
    order = uncertainty.reordered(len(halves), 1)
    assert sorted(order) == list(range(len(halves))) and order.tolist() != sorted(order)
    assert (halves[order].sum(1) == halves.sum(1)).all()


@pytest.mark.parametrize("seeds", [2, 3, 6, 7, 30])
def test_every_pair_of_seeds_is_left_out_once(seeds):
    kept = uncertainty.leave_two_out(seeds)
    left_out = sorted(tuple(np.flatnonzero(~row)) for row in kept)
    assert left_out == list(itertools.combinations(range(seeds), 2))


@pytest.mark.parametrize("seeds", [2, 6, 7, 30])
def test_splits_are_of_disjoint_halves_of_equal_size(seeds):
    first, second = uncertainty.random_halves(seeds, 50)
    assert first.shape == (50, seeds) and not (first & second).any()
    assert (first.sum(1) == seeds // 2).all() and (second.sum(1) == seeds // 2).all()
    assert len({*map(bytes, first)}) > (1 if seeds == 2 else 10), "splits differ"


@pytest.mark.parametrize("seeds, sets", [(3, 1), (6, 1 + 15), (9, 1 + 30)])
def test_splits_are_of_all_seeds_and_of_sets_without_two(seeds, sets):
    splits = uncertainty.splits_of_sets(seeds)
    assert splits.shape == (2, sets, uncertainty.SPLITS, seeds)
    voting = splits.any((0, 2)).sum(1).tolist()
    assert voting == [seeds] + [seeds - 2] * (sets - 1)


# Intervals


def interval(estimate):
    return estimate["low"], estimate["high"]


@pytest.mark.parametrize("seeds, t", [(6, 2.5705818), (7, 2.4469119), (10, 2.2621572)])
def test_a_half_sampled_interval_equals_its_formula(seeds, t):
    halves = uncertainty.half_samples(seeds)
    replicates = np.random.default_rng(seeds).normal(20, 5, len(halves))
    variances = []
    for size in {seeds // 2, seeds - seeds // 2}:
        values = [value for value, half in zip(replicates.tolist(), halves) if half.sum() == size]
        mean = sum(values) / len(values)
        variances.append(sum((value - mean) ** 2 for value in values) / len(values))
    half = t * math.sqrt(sum(variances) / len(variances))
    estimate = uncertainty.half_sampled(np.array([21.0, *replicates]), seeds)
    assert interval(estimate) == pytest.approx((21 - half, 21 + half))
    bounded = uncertainty.within(uncertainty.half_sampled(np.array([0.5, *replicates]), seeds), 0, math.inf)
    assert bounded["low"] == 0 and bounded["high"] == pytest.approx(0.5 + half)


@pytest.mark.parametrize("seeds", [6, 8, 10])
def test_for_a_mean_half_sampling_is_the_classical_interval(seeds):
    values = np.random.default_rng(seeds).gamma(2, 3, seeds)
    means = [values[half].mean() for half in uncertainty.half_samples(seeds)]
    # All halves of an even number: their variance is s^2 / K.
    estimate = uncertainty.half_sampled(np.array([values.mean(), *means]), seeds)
    assert interval(estimate) == pytest.approx(interval(uncertainty.mean_estimate(values)))
    half = uncertainty.student_t_quantile(seeds - 1) * values.std(ddof=1) / math.sqrt(seeds)
    assert interval(estimate) == pytest.approx((values.mean() - half, values.mean() + half))


@pytest.mark.parametrize("seeds", [6, 7])
def test_an_interval_of_a_ratio_equals_its_formula(seeds):
    rng, sets = np.random.default_rng(seeds), 1 + len(uncertainty.half_samples(seeds))
    whole = rng.integers(20, 40, sets)
    part = (whole * rng.uniform(0.2, 0.6, sets)).astype(int)
    share = sum(part[1:].tolist()) / sum(whole[1:].tolist())
    residuals = np.array([0.0] + [a - share * u for a, u in zip(part[1:], whole[1:])])
    error = uncertainty.half_sampled(residuals, seeds)["error"]
    error /= math.sqrt(whole[0] * sum(whole[1:].tolist()) / (sets - 1))
    estimate = uncertainty.half_sampled_ratio(part, whole, seeds)
    assert estimate["error"] == pytest.approx(error) and estimate["value"] == part[0] / whole[0]


def test_a_ratio_of_nothing_has_no_value():
    nothing = np.zeros(21)
    assert math.isnan(uncertainty.half_sampled_ratio(nothing, nothing, 6)["value"])
    only_all = np.array([4, *nothing[1:]])
    estimate = uncertainty.half_sampled_ratio(only_all / 2, only_all, 6)
    assert estimate["value"] == 0.5 and math.isnan(estimate["low"])


@pytest.mark.parametrize("seeds", [6, 7, 30])
def test_for_a_mean_the_jackknife_gives_the_classical_interval(seeds):
    values = np.random.default_rng(seeds).gamma(2, 3, seeds)
    means = [values[kept].mean() for kept in uncertainty.leave_two_out(seeds)]
    estimate = uncertainty.jackknifed(np.array([values.mean(), *means]), seeds)
    assert interval(estimate) == pytest.approx(interval(uncertainty.mean_estimate(values)))


def test_the_difference_of_unrelated_estimates_has_the_degrees_of_freedom_of_welch():
    from scipy import stats

    first, second = np.random.default_rng(0).normal(0, (3, 1), (8, 2)).T
    expected = stats.ttest_ind(first, second, equal_var=False)
    difference = uncertainty.independent_difference(*map(uncertainty.mean_estimate, (first, second)))
    low, high = expected.confidence_interval()
    assert difference["degrees"] == pytest.approx(expected.df)
    assert interval(difference) == pytest.approx((low, high)) and difference["models"] == 8


def test_fewer_than_six_seeds_or_no_spread_give_no_interval():
    assert uncertainty.FEWEST_SEEDS == 6
    for seeds in (0, 1, 2, 3, 5):
        mean = uncertainty.mean_estimate(np.arange(float(seeds)))
        assert np.isnan(interval(mean)).all() and mean["models"] == seeds
        assert np.isnan(interval(uncertainty.half_sampled(np.array([3.0]), seeds))).all()
    for estimate in (uncertainty.mean_estimate(np.ones(8)), uncertainty.half_sampled(np.full(21, 4), 6)):
        assert np.isnan(interval(estimate)).all() and not math.isnan(estimate["value"])
    missing = uncertainty.mean_estimate(np.array([*range(7), math.nan]))
    assert np.isnan([missing["value"], *interval(missing)]).all()


def test_the_interval_of_the_golden_pies_has_their_number_in_it_and_the_bootstrap_has_not():
    golden = np.load(GOLDEN_HERE / "pies.npz")
    dense, pruned = golden["dense_predictions"], golden["pruned_predictions"]
    sets = np.concatenate([np.ones((1, 30), bool), uncertainty.half_samples(30)])
    labels = [voting.modal_labels_of_sets(predictions, sets, 12) for predictions in (dense, pruned)]
    counts = (labels[0] != labels[1]).sum(1)
    low, high = interval(uncertainty.half_sampled(counts, 30))
    assert counts[0] == golden["is_pie"].sum() == 23 and low < 23 < high and high - low < 30
    drawn = np.random.default_rng(0).integers(30, size=(200, 30))
    counts = [metrics.find_pies(dense[row], pruned[row], 10).sum() for row in drawn]
    assert np.quantile(counts, 0.025) > 23


# Coverage: do intervals contain the truth as often as they say?


def check_coverage(world, seeds, draws, truth_draws, least, widest):
    cells = worlds.coverage(world, seeds, draws, truth_draws)
    assert {name: share for name, (share, _) in cells.items() if share < least} == {}
    sampled = {name: width for name, (_, width) in cells.items() if not name.startswith("excess")}
    assert {name: width for name, width in sampled.items() if width > widest} == {}


@pytest.mark.parametrize("seeds", [6, 10])
@pytest.mark.parametrize("world", worlds.WORLDS)
def test_intervals_contain_the_truth_of_a_known_world(world, seeds):
    # A share of 60 draws scatters by 3 percentage points.
    check_coverage(world, seeds, 60, 150, 0.85, 2)


@pytest.mark.slow
@pytest.mark.parametrize("seeds, widest", [(6, 2), (10, 1.6), (30, 1.35)])
@pytest.mark.parametrize("world", worlds.WORLDS)
def test_intervals_cover_as_the_documentation_says(world, seeds, widest):
    check_coverage(world, seeds, 300, worlds.TRUTH_DRAWS, 0.92, widest)
