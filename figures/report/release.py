"""A copy of a data set's stored results that is small enough to publish: what the report reads, no more."""

import json
from pathlib import Path

import numpy as np

from common.cli import refuse_pipe
from common.store.files import read_arrays, write_arrays, write_atomically
from common.store.table import table_path
from figures.report.read import StoredPopulation, damaged

FOLDERS = ("populations", "evaluations", "umap", "q_score", "prediction_depth", "pies_distribution")
# Of each network: what evidence and masks are read from. Latents, probabilities and votes stay behind.
OF_NETWORKS = ("made", "predictions", "q_score", "mask_bits", "layers", "layer_shapes")
# Arrays of populations that the report does not read.
UNREAD = ("dense_q_score", "z_score", "dense_z_score", "l1_norm", "dense_l1_norm", "pruned_depth_label")
UNREAD += ("dense_depth_prediction", "dense_depth_label")
MANY = 1000  # so many values may be rounded to float16: their means, and what a figure shows, stay the same


def release(results: Path, target: Path, shown: list[StoredPopulation]) -> int:
    """Copies populations/, evaluations/ and the figures' arrays of all learning methods, and the table; of
    other test sets what networks predict, and the populations.

    Args:
        shown: the populations of which the report shows Q-Score and depth figures.
    Returns:
        the size of the copy in bytes.
    """
    for path in stored_files(results):
        kind, of_test_set = path.parent.name, path.relative_to(results).parts[0] == "test_sets"
        names = [
            f"_{each.pruning_method}_{each.sparsity}sparsity_"
            for each in shown
            if each.folder in path.parents
        ]
        if kind in ("q_score", "prediction_depth") and not any(name in path.name for name in names):
            continue  # a figure that the report does not show
        of_networks = OF_NETWORKS[: 3 if of_test_set else None]
        arrays = read_arrays(path, only=of_networks if kind == "evaluations" else None)
        if arrays is None or "made" not in arrays:
            raise damaged(path)
        unread = UNREAD if kind == "populations" else ()
        arrays = {name: rounded(values) for name, values in arrays.items() if name not in unread}
        write_arrays(target / path.relative_to(results), arrays, json.loads(str(arrays["made"])))
    refuse_pipe(table_path(results))
    table = table_path(results).read_bytes()
    write_atomically(table_path(target), lambda temporary: temporary.write_bytes(table))
    return sum(path.stat().st_size for path in target.rglob("*") if path.suffix in (".npz", ".csv"))


def stored_files(results: Path) -> list[Path]:
    """The .npz that the report reads from a folder of results."""
    paths = [path for name in FOLDERS for path in results.glob(f"*/{name}/[!.]*.npz")]
    paths += [path for name in FOLDERS[:2] for path in results.glob(f"test_sets/*/*/{name}/[!.]*.npz")]
    return sorted(paths)


def rounded(values: np.ndarray) -> np.ndarray:
    """Many floats as float16, where it holds them; `read_arrays` gives float32 again."""
    many = values.dtype.kind == "f" and values.size >= MANY
    return values.astype(np.float16) if many and np.nanmax(np.abs(values)) < 6e4 else values
