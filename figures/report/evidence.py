"""What a data set's stored arrays say about the claims, with intervals. K networks, N images, S sets of
seeds."""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from common.methods import PruningMethod, describe, parse_method
from common.store.table import MEASURES
from figures.report import similarity, uncertainty
from figures.report.claims import HIGH_SPARSITY
from figures.report.read import Combination, grouped, read_evaluations

# Where halves are compared: how many of the leave-two-out sets, and how many random splits of each.
HALVES_SETS, HALVES_SPLITS = 60, 4
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


def shared(*populations: Compared) -> tuple[int, ...]:
    """The ids that all the populations have, dense and pruned."""
    ids = [set(networks.ids.tolist()) for each in populations for networks in (each.dense, each.pruned)]
    return tuple(sorted(set.intersection(*ids)))


@functools.cache
def labels_of_sets(networks: Networks, seeds: tuple[int, ...]) -> np.ndarray:
    """Modal labels (1 + S, N): of all networks, then of all but two of the seeds, every pair once.

    Networks of other seeds always vote. With fewer than 6 seeds S = 0. What was asked for once is remembered.
    """
    sets = np.ones((1, len(networks.ids)), bool)
    if len(seeds) >= uncertainty.FEWEST_SEEDS:
        kept = uncertainty.leave_two_out(len(seeds))
        always = np.ones(len(kept), bool)
        votes = [kept[:, seeds.index(seed)] if seed in seeds else always for seed in networks.ids.tolist()]
        sets = np.concatenate([sets, np.stack(votes, 1)])
    return uncertainty.modal_labels_of_sets(networks.predictions, sets, networks.classes)


def pies(population: Compared, seeds: tuple[int, ...]) -> np.ndarray:
    """The PIE sets of all networks, and without two of the seeds: (1 + S, N) bool."""
    return labels_of_sets(population.dense, seeds) != labels_of_sets(population.pruned, seeds)


def pies_minus(population: Compared, other: Compared) -> dict:
    """The number of PIEs of a population minus that of another one, with its interval."""
    seeds = shared(population, other)
    return jackknifed(pies(population, seeds).sum(1) - pies(other, seeds).sum(1), seeds)


def jackknifed(
    statistic: np.ndarray, seeds: tuple[int, ...], bounds: tuple[float, float] = (-math.inf, math.inf)
) -> dict:
    """value, low, high, models of a statistic (1 + S,) of `pies` that cannot lie outside the bounds."""
    value, replicates = np.asarray(statistic[0], np.float64), statistic[1:].astype(np.float64)
    interval = (math.nan, math.nan)
    if len(replicates):
        interval = np.clip(uncertainty.jackknife_interval(value, replicates, len(seeds)), *bounds)
    low, high = map(float, interval)
    return {"value": float(value), "low": low, "high": high, "models": len(seeds)}


def bootstrapped(values: np.ndarray) -> dict:
    """value, low, high, models of a mean over networks (K,)."""
    low, high = uncertainty.bootstrap_interval(values)
    value = float(values.mean()) if len(values) else math.nan
    return {"value": value, "low": low, "high": high, "models": len(values)}


def mean_over(values: np.ndarray, images: np.ndarray | slice = slice(None)) -> np.ndarray:
    """(K, N) -> (K,) the mean over the chosen images that have a value; NaN where none has."""
    chosen = values[:, images]
    defined = ~np.isnan(chosen)
    count = defined.sum(1)
    return np.where(defined, chosen, 0).sum(1) / np.where(count > 0, count, np.nan)


def seed_by_seed(population: Compared, measure: str) -> dict[int, float]:
    """id -> mean over the test images of accuracy, q_score or depth, of pruned networks."""
    networks = population.pruned
    correct, ids = networks.predictions == population.labels, networks.ids
    values = correct if measure == "accuracy" else getattr(networks, measure)
    return dict(zip((networks.depth_ids if measure == "depth" else ids).tolist(), mean_over(values)))


# Populations


