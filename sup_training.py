"""Trains supervised WideResNets with cross-entropy, one per seed, dense or pruned while they train.

    python sup_training.py --dataset digits --epochs 12 --batch_size 64 --learning_rate 0.1 --index_end 2

To prune gradually to 95 % sparsity:

    python sup_training.py --dataset digits --epochs 12 --batch_size 64 --learning_rate 0.1 --index_end 2 \\
        --pruning 0.95 --begin_epoch 0.15 --end_epoch 3

Saves models/[NAME/]wideResNet{tag}_{sparsity}pruning_{epochs}epochs_{depth}depth_{dropout}dropout_id{id}.pt,
with a JSON that records settings, data and history, training curves beside it, and a log in logs/. Skips
finished models.
"""

import sys

from common import cli, settings, values


def build_parser() -> cli.Parser:
    parser = cli.Parser(__doc__)
    group = parser.add_argument_group("training")
    cli.add_flags(group, *settings.flag_rows(settings.SupervisedTraining))
    cli.add_training_flags(group)
    group = parser.add_argument_group("pruning while training")
    cli.add_flags(group, ("--pruning", values.fraction, 0.0, "final sparsity; 0: dense"))
    cli.add_gradual_pruning_flags(group, "early")
    cli.add_schedule_flags(group, "network", "", "supervised")
    cli.add_supervised_flags(parser)
    cli.add_common_flags(parser)
    return parser


@cli.command
def main(argv=None) -> None:
    flags = build_parser().parse_args(argv)
    from common.store import runs
    from common.study import open_studies

    if flags.cosine_annealing and (steps := sorted(flags.given & {"lr_milestones", "lr_gamma"})):
        raise cli.UserError(f"--{steps[0]} has no effect with --cosine_annealing; leave one of them out")
    for study in open_studies("sup_training", flags, writes_models=True):
        runs.train_networks(study)


if __name__ == "__main__":
    sys.exit(main())
