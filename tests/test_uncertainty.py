"""Intervals over seeds against slow loops, classical formulas and worlds whose truth is known."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import worlds
from scipy import stats

from figures.report import uncertainty
from figures.report.uncertainty import Sample, combine, of_networks


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
    order = uncertainty.reordered(len(halves))
    assert sorted(order) == list(range(len(halves))) and order.tolist() != sorted(order)
    assert (halves[order].sum(1) == halves.sum(1)).all()


@pytest.mark.parametrize("seeds, number", [(6, 10), (7, 70), (8, 35), (10, 70), (11, 70), (30, 70)])
def test_all_seeds_and_sets_of_them_are_split_into_disjoint_halves(seeds, number):
    all_seeds, subsets = uncertainty.splits_of_seeds(seeds), uncertainty.splits_of_subsets(seeds)
    for first, second in (all_seeds, subsets):
        assert not (first & second).any() and (first.sum(-1) == second.sum(-1)).all()
    assert all_seeds.shape[2] == number
    distinct = {frozenset(map(bytes, pair)) for pair in zip(*all_seeds[:, 0])}
    assert len(distinct) == number or seeds > 8
    sets = subsets.any((0, 2))
    if seeds < 8:
        assert {*map(bytes, sets)} == {*map(bytes, uncertainty.leave_two_out(seeds))}
        counts = Counter(frozenset(map(bytes, pair)) for pair in zip(*subsets[:, 0]))
        assert sorted(counts.values()) == ([5] * 3 if seeds == 6 else [1] * 15)
        return
    few = {8: 4, 10: 4, 11: 6, 30: 14}[seeds]
    assert sets.sum(1).tolist() == [few] * 50 + [seeds - few] * 50
    assert (sets[:50] == ~sets[50:]).all()


def interval(estimate):
    return estimate["low"], estimate["high"]


def halves_of(values, seeds):
    """The sample of a statistic of half-samples."""
    return Sample(tuple(range(seeds)), "halves", np.array(values[:1]), np.array(values[1:])[:, None])


@pytest.mark.parametrize("kind", ["halves", "subsets"])
@pytest.mark.parametrize("seeds", [6, 8, 10])
def test_for_a_mean_replicates_give_the_classical_interval(seeds, kind):
    values = np.random.default_rng(seeds).gamma(2, 3, seeds)
    sets = uncertainty.half_samples(seeds)
    if kind == "subsets":
        sets = uncertainty.leave_two_out(seeds)
    if kind == "subsets" and seeds > 7:
        first = [np.isin(range(seeds), four) for four in itertools.combinations(range(seeds), 4)]
        sets = [*first, *np.logical_not(first)]
    means = np.array([[values[kept].mean()] for kept in sets])
    estimate = combine([(1, "", Sample(tuple(range(seeds)), kind, values, means))])
    half = stats.t.ppf(0.975, seeds - 1) * values.std(ddof=1) / math.sqrt(seeds)
    expected = values.mean() - half, values.mean() + half
    assert interval(estimate) == pytest.approx(expected)
    assert interval(uncertainty.mean_estimate(values)) == pytest.approx(expected)


def test_sets_without_the_number_are_left_out_unless_they_are_many():
    numbers = np.random.default_rng(0).normal(size=(100, 9))
    for missing, expected in ((slice(0, 100, 10), 1 / 9), (1, np.nan)):
        numbers[missing] = np.nan
        sample = uncertainty.of_splits(tuple(range(8)), lambda splits: numbers, np.zeros(0))
        assert uncertainty.variance(sample) == pytest.approx(expected, rel=0.3, nan_ok=True)


def test_the_difference_of_unrelated_means_is_welchs_and_of_one_stream_the_paired_one():
    first, second = np.random.default_rng(0).normal(0, (3, 1), (8, 2)).T
    samples = [of_networks(each, tuple(range(8))) for each in (first, second)]
    for streams, test in (
        ("ab", stats.ttest_ind(first, second, equal_var=False)),
        ("aa", stats.ttest_rel(first, second)),
    ):
        difference = combine([*zip((1, -1), streams, samples)])
        assert difference["degrees"] == pytest.approx(test.df) and difference["models"] == 8
        assert interval(difference) == pytest.approx([*test.confidence_interval()])


def test_rows_of_other_seeds_vary_together_at_worst_and_rows_of_the_same_as_their_mean_does():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(2, 8))
    ids = tuple(range(8))
    rows = [(0.5, "SupCon", of_networks(each, ids)) for each in values]
    assert interval(combine(rows)) == pytest.approx(interval(uncertainty.mean_estimate(values.mean(0))))
    rows[1] = (0.5, "SupCon", rows[1][2]._replace(ids=tuple(range(1, 9))))
    errors = [uncertainty.mean_estimate(each)["error"] for each in values]
    assert combine(rows)["error"] == pytest.approx(np.mean(errors))


def test_the_interval_over_images_too_adds_the_jackknife_over_their_groups():
    groups = uncertainty.image_groups(500)
    assert (groups.sum(1) == 450).all() and ((~groups).sum(0) == 1).all()
    images = np.random.default_rng(2).normal(3, 10, 500)
    without = np.array([images[kept].mean() for kept in groups])
    values = np.random.default_rng(3).normal(3, 0.01, 8)
    estimate = combine([(1, "", of_networks(values, tuple(range(8)), without))])
    # The seeds hardly matter: the standard error is that of a mean over images.
    half = (estimate["image_high"] - estimate["image_low"]) / 2 / stats.t.ppf(0.975, 9)
    assert half == pytest.approx(images.std() / math.sqrt(500), rel=0.35)


@pytest.mark.parametrize("seeds", [6, 7])
def test_an_interval_of_a_ratio_equals_its_formula(seeds):
    rng, sets = np.random.default_rng(seeds), 1 + len(uncertainty.half_samples(seeds))
    whole = rng.integers(20, 40, sets)
    part = (whole * rng.uniform(0.2, 0.6, sets)).astype(int)
    share = sum(part[1:].tolist()) / sum(whole[1:].tolist())
    residuals = [0.0] + [a - share * u for a, u in zip(part[1:], whole[1:])]
    error = combine([(1, "", halves_of(residuals, seeds))])["error"]
    error /= math.sqrt(whole[0] * sum(whole[1:].tolist()) / (sets - 1))
    estimate = uncertainty.half_sampled_ratio(part, whole, seeds)
    assert estimate["error"] == pytest.approx(error) and estimate["value"] == part[0] / whole[0]
    nothing = uncertainty.half_sampled_ratio(0 * part, 0 * whole, seeds)
    assert math.isnan(nothing["value"]) and math.isnan(nothing["low"])


def test_fewer_than_six_seeds_or_no_spread_give_no_interval():
    assert uncertainty.FEWEST_SEEDS == 6
    for seeds in (0, 1, 2, 3, 5):
        mean = uncertainty.mean_estimate(np.arange(float(seeds)))
        assert np.isnan(interval(mean)).all() and mean["models"] == seeds
    for estimate in (uncertainty.mean_estimate(np.ones(8)), combine([(1, "", halves_of([4.0] * 21, 6))])):
        assert np.isnan(interval(estimate)).all() and not math.isnan(estimate["value"])


def check_coverage(world, seeds, draws, least, widest):
    cells = worlds.coverage(world, seeds, draws)
    assert {name: share for name, (share, _) in cells.items() if share < least} == {}
    assert {name: width for name, (_, width) in cells.items() if width > widest and name != "U"} == {}


@pytest.mark.parametrize("world", ["unequal networks"])
def test_intervals_contain_the_truth_of_a_known_world(world):
    # A share of 25 draws scatters by 4 percentage points.
    check_coverage(world, 8, 25, 0.8, 2.5)


@pytest.mark.slow
@pytest.mark.parametrize("seeds, widest", [(6, 2.4), (10, 1.8), (30, 1.4)])
@pytest.mark.parametrize("world", sorted({*worlds.WORLDS} - {"few PIEs"}))  # where most have no interval
def test_intervals_cover_as_the_documentation_says(world, seeds, widest):
    check_coverage(world, seeds, 60, 0.87, widest)
