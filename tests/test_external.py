"""Networks that others trained, and data that changed: networks are evaluated as they were trained."""

import shutil

import pytest
import torch
from conftest import GOLDEN_HERE, read_csv, write_few_digits
from test_scripts import main, run_here

from common import losses
from common.cli import log_once
from common.store import records
from common.store.names import Architecture, CheckpointName

DATA = "--dataset folder --data_dir few --model_depth 10 --widen_factor 1 --threads 1".split()
OTHERS = ["--normalization", "0.4914,0.4822,0.4465", "0.2023,0.1994,0.2010"]
TRAINING = "--epochs 1 --batch_size 32 --learning_rate 0.05 --index_end 1".split()
PRUNING = "--models_number 2 --epochs 1 --pruning_percentages 0.5".split()
PIES = "--models_number 2 --pruning_methods global --pruning_percentages 0.5".split()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with data and two dense networks of others, trained on differently normalised pixels."""
    folder = tmp_path_factory.mktemp("world")
    write_few_digits(folder / "few")
    run_here("sup_training", *DATA, *TRAINING, *OTHERS, "--save_path", "theirs", cwd=folder)
    for record in folder.glob("theirs/*.json"):
        record.rename(record.with_suffix(".record"))
    return folder


@pytest.fixture
def work(world, tmp_path, monkeypatch):
    shutil.copytree(world, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def table(folder):
    return read_csv(folder / "pies/few/results.csv")


def test_networks_are_evaluated_with_the_given_normalization_everywhere(work, capsys):
    theirs = ["--save_path", "theirs"]
    assert main("sup_pruning_finetune", *DATA, *PRUNING, *OTHERS, *theirs) == 0
    assert "pixels normalised by mean 0.4914,0.4822,0.4465" in capsys.readouterr().out
    assert main("sup_pie_kmodels_detection", *DATA, *PIES, *OTHERS, *theirs) == 0
    log = (work / "logs/few/sup_training.log").read_text().split("test accuracy ")[1:]
    dense = next(row for row in table(work) if row["pruning_method"] == "dense")
    trained = sum(float(part.split("%")[0]) for part in log) / len(log) / 100
    assert float(dense["accuracy_mean"]) == pytest.approx(trained, abs=1e-4)
    assert all(row["normalization"].startswith("mean 0.4914,") for row in table(work))
    another = ["--normalization", "0.5,0.5,0.5", "0.5,0.5,0.5"]
    assert main("sup_prediction_depth", *DATA, *PIES, *another, *theirs) == 2
    assert (
        "normalization [[0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.201]], not [[0.5"
        in capsys.readouterr().err
    )
    assert main("sup_pruning_finetune", *DATA, *PRUNING, *theirs) == 2
    assert "different settings (normalization" in capsys.readouterr().err


def test_without_a_record_or_the_flag_the_normalization_in_use_is_told(work, capsys):
    log_once.cache_clear()
    assert main("sup_pruning_finetune", *DATA, *PRUNING, "--save_path", "theirs") == 0
    assert "pixels for external networks are normalised by mean" in capsys.readouterr().out


def test_trained_here_the_normalization_is_in_the_record(work, capsys):
    for record in work.glob("theirs/*.record"):
        record.rename(record.with_suffix(".json"))
    assert main("sup_pruning_finetune", *DATA, *PRUNING, "--save_path", "theirs") == 2
    assert "normalization [[0.4914, 0.4822, 0.4465]" in capsys.readouterr().err


def test_one_test_image_more_leaves_trained_networks_valid(work, capsys):
    training = [*DATA, *TRAINING]
    assert main("sup_training", *training) == 0
    assert main("sup_pruning_finetune", *DATA, *PRUNING) == 0
    before = {path: path.read_bytes() for path in work.glob("models/**/*.pt")}
    folder = work / "few/test/digit 0"
    shutil.copy(next(folder.iterdir()), folder / "one_more.png")
    assert main("sup_training", *training) == 0
    assert "finished before: 2 of 2" in capsys.readouterr().out
    assert main("sup_pruning_finetune", *DATA, *PRUNING) == 0
    assert main("sup_pie_kmodels_detection", *DATA, *PIES) == 0
    assert "the test images have changed since the training" in capsys.readouterr().out
    assert before == {path: path.read_bytes() for path in work.glob("models/**/*.pt")}
    shutil.copy(next(folder.iterdir()), work / "few/train/digit 0/one_more.png")
    assert main("sup_training", *training) == 2
    assert "different training images" in capsys.readouterr().err
    assert main("sup_pie_kmodels_detection", *DATA, *PIES) == 2
    assert "different training images" in capsys.readouterr().err


def dense_states():
    files = (next(GOLDEN_HERE.glob(f"{start}*.pt")) for start in ("wideResNet_", "*_encoder_", "*_head_"))
    return [torch.load(path, weights_only=True) for path in files]


def prefixed(state, *prefixes):
    for prefix in prefixes:
        state = {prefix + name: tensor for name, tensor in state.items()}
    return state


SUPERVISED, ENCODER, HEAD = dense_states()
FORMS = {
    "published": (SUPERVISED, ENCODER, HEAD),
    "DataParallel": (prefixed(SUPERVISED, "module."), {"model": prefixed(ENCODER["model"], "module.")}, HEAD),
    "compiled, nested": (
        {"epoch": 3, "state_dict": {"model": prefixed(SUPERVISED, "module.", "_orig_mod.")}},
        {"state_dict": prefixed(ENCODER["model"], "model.")},
        {"classifier": prefixed(HEAD["head"], "module.")},
    ),
    "no prefix": (
        {name.removeprefix("base."): tensor for name, tensor in SUPERVISED.items()},
        # SupContrast's: DataParallel inside the encoder
        {
            "model": {
                name.replace("encoder.", "encoder.module."): tensor
                for name, tensor in ENCODER["model"].items()
            }
        },
        {name.removeprefix("fc."): tensor for name, tensor in HEAD["head"].items()},
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_checkpoints_load_whatever_frameworks_wrap_them_in(tmp_path, form):
    paths = [tmp_path / f"{place}.pt" for place in range(3)]
    for path, payload in zip(paths, FORMS[form]):
        torch.save(payload, path)
    for files in (paths[:1], paths[1:]):
        name = CheckpointName("supervised", "supervised", "dense", 0.0, 1, 0)
        network = records.load_classifier(files, None, name, Architecture(10, 2), 10)
        weight = network.state_dict()[("base." if len(files) == 1 else "classification_head.") + "fc.weight"]
        assert torch.equal(
            weight, SUPERVISED["base.fc.weight"] if len(files) == 1 else HEAD["head"]["fc.weight"]
        )
    torch.save(SUPERVISED, tmp_path / "again.pt")
    first, second = map(records.tensor_checksums, (paths[0], tmp_path / "again.pt"))
    assert first == second, "one network in two forms"


def test_a_loss_is_added_by_one_entry_and_trains_under_its_name(tmp_path, monkeypatch, capsys):
    def squared_distance(features, labels, temperature, base_temperature):
        return (features[:, 0] - features[:, 1]).square().sum(1).mean() / temperature

    monkeypatch.setitem(losses.LOSSES, "Alignment", losses.Loss(squared_distance, lambda views, *_: 0.0))
    monkeypatch.chdir(tmp_path)
    write_few_digits(tmp_path / "few")
    method = [*DATA, "--method", "Alignment"]
    training = "--epochs 2 --batch_size 32 --head_epochs 1 --index_end 1 --pruning_percentages 0.0".split()
    assert main("clr_training", *method, *training) == 0
    loss = float(capsys.readouterr().out.split("encoder: 2 epochs, loss ")[1].split()[0])
    assert 0 <= loss <= 8, "a squared distance of unit vectors is at most 4, over a temperature of 0.5"
    assert len([*tmp_path.glob("models/few/*_encoder_Alignment_*.pt")]) == 2
    assert main("clr_pruning_finetune", *method, *PRUNING) == 0
    assert main("clr_pie_kmodels_detection", *method, *PIES) == 0
    assert {row["learning_method"] for row in table(tmp_path)} == {"Alignment"}
