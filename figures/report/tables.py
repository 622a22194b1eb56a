"""Tables of the report: CSV, and LaTeX tabulars of their main columns."""

import math
from pathlib import Path

from common.store.files import write_atomically
from common.store.table import short_table, write_rows

TEX_WIDTH = 8  # number of columns that fit on a page
TEX = str.maketrans(
    {
        **{letter: rf"\{letter}" for letter in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "[": "{}[",  # the \\ of the previous row would take [a length] or a star as its argument
        "*": "{}*",
    }
)
TEX_COLUMNS = {  # columns to keep of tables that are too wide for a page
    "report/evidence": "claim comparison sparsity measure value models mark",
    "report/populations": "learning_method pruning_method sparsity networks accuracy pies noise_floor excess",
    "report/test_sets": "learning_method pruning_method sparsity test_set accuracy difference pies pie_share",
    "similarity/class_recall": "learning_method pruning_method sparsity class dense_recall recall difference "
    "paired_p_holm",
    "similarity/pie_overlap": "learning_method pruning_method sparsity other_learning_method "
    "other_pruning_method other_sparsity jaccard chance_jaccard",
}


def flat(row: dict) -> dict:
    """Returns a row of a CSV: an estimate becomes columns for its value, interval and number of models."""
    cells = {}
    for name, cell in row.items():
        parts = cell if isinstance(cell, dict) else {"value": cell}
        cells[name] = parts["value"]
        cells |= {f"{name}_{end}": parts[end] for end in ("low", "high", "models") if end in parts}
    return cells


def write_tables(folder: Path, tables: dict[str, list[dict]]) -> None:
    """Writes tables as CSV, and beside each its main columns as a LaTeX tabular if they are few enough."""
    for name, rows in tables.items():
        titles, *lines = write_rows(folder / f"{name}.csv", [*map(flat, rows)])
        columns = TEX_COLUMNS[name].split() if name in TEX_COLUMNS else titles
        columns = [column for column in columns if column in titles]
        if 0 < len(columns) <= TEX_WIDTH:
            cells = [dict(zip(titles, line)) for line in lines]
            cells = [[with_interval(row, column) for column in columns] for row in cells]
            write_tex(folder / f"{name}.tex", [columns, *cells])


def with_interval(row: dict[str, str], name: str) -> str:
    """Returns a cell of a CSV with its interval, `12 [8, 16]`, if the row has NAME_low and NAME_high (for
    `value`: low and high)."""
    prefix = "" if name == "value" else f"{name}_"
    ends = row.get(f"{prefix}low"), row.get(f"{prefix}high")
    if not all(ends):
        return row[name]
    numbers = [float(text) for text in (row[name], *ends)]
    _, low, high = numbers
    decimals = max(0, -math.floor(math.log10((high - low) / 2))) if high > low else 4
    texts = [f"{round(number, decimals) + 0.0:.{decimals}f}" for number in numbers]
    return "{} [{}, {}]".format(*texts)


def write_tex(path: Path, lines: list[list[str]]) -> None:
    """Writes lines of cells, with titles in the first line, as a LaTeX tabular for the package booktabs. A
    name that repeats the first cell of the line above is left out."""
    numeric = [all(text[:1] in "-0123456789" for text in column) for column in zip(*lines[1:])]
    alignment = "".join("lr"[is_numeric] for is_numeric in numeric) or "l" * len(lines[0])
    rows, previous_name = [], None
    for name, *rest in lines:
        cells = ["" if name == previous_name else name, *rest]
        rows.append(" & ".join(text.translate(TEX) for text in cells) + r" \\")
        previous_name = name
    begin = rf"\begin{{tabular}}{{{alignment}}}"
    text = "\n".join(
        [begin, r"\toprule", rows[0], r"\midrule", *rows[1:], r"\bottomrule", r"\end{tabular}", ""]
    )
    write_atomically(path, lambda temporary: temporary.write_text(text, "utf-8", "surrogateescape"))


def paper_table(rows: list[dict]) -> list[list[str]]:
    """Returns the short table with pairs of numbers in one column: accuracy and deviation, PIEs and rest."""
    return [
        [*line[:4], f"{line[4]} ({line[5]})", line[6], f"{line[8]} / {line[9]}", f"{line[10]} / {line[11]}"]
        for line in short_table(rows)
    ]
