"""Evidence for the claims: which populations are compared, in which measures, with intervals."""

import math
from collections.abc import Collection, Iterator
from dataclasses import replace
from itertools import combinations, product
from typing import NamedTuple

import numpy as np

from common.methods import FINETUNED
from common.settings import Finetuning, defaults
from common.store.files import PRUNING_KEYS, differences, same_finetuning
from figures.report import claims, uncertainty
from figures.report.measures import (
    IMAGE_MEASURES,
    STATISTICS,
    Pair,
    Terms,
    compared_ids,
    difference,
    labels_of_sets,
    mean_of_networks,
    noise_floor,
    overlap,
    pies,
    pies_minus_others,
    uniqueness,
    values_of_networks,
)
from figures.report.read import StoredPopulation, grouped

FACTS = "epochs", "batch_size"  # in the names of external networks
SCHEDULE_KEYS = "schedule", "begin_step", "end_step", "frequency"  # beginnings of names of settings
MATCHED = 0.01  # largest difference between matched accuracies


def is_claimed_about(population: StoredPopulation) -> bool:
    """Whether the claims are about a population: it is pruned by magnitude to a high sparsity, in one shot or
    during training."""
    method = population.parsed
    magnitude = method.criterion == "magnitude" and method.schedule in ("one-shot", "early", "late")
    return magnitude and population.sparsity >= claims.HIGH_SPARSITY


def with_controls(
    populations: list[StoredPopulation], controls: list[StoredPopulation]
) -> dict[StoredPopulation, StoredPopulation]:
    """Maps each population to itself. One-shot populations get their finetune-only control as the reference,
    in place of the dense networks, if one with the same settings exists."""
    by_method = {control.learning_method: control for control in controls}
    controlled = {}
    for population in populations:
        control = by_method.get(population.learning_method)
        controlled[population] = population
        if control and population.parsed.schedule == "one-shot":
            settings = control.settings, population.settings
            facts = ({key: item.row.get(key) for key in FACTS} for item in (control, population))
            candidate = replace(population, reference=control.pruned, reference_method=FINETUNED)
            if candidate.seeds and same_finetuning(*settings, *facts):
                controlled[population] = candidate
    return controlled


def has_control(population: StoredPopulation) -> bool:
    """Whether the reference was finetuned in the same way, or the population was not finetuned."""
    return population.parsed.schedule != "one-shot" or population.reference_method == FINETUNED


# Rows


class Row(NamedTuple):
    """A difference as evidence.

    measure: a measure of the claim; compared: the populations; terms: of the difference, or its estimate;
    smallest: the smallest difference that matters; decides: whether it may count for the verdict.
    """

    measure: str
    compared: tuple[StoredPopulation, ...]
    terms: Terms
    smallest: float = math.nan
    decides: bool = True
    note: str = ""


def smallest_of(name: str, second: StoredPopulation, terms: Terms) -> float:
    """Returns the smallest difference that matters, given the population of the reference method (`second`),
    whose sample is the last term."""
    if not terms:
        return math.nan
    sample = terms[-1][2]
    share = claims.SHARE * float(sample.value.mean())
    if name == "accuracy_lost":
        return max(claims.SMALLEST_LOSS, share)
    if name == "excess":
        return max(claims.FLOOR_SHARE * noise_floor(second, sample.ids), share)
    return math.nan


def rows_of_pair(measures: dict[str, str], pair: Pair, sign: int = 1) -> Iterator[Row]:
    """Yields a row for each measure, which maps to the name of its statistic."""
    unlike = unlike_settings(*pair[:2])
    note = accuracies(*pair[:2]) + unlike
    for measure, name in measures.items():
        terms = difference(STATISTICS[name], pair)
        smallest = smallest_of(name, pair.second, terms)
        terms = [(sign * weight, *rest) for weight, *rest in terms]
        yield Row(measure, pair[:2], terms, smallest, not unlike, note)


def unlike_settings(first: StoredPopulation, second: StoredPopulation) -> str:
    """Names the settings in which two populations differ although the comparison assumes them equal: those of
    finetuning, or of gradual pruning in one learning method all but the schedule; the architecture; those of
    `unlike_dense`. "" without any."""
    keys = {*differences(first.settings, second.settings)}
    if "external" in keys:
        keys = set()  # unknown
    if not (
        first.parsed.gradual and second.parsed.gradual and first.learning_method == second.learning_method
    ):
        is_one_shot = first.parsed.schedule == second.parsed.schedule == "one-shot"
        keys &= defaults(Finetuning).keys() if is_one_shot else set()
    unlike = [key for key in sorted(keys - PRUNING_KEYS) if not key.startswith(SCHEDULE_KEYS)]
    if first.arrays["architecture"] != second.arrays["architecture"]:
        unlike.append("architecture")
    for population in (first, second):
        unlike += [f"dense {key}" for key in unlike_dense(population)]
    return f"; settings differ: {', '.join(unlike)}" if unlike else ""


