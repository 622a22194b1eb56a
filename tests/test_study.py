"""What the flags of a call mean for the process."""

import subprocess
import sys

import pytest
from test_scripts import ROOT, SMALL

import clr_training
from common import learners, study, training

PAGE_FAULTS = """
import resource, sys
sys.path.insert(0, {root!r})
import torch
from common import process, study
import sup_training
next(study.open_studies("sup_training", sup_training.build_parser().parse_args({flags!r})))
started = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(2 ** 24)  # 64 MB, freed at once
print(process.keep_freed_memory(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - started)
"""


def test_memory_of_large_freed_tensors_is_used_again(digits_on_disk):
    code = PAGE_FAULTS.format(root=str(ROOT), flags=SMALL)
    environment = {"CUDA_VISIBLE_DEVICES": "", "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    kept, faults = done.stdout.split()[-2:]
    if kept == "False":
        pytest.skip("the C library has no mallopt")
    assert int(faults) < 10 * 16384 / 2  # all pages of all ten where they are handed back and cleared anew


def test_the_throw_away_head_begins_as_the_final_head_does(digits_on_disk, monkeypatch):
    """As published: the first 2 epochs of a schedule of --head_epochs."""
    words = [*SMALL, "--debug_classification_head", "--debug_classification_head_epochs", "1"]
    flags = clr_training.build_parser().parse_args([*words, "--head_epochs", "50"])
    opened = next(study.open_studies("clr_training", flags))
    trained = []

    def fit(head, run, epochs):
        trained.append((head.rates, epochs))
        return [{"test_accuracy": 0.1}]

    monkeypatch.setattr(training, "fit", fit)
    learners.ContrastiveLearner(opened, 0).at_epoch(1)
    assert trained == [(training.head_learning_rates(50), range(2))]
