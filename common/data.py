"""A data set as tensors: uint8 images, labels, class names, mean and std. Only this module reads images."""

import hashlib
import http.client
import itertools
import os
import re
import shlex
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Iterator

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from common.cli import FLIPS, UserError, logger, refuse_pipe
from common.datasets import DOWNLOADS
from common.store.files import claim, names_cause

TENSORS = ("train_images", "train_labels", "test_images", "test_labels")  # checksums count on this order
SMALLEST_SIDE = 8  # the network halves the image twice
HALVES = ("train", "test")
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")  # of others EPS would start a program
LARGEST_ADVISED = 64  # four times the pixels, and the time, of the published images


@dataclass(frozen=True)
class ImageDataset:
    """Training and test images with what the study needs to know about them.

    Images are uint8 (N, 3, H, W), labels int64 (N,). `mean` and `std` are per channel, of pixels scaled to
    [0, 1]; `normalization` holds both where --normalization gives others than the data set's.
    `horizontal_flip` and `vertical_flip` say which flips views are given. `checksum` is the SHA-256 of all of
    it, `train_checksum` of all but the test images. `test_files` are the paths of the test images below the
    data folder, where it is one.
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
    train_checksum: str = ""
    normalization: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    test_files: tuple[str, ...] = ()
    test_checksum: str = ""  # of other test images than the clean ones (common/test_sets.py)

    def to(self, device: torch.device) -> "ImageDataset":
        """The same data set with its tensors on `device`."""
        return replace(self, **{field: getattr(self, field).to(device) for field in TENSORS})

    @property
    def evaluated(self) -> str:
        """The checksum that what is evaluated depends on, with another normalization where one is given."""
        checksum = self.test_checksum or self.checksum
        if self.normalization:
            checksum = hashlib.sha256(f"{checksum} {self.normalization}".encode()).hexdigest()
        return checksum

    @property
    def flips(self) -> dict[str, bool]:
        """Which flips the views of a training have."""
        return {flip: getattr(self, flip) for flip in FLIPS}

    @property
    def pixel_settings(self) -> dict:
        """What a configuration says of how images become network input."""
        given = {"normalization": [list(values) for values in self.normalization or ()]}
        return {**self.flips, **(given if self.normalization else {})}

    @property
    def normalization_text(self) -> str:
        """`mean 0.4915,0.4823,0.4468 std 0.2047,0.2435,0.2616`"""
        texts = (",".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        return "mean {} std {}".format(*texts)

    def normalized_by(self, mean: tuple[float, ...], std: tuple[float, ...]) -> "ImageDataset":
        """The same images for networks that see (pixel - mean) / std, per channel of pixels in [0, 1]."""
        if (mean, std) == (self.mean, self.std):
            return self
        return replace(self, mean=mean, std=std, normalization=(mean, std))

    def facts(self) -> dict:
        """What a checkpoint records about its data."""
        return {
            "name": self.name,
            "checksum": self.checksum,
            "train_checksum": self.train_checksum,
            "class_names": list(self.class_names),
            "train_images": len(self.train_images),
            "test_images": len(self.test_images),
            "image_size": list(self.train_images.shape[-2:]),
            "mean": list(self.mean),
            "std": list(self.std),
            **self.flips,
        }


def same_training_images(facts: dict, others: dict) -> bool:
    """Whether two `ImageDataset.facts` are of the same training images, on which alone a training depends.

    Records from before `train_checksum` have one checksum of training and test images, which then counts.
    """
    key = "train_checksum" if "train_checksum" in facts and "train_checksum" in others else "checksum"
    return facts[key] == others[key]


def dataset_name(dataset: str, data_dir: str) -> str:
    """The name of the data set in paths and tables: cifar10, digits, ... or the folder's own name.

    Raises:
        UserError: a folder that is called like one of the built-in data sets.
    """
    if dataset != "folder":
        return dataset
    name = Path(data_dir).resolve().name
    if name in (*DOWNLOADS, "digits", "") or re.fullmatch(r"seed_\d+", name):
        raise UserError(
            f"--data_dir {data_dir}: a folder called {name!r} would write over results of other data or "
            "seeds; rename it"
        )
    if not name.isprintable():
        raise UserError(
            f"--data_dir: a folder called {name!r} would give models and tables a name that "
            "cannot be shown; rename it"
        )
    return name


def load_dataset(dataset: str, data_dir: str, follow_links: bool = False) -> ImageDataset:
    """The data set on the CPU.

    Args:
        dataset: a name in DOWNLOADS, 'digits' or 'folder'.
        data_dir: where a downloaded data set lies or goes, or the folder with train/ and test/.
        follow_links: whether that folder may hold links to what lies outside of it.
    Raises:
        UserError: data that is missing, damaged or unusable.
    """
    name = dataset_name(dataset, data_dir)
    if dataset == "folder":
        data = _load_folder(Path(data_dir), name, follow_links)
    else:
        data = _load_digits() if dataset == "digits" else _load_downloaded(Path(data_dir), name)
    digest = hashlib.sha256(repr((data.class_names, data.mean, data.std)).encode())
    checksums = []
    for field in TENSORS:
        digest.update(np.ascontiguousarray(getattr(data, field).numpy()))
        checksums.append(digest.hexdigest())
    return replace(data, train_checksum=checksums[1], checksum=checksums[-1])


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of uint8 (N, 3, H, W), scaled to [0, 1].

    A constant channel has the standard deviation 1.
    """
    # From the 256 counts of each channel: exact, and no float copy of the images.
    levels = torch.arange(256, dtype=torch.float64) / 255
    counts = [torch.bincount(channel.flatten().int(), minlength=256) for channel in images.unbind(1)]
    shares = torch.stack(counts).double() / counts[0].sum()
    mean = shares @ levels
    std = ((shares * (levels - mean[:, None]) ** 2).sum(1)).sqrt()
    std[std < 1e-6] = 1.0
    return tuple(tuple(round(value, 6) for value in values.tolist()) for values in (mean, std))


