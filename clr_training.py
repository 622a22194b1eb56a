"""Trains contrastive WideResNets (SupCon or SimCLR), one for each seed, and a linear classifier on each frozen encoder.

    python clr_training.py --dataset digits --epochs 50 --batch_size 128 --learning_rate 0.02 --cosine_annealing --index_end 2

Reads the data set. Writes models/[NAME/]{encoder_name}_encoder_... and ..._head_..._id{id}.pt with a JSON beside each that says
how it was made, and the story and curves into logs/. Finished encoders and heads are skipped.
"""

import sys

from common import cli


def build_parser() -> cli.Parser:
    parser = cli.Parser(__doc__)
    group = parser.add_argument_group("training of the encoder")
    group.add_argument("--index_start", type=cli.natural_number, default=0, help="first model id, which is its seed")
    group.add_argument("--index_end", type=cli.natural_number, default=29, help="last model id, inclusive")
    group.add_argument("--batch_size", type=cli.positive_integer, default=1024, help="images in a batch, each in two views")
    group.add_argument("--epochs", type=cli.positive_integer, default=500, help="training epochs")
    group.add_argument("--learning_rate", type=cli.positive_float, default=0.05, help="learning rate of SGD")
    group.add_argument("--momentum", type=cli.fraction, default=0.9, help="momentum of SGD")
    group.add_argument("--weight_decay", type=cli.natural_float, default=0.0004, help="weight decay of SGD")
    group.add_argument("--base_temperature", type=cli.positive_float, default=0.07, help="the loss is scaled by temperature / this")
    group.add_argument("--warmup_epochs", type=cli.natural_number, default=0, help="linear from 0.01, with a batch above 256 only")
    cli.add_boolean(group, "--cosine_annealing", False, "per epoch down to learning_rate / 1000")
    cli.add_boolean(group, "--lars", False, "layer-wise adaptive rates, trust coefficient 0.02")
    group.add_argument("--num_classes", type=cli.positive_integer, default=10, help="must be the data set's, or 10")
    group.add_argument("--lr_decay_epochs", default="1500", help=cli.COMPATIBILITY)
    cli.add_boolean(group, "--clipping", False, cli.COMPATIBILITY)
    cli.add_boolean(group, "--shuffle", True, cli.COMPATIBILITY)
    group = parser.add_argument_group("training of the classifier head")
    group.add_argument("--head_epochs", type=cli.positive_integer, default=100, help="epochs of the linear classifier")
    group.add_argument("--batch_size_head", type=cli.positive_integer, default=256, help="images in a batch of the linear classifier")
    cli.add_boolean(group, "--debug_classification_head", False, "log the accuracy of a throw-away head (2 epochs) now and then")
    group.add_argument("--debug_classification_head_epochs", type=cli.positive_integer, default=25, help="epochs between these")
    group = cli.add_gradual_pruning_group(parser)
    group.add_argument("--pruning_percentages", type=cli.sparsity_list, default="0.0", help="final sparsities, one training each")
    cli.add_schedule_flags(group, "encoder", "", 2440, 4760, 62)
    cli.add_schedule_flags(group, "classifier head", "_head", 500, 10000, 250)
    cli.add_contrastive_flags(parser, "--method")
    cli.add_common_flags(parser)
    return parser


@cli.command
def main(argv=None) -> None:
    flags = build_parser().parse_args(argv)
    from common import runs
    from common.study import open_studies

    runs.refuse_gradual_pruning("--pruning_percentages", flags.pruning_percentages)
    ids = runs.model_ids(flags.index_start, flags.index_end)
    if flags.warmup_epochs >= flags.epochs:
        raise cli.UserError(f"--warmup_epochs {flags.warmup_epochs} must be fewer than --epochs {flags.epochs}")
    for study in open_studies("clr_training", flags, writes_models=True):
        finished = {model_id: finished_parts(study, model_id) for model_id in ids}  # refuses what is in the way before the first step
        for model_id in ids:
            train(study, model_id, *finished[model_id])


def files_of(study, model_id: int) -> list[tuple]:
    """(name, path, configuration that all models of the population share) of the encoder and of the head."""
    flags = study.flags
    shared = ("epochs", "batch_size", "learning_rate", "momentum", "weight_decay", "temperature", "base_temperature", "warmup_epochs",
              "cosine_annealing", "lars")
    configuration = {"learning_method": study.learning_method, **study.architecture_configuration(), **{key: getattr(flags, key) for key in shared}}
    encoder = study.name("encoder", "dense", 0.0, flags.epochs, flags.batch_size, model_id)
    head = study.name("head", "dense", 0.0, flags.head_epochs, flags.batch_size, model_id)
    return [(encoder, study.folder / str(encoder), configuration),
            (head, study.head_folder / str(head), {**configuration, "head_epochs": flags.head_epochs, "batch_size_head": flags.batch_size_head})]


