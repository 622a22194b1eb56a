"""Evidence from stored arrays: every number found again with votes counted image by image over sets of ids
that are written out."""

import functools
import itertools
import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from stored_results import key_of, make_results, pruned_populations

from common.store.files import read_arrays, write_arrays
from figures.report import claims, evidence, uncertainty
from figures.report.read import StoredPopulation, load_outputs

METHODS, CLASSES = ("global", "layer", "global_snip", "GMP", "GMP_global", "later_GMP"), 4
SHIFTED = {
    ("SupCon", "GMP", 0.9): [1, 2, 3, 4, 5, 6, 8],
    ("supervised", "dense", 0.0): [0, 1, 2, 3, 4, 5, 6, 9],
    ("SupCon", "later_GMP", 0.9): [0, 1, 2, 3, 4, 5],
}
CASES = {
    "seven": dict(methods=METHODS, sparsities=(0.5, 0.7), images=30),
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

    @functools.cache
    def pies(self, ids: tuple[int, ...], others: tuple[int, ...] = ()) -> set[int]:
        """The PIEs where dense networks of these ids vote, and pruned ones of these or of other ids."""
        return votes_differ(self.dense, ids, self.pruned, others or ids)

    @functools.cache
    def floor(self, ids: tuple[int, ...], others: tuple[int, ...]) -> set[int]:
        """Where dense networks of these ids and of others differ."""
        return votes_differ(self.dense, ids, self.dense, others)


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


def estimate(value, variance, degrees, models, bounds=(-math.inf, math.inf)):
    """value, low, high, models; no interval below 6 models and where nothing varies."""
    half = math.nan
    if models >= 6 and variance > 0 and not math.isnan(value):
        half = uncertainty.student_t_quantile(degrees) * math.sqrt(variance)
    low, high = (
        each if math.isnan(each) else min(max(each, bounds[0]), bounds[1])
        for each in (value - half, value + half)
    )
    return {"value": value, "low": low, "high": high, "models": models}


def variance(values):
    values = list(values)
    return sum((each - sum(values) / len(values)) ** 2 for each in values) / len(values)


def half_samples(ids):
    """Tuples of ids: halves and what they leave out, in the order of the half-samples."""
    return [chosen(ids, half) for half in uncertainty.half_samples(len(ids))]


def chosen(ids, row):
    return tuple(each for each, taken in zip(ids, row) if taken)


def variance_of_halves(values, halves):
    """The mean of the variances within each size."""
    by_size = {}
    for value, half in zip(values, halves):
        by_size.setdefault(len(half), []).append(value)
    return sum(map(variance, by_size.values())) / len(by_size)


def half_sampled(statistic, ids, bounds=(-math.inf, math.inf)):
    """A function of the ids that vote."""
    spread = math.nan
    if len(ids) >= 6:
        halves = half_samples(ids)
        spread = variance_of_halves(map(statistic, halves), halves)
    return estimate(float(statistic(tuple(ids))), spread, len(ids) - 1, len(ids), bounds)


def splits_of(ids):
    """Of all seeds, then without two of them: pairs of halves."""
    first, second = uncertainty.splits_of_sets(len(ids))
    return [[(chosen(ids, a), chosen(ids, b)) for a, b in zip(*rows)] for rows in zip(first, second)]


def jackknifed(statistic, ids, models=None):
    """A function of pairs of halves."""
    value, *replicates = map(statistic, splits_of(ids))
    spread = (len(ids) - 2) / 2 * variance(replicates) if replicates else math.nan
    models = len(ids) if models is None else models
    return estimate(value, spread, models - 1, models)


def student(values):
    """A mean over networks."""
    values = list(values)
    count = len(values)
    spread = variance(values) / (count - 1) if count > 1 else math.nan
    return estimate(sum(values) / count if count else math.nan, spread, count - 1, count)


def independent(first, second):
    """The difference of estimates of unrelated seeds, degrees of freedom by Satterthwaite."""
    spreads = [
        ((each["high"] - each["value"]) / uncertainty.student_t_quantile(max(1, each["models"] - 1))) ** 2
        for each in (first, second)
    ]
    below = sum(spread**2 / max(1, each["models"] - 1) for spread, each in zip(spreads, (first, second)))
    degrees = sum(spreads) ** 2 / below if below > 0 else math.nan
    return estimate(first["value"] - second["value"], sum(spreads), degrees, first["models"])


def excess(stored, ids):
    def beyond(pairs):
        """PIEs between halves minus the noise floor, means over splits."""
        crossed = [(len(stored.pies(a, b)) + len(stored.pies(b, a))) / 2 for a, b in pairs]
        return sum(crossed) / len(pairs) - sum(len(stored.floor(a, b)) for a, b in pairs) / len(pairs)

    return jackknifed(beyond, ids)


def mean(values):
    values = [float(value) for value in values if not math.isnan(value)]
    return sum(values) / len(values) if values else math.nan


def apart(values, pies):
    """The mean over PIEs minus that over other images."""
    return mean(value for image, value in enumerate(values) if image in pies) - mean(
        value for image, value in enumerate(values) if image not in pies
    )


def minus_others(stored, values):
    """values: id -> (N,) of measured networks. PIEs of one half are measured in networks of the other."""
    known = [each for each in stored.ids if each in values]
    if not known:
        return {**student([]), "circular": math.nan}
    remembered = functools.cache(lambda half, each: apart(values[each], stored.pies(half)))

    def average(pairs):
        both = [pair for a, b in pairs for pair in ((a, b), (b, a))]
        return mean(remembered(half, each) for half, other in both for each in other if each in known)

    circular = [remembered(tuple(stored.ids), each) for each in known]
    return {**jackknifed(average, stored.ids, len(known)), "circular": sum(circular) / len(circular)}


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
    return load_outputs(pruned_populations(folder))


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
    rows = evidence.population_rows(compared)
    assert [(row["learning_method"], row["pruning_method"], row["sparsity"]) for row in rows] == list(stored)
    for row, one in zip(rows, stored.values()):
        assert row["networks"] == len(one.pruned)
        same(row["accuracy"], student(accuracy(network, one.truth) for network in one.pruned.values()))
        same(row["pies"], half_sampled(lambda ids: len(one.pies(ids)), one.ids, (0, math.inf)))
        same(row["excess"], excess(one, one.ids))
        floors = [len(one.floor(a, b)) for a, b in splits_of(one.ids)[0]]
        assert row["noise_floor"] == pytest.approx(sum(floors) / len(floors))
        beyond = len(one.pies(tuple(one.ids))) - row["noise_floor"] / math.sqrt(2)
        assert row["excess_of_all"] == pytest.approx(beyond)
        values = {each: network["q_score"] for each, network in one.pruned.items()}
        same(row["q_score"], minus_others(one, values))
        same(row["depth"], minus_others(one, one.depth))
        assert not math.isnan(row["q_score"]["value"])
    if name == "other ids":
        assert {row["pies"]["models"] for row in rows} == {6, 7}


def test_pies_at_vote_margins_and_with_ties_to_the_largest_class_equal_counts_by_hand(case):
    _, compared, _, stored = case
    for population in compared:
        one, counts = stored[key_of(population)], evidence.pies_by_votes(population)
        leads, largest = {}, set()
        for image in one.images:
            votes = [
                Counter(int(networks[each]["predictions"][image]) for each in one.ids)
                for networks in (one.dense, one.pruned)
            ]
            ranked = [[*sorted(each.values(), reverse=True), 0] for each in votes]
            leads[image] = min(each[0] - each[1] for each in ranked)
            modal = [max(c for c in each if each[c] == max(each.values())) for each in votes]
            if modal[0] != modal[1]:
                largest.add(image)
        assert counts["pies_ties_to_largest"] == len(largest)
        for margin in (10, 20):
            far = [image for image in one.pies(tuple(one.ids)) if leads[image] >= margin / 100 * len(one.ids)]
            assert counts[f"pies_margin_{margin}"] == len(far)


# Claims


def claimed(stored):
    return {
        key: one
        for key, one in stored.items()
        if key[2] >= 0.7 and key[1] in ("global", "layer", "GMP", "GMP_global", "later_GMP")
    }


def in_common(*chosen):
    return sorted(set.intersection(*(set(one.ids) for one in chosen)))


def of_claim(case, number):
    _, compared, _, stored = case
    rows = [row for row in evidence.all_evidence(compared) if row["claim"] == number]
    found = {(row["part"], row["group"], row["comparison"], row["sparsity"]): row for row in rows}
    assert len(found) == len(rows), "each difference once"
    return found, claimed(stored)


def equal_seeds(*groups):
    """Of several learning methods the ids that each has in all its populations, as many of each."""
    ids = [in_common(*group) for group in groups]
    return [each[: min(map(len, ids))] for each in ids]


def test_contrastive_minus_supervised_pies_equal_slow_ones(case):
    found, stored = of_claim(case, 1)
    expected = set()
    for key, one in stored.items():
        other = stored.get(("supervised", *key[1:]))
        if key[0] == "supervised" or other is None:
            continue
        seeds = equal_seeds([one], [other])
        for part, number in (
            ("PIEs", lambda each, ids: half_sampled(lambda kept: len(each.pies(kept)), ids)),
            ("excess PIEs", excess),
        ):
            name = (part, key[1], "SupCon minus supervised", key[2])
            expected.add(name)
            same(found[name], independent(number(one, seeds[0]), number(other, seeds[1])))
            accuracies = [
                np.mean([accuracy(n, each.truth) for n in each.pruned.values()]) for each in (one, other)
            ]
            assert found[name]["note"] == "accuracy {:.2f} and {:.2f} %".format(
                *(100 * a for a in accuracies)
            )
    matched = {name for name in found if name[0] == "PIEs at matched accuracy"}
    assert found.keys() - matched == expected


def test_populations_are_matched_by_the_nearest_accuracy_of_one_pruning_method(tmp_path):
    """Networks that pruning does not change are alike, whatever their sparsity."""
    folder = tmp_path / "few digits"
    none = lambda learning, method, sparsity: 0.0 if method == "global" else 3.0 * (learning == "SupCon")
    make_results(
        folder,
        methods=("global", "GMP"),
        sparsities=(0.5, 0.9),
        images=300,
        damage=none,
        depths=False,
        umap=False,
        q_score=False,
    )
    compared, _ = read_compared(folder)
    rows = [row for row in evidence.all_evidence(compared) if row["part"] == "PIEs at matched accuracy"]
    gaps = {}
    for population, other in itertools.product(compared, compared):
        both = (population.learning_method, other.learning_method)
        if (
            both == ("SupCon", "supervised")
            and population.pruning_method == other.pruning_method
            and population.sparsity == 0.9
        ):
            means = [(each.pruned.predictions == each.labels).mean() for each in (population, other)]
            gaps.setdefault(population.pruning_method, []).append(abs(means[0] - means[1]))
    assert {row["group"] for row in rows} == {group for group, values in gaps.items() if min(values) <= 0.01}
    assert len(rows) < len(gaps) == 2, "one pair is too far apart"


def seeds_of_combinations(stored):
    """Key -> the ids of its learning method that are compared."""
    methods = list(dict.fromkeys(key[0] for key in stored))
    groups = [[one for key, one in stored.items() if key[0] == method] for method in methods]
    of_method = dict(zip(methods, equal_seeds(*groups)))
    return methods, {key: of_method[key[0]] for key in stored}


def test_shares_of_unique_pies_equal_those_of_python_sets(case):
    found, stored = of_claim(case, 2)
    methods, seeds = seeds_of_combinations(stored)
    models = len(next(iter(seeds.values())))
    unique = {name: row for name, row in found.items() if name[0] == "unique PIEs"}
    assert len(unique) == len(stored) == len(found) / 2
    sets, halves = {}, []
    for key, one in stored.items():
        halves = half_samples(seeds[key]) if models >= 6 else []
        order = uncertainty.reordered(len(halves), methods.index(key[0]))
        kept = [tuple(seeds[key]), *(halves[index] for index in order)]
        sets[key] = [one.pies(ids) for ids in kept]
    for key, one in stored.items():
        others = [set().union(*row) for row in zip(*(sets[other] for other in stored if other != key))]
        sizes = [len(each) for each in sets[key]]
        parts = [len(each - rest) - len(each) / 2 for each, rest in zip(sets[key], others)]
        value, spread = parts[0] / sizes[0] if sizes[0] else math.nan, math.nan
        if models >= 6:
            share = sum(parts[1:]) / sum(sizes[1:])
            residuals = [part - share * size for part, size in zip(parts[1:], sizes[1:])]
            spread = variance_of_halves(residuals, halves) / (sizes[0] * sum(sizes[1:]) / len(halves))
        row = unique["unique PIEs", f"{key[0]} {key[1]}", "share in no other set, minus one half", key[2]]
        same(row, estimate(value, spread, models - 1, models, (-0.5, 0.5)))
        chance = math.prod(1 - len(sets[other][0]) / len(one.truth) for other in stored if other != key)
        assert row["note"] == f"{100 * (value + 0.5):.0f} % unique, by chance {100 * chance:.0f} %"


def test_likeness_of_halves_equals_a_slow_one(case):
    found, stored = of_claim(case, 2)
    _, seeds = seeds_of_combinations(stored)
    models = len(next(iter(seeds.values())))
    splits = {key: splits_of(ids) for key, ids in seeds.items()}

    @functools.cache
    def alike(key, other, index):
        """The mean Jaccard similarity of PIE sets of one's halves and the other's."""
        values = []
        for own, its in zip(splits[key][index], splits[other][index]):
            for first, second in ((0, 1), (1, 0)):
                a, b = stored[key].pies(own[first]), stored[other].pies(its[second])
                values.append(share(a & b, a | b))
        return sum(values) / len(values)

    for key in stored:
        others = [other for other in stored if other != key]
        value, *replicates = (
            alike(key, key, index) - sum(alike(key, other, index) for other in others) / len(others)
            for index in range(len(splits[key]))
        )
        spread = (models - 2) / 2 * variance(replicates) if replicates else math.nan
        words = "Jaccard of its halves minus Jaccard with others"
        row = found["likeness of halves", f"{key[0]} {key[1]}", words, key[2]]
        same(row, estimate(value, spread, models - 1, models))


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
            words = f"{early} minus {late}" + ("" if matched else " (scopes differ)")
            rows = {
                part: found[part, learning, words, sparsity]
                for part in ("accuracy", "Q-Score", "prediction depth", "PIEs")
            }
            expected |= {(part, learning, words, sparsity) for part in rows}
            assert {row["matched"] for row in rows.values()} == {matched}
            both = sorted(one.pruned.keys() & other.pruned.keys())
            same(
                rows["accuracy"],
                student(
                    [
                        accuracy(one.pruned[id], one.truth) - accuracy(other.pruned[id], one.truth)
                        for id in both
                    ]
                ),
            )
            same(
                rows["Q-Score"],
                student([mean(one.pruned[id]["q_score"]) - mean(other.pruned[id]["q_score"]) for id in both]),
            )
            same(
                rows["prediction depth"],
                student(
                    [
                        mean(one.depth[id]) - mean(other.depth[id])
                        for id in sorted(one.depth.keys() & other.depth.keys())
                    ]
                ),
            )
            same(
                rows["PIEs"],
                half_sampled(lambda ids: len(one.pies(ids)) - len(other.pies(ids)), in_common(one, other)),
            )
    assert found.keys() == expected


def test_pies_minus_other_images_equals_slow_means_and_leaves_out_what_is_not_stored(case):
    found, stored = of_claim(case, 4)
    expected = {
        (part, key[0], f"PIEs minus others, {key[1]}", key[2]): one
        for key, one in stored.items()
        for part in ("Q-Score", "prediction depth")
        if part == "Q-Score" or one.depth
    }
    assert found.keys() == expected.keys() and any(name[0] == "prediction depth" for name in found) == (
        case[0] != "no scopes match"
    )
    for name, one in expected.items():
        q_scores = {each: network["q_score"] for each, network in one.pruned.items()}
        same(found[name], minus_others(one, q_scores if name[0] == "Q-Score" else one.depth))
        assert found[name]["value"] != pytest.approx(found[name]["circular"], rel=1e-6)


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
        ("finetuned", 0.0, False),
    ],
)
def test_claims_are_about_magnitude_pruning_to_high_sparsity(method, sparsity, expected):
    population = StoredPopulation("SupCon", method, sparsity, Path("pies"), {}, {}, {}, None)
    assert evidence.is_claimed_about(population) is expected


