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
        lines = with_intervals(write_rows(folder / f"{name}.csv", [*map(flat, rows)]))
        columns = TEX_COLUMNS[name].split() if name in TEX_COLUMNS else lines[0]
        indices = [lines[0].index(column) for column in columns if column in lines[0]]
        if indices and len(columns) <= TEX_WIDTH:
            write_tex(folder / f"{name}.tex", [[line[index] for index in indices] for line in lines])


def with_intervals(lines: list[list[str]]) -> list[list[str]]:
    """Merges each number of a CSV with its interval into one cell, `12 [8, 16]`. They are in the columns NAME
    (or `value`), NAME_low and NAME_high (or `low` and `high`)."""
    titles, ends = lines[0], {}
    for name in titles:
        prefix = "" if name == "value" else f"{name}_"
        if f"{prefix}low" in titles:
            ends[name] = f"{prefix}low", f"{prefix}high"
    removed = {f"{name}_models" for name in ends}.union(*ends.values())
    kept = [name for name in titles if name not in removed]

    def cells(row: dict[str, str]) -> list[str]:
        for name, (low_name, high_name) in ends.items():
            if row[low_name] and row[high_name]:
                numbers = [float(row[key]) for key in (name, low_name, high_name)]
                _, low, high = numbers
                decimals = max(0, -math.floor(math.log10((high - low) / 2))) if high > low else 4
                texts = [f"{round(number, decimals) + 0.0:.{decimals}f}" for number in numbers]
                row = row | {name: "{} [{}, {}]".format(*texts)}
        return [row[name] for name in kept]

    return [kept, *(cells(dict(zip(titles, line))) for line in lines[1:])]


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
