"""Earlier models are found by what they are; populations are never mixed."""

import importlib
import json
import shlex
import shutil
from pathlib import Path

import pytest
import torch

from common import models, process, study
from common.cli import UserError
from common.criteria import magnitude
from common.pruning import apply_masks, global_masks, prunable_parameters
from common.settings import Architecture
from common.store import populations, records
from common.store.names import CheckpointName

ROOT = Path(__file__).parent.parent


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def open_study(script, *words):
    flags = (
        importlib.import_module(script)
        .build_parser()
        .parse_args(["--dataset", "digits", "--model_depth", "10", "--widen_factor", "1", *words])
    )
    return next(study.open_studies(script, flags))


def pies(*words, models_number=2, method="sup"):
    return open_study(f"{method}_pie_kmodels_detection", "--models_number", str(models_number), *words)


def save(view, path, name, network, payload, configuration, elsewhere, **more):
    run = process.environment(torch.device("cpu"), 0.0)
    facts = {"seed": name.id, "data": view.data.facts(), "run": run, **more}
    record = records.make_record(name, configuration, network, [], **facts)
    records.save_checkpoint(path, payload, record)
    if elsewhere:
        path.with_suffix(".json").unlink()
    return records.file_sha256(path)


def supervised(
    view,
    ids,
    pruning="dense",
    sparsity=0.0,
    epochs=3,
    dense=None,
    elsewhere=False,
    dense_sha256=None,
    folder=None,
    **configuration,
):
    """Writes checkpoints as the scripts do, without training; returns their configuration."""
    configuration = {
        "epochs": epochs,
        "batch_size": 32,
        **configuration,
        **({"dense": dense} if pruning != "dense" else {}),
    }
    for model_id in ids:
        torch.manual_seed(model_id)
        network = models.SupervisedNetwork(Architecture(10, 1), 10)
        torch.nn.init.ones_(network.base.fc.bias)
        apply_masks(
            network,
            global_masks(
                {key: magnitude(weight) for key, weight in prunable_parameters(network).items()}, sparsity
            ),
        )
        name = CheckpointName(
            "supervised", "supervised", pruning, sparsity, epochs, model_id, widen_factor=1, depth=10
        )
        more = {} if dense_sha256 is None else {"dense_sha256": [dense_sha256[model_id]]}
        save(
            view,
            (folder or view.folder) / str(name),
            name,
            network,
            records.cpu_state(network),
            configuration,
            elsewhere,
            **more,
        )
    return configuration


def test_a_population_is_found_in_the_order_of_its_ids(work):
    view = pies(models_number=12)
    supervised(view, [10, 2, 0, 1, *range(3, 10), 11])
    found = populations.find_population(view, "dense", 0.0)
    assert [member.id for member in found.members] == list(range(12))
    assert found.facts() == {"epochs": 3, "batch_size": 32} and not found.external


def test_models_beyond_the_asked_number_are_left_out(work):
    view = pies()
    supervised(view, range(5))
    assert len(populations.find_population(view, "dense", 0.0).members) == 2


def dense_population(view):
    return populations.find_population(view, "dense", 0.0)


def refusal(view, *kind):
    with pytest.raises(UserError) as error:
        populations.find_population(view, *(kind or ("dense", 0.0)))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_populations_of_other_epochs_are_listed_and_chosen_by_flag(work):
    for epochs in (3, 5):
        supervised(pies(), range(2), epochs=epochs)
    told = refusal(pies())
    assert "several populations fit: " in told and "epochs 3" in told and "epochs 5" in told
    assert told.endswith("choose with --dense_epochs")
    assert dense_population(pies("--dense_epochs", "5")).facts()["epochs"] == 5
    told = refusal(pies("--dense_epochs", "7"))
    assert "--dense_epochs 7" in told and "there are: supervised dense 0.0 (epochs 3" in told


def test_supervised_batch_sizes_are_told_apart_though_the_name_does_not_show_them(work):
    for model_id, size in enumerate((32, 64)):
        supervised(pies(), [model_id], batch_size=size)
    assert "choose with --dense_batch_size" in refusal(pies())
    found = dense_population(pies("--dense_batch_size", "64", "--allow_missing"))
    assert [member.id for member in found.members] == [1]


def test_what_no_flag_chooses_is_named(work):
    for model_id, rate in enumerate((0.1, 0.2)):
        supervised(pies(), [model_id], learning_rate=rate)
    assert "differ in learning_rate: move one into a folder of its own" in refusal(pies())


