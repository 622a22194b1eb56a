"""Trains contrastive WideResNets (SupCon or SimCLR), one for each seed and sparsity, and a linear classifier
on each frozen encoder.

    python clr_training.py --dataset digits --epochs 40 --batch_size 128 --learning_rate 0.02 --head_epochs 20
    --index_end 2 --pruning_percentages 0.0

Sparsity 0.0 is the dense network; others are pruned while they train, the head on a schedule of its own.
Reads the data set. Writes models/[NAME/]{encoder_name}_encoder_... and ..._head_..._id{id}.pt with a JSON
beside each that says how it was made, and the story and curves into logs/. Finished encoders and heads are
skipped.
"""

import sys

from common import cli


def build_parser() -> cli.Parser:
    parser = cli.Parser(__doc__)
    group = parser.add_argument_group("training of the encoder")
    group.add_argument(
        "--index_start", type=cli.model_id, default=0, help="first model id, which is its seed"
    )
    group.add_argument("--index_end", type=cli.model_id, default=29, help="last model id, inclusive")
    group.add_argument(
        "--batch_size", type=cli.positive_integer, default=1024, help="images in a batch, each in two views"
    )
    group.add_argument("--epochs", type=cli.positive_integer, default=500, help="training epochs")
    group.add_argument("--learning_rate", type=cli.positive_float, default=0.05, help="learning rate of SGD")
    group.add_argument("--momentum", type=cli.fraction, default=0.9, help="momentum of SGD")
    group.add_argument("--weight_decay", type=cli.natural_float, default=0.0004, help="weight decay of SGD")
    group.add_argument(
        "--base_temperature",
        type=cli.positive_float,
        default=0.07,
        help="the loss is scaled by temperature / this",
    )
    group.add_argument(
        "--warmup_epochs",
        type=cli.natural_number,
        default=0,
        help="linear from 0.01, with a batch above 256 only",
    )
    cli.add_boolean(group, "--cosine_annealing", False, "per epoch down to learning_rate / 1000")
    cli.add_boolean(group, "--lars", False, "layer-wise adaptive rates, trust coefficient 0.02")
    group.add_argument(
        "--num_classes", type=cli.positive_integer, default=10, help="must be the data set's, or 10"
    )
    group.add_argument("--lr_decay_epochs", default="1500", help=cli.COMPATIBILITY)
    cli.add_boolean(group, "--clipping", False, cli.COMPATIBILITY)
    cli.add_boolean(group, "--shuffle", True, cli.COMPATIBILITY)
    cli.add_saving_flags(group)
    group = parser.add_argument_group("training of the classifier head")
    group.add_argument(
        "--head_epochs", type=cli.positive_integer, default=100, help="epochs of the linear classifier"
    )
    group.add_argument(
        "--batch_size_head",
        type=cli.positive_integer,
        default=256,
        help="images in a batch of the linear classifier",
    )
    cli.add_boolean(
        group,
        "--debug_classification_head",
        False,
        "log the accuracy of a throw-away head (2 epochs) now and then",
    )
    group.add_argument(
        "--debug_classification_head_epochs",
        type=cli.positive_integer,
        default=25,
        help="epochs between these",
    )
    group = parser.add_argument_group("pruning while training")
    group.add_argument(
        "--pruning_percentages",
        type=cli.sparsity_list,
        default="0.0,0.3,0.5,0.7,0.9",
        help="final sparsities, one training each, 0.0: dense",
    )
    cli.add_gradual_pruning_flags(group, "late")
    cli.add_schedule_flags(group, "encoder", "", "contrastive")
    cli.add_schedule_flags(group, "classifier head", "_head", "head")
    cli.add_contrastive_flags(parser, "--method")
    cli.add_common_flags(parser)
    return parser


@cli.command
def main(argv=None) -> None:
    flags = build_parser().parse_args(argv)
    from common.store import runs
    from common.study import open_studies

    for study in open_studies("clr_training", flags, writes_models=True):
        runs.refuse_pruning_flags(flags, "--pruning_percentages", flags.pruning_percentages)
        runs.train_networks(study, flags.pruning_percentages)


if __name__ == "__main__":
    sys.exit(main())
