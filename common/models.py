"""Pre-activation WideResNets (Zagoruyko & Komodakis 2016) with the parameter names of the published
checkpoints, and ResNet-18 (He et al. 2016) with the names of torchvision.

To add a backbone, add a class, an entry in `BACKBONES` and its name in `settings.Architecture`.

Supervised and contrastive classifiers share an interface, so later stages treat them alike: `latent` (images
-> (B, D)), `classify` (latent -> logits) and `representations` (images -> the layers that probes read).
"""

import functools
from typing import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from common.settings import Architecture

STEM_WIDTH = 16
PROJECTION_SIZE = 128


class BasicBlock(nn.Module):
    """BN, ReLU, 3x3 convolution, BN, ReLU, dropout, 3x3 convolution, plus the shortcut (a 1x1 convolution if
    the width changes)."""

    def __init__(self, in_width: int, out_width: int, stride: int, dropout: float):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_width)
        self.conv1 = nn.Conv2d(in_width, out_width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_width)
        self.conv2 = nn.Conv2d(out_width, out_width, 3, padding=1, bias=False)
        self.dropout = dropout
        self.equal_widths = in_width == out_width
        if not self.equal_widths:
            self.convShortcut = nn.Conv2d(in_width, out_width, 1, stride, bias=False)

    def forward(self, x: Tensor, probed: list[Tensor] | None = None) -> Tensor:
        activated = F.relu(self.bn1(x))
        shortcut = x if self.equal_widths else self.convShortcut(activated)
        hidden = F.relu(self.bn2(self.conv1(activated)))
        residual = self.conv2(F.dropout(hidden, self.dropout, self.training) if self.dropout else hidden)
        out = shortcut + residual
        if probed is not None:
            probed += [hidden, residual] + ([out] if self.equal_widths else [])
        return out


class BlockGroup(nn.Module):
    """Blocks of one width; the first may halve the image."""

    def __init__(self, blocks: int, in_width: int, out_width: int, stride: int, dropout: float):
        super().__init__()
        self.layer = nn.Sequential(
            *(
                BasicBlock(in_width if i == 0 else out_width, out_width, stride if i == 0 else 1, dropout)
                for i in range(blocks)
            )
        )


class WideResNet(nn.Module):
    """Images (B, 3, H, W), H and W at least 8 -> latent (B, 64 * widen_factor); narrower with
    `match_sparsity`, see `channels`.

    With `num_classes` it also holds the linear classifier `fc`, which `forward` does not use.
    """

    def __init__(
        self,
        depth: int = 16,
        widen_factor: int = 2,
        dropout: float = 0.0,
        num_classes: int | None = None,
        match_sparsity: float = 0.0,
    ):
        super().__init__()
        if depth < 10 or depth % 6 != 4:
            raise ValueError(f"depth must be 6 n + 4 and at least 10, not {depth}")
        blocks = (depth - 4) // 6
        widths = channels(depth, widen_factor, match_sparsity)
        self.latent_size = widths[3]
        self.probe_layers = probe_layers(depth, widths)
        self.conv1 = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.block1 = BlockGroup(blocks, widths[0], widths[1], 1, dropout)
        self.block2 = BlockGroup(blocks, widths[1], widths[2], 2, dropout)
        self.block3 = BlockGroup(blocks, widths[2], widths[3], 2, dropout)
        self.bn1 = nn.BatchNorm2d(widths[3])
        initialise(self, num_classes)

    def forward(self, images: Tensor, probed: list[Tensor] | None = None) -> Tensor:
        x = self.conv1(images)
        if probed is not None:
            probed.append(x)
        for group in (self.block1, self.block2, self.block3):
            for block in group.layer:
                x = block(x, probed)
        return F.relu(self.bn1(x)).mean((2, 3))


def convolution_weights(depth: int, widths: tuple[int, ...]) -> int:
    """Returns the number of weights of all convolutions (3x3, and 1x1 in shortcuts) of a WideResNet with
    these `channels`."""
    blocks = (depth - 4) // 6
    return 27 * widths[0] + sum(
        9 * (a * b + (2 * blocks - 1) * b * b) + (a != b) * a * b for a, b in zip(widths, widths[1:])
    )


@functools.cache
def channels(depth: int, widen_factor: int, match_sparsity: float = 0.0) -> tuple[int, ...]:
    """Returns the channels of the first convolution and of the three groups: 16, and 16, 32, 64 times
    `widen_factor`.

    With `match_sparsity` s all of them shrink by one factor, a multiple of 1/1000, which brings the number of
    convolution weights closest to the share 1 - s.
    """
    widths = (STEM_WIDTH, *(STEM_WIDTH * widen_factor * 2**group for group in range(3)))
    if not match_sparsity:
        return widths
    wanted = (1 - match_sparsity) * convolution_weights(depth, widths)
    narrower = (tuple(max(1, round(factor * width / 1000)) for width in widths) for factor in range(1, 1000))
    return min(narrower, key=lambda widths: abs(convolution_weights(depth, widths) - wanted))


def probe_layers(depth: int, widths: tuple[int, ...]) -> list[str]:
    """Returns the names of the layers that probes read, in forward order, for a network with these
    `channels`.

    These are the output of the first convolution and, in every block, the outputs of the second ReLU and of
    the second convolution; in blocks of equal input and output width also the residual sum.
    """
    layers, in_width = ["conv1"], widths[0]
    for group, out_width in enumerate(widths[1:], 1):
        for index in range((depth - 4) // 6):
            block = f"block{group}.{index}"
            layers += [f"{block}.relu2", f"{block}.conv2"]
            if in_width == out_width:
                layers.append(f"{block}.sum")
            in_width = out_width
    return layers


class PostActivationBlock(nn.Module):
    """3x3 convolution, BN, ReLU, 3x3 convolution, BN, plus the shortcut (1x1 convolution and BN if the width
    changes), ReLU."""

    def __init__(self, in_width: int, out_width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_width, out_width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_width)
        self.conv2 = nn.Conv2d(out_width, out_width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_width)
        self.downsample = nn.Identity()
        if in_width != out_width:
            shortcut = nn.Conv2d(in_width, out_width, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(out_width))

    def forward(self, x: Tensor, probed: list[Tensor] | None = None) -> Tensor:
        hidden = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(hidden)) + self.downsample(x))
        if probed is not None:
            probed += [hidden, out]
        return out


