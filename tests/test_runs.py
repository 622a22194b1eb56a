"""Pruning while training: what the flags ask for, and what the three trainings do with it."""

import copy
import itertools
import re

import pytest
import torch
import torch.nn.functional as F
from test_training import classifying, contrasting, encoder, few, network, train_head

import clr_training
import sup_pruning_finetune
import sup_training
from common import augment, evaluation, methods, requested, training
from common.cli import UserError
from common.losses import contrastive_loss
from common.pruning import GradualPruning, measure_sparsity
from common.training import TrainingContext, fit

CLR, SUP, PRUNE = (script.build_parser() for script in (clr_training, sup_training, sup_pruning_finetune))
PARSERS = {"encoder": CLR, "supervised": SUP, "head": CLR}


def schedule_of(kind, words="", epochs=None, batch_size=None, images=50_000, sparsity=0.9):
    """The schedule that a training script's flags ask for; its sizes are the published ones by default."""
    flags = PARSERS[kind].parse_args(words.split())
    if epochs:
        flags.epochs = flags.head_epochs = epochs
        flags.batch_size = flags.batch_size_head = batch_size
    return requested.gradual_pruning(flags, sparsity, kind, images)


def steps_of(pruning):
    return pruning.begin_step, pruning.end_step, pruning.frequency


