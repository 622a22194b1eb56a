"""Names, records and loading of checkpoints."""

import dataclasses
import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from conftest import GOLDEN_HERE, GOLDEN_NETWORKS

from common import models, process, pruning
from common.cli import UserError
from common.data import load_dataset
from common.store import checkpoints
from common.store.checkpoints import Architecture, CheckpointName

DIGITS = load_dataset("digits", "data")
SMALL = Architecture(10, 1)


def test_names_are_the_published_ones():
    contrastive = dict(
        learning_method="SupCon", encoder_name="WideResNet", batch_size=1024, temperature=0.5, id=3
    )
    assert str(
        CheckpointName("encoder", pruning_method="dense", sparsity=0.0, epochs=500, **contrastive)
    ) == ("WideResNet_encoder_SupCon_0.0pruning_1024batch_0.5temperature_500epochs_id3.pt")
    assert str(
        CheckpointName("head", pruning_method="later_GMP", sparsity=0.9, epochs=100, **contrastive)
    ) == ("WideResNet_head_SupCon_0.9pruning_later_1024batch_0.5temperature_100epochs_id3.pt")
    assert str(
        CheckpointName(
            "encoder", pruning_method="global", sparsity=0.95, epochs=30, **{**contrastive, "batch_size": 128}
        )
    ) == ("WideResNet_encoder_SupCon_0.95pruning_global_128batch_0.5temperature_30epochs_id3.pt")
    supervised = dict(learning_method="supervised", id=0, depth=16, widen_factor=2, dropout=0.0)
    assert str(
        CheckpointName("supervised", pruning_method="dense", sparsity=0.0, epochs=205, **supervised)
    ) == ("wideResNet_0.0pruning_205epochs_16depth_0.0dropout_id0.pt")
    assert str(
        CheckpointName("supervised", pruning_method="global", sparsity=0.3, epochs=30, **supervised)
    ) == ("wideResNet_global_0.3pruning_30epochs_16depth_0.0dropout_id0.pt")
    assert str(
        CheckpointName(
            "supervised", pruning_method="GMP", sparsity=0.3, epochs=205, **{**supervised, "widen_factor": 4}
        )
    ) == ("wideResNet-4_0.3pruning_205epochs_16depth_0.0dropout_id0.pt")


@pytest.mark.parametrize(
    "architecture, name",
    [
        ((16, 2), "WideResNet"),
        ((10, 2), "WideResNet-10-2"),
        ((10, 4, 0.0, "linear"), "WideResNet-10-4-linear"),
        ((16, 2, 0.0, "linear"), "WideResNet-linear"),
        ((16, 1), "WideResNet-16-1"),
    ],
)
def test_the_encoders_name_shows_what_differs_from_the_published_network(architecture, name):
    assert checkpoints.full_encoder_name("WideResNet", Architecture(*architecture)) == name


def test_every_name_is_read_back_and_no_two_models_share_one():
    names = [
        CheckpointName(
            part,
            method,
            pruning,
            sparsity,
            epochs,
            model_id,
            encoder_name=encoder,
            batch_size=batch,
            temperature=temperature,
        )
        for part in ("encoder", "head")
        for method in ("SupCon", "SimCLR")
        for pruning, sparsity in (
            ("dense", 0.0),
            ("GMP", 0.3),
            ("later_GMP", 0.3),
            ("global", 0.3),
            ("global", 0.95),
            ("GMP", 0.001),
        )
        for epochs in (1, 500)
        for model_id in (0, 12)
        for encoder in ("WideResNet", "WideResNet-10-4-linear", "my_encoder_net")
        for batch in (128, 1024)
        for temperature in (0.5, 0.07)
    ]
    names += [
        CheckpointName(
            "supervised",
            "supervised",
            pruning,
            sparsity,
            epochs,
            model_id,
            widen_factor=width,
            depth=depth,
            dropout=dropout,
        )
        for pruning, sparsity in (("dense", 0.0), ("GMP", 0.3), ("later_GMP", 0.3), ("global", 0.3))
        for epochs in (1, 205)
        for model_id in (0, 12)
        for width in (1, 2, 4)
        for depth in (10, 16)
        for dropout in (0.0, 0.3)
    ]
    assert [checkpoints.parse_name(str(name)) for name in names] == names
    assert len({str(name) for name in names}) == len(names)


