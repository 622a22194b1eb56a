"""Pruning by command: while training, by every criterion and scope, iteratively; the weights kept for it."""

import csv
import json
import re
import shlex
import shutil

import numpy as np
import pytest
import torch
from conftest import GOLDEN_HERE, write_few_digits
from test_scripts import DENSE, SMALL, main, remedy

from common import methods, models, plots, pruning, training
from common.data import load_dataset
from common.methods import CRITERIA, PruningMethod
from common.settings import Architecture
from common.store import names, records
from common.training import Contrastive, CrossEntropy, Head, TrainingContext, fit

pytestmark = pytest.mark.usefixtures("unsaved_figures")
SUPERVISED = [*SMALL, *"--epochs 2 --batch_size 16 --learning_rate 0.05".split()]
CONTRASTIVE = [*SUPERVISED, *"--head_epochs 2 --batch_size_head 16".split()]
GRADUAL = "--schedule early --begin_epoch 0 --end_epoch 1".split()
GRADUAL_HEAD = "--begin_epoch_head 0 --end_epoch_head 1".split()
ONE = [*SMALL, "--models_number", 1]
FINETUNED = [*ONE, *"--epochs 1 --batch_size 16 --pruning_percentages 0.5".split()]
ITERATIVE = [*ONE, *"--pruning_schedule iterative --iterations 3 --rate 0.5".split()]
COMPARED = [*SMALL, "--pruning_percentages", 0.5]
TRAININGS = {
    "sup": ("sup_training", SUPERVISED, "--pruning", GRADUAL),
    "clr": ("clr_training", CONTRASTIVE, "--pruning_percentages", [*GRADUAL, *GRADUAL_HEAD]),
}
FOLDER_FLAG = {"sup": "--save_path", "clr": "--encoder_save_path"}
METHODS = ("sup", "clr")
KEPT = ["--save_epochs", "0,1", "--accumulate_gradients"]
EVERY = [
    (criterion, scope)
    for criterion in CRITERIA
    for scope in (["layer"] if criterion.startswith("filter_") else methods.SCOPES)
    if scope == "global" or not criterion.startswith("levai_zombori_")  # variants, alike but for the score
]
SELECTED = [("snip", "global"), ("snip_batches", "layer"), ("magnitude_increase", "global")]
SELECTED += [("filter_l2", "layer"), ("random", "layer")]
SELECTED += [
    ("levai_zombori", "global"),
    ("levai_zombori_signed", "global"),
    ("synflow", "layer"),
    ("grasp", "erk"),
]
AFTER = [
    ("rewind", ["--rewind_epoch", 0], "rewind0"),
    ("rewind", ["--rewind_epoch", 1], "rewind1"),
    ("lr_rewind", ["--rewind_epoch", 1], "lr_rewind1"),
    ("reinit", [], "reinit"),
    ("finetune", ["--epochs", 1, "--batch_size", 16], "finetune"),
]


def dense_training(method, *extra):
    """The words that train dense networks."""
    script, settings, _, _ = TRAININGS[method]
    return [script, *settings, *(DENSE if method == "clr" else []), "--index_end", 0, *extra]


def gradual_training(method, sparsity, *extra):
    """The words that train networks which are pruned meanwhile."""
    script, settings, flag, schedule = TRAININGS[method]
    if any(str(word).startswith("filter_") for word in extra):
        schedule = GRADUAL  # a classifier head has no filters, and so no schedule
    return [script, *settings, flag, sparsity, *schedule, "--index_end", 0, *extra]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with a few digits; one with dense networks too, and their weights after 0 and 1 epochs."""
    bare, dense = tmp_path_factory.mktemp("bare"), tmp_path_factory.mktemp("prepared") / "dense"
    write_few_digits(bare / "few digits")
    shutil.copytree(bare, dense)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(dense)
        for method in METHODS:
            assert main(*dense_training(method, "--index_end", 1, *KEPT)) == 0
    return bare, dense


@pytest.fixture
def digits(prepared, tmp_path, monkeypatch):
    """A working folder with nothing but a few digits."""
    return copied(prepared[0], tmp_path / "work", monkeypatch)


@pytest.fixture
def work(prepared, tmp_path, monkeypatch):
    """A working folder with dense networks and their kept weights."""
    return copied(prepared[1], tmp_path / "work", monkeypatch)


def copied(source, target, monkeypatch):
    shutil.copytree(source, target)
    monkeypatch.chdir(target)
    return target


def folder(work):
    return work / "models/few digits"


def bytes_of(work, pattern="*"):
    """Every file but the logs."""
    return {
        path: path.read_bytes() for path in work.rglob(pattern) if path.is_file() and "logs" not in path.parts
    }


def weights(*paths):
    """The tensors that pruning counts, by name, of one network's files, without its projection head."""
    return {
        name.removeprefix("encoder."): tensor
        for path in paths
        for name, tensor in tensors_of(path).items()
        if tensor.ndim == 4 or name.rsplit("fc.")[-1] in ("weight", "bias") and "fc." in name
    }


def gone_of(tensors):
    """One bool a weight: it is pruned."""
    return torch.cat([(tensor == 0).flatten() for tensor in tensors.values()])


def zeros(tensors):
    return {name: int((tensor == 0).sum()) for name, tensor in tensors.items()}


def tensors_of(path):
    payload = torch.load(path, weights_only=True)
    return payload.get("model", payload.get("head", payload))


def same(one, other):
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


def bare(name):
    """A weight's name without that of the network it is in."""
    return name.removeprefix("base.")


def kept_sums(*paths):
    """The sums of |gradient| beside these files."""
    sums = {}
    for path in paths:
        sums |= torch.load(path.with_name(f"{path.stem}_gradient_sums.pt"), weights_only=True)
    return sums


def record_of(path):
    return json.loads(path.with_suffix(".json").read_text())


def check_counts(tensors, sparsity, criterion, scope):
    """Exactly the asked number is zero, where the criterion and the scope say."""
    counts = zeros(tensors)
    by_layer = {name: round(sparsity * tensor.numel()) for name, tensor in tensors.items()}
    if criterion.startswith("filter_"):
        for name, tensor in tensors.items():
            gone = (tensor.flatten(1) == 0).all(1).sum() if tensor.ndim == 4 else 0
            assert gone == (round(sparsity * len(tensor)) if tensor.ndim == 4 else 0), name
            assert counts[name] == gone * (tensor[0].numel() if tensor.ndim == 4 else 0), name
    elif scope == "layer":
        assert counts == by_layer
    else:
        assert sum(counts.values()) == round(sparsity * sum(tensor.numel() for tensor in tensors.values()))
        assert counts != by_layer


def files_of(work, method, name, sparsity):
    """The files of network 0 by its pruning method and sparsity, encoder first."""
    tag = {"dense": "", "GMP": "", "later_GMP": "_later"}.get(name, f"_{name}")
    pattern = f"wideResNet-1{tag}_{sparsity}pruning_*epochs_*_id0.pt"
    if method == "clr":
        pattern = f"*_*_{sparsity}pruning{tag}_[0-9]*batch_*epochs_id0.pt"
    paths = sorted(folder(work).glob(pattern))
    assert len(paths) == {"sup": 1, "clr": 2}[method], f"{method} {name} {sparsity}"
    return paths


def refused(work, capsys, script, *flags):
    """The one line with which a command is refused; it has written nothing."""
    before = bytes_of(work)
    capsys.readouterr()
    try:
        status = main(script, *flags)
    except SystemExit as stop:  # a flag that the parser refuses
        status = stop.code
    message = capsys.readouterr().err
    assert status == 2 and message.count("\n") == 1 and message.endswith("\n"), message
    assert bytes_of(work) == before
    return message


def follow(work, capsys, *command):
    """Runs the commands that a refused one asks for until it works; how many it took."""
    for taken in range(4):
        before = bytes_of(work)
        capsys.readouterr()
        if main(*command) == 0:
            return taken
        message = capsys.readouterr().err
        assert message.count("\n") == 1 and bytes_of(work) == before, message
        script, words = remedy(message) if "train them: " in message else kept_remedy(message)
        assert main(script, *words) == 0, message
    raise AssertionError(f"{command} goes on to be refused: {message}")


def follow_both(work, capsys, *command):
    """The scripts that the comparison asks for, when what these ask for in turn is run too."""
    asked = []
    while len(asked) < 4:
        capsys.readouterr()
        if main(*command) == 0:
            return asked
        script, words = remedy(capsys.readouterr().err)
        asked.append(script)
        follow(work, capsys, script, *words)
    return asked


