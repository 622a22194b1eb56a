"""Work shared among processes (claims, workers, shells, ranks): the results are those of one, bit for bit."""

import errno
import io
import json
import os
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import write_few_digits
from cuda_stand_in import CudaStandIn
from forked import Forked
from matplotlib.figure import Figure
from test_scripts import ROOT, SMALL, main, run_here

from common import plots, process
from common.store import files, runs, table

MODELS = "--models_number 3 --pruning_percentages"
FLAGS = {
    "sup_training": "--index_end 2 --epochs 2 --batch_size 32",
    "clr_training": "--pruning_percentages 0.0 --index_end 2 --epochs 1 --batch_size 32 --head_epochs 1",
    "sup_pruning_finetune": f"{MODELS} 0.5,0.9 --epochs 1",
    "sup_pie_kmodels_detection": f"{MODELS} 0.5,0.9 --plot_q_score --run beside",
    "sup_prediction_depth": f"{MODELS} 0.5 --pruning_methods global --prediction_depth_models 2",
}
FLAGS = {script: [*SMALL, *text.split(), "--threads", 1] for script, text in FLAGS.items()}
STAGES = list(FLAGS)
SHELLS = dict(zip(STAGES, (4, 2, 2, 2, 3)))


def finish(*processes):
    said = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), said
    return [out for out, _ in said]


def contents(work):
    """What was left, but for times and commands: models, records without their run, arrays, the table."""
    content = {}
    for path in sorted(work.rglob("*")):
        name = path.relative_to(work).as_posix()
        if path.suffix in (".pt", ".csv"):
            content[name] = path.read_bytes()
        elif path.suffix == ".json":
            record = json.loads(path.read_text())
            content[name] = {key: value for key, value in record.items() if key != "run"}
        elif path.suffix == ".npz" and name.startswith("pies"):
            with np.load(path) as stored:
                content[name] = {
                    key: (stored[key].tobytes(), stored[key].dtype.str, stored[key].shape)
                    for key in stored.files
                    if key not in ("runs", "dense_runs")
                }
    return content


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """All stages by one process with one thread."""
    work = tmp_path_factory.mktemp("alone")
    write_few_digits(work / "few digits")
    for script in STAGES:
        run_here(script, *FLAGS[script], cwd=work)
    return contents(work)


@pytest.fixture
def work(tmp_path):
    write_few_digits(tmp_path / "few digits")
    return tmp_path


def test_workers_give_the_results_of_one_process_bit_for_bit(alone, work):
    """In one stage: each worker imports torch, which takes longer than its share of the work."""
    for script in STAGES:
        if script != "sup_pruning_finetune":
            run_here(script, *FLAGS[script], cwd=work)
            continue
        [said] = finish(Forked(script, *FLAGS[script], "--workers", 4, cwd=work))
        assert "3 workers with 1 threads each" in said, "as many as there are models"
        # What comes before and after the shared work is said once.
        for header in (f"{script} on few digits", "no CUDA device", "dense networks: "):
            assert said.count(header) <= 1, header
        assert said.count("compare them with") == 1
    assert contents(work) == alone


def test_shells_give_the_results_of_one_process_bit_for_bit(alone, work):
    for script, shells in SHELLS.items():
        said = "".join(finish(*(Forked(script, *FLAGS[script], cwd=work) for _ in range(shells))))
        if script == "sup_training":  # each is trained once
            assert [said.count(f"supervised id {model_id}: 2 epochs") for model_id in range(3)] == [1, 1, 1]
    assert contents(work) == alone


def test_a_claim_excludes_other_processes_and_ends_with_its_owner(tmp_path):
    path = tmp_path / "model.pt"
    code = textwrap.dedent(f"""
        import sys, time
        sys.path.insert(0, {str(ROOT)!r})
        from pathlib import Path
        from common.store.files import claim
        with claim(Path({str(path)!r}), wait=False) as held:
            print(held, flush=True)
            sys.stdin.read()
    """)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    owner = subprocess.Popen([sys.executable, "-c", code], **pipes)
    assert owner.stdout.readline() == "True\n"
    with files.claim(path, wait=False) as held:
        assert not held
    owner.kill()
    owner.wait()
    with files.claim(path, wait=True) as held:
        assert held
    assert [path.name for path in tmp_path.iterdir()] == [".locks"]


@pytest.mark.parametrize(
    "name, write",
    [
        ("a.npz", lambda path: files.write_arrays(path, {"x": np.zeros(3)}, {})),
        ("a.json", lambda path: files.write_json(path, {})),
        ("a.png", lambda path: plots.save_figure(path, Figure((1, 1)))),
        ("a.csv", lambda path: table.write_rows(path, [])),
    ],
)
def test_nothing_is_written_through_a_link(tmp_path, name, write):
    (tmp_path / "thesis.txt").write_text("four years")
    link = tmp_path / f".{name}.tmp.{name[2:]}"
    link.symlink_to("thesis.txt")
    write(tmp_path / name)
    assert (tmp_path / "thesis.txt").read_text() == "four years"
    assert {path.name for path in tmp_path.iterdir()} == {"thesis.txt", name, ".locks"}


