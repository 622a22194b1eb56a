"""Faults that are known and not mended yet. Each row says what goes wrong today, its test what the right end
is. A row whose fault is mended fails until its mark is gone; the test stays, without the mark."""

import argparse
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import types
import urllib.error
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_few_digits
from stored_results import make_results
from test_scripts import ROOT, SMALL, main
from test_setup import asked, paper, project, setup  # noqa: F401 (project: a fixture)

from common import training
from common.data import load_dataset
from common.store import table

TRAIN, PRUNE, PIES = "sup_training", "sup_pruning_finetune", "sup_pie_kmodels_detection"
FLAGS = {
    TRAIN: [*SMALL, "--index_end", 1, "--epochs", 2, "--batch_size", 32],
    PRUNE: [*SMALL, "--models_number", 2, "--epochs", 1, "--pruning_percentages", 0.9],
    PIES: [*SMALL, "--models_number", 2, "--pruning_percentages", 0.9],
    "clr_training": [*SMALL, "--pruning_percentages", 0.0, "--index_end", 0, "--epochs", 1, "--debug"],
    "make_figures": ["--results", "made up"],
}
ANEW = ["--epochs", 1, "--index_end", 0]  # with another folder, a network is trained in a second
EXTERNAL = ["--models_number", 1, "--pruning_percentages", 0.5]  # prunes the network that has no record
DENSE = Path("models/few digits/wideResNet-1_0.0pruning_2epochs_10depth_0.0dropout_id0.pt")
STATE = "other/.wideResNet-1_0.0pruning_1epochs_10depth_0.0dropout_id0.pt.state"
POPULATION, UNTRIED = "made up/supervised/populations/layer_0.9.npz", ["--results", "pies/cifar10"]
HANGS_AFTER = 3  # seconds


class Hangs(BaseException):
    pass


@dataclass
class End:
    """How a script ended; status: also the error of a traceback, or 'hangs'."""

    status: int | str | None
    out: str
    err: str

    def is_line(self, pattern: str, without: str = "Traceback") -> bool:
        """Whether it is status 2 and one line in which the first pattern is found, and the second is not."""
        is_one = self.status == 2 and self.err.count("\n") == 1
        return is_one and bool(re.search(pattern, self.err)) and not re.search(without, self.err)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two dense and two pruned networks and their PIEs, and results of networks that never were."""
    work = tmp_path_factory.mktemp("finished")
    write_few_digits(work / "few digits")
    few = {"models": 1, "learning": ("supervised",), "images": 20}
    few |= dict.fromkeys(("depths", "umap", "q_score"), False)
    make_results(work / "made up", **few, methods=("global", "layer"), sparsities=(0.9,))
    with contextlib.chdir(work):
        assert [main(script, *FLAGS[script]) for script in (TRAIN, PRUNE, PIES)] == [0, 0, 0]
    return work


@pytest.fixture
def run(finished, project, monkeypatch, capsys, empty_figures):  # noqa: F811
    """A function that runs a script in the working folder, a copy of the finished one below a copy of
    setup.sh; flags follow those of FLAGS."""
    monkeypatch.chdir(shutil.copytree(finished, project / "work"))
    monkeypatch.setattr("common.plots.save_figure", lambda path, figure: None)

    def no_network(*_, **__):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("urllib.request.urlopen", no_network)

    def stop(*_):
        raise Hangs

    def run(script, *flags, seconds=60):
        capsys.readouterr()
        before = signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            status = main(script, *FLAGS[script], *flags)
        except SystemExit as end:
            status = end.code
        except Hangs:
            status = "hangs"
        except Exception as error:  # noqa: BLE001 (a traceback)
            status = repr(error)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        return End(status, *capsys.readouterr())

    return run


FAULTS = []


def known(case, today=""):
    """Puts a test into the table, under the fault's number and with its wrong outcome today; '': mended."""
    mark = pytest.mark.xfail(strict=True, raises=AssertionError, reason=f"{case}: {today}")
    return lambda test: FAULTS.append(pytest.param(test, id=case, marks=[mark] if today else []))


def refused(prepare, script, flags, pattern, without="Traceback"):
    """The test of a user's error that ends in one line with its remedy."""

    def test(run, monkeypatch):
        if prepare:
            prepare(monkeypatch)
        assert run(script, *flags, seconds=HANGS_AFTER).is_line(pattern, without)

    return test


# Ways to prepare the working folder.


def write(name, content=b"x"):
    return lambda _: (Path(name).parent.mkdir(parents=True, exist_ok=True), Path(name).write_bytes(content))


def fifo(name):
    def prepare(_):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).unlink(missing_ok=True)
        os.mkfifo(name)

    return prepare


def archive_called_npy(_):
    for part in ("data", "labels"):
        with open(f"t_{part}.npy", "wb") as file:
            np.savez(file, images=np.zeros(3))


def link_to_itself(_):
    shutil.copytree("few digits/test", "other")
    os.symlink("loop.png", "other/digit 1/loop.png")


def folders_of_setup(_):
    for kind in ("umap", "q_score", "prediction_depth", "pies_distribution"):
        Path("pies/cifar10/supervised", kind).mkdir(parents=True)


