"""A folder of results as the PIE and depth scripts leave it, of networks that never were: what is stored of each network is made up, all
else is found and stored by the scripts' own functions. No figure is drawn."""

from argparse import Namespace
from pathlib import Path
from typing import Callable
from unittest.mock import patch

import numpy as np
import torch

from common import comparison, metrics, plots, process
from common.data import ImageDataset
from common.methods import parse_method
from common.store import results
from common.store.checkpoints import Architecture, CheckpointName
from common.store.populations import Member, Population
from common.study import Study

CLASS_NAMES = ("cat", "dog", "ship", "truck", "frog", "deer", "horse", "bird", "plane", "car")
PLACES = 5
LAYERS = {
    "conv1.weight": (4, 3, 3, 3),
    "block1.layer.0.conv1.weight": (5, 4, 3, 3),
    "fc.weight": (4, 5),
    "fc.bias": (4,),
}


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
    ids: dict[tuple[str, str, float], list[int]] | None = None,
    damage: Callable[[str, str, float], float] | None = None,
    seed: int = 0,
) -> None:
    """Writes results.csv and, for every learning method, the arrays of evaluations/, pies_distribution/, prediction_depth/, q_score/ and umap/.

    Args:
        folder: pies/NAME.
        depths, umap, q_score: whether those figures were asked for; Q-Scores are in evaluations/ anyway.
        ids: those of populations that have others than 0 to models - 1; dense ones are (learning method, "dense", 0.0).
        damage: (learning method, pruning method, sparsity) -> how far pruning moves predictions; with 0 networks predict as the dense one
            of their id does. Else the sparsity.
    """
    data = make_data(folder.name, images, classes, seed)
    for method in learning:
        view = make_study(
            folder,
            data,
            method,
            Namespace(
                pruning_methods=list(methods),
                pruning_percentages=list(sparsities),
                prediction_depth_models=depth_models,
                depth_target="prediction",
                plot_q_score=q_score,
                plot_umap=umap,
                umap_models=1,
                not_serialize_plots=False,
                debug=False,
                workers=0,
                batch_size=64,
                threads=None,
                temperature=0.5,
            ),
        )
        keys = [
            (method, "dense", 0.0),
            *((method, pruning, sparsity) for pruning in methods for sparsity in sparsities),
        ]
        dense, *pruned = (
            make_population(view, key, (ids or {}).get(key, list(range(models)))) for key in keys
        )
        for population in (dense, *pruned):
            key = (method, population.pruning_method, population.sparsity)
            write_networks(view, population, damage(*key) if damage and key[1] != "dense" else key[2], seed)
        found = dense, [(one.pruning_method, one.sparsity, one) for one in pruned]
        side = "sup" if method == "supervised" else "clr"
        with (
            patch.object(comparison, "find_populations", lambda study: found),
            patch.object(plots, "draw"),
            patch.object(
                plots,
                "save_figure",
                lambda path, figure: path.parent.mkdir(parents=True, exist_ok=True) or path.touch(),
            ),
            patch.object(
                comparison, "umap_coordinates", lambda latent: np.ascontiguousarray(latent[:, :2], np.float32)
            ),
        ):
            for script, detect in (
                (f"{side}_pie_kmodels_detection.py", comparison.detect_pies),
                (f"{side}_prediction_depth.py", comparison.compare_depths),
            ):
                if depths or detect is comparison.detect_pies:
                    with patch.object(
                        process,
                        "command_line",
                        lambda: f"{script} --dataset folder --data_dir '{folder.name}'",
                    ):
                        comparison.report(view, detect(view))


def make_data(name: str, images: int, classes: int, seed: int) -> ImageDataset:
    rng = np.random.default_rng([seed, images, classes])
    pixels = torch.from_numpy(rng.integers(0, 256, (images, 3, 8, 8), dtype=np.uint8))
    labels = torch.from_numpy(rng.integers(0, classes, images))
    return ImageDataset(
        name,
        name,
        pixels,
        labels,
        pixels,
        labels,
        CLASS_NAMES[:classes],
        (0.5,) * 3,
        (0.2,) * 3,
        False,
        False,
        f"checksum of {name} {seed}",
    )


def make_study(folder: Path, data: ImageDataset, learning_method: str, flags: Namespace) -> Study:
    return Study(
        "script",
        flags,
        learning_method,
        Architecture(10, 1),
        "wideResNet" if learning_method == "supervised" else "WideResNet-10-1",
        data,
        torch.device("cpu"),
        0,
        Path("models"),
        Path("models"),
        Path("models"),
        Path("logs"),
        folder,
    )


