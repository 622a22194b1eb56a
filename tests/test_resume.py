"""Trainings that are stopped in the middle and go on, in every stage; and code that changes in between."""

import contextlib
import json
import os
import random
import shutil
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import chaos
import pytest
import torch
from conftest import write_few_digits
from forked import Forked
from test_scripts import SMALL, main
from test_sharing import contents

from common import cli
from common.store import files, names, records

pytestmark = pytest.mark.usefixtures("unsaved_figures")
FLAGS = [*SMALL, "--threads", "1"]
GRADUAL = "--begin_epoch 0.6 --end_epoch 2.5"
HALVED = "--models_number 1 --pruning_schedule iterative --rate 0.5"
SUPERVISED = "sup_training --index_end 1 --epochs 3 --batch_size 16"
CONTRASTIVE = "clr_training --pruning_percentages 0.0 --index_end 0 --epochs 2 --batch_size 32"
CONTRASTIVE += " --head_epochs 2 --batch_size_head 16"
GRADUAL_SUPERVISED = f"sup_training --index_end 0 --epochs 4 --batch_size 16 --pruning 0.8 {GRADUAL}"
# What is trained before, and the training that is stopped.
STAGES = {
    "supervised": ("", "sup_training --index_end 1 --epochs 4 --batch_size 16 --dropout 0.3"),
    "supervised, early, by initial weights": ("", f"{GRADUAL_SUPERVISED} --criterion magnitude_increase"),
    "contrastive and heads": (
        "",
        "clr_training --pruning_percentages 0.0 --index_end 1 --epochs 3 --batch_size 32 --head_epochs 3 "
        "--batch_size_head 16 --cosine_annealing --save_epochs 0,1",
    ),
    "contrastive, gradual": (
        "",
        "clr_training --pruning_percentages 0.8 --index_end 0 --epochs 4 --batch_size 32 --head_epochs 4 "
        f"--batch_size_head 16 {GRADUAL} --begin_epoch_head 0.5 --end_epoch_head 2.5 --lars",
    ),
    "one-shot": (
        SUPERVISED,
        "sup_pruning_finetune --models_number 2 --pruning_percentages 0.5,0.9 --epochs 3 --batch_size 16",
    ),
    "rewound": (
        f"{SUPERVISED} --save_epochs 1",
        f"sup_pruning_finetune {HALVED} --iterations 3 --rewind_epoch 1",
    ),
    "sums of gradients": (
        "",
        "clr_training --pruning_percentages 0.0 --index_end 0 --epochs 3 --batch_size 32 --head_epochs 3 "
        "--batch_size_head 16 --accumulate_gradients",
    ),
    "supervised, early, by sums of gradients": ("", f"{GRADUAL_SUPERVISED} --criterion levai_zombori"),
    "rewound, by sums of gradients": (
        f"{SUPERVISED} --save_epochs 0 --accumulate_gradients",
        f"sup_pruning_finetune {HALVED} --iterations 2 --criterion levai_zombori",
    ),
    "learning rate rewound, contrastive": (
        CONTRASTIVE,
        f"clr_pruning_finetune {HALVED} --iterations 2 --after lr_rewind",
    ),
    "finetuned again and again": (
        CONTRASTIVE,
        f"clr_pruning_finetune {HALVED} --iterations 2 --after finetune --epochs 2 --batch_size 16",
    ),
}
# Of half of them the state is written after every epoch, of the others when they are stopped.
STAGES = {
    stage: (before, command + " --save_every 1" * (place % 2))
    for place, (stage, (before, command)) in enumerate(STAGES.items())
}
# What most tests stop: a supervised training of four epochs of four steps.
FOUR = "sup_training --index_end 0 --epochs 4 --batch_size 16"


@pytest.fixture
def work(tmp_path, monkeypatch):
    write_few_digits(tmp_path / "few digits")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def give(command, *more):
    """Runs a command in this process; its exit status."""
    return main(*command.split(), *FLAGS, *more)


def stopped_after(monkeypatch, steps, error):
    """The next training stops in its so-manieth backward pass from now; a number is a signal."""
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


@pytest.fixture
def begun(work, monkeypatch):
    """The state of a training that a signal stopped in its third epoch."""
    with monkeypatch.context() as context:
        stopped_after(context, 10, signal.SIGINT)
        assert give(FOUR) == 130
    return state_of(work)


def state_of(work):
    [path] = work.rglob("*.state")
    return path


def load(state):
    return torch.load(state, weights_only=True)


