"""Names, records, code and loading of checkpoints."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from common import models, process
from common.cli import UserError
from common.data import load_dataset
from common.store import names, records, runs
from common.store.names import Architecture, CheckpointName

DIGITS = load_dataset("digits", "data")
SMALL = Architecture(10, 1)
CONTRASTIVE = {"learning_method": "SupCon", "encoder_name": "WideResNet", "batch_size": 1024}
CONTRASTIVE |= {"temperature": 0.5, "id": 3}
SUPERVISED = {"learning_method": "supervised", "id": 0, "depth": 16, "widen_factor": 2, "dropout": 0.0}


# Names


@pytest.mark.parametrize(
    "facts, name",
    [
        (
            (CONTRASTIVE, "encoder", "dense", 0.0, 500),
            "WideResNet_encoder_SupCon_0.0pruning_1024batch_0.5temperature_500epochs_id3.pt",
        ),
        (
            (CONTRASTIVE, "head", "later_GMP", 0.9, 100),
            "WideResNet_head_SupCon_0.9pruning_later_1024batch_0.5temperature_100epochs_id3.pt",
        ),
        (
            (SUPERVISED, "supervised", "global", 0.3, 30),
            "wideResNet_global_0.3pruning_30epochs_16depth_0.0dropout_id0.pt",
        ),
        (
            ({**SUPERVISED, "widen_factor": 4}, "supervised", "GMP", 0.3, 205),
            "wideResNet-4_0.3pruning_205epochs_16depth_0.0dropout_id0.pt",
        ),
    ],
)
def test_names_are_the_published_ones(facts, name):
    shared, part, method, sparsity, epochs = facts
    facts = {"part": part, "pruning_method": method, "sparsity": sparsity, "epochs": epochs, **shared}
    assert str(CheckpointName(**facts)) == name


@pytest.mark.parametrize(
    "architecture, name",
    [
        ((16, 2), "WideResNet"),
        ((10, 2), "WideResNet-10-2"),
        ((16, 2, 0.0, "linear"), "WideResNet-linear"),
    ],
)
def test_the_encoders_name_shows_what_differs_from_the_published_network(architecture, name):
    assert names.full_encoder_name("WideResNet", Architecture(*architecture)) == name


# Saved and loaded


NAME = CheckpointName("supervised", "supervised", "dense", 0.0, 3, 0, widen_factor=1, depth=10)


def small_checkpoint(folder, **configuration):
    torch.manual_seed(0)
    network = models.SupervisedNetwork(Architecture(10, 1), 10)
    with torch.no_grad():
        network.base.fc.bias += 1.0
    name, path = NAME, folder / str(NAME)
    facts = {"seed": 0, "data": DIGITS.facts(), "run": process.environment(torch.device("cpu"), 0.0)}
    payload, configuration = records.cpu_state(network), {"epochs": 3, **configuration}
    records.save_checkpoint(path, payload, name, configuration, network, **facts)
    return path, name, network


def edit_record(path, **entries):
    """Entries of the record take these values."""
    record = {**json.loads(path.with_suffix(".json").read_text()), **entries}
    path.with_suffix(".json").write_text(json.dumps(record))


def equal_states(state, other):
    return list(state) == list(other) and all(torch.equal(state[name], other[name]) for name in state)


def test_what_is_saved_is_loaded(tmp_path):
    path, name, network = small_checkpoint(tmp_path)
    loaded = records.load_classifier([path], records.read_record(path), name, SMALL, 10)
    assert equal_states(network.state_dict(), loaded.state_dict())
    names = {file.name for file in tmp_path.iterdir() if file.is_file()}
    assert names == {path.name, path.with_suffix(".json").name}
    record = json.loads(path.with_suffix(".json").read_text())
    assert record["data"]["checksum"] == DIGITS.checksum and record["sparsity"]["total"] == 0
    assert CheckpointName(**record["name"]) == name


def test_a_failed_save_leaves_nothing_and_loses_nothing(tmp_path, monkeypatch):
    path, _, _ = small_checkpoint(tmp_path)
    before = path.read_bytes()

    def full_disk(path, content):
        with path.open("wb") as file:
            file.write(content[:1000])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError):
        small_checkpoint(tmp_path)
    assert path.read_bytes() == before and len(list(tmp_path.glob("*id0*"))) == 2


def is_finished(path, configuration, data=DIGITS, other_code=False, **parents):
    flags = SimpleNamespace(other_code=other_code, debug=False)
    study = SimpleNamespace(data=data, flags=flags, folder_flag="--save_path")
    settings = {**data.flips, "precision": "float32", "compile": False, **configuration}
    return runs.is_finished(study, runs.CheckpointSpec(NAME, path, settings), **parents)


def test_finished_are_networks_of_other_test_images_and_published_ones_but_not_of_other_dense_ones(tmp_path):
    path, _, _ = small_checkpoint(tmp_path)
    asked = {"epochs": 3}
    assert is_finished(path, asked) and not is_finished(tmp_path / "other.pt", {})
    assert is_finished(path, asked, dataclasses.replace(DIGITS, checksum="0" * 64)), "other test images"
    with pytest.raises(UserError, match="a different dense model"):
        is_finished(path, asked, dense_sha256=["x"])
    path.with_suffix(".json").unlink()
    assert is_finished(path, {"epochs": 99}), "a published checkpoint is kept"


# The code that made them


def test_the_record_tells_the_code_of_every_room_that_a_network_depends_on(tmp_path):
    path, _, _ = small_checkpoint(tmp_path)
    code = json.loads(path.with_suffix(".json").read_text())["code"]
    assert code == records.science_code()
    assert code.keys() == {"augment", "criteria", "losses", "models", "pruning", "training", "learners"}
    assert len(set(code.values())) == 7


def test_finished_means_the_same_code_unless_other_code_is_asked_for(tmp_path):
    path, _, _ = small_checkpoint(tmp_path)
    code = records.science_code()
    edit_record(path, code={**code, "augment": "0" * 12, "models": "0" * 12})
    with pytest.raises(UserError, match="made by a different version of augment, models; give --other_code"):
        is_finished(path, {"epochs": 3})
    assert is_finished(path, {"epochs": 3}, other_code=True)
    with pytest.raises(UserError, match="made with different settings"):
        is_finished(path, {"epochs": 4}, other_code=True)
    edit_record(path, code={name: digest for name, digest in code.items() if name != "learners"})
    with pytest.raises(UserError, match="different version of learners"):
        is_finished(path, {"epochs": 3})
    for name, configuration in (("criteria", {}), ("losses", {"learning_method": "supervised"})):
        record = {"configuration": configuration, "code": {**code, name: "0" * 12}}
        assert records.differing_code(record) == []
        used = {"configuration": {"learning_method": "SupCon", "pruning_method": "global"}}
        assert records.differing_code(record | used) == [name]


def test_the_bytes_of_a_checkpoint_do_not_depend_on_its_name(tmp_path):
    payload = {"weight": torch.arange(6.0)}
    for file in ("one.pt", "other name.pt"):
        records.save_checkpoint(tmp_path / file, payload, NAME, {}, torch.nn.Linear(1, 1))
    assert (tmp_path / "one.pt").read_bytes() == (tmp_path / "other name.pt").read_bytes()
