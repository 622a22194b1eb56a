"""Pruning criteria, which score how important weights are; the lowest scores are pruned first.

To add one, write a function that takes any of (weight, gradient, initial_weight, accumulated,
hessian_gradient, path_gradient) and returns a score of the weight's shape, and add an entry to `CRITERIA`.
torch is imported only to compute scores, because `--help` reads names and meanings from here.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Callable, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

POWERS = (0.5, 2, 3)  # powers of sums of |gradient|, among the variants 0.5 to 3 of Lévai & Zombori


@dataclass(frozen=True)
class Gradient:
    """Sums over batches b of the gradients g_b of a weight, in the shape of the weight."""

    total: "Tensor"  # sum of g_b
    absolute: "Tensor"  # sum of |g_b|


def magnitude(weight: "Tensor") -> "Tensor":
    """Returns |w|."""
    return weight.abs()


def magnitude_increase(weight: "Tensor", initial_weight: "Tensor") -> "Tensor":
    """Returns |w| - |initial w|, the growth in training (Zhou et al. 2019, "Deconstructing lottery
    tickets")."""
    return weight.abs() - initial_weight.abs()


def snip(weight: "Tensor", gradient: Gradient) -> "Tensor":
    """Returns |w x sum_b g_b|, the connection sensitivity (Lee et al. 2019) at the current weights, without
    its constant factor."""
    return (weight * gradient.total).abs()


def snip_batches(weight: "Tensor", gradient: Gradient) -> "Tensor":
    """Returns sum_b |w g_b|; sensitivities of different batches cannot cancel."""
    return weight.abs() * gradient.absolute


def levai_zombori(weight: "Tensor", accumulated: "Tensor") -> "Tensor":
    """Returns |w| x sum_t |g_t| over all earlier training steps t (Lévai & Zombori 2020, following their
    code).

    Args:
        accumulated: sums of |g_t| and of g_t.
    """
    return weight.abs() * accumulated[0]


def levai_zombori_signed(weight: "Tensor", accumulated: "Tensor") -> "Tensor":
    """Returns |w x sum_t g_t|; gradients of opposite sign cancel, as in the logs of Lévai & Zombori."""
    return (weight * accumulated[1]).abs()


def _levai_zombori_power(power: float) -> Callable[["Tensor", "Tensor"], "Tensor"]:
    def score(weight: "Tensor", accumulated: "Tensor") -> "Tensor":
        return weight.abs() * accumulated[0] ** power

    return score


def synflow(weight: "Tensor", path_gradient: "Tensor") -> "Tensor":
    """Returns |w dR/d|w|| at the current weights, where R sums the products of |weights| along all paths
    through the network (Tanaka et al. 2020)."""
    return (weight * path_gradient).abs()


def grasp(weight: "Tensor", hessian_gradient: "Tensor") -> "Tensor":
    """Returns w (H g), with H and g of the summed loss of a few batches. Wang et al. 2020 prune the highest
    -w (H g), because removing these weights preserves the gradient norm best."""
    return weight * hessian_gradient


def random(weight: "Tensor") -> "Tensor":
    """Returns uniform random numbers from torch's global CPU generator: the control."""
    import torch

    return torch.rand(weight.shape).to(weight.device)


def _filter_norm(order: float) -> Callable[["Tensor"], "Tensor"]:
    def norm(weight: "Tensor") -> "Tensor":
        import torch

        return _of_filters(torch.linalg.vector_norm(weight.reshape(len(weight), -1), order, dim=1), weight)

    return norm


def filter_random(weight: "Tensor") -> "Tensor":
    """Returns one random number per filter: the control for the filter norms."""
    import torch

    return _of_filters(torch.rand(len(weight)).to(weight.device), weight)


def _of_filters(scores: "Tensor", weight: "Tensor") -> "Tensor":
    """Expands one score per filter (F,) to all its weights (F, ...)."""
    return scores.reshape(-1, *[1] * (weight.ndim - 1)).expand_as(weight)


class Criterion(NamedTuple):
    """A function that scores weights, and its formula."""

    score: Callable[..., "Tensor"]
    meaning: str


# --criterion -> its scores; the lowest are pruned first.
CRITERIA = {
    "magnitude": Criterion(magnitude, "|w|"),
    "magnitude_increase": Criterion(magnitude_increase, "|w| - |initial w|"),
    "snip": Criterion(snip, "|w x sum of gradients over batches|"),
    "snip_batches": Criterion(snip_batches, "sum over batches of |w x gradient|"),
    "levai_zombori": Criterion(
        levai_zombori, "|w| x sum of |gradient| over the steps of the training before"
    ),
    "levai_zombori_signed": Criterion(levai_zombori_signed, "|w x sum of gradients over these steps|"),
    **{
        f"levai_zombori_power{power:g}": Criterion(
            _levai_zombori_power(power), f"|w| x (sum of |gradient|)^{power:g}"
        )
        for power in POWERS
    },
    "synflow": Criterion(synflow, "|w| x its share in all paths through the network of absolute weights"),
    "grasp": Criterion(grasp, "w x (Hessian x gradient)"),
    "random": Criterion(random, "by chance"),
    "filter_l1": Criterion(_filter_norm(1), "whole filters, L1 norm"),
    "filter_l2": Criterion(_filter_norm(2), "whole filters, L2 norm"),
    "filter_linf": Criterion(_filter_norm(float("inf")), "whole filters, L-infinity norm"),
    "filter_random": Criterion(filter_random, "whole filters by chance"),
}
