"""Where the report goes: staged folders, which replace what an earlier call wrote there and nothing else;
tables and page."""

import json
import os
import shutil
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Callable, Iterator

from common.cli import UserError
from common.store import table
from common.store.files import claim, file_sha256, write_atomically, write_json
from figures.report import release

WRITTEN = ".written.json"  # in each folder: what the scripts wrote there


@contextmanager
def staged_folders(targets: dict[str, Path], results: Path) -> Iterator[dict[str, Path]]:
    """Hidden folders inside the targets (kind -> folder). What is written there comes into the targets when
    the context is left in peace, else nothing of it does.

    Args:
        results: what the outputs are made of.
    Raises:
        UserError: something else is in the way.
    """
    with ExitStack() as stack:
        # Of two calls at once one waits for the other; in order, so that not both wait.
        for _, path in sorted({path.resolve(): path for path in (results, *targets.values())}.items()):
            stack.enter_context(claim(path / "report.html", wait=True))
            for left in path.glob(".anew_*"):  # by a process that was killed
                shutil.rmtree(left, ignore_errors=True)
        staged = {
            kind: Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".anew_", dir=path)))
            for kind, path in targets.items()
        }
        yield staged
        for replace in [prepare_outputs(kind, targets[kind], staged[kind], results) for kind in targets]:
            replace()


def prepare_outputs(kind: str, folder: Path, staged: Path, results: Path) -> Callable[[], None]:
    """A function that moves what is staged into a folder, report.html last, and deletes what else earlier
    calls wrote there of this kind from these results, by the list in WRITTEN; pictures of --output_dir all
    stay.

    Raises:
        UserError: something else is in the way or, in a release, beside it.
    """
    source = f"{kind} of {os.path.relpath(results.resolve(), folder.resolve())}"
    paths = [path for path in staged.rglob("*") if path.is_file() and path.parent.name != ".locks"]
    new = {path.relative_to(staged).as_posix(): [file_sha256(path)] for path in paths}

    def lists() -> dict[str, dict[str, list[str]]]:
        written = folder / WRITTEN
        return json.loads(written.read_text()) if written.exists() else {}

    old = lists().get(source, {})
    # All versions of each file: after a kill an earlier one may be there.
    known = {name: sorted({*old.get(name, ()), *new.get(name, ())}) for name in old | new}

    def is_ours(path: Path) -> bool:
        digests = known.get(path.relative_to(folder).as_posix(), ())
        return path.is_file() and file_sha256(path) in digests

    paths = [folder / name for name in new] + release.stored_files(folder) * (kind == "release")
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
    if foreign := [path for path in paths if os.path.lexists(path) and not is_ours(path)]:
        others = f" (nor are {len(foreign) - 1} other files)" if foreign[1:] else ""
        raise UserError(
            f"{foreign[0]} is not as this script wrote it there from {results}{others}; move what lies there "
            "away, or name another folder"
        )

    def replace() -> None:
        write_json(folder / WRITTEN, lists() | {source: known})
        for name in known.keys() - new.keys() if kind != "drawn" else ():
            if is_ours(folder / name):
                (folder / name).unlink()
        for name in sorted(new, key=lambda name: name == "report.html"):
            (staged / name).replace(folder / name)

    return replace


TEX_COLUMNS = {  # of tables too wide for a page
    "report/evidence": "claim comparison sparsity measure value models mark",
    "report/populations": "learning_method pruning_method sparsity networks accuracy pies noise_floor excess",
    "report/test_sets": "learning_method pruning_method sparsity test_set accuracy difference pies pie_share",
    "similarity/class_recall": "learning_method pruning_method sparsity class dense_recall recall difference "
    "paired_p_holm",
    "similarity/pie_overlap": "learning_method pruning_method sparsity other_learning_method "
    "other_pruning_method other_sparsity jaccard chance_jaccard",
}


def write_tables(folder: Path, tables: dict[str, list[dict]]) -> None:
    """Each as a CSV; beside it as a LaTeX tabular its main columns, where they are few enough."""
    for name, rows in tables.items():
        lines = table.with_intervals(table.write_rows(folder / f"{name}.csv", rows))
        columns = TEX_COLUMNS.get(name, " ".join(lines[0])).split()
        places = [lines[0].index(column) for column in columns if column in lines[0]]
        if places and len(columns) <= table.TEX_WIDTH:
            table.write_tex(folder / f"{name}.tex", [[line[place] for place in places] for line in lines])


def write_page(folder: Path, html: str) -> None:
    """report.html in a folder."""
    write_atomically(folder / "report.html", lambda path: path.write_text(html, "utf-8", "xmlcharrefreplace"))
