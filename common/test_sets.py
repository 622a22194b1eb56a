"""Alternative test sets: a folder, CIFAR-10.1, CIFAR-10.2, CIFAR-10-C, corruptions of the clean images."""

import hashlib
import io
from dataclasses import replace
from pathlib import Path
from typing import Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from common.augment import stream
from common.cli import UserError, refuse_pipe
from common.corruptions import CORRUPTIONS
from common.data import ImageDataset, open_image, refuse_link_out, visible
from common.store.files import check_size, names_cause
from common.values import SEVERITIES, run_name


def other_test_sets(
    data: ImageDataset, test_set: str | None, severity: int | None = None, follow_links: bool = False
) -> Iterator[tuple[str, ImageDataset]]:
    """Yields the name of each test set, and the data with its images in place of the clean ones; ("", data)
    for None.

    `checksum` stays that of the clean data; `evaluated` becomes that of the test set. Data is on the CPU.

    Raises:
        UserError: the test set is missing or damaged, or has different classes or image sizes; `severity` is
            given without a file of severities.
    """
    if severity and not (test_set or "").endswith(".npy"):
        raise UserError(
            "--severity needs a file of CIFAR-10-C: give --test_set fog.npy, say, or leave it out"
        )
    if test_set is None:
        yield "", data
        return
    for name in CORRUPTIONS if test_set == "corrupted" else [test_set]:
        path, files = Path(name), ()
        if name in CORRUPTIONS:
            images, labels, files = corrupt(data.test_images, name), data.test_labels, data.test_files
        elif name and path.is_dir() and not severity:
            images, labels, files = _read_folder(path, data, follow_links)
        elif path.suffix in (".npy", ".npz"):
            images, labels = _read_file(path, data, severity)
        else:
            raise UserError(
                f"--test_set {name!r}: neither a folder, a .npy or .npz file, 'corrupted' nor one of "
                f"{', '.join(CORRUPTIONS)}"
            )
        short = name if name in CORRUPTIONS else _name_of(path)
        short += f"_severity{severity}" if severity else ""
        digest = hashlib.sha256(data.checksum.encode())
        for tensor in (images, labels):
            digest.update(np.ascontiguousarray(tensor.numpy()))
        yield (
            short,
            replace(
                data,
                title=f"{data.title}, test set {short}",
                test_images=images,
                test_labels=labels,
                test_files=files,
                test_checksum=digest.hexdigest(),
            ),
        )


def corrupt(images: Tensor, name: str) -> Tensor:
    """Applies a corruption of `CORRUPTIONS` to uint8 images (N, 3, H, W); every process gets the same
    result."""
    from torchvision.transforms.v2 import functional

    kind, strength = CORRUPTIONS[name]
    if kind == "blur":
        return functional.gaussian_blur(images, [5, 5], [strength, strength])
    if kind == "contrast":
        return functional.adjust_contrast(images, strength)
    if kind == "jpeg":
        return torch.stack([_jpeg(image, strength) for image in images])
    noisy = torch.empty_like(images)
    for index, image in enumerate(images):
        noise = torch.randn(image.shape, generator=stream("test set", name, index))
        noisy[index] = (image + 255 * strength * noise).round().clamp(0, 255)
    return noisy


def _jpeg(image: Tensor, quality: int) -> Tensor:
    """Compresses a uint8 image (3, H, W) and decodes it again."""
    compressed = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(compressed, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(compressed))).permute(2, 0, 1)


def _name_of(path: Path) -> str:
    """Returns the name of the result folder of a test set."""
    name = path.resolve().name.removesuffix(path.suffix if path.is_file() else "").removesuffix("_data")
    try:
        if name in CORRUPTIONS:
            raise ValueError
        return run_name(name)
    except Exception:
        raise UserError(
            f"--test_set {path}: {name!r} cannot name a result folder; rename it: only letters, digits, '_', "
            "'.', '=' and '-', and not the name of a corruption"
        ) from None


def _read_folder(
    root: Path, data: ImageDataset, follow_links: bool
) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Returns images, labels and file names of CLASS/IMAGE below `root`."""
    folders, classes = {path.name for path in visible(root) if path.is_dir()}, {*data.class_names}
    unmatched = {"missing": classes - folders, "unknown": folders - classes}
    if words := [f"{what}: {', '.join(sorted(names))}" for what, names in unmatched.items() if names]:
        raise UserError(
            f"--test_set {root}: its folders are not the classes of {data.name}; {'; '.join(words)}"
        )
    height, width = data.test_images.shape[-2:]
    pixels, labels, files = [], [], []
    for label, name in enumerate(data.class_names):
        for path in visible(root / name):
            if not follow_links:
                refuse_link_out(path, root)
            with open_image(path, (width, height)) as image:
                if image.size != (width, height):
                    raise UserError(
                        f"--test_set: {path} must be {width}x{height} pixels like {data.name}; resize it"
                    )
                pixels.append(np.asarray(image).transpose(2, 0, 1))
            labels.append(label)
            files.append(path.relative_to(root).as_posix())
        if label not in labels:
            raise UserError(f"--test_set {root}: no images in {name}")
    return torch.from_numpy(np.stack(pixels)), torch.tensor(labels), tuple(files)


def _read_file(path: Path, data: ImageDataset, severity: int | None) -> tuple[Tensor, Tensor]:
    """Returns images and labels of CIFAR-10.1 (..._data.npy with ..._labels.npy beside it), CIFAR-10.2 (.npz)
    or CIFAR-10-C (one of five blocks, chosen by `severity`, with labels.npy beside it)."""
    try:
        if path.suffix == ".npz":
            check_size(path)
            with np.load(path, allow_pickle=False) as arrays:
                images, labels = arrays["images"], arrays["labels"]
        else:
            if not severity and not path.stem.endswith("_data"):
                raise UserError(
                    f"--test_set {path}: its name does not end in _data.npy; for CIFAR-10-C give --severity"
                )
            labels_path = path.with_name(
                "labels.npy" if severity else path.name.replace("_data.", "_labels.")
            )
            for file in (path, labels_path):
                refuse_pipe(file)
            images, labels = (np.load(file, allow_pickle=False) for file in (path, labels_path))
        if severity:
            images, labels = (np.split(array, SEVERITIES)[severity - 1] for array in (images, labels))
        images, labels = map(np.asarray, (images, labels))  # a .npy may be an archive
    # Damaged archives raise errors of several types.
    except Exception as error:
        if names_cause(error, path) and not isinstance(error, FileNotFoundError):
            raise
        reason = str(error) or type(error).__name__
        raise UserError(f"--test_set {path}: cannot be read ({reason}); download it again") from None
    shape, classes = (*data.test_images.shape[-2:], 3), len(data.class_names)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != shape or not len(images):
        raise UserError(
            f"--test_set {path}: images are {images.dtype} {images.shape}, "
            f"not uint8 (N, {shape[0]}, {shape[1]}, 3)"
        )
    one_each = labels.dtype.kind in "iu" and labels.shape == images.shape[:1]
    if not one_each or not 0 <= labels.min() <= labels.max() < classes:
        raise UserError(f"--test_set {path}: each image needs a label between 0 and {classes - 1}")
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), torch.from_numpy(labels.astype(np.int64))
