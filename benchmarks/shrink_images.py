"""Makes a smaller copy of an image folder: blocks of pixels averaged, the first images of each class alone.

    python benchmarks/shrink_images.py cifar10_jpeg "data/CIFAR-10, JPEG, 16x16" --factor 2
    python benchmarks/shrink_images.py cifar10_jpeg "data/CIFAR-10, JPEG, a half" --train_per_class 2500

Reads SOURCE/train/CLASS/* and SOURCE/test/CLASS/*. Writes PNGs of the same names into the same folders below
TARGET, in the order of their names. Train on it with `--dataset folder --data_dir TARGET`.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm


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


def shrink_folder(source: Path, target: Path, factor: int, train_per_class: int | None) -> int:
    """Writes the smaller copy and returns its number of images.

    Raises:
        ValueError: no images, or sides that `factor` does not divide.
    """
    chosen = []
    for part in ("train", "test"):
        for folder in sorted(path for path in (source / part).glob("*") if path.is_dir()):
            images = sorted(
                path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png")
            )
            chosen += images[:train_per_class] if part == "train" else images
    if not chosen:
        raise ValueError(f"no images in {source}/train/CLASS and {source}/test/CLASS")
    for path in tqdm(chosen, disable=None):
        with Image.open(path) as image:
            pixels = block_means(np.asarray(image.convert("RGB")), factor)
        copy = (target / path.relative_to(source)).with_suffix(".png")
        copy.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(copy)
    return len(chosen)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("source", type=Path, help="folder with train/CLASS and test/CLASS")
    parser.add_argument("target", type=Path, help="folder that is made")
    parser.add_argument("--factor", type=int, default=1, help="side of the blocks that are averaged; 1: none")
    parser.add_argument(
        "--train_per_class", type=int, default=None, help="first training images a class; all"
    )
    flags = parser.parse_args()
    try:
        count = shrink_folder(flags.source, flags.target, flags.factor, flags.train_per_class)
    except (OSError, ValueError) as error:
        print(f"shrink_images.py: error: {error}", file=sys.stderr)
        return 2
    print(f"{count} images in {flags.target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
