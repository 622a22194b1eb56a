"""Intervals over seeds against slow loops, classical formulas and worlds whose truth is known."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from conftest import GOLDEN_HERE

from common import metrics
from figures.report import similarity, uncertainty


def slow_modal(votes):
    """The smallest of the most frequent classes."""
    counts = Counter(int(vote) for vote in votes)
    return min(label for label, count in counts.items() if count == max(counts.values()))


def slow_labels(predictions, sets):
    return [
        [slow_modal(predictions[np.flatnonzero(kept), image]) for image in range(predictions.shape[1])]
        for kept in sets
    ]


# Modal labels of many sets


@pytest.mark.parametrize("classes", range(2, 13))
def test_modal_labels_of_all_leave_two_out_sets_equal_slow_votes(classes):
    seeds = 4 + classes % 5
    predictions = np.random.default_rng(classes).integers(0, classes, (seeds, 80))
    sets = uncertainty.leave_two_out(seeds)
    found = uncertainty.modal_labels_of_sets(predictions, sets, classes)
    assert found.dtype == np.int16 and found.tolist() == slow_labels(predictions, sets)


def test_a_tie_goes_to_the_smallest_class_in_every_set():
    predictions = np.array([[3, 2, 0], [3, 0, 0], [1, 2, 2], [1, 0, 2]])
    sets = np.array([[1, 1, 1, 1], [1, 1, 1, 0], [0, 1, 1, 1], [1, 0, 1, 0]], bool)
    assert uncertainty.modal_labels_of_sets(predictions, sets, 4).tolist() == [
        [1, 0, 0],
        [3, 2, 0],
        [1, 0, 2],
        [1, 2, 0],
    ]


@pytest.mark.parametrize("votes_at_once", [1, 14, 15, 16, 15 * 7 - 1, 15 * 7, 15 * 7 + 1, 15 * 20, 10**6])
def test_chunks_of_images_do_not_change_the_labels(votes_at_once, monkeypatch):
    predictions, sets = np.random.default_rng(0).integers(0, 3, (6, 20)), uncertainty.leave_two_out(6)
    monkeypatch.setattr(
        uncertainty, "CHUNK", votes_at_once
    )  # 15 sets: 1 to 20 images at once, and more than there are
    assert uncertainty.modal_labels_of_sets(predictions, sets, 3).tolist() == slow_labels(predictions, sets)


def test_modal_labels_of_all_networks_are_those_that_pies_are_found_with():
    predictions = np.random.default_rng(3).integers(0, 10, (30, 500))
    [found] = uncertainty.modal_labels_of_sets(predictions, np.ones((1, 30), bool), 10)
    np.testing.assert_array_equal(found, metrics.modal_labels(predictions, 10)[0])


# Sets of seeds


@pytest.mark.parametrize("seeds", [2, 3, 6, 7, 30])
def test_every_pair_of_seeds_is_left_out_once(seeds):
    kept = uncertainty.leave_two_out(seeds)
    assert kept.dtype == bool and kept.shape == (seeds * (seeds - 1) // 2, seeds)
    assert sorted(tuple(np.flatnonzero(~row)) for row in kept) == list(
        itertools.combinations(range(seeds), 2)
    )


@pytest.mark.parametrize("seeds", [2, 6, 7, 29, 30])
def test_halves_are_disjoint_and_of_equal_size_and_the_same_every_time(seeds):
    one, other = uncertainty.random_halves(seeds, 50)
    assert one.dtype == other.dtype == bool and one.shape == other.shape == (50, seeds)
    assert (one.sum(1) == seeds // 2).all() and (other.sum(1) == seeds // 2).all() and not (one & other).any()
    assert ((~one & ~other).sum(1) == seeds % 2).all()
    again = uncertainty.random_halves(seeds, 50)
    assert (one == again[0]).all() and (other == again[1]).all()
    assert len({tuple(row) for row in one}) > (1 if seeds == 2 else 10), "splits differ"
    if seeds == 7:
        assert {int(np.flatnonzero(~row)[0]) for row in one | other} == set(range(7)), (
            "every seed is left out now and then"
        )


@pytest.mark.parametrize("against_dense", [False, True])
def test_pies_of_splits_equal_a_slow_loop(against_dense):
    rng = np.random.default_rng(5)
    dense, pruned = rng.integers(0, 3, (9, 40)), rng.integers(0, 3, (9, 40))
    found = uncertainty.split_pies(dense, None if against_dense else pruned, 3, splits=12)
    expected = []
    for one, other in zip(*uncertainty.random_halves(9, 12)):
        halves = [
            source[[seed for seed in range(9) if half[seed]]]
            for source, half in ((dense, one), (dense if against_dense else pruned, other))
        ]
        expected.append(
            [slow_modal(halves[0][:, image]) != slow_modal(halves[1][:, image]) for image in range(40)]
        )
    assert found.dtype == bool and found.tolist() == expected and 0 < found.mean() < 1


# Intervals


def slow_jackknife(value, replicates, seeds, t):
    mean = sum(replicates) / len(replicates)
    variance = (seeds - 2) / (2 * len(replicates)) * sum((one - mean) ** 2 for one in replicates)
    return value - t * math.sqrt(variance), value + t * math.sqrt(variance)


@pytest.mark.parametrize("seeds, t", [(6, 2.5705818), (10, 2.2621572), (30, 2.0452296)])
def test_a_jackknife_interval_equals_its_formula(seeds, t):
    replicates = np.random.default_rng(seeds).normal(20, 5, (seeds * (seeds - 1) // 2, 3))
    low, high = uncertainty.jackknife_interval(np.array([20.0, 0.0, -3.0]), replicates, seeds)
    for column, value in enumerate((20.0, 0.0, -3.0)):
        assert (low[column], high[column]) == pytest.approx(
            slow_jackknife(value, replicates[:, column].tolist(), seeds, t), abs=1e-5
        )


@pytest.mark.parametrize("seeds", [6, 7, 30])
def test_for_a_mean_the_jackknife_gives_the_classical_interval(seeds):
    values = np.random.default_rng(seeds).gamma(2, 3, seeds)
    replicates = np.array([values[kept].mean() for kept in uncertainty.leave_two_out(seeds)])
    half = uncertainty.student_t_quantile(seeds - 1) * values.std(ddof=1) / math.sqrt(seeds)
    low, high = uncertainty.jackknife_interval(np.array(values.mean()), replicates, seeds)
    assert (low, high) == (
        pytest.approx(values.mean() - half, rel=1e-12),
        pytest.approx(values.mean() + half, rel=1e-12),
    )


def test_fewer_than_six_seeds_have_no_interval():
    assert uncertainty.FEWEST_SEEDS == 6
    for seeds in (0, 1, 2, 3, 5):
        replicates = np.arange(float(seeds * (seeds - 1) // 2))
        assert np.isnan(uncertainty.jackknife_interval(np.array(3), replicates, seeds)).all()
        assert np.isnan(uncertainty.bootstrap_interval(np.arange(float(seeds)))).all()
    low, high = uncertainty.jackknife_interval(np.arange(4), np.zeros((3, 4)), 3)
    assert low.shape == high.shape == (4,) and np.isnan([low, high]).all()


def test_a_replicate_without_a_value_leaves_its_statistic_without_an_interval():
    replicates = np.random.default_rng(0).random((15, 2))
    replicates[4, 1] = np.nan
    low, high = uncertainty.jackknife_interval(np.array([0.5, 0.5]), replicates, 6)
    assert np.isnan(low).tolist() == np.isnan(high).tolist() == [False, True]


@pytest.mark.parametrize(
    "degrees, expected",
    [(1, 12.706205), (2, 4.302653), (5, 2.570582), (9, 2.262157), (29, 2.045230), (1000, 1.962339)],
)
def test_quantiles_of_student_are_those_of_tables(degrees, expected):
    assert uncertainty.student_t_quantile(degrees) == pytest.approx(expected, abs=1e-6)


def quantile(values, share):
    """Linear between the two nearest of the sorted values."""
    place = share * (len(values) - 1)
    below = math.floor(place)
    return values[below] + (place - below) * (values[min(below + 1, len(values) - 1)] - values[below])


@pytest.mark.parametrize("seeds, t", [(6, 2.5705818), (11, 2.2281389), (30, 2.0452296)])
def test_a_bootstrap_interval_equals_a_slow_one_and_is_the_same_every_time(seeds, t):
    values = np.random.default_rng(seeds).normal(size=seeds)
    drawn = np.random.default_rng(0).integers(seeds, size=(10_000, seeds))
    means = sorted(sum(float(values[seed]) for seed in row) / seeds for row in drawn)
    tail = 0.5 * (1 + math.erf(-math.sqrt(seeds / (seeds - 1)) * t / math.sqrt(2)))
    found = uncertainty.bootstrap_interval(values)
    assert found == pytest.approx((quantile(means, tail), quantile(means, 1 - tail)), abs=1e-6)
    assert found == uncertainty.bootstrap_interval(values.copy())
    plain = quantile(means, 0.025), quantile(means, 0.975)
    assert found[0] < plain[0] and plain[1] < found[1], "widened for few seeds"
    if seeds == 6:
        assert found[1] - found[0] > 1.2 * (plain[1] - plain[0])


def test_a_value_that_is_missing_leaves_no_bootstrap_interval():
    values = np.arange(8.0)
    assert not np.isnan(uncertainty.bootstrap_interval(values)).any()
    values[3] = np.nan
    assert np.isnan(uncertainty.bootstrap_interval(values)).all()


def test_equal_values_have_an_interval_of_no_width():
    assert uncertainty.bootstrap_interval(np.full(6, 0.25)) == (0.25, 0.25)


def test_with_thirty_seeds_the_bootstrap_is_close_to_the_interval_of_students_t():
    values = np.random.default_rng(1).normal(3, 2, 30)
    half = uncertainty.student_t_quantile(29) * values.std(ddof=1) / math.sqrt(30)
    low, high = uncertainty.bootstrap_interval(values)
    assert low == pytest.approx(values.mean() - half, abs=0.1 * half) and high == pytest.approx(
        values.mean() + half, abs=0.1 * half
    )


# Why PIEs have no bootstrap


def test_the_jackknife_interval_of_the_golden_pies_has_their_number_in_it_and_the_bootstrap_has_not():
    golden = np.load(GOLDEN_HERE / "pies.npz")
    dense, pruned = golden["dense_predictions"], golden["pruned_predictions"]
    sets = np.concatenate([np.ones((1, 30), bool), uncertainty.leave_two_out(30)])
    labels = [uncertainty.modal_labels_of_sets(predictions, sets, 10) for predictions in (dense, pruned)]
    count, *replicates = (labels[0] != labels[1]).sum(1)
    low, high = uncertainty.jackknife_interval(np.array(float(count)), np.array(replicates, float), 30)
    assert count == golden["is_pie"].sum() == 23
    assert low < 23 < high and high - low < 60
    drawn = np.random.default_rng(0).integers(30, size=(1000, 30))
    counts = [metrics.find_pies(dense[row], pruned[row], 10).sum() for row in drawn]
    assert 23 < np.quantile(counts, 0.025) < 80 and np.quantile(counts, 0.975) > 100


# Coverage: do intervals contain the truth as often as they say?

IMAGES, CLASSES, DRAWS, LEAST = 200, 4, 200, 0.90


def make_world(seed):
    """Logits (N, C) of two dense populations, two pruned ones of the first and one of the second."""
    rng = np.random.default_rng(seed)
    dense = rng.normal(0, 1.2, (IMAGES, CLASSES))
    dense[np.arange(IMAGES), rng.integers(0, CLASSES, IMAGES)] += 0.5 + 1.5 * rng.random(IMAGES)
    other = dense + rng.normal(0, 0.7, (IMAGES, CLASSES))
    return [
        dense,
        other,
        *(
            one + damage * rng.normal(size=(IMAGES, CLASSES))
            for one, damage in ((dense, 1.0), (dense, 1.4), (other, 0.8))
        ),
    ]


def draw_networks(world, seeds, rng, bias):
    """Predictions (K, N) of each population: networks of one seed have a liking for classes and luck with
    images in common."""
    liking, luck = rng.normal(0, bias, (seeds, 1, CLASSES)), rng.random((seeds, IMAGES))
    drawn = []
    for logits in world:
        likely = np.exp(logits + liking + rng.normal(0, bias / 2, (seeds, 1, CLASSES)))
        below = np.cumsum(likely, 2) / likely.sum(2, keepdims=True)
        own = (luck + rng.normal(0, 0.1, (seeds, IMAGES))) % 1
        drawn.append(np.minimum((below < own[..., None]).sum(2), CLASSES - 1))
    return drawn


def statistics(labels):
    """Of modal labels (S, N) of each population."""
    dense, other, global_, early, other_global = labels
    one, two, three = dense != global_, dense != early, other != other_global
    size = [pies.sum(1) for pies in (one, two, three)]
    return {
        "PIEs": size[0],
        "other PIEs": size[2],
        "difference, dense networks shared": size[0] - size[1],
        "difference, two dense populations": size[0] - size[2],
        "Jaccard, dense networks shared": similarity.jaccard((one & two).sum(1), size[0], size[1]),
        "Jaccard, two dense populations": similarity.jaccard((one & three).sum(1), size[0], size[2]),
    }


@pytest.mark.parametrize("seeds", [6, 10, 20])
@pytest.mark.parametrize("bias", [0.0, 0.4, 1.0])
def test_jackknife_intervals_contain_the_truth_of_networks_drawn_from_a_known_world(seeds, bias):
    world, rng = make_world(round(10 * bias)), np.random.default_rng([seeds, round(10 * bias)])
    many = [
        statistics(
            [
                metrics.vote_counts(one, CLASSES).argmax(1)[None]
                for one in draw_networks(world, seeds, rng, bias)
            ]
        )
        for _ in range(600)
    ]
    truth = {name: np.mean([one[name] for one in many]) for name in many[0]}
    assert 30 < truth["PIEs"] < 100 and 0.15 < truth["Jaccard, dense networks shared"] < 0.6, (
        "a world of some PIEs, some of them common"
    )
    sets = np.concatenate([np.ones((1, seeds), bool), uncertainty.leave_two_out(seeds)])
    contained = Counter()
    for _ in range(DRAWS):
        found = statistics(
            [
                uncertainty.modal_labels_of_sets(one, sets, CLASSES)
                for one in draw_networks(world, seeds, rng, bias)
            ]
        )
        for name, values in found.items():
            low, high = uncertainty.jackknife_interval(values[0], values[1:].astype(float), seeds)
            contained[name] += bool(low <= truth[name] <= high)
    assert {name: contained[name] / DRAWS for name in truth if contained[name] < LEAST * DRAWS} == {}


@pytest.mark.parametrize("seeds", [6, 10])
@pytest.mark.parametrize("shape", [None, 4], ids=["normal", "skewed"])
def test_bootstrap_intervals_contain_the_truth(seeds, shape):
    rng = np.random.default_rng(seeds)
    draws = [rng.normal(0, 1, seeds) if shape is None else rng.gamma(shape, 1, seeds) for _ in range(1500)]
    intervals = [uncertainty.bootstrap_interval(values) for values in draws]
    assert np.mean([low <= (shape or 0) <= high for low, high in intervals]) >= LEAST
