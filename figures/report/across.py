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
from figures.report.read import Combination, Masks, read_masks
from figures.report.similarity import Recalls

SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Comparison:
    """rows: of a table; figures: name -> arrays."""

    rows: list[dict]
    figures: dict[str, dict]


def compare_all(combinations: list[Combination], masks: list[Masks]) -> dict[str, Comparison]:
    """name -> comparison, for all that the stored arrays of pruned populations allow."""
    if not combinations:
        return {}
    comparisons = {"pie_overlap": compare_pies(combinations), "class_recall": compare_recalls(combinations)}
    # Masks of other architectures than the first are not compared.
    masks = [each for each in masks if np.array_equal(each.shapes, masks[0].shapes)]
    if masks:
        comparisons |= {"mask_similarity": compare_masks(masks), "mask_structure": compare_structure(masks)}
    moved = [each for each in combinations if {"movement", "movement_layers"} <= each.arrays.keys()]
    if moved:
        comparisons["weight_movement"] = compare_movement(moved)
    return comparisons


def read_all_masks(combinations: list[Combination]) -> tuple[list[Masks], list[str]]:
    """The stored masks, and in words those that are missing."""
    pruned = [combination for combination in combinations if combination.pruning_method != SMALL]
    stored = {combination.label: read_masks(combination) for combination in pruned}
    missing = [f"masks of {label}: run its PIE script again" for label, masks in stored.items() if not masks]
    return [masks for masks in stored.values() if masks], missing


def title(combinations: list[Combination], shown: str) -> str:
    """Data set, what is shown, and of how many models."""
    models = either(len(combination.arrays["ids"]) for combination in combinations)
    methods = ", ".join(dict.fromkeys(combination.learning_method for combination in combinations))
    networks = ", ".join(dict.fromkeys(each.network for each in combinations))
    return (
        f"{combinations[0].arrays['data_title']} · {methods} · {shown} · "
        f"{models} models of each combination ({networks})"
    )


def pair_facts(combination: Combination, other: Combination) -> dict:
    """The columns that say which two populations a row is about."""
    return combination.facts | {f"other_{column}": value for column, value in other.facts.items()}


def compare_pies(combinations: list[Combination]) -> Comparison:
    """PIE sets of all pairs of combinations; at every sparsity of several, PIEs that only one of them has, in
    total and per class."""
    is_pie = np.stack([combination.is_pie for combination in combinations])
    overlap = similarity.pie_overlap(is_pie)
    sized = [f"{each.label} ({size})" for each, size in zip(combinations, overlap["size"])]
    filled = overlap["size"] > 0
    # A set is no pair with itself, and nothing is like an empty one.
    apart = np.where(np.outer(filled, filled) & ~np.eye(len(filled), dtype=bool), 1, np.nan)
    figures = {
        "pie_overlap": heat_maps(
            combinations,
            "Jaccard similarity of PIE sets, their sizes in brackets",
            {
                "measured": apart * overlap["jaccard"],
                "by chance, sets of these sizes": apart * overlap["chance_jaccard"],
            },
            [combination.label for combination in combinations],
            "Jaccard similarity",
        )
        | {"rows": sized}
    }
    # Sets of other sparsities of the same method would hide what is unique to the method.
    unique, compared = np.full((len(combinations), 2), np.nan), []
    for sparsity in sorted({combination.sparsity for combination in combinations}):
        places = [index for index, each in enumerate(combinations) if each.sparsity == sparsity]
        if len(places) > 1:
            alone = similarity.pie_overlap(is_pie[places])
            unique[places] = np.stack([alone["unique"], alone["chance_unique"]], 1)
            compared += places
            chosen = [combinations[index] for index in places]
            figures[f"pies_per_class_{sparsity}sparsity"] = pies_per_class(chosen)
    if compared := sorted(compared):
        figures["pies_unique"] = heat_maps(
            [combinations[index] for index in compared],
            "PIEs that no other set of that sparsity has, sizes of the sets in brackets",
            {"": unique[compared]},
            ["measured", "by chance"],
            "share of the PIEs",
        ) | {"rows": [sized[index] for index in compared]}
    names = ("jaccard", "chance_jaccard", "unique_pair", "chance_unique_pair")
    rows = [
        {
            **pair_facts(combinations[i], combinations[j]),
            "pies": overlap["size"][i],
            "other_pies": overlap["size"][j],
            **{name: overlap[name][i, j] for name in names},
            **dict(zip(("unique_at_sparsity", "chance_unique_at_sparsity"), unique[i])),
        }
        for i, j in permutations(range(len(combinations)), 2)
    ]
    return Comparison(rows, figures)


