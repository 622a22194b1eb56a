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
from stored_results import Networks, pruned_populations
from test_plots import check_nothing_overlaps, drawn

from common.store.files import read_arrays, write_arrays
from common.store.table import KEY_COLUMNS
from figures.report import across, plots, similarity

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


# Reading


def test_files_of_something_else_are_ignored(folder):
    write_folder(folder)
    write_arrays(folder / "SupCon/populations/foreign.npz", {"is_pie": np.zeros(3, bool)}, {"data": "data"})
    assert keys_read(folder) == SMALL


# Tables and the arrays of figures


def pair_of(row):
    return key_of(row), key_of(row, "other_")


def test_rows_and_figures_of_pies_hold_the_overlaps_of_their_pairs(folder):
    written = write_folder(folder)
    rows, figures = compare(folder)["pie_overlap"]
    assert list(map(pair_of, rows)) == list(itertools.permutations(SMALL, 2))
    for row in rows:
        first, second = (written[key].pies for key in pair_of(row))
        assert (row["pies"], row["other_pies"]) == (len(first), len(second))
        assert row["jaccard"] == pytest.approx(len(first & second) / len(first | second))
        chance = similarity.expected_jaccard(len(first), len(second), IMAGES)
        assert row["chance_jaccard"] == pytest.approx(chance)
        i, j = map(SMALL.index, pair_of(row))
        over_chance = row["jaccard"] / row["chance_jaccard"] if i > j else math.nan  # one triangle
        assert figures["pie_overlap"]["panels"][0, i, j] == pytest.approx(over_chance, nan_ok=True)
    assert np.isnan(np.einsum("pgg->pg", figures["pie_overlap"]["panels"])).all()
    assert figures["pie_overlap"]["rows"][1] == "SupCon global, 90 % pruned · 2"
    assert {name for name in figures if "class" in name} == {
        f"pies_per_class_{s}sparsity" for s in (0.5, 0.9)
    }
    for sparsity in (0.5, 0.9):
        is_pie = [np.isin(np.arange(IMAGES), [*written[key].pies]) for key in SMALL if key[2] == sparsity]
        counts = similarity.common_and_unique_pies(np.array(is_pie), labels_of_images(), len(CLASS_NAMES))
        assert np.array_equal(figures[f"pies_per_class_{sparsity}sparsity"]["counts"], counts)


@pytest.mark.parametrize("ids", [(2, 0, 1), (4, 2, 1, 7)], ids=["all shared", "some shared"])
def test_rows_and_figure_of_recalls_hold_both_tests_of_every_class(folder, ids, monkeypatch):
    written, true = write_folder(folder, ids=ids), labels_of_images()
    monkeypatch.setattr(across, "SIGNIFICANT", 0.5)
    rows, figures = compare(folder)["class_recall"]
    assert [(key_of(row), row["class"]) for row in rows] == list(itertools.product(SMALL, CLASS_NAMES))
    for row in rows:
        one, c = written[key_of(row)], CLASS_NAMES.index(row["class"])
        right = one.predictions == true, one.dense_predictions == true

        def relative(side, chosen):
            return side[chosen][:, true == c].mean(1) - side[chosen].mean()

        pruned, dense = relative(right[0], slice(None)), relative(right[1], slice(None))
        assert row["difference"] == pytest.approx(pruned.mean() - dense.mean())
        assert row["recall"] == pytest.approx(right[0][:, true == c].mean())
        assert row["dense_recall"] == pytest.approx(right[1][:, true == c].mean())
        welch = scipy.stats.ttest_ind(pruned, dense, equal_var=False).pvalue
        shared = sorted({*one.ids} & {0, 1, 2})
        pairs = relative(right[0], [one.ids.index(each) for each in shared]), relative(right[1], shared)
        varies = np.ptp(pairs[0] - pairs[1]) > 1e-9
        paired = scipy.stats.ttest_rel(*pairs).pvalue if varies else math.nan
        assert [row["welch_p"], row["paired_p"]] == pytest.approx([welch, paired], nan_ok=True)
        assert (row["models"], row["dense_models"], row["paired_models"]) == (len(ids), MODELS, len(shared))
        text = figures["class_recall"]["texts"][0][SMALL.index(key_of(row))][c]
        star = "*" * bool(row["paired_p_holm"] < 0.5)
        assert text == f"{round(100 * row['difference'], 1) + 0.0:+.1f}{star}"
    for key in SMALL:
        of_key = [row for row in rows if key_of(row) == key]
        corrected = similarity.holm(np.array([row["paired_p"] for row in of_key]))
        assert [row["paired_p_holm"] for row in of_key] == pytest.approx([*corrected], nan_ok=True)


