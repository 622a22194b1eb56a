"""Simulated worlds whose truth is known: how often the report's intervals contain it, and how often the rules
of its verdicts are wrong.

    python tests/worlds.py coverage 100
    python tests/worlds.py claims 50
    python tests/worlds.py rules 1000

print tables of percentages over so many draws.
"""

import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from figures.report import claims, evidence, measures, uncertainty
from figures.report.measures import STATISTICS, Pair
from figures.report.read import Networks, StoredPopulation

IMAGES = 250


class World(NamedTuple):
    """Spreads of the logits of errors over networks: of all images alike, for both learning methods, and of
    15 groups of images; share of networks that fail; mean logit of errors of either method, and how far
    pruning moves logits at random."""

    quality: tuple[float, float] = (0.0, 0.0)
    group: float = 0.0
    failing: float = 0.0
    error: tuple[float, float] = (-2.5, -2.5)
    pruning: float = 1.0


WORLDS = {
    "independent votes": World(),
    "unequal networks": World((0.7, 0.7)),
    "groups of images": World((0.3, 0.3), 1.0),
    "one method unequal": World((0.3, 1.0)),
    "failing networks": World(failing=0.1),
    "few PIEs": World(error=(-6.0, -6.0), pruning=0.5),
    "contrastive less accurate": World(error=(-1.5, -2.5)),
    "contrastive more accurate": World(error=(-3.5, -2.5)),
}
METHODS = ("GMP", "later_GMP")


def make_world(name: str):
    """A function of K and a generator that draws the populations of both learning methods, pruned early and
    late. Pruning moves each image's logit by as much in every combination, at random: no claim holds. Q-Score
    and depth say how hard an image is, and no more."""
    rng, world = np.random.default_rng(sum(map(ord, name))), WORLDS[name]
    difficulty = rng.normal(0, 2, IMAGES)
    moved = rng.normal(0, world.pruning, IMAGES)
    groups, rival = rng.integers(0, 15, IMAGES), rng.integers(1, 3, IMAGES)

    def draw(seeds: int, rng) -> list[StoredPopulation]:
        populations = []
        for learning, quality, error in zip(("SupCon", "supervised"), world.quality, world.error):

            def effects(quality=quality):
                of_groups = world.group * rng.normal(size=(seeds, 15))[:, groups]
                failed = 4 * (rng.random((seeds, 1)) < world.failing)
                return quality * rng.normal(size=(seeds, 1)) + of_groups + failed

            of_seeds, networks = effects(), []
            for shift in (0, moved, moved):
                logits = difficulty + error + shift + np.sqrt(0.5) * (of_seeds + effects())
                errs = rng.random(logits.shape) < 1 / (1 + np.exp(-logits))
                other = np.where(rng.random(logits.shape) < 0.8, rival, 3 - rival)
                hard = (difficulty + rng.normal(0, 2, logits.shape)).round(1)
                labels, ids = np.where(errs, other, 0).astype(np.uint8), np.arange(seeds)
                networks.append(Networks(ids, labels, -hard, ids, hard, 3))
            arrays = {"labels": np.zeros(IMAGES, int), "class_names": list("abc"), "ids": np.arange(seeds)}
            arrays["architecture"] = "WideResNet-10-1"
            for method, pruned in zip(METHODS, networks[1:]):
                about = (learning, method, 0.9, Path(), arrays, {}, {}, None)
                populations.append(StoredPopulation(*about, reference=networks[0], pruned=pruned))
        return populations

    return draw


def estimates(populations: list[StoredPopulation]) -> dict[str, dict]:
    """name -> estimate, of every kind of interval."""
    early, late, other, _ = populations
    paired, unrelated = Pair(early, late, True), Pair(early, other, False)

    def terms(name, pair):
        return measures.difference(STATISTICS[name], pair)

    rows = [terms("excess", Pair(*each, False)) for each in zip(populations[:2], populations[2:])]
    mean = [(weight / 2, *rest) for row in rows for weight, *rest in row]
    return {
        "PIEs": measures.estimate("pies", early),
        "PIEs, paired": uncertainty.combine(terms("pies", paired)),
        "PIEs, other seeds": uncertainty.combine(terms("pies", unrelated)),
        "Jaccard": measures.overlap(paired),
        "Jaccard, other seeds": measures.overlap(unrelated),
        "excess": measures.estimate("excess", early),
        "excess, other seeds": uncertainty.combine(terms("excess", unrelated)),
        "excess, mean of rows": uncertainty.combine(mean),
        "U": uncertainty.combine(measures.uniqueness(unrelated)),
        "Q-Score": uncertainty.combine([(1, "", measures.pies_minus_others(early, "q_score", True))]),
    }


def forget() -> None:
    """Drops what is remembered of earlier draws."""
    for function in vars(measures).values():
        if hasattr(function, "cache_clear"):
            function.cache_clear()


