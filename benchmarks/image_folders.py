"""Splits a folder of images into training and test images, and converts them to one size; for
prepare_images.py."""

import argparse
import contextlib
import functools
import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from common.cli import UserError
from common.data import HALVES, list_folder, open_image, visible
from common.store.files import claim
from common.values import SMALLEST_SIDE

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
    """Writes the changed images to `folder`; returns file -> PNG, and messages about unreadable files.

    Raises:
        UserError: the changed images have different sizes, or are too small for the networks.
    """
    folder.mkdir(parents=True)
    converted, unreadable, first = {}, [], None
    for number, file in enumerate(tqdm(files, disable=None)):
        try:
            with open_image(file) as image:
                photo = image
        except UserError as error:
            unreadable.append(str(error))
            continue
        changed = change(photo)
        width, height = changed.size
        first = first or (file, width, height)
        if (width, height) != first[1:]:
            raise UserError(
                f"images of different sizes, {first[0]} {first[1]}x{first[2]} and {file} {width}x{height}; "
                "give --size"
            )
        if min(width, height) < SMALLEST_SIDE:
            raise UserError(
                f"{file} becomes {width}x{height} pixels, at least {SMALLEST_SIDE}x{SMALLEST_SIDE} are "
                "needed; give a smaller --factor, or --size"
            )
        converted[file] = folder / f"{number}.png"
        changed.save(converted[file])
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