def _load_digits() -> ImageDataset:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)  # scikit-learn's have the levels 0 to 16
    train, test, *labels = map(
        torch.from_numpy,
        train_test_split(pixels, digits.target, test_size=500, stratify=digits.target, random_state=0),
    )
    train_images, test_images = (images.unsqueeze(1).repeat(1, 3, 1, 1) for images in (train, test))
    return ImageDataset(
        "digits",
        "digits 8x8",
        train_images,
        labels[0],
        test_images,
        labels[1],
        tuple("0123456789"),
        *channel_statistics(train_images),
        horizontal_flip=False,  # a flipped 6 is a 9
        vertical_flip=False,
    )


def _load_downloaded(root: Path, name: str) -> ImageDataset:
    from torchvision import datasets
    from torchvision.datasets.utils import check_integrity, download_url, extract_archive

    wanted = DOWNLOADS[name]
    kind = getattr(datasets, wanted.kind)

    for path in [*root.glob("*.*"), *root.glob("cifar-*/*")]:
        refuse_pipe(path)

    def read() -> list:
        """Training and test set; nothing where a file is missing or damaged: torchvision compares every file
        with its checksum before it unpickles or parses it."""
        try:
            return [kind(str(root), **half) for half in wanted.halves]
        except RuntimeError:
            return []

    def fetch() -> list:
        files = wanted.files(kind)
        found, names = f"no undamaged {wanted.title} in {root}", " and ".join(file[1] for file in files)
        logger.info(f"{found}: taking {names}, from there or downloaded first ({wanted.megabytes} MB)")
        try:
            for url, file, md5 in files:
                if not os.path.lexists(root / file):  # under a hidden name, until it is there whole
                    download_url(url, str(root), f".{file}", md5)
                    (root / f".{file}").replace(root / file)
                elif not check_integrity(str(root / file), md5):
                    raise UserError(
                        f"--dataset {name}: {found}: {root / file} is damaged or incomplete; move it away to "
                        "have it downloaded, or put another copy in its place"
                    )
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            if names_cause(error, root) and not isinstance(error, ConnectionError | TimeoutError):
                raise
            reason = " ".join(str(error).split())
            raise UserError(
                f"--dataset {name}: {found} and the download failed ({reason}); put {names} from the "
                f"{wanted.title} home page into {root}, or use --dataset digits, which needs no download"
            ) from None
        for _, file, _ in files:
            if file.endswith(".gz"):
                extract_archive(str(root / file), str(root))
        return read()

    halves = read()
    if not halves:
        endings = Image.registered_extensions()
        photos = [
            folder.name
            for folder in sorted(root.glob("[!.]*/"))
            if folder.name in HALVES or any(path.suffix.lower() in endings for path in folder.iterdir())
        ]
        if photos:
            raise UserError(
                f"--dataset {name}: {root} holds folders of images ({', '.join(photos[:4])}), not "
                f"{wanted.title}; give --dataset folder, or another --data_dir"
            )
        with claim(root / wanted.title, wait=True):  # of several scripts one fetches, the others wait
            halves = read() or fetch()
    tensors = []
    for half in halves:
        images = torch.from_numpy(half.data)
        images = images if images.shape[1] == 3 else images.permute(0, 3, 1, 2)
        labels = torch.as_tensor(half.targets if hasattr(half, "targets") else half.labels).long()
        tensors += [images.contiguous(), labels]
    classes = getattr(halves[0], "classes", range(labels.max() + 1))
    statistics = wanted.statistics or channel_statistics(tensors[0])
    facts = tuple(map(str, classes)), *statistics, wanted.flips, wanted.flips
    return ImageDataset(name, wanted.title, *tensors, *facts)