class ResNet18(nn.Module):
    """ResNet-18 for CIFAR, with a 3x3 stem and without max pooling: images (B, 3, H, W) -> latent (B, 512).

    Probes read the output of the stem and, in every block, the outputs of the first ReLU and of the block.
    """

    latent_size = 512

    def __init__(self, num_classes: int | None = None):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.probe_layers, in_width = ["relu"], 64
        for group, width in enumerate((64, 128, 256, 512), 1):
            stride = 1 if group == 1 else 2
            blocks = PostActivationBlock(in_width, width, stride), PostActivationBlock(width, width, 1)
            self.add_module(f"layer{group}", nn.Sequential(*blocks))
            for block in range(2):
                self.probe_layers += [f"layer{group}.{block}.relu1", f"layer{group}.{block}.sum"]
            in_width = width
        initialise(self, num_classes)

    def forward(self, images: Tensor, probed: list[Tensor] | None = None) -> Tensor:
        x = F.relu(self.bn1(self.conv1(images)))
        if probed is not None:
            probed.append(x)
        for group in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in group:
                x = block(x, probed)
        return x.mean((2, 3))


def initialise(backbone: nn.Module, num_classes: int | None) -> None:
    """Adds the linear classifier `fc` (None: no classifier) and draws the weights of all convolutions; batch
    norm starts with weight 1 and bias 0."""
    if num_classes is not None:
        backbone.fc = nn.Linear(backbone.latent_size, num_classes)
        nn.init.zeros_(backbone.fc.bias)
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def spatial_means(backbone: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Returns the representations (B, width) of images at each of the `probe_layers` by name, averaged over
    space."""
    probed: list[Tensor] = []
    backbone(images, probed)
    return {name: layer.mean((2, 3)) for name, layer in zip(backbone.probe_layers, probed, strict=True)}


# --architecture -> function that makes the backbone, given the architecture, the number of classes (None: no
# classifier) and the sparsity to match. A backbone has `latent_size` and `probe_layers` and calls
# `initialise` last, which adds `fc`. Its forward(images, probed=None) returns the latent (B, latent_size) and
# appends the output (B, C, H, W) of each probe layer, in order, to `probed`. Digits in its name are the depth
# in file names.
BACKBONES: dict[str, Callable[[Architecture, int | None, float], nn.Module]] = {
    "WideResNet": lambda architecture, num_classes, match_sparsity: WideResNet(
        architecture.model_depth, architecture.widen_factor, architecture.dropout, num_classes, match_sparsity
    ),
    "resnet18": lambda architecture, num_classes, match_sparsity: ResNet18(num_classes),
}


def make_backbone(
    architecture: Architecture, num_classes: int | None = None, match_sparsity: float = 0.0
) -> nn.Module:
    """Makes the backbone of an architecture: images -> latent (B, latent_size)."""
    return BACKBONES[architecture.architecture](architecture, num_classes, match_sparsity)


class SupervisedNetwork(nn.Module):
    """A backbone with its linear classifier: images -> logits."""

    def __init__(self, architecture: Architecture, num_classes: int, match_sparsity: float = 0.0):
        super().__init__()
        self.base = make_backbone(architecture, num_classes, match_sparsity)

    def latent(self, images: Tensor) -> Tensor:
        return self.base(images)

    def classify(self, latent: Tensor) -> Tensor:
        return self.base.fc(latent)

    def representations(self, images: Tensor) -> dict[str, Tensor]:
        return spatial_means(self.base, images)

    def forward(self, images: Tensor) -> Tensor:
        return self.classify(self.latent(images))


class ContrastiveEncoder(nn.Module):
    """A backbone with its projection head: images -> projections (B, 128), used only by the loss."""

    def __init__(self, architecture: Architecture, match_sparsity: float = 0.0):
        super().__init__()
        self.encoder = make_backbone(architecture, match_sparsity=match_sparsity)
        size = self.encoder.latent_size
        if architecture.projection_head == "linear":
            self.head = nn.Linear(size, PROJECTION_SIZE)
        else:
            self.head = nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, PROJECTION_SIZE))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.encoder(images))


class ClassificationHead(nn.Module):
    """The linear classifier on the latent of a contrastive encoder."""

    def __init__(self, latent_size: int, num_classes: int):
        super().__init__()
        self.fc = nn.Linear(latent_size, num_classes)

    def forward(self, latent: Tensor) -> Tensor:
        return self.fc(latent)


class ContrastiveClassifier(nn.Module):
    """A contrastive encoder without its projection head, with a linear classifier: images -> logits."""

    def __init__(self, encoder: nn.Module, classification_head: ClassificationHead):
        super().__init__()
        self.encoder = encoder
        self.classification_head = classification_head

    def latent(self, images: Tensor) -> Tensor:
        return self.encoder(images)

    def classify(self, latent: Tensor) -> Tensor:
        return self.classification_head(latent)

    def representations(self, images: Tensor) -> dict[str, Tensor]:
        return spatial_means(self.encoder, images)

    def forward(self, images: Tensor) -> Tensor:
        return self.classify(self.latent(images))


Classifier = SupervisedNetwork | ContrastiveClassifier
