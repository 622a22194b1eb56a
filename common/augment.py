"""Random views of images: parameters are drawn on the CPU, pixels are computed per image on the device.

Therefore the same (seed, stage, epoch) gives the same views on every device. The first dimension of parameter
tensors is the view; images are (B, 3, H, W).
"""

import hashlib
import math

import torch
from torch import Tensor

CROP_SCALE = (0.2, 1.0)
CROP_RATIO = (3 / 4, 4 / 3)
CROP_TRIES = 10
JITTER_PROBABILITY = 0.8
JITTER = (0.4, 0.4, 0.4)  # brightness, contrast, saturation: factors from 1 - x to 1 + x
HUE = 0.1  # largest shift in turns of the colour circle; `shift_hue_` allows up to 1/3
GREYSCALE_PROBABILITY = 0.2
PADDING_SHARE = 4 / 32  # published: padding of 4 for images of 32 pixels
CHUNK_PIXELS = 256 * 32 * 32  # pixels of views per chunk on a CPU, to fit its cache; results are the same
BRIGHTNESS, CONTRAST, SATURATION = range(3)  # kinds of blends
GREY_WEIGHTS = (0.2989, 0.587, 0.114)  # ITU-R 601 luma, as in torchvision


def stream_seed(*key) -> int:
    """Returns a seed for a key such as (seed, stage, epoch), the same in every process.

    It has 32 bits, as many as torch's CPU generator uses. Different keys may collide by chance: among the
    roughly 200,000 epochs of a whole study, expect a few pairs of epochs to share a stream.
    """
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:4], "big")


def stream(*key) -> torch.Generator:
    """Returns a CPU generator that depends only on `key`."""
    return torch.Generator().manual_seed(stream_seed(*key))


def _uniform(generator: torch.Generator, shape: tuple[int, ...], low: float, high: float) -> Tensor:
    return torch.rand(shape, generator=generator) * (high - low) + low


def _integers_below(generator: torch.Generator, bound: Tensor) -> Tensor:
    """Draws one whole number per entry, uniform over 0 ... bound - 1."""
    return (
        (torch.rand(bound.shape, generator=generator, dtype=torch.float64) * bound)
        .long()
        .clamp_max(bound - 1)
    )


