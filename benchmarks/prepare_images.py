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
import contextlib
import functools
import hashlib
import os
import re
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.cli import Parser, UserError, command  # noqa: E402
from common.data import HALVES, SMALLEST_SIDE, list_folder, open_image, upright, visible  # noqa: E402
from common.store.files import claim  # noqa: E402
from common.values import fraction, natural_number, path, positive_integer  # noqa: E402

LISTED = 10  # unusable files that an error names


def block_means(pixels: np.ndarray, factor: int) -> np.ndarray:
    """(H, W, 3) uint8 -> (H / factor, W / factor, 3) uint8: rounded means of blocks of factor x factor
    pixels.

    Raises:
        ValueError: `factor` does not divide the sides.
    """
    height, width = pixels.shape[:2]
    if height % factor or width % factor:
        raise ValueError(f"{width}x{height} pixels cannot be divided into blocks of {factor}x{factor}")
    blocks = pixels.reshape(height // factor, factor, width // factor, factor, 3)
    return np.round(blocks.mean((1, 3))).astype(np.uint8)


def image_size(text: str) -> tuple[int, int]:
    """Parses `32` or `48x64`, height x width, into (width, height)."""
    match = re.fullmatch(r"(\d{1,4})(?:x(\d{1,4}))?", text)
    height, width = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if min(height, width) < SMALLEST_SIDE:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a size: give a side, or HEIGHTxWIDTH, from {SMALLEST_SIDE} to 9999"
        )
    return width, height


def list_classes(source: Path) -> tuple[list[list[Path]], list[str]]:
    """Returns the files of each class SOURCE/CLASS/*, and messages about files outside class folders.

    Raises:
        UserError: the source is split already, has fewer than two classes, or an empty one.
    """
    folders = [folder for folder in visible(source) if folder.is_dir()]
    if {folder.name for folder in folders} & {*HALVES}:
        raise UserError(f"{source} has train/ or test/ already; leave out --test_share")
    if len(folders) < 2:
        raise UserError(f"{source} has {len(folders)} class folders, at least 2 are needed")
    classes = [visible(folder) for folder in folders]
    if [] in classes:
        raise UserError(f"no images in {folders[classes.index([])]}; add images, or move the folder away")
    stray = [file for file in visible(source) if file not in folders]
    return classes, [f"{file} is outside the class folders" for file in stray]


def split_classes(classes: list[list[Path]], test_share: float, seed: int) -> dict[str, list[list[Path]]]:
    """Returns the files of each class for `train` and `test`.

    The share `test_share` of each class, at least one file, goes to `test`: the files with the lowest hashes
    of seed, class and name. The split depends on nothing else.

    Raises:
        UserError: a class is too small to be split.
    """

    def rank(file: Path) -> bytes:
        return hashlib.sha256(os.fsencode(f"{seed} {file.parent.name}/{file.name}")).digest()

    halves = {half: [] for half in HALVES}
    for files in classes:
        tests = max(1, round(test_share * len(files)))
        if tests >= len(files):
            raise UserError(
                f"--test_share {test_share} leaves none of the {len(files)} images in {files[0].parent} for "
                "training; add images, or move the folder away"
            )
        ranked = sorted(files, key=rank)
        halves["train"].append(sorted(ranked[tests:]))
        halves["test"].append(sorted(ranked[:tests]))
    return halves


def destinations(halves: dict[str, list[list[Path]]], train_per_class: int | None) -> dict[Path, Path]:
    """Returns the path of each copy below the target: `train/cat/a.png`. a.jpg becomes a.png unless the class
    also has, say, a.bmp or a file called a. Only the first `train_per_class` training images of each class
    are used."""
    limits = {"train": train_per_class, "test": None}
    chosen = [(half, file) for half in HALVES for files in halves[half] for file in files[: limits[half]]]
    names = Counter(path for _, file in chosen for path in (file, file.with_suffix("")))
    copies = {}
    for half, file in chosen:
        name = file.stem if names[file.with_suffix("")] == 1 else file.name
        copies[file] = Path(half, file.parent.name, f"{name}.png")
    return copies


def resize(image: Image.Image, size: tuple[int, int] | None, factor: int) -> Image.Image:
    """Crops and resizes an RGB image to `size` (width, height), or averages its blocks.

    Raises:
        ValueError: `factor` does not divide the sides.
    """
    return ImageOps.fit(image, size) if size else Image.fromarray(block_means(np.asarray(image), factor))


def convert(
    files: list[Path], folder: Path, change: Callable[[Image.Image], Image.Image]
) -> tuple[dict[Path, Path], list[str]]:
    """Writes the changed images to `folder`; returns file -> PNG, and messages about unreadable files."""
    folder.mkdir(parents=True)
    converted, unreadable = {}, []
    for number, file in enumerate(tqdm(files, disable=None)):
        try:
            with open_image(file) as image:
                photo = upright(image)
        except UserError as error:
            unreadable.append(str(error))
            continue
        converted[file] = folder / f"{number}.png"
        change(photo).save(converted[file])
    return converted, unreadable


@contextlib.contextmanager
def staged(target: Path) -> Iterator[Path]:
    """Yields a path beside `target` for a temporary folder, which is always removed at the end.

    Raises:
        UserError: the target exists.
    """
    if target.exists():
        raise UserError(f"{target} exists already; name another folder")
    staging = target.parent / f".preparing_{target.name}"
    with claim(staging, wait=True), contextlib.ExitStack() as stack:
        shutil.rmtree(staging, ignore_errors=True)  # left by a killed call
        stack.callback(shutil.rmtree, staging, ignore_errors=True)
        yield staging


def prepare(flags: argparse.Namespace) -> tuple[int, list[str]]:
    """Writes the prepared images; returns their number, and messages about files that were left out.

    Raises:
        UserError: a folder is unusable, or files are not images and --skip is not given.
        ValueError: --factor does not divide the sides of an image.
    """
    source, target, stray = Path(flags.source), Path(flags.target), []
    if flags.test_share:
        classes, stray = list_classes(source)
        listing = {"": classes}
    elif source.is_dir() and not any((source / half).is_dir() for half in HALVES):
        raise UserError(f"{source} has neither train/ nor test/; --test_share 0.2 splits a folder of classes")
    else:
        listing = list_folder(source, follow_links=True)[1]
    with staged(target) as staging:
        files = [file for classes in listing.values() for files in classes for file in files]
        change = functools.partial(resize, size=flags.size, factor=flags.factor)
        converted, unreadable = convert(files, staging / "converted", change)
        left_out = stray + unreadable
        if left_out and not flags.skip:
            more = f"; and {len(left_out) - LISTED} more" if len(left_out) > LISTED else ""
            raise UserError(f"{'; '.join(left_out[:LISTED])}{more}; give --skip to leave them out")
        halves = {
            half: [[file for file in files if file in converted] for files in classes]
            for half, classes in listing.items()
        }
        for half, classes in listing.items():
            for sources, readable in zip(classes, halves[half]):
                if sources and not readable:
                    raise UserError(
                        f"no file in {sources[0].parent} can be read; add images, or move the folder away"
                    )
        if flags.test_share:
            halves = split_classes(halves[""], flags.test_share, flags.seed)
        copies = destinations(halves, flags.train_per_class)
        for file, copy in copies.items():
            copy = staging / "whole" / copy
            copy.parent.mkdir(parents=True, exist_ok=True)
            converted[file].rename(copy)
        (staging / "whole").rename(target)
    return len(copies), left_out


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