def test_missing_ids_are_an_error_unless_allowed(work):
    supervised(pies(), [0, 3])
    told = refusal(pies(models_number=6))
    assert (
        "ids 1-2, 4-5 are missing; train them" in told and "or give a smaller --models_number or --" in told
    )
    assert len(dense_population(pies("--allow_missing", models_number=6)).members) == 2
    told = refusal(open_study("sup_pruning_finetune", "--models_number", "4"))
    assert told.endswith("or give a smaller --models_number")


@pytest.mark.parametrize("method", ["sup", "clr"])
def test_a_deleted_json_is_named_where_the_others_have_one(work, method):
    view = pies(models_number=3, method=method)
    (supervised if method == "sup" else contrastive)(view, range(3))
    sorted(view.folder.glob("*_id1.json"))[-1].unlink()
    told = refusal(view)
    assert "several populations fit: " in told and "external), ids 1;" in told
    assert told.endswith("have no JSON: put it back where it is lost, or move them away")


def test_missing_networks_are_trained_by_the_command_that_trained_the_others_each_flag_once(
    work, monkeypatch
):
    words = "sup_training.py --dataset digits --index_start 0 --index_end=1 --threads 3 --save_path 'my own'"
    monkeypatch.setattr("sys.argv", shlex.split(words + " --threads 2 --normalization 0,0,0 1,1,1"))
    supervised(pies(), [0, 3])
    command = refusal(pies(models_number=6)).split("train them: ")[1].split(", or")[0]
    assert command == (
        "python sup_training.py --dataset digits --index_start 1 --index_end 5 --threads 2 "
        "--save_path 'my own' --normalization 0,0,0 1,1,1"
    )
    importlib.import_module("sup_training").build_parser().parse_args(shlex.split(command)[2:])


def test_the_command_of_a_record_has_its_threads(work, monkeypatch):
    monkeypatch.setattr("sys.argv", ["sup_training.py", "--dataset", "digits"])
    supervised(pies(), range(2))
    for path in pies().folder.glob("*.json"):
        record = json.loads(path.read_text())
        path.write_text(json.dumps({**record, "run": {**record["run"], "threads": 7}}))
    assert "python sup_training.py --dataset digits --threads 7 --index_start" in refusal(
        pies(models_number=3)
    )


def test_where_no_command_is_known_the_script_is_named(work):
    dense = supervised(pies(), range(2))
    supervised(pies(), [0], "later_GMP_snip", 0.5, dense=dense)
    supervised(pies(), [0], "global", 0.5, dense=dense, epochs=1)
    found = dense_population(pies())
    assert "ids 1 are missing; train them with sup_training.py" in refusal(
        pies(), "later_GMP_snip", 0.5, found
    )
    assert "train them with sup_pruning_finetune.py" in refusal(pies(), "global", 0.5, found)


def test_a_kind_of_which_no_model_exists_is_absent(work):
    view = pies()
    dense = supervised(view, range(2))
    population = populations.find_population(view, "dense", 0.0)
    assert populations.find_population(view, "global", 0.5, population) is None
    supervised(view, range(2), "global", 0.5, epochs=2, dense=dense)
    assert populations.find_population(view, "global", 0.5, population) is not None
    assert populations.find_population(view, "global", 0.9, population) is None
    assert populations.find_population(view, "GMP", 0.5, population) is None


def test_pruned_models_follow_their_dense_population(work):
    view = pies("--dense_epochs", "3")
    three, five = (supervised(view, range(2), epochs=epochs) for epochs in (3, 5))
    dense = populations.find_population(view, "dense", 0.0)
    supervised(view, range(2), "global", 0.5, epochs=2, dense=five)
    with pytest.raises(UserError, match="pruned from other dense networks"):
        populations.find_population(view, "global", 0.5, dense)
    supervised(view, range(2), "global", 0.5, epochs=4, dense=three)
    assert populations.find_population(view, "global", 0.5, dense).facts()["epochs"] == 4
    supervised(view, range(2), "global", 0.5, epochs=6, dense=three)
    with pytest.raises(UserError, match="choose with --finetune_epochs"):
        populations.find_population(view, "global", 0.5, dense)
    chosen = pies("--dense_epochs", "3", "--finetune_epochs", "6")
    assert populations.find_population(chosen, "global", 0.5, dense).facts()["epochs"] == 6


