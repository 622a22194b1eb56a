"""Reads all stored results of a data set below pies/NAME/ for the report. K networks, M of them probed, N
images."""

import functools
import json
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.cli import UserError
from common.methods import FINETUNED, PruningMethod, order, parse_method
from common.store.files import FORMAT, read_arrays
from common.store.table import KEY_COLUMNS

# Results with the same values of these keys come from the same networks, data and format.
IDENTITY_KEYS = ("checkpoints", "dense_checkpoints", "data", "format")
# Required arrays in files of populations, of their depths, and of the scripts' figures.
NAMES = """
dense title data_title architecture class_names labels ids evaluations accuracy recall runs settings made

pruned title data_title architecture class_names labels ids evaluations accuracy recall runs settings made
is_pie modal_labels votes confidence q_score pie_images gallery gallery_images dense_modal_labels dense_votes
dense_ids dense_evaluations dense_accuracy dense_recall

depths is_pie ids pruned_depth_prediction row runs made

umap title class_names coordinates modal_labels made

q_score title is_pie dense_q_score pruned_q_score dense_z_score pruned_z_score dense_l1_norm pruned_l1_norm
made

prediction_depth title is_pie places dense_depth pruned_depth made
"""
NEEDED = {kind: {*names} for kind, *names in map(str.split, NAMES.split("\n\n"))}


@dataclass(frozen=True, eq=False)
class Networks:
    """Outputs of a population's networks: predictions and q_score (K, N) of the networks `ids` (K,), NaN for
    undefined Q-Scores; depth (M, N) of the networks `depth_ids` (M,), only if pruned."""

    ids: np.ndarray
    predictions: np.ndarray
    q_score: np.ndarray
    depth_ids: np.ndarray
    depth: np.ndarray
    classes: int

    def predictions_of(self, ids: tuple[int, ...]) -> np.ndarray:
        """Returns the predictions (len(ids), N) of these networks."""
        return self.predictions[[self.ids.tolist().index(model_id) for model_id in ids]]

    def ids_of(self, measure: str) -> np.ndarray:
        """Returns the ids for the rows of q_score or depth."""
        return self.depth_ids if measure == "depth" else self.ids


@dataclass(frozen=True, eq=False)
class StoredPopulation:
    """A population of one learning method, pruning method and sparsity, as its PIE script stored it.

    arrays: from METHOD/populations/; row: its columns of results.csv; made: checksums of networks and data;
    depths: arrays of prediction depths (None: not stored for these networks); pruned, reference: outputs of
    its networks and of those that they are compared with (None before `load_outputs`); reference_method: the
    pruning method of the latter; dense_settings: `settings` of the dense networks (None: unknown).
    """

    learning_method: str
    pruning_method: str
    sparsity: float
    folder: Path  # RESULTS/METHOD
    arrays: dict
    row: dict
    made: dict
    depths: dict | None
    reference: Networks | None = None
    pruned: Networks | None = None
    reference_method: str = "dense"
    dense_settings: dict | None = None

    @property
    def method(self) -> str:
        """Learning and pruning method, for titles."""
        return f"{self.learning_method} {self.pruning_method}"

    @property
    def label(self) -> str:
        return f"{self.method} {self.sparsity:g}"

    @property
    def external(self) -> bool:
        """Whether others trained these networks or the dense ones."""
        runs = [json.loads(str(self.arrays.get(name, "{}"))) for name in ("runs", "dense_runs")]
        return any(run.get("made_elsewhere") for run in runs)

    @property
    def network(self) -> str:
        """The architecture, marked as external."""
        return "external " * self.external + str(self.arrays["architecture"])

    @property
    def is_pruned(self) -> bool:
        """Whether it counts as pruned; dense networks and their finetuned control do not."""
        return self.pruning_method not in ("dense", FINETUNED)

    @property
    def key(self) -> dict:
        """The columns that identify the population in a table."""
        return {column: getattr(self, column) for column in KEY_COLUMNS}

    @property
    def parsed(self) -> PruningMethod:
        return parse_method(self.pruning_method)

    @property
    def class_names(self) -> list[str]:
        return self.arrays["class_names"].tolist()

    @property
    def is_pie(self) -> np.ndarray:
        return self.arrays["is_pie"].astype(bool)

    @property
    def labels(self) -> np.ndarray:
        return self.arrays["labels"]

    @property
    def runs(self) -> dict:
        """The provenance of its networks: commands, seeds, machines, versions, days."""
        return json.loads(str(self.arrays["runs"]))

    @property
    def settings(self) -> dict:
        """The recorded settings of its networks, those of the dense ones under `dense`."""
        return json.loads(str(self.arrays.get("settings", "{}")))

    @property
    def seeds(self) -> tuple[int, ...]:
        """The ids that reference and pruned networks share; only these are used."""
        return tuple(np.intersect1d(self.reference.ids, self.pruned.ids).tolist())

    @property
    def sides(self) -> tuple[Networks, Networks]:
        """The outputs of the networks that it is compared with, and its own."""
        return self.reference, self.pruned


