"""Random views of images: parameters drawn on the CPU, pixels computed per image on the device.

Drawing and computing are apart, so that the same (seed, stage, epoch) gives the same views on every device.
Parameters are tensors whose first dimension is the view; images are (B, 3, H, W).
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
HUE = 0.1  # turns of the colour circle, either way
GREYSCALE_PROBABILITY = 0.2
PADDING_SHARE = 4 / 32  # the published padding of 4 belongs to images of 32 pixels
CHUNK_PIXELS = 256 * 32 * 32  # views of so many pixels are computed at once on a CPU: they stay in its cache, the numbers are the same
GREY_WEIGHTS = (0.2989, 0.587, 0.114)  # ITU-R 601 luma, as torchvision has it


def stream_seed(*key) -> int:
    """A seed from a key such as (seed, stage, epoch), the same in every process.

    It has the 32 bits that torch's CPU generator looks at. Streams of different keys are unrelated but for chance: among the some
    200,000 epochs of a whole study a few pairs, of different networks, can be expected to share a stream.
    """
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:4], "big")


def stream(*key) -> torch.Generator:
    """A CPU generator that depends on `key` alone."""
    return torch.Generator().manual_seed(stream_seed(*key))


def _uniform(generator: torch.Generator, shape: tuple[int, ...], low: float, high: float) -> Tensor:
    return torch.rand(shape, generator=generator) * (high - low) + low


def _integers_below(generator: torch.Generator, bound: Tensor) -> Tensor:
    """One whole number per entry, uniform over 0 ... bound - 1."""
    return (torch.rand(bound.shape, generator=generator, dtype=torch.float64) * bound).long().clamp_max(bound - 1)


def crop_boxes(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Boxes of random resized crops by torchvision's rule: up to 10 tries, then the central fallback.

    Returns:
        (count, 4) int64: top, left, height, width.
    """
    area = height * width * _uniform(generator, (count, CROP_TRIES), *CROP_SCALE).double()
    ratio = _uniform(generator, (count, CROP_TRIES), *(math.log(bound) for bound in CROP_RATIO)).double().exp()
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
    """The largest central box whose width / height lies within the ratio's bounds."""
    if width / height < CROP_RATIO[0]:
        return round(width / CROP_RATIO[0]), width
    if width / height > CROP_RATIO[1]:
        return height, round(height * CROP_RATIO[1])
    return height, width


def draw_contrastive(count: int, height: int, width: int, horizontal_flip: bool, generator: torch.Generator) -> dict[str, Tensor]:
    """Parameters of `count` contrastive views: crop, flip, colour jitter in random order, greyscale.

    Returns:
        box (count, 4); flip (count,) bool; kind (count, 6) and factor (count, 6): the blends of the slots before
        (0 to 2) and after (3 to 5) the hue shift, kind 0 brightness, 1 contrast, 2 saturation, factor 1 where the slot
        does nothing; hue (count,) in turns; grey (count,) bool.
    """
    box = crop_boxes(count, height, width, generator)
    flip = torch.rand(count, generator=generator) < (0.5 if horizontal_flip else 0.0)
    jittered = torch.rand(count, generator=generator) < JITTER_PROBABILITY
    strength = torch.tensor(JITTER)
    factor = 1 + (torch.rand(count, 3, generator=generator) * 2 - 1) * strength
    hue = _uniform(generator, (count,), -HUE, HUE)
    # A random order of four operations is a random order of the three blends and a place for the hue shift.
    kind = torch.rand(count, 3, generator=generator).argsort(1)
    hue_place = torch.randint(0, 4, (count, 1), generator=generator)
    factor = torch.where(jittered[:, None], factor.gather(1, kind), 1.0)
    before = torch.arange(3) < hue_place
    return {
        "box": box, "flip": flip, "kind": kind.repeat(1, 2),
        "factor": torch.cat([torch.where(before, factor, 1.0), torch.where(before, 1.0, factor)], 1),
        "hue": torch.where(jittered, hue, 0.0),
        "grey": torch.rand(count, generator=generator) < GREYSCALE_PROBABILITY,
    }


def draw_supervised(count: int, height: int, width: int, horizontal_flip: bool, vertical_flip: bool,
                    generator: torch.Generator) -> dict[str, Tensor]:
    """Parameters of `count` views for cross-entropy, head and finetuning: padded crop, vertical and horizontal flip.

    Returns:
        offset (count, 2) int64: row and column of the crop in the padded image; vertical, horizontal (count,) bool.
    """
    rows, columns = (2 * padding(side) + 1 for side in (height, width))
    return {
        "offset": torch.stack([torch.randint(0, rows, (count,), generator=generator),
                               torch.randint(0, columns, (count,), generator=generator)], 1),
        "vertical": torch.rand(count, generator=generator) < (0.5 if vertical_flip else 0.0),
        "horizontal": torch.rand(count, generator=generator) < (0.5 if horizontal_flip else 0.0),
    }


def padding(side: int) -> int:
    """Pixels of zero padding on either side of an image: 4 at 32, in proportion elsewhere."""
    return round(side * PADDING_SHARE)


