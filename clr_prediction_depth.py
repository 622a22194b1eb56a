"""Compares prediction depth (Baldock et al. 2021) of pruned and dense contrastive networks.

    python clr_prediction_depth.py --dataset digits --models_number 3 --pruning_methods global

Reads the networks that clr_training.py and clr_pruning_finetune.py saved. Writes pies/NAME/results.csv,
depths to pies/NAME/METHOD/populations/, the k-NN labels of each network to prediction_depth/votes/, and
figures with their arrays to prediction_depth/.
"""

import sys

from common import cli


def build_parser() -> cli.Parser:
    parser = cli.Parser(__doc__)
    cli.add_comparison_flags(parser, pruning_methods="GMP,global,later GMP", sparsities="0.3,0.5,0.7,0.9")
    cli.add_depth_flags(parser)
    cli.add_contrastive_flags(parser)
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
