"""A copy of a data set's stored results that is small enough to publish: what the report reads, no more."""

import json
from pathlib import Path

import numpy as np

from common.store.files import read_arrays, write_arrays, write_atomically
from common.store.table import table_path

FOLDERS = ("populations", "evaluations", "umap", "q_score", "prediction_depth", "pies_distribution")
# Of each network: what evidence and masks are read from. Latents, probabilities and votes stay behind.
OF_NETWORKS = ("made", "predictions", "q_score", "mask_bits", "layers", "layer_shapes")
MANY = 1000  # so many values may be rounded to float16: their means, and what a figure shows, stay the same


def release(results: Path, target: Path) -> int:
    """Copies populations/, evaluations/ and the figures' arrays of all learning methods, and the table.

    Returns:
        the size of the copy in bytes.
    """
    for path in sorted(results.glob("*/*/[!.]*.npz")):
        if path.parent.name in FOLDERS:
            only = OF_NETWORKS if path.parent.name == "evaluations" else None
            arrays = {name: rounded(values) for name, values in read_arrays(path, only=only).items()}
            write_arrays(target / path.relative_to(results), arrays, json.loads(str(arrays["made"])))
    table = table_path(results).read_bytes()
    write_atomically(table_path(target), lambda temporary: temporary.write_bytes(table))
    return sum(path.stat().st_size for path in target.rglob("*") if path.suffix in (".npz", ".csv"))


def rounded(values: np.ndarray) -> np.ndarray:
    """Many floats as float16, where it holds them; `read_arrays` gives float32 again."""
    many = values.dtype.kind == "f" and values.size >= MANY
    return values.astype(np.float16) if many and np.nanmax(np.abs(values)) < 6e4 else values
