"""Data sets that torchvision downloads. To add one of colour images, add an entry.

Only the standard library is imported here, so that `--help` answers at once.
"""

from dataclasses import dataclass
from typing import Callable


@dataclass(frozen=True)
class Download:
    """Describes a data set to download.

    kind: its class in torchvision.datasets; halves: arguments of the class for training and for test images;
    files: returns URL, name and MD5 of each file, given the class; flips: whether views are flipped, in both
    directions; statistics: mean and std (None: computed from the training images).
    """

    title: str
    kind: str
    megabytes: int
    halves: tuple[dict, dict] = ({"train": True}, {"train": False})
    files: Callable[[type], list] = lambda kind: [(kind.url, kind.filename, kind.tgz_md5)]
    flips: bool = True
    statistics: tuple | None = None


CIFAR10_STATISTICS = (0.4915, 0.4823, 0.4468), (0.2047, 0.2435, 0.2616)  # as published
DOWNLOADS = {
    "cifar10": Download("CIFAR-10", "CIFAR10", 170, statistics=CIFAR10_STATISTICS),
    "cifar100": Download("CIFAR-100", "CIFAR100", 169),
    "svhn": Download(
        "SVHN",
        "SVHN",
        246,
        ({"split": "train"}, {"split": "test"}),
        lambda kind: [kind.split_list[split] for split in ("train", "test")],
        flips=False,
    ),
}
DATASETS = (*DOWNLOADS, "digits", "folder")  # --dataset
NOT_FLIPPED = {"digits", *(name for name, download in DOWNLOADS.items() if not download.flips)}
