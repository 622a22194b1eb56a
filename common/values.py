"""Parsers for the values of flags: functions that take a text and raise ArgumentTypeError.

Does not import torch, so that `--help` answers at once.
"""

import math
import os
import re
from argparse import ArgumentTypeError
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

from common import methods


def _number(kind: type, description: str, low: float, high: float) -> Callable:
    def parse(text: str):
        # Python also accepts 1_000, spaces around a number and digits of other scripts.
        value = kind(text) if re.fullmatch(NUMBERS[kind], text) else None
        if value is None or not low <= value <= high:
            raise ArgumentTypeError(f"{text!r} is not {description}")
        return value + 0  # turns -0.0 into 0.0

    return parse


def _whole_number(low: int, high: int) -> Callable:
    return _number(int, f"a whole number from {low} to {high}", low, high)


NUMBERS = {int: r"[+-]?[0-9]{1,18}", float: r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?"}
SEVERITIES = 5  # of each corruption in CIFAR-10-C
SMALLEST_SIDE = 8  # of images: the network halves them twice
LARGEST_INTEGER = 2**31 - 1
SMALLEST_FLOAT, LARGEST_FLOAT = 1e-30, 1e30  # within the range of float32
BELOW_ONE = math.nextafter(1, 0)  # the largest float below 1
positive_integer = _whole_number(1, LARGEST_INTEGER)
natural_number = _whole_number(0, LARGEST_INTEGER)
# Ids are below the difference of a million between total seeds. After 1000 iterations at the smallest --rate
# nothing is left to prune.
model_id = _whole_number(0, 999_999)
model_count = _whole_number(1, 1_000_000)
iteration_count = _whole_number(1, 1000)
thread_count = _whole_number(1, 1024)
positive_float = _number(float, "a number above 0, from 1e-30 to 1e30", SMALLEST_FLOAT, LARGEST_FLOAT)
natural_float = _number(float, "a number of 0 or more, to 1e30", 0, LARGEST_FLOAT)
pixel_value = _number(float, "a number from 0 to 1, for pixels in [0, 1]: divide by 255", 0, 1)
milestone_factor = _number(float, "a number above 0, to 10", SMALLEST_FLOAT, 10)
widen_factor = _whole_number(1, 64)
severity = _whole_number(1, SEVERITIES)
fraction = _number(float, "a number from 0 up to, not including, 1", 0, BELOW_ONE)
pruning_rate = _number(float, "a number from 0.01 to 0.99", 0.01, 0.99)


def _without_duplicates(values: list, text: str) -> list:
    if len(set(values)) < len(values):
        raise ArgumentTypeError(f"{text!r} contains a value twice")
    return values


def sparsity_list(text: str) -> list[float]:
    """Parses distinct sparsities, at least 0 and below 1: `0.3,0.5` -> [0.3, 0.5]."""
    return _without_duplicates([fraction(part) for part in text.split(",")], text)


def pruned_sparsity_list(text: str) -> list[float]:
    """Parses sparsities above 0; dense networks are always compared and need not be given."""
    sparsities = sparsity_list(text)
    if 0.0 in sparsities:
        raise ArgumentTypeError(
            "0 is the dense network, or --pruning_methods finetuned: give sparsities above 0"
        )
    return sparsities


def model_depth(text: str) -> int:
    """Parses the depth of a WideResNet: 6 n + 4 layers, from 10 to 1000."""
    depth = positive_integer(text)
    if not 10 <= depth <= 1000 or depth % 6 != 4:
        raise ArgumentTypeError(
            f"{depth} is not the depth of a WideResNet: 10, 16, 22, 28, ... (6 n + 4), up to 1000"
        )
    return depth


def pruning_method_list(text: str) -> list[str]:
    """Parses `GMP,global,later GMP` into ['GMP', 'global', 'later_GMP']; `GMP_later` also means later_GMP."""
    names = [part.strip().replace(" ", "_").replace("GMP_later", "later_GMP") for part in text.split(",")]
    for name in names:
        if name == "dense" or methods.parse_method(name) is None:
            raise ArgumentTypeError(
                f"{name!r} is no pruning method: global, GMP, later_GMP, layer, global_snip, GMP_global, "
                "global_iterative0.2_rewind0, ... as in the file names of the models"
            )
    return _without_duplicates(names, text)


def epoch_list(text: str) -> list[int]:
    """Parses `0,2` into [0, 2]: numbers of epochs done, or epochs counted from 0."""
    return sorted({natural_number(part) for part in text.split(",")})


def channel_values(text: str) -> tuple[float, ...]:
    """Parses `0.4914,0.4822,0.4465`: a number from 0 to 1 for each colour channel."""
    parts = text.split(",")
    if len(parts) != 3:
        raise ArgumentTypeError(f"{text!r} is not three numbers separated by commas")
    return tuple(map(pixel_value, parts))


def encoder_name(text: str) -> str:
    """Checks the first part of an encoder's file names; the scripts append depth, width and projection head
    unless they are 16, 2 and mlp."""
    if not re.fullmatch(r"(?!.*(-\d+-\d+|-linear)$)[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", text):
        raise ArgumentTypeError(
            f"{text!r} is not a plain name: up to 100 letters, digits, '_', '.', '-'; depth, width and "
            "projection head are appended by the script"
        )
    return text


def run_name(text: str) -> str:
    """Checks the name of a run, which is also a folder's name."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.=-]{0,63}", text):
        raise ArgumentTypeError(f"{text!r} is not a plain name: up to 64 letters, digits, '_', '.', '=', '-'")
    return text


def path(text: str) -> str:
    """Checks a path and replaces `~` by the home directory."""
    expanded = os.path.expanduser(text)
    if not expanded or expanded.startswith("~"):
        raise ArgumentTypeError(f"{text!r} is not a path: give its name (./~... if it starts with ~)")
    return expanded


def file_path(text: str) -> Path:
    """Like `path`, but returns a `Path`."""
    return Path(path(text))


def model_folder(text: str) -> str:
    """Checks a folder of models; the published scripts took path templates here."""
    text = path(text)
    if "{" in text or "}" in text:
        raise ArgumentTypeError(f"{text!r} is a template: give a folder, the script chooses the file names")
    if Path(text).exists() and not Path(text).is_dir():
        raise ArgumentTypeError(f"{text!r} is a file: give a folder")
    return text


@dataclass(frozen=True)
class Interval:
    """A number of epochs or of seconds; the other one is infinite."""

    epochs: float = math.inf
    seconds: float = math.inf


def interval(text: str) -> Interval:
    """Parses `10`, a number of epochs, or `5min`, minutes."""
    if text.endswith("min"):
        return Interval(seconds=60 * positive_float(text.removesuffix("min")))
    return Interval(epochs=positive_integer(text))
