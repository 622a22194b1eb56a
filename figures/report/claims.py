"""The paper's claims, the rules of their verdicts, and the verdicts. The rules were written before any result
was seen."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from figures.report.uncertainty import CONFIDENCE, FEWEST_SEEDS, student_t_quantile

HIGH_SPARSITY = 0.7  # from here on the claims are about
CONTRADICTED, SUPPORTED, UNDECIDED = "contradicted", "supported", "undecided"
NOTHING, FEW = "nothing to compare", "too few models"
TOO_MANY = 10  # times the networks that there are: so many more are not suggested


@dataclass(frozen=True)
class Part:
    """One measure of a claim: `side` is +1 where the claim says that the difference is above zero, -1 below;
    it is shown times `scale` with so many `decimals`. One that does not decide stands beside those that
    do."""

    name: str
    side: int
    difference: str
    interval: str
    scale: int = 1
    decimals: int = 0
    decides: bool = True


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, the measures that decide it, what to run where there is nothing to compare, and
    what else could make the differences."""

    number: int
    statement: str
    parts: tuple[Part, ...]
    run: str
    confounds: tuple[str, ...]

    @property
    def deciding(self) -> tuple[Part, ...]:
        return tuple(part for part in self.parts if part.decides)


HALVES, JACKKNIFE, MEAN = "half-sampling", "delete-2 jackknife over splits", "Student's t over networks"
MORE_NETWORKS = (
    f"train more networks (--index_end {FEWEST_SEEDS - 1} or higher), then run the scripts after it with "
    f"--models_number {FEWEST_SEEDS} or more"
)
DEPTHS = "run clr_prediction_depth.py and sup_prediction_depth.py with --prediction_depth_models 6 or more"

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
                HALVES,
            ),
            Part(
                "excess PIEs",
                +1,
                "number of PIEs beyond the noise floor, of contrastive minus that of supervised networks: "
                "pruned against dense networks, minus dense against dense ones, of halves of the seeds",
                JACKKNIFE,
            ),
            Part(
                "PIEs at matched accuracy",
                +1,
                "number of PIEs of contrastive networks minus that of the supervised ones of the same "
                "pruning method, at any sparsity, whose mean accuracy is nearest and at most one "
                "percentage point away; does not decide, because sparsities may differ",
                HALVES,
                decides=False,
            ),
        ),
        "run the clr_ and the sup_ scripts with the same pruning methods and --pruning_percentages",
        (
            "Contrastive and supervised networks differ in accuracy, epochs and views too, not in the "
            "loss alone.",
            "One-shot pruned contrastive networks are finetuned with cross-entropy, encoder included: "
            "after that they are no longer purely contrastive.",
            "PIEs also come from the choice of seeds, the more the more networks err: hence the excess.",
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
                HALVES,
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
        "run the PIE scripts for two combinations of learning and pruning method at one sparsity",
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
                MEAN,
                100,
                2,
            ),
            Part(
                "PIEs",
                +1,
                "number of PIEs of networks pruned early minus that of networks pruned late or in one shot",
                HALVES,
            ),
            Part(
                "Q-Score",
                -1,
                "mean Q-Score of networks pruned early minus that of networks pruned late or in one shot, "
                "seed by seed",
                MEAN,
                decimals=3,
            ),
            Part(
                "prediction depth",
                +1,
                "mean prediction depth of networks pruned early minus that of networks pruned late or in "
                "one shot, seed by seed",
                MEAN,
                decimals=2,
            ),
        ),
        "train networks with --pruning, early and with --schedule late, then run the PIE scripts for them",
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
                "mean Q-Score that pruned networks give PIEs minus that of all other images; PIEs are found "
                "with one half of the seeds, the networks of the other half are measured",
                JACKKNIFE,
                decimals=3,
            ),
            Part(
                "prediction depth",
                +1,
                "mean prediction depth in pruned networks of PIEs minus that of all other images, halves of "
                "the seeds as above",
                JACKKNIFE,
                decimals=2,
            ),
        ),
        "run the PIE scripts",
        (
            "PIEs are often images that are hard for dense networks too: a difference need not come from "
            "pruning.",
        ),
    ),
)


