"""What a data set's stored arrays say about the claims, with intervals: numbers from pies/NAME/ alone. K seeds, N images, S sets of seeds."""

import functools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterator

import numpy as np

from common.methods import describe, order, parse_method
from common.store import results
from figures.report import across, similarity, uncertainty
from figures.report.across import Combination
from figures.report.claims import HIGH_SPARSITY

HALVES_SETS, HALVES_SPLITS = (
    60,
    4,
)  # of the leave-two-out sets, and random splits of each, where halves are compared


@dataclass(frozen=True, eq=False)
class Networks:
    """A population: ids (K,), predictions (K, N), q_score (K, N), NaN where a latent has none; of depth_ids (M,): depth (M, N), pruned
    networks only."""

    ids: np.ndarray
    predictions: np.ndarray
    q_score: np.ndarray
    depth_ids: np.ndarray
    depth: np.ndarray


@dataclass(frozen=True, eq=False)
class Compared:
    """A pruned population and the dense one of the same seeds."""

    combination: Combination
    dense: Networks
    pruned: Networks

    @property
    def learning_method(self) -> str:
        return self.combination.key[0]

    @property
    def sparsity(self) -> float:
        return self.combination.key[2]

    @property
    def classes(self) -> int:
        return len(self.combination.arrays["class_names"])

    @property
    def seeds(self) -> tuple[int, ...]:
        """The ids that both populations have: dense and pruned of one seed leave together."""
        return shared(self)

    @property
    def claimed_about(self) -> bool:
        """Whether the paper's claims are about it: pruned by magnitude, in one shot or while training, to a high sparsity."""
        method = parse_method(self.combination.key[1])
        return (
            self.sparsity >= HIGH_SPARSITY
            and method.criterion == "magnitude"
            and method.schedule in ("one-shot", "early", "late")
        )


def read_compared(results_folder: Path) -> tuple[list[Compared], list[str]]:
    """All combinations of the table of which everything is stored, and in words what is missing."""
    found, missing, dense = [], [], {}
    for combination in across.read_combinations(results_folder):
        key = (
            combination.folder,
            *map(str, combination.arrays.get("dense_evaluations", [])),
        )  # one population for all that come from it
        depths = read_depths(combination)
        if key not in dense:
            dense[key] = _networks(combination, "dense_", None)
        pruned = _networks(combination, "", depths)
        if dense[key] is None or pruned is None:
            missing.append(
                f"everything but its figures of {combination.label}: the predictions of its networks are not stored; run its PIE script again"
            )
            continue
        if depths is None:
            missing.append(f"prediction depth of {combination.label}: run its prediction_depth script")
        found.append(Compared(combination, dense[key], pruned))
    return found, missing


def _networks(combination: Combination, whose: str, depths: dict | None) -> Networks | None:
    stored = across.read_evaluations(combination, ("predictions", "q_score"), whose)
    if stored is None:
        return None
    return Networks(
        combination.arrays[f"{whose}ids"],
        np.stack([one["predictions"] for one in stored]),
        np.stack([one["q_score"] for one in stored]),
        *(
            (depths["ids"], depths["pruned_depth_prediction"])
            if depths
            else (np.zeros(0, int), np.zeros((0, 0)))
        ),
    )


def read_depths(combination: Combination) -> dict | None:
    """The stored prediction depths of a combination's networks."""
    return stored_figure(combination, "prediction_depth", {"ids", "pruned_depth_prediction"})


def stored_figure(combination: Combination, kind: str, keys: set[str]) -> dict | None:
    """The arrays of a figure of that kind about a combination, made from the networks that it was compared with; None where there is none."""
    made = json.loads(str(combination.arrays["made"]))
    for path in sorted(
        (combination.folder / kind).glob(f"*_{combination.key[1]}_{combination.key[2]}sparsity_*.npz"),
        reverse=True,
    ):  # depths by prediction before by label
        arrays = results.read_arrays(path) or {}
        other = json.loads(str(arrays.get("made", "{}")))
        if keys <= set(arrays) and all(
            other.get(key) == made[key] for key in ("checkpoints", "dense_checkpoints", "data")
        ):
            return arrays
    return None


def shared(*compared: Compared) -> tuple[int, ...]:
    """The ids that all the populations have, dense and pruned."""
    return tuple(
        sorted(
            set.intersection(
                *(set(map(int, networks.ids)) for one in compared for networks in (one.dense, one.pruned))
            )
        )
    )


Labels = Callable[[Networks, tuple[int, ...]], np.ndarray]


