"""Data sets as tensors: uint8 images, labels, class names, mean and std. Only this module reads image
files."""

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
from common.datasets import DATASETS, DOWNLOADS
from common.store.files import claim, names_cause
from common.values import SMALLEST_SIDE

TENSORS = ("train_images", "train_labels", "test_images", "test_labels")  # checksums depend on this order
HALVES = ("train", "test")
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")  # not EPS, for which Pillow starts a program
LARGEST_ADVISED = 64  # four times the pixels, and the training time, of the published images


@dataclass(frozen=True)
class ImageDataset:
    """Training and test images with their labels, classes and statistics.

    Images are uint8 (N, 3, H, W), labels int64 (N,). `mean` and `std` are per channel, for pixels scaled to
    [0, 1]; `normalization`: whether --normalization replaced those of the data set. `horizontal_flip`
    and `vertical_flip`: whether views are flipped. `checksum` is the SHA-256 of the whole data set,
    `train_checksum` excludes the test images. `test_files` are paths of test images below the data folder,
    empty for other data sets.
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
    normalization: bool = False
    test_files: tuple[str, ...] = ()
    test_checksum: str = ""  # set if common/test_sets.py replaced the test images

    def to(self, device: torch.device) -> "ImageDataset":
        """Returns the data set with its tensors on `device`."""
        return replace(self, **{field: getattr(self, field).to(device) for field in TENSORS})

    @property
    def evaluated(self) -> str:
        """The checksum on which evaluations depend; it includes the test set and --normalization."""
        checksum = self.test_checksum or self.checksum
        if self.normalization:
            checksum = hashlib.sha256(f"{checksum} {(self.mean, self.std)}".encode()).hexdigest()
        return checksum

    @property
    def flips(self) -> dict[str, bool]:
        """Whether training views are flipped horizontally and vertically."""
        return {flip: getattr(self, flip) for flip in FLIPS}

    @property
    def pixel_settings(self) -> dict:
        """The settings of a configuration that turn images into network input."""
        settings = self.flips
        if self.normalization:
            settings["normalization"] = [list(self.mean), list(self.std)]
        return settings

    @property
    def normalization_text(self) -> str:
        """Mean and std as text: `mean 0.4915,0.4823,0.4468 std 0.2047,0.2435,0.2616`."""
        texts = (",".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        return "mean {} std {}".format(*texts)

    def normalized_by(self, mean: tuple[float, ...], std: tuple[float, ...]) -> "ImageDataset":
        """Returns the data set for networks that see (pixel - mean) / std, per channel, pixels in [0, 1]."""
        if (mean, std) == (self.mean, self.std):
            return self
        return replace(self, mean=mean, std=std, normalization=True)

    def facts(self) -> dict:
        """Returns what a checkpoint records about its data."""
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


def same_training_images(first: dict, second: dict) -> bool:
    """Whether two `ImageDataset.facts` describe the same training images; training depends on nothing else.

    Older records lack `train_checksum`; then the checksum of training and test images decides.
    """
    key = "train_checksum" if "train_checksum" in first and "train_checksum" in second else "checksum"
    return first[key] == second[key]


def dataset_name(dataset: str, data_dir: str) -> str:
    """Returns the name of the data set in paths and tables: cifar10, digits, ... or the name of the folder.

    Raises:
        UserError: the folder has the name of a built-in data set, or one that cannot be printed.
    """
    if dataset != "folder":
        return dataset
    name = Path(data_dir).resolve().name
    if name in (*DOWNLOADS, "digits", "") or re.fullmatch(r"seed_\d+", name):
        raise UserError(
            f"--data_dir {data_dir}: a folder named {name!r} would overwrite results of other data or seeds; "
            "rename it"
        )
    if not name.isprintable():
        raise UserError(
            f"--data_dir: models and tables are named after the folder, but {name!r} has characters that "
            "cannot be printed; rename it"
        )
    return name


def load_dataset(dataset: str, data_dir: str, follow_links: bool = False) -> ImageDataset:
    """Loads a data set on the CPU.

    Args:
        dataset: a name in DATASETS.
        data_dir: the folder for downloads, or the folder with train/ and test/.
        follow_links: whether links may lead out of that folder.
    Raises:
        UserError: the data is unknown, missing, damaged or unusable.
    """
    if dataset not in DATASETS:
        raise UserError(f"{dataset!r} is no data set; give one of {', '.join(DATASETS)}")
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
    """Returns mean and standard deviation per channel of uint8 (N, 3, H, W), scaled to [0, 1].

    A constant channel gets the standard deviation 1.
    """
    # Counting the 256 levels of each channel is exact and needs no float copy of the images.
    levels = torch.arange(256, dtype=torch.float64) / 255
    counts = [torch.bincount(channel.flatten().int(), minlength=256) for channel in images.unbind(1)]
    shares = torch.stack(counts).double() / counts[0].sum()
    mean = shares @ levels
    std = (shares * (levels - mean[:, None]) ** 2).sum(1).sqrt()
    std[std < 1e-6] = 1.0
    return tuple(tuple(round(value, 6) for value in values.tolist()) for values in (mean, std))


def _load_digits() -> ImageDataset:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    grey = np.round(digits.images * (255 / 16)).astype(np.uint8)  # levels are 0 to 16
    pixels = grey[:, None].repeat(3, 1)
    train_images, test_images, train_labels, test_labels = map(
        torch.from_numpy,
        train_test_split(pixels, digits.target, test_size=500, stratify=digits.target, random_state=0),
    )
    return ImageDataset(
        "digits",
        "digits 8x8",
        train_images,
        train_labels,
        test_images,
        test_labels,
        tuple("0123456789"),
        *channel_statistics(train_images),
        horizontal_flip=False,  # a flipped 6 is a 9
        vertical_flip=False,
    )


def _load_downloaded(root: Path, name: str) -> ImageDataset:
    from torchvision import datasets
    from torchvision.datasets.utils import check_integrity, download_url, extract_archive

    download = DOWNLOADS[name]
    dataset_class = getattr(datasets, download.kind)

    for path in [*root.glob("*.*"), *root.glob("cifar-*/*")]:
        refuse_pipe(path)

    def read() -> list:
        """Returns training and test set, or nothing if a file is missing or damaged: torchvision checks the
        checksum of every file before unpickling or parsing it."""
        try:
            return [dataset_class(str(root), **half) for half in download.halves]
        except RuntimeError:
            return []

    def fetch() -> list:
        files = download.files(dataset_class)
        problem, names = f"no intact {download.title} in {root}", " and ".join(file[1] for file in files)
        logger.info(f"{problem}: reading {names}, missing files are downloaded ({download.megabytes} MB)")
        try:
            for url, file, md5 in files:
                path = root / file
                if not os.path.lexists(path):  # under a hidden name until it is complete
                    download_url(url, str(root), f".{file}", md5)
                    (root / f".{file}").replace(path)
                elif not check_integrity(str(path), md5):
                    raise UserError(
                        f"--dataset {name}: {problem}: {path} is damaged or incomplete; move it away "
                        "to download it again, or replace it with an intact copy"
                    )
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            if names_cause(error, root) and not isinstance(error, ConnectionError | TimeoutError):
                raise
            raise UserError(
                f"--dataset {name}: {problem} and the download failed ({error}); put {names} from the "
                f"{download.title} home page into {root}, or use --dataset digits, which needs no download"
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
                f"{download.title}; give --dataset folder, or another --data_dir"
            )
        with claim(root / download.title, wait=True):  # one process downloads, others wait
            halves = read() or fetch()
    tensors = []
    for half in halves:
        images = torch.from_numpy(half.data)
        if images.shape[1] != 3:
            images = images.permute(0, 3, 1, 2)
        labels = torch.as_tensor(half.targets if hasattr(half, "targets") else half.labels).long()
        tensors += [images.contiguous(), labels]
    classes = getattr(halves[0], "classes", range(labels.max() + 1))
    statistics = download.statistics or channel_statistics(tensors[0])
    names = tuple(map(str, classes))
    return ImageDataset(name, download.title, *tensors, names, *statistics, download.flips, download.flips)


def _load_folder(root: Path, name: str, follow_links: bool) -> ImageDataset:
    class_names, halves = list_folder(root, follow_links)
    paths = [path for files in halves.values() for path in itertools.chain(*files)]

    def read(index: int) -> None:
        with open_image(paths[index], (width, height)) as image:
            if image.size != (width, height):  # checked before the pixels are decoded
                side = max(SMALLEST_SIDE, min(width, height, *image.size, LARGEST_ADVISED))
                target = root.parent / f"{name}_{side}"
                command = ["python", "benchmarks/prepare_images.py", root, target, "--size", side]
                raise UserError(
                    f"--data_dir {root}: images of different sizes, {paths[0]} {width}x{height} and "
                    f"{paths[index]} {image.width}x{image.height}; resize them: "
                    f"{shlex.join(map(str, command))}"
                )
            pixels[index] = np.asarray(image).transpose(2, 0, 1)

    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        warnings.simplefilter("ignore")  # Pillow's; unreadable files raise an error anyway
        warnings.filterwarnings("error", "Image size")  # decoding would take gigabytes
        with open_image(paths[0]) as image:
            width, height = image.size
        pixels = np.empty((len(paths), 3, height, width), np.uint8)
        list(pool.map(read, range(len(paths))))
    if min(height, width) < SMALLEST_SIDE:
        smallest = f"{SMALLEST_SIDE}x{SMALLEST_SIDE}"
        raise UserError(f"--data_dir {root}: images of {width}x{height}, at least {smallest} is needed")
    trained = sum(map(len, halves["train"]))
    labels = [label for files in halves.values() for label, images in enumerate(files) for _ in images]
    pixels, labels = torch.from_numpy(pixels), torch.tensor(labels)
    train, test = pixels[:trained], pixels[trained:]
    return ImageDataset(
        name,
        name,
        train,
        labels[:trained],
        test,
        labels[trained:],
        tuple(class_names),
        *channel_statistics(train),
        horizontal_flip=True,
        vertical_flip=True,
        test_files=tuple(path.relative_to(root).as_posix() for path in paths[trained:]),
    )


def visible(folder: Path) -> list[Path]:
    """Returns the files and folders in a folder, sorted by name, without hidden ones.

    Raises:
        OSError: the folder is not readable; a glob would treat it as empty.
    """
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def refuse_link_out(path: Path, root: Path) -> None:
    """Refuses links that lead out of the folder `root`.

    Raises:
        UserError: the path leads out of `root`.
    """
    if root.resolve() not in Path(os.path.realpath(path)).parents:
        raise UserError(f"{path} is a link out of {root}; replace it with a copy, or give --follow_links")


def list_folder(root: Path, follow_links: bool) -> tuple[list[str], dict[str, list[list[Path]]]]:
    """Returns the class names, and for `train` and `test` the files of each class.

    The order of classes and images is that of torchvision's ImageFolder, without hidden files. Files outside
    class folders, which ImageFolder would ignore, are refused; so are links out of `root`, unless
    `follow_links`.

    Raises:
        UserError: the folder does not have the structure of a data set.
    """
    for half in HALVES:
        if not (root / half).is_dir():
            raise UserError(
                f"--data_dir {root} has no folder {half}/; it must hold train/CLASS/* and test/CLASS/* "
                "(benchmarks/prepare_images.py --test_share splits a folder of classes into both)"
            )
        for path in visible(root / half):
            if not path.is_dir():
                raise UserError(
                    f"--data_dir {root}: {half}/{path.name} is outside the class folders; move it into one "
                    f"({half}/CLASS/{path.name}), or out of {half}/"
                )
    class_names, test_classes = ([path.name for path in visible(root / half)] for half in HALVES)
    if unknown_classes := sorted({*test_classes} - {*class_names}):
        raise UserError(
            f"--data_dir {root}: test/ has classes that train/ lacks: {', '.join(unknown_classes)}"
        )
    if unprintable := [name for name in class_names if not name.isprintable()]:
        raise UserError(f"--data_dir {root}: the class name {unprintable[0]!r} cannot be printed; rename it")
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
def open_image(path: Path, size: tuple[int, int] | None = None) -> Iterator[Image.Image]:
    """Opens an image, in RGB and rotated as its EXIF data requests. The pixels of an image that cannot have
    `size`, (width, height), are not decoded.

    Raises:
        UserError: the image is unsuitable, or the body of the `with` statement cannot decode it.
    """
    try:
        if not path.is_file():  # opening a pipe would block
            raise ValueError("not a file")
        with Image.open(path, formats=FORMATS) as image:
            # Pillow would truncate 16 or 32 bits or clip them to 255.
            if image.mode.startswith(("I", "F")) or re.search(";16[BLN]", str(image.tile)):
                raise ValueError("more than 8 bits per channel: convert it to 8 bits")
            # MPO is a JPEG that many cameras write; its first frame is the photograph.
            if (frames := getattr(image, "n_frames", 1)) > 1 and image.format != "MPO":
                raise ValueError(f"{frames} frames: keep one")
            if size is None or sorted(image.size) == sorted(size):
                image = ImageOps.exif_transpose(image).convert("RGB")
            yield image
    # For damaged files Pillow raises errors of every type, even SyntaxError and RuntimeError.
    except Exception as error:
        if names_cause(error, path):
            raise
        reason = str(error) or type(error).__name__
        raise UserError(f"{path} is not a readable image ({reason}); replace it or move it away") from None
