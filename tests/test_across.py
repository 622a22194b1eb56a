"""Comparisons across learning methods, pruning methods and sparsities, from a folder of stored arrays made by
hand."""

import csv
import importlib
import itertools
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import scipy.stats
import stored_results
from matplotlib.backends.backend_agg import FigureCanvasAgg
from stored_results import Networks, pruned_populations

from common.cli import UserError
from common.store.files import read_arrays, write_arrays
from common.store.table import KEY_COLUMNS
from figures.report import across, plots, read, similarity

ROOT = Path(__file__).parent.parent
IMAGES, CLASS_NAMES, MODELS = 90, ("cat", "dog", "ship", "truck"), 3
LAYERS = {
    "conv1.weight": (4, 3, 3, 3),
    "block1.layer.0.conv1.weight": (5, 4, 3, 3),
    "block1.layer.0.convShortcut.weight": (5, 4, 1, 1),
    "fc.weight": (4, 5),
    "fc.bias": (4,),
}
SMALL = [
    ("SupCon", "global", 0.5),
    ("SupCon", "global", 0.9),
    ("SupCon", "GMP", 0.5),
    ("supervised", "global", 0.5),
    ("supervised", "global", 0.9),
    ("supervised", "later_GMP", 0.7),
]  # in the table's order
PUBLISHED = [
    (learning, pruning, sparsity)
    for learning in ("SupCon", "supervised")
    for pruning, sparsities in (
        ("global", (0.3, 0.5, 0.7, 0.9, 0.95)),
        ("GMP", (0.3, 0.5, 0.7, 0.9)),
        ("later_GMP", (0.3, 0.5, 0.7, 0.9)),
    )
    for sparsity in sparsities
]
LONG = [
    (learning, pruning, sparsity)
    for learning in ("SupCon", "supervised")
    for pruning in (
        "global_magnitude_increase_iterative0.2_rewind0",
        "GMP_global_magnitude_increase",
        "filter_linf_iterative0.2_finetune",
    )
    for sparsity in (0.5, 0.9024)
]


def labels_of_images():
    return np.random.default_rng(7).integers(0, len(CLASS_NAMES), IMAGES)


DATA = stored_results.Data(
    "few digits", np.zeros((IMAGES, 3, 2, 2), np.uint8), labels_of_images(), CLASS_NAMES
)


def networks_of(key, ids, layers=LAYERS, architecture="WideResNet-10-1"):
    """Networks with their masks and, layer by layer, how far their weights moved."""
    rng = np.random.default_rng(stored_results.seeds_of(key))
    masks, movements = [], []
    for model_id in ids:
        masks.append({layer: rng.random(shape) >= key[2] for layer, shape in layers.items()})
        masks[-1][next(iter(layers))][rng.integers(4)] = False  # a filter is wholly zero
        masks[-1]["fc.bias"][0] = key[2] < 1  # something is kept of the smallest layer
        movements.append({layer: float(rng.random()) for layer in layers})
    right = rng.random((len(ids), IMAGES)) < 0.8 - 0.3 * key[2]
    predictions = np.where(right, DATA.labels, rng.integers(0, len(CLASS_NAMES), right.shape))
    return Networks(key, list(ids), predictions.astype(np.int16), architecture), masks, movements


def write_combination(
    folder, key, layers=LAYERS, ids=tuple(range(MODELS)), with_masks=True, with_movement=True, data=DATA,
    images=None, architecture="WideResNet-10-1",
):  # fmt: skip
    """Stores a population, and its dense one, as the PIE script does; returns what they were made of."""
    pruned, masks, movements = networks_of(key, ids, layers, architecture)
    dense, _, _ = networks_of((key[0], "dense", 0.0), range(MODELS), layers)
    is_pie = np.random.default_rng([*stored_results.seeds_of(key), 1]).random(IMAGES) < 0.1 + 0.3 * key[2]
    is_pie = is_pie if images is None else np.isin(np.arange(IMAGES), images)
    # Of bias nothing is recorded at sparsity 0.9.
    moved = [layer for layer in layers if with_movement and not (layer == "fc.bias" and key[2] == 0.9)]
    movement = np.array([[each[layer] for layer in moved] for each in movements])
    recorded = {"movement_layers": moved, "movement": movement} if moved else {"movement": None}
    stored_results.write_dense(folder, dense, data)
    stored_results.write_population(folder, dense, pruned, data, is_pie=is_pie, **recorded)
    for index, mask in enumerate(masks):
        arrays = stored_results.mask_arrays(mask) if with_masks else {}
        outputs = {"predictions": pruned.predictions[index], **arrays}
        stored_results.write_evaluation(folder, pruned, index, data, outputs)
    return SimpleNamespace(
        key=key,
        masks=masks,
        predictions=pruned.predictions,
        dense_predictions=dense.predictions,
        ids=list(ids),
        pies=set(np.flatnonzero(is_pie).tolist()),
        movements=movements,
    )


def write_folder(folder, keys=SMALL, **more):
    """A folder of results; returns what its combinations were made of, by key."""
    return {key: write_combination(folder, key, **more) for key in keys}


