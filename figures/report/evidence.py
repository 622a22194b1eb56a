"""What a data set's stored arrays say about the claims, with intervals. K networks, N images, S sets of
seeds, J splits of each into halves."""

import functools
import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from itertools import combinations, product
from operator import attrgetter
from typing import NamedTuple

import numpy as np
from scipy import sparse

from common import voting
from common.methods import FINETUNED
from common.store import table
from figures.report import claims, similarity, uncertainty
from figures.report.read import Networks, StoredPopulation, grouped
from figures.report.uncertainty import FEWEST_NESTED, Sample, of_networks, splits_of_sets

MATCHED = 0.01  # accuracies that are no further apart
IMAGE_MEASURES = {"Q-Score": "q_score", "prediction depth": "depth"}  # measure of claim 4 -> name in arrays


def is_claimed_about(population: StoredPopulation) -> bool:
    """Whether the claims are about it: pruned by magnitude, in one shot or while training, to a high
    sparsity."""
    method = population.parsed
    magnitude = method.criterion == "magnitude" and method.schedule in ("one-shot", "early", "late")
    return magnitude and population.sparsity >= claims.HIGH_SPARSITY


def with_dense(populations: list[StoredPopulation]) -> list[StoredPopulation]:
    """The dense networks of every learning method as a population too, before the others."""
    first = {each.learning_method: each for each in reversed(populations)}
    dense = [
        replace(
            each,
            pruning_method="dense",
            sparsity=0.0,
            pruned=each.reference,
            made=each.made | {"checkpoints": each.made["dense_checkpoints"]},
        )
        for each in first.values()
    ]
    return [*dense[::-1], *populations]


def with_controls(
    populations: list[StoredPopulation], controls: list[StoredPopulation]
) -> dict[StoredPopulation, StoredPopulation]:
    """Each population -> itself; of one-shot ones, where there is one, beside their finetune-only control in
    place of the dense networks."""
    networks, compared = {each.learning_method: each.pruned for each in controls}, {}
    for population in populations:
        control = networks.get(population.learning_method)
        compared[population] = population
        if control and population.parsed.schedule == "one-shot":
            beside = replace(population, reference=control, reference_method=FINETUNED)
            compared[population] = beside if beside.seeds else population
    return compared


def has_control(population: StoredPopulation) -> bool:
    """Whether its reference went through the same finetuning, if there was one."""
    return population.parsed.schedule != "one-shot" or population.reference_method == FINETUNED


# Votes of sets of seeds


@functools.lru_cache(maxsize=100)  # a test set and the clean images, of all populations
def labels_of_sets(networks: Networks, seeds: tuple[int, ...]) -> np.ndarray:
    """Modal labels (1 + S, N): of all these seeds, then of their half-samples; S = 0 with fewer than 6 seeds.
    What was asked for lately is remembered."""
    sets = np.ones((1, len(seeds)), bool)
    if len(seeds) >= uncertainty.FEWEST_SEEDS:
        sets = np.concatenate([sets, uncertainty.half_samples(len(seeds))])
    return voting.modal_labels_of_sets(networks.predictions_of(seeds), sets, networks.classes)


def pies(population: StoredPopulation, seeds: tuple[int, ...]) -> np.ndarray:
    """The PIE sets of all these seeds, and of their half-samples: (1 + S, N) bool."""
    return labels_of_sets(population.reference, seeds) != labels_of_sets(population.pruned, seeds)


@functools.cache
def distinct_halves(splits: Callable, seeds: int) -> tuple[np.ndarray, np.ndarray]:
    """The halves in `splits` of so many seeds, each once, (H, K) bool, and where in these the halves of the
    splits are, (2, S, J): of few seeds there are few."""
    sets = splits(seeds)
    halves, places = np.unique(sets.reshape(-1, seeds), axis=0, return_inverse=True)
    return halves, places.reshape(sets.shape[:3])


@functools.lru_cache(maxsize=30)  # of reference networks, which several populations share, and of pruned ones
def labels_of_halves(networks: Networks, seeds: tuple[int, ...], splits: Callable) -> np.ndarray:
    """Modal labels of `distinct_halves`: (H, N)."""
    halves, _ = distinct_halves(splits, len(seeds))
    return voting.modal_labels_of_sets(networks.predictions_of(seeds), halves, networks.classes)