def pies_per_class(combinations: list[Combination]) -> dict:
    """The arrays of the figure of PIEs per class, of combinations of one sparsity."""
    names, is_pie = combinations[0].class_names, np.stack([each.is_pie for each in combinations])
    sparsity = f"PIEs per class, sparsity {100 * combinations[0].sparsity:g} %"
    return {
        "figure": "pies_per_class",
        "class_names": names,
        "sets": [combination.method for combination in combinations],
        "title": title(combinations, sparsity),
        "counts": similarity.common_and_unique_pies(is_pie, combinations[0].arrays["labels"], len(names)),
    }


def compare_recalls(combinations: list[Combination]) -> Comparison:
    """Recall of each class relative to the mean accuracy, pruned against dense, with both tests."""
    names = combinations[0].class_names
    rows, differences, marks = [], [], []
    for combination in combinations:
        dense, pruned = (
            Recalls(*(combination.arrays[f"{prefix}{name}"] for name in ("recall", "accuracy", "ids")))
            for prefix in ("dense_", "")
        )
        test = similarity.compare_recalls(dense, pruned)
        rows += [
            {
                **combination.facts,
                "class": name,
                "models": len(pruned.ids),
                "dense_models": len(dense.ids),
                "recall": pruned.recall[:, c].mean(),
                "dense_recall": dense.recall[:, c].mean(),
                **{key: test[key][c] for key in ("difference", "welch_p", "paired_p", "paired_p_holm")},
                "paired_models": int(test["paired_models"]),
            }
            for c, name in enumerate(names)
        ]
        differences.append(100 * test["difference"])
        stars = ["*" * bool(p < SIGNIFICANT) for p in test["paired_p_holm"]]
        marks.append([f"{round(each, 1) + 0.0:+.1f}{star}" for each, star in zip(differences[-1], stars)])
    figure = heat_maps(
        combinations,
        "recall per class relative to the mean accuracy, pruned minus dense",
        {f"* paired test, Holm-corrected p < {SIGNIFICANT:g}": np.stack(differences)},
        names,
        "recall minus accuracy, pruned minus dense (percentage points)",
    )
    figure |= {"texts": [marks], "diverging": True, "xlabel": "true class"}
    return Comparison(rows, {"class_recall": figure})


def compare_masks(masks: list[Masks]) -> Comparison:
    """Jaccard similarity of kept weights of all pairs of combinations, of the same seed and of different
    seeds, per layer and in total."""
    combinations, layers = [each.population for each in masks], [*masks[0].layers, "total"]
    alike = similarity.mask_similarity(
        np.concatenate([each.kept for each in masks]),
        [int(size) for size in masks[0].shapes.prod(1)],
        np.repeat(range(len(masks)), [len(each.kept) for each in masks]),
        np.concatenate([combination.arrays["ids"] for combination in combinations]),
    )
    rows = [
        {
            **pair_facts(combinations[i], combinations[j]),
            "seeds": seeds,
            "layer": layer,
            "pairs": int(pairs[i, j] / (2 if i == j else 1)),
            "jaccard": values[i, j, index],
            "chance": alike.chance[i, j, index],
            "chance_by_layer": alike.chance_by_layer[i, j] if layer == "total" else None,
        }
        for i, j in combinations_with_replacement(range(len(combinations)), 2)
        for seeds, values, pairs in (
            ("same", alike.same, alike.same_pairs),
            ("different", alike.different, alike.different_pairs),
        )
        for index, layer in enumerate(layers)
        if pairs[i, j]
    ]
    in_total = heat_maps(
        combinations,
        "Jaccard similarity of kept weights, all layers",
        {
            "networks of the same seed": alike.same[..., -1],
            "networks of different seeds": alike.different[..., -1],
            "random masks, d d' / (d + d' - d d')": alike.chance[..., -1],
            "random masks of the same density in each layer": alike.chance_by_layer,
        },
        [combination.label for combination in combinations],
        "Jaccard similarity",
    )
    by_layer = heat_maps(
        combinations,
        "Jaccard similarity of kept weights, networks of one combination and different seeds",
        {
            "measured": np.einsum("ggl->gl", alike.different),
            "random masks, d / (2 - d)": np.einsum("ggl->gl", alike.chance),
        },
        map(short_layer, layers),
        "Jaccard similarity",
    )
    figures = {"mask_similarity": in_total, "mask_similarity_layers": by_layer | {"xlabel": "layer"}}
    return Comparison(rows, figures)


