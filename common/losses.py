"""Contrastive losses, computed in float32 for features of any precision.

To add one, add an entry to `LOSSES`. Its name becomes a choice of --method and part of file names. torch is
imported only to compute a loss, because `--help` reads the names from here.
"""

import math
from typing import TYPE_CHECKING, Callable, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

NORM_TOLERANCE = 0.02  # bfloat16 features have fewer than 3 significant digits


def contrastive_loss(
    features: "Tensor",
    labels: "Tensor | None",
    temperature: float,
    base_temperature: float = 0.07,
    check_norm: bool = True,
) -> "Tensor":
    """Computes SupCon (Khosla et al. 2020, eq. 2, L_out), or SimCLR's NT-Xent if `labels` is None.

    Every view is an anchor i. P(i) are its positives, the other views of the same class (SimCLR: of the same
    image); A(i) are all views but i:
        loss = mean_i  (T / T_base) (-1 / |P(i)|) sum_{p in P(i)} log(e(i, p) / sum_{a in A(i)} e(i, a)),
        e(i, j) = exp(z_i z_j / T)
    An anchor without positives (a single view of its class) contributes 0.

    Args:
        features: (N, V, D), each of unit L2 norm; N images, V views.
        labels: (N,) classes, or None for SimCLR.
        check_norm: refuse features without unit norm (on a GPU this waits for the device).
    Returns:
        A float32 scalar.
    Raises:
        ValueError: shapes are wrong, or features are not normalised.
    """
    import torch

    if features.ndim != 3:
        raise ValueError(
            f"features must have the shape (images, views, dimensions), not {tuple(features.shape)}"
        )
    images, views = features.shape[:2]
    if images * views < 2:
        raise ValueError("a contrastive loss needs at least 2 views")
    if labels is not None and labels.shape != (images,):
        raise ValueError(f"labels must have the shape ({images},), not {tuple(labels.shape)}")
    if check_norm and not ((features.detach().float().norm(dim=-1) - 1).abs() < NORM_TOLERANCE).all():
        raise ValueError("features must be of unit L2 norm: normalise the projections first")
    if labels is None:
        labels = torch.arange(images, device=features.device)
    with torch.autocast(features.device.type, enabled=False):
        anchors = features.float().transpose(0, 1).reshape(images * views, -1)  # view by view
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


def supcon(features: "Tensor", labels: "Tensor", temperature: float, base_temperature: float) -> "Tensor":
    """Computes SupCon of normalised features (N, V, D) with labels (N,)."""
    return contrastive_loss(features, labels, temperature, base_temperature, check_norm=False)


def simclr(features: "Tensor", labels: "Tensor", temperature: float, base_temperature: float) -> "Tensor":
    """Computes NT-Xent of normalised features (N, V, D), ignoring the labels."""
    return contrastive_loss(features, None, temperature, base_temperature, check_norm=False)


class Loss(NamedTuple):
    """A contrastive loss.

    function: takes normalised features (N, V, D), labels (N,), temperature and base temperature; chance:
    returns its value for a number of identical views at these temperatures.
    """

    function: Callable[["Tensor", "Tensor", float, float], "Tensor"]
    chance: Callable[[int, float, float], float]


# --method -> its loss.
LOSSES = {"SupCon": Loss(supcon, chance_contrastive_loss), "SimCLR": Loss(simclr, chance_contrastive_loss)}
