"""Reads, computes and writes for figures/compare_predictions.py, which finds PIEs in predictions.

K networks, N images, C classes.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from common import metrics
from common.cli import UserError
from common.store.files import names_cause
from figures.report import contents, measures, outputs, page, uncertainty
from figures.report.page import PIE_COUNTS, Column, text_column
from figures.report.read import Networks, StoredPopulation
from figures.report.tables import write_tables

BLOCK = 2**24  # probabilities in memory at once
LARGEST_ID = 10**5  # a larger one without --names marks something else, and votes for it fill memory
SUM_ERROR = 0.02  # tolerance for sums of probabilities, which may be stored as float16
SHOWN_CLASSES, SHOWN_PIES, THUMBNAIL = 20, 48, 96  # numbers on the page; size in pixels
COMPARISONS = (
    text_column("name", "pruned networks"),
    Column("dense_accuracy", "dense accuracy (%)", 100, 2),
    *PIE_COUNTS,
    Column("lost", "lost"),
    Column("gained", "gained"),
    Column("wrong", "wrong twice"),
    Column("probability_change", "change of probabilities", 1, 5),
)
CLASSES = (
    text_column("class"),
    Column("images", "images"),
    Column("pies", "PIEs"),
    Column("share", "PIEs (% of the class)", 100, 1),
    Column("dense_recall", "dense recall (%)", 100, 1),
    Column("recall", "recall (%)", 100, 1),
)
PIES = (
    text_column("image"),
    text_column("label"),
    text_column("dense", "dense vote"),
    Column("dense_agreeing", "networks"),
    text_column("pruned", "pruned vote"),
    Column("pruned_agreeing", "networks"),
    text_column("kind"),
    Column("confidence", "confidence", 1, 2),
)


class Predictions(NamedTuple):
    """Predicted classes (K, N), and the probabilities (K, N, C) if given, as a memory map."""

    classes: np.ndarray
    probabilities: np.ndarray | None = None


# Inputs


def read_array(flag: str, file: Path) -> np.ndarray:
    """Opens the array of a .npy file as a memory map.

    Raises:
        UserError: it is not such a file.
    """
    if not file.is_file():
        raise UserError(f"{flag} {file} is not a file; give a .npy file")
    try:
        return np.lib.format.open_memmap(file, mode="r")
    except Exception as error:  # a damaged header raises errors of several types
        if names_cause(error, file):
            raise
        raise UserError(f"{flag} {file} is not a .npy file of numbers ({error})") from None


def read_labels(file: Path) -> np.ndarray:
    """Reads true class ids (N,).

    Raises:
        UserError: the file holds something else.
    """
    labels = read_array("--labels", file)
    is_list = labels.ndim == 1 and labels.dtype.kind in "iu" and labels.size
    if not is_list or not 0 <= labels.min() <= labels.max() < 2**31:
        raise UserError(f"--labels {file}: shape {labels.shape}, {labels.dtype}; give N class ids, from 0")
    return labels.astype(int)


def read_predictions(flag: str, file: Path, images: int) -> Predictions:
    """Reads class ids, or probabilities, from which it takes the likeliest class (the first in a tie).

    Raises:
        UserError: the shape, the number of images or the type is wrong.
    """
    array = read_array(flag, file)
    is_ids = array.ndim == 2 and array.dtype.kind in "iu"
    if (
        not (is_ids or array.ndim == 3 and array.dtype.kind == "f")
        or not array.size
        or array.shape[1] != images
    ):
        raise UserError(
            f"{flag} {file}: shape {array.shape}, {array.dtype}; give class ids (whole numbers) of K "
            f"networks x {images} images, or probabilities, K x {images} x C"
        )
    if is_ids and array.min() < 0:
        raise UserError(f"{flag} {file}: class ids start at 0, not at {array.min()}")
    return Predictions(array) if is_ids else Predictions(likeliest(f"{flag} {file}", array), array)


def blocks(probabilities: np.ndarray) -> list[slice]:
    """Returns slices of the images for which the probabilities of all networks fit into memory."""
    networks, images, classes = probabilities.shape
    step = max(1, BLOCK // (networks * classes))
    return [slice(start, start + step) for start in range(0, images, step)]


def likeliest(what: str, probabilities: np.ndarray) -> np.ndarray:
    """(K, N, C) probabilities -> (K, N) likeliest classes.

    Args:
        what: the name of the array in the error message.
    Raises:
        UserError: they are not probabilities.
    """
    classes = np.empty(probabilities.shape[:2], np.int32)
    for block in blocks(probabilities):
        values = probabilities[:, block].astype(np.float32)
        if not ((values >= 0).all() and (abs(values.sum(2) - 1) < SUM_ERROR).all()):  # catches NaN
            raise UserError(
                f"{what}: probabilities must be at least 0 and sum to 1; give the softmax, or class ids"
            )
        classes[:, block] = values.argmax(2)
    return classes


def read_class_names(file: Path | None, labels: np.ndarray, predictions: list[Predictions]) -> list[str]:
    """Returns the names of the classes; without a file, their ids.

    Raises:
        UserError: arrays and names differ in the number of classes.
    """
    largest = max(int(ids.max()) for ids in (labels, *(item.classes for item in predictions)))
    counts = {item.probabilities.shape[2] for item in predictions if item.probabilities is not None}
    if file and not file.is_file():
        raise UserError(f"--names {file} is not a file; give one with a name in each line")
    text = file.read_text("utf-8-sig", "replace").rstrip() if file else ""
    names = [line.strip() for line in text.splitlines()]
    if len({*names}) < len(names):
        raise UserError(f"--names {file} holds a name twice")
    counts |= {len(names)} if file else set()
    count = min(counts, default=largest + 1)
    if not counts and largest > LARGEST_ID:
        raise UserError(f"the arrays have class id {largest}; give ids from 0 without gaps, or --names")
    if len(counts) > 1 or largest >= count:
        text = ", ".join(map(str, sorted(counts)))
        raise UserError(
            f"the arrays have class id {largest}, probabilities and --names {text} classes; ids start at 0"
        )
    return names or [str(index) for index in range(count)]


def notes(labels: np.ndarray, dense: Predictions, pruned: dict[str, Predictions]) -> list[str]:
    """Returns notes on arrays that may not belong together."""
    texts = [
        f"note: {len(dense.classes)} dense networks, {len(item.classes)} of {name}: equally many are "
        "compared, the first ones"
        for name, item in pruned.items()
        if len(item.classes) != len(dense.classes)
    ]
    largest = max(int(item.classes.max()) for item in (dense, *pruned.values()))
    if labels.min() == 1 and labels.max() > largest:
        texts.append(
            f"note: labels run from 1 to {labels.max()}, predictions to {largest}; class ids start at 0: "
            "subtract 1 from labels that were counted from 1"
        )
    return texts


def image_files(folder: Path, images: int) -> list[Path]:
    """Returns the image files of a folder, sorted by path.

    Raises:
        UserError: their number differs from `images`.
    """
    from PIL import Image

    endings = Image.registered_extensions()
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in endings)
    if len(files) != images:
        raise UserError(
            f"--images {folder}: {len(files)} images, the arrays have {images}; give all, in the same order"
        )
    return files


# Computations


def compare(
    name: str, dense: Predictions, pruned: Predictions, labels: np.ndarray, class_names: list[str]
) -> StoredPopulation:
    """Compares equally many dense and pruned networks, the first ones of each.

    Returns:
        a population of this name with arrays (N,) like those of a PIE script, and probability_change: that of
        the mean probabilities, NaN without probabilities.
    """
    count, classes = min(len(dense.classes), len(pruned.classes)), len(class_names)
    empty, class_type = np.zeros((0, len(labels))), np.min_scalar_type(classes)
    networks = [
        Networks(
            np.arange(count), side.classes[:count].astype(class_type), empty, np.arange(0), empty, classes
        )
        for side in (dense, pruned)
    ]
    change = np.full(len(labels), np.nan)
    if dense.probabilities is not None and pruned.probabilities is not None:
        for block in blocks(dense.probabilities):
            sides = (side.probabilities[:count, block] for side in (dense, pruned))
            change[block] = metrics.probability_changes(*sides)
    arrays = {
        "labels": labels,
        "class_names": np.array(class_names),
        **metrics.disagreement(*(side.predictions for side in networks), classes),
        "probability_change": change,
    }
    return StoredPopulation("", name, 0.0, Path(), arrays, {}, {}, None, *networks)


def kinds_of_pies(population: StoredPopulation) -> dict[str, np.ndarray]:
    """Returns which images are lost, gained, or wrong in both: (N,) bool each."""
    arrays = population.arrays
    return metrics.lost_and_gained(arrays["dense_modal_labels"], arrays["modal_labels"], arrays["labels"])


def comparison_row(population: StoredPopulation) -> dict:
    """Returns a row of numbers with 95 % intervals over draws of the seeds."""
    dense = (population.reference.predictions == population.labels).mean(1)
    row = {
        "name": population.pruning_method,
        "networks": len(dense),
        "dense_accuracy": uncertainty.mean_estimate(dense),
        **{
            name: measures.estimate(name, population)
            for name in ("accuracy", "accuracy_lost", "pies", "excess")
        },
        "noise_floor": measures.noise_floor(population, population.seeds),
    }
    counts = {kind: int(chosen.sum()) for kind, chosen in kinds_of_pies(population).items()}
    return row | counts | {"probability_change": population.arrays["probability_change"].mean()}


def pie_rows(population: StoredPopulation, images: list[Path]) -> list[dict]:
    """Returns a row per PIE, the most confident disagreement first, with columns in the order of `PIES`."""
    columns = dict.fromkeys(column.name for column in PIES)
    rows = [
        {
            **columns,
            "image": str(images[image] if images else image),
            **contents.votes_on(population, image),
            "kind": kind,
            "probability_change": population.arrays["probability_change"][image],
        }
        for kind, chosen in kinds_of_pies(population).items()
        for image in np.flatnonzero(chosen)
    ]
    return sorted(rows, key=lambda row: -row["confidence"])


def class_rows(population: StoredPopulation) -> list[dict]:
    """Returns a row per class that has images, the largest share of PIEs first."""
    classes = population.pruned.classes
    images = np.bincount(population.labels, minlength=classes)
    pies = metrics.pies_per_class(population.is_pie, population.labels, classes)
    dense, pruned = (
        metrics.class_recalls(networks.predictions, population.labels, classes).mean(0)
        for networks in population.sides
    )
    rows = [
        {
            "name": population.pruning_method,
            "class": population.class_names[index],
            "images": int(images[index]),
            "pies": int(pies[index]),
            "share": pies[index] / images[index],
            "dense_recall": dense[index],
            "recall": pruned[index],
        }
        for index in np.flatnonzero(images)
    ]
    return sorted(rows, key=lambda row: -row["share"])


# Outputs


def write_report(folder: Path, compared: list[StoredPopulation], images: list[Path]) -> list[str]:
    """Writes tables and page; returns the lines to print."""
    rows = [*map(comparison_row, compared)]
    tables, details = {"comparisons": rows, "classes": []}, []
    for population in compared:
        name = population.pruning_method
        pies, classes = pie_rows(population, images), class_rows(population)
        tables[f"pies_{name}"] = pies
        tables["classes"] += classes
        details.append(
            {
                "name": name,
                "number": len(pies),
                "classes": page.tabulate(CLASSES, classes[:SHOWN_CLASSES]),
                "pies": page.tabulate(PIES, pies[:SHOWN_PIES]),
                "gallery": [row | {"source": thumbnail(row["image"])} for row in pies[:SHOWN_PIES] if images],
            }
        )
    write_tables(folder, tables)
    first = compared[0]
    values = {
        "title": "PIEs from predictions",
        "images": len(first.labels),
        "classes": first.pruned.classes,
        "comparisons": page.tabulate(COMPARISONS, rows),
        "details": details,
    }
    outputs.write_page(folder, page.TEMPLATES.get_template("predictions.html").render(values))
    lines = []
    for row in rows:
        number = row["networks"]
        line = f"{row['name']}: {page.show(row['pies'])} PIEs of {len(first.labels)} images, K = {number}"
        excess = (
            f"; {page.show(row['excess'], 1, 1)} more than a change of seeds causes, at K = {number // 2}"
        )
        lines.append(line + excess * (number > 1))
    return lines


def thumbnail(file: str) -> str:
    """Returns a small picture as a data URI.

    Raises:
        UserError: the file is not an image.
    """
    from PIL import Image

    try:
        with Image.open(file) as image:
            small = image.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"--images: {file} cannot be read ({error})") from None
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    return page.png_uri(page.png_of(np.asarray(small).transpose(2, 0, 1)))
