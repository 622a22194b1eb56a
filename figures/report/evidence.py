"""What a data set's stored arrays say about the claims, with intervals. K networks, N images, S sets of
seeds."""

import functools
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from common.methods import PruningMethod, parse_method
from common.store import table
from figures.report import similarity, uncertainty
from figures.report.claims import DEPTHS, HIGH_SPARSITY
from figures.report.read import Combination, grouped, read_evaluations

MARGINS = (10, 20)  # % of the votes
MATCHED = 0.01  # accuracies that are no further apart
MEASURES = (
    ("Q-Score", "q_score"),
    ("prediction depth", "depth"),
)  # of images: part of a claim, name in arrays


@dataclass(frozen=True, eq=False)
class Networks:
    """A population: ids (K,), predictions (K, N), q_score (K, N), NaN where a latent has none; of depth_ids
    (M,): depth (M, N), pruned networks only."""

    ids: np.ndarray
    predictions: np.ndarray
    q_score: np.ndarray
    depth_ids: np.ndarray
    depth: np.ndarray
    classes: int

    def predictions_of(self, seeds: tuple[int, ...]) -> np.ndarray:
        """(len(seeds), N)"""
        return self.predictions[[self.ids.tolist().index(seed) for seed in seeds]]


@dataclass(frozen=True, eq=False)
class Compared(Combination):
    """A pruned population and the dense one of the same seeds, with the outputs of their networks."""

    dense: Networks
    pruned: Networks

    @property
    def labels(self) -> np.ndarray:
        return self.arrays["labels"]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The ids that both populations have: dense and pruned of one seed leave together."""
        return shared(self)

    @property
    def claimed_about(self) -> bool:
        """Whether the claims are about it: pruned by magnitude, in one shot or while training, to a high
        sparsity."""
        magnitude = self.parsed.criterion == "magnitude"
        return self.sparsity >= HIGH_SPARSITY and magnitude and self.schedule in ("one-shot", "early", "late")

    @property
    def parsed(self) -> PruningMethod:
        return parse_method(self.pruning_method)

    @property
    def schedule(self) -> str:
        return self.parsed.schedule


def read_compared(combinations: list[Combination]) -> tuple[list[Compared], list[str]]:
    """All pruned populations of which everything is stored, and in words what is missing."""
    compared, missing = [], []
    of_folder = {combination.folder: combination for combination in combinations}
    # One object for the dense networks that several populations were compared with: they vote once.
    read_dense = functools.cache(lambda folder: read_networks(of_folder[folder], "dense_"))
    for combination in combinations:
        dense, pruned = read_dense(combination.folder), read_networks(combination)
        if dense is None or pruned is None:
            missing.append(
                f"everything but its figures of {combination.label}: the predictions of its networks are not "
                "stored; run its PIE script again"
            )
            continue
        if not set(dense.ids) & set(pruned.ids):
            missing.append(
                f"everything but its figures of {combination.label}: no network has the seed of a dense one"
            )
            continue
        if combination.depths is None:
            missing.append(f"prediction depth of {combination.label}: run its prediction_depth script")
        compared.append(Compared(**vars(combination), dense=dense, pruned=pruned))
    return compared, missing


def read_networks(combination: Combination, prefix: str = "") -> Networks | None:
    """The networks of a population, or with "dense_" those that it was compared with; None where not all are
    stored."""
    names = ("predictions", "q_score")
    evaluations = read_evaluations(combination, names, prefix)
    if evaluations is None:
        return None
    outputs = {name: np.stack([arrays[name] for arrays in evaluations]) for name in names}
    ids, depth = np.zeros(0, int), np.zeros((0, len(combination.arrays["labels"])))
    if combination.depths and not prefix:
        ids, depth = (combination.depths[name] for name in ("ids", "pruned_depth_prediction"))
    classes = len(combination.class_names)
    return Networks(
        combination.arrays[f"{prefix}ids"], **outputs, depth_ids=ids, depth=depth, classes=classes
    )


def with_dense(compared: list[Compared]) -> list[Compared]:
    """The dense networks of every learning method as a population too, before the others."""
    first = {each.learning_method: each for each in reversed(compared)}
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
    return [*dense[::-1], *compared]


def shared(*populations: Compared) -> tuple[int, ...]:
    """The ids that all the populations have, dense and pruned."""
    ids = [set(networks.ids.tolist()) for each in populations for networks in (each.dense, each.pruned)]
    return tuple(sorted(set.intersection(*ids)))


@functools.lru_cache(maxsize=100)  # a test set and the clean images, of all populations
def labels_of_sets(networks: Networks, seeds: tuple[int, ...]) -> np.ndarray:
    """Modal labels (1 + S, N): of all these seeds, then of their half-samples; S = 0 with fewer than 6 seeds.
    What was asked for lately is remembered."""
    sets = np.ones((1, len(seeds)), bool)
    if len(seeds) >= uncertainty.FEWEST_SEEDS:
        sets = np.concatenate([sets, uncertainty.half_samples(len(seeds))])
    return uncertainty.modal_labels_of_sets(networks.predictions_of(seeds), sets)


def pies(population: Compared, seeds: tuple[int, ...]) -> np.ndarray:
    """The PIE sets of all these seeds, and of their half-samples: (1 + S, N) bool."""
    return labels_of_sets(population.dense, seeds) != labels_of_sets(population.pruned, seeds)


def number_of_pies(population: Compared, seeds: tuple[int, ...]) -> dict:
    """The number of PIEs with its interval."""
    bounds = 0, len(population.labels)
    return uncertainty.half_sampled(pies(population, seeds).sum(1), len(seeds), bounds)


def pies_minus(population: Compared, other: Compared) -> dict:
    """The number of PIEs of a population minus that of another one of the same dense networks, with its
    interval."""
    seeds = shared(population, other)
    if not seeds:
        return uncertainty.mean_estimate(np.zeros(0))
    return uncertainty.half_sampled(pies(population, seeds).sum(1) - pies(other, seeds).sum(1), len(seeds))


def overlap(first: np.ndarray, second: np.ndarray, models: int) -> dict:
    """The Jaccard similarity of PIE sets (1 + S, N) of so many seeds and their half-samples, with its
    interval, beside that of random sets of these sizes."""
    common, either = (first & second).sum(1), (first | second).sum(1)
    chance = similarity.expected_jaccard(*(int(each[0].sum()) for each in (first, second)), first.shape[1])
    return uncertainty.half_sampled_ratio(common, either, models) | {"chance": chance}


def equal_seeds(populations: list[Compared]) -> dict[str, tuple[int, ...]]:
    """Learning method -> the ids that all its populations have; of the methods with more the first, as many
    as the smallest has."""
    ids = {method: shared(*group) for method, group in grouped(populations, "learning_method").items()}
    fewest = min(map(len, ids.values()))
    return {method: seeds[:fewest] for method, seeds in ids.items()}


@functools.lru_cache(maxsize=2)  # of dense networks, which several combinations share, and of pruned ones
def labels_of_splits(networks: Networks, seeds: tuple[int, ...]) -> np.ndarray:
    """Modal labels of both halves of `splits_of_sets`: (2, 1 + S, splits, N)."""
    sets = uncertainty.splits_of_sets(len(seeds))
    labels = uncertainty.modal_labels_of_sets(networks.predictions_of(seeds), sets.reshape(-1, len(seeds)))
    return labels.reshape(*sets.shape[:3], -1)


@functools.cache
def between_halves(population: Compared, seeds: tuple[int, ...]) -> dict[str, np.ndarray]:
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


def excess(population: Compared, seeds: tuple[int, ...]) -> dict:
    """PIEs beyond the noise floor, both between halves of the seeds, means over splits, with its interval."""
    if len(seeds) < 2:
        return uncertainty.mean_estimate(np.zeros(0))
    halves = between_halves(population, seeds)
    return uncertainty.jackknifed((halves["pruned"] - halves["floor"]).mean(1), len(seeds))


def mean_of(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """(S, N) -> (S,) means over what is chosen, (S, N) bool, and has a value; NaN where nothing has."""
    defined = chosen & ~np.isnan(values)
    count = defined.sum(1)
    return np.where(defined, values, 0).sum(1) / np.where(count > 0, count, np.nan)


def over_images(values: np.ndarray) -> np.ndarray:
    """(K, N) -> (K,) means over all images that have a value."""
    return mean_of(values, np.ones_like(values, bool))


def seed_by_seed(population: Compared, measure: str) -> dict[int, float]:
    """id -> mean over the test images of accuracy, q_score or depth, of pruned networks."""
    networks = population.pruned
    correct, ids = networks.predictions == population.labels, networks.ids
    values = correct if measure == "accuracy" else getattr(networks, measure)
    return dict(zip((networks.depth_ids if measure == "depth" else ids).tolist(), over_images(values)))


# Populations


def populations(compared: list[Compared]) -> list[dict]:
    """One row for each: accuracy, PIEs at all vote margins and under both tie rules, the noise floor and what
    is beyond it, Q-Score and depth of PIEs minus that of other images, with intervals."""
    return [
        {
            **population.facts,
            "networks": len(population.pruned.ids),
            "accuracy": accuracy(population.pruned, population.labels),
            "pies": number_of_pies(population, population.seeds),
            **pies_by_votes(population),
            **beyond_floor(population),
            **{measure: pies_minus_others(population, measure) for measure in ("q_score", "depth")},
        }
        for population in compared
    ]


def dense_populations(compared: list[Compared]) -> list[dict]:
    """One row for each dense population: its accuracy with its interval."""
    return [
        {
            **population.facts,
            "networks": len(population.dense.ids),
            "accuracy": accuracy(population.dense, population.labels),
        }
        for population in with_dense(compared)
        if population.pruning_method == "dense"
    ]


def measures(population: Combination) -> dict[str, dict]:
    """What pruning loses and keeps: every measure that the population's row has, a mean over networks with
    its interval, which shares do not leave; a number of images has none."""
    stored = {**(population.depths or {}), **population.arrays}
    values = {
        name: np.atleast_1d(stored[name]) for name in table.MEASURES if name in population.row.keys() & stored
    }
    return {name: uncertainty.mean_estimate(each[~np.isnan(each)], (0, 1)) for name, each in values.items()}


def accuracy(networks: Networks, labels: np.ndarray) -> dict:
    """The mean test accuracy with its interval."""
    return uncertainty.mean_estimate(over_images(networks.predictions == labels), (0, 1))


def pies_by_votes(population: Compared) -> dict[str, int]:
    """How many PIEs remain where in either population the modal label leads the second class by these
    percentages of the votes, and how many there are if ties go to the largest class."""
    seeds, lead = population.seeds, leads(population)
    both = [each.predictions_of(seeds) for each in (population.dense, population.pruned)]
    reverse = [uncertainty.modal_labels_of_sets(-each, np.ones((1, len(seeds)), bool)) for each in both]
    is_pie = pies(population, seeds)[0]
    return {
        f"pies_margin_{margin}": int((is_pie & (100 * lead >= margin * len(seeds))).sum())
        for margin in MARGINS
    } | {"pies_ties_to_largest": int((reverse[0] != reverse[1]).sum())}


def leads(population: Compared) -> np.ndarray:
    """(N,) how many votes the modal label is ahead of the second class, in dense or pruned networks,
    whichever is less."""
    both = (each.predictions_of(population.seeds) for each in (population.dense, population.pruned))
    votes = [np.sort([(each == c).sum(0) for c in range(population.dense.classes)], 0) for each in both]
    return np.minimum(*(each[-1] - each[-2] for each in votes))


def beyond_floor(population: Compared) -> dict:
    """noise_floor: images that halves of the dense networks differ on; excess: how many more they and pruned
    ones differ on, with its interval; excess_of_all: what that says of all K, PIEs minus the floor at K,
    which is about that of halves over sqrt(2): a lower bound, because networks of one seed differ less."""
    seeds, floor = population.seeds, math.nan
    if len(seeds) > 1:
        floor = float(between_halves(population, seeds)["floor"][0].mean())
    number = pies(population, seeds)[0].sum()
    return {
        "noise_floor": floor,
        "excess": excess(population, seeds),
        "excess_of_all": float(number - floor / math.sqrt(2)),
    }


@functools.cache
def pies_minus_others(population: Compared, measure: str) -> dict:
    """The mean Q-Score or depth that pruned networks give PIEs minus that of other images, with its interval.
    PIEs are found with one half of the seeds and measured in the networks of the other half, averaged over
    networks and splits. `circular`: all networks, measured on the PIEs that they make."""
    networks, seeds = population.pruned, population.seeds
    ids, values = networks.depth_ids if measure == "depth" else networks.ids, getattr(networks, measure)
    known = [index for index, seed in enumerate(ids.tolist()) if seed in seeds]
    if len(seeds) < 2 or not known:
        return uncertainty.mean_estimate(np.zeros(0)) | {"circular": math.nan}
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
    statistic = mean_of(differences, measured)
    # Seeds leave out of all K; where fewer networks were probed, these are the degrees of freedom.
    estimate = uncertainty.jackknifed(statistic, len(seeds), len(known))
    return estimate | {"circular": float(circular)}


def minus_others(values: np.ndarray, is_pie: np.ndarray) -> np.ndarray:
    """Networks' values (M, N) and PIE sets (S, N) -> (M, S) means over PIEs minus means over others."""
    ever = is_pie.any(0)  # of the few images that are PIEs of any set
    known, chosen = ~np.isnan(values), is_pie[:, ever].astype(np.float64)
    values = np.where(known, values, 0)
    total = values[:, ever] @ chosen.T
    count = chosen.sum(1)[None] if known[:, ever].all() else known[:, ever] @ chosen.T
    others, rest = values.sum(1, keepdims=True) - total, known.sum(1, keepdims=True) - count
    return total / np.where(count > 0, count, np.nan) - others / np.where(rest > 0, rest, np.nan)


