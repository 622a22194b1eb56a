"""Results on other test images beside those of the same networks on the clean ones."""

from dataclasses import replace

import numpy as np

from common.cli import UserError
from common.corruptions import CLEAN, CORRUPTIONS
from figures.report import evidence
from figures.report.evidence import Pair
from figures.report.read import IDENTITY_KEYS, StoredPopulation, load_outputs, read_populations, sort_key


def beside_clean(clean: list[StoredPopulation]) -> tuple[list[dict], list[dict], list[str]]:
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
        compared, not_stored = load_outputs(pruned)
        missing += [f"{about}, {text}" for text in not_stored]
        for population in sorted(evidence.with_dense(compared), key=sort_key):
            label = population.label
            beside = known.get(label)
            if beside and any(population.made[fact] != beside.made[fact] for fact in IDENTITY_KEYS[:2]):
                others.append(label)
            elif beside:
                if label not in clean_rows:
                    clean_rows[label] = row(CLEAN, beside)
                pair = Pair(population, beside, paired=True)
                rows.append(compare(row(folder.name, population), clean_rows[label], pair))
        if others:
            missing.append(
                f"{about}, of other networks than the clean results: {', '.join(others)}; run the PIE "
                "scripts again, with --test_set and without"
            )
    return rows, [*clean_rows.values()], missing


def row(name: str, population: StoredPopulation) -> dict:
    """Accuracy and PIEs on a test set, with intervals."""
    images = len(population.labels)
    numbers = {
        **population.key,
        "test_set": name,
        "images": images,
        "networks": len(population.pruned.ids),
        "command": population.runs["analysis"],
        "accuracy": evidence.estimate("accuracy", population),
    }
    if population.pruning_method == "dense":
        return numbers
    pies = evidence.estimate("pies", population)
    share = {end: pies[end] / images for end in ("value", "low", "high")}
    return numbers | {"pies": pies, "pie_share": share}


def compare(row: dict, clean_row: dict, pair: Pair) -> dict:
    """A row with what the clean one says; accuracy minus the clean one, of the same networks; of a
    corruption, whose images are the clean ones, how alike both PIE sets are."""
    beside = {f"clean_{name}": clean_row[name] for name in ("accuracy", "pies") if name in clean_row}
    beside["difference"] = evidence.compare("accuracy", pair).difference
    same_images = row["test_set"] in CORRUPTIONS and np.array_equal(pair.first.labels, pair.second.labels)
    if same_images and "pies" in row:
        beside["jaccard"] = evidence.overlap(pair)
        beside["jaccard_chance"] = beside["jaccard"]["chance"]
    return row | beside
