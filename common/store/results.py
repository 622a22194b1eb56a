"""The names of before arrays, table and evaluations had modules of their own: goes when nobody uses them."""

import csv
from pathlib import Path

from common import methods
from common.cli import UserError
from common.store.evaluation import (  # noqa: F401
    evaluate,
    evaluation_path,
    knn_at_places,
    load_member,
    probe,
    probe_path,
)
from common.store.files import FORMAT, read_arrays, write_arrays  # noqa: F401
from common.store.table import KEY_COLUMNS, SHORT_TABLE, format_table, table_path, write_rows  # noqa: F401

NUMBERS = {"sparsity"} | {column for column, _, form in SHORT_TABLE if form != "{}"}


def read_table(results_folder: Path) -> list[dict[str, str]]:
    """The rows of the table, [] where there is none.

    Raises:
        UserError: a file that is no table of this study.
    """
    path = table_path(results_folder)
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            methods.order(row["pruning_method"]), row["learning_method"], row["status"]
            for column in NUMBERS & row.keys():
                float(row[column] or 0)
    except (ValueError, KeyError, TypeError, AttributeError, csv.Error):
        raise UserError(
            f"{path} is not a table of this study; move it away, the PIE and depth scripts write it anew"
        ) from None
    return rows
