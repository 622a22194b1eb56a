"""Stored arrays, the table, evaluations and figures."""

import csv
import dataclasses
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import read_csv
from test_plots import depths

from common import comparison, metrics, models, neighbours, plots, process, study
from common import evaluation as common_evaluation
from common.cli import UserError
from common.settings import Architecture
from common.store import evaluation, files, populations, records, table
from common.store.names import CheckpointName
from figures.report import tables


def test_arrays_come_back_only_when_made_from_the_same(tmp_path):
    path = tmp_path / "folder" / "arrays.npz"
    files.write_arrays(path, {"x": np.arange(3)}, {"checkpoints": ["a"]})
    assert (files.read_arrays(path, {"checkpoints": ["a"]})["x"] == np.arange(3)).all()
    assert files.read_arrays(path, {"checkpoints": ["b"]}) is None
    files.write_arrays(tmp_path / "older.npz", {}, {"format": files.FORMAT - 1})
    assert files.read_arrays(tmp_path / "older.npz", {}) is None
    assert files.read_arrays(path) is not None
    assert files.read_arrays(tmp_path / "absent.npz") is None
    assert (files.read_arrays(path, only=("x",))["x"] == np.arange(3)).all()
    path.write_bytes(path.read_bytes()[:50])
    assert files.read_arrays(path) is None
    assert [file.name for file in path.parent.glob("[!.]*")] == ["arrays.npz"]


def row(learning, pruning, sparsity, **columns):
    key = dict(zip(table.KEY_COLUMNS, (learning, pruning, sparsity)))
    return key | {"population": "p"} | columns


def write_row(folder, row, suffix=""):
    path = folder / row["learning_method"] / "populations"
    path /= f"{row['pruning_method']}_{row['sparsity']}{suffix}.npz"
    files.write_arrays(path, {"row": json.dumps(row), "other": np.arange(3)}, {})
    return path


def read_table(folder):
    return read_csv(folder / "results.csv")


def keys(folder):
    return [tuple(row[column] for column in table.KEY_COLUMNS) for row in read_table(folder)]


def test_the_table_is_made_of_all_that_is_stored_in_the_order_of_methods(tmp_path):
    for pruning, sparsity in (
        ("later_GMP", 0.5),
        ("global", 0.9),
        ("GMP", 0.5),
        ("global", 0.55),
        ("dense", 0.0),
    ):
        write_row(tmp_path, row("supervised", pruning, sparsity))
        write_row(tmp_path, row("supervised", pruning, sparsity), "_depth")
    write_row(tmp_path, row("SupCon", "global", 0.5))
    table.make_table(tmp_path)
    pruned = [("global", "0.55"), ("global", "0.9"), ("GMP", "0.5"), ("later_GMP", "0.5")]
    expected = [("SupCon", "global", "0.5"), *(("supervised", *key) for key in (("dense", "0.0"), *pruned))]
    assert keys(tmp_path) == expected


def test_a_row_has_the_columns_of_pies_first_and_those_of_depth_where_they_are_of_the_same_networks(tmp_path):
    write_row(tmp_path, row("SupCon", "dense", 0.0, depth_rest=2.5), "_depth")
    write_row(tmp_path, row("SupCon", "global", 0.5, depth_pies=3.25, pies=4), "_depth")
    table.make_table(tmp_path)
    assert [row["depth_rest"] for row in read_table(tmp_path)] == ["2.5", ""], "depth may stand alone"
    write_row(tmp_path, row("SupCon", "dense", 0.0, q_score_rest=0.5))
    write_row(tmp_path, row("SupCon", "global", 0.5, pies=5))
    table.make_table(tmp_path)
    stored = read_table(tmp_path)
    assert [*stored[0]][4:] == ["q_score_rest", "pies", "depth_rest", "depth_pies"]
    assert stored[1]["pies"] == "5" and stored[1]["depth_pies"] == "3.25"
    write_row(tmp_path, row("SupCon", "global", 0.5, population="other networks", pies=6))
    table.make_table(tmp_path)
    assert read_table(tmp_path)[1]["pies"] == "6" and not read_table(tmp_path)[1].get("depth_pies")


