"""Results on other test images beside those of the same networks on the clean ones."""

import json
from dataclasses import replace

import numpy as np

from common.cli import UserError
from common.corruptions import CLEAN, CORRUPTIONS
from figures.report import evidence, uncertainty
from figures.report.evidence import Compared
from figures.report.read import SAME, in_order, read_populations


def beside_clean(clean: list[Compared]) -> tuple[list[dict], list[dict], list[str]]:
    """A row for each test set that is stored below the clean results and each population of both, the dense
    ones too; rows of these populations on the clean images; in words what is left out."""
    known = {each.label: each for each in evidence.with_dense(clean)}
    rows, clean_rows, missing = [], {}, []
    for folder in sorted(clean[0].folder.parent.glob("test_sets/[!.]*/")):
        about, others = f"test set {folder.name}", []
        try:
            stored = read_populations(folder)
        except UserError as error:
            missing.append(f"{about}: {error}")
            continue
        # Of depths nothing is said here, nor that they are missing.
        pruned = [replace(each, depths={}) for each in stored if each.pruning_method != "dense"]
        compared, not_stored = evidence.read_compared(pruned)
        missing += [f"{about}, {text}" for text in not_stored]
        for population in sorted(evidence.with_dense(compared), key=in_order):
            label = population.label
            beside = known.get(label)
            if beside and any(population.made[fact] != beside.made[fact] for fact in SAME[:2]):
                others.append(label)
            elif beside:
                if label not in clean_rows:
                    clean_rows[label] = row(CLEAN, beside)
                rows.append(compare(row(folder.name, population), clean_rows[label], population, beside))
        if others:
            missing.append(
                f"{about}, of other networks than the clean results: {', '.join(others)}; run the PIE "
                "scripts again, with --test_set and without"
            )
    return rows, [*clean_rows.values()], missing


def row(name: str, population: Compared) -> dict:
    """Accuracy and PIEs on a test set, with intervals."""
    images = len(population.labels)
    facts = {
        **population.facts,
        "test_set": name,
        "images": images,
        "networks": len(population.pruned.ids),
        "command": json.loads(str(population.arrays["runs"]))["analysis"],
        "accuracy": evidence.accuracy(population.pruned, population.labels),
    }
    if population.pruning_method == "dense":
        return facts
    pies = evidence.number_of_pies(population, population.seeds)
    share = {end: pies[end] / images for end in ("value", "low", "high")}
    return facts | {"pies": pies, "pie_share": share}


def compare(own: dict, clean_row: dict, population: Compared, clean: Compared) -> dict:
    """A row with what the clean one says; accuracy minus the clean one, of the same networks; of a
    corruption, whose images are the clean ones, how alike both PIE sets are."""
    right = [evidence.over_images(each.pruned.predictions == each.labels) for each in (population, clean)]
    found = {f"clean_{name}": clean_row[name] for name in ("accuracy", "pies") if name in clean_row}
    found["difference"] = uncertainty.mean_estimate(right[0] - right[1])
    same_images = own["test_set"] in CORRUPTIONS and np.array_equal(population.labels, clean.labels)
    if same_images and "pies" in own:
        sets = (evidence.pies(each, population.seeds) for each in (population, clean))
        found["jaccard"] = evidence.overlap(*sets, len(population.seeds))
        found["jaccard_chance"] = found["jaccard"]["chance"]
    return own | found
