"""Finds PIEs: test images that K pruned supervised networks classify differently from K dense ones, by
majority vote.

    python sup_pie_kmodels_detection.py --dataset digits --models_number 3 --plot_q_score --plot_umap

Reads the networks that sup_training.py and sup_pruning_finetune.py saved. Writes pies/NAME/results.csv, PIEs
and other measures to pies/NAME/METHOD/populations/, the outputs of each network to evaluations/, and figures
with their arrays to pies_distribution/, q_score/ and umap/.
"""

import sys

from common import cli


def build_parser() -> cli.Parser:
    parser = cli.Parser(__doc__)
    cli.add_supervised_flags(parser)
    cli.add_comparison_flags(parser, pruning_methods="global,GMP", sparsities="0.3,0.5,0.7,0.9,0.95,0.99")
    cli.add_pie_flags(parser)
    cli.add_common_flags(parser)
    return parser


@cli.command
def main(argv=None) -> None:
    flags = build_parser().parse_args(argv)
    from common.comparison import detect_pies
    from common.study import open_studies

    for study in open_studies("sup_pie_kmodels_detection", flags):
        detect_pies(study)


if __name__ == "__main__":
    sys.exit(main())
