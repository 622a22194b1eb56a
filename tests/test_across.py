"""Comparisons across learning methods, pruning methods and sparsities, from made-up results."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
import stored_results
from conftest import read_csv
from stored_results import CLASS_NAMES, LAYERS, make_results, population_path, pruned_populations, rewrite
from test_evidence import Stored
from test_plots import check_nothing_overlaps, drawn

from common.store.files import write_arrays
from common.store.table import KEY_COLUMNS
from figures import make_figures
from figures.report import across, similarity

IMAGES, MODELS = 90, 3
KEYS = list(itertools.product(("SupCon", "supervised"), ("global",), (0.5, 0.9)))  # in the table's order
RESULTS = dict(models=MODELS, methods=("global",), sparsities=(0.5, 0.9), images=IMAGES)
RESULTS |= dict(depths=False, umap=False, q_score=False)
SIZES = list(map(math.prod, LAYERS.values()))


@pytest.fixture
def folder(tmp_path):
    make_results(tmp_path / "few digits", **RESULTS)
    return tmp_path / "few digits"


def stored_in(folder):
    return {key: Stored(folder, key) for key in KEYS}


def masks_of(folder, key):
    """What each network keeps, one bool a weight."""
    paths = [folder / key[0] / "evaluations/{}_{}_{}_id{}.npz".format(*key, each) for each in range(MODELS)]
    return [np.unpackbits(np.load(path)["mask_bits"], count=sum(SIZES)).astype(bool) for path in paths]


def compare(folder):
    """name -> (its rows, all figures)"""
    tables, figures, _ = across.compare_all(pruned_populations(folder))
    return {name: (rows, figures) for name, rows in tables.items()}


def make(folder, *flags):
    return make_figures.main(["--results", str(folder), *map(str, flags)])


def key_of(row, prefix=""):
    return tuple(row[f"{prefix}{column}"] for column in KEY_COLUMNS)


def pair_of(row):
    return key_of(row), key_of(row, "other_")


def test_files_of_something_else_are_ignored(folder):
    write_arrays(folder / "SupCon/populations/foreign.npz", {"is_pie": np.zeros(3, bool)}, {"data": "data"})
    assert list(map(stored_results.key_of, pruned_populations(folder))) == KEYS


# Tables and the arrays of figures


def test_rows_and_figures_of_pies_hold_the_overlaps_of_their_pairs(folder):
    stored, (rows, figures) = stored_in(folder), compare(folder)["pie_overlap"]
    assert list(map(pair_of, rows)) == list(itertools.permutations(KEYS, 2))
    for row in rows:
        first, second = ({*np.flatnonzero(stored[key].is_pie)} for key in pair_of(row))
        assert (row["pies"], row["other_pies"]) == (len(first), len(second))
        assert row["jaccard"] == pytest.approx(len(first & second) / len(first | second))
        chance = similarity.expected_jaccard(len(first), len(second), IMAGES)
        assert row["chance_jaccard"] == pytest.approx(chance)
        i, j = map(KEYS.index, pair_of(row))
        over_chance = row["jaccard"] / row["chance_jaccard"] if i > j else math.nan  # one triangle
        assert figures["pie_overlap"]["panels"][0, i, j] == pytest.approx(over_chance, nan_ok=True)
    assert figures["pie_overlap"]["rows"][1] == "SupCon global, 90 % pruned · 2"
    for sparsity in (0.5, 0.9):
        chosen = [one for key, one in stored.items() if key[2] == sparsity]
        is_pie, labels = np.array([one.is_pie for one in chosen]), np.array(chosen[0].truth)
        counts = similarity.common_and_unique_pies(is_pie, labels, 4)
        assert np.array_equal(figures[f"pies_per_class_{sparsity}sparsity"]["counts"], counts)


@pytest.mark.filterwarnings("ignore:Precision loss")  # where all networks have the same recall
@pytest.mark.parametrize("ids", [(2, 0, 1), (4, 2, 1, 7)], ids=["all shared", "some shared"])
def test_rows_and_figure_of_recalls_hold_both_tests_of_every_class(tmp_path, ids, monkeypatch):
    make_results(tmp_path, **RESULTS, ids=dict.fromkeys(KEYS, list(ids)))
    monkeypatch.setattr(across, "SIGNIFICANT", 0.5)
    stored, (rows, figures) = stored_in(tmp_path), compare(tmp_path)["class_recall"]
    assert [(key_of(row), row["class"]) for row in rows] == list(itertools.product(KEYS, CLASS_NAMES[:4]))
    for row in rows:
        one, c = stored[key_of(row)], CLASS_NAMES.index(row["class"])
        of_class = np.array(one.truth) == c

        def recalls(networks, ids, one=one, of_class=of_class):
            """Of each network, and their mean accuracy."""
            right = np.array([networks[each]["predictions"] == one.truth for each in ids])
            return right[:, of_class].mean(1), right.mean()

        (pruned, accuracy), (dense, dense_accuracy) = (
            recalls(each, one.ids) for each in (one.pruned, one.dense)
        )
        assert [row["recall"], row["dense_recall"]] == pytest.approx([pruned.mean(), dense.mean()])
        relative = pruned - accuracy, dense - dense_accuracy
        assert row["difference"] == pytest.approx(relative[0].mean() - relative[1].mean())
        welch = scipy.stats.ttest_ind(*relative, equal_var=False).pvalue
        varies = np.ptp(relative[0] - relative[1]) > 1e-9
        paired = scipy.stats.ttest_rel(*relative).pvalue if varies else math.nan
        assert [row["welch_p"], row["paired_p"]] == pytest.approx([welch, paired], nan_ok=True)
        assert row["models"] == len(one.ids)
        text = figures["class_recall"]["texts"][0][KEYS.index(key_of(row))][c]
        star = "*" * bool(row["paired_p_holm"] < 0.5)
        assert text == f"{round(100 * row['difference'], 1) + 0.0:+.1f}{star}"
    for key in KEYS:
        of_key = [row for row in rows if key_of(row) == key]
        corrected = similarity.holm(np.array([row["paired_p"] for row in of_key]))
        assert [row["paired_p_holm"] for row in of_key] == pytest.approx([*corrected], nan_ok=True)


def test_rows_and_figures_of_masks_hold_the_similarities_of_their_pairs(folder):
    rows, figures = compare(folder)["mask_similarity"]
    masks = np.array([mask for key in KEYS for mask in masks_of(folder, key)])
    groups, seeds = np.repeat(range(len(KEYS)), MODELS), np.tile(range(MODELS), len(KEYS))
    found = similarity.mask_similarity(masks, SIZES, groups, seeds)
    names, expected = [*LAYERS, "total"], itertools.combinations_with_replacement(KEYS, 2)
    assert list(dict.fromkeys(map(pair_of, rows))) == list(expected)
    for row in rows:
        i, j = map(KEYS.index, pair_of(row))
        layer = names.index(row["layer"])
        assert row["jaccard"] == getattr(found, row["seeds"])[i, j, layer]
        pairs = getattr(found, f"{row['seeds']}_pairs")[i, j]
        assert row["pairs"] == pairs / (2 if i == j else 1) and row["chance"] == found.chance[i, j, layer]
        by_layer = found.chance_by_layer[i, j] if row["layer"] == "total" else math.nan
        assert row["chance_by_layer"] == pytest.approx(by_layer, nan_ok=True)
    assert len(rows) == len(names) * (10 + 6)  # of one population there is no pair of the same seed
    panels = np.stack([found.same[..., -1], found.different[..., -1]]) / found.chance_by_layer
    panels[0][np.triu_indices(len(KEYS))] = panels[1][np.triu_indices(len(KEYS), 1)] = math.nan
    np.testing.assert_allclose(figures["mask_similarity"]["panels"], panels)


def test_rows_of_movement_are_means_over_the_networks_of_what_is_recorded(folder):
    expected = {}
    for key in KEYS:
        path, layers = population_path(folder, key), list(LAYERS)[: -1 if key[2] == 0.9 else None]
        movement = np.load(path)["movement"][:, : len(layers)]
        rewrite(path, movement=movement, movement_layers=layers)
        expected |= {(key, layer): sum(values) / MODELS for layer, values in zip(layers, movement.T)}
    rows, figures = compare(folder)["weight_movement"]
    assert {(key_of(row), row["layer"]): row["movement"] for row in rows} == pytest.approx(expected)
    shown = ["conv1", "block1.0.conv1", "block1.0.shortcut", "fc"]  # one bias would set the colours of all
    assert list(figures["weight_movement"]["columns"]) == shown


def test_tables_are_written_and_figures_name_what_is_shown(folder, capsys, empty_figures):
    assert make(folder) == 0
    printed = capsys.readouterr().out
    for name, (rows, figures) in compare(folder).items():
        assert f"table: {folder / 'similarity' / name}.csv" in printed
        stored = read_csv(folder / "similarity" / f"{name}.csv")
        assert len(stored) == len(rows) and all(list(row) == list(rows[0]) for row in stored)
        for arrays in figures.values():
            shown, settings = str(arrays["title"]).split("\n")
            assert shown.endswith(" · few digits · SupCon, supervised")
            assert settings == "3 networks of each combination (WideResNet-10-1)"


def test_empty_pie_sets_can_be_compared(tmp_path, empty_figures):
    changed = lambda learning, method, sparsity: 0.9 if (learning, sparsity) == KEYS[3][::2] else 0.0
    make_results(tmp_path, **RESULTS, damage=changed)
    rows, figures = compare(tmp_path)["pie_overlap"]
    assert math.isnan(rows[0]["jaccard"]) and rows[2]["jaccard"] == 0 and rows[0]["pies"] == 0
    assert "pie_overlap" not in figures  # nothing but zeros
    assert make(tmp_path) == 0
    stored = read_csv(tmp_path / "similarity/pie_overlap.csv")[0]
    assert stored["jaccard"] == "" and stored["pies"] == "0"


# What is not stored, or of another kind


@pytest.mark.parametrize("is_there", [False, True])
def test_missing_evaluations_drop_the_comparisons_of_masks_alone(folder, is_there, capsys, empty_figures):
    path = folder / "supervised/evaluations/supervised_global_0.9_id1.npz"
    rewrite(path, made={"checkpoints": ["of another folder"]}) if is_there else path.unlink()
    found = compare(folder)
    assert make(folder) == 0
    assert "not compared: masks of supervised global 0.9: run its PIE script again" in capsys.readouterr().out
    assert {key for row in found["mask_similarity"][0] for key in pair_of(row)} == {*KEYS[:3]}
    for name in ("pie_overlap", "class_recall", "weight_movement"):
        assert {key_of(row) for row in found[name][0]} == {*KEYS}
    for path in folder.glob("*/evaluations/*.npz"):
        path.unlink()
    assert set(compare(folder)) == {"pie_overlap", "class_recall", "weight_movement"}


def test_masks_of_other_architectures_are_left_out(folder, monkeypatch):
    monkeypatch.setitem(LAYERS, "block1.layer.0.conv1.weight", (7, 4, 3, 3))
    more = {"learning": ("supervised",), "methods": ("GMP",), "sparsities": (0.5,)}
    make_results(folder, **RESULTS | more)
    found = compare(folder)
    assert {key for row in found["mask_similarity"][0] for key in pair_of(row)} == {*KEYS}
    assert {key_of(row) for row in found["pie_overlap"][0]} == {*KEYS, ("supervised", "GMP", 0.5)}


def test_results_of_different_data_are_refused_in_one_line(folder, capsys):
    rewrite(population_path(folder, KEYS[0]), made={"data": "of other images"})
    assert make(folder) == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1 and "different versions of the data" in shown and str(folder) in shown


def test_one_combination_alone_is_compared_with_the_dense_networks_only(tmp_path, empty_figures):
    make_results(tmp_path, **RESULTS | {"learning": ("SupCon",), "sparsities": (0.5,)})
    found = compare(tmp_path)
    assert found["pie_overlap"][0] == [] and len(found["class_recall"][0]) == 4
    assert {row["seeds"] for row in found["mask_similarity"][0]} == {"different"}
    assert make(tmp_path) == 0
    written = (tmp_path / "similarity/pie_overlap.csv").read_text()
    assert written == "learning_method,pruning_method,sparsity\n"


LONG = ("global_magnitude_increase_iterative0.2_rewind0", "GMP_global_magnitude_increase")


def test_heat_maps_and_bars_show_all_names_and_nothing_lies_on_anything_else(tmp_path):
    make_results(tmp_path, **RESULTS | {"methods": LONG, "sparsities": (0.5, 0.9024)})
    for arrays in compare(tmp_path)["pie_overlap"][1].values():
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
        assert written == [text for row in arrays["texts"][0] for text in row]
        assert [text == "" for text in written] == np.isnan(arrays["panels"][0]).ravel().tolist()
