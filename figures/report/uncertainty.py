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
SPREAD = 1e-12  # what is smaller is an error of rounding


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


# Estimates: value, low and high (its 95 % interval), error (standard error), degrees (of freedom), models


def estimate(value: float, variance: float, degrees: float, models: int) -> dict:
    """A number with its interval value +- t sqrt(variance); NaN with fewer than 6 seeds, and where nothing
    varies or the number is not defined."""
    value, error = float(value), math.sqrt(variance) if models >= FEWEST_SEEDS else math.nan
    half = student_t_quantile(degrees) * error if error > SPREAD and not math.isnan(value) else math.nan
    interval = dict(low=value - half, high=value + half)
    return dict(value=value, **interval, error=error, degrees=degrees, models=models)


def undefined() -> dict:
    """The estimate of what no network says."""
    return estimate(math.nan, math.nan, -1, 0)


def within(estimate: dict, lowest: float, highest: float) -> dict:
    """The estimate with its interval clipped to what is possible."""
    return estimate | {end: float(np.clip(estimate[end], lowest, highest)) for end in ("low", "high")}


def student_t_quantile(degrees: float, confidence: float = CONFIDENCE) -> float:
    """t with P(|T| < t) = confidence for Student's t."""
    return float(stats.t.ppf((1 + confidence) / 2, degrees))


def variance_of_halves(replicates: np.ndarray, seeds: int) -> float:
    """The variance of a number (S,) over `half_samples`: within each size for odd K."""
    sizes = replicates.reshape(1 + seeds % 2, -1)
    return float(((sizes - sizes.mean(1, keepdims=True)) ** 2).mean()) if sizes.size else math.nan


def half_sampled(statistic: np.ndarray, seeds: int) -> dict:
    """A count, or a difference of counts of the same seeds: (1 + S,), of all seeds and of half-samples."""
    variance = variance_of_halves(statistic[1:].astype(float), seeds)
    return estimate(statistic[0], variance, seeds - 1, seeds)


def half_sampled_ratio(part: np.ndarray, whole: np.ndarray, seeds: int) -> dict:
    """A share or Jaccard similarity a / u, (1 + S,) each: the variance is that of e = a - (sum a / sum u) u,
    over u of all seeds times the mean u of half-samples."""
    value = part[0] / whole[0] if whole[0] else math.nan
    parts, wholes = (each[1:].astype(float) for each in (part, whole))
    if not whole[0] or seeds < FEWEST_SEEDS or not wholes.any():
        return estimate(value, math.nan, seeds - 1, seeds)
    residuals = parts - parts.sum() / wholes.sum() * wholes
    variance = variance_of_halves(residuals, seeds) / (whole[0] * wholes.mean())
    return estimate(value, variance, seeds - 1, seeds)


def jackknifed(statistic: np.ndarray, seeds: int, models: int | None = None) -> dict:
    """A number that is averaged over splits, (1 + S,): of all seeds, then without two of them. The delete-2
    jackknife (Shao & Wu 1989): (K - 2) / 2 times the variance over sets. models: if not all were measured."""
    variance = (seeds - 2) / 2 * statistic[1:].var() if len(statistic) > 1 else math.nan
    models = seeds if models is None else models
    return estimate(statistic[0], variance, models - 1, models)


def mean_estimate(values: np.ndarray) -> dict:
    """A mean over networks (K,)."""
    if not len(values):
        return undefined()
    models = len(values)
    variance = values.var(ddof=1) / models if models > 1 else math.nan
    return estimate(values.mean(), variance, models - 1, models)


def independent_difference(first: dict, second: dict) -> dict:
    """An estimate minus another one of equally many other seeds; degrees of freedom by Satterthwaite."""
    estimates = first, second
    variances = [each["error"] ** 2 for each in estimates]
    spread = sum(variance**2 / max(1, each["degrees"]) for variance, each in zip(variances, estimates))
    degrees = sum(variances) ** 2 / spread if spread else math.nan
    return estimate(first["value"] - second["value"], sum(variances), degrees, first["models"])
