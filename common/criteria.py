"""Criteria: what is unimportant in a network. To add one, write a function of any of (weight, gradient,
initial_weight, accumulated, hessian_gradient, path_gradient) to a score of the weight's shape, the lowest
pruned first, and an entry in `CRITERIA`.

torch waits until a score is computed, because `--help` reads names and meanings from here.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Callable, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

POWERS = (0.5, 2, 3)  # of sums of |gradient|: of the variants 0.5 to 3 of Lévai & Zombori


@dataclass(frozen=True)
class Gradient:
    """What criteria know of a weight's gradients g_b over batches b, each of the weight's shape."""

    total: "Tensor"  # sum of g_b
    absolute: "Tensor"  # sum of |g_b|


def magnitude(weight: "Tensor") -> "Tensor":
    """|w|."""
    return weight.abs()


def magnitude_increase(weight: "Tensor", initial_weight: "Tensor") -> "Tensor":
    """|w| - |initial w|: how much the weight has grown in training (Zhou et al. 2019, "Deconstructing lottery
    tickets")."""
    return weight.abs() - initial_weight.abs()


def snip(weight: "Tensor", gradient: Gradient) -> "Tensor":
    """|w x sum_b g_b|: connection sensitivity (Lee et al. 2019), at the present weights, without its constant
    factor."""
    return (weight * gradient.total).abs()


def snip_batches(weight: "Tensor", gradient: Gradient) -> "Tensor":
    """sum_b |w g_b|: sensitivities of single batches do not cancel."""
    return weight.abs() * gradient.absolute


def levai_zombori(weight: "Tensor", accumulated: "Tensor") -> "Tensor":
    """|w| x sum_t |g_t| over every step t of the training before (Lévai & Zombori 2020, by their code).

    Args:
        accumulated: sums of |g_t| and of g_t.
    """
    return weight.abs() * accumulated[0]


def levai_zombori_signed(weight: "Tensor", accumulated: "Tensor") -> "Tensor":
    """|w x sum_t g_t|: gradients of opposite steps cancel, as in what Lévai & Zombori logged."""
    return (weight * accumulated[1]).abs()


def _levai_zombori_power(power: float) -> Callable[["Tensor", "Tensor"], "Tensor"]:
    def score(weight: "Tensor", accumulated: "Tensor") -> "Tensor":
        return weight.abs() * accumulated[0] ** power

    return score


def synflow(weight: "Tensor", path_gradient: "Tensor") -> "Tensor":
    """|w dR/d|w||, R the sum over all paths through the network of the product of their |weights| (Tanaka et
    al. 2020), at the present weights."""
    return (weight * path_gradient).abs()


def grasp(weight: "Tensor", hessian_gradient: "Tensor") -> "Tensor":
    """w (H g): Wang et al. 2020 remove the highest of -w (H g), whose removal keeps the norm of the gradient
    best; H and g are of the summed loss of some batches."""
    return weight * hessian_gradient


def random(weight: "Tensor") -> "Tensor":
    """Uniform random numbers from torch's global CPU generator: the control."""
    import torch

    return torch.rand(weight.shape).to(weight.device)


def _filter_norm(order: float) -> Callable[["Tensor"], "Tensor"]:
    def norm(weight: "Tensor") -> "Tensor":
        import torch

        return _of_filters(torch.linalg.vector_norm(weight.reshape(len(weight), -1), order, dim=1), weight)

    return norm


def filter_random(weight: "Tensor") -> "Tensor":
    """One random number for every filter: the control of the filter norms."""
    import torch

    return _of_filters(torch.rand(len(weight)).to(weight.device), weight)


def _of_filters(scores: "Tensor", weight: "Tensor") -> "Tensor":
    """One score for each filter (F,) -> the same for all its weights, (F, ...)."""
    return scores.reshape(-1, *[1] * (weight.ndim - 1)).expand_as(weight)


class Criterion(NamedTuple):
    """The score of a weight, and what it means in a formula."""

    score: Callable[..., "Tensor"]
    meaning: str


# --criterion -> what it prunes first.
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
