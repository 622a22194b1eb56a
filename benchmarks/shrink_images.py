"""Makes a smaller copy of an image folder: all images of one size, or the first images of each class alone.

    python benchmarks/shrink_images.py photos photos_64 --size 64
    python benchmarks/shrink_images.py cifar10_jpeg "data/CIFAR-10, JPEG, 16x16" --factor 2
    python benchmarks/shrink_images.py cifar10_jpeg "data/CIFAR-10, JPEG, a half" --train_per_class 2500

--size crops the middle of each image to the new aspect and resizes it, so that nothing is distorted; --factor
averages blocks of pixels. Reads SOURCE/train/CLASS/* and SOURCE/test/CLASS/*. Writes PNGs of the same names
into the same folders below TARGET, which is there only when it is whole.
"""

import argparse
import contextlib
import re
import shlex
import shutil
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.cli import Parser, UserError, command  # noqa: E402
from common.data import SMALLEST_SIDE, list_folder, open_image, upright  # noqa: E402
from common.store.files import claim  # noqa: E402
from common.values import path, positive_integer  # noqa: E402


def block_means(pixels: np.ndarray, factor: int) -> np.ndarray:
    """(H, W, 3) uint8 -> (H / factor, W / factor, 3) uint8: rounded means of blocks of factor x factor
    pixels.

    Raises:
        ValueError: sides that `factor` does not divide.
    """
    height, width = pixels.shape[:2]
    if height % factor or width % factor:
        raise ValueError(f"{width}x{height} pixels cannot be divided into blocks of {factor}x{factor}")
    blocks = pixels.reshape(height // factor, factor, width // factor, factor, 3)
    return np.round(blocks.mean((1, 3))).astype(np.uint8)


def image_size(text: str) -> tuple[int, int]:
    """`32` or `48x64`, height x width -> (width, height)."""
    match = re.fullmatch(r"(\d{1,4})(?:x(\d{1,4}))?", text)
    height, width = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if min(height, width) < SMALLEST_SIDE:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no size: a side, or HEIGHTxWIDTH, from {SMALLEST_SIDE} to 9999"
        )
    return width, height


def shrink_folder(
    source: Path, target: Path, size: tuple[int, int] | None, factor: int, train_per_class: int | None
) -> int:
    """Writes the smaller copy and returns its number of images.

    Raises:
        UserError: a folder or an image that the study would refuse too, whatever its size.
        ValueError: sides that `factor` does not divide; a target that is there.
    """
    if target.exists():
        raise ValueError(f"{target} is there already; name another folder")
    halves = list_folder(source)[1]
    chosen = [path for files in halves["train"] for path in files[:train_per_class]]
    chosen += [path for files in halves["test"] for path in files]
    stems = Counter(path.with_suffix("") for path in chosen)
    place = target.parent / f".shrinking_{target.name}"
    with claim(place, wait=True), contextlib.ExitStack() as stack:
        shutil.rmtree(place, ignore_errors=True)  # of a call that was killed
        stack.callback(shutil.rmtree, place, ignore_errors=True)
        for path in tqdm(chosen, disable=None):
            with open_image(path) as image:
                small = upright(image)
            if size:
                small = ImageOps.fit(small, size)
            else:
                small = Image.fromarray(block_means(np.asarray(small), factor))
            # a.jpg becomes a.png, unless there is an a.bmp too.
            is_alone = stems[path.with_suffix("")] == 1
            copy = path.with_suffix(".png") if is_alone else path.with_name(f"{path.name}.png")
            copy = place / copy.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            small.save(copy)
        place.rename(target)
    return len(chosen)


@command
def main(argv=None) -> None:
    parser = Parser(__doc__)
    parser.add_argument("source", type=path, help="folder with train/CLASS and test/CLASS")
    parser.add_argument("target", type=path, help="folder that is made")
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument("--size", type=image_size, help="side of the new images, or HEIGHTxWIDTH")
    ways.add_argument(
        "--factor", type=positive_integer, default=1, help="side of the blocks that are averaged; 1: none"
    )
    parser.add_argument(
        "--train_per_class", type=positive_integer, default=None, help="first training images a class; all"
    )
    flags = parser.parse_args(argv)
    try:
        folders = Path(flags.source), Path(flags.target)
        count = shrink_folder(*folders, flags.size, flags.factor, flags.train_per_class)
    except ValueError as error:
        raise UserError(str(error)) from None
    words = shlex.join(["--dataset", "folder", "--data_dir", flags.target])
    print(f"{count} images; train on them with {words}")


if __name__ == "__main__":
    sys.exit(main())
