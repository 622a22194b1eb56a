"""Trains contrastive WideResNets (SupCon or SimCLR), then a linear classifier on each frozen encoder.

    python clr_training.py --dataset digits --epochs 40 --batch_size 128 --learning_rate 0.02 \\
        --head_epochs 20 --index_end 2 --pruning_percentages 0.0

Sparsity 0.0 is the dense network. At other sparsities networks are pruned while they train; the classifier
has a separate schedule. Saves models/[NAME/]{encoder_name}_encoder_...pt and ..._head_...pt, each with a JSON
that records settings, data and history, training curves beside them, and a log in logs/. Skips finished
encoders and heads.
"""

import sys

from common import cli, settings, values


def build_parser() -> cli.Parser:
    parser = cli.Parser(__doc__)
    group = parser.add_argument_group("training of the encoder")
    cli.add_flags(group, *settings.flag_rows(settings.ContrastiveTraining, without=("temperature",)))
    cli.add_training_flags(group)
    cli.add_flags(
        group,
        ("--num_classes", values.positive_integer, 10, "must match the data set, or be 10"),
        ("--lr_decay_epochs", str, "1500", cli.COMPATIBILITY),
        ("--clipping", bool, False, cli.COMPATIBILITY),
        ("--shuffle", bool, True, cli.COMPATIBILITY),
    )
    cli.add_flags(
        parser.add_argument_group("training of the classifier head"),
        *settings.flag_rows(settings.HeadTraining, without=("precision",)),
        (
            "--debug_classification_head",
            bool,
            False,
            "regularly log the accuracy of a temporary head, trained for 2 epochs",
        ),
        ("--debug_classification_head_epochs", values.positive_integer, 25, "epochs between temporary heads"),
    )
    group = parser.add_argument_group("pruning while training")
    cli.add_flags(
        group,
        (
            "--pruning_percentages",
            values.sparsity_list,
            "0.0,0.3,0.5,0.7,0.9",
            "final sparsities, each a separate training; 0.0: dense",
        ),
    )
    cli.add_gradual_pruning_flags(group, "late")
    cli.add_schedule_flags(group, "encoder", "", "encoder")
    cli.add_schedule_flags(group, "classifier head", "_head", "head")
    cli.add_contrastive_flags(parser)
    cli.add_common_flags(parser)
    return parser


@cli.command
def main(argv=None) -> None:
    flags = build_parser().parse_args(argv)
    from common.store import runs
    from common.study import open_studies

    for study in open_studies("clr_training", flags, writes_models=True):
        runs.train_networks(study)


if __name__ == "__main__":
    sys.exit(main())
