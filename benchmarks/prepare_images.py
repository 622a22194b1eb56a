"""Prepares a folder of images for the study: images of one size, in train/ and test/.

    python benchmarks/prepare_images.py photos photos_64 --size 64 --test_share 0.2
    python benchmarks/prepare_images.py cifar10_jpeg "data/CIFAR-10, JPEG, 16x16" --factor 2
    python benchmarks/prepare_images.py cifar10_jpeg "data/CIFAR-10, JPEG, a half" --train_per_class 2500

Reads SOURCE/train/CLASS/* and SOURCE/test/CLASS/*; with --test_share it reads and splits SOURCE/CLASS/*.
--size crops the centre of each image to the new aspect ratio and resizes it without distortion; --factor
averages blocks of pixels. Links are followed. Writes PNGs with the same names to TARGET/train/CLASS/ and
TARGET/test/CLASS/. TARGET appears only when it is complete.
"""

import argparse
import re
import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.cli import Parser, UserError, command  # noqa: E402
from common.values import SMALLEST_SIDE, fraction, natural_number, path, positive_integer  # noqa: E402


def image_size(text: str) -> tuple[int, int]:
    """Parses `32` or `48x64`, height x width, into (width, height)."""
    match = re.fullmatch(r"(\d{1,4})(?:x(\d{1,4}))?", text)
    height, width = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if min(height, width) < SMALLEST_SIDE:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a size: give a side, or HEIGHTxWIDTH, from {SMALLEST_SIDE} to 9999"
        )
    return width, height


@command
def main(argv=None) -> None:
    parser = Parser(__doc__)
    parser.add_argument("source", type=path, help="folder with train/CLASS and test/CLASS, or CLASS")
    parser.add_argument("target", type=path, help="folder to create")
    size_group = parser.add_mutually_exclusive_group()
    size_group.add_argument("--size", type=image_size, help="side of the new images, or HEIGHTxWIDTH")
    size_group.add_argument(
        "--factor", type=positive_integer, default=1, help="side of the blocks to average; 1: none"
    )
    parser.add_argument(
        "--test_share",
        type=fraction,
        default=0.0,
        help="split SOURCE/CLASS: this share of each class goes to test/; 0: SOURCE is split already",
    )
    parser.add_argument("--seed", type=natural_number, default=0, help="seed of the split")
    parser.add_argument(
        "--train_per_class", type=positive_integer, help="first training images per class (default: all)"
    )
    parser.add_argument(
        "--skip", action="store_true", help="leave out files that are not images, and list them"
    )
    flags = parser.parse_args(argv)
    from benchmarks.image_folders import prepare

    try:
        count, left_out = prepare(flags)
    except ValueError as error:
        raise UserError(str(error)) from None
    if left_out:
        print(f"left out {len(left_out)} files:", *left_out, sep="\n")
    data_flags = shlex.join(["--dataset", "folder", "--data_dir", flags.target])
    print(f"{count} images; train on them with {data_flags}")


if __name__ == "__main__":
    sys.exit(main())