def compare_structure(masks: list[Masks]) -> Comparison:
    """Filters and input channels of convolutions that are wholly zero, beside random masks of the same
    density in each layer; means over the networks."""
    combinations, layers, shapes = [each.population for each in masks], masks[0].layers, masks[0].shapes
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
    values, rows = np.zeros((len(panels), len(masks), len(convolutions))), []
    for g, each in enumerate(masks):
        kept = np.split(each.kept, np.cumsum(shapes.prod(1)), 1)
        for place, index in enumerate(convolutions):
            of_networks = kept[index].reshape(-1, *shapes[index])
            values[:, g, place] = np.mean(list(map(shares, of_networks)), 0)
            columns = dict(zip(panels.values(), values[:, g, place]))
            rows.append({**each.population.facts, "layer": layers[index], **columns})
    figure = heat_maps(
        combinations,
        "wholly zero filters and input channels",
        dict(zip(panels, 100 * values)),
        [short_layer(layers[index]) for index in convolutions],
        "share (%)",
        decimals=0,
    )
    return Comparison(rows, {"mask_structure": figure | {"xlabel": "layer"}})


def compare_movement(combinations: list[Combination]) -> Comparison:
    """How far kept weights moved in the training after each pruning, relative to their size before it; means
    over the networks."""
    means = [
        dict(zip(map(str, each.arrays["movement_layers"]), each.arrays["movement"].mean(0)))
        for each in combinations
    ]
    layers = list(dict.fromkeys(layer for each in means for layer in each))
    rows = [
        {**combination.facts, "layer": layer, "movement": each[layer]}
        for combination, each in zip(combinations, means)
        for layer in layers
        if layer in each
    ]
    values = np.array([[each.get(layer, math.nan) for layer in layers] for each in means])
    figure = heat_maps(
        combinations,
        "change of kept weights from the network that was pruned to the trained one",
        {"": values},
        map(short_layer, layers),
        "root mean square change over root mean square weight",
    )
    return Comparison(rows, {"weight_movement": figure | {"xlabel": "layer"}})


def short_layer(layer: str) -> str:
    """`block1.layer.0.convShortcut.weight` -> `block1.0.shortcut`."""
    return layer.removesuffix(".weight").replace(".layer", "").replace("convShortcut", "shortcut")


def heat_maps(
    combinations: list[Combination],
    shown: str,
    panels: dict[str, np.ndarray],
    columns: Iterable[str],
    quantity: str,
    decimals: int = 2,
) -> dict:
    """The arrays of a figure of heat maps, title -> values (R, C) of a quantity that are written into the
    cells, one row for each combination; a dash where there is no value."""

    def cell(value: float) -> str:
        return "–" if math.isnan(value) else f"{value:.{decimals}f}"

    return {
        "figure": "heat_maps",
        "title": title(combinations, shown),
        "panels": np.stack(list(panels.values())),
        "panel_titles": list(panels),
        "rows": [combination.label for combination in combinations],
        "columns": list(columns),
        "texts": [[[cell(value) for value in row] for row in panel] for panel in panels.values()],
        "diverging": False,
        "quantity": quantity,
    }
