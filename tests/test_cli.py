"""Flags, errors and devices: everything between the shell and the study."""

import argparse
import importlib
import os
import pty
import signal
import subprocess
import sys
import termios
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest
import torch

from common import cli, process, study, values
from common.store import names

ROOT = Path(__file__).parent.parent
SCRIPTS = [
    f"{method}_{stage}"
    for method in ("clr", "sup")
    for stage in ("training", "pruning_finetune", "pie_kmodels_detection", "prediction_depth")
]


def parser_of(script):
    return importlib.import_module(script).build_parser()


@pytest.mark.parametrize(
    "words, expected",
    [
        ("", False),
        ("--debug", True),
        ("--no-debug", False),
        ("--debug False", False),
        ("--debug 1", True),
        ("--debug --no-debug", False),
    ],
)
def test_a_boolean_flag_has_three_spellings(words, expected):
    assert parser_of("sup_training").parse_args(words.split()).debug is expected


def test_help_waits_for_no_heavy_import():
    """An answer within half a second depends on it; the time itself would measure how busy the machine is."""
    command = [sys.executable, "-X", "importtime", str(ROOT / "clr_prediction_depth.py"), "--help"]
    shown = subprocess.run(command, text=True, capture_output=True, check=False)
    imported = {line.rsplit("|", 1)[1].strip() for line in shown.stderr.splitlines() if "|" in line}
    assert shown.returncode == 0 and "--clr_method" in shown.stdout and "common.cli" in imported
    assert not imported & {"torch", "numpy", "umap", "sklearn", "matplotlib"}


SPARSITIES = [0.3, 0.5, 0.7, 0.9]
TRAINING = {"index_end": 29, "momentum": 0.9, "shuffle": True, "dropout": 0.0, "criterion": "magnitude"}
CONTRASTIVE = {"learning_method": "SupCon", "projection_head": "mlp", "temperature": 0.5}
FINETUNING = {"models_number": 30, "batch_size": 128, "epochs": 30, "pruning_percentages": SPARSITIES}
PUBLISHED = {
    "clr_training": {
        **TRAINING,
        **CONTRASTIVE,
        "dataset": "cifar10",
        "cuda_deterministic": True,
        "model_depth": 16,
        "widen_factor": 2,
        "epochs": 500,
        "batch_size": 1024,
        "learning_rate": 0.05,
        "weight_decay": 0.0004,
        "base_temperature": 0.07,
        "cosine_annealing": False,
        "lars": False,
        "warmup_epochs": 0,
        "head_epochs": 100,
        "batch_size_head": 256,
        "schedule": "late",
        "pruning_percentages": [0.0, *SPARSITIES],
    },
    "sup_training": {
        **TRAINING,
        "epochs": 205,
        "batch_size": 128,
        "learning_rate": 1.0,
        "weight_decay": 0.0005,
        "schedule": "early",
        "pruning": 0.0,
    },
    "clr_pruning_finetune": {**FINETUNING, **CONTRASTIVE},
    "sup_pruning_finetune": FINETUNING,
    "clr_pie_kmodels_detection": {"models_number": 30, "pruning_methods": ["global", "GMP", "later_GMP"]},
    "sup_pie_kmodels_detection": {"pruning_percentages": [*SPARSITIES, 0.95, 0.99]},
    "clr_prediction_depth": {"depth_target": "prediction", "prediction_depth_models": None},
    "sup_prediction_depth": {"models_number": 30, "pruning_methods": ["GMP", "global"]},
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_defaults_are_the_published_ones(script):
    flags = vars(parser_of(script).parse_args([]))
    assert {name: flags[name] for name in PUBLISHED[script]} == PUBLISHED[script]


@pytest.mark.parametrize("late", ["later GMP", "GMP_later"])
def test_pruning_methods_take_the_published_spelling(late):
    assert values.pruning_method_list(f"GMP, global,{late}") == ["GMP", "global", "later_GMP"]
    with pytest.raises(argparse.ArgumentTypeError, match="twice"):
        values.pruning_method_list(f"later_GMP,{late}")


@pytest.mark.parametrize("script", [script for script in SCRIPTS if script.startswith("clr")])
@pytest.mark.parametrize("flag", ["--method", "--clr_method"])
def test_the_contrastive_method_has_both_published_names_in_every_script(script, flag):
    flags = parser_of(script).parse_args([flag, "SimCLR"])
    assert flags.learning_method == "SimCLR" and "learning_method" in flags.given


def test_contrastive_flags_of_the_supervised_depths_have_no_effect(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = "--dataset digits --model_depth 10 --projection_head linear --temperature 0.1 --encoder_name Net"
    flags = parser_of("sup_prediction_depth").parse_args(words.split())
    view = next(study.open_studies("sup_prediction_depth", flags))
    assert view.architecture == names.Architecture(10) and view.architecture_name == "WideResNet-10-2"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        MemoryError(),
    ],
    ids=repr,
)
def test_full_memory_is_one_line_with_the_flags_that_need_less(capsys, error):
    def fill(_):
        raise error

    assert cli.command(fill)([]) == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1 and all(flag in shown for flag in ("--batch_size", "--workers"))


