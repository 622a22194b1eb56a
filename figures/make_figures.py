"""Prints the table of a data set and the paths of its figures; draws the figures anew from their stored arrays, without models.

    python figures/make_figures.py --results pies/digits
    python figures/make_figures.py --results pies/digits --output_dir figures --format pdf

Reads RESULTS/results.csv and RESULTS/METHOD/{umap,q_score,prediction_depth,pies_distribution}/*.npz. With --output_dir writes one
picture for each, named after data set, learning method and kind.
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
    stored = [path for kind in KINDS for path in sorted(flags.results.glob(f"*/{kind}/*.npz"))]
    if flags.output_dir is not None:
        from common import plots

        for path in stored:
            method, kind = path.parts[-3:-1]
            target = flags.output_dir / f"{flags.results.name}_{method}_{kind}_{path.stem}.{flags.format}"
            try:
                figure = plots.draw(results.read_arrays(path) or {})
            except (ValueError, KeyError) as error:
                raise cli.UserError(f"{path} does not hold the arrays of a figure ({error}); delete it and run its script again") from None
            plots.save_figure(target, figure)
            print(f"figure: {target}")
    else:
        for path in sorted(flags.results.glob("*/*/*.png")):
            print(f"figure: {path}")
    print(results.format_table(rows))
    print(f"all columns: {results.table_path(flags.results)}")


if __name__ == "__main__":
    sys.exit(main())