def labels_of_sets(num_classes: int) -> Labels:
    """A function of networks and seeds to modal labels (1 + S, N): of all networks, then of all but two of the seeds, every pair once.

    Networks of other seeds always vote. With fewer than 6 seeds S = 0. What was asked for once is remembered.
    """

    @functools.cache
    def labels(networks: Networks, seeds: tuple[int, ...]) -> np.ndarray:
        return uncertainty.modal_labels_of_sets(
            networks.predictions, sets_of(networks.ids, seeds), num_classes
        )

    return labels


def sets_of(ids: np.ndarray, seeds: tuple[int, ...]) -> np.ndarray:
    """(1 + S, K) bool: all networks, then those without two of the seeds."""
    sets = np.ones((1, len(ids)), bool)
    if len(seeds) < uncertainty.FEWEST_SEEDS:
        return sets
    kept = uncertainty.leave_two_out(len(seeds))
    columns = [
        kept[:, seeds.index(int(one))] if int(one) in seeds else np.ones(len(kept), bool) for one in ids
    ]
    return np.concatenate([sets, np.stack(columns, 1)])


def pies(one: Compared, seeds: tuple[int, ...], labels: Labels) -> np.ndarray:
    """The PIE sets of all networks, and without two of the seeds: (1 + S, N) bool."""
    return labels(one.dense, seeds) != labels(one.pruned, seeds)


def jackknifed(
    statistic: np.ndarray, seeds: tuple[int, ...], bounds: tuple[float, float] = (-math.inf, math.inf)
) -> dict:
    """value, low, high, models of a statistic (1 + S,) of `pies` that cannot lie outside the bounds."""
    value, replicates = np.asarray(statistic[0], np.float64), statistic[1:].astype(np.float64)
    low, high = (
        uncertainty.jackknife_interval(value, replicates, len(seeds))
        if len(replicates)
        else (math.nan, math.nan)
    )
    return {
        "value": float(value),
        "low": float(np.maximum(low, bounds[0])),
        "high": float(np.minimum(high, bounds[1])),
        "models": len(seeds),
    }


def bootstrapped(values: np.ndarray) -> dict:
    """value, low, high, models of a mean over networks (K,)."""
    low, high = uncertainty.bootstrap_interval(values)
    return {
        "value": float(values.mean()) if len(values) else math.nan,
        "low": low,
        "high": high,
        "models": len(values),
    }


def mean_over(values: np.ndarray, images: np.ndarray) -> np.ndarray:
    """(K, N) -> (K,) the mean over the chosen images that have a value; NaN where none has."""
    chosen = values[:, images]
    defined = ~np.isnan(chosen)
    count = defined.sum(1)
    return np.where(defined, chosen, 0).sum(1) / np.where(count > 0, count, np.nan)


def per_network(networks: Networks, measure: str, labels: np.ndarray) -> dict[int, float]:
    """id -> mean over the test images of accuracy, q_score or depth."""
    if measure == "depth":
        return dict(zip(map(int, networks.depth_ids), networks.depth.mean(1))) if len(networks.depth) else {}
    means = (
        (networks.predictions == labels).mean(1)
        if measure == "accuracy"
        else mean_over(networks.q_score, np.ones(len(labels), bool))
    )
    return dict(zip(map(int, networks.ids), means))


# Populations


def populations(compared: list[Compared], labels: Labels) -> list[dict]:
    """One row for each combination: accuracy, PIEs, Q-Score and depth of PIEs minus that of other images, each with its interval."""
    rows = []
    for one in compared:
        truth = one.combination.arrays["labels"]
        rows.append(
            {
                **one.combination.facts,
                "networks": len(one.pruned.ids),
                "accuracy": bootstrapped((one.pruned.predictions == truth).mean(1)),
                "pies": jackknifed(pies(one, one.seeds, labels).sum(1), one.seeds, (0, math.inf)),
                **{measure: pies_minus_others(one, measure) for measure in ("q_score", "depth")},
            }
        )
    return rows


def dense_populations(compared: list[Compared]) -> list[dict]:
    """One row for each dense population: its accuracy with its interval."""
    first = {one.learning_method: one for one in reversed(compared)}
    return [
        {
            "learning_method": method,
            "pruning_method": "dense",
            "sparsity": 0.0,
            "networks": len(first[method].dense.ids),
            "accuracy": bootstrapped(
                (first[method].dense.predictions == first[method].combination.arrays["labels"]).mean(1)
            ),
        }
        for method in sorted(first)
    ]


def pies_minus_others(one: Compared, measure: str) -> dict:
    """The mean Q-Score or depth that pruned networks give PIEs minus that of other images, the mean over networks with its interval."""
    values = one.pruned.depth if measure == "depth" else one.pruned.q_score
    if not len(values):
        return bootstrapped(np.zeros(0))
    is_pie = one.combination.arrays["is_pie"].astype(bool)
    return bootstrapped(mean_over(values, is_pie) - mean_over(values, ~is_pie))