def grouped(populations: list, *attributes: str) -> dict:
    """Groups populations by an attribute, or by the tuple of several, keeping their order."""
    groups = {}
    for population in populations:
        groups.setdefault(attrgetter(*attributes)(population), []).append(population)
    return groups


def sort_key(population: StoredPopulation) -> tuple:
    """Returns the key that sorts populations in tables and figures."""
    return population.learning_method, order(population.pruning_method), population.sparsity


def with_dense(populations: list[StoredPopulation]) -> list[StoredPopulation]:
    """Returns the dense networks of every learning method as populations, followed by the given ones."""
    dense = [
        replace(
            population,
            pruning_method="dense",
            sparsity=0.0,
            pruned=population.reference,
            arrays=population.arrays
            | {"runs": population.arrays.get("dense_runs", population.arrays["runs"])},
            made=population.made | {"checkpoints": population.made["dense_checkpoints"]},
        )
        for population, *_ in grouped(populations, "learning_method").values()
    ]
    return [*dense, *populations]


def read_populations(results_folder: Path) -> list[StoredPopulation]:
    """Reads the stored populations, including dense ones, in the order of the table.

    Raises:
        UserError: there are none, or they come from an older version or from different versions of the data.
    """
    paths = results_folder.glob("*/populations/[!.]*.npz")
    stored = (_read_population(path) for path in paths if not path.stem.endswith("_depth"))
    populations = sorted(filter(None, stored), key=sort_key)
    if not populations:
        raise UserError(
            f"{results_folder}: no populations are stored there; run the pie_kmodels_detection scripts first"
        )
    if len({population.made["data"] for population in populations}) > 1:
        texts = dict.fromkeys(str(population.row.get("normalization")) for population in populations)
        raise UserError(
            f"{results_folder} holds results of different versions of the data or normalisations ("
            f"{'; '.join(texts)}); move the folder of one learning method out of it and run its PIE script "
            "again, with the same --normalization, or with --run NAME"
        )
    dense = {item.folder: item.settings for item in populations if item.pruning_method == "dense"}
    return [replace(item, dense_settings=dense.get(item.folder)) for item in populations]


def damaged(path: Path) -> UserError:
    """Returns the error for stored arrays that no script wrote in this form."""
    return UserError(f"{path} is damaged; move it away and run the script that writes it again")


def _read_population(path: Path) -> StoredPopulation | None:
    if (arrays := read_arrays(path)) is None:
        raise damaged(path)
    row, made = (json.loads(str(arrays.get(name, "{}"))) for name in ("row", "made"))
    if row.get("learning_method") != path.parts[-3]:  # another file, or a copy of a folder
        return None
    if "voters" not in row or made.get("format") != FORMAT:
        side = "sup" if path.parts[-3] == "supervised" else "clr"
        raise UserError(
            f"{path} was written by an older version; run {side}_pie_kmodels_detection.py and "
            f"{side}_prediction_depth.py again; they reuse the evaluations of networks"
        )
    _check(path, arrays, "dense" if row["pruning_method"] == "dense" else "pruned")
    depth_path = path.with_name(f"{path.stem}_depth.npz")
    depths = read_arrays(depth_path)
    if depths is None and depth_path.exists():
        raise damaged(depth_path)
    if depths and _same(json.loads(str(depths.get("made", "{}"))), made):
        _check(depth_path, depths, "depths")
        row = json.loads(str(depths["row"])) | row  # like the table: depths add columns
    else:
        depths = None
    key = (row[name] for name in KEY_COLUMNS)
    return StoredPopulation(*key, path.parent.parent, arrays, row, made, depths)


def _check(path: Path, arrays: dict, kind: str) -> None:
    """Refuses a file without a required array."""
    if not NEEDED[kind] <= arrays.keys():
        raise damaged(path)