def test_rows_and_figures_of_masks_hold_the_similarities_of_their_pairs(folder):
    written = write_folder(folder)
    rows, figures = compare(folder)["mask_similarity"]
    masks = [
        np.concatenate([m.ravel() for m in mask.values()]) for key in SMALL for mask in written[key].masks
    ]
    sizes = list(map(math.prod, LAYERS.values()))
    found = similarity.mask_similarity(
        np.array(masks), sizes, np.repeat(range(len(SMALL)), MODELS), np.tile(range(MODELS), len(SMALL))
    )
    names, expected = [*LAYERS, "total"], itertools.combinations_with_replacement(SMALL, 2)
    assert list(dict.fromkeys(map(pair_of, rows))) == list(expected)
    for row in rows:
        i, j = map(SMALL.index, pair_of(row))
        layer = names.index(row["layer"])
        assert row["jaccard"] == getattr(found, row["seeds"])[i, j, layer]
        pairs = getattr(found, f"{row['seeds']}_pairs")[i, j]
        assert row["pairs"] == pairs / (2 if i == j else 1) and row["chance"] == found.chance[i, j, layer]
        by_layer = found.chance_by_layer[i, j] if row["layer"] == "total" else math.nan
        assert row["chance_by_layer"] == pytest.approx(by_layer, nan_ok=True)
    assert len(rows) == len(names) * (21 + 15)  # of one population there is no pair of the same seed
    panels = np.stack([found.same[..., -1], found.different[..., -1]]) / found.chance_by_layer
    panels[0][np.triu_indices(len(SMALL))] = panels[1][np.triu_indices(len(SMALL), 1)] = math.nan
    np.testing.assert_allclose(figures["mask_similarity"]["panels"], panels)