@pytest.mark.parametrize(
    "name",
    [
        "model.pt",
        "wideResNet_0.0pruning_205epochs.pt",
        "x_encoder_MoCo_0.0pruning_1batch_0.5temperature_1epochs_id0.pt",
        "wideResNet_0.0pruning_205epochs_16depth_0.0dropout_id0.json",
    ],
)
def test_other_files_are_no_checkpoints(name):
    assert checkpoints.parse_name(name) is None


def test_folders_are_those_of_the_data_set():
    assert str(checkpoints.study_folder("models", "cifar10")) == "models"
    assert str(checkpoints.study_folder("models", "digits")) == "models/digits"
    assert str(checkpoints.study_folder("models", "digits", 2)) == "models/digits/seed_2"


@pytest.mark.parametrize("folder, depth", GOLDEN_NETWORKS)
def test_published_checkpoints_load_through_our_loader(folder, depth):
    architecture = Architecture(depth, 2)
    for paths in (
        [next(folder.glob("wideResNet_*.pt"))],
        [next(folder.glob("WideResNet*_encoder_*.pt")), next(folder.glob("WideResNet*_head_*.pt"))],
    ):
        import numpy as np

        name = checkpoints.parse_name(paths[-1].name)
        network = checkpoints.load_classifier(paths, None, name, architecture, 10)
        golden = np.load(folder / ("sup_forward.npz" if len(paths) == 1 else "clr_forward.npz"))
        with torch.no_grad():
            logits = network(torch.from_numpy(golden["input"])).numpy()
        assert abs(logits - golden["logits"]).max() < 1e-5


def small_checkpoint(folder, sparsity=0.0, model_id=0, **configuration):
    torch.manual_seed(model_id)
    network = models.SupervisedNetwork(10, 1, 0.0, 10)
    with torch.no_grad():
        network.base.fc.bias += 1.0
    name = CheckpointName(
        "supervised", "supervised", "dense", sparsity, 3, model_id, widen_factor=1, depth=10
    )
    path = folder / str(name)
    run = process.environment(torch.device("cpu"), 0.0)
    record = checkpoints.make_record(name, {"epochs": 3, **configuration}, model_id, DIGITS, network, [], run)
    checkpoints.save_checkpoint(path, checkpoints.cpu_state(network), record, network)
    return path, name, network


def test_what_is_saved_is_loaded(tmp_path):
    path, name, network = small_checkpoint(tmp_path)
    loaded = checkpoints.load_classifier([path], checkpoints.read_record(path), name, SMALL, 10)
    assert all(torch.equal(a, b) for a, b in zip(network.state_dict().values(), loaded.state_dict().values()))
    assert sorted(os.listdir(tmp_path)) == sorted([path.name, path.with_suffix(".json").name])
    record = json.loads(path.with_suffix(".json").read_text())
    assert record["data"]["checksum"] == DIGITS.checksum and record["sparsity"]["total"] == 0
    assert CheckpointName(**record["name"]) == name


def test_settings_are_compared_key_by_key_however_deep():
    found = {"epochs": 3, "dense": {"epochs": 5, "lars": False}}
    assert (
        checkpoints.describe_differences(found, {"epochs": 3, "dense": {"epochs": 6, "lars": False}})
        == "dense.epochs 5, not 6"
    )
    assert checkpoints.describe_differences(found, found) == ""


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
    assert path.read_bytes() == before and len(os.listdir(tmp_path)) == 2


