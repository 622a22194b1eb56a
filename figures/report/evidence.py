"""What a data set's stored arrays say about the claims, with intervals. K networks, N images, S sets of
seeds."""

import functools
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from typing import NamedTuple

import numpy as np

from common import voting
from common.store import table
from figures.report import similarity, uncertainty
from figures.report.claims import DEPTHS, HIGH_SPARSITY
from figures.report.read import StoredPopulation, grouped

MARGINS = (10, 20)  # % of the votes
MATCHED = 0.01  # accuracies that are no further apart
IMAGE_MEASURES = {"Q-Score": "q_score", "prediction depth": "depth"}  # part of a claim -> name in arrays


def is_claimed_about(population: StoredPopulation) -> bool:
    """Whether the claims are about it: pruned by magnitude, in one shot or while training, to a high
    sparsity."""
    method = population.parsed
    magnitude = method.criterion == "magnitude" and method.schedule in ("one-shot", "early", "late")
    return magnitude and population.sparsity >= HIGH_SPARSITY


def with_dense(populations: list[StoredPopulation]) -> list[StoredPopulation]:
    """The dense networks of every learning method as a population too, before the others."""
    first = {each.learning_method: each for each in reversed(populations)}
    dense = [
        replace(
            each,
            pruning_method="dense",
            sparsity=0.0,
            pruned=each.dense,
            made=each.made | {"checkpoints": each.made["dense_checkpoints"]},
        )
        for each in first.values()
    ]
    return [*dense[::-1], *populations]


def common_seeds(*populations: StoredPopulation) -> tuple[int, ...]:
    """The ids that all the populations have, dense and pruned."""
    return tuple(sorted(set.intersection(*(set(each.seeds) for each in populations))))


# PIEs of sets of seeds


@functools.lru_cache(maxsize=100)  # a test set and the clean images, of all populations
def labels_of_sets(networks, seeds: tuple[int, ...]) -> np.ndarray:
    """Modal labels (1 + S, N): of all these seeds, then of their half-samples; S = 0 with fewer than 6 seeds.
    What was asked for lately is remembered."""
    sets = np.ones((1, len(seeds)), bool)
    if len(seeds) >= uncertainty.FEWEST_SEEDS:
        sets = np.concatenate([sets, uncertainty.half_samples(len(seeds))])
    return voting.modal_labels_of_sets(networks.predictions_of(seeds), sets, networks.classes)


def pies(population: StoredPopulation, seeds: tuple[int, ...]) -> np.ndarray:
    """The PIE sets of all these seeds, and of their half-samples: (1 + S, N) bool."""
    return labels_of_sets(population.dense, seeds) != labels_of_sets(population.pruned, seeds)


@functools.lru_cache(maxsize=2)  # of dense networks, which several populations share, and of pruned ones
def labels_of_splits(networks, seeds: tuple[int, ...]) -> np.ndarray:
    """Modal labels of both halves of `splits_of_sets`: (2, 1 + S, splits, N)."""
    sets = uncertainty.splits_of_sets(len(seeds))
    predictions, classes = networks.predictions_of(seeds), networks.classes
    labels = voting.modal_labels_of_sets(predictions, sets.reshape(-1, len(seeds)), classes)
    return labels.reshape(*sets.shape[:3], -1)


@functools.cache
def between_halves(population: StoredPopulation, seeds: tuple[int, ...]) -> dict[str, np.ndarray]:
    """What halves of the seeds say, dense and pruned networks: sets (2, 1 + S, splits, N / 8), the PIEs of
    either half as bits; floor, pruned (1 + S, splits): how many images dense networks of one half differ on
    from dense, and from pruned ones of the other half."""
    dense, pruned = (labels_of_splits(each, seeds) for each in (population.dense, population.pruned))
    crossed = (dense != pruned[::-1]).sum(-1, dtype=np.int32)
    return {
        "sets": np.packbits(dense != pruned, -1),
        "floor": (dense[0] != dense[1]).sum(-1, dtype=np.int32),
        "pruned": crossed.mean(0),
    }


