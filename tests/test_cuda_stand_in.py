"""The GPU path as far as a CPU can show it: all scripts under a stand-in for a CUDA device, beside a plain
run; and misuses that the stand-in must find."""

import contextlib
import importlib
import json
import os
from collections import Counter
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import write_few_digits
from cuda_stand_in import CudaStandIn, Misuse, watched_training

from common import cli, models, plots, training
from common.settings import Architecture

SMALL = "--dataset folder --data_dir few --model_depth 10 --widen_factor 1 --threads 1 --save_every 1"
ANALYSIS = SMALL.removesuffix(" --save_every 1")
SUPERVISED = f"sup_training {SMALL} --index_end 0 --epochs 2 --batch_size 32 --learning_rate 0.1"
CONTRASTIVE = (
    f"clr_training {SMALL} --index_end 0 --epochs 2 --batch_size 32 --head_epochs 2 --batch_size_head 32"
)
FINETUNED = f"{SMALL} --models_number 1 --pruning_percentages 0.9 --epochs 1"
ITERATIVE = f"{SMALL} --models_number 1 --pruning_schedule iterative --iterations 2 --rate 0.5"
CRITERIA = ("magnitude", "snip_batches", "grasp", "synflow", "filter_random")
COMPARED = "--models_number 1 --pruning_percentages 0.9"
METHODS = "--pruning_methods global,later_GMP_snip"
COMMANDS = (
    f"{SUPERVISED} --save_epochs 0,1 --accumulate_gradients",
    f"{SUPERVISED} --pruning 0.9 --schedule late --criterion snip --begin_epoch 0.5 --end_epoch 1.5",
    f"{CONTRASTIVE} --pruning_percentages 0.0 --save_epochs 0 --debug_classification_head "
    "--debug_classification_head_epochs 2",
    f"{CONTRASTIVE} --pruning_percentages 0.9 --method SimCLR --lars --cosine_annealing --dropout 0.1 "
    "--criterion levai_zombori --begin_epoch 0.5 --end_epoch 1.5 --begin_epoch_head 0.5 "
    "--end_epoch_head 1.5 --encoder_save_path lars",
    *(f"sup_pruning_finetune {FINETUNED} --criterion {criterion}" for criterion in CRITERIA),
    f"clr_pruning_finetune {FINETUNED}",
    f"sup_pruning_finetune {ITERATIVE} --after rewind --rewind_epoch 1",
    f"sup_pruning_finetune {ITERATIVE} --after lr_rewind --criterion levai_zombori --scope erk",
    f"sup_pie_kmodels_detection {ANALYSIS} {COMPARED} {METHODS} --plot_q_score",
    f"clr_pie_kmodels_detection {ANALYSIS} {COMPARED} --pruning_methods global",
    f"sup_prediction_depth {ANALYSIS} {COMPARED} --pruning_methods global --prediction_depth_models 1",
    f"clr_prediction_depth {ANALYSIS} {COMPARED} --pruning_methods global --prediction_depth_models 1",
)
STOPPED = f"{SUPERVISED} --dropout 0.1 --save_path stopped --pruning 0.9 --begin_epoch 0.5 --end_epoch 1.5"
WAITS_AN_EPOCH = 5  # its sums, three scores, the size of the largest class
UPLOADS_AN_EPOCH = 8  # the order of the images, six parameters of the views; or a head's weights
UPLOADS_A_PRUNING = 1 + 6 * training.GRADIENT_BATCHES  # the same for batches whose gradients are seen
PRUNABLE = 11  # tensors of a WideResNet-10-1 that can be pruned, weights and biases


def run(command: str) -> int:
    script, *flags = command.split()
    return importlib.import_module(script).main(flags)


@contextlib.contextmanager
def inside(folder: Path):
    """A working folder with a few digits, one thread."""
    before, threads = Path.cwd(), torch.get_num_threads()
    folder.mkdir()
    os.chdir(folder)
    write_few_digits(folder / "few")
    try:
        yield
    finally:
        os.chdir(before)
        torch.set_num_threads(threads)


def without_figures():
    """They know nothing of devices, and take half of the time."""
    return mock.patch.multiple(plots, draw=mock.DEFAULT, save_figure=mock.DEFAULT)