# The noise floor


# What is not stored, or not defined


def test_nothing_is_missing_where_everything_is_stored(case):
    name, compared, missing, _ = case
    words = [f"prediction depth of {one.label}: run its prediction_depth script" for one in compared]
    assert missing == (words if name == "no scopes match" else [])


def test_pies_of_fewer_networks_equal_a_slow_count(case):
    _, compared, _, stored = case
    population = compared[0]
    one, total = stored[key_of(population)], len(compared[0].seeds)
    means = evidence.pies_of_fewer(population)
    assert list(means["pruned"]) == sorted({*range(2, total, 2), total})
    ranks = np.random.default_rng(0).random((uncertainty.SPLITS, total)).argsort(1).argsort(1)
    for models, value in means["pruned"].items():
        counts = [len(one.pies(chosen(one.ids, row < models))) for row in ranks]
        assert value == pytest.approx(sum(counts) / len(counts))
    for models, value in means["dense"].items():
        assert 2 * models <= total
        pairs = [(row < models, (row >= models) & (row < 2 * models)) for row in ranks]
        counts = [len(one.floor(chosen(one.ids, a), chosen(one.ids, b))) for a, b in pairs]
        assert value == pytest.approx(sum(counts) / len(counts))


def test_depths_of_too_few_networks_say_what_to_run(tmp_path):
    folder = tmp_path / "few digits"
    make_results(folder, methods=("global",), sparsities=(0.9,), depth_models=5, umap=False, q_score=False)
    rows = evidence.all_evidence(read_compared(folder)[0])
    depths = [row for row in rows if row["part"] == "prediction depth"]
    assert depths and all(row["models"] == 5 and math.isnan(row["low"]) for row in depths)
    assert all("--prediction_depth_models" in row["run"] for row in depths)


