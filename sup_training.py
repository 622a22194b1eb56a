"""Trains supervised WideResNets with cross-entropy, one for each seed.

    python sup_training.py --dataset digits --epochs 12 --batch_size 64 --learning_rate 0.1 --index_end 2

Reads the data set. Writes models/[NAME/]wideResNet_0.0pruning_{epochs}epochs_{depth}depth_{dropout}dropout_id{id}.pt with a JSON
beside each that says how it was made, and the story and curves into logs/. Finished models are skipped.
"""

import sys

from common import cli


def build_parser() -> cli.Parser:
    parser = cli.Parser(__doc__)
    group = parser.add_argument_group("training")
    group.add_argument("--index_start", type=cli.natural_number, default=0, help="first model id, which is its seed")
    group.add_argument("--index_end", type=cli.natural_number, default=29, help="last model id, inclusive")
    group.add_argument("--batch_size", type=cli.positive_integer, default=128, help="images in a batch")
    group.add_argument("--epochs", type=cli.positive_integer, default=205, help="training epochs")
    group.add_argument("--learning_rate", type=cli.positive_float, default=1.0, help="x 0.1 at epochs 5, 30, 50, 80")
    group.add_argument("--momentum", type=cli.fraction, default=0.9, help="momentum of SGD")
    group.add_argument("--weight_decay", type=cli.natural_float, default=0.0005, help="weight decay of SGD")
    cli.add_boolean(group, "--shuffle", True, "a new order of the images in every epoch")
    group = cli.add_gradual_pruning_group(parser)
    group.add_argument("--pruning", type=cli.fraction, default=0.0, help="final sparsity")
    cli.add_schedule_flags(group, "network", "", 1000, 20000, 500)
    cli.add_supervised_flags(parser)
    cli.add_common_flags(parser)
    return parser


@cli.command
def main(argv=None) -> None:
    flags = build_parser().parse_args(argv)
    from common import runs
    from common.study import open_studies

    runs.refuse_gradual_pruning("--pruning", [flags.pruning])
    ids = runs.model_ids(flags.index_start, flags.index_end)
    for study in open_studies("sup_training", flags, writes_models=True):
        # Refuses what is in the way before the first step; --debug saves nothing, so that nothing is in its way.
        finished = {model_id: not flags.debug and is_finished(study, model_id) for model_id in ids}
        for model_id in ids:
            if finished[model_id]:
                cli.logger.info("finished before: %s", study.folder / str(name_of(study, model_id)))
            else:
                train(study, model_id)


def name_of(study, model_id: int):
    """The name of a model's file."""
    return study.name("supervised", "dense", 0.0, study.flags.epochs, study.flags.batch_size, model_id)


def configuration_of(study) -> dict:
    """What all models of this population share."""
    shared = ("epochs", "batch_size", "learning_rate", "momentum", "weight_decay", "shuffle")
    return {"learning_method": "supervised", **study.architecture_configuration(), **{key: getattr(study.flags, key) for key in shared}}


def is_finished(study, model_id: int) -> bool:
    """Whether the model is there, made with these settings."""
    from common import checkpoints

    return checkpoints.is_finished(study.folder / str(name_of(study, model_id)), configuration_of(study), study.data, study.folder_flag)


def train(study, model_id: int) -> None:
    """Trains and saves the model of one id."""
    import math
    import time

    import torch

    from common import checkpoints, models, runs, training

    flags, data, seed = study.flags, study.data, study.model_seed(model_id)
    name = name_of(study, model_id)
    path = study.folder / str(name)
    started = time.time()
    training.seed_weights(seed, "supervised", "weights")
    network = training.prepare(models.SupervisedNetwork(flags.model_depth, flags.widen_factor, flags.dropout, len(data.class_names)),
                               study.device)
    optimizer = torch.optim.SGD(network.parameters(), flags.learning_rate, momentum=flags.momentum, weight_decay=flags.weight_decay)
    chance, history = math.log(len(data.class_names)), []
    bar = training.progress_bar(flags.epochs * math.ceil(len(data.train_images) / flags.batch_size), f"supervised id {model_id}")
    for epoch in range(flags.epochs):
        rate = training.supervised_learning_rate(flags.learning_rate, epoch)
        training.set_learning_rate(optimizer, rate)
        trained = training.classification_epoch(network, data, flags.batch_size, optimizer, {}, (seed, "supervised", epoch), bar,
                                                flags.shuffle)
        history.append({"epoch": epoch, "learning_rate": rate, **trained, **training.evaluate_test_set(network, data)})
        runs.log_epoch(f"supervised id {model_id}", flags.epochs, history[-1], chance)
    bar.close()
    runs.log_run(f"supervised id {model_id}", history, chance, started)
    if flags.debug:
        return
    record = checkpoints.make_record(name, configuration_of(study), seed, data, network, history, checkpoints.environment(study.device, started))
    checkpoints.save_checkpoint(path, checkpoints.cpu_state(network), record)
    runs.store_curves(study, path.stem, model_id, {"supervised": (history, chance)})


if __name__ == "__main__":
    sys.exit(main())
