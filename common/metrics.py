"""PIEs, Q-Score, prediction depth, and what pruning loses and keeps: pure functions of arrays, without torch.
K models, N images, C classes, P probe layers, D dimensions."""

import numpy as np

from common.voting import checked_classes, modal_labels, vote_counts, winners

BINS = 15  # of the calibration error


def find_pies(dense_predictions: np.ndarray, pruned_predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """Pruning identified exemplars (Hooker et al. 2019): images whose modal label over the pruned models
    differs from that over the dense ones. Ties as common/voting.py breaks them.

    Args:
        dense_predictions, pruned_predictions: (K, N) and (K', N).
    Returns:
        (N,) bool.
    """
    return modal_labels(dense_predictions, num_classes)[0] != modal_labels(pruned_predictions, num_classes)[0]


def disagreement(
    dense_predictions: np.ndarray, pruned_predictions: np.ndarray, num_classes: int
) -> dict[str, np.ndarray]:
    """How sure two populations are of their modal labels, image by image.

    Args:
        dense_predictions, pruned_predictions: (K, N) and (K', N).
    Returns:
        dense_agreeing, pruned_agreeing (N,): how many models predict their population's modal label;
        confidence (N,), of an image with modal labels d and p: the mean over both populations of the share of
        models that predict the own modal label minus the share that predict the other's: 1 where all dense
        models say d and all pruned ones p, 0 where d = p.
    """
    votes = [vote_counts(predictions, num_classes) for predictions in (dense_predictions, pruned_predictions)]
    labels = [winners(count) for count in votes]
    images = np.arange(len(labels[0]))
    own = [count[images, label] for count, label in zip(votes, labels)]
    other = [count[images, label] for count, label in zip(votes, labels[::-1])]
    shares = [
        (a - b) / len(predictions)
        for a, b, predictions in zip(own, other, (dense_predictions, pruned_predictions))
    ]
    return {"dense_agreeing": own[0], "pruned_agreeing": own[1], "confidence": (shares[0] + shares[1]) / 2}


def probability_changes(dense: np.ndarray, pruned: np.ndarray) -> np.ndarray:
    """How far pruning moves the mean probabilities of an image: PIEs without a vote or a tie.

    The squared Euclidean distance of the two populations' mean probabilities, less what K networks add to it
    by chance: |mean d|^2 - sum |d_k - mean d|^2 / (K (K - 1)), where d_k is how network k changes. Its mean
    over draws of the K seeds is the squared distance of the expected probabilities, whatever K is: 0 where
    pruning changes nothing. The networks of one seed are not independent, so the variance of their
    differences is taken off, not that of each side.

    Args:
        dense, pruned: (K, N, C) probabilities; row k of both has one seed.
    Returns:
        (N,) float64, negative where chance is larger than the change; NaN for K < 2.
    """
    networks, images, classes = dense.shape
    total, squares = np.zeros((images, classes)), np.zeros(images)
    for before, after in zip(dense, pruned):
        change = after.astype(np.float64) - before
        total += change
        squares += (change**2).sum(1)
    return ((total**2).sum(1) - squares) / (networks * (networks - 1) or np.nan)


def q_scores(latent: np.ndarray) -> dict[str, np.ndarray]:
    """Q-Score (Kalibhat et al. 2022) and its parts, of each latent h scaled to unit L2 norm.

    z_score = (max h - mean h) / std h with n in the denominator of std; l1_norm = ||h||_1; q_score = z_score
    / l1_norm.

    Args:
        latent: (N, D) before scaling.
    Returns:
        q_score, z_score, l1_norm, each (N,) float64; NaN where they are not defined: a latent of zeros, and,
        for the first two, one whose dimensions are all equal.
    """
    latent = latent.astype(np.float64)
    norm = np.linalg.norm(latent, axis=1, keepdims=True)
    unit = latent / np.where(norm > 0, norm, np.nan)
    std = unit.std(1)
    # Equal dimensions leave a spread of rounding errors only.
    z_score = (unit.max(1) - unit.mean(1)) / np.where(std > 1e-12, std, np.nan)
    l1_norm = np.abs(unit).sum(1)
    return {"q_score": z_score / l1_norm, "z_score": z_score, "l1_norm": l1_norm}


def mean_over_defined(values: np.ndarray) -> np.ndarray:
    """(K, N) -> (N,): the mean over the models for which the value is defined, NaN where there is none."""
    defined = ~np.isnan(values)
    count = defined.sum(0)
    return np.where(defined, values, 0).sum(0) / np.where(count > 0, count, np.nan)


def prediction_depth(knn: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Prediction depth (Baldock et al. 2021): the number of layers before the first one from which on every
    k-NN agrees with the network's own final prediction.

    Args:
        knn: (P, N) label of the k-NN at each layer; predictions: (N,) the network's own.
    Returns:
        (N,) int64 from 0 (all agree) to P (the last layer disagrees).
    """
    return _last_disagreement(knn, predictions)


def label_prediction_depth(knn: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The published variant: 1 + the index (from 0) of the last layer whose k-NN misses the true label, 1
    where none does.

    Args:
        knn: (P, N) label of the k-NN at each layer; labels: (N,) the true classes.
    Returns:
        (N,) int64 from 1 to P.
    """
    return np.maximum(_last_disagreement(knn, labels), 1)


def _last_disagreement(knn: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """1 + the index of the last layer that differs from `labels`, 0 where none does."""
    differs = knn != labels
    return np.where(differs.any(0), len(knn) - differs[::-1].argmax(0), 0)


def pies_per_class(is_pie: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """(N,) bool and (N,) true classes -> (num_classes,) number of PIEs of each class."""
    return np.bincount(checked_classes(labels, num_classes)[is_pie], minlength=num_classes)


def class_recalls(predictions: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """(K, N) predictions and (N,) true classes -> (K, num_classes) recall of each class by each model, NaN
    for a class without images."""
    correct, labels = predictions == labels, checked_classes(labels, num_classes)
    count = np.bincount(labels, minlength=num_classes)
    right = np.stack([np.bincount(labels[model], minlength=num_classes) for model in correct])
    return right / np.where(count > 0, count, np.nan)


def accuracy_on(images: np.ndarray, predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(N,) bool, (K, N) predictions and (N,) true classes -> (K,): the accuracy of each model on the chosen
    images, NaN where there are none."""
    return ((predictions == labels) & images).sum(1) / (images.sum() or np.nan)


def lost_and_gained(dense: np.ndarray, pruned: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """PIEs by what pruning did to them.

    Args:
        dense, pruned: (N,) modal labels; labels: (N,) true classes.
    Returns:
        lost: the dense modal label is right; gained: the pruned one is; wrong: neither is. (N,) bool each,
        together the PIEs.
    """
    was_right, is_right = dense == labels, pruned == labels
    return {
        "lost": was_right & ~is_right,
        "gained": is_right & ~was_right,
        "wrong": (dense != pruned) & ~was_right & ~is_right,
    }


def auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    """The area under the ROC curve: how often a positive image has a higher score than another, ties counted
    half.

    Args:
        scores: (N,), NaN where not defined: left out; positive: (N,) bool.
    Returns:
        0.5 by chance; NaN where all images are positive or none is.
    """
    from scipy.stats import rankdata

    defined = ~np.isnan(scores)
    ranks, positive = rankdata(scores[defined]), positive[defined]
    count = positive.sum()
    pairs = count * (len(ranks) - count)
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (pairs or np.nan))


def calibration_error(logits: np.ndarray, labels: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error (Guo et al. 2017, eq. 3): images are put into bins of equal width by
    confidence, the largest of their softmax; |accuracy - mean confidence| of a bin is averaged over images.

    Args:
        logits: (N, C), -inf for a class that is ruled out; labels: (N,) true classes.
    Raises:
        ValueError: logits without a softmax.
    """
    logits = logits.astype(np.float64)
    if not np.isfinite(logits.max(1)).all():  # NaN as an index would lie outside of every array
        raise ValueError("logits are not finite: their softmax is not defined")
    shares = np.exp(logits - logits.max(1, keepdims=True))
    confidence = 1 / shares.sum(1)
    right = logits.argmax(1) == labels
    bin_of = np.ceil(confidence * bins).astype(int) - 1  # a bin holds its upper end, not its lower one
    return float(np.abs(np.bincount(bin_of, right - confidence)).sum() / len(labels))


def agreement(predictions: np.ndarray, others: np.ndarray) -> float:
    """The share of images on which two models predict the same class, right or wrong; 1 - agreement is known
    as churn. (N,) and (N,)."""
    return float((predictions == others).mean())


def linear_cka(latent: np.ndarray, other: np.ndarray) -> float:
    """How alike two latents of the same images are: linear centred kernel alignment (Kornblith et al. 2019,
    eq. 5 with a linear kernel), ||Y^T X||^2 / (||X^T X|| ||Y^T Y||), Frobenius norms, columns centred.

    Args:
        latent, other: (N, D) and (N, D').
    Returns:
        1 where they are alike up to rotation and scale; NaN where one is the same for all images.
    """
    if any((values == values[0]).all() for values in (latent, other)):
        return float("nan")  # centred, only rounding errors would be left
    x, y = (values.astype(np.float64) - values.mean(0, dtype=np.float64) for values in (latent, other))
    norms = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return float(np.linalg.norm(y.T @ x) ** 2 / (norms or np.nan))
