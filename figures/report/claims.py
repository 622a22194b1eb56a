"""The paper's claims, their measures, and the rules for verdicts, as fixed in docs/protocol.md."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from scipy import stats

from figures.report.similarity import holm
from figures.report.uncertainty import CONFIDENCE, FEWEST_SEEDS

PROTOCOL_DATE = "2026-11-29"
SEEN_BEFORE = (
    "an earlier study of WideResNet-10-1 on 16x16 images, the digits demo, and the test accuracy of two "
    "pilots of the new networks"
)
HIGH_SPARSITY = 0.9  # the claims are about this sparsity or more
# Smallest differences that matter: absolute, or a share of the reference method's value or noise floor.
SMALLEST_LOSS, SHARE, FLOOR_SHARE = 0.005, 0.25, 0.1
SMALLEST_UNIQUENESS, SMALLEST_IN_DEVIATIONS = 0.2, 0.1
CONFOUNDING_GAP = 0.15  # difference in accuracy beyond which U is not informative

FOR, AGAINST, OPEN = "for", "against", "open"
NOTHING, FEW, MIXED = "nothing to compare", "too few networks", "mixed"
SUPPORTED, CONTRADICTED, NO_DIFFERENCE = "supported", "contradicted", "no difference"
NOT_UNIQUE, UNDECIDED = "not unique", "undecided"


class Measure(NamedTuple):
    """A measure of a claim, with the sign that makes the claim say 'above 0'.

    difference: its two terms; unit, scale, decimals: how it is shown; decides: whether it counts for the
    verdict or is only shown.
    """

    name: str
    difference: str
    unit: str = ""
    scale: int = 1
    decimals: int = 0
    decides: bool = False


class Claim(NamedTuple):
    """A claim of the paper.

    outcomes: the finding if it is supported, contradicted, or if there is no difference; run: what to run if
    there is nothing to compare; confounds: other possible causes of a difference.
    """

    number: int
    statement: str
    outcomes: tuple[str, str, str]
    measures: tuple[Measure, ...]
    run: str
    confounds: tuple[str, ...]


POINTS = dict(unit="points", scale=100, decimals=2)
DEVIATIONS = dict(unit="standard deviations", decimals=3)
CONTRAST = "contrastive minus supervised"
EARLY = "early minus late pruning"
BY_ONE_SHOT = "early minus one-shot pruning"
SAME_IMAGES = "0 if the same images change, 1 if unrelated ones"
EASY = "on images that the modal labels of both get right"
CLAIMS = (
    Claim(
        1,
        "At high sparsity contrastive networks misclassify more than supervised ones.",
        (
            "pruning damages contrastive networks more than supervised ones",
            "pruning damages contrastive networks less than supervised ones",
            "pruning damages contrastive and supervised networks about equally",
        ),
        (
            Measure("accuracy lost", f"from the reference, {CONTRAST}", **POINTS, decides=True),
            Measure("excess PIEs", f"PIEs beyond the noise floor, {CONTRAST}", "images", decides=True),
            Measure("PIEs", f"against dense, {CONTRAST}", "images"),
            Measure(
                "lost minus gained", f"no longer right minus newly right, against dense, {CONTRAST}", "images"
            ),
            Measure("accuracy lost from dense", CONTRAST, **POINTS),
            Measure("excess PIEs over dense", CONTRAST, "images"),
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
            "Finetuning with cross-entropy changes contrastive networks by itself; the control accounts for "
            "it, the dense reference does not.",
            "The default steps prune contrastive networks late at 10 to 20 % of the training, "
            "supervised ones at 25 to 49 %.",
        ),
    ),
    Claim(
        2,
        "Which images are misclassified is largely unique to a combination of learning and pruning method.",
        (
            "pruning changes largely different images in each combination of learning and pruning method",
            "pruning changes the same images in different combinations, more than in networks of other seeds",
            "pruning changes largely the same images in all combinations of learning and pruning method",
        ),
        (
            Measure("U across learning methods", SAME_IMAGES, decimals=2, decides=True),
            Measure("U across pruning methods", SAME_IMAGES, decimals=2, decides=True),
            Measure(
                "Jaccard across learning methods",
                "PIEs against the reference, minus random sets",
                decimals=2,
            ),
            Measure(
                "Jaccard across pruning methods",
                "PIEs against the reference, minus random sets",
                decimals=2,
            ),
        ),
        "run the PIE scripts for both learning methods and two pruning methods of one scope at 90 % or more",
        ("Accuracies that are 15 points apart make U 0.11 to 0.19; pairs further apart do not decide.",),
    ),
    Claim(
        3,
        "Pruning early in training does the most damage to the representation.",
        (
            "pruning early in training does more damage than pruning late",
            "pruning late in training does more damage than pruning early",
            "early and late pruning do about equal damage",
        ),
        (
            Measure("accuracy lost", EARLY, **POINTS, decides=True),
            Measure("excess PIEs", EARLY, "images", decides=True),
            Measure("last-layer k-NN accuracy", "late minus early pruning", **POINTS),
            Measure("Q-Score", f"late minus early pruning, {EASY}", decimals=3),
            Measure("prediction depth", f"early minus late pruning, {EASY}", "layers", decimals=2),
            Measure("accuracy lost, one-shot", BY_ONE_SHOT, **POINTS),
            Measure("excess PIEs, one-shot", BY_ONE_SHOT, "images"),
        ),
        "train networks with --pruning 0.9, with --schedule early and with --schedule late, then run the PIE "
        "scripts",
        ("Early pruned networks have more epochs to recover, late pruned ones a lower learning rate.",),
    ),
    Claim(
        4,
        "PIEs have lower Q-Scores and higher prediction depths.",
        (
            "PIEs have lower Q-Scores and higher prediction depths than other images of equal difficulty",
            "PIEs have higher Q-Scores and lower prediction depths than other images of equal difficulty",
            "PIEs have about the Q-Scores and prediction depths of other images of equal difficulty",
        ),
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

FINDINGS = {  # verdict -> its sentence, filled with a claim's outcomes
    NOTHING: "Not judged whether {}: the comparisons that it needs are missing or confounded.",
    FEW: "There are too few networks to say whether {}.",
    MIXED: "Some comparisons show that {}, others show the opposite.",
    SUPPORTED: "Here, {}.",
    CONTRADICTED: "It is the other way round: {1}.",
    NO_DIFFERENCE: "Here, {2}.",
    NOT_UNIQUE: "Here, {2}.",
    UNDECIDED: "The measures disagree or are too uncertain to say whether {}.",
}
RULES = (  # the first rule that holds decides
    (NOTHING, "a deciding measure has no row, or an undefined one"),
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
    """Marks rows FOR if their value exceeds the smallest difference that matters on the claimed side, AGAINST
    on the opposite side, else OPEN. The tests are two-sided, with Holm's method at 5 % over these rows."""
    value, error, degrees, threshold = (
        np.array([row[name] for row in rows], float) for name in ("value", "error", "degrees", "smallest")
    )
    with np.errstate(divide="ignore", invalid="ignore"):  # if nothing varies
        beyond = (np.abs(value) - threshold) / error
    p = holm(np.minimum(1, 2 * stats.t.sf(beyond, degrees)))
    marks = np.where(p < 1 - CONFIDENCE, np.where(value > 0, FOR, AGAINST), OPEN)
    return marks.tolist()


