"""Two runs side by side: the same methods and sparsities under other settings, data or seeds. K networks, N
images, S sets of seeds."""

import json
from dataclasses import dataclass
from functools import partial

import numpy as np

from common.cli import UserError
from common.store.files import differences
from figures.report import contents, evidence, uncertainty
from figures.report.claims import either
from figures.report.contents import Picture
from figures.report.evidence import Compared
from figures.report.read import Combination
from figures.report.uncertainty import independent_difference

MEASURES = {  # name -> title, what is shown is times this, with so many decimals
    "accuracy": ("test accuracy (%)", 100, 2),
    "pies": ("PIEs (images)", 1, 0),
    "excess": ("PIEs beyond the noise floor, between halves of the seeds (images)", 1, 0),
    "q_score": ("mean Q-Score of all test images", 1, 3),
    "depth": ("mean prediction depth of all test images (places)", 1, 2),
    "overlap": ("Jaccard similarity of the PIE sets", 1, 3),
}
CURVES = ("accuracy", "pies", "excess")
CHANGED = ("learning_method", "pruning_method", "sparsities", "setting", "first", "second")


@dataclass(frozen=True)
class Pair:
    """One learning method, pruning method and sparsity in both runs, with equally many seeds of each; paired:
    they are the same ones."""

    populations: tuple[Compared, Compared]
    seeds: tuple[tuple[int, ...], tuple[int, ...]]
    paired: bool

    @property
    def models(self) -> int:
        return len(self.seeds[0])

    @property
    def same_images(self) -> bool:
        """Whether both were tested on the same images."""
        return len({each.made["data"] for each in self.populations}) == 1


@dataclass(frozen=True)
class Report:
    """Two runs side by side: their names, rows of `changed` and `compare`, what only one has, in words, and
    pictures."""

    names: tuple[str, str]
    changed: list[dict]
    rows: list[dict]
    alone: list[str]
    pictures: list[Picture]


def collect(first: list[Combination], second: list[Combination], names: tuple[str, str]) -> Report:
    """The report on the stored populations of two runs.

    Raises:
        UserError: they have nothing in common.
    """
    runs, both = (first, second), []
    for stored in runs:
        both.append(evidence.read_compared([each for each in stored if each.is_pruned]))
    compared = [each for each, _ in both]
    shared_pairs = pairs(*compared)
    if all(pair.populations[0].pruning_method == "dense" for pair in shared_pairs):
        raise UserError(
            f"--against: {names[0]} and {names[1]} have no learning method, pruning method and sparsity in "
            "common of which everything is stored; run the PIE scripts for one in both"
        )
    labels = [[population.label for population in each] for each in compared]
    alone = [
        f"Only in {name}: {', '.join(own)}."
        for name, mine, other in zip(names, labels, labels[::-1])
        if (own := [label for label in mine if label not in other])
    ]
    missing = [f"{name}: {text}." for name, (_, texts) in zip(names, both) for text in texts]
    pictures = curves(*compared, names)
    return Report(names, changed(*runs), compare(shared_pairs), alone + missing, pictures)


def pairs(first: list[Compared], second: list[Compared]) -> list[Pair]:
    """What both runs have."""
    others = {tuple(each.facts.values()): each for each in evidence.with_dense(second)}
    known = [(each, others.get(tuple(each.facts.values()))) for each in evidence.with_dense(first)]
    return [pair_of(each, other) for each, other in known if other is not None]


def pair_of(first: Compared, second: Compared) -> Pair:
    """Networks are paired where the smaller population's seeds are among the larger one's."""
    both, ids = (first, second), [set(each.seeds) for each in (first, second)]
    trained = [set(json.loads(str(each.arrays["runs"]))["seeds"]) for each in both]
    shared = [sets[0] & sets[1] for sets in (ids, trained)]
    if all(len(common) == min(map(len, sets)) for common, sets in zip(shared, (ids, trained))):
        seeds = tuple(sorted(shared[0]))
        return Pair(both, (seeds, seeds), True)
    fewest = min(map(len, ids))
    return Pair(both, tuple(each.seeds[:fewest] for each in both), False)