def test_a_dense_model_trained_again_is_noticed(work):
    view = pies()
    configuration = supervised(view, range(2))
    dense = populations.find_population(view, "dense", 0.0)
    checksums = {member.id: member.checksums[0] for member in dense.members}
    supervised(view, range(2), "global", 0.5, epochs=2, dense=configuration, dense_sha256=checksums)
    populations.find_population(view, "global", 0.5, dense)
    supervised(
        view,
        range(2),
        "global",
        0.5,
        epochs=2,
        dense=configuration,
        dense_sha256={0: checksums[1], 1: checksums[0]},
    )
    with pytest.raises(UserError, match="made from another dense model"):
        populations.find_population(view, "global", 0.5, dense)


UNLIKE = "none with the settings of the one-shot networks"


@pytest.mark.parametrize(
    "another, gone, origin, expected",
    [
        ({}, "", None, 2),  # the control of 2 epochs, not that of 5
        ({"epochs": 2}, "", None, 2),
        ({"epochs": 2, "elsewhere": True}, "", None, 2),
        ({"epochs": 2, "precision": "bfloat16"}, "", None, UNLIKE),
        ({"epochs": 5}, "", None, UNLIKE),
        ({"epochs": 4, "elsewhere": True}, "", None, UNLIKE),
        ({}, "*finetuned*id1.*", None, "ids 1 are missing; train them with sup_pruning_finetune.py"),
        ({}, "*finetuned*", None, "--pruning_percentages 0.0 makes one"),
        ({}, "", "of another network", "made from another dense model"),
    ],
)
def test_the_control_of_one_shot_networks_is_finetuned_from_the_same_ones_with_the_same_settings(
    work, capsys, another, gone, origin, expected
):
    """another: settings of a second one-shot population; origin: what the controls come from."""
    view = pies()
    configuration = supervised(view, range(2))
    dense = populations.find_population(view, "dense", 0.0)
    checksums = {member.id: member.checksums[0] for member in dense.members}
    shared = {"dense": configuration, "dense_sha256": checksums}
    of_controls = shared | ({"dense_sha256": dict.fromkeys(range(2), origin)} if origin else {})
    for epochs in (2, 5):
        supervised(view, range(2), "finetuned", 0.0, epochs=epochs, **of_controls)
    for path in view.folder.glob(gone or "none"):
        path.unlink()
    one_shot = []
    for scope, settings in (("global", {"epochs": 2}), ("layer", another)):
        if settings:
            supervised(view, range(2), scope, 0.5, criterion="magnitude", scope=scope, **shared, **settings)
            one_shot.append(populations.find_population(view, scope, 0.5, dense))
    capsys.readouterr()
    control = populations.find_control(view, dense, one_shot)
    [line] = [line for line in capsys.readouterr().out.splitlines() if "finetuned" in line]
    if expected == 2:
        assert (control.pruning_method, control.facts()["epochs"]) == ("finetuned", 2)
        assert line.startswith("finetuned networks: ")
    else:
        assert control is None and line.startswith("no finetuned control: ") and expected in line


@pytest.mark.parametrize(
    "flags",
    ["--widen_factor 2", "--model_depth 16", "--dropout 0.1"],
)
def test_networks_of_another_architecture_are_not_taken_but_named(work, flags):
    supervised(pies(), range(2))
    told = refusal(pies(*flags.split()))
    assert r"there are: wideResNet-1_0.0pruning_3epochs_10depth_0.0dropout_id*.pt; " in told


@pytest.mark.parametrize(
    "flags", ["--model_depth 16", "--projection_head linear", "--temperature 0.1", "--encoder_name Net"]
)
def test_contrastive_networks_of_another_name_are_not_taken_but_named(work, flags):
    contrastive(pies(method="clr"), range(2))
    assert "WideResNet-10-1_encoder_SupCon_0.0pruning_64batch_0.5" in refusal(
        pies(*flags.split(), method="clr")
    )


def test_encoders_without_heads_are_not_called_absent(work):
    view = pies(method="clr")
    contrastive(view, range(2))
    dense = populations.find_population(view, "dense", 0.0)
    path = next(view.folder.glob("*encoder*id0.pt"))
    path.with_name(
        "WideResNet-10-1_encoder_SupCon_0.5pruning_global_128batch_0.5temperature_2epochs_id0.pt"
    ).write_bytes(path.read_bytes())
    with pytest.raises(UserError, match="without classifier heads in .*--head_save_path"):
        populations.find_population(view, "global", 0.5, dense)


def test_dense_networks_are_found_in_the_default_folder_for_pruned_ones_in_their_own(work):
    configuration = supervised(pies(), range(2))
    view = pies("--save_path", "own")
    dense = populations.find_population(view, "dense", 0.0)
    assert len(dense.members) == 2 and dense.members[0].paths[0].parent == view.default_folder
    supervised(view, range(2), "global", 0.5, epochs=2, dense=configuration, folder=work / "own")
    assert populations.find_population(view, "global", 0.5, dense) is not None