def finished_parts(study, model_id: int) -> tuple[bool, bool]:
    """Whether the encoder, and a head that was trained on it, are there, made with these settings. --debug saves nothing, and reads nothing."""
    from common import checkpoints

    if study.flags.debug:
        return False, False
    (_, encoder_path, configuration), (_, head_path, head_configuration) = files_of(study, model_id)
    encoder = checkpoints.is_finished(encoder_path, configuration, study.data, study.folder_flag)
    origin = {"encoder_sha256": checkpoints.file_sha256(encoder_path)} if encoder else {}
    head = checkpoints.is_finished(head_path, head_configuration, study.data, "--head_save_path", **origin)
    if head and not encoder:
        checkpoints.refuse_to_replace([head_path])
    return encoder, head and encoder


def train(study, model_id: int, encoder_finished: bool, head_finished: bool) -> None:
    """Trains and saves what is not finished of the encoder and the head of one id."""
    import math
    import time

    from common import checkpoints, models, runs, training

    flags, data, seed = study.flags, study.data, study.model_seed(model_id)
    (encoder_name, encoder_path, configuration), (head_name, head_path, head_configuration) = files_of(study, model_id)
    if head_finished:
        cli.logger.info("finished before: %s", head_path)
        return
    started, what = time.time(), f"{study.learning_method} id {model_id}"
    training.seed_weights(seed, "contrastive", "weights")
    model = models.ContrastiveEncoder(flags.model_depth, flags.widen_factor, flags.dropout, flags.projection_head)
    chance = training.chance_loss(len(data.train_images), flags.batch_size, flags.temperature, flags.base_temperature)
    if encoder_finished:
        cli.logger.info("finished before: %s", encoder_path)
        checkpoints.load_encoder(model.encoder, encoder_path, study.architecture, len(data.class_names))
        history = (checkpoints.read_record(encoder_path) or {}).get("history", [])
        training.prepare(model, study.device)
    else:
        history = train_encoder(study, training.prepare(model, study.device), seed, what, chance)
        runs.log_run(f"{what} encoder", history, chance, started)
        if not flags.debug:
            checkpoints.save_checkpoint(encoder_path, {"model": checkpoints.cpu_state(model)}, checkpoints.make_record(
                encoder_name, configuration, seed, data, model.encoder, history, checkpoints.environment(study.device, started)))
    started = time.time()
    head, head_history = training.train_head(model.encoder, data, flags.head_epochs, flags.batch_size_head, (seed, "head"), f"{what} head")
    head_chance = math.log(len(data.class_names))
    for entry in head_history:
        runs.log_epoch(f"{what} head", flags.head_epochs, entry, head_chance)
    runs.log_run(f"{what} head", head_history, head_chance, started)
    if flags.debug:
        return
    checkpoints.save_checkpoint(head_path, {"head": checkpoints.cpu_state(head)}, checkpoints.make_record(
        head_name, head_configuration, seed, data, models.ContrastiveClassifier(model.encoder, head), head_history,
        checkpoints.environment(study.device, started), encoder_sha256=checkpoints.file_sha256(encoder_path)))
    runs.store_curves(study, head_path.stem, model_id, {study.learning_method: (history, chance), "head": (head_history, head_chance)})


def train_encoder(study, model, seed: int, what: str, chance: float) -> list[dict]:
    """Trains the encoder with its projection head; returns the history."""
    import torch

    from common import runs, training

    flags, data, history = study.flags, study.data, []
    optimizer = torch.optim.SGD(model.parameters(), flags.learning_rate, momentum=flags.momentum,
                                weight_decay=0.0 if flags.lars else flags.weight_decay)
    bar = training.progress_bar(flags.epochs * -(-len(data.train_images) // flags.batch_size), what)
    for epoch in range(flags.epochs):
        rates = training.contrastive_learning_rates(flags.learning_rate, epoch, flags.epochs, flags.cosine_annealing, flags.warmup_epochs,
                                                    flags.batch_size, len(data.train_images))
        trained = training.contrastive_epoch(model, data, study.learning_method, flags.batch_size, flags.temperature, flags.base_temperature,
                                             optimizer, rates, flags.weight_decay if flags.lars else None, (seed, "contrastive", epoch), bar)
        history.append({"epoch": epoch, "learning_rate": rates[-1], **trained})
        runs.log_epoch(what, flags.epochs, history[-1], chance)
        if flags.debug_classification_head and (epoch + 1) % flags.debug_classification_head_epochs == 0:
            _, probe = training.train_head(model.encoder, data, 2, flags.batch_size_head, (seed, "debug head", epoch), f"{what} debug head")
            cli.logger.info("%s epoch %d: a throw-away head reaches test accuracy %.2f %%", what, epoch + 1, 100 * probe[-1]["test_accuracy"])
    bar.close()
    return history


if __name__ == "__main__":
    sys.exit(main())
