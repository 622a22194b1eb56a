"""Prunes dense contrastive networks in one shot (global magnitude) and finetunes them with fixed masks.

    python clr_pruning_finetune.py --dataset digits --models_number 3 --epochs 10 --pruning_percentages 0.5,0.9,0.95,0.99

Reads the dense networks of clr_training.py. Writes models/[NAME/]{encoder_name}_encoder_..._global_... and ..._head_..._global_..._id{id}.pt
with a JSON beside each that says how it was made. Network i comes from dense network i. Finished ones are skipped one by one.
"""

import sys

from common import cli


def build_parser() -> cli.Parser:
    parser = cli.Parser(__doc__)
    cli.add_contrastive_flags(parser, "--clr_method")
    cli.add_finetuning_flags(parser)
    cli.add_common_flags(parser)
    return parser


@cli.command
def main(argv=None) -> None:
    flags = build_parser().parse_args(argv)
    from common.runs import finetune_population
    from common.study import open_studies

    for study in open_studies("clr_pruning_finetune", flags, writes_models=True):
        finetune_population(study, ("encoder", "head"), payloads)


def payloads(network) -> tuple[dict, ...]:
    """The two files of one network: the bare encoder without projection head, and the classifier head."""
    from common.checkpoints import cpu_state

    return {"model": cpu_state(network.encoder)}, {"head": cpu_state(network.classification_head)}


if __name__ == "__main__":
    sys.exit(main())