PARTS = {(claim.number, part.name): part for claim in CLAIMS for part in claim.parts}


def rows_of(evidence: list[dict], parts: Iterable[Part]) -> list[dict]:
    """The differences of these parts, the largest evidence first."""
    rows = [row for row in evidence if PARTS[row["claim"], row["part"]] in parts]
    return sorted(rows, key=lambda row: -abs(strength(row)) if supports_claim(row) is not None else 1)


def signed_interval(row: dict, differences: int = 1) -> tuple[float, float]:
    """The ends of the row's interval at level 1 - 0.05 / differences, the claimed side of 0 above it; NaN
    without an interval."""
    value = PARTS[row["claim"], row["part"]].side * row["value"]
    if math.isnan(row["low"]):
        return math.nan, math.nan
    half = student_t_quantile(row["degrees"], 1 - (1 - CONFIDENCE) / differences) * row["error"]
    return value - half, value + half


def strength(row: dict) -> float:
    """The difference in standard errors, above 0 on the claimed side; NaN without an interval."""
    value = PARTS[row["claim"], row["part"]].side * row["value"]
    return math.nan if math.isnan(row["low"]) else value / row["error"]


def supports_claim(row: dict) -> bool | None:
    """Whether the row's 95 % interval lies on the claimed side; None without an interval."""
    nearest, _ = signed_interval(row)
    return None if math.isnan(nearest) else nearest > 0


def contradicts_claim(row: dict, differences: int = 1) -> bool:
    """Whether the row's interval at level 1 - 0.05 / differences lies wholly on the other side. Where one row
    alone contradicts, all that are looked at are counted."""
    return signed_interval(row, max(1, differences))[1] < 0


def with_interval(rows: list[dict]) -> int:
    """The number of differences with an interval."""
    return sum(supports_claim(row) is not None for row in rows)


def lacking(rows: list[dict], parts: Iterable[Part], run: str = "") -> dict[str, list[str]]:
    """NOTHING and FEW -> what is missing for a decision and what to run, in words."""
    missing = {NOTHING: [], FEW: []}
    for part in parts:
        of_part = [row for row in rows if row["part"] == part.name]
        few = [row for row in of_part if 0 < row["models"] < FEWEST_SEEDS]
        undefined = [row for row in of_part if supports_claim(row) is None and row not in few]
        if not of_part:
            remedy = DEPTHS if part.name == "prediction depth" else run
            missing[NOTHING].append(f"{part.name}: nothing from sparsity {HIGH_SPARSITY:g} on; {remedy}")
        if few:
            remedies = "; ".join(dict.fromkeys(row.get("run") or MORE_NETWORKS for row in few))
            models = either(row["models"] for row in few)
            missing[FEW].append(
                f"{part.name}: {models} models, and intervals need {FEWEST_SEEDS}; {remedies}"
            )
        if undefined:
            missing[NOTHING].append(
                f"{part.name}: no interval for {len(undefined)} of {len(of_part)} differences: no PIEs, "
                "networks that do not differ, or arrays that are not stored"
            )
    return missing


# The first rule that holds gives the verdict. Rows are all differences of the deciding parts, for every pair
# of populations that is stored and every sparsity from HIGH_SPARSITY; m is the number of those of the claim.
Rule = Callable[[list[dict], tuple[Part, ...], int], bool]
RULES: tuple[tuple[str, str, Rule], ...] = (
    (
        CONTRADICTED,
        "some interval at level 1 - 0.05 / m, m the number of the claim's differences with an interval, lies "
        "wholly on the other side, whatever is missing",
        lambda rows, parts, m: any(contradicts_claim(row, m) for row in rows),
    ),
    (
        NOTHING,
        "a measure has no difference, or one that is not defined",
        lambda rows, parts, m: bool(lacking(rows, parts)[NOTHING]),
    ),
    (
        FEW,
        f"a difference has no interval because it is of fewer than {FEWEST_SEEDS} networks",
        lambda rows, parts, m: bool(lacking(rows, parts)[FEW]),
    ),
    (
        SUPPORTED,
        "the 95 % interval of every difference lies on the claimed side",
        lambda rows, parts, m: all(map(supports_claim, rows)),
    ),
    (UNDECIDED, "otherwise", lambda rows, parts, m: True),
)