def pies_of_fewer(population: Compared) -> dict[str, dict[int, float]]:
    """pruned, dense -> number of networks -> PIEs: the mean over random subsets of the seeds, of pruned
    against dense networks of the same seeds, and of dense ones against as many others."""
    networks, total = (population.dense, population.pruned), len(population.seeds)
    dense, pruned = (each.predictions_of(population.seeds) for each in networks)
    ranks = np.random.default_rng(0).random((uncertainty.SPLITS, total)).argsort(1).argsort(1)
    means: dict[str, dict[int, float]] = {"pruned": {}, "dense": {}}
    for models in sorted({*range(2, total, 2), total}):
        chosen = ranks < models
        labels = uncertainty.modal_labels_of_sets(dense, chosen)
        others = {"pruned": uncertainty.modal_labels_of_sets(pruned, chosen)}
        if 2 * models <= total:
            others["dense"] = uncertainty.modal_labels_of_sets(
                dense, (ranks >= models) & (ranks < 2 * models)
            )
        for name, other in others.items():
            means[name][models] = float((labels != other).sum(1).mean())
    return means


# Evidence for the claims: rows of claim, part, group (what is decided together), comparison, sparsity, and
# what `estimate` says. All populations are such that the claims are about.


def contrastive_against_supervised(claimed: list[Compared], compared: list[Compared]) -> Iterator[dict]:
    """Claim 1: PIEs of contrastive minus those of supervised networks, of one pruning method and sparsity;
    and of supervised networks of that pruning method that are about as accurate."""
    supervised = grouped(
        [each for each in compared if each.learning_method == "supervised"], "pruning_method"
    )
    for population in claimed:
        if population.learning_method == "supervised":
            continue
        others = supervised.get(population.pruning_method, [])
        for other in others:
            if other.sparsity == population.sparsity:
                yield claim_1(population, other, "PIEs", number_of_pies)
                yield claim_1(population, other, "excess PIEs", excess)
        nearest = min(others, key=lambda other: accuracy_gap(population, other), default=None)
        if nearest is not None and accuracy_gap(population, nearest) <= MATCHED:
            yield claim_1(population, nearest, "PIEs at matched accuracy", number_of_pies)