def test_a_forgotten_head_folder_is_said_and_no_other_dense_networks_are_taken(work):
    contrastive(pies(method="clr"), range(2))
    elsewhere = pies("--encoder_save_path", "own", "--head_save_path", "heads", method="clr")
    contrastive(elsewhere, range(2), encoder_epochs=7)
    assert populations.find_population(elsewhere, "dense", 0.0).facts()["epochs"] == 7
    with pytest.raises(UserError, match="is without classifier heads in own .--head_save_path."):
        populations.find_population(pies("--encoder_save_path", "own", method="clr"), "dense", 0.0)


def test_dropout_is_part_of_the_architecture_though_contrastive_names_do_not_show_it(work):
    view = pies(method="clr")
    contrastive(view, range(2), dropout=0.3)
    with pytest.raises(UserError, match="no SupCon models"):
        populations.find_population(view, "dense", 0.0)
    assert len(populations.find_population(pies("--dropout", "0.3", method="clr"), "dense", 0.0).members) == 2


def test_models_of_other_data_are_refused(work):
    view = pies()
    supervised(view, range(2))
    for path in view.folder.glob("*.json"):
        record = json.loads(path.read_text())
        record["data"]["train_checksum"] = "0" * 64
        path.write_text(json.dumps(record))
    with pytest.raises(UserError, match="other training images"):
        populations.find_population(view, "dense", 0.0)


def test_models_without_a_record_are_external_and_never_mixed_with_ours(work):
    view = pies()
    supervised(view, range(2), elsewhere=True)
    found = populations.find_population(view, "dense", 0.0)
    assert found.external and "external" in str(found)
    supervised(view, [1])
    with pytest.raises(UserError, match="several populations fit: .*have no JSON: put it back"):
        populations.find_population(view, "dense", 0.0)


def test_another_folder_is_read_by_flag(work):
    view = pies()
    supervised(view, range(2), folder=work / "mine")
    with pytest.raises(UserError, match="no supervised models"):
        populations.find_population(view, "dense", 0.0)
    assert len(populations.find_population(pies("--save_path", "mine"), "dense", 0.0).members) == 2


def contrastive(
    view, ids, encoder_epochs=3, head_epochs=2, batch_size=64, temperature=0.5, elsewhere=False, dropout=0.0
):
    for model_id in ids:
        torch.manual_seed(100 * encoder_epochs + model_id)
        model = models.ContrastiveEncoder(Architecture(10, 1))
        head = models.ClassificationHead(64, 10)
        shared = dict(
            learning_method="SupCon",
            pruning_method="dense",
            sparsity=0.0,
            id=model_id,
            encoder_name="WideResNet-10-1",
            batch_size=batch_size,
            temperature=temperature,
        )
        encoder_name = CheckpointName(part="encoder", epochs=encoder_epochs, **shared)
        head_name = CheckpointName(part="head", epochs=head_epochs, **shared)
        configuration = {"epochs": encoder_epochs, "batch_size": batch_size, "dropout": dropout}
        sha256 = save(
            view,
            view.folder / str(encoder_name),
            encoder_name,
            model.encoder,
            {"model": records.cpu_state(model)},
            configuration,
            elsewhere,
        )
        save(
            view,
            view.head_folder / str(head_name),
            head_name,
            models.ContrastiveClassifier(model.encoder, head),
            {"head": records.cpu_state(head)},
            {**configuration, "head_epochs": head_epochs},
            elsewhere,
            encoder_sha256=sha256,
        )


def test_encoders_and_heads_pair_by_id_batch_and_origin(work):
    view = pies(method="clr")
    contrastive(view, range(2))
    found = populations.find_population(view, "dense", 0.0)
    assert found.facts() == {"epochs": 3, "batch_size": 64, "head_epochs": 2}
    assert all(member.names[0].id == member.names[1].id for member in found.members)
    contrastive(view, range(2), head_epochs=4)
    with pytest.raises(UserError, match="choose with --dense_head_epochs"):
        populations.find_population(view, "dense", 0.0)


def test_a_head_is_not_paired_with_an_encoder_that_it_was_not_trained_on(work):
    view = pies(method="clr")
    contrastive(view, range(2), encoder_epochs=3)
    encoders = list(view.folder.glob("*encoder*"))
    contrastive(view, range(2), encoder_epochs=5)  # the heads of both have one name: these replace the others
    assert len(encoders) == 4 and populations.find_population(view, "dense", 0.0).facts()["epochs"] == 5


