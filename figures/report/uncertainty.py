"""Confidence intervals over seeds: pure functions of arrays. K seeds, N images, S sets of seeds.

The estimand is the mean number of PIEs of a majority vote over draws of K seeds, at this K and for these
images. Half-sampling estimates its variance as that over random halves of the seeds, without a factor.
Leaving out K - m seeds changes the vote share of an image with variance sigma^2 (1 / m - 1 / K), which equals
sigma^2 / K, the variance over fresh draws of K seeds, only for m = K / 2. For a mean it is exactly s^2 / K.
A number that needs two halves of the seeds is averaged over their splits, and each half-sample is split
again. With 6 or 7 seeds, quarters would be too small: the delete-2 jackknife takes the place of half-sampling
(Shao & Wu 1989).
"""

import functools
import itertools
import math
from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import stats

FEWEST_SEEDS = 6  # intervals need at least this many
CONFIDENCE = 0.95
MOST_HALVES = 300
MOST_SPLITS = 70  # of the seeds into two halves
JACKKNIFE_SPLITS = 15  # of each set without two seeds: all, for 6 seeds each five times
NESTED_SETS, NESTED_SPLITS = 100, 9  # half-samples, and splits of each
FEWEST_NESTED = 8  # with fewer seeds, halves are too small to be split
MOST_MISSING = 0.1  # share of sets that may lack a number; with very few PIEs more do
IMAGE_GROUPS = 10
SPREAD = 1e-12  # smaller errors are rounding errors


# Sets of seeds