def compare(folder):
    """name -> (rows, figures)"""
    populations = pruned_populations(folder)
    comparisons = across.compare_all(populations, across.read_all_masks(populations)[0])
    figures = {
        name: {
            figure: {key: np.asarray(value) for key, value in arrays.items()}
            for figure, arrays in each.figures.items()
        }
        for name, each in comparisons.items()
    }
    return {name: (each.rows, figures[name]) for name, each in comparisons.items()}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "few digits"


def make_figures(*flags):
    sys.path.insert(0, str(ROOT / "figures"))
    return importlib.import_module("make_figures").main([str(flag) for flag in flags])


def key_of(row, prefix=""):
    return tuple(row[f"{prefix}{column}"] for column in KEY_COLUMNS)


def keys_read(folder):
    return [stored_results.key_of(population) for population in pruned_populations(folder)]


def panels_of(arrays):
    return list(arrays["panels"])


def label(key):
    return "{} {} {:g}".format(*key)


def places(mask, layer=None):
    """The kept weights of a network as a set of (layer, index)."""
    return {
        (name, int(index))
        for name, values in mask.items()
        if layer in (None, name)
        for index in np.flatnonzero(values.ravel())
    }


# Reading


def test_populations_are_read_in_the_order_of_the_table(folder):
    write_folder(folder)
    assert keys_read(folder) == SMALL
    population = pruned_populations(folder)[1]
    assert population.label == "SupCon global 0.9" and population.folder == folder / "SupCon"
    assert population.key == {"learning_method": "SupCon", "pruning_method": "global", "sparsity": 0.9}
    dense = [each.learning_method for each in read.read_populations(folder) if each.pruning_method == "dense"]
    assert dense == ["SupCon", "supervised"]


def test_files_of_something_else_are_ignored_and_torn_ones_are_named(folder):
    write_folder(folder)
    write_arrays(folder / "SupCon/populations/foreign.npz", {"is_pie": np.zeros(3, bool)}, {"data": "data"})
    assert keys_read(folder) == SMALL
    (folder / "SupCon/populations/torn.npz").write_bytes(b"torn")
    with pytest.raises(UserError, match="torn.npz is damaged; delete it"):
        keys_read(folder)


def test_without_pruned_populations_there_are_no_comparisons():
    assert across.compare_all([], []) == {}


def test_every_comparison_is_made_where_everything_is_stored(folder):
    write_folder(folder)
    found = compare(folder)
    assert {name: set(figures) for name, (_, figures) in found.items()} == {
        "pie_overlap": {
            "pie_overlap",
            "pies_unique",
            "pies_per_class_0.5sparsity",
            "pies_per_class_0.9sparsity",
        },
        "class_recall": {"class_recall"},
        "mask_similarity": {"mask_similarity", "mask_similarity_layers"},
        "mask_structure": {"mask_structure"},
        "weight_movement": {"weight_movement"},
    }
    for _, figures in found.values():
        for arrays in figures.values():
            assert str(arrays["title"]).startswith("few digits · SupCon, supervised · ")
            assert str(arrays["title"]).endswith("3 models of each combination (WideResNet-10-1)")


# Tables and the arrays of figures


def test_overlaps_of_pies_equal_those_of_python_sets(folder):
    written = write_folder(folder)
    rows, figures = compare(folder)["pie_overlap"]
    assert [(key_of(row), key_of(row, "other_")) for row in rows] == [
        pair for pair in itertools.product(SMALL, repeat=2) if pair[0] != pair[1]
    ]
    for row in rows:
        one, other = written[key_of(row)].pies, written[key_of(row, "other_")].pies
        same_sparsity = [
            each.pies for key, each in written.items() if key != key_of(row) and key[2] == key_of(row)[2]
        ]
        rest = set().union(*same_sparsity)
        assert (row["pies"], row["other_pies"]) == (len(one), len(other)) and len(one) > 0
        assert row["jaccard"] == pytest.approx(len(one & other) / len(one | other))
        assert row["chance_jaccard"] == pytest.approx(
            similarity.expected_jaccard(len(one), len(other), IMAGES)
        )
        assert row["unique_pair"] == pytest.approx(len(one - other) / len(one))
        assert row["chance_unique_pair"] == pytest.approx(1 - len(other) / IMAGES)
        assert row["unique_at_sparsity"] == pytest.approx(
            len(one - rest) / len(one) if same_sparsity else math.nan, nan_ok=True
        )
        chance = math.prod(1 - len(pies) / IMAGES for pies in same_sparsity) if same_sparsity else math.nan
        assert row["chance_unique_at_sparsity"] == pytest.approx(chance, nan_ok=True)
    by_pair = {(key_of(row), key_of(row, "other_")): row for row in rows}
    (measured, chance), (unique,) = panels_of(figures["pie_overlap"]), panels_of(figures["pies_unique"])
    for (i, one), (j, other) in itertools.product(enumerate(SMALL), repeat=2):
        row = by_pair.get(
            (one, other), {"jaccard": math.nan, "chance_jaccard": math.nan}
        )  # a set is no pair with itself
        assert [measured[i, j], chance[i, j]] == pytest.approx(
            [row["jaccard"], row["chance_jaccard"]], nan_ok=True
        )
    compared = [one for one in SMALL if sum(key[2] == one[2] for key in SMALL) > 1]
    assert 1 < len(compared) < len(SMALL) and len(unique) == len(compared)
    for i, one in enumerate(compared):
        row = next(row for row in rows if key_of(row) == one)
        assert unique[i].tolist() == pytest.approx(
            [row["unique_at_sparsity"], row["chance_unique_at_sparsity"]]
        )
    sizes = [f"{label(key)} ({len(written[key].pies)})" for key in SMALL]
    assert list(figures["pie_overlap"]["rows"]) == sizes
    assert list(figures["pies_unique"]["rows"]) == [
        size for key, size in zip(SMALL, sizes) if key in compared
    ]
    assert list(figures["pie_overlap"]["columns"]) == [label(key) for key in SMALL]
    assert list(figures["pies_unique"]["columns"]) == ["measured", "by chance"]
    assert figures["pie_overlap"]["texts"][0][0][1] == f"{measured[0, 1]:.2f}"


