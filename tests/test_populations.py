"""Earlier models are found by what they are; populations are never mixed."""

import importlib
import json
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from common import comparison, models, process, study
from common.cli import UserError
from common.criteria import magnitude
from common.methods import parse_method
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
    records.save_checkpoint(path, payload, name, configuration, network, **facts)
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
    }
    if pruning != "dense":
        configuration["dense"] = dense
    for model_id in ids:
        torch.manual_seed(model_id)
        network = models.SupervisedNetwork(Architecture(10, 1), 10)
        torch.nn.init.ones_(network.base.fc.bias)
        scores = {key: magnitude(weight) for key, weight in prunable_parameters(network).items()}
        apply_masks(network, global_masks(scores, sparsity))
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


def test_a_population_is_found_in_the_order_of_its_ids_below_the_number_asked_for(work):
    view = pies(models_number=12)
    supervised(view, [10, 2, 0, 1, *range(3, 10), 11])
    found = dense_population(view)
    assert [member.id for member in found.members] == list(range(12))
    assert found.facts() == {"epochs": 3, "batch_size": 32} and not found.external
    assert len(dense_population(pies()).members) == 2


def dense_population(view):
    return populations.find_population(view, "dense", 0.0)


def refusal(view, *kind):
    with pytest.raises(UserError) as error:
        populations.find_population(view, *(kind or ("dense", 0.0)))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "setting, values, remedy",
    [
        ("epochs", (3, 5), "select one with --dense_epochs"),
        ("batch_size", (32, 64), "select one with --dense_batch_size"),  # which no name shows
        ("learning_rate", (0.1, 0.2), "differ in learning_rate: move one into a separate folder"),
    ],
)
def test_populations_of_other_settings_are_listed_and_chosen_by_flag(work, setting, values, remedy):
    for model_id, value in enumerate(values):
        supervised(pies(), [model_id], **{setting: value})
    told = refusal(pies())
    assert "several populations fit: " in told and remedy in told
    if "--" in remedy:
        chosen = pies(remedy.split()[-1], str(values[1]), "--allow_missing")
        assert [member.id for member in dense_population(chosen).members] == [1]
        told = refusal(pies(remedy.split()[-1], "7"))
        assert f"{remedy.split()[-1]} 7" in told and "found: supervised dense 0.0 (epochs 3" in told


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
    assert told.endswith("have no JSON: restore it if it was lost, or move them away")


def test_missing_networks_are_trained_by_the_command_that_trained_the_others_each_flag_once(
    work, monkeypatch
):
    words = "sup_training.py --dataset digits --index_start 0 --index_end=1 --save_path first"
    monkeypatch.setattr("sys.argv", shlex.split(words + " --save_path 'my own' --normalization 0,0,0 1,1,1"))
    supervised(pies(), [0, 3])
    command = refusal(pies(models_number=6)).split("train them: ")[1].split(", or")[0]
    threads = torch.get_num_threads()  # on which the bytes of a network depend
    assert command == (
        "python sup_training.py --dataset digits --index_start 1 --index_end 5 --save_path 'my own' "
        f"--normalization 0,0,0 1,1,1 --threads {threads}"
    )
    importlib.import_module("sup_training").build_parser().parse_args(shlex.split(command)[2:])


def test_where_no_command_is_known_the_script_is_named(work):
    dense = supervised(pies(), range(2))
    supervised(pies(), [0], "later_GMP_snip", 0.5, dense=dense)
    supervised(pies(), [0], "global", 0.5, dense=dense, epochs=1)
    found = dense_population(pies())
    assert "ids 1 are missing; train them with sup_training.py" in refusal(
        pies(), "later_GMP_snip", 0.5, found
    )
    assert "train them with sup_pruning_finetune.py" in refusal(pies(), "global", 0.5, found)


def test_pruned_models_follow_their_dense_population(work):
    view = pies("--dense_epochs", "3")
    three, five = (supervised(view, range(2), epochs=epochs) for epochs in (3, 5))
    dense = dense_population(view)
    assert populations.find_population(view, "global", 0.5, dense) is None
    supervised(view, range(2), "global", 0.5, epochs=2, dense=five)
    assert populations.find_population(view, "global", 0.9, dense) is None
    assert "were not pruned from the selected dense networks" in refusal(view, "global", 0.5, dense)
    supervised(view, range(2), "global", 0.5, epochs=4, dense=three)
    assert populations.find_population(view, "global", 0.5, dense).facts()["epochs"] == 4
    supervised(view, range(2), "global", 0.5, epochs=6, dense=three)
    assert "select one with --finetune_epochs" in refusal(view, "global", 0.5, dense)
    chosen = pies("--dense_epochs", "3", "--finetune_epochs", "6")
    assert populations.find_population(chosen, "global", 0.5, dense).facts()["epochs"] == 6
    for path in view.folder.glob("*_0.0pruning*.json"):
        path.unlink()
    assert "have none; restore it" in refusal(chosen, "global", 0.5, dense_population(view))


@pytest.mark.parametrize(
    "another, gone, origin, expected",
    [
        ({}, "", None, 2),  # the control of 2 epochs, not that of 5
        ({"epochs": 2}, "", None, 2),
        ({"epochs": 2, "precision": "bfloat16"}, "", None, 2),
        ({"epochs": 4, "elsewhere": True}, "", None, 2),
        ({"epochs": 5}, "", None, "several"),
        ({}, "*finetuned*id1.*", None, "ids 1 are missing; train them with sup_pruning_finetune.py"),
        ({}, "*finetuned*", None, "--pruning_percentages 0.0 and the one-shot"),
        ({}, "", "of another network", "made from a different dense model"),
    ],
)
def test_the_control_of_one_shot_networks_is_finetuned_from_the_same_ones_with_the_same_settings(
    work, capsys, another, gone, origin, expected
):
    """another: settings of a second one-shot population; origin: what the controls come from."""
    view = pies()
    configuration = supervised(view, range(2))
    dense = dense_population(view)
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


