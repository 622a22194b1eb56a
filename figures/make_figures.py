"""The report of a data set: whether the paper's claims hold, with intervals, figures, table and provenance; without models.

    python figures/make_figures.py --results pies/digits
    python figures/make_figures.py --results pies/digits --output_dir figures --format pdf

Reads RESULTS/results.csv, RESULTS/METHOD/{umap,q_score,prediction_depth,pies_distribution}/*.npz and RESULTS/METHOD/evaluations/. Writes
RESULTS/report.html, one file that opens in any browser; into RESULTS/report/ its figures, their arrays and the evidence (CSV); into
RESULTS/similarity/ how alike masks and PIEs of the combinations are. With --output_dir draws every figure anew from its arrays
into that folder, named after data set, learning method and kind.
"""

import io
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common import cli  # noqa: E402

KINDS = ("pies_distribution", "q_score", "umap", "prediction_depth")
OWN_FOLDERS = ("similarity", "report")  # of what is made here


def build_parser() -> cli.Parser:
    parser = cli.Parser(__doc__)
    parser.add_argument(
        "--results", type=Path, default=Path("pies/cifar10"), help="the folder of one data set's results"
    )
    parser.add_argument(
        "--output_dir",
        type=Path,
        default=None,
        help="draw every figure anew into this folder, None: list them only",
    )
    parser.add_argument(
        "--format", choices=("png", "pdf", "svg"), default="png", help="of the pictures drawn anew"
    )
    return parser


@cli.command
def main(argv=None) -> None:
    flags = build_parser().parse_args(argv)
    from common.store import results
    from figures.report import across

    rows = results.read_table(flags.results)
    if not rows:
        raise cli.UserError(
            f"--results {flags.results}: no results.csv there; run the pie_kmodels_detection scripts first"
        )
    left_out = across.left_out(flags.results)
    for words in left_out:
        print(f"not compared: {words}")
    tables, comparisons = compare(flags.results)
    tables.append(make_report(flags.results, comparisons, left_out))
    stored = [path for kind in KINDS for path in sorted(flags.results.glob(f"*/{kind}/*.npz"))] + [
        path for folder in OWN_FOLDERS for path in sorted(flags.results.glob(f"{folder}/*.npz"))
    ]
    if flags.output_dir is not None:
        models = sorted({len(one.arrays["ids"]) for one in across.read_combinations(flags.results)})
        for path in stored:
            draw(path, flags.output_dir / f"{figure_name(path, flags.results, models)}.{flags.format}")
    else:
        for path in [
            *sorted(flags.results.glob("*/*/*.png")),
            *(path for folder in OWN_FOLDERS for path in sorted(flags.results.glob(f"{folder}/*.png"))),
        ]:
            print(f"figure: {path}")
    for path in tables:
        print(f"table: {path}")
    print(results.format_table(rows))
    print(f"all columns: {results.table_path(flags.results)}")
    print(f"report: {flags.results / 'report.html'}")


def figure_name(path: Path, results_folder: Path, models: list[int]) -> str:
    """Data set, learning method or folder, kind, sparsity and number of models, in a name without blanks."""
    words = [results_folder.name, *path.relative_to(results_folder).with_suffix("").parts]
    if path.parent.name in OWN_FOLDERS:  # the names of the scripts' figures say it themselves
        words.append(f"{'-'.join(map(str, models))}models")
    return re.sub(r"[^\w.-]+_?", "_", "_".join(words))


def compare(folder: Path) -> tuple[list[Path], dict[str, dict]]:
    """Writes the comparisons across learning and pruning methods; returns the paths of their tables, and name -> arrays of their figures."""
    from common.store import results
    from figures.report import across

    found = across.compare_all(folder)
    empty(folder / "similarity")
    paths, drawn = [], {}
    for name, (rows, figures) in found.items():
        paths.append(folder / "similarity" / f"{name}.csv")
        results.write_rows(paths[-1], rows)
        for figure, arrays in figures.items():
            store(folder / "similarity" / f"{figure}.npz", arrays)
            drawn[figure] = arrays
    return paths, drawn


def make_report(folder: Path, comparisons: dict[str, dict], left_out: list[str]) -> Path:
    """Writes RESULTS/report.html, its own figures and the evidence; returns the path of the table of the evidence."""
    from common.store import files, results
    from figures.report import contents, page

    found = contents.collect(folder, left_out)
    empty(folder / "report")
    drawn = [
        (
            picture,
            png(picture.arrays)
            if "made" in picture.arrays
            else store(folder / "report" / f"{picture.name}.npz", picture.arrays),
        )
        for picture in found["pictures"]
    ]  # the arrays of a PIE or depth script's figures are stored already
    drawn += [
        (picture, (folder / "similarity" / f"{picture.name}.png").read_bytes())
        for picture in contents.comparison_pictures(comparisons, found["compared"])
    ]
    for picture in filter(None, map(contents.gallery_picture, contents.shown(found["compared"]))):
        store(folder / "report" / f"{picture.name}.npz", picture.arrays)
    results.write_rows(folder / "report" / "evidence.csv", found["evidence"])
    html = page.write(found, drawn, folder)
    files.write_atomically(
        folder / "report.html", lambda temporary: temporary.write_text(html, encoding="utf-8")
    )
    return folder / "report" / "evidence.csv"


def empty(folder: Path) -> None:
    """Deletes what an earlier call wrote there: of populations that may have left the table."""
    for old in folder.glob("*.*"):
        if old.suffix in (".csv", ".npz", ".png"):
            old.unlink()


def png(arrays: dict) -> bytes:
    """The picture of stored arrays."""
    from common import plots

    picture = io.BytesIO()
    plots.draw(arrays).savefig(picture, format="png", dpi=plots.DPI)
    return picture.getvalue()


def store(path: Path, arrays: dict) -> bytes:
    """Writes a figure's arrays and, beside them, its picture, which is returned."""
    from common import plots
    from common.store import results

    results.write_arrays(path, arrays, {})
    plots.save_figure(path.with_suffix(".png"), plots.draw(results.read_arrays(path)))
    return path.with_suffix(".png").read_bytes()


def draw(path: Path, target: Path) -> None:
    """Draws a figure from its stored arrays."""
    from common import plots
    from common.store import results

    try:
        figure = plots.draw(results.read_arrays(path) or {})
    except (ValueError, KeyError) as error:
        raise cli.UserError(
            f"{path} does not hold the arrays of a figure ({error}); delete it and run its script again"
        ) from None
    plots.save_figure(target, figure)
    print(f"figure: {target}")


if __name__ == "__main__":
    sys.exit(main())
