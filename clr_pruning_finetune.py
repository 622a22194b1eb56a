"""Prunes dense contrastive networks and continues training with fixed masks, once or iteratively.

    python clr_pruning_finetune.py --dataset digits --models_number 3 --epochs 10 \\
        --pruning_percentages 0.5,0.9

To prune half of the remaining weights four times with rewinding (needs training with --save_epochs 0):

    python clr_pruning_finetune.py --dataset digits --models_number 3 \\
        --pruning_schedule iterative --iterations 4 --rate 0.5 --after rewind

Pruned network i comes from dense network i. Saves models/[NAME/]{encoder_name}_encoder_..._global_...pt and
..._head_..._global_...pt with a JSON beside each. Skips finished networks. Encoder and classifier are
pruned together; the projection head is not pruned.
"""

import sys

from common import cli


def build_parser() -> cli.Parser:
    parser = cli.Parser(__doc__)
    cli.add_finetuning_flags(parser)
    cli.add_contrastive_flags(parser)
    cli.add_common_flags(parser)
    return parser


@cli.command
def main(argv=None) -> None:
    flags = build_parser().parse_args(argv)
    from common.store import prune
    from common.study import open_studies

    for study in open_studies("clr_pruning_finetune", flags, writes_models=True):
        prune.prune_population(study)


if __name__ == "__main__":
    sys.exit(main())