def test_rows_of_structure_and_movement_are_means_over_the_networks(folder):
    written, found = write_folder(folder), compare(folder)
    rows, figures = found["mask_structure"]
    convolutions = [layer for layer in LAYERS if not layer.startswith("fc.")]
    assert [(key_of(row), row["layer"]) for row in rows] == list(itertools.product(SMALL, convolutions))
    for row in rows:
        masks = [mask[row["layer"]] for mask in written[key_of(row)].masks]
        shares = np.mean([similarity.zero_shares(mask) for mask in masks], 0)
        assert [row["filters_zero"], row["input_channels_zero"]] == pytest.approx(shares.tolist())
        chance = [similarity.chance_zero_share(m.size, (~m).sum(), m.size // len(m)) for m in masks]
        assert row["filters_zero_by_chance"] == pytest.approx(np.mean(chance))
        place = SMALL.index(key_of(row)), convolutions.index(row["layer"])
        beyond = 100 * (row["filters_zero"] - row["filters_zero_by_chance"])
        assert figures["mask_structure"]["panels"][0][place] == pytest.approx(beyond)
    rows, figures = found["weight_movement"]
    expected = {
        (key, layer): np.mean([movement[layer] for movement in written[key].movements])
        for key, layer in itertools.product(SMALL, LAYERS)
        if not (key[2] == 0.9 and layer == "fc.bias")
    }
    assert {(key_of(row), row["layer"]): row["movement"] for row in rows} == pytest.approx(expected)
    shown = ["conv1", "block1.0.conv1", "block1.0.shortcut", "fc"]  # one bias would set the colours of all
    assert figures["weight_movement"]["columns"].tolist() == shown


def test_tables_and_figures_are_written_and_drawn_anew(folder, tmp_path, capsys, empty_figures):
    write_folder(folder, with_movement=False)
    flags = ("--results", folder, "--output_dir", tmp_path / "drawn", "--format", "svg")
    assert make_figures(*flags) == 0
    printed, drawn, comparisons = capsys.readouterr().out, {}, compare(folder)
    assert set(comparisons) == {"pie_overlap", "class_recall", "mask_similarity", "mask_structure"}
    for name, (rows, figures) in comparisons.items():
        assert f"table: {folder / 'similarity' / name}.csv" in printed
        stored = list(csv.DictReader((folder / "similarity" / f"{name}.csv").open()))
        assert len(stored) == len(rows) and all(list(row) == list(rows[0]) for row in stored)
        drawn |= {f"few_digits_similarity_{figure}_3models.svg": figure for figure in figures}
        for arrays in figures.values():
            shown, settings = str(arrays["title"]).split("\n")
            assert shown.endswith(" · few digits · SupCon, supervised")
            assert settings == "3 networks of each combination (WideResNet-10-1)"
    for learning, pruning, sparsity in SMALL:
        name = f"pies_distribution_WideResNet-10-1_{pruning}_{sparsity}sparsity_3models.svg"
        drawn[f"few_digits_{learning}_{name}"] = "of a script"
    assert {path.name for path in (tmp_path / "drawn").glob("[!.]*")} == drawn.keys()
    assert f"figures: {len(drawn)} in {tmp_path / 'drawn'}\n" in printed


def test_empty_pie_sets_can_be_compared_and_drawn(folder):
    for key, images in ((SMALL[0], []), (SMALL[3], []), (SMALL[4], None)):
        write_combination(folder, key, images=images)
    rows, figures = compare(folder)["pie_overlap"]
    assert math.isnan(rows[0]["jaccard"]) and rows[1]["jaccard"] == 0 and rows[0]["pies"] == 0
    assert "pie_overlap" not in figures  # nothing but zeros
    assert make_figures("--results", folder) == 0
    stored = next(csv.DictReader((folder / "similarity/pie_overlap.csv").open()))
    assert stored["jaccard"] == "" and stored["pies"] == "0"


# What is not stored, or of another kind


def of_another_folder(path):
    """Checkpoints of the same name."""
    stored = {name: value for name, value in read_arrays(path).items() if name != "made"}
    write_arrays(path, stored, {"checkpoints": ["of another folder"], "data": "data"})


@pytest.mark.parametrize("change", [Path.unlink, of_another_folder])
def test_missing_evaluations_drop_the_comparisons_of_masks_alone(folder, change, capsys, empty_figures):
    write_folder(folder)
    change(folder / "supervised/evaluations/supervised_global_0.9_id1.npz")
    found = compare(folder)
    assert make_figures("--results", folder) == 0
    assert "not compared: masks of supervised global 0.9: run its PIE script again" in capsys.readouterr().out
    rest = {key for key in SMALL if key != ("supervised", "global", 0.9)}
    assert {key_of(row, prefix) for row in found["mask_similarity"][0] for prefix in ("", "other_")} == rest
    assert {key_of(row) for row in found["mask_structure"][0]} == rest
    for name in ("pie_overlap", "class_recall", "weight_movement"):
        assert {key_of(row) for row in found[name][0]} == set(SMALL)
    for path in folder.glob("*/evaluations/*.npz"):
        path.unlink()
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


# Pictures


def heat_maps(panels, rows, columns, **how):
    """The arrays of heat maps of combinations with these names."""
    combinations = [SimpleNamespace(method=row, sparsity=0) for row in rows]
    kind = across.Kind(None, "", "title", "Jaccard similarity", **how)
    with mock.patch.object(across, "title", lambda combinations, shown: shown):
        return across.heat_maps(combinations, kind, across.Measured([], [""], {}, panels, columns))


def test_heat_maps_and_bars_show_all_names_and_nothing_lies_on_anything_else(folder):
    write_folder(folder, LONG)
    for arrays in (arrays for _, figures in compare(folder).values() for arrays in figures.values()):
        figure = drawn(str(arrays["figure"]), arrays)
        check_nothing_overlaps(figure)
        if "panels" not in arrays:
            legend = [text.get_text() for text in figure.legends[0].get_texts()][::-1]  # as bars stand
            sizes = arrays["counts"].sum(1).tolist()
            names = [*(f"only {each}" for each in arrays["sets"]), "in two sets or more"]
            assert legend == [f"{each} ({size})" for each, size in zip(names, sizes)]
            continue
        rows = [text.get_text() for text in figure.axes[0].get_yticklabels()]
        assert rows == list(arrays["rows"])
        written = [text.get_text() for text in figure.axes[0].texts]
        assert written == arrays["texts"][0].ravel().tolist()
        assert [text == "" for text in written] == np.isnan(arrays["panels"][0]).ravel().tolist()


def test_colours_of_heat_maps_are_of_one_scale_and_texts_are_told_from_them():
    panels = {"one": np.array([[0.0, 1.0], [math.nan, 0.5]]), "other": np.array([[0.25, 2.0], [0, 0]])}
    arrays = heat_maps(panels, ["a", "b"], ["d", "e"])
    assert arrays["texts"] == [[["0.00", "1.00"], ["", "0.50"]], [["0.25", "2.00"], ["0.00", "0.00"]]]
    figure = plots.draw({key: np.asarray(value) for key, value in arrays.items()})
    images = [axes.images[0] for axes in figure.axes if axes.images and axes.texts]
    assert figure.axes[-1].get_ylabel().split() == ["Jaccard", "similarity"]  # of the bar of colours
    highest = np.percentile([0, 1, 0.5, 0.25, 2, 0, 0], 98)  # one cell does not set the colours of all
    assert [image.get_clim() for image in images] == [(0, highest)] * 2
    for axes in figure.axes:
        for text in axes.texts:
            column, row = (int(value) for value in text.get_position())
            if text.get_text():
                red, green, blue, _ = axes.images[0].cmap(
                    axes.images[0].norm(axes.images[0].get_array()[row, column])
                )
                assert text.get_color() == (
                    "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.5 else "black"
                )
    diverging = heat_maps({"one": np.array([[-3.0, 1.0]])}, ["a"], ["b", "c"], diverging=True, decimals=0)
    figure = plots.draw({key: np.asarray(value) for key, value in diverging.items()})
    assert figure.axes[0].images[0].get_clim() == pytest.approx((-2.96, 2.96))
    assert [text.get_text() for text in figure.axes[0].texts] == ["-3", "+1"]