def unlike_dense(population: StoredPopulation) -> list[str]:
    """Names the settings in which a training from scratch differs from that of the dense networks; none for
    networks made from dense ones. Of external networks only the facts in their names are known."""
    if not population.parsed.trained_alone:
        return []
    settings, dense, row = population.settings, population.dense_settings, population.row
    if not dense or "external" in {*settings, *dense}:
        return [fact for fact in FACTS if row.get(f"dense_{fact}", row.get(fact)) != row.get(fact)]
    changed = differences({key: settings.get(key) for key in dense}, dense)
    # A setting missing on one side was added to the code after the older of the two.
    return [key for key, values in changed.items() if None not in values]


def mean_accuracy(population: StoredPopulation) -> float:
    """Returns the mean over networks, in the order of summation of other tables."""
    return float((population.pruned.predictions == population.labels).mean(1).mean())


def accuracies(*populations: StoredPopulation) -> str:
    texts = (f"{100 * mean_accuracy(item):.2f}" for item in populations)
    return f"accuracy {' and '.join(texts)} %"


PRIMARY = {"accuracy lost": "accuracy_lost", "excess PIEs": "excess"}
SECONDARY = {
    "accuracy lost from dense": "accuracy_lost",
    "excess PIEs over dense": "excess",
    "PIEs": "pies",
    "lost minus gained": "lost_minus_gained",
}


def contrastive_against_supervised(
    beside_control: dict[StoredPopulation, StoredPopulation], populations: list[StoredPopulation]
) -> Iterator[Row]:
    """Claim 1: contrastive minus supervised networks of the same pruning method and sparsity; and minus
    supervised networks of the same pruning method with about the same accuracy."""
    supervised = [item for item in populations if item.learning_method == "supervised"]
    for population, beside in beside_control.items():
        if population.learning_method == "supervised":
            continue
        candidates = [item for item in supervised if item.pruning_method == population.pruning_method]
        for candidate in candidates:
            if candidate.sparsity == population.sparsity:
                yield from rows_of_pair(SECONDARY, Pair(population, candidate, False))
                controlled = beside, beside_control[candidate]
                if all(map(has_control, controlled)):
                    yield from rows_of_pair(PRIMARY, Pair(*controlled, False))
        nearest = min(candidates, key=lambda candidate: gap(population, candidate), default=None)
        if nearest and gap(population, nearest) <= MATCHED:
            for row in rows_of_pair({"PIEs at matched accuracy": "pies"}, Pair(population, nearest, False)):
                yield row._replace(note=f"{row.note}, the second at sparsity {nearest.sparsity:g}")


def gap(first: StoredPopulation, second: StoredPopulation) -> float:
    """Returns the difference between their accuracies."""
    return abs(mean_accuracy(first) - mean_accuracy(second))


def unique_to_combinations(claimed: Collection[StoredPopulation]) -> Iterator[Row]:
    """Claim 2: U of pairs of one sparsity and scope that differ in either the learning or the pruning
    method."""
    for first, second in combinations(claimed, 2):
        learning = first.learning_method != second.learning_method
        pruning = first.pruning_method != second.pruning_method
        if (
            learning == pruning
            or first.sparsity != second.sparsity
            or first.parsed.scope != second.parsed.scope
        ):
            continue
        across = f"across {'learning' if learning else 'pruning'} methods"
        pair, populations = Pair(first, second, not learning), (first, second)
        unlike, confounded = unlike_settings(*populations), gap(*populations) > claims.CONFOUNDING_GAP
        decides = all(map(has_control, populations)) and not confounded and not unlike
        note = accuracies(*populations) + unlike + ": confounded" * confounded
        smallest = claims.SMALLEST_UNIQUENESS
        yield Row(f"U {across}", populations, uniqueness(pair), smallest, decides, note)
        jaccard = overlap(pair)
        seeds = compared_ids(STATISTICS["pies"], pair)
        sizes = " and ".join(str(int(pies(*side)[0].sum())) for side in zip(populations, seeds))
        note = f"{jaccard['value']:.2f}, by chance {jaccard['chance']:.2f}; {sizes} images"
        beyond = {end: jaccard[end] - jaccard["chance"] for end in ("value", "low", "high")}
        yield Row(f"Jaccard {across}", populations, jaccard | beyond, note=note)


