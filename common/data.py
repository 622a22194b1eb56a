"""A data set as tensors: uint8 images, labels, class names, mean and std. Nothing else knows about files of images."""

import fcntl
import hashlib
import http.client
import re
import shutil
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.cli import UserError, logger

CIFAR10_MEAN = (0.4915, 0.4823, 0.4468)  # as published
CIFAR10_STD = (0.2047, 0.2435, 0.2616)
SMALLEST_SIDE = 8  # the network halves the image twice


@dataclass(frozen=True)
class ImageDataset:
    """Training and test images with what the study needs to know about them.

    Images are uint8 (N, 3, H, W), labels int64 (N,). `mean` and `std` are per channel, of pixels scaled to [0, 1].
    `horizontal_flip` and `vertical_flip` say which flips keep the classes. `checksum` is the SHA-256 of all of it.
    """

    name: str
    title: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    class_names: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    horizontal_flip: bool
    vertical_flip: bool
    checksum: str = ""

    def to(self, device: torch.device) -> "ImageDataset":
        """The same data set with its tensors on `device`."""
        return replace(
            self,
            **{
                field: getattr(self, field).to(device)
                for field in ("train_images", "train_labels", "test_images", "test_labels")
            },
        )

    def facts(self) -> dict:
        """What a checkpoint records about its data."""
        return {
            "name": self.name,
            "checksum": self.checksum,
            "class_names": list(self.class_names),
            "train_images": len(self.train_images),
            "test_images": len(self.test_images),
            "image_size": list(self.train_images.shape[-2:]),
            "mean": list(self.mean),
            "std": list(self.std),
            "horizontal_flip": self.horizontal_flip,
            "vertical_flip": self.vertical_flip,
        }


def dataset_name(dataset: str, data_dir: str) -> str:
    """The name of the data set in paths and tables: cifar10, digits, or the folder's own name.

    Raises:
        UserError: a folder that is called like one of the built-in data sets.
    """
    if dataset != "folder":
        return dataset
    name = Path(data_dir).resolve().name
    if name in ("cifar10", "digits", "") or re.fullmatch(r"seed_\d+", name):
        raise UserError(
            f"--data_dir {data_dir}: a folder called {name!r} would write over results of other data or seeds; rename it"
        )
    if not name.isprintable():
        raise UserError(
            f"--data_dir: a folder called {name!r} would give models and tables a name that cannot be shown; rename it"
        )
    return name


def load_dataset(dataset: str, data_dir: str) -> ImageDataset:
    """The data set on the CPU.

    Args:
        dataset: 'cifar10', 'digits' or 'folder'.
        data_dir: where CIFAR-10 lies or goes, or the folder with train/ and test/.
    Raises:
        UserError: data that is missing, damaged or unusable.
    """
    name = dataset_name(dataset, data_dir)
    loaders = {
        "cifar10": lambda: _load_cifar10(Path(data_dir)),
        "digits": _load_digits,
        "folder": lambda: _load_folder(Path(data_dir), name),
    }
    return _with_checksum(loaders[dataset]())