def verdict(evidence: list[dict], parts: tuple[Part, ...], differences: int | None = None) -> str:
    """What the rows of these parts of a claim say; each has value, low, high, error, degrees, models, claim,
    part, and with too few models what to run. differences: those of the whole claim, None: of these parts."""
    rows = rows_of(evidence, parts)
    m = with_interval(rows) if differences is None else differences
    return next(name for name, _, holds in RULES if holds(rows, parts, m))


def verdicts(evidence: list[dict], claim: Claim) -> dict[str, str]:
    """Part -> its verdict. One that decides is corrected as the claim is: it never says more."""
    m = with_interval(rows_of(evidence, claim.deciding))
    return {part.name: verdict(evidence, (part,), m if part.decides else None) for part in claim.parts}


def either(numbers: Iterable[int]) -> str:
    """3, 5, 3 as `3 or 5`."""
    return " or ".join(map(str, sorted(set(numbers))))


def describe(rows: list[dict]) -> str:
    """Differences in words, the least in favour first, no more than four."""
    rows = sorted(rows, key=strength)
    names = [
        f"{row['part']}, {row['group']}, {row['comparison']}, at {100 * row['sparsity']:g} %" for row in rows
    ]
    more = f"; and {len(rows) - 4} more, marked below" if len(rows) > 4 else ""
    return "; ".join(names[:4]) + more


def reasons(claim: Claim, evidence: list[dict]) -> list[str]:
    """What decided a claim or what is missing for it, in words."""
    rows = rows_of(evidence, claim.deciding)
    said = verdict(rows, claim.deciding)
    if said in (NOTHING, FEW):
        missing = lacking(rows, claim.deciding, claim.run)
        return missing[NOTHING] + missing[FEW]
    m = with_interval(rows)
    at_95 = [row for row in rows if contradicts_claim(row)]
    contrary = [row for row in at_95 if contradicts_claim(row, m)]
    across = [row for row in rows if supports_claim(row) is False and row not in at_95]
    groups = {
        "Against the claim": contrary,
        "Against it at 95 % only, which with so many differences is no proof": [
            row for row in at_95 if row not in contrary
        ],
        "Across 0": across if said == UNDECIDED else [],
    }
    sentences = [f"{words}: {describe(chosen)}." for words, chosen in groups.items() if chosen]
    return sentences + ([more_networks(rows)] if said == UNDECIDED else [])


def networks_needed(row: dict, differences: int = 1) -> int:
    """How many networks would bring the interval of a row to 0, if the difference stays and the half-width
    falls as 1 / sqrt(K); 0 without a difference."""
    nearest, farthest = signed_interval(row, differences)
    middle = (nearest + farthest) / 2
    return math.ceil(row["models"] * ((farthest - middle) / middle) ** 2) if middle else 0


def more_networks(rows: list[dict]) -> str:
    """Whether more networks would decide a claim, and about how many, as `networks_needed` assumes."""
    undecided = [row for row in rows if not supports_claim(row)]
    contrary = [row for row in undecided if strength(row) <= 0]
    # All must be on the claimed side; one on the other side is enough.
    needed = max(map(networks_needed, undecided))
    if contrary:
        needed = min(networks_needed(row, len(rows)) or math.inf for row in contrary)
    if needed > TOO_MANY * max(row["models"] for row in rows):
        return "More networks would hardly decide: a difference is too near 0."
    decision = "contradict" if contrary else "support"
    return f"About {needed} networks of each kind or more would be needed to {decision} it."