def mean_accuracy(population: Compared) -> float:
    return float((population.pruned.predictions == population.labels).mean())


def accuracy_gap(population: Compared, other: Compared) -> float:
    return abs(mean_accuracy(population) - mean_accuracy(other))


def claim_1(population: Compared, other: Compared, part: str, measure: Callable[..., dict]) -> dict:
    """A number of a contrastive population minus that of a supervised one of equally many networks."""
    both = (population, other)
    seeds = equal_seeds(both)
    estimates = [measure(each, seeds[each.learning_method]) for each in both]
    at = "" if population.sparsity == other.sparsity else f" at {100 * other.sparsity:g} %"
    accuracies = " and ".join(f"{100 * mean_accuracy(each):.2f}" for each in both)
    return {
        "claim": 1,
        "part": part,
        "group": population.pruning_method,
        "sparsity": population.sparsity,
        "comparison": f"{population.learning_method} minus supervised{at}",
        **uncertainty.independent_difference(*estimates),
        "note": f"accuracy {accuracies} %",
    }


def uniqueness(claimed: list[Compared]) -> Iterator[dict]:
    """Claim 2: the share of a combination's PIEs that no other combination of that sparsity has, minus one
    half; and how much more alike the PIE sets of two halves of its seeds are than those of one half and, with
    the other half, of other combinations."""
    for sparsity, chosen in sorted(grouped(claimed, "sparsity").items()):
        if len(chosen) < 2:
            continue
        of_method = equal_seeds(chosen)
        seeds = [of_method[population.learning_method] for population in chosen]
        models = len(seeds[0])
        if not models:
            continue
        sets = np.stack([pies(*each) for each in zip(chosen, seeds)])  # (G, 1 + S, N)
        for index, population in enumerate(chosen):  # seeds of other learning methods are unrelated
            stream = list(of_method).index(population.learning_method)
            sets[index, 1:] = sets[index, 1 + uncertainty.reordered(sets.shape[1] - 1, stream)]
        size, alone = sets.sum(2), (sets & (sets.sum(0, dtype=np.int16) == 1)).sum(2)
        alike = likeness(chosen, seeds)
        chance = similarity.chance_unique(size[:, 0], sets.shape[2])
        for index, population in enumerate(chosen):
            about = {
                "claim": 2,
                "group": population.method,
                "sparsity": sparsity,
            }
            unique = uncertainty.half_sampled_ratio(
                alone[index] - size[index] / 2, size[index], models, (-0.5, 0.5)
            )
            share = f"{100 * unique['value'] + 50:.0f} % unique, by chance {100 * chance[index]:.0f} %"
            yield {
                **about,
                "part": "unique PIEs",
                "comparison": "share in no other set, minus one half",
                **unique,
                "note": share if size[index, 0] else "no PIEs",
            }
            yield {
                **about,
                "part": "likeness of halves",
                "comparison": "Jaccard of its halves minus Jaccard with others",
                **uncertainty.jackknifed(alike[index], models),
            }