# Evidence for the claims: rows of claim, part, group (what is decided together), comparison, sparsity, value, low, high, models


def contrastive_against_supervised(compared: list[Compared], labels: Labels) -> Iterator[dict]:
    """Claim 1: PIEs of contrastive minus those of supervised networks, of one pruning method and sparsity."""
    supervised = {one.combination.key[1:]: one for one in compared if one.learning_method == "supervised"}
    for one in compared:
        other = supervised.get(one.combination.key[1:])
        if one.learning_method == "supervised" or other is None or not one.claimed_about:
            continue
        seeds = shared(one, other)
        difference = pies(one, seeds, labels).sum(1) - pies(other, seeds, labels).sum(1)
        yield {
            "claim": 1,
            "part": "PIEs",
            "group": describe(one.combination.key[1]),
            "sparsity": one.sparsity,
            "comparison": f"{one.learning_method} minus supervised",
            **jackknifed(difference, seeds),
        }


def uniqueness(compared: list[Compared], labels: Labels) -> Iterator[dict]:
    """Claim 2: the share of a combination's PIEs that no other combination of that sparsity has, minus one half; and how much more alike
    the PIE sets of two halves of its seeds are than those of one half and, with the other half, of other combinations."""
    for sparsity in sorted({one.sparsity for one in compared if one.claimed_about}):
        chosen = [one for one in compared if one.claimed_about and one.sparsity == sparsity]
        if len(chosen) < 2:
            continue
        seeds = shared(*chosen)
        sets = np.stack([pies(one, seeds, labels) for one in chosen])  # (G, 1 + S, N)
        own = sets & (sets.sum(0, dtype=np.int16) == 1)
        with np.errstate(invalid="ignore"):
            unique = own.sum(2) / sets.sum(2)  # NaN without PIEs
        within, between = halves(chosen, seeds)
        chance = similarity.pie_overlap(sets[:, 0])["chance_unique"]
        for index, one in enumerate(chosen):
            name = f"{one.learning_method}, {describe(one.combination.key[1])}"
            yield {
                "claim": 2,
                "part": "unique PIEs",
                "group": name,
                "sparsity": sparsity,
                "comparison": "share in no other set, minus one half",
                **jackknifed(unique[index] - 0.5, seeds, (-0.5, 0.5)),
                "note": f"{100 * unique[index, 0]:.0f} % unique, by chance {100 * chance[index]:.0f} %"
                if sets[index, 0].any()
                else "no PIEs",
            }
            yield {
                "claim": 2,
                "part": "likeness of halves",
                "group": name,
                "sparsity": sparsity,
                "comparison": "Jaccard of its halves minus Jaccard with others",
                **jackknifed(within[index] - between[index], seeds),
            }


