"""Pruning by command: while training, by every criterion and scope, iteratively; the weights kept for it."""

import json
import shlex
import shutil

import numpy as np
import pytest
import torch
from conftest import GOLDEN_HERE, read_csv, write_few_digits
from test_criteria import check_counts
from test_scripts import DENSE, SMALL, main, remedy

from common import models, plots, pruning, training
from common.data import load_dataset
from common.methods import PruningMethod
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
SNIP = ["--criterion", "snip", "--scope", "global"]
COMPARED = [*SMALL, "--pruning_percentages", 0.5]
TRAININGS = {
    "sup": ("sup_training", SUPERVISED, "--pruning", GRADUAL),
    "clr": ("clr_training", CONTRASTIVE, "--pruning_percentages", [*GRADUAL, *GRADUAL_HEAD]),
}
FOLDER_FLAG = {"sup": "--save_path", "clr": "--encoder_save_path"}
METHODS = ("sup", "clr")
LEARNING = {"sup": "supervised", "clr": "SupCon"}
TRAINED_BY = {"sup": (CrossEntropy, "supervised"), "clr": (Contrastive, "contrastive")}
KEPT = ["--save_epochs", "0,1", "--accumulate_gradients"]
SELECTED = [
    ("snip", "global"),
    ("magnitude_increase", "global"),
    ("filter_l2", "layer"),
    ("random", "layer"),
    ("levai_zombori", "global"),
    ("grasp", "erk"),
]
AFTER = [
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


def iterate(method, after, more):
    return [f"{method}_pruning_finetune", *ITERATIVE, "--after", after, *more]


def small_training(method, sparsity, *extra):
    """The words that train dense networks of as many weights as are left at a sparsity."""
    script, settings, _, _ = TRAININGS[method]
    return [script, *settings, "--match_sparsity", sparsity, "--index_end", 0, *extra]


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
    """Every file but logs and locks."""
    paths = [path for path in work.rglob(pattern) if path.is_file()]
    return {path: path.read_bytes() for path in paths if not {"logs", ".locks"} & {*path.parts}}


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


def new_network(method):
    """A network without its classifier head, with weights from torch's generator."""
    shape = Architecture(10, 1)
    return models.SupervisedNetwork(shape, 3) if method == "sup" else models.ContrastiveEncoder(shape)


def check_lowest_are_gone(scores, before, after):
    """Of the weights that were there before, those with the lowest scores are gone."""
    flat = torch.cat([scores[name].flatten() for name in after])
    kept = ~gone_of(after)
    pruned = ~gone_of(before) & ~kept
    assert pruned.any() and flat[pruned].max() <= flat[kept].min()


def files_of(work, method, name, sparsity):
    """The files of network 0 by its pruning method and sparsity, encoder first."""
    tag = {"dense": "", "GMP": "", "later_GMP": "_later"}.get(name, f"_{name}")
    pattern = f"wideResNet-1{tag}_{sparsity}pruning_*epochs_*_id0.pt"
    if method == "clr":
        pattern = f"*_*_{sparsity}pruning{tag}_[0-9]*batch_*epochs_id0.pt"
    paths = sorted(folder(work).glob(pattern))
    assert len(paths) == {"sup": 1, "clr": 2}[method], f"{method} {name} {sparsity}"
    return paths


def refused(work, capsys, *command):
    """The one line with which a command is refused; it has written nothing."""
    before = bytes_of(work)
    capsys.readouterr()
    assert main(*command) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and message.endswith("\n"), message
    assert bytes_of(work) == before
    return message


def kept_remedy(message):
    """The command by which an error says that weights are kept."""
    script, *words = shlex.split(message.split("to save it, run: python ")[1])
    return script.removesuffix(".py"), words


def rows_of(work):
    rows = read_csv(work / "pies/few digits/results.csv")
    return {(row["learning_method"], row["pruning_method"]) for row in rows}


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


def test_contrastive_networks_pruned_while_training_stand_beside_dense_ones_which_have_no_tag(digits):
    more = "--schedule late --begin_epoch 0.5 --end_epoch 1.5 --frequency 3".split()
    assert main(*gradual_training("clr", "0.0,0.5", *more)) == 0
    dense, pruned = (files_of(digits, "clr", *name) for name in (("dense", 0.0), ("later_GMP", 0.5)))
    assert {*folder(digits).glob("*.pt")} == {*dense, *pruned}
    assert not gone_of(weights(*dense)).any()
    for path, tensors in zip(pruned, (9, 2)):
        assert len(weights(path)) == tensors
        check_counts(weights(path), 0.5, "magnitude", "layer")
    expected = {"schedule": "late", "criterion": "magnitude", "scope": "layer"}
    expected |= {"begin_step": 3, "end_step": 7, "frequency": 3}
    of_head = {"begin_step_head": 1, "end_step_head": 5, "frequency_head": 1}
    for path, its_steps in zip(pruned, (dict.fromkeys(of_head), of_head)):
        record = record_of(path)
        assert {
            key: record["configuration"].get(key) for key in (*expected, *of_head)
        } == expected | its_steps
        assert record["history"][-1]["sparsity"] == pytest.approx(0.5, abs=3e-3)  # 2 of the head's 3 biases
    dense = record_of(dense[0])
    assert not {"schedule", "criterion", "begin_step"} & set(dense["configuration"])
    assert "sparsity" not in dense["history"][-1]


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
    """Networks by the selected criteria and scopes, pruned once and while training."""
    place = tmp_path_factory.mktemp("everything") / "work"
    shutil.copytree(prepared[1], place)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for method in METHODS:
            for criterion, scope in SELECTED:
                words = ["--criterion", criterion, "--scope", scope]
                assert main(f"{method}_pruning_finetune", *FINETUNED, *words) == 0
                assert main(*gradual_training(method, 0.5, *words)) == 0
    return place


@pytest.mark.parametrize("method", METHODS)
def test_every_criterion_and_scope_prunes_its_share_of_weights_of_its_choice(everything, method):
    masks = set()
    for criterion, scope in SELECTED:
        for schedule in ("one-shot", "early"):
            paths = files_of(everything, method, str(PruningMethod(schedule, criterion, scope)), 0.5)
            configuration = record_of(paths[0])["configuration"]
            assert (configuration["criterion"], configuration["scope"]) == (criterion, scope)
            # Encoder and head are pruned together once, but while they are trained one by one.
            check_counts(weights(*paths if schedule == "one-shot" else paths[:1]), 0.5, criterion, scope)
            masks.add(gone_of(weights(*paths)).numpy().tobytes())
    assert len(masks) == 2 * len(SELECTED)


def scores_of(method, criterion, dense):
    """The scores of a dense network's weights, from what its training kept."""
    trained = weights(*dense)
    if criterion == "magnitude_increase":
        initial = weights(dense[0].with_name(f"{dense[0].stem}_epoch0.pt"))
        if method == "clr":
            training.seed_weights(0, "head", "weights")
            initial |= models.ClassificationHead(64, 3).state_dict()
        return {name: weight.abs() - initial[name].abs() for name, weight in trained.items()}
    sums = kept_sums(*dense)
    return {name: weight.abs() * sums[bare(name)][0] for name, weight in trained.items()}


@pytest.mark.parametrize("criterion", ["magnitude_increase", "levai_zombori"])
@pytest.mark.parametrize("method", METHODS)
def test_what_the_dense_training_kept_decides_what_is_pruned(everything, method, criterion):
    dense = files_of(everything, method, "dense", 0.0)
    pruned = weights(*files_of(everything, method, f"global_{criterion}", 0.5))
    check_lowest_are_gone(scores_of(method, criterion, dense), weights(*dense), pruned)


def test_stored_masks_keep_what_is_not_zero(everything, monkeypatch):
    monkeypatch.chdir(everything)
    for method in METHODS:
        words = [*COMPARED, "--models_number", 1, "--pruning_methods", "global_snip"]
        assert main(f"{method}_pie_kmodels_detection", *words) == 0
        paths = files_of(everything, method, "global_snip", 0.5)
        folder_of_method = everything / "pies/few digits" / LEARNING[method]
        stored, tensors = np.load(folder_of_method / f"evaluations/{paths[0].stem}.npz"), weights(*paths)
        gone = gone_of(tensors).numpy()
        assert np.array_equal(np.unpackbits(stored["mask_bits"], count=len(gone)), ~gone)
        assert stored["layer_shapes"].prod(1).tolist() == [tensor.numel() for tensor in tensors.values()]
        assert stored["layers"].tolist() == list(map(bare, tensors))


# Finetuned, not pruned


@pytest.mark.parametrize("method", METHODS)
def test_at_sparsity_0_the_dense_network_is_finetuned_as_pruned_ones_are_whatever_the_criterion(work, method):
    finetune = [f"{method}_pruning_finetune", *ONE, *"--epochs 2 --batch_size 16".split()]
    for path in folder(work).glob("*_gradient_sums.pt"):  # which nothing that is pruned by them could miss
        path.unlink()
    assert main(*finetune, "--pruning_percentages", "0.0", "--criterion", "levai_zombori") == 0
    paths, dense = (files_of(work, method, name, 0.0) for name in ("finetuned", "dense"))
    record, data = record_of(paths[-1]), load_dataset("folder", "few digits")
    network = training.prepare(records.load_network(*dense), torch.device("cpu"))
    fit(
        CrossEntropy(network, data, record["configuration"]), TrainingContext((0, "finetuning")), range(2), {}
    )
    assert same(network.state_dict(), records.load_network(*paths).state_dict())
    before = bytes_of(work, "*finetuned*")
    assert main(*finetune, "--pruning_percentages", "0.5,0.0", "--criterion", "snip") == 0
    assert bytes_of(work, "*finetuned*") == before
    pruned = files_of(work, method, "global_snip", 0.5)
    shared = record_of(pruned[-1])["configuration"]
    assert {**shared, **record["configuration"]} == {**shared, "pruning_method": "finetuned", "sparsity": 0.0}
    assert shared.keys() - record["configuration"].keys() == {"criterion", "scope"}


def test_the_finetuned_control_is_taken_along_with_one_shot_networks_and_called_not_pruned(work, capsys):
    finetune = ["clr_pruning_finetune", *FINETUNED[:-1]]
    assert main(*finetune, 0.5) == 0
    compared = [*COMPARED, "--models_number", 1]
    assert main("clr_pie_kmodels_detection", *compared, "--plot_q_score") == 0
    assert "no finetuned control: pruning_finetune with --pruning_percentages 0.0" in capsys.readouterr().out
    assert main(*finetune, 0.0) == 0
    for script, flags in (("pie_kmodels_detection", ["--plot_q_score"]), ("prediction_depth", [])):
        capsys.readouterr()
        assert main(f"clr_{script}", *compared, *flags) == 0
        table = [line.split()[1] for line in capsys.readouterr().out.splitlines() if "here" in line]
        assert table == ["dense", "finetuned", "global"]
    [figure] = work.glob("pies/few digits/SupCon/q_score/*finetuned*.npz")
    arrays = np.load(figure)
    assert "SupCon · finetuned, not pruned\n1 networks" in str(arrays["title"])
    assert all("finetuned networks" in panel.get_ylabel() for panel in plots.draw(arrays).axes[:3])


# Iterative pruning


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
    before = weights(*files_of(iterated, method, "dense", 0.0))
    for iteration, sparsity in enumerate((0.5, 0.75, 0.875), 1):
        paths = files_of(iterated, method, f"global_iterative0.5_{tag}", sparsity)
        pruned = weights(*paths)
        check_counts(pruned, sparsity, "magnitude", "global")
        check_lowest_are_gone({name: weight.abs() for name, weight in before.items()}, before, pruned)
        assert not (gone_of(before) & ~gone_of(pruned)).any(), "what was pruned stays pruned"
        before, record = pruned, record_of(paths[-1])
        assert record["configuration"]["iteration"] == iteration and record["configuration"]["after"] == after
        assert (record.get("previous_sha256") is None) == (iteration == 1)
        assert record["name"]["epochs"] == (1 if after == "finetune" else 2)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("tag, epoch", [("rewind1", 1), ("lr_rewind1", 1), ("reinit", 0)])
def test_every_iteration_is_trained_as_the_dense_network_was_from_where_it_begins(
    iterated, monkeypatch, method, tag, epoch
):
    monkeypatch.chdir(iterated)
    dense = before = files_of(iterated, method, "dense", 0.0)
    settings, data = record_of(dense[-1])["configuration"], load_dataset("folder", "few digits")
    kind, stage = TRAINED_BY[method]
    for iteration, sparsity in ((1, 0.5), (2, 0.75)):
        paths = files_of(iterated, method, f"global_iterative0.5_{tag}", sparsity)
        masks = {name: (weight != 0).float() for name, weight in weights(*paths).items()}
        of_head = {name: masks.pop(name) for name in list(masks) if name.startswith("fc.")}
        training.seed_weights(0, "reinit", iteration)
        network, head_key = new_network(method), (0, "head")
        if tag == "reinit":
            head_key = (0, "reinit", iteration, "head")
        else:
            kept = dense[0].with_name(f"{dense[0].stem}_epoch{epoch}.pt")
            network.load_state_dict(tensors_of(before[0] if "lr_" in tag else kept))
        training.prepare(network, torch.device("cpu"))
        fit(kind(network, data, settings), TrainingContext((0, stage)), range(epoch, 2), masks)
        assert same(network.state_dict(), tensors_of(paths[0]))
        if method == "clr":
            training.seed_weights(*head_key, "weights")
            head = models.ClassificationHead(64, 3)
            fit(Head(network.encoder, head, data, settings), TrainingContext(head_key), range(2), of_head)
            assert same(head.state_dict(), tensors_of(paths[1]))
        before = paths


@pytest.mark.parametrize("method, after, more, tag", [("clr", *AFTER[0]), ("sup", *AFTER[-1])])
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
    assert "made from a different dense model, encoder or iteration" in refused(place, capsys, *command)


@pytest.mark.parametrize(
    "networks",
    [
        "sup snip_batches layer",
        "sup grasp erk",
        "sup synflow global",
        "sup random global",
        "clr filter_l2 layer",
        "clr levai_zombori global",
    ],
)
def test_iterations_by_other_criteria_prune_their_shares_too(work, monkeypatch, networks):
    method, criterion, scope = networks.split()
    monkeypatch.setattr(pruning, "SYNFLOW_ROUNDS", 5)
    assert main(*iterate(method, "rewind", ["--criterion", criterion, "--scope", scope])) == 0
    gone = []
    for sparsity in (0.5, 0.75, 0.875):
        name = str(PruningMethod("iterative", criterion, scope, 0.5, "rewind"))
        tensors = weights(*files_of(work, method, name, sparsity))
        check_counts(tensors, sparsity, criterion, scope)
        gone.append(gone_of(tensors))
    assert (gone[1] | ~gone[0]).all() and (gone[2] | ~gone[1]).all()


@pytest.mark.parametrize("method", METHODS)
def test_the_increase_of_reinitialised_weights_is_measured_from_their_reinitialisation(work, method):
    assert main(*iterate(method, "reinit", ["--criterion", "magnitude_increase"])) == 0
    name = "global_magnitude_increase_iterative0.5_reinit"
    first, second = (weights(*files_of(work, method, name, sparsity)) for sparsity in (0.5, 0.75))
    training.seed_weights(0, "reinit", 1)
    initial = new_network(method)
    initial = initial.state_dict() if method == "sup" else initial.encoder.state_dict()
    if method == "clr":
        training.seed_weights(0, "reinit", 1, "head", "weights")
        initial |= models.ClassificationHead(64, 3).state_dict()
    growth = {name: weight.abs() - initial[name].abs() for name, weight in first.items()}
    check_lowest_are_gone(growth, first, second)


def test_iterations_by_levai_zombori_use_the_sums_of_the_iteration_before(work):
    command = iterate("sup", "rewind", ["--criterion", "levai_zombori"])
    assert main(*command) == 0
    name = "global_levai_zombori_iterative0.5_rewind0"
    paths = [files_of(work, "sup", name, sparsity)[0] for sparsity in (0.5, 0.75, 0.875)]
    for earlier, later in zip(paths, paths[1:]):
        scores = scores_of("sup", "levai_zombori", [earlier])
        check_lowest_are_gone(scores, weights(earlier), weights(later))
    networks = bytes_of(work, "*.pt")
    paths[2].unlink()
    names.gradients_path(paths[1]).unlink()
    assert main(*command) == 0
    assert bytes_of(work, "*.pt") == networks


# Kept weights


@pytest.mark.parametrize("method", METHODS)
def test_kept_weights_are_those_of_the_network_on_its_way(work, method):
    dense = files_of(work, method, "dense", 0.0)[0]
    first, second = (dense.with_name(f"{dense.stem}_epoch{epoch}.pt") for epoch in (0, 1))
    training.seed_weights(0, TRAINED_BY[method][1], "weights")
    assert same(tensors_of(first), new_network(method).state_dict())
    # Its learning rate does not depend on how long the training will be: a training of one epoch ends there.
    assert main(*dense_training(method, "--epochs", 1, FOLDER_FLAG[method], "short")) == 0
    [short] = [path for path in (work / "short").glob("*.pt") if "_head_" not in path.name]
    assert same(tensors_of(second), tensors_of(short))


@pytest.mark.parametrize("method", METHODS)
def test_where_the_model_is_finished_what_it_kept_is_made_again_and_is_the_same(work, method, capsys):
    models_of = {"sup": "wide*_id0", "clr": "Wide*_id0"}[method]
    kept = [path for kind in ("epoch*", "*_sums") for path in folder(work).glob(f"{models_of}_{kind}.pt")]
    before = bytes_of(work, "*.pt")
    assert len(kept) == {"sup": 3, "clr": 4}[method]
    for path in kept:
        path.unlink()
        path.with_suffix(".json").unlink()
    capsys.readouterr()
    assert main(*dense_training(method, *KEPT)) == 0
    assert "finished before" not in capsys.readouterr().out and bytes_of(work, "*.pt") == before
    after = bytes_of(work)
    assert main(*dense_training(method, *KEPT)) == 0
    assert bytes_of(work) == after


def test_the_head_alone_is_made_again_though_weights_are_kept_at_the_same_time(work):
    before = bytes_of(work, "*.pt")
    for path in [*folder(work).glob("*_head_*_id0.pt"), *folder(work).glob("*_encoder_*_id0_epoch1.pt")]:
        path.unlink()
    assert main(*dense_training("clr", "--save_epochs", "1")) == 0
    assert bytes_of(work, "*.pt") == before


@pytest.mark.parametrize(
    "method, words",
    [
        (
            "clr",
            "--pruning_schedule iterative --iterations 1 --rewind_epoch 1 --criterion magnitude_increase",
        ),
        ("clr", "--epochs 1 --pruning_percentages 0.5 --criterion levai_zombori"),
    ],
)
def test_weights_that_were_not_kept_are_named_with_the_command_that_keeps_them(digits, capsys, method, words):
    assert main(*dense_training(method, "--index_end", 1)) == 0
    command = [f"{method}_pruning_finetune", *SMALL, "--models_number", 2, *words.split()]
    script, words = kept_remedy(refused(digits, capsys, *command))
    before = bytes_of(digits)
    assert main(script, *words) == 0
    assert {path: content for path, content in bytes_of(digits).items() if path in before} == before
    assert main(*command) == 0


# What is refused


def without_records(work):
    """As if all networks came from elsewhere."""
    for path in folder(work).iterdir():
        if path.suffix == ".json" or "_epoch" in path.name:
            path.unlink()


def kept_file(work, kind):
    """What the training of the supervised network 0 kept."""
    [dense] = files_of(work, "sup", "dense", 0.0)
    return dense.with_name(f"{dense.stem}_{kind}.pt")


def weights_of_another_seed(work):
    for ending in (".pt", ".json"):
        path = kept_file(work, "epoch0").with_suffix(ending)
        shutil.copy(path.with_name(path.name.replace("_id0", "_id1")), path)


def weights_of_other_settings(work):
    path = kept_file(work, "epoch0")
    record = record_of(path)
    record["configuration"]["learning_rate"] = 0.01
    path.with_suffix(".json").write_text(json.dumps(record))


def weights_without_a_record(work):
    kept_file(work, "epoch0").with_suffix(".json").unlink()


def not_finite(kind):
    def prepare(work):
        path = kept_file(work, kind)
        payload = torch.load(path, weights_only=True)
        next(iter(payload.get("model", payload).values())).view(-1)[0] = float("nan")
        torch.save(payload, path)
        record = {**record_of(path), "checkpoint_sha256": records.file_sha256(path)}
        path.with_suffix(".json").write_text(json.dumps(record))

    return prepare


ITERATED, ONCE = ["sup_pruning_finetune", *ITERATIVE], ["sup_pruning_finetune", *FINETUNED, "--criterion"]
AGAIN = "move it away and run: "
NOT_FINITE = "holds values that are not finite, in "


@pytest.mark.parametrize(
    "prepare, command, told",
    [
        (None, [*ITERATED, "--rewind_epoch", 2], "the dense networks were trained for 2 epochs"),
        (None, [*ITERATED, "--epochs", 1], "--epochs belongs to --after finetune"),
        (
            None,
            gradual_training("clr", 0.5, "--end_epoch", 3),
            "to step 13 does not fit its training of 8 steps",
        ),
        (without_records, ITERATED, "cannot be trained again; give --after finetune"),
        (without_records, [*ONCE, "levai_zombori"], "external: its training is unknown; choose another"),
        (without_records, dense_training("sup", "--save_epochs", 1), "is external"),
        (weights_of_another_seed, ITERATED, AGAIN),
        (
            weights_of_other_settings,
            [*ONCE, "magnitude_increase"],
            f"0.01, not 0.05); give the same ones, or {AGAIN}",
        ),
        (weights_without_a_record, ITERATED, f"has no record; {AGAIN}"),
        (not_finite("epoch0"), ITERATED, f"_epoch0.pt {NOT_FINITE}"),
        (not_finite("gradient_sums"), [*ONCE, "levai_zombori"], f"_gradient_sums.pt {NOT_FINITE}"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(work, capsys, prepare, command, told):
    if prepare:
        prepare(work)
    assert told in refused(work, capsys, *command)


def test_external_networks_are_pruned_iteratively_with_finetuning(work):
    without_records(work)
    assert main(*iterate("clr", "finetune", ["--epochs", 1])) == 0
    tensors = weights(*files_of(work, "clr", "global_iterative0.5_finetune", 0.875))
    check_counts(tensors, 0.875, "magnitude", "global")


def change_code(work, pattern):
    """As if other code had made these files; their names."""
    paths = sorted(folder(work).glob(pattern))
    for path in paths:
        record = json.loads(path.read_text())
        record["code"]["augment"] = "0" * 12
        path.write_text(json.dumps(record))
    return {path.with_suffix(".pt").name for path in paths}


def test_what_is_made_from_networks_of_other_code_is_refused_or_says_so(work, capsys):
    """Kept weights, sums of gradients, dense networks, one after the other; then all."""
    command = [*iterate("clr", "rewind", ["--rewind_epoch", 1]), "--criterion", "levai_zombori"]
    before = bytes_of(work, "models/**/*.json")
    for kind in ("*_epoch1.json", "*_gradient_sums.json", "*_id[0-9].json"):
        changed = change_code(work, kind)
        message = refused(work, capsys, *command)
        assert "by a different version of augment; give --other_code" in message
        assert any(name in message for name in changed)
        for name, content in before.items():
            (work / name).write_bytes(content)
    made_from = set.union(*(change_code(work, kind) for kind in ("*_id0*_epoch1.json", "*_id0*_sums.json")))
    made_from |= change_code(work, "*_id0.json")
    assert main(*command, "--other_code") == 0
    first, *later = sorted(folder(work).glob("*iterative*_id0.json"), key=lambda path: path.stat().st_mtime)
    expected = {name for name in made_from if name.startswith("WideResNet")}
    assert record_of(first)["made_from_other_code"] == dict.fromkeys(expected, ["augment"])
    for path in later:
        assert record_of(path)["made_from_other_code"].keys() >= expected


# Populations


GMP_COMPARED = ["sup_pie_kmodels_detection", *COMPARED, "--models_number", 1, "--pruning_methods", "GMP"]


def test_networks_pruned_while_training_are_chosen_by_the_settings_of_the_dense_ones_or_noted(work, capsys):
    assert main(*gradual_training("sup", 0.5, "--epochs", 3)) == 0
    assert main(*GMP_COMPARED) == 0
    [note] = [line for line in capsys.readouterr().out.splitlines() if "note: " in line]
    assert note.endswith("epochs 3, not 2")
    assert main(*gradual_training("sup", 0.5)) == 0
    capsys.readouterr()
    assert main(*GMP_COMPARED, "--run", "two") == 0
    shown = capsys.readouterr().out
    assert "GMP 0.5 (epochs 2, " in shown and "GMP 0.5 (epochs 3, " not in shown and "note: " not in shown


@pytest.mark.parametrize("method", METHODS)
def test_narrower_networks_stand_beside_the_pruned_ones_of_as_many_weights(work, capsys, method):
    assert main(*small_training(method, 0.5)) == 0
    said = "small_dense 0.5: 11, 11, 23, 45 channels instead of 16, 16, 32, 64, "
    assert said in capsys.readouterr().out
    paths = files_of(work, method, "small_dense", 0.5)
    count = sum(tensor.numel() for tensor in weights(*paths).values() if tensor.ndim == 4)
    assert count == models.convolution_weights(10, (11, 11, 23, 45))
    small, dense = (record_of(each[0]) for each in (paths, files_of(work, method, "dense", 0.0)))
    own = {"pruning_method": "small_dense", "sparsity": 0.5}
    assert small["configuration"] == dense["configuration"] | own and small["sparsity"]["zeros"] == 0


MADE = [
    ("sup", "later_GMP_global_snip", gradual_training("sup", 0.5, *SNIP, "--schedule", "late")),
    ("clr", "small_dense", small_training("clr", 0.5)),
    ("sup", "finetuned", ["sup_pruning_finetune", *FINETUNED[:-1], 0.0]),
    ("clr", "global_snip", ["clr_pruning_finetune", *FINETUNED, *SNIP]),
    ("sup", "global_iterative0.5_rewind1", iterate("sup", "rewind", ["--rewind_epoch", 1])),
]


@pytest.mark.parametrize("method, name, made", MADE, ids=[name for _, name, _ in MADE])
def test_the_commands_for_missing_pruned_networks_make_the_comparison_work(work, capsys, method, name, made):
    assert main(*made) == 0
    before = bytes_of(work, "*.pt")
    compare = [f"{method}_pie_kmodels_detection", *COMPARED, "--pruning_methods", name, "--models_number"]
    assert main(*compare, 1) == 0
    two = [*compare, 2, "--run", "two"]  # results of one network stay where they are
    script, words = remedy(refused(work, capsys, *two))
    assert main(script, *words) == main(*two) == main(*compare, 1) == 0
    assert {path: content for path, content in bytes_of(work, "*.pt").items() if path in before} == before
    assert rows_of(work) >= {(LEARNING[method], "dense"), (LEARNING[method], name)}


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


@pytest.mark.parametrize("plain, taken", [(("encoder", "head"), ""), (("head",), "_later")])
def test_a_published_pair_with_the_late_tag_is_read_where_there_is_no_plain_pair(
    published, capsys, plain, taken
):
    """plain: the parts of which there is one without the tag too, with other weights."""
    for part in plain:
        tagged = next(published.glob(f"*_{part}_*_later_*"))
        payload = torch.load(tagged, weights_only=True)
        next(iter(payload.values()))["fc.bias" if part == "head" else "encoder.bn1.bias"] += 0.1
        torch.save(payload, tagged.with_name(tagged.name.replace("_later_", "_")))
    assert main(*PUBLISHED) == 0 and "external" in capsys.readouterr().out
    pair = [next(published.glob(f"*_{part}_*_0.0pruning{taken}_[0-9]*")) for part in ("encoder", "head")]
    record = record_of(next(published.glob("*_head_*_global_*.pt")))
    assert record["dense_sha256"] == [records.file_sha256(path) for path in pair]


# Debug


def test_debug_of_gradual_and_iterative_pruning_saves_no_model(work, capsys):
    before = bytes_of(work)
    assert main(*gradual_training("clr", 0.5, "--debug", "--save_epochs", "0,1")) == 0
    assert "GMP 0.5 id 0" in capsys.readouterr().out
    after, more, tag = AFTER[0]
    assert main(*iterate("clr", after, more), "--debug") == 0
    assert f"{tag} 0.5 id 0: sparsity 0.5" in capsys.readouterr().out
    assert main("clr_pruning_finetune", *FINETUNED, "--criterion", "snip", "--debug") == 0
    assert bytes_of(work) == before


def test_published_commands_compare_what_there_is_and_name_the_rest_in_one_line(digits_on_disk, capsys):
    def said_by(*flags):
        assert main("sup_pie_kmodels_detection", *ONE, *flags) == 0
        lines = capsys.readouterr().out.splitlines()
        return [line for line in lines if "not found, left out" in line]

    assert main("sup_training", *SMALL, "--index_end", 0, "--epochs", 1) == 0
    message = refused(digits_on_disk, capsys, "sup_prediction_depth", *ONE)
    assert "no pruned networks" in message and "train them with sup_training.py" in message  # GMP first
    finetune = ["sup_pruning_finetune", *ONE, "--epochs", 1, "--pruning_percentages", "0.5,0.9"]
    assert main(*finetune) == 0
    capsys.readouterr()
    missing = {"global": (0.3, 0.7, 0.95, 0.99), "GMP": (0.3, 0.5, 0.7, 0.9, 0.95, 0.99)}
    kinds = [f"{method} {sparsity}" for method, sparsities in missing.items() for sparsity in sparsities]
    line = f"not found, left out: {', '.join(kinds)}"
    assert said_by() == [line]
    assert said_by("--pruning_percentages", "0.5,0.7") == [
        "not found, left out: global 0.7, GMP 0.5, GMP 0.7"
    ]
