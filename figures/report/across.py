"""Compares learning methods, pruning methods and sparsities: turns stored arrays into rows of tables and
arrays of figures (kinds of figures/report/plots.py). G populations."""

import math
from collections.abc import Sequence
from itertools import combinations_with_replacement, permutations

import numpy as np

from common.methods import SMALL, with_sparsity
from figures.report import similarity
from figures.report.claims import either
from figures.report.read import Masks, StoredPopulation, grouped, read_masks

SIGNIFICANT = 0.05
TOTAL = "total"  # in place of a layer: all layers together
Comparison = tuple[list[dict], dict | None]  # rows of a table; arrays of its figure, if it is shown


def compare_all(
    populations: list[StoredPopulation],
) -> tuple[dict[str, list[dict]], dict[str, dict], list[str]]:
    """Returns every comparison for which pruned populations have the stored arrays.

    Returns:
        tables (name -> rows); figures (name -> arrays); messages on missing masks.
    """
    stored = {item.label: read_masks(item) for item in populations if item.pruning_method != SMALL}
    missing = [f"masks of {label}: run its PIE script again" for label, masks in stored.items() if not masks]
    masks = [*filter(None, stored.values())]
    # Only masks of the same architecture as the first are compared.
    masks = [item for item in masks if np.array_equal(item.shapes, masks[0].shapes)]
    moved = [item for item in populations if {"movement", "movement_layers"} <= item.arrays.keys()]
    recalled = [item for item in populations if {*item.arrays["ids"]} & {*item.arrays["dense_ids"]}]
    kinds = {
        "pie_overlap": (pie_overlaps, populations),
        "class_recall": (recall_changes, recalled),
        "mask_similarity": (mask_overlaps, masks),
        "weight_movement": (movements, moved),
    }
    measured = {name: measure(sources) for name, (measure, sources) in kinds.items() if sources}
    tables = {name: rows for name, (rows, _) in measured.items()}
    figures = {name: arrays for name, (_, arrays) in measured.items() if arrays}
    for sparsity, chosen in grouped(populations, "sparsity").items():
        if len(chosen) > 1:
            figures[f"pies_per_class_{sparsity}sparsity"] = pies_per_class(chosen)
    return tables, figures, missing


def rows_of(key: dict, axis: str, names: list[str], columns: dict) -> list[dict]:
    """Returns a row for each class or layer (`axis`), but none for those without any value.

    Args:
        key: the first columns of every row; columns: name -> values (C,), or one that all rows share.
    """
    rows = []
    for c, name in enumerate(names):
        cells = {column: np.broadcast_to(values, len(names))[c] for column, values in columns.items()}
        if not np.isnan([*cells.values()]).all():
            rows.append(key | {axis: name} | cells)
    return rows


def title(populations: list[StoredPopulation], shown: str, numbers: Sequence[int] = ()) -> str:
    """Returns a title: what the figure shows, data set and learning methods; below them the numbers of
    networks (default: those of all populations)."""
    number = either(numbers or (len(population.arrays["ids"]) for population in populations))
    methods = ", ".join(dict.fromkeys(population.learning_method for population in populations))
    networks = ", ".join(dict.fromkeys(population.network for population in populations))
    source = f"{populations[0].arrays['data_title']} · {methods}"
    return f"{shown} · {source}\n{number} networks of each combination ({networks})"


def pair_key(population: StoredPopulation, other: StoredPopulation) -> dict:
    """Returns the columns that identify the two populations of a row."""
    return population.key | {f"other_{column}": value for column, value in other.key.items()}


