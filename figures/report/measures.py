"""Statistics of one population and of two, as samples of its networks, with 95 % intervals.

K networks, N images, S sets of seeds, J splits of each set into halves.
"""

import functools
import math
from collections.abc import Callable
from operator import attrgetter
from typing import NamedTuple

import numpy as np
from scipy import sparse

from common import voting
from figures.report import similarity, uncertainty
from figures.report.read import Networks, StoredPopulation
from figures.report.uncertainty import Sample, of_networks, of_splits, splits_of_seeds

IMAGE_MEASURES = {"Q-Score": "q_score", "prediction depth": "depth"}  # measure of claim 4 -> name in arrays


# Votes of sets of seeds


@functools.lru_cache(maxsize=100)  # enough for all populations on a test set and the clean images
def labels_of_sets(networks: Networks, seeds: tuple[int, ...]) -> np.ndarray:
    """Returns modal labels (1 + S, N): of all these seeds, then of their half-samples (none with fewer than 6
    seeds)."""
    sets = np.ones((1, len(seeds)), bool)
    if len(seeds) >= uncertainty.FEWEST_SEEDS:
        sets = np.concatenate([sets, uncertainty.half_samples(len(seeds))])
    return voting.modal_labels_of_sets(networks.predictions_of(seeds), sets, networks.classes)


def pies(population: StoredPopulation, seeds: tuple[int, ...]) -> np.ndarray:
    """Returns the PIE sets of all these seeds, then of their half-samples: (1 + S, N) bool."""
    return labels_of_sets(population.reference, seeds) != labels_of_sets(population.pruned, seeds)


