"""How sure results are: intervals over seeds. Pure functions of arrays. K seeds, N images, S sets of seeds.

A number of PIEs is that of a majority vote, and what is estimated is its mean over draws of K seeds, at this
K and for these images. Half-sampling gives its variance: that over random halves of the seeds, without a
factor. Leaving out K - m seeds moves the share of votes of an image by sigma^2 (1 / m - 1 / K), which is what
a fresh draw of K seeds does, sigma^2 / K, only at m = K / 2. For a mean it is s^2 / K exactly. Numbers that
are averaged over splits of the seeds are smooth: the delete-2 jackknife serves them.
"""

import functools
import itertools
import math

import numpy as np
from scipy import stats

FEWEST_SEEDS = 6  # with fewer there is no interval
CONFIDENCE = 0.95
MOST_HALVES = 300
SPLITS = 40  # of the seeds into two halves
FEWER_SETS = 30  # of seeds without two of them, of which splits are averaged
CHUNK = 2**18  # votes held at once, in a cache
SPREAD = 1e-12  # what is smaller is an error of rounding
UNBOUNDED = (-math.inf, math.inf)


# Sets of seeds


def half_samples(seeds: int) -> np.ndarray:
    """Halves of the seeds, K // 2 of them, then in the same order what each leaves out: (S, K) bool. All
    halves if there are at most 300, else 150 random ones, the same every time."""
    if math.comb(seeds, seeds // 2) <= MOST_HALVES:
        # Of an even number the other halves are the complements.
        of_all = itertools.combinations(range(seeds), seeds // 2)
        chosen = np.array([half for half in of_all if seeds % 2 or 0 in half])
        first = (chosen[..., None] == np.arange(seeds)).any(1)
    else:
        first = random_halves(seeds, MOST_HALVES // 2)[0]
    return np.concatenate([first, ~first])


def reordered(half_samples: int, stream: int) -> np.ndarray:
    """Another order of so many half-samples, larger and smaller halves of odd numbers kept apart: for
    networks whose seeds have nothing to do with those of others; (S,) places. Stream 0 changes nothing."""
    first = np.arange(half_samples // 2)
    if stream:
        first = np.random.default_rng(stream).permutation(first)
    return np.concatenate([first, first + half_samples // 2])


def leave_two_out(seeds: int) -> np.ndarray:
    """All sets of seeds without two of them: (K (K - 1) / 2, K) bool, True kept."""
    first, second = np.triu_indices(seeds, 1)
    kept = np.ones((len(first), seeds), bool)
    kept[np.arange(len(first)), first] = kept[np.arange(len(first)), second] = False
    return kept


def random_halves(seeds: int, splits: int = SPLITS) -> np.ndarray:
    """Random splits of the seeds into two halves of K // 2: (2, splits, K) bool; of an odd number one seed is
    in neither."""
    ranks = np.random.default_rng(0).random((splits, seeds)).argsort(1).argsort(1)
    return np.stack([ranks < seeds // 2, (ranks >= seeds // 2) & (ranks < 2 * (seeds // 2))])


@functools.cache
def splits_of_sets(seeds: int) -> np.ndarray:
    """Splits of all seeds into halves, then, if there are 6, of random sets without two of them: (2, 1 + S,
    splits, K) bool."""
    kept = np.ones((1, seeds), bool)
    if seeds >= FEWEST_SEEDS:
        pairs = leave_two_out(seeds)
        kept = np.concatenate([kept, np.random.default_rng(0).permutation(pairs)[:FEWER_SETS]])
    splits = np.zeros((2, len(kept), SPLITS, seeds), bool)
    for index, row in enumerate(kept):
        splits[:, index][..., row] = random_halves(int(row.sum()))
    return splits


# Votes


def modal_labels_of_sets(predictions: np.ndarray, sets: np.ndarray) -> np.ndarray:
    """The modal labels of many sets of networks at once; ties as in `metrics.modal_labels`, to the smallest
    class id.

    Args:
        predictions: (K, N); sets: (S, K) bool, the networks that vote.
    Returns:
        (S, N), of the type of the predictions.
    """
    known = np.unique(predictions)
    votes = np.stack([(predictions == label).sum(0, dtype=np.int32) for label in known])
    labels = np.repeat(known[None, votes.argmax(0)], len(sets), 0)
    # Where fewer than half of a set can vote against the class that leads, it leads in every set.
    against = len(predictions) - votes.max(0)
    disputed = np.flatnonzero(2 * against >= sets.sum(1).min(initial=len(predictions)))
    ranked = np.sort(predictions[:, disputed], 0)
    new = np.concatenate([np.ones_like(ranked[:1], bool), ranked[1:] != ranked[:-1]])
    candidates = new.sum(0)  # classes that an image has votes for
    images, voters = max(1, CHUNK // len(sets)), sets.astype(np.float32)
    by_candidates = np.argsort(-candidates, kind="stable")
    for order in np.split(by_candidates, range(images, len(disputed), images)):
        classes = np.zeros((candidates[order].max(initial=0), len(order)), predictions.dtype)
        image, rank = np.nonzero(new[:, order].T)
        place = np.arange(len(image)) - np.searchsorted(image, image)
        classes[place, image] = ranked[:, order][rank, image]
        best = np.full((len(sets), len(order)), -1, np.float32)
        for index, label in enumerate(classes):
            some = (candidates[order] > index).sum()  # the first ones
            chosen = predictions[:, disputed[order[:some]]] == label[:some]
            # One number that is larger for more votes and, with as many, for the smaller class: whole
            # numbers, exact up to 2^24.
            votes = voters @ (len(classes) * chosen.astype(np.float32))
            votes += len(classes) - 1 - index
            np.maximum(best[:, :some], votes, out=best[:, :some])
        winner = len(classes) - 1 - best.astype(np.int32) % max(1, len(classes))
        labels[:, disputed[order]] = np.take_along_axis(classes, winner, 0)
    return labels


# Estimates: value, low and high (its 95 % interval), error (standard error), degrees (of freedom), models


def estimate(
    value: float, variance: float, degrees: float, models: int, bounds: tuple[float, float] = UNBOUNDED
) -> dict:
    """A number with its interval value +- t sqrt(variance), clipped to what is possible; NaN with fewer than
    6 seeds, and where nothing varies or the number is not defined."""
    error = math.sqrt(variance) if models >= FEWEST_SEEDS else math.nan
    half = student_t_quantile(degrees) * error if error > SPREAD and not math.isnan(value) else math.nan
    low, high = np.clip((value - half, value + half), *bounds).tolist()
    return dict(value=float(value), low=low, high=high, error=error, degrees=degrees, models=models)


def student_t_quantile(degrees: float, confidence: float = CONFIDENCE) -> float:
    """t with P(|T| < t) = confidence for Student's t."""
    return float(stats.t.ppf((1 + confidence) / 2, degrees))


def variance_of_halves(replicates: np.ndarray, seeds: int) -> float:
    """The variance of a number (S,) over `half_samples`: within each size for odd K."""
    sizes = replicates.reshape(1 + seeds % 2, -1)
    return float(((sizes - sizes.mean(1, keepdims=True)) ** 2).mean()) if sizes.size else math.nan


def half_sampled(statistic: np.ndarray, seeds: int, bounds: tuple[float, float] = UNBOUNDED) -> dict:
    """A count, or a difference of counts of the same seeds: (1 + S,), of all seeds and of half-samples."""
    variance = variance_of_halves(statistic[1:].astype(float), seeds)
    return estimate(statistic[0], variance, seeds - 1, seeds, bounds)


def half_sampled_ratio(
    part: np.ndarray, whole: np.ndarray, seeds: int, bounds: tuple[float, float] = (0, 1)
) -> dict:
    """A share or Jaccard similarity a / u, (1 + S,) each: the variance is that of e = a - (sum a / sum u) u,
    over u of all seeds times the mean u of half-samples."""
    if not whole[0]:
        return estimate(math.nan, math.nan, seeds - 1, seeds)
    halves = [each[1:].astype(float) for each in (part, whole)]
    if seeds < FEWEST_SEEDS or not halves[1].any():
        return estimate(part[0] / whole[0], math.nan, seeds - 1, seeds)
    residuals = halves[0] - halves[0].sum() / halves[1].sum() * halves[1]
    variance = variance_of_halves(residuals, seeds) / (whole[0] * halves[1].mean())
    return estimate(part[0] / whole[0], variance, seeds - 1, seeds, bounds)


def jackknifed(statistic: np.ndarray, seeds: int, models: int | None = None) -> dict:
    """A number that is averaged over splits, (1 + S,): of all seeds, then without two of them. The delete-2
    jackknife (Shao & Wu 1989): (K - 2) / 2 times the variance over sets. models: if not all were measured."""
    variance = (seeds - 2) / 2 * statistic[1:].var() if len(statistic) > 1 else math.nan
    models = seeds if models is None else models
    return estimate(statistic[0], variance, models - 1, models)


def mean_estimate(values: np.ndarray, bounds: tuple[float, float] = UNBOUNDED) -> dict:
    """A mean over networks (K,)."""
    models = len(values)
    variance = values.var(ddof=1) / models if models > 1 else math.nan
    return estimate(values.mean() if models else math.nan, variance, models - 1, models, bounds)


def independent_difference(first: dict, second: dict) -> dict:
    """An estimate minus another one of equally many other seeds; degrees of freedom by Satterthwaite."""
    variances = [each["error"] ** 2 for each in (first, second)]
    total = sum(variances)
    spread = sum(variance**2 / max(1, each["degrees"]) for variance, each in zip(variances, (first, second)))
    degrees = total**2 / spread if spread else math.nan
    return estimate(first["value"] - second["value"], total, degrees, first["models"])