def fail_in_the_second_epoch(monkeypatch, fail) -> None:
    def log_epoch(description, epochs, entry, level, original=training.log_epoch):
        fail() if entry["epoch"] == 1 else original(description, epochs, entry, level)

    monkeypatch.setattr(training, "log_epoch", log_epoch)


def interrupt() -> None:
    raise cli.Interrupted(15)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of a plain run and of one under the stand-in, which stops and goes on; the stand-in of each
    command."""
    plain, beside = (tmp_path_factory.mktemp("runs") / name for name in ("plain", "stand-in"))
    with inside(plain), without_figures():
        for command in [*COMMANDS, STOPPED]:
            assert run(command) == 0, command
    seen = {}
    with inside(beside), without_figures():
        with CudaStandIn() as stand_in, pytest.MonkeyPatch.context() as monkeypatch:
            fail_in_the_second_epoch(monkeypatch, interrupt)
            assert run(STOPPED) == 128 + 15
        assert list(Path("stopped").glob(".*.state"))
        for command in [*COMMANDS, STOPPED]:
            with CudaStandIn() as stand_in, watched_training(stand_in):
                assert run(command) == 0, command
            seen[command] = stand_in
    return plain, beside, seen


def files(folder: Path, pattern: str) -> list[Path]:
    return sorted(path.relative_to(folder) for path in folder.rglob(pattern))


def test_the_numbers_are_those_of_a_plain_run_and_records_tell_the_device(runs):
    plain, beside, _ = runs
    paths = files(plain, "*.pt")
    assert files(beside, "*.pt") == paths and len(paths) > 20
    for path in paths:
        assert (plain / path).read_bytes() == (beside / path).read_bytes(), path
        ours, theirs = (json.loads((folder / path.with_suffix(".json")).read_text()) for folder in runs[:2])
        assert ours.pop("run")["device"].startswith("cpu: ")
        assert theirs.pop("run")["device"] == "cuda: stand-in" and ours == theirs
    paths = [*files(plain, "evaluations/*.npz"), *files(plain, "votes/*.npz")]
    assert len(paths) >= 8
    for path in paths:
        with np.load(plain / path) as ours, np.load(beside / path) as theirs:
            for name in set(ours.files) - {"made"}:
                np.testing.assert_array_equal(ours[name], theirs[name])


@pytest.mark.parametrize("command", [*COMMANDS, STOPPED])
def test_the_host_waits_for_the_device_a_few_times_an_epoch_and_never_in_a_step(runs, command):
    stand_in = runs[2][command]
    epochs, firings = stand_in.phases["logged"], stand_in.phases["masks"]
    trains = "training" in command or "finetune" in command
    assert bool(epochs) == bool(stand_in.phases["step"]) == trains
    waits, uploads = Counter(), Counter()
    for (phase, what), count in stand_in.waits.items():
        waits[phase] += count if "to the CPU" not in what else 0  # weights that are kept go there once
    for (phase, _), count in stand_in.uploads.items():
        uploads[phase] += count
    assert waits["step"] == uploads["step"] == waits["scores"] == waits["masks"] == uploads["masks"] == 0
    assert waits["epoch"] <= (WAITS_AN_EPOCH + PRUNABLE) * epochs
    assert uploads["epoch"] <= UPLOADS_AN_EPOCH * epochs or command == STOPPED  # which loads its state
    assert uploads["scores"] <= UPLOADS_A_PRUNING * firings
    assert stand_in.live == 0 or not trains  # nothing is left there
    assert firings or "pruning" not in command.split()[0]


def test_a_state_outlives_a_device_that_fails_for_good(runs, tmp_path):
    command = f"{STOPPED} --save_every 5min"
    with inside(tmp_path / "failed"), without_figures():
        with CudaStandIn() as stand_in, pytest.MonkeyPatch.context() as monkeypatch:
            error = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

            def fail(*args):
                stand_in.wait = fail  # whatever is asked of the device from now on
                raise error

            fail_in_the_second_epoch(monkeypatch, fail)
            with pytest.raises(torch.AcceleratorError) as raised:
                run(command)
        assert "holds the state after 1 epochs" in raised.value.__notes__[0]
        assert run(command) == 0
        [path] = Path("stopped").glob("*.pt")
        assert path.read_bytes() == (runs[0] / path).read_bytes()


def test_what_the_backward_pass_keeps_is_what_the_memory_table_computes(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "benchmarks")
    import gpu_memory

    with CudaStandIn() as stand_in:
        network = models.SupervisedNetwork(Architecture(16, 2), 10).to("cuda")
        batch, before = torch.zeros(3, 3, 16, 16, device="cuda"), stand_in.live
        logits = network(batch)
        kept = stand_in.live - before + 4 * batch.numel()
        assert stand_in.live <= stand_in.peak < 1.02 * stand_in.live
    computed = 4 * 3 * gpu_memory.kept_values(16, 2, side=16)
    assert logits.requires_grad and computed <= kept < 1.02 * computed + 8_000  # statistics, and the latent


def test_the_benchmark_of_the_switches_compares_the_device_with_the_cpu(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "benchmarks")
    import switches

    monkeypatch.setattr(switches, "STEP_IMAGES", 30)
    monkeypatch.setattr(switches, "PROBED", 20)
    with CudaStandIn():
        distances = switches.agreement(torch.device("cuda", 0))
    assert len(distances) == 6 and set(distances.values()) == {0.0}


# The stand-in itself


def bilinear(x):
    return F.interpolate(x[None, None], scale_factor=2, mode="bilinear")


MISUSES = {
    "sum of tensors on CPU and device": lambda x, y: x + y,
    "a sum of the device into one of the CPU": lambda x, y: torch.zeros(()).add_(x.sum()),
    "an index of the device into a tensor of the CPU": lambda x, y: y[x.argsort(0)],
    "an index of the CPU into a tensor of the device": lambda x, y: x[y.argsort(0)],
    "labels on the CPU": lambda x, y: F.cross_entropy(x, torch.arange(4)),
    "another device": lambda x, y: x + x.to("cuda:1"),
    "a device that is not there": lambda x, y: x.to("cuda:7"),
    "numpy": lambda x, y: x.numpy(),
    "a generator of the CPU": lambda x, y: torch.rand(2, device="cuda", generator=torch.Generator()),
    "a condition": lambda x, y: 1 if x.sum() > 0 else 0,
    "tolist": lambda x, y: x.tolist(),
    "to the CPU": lambda x, y: x.to("cpu"),
    "a copy to the CPU": lambda x, y: y.copy_(x),
    "nonzero": lambda x, y: x.nonzero(),
    "values by a mask": lambda x, y: x.index_put_((x > 9,), x[0]),
    "synchronize": lambda x, y: torch.cuda.synchronize(),
    "an item in the backward pass": lambda x, y: backward_with(lambda gradient: gradient.sum().item(), x),
    "a copy to the device": lambda x, y: y.to("cuda"),
    "no deterministic backward pass": lambda x, y: bilinear(x.requires_grad_()).sum().backward(),
    "no deterministic product": lambda x, y: x.scatter_reduce(0, x.argsort(0), x, "prod"),
    "a tensor made of numbers": lambda x, y: torch.tensor([1.0, 2.0], device="cuda"),
}


def backward_with(hook, x) -> None:
    leaf = x.detach().clone().requires_grad_()
    leaf.register_hook(hook)
    (leaf**2).sum().backward()


@pytest.mark.parametrize("misuse", MISUSES)
def test_a_misuse_in_a_step_is_found(misuse):
    with CudaStandIn(devices=2) as stand_in:
        x, y = torch.arange(16.0).view(4, 4).to("cuda"), torch.arange(16.0).view(4, 4)
        with stand_in.during("step"), pytest.raises(Misuse):
            MISUSES[misuse](x, y)


def test_a_loss_that_waits_for_the_device_is_found(monkeypatch, tmp_path):
    def loss(logits, labels):
        value = F.cross_entropy(logits, labels)
        assert value.item() < 100
        return value, (logits.argmax(1) == labels).sum()

    monkeypatch.setattr(training, "cross_entropy", loss)
    with inside(tmp_path / "spoilt"), CudaStandIn() as stand_in, watched_training(stand_in):
        with pytest.raises(Misuse, match="in a step"):
            run(f"{SUPERVISED} --pruning 0.9 --begin_epoch 0.25 --end_epoch 1.5")