def likeness(chosen: list[Compared], seeds: list[tuple[int, ...]]) -> np.ndarray:
    """Jaccard similarity of PIE sets of half of the seeds and the other half, of a combination with itself
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


def early_against_others(claimed: list[Compared]) -> Iterator[dict]:
    """Claim 3: networks pruned early minus those pruned late and minus those pruned in one shot, of the same
    scope where both exist; networks of one seed begin alike and are compared with each other."""
    for (learning_method, sparsity), chosen in sorted(
        grouped(claimed, "learning_method", "sparsity").items()
    ):
        for early, other in schedule_pairs(chosen):
            matched = same_scope(early, other)
            scopes = "" if matched else " (scopes differ)"
            about = {
                "claim": 3,
                "group": learning_method,
                "sparsity": sparsity,
                "comparison": f"{early.pruning_method} minus {other.pruning_method}{scopes}",
                "matched": matched,
            }
            for part, measure in (("accuracy", "accuracy"), *MEASURES):
                means, others = seed_by_seed(early, measure), seed_by_seed(other, measure)
                both = sorted(means.keys() & others.keys())
                differences = np.array([means[seed] - others[seed] for seed in both])
                estimate = uncertainty.mean_estimate(differences)
                yield {**about, "part": part, **estimate, **to_run(estimate, early, other)}
            yield {**about, "part": "PIEs", **pies_minus(early, other)}


def to_run(estimate: dict, *populations: Compared) -> dict[str, str]:
    """run: the commands that give depths of too few networks their interval."""
    models = min(len(population.seeds) for population in populations)
    if not 0 < estimate["models"] < uncertainty.FEWEST_SEEDS <= models:
        return {}
    stored = [population.depths for population in populations if population.depths]
    commands = [json.loads(str(depths["runs"]))["analysis"] for depths in stored if "runs" in depths]
    flag = "--prediction_depth_models"
    commands = [f"python {re.sub(rf' {flag}[ =][0-9]+', '', each)} {flag} {models}" for each in commands]
    return {"run": f"run {' and '.join(dict.fromkeys(commands))}" if commands else DEPTHS}


def same_scope(population: Compared, other: Compared) -> bool:
    return population.parsed.scope == other.parsed.scope


def schedule_pairs(chosen: list[Compared]) -> list[tuple[Compared, Compared]]:
    """(early, other) for other schedules; pairs of other scopes only where a schedule has no pair of the
    same."""
    of_schedule = grouped(chosen, "schedule")
    pairs = []
    for schedule in ("late", "one-shot"):
        all_pairs = list(product(*(of_schedule.get(each, []) for each in ("early", schedule))))
        pairs += [pair for pair in all_pairs if same_scope(*pair)] or all_pairs
    return pairs


def pies_against_others(claimed: list[Compared]) -> Iterator[dict]:
    """Claim 4: Q-Score and depth of PIEs minus those of other images, in pruned networks."""
    for population in claimed:
        for part, measure in MEASURES:
            if len(getattr(population.pruned, measure)):
                difference = pies_minus_others(population, measure)
                yield {
                    "claim": 4,
                    "part": part,
                    "group": population.learning_method,
                    "sparsity": population.sparsity,
                    "comparison": f"PIEs minus others, {population.pruning_method}",
                    **difference,
                    **to_run(difference, population),
                }


def all_evidence(compared: list[Compared]) -> list[dict]:
    """The rows of all claims."""
    claimed = [population for population in compared if population.claimed_about]
    return [
        *contrastive_against_supervised(claimed, compared),
        *uniqueness(claimed),
        *early_against_others(claimed),
        *pies_against_others(claimed),
    ]


# The noise floor


def noise_floors(compared: list[Compared]) -> dict[str, dict[str, np.ndarray]]:
    """Learning method -> name -> numbers of PIEs over random splits of the seeds: of one half of the dense
    networks against the other half, then of either half against the pruned networks of the other one, the
    mean of both ways. Empty with fewer than 6 seeds."""
    floors: dict[str, dict[str, np.ndarray]] = {}
    for population in compared:
        if len(population.seeds) >= uncertainty.FEWEST_SEEDS:
            halves = between_halves(population, population.seeds)
            floor = floors.setdefault(population.learning_method, {"dense against dense": halves["floor"][0]})
            floor[f"{population.pruning_method} {population.sparsity:g}"] = halves["pruned"][0]
    return floors