def without_made(path, **made):
    """Writes arrays again, said to be made from something else."""
    arrays = read_arrays(path)
    write_arrays(path, arrays, json.loads(str(arrays.pop("made"))) | made)


OTHERS = {  # file, what happens to it -> whether everything is missing, or depths alone
    "no predictions": ("evaluations/*global_0.9_id2.npz", Path.unlink, True),
    "torn dense predictions": (
        "evaluations/*dense_0.0_id5.npz",
        lambda path: path.write_bytes(b"torn"),
        True,
    ),
    "other networks": (
        "evaluations/*global_0.9_id2.npz",
        lambda path: without_made(path, checkpoints=["other"]),
        True,
    ),
    "no depths": ("populations/global_*_depth.npz", Path.unlink, False),
    **{
        f"depths of other {name}": (
            "populations/global_*_depth.npz",
            lambda path, name=name: without_made(path, **{name: ["other"]}),
            False,
        )
        for name in ("checkpoints", "dense_checkpoints", "data")
    },
}


@pytest.mark.parametrize("pattern, change, everything", OTHERS.values(), ids=OTHERS)
def test_what_is_not_stored_of_these_networks_is_missing_and_named(small, pattern, change, everything):
    [path] = (small / "supervised").glob(pattern)
    change(path)
    loaded, missing = read_compared(small)
    if everything:
        reason = "the predictions of its networks are not stored; run its PIE script again"
        assert (loaded, missing) == ([], [f"everything but its figures of supervised global 0.9: {reason}"])
        return
    assert missing == ["prediction depth of supervised global 0.9: run its prediction_depth script"]
    [row] = evidence.population_rows(loaded)
    same(row["depth"], {"value": math.nan, "low": math.nan, "high": math.nan, "models": 0})
    assert [row["part"] for row in evidence.all_evidence(loaded)] == ["Q-Score"]


