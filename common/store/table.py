"""The table of a data set, results.csv, and what of it is shown in the terminal."""

import csv
from pathlib import Path

import numpy as np

from common.store.files import write_atomically

KEY_COLUMNS = ("learning_method", "pruning_method", "sparsity")


def table_path(results_folder: Path) -> Path:
    """The one table of a data set."""
    return results_folder / "results.csv"


def write_rows(path: Path, rows: list[dict]) -> None:
    """Writes a CSV, atomically: the key columns that there are (all for a table without rows), then every other in the order of its first appearance."""
    names = dict.fromkeys(name for row in rows for name in row)
    columns = [
        *(name for name in KEY_COLUMNS if name in names or not rows),
        *(name for name in names if name not in KEY_COLUMNS),
    ]

    def write(temporary: Path) -> None:
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows([{name: _show(value) for name, value in row.items()} for row in rows])

    write_atomically(path, write)


def _show(value) -> str:
    if value is None:
        return ""
    if isinstance(value, (float, np.floating)):
        if np.isnan(value):
            return ""
        return (
            repr(round(float(value), 6)) if abs(value) >= 1e-3 or value == 0 else f"{value:.4g}"
        )  # p-values may be small
    return str(value)


SHORT_TABLE = (
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
NUMBERS = {"sparsity"} | {column for column, _, form in SHORT_TABLE if form != "{}"}


def format_table(rows: list[dict]) -> str:
    """The short table for the terminal: of the table's columns those that answer first, '-' where there is no value.

    Q-Score and depth are those of the pruned networks; for the dense ones 'rest' is over all images.
    """

    def cell(row: dict, column: str, form: str) -> str:
        value = _show(row.get(column))
        if not value:
            return "-"
        return form.format(float(value)) if form != "{}" else value

    lines = [[title for _, title, _ in SHORT_TABLE]]
    for row in rows:
        cells = [cell(row, column, form) for column, _, form in SHORT_TABLE]
        if row.get("status") == "absent":
            cells[3] = "absent"
        lines.append(cells)
    widths = [max(len(line[column]) for line in lines) for column in range(len(SHORT_TABLE))]
    return "\n".join(
        "  ".join(
            text.ljust(width) if index < 2 else text.rjust(width)
            for index, (text, width) in enumerate(zip(line, widths))
        ).rstrip()
        for line in lines
    )
