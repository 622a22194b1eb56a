"""Comparisons across learning methods, pruning methods and sparsities, from the arrays in one data set's folder of results alone.

Each function returns the rows of a table and the arrays of figures (kinds of common/plots.py).
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.cli import UserError
from common.store import results
from figures.report import similarity

SIGNIFICANT = 0.05
Comparison = tuple[list[dict], dict[str, dict]]  # rows of a table; name -> arrays of a figure


@dataclass(frozen=True)
class Combination:
    """One pruned population: its stored arrays, as the PIE scripts left them in pies_distribution/, and where they lie."""

    arrays: dict
    folder: Path  # RESULTS/METHOD

    @property
    def key(self) -> tuple[str, str, float]:
        return (
            str(self.arrays["learning_method"]),
            str(self.arrays["pruning_method"]),
            float(self.arrays["sparsity"]),
        )

    @property
    def label(self) -> str:
        return "{} {} {:g}".format(*self.key)

    @property
    def facts(self) -> dict:
        return dict(zip(results.KEY_COLUMNS, self.key))


def read_combinations(results_folder: Path) -> list[Combination]:
    """The pruned populations of the table whose arrays are there, in the table's order."""
    rows = {
        row["population"]: index
        for index, row in enumerate(results.read_table(results_folder))
        if row.get("population")
    }
    found = {}
    for path in sorted(results_folder.glob("*/pies_distribution/*.npz")):
        arrays = results.read_arrays(path) or {}
        if str(arrays.get("population")) in rows:
            found[rows[str(arrays["population"])]] = Combination(arrays, path.parent.parent)
    return [combination for _, combination in sorted(found.items(), key=lambda pair: pair[0])]


def compare_all(results_folder: Path) -> dict[str, Comparison]:
    """name -> comparison, for all that the stored arrays allow.

    Raises:
        UserError: arrays of different test images in one folder.
    """
    combinations = read_combinations(results_folder)
    if not combinations:
        return {}
    if len({(json.loads(str(one.arrays["made"]))["data"]) for one in combinations}) > 1:
        raise UserError(
            f"{results_folder} holds results of different versions of the data; run the PIE scripts of both learning methods again"
        )
    comparisons = {"pie_overlap": compare_pies(combinations), "class_recall": compare_recalls(combinations)}
    masks = [(combination, read_masks(combination)) for combination in combinations]
    masks = [(combination, read) for combination, read in masks if read is not None]
    if masks:
        comparisons |= {"mask_similarity": compare_masks(masks), "mask_structure": compare_structure(masks)}
    moved = [combination for combination in combinations if "movement" in combination.arrays]
    if moved:
        comparisons["weight_movement"] = compare_movement(moved)
    return comparisons


def left_out(results_folder: Path) -> list[str]:
    """The pruned populations of the table, and those whose masks, of which not everything is stored, with what to do."""
    combinations = read_combinations(results_folder)
    stored = {combination.key for combination in combinations}
    rows = [
        (row["learning_method"], row["pruning_method"], float(row["sparsity"]))
        for row in results.read_table(results_folder)
        if row["status"] == "present" and row["pruning_method"] != "dense"
    ]
    return [
        *(
            "{} {} {:g}: run its PIE script, without --not_serialize_plots".format(*key)
            for key in rows
            if key not in stored
        ),
        *(
            f"masks of {one.label}: run its PIE script again"
            for one in combinations
            if read_evaluations(one, ("mask_bits", "layers", "layer_shapes")) is None
        ),
    ]


def title(combinations: list[Combination], what: str) -> str:
    """Data set, what is shown, and of how many models."""
    models = sorted({len(combination.arrays["ids"]) for combination in combinations})
    methods_shown = ", ".join(dict.fromkeys(combination.key[0] for combination in combinations))
    networks = ", ".join(
        dict.fromkeys(str(combination.arrays["architecture"]) for combination in combinations)
    )
    return (
        f"{combinations[0].arrays['data_title']} · {methods_shown} · {what} · "
        f"{' or '.join(map(str, models))} models of each combination ({networks})"
    )