def model_of(work, id=0):
    return work / f"models/few digits/wideResNet-1_0.0pruning_4epochs_10depth_0.0dropout_id{id}.pt"


def line_of(capsys):
    """All that was said on stderr since this was asked for last: one line."""
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    return said


# Stopped, and going on


@pytest.fixture(scope="module", params=STAGES)
def stage(request, tmp_path_factory):
    """A training's command, the folder before it, and the folder after it where nothing stopped it."""
    before, command = STAGES[request.param]
    place = tmp_path_factory.mktemp("stage")
    write_few_digits(place / "before/few digits")
    with contextlib.chdir(place / "before"):
        assert not before or give(before) == 0
    shutil.copytree(place / "before", place / "undisturbed")
    with contextlib.chdir(place / "undisturbed"):
        assert give(command) == 0
    return command, place / "before", place / "undisturbed"


def test_a_training_stopped_again_and_again_ends_as_one_that_was_not(tmp_path, monkeypatch, capsys, stage):
    command, before, undisturbed = stage
    stopped = shutil.copytree(before, tmp_path / "stopped")
    monkeypatch.chdir(stopped)
    chance, stops, status = random.Random(command), 0, None
    capsys.readouterr()
    while status != 0:
        with monkeypatch.context() as context:
            # At least one epoch goes by between two stops, so that there is an end.
            stopped_after(context, chance.randrange(5, 9), cli.Interrupted(signal.SIGTERM))
            status = give(command)
        assert status in (0, 128 + signal.SIGTERM)
        stops += status != 0
    assert stops > 0 and "resuming after" in capsys.readouterr().out
    assert not list(stopped.rglob("*.state"))
    left, expected = (
        {name: content for name, content in contents(folder).items() if not name.startswith("logs")}
        for folder in (stopped, undisturbed)
    )
    assert left == expected and any(name.endswith(".pt") for name in left)


@pytest.mark.parametrize(
    "error, status, told",
    [
        *(
            (
                number,
                128 + number,
                "interrupted: what is finished is kept; repeat the same command to continue; {}",
            )
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
        ),
        (cli.UserError("a flag is wrong"), 2, "error: a flag is wrong; {}"),
        (OSError(28, "No space left", "/some/file"), 2, "error: /some/file: No space left; free space "),
        (MemoryError(), 2, "error: out of memory; give fewer --workers, a smaller --batch_size"),
        (torch.OutOfMemoryError("CUDA out of memory"), 2, "error: out of memory; give fewer"),
    ],
)
def test_whatever_stops_a_training_its_state_is_kept_and_named(
    work, monkeypatch, capsys, error, status, told
):
    stopped_after(monkeypatch, 10, error)
    assert give(FOUR) == status
    state = state_of(work)
    kept = f"{state.relative_to(work)} holds the state after 2 epochs"
    line = line_of(capsys)
    assert told.format(kept) in line and kept in line and load(state)["epoch"] == 2


def test_a_signal_is_said_where_the_folder_cannot_be_written_any_more(work, monkeypatch, capsys):
    def refuse(path, *more, **options):
        raise PermissionError(13, "Permission denied", str(path))

    stopped_after(monkeypatch, 10, signal.SIGTERM)
    monkeypatch.setattr(Path, "unlink", refuse)
    monkeypatch.setattr(files.os, "replace", refuse)
    assert give(FOUR) == 143
    assert "interrupted" in line_of(capsys)


def test_a_hangup_that_nohup_keeps_away_stays_away():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        cli.command(lambda argv: os.kill(os.getpid(), signal.SIGHUP))([])
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_error_that_nobody_foresaw_keeps_the_state_and_is_shown_whole(work, monkeypatch):
    stopped_after(monkeypatch, 10, ZeroDivisionError("a mistake in the code"))
    with pytest.raises(ZeroDivisionError) as error:
        give(FOUR)
    state = state_of(work)
    assert error.value.__notes__ == [f"{state.relative_to(work)} holds the state after 2 epochs"]
    assert load(state)["epoch"] == 2


def fails_from(monkeypatch, place, name, call, error):
    """The so-manieth call of a function, and all after it, raise this error."""
    left, function = [call], getattr(place, name)

    def count(*arguments, **keywords):
        left[0] -= 1
        if left[0] <= 0:
            raise error
        return function(*arguments, **keywords)

    monkeypatch.setattr(place, name, count)


