"""The paper's claims, the rules of their verdicts, and the verdicts. The rules were written before any result
was seen."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from figures.report.uncertainty import FEWEST_SEEDS

HIGH_SPARSITY = 0.7  # from here on the claims are about
SUPPORTED, NOT_SUPPORTED, NOT_DECIDABLE = "supported", "not supported", "not decidable with this many models"


@dataclass(frozen=True)
class Part:
    """One measure of a claim: `side` is +1 where the claim says that the difference is above zero, -1 below;
    it is shown times `scale` with so many `decimals`."""

    name: str
    side: int
    difference: str
    interval: str
    scale: int = 1
    decimals: int = 0


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, the measures that decide it, and what else could make the differences."""

    number: int
    statement: str
    parts: tuple[Part, ...]
    confounds: tuple[str, ...]


JACKKNIFE, BOOTSTRAP = "delete-2 jackknife over seeds", "bootstrap over seeds"

# A claim is supported if the 95 % interval of every difference lies on the claimed side, for every pair of
# populations that is stored, at every sparsity from HIGH_SPARSITY; not supported if any interval does not;
# not decidable if there is a difference without an interval, or none at all.
CLAIMS = (
    Claim(
        1,
        "At high sparsity contrastive networks have more PIEs than supervised ones.",
        (
            Part(
                "PIEs",
                +1,
                "number of PIEs of contrastive minus that of supervised networks, same pruning method and "
                "sparsity",
                JACKKNIFE,
            ),
        ),
        (
            "Contrastive and supervised networks differ in accuracy, epochs and views too, not in the "
            "loss alone.",
            "One-shot pruned contrastive networks are finetuned with cross-entropy, encoder included: "
            "after that they are no longer purely contrastive.",
            "PIEs also come from the choice of seeds: compare the noise floor.",
        ),
    ),
    Claim(
        2,
        "The PIE sets are largely unique to a combination of learning and pruning method.",
        (
            Part(
                "unique PIEs",
                +1,
                "share of a combination's PIEs that no other combination of the same sparsity has, minus "
                "one half",
                JACKKNIFE,
                decimals=2,
            ),
            Part(
                "likeness of halves",
                +1,
                "Jaccard similarity of the PIE sets of two halves of a combination's seeds, minus that of "
                "one half and, with the other half, other combinations: PIEs that are unique to the draw "
                "of seeds are not unique to the method",
                JACKKNIFE,
                decimals=2,
            ),
        ),
        (
            "Small random sets are nearly always unique: the share by chance stands beside the measured one.",
            "The more combinations are compared, the less can be unique.",
            "Pruning methods of one learning method share their dense networks, which makes their PIE "
            "sets more alike.",
        ),
    ),
    Claim(
        3,
        "Representation quality suffers most when pruning starts early.",
        (
            Part(
                "accuracy",
                -1,
                "test accuracy (percentage points) of networks pruned early minus that of networks pruned "
                "late or in one shot, seed by seed",
                BOOTSTRAP,
                100,
                2,
            ),
            Part(
                "PIEs",
                +1,
                "number of PIEs of networks pruned early minus that of networks pruned late or in one shot",
                JACKKNIFE,
            ),
            Part(
                "Q-Score",
                -1,
                "mean Q-Score of networks pruned early minus that of networks pruned late or in one shot, "
                "seed by seed",
                BOOTSTRAP,
                decimals=3,
            ),
            Part(
                "prediction depth",
                +1,
                "mean prediction depth of networks pruned early minus that of networks pruned late or in "
                "one shot, seed by seed",
                BOOTSTRAP,
                decimals=2,
            ),
        ),
        (
            "Unless another scope is asked for, gradual pruning is per layer and one-shot pruning global: "
            "networks of the same scope are compared where they exist.",
            "One-shot pruned networks are finetuned with cross-entropy after their training, contrastive "
            "encoders too; gradually pruned ones are not.",
            "One-shot pruned networks train dense all the time, gradually pruned ones recover with the "
            "training's learning rate of that time.",
        ),
    ),
    Claim(
        4,
        "PIEs have a lower Q-Score and a higher prediction depth than other images.",
        (
            Part(
                "Q-Score",
                -1,
                "mean Q-Score that pruned networks give PIEs minus that of all other images",
                BOOTSTRAP,
                decimals=3,
            ),
            Part(
                "prediction depth",
                +1,
                "mean prediction depth in pruned networks of PIEs minus that of all other images",
                BOOTSTRAP,
                decimals=2,
            ),
        ),
        (
            "The PIEs are found with the same networks whose Q-Scores and depths are compared.",
            "PIEs are often images that are hard for dense networks too: a difference need not come from "
            "pruning.",
        ),
    ),
)


PARTS = {(claim.number, part.name): part for claim in CLAIMS for part in claim.parts}


def verdict(rows: list[dict]) -> str:
    """What rows of evidence for one claim, or for a part of one, say; each has value, low, high, claim and
    part.

    Any interval that is not wholly on the claimed side decides against the claim, whatever is missing.
    """
    sides = [on_side(row) for row in rows]
    if False in sides:
        return NOT_SUPPORTED
    return SUPPORTED if sides and None not in sides else NOT_DECIDABLE


def on_side(row: dict) -> bool | None:
    """Whether the row's 95 % interval lies on the claimed side; None without an interval."""
    nearest, farthest = towards_claim(row)
    return None if math.isnan(nearest + farthest) else nearest > 0


def against(row: dict) -> bool:
    """Whether the row's 95 % interval lies wholly on the other side."""
    return towards_claim(row)[1] < 0  # never of NaN


def towards_claim(row: dict) -> list[float]:
    """The ends of the row's 95 % interval, the claimed side of 0 above it; NaN without an interval."""
    side = PARTS[row["claim"], row["part"]].side
    return [side * row[end] for end in ("low", "high")][::side]


def either(numbers: Iterable[int]) -> str:
    """3, 5, 3 as `3 or 5`."""
    return " or ".join(map(str, sorted(set(numbers))))


def why_undecided(claim: Claim, rows: list[dict]) -> list[str]:
    """What is missing for a decision, in words."""
    reasons = []
    for part in claim.parts:
        of_part = [row for row in rows if row["part"] == part.name]
        if not of_part:
            reasons.append(f"{part.name}: nothing to compare from sparsity {HIGH_SPARSITY:g} on")
            continue
        few = {row["models"] for row in of_part if 0 < row["models"] < FEWEST_SEEDS}
        undefined = [row for row in of_part if on_side(row) is None and row["models"] not in few]
        if few:
            reasons.append(f"{part.name}: {either(few)} models, and intervals need {FEWEST_SEEDS}")
        if undefined:
            reasons.append(
                f"{part.name}: no value for {len(undefined)} of {len(of_part)} comparisons: no PIEs, or "
                "their arrays are not stored"
            )
    return reasons