@functools.cache
def distinct_halves(splits: Callable, seeds: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the distinct halves (H, K) bool in `splits` of this many seeds, and indices (2, S, J) into them
    for both halves of every split. Few seeds have few distinct halves."""
    sets = splits(seeds)
    halves, indices = np.unique(sets.reshape(-1, seeds), axis=0, return_inverse=True)
    return halves, indices.reshape(sets.shape[:3])


@functools.lru_cache(maxsize=30)  # several populations share reference networks
def labels_of_halves(networks: Networks, seeds: tuple[int, ...], splits: Callable) -> np.ndarray:
    """Returns the modal labels (H, N) of `distinct_halves`."""
    halves, _ = distinct_halves(splits, len(seeds))
    return voting.modal_labels_of_sets(networks.predictions_of(seeds), halves, networks.classes)


def disputed(population: StoredPopulation, seeds: tuple[int, ...]) -> np.ndarray:
    """Returns the indices of images on which predictions differ; on all other images votes agree."""
    predictions = np.concatenate([networks.predictions_of(seeds) for networks in population.sides])
    return np.flatnonzero((predictions != predictions[0]).any(0))


@functools.lru_cache(maxsize=2)
def disputed_labels(
    population: StoredPopulation, seeds: tuple[int, ...], splits: Callable
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the disputed images (D,), and for them the labels (H, D) of reference and pruned halves."""
    images = disputed(population, seeds)
    return images, *(labels_of_halves(side, seeds, splits).take(images, 1) for side in population.sides)


class BetweenHalves(NamedTuple):
    """Numbers of images (S, J) on which networks of opposite halves of the seeds differ: two halves of the
    reference (floor); reference and pruned networks, the mean over both assignments (pruned)."""

    floor: np.ndarray
    pruned: np.ndarray


@functools.cache
def between_halves(population: StoredPopulation, seeds: tuple[int, ...], splits: Callable) -> BetweenHalves:
    """Counts differing images for these splits of the seeds. Only opposite halves are compared, because
    networks of one seed share their training."""
    _, reference, pruned = disputed_labels(population, seeds, splits)
    _, (first, second) = distinct_halves(splits, len(seeds))

    def differing(other_labels: np.ndarray, first_index: np.ndarray, second_index: np.ndarray) -> np.ndarray:
        pairs = zip(first_index.ravel(), second_index.ravel())
        counts = [np.count_nonzero(reference[one] != other_labels[other]) for one, other in pairs]
        return np.array(counts).reshape(first_index.shape)

    crossed = differing(pruned, first, second) + differing(pruned, second, first)
    return BetweenHalves(differing(reference, first, second), crossed / 2)


def noise_floor(population: StoredPopulation, seeds: tuple[int, ...]) -> float:
    """Returns the mean noise floor over splits; NaN for a single seed, which has no halves."""
    if len(seeds) < 2:
        return math.nan
    return float(between_halves(population, seeds, splits_of_seeds).floor[0].mean())


# Statistics of one population: samples of its networks with these ids


def scaled_up(values: np.ndarray) -> np.ndarray:
    """Values of images (N,) -> (G,): estimates of their sum, each without one group of images; none if there
    are fewer images than groups."""
    if len(values) < uncertainty.IMAGE_GROUPS:
        return uncertainty.NO_IMAGES
    kept = uncertainty.image_groups(len(values))
    return kept @ values * len(values) / kept.sum(1)


@functools.cache
def excess(population: StoredPopulation, seeds: tuple[int, ...]) -> Sample:
    """Estimates PIEs beyond the noise floor. Both are counted between halves of the seeds and averaged over
    splits."""

    def beyond_floor(splits: Callable) -> np.ndarray:
        halves = between_halves(population, seeds, splits)
        return halves.pruned - halves.floor

    images, *labels = disputed_labels(population, seeds, splits_of_seeds)
    _, positions = distinct_halves(splits_of_seeds, len(seeds))
    reference, pruned = (side[positions[:, 0]] for side in labels)
    image_excess = np.zeros(len(population.labels))
    image_excess[images] = (reference != pruned[::-1]).mean((0, 1)) - (reference[0] != reference[1]).mean(0)
    return of_splits(seeds, beyond_floor, scaled_up(image_excess))


def half_sampled(numbers: np.ndarray, seeds: tuple[int, ...]) -> Sample:
    """Makes a sample from counts (1 + S,) for all seeds and for their half-samples."""
    return Sample(seeds, "halves", numbers[:1].astype(float), numbers[1:, None].astype(float))


def number_of_pies(population: StoredPopulation, seeds: tuple[int, ...]) -> Sample:
    return half_sampled(pies(population, seeds).sum(1), seeds)


def lost_minus_gained(population: StoredPopulation, seeds: tuple[int, ...]) -> Sample:
    """Counts images with a right modal label of the reference minus those with a right pruned one."""
    right = [(labels_of_sets(side, seeds) == population.labels).sum(1) for side in population.sides]
    return half_sampled(right[0] - right[1], seeds)


def accuracy_lost(population: StoredPopulation, ids: tuple[int, ...]) -> Sample:
    """Estimates the accuracy of the reference minus that of the pruned network of the same seed."""
    right = [(side.predictions_of(ids) == population.labels).astype(float) for side in population.sides]
    lost = right[0] - right[1]
    return of_networks(lost.mean(1), ids, scaled_up(lost.mean(0) / lost.shape[1]))


def values_of_networks(
    population: StoredPopulation, name: str, images: np.ndarray | slice = slice(None)
) -> dict[int, float]:
    """Returns a number per id of pruned networks: accuracy, q_score or depth averaged over images, or another
    stored number; ids without it are left out."""
    networks, values, ids = population.pruned, np.zeros(0), ()
    if name == "accuracy":
        ids, values = networks.ids, (networks.predictions == population.labels).mean(1)
    elif name in IMAGE_MEASURES.values():
        ids, values = networks.ids_of(name), np.nanmean(getattr(networks, name)[:, images], 1)
    else:
        for arrays in (population.arrays, population.depths or {}):
            if name in arrays:
                ids, values = arrays["ids"], arrays[name]
    pairs = zip(np.asarray(ids).tolist(), values.tolist())
    return {model_id: value for model_id, value in pairs if not math.isnan(value)}


def mean_of_networks(name: str, images: np.ndarray | slice = slice(None)) -> "Statistic":
    """Returns the statistic that averages `values_of_networks`."""

    def sample(population: StoredPopulation, ids: tuple[int, ...]) -> Sample:
        values = values_of_networks(population, name, images)
        return of_networks(np.array([values[model_id] for model_id in ids]), ids)

    return Statistic(sample, lambda population: list(values_of_networks(population, name, images)))


@functools.cache
def pies_minus_others(population: StoredPopulation, measure: str, controlled: bool) -> Sample:
    """Estimates the mean q_score or depth of PIEs minus that of other images in pruned networks, in standard
    deviations over images. PIEs come from one half of the seeds, values from networks of the other half.

    Args:
        controlled: compare PIEs only with images of equal difficulty: the same number of reference networks
            agree on the modal label, and it is right for both or wrong for both.
    """
    seeds, networks = population.seeds, population.pruned
    has_values = ~np.isnan(getattr(networks, measure)).all(1)  # not if all latents are zero
    ids = networks.ids_of(measure).tolist()
    probed = [index for index, model_id in enumerate(ids) if model_id in seeds and has_values[index]]
    values = getattr(networks, measure)[probed].T  # (N, M)
    defined = ~np.isnan(values).any(1)
    deviation = values[defined].std(0)
    values = (values - values[defined].mean(0)) / np.where(deviation > 0, deviation, np.nan)
    # Images without a value in some network are ignored; the last column counts the rest.
    values = np.column_stack([np.where(defined[:, None], values, 0), defined])
    seed_index = [seeds.index(ids[index]) for index in probed]

    def differences(splits: Callable, groups: np.ndarray | int = 0) -> np.ndarray:
        """Returns the difference for every split of every set of seeds, (S, 1, J); with groups of images
        (N,), without each group: (S, G, J)."""
        halves, positions = distinct_halves(splits, len(seeds))
        images, reference, pruned = disputed_labels(population, seeds, splits)
        is_pie = np.ascontiguousarray((reference != pruned).T)
        strata = difficulty(population, seeds, splits) * controlled  # else one stratum

        def of_set(index: int) -> np.ndarray:
            chosen, inverse = np.unique(positions[:, index], return_inverse=True)
            pies, totals = sums_of_strata(values, is_pie[:, chosen], images, strata[index], groups)
            if pies.shape[0] > 1:
                pies, totals = pies.sum(0) - pies, totals.sum(0) - totals
            beyond = minus_others(pies, totals)[:, inverse.reshape(2, -1)]  # (G, 2, J, M)
            # Values count in networks of the opposite half.
            measured = halves[positions[::-1, index]][..., seed_index] & ~np.isnan(beyond)
            sums, counts = np.where(measured, beyond, 0).sum((1, 3)), measured.sum((1, 3))
            average = sums.sum(1, keepdims=True) / counts.sum(1, keepdims=True)
            # Splits without PIEs get the average of the others.
            return np.where(counts > 0, sums / counts, average)

        with np.errstate(invalid="ignore"):  # some splits have no PIEs
            return np.stack([*map(of_set, range(len(strata)))])

    without_groups = uncertainty.NO_IMAGES
    if controlled:
        groups = uncertainty.image_groups(len(defined)).argmin(0)
        without_groups = differences(splits_of_seeds, groups)[0].mean(1)
    return of_splits(seeds, lambda splits: differences(splits)[:, 0], without_groups, len(probed))


@functools.lru_cache(maxsize=2)  # both measures share it
def difficulty(population: StoredPopulation, seeds: tuple[int, ...], splits: Callable) -> np.ndarray:
    """Returns a whole number for each set of seeds in `splits` and each image, (S, N), which images of equal
    difficulty share."""
    votes, voters = population.reference.predictions_of(seeds), splits(len(seeds)).any((0, 2))
    modal = voting.modal_labels_of_sets(votes, voters, population.reference.classes)
    agreeing = sum(chosen[:, None] & (vote == modal) for chosen, vote in zip(voters.T, votes))
    return 2 * agreeing + (modal == population.labels)


def sums_of_strata(
    values: np.ndarray, is_pie: np.ndarray, images: np.ndarray, strata: np.ndarray, groups: np.ndarray | int
) -> tuple[np.ndarray, np.ndarray]:
    """Sums values (N, M) over the PIEs of each set, and over all images, by groups and strata (N,).

    Args:
        is_pie: (D, S), for the images (D,).
    Returns:
        (G, S, T, M), (G, 1, T, M)
    """
    shape = uncertainty.IMAGE_GROUPS if np.ndim(groups) else 1, is_pie.shape[1], strata.max() + 1
    bins = np.ravel_multi_index((groups, 0, strata), shape)
    position, sets = np.nonzero(is_pie)

    def sums(values: np.ndarray, bins: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Sums values over bins; value i is in counts[i] of them."""
        starts = np.concatenate([[0], counts.cumsum()])
        chosen = sparse.csc_array((np.ones(len(bins)), bins, starts), (math.prod(shape), len(values)))
        return (chosen @ values).reshape(*shape, -1)

    pies = sums(values[images], bins[images[position]] + sets * shape[2], is_pie.sum(1))
    return pies, sums(values, bins, np.ones(len(values), int))[:, :1]


def minus_others(pies: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """Averages, over PIEs, their value minus the mean of other images in the same stratum. PIEs of strata
    without other images are left out; NaN if none remains.

    Args:
        pies, totals: sums (..., T, M + 1) over PIEs and over all images of a stratum; the last entry is the
            number of images.
    Returns:
        (..., M)
    """
    number, others = pies[..., -1:], totals[..., -1:] - pies[..., -1:]
    rest = (totals - pies) / np.maximum(1, others)
    total = np.where(others > 0, pies - number * rest, 0).sum(-2)
    count = np.where(others > 0, number, 0).sum(-2)
    return total[..., :-1] / np.where(count > 0, count, np.nan)


class Statistic(NamedTuple):
    """A number of a population: ids returns the networks that have it; sample computes it for some ids."""

    sample: Callable[[StoredPopulation, tuple[int, ...]], Sample]
    ids: Callable[[StoredPopulation], list[int]] = attrgetter("seeds")
    fewest: int = 1  # smallest number of networks for it


OF_NETWORKS = ("accuracy", "q_score", "depth", "knn_accuracy")
STATISTICS = {
    "pies": Statistic(number_of_pies),
    "excess": Statistic(excess, fewest=2),
    "accuracy_lost": Statistic(accuracy_lost),
    "lost_minus_gained": Statistic(lost_minus_gained),
} | {name: mean_of_networks(name) for name in OF_NETWORKS}
UNBOUNDED = -math.inf, math.inf
BOUNDS = {"accuracy": (0, 1), "pies": (0, math.inf), "calibration_error": (0, 1), "cka": (0, 1)}


def estimate(name: str, population: StoredPopulation, ids: tuple[int, ...] = ()) -> dict:
    """Estimates a statistic, or the mean of another stored array (K,) over networks, with its interval, for
    networks with these ids (default: all that have it)."""
    statistic = STATISTICS.get(name) or mean_of_networks(name)
    ids = ids or tuple(sorted(statistic.ids(population)))
    if len(ids) < statistic.fewest:
        return uncertainty.undefined()
    unbounded = uncertainty.combine([(1, "", statistic.sample(population, ids))])
    return uncertainty.within(unbounded, *BOUNDS.get(name, UNBOUNDED))


# Statistics of two populations


class Pair(NamedTuple):
    """Two populations to compare.

    paired: networks with the same id are compared; otherwise ids are unrelated, and equally many networks of
    each population are used, the first ones.
    """

    first: StoredPopulation
    second: StoredPopulation
    paired: bool

    @property
    def streams(self) -> tuple[str, str]:
        """Names for the seeds of both sides; related seeds have the same name."""
        first, second = self.first.learning_method, self.second.learning_method
        return (first, second) if self.paired or first != second else (first, f"other {second}")


Terms = list[tuple[float, str, Sample]]  # arguments of `uncertainty.combine`


def compared_ids(statistic: Statistic, pair: Pair) -> list[tuple[int, ...]]:
    """Returns equally many ids of both populations for comparing a statistic."""
    ids = [sorted(statistic.ids(population)) for population in pair[:2]]
    if pair.paired:
        ids = [[model_id for model_id in ids[0] if model_id in ids[1]]] * 2
    fewest = min(map(len, ids))
    return [tuple(side[:fewest]) for side in ids]


def difference(statistic: Statistic, pair: Pair) -> Terms:
    """Returns the terms of a statistic of the first population minus that of the second; none with too few
    networks."""
    ids = compared_ids(statistic, pair)
    if len(ids[0]) < statistic.fewest:
        return []
    samples = [*map(statistic.sample, pair[:2], ids)]
    return [*zip((1, -1), pair.streams, samples)]


def overlap(pair: Pair) -> dict:
    """Estimates the Jaccard similarity of the PIE sets of a pair on the same images, with its interval and
    with that of random sets of these sizes."""
    ids = compared_ids(STATISTICS["pies"], pair)
    first, second = map(pies, pair[:2], ids)  # (1 + S, N)
    if not pair.paired:  # unrelated seeds
        second[1:] = second[1 + uncertainty.reordered(len(second) - 1)]
    intersection, union = (first & second).sum(1), (first | second).sum(1)
    sizes = int(first[0].sum()), int(second[0].sum())
    chance = similarity.expected_jaccard(*sizes, first.shape[1])
    ratio = uncertainty.half_sampled_ratio(intersection, union, len(ids[0]))
    return uncertainty.within(ratio, 0, 1) | {"chance": chance}


@functools.lru_cache(maxsize=60)
def moved_votes(population: StoredPopulation, seeds: tuple[int, ...], splits: Callable) -> np.ndarray:
    """Counts the votes for an image that pruning moves to another class, for each of `distinct_halves`: (H,
    N) uint8, the total variation distance times the number of voters."""
    halves, _ = distinct_halves(splits, len(seeds))
    sides = [side.predictions_of(seeds) for side in population.sides]
    moved, images = np.zeros((len(halves), len(population.labels)), np.uint8), disputed(population, seeds)
    for chunk in np.array_split(images, 1 + len(images) // 500):
        distance = 0
        for label in range(population.reference.classes):
            reference, pruned = ((side[:, chunk] == label).astype(np.float32) for side in sides)
            distance = distance + np.abs(halves.astype(np.float32) @ (pruned - reference))
        moved[:, chunk] = distance / 2
    return moved


def correlations(products: np.ndarray, number: int | np.ndarray) -> np.ndarray:
    """Computes Pearson correlations (..., V, V) from sums of products (..., V + 1, V + 1) over `number`
    images; the last variable is 1. Constant variables have correlation 0."""
    means = products[..., :-1, -1:].astype(float) / number
    covariance = products[..., :-1, :-1] / number - means * means.swapaxes(-1, -2)
    variance = np.einsum("...vv->...v", covariance)[..., None]
    size = np.sqrt(variance * variance.swapaxes(-1, -2))
    return covariance / np.where(size > 0, size, np.inf)


def uniqueness(pair: Pair) -> Terms:
    """Estimates U: how far two combinations differ in the images whose votes pruning moves, beyond the effect
    of different seeds; NaN if the halves of a combination are not positively correlated."""
    ids = compared_ids(STATISTICS["pies"], pair)
    if len(ids[0]) < 2:
        return []
    # No votes move on other images.
    images = np.union1d(*map(disputed, pair[:2], ids))

    def products(splits: Callable, chosen: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Returns sums (S, J, 5, 5) of products over chosen images; the variables are both halves of the
        first combination, both of the second, and 1."""
        sides = [moved_votes(*side, splits)[:, images[chosen]] for side in zip(pair[:2], ids)]
        _, positions = distinct_halves(splits, len(ids[0]))
        sums = np.zeros((*positions.shape[1:], 5, 5), np.float32)
        for index in range(len(sums)):
            moved = [side[positions[:, index]] for side in sides]
            moved = np.concatenate([*moved, np.ones_like(moved[0][:1])]).swapaxes(0, 1).astype(np.float32)
            sums[index] = moved @ moved.swapaxes(1, 2)  # sums of whole numbers
        return sums

    def u(products: np.ndarray, number: int | np.ndarray) -> np.ndarray:
        """Returns U (..., J), linearised around the means over splits."""
        r = correlations(products, number)
        across, within = (r[..., 0, 3] + r[..., 1, 2]) / 2, [r[..., 0, 1], r[..., 2, 3]]
        means = [values.mean(-1, keepdims=True) for values in (across, *within)]
        defined = (means[1] > 0) & (means[2] > 0)
        scale = np.sqrt(np.where(defined, means[1] * means[2], np.nan))
        deviations = [values - mean for values, mean in zip((across, *within), means)]
        slopes = [means[0] / 2 / np.where(defined, mean, np.nan) for mean in means[1:]]
        return 1 - (means[0] + deviations[0] - slopes[0] * deviations[1] - slopes[1] * deviations[2]) / scale

    kept_images = uncertainty.image_groups(len(pair.first.labels))
    group_products = np.stack([products(splits_of_seeds, ~kept[images])[0] for kept in kept_images])
    without = u(group_products.sum(0) - group_products, kept_images.sum(1)[:, None, None, None]).mean(1)
    sample = of_splits(ids[0], lambda splits: u(products(splits), kept_images.shape[1]), without)
    return [(1, "", sample)]  # one stream, because pairs may share a population


# Populations


def population_rows(populations: list[StoredPopulation]) -> list[dict]:
    """Returns a row per population: accuracy, and for pruned ones PIEs, noise floor and excess, with
    intervals."""
    rows = []
    for population in populations:
        row = population.key | {"networks": len(population.pruned.ids)}
        row["accuracy"] = estimate("accuracy", population)
        if population.pruning_method != "dense":
            row["pies"] = estimate("pies", population)
            row["noise_floor"] = noise_floor(population, population.seeds)
            row["excess"] = estimate("excess", population)
        rows.append(row)
    return rows


def vote_leads(population: StoredPopulation) -> np.ndarray:
    """Returns the lead of the modal label over the second class in votes, (N,): the smaller of those in dense
    and in pruned networks."""
    predictions = (side.predictions_of(population.seeds) for side in population.sides)
    counts = (voting.vote_counts(votes, population.reference.classes) for votes in predictions)
    return np.minimum(*map(voting.vote_lead, counts))
