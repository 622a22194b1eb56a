"""Copies the stored results that the report reads into a folder small enough to publish."""

import json
from pathlib import Path

import numpy as np

from common.cli import refuse_pipe
from common.store.files import read_arrays, write_arrays, write_atomically
from common.store.table import table_path
from figures.report.read import StoredPopulation, damaged

FOLDERS = ("populations", "evaluations", "umap", "q_score", "prediction_depth", "pies_distribution")
# Arrays of networks that evidence and masks need; latents and probabilities are not copied.
OF_NETWORKS = ("made", "predictions", "q_score", "mask_bits", "layers", "layer_shapes")
# Arrays of populations that the report does not read.
UNREAD = ("dense_q_score", "z_score", "dense_z_score", "l1_norm", "dense_l1_norm", "pruned_depth_label")
UNREAD += ("dense_depth_prediction", "dense_depth_label")
MANY = 1000  # arrays of this size may be rounded to float16 without visible effects on means and figures


def release(results: Path, target: Path, shown: list[StoredPopulation]) -> int:
    """Copies populations/, evaluations/ and the arrays of figures of all learning methods, and the table; for
    alternative test sets only predictions and populations.

    Args:
        shown: the populations whose Q-Score and depth figures the report shows.
    Returns:
        the size of the copy in bytes.
    """
    for path in stored_files(results):
        kind, is_test_set = path.parent.name, path.relative_to(results).parts[0] == "test_sets"
        is_shown = any(
            population.folder in path.parents
            and f"_{population.pruning_method}_{population.sparsity}sparsity_" in path.name
            for population in shown
        )
        if kind in ("q_score", "prediction_depth") and not is_shown:
            continue
        evaluation_names = OF_NETWORKS[: 3 if is_test_set else None]
        arrays = read_arrays(path, only=evaluation_names if kind == "evaluations" else None)
        if arrays is None:
            raise damaged(path)
        unread = UNREAD if kind == "populations" else ()
        arrays = {name: rounded(values) for name, values in arrays.items() if name not in unread}
        write_arrays(target / path.relative_to(results), arrays, json.loads(str(arrays["made"])))
    refuse_pipe(table_path(results))
    table = table_path(results).read_bytes()
    write_atomically(table_path(target), lambda temporary: temporary.write_bytes(table))
    return sum(path.stat().st_size for path in target.rglob("*") if path.suffix in (".npz", ".csv"))


def stored_files(results: Path) -> list[Path]:
    """Returns the .npz files that the report reads from a folder of results."""
    paths = [path for name in FOLDERS for path in results.glob(f"*/{name}/[!.]*.npz")]
    paths += [path for name in FOLDERS[:2] for path in results.glob(f"test_sets/*/*/{name}/[!.]*.npz")]
    return sorted(paths)


def rounded(values: np.ndarray) -> np.ndarray:
    """Rounds large float arrays to float16 if it can hold them; `read_arrays` returns float32 again."""
    is_large = values.dtype.kind == "f" and values.size >= MANY
    return values.astype(np.float16) if is_large and np.abs(np.nan_to_num(values)).max() < 6e4 else values
