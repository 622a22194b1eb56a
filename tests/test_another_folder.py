"""GOLDEN_DIR: values of another folder are checked by the same tests, every file by tests of its own."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import GOLDEN_HERE

TESTS = Path(__file__).parent

# The array of each file that is changed in one value, and the test that finds it.
CHANGED = {
    "sup_forward.npz": ("logits", "test_supervised_networks_of_the_published"),
    "clr_forward.npz": ("projection", "test_contrastive_networks_of_the_published"),
    "pruning_masks_packbits.npz": ("sup_0.9/base.conv1.weight_mask", "test_global_masks_equal"),
    "losses.npz": ("simclr_T0.1", "test_loss_equals"),
    "gmp_relative_amounts.npz": ("0.5_100_1100_100", "test_the_schedule_is"),
    "q_score.npz": ("z_score", "test_q_scores_equal"),
    "pies.npz": ("is_pie", "test_pies_equal"),
    "prediction_depth.npz": ("depth_label_variant", "test_label_depths_equal"),
}


def check(folder, *flags):
    """`pytest -k golden` on the values in `folder`, as a process."""
    paths = sorted(TESTS.glob("test_*.py"))
    files = [path for path in paths if re.search(r"\bGOLDEN(_NETWORKS)?\b", path.read_text())]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "golden", *flags, *files]
    return subprocess.run(
        command,
        cwd=TESTS.parent,
        env={**os.environ, "GOLDEN_DIR": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(GOLDEN_HERE, tmp_path / "values")


def test_one_changed_value_in_a_file_is_found_in_every_file(copy):
    assert set(CHANGED) == {path.name for path in copy.glob("*.npz")}
    for name, (key, _) in CHANGED.items():
        arrays = dict(np.load(copy / name))
        arrays[key] = arrays[key].copy()
        arrays[key].flat[0] += 1
        np.savez(copy / name, **arrays)
    done = check(copy, "-rf", "--tb=no")
    failed = [line.split("::")[1] for line in done.stdout.splitlines() if line.startswith("FAILED")]
    for name, (_, finder) in CHANGED.items():
        assert any(test.startswith(finder) for test in failed), (name, done.stdout)
    assert " passed" in done.stdout and "skipped" not in done.stdout and " error" not in done.stdout
