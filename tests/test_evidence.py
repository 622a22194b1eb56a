"""Evidence from stored arrays: every number found again with votes counted image by image over sets of ids
that are written out."""

import itertools
import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from stored_results import PLACES, key_of, make_results, pruned_populations

from common.store.files import read_arrays, write_arrays
from figures.report import claims, evidence, uncertainty

METHODS, CLASSES = ("global", "layer", "global_snip", "GMP", "GMP_global", "later_GMP"), 4
SHIFTED = {
    ("SupCon", "GMP", 0.9): [1, 2, 3, 4, 5, 6, 8],
    ("supervised", "dense", 0.0): [0, 1, 2, 3, 4, 5, 6, 9],
    ("SupCon", "later_GMP", 0.9): [0, 1, 2, 3, 4, 5],
}
CASES = {
    "seven": dict(methods=METHODS, sparsities=(0.5, 0.7)),
    "three": dict(methods=("global", "GMP"), sparsities=(0.7,), models=3),
    "other ids": dict(methods=("global", "GMP", "later_GMP"), sparsities=(0.9,), ids=SHIFTED),
    "no scopes match": dict(
        learning=("SupCon",),
        methods=("layer", "global", "GMP_global", "later_GMP"),
        sparsities=(0.9,),
        depths=False,
    ),
}


class Stored:
    """What the files of a population hold, read with numpy alone: id -> predictions and Q-Scores; depths of
    some ids."""

    def __init__(self, folder: Path, key: tuple[str, str, float]):
        self.key = key
        path = folder / key[0] / "populations" / f"{key[1]}_{key[2]}.npz"
        arrays = np.load(path)
        self.truth, self.is_pie = arrays["labels"].tolist(), arrays["is_pie"].tolist()
        self.images = range(len(self.truth))
        self.dense, self.pruned = (
            {
                int(one): np.load(folder / key[0] / "evaluations" / f"{stem}.npz")
                for one, stem in zip(arrays[f"{whose}ids"], arrays[f"{whose}evaluations"])
            }
            for whose in ("dense_", "")
        )
        self.dense, self.pruned = (
            {one: {name: file[name] for name in ("predictions", "q_score")} for one, file in each.items()}
            for each in (self.dense, self.pruned)
        )
        self.depth, path = {}, path.with_name(f"{path.stem}_depth.npz")
        if path.exists():
            depths = np.load(path)
            self.depth = dict(zip(depths["ids"].tolist(), depths["pruned_depth_prediction"]))
        self.ids = sorted(self.dense.keys() & self.pruned.keys())

    def pies(self, without: tuple[int, ...] = ()) -> set[int]:
        """The PIEs where networks of these ids do not vote."""
        return votes_differ(
            self.dense, self.dense.keys() - set(without), self.pruned, self.pruned.keys() - set(without)
        )


def votes_differ(one, ids, other, other_ids):
    def modal(networks, chosen):
        found = []
        for votes in zip(*(networks[each]["predictions"].tolist() for each in chosen)):
            counts = Counter(votes)
            found.append(min(label for label in counts if counts[label] == max(counts.values())))
        return found

    return {
        image
        for image, pair in enumerate(zip(modal(one, ids), modal(other, other_ids)))
        if pair[0] != pair[1]
    }


def jackknifed(statistic, ids, sets=None):
    """value, low, high, models of a function of the ids that do not vote."""
    value, seeds = statistic(()), len(ids)
    if seeds < 6:
        return {"value": value, "low": math.nan, "high": math.nan, "models": seeds}
    replicates = [statistic(pair) for pair in sets or itertools.combinations(ids, 2)]
    mean = sum(replicates) / len(replicates)
    half = uncertainty.student_t_quantile(seeds - 1) * math.sqrt(
        (seeds - 2) / 2 * sum((one - mean) ** 2 for one in replicates) / len(replicates)
    )
    return {"value": value, "low": value - half, "high": value + half, "models": seeds}


def bootstrapped(values):
    low, high = uncertainty.bootstrap_interval(np.array(values))
    return {
        "value": sum(values) / len(values) if values else math.nan,
        "low": low,
        "high": high,
        "models": len(values),
    }


