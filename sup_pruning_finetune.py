"""Prunes dense supervised networks in one shot (global magnitude) and finetunes them with fixed masks.

    python sup_pruning_finetune.py --dataset digits --models_number 3 --epochs 10 --pruning_percentages 0.5,0.9,0.95,0.99

Reads the dense networks of sup_training.py. Writes models/[NAME/]wideResNet_global_{sparsity}pruning_{epochs}epochs_..._id{id}.pt
with a JSON beside each that says how it was made. Network i comes from dense network i. Finished ones are skipped one by one.
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
    from common.runs import finetune_population
    from common.study import open_studies

    for study in open_studies("sup_pruning_finetune", flags, writes_models=True):
        finetune_population(study, ("supervised",), payloads)


def payloads(network) -> tuple[dict, ...]:
    """The file of one network: its bare state_dict."""
    from common.checkpoints import cpu_state

    return (cpu_state(network),)


if __name__ == "__main__":
    sys.exit(main())
