"""Verdicts on rows of evidence made by hand, and that evidence and claims speak of the same measures."""

import math

import pytest
from stored_results import make_results, pruned_populations

from figures.report import claims, evidence, uncertainty
from figures.report.read import load_outputs

SIDES = {
    (1, "PIEs"): +1,
    (1, "excess PIEs"): +1,
    (1, "PIEs at matched accuracy"): +1,
    (2, "unique PIEs"): +1,
    (2, "likeness of halves"): +1,
    (3, "accuracy"): -1,
    (3, "PIEs"): +1,
    (3, "Q-Score"): -1,
    (3, "prediction depth"): +1,
    (4, "Q-Score"): -1,
    (4, "prediction depth"): +1,
}  # as the paper says
UNIQUE = claims.CLAIMS[1].deciding


def row(low, high, part="unique PIEs", models=7, claim=2):
    """A difference in the middle of its 95 % interval."""
    value, degrees = (low + high) / 2, max(1, models - 1)
    error = (high - low) / 2 / uncertainty.student_t_quantile(degrees)
    facts = dict(group="g", comparison="c", sparsity=0.9, value=value, error=error, degrees=degrees)
    return dict(claim=claim, part=part, low=low, high=high, models=models) | facts


def halves(low, high, models=7):
    return row(low, high, "likeness of halves", models)


def none(part="unique PIEs", models=7):
    return row(math.nan, math.nan, part, models)


def test_every_part_is_on_the_side_that_the_paper_claims():
    assert {key: part.side for key, part in claims.PARTS.items()} == SIDES
    assert [claim.number for claim in claims.CLAIMS] == [1, 2, 3, 4]
    undecisive = [key for key, part in claims.PARTS.items() if not part.decides]
    assert undecisive == [(1, "PIEs at matched accuracy")]


@pytest.mark.parametrize("claim, part", SIDES)
def test_an_interval_is_on_the_claimed_side_across_zero_or_on_the_other(claim, part):
    above, below = row(0.1, 3, part, claim=claim), row(-3, -0.1, part, claim=claim)
    right, wrong = (above, below) if SIDES[claim, part] > 0 else (below, above)
    assert claims.supports_claim(right) is True and not claims.contradicts_claim(right)
    assert claims.supports_claim(wrong) is False and claims.contradicts_claim(wrong)
    assert claims.strength(right) == pytest.approx(-claims.strength(wrong)) and claims.strength(right) > 0
    for low, high in ((-1, 1), (-0.01, 1), (-1, 0.01)):
        across = row(low, high, part, claim=claim)
        assert claims.supports_claim(across) is False and not claims.contradicts_claim(across)
    assert claims.supports_claim(row(math.nan, math.nan, part, claim=claim)) is None


@pytest.mark.parametrize(
    "rows, expected",
    [
        ([row(1, 2), row(0.001, 90), halves(1, 2)], "supported"),
        ([row(1, 2), row(-0.001, 90), halves(1, 2)], "undecided"),
        ([row(1, 2), row(-5, -4), halves(1, 2)], "contradicted"),
        ([row(1, 2), halves(-1, 2)], "undecided"),
        ([row(1, 2), halves(-5, -4)], "contradicted"),
        ([row(1, 2)], "nothing to compare"),
        ([], "nothing to compare"),
        ([none(), halves(1, 2)], "nothing to compare"),
        ([none(models=5), halves(1, 2)], "too few models"),
        ([none(models=5), none("likeness of halves", 5)], "too few models"),
        ([none(models=5), row(-5, -4), halves(1, 2)], "contradicted"),
        ([none(models=5), row(-1, 2), halves(1, 2)], "too few models"),
    ],
)
def test_the_first_rule_that_holds_gives_the_verdict(rows, expected):
    assert claims.verdict(rows, UNIQUE) == claims.verdict(rows[::-1], UNIQUE) == expected