def mean(values):
    values = [float(value) for value in values if not math.isnan(value)]
    return sum(values) / len(values) if values else math.nan


def minus_others(networks, is_pie):
    """Seed by seed: values of PIEs minus those of other images."""
    return bootstrapped(
        [
            mean(value for value, pie in zip(values, is_pie) if pie)
            - mean(value for value, pie in zip(values, is_pie) if not pie)
            for values in networks
        ]
    )


def accuracy(network, truth):
    return sum(int(a == b) for a, b in zip(network["predictions"].tolist(), truth)) / len(truth)


def share(part, whole):
    return len(part) / len(whole) if whole else math.nan


def same(found, expected):
    assert {name: found[name] for name in expected} == pytest.approx(
        expected, rel=1e-10, abs=1e-12, nan_ok=True
    )


@pytest.fixture(scope="module", params=list(CASES))
def case(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("results") / "few digits"
    make_results(folder, umap=False, q_score=False, **CASES[request.param])
    compared, missing = read_compared(folder)
    stored = {key_of(population): Stored(folder, key_of(population)) for population in compared}
    return request.param, compared, missing, stored


def read_compared(folder):
    return evidence.read_compared(pruned_populations(folder))


@pytest.fixture
def small(tmp_path):
    """One population of six models, in a folder of its own."""
    folder = tmp_path / "few digits"
    make_results(
        folder,
        models=6,
        learning=("supervised",),
        methods=("global",),
        sparsities=(0.9,),
        images=30,
        umap=False,
        q_score=False,
    )
    return folder


# Populations


def test_numbers_of_populations_equal_slow_ones(case):
    name, compared, _, stored = case
    rows = evidence.populations(compared)
    assert [(row["learning_method"], row["pruning_method"], row["sparsity"]) for row in rows] == list(stored)
    assert set(stored) == {
        (learning, method, sparsity)
        for learning in CASES[name].get("learning", ("SupCon", "supervised"))
        for method in CASES[name]["methods"]
        for sparsity in CASES[name]["sparsities"]
    }
    for row, one in zip(rows, stored.values()):
        assert row["networks"] == len(one.pruned)
        same(row["accuracy"], bootstrapped([accuracy(network, one.truth) for network in one.pruned.values()]))
        expected = jackknifed(lambda without: float(len(one.pies(without))), one.ids)
        same(
            row["pies"], {**expected, "low": 0.0 if expected["low"] < 0 else expected["low"]}
        )  # no count is below zero
        assert row["pies"]["value"] == sum(one.is_pie) > 0
        same(
            row["q_score"], minus_others([network["q_score"] for network in one.pruned.values()], one.is_pie)
        )
        same(row["depth"], minus_others(one.depth.values(), one.is_pie))
        assert math.isnan(row["pies"]["low"]) == (len(one.ids) < 6) and row["depth"]["models"] == len(
            one.depth
        )
        assert any(np.isnan(network["q_score"]).any() for network in one.pruned.values()), (
            "one latent of zeros is left out"
        )
        assert not math.isnan(row["q_score"]["value"])
    if name == "other ids":
        assert {row["pies"]["models"] for row in rows} == {6, 7} and {row["networks"] for row in rows} == {
            6,
            7,
        }


def test_accuracy_of_dense_populations_equals_a_slow_one(case):
    _, compared, _, stored = case
    rows = evidence.dense_populations(compared)
    assert [row["learning_method"] for row in rows] == sorted({key[0] for key in stored})
    for row in rows:
        one = next(one for key, one in stored.items() if key[0] == row["learning_method"])
        assert (row["pruning_method"], row["sparsity"], row["networks"]) == ("dense", 0.0, len(one.dense))
        same(row["accuracy"], bootstrapped([accuracy(network, one.truth) for network in one.dense.values()]))


def test_pies_of_all_networks_are_the_stored_ones_and_then_those_without_two_seeds(case):
    _, compared, _, stored = case
    for found in compared:
        one = stored[key_of(found)]
        sets = evidence.pies(found, found.seeds)
        assert found.seeds == tuple(one.ids) and sets[0].tolist() == one.is_pie
        left_out = [(), *itertools.combinations(one.ids, 2)] if len(one.ids) >= 6 else [()]
        assert [set(np.flatnonzero(row)) for row in sets] == [one.pies(pair) for pair in left_out]


def test_dense_networks_of_several_combinations_are_one_population_whose_labels_are_found_once(case):
    _, compared, _, _ = case
    for learning in {one.learning_method for one in compared}:
        own = [one for one in compared if one.learning_method == learning]
        assert len({id(one.dense) for one in own}) == 1
        assert evidence.labels_of_sets(own[0].dense, own[0].seeds) is evidence.labels_of_sets(
            own[-1].dense, own[0].seeds
        )


# Claims


def claimed(stored):
    return {
        key: one
        for key, one in stored.items()
        if key[2] >= 0.7 and key[1] in ("global", "layer", "GMP", "GMP_global", "later_GMP")
    }


def in_common(*chosen):
    return sorted(set.intersection(*(set(one.ids) for one in chosen)))


WORDS = {
    "global": "one-shot global pruning",
    "layer": "one-shot layer-wise pruning",
    "GMP": "early gradual pruning",
    "GMP_global": "early gradual global pruning",
    "later_GMP": "late gradual pruning",
}


def of_claim(case, number):
    _, compared, _, stored = case
    rows = [row for row in evidence.all_evidence(compared) if row["claim"] == number]
    found = {(row["part"], row["group"], row["comparison"], row["sparsity"]): row for row in rows}
    assert len(found) == len(rows), "each difference once"
    return found, claimed(stored)


def test_contrastive_minus_supervised_pies_equal_slow_ones(case):
    found, stored = of_claim(case, 1)
    expected = {
        ("PIEs", WORDS[key[1]], "SupCon minus supervised", key[2]): (one, stored["supervised", *key[1:]])
        for key, one in stored.items()
        if key[0] == "SupCon" and ("supervised", *key[1:]) in stored
    }
    assert (
        found.keys() == expected.keys()
        and len(found) == {"seven": 5, "three": 2, "other ids": 3, "no scopes match": 0}[case[0]]
    )
    for name, (one, other) in expected.items():
        same(
            found[name],
            jackknifed(
                lambda without: float(len(one.pies(without)) - len(other.pies(without))),
                in_common(one, other),
            ),
        )


def test_shares_of_unique_pies_equal_those_of_python_sets(case):
    found, stored = of_claim(case, 2)
    ids = in_common(*stored.values())
    remembered = {
        (key, without): one.pies(without)
        for key, one in stored.items()
        for without in ((), *itertools.combinations(ids, 2))
    }
    unique = {name: row for name, row in found.items() if name[0] == "unique PIEs"}
    assert len(unique) == len(stored) == len(found) / 2
    for key, one in stored.items():
        row = unique[
            "unique PIEs", f"{key[0]}, {WORDS[key[1]]}", "share in no other set, minus one half", key[2]
        ]

        def alone(without):
            others = set().union(*(remembered[other, without] for other in stored if other != key))
            return share(remembered[key, without] - others, remembered[key, without]) - 0.5

        expected = jackknifed(alone, ids)
        if len(ids) >= 6:  # no share is below 0 or above 1
            expected |= {
                "low": -0.5 if expected["low"] < -0.5 else expected["low"],
                "high": 0.5 if expected["high"] > 0.5 else expected["high"],
            }
        same(row, expected)
        chance = math.prod(
            1 - len(other.pies()) / len(one.truth) for name, other in stored.items() if name != key
        )
        assert row["note"] == f"{100 * (alone(()) + 0.5):.0f} % unique, by chance {100 * chance:.0f} %"


def test_likeness_of_halves_equals_a_slow_one(case):
    found, stored = of_claim(case, 2)
    ids = in_common(*stored.values())
    pairs = list(itertools.combinations(ids, 2))
    chosen = (
        [pairs[index] for index in np.random.default_rng(0).permutation(len(pairs))[: evidence.HALVES_SETS]]
        if len(ids) >= 6
        else []
    )
    values = {}
    for without in ((), *chosen):
        rest = [one for one in ids if one not in without]
        alike = {key: ([], []) for key in stored}
        for masks in zip(*uncertainty.random_halves(len(rest), evidence.HALVES_SPLITS)):
            halves = [[one for one, taken in zip(rest, mask) if taken] for mask in masks]
            pies = {
                key: [votes_differ(one.dense, half, one.pruned, half) for half in halves]
                for key, one in stored.items()
            }
            for key, other in itertools.product(stored, repeat=2):
                for first, second in ((0, 1), (1, 0)):
                    alike[key][key != other].append(
                        share(pies[key][first] & pies[other][second], pies[key][first] | pies[other][second])
                    )
        for key, (own, others) in alike.items():
            values[key, without] = sum(own) / len(own) - sum(others) / len(others)
    for key in stored:
        row = found[
            "likeness of halves",
            f"{key[0]}, {WORDS[key[1]]}",
            "Jaccard of its halves minus Jaccard with others",
            key[2],
        ]
        same(row, jackknifed(lambda without: values[key, without], ids, chosen))


PAIRS = {  # early, other, whether their scopes match
    "seven": [("GMP", "later_GMP", True), ("GMP_global", "global", True), ("GMP", "layer", True)],
    "three": [("GMP", "global", False)],
    "other ids": [("GMP", "later_GMP", True), ("GMP", "global", False)],
    "no scopes match": [("GMP_global", "later_GMP", False), ("GMP_global", "global", True)],
}


def test_early_minus_other_schedules_equals_slow_differences_of_the_same_scope_where_there_is_one(case):
    found, stored = of_claim(case, 3)
    expected = set()
    for learning, sparsity in {(key[0], key[2]) for key in stored}:
        for early, late, matched in PAIRS[case[0]]:
            one, other = stored[learning, early, sparsity], stored[learning, late, sparsity]
            words = f"early minus {WORDS[late]}" + ("" if matched else " (scopes differ)")
            rows = {
                part: found[part, learning, words, sparsity]
                for part in ("accuracy", "Q-Score", "prediction depth", "PIEs")
            }
            expected |= {(part, learning, words, sparsity) for part in rows}
            assert {row["matched"] for row in rows.values()} == {matched}
            both = sorted(one.pruned.keys() & other.pruned.keys())
            same(
                rows["accuracy"],
                bootstrapped(
                    [
                        accuracy(one.pruned[id], one.truth) - accuracy(other.pruned[id], one.truth)
                        for id in both
                    ]
                ),
            )
            same(
                rows["Q-Score"],
                bootstrapped(
                    [mean(one.pruned[id]["q_score"]) - mean(other.pruned[id]["q_score"]) for id in both]
                ),
            )
            same(
                rows["prediction depth"],
                bootstrapped(
                    [
                        mean(one.depth[id]) - mean(other.depth[id])
                        for id in sorted(one.depth.keys() & other.depth.keys())
                    ]
                ),
            )
            same(
                rows["PIEs"],
                jackknifed(
                    lambda without: float(len(one.pies(without)) - len(other.pies(without))),
                    in_common(one, other),
                ),
            )
    assert found.keys() == expected


def test_pies_minus_other_images_equals_slow_means_and_leaves_out_what_is_not_stored(case):
    found, stored = of_claim(case, 4)
    expected = {
        (part, key[0], f"PIEs minus others, {WORDS[key[1]]}", key[2]): one
        for key, one in stored.items()
        for part in ("Q-Score", "prediction depth")
        if part == "Q-Score" or one.depth
    }
    assert found.keys() == expected.keys() and any(name[0] == "prediction depth" for name in found) == (
        case[0] != "no scopes match"
    )
    for name, one in expected.items():
        same(
            found[name],
            minus_others(
                [network["q_score"] for network in one.pruned.values()]
                if name[0] == "Q-Score"
                else one.depth.values(),
                one.is_pie,
            ),
        )


@pytest.mark.parametrize(
    "method, sparsity, expected",
    [
        ("global", 0.7, True),
        ("global", 0.69, False),
        ("layer", 0.95, True),
        ("GMP", 0.9, True),
        ("later_GMP_global", 0.9, True),
        ("global_snip", 0.9, False),
        ("GMP_snip", 0.9, False),
        ("global_iterative0.2_rewind0", 0.9, False),
        ("filter_l1", 0.9, False),
        ("global_random", 0.9, False),
    ],
)
def test_claims_are_about_magnitude_pruning_to_high_sparsity(method, sparsity, expected):
    population = evidence.Compared("SupCon", method, sparsity, Path("pies"), {}, {}, {}, None, None, None)
    assert population.claimed_about is expected


# The noise floor


def test_noise_floors_equal_slow_ones(case):
    name, compared, _, stored = case
    floors = evidence.noise_floors(compared)
    if name == "three":
        assert floors == {}
        return
    assert list(floors) == sorted({key[0] for key in stored})
    for learning, floor in floors.items():
        own = [one for key, one in stored.items() if key[0] == learning]
        assert (
            set(floor) == {"dense against dense", *(f"{one.key[1]} {one.key[2]:g}" for one in own)}
            and next(iter(floor)) == "dense against dense"
        )
        for one in own:
            halves = [
                tuple([each for each, taken in zip(one.ids, mask) if taken] for mask in masks)
                for masks in zip(*uncertainty.random_halves(len(one.ids)))
            ]
            counts = [len(votes_differ(one.dense, first, one.pruned, second)) for first, second in halves]
            assert floor[f"{one.key[1]} {one.key[2]:g}"].tolist() == counts and len(counts) == 100
            if f"{one.key[1]} {one.key[2]:g}" == list(floor)[1]:  # whose seeds are split
                assert floor["dense against dense"].tolist() == [
                    len(votes_differ(one.dense, first, one.dense, second)) for first, second in halves
                ]
    assert sum(len(floor) for floor in floors.values()) > len(stored)


# What is not stored, or not defined


def test_nothing_is_missing_where_everything_is_stored(case):
    name, compared, missing, _ = case
    words = [f"prediction depth of {one.label}: run its prediction_depth script" for one in compared]
    assert missing == (words if name == "no scopes match" else [])


def test_networks_whose_outputs_are_not_stored_are_missing(small):
    everything = (
        "everything but its figures of supervised global 0.9: the predictions of its networks are not "
        "stored; run its PIE script again"
    )
    assert len(read_compared(small)[0]) == 1
    for pattern in ("supervised_global_0.9_id2.npz", "supervised_dense_0.0_id5.npz"):
        [path] = (small / "supervised/evaluations").glob(pattern)
        content = path.read_bytes()
        path.unlink()
        assert read_compared(small) == ([], [everything])
        path.write_bytes(b"torn")
        assert read_compared(small) == ([], [everything])
        path.write_bytes(content)
        assert len(read_compared(small)[0]) == 1


def test_outputs_of_other_checkpoints_are_missing(small):
    [path] = (small / "supervised/evaluations").glob("supervised_global_0.9_id2.npz")
    arrays = read_arrays(path)
    made = json.loads(str(arrays.pop("made")))
    write_arrays(path, arrays, {**made, "checkpoints": ["of another network"]})
    compared, missing = read_compared(small)
    assert not compared and "everything but its figures of supervised global 0.9" in missing[0]


@pytest.mark.parametrize(
    "change", [{"checkpoints": ["other"]}, {"dense_checkpoints": ["other"]}, {"data": "other"}, None]
)
def test_depths_of_other_networks_or_data_are_missing(small, change):
    [path] = (small / "supervised/populations").glob("global_*_depth.npz")
    if change is None:
        path.unlink()
    else:
        arrays = read_arrays(path)
        write_arrays(
            path,
            {key: value for key, value in arrays.items() if key != "made"},
            {**json.loads(str(arrays["made"])), **change},
        )
    [one], missing = read_compared(small)
    assert missing == ["prediction depth of supervised global 0.9: run its prediction_depth script"]
    assert one.pruned.depth.size == one.pruned.depth_ids.size == 0
    [row] = evidence.populations([one])
    same(row["depth"], {"value": math.nan, "low": math.nan, "high": math.nan, "models": 0})
    assert [row["part"] for row in evidence.all_evidence([one])] == ["Q-Score"]


def test_depths_are_those_of_the_networks_with_their_ids(small):
    [one], _ = read_compared(small)
    assert one.pruned.depth_ids.tolist() == list(range(6)) and one.pruned.depth.shape == (6, 30)
    assert one.pruned.depth.min() >= 0 and one.pruned.depth.max() == PLACES and one.dense.depth.size == 0


def test_without_pies_there_is_nothing_to_compare_them_with(tmp_path):
    make_results(
        tmp_path / "few digits",
        methods=("global", "GMP"),
        sparsities=(0.9,),
        umap=False,
        q_score=False,
        damage=lambda learning, method, sparsity: 0 if (learning, method) == ("SupCon", "global") else 1,
    )
    compared, _ = read_compared(tmp_path / "few digits")
    empty = next(
        row
        for row in evidence.populations(compared)
        if (row["learning_method"], row["pruning_method"]) == ("SupCon", "global")
    )
    same(empty["pies"], {"value": 0.0, "low": 0.0, "high": 0.0, "models": 7})
    for measure in ("q_score", "depth"):
        assert (
            math.isnan(empty[measure]["value"])
            and math.isnan(empty[measure]["low"])
            and math.isnan(empty[measure]["high"])
        )
    rows = evidence.all_evidence(compared)
    undefined = {(row["claim"], row["part"], row["group"]) for row in rows if math.isnan(row["value"])}
    assert {name for name in undefined if name[0] == 4} == {
        (4, "Q-Score", "SupCon"),
        (4, "prediction depth", "SupCon"),
    }
    assert (2, "unique PIEs", "SupCon, one-shot global pruning") in undefined
    assert all(math.isnan(row["low"]) and math.isnan(row["high"]) for row in rows if math.isnan(row["value"]))
    notes = {row["group"]: row["note"] for row in rows if row["part"] == "unique PIEs"}
    assert (
        notes.pop("SupCon, one-shot global pruning") == "no PIEs"
        and len(notes) == 3
        and not any("nan" in note for note in notes.values())
    )
    for number in (2, 4):
        own = [
            row
            for row in rows
            if row["claim"] == number
            and "SupCon" in row["group"]
            and "one-shot" in row["group"] + row["comparison"]
        ]
        assert len(own) == 2 and (number == 2 or claims.verdict(own) == claims.NOT_DECIDABLE)


def test_means_leave_out_what_has_no_value():
    values = np.array([[1.0, np.nan, 3.0, 8.0], [np.nan, np.nan, np.nan, 2.0]])
    assert evidence.mean_over(values, np.array([1, 1, 1, 0], bool)) == pytest.approx(
        [2.0, math.nan], nan_ok=True
    )
    assert evidence.mean_over(values, np.zeros(4, bool)) == pytest.approx([math.nan, math.nan], nan_ok=True)
    assert evidence.mean_over(values, np.ones(4, bool)) == pytest.approx([4.0, 2.0])


def test_without_populations_there_is_no_evidence():
    assert evidence.read_compared([]) == ([], [])
    assert evidence.all_evidence([]) == [] and evidence.noise_floors([]) == {}


@pytest.mark.parametrize(
    "ids",
    [{}, {("SupCon", "GMP", 0.9): [1]}, {("SupCon", "GMP", 0.9): [7]}],
    ids=["one network", "another id", "no id in common"],
)
def test_hardly_any_networks_have_values_without_intervals(tmp_path, ids):
    make_results(
        tmp_path / "few digits",
        models=1,
        methods=("global", "GMP"),
        sparsities=(0.9,),
        ids=ids,
        depths=False,
        umap=False,
        q_score=False,
    )
    compared, _ = read_compared(tmp_path / "few digits")
    rows = evidence.all_evidence(compared)
    assert len(compared) == 4 and len(rows) == 2 + 8 + 8 + 4 and evidence.noise_floors(compared) == {}
    assert all(
        math.isnan(row["low"]) and math.isnan(row["high"]) and claims.verdict([row]) == claims.NOT_DECIDABLE
        for row in rows
    )
    assert not any(math.isnan(row["value"]) for row in rows if row["part"] == "PIEs")
    assert {row["models"] for row in rows} == ({0, 1} if ids else {1}) | {0}  # depths are not stored