def mark_mean(row: dict) -> str:
    """Marks a mean over rows by its interval: FOR above the smallest difference that matters, AGAINST below
    its negative, else OPEN."""
    if row["low"] > row["smallest"]:
        return FOR
    return AGAINST if row["high"] < -row["smallest"] else OPEN


def judge(evidence: list[dict], number: int) -> str:
    """Returns the verdict on a claim.

    Args:
        evidence: rows of all claims, with claim, measure, decides, is_mean (the row is the mean over those of
            the measure), value, low, high, error, degrees, models, smallest and mark.
    """
    deciding = [row for row in evidence if row["claim"] == number and row["decides"]]
    rows = [row for row in deciding if not row["is_mean"]]
    means = [row for row in deciding if row["is_mean"]]
    required = {measure.name for measure in CLAIMS[number - 1].measures if measure.decides}
    few, undefined = few_and_undefined(rows)
    if undefined or required - {row["measure"] for row in rows}:
        return NOTHING
    if few:
        return FEW
    marks = {row["mark"] for row in rows}
    marks_of_means = {*map(mark_mean, means)}
    above, below = marks_of_means == {FOR}, marks_of_means == {AGAINST}
    if {FOR, AGAINST} <= marks or (above and AGAINST in marks) or (below and FOR in marks):
        return MIXED
    if above or below:
        return SUPPORTED if above else CONTRADICTED
    inside = all(-row["smallest"] <= row["low"] and row["high"] <= row["smallest"] for row in means)
    all_small = all(abs(row["value"]) <= row["smallest"] for row in rows)
    if inside and all_small and marks == {OPEN}:
        return NOT_UNIQUE if number == 2 else NO_DIFFERENCE
    return UNDECIDED


def few_and_undefined(rows: list[dict]) -> tuple[list[dict], list[dict]]:
    """Returns the rows with too few networks for an interval, and the others without one."""
    few = [row for row in rows if row["models"] < FEWEST_SEEDS]
    return few, [row for row in rows if row["models"] >= FEWEST_SEEDS and math.isnan(row["low"])]


def count_marks(rows: list[dict]) -> str:
    """Counts the marks of deciding rows: `2 for, 0 against, 1 open`."""
    marks = [row["mark"] for row in rows if row["decides"] and not row["is_mean"]]
    return ", ".join(f"{marks.count(mark)} {mark}" for mark in (FOR, AGAINST, OPEN))


def missing(evidence: list[dict], claim: Claim) -> list[str]:
    """Returns messages on what a verdict lacks."""
    measures_of: dict[str, list[str]] = {}  # message -> measures
    for measure in (measure for measure in claim.measures if measure.decides):
        compared = [
            row for row in evidence if row["claim"] == claim.number and row["measure"] == measure.name
        ]
        rows = [row for row in compared if row["decides"]]
        few, undefined = few_and_undefined(rows)
        if not compared:
            message = f"no comparison at {100 * HIGH_SPARSITY:g} % or above that decides; {claim.run}"
        elif not rows:
            message = (
                "no comparison decides, because the finetuned control is missing, settings differ, or "
                f"accuracies are more than {100 * CONFOUNDING_GAP:g} points apart"
            )
        elif undefined:
            message = (
                "no interval: networks do not differ, halves of the seeds disagree, or there are too few PIEs"
            )
        elif few:
            numbers = either(row["models"] for row in few)
            message = f"comparisons of {numbers} networks; a verdict needs {FEWEST_SEEDS}"
        else:
            continue
        measures_of.setdefault(message, []).append(measure.name)
    return [f"{', '.join(names)}: {message}" for message, names in measures_of.items()]


def either(numbers: Iterable[int]) -> str:
    """Formats 3, 5, 3 as `3 or 5`."""
    return " or ".join(map(str, sorted(set(numbers))))
