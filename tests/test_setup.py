"""setup.sh: what it runs, prints and refuses, with a stand-in for the environment's python."""

import importlib
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from figures.report import uncertainty

ROOT = Path(__file__).parent.parent
SPARSITIES = [0.3, 0.5, 0.7, 0.9, 0.95]
SCRIPTS = (
    "clr_training",
    "sup_training",
    "clr_pruning_finetune",
    "sup_pruning_finetune",
    "clr_pie_kmodels_detection",
    "sup_pie_kmodels_detection",
    "clr_prediction_depth",
    "sup_prediction_depth",
)


@pytest.fixture
def project(tmp_path):
    """A copy of setup.sh beside an environment whose python only notes what it is asked to do."""
    for name in ("setup.sh", "requirements.txt", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "tests").mkdir()
    shutil.copy(ROOT / "tests/requirements.txt", tmp_path / "tests/requirements.txt")
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    # -c asks whether CUDA is missing: CUDA_MISSING, 1 by default, is the status it answers with.
    # pip fails where PIP_FAILS is set.
    python.write_text(
        '#!/usr/bin/env bash\n[ "$1" = -c ] && exit "${CUDA_MISSING:-1}"\necho "$*" >> asked\n'
        '[ "$2" = pip ] && [ -n "${PIP_FAILS:-}" ] && exit 1\nexit 0\n'
    )
    python.chmod(0o755)
    return tmp_path


def setup(project, *words, **environment):
    clean = {key: value for key, value in os.environ.items() if key not in ("VENV", "PYTHON", "LOCKED")}
    return subprocess.run(
        ["bash", str(project / "setup.sh"), *words],
        env={**clean, **environment},
        capture_output=True,
        text=True,
    )


def asked(project):
    return (project / "asked").read_text().splitlines() if (project / "asked").exists() else []


def scripts(commands):
    """[(script, its flags, checked by its own parser)]"""
    found = []
    for command in commands:
        name, *flags = shlex.split(command)
        if name.endswith(".py") and "/" not in name:
            found.append(
                (
                    name.removesuffix(".py"),
                    importlib.import_module(name.removesuffix(".py")).build_parser().parse_args(flags),
                )
            )
    return found


def test_set_up_installs_once_and_makes_the_folders(project):
    assert setup(project).returncode == 0
    assert len(asked(project)) == 1 and asked(project)[0].endswith("-r requirements.txt")
    assert (
        (project / "pies/cifar10/SupCon/umap").is_dir()
        and (project / "models").is_dir()
        and (project / "logs").is_dir()
    )
    assert setup(project).returncode == 0 and len(asked(project)) == 1
    (project / "requirements.txt").write_text("torch\n")
    assert setup(project).returncode == 0 and len(asked(project)) == 2


