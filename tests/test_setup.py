"""setup.sh: what it runs, prints and refuses, with a stand-in for the environment's python."""

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from packaging.requirements import Requirement

from common import requested
from common.cli import UserError
from common.methods import iteration_sparsity
from figures.report import uncertainty

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "benchmarks"))
paper, measure = map(importlib.import_module, ("paper", "measure"))
SPARSITIES = [0.3, 0.5, 0.7, 0.9, 0.95]
SCRIPTS = {
    f"{method}_{stage}"
    for method in ("clr", "sup")
    for stage in ("training", "pruning_finetune", "pie_kmodels_detection", "prediction_depth")
}


@pytest.fixture
def project(tmp_path):
    """A copy of setup.sh beside an environment whose python only notes what it is asked to do."""
    for name in ("setup.sh", "requirements.txt", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "tests").mkdir()
    shutil.copy(ROOT / "tests/requirements.txt", tmp_path / "tests/requirements.txt")
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    # -c asks for the version, and whether it is too old: status 0 or OLD. pip fails where PIP_FAILS is set.
    python.write_text(
        '#!/usr/bin/env bash\n[ "$1" = -c ] && exit "${OLD:-0}"\necho "$*" >> asked\n'
        '[ "$2" = pip ] && [ -n "${PIP_FAILS:-}" ] && exit 1\nexit 0\n'
    )
    python.chmod(0o755)
    return tmp_path


def setup(project, *words, **environment):
    clean = {
        key: value
        for key, value in os.environ.items()
        if key not in ("VENV", "VIRTUAL_ENV", "PYTHON", "LOCKED", "OMP_NUM_THREADS")
    }
    return subprocess.run(
        ["bash", str(project / "setup.sh"), *words],
        env={**clean, **environment},
        capture_output=True,
        text=True,
    )


def asked(project):
    return (project / "asked").read_text().splitlines() if (project / "asked").exists() else []


def test_a_tilde_in_a_variable_is_the_home(project):
    (project / ".venv").rename(project / "env")
    assert setup(project, VENV="~/env", HOME=str(project)).returncode == 0
    assert asked(project) and not (project / "~").exists()


def test_an_active_environment_is_used_and_a_named_one_wins(project):
    (project / ".venv").rename(project / "active")
    shutil.copytree(project / "active", project / "named")
    for more, used in (({}, "active"), ({"VENV": "named"}, "named")):
        assert setup(project, VIRTUAL_ENV=str(project / "active"), **more).returncode == 0
        assert [*(project / used).glob("installed_*")] and not (project / ".venv").exists()


def scripts(commands):
    """[(script, its flags, checked by its own parser)]"""
    words = (shlex.split(command) for command in commands)
    names = [(each[0].removesuffix(".py"), each[1:]) for each in words]
    chosen = [(name, flags) for name, flags in names if name in SCRIPTS]
    return [(name, importlib.import_module(name).build_parser().parse_args(flags)) for name, flags in chosen]


def test_set_up_installs_each_list_once(project):
    installed = ["requirements.txt"]
    assert setup(project).returncode == setup(project).returncode == 0
    for locked in ("1", "1", "0", "", "1"):
        assert setup(project, LOCKED=locked).returncode == 0
    installed += ["requirements.lock", "requirements.txt", "requirements.lock"]
    (project / "requirements.txt").write_text("torch\n")
    assert setup(project).returncode == 0
    assert [command.split()[-1] for command in asked(project)] == [*installed, "requirements.txt"]


def requirements(name):
    """The lines of a requirements file that name a package."""
    lines = (ROOT / name).read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def test_the_lock_has_one_version_of_every_requirement_within_its_bounds():
    locked = {package.name: str(package.specifier) for package in requirements("requirements.lock")}
    assert all(pinned.startswith("==") and "," not in pinned for pinned in locked.values())
    for package in requirements("requirements.txt"):
        assert package.specifier.contains(locked[package.name].removeprefix("==")), package.name