def halves(chosen: list[Compared], seeds: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Jaccard similarities of PIE sets of half of the seeds and the other half, means over random splits: of a combination with itself, and
    with the others, (G, 1 + S') each; column 0 of all seeds, then without two of them. S' = 0 with fewer than 6 seeds."""
    total = len(seeds)
    rows = [np.ones(total, bool)]
    if total >= uncertainty.FEWEST_SEEDS:
        kept = uncertainty.leave_two_out(total)
        rows += list(kept[np.random.default_rng(0).permutation(len(kept))[:HALVES_SETS]])
    one_half, other_half = np.zeros((2, len(rows), HALVES_SPLITS, total), bool)
    for s, row in enumerate(rows):
        one_half[s][:, row], other_half[s][:, row] = uncertainty.random_halves(int(row.sum()), HALVES_SPLITS)
    both = np.concatenate(
        [
            one_half.reshape(len(rows) * HALVES_SPLITS, total),
            other_half.reshape(len(rows) * HALVES_SPLITS, total),
        ]
    )
    found = {}  # dense networks are those of several combinations
    for one in chosen:
        for networks in (one.dense, one.pruned):
            if networks not in found:
                places = [list(map(int, networks.ids)).index(seed) for seed in seeds]
                found[networks] = uncertainty.modal_labels_of_sets(
                    networks.predictions[places], both, one.classes
                )
    sets = np.stack([found[one.dense] != found[one.pruned] for one in chosen]).reshape(
        len(chosen), 2, len(rows) * HALVES_SPLITS, -1
    )
    groups = len(chosen)
    size = sets.sum(3)
    alike = np.array(
        [
            [
                similarity.jaccard((sets[g, 0] & sets[h, 1]).sum(1), size[g, 0], size[h, 1])
                for h in range(groups)
            ]
            for g in range(groups)
        ]
    )
    alike = alike.reshape(groups, groups, len(rows), HALVES_SPLITS).mean(3)
    alike = (alike + alike.transpose(1, 0, 2)) / 2  # either half may be the one
    own = np.eye(groups, dtype=bool)
    return alike[own], alike[~own].reshape(groups, groups - 1, -1).mean(1)


def early_against_others(compared: list[Compared], labels: Labels) -> Iterator[dict]:
    """Claim 3: networks pruned early minus those pruned late and minus those pruned in one shot, of the same scope where both exist."""
    for method, sparsity in sorted(
        {(one.learning_method, one.sparsity) for one in compared if one.claimed_about}
    ):
        chosen = [
            one
            for one in compared
            if one.claimed_about and (one.learning_method, one.sparsity) == (method, sparsity)
        ]
        for one, other, matched in schedule_pairs(chosen):
            name = f"early minus {describe(other.combination.key[1])}" + (
                "" if matched else " (scopes differ)"
            )
            for part, value in early_minus(one, other, labels):
                yield {
                    "claim": 3,
                    "part": part,
                    "group": method,
                    "sparsity": sparsity,
                    "comparison": name,
                    "matched": matched,
                    **value,
                }


def schedule_pairs(chosen: list[Compared]) -> list[tuple[Compared, Compared, bool]]:
    """(early, other, whether of the same scope) for other schedules; pairs of other scopes only where a schedule has no pair of the same."""
    pairs = []
    parsed = {one: parse_method(one.combination.key[1]) for one in chosen}
    for schedule in ("late", "one-shot"):
        found = [
            (one, other, parsed[one].scope == parsed[other].scope)
            for one in chosen
            for other in chosen
            if parsed[one].schedule == "early" and parsed[other].schedule == schedule
        ]
        same = [pair for pair in found if pair[2]]
        pairs += same or found
    return pairs


def early_minus(one: Compared, other: Compared, labels: Labels) -> Iterator[tuple[str, dict]]:
    """(measure, difference with its interval): networks of one seed begin alike and are compared with each other."""
    truth = one.combination.arrays["labels"]
    for part, measure in (("accuracy", "accuracy"), ("Q-Score", "q_score"), ("prediction depth", "depth")):
        means = [per_network(compared.pruned, measure, truth) for compared in (one, other)]
        both = sorted(means[0].keys() & means[1].keys())
        yield part, bootstrapped(np.array([means[0][seed] - means[1][seed] for seed in both]))
    seeds = shared(one, other)
    yield "PIEs", jackknifed(pies(one, seeds, labels).sum(1) - pies(other, seeds, labels).sum(1), seeds)


def pies_against_others(compared: list[Compared]) -> Iterator[dict]:
    """Claim 4: Q-Score and depth of PIEs minus those of other images, in pruned networks."""
    for one in compared:
        for part, measure in (("Q-Score", "q_score"), ("prediction depth", "depth")):
            if one.claimed_about and (measure == "q_score" or len(one.pruned.depth)):
                yield {
                    "claim": 4,
                    "part": part,
                    "group": one.learning_method,
                    "sparsity": one.sparsity,
                    "comparison": f"PIEs minus others, {describe(one.combination.key[1])}",
                    **pies_minus_others(one, measure),
                }


def all_evidence(compared: list[Compared], labels: Labels) -> list[dict]:
    """The rows of all claims."""
    return [
        *contrastive_against_supervised(compared, labels),
        *uniqueness(compared, labels),
        *early_against_others(compared, labels),
        *pies_against_others(compared),
    ]


# The noise floor


def noise_floors(compared: list[Compared]) -> dict[str, dict[str, np.ndarray]]:
    """Learning method -> name -> numbers of PIEs over random splits of the seeds: of one half of the dense networks against the other half,
    then against the pruned networks of the other half. Empty where there are fewer than 6 seeds."""
    floors: dict[str, dict[str, np.ndarray]] = {}
    for one in sorted(
        compared, key=lambda one: (one.learning_method, order(one.combination.key[1]), one.sparsity)
    ):
        if len(one.seeds) < uncertainty.FEWEST_SEEDS:
            continue
        dense, pruned = (
            networks.predictions[[list(map(int, networks.ids)).index(seed) for seed in one.seeds]]
            for networks in (one.dense, one.pruned)
        )
        own = floors.setdefault(
            one.learning_method,
            {"dense against dense": uncertainty.split_pies(dense, None, one.classes).sum(1)},
        )
        own["{} {:g}".format(*one.combination.key[1:])] = uncertainty.split_pies(
            dense, pruned, one.classes
        ).sum(1)
    return floors
