"""Comparisons across learning methods, pruning methods and sparsities: from stored arrays to rows of tables
and the arrays of figures (kinds of figures/report/plots.py)."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations_with_replacement, permutations

import numpy as np

from common.methods import SMALL
from figures.report import similarity
from figures.report.claims import either
from figures.report.read import Masks, StoredPopulation, read_masks
from figures.report.similarity import Recalls

SIGNIFICANT = 0.05
TOTAL = "total"  # in place of a layer: all together


@dataclass(frozen=True)
class Comparison:
    """rows: of a table; figures: name -> arrays."""

    rows: list[dict]
    figures: dict[str, dict]


def compare_all(populations: list[StoredPopulation], masks: list[Masks]) -> dict[str, Comparison]:
    """name -> comparison, for all that the stored arrays of pruned populations allow."""
    # Masks of other architectures than the first are not compared.
    masks = [each for each in masks if np.array_equal(each.shapes, masks[0].shapes)]
    moved = [each for each in populations if {"movement", "movement_layers"} <= each.arrays.keys()]
    kinds = {
        "pie_overlap": (compare_pies, populations),
        "class_recall": (compare_recalls, populations),
        "mask_similarity": (compare_masks, masks),
        "mask_structure": (compare_structure, masks),
        "weight_movement": (compare_movement, moved),
    }
    return {name: compare(compared) for name, (compare, compared) in kinds.items() if compared}


def read_all_masks(populations: list[StoredPopulation]) -> tuple[list[Masks], list[str]]:
    """The stored masks, and in words those that are missing."""
    stored = {each.label: read_masks(each) for each in populations if each.pruning_method != SMALL}
    missing = [f"masks of {label}: run its PIE script again" for label, masks in stored.items() if not masks]
    return [masks for masks in stored.values() if masks], missing


def title(populations: list[StoredPopulation], shown: str) -> str:
    """Data set, what is shown, and of how many models."""
    models = either(len(population.arrays["ids"]) for population in populations)
    methods = ", ".join(dict.fromkeys(population.learning_method for population in populations))
    networks = ", ".join(dict.fromkeys(each.network for each in populations))
    return (
        f"{populations[0].arrays['data_title']} · {methods} · {shown} · "
        f"{models} models of each combination ({networks})"
    )


def table_rows(
    populations: list[StoredPopulation], axis: str, names: list[str], columns: dict[str, np.ndarray]
) -> list[dict]:
    """Rows of a table, one for each population and name of a layer or class (`axis` says what), of columns
    (G, C), or (G, 1) where a population has one value."""
    values = {
        name: np.broadcast_to(column, (len(populations), len(names))) for name, column in columns.items()
    }
    return [
        {**population.key, axis: name, **{column: each[g, c] for column, each in values.items()}}
        for g, population in enumerate(populations)
        for c, name in enumerate(names)
    ]


def pair_key(population: StoredPopulation, other: StoredPopulation) -> dict:
    """The columns that say which two populations a row is about."""
    return population.key | {f"other_{column}": value for column, value in other.key.items()}


def compare_pies(populations: list[StoredPopulation]) -> Comparison:
    """PIE sets of all pairs of populations; at every sparsity of several, PIEs that only one of them has, in
    total and per class."""
    is_pie = np.stack([population.is_pie for population in populations])
    overlap = similarity.pie_overlap(is_pie)
    sized = [f"{each.label} ({size})" for each, size in zip(populations, overlap["size"])]
    filled = overlap["size"] > 0
    # A set is no pair with itself, and nothing is like an empty one.
    apart = np.where(np.outer(filled, filled) & ~np.eye(len(filled), dtype=bool), 1, np.nan)
    panels = {
        "measured": apart * overlap["jaccard"],
        "by chance, sets of these sizes": apart * overlap["chance_jaccard"],
    }
    shown, names = (
        "Jaccard similarity of PIE sets, their sizes in brackets",
        [each.label for each in populations],
    )
    figures = {
        "pie_overlap": heat_maps(populations, shown, panels, names, "Jaccard similarity") | {"rows": sized}
    }
    # Sets of other sparsities of the same method would hide what is unique to the method.
    unique, compared = np.full((len(populations), 2), np.nan), []
    for sparsity in sorted({population.sparsity for population in populations}):
        places = [index for index, each in enumerate(populations) if each.sparsity == sparsity]
        if len(places) > 1:
            alone = similarity.pie_overlap(is_pie[places])
            unique[places] = np.stack([alone["unique"], alone["chance_unique"]], 1)
            compared += places
            chosen = [populations[index] for index in places]
            figures[f"pies_per_class_{sparsity}sparsity"] = pies_per_class(chosen)
    if compared := sorted(compared):
        shown = "PIEs that no other set of that sparsity has, sizes of the sets in brackets"
        columns = ["measured", "by chance"]
        chosen = [populations[index] for index in compared]
        arrays = heat_maps(chosen, shown, {"": unique[compared]}, columns, "share of the PIEs")
        figures["pies_unique"] = arrays | {"rows": [sized[index] for index in compared]}
    names = ("jaccard", "chance_jaccard", "unique_pair", "chance_unique_pair")
    rows = [
        {
            **pair_key(populations[i], populations[j]),
            "pies": overlap["size"][i],
            "other_pies": overlap["size"][j],
            **{name: overlap[name][i, j] for name in names},
            **dict(zip(("unique_at_sparsity", "chance_unique_at_sparsity"), unique[i])),
        }
        for i, j in permutations(range(len(populations)), 2)
    ]
    return Comparison(rows, figures)


def pies_per_class(populations: list[StoredPopulation]) -> dict:
    """The arrays of the figure of PIEs per class, of populations of one sparsity."""
    names, is_pie = populations[0].class_names, np.stack([each.is_pie for each in populations])
    return {
        "figure": "pies_per_class",
        "class_names": names,
        "sets": [population.method for population in populations],
        "title": title(populations, f"PIEs per class, sparsity {100 * populations[0].sparsity:g} %"),
        "counts": similarity.common_and_unique_pies(is_pie, populations[0].labels, len(names)),
    }


def compare_recalls(populations: list[StoredPopulation]) -> Comparison:
    """Recall of each class relative to the mean accuracy, pruned against dense, with both tests."""
    names, pairs = ("recall", "accuracy", "ids"), []
    for prefix in ("", "dense_"):
        pairs.append([Recalls(*(each.arrays[prefix + name] for name in names)) for each in populations])
    tests = [similarity.compare_recalls(dense, pruned) for pruned, dense in zip(*pairs)]
    columns = {
        "models": [[len(each.ids)] for each in pairs[0]],
        "dense_models": [[len(each.ids)] for each in pairs[1]],
        "recall": [each.recall.mean(0) for each in pairs[0]],
        "dense_recall": [each.recall.mean(0) for each in pairs[1]],
    }
    for key in ("difference", "welch_p", "paired_p", "paired_p_holm"):
        columns[key] = np.stack([test[key] for test in tests])
    columns["paired_models"] = [[test["paired_models"]] for test in tests]
    classes, difference = populations[0].class_names, 100 * columns["difference"]
    figure = heat_maps(
        populations,
        "recall per class relative to the mean accuracy, pruned minus dense",
        {f"* paired test, Holm-corrected p < {SIGNIFICANT:g}": difference},
        classes,
        "recall minus accuracy, pruned minus dense (percentage points)",
    )
    marks = [
        [f"{round(value, 1) + 0.0:+.1f}{'*' * bool(p < SIGNIFICANT)}" for value, p in zip(*each)]
        for each in zip(difference, columns["paired_p_holm"])
    ]
    figure |= {"texts": [marks], "diverging": True, "xlabel": "true class"}
    return Comparison(table_rows(populations, "class", classes, columns), {"class_recall": figure})


def compare_masks(masks: list[Masks]) -> Comparison:
    """Jaccard similarity of kept weights of all pairs of populations, of the same seed and of different
    seeds, per layer and in total."""
    populations, layers = [each.population for each in masks], [*masks[0].layers, TOTAL]
    alike = similarity.mask_similarity(
        np.concatenate([each.kept for each in masks]),
        [int(size) for size in masks[0].shapes.prod(1)],
        np.repeat(range(len(masks)), [len(each.kept) for each in masks]),
        np.concatenate([population.arrays["ids"] for population in populations]),
    )
    rows = [
        {
            **pair_key(populations[i], populations[j]),
            "seeds": seeds,
            "layer": layer,
            "pairs": int(pairs[i, j] / (2 if i == j else 1)),
            "jaccard": values[i, j, index],
            "chance": alike.chance[i, j, index],
            "chance_by_layer": alike.chance_by_layer[i, j] if layer == TOTAL else None,
        }
        for i, j in combinations_with_replacement(range(len(populations)), 2)
        for seeds, values, pairs in (
            ("same", alike.same, alike.same_pairs),
            ("different", alike.different, alike.different_pairs),
        )
        for index, layer in enumerate(layers)
        if pairs[i, j]
    ]
    panels = {
        "networks of the same seed": alike.same[..., -1],
        "networks of different seeds": alike.different[..., -1],
        "random masks, d d' / (d + d' - d d')": alike.chance[..., -1],
        "random masks of the same density in each layer": alike.chance_by_layer,
    }
    labels, quantity = [population.label for population in populations], "Jaccard similarity"
    figure = heat_maps(
        populations, "Jaccard similarity of kept weights, all layers", panels, labels, quantity
    )
    by_layer = heat_maps(
        populations,
        "Jaccard similarity of kept weights, networks of one combination and different seeds",
        {
            "measured": np.einsum("ggl->gl", alike.different),
            "random masks, d / (2 - d)": np.einsum("ggl->gl", alike.chance),
        },
        map(short_layer, layers),
        quantity,
    )
    figures = {"mask_similarity": figure, "mask_similarity_layers": by_layer | {"xlabel": "layer"}}
    return Comparison(rows, figures)


def compare_structure(masks: list[Masks]) -> Comparison:
    """Filters and input channels of convolutions that are wholly zero, beside random masks of the same
    density in each layer; means over the networks."""
    layers, shapes = masks[0].layers, masks[0].shapes
    convolutions = [index for index, layer in enumerate(layers) if not layer.startswith("fc.")]

    def shares(mask: np.ndarray) -> list[float]:
        zeros = int((~mask).sum())
        chance = [similarity.chance_zero_share(mask.size, zeros, mask.size // n) for n in mask.shape[:2]]
        filters, channels = similarity.zero_shares(mask)
        return [filters, chance[0], channels, chance[1]]

    panels = {
        "filters": "filters_zero",
        "filters, random masks": "filters_zero_by_chance",
        "input channels": "input_channels_zero",
        "input channels, random masks": "input_channels_zero_by_chance",
    }
    populations, names = [each.population for each in masks], [layers[index] for index in convolutions]
    values = np.zeros((len(panels), len(masks), len(convolutions)))
    for g, each in enumerate(masks):
        by_layer = np.split(each.kept, np.cumsum(shapes.prod(1)), 1)
        for place, index in enumerate(convolutions):
            of_networks = by_layer[index].reshape(-1, *shapes[index])
            values[:, g, place] = np.mean(list(map(shares, of_networks)), 0)
    figure = heat_maps(
        populations,
        "wholly zero filters and input channels",
        dict(zip(panels, 100 * values)),
        map(short_layer, names),
        "share (%)",
        decimals=0,
    )
    rows = table_rows(populations, "layer", names, dict(zip(panels.values(), values)))
    return Comparison(rows, {"mask_structure": figure | {"xlabel": "layer"}})


def compare_movement(populations: list[StoredPopulation]) -> Comparison:
    """How far kept weights moved in the training after each pruning, relative to their size before it; means
    over the networks."""
    means = [
        dict(zip(map(str, each.arrays["movement_layers"]), each.arrays["movement"].mean(0)))
        for each in populations
    ]
    layers = list(dict.fromkeys(layer for each in means for layer in each))
    values = np.array([[each.get(layer, math.nan) for layer in layers] for each in means])
    rows = table_rows(populations, "layer", layers, {"movement": values})
    figure = heat_maps(
        populations,
        "change of kept weights from the network that was pruned to the trained one",
        {"": values},
        map(short_layer, layers),
        "root mean square change over root mean square weight",
    )
    recorded = [row for row in rows if not math.isnan(row["movement"])]
    return Comparison(recorded, {"weight_movement": figure | {"xlabel": "layer"}})


def short_layer(layer: str) -> str:
    """`block1.layer.0.convShortcut.weight` -> `block1.0.shortcut`."""
    return layer.removesuffix(".weight").replace(".layer", "").replace("convShortcut", "shortcut")


def heat_maps(
    populations: list[StoredPopulation],
    shown: str,
    panels: dict[str, np.ndarray],
    columns: Iterable[str],
    quantity: str,
    decimals: int = 2,
) -> dict:
    """The arrays of a figure of heat maps, title -> values (R, C) of a quantity that are written into the
    cells, one row for each population; a dash where there is no value."""

    def cell(value: float) -> str:
        return "–" if math.isnan(value) else f"{value:.{decimals}f}"

    return {
        "figure": "heat_maps",
        "title": title(populations, shown),
        "panels": np.stack(list(panels.values())),
        "panel_titles": list(panels),
        "rows": [population.label for population in populations],
        "columns": list(columns),
        "texts": [[[cell(value) for value in row] for row in panel] for panel in panels.values()],
        "diverging": False,
        "quantity": quantity,
    }
