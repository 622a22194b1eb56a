"""Scopes (which scores are compared), schedules (when to prune), and masks that keep pruned weights at zero.

Sparsity counts the weights of convolutions and linear layers and the biases of linear layers, which can be
pruned; batch norm is never pruned.
"""

import inspect
import re
from dataclasses import dataclass
from typing import Callable, Iterable

import torch
from torch import Tensor, nn

from common.augment import stream_seed
from common.criteria import CRITERIA, Gradient
from common.methods import is_filter_criterion

Masks = dict[str, Tensor]
SYNFLOW_ROUNDS = 100  # as published


class GradientSums(dict[str, Tensor]):
    """Maps names of a module's prunable parameters to sums of |g_t| and of g_t over training steps t, (2,
    *shape of the weight). state_dict and load_state_dict save and restore an unfinished training."""

    def __init__(self, module: nn.Module):
        self.parameters = prunable_parameters(module)
        super().__init__(
            (name, torch.zeros_like(weight).expand(2, *weight.shape).clone())
            for name, weight in self.parameters.items()
        )

    @torch.no_grad()
    def add(self) -> None:
        """Adds the gradients of one step; called after the backward pass."""
        gradients = [weight.grad for weight in self.parameters.values()]
        for kind, terms in enumerate((torch._foreach_abs(gradients), gradients)):
            torch._foreach_add_([sums[kind] for sums in self.values()], terms)

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, total in self.items():
            total.copy_(state[name])


