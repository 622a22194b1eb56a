"""Flips, --precision and --compile: what trainings do, what records say, what is never mixed."""

import json
from pathlib import Path

import pytest
import torch
from test_scripts import DENSE, SMALL, main

from common import augment, training

FEW = {
    "sup": ["sup_training", *SMALL, "--epochs", "2", "--save_epochs", "0", "--learning_rate", "0.1"],
    "clr": ["clr_training", *SMALL, *DENSE, "--epochs", "2", "--save_epochs", "0", "--head_epochs", "1"],
}
ITERATIVE = ["--pruning_schedule", "iterative", "--iterations", "1", "--models_number", "1"]
OTHER = ["--no-vertical_flip", "--precision", "bfloat16", "--compile"]
KEYS = ("horizontal_flip", "vertical_flip", "precision", "compile")


def train(method, *flags, first=0, last=0):
    return main(*FEW[method], "--index_start", first, "--index_end", last, "--batch_size", "64", *flags)


def prune(method, *flags):
    return main(f"{method}_pruning_finetune", *SMALL, *flags)


def records(pattern="*", folder="models/few digits"):
    paths = sorted(Path(folder).glob(f"{pattern}.json"))
    assert paths
    return {path: json.loads(path.read_text()) for path in paths}


def recorded(pattern):
    """The settings that records tell, each once."""
    found = [record["configuration"] for record in records(pattern).values()]
    return {tuple(configuration[key] for key in KEYS) for configuration in found}


@pytest.fixture(autouse=True)
def flips(monkeypatch, digits_on_disk, unsaved_figures):
    """The shares of supervised views that trainings flipped, (horizontal, vertical) in turn. Compiled steps
    are ordinary ones."""
    shares, draw = [], augment.draw_supervised

    def drawn(*arguments):
        views = draw(*arguments)
        shares.append([views[way].float().mean().item() for way in ("horizontal", "vertical")])
        return views

    monkeypatch.setattr(augment, "draw_supervised", drawn)
    monkeypatch.setattr(training, "compiled_loss", lambda kind: kind.loss)
    return shares


@pytest.mark.parametrize("method", ["sup", "clr"])
def test_finetuning_has_settings_of_its_own_and_rewinding_those_of_the_dense_networks(method, flips, capsys):
    assert train(method, *OTHER) == 0
    assert prune(method, *ITERATIVE) == 0
    dense = {(True, False, "bfloat16", True)}
    assert recorded("*rewind*") == dense
    assert all(0.2 < horizontal < 0.8 and vertical == 0 for horizontal, vertical in flips)
    for flag in ("--vertical_flip", "--precision float32", "--compile"):
        assert prune(method, *ITERATIVE, *flag.split()) == 2
        assert f"{flag.split()[0]} belongs to --after finetune" in capsys.readouterr().err
    flips.clear()
    own = ["--after", "finetune", "--epochs", "2", "--no-horizontal_flip", "--precision", "tf32"]
    assert prune(method, *ITERATIVE, *own) == 0
    assert recorded("*finetune*") == {(False, False, "tf32", False)}  # --no-vertical_flip of the dense ones
    assert flips and all(horizontal == vertical == 0 for horizontal, vertical in flips)
    for record in records("*finetune*").values():
        assert {tuple(record["configuration"]["dense"][key] for key in KEYS)} == dense


@pytest.mark.parametrize("flags", ["--no-horizontal_flip", "--compile"])
def test_networks_of_other_settings_are_never_mixed(flags, capsys):
    key = flags.split()[0].removeprefix("--").removeprefix("no-")
    assert train("sup") == 0 and train("sup", *flags.split()) == 2
    assert f"{key} " in capsys.readouterr().err
    assert train("sup", *flags.split(), first=1, last=1) == 0
    assert main("sup_pie_kmodels_detection", *SMALL, "--models_number", "2") == 2
    message = capsys.readouterr().err
    assert "several populations fit: " in message and f"they differ in {key}: " in message


def test_networks_from_before_the_flags_have_the_settings_that_could_not_be_changed(capsys):
    one_shot = ["--models_number", "1", "--pruning_percentages", "0.5", "--epochs", "1"]
    assert train("sup", last=1) == 0 and prune("sup", *one_shot) == 0
    for path, record in records().items():
        for configuration in (record["configuration"], record["configuration"].get("dense", {})):
            for key in KEYS:
                configuration.pop(key, None)
        path.write_text(json.dumps(record))
    capsys.readouterr()
    assert train("sup", last=2) == 0 and prune("sup", *one_shot) == 0
    said = capsys.readouterr().out
    assert "finished before: 2 of 3 networks" in said and "finished before: 1 of 1 networks" in said
    pies = ["sup_pie_kmodels_detection", *SMALL, "--models_number", "3", "--allow_missing"]
    assert main(*pies, "--pruning_methods", "global", "--pruning_percentages", "0.5") == 0
    assert train("sup", "--no-vertical_flip") == train("sup", "--precision", "tf32") == 2


def test_without_a_compiler_one_line_says_so(monkeypatch, capsys):
    def missing(*args, **more):
        raise torch._inductor.exc.InvalidCxxCompiler

    monkeypatch.setattr(training, "compiled_loss", lambda kind: missing)
    assert train("sup", "--compile") == 2
    assert "--compile needs a C++ compiler" in capsys.readouterr().err