def _same(made: dict, other: dict) -> bool:
    return all(made.get(name) == other[name] for name in IDENTITY_KEYS)


def read_evaluations(
    population: StoredPopulation, names: tuple[str, ...], prefix: str = ""
) -> list[dict] | None:
    """Reads arrays from the evaluation of every network of a population, or with the prefix "dense_" of those
    it was compared with; None unless all are stored for the same checkpoints."""
    evaluations = []
    stems, checksums = population.arrays[f"{prefix}evaluations"], population.made[f"{prefix}checkpoints"]
    for stem, checksum in zip(stems, checksums):
        path = population.folder / "evaluations" / f"{stem}.npz"
        arrays = read_arrays(path, only=("made", *names)) or {}
        if not {"made", *names} <= set(arrays):
            return None
        checkpoints = json.loads(str(arrays["made"])).get("checkpoints", ())
        if "+".join(checkpoints) != checksum:  # from another model folder, for example
            return None
        evaluations.append(arrays)
    return evaluations


def load_outputs(populations: list[StoredPopulation]) -> tuple[list[StoredPopulation], list[str]]:
    """Returns the populations with the outputs of their networks, and messages on missing ones."""
    loaded, missing = [], []
    by_folder = {population.folder: population for population in populations}
    # Populations share one object for their dense networks, so that votes are counted once.
    read_dense = functools.cache(lambda folder: _read_networks(by_folder[folder], "dense_"))
    for population in populations:
        networks = read_dense(population.folder), _read_networks(population)
        with_outputs = replace(population, reference=networks[0], pruned=networks[1])
        if None in networks:
            reason = "the predictions of its networks are not stored; run its PIE script again"
        elif not with_outputs.seeds:
            reason = "no network has the seed of a dense one"
        else:
            loaded.append(with_outputs)
            if population.depths is None:
                missing.append(f"prediction depth of {population.label}: run its prediction_depth script")
            continue
        missing.append(f"everything but its figures of {population.label}: {reason}")
    return loaded, missing


def _read_networks(population: StoredPopulation, prefix: str = "") -> Networks | None:
    """Reads the networks of a population, or with the prefix "dense_" those it was compared with; None unless
    all are stored."""
    names = ("predictions", "q_score")
    evaluations = read_evaluations(population, names, prefix)
    if evaluations is None:
        return None
    predictions, q_score = (np.stack([arrays[name] for arrays in evaluations]) for name in names)
    depth_ids, depth = np.zeros(0, int), np.zeros((0, len(population.labels)))
    if population.depths and not prefix:
        depth_ids, depth = (population.depths[name] for name in ("ids", "pruned_depth_prediction"))
    classes = len(population.class_names)
    predictions = predictions.astype(np.min_scalar_type(classes))  # small, because votes are counted often
    return Networks(population.arrays[f"{prefix}ids"], predictions, q_score, depth_ids, depth, classes)


class Masks(NamedTuple):
    """The masks of a population's networks: kept (K, n) bool, concatenated over `layers` (L,) with `shapes`
    (L, 4), which are padded with ones."""

    population: StoredPopulation
    kept: np.ndarray
    layers: list[str]
    shapes: np.ndarray


def read_masks(population: StoredPopulation) -> Masks | None:
    """Reads the masks of a population; None unless they are stored for its checkpoints."""
    evaluations = read_evaluations(population, ("mask_bits", "layers", "layer_shapes"))
    if evaluations is None:
        return None
    shapes = evaluations[0]["layer_shapes"]
    kept = [
        np.unpackbits(arrays["mask_bits"], count=shapes.prod(1).sum()).astype(bool) for arrays in evaluations
    ]
    return Masks(population, np.stack(kept), evaluations[0]["layers"].tolist(), shapes)


def read_figure(population: StoredPopulation, kind: str) -> dict | None:
    """Reads the arrays of a figure about a population, if it was drawn from the same networks; otherwise
    None."""
    name = f"[!.]*_{population.pruning_method}_{population.sparsity}sparsity_*.npz"
    # In reverse order, depths by prediction come before those by label.
    for path in sorted((population.folder / kind).glob(name), reverse=True):
        arrays = read_arrays(path) or {}
        _check(path, arrays, kind)
        if _same(json.loads(str(arrays["made"])), population.made):
            return arrays | {"path": path}
    return None