def kept_remedy(message):
    """The command by which an error says that weights are kept."""
    script, *words = shlex.split(message.split("keep them: python ")[1])
    return script.removesuffix(".py"), words


def rows_of(work, status="present"):
    with open(work / "pies/few digits/results.csv", newline="") as file:
        return {
            (row["learning_method"], row["pruning_method"])
            for row in csv.DictReader(file)
            if row["status"] == status
        }


# Pruning while training


@pytest.mark.parametrize("schedule, tag", [("early", ""), ("late", "_later")])
def test_a_supervised_network_pruned_while_training_has_the_published_name_the_asked_zeros_and_its_settings(
    digits, schedule, tag
):
    epochs = ["--begin_epoch", 0.5, "--end_epoch", 1.5]
    assert main(*gradual_training("sup", 0.5, "--schedule", schedule, *epochs)) == 0
    [path] = folder(digits).glob("*.pt")
    assert path.name == f"wideResNet-1{tag}_0.5pruning_2epochs_10depth_0.0dropout_id0.pt"
    check_counts(weights(path), 0.5, "magnitude", "layer")
    assert len(weights(path)) == 11  # 9 convolutions, the classifier's weight and bias
    record, expected = record_of(path), {"schedule": schedule, "criterion": "magnitude", "scope": "layer"}
    expected |= {"sparsity": 0.5, "begin_step": 3, "end_step": 7, "frequency": 1}
    assert {key: record["configuration"][key] for key in expected} == expected
    # Steps 3 and 4 are in the first epoch of 4; the last, 7, in the second.
    assert record["history"][0]["sparsity"] == pytest.approx(0.5 * (1 - (1 - 1 / 4) ** 3), abs=1e-4)
    assert record["history"][1]["sparsity"] == record["sparsity"]["total"] == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize("schedule, tag", [("early", ""), ("late", "_later")])
def test_contrastive_networks_pruned_while_training_stand_beside_dense_ones_which_have_no_tag(
    digits, schedule, tag
):
    more = f"--schedule {schedule} --begin_epoch 0.5 --end_epoch 1.5 --frequency 3".split()
    assert main(*gradual_training("clr", "0.0,0.5", *more)) == 0
    ending = "_16batch_0.5temperature_2epochs_id0"
    names = {
        (part, sparsity): f"WideResNet-10-1_{part}_SupCon_{sparsity}pruning{its_tag}{ending}"
        for part in ("encoder", "head")
        for sparsity, its_tag in ((0.0, ""), (0.5, tag))
    }
    expected = {name + suffix for name in names.values() for suffix in (".pt", ".json")}
    assert {path.name for path in folder(digits).iterdir() if path.is_file()} == expected
    paths = {key: folder(digits) / f"{name}.pt" for key, name in names.items()}
    for part, count in (("encoder", 9), ("head", 2)):
        assert len(weights(paths[part, 0.5])) == count
        check_counts(weights(paths[part, 0.5]), 0.5, "magnitude", "layer")
        assert set(zeros(weights(paths[part, 0.0])).values()) == {0}
    state = tensors_of(paths["encoder", 0.5])
    projection = [tensor for name, tensor in state.items() if name.startswith("head.")]
    assert len(projection) == 4 and all((tensor != 0).all() for tensor in projection)
    encoder, head = record_of(paths["encoder", 0.5]), record_of(paths["head", 0.5])
    shared = {"schedule": schedule, "criterion": "magnitude", "scope": "layer"}
    shared |= {"begin_step": 3, "end_step": 7, "frequency": 3}
    of_head = {"begin_step_head": 1, "end_step_head": 5, "frequency_head": 1}
    for record, its_steps in ((encoder, dict.fromkeys(of_head)), (head, of_head)):
        assert {key: record["configuration"].get(key) for key in (*shared, *of_head)} == shared | its_steps
    for record in (encoder, head):
        assert record["history"][-1]["sparsity"] == pytest.approx(0.5, abs=3e-3)  # 2 of the head's 3 biases
    dense = record_of(paths["encoder", 0.0])
    assert not {"schedule", "criterion", "begin_step"} & set(dense["configuration"])
    assert "sparsity" not in dense["history"][-1]


def test_a_dense_supervised_network_has_no_tag_under_any_schedule_and_is_the_same_one(digits):
    for schedule in ("early", "late"):
        assert main(*dense_training("sup", "--schedule", schedule, "--save_path", schedule)) == 0
    [one], [other] = (list((digits / schedule).glob("*.pt")) for schedule in ("early", "late"))
    assert one.name == other.name == "wideResNet-1_0.0pruning_2epochs_10depth_0.0dropout_id0.pt"
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("method", METHODS)
def test_steps_and_epochs_say_the_same_schedule(digits, method):
    script, settings, flag, _ = TRAININGS[method]
    head = ["--begin_step_head", 1, "--end_step_head", 5, "--frequency_head", 1] if method == "clr" else []
    command = [script, *settings, flag, 0.5, "--index_end", 0, "--schedule", "early", FOLDER_FLAG[method]]
    assert main(*command, "steps", "--begin_step", 1, "--end_step", 5, "--frequency", 1, *head) == 0
    assert main(*gradual_training(method, 0.5, FOLDER_FLAG[method], "epochs")) == 0
    steps, epochs = (
        {path.name: path.read_bytes() for path in (digits / name).glob("*.pt")}
        for name in ("steps", "epochs")
    )
    assert len(steps) == {"sup": 1, "clr": 2}[method] and steps == epochs
    assert main(*gradual_training(method, 0.5, "--end_epoch", 0.5, FOLDER_FLAG[method], "sooner")) == 0
    assert {path.name: path.read_bytes() for path in (digits / "sooner").glob("*.pt")} != epochs


@pytest.mark.parametrize("method", METHODS)
def test_a_finished_gradual_training_is_skipped_and_another_schedule_never_replaces_it(
    digits, capsys, method
):
    command = gradual_training(method, 0.5)
    assert main(*command) == 0
    before = bytes_of(digits)
    assert main(*command) == 0
    assert bytes_of(digits) == before
    message = refused(digits, capsys, *command, "--end_epoch", 1.5)
    assert "end_step 5, not 7" in message and FOLDER_FLAG[method] in message


# Every criterion and scope


@pytest.fixture(scope="module")
def everything(prepared, tmp_path_factory):
    """Networks of all criteria and scopes, one-shot and pruned while training; the exit statuses."""
    place = tmp_path_factory.mktemp("everything") / "work"
    shutil.copytree(prepared[1], place)
    statuses = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr(pruning, "SYNFLOW_ROUNDS", 5)
        for method, chosen in (("sup", EVERY), ("clr", SELECTED)):
            for criterion, scope in chosen:
                words = ["--criterion", criterion, "--scope", scope]
                for schedule, command in (
                    ("one-shot", [f"{method}_pruning_finetune", *FINETUNED, *words]),
                    ("early", gradual_training(method, 0.5, *words)),
                ):
                    statuses[method, schedule, criterion, scope] = main(*command)
    return place, statuses


def test_every_allowed_combination_of_schedule_criterion_and_scope_works_and_no_two_share_a_file(everything):
    place, statuses = everything
    assert len(statuses) == 2 * (32 + len(SELECTED)) and set(statuses.values()) == {0}
    pruning_methods = {
        PruningMethod(schedule, criterion, scope) for _, schedule, criterion, scope in statuses
    }
    assert len({str(name) for name in pruning_methods}) == len(pruning_methods) == 64
    pruned = [path for path in folder(place).glob("*_id[0-9].pt") if record_of(path)["name"]["sparsity"]]
    assert len(pruned) == 64 + 2 * 2 * len(SELECTED)


@pytest.mark.parametrize("schedule", ["one-shot", "early"])
@pytest.mark.parametrize("criterion, scope", EVERY)
def test_supervised_networks_have_exactly_the_asked_zeros_by_every_criterion_and_scope(
    everything, schedule, criterion, scope
):
    [path] = files_of(everything[0], "sup", str(PruningMethod(schedule, criterion, scope)), 0.5)
    check_counts(weights(path), 0.5, criterion, scope)
    configuration = record_of(path)["configuration"]
    assert (configuration["criterion"], configuration["scope"]) == (criterion, scope)


@pytest.mark.parametrize("criterion, scope", SELECTED)
def test_contrastive_networks_have_exactly_the_asked_zeros(everything, criterion, scope):
    encoder, head = files_of(everything[0], "clr", str(PruningMethod("one-shot", criterion, scope)), 0.5)
    check_counts(weights(encoder, head), 0.5, criterion, scope)  # over encoder and head together
    encoder, head = files_of(everything[0], "clr", str(PruningMethod("early", criterion, scope)), 0.5)
    check_counts(weights(encoder), 0.5, criterion, scope)
    if criterion.startswith("filter_") or scope == "layer":
        check_counts(weights(head), 0.5, criterion, scope)
    else:
        assert sum(zeros(weights(head)).values()) == round(0.5 * 195)