def test_without_pies_there_is_nothing_to_compare_them_with(tmp_path):
    few = dict(methods=("global", "GMP"), sparsities=(0.9,), umap=False, q_score=False)
    none = lambda learning, method, sparsity: 0 if (learning, method) == ("SupCon", "global") else 1
    make_results(tmp_path / "few digits", damage=none, **few)
    rows = evidence.all_evidence(read_compared(tmp_path / "few digits")[0])
    undefined = {(row["claim"], row["part"], row["group"]) for row in rows if math.isnan(row["value"])}
    assert undefined >= {(4, "Q-Score", "SupCon"), (4, "prediction depth", "SupCon")}
    assert (2, "unique PIEs", "SupCon global") in undefined
    assert all(math.isnan(row["low"]) and math.isnan(row["high"]) for row in rows if math.isnan(row["value"]))
    notes = {row["group"]: row["note"] for row in rows if row["part"] == "unique PIEs"}
    assert notes.pop("SupCon global") == "no PIEs" and not any("nan" in note for note in notes.values())


def test_too_few_networks_in_common_do_not_ask_for_depths(tmp_path):
    """Of accuracies and Q-Scores of 5 networks more depths would say nothing."""
    ids = {("SupCon", "GMP", 0.9): [1, 2, 3, 4, 5, 6, 8], ("SupCon", "later_GMP", 0.9): [0, 1, 2, 3, 4, 5]}
    few = dict(learning=("SupCon",), methods=("GMP", "later_GMP"), sparsities=(0.9,), umap=False)
    make_results(tmp_path / "few digits", models=9, ids=ids, **few)
    rows = evidence.all_evidence(read_compared(tmp_path / "few digits")[0])
    [accuracy_row] = [row for row in rows if row["part"] == "accuracy"]
    assert accuracy_row["models"] == 5 and "run" not in accuracy_row


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
    assert len(compared) == 4 - bool(ids) and evidence.noise_floors(compared) == {}
    assert {row["claim"] for row in rows} >= {1, 3, 4} and all(math.isnan(row["low"]) for row in rows)
    for claim in claims.CLAIMS:
        assert claims.verdict(rows, claim.deciding) in (claims.NOTHING, claims.FEW)
    assert {row["models"] for row in rows} <= {0, 1}
