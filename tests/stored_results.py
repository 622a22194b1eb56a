"""A folder of results as the PIE and depth scripts leave it, of networks that never were: their outputs are
made up, what follows from these is computed. No figure is drawn."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common import metrics
from common.store.files import read_arrays, write_arrays
from common.store.table import table_path, write_rows
from figures.report.read import StoredPopulation, read_populations

CLASS_NAMES = ("cat", "dog", "ship", "truck", "frog", "deer", "horse", "bird", "plane", "car")
PLACES = 5
LAYERS = {
    "conv1.weight": (4, 3, 3, 3),
    "block1.layer.0.conv1.weight": (5, 4, 3, 3),
    "block1.layer.0.convShortcut.weight": (5, 4, 1, 1),
    "fc.weight": (4, 5),
    "fc.bias": (4,),
}
MEASURED = ("lost_pies", "gained_pies", "auroc_q_score", "calibration_error", "agreement", "cka")
Key = tuple[str, str, float]  # learning method, pruning method, sparsity


@dataclass(frozen=True)
class Data:
    """Made-up test images (N, 3, 8, 8), their labels (N,), and names."""

    title: str
    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    checksum: str = "sum of the data"


@dataclass(frozen=True, eq=False)
class Networks:
    """Made-up networks of one population: ids and predictions (K, N)."""

    key: Key
    ids: list[int]
    predictions: np.ndarray
    architecture: str = "WideResNet-10-1"

    @property
    def stems(self) -> list[str]:
        return ["{}_{}_{}_id{}".format(*self.key, model_id) for model_id in self.ids]

    @property
    def checksums(self) -> list[str]:
        parts = ("",) if self.key[0] == "supervised" else ("encoder of ", "head of ")
        return ["+".join(f"sum of {part}{stem}" for part in parts) for stem in self.stems]


def make_data(name: str, images: int = 60, classes: int = 4) -> Data:
    rng = np.random.default_rng([0, images, classes])
    pixels = rng.integers(0, 256, (images, 3, 8, 8), dtype=np.uint8)
    return Data(name, pixels, rng.integers(0, classes, images), CLASS_NAMES[:classes])


def make_results(
    folder: Path,
    *,
    models: int = 7,
    learning: tuple[str, ...] = ("SupCon", "supervised"),
    methods: tuple[str, ...] = ("global", "GMP", "later_GMP"),
    sparsities: tuple[float, ...] = (0.5, 0.7, 0.9),
    images: int = 60,
    classes: int = 4,
    depths: bool = True,
    depth_models: int = 6,
    umap: bool = True,
    q_score: bool = True,
    ids: dict[Key, list[int]] | None = None,
    damage: Callable[[str, str, float], float] | None = None,
    shift: float = 0.0,
) -> None:
    """Writes results.csv and, for every learning method, evaluations/, populations/, and the arrays of
    figures.

    Args:
        folder: pies/NAME.
        depths, umap, q_score: whether those figures were asked for; Q-Scores are in evaluations/ anyway.
        ids: those of populations that have others than 0 to models - 1; dense ones are of "dense", 0.0.
        damage: learning method, pruning method, sparsity -> how far pruning moves predictions; with 0
            networks predict as the dense one of their id does. Else the sparsity.
        shift: how far other test images move the predictions of all networks, dense ones too.
    """
    data, rows = make_data(folder.name, images, classes), []
    for method in learning:
        keys = [
            (method, "dense", 0.0),
            *(
                (method, pruning, each)
                for pruning in methods
                for each in ((0.0,) if pruning == "finetuned" else sparsities)
            ),
        ]
        dense, *all_pruned = (
            predict(
                key,
                (ids or {}).get(key, list(range(models))),
                data,
                shift + (damage(*key) if damage and key[1] != "dense" else key[2]),
            )
            for key in keys
        )
        for networks in (dense, *all_pruned):
            write_evaluations(folder, networks, data)
        rows.append(write_dense(folder, dense, data))
        for pruned in all_pruned:
            rows.append(write_population(folder, dense, pruned, data))
            is_pie = metrics.find_pies(dense.predictions, pruned.predictions, classes)
            if depths:
                rows[-1] |= write_depths(folder, dense, pruned, data, depth_models)
            if q_score:
                quality = np.random.default_rng(seeds_of(pruned.key)).normal(1, 0.1, (6, images))
                kinds = ("q_score", "z_score", "l1_norm")
                names = [f"{kind}_{each}" for kind in ("dense", "pruned") for each in kinds]
                figure = {"is_pie": is_pie, **dict(zip(names, quality))}
                write_figure(folder, "q_score", dense, pruned, data, figure)
            if umap:
                write_umap(folder, dense, pruned, data, is_pie)
        if umap:
            write_umap(folder, dense, dense, data, None)
    write_rows(table_path(folder), rows)


def pruned_populations(folder: Path) -> list[StoredPopulation]:
    return [population for population in read_populations(folder) if population.pruning_method != "dense"]


def key_of(population: StoredPopulation) -> Key:
    return population.learning_method, population.pruning_method, population.sparsity


def seeds_of(key: Key) -> list[int]:
    return [ord(letter) for letter in "{} {} {}".format(*key)]


def predict(key: Key, ids: list[int], data: Data, damage: float) -> Networks:
    """Networks whose predictions are those of the dense ones of their ids, but for `damage`."""
    classes, images = len(data.class_names), len(data.labels)
    easy = np.random.default_rng(len(key[0]))
    likely = 3 * easy.random((images, 1)) * np.eye(classes)[data.labels] + easy.normal(
        0, 0.7, (images, classes)
    )
    rng = np.random.default_rng(seeds_of(key))
    moved = np.exp(likely + 1.5 * damage * rng.normal(size=(images, classes)))
    below = np.cumsum(moved, 1) / moved.sum(1, keepdims=True)
    predictions = []
    for model_id in ids:  # dense and pruned networks of one id are alike
        chance = np.random.default_rng([len(key[0]), model_id]).random(images)
        chance = (chance + 0.1 * damage * rng.normal(size=images)) % 1
        predictions.append(np.minimum((below < chance[:, None]).sum(1), classes - 1))
    return Networks(key, ids, np.array(predictions, np.int16))


def write_evaluations(folder: Path, networks: Networks, data: Data) -> None:
    """Predictions, Q-Scores and masks of all networks: the first has none for image 3, a latent of zeros."""
    rng = np.random.default_rng([*seeds_of(networks.key), 1])
    for index, model_id in enumerate(networks.ids):
        quality = rng.normal(1, 0.1, len(data.labels))
        quality[3] = np.nan if index == 0 else quality[3]
        kept = np.random.default_rng(model_id)
        masks = {layer: kept.random(shape) >= networks.key[2] for layer, shape in LAYERS.items()}
        outputs = {"predictions": networks.predictions[index], "q_score": quality, **mask_arrays(masks)}
        path = folder / networks.key[0] / "evaluations" / f"{networks.stems[index]}.npz"
        made = {"checkpoints": networks.checksums[index].split("+"), "data": data.checksum}
        write_arrays(path, outputs, made)


def mask_arrays(masks: dict[str, np.ndarray]) -> dict:
    """As an evaluation holds masks, layer -> True where kept."""
    return {
        "layers": np.array(list(masks)),
        "layer_shapes": np.array([(*mask.shape, 1, 1, 1)[:4] for mask in masks.values()]),
        "mask_bits": np.packbits(np.concatenate([mask.ravel() for mask in masks.values()])),
    }


def made_from(dense: Networks, pruned: Networks, data: Data) -> dict:
    return {"checkpoints": pruned.checksums, "dense_checkpoints": dense.checksums, "data": data.checksum}


def population_path(folder: Path, key: Key, depth: bool = False) -> Path:
    return folder / key[0] / "populations" / f"{key[1]}_{key[2]}{'_depth' * depth}.npz"


def about(networks: Networks, data: Data, prefix: str = "") -> dict:
    """What is stored of either population."""
    side = "sup" if networks.key[0] == "supervised" else "clr"
    runs = {
        "commands": [f"{side}_training.py --pruning {networks.key[2]}"],
        "devices": ["a processor, 2 cores, 2 threads"],
        "versions": ["torch 2.0, python 3.12"],
        "days": sorted(f"2024-05-{1 + model_id % 28:02d}" for model_id in networks.ids),
        "seeds": networks.ids,
        "seconds": sum(60 + model_id for model_id in networks.ids),
        "networks": len(networks.ids),
        "made_elsewhere": 0,
        "analysis": f"{side}_pie_kmodels_detection.py --dataset folder",
    }
    correct = networks.predictions == data.labels
    arrays = {
        "ids": networks.ids,
        "evaluations": networks.stems,
        "accuracy": correct.mean(1),
        "recall": np.stack([correct[:, data.labels == c].mean(1) for c in range(len(data.class_names))], 1),
        "runs": json.dumps(runs),
        "settings": "{}",
    }
    return {f"{prefix}{name}": value for name, value in arrays.items()}


def row_of(networks: Networks, **columns) -> dict:
    return {
        **dict(zip(("learning_method", "pruning_method", "sparsity"), networks.key)),
        "population": "of {} {} {}".format(*networks.key),
        "models": len(networks.ids),
        "voters": len(networks.ids),
        "origin": "trained here",
        "unpublished": "epochs 3",
        **columns,
    }


def write_dense(folder: Path, dense: Networks, data: Data) -> dict:
    """Stores the dense population; returns its row of the table."""
    measures = make_measures(dense, ("accuracy_rest", "calibration_error"))
    accuracy = float((dense.predictions == data.labels).mean())
    row = row_of(dense, accuracy_mean=accuracy, **columns_of(measures))
    arrays = {
        **measures,
        "title": "a title",
        "data_title": data.title,
        "architecture": dense.architecture,
        "labels": data.labels,
        "class_names": data.class_names,
        "row": json.dumps(row),
    }
    path = population_path(folder, dense.key)
    write_arrays(path, {**arrays, **about(dense, data)}, made_from(dense, dense, data))
    return row


def make_measures(networks: Networks, names: tuple[str, ...]) -> dict:
    """Made-up values of measures, numbers of images and one of each network; of two networks and more the
    first has none of one."""
    rng, measures = np.random.default_rng([*seeds_of(networks.key), 4]), {}
    for name in names:
        measures[name] = (
            rng.integers(9) if name in ("lost_pies", "gained_pies") else rng.random(len(networks.ids))
        )
    if "auroc_q_score" in measures and len(networks.ids) > 1:
        measures["auroc_q_score"][0] = np.nan
    return measures


def columns_of(measures: dict) -> dict:
    """Means of the values that there are."""
    return {name: float(np.nanmean(values)) for name, values in measures.items()}


def write_population(folder: Path, dense: Networks, pruned: Networks, data: Data) -> dict:
    """Stores a pruned population; returns its row of the table."""
    classes, predictions = len(data.class_names), (dense.predictions, pruned.predictions)
    (dense_labels, _), (labels, tied) = (metrics.modal_labels(each, classes) for each in predictions)
    confidence = metrics.disagreement(*predictions, classes)["confidence"]
    is_pie = dense_labels != labels
    places = np.flatnonzero(is_pie)
    gallery = places[np.argsort(-confidence[places], kind="stable")][:48]
    measures = make_measures(pruned, MEASURED)
    row = row_of(pruned, pies=int(is_pie.sum()), ties_pruned=int(tied.sum()), **columns_of(measures))
    quality = np.random.default_rng([*seeds_of(pruned.key), 3]).random(len(data.labels))
    movement = np.random.default_rng(seeds_of(pruned.key)).random((len(pruned.ids), len(LAYERS)))
    arrays = {
        "title": "{} {} {}".format(*pruned.key),
        "architecture": pruned.architecture,
        "data_title": data.title,
        "class_names": data.class_names,
        "labels": data.labels,
        "is_pie": is_pie,
        "modal_labels": labels,
        "dense_modal_labels": dense_labels,
        "votes": (pruned.predictions == labels).sum(0),
        "dense_votes": (dense.predictions == dense_labels).sum(0),
        "confidence": confidence,
        "q_score": quality,
        "pie_images": np.array([f"test/a/{place}.png" for place in places], str),
        **measures,
        "gallery": gallery,
        "gallery_images": data.images[gallery],
        "movement_layers": list(LAYERS),
        "movement": movement,
        **about(dense, data, "dense_"),
        **about(pruned, data),
    }
    made = made_from(dense, pruned, data)
    write_arrays(population_path(folder, pruned.key), {**arrays, "row": json.dumps(row)}, made)
    counts = metrics.pies_per_class(is_pie, data.labels, classes)
    shown = {"class_names": data.class_names, "images": len(data.labels), "pies_per_class": counts}
    write_figure(folder, "pies_distribution", dense, pruned, data, shown)
    return row


def write_depths(folder: Path, dense: Networks, pruned: Networks, data: Data, models: int) -> dict:
    """Stores prediction depths, and their figure; returns their columns of the table."""
    rng = np.random.default_rng([*seeds_of(pruned.key), 2])
    ids = sorted(set(dense.ids) & set(pruned.ids))[:models]
    names = [f"{kind}_depth_{target}" for kind in ("dense", "pruned") for target in ("prediction", "label")]
    depths = {name: rng.integers(0, PLACES + 1, (len(ids), len(data.labels))) for name in names}
    is_pie = metrics.find_pies(dense.predictions, pruned.predictions, len(data.class_names))
    measures = {name: rng.random(len(ids)) for name in ("knn_accuracy", "auroc_depth")}
    columns = {**columns_of(measures), "depth_models": len(ids), "population": row_of(pruned)["population"]}
    side = "sup" if pruned.key[0] == "supervised" else "clr"
    runs = json.loads(about(pruned, data)["runs"])
    runs["analysis"] = f"{side}_prediction_depth.py --dataset folder"
    arrays = {
        "ids": ids,
        "places": PLACES,
        "is_pie": is_pie,
        "runs": json.dumps(runs),
        "row": json.dumps(columns),
        **measures,
        **depths,
    }
    made = made_from(dense, pruned, data)
    write_arrays(population_path(folder, pruned.key, depth=True), arrays, made)
    means = {f"{kind}_depth": depths[f"{kind}_depth_prediction"].mean(0) for kind in ("dense", "pruned")}
    figure = {"is_pie": is_pie, "places": PLACES, **means}
    write_figure(folder, "prediction_depth", dense, pruned, data, figure)
    return columns


def rewrite(path: Path, made: dict | None = None, **arrays) -> None:
    """Writes stored arrays again, some of them, or what they are said to be made from, changed."""
    stored = read_arrays(path)
    before = json.loads(str(stored.pop("made")))
    write_arrays(path, stored | arrays, before | (made or {}))


def write_figure(
    folder: Path, kind: str, dense: Networks, pruned: Networks, data: Data, arrays: dict
) -> None:
    """The arrays of a script's figure."""
    learning, pruning, sparsity = pruned.key
    name = f"{pruned.architecture}_{pruning}_{sparsity}sparsity_{len(pruned.ids)}models.npz"
    figure = {"figure": kind, "title": " · ".join(map(str, pruned.key)), **arrays}
    write_arrays(folder / learning / kind / name, figure, made_from(dense, pruned, data))


def write_umap(
    folder: Path, dense: Networks, networks: Networks, data: Data, is_pie: np.ndarray | None
) -> None:
    coordinates = np.random.default_rng(seeds_of(networks.key)).normal(size=(len(data.labels), 2))
    labels, _ = metrics.modal_labels(networks.predictions, len(data.class_names))
    arrays = {"coordinates": coordinates, "modal_labels": labels, "class_names": data.class_names}
    if is_pie is not None:
        arrays["is_pie"] = is_pie
    write_figure(folder, "umap", dense, networks, data, arrays)