@pytest.mark.parametrize("method, chosen", [("sup", EVERY), ("clr", SELECTED)])
def test_every_criterion_and_scope_prunes_other_weights(everything, method, chosen):
    masks = set()
    for schedule in ("one-shot", "early"):
        for criterion, scope in chosen:
            paths = files_of(everything[0], method, str(PruningMethod(schedule, criterion, scope)), 0.5)
            masks.add(gone_of(weights(*paths)).numpy().tobytes())
    # Between prunings is one step, whose gradients cannot cancel.
    assert len(masks) == 2 * len(chosen) - (("levai_zombori_signed", "global") in chosen)


@pytest.mark.parametrize("method", METHODS)
def test_magnitude_increase_prunes_what_has_grown_least_since_the_kept_initialisation(everything, method):
    place, _ = everything
    dense = files_of(place, method, "dense", 0.0)
    initial = weights(dense[0].with_name(f"{dense[0].stem}_epoch0.pt"))
    if method == "clr":
        training.seed_weights(0, "head", "weights")
        initial |= models.ClassificationHead(64, 3).state_dict()
    trained = weights(*dense)
    growth = torch.cat([(trained[name].abs() - initial[name].abs()).flatten() for name in trained])
    gone = gone_of(weights(*files_of(place, method, "global_magnitude_increase", 0.5)))
    assert growth[gone].max() <= growth[~gone].min() and int(gone.sum()) == round(0.5 * len(gone))


@pytest.mark.parametrize("kind, criterion", [(0, "levai_zombori"), (1, "levai_zombori_signed")])
@pytest.mark.parametrize("method", METHODS)
def test_levai_zombori_prunes_the_lowest_weights_times_the_sums_of_the_training_before(
    everything, method, kind, criterion
):
    place, _ = everything
    dense = files_of(place, method, "dense", 0.0)
    trained, summed = weights(*dense), kept_sums(*dense)
    score = torch.cat([(trained[name] * summed[bare(name)][kind]).abs().flatten() for name in trained])
    gone = gone_of(weights(*files_of(place, method, f"global_{criterion}", 0.5)))
    assert score[gone].max() <= score[~gone].min() and int(gone.sum()) == round(0.5 * len(gone))


@pytest.mark.parametrize(
    "method, chosen, learning", [("sup", EVERY, "supervised"), ("clr", SELECTED, "SupCon")]
)
def test_the_comparison_finds_networks_of_every_name(everything, monkeypatch, method, chosen, learning):
    monkeypatch.chdir(everything[0])
    names = [
        str(PruningMethod(schedule, criterion, scope))
        for schedule in ("one-shot", "early")
        for criterion, scope in chosen
    ]
    compare = [f"{method}_pie_kmodels_detection", *COMPARED, "--models_number", 1]
    assert main(*compare, "--pruning_methods", ",".join(names)) == 0
    assert {name for who, name in rows_of(everything[0]) if who == learning} == {"dense", *names}


# Finetuned, not pruned


@pytest.mark.parametrize("method", METHODS)
def test_at_sparsity_0_the_dense_network_is_finetuned_as_pruned_ones_are_whatever_the_criterion(
    work, capsys, method
):
    finetune = [f"{method}_pruning_finetune", *ONE, *"--epochs 2 --batch_size 16".split()]
    for path in folder(work).glob("*_gradient_sums.pt"):  # which nothing that is pruned by them could miss
        path.unlink()
    assert main(*finetune, "--pruning_percentages", "0.0", "--criterion", "levai_zombori") == 0
    paths, dense = (files_of(work, method, name, 0.0) for name in ("finetuned", "dense"))
    assert [path.name for path in paths] == {
        "sup": ["wideResNet-1_finetuned_0.0pruning_2epochs_10depth_0.0dropout_id0.pt"],
        "clr": [
            f"WideResNet-10-1_{part}_SupCon_0.0pruning_finetuned_16batch_0.5temperature_2epochs_id0.pt"
            for part in ("encoder", "head")
        ],
    }[method]
    record, data = record_of(paths[-1]), load_dataset("folder", "few digits")
    network = training.prepare(records.load_network(*dense), torch.device("cpu"))
    fit(
        CrossEntropy(network, data, record["configuration"]), TrainingContext((0, "finetuning")), range(2), {}
    )
    assert same(network.state_dict(), records.load_network(*paths).state_dict())
    assert record["sparsity"]["zeros"] == 0
    before, together = bytes_of(work, "*finetuned*"), ["--criterion", "snip", FOLDER_FLAG[method]]
    assert main(*finetune, "--pruning_percentages", 0.5, *together, "alone") == 0
    assert main(*finetune, "--pruning_percentages", "0.5,0.0", *together[:2]) == 0
    assert "finetuned sparsity 0.0: 1 networks" in capsys.readouterr().out
    pruned = files_of(work, method, "global_snip", 0.5)
    assert [path.read_bytes() for path in pruned] == [
        (work / "alone" / path.name).read_bytes() for path in pruned
    ]
    assert bytes_of(work, "*finetuned*") == before
    shared = record_of(pruned[-1])["configuration"]
    assert {**shared, **record["configuration"]} == {**shared, "pruning_method": "finetuned", "sparsity": 0.0}
    assert shared.keys() - record["configuration"].keys() == {"criterion", "scope"}


@pytest.mark.parametrize("method", METHODS)
def test_the_finetuned_control_is_taken_along_with_one_shot_networks_and_called_not_pruned(
    work, capsys, method
):
    learning = {"sup": "supervised", "clr": "SupCon"}[method]
    finetune = [f"{method}_pruning_finetune", *FINETUNED[:-1]]
    assert main(*finetune, 0.5) == 0
    compared = [*COMPARED, "--models_number", 1]
    assert main(f"{method}_pie_kmodels_detection", *compared, "--plot_q_score") == 0
    assert "no finetuned control: --pruning_percentages 0.0 makes one" in capsys.readouterr().out
    without = bytes_of(work / "pies", "*.npz")
    assert main(*finetune, 0.0) == 0
    for script, flags in (("pie_kmodels_detection", ["--plot_q_score"]), ("prediction_depth", [])):
        capsys.readouterr()
        assert main(f"{method}_{script}", *compared, *flags) == 0
        table = [line.split()[1] for line in capsys.readouterr().out.splitlines() if "here" in line]
        assert table == ["dense", "finetuned", "global"]
    found = bytes_of(work / "pies", "*.npz")
    assert {path: found[path] for path in without} == without
    stems = {path.stem for path in (work / f"pies/few digits/{learning}/populations").glob("*.npz")}
    kinds = {f"{kind}{ending}" for kind in ("finetuned_0.0", "global_0.5") for ending in ("", "_depth")}
    assert stems == {*kinds, "dense_0.0", "dense_0.0_depth"}
    figures = [path for path in found if "finetuned" in path.name and "sparsity_" in path.name]
    assert {path.parent.name for path in figures} == {"pies_distribution", "q_score", "prediction_depth"}
    for path in figures:
        arrays = np.load(path)
        assert f"{learning} · finetuned, not pruned · 1 models" in str(arrays["title"])
        assert "pruned:" not in str(arrays["title"])
        axes = [
            axis for panel in plots.draw(arrays).axes for axis in (panel.get_xlabel(), panel.get_ylabel())
        ]
        assert not any("pruned networks" in text for text in axes)
        if path.parent.name != "pies_distribution":
            assert any("finetuned networks" in text for text in axes)
    # Named, it needs no other; at sparsity 0 alone, whatever the flag says.
    assert main(f"{method}_pie_kmodels_detection", *compared, "--pruning_methods", "finetuned") == 0
    assert rows_of(work) == {(learning, name) for name in ("dense", "finetuned", "global")}


# Iterative pruning


def iterate(method, after, more):
    return [f"{method}_pruning_finetune", *ITERATIVE, "--after", after, *more]