def test_a_table_is_made_anew_of_what_is_stored_and_whole_whatever_lies_there(tmp_path):
    paths = [write_row(tmp_path, row("SupCon", "global", sparsity)) for sparsity in (0.5, 0.7, 0.9)]
    (tmp_path / "results.csv").write_bytes(b"\xff\xfe\x00")
    table.make_table(tmp_path)
    assert len(keys(tmp_path)) == 3
    paths[0].unlink()
    paths[1].write_bytes(paths[1].read_bytes()[:40])
    half_written = paths[2].with_name(".global_0.99.npz.tmp.npz")
    paths[2].rename(half_written)
    write_row(tmp_path, row("SupCon", "global", 0.9, pies=3))
    table.make_table(tmp_path)
    assert [row["pies"] for row in read_table(tmp_path)] == ["3"] and half_written.exists()


def test_tables_made_at_the_same_time_by_several_processes_have_all_rows(tmp_path):
    start = (
        "import json, sys; from pathlib import Path; from common.store import files, table\n"
        "folder, method = Path(sys.argv[1]), sys.argv[2]\n"
        "for i in range(20):\n"
        "    row = dict(learning_method=method, pruning_method='global', sparsity=i / 100, status='present',"
        " population='p')\n"
        "    path = folder / method / 'populations' / f'global_{i / 100}.npz'\n"
        "    files.write_arrays(path, {'row': json.dumps(row)}, {})\n"
        "    table.make_table(folder)\n"
    )
    methods = ("SupCon", "supervised", "SimCLR")
    writers = [subprocess.Popen([sys.executable, "-c", start, str(tmp_path), method]) for method in methods]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert len(read_table(tmp_path)) == 60


def module_of(path, text):
    path.write_text(text)
    return path


MODULE = '"""A module."""\n\n\ndef f(x, *, y=None):\n    """Of x."""\n    return [x, f"{y:.2f}"]\n'


@pytest.mark.parametrize(
    "old, new, same",
    [
        ('"""A module."""\n', "", True),
        ('    """Of x."""\n', "", True),
        ("return", "# the pair\n    return", True),
        ("[x, ", "[\n        x,\n        ", True),
        (".2f", ".3f", False),
        ("    return", "    'Of x.' + x\n    return", False),
        ("[x, ", "[", False),
    ],
)
def test_a_digest_changes_with_code_and_not_with_comments_docstrings_or_layout(tmp_path, old, new, same):
    assert MODULE.count(old) == 1
    one, other = (
        module_of(tmp_path / f"{i}.py", text) for i, text in enumerate((MODULE, MODULE.replace(old, new)))
    )
    assert (files.module_digest(one) == files.module_digest(other)) == same
    assert (files.code_digest(metrics.q_scores, one) == files.code_digest(metrics.q_scores, other)) == same
    assert len(files.module_digest(one)) == len(files.code_digest(one, other)) == 12


def test_a_digest_does_not_depend_on_the_version_of_python(tmp_path):
    assert files.module_digest(module_of(tmp_path / "m.py", MODULE)) == "f3f52dbabbc5"


