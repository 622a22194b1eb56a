"""Majority votes of networks, and the one rule for ties. Without torch: the report votes too. K networks, N
images, S sets of networks."""

import numpy as np

CHUNK = 2**18  # votes held at once, in a cache


def tie_ranks(num_classes: int) -> np.ndarray:
    """The tie rule, of PIEs, intervals and k-NN alike: of classes with equally many votes that of the largest
    rank wins, here the smallest class id. A permutation of 0 to num_classes - 1."""
    return np.arange(num_classes)[::-1]


def checked_classes(values: np.ndarray, num_classes: int, what: str = "labels") -> np.ndarray:
    """The values as they are; for every array that is counted or indexed by them.

    Raises:
        ValueError: they are not whole numbers from 0 to num_classes - 1.
    """
    if values.dtype.kind not in "iu" or (values.size and not 0 <= values.min() <= values.max() < num_classes):
        raise ValueError(f"{what} must be whole numbers between 0 and {num_classes - 1}")
    return values


def vote_counts(predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """(K, N) predicted classes -> (N, num_classes) number of networks that predict each class.

    Raises:
        ValueError: predictions outside the classes.
    """
    networks, images = predictions.shape
    flat = np.arange(images) * num_classes + checked_classes(predictions, num_classes, "predictions")
    return np.bincount(flat.ravel(), minlength=images * num_classes).reshape(images, num_classes)


def winners(counts: np.ndarray) -> np.ndarray:
    """(N, C) votes -> (N,) the class of most votes, by the tie rule."""
    classes = counts.shape[1]
    return (counts * classes + tie_ranks(classes)).argmax(1)


def vote_lead(counts: np.ndarray) -> np.ndarray:
    """(N, C) votes -> (N,) by how many the first class is ahead of the second: 0 of a tie."""
    first, second = np.sort(np.pad(counts, ((0, 0), (1, 0))), 1)[:, :-3:-1].T
    return first - second


def modal_labels(predictions: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """The class that most of K networks predict for each image.

    Args:
        predictions: (K, N) whole numbers from 0 to num_classes - 1.
    Returns:
        labels (N,) int64, and tied (N,) bool: whether another class has as many votes.
    Raises:
        ValueError: predictions of the wrong shape, or outside the classes.
    """
    if predictions.ndim != 2 or len(predictions) == 0:
        raise ValueError(f"predictions must have the shape (models, images), not {predictions.shape}")
    counts = vote_counts(predictions, num_classes)
    return winners(counts), vote_lead(counts) == 0


def modal_labels_of_sets(predictions: np.ndarray, sets: np.ndarray, num_classes: int) -> np.ndarray:
    """The modal labels of many sets of networks at once; ties as in `modal_labels`.

    Args:
        predictions: (K, N); sets: (S, K) bool, the networks that vote.
    Returns:
        (S, N), of the type of the predictions.
    """
    ranks, counts = tie_ranks(num_classes), vote_counts(predictions, num_classes)
    labels = np.empty((len(sets), len(counts)), predictions.dtype)
    labels[:] = winners(counts)
    # Where fewer than half of a set can vote against the class that leads, it leads in every set.
    opposed = len(predictions) - counts.max(1)
    disputed = np.flatnonzero(2 * opposed >= sets.sum(1).min(initial=len(predictions)))
    ranked = np.sort(predictions[:, disputed], 0)
    new = np.concatenate([np.ones_like(ranked[:1], bool), ranked[1:] != ranked[:-1]])
    candidates = new.sum(0)  # classes that an image has votes for
    images = max(1, CHUNK // len(sets))
    # One number that is larger for more votes and, with as many, for the larger rank: whole numbers, exact up
    # to 2^24. The last "network" adds the rank.
    voters = np.column_stack([num_classes * sets, np.ones(len(sets))]).astype(np.float32)
    of_number = np.tile(np.argsort(ranks), len(predictions) + 1).astype(predictions.dtype)
    by_candidates = np.argsort(-candidates, kind="stable")
    for order in np.split(by_candidates, range(images, len(disputed), images)):
        classes = np.zeros((candidates[order].max(initial=0), len(order)), predictions.dtype)
        image, place = np.nonzero(new[:, order].T)
        classes[np.arange(len(image)) - np.searchsorted(image, image), image] = ranked[:, order][place, image]
        best, own = np.zeros((len(sets), len(order)), np.float32), predictions[:, disputed[order]]
        for index, label in enumerate(classes):
            some = (candidates[order] > index).sum()  # the first ones
            chosen = np.vstack([own[:, :some] == label[:some], ranks[label[:some]]]).astype(np.float32)
            np.maximum(best[:, :some], voters @ chosen, out=best[:, :some])
        labels[:, disputed[order]] = of_number[best.astype(np.int32)]
    return labels