def _with_checksum(data: ImageDataset) -> ImageDataset:
    digest = hashlib.sha256(repr((data.class_names, data.mean, data.std)).encode())
    for part in (data.train_images, data.train_labels, data.test_images, data.test_labels):
        digest.update(np.ascontiguousarray(part.numpy()))
    return replace(data, checksum=digest.hexdigest())


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of uint8 (N, 3, H, W), scaled to [0, 1]; a constant channel has std 1."""
    # From the 256 counts of each channel: exact, and no float copy of the images.
    levels = torch.arange(256, dtype=torch.float64) / 255
    shares = torch.stack(
        [torch.bincount(images[:, channel].flatten().int(), minlength=256) for channel in range(3)]
    )
    shares = shares.double() / shares.sum(1, keepdim=True)
    mean = shares @ levels
    std = ((shares * (levels - mean[:, None]) ** 2).sum(1)).sqrt()
    std[std < 1e-6] = 1.0
    return tuple(round(value, 6) for value in mean.tolist()), tuple(round(value, 6) for value in std.tolist())


def _load_digits() -> ImageDataset:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(
        np.uint8
    )  # scikit-learn's digits have the levels 0 to 16
    train, test = train_test_split(
        np.arange(len(pixels)), test_size=500, stratify=digits.target, random_state=0
    )

    def part(indices: np.ndarray) -> tuple[Tensor, Tensor]:
        images = torch.from_numpy(pixels[indices]).unsqueeze(1).repeat(1, 3, 1, 1)
        return images, torch.from_numpy(digits.target[indices]).long()

    train_images, train_labels = part(train)
    test_images, test_labels = part(test)
    mean, std = channel_statistics(train_images)
    return ImageDataset(
        "digits",
        "digits 8x8",
        train_images,
        train_labels,
        test_images,
        test_labels,
        tuple(str(digit) for digit in range(10)),
        mean,
        std,
        horizontal_flip=False,
        vertical_flip=False,
    )  # a flipped 6 is a 9


def _load_cifar10(root: Path) -> ImageDataset:
    from torchvision.datasets import CIFAR10

    if not _cifar10_is_whole(root):
        root.mkdir(parents=True, exist_ok=True)
        with (root / ".cifar10.lock").open("w") as lock:  # of several scripts one fetches, the others wait
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _cifar10_is_whole(root):
                _fetch_cifar10(root)
    parts = []
    for train in (True, False):
        raw = CIFAR10(str(root), train=train)
        parts += [torch.from_numpy(raw.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(raw.targets)]
    return ImageDataset(
        "cifar10",
        "CIFAR-10",
        *parts,
        tuple(raw.classes),
        CIFAR10_MEAN,
        CIFAR10_STD,
        horizontal_flip=True,
        vertical_flip=True,
    )


def _cifar10_is_whole(root: Path) -> bool:
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    files = CIFAR10.train_list + CIFAR10.test_list + [[CIFAR10.meta["filename"], CIFAR10.meta["md5"]]]
    return all(check_integrity(str(root / CIFAR10.base_folder / name), md5) for name, md5 in files)


def _fetch_cifar10(root: Path) -> None:
    """Puts a whole, checked copy of CIFAR-10 under `root`, from an archive there or else from its server.

    All work happens in a folder aside that is renamed when it is whole, so that no half set is ever found.
    """
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity, download_url, extract_archive

    archive = root / CIFAR10.filename
    aside = root / ".cifar10_unfinished"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        if not check_integrity(str(archive), CIFAR10.tgz_md5):
            found = f"{archive} is damaged" if archive.exists() else f"no CIFAR-10 in {root}"
            logger.info("%s: downloading 170 MB", found)
            try:
                download_url(CIFAR10.url, str(aside), CIFAR10.filename, CIFAR10.tgz_md5)
            except (OSError, RuntimeError, http.client.HTTPException) as error:
                reason = " ".join(str(error).split())
                raise UserError(
                    f"--dataset cifar10: {found} and the download failed ({reason}); put "
                    f"{CIFAR10.filename} from the CIFAR-10 home page into {root}, or use --dataset digits, "
                    "which needs no download"
                ) from None
            (aside / CIFAR10.filename).replace(archive)
        extract_archive(str(archive), str(aside))
        if not _cifar10_is_whole(aside):
            raise UserError(f"--dataset cifar10: {archive} does not hold the whole of CIFAR-10; delete it")
        shutil.rmtree(root / CIFAR10.base_folder, ignore_errors=True)
        (aside / CIFAR10.base_folder).replace(root / CIFAR10.base_folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _load_folder(root: Path, name: str) -> ImageDataset:
    for part in ("train", "test"):
        if not (root / part).is_dir():
            raise UserError(
                f"--data_dir {root}: no folder {part}/ in it; it must hold train/CLASS/* and test/CLASS/*"
            )
    train_classes, test_classes = (
        {path.name for path in (root / part).iterdir() if path.is_dir() and not path.name.startswith(".")}
        for part in ("train", "test")
    )
    class_names, strangers = tuple(sorted(train_classes)), sorted(test_classes - train_classes)
    if strangers:
        raise UserError(f"--data_dir {root}: test/ has classes that train/ lacks: {', '.join(strangers)}")
    if len(class_names) < 2:
        raise UserError(
            f"--data_dir {root}: train/ has {len(class_names)} class folders, at least 2 are needed"
        )
    tensors, sizes = [], {}
    for part in ("train", "test"):
        files = [
            (path, label)
            for label, class_name in enumerate(class_names)
            for path in sorted((root / part / class_name).glob("*"))
            if not path.name.startswith(".")
        ]
        empty = set(range(len(class_names))) - {label for _, label in files}
        if empty and (part == "train" or not files):
            raise UserError(f"--data_dir {root}: no images in {part}/{class_names[min(empty)]}")
        with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
            warnings.simplefilter("ignore")  # of the image library: what cannot be read is said below
            images = list(pool.map(_read_image, (path for path, _ in files)))
        for image, (path, _) in zip(images, files):
            sizes.setdefault(image.shape[:2], path)
        tensors.append((images, [label for _, label in files]))
    if len(sizes) > 1:
        (one, one_path), (other, other_path) = list(sizes.items())[:2]
        raise UserError(
            f"--data_dir {root}: images of different sizes, {one_path} {one[1]}x{one[0]} and {other_path} "
            f"{other[1]}x{other[0]}; resize them to one"
        )
    height, width = next(iter(sizes))
    if min(height, width) < SMALLEST_SIDE:
        raise UserError(
            f"--data_dir {root}: images of {width}x{height}; at least {SMALLEST_SIDE}x{SMALLEST_SIDE} is needed"
        )
    parts = []
    for images, labels in tensors:
        parts += [torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels)]
    mean, std = channel_statistics(parts[0])
    return ImageDataset(name, name, *parts, class_names, mean, std, horizontal_flip=True, vertical_flip=True)


def _read_image(path: Path) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(path) as image:
            mode, pixels = image.mode, np.asarray(image.convert("RGB"))
    except Exception as error:  # Pillow's decoders raise errors of every kind at spoilt bytes, SyntaxError and RuntimeError among them
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"--data_dir: {path} is not a readable image ({reason}); remove or replace it"
        ) from None
    if mode.startswith(("I", "F")):  # 16 or 32 bits, which Pillow clips to 255: nearly all white
        raise UserError(
            f"--data_dir: {path} has more than 8 bits a channel (mode {mode}); convert it to 8 bits"
        )
    return pixels
