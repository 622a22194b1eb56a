"""Results on other test images beside those on the clean ones, of the same networks."""

import json
from dataclasses import replace

import numpy as np

from common.cli import UserError
from common.corruptions import CORRUPTIONS
from figures.report import evidence, uncertainty
from figures.report.evidence import Compared
from figures.report.read import in_order, read_populations

SAME = ("checkpoints", "dense_checkpoints")


def beside_clean(clean: list[Compared]) -> tuple[list[dict], list[str]]:
    """A row for each test set that is stored below the clean results and each population of both, the dense
    ones too; and in words what is left out."""
    known = {tuple(each.facts.values()): each for each in evidence.with_dense(clean)}
    rows, missing = [], []
    for folder in sorted(clean[0].folder.parent.glob("test_sets/[!.]*/")):
        name, others = folder.name, []
        try:
            stored = read_populations(folder)
        except UserError as error:
            missing.append(f"test set {name}: {error}")
            continue
        # Of depths nothing is said here, nor that they are missing.
        pruned = [replace(each, depths={}) for each in stored if each.pruning_method != "dense"]
        compared, not_stored = evidence.read_compared(pruned)
        missing += [f"test set {name}, {text}" for text in not_stored]
        for population in sorted(evidence.with_dense(compared), key=in_order):
            beside = known.get(tuple(population.facts.values()))
            if beside and any(population.made[fact] != beside.made[fact] for fact in SAME):
                others.append(population.label)
            elif beside:
                rows.append(row(name, population, beside))
        if others:
            missing.append(
                f"test set {name}, of other networks than the clean results: {', '.join(others)}; run the PIE "
                "scripts again, with --test_set and without"
            )
    return rows, missing


def row(name: str, population: Compared, clean: Compared) -> dict:
    """Accuracy and PIEs on a test set and on the clean images, with intervals; networks are paired. Of a
    corruption, whose images are the clean ones, also how alike both PIE sets are."""
    both, seeds = (population, clean), population.seeds
    right = [evidence.over_images(each.pruned.predictions == each.labels) for each in both]
    facts = {
        **population.facts,
        "test_set": name,
        "images": len(population.labels),
        "networks": len(population.pruned.ids),
        "command": json.loads(str(population.arrays["runs"]))["analysis"],
        "accuracy": uncertainty.mean_estimate(right[0], (0, 1)),
        "clean_accuracy": uncertainty.mean_estimate(right[1], (0, 1)),
        "difference": uncertainty.mean_estimate(right[0] - right[1], (-1, 1)),
    }
    if population.pruning_method == "dense":
        return facts
    facts |= zip(("pies", "clean_pies"), [evidence.number_of_pies(each, seeds) for each in both])
    if name in CORRUPTIONS and np.array_equal(population.labels, clean.labels):
        facts["jaccard"] = evidence.overlap(*(evidence.pies(each, seeds) for each in both), len(seeds))
    return facts
