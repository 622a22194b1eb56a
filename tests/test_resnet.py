"""ResNet-18, the second backbone: torchvision's numbers and names, through all eight scripts."""

import dataclasses
from pathlib import Path

import pytest
import torch
import torchvision
from conftest import read_csv, write_few_digits
from test_scripts import main

from common import models
from common.settings import Architecture
from common.store import names, records
from common.store.names import CheckpointName

DATA = "--dataset folder --data_dir few --threads 1 --architecture resnet18".split()
RESNET = Architecture(architecture="resnet18")
NAME = CheckpointName(
    "supervised", "supervised", "dense", 0.0, 1, 0, depth=18, widen_factor=2, architecture="resnet18"
)


@pytest.fixture(scope="module")
def theirs():
    torch.manual_seed(0)
    network = torchvision.models.resnet18(num_classes=3)
    network.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)
    network.maxpool = torch.nn.Identity()
    return network.eval()


def test_torchvisions_weights_give_torchvisions_numbers(tmp_path, theirs):
    assert str(NAME) == "resnet18_0.0pruning_1epochs_18depth_0.0dropout_id0.pt"
    pattern = dataclasses.replace(NAME, epochs="*", id="*")
    assert names.name_of(Path(str(NAME)), pattern) == NAME
    torch.save(
        {"state_dict": {f"module.{k}": v for k, v in theirs.state_dict().items()}}, tmp_path / str(NAME)
    )
    network = records.load_classifier([tmp_path / str(NAME)], None, NAME, RESNET, 3)
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(network(images), theirs(images))
        # The probes at the ends of the blocks are the means of what torchvision's groups give.
        x, places = theirs.relu(theirs.bn1(theirs.conv1(images))), network.representations(images)
        torch.testing.assert_close(places["relu"], x.mean((2, 3)))
        for group in range(1, 5):
            x = getattr(theirs, f"layer{group}")(x)
            torch.testing.assert_close(places[f"layer{group}.1.sum"], x.mean((2, 3)))
    assert len(places) == 17


def test_the_projection_head_is_512_512_128():
    head = models.ContrastiveEncoder(RESNET).head
    assert [tuple(layer.weight.shape) for layer in (head[0], head[2])] == [(512, 512), (128, 512)]


def test_all_eight_scripts_take_it(tmp_path, monkeypatch, unsaved_figures):
    monkeypatch.chdir(tmp_path)
    write_few_digits(tmp_path / "few")
    training = "--epochs 1 --batch_size 32 --index_end 0".split()
    compared = "--models_number 1 --pruning_methods global --pruning_percentages 0.9".split()
    assert main("sup_training", *DATA, *training) == 0
    assert main("clr_training", *DATA, *training, "--head_epochs", "1", "--pruning_percentages", "0.0") == 0
    for method in ("sup", "clr"):
        pruning = "--models_number 1 --epochs 1 --pruning_percentages 0.9".split()
        assert main(f"{method}_pruning_finetune", *DATA, *pruning) == 0
        assert main(f"{method}_pie_kmodels_detection", *DATA, *compared) == 0
        assert main(f"{method}_prediction_depth", *DATA, *compared) == 0
    files = {path.name for path in tmp_path.glob("models/few/*.pt")}
    assert "resnet18_encoder_SupCon_0.9pruning_global_128batch_0.5temperature_1epochs_id0.pt" in files
    assert len(files) == 6 and all(name.startswith("resnet18_") for name in files)
    rows = read_csv(tmp_path / "pies/few/results.csv")
    assert {row["architecture"] for row in rows} == {"resnet18"} and len(rows) == 4
    assert all(0 <= float(row["depth_all"]) <= 17 for row in rows)
