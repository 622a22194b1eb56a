"""Names of pruning methods: unique, read back, told apart in words and in file names."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from common import methods
from common.methods import PruningMethod, iteration_sparsity, order, parse_method
from common.store.names import CheckpointName, name_of
from figures.report.page import describe

NOT_PRUNED = ("dense", "finetuned", "small_dense")
SCHEDULES = ("one-shot", "early", "late", "iterative")


def all_methods():
    """Every schedule, criterion and scope; iterative pruning at two rates with everything that can follow."""
    found = [PruningMethod(name) for name in NOT_PRUNED]
    for schedule, criterion, scope in itertools.product(SCHEDULES, methods.CRITERIA, methods.SCOPES):
        if criterion.startswith("filter_") and scope != "layer":
            continue
        if schedule != "iterative":
            found.append(PruningMethod(schedule, criterion, scope))
        else:
            found += [
                PruningMethod(schedule, criterion, scope, rate, after, rewind_epoch)
                for rate in (0.2, 0.5)
                for after, rewind_epoch in (
                    ("rewind", 0),
                    ("rewind", 2),
                    ("lr_rewind", 0),
                    ("lr_rewind", 2),
                    ("reinit", 0),
                    ("finetune", 0),
                )
            ]
    return found


METHODS = all_methods()


def test_names_are_unique_and_are_read_back():
    ways = 12 * 3 + 4  # criteria of weights in all scopes, those of filters in one
    assert len(METHODS) == 3 + 3 * ways + 12 * ways
    names = [str(method) for method in METHODS]
    assert len(set(names)) == len(names)
    assert [parse_method(name) for name in names] == METHODS


@pytest.mark.parametrize(
    "name, method",
    [
        ("dense", PruningMethod("dense")),
        ("global", PruningMethod("one-shot", "magnitude", "global")),
        ("global_snip", PruningMethod("one-shot", "snip", "global")),
        ("layer_snip_batches", PruningMethod("one-shot", "snip_batches", "layer")),
        ("GMP_erk_random", PruningMethod("early", "random", "erk")),
        (
            "erk_iterative0.5_lr_rewind3",
            PruningMethod("iterative", "magnitude", "erk", 0.5, "lr_rewind", 3),
        ),
        ("GMP", PruningMethod("early", "magnitude", "layer")),
        ("later_GMP_random", PruningMethod("late", "random", "layer")),
        (
            "layer_magnitude_increase_iterative0.5_rewind12",
            PruningMethod("iterative", "magnitude_increase", "layer", 0.5, "rewind", 12),
        ),
        (
            "filter_random_iterative0.25_reinit",
            PruningMethod("iterative", "filter_random", "layer", 0.25, "reinit"),
        ),
    ],
)
def test_names_are_made_of_schedule_scope_and_criterion(name, method):
    assert str(method) == name and parse_method(name) == method


# The last three would compare filters of different layers.
NO_METHODS = """
magnitude global_magnitude global_ Global global_layer global_unknown layer_filter_l1 GMP_layer GMP_dense
dense_global snip_global small finetune finetuned_snip global_iterative global_iterative0.2
global_iterative0.20_rewind0 global_iterative1.2_rewind0 global_iterative0.2_rewind
global_iterative0.2_rewind00 global_iterative0.2_reinit0 GMP_global_iterative0.2_rewind0
global_iterative0.0_rewind0 global_filter_l1 GMP_global_filter_random
global_filter_l2_iterative0.2_rewind0
"""


@pytest.mark.parametrize("name", ["", "global_iterative0.2_rewind0\n", *NO_METHODS.split()])
def test_nonsense_is_no_method(name):
    assert parse_method(name) is None


@pytest.mark.parametrize(
    "schedule, criterion, scope",
    [
        ("one-shot", "magnitude", "global"),
        ("early", "magnitude", "layer"),
        ("one-shot", "filter_l1", "layer"),
        ("iterative", "filter_random", "layer"),
    ],
)
def test_default_scopes_are_the_published_ones_and_filters_stay_in_their_layer(schedule, criterion, scope):
    assert methods.default_scope(schedule, criterion) == scope


# File names


def file_names(method):
    sparsities = (0.0,) if method.schedule in ("dense", "finetuned") else (0.3, 0.488, 0.95, 0.9998)
    contrastive = {"encoder_name": "WideResNet-10-1-linear", "batch_size": 128, "temperature": 0.5}
    for sparsity in sparsities:
        facts = str(method), sparsity, 30, 4
        for part, learning_method in itertools.product(("encoder", "head"), ("SupCon", "SimCLR")):
            yield CheckpointName(part, learning_method, *facts, **contrastive)
        for width in (1, 2):
            shape = {"widen_factor": width, "depth": 10, "dropout": 0.1}
            yield CheckpointName("supervised", "supervised", *facts, **shape)


def test_file_names_of_all_methods_are_unique_and_found_by_what_is_known_of_them():
    every = [name for method in METHODS for name in file_names(method)]
    texts = {str(name) for name in every}
    assert len(texts) == len(every) > 24 * 100
    for name in every[::997]:
        pattern = replace(name, id="*", epochs="*", batch_size="*" if name.batch_size else 0)
        alike = [each for each in every if name_of(Path(str(each)), pattern)]
        assert name in alike and {name_of(Path(str(each)), pattern) for each in alike} == {*alike}
        wanted = [each for each in every if replace(each, **changeable(pattern)) == pattern]
        assert alike == wanted
        for other in (f"_id0{name.id}.pt", f"_id{name.id}x.pt", "_id.pt", f"_id{name.id}_epoch2.pt"):
            assert name_of(Path(str(name).replace(f"_id{name.id}.pt", other)), pattern) is None


def changeable(pattern):
    return {key: getattr(pattern, key) for key in ("id", "epochs", "batch_size")}


# Words and order


def test_a_description_says_schedule_scope_and_criterion():
    assert describe("GMP_global_snip") == "early gradual global pruning by snip"
    text = "iterative layer-wise pruning, 20 % an iteration, rewound to epoch 2"
    assert describe("layer_iterative0.2_rewind2") == text


def test_tables_begin_with_dense_and_finetuned_and_end_with_small_dense():
    names = sorted(map(str, reversed(METHODS)), key=order)
    schedules = [parse_method(name).schedule for name in names]
    assert [schedule for schedule, _ in itertools.groupby(schedules)] == [
        "dense",
        "finetuned",
        *SCHEDULES,
        "small_dense",
    ]
    assert names == sorted(map(str, METHODS), key=order), "the order does not depend on the one before"


def test_a_title_says_the_sparsity_of_what_is_pruned_and_the_size_of_what_is_narrower():
    assert methods.with_sparsity("dense", 0.0) == "dense"
    assert methods.with_sparsity("SupCon finetuned", 0.0) == "SupCon finetuned, not pruned"
    assert methods.with_sparsity("SupCon GMP", 0.95) == "SupCon GMP, 95 % pruned"
    small = "supervised small_dense"
    assert methods.with_sparsity(small, 0.9) == f"{small}, as many weights as at 90 % pruned"


@pytest.mark.parametrize(
    "rate, sparsities",
    [
        (0.2, [0.2, 0.36, 0.488, 0.5904, 0.6723]),
        (0.5, [0.5, 0.75, 0.875, 0.9375, 0.9688]),
        (0.99, [0.99, 0.9999, 1.0]),
    ],
)
def test_each_iteration_prunes_its_share_of_what_remains(rate, sparsities):
    assert [iteration_sparsity(rate, iteration) for iteration in range(1, len(sparsities) + 1)] == sparsities
    assert iteration_sparsity(rate, 0) == 0.0
