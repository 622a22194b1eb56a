"""How alike results are: masks, PIE sets, recalls per class. Pure functions of arrays. M networks, G groups
of them (combinations of learning method, pruning method and sparsity), L layers, N images, C classes, K
models of a group."""

import functools
from dataclasses import dataclass

import numpy as np
from scipy import special, stats

from common.voting import checked_classes

SPREAD = 1e-12  # what is smaller is an error of rounding

# Masks


def mask_intersections(masks: np.ndarray, layer_sizes: list[int]) -> np.ndarray:
    """How many weights two masks both keep, per layer.

    Args:
        masks: (M, n) bool, True kept, the layers one after the other.
    Returns:
        (M, M, L) float64; [m, m] is the number that mask m keeps.
    """
    layers = np.split(masks, np.cumsum(layer_sizes)[:-1], 1)
    # Sums of ones are exact up to 2^24.
    counts = [layer @ layer.T for layer in (each.astype(np.float32) for each in layers)]
    return np.stack(counts, -1).astype(np.float64)


def jaccard(common: np.ndarray, size: np.ndarray, other_size: np.ndarray) -> np.ndarray:
    """|A and B| / |A or B| from the sizes of the intersection and of both sets; NaN where both are empty."""
    union = size + other_size - common
    return common / np.where(union > 0, union, np.nan)


def chance_jaccard(density: np.ndarray, other_density: np.ndarray) -> np.ndarray:
    """The Jaccard similarity of large random masks of these densities: d d' / (d + d' - d d')."""
    return jaccard(density * other_density, density, other_density)


@dataclass(frozen=True)
class MaskSimilarity:
    """Mean Jaccard similarities of kept weights over pairs of networks of two groups, (G, G, L + 1), the last
    for all layers together.

    same, different: over pairs of the same and of different seeds (NaN where there is none; a network is no
    pair with itself). chance: of random masks of the groups' densities; chance_by_layer (G, G): of all layers
    together, where random masks have the groups' densities in every layer. same_pairs, different_pairs (G,
    G): how many pairs.
    """

    same: np.ndarray
    different: np.ndarray
    chance: np.ndarray
    chance_by_layer: np.ndarray
    same_pairs: np.ndarray
    different_pairs: np.ndarray


