"""Output folders of the report, which replace only files of earlier calls; the page."""

import json
import os
import shutil
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Callable, Iterator

from common.cli import UserError
from common.store.files import claim, file_sha256, write_atomically, write_json
from figures.report import release

WRITTEN = ".written.json"  # lists the files that the scripts wrote to a folder


@contextmanager
def staged_folders(targets: dict[str, Path], results: Path) -> Iterator[dict[str, Path]]:
    """Yields hidden folders inside the targets (kind -> folder). Their files move into the targets if the
    context ends without an error; otherwise nothing changes.

    Args:
        results: the folder from which the outputs are made.
    Raises:
        UserError: a file of a different origin is in the way.
    """
    with ExitStack() as stack:
        # Concurrent calls wait for each other; a fixed order of locks avoids deadlocks.
        for _, path in sorted({path.resolve(): path for path in (results, *targets.values())}.items()):
            stack.enter_context(claim(path / "report.html", wait=True))
            for leftover in path.glob(".anew_*"):  # of a killed process
                shutil.rmtree(leftover, ignore_errors=True)
        staged = {
            kind: Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".anew_", dir=path)))
            for kind, path in targets.items()
        }
        yield staged
        for replace in [prepare_outputs(kind, targets[kind], staged[kind], results) for kind in targets]:
            replace()


def prepare_outputs(kind: str, folder: Path, staged: Path, results: Path) -> Callable[[], None]:
    """Returns a function that moves staged files into a folder, report.html last. It deletes other files that
    earlier calls of this kind made there from these results, by the list in WRITTEN, but no pictures of
    --output_dir.

    Raises:
        UserError: a file of a different origin is in the way or, for a release, beside the new ones.
    """
    source = f"{kind} of {os.path.relpath(results.resolve(), folder.resolve())}"
    paths = [path for path in staged.rglob("*") if path.is_file() and path.parent.name != ".locks"]
    new = {path.relative_to(staged).as_posix(): [file_sha256(path)] for path in paths}

    def lists() -> dict[str, dict[str, list[str]]]:
        written = folder / WRITTEN
        return json.loads(written.read_text()) if written.exists() else {}

    old = lists().get(source, {})
    # All versions of each file, because a killed call may have left an earlier one.
    digests_by_name = {name: sorted({*old.get(name, ()), *new.get(name, ())}) for name in old | new}

    def is_ours(path: Path) -> bool:
        digests = digests_by_name.get(path.relative_to(folder).as_posix(), ())
        return path.is_file() and file_sha256(path) in digests

    paths = [folder / name for name in new] + release.stored_files(folder) * (kind == "release")
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
    if foreign := [path for path in paths if os.path.lexists(path) and not is_ours(path)]:
        others = f" ({len(foreign) - 1} more files differ)" if foreign[1:] else ""
        other = {"report": "", "release": ", or give another --release"}
        raise UserError(
            f"{foreign[0]} is not as this script wrote it from {results}{others}; move it away (of a report: "
            f"report.html, report/ and similarity/){other.get(kind, ', or give another --output_dir')}"
        )

    def replace() -> None:
        write_json(folder / WRITTEN, lists() | {source: digests_by_name})
        for name in digests_by_name.keys() - new.keys() if kind != "drawn" else ():
            if is_ours(folder / name):
                (folder / name).unlink()
        for name in sorted(new, key=lambda name: name == "report.html"):
            (staged / name).replace(folder / name)

    return replace


def write_page(folder: Path, html: str) -> None:
    """Writes report.html into a folder."""
    write_atomically(folder / "report.html", lambda path: path.write_text(html, "utf-8", "xmlcharrefreplace"))