def changed(first: list[Combination], second: list[Combination]) -> list[dict]:
    """Settings and data in which the runs differ: rows of learning and pruning method, sparsities, setting,
    and its value in both; one row for all sparsities that differ alike. Those of the dense networks that
    pruned ones come from stand with the dense ones."""
    others, rows = {tuple(each.facts.values()): each for each in second}, {}
    for population in first:
        other = others.get(tuple(population.facts.values()))
        if other is None:
            continue
        facts = [facts_of(each) for each in (population, other)]
        for key, values in differences(*facts).items():
            if key.startswith("dense."):
                continue  # said of the dense networks
            name = population.learning_method, population.pruning_method, key, *map(str, values)
            rows.setdefault(name, []).append(f"{100 * population.sparsity:g}")
    titles = ("learning_method", "pruning_method", "setting", "first", "second")
    return [dict(zip(titles, name)) | {"sparsities": ", ".join(each)} for name, each in rows.items()]


def facts_of(population: Combination) -> dict:
    """Settings of training, data, number and days of the networks."""
    arrays = population.arrays
    made = json.loads(str(arrays["runs"]))
    return json.loads(str(arrays.get("settings", "{}"))) | {
        "data": population.made["data"][:12],
        "networks": len(arrays["ids"]),
        "architecture": str(arrays["architecture"]),
        "days": " to ".join(dict.fromkeys(made["days"][:1] + made["days"][-1:])),
    }


def compare(all_pairs: list[Pair]) -> list[dict]:
    """Rows of method, sparsity, models, paired, measure, first, second, and the difference first minus
    second with its interval; of `overlap` the similarity itself and what random sets of these sizes have."""
    return [
        pair.populations[0].facts | {"measure": measure, "models": pair.models, "paired": pair.paired} | row
        for pair in all_pairs
        for measure in MEASURES
        for row in [compare_pair(pair, measure)]
        if row
    ]


def compare_pair(pair: Pair, measure: str) -> dict | None:
    """One measure of both; None where it is not stored, or says nothing."""
    if pair.populations[0].pruning_method == "dense" and measure not in ("accuracy", "q_score"):
        return None
    if measure == "overlap":
        return overlap(pair) if pair.same_images else None
    both = list(zip(pair.populations, pair.seeds))
    estimator = partial(uncertainty.half_sampled, seeds=pair.models)
    if measure == "pies":
        first, second = (evidence.pies(*each).sum(1) for each in both)
    elif measure == "excess":
        if pair.models < 2:
            return None
        estimator = partial(uncertainty.jackknifed, seeds=pair.models)
        halves = (evidence.between_halves(*each) for each in both)
        first, second = ((each["pruned"] - each["floor"]).mean(1) for each in halves)
    else:
        means, estimator = (
            [evidence.seed_by_seed(each, measure) for each, _ in both],
            uncertainty.mean_estimate,
        )
        known = [[seed for seed in seeds if seed in mean] for mean, seeds in zip(means, pair.seeds)]
        if pair.paired:  # of depth fewer networks may be known
            known = [[seed for seed in known[0] if seed in known[1]]] * 2
        fewest = min(map(len, known))
        if not fewest:
            return None
        first, second = (np.array([mean[seed] for seed in ids[:fewest]]) for mean, ids in zip(means, known))
    estimates = [estimator(each) for each in (first, second)]
    difference = estimator(first - second) if pair.paired else independent_difference(*estimates)
    return {"first": estimates[0]["value"], "second": estimates[1]["value"], **difference}


def overlap(pair: Pair) -> dict:
    """The Jaccard similarity of both PIE sets, with its interval, beside that of random sets."""
    first, second = (evidence.pies(*each) for each in zip(pair.populations, pair.seeds))
    if not pair.paired:  # seeds that have nothing to do with one another
        second[1:] = second[1 + uncertainty.reordered(len(second) - 1, 1)]
    return evidence.overlap(first, second, pair.models)


def curves(first: list[Compared], second: list[Compared], names: tuple[str, str]) -> list[Picture]:
    """Accuracy, PIEs and what is beyond the floor against sparsity, of both runs."""
    rows = [
        row | {"run": name}
        for compared, name in zip((first, second), names)
        for row in evidence.populations(compared)
    ]
    pictures = []
    for measure in CURVES:
        title, heading = MEASURES[measure][0], " against ".join(names)
        caption = "Of both runs, each with all its networks. Bars: 95 % intervals."
        picture = contents.against_sparsity(first, rows, measure, title[0].upper() + title[1:], caption)
        models = either(len(each.seeds) for each in (*first, *second))
        picture.arrays["title"] = f"{heading} · {title} · {models} models of each combination"
        pictures.append(picture)
    return pictures
