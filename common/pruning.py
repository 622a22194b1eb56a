"""Scopes (where criteria are compared), schedules (when), and masks that keep pruned weights at zero.

Counted and pruned are the weights of convolutions and linear layers and the biases of linear layers (n in the
reference); batch norm is left alone.
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
    """Name of a module's prunable parameter -> sums of |g_t| and of g_t over the steps t of its training, (2,
    *the weight's shape); state_dict and load_state_dict are for the state of an unfinished training."""

    def __init__(self, module: nn.Module):
        self.parameters = prunable_parameters(module)
        super().__init__(
            (name, torch.zeros_like(weight).expand(2, *weight.shape).clone())
            for name, weight in self.parameters.items()
        )

    @torch.no_grad()
    def add(self) -> None:
        """One step more: to be called after the backward pass."""
        gradients = [weight.grad for weight in self.parameters.values()]
        for kind, terms in enumerate((torch._foreach_abs(gradients), gradients)):
            torch._foreach_add_([sums[kind] for sums in self.values()], terms)

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, total in self.items():
            total.copy_(state[name])


def prunable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Convolution weights, linear weights and linear biases by name, in the order of the model."""
    return {
        f"{prefix}.{name}" if prefix else name: parameter
        for prefix, module in model.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
        for name, parameter in module.named_parameters(recurse=False)
    }


def copy_weights(module: nn.Module) -> dict[str, Tensor]:
    """Name -> prunable weights as they are now."""
    return {name: weight.detach().clone() for name, weight in prunable_parameters(module).items()}


def layer_name(parameter: str) -> str:
    """The name of a prunable parameter that supervised and contrastive networks share:
    `block1.layer.0.conv1.weight`, `fc.bias`."""
    return re.sub(r"^(base|encoder|classification_head)\.", "", parameter)


def uses(criterion: str, quantity: str) -> bool:
    """Whether a criterion looks at the 'gradient', the 'initial_weight' or another quantity."""
    return quantity in inspect.signature(CRITERIA[criterion].score).parameters


def sum_gradients(parameters: dict[str, nn.Parameter], losses: Iterable[Tensor]) -> dict[str, Gradient]:
    """The gradients of each batch's loss, summed over the batches. `.grad` of the parameters is left
    alone."""
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
    """Name -> H g of the loss summed over the batches: the gradient of (g as a constant) . g, where g is 0
    for what `masks` has pruned: these weights are no part of the network."""
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
    """Name -> dR/d|w|, R the sum of the outputs for an input of ones when all weights are |weights|, in
    float64. Batch norm shifts nothing and scales by |its weight| / sqrt(running variance).

    Args:
        losses: runs the module, which shows the shape of its input; the images do not matter.
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


# Each criterion looks at one or two of these.
def score_weights(
    module: nn.Module,
    criterion: str,
    losses: Callable[[], Iterable[Tensor]],
    initial: dict[str, Tensor] | None,
    key: tuple,
    accumulated: dict[str, Tensor] | None = None,
    masks: Masks | None = None,
) -> dict[str, Tensor]:
    """The score of every prunable weight by a criterion; the lowest are pruned.

    Args:
        losses: gives the loss of some batches, one after the other, the same ones at every call; called where
            the criterion looks at gradients.
        initial: name -> initial weights, where the criterion looks at them; accumulated: name ->
            sums of |g_t| and of g_t.
        key: what random criteria depend on.
        masks: of what is pruned already, None: of nothing.
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
    """Masks that prune the round(sparsity * n) smallest of all scores together.

    Args:
        scores: name -> score of every weight, any shapes; n is their total number.
    Returns:
        name -> float mask of the score's shape, 1 kept and 0 pruned. Exactly the asked number is 0: among
        equal scores the earlier (by the order of the tensors, then by position) is pruned first.
    """
    flat = torch.cat([score.flatten() for score in scores.values()])
    kept = torch.ones(flat.shape, device=flat.device)
    # Not by `kept[...] = 0`, which copies the number to the device.
    kept.index_fill_(0, flat.sort(stable=True).indices[: round(sparsity * flat.numel())], 0)
    parts = kept.split([score.numel() for score in scores.values()])
    return {name: part.reshape(score.shape) for (name, score), part in zip(scores.items(), parts)}


def layer_masks(scores: dict[str, Tensor], sparsity: float) -> Masks:
    """Masks that prune the round(sparsity * size) smallest scores of each tensor; ties as in
    `global_masks`."""
    return {name: global_masks({name: score}, sparsity)[name] for name, score in scores.items()}


def erk_masks(scores: dict[str, Tensor], sparsity: float) -> Masks:
    """Masks of exactly that sparsity in all; the layers' densities are those of Erdős-Rényi-kernel (Evci et
    al. 2020), min(1, e sum(shape) / size) with one e for all, the lowest scores of each tensor pruned.

    The r-th highest score of a tensor gets sum(shape) / (r - 1/2), and the lowest of these are pruned from
    the whole network: so about sum(shape) / threshold are kept of each, and none comes back at a higher
    sparsity.
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
    """Masks that prune the round(sparsity * filters) lowest filters of each convolution whole; linear layers
    are kept whole.

    Args:
        scores: name -> score of every weight; that of a filter (the first dimension) is its weights' highest.
    """
    masks = {name: torch.ones(score.shape, device=score.device) for name, score in scores.items()}
    for name, score in scores.items():
        if score.ndim == 4:
            order = score.flatten(1).amax(1).sort(stable=True).indices
            masks[name].index_fill_(0, order[: round(sparsity * len(score))], 0)
    return masks


