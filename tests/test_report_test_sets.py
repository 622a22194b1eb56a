"""The report's section on other test images: every number found again by slow counts, what is of other
networks left out and named."""

import argparse
import json
import math
import re

import numpy as np
import pytest
from conftest import read_csv, without_figures
from stored_results import make_results, rewrite
from test_evidence import (
    Stored,
    accuracy,
    estimate,
    half_sampled,
    half_samples,
    share,
    student,
    variance_of_halves,
)
from test_report import Page

from common.corruptions import CLEAN
from common.store.files import read_arrays
from common.values import run_name
from figures import make_figures

LEARNING, SPARSITIES = ("SupCon", "supervised"), (0.5, 0.9)
SMALL = dict(models=6, methods=("global",), sparsities=SPARSITIES, umap=False, q_score=False, depths=False)
COMMAND = "clr_pie_kmodels_detection.py with v6"
SETS = ("blur_2", "noise_1", "noise_3", "v6")  # blur_2 has other labels; v6 no supervised networks


def make(folder, *flags):
    return make_figures.main(["--results", str(folder), *map(str, flags)])


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pies") / "few digits"
    make_results(folder, **SMALL)
    for name, shift in (("noise_1", 0.3), ("noise_3", 0.9)):
        make_results(folder / "test_sets" / name, **SMALL, shift=shift)
    make_results(folder / "test_sets/blur_2", **SMALL, images=50, shift=0.5)
    make_results(folder / "test_sets/v6", **SMALL, learning=("SupCon",), images=40, shift=0.5)
    path = folder / "test_sets/v6/SupCon/populations/global_0.9.npz"
    runs = json.loads(str(read_arrays(path)["runs"]))
    rewrite(path, runs=json.dumps(runs | {"analysis": COMMAND}))
    with without_figures():
        assert make(folder) == 0
    return folder


def rows_of(folder):
    return read_csv(folder / "report/test_sets.csv")


def page_of(folder):
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def same(row, name, expected):
    for end in ("value", "low", "high"):
        found = row[f"{name}_{end}" if end != "value" else name]
        wanted = expected[end]
        assert (found == "") if math.isnan(wanted) else float(found) == pytest.approx(wanted, abs=2e-6), name


def bounded(expected, low, high):
    return expected | {end: min(max(expected[end], low), high) for end in ("low", "high")}


def by_chance(size, other, images):
    """The mean Jaccard similarity of random sets: over the sizes of their intersection."""
    ways = {
        common: math.comb(size, common) * math.comb(images - size, other - common)
        for common in range(max(0, size + other - images), min(size, other) + 1)
    }
    return sum(n * common / (size + other - common) for common, n in ways.items()) / sum(ways.values())


def both_of(results, row):
    sparsity = float(row["sparsity"]) or SPARSITIES[0]  # the dense networks stand with the pruned ones
    key = row["learning_method"], "global", sparsity
    return Stored(results / "test_sets" / row["test_set"], key), Stored(results, key)


def test_every_population_of_both_has_a_row(results):
    rows = rows_of(results)
    found = [(row["test_set"], row["learning_method"], float(row["sparsity"])) for row in rows]
    every = [(name, each) for name in SETS for each in LEARNING][:-1]
    assert found == [(*each, sparsity) for each in every for sparsity in (0.0, *SPARSITIES)]
    images = {row["test_set"]: row["images"] for row in rows}
    assert images == {"blur_2": "50", "noise_1": "60", "noise_3": "60", "v6": "40"}


def test_pies_and_their_likeness_by_slow_votes(results):
    for row in rows_of(results):
        if row["pruning_method"] == "dense":
            assert row["pies"] == row["clean_pies"] == row["jaccard"] == ""
            continue
        other, clean = both_of(results, row)
        ids = tuple(clean.ids)
        for name, stored in (("pies", other), ("clean_pies", clean)):
            same(row, name, half_sampled(lambda half: len(stored.pies(half)), ids, (0, len(stored.images))))
        if row["test_set"] not in ("noise_1", "noise_3"):  # of other images, or other labels
            assert row["jaccard"] == row["jaccard_chance"] == ""
            continue

        def common(half):
            return len(other.pies(half) & clean.pies(half))

        def either(half):
            return len(other.pies(half) | clean.pies(half))

        halves = half_samples(ids)
        parts, wholes = ([count(half) for half in halves] for count in (common, either))
        residuals = [a - sum(parts) / sum(wholes) * u for a, u in zip(parts, wholes)]
        spread = variance_of_halves(residuals, halves) / (either(ids) * sum(wholes) / len(wholes))
        value = share(other.pies(ids) & clean.pies(ids), other.pies(ids) | clean.pies(ids))
        same(row, "jaccard", estimate(value, spread, 5, 6, (0, 1)))
        chance = by_chance(len(other.pies(ids)), len(clean.pies(ids)), 60)
        assert float(row["jaccard_chance"]) == pytest.approx(chance, abs=2e-6)


