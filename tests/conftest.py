"""What tests share: where the golden values are, a small image folder, no open logs.

Golden values are numbers that the published scripts' functions gave. GOLDEN_DIR=... python -m pytest tests -k
golden checks those of another folder, laid out like tests/golden; networks may lie in a folder small/ in it.
"""

import contextlib
import csv
import os
import re
from pathlib import Path
from unittest import mock

# Two processes test at once, on two cores: more threads would only wait for one another. Numba's number of
# threads, once UMAP has run, is torch's too.
for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np
import pytest
import torch
from PIL import Image

from common import cli

# WRN-10-2, for tests that need checkpoints in the published formats
GOLDEN_HERE = Path(__file__).parent / "golden"
GOLDEN = Path(os.environ.get("GOLDEN_DIR") or GOLDEN_HERE).expanduser().resolve()

# Folders with checkpoints, forward values and masks, and the depth of the networks in them (widen_factor 2).
GOLDEN_NETWORKS = [
    pytest.param(path.parent, depth, id=f"golden-WRN-{depth}-2")
    for path in sorted([*GOLDEN.glob("wideResNet_*.pt"), *GOLDEN.glob("small/wideResNet_*.pt")])
    for depth in map(int, re.findall(r"_(\d+)depth_", path.name))
]
if not GOLDEN_NETWORKS:
    raise pytest.UsageError(f"GOLDEN_DIR: no networks wideResNet_*.pt in {GOLDEN}")


def read_csv(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def golden_keys(name, pattern):
    """What the groups of `pattern` are in the names of a golden file's arrays, each once."""
    keys = np.load(GOLDEN / name).files
    groups = sorted({group for key in keys for group in re.findall(f"^{pattern}$", key)})
    if not groups:
        raise pytest.UsageError(f"{GOLDEN / name}: no arrays {pattern}")
    return groups


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: minutes of simulation, left out unless -m asks for it")
    config.option.markexpr = config.option.markexpr or "not slow"


# The files that take longest, longest first: begun first, the two processes of ./setup.sh test end together.
LONGEST = "pruning_scripts scripts resume sharing bad_input report same_numbers across".split()


def pytest_collection_modifyitems(items):
    places = {f"test_{name}.py": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


@pytest.fixture(autouse=True)
def quiet_logger():
    """Scripts run inside the test process leave no open log, deterministic mode or number of threads."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode("default")
    for handler in list(cli.logger.handlers):
        cli.logger.removeHandler(handler)
        handler.close()


@pytest.fixture(scope="module")
def unsaved_figures():
    """To lay out and write the figures of so short a training takes as long as the training."""
    with pytest.MonkeyPatch.context() as context:
        context.setattr("common.plots.save_figure", lambda path, figure: None)
        yield


@contextlib.contextmanager
def without_figures():
    """Nothing is drawn on the report's figures, which takes longest of all that make_figures does."""
    from matplotlib.figure import Figure

    with mock.patch("figures.report.plots.draw", lambda arrays: Figure((1, 1))):
        yield


@pytest.fixture
def empty_figures():
    with without_figures():
        yield


def write_few_digits(folder):
    from sklearn.datasets import load_digits

    digits = load_digits()
    for label in range(3):
        images = digits.images[digits.target == label]
        for part, chosen in (("train", images[:20]), ("test", images[20:32])):
            (folder / part / f"digit {label}").mkdir(parents=True)
            for index, image in enumerate(chosen):
                pixels = np.round(image * (255 / 16)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / part / f"digit {label}" / f"{index:02d}.png")


@pytest.fixture
def digits_on_disk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_few_digits(tmp_path / "few digits")
    return tmp_path
