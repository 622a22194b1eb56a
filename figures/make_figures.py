"""Writes the report of a data set: whether the paper's claims hold, with intervals, figures and provenance.

    python figures/make_figures.py --results pies/digits
    python figures/make_figures.py --results pies/digits --output_dir drawn --format pdf --style paper
    python figures/make_figures.py --results pies/digits --against pies/digits/runs/colder

Needs no models and no torch. Reads RESULTS/METHOD/{populations,evaluations}/, the arrays of the scripts'
figures in RESULTS/METHOD/{umap,q_score,prediction_depth,pies_distribution}/, and the same for alternative
test sets in RESULTS/test_sets/TESTSET/. Writes

- RESULTS/report.html, one file that opens in any browser;
- RESULTS/report/: its figures with their arrays, the evidence, a list of the PIEs of every population;
- RESULTS/similarity/: the similarity of masks and PIEs of the populations.

Tables are CSV; beside most of them is a LaTeX tabular (package booktabs) of the main columns. --output_dir
also draws every figure into that folder. --release also copies the files that this script reads into a folder
small enough to publish, from which it can make the same report.
"""

import argparse
import os
import re
import sys
import zlib
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common import cli, values  # noqa: E402

KINDS = ("pies_distribution", "q_score", "umap", "prediction_depth")
OUTPUT_FOLDERS = ("similarity", "report")


def build_parser() -> cli.Parser:
    parser = cli.Parser(__doc__)
    cli.add_flags(
        parser,
        ("--results", values.file_path, Path("pies/cifar10"), "the folder of one data set's results"),
        ("--output_dir", values.file_path, None, "also draw every figure into this folder (default: no)"),
        ("--format", ("png", "pdf", "svg"), "png", "format of the figures in --output_dir"),
        (
            "--style",
            ("screen", "paper"),
            "screen",
            "style of figures in --output_dir; paper: 3.25 inches wide, 8 pt, title and caption in a text "
            "file beside each",
        ),
        cli.RUN,
        (
            "--against",
            values.file_path,
            None,
            "compare with this folder of results; writes only RESULTS/against/.../report.html (default: no)",
        ),
        (
            "--release",
            values.file_path,
            None,
            "copy the files that this script reads into a folder small enough to publish (default: no)",
        ),
    )
    return parser


@cli.command
def main(argv=None) -> None:
    flags = build_parser().parse_args(argv)
    from figures.report import outputs

    folder = flags.results / "runs" / flags.run if flags.run else flags.results
    if flags.against:
        refused = {"output_dir", "format", "style", "release"} & flags.given
        if refused:
            raise cli.UserError(f"--{min(refused)} has no effect with --against; leave one of them out")
        if flags.against.resolve() == folder.resolve():
            raise cli.UserError("--against names the folder of --results; name that of another run")
    elif not flags.output_dir and (unused := {"format", "style"} & flags.given):
        raise cli.UserError(f"--{min(unused)} needs --output_dir")
    if flags.release and flags.release.resolve() == folder.resolve():
        raise cli.UserError("--release names the folder of --results; name another one for the copy")
    for flag, path in {"--results": folder, "--against": flags.against}.items():
        if path and not path.is_dir():
            raise cli.UserError(f"{flag} {path} is not a folder; give one with results, such as pies/digits")
    report = against_folder(folder, flags.against) if flags.against else folder
    targets = {"release": flags.release, "drawn": flags.output_dir, "report": report}
    targets = {kind: path for kind, path in targets.items() if path}
    with outputs.staged_folders(targets, folder) as staged:
        if flags.against:
            lines = write_against(folder, staged["report"], flags.against)
        else:
            lines = write_report(folder, staged, flags)
    print(*lines, sep="\n")