def test_finished_means_the_same_settings_and_data(tmp_path):
    path, _, _ = small_checkpoint(tmp_path, learning_rate=0.1)
    assert checkpoints.is_finished(path, {"epochs": 3, "learning_rate": 0.1}, DIGITS, "--save_path")
    assert not checkpoints.is_finished(tmp_path / "other.pt", {}, DIGITS, "--save_path")
    with pytest.raises(UserError, match=r"learning_rate 0.1, not 0.2.*--save_path another folder"):
        checkpoints.is_finished(path, {"epochs": 3, "learning_rate": 0.2}, DIGITS, "--save_path")
    with pytest.raises(UserError, match="data"):
        checkpoints.is_finished(
            path,
            {"epochs": 3, "learning_rate": 0.1},
            dataclasses.replace(DIGITS, checksum="0" * 64),
            "--save_path",
        )
    with pytest.raises(UserError, match="another dense model"):
        checkpoints.is_finished(
            path, {"epochs": 3, "learning_rate": 0.1}, DIGITS, "--save_path", dense_sha256=["x"]
        )
    path.with_suffix(".json").unlink()
    assert checkpoints.is_finished(path, {"epochs": 99}, DIGITS, "--save_path"), (
        "a published checkpoint is kept"
    )


class Harmful:
    def __reduce__(self):
        return (os.mkdir, ("harm",))


def spoil(path, how):
    state = torch.load(path, weights_only=True)
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:1000])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "pickle":
        path.write_bytes(pickle.dumps(Harmful()))
    elif how == "other architecture":
        torch.save(models.SupervisedNetwork(16, 1, 0.0, 10).state_dict(), path)
    elif how == "other classes":
        torch.save(models.SupervisedNetwork(10, 1, 0.0, 7).state_dict(), path)
    elif how == "not finite":
        state["base.fc.weight"][0, 0] = float("nan")
        torch.save(state, path)
    elif how == "sparsity":
        state["base.block3.layer.0.conv2.weight"].zero_()
        torch.save(state, path)
    elif how == "list":
        torch.save([1, 2], path)


@pytest.mark.parametrize(
    "how, words",
    [
        ("truncated", "not a readable checkpoint"),
        ("empty", "not a readable checkpoint"),
        ("pickle", "not a readable checkpoint"),
        ("other architecture", "does not fit WideResNet-10-1 with 10 classes"),
        ("other classes", "does not fit WideResNet-10-1 with 10 classes"),
        ("not finite", "not finite"),
        ("sparsity", "at zero, but its name says 0.0"),
        ("list", "holds no state_dict"),
    ],
)
def test_a_spoilt_checkpoint_is_refused_in_one_line(tmp_path, monkeypatch, how, words):
    monkeypatch.chdir(tmp_path)
    path, name, _ = small_checkpoint(tmp_path)
    spoil(path, how)
    with pytest.raises(UserError, match=words) as error:
        checkpoints.load_classifier([path], None, name, SMALL, 10)
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    assert not (tmp_path / "harm").exists()


def test_a_record_that_does_not_belong_to_its_file_is_refused(tmp_path):
    path, name, _ = small_checkpoint(tmp_path)
    spoil(path, "sparsity")
    with pytest.raises(UserError, match="describes another file"):
        checkpoints.read_record(path)
    path.with_suffix(".json").write_text('{"format": 1,')
    with pytest.raises(UserError, match="is damaged"):
        checkpoints.read_record(path)
    path.with_suffix(".json").unlink()
    assert checkpoints.read_record(path) is None


def test_a_head_of_another_format_is_refused(tmp_path):
    encoder = next(GOLDEN_HERE.glob("*_encoder_*.pt"))
    head = tmp_path / next(GOLDEN_HERE.glob("*_head_*.pt")).name
    torch.save({"classifier": {}}, head)
    with pytest.raises(UserError, match="lacks the entry 'head'"):
        checkpoints.load_classifier(
            [encoder, head], None, checkpoints.parse_name(head.name), Architecture(10, 2), 10
        )


def test_a_bare_encoder_and_one_with_its_projection_head_load_alike(tmp_path):
    dense = next(GOLDEN_HERE.glob("*_encoder_*.pt"))
    bare = tmp_path / "bare.pt"
    torch.save({"model": checkpoints.encoder_state(dense)}, bare)
    copied = tmp_path / "copied.pt"
    shutil.copy(dense, copied)
    one, other = checkpoints.encoder_state(bare), checkpoints.encoder_state(copied)
    assert list(one) == list(other) and all(torch.equal(one[key], other[key]) for key in one)