def test_pies_per_class_count_every_pie_of_a_sparsity_once(folder):
    written = write_folder(folder)
    _, figures = compare(folder)["pie_overlap"]
    assert "pies_per_class_0.7sparsity" not in figures, "one set alone is no comparison"
    true = labels_of_images()
    for sparsity in (0.5, 0.9):
        chosen = [key for key in SMALL if key[2] == sparsity]
        arrays = figures[f"pies_per_class_{sparsity}sparsity"]
        assert list(arrays["sets"]) == [f"{learning} {pruning}" for learning, pruning, _ in chosen] and list(
            arrays["class_names"]
        ) == list(CLASS_NAMES)
        assert f"sparsity {100 * sparsity:g} %" in str(arrays["title"])
        owners = {image: [key for key in chosen if image in written[key].pies] for image in range(IMAGES)}
        expected = [
            [sum(true[image] == c and keys == [key] for image, keys in owners.items()) for c in range(4)]
            for key in chosen
        ]
        expected.append(
            [sum(true[image] == c and len(keys) > 1 for image, keys in owners.items()) for c in range(4)]
        )
        assert np.asarray(arrays["counts"]).tolist() == expected
        assert np.sum(arrays["counts"]) == len(set().union(*(written[key].pies for key in chosen)))


def test_empty_pie_sets_can_be_compared_and_drawn(folder):
    for key, images in ((SMALL[0], []), (SMALL[3], []), (SMALL[4], None)):
        write_combination(folder, key, images=images)
    rows, figures = compare(folder)["pie_overlap"]
    assert (
        math.isnan(rows[0]["jaccard"])
        and math.isnan(rows[0]["unique_at_sparsity"])
        and rows[1]["jaccard"] == 0
        and rows[0]["pies"] == 0
    )
    assert figures["pie_overlap"]["texts"][0][0][:2].tolist() == ["–", "–"]
    assert make_figures("--results", folder) == 0
    stored = next(csv.DictReader((folder / "similarity/pie_overlap.csv").open()))
    assert stored["jaccard"] == stored["unique_at_sparsity"] == "" and stored["pies"] == "0"


@pytest.mark.filterwarnings("ignore:Precision loss")
def test_recalls_equal_slow_counts_and_scipys_tests(folder):
    written = write_folder(folder, ids=(2, 0, 1))
    true = labels_of_images()
    rows, figures = compare(folder)["class_recall"]
    assert [(key_of(row), row["class"]) for row in rows] == list(itertools.product(SMALL, CLASS_NAMES))
    [panel] = panels_of(figures["class_recall"])
    for row in rows:
        one, c = written[key_of(row)], CLASS_NAMES.index(row["class"])
        recalls, relative = {}, {}
        for name, ids, predictions in (
            ("pruned", one.ids, one.predictions),
            ("dense", [0, 1, 2], one.dense_predictions),
        ):
            recalls[name] = {
                i: sum(p == c for p, t in zip(model, true) if t == c) / sum(t == c for t in true)
                for i, model in zip(ids, predictions)
            }
            accuracy = sum(sum(p == t for p, t in zip(model, true)) / IMAGES for model in predictions) / len(
                ids
            )
            relative[name] = {i: recall - accuracy for i, recall in recalls[name].items()}
        before, after = [*relative["dense"].values()], [*relative["pruned"].values()]
        assert row["recall"] == pytest.approx(np.mean([*recalls["pruned"].values()]))
        assert row["dense_recall"] == pytest.approx(np.mean([*recalls["dense"].values()]))
        assert row["difference"] == pytest.approx(np.mean(after) - np.mean(before))
        assert row["welch_p"] == pytest.approx(scipy.stats.ttest_ind(after, before, equal_var=False).pvalue)
        assert row["paired_p"] == pytest.approx(
            scipy.stats.ttest_rel([relative["pruned"][i] for i in (0, 1, 2)], before).pvalue
        )
        assert (row["models"], row["dense_models"], row["paired_models"]) == (3, 3, 3)
        assert panel[SMALL.index(key_of(row)), c] == pytest.approx(100 * row["difference"])
        text = figures["class_recall"]["texts"][0][SMALL.index(key_of(row))][c]
        assert text == f"{100 * row['difference']:+.1f}" + ("*" if row["paired_p_holm"] < 0.05 else "")
    for key in SMALL:
        own = [row for row in rows if key_of(row) == key]
        np.testing.assert_allclose(
            [row["paired_p_holm"] for row in own], similarity.holm(np.array([row["paired_p"] for row in own]))
        )
    assert figures["class_recall"]["diverging"] and list(figures["class_recall"]["rows"]) == [
        label(key) for key in SMALL
    ]
    assert list(figures["class_recall"]["columns"]) == list(CLASS_NAMES)


