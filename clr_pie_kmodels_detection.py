"""Finds the PIEs of pruned contrastive networks: test images on which K pruned networks disagree with K dense
ones.

    python clr_pie_kmodels_detection.py --dataset digits --models_number 3 --plot_q_score --plot_umap

Reads the networks of clr_training.py and clr_pruning_finetune.py. Writes pies/NAME/results.csv, and into
pies/NAME/METHOD/ what was found (populations/), what each network gives (evaluations/, kept) and figures with
their arrays (pies_distribution/, q_score/, umap/).
"""

import sys

from common import cli


def build_parser() -> cli.Parser:
    parser = cli.Parser(__doc__)
    cli.add_contrastive_flags(parser)
    cli.add_comparison_flags(
        parser, pruning_methods="global,GMP,later_GMP", sparsities="0.3,0.5,0.7,0.9,0.95,0.99"
    )
    cli.add_pie_flags(parser)
    cli.add_common_flags(parser)
    return parser


@cli.command
def main(argv=None) -> None:
    flags = build_parser().parse_args(argv)
    from common.comparison import detect_pies
    from common.study import open_studies

    for study in open_studies("clr_pie_kmodels_detection", flags):
        detect_pies(study)


if __name__ == "__main__":
    sys.exit(main())