def make_population(view: Study, key: tuple[str, str, float], ids: list[int]) -> Population:
    learning, pruning, sparsity = key
    parts = ("supervised",) if learning == "supervised" else ("encoder", "head")
    finetuned = parse_method(pruning).finetuned
    members = []
    for one in ids:
        names = [view.name(part, pruning, sparsity, 20 if finetuned else 100, 32, one) for part in parts]
        members.append(
            Member(
                tuple(Path("models") / str(name) for name in names),
                tuple(names),
                tuple(make_record(name) for name in names),
                tuple(f"sum of {name}" for name in names),
            )
        )
    return Population(learning, pruning, sparsity, tuple(members))


def make_record(name: CheckpointName) -> dict:
    script = {"supervised": "sup_training.py", "encoder": "clr_training.py", "head": "clr_training.py"}[
        name.part
    ]
    run = {
        "command": f"{script} --pruning {name.sparsity}",
        "device": "a processor, 2 cores",
        "threads": 2,
        "versions": {"torch": "2.0", "python": "3.12"},
        "written": f"2024-05-{1 + name.id % 28:02d}T12:00:00",
        "seconds": 60.0 + name.id,
    }
    pruned = (
        {
            "movement": {f"base.{layer}": 0.1 * (1 + index) for index, layer in enumerate(LAYERS)},
            "accuracy_as_pruned": 0.25,
        }
        if name.sparsity
        else {}
    )
    return {"configuration": {"batch_size": 32}, "seed": name.id, "run": run, **pruned}


def write_networks(view: Study, population: Population, damage: float, seed: int) -> None:
    """Stores predictions, Q-Scores, latents, masks and k-NN labels of all networks: the first has a latent of zeros, that of image 3."""
    labels, classes = view.data.test_labels.numpy(), len(view.data.class_names)
    images = len(labels)
    easy = np.random.default_rng([seed, len(view.learning_method)])
    likely = 1.5 * easy.random((images, 1)) * np.eye(classes)[labels] * 2 + easy.normal(
        0, 0.7, (images, classes)
    )
    rng = np.random.default_rng(
        [
            seed,
            *(
                ord(letter)
                for letter in f"{view.learning_method} {population.pruning_method} {population.sparsity}"
            ),
        ]
    )
    moved = likely + 1.5 * damage * rng.normal(size=(images, classes))
    below = np.cumsum(np.exp(moved), 1) / np.exp(moved).sum(1, keepdims=True)
    for index, member in enumerate(population.members):
        chance = np.random.default_rng([seed, len(view.learning_method), member.id]).random(
            images
        )  # dense and pruned networks of one id are alike
        chance = (chance + 0.1 * damage * rng.normal(size=images)) % 1
        predictions = np.minimum((below < chance[:, None]).sum(1), classes - 1).astype(np.int16)
        latent = (
            np.abs(rng.normal(0.2, 1, (images, 16))).astype(np.float32)
            + 2 * np.eye(16, dtype=np.float32)[labels]
        )
        latent[3] *= index > 0
        density = [
            np.random.default_rng([seed, member.id, size]).random(size) >= population.sparsity
            for size in LAYERS.values()
        ]
        arrays = {
            "predictions": predictions,
            **metrics.q_scores(latent),
            "zero_latents": int(index == 0),
            "layers": np.array(list(LAYERS)),
            "layer_shapes": np.array([(*shape, 1, 1, 1)[:4] for shape in LAYERS.values()]),
            "mask_bits": np.packbits(np.concatenate([mask.ravel() for mask in density])),
        }
        if member.id in comparison.umap_ids(view, population):
            arrays["latent"] = latent
        made = {"checkpoints": list(member.checksums), "data": view.data.checksum}
        results.write_arrays(results.evaluation_path(view, member), arrays, made)
        settled = rng.integers(0, PLACES + 1, images)
        knn = np.where(
            np.arange(PLACES)[:, None] >= settled, predictions, (predictions + 1) % classes
        ).astype(np.int16)
        results.write_arrays(
            results.probe_path(view, member),
            {
                "knn": knn,
                "predictions": predictions,
                "places": np.array([f"place {place}" for place in range(PLACES)]),
            },
            {**made, "neighbours": metrics.NEIGHBOURS},
        )