def next_masks(scores: dict[str, Tensor], sparsity: float, scope: str, criterion: str, masks: Masks) -> Masks:
    """Masks of that sparsity by scope; what `masks` has pruned already stays pruned, whatever its score."""
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
    """The masks of that sparsity by criterion and scope; what `masks` has pruned already stays pruned.

    As published, `synflow` prunes in SYNFLOW_ROUNDS rounds, the density falling by the same factor in each,
    and scores what the round before has left: these weights of the module are set to zero on the way.

    Args:
        score: gives the scores of the module's weights as they are.
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
    """When and by what a network is pruned while it trains. Steps count from 1."""

    sparsity: float
    begin_step: int
    end_step: int
    frequency: int
    criterion: str = "magnitude"
    scope: str = "layer"

    def sparsities(self) -> dict[int, float]:
        """step -> sparsity from that step on: at begin, begin + frequency, ... up to end, and at end where
        that is off the grid.

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
    """A function to be called before the forward pass of every step, which prunes where the schedule fires,
    `masks` in place.

    Args:
        module: whose prunable parameters are pruned; their initial weights are those at this call.
        losses: step -> losses of some batches, for criteria that look at gradients.
        key: what random criteria depend on.
        accumulated: name -> sums of |g_t| and g_t, for criteria that look at them; 0 again after every
            pruning.
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
    """Sets pruned weights to zero, in place. To be called after every optimizer step."""
    if masks:
        parameters = dict(module.named_parameters())
        torch._foreach_mul_([parameters[name] for name in masks], list(masks.values()))


@torch.no_grad()
def mask_gradients(module: nn.Module, masks: Masks) -> None:
    """Sets the gradients of pruned weights to zero, for optimizers that look at more than one weight at a
    time (LARS)."""
    if masks:
        parameters = dict(module.named_parameters())
        torch._foreach_mul_([parameters[name].grad for name in masks], list(masks.values()))


def masks_of(module: nn.Module) -> Masks:
    """The masks of a pruned network: its prunable weights that are not zero are kept."""
    return {name: (weight.detach() != 0).float() for name, weight in prunable_parameters(module).items()}


def weight_movement(before: dict[str, Tensor], after: dict[str, Tensor], masks: Masks) -> dict[str, float]:
    """How far the kept weights of each tensor moved: root mean square of their change over that of their
    values before.

    Args:
        before, after: name -> weights; masks: what is kept after.
    Returns:
        name -> ratio; tensors of which nothing is kept, or that were all zero, are left out.
    """
    kept = {name: mask.bool() for name, mask in masks.items()}
    norms = {
        name: (float((after[name].detach() - before[name])[mask].norm()), float(before[name][mask].norm()))
        for name, mask in kept.items()
    }
    return {name: change / size for name, (change, size) in norms.items() if size > 0}


def measure_sparsity(model: nn.Module) -> dict:
    """The share of zeros among the prunable parameters, recounted.

    Returns:
        total: zeros / n over weights and linear biases; weights_only: the same without the biases (what the
        published scripts print); zeros and counted: the two numbers behind `total`; per_tensor: name ->
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