@pytest.fixture(scope="module")
def iterated(prepared, tmp_path_factory):
    """Three iterations of every kind side by side."""
    place = tmp_path_factory.mktemp("iterated") / "work"
    shutil.copytree(prepared[1], place)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for method in METHODS:
            for after, more, _ in AFTER:
                assert main(*iterate(method, after, more)) == 0
    return place


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("after, more, tag", AFTER)
def test_every_iteration_prunes_the_asked_share_of_what_the_one_before_kept(
    iterated, method, after, more, tag
):
    before = torch.zeros(())
    for iteration, sparsity in enumerate((0.5, 0.75, 0.875), 1):
        paths = files_of(iterated, method, f"global_iterative0.5_{tag}", sparsity)
        tensors = weights(*paths)
        check_counts(tensors, sparsity, "magnitude", "global")
        gone = gone_of(tensors)
        assert bool((gone | ~before.bool()).all()), "what was pruned stays pruned"
        before = gone
        record = record_of(paths[-1])
        assert record["configuration"]["iteration"] == iteration and record["configuration"]["after"] == after
        assert (record.get("previous_sha256") is None) == (iteration == 1)
        assert record["name"]["epochs"] == (1 if after == "finetune" else 2)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("epoch", [0, 1])
def test_the_first_rewound_network_is_the_kept_one_masked_and_trained_as_the_dense_one_was(
    iterated, monkeypatch, method, epoch
):
    monkeypatch.chdir(iterated)
    dense = files_of(iterated, method, "dense", 0.0)
    trained = weights(*dense)
    order = torch.cat([tensor.abs().flatten() for tensor in trained.values()]).sort(stable=True).indices
    kept = torch.ones(len(order))
    kept[order[: round(0.5 * len(order))]] = 0
    masks = {
        name: mask.reshape(trained[name].shape)
        for name, mask in zip(trained, kept.split([tensor.numel() for tensor in trained.values()]))
    }
    settings, data = record_of(dense[-1])["configuration"], load_dataset("folder", "few digits")
    paths = files_of(iterated, method, f"global_iterative0.5_rewind{epoch}", 0.5)
    state = torch.load(dense[0].with_name(f"{dense[0].stem}_epoch{epoch}.pt"), weights_only=True)["model"]
    of_head = {name: masks.pop(name) for name in list(masks) if method == "clr" and name.startswith("fc.")}
    network = models.SupervisedNetwork(Architecture(10, 1), 3)
    if method == "clr":
        network = models.ContrastiveEncoder(Architecture(10, 1))
    network.load_state_dict(state)
    training.prepare(network, torch.device("cpu"))
    kind, stage = {"sup": (CrossEntropy, "supervised"), "clr": (Contrastive, "contrastive")}[method]
    fit(kind(network, data, settings), TrainingContext((0, stage)), range(epoch, 2), masks)
    assert same(network.state_dict(), tensors_of(paths[0]))
    if method == "clr":
        training.seed_weights(0, "head", "weights")
        head = models.ClassificationHead(64, 3)
        fit(Head(network.encoder, head, data, settings), TrainingContext((0, "head")), range(2), of_head)
        assert same(head.state_dict(), tensors_of(paths[1]))


def test_reinitialised_networks_start_anew_in_every_iteration(iterated):
    """One epoch moves a weight little: rewound networks stay near the dense initialisation, these do not."""
    initial_path = next(folder(iterated).glob("wideResNet-1_0.0pruning*_id0_epoch0.pt"))
    initial, likeness = tensors_of(initial_path)["base.conv1.weight"], {}
    for tag in ("rewind0", "reinit"):
        found = [
            tensors_of(*files_of(iterated, "sup", f"global_iterative0.5_{tag}", sparsity))[
                "base.conv1.weight"
            ]
            for sparsity in (0.5, 0.75)
        ]
        both = (found[0] != 0) & (found[1] != 0)
        likeness[tag] = [
            float(torch.corrcoef(torch.stack([one[both], other[both]]))[0, 1])
            for one, other in ((found[0], initial), (found[1], initial), tuple(found))
        ]
    assert min(likeness["rewind0"]) > 0.9 and max(map(abs, likeness["reinit"])) < 0.5, likeness


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("after, more, tag", AFTER)
def test_iterations_are_skipped_where_they_are_finished_and_made_again_where_one_is_missing(
    iterated, tmp_path, monkeypatch, capsys, method, after, more, tag
):
    place = copied(iterated, tmp_path / "work", monkeypatch)
    before, command = bytes_of(place), iterate(method, after, more)
    assert main(*command) == 0
    assert "finished before: 3 of 3 networks" in capsys.readouterr().out and bytes_of(place) == before
    networks = bytes_of(place, "*.pt")
    for path in files_of(place, method, f"global_iterative0.5_{tag}", 0.875):
        path.unlink()
    assert main(*command) == 0
    assert bytes_of(place, "*.pt") == networks
    middle = files_of(place, method, f"global_iterative0.5_{tag}", 0.75)
    middle[-1].unlink()
    assert main(*command) == 0
    assert bytes_of(place, "*.pt") == networks
    changed = {**record_of(middle[-1]), "previous_sha256": ["of another network"]}
    middle[-1].with_suffix(".json").write_text(json.dumps(changed))
    assert "made from another dense model, encoder or iteration" in refused(place, capsys, *command)


def test_an_iteration_that_comes_from_another_one_than_is_there_now_is_refused(work, capsys):
    command = iterate("sup", "rewind", [])
    assert main(*command) == 0
    [first], [second] = (
        files_of(work, "sup", "global_iterative0.5_rewind0", sparsity) for sparsity in (0.5, 0.75)
    )
    state = torch.load(first, weights_only=True)
    state["base.bn1.weight"] += 1
    torch.save(state, first)
    record = {**record_of(first), "checkpoint_sha256": records.file_sha256(first)}
    first.with_suffix(".json").write_text(json.dumps(record))
    assert second.name in refused(work, capsys, *command)


SCOPE_OF = {"grasp": "erk", "snip": "layer"} | {name: "layer" for name in CRITERIA if "filter_" in name}


@pytest.mark.parametrize("criterion, scope", [(name, SCOPE_OF.get(name, "global")) for name in CRITERIA])
@pytest.mark.parametrize("method", METHODS)
def test_iterations_by_every_criterion_have_the_asked_counts_too(work, method, criterion, scope):
    assert main(*iterate(method, "rewind", ["--criterion", criterion, "--scope", scope])) == 0
    gone = []
    for sparsity in (0.5, 0.75, 0.875):
        name = str(PruningMethod("iterative", criterion, scope, 0.5, "rewind"))
        tensors = weights(*files_of(work, method, name, sparsity))
        check_counts(tensors, sparsity, criterion, scope)
        gone.append(gone_of(tensors))
    assert (gone[1] | ~gone[0]).all() and (gone[2] | ~gone[1]).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_reinitialised_network_begins_anew_and_its_weights_grow_from_there(work, method):
    assert main(*iterate(method, "reinit", ["--criterion", "magnitude_increase"])) == 0
    name = "global_magnitude_increase_iterative0.5_reinit"
    first, second = (weights(*files_of(work, method, name, sparsity)) for sparsity in (0.5, 0.75))
    training.seed_weights(0, "reinit", 1)
    if method == "sup":
        initial = models.SupervisedNetwork(Architecture(10, 1), 3).state_dict()
    else:
        initial = models.ContrastiveEncoder(Architecture(10, 1)).encoder.state_dict()
        training.seed_weights(0, "reinit", 1, "head", "weights")
        initial |= models.ClassificationHead(64, 3).state_dict()
    growth = torch.cat([(first[key].abs() - initial[key].abs()).flatten() for key in first])
    kept_before, kept_after = ~gone_of(first), ~gone_of(second)
    assert growth[kept_before & ~kept_after].max() <= growth[kept_after].min()


def test_iterations_by_levai_zombori_use_the_sums_of_the_iteration_before(work, capsys):
    command = iterate("sup", "rewind", ["--criterion", "levai_zombori"])
    assert main(*command) == 0
    name = "global_levai_zombori_iterative0.5_rewind0"
    paths = [files_of(work, "sup", name, sparsity)[0] for sparsity in (0.5, 0.75, 0.875)]
    for earlier, later in zip(paths, paths[1:]):
        before, after, summed = weights(earlier), weights(later), kept_sums(earlier)
        score = torch.cat([(before[key] * summed[bare(key)][0]).abs().flatten() for key in before])
        kept_before, kept_after = ~gone_of(before), ~gone_of(after)
        assert score[kept_before & ~kept_after].max() <= score[kept_after].min()
    networks = bytes_of(work, "*.pt")
    paths[2].unlink()
    names.gradients_path(paths[1]).unlink()
    assert main(*command) == 0
    assert bytes_of(work, "*.pt") == networks