def compare_pies(combinations: list[Combination]) -> Comparison:
    """PIE sets of all pairs of combinations; at every sparsity of several, PIEs that only one of them has, in total and per class."""
    is_pie = np.stack([combination.arrays["is_pie"].astype(bool) for combination in combinations])
    overlap = similarity.pie_overlap(is_pie)
    labels = [combination.label for combination in combinations]
    own = [f"{label} ({size})" for label, size in zip(labels, overlap["size"])]
    apart = np.where(np.eye(len(labels), dtype=bool), np.nan, 1)  # a set is no pair with itself
    figures = {
        "pie_overlap": heat_maps(
            title(combinations, "Jaccard similarity of PIE sets, their sizes in brackets"),
            [apart * overlap["jaccard"], apart * overlap["chance_jaccard"]],
            ["measured", "by chance, sets of these sizes"],
            [own] * 2,
            [labels] * 2,
        )
    }
    # Sets of other sparsities of the same method would hide what is unique to the method.
    unique = np.full((len(combinations), 2), np.nan)
    for sparsity in sorted({combination.key[2] for combination in combinations}):
        chosen = [index for index, combination in enumerate(combinations) if combination.key[2] == sparsity]
        if len(chosen) > 1:
            among = similarity.pie_overlap(is_pie[chosen])
            unique[chosen] = np.stack([among["unique"], among["chance_unique"]], 1)
            arrays = combinations[0].arrays
            figures[f"pies_per_class_{sparsity}sparsity"] = {
                "figure": "pies_per_class",
                "class_names": arrays["class_names"],
                "sets": [" ".join(combinations[index].key[:2]) for index in chosen],
                "title": title(
                    [combinations[index] for index in chosen],
                    f"PIEs per class, sparsity {100 * sparsity:g} %",
                ),
                "counts": similarity.common_and_unique_pies(
                    is_pie[chosen], arrays["labels"], len(arrays["class_names"])
                ),
            }
    compared = [index for index in range(len(combinations)) if not np.isnan(unique[index]).all()]
    if compared:
        figures["pies_unique"] = heat_maps(
            title(
                [combinations[index] for index in compared],
                "share of PIEs that no other set of the same sparsity has, sizes of the sets in brackets",
            ),
            [unique[compared]],
            [""],
            [[own[index] for index in compared]],
            [["measured", "by chance"]],
        )
    rows = [
        {
            **one.facts,
            **{f"other_{key}": value for key, value in other.facts.items()},
            "pies": overlap["size"][i],
            "other_pies": overlap["size"][j],
            **{
                key: overlap[key][i, j]
                for key in ("jaccard", "chance_jaccard", "unique_pair", "chance_unique_pair")
            },
            "unique_at_sparsity": unique[i, 0],
            "chance_unique_at_sparsity": unique[i, 1],
        }
        for i, one in enumerate(combinations)
        for j, other in enumerate(combinations)
        if i != j
    ]
    return rows, figures


def compare_recalls(combinations: list[Combination]) -> Comparison:
    """Recall of each class relative to the mean accuracy, pruned against dense, with both tests."""
    names = [str(name) for name in combinations[0].arrays["class_names"]]
    tests = [
        similarity.compare_recalls(
            *(combination.arrays[f"dense_{key}"] for key in ("recall", "accuracy", "ids")),
            *(combination.arrays[key] for key in ("recall", "accuracy", "ids")),
        )
        for combination in combinations
    ]
    rows = [
        {
            **combination.facts,
            "class": name,
            "models": len(combination.arrays["ids"]),
            "dense_models": len(combination.arrays["dense_ids"]),
            "recall": combination.arrays["recall"][:, c].mean(),
            "dense_recall": combination.arrays["dense_recall"][:, c].mean(),
            **{key: test[key][c] for key in ("difference", "welch_p", "paired_p", "paired_p_holm")},
            "paired_models": int(test["paired_models"]),
        }
        for combination, test in zip(combinations, tests)
        for c, name in enumerate(names)
    ]
    marks = [
        [
            f"{round(100 * value, 1) + 0.0:+.1f}" + "*" * bool(p < SIGNIFICANT)
            for value, p in zip(test["difference"], test["paired_p_holm"])
        ]
        for test in tests
    ]
    return rows, {
        "class_recall": heat_maps(
            title(combinations, "recall of each class relative to the mean accuracy, pruned minus dense"),
            [100 * np.stack([test["difference"] for test in tests])],
            [f"percentage points; * paired test, Holm-corrected p < {SIGNIFICANT:g}"],
            [[combination.label for combination in combinations]],
            [names],
            texts=[marks],
            diverging=True,
        )
    }


