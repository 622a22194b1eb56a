"""Stored arrays, the table, evaluations and figures."""

import csv
import dataclasses
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from common import comparison, metrics, models, plots, process, study
from common.cli import UserError
from common.store import checkpoints, evaluation, files, populations, table
from common.store.checkpoints import CheckpointName


def test_arrays_come_back_only_when_made_from_the_same(tmp_path):
    path = tmp_path / "folder" / "arrays.npz"
    files.write_arrays(path, {"x": np.arange(3)}, {"checkpoints": ["a"]})
    assert (files.read_arrays(path, {"checkpoints": ["a"]})["x"] == np.arange(3)).all()
    assert files.read_arrays(path, {"checkpoints": ["b"]}) is None
    assert files.read_arrays(path) is not None
    assert files.read_arrays(tmp_path / "absent.npz") is None
    path.write_bytes(path.read_bytes()[:50])
    assert files.read_arrays(path) is None
    assert [file.name for file in path.parent.iterdir()] == ["arrays.npz"]


def row(learning, pruning, sparsity, population="p", **columns):
    return {
        "learning_method": learning,
        "pruning_method": pruning,
        "sparsity": sparsity,
        "status": "present",
        "population": population,
        **columns,
    }


def write_row(folder, row, suffix=""):
    path = folder / row["learning_method"] / "populations"
    path /= f"{row['pruning_method']}_{row['sparsity']}{suffix}.npz"
    files.write_arrays(path, {"row": json.dumps(row), "other": np.arange(3)}, {})
    return path