@pytest.mark.parametrize(
    "spoil, told",
    [
        (lambda lock, thesis: lock.symlink_to(thesis), "id0.pt.lock: Too many levels of symbolic links"),
        (lambda lock, thesis: lock.parent.rmdir() or lock.parent.write_text(""), ".locks: File exists"),
    ],
)
def test_what_is_in_the_way_of_a_lock_is_one_line_and_stays(work, monkeypatch, capsys, spoil, told):
    monkeypatch.chdir(work)
    thesis = work / "thesis.txt"
    thesis.write_text("four years")
    lock = work / "models/few digits/.locks/wideResNet-1_0.0pruning_2epochs_10depth_0.0dropout_id0.pt.lock"
    lock.parent.mkdir(parents=True)
    spoil(lock, thesis)
    assert main("sup_training", *SMALL, "--index_end", 0, "--epochs", 2) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and told in said
    assert thesis.read_text() == "four years" and not list(work.rglob("*.pt"))


def test_a_file_system_without_locks_is_named_with_what_helps(work, monkeypatch, capsys):
    def refuse(lock, timeout=None):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.chdir(work)
    monkeypatch.setattr(files.filelock.FileLock, "acquire", refuse)
    assert main("sup_training", *SMALL, "--index_end", 0, "--epochs", 1) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"id0.pt.lock: {os.strerror(errno.ENOLCK)}; " in said
    assert "name another folder" in said and not list(work.rglob("*.pt"))


def test_who_waits_for_long_says_once_for_what(tmp_path, monkeypatch):
    path, said = tmp_path / "model.pt", []
    monkeypatch.setattr(files, "NEWS_SECONDS", 0.05)
    monkeypatch.setattr(files.logger, "info", said.append)

    def wait():
        with files.claim(path, wait=True) as held:
            assert held

    for _ in range(2):
        with ThreadPoolExecutor() as pool:
            with files.claim(path, wait=False):
                waiting = pool.submit(wait)
                while not said:
                    time.sleep(0.01)
                time.sleep(0.3)
            waiting.result(10)
    assert said == [f"waiting for another process that holds {tmp_path / '.locks/model.pt.lock'}"]


def test_a_worker_that_stops_is_said_in_one_line_and_what_is_finished_is_kept(work, monkeypatch, capsys):
    monkeypatch.chdir(work)
    flags = [*SMALL, *"--epochs 2 --batch_size 32 --threads 1".split()]
    assert main("sup_training", *flags, "--index_end", 0) == 0
    capsys.readouterr()
    diverging = "--index_start 1 --index_end 2 --learning_rate 1e30 --workers 2"
    assert main("sup_training", *flags, *diverging.split()) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "a worker of 2 stopped (sup_training.py: error: " in said
    assert "diverged" in said
    assert len(list(work.rglob("*.pt"))) == 1


def test_each_rank_has_a_device_of_its_own_unless_one_is_named(monkeypatch, work):
    from common import study
    from sup_training import build_parser

    monkeypatch.chdir(work)
    chosen = []
    of_device = lambda device: chosen.append(device) or torch.device("cpu")
    monkeypatch.setattr(process, "select_device", of_device)
    for rank, devices, flags in (
        ("3", 4, []),
        ("3", 4, ["--cuda_device", "1"]),
        ("3", 1, []),  # CUDA_VISIBLE_DEVICES shows each process its own device alone
        ("", 4, []),
    ):
        monkeypatch.setenv("LOCAL_RANK", rank)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
        parsed = build_parser().parse_args([*SMALL, *flags])
        next(study.open_studies("sup_training", parsed))
        assert parsed.cuda_device == chosen[-1]  # that of the workers
    assert chosen == [3, 1, 0, 0]


def test_who_starts_workers_leaves_the_device_to_them(monkeypatch, work, capsys):
    def work_alone(study, jobs):
        assert study.device.type == "cpu" and torch.cuda.memory_allocated() == 0
        study.flags.workers = 0

    monkeypatch.chdir(work)
    monkeypatch.setattr(runs, "_run_workers", work_alone)
    with CudaStandIn() as stand_in:
        flags = [*SMALL, "--index_end", "0", "--epochs", "1", "--threads", torch.get_num_threads()]
        assert main("sup_training", *flags, "--workers", "2") == 0
        assert stand_in.peak == 0 and not stand_in.uploads
        assert main("sup_training", *flags, "--workers", "2", "--cuda_device", "1") == 2  # said at once
        assert "--cuda_device 1 does not exist" in capsys.readouterr().err
        assert main("sup_training", *flags, "--workers", "2", "--debug") == 0  # trains itself, saves nothing
        assert stand_in.peak > 0


def test_a_terminal_sees_how_much_is_done(tmp_path, monkeypatch):
    screen = io.StringIO()
    screen.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", screen)
    flags = SimpleNamespace(debug=False, workers=0)
    jobs = [runs.Job(tmp_path / str(number), lambda: time.sleep(0.15)) for number in range(3)]
    assert runs.share(SimpleNamespace(flags=flags, script="sup_prediction_depth"), jobs)
    assert "sup_prediction_depth, finished:  33%" in screen.getvalue()


MISSING_A_SIGNAL = """
import signal, sys, time
missed = []
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143) if missed else missed.append(1))
print(flush=True)
time.sleep(60)
"""


def test_a_worker_that_misses_a_signal_is_stopped_again(monkeypatch):
    flags = SimpleNamespace(workers=1, threads=1, cuda_device=0, argv=[])
    worker = subprocess.Popen([sys.executable, "-c", MISSING_A_SIGNAL], stdout=subprocess.PIPE)
    worker.stdout.readline()
    monkeypatch.setattr(runs.subprocess, "Popen", lambda *_, **settings: worker)
    monkeypatch.setattr(runs, "progress", None)  # an error in place of an interruption
    monkeypatch.setattr(runs, "STOP_SECONDS", 0.2)
    with pytest.raises(TypeError):
        runs._run_workers(SimpleNamespace(flags=flags, script="sup_training"), [None])
    assert worker.returncode == 143