def _load_folder(root: Path, name: str, follow_links: bool) -> ImageDataset:
    class_names, halves = list_folder(root, follow_links)
    paths = [path for files in halves.values() for path in itertools.chain(*files)]

    def read(place: int) -> None:
        with open_image(paths[place]) as image:
            if sorted(image.size) == sorted((width, height)):
                image = upright(image)
            if image.size != (width, height):  # seen before the pixels are decoded
                side = max(SMALLEST_SIDE, min(width, height, *image.size, LARGEST_ADVISED))
                target = root.parent / f"{name}_{side}"
                command = ["python", "benchmarks/prepare_images.py", root, target, "--size", side]
                raise UserError(
                    f"--data_dir {root}: images of different sizes, {paths[0]} {width}x{height} and "
                    f"{paths[place]} {image.width}x{image.height}; resize them: "
                    f"{shlex.join(map(str, command))}"
                )
            pixels[place] = np.asarray(image).transpose(2, 0, 1)

    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        warnings.simplefilter("ignore")  # of the image library: what cannot be read is said below
        warnings.filterwarnings("error", "Image size")  # it would take gigabytes
        with open_image(paths[0]) as image:
            width, height = upright(image).size
        pixels = np.empty((len(paths), 3, height, width), np.uint8)
        list(pool.map(read, range(len(paths))))
    if min(height, width) < SMALLEST_SIDE:
        smallest = f"{SMALLEST_SIDE}x{SMALLEST_SIDE}"
        raise UserError(f"--data_dir {root}: images of {width}x{height}; at least {smallest} is needed")
    trained = sum(map(len, halves["train"]))
    labels = [label for files in halves.values() for label, images in enumerate(files) for _ in images]
    pixels, labels = torch.from_numpy(pixels), torch.tensor(labels)
    train, test = pixels[:trained], pixels[trained:]
    tensors = train, labels[:trained], test, labels[trained:]
    facts = tuple(class_names), *channel_statistics(train), True, True
    files = tuple(path.relative_to(root).as_posix() for path in paths[trained:])
    return ImageDataset(name, name, *tensors, *facts, test_files=files)


