"""Finds the PIEs of any networks, given only their predictions, for any model and data set, without torch.

    python figures/compare_predictions.py --dense dense.npy --pruned pruned.npy --labels labels.npy

A file of predictions holds class ids (whole numbers, K networks x N images) or probabilities (K x N x C). Row
k of every file belongs to the same seed. Writes report.html and, beside it, comparisons.csv (PIEs, noise
floor, excess, accuracy), pies_NAME.csv (every PIE) and classes.csv (PIEs per class; also as LaTeX).
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common import cli, values  # noqa: E402


def named_file(text: str) -> tuple[str, Path]:
    """Parses `NAME=FILE`, or a file, which is then named by its stem."""
    name, equals, file = text.partition("=")
    if not equals:
        return values.file_path(text).stem, values.file_path(text)
    if not name or "/" in name:
        raise argparse.ArgumentTypeError(f"{text!r}: NAME=FILE needs a name, without '/'")
    return name, values.file_path(file)


def build_parser() -> cli.Parser:
    parser = cli.Parser(__doc__)
    arrays = parser.add_argument_group("arrays (.npy)")
    arrays.add_argument(
        "--dense", type=values.file_path, required=True, help="predictions of the dense networks"
    )
    arrays.add_argument(
        "--pruned",
        type=named_file,
        required=True,
        action="append",
        help="predictions of pruned networks, FILE or NAME=FILE; repeat the flag for several",
    )
    arrays.add_argument(
        "--labels", type=values.file_path, required=True, help="true class ids of the N images, from 0"
    )
    cli.add_flags(
        parser,
        ("--names", values.file_path, None, "text file with one class name per line (default: class ids)"),
        (
            "--images",
            values.file_path,
            None,
            "folder of the N images, sorted by path, for the gallery (default: no gallery)",
        ),
        ("--output_dir", values.file_path, Path("predictions"), "folder of the report"),
    )
    return parser


@cli.command
def main(argv=None) -> None:
    flags = build_parser().parse_args(argv)
    files = dict(flags.pruned)
    if len(files) < len(flags.pruned):
        raise cli.UserError("two files of --pruned have the same name; name them (--pruned NAME=FILE)")
    from figures.report import outputs, predictions

    labels = predictions.read_labels(flags.labels)
    dense = predictions.read_predictions("--dense", flags.dense, len(labels))
    pruned = {
        name: predictions.read_predictions("--pruned", file, len(labels)) for name, file in files.items()
    }
    for text in predictions.notes(labels, dense, pruned):
        print(text)
    names = predictions.read_class_names(flags.names, labels, [dense, *pruned.values()])
    images = predictions.image_files(flags.images, len(labels)) if flags.images else []
    compared = [predictions.compare(name, dense, array, labels, names) for name, array in pruned.items()]
    source = f"predictions of {flags.dense.resolve()} and {', '.join(pruned)}"
    with outputs.staged_folders({source: flags.output_dir}, flags.output_dir) as staged:
        lines = predictions.write_report(staged[source], compared, images)
    print(*lines, f"report: {flags.output_dir / 'report.html'}", sep="\n")


if __name__ == "__main__":
    sys.exit(main())
