"""How alike results are: masks, PIE sets, recalls per class. Pure functions of arrays. M networks, G groups of them (combinations of
learning method, pruning method and sparsity), L layers, N images, C classes, K models of a population."""

import math
from dataclasses import dataclass

import numpy as np

QUADRATURE_NODES = 400


# Masks


def mask_intersections(masks: np.ndarray, layer_sizes: list[int]) -> np.ndarray:
    """How many weights two masks both keep, per layer.

    Args:
        masks: (M, n) bool, True kept, the layers one after the other.
    Returns:
        (M, M, L) float64; [m, m] is the number that mask m keeps.
    """
    counts, start = [], 0
    for size in layer_sizes:
        layer = masks[:, start : start + size].astype(np.float32)  # sums of ones are exact up to 2^24
        counts.append((layer @ layer.T).astype(np.float64))
        start += size
    return np.stack(counts, -1)


def jaccard(intersection: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """|A and B| / |A or B| from the sizes of the intersection and of both sets; NaN where both are empty."""
    union = one + other - intersection
    return intersection / np.where(union > 0, union, np.nan)


def chance_jaccard(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The Jaccard similarity of large random masks of these densities: d d' / (d + d' - d d'), d / (2 - d) for equal ones."""
    return jaccard(one * other, one, other)


@dataclass(frozen=True)
class MaskSimilarity:
    """Mean Jaccard similarities of kept weights over pairs of networks of two groups, (G, G, L + 1), the last for all layers together.

    same, different: over pairs of the same and of different seeds (NaN where there is none; a network is no pair with itself).
    chance: of random masks of the groups' densities; chance_by_layer: of all layers together, where random masks have the groups'
    densities in every layer. same_pairs, different_pairs (G, G): how many pairs.
    """

    same: np.ndarray
    different: np.ndarray
    chance: np.ndarray
    chance_by_layer: np.ndarray  # (G, G)
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
        means = []
        for layer in np.moveaxis(similarity, -1, 0):
            defined = pairs & ~np.isnan(layer)  # pairs that both keep nothing of a layer say nothing about it
            count = member.T @ defined @ member
            means.append(member.T @ np.where(defined, layer, 0) @ member / np.where(count > 0, count, np.nan))
        return np.stack(means, -1), member.T @ pairs @ member

    same, same_pairs = mean(alike & ~np.eye(len(masks), dtype=bool))
    different, different_pairs = mean(~alike)
    sizes = np.array([*layer_sizes, sum(layer_sizes)])
    density = member.T @ kept / member.sum(0)[:, None] / sizes  # (G, L + 1)
    both = density[:, None, :-1] * density[None, :, :-1]
    expected = (sizes[:-1] * both).sum(-1)
    by_layer = jaccard(
        expected, (sizes[:-1] * density[:, None, :-1]).sum(-1), (sizes[:-1] * density[None, :, :-1]).sum(-1)
    )
    return MaskSimilarity(
        same,
        different,
        chance_jaccard(density[:, None], density[None]),
        by_layer,
        same_pairs,
        different_pairs,
    )


def zero_shares(mask: np.ndarray) -> tuple[float, float]:
    """The share of filters, and of input channels, of a convolution (F, C, h, w) of which nothing is kept."""
    return float((~mask.any((1, 2, 3))).mean()), float((~mask.any((0, 2, 3))).mean())


def chance_zero_share(size: int, zeros: int, part: int) -> float:
    """The share of parts of `part` weights that are wholly zero where `zeros` of `size` weights are zero at random (hypergeometric):
    C(size - part, zeros - part) / C(size, zeros)."""
    if zeros < part:
        return 0.0
    return math.exp(
        sum(
            math.lgamma(top + 1) - math.lgamma(bottom + 1)
            for top, bottom in ((size - part, size), (zeros, zeros - part))
        )
    )


# PIEs


def expected_jaccard(one: int, other: int, total: int) -> float:
    """The mean Jaccard similarity of two random sets of these sizes out of `total`: the sum over the hypergeometric distribution of
    their intersection; NaN where both are empty."""
    if one + other == 0:
        return math.nan

    log_factorial = np.concatenate([[0], np.cumsum(np.log(np.arange(1, total + 1)))])

    def log_choose(n: int, k: np.ndarray) -> np.ndarray:
        return log_factorial[n] - log_factorial[k] - log_factorial[n - k]

    common = np.arange(max(0, one + other - total), min(one, other) + 1)
    log_share = (
        log_choose(one, common) + log_choose(total - one, other - common) - log_choose(total, np.array(other))
    )
    return float((np.exp(log_share) * common / (one + other - common)).sum())


def pie_overlap(is_pie: np.ndarray) -> dict[str, np.ndarray]:
    """How far PIE sets are the same, and what chance gives for random sets of these sizes.

    Args:
        is_pie: (G, N) bool.
    Returns:
        size (G,); jaccard, chance_jaccard (G, G); unique_pair, chance_unique_pair (G, G): the share of the row's PIEs that are not the
        column's; unique, chance_unique (G,): the share of a set's PIEs that are in no other set. NaN for empty sets.
    """
    groups, images = is_pie.shape
    common = is_pie.astype(np.float64) @ is_pie.T.astype(np.float64)
    size = common.diagonal()
    share = size / images
    defined = np.where(size > 0, size, np.nan)
    others = np.array([is_pie[[h for h in range(groups) if h != g]].any(0) for g in range(groups)]).reshape(
        groups, images
    )
    return {
        "size": size.astype(int),
        "jaccard": jaccard(common, size[:, None], size[None]),
        "chance_jaccard": np.array([[expected_jaccard(int(a), int(b), images) for b in size] for a in size]),
        "unique_pair": 1 - common / defined[:, None],
        "chance_unique_pair": np.where(size[:, None] > 0, 1 - share[None], np.nan),
        "unique": (is_pie & ~others).sum(1) / defined,
        "chance_unique": np.array(
            [np.prod(1 - np.delete(share, g)) if size[g] else np.nan for g in range(groups)]
        ),
    }


def common_and_unique_pies(is_pie: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """PIEs per true class, split into those that only one set has and those that several have.

    Args:
        is_pie: (G, N) bool; labels: (N,).
    Returns:
        (G + 1, C) numbers of images: row g unique to set g, the last row in two sets or more.
    """
    times = is_pie.sum(0)
    parts = [*(one & (times == 1) for one in is_pie), times > 1]
    return np.stack([np.bincount(labels[part], minlength=num_classes) for part in parts])


# Recalls


def class_recalls(predictions: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """(K, N) predictions and (N,) labels -> (K, C) recall of each class by each model, NaN for a class without images."""
    correct = predictions == labels
    count = np.bincount(labels, minlength=num_classes)
    right = np.stack([np.bincount(labels[row], minlength=num_classes) for row in correct])
    return right / np.where(count > 0, count, np.nan)


def student_t_p(t: np.ndarray, degrees: np.ndarray) -> np.ndarray:
    """Two-sided p-value of Student's t with `degrees` >= 1 degrees of freedom (not necessarily whole).

    With t = sqrt(degrees) tan(a) the density is proportional to cos(a)^(degrees - 1): integrated by Gauss-Legendre quadrature.
    """
    t, degrees = np.broadcast_arrays(np.abs(np.asarray(t, np.float64)), np.asarray(degrees, np.float64))
    nodes, weights = np.polynomial.legendre.leggauss(QUADRATURE_NODES)
    # The integrand's last factor near a = pi / 2 is not smooth where `degrees` is not whole: u^4 in its place is smooth enough.
    u, du = (nodes + 1) / 2, weights / 2
    width = np.arctan2(np.sqrt(degrees), t)  # pi / 2 - a, from the tail's end
    distance = width[..., None] * u**4
    tail = (np.sin(distance) ** (degrees[..., None] - 1) * 4 * u**3 * du).sum(-1) * width
    whole = (
        np.array([math.exp(math.lgamma(d / 2) - math.lgamma((d + 1) / 2)) for d in degrees.ravel()]).reshape(
            degrees.shape
        )
        * math.sqrt(math.pi)
        / 2
    )
    return np.clip(tail / whole, 0, 1)


def _t_test(difference: np.ndarray, error: np.ndarray, degrees: np.ndarray) -> np.ndarray:
    """p-values; NaN where there is no spread to compare a difference with."""
    spread = error > 1e-12
    p = student_t_p(difference / np.where(spread, error, 1), np.where(spread, degrees, 1))
    return np.where(spread, p, np.nan)


def welch_test(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Welch's t-test of equal means, column by column.

    Args:
        one: (K, C); other: (K', C).
    Returns:
        (C,) two-sided p-values; NaN with fewer than two rows, or without any spread.
    """
    if min(len(one), len(other)) < 2:
        return np.full(one.shape[1], np.nan)
    a, b = one.var(0, ddof=1) / len(one), other.var(0, ddof=1) / len(other)
    degrees = (a + b) ** 2 / np.maximum(a**2 / (len(one) - 1) + b**2 / (len(other) - 1), 1e-300)
    return _t_test(one.mean(0) - other.mean(0), np.sqrt(a + b), np.maximum(degrees, 1))


def paired_test(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Student's t-test of a mean difference of 0 between rows of the same seeds, (K, C) and (K, C) -> (C,) two-sided p-values; NaN with
    fewer than two rows, or without any spread."""
    if len(one) < 2:
        return np.full(one.shape[1], np.nan)
    difference = one - other
    return _t_test(
        difference.mean(0),
        difference.std(0, ddof=1) / math.sqrt(len(one)),
        np.full(one.shape[1], len(one) - 1),
    )


def holm(p: np.ndarray) -> np.ndarray:
    """p-values corrected for their number by Holm's step-down method; NaN stay and do not count."""
    corrected = np.full(len(p), np.nan)
    order = [index for index in np.argsort(p) if not np.isnan(p[index])]
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p[index]))
        corrected[index] = highest
    return corrected


def compare_recalls(
    dense: np.ndarray,
    dense_accuracy: np.ndarray,
    dense_ids: np.ndarray,
    pruned: np.ndarray,
    pruned_accuracy: np.ndarray,
    pruned_ids: np.ndarray,
) -> dict[str, np.ndarray]:
    """Whether pruning changes the recall of a class more or less than the accuracy over all classes (Hooker et al. 2019).

    A recall counts relative to its population's mean accuracy. Welch's test takes the populations as independent, as Hooker et al. do;
    the paired test compares models of the same seed (relative to the means of these models), because one-shot networks share seeds with
    the dense ones; Holm's correction is for the number of classes.

    Args:
        dense, pruned: (K, C), (K', C) recalls; ..._accuracy: (K,), (K',); ..._ids: seeds.
    Returns:
        difference (C,): mean relative recall, pruned minus dense; welch_p, paired_p, paired_p_holm (C,); paired_models ().
    """
    shared = np.intersect1d(dense_ids, pruned_ids)
    rows = [
        np.array([np.flatnonzero(ids == one)[0] for one in shared], int) for ids in (dense_ids, pruned_ids)
    ]
    pairs = [
        recall[chosen] - (accuracy[chosen].mean() if len(chosen) else 0)
        for recall, accuracy, chosen in ((dense, dense_accuracy, rows[0]), (pruned, pruned_accuracy, rows[1]))
    ]
    paired_p = paired_test(pairs[1], pairs[0])
    dense, pruned = dense - dense_accuracy.mean(), pruned - pruned_accuracy.mean()
    return {
        "difference": pruned.mean(0) - dense.mean(0),
        "welch_p": welch_test(pruned, dense),
        "paired_p": paired_p,
        "paired_p_holm": holm(paired_p),
        "paired_models": np.array(len(shared)),
    }
