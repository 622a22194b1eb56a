"""Verdicts on rows of evidence made by hand, and that evidence and claims speak of the same measures."""

import math

import pytest
from stored_results import make_results, pruned_populations

from figures.report import claims, evidence

PARTS = [(claim.number, part.name) for claim in claims.CLAIMS for part in claim.parts]
SIDES = {
    (1, "PIEs"): +1,
    (2, "unique PIEs"): +1,
    (2, "likeness of halves"): +1,
    (3, "accuracy"): -1,
    (3, "PIEs"): +1,
    (3, "Q-Score"): -1,
    (3, "prediction depth"): +1,
    (4, "Q-Score"): -1,
    (4, "prediction depth"): +1,
}  # as the paper says


def row(low, high, claim=1, part="PIEs", models=7):
    return {
        "claim": claim,
        "part": part,
        "value": (low + high) / 2,
        "low": low,
        "high": high,
        "models": models,
    }


NONE = row(math.nan, math.nan)


def test_every_part_is_on_the_side_that_the_paper_claims():
    assert {(claim.number, part.name): part.side for claim in claims.CLAIMS for part in claim.parts} == SIDES
    assert [claim.number for claim in claims.CLAIMS] == [1, 2, 3, 4] and len(PARTS) == len(set(PARTS))


@pytest.mark.parametrize("claim, part", PARTS)
def test_an_interval_is_on_the_claimed_side_across_zero_or_on_the_other(claim, part):
    above, below = row(0.1, 3, claim, part), row(-3, -0.1, claim, part)
    right, wrong = (above, below) if SIDES[claim, part] > 0 else (below, above)
    assert claims.on_side(right) is True and claims.against(right) is False
    assert claims.on_side(wrong) is False and claims.against(wrong) is True
    for low, high in ((-1, 1), (0, 0), (0, 1), (-1, 0)):
        across = row(low, high, claim, part)
        assert claims.on_side(across) is False and claims.against(across) is False, "0 is on neither side"
    for low, high in ((math.nan, math.nan), (math.nan, 1), (1, math.nan)):
        assert claims.on_side(row(low, high, claim, part)) is None
    assert claims.against(row(math.nan, math.nan, claim, part)) is False
    assert claims.verdict([right]) == "supported" and claims.verdict([wrong]) == "not supported"


@pytest.mark.parametrize(
    "rows, expected",
    [
        ([row(1, 2), row(0.001, 90)], "supported"),
        ([row(1, 2), row(-0.001, 90)], "not supported"),
        ([row(1, 2), row(-5, -4)], "not supported"),
        ([row(1, 2), NONE], "not decidable with this many models"),
        ([NONE], "not decidable with this many models"),
        ([], "not decidable with this many models"),
        ([NONE, row(-1, 2)], "not supported"),
        ([row(-1, 2), NONE, row(1, 2)], "not supported"),
        ([row(1, 2), row(-2, -1, 3, "accuracy"), row(-2, -1, 4, "Q-Score")], "supported"),
        ([row(1, 2), row(1, 2, 3, "accuracy")], "not supported"),
    ],
    ids=[
        "all on the side",
        "one across zero",
        "one on the other side",
        "one without interval",
        "none with interval",
        "no rows",
        "a failing one and one without interval",
        "in any order",
        "parts of both sides",
        "a part on its other side",
    ],
)
def test_a_verdict_needs_all_intervals_and_one_that_fails_decides(rows, expected):
    assert claims.verdict(rows) == expected
    assert claims.verdict(rows[::-1]) == expected


def test_why_a_claim_is_undecided_is_said_part_by_part():
    claim = claims.CLAIMS[2]
    rows = [
        row(math.nan, math.nan, 3, "accuracy", models=3),
        row(math.nan, math.nan, 3, "accuracy", models=5),
        row(1, 2, 3, "PIEs"),
        row(math.nan, math.nan, 3, "Q-Score", models=7),
        row(-2, -1, 3, "Q-Score", models=7),
        row(math.nan, math.nan, 3, "Q-Score", models=0),
    ]
    assert claims.why_undecided(claim, rows) == [
        "accuracy: 3 or 5 models, and intervals need 6",
        "Q-Score: no value for 2 of 3 comparisons: no PIEs, or their arrays are not stored",
        "prediction depth: nothing to compare from sparsity 0.7 on",
    ]
    assert claims.why_undecided(claim, [row(1, 2, 3, part.name) for part in claim.parts]) == []


def test_all_evidence_is_of_parts_of_the_claims_and_all_parts_have_evidence(tmp_path):
    make_results(
        tmp_path / "few digits",
        methods=("global", "layer", "GMP", "later_GMP"),
        sparsities=(0.9,),
        umap=False,
        q_score=False,
    )
    compared, _ = evidence.read_compared(pruned_populations(tmp_path / "few digits"))
    rows = evidence.all_evidence(compared)
    assert {(one["claim"], one["part"]) for one in rows} == set(PARTS)
    for one in rows:
        part = claims.PARTS[one["claim"], one["part"]]
        assert part.name == one["part"] and one["sparsity"] == 0.9 and one["group"] and one["comparison"]
        assert claims.on_side(one) is (
            one["low"] > 0 if SIDES[one["claim"], one["part"]] > 0 else one["high"] < 0
        )