def populations(compared: list[Compared]) -> list[dict]:
    """One row for each: accuracy, PIEs, Q-Score and depth of PIEs minus that of other images, with
    intervals."""
    return [
        {
            **population.facts,
            "networks": len(population.pruned.ids),
            "accuracy": accuracy(population.pruned, population.labels),
            "pies": jackknifed(pies(population, population.seeds).sum(1), population.seeds, (0, math.inf)),
            **{measure: pies_minus_others(population, measure) for measure in ("q_score", "depth")},
        }
        for population in compared
    ]


def dense_populations(compared: list[Compared]) -> list[dict]:
    """One row for each dense population: its accuracy with its interval."""
    first = {population.learning_method: population for population in reversed(compared)}
    return [
        {
            **population.facts,
            "pruning_method": "dense",
            "sparsity": 0.0,
            "networks": len(population.dense.ids),
            "accuracy": accuracy(population.dense, population.labels),
        }
        for _, population in sorted(first.items())
    ]


def measures(population: Combination) -> dict[str, dict]:
    """What pruning loses and keeps: every measure that the population's row has, a mean over networks with
    its interval; a number of images has none."""
    stored = {**(population.depths or {}), **population.arrays}
    values = {name: np.atleast_1d(stored[name]) for name in MEASURES if name in population.row}
    return {name: bootstrapped(each[~np.isnan(each)]) for name, each in values.items()}


def accuracy(networks: Networks, labels: np.ndarray) -> dict:
    """The mean test accuracy with its interval."""
    return bootstrapped(mean_over(networks.predictions == labels))


def pies_minus_others(population: Compared, measure: str) -> dict:
    """The mean Q-Score or depth that pruned networks give PIEs minus that of other images, the mean over
    networks with its interval."""
    values, is_pie = getattr(population.pruned, measure), population.is_pie
    return bootstrapped(mean_over(values, is_pie) - mean_over(values, ~is_pie))


# Evidence for the claims: rows of claim, part, group (what is decided together), comparison, sparsity, value,
# low, high, models. All populations are such that the claims are about.


def contrastive_against_supervised(claimed: list[Compared]) -> Iterator[dict]:
    """Claim 1: PIEs of contrastive minus those of supervised networks, of one pruning method and sparsity."""
    supervised = {
        (other.pruning_method, other.sparsity): other
        for other in claimed
        if other.learning_method == "supervised"
    }
    for population in claimed:
        other = supervised.get((population.pruning_method, population.sparsity))
        if other not in (None, population):
            yield {
                "claim": 1,
                "part": "PIEs",
                "group": describe(population.pruning_method),
                "sparsity": population.sparsity,
                "comparison": f"{population.learning_method} minus supervised",
                **pies_minus(population, other),
            }


def uniqueness(claimed: list[Compared]) -> Iterator[dict]:
    """Claim 2: the share of a combination's PIEs that no other combination of that sparsity has, minus one
    half; and how much more alike the PIE sets of two halves of its seeds are than those of one half and, with
    the other half, of other combinations."""
    for sparsity, chosen in sorted(grouped(claimed, "sparsity").items()):
        if len(chosen) < 2:
            continue
        seeds = shared(*chosen)
        sets = np.stack([pies(population, seeds) for population in chosen])  # (G, 1 + S, N)
        size, alone = sets.sum(2), (sets & (sets.sum(0, dtype=np.int16) == 1)).sum(2)
        unique = alone / np.where(size > 0, size, np.nan)  # NaN without PIEs
        likeness = halves(chosen, seeds)
        chance = similarity.pie_overlap(sets[:, 0])["chance_unique"]
        for index, population in enumerate(chosen):
            about = {
                "claim": 2,
                "group": f"{population.learning_method}, {describe(population.pruning_method)}",
                "sparsity": sparsity,
            }
            share = f"{100 * unique[index, 0]:.0f} % unique, by chance {100 * chance[index]:.0f} %"
            yield {
                **about,
                "part": "unique PIEs",
                "comparison": "share in no other set, minus one half",
                **jackknifed(unique[index] - 0.5, seeds, (-0.5, 0.5)),
                "note": share if size[index, 0] else "no PIEs",
            }
            yield {
                **about,
                "part": "likeness of halves",
                "comparison": "Jaccard of its halves minus Jaccard with others",
                **jackknifed(likeness[index], seeds),
            }


