"""Trains supervised WideResNets with cross-entropy, one for each seed, dense or pruned while they train.

    python sup_training.py --dataset digits --epochs 12 --batch_size 64 --learning_rate 0.1 --index_end 2
    python sup_training.py --dataset digits --epochs 12 --batch_size 64 --learning_rate 0.1 --index_end 2 --pruning 0.95 --begin_epoch 0.15 --end_epoch 3

Reads the data set. Writes models/[NAME/]wideResNet{tag}_{sparsity}pruning_{epochs}epochs_{depth}depth_{dropout}dropout_id{id}.pt with
a JSON beside each that says how it was made, and the story and curves into logs/. Finished models are skipped.
"""

import sys

from common import cli


def build_parser() -> cli.Parser:
    parser = cli.Parser(__doc__)
    group = parser.add_argument_group("training")
    group.add_argument(
        "--index_start", type=cli.model_id, default=0, help="first model id, which is its seed"
    )
    group.add_argument("--index_end", type=cli.model_id, default=29, help="last model id, inclusive")
    group.add_argument("--batch_size", type=cli.positive_integer, default=128, help="images in a batch")
    group.add_argument("--epochs", type=cli.positive_integer, default=205, help="training epochs")
    group.add_argument(
        "--learning_rate",
        type=cli.positive_float,
        default=1.0,
        help="learning rate of SGD, in the first epoch",
    )
    group.add_argument(
        "--lr_milestones",
        type=cli.milestone_list,
        default="5,30,50,80",
        help="epochs, counted from 0, at which the learning rate is multiplied by --lr_gamma",
    )
    group.add_argument(
        "--lr_gamma",
        type=cli.positive_float,
        default=0.1,
        help="factor of the learning rate at each milestone",
    )
    cli.add_boolean(
        group,
        "--cosine_annealing",
        False,
        "in place of the milestones: per epoch down to learning_rate / 1000",
    )
    group.add_argument("--momentum", type=cli.fraction, default=0.9, help="momentum of SGD")
    group.add_argument("--weight_decay", type=cli.natural_float, default=0.0005, help="weight decay of SGD")
    cli.add_boolean(group, "--shuffle", True, "a new order of the images in every epoch")
    cli.add_saving_flags(group)
    group = parser.add_argument_group("pruning while training")
    group.add_argument("--pruning", type=cli.fraction, default=0.0, help="final sparsity, 0: dense")
    cli.add_gradual_pruning_flags(group, "early")
    cli.add_schedule_flags(group, "network", "", "supervised")
    cli.add_supervised_flags(parser)
    cli.add_common_flags(parser)
    return parser


@cli.command
def main(argv=None) -> None:
    flags = build_parser().parse_args(argv)
    from common.store import runs
    from common.store.sharing import share
    from common.study import open_studies

    ids = runs.model_ids(flags)
    for study in open_studies("sup_training", flags, writes_models=True):
        runs.refuse_pruning_flags(flags, "--pruning", [flags.pruning])
        if flags.cosine_annealing and (steps := sorted(flags.given & {"lr_milestones", "lr_gamma"})):
            raise cli.UserError(f"--{steps[0]} has no effect with --cosine_annealing; leave one of them out")
        pruning = None
        if flags.pruning:
            pruning = runs.gradual_pruning(
                flags,
                flags.pruning,
                "supervised",
                flags.epochs,
                flags.batch_size,
                len(study.data.train_images),
            )
        # Refuses what is in the way before the first step; --debug saves nothing, so that nothing is in its way.
        for model_id in ids:
            missing_parts(study, model_id, pruning)
        share(
            study,
            [
                (
                    file_of(study, model_id, pruning)[1],
                    lambda model_id=model_id: train(
                        study, model_id, pruning, *missing_parts(study, model_id, pruning)
                    ),
                )
                for model_id in ids
            ],
        )


def file_of(study, model_id: int, pruning) -> tuple:
    """The name of a model's file, its path, and the configuration that all models of the population share."""
    from common.store import runs

    flags = study.flags
    shared = (
        "epochs",
        "batch_size",
        "learning_rate",
        "lr_milestones",
        "lr_gamma",
        "cosine_annealing",
        "momentum",
        "weight_decay",
        "shuffle",
    )
    configuration = {
        "learning_method": "supervised",
        **study.architecture_configuration(),
        **{key: getattr(flags, key) for key in shared},
    }
    method = "dense"
    if pruning:
        asked = runs.asked_method(flags, flags.schedule)
        method, configuration = str(asked), configuration | runs.gradual_configuration(asked, pruning)
    name = study.name("supervised", method, flags.pruning, flags.epochs, flags.batch_size, model_id)
    return name, study.folder / str(name), configuration


def missing_parts(study, model_id: int, pruning) -> tuple[bool, list[int]]:
    """Whether the model, made with these settings, is missing, and the epochs of --save_epochs that are."""
    from common.store import checkpoints, runs

    _, path, configuration = file_of(study, model_id, pruning)
    finished = not study.flags.debug and checkpoints.is_finished(
        path, configuration, study.data, study.folder_flag
    )
    return not finished, runs.missing_epochs(study, path, configuration)


def train(study, model_id: int, pruning, model_missing: bool, missing_epochs: list[int]) -> None:
    """Trains and saves what is missing of one id."""
    import time

    from common import models, training
    from common.store import checkpoints, resume, runs

    flags, data, seed = study.flags, study.data, study.model_seed(model_id)
    name, path, configuration = file_of(study, model_id, pruning)
    if not model_missing:
        runs.finished_before(path)
        if not missing_epochs:
            return
    started, what = time.time(), runs.describe_run(name)
    training.seed_weights(seed, "supervised", "weights")
    network = training.into_buffers(
        models.SupervisedNetwork(flags.model_depth, flags.widen_factor, flags.dropout, len(data.class_names)),
        study.device,
    )
    history = training.train_supervised(
        network,
        data,
        configuration,
        seed,
        what,
        range(flags.epochs if model_missing else max(missing_epochs)),
        pruning=pruning,
        at_epoch=runs.epoch_saver(study, path, name, configuration, network, missing_epochs),
        progress=resume.progress(study, path, configuration, seed, "supervised") if model_missing else None,
    )
    if not model_missing:
        return
    runs.log_run(what, history, started)
    if flags.debug:
        return
    runs.save_model(
        study, name, path, checkpoints.cpu_state(network), configuration, network, history, started
    )
    runs.store_curves(study, name, {"supervised": history})


if __name__ == "__main__":
    sys.exit(main())
