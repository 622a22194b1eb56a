"""Compares the prediction depth of pruned and dense contrastive networks, PIEs apart (Baldock et al. 2021).

    python clr_prediction_depth.py --dataset digits --models_number 3 --pruning_methods global

Reads the networks of clr_training.py and clr_pruning_finetune.py. Writes pies/NAME/results.csv, and into
pies/NAME/METHOD/ what was found (populations/), what each network gives (evaluations/ and
prediction_depth/votes/, kept) and figures with their arrays (prediction_depth/).
"""

import sys

from common import cli


def build_parser() -> cli.Parser:
    parser = cli.Parser(__doc__)
    cli.add_contrastive_flags(parser)
    cli.add_comparison_flags(parser, pruning_methods="GMP,global,later GMP", sparsities="0.3,0.5,0.7,0.9")
    cli.add_depth_flags(parser)
    cli.add_common_flags(parser)
    return parser


@cli.command
def main(argv=None) -> None:
    flags = build_parser().parse_args(argv)
    from common.comparison import compare_depths
    from common.study import open_studies

    for study in open_studies("clr_prediction_depth", flags):
        compare_depths(study)


if __name__ == "__main__":
    sys.exit(main())
