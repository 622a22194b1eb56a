"""Contrastive losses, computed in float32 for features of any precision.

To add one, add an entry to `LOSSES`. Its name becomes a choice of --method and part of file names. torch is
imported only to compute a loss, because `--help` reads the names from here.
"""

import math
from typing import TYPE_CHECKING, Callable, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


def contrastive_loss(
    features: "Tensor",
    labels: "Tensor | None",
    temperature: float,
    base_temperature: float = 0.07,
) -> "Tensor":
    """Computes SupCon (Khosla et al. 2020, eq. 2, L_out), or SimCLR's NT-Xent if `labels` is None.

    Every view is an anchor i. P(i) are its positives, the other views of the same class (SimCLR: of the same
    image); A(i) are all views but i:
        loss = mean_i  (T / T_base) (-1 / |P(i)|) sum_{p in P(i)} log(e(i, p) / sum_{a in A(i)} e(i, a)),
        e(i, j) = exp(z_i z_j / T), z_i the projection of view i divided by its L2 norm
    An anchor without positives (a single view of its class) contributes 0.

    Args:
        features: (N, V, D) projections; N images, V views.
        labels: (N,) classes, or None for SimCLR.
    Returns:
        A float32 scalar.
    Raises:
        ValueError: shapes are wrong.
    """
    import torch
    import torch.nn.functional as F

    if features.ndim != 3:
        raise ValueError(
            f"features must have the shape (images, views, dimensions), not {tuple(features.shape)}"
        )
    images, views = features.shape[:2]
    if images * views < 2:
        raise ValueError("a contrastive loss needs at least 2 views")
    if labels is not None and labels.shape != (images,):
        raise ValueError(f"labels must have the shape ({images},), not {tuple(labels.shape)}")
    if labels is None:
        labels = torch.arange(images, device=features.device)
    with torch.autocast(features.device.type, enabled=False):
        anchors = features.float().transpose(0, 1).reshape(images * views, -1)  # view by view
        anchors = F.normalize(anchors, dim=1)
        logits = anchors @ anchors.T / temperature
        itself = torch.eye(images * views, dtype=torch.bool, device=features.device)
        classes = labels.repeat(views)
        positives = (classes[:, None] == classes) & ~itself
        log_probability = logits - logits.masked_fill(itself, -math.inf).logsumexp(1, keepdim=True)
        mean_over_positives = (log_probability * positives).sum(1) / positives.sum(1).clamp_min(1)
        return -(temperature / base_temperature) * mean_over_positives.mean()


def chance_contrastive_loss(views: int, temperature: float, base_temperature: float = 0.07) -> float:
    """Returns the loss of identical features: all other `views` - 1 views of the batch are equally likely."""
    return temperature / base_temperature * math.log(views - 1)


def simclr(features: "Tensor", labels: "Tensor", temperature: float, base_temperature: float) -> "Tensor":
    """Computes NT-Xent of projections (N, V, D), ignoring the labels."""
    return contrastive_loss(features, None, temperature, base_temperature)


class Loss(NamedTuple):
    """A contrastive loss.

    function: takes projections (N, V, D) of V views, labels (N,), temperature and base temperature; chance:
    returns its value for a number of identical views at these temperatures.
    """

    function: Callable[["Tensor", "Tensor", float, float], "Tensor"]
    chance: Callable[[int, float, float], float]


# --method -> its loss.
LOSSES = {
    "SupCon": Loss(contrastive_loss, chance_contrastive_loss),
    "SimCLR": Loss(simclr, chance_contrastive_loss),
}
