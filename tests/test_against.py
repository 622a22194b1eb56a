"""Two runs side by side: every number found again by slow votes, what differs named, nothing else written."""

import json
import statistics
from dataclasses import replace

import pytest
from conftest import read_csv
from stored_results import make_results, population_path, pruned_populations, rewrite
from test_evidence import Stored, estimate, half_samples, variance

from common.store.files import read_arrays
from figures import make_figures
from figures.report import two_runs
from figures.report.measures import Pair
from figures.report.read import load_outputs, with_dense
from figures.report.similarity import expected_jaccard

KEY = ("SupCon", "global", 0.9)


def settings_of(folder, key, settings, seeds=None):
    """Writes a population's settings, and its seeds, into its file."""
    path = population_path(folder, key)
    runs = json.loads(str(read_arrays(path)["runs"]))
    runs["seeds"] = seeds or runs["seeds"]
    rewrite(path, settings=json.dumps(settings), runs=json.dumps(runs))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs of 7 networks; of `colder` the supervised networks have seeds of their own."""
    folder = tmp_path_factory.mktemp("pies")
    warm, colder = folder / "few digits", folder / "few digits" / "runs" / "colder"
    few = dict(umap=False, q_score=False)
    make_results(warm, methods=("global",), sparsities=(0.5, 0.9), **few)
    harder = dict(damage=lambda learning, method, sparsity: 0.4 + sparsity)
    make_results(colder, methods=("global", "GMP"), sparsities=(0.9,), depth_models=5, **harder, **few)
    for each, temperature in ((warm, 0.5), (colder, 0.1)):
        settings_of(each, ("SupCon", "dense", 0.0), {"temperature": temperature, "epochs": 3})
        settings_of(each, KEY, {"epochs": 2, "dense": {"temperature": temperature}})
    settings_of(colder, ("supervised", "global", 0.9), {}, list(range(1_000_000, 1_000_007)))
    assert make_figures.main(["--results", str(warm), "--against", str(colder)]) == 0
    return warm, colder


def report_folder(warm):
    [folder] = (warm / "against").iterdir()
    return folder


def rows_of(warm, name):
    return read_csv(report_folder(warm) / f"{name}.csv")


def row_of(warm, key, measure):
    found = [row for row in rows_of(warm, "differences") if row["measure"] == measure]
    [row] = [row for row in found if (row["learning_method"], row["pruning_method"]) == key[:2]]
    return row


def same(row, expected):
    for name, value in expected.items():
        assert float(row[name]) == pytest.approx(value, abs=1e-5), name


def test_what_differs_is_named_once(runs):
    rows = [tuple(row.values()) for row in rows_of(runs[0], "changed")]
    assert ("SupCon", "dense", "temperature", "0.5", "0.1", "0") in rows
    assert not any("epochs" in row or "dense.temperature" in row for row in rows)


def test_paired_numbers_equal_slow_differences_seed_by_seed(runs):
    warm, colder = (Stored(folder, KEY) for folder in runs)
    ids = tuple(warm.ids)

    def count(chosen):
        return len(warm.pies(tuple(chosen))) - len(colder.pies(tuple(chosen)))

    halves = [count(half) for half in half_samples(list(ids))]
    places = len(halves) // 2  # of 7 seeds, halves of 3 and of 4 vary apart
    spread = (variance(halves[:places]) + variance(halves[places:])) / 2
    expected = estimate(count(ids), spread, 6, 7)
    row = row_of(runs[0], KEY, "pies")
    same(row, expected | {"first": len(warm.pies(ids)), "second": len(colder.pies(ids))})
    assert row["paired"] == "True"
    differences = [
        (warm.pruned[each]["predictions"] == warm.truth).mean()
        - (colder.pruned[each]["predictions"] == colder.truth).mean()
        for each in ids
    ]
    expected = estimate(statistics.fmean(differences), statistics.variance(differences) / 7, 6, 7)
    same(row_of(runs[0], KEY, "accuracy"), expected)


def test_depths_are_of_the_seeds_that_were_probed_in_both(runs):
    warm, colder = (Stored(folder, KEY).depth for folder in runs)
    assert (len(warm), len(colder)) == (6, 5)
    differences = [warm[each].mean() - colder[each].mean() for each in colder]
    row = row_of(runs[0], KEY, "depth")
    assert row["models"] == "5" and row["low"] == ""
    assert float(row["value"]) == pytest.approx(statistics.fmean(differences), abs=1e-5)


def test_the_overlap_of_pies_stands_beside_that_of_random_sets(runs):
    sets = [Stored(folder, KEY).pies(tuple(range(7))) for folder in runs]
    row = row_of(runs[0], KEY, "overlap")
    common, either = len(sets[0] & sets[1]), len(sets[0] | sets[1])
    same(row, {"value": common / either, "chance": expected_jaccard(*map(len, sets), 60)})
    assert float(row["low"]) < common / either < float(row["high"])


def test_pies_among_other_images_have_no_overlap(runs):
    [first, *_], _ = load_outputs(pruned_populations(runs[1]))
    for data, expected in ((first.made["data"], True), ("other images", False)):
        pair = Pair(first, replace(first, made=first.made | {"data": data}), paired=True)
        measures = {row["measure"] for row in two_runs.run_differences(pair)}
        assert ("overlap" in measures) is expected
    external = replace(first, arrays=first.arrays | {"dense_runs": '{"made_elsewhere": 1}'})
    assert two_runs.run_pair(first, external).paired
    assert with_dense([external])[0].runs == {"made_elsewhere": 1}
    other = replace(external, made={"dense_checkpoints": []})
    assert not two_runs.run_pair(first, other).paired


def test_networks_of_other_seeds_are_not_paired(runs):
    key = ("supervised", "global", 0.9)
    row = row_of(runs[0], key, "pies")
    counts = []
    for folder in runs:
        stored = Stored(folder, key)
        halves = [len(stored.pies(tuple(half))) for half in half_samples(stored.ids)]
        places = len(halves) // 2
        spread = (variance(halves[:places]) + variance(halves[places:])) / 2
        counts.append((len(stored.pies(tuple(stored.ids))), spread))
    (first, spread), (second, other) = counts
    degrees = (spread + other) ** 2 / (spread**2 / 6 + other**2 / 6)
    same(row, estimate(first - second, spread + other, degrees, 7))
    assert row["paired"] == "False"


def test_the_page_says_what_only_one_run_has(runs):
    page = (report_folder(runs[0]) / "report.html").read_text(encoding="utf-8")
    overlap = float(row_of(runs[0], KEY, "overlap")["value"])
    assert "SupCon GMP 0.9" in page and f">{overlap:.3f} [" in page and "<figure" not in page
    assert not (runs[0] / "report.html").exists()


def test_runs_without_anything_in_common_are_refused(tmp_path, capsys):
    make_results(tmp_path / "a", methods=("global",), sparsities=(0.5,), umap=False)
    make_results(tmp_path / "b", methods=("GMP",), sparsities=(0.5,), umap=False)
    command = ["--results", str(tmp_path / "a"), "--against", str(tmp_path / "b")]
    assert make_figures.main(command) == 2
    assert "share no learning method, pruning method and sparsity" in capsys.readouterr().err


def test_figures_of_a_run_name_it(runs):
    name = make_figures.figure_name(runs[1] / "report/pies_against_sparsity.npz", runs[1], [7])
    assert name == "few_digits_colder_report_pies_against_sparsity_7models"
