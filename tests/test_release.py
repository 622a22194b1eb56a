"""Results that are small enough to publish give the report of those that they are a copy of."""

import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from conftest import GOLDEN_HERE, read_csv, without_figures
from stored_results import make_results
from test_report import Page

from common.store.files import read_arrays
from figures import make_figures
from figures.report import release


def make(folder, *flags):
    return make_figures.main(["--results", str(folder), *map(str, flags)])


def numbers_of(folder):
    rows = read_csv(folder / "report" / "evidence.csv")
    columns = ("claim", "measure", "comparison", "sparsity", "mark", "value", "low", "high")
    return [[row[column] for column in columns] for row in rows]


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    results = tmp_path_factory.mktemp("pies") / "few digits"
    make_results(results, methods=("global",), sparsities=(0.9,), images=1200)
    copy = results.parent / "copy" / "few digits"
    with without_figures():
        assert make(results, "--release", copy) == 0 and make(copy) == 0
    return results, copy


def test_a_copy_gives_the_same_evidence_to_the_digits_that_are_shown(released):
    rows, copied = map(numbers_of, released)
    assert len(rows) == len(copied) > 6
    for row, other in zip(rows, copied):
        assert row[:5] == other[:5]
        for value, again in zip(row[5:], other[5:]):
            assert (value == again == "") or float(again) == pytest.approx(float(value), abs=2e-4)


def test_a_copy_holds_many_values_in_two_bytes_and_the_rest_as_it_was(released):
    results, copy = released
    sizes = [sum(path.stat().st_size for path in each.rglob("*/evaluations/*.npz")) for each in released]
    assert sizes[1] < sizes[0]
    for path in copy.glob("*/evaluations/*.npz"):
        stored, original = np.load(path), read_arrays(results / path.relative_to(copy))
        assert set(stored.files) <= set(release.OF_NETWORKS) and stored["q_score"].dtype == np.float16
        assert read_arrays(path)["q_score"].dtype == np.float32
        assert np.array_equal(stored["predictions"], original["predictions"])


@pytest.mark.parametrize("values", [np.full(2000, 7e4), np.arange(3.0), np.arange(5000)])
def test_what_two_bytes_do_not_hold_stays(values):
    assert release.rounded(values).dtype == values.dtype


def test_an_array_without_values_is_copied_without_a_warning():
    with warnings.catch_warnings(action="error"):
        assert np.isnan(release.rounded(np.full(2000, np.nan))).all()


# folder in figures/results -> its section in docs/report.md, pinned tables, claims that it judges
STUDIES = {
    "CIFAR-10, JPEG, external": ("trained by others\n", "released_external_tables.txt", ["4"]),
    "CIFAR-10, JPEG": ("trained here\n", "released_own_tables.txt", ["1", "2", "3", "4"]),
}


@pytest.fixture(scope="module", params=list(STUDIES))
def study(request, tmp_path_factory):
    """The name of a study, the page that is made from its arrays in figures/results, and its folder."""
    folder = tmp_path_factory.mktemp("released") / request.param
    shutil.copytree(Path(__file__).parent.parent / "figures/results" / request.param, folder)
    with without_figures():
        assert make(folder) == 0
    return request.param, (folder / "report.html").read_text(encoding="utf-8"), folder


def test_a_population_without_a_measure_is_not_in_its_figure(study):
    name, _, folder = study
    drawn = read_arrays(folder / "report/cka_against_sparsity.npz")
    assert drawn["networks"].tolist() == ["6"] * (4 if name == "CIFAR-10, JPEG" else 2)


def test_the_released_study_gives_the_pinned_tables(study):
    """Every cell of every table of the page. To pin them anew: write `lines` into the file."""
    (name, page, _), lines = study, []
    for heading, rows in Page(page).tables:
        title = heading.split("--")[0]  # of the last table the commands follow, with the folder
        lines += ["\t".join(" ".join(cell.split()) for cell in row) for row in [[f"# {title}"], *rows]]
    assert lines == (GOLDEN_HERE / STUDIES[name][1]).read_text(encoding="utf-8").splitlines()


def test_the_released_study_makes_the_claims_of_the_docs(study):
    """Verdicts and sizes of its table stand in the report that is made from the arrays in figures/results."""
    (name, page, _), docs = study, Path(__file__).parent.parent / "docs/report.md"
    heading, _, numbers = STUDIES[name]
    section = docs.read_text(encoding="utf-8").partition(heading)[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([1-4]) \| ([a-z ]+) \| (.*) \| .*\|$", section, re.MULTILINE)
    assert [number for number, *_ in rows] == numbers
    page = re.sub("<[^>]+>", " ", page)
    for number, verdict, sizes in rows:
        assert re.search(rf"Claim {number}\..*\n?.*\s{verdict}\s", page)
        for size in re.findall(r"[+−][0-9.]+ \[[^]]+\]", sizes):
            assert size in page, size
