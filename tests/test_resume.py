"""Trainings that are stopped in the middle and go on: the same models, bit for bit, in every stage."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import write_few_digits
from test_scripts import DENSE, ROOT, SMALL, main
from test_sharing import contents

from common import cli
from common.store import checkpoints, files, resume

PRUNED = ["--begin_epoch", "0.6", "--end_epoch", "2.5"]
# What is trained before, and the training that is stopped.
STAGES = {
    "supervised": [
        [],
        ["sup_training", "--index_end", 1, "--epochs", 4, "--batch_size", 16, "--dropout", 0.3],
    ],
    "supervised, early, by gradients and initial weights": [
        [],
        [
            "sup_training",
            "--index_end",
            0,
            "--epochs",
            4,
            "--batch_size",
            16,
            "--pruning",
            0.8,
            *PRUNED,
            "--criterion",
            "magnitude_increase",
        ],
    ],
    "supervised, late, random": [
        [],
        [
            "sup_training",
            "--index_end",
            0,
            "--epochs",
            4,
            "--batch_size",
            16,
            "--pruning",
            0.8,
            *PRUNED,
            "--schedule",
            "late",
            "--criterion",
            "random",
        ],
    ],
    "contrastive and heads": [
        [],
        [
            "clr_training",
            *DENSE,
            "--index_end",
            1,
            "--epochs",
            3,
            "--batch_size",
            32,
            "--head_epochs",
            3,
            "--batch_size_head",
            16,
            "--cosine_annealing",
            "--save_epochs",
            "0,1",
        ],
    ],
    "contrastive, gradual": [
        [],
        [
            "clr_training",
            "--pruning_percentages",
            0.8,
            "--index_end",
            0,
            "--epochs",
            4,
            "--batch_size",
            32,
            "--head_epochs",
            4,
            "--batch_size_head",
            16,
            *PRUNED,
            "--begin_epoch_head",
            0.5,
            "--end_epoch_head",
            2.5,
            "--lars",
        ],
    ],
    "one-shot": [
        ["sup_training"],
        [
            "sup_pruning_finetune",
            "--models_number",
            2,
            "--pruning_percentages",
            "0.5,0.9",
            "--epochs",
            3,
            "--batch_size",
            16,
        ],
    ],
    "one-shot, contrastive": [
        ["clr_training"],
        [
            "clr_pruning_finetune",
            "--models_number",
            1,
            "--pruning_percentages",
            0.9,
            "--epochs",
            3,
            "--batch_size",
            16,
        ],
    ],
    "rewound": [
        ["sup_training", "--save_epochs", 1],
        [
            "sup_pruning_finetune",
            "--models_number",
            1,
            "--pruning_schedule",
            "iterative",
            "--iterations",
            3,
            "--rate",
            0.5,
            "--rewind_epoch",
            1,
        ],
    ],
    "rewound, contrastive": [
        ["clr_training", "--save_epochs", 0],
        [
            "clr_pruning_finetune",
            "--models_number",
            1,
            "--pruning_schedule",
            "iterative",
            "--iterations",
            2,
            "--rate",
            0.5,
        ],
    ],
    "reinitialised": [
        ["sup_training"],
        [
            "sup_pruning_finetune",
            "--models_number",
            1,
            "--pruning_schedule",
            "iterative",
            "--iterations",
            2,
            "--rate",
            0.5,
            "--after",
            "reinit",
        ],
    ],
    "finetuned again and again": [
        ["clr_training"],
        [
            "clr_pruning_finetune",
            "--models_number",
            1,
            "--pruning_schedule",
            "iterative",
            "--iterations",
            2,
            "--rate",
            0.5,
            "--after",
            "finetune",
            "--epochs",
            2,
            "--batch_size",
            16,
        ],
    ],
}
BEFORE = {
    "sup_training": ["--index_end", 1, "--epochs", 3, "--batch_size", 16],
    "clr_training": [
        *DENSE,
        "--index_end",
        0,
        "--epochs",
        2,
        "--batch_size",
        32,
        "--head_epochs",
        2,
        "--batch_size_head",
        16,
    ],
}


@pytest.fixture
def small(monkeypatch):
    threads = torch.get_num_threads()
    yield [*SMALL, "--threads", 1]
    torch.set_num_threads(threads)


def made(work):
    return {name: value for name, value in contents(work).items() if not name.startswith("logs")}


def prepare(work, monkeypatch, before, small):
    write_few_digits(work / "few digits")
    monkeypatch.chdir(work)
    if before:
        script, *more = before
        assert main(script, *BEFORE[script], *more, *small) == 0


def stopped_after(monkeypatch, steps, error):
    """The next training stops in its so-manieth backward pass from now."""
    left, backward = [steps], torch.Tensor.backward

    def count(*arguments, **keywords):
        left[0] -= 1
        if left[0] == 0:
            if isinstance(error, int):
                os.kill(os.getpid(), error)
            else:
                raise error
        return backward(*arguments, **keywords)

    monkeypatch.setattr(torch.Tensor, "backward", count)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("save_every", ["1", "5min"])
def test_a_training_stopped_again_and_again_ends_as_one_that_was_not(
    tmp_path, monkeypatch, capsys, small, stage, save_every
):
    before, (script, *flags) = STAGES[stage]
    flags = [*flags, *small, "--save_every", save_every]
    for folder in ("undisturbed", "stopped"):
        (tmp_path / folder).mkdir()
        prepare(tmp_path / folder, monkeypatch, before, small)
        if folder == "undisturbed":
            assert main(script, *flags) == 0
    chance, stops, status = random.Random(f"{stage} {save_every}"), 0, None
    capsys.readouterr()
    while status != 0:
        with monkeypatch.context() as context:
            # At least one epoch goes by between two stops, so that there is an end.
            stopped_after(context, chance.randrange(5, 9), cli.Interrupted(signal.SIGTERM))
            status = main(script, *flags)
        assert status in (0, 128 + signal.SIGTERM)
        stops += status != 0
    assert stops > 0 and "goes on after" in capsys.readouterr().out
    assert not list(tmp_path.rglob("*.state"))
    assert made(tmp_path / "stopped") == made(tmp_path / "undisturbed")


def begun(tmp_path, monkeypatch, small, *more):
    """A supervised training that was stopped; the flags, and its state."""
    prepare(tmp_path, monkeypatch, [], small)
    flags = ["--index_end", 0, "--epochs", 4, "--batch_size", 16, *small, *more]
    with monkeypatch.context() as context:
        stopped_after(context, 10, cli.Interrupted(signal.SIGINT))
        assert main("sup_training", *flags) == 130
    [state] = tmp_path.rglob("*.state")
    return flags, state


def test_a_second_signal_on_the_heels_of_the_first_loses_nothing(tmp_path, monkeypatch, small):
    """It comes just before further signals are ignored: as from a parent that stops its workers after Ctrl-C reached them too."""
    prepare(tmp_path, monkeypatch, [], small)
    set_handler = signal.signal

    def second_comes_first(number, handler):
        if handler is signal.SIG_IGN:
            os.kill(os.getpid(), signal.SIGTERM)
        return set_handler(number, handler)

    stopped_after(monkeypatch, 10, signal.SIGINT)
    monkeypatch.setattr(cli.signal, "signal", second_comes_first)
    assert main("sup_training", "--index_end", 0, "--epochs", 4, "--batch_size", 16, *small) == 130
    [state] = tmp_path.rglob("*.state")
    assert torch.load(state, weights_only=True)["epoch"] == 2


def test_the_last_line_says_what_was_kept(tmp_path, monkeypatch, small, capsys):
    begun(tmp_path, monkeypatch, small)
    said = capsys.readouterr().err
    assert (
        said.count("\n") == 1
        and ".pt.state holds the state after 2 epochs" in said
        and "the same command" in said
    )


@pytest.mark.parametrize(
    "flag, told",
    [
        (["--learning_rate", 0.2], "learning_rate 1.0, not 0.2"),
        (["--batch_size", 20], "batch_size 16, not 20"),
    ],
)
def test_a_state_of_other_settings_is_refused(tmp_path, monkeypatch, small, capsys, flag, told):
    flags, state = begun(tmp_path, monkeypatch, small)
    before = state.read_bytes()
    capsys.readouterr()
    assert main("sup_training", *flags, *flag) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and told in said and "--save_path" in said
    assert state.read_bytes() == before and not list(tmp_path.rglob("*.pt"))


def test_a_state_of_other_images_is_refused(tmp_path, monkeypatch, small, capsys):
    flags, _ = begun(tmp_path, monkeypatch, small)
    next((tmp_path / "few digits/train").rglob("*.png")).unlink()
    assert main("sup_training", *flags) == 2
    assert "other settings (data" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content, told",
    [
        (b"", "not a readable checkpoint"),
        (b"torn", "not a readable checkpoint"),
        ({}, "not a state of this version"),
        ({"format": 0}, "not a state of this version"),
        ({"format": resume.FORMAT}, "not a state"),
    ],
)
def test_a_torn_or_foreign_state_is_refused_in_one_line(tmp_path, monkeypatch, small, capsys, content, told):
    flags, state = begun(tmp_path, monkeypatch, small)
    state.write_bytes(content) if isinstance(content, bytes) else torch.save(content, state)
    assert main("sup_training", *flags) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert told in said and "delete it" in said
    state.unlink()
    assert main("sup_training", *flags) == 0


def test_a_state_that_does_not_fit_the_network_is_refused(tmp_path, monkeypatch, small, capsys):
    flags, state = begun(tmp_path, monkeypatch, small)
    content = torch.load(state, weights_only=True)
    content["parts"]["network"].popitem()
    torch.save(content, state)
    assert main("sup_training", *flags) == 2
    assert "does not fit the network" in capsys.readouterr().err


def test_a_training_that_diverges_keeps_its_last_good_state(tmp_path, monkeypatch, small, capsys):
    prepare(tmp_path, monkeypatch, [], small)
    rates = iter([1.0, 1.0] + [1e30] * 10)
    monkeypatch.setattr("common.training.supervised_learning_rate", lambda initial, epoch: next(rates))
    assert main("sup_training", "--index_end", 0, "--epochs", 6, "--batch_size", 16, *small) == 2
    said = capsys.readouterr().err
    [state] = tmp_path.rglob("*.state")
    assert (
        said.count("\n") == 1
        and "diverged" in said
        and "in epoch 3, from its step " in said
        and f"{state.name} holds the state after 2 epochs" in said
    )
    content = torch.load(state, weights_only=True)
    assert content["epoch"] == 2 and all(
        torch.isfinite(tensor).all() for tensor in content["parts"]["network"].values()
    )


def test_what_is_finished_needs_no_state(tmp_path, monkeypatch, small):
    """Stopped between the model and the end of its state: the model counts."""
    flags, state = begun(tmp_path, monkeypatch, small)
    content = state.read_bytes()
    assert main("sup_training", *flags) == 0 and not state.exists()
    state.write_bytes(content)
    assert main("sup_training", *flags) == 0 and not state.exists()


def test_debug_keeps_and_takes_no_state(tmp_path, monkeypatch, small):
    flags, state = begun(tmp_path, monkeypatch, small)
    before = state.read_bytes()
    assert main("sup_training", *flags, "--debug") == 0
    assert state.read_bytes() == before and not list(tmp_path.rglob("*.pt"))


def test_weights_of_epochs_before_the_state_are_made_by_the_same_command(
    tmp_path, monkeypatch, small, capsys
):
    flags, _ = begun(tmp_path, monkeypatch, small)
    for _ in range(2):
        assert main("sup_training", *flags, "--save_epochs", "1,3") == 0
    assert "give the same command again for the weights after 1" in capsys.readouterr().out
    [model] = [path for path in tmp_path.rglob("*id0.pt")]
    assert {path.name for path in model.parent.glob("*.pt")} == {
        model.name,
        *(checkpoints.epoch_path(model, epoch).name for epoch in (1, 3)),
    }


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_keeps_the_states_within_seconds(tmp_path, number, workers):
    write_few_digits(tmp_path / "few digits")
    command = [
        sys.executable,
        str(ROOT / "sup_training.py"),
        *SMALL,
        "--threads",
        "1",
        "--index_end",
        "1",
        "--epochs",
        "5000",
        "--batch_size",
        "16",
        "--workers",
        str(workers),
    ]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )
    log, deadline = tmp_path / "logs/few digits/sup_training.log", time.monotonic() + 60
    while time.monotonic() < deadline and not (
        log.exists() and log.read_text().count(" epoch 3/5000") >= max(1, workers)
    ):
        time.sleep(0.05)
    asked = time.monotonic()
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(
        number
    )  # a terminal tells all of its processes
    said = process.communicate(timeout=20)[1]
    assert time.monotonic() - asked < 5
    assert process.returncode == 128 + number, said
    assert said.count("\n") == 1 and "interrupted" in said and "the same command" in said
    states = list(tmp_path.rglob("*.state"))
    assert len(states) == max(1, workers)
    assert all(torch.load(state, weights_only=True)["epoch"] >= 3 for state in states)
    assert not list(tmp_path.rglob("*.tmp*"))


def test_leftovers_of_killed_processes_go_and_those_of_others_stay(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    host = os.uname().nodename
    dead, running, elsewhere = (
        tmp_path / f".model.pt.{name}.tmp.pt"
        for name in (f"{host}.{ended.pid}", f"{host}.{os.getppid()}", f"other.{ended.pid}")
    )
    for path in (dead, running, elsewhere):
        path.write_bytes(b"half")
    files.write_atomically(tmp_path / "model.pt", lambda temporary: temporary.write_bytes(b"whole"))
    assert {path.name for path in tmp_path.iterdir()} == {"model.pt", running.name, elsewhere.name}


def test_a_short_chaos_leaves_what_an_undisturbed_run_leaves(tmp_path):
    """The long form is a command of its own: python tests/chaos.py --kills 50."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests/chaos.py"), "--kills", "8"],
        cwd=tmp_path,
        text=True,
        capture_output=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 differences" in done.stdout and "company of 4 over 12 models: 2 kills" in done.stdout