def crop_boxes(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Draws boxes of random resized crops by torchvision's rule: up to 10 tries, then a central box.

    Returns:
        (count, 4) int64: top, left, height, width.
    """
    area = height * width * _uniform(generator, (count, CROP_TRIES), *CROP_SCALE).double()
    ratio = (
        _uniform(generator, (count, CROP_TRIES), *(math.log(bound) for bound in CROP_RATIO)).double().exp()
    )
    widths = (area * ratio).sqrt().round().long()
    heights = (area / ratio).sqrt().round().long()
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = fits.int().argmax(1, keepdim=True)
    found = fits.any(1)
    box_width = torch.where(found, widths.gather(1, first)[:, 0], _fallback_size(height, width)[1])
    box_height = torch.where(found, heights.gather(1, first)[:, 0], _fallback_size(height, width)[0])
    top = _integers_below(generator, height - box_height + 1)
    left = _integers_below(generator, width - box_width + 1)
    top = torch.where(found, top, (height - box_height) // 2)
    left = torch.where(found, left, (width - box_width) // 2)
    return torch.stack([top, left, box_height, box_width], 1)


def _fallback_size(height: int, width: int) -> tuple[int, int]:
    """Returns the height and width of the largest box whose width / height is within the bounds."""
    if width / height < CROP_RATIO[0]:
        return round(width / CROP_RATIO[0]), width
    if width / height > CROP_RATIO[1]:
        return height, round(height * CROP_RATIO[1])
    return height, width


def draw_contrastive(
    count: int, height: int, width: int, horizontal_flip: bool, generator: torch.Generator
) -> dict[str, Tensor]:
    """Draws parameters of `count` contrastive views: crop, flip, colour jitter in random order, greyscale.

    Returns:
        box (count, 4); flip (count,) bool; kind (count, 6) and factor (count, 6): the blends in slots before
        (0 to 2) and after (3 to 5) the hue shift, kind BRIGHTNESS, CONTRAST or SATURATION, factor 1 in unused
        slots; hue (count,) in turns; grey (count,) bool.
    """
    box = crop_boxes(count, height, width, generator)
    flip = torch.rand(count, generator=generator) < (0.5 if horizontal_flip else 0.0)
    jittered = torch.rand(count, generator=generator) < JITTER_PROBABILITY
    strength = torch.tensor(JITTER)
    factor = 1 + (torch.rand(count, 3, generator=generator) * 2 - 1) * strength
    hue = _uniform(generator, (count,), -HUE, HUE)
    # Ordering four operations at random means ordering the three blends and inserting the hue shift.
    kind = torch.rand(count, 3, generator=generator).argsort(1)
    hue_place = torch.randint(0, 4, (count, 1), generator=generator)
    factor = torch.where(jittered[:, None], factor.gather(1, kind), 1.0)
    before = torch.arange(3) < hue_place
    return {
        "box": box,
        "flip": flip,
        "kind": kind.repeat(1, 2),
        "factor": torch.cat([torch.where(before, factor, 1.0), torch.where(before, 1.0, factor)], 1),
        "hue": torch.where(jittered, hue, 0.0),
        "grey": torch.rand(count, generator=generator) < GREYSCALE_PROBABILITY,
    }


def draw_supervised(
    count: int,
    height: int,
    width: int,
    horizontal_flip: bool,
    vertical_flip: bool,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Draws parameters of `count` views for cross-entropy, head and finetuning: padded crop, vertical and
    horizontal flip.

    Returns:
        offset (count, 2) int64: row and column of the crop in the padded image; vertical, horizontal (count,)
        bool.
    """
    rows, columns = (2 * padding(side) + 1 for side in (height, width))
    return {
        "offset": torch.stack(
            [
                torch.randint(0, rows, (count,), generator=generator),
                torch.randint(0, columns, (count,), generator=generator),
            ],
            1,
        ),
        "vertical": torch.rand(count, generator=generator) < (0.5 if vertical_flip else 0.0),
        "horizontal": torch.rand(count, generator=generator) < (0.5 if horizontal_flip else 0.0),
    }


def padding(side: int) -> int:
    """Returns the zero padding on either side of an image: 4 for 32 pixels, otherwise in proportion."""
    return round(side * PADDING_SHARE)


def contrastive_views(images: Tensor, parameters: dict[str, Tensor], mean: tuple, std: tuple) -> Tensor:
    """uint8 (B, 3, H, W) and the parameters of B views -> normalised float32 views (B, 3, H, W), channels
    last in memory."""
    chunk = max(1, CHUNK_PIXELS // images[0, 0].numel())
    if images.device.type != "cpu" or torch.compiler.is_compiling():
        chunk = len(images)
    views = torch.empty_like(images, dtype=torch.float32, memory_format=torch.channels_last)
    for start in range(0, len(images), chunk):
        rows = slice(start, start + chunk)
        part = _jittered_crops(images[rows], {name: values[rows] for name, values in parameters.items()})
        views[rows] = normalise_(part, mean, std)
    return views


def _jittered_crops(images: Tensor, parameters: dict[str, Tensor]) -> Tensor:
    kind, factor = parameters["kind"].unbind(1), parameters["factor"].unbind(1)
    views = resized_crop(images.float().div_(255), parameters["box"], parameters["flip"])
    for slot in range(3):
        views = blend_(views, kind[slot], factor[slot])
    views = shift_hue_(views, parameters["hue"])
    for slot in range(3, 6):
        views = blend_(views, kind[slot], factor[slot])
    # Greyscale is saturation with factor 0.
    return blend_(views, torch.full_like(kind[0], SATURATION), 1 - parameters["grey"].float())


def supervised_views(images: Tensor, parameters: dict[str, Tensor], mean: tuple, std: tuple) -> Tensor:
    """uint8 (B, 3, H, W) and the parameters of B views -> normalised float32 views (B, 3, H, W), channels
    last in memory."""
    (count, channels, height, width), device = images.shape, images.device
    pad_rows, pad_columns = padding(height), padding(width)
    padded = torch.nn.functional.pad(images, (pad_columns, pad_columns, pad_rows, pad_rows))
    # Every row of a view is a run of W bytes of the padded image or its mirror image, so whole runs are
    # copied, not pixels.
    source = torch.stack([padded, padded.flip(-1)])
    runs = source.flatten().unfold(0, width, 1)
    mirrored, (top, left) = parameters["horizontal"].long(), parameters["offset"].unbind(1)
    steps = torch.arange(height, device=device)
    row = top[:, None] + torch.where(parameters["vertical"][:, None], height - 1 - steps, steps)  # (B, H)
    column = torch.where(parameters["horizontal"], 2 * pad_columns - left, left)
    plane = (mirrored * count + torch.arange(count, device=device))[:, None] * channels + torch.arange(
        channels, device=device
    )  # (B, 3)
    start = (plane[:, :, None] * padded.shape[2] + row[:, None]) * padded.shape[3] + column[
        :, None, None
    ]  # (B, 3, H)
    return evaluation_images(runs.index_select(0, start.flatten()).view_as(images), mean, std)


def evaluation_images(images: Tensor, mean: tuple, std: tuple) -> Tensor:
    """uint8 (B, 3, H, W) -> normalised float32, channels last in memory, without any augmentation."""
    return normalise_(images.float().div_(255), mean, std).contiguous(memory_format=torch.channels_last)


def resized_crop(images: Tensor, box: Tensor, flip: Tensor) -> Tensor:
    """Crops each image to its box, resizes it bilinearly to the size of the image, and mirrors it if `flip`.

    Bilinear sampling is separable: out = R image C^T with a row of tent weights per output pixel, so two
    matrix products handle the whole batch. A crop is never larger than the image, so antialiasing would
    change nothing.

    Args:
        images: float (B, 3, H, W); box: (B, 4) top, left, height, width; flip: (B,) bool, horizontal.
    """
    height, width = images.shape[-2:]
    rows = _tent_weights(height, box[:, 0], box[:, 2], torch.zeros_like(flip))
    columns = _tent_weights(width, box[:, 1], box[:, 3], flip)
    return ((rows[:, None] @ images).flatten(1, 2) @ columns.transpose(-1, -2)).view_as(images)


def _tent_weights(size: int, start: Tensor, length: Tensor, flip: Tensor) -> Tensor:
    """Returns (B, size, size): row y holds the weights of source pixels for output pixel y."""
    pixels = torch.arange(size, device=start.device, dtype=torch.float32)
    centres = torch.where(flip[:, None], size - 1 - pixels, pixels) + 0.5
    source = centres * (length[:, None] / size) - 0.5
    source = start[:, None] + torch.minimum(source.clamp_min(0), length[:, None] - 1)
    return (1 - (source[:, :, None] - pixels).abs()).clamp_min(0)


def greyscale(images: Tensor) -> Tensor:
    """(B, 3, H, W) -> luma (B, 1, H, W)."""
    red, green, blue = images.split(1, 1)
    return (GREY_WEIGHTS[0] * red).add_(GREY_WEIGHTS[1] * green).add_(GREY_WEIGHTS[2] * blue)


def blend_(images: Tensor, kind: Tensor, factor: Tensor) -> Tensor:
    """Changes brightness, contrast or saturation (`kind`, (B,)) of each image by `factor` (B,), clamped to
    [0, 1], in place.

    Each mixes the image, with weight f, and another one, with weight 1 - f: black for brightness, the mean of
    the greyscale image for contrast, the greyscale image for saturation.
    """
    kind, factor = (values[:, None, None, None] for values in (kind, factor))
    grey = greyscale(images)
    of_mean, of_grey = (torch.where(kind == which, 1 - factor, 0.0) for which in (CONTRAST, SATURATION))
    other = of_mean * grey.mean((2, 3), keepdim=True) + of_grey * grey
    return images.mul_(factor).add_(other).clamp_(0, 1)


def shift_hue_(images: Tensor, turns: Tensor) -> Tensor:
    """Shifts the hue of each image (B, 3, H, W) in HSV by `turns` (B,) of the colour circle, -1/3 to 1/3, in
    place."""
    red, green, blue = images.unbind(1)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    divisor = chroma.clamp_min(1e-30)  # greys get hue 0
    hue = torch.where(
        value == red,
        (green - blue).div_(divisor),
        torch.where(value == green, (blue - red).div_(divisor).add_(2), (red - green).div_(divisor).add_(4)),
    )
    hue.add_(6 * turns[:, None, None])  # in sectors, from -3 to 7
    # Channel c is v - chroma * clamp(min(k, 4 - k), 0, 1) with k = (n_c + h) mod 6, hue h in sectors, and n =
    # 5, 3, 1. Here k is n_c + h, from -2 to 12; a second trapezoid, shifted by 6, replaces the remainder.
    for channel, first in zip((red, green, blue), (5, 3, 1)):
        k = hue + first
        share = torch.maximum(torch.minimum(k, 4 - k), torch.minimum(k - 6, 10 - k)).clamp_(0, 1)
        channel.copy_(value - share.mul_(chroma))
    return images


def normalise_(images: Tensor, mean: tuple, std: tuple) -> Tensor:
    """(images - mean) / std per channel, in place."""
    # Plain numbers: tensors created here would be copied to the GPU in every step.
    for channel, channel_mean, channel_std in zip(images.unbind(1), mean, std):
        channel.sub_(channel_mean).div_(channel_std)
    return images