@pytest.mark.parametrize("name", ["requirements.txt", "requirements.lock", "tests/requirements.txt"])
def test_requirements_name_packages_and_no_host(name):
    assert requirements(name) and all(package.url is None for package in requirements(name))


def test_a_failed_installation_says_what_to_do_and_is_tried_again(project):
    done = setup(project, PIP_FAILS="1")
    assert done.returncode == 2 and "installing requirements.txt failed: check the network" in done.stderr
    assert setup(project).returncode == 0 and len(asked(project)) == 2


def test_a_missing_or_old_interpreter_says_what_to_do(project):
    done = setup(project, VENV="elsewhere", PYTHON="no-such-python")
    assert done.returncode == 2 and "no-such-python not found" in done.stderr and "PYTHON=" in done.stderr
    done = setup(project, VENV="elsewhere", PYTHON="/bin/ls")
    assert done.returncode == 2 and "PYTHON=/bin/ls is no Python" in done.stderr
    old = project / "old-python"
    old.write_text('#!/usr/bin/env bash\n[ "$1" = --version ] && echo Python 3.8.1 && exit 0\nexit 1\n')
    old.chmod(0o755)
    done = setup(project, VENV="elsewhere", PYTHON=str(old))
    assert done.returncode == 2 and "Python 3.8.1 is too old" in done.stderr
    done = setup(project, OLD="1")
    assert done.returncode == 2 and "which is too old" in done.stderr and not asked(project)


@pytest.mark.parametrize("place", ["README.md", "tests"])
def test_what_is_no_environment_is_left_alone(project, place):
    (project / "README.md").write_text("read")
    before = sorted(project.rglob("*"))
    done = setup(project, VENV=place, PYTHON=sys.executable)
    assert done.returncode == 2 and sorted(project.rglob("*")) == before
    [line] = done.stderr.splitlines()
    assert f"VENV={place} is no environment" in line and "delete" not in line


def test_locked_is_0_or_1(project):
    done = setup(project, LOCKED="maybe")
    assert done.returncode == 2 and "LOCKED=maybe: give 1" in done.stderr and not asked(project)


