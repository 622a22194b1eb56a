"""Builds results.csv, the table of a data set, from the rows stored with populations. Does not import
torch."""

import csv
import json
import math
from pathlib import Path

import numpy as np

from common import methods
from common.store.files import claim, read_arrays, write_atomically

KEY_COLUMNS = ("learning_method", "pruning_method", "sparsity")
SHORT_TABLE = (  # column, its title in the terminal, format of its values
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
    """Returns the path of a data set's table."""
    return results_folder / "results.csv"


def make_table(results_folder: Path) -> list[dict]:
    """Rewrites the table from populations/ of all learning methods and returns its rows.

    A row of prediction depths is merged into the PIE row of its population if both are of the same networks.
    """
    with claim(table_path(results_folder), wait=True):  # scripts of both learning methods may run at once
        stored = []
        for path in results_folder.glob("*/populations/[!.]*.npz"):
            row = json.loads(str((read_arrays(path, only=("row",)) or {}).get("row", "{}")))
            if row.get("learning_method") == path.parts[-3]:  # else a copy of a folder
                stored.append((path.stem.endswith("_depth"), row))
        rows, columns = {}, {}
        for _, row in sorted(stored, key=lambda pair: (pair[0], _order(pair[1]))):
            pie_row = rows.setdefault(row_key(row), row)
            if pie_row["population"] == row["population"]:
                rows[row_key(row)] = row | pie_row  # a depth row adds columns and replaces none
                columns |= dict.fromkeys(row)
        table = [{name: row.get(name) for name in columns} for row in sorted(rows.values(), key=_order)]
        write_rows(table_path(results_folder), table)
    return table


def row_key(row: dict) -> tuple:
    """Returns the values that identify the population of a row."""
    return tuple(row[column] for column in KEY_COLUMNS)


def _order(row: dict) -> tuple:
    return row["learning_method"], methods.order(row["pruning_method"]), row["sparsity"]


def write_rows(path: Path, rows: list[dict]) -> list[list[str]]:
    """Writes a CSV atomically and returns its lines of cells.

    The key columns that the rows have come first (all of them if there are no rows), then the other columns
    in the order in which they first appear.
    """
    names = dict.fromkeys(name for row in rows for name in row)
    columns = dict.fromkeys([*(name for name in KEY_COLUMNS if name in names or not rows), *names])
    lines = [[*columns], *([_show(row.get(name)) for name in columns] for row in rows)]

    def write(temporary: Path) -> None:
        # File names may contain bytes that are not text.
        with temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            csv.writer(file, lineterminator="\n").writerows([map(_harmless, line) for line in lines])

    write_atomically(path, write)
    return lines


def _harmless(cell: str) -> str:
    """Returns the cell, with an apostrophe before it if a spreadsheet would take it for a formula."""
    if not cell.startswith(("=", "+", "-", "@", "\t", "\r")):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def _show(value) -> str:
    if value is None or isinstance(value, float) and math.isnan(value):
        return ""
    if isinstance(value, (float, np.floating)):
        is_small = abs(value) < 1e-3 and value != 0  # such as a p-value
        return f"{value:.4g}" if is_small else repr(round(float(value), 6))
    return str(value)


def short_table(rows: list[dict]) -> list[list[str]]:
    """Returns lines of cells with the table's main columns, titles in the first line, '-' for no value.

    Q-Score and depth are those of the pruned networks; for dense networks 'rest' means all images.
    """

    def cell(row: dict, column: str, form: str) -> str:
        value = row.get(column)
        shown = _show(value)
        return (form.format(float(value)) if form != "{}" else shown) if shown else "-"

    titles = [title for _, title, _ in SHORT_TABLE]
    return [titles, *([cell(row, column, form) for column, _, form in SHORT_TABLE] for row in rows)]


def format_table(rows: list[dict]) -> str:
    """Formats the short table for the terminal."""
    lines = short_table(rows)
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join(
        "  ".join(
            text.ljust(width) if index < 2 else text.rjust(width)
            for index, (text, width) in enumerate(zip(line, widths))
        )
        for line in lines
    )