def test_changes_of_recalls_are_marked_by_the_corrected_paired_test(folder, monkeypatch):
    write_folder(folder)
    rows, _ = compare(folder)["class_recall"]
    level = float(np.median([row["paired_p_holm"] for row in rows])) - 1e-9
    marked = [row["paired_p_holm"] < level for row in rows]
    assert any(marked) and any(
        marked[i] != (row[key] < level) for key in ("welch_p", "paired_p") for i, row in enumerate(rows)
    )
    monkeypatch.setattr(across, "SIGNIFICANT", level)
    texts = compare(folder)["class_recall"][1]["class_recall"]["texts"][0]
    assert [text.endswith("*") for row in texts for text in row] == marked


def test_only_shared_ids_are_paired(folder):
    write_folder(folder, keys=SMALL[:1], ids=(4, 2, 1, 7))
    rows, _ = compare(folder)["class_recall"]
    assert [(row["models"], row["dense_models"], row["paired_models"]) for row in rows] == [(4, 3, 2)] * 4


def slow_similarity(one, other, alike, layer):
    """(mean, unordered pairs) of the Jaccard similarity between networks of two combinations, of the same or
    of different seeds."""
    values = []
    for (a, first), (b, second) in itertools.product(zip(one.ids, one.masks), zip(other.ids, other.masks)):
        if (a == b) == alike and first is not second:
            both = places(first, layer), places(second, layer)
            values.append(len(both[0] & both[1]) / len(both[0] | both[1]) if both[0] | both[1] else math.nan)
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan, len(values) // (2 if one is other else 1)


def layer_density(one, layer):
    size = math.prod(LAYERS[layer]) if layer else sum(map(math.prod, LAYERS.values()))
    return sum(len(places(mask, layer)) for mask in one.masks) / len(one.masks) / size


def random_similarity(d, e):
    return d * e / (d + e - d * e) if d + e else math.nan


def test_mask_similarities_equal_loops_over_pairs_of_networks(folder):
    written = write_folder(folder)
    rows, figures = compare(folder)["mask_similarity"]
    expected = [
        (one, other, seeds, layer)
        for i, one in enumerate(SMALL)
        for other in SMALL[i:]
        for seeds in ("same", "different")
        for layer in (*LAYERS, "total")
        if one != other or seeds == "different"
    ]
    assert [(key_of(row), key_of(row, "other_"), row["seeds"], row["layer"]) for row in rows] == expected
    for row in rows:
        one, other, layer = (
            written[key_of(row)],
            written[key_of(row, "other_")],
            None if row["layer"] == "total" else row["layer"],
        )
        mean, pairs = slow_similarity(one, other, row["seeds"] == "same", layer)
        assert row["jaccard"] == pytest.approx(mean) and row["pairs"] == pairs == (
            3 if one is other or row["seeds"] == "same" else 6
        )
        assert row["chance"] == pytest.approx(
            random_similarity(layer_density(one, layer), layer_density(other, layer))
        )
        if layer is None:
            both = sum(
                math.prod(shape) * layer_density(one, name) * layer_density(other, name)
                for name, shape in LAYERS.items()
            )
            kept = sum(len(places(mask)) for each in (one, other) for mask in each.masks) / MODELS
            assert row["chance_by_layer"] == pytest.approx(both / (kept - both))
        else:
            assert row["chance_by_layer"] is None
    panels = panels_of(figures["mask_similarity"])
    totals = {
        (key_of(row), key_of(row, "other_"), row["seeds"]): row for row in rows if row["layer"] == "total"
    }
    for (i, one), (j, other) in itertools.product(enumerate(SMALL), repeat=2):
        pair = (one, other) if i <= j else (other, one)
        assert panels[0][i, j] == (
            pytest.approx(totals[*pair, "same"]["jaccard"])
            if i != j
            else pytest.approx(math.nan, nan_ok=True)
        )
        different = totals[*pair, "different"]
        assert [panel[i, j] for panel in panels[1:]] == pytest.approx(
            [different["jaccard"], different["chance"], different["chance_by_layer"]]
        )
    measured, chance = panels_of(figures["mask_similarity_layers"])
    for (i, key), (column, layer) in itertools.product(enumerate(SMALL), enumerate([*LAYERS, "total"])):
        [row] = [row for row in rows if key_of(row) == key_of(row, "other_") == key and row["layer"] == layer]
        assert measured[i, column] == pytest.approx(row["jaccard"]) and chance[i, column] == pytest.approx(
            row["chance"]
        )
    assert list(figures["mask_similarity_layers"]["columns"]) == [
        "conv1",
        "block1.0.conv1",
        "block1.0.shortcut",
        "fc",
        "fc.bias",
        "total",
    ]
    assert list(figures["mask_similarity"]["rows"]) == [label(key) for key in SMALL]