@pytest.mark.parametrize("kept", ["gradient_sums", "epoch0"])
def test_what_a_training_kept_is_refused_where_it_is_not_finite(work, capsys, kept):
    criterion = {"gradient_sums": "levai_zombori", "epoch0": "magnitude"}[kept]
    dense = files_of(work, "sup", "dense", 0.0)[0]
    path = dense.with_name(f"{dense.stem}_{kept}.pt")
    payload = torch.load(path, weights_only=True)
    next(iter(payload.get("model", payload).values())).view(-1)[0] = float("nan")
    torch.save(payload, path)
    record = path.with_suffix(".json")
    record.write_text(json.dumps({**record_of(path), "checkpoint_sha256": records.file_sha256(path)}))
    networks = bytes_of(work, "*.pt")
    assert main(*iterate("sup", "rewind", ["--criterion", criterion])) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and bytes_of(work, "*.pt") == networks
    assert f"_{kept}.pt holds values that are not finite, in " in line and "have it made again" in line


@pytest.mark.parametrize("method", METHODS)
def test_with_the_learning_rate_rewound_the_pruned_weights_are_trained_on_from_where_they_are(work, method):
    assert main(*iterate(method, "lr_rewind", ["--rewind_epoch", 1])) == 0
    settings = record_of(files_of(work, method, "dense", 0.0)[-1])["configuration"]
    data, before = load_dataset("folder", "few digits"), files_of(work, method, "dense", 0.0)
    for sparsity in (0.5, 0.75):
        paths = files_of(work, method, "global_iterative0.5_lr_rewind1", sparsity)
        network = models.SupervisedNetwork(Architecture(10, 1), 3)
        if method == "clr":
            network = models.ContrastiveEncoder(Architecture(10, 1))
        network.load_state_dict(tensors_of(before[0]))
        training.prepare(network, torch.device("cpu"))
        masks = {  # what is zero at the end was pruned
            name: (tensor != 0).float()
            for name, tensor in tensors_of(paths[0]).items()
            if name in pruning.prunable_parameters(network) and not name.startswith("head.")
        }
        masks = {name.removeprefix("encoder."): mask for name, mask in masks.items()}
        kind, stage = {"sup": (CrossEntropy, "supervised"), "clr": (Contrastive, "contrastive")}[method]
        history = fit(kind(network, data, settings), TrainingContext((0, stage)), range(1, 2), masks)
        assert [entry["epoch"] for entry in history] == [1]
        assert same(network.state_dict(), tensors_of(paths[0]))
        before = paths


# Kept weights


@pytest.mark.parametrize("method", METHODS)
def test_sums_of_gradients_are_those_of_every_step_and_change_nothing_else(digits, method, monkeypatch):
    """Against gradients that are taken from the optimizer, whose step they are for."""
    assert main(*dense_training(method, FOLDER_FLAG[method], "plain")) == 0
    seen, step = {}, torch.optim.SGD.step

    def look(optimizer, *arguments, **keywords):
        for parameter in optimizer.param_groups[0]["params"]:
            if parameter.grad is None:  # of the schedule of the head's learning rates
                continue
            total = seen.get(id(parameter), (parameter, 0))[1]
            both = torch.stack([parameter.grad.abs(), parameter.grad])
            seen[id(parameter)] = parameter, total + both
        return step(optimizer, *arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.SGD, "step", look)
        assert main(*dense_training(method, "--accumulate_gradients", FOLDER_FLAG[method], "summed")) == 0
    plain, summed = (
        {path.name: path for path in (digits / name).glob("*.pt")} for name in ("plain", "summed")
    )
    assert all(path.read_bytes() == summed[name].read_bytes() for name, path in plain.items())
    expected = list(seen.values())
    for name in plain:
        sums = kept_sums(summed[name])
        trained = {bare(key): tensor for key, tensor in weights(summed[name]).items()}
        assert sums.keys() == trained.keys()
        for key, total in sums.items():
            [found] = [
                total for parameter, total in expected if torch.equal(parameter.detach(), trained[key])
            ]
            torch.testing.assert_close(total, found.contiguous())
    # Where the models are finished, they are trained once more, and the sums are the same.
    kept = {path: path.read_bytes() for path in (digits / "summed").glob("*.pt")}
    for path in (digits / "summed").glob("*_gradient_sums.*"):
        path.unlink()
    assert main(*dense_training(method, "--accumulate_gradients", FOLDER_FLAG[method], "summed")) == 0
    assert {path: path.read_bytes() for path in (digits / "summed").glob("*.pt")} == kept


@pytest.mark.parametrize("method", METHODS)
def test_kept_weights_are_those_of_the_network_on_its_way(work, method):
    dense = files_of(work, method, "dense", 0.0)[0]
    first, second = (dense.with_name(f"{dense.stem}_epoch{epoch}.pt") for epoch in (0, 1))
    training.seed_weights(0, {"sup": "supervised", "clr": "contrastive"}[method], "weights")
    if method == "sup":
        fresh = models.SupervisedNetwork(Architecture(10, 1), 3)
    else:
        fresh = models.ContrastiveEncoder(Architecture(10, 1))
    assert same(tensors_of(first), fresh.state_dict())
    records.load_state(fresh, records.read_payload(second), second)
    assert not same(tensors_of(second), tensors_of(first)) and not same(tensors_of(second), tensors_of(dense))
    assert same(tensors_of(second), fresh.state_dict())
    # Its learning rate does not depend on how long the training will be: a training of one epoch ends there.
    assert main(*dense_training(method, "--epochs", 1, FOLDER_FLAG[method], "short")) == 0
    [short] = [path for path in (work / "short").glob("*.pt") if "_head_" not in path.name]
    assert same(tensors_of(second), tensors_of(short))


@pytest.mark.parametrize("method", METHODS)
def test_where_the_model_is_finished_kept_epochs_are_made_again_and_are_the_same(work, method, capsys):
    kept = bytes_of(work, "*_id0_epoch*.pt")
    kept = {path: tensors_of(path) for path in kept if (path.name[0] == "w") == (method == "sup")}
    assert len(kept) == 2
    for path in kept:
        path.unlink()
        path.with_suffix(".json").unlink()
    before = bytes_of(work)
    capsys.readouterr()
    assert main(*dense_training(method, "--save_epochs", "0,1")) == 0
    assert "finished before" in capsys.readouterr().out
    assert {path: content for path, content in bytes_of(work).items() if path in before} == before
    assert len(bytes_of(work)) == len(before) + 4
    assert all(same(tensors_of(path), tensors) for path, tensors in kept.items())
    after = bytes_of(work)
    assert main(*dense_training(method, "--save_epochs", "0,1")) == 0
    assert bytes_of(work) == after


def test_the_head_alone_is_made_again_though_weights_are_kept_at_the_same_time(work):
    before = bytes_of(work, "*.pt")
    for path in [*folder(work).glob("*_head_*_id0.pt"), *folder(work).glob("*_encoder_*_id0_epoch1.pt")]:
        path.unlink()
    assert main(*dense_training("clr", "--save_epochs", "1")) == 0
    assert bytes_of(work, "*.pt") == before


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "asked",
    [
        "--pruning_schedule iterative --iterations 1 --rewind_epoch 1",
        "--pruning_schedule iterative --iterations 1 --rewind_epoch 1 --criterion magnitude_increase",
        "--epochs 1 --pruning_percentages 0.5 --criterion magnitude_increase",
        "--epochs 1 --pruning_percentages 0.5 --criterion levai_zombori",
    ],
)
def test_weights_that_were_not_kept_are_named_with_the_command_that_keeps_them(digits, capsys, method, asked):
    assert main(*dense_training(method, "--index_end", 1)) == 0
    command = [f"{method}_pruning_finetune", *SMALL, "--models_number", 2, *asked.split()]
    script, words = kept_remedy(refused(digits, capsys, *command))
    before = bytes_of(digits)
    assert main(script, *words) == 0
    assert {path: content for path, content in bytes_of(digits).items() if path in before} == before
    assert main(*command) == 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("whose", ["another seed", "other settings", "elsewhere"])