def test_a_table_in_latex_is_ruled_by_booktabs_says_names_once_and_escapes_what_latex_takes(tmp_path):
    row = {"method": "later_GMP", "share of A & B": "50 %", "PIEs": 3, "file": r"a\b^c~{#$}"}
    rows = [row, {"method": "later_GMP", "PIEs": 4}, {"method": "global", "PIEs": 12}]
    rows += [{"method": "[a]"}, {"method": "*a"}]  # as an option of the row before
    cells = table.write_rows(tmp_path / "table.csv", rows)
    tables.write_tex(tmp_path / "table.tex", cells)
    assert (tmp_path / "table.tex").read_text().splitlines() == [
        r"\begin{tabular}{lrrl}",
        r"\toprule",
        r"method & share of A \& B & PIEs & file \\",
        r"\midrule",
        r"later\_GMP & 50 \% & 3 & a\textbackslash{}b\textasciicircum{}c\textasciitilde{}\{\#\$\} \\",
        r" &  & 4 &  \\",
        r"global &  & 12 &  \\",
        r"{}[a] &  &  &  \\",
        r"{}*a &  &  &  \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]
    assert read_cells(tmp_path / "table.csv") == cells
    tables.write_tex(tmp_path / "empty.tex", table.write_rows(tmp_path / "empty.csv", []))
    assert r"\begin{tabular}{lll}" in (tmp_path / "empty.tex").read_text()


def test_a_number_and_its_interval_are_one_cell_of_a_table_for_papers():
    titles = ["pies", "pies_low", "pies_high", "pies_models", "value", "low", "high", "q"]
    rows = [
        ["12.2", "8.1", "16.3", "6", "-0.0479", "-0.056963", "-0.038837", "a"],
        ["2744.0", "2578.22", "2909.78", "8", "0.5", "", "", "b"],
        ["3.0", "3.0", "3.0", "8", "", "", "", "c"],
    ]
    rows = [dict(zip(titles, row)) for row in rows]
    assert [[tables.with_interval(row, name) for name in ("pies", "value", "q")] for row in rows] == [
        ["12 [8, 16]", "-0.048 [-0.057, -0.039]", "a"],
        ["2744 [2578, 2910]", "0.5", "b"],
        ["3.0000 [3.0000, 3.0000]", "", "c"],
    ]


def read_cells(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_a_file_whose_name_is_no_text_is_listed_by_its_bytes(tmp_path):
    name = b"test/a/\xff.png".decode("utf-8", "surrogateescape")
    tables.write_tex(tmp_path / "pies.tex", table.write_rows(tmp_path / "pies.csv", [{"image": name}]))
    assert b"test/a/\xff.png" in (tmp_path / "pies.csv").read_bytes()
    assert b"test/a/\xff.png" in (tmp_path / "pies.tex").read_bytes()


def test_values_that_are_not_defined_are_empty_in_the_table(tmp_path):
    write_row(
        tmp_path, row("supervised", "global", 0.9, pies=0, q_score_pies=None, q_score_rest=float("nan"))
    )
    rows = table.make_table(tmp_path)
    [stored] = read_table(tmp_path)
    assert stored["q_score_pies"] == stored["q_score_rest"] == "" and stored["pies"] == "0"
    assert table.short_table([rows[0] | {"accuracy_mean": 0.7710499999999999}])[1][4] == "77.10%"


@pytest.fixture
def view(tmp_path, monkeypatch):
    """A study on digits with two untrained supervised networks; the second's latents are all zero."""
    monkeypatch.chdir(tmp_path)
    words = "--dataset digits --model_depth 10 --widen_factor 1 --models_number 2 --plot_umap --umap_models 2"
    flags = importlib.import_module("sup_pie_kmodels_detection").build_parser().parse_args(words.split())
    opened = next(study.open_studies("sup_pie_kmodels_detection", flags))
    for model_id in range(2):
        torch.manual_seed(model_id)
        network = models.SupervisedNetwork(Architecture(10, 1), 10)
        torch.nn.init.ones_(network.base.fc.bias)
        if model_id == 1:
            torch.nn.init.constant_(network.base.bn1.bias, -100.0)
        name = CheckpointName("supervised", "supervised", "dense", 0.0, 3, model_id, widen_factor=1, depth=10)
        run = process.environment(torch.device("cpu"), 0.0)
        facts = {"seed": model_id, "data": opened.data.facts(), "run": run}
        path, payload = opened.folder / str(name), records.cpu_state(network)
        records.save_checkpoint(path, payload, name, {"epochs": 3}, network, **facts)
    return opened


def test_a_network_is_evaluated_once_while_its_checkpoint_is_unchanged(view, monkeypatch):
    member = populations.find_population(view, "dense", 0.0).members[0]
    evaluation.evaluate(view, member)
    loads = []
    monkeypatch.setattr(evaluation, "load_member", lambda *arguments: loads.append(1) or original(*arguments))
    evaluation.evaluate(view, member)
    assert not loads and evaluation.evaluate(view, member, with_latent=True)["latent"].shape == (500, 64)
    assert len(loads) == 1
    evaluation.evaluate(view, member, with_latent=True)
    assert len(loads) == 1
    path, made = evaluation.evaluation_path(view, member), evaluation._made_from(view, member)
    files.write_arrays(path, {"predictions": files.read_arrays(path)["predictions"]}, made)  # as in a release
    assert evaluation.evaluate(view, member)["zero_latents"] == 0
    state = torch.load(member.paths[0], weights_only=True)
    state["base.fc.bias"][0] = 50.0
    torch.save(state, member.paths[0])
    member.paths[0].with_suffix(".json").unlink()
    view.flags.allow_missing, view.flags.models_number = True, 1
    [member] = populations.find_population(view, "dense", 0.0).members
    assert (evaluation.evaluate(view, member)["predictions"] == 0).all() and len(loads) == 3


@pytest.mark.parametrize("compute", [evaluation.evaluate, evaluation.probe])
def test_a_network_is_evaluated_anew_when_the_code_changed_and_not_for_a_comment(
    view, monkeypatch, tmp_path, compute
):
    member = populations.find_population(view, "dense", 0.0).members[0]
    compute(view, member)
    loads = []
    monkeypatch.setattr(evaluation, "load_member", lambda *arguments: loads.append(1) or original(*arguments))
    source = Path(metrics.__file__).read_text()
    edits = (source + "\n# A comment.\n", source.replace("norm > 0", "norm > 1"))
    for index, (text, computed) in enumerate(zip(edits, (0, 1))):
        assert text != source
        (tmp_path / f"edited{index}.py").write_text(text)
        spec = importlib.util.spec_from_file_location("metrics", tmp_path / f"edited{index}.py")
        edited = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(edited)
        monkeypatch.setattr(evaluation, "metrics", edited)
        compute(view, member)
        compute(view, member)
        assert len(loads) == computed


original = evaluation.load_member


def test_predictions_and_q_scores_are_those_of_the_network(view):
    member = populations.find_population(view, "dense", 0.0).members[0]
    stored = evaluation.evaluate(view, member)
    network = evaluation.load_member(view, member)
    with torch.no_grad():
        image = (
            view.data.test_images[7:8].float() / 255 - torch.tensor(view.data.mean)[:, None, None]
        ) / torch.tensor(view.data.std)[:, None, None]
        latent = network.latent(image)
        logits = network.classify(latent)[0].double()
    assert stored["predictions"][7] == logits.argmax()
    assert stored["q_score"][7] == pytest.approx(metrics.q_scores(latent.numpy())["q_score"][0], rel=1e-5)
    expected = (logits - logits.exp().sum().log()).numpy()
    assert np.allclose(stored["log_probabilities"][7], expected, rtol=1e-3, atol=1e-6)
    sample = stored["latent_sample"]
    assert stored["log_probabilities"].dtype == sample.dtype == np.float16
    assert sample.shape == (500, 64) and np.abs(sample).max() == 1
    kept = sample[7].astype(float)  # a norm in float16 is off by up to 1e-3
    ratio = kept @ latent[0].numpy() / (np.linalg.norm(kept) * latent.norm().item())
    assert ratio == pytest.approx(1, abs=1e-5), "the same direction, at another scale"


def test_latents_are_those_of_all_images_or_of_2000_evenly_spaced_ones():
    for images in (10, 2000):
        assert list(evaluation.sampled(images)) == list(range(images))
    places = evaluation.sampled(9000)
    assert len(places) == 2000 and set(np.diff(places)) == {4, 5} and places[-1] == 8995


def test_latents_of_zeros_are_counted_and_left_out_of_the_average(view):
    population = populations.find_population(view, "dense", 0.0)
    together = comparison.evaluate_population(view, population)
    alone = evaluation.evaluate(view, population.members[0])
    assert list(together.outputs["zero_latents"]) == [0, 500] and together.predictions.shape == (2, 500)
    quality = metrics.mean_over_defined(together.outputs["q_score"])
    assert np.allclose(quality, alone["q_score"]) and not np.isnan(quality).any()


def test_probes_look_at_every_place(view):
    population = populations.find_population(view, "dense", 0.0)
    view.flags.batch_size = 200
    first = evaluation.probe(view, population.members[0])
    assert first["knn"].shape == (8, 500) and list(first["places"]) == models.probe_layers(
        10, models.channels(10, 1)
    )
    assert (first["predictions"] == evaluation.evaluate(view, population.members[0])["predictions"]).all()


def test_pieces_that_fit_into_memory_give_the_same_outputs(view, monkeypatch):
    member = populations.find_population(view, "dense", 0.0).members[0]
    whole = evaluation.evaluate(view, member) | evaluation.probe(view, member)
    for module, name, value in (
        (common_evaluation, "CACHED_PIXELS", 70 * 64),
        (neighbours, "CHUNK_BYTES", 70 * 4 * 1297),
        (evaluation, "HIDDEN_BYTES", 1),
    ):
        assert getattr(module, name) > value
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(evaluation, "read_arrays", lambda *arguments: None)
    in_pieces = evaluation.evaluate(view, member) | evaluation.probe(view, member)
    for name in whole.keys() - {"made"}:
        found, expected = np.asarray(in_pieces[name]), np.asarray(whole[name])
        if expected.dtype.kind == "f":
            np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-3, err_msg=name)
        else:
            assert np.array_equal(found, expected), name


def test_places_are_grouped_by_memory(monkeypatch):
    monkeypatch.setattr(evaluation, "HIDDEN_BYTES", 4 * 100 * 48)
    widths = dict(zip("abcdef", [16, 32, 32, 64, 16, 16]))
    assert evaluation._layer_groups(widths, 100) == [["a", "b"], ["c"], ["d"], ["e", "f"]]


def test_a_figure_is_drawn_anew_from_the_same_arrays_which_are_stored_unless_that_is_not_wanted(
    view, monkeypatch
):
    folder, pictures = view.method_folder / "prediction_depth", []
    arrays = {"figure": "prediction_depth", "title": "a title", **depths(60, 9)}
    for colour in ("#D55E00", "#D55E00", "#000000"):
        monkeypatch.setattr(plots, "PIE_COLOUR", colour)
        comparison.draw_figure(view, "prediction_depth/one", arrays, {"made": "from the same"})
        pictures.append((folder / "one.png").read_bytes())
    assert pictures[0] == pictures[1] != pictures[2] and (folder / "one.npz").exists()
    view.flags.not_serialize_plots = True
    comparison.draw_figure(view, "prediction_depth/one", arrays, {})
    assert [path.name for path in folder.glob("one*")] == ["one.png"]


def evaluated(predictions, seed, first_id=0, **record):
    """Networks that predict this, K lists of N classes, with Q-Scores, logits and latents by chance, of the
    first network no Q-Score for image 1."""
    generator = np.random.default_rng(seed)
    members = []
    for model_id in range(first_id, first_id + len(predictions)):
        name = CheckpointName(
            "supervised", "supervised", "global", 0.5, 3, model_id, widen_factor=1, depth=10
        )
        record_of = {"seed": model_id, "accuracy_as_pruned": 0.1 * model_id, **record}
        record_of |= {"configuration": {"epochs": 3}, "data": {}}
        members.append(populations.Member((Path(str(name)),), (name,), (record_of,), (f"sum {model_id}",)))
    shape = np.shape(predictions)
    outputs = {part: generator.random(shape) for part in comparison.PARTS}
    outputs["q_score"][0, 1] = np.nan
    outputs |= {"predictions": np.array(predictions), "log_probabilities": generator.normal(size=(*shape, 3))}
    outputs["latent_sample"] = generator.normal(size=(*shape, 4)).astype(np.float16)
    outputs["zero_latents"] = np.array([4] + [0] * (len(members) - 1))
    population = populations.Population("supervised", "global", 0.5, tuple(members))
    return comparison.PopulationOutputs(population, outputs)


@pytest.fixture
def three_against_two():
    """Dense networks 0 to 2, pruned ones 1 and 2, and the true classes."""
    dense = evaluated([[0, 1, 2, 0, 1, 1], [0, 1, 2, 1, 1, 2], [0, 1, 2, 0, 2, 0]], 1)
    pruned = evaluated([[0, 2, 2, 1, 1, 1], [1, 2, 1, 1, 1, 2]], 2, 1, movement={"base.a": 1.0, "b": 2.0})
    return dense, pruned, np.array([0, 1, 2, 0, 1, 1])


def test_what_is_measured_is_what_a_slow_version_finds(three_against_two):
    dense, pruned, labels = three_against_two
    found = comparison.measure(dense, pruned, labels, 3)

    def votes_of(side, image):  # of the ids that both have
        return [row[image] for each, row in zip(side.ids, side.predictions) if each in pruned.ids]

    def modal(side, image):
        votes = [votes_of(side, image).count(label) for label in range(3)]
        return votes.index(max(votes)), votes.count(max(votes)) > 1

    images = range(6)
    pies = [image for image in images if modal(dense, image)[0] != modal(pruned, image)[0]]
    assert 0 < len(pies) < 6
    arrays, columns = found.arrays, found.columns
    assert list(np.flatnonzero(arrays["is_pie"])) == pies and columns["pies"] == len(pies)
    for prefix, side in (("", pruned), ("dense_", dense)):
        assert [modal(side, image) for image in images] == list(
            zip(arrays[f"{prefix}modal_labels"], arrays[f"{prefix}tied"])
        )
        assert arrays[f"{prefix}ids"] == [
            int(path.split("id")[-1]) for path in arrays[f"{prefix}evaluations"]
        ]
        votes = [votes_of(side, i).count(modal(side, i)[0]) for i in images]
        assert list(arrays[f"{prefix}votes"]) == votes and columns["voters"] == 2
        for part in comparison.PARTS:
            scores = np.nanmean(side.outputs[part], 0)  # NaN is no score
            np.testing.assert_allclose(arrays[f"{prefix}{part}"], scores)
            groups = {"pies": scores[pies], "rest": np.delete(scores, pies), "all": scores}
            for group, values in groups.items():
                assert columns[f"{prefix}{part}_{group}"] == pytest.approx(values.mean())
                assert columns[f"{prefix}{part}_std_{group}"] == pytest.approx(values.std())
    assert columns["ties_pruned"] == sum(modal(pruned, i)[1] for i in images)
    assert columns["ties_dense"] == sum(modal(dense, i)[1] for i in images)
    right = [sum(row == labels) / 6 for row in pruned.predictions]
    assert columns["accuracy_mean"] == pytest.approx(sum(right) / 2)
    assert columns["accuracy_std"] == pytest.approx(abs(right[0] - right[1]) / 2**0.5)
    assert columns["accuracy_before_finetuning_mean"] == pytest.approx(0.15)
    assert list(arrays["pies_per_class"]) == [sum(labels[i] == c for i in pies) for c in range(3)]
    assert set(arrays["gallery"]) == set(pies)
    assert arrays["movement_layers"] == ["a", "b"] and arrays["movement"].tolist() == [[1, 2]] * 2


def test_a_gallery_has_pies_from_all_places_where_they_are_equally_clear():
    sides = [evaluated([[label] * 200], 0) for label in (0, 1)]
    gallery = comparison.measure(*sides, np.zeros(200, int), 3).arrays["gallery"]
    assert min(gallery) < 50 and max(gallery) > 150


def test_what_is_lost_and_kept_is_measured_network_by_network(three_against_two):
    dense, pruned, labels = three_against_two
    arrays, columns = dataclasses.astuple(comparison.measure(dense, pruned, labels, 3))
    pies = np.flatnonzero(arrays["is_pie"])
    for prefix, side in (("", pruned), ("dense_", dense)):
        right = [[int(row[i] == labels[i]) for i in pies] for row in side.predictions]
        assert list(arrays[f"{prefix}accuracy_pies"]) == [sum(row) / len(pies) for row in right]
    same, others = ((0, 1), (1, 2)), ((0, 2), (1, 1))  # pruned id 1 and 2 with dense 1 and 2, then 2 and 1
    for suffix, pairs in (("", same), ("_others", others)):
        for name, alike, output in (
            ("agreement", metrics.agreement, "predictions"),
            ("cka", metrics.linear_cka, "latent_sample"),
        ):
            values = [alike(pruned.outputs[output][a], dense.outputs[output][b]) for a, b in pairs]
            assert list(arrays[f"{name}{suffix}"]) == values
            assert columns[f"{name}{suffix}"] == pytest.approx(sum(values) / 2)
    counts = [columns[f"{name}_pies"] for name in ("lost", "gained", "wrong")]
    assert sum(counts) == columns["pies"] and counts == [3, 1, 0]


def test_networks_without_a_partner_or_pies_have_no_measures_of_them():
    lone = evaluated([[0, 1, 2]], 1)
    columns = comparison.measure(lone, lone, np.array([0, 1, 1]), 3).columns
    assert [columns[name] for name in ("accuracy_pies", "cka_others", "agreement_others")] == [None] * 3
    assert columns["accuracy_rest"] == pytest.approx(2 / 3) and columns["cka"] == pytest.approx(1)


def test_depths_are_measured_by_both_definitions_and_pies_apart():
    knn = np.array([[0, 1, 2], [0, 0, 2], [0, 1, 2]])
    dense = [{"knn": knn, "predictions": np.array([0, 1, 0])}]
    pruned = [*dense, {"knn": knn[:, ::-1], "predictions": np.array([2, 1, 2])}]
    found = comparison.measure_depths(dense, pruned, np.array([0, 1, 1]), np.array([True, False, False]))
    assert found.arrays["places"] == 3
    assert found.arrays["pruned_depth_prediction"].tolist() == [[0, 2, 3], [0, 2, 3]]
    assert found.arrays["pruned_depth_label"].tolist() == [[1, 2, 3], [3, 2, 3]]
    assert found.arrays["dense_depth_label"].tolist() == [[1, 2, 3]]
    expected = {
        "knn_accuracy": 0.5,
        "auroc_depth": 0.75,
        "pie_auroc_depth": 0.0,
        "depth_std_all": pytest.approx(found.arrays["pruned_depth_prediction"].mean(0).std()),
        "depth_std_rest": 0.5,
        "pies": 1,
        "depth_models": 2,
        "depth_pies": 0.0,
        "depth_rest": 2.5,
        "dense_depth_pies": 0.0,
        "dense_depth_rest": 2.5,
        "label_depth_pies": 2.0,
        "label_depth_rest": 2.5,
        "dense_label_depth_pies": 1.0,
        "dense_label_depth_rest": 2.5,
        "never_agreeing": 2,
    }
    assert {name: found.columns[name] for name in expected} == expected


@pytest.fixture
def store(view):
    """A function that stores made-up results of dense networks, and of ones pruned from them; each network is
    a letter, its id the place in the text."""

    def store(dense, kinds, probed=None, settings=("epochs", 3), allow_missing=False):
        view.flags.allow_missing = allow_missing
        described = []
        for (method, sparsity), letters in {("dense", 0.0): dense, **kinds}.items():
            population = evaluated([[0, 1]] * len(letters), 1).population
            members = [
                dataclasses.replace(member, checksums=(f"{method} {sparsity} {letter}",))
                for member, letter in zip(population.members, letters)
                if letter != "-"
            ]
            for member in members:
                member.record["configuration"] = dict([settings])
            described.append(populations.Population("supervised", method, sparsity, tuple(members)))
        columns = {"pies": 1, "dense_q_score_rest": 0.5, "ties_pruned": 2, "ties_dense": 3, "cka": 1.0}
        ids = None if probed is None else [probed] * len(described)
        arrays = {"is_pie": np.array([True, False]), "ids": np.array(probed or [0])}
        measured = [comparison.PopulationMetrics(arrays, columns) for _ in described]
        return comparison.store(view, described, measured, ids)

    return store


def stored_in(view):
    return {path.stem: path.read_bytes() for path in (view.method_folder / "populations").glob("*.npz")}


ONE, OTHER = ("global", 0.5), ("GMP", 0.9)


def test_results_of_more_methods_and_of_depths_come_beside_those_that_are_there(view, store):
    rows = store("ab", {ONE: "ab"})
    assert rows[1]["dense_q_score_rest"] == 0.5 and rows[1]["ties_pruned"] == 2
    assert rows[0]["ties_dense"] == 3
    assert [rows[0][name] for name in ("pies", "dense_q_score_rest", "ties_pruned", "cka")] == [None] * 4
    store("ab", {ONE: "ab"}, [0, 1])
    store("ab", {OTHER: "a"})
    (view.method_folder / "populations" / "global_0.5.npz").write_bytes(b"torn")
    store("ab", {ONE: "ab"})
    expected = {"dense_0.0", "dense_0.0_depth", "global_0.5", "global_0.5_depth", "GMP_0.9"}
    assert stored_in(view).keys() == expected and len(read_table(view.results_folder)) == 3


@pytest.mark.parametrize(
    "call, told",
    [
        (
            {"dense": "a", "kinds": {ONE: "a"}},
            r"other dense_0.0 networks \(.*ids, images or trainings.*--run NAME",
        ),
        ({"dense": "ab", "kinds": {ONE: "a"}}, r"other global_0.5 networks \(.*ids, images or trainings"),
        ({"dense": "ab", "kinds": {ONE: "ac"}}, r"other global_0.5 networks \(.*ids, images or trainings"),
        (
            {"dense": "ab", "kinds": {ONE: "ab"}, "probed": [0]},
            r"dense_0.0 networks \(depths of ids 0-1, now 0: give --prediction_depth_models 2",
        ),
        ({"dense": "a", "kinds": {ONE: "a"}, "allow_missing": True}, r"\(.*ids, images or trainings"),
        (
            {"dense": "cd", "kinds": {ONE: "ab"}, "settings": ("epochs", 5)},
            r"dense_0.0 networks \(epochs 3, not 5\)",
        ),
        ({"dense": "abc", "kinds": {ONE: "abc"}, "allow_missing": True}, "dense_0.0 networks"),
    ],
)
def test_results_of_other_networks_are_never_replaced(view, store, call, told):
    store("ab", {ONE: "ab", OTHER: "ab"})
    store("ab", {ONE: "ab"}, [0, 1])
    before = stored_in(view)
    with pytest.raises(UserError, match=told):
        store(**call)
    assert stored_in(view) == before


@pytest.mark.parametrize("change", ["data", "normalization"])
def test_the_same_networks_on_other_test_images_are_measured_anew_and_otherwise_normalised_ones_refused(
    view, store, change
):
    store("ab", {ONE: "ab"})
    data = dataclasses.replace(view.data, checksum="of one image more")
    if change == "normalization":
        data = view.data.normalized_by((0.5,) * 3, (0.5,) * 3)
    object.__setattr__(view, "data", data)
    if change == "data":
        assert len(store("ab", {ONE: "ab"})) == 2
    else:
        with pytest.raises(UserError, match="normalization mean .*, not mean 0.5,0.5,0.5"):
            store("ab", {ONE: "ab"})


def test_tables_and_titles_name_the_settings_that_are_not_the_published_ones(view):
    dense, pruned, *_ = (side.population for side in (evaluated([[0, 1]], seed) for seed in (1, 2)))
    dense = dataclasses.replace(dense, pruning_method="dense", sparsity=0.0)
    assert dense.non_default_settings == {"epochs": 3}
    assert comparison.population_row(view, dense, dense)["unpublished"] == "epochs 3"
    assert comparison.title(view, dense, dense).endswith("\nepochs 3")
    assert comparison.title(view, pruned, dense).endswith("\ndense: epochs 3; pruned: epochs 3")
    late = dataclasses.replace(dense, pruning_method="later_GMP", sparsity=0.9)
    late.members[0].record["configuration"] |= {"begin_step": 20000, "end_step": 30000, "epochs": 205}
    assert late.non_default_settings == {"end_step": 30000}
    late.members[0].record["configuration"] |= {"precision": "bfloat16", "vertical_flip": False}
    assert list(late.non_default_settings) == ["end_step", "precision", "vertical_flip"]


def test_depths_are_compared_on_ids_that_both_populations_have(view):
    dense = populations.find_population(view, "dense", 0.0)
    one, other = (populations.Population("supervised", "dense", 0.0, (member,)) for member in dense.members)
    assert comparison.shared_ids(dense, other) == [1]
    with pytest.raises(UserError, match="share no id"):
        comparison.shared_ids(one, other)