def test_a_layer_that_one_combination_prunes_wholly_is_still_compared_in_the_others(folder):
    keys = [("supervised", "global", 0.5), ("supervised", "global", 0.7), ("supervised", "global", 1.0)]
    written = write_folder(folder, keys=keys)
    rows, figures = compare(folder)["mask_similarity"]
    for row in rows:
        if row["layer"] == "fc.weight":
            mean, _ = slow_similarity(
                written[key_of(row)], written[key_of(row, "other_")], row["seeds"] == "same", "fc.weight"
            )
            assert row["jaccard"] == pytest.approx(mean, nan_ok=True)
    assert not np.isnan(panels_of(figures["mask_similarity_layers"])[0][:2]).any()


def test_zero_filters_and_channels_equal_loops(folder):
    written = write_folder(folder)
    rows, figures = compare(folder)["mask_structure"]
    convolutions = [layer for layer in LAYERS if not layer.startswith("fc.")]
    assert [(key_of(row), row["layer"]) for row in rows] == list(itertools.product(SMALL, convolutions))
    panels = panels_of(figures["mask_structure"])
    for row in rows:
        values = []
        for mask in (mask[row["layer"]] for mask in written[key_of(row)].masks):
            zeros = mask.size - np.count_nonzero(mask)
            for axis in (0, 1):
                parts = [np.take(mask, index, axis) for index in range(mask.shape[axis])]
                chance = scipy.stats.hypergeom(mask.size, zeros, parts[0].size).pmf(parts[0].size)
                values.append((sum(not part.any() for part in parts) / len(parts), chance))
        expected = [*np.mean(values[::2], axis=0), *np.mean(values[1::2], axis=0)]
        found = [
            row[name]
            for name in (
                "filters_zero",
                "filters_zero_by_chance",
                "input_channels_zero",
                "input_channels_zero_by_chance",
            )
        ]
        assert found == pytest.approx(expected, rel=1e-6)
        place = SMALL.index(key_of(row)), convolutions.index(row["layer"])
        assert [panel[place] for panel in panels] == pytest.approx([100 * value for value in found])
        assert row["filters_zero"] >= 0.25 or row["layer"] != "conv1.weight", (
            "a filter of it was made wholly zero"
        )
    assert list(figures["mask_structure"]["columns"]) == ["conv1", "block1.0.conv1", "block1.0.shortcut"]
    assert figures["mask_structure"]["texts"][0][0][0] == f"{panels[0][0, 0]:.0f}"


def test_movements_are_means_over_the_networks_of_layers_that_all_have(folder):
    written = write_folder(folder)
    rows, figures = compare(folder)["weight_movement"]
    layers = list(LAYERS)
    expected = {
        (key, layer): np.mean([movement[layer] for movement in written[key].movements])
        for key, layer in itertools.product(SMALL, layers)
        if not (key[2] == 0.9 and layer == "fc.bias")
    }
    assert {(key_of(row), row["layer"]): row["movement"] for row in rows} == pytest.approx(expected)
    [panel] = panels_of(figures["weight_movement"])
    for (i, key), (column, layer) in itertools.product(enumerate(SMALL), enumerate(layers)):
        assert panel[i, column] == pytest.approx(expected.get((key, layer), math.nan), nan_ok=True)


def test_combinations_without_movement_are_left_out_of_its_table(folder):
    write_folder(folder, with_movement=False)
    assert "weight_movement" not in compare(folder)
    write_combination(folder, SMALL[0])
    rows, figures = compare(folder)["weight_movement"]
    assert {key_of(row) for row in rows} == {SMALL[0]} and panels_of(figures["weight_movement"])[0].shape == (
        1,
        len(LAYERS),
    )


# What is not stored, or of another kind


def test_missing_evaluations_drop_the_comparisons_of_masks_alone(folder):
    write_folder(folder)
    [path] = (folder / "supervised/evaluations").glob("supervised_global_0.9_id1.npz")
    path.unlink()
    found = compare(folder)
    rest = {key for key in SMALL if key != ("supervised", "global", 0.9)}
    assert {key_of(row, prefix) for row in found["mask_similarity"][0] for prefix in ("", "other_")} == rest
    assert {key_of(row) for row in found["mask_structure"][0]} == rest
    for name in ("pie_overlap", "class_recall", "weight_movement"):
        assert {key_of(row) for row in found[name][0]} == set(SMALL)
    for path in folder.glob("*/evaluations/*.npz"):
        path.unlink()
    assert set(compare(folder)) == {"pie_overlap", "class_recall", "weight_movement"}


def test_masks_of_other_checkpoints_of_the_same_names_are_not_compared(folder, capsys, empty_figures):
    write_folder(folder)
    path = folder / "supervised/evaluations/supervised_global_0.9_id1.npz"
    stored = {name: value for name, value in read_arrays(path).items() if name != "made"}
    write_arrays(path, stored, {"checkpoints": ["of another folder"], "data": "data"})
    assert ("supervised", "global", 0.9) not in {key_of(row) for row in compare(folder)["mask_structure"][0]}
    assert make_figures("--results", folder) == 0
    assert "not compared: masks of supervised global 0.9: run its PIE script again" in capsys.readouterr().out


def test_evaluations_without_masks_drop_the_comparisons_of_masks_alone(folder):
    write_folder(folder, with_masks=False)
    assert set(compare(folder)) == {"pie_overlap", "class_recall", "weight_movement"}