def test_kept_weights_of_another_training_are_refused(work, capsys, method, whose):
    dense = files_of(work, method, "dense", 0.0)[0]
    kept = dense.with_name(f"{dense.stem}_epoch0.pt")
    if whose == "another seed":
        source = kept.with_name(kept.name.replace("_id0", "_id1"))
    elif whose == "other settings":
        other = ["--learning_rate", 0.01, "--save_epochs", 0, FOLDER_FLAG[method], "other"]
        assert main(*dense_training(method, *other)) == 0
        source = work / "other" / kept.name
    else:
        source = kept
        kept.with_suffix(".json").unlink()
    if source != kept:
        for ending in (".pt", ".json"):
            shutil.copy(source.with_suffix(ending), kept.with_suffix(ending))
    for words in (
        iterate(method, "rewind", []),
        [f"{method}_pruning_finetune", *FINETUNED, "--criterion", "magnitude_increase"],
    ):
        message = refused(work, capsys, *words)
        assert kept.name in message and re.search("move it away and give: .*--save_epochs 0", message)
    if whose == "other settings":
        message = refused(work, capsys, *dense_training(method, "--save_epochs", 0))
        assert "learning_rate 0.01, not 0.05" in message
    # What the message says to do helps.
    kept.unlink()
    kept.with_suffix(".json").unlink(missing_ok=True)
    assert main(*dense_training(method, "--save_epochs", 0)) == 0
    assert main(*iterate(method, "rewind", [])) == 0


@pytest.mark.parametrize("method", METHODS)
def test_epochs_to_keep_lie_below_those_of_the_training(digits, capsys, method):
    assert "--save_epochs 2" in refused(digits, capsys, *dense_training(method, "--save_epochs", "0,2"))
    assert main(*dense_training(method, "--save_epochs", "0,1")) == 0


# What is refused


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "words, expected",
    [
        ("--iterations 2", "--iterations belongs to --pruning_schedule iterative"),
        ("--rate 0.5", "--rate belongs to --pruning_schedule iterative"),
        ("--after rewind", "--after belongs to --pruning_schedule iterative"),
        ("--rewind_epoch 0", "--rewind_epoch belongs to --pruning_schedule iterative"),
        ("--criterion filter_l2 --scope global", "--scope global"),
        ("iterative --pruning_percentages 0.5", "--pruning_percentages belongs to one-shot"),
        ("iterative --pruning_percentages 0.0", "--pruning_percentages belongs to one-shot"),
        ("iterative --epochs 1", "--epochs belongs to --after finetune"),
        ("iterative --batch_size=16", "--batch_size belongs to --after finetune"),
        ("iterative --after reinit --epochs 1", "--epochs belongs to --after finetune"),
        (
            "iterative --after reinit --rewind_epoch 1",
            "--rewind_epoch belongs to --after rewind or lr_rewind",
        ),
        ("iterative --after lr_rewind --rewind_epoch 2", "--rewind_epoch 2: the dense networks were trained"),
        ("--criterion filter_l2 --scope erk", "--scope erk"),
        ("iterative --after finetune --rewind_epoch 1", "--rewind_epoch belongs to --after rewind"),
        ("iterative --criterion filter_random --scope global", "--scope global"),
        ("iterative --rate 0.9 --iterations 5", "--iterations 5 at --rate 0.9"),
        ("iterative --rewind_epoch 2", "--rewind_epoch 2: the dense networks were trained for 2 epochs"),
        ("iterative --rate 1", "--rate"),
    ],
)
def test_what_does_not_fit_together_is_refused_before_anything_is_written(
    work, capsys, method, words, expected
):
    schedule = ["--pruning_schedule"] if words.startswith("iterative") else []
    assert expected in refused(work, capsys, f"{method}_pruning_finetune", *ONE, *schedule, *words.split())


def test_as_many_iterations_as_file_names_tell_apart_are_taken(work):
    words = "--pruning_schedule iterative --rate 0.9 --iterations 4"
    assert main("sup_pruning_finetune", *ONE, *words.split()) == 0
    tensors = weights(*files_of(work, "sup", "global_iterative0.9_rewind0", 0.9999))
    check_counts(tensors, 0.9999, "magnitude", "global")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "words, remedy",
    [
        ("--pruning_schedule iterative", "--after finetune"),
        ("--pruning_schedule iterative --after reinit", "--after finetune"),
        ("--criterion magnitude_increase", "--criterion"),
        ("--criterion levai_zombori", "--criterion"),
        ("--pruning_schedule iterative --after lr_rewind", "--after finetune"),
    ],
)
def test_networks_of_which_nothing_is_known_are_not_trained_again(work, capsys, method, words, remedy):
    for path in folder(work).glob("*.json"):
        path.unlink()
    message = refused(work, capsys, f"{method}_pruning_finetune", *ONE, *words.split())
    assert "external" in message and remedy in message


@pytest.mark.parametrize("method", METHODS)
def test_networks_of_which_nothing_is_known_are_pruned_iteratively_with_finetuning(work, method):
    for path in folder(work).glob("*.json"):
        path.unlink()
    assert main(*iterate(method, "finetune", ["--epochs", 1])) == 0
    tensors = weights(*files_of(work, method, "global_iterative0.5_finetune", 0.875))
    check_counts(tensors, 0.875, "magnitude", "global")


def change_code(work, pattern):
    """As if other code had made these files; their names."""
    paths = sorted(folder(work).glob(pattern))
    for path in paths:
        record = json.loads(path.read_text())
        record["code"]["augment"] = "0" * 12
        path.write_text(json.dumps(record))
    return {path.with_suffix(".pt").name for path in paths}


