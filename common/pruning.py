"""What is pruned, by which criterion and scope, and masks that keep pruned weights at zero.

Counted and pruned are the weights of convolutions and linear layers and the biases of linear layers (n in the reference);
batch norm is left alone.
"""

import torch
from torch import Tensor, nn

Masks = dict[str, Tensor]


def prunable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Convolution weights, linear weights and linear biases by name, in the order of the model."""
    return {f"{prefix}.{name}" if prefix else name: parameter
            for prefix, module in model.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))
            for name, parameter in module.named_parameters(recurse=False)}


def magnitude(weight: Tensor) -> Tensor:
    """The score of a weight: its absolute value. The smallest scores are pruned."""
    return weight.detach().abs()


def global_masks(scores: dict[str, Tensor], sparsity: float) -> Masks:
    """Masks that prune the round(sparsity * n) smallest of all scores together.

    Args:
        scores: name -> score of every weight, any shapes; n is their total number.
    Returns:
        name -> float mask of the score's shape, 1 kept and 0 pruned. Exactly the asked number is 0: among equal scores
        the earlier (by the order of the tensors, then by position) is pruned first.
    """
    flat = torch.cat([score.flatten() for score in scores.values()])
    kept = torch.ones_like(flat)
    kept[flat.sort(stable=True).indices[:round(sparsity * flat.numel())]] = 0
    parts = kept.split([score.numel() for score in scores.values()])
    return {name: part.reshape(score.shape) for (name, score), part in zip(scores.items(), parts)}


def layer_masks(scores: dict[str, Tensor], sparsity: float) -> Masks:
    """Masks that prune the round(sparsity * size) smallest scores of each tensor; ties as in `global_masks`."""
    return {name: global_masks({name: score}, sparsity)[name] for name, score in scores.items()}


@torch.no_grad()
def apply_masks(model: nn.Module, masks: Masks) -> None:
    """Sets pruned weights to zero, in place. To be called after every optimizer step."""
    if masks:
        parameters = dict(model.named_parameters())
        torch._foreach_mul_([parameters[name] for name in masks], list(masks.values()))


def measure_sparsity(model: nn.Module) -> dict:
    """The share of zeros among the prunable parameters, recounted.

    Returns:
        total: zeros / n over weights and linear biases; weights_only: the same without the biases (what the published
        scripts print); zeros and counted: the two numbers behind `total`; per_tensor: name -> share.
    """
    tensors = prunable_parameters(model)
    zeros = {name: int((tensor == 0).sum()) for name, tensor in tensors.items()}
    weights = [name for name in tensors if name.endswith("weight")]
    counted = sum(tensor.numel() for tensor in tensors.values())
    return {
        "total": sum(zeros.values()) / counted,
        "weights_only": sum(zeros[name] for name in weights) / sum(tensors[name].numel() for name in weights),
        "zeros": sum(zeros.values()), "counted": counted,
        "per_tensor": {name: zeros[name] / tensor.numel() for name, tensor in tensors.items()},
    }
