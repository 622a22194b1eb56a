"""Compares all learning and pruning methods of a data set, prints its table and the paths of its figures; without models.

    python figures/make_figures.py --results pies/digits
    python figures/make_figures.py --results pies/digits --output_dir figures --format pdf

Reads RESULTS/results.csv, RESULTS/METHOD/{umap,q_score,prediction_depth,pies_distribution}/*.npz and RESULTS/METHOD/evaluations/. Writes
into RESULTS/similarity/ how alike masks and PIEs of the combinations are (CSV, figures and their arrays). With --output_dir draws
every figure anew from its arrays into that folder, named after data set, learning method and kind.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common import cli  # noqa: E402

KINDS = ("pies_distribution", "q_score", "umap", "prediction_depth")


def build_parser() -> cli.Parser:
    parser = cli.Parser(__doc__)
    parser.add_argument("--results", type=Path, default=Path("pies/cifar10"), help="the folder of one data set's results")
    parser.add_argument("--output_dir", type=Path, default=None, help="draw every figure anew into this folder, None: list them only")
    parser.add_argument("--format", choices=("png", "pdf", "svg"), default="png", help="of the pictures drawn anew")
    return parser


@cli.command
def main(argv=None) -> None:
    flags = build_parser().parse_args(argv)
    from common import results

    rows = results.read_table(flags.results)
    if not rows:
        raise cli.UserError(f"--results {flags.results}: no results.csv there; run the pie_kmodels_detection scripts first")
    tables = compare(flags.results)
    stored = [path for kind in KINDS for path in sorted(flags.results.glob(f"*/{kind}/*.npz"))] + sorted(flags.results.glob("similarity/*.npz"))
    if flags.output_dir is not None:
        for path in stored:
            draw(path, flags.output_dir / f"{flags.results.name}_{'_'.join(path.relative_to(flags.results).with_suffix('').parts)}.{flags.format}")
    else:
        for path in [*sorted(flags.results.glob("*/*/*.png")), *sorted(flags.results.glob("similarity/*.png"))]:
            print(f"figure: {path}")
    for path in tables:
        print(f"table: {path}")
    print(results.format_table(rows))
    print(f"all columns: {results.table_path(flags.results)}")


def compare(folder: Path) -> list[Path]:
    """Writes the comparisons across learning and pruning methods; returns the paths of their tables."""
    from common import across, plots, results

    comparisons = across.compare_all(folder)
    for words in across.left_out(folder):
        print(f"not compared: {words}")
    for old in folder.glob("similarity/*.*"):  # of populations that may have left the table
        if old.suffix in (".csv", ".npz", ".png"):
            old.unlink()
    paths = []
    for name, (rows, figures) in comparisons.items():
        paths.append(folder / "similarity" / f"{name}.csv")
        results.write_rows(paths[-1], rows)
        for figure, arrays in figures.items():
            path = folder / "similarity" / f"{figure}.npz"
            results.write_arrays(path, arrays, {})
            plots.save_figure(path.with_suffix(".png"), plots.draw(results.read_arrays(path)))
    return paths


def draw(path: Path, target: Path) -> None:
    """Draws a figure from its stored arrays."""
    from common import plots, results

    try:
        figure = plots.draw(results.read_arrays(path) or {})
    except (ValueError, KeyError) as error:
        raise cli.UserError(f"{path} does not hold the arrays of a figure ({error}); delete it and run its script again") from None
    plots.save_figure(target, figure)
    print(f"figure: {target}")


if __name__ == "__main__":
    sys.exit(main())