def test_locked_installs_the_tested_versions_in_place_of_the_bounds(project):
    assert setup(project, LOCKED="1").returncode == 0 and setup(project, LOCKED="1").returncode == 0
    assert [command.split()[-1] for command in asked(project)] == ["requirements.lock"]
    assert setup(project).returncode == 0 and setup(project, LOCKED="1").returncode == 0
    assert [command.split()[-1] for command in asked(project)][1:] == [
        "requirements.txt",
        "requirements.lock",
    ]


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
    old = project / "old-python"
    old.write_text('#!/usr/bin/env bash\n[ "$1" = --version ] && echo Python 3.8.1 && exit 0\nexit 1\n')
    old.chmod(0o755)
    done = setup(project, VENV="elsewhere", PYTHON=str(old))
    assert done.returncode == 2 and "Python 3.8.1 is too old" in done.stderr


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
    for order in (printed, asked(project)):  # the halves run at once, each in its order
        assert [name for name, _ in scripts(order) if name.startswith("clr")] == [
            "clr_training",
            "clr_pruning_finetune",
            "clr_pie_kmodels_detection",
            "clr_prediction_depth",
        ]
        assert [name for name, _ in scripts(order) if name.startswith("sup")] == [
            "sup_training",
            "sup_training",
            "sup_training",
            "sup_pruning_finetune",
            "sup_pie_kmodels_detection",
            "sup_prediction_depth",
            "sup_pie_kmodels_detection",
            "sup_prediction_depth",
        ]
    for name, flags in runs:
        assert flags.dataset == "digits" and flags.threads == max(1, (len(os.sched_getaffinity(0)) + 1) // 2)
        assert (
            flags.index_end + 1 if "training" in name else flags.models_number
        ) == uncertainty.FEWEST_SEEDS  # so that the report has intervals
    assert [(flags.pruning, flags.schedule) for name, flags in runs if name == "sup_training"] == [
        (0.0, "early"),
        (0.95, "early"),
        (0.95, "late"),
    ]
    assert [flags.pruning_percentages for name, flags in runs if name != "sup_training"] == [[0.0]] + 6 * [
        [0.5, 0.9, 0.95, 0.99]
    ] + 2 * [[0.95]]
    assert [flags.pruning_methods for _, flags in runs[-2:]] == 2 * [["GMP", "later_GMP"]]


def test_paper_prints_and_runs_the_published_study(project):
    done = setup(project, "paper", "--cuda_device", "3", CUDA_MISSING="0")
    assert done.returncode == 0, done.stderr
    runs = scripts(asked(project)[1:])
    assert all(flags.cuda_device == 3 and flags.dataset == "cifar10" for _, flags in runs)
    trained = set()
    for name, flags in runs:
        if "training" in name:
            assert (flags.index_start, flags.index_end) == (0, 29)
            sparsities = flags.pruning_percentages if name == "clr_training" else [flags.pruning]
            trained |= {(name, flags.schedule if sparsity else "dense", sparsity) for sparsity in sparsities}
        else:
            assert flags.models_number == 30 and flags.pruning_percentages == SPARSITIES
        if "pie" in name or "depth" in name:
            assert flags.pruning_methods == ["global", "GMP", "later_GMP"]
    assert trained == {
        (name, *kind)
        for name in ("clr_training", "sup_training")
        for kind in (
            ("dense", 0.0),
            *((schedule, sparsity) for schedule in ("early", "late") for sparsity in (0.3, 0.5, 0.7, 0.9)),
        )
    }
    assert {name for name, _ in runs} == set(SCRIPTS)
    assert any(command.startswith("benchmarks/study_hours.py") for command in asked(project))
    listed = [
        line.strip().removeprefix(".venv/bin/python ")
        for line in done.stdout.splitlines()
        if line.startswith("  .venv")
    ]
    assert listed == [command for command in asked(project)[1:] if not command.startswith("benchmarks")]


def test_paper_dry_run_only_prints_and_estimates(project):
    assert setup(project, "paper", "--dry_run").returncode == 0
    assert [command.split()[0] for command in asked(project)[1:]] == ["benchmarks/study_hours.py"]


def test_paper_without_cuda_asks_for_yes(project):
    done = setup(project, "paper")
    assert done.returncode == 2 and "--yes" in done.stderr and len(asked(project)) == 2
    assert setup(project, "paper", "--yes").returncode == 0 and {
        name for name, _ in scripts(asked(project)[2:])
    } == set(SCRIPTS)


@pytest.mark.parametrize(
    "words",
    [
        ["demos"],
        ["demo", "fast"],
        ["paper", "--fast"],
        ["paper", "--cuda_device"],
        ["paper", "--cuda_device", "x"],
    ],
)
def test_unknown_words_are_refused_in_one_line(project, words):
    done = setup(project, *words)
    assert (
        done.returncode == 2
        and len(done.stderr.splitlines()) == 1
        and done.stderr.startswith("setup.sh: error: ")
    )


def test_tests_install_their_tools_and_run_pytest(project):
    assert setup(project, "test").returncode == 0
    assert (
        asked(project)[1].endswith("-r tests/requirements.txt")
        and asked(project)[2] == "-m pytest -q -rs -n 2 --dist loadfile --no-loadscope-reorder tests"
    )


@pytest.mark.parametrize("failing", ["clr_pruning_finetune.py", "sup_pruning_finetune.py"])
def test_a_command_that_fails_ends_its_half_of_the_demo_and_then_the_demo(project, failing):
    python = project / ".venv/bin/python"
    python.write_text(python.read_text().replace("exit 0\n", f'[ "$1" = {failing} ] && exit 2\nexit 0\n'))
    done = setup(project, "demo")
    assert done.returncode == 2 and "a command of the demo failed" in done.stderr
    commands = [command.split()[0] for command in asked(project)]
    assert [command for command in commands if command.startswith(failing[:3])][-1] == failing
    assert (
        "figures/make_figures.py" not in commands
        and len([command for command in commands if not command.startswith(failing[:3])]) > 3
    )