def test_heads_may_lie_in_a_folder_of_their_own(work):
    view = pies("--head_save_path", "heads", method="clr")
    contrastive(view, range(2))
    assert len(list((work / "heads").glob("*_head_*.pt"))) == 2
    assert len(populations.find_population(view, "dense", 0.0).members) == 2


def test_every_total_seed_has_its_own_folders_and_seeds(work):
    flags = (
        importlib.import_module("sup_training")
        .build_parser()
        .parse_args(["--dataset", "digits", "--total_seed", "3"])
    )
    views = list(study.open_studies("sup_training", flags))
    assert [str(view.folder) for view in views] == [
        "models/digits",
        "models/digits/seed_1",
        "models/digits/seed_2",
    ]
    assert [str(view.results_folder) for view in views] == [
        "pies/digits",
        "pies/digits/seed_1",
        "pies/digits/seed_2",
    ]
    assert len({view.model_seed(model_id) for view in views for model_id in range(30)}) == 90
    assert [views[0].model_seed(model_id) for model_id in range(3)] == [0, 1, 2]


def test_ids_are_shown_as_runs():
    assert populations.show_ids([3, 0, 1, 2, 7, 9, 10]) == "0-3, 7, 9-10"
    assert populations.show_ids([]) == ""


@pytest.mark.parametrize("elsewhere", [False, True])
def test_one_network_under_two_ids_is_no_population(work, elsewhere):
    view = pies(models_number=3)
    supervised(view, range(3), elsewhere=elsewhere)
    first, last = (
        view.folder / f"wideResNet-1_0.0pruning_3epochs_10depth_0.0dropout_id{index}.pt" for index in (0, 2)
    )
    shutil.copy(first, last)
    if not elsewhere:
        record = json.loads(first.with_suffix(".json").read_text())
        last.with_suffix(".json").write_text(json.dumps({**record, "seed": 2}))
    with pytest.raises(UserError, match="id2.pt has the same weights as .*id0.pt"):
        populations.find_population(view, "dense", 0.0)


@pytest.mark.parametrize("method, elsewhere", [("sup", False), ("clr", False), ("clr", True)])
def test_one_network_that_was_written_again_under_another_id_is_no_population(work, method, elsewhere):
    """By other bytes, and with a JSON that was made to fit, or none."""
    view = pies(models_number=3, method=method)
    (supervised if method == "sup" else contrastive)(view, range(3), elsewhere=elsewhere)
    for first in sorted(view.folder.glob("*_id0.pt")):
        last = first.with_name(first.name.replace("_id0", "_id2"))
        torch.save(torch.load(first, weights_only=True), last)
        assert last.read_bytes() != first.read_bytes()
        if not elsewhere:
            record = json.loads(first.with_suffix(".json").read_text())
            record |= {"seed": 2, "checkpoint_sha256": records.file_sha256(last)}
            if "head" in first.name:
                record["encoder_sha256"] = records.file_sha256(next(view.folder.glob("*encoder*_id2.pt")))
            last.with_suffix(".json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="id2.pt has the same weights as .*id0.pt"):
        populations.find_population(view, "dense", 0.0)


def test_of_many_networks_none_is_read_whole_to_tell_them_apart(work, monkeypatch):
    view = pies(models_number=6)
    supervised(view, range(6))
    monkeypatch.setattr(records, "read_payload", lambda path: pytest.fail("read whole"))
    assert len(populations.find_population(view, "dense", 0.0).members) == 6


def test_two_networks_of_one_seed_are_no_population(work):
    view = pies()
    supervised(view, range(2))
    path = view.folder / "wideResNet-1_0.0pruning_3epochs_10depth_0.0dropout_id1.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "seed": 0}))
    with pytest.raises(UserError, match="id1.pt has the same seed as .*id0.pt"):
        populations.find_population(view, "dense", 0.0)


def test_networks_of_different_code_are_no_population_unless_that_is_asked_for(work, capsys):
    view = pies()
    supervised(view, range(2))
    path = view.folder / "wideResNet-1_0.0pruning_3epochs_10depth_0.0dropout_id1.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "code": {**record["code"], "training": "of another day"}}))
    with pytest.raises(UserError, match="id1.pt was made by other code of training; give --other_code"):
        populations.find_population(view, "dense", 0.0)
    asked = pies("--other_code")
    assert len(populations.find_population(asked, "dense", 0.0).members) == 2
    assert "made by other code of training" in capsys.readouterr().out