def test_dense_networks_are_found_in_the_default_folder_for_pruned_ones_in_their_own(work, monkeypatch):
    monkeypatch.setattr("sys.argv", ["sup_training.py"])
    configuration = supervised(pies(), range(2))
    view = pies("--save_path", "own")
    dense = dense_population(view)
    assert len(dense.members) == 2 and dense.members[0].paths[0].parent == view.default_folder
    supervised(view, range(2), "global", 0.5, epochs=2, dense=configuration, folder=work / "own")
    assert populations.find_population(view, "global", 0.5, dense) is not None
    told = refusal(pies("--save_path", "own", models_number=3))
    assert "ids 2 are missing; train them: " in told and "--save_path" not in told


def test_parts_of_contrastive_networks_that_are_pruned_together_have_their_time_once(work):
    run = {"seconds": 2.0}
    member = SimpleNamespace(record={"run": run}, external=False)
    population = SimpleNamespace(records=[{"run": run}, member.record], members=[member])
    for name, seconds in {"dense": 4, "GMP": 4, "global": 2, "global_iterative0.2_rewind0": 2}.items():
        population.method = parse_method(name)
        assert comparison.runs(population)["seconds"] == seconds


def test_a_forgotten_head_folder_is_said_and_no_other_dense_networks_are_taken(work):
    contrastive(pies(method="clr"), range(2))
    elsewhere = pies("--encoder_save_path", "own", "--head_save_path", "heads", method="clr")
    contrastive(elsewhere, range(2), encoder_epochs=7)
    assert dense_population(elsewhere).facts()["epochs"] == 7
    told = refusal(pies("--encoder_save_path", "own", method="clr"))
    assert "has no classifier head in own (--head_save_path)" in told
    contrastive(pies("--head_save_path", "heads", method="clr"), range(2), encoder_epochs=8)
    apart = pies("--encoder_save_path", "new", "--head_save_path", "heads", method="clr")
    assert dense_population(apart).facts()["epochs"] == 8


def test_dropout_is_part_of_the_architecture_though_contrastive_names_do_not_show_it(work):
    view = pies(method="clr")
    contrastive(view, range(2), dropout=0.3)
    assert "no SupCon models" in refusal(view)
    assert len(dense_population(pies("--dropout", "0.3", method="clr")).members) == 2


def test_models_without_a_record_are_external(work):
    view = pies()
    supervised(view, range(2), elsewhere=True)
    found = dense_population(view)
    assert found.external and "external" in str(found)


def contrastive(view, ids, encoder_epochs=3, head_epochs=2, elsewhere=False, dropout=0.0):
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
            batch_size=64,
            temperature=0.5,
        )
        encoder_name = CheckpointName(part="encoder", epochs=encoder_epochs, **shared)
        head_name = CheckpointName(part="head", epochs=head_epochs, **shared)
        configuration = {"epochs": encoder_epochs, "batch_size": 64, "dropout": dropout}
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
    found = dense_population(view)
    assert found.facts() == {"epochs": 3, "batch_size": 64, "head_epochs": 2}
    assert all(member.names[0].id == member.names[1].id for member in found.members)
    contrastive(view, range(2), head_epochs=4)
    assert "select one with --dense_head_epochs" in refusal(view)


def test_a_head_is_not_paired_with_an_encoder_that_it_was_not_trained_on(work):
    view = pies(method="clr")
    contrastive(view, range(2), encoder_epochs=3)
    encoders = list(view.folder.glob("*encoder*"))
    contrastive(view, range(2), encoder_epochs=5)  # the heads of both have one name: these replace the others
    assert len(encoders) == 4 and dense_population(view).facts()["epochs"] == 5


def test_every_total_seed_has_its_own_folders_and_seeds(work):
    words = "--dataset digits --total_seed 3".split()
    flags = importlib.import_module("sup_training").build_parser().parse_args(words)
    views = list(study.open_studies("sup_training", flags))
    for place, shown in (("models/digits", "folder"), ("pies/digits", "results_folder")):
        folders = [str(getattr(view, shown)) for view in views]
        assert folders == [place, f"{place}/seed_1", f"{place}/seed_2"]
    assert len({view.model_seed(model_id) for view in views for model_id in range(30)}) == 90
    assert [views[0].model_seed(model_id) for model_id in range(3)] == [0, 1, 2]


def test_ids_are_shown_as_runs():
    assert populations.show_ids([3, 0, 1, 2, 7, 9, 10]) == "0-3, 7, 9-10"
    assert populations.show_ids([]) == ""


def test_of_many_networks_none_is_read_whole_to_tell_them_apart(work, monkeypatch):
    view = pies(models_number=6)
    supervised(view, range(6))
    monkeypatch.setattr(records, "read_payload", lambda path: pytest.fail("read whole"))
    assert len(dense_population(view).members) == 6


def test_networks_of_different_code_are_a_population_where_that_is_asked_for(work, capsys):
    supervised(pies(), range(2))
    path = pies().folder / "wideResNet-1_0.0pruning_3epochs_10depth_0.0dropout_id1.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "code": {**record["code"], "training": "of another day"}}))
    records.log_once.cache_clear()
    assert len(dense_population(pies("--other_code")).members) == 2
    assert "made by a different version of training" in capsys.readouterr().out