@pytest.mark.parametrize(
    "place, name, error, epochs",
    [
        (torch, "save", MemoryError(), 0),
        (records, "write_atomically", MemoryError(), 1),
        (torch, "save", torch.OutOfMemoryError("CUDA out of memory"), 2),
    ],
)
# The error, and where and when it comes; and what pytest gives.
def test_a_memory_that_is_full_while_the_state_is_kept_is_told_in_one_line(
    work, monkeypatch, capsys, place, name, error, epochs
):
    fails_from(monkeypatch, place, name, epochs + 1, error)
    assert give(FOUR, "--save_every", 1) == 2
    line, states = line_of(capsys), list(work.rglob("*.state"))
    assert "out of memory" in line and not list(work.rglob("*.pt"))
    assert (f"holds the state after {epochs} epochs" in line) == bool(epochs)
    assert [load(state)["epoch"] for state in states] == [epochs] * bool(epochs)


def test_a_second_signal_on_the_heels_of_the_first_loses_nothing(work, monkeypatch):
    """As from a parent that stops its workers after Ctrl-C has reached them too."""
    write = records.write_atomically

    def second_comes_first(path, content):
        os.kill(os.getpid(), signal.SIGTERM)
        write(path, content)

    stopped_after(monkeypatch, 10, signal.SIGINT)
    monkeypatch.setattr(records, "write_atomically", second_comes_first)
    assert give(FOUR) == 130
    assert load(state_of(work))["epoch"] == 2


def test_a_training_that_diverges_leaves_no_state_in_the_way_of_another_rate(work, monkeypatch, capsys):
    rates = iter([1.0, 1.0] + [1e30] * 10)
    monkeypatch.setattr("common.training.supervised_learning_rate", lambda settings, epoch: next(rates))
    assert give(FOUR) == 2
    line = line_of(capsys)
    assert "diverged" in line and "after epoch 3: the loss is " in line and "holds the state" not in line
    assert not list(work.rglob("*.state"))


def test_what_is_finished_needs_no_state(begun):
    """Stopped between the model and the end of its state: the model counts."""
    content = begun.read_bytes()
    assert give(FOUR) == 0 and not begun.exists()
    begun.write_bytes(content)
    assert give(FOUR) == 0 and not begun.exists()


def test_debug_keeps_and_takes_no_state(work, begun):
    before = begun.read_bytes()
    assert give(FOUR, "--debug") == 0
    assert begun.read_bytes() == before and not list(work.rglob("*.pt"))


def test_weights_of_epochs_before_the_state_are_made_by_the_same_command(work, begun, capsys):
    for _ in range(2):
        assert give(FOUR, "--save_epochs", "1,3") == 0
    assert "repeat the same command for " in capsys.readouterr().out
    model = model_of(work)
    kept = {names.epoch_path(model, epoch) for epoch in (1, 3)}
    assert set(model.parent.glob("*.pt")) == {model, *kept}


# States that are refused


@pytest.mark.parametrize(
    "flags, told",
    [
        ("--accumulate_gradients", "delete it to start that training over"),
        ("--learning_rate 0.2", "learning_rate 1.0, not 0.2"),
        ("--data_dir fewer/few", "different training images"),
    ],
)
def test_a_state_of_other_settings_or_images_is_refused(work, begun, capsys, flags, told):
    shutil.copytree("few digits", "fewer/few")
    next(Path("fewer/few/train").rglob("*.png")).unlink()
    before = begun.read_bytes()
    capsys.readouterr()
    assert give(FOUR, *flags.split(), "--save_path", begun.parent) == 2
    assert told in line_of(capsys)
    assert begun.read_bytes() == before and not list(work.rglob("*.pt"))


def not_finite(state):
    state["parts"]["network"]["base.bn1.running_var"][0] = float("inf")
    return state


@pytest.mark.parametrize(
    "change, told",
    [
        (lambda state: {}, "is of a different version; finish it with that one"),
        (lambda state: {**state, "format": 0}, "is of a different version; finish it with that one"),
        (lambda state: {"format": records.STATE_FORMAT}, "does not fit the network"),
        (lambda state: state["parts"]["network"].popitem() and state, "does not fit the network"),
        (not_finite, "not finite, in base.bn1.running_var"),
    ],
)
def test_a_damaged_or_foreign_state_is_refused_in_one_line(begun, capsys, change, told):
    torch.save(change(load(begun)), begun)
    capsys.readouterr()
    assert give(FOUR) == 2
    line = line_of(capsys)
    assert told in line and "delete it" in line and "holds the state" not in line
    begun.write_bytes(b"torn")
    assert give(FOUR) == 2 and "not a readable checkpoint" in line_of(capsys)
    begun.unlink()
    assert give(FOUR) == 0


