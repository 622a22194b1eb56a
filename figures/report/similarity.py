"""Similarity of masks and of PIE sets, and tests of means: pure functions of arrays.

M networks in G groups (combinations of learning method, pruning method and sparsity), L layers, N images, C
classes, K models of a group.
"""

import functools
import warnings
from typing import NamedTuple

import numpy as np
from scipy import special, stats

from common.metrics import pies_per_class

SPREAD = 1e-12  # smaller standard deviations are rounding errors

# Masks


def mask_intersections(masks: np.ndarray, layer_sizes: list[int]) -> np.ndarray:
    """Counts the weights that both of two masks keep, per layer.

    Args:
        masks: (M, n) bool, True kept, concatenated over layers.
    Returns:
        (M, M, L) float64; [m, m] is the number of weights that mask m keeps.
    """
    # In float32 sums of ones are exact up to 2^24. Only one layer is converted at a time.
    layers = (layer.astype(np.float32) for layer in np.split(masks, np.cumsum(layer_sizes)[:-1], 1))
    return np.stack([layer @ layer.T for layer in layers], -1).astype(np.float64)


def jaccard(common: np.ndarray, size: np.ndarray, other_size: np.ndarray) -> np.ndarray:
    """Returns |A and B| / |A or B|, given the sizes of the intersection and of both sets; NaN if both are
    empty."""
    union = size + other_size - common
    return common / np.where(union > 0, union, np.nan)


class MaskSimilarity(NamedTuple):
    """Mean Jaccard similarities of kept weights over pairs of networks of two groups, (G, G, L + 1); the last
    entry is for all layers together.

    same, different: over pairs of networks with the same and with different seeds (NaN without pairs; a
    network is not paired with itself). chance: of random masks with the densities of the groups.
    chance_by_layer (G, G): of all layers together, for random masks with the groups' densities in every
    layer. same_pairs, different_pairs (G, G): numbers of pairs.
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
    """Compares the masks of all groups by Jaccard similarity (like Paganini & Forde 2020).

    Args:
        masks: (M, n) bool, True kept; groups: (M,) 0 to G - 1; seeds: (M,).
    """
    counts = mask_intersections(masks, layer_sizes)
    counts = np.concatenate([counts, counts.sum(-1, keepdims=True)], -1)
    kept = np.einsum("mml->ml", counts)
    similarity = jaccard(counts, kept[:, None], kept[None])
    membership = (groups[:, None] == np.arange(groups.max() + 1)).astype(np.float64)  # (M, G)
    same_seed = seeds[:, None] == seeds[None]

    def mean(pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # Pairs of which neither keeps a weight of a layer do not count there.
        defined = pairs[..., None] & ~np.isnan(similarity)
        count, total = (
            np.einsum("mg,mnl,nh->ghl", membership, values, membership, optimize=True)
            for values in (defined, np.where(defined, similarity, 0))
        )
        return total / np.where(count > 0, count, np.nan), membership.T @ pairs @ membership

    same, same_pairs = mean(same_seed & ~np.eye(len(masks), dtype=bool))
    different, different_pairs = mean(~same_seed)
    sizes = np.array([*layer_sizes, sum(layer_sizes)])
    density = membership.T @ kept / membership.sum(0)[:, None] / sizes  # (G, L + 1)
    kept = sizes[:-1] * density[:, :-1]
    by_layer = jaccard(kept @ density[:, :-1].T, kept.sum(-1)[:, None], kept.sum(-1)[None])
    chance = jaccard(density[:, None] * density[None], density[:, None], density[None])
    return MaskSimilarity(same, different, chance, by_layer, same_pairs, different_pairs)


# PIEs


@functools.cache
def expected_jaccard(size: int, other_size: int, total: int) -> float:
    """Returns the mean Jaccard similarity of two random sets of these sizes out of `total` elements, over the
    hypergeometric distribution of their intersection; NaN if both are empty."""
    common = np.arange(max(0, size + other_size - total), min(size, other_size) + 1)
    cells = (common, size - common, other_size - common, total - size - other_size + common)
    logs = -sum(special.gammaln(cell + 1.0) for cell in cells)
    shares = np.exp(logs - logs.max())
    return float((shares * jaccard(common, size, other_size)).sum() / shares.sum())


def common_and_unique_pies(is_pie: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts PIEs per true class, split into those in only one set and those in several.

    Args:
        is_pie: (G, N) bool; labels: (N,).
    Returns:
        (G + 1, C) numbers of images: row g counts PIEs only in set g, the last row those in two sets or more.
    Raises:
        ValueError: labels are not class ids.
    """
    counts = is_pie.sum(0)
    groups = [*(is_pie & (counts == 1)), counts > 1]
    return np.stack([pies_per_class(chosen, labels, num_classes) for chosen in groups])


# Tests


def t_test(values: np.ndarray, others: np.ndarray, paired: bool) -> np.ndarray:
    """Tests column by column whether means are equal, (K, C) and (K', C) -> (C,) two-sided p-values: Welch's
    test, or Student's for paired rows. NaN with fewer than two rows or without spread."""
    spread = np.std(values - others, 0) if paired else np.hypot(values.std(0), others.std(0))
    with warnings.catch_warnings(action="ignore"):  # of a single row, or columns without spread
        test = stats.ttest_rel(values, others) if paired else stats.ttest_ind(values, others, equal_var=False)
    return np.where(spread > SPREAD, test.pvalue, np.nan)


def holm(p: np.ndarray) -> np.ndarray:
    """Corrects p-values for their number by Holm's step-down method; NaN stay NaN and do not count."""
    order, tests, corrected = np.argsort(p), np.sum(~np.isnan(p)), np.empty(len(p))  # NaN are last
    larger = np.minimum(1, (tests - np.arange(len(p))) * p[order])
    corrected[order] = np.maximum.accumulate(larger)
    return corrected