@pytest.mark.parametrize("method", METHODS)
def test_what_is_made_from_networks_of_other_code_is_refused_or_says_so(work, capsys, method):
    """Kept weights, sums of gradients, dense networks, one after the other; then all."""
    command = [*iterate(method, "rewind", ["--rewind_epoch", 1]), "--criterion", "levai_zombori"]
    before = bytes_of(work, "models/**/*.json")
    for kind in ("*_epoch1.json", "*_gradient_sums.json", "*_id[0-9].json"):
        changed = change_code(work, kind)
        message = refused(work, capsys, *command)
        assert "by other code of augment; give --other_code" in message
        assert any(name in message for name in changed)
        for name, content in before.items():
            (work / name).write_bytes(content)
    made_from = set.union(*(change_code(work, kind) for kind in ("*_id0*_epoch1.json", "*_id0*_sums.json")))
    made_from |= change_code(work, "*_id0.json")
    assert main(*command, "--other_code") == 0
    first, *later = sorted(folder(work).glob("*iterative*_id0.json"), key=lambda path: path.stat().st_mtime)
    names = {"sup": "wideResNet", "clr": "WideResNet"}[method]
    expected = {name for name in made_from if name.startswith(names)}
    assert record_of(first)["made_from_other_code"] == dict.fromkeys(expected, ["augment"])
    for path in later:
        assert record_of(path)["made_from_other_code"].keys() >= expected


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("schedule", ["early", "late"])
@pytest.mark.parametrize("epochs", [1, 7])
def test_a_schedule_that_does_not_fit_is_refused_with_one_that_does(digits, capsys, method, schedule, epochs):
    script, settings, flag, _ = TRAININGS[method]
    command = [script, *settings, "--epochs", epochs, flag, 0.5, "--index_end", 0, "--schedule", schedule]
    # The head's schedule is refused when the encoder's fits.
    for suffix in [""] if method == "sup" else ["", "_head"]:
        message = refused(digits, capsys, *command)
        words = message.split("give ")[1].split(", say")[0].split()
        assert words[::2] == [f"--begin_epoch{suffix}", f"--end_epoch{suffix}"], message
        command += words
    assert main(*command) == 0
    encoder = next(path for path in folder(digits).glob("*.pt") if "_head_" not in path.name)
    check_counts(weights(encoder), 0.5, "magnitude", "layer")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "words, expected",
    [
        ("--begin_step 5 --end_step 4", "never fires"),
        ("--begin_step 0 --end_step 0", "never fires"),
        ("--begin_epoch 0 --end_epoch 2", "ends at step 9, its training at step 8"),
        ("--begin_step 1 --begin_epoch 0", "--begin_step and --begin_epoch say the same"),
        ("--begin_epoch 0 --end_epoch 1 --criterion filter_l1 --scope global", "--scope global"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(digits, capsys, method, words, expected):
    script, settings, flag, _ = TRAININGS[method]
    words = [*([] if method == "sup" else GRADUAL_HEAD), *words.split()]
    assert expected in refused(digits, capsys, script, *settings, flag, 0.5, "--index_end", 0, *words)


@pytest.mark.parametrize("script", ["sup_pie_kmodels_detection", "clr_prediction_depth"])
@pytest.mark.parametrize(
    "name",
    ["dense", "snip", "global_magnitude", "GMP_layer"]
    + ["global_filter_l1", "global_iterative0.2", "global_iterative_rewind0"],
)
def test_a_name_that_is_no_pruning_method_is_refused(work, capsys, script, name):
    message = refused(work, capsys, script, *COMPARED, "--models_number", 1, "--pruning_methods", name)
    assert "--pruning_methods" in message and repr(name) in message


# Populations


def three_epochs(method):
    """A contrastive head's name lacks the encoder's epochs: heads of other epochs keep these apart."""
    return ["--epochs", 3, *(["--head_epochs", 3] if method == "clr" else [])]


@pytest.mark.parametrize("method", METHODS)
def test_networks_pruned_while_training_are_chosen_by_the_settings_of_the_dense_ones(work, capsys, method):
    assert main(*gradual_training(method, 0.5)) == 0
    assert main(*gradual_training(method, 0.5, *three_epochs(method))) == 0
    compare = [f"{method}_pie_kmodels_detection", *COMPARED, "--models_number", 1, "--pruning_methods", "GMP"]
    capsys.readouterr()
    assert main(*compare) == 0
    shown = capsys.readouterr().out
    assert "GMP 0.5 (epochs 2, " in shown and "GMP 0.5 (epochs 3, " not in shown and "note: " not in shown


@pytest.mark.parametrize("method", METHODS)
def test_networks_pruned_while_training_of_other_settings_are_taken_with_a_note(work, capsys, method):
    assert main(*gradual_training(method, 0.5, "--learning_rate", 0.02)) == 0
    compare = [f"{method}_pie_kmodels_detection", *COMPARED, "--models_number", 1, "--pruning_methods", "GMP"]
    assert main(*compare) == 0
    story = (work / "logs/few digits" / f"{method}_pie_kmodels_detection.log").read_text()
    [note] = [line for line in story.splitlines() if "note: " in line]
    assert note.endswith("learning_rate 0.02, not 0.05")
    assert main(*gradual_training(method, 0.5, "--learning_rate", 0.02, *three_epochs(method))) == 0
    assert "several populations fit" in refused(work, capsys, *compare)


def small_training(method, sparsity, *extra):
    """The words that train dense networks of as many weights as are left at a sparsity."""
    script, settings, _, _ = TRAININGS[method]
    return [script, *settings, "--match_sparsity", sparsity, "--index_end", 0, *extra]


@pytest.mark.parametrize("method", METHODS)
def test_narrower_networks_stand_beside_the_pruned_ones_of_as_many_weights(work, capsys, method):
    assert main(*small_training(method, 0.5)) == 0
    widths = models.channels(10, 1, 0.5)
    said = f"small_dense 0.5: {', '.join(map(str, widths))} channels of 16, 16, 32, 64, "
    assert said in capsys.readouterr().out and widths == (11, 11, 23, 45)
    paths = files_of(work, method, "small_dense", 0.5)
    count = sum(tensor.numel() for tensor in weights(*paths).values() if tensor.ndim == 4)
    assert count == models.convolution_weights(10, widths)
    small, dense = (record_of(each[0]) for each in (paths, files_of(work, method, "dense", 0.0)))
    own = {"pruning_method": "small_dense", "sparsity": 0.5}
    assert small["configuration"] == dense["configuration"] | own and small["sparsity"]["zeros"] == 0
    before = bytes_of(work, "*.pt")
    assert main(*small_training(method, 0.5)) == 0 and bytes_of(work, "*.pt") == before
    assert "finished before: 1 of 1 networks" in capsys.readouterr().out
    assert main(f"{method}_pruning_finetune", *FINETUNED) == 0
    compared = [*COMPARED, "--models_number", 1, "--pruning_methods", "global,small_dense"]
    for script in ("pie_kmodels_detection", "prediction_depth"):
        assert main(f"{method}_{script}", *compared) == 0
    learning = {"sup": "supervised", "clr": "SupCon"}[method]
    assert rows_of(work) == {(learning, name) for name in ("dense", "global", "small_dense")}
    depths = work / f"pies/few digits/{learning}/populations/small_dense_0.5_depth.npz"
    assert depths.exists()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "words, told",
    [
        (("--pruning", 0.5), "--match_sparsity: narrower networks are not pruned; leave --pruning"),
        (("--criterion", "snip"), "--criterion: nothing is pruned"),
        (("--accumulate_gradients",), "dense networks of the whole width"),
    ],
)
def test_narrower_networks_are_not_pruned(work, capsys, method, words, told):
    words = [TRAININGS[method][2] if word == "--pruning" else word for word in words]
    assert told in refused(work, capsys, *small_training(method, 0.5, *words))


# How pruned networks of a name are made: by a function above, and its last arguments.
MADE = {
    "later_GMP_global_snip": (gradual_training, "--criterion snip --scope global --schedule late"),
    "GMP": (gradual_training, ""),
    "small_dense": (small_training, ""),
    "global_snip": (None, "--criterion snip"),
    "finetuned": (None, "--pruning_percentages 0.0"),
    "layer_random": (None, "--criterion random --scope layer"),
    "global_iterative0.5_rewind1": (iterate, "rewind --rewind_epoch 1"),
    "filter_l2_iterative0.5_finetune": (iterate, "finetune --epochs 1 --batch_size 16 --criterion filter_l2"),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", MADE)
def test_the_commands_for_missing_pruned_networks_make_the_comparison_work(work, capsys, method, name):
    how, words = MADE[name]
    if how in (gradual_training, small_training):
        made = how(method, 0.5, *words.split())
    elif how is iterate:
        made = iterate(method, words.split()[0], words.split()[1:])
    else:
        made = [f"{method}_pruning_finetune", *FINETUNED, *words.split()]
    assert main(*made) == 0
    before = bytes_of(work, "*.pt")
    compare = [f"{method}_pie_kmodels_detection", *COMPARED, "--pruning_methods", name, "--models_number"]
    assert main(*compare, 1) == 0
    two = [*compare, 2, "--run", "two"]  # results of one network stay where they are
    assert "ids 1 are missing; train them: " in refused(work, capsys, *two)
    assert follow(work, capsys, *two) == 1
    assert follow(work, capsys, *compare, 1) == 0
    assert {path: content for path, content in bytes_of(work, "*.pt").items() if path in before} == before
    learning = {"sup": "supervised", "clr": "SupCon"}[method]
    assert rows_of(work) >= {(learning, "dense"), (learning, name)}


@pytest.mark.parametrize("kept_later", [False, True])
def test_what_missing_dense_networks_need_before_they_are_rewound_is_asked_for(digits, capsys, kept_later):
    """The command is that of a network beside them, which kept its weights, or did so by another command."""
    keep = ["--save_epochs", 0]
    assert main(*dense_training("sup", *([] if kept_later else keep))) == 0
    assert main(*dense_training("sup", *keep)) == 0
    assert main(*iterate("sup", "rewind", [])) == 0
    command = ["sup_pie_kmodels_detection", *COMPARED, "--models_number", 2]
    command += ["--pruning_methods", "global_iterative0.5_rewind0"]
    script, words = remedy(refused(digits, capsys, *command))
    assert script == "sup_training" and main(script, *words) == 0
    script, words = remedy(refused(digits, capsys, *command))
    assert script == "sup_pruning_finetune"
    assert follow(digits, capsys, script, *words) == kept_later
    assert follow(digits, capsys, *command) == 0


def test_the_commands_hold_what_the_network_and_its_folders_are(digits, capsys):
    shared = "--projection_head linear --temperature 0.1 --encoder_save_path encoders --head_save_path heads"
    shared = [*SMALL, *shared.split()]
    training_words = [*CONTRASTIVE, *DENSE, *shared, "--method", "SimCLR", "--lars", "--cosine_annealing"]
    assert main("clr_training", *training_words, "--index_end", 1) == 0
    pruning = ["clr_pruning_finetune", *ITERATIVE, *shared]
    pruning += "--clr_method SimCLR --criterion snip --rewind_epoch 1".split()
    script, words = kept_remedy(refused(digits, capsys, *pruning))
    assert main(script, *words) == 0
    assert main(*pruning) == 0
    compare = ["clr_pie_kmodels_detection", *COMPARED, *shared, "--clr_method", "SimCLR"]
    compare += ["--pruning_methods", "global_snip_iterative0.5_rewind1", "--models_number"]
    assert follow_both(digits, capsys, *compare, 2) == ["clr_pruning_finetune"]
    assert main(*compare, 2) == 0
    assert not list(digits.glob("models/**/*.pt"))


@pytest.fixture
def published(tmp_path, monkeypatch):
    """The published dense pair under the name that the published script gives it with a late schedule."""
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "models/digits"
    place.mkdir(parents=True)
    for path in GOLDEN_HERE.glob("WideResNet-10-2_*.pt"):
        shutil.copy(path, place / path.name.replace("0.0pruning_", "0.0pruning_later_"))
    assert len(list(place.glob("[!.]*"))) == 2
    return place


PUBLISHED = "clr_pruning_finetune --dataset digits --model_depth 10 --models_number 1 --epochs 1".split()
PUBLISHED += ["--pruning_percentages", "0.9"]


def dense_of_published(place):
    return record_of(next(place.glob("*_head_*_global_*.pt")))["dense_sha256"]


def test_a_published_dense_network_with_the_late_tag_is_read_where_the_plain_one_is_absent(published, capsys):
    expected = [
        records.file_sha256(next(published.glob(f"*_{part}_*_later_*"))) for part in ("encoder", "head")
    ]
    assert main(*PUBLISHED) == 0
    assert dense_of_published(published) == expected and "external" in capsys.readouterr().out


def test_the_plain_dense_network_wins_over_one_with_the_late_tag(published):
    plain = {}
    for part in ("encoder", "head"):
        tagged = next(published.glob(f"*_{part}_*_later_*"))
        payload = torch.load(tagged, weights_only=True)
        next(iter(payload.values()))["fc.bias" if part == "head" else "encoder.bn1.bias"] += 0.1
        plain[part] = tagged.with_name(tagged.name.replace("_later_", "_"))
        torch.save(payload, plain[part])
    assert main(*PUBLISHED) == 0
    assert dense_of_published(published) == [records.file_sha256(plain[part]) for part in ("encoder", "head")]


@pytest.mark.parametrize("alone", ["encoder", "head"])
def test_an_encoder_and_a_head_of_other_tags_are_no_pair(published, alone):
    """Half of a plain pair beside a whole tagged one: the tagged pair is taken, or nothing."""
    tagged = [next(published.glob(f"*_{part}_*_later_*")) for part in ("encoder", "head")]
    half = tagged[["encoder", "head"].index(alone)]
    payload = torch.load(half, weights_only=True)
    next(iter(payload.values()))["fc.bias" if alone == "head" else "encoder.bn1.bias"] += 0.1
    torch.save(payload, half.with_name(half.name.replace("_later_", "_")))
    if main(*PUBLISHED) == 0:
        assert dense_of_published(published) == list(map(records.file_sha256, tagged))


# Debug


@pytest.mark.parametrize("method", METHODS)
def test_debug_of_gradual_and_iterative_pruning_saves_no_model(work, capsys, method):
    before = bytes_of(work)
    assert main(*gradual_training(method, 0.5, "--debug", "--save_epochs", "0,1")) == 0
    assert "GMP 0.5 id 0" in capsys.readouterr().out
    for after, more, tag in AFTER:
        assert main(*iterate(method, after, more), "--debug") == 0
        assert f"{tag} 0.5 id 0: sparsity 0.5" in capsys.readouterr().out
    assert main(f"{method}_pruning_finetune", *FINETUNED, "--criterion", "snip", "--debug") == 0
    assert bytes_of(work) == before


# Flags that would lie


@pytest.mark.parametrize(
    "script, flags",
    [
        ("sup_training", "--criterion snip"),
        ("sup_training", "--begin_epoch 0"),
        ("sup_training", "--pruning 0 --end_epoch 1"),
        ("clr_training", "--pruning_percentages 0.0 --scope global"),
        ("clr_training", "--pruning_percentages 0.0 --end_epoch_head 1"),
    ],
)
def test_our_pruning_flags_are_refused_where_nothing_is_pruned(digits_on_disk, capsys, script, flags):
    assert main(script, *SMALL, "--index_end", 0, "--epochs", 1, *flags.split()) == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1 and "nothing is pruned" in shown and not list(digits_on_disk.rglob("*.pt"))


@pytest.mark.parametrize(
    "flags, told",
    [
        ("--pruning 0.5 --accumulate_gradients --begin_epoch 0 --end_epoch 0.5", "belongs to dense networks"),
        ("--pruning 0.5 --criterion levai_zombori --begin_epoch 0 --end_epoch 0", "at step 1"),
        ("--pruning 0.5 --criterion levai_zombori --begin_step 0 --end_step 4 --frequency 1", "at step 1"),
    ],
)
def test_sums_of_gradients_need_a_training_and_a_dense_network(digits, capsys, flags, told):
    command = ["sup_training", *SUPERVISED, "--index_end", 0, *flags.split()]
    assert told in refused(digits, capsys, *command)


def test_published_steps_are_noted_where_nothing_is_pruned(digits_on_disk, capsys):
    words = "--index_end 0 --epochs 1 --begin_step 1000 --frequency 500 --debug"
    assert main("sup_training", *SMALL, *words.split()) == 0
    said = capsys.readouterr().out
    assert "--begin_step has no effect: nothing is pruned" in said and "--frequency has no effect" in said


def test_whole_filters_need_no_schedule_of_the_head_and_take_none(digits_on_disk, capsys):
    flags = "--index_end 0 --epochs 1 --head_epochs 1 --pruning_percentages 0.5 --begin_epoch 0 --end_epoch 0"
    flags = [*SMALL, *flags.split(), "--criterion", "filter_l1"]
    assert main("clr_training", *flags, "--begin_epoch_head", 0) == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1 and "--begin_epoch_head: the classifier head has no filters" in shown
    assert main("clr_training", *flags) == 0
    [path] = digits_on_disk.rglob("*_head_*.json")
    record = json.loads(path.read_text())
    assert not any(key.endswith("_head") and "step" in key for key in record["configuration"])
    assert "sparsity" not in record["history"][-1]


def test_no_weights_are_kept_beside_an_external_network(digits_on_disk, capsys):
    assert main("sup_training", *SMALL, "--index_end", 0, "--epochs", 2) == 0
    [record] = digits_on_disk.rglob("*.json")
    record.unlink()
    assert main("sup_training", *SMALL, "--index_end", 0, "--epochs", 2, "--save_epochs", 0) == 2
    assert "is external" in capsys.readouterr().err and len(list(digits_on_disk.rglob("*.pt"))) == 1


def test_absent_sparsities_name_those_that_are_there(digits_on_disk, capsys):
    assert main("sup_training", *SMALL, "--index_end", 0, "--epochs", 1) == 0
    words = "--pruning_schedule iterative --iterations 2 --rate 0.3 --after finetune --epochs 1"
    assert main("sup_pruning_finetune", *ONE, *words.split()) == 0
    words = "--pruning_methods global_iterative0.3_finetune --pruning_percentages 0.5"
    assert main("sup_pie_kmodels_detection", *ONE, *words.split()) == 2
    shown = capsys.readouterr().err
    assert "global_iterative0.3_finetune 0.5; there are: " in shown and "finetune_0.51pruning_" in shown


def test_published_commands_compare_what_there_is_and_name_the_rest_in_one_line(digits_on_disk, capsys):
    def said_by(*flags):
        assert main("sup_pie_kmodels_detection", *ONE, *flags) == 0
        lines = capsys.readouterr().out.splitlines()
        return [line for line in lines if "absent" in line]

    assert main("sup_training", *SMALL, "--index_end", 0, "--epochs", 1) == 0
    for script, first in (
        ("sup_pie_kmodels_detection", "pruning_finetune"),
        ("sup_prediction_depth", "training"),
    ):
        message = refused(digits_on_disk, capsys, script, *ONE)
        assert "no pruned networks" in message and f"train them with sup_{first}.py" in message
    finetune = ["sup_pruning_finetune", *ONE, "--epochs", 1, "--pruning_percentages", "0.5,0.9"]
    assert main(*finetune) == 0
    capsys.readouterr()
    line = "absent: " + ", ".join(
        [f"global {sparsity}" for sparsity in (0.3, 0.7, 0.95, 0.99)]
        + [f"GMP {sparsity}" for sparsity in (0.3, 0.5, 0.7, 0.9, 0.95, 0.99)]
    )
    assert said_by() == [line]
    assert said_by("--pruning_percentages", "0.5,0.7") == ["absent: global 0.7, GMP 0.5, GMP 0.7"]
    assert said_by("--pruning_methods", "global,GMP") == [line]


def test_a_network_trained_again_has_the_same_bytes_so_that_what_comes_from_it_still_fits(digits_on_disk):
    flags = [*SMALL, "--index_end", 0, "--epochs", 1]
    assert main("sup_training", *flags) == 0
    finetune = ["sup_pruning_finetune", *ONE, "--epochs", 1, "--pruning_percentages", 0.5]
    assert main(*finetune) == 0
    [path] = digits_on_disk.rglob("wideResNet-1_0.0pruning*.pt")
    before = path.read_bytes()
    path.unlink()
    assert main("sup_training", *flags) == 0 and path.read_bytes() == before
    assert main(*finetune) == 0
