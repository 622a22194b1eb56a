"""Faults that are known and not mended yet. Each row says what goes wrong today, its test what the right end
is. A row whose fault is mended fails until its mark is gone; the test stays, without the mark."""

import contextlib
import re
import shutil
import signal
import urllib.error
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import write_few_digits
from stored_results import make_results
from test_scripts import SMALL, main
from test_setup import asked, paper, project, setup  # noqa: F401 (project: a fixture)


TRAIN, PRUNE, PIES = "sup_training", "sup_pruning_finetune", "sup_pie_kmodels_detection"
FLAGS = {
    TRAIN: [*SMALL, "--index_end", 1, "--epochs", 2, "--batch_size", 32],
    PRUNE: [*SMALL, "--models_number", 2, "--epochs", 1, "--pruning_percentages", 0.9],
    PIES: [*SMALL, "--models_number", 2, "--pruning_percentages", 0.9],
    "make_figures": ["--results", "made up"],
}
ANEW = ["--epochs", 1, "--index_end", 0]  # with another folder, a network is trained in a second
EXTERNAL = ["--models_number", 1, "--pruning_percentages", 0.5]  # prunes the network that has no record
DENSE = Path("models/few digits/wideResNet-1_0.0pruning_2epochs_10depth_0.0dropout_id0.pt")
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


# Case, wrong outcome today; how it is prepared, script, flags, what the one line has and what it has not.
for case, today, *row in [
    ("C10", "", None, PRUNE, ["--dataset", "digits"], "published"),
]:
    known(case, today)(refused(*row))


@known("C10 command")
def _(run, monkeypatch):
    end = run(PIES, "--models_number", 3)
    flags = re.findall(r" (--\w+)", end.err.split("train them: ")[1].split(", or ")[0])
    assert len(flags) == len({*flags})


@pytest.mark.parametrize("test", FAULTS)
def test_the_right_end(run, monkeypatch, test):
    test(run, monkeypatch)
