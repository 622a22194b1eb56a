"""The k-nearest-neighbour classifier of prediction depth. N, M points, D dimensions."""

import torch
from torch import Tensor

from common.voting import tie_ranks

NEIGHBOURS = 30
# Distances held at once, on a CPU (its cache) and elsewhere.
CHUNK_BYTES, DEVICE_CHUNK_BYTES = 16 * 2**20, 256 * 2**20


@torch.no_grad()
def knn_labels(
    train: Tensor, train_labels: Tensor, test: Tensor, num_classes: int, k: int = NEIGHBOURS
) -> Tensor:
    """The majority label of the k nearest training points by Euclidean distance. Of training points at equal
    distance the first ones count as nearer; a tied vote goes to the smallest class id.

    Exact, in float32, in chunks of test points that bound the memory.

    Args:
        train: (M, D); train_labels: (M,); test: (N, D); all on one device.
    Returns:
        (N,) int64.
    Raises:
        ValueError: fewer than k training points.
        FloatingPointError: distances between the points are not finite.
    """
    if len(train) < k:
        raise ValueError(f"{k} neighbours need at least {k} training images, not {len(train)}")
    train, test = train.float(), test.float()
    centre = train.mean(0)  # |x|^2 - 2 x y cancels less around the origin
    # Where all are equal, the rounding of their mean leaves nothing by which they would seem to differ.
    centre = torch.where((train == train[0]).all(0), train[0], centre)
    train, test = train - centre, test - centre
    squares = (train * train).sum(1)
    largest = torch.cat([squares, (test * test).sum(1)]).max()
    if not largest < torch.finfo(torch.float32).max / 4:  # |x|^2 - 2 x y is finite then; NaN is not less
        raise FloatingPointError("distances between representations are not finite in float32")
    chunk = max(1, (CHUNK_BYTES if train.device.type == "cpu" else DEVICE_CHUNK_BYTES) // (4 * len(train)))
    labels = []
    ranks = torch.from_numpy(tie_ranks(num_classes).copy()).to(test.device)
    for part in test.split(chunk):
        distances = torch.addmm(squares, part, train.T, alpha=-2)  # + |y|^2, the same for all x
        neighbours = train_labels[nearest(distances, k)]
        votes = torch.zeros(len(part), num_classes, dtype=torch.int32, device=part.device)
        votes.scatter_add_(1, neighbours, torch.ones_like(neighbours, dtype=torch.int32))
        labels.append((votes * num_classes + ranks).argmax(1))  # no two are equal
    return torch.cat(labels)


def nearest(distances: Tensor, k: int) -> Tensor:
    """(N, M) distances, none of them NaN -> (N, k) indices of the k smallest of each row, in any order; of
    equal ones those that come first."""
    values, indices = distances.topk(min(k + 1, distances.shape[1]), largest=False)
    indices = indices[:, :k]
    # topk chooses arbitrarily among equal values: it matters only where the next one is equal to the last.
    tied = (values[:, k - 1 : k] == values[:, k:]).any(1)
    if tied.any():
        rows, last = distances[tied], values[tied, k - 1 : k]
        places = torch.arange(rows.shape[1], dtype=torch.int32, device=rows.device)
        rank = torch.where(rows < last, -1, torch.where(rows == last, places, len(places)))
        indices[tied] = rank.topk(k, largest=False).indices
    return indices
