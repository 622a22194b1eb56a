"""Majority votes of networks and their tie rule, without torch, because the report votes too.

K networks, N images, S sets of networks.
"""

import numpy as np

CHUNK = 2**18  # votes in memory at once; they should fit a CPU cache


def tie_ranks(num_classes: int) -> np.ndarray:
    """Returns the rank of each class in ties, a permutation of 0 to num_classes - 1. Among classes with
    equally many votes the largest rank wins, which is the smallest class id. PIEs, intervals and k-NN use
    this rule."""
    return np.arange(num_classes)[::-1]


def checked_classes(values: np.ndarray, num_classes: int, what: str = "labels") -> np.ndarray:
    """Returns the values unchanged if they are valid class ids.

    Raises:
        ValueError: they are not whole numbers from 0 to num_classes - 1.
    """
    if values.dtype.kind not in "iu" or (values.size and not 0 <= values.min() <= values.max() < num_classes):
        raise ValueError(f"{what} must be whole numbers between 0 and {num_classes - 1}")
    return values


def vote_counts(predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """(K, N) predicted classes -> (N, num_classes) number of networks that predict each class.

    Raises:
        ValueError: predictions are not class ids.
    """
    networks, images = predictions.shape
    flat = np.arange(images) * num_classes + checked_classes(predictions, num_classes, "predictions")
    return np.bincount(flat.ravel(), minlength=images * num_classes).reshape(images, num_classes)


def winners(counts: np.ndarray) -> np.ndarray:
    """(N, C) votes -> (N,) class with most votes, by the tie rule."""
    classes = counts.shape[1]
    return (counts * classes + tie_ranks(classes)).argmax(1)


def vote_lead(counts: np.ndarray) -> np.ndarray:
    """(N, C) votes -> (N,) lead of the first class over the second; 0 in a tie."""
    first, second = np.sort(np.pad(counts, ((0, 0), (1, 0))), 1)[:, :-3:-1].T
    return first - second


def modal_labels(predictions: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the class that most of K networks predict for each image.

    Args:
        predictions: (K, N) whole numbers from 0 to num_classes - 1.
    Returns:
        labels (N,) int64, and tied (N,) bool: whether another class has as many votes.
    Raises:
        ValueError: predictions have a wrong shape or are not class ids.
    """
    if predictions.ndim != 2 or len(predictions) == 0:
        raise ValueError(f"predictions must have the shape (models, images), not {predictions.shape}")
    counts = vote_counts(predictions, num_classes)
    return winners(counts), vote_lead(counts) == 0


def modal_labels_of_sets(predictions: np.ndarray, sets: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns the modal labels of many sets of networks at once; ties as in `modal_labels`.

    Args:
        predictions: (K, N); sets: (S, K) bool, the networks that vote.
    Returns:
        (S, N), in the type of the predictions.
    """
    ranks, counts = tie_ranks(num_classes), vote_counts(predictions, num_classes)
    labels = np.tile(winners(counts).astype(predictions.dtype), (len(sets), 1))
    # If fewer than half of any set can vote against the overall winner, it wins in every set.
    opposed = len(predictions) - counts.max(1)
    disputed = np.flatnonzero(2 * opposed >= sets.sum(1).min(initial=len(predictions)))
    ranked = np.sort(predictions[:, disputed], 0)
    is_first = np.concatenate([np.ones_like(ranked[:1], bool), ranked[1:] != ranked[:-1]])
    candidates = is_first.sum(0)  # number of classes with votes, per image
    size = max(1, CHUNK // len(sets))
    # The score of a class is votes * num_classes + rank: a whole number, exact in float32 up to 2^24. The
    # last column of `voters` adds the rank.
    voters = np.column_stack([num_classes * sets, np.ones(len(sets))]).astype(np.float32)
    label_of_score = np.tile(np.argsort(ranks), len(predictions) + 1).astype(predictions.dtype)
    by_candidates = np.argsort(-candidates, kind="stable")
    for chunk in np.split(by_candidates, range(size, len(disputed), size)):
        classes = np.zeros((candidates[chunk].max(initial=0), len(chunk)), predictions.dtype)
        image, row = np.nonzero(is_first[:, chunk].T)
        classes[np.arange(len(image)) - np.searchsorted(image, image), image] = ranked[:, chunk][row, image]
        best, votes = np.zeros((len(sets), len(chunk)), np.float32), predictions[:, disputed[chunk]]
        for index, label in enumerate(classes):
            count = (candidates[chunk] > index).sum()  # images with this many come first
            terms = np.vstack([votes[:, :count] == label[:count], ranks[label[:count]]]).astype(np.float32)
            np.maximum(best[:, :count], voters @ terms, out=best[:, :count])
        labels[:, disputed[chunk]] = label_of_score[best.astype(np.int32)]
    return labels
