"""PIEs, Q-Score, prediction depth, and effects of pruning: pure functions of arrays, without torch.

K models, N images, C classes, P probe layers, D dimensions.
"""

import numpy as np

from common.voting import checked_classes, modal_labels, vote_counts, vote_lead, winners

BINS = 15  # for the calibration error


def find_pies(dense_predictions: np.ndarray, pruned_predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """Finds pruning identified exemplars (Hooker et al. 2019): images whose modal label over the pruned
    models differs from that over the dense ones. common/voting.py breaks ties.

    Args:
        dense_predictions, pruned_predictions: (K, N) and (K', N).
    Returns:
        (N,) bool.
    """
    return modal_labels(dense_predictions, num_classes)[0] != modal_labels(pruned_predictions, num_classes)[0]


def disagreement(
    dense_predictions: np.ndarray, pruned_predictions: np.ndarray, num_classes: int
) -> dict[str, np.ndarray]:
    """Compares the votes of two populations for each image.

    Args:
        dense_predictions, pruned_predictions: (K, N) and (K', N).
    Returns:
        arrays (N,): modal_labels; tied, whether another class has as many votes; votes for the modal label;
        the same of the dense models, which begin with `dense_`; is_pie; confidence: the share of models that
        predict the modal label of their population minus the share that predict that of the other
        population, averaged over both populations. It is 1 if all dense models predict d and all pruned
        models p, and 0 if d = p.
    """
    votes = [vote_counts(side, num_classes) for side in (dense_predictions, pruned_predictions)]
    labels = [*map(winners, votes)]
    arrays, margins = {"is_pie": labels[0] != labels[1]}, []
    for prefix, count, label, other in zip(("dense_", ""), votes, labels, labels[::-1]):
        most = count.max(1)
        side = {"modal_labels": label, "tied": vote_lead(count) == 0, "votes": most}
        arrays |= {f"{prefix}{name}": values for name, values in side.items()}
        margins.append((most - count[np.arange(len(other)), other]) / count.sum(1))
    return arrays | {"confidence": np.mean(margins, 0)}


def probability_changes(dense: np.ndarray, pruned: np.ndarray) -> np.ndarray:
    """Measures how far pruning moves the mean probabilities of an image: PIEs without a vote or a tie.

    The squared Euclidean distance between the mean probabilities of the two populations, minus its bias for K
    networks: |mean d|^2 - sum |d_k - mean d|^2 / (K (K - 1)), where d_k is the change of network k. This is
    an unbiased estimate of the squared distance between the expected probabilities for every K >= 2; that
    distance is 0 if pruning changes nothing. Networks of one seed are not independent, so the variance of
    their differences is subtracted, not that of each population.

    Args:
        dense, pruned: (K, N, C) probabilities; row k of both has one seed.
    Returns:
        (N,) float64, negative where the estimated bias exceeds the distance; NaN for K < 2.
    """
    networks, images, classes = dense.shape
    total, squares = np.zeros((images, classes)), np.zeros(images)
    for before, after in zip(dense, pruned):
        change = after.astype(np.float64) - before
        total += change
        squares += (change**2).sum(1)
    return ((total**2).sum(1) - squares) / (networks * (networks - 1) or np.nan)


def q_scores(latent: np.ndarray) -> dict[str, np.ndarray]:
    """Computes the Q-Score (Kalibhat et al. 2022) and its parts for each latent h, scaled to unit L2 norm.

    z_score = (max h - mean h) / std h with n in the denominator of std; l1_norm = ||h||_1; q_score = z_score
    / l1_norm.

    Args:
        latent: (N, D) before scaling.
    Returns:
        q_score, z_score, l1_norm, each (N,) float64. All are NaN for a latent of zeros; q_score and z_score
        also for a latent whose dimensions are all equal.
    """
    latent = latent.astype(np.float64)
    norm = np.linalg.norm(latent, axis=1, keepdims=True)
    unit = latent / np.where(norm > 0, norm, np.nan)
    std = unit.std(1)
    # If all dimensions are equal, std holds only rounding errors.
    z_score = (unit.max(1) - unit.mean(1)) / np.where(std > 1e-12, std, np.nan)
    l1_norm = np.abs(unit).sum(1)
    return {"q_score": z_score / l1_norm, "z_score": z_score, "l1_norm": l1_norm}


def mean_over_defined(values: np.ndarray) -> np.ndarray:
    """(K, N) -> (N,): the mean over models, ignoring NaN; NaN where all values are NaN."""
    defined = ~np.isnan(values)
    count = defined.sum(0)
    return np.where(defined, values, 0).sum(0) / np.where(count > 0, count, np.nan)


def prediction_depth(knn: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Computes the prediction depth (Baldock et al. 2021): the index (from 0) of the first layer from which
    on all k-NN agree with the network's final prediction.

    Args:
        knn: (P, N) label of the k-NN at each layer; predictions: (N,) predictions of the network.
    Returns:
        (N,) int64 from 0 (all layers agree) to P (the last layer disagrees).
    """
    differs = knn != predictions
    return np.where(differs.any(0), len(knn) - differs[::-1].argmax(0), 0)


def label_prediction_depth(knn: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Computes the published variant: 1 + the index (from 0) of the last layer whose k-NN misses the true
    label, or 1 if no layer misses it.

    Args:
        knn: (P, N) label of the k-NN at each layer; labels: (N,) the true classes.
    Returns:
        (N,) int64 from 1 to P.
    """
    return np.maximum(prediction_depth(knn, labels), 1)


def pies_per_class(is_pie: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """(N,) bool and (N,) true classes -> (num_classes,) number of PIEs in each class."""
    return np.bincount(checked_classes(labels, num_classes)[is_pie], minlength=num_classes)


def class_recalls(predictions: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """(K, N) predictions and (N,) true classes -> (K, num_classes) recall per model and class, NaN for a
    class without images."""
    correct, labels = predictions == labels, checked_classes(labels, num_classes)
    count = np.bincount(labels, minlength=num_classes)
    right = np.stack([np.bincount(labels[model], minlength=num_classes) for model in correct])
    return right / np.where(count > 0, count, np.nan)


def accuracy_on(images: np.ndarray, predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(N,) bool, (K, N) predictions and (N,) true classes -> (K,): accuracy of each model on the selected
    images, NaN if no image is selected."""
    return ((predictions == labels) & images).sum(1) / (images.sum() or np.nan)


def lost_and_gained(dense: np.ndarray, pruned: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Splits PIEs by the effect of pruning.

    Args:
        dense, pruned: (N,) modal labels; labels: (N,) true classes.
    Returns:
        lost: only the dense modal label is right; gained: only the pruned one; wrong: neither. Each is (N,)
        bool; their union is the set of PIEs.
    """
    was_right, is_right = dense == labels, pruned == labels
    return {
        "lost": was_right & ~is_right,
        "gained": is_right & ~was_right,
        "wrong": (dense != pruned) & ~was_right & ~is_right,
    }


def auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Computes the area under the ROC curve: the probability that a positive image has a higher score than a
    negative one, with ties counted half.

    Args:
        scores: (N,), NaN values are ignored; positive: (N,) bool.
    Returns:
        0.5 by chance; NaN if all images are positive or none is.
    """
    from scipy.stats import rankdata

    defined = ~np.isnan(scores)
    ranks, positive = rankdata(scores[defined]), positive[defined]
    count = positive.sum()
    pairs = count * (len(ranks) - count)
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (pairs or np.nan))


def calibration_error(logits: np.ndarray, labels: np.ndarray, bins: int = BINS) -> float:
    """Computes the expected calibration error (Guo et al. 2017, eq. 3): bins of equal width hold images by
    confidence (the largest softmax value); |accuracy - mean confidence| is averaged over images.

    Args:
        logits: (N, C), -inf for an impossible class; labels: (N,) true classes.
    Raises:
        ValueError: the softmax of the logits is undefined.
    """
    logits = logits.astype(np.float64)
    if not np.isfinite(logits.max(1)).all():  # NaN would become an invalid bin index
        raise ValueError("logits are not finite: their softmax is not defined")
    shares = np.exp(logits - logits.max(1, keepdims=True))
    confidence = 1 / shares.sum(1)
    right = logits.argmax(1) == labels
    bin_of = np.ceil(confidence * bins).astype(int) - 1  # bins include their upper end, not their lower one
    return float(np.abs(np.bincount(bin_of, right - confidence)).sum() / len(labels))


def agreement(predictions: np.ndarray, other: np.ndarray) -> float:
    """(N,) and (N,) predictions of two models -> the share of images with the same prediction, right or
    wrong. 1 - agreement is known as churn."""
    return float((predictions == other).mean())


def linear_cka(latent: np.ndarray, other: np.ndarray) -> float:
    """Computes the similarity of two latents of the same images by linear centred kernel alignment (Kornblith
    et al. 2019, eq. 5): ||Y^T X||^2 / (||X^T X|| ||Y^T Y||), Frobenius norms, centred columns.

    Args:
        latent, other: (N, D) and (N, D').
    Returns:
        1 if they are equal up to rotation and scale; NaN if one of them is the same for all images.
    """
    if any((values == values[0]).all() for values in (latent, other)):
        return float("nan")  # centring would leave only rounding errors
    x, y = (values.astype(np.float64) - values.mean(0, dtype=np.float64) for values in (latent, other))
    norms = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return float(np.linalg.norm(y.T @ x) ** 2 / (norms or np.nan))