def test_the_demo_prints_what_it_runs_and_runs_all_eight_scripts(project):
    done = setup(project, "demo")
    assert done.returncode == 0, done.stderr
    printed = [
        line.removeprefix("$ .venv/bin/python ") for line in done.stdout.splitlines() if line.startswith("$ ")
    ]
    assert sorted(printed) == sorted(asked(project)[1:]) and asked(project)[-1].startswith(
        "figures/make_figures.py"
    )
    runs = scripts(printed)
    stages = "training pruning_finetune pie_kmodels_detection prediction_depth".split()
    expected = {"clr": stages, "sup": [*stages[:1] * 3, *stages[1:], *stages[2:]]}
    for order in (printed, asked(project)):  # the halves run at once, each in its order
        for method, names in expected.items():
            found = [name for name, _ in scripts(order) if name.startswith(method)]
            assert found == [f"{method}_{name}" for name in names]
    for name, flags in runs:
        assert flags.dataset == "digits" and flags.threads == max(1, (len(os.sched_getaffinity(0)) + 1) // 2)
        networks = flags.index_end + 1 if "training" in name else flags.models_number
        assert networks == uncertainty.FEWEST_SEEDS  # so that the report has intervals
    assert trained_by(runs) == {
        ("clr_training", "dense", 0.0),
        *(("sup_training", *kind) for kind in (("dense", 0.0), ("early", 0.95), ("late", 0.95))),
    }


def paper_flags(*words):
    return paper.build_parser().parse_args(words)


def trained_by(runs):
    """(script, schedule, sparsity) of all networks."""
    trained = set()
    for name, flags in runs:
        if "training" in name:
            sparsities = flags.pruning_percentages if name == "clr_training" else [flags.pruning]
            trained |= {(name, flags.schedule if sparsity else "dense", sparsity) for sparsity in sparsities}
    return trained


def test_paper_has_the_commands_of_the_published_study():
    runs = scripts(paper.commands(paper_flags("--cuda_device", "3", "--workers", "2")))
    for name, flags in runs:
        assert (flags.cuda_device, flags.workers, flags.dataset) == (3, 2, "cifar10")
        if "training" in name:
            assert (flags.index_start, flags.index_end) == (0, 29)
        else:
            control = [0.0] * ("finetune" in name)
            assert flags.models_number == 30 and flags.pruning_percentages == control + SPARSITIES
        if "pie" in name or "depth" in name:
            assert flags.pruning_methods == ["global", "GMP", "later_GMP"]
    schedules = [(each, sparsity) for each in ("early", "late") for sparsity in (0.3, 0.5, 0.7, 0.9)]
    kinds = [("dense", 0.0), *schedules]
    assert trained_by(runs) == {(name, *kind) for name in ("clr_training", "sup_training") for kind in kinds}
    assert {name for name, _ in runs} == SCRIPTS
    numbers = {"contrastive": 270, "head": 270, "supervised": 270, "finetuning": 360}
    assert paper.networks(paper_flags()) == numbers


def test_paper_takes_a_part_of_the_study():
    words = "--seeds 4-9 --methods supervised --pruning_methods global,later_GMP --sparsities 0.9".split()
    runs = scripts(paper.commands(paper_flags(*words)))
    assert trained_by(runs) == {("sup_training", "dense", 0.0), ("sup_training", "late", 0.9)}
    assert {(flags.index_start, flags.index_end) for name, flags in runs if "training" in name} == {(4, 9)}
    assert {flags.models_number for name, flags in runs if "training" not in name} == {10}
    numbers = {"contrastive": 0, "head": 0, "supervised": 12, "finetuning": 12}
    assert paper.networks(paper_flags(*words)) == numbers


@pytest.mark.parametrize(
    "flag, value",
    [
        *(("--seeds", seeds) for seeds in ("9-4", "a", "", "0-9-20", "3-", "-3", " 1", "0-1000000", "1-٣")),
        ("--methods", "supcon"),
        ("--pruning_methods", "layer"),
        ("--sparsities", "0.9,1"),
        ("--slurm", ""),
    ],
)
def test_paper_refuses_what_the_study_does_not_have(flag, value, capsys):
    assert pytest.raises(SystemExit, paper_flags, f"{flag}={value}").value.code == 2
    assert flag in capsys.readouterr().err


def test_paper_without_cuda_asks_for_yes_and_stops_at_the_first_command_that_fails(monkeypatch, capsys):
    asked = []

    def failing(command, **more):
        asked.append(command[1])
        return nullcontext(SimpleNamespace(wait=lambda: 3 * (len(asked) == 2)))

    monkeypatch.setattr(paper, "measure", lambda device, images: dict.fromkeys(paper.EPOCHS, 1.0))
    monkeypatch.setattr(paper.subprocess, "Popen", failing)
    monkeypatch.setattr(measure.process, "select_device", lambda number: torch.device("cpu"))
    assert paper.main(["--dry_run"]) == 0 and "on cpu: " in capsys.readouterr().out
    assert paper.main([]) == 2 and not asked and "--yes" in capsys.readouterr().err
    assert pytest.raises(SystemExit, paper.main, ["--yes"]).value.code == 3
    assert asked == ["clr_training.py"] * 2


def test_words_go_to_paper_or_to_pytest_and_unknown_ones_are_refused(project):
    assert setup(project, "paper", "--dry_run", "--seeds", "0-3").returncode == 0
    assert asked(project)[-1] == "benchmarks/paper.py --dry_run --seeds 0-3"
    assert setup(project, "test").returncode == 0
    assert asked(project)[-2].endswith("-r tests/requirements.txt")
    assert asked(project)[-1].startswith("-m pytest -q -rs -n 2 --dist loadfile ")
    for words in (["demos"], ["demo", "fast"]):
        done = setup(project, *words)
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
        assert done.stderr.startswith("setup.sh: error: ")


def test_the_procedures_are_compared_under_the_names_that_pruning_gives_them(project):
    assert setup(project, "procedures").returncode == 0
    commands = asked(project)[1:]
    runs = scripts(commands)
    made = {
        str(requested.method(flags, "iterative", rate=flags.rate, after=flags.after))
        for script, flags in runs
        if script == "sup_pruning_finetune"
    }
    [compared] = [flags for script, flags in runs if script == "sup_pie_kmodels_detection"]
    assert len(made) == 8 and made == set(compared.pruning_methods) and compared.run == "procedures"
    sparsities = {iteration_sparsity(0.45, iteration) for iteration in range(1, 6)}
    assert set(compared.pruning_percentages) <= sparsities
    assert commands[-1] == "figures/make_figures.py --results pies/digits --run procedures"


@pytest.mark.parametrize("failing", ["clr_pruning_finetune.py", "sup_pruning_finetune.py"])
def test_a_command_that_fails_ends_its_half_of_the_demo_and_then_the_demo(project, failing):
    python = project / ".venv/bin/python"
    python.write_text(python.read_text().replace("exit 0\n", f'[ "$1" = {failing} ] && exit 2\nexit 0\n'))
    done = setup(project, "demo")
    assert done.returncode == 2 and "a command of the demo failed" in done.stderr
    commands = [command.split()[0] for command in asked(project)]
    assert [command for command in commands if command.startswith(failing[:3])][-1] == failing
    others = [command for command in commands if not command.startswith(failing[:3])]
    assert "figures/make_figures.py" not in commands and len(others) > 3


def test_slurm_jobs_are_queued_once_the_data_are_there_and_wait_for_the_networks_that_they_need(tmp_path):
    commands = paper.commands(paper_flags("--seeds", "0-1", "--sparsities", "0.9"))
    paper.write_jobs(tmp_path / "jobs", commands)
    script = (tmp_path / "jobs/submit.sh").read_text().replace("--dataset cifar10", "--dataset digits")
    script = script.replace(f"cd {ROOT}\n", f"cd {tmp_path}\n").replace(
        "gradual_sup=()", "gradual_sup=(--begin_step 2)"
    )
    (tmp_path / "sbatch").write_text(
        f'#!/bin/bash\necho "$*" >> {tmp_path}/calls\nwc -l < {tmp_path}/calls\n'
    )
    (tmp_path / "sbatch").chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "TASKS": "3",
    }
    (tmp_path / "jobs/submit.sh").write_text(script)
    with pytest.raises(UserError, match="submit.sh exists and differs"):
        paper.write_jobs(tmp_path / "jobs", commands)
    subprocess.run(["bash", "-c", script], env=environment, check=True, capture_output=True)
    calls = (tmp_path / "calls").read_text().splitlines()
    assert len(calls) == len(commands)
    made: dict[str, set[str]] = {}  # learning method -> jobs so far, of training, then of finetuning, ...
    for number, (call, command) in enumerate(zip(calls, commands), 1):
        script_name, needed = command.split()[0], re.search(r"afterok:(\S+)", call)
        assert f"{tmp_path}/jobs/job.sh {script_name} " in call and ("--dataset digits" in call) == (
            number < len(calls)
        )
        assert ("--array=0-2" in call) == ("training" in call or "finetune" in call)
        assert ("--begin_step 2" in call) == ("sup_training" in call and "--schedule" in call)
        expected = (
            set() if "training" in script_name else made.get(script_name[:3], set.union(*made.values()))
        )
        assert set(needed[1].split(":") if needed else ()) == expected
        made.setdefault(script_name[:3], set()).add(str(number))
    assert subprocess.run(["bash", "-n", tmp_path / "jobs/job.sh"], check=False).returncode == 0
