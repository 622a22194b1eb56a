"""Compares results on alternative test sets with those of the same networks on the clean images."""

from dataclasses import replace

import numpy as np

from common.cli import UserError
from common.corruptions import CLEAN, CORRUPTIONS
from figures.report import measures, uncertainty
from figures.report.measures import Pair
from figures.report.read import (
    IDENTITY_KEYS,
    StoredPopulation,
    load_outputs,
    read_populations,
    sort_key,
    with_dense,
)


def beside_clean(clean: list[StoredPopulation]) -> tuple[list[dict], list[dict], list[str]]:
    """Returns a row for each test set stored below the clean results and each population of both, including
    the dense ones; rows of these populations on the clean images; and messages on what is left out."""
    clean_populations = {population.label: population for population in with_dense(clean)}
    rows, clean_rows, missing = [], {}, []
    for folder in sorted(clean[0].folder.parent.glob("test_sets/[!.]*/")):
        prefix, mismatches = f"test set {folder.name}", []
        try:
            stored = read_populations(folder)
        except UserError as error:
            missing.append(f"{prefix}: {error}")
            continue
        # Test sets need no depths; {} avoids messages about missing ones.
        pruned = [replace(item, depths={}) for item in stored if item.pruning_method != "dense"]
        compared, not_stored = load_outputs(pruned)
        missing += [f"{prefix}, {text}" for text in not_stored]
        for population in sorted(with_dense(compared), key=sort_key):
            label = population.label
            match = clean_populations.get(label)
            if match and any(population.made[fact] != match.made[fact] for fact in IDENTITY_KEYS[:2]):
                mismatches.append(label)
            elif match:
                if label not in clean_rows:
                    clean_rows[label] = row(CLEAN, match)
                pair = Pair(population, match, paired=True)
                rows.append(compare(row(folder.name, population), clean_rows[label], pair))
            else:
                missing.append(f"{prefix}: clean results of {label}: run its PIE script without --test_set")
        if mismatches:
            missing.append(
                f"{prefix}: the clean results come from different networks: {', '.join(mismatches)}; run the "
                "PIE scripts again, with --test_set and without"
            )
    return rows, [*clean_rows.values()], missing


def row(name: str, population: StoredPopulation) -> dict:
    """Returns accuracy and PIEs on a test set, with intervals."""
    images = len(population.labels)
    numbers = {
        **population.key,
        "test_set": name,
        "images": images,
        "networks": len(population.pruned.ids),
        "command": population.runs["analysis"],
        "accuracy": measures.estimate("accuracy", population),
    }
    if population.pruning_method == "dense":
        return numbers
    pies = measures.estimate("pies", population)
    share = {end: pies[end] / images for end in ("value", "low", "high")}
    return numbers | {"pies": pies, "pie_share": share}


def compare(row: dict, clean_row: dict, pair: Pair) -> dict:
    """Extends a row by the clean accuracy and PIEs, the difference in accuracy of the same networks and, for
    a corruption of the clean images, the similarity of both PIE sets."""
    columns = {f"clean_{name}": clean_row[name] for name in ("accuracy", "pies") if name in clean_row}
    columns["difference"] = uncertainty.combine(measures.difference(measures.STATISTICS["accuracy"], pair))
    same_images = row["test_set"] in CORRUPTIONS and np.array_equal(pair.first.labels, pair.second.labels)
    if same_images and "pies" in row:
        columns["jaccard"] = measures.overlap(pair)
        columns["jaccard_chance"] = columns["jaccard"]["chance"]
    return row | columns