def visible(folder: Path) -> list[Path]:
    """What a folder holds, sorted by name, without hidden files and folders.

    Raises:
        OSError: a folder that may not be read, which a glob would take for an empty one.
    """
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def refuse_link_out(path: Path, root: Path) -> None:
    """Refuses what is in the folder `root` by a link alone.

    Raises:
        UserError: a path that leads out of `root`.
    """
    if root.resolve() not in Path(os.path.realpath(path)).parents:
        raise UserError(f"{path} is a link out of {root}; put a copy in its place, or give --follow_links")


def list_folder(root: Path, follow_links: bool) -> tuple[list[str], dict[str, list[list[Path]]]]:
    """Names of the classes, and of `train` and `test` the files of each class.

    Classes, their order and that of the images are as torchvision's ImageFolder has them, without hidden
    ones. What ImageFolder would pass over or descend into is refused: a file that is no image, a folder in a
    class. So is a link out of `root`, unless `follow_links`.
    """
    for half in HALVES:
        if not (root / half).is_dir():
            raise UserError(
                f"--data_dir {root}: no folder {half}/ in it; it must hold train/CLASS/* and test/CLASS/* "
                "(benchmarks/prepare_images.py --test_share splits a folder of classes into both)"
            )
        for path in visible(root / half):
            if not path.is_dir():
                raise UserError(
                    f"--data_dir {root}: {half}/{path.name} is in no folder of a class; move it into one "
                    f"({half}/CLASS/{path.name}), or out of {half}/"
                )
    class_names, test_classes = ([path.name for path in visible(root / half)] for half in HALVES)
    if strangers := sorted({*test_classes} - {*class_names}):
        raise UserError(f"--data_dir {root}: test/ has classes that train/ lacks: {', '.join(strangers)}")
    if odd := [name for name in class_names if not name.isprintable()]:
        raise UserError(f"--data_dir {root}: the name of the class {odd[0]!r} cannot be shown; rename it")
    if len(class_names) < 2:
        raise UserError(
            f"--data_dir {root}: train/ has {len(class_names)} class folders, at least 2 are needed"
        )
    halves = {}
    for half in HALVES:
        folders = [root / half / name for name in class_names]
        halves[half] = files = [visible(folder) if folder.exists() else [] for folder in folders]
        if (half == "train" and not all(files)) or not any(files):
            raise UserError(f"--data_dir {root}: no images in {half}/{class_names[files.index([])]}")
        for path in itertools.chain([root / half], folders, *files):
            if path.is_symlink() and not follow_links:
                refuse_link_out(path, root)
    return class_names, halves


@contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """An image whose pixels are not decoded yet; what cannot be decoded inside the context is refused."""
    try:
        if not path.is_file():  # a pipe would be waited for
            raise ValueError("not a file")
        with Image.open(path, formats=FORMATS) as image:
            # 16 or 32 bits, which Pillow cuts off or clips to 255: nearly all white.
            if image.mode.startswith(("I", "F")) or re.search(";16[BLN]", str(image.tile)):
                raise ValueError("more than 8 bits a channel: convert it to 8 bits")
            # The first of an MPO, a JPEG of many cameras, is the photograph.
            if (frames := getattr(image, "n_frames", 1)) > 1 and image.format != "MPO":
                raise ValueError(f"{frames} frames: keep one")
            yield image
    # Pillow's decoders raise errors of every kind at spoilt bytes, SyntaxError and RuntimeError among them.
    except Exception as error:
        if names_cause(error, path):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} is not a readable image ({reason}); replace it or move it away") from None


def upright(image: Image.Image) -> Image.Image:
    """The image in RGB, turned as its EXIF says."""
    return ImageOps.exif_transpose(image).convert("RGB")