# Case, wrong outcome today; how it is prepared, script, flags, what the one line has and what it has not.
for case, today, *row in [
    ("C10", "205 epochs at rate 1 for digits", None, PRUNE, ["--dataset", "digits"], "published"),
    ("D1", "ZeroDivisionError", None, "clr_training", ["--batch_size", 1], "--batch_size"),
    ("D6", "AttributeError", archive_called_npy, PIES, ["--test_set", "t_data.npy"], "t_data.npy"),
    ("D6 link", "RuntimeError", link_to_itself, PIES, ["--test_set", "other"], "loop.png"),
    ("D10", "'older version'", folders_of_setup, "make_figures", UNTRIED, "no results.*run", "older"),
    ("D13 test set", "hangs", fifo("t.npz"), PIES, ["--test_set", "t.npz"], "t.npz"),
    ("D13 checkpoint", "hangs", fifo(DENSE), PRUNE, EXTERNAL, "id0.pt"),
    ("D13 state", "hangs", fifo(STATE), TRAIN, [*ANEW, "--save_path", "other"], "state"),
    ("D13 population", "hangs", fifo(POPULATION), "make_figures", [], "layer_0.9.npz"),
    ("D13 log", "hangs", fifo("logs/few digits/sup_training.log"), TRAIN, [], "sup_training.log"),
]:
    known(case, today)(refused(*row))


@known("C8", "--severity is unknown")
def _(run, monkeypatch):
    data, folder = load_dataset("folder", "few digits"), Path("CIFAR-10-C")
    blocks = np.zeros((5, len(data.test_labels), 8, 8, 3), np.uint8)
    blocks[2] = data.test_images.permute(0, 2, 3, 1)
    folder.mkdir()
    np.save(folder / "labels.npy", np.tile(data.test_labels, 5))
    np.save(folder / "gaussian_noise.npy", blocks.reshape(-1, 8, 8, 3))
    end = run(PIES, "--test_set", folder / "gaussian_noise.npy", "--severity", 3)
    assert end.status == 0, end.err
    of_dense = f"supervised/evaluations/{DENSE.stem}.npz"
    [path] = Path("pies/few digits/test_sets").glob(f"*/{of_dense}")
    assert np.array_equal(np.load(path)["q_score"], np.load(Path("pies/few digits", of_dense))["q_score"])


@known("C10 command")
def _(run, monkeypatch):
    end = run(PIES, "--models_number", 3)
    flags = re.findall(r" (--\w+)", end.err.split("train them: ")[1].split(", or ")[0])
    assert len(flags) == len({*flags})


@known("D2", "'at chance' at an accuracy of 100 %")
def _(run, monkeypatch):
    said, history = [], [{"train_accuracy": 1.0, "loss": 0.01, "chance_loss": 0.69}] * 5
    monkeypatch.setattr(training.logger, "info", lambda *words: said.append(words))
    training.warn_at_chance(history, "a network", types.SimpleNamespace(train_labels=torch.arange(8) // 4))
    assert not said


@known("D3", "numba's RuntimeError, and no table")
def _(run, monkeypatch):
    class Umap:
        """Stands in for UMAP where packages are read-only and no home can be written."""

        def __init__(self, **_):
            if not os.path.isdir(os.environ.get("NUMBA_CACHE_DIR", "")):
                raise RuntimeError(
                    "cannot cache function 'rdist': no locator available for file 'layouts.py'"
                )

        def fit_transform(self, latent):
            return latent[:, :2]

    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setitem(sys.modules, "umap", types.SimpleNamespace(UMAP=Umap))
    shutil.rmtree("pies")
    assert run(PIES, "--plot_umap").status == 0 and Path("pies/few digits/results.csv").exists()


@known("D4", "tracebacks, and status 0")
def _(run, monkeypatch):
    with contextlib.suppress(OSError), open("/dev/full", "w") as full, contextlib.redirect_stdout(full):
        end = run(TRAIN)
    assert end.status in (2, 141) and end.err.count("\n") < 2


@known("D5", "RuntimeError")
def _(run, monkeypatch):
    end = run(TRAIN, *ANEW, "--match_sparsity", 0.998)
    assert end.status == 0 or end.is_line("--match_sparsity")


@known("D7", "refused after all was computed")
def _(run, monkeypatch):
    for image in Path("few digits/test").glob("*/00.png"):
        write(f"few/{image.parent.name}/00.png", image.read_bytes())(monkeypatch)
    end = run(PIES, "--plot_umap", "--test_set", "few")
    assert end.is_line("--plot_umap") and not [*Path("pies/few digits/test_sets").rglob("*.npz")]


@known("D8", "taken as 0-9")
def _(run, monkeypatch):
    seeds = None
    with contextlib.suppress(argparse.ArgumentTypeError):
        seeds = paper.seed_range("0-9-20")
    assert seeds is None


@known("D9", "ModuleNotFoundError")
def _(run, monkeypatch):
    # -S: the interpreter without any installed package.
    command = [sys.executable, "-E", "-S", ROOT / "sup_training.py", "--dataset", "digits"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert End(done.returncode, done.stdout, done.stderr).is_line("activate|.venv/bin/python")


@known("D11", "'[a] & 1' after '\\\\'")
def _(run, monkeypatch):
    table.write_tex(Path("t.tex"), [["class", "PIEs"], ["[a]", "1"]])
    text = Path("t.tex").read_text()
    assert "{}[a] & 1" in text


@known("D14", "LOCKED=0 installs the lock")
def _(run, monkeypatch):
    assert setup(Path.cwd().parent, LOCKED="0").returncode == 0
    assert asked(Path.cwd().parent)[-1].endswith("requirements.txt")


@known("D15", "'delete README.md'")
def _(run, monkeypatch):
    write("../README.md")(monkeypatch)
    done = setup(Path.cwd().parent, VENV="README.md", PYTHON=sys.executable)
    assert done.returncode == 2 and "README.md" in done.stderr and "delete" not in done.stderr


@pytest.mark.parametrize("test", FAULTS)
def test_the_right_end(run, monkeypatch, test):
    test(run, monkeypatch)
