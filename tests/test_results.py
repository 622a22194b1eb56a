"""Stored arrays, the table, evaluations and figures."""

import csv
import dataclasses
import importlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from common import comparison, metrics, models, plots, process, study
from common.cli import UserError
from common.store import checkpoints, populations, results
from common.store.checkpoints import CheckpointName


def test_arrays_come_back_only_when_made_from_the_same(tmp_path):
    path = tmp_path / "folder" / "arrays.npz"
    results.write_arrays(path, {"x": np.arange(3)}, {"checkpoints": ["a"]})
    assert (results.read_arrays(path, {"checkpoints": ["a"]})["x"] == np.arange(3)).all()
    assert results.read_arrays(path, {"checkpoints": ["b"]}) is None
    assert results.read_arrays(path) is not None
    assert results.read_arrays(tmp_path / "absent.npz") is None
    path.write_bytes(path.read_bytes()[:50])
    assert results.read_arrays(path) is None
    assert [file.name for file in path.parent.iterdir()] == ["arrays.npz"]


def row(learning, pruning, sparsity, population="p", dense_population="d", **columns):
    return {
        "learning_method": learning,
        "pruning_method": pruning,
        "sparsity": sparsity,
        "status": "present",
        "population": population,
        "dense_population": dense_population,
        **columns,
    }


def keys(folder):
    return [(r["learning_method"], r["pruning_method"], r["sparsity"]) for r in results.read_table(folder)]


def test_the_table_is_rewritten_by_key_and_keeps_the_columns_of_the_same_models(tmp_path):
    results.update_table(tmp_path, [row("SupCon", "dense", 0.0)])
    results.update_table(
        tmp_path, [row("supervised", "global", 0.9, pies=5), row("supervised", "dense", 0.0)]
    )
    results.update_table(
        tmp_path,
        [row("supervised", "global", 0.9, depth_pies=3.25), row("supervised", "global", 0.5, pies=1)],
    )
    assert keys(tmp_path) == [
        ("SupCon", "dense", "0.0"),
        ("supervised", "dense", "0.0"),
        ("supervised", "global", "0.5"),
        ("supervised", "global", "0.9"),
    ]
    stored = results.read_table(tmp_path)[3]
    assert stored["pies"] == "5" and stored["depth_pies"] == "3.25"
    [merged] = results.update_table(
        tmp_path, [row("supervised", "global", 0.9, population="other models", depth_pies=4.0)]
    )
    assert merged["depth_pies"] == "4.0" and not merged.get("pies"), "columns of other models are forgotten"


def test_rows_of_other_dense_networks_leave_the_table(tmp_path):
    results.update_table(tmp_path, [row("supervised", "dense", 0.0), row("supervised", "global", 0.5)])
    results.update_table(tmp_path, [row("SupCon", "dense", 0.0, dense_population="of SupCon")])
    results.update_table(
        tmp_path,
        [
            row("supervised", "dense", 0.0, dense_population="others"),
            row("supervised", "global", 0.7, dense_population="others"),
        ],
    )
    assert keys(tmp_path) == [
        ("SupCon", "dense", "0.0"),
        ("supervised", "dense", "0.0"),
        ("supervised", "global", "0.7"),
    ]


def test_what_is_absent_here_does_not_replace_its_numbers(tmp_path):
    results.update_table(tmp_path, [row("supervised", "global", 0.5, pies=5)])
    [shown] = results.update_table(
        tmp_path, [{**row("supervised", "global", 0.5, population=""), "status": "absent"}]
    )
    assert shown["status"] == "absent" and results.read_table(tmp_path)[0]["pies"] == "5"


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe\x00",
        b"a,b\n1,2\n",
        b"learning_method,pruning_method,status,sparsity\nSupCon,other,present,0.5\n",
        b"learning_method,pruning_method,status,sparsity\nSupCon,global,present,half\n",
    ],
)
def test_a_table_that_is_not_ours_is_refused(tmp_path, content):
    (tmp_path / "results.csv").write_bytes(content)
    with pytest.raises(UserError, match="not a table of this study"):
        results.update_table(tmp_path, [row("supervised", "global", 0.5)])
    assert (tmp_path / "results.csv").read_bytes() == content


def test_rows_written_at_the_same_time_by_several_processes_are_all_kept(tmp_path):
    start = (
        "import sys; from pathlib import Path; from common import results\n"
        "for i in range(20):\n"
        "    results.update_table(Path(sys.argv[1]), [dict(learning_method=sys.argv[2], pruning_method='global', sparsity=i / 100,"
        " status='present', population='p', dense_population='d')])"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", start, str(tmp_path), method])
        for method in ("SupCon", "supervised", "SimCLR")
    ]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert len(results.read_table(tmp_path)) == 60


def test_the_short_table_shows_absent_combinations_and_where_models_come_from():
    shown = results.format_table(
        [
            row("supervised", "global", 0.9, models=3, accuracy_mean=0.9512, pies=7, origin="made elsewhere"),
            {**row("supervised", "GMP", 0.9), "status": "absent"},
        ]
    )
    assert "95.12%" in shown and "made elsewhere" in shown and "absent" in shown.splitlines()[2]


def test_values_that_are_not_defined_are_empty_in_the_table(tmp_path):
    results.update_table(
        tmp_path, [row("supervised", "global", 0.9, pies=0, q_score_pies=None, q_score_rest=float("nan"))]
    )
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
        record = checkpoints.make_record(
            name,
            {"epochs": 3},
            model_id,
            opened.data,
            network,
            [],
            process.environment(torch.device("cpu"), 0.0),
        )
        checkpoints.save_checkpoint(
            opened.folder / str(name), checkpoints.cpu_state(network), record, network
        )
    return opened