def read_evaluations(combination: Combination, only: tuple[str, ...], whose: str = "") -> list[dict] | None:
    """The arrays of these names in the stored evaluations of a combination's networks, or with "dense_" of the dense ones; None where not
    all of them are there as they were when the combination was compared."""
    arrays, made = combination.arrays, json.loads(str(combination.arrays["made"]))
    if f"{whose}evaluations" not in arrays:
        return None
    stored = [
        results.read_arrays(combination.folder / "evaluations" / f"{stem}.npz", only=("made", *only))
        for stem in arrays[f"{whose}evaluations"]
    ]
    # Files of other folders may have the same names.
    if any(
        one is None
        or not {"made", *only} <= set(one)
        or "+".join(json.loads(str(one["made"]))["checkpoints"]) != checksum
        for one, checksum in zip(stored, made[f"{whose}checkpoints"])
    ):
        return None
    return stored


def read_masks(combination: Combination) -> dict | None:
    """The masks of a combination's networks: masks (K, n) bool, ids (K,), layers, layer_shapes; None where those of its checkpoints are
    not stored."""
    stored = read_evaluations(combination, ("mask_bits", "layers", "layer_shapes"))
    if stored is None:
        return None
    total = int(stored[0]["layer_shapes"].prod(1).sum())
    return {
        "masks": np.stack([np.unpackbits(one["mask_bits"], count=total).astype(bool) for one in stored]),
        "ids": combination.arrays["ids"],
        "layers": [str(layer) for layer in stored[0]["layers"]],
        "layer_shapes": stored[0]["layer_shapes"],
    }


def same_network(masks: list[tuple[Combination, dict]]) -> list[tuple[Combination, dict]]:
    """Those whose layers are those of the first: masks of other architectures are not compared."""
    return [pair for pair in masks if np.array_equal(pair[1]["layer_shapes"], masks[0][1]["layer_shapes"])]


def compare_masks(masks: list[tuple[Combination, dict]]) -> Comparison:
    """Jaccard similarity of kept weights of all pairs of combinations, of the same seed and of different seeds, per layer and in total."""
    masks = same_network(masks)
    combinations, layers = [combination for combination, _ in masks], [*masks[0][1]["layers"], "total"]
    sizes = [int(size) for size in masks[0][1]["layer_shapes"].prod(1)]
    found = similarity.mask_similarity(
        np.concatenate([one["masks"] for _, one in masks]),
        sizes,
        np.concatenate([np.full(len(one["ids"]), g) for g, (_, one) in enumerate(masks)]),
        np.concatenate([one["ids"] for _, one in masks]),
    )
    rows = []
    for i, one in enumerate(combinations):
        for j, other in enumerate(combinations[i:], i):
            for seeds, values, pairs in (
                ("same", found.same, found.same_pairs),
                ("different", found.different, found.different_pairs),
            ):
                for index, layer in enumerate(layers if pairs[i, j] else []):
                    rows.append(
                        {
                            **one.facts,
                            **{f"other_{key}": value for key, value in other.facts.items()},
                            "seeds": seeds,
                            "layer": layer,
                            "pairs": int(pairs[i, j] / (2 if i == j else 1)),
                            "jaccard": values[i, j, index],
                            "chance": found.chance[i, j, index],
                            "chance_by_layer": found.chance_by_layer[i, j] if layer == "total" else None,
                        }
                    )
    labels = [combination.label for combination in combinations]
    return rows, {
        "mask_similarity": heat_maps(
            title(combinations, "Jaccard similarity of kept weights, all layers"),
            [found.same[..., -1], found.different[..., -1], found.chance[..., -1], found.chance_by_layer],
            [
                "networks of the same seed",
                "networks of different seeds",
                "random masks, d d' / (d + d' - d d')",
                "random masks of the same density in each layer",
            ],
            [labels] * 4,
            [labels] * 4,
        ),
        "mask_similarity_layers": heat_maps(
            title(
                combinations,
                "Jaccard similarity of kept weights, networks of one combination and different seeds",
            ),
            [np.einsum("ggl->gl", found.different), np.einsum("ggl->gl", found.chance)],
            ["measured", "random masks, d / (2 - d)"],
            [labels] * 2,
            [[short_layer(layer) for layer in layers]] * 2,
        ),
    }


