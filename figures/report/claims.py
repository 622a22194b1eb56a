"""The paper's claims, their measures, and the rules of their verdicts, as docs/protocol.md fixes them."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy import stats

from figures.report.similarity import holm
from figures.report.uncertainty import CONFIDENCE, FEWEST_SEEDS

PROTOCOL_DATE = "2026-11-29"
SEEN_BEFORE = (
    "the released study of WideResNet-10-1 on 16x16 images, the digits demo, and the test accuracy of two "
    "pilots of the new networks"
)
HIGH_SPARSITY = 0.9  # from here on the claims are about
# Smallest differences that matter: at least so much, or such shares of the reference method's value or
# floor.
SMALLEST_LOSS, SHARE, FLOOR_SHARE = 0.005, 0.25, 0.1
SMALLEST_UNIQUENESS, SMALLEST_IN_DEVIATIONS = 0.2, 0.1
CONFOUNDING_GAP = 0.15  # of accuracies, beyond which U says little

FOR, AGAINST, OPEN = "for", "against", "open"
NOTHING, FEW, MIXED = "nothing to compare", "too few networks", "mixed"
SUPPORTED, CONTRADICTED, NO_DIFFERENCE = "supported", "contradicted", "no difference"
NOT_UNIQUE, UNDECIDED = "not unique", "undecided"


@dataclass(frozen=True)
class Measure:
    """A measure of a claim, turned so that the claim says 'above 0': what is subtracted from what; shown
    times `scale` with so many decimals. One that does not decide is shown beside those that do."""

    name: str
    difference: str
    unit: str = ""
    scale: int = 1
    decimals: int = 0
    decides: bool = False


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, its measures, what to run where there is nothing to compare, and what else could
    make the differences."""

    number: int
    statement: str
    measures: tuple[Measure, ...]
    run: str
    confounds: tuple[str, ...]


POINTS = dict(unit="points", scale=100, decimals=2)
DEVIATIONS = dict(unit="standard deviations", decimals=2)
CONTRAST = "contrastive minus supervised, same pruning method and sparsity"
EARLY = "early minus late pruning, same scope and sparsity"
BY_ONE_SHOT = "early minus one-shot pruning, same scope and sparsity"
EASY = "on images that the modal labels of both get right"
CLAIMS = (
    Claim(
        1,
        "At high sparsity contrastive networks misclassify more than supervised ones.",
        (
            Measure("accuracy lost", f"reference minus pruned, {CONTRAST}", **POINTS, decides=True),
            Measure("excess PIEs", f"PIEs beyond the noise floor, {CONTRAST}", "images", decides=True),
            Measure("PIEs", CONTRAST, "images"),
            Measure("lost minus gained", f"images no longer right minus newly right, {CONTRAST}", "images"),
            Measure("accuracy lost from dense", f"dense minus pruned, {CONTRAST}", **POINTS),
            Measure("excess PIEs over dense", f"the dense networks as the reference, {CONTRAST}", "images"),
            Measure(
                "PIEs at matched accuracy",
                "contrastive minus those supervised networks of the same pruning method, at any sparsity, "
                "whose accuracy is nearest and at most one point away",
                "images",
            ),
        ),
        "run the clr_ and sup_ scripts with the same pruning methods at 90 % or more, one-shot pruning with "
        "--pruning_percentages 0.0 too, which makes its control",
        (
            "Contrastive and supervised networks differ in accuracy, epochs and views too, not in the loss "
            "alone.",
            "One-shot pruned contrastive networks are finetuned with cross-entropy: hence the control.",
        ),
    ),
    Claim(
        2,
        "Which images are misclassified is largely unique to a combination of learning and pruning method.",
        (
            Measure("U across learning methods", "same pruning method", decimals=2, decides=True),
            Measure("U across pruning methods", "same learning method", decimals=2, decides=True),
            Measure("Jaccard across learning methods", "PIE sets minus random ones", decimals=2),
            Measure("Jaccard across pruning methods", "PIE sets minus random ones", decimals=2),
        ),
        "run the PIE scripts for both learning methods and two pruning methods of one scope at 90 % or more",
        ("Accuracies that are 15 points apart make U 0.11 to 0.19; pairs further apart do not decide.",),
    ),
    Claim(
        3,
        "Pruning early in training does the most damage to the representation.",
        (
            Measure("accuracy lost", EARLY, **POINTS, decides=True),
            Measure("excess PIEs", EARLY, "images", decides=True),
            Measure("k-NN accuracy", "at the last layer, late minus early pruning", **POINTS),
            Measure("Q-Score", f"late minus early pruning, {EASY}", decimals=3),
            Measure("prediction depth", f"early minus late pruning, {EASY}", "layers", decimals=2),
            Measure("accuracy lost, one-shot", BY_ONE_SHOT, **POINTS),
            Measure("excess PIEs, one-shot", BY_ONE_SHOT, "images"),
        ),
        "train networks with --pruning 0.9, early and with --schedule late, then run the PIE scripts",
        ("Early pruned networks have more epochs to recover, late pruned ones a lower learning rate.",),
    ),
    Claim(
        4,
        "PIEs have lower Q-Scores and higher prediction depths.",
        (
            Measure("Q-Score", "others of equal difficulty minus PIEs", **DEVIATIONS, decides=True),
            Measure("prediction depth", "PIEs minus others of equal difficulty", **DEVIATIONS, decides=True),
            Measure("Q-Score, all", "all others minus PIEs", **DEVIATIONS),
            Measure("prediction depth, all", "PIEs minus all others", **DEVIATIONS),
            Measure("AUROC of Q-Score", "for misclassification, minus one half", decimals=3),
            Measure("AUROC of depth", "for misclassification, minus one half", decimals=3),
        ),
        "run the PIE scripts and the prediction_depth scripts with --prediction_depth_models 6 or more",
        ("Equal difficulty: as many reference networks agree, and their label is right or wrong alike.",),
    ),
)
MEASURES = {(claim.number, measure.name): measure for claim in CLAIMS for measure in claim.measures}