def early_against_others(claimed: Collection[StoredPopulation]) -> Iterator[Row]:
    """Claim 3: networks pruned early minus those pruned late, and minus those pruned in one shot, of the same
    scope. They are paired by seed, because networks of one seed have the same initial weights."""
    for early, other in product(claimed, claimed):
        groups = [(item.learning_method, item.sparsity, item.parsed.scope) for item in (early, other)]
        if early.parsed.schedule != "early" or groups[0] != groups[1]:
            continue
        pair = Pair(early, other, True)
        if other.parsed.schedule == "one-shot":
            yield from rows_of_pair({f"{measure}, one-shot": name for measure, name in PRIMARY.items()}, pair)
        elif other.parsed.schedule == "late":
            yield from rows_of_pair(PRIMARY, pair)
            yield from rows_of_pair({"last-layer k-NN accuracy": "knn_accuracy"}, pair, sign=-1)
            right = [labels_of_sets(item.pruned, item.seeds)[0] == early.labels for item in (early, other)]
            for sign, (measure, name) in zip((-1, 1), IMAGE_MEASURES.items()):
                terms = difference(mean_of_networks(name, right[0] & right[1]), pair)
                yield Row(measure, pair[:2], [(sign * weight, *rest) for weight, *rest in terms])


def pies_against_others(claimed: Collection[StoredPopulation]) -> Iterator[Row]:
    """Claim 4: Q-Score and depth of PIEs minus those of other images, in pruned networks."""
    for population in claimed:
        note = "" if has_control(population) else "reference: dense, no finetune-only control"
        if unlike := unlike_dense(population):
            note = f"settings differ from dense: {', '.join(unlike)}"
        for sign, (measure, name) in zip((-1, 1), IMAGE_MEASURES.items()):
            smallest = claims.SMALLEST_IN_DEVIATIONS
            if len(population.seeds) < 2 or not {*population.pruned.ids_of(name)} & {*population.seeds}:
                continue
            for words, controlled in (("", True), (", all", False)):
                sample = pies_minus_others(population, name, controlled)
                terms = [(sign, population.learning_method, sample)]
                yield Row(measure + words, (population,), terms, smallest, controlled and not unlike, note)
        for measure, name in {"AUROC of Q-Score": "auroc_q_score", "AUROC of depth": "auroc_depth"}.items():
            values = values_of_networks(population, name)
            if values:
                beyond_half = uncertainty.of_networks(np.array([*values.values()]) - 0.5, tuple(values))
                yield Row(measure, (population,), [(1, population.learning_method, beyond_half)])


def all_evidence(populations: list[StoredPopulation], controls: list[StoredPopulation] = ()) -> list[dict]:
    """Returns the rows of all claims for `claims.judge`; in each claim the means of measures over their rows
    come last. Rows of populations without common networks are left out.

    Args:
        controls: the finetuned dense networks.
    """
    claimed = [population for population in populations if is_claimed_about(population)]
    beside_control = with_controls(claimed, controls)
    evidence = []
    rows_of_claim = {
        1: contrastive_against_supervised(beside_control, populations),
        2: unique_to_combinations(beside_control.values()),
        3: early_against_others(beside_control.values()),
        4: pies_against_others(beside_control.values()),
    }
    for number, candidates in rows_of_claim.items():
        compared = [
            row._replace(decides=row.decides and claims.MEASURES[number, row.measure].decides)
            for row in candidates
            if row.terms
        ]
        groups = grouped(compared, "measure", "decides").values()
        rows = [evidence_row(number, row) for group in groups for row in group]
        deciding = [row for row in rows if row["decides"]]
        for row, mark in zip(deciding, claims.mark_rows(deciding)):
            row["mark"] = mark
        means = [mean_row(number, group) for group in groups]
        evidence += [*rows, *filter(None, means)]
    return evidence


def evidence_row(number: int, row: Row) -> dict:
    """Returns a difference with its interval."""
    estimate = row.terms if isinstance(row.terms, dict) else uncertainty.combine(row.terms)
    about = {
        "claim": number,
        "measure": row.measure,
        "decides": row.decides,
        "is_mean": False,
        "comparison": " against ".join(population.method for population in row.compared),
        "sparsity": row.compared[0].sparsity,
    }
    return about | estimate | {"smallest": row.smallest, "mark": "", "note": row.note}


def mean_row(number: int, rows: list[Row]) -> dict | None:
    """Returns the plain mean over the rows of a measure with its interval; None for similarities."""
    if isinstance(rows[0].terms, dict):
        return None
    terms = [(weight / len(rows), *rest) for row in rows for weight, *rest in row.terms]
    smallest = float(np.mean([row.smallest for row in rows]))
    mean = rows[0]._replace(terms=terms, smallest=smallest, note="")
    columns = {"is_mean": True, "comparison": f"mean of {len(rows)}", "sparsity": math.nan}
    return evidence_row(number, mean) | columns
