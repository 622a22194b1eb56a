"""What the flags of a call mean for the process."""

import subprocess
import sys

import pytest
from test_scripts import ROOT, SMALL

PAGE_FAULTS = """
import resource, sys
sys.path.insert(0, {root!r})
import torch
from common import process, study
{before}
started = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(2 ** 24)  # 64 MB, freed at once
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - started)
"""
OPEN = """
from common import cli
import sup_training
kept = next(study.open_studies("sup_training", sup_training.build_parser().parse_args({flags!r}))) is not None
"""


@pytest.mark.parametrize("before", ["kept = process.keep_freed_memory()", OPEN.format(flags=SMALL)])
def test_memory_of_large_freed_tensors_is_used_again(digits_on_disk, before):
    code = PAGE_FAULTS.format(root=str(ROOT), before=before)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=digits_on_disk,
        env={"CUDA_VISIBLE_DEVICES": "", "PATH": ""},
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    kept, faults = done.stdout.split()[-2:]
    if kept == "False":
        pytest.skip("the C library has no mallopt")
    assert int(faults) < 10 * 16384 / 2  # all pages of all ten where they are handed back and cleared anew