def mask_similarity(
    masks: np.ndarray, layer_sizes: list[int], groups: np.ndarray, seeds: np.ndarray
) -> MaskSimilarity:
    """Compares all masks of all groups (Paganini & Forde 2020 compare masks by Jaccard similarity).

    Args:
        masks: (M, n) bool, True kept; groups: (M,) 0 to G - 1; seeds: (M,).
    """
    counts = mask_intersections(masks, layer_sizes)
    counts = np.concatenate([counts, counts.sum(-1, keepdims=True)], -1)
    kept = np.einsum("mml->ml", counts)
    similarity = jaccard(counts, kept[:, None], kept[None])
    member = (groups[:, None] == np.arange(groups.max() + 1)).astype(np.float64)  # (M, G)
    alike = seeds[:, None] == seeds[None]

    def mean(pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # Pairs that both keep nothing of a layer say nothing of it.
        defined = pairs[..., None] & ~np.isnan(similarity)
        count, total = (
            np.einsum("mg,mnl,nh->ghl", member, values, member, optimize=True)
            for values in (defined, np.where(defined, similarity, 0))
        )
        return total / np.where(count > 0, count, np.nan), member.T @ pairs @ member

    same, same_pairs = mean(alike & ~np.eye(len(masks), dtype=bool))
    different, different_pairs = mean(~alike)
    sizes = np.array([*layer_sizes, sum(layer_sizes)])
    density = member.T @ kept / member.sum(0)[:, None] / sizes  # (G, L + 1)
    kept = sizes[:-1] * density[:, :-1]
    by_layer = jaccard(kept @ density[:, :-1].T, kept.sum(-1)[:, None], kept.sum(-1)[None])
    chance = chance_jaccard(density[:, None], density[None])
    return MaskSimilarity(same, different, chance, by_layer, same_pairs, different_pairs)


def zero_shares(mask: np.ndarray) -> tuple[float, float]:
    """The share of filters, and of input channels, of a convolution (F, C, h, w) of which nothing is kept."""
    return float((~mask.any((1, 2, 3))).mean()), float((~mask.any((0, 2, 3))).mean())


def chance_zero_share(size: int, zeros: int, part: int) -> float:
    """The share of parts of `part` weights that are wholly zero where `zeros` of `size` weights are, at
    random."""
    return float(stats.hypergeom.pmf(part, size, zeros, part))


# PIEs


@functools.cache
def expected_jaccard(size: int, other_size: int, total: int) -> float:
    """The mean Jaccard similarity of two random sets of these sizes out of `total`: over the hypergeometric
    distribution of their intersection; NaN where both are empty."""
    if size > other_size:
        return expected_jaccard(other_size, size, total)
    common = np.arange(max(0, size + other_size - total), size + 1)
    cells = (common, size - common, other_size - common, total - size - other_size + common)
    logs = -sum(special.gammaln(cell + 1.0) for cell in cells)
    shares = np.exp(logs - logs.max())
    return float((shares * jaccard(common, size, other_size)).sum() / shares.sum())


def pie_overlap(is_pie: np.ndarray) -> dict[str, np.ndarray]:
    """How far PIE sets are the same, and what chance gives for random sets of these sizes.

    Args:
        is_pie: (G, N) bool.
    Returns:
        size (G,); jaccard, chance_jaccard (G, G); unique_pair, chance_unique_pair (G, G): the share of the
        row's PIEs that are not the column's; unique, chance_unique (G,): the share of a set's PIEs that are
        in no other set. NaN for empty sets.
    """
    images = is_pie.shape[1]
    common = is_pie.astype(np.float64) @ is_pie.T.astype(np.float64)
    size = common.diagonal()
    defined = np.where(size > 0, size, np.nan)
    alone = is_pie & (is_pie.sum(0) == 1)
    return {
        "size": size.astype(int),
        "jaccard": jaccard(common, size[:, None], size[None]),
        "chance_jaccard": np.array([[expected_jaccard(int(a), int(b), images) for b in size] for a in size]),
        "unique_pair": 1 - common / defined[:, None],
        "chance_unique_pair": np.where(size[:, None] > 0, 1 - size[None] / images, np.nan),
        "unique": alone.sum(1) / defined,
        "chance_unique": chance_unique(size, images),
    }


def chance_unique(size: np.ndarray, images: int) -> np.ndarray:
    """The share of a random set's images that are in no other one, of random sets of these sizes (G,) out of
    so many images: (G,), NaN for empty sets."""
    shares = [np.prod(1 - np.delete(size, g) / images) for g in range(len(size))]
    return np.where(size > 0, shares, np.nan)


def common_and_unique_pies(is_pie: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """PIEs per true class, split into those that only one set has and those that several have.

    Args:
        is_pie: (G, N) bool; labels: (N,).
    Returns:
        (G + 1, C) numbers of images: row g unique to set g, the last row in two sets or more.
    Raises:
        ValueError: labels outside the classes.
    """
    labels = checked_classes(labels, num_classes)
    times = is_pie.sum(0)
    groups = [*(is_pie & (times == 1)), times > 1]
    return np.stack([np.bincount(labels[chosen], minlength=num_classes) for chosen in groups])


# Recalls


def welch_test(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Welch's t-test of equal means, column by column: (K, C) and (K', C) -> (C,) two-sided p-values; NaN
    with fewer than two rows, or without any spread."""
    if min(len(values), len(others)) < 2:
        return np.full(values.shape[1], np.nan)
    moments = [(sample.mean(0), sample.std(0, ddof=1), len(sample)) for sample in (values, others)]
    with np.errstate(invalid="ignore", divide="ignore"):
        p = stats.ttest_ind_from_stats(*moments[0], *moments[1], equal_var=False).pvalue
    return np.where(np.hypot(moments[0][1], moments[1][1]) > SPREAD, p, np.nan)


def paired_test(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Student's t-test of a mean difference of 0 between rows of the same seeds, (K, C) and (K, C) -> (C,)
    two-sided p-values; NaN with fewer than two rows, or without any spread."""
    if len(values) < 2:
        return np.full(values.shape[1], np.nan)
    difference = values - others
    error = stats.sem(difference)
    t = np.abs(difference.mean(0)) / np.where(error > SPREAD, error, np.nan)
    return 2 * stats.t.sf(t, len(values) - 1)


def holm(p: np.ndarray) -> np.ndarray:
    """p-values corrected for their number by Holm's step-down method; NaN stay and do not count."""
    order, tests, corrected = np.argsort(p), np.sum(~np.isnan(p)), np.empty(len(p))  # NaN are last
    larger = np.minimum(1, (tests - np.arange(len(p))) * p[order])
    corrected[order] = np.maximum.accumulate(larger)
    return corrected


@dataclass(frozen=True)
class Recalls:
    """Recall of each class by each model (K, C), accuracy (K,) and seeds `ids` (K,) of the models of a
    population."""

    recall: np.ndarray
    accuracy: np.ndarray
    ids: np.ndarray

    def relative(self, chosen=slice(None)) -> np.ndarray:
        """(K, C) recalls of chosen models minus the mean accuracy of these models."""
        return self.recall[chosen] - self.accuracy[chosen].sum() / max(1, len(self.accuracy[chosen]))


def compare_recalls(dense: Recalls, pruned: Recalls) -> dict[str, np.ndarray]:
    """Whether pruning changes the recall of a class more or less than the accuracy (Hooker et al. 2019).

    A recall counts relative to its population's mean accuracy. Welch's test takes the populations as
    independent, as Hooker et al. do; the paired test compares models of the same seed (relative to the means
    of these models), because one-shot networks share seeds with the dense ones; Holm's correction is for the
    number of classes.

    Returns:
        difference (C,): mean relative recall, pruned minus dense; welch_p, paired_p, paired_p_holm (C,);
        paired_models ().
    """
    shared, *rows = np.intersect1d(dense.ids, pruned.ids, return_indices=True)
    paired_p = paired_test(pruned.relative(rows[1]), dense.relative(rows[0]))
    return {
        "difference": pruned.relative().mean(0) - dense.relative().mean(0),
        "welch_p": welch_test(pruned.relative(), dense.relative()),
        "paired_p": paired_p,
        "paired_p_holm": holm(paired_p),
        "paired_models": np.array(len(shared)),
    }