def refusal(kind, words, **more):
    with pytest.raises(UserError) as caught:
        schedule_of(kind, words, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# The schedule that flags ask for


@pytest.mark.parametrize(
    "kind, words, steps",
    [
        ("encoder", "", (2440, 4760, 62)),  # late by default
        ("encoder", "--schedule early", (62, 2382, 62)),
        ("supervised", "", (1000, 20000, 500)),  # early by default
        ("supervised", "--schedule late", (20000, 39000, 500)),
        ("head", "--schedule early", (500, 10000, 250)),
        ("head", "--schedule late", (500, 10000, 250)),
    ],
)
def test_steps_without_flags_are_the_published_ones(kind, words, steps):
    assert schedule_of(kind, words) == GradualPruning(0.9, *steps, "magnitude", "layer")


def test_criterion_scope_and_sparsity_are_those_of_the_flags():
    pruning = schedule_of("encoder", "--criterion snip --scope global", sparsity=0.3)
    assert (pruning.criterion, pruning.scope, pruning.sparsity) == ("snip", "global", 0.3)
    assert schedule_of("supervised", "--criterion filter_l1").scope == "layer"


@pytest.mark.parametrize("kind", PARSERS)
def test_given_steps_take_the_place_of_the_published_ones_one_by_one(kind):
    suffix = "_head" if kind == "head" else ""
    begin, end, frequency = steps_of(schedule_of(kind))
    for words, steps in (
        ("--begin_step{0} 7", (7, end, frequency)),
        ("--end_step{0} 9999", (begin, 9999, frequency)),
        ("--frequency{0} 3", (begin, end, 3)),
        ("--begin_step{0} 0 --end_step{0} 5 --frequency{0} 1", (0, 5, 1)),
    ):
        assert steps_of(schedule_of(kind, words.format(suffix))) == steps


def test_encoder_and_head_have_flags_of_their_own():
    words = "--begin_step 100 --end_step 200 --frequency 10 --begin_epoch_head 1 --end_epoch_head 2"
    words += " --frequency_head 20"
    assert steps_of(schedule_of("encoder", words)) == (100, 200, 10)
    assert steps_of(schedule_of("head", words)) == (197, 393, 20)


@pytest.mark.parametrize(
    "kind, words, epochs, batch_size, images, steps",
    [
        ("supervised", "--begin_epoch 1 --end_epoch 4", 12, 64, 1437, (24, 93, 2)),  # 23 steps an epoch
        ("supervised", "--begin_epoch 1 --end_epoch 4 --frequency 5", 12, 64, 1437, (24, 93, 5)),
        ("supervised", "--begin_epoch 0.5 --end_epoch 1", 12, 100, 1000, (6, 11, 1)),
        ("encoder", "--begin_epoch 2 --end_epoch 2", 12, 100, 1000, (21, 21, 1)),
        ("head", "--begin_epoch_head 10 --end_epoch_head 48", 50, 256, 50_000, (1961, 9409, 196)),
        ("encoder", "--begin_epoch 50", 500, 1024, 50_000, (2451, 4760, 61)),
        ("encoder", "--begin_epoch 1 --end_step 60", 500, 1024, 50_000, (50, 60, 1)),
    ],
)
def test_epochs_mean_the_step_before_which_so_many_are_done(kind, words, epochs, batch_size, images, steps):
    pruning = schedule_of(kind, words, epochs, batch_size, images)
    assert steps_of(pruning) == steps
    if "frequency" not in words:
        assert len(pruning.sparsities()) <= methods.INTERVALS + 1


@pytest.mark.parametrize(
    "last, too_late", [("--end_step 60", "--end_step 61"), ("--end_epoch 5.9", "--end_epoch 6")]
)
def test_the_last_step_of_the_training_is_the_last_that_can_prune(last, too_late):
    size = {"epochs": 6, "batch_size": 100, "images": 1000}
    assert schedule_of("supervised", f"--begin_step 1 {last}", **size).end_step == 60
    assert "does not fit its training of 60 steps" in refusal(
        "supervised", f"--begin_step 1 {too_late}", **size
    )


@pytest.mark.parametrize(
    "kind, epochs, batch_size, told",
    [
        (
            *("supervised", 12, 64),
            "pruning of the network from step 1000 to step 20000 does not fit its training of 276 steps "
            "(12 epochs of 23); give, for example, --begin_epoch 0.15 --end_epoch 3",
        ),
        (
            *("head", 10, 256),
            "pruning of the classifier head from step 500 to step 10000 does not fit its training of 60 "
            "steps (10 epochs of 6); give, for example, --begin_epoch_head 0.26 --end_epoch_head 5.1",
        ),
    ],
)
def test_a_schedule_that_ends_after_the_training_is_refused_with_numbers_that_fit(
    kind, epochs, batch_size, told
):
    assert refusal(kind, "", epochs=epochs, batch_size=batch_size, images=1437) == told


NO_FIT = "from step {} to step {} does not fit its training"


@pytest.mark.parametrize(
    "kind, words, told",
    [
        (
            *("supervised", "--begin_step 20001"),
            f"network {NO_FIT.format(20001, 20000)}",
        ),
        ("supervised", "--begin_step 0 --end_step 0", NO_FIT.format(0, 0)),
        (
            *("head", "--begin_step_head 30 --end_step_head 20"),
            f"classifier head {NO_FIT.format(30, 20)}",
        ),
        ("head", "--end_step_head 5 --end_epoch_head 5", "--end_epoch_head exclude each other"),
    ],
)
def test_a_schedule_that_never_fires_or_is_given_twice_is_refused(kind, words, told):
    assert told in refusal(kind, words)


@pytest.mark.parametrize("kind, schedule", list(itertools.product(PARSERS, methods.GRADUAL)))
def test_epochs_that_a_refusal_suggests_are_accepted(kind, schedule):
    suffix = "_head" if kind == "head" else ""
    epochs_of_all = (1, 2, 3, 7, 50, 1500)
    wrong_words = (f"--end_step{suffix} 2000000000", f"--begin_step{suffix} 9 --end_step{suffix} 8")
    for epochs, images, batch_size in itertools.product(
        epochs_of_all, (1, 70, 1437, 50_000), (1, 16, 128, 5000)
    ):
        size = {"epochs": epochs, "images": images, "batch_size": batch_size}
        steps = epochs * -(-images // batch_size)
        # The published steps fit no training of one step.
        for wrong in wrong_words if steps > 1 else ("",):
            message = refusal(kind, f"--schedule {schedule} {wrong}", **size)
            suggested = re.search(
                rf"for example, (--begin_epoch{suffix} \S+ --end_epoch{suffix} \S+)", message
            )[1]
            pruning = schedule_of(kind, f"--schedule {schedule} {suggested}", **size)
            assert 1 <= pruning.begin_step <= pruning.end_step <= steps
            assert max(pruning.sparsities().values()) == 0.9


ITERATIVE = "--pruning_schedule iterative"


def pruning_method(words):
    return str(requested.pruning_method(PRUNE.parse_args(words.split())))


def test_iterative_methods_are_those_of_their_flags():
    words = f"{ITERATIVE} --criterion random --rate 0.9 --iterations 4 --rewind_epoch 2"
    assert pruning_method(words) == "global_random_iterative0.9_rewind2"


def sparsities(words):
    return requested.sparsities_to_train(SUP.parse_args(words.split()))


def schedule(words):
    return schedule_of("supervised", words, epochs=2, batch_size=16, images=60)


@pytest.mark.parametrize(
    "function, words, told",
    [
        (pruning_method, "--rate 0.5", "--rate belongs to --pruning_schedule iterative"),
        (pruning_method, "--after rewind", "--after belongs to --pruning_schedule iterative"),
        (pruning_method, f"{ITERATIVE} --pruning_percentages 0.5", "--pruning_percentages belongs"),
        (pruning_method, f"{ITERATIVE} --epochs 1", "--epochs belongs to --after finetune"),
        (pruning_method, f"{ITERATIVE} --after reinit --batch_size=16", "--batch_size belongs"),
        (pruning_method, f"{ITERATIVE} --after reinit --rewind_epoch 1", "--rewind_epoch belongs"),
        (pruning_method, f"{ITERATIVE} --rate 0.9 --iterations 5", "--iterations 5 at --rate 0.9"),
        (pruning_method, "--criterion filter_l1 --scope global", "--scope global"),
        (pruning_method, f"{ITERATIVE} --criterion filter_random --scope erk", "--scope erk"),
        (sparsities, "--end_epoch 1", "--end_epoch: nothing is pruned"),
        (sparsities, "--match_sparsity 0.5 --criterion snip", "--criterion: nothing is pruned"),
        (sparsities, "--match_sparsity 0.5 --accumulate_gradients", "dense networks of full width"),
        (schedule, "--criterion levai_zombori --begin_step 0 --end_step 4 --frequency 1", "at step 1"),
    ],
)
def test_flags_that_do_not_fit_together_are_refused(function, words, told):
    with pytest.raises(UserError, match=told):
        function(words)


def test_flags_of_the_heads_schedule_are_refused_where_whole_filters_are_pruned():
    assert schedule_of("head", "--criterion filter_l1 --begin_epoch 0") is None
    message = refusal("head", "--criterion filter_l1 --begin_epoch_head 0")
    assert "--begin_epoch_head: the classifier head has no filters" in message


# Trainings


def train_supervised(pruning, dropout=0.0):
    net = network(dropout=dropout)
    return net, fit(classifying(net), TrainingContext((0, "supervised")), range(3), pruning=pruning)


def train_contrastive(pruning, dropout=0.0, lars=False):
    model = encoder(dropout)
    of = contrasting(model, few(), lars=lars)
    return model, fit(of, TrainingContext((0, "contrastive")), range(3), pruning=pruning)


def train_a_head(pruning):
    return train_head(encoder().encoder, pruning=pruning)


# Three epochs of three steps each.
TRAININGS = {"supervised": train_supervised, "contrastive": train_contrastive, "head": train_a_head}


def pruned_part(kind, network):
    return network.encoder if kind == "contrastive" else network


@pytest.mark.parametrize("criterion, scope, lars", [("magnitude", "layer", True), ("snip", "global", False)])
def test_the_projection_head_is_never_pruned(criterion, scope, lars):
    model, _ = train_contrastive(GradualPruning(0.8, 2, 5, 2, criterion, scope), lars=lars)
    weights = [weight for name, weight in model.head.named_parameters() if name.endswith("weight")]
    assert len(weights) == 2 and all((weight != 0).all() for weight in weights)
    assert measure_sparsity(model.encoder)["zeros"] > 0


@pytest.mark.parametrize(
    "kind, begin, told", [("supervised", 4, [1, 2]), ("contrastive", 7, [2]), ("head", 3, [0, 1, 2])]
)
def test_steps_are_counted_over_all_epochs_and_sparsity_is_told_from_the_first_firing_on(kind, begin, told):
    # Three steps an epoch, counted from 1.
    network, history = TRAININGS[kind](GradualPruning(0.5, begin, begin, 1))
    achieved = measure_sparsity(pruned_part(kind, network))["total"]
    assert achieved > 0
    sparsities = {entry["epoch"]: entry["sparsity"] for entry in history if "sparsity" in entry}
    assert sparsities == dict.fromkeys(told, achieved)


@pytest.mark.parametrize("criterion", ["snip", "grasp", "synflow", "filter_random"])
@pytest.mark.parametrize("kind", TRAININGS)
def test_measuring_without_pruning_leaves_the_training_bit_for_bit_as_it_was(monkeypatch, kind, criterion):
    monkeypatch.setattr("common.pruning.SYNFLOW_ROUNDS", 2)
    # Views, dropout and batch norm would show it if a criterion drew from their streams or ran in train mode.
    more = {} if kind == "head" else {"dropout": 0.3}
    dense, measured = (
        TRAININGS[kind](pruning, **more)[0].state_dict()
        for pruning in (None, GradualPruning(0.0, 1, 9, 2, criterion))
    )
    assert dense.keys() == measured.keys()
    assert all(torch.equal(tensor, measured[name]) for name, tensor in dense.items())


@pytest.mark.parametrize("kind, of", [("supervised", "CrossEntropy"), ("contrastive", "Contrastive")])
def test_every_firing_measures_other_batches(kind, of, monkeypatch):
    keys, original = [], getattr(training, of).criterion_losses
    seen = lambda self, key: keys.append(key) or original(self, key)
    monkeypatch.setattr(getattr(training, of), "criterion_losses", seen)
    TRAININGS[kind](GradualPruning(0.5, 2, 5, 2, "snip"))
    assert keys == [(0, kind, 2), (0, kind, 4), (0, kind, 5)]


# Losses for criteria that look at gradients


def supervised_losses(network, data, batch_size=16):
    return classifying(network, data, batch_size=batch_size).criterion_losses((0, "supervised", 5))


def encoder_losses(model, data, batch_size=16):
    return contrasting(model, data, batch_size=batch_size).criterion_losses((0, "contrastive", 5))


BOTH = pytest.mark.parametrize(
    "new, losses",
    [(network, supervised_losses), (encoder, encoder_losses)],
    ids=["supervised", "contrastive"],
)


@BOTH
def test_a_few_batches_are_measured_and_no_more_than_there_are(new, losses):
    counts = [len(list(losses(new(), few(), batch_size))) for batch_size in (32, 5, 500)]
    assert counts == [3, training.GRADIENT_BATCHES, 1] == [3, 10, 1]


def test_the_losses_are_those_of_unaugmented_images_each_at_most_once():
    data, net = few(), network(dropout=0.3).eval()
    order = torch.randperm(70, generator=augment.stream(0, "supervised", 5, "criterion"))
    net.base.bn1.running_mean.add_(0.3)  # shows whether batch norm uses its own statistics
    for loss, batch in zip(supervised_losses(net.train(), data), order.split(16), strict=True):
        logits = copy.deepcopy(net).eval()(evaluation.evaluation_batch(data.train_images[batch], data))
        assert loss.item() == pytest.approx(
            F.cross_entropy(logits, data.train_labels[batch]).item(), rel=1e-6
        )


def test_the_contrastive_losses_are_those_of_two_views_of_each_image():
    data, model = few(), encoder()
    generator = augment.stream(0, "contrastive", 5, "criterion")
    order = torch.randperm(70, generator=generator)
    for loss, batch in zip(encoder_losses(model.train(), data), order.split(16), strict=True):
        drawn = augment.draw_contrastive(2 * len(batch), 8, 8, data.horizontal_flip, generator)
        of_views = [
            {name: values.split(len(batch))[view] for name, values in drawn.items()} for view in range(2)
        ]
        images = data.train_images[batch]
        views = [augment.contrastive_views(images, of_view, data.mean, data.std) for of_view in of_views]
        with torch.no_grad():
            projections = torch.stack([copy.deepcopy(model).eval()(view) for view in views], 1)
        assert not torch.equal(*views)
        expected = contrastive_loss(projections, data.train_labels[batch], 0.5).item()
        assert loss.item() == pytest.approx(expected, rel=1e-4)
