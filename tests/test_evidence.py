"""Evidence from stored arrays: every estimator found again with votes counted image by image over sets of ids
that are written out."""

import functools
import json
import math
import statistics
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from stored_results import key_of, make_results, pruned_populations, rewrite

from figures.report import claims, evidence, measures, uncertainty
from figures.report.read import StoredPopulation, load_outputs

SCHEDULES = ("finetuned", "global", "GMP_global", "later_GMP_global")
CASES = {  # of 8 networks halves are split again
    "seven": dict(methods=SCHEDULES, models=7, depth_models=6),
    "eight": dict(methods=SCHEDULES[:3], models=8, depths=False),
    "other ids": dict(
        methods=SCHEDULES,
        models=7,
        ids={
            ("SupCon", "later_GMP_global", 0.9): [0, 1, 2, 3, 4, 5],
            ("supervised", "dense", 0.0): [0, 1, 2, 3, 4, 5, 6, 9],
            ("supervised", "global", 0.9): [1, 2, 3, 4, 5, 6, 8],
        },
    ),
    "three": dict(methods=SCHEDULES, models=3),
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


def modal_labels(networks, ids):
    found = []
    for votes in zip(*(networks[each]["predictions"].tolist() for each in ids)):
        counts = Counter(votes)
        found.append(min(label for label in counts if counts[label] == max(counts.values())))
    return found


def votes_differ(one, ids, other, other_ids):
    labels = zip(modal_labels(one, ids), modal_labels(other, other_ids))
    return {image for image, (label, other_label) in enumerate(labels) if label != other_label}


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


def splits_of(ids, splits):
    """Of each set of seeds: pairs of halves."""
    first, second = splits(len(ids))
    return [[(chosen(ids, a), chosen(ids, b)) for a, b in zip(*rows)] for rows in zip(first, second)]


def over_splits(numbers, ids, models=None):
    """numbers: of the splits of some seeds -> their values, which scatter."""
    (values,) = map(numbers, splits_of(ids, uncertainty.splits_of_seeds))
    spread = math.nan
    if len(ids) >= 6:
        sets = [*map(numbers, splits_of(ids, uncertainty.splits_of_subsets))]
        means = tuple(map(statistics.fmean, sets))
        places, few = len(means) // 2, 2 * ((len(ids) + 1) // 4)
        factors = {means[:places]: few / (len(ids) - few), means[places:]: (len(ids) - few) / few}
        factors = factors if len(ids) > 7 else {means: (len(ids) - 2) / 2}
        known = {part: [each for each in part if not math.isnan(each)] for part in factors}
        if sum(map(len, known.values())) >= 0.9 * len(means):
            spread = statistics.fmean(variance(known[part]) * factors[part] for part in factors)
    models = models or len(ids)
    return estimate(statistics.fmean(values), spread, models - 1, models)


def excess(stored, ids):
    """PIEs between opposite halves minus the noise floor."""

    def beyond(a, b):
        crossed = (len(stored.pies(a, b)) + len(stored.pies(b, a))) / 2
        return crossed - len(stored.floor(a, b))

    return over_splits(lambda pairs: [beyond(*pair) for pair in pairs], ids)


def minus_others(stored, values, strata):
    """values: id -> (N,) of measured networks. PIEs of one half are measured in networks of the other, in
    standard deviations; strata: a function of ids -> what an image has in common with those it is compared
    with."""
    measured = [each for each in stored.ids if each in values]
    if not measured:
        return {"value": math.nan, "models": 0}
    known = [i for i in stored.images if not any(math.isnan(values[each][i]) for each in measured)]
    deviation = {each: statistics.pstdev(float(values[each][i]) for i in known) for each in measured}

    @functools.cache
    def apart(half, each, voters):
        pies, classes, differences = stored.pies(half), strata(voters), []
        for image in known:
            if image in pies:
                others = [i for i in known if i not in pies and classes[i] == classes[image]]
                if others:
                    rest = mean(values[each][i] for i in others)
                    differences.append((float(values[each][image]) - rest) / deviation[each])
        return mean(differences)

    def numbers(pairs):
        voters = tuple(sorted({each for pair in pairs for half in pair for each in half}))
        found = [
            mean(apart(a, m, voters) for a, b in (pair, pair[::-1]) for m in b if m in measured)
            for pair in pairs
        ]
        return [mean(found) if math.isnan(each) else each for each in found]

    return over_splits(numbers, stored.ids, len(measured))


def difficulty(stored):
    """Of some voters: how many reference networks agree with their modal label, and whether it is right."""

    @functools.cache
    def strata(voters):
        found = []
        for image in stored.images:
            counts = Counter(int(stored.dense[each]["predictions"][image]) for each in voters)
            modal = min(label for label in counts if counts[label] == max(counts.values()))
            found.append((counts[modal], modal == stored.truth[image]))
        return found

    return strata


def uniqueness(first, second, ids):
    """U of two combinations, from how many votes pruning moves on each image."""

    @functools.cache
    def moved(stored, voters):
        values = []
        for image in stored.images:
            counts = [
                Counter(int(networks[each]["predictions"][image]) for each in voters)
                for networks in (stored.dense, stored.pruned)
            ]
            values.append(sum(abs(counts[0][c] - counts[1][c]) for c in range(4)) / 2)
        return values

    def u(across, one, other):
        return 1 - across / math.sqrt(one * other)

    def numbers(pairs):
        rows, correlation = [], statistics.correlation
        for pair in pairs:
            a = [moved(first, tuple(one for one, _ in half)) for half in pair]
            b = [moved(second, tuple(other for _, other in half)) for half in pair]
            across = (correlation(a[0], b[1]) + correlation(a[1], b[0])) / 2
            rows.append((across, correlation(*a), correlation(*b)))
        means, step = [statistics.fmean(column) for column in zip(*rows)], 1e-5
        if min(means[1:]) <= 0:  # a combination that does not agree with itself
            return [math.nan] * len(rows)
        # How a split moves U: by finite differences around the means.
        return [
            u(*means)
            + (
                u(*(m + step * (x - m) for m, x in zip(means, row)))
                - u(*(m - step * (x - m) for m, x in zip(means, row)))
            )
            / (2 * step)
            for row in rows
        ]

    return over_splits(numbers, [*zip(*ids)])


def student(values):
    """A mean over networks."""
    values = list(values)
    count = len(values)
    spread = variance(values) / (count - 1) if count > 1 else math.nan
    return estimate(sum(values) / count if count else math.nan, spread, count - 1, count)


def mean(values):
    values = [float(value) for value in values if not math.isnan(value)]
    return sum(values) / len(values) if values else math.nan


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
    control_differs = lambda learning, method, sparsity: sparsity or 0.4
    make_results(
        folder,
        sparsities=(0.9,),
        images=40,
        umap=False,
        q_score=False,
        damage=control_differs,
        **CASES[request.param],
    )
    compared, missing = read_compared(folder)
    stored = {key_of(population): Stored(folder, key_of(population)) for population in compared}
    return request.param, compared, missing, stored


def read_compared(folder):
    return load_outputs(pruned_populations(folder))


def found_in(case):
    """(claim, measure, compared methods) -> row; the populations with their reference for claims."""
    _, compared, _, stored = case
    controls = [each for each in compared if not each.is_pruned]
    rows = evidence.all_evidence([each for each in compared if each.is_pruned], controls)
    references = {}
    for key, one in stored.items():
        if key[1] == "global":
            beside = Stored.__new__(Stored)
            beside.__dict__ |= one.__dict__ | {"dense": stored[key[0], "finetuned", 0.0].pruned}
            beside.ids = sorted(beside.dense.keys() & beside.pruned.keys())
            one = beside
        references[key] = one
    named = {(row["claim"], row["measure"], row["comparison"]): row for row in rows if not row["is_mean"]}
    return named, [row for row in rows if row["is_mean"]], references


def in_common(*several):
    return sorted(set.intersection(*(set(one.ids) for one in several)))


def paired(numbers, ids):
    """Of two functions of an id, the interval of their difference."""
    return student(numbers[0](each) - numbers[1](each) for each in ids)


def combined(parts):
    """The sum of unrelated estimates, with Satterthwaite's degrees of freedom."""
    spreads = [
        ((each["high"] - each["value"]) / uncertainty.student_t_quantile(max(1, each["models"] - 1))) ** 2
        for each in parts
    ]
    freedom = [max(1, each["models"] - 1) for each in parts]
    below = sum(spread**2 / own for spread, own in zip(spreads, freedom))
    degrees = sum(spreads) ** 2 / below if below > 0 else math.nan
    value = parts[0]["value"] - parts[1]["value"]
    return estimate(value, sum(spreads), degrees, parts[0]["models"])


def test_numbers_of_populations_equal_slow_ones(case):
    name, compared, _, stored = case
    compared = compared if name == "seven" else compared[1:3]
    for population, row in zip(compared, measures.population_rows(compared)):
        one = stored[key_of(population)]
        same(row["accuracy"], student(accuracy(network, one.truth) for network in one.pruned.values()))
        same(row["pies"], half_sampled(lambda ids, one=one: len(one.pies(ids)), one.ids, (0, math.inf)))
        same(row["excess"], excess(one, one.ids))
        floors = [len(one.floor(*pair)) for pair in splits_of(one.ids, uncertainty.splits_of_seeds)[0]]
        assert row["noise_floor"] == pytest.approx(statistics.fmean(floors))


def test_contrastive_minus_supervised_networks_lose_against_their_control_what_slow_votes_say(case):
    found, _, stored = found_in(case)
    for method in ("global", "GMP_global"):
        pair = [stored[learning, method, 0.9] for learning in ("SupCon", "supervised")]
        count = min(len(one.ids) for one in pair)
        words = f"SupCon {method} against supervised {method}"
        losses = [
            student(
                accuracy(one.dense[each], one.truth) - accuracy(one.pruned[each], one.truth)
                for each in one.ids[:count]
            )
            for one in pair
        ]
        row = found[1, "accuracy lost", words]
        same(row, combined(losses))
        assert row["smallest"] == pytest.approx(max(0.005, losses[1]["value"] / 4))
        beyond = [excess(one, one.ids[:count]) for one in pair]
        row = found[1, "excess PIEs", words]
        same(row, combined(beyond))
        splits = splits_of(pair[1].ids[:count], uncertainty.splits_of_seeds)[0]
        floor = statistics.fmean(len(pair[1].floor(*each)) for each in splits)
        assert row["smallest"] == pytest.approx(max(floor / 10, beyond[1]["value"] / 4))
        assert row["decides"] and row["models"] == count


def test_u_equals_slow_correlations_of_moved_votes(case):
    found, _, stored = found_in(case)
    if case[0] == "three":
        assert all(math.isnan(row["low"]) for row in found.values())
        return
    names = [(("SupCon", "GMP_global"), ("supervised", "GMP_global"), "learning")]
    names += [(("SupCon", "global"), ("SupCon", "GMP_global"), "pruning")]
    for first, second, axis in names:
        one, other = stored[*first, 0.9], stored[*second, 0.9]
        ids = [in_common(one, other)] * 2
        if axis == "learning":
            count = min(len(one.ids), len(other.ids))
            ids = one.ids[:count], other.ids[:count]
        words = f"{' '.join(first)} against {' '.join(second)}"
        row, expected = found[2, f"U across {axis} methods", words], uniqueness(one, other, ids)
        assert [row["value"], row["error"]] == pytest.approx(
            [expected["value"], spread_of(expected)], rel=2e-3, nan_ok=True
        )
        assert row["smallest"] == claims.SMALLEST_UNIQUENESS and f"{first[0]} " in row["comparison"]


def spread_of(expected):
    quantile = uncertainty.student_t_quantile(expected["models"] - 1)
    return (expected["high"] - expected["value"]) / quantile


def test_early_minus_late_pruning_is_paired_by_seed(case):
    found, means, stored = found_in(case)
    if case[0] == "eight":
        assert not [words for claim, _, words in found if claim == 3 and "later" in words]
        return
    for learning in ("SupCon", "supervised"):
        early, late = (stored[learning, f"{name}_global", 0.9] for name in ("GMP", "later_GMP"))
        ids, words = in_common(early, late), f"{learning} GMP_global against {learning} later_GMP_global"
        numbers = [lambda each, one=one: -accuracy(one.pruned[each], one.truth) for one in (early, late)]
        same(found[3, "accuracy lost", words], paired(numbers, ids))
        row = found[3, "excess PIEs", words]
        assert row["value"] == pytest.approx(excess(early, ids)["value"] - excess(late, ids)["value"])
        labels = [modal_labels(one.pruned, one.ids) for one in (early, late)]
        right = [i for i in early.images if labels[0][i] == labels[1][i] == early.truth[i]]
        numbers = [lambda each, one=one: mean(one.depth[each][i] for i in right) for one in (early, late)]
        probed = sorted(early.depth.keys() & late.depth.keys())
        same(found[3, "prediction depth", words], paired(numbers, probed))
    decisive = [row for row in means if (row["claim"], row["measure"]) == (3, "accuracy lost")]
    values = [row["value"] for key, row in found.items() if key[:2] == (3, "accuracy lost")]
    assert [row["value"] for row in decisive] == pytest.approx([statistics.fmean(values)])


def test_pies_are_compared_with_images_of_equal_difficulty(case):
    found, _, stored = found_in(case)
    for method in ("global", "GMP_global"):
        one = stored["SupCon", method, 0.9]
        values = {each: -network["q_score"] for each, network in one.pruned.items()}
        same(found[4, "Q-Score", f"SupCon {method}"], minus_others(one, values, difficulty(one)))
        if one.depth:
            expected = minus_others(one, one.depth, difficulty(one))
            same(found[4, "prediction depth", f"SupCon {method}"], expected)


def test_without_a_control_one_shot_networks_decide_within_one_population_alone(case):
    _, compared, _, _ = case
    rows = evidence.all_evidence([each for each in compared if each.is_pruned])
    for row in rows:
        if row["decides"] and not row["is_mean"] and "global" in row["comparison"].split():
            assert row["claim"] == 4 and "no finetune-only control" in row["note"]
    assert any(row["decides"] and row["claim"] == 1 for row in rows)


@pytest.mark.parametrize(
    "method, sparsity, expected",
    [
        ("global", 0.9, True),
        ("global", 0.89, False),
        ("layer", 0.95, True),
        ("later_GMP_global", 0.9, True),
        ("global_snip", 0.9, False),
        ("global_iterative0.2_rewind0", 0.9, False),
        ("finetuned", 0.0, False),
    ],
)
def test_claims_are_about_magnitude_pruning_to_high_sparsity(method, sparsity, expected):
    population = StoredPopulation("SupCon", method, sparsity, Path("pies"), {}, {}, {}, None)
    assert evidence.is_claimed_about(population) is expected


@pytest.mark.parametrize(
    "settings, epochs, expected",
    [
        ({"sparsity": 0.0}, 3, True),
        ({"epochs": 9}, 3, False),
        ({"external": ["name"]}, 9, False),
    ],
)
def test_a_control_is_the_reference_of_networks_that_were_finetuned_alike(case, settings, epochs, expected):
    pruned = [population for population in case[1] if population.is_pruned]
    controls = [
        replace(
            item, arrays=item.arrays | {"settings": json.dumps(settings)}, row=item.row | {"epochs": epochs}
        )
        for item in case[1]
        if not item.is_pruned
    ]
    beside_control = evidence.with_controls(pruned, controls)
    has_control = {item.pruning_method: evidence.has_control(beside_control[item]) for item in pruned}
    assert has_control.pop("global") is expected and all(has_control.values())


@pytest.mark.parametrize(
    "methods, key, expected",
    [
        (("GMP_global", "later_GMP_global"), "epochs", "; settings differ: epochs"),
        (("GMP", "later_GMP"), "begin_step_head", ""),
        (("global", "GMP"), "architecture", "; settings differ: architecture"),
        (("global", "GMP"), "dense epochs", "; settings differ: dense epochs"),
        (("global", "GMP"), "learning_rate", "; settings differ: dense learning_rate"),
        (("global", "global"), "external", ""),
        (("global", "global"), "learning_rate", "; settings differ: learning_rate"),
    ],
)
def test_pairs_whose_settings_differ_do_not_decide(case, methods, key, expected):
    changed = []
    for method, value in zip(methods, (1, 2)):
        like = next(item for item in case[1] if item.is_pruned and item.pruning_method.endswith("global"))
        arrays = like.arrays | {"settings": json.dumps({key: value})}
        arrays["architecture"] = str(key == "architecture" and value)
        row = {"epochs": 5, "dense_epochs": 6} if key == "dense epochs" else {}
        dense = {"learning_rate": 1} if key == "learning_rate" else {}
        changed.append(replace(like, pruning_method=method, arrays=arrays, row=row, dense_settings=dense))
    assert evidence.unlike_settings(*changed) == expected
    rows = [*evidence.rows_of_pair(evidence.PRIMARY, measures.Pair(*changed, True))]
    assert all(row.note.endswith("%" + expected) and row.decides is not bool(expected) for row in rows)


@pytest.mark.parametrize("method, expected", [("GMP_global", False), ("global", True)])
def test_claim_4_is_not_decided_by_networks_trained_unlike_their_dense_ones(case, method, expected):
    pruned = next(item for item in case[1] if item.pruning_method == method)
    row = pruned.row | {"epochs": 5, "dense_epochs": 6}
    rows = [*evidence.pies_against_others([replace(pruned, row=row, dense_settings=None)])]
    assert {row.decides for row in rows if row.measure in measures.IMAGE_MEASURES} == {expected}
    assert any("settings differ from dense: epochs" in row.note for row in rows) is not expected


def test_scopes_that_differ_never_meet_and_pairs_of_other_accuracy_do_not_decide(tmp_path):
    weak = lambda learning, method, sparsity: 6.0 if learning == "SupCon" else 0.2
    few = dict(methods=("GMP", "GMP_global", "later_GMP"), sparsities=(0.9,), umap=False, q_score=False)
    make_results(tmp_path / "few digits", damage=weak, images=200, depths=False, **few)
    rows = evidence.all_evidence(read_compared(tmp_path / "few digits")[0])
    pairs = {tuple(row["comparison"].split(" against ")) for row in rows if " against " in row["comparison"]}
    assert pairs and not any(("_global" in first) != ("_global" in second) for first, second in pairs)
    across = [row for row in rows if row["measure"] == "U across learning methods" and not row["is_mean"]]
    assert across and all("confounded" in row["note"] and not row["decides"] for row in across)


def test_what_pruning_does_not_change_has_nothing_to_compare(tmp_path):
    few = dict(methods=("GMP", "later_GMP"), sparsities=(0.9,), umap=False, q_score=False)
    make_results(tmp_path / "few digits", damage=lambda *key: 0.0, **few)
    rows = evidence.all_evidence(read_compared(tmp_path / "few digits")[0])
    assert all(math.isnan(row["low"]) for row in rows if row["claim"] in (2, 4) and row["decides"])
    assert {claims.judge(rows, number) for number in (2, 4)} == {"nothing to compare"}


# What is not stored


def test_nothing_is_missing_where_everything_is_stored(case):
    name, compared, missing, _ = case
    words = [f"prediction depth of {one.label}: run its prediction_depth script" for one in compared]
    assert missing == (words if name == "eight" else [])


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


OTHERS = {  # file, what happens to it -> whether everything is missing, or depths alone
    "no predictions": ("evaluations/*global_0.9_id2.npz", Path.unlink, True),
    "other networks": (
        "evaluations/*dense_0.0_id5.npz",
        lambda path: rewrite(path, {"checkpoints": ["other"]}),
        True,
    ),
    **{
        f"depths of other {name}": (
            "populations/global_*_depth.npz",
            lambda path, name=name: rewrite(path, {name: ["other"]}),
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
    assert "prediction depth" not in {row["measure"] for row in evidence.all_evidence(loaded)}