# Code that changes


def record_of(model):
    return json.loads(names.record_path(model).read_text())


def test_a_state_of_other_code_is_refused_unless_other_code_is_asked_for(work, monkeypatch, capsys):
    sums = "--accumulate_gradients"
    stopped_after(monkeypatch, 10, signal.SIGINT)
    assert give(FOUR, sums) == 130
    begun = state_of(work)
    state = load(begun)
    state["code"]["training"] = "0" * 12
    torch.save(state, begun)
    capsys.readouterr()
    assert give(FOUR, sums) == 2
    assert f"{begun.name} was made by a different version of training; give --other_code" in line_of(capsys)
    assert give(FOUR, sums, "--other_code") == 0
    assert [record_of(path)["other_code"] for path in work.rglob("*.pt")] == [True, True]
    model_of(work).unlink()
    assert give(FOUR, "--other_code") == 0  # trained anew, by this code alone
    assert "other_code" not in record_of(model_of(work))


def test_a_network_without_recorded_code_is_one_of_other_code(work, begun, capsys):
    assert give(FOUR) == 0
    record = record_of(model_of(work))
    del record["code"]
    files.write_json(names.record_path(model_of(work)), record)
    capsys.readouterr()
    assert give(FOUR) == 2 and "was made by a different version of augment, " in line_of(capsys)
    assert give(FOUR, "--other_code") == 0 and "finished before" in capsys.readouterr().out


# Signals and kills, in processes of their own


@pytest.mark.parametrize("number, workers", [(signal.SIGTERM, 0), (signal.SIGINT, 2)])
def test_a_signal_keeps_the_states_within_seconds(work, number, workers):
    flags = f"--index_end 1 --epochs 5000 --batch_size 16 --workers {workers}".split()
    process = Forked("sup_training", *FLAGS, *flags, cwd=work)
    log, deadline = work / "logs/few digits/sup_training.log", time.monotonic() + 60
    trainings = max(1, workers)
    while time.monotonic() < deadline and not (
        log.exists() and log.read_text().count(" epoch 4/5000") >= trainings
    ):
        time.sleep(0.05)
    asked = time.monotonic()
    if number != signal.SIGTERM:  # a terminal, or Slurm, tells all of its processes
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    said = process.communicate(timeout=70)[1]
    assert time.monotonic() - asked < 60  # an idle machine needs 2; other tests run at once
    assert process.returncode == 128 + number, said
    assert said.count("\n") == 1 and "interrupted" in said and "the same command" in said
    states = list(work.rglob("*.state"))
    assert len(states) == trainings and all(load(state)["epoch"] >= 3 for state in states)
    assert not [path for path in work.rglob("*.tmp*") if path.parent.name != ".locks"]


def test_what_a_killed_process_left_half_is_written_over(tmp_path):
    (tmp_path / ".model.pt.tmp.pt").write_bytes(b"half of something longer")
    files.write_atomically(tmp_path / "model.pt", lambda temporary: temporary.write_bytes(b"whole"))
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["model.pt"]
    assert (tmp_path / "model.pt").read_bytes() == b"whole"


def test_writers_of_one_file_wait_for_each_other(tmp_path):
    """Each writes its letter in two halves; the file that is there is never a mixture."""
    path, seen = tmp_path / "model.pt", set()

    def write(letter):
        def in_halves(temporary):
            with temporary.open("w") as file:
                for _ in range(2):
                    file.write(letter * 1000)
                    file.flush()
                    time.sleep(0.002)

        for _ in range(10):
            files.write_atomically(path, in_halves)
            seen.add(path.read_text())

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, "abcd"))
    assert seen <= {letter * 2000 for letter in "abcd"} and len(list(tmp_path.glob("*model*"))) == 1


def test_a_short_chaos_leaves_what_an_undisturbed_run_leaves(monkeypatch, capsys):
    """The long form is a command of its own: python tests/chaos.py --kills 50."""
    training = "sup_training --epochs 15 --batch_size 16 --index_end"
    monkeypatch.setattr(chaos, "STAGES", [f"{training} 0 --save_epochs 0".split()])
    monkeypatch.setattr(chaos, "COMPANY", f"{training} 4".split())
    monkeypatch.setattr(sys, "argv", ["chaos.py", "--kills", "2"])
    status, said = chaos.main(), capsys.readouterr().out
    assert status == 0, said
    # A fast machine has done the work before the second kill in company.
    assert "0 differences" in said and "company of 4 over 5 models: 0 kills" not in said