def test_masks_of_other_architectures_are_left_out(folder):
    write_folder(folder)
    wide = {**LAYERS, "block1.layer.0.conv1.weight": (7, 4, 3, 3)}
    write_combination(folder, ("supervised", "GMP", 0.5), layers=wide, architecture="WideResNet-10-2")
    found = compare(folder)
    for name in ("mask_similarity", "mask_structure"):
        assert {key_of(row) for row in found[name][0]} == set(SMALL)
    assert {key_of(row) for row in found["pie_overlap"][0]} == {*SMALL, ("supervised", "GMP", 0.5)}
    assert "(WideResNet-10-1, WideResNet-10-2)" in str(found["pie_overlap"][1]["pie_overlap"]["title"])
    assert "(WideResNet-10-1)" in str(found["mask_similarity"][1]["mask_similarity"]["title"])


def test_results_of_different_data_are_refused_in_one_line(folder, capsys):
    write_folder(folder)
    write_combination(folder, ("supervised", "global", 0.5), data=replace(DATA, checksum="of other images"))
    with pytest.raises(UserError, match="different versions of the data"):
        compare(folder)
    assert make_figures("--results", folder) == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1 and "different versions of the data" in shown and str(folder) in shown


def test_one_combination_alone_is_compared_with_the_dense_networks_only(folder):
    write_folder(folder, keys=SMALL[:1])
    found = compare(folder)
    assert found["pie_overlap"][0] == [] and len(found["class_recall"][0]) == len(CLASS_NAMES)
    assert {row["seeds"] for row in found["mask_similarity"][0]} == {"different"}
    assert make_figures("--results", folder) == 0
    assert (folder / "similarity/pie_overlap.csv").read_text() == "learning_method,pruning_method,sparsity\n"


# figures/make_figures.py


def shown(value):
    """A value of a row as a CSV has it, as a number or text."""
    return "" if value is None or isinstance(value, float) and math.isnan(value) else value


def test_tables_hold_the_rows_and_a_second_run_gives_the_same_bytes(folder, capsys):
    write_folder(folder)
    assert make_figures("--results", folder) == 0
    said = capsys.readouterr().out
    for name, (rows, figures) in compare(folder).items():
        assert f"table: {folder / 'similarity' / name}.csv" in said
        stored = list(csv.DictReader((folder / "similarity" / f"{name}.csv").open()))
        assert len(stored) == len(rows)
        for found, expected in zip(stored, rows):
            assert list(found) == list(rows[0])
            for column, value in expected.items():
                value, number = shown(value), isinstance(shown(value), (int, float, np.number))
                assert (
                    (float(found[column]) == pytest.approx(float(value), rel=1e-3, abs=1e-6))
                    if number
                    else (found[column] == value)
                )
        for figure in figures:
            assert (folder / "similarity" / f"{figure}.png").stat().st_size > 5000 and (
                folder / "similarity" / f"{figure}.npz"
            ).exists()
    pictures = len(list((folder / "similarity").glob("*.png")))
    (line,) = [line for line in said.splitlines() if line.startswith("figures:")]
    assert f" {pictures} in {folder / 'similarity'}" in line and "figure: " not in said
    before = {path.name: path.read_bytes() for path in (folder / "similarity").glob("*.csv")}
    assert len(before) == 5 and make_figures("--results", folder) == 0
    assert {path.name: path.read_bytes() for path in (folder / "similarity").glob("*.csv")} == before


def test_figures_of_sparsities_that_are_not_stored_any_more_leave_the_folder(folder, empty_figures):
    write_folder(folder)
    assert make_figures("--results", folder) == 0
    assert (folder / "similarity/pies_per_class_0.9sparsity.png").exists()
    (folder / "similarity/notes.txt").write_text("ours")
    for path in folder.glob("*/populations/*_0.9.npz"):
        path.unlink()
    assert make_figures("--results", folder) == 0
    assert (
        not list((folder / "similarity").glob("*_0.9sparsity*"))
        and (folder / "similarity/pies_per_class_0.5sparsity.npz").exists()
    )
    assert (folder / "similarity/notes.txt").exists()


def test_all_figures_are_drawn_anew_into_a_folder(folder, tmp_path, capsys):
    write_folder(folder)
    assert make_figures("--results", folder, "--output_dir", tmp_path / "drawn", "--format", "svg") == 0
    names = {
        f"few_digits_{key[0]}_pies_distribution_WideResNet-10-1_{key[1]}_{key[2]}sparsity_3models.svg"
        for key in SMALL
    }
    names |= {
        f"few_digits_similarity_{name}_3models.svg"
        for name in (
            "pie_overlap",
            "pies_unique",
            "pies_per_class_0.5sparsity",
            "pies_per_class_0.9sparsity",
            "class_recall",
            "mask_similarity",
            "mask_similarity_layers",
            "mask_structure",
            "weight_movement",
        )
    }
    assert {path.name for path in (tmp_path / "drawn").iterdir()} == names
    assert f"figures: {len(names)} in {tmp_path / 'drawn'}\n" in capsys.readouterr().out


def test_names_of_layers_are_shortened():
    names = (
        "block1.layer.0.convShortcut.weight",
        "block3.layer.1.conv2.weight",
        "conv1.weight",
        "fc.weight",
        "fc.bias",
    )
    assert [across.short_layer(name) for name in names] == [
        "block1.0.shortcut",
        "block3.1.conv2",
        "conv1",
        "fc",
        "fc.bias",
    ]


# Pictures