RULES = (  # the first that holds
    (NOTHING, "a measure that decides has no row, or one that is not defined"),
    (FEW, f"a row has fewer than {FEWEST_SEEDS} networks"),
    (
        MIXED,
        "rows are for and others against the claim; or it would be supported, but a row is against it; or "
        "contradicted, but a row is for it",
    ),
    (SUPPORTED, "the 95 % interval of each measure lies above the smallest difference that matters, d"),
    (CONTRADICTED, "each lies below -d"),
    (
        f"{NO_DIFFERENCE} (claim 2: {NOT_UNIQUE})",
        "each interval and all row estimates lie within -d and d, and no row is for or against",
    ),
    (UNDECIDED, "otherwise"),
)


def mark_rows(rows: list[dict]) -> list[str]:
    """FOR where a row's value is beyond its smallest difference on the claimed side, AGAINST beyond it on the
    other, else OPEN; by Holm's method at 5 % over these rows, two-sided."""
    value, error, degrees, smallest = (
        np.array([row[name] for row in rows], float) for name in ("value", "error", "degrees", "smallest")
    )
    with np.errstate(divide="ignore", invalid="ignore"):  # where nothing varies
        beyond = (np.abs(value) - smallest) / error
    p = holm(np.minimum(1, 2 * stats.t.sf(beyond, degrees)))
    marks = np.where(p < 1 - CONFIDENCE, np.where(value > 0, FOR, AGAINST), OPEN)
    return marks.tolist()


def judge(evidence: list[dict], number: int) -> str:
    """The verdict on a claim.

    Args:
        evidence: of all claims, rows of claim, measure, decides, is_mean (of the measure's other rows),
            value, low, high, error, degrees, models, smallest and mark.
    """
    deciding = [row for row in evidence if row["claim"] == number and row["decides"]]
    rows = [row for row in deciding if not row["is_mean"]]
    means = [row for row in deciding if row["is_mean"]]
    needed = {measure.name for (claim, _), measure in MEASURES.items() if claim == number and measure.decides}
    few = [row for row in rows if 0 < row["models"] < FEWEST_SEEDS]
    if needed - {row["measure"] for row in rows} or any(
        math.isnan(row["low"]) for row in rows if row not in few
    ):
        return NOTHING
    if few:
        return FEW
    marks = {row["mark"] for row in rows}
    above = all(row["low"] > row["smallest"] for row in means)
    below = all(row["high"] < -row["smallest"] for row in means)
    if {FOR, AGAINST} <= marks or (above and AGAINST in marks) or (below and FOR in marks):
        return MIXED
    if above or below:
        return SUPPORTED if above else CONTRADICTED
    inside = all(-row["smallest"] <= row["low"] and row["high"] <= row["smallest"] for row in means)
    small = all(abs(row["value"]) <= row["smallest"] for row in rows)
    if inside and small and marks == {OPEN}:
        return NOT_UNIQUE if number == 2 else NO_DIFFERENCE
    return UNDECIDED


def count_marks(rows: list[dict]) -> str:
    """`2 for, 0 against, 1 open`, of rows that decide."""
    marks = [row["mark"] for row in rows if row["decides"] and not row["is_mean"]]
    return ", ".join(f"{marks.count(mark)} {mark}" for mark in (FOR, AGAINST, OPEN))


def missing(evidence: list[dict], claim: Claim) -> list[str]:
    """What a verdict lacks, in words."""
    words = []
    for measure in (measure for measure in claim.measures if measure.decides):
        rows = [row for row in evidence if (row["claim"], row["measure"]) == (claim.number, measure.name)]
        rows = [row for row in rows if row["decides"]]
        few = [row["models"] for row in rows if 0 < row["models"] < FEWEST_SEEDS]
        if not rows:
            words.append(f"{measure.name}: nothing at {100 * HIGH_SPARSITY:g} % or above; {claim.run}")
        elif few:
            words.append(f"{measure.name}: {either(few)} networks, and intervals need {FEWEST_SEEDS}")
        elif any(math.isnan(row["low"]) for row in rows):
            words.append(f"{measure.name}: no interval, because networks do not differ or none is a PIE")
    return words


def either(numbers: Iterable[int]) -> str:
    """3, 5, 3 as `3 or 5`."""
    return " or ".join(map(str, sorted(set(numbers))))