def halves(chosen: list[Compared], seeds: tuple[int, ...]) -> np.ndarray:
    """Jaccard similarity of PIE sets of half of the seeds and the other half, of a combination with itself
    minus that with the others, means over random splits: (G, 1 + S'); column 0 of all seeds, then without two
    of them. S' = 0 with fewer than 6 seeds."""
    groups, total = len(chosen), len(seeds)
    kept = np.ones((1, total), bool)
    if total >= uncertainty.FEWEST_SEEDS:
        pairs = uncertainty.leave_two_out(total)
        drawn = np.random.default_rng(0).permutation(len(pairs))[:HALVES_SETS]
        kept = np.concatenate([kept, pairs[drawn]])
    splits = np.zeros((2, len(kept), HALVES_SPLITS, total), bool)
    for index, row in enumerate(kept):
        splits[:, index][..., row] = uncertainty.random_halves(int(row.sum()), HALVES_SPLITS)
    votes = splits.reshape(2 * len(kept) * HALVES_SPLITS, total)

    @functools.cache  # dense networks are those of several combinations
    def modal_labels(networks: Networks) -> np.ndarray:
        predictions = networks.predictions_of(seeds)
        return uncertainty.modal_labels_of_sets(predictions, votes, networks.classes)

    differ = [modal_labels(each.dense) != modal_labels(each.pruned) for each in chosen]
    sets = np.stack(differ).reshape(groups, 2, len(kept) * HALVES_SPLITS, -1)
    size = sets.sum(3)
    alike = np.array(
        [
            [similarity.jaccard((a[0] & b[1]).sum(1), size_a[0], size_b[1]) for b, size_b in zip(sets, size)]
            for a, size_a in zip(sets, size)
        ]
    )
    alike = alike.reshape(groups, groups, len(kept), HALVES_SPLITS).mean(3)
    alike = (alike + alike.transpose(1, 0, 2)) / 2  # either half may be the first
    itself = np.eye(groups, dtype=bool)
    return alike[itself] - alike[~itself].reshape(groups, groups - 1, -1).mean(1)


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
                "comparison": f"early minus {describe(other.pruning_method)}{scopes}",
                "matched": matched,
            }
            for part, measure in (("accuracy", "accuracy"), *MEASURES):
                means, others = seed_by_seed(early, measure), seed_by_seed(other, measure)
                both = sorted(means.keys() & others.keys())
                differences = np.array([means[seed] - others[seed] for seed in both])
                yield {**about, "part": part, **bootstrapped(differences)}
            yield {**about, "part": "PIEs", **pies_minus(early, other)}


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
                yield {
                    "claim": 4,
                    "part": part,
                    "group": population.learning_method,
                    "sparsity": population.sparsity,
                    "comparison": f"PIEs minus others, {describe(population.pruning_method)}",
                    **pies_minus_others(population, measure),
                }


def all_evidence(compared: list[Compared]) -> list[dict]:
    """The rows of all claims."""
    claimed = [population for population in compared if population.claimed_about]
    return [
        *contrastive_against_supervised(claimed),
        *uniqueness(claimed),
        *early_against_others(claimed),
        *pies_against_others(claimed),
    ]


# The noise floor


def noise_floors(compared: list[Compared]) -> dict[str, dict[str, np.ndarray]]:
    """Learning method -> name -> numbers of PIEs over random splits of the seeds: of one half of the dense
    networks against the other half, then against the pruned networks of the other half. Empty with fewer than
    6 seeds."""
    floors: dict[str, dict[str, np.ndarray]] = {}
    for population in compared:
        if len(population.seeds) < uncertainty.FEWEST_SEEDS:
            continue
        networks = (population.dense, population.pruned)
        dense, pruned = (each.predictions_of(population.seeds) for each in networks)
        classes = population.dense.classes
        dense_floor = {"dense against dense": uncertainty.split_pies(dense, None, classes).sum(1)}
        floor = floors.setdefault(population.learning_method, dense_floor)
        name = f"{population.pruning_method} {population.sparsity:g}"
        floor[name] = uncertainty.split_pies(dense, pruned, classes).sum(1)
    return floors