def contrastive_views(images: Tensor, parameters: dict[str, Tensor], mean: tuple, std: tuple) -> Tensor:
    """uint8 (B, 3, H, W) and the parameters of B views -> normalised float32 views (B, 3, H, W)."""
    chunk = len(images) if images.device.type != "cpu" else max(1, CHUNK_PIXELS // images[0, 0].numel())
    return torch.cat([_contrastive_views(part, {name: values[start:start + chunk] for name, values in parameters.items()}, mean, std)
                      for start, part in zip(range(0, len(images), chunk), images.split(chunk))])


def _contrastive_views(images: Tensor, parameters: dict[str, Tensor], mean: tuple, std: tuple) -> Tensor:
    views = resized_crop(images.float() / 255, parameters["box"], parameters["flip"])
    for slot in range(3):
        views = blend(views, parameters["kind"][:, slot], parameters["factor"][:, slot])
    views = shift_hue(views, parameters["hue"])
    for slot in range(3, 6):
        views = blend(views, parameters["kind"][:, slot], parameters["factor"][:, slot])
    views = torch.where(parameters["grey"][:, None, None, None], greyscale(views).expand_as(views), views)
    return normalise(views, mean, std)


def supervised_views(images: Tensor, parameters: dict[str, Tensor], mean: tuple, std: tuple) -> Tensor:
    """uint8 (B, 3, H, W) and the parameters of B views -> normalised float32 views (B, 3, H, W)."""
    height, width = images.shape[-2:]
    pad_rows, pad_columns = padding(height), padding(width)
    padded = torch.nn.functional.pad(images, (pad_columns, pad_columns, pad_rows, pad_rows))
    rows = _crop_indices(height, parameters["offset"][:, 0], parameters["vertical"])
    columns = _crop_indices(width, parameters["offset"][:, 1], parameters["horizontal"])
    batch = torch.arange(len(images), device=images.device)[:, None, None]
    views = padded[batch, :, rows[:, :, None], columns[:, None, :]]  # (B, H, W, 3)
    return normalise(views.permute(0, 3, 1, 2).float() / 255, mean, std)


def evaluation_images(images: Tensor, mean: tuple, std: tuple) -> Tensor:
    """uint8 (B, 3, H, W) -> normalised float32, without any augmentation."""
    return normalise(images.float() / 255, mean, std)


def _crop_indices(size: int, offset: Tensor, flip: Tensor) -> Tensor:
    """(B, size) indices into the padded axis, reversed where `flip`."""
    steps = torch.arange(size, device=offset.device)
    return offset[:, None] + torch.where(flip[:, None], size - 1 - steps, steps)


def resized_crop(images: Tensor, box: Tensor, flip: Tensor) -> Tensor:
    """Crops each image to its box, resizes it bilinearly to the whole image's size, mirrors it where `flip`.

    Bilinear sampling is separable: out = R image C^T with a row of tent weights per output pixel, so the whole batch is
    two matrix products. A crop is never larger than the image, so antialiasing would change nothing.

    Args:
        images: float (B, 3, H, W); box: (B, 4) top, left, height, width; flip: (B,) bool, horizontal.
    """
    height, width = images.shape[-2:]
    rows = _tent_weights(height, box[:, 0], box[:, 2], torch.zeros_like(flip))
    columns = _tent_weights(width, box[:, 1], box[:, 3], flip)
    return rows[:, None] @ images @ columns[:, None].transpose(-1, -2)


def _tent_weights(size: int, start: Tensor, length: Tensor, flip: Tensor) -> Tensor:
    """(B, size, size): row y holds the weights of the source pixels of output pixel y."""
    pixels = torch.arange(size, device=start.device, dtype=torch.float32)
    centres = torch.where(flip[:, None], size - 1 - pixels, pixels) + 0.5
    source = centres * (length[:, None] / size) - 0.5
    source = start[:, None] + torch.minimum(source.clamp_min(0), length[:, None] - 1)
    return (1 - (source[:, :, None] - pixels).abs()).clamp_min(0)


def greyscale(images: Tensor) -> Tensor:
    """(B, 3, H, W) -> luma (B, 1, H, W)."""
    red, green, blue = images.unbind(1)
    return (GREY_WEIGHTS[0] * red + GREY_WEIGHTS[1] * green + GREY_WEIGHTS[2] * blue).unsqueeze(1)


def blend(images: Tensor, kind: Tensor, factor: Tensor) -> Tensor:
    """Brightness (kind 0), contrast (1) or saturation (2) of each image, clamped to [0, 1].

    All three mix the image with another one, factor f for the image and 1 - f for: black; the mean of the greyscale
    image; the greyscale image.
    """
    grey = greyscale(images)
    kind = kind[:, None, None, None]
    other = torch.where(kind == 2, grey, torch.where(kind == 1, grey.mean((2, 3), keepdim=True), 0.0))
    factor = factor[:, None, None, None]
    return (factor * images).add_((1 - factor) * other).clamp_(0, 1)


def shift_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Turns the hue of each image (B, 3, H, W) by `turns` (B,) of the colour circle, through HSV."""
    red, green, blue = images.unbind(1)
    value, chroma = images.amax(1), images.amax(1) - images.amin(1)
    divisor = torch.where(chroma == 0, 1.0, chroma)
    hue = torch.where(value == red, (green - blue) / divisor,
                      torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor))
    hue = hue + 6 * turns[:, None, None]
    # Channel c of HSV with sector hue h is v - chroma * clamp(min(k, 4 - k), 0, 1), k = (n_c + h) mod 6, n = 5, 3, 1.
    k = (torch.tensor([5.0, 3.0, 1.0], device=images.device)[:, None, None] + hue[:, None]) % 6
    return value[:, None] - chroma[:, None] * torch.minimum(k, 4 - k).clamp(0, 1)


def normalise(images: Tensor, mean: tuple, std: tuple) -> Tensor:
    """(images - mean) / std per channel."""
    mean, std = (torch.tensor(values, device=images.device)[:, None, None] for values in (mean, std))
    return (images - mean).div_(std)