def compare_structure(masks: list[tuple[Combination, dict]]) -> Comparison:
    """Filters and input channels of convolutions that are wholly zero, beside random masks of the same density in each layer."""
    masks = same_network(masks)
    combinations, shapes = [combination for combination, _ in masks], masks[0][1]["layer_shapes"]
    bounds = np.cumsum([0, *shapes.prod(1)])
    convolutions = [index for index, layer in enumerate(masks[0][1]["layers"]) if not layer.startswith("fc.")]
    names = [short_layer(masks[0][1]["layers"][index]) for index in convolutions]
    values = np.zeros(
        (4, len(masks), len(convolutions))
    )  # filters, filters by chance, channels, channels by chance
    for g, (_, one) in enumerate(masks):
        for column, index in enumerate(convolutions):
            for network in one["masks"]:
                mask = network[bounds[index] : bounds[index + 1]].reshape(shapes[index])
                zeros = int((~mask).sum())
                chance = [
                    similarity.chance_zero_share(mask.size, zeros, mask.size // parts)
                    for parts in mask.shape[:2]
                ]
                filters, channels = similarity.zero_shares(mask)
                values[:, g, column] += np.array([filters, chance[0], channels, chance[1]]) / len(
                    one["masks"]
                )
    rows = [
        {
            **combination.facts,
            "layer": masks[0][1]["layers"][index],
            "filters_zero": values[0, g, column],
            "filters_zero_by_chance": values[1, g, column],
            "input_channels_zero": values[2, g, column],
            "input_channels_zero_by_chance": values[3, g, column],
        }
        for g, combination in enumerate(combinations)
        for column, index in enumerate(convolutions)
    ]
    labels = [combination.label for combination in combinations]
    return rows, {
        "mask_structure": heat_maps(
            title(combinations, "share of wholly zero filters and input channels (%)"),
            list(100 * values),
            ["filters", "filters, random masks", "input channels", "input channels, random masks"],
            [labels] * 4,
            [names] * 4,
            decimals=0,
        )
    }


def compare_movement(combinations: list[Combination]) -> Comparison:
    """How far kept weights moved in the training after each pruning, relative to their size before it; means over the networks."""
    layers = list(
        dict.fromkeys(
            str(layer) for combination in combinations for layer in combination.arrays["movement_layers"]
        )
    )
    values = np.full((len(combinations), len(layers)), math.nan)
    for g, combination in enumerate(combinations):
        for layer, mean in zip(combination.arrays["movement_layers"], combination.arrays["movement"].mean(0)):
            values[g, layers.index(str(layer))] = mean
    rows = [
        {**combination.facts, "layer": layer, "movement": values[g, column]}
        for g, combination in enumerate(combinations)
        for column, layer in enumerate(layers)
        if not math.isnan(values[g, column])
    ]
    names = [short_layer(layer) for layer in layers]
    return rows, {
        "weight_movement": heat_maps(
            title(combinations, "change of kept weights from the network that was pruned to the trained one"),
            [values],
            ["root mean square change over root mean square weight"],
            [[combination.label for combination in combinations]],
            [names],
        )
    }


def short_layer(layer: str) -> str:
    """`block1.layer.0.convShortcut.weight` -> `block1.0.shortcut`."""
    return layer.removesuffix(".weight").replace(".layer", "").replace("convShortcut", "shortcut")


def heat_maps(
    title: str,
    panels: list[np.ndarray],
    panel_titles: list[str],
    row_names: list[list[str]],
    column_names: list[list[str]],
    texts: list[list[list[str]]] | None = None,
    diverging: bool = False,
    decimals: int = 2,
) -> dict:
    """The arrays of a figure of heat maps."""
    arrays = {"figure": "heat_maps", "title": title, "panel_titles": panel_titles, "diverging": diverging}
    for index, (panel, rows, columns) in enumerate(zip(panels, row_names, column_names)):
        shown = (
            texts[index]
            if texts
            else [["" if math.isnan(value) else f"{value:.{decimals}f}" for value in row] for row in panel]
        )
        arrays |= {
            f"panel_{index}": panel,
            f"rows_{index}": rows,
            f"columns_{index}": columns,
            f"texts_{index}": shown,
        }
    return arrays