def test_an_operation_that_is_not_deterministic_is_one_line_with_the_flag_that_allows_it(capsys):
    def refused(_):
        torch.use_deterministic_algorithms(True)
        torch.zeros(2).put_(torch.tensor([0]), torch.ones(1))

    assert cli.command(refused)([]) == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1 and "put_ " in shown and "--no-cuda_deterministic" in shown


@pytest.mark.parametrize(
    "error",
    [RuntimeError("a bug"), torch.AcceleratorError("CUDA error: an illegal memory access was encountered")],
    ids=repr,
)
def test_other_bugs_are_not_hidden(error):
    def fail(_):
        raise error

    with pytest.raises(type(error), match="a bug|illegal"):
        cli.command(fail)([])


def test_without_cuda_the_cpu_is_used_and_said_once(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    process.start_logging("some_script", tmp_path, debug=False)
    assert process.select_device(3) == torch.device("cpu")
    assert capsys.readouterr().out.count("running on the CPU") == 1
    assert (tmp_path / "some_script.log").read_text().count("running on the CPU") == 1


def test_a_log_shows_bytes_that_are_not_text(tmp_path):
    process.start_logging("some_script", tmp_path, debug=False)
    process.logger.debug("caf\udce9")
    assert r"caf\udce9" in (tmp_path / "some_script.log").read_text()


def test_a_cuda_device_that_does_not_exist_lists_those_that_do(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"card {index}")
    assert process.select_device(1) == torch.device("cuda", 1)
    told = r"--cuda_device 2 does not exist; devices: 0 \(card 0\), 1 \(card 1\)"
    with pytest.raises(cli.UserError, match=told):
        process.select_device(2)


def test_determinism_is_switched_on_and_off(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    process.set_determinism(False)
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.benchmark and not torch.backends.cudnn.deterministic
    process.set_determinism(True)
    assert torch.backends.cudnn.deterministic and not torch.backends.cudnn.benchmark
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    with pytest.raises(RuntimeError, match="deterministic"):  # one of the few that have none on a CPU either
        torch.zeros(2).put_(torch.tensor([0, 0]), torch.tensor([1.0, 2.0]))
    assert not torch.utils.deterministic.fill_uninitialized_memory


# Signals


@pytest.mark.parametrize("swallowed", [False, True])
@pytest.mark.parametrize("number", [getattr(signal, name) for name in cli.SIGNALS], ids=cli.SIGNALS)
def test_every_signal_that_stops_ends_with_its_status_and_leaves_the_handlers(number, swallowed, capsys):
    """swallowed: an import goes on, half done, and something else fails."""

    @cli.command
    def main(argv):
        with suppress(BaseException) if swallowed else nullcontext():
            os.kill(os.getpid(), number)
        raise AttributeError

    before = signal.getsignal(number)
    assert main([]) == 128 + number and signal.getsignal(number) == before
    assert "interrupted: what is finished is kept" in capsys.readouterr().err


# Numbers


@pytest.mark.parametrize("read", [values.fraction, values.natural_float, values.natural_number])
def test_no_zero_is_negative(read):
    assert str(read("-0" if read is values.natural_number else "-0.0")).lstrip("0.") == ""


@pytest.mark.parametrize("text, value", [("1e-3", 1e-3), (".5", 0.5), ("5.", 5.0), ("+1", 1.0)])
def test_numbers_are_read_as_usually_written(text, value):
    assert values.positive_float(text) == value


@pytest.mark.parametrize("script", [*SCRIPTS, "figures/make_figures"])
def test_a_python_without_the_packages_is_told_where_they_are(script, tmp_path):
    # -S: the interpreter without any installed package.
    (tmp_path / "digits").mkdir()
    flags = ["--results", "digits"] if "figures" in script else ["--dataset", "digits"]
    command = [sys.executable, "-E", "-S", str(ROOT / f"{script}.py"), *flags]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "has no module" in done.stderr and "source .venv/bin/activate" in done.stderr


def test_a_message_takes_the_progress_bar_off_the_line_first(tmp_path):
    """In a terminal; what stands after the last carriage return of a line is what one sees."""
    code = """
import sys
from pathlib import Path
from common import process
from tqdm import tqdm
process.start_logging("some_script", Path("logs"), debug=False)
with tqdm(total=3, desc="the bar", disable=None, mininterval=0) as bar:
    for number in range(3):
        bar.update()
        process.logger.info(f"message {number}")
"""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=tmp_path, env=environment, stdout=theirs, stderr=theirs, check=True)
    lines = os.read(ours, 2**16).decode().replace("\r\n", "\n").split("\n")
    seen = [line.rpartition("\r")[2] for line in lines]
    assert "the bar" in lines[0] and [f"message {number}" for number in range(3)] == seen[:3]