def prunable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Returns convolution weights, linear weights and linear biases by name, in the order of the model."""
    return {
        f"{prefix}.{name}" if prefix else name: parameter
        for prefix, module in model.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
        for name, parameter in module.named_parameters(recurse=False)
    }


def copy_weights(module: nn.Module) -> dict[str, Tensor]:
    """Returns copies of the current prunable weights by name."""
    return {name: weight.detach().clone() for name, weight in prunable_parameters(module).items()}


def layer_name(parameter: str) -> str:
    """Returns the part of a parameter's name that supervised and contrastive networks share:
    `block1.layer.0.conv1.weight`, `fc.bias`."""
    return re.sub(r"^(base|encoder|classification_head)\.", "", parameter)


def uses(criterion: str, quantity: str) -> bool:
    """Whether a criterion uses a quantity, such as 'gradient' or 'initial_weight'."""
    return quantity in inspect.signature(CRITERIA[criterion].score).parameters


def sum_gradients(parameters: dict[str, nn.Parameter], losses: Iterable[Tensor]) -> dict[str, Gradient]:
    """Sums the gradients of the losses of all batches, without changing `.grad` of the parameters."""
    sums = {
        name: Gradient(torch.zeros_like(parameter), torch.zeros_like(parameter))
        for name, parameter in parameters.items()
    }
    for loss in losses:
        for gradient, total in zip(torch.autograd.grad(loss, list(parameters.values())), sums.values()):
            total.total.add_(gradient)
            total.absolute.add_(gradient.abs())
    return sums


def hessian_gradients(
    parameters: dict[str, nn.Parameter], losses: Callable[[], Iterable[Tensor]], masks: Masks
) -> dict[str, Tensor]:
    """Returns H g by name, for the loss summed over the batches: the gradient of (constant g) . g. The
    constant g is 0 for weights that `masks` has pruned, which are no longer part of the network."""
    weights, sums = list(parameters.values()), sum_gradients(parameters, losses())
    known = {name: each.total * masks[name] if name in masks else each.total for name, each in sums.items()}
    products = {name: torch.zeros_like(weight) for name, weight in parameters.items()}
    for loss in losses():
        gradients = torch.autograd.grad(loss, weights, create_graph=True)
        along = sum((gradient * constant).sum() for gradient, constant in zip(gradients, known.values()))
        for product, part in zip(products.values(), torch.autograd.grad(along, weights)):
            product.add_(part)
    return products


def path_gradients(module: nn.Module, losses: Callable[[], Iterable[Tensor]]) -> dict[str, Tensor]:
    """Returns dR/d|w| by name, in float64, where R is the sum of the outputs for an input of ones if |w|
    replaces every w. Batch norm does not shift and scales by |its weight| / sqrt(running variance).

    Args:
        losses: runs the module once, which reveals the shape of its input; the images do not matter.
    """
    inputs = []
    hook = module.register_forward_pre_hook(lambda _, given: inputs.append(given[0][:1]))
    next(iter(losses()))
    hook.remove()
    names, was_training = list(prunable_parameters(module)), module.training
    state = {name: tensor.detach().double().abs() for name, tensor in module.state_dict().items()}
    for prefix, layer in module.named_modules():
        if isinstance(layer, nn.BatchNorm2d):
            for name in ("running_mean", "bias"):
                state[f"{prefix}.{name}"].zero_()
    weights = [state[name].requires_grad_() for name in names]
    ones = torch.ones_like(inputs[0], dtype=torch.float64)
    flow = torch.func.functional_call(module.eval(), state, ones).sum()
    module.train(was_training)
    return dict(zip(names, torch.autograd.grad(flow, weights)))


def score_weights(
    module: nn.Module,
    criterion: str,
    losses: Callable[[], Iterable[Tensor]],
    initial: dict[str, Tensor] | None,
    key: tuple,
    accumulated: dict[str, Tensor] | None = None,
    masks: Masks | None = None,
) -> dict[str, Tensor]:
    """Returns the score of every prunable weight by a criterion; the lowest scores are pruned.

    Args:
        losses: yields the losses of a few batches, the same ones at every call, for criteria that use
            gradients.
        initial: name -> initial weights; accumulated: name -> sums of |g_t| and of g_t; both are needed only
            for criteria that use them.
        key: the seed of random criteria.
        masks: masks of earlier pruning (None: nothing is pruned yet).
    """
    parameters = prunable_parameters(module)
    quantities = {
        "weight": lambda: parameters,
        "gradient": lambda: sum_gradients(parameters, losses()),
        "initial_weight": lambda: initial,
        "accumulated": lambda: accumulated,
        "hessian_gradient": lambda: hessian_gradients(parameters, losses, masks or {}),
        "path_gradient": lambda: path_gradients(module, losses),
    }

    known = {word: quantities[word]() for word in inspect.signature(CRITERIA[criterion].score).parameters}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(
            stream_seed(*key, "criterion")
        )  # torch.manual_seed would seed CUDA's generators too
        return {
            name: CRITERIA[criterion].score(**{word: values[name] for word, values in known.items()})
            for name in parameters
        }


# Scopes


def global_masks(scores: dict[str, Tensor], sparsity: float) -> Masks:
    """Returns masks that prune the round(sparsity * n) smallest scores over all tensors.

    Args:
        scores: name -> score of every weight, in any shape; n is their total number.
    Returns:
        name -> float mask of the score's shape, 1 kept and 0 pruned. Exactly this number of entries is 0:
        among equal scores the earlier one (by order of the tensors, then by position) is pruned first.
    """
    flat = torch.cat([score.flatten() for score in scores.values()])
    kept = torch.ones(flat.shape, device=flat.device)
    # `kept[...] = 0` would copy the 0 to the device.
    kept.index_fill_(0, flat.sort(stable=True).indices[: round(sparsity * flat.numel())], 0)
    parts = kept.split([score.numel() for score in scores.values()])
    return {name: part.reshape(score.shape) for (name, score), part in zip(scores.items(), parts)}


def layer_masks(scores: dict[str, Tensor], sparsity: float) -> Masks:
    """Returns masks that prune the round(sparsity * size) smallest scores of each tensor; ties as in
    `global_masks`."""
    return {name: global_masks({name: score}, sparsity)[name] for name, score in scores.items()}


def erk_masks(scores: dict[str, Tensor], sparsity: float) -> Masks:
    """Returns masks of exactly this total sparsity, with layer densities of Erdős-Rényi-kernel (Evci et al.
    2020): min(1, e sum(shape) / size) with one e for all tensors. Within a tensor the lowest scores are
    pruned.

    The r-th highest score of a tensor is replaced by sum(shape) / (r - 1/2), and the lowest of these values
    are pruned over the whole network. So each tensor keeps about sum(shape) / threshold weights, and no
    weight returns at a higher sparsity.
    """
    seats = {}
    for name, score in scores.items():
        order = score.flatten().sort(stable=True).indices
        ranks = torch.arange(len(order), 0, -1, dtype=torch.float64, device=score.device) - 0.5
        seats[name] = (
            torch.empty_like(ranks).scatter_(0, order, sum(score.shape) / ranks).reshape(score.shape)
        )
    return global_masks(seats, sparsity)


def filter_masks(scores: dict[str, Tensor], sparsity: float) -> Masks:
    """Returns masks that prune the round(sparsity * filters) lowest whole filters of each convolution; linear
    layers are not pruned.

    Args:
        scores: name -> score of every weight; the score of a filter (first dimension) is its highest one.
    """
    masks = {name: torch.ones(score.shape, device=score.device) for name, score in scores.items()}
    for name, score in scores.items():
        if score.ndim == 4:
            order = score.flatten(1).amax(1).sort(stable=True).indices
            masks[name].index_fill_(0, order[: round(sparsity * len(score))], 0)
    return masks


def next_masks(scores: dict[str, Tensor], sparsity: float, scope: str, criterion: str, masks: Masks) -> Masks:
    """Returns masks of this sparsity by scope; weights that `masks` has pruned stay pruned, whatever their
    scores."""
    scores = {
        name: score.masked_fill(masks[name] == 0, -torch.inf) if name in masks else score
        for name, score in scores.items()
    }
    if is_filter_criterion(criterion):
        found = filter_masks(scores, sparsity)
        return {
            name: mask * masks[name] if mask.ndim != 4 and name in masks else mask
            for name, mask in found.items()
        }
    return {"global": global_masks, "layer": layer_masks, "erk": erk_masks}[scope](scores, sparsity)


def find_masks(
    module: nn.Module, criterion: str, scope: str, sparsity: float, masks: Masks, score: Callable[[], dict]
) -> Masks:
    """Returns the masks of this sparsity by criterion and scope; weights that `masks` has pruned stay pruned.

    As published, `synflow` prunes in SYNFLOW_ROUNDS rounds. Each round lowers the density by the same factor
    and scores the weights that remain, so pruned weights of the module are set to zero along the way.

    Args:
        score: returns scores of the module's current weights.
    """
    rounds = SYNFLOW_ROUNDS if criterion == "synflow" else 1
    if rounds > 1:  # .item() waits for the device
        kept = torch.cat([mask.flatten() for mask in masks.values()]).mean().item() if masks else 1.0
    for done in range(1, rounds):
        density = kept ** (1 - done / rounds) * (1 - sparsity) ** (done / rounds)
        found = next_masks(score(), 1 - density, scope, criterion, masks)
        masks = {name: mask * masks.get(name, 1) for name, mask in found.items()}
        apply_masks(module, masks)
    return next_masks(score(), sparsity, scope, criterion, masks)


# Schedules


@dataclass(frozen=True)
class GradualPruning:
    """Schedule, criterion and scope of pruning during training. Steps count from 1."""

    sparsity: float
    begin_step: int
    end_step: int
    frequency: int
    criterion: str = "magnitude"
    scope: str = "layer"

    def sparsities(self) -> dict[int, float]:
        """Returns the sparsity from each pruning step on. These steps are begin, begin + frequency, ... up to
        end, and end itself.

        Zhu & Gupta 2017, eq. 1, from initial sparsity 0: s_t = s_f (1 - (1 - (t - begin) / (end - begin))^3).
        """
        steps = sorted({*range(self.begin_step, self.end_step + 1, self.frequency), self.end_step})
        length = max(1, self.end_step - self.begin_step)
        return {
            step: self.sparsity
            if step == self.end_step
            else self.sparsity * (1 - (1 - (step - self.begin_step) / length) ** 3)
            for step in steps
            if step > 0
        }


def gradual_pruner(
    module: nn.Module,
    masks: Masks,
    pruning: GradualPruning | None,
    losses: Callable[[int], Iterable[Tensor]],
    key: tuple,
    accumulated: dict[str, Tensor] | None = None,
) -> Callable[[int], None]:
    """Returns a function to call before the forward pass of every step. At the steps of the schedule it
    prunes the module and updates `masks` in place.

    Args:
        module: its current weights count as the initial ones.
        losses: step -> losses of a few batches, for criteria that use gradients.
        key: the seed of random criteria.
        accumulated: name -> sums of |g_t| and g_t, for criteria that use them; reset to 0 by every pruning.
    """
    if pruning is None:
        return lambda step: None
    sparsities, initial = pruning.sparsities(), copy_weights(module)

    def prune(step: int) -> None:
        if step in sparsities:

            def score() -> dict[str, Tensor]:
                known = initial, (*key, step), accumulated, masks
                return score_weights(module, pruning.criterion, lambda: losses(step), *known)

            way = pruning.criterion, pruning.scope, sparsities[step]
            masks.update(find_masks(module, *way, masks, score))
            apply_masks(module, masks)
            for total in (accumulated or {}).values():
                total.zero_()

    return prune


# Masks


@torch.no_grad()
def apply_masks(module: nn.Module, masks: Masks) -> None:
    """Sets pruned weights to zero in place; called after every optimizer step."""
    if masks:
        parameters = dict(module.named_parameters())
        torch._foreach_mul_([parameters[name] for name in masks], list(masks.values()))


@torch.no_grad()
def mask_gradients(module: nn.Module, masks: Masks) -> None:
    """Sets the gradients of pruned weights to zero, for optimizers that use norms of whole tensors (LARS)."""
    if masks:
        parameters = dict(module.named_parameters())
        torch._foreach_mul_([parameters[name].grad for name in masks], list(masks.values()))


def masks_of(module: nn.Module) -> Masks:
    """Returns the masks of a pruned network: 1 for prunable weights that are not zero."""
    return {name: (weight.detach() != 0).float() for name, weight in prunable_parameters(module).items()}


def weight_movement(before: dict[str, Tensor], after: dict[str, Tensor], masks: Masks) -> dict[str, float]:
    """Measures how far the kept weights of each tensor moved: the root mean square of their change over that
    of their earlier values.

    Args:
        before, after: name -> weights; masks: masks of the later weights.
    Returns:
        name -> ratio; tensors without kept weights, or whose earlier values are all zero, are left out.
    """
    kept = {name: mask.bool() for name, mask in masks.items()}
    norms = {
        name: (float((after[name].detach() - before[name])[mask].norm()), float(before[name][mask].norm()))
        for name, mask in kept.items()
    }
    return {name: change / size for name, (change, size) in norms.items() if size > 0}


def measure_sparsity(model: nn.Module) -> dict:
    """Counts the share of zeros among the prunable parameters.

    Returns:
        total: zeros / n over weights and linear biases; weights_only: the same without biases (printed by the
        published scripts); zeros and counted: numerator and denominator of `total`; per_tensor: name ->
        share.
    """
    tensors = prunable_parameters(model)
    zeros = {name: int((tensor == 0).sum()) for name, tensor in tensors.items()}
    weights = [name for name in tensors if name.endswith("weight")]
    counted = sum(tensor.numel() for tensor in tensors.values())
    return {
        "total": sum(zeros.values()) / counted,
        "weights_only": sum(zeros[name] for name in weights) / sum(tensors[name].numel() for name in weights),
        "zeros": sum(zeros.values()),
        "counted": counted,
        "per_tensor": {name: zeros[name] / tensor.numel() for name, tensor in tensors.items()},
    }
