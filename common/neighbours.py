"""The k-nearest-neighbour classifier for prediction depth. N, M points, D dimensions."""

import torch
from torch import Tensor

from common.voting import tie_ranks

NEIGHBOURS = 30
# Limits on distances in memory: on a CPU they should fit its cache.
CHUNK_BYTES, DEVICE_CHUNK_BYTES = 16 * 2**20, 256 * 2**20


@torch.no_grad()
def knn_labels(
    train: Tensor, train_labels: Tensor, test: Tensor, num_classes: int, k: int = NEIGHBOURS
) -> Tensor:
    """Returns the majority label of the k nearest training points by Euclidean distance. At equal distance
    the training point with the smaller index counts as nearer; the smallest class id wins a tied vote.

    The search is exact, in float32; chunks of test points bound the memory.

    Args:
        train: (M, D); train_labels: (M,); test: (N, D); all on one device.
    Returns:
        (N,) int64.
    Raises:
        ValueError: fewer than k training points.
        FloatingPointError: distances between points are not finite.
    """
    if len(train) < k:
        raise ValueError(f"{k} neighbours need at least {k} training images, not {len(train)}")
    train, test = train.float(), test.float()
    centre = train.mean(0)  # |x|^2 - 2 x y loses less precision near the origin
    # Constant dimensions: subtract the exact value, since rounding of the mean would make points differ.
    centre = torch.where((train == train[0]).all(0), train[0], centre)
    train, test = train - centre, test - centre
    squares = (train * train).sum(1)
    largest = torch.cat([squares, (test * test).sum(1)]).max()
    if not largest < torch.finfo(torch.float32).max / 4:  # |x|^2 - 2 x y may overflow; true for NaN too
        raise FloatingPointError("distances between representations are not finite in float32")
    chunk = max(1, (CHUNK_BYTES if train.device.type == "cpu" else DEVICE_CHUNK_BYTES) // (4 * len(train)))
    labels = []
    ranks = torch.from_numpy(tie_ranks(num_classes).copy()).to(test.device)
    for part in test.split(chunk):
        distances = torch.addmm(squares, part, train.T, alpha=-2)  # without |y|^2, the same for all x
        neighbours = train_labels[nearest(distances, k)]
        votes = torch.zeros(len(part), num_classes, dtype=torch.int32, device=part.device)
        votes.scatter_add_(1, neighbours, torch.ones_like(neighbours, dtype=torch.int32))
        labels.append((votes * num_classes + ranks).argmax(1))  # ranks make all values distinct
    return torch.cat(labels)


def nearest(distances: Tensor, k: int) -> Tensor:
    """(N, M) distances without NaN -> (N, k) indices of the k smallest per row, in any order; among equal
    distances smaller indices win."""
    values, indices = distances.topk(min(k + 1, distances.shape[1]), largest=False)
    indices = indices[:, :k]
    # topk breaks ties arbitrarily. This matters only if the k-th and the next value are equal.
    tied = (values[:, k - 1 : k] == values[:, k:]).any(1)
    if tied.any():
        rows, last = distances[tied], values[tied, k - 1 : k]
        places = torch.arange(rows.shape[1], dtype=torch.int32, device=rows.device)
        rank = torch.where(rows < last, -1, torch.where(rows == last, places, len(places)))
        indices[tied] = rank.topk(k, largest=False).indices
    return indices
