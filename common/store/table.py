"""results.csv, the table of a data set: made anew from the rows that are stored with populations. No torch
here."""

import csv
import json
import math
from pathlib import Path

import numpy as np

from common import methods
from common.store.files import claim, read_arrays, write_atomically

KEY_COLUMNS = ("learning_method", "pruning_method", "sparsity")
SHORT_TABLE = (  # column, its title in the terminal, how a value is shown
    ("learning_method", "method", "{}"),
    ("pruning_method", "pruning", "{}"),
    ("sparsity", "sparsity", "{}"),
    ("models", "K", "{}"),
    ("accuracy_mean", "accuracy", "{:.2%}"),
    ("accuracy_std", "std", "{:.2%}"),
    ("pies", "PIEs", "{:.0f}"),
    ("ties_pruned", "ties", "{:.0f}"),
    ("q_score_pies", "Q-Score PIEs", "{:.3f}"),
    ("q_score_rest", "rest", "{:.3f}"),
    ("depth_pies", "depth PIEs", "{:.2f}"),
    ("depth_rest", "rest", "{:.2f}"),
    ("origin", "origin", "{}"),
)


def table_path(results_folder: Path) -> Path:
    """The one table of a data set."""
    return results_folder / "results.csv"


def make_table(results_folder: Path) -> list[dict]:
    """Writes the table anew from populations/ of all learning methods; returns its rows.

    A population's row is that of its PIEs and, where it is of the same networks, that of its prediction
    depth.
    """
    with claim(table_path(results_folder), wait=True):  # scripts of both learning methods may run at once
        stored = []
        for path in results_folder.glob("*/populations/[!.]*.npz"):
            if arrays := read_arrays(path, only=("row",)):
                stored.append((path.stem.endswith("_depth"), json.loads(str(arrays["row"]))))
        rows, columns = {}, {}
        for _, row in sorted(stored, key=lambda pair: (pair[0], _order(pair[1]))):
            known = rows.setdefault(row_key(row), row)
            if known["population"] == row["population"]:
                known |= row
                columns |= dict.fromkeys(row)
        table = [{name: row.get(name) for name in columns} for row in sorted(rows.values(), key=_order)]
        write_rows(table_path(results_folder), table)
    return table


def row_key(row: dict) -> tuple:
    """Which population a row is about."""
    return tuple(row[column] for column in KEY_COLUMNS)


def _order(row: dict) -> tuple:
    return row["learning_method"], methods.order(row["pruning_method"]), row["sparsity"]


def write_rows(path: Path, rows: list[dict]) -> None:
    """Writes a CSV, atomically: the key columns that there are (all for a table without rows), then every
    other in the order of its first appearance."""
    names = dict.fromkeys(name for row in rows for name in row)
    columns = dict.fromkeys([*(name for name in KEY_COLUMNS if name in names or not rows), *names])

    def write(temporary: Path) -> None:
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows([{name: _show(value) for name, value in row.items()} for row in rows])

    write_atomically(path, write)


def _show(value) -> str:
    if value is None or isinstance(value, float) and math.isnan(value):
        return ""
    if isinstance(value, (float, np.floating)):
        small = abs(value) < 1e-3 and value != 0  # a p-value may be
        return f"{value:.4g}" if small else repr(round(float(value), 6))
    return str(value)


def format_table(rows: list[dict]) -> str:
    """The short table for the terminal: of the table's columns those that answer first, '-' without a value.

    Q-Score and depth are those of the pruned networks; for the dense ones 'rest' is over all images.
    """

    def cell(row: dict, column: str, form: str) -> str:
        if column == "models" and row.get("status") == "absent":
            return "absent"
        value = _show(row.get(column))
        return form.format(float(value) if form != "{}" else value) if value else "-"

    lines = [[title for _, title, _ in SHORT_TABLE]]
    lines += [[cell(row, column, form) for column, _, form in SHORT_TABLE] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join(
        "  ".join(
            text.ljust(width) if index < 2 else text.rjust(width)
            for index, (text, width) in enumerate(zip(line, widths))
        ).rstrip()
        for line in lines
    )