def write_report(folder: Path, staged: dict[str, Path], flags: argparse.Namespace) -> list[str]:
    """Writes the report, redrawn figures and a release, each into its staged folder; returns the lines to
    print."""
    from common.store import table
    from figures.report import across, contents, outputs, page, plots, read, release, tables

    stored = read.read_populations(folder)
    pruned = [population for population in stored if population.is_pruned]
    similarities, figures, missing = across.compare_all(pruned)
    for text in missing:
        print(f"not compared: {text}")
    report = contents.collect(stored, figures, missing)
    rows = {f"similarity/{name}": its_rows for name, its_rows in similarities.items()}
    report_folder, similarity_folder = (staged["report"] / name for name in ("report", "similarity"))
    pngs = {name: plots.store(similarity_folder / f"{name}.npz", arrays) for name, arrays in figures.items()}
    for picture in report.pictures:
        if "path" in picture.arrays:  # the arrays of a script's figure are stored already
            pngs[picture.name], _ = plots.draw_again(picture.arrays["path"])
        elif picture.name not in pngs:
            pngs[picture.name] = plots.store(report_folder / f"{picture.name}.npz", picture.arrays)
    rows["report/evidence"] = report.evidence
    rows["report/populations"] = [*report.populations, *report.dense]
    if report.test_sets:
        rows["report/test_sets"] = report.test_sets
    # Lists of compared populations come last and replace others, because these have outputs of networks.
    pie_lists = {
        f"report/pies_{contents.file_name(population)}": contents.pie_list(population)
        for population in (*pruned, *report.controls, *report.compared)
    }
    tables.write_tables(staged["report"], rows | pie_lists)
    all_rows = [population.row for population in stored]
    tables.write_tex(report_folder / "results.tex", tables.paper_table(all_rows))
    outputs.write_page(staged["report"], page.write(report, pngs, folder))
    models = sorted({len(population.arrays["ids"]) for population in pruned})
    lines = [
        redraw(folder, staged, models, flags),
        *(f"table: {folder / name}.csv" for name in rows),
        f"PIEs, image by image: {folder}/report/pies_*.csv\ntable: {folder}/report/results.tex",
        table.format_table(all_rows),
        f"all columns: {table.table_path(folder)}\nreport: {folder / 'report.html'}",
    ]
    if flags.release:
        size = release.release(folder, staged["release"], contents.shown(report.compared))
        lines.append(f"released: {size / 1e6:.1f} MB in {flags.release}")
    return lines


def write_against(folder: Path, staged: Path, other: Path) -> list[str]:
    """Writes a report on two runs side by side; returns the lines to print."""
    from figures.report import read, two_runs

    runs = [*map(read.read_populations, (folder, other))]
    names = tuple(str(stored[0].arrays["data_title"]) for stored in runs)
    if len(set(names)) == 1:
        names = str(folder), str(other)
    two_runs.write_report(staged, runs, names)
    report_path = against_folder(folder, other) / "report.html"
    return [f"{names[0]} against {names[1]}: {report_path}, differences.csv beside it"]


def against_folder(folder: Path, other: Path) -> Path:
    """Returns the folder for the comparison with the results in `other`, a separate one for each."""
    path = other.resolve()
    return folder / "against" / f"{path.name}_{zlib.crc32(os.fsencode(path)):08x}"


def redraw(folder: Path, staged: dict[str, Path], models: list[int], flags: argparse.Namespace) -> str:
    """Draws every figure into the staged folder of --output_dir if requested; returns a line on the number of
    figures in each folder."""
    from common.store import files
    from figures.report import contents, plots

    if "drawn" not in staged:
        drawn = [path.parent for path in stored_figures(folder, staged["report"], "png")]
    else:
        figures = stored_figures(folder, staged["report"], "npz")
        for path, arrays in figures.items():
            target = staged["drawn"] / f"{figure_name(path, folder, models)}.{flags.format}"
            picture, about = plots.draw_again(arrays, flags.format, flags.style)
            files.write_atomically(target, lambda temporary: temporary.write_bytes(picture))
            if flags.style == "paper":
                kind = path.parent.name if path.parent.name in KINDS else path.stem
                text = f"{about}\n{contents.caption(kind)}\n"
                files.write_atomically(
                    target.with_suffix(".txt"), lambda temporary: temporary.write_text(text, "utf-8")
                )
        drawn = [flags.output_dir] * len(figures)
    return f"figures: {', '.join(f'{number} in {name}' for name, number in Counter(drawn).items())}"


def stored_figures(folder: Path, staged: Path, ending: str) -> dict[Path, Path]:
    """Maps the final paths of figures to their current ones: figures of the scripts, then staged ones."""
    stored = {path: path for kind in KINDS for path in sorted(folder.glob(f"*/{kind}/[!.]*.{ending}"))}
    new = sorted(staged.glob(f"*/*.{ending}"))
    return stored | {folder / path.relative_to(staged): path for path in new}


def figure_name(path: Path, results_folder: Path, models: list[int]) -> str:
    """Returns a file name without blanks from data set, learning method or folder, kind, sparsity and number
    of models."""
    folders = re.split("/(?:runs|test_sets)/", results_folder.resolve().as_posix())
    data = [Path(folder).name for folder in folders]
    parts = [*data, *path.relative_to(results_folder).with_suffix("").parts]
    if path.parent.name in OUTPUT_FOLDERS:  # names of the scripts' figures already have it
        parts.append(f"{'-'.join(map(str, models))}models")
    return re.sub(r"[^\w.-]+_?", "_", "_".join(parts))


if __name__ == "__main__":
    sys.exit(main())