def wide_layers():
    """The layers of a WideResNet-16-2 by their names, with few weights."""
    blocks = [
        f"block{group}.layer.{index}.{name}.weight"
        for group in (1, 2, 3)
        for index in (0, 1)
        for name in ("conv1", "conv2", "convShortcut")
        if index == 0 or name != "convShortcut"
    ]
    return {
        "conv1.weight": (4, 3, 3, 3),
        **{block: (4, 4, 3, 3) for block in blocks},
        "fc.weight": (4, 4),
        "fc.bias": (4,),
    }


def texts_of(figure):
    """What is written in a drawn figure, with its box: title, axes' titles and names, ticks, texts,
    legends."""
    found = [figure._suptitle]
    for axes in figure.axes:
        if axes.get_visible():
            found += [
                axes.title,
                axes.xaxis.label,
                axes.yaxis.label,
                *axes.texts,
                *(axes.get_legend().get_texts() if axes.get_legend() else []),
            ]
            for axis, (low, high) in (
                (axes.xaxis, sorted(axes.get_xlim())),
                (axes.yaxis, sorted(axes.get_ylim())),
            ):
                found += [
                    tick.label1 if tick.label1.get_visible() else tick.label2
                    for tick in axis.get_major_ticks()
                    if low <= tick.get_loc() <= high
                ]
    return [(text.get_text(), corners(text)) for text in found if text.get_text().strip()]


def corners(text):
    """The four corners of a text's box, turned as the text is, and half a pixel smaller on all sides:
    neighbours may touch."""
    outer, angle = text.get_window_extent(), text.get_rotation()
    text.set_rotation(0)
    level = text.get_window_extent()
    text.set_rotation(angle)
    along, upward = (
        np.array([math.cos(turn), math.sin(turn)]) for turn in (math.radians(angle), math.radians(angle + 90))
    )
    centre = np.array([outer.x0 + outer.x1, outer.y0 + outer.y1]) / 2
    return [
        centre + a * (level.width / 2 - 0.5) * along + b * (level.height / 2 - 0.5) * upward
        for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))
    ]


def overlap(one, other):
    """Whether two turned boxes overlap: no line along one of their sides lies between them."""
    for box in (one, other):
        for side in (box[1] - box[0], box[3] - box[0]):
            (low, high), (other_low, other_high) = [
                (min(along), max(along))
                for along in ([corner @ side for corner in each] for each in (one, other))
            ]
            if high <= other_low or other_high <= low:
                return False
    return True


def heat_maps(panels, rows, columns):
    """The arrays of heat maps of combinations with these names."""
    combinations = [SimpleNamespace(label=row) for row in rows]
    with mock.patch.object(across, "title", lambda combinations, shown: shown):
        return across.heat_maps(combinations, "title", panels, columns, "Jaccard similarity")


def check_picture(arrays):
    """All texts are inside the picture and none lies on another; returns them."""
    figure = plots.draw({key: np.asarray(value) for key, value in arrays.items()})
    FigureCanvasAgg(figure).draw()
    texts = texts_of(figure)
    shown_title = figure._suptitle.get_text().replace("\xa0", " ").replace("\n", " ")
    assert all(part in shown_title for part in str(arrays["title"]).split(" · ")) and shown_title
    left, bottom, right, top = np.array([[*np.min(box, axis=0), *np.max(box, axis=0)] for _, box in texts]).T
    for index, (text, box) in enumerate(texts):
        assert (
            0 <= left[index]
            and 0 <= bottom[index]
            and right[index] <= figure.bbox.x1
            and top[index] <= figure.bbox.y1
        ), f"{text} leaves the picture"
        near = (left < right[index]) & (right > left[index]) & (bottom < top[index]) & (top > bottom[index])
        for other in np.flatnonzero(near):
            assert other == index or not overlap(box, texts[other][1]), (text, texts[other][0])
    return [text.replace("\n", " ") for text, _ in texts]  # of several lines


@pytest.mark.filterwarnings("ignore:constrained_layout not applied")
def test_texts_that_lie_on_one_another_or_leave_the_picture_are_found():
    arrays = {
        "figure": "pies_per_class",
        "title": "title",
        "class_names": [f"a long name of class {c}" for c in range(4)],
        "sets": ["one"],
        "counts": np.ones((2, 4), dtype=int),
    }
    check_picture(arrays)
    with pytest.raises(AssertionError, match="leaves the picture"):
        check_picture({**arrays, "sets": ["a name " * 40]})
    wide = heat_maps({"panel": np.zeros((2, 12))}, ["a", "b"], ["c"] * 12)
    wide["texts"] = [[["short"] * 12, ["WIDE LETTERS WWWWWWWW"] * 12]]  # wider than cells are made for
    with pytest.raises(AssertionError, match="WIDE LETTERS"):
        check_picture(wide)
    with pytest.raises(AssertionError, match="a long name"):
        check_picture(
            {
                **arrays,
                "class_names": ["a long name\nof\na\nclass"] * 4 + ["b"] * 20,
                "counts": np.ones((2, 24), dtype=int),
            }
        )


KEYS = {
    "two": [SMALL[0], SMALL[3]],
    "ten": [key for key in PUBLISHED if key[1] == "global"],
    "twenty-six": PUBLISHED,
    "long names": LONG,
}