def read_table(folder):
    with (folder / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


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
    made = table.make_table(tmp_path)
    pruned = [("global", "0.55"), ("global", "0.9"), ("GMP", "0.5"), ("later_GMP", "0.5")]
    expected = [("SupCon", "global", "0.5"), *(("supervised", *key) for key in (("dense", "0.0"), *pruned))]
    assert keys(tmp_path) == expected and [str(row["sparsity"]) for row in made] == [
        key[2] for key in expected
    ]


def test_a_row_has_the_columns_of_pies_first_and_those_of_depth_where_they_are_of_the_same_networks(tmp_path):
    write_row(tmp_path, row("SupCon", "dense", 0.0, depth_rest=2.5), "_depth")
    write_row(tmp_path, row("SupCon", "global", 0.5, depth_pies=3.25), "_depth")
    table.make_table(tmp_path)
    assert [row["depth_rest"] for row in read_table(tmp_path)] == ["2.5", ""], "depth may stand alone"
    write_row(tmp_path, row("SupCon", "dense", 0.0, q_score_rest=0.5))
    write_row(tmp_path, row("SupCon", "global", 0.5, pies=5))
    table.make_table(tmp_path)
    stored = read_table(tmp_path)
    assert [*stored[0]][5:] == ["q_score_rest", "pies", "depth_rest", "depth_pies"]
    assert stored[1]["pies"] == "5" and stored[1]["depth_pies"] == "3.25"
    write_row(tmp_path, row("SupCon", "global", 0.5, population="other networks", pies=6))
    table.make_table(tmp_path)
    assert read_table(tmp_path)[1]["pies"] == "6" and not read_table(tmp_path)[1].get("depth_pies")


def test_what_is_no_longer_stored_leaves_the_table_and_what_is_torn_is_left_out(tmp_path):
    paths = [write_row(tmp_path, row("SupCon", "global", sparsity)) for sparsity in (0.5, 0.7, 0.9)]
    table.make_table(tmp_path)
    paths[0].unlink()
    paths[1].write_bytes(paths[1].read_bytes()[:40])
    table.make_table(tmp_path)
    assert keys(tmp_path) == [("SupCon", "global", "0.9")]


def test_a_table_is_made_anew_whatever_lies_there(tmp_path):
    (tmp_path / "results.csv").write_bytes(b"\xff\xfe\x00")
    write_row(tmp_path, row("supervised", "global", 0.5))
    table.make_table(tmp_path)
    assert keys(tmp_path) == [("supervised", "global", "0.5")]


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


@pytest.mark.parametrize("module", ["files", "table"])
def test_files_and_the_table_need_no_torch(module):
    code = (
        f"import sys; import common.store.{module}; assert not {{'torch', 'matplotlib'}} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def module_of(path, text):
    path.write_text(text)
    module = ModuleType(path.stem)
    module.__file__ = str(path)
    return module


MODULE = '"""A module."""\n\n\ndef f(x, *, y=None):\n    """Of x."""\n    return [x, f"{y:.2f}"]\n'


@pytest.mark.parametrize(
    "old, new, same",
    [
        ('"""A module."""\n', "", True),
        ("Of x.", "Of x and y.", True),
        ('    """Of x."""\n', "", True),
        ("return", "# the pair\n    return", True),
        ("[x, ", "[\n        x,\n        ", True),
        (".2f", ".3f", False),
        ("y=None", "y=0", False),
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
    assert (files.code_digest(metrics, one) == files.code_digest(metrics, other)) == same
    assert len(files.module_digest(one)) == len(files.code_digest(one, other)) == 12


def test_a_digest_does_not_depend_on_the_version_of_python(tmp_path):
    assert files.module_digest(module_of(tmp_path / "m.py", MODULE)) == "f3f52dbabbc5"


def test_the_short_table_shows_absent_combinations_and_where_models_come_from():
    shown = table.format_table(
        [
            row("supervised", "global", 0.9, models=3, accuracy_mean=0.9512, pies=7, origin="made elsewhere"),
            {**row("supervised", "GMP", 0.9), "status": "absent"},
        ]
    )
    assert "95.12%" in shown and "made elsewhere" in shown and "absent" in shown.splitlines()[2]


def test_values_that_are_not_defined_are_empty_in_the_table(tmp_path):
    write_row(
        tmp_path, row("supervised", "global", 0.9, pies=0, q_score_pies=None, q_score_rest=float("nan"))
    )
    table.make_table(tmp_path)
    [stored] = csv.DictReader((tmp_path / "results.csv").open())
    assert stored["q_score_pies"] == stored["q_score_rest"] == "" and stored["pies"] == "0"


@pytest.fixture
def view(tmp_path, monkeypatch):
    """A study on digits with two untrained supervised networks; the second's latents are all zero."""
    monkeypatch.chdir(tmp_path)
    words = [
        "--dataset",
        "digits",
        "--model_depth",
        "10",
        "--widen_factor",
        "1",
        "--models_number",
        "2",
        "--plot_umap",
        "--umap_models",
        "2",
    ]
    flags = importlib.import_module("sup_pie_kmodels_detection").build_parser().parse_args(words)
    opened = next(study.open_studies("sup_pie_kmodels_detection", flags))
    for model_id in range(2):
        torch.manual_seed(model_id)
        network = models.SupervisedNetwork(10, 1, 0.0, 10)
        torch.nn.init.ones_(network.base.fc.bias)
        if model_id == 1:
            torch.nn.init.constant_(network.base.bn1.bias, -100.0)
        name = CheckpointName("supervised", "supervised", "dense", 0.0, 3, model_id, widen_factor=1, depth=10)
        run = process.environment(torch.device("cpu"), 0.0)
        facts = {"seed": model_id, "data": opened.data.facts(), "run": run}
        record = checkpoints.make_record(name, {"epochs": 3}, network, [], **facts)
        checkpoints.save_checkpoint(opened.folder / str(name), checkpoints.cpu_state(network), record)
    return opened


def test_a_network_is_evaluated_once_while_its_checkpoint_is_unchanged(view, monkeypatch):
    member = populations.find_population(view, "dense", 0.0).members[0]
    first = evaluation.evaluate(view, member)
    loads = []
    monkeypatch.setattr(evaluation, "load_member", lambda *arguments: loads.append(1) or original(*arguments))
    again = evaluation.evaluate(view, member)
    assert not loads and (first["predictions"] == again["predictions"]).all()
    assert evaluation.evaluate(view, member, with_latent=True)["latent"].shape == (500, 64)
    assert len(loads) == 1
    evaluation.evaluate(view, member, with_latent=True)
    assert len(loads) == 1
    state = torch.load(member.paths[0], weights_only=True)
    state["base.fc.bias"][0] = 50.0
    torch.save(state, member.paths[0])
    member.paths[0].with_suffix(".json").unlink()
    view.flags.allow_missing, view.flags.models_number = True, 1
    [member] = populations.find_population(view, "dense", 0.0).members
    assert (evaluation.evaluate(view, member)["predictions"] == 0).all() and len(loads) == 2


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


def test_an_evaluation_of_before_the_code_was_noted_is_taken_as_it_is_and_that_is_said_once(view, caplog):
    members = populations.find_population(view, "dense", 0.0).members
    first = [evaluation.evaluate(view, member) for member in members]
    for member in members:
        path = evaluation.evaluation_path(view, member)
        arrays = {**files.read_arrays(path), "zero_latents": 7}
        made = json.loads(str(arrays.pop("made")))
        del made["code"], made["format"]
        files.write_arrays(path, arrays, made)
    assert [evaluation.evaluate(view, member)["zero_latents"] for member in members] == [7, 7]
    assert caplog.text.count("before the code was noted") == 1
    files.write_arrays(path, arrays, {**made, "data": "other"})
    assert evaluation.evaluate(view, members[-1])["zero_latents"] == first[-1]["zero_latents"]


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
    assert stored["predictions"][7] == network.classify(latent).argmax()
    assert stored["q_score"][7] == pytest.approx(metrics.q_scores(latent.numpy())["q_score"][0], rel=1e-5)


def test_latents_of_zeros_are_counted_and_left_out_of_the_average(view):
    population = populations.find_population(view, "dense", 0.0)
    together = comparison.evaluate_population(view, population)
    alone = evaluation.evaluate(view, population.members[0])
    assert together.zero_latents == 500 and together.predictions.shape == (2, 500)
    quality = together.quality["q_score"]
    assert np.allclose(quality, alone["q_score"]) and not np.isnan(quality).any()


def test_probes_look_at_every_place_whatever_the_memory(view, monkeypatch):
    population = populations.find_population(view, "dense", 0.0)
    view.flags.batch_size = 200
    first = evaluation.probe(view, population.members[0])
    assert first["knn"].shape == (8, 500) and list(first["places"]) == models.probe_places(10, 1)
    assert (first["predictions"] == evaluation.evaluate(view, population.members[0])["predictions"]).all()
    (
        view.method_folder / "prediction_depth" / "votes" / f"{population.members[0].paths[0].stem}.npz"
    ).unlink()
    monkeypatch.setattr(evaluation, "HIDDEN_BYTES", 1)
    assert (evaluation.probe(view, population.members[0])["knn"] == first["knn"]).all()


def test_places_are_grouped_by_memory(monkeypatch):
    monkeypatch.setattr(evaluation, "HIDDEN_BYTES", 4 * 100 * 48)
    widths = dict(zip("abcdef", [16, 32, 32, 64, 16, 16]))
    assert evaluation._place_groups(widths, 100) == [["a", "b"], ["c"], ["d"], ["e", "f"]]


def figure_arrays(kind):
    generator = np.random.default_rng(0)
    shared = {
        "figure": kind,
        "title": "digits · SupCon · one-shot global pruning, sparsity 90 % · 3 models",
        "is_pie": np.arange(60) % 7 == 0,
        "class_names": np.array(["airplane", "automobile", "ship"]),
    }
    values = {
        f"{side}_{part}": 0.36 + 0.28 * generator.random(60)
        for side in ("dense", "pruned")
        for part in ("q_score", "z_score", "l1_norm", "depth")
    }
    epochs = {
        "stages": np.array(["head"]),
        "head_epoch": np.arange(4),
        "head_loss": generator.random(4),
        "head_test_loss": generator.random(4),
        "head_train_accuracy": generator.random(4),
        "head_test_accuracy": generator.random(4),
        "head_chance_loss": np.full(4, 2.3),
    }
    return {
        **shared,
        **values,
        **epochs,
        "coordinates": generator.random((60, 2)),
        "modal_labels": np.arange(60) % 3,
        "places": 16,
        "pies_per_class": np.array([4, 0, 5]),
        "images": 60,
    }


@pytest.mark.parametrize(
    "kind, panels",
    [("curves", 2), ("umap", 2), ("q_score", 3), ("prediction_depth", 1), ("pies_distribution", 1)],
)
def test_a_figure_is_drawn_from_its_arrays_with_title_and_labelled_axes(kind, panels, tmp_path):
    figure = plots.draw(figure_arrays(kind))
    own = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    assert len(own) == panels and figure._suptitle.get_text().startswith("digits · SupCon")
    assert all(axes.get_xlabel() and axes.get_ylabel() for axes in own) and all(
        axes.get_ylabel() for axes in figure.axes
    )
    plots.save_figure(tmp_path / "figure.png", figure)
    assert (tmp_path / "figure.png").stat().st_size > 5000


def test_figures_without_pies_or_without_the_rest_can_be_drawn():
    for kind in ("umap", "q_score", "prediction_depth"):
        for share in (False, True):
            FigureCanvasAgg(plots.draw({**figure_arrays(kind), "is_pie": np.full(60, share)})).draw()
    dense = figure_arrays("umap")
    del dense["is_pie"]
    assert len(plots.draw(dense).axes) == 1
    with pytest.raises(ValueError):
        plots.draw({"x": np.arange(3)})


def test_umap_is_seeded():
    latent = np.random.default_rng(0).random((80, 16)).astype(np.float32)
    assert (comparison.umap_coordinates(latent) == comparison.umap_coordinates(latent)).all()


def test_without_serialization_a_plot_has_no_arrays_beside_it(view):
    folder = view.method_folder / "q_score"
    comparison.draw_figure(view, "q_score/one", figure_arrays("q_score"), {})
    assert sorted(path.name for path in folder.iterdir()) == ["one.npz", "one.png"]
    view.flags.not_serialize_plots = True
    comparison.draw_figure(view, "q_score/one", figure_arrays("q_score"), {})
    assert sorted(path.name for path in folder.iterdir()) == ["one.png"]


def test_a_figure_is_drawn_anew_from_the_same_arrays(view, monkeypatch):
    pictures = []
    for colour in ("#D55E00", "#D55E00", "#000000"):
        monkeypatch.setattr(plots, "PIE_COLOUR", colour)
        comparison.draw_figure(view, "q_score/one", figure_arrays("q_score"), {"made": "from the same"})
        pictures.append((view.method_folder / "q_score/one.png").read_bytes())
    assert pictures[0] == pictures[1] != pictures[2]


@pytest.mark.parametrize("kind", ["curves", "umap", "q_score", "prediction_depth", "pies_distribution"])
def test_no_text_of_a_figure_lies_on_another(kind):
    figure = plots.draw(figure_arrays(kind))
    FigureCanvasAgg(figure).draw()
    texts = [
        figure._suptitle,
        *(part for axes in figure.axes for part in (axes.title, axes.xaxis.label, axes.yaxis.label)),
        *figure.legends,
        *(axes.get_legend() for axes in figure.axes),
    ]
    boxes = [
        text.get_window_extent()
        for text in texts
        if text is not None and (not hasattr(text, "get_text") or text.get_text())
    ]
    page = figure.bbox
    for index, box in enumerate(boxes):
        assert (
            page.x0 - 1 <= box.x0
            and box.x1 <= page.x1 + 1
            and page.y0 - 1 <= box.y0
            and box.y1 <= page.y1 + 1
        )
        for other in boxes[index + 1 :]:
            assert not box.overlaps(other), (box, other)


def test_class_names_are_shown_as_they_are():
    arrays = {**figure_arrays("umap"), "class_names": np.array(["_back", "$x^$", "a_$b"]), "title": "of $x^$"}
    figure = plots.draw(arrays)
    FigureCanvasAgg(figure).draw()
    shown = [text.get_text().strip().replace("\\$", "$") for text in figure.legends[0].get_texts()]
    assert shown == ["_back", "$x^$", "a_$b"]
    FigureCanvasAgg(plots.draw({**arrays, "figure": "pies_distribution"})).draw()


def test_a_umap_of_too_few_images_is_refused():
    with pytest.raises(UserError, match="--plot_umap needs at least 10"):
        comparison.umap_coordinates(np.random.default_rng(0).random((9, 4)))
    assert comparison.umap_coordinates(np.random.default_rng(0).random((10, 4)).astype(np.float32)).shape == (
        10,
        2,
    )


def test_the_identity_of_a_row_changes_with_the_data(view):
    population = populations.find_population(view, "dense", 0.0)
    other = dataclasses.replace(view, data=dataclasses.replace(view.data, checksum="0" * 64))
    one, two = (comparison.population_row(study, population, population) for study in (view, other))
    assert one["population"] != two["population"] and one["dense_population"] != two["dense_population"]


def evaluated(predictions, seed, **record):
    """Networks that predict this, K lists of N classes, with Q-Scores by chance, NaN for image 1."""
    generator = np.random.default_rng(seed)
    members = []
    for model_id in range(len(predictions)):
        name = CheckpointName(
            "supervised", "supervised", "global", 0.5, 3, model_id, widen_factor=1, depth=10
        )
        record_of = {"seed": model_id, "accuracy_as_pruned": 0.1 * model_id, **record}
        members.append(populations.Member((Path(str(name)),), (name,), (record_of,), (f"sum {model_id}",)))
    quality = {part: generator.random(len(predictions[0])) for part in comparison.PARTS}
    quality["q_score"][1] = np.nan
    population = populations.Population("supervised", "global", 0.5, tuple(members))
    return comparison.Evaluated(population, np.array(predictions), quality, 4)


def test_what_is_measured_is_what_a_slow_version_finds():
    dense = evaluated([[0, 1, 2, 0, 1, 1], [0, 1, 2, 1, 1, 2], [0, 1, 2, 0, 2, 0]], 1)
    pruned = evaluated([[0, 2, 2, 1, 1, 1], [1, 2, 1, 1, 1, 2]], 2, movement={"base.a": 1.0, "b": 2.0})
    labels = np.array([0, 1, 2, 0, 1, 1])
    found = comparison.measure(dense, pruned, labels, 3)

    def modal(side, image):
        votes = [list(side.predictions[:, image]).count(label) for label in range(3)]
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
        assert arrays[f"{prefix}ids"] == list(range(len(side.predictions)))
        for part in comparison.PARTS:
            for group, chosen in (("pies", pies), ("rest", [i for i in images if i not in pies])):
                values = [side.quality[part][i] for i in chosen if not (part == "q_score" and i == 1)]
                assert columns[f"{prefix}{part}_{group}"] == pytest.approx(sum(values) / len(values))
    assert columns["ties_pruned"] == sum(modal(pruned, i)[1] for i in images)
    assert columns["ties_dense"] == sum(modal(dense, i)[1] for i in images)
    right = [sum(row == labels) / 6 for row in pruned.predictions]
    assert columns["accuracy_mean"] == pytest.approx(sum(right) / 2)
    assert columns["accuracy_std"] == pytest.approx(abs(right[0] - right[1]) / 2**0.5)
    assert columns["accuracy_before_finetuning_mean"] == pytest.approx(0.05)
    assert list(arrays["pies_per_class"]) == [sum(labels[i] == c for i in pies) for c in range(3)]
    assert set(arrays["gallery"]) == set(pies)
    assert arrays["movement_layers"] == ["a", "b"] and arrays["movement"].tolist() == [[1, 2]] * 2


def test_depths_are_measured_by_both_definitions_and_pies_apart():
    knn = np.array([[0, 1, 2], [0, 0, 2], [0, 1, 2]])
    dense = [{"knn": knn, "predictions": np.array([0, 1, 0])}]
    pruned = [*dense, {"knn": knn[:, ::-1], "predictions": np.array([2, 1, 2])}]
    found = comparison.measure_depths(dense, pruned, np.array([0, 1, 1]), np.array([True, False, False]))
    assert found.arrays["places"] == 3
    assert found.arrays["pruned_depth_prediction"].tolist() == [[0, 2, 3], [0, 2, 3]]
    assert found.arrays["pruned_depth_label"].tolist() == [[1, 2, 3], [3, 2, 3]]
    assert found.arrays["dense_depth_label"].tolist() == [[1, 2, 3]]
    assert found.columns == {
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


def test_results_of_other_dense_networks_go_when_new_ones_are_stored(view, caplog):
    folder = view.method_folder / "populations"

    def stored(dense, pruned, suffix=""):
        two = [evaluated([[0, 1], [1, 1]], 1), evaluated([[1, 1], [1, 1]], 2)]
        two = [
            dataclasses.replace(
                side.population,
                pruning_method=method,
                sparsity=sparsity,
                members=tuple(
                    dataclasses.replace(m, checksums=(f"{text} {m.id}",)) for m in side.population.members
                ),
            )
            for side, method, sparsity, text in zip(
                two, ("dense", "global"), (0.0, pruned[0]), (dense, pruned[1])
            )
        ]
        columns = {"pies": 1, "dense_q_score_rest": 0.5, "ties_pruned": 2, "ties_dense": 3}
        measured = [comparison.Measured({"is_pie": np.array([True, False])}, columns) for _ in two]
        rows = comparison.store(view, two, measured, suffix)
        said = [line for line in caplog.messages if "left the table" in line]
        caplog.clear()
        return rows, sorted(path.stem for path in folder.iterdir()), said

    rows, there, said = stored("a", (0.5, "b"))
    assert there == ["dense_0.0", "global_0.5"] and not said
    assert rows[1]["dense_q_score_rest"] == 0.5 and rows[1]["ties_pruned"] == 2
    assert rows[0]["ties_dense"] == 3
    assert [rows[0][name] for name in ("pies", "dense_q_score_rest", "ties_pruned")] == [None] * 3
    _, there, said = stored("a", (0.5, "b"), "_depth")
    assert there == ["dense_0.0", "dense_0.0_depth", "global_0.5", "global_0.5_depth"] and not said
    _, there, said = stored("a", (0.9, "c"))
    assert len(there) == 5 and not said
    _, there, said = stored("a", (0.5, "pruned again"))
    assert "global_0.5" in there and "global_0.5_depth" not in there and len(there) == 4
    (folder / "torn.npz").write_bytes(b"torn")
    _, there, said = stored("other", (0.7, "d"), "_depth")
    assert there == ["dense_0.0_depth", "global_0.7_depth"]
    assert said == ["4 results of other networks left the table"]


def test_depths_are_compared_on_ids_that_both_populations_have(view):
    dense = populations.find_population(view, "dense", 0.0)
    one, other = (populations.Population("supervised", "dense", 0.0, (member,)) for member in dense.members)
    view.flags.prediction_depth_models = 5
    assert comparison.first_ids(view, dense, other) == [1]
    with pytest.raises(UserError, match="no id is in all of"):
        comparison.first_ids(view, one, other)


def test_what_another_script_is_writing_is_left_alone_and_not_in_the_table(view):
    folder = view.method_folder / "populations"
    folder.mkdir(parents=True)
    half_written = folder / ".dense_0.0.npz.host.1.tmp.npz"
    half_written.write_bytes(b"half")
    population = populations.find_population(view, "dense", 0.0)
    measured = comparison.Measured({"is_pie": np.array([True, False])}, {"pies": 1})
    comparison.store(view, [population], [measured])
    assert half_written.read_bytes() == b"half" and len(read_table(view.results_folder)) == 1
