"""Prunes dense supervised networks and trains them on with fixed masks: once, with finetuning, or
iteratively.

    python sup_pruning_finetune.py --dataset digits --models_number 3 --epochs 10 --pruning_percentages
    0.5,0.9,0.95,0.99 python sup_pruning_finetune.py --dataset digits --models_number 3 --pruning_schedule
    iterative --iterations 4 --rate 0.5 --after rewind

Reads the dense networks of sup_training.py (and for --after rewind the weights that its --save_epochs kept).
Writes models/[NAME/]wideResNet_global_..._id{id}.pt with a JSON beside each that says how it was made.
Network i comes from dense network i. Finished ones are skipped one by one.
"""

import sys

from common import cli


def build_parser() -> cli.Parser:
    parser = cli.Parser(__doc__)
    cli.add_supervised_flags(parser)
    cli.add_finetuning_flags(parser)
    cli.add_common_flags(parser)
    return parser


@cli.command
def main(argv=None) -> None:
    flags = build_parser().parse_args(argv)
    from common.store import prune
    from common.study import open_studies

    for study in open_studies("sup_pruning_finetune", flags, writes_models=True):
        prune.prune_population(study)


if __name__ == "__main__":
    sys.exit(main())
