"""How sure results are: intervals over seeds. Pure functions of arrays. K seeds, N images, S sets of seeds.

A number of PIEs is that of a majority vote, and what is estimated is its mean over draws of K seeds, at this
K and for these images. Half-sampling gives its variance: that over random halves of the seeds, without a
factor. Leaving out K - m seeds moves the share of votes of an image by sigma^2 (1 / m - 1 / K), which is what
a fresh draw of K seeds does, sigma^2 / K, only at m = K / 2. For a mean it is s^2 / K exactly. Smooth numbers
that are averaged over splits of the seeds have the delete-2 jackknife (Shao & Wu 1989).
"""

import functools
import itertools
import math
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from scipy import stats

FEWEST_SEEDS = 6  # with fewer there is no interval
CONFIDENCE = 0.95
MOST_HALVES = 300
SPLITS = 24  # of the seeds into two halves
JACKKNIFE_SETS = 30  # of seeds without two of them, whose splits are averaged
NESTED_HALVES, NESTED_SPLITS = 100, 8  # halves of the seeds, and splits of each
FEWEST_NESTED = 8  # seeds; halves of fewer are too small to be split
IMAGE_GROUPS = 10
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
    kept = np.zeros((0, seeds), bool)
    if seeds >= FEWEST_SEEDS:
        kept = np.random.default_rng(0).permutation(leave_two_out(seeds))[:JACKKNIFE_SETS]
    return _split([np.ones(seeds, bool), *kept], SPLITS)


@functools.cache
def splits_of_halves(seeds: int) -> np.ndarray:
    """Splits of random halves of the seeds and of what these leave out: (2, S, splits, K) bool."""
    halves = half_samples(seeds).reshape(2, -1, seeds)
    return _split(halves[:, : NESTED_HALVES // 2].reshape(-1, seeds), NESTED_SPLITS)


def _split(sets: Iterable[np.ndarray], number: int) -> np.ndarray:
    """`random_halves` of each set (K,) of seeds, as many for each: (2, S, number, K)."""
    splits = np.zeros((2, len(sets), number, len(sets[0])), bool)
    for index, row in enumerate(sets):
        splits[:, index][..., row] = random_halves(int(row.sum()), number)
    return splits


def image_groups(images: int) -> np.ndarray:
    """Random groups of images, each left out once: (G, N) bool, True kept."""
    groups = np.random.default_rng(0).permutation(images) % IMAGE_GROUPS
    return groups != np.arange(IMAGE_GROUPS)[:, None]


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


VARIANCES = {  # how replicates (S,) vary with K seeds
    "networks": lambda replicates, seeds: replicates.var(ddof=1) / seeds if seeds > 1 else math.nan,
    "halves": variance_of_halves,
    "jackknife": lambda replicates, seeds: (
        (seeds - 2) / 2 * replicates.var() if replicates.size else math.nan
    ),
}


NO_IMAGES = np.zeros(0)


class Sample(NamedTuple):
    """A number of some networks, and what says how sure it is.

    ids: of the seeds; kind: of `VARIANCES`; value: (J,), the number is its mean; replicates: (S, J'), of
    single networks or sets of them, the last axis over splits of one set; without_images: (G,) the number
    without each of the groups of images, empty where that is not known; measured: how many networks have it,
    None: all.
    """

    ids: tuple[int, ...]
    kind: str
    value: np.ndarray
    replicates: np.ndarray
    without_images: np.ndarray = NO_IMAGES
    measured: int | None = None


def of_networks(values: np.ndarray, ids: tuple[int, ...], without_images: np.ndarray = NO_IMAGES) -> Sample:
    """The mean of values (K,) of single networks."""
    return Sample(ids, "networks", values.mean(keepdims=True), values[:, None], without_images)


def weigh(samples: list[tuple[float, Sample]]) -> Sample:
    """The sum of weight times number of the same seeds, sets and splits."""
    first = samples[0][1]
    parts = [[weight * getattr(sample, name) for weight, sample in samples] for name in WEIGHED]
    return first._replace(**{name: sum(part) for name, part in zip(WEIGHED, parts)})


WEIGHED = ("value", "replicates", "without_images")


def variance(sample: Sample) -> float:
    """The variance over draws of seeds. The noise of the random splits that replicates average, which a
    jackknife multiplies, is taken off there, down to a tenth of the variance with it."""
    seeds, splits = len(sample.ids), sample.replicates.shape[1]
    total = VARIANCES[sample.kind](sample.replicates.mean(1), seeds)
    if sample.kind != "jackknife" or splits == 1 or not sample.replicates.size:
        return total
    noise = (seeds - 2) / 2 * sample.replicates.var(1, ddof=1).mean() / splits
    return float(np.maximum(total - noise, total / 10))


def combine(terms: list[tuple[float, str, Sample]]) -> dict:
    """The estimate of a sum of weight times number. Terms are (weight, stream, sample): seeds of different
    streams are unrelated, so that their variances add up, with Satterthwaite's degrees of freedom; samples of
    one stream and the same seeds vary together; those of other seeds vary together at worst, so that their
    errors add up. image_low, image_high: the interval over seeds and images together."""
    aligned: dict[str, dict] = defaultdict(lambda: defaultdict(list))
    for weight, stream, sample in terms:
        aligned[stream][sample.ids, sample.kind].append((weight, sample))
    value, variances, degrees, models, images = 0.0, [], [], [], []
    for groups in aligned.values():
        samples = [weigh(group) for group in groups.values()]
        measured = [len(each.ids) if each.measured is None else each.measured for each in samples]
        value += sum(each.value.mean() for each in samples)
        variances.append(sum(math.sqrt(variance(each)) for each in samples) ** 2)
        degrees.append(min(measured) - 1)
        models += measured
        images += [each.without_images for each in samples]
    result = estimate(value, sum(variances), satterthwaite(variances, degrees), min(models))
    if not all(len(each) for each in images):
        return result
    # A jackknife over groups of images; both kinds of chance add up.
    over_images = (IMAGE_GROUPS - 1) * sum(images).var()
    both = [*variances, over_images], [*degrees, IMAGE_GROUPS - 1]
    wide = estimate(value, sum(both[0]), satterthwaite(*both), min(models))
    return result | {"image_low": wide["low"], "image_high": wide["high"]}


def satterthwaite(variances: list[float], degrees: list[int]) -> float:
    """Degrees of freedom of a sum of independent variances."""
    spread = sum(each**2 / max(1, freedom) for each, freedom in zip(variances, degrees))
    return sum(variances) ** 2 / spread if spread else math.nan


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


def mean_estimate(values: np.ndarray) -> dict:
    """A mean over networks (K,)."""
    return combine([(1, "", of_networks(values, tuple(range(len(values)))))]) if len(values) else undefined()