def disputed(population: StoredPopulation, seeds: tuple[int, ...]) -> np.ndarray:
    """The images that not all networks give the same label; on others votes never differ."""
    networks = (each.predictions_of(seeds) for each in (population.reference, population.pruned))
    predictions = np.concatenate([*networks])
    return np.flatnonzero((predictions != predictions[0]).any(0))


@functools.lru_cache(maxsize=2)
def disputed_labels(
    population: StoredPopulation, seeds: tuple[int, ...], splits: Callable
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The disputed images (D,), and there the labels (H, D) of the reference's and of the pruned halves."""
    images = disputed(population, seeds)
    networks = population.reference, population.pruned
    return images, *(labels_of_halves(each, seeds, splits).take(images, 1) for each in networks)


class BetweenHalves(NamedTuple):
    """Numbers of images (S, J): floor, on which reference networks of opposite halves of the seeds differ,
    and pruned, on which reference and pruned ones do, the mean of both ways."""

    floor: np.ndarray
    pruned: np.ndarray


@functools.cache
def between_halves(population: StoredPopulation, seeds: tuple[int, ...], splits: Callable) -> BetweenHalves:
    """The numbers of these splits of the seeds. Networks of one seed share their training: opposite halves
    alone are compared."""
    _, reference, pruned = disputed_labels(population, seeds, splits)
    _, (first, second) = distinct_halves(splits, len(seeds))

    def differing(others: np.ndarray, places: np.ndarray, other_places: np.ndarray) -> np.ndarray:
        pairs = zip(places.ravel(), other_places.ravel())
        counts = [np.count_nonzero(reference[one] != others[other]) for one, other in pairs]
        return np.array(counts).reshape(places.shape)

    crossed = differing(pruned, first, second) + differing(pruned, second, first)
    return BetweenHalves(differing(reference, first, second), crossed / 2)


def noise_floor(population: StoredPopulation, seeds: tuple[int, ...]) -> float:
    return float(between_halves(population, seeds, splits_of_sets).floor[0].mean())


# Statistics of one population: samples of its networks of these ids


def scaled_up(values: np.ndarray) -> np.ndarray:
    """Values of images (N,) -> (G,) their sum estimated without each group of images."""
    kept = uncertainty.image_groups(len(values))
    return kept @ values * len(values) / kept.sum(1)


@functools.cache
def excess(population: StoredPopulation, seeds: tuple[int, ...]) -> Sample:
    """PIEs beyond the noise floor, both between halves of the seeds, means over splits."""
    numbers = between_halves(population, seeds, splits_of_sets)
    of_splits = numbers.pruned - numbers.floor
    kind, replicates = "jackknife", of_splits[1:]
    if len(seeds) >= FEWEST_NESTED:
        nested = between_halves(population, seeds, uncertainty.splits_of_halves)
        kind, replicates = "halves", nested.pruned - nested.floor
    images, *labels = disputed_labels(population, seeds, splits_of_sets)
    _, places = distinct_halves(splits_of_sets, len(seeds))
    reference, pruned = (each[places[:, 0]] for each in labels)
    of_images = np.zeros(len(population.labels))
    of_images[images] = (reference != pruned[::-1]).mean((0, 1)) - (reference[0] != reference[1]).mean(0)
    return Sample(seeds, kind, of_splits[0], replicates, scaled_up(of_images))


def half_sampled(numbers: np.ndarray, seeds: tuple[int, ...]) -> Sample:
    """Counts (1 + S,) of all seeds and of their half-samples."""
    return Sample(seeds, "halves", numbers[:1].astype(float), numbers[1:, None].astype(float))


def number_of_pies(population: StoredPopulation, seeds: tuple[int, ...]) -> Sample:
    return half_sampled(pies(population, seeds).sum(1), seeds)


def lost_minus_gained(population: StoredPopulation, seeds: tuple[int, ...]) -> Sample:
    """Images that the reference's modal label gets right minus those that the pruned one does."""
    networks = population.reference, population.pruned
    right = [(labels_of_sets(each, seeds) == population.labels).sum(1) for each in networks]
    return half_sampled(right[0] - right[1], seeds)


def is_right(networks: Networks, labels: np.ndarray, ids: tuple[int, ...]) -> np.ndarray:
    return networks.predictions_of(ids) == labels


def accuracy_lost(population: StoredPopulation, ids: tuple[int, ...]) -> Sample:
    """Accuracy of the reference minus that of the pruned network of the same seed."""
    networks = population.reference, population.pruned
    reference, pruned = (is_right(each, population.labels, ids).astype(float) for each in networks)
    lost = reference - pruned
    return of_networks(lost.mean(1), ids, scaled_up(lost.mean(0) / lost.shape[1]))


def values_of_networks(
    population: StoredPopulation, name: str, images: np.ndarray | slice = slice(None)
) -> dict[int, float]:
    """id -> accuracy, or q_score or depth averaged over images, or a number that is stored of each network;
    of the pruned ones that have it."""
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
    return {each: value for each, value in pairs if not math.isnan(value)}


def mean_of_networks(name: str, images: np.ndarray | slice = slice(None)) -> "Statistic":
    """The mean over networks of what `values_of_networks` gives."""

    def sample(population: StoredPopulation, ids: tuple[int, ...]) -> Sample:
        values = values_of_networks(population, name, images)
        return of_networks(np.array([values[each] for each in ids]), ids)

    return Statistic(lambda population: list(values_of_networks(population, name, images)), sample)


@functools.cache
def pies_minus_others(population: StoredPopulation, measure: str, controlled: bool) -> Sample:
    """The mean q_score or depth that pruned networks give PIEs minus that of other images, in standard
    deviations over images. PIEs are those of one half of the seeds, measured in networks of the other half.

    Args:
        controlled: against images of equal difficulty alone (as many reference networks agree on their modal
            label, and it is right or wrong alike), the mean over PIEs.
    """
    seeds, networks = population.seeds, population.pruned
    probed = [index for index, each in enumerate(networks.ids_of(measure).tolist()) if each in seeds]
    values = getattr(networks, measure)[probed].T  # (N, M)
    known = ~np.isnan(values).any(1)
    deviation = values[known].std(0)
    values = (values - values[known].mean(0)) / np.where(deviation > 0, deviation, np.nan)
    # Images that are not known in all networks count nowhere; the last column counts the others.
    values = np.column_stack([np.where(known[:, None], values, 0), known])
    of_networks = [seeds.index(each) for each in networks.ids_of(measure)[probed].tolist()]
    halves, places = distinct_halves(splits_of_sets, len(seeds))
    images, reference, pruned = disputed_labels(population, seeds, splits_of_sets)
    is_pie = np.ascontiguousarray((reference != pruned).T)
    strata = difficulty(population, seeds) if controlled else np.zeros((places.shape[1], len(known)), int)

    def of_set(index: int, groups: np.ndarray | int = 0) -> np.ndarray:
        """(J,) of one set of seeds; with groups of images (N,) without each of these: (G, J)."""
        chosen, back = np.unique(places[:, index], return_inverse=True)
        pies, everyone = sums_of_strata(values, is_pie[:, chosen], images, strata[index], groups)
        if pies.shape[0] > 1:
            pies, everyone = pies.sum(0) - pies, everyone.sum(0) - everyone
        differences = minus_others(pies, everyone)[:, back.reshape(2, -1)]  # (G, 2, J, M)
        measured = halves[places[::-1, index]][..., of_networks] & ~np.isnan(differences)  # in the other half
        sums, counts = np.where(measured, differences, 0).sum((1, 3)), measured.sum((1, 3))
        average = sums.sum(1, keepdims=True) / counts.sum(1, keepdims=True)
        # Splits without PIEs count as the others do on average.
        return np.where(counts > 0, sums / counts, average)

    with np.errstate(invalid="ignore"):  # where there are no PIEs
        value, *replicates = (of_set(index)[0] for index in range(len(strata)))
        groups = uncertainty.image_groups(len(known)).argmin(0)
        without = of_set(0, groups).mean(1) if controlled else uncertainty.NO_IMAGES
    replicates = np.array(replicates).reshape(-1, uncertainty.SPLITS)
    return Sample(seeds, "jackknife", value, replicates, without, len(probed))


@functools.lru_cache(maxsize=1)  # of both measures
def difficulty(population: StoredPopulation, seeds: tuple[int, ...]) -> np.ndarray:
    """Of the sets of `splits_of_sets`, in what images of equal difficulty agree: (S, N) whole numbers."""
    votes, voters = population.reference.predictions_of(seeds), splits_of_sets(len(seeds)).any((0, 2))
    modal = voting.modal_labels_of_sets(votes, voters, population.reference.classes)
    agreeing = sum(chosen[:, None] & (vote == modal) for chosen, vote in zip(voters.T, votes))
    return 2 * agreeing + (modal == population.labels)


def sums_of_strata(
    values: np.ndarray, is_pie: np.ndarray, images: np.ndarray, strata: np.ndarray, groups: np.ndarray | int
) -> tuple[np.ndarray, np.ndarray]:
    """Sums of values (N, M) over the PIEs of each set, and over all images, of groups and strata (N,).

    Args:
        is_pie: (D, S) of images (D,).
    Returns:
        (G, S, T, M), (G, 1, T, M)
    """
    shape = uncertainty.IMAGE_GROUPS if np.ndim(groups) else 1, is_pie.shape[1], strata.max() + 1
    bins = np.ravel_multi_index((groups, 0, strata), shape)
    place, sets = np.nonzero(is_pie)

    def sums(values: np.ndarray, bins: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Of values in bins, each in as many as `counts` says."""
        starts = np.concatenate([[0], counts.cumsum()])
        chosen = sparse.csc_array((np.ones(len(bins)), bins, starts), (math.prod(shape), len(values)))
        return (chosen @ values).reshape(*shape, -1)

    pies = sums(values[images], bins[images[place]] + sets * shape[2], is_pie.sum(1))
    return pies, sums(values, bins, np.ones(len(values), int))[:, :1]


def minus_others(pies: np.ndarray, everyone: np.ndarray) -> np.ndarray:
    """The mean over PIEs minus that over other images of the same stratum, a mean over the PIEs that there
    are others beside; NaN where there are none.

    Args:
        pies, everyone: sums (..., T, M + 1) over PIEs and over all images of strata; the last is their
            number.
    Returns:
        (..., M)
    """
    number, others = pies[..., -1:], everyone[..., -1:] - pies[..., -1:]
    rest = (everyone - pies) / np.maximum(1, others)
    total = np.where(others > 0, pies - number * rest, 0).sum(-2)
    count = np.where(others > 0, number, 0).sum(-2)
    return total[..., :-1] / np.where(count > 0, count, np.nan)


class Statistic(NamedTuple):
    """A number of a population: ids says which networks have it; sample, what those of some ids give."""

    ids: Callable[[StoredPopulation], list[int]]
    sample: Callable[[StoredPopulation, tuple[int, ...]], Sample]
    fewest: int = 1  # networks that it can be computed of


OF_NETWORKS = ("accuracy", "q_score", "depth", "knn_accuracy", "auroc_q_score", "auroc_depth")
STATISTICS = {
    "pies": Statistic(attrgetter("seeds"), number_of_pies),
    "excess": Statistic(attrgetter("seeds"), excess, 2),
    "accuracy_lost": Statistic(attrgetter("seeds"), accuracy_lost),
    "lost_minus_gained": Statistic(attrgetter("seeds"), lost_minus_gained),
} | {name: mean_of_networks(name) for name in OF_NETWORKS}
BOUNDS = {"accuracy": (0, 1), "pies": (0, math.inf)}


def estimate(name: str, population: StoredPopulation, ids: tuple[int, ...] = ()) -> dict:
    """A statistic of these networks, or of all that have it, with its interval."""
    statistic = STATISTICS[name]
    ids = ids or tuple(sorted(statistic.ids(population)))
    if len(ids) < statistic.fewest:
        return uncertainty.undefined()
    one = uncertainty.combine([(1, "", statistic.sample(population, ids))])
    return uncertainty.within(one, *BOUNDS.get(name, (-math.inf, math.inf)))


# Statistics of two populations


class Pair(NamedTuple):
    """Two populations that are compared. paired: networks of one id are compared with each other; else the
    ids have nothing to do with those of the other one, and equally many are taken, the first. ids: those that
    may be taken of each, None: all."""

    first: StoredPopulation
    second: StoredPopulation
    paired: bool
    ids: tuple[int, ...] | None = None

    @property
    def streams(self) -> tuple[str, str]:
        """What says whose seeds they are."""
        first, second = (each.learning_method for each in self[:2])
        return (first, second) if self.paired or first != second else (first, f"other {second}")


Terms = list[tuple[float, str, Sample]]  # as `uncertainty.combine` takes them


def compared_ids(statistic: Statistic, pair: Pair) -> list[tuple[int, ...]]:
    """The ids of both populations of which a statistic is compared, equally many."""
    ids = [sorted(statistic.ids(each)) for each in pair[:2]]
    if pair.ids is not None:
        ids = [[each for each in own if each in pair.ids] for own in ids]
    if pair.paired:
        ids = [[each for each in ids[0] if each in ids[1]]] * 2
    fewest = min(map(len, ids))
    return [tuple(own[:fewest]) for own in ids]


def difference(statistic: Statistic, pair: Pair) -> Terms:
    """The terms of the first population's number minus the second's; none with too few networks."""
    ids = compared_ids(statistic, pair)
    if len(ids[0]) < statistic.fewest:
        return []
    samples = [statistic.sample(*each) for each in zip(pair, ids)]
    return [*zip((1, -1), pair.streams, samples)]


class Difference(NamedTuple):
    """A statistic of both populations of a pair, and the first minus the second, with intervals."""

    first: dict
    second: dict
    difference: dict


def compare(name: str, pair: Pair) -> Difference:
    """A statistic of two populations; undefined where there are too few networks."""
    terms = difference(STATISTICS[name], pair)
    if not terms:
        return Difference(*[uncertainty.undefined()] * 3)
    sides = [uncertainty.combine([(1, stream, sample)]) for _, stream, sample in terms]
    return Difference(*sides, uncertainty.combine(terms))


def overlap(pair: Pair) -> dict:
    """The Jaccard similarity of the PIE sets of a pair on the same images, with its interval, beside that of
    random sets of these sizes."""
    ids = compared_ids(STATISTICS["pies"], pair)
    first, second = (pies(*each) for each in zip(pair, ids))  # (1 + S, N)
    if not pair.paired:  # seeds that have nothing to do with one another
        second[1:] = second[1 + uncertainty.reordered(len(second) - 1, 1)]
    common, either = (first & second).sum(1), (first | second).sum(1)
    chance = similarity.expected_jaccard(*(int(each[0].sum()) for each in (first, second)), first.shape[1])
    ratio = uncertainty.half_sampled_ratio(common, either, len(ids[0]))
    return uncertainty.within(ratio, 0, 1) | {"chance": chance}


@functools.lru_cache(maxsize=30)
def moved_votes(population: StoredPopulation, seeds: tuple[int, ...]) -> np.ndarray:
    """Of `distinct_halves`, how many votes of each image pruning moves from one class to another: (H, N)
    uint8, the total variation distance times the number of voters."""
    halves, _ = distinct_halves(splits_of_sets, len(seeds))
    networks = [each.predictions_of(seeds) for each in (population.reference, population.pruned)]
    moved, images = np.zeros((len(halves), len(population.labels)), np.uint8), disputed(population, seeds)
    for some in np.array_split(images, 1 + len(images) // 500):
        distance = 0
        for label in range(population.reference.classes):
            reference, pruned = ((each[:, some] == label).astype(np.float32) for each in networks)
            distance = distance + np.abs(halves.astype(np.float32) @ (pruned - reference))
        moved[:, some] = distance / 2
    return moved


def correlations(products: np.ndarray, number: int | np.ndarray) -> np.ndarray:
    """Sums of products (..., V + 1, V + 1) over so many images of variables, the last of which is 1 -> (...,
    V, V) Pearson's; 0 where one does not vary."""
    means = products[..., :-1, -1:].astype(float) / number
    covariance = products[..., :-1, :-1] / number - means * means.swapaxes(-1, -2)
    variance = np.einsum("...vv->...v", covariance)[..., None]
    size = np.sqrt(variance * variance.swapaxes(-1, -2))
    return covariance / np.where(size > 0, size, np.inf)


def uniqueness(pair: Pair) -> Terms:
    """U: how far the images that pruning moves in one combination are not those of the other, beyond what
    other seeds alone would give; NaN where a combination does not agree with itself."""
    ids = compared_ids(STATISTICS["pies"], pair)
    if len(ids[0]) < 2:
        return []
    # On other images nothing moves.
    images = np.union1d(*(disputed(*each) for each in zip(pair, ids)))
    first, second = (moved_votes(*each).take(images, 1) for each in zip(pair, ids))
    _, places = distinct_halves(splits_of_sets, len(ids[0]))

    def products(index: int, chosen: np.ndarray | slice = slice(None)) -> np.ndarray:
        """(J, 5, 5) sums over chosen images: of both halves of the first, of the second, of 1."""
        moved = [each[:, chosen][places[:, index]] for each in (first, second)]
        moved = np.concatenate([*moved, np.ones_like(moved[0][:1])]).swapaxes(0, 1).astype(np.float32)
        return moved @ moved.swapaxes(1, 2)  # whole numbers: exact

    def u(products: np.ndarray, number: int | np.ndarray) -> np.ndarray:
        """(..., J); over splits the values scatter as their mean does."""
        r = correlations(products, number)
        across, within = (r[..., 0, 3] + r[..., 1, 2]) / 2, [r[..., 0, 1], r[..., 2, 3]]
        means = [each.mean(-1, keepdims=True) for each in (across, *within)]
        defined = (means[1] > 0) & (means[2] > 0)
        size = np.sqrt(np.where(defined, means[1] * means[2], np.nan))
        apart = [each - mean for each, mean in zip((across, *within), means)]
        slopes = [means[0] / 2 / np.where(defined, each, np.nan) for each in means[1:]]
        return 1 - (means[0] + apart[0] - slopes[0] * apart[1] - slopes[1] * apart[2]) / size

    kept = uncertainty.image_groups(len(pair.first.labels))
    of_groups = np.stack([products(0, ~each[images]) for each in kept])
    without = u(of_groups.sum(0) - of_groups, kept.sum(1)[:, None, None, None]).mean(1)
    of_sets = np.stack([products(index) for index in range(places.shape[1])])
    value, *replicates = u(of_sets, kept.shape[1])
    replicates = np.array(replicates).reshape(-1, uncertainty.SPLITS)
    stream = " and ".join(dict.fromkeys(pair.streams))
    return [(1, stream, Sample(ids[0], "jackknife", value, replicates, without))]


# Populations


def population_rows(populations: list[StoredPopulation]) -> list[dict]:
    """One row for each: accuracy, and of pruned ones PIEs, the noise floor and what is beyond it, with
    intervals."""
    rows = []
    for population in populations:
        row = population.key | {"networks": len(population.pruned.ids)}
        row["accuracy"] = estimate("accuracy", population)
        if population.pruning_method != "dense":
            several = len(population.seeds) > 1
            row["pies"] = estimate("pies", population)
            row["noise_floor"] = noise_floor(population, population.seeds) if several else math.nan
            row["excess"] = estimate("excess", population)
        rows.append(row)
    return rows


def combine(terms: Terms) -> dict:
    return uncertainty.combine(terms) if terms else uncertainty.undefined()


def measures(population: StoredPopulation) -> dict[str, dict]:
    """What pruning loses and keeps: every measure that the population's row has, a mean over networks with
    its interval, which shares do not leave; a number of images has none."""
    stored = {**(population.depths or {}), **population.arrays}
    values = {
        name: np.atleast_1d(stored[name]) for name in table.MEASURES if name in population.row.keys() & stored
    }
    estimates = {name: uncertainty.mean_estimate(each[~np.isnan(each)]) for name, each in values.items()}
    return {name: uncertainty.within(each, 0, 1) for name, each in estimates.items()}


def vote_leads(population: StoredPopulation) -> np.ndarray:
    """(N,) how many votes the modal label is ahead of the second class, in dense or pruned networks,
    whichever is less."""
    networks = population.reference, population.pruned
    predictions = (each.predictions_of(population.seeds) for each in networks)
    counts = (voting.vote_counts(each, population.reference.classes) for each in predictions)
    return np.minimum(*map(voting.vote_lead, counts))


# Evidence for the claims


def against_others(population: StoredPopulation, measure: str, controlled: bool, sign: int) -> Terms:
    """Claim 4: Q-Score or depth of PIEs minus that of others, times the sign."""
    if len(population.seeds) < 2 or not set(population.pruned.ids_of(measure).tolist()) & {*population.seeds}:
        return []
    return [(sign, population.learning_method, pies_minus_others(population, measure, controlled))]


class Row(NamedTuple):
    """A difference that is evidence: measure, a name of the claim's; compared, the populations that it is of;
    terms, what it is made of; smallest, the difference that matters; decides, whether it may, and a note."""

    measure: str
    compared: tuple[StoredPopulation, ...]
    terms: Terms
    smallest: float = math.nan
    decides: bool = True
    note: str = ""


def smallest_of(name: str, second: StoredPopulation, terms: Terms) -> float:
    """The smallest difference that matters beside the reference method's population, whose sample is the last
    term."""
    if not terms:
        return math.nan
    sample = terms[-1][2]
    share = claims.SHARE * float(sample.value.mean())
    if name == "accuracy_lost":
        return max(claims.SMALLEST_LOSS, share)
    if name == "excess":
        return max(claims.FLOOR_SHARE * noise_floor(second, sample.ids), share)
    return math.nan


def rows_of_pair(measures: dict[str, str], pair: Pair, decides: bool = True, sign: int = 1) -> Iterator[Row]:
    """A row for each measure -> name of its statistic."""
    for measure, name in measures.items():
        terms = difference(STATISTICS[name], pair)
        smallest = smallest_of(name, pair.second, terms)
        terms = [(sign * weight, *rest) for weight, *rest in terms]
        yield Row(measure, pair[:2], terms, smallest, decides, accuracies(*pair[:2]))


def mean_accuracy(population: StoredPopulation) -> float:
    return float((population.pruned.predictions == population.labels).mean())


def accuracies(*populations: StoredPopulation) -> str:
    return "accuracy " + " and ".join(f"{100 * mean_accuracy(each):.2f}" for each in populations) + " %"


PRIMARY = {"accuracy lost": "accuracy_lost", "excess PIEs": "excess"}


def contrastive_against_supervised(
    beside_control: dict[StoredPopulation, StoredPopulation], populations: list[StoredPopulation]
) -> Iterator[Row]:
    """Claim 1: contrastive minus supervised networks, of one pruning method and sparsity; and minus those of
    that pruning method that are about as accurate."""
    supervised = [each for each in populations if each.learning_method == "supervised"]
    of_method = grouped(supervised, "pruning_method")
    for population, beside in beside_control.items():
        if population.learning_method == "supervised":
            continue
        others = of_method.get(population.pruning_method, [])
        for other in others:
            if other.sparsity == population.sparsity:
                over_dense = {"accuracy lost from dense": "accuracy_lost", "excess PIEs over dense": "excess"}
                counts = {"PIEs": "pies", "lost minus gained": "lost_minus_gained"}
                yield from rows_of_pair(over_dense | counts, Pair(population, other, False))
                both = beside, beside_control[other]
                if all(map(has_control, both)):
                    yield from rows_of_pair(PRIMARY, Pair(*both, False))
        nearest = min(others, key=lambda other: gap(population, other), default=None)
        if nearest and gap(population, nearest) <= MATCHED:
            matched = {"PIEs at matched accuracy": "pies"}
            yield from rows_of_pair(matched, Pair(population, nearest, False))


def gap(first: StoredPopulation, second: StoredPopulation) -> float:
    """Between their accuracies."""
    return abs(mean_accuracy(first) - mean_accuracy(second))


def unique_to_combinations(claimed: Collection[StoredPopulation]) -> Iterator[Row]:
    """Claim 2: U of pairs that differ in the learning or in the pruning method alone, of one sparsity and
    scope."""
    for first, second in combinations(claimed, 2):
        learning = first.learning_method != second.learning_method
        pruning = first.pruning_method != second.pruning_method
        if learning == pruning or first.sparsity != second.sparsity or not same_scope(first, second):
            continue
        across = f"across {'learning' if learning else 'pruning'} methods"
        pair, both = Pair(first, second, not learning), (first, second)
        decides = all(map(has_control, both)) and gap(*both) <= claims.CONFOUNDING_GAP
        note = accuracies(*both)
        if gap(*both) > claims.CONFOUNDING_GAP:
            note += ": confounded"
        smallest = claims.SMALLEST_UNIQUENESS
        yield Row(f"U {across}", both, uniqueness(pair), smallest, decides, note)
        alike = overlap(pair)
        sizes = " and ".join(str(int(pies(each, each.seeds)[0].sum())) for each in both)
        note = f"{alike['value']:.2f}, by chance {alike['chance']:.2f}; {sizes} PIEs"
        beyond = {end: alike[end] - alike["chance"] for end in ("value", "low", "high")}
        yield Row(f"Jaccard {across}", both, alike | beyond, note=note)


def same_scope(first: StoredPopulation, second: StoredPopulation) -> bool:
    return first.parsed.scope == second.parsed.scope


def early_against_others(claimed: Collection[StoredPopulation]) -> Iterator[Row]:
    """Claim 3: networks pruned early minus those pruned late, and minus those pruned in one shot, of the same
    scope; networks of one seed begin alike and are compared with each other."""
    for early, other in product(claimed, claimed):
        about = [(each.learning_method, each.sparsity, each.parsed.scope) for each in (early, other)]
        if early.parsed.schedule != "early" or about[0] != about[1]:
            continue
        pair = Pair(early, other, True)
        if other.parsed.schedule == "one-shot":
            yield from rows_of_pair({f"{name}, one-shot": each for name, each in PRIMARY.items()}, pair)
        elif other.parsed.schedule == "late":
            yield from rows_of_pair(PRIMARY, pair)
            yield from rows_of_pair({"k-NN accuracy": "knn_accuracy"}, pair, sign=-1)
            right = [labels_of_sets(each.pruned, each.seeds)[0] == early.labels for each in (early, other)]
            for sign, (measure, name) in zip((-1, 1), IMAGE_MEASURES.items()):
                terms = difference(mean_of_networks(name, right[0] & right[1]), pair)
                yield Row(measure, pair[:2], [(sign * weight, *rest) for weight, *rest in terms])


def pies_against_others(claimed: list[StoredPopulation]) -> Iterator[Row]:
    """Claim 4: Q-Score and depth of PIEs minus those of other images, in pruned networks."""
    for population in claimed:
        note = "" if has_control(population) else "reference: dense, no finetune-only control"
        for sign, (measure, name) in zip((-1, 1), IMAGE_MEASURES.items()):
            smallest = claims.SMALLEST_IN_DEVIATIONS
            for words, controlled in (("", True), (", all", False)):
                terms = against_others(population, name, controlled, sign)
                yield Row(measure + words, (population,), terms, smallest, controlled, note)
        for measure, name in {"AUROC of Q-Score": "auroc_q_score", "AUROC of depth": "auroc_depth"}.items():
            values = values_of_networks(population, name)
            if values:
                beyond_half = of_networks(np.array([*values.values()]) - 0.5, tuple(values))
                yield Row(measure, (population,), [(1, population.learning_method, beyond_half)])


def all_evidence(populations: list[StoredPopulation], controls: list[StoredPopulation] = ()) -> list[dict]:
    """The rows of all claims, then of every measure the plain mean over its rows: what `claims.judge` takes.
    Rows without any network in common are left out.

    Args:
        controls: the finetuned dense networks.
    """
    claimed = [population for population in populations if is_claimed_about(population)]
    beside_control = with_controls(claimed, controls)
    evidence = []
    of_claim = {
        1: contrastive_against_supervised(beside_control, populations),
        2: unique_to_combinations(beside_control.values()),
        3: early_against_others(beside_control.values()),
        4: pies_against_others(beside_control),
    }
    for number, found in of_claim.items():
        by_measure: dict[tuple, list[Row]] = {}
        for row in found:
            if row.terms:
                decides = row.decides and claims.MEASURES[number, row.measure].decides
                by_measure.setdefault((row.measure, decides), []).append(row)
        rows = [
            evidence_row(number, row, decides) for (_, decides), some in by_measure.items() for row in some
        ]
        deciding = [row for row in rows if row["decides"]]
        for row, mark in zip(deciding, claims.mark_rows(deciding)):
            row["mark"] = mark
        means = [mean_row(number, some, decides) for (_, decides), some in by_measure.items()]
        evidence += [*rows, *filter(None, means)]
    return evidence


def evidence_row(number: int, row: Row, decides: bool) -> dict:
    """One difference with its interval."""
    estimate = row.terms if isinstance(row.terms, dict) else uncertainty.combine(row.terms)
    about = {
        "claim": number,
        "measure": row.measure,
        "decides": decides,
        "is_mean": False,
        "comparison": " against ".join(each.method for each in row.compared),
        "sparsity": row.compared[0].sparsity,
    }
    return about | estimate | {"smallest": row.smallest, "mark": "", "note": row.note}


def mean_row(number: int, rows: list[Row], decides: bool) -> dict | None:
    """The plain mean over the rows of a measure, with its interval; None of similarities."""
    if isinstance(rows[0].terms, dict):
        return None
    terms = [(weight / len(rows), *rest) for row in rows for weight, *rest in row.terms]
    mean = Row(rows[0].measure, rows[0].compared, terms, float(np.mean([row.smallest for row in rows])))
    words = {"is_mean": True, "comparison": f"mean over rows: {len(rows)}", "sparsity": math.nan}
    return evidence_row(number, mean, decides) | words