def test_one_of_many_differences_contradicts_only_beyond_the_corrected_level():
    """2.4 times its error: beyond 95 % (2.04 of 30 degrees), within 99.75 % (3.3), that of 20 differences."""
    borderline = row(-4.44, -0.36, models=31)
    others = [row(1, 2, models=31)] * 18 + [halves(1, 2, models=31)]
    assert claims.verdict([borderline, halves(1, 2, models=31)], UNIQUE) == "contradicted"
    assert claims.verdict([borderline, *others], UNIQUE) == "undecided"
    reasons = " ".join(claims.reasons(claims.CLAIMS[1], [borderline, *others]))
    assert "Against it at 95 % only" in reasons and "Across 0" not in reasons


def test_a_part_never_contradicts_more_than_its_claim():
    """The borderline difference is alone in its part, one of 20 in its claim."""
    borderline, others = row(-4.44, -0.36, models=31), [halves(1, 2, models=31)] * 19
    expected = {"unique PIEs": "undecided", "likeness of halves": "supported"}
    assert claims.verdicts([borderline, *others], claims.CLAIMS[1]) == expected
    assert claims.verdict([borderline], UNIQUE[:1]) == "contradicted"


def test_a_measure_that_does_not_decide_changes_no_verdict():
    claim = claims.CLAIMS[0]
    rows = [row(1, 2, part.name, claim=1) for part in claim.deciding]
    contrary = row(-9, -8, "PIEs at matched accuracy", claim=1)
    assert claims.verdict([*rows, contrary], claim.deciding) == "supported"


def test_what_is_missing_is_named_with_what_to_run():
    depths = row(math.nan, math.nan, "prediction depth", 5, claim=4) | {"run": "run it with more"}
    few = [row(-2, -1, "Q-Score", claim=4), depths]
    said = ["prediction depth: 5 models, and intervals need 6; run it with more"]
    assert claims.reasons(claims.CLAIMS[3], few) == said
    [nothing] = claims.reasons(claims.CLAIMS[3], few[:1])
    assert "nothing from sparsity 0.7 on" in nothing and "--prediction_depth_models 6" in nothing
    [undefined] = claims.reasons(claims.CLAIMS[1], [none(), halves(1, 2)])
    assert undefined.startswith("unique PIEs: no interval for 1 of 1 differences")
    [train, _] = claims.reasons(claims.CLAIMS[1], [none(models=3), none("likeness of halves", 5)])
    assert "3 models, and intervals need 6" in train and "--models_number 6" in train


@pytest.mark.parametrize(
    "rows, expected",
    [
        ([row(-1, 3, models=10), halves(1, 2)], "About 40 networks of each kind or more would be needed to"),
        ([row(-3, 1, models=10), halves(1, 2)], "to contradict it"),
        ([row(-100, 101, models=10), halves(1, 2)], "More networks would hardly decide"),
    ],
)
def test_more_networks_are_suggested_where_they_help(rows, expected):
    assert claims.verdict(rows, UNIQUE) == "undecided"
    assert expected in claims.reasons(claims.CLAIMS[1], rows)[-1]


def test_so_many_networks_bring_an_interval_to_zero():
    """Half-width 2 around 1: half as wide with four times the networks."""
    assert claims.networks_needed(row(-1, 3, models=10)) == 40


def test_all_evidence_is_of_parts_of_the_claims_and_all_parts_have_evidence(tmp_path):
    methods = ("global", "layer", "GMP", "later_GMP")
    folder = tmp_path / "few digits"
    make_results(folder, methods=methods, sparsities=(0.9,), umap=False, q_score=False)
    rows = evidence.all_evidence(load_outputs(pruned_populations(folder))[0])
    assert set(SIDES) - {(1, "PIEs at matched accuracy")} <= {(each["claim"], each["part"]) for each in rows}
    for each in rows:
        assert (each["claim"], each["part"]) in SIDES
        assert each["sparsity"] == 0.9 and each["group"] and each["comparison"]
        if not math.isnan(each["low"]):
            side = each["low"] > 0 if SIDES[each["claim"], each["part"]] > 0 else each["high"] < 0
            assert claims.supports_claim(each) is side