def test_a_network_is_evaluated_once_while_its_checkpoint_is_unchanged(view, monkeypatch):
    member = populations.find_population(view, "dense", 0.0).members[0]
    first = results.evaluate(view, member)
    loads = []
    monkeypatch.setattr(results, "load_member", lambda *arguments: loads.append(1) or original(*arguments))
    again = results.evaluate(view, member)
    assert not loads and (first["predictions"] == again["predictions"]).all()
    assert results.evaluate(view, member, with_latent=True)["latent"].shape == (500, 64)
    assert len(loads) == 1
    results.evaluate(view, member, with_latent=True)
    assert len(loads) == 1
    state = torch.load(member.paths[0], weights_only=True)
    state["base.fc.bias"][0] = 50.0
    torch.save(state, member.paths[0])
    member.paths[0].with_suffix(".json").unlink()
    member = next(
        m for m in populations._members(view, (view.folder, view.head_folder), "dense", 0.0) if m.id == 0
    )
    assert (results.evaluate(view, member)["predictions"] == 0).all() and len(loads) == 2


original = results.load_member


def test_predictions_and_q_scores_are_those_of_the_network(view):
    member = populations.find_population(view, "dense", 0.0).members[0]
    stored = results.evaluate(view, member)
    network = results.load_member(view, member)
    with torch.no_grad():
        image = (
            view.data.test_images[7:8].float() / 255 - torch.tensor(view.data.mean)[:, None, None]
        ) / torch.tensor(view.data.std)[:, None, None]
        latent = network.latent(image)
    assert stored["predictions"][7] == network.classify(latent).argmax()
    assert stored["q_score"][7] == pytest.approx(metrics.q_scores(latent.numpy())["q_score"][0], rel=1e-5)


def test_latents_of_zeros_are_counted_and_left_out_of_the_average(view):
    population = populations.find_population(view, "dense", 0.0)
    _, quality = comparison.evaluate_population(view, population)
    alone = results.evaluate(view, population.members[0])
    assert quality["zero_latents"] == 500
    assert np.allclose(quality["q_score"], alone["q_score"]) and not np.isnan(quality["q_score"]).any()


def test_probes_look_at_every_place_whatever_the_memory(view, monkeypatch):
    population = populations.find_population(view, "dense", 0.0)
    view.flags.batch_size = 200
    first = results.probe(view, population.members[0])
    assert first["knn"].shape == (8, 500) and list(first["places"]) == models.probe_places(10, 1)
    assert (first["predictions"] == results.evaluate(view, population.members[0])["predictions"]).all()
    (
        view.method_folder / "prediction_depth" / "votes" / f"{population.members[0].paths[0].stem}.npz"
    ).unlink()
    monkeypatch.setattr(results, "HIDDEN_BYTES", 1)
    assert (results.probe(view, population.members[0])["knn"] == first["knn"]).all()


def test_places_are_grouped_by_memory(monkeypatch):
    monkeypatch.setattr(results, "HIDDEN_BYTES", 4 * 100 * 48)
    widths = dict(zip("abcdef", [16, 32, 32, 64, 16, 16]))
    assert results._place_groups(widths, 100) == [["a", "b"], ["c"], ["d"], ["e", "f"]]


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
    view.flags.not_serialize_plots = True
    comparison.store_figure(view, "q_score", "one", {"made": 1}, figure_arrays("q_score"))
    assert sorted(path.name for path in (view.method_folder / "q_score").iterdir()) == ["one.png"]


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
    shown = [text.get_text().strip().replace("\\$", "$") for text in figure.axes[0].get_legend().get_texts()]
    assert shown == ["_back", "$x^$", "a_$b"]
    FigureCanvasAgg(plots.draw({**arrays, "figure": "pies_distribution"})).draw()


def test_a_umap_of_too_few_images_is_refused():
    with pytest.raises(UserError, match="--plot_umap needs at least 10"):
        comparison.umap_coordinates(np.random.default_rng(0).random((9, 4)))
    assert comparison.umap_coordinates(np.random.default_rng(0).random((10, 4)).astype(np.float32)).shape == (
        10,
        2,
    )


def test_arrays_of_other_networks_do_not_stay_beside_a_plot(view):
    folder = view.method_folder / "q_score"
    comparison.store_figure(view, "q_score", "one", {"made": "a"}, figure_arrays("q_score"))
    picture = (folder / "one.png").read_bytes()
    view.flags.not_serialize_plots = True
    comparison.store_figure(
        view, "q_score", "one", {"made": "b"}, {**figure_arrays("q_score"), "title": "other"}
    )
    assert not (folder / "one.npz").exists() and (folder / "one.png").read_bytes() != picture
    view.flags.not_serialize_plots = False
    comparison.store_figure(view, "q_score", "one", {"made": "a"}, figure_arrays("q_score"))
    assert (folder / "one.png").read_bytes() == picture


def test_the_identity_of_a_row_changes_with_the_data(view):
    population = populations.find_population(view, "dense", 0.0)
    other = dataclasses.replace(view, data=dataclasses.replace(view.data, checksum="0" * 64))
    one, two = (
        results.population_row(study, population, "dense", 0.0, population) for study in (view, other)
    )
    assert one["population"] != two["population"] and one["dense_population"] != two["dense_population"]


def test_depths_are_compared_on_ids_that_both_populations_have(view):
    dense = populations.find_population(view, "dense", 0.0)
    one, other = (populations.Population("supervised", "dense", 0.0, (member,)) for member in dense.members)
    view.flags.prediction_depth_models = 5
    assert comparison.first_ids(view, dense, other) == [1]
    with pytest.raises(UserError, match="no id is in all of"):
        comparison.first_ids(view, one, other)