def test_the_bytes_of_a_checkpoint_do_not_depend_on_its_name_or_the_process(tmp_path, monkeypatch):
    payload = {"weight": torch.arange(6.0)}
    checkpoints.save_checkpoint(tmp_path / "one.pt", payload, {}, torch.nn.Module())
    monkeypatch.setattr(checkpoints.os, "getpid", lambda: 12345)
    checkpoints.save_checkpoint(tmp_path / "other name.pt", payload, {}, torch.nn.Module())
    assert (tmp_path / "one.pt").read_bytes() == (tmp_path / "other name.pt").read_bytes()


GLOBAL, LAYER, FILTER = (
    {"scope": scope, "criterion": criterion}
    for scope, criterion in (("global", "magnitude"), ("layer", "magnitude"), ("layer", "filter_l1"))
)


def pruned_network(asked, sparsity):
    torch.manual_seed(0)
    network = models.SupervisedNetwork(10, 1, 0.0, 10)
    torch.nn.init.normal_(network.base.fc.bias)
    scores = {name: torch.rand(weight.shape) for name, weight in pruning.prunable_parameters(network).items()}
    if asked is FILTER:
        scores = {name: pruning.CRITERIA["filter_l1"](score) for name, score in scores.items()}
    pruning.apply_masks(network, pruning.next_masks(scores, sparsity, asked["scope"], asked["criterion"], {}))
    return network


@pytest.mark.parametrize("asked", [GLOBAL, LAYER, FILTER], ids=["global", "layer", "filter"])
@pytest.mark.parametrize("sparsity", [0.3, 0.9, 0.99])
def test_zeros_are_recounted_from_the_saved_file_before_it_has_its_name(tmp_path, asked, sparsity):
    network = pruned_network(asked, sparsity)
    asked = {**asked, "sparsity": sparsity}
    checkpoints.save_checkpoint(tmp_path / "right.pt", checkpoints.cpu_state(network), {}, network, asked)
    assert (tmp_path / "right.pt").exists()
    with torch.no_grad():
        network.base.block3.layer[0].conv2.weight.view(-1)[
            (network.base.block3.layer[0].conv2.weight == 0).view(-1).int().argmax()
        ] = 1.0
    with pytest.raises(UserError, match="zeros in .*, there are"):  # one weight came back
        checkpoints.save_checkpoint(tmp_path / "wrong.pt", checkpoints.cpu_state(network), {}, network, asked)
    state = checkpoints.cpu_state(network)
    state["base.conv1.weight"] = torch.ones_like(state["base.conv1.weight"]) * (
        state["base.conv1.weight"] == 0
    )
    with pytest.raises(UserError, match="zeros of conv1.weight in the file are not those of the network"):
        checkpoints.save_checkpoint(tmp_path / "wrong.pt", state, {}, network)
    assert {path.name for path in tmp_path.iterdir()} == {"right.pt", "right.json"}


def test_files_that_were_pruned_together_are_counted_together(tmp_path):
    torch.manual_seed(0)
    network = models.ContrastiveClassifier(models.WideResNet(10, 1), models.ClassificationHead(64, 10))
    scores = {name: weight.detach().abs() for name, weight in pruning.prunable_parameters(network).items()}
    pruning.apply_masks(network, pruning.global_masks(scores, 0.9))
    encoder, asked = tmp_path / "encoder.pt", {**GLOBAL, "sparsity": 0.9}
    checkpoints.save_checkpoint(encoder, {"model": checkpoints.cpu_state(network.encoder)}, {}, network)
    head = {"head": checkpoints.cpu_state(network.classification_head)}
    checkpoints.save_checkpoint(tmp_path / "head.pt", head, {}, network, asked, (encoder,))
    with pytest.raises(UserError, match="asks for"):
        checkpoints.save_checkpoint(tmp_path / "head alone.pt", head, {}, network, asked)