@pytest.fixture(scope="module", params=list(KEYS))
def figures(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("results") / "few digits"
    write_folder(folder, KEYS[request.param], layers=wide_layers())
    return KEYS[request.param], {
        name: arrays for _, drawn in compare(folder).values() for name, arrays in drawn.items()
    }


@pytest.mark.parametrize(
    "name",
    [
        "pie_overlap",
        "pies_unique",
        "class_recall",
        "mask_similarity",
        "mask_similarity_layers",
        "mask_structure",
        "weight_movement",
    ],
)
def test_a_heat_map_shows_all_names_and_no_text_lies_on_another(figures, name):
    keys, arrays = figures
    texts = check_picture(arrays[name])
    rows = [str(row) for row in arrays[name]["rows"]]
    assert len(rows) == len(keys) and all(row in texts for row in rows)
    assert all(str(column) in texts for column in arrays[name]["columns"])
    written = [text for row in arrays[name]["texts"][0] for text in row]
    assert len(written) >= len(keys) and set(written) <= set(texts) and "" not in written
    said = {"class_recall": "true class", "mask_structure": "layer", "mask_similarity_layers": "layer"}
    assert str(arrays[name]["quantity"]) in texts and said.get(name, "") in ["", *texts]


def test_sets_without_pies_have_dashes_not_likenesses_of_0(folder):
    write_combination(folder, SMALL[0], images=())
    for key in SMALL[1:]:
        write_combination(folder, key)
    arrays = compare(folder)["pie_overlap"][1]["pie_overlap"]
    sizes = [int(row.split("(")[1].rstrip(")")) for row in map(str, arrays["rows"])]
    assert sizes.count(0) == 1
    for panel in arrays["texts"]:
        for (i, j), text in np.ndenumerate(panel):
            assert (text == "–") == (i == j or 0 in (sizes[i], sizes[j]))


def test_pies_per_class_name_all_sets_and_no_text_lies_on_another(figures):
    _, arrays = figures
    found = {name: one for name, one in arrays.items() if name.startswith("pies_per_class")}
    assert found
    for one in found.values():
        texts = check_picture(one)
        assert all(f"only {name} ({np.sum(row)})" in texts for name, row in zip(one["sets"], one["counts"]))
        assert (
            f"in two sets or more ({np.sum(one['counts'][-1])})" in texts
            and "true class" in texts
            and "PIEs (images)" in texts
        )


@pytest.mark.parametrize("sets", [2, 10, 26])
def test_pies_per_class_of_many_sets_and_classes_can_be_read(sets):
    rng = np.random.default_rng(sets)
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    check_picture(
        {
            "figure": "pies_per_class",
            "title": "cifar10 · SupCon, supervised · PIEs per class, sparsity 90 % · 30 models of each",
            "class_names": names,
            "sets": ["{} {}".format(*key) for key in PUBLISHED[:sets]],
            "counts": rng.integers(0, 30, (sets + 1, 10)),
        }
    )


def test_bars_of_pies_per_class_stand_on_one_another():
    counts = np.array([[1, 0, 3], [2, 5, 0], [4, 4, 4]])
    figure = plots.draw(
        {
            "figure": "pies_per_class",
            "title": "title",
            "class_names": ["a", "b", "c"],
            "sets": ["one", "other"],
            "counts": counts,
        }
    )
    bars = [[(bar.get_y(), bar.get_height()) for bar in container] for container in figure.axes[0].containers]
    assert bars == [[(0, 1), (0, 0), (0, 3)], [(1, 2), (0, 5), (3, 0)], [(3, 4), (5, 4), (3, 4)]]
    assert len({container[0].get_facecolor() for container in figure.axes[0].containers}) == 3


def test_colours_of_heat_maps_are_of_one_scale_and_texts_are_told_from_them():
    panels = {"one": np.array([[0.0, 1.0], [math.nan, 0.5]]), "other": np.array([[0.25, 2.0], [0, 0]])}
    arrays = heat_maps(panels, ["a", "b"], ["d", "e"])
    assert arrays["texts"] == [[["0.00", "1.00"], ["–", "0.50"]], [["0.25", "2.00"], ["0.00", "0.00"]]]
    figure = plots.draw({key: np.asarray(value) for key, value in arrays.items()})
    images = [axes.images[0] for axes in figure.axes if axes.images and axes.texts]
    assert figure.axes[-1].get_ylabel().split() == ["Jaccard", "similarity"]  # of the bar of colours
    assert [image.get_clim() for image in images] == [(0, 2)] * 2
    for axes in figure.axes:
        for text in axes.texts:
            column, row = (int(value) for value in text.get_position())
            if text.get_text() != "–":
                red, green, blue, _ = axes.images[0].cmap(
                    axes.images[0].norm(axes.images[0].get_array()[row, column])
                )
                assert text.get_color() == (
                    "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.5 else "black"
                )
    diverging = heat_maps({"one": np.array([[-3.0, 1.0]])}, ["a"], ["b", "c"])
    diverging |= {"texts": [[["-3*", "+1"]]], "diverging": True}
    figure = plots.draw({key: np.asarray(value) for key, value in diverging.items()})
    assert figure.axes[0].images[0].get_clim() == (-3, 3) and [
        text.get_text() for text in figure.axes[0].texts
    ] == ["-3*", "+1"]