def pie_overlaps(populations: list[StoredPopulation]) -> Comparison:
    """Measures the Jaccard similarity of PIE sets for all pairs of populations, and that of random sets."""
    is_pie = np.stack([population.is_pie for population in populations]).astype(float)
    common, size = is_pie @ is_pie.T, is_pie.sum(1).astype(int)
    jaccard = similarity.jaccard(common, size[:, None], size[None])
    chance = [[similarity.expected_jaccard(int(a), int(b), is_pie.shape[1]) for b in size] for a in size]
    rows = [
        {
            **pair_key(populations[i], populations[j]),
            "pies": size[i],
            "other_pies": size[j],
            "jaccard": jaccard[i, j],
            "chance_jaccard": chance[i][j],
        }
        for i, j in permutations(range(len(populations)), 2)
    ]
    return rows, heat_maps(
        populations,
        "Overlap of PIE sets, over chance",
        "Jaccard similarity, times that of random sets of these sizes",
        {"": over_chance(jaccard, np.array(chance), -1)},
    )


def over_chance(measured: np.ndarray, chance: np.ndarray, diagonal: int) -> np.ndarray:
    """Divides similarities (G, G) by those of chance; NaN above this diagonal and where chance gives 0."""
    return measured / np.where(np.tri(len(chance), k=diagonal) * chance > 0, chance, np.nan)


def pies_per_class(populations: list[StoredPopulation]) -> dict:
    """Returns the arrays of the figure of PIEs per class, for populations of one sparsity."""
    names, is_pie = populations[0].class_names, np.stack([item.is_pie for item in populations])
    return {
        "figure": "pies_per_class",
        "class_names": names,
        "sets": [population.method for population in populations],
        "title": title(populations, f"PIEs of each class, {100 * populations[0].sparsity:g} % pruned"),
        "counts": similarity.common_and_unique_pies(is_pie, populations[0].labels, len(names)),
    }


def recall_changes(populations: list[StoredPopulation]) -> Comparison:
    """Compares the recall of each class relative to the mean accuracy, pruned against dense (Hooker et al.
    2019), over the seeds that both have. Like Hooker et al., Welch's test treats networks as independent. The
    paired test compares networks of one seed and is corrected for the number of classes."""
    names = populations[0].class_names
    rows, differences, is_significant = [], [], []
    for population in populations:
        arrays = population.arrays
        shared, *indices = np.intersect1d(arrays["ids"], arrays["dense_ids"], return_indices=True)
        sides = [*zip(("", "dense_"), indices)]
        recalls, accuracies = (
            [arrays[f"{side}{name}"][index] for side, index in sides] for name in ("recall", "accuracy")
        )
        relative = [recall - accuracy.mean() for recall, accuracy in zip(recalls, accuracies)]
        paired_p = similarity.t_test(*relative, paired=True)
        columns = {
            "models": len(shared),
            "recall": recalls[0].mean(0),
            "dense_recall": recalls[1].mean(0),
            "difference": relative[0].mean(0) - relative[1].mean(0),
            "welch_p": similarity.t_test(*relative, paired=False),
            "paired_p": paired_p,
            "paired_p_holm": similarity.holm(paired_p),
        }
        rows += rows_of(population.key, "class", names, columns)
        differences.append(columns["difference"])
        is_significant.append(columns["paired_p_holm"] < SIGNIFICANT)
    panels = {f"* paired test, Holm-corrected p < {SIGNIFICANT:g}": 100 * np.array(differences)}
    return rows, heat_maps(
        populations,
        "Recall of each class relative to the mean accuracy, pruned minus dense",
        "recall minus accuracy, pruned minus dense (percentage points)",
        panels,
        ("class", names),
        is_significant,
    )


