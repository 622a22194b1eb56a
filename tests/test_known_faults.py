"""Faults that are known and not mended yet. Each row says what goes wrong today, its test what the right end
is. A row whose fault is mended fails until its mark is gone; the test stays, without the mark."""

import argparse
import contextlib
import errno
import os
import re
import shutil
import signal
import urllib.error
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import pytest
import torch
from conftest import write_few_digits
from stored_results import make_results
from test_scripts import SMALL, main
from test_setup import asked, paper, project, setup  # noqa: F401 (project: a fixture)

from common import models
from common.settings import Architecture
from common.store import table
from figures import make_figures

TRAIN, PRUNE, PIES = "sup_training", "sup_pruning_finetune", "sup_pie_kmodels_detection"
FLAGS = {
    TRAIN: [*SMALL, "--index_end", 1, "--epochs", 2, "--batch_size", 32],
    PRUNE: [*SMALL, "--models_number", 2, "--epochs", 1, "--pruning_percentages", 0.9],
    PIES: [*SMALL, "--models_number", 2, "--pruning_percentages", 0.9],
    "make_figures": ["--results", "made up"],
}
ANEW = ["--epochs", 1, "--index_end", 0]  # with another folder, a network is trained in a second
EXTERNAL = ["--models_number", 1, "--pruning_percentages", 0.5]  # prunes the network that has no record
CIFAR = ["--dataset", "cifar10", "--data_dir"]
DENSE = Path("models/few digits/wideResNet-1_0.0pruning_2epochs_10depth_0.0dropout_id0.pt")
IMAGE = "few digits/train/digit 1/03.png"
ARCHIVE = "data/cifar-10-python.tar.gz"
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


def external(content):
    """A network without a record, saved as others do."""

    def prepare(monkeypatch):
        network = models.SupervisedNetwork(Architecture(10, 1), 3)
        torch.save(content(network), DENSE)
        DENSE.with_suffix(".json").unlink()

    return prepare


def with_flags(network):
    return {"model": network.state_dict(), "args": argparse.Namespace()}


def stale(monkeypatch):
    """Stands in for a network drive that is gone for a while."""
    DENSE.with_suffix(".json").unlink()
    monkeypatch.setattr("torch.load", raising(errno.ESTALE))


def forbidden(monkeypatch):
    """Stands in for files without read permission, which root may read."""
    monkeypatch.setattr("zipfile.ZipFile", raising(errno.EACCES))


def raising(number):
    def fail(path, *_, **__):
        raise OSError(number, os.strerror(number), str(path))

    return fail


def write(name, content=b"x"):
    return lambda _: (Path(name).parent.mkdir(parents=True, exist_ok=True), Path(name).write_bytes(content))


def no_class_folders(_):
    for path in Path("few digits/train").glob("*/*"):
        path.rename(path.parents[1] / f"{path.parent.name} {path.name}")
    for path in Path("few digits/train").glob("*/"):
        path.rmdir()


# Case, wrong outcome today; how it is prepared, script, flags, what the one line has and what it has not.
for case, today, *row in [
    ("B2", "written into the working folder", None, "make_figures", ["--release", ""], "--release"),
    ("B2 figures", "the same", None, "make_figures", ["--output_dir", ""], "--output_dir"),
    ("C1", "'delete it and train it again'", stale, PRUNE, EXTERNAL, "Stale file", "delete"),
    ("C2", "the same", external(lambda net: net), PRUNE, EXTERNAL, "Network.*state_dict", "delete"),
    ("C2 Namespace", "the same", external(with_flags), PRUNE, EXTERNAL, "Namespace.*state_dict", "delete"),
    ("C4", "'delete it'", forbidden, "make_figures", [], "npz.*[Pp]ermission", "damaged|delete"),
    ("C5", "'put it into data'", write(ARCHIVE), TRAIN, [*CIFAR, "data"], r"gz\b.*\b(damaged|incomplete)"),
    ("C6", "a download", None, TRAIN, [*CIFAR, "few digits"], "train.*--dataset folder", "download"),
    ("C7", "'test/ has classes that train/ lacks'", no_class_folders, TRAIN, [], "train/", "lacks"),
    ("C9 ENOTDIR", "'free space'", None, TRAIN, ["--save_path", IMAGE + "/x"], "03.png", "free space"),
    ("C9 ENAMETOOLONG", "'free space'", None, TRAIN, ["--save_path", "n" * 300], "long", "free space"),
    ("C9 EEXIST", "'free space'", None, "make_figures", ["--output_dir", IMAGE], "03.png", "free space"),
    ("C10", "205 epochs at rate 1 for digits", None, PRUNE, ["--dataset", "digits"], "published"),
]:
    known(case, today)(refused(*row))


@known("B1", "the user's file is deleted")
def _(run, monkeypatch):
    write("made up/report/notes.csv")(monkeypatch)
    assert run("make_figures").status == 0 and Path("made up/report/notes.csv").exists()


@known("B3", "the release keeps a population that the results have lost")
def _(run, monkeypatch):
    def stored(folder):
        return {path.name for path in Path(folder).glob("*/populations/*")}

    assert run("make_figures", "--release", "pub").status == 0
    for path in Path("made up").rglob("*layer_0.9*"):
        path.unlink()
    assert run("make_figures", "--release", "pub").status == 2 or stored("pub") == stored("made up")


@known("B4", "status 0, and no figure is there")
def _(run, monkeypatch):
    shutil.copytree("made up", "other")
    format_table, reports = table.format_table, []

    def meanwhile(rows):
        """Before the first report comes into its folders, one is made of the other folder."""
        if not reports:
            reports.append(Thread(target=make_figures.main, args=[["--results", "other"]]))
            reports[0].start()
            reports[0].join(HANGS_AFTER)
        return format_table(rows)

    monkeypatch.setattr(table, "format_table", meanwhile)
    end = run("make_figures", "--output_dir", "other")
    reports[0].join()
    assert end.is_line("--output_dir") or [*Path("other").glob("*.png")]


@known("B5", "the second comparison deletes the first")
def _(run, monkeypatch):
    for other in ("o/ther", "o_ther"):
        shutil.copytree("made up", other)
        assert run("make_figures", "--against", other).status == 0
    assert len([*Path("made up/against").rglob("report.html")]) == 2


@known("B6", "a folder called ~")
def _(run, monkeypatch):
    monkeypatch.setenv("HOME", str(Path("home").resolve()))
    assert run(TRAIN, *ANEW, "--save_path=~/x").status == 0
    assert [*Path("home/x").glob("*.pt")] and not Path("~").exists()


@known("B7", "what a killed call left stays")
def _(run, monkeypatch):
    for flag in ("--release", "--output_dir"):
        write("pub/.anew_of_earlier/report.html")(monkeypatch)
        assert run("make_figures", flag, "pub").status == 0 and not [*Path("pub").glob(".anew_*")]


@known("C10 command")
def _(run, monkeypatch):
    end = run(PIES, "--models_number", 3)
    flags = re.findall(r" (--\w+)", end.err.split("train them: ")[1].split(", or ")[0])
    assert len(flags) == len({*flags})


@known("C11", "no word of it")
def _(run, monkeypatch):
    end = run(TRAIN, "--seed", 7)
    assert end.status == 0 and re.search("--seed.*no effect", end.out)


@pytest.mark.parametrize("test", FAULTS)
def test_the_right_end(run, monkeypatch, test):
    test(run, monkeypatch)
