"""All eight scripts chained through their command lines, on a few digits with tiny settings, on the CPU."""

import contextlib
import hashlib
import importlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from conftest import GOLDEN_HERE, read_csv, write_few_digits
from matplotlib.figure import Figure

from common import comparison, plots
from common.cli import UserError
from common.store import records
from figures.report import plots as report_plots

ROOT = Path(__file__).parent.parent
SMALL = ["--dataset", "folder", "--data_dir", "few digits", "--model_depth", "10", "--widen_factor", "1"]
DENSE = ["--pruning_percentages", "0.0"]  # else clr_training trains the gradually pruned networks too


def run(script, *flags, cwd):
    """A script as a process of its own; what it wrote to stdout and stderr."""
    done = subprocess.run(
        [sys.executable, str(ROOT / f"{script}.py"), *map(str, flags)],
        cwd=cwd,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, f"{script} {flags}\n{done.stdout}\n{done.stderr}"
    return done.stdout, done.stderr


def run_here(script, *flags, cwd):
    """A script inside the test process; what it wrote to stdout and stderr."""
    with (
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
    ):
        assert main(script, *flags) == 0, err.getvalue()
    return out.getvalue(), err.getvalue()


CHAIN = {
    "sup_training": "--index_end 1 --epochs 3 --batch_size 32 --learning_rate 0.1",
    "clr_training": "--pruning_percentages 0.0 --index_end 1 --epochs 2 --batch_size 32 --head_epochs 3 "
    "--debug_classification_head --debug_classification_head_epochs 1",
}
for method in ("sup", "clr"):
    CHAIN |= {
        f"{method}_pruning_finetune": "--models_number 2 --pruning_percentages 0.9 --epochs 2",
        f"{method}_pie_kmodels_detection": "--models_number 2 --pruning_percentages 0.7,0.9 "
        "--plot_umap --plot_q_score --umap_models 2",
        f"{method}_prediction_depth": "--models_number 2 --pruning_percentages 0.9 "
        "--prediction_depth_models 2",
    }
CHAIN = {script: [*SMALL, *flags.split()] for script, flags in CHAIN.items()}


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """A working folder in which every script has run once; what each wrote to stdout and stderr."""
    work = tmp_path_factory.mktemp("work")
    write_few_digits(work / "few digits")
    how = {script: run if script == "sup_training" else run_here for script in CHAIN}
    return work, {script: how[script](script, *flags, cwd=work) for script, flags in CHAIN.items()}


@pytest.fixture(scope="module")
def drawn(chain, tmp_path_factory):
    """The scripts' figures drawn again from the chain's arrays, those of the report empty; what was said."""
    folder = tmp_path_factory.mktemp("drawn")
    flags = ["--results", chain[0] / "pies/few digits", "--output_dir", folder, "--format", "svg"]
    draw = report_plots.draw
    of_script = lambda arrays: draw(arrays) if str(arrays["figure"]) in plots.KINDS else Figure((1, 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report_plots, "draw", of_script)
        return folder, run_here("make_figures", *flags, cwd=chain[0])[0]


def table(work):
    return {
        (row["learning_method"], row["pruning_method"], float(row["sparsity"])): row
        for row in read_csv(work / "pies/few digits/results.csv")
    }


def test_models_have_the_published_names_and_records(chain):
    models = chain[0] / "models/few digits"
    expected = set()
    for i in range(2):
        expected |= {
            f"wideResNet-1_0.0pruning_3epochs_10depth_0.0dropout_id{i}",
            f"wideResNet-1_global_0.9pruning_2epochs_10depth_0.0dropout_id{i}",
            f"WideResNet-10-1_encoder_SupCon_0.0pruning_32batch_0.5temperature_2epochs_id{i}",
            f"WideResNet-10-1_head_SupCon_0.0pruning_32batch_0.5temperature_3epochs_id{i}",
        }
        expected |= {
            f"WideResNet-10-1_{part}_SupCon_0.9pruning_global_128batch_0.5temperature_2epochs_id{i}"
            for part in ("encoder", "head")
        }
    files = {path.name for path in models.iterdir() if path.is_file() and "_curves" not in path.name}
    assert files == {name + ending for name in expected for ending in (".pt", ".json")}
    dense = models / "wideResNet-1_0.0pruning_3epochs_10depth_0.0dropout_id1.pt"
    record = json.loads(
        (models / "wideResNet-1_global_0.9pruning_2epochs_10depth_0.0dropout_id1.json").read_text()
    )
    assert record["dense_sha256"] == [hashlib.sha256(dense.read_bytes()).hexdigest()]


def test_files_have_the_published_formats(chain):
    def load(name):
        return torch.load(chain[0] / f"models/few digits/{name}_id0.pt", weights_only=True)

    dense = load("WideResNet-10-1_encoder_SupCon_0.0pruning_32batch_0.5temperature_2epochs")["model"]
    assert {"encoder.conv1.weight", "head.2.bias"} <= set(dense)
    ending = "SupCon_0.9pruning_global_128batch_0.5temperature_2epochs"
    encoder, head = (
        load(f"WideResNet-10-1_encoder_{ending}")["model"],
        load(f"WideResNet-10-1_head_{ending}")["head"],
    )
    assert set(head) == {"fc.weight", "fc.bias"} and not any(key.startswith("head") for key in encoder)
    supervised = load("wideResNet-1_global_0.9pruning_2epochs_10depth_0.0dropout")
    assert {key.removeprefix("base.") for key in supervised} == {*encoder, *head}


def test_the_table_has_a_row_for_every_population_and_agrees_with_the_arrays(chain):
    work, said = chain
    rows = table(work)
    assert set(rows) == {
        (learning, pruning, sparsity)
        for learning in ("SupCon", "supervised")
        for pruning, sparsity in (("dense", 0.0), ("global", 0.9))
    }
    assert said["sup_pie_kmodels_detection"][0].count("not found, left out: global 0.7") == 1
    assert said["clr_prediction_depth"][0].count("not found, left out: ") == 1  # GMP and later GMP
    for (learning, pruning, sparsity), row in rows.items():
        folder, kind = work / "pies/few digits" / learning, f"{pruning}_{sparsity}"
        stored, depth = (np.load(folder / f"populations/{kind}{end}.npz") for end in ("", "_depth"))
        is_pie = stored["is_pie"]
        assert (row["origin"], row["models"]) == ("trained here", "2")
        if pruning == "dense":
            assert not row["pies"] and not is_pie.any()
        else:
            assert int(row["pies"]) == is_pie.sum() == stored["pies_per_class"].sum()
        assert float(row["accuracy_mean"]) == pytest.approx(stored["accuracy"].mean(), abs=1e-6)
        rest = depth["pruned_depth_prediction"].mean(0)[~is_pie]
        assert float(row["depth_rest"]) == pytest.approx(rest.mean(), abs=1e-6)


@pytest.mark.parametrize("method", ["SupCon", "supervised"])
def test_every_figure_is_drawn_and_can_be_drawn_again_from_its_arrays(chain, method, drawn):
    folder = chain[0] / "pies/few digits" / method
    stem = "WideResNet-10-1_global_0.9sparsity_2models"
    of_latents = {f"{stem}_2latents", "WideResNet-10-1_dense_0.0sparsity_2models_2latents"}
    kinds = {"pies_distribution": {stem}, "q_score": {stem}, "umap": of_latents}
    kinds["prediction_depth"] = {f"{stem}_prediction"}
    for kind, expected in kinds.items():
        assert {path.stem for path in (folder / kind).glob("*.png")} == expected
    pictures = sorted(drawn[0].glob(f"few_digits_{method}_*.svg"))
    assert len(pictures) == 5 and "accuracy" in drawn[1]
    page = (folder.parent / "report.html").read_text()
    verdicts = {*re.findall('class="verdict ([a-z-]+)"', page)}
    assert verdicts == {"too-few-networks", "nothing-to-compare"}  # of 2 models
    assert "a verdict needs 6" in page and "python clr_training.py" in page
    assert len(list((chain[0] / "models/few digits").glob("*_curves.png"))) == 4


def files_of(work):
    """Models and results."""
    paths = [path for folder in ("models", "pies") for path in (work / folder).rglob("*") if path.is_file()]
    return {path: path.read_bytes() for path in paths}


def test_a_second_run_changes_nothing(chain, monkeypatch):
    work, _ = chain
    before, evaluations = files_of(work), list(work.rglob("evaluations/*.npz"))
    ages = [path.stat().st_mtime_ns for path in evaluations]
    monkeypatch.setattr(comparison, "umap_coordinates", lambda latent: pytest.fail("coordinates were stored"))
    for script in ("clr_training", "sup_pruning_finetune", "clr_pie_kmodels_detection"):
        said = run_here(script, *CHAIN[script], cwd=work)[0]
        assert ("finished before: 2 of 2 networks" in said) == ("pie" not in script)
    assert files_of(work) == before and [path.stat().st_mtime_ns for path in evaluations] == ages


def test_the_story_is_in_the_logs(chain):
    story = (chain[0] / "logs/few digits/clr_training.log").read_text()
    assert "chance" in story and "SupCon id 1 encoder epoch 2/2" in story and "throw-away head" in story
    assert "no CUDA device: running on the CPU" in chain[1]["sup_training"][0]


def test_nothing_but_the_result_is_written_to_a_pipe(chain):
    assert all("\r" not in stderr and "it/s" not in stderr for _, stderr in chain[1].values())


def main(script, *flags):
    """A script inside the test process, whose command line is the script's."""
    sys.path.insert(0, str(ROOT / "figures"))
    words = [str(flag) for flag in flags]
    with mock.patch.object(sys, "argv", [f"{script}.py", *words]):
        return importlib.import_module(script).main(words)


def test_debug_is_verbose_saves_no_model_and_leaves_finished_ones_of_other_settings_alone(
    digits_on_disk, capsys
):
    for script, extra in (("sup_training", []), ("clr_training", [*DENSE, "--head_epochs", 1])):
        flags = [*SMALL, "--index_end", 0, "--epochs", 1, *extra]
        assert main(script, *flags, "--debug", "True") == 0
        assert not list(digits_on_disk.rglob(f"{script[:3]}*.pt")) and main(script, *flags) == 0
        before = {path: path.read_bytes() for path in digits_on_disk.rglob("*.pt")}
        capsys.readouterr()
        assert main(script, *flags, "--learning_rate", 0.01, "--debug") == 0
        assert "epoch 1/1" in capsys.readouterr().out
        assert {path: path.read_bytes() for path in digits_on_disk.rglob("*.pt")} == before
        for path in digits_on_disk.rglob("*.json"):  # as external networks
            path.unlink()
        assert main(script, *flags, "--debug") == 0


def remedy(message):
    """The command that an error prints."""
    words = shlex.split(message.split("train them: python ")[1].split(", or")[0])
    return words[0].removesuffix(".py"), words[1:]


def test_the_command_for_missing_models_gives_models_of_the_same_population(digits_on_disk, capsys):
    half = [*SMALL, "--pruning_percentages", 0.5, "--models_number"]
    finetune = ["clr_pruning_finetune", *half, 2, "--epochs", 1]
    compare = ["clr_pie_kmodels_detection", *half, 3]
    words = "--epochs 1 --learning_rate 0.01 --batch_size 16 --cosine_annealing --head_epochs 1"
    assert main("clr_training", *SMALL, *DENSE, "--index_end", 0, *words.split()) == 0
    assert main(*finetune) == 2
    script, words = remedy(capsys.readouterr().err)
    assert main(script, *words) == 0 and main(*finetune) == 0
    assert main(*compare, "--allow_missing") == 0 and main(*compare) == 2
    script, words = remedy(capsys.readouterr().err)
    assert main(script, *words) == 0


def test_what_is_in_the_way_of_a_later_id_is_refused_before_the_first(digits_on_disk, capsys):
    assert main("sup_training", *SMALL, "--index_start", 1, "--index_end", 1, "--epochs", 1) == 0
    capsys.readouterr()
    assert main("sup_training", *SMALL, "--index_end", 1, "--epochs", 1, "--learning_rate", 0.1) == 2
    assert "supervised id 0" not in capsys.readouterr().out


def test_an_external_head_is_never_replaced(digits_on_disk, capsys):
    flags = [*SMALL, *DENSE, "--index_end", 0, "--epochs", 1, "--head_epochs", 1]
    assert main("clr_training", *flags) == 0
    [head] = digits_on_disk.rglob("*_head_*.pt")
    (digits_on_disk / "other").mkdir()
    foreign = digits_on_disk / "other" / head.name
    foreign.write_bytes(head.read_bytes() + b" ")
    assert main("clr_training", *flags, "--encoder_save_path", "other") == 2
    assert "is external" in capsys.readouterr().err and foreign.read_bytes() == head.read_bytes() + b" "


ONE_STEP = ["--epochs", 1, "--batch_size", 500, "--learning_rate", 1e30]


@pytest.mark.parametrize(
    "script, flags",
    [
        ("sup_training", ["--learning_rate", 1e30]),
        ("clr_training", [*DENSE, "--learning_rate", 1e30, "--head_epochs", 1]),
        # One step: the loss is that of the network before it.
        ("sup_training", [*ONE_STEP, *"--pruning 0.5 --begin_step 1 --end_step 1 --frequency 1".split()]),
        ("clr_training", [*ONE_STEP, *DENSE, "--head_epochs", 1, "--epochs", 2, "--save_epochs", 1]),
    ],
)
def test_a_network_that_diverges_is_not_saved(digits_on_disk, capsys, script, flags):
    assert main(script, *SMALL, "--index_end", 0, "--epochs", 3, "--batch_size", 16, *flags) == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1 and "diverged" in shown and "--learning_rate" in shown
    assert not list(digits_on_disk.rglob("*.pt")) and not list(digits_on_disk.rglob("*.json"))


@pytest.mark.parametrize(
    "script, lost, flags",
    [
        ("sup_training", "wideResNet*", "--learning_rate 0.2"),
        ("sup_pruning_finetune", "*_0.0pruning*", "--pruning_percentages 0.5 --debug"),
        ("clr_training", "*_encoder_*0.0pruning*", "--warmup_epochs 0"),
        ("clr_training", "*_head_*0.0pruning*", "--batch_size_head 9"),
    ],
)
def test_a_checkpoint_without_a_record_is_taken_and_that_nothing_is_known_of_it_is_told(
    chain, tmp_path, monkeypatch, capsys, script, lost, flags
):
    for name in ("models", "few digits"):
        shutil.copytree(chain[0] / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for record in Path("models/few digits").glob(f"{lost}.json"):
        record.unlink()
    records.log_once.cache_clear()
    assert main(script, *CHAIN[script], "--batch_size", 32, *flags.split()) == 0
    [note] = [line for line in capsys.readouterr().out.splitlines() if "no record, taken as external" in line]
    assert note.endswith("are unknown and cannot be checked")


def test_a_published_checkpoint_is_taken_and_external_follows_it_into_tables_and_titles(
    tmp_path, monkeypatch, capsys, empty_figures
):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "models/digits"
    folder.mkdir(parents=True)
    for path in GOLDEN_HERE.glob("*.pt"):
        shutil.copy(path, folder / path.name)
    common = ["--dataset", "digits", "--model_depth", 10, "--models_number", 1]
    for method in ("sup", "clr"):
        assert main(f"{method}_pruning_finetune", *common, "--epochs", 1, "--pruning_percentages", 0.9) == 0
        assert main(f"{method}_pie_kmodels_detection", *common, "--pruning_percentages", 0.9) == 0
        assert "external" in capsys.readouterr().out
    rows = read_csv(tmp_path / "pies/digits/results.csv")
    origins = {"dense": "external", "global": "finetuned here, dense external"}
    assert len(rows) == 4 and all(row["origin"] == origins[row["pruning_method"]] for row in rows)
    assert main("make_figures", "--results", "pies/digits") == 0
    titles = {}
    for path in (tmp_path / "pies").rglob("*.npz"):
        with np.load(path) as arrays:
            titles |= {path.name: str(arrays["title"])} if "title" in arrays else {}
    assert len(titles) > 12 and not [name for name in titles if "external" not in titles[name]]
    report = (tmp_path / "pies/digits/report.html").read_text()
    assert report.count(">not known<") == 2  # settings of the dense networks


# UMAP's own code, which takes half a minute to be compiled, runs in this file alone.


def test_umap_is_seeded():
    latent = np.random.default_rng(0).random((80, 16)).astype(np.float32)
    assert (comparison.umap_coordinates(latent) == comparison.umap_coordinates(latent)).all()


def test_a_umap_of_infinite_distances_is_refused():
    latent = np.random.default_rng(0).random((10, 4)).astype(np.float32)
    with pytest.raises(UserError, match="--plot_umap: distances between these latents are not finite"):
        comparison.umap_coordinates(1e25 * latent)
    assert comparison.umap_coordinates(latent).shape == (10, 2)


def python_page():
    return (ROOT / "docs/python.md").read_text(encoding="utf-8")


def test_the_examples_of_the_page_on_python_run_one_after_the_other(chain, monkeypatch):
    monkeypatch.chdir(chain[0])
    code = "\n".join(re.findall(r"```python\n(.*?)```", python_page(), re.DOTALL))
    code = code.replace('"digits", "data"', '"folder", "few digits"').replace("/digits", "/few digits")
    dense = Path("models/few digits").glob("*_0.0pruning_*_id0.pt")
    controls = [path.with_name(path.name.replace("pruning_", "pruning_finetuned_")) for path in dense]
    for path in controls:
        path.touch()
    exec(compile(code, "docs/python.md", "exec"), names := {})
    for path in controls:
        path.unlink()
    assert 0 <= float(names["accuracy"]) <= 1 and names["q_score"].shape == (len(names["latent"]),)
    latent = names["contrastive"].latent(torch.zeros(1, 3, 8, 8))
    assert latent.shape == names["network"].latent(torch.zeros(1, 3, 8, 8)).shape
    assert Path("my_q_score.pdf").exists()


def test_every_stored_array_stands_in_the_table_of_the_page_on_python(chain):
    """File, name and number of dimensions of all arrays that the scripts wrote."""
    listed, found, files = {}, {}, ""
    rows = re.findall(r"^\| ?([a-z_, ]*) \| `(.*)` \| (.*) \| .*\|$", python_page(), re.MULTILINE)
    for file, names, shapes in rows:
        files = file.strip() or files
        names, shapes = names.split("`, `"), shapes.split("; ")
        for name, shape in zip(names, shapes * len(names) if len(shapes) == 1 else shapes, strict=True):
            listed |= {
                (file, name): 0 if shape == "()" else shape.count(",") + 1 for file in files.split(", ")
            }
    for path in (chain[0] / "pies/few digits").glob("*/*/**/*.npz"):  # not those of the report
        file = path.parent.name + "_depth" * path.stem.endswith("_depth")
        with np.load(path) as arrays:
            for name in {*arrays.files} - {"made"}:
                key = (file, name) if (file, name) in listed else (file, name.removeprefix("dense_"))
                found[key] = arrays[name].ndim
    assert {key: listed.get(key) for key in found} == found
    assert not listed.keys() - found.keys()


def test_a_training_leaves_its_numbers_epoch_by_epoch(chain):
    [path] = (chain[0] / "models/few digits").glob("wideResNet*_0.0pruning_*_id0_curves.csv")
    rows = read_csv(path)
    [record] = (chain[0] / "models/few digits").glob("wideResNet*_0.0pruning_*_id0.json")
    history = json.loads(record.read_text())["history"]
    assert [row["epoch"] for row in rows] == [str(entry["epoch"]) for entry in history]
    assert [float(row["loss"]) for row in rows] == pytest.approx(
        [entry["loss"] for entry in history], abs=1e-5
    )


def test_a_network_without_a_record_is_not_loaded_by_its_file_alone(chain, tmp_path):
    [path] = (chain[0] / "models/few digits").glob("wideResNet*_0.0pruning_*_id0.pt")
    shutil.copy(path, tmp_path / path.name)
    with pytest.raises(UserError, match="no record of this study"):
        records.load_network(str(tmp_path / path.name))


def test_parts_that_do_not_belong_together_are_not_loaded(chain):
    models = chain[0] / "models/few digits"
    [encoder] = models.glob("*_encoder_SupCon_0.0pruning_*_id0.pt")
    [other_head] = models.glob("*_head_SupCon_0.0pruning_*_id1.pt")
    for paths, words in (
        ((encoder, other_head), "was not trained on"),
        ((encoder,), "give its encoder and its head"),
        ((models / "nothing.pt",), "does not exist"),
    ):
        with pytest.raises(UserError, match=words):
            records.load_network(*paths)


def test_the_notebook_runs_from_top_to_bottom(chain, monkeypatch):
    monkeypatch.chdir(chain[0])
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: None)
    cells = json.loads((ROOT / "docs/analysis.ipynb").read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    code = code.replace('"digits", "data"', '"folder", "few digits"').replace("/digits", "/few digits")
    exec(compile(code, "docs/analysis.ipynb", "exec"), names := {})
    assert names["accuracy"] == pytest.approx(names["population"]["dense_accuracy"][0])
    assert len(names["rows"]) > 2