def mask_overlaps(masks: list[Masks]) -> Comparison:
    """Measures the Jaccard similarity of kept weights for all pairs of populations, between networks of the
    same seed and of different seeds, per layer and in total."""
    populations = [item.population for item in masks]
    overlaps = similarity.mask_similarity(
        np.concatenate([item.kept for item in masks]),
        [int(size) for size in masks[0].shapes.prod(1)],
        np.repeat(range(len(masks)), [len(item.kept) for item in masks]),
        np.concatenate([population.arrays["ids"] for population in populations]),
    )
    rows, layers = [], [*masks[0].layers, TOTAL]
    for i, j in combinations_with_replacement(range(len(populations)), 2):
        total = np.full(len(layers), np.nan)
        total[-1] = overlaps.chance_by_layer[i, j]
        chance = {"chance": overlaps.chance[i, j], "chance_by_layer": total}
        for seeds in ("same", "different"):
            pairs = int(getattr(overlaps, f"{seeds}_pairs")[i, j] / (2 if i == j else 1))
            if pairs:
                key = pair_key(populations[i], populations[j]) | {"seeds": seeds, "pairs": pairs}
                jaccard = {"jaccard": getattr(overlaps, seeds)[i, j]}
                rows += rows_of(key, "layer", layers, jaccard | chance)
    panels = {
        "networks of the same seed": over_chance(overlaps.same[..., -1], overlaps.chance_by_layer, -1),
        "networks of different seeds": over_chance(overlaps.different[..., -1], overlaps.chance_by_layer, 0),
    }
    return rows, heat_maps(
        populations,
        "Overlap of kept weights, over chance",
        "Jaccard similarity, times that of random masks of the same density in each layer",
        panels,
    )


def movements(populations: list[StoredPopulation]) -> Comparison:
    """Measures how far kept weights moved in the training after pruning, relative to their size before it;
    means over the networks, NaN for layers without a record."""
    means = [
        dict(zip(population.arrays["movement_layers"].tolist(), population.arrays["movement"].mean(0)))
        for population in populations
    ]
    layers = list(dict.fromkeys(layer for mean in means for layer in mean))
    values = np.array([[mean.get(layer, math.nan) for layer in layers] for mean in means])
    rows, weights = [], [not layer.endswith("bias") for layer in layers]
    for population, movement in zip(populations, values):
        rows += rows_of(population.key, "layer", layers, {"movement": movement})
    # Biases move many times as far; they would dominate the colours.
    shown = [short_layer(layer) for layer, is_weight in zip(layers, weights) if is_weight]
    return rows, heat_maps(
        populations,
        "Change of kept weights in the training after pruning",
        "root mean square change over root mean square weight",
        {"": values[:, weights]},
        ("layer", shown),
    )


def short_layer(layer: str) -> str:
    """`block1.layer.0.convShortcut.weight` -> `block1.0.shortcut`."""
    return layer.removesuffix(".weight").replace(".layer", "").replace("convShortcut", "shortcut")


def heat_maps(
    populations: list[StoredPopulation],
    shown: str,
    quantity: str,
    panels: dict[str, np.ndarray],
    axis: tuple[str, list[str]] | None = None,
    stars: list[np.ndarray] | None = None,
) -> dict | None:
    """Returns the arrays of a figure of heat maps, one row per population, with values in the cells (empty
    for NaN); None if most values are 0, or for one population beside itself.

    Args:
        shown: its title; quantity: the label of its colours; panels: title -> (G, C) values; axis: what its C
            columns are, and their names (None: the populations); stars: (G, C) cells with a star, of
            differences.
    """
    decimals, diverging = (2, False) if stars is None else (1, True)
    values = np.stack(list(panels.values())).astype(float)
    defined = np.round(values[np.isfinite(values)], decimals)
    if 2 * np.count_nonzero(defined) <= len(defined) or (axis is None and len(populations) == 1):
        return None
    starred = np.broadcast_to(False if stars is None else stars, values.shape[1:])

    def cell(value: float, star: bool) -> str:
        text = f"{round(value, decimals) + 0.0:{'+' * diverging}.{decimals}f}"
        return "" if math.isnan(value) else text + "*" * bool(star)

    labels = [with_sparsity(item.method, item.sparsity) for item in populations]
    if axis is None:
        axis = "number of the row", [*map(str, range(1, 1 + len(labels)))]
        labels = [f"{label} · {number}" for number, label in zip(axis[1], labels)]
    return {
        "figure": "heat_maps",
        "title": title(populations, shown),
        "panels": values,
        "panel_titles": list(panels),
        "rows": labels,
        "columns": axis[1],
        "texts": [[[*map(cell, *row)] for row in zip(panel, starred)] for panel in values],
        "diverging": diverging,
        "quantity": quantity,
        "xlabel": axis[0],
    }
