"""How sure results are: intervals over seeds and the noise floor. Pure functions of arrays. K seeds, N
images, S sets of seeds, C classes.

PIE sets are found by majority votes. A bootstrap, which draws seeds with replacement, leaves fewer distinct
networks to vote: modal labels become noisier and counts rise, so that its interval can lie beside the count.
Leaving seeds out keeps every vote that of distinct networks; leaving out two keeps an even number even, with
as many ties. For smooth statistics such as means the bootstrap holds.
"""

import math

import numpy as np
from scipy import stats

FEWEST_SEEDS = 6  # with fewer there is no interval
CONFIDENCE = 0.95
RESAMPLES = 10_000
SPLITS = 100
CHUNK = 2**22  # votes held at once


def leave_two_out(seeds: int) -> np.ndarray:
    """All sets of seeds without two of them: (K (K - 1) / 2, K) bool, True kept."""
    first, second = np.triu_indices(seeds, 1)
    kept = np.ones((len(first), seeds), bool)
    kept[np.arange(len(first)), first] = kept[np.arange(len(first)), second] = False
    return kept


def modal_labels_of_sets(predictions: np.ndarray, sets: np.ndarray, num_classes: int) -> np.ndarray:
    """The modal labels of many sets of networks at once; ties as in `metrics.modal_labels`, to the smallest
    class id.

    Args:
        predictions: (K, N); sets: (S, K) bool, the networks that vote.
    Returns:
        (S, N) int16.
    """
    sets, labels = sets.astype(np.float32), np.empty((len(sets), predictions.shape[1]), np.int16)
    images = max(1, CHUNK // max(1, len(sets)))
    for start in range(0, predictions.shape[1], images):
        chunk = predictions[:, start : start + images]
        best = np.full((len(sets), chunk.shape[1]), -1, np.float32)
        for c in range(num_classes):
            chosen = chunk == c
            voted = chosen.any(0)  # most images have votes for few classes
            votes = sets @ chosen[:, voted].astype(np.float32)
            # One number that is larger for more votes and, with as many, for the smaller class: whole
            # numbers, exact up to 2^24.
            best[:, voted] = np.maximum(best[:, voted], votes * num_classes + (num_classes - 1 - c))
        labels[:, start : start + images] = num_classes - 1 - best.astype(np.int64) % num_classes
    return labels


def jackknife_interval(
    value: np.ndarray, replicates: np.ndarray, seeds: int
) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % interval of a statistic by the delete-2 jackknife (Shao & Wu 1989): value +- t(K - 1) times
    the root of (K - 2) / (2 S) sum_s (replicate_s - mean)^2, S = K (K - 1) / 2.

    Args:
        value: (...), of all K seeds; replicates: (S, ...), of the sets of `leave_two_out`.
    Returns:
        low, high (...): NaN with fewer than 6 seeds, and where a replicate is not defined.
    """
    if seeds < FEWEST_SEEDS:
        return np.full_like(value, np.nan, np.float64), np.full_like(value, np.nan, np.float64)
    variance = (seeds - 2) / 2 * ((replicates - replicates.mean(0)) ** 2).mean(0)
    half = student_t_quantile(seeds - 1) * np.sqrt(variance)
    return value - half, value + half


def student_t_quantile(degrees: int) -> float:
    """t with P(|T| < t) = 95 % for Student's t."""
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, degrees))


def bootstrap_interval(values: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of a mean over seeds by the bootstrap: percentiles of the means of 10,000 resamples,
    further out for few seeds (Hesterberg 2015, expanded percentiles): at Phi(-sqrt(K / (K - 1)) t(K - 1)) in
    place of 2.5 %.

    Args:
        values: (K,), one of each seed. The same values always give the same interval.
    Returns:
        low, high: NaN with fewer than 6 seeds, or where a value is not defined.
    """
    seeds = len(values)
    if seeds < FEWEST_SEEDS or np.isnan(values).any():
        return math.nan, math.nan
    drawn = np.random.default_rng(0).integers(seeds, size=(RESAMPLES, seeds))
    tail = stats.norm.sf(math.sqrt(seeds / (seeds - 1)) * student_t_quantile(seeds - 1))
    low, high = np.quantile(values[drawn].mean(1), (tail, 1 - tail))
    return float(low), float(high)


def random_halves(seeds: int, splits: int = SPLITS) -> tuple[np.ndarray, np.ndarray]:
    """Random splits of the seeds into two halves of K // 2: (splits, K) bool each; of an odd number one seed
    is in neither."""
    ranks = np.random.default_rng(0).random((splits, seeds)).argsort(1).argsort(1)
    return ranks < seeds // 2, (ranks >= seeds // 2) & (ranks < 2 * (seeds // 2))


def split_pies(
    dense: np.ndarray, pruned: np.ndarray | None, num_classes: int, splits: int = SPLITS
) -> np.ndarray:
    """PIEs between one half of the dense networks and the other half of the pruned ones, or of the dense
    ones: the noise floor.

    Args:
        dense, pruned: (K, N) predictions of networks of the same seeds; None: dense against dense.
    Returns:
        (splits, N) bool.
    """
    first, second = random_halves(len(dense), splits)
    others = modal_labels_of_sets(dense if pruned is None else pruned, second, num_classes)
    return modal_labels_of_sets(dense, first, num_classes) != others
