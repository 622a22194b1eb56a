"""Verdicts on rows of evidence made by hand, the protocol that fixes them, and how often they are wrong."""

import math
import re
from pathlib import Path

import pytest
import worlds
from scipy import stats

from figures.report import claims, uncertainty

PROTOCOL = (Path(__file__).parent.parent / "docs/protocol.md").read_text(encoding="utf-8")
NAMES = [measure.name for measure in claims.CLAIMS[2].measures if measure.decides]


def row(value, error=1.0, measure=NAMES[0], models=7, is_mean=False, smallest=1.0):
    """A difference of claim 3 with its 95 % interval, and d = 1."""
    half = uncertainty.student_t_quantile(6) * error if models >= 6 else math.nan
    interval = {"value": value, "low": value - half, "high": value + half, "smallest": smallest}
    about = {"claim": 3, "measure": measure, "decides": True, "is_mean": is_mean, "models": models}
    return about | interval | {"error": error, "degrees": 6}


def judged(values, error=1.0, other=None, models=7):
    """The verdict on a measure with rows of these values, and another with one row of the first value."""
    rows = [row(value, error, models=models) for value in values]
    rows.append(row(values[0] if other is None else other, error, NAMES[1]))
    for each, mark in zip(rows, claims.mark_rows(rows)):
        each["mark"] = mark
    means = [row(sum(values) / len(values), error / math.sqrt(len(values)), is_mean=True)]
    means.append(row(rows[-1]["value"], error, NAMES[1], is_mean=True))
    return claims.judge([*rows, *means], 3)


@pytest.mark.parametrize(
    "values, error, other, expected",
    [
        ([9, 9], 1, None, "supported"),
        ([9, 3], 1, None, "supported"),  # a row may be open
        ([9, 9], 1, 3, "undecided"),  # each measure must be beyond d
        ([-9, -9], 1, None, "contradicted"),
        ([-9, -9], 1, -3, "undecided"),
        ([9, -9], 1, 0, "mixed"),
        ([30, 30, -9], 1, None, "mixed"),  # the mean is above d, but a row is against
        ([-30, -30, 9], 1, None, "mixed"),
        ([0.1, -0.1], 0.1, None, "no difference"),
        ([0.1, 1.1], 0.1, None, "undecided"),  # a row outside +-d
        ([0.1, 0.1], 1, None, "undecided"),
    ],
)
def test_the_first_rule_that_holds_gives_the_verdict(values, error, other, expected):
    assert judged(values, error, other) == expected


def test_what_is_missing_comes_before_every_other_rule():
    assert judged([9, 9], models=5) == "too few networks"
    assert claims.judge([], 3) == "nothing to compare"
    rows = [row(9) | {"mark": "for"}]
    assert claims.judge(rows, 3) == "nothing to compare"  # of the other measure
    rows.append(row(math.nan, measure=NAMES[1]) | {"mark": "open"})
    assert claims.judge(rows, 3) == "nothing to compare"
    [missing] = claims.missing([rows[0]], claims.CLAIMS[2])
    assert missing.startswith(
        "excess PIEs: no comparison at 90 % or above that decides; train networks with --pruning"
    )


def test_every_verdict_of_every_claim_is_said_in_a_sentence():
    verdicts = {
        name
        for rule, _ in claims.RULES
        for name in re.findall(r"[a-z ]*[a-z]", rule.replace("claim 2: ", ""))
    }
    assert {name.strip() for name in verdicts} == claims.FINDINGS.keys()
    for claim in claims.CLAIMS:
        said = {name: text.format(*claim.outcomes) for name, text in claims.FINDINGS.items()}
        assert all(re.fullmatch(r"[A-Z][^{}]*\.", text) for text in said.values())
        assert claim.outcomes[1] in said["contradicted"] and claim.outcomes[2] in said["no difference"]


def test_u_within_d_is_not_unique():
    names = [measure.name for measure in claims.CLAIMS[1].measures if measure.decides]
    rows = [
        row(0.0, 0.01, name, is_mean=is_mean) | {"claim": 2, "mark": "open"}
        for name in names
        for is_mean in (False, True)
    ]
    assert claims.judge(rows, 2) == "not unique"


def test_marks_are_beyond_d_at_holms_level():
    """Of three rows the least p must be below 5 / 3 %, then 5 / 2, then 5 %."""
    beyond = [stats.t.isf(p / 2, 6) for p in (0.015, 0.024, 0.06)]
    marks = claims.mark_rows([row(1 + t) for t in beyond])
    assert marks == ["for", "for", "open"]
    assert claims.mark_rows([row(-1 - t) for t in beyond]) == ["against", "against", "open"]
    assert claims.mark_rows([row(1 + stats.t.isf(0.009, 6)), row(0), row(0)]) == ["open"] * 3
    marked = [row(0) | {"mark": mark} for mark in ("for", "open", "for")]
    assert claims.count_marks(marked) == "2 for, 0 against, 1 open"


def test_the_protocol_says_what_the_code_does():
    assert PROTOCOL.splitlines()[2].startswith(claims.PROTOCOL_DATE)
    for number, claim in enumerate(claims.CLAIMS, 1):
        assert f"| {number} | {claim.statement.rstrip('.')} |" in PROTOCOL
        assert claim.number == number and sum(measure.decides for measure in claim.measures) == 2
    sizes = [100 * claims.SMALLEST_LOSS, 100 * claims.SHARE, 100 * claims.FLOOR_SHARE]
    sizes += [claims.SMALLEST_UNIQUENESS, claims.SMALLEST_IN_DEVIATIONS, 100 * claims.HIGH_SPARSITY]
    words = "{:g} percentage points, or {:g} % .*, or {:g} % .* U . {:g} .* claim 4 . {:g} standard"
    assert re.search(words.format(*sizes[:5]), " ".join(PROTOCOL.split()))
    assert f"{sizes[5]:g} % and above" in PROTOCOL
    assert f"more than {100 * claims.CONFOUNDING_GAP:g} percentage points apart" in " ".join(PROTOCOL.split())
    for name, _ in claims.RULES:
        assert f"*{name.split(' (')[0]}*" in PROTOCOL


@pytest.mark.parametrize("correlation", [0, 0.5])
@pytest.mark.parametrize(
    "truth, expected", [("all 0", ""), ("all +2", "supported"), ("all -1", "contradicted")]
)
def test_the_rules_find_what_is_there_and_nothing_else(truth, expected, correlation):
    found = worlds.rules(truth, 4, 30, correlation, 0.25, 100)
    assert found[expected] >= 90 if expected else found["supported"] + found["contradicted"] <= 5


@pytest.mark.parametrize("draws", [1, pytest.param(40, marks=pytest.mark.slow)])
@pytest.mark.parametrize("seeds", [6, 10])
@pytest.mark.parametrize("world", worlds.WORLDS)
def test_where_no_claim_holds_none_is_supported_or_contradicted(world, seeds, draws):
    found = worlds.verdicts(world, seeds, draws).values()
    assert sum(each["supported"] + each["contradicted"] for each in found) <= 1 + draws // 20
