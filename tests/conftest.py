"""What tests share: where the golden values are (numbers that the published scripts' functions gave), a small image folder, no open logs."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common import cli

GOLDEN = Path(__file__).parent / "golden"
LARGE_GOLDEN = Path(__file__).parent.parent / "../shared/reference/golden"

# Folders with checkpoints, forward values and masks, and the depth of the networks in them (widen_factor 2).
GOLDEN_NETWORKS = [
    pytest.param(GOLDEN, 10, id="WRN-10-2"),
    pytest.param(
        LARGE_GOLDEN,
        16,
        id="WRN-16-2",
        marks=pytest.mark.skipif(not LARGE_GOLDEN.is_dir(), reason="no ../shared/reference/golden here"),
    ),
]


@pytest.fixture(autouse=True)
def quiet_logger():
    """Scripts run inside the test process leave no open log behind."""
    yield
    for handler in list(cli.logger.handlers):
        cli.logger.removeHandler(handler)
        handler.close()


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