def coverage(name: str, seeds: int, draws: int) -> dict[str, tuple[float, float]]:
    """name of a number -> the share of draws whose interval contains the mean over draws, of those that have
    one, and its mean half-width over 1.96 standard deviations over draws."""
    draw, rng, found = make_world(name), np.random.default_rng([seeds, 1]), defaultdict(list)
    for _ in range(draws):
        for number, one in estimates(draw(seeds, rng)).items():
            found[number].append([one["value"], one["low"], one["high"]])
        forget()
    cells = {}
    for number, rows in found.items():
        value, low, high = np.array(rows).T
        truth, has = np.nanmean(value), ~np.isnan(low)
        contained = ((low <= truth) & (truth <= high))[has].mean()
        cells[number] = contained, ((high - low)[has] / 2).mean() / (1.96 * np.nanstd(value))
    return cells


def verdicts(name: str, seeds: int, draws: int) -> dict[int, Counter]:
    """Claim -> how often each verdict is given."""
    draw, rng, found = make_world(name), np.random.default_rng([seeds, 2]), defaultdict(Counter)
    for _ in range(draws):
        rows = evidence.all_evidence(draw(seeds, rng))
        for claim in claims.CLAIMS:
            found[claim.number][claims.judge(rows, claim.number)] += 1
        forget()
    return found


# The rules alone, on Gaussian rows


TRUTHS = {  # of m rows, in standard deviations of one network's difference
    "all 0": lambda m: np.zeros(m),
    "all +1": lambda m: np.ones(m),
    "all +2": lambda m: np.full(m, 2.0),
    "half +1, half -1": lambda m: np.where(np.arange(m) % 2, -1.0, 1.0),
    "all +2 but one -1": lambda m: np.where(np.arange(m), 2.0, -1.0),
    "all -1": lambda m: np.full(m, -1.0),
    "all +0.2": lambda m: np.full(m, 0.2),
}


def rules(truth: str, m: int, seeds: int, correlation: float, smallest: float, draws: int) -> Counter:
    """How often each verdict is given on claim 3 from the differences of K networks, m rows of unit variance
    with that correlation, half of them of either measure."""
    rng, counts, means = np.random.default_rng([m, seeds]), Counter(), TRUTHS[truth](m)
    names = [measure.name for measure in claims.CLAIMS[2].measures if measure.decides]
    about = {"claim": 3, "decides": True, "models": seeds, "smallest": smallest, "degrees": seeds - 1}
    quantile = uncertainty.student_t_quantile(seeds - 1)

    def row(values: np.ndarray, measure: str, is_mean: bool) -> dict:
        value, error = values.mean(), values.std(ddof=1) / np.sqrt(seeds)
        interval = {"low": value - quantile * error, "high": value + quantile * error}
        return about | interval | {"measure": measure, "value": value, "error": error, "is_mean": is_mean}

    for _ in range(draws):
        shared = rng.normal(size=(1, seeds)) * np.sqrt(correlation)
        values = means[:, None] + shared + rng.normal(size=(m, seeds)) * np.sqrt(1 - correlation)
        halves = dict(zip(names, np.array_split(values, 2)))
        rows = [row(each, name, False) for name, half in halves.items() for each in half]
        for each, mark in zip(rows, claims.mark_rows(rows)):
            each["mark"] = mark
        rows += [row(half.mean(0), name, True) for name, half in halves.items()]
        counts[claims.judge(rows, 3)] += 1
    return counts


def print_rules(draws: int) -> None:
    for truth in TRUTHS:
        for seeds in (6, 10, 30):
            for smallest in (0, 0.25, 0.5):
                found = [
                    rules(truth, m, seeds, correlation, smallest, draws)
                    for m in (2, 4, 14)
                    for correlation in (0, 0.5)
                ]
                cells = (
                    f"{verdict} {min(shares):.0f}-{max(shares):.0f}"
                    for verdict in sorted({key for each in found for key in each})
                    if max(shares := [100 * each[verdict] / draws for each in found]) >= 1
                )
                print(truth, seeds, smallest, *cells, sep=" | ", flush=True)


if __name__ == "__main__":
    draws, networks = int(sys.argv[2]), [int(each) for each in sys.argv[3:]] or (6, 10, 30)
    if sys.argv[1] == "rules":
        print_rules(draws)
    else:
        for world in WORLDS:
            for seeds in networks:
                if sys.argv[1] == "coverage":
                    table = coverage(world, seeds, draws).items()
                    cells = (f"{number}: {100 * c:.0f} {w:.2f}" for number, (c, w) in table)
                else:
                    table = verdicts(world, seeds, draws).items()
                    cells = (f"{claim}: {dict(found)}" for claim, found in table)
                print(world, seeds, *cells, sep=" | ", flush=True)