def test_the_page_has_a_line_for_each_row_and_names_the_commands(results):
    page, rows = page_of(results), rows_of(results)
    [(titles, *lines)] = [lines for _, lines in page.tables if lines[0][0] == "test set"]
    assert titles[:4] == ["test set", "method", "pruning", "sparsity"] and len(lines) == len(rows)
    for row, line in zip(rows, lines):
        assert line[:2] == [row["test_set"], row["learning_method"]] and line[5] == row["images"]
        assert line[6].startswith(f"{100 * float(row['accuracy']):.2f} [")
        assert (line[11] == "") == (row["jaccard"] == "")
    assert rows[-1]["command"] == COMMAND and page.text.count(f"python {COMMAND}") == 1
    for name in ("accuracy", "pie_share"):
        series = read_arrays(results / f"report/test_sets_{name}.npz")["series"].tolist()
        wanted = {f"{each} global · {test_set}" for each in LEARNING for test_set in (CLEAN, *SETS)}
        assert sorted(series) == sorted(wanted - {"supervised global · v6"})


def test_accuracies_and_their_difference_are_those_of_the_same_networks(results):
    for row in rows_of(results):
        whose = "dense" if row["pruning_method"] == "dense" else "pruned"
        means = [
            [accuracy(getattr(stored, whose)[one], stored.truth) for one in stored.ids]
            for stored in both_of(results, row)
        ]
        for name, values in zip(("accuracy", "clean_accuracy"), means):
            same(row, name, bounded(student(values), 0, 1))
        same(row, "difference", student([first - second for first, second in zip(*means)]))


def test_what_is_of_other_networks_or_not_stored_is_named_and_left_out(tmp_path, empty_figures, capsys):
    folder = tmp_path / "few digits"
    make_results(folder, **SMALL)
    key = ("SupCon", "global", 0.5)  # the first, with which the dense networks are stored
    make_results(folder / "test_sets/noise_1", **SMALL, ids={key: [0, 1, 2, 3, 4, 9]})
    make_results(folder / "test_sets/v6", **SMALL | dict(learning=("supervised",)))
    (folder / "test_sets/halted").mkdir()
    for name, part in (("torn", "populations"), ("lost", "evaluations")):
        make_results(folder / "test_sets" / name, **SMALL | dict(learning=("supervised",)))
        next((folder / "test_sets" / name / "supervised" / part).glob("*0.9*")).write_bytes(b"torn")
    assert make(folder) == 0
    capsys.readouterr()
    assert make(folder, "--release", tmp_path / "copy") == 2
    assert [path.name for path in (tmp_path / "copy").iterdir()] == [".locks"]
    assert re.search(r"test_sets/(lost|torn)/supervised/.*damaged", capsys.readouterr().err)
    found = {(row["test_set"], row["learning_method"], row["sparsity"]) for row in rows_of(folder)}
    every = [
        (name, each) for name in ("noise_1", "v6") for each in LEARNING if (name, each) != ("v6", "SupCon")
    ]
    wanted = {(name, each, str(s)) for name, each in every for s in (0.0, *SPARSITIES)}
    wanted -= {("noise_1", "SupCon", "0.5")}
    assert found == wanted | {("lost", "supervised", "0.0"), ("lost", "supervised", "0.5")}
    text = page_of(folder).text
    line = "test set noise_1: the clean results come from different networks: SupCon global 0.5; run the PIE"
    assert line in text
    for name in ("halted", "torn"):
        assert f"test set {name}: " in text
    assert "test set lost, everything but its figures of supervised global 0.9: the predictions" in text
    assert "prediction depth of supervised global 0.9: run" in text  # of the clean images alone
    assert "test set v6" not in text


def test_a_release_has_the_same_section(results, tmp_path, empty_figures):
    copy = tmp_path / "copy" / "few digits"
    assert make(results, "--release", copy) == 0 and make(copy) == 0
    assert rows_of(copy) == rows_of(results)
    for name in ("accuracy", "pie_share"):
        pictures = [(each / f"report/test_sets_{name}.npz").read_bytes() for each in (results, copy)]
        assert pictures[0] == pictures[1]
    stored = [path for path in copy.glob("test_sets/*/*/*/*.npz")]
    assert {path.parent.name for path in stored} == {"populations", "evaluations"}
    assert not any("mask_bits" in np.load(path) for path in stored)
    assert json.loads(str(np.load(stored[0])["made"]))["data"] == "sum of the data"


def test_a_test_set_named_clean_is_not_the_clean_images(tmp_path, empty_figures):
    folder = tmp_path / "few digits"
    make_results(folder, **SMALL)
    make_results(folder / "test_sets/clean", **SMALL, shift=0.5)
    assert make(folder) == 0
    # As many images with the same labels are not the clean images.
    assert all(row["test_set"] == "clean" and "jaccard" not in row for row in rows_of(folder))
    series = read_arrays(folder / "report/test_sets_accuracy.npz")["series"].tolist()
    assert series == [f"{method} global · {name}" for method in LEARNING for name in (CLEAN, "clean")]
    with pytest.raises(argparse.ArgumentTypeError):  # it can name no folder of results
        run_name(CLEAN)