def half_samples(seeds: int) -> np.ndarray:
    """Returns halves of K // 2 seeds, then their complements in the same order: (S, K) bool. These are all
    halves if there are at most 300, else 150 random ones, the same in every call."""
    if math.comb(seeds, seeds // 2) <= MOST_HALVES:
        # For even K the remaining halves are the complements.
        all_halves = itertools.combinations(range(seeds), seeds // 2)
        chosen = np.array([half for half in all_halves if seeds % 2 or 0 in half])
        first = (chosen[..., None] == np.arange(seeds)).any(1)
    else:
        first = random_halves(seeds, MOST_HALVES // 2, np.random.default_rng(0))[0]
    return np.concatenate([first, ~first])


def reordered(half_samples: int) -> np.ndarray:
    """Returns a random permutation (S,) of half-samples, for networks with unrelated seeds. For odd K it does
    not mix larger and smaller halves."""
    first = np.random.default_rng(1).permutation(half_samples // 2)
    return np.concatenate([first, first + half_samples // 2])


def leave_two_out(seeds: int) -> np.ndarray:
    """Returns all sets that leave out two seeds: (K (K - 1) / 2, K) bool, True kept."""
    pairs = np.array([*itertools.combinations(range(seeds), 2)])
    return (pairs[..., None] != np.arange(seeds)).all(1)


def random_halves(seeds: int, splits: int, rng: np.random.Generator) -> np.ndarray:
    """Returns random splits of the seeds into two halves of K // 2: (2, splits, K) bool. For odd K one seed
    is in neither half."""
    ranks = rng.random((splits, seeds)).argsort(1).argsort(1)
    return np.stack([ranks < seeds // 2, (ranks >= seeds // 2) & (ranks < 2 * (seeds // 2))])


def splits_into_halves(seeds: int, most: int, rng: np.random.Generator) -> np.ndarray:
    """Returns splits like `random_halves`: all in random order if there are at most `MOST_SPLITS`, but never
    more than `most`."""
    half = seeds // 2
    if math.comb(seeds, 2 * half) * math.comb(2 * half - 1, half) > MOST_SPLITS:
        return random_halves(seeds, most, rng)
    pairs = itertools.combinations(itertools.combinations(range(seeds), half), 2)
    chosen = np.array([pair for pair in pairs if not {*pair[0]} & {*pair[1]}])
    splits = (chosen[..., None] == np.arange(seeds)).any(2)  # (S, 2, K)
    return rng.permutation(splits)[:most].swapaxes(0, 1)


@functools.cache
def splits_of_seeds(seeds: int) -> np.ndarray:
    """Returns splits of all seeds into halves: (2, 1, splits, K) bool."""
    return splits_into_halves(seeds, MOST_SPLITS, np.random.default_rng(0))[:, None]


@functools.cache
def splits_of_subsets(seeds: int) -> np.ndarray:
    """Returns splits of sets of seeds into halves: (2, S, splits, K) bool. The sets are random halves of the
    seeds, then their complements; with 6 or 7 seeds they leave out two seeds."""
    rng = np.random.default_rng(0)
    sets, number = leave_two_out(seeds), JACKKNIFE_SPLITS
    if seeds >= FEWEST_NESTED:
        first = rng.random((NESTED_SETS // 2, seeds)).argsort(1) < subset_sizes(seeds)[0]
        sets, number = np.concatenate([first, ~first]), NESTED_SPLITS
    splits = np.zeros((2, len(sets), number, seeds), bool)
    for index, members in enumerate(sets):
        halves = splits_into_halves(int(members.sum()), number, rng)
        splits[:, index][..., members] = halves[:, np.arange(number) % halves.shape[1]]
    return splits


def subset_sizes(seeds: int) -> tuple[int, int]:
    """Returns the sizes of the first sets in `splits_of_subsets` and of their complements; the first is even,
    so that all of its seeds are in one of its halves."""
    size = 2 * ((seeds + 1) // 4)
    return size, seeds - size


def image_groups(images: int) -> np.ndarray:
    """Returns sets of images that each leave out one random group: (G, N) bool, True kept."""
    groups = np.random.default_rng(0).permutation(images) % IMAGE_GROUPS
    return groups != np.arange(IMAGE_GROUPS)[:, None]


# Estimates: value, low and high (its 95 % interval), error (standard error), degrees (of freedom), models


def estimate(value: float, variance: float, degrees: float, models: int) -> dict:
    """Returns a number with its interval value +- t sqrt(variance). The interval is NaN with fewer than 6
    seeds, if nothing varies, or if the number is undefined."""
    value, error = float(value), math.sqrt(variance) if models >= FEWEST_SEEDS else math.nan
    half_width = student_t_quantile(degrees) * error if error > SPREAD and not math.isnan(value) else math.nan
    interval = dict(low=value - half_width, high=value + half_width)
    return dict(value=value, **interval, error=error, degrees=degrees, models=models)


def undefined() -> dict:
    """Returns the estimate of a number that no network has."""
    return estimate(math.nan, math.nan, -1, 0)


def within(estimate: dict, lowest: float, highest: float) -> dict:
    """Clips the interval of an estimate to possible values."""
    return estimate | {end: float(np.clip(estimate[end], lowest, highest)) for end in ("low", "high")}


def student_t_quantile(degrees: float) -> float:
    """Returns t with P(|T| < t) = 95 % for Student's t."""
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, degrees))


def variance_of_halves(replicates: np.ndarray, seeds: int) -> float:
    """Returns the variance of a number (S,) over `half_samples`, for odd K within each size."""
    sizes = replicates.reshape(1 + seeds % 2, -1)
    return float(((sizes - sizes.mean(1, keepdims=True)) ** 2).mean()) if sizes.size else math.nan


def variance_of_subsets(replicates: np.ndarray, seeds: int) -> float:
    """Returns the variance of a number (S, J) over `splits_of_subsets`; NaN if too many of the sets lack the
    number. Sets of m seeds get the factor m / (K - m), which is exact for a mean."""
    means = replicates.mean(1)
    if not len(means) or np.isnan(means).mean() > MOST_MISSING:
        return math.nan
    if seeds < FEWEST_NESTED:
        return float((seeds - 2) / 2 * np.nanvar(means))
    variances = [np.nanvar(part) for part in np.split(means, 2)]
    factors = [size / (seeds - size) for size in subset_sizes(seeds)]
    return float(np.dot(variances, factors) / 2)


VARIANCES = {  # variance over draws of K seeds from replicates (S, J)
    "networks": lambda replicates, seeds: replicates.var(ddof=1) / seeds if seeds > 1 else math.nan,
    "halves": variance_of_halves,
    "subsets": variance_of_subsets,
}


NO_IMAGES = np.zeros(0)


class Sample(NamedTuple):
    """A number of some networks, with replicates for its variance.

    ids: the seeds; kind: a key of `VARIANCES`; value: (J,), whose mean is the number; replicates: (S, J') for
    single networks or sets of networks, the last axis over splits of a set; without_images: (G,) the number
    without each group of images (empty: unknown); measured: how many networks have the number (None: all).
    """

    ids: tuple[int, ...]
    kind: str
    value: np.ndarray
    replicates: np.ndarray
    without_images: np.ndarray = NO_IMAGES
    measured: int | None = None

    @property
    def models(self) -> int:
        return len(self.ids) if self.measured is None else self.measured


def of_networks(values: np.ndarray, ids: tuple[int, ...], without_images: np.ndarray = NO_IMAGES) -> Sample:
    """Makes the sample of the mean of values (K,) of single networks."""
    return Sample(ids, "networks", values.mean(keepdims=True), values[:, None], without_images)


def of_splits(
    ids: tuple[int, ...],
    numbers: Callable[[Callable], np.ndarray],
    without_images: np.ndarray,
    measured: int | None = None,
) -> Sample:
    """Makes the sample of a number that needs two halves of the seeds.

    Args:
        numbers: given `splits_of_seeds` or `splits_of_subsets`, returns the number for every split of every
            set, (S, J).
    """
    replicates = numbers(splits_of_subsets) if len(ids) >= FEWEST_SEEDS else np.zeros((0, 1))
    return Sample(ids, "subsets", numbers(splits_of_seeds)[0], replicates, without_images, measured)


def weigh(samples: list[tuple[float, Sample]]) -> Sample:
    """Sums weight times number over samples with the same seeds, sets and splits."""
    parts = [[weight * getattr(sample, name) for weight, sample in samples] for name in WEIGHED]
    models = min(sample.models for _, sample in samples)
    return samples[0][1]._replace(measured=models, **{name: sum(part) for name, part in zip(WEIGHED, parts)})


WEIGHED = ("value", "replicates", "without_images")


def variance(sample: Sample) -> float:
    """Estimates the variance over draws of seeds."""
    return float(VARIANCES[sample.kind](sample.replicates, len(sample.ids)))


def combine(terms: list[tuple[float, str, Sample]]) -> dict:
    """Estimates a sum of weight times number over terms (weight, stream, sample).

    Seeds of different streams are independent: variances add, with Satterthwaite's degrees of freedom.
    Samples of one stream with the same seeds are combined before taking the variance; with different seeds of
    one stream, standard errors add, which is the worst case. image_low, image_high: the interval over both
    seeds and images.
    """
    by_stream: dict[str, dict] = defaultdict(lambda: defaultdict(list))
    for weight, stream, sample in terms:
        by_stream[stream][sample.ids, sample.kind].append((weight, sample))
    value, variances, degrees, models, without_images = 0.0, [], [], [], []
    for groups in by_stream.values():
        samples = [weigh(group) for group in groups.values()]
        measured = [sample.models for sample in samples]
        value += sum(sample.value.mean() for sample in samples)
        variances.append(sum(math.sqrt(variance(sample)) for sample in samples) ** 2)
        degrees.append(min(measured) - 1)
        models += measured
        without_images += [sample.without_images for sample in samples]
    result = estimate(value, sum(variances), satterthwaite(variances, degrees), min(models))
    if not all(map(len, without_images)):
        return result
    # A jackknife over groups of images; its variance adds to those over seeds.
    over_images = (IMAGE_GROUPS - 1) * sum(without_images).var()
    all_sources = [*variances, over_images], [*degrees, IMAGE_GROUPS - 1]
    with_images = estimate(value, sum(all_sources[0]), satterthwaite(*all_sources), min(models))
    return result | {"image_low": with_images["low"], "image_high": with_images["high"]}


def satterthwaite(variances: list[float], degrees: list[int]) -> float:
    """Returns the degrees of freedom of a sum of independent variances."""
    spread = sum(term**2 / max(1, freedom) for term, freedom in zip(variances, degrees))
    return sum(variances) ** 2 / spread if spread else math.nan


def half_sampled_ratio(part: np.ndarray, whole: np.ndarray, seeds: int) -> dict:
    """Estimates a share or Jaccard similarity a / u from (1 + S,) values each. Its variance is that of e = a
    - (sum a / sum u) u, divided by u of all seeds times the mean u of half-samples."""
    value = part[0] / whole[0] if whole[0] else math.nan
    parts, wholes, variance = part[1:].astype(float), whole[1:].astype(float), math.nan
    if whole[0] and wholes.any():
        residuals = parts - parts.sum() / wholes.sum() * wholes
        variance = variance_of_halves(residuals, seeds) / (whole[0] * wholes.mean())
    return estimate(value, variance, seeds - 1, seeds)


def mean_estimate(values: np.ndarray) -> dict:
    """Estimates a mean over networks (K,)."""
    return combine([(1, "", of_networks(values, tuple(range(len(values)))))]) if len(values) else undefined()
