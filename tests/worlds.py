"""Made-up worlds whose truth is known, and how often the intervals of figures/report/uncertainty.py contain
it there.

    python tests/worlds.py 400

prints the coverage (%) and the mean half-width, over that of an oracle who knows the true spread.
"""

import sys
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from common.voting import modal_labels_of_sets  # noqa: E402
from figures.report import uncertainty  # noqa: E402

IMAGES = 250
WORLDS = {  # spread of logits over networks: of all images alike, of 15 groups of images
    "independent votes": (0, 0),
    "unequal networks": (0.7, 0),
    "groups of images": (0.3, 1.0),
}
TRUTH_DRAWS = 800


def make_world(name: str):
    """A function of K and a generator that draws predictions (5, K, N): dense networks, the same seeds pruned
    in two ways, dense networks of other seeds and those pruned."""
    rng = np.random.default_rng(sum(map(ord, name)))
    quality, group = WORLDS[name]
    dense = rng.normal(-2.5, 2, IMAGES)  # logit of an error
    other = dense + rng.normal(0, 0.5, IMAGES)
    logits = np.stack(
        [dense, dense + rng.normal(0, 1, IMAGES), dense + rng.normal(0.3, 1.2, IMAGES)]
        + [other, other + rng.normal(0, 1, IMAGES)]
    )
    groups, rival = rng.integers(0, 15, IMAGES), rng.integers(1, 3, IMAGES)

    def effects(rng, *shape):
        return quality * rng.normal(size=(*shape, 1)) + group * rng.normal(size=(*shape, 15))[..., groups]

    def draw(seeds, rng):
        of_seeds = np.repeat(effects(rng, 2, seeds), (3, 2), 0)  # in common to the networks of a seed
        moved = logits[:, None] + np.sqrt(0.5) * (of_seeds + effects(rng, 5, seeds))
        errs = rng.random(moved.shape) < 1 / (1 + np.exp(-moved))
        return np.where(errs, np.where(rng.random(moved.shape) < 0.8, rival, 3 - rival), 0).astype(np.int16)

    return draw


def counts(labels):
    """Sizes of the PIE sets of modal labels (5, S, N) and of what they have in common, (S,) each."""
    dense, shot, early, other, other_shot = labels
    sets = dense != shot, dense != early, other != other_shot
    alone = sets[0] & ~sets[1] & ~sets[2]
    size, common = [each.sum(1) for each in sets], [(sets[0] & each).sum(1) for each in sets[1:]]
    return size, common, [size[0] + each - both for each, both in zip(size[1:], common)], alone.sum(1)


def estimates(predictions, seeds, order):
    """name -> estimate; order: of the half-samples of the other seeds."""
    sets = np.concatenate([np.ones((1, seeds), bool), uncertainty.half_samples(seeds)])
    labels = [modal_labels_of_sets(each, sets, 3) for each in predictions]
    labels[3:] = [each[np.concatenate([[0], 1 + order])] for each in labels[3:]]
    size, common, union, alone = counts(labels)
    of = [uncertainty.half_sampled(each, seeds) for each in size]
    excess = [excess_of(dense, pruned) for dense, pruned in (predictions[:2], predictions[3:])]
    return {
        "count": of[0],
        "paired difference": uncertainty.half_sampled(size[1] - size[0], seeds),
        "difference, other seeds": uncertainty.independent_difference(of[0], of[2]),
        "Jaccard": uncertainty.within(uncertainty.half_sampled_ratio(common[0], union[0], seeds), 0, 1),
        "Jaccard, other seeds": uncertainty.within(
            uncertainty.half_sampled_ratio(common[1], union[1], seeds), 0, 1
        ),
        "share": uncertainty.within(uncertainty.half_sampled_ratio(alone, size[0], seeds), 0, 1),
        "excess": uncertainty.jackknifed(excess[0], seeds),
        "excess, other seeds": uncertainty.independent_difference(
            *(uncertainty.jackknifed(each, seeds) for each in excess)
        ),
    }


def excess_of(dense, pruned, replicates=slice(None)):
    """PIEs between halves, dense against pruned minus dense against dense: of all seeds, then without two."""
    sets = uncertainty.splits_of_sets(len(dense))[:, replicates]
    first, second, pruned_first, pruned_second = (
        modal_labels_of_sets(each, half.reshape(-1, len(dense)), 3)
        for each in (dense, pruned)
        for half in sets
    )
    differ = ((first != pruned_second).mean(1) + (second != pruned_first).mean(1)) / 2
    return ((differ - (first != second).mean(1)) * IMAGES).reshape(sets.shape[1:3]).mean(1)


def truths(draw, seeds, rng, draws=TRUTH_DRAWS):
    """name -> the number in draws of K seeds, without intervals."""
    found = []
    for _ in range(draws):
        predictions = draw(seeds, rng)
        everyone = np.ones((1, seeds), bool)
        size, common, union, alone = counts([modal_labels_of_sets(each, everyone, 3) for each in predictions])
        excess = [excess_of(*pair, slice(1))[0] for pair in (predictions[:2], predictions[3:])]
        with np.errstate(invalid="ignore"):
            values = [size[0], size[1] - size[0], size[0] - size[2], *np.divide(common, union)]
            values += [alone / size[0], excess[0], excess[0] - excess[1]]
        found.append([float(np.squeeze(value)) for value in values])
    return np.array(found)


def coverage(name: str, seeds: int, draws: int, truth_draws: int = TRUTH_DRAWS) -> dict:
    """name of a number -> the share of draws whose interval contains the truth, and its mean half-width over
    1.96 true standard deviations."""
    draw, rng = make_world(name), np.random.default_rng([seeds, 1])
    spread = truths(draw, seeds, rng, truth_draws)
    contained, width = Counter(), Counter()
    order = uncertainty.reordered(len(uncertainty.half_samples(seeds)), 1)
    for _ in range(draws):
        found = estimates(draw(seeds, rng), seeds, order)
        for row, truth in zip(found.items(), np.nanmean(spread, 0)):
            contained[row[0]] += bool(row[1]["low"] <= truth <= row[1]["high"])
            width[row[0]] += (row[1]["high"] - row[1]["low"]) / 2
    oracle = 1.96 * np.nanstd(spread, 0)
    return {name: (contained[name] / draws, width[name] / draws / o) for name, o in zip(found, oracle)}


if __name__ == "__main__":
    for world in WORLDS:
        for seeds in (6, 10, 30):
            cells = coverage(world, seeds, int(sys.argv[1]))
            print(world, seeds, *(f"{n}: {100 * c:.0f} {w:.2f}" for n, (c, w) in cells.items()), sep=" | ")