def mean_of(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """(S, N) -> (S,) means over what is chosen, (S, N) bool, and has a value; NaN where nothing has."""
    defined = chosen & ~np.isnan(values)
    count = defined.sum(1)
    return np.where(defined, values, 0).sum(1) / np.where(count > 0, count, np.nan)


def over_images(values: np.ndarray) -> np.ndarray:
    """(K, N) -> (K,) means over all images that have a value."""
    return mean_of(values, np.ones_like(values, bool))


# Statistics of one population, and of two


class Statistic(NamedTuple):
    """A number of a population: ids says which networks have it; values, of some ids, what they give: one
    value for each network, or of all of them and then of each of S sets; estimate, what follows from that."""

    ids: Callable[[StoredPopulation], list[int]]
    values: Callable[[StoredPopulation, tuple[int, ...]], np.ndarray]
    estimate: Callable[[np.ndarray, int], dict]
    fewest: int = 1  # networks that it can be computed of


def _mean_of_networks(measure: str) -> Statistic:
    """The mean over networks of accuracy, q_score or depth, a mean over the test images."""

    def ids(population: StoredPopulation) -> list[int]:
        networks = population.pruned
        return (networks.depth_ids if measure == "depth" else networks.ids).tolist()

    def values(population: StoredPopulation, chosen: tuple[int, ...]) -> np.ndarray:
        correct = population.pruned.predictions == population.labels
        means = over_images(correct if measure == "accuracy" else getattr(population.pruned, measure))
        return means[[ids(population).index(each) for each in chosen]]

    return Statistic(ids, values, lambda values, models: uncertainty.mean_estimate(values))


def number_of_pies(population: StoredPopulation, seeds: tuple[int, ...]) -> np.ndarray:
    """(1 + S,), as `pies` has them."""
    return pies(population, seeds).sum(1)


def excess(population: StoredPopulation, seeds: tuple[int, ...]) -> np.ndarray:
    """PIEs beyond the noise floor, both between halves of the seeds, means over splits: (1 + S,) of all
    seeds, then without two of them."""
    halves = between_halves(population, seeds)
    return (halves["pruned"] - halves["floor"]).mean(1)


STATISTICS = {
    "accuracy": _mean_of_networks("accuracy"),
    "pies": Statistic(lambda population: population.seeds, number_of_pies, uncertainty.half_sampled),
    "excess": Statistic(lambda population: population.seeds, excess, uncertainty.jackknifed, 2),
    "q_score": _mean_of_networks("q_score"),
    "depth": _mean_of_networks("depth"),
}


def estimate(name: str, population: StoredPopulation) -> dict:
    """A statistic of all networks that have it, with its interval."""
    statistic, ids = STATISTICS[name], tuple(sorted(STATISTICS[name].ids(population)))
    if len(ids) < statistic.fewest:
        return uncertainty.undefined()
    bounds = {"accuracy": (0, 1), "pies": (0, len(population.labels))}.get(name, (-math.inf, math.inf))
    return uncertainty.within(statistic.estimate(statistic.values(population, ids), len(ids)), *bounds)


class Pair(NamedTuple):
    """Two populations that are compared. paired: networks of one id are compared with each other; else the
    ids have nothing to do with those of the other one, and equally many are taken, the first. ids: those that
    may be taken of each, None: all."""

    first: StoredPopulation
    second: StoredPopulation
    paired: bool
    ids: tuple[int, ...] | None = None


class Difference(NamedTuple):
    """A statistic of both populations of a pair, and the first minus the second, with intervals."""

    first: dict
    second: dict
    difference: dict


def compared_ids(name: str, pair: Pair) -> list[tuple[int, ...]]:
    """The ids of both populations of which a statistic is compared, equally many."""
    ids = [sorted(STATISTICS[name].ids(each)) for each in (pair.first, pair.second)]
    if pair.ids is not None:
        ids = [[each for each in own if each in pair.ids] for own in ids]
    if pair.paired:
        ids = [[each for each in ids[0] if each in ids[1]]] * 2
    fewest = min(map(len, ids))
    return [tuple(own[:fewest]) for own in ids]


def compare(name: str, pair: Pair) -> Difference:
    """A statistic of two populations; undefined where there are too few networks."""
    statistic, ids = STATISTICS[name], compared_ids(name, pair)
    models = len(ids[0])
    if models < statistic.fewest:
        return Difference(*[uncertainty.undefined()] * 3)
    values = [statistic.values(*each) for each in zip(pair, ids)]
    first, second = (statistic.estimate(each, models) for each in values)
    if pair.paired:
        return Difference(first, second, statistic.estimate(values[0] - values[1], models))
    return Difference(first, second, uncertainty.independent_difference(first, second))


def overlap(pair: Pair) -> dict:
    """The Jaccard similarity of the PIE sets of a pair on the same images, with its interval, beside that of
    random sets of these sizes."""
    ids = compared_ids("pies", pair)
    first, second = (pies(*each) for each in zip(pair, ids))  # (1 + S, N)
    if not pair.paired:  # seeds that have nothing to do with one another
        second[1:] = second[1 + uncertainty.reordered(len(second) - 1, 1)]
    common, either = (first & second).sum(1), (first | second).sum(1)
    chance = similarity.expected_jaccard(*(int(each[0].sum()) for each in (first, second)), first.shape[1])
    ratio = uncertainty.half_sampled_ratio(common, either, len(ids[0]))
    return uncertainty.within(ratio, 0, 1) | {"chance": chance}


# Populations


def population_rows(populations: list[StoredPopulation]) -> list[dict]:
    """One row for each: accuracy, and of pruned ones PIEs at all vote margins and under both tie rules, the
    noise floor and what is beyond it, Q-Score and depth of PIEs minus that of other images, with
    intervals."""
    rows = []
    for population in populations:
        row = population.key | {"networks": len(population.pruned.ids)}
        row["accuracy"] = estimate("accuracy", population)
        if population.pruning_method != "dense":
            row |= {"pies": estimate("pies", population)} | pies_by_votes(population)
            row |= beyond_floor(population)
            row |= {measure: pies_minus_others(population, measure) for measure in IMAGE_MEASURES.values()}
        rows.append(row)
    return rows


def measures(population: StoredPopulation) -> dict[str, dict]:
    """What pruning loses and keeps: every measure that the population's row has, a mean over networks with
    its interval, which shares do not leave; a number of images has none."""
    stored = {**(population.depths or {}), **population.arrays}
    values = {
        name: np.atleast_1d(stored[name]) for name in table.MEASURES if name in population.row.keys() & stored
    }
    estimates = {name: uncertainty.mean_estimate(each[~np.isnan(each)]) for name, each in values.items()}
    return {name: uncertainty.within(each, 0, 1) for name, each in estimates.items()}


def pies_by_votes(population: StoredPopulation) -> dict[str, int]:
    """How many PIEs remain where in either population the modal label leads the second class by these
    percentages of the votes, and how many there are if ties go to the largest class."""
    seeds, lead, classes = population.seeds, vote_leads(population), population.dense.classes
    predictions = [each.predictions_of(seeds) for each in (population.dense, population.pruned)]
    mirrored = [voting.modal_labels(classes - 1 - each, classes)[0] for each in predictions]
    is_pie = pies(population, seeds)[0]
    return {
        f"pies_margin_{margin}": int((is_pie & (100 * lead >= margin * len(seeds))).sum())
        for margin in MARGINS
    } | {"pies_ties_to_largest": int((mirrored[0] != mirrored[1]).sum())}


def vote_leads(population: StoredPopulation) -> np.ndarray:
    """(N,) how many votes the modal label is ahead of the second class, in dense or pruned networks,
    whichever is less."""
    predictions = (each.predictions_of(population.seeds) for each in (population.dense, population.pruned))
    counts = (voting.vote_counts(each, population.dense.classes) for each in predictions)
    return np.minimum(*map(voting.vote_lead, counts))


def beyond_floor(population: StoredPopulation) -> dict:
    """noise_floor: images that halves of the dense networks differ on; excess: how many more they and pruned
    ones differ on, with its interval; excess_of_all: what that says of all K, PIEs minus the floor at K,
    which is about that of halves over sqrt(2): a lower bound, because networks of one seed differ less."""
    seeds, floor = population.seeds, math.nan
    if len(seeds) > 1:
        floor = float(between_halves(population, seeds)["floor"][0].mean())
    number = number_of_pies(population, seeds)[0]
    return {
        "noise_floor": floor,
        "excess": estimate("excess", population),
        "excess_of_all": float(number - floor / math.sqrt(2)),
    }


@functools.cache
def pies_minus_others(population: StoredPopulation, measure: str) -> dict:
    """The mean Q-Score or depth that pruned networks give PIEs minus that of other images, with its interval.
    PIEs are found with one half of the seeds and measured in the networks of the other half, averaged over
    networks and splits. `circular`: all networks, measured on the PIEs that they make."""
    networks, seeds = population.pruned, population.seeds
    ids, values = networks.depth_ids if measure == "depth" else networks.ids, getattr(networks, measure)
    known = [index for index, seed in enumerate(ids.tolist()) if seed in seeds]
    if len(seeds) < 2 or not known:
        return uncertainty.undefined() | {"circular": math.nan}
    values, places = values[known], [seeds.index(ids[index]) for index in known]
    circular = minus_others(values, pies(population, seeds)[:1]).mean()
    sets = between_halves(population, seeds)["sets"]  # (2, 1 + S, splits, N / 8)
    is_pie = np.unpackbits(sets, -1, values.shape[1]).reshape(-1, values.shape[1]).astype(bool)
    differences = minus_others(values, is_pie).reshape(len(known), *sets.shape[:3])
    in_other_half = np.moveaxis(uncertainty.splits_of_sets(len(seeds))[::-1, ..., places], -1, 0)
    # (M, 2, 1 + S, splits) -> (1 + S, 2 M splits)
    differences, measured = (
        np.moveaxis(each, 2, 0).reshape(sets.shape[1], -1) for each in (differences, in_other_half)
    )
    # Seeds leave out of all K; where fewer networks were probed, these are the degrees of freedom.
    difference = uncertainty.jackknifed(mean_of(differences, measured), len(seeds), len(known))
    return difference | {"circular": float(circular)}


def minus_others(values: np.ndarray, is_pie: np.ndarray) -> np.ndarray:
    """Networks' values (M, N) and PIE sets (S, N) -> (M, S) means over PIEs minus means over others."""
    ever = is_pie.any(0)  # of the few images that are PIEs of any set
    known, chosen = ~np.isnan(values), is_pie[:, ever].astype(np.float64)
    values = np.where(known, values, 0)
    total = values[:, ever] @ chosen.T
    count = chosen.sum(1)[None] if known[:, ever].all() else known[:, ever] @ chosen.T
    others, rest = values.sum(1, keepdims=True) - total, known.sum(1, keepdims=True) - count
    return total / np.where(count > 0, count, np.nan) - others / np.where(rest > 0, rest, np.nan)


def pies_of_fewer(population: StoredPopulation) -> dict[str, dict[int, float]]:
    """pruned, dense -> number of networks -> PIEs: the mean over random subsets of the seeds, of pruned
    against dense networks of the same seeds, and of dense ones against as many others."""
    seeds, total = population.seeds, len(population.seeds)
    ranks = np.random.default_rng(0).random((uncertainty.SPLITS, total)).argsort(1).argsort(1)
    means: dict[str, dict[int, float]] = {"pruned": {}, "dense": {}}

    def labels(networks, chosen: np.ndarray) -> np.ndarray:
        return voting.modal_labels_of_sets(networks.predictions_of(seeds), chosen, networks.classes)

    for models in sorted({*range(2, total, 2), total}):
        dense = labels(population.dense, ranks < models)
        others = {"pruned": labels(population.pruned, ranks < models)}
        if 2 * models <= total:
            others["dense"] = labels(population.dense, (ranks >= models) & (ranks < 2 * models))
        for name, other in others.items():
            means[name][models] = float((dense != other).sum(1).mean())
    return means


# Evidence for the claims: rows of claim, part, group (what is decided together), comparison, sparsity, and
# what `estimate` says. All populations are such that the claims are about.

GROUPS = {1: "pruning_method", 2: "method", 3: "learning_method", 4: "learning_method"}  # claim -> attribute
COMPARED = {  # part of claims 1 and 3 -> statistic of both populations
    "accuracy": "accuracy",
    "Q-Score": "q_score",
    "prediction depth": "depth",
    "PIEs": "pies",
    "excess PIEs": "excess",
    "PIEs at matched accuracy": "pies",
}


def evidence_row(claim: int, part: str, population: StoredPopulation, comparison: str, **numbers) -> dict:
    """One difference."""
    group, sparsity = getattr(population, GROUPS[claim]), population.sparsity
    about = {"claim": claim, "part": part, "group": group, "sparsity": sparsity, "comparison": comparison}
    return about | numbers


def contrastive_against_supervised(
    claimed: list[StoredPopulation], populations: list[StoredPopulation]
) -> Iterator[dict]:
    """Claim 1: PIEs of contrastive minus those of supervised networks, of one pruning method and sparsity;
    and of supervised networks of that pruning method that are about as accurate."""
    accuracy = {each: float((each.pruned.predictions == each.labels).mean()) for each in populations}
    supervised = grouped(
        [each for each in populations if each.learning_method == "supervised"], "pruning_method"
    )
    for population in claimed:
        if population.learning_method == "supervised":
            continue
        others = supervised.get(population.pruning_method, [])
        gaps = [abs(accuracy[population] - accuracy[other]) for other in others]
        pairs = [
            (part, other)
            for other in others
            if other.sparsity == population.sparsity
            for part in ("PIEs", "excess PIEs")
        ]
        if min(gaps, default=1) <= MATCHED:
            pairs.append(("PIEs at matched accuracy", others[gaps.index(min(gaps))]))
        for part, other in pairs:
            at = "" if population.sparsity == other.sparsity else f" at {100 * other.sparsity:g} %"
            comparison = f"{population.learning_method} minus supervised{at}"
            difference = compare(COMPARED[part], Pair(population, other, paired=False)).difference
            accuracies = " and ".join(f"{100 * accuracy[each]:.2f}" for each in (population, other))
            note = f"accuracy {accuracies} %"
            yield evidence_row(1, part, population, comparison, **difference, note=note)


def equal_seeds(populations: list[StoredPopulation]) -> dict[str, tuple[int, ...]]:
    """Learning method -> the ids that all its populations have; of the methods with more the first, as many
    as the smallest has."""
    groups = grouped(populations, "learning_method").items()
    ids = {method: common_seeds(*group) for method, group in groups}
    fewest = min(map(len, ids.values()))
    return {method: seeds[:fewest] for method, seeds in ids.items()}


def uniqueness(claimed: list[StoredPopulation]) -> Iterator[dict]:
    """Claim 2: the share of a population's PIEs that no other population of that sparsity has, minus one
    half; and how much more alike the PIE sets of two halves of its seeds are than those of one half and, with
    the other half, of other populations."""
    for _, chosen in sorted(grouped(claimed, "sparsity").items()):
        of_method = equal_seeds(chosen)
        seeds = [of_method[population.learning_method] for population in chosen]
        models = len(seeds[0])
        if len(chosen) < 2 or not models:
            continue
        sets = np.stack([pies(*each) for each in zip(chosen, seeds)])  # (G, 1 + S, N)
        for index, population in enumerate(chosen):  # seeds of other learning methods are unrelated
            stream = list(of_method).index(population.learning_method)
            sets[index, 1:] = sets[index, 1 + uncertainty.reordered(sets.shape[1] - 1, stream)]
        size, alone = sets.sum(2), (sets & (sets.sum(0, dtype=np.int16) == 1)).sum(2)
        alike, chance = likeness(chosen, seeds), similarity.chance_unique(size[:, 0], sets.shape[2])
        for index, population in enumerate(chosen):
            beyond_half = alone[index] - size[index] / 2
            unique = uncertainty.half_sampled_ratio(beyond_half, size[index], models)
            share = f"{100 * unique['value'] + 50:.0f} % unique, by chance {100 * chance[index]:.0f} %"
            numbers = uncertainty.within(unique, -0.5, 0.5)
            numbers["note"] = share if size[index, 0] else "no PIEs"
            yield evidence_row(
                2, "unique PIEs", population, "share in no other set, minus one half", **numbers
            )
            words = "Jaccard of its halves minus Jaccard with others"
            numbers = uncertainty.jackknifed(alike[index], models)
            yield evidence_row(2, "likeness of halves", population, words, **numbers)


def likeness(chosen: list[StoredPopulation], seeds: list[tuple[int, ...]]) -> np.ndarray:
    """Jaccard similarity of PIE sets of half of the seeds and the other half, of a population with itself
    minus that with the others, means over random splits: (G, 1 + S) of all seeds, then without two of
    them."""
    sets = [between_halves(*each)["sets"] for each in zip(chosen, seeds)]
    size = [np.bitwise_count(each).sum(-1, dtype=np.int32) for each in sets]
    alike = np.empty((len(chosen), len(chosen), sets[0].shape[1]))
    for i, j in product(range(len(chosen)), repeat=2):
        common = np.bitwise_count(sets[i][0] & sets[j][1]).sum(-1, dtype=np.int32)
        alike[i, j] = similarity.jaccard(common, size[i][0], size[j][1]).mean(-1)
    alike = (alike + alike.transpose(1, 0, 2)) / 2  # either half may be the first
    itself = np.eye(len(chosen), dtype=bool)
    return alike[itself] - alike[~itself].reshape(len(chosen), len(chosen) - 1, -1).mean(1)


def early_against_others(claimed: list[StoredPopulation]) -> Iterator[dict]:
    """Claim 3: networks pruned early minus those pruned late and minus those pruned in one shot, of the same
    scope where both exist; networks of one seed begin alike and are compared with each other."""
    for _, chosen in sorted(grouped(claimed, "learning_method", "sparsity").items()):
        for early, other in schedule_pairs(chosen):
            matched = same_scope(early, other)
            scopes = "" if matched else " (scopes differ)"
            comparison = f"{early.pruning_method} minus {other.pruning_method}{scopes}"
            for part in ("accuracy", "Q-Score", "prediction depth", "PIEs"):
                numbers = compare(COMPARED[part], Pair(early, other, paired=True)).difference
                if part == "prediction depth":
                    numbers |= to_run(numbers, early, other)
                yield evidence_row(3, part, early, comparison, matched=matched, **numbers)


def same_scope(population: StoredPopulation, other: StoredPopulation) -> bool:
    return population.parsed.scope == other.parsed.scope


def schedule_pairs(chosen: list[StoredPopulation]) -> list[tuple[StoredPopulation, StoredPopulation]]:
    """(early, other) for other schedules; pairs of other scopes only where a schedule has no pair of the
    same."""
    of_schedule, pairs = grouped(chosen, "parsed.schedule"), []
    for schedule in ("late", "one-shot"):
        all_pairs = list(product(*(of_schedule.get(each, []) for each in ("early", schedule))))
        pairs += [pair for pair in all_pairs if same_scope(*pair)] or all_pairs
    return pairs


def pies_against_others(claimed: list[StoredPopulation]) -> Iterator[dict]:
    """Claim 4: Q-Score and depth of PIEs minus those of other images, in pruned networks."""
    for population in claimed:
        for part, measure in IMAGE_MEASURES.items():
            if len(getattr(population.pruned, measure)):
                difference = pies_minus_others(population, measure)
                comparison = f"PIEs minus others, {population.pruning_method}"
                numbers = difference | to_run(difference, population)
                yield evidence_row(4, part, population, comparison, **numbers)


def to_run(estimate: dict, *populations: StoredPopulation) -> dict[str, str]:
    """run: the commands that give depths of too few networks their interval."""
    models = min(len(population.seeds) for population in populations)
    if not 0 < estimate["models"] < uncertainty.FEWEST_SEEDS <= models:
        return {}
    stored = [population.depths for population in populations if population.depths]
    commands = [json.loads(str(depths["runs"]))["analysis"] for depths in stored if "runs" in depths]
    flag = "--prediction_depth_models"
    commands = [f"python {re.sub(rf' {flag}[ =][0-9]+', '', each)} {flag} {models}" for each in commands]
    return {"run": f"run {' and '.join(dict.fromkeys(commands))}" if commands else DEPTHS}


def all_evidence(populations: list[StoredPopulation]) -> list[dict]:
    """The rows of all claims."""
    claimed = [population for population in populations if is_claimed_about(population)]
    return [
        *contrastive_against_supervised(claimed, populations),
        *uniqueness(claimed),
        *early_against_others(claimed),
        *pies_against_others(claimed),
    ]


# The noise floor


def noise_floors(populations: list[StoredPopulation]) -> dict[str, dict[str, np.ndarray]]:
    """Learning method -> name -> numbers of PIEs over random splits of the seeds: of one half of the dense
    networks against the other half, then of either half against the pruned networks of the other one, the
    mean of both ways. Empty with fewer than 6 seeds."""
    floors: dict[str, dict[str, np.ndarray]] = {}
    for population in populations:
        if len(population.seeds) >= uncertainty.FEWEST_SEEDS:
            halves = between_halves(population, population.seeds)
            floor = floors.setdefault(population.learning_method, {"dense against dense": halves["floor"][0]})
            floor[f"{population.pruning_method} {population.sparsity:g}"] = halves["pruned"][0]
    return floors
