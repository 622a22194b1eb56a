"""Trains contrastive WideResNets (SupCon or SimCLR), one for each seed and sparsity, and a linear classifier on each frozen encoder.

    python clr_training.py --dataset digits --epochs 40 --batch_size 128 --learning_rate 0.02 --head_epochs 20 --index_end 2 --pruning_percentages 0.0

Sparsity 0.0 is the dense network; others are pruned while they train, the head on a schedule of its own. Reads the data set. Writes
models/[NAME/]{encoder_name}_encoder_... and ..._head_..._id{id}.pt with a JSON beside each that says how it was made, and the story
and curves into logs/. Finished encoders and heads are skipped.
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
    from common.store.sharing import share
    from common.study import open_studies

    ids = runs.model_ids(flags)
    for study in open_studies("clr_training", flags, writes_models=True):
        runs.refuse_pruning_flags(flags, "--pruning_percentages", flags.pruning_percentages)
        files = [
            files_of(study, sparsity, model_id) for sparsity in flags.pruning_percentages for model_id in ids
        ]
        _ = [
            missing_parts(study, *pair) for pair in files
        ]  # refuses what is in the way before the first step
        share(
            study,
            [
                (head[1], lambda pair=(encoder, head): train(study, *pair, *missing_parts(study, *pair)))
                for encoder, head in files
            ],
        )


def files_of(study, sparsity: float, model_id: int) -> list[tuple]:
    """(name, path, configuration that all models of the population share, pruning while training) of the encoder and of the head."""
    from common.store import runs

    flags, images, method, pruning, head_pruning = (
        study.flags,
        len(study.data.train_images),
        "dense",
        None,
        None,
    )
    shared = (
        "epochs",
        "batch_size",
        "learning_rate",
        "momentum",
        "weight_decay",
        "temperature",
        "base_temperature",
        "warmup_epochs",
        "cosine_annealing",
        "lars",
    )
    configuration = {
        "learning_method": study.learning_method,
        **study.architecture_configuration(),
        **{key: getattr(flags, key) for key in shared},
    }
    head_configuration = {
        **configuration,
        "head_epochs": flags.head_epochs,
        "batch_size_head": flags.batch_size_head,
    }
    if sparsity:
        method = runs.asked_method(flags, flags.schedule)
        pruning = runs.gradual_pruning(flags, sparsity, "contrastive", flags.epochs, flags.batch_size, images)
        head_pruning = runs.head_pruning(flags, sparsity, images)
        configuration |= runs.gradual_configuration(method, pruning)
        head_configuration |= runs.gradual_configuration(method, pruning, head_pruning)
    encoder = study.name("encoder", str(method), sparsity, flags.epochs, flags.batch_size, model_id)
    head = study.name("head", str(method), sparsity, flags.head_epochs, flags.batch_size, model_id)
    return [
        (encoder, study.folder / str(encoder), configuration, pruning),
        (head, study.head_folder / str(head), head_configuration, head_pruning),
    ]


def missing_parts(study, encoder: tuple, head: tuple) -> tuple[bool, bool, list[int]]:
    """Whether the encoder, and a head trained on it, are missing, and which of --save_epochs; --debug saves and reads nothing."""
    from common.store import checkpoints, runs

    if study.flags.debug:
        return True, True, []
    (_, encoder_path, configuration, _), (_, head_path, head_configuration, _) = encoder, head
    encoder_finished = checkpoints.is_finished(encoder_path, configuration, study.data, study.folder_flag)
    origin = {"encoder_sha256": checkpoints.file_sha256(encoder_path)} if encoder_finished else {}
    head_finished = checkpoints.is_finished(
        head_path, head_configuration, study.data, "--head_save_path", **origin
    )
    if head_finished and not encoder_finished:
        checkpoints.refuse_to_replace([head_path])
    return (
        not encoder_finished,
        not (head_finished and encoder_finished),
        runs.missing_epochs(study, encoder_path, configuration),
    )


def train(
    study, encoder: tuple, head: tuple, encoder_missing: bool, head_missing: bool, missing_epochs: list[int]
) -> None:
    """Trains and saves what is missing of the encoder and the head of one id."""
    import time

    from common import models, training
    from common.store import checkpoints, resume, runs

    flags, data, (name, path, configuration, _), (head_name, head_path, head_configuration, head_pruning) = (
        study.flags,
        study.data,
        encoder,
        head,
    )
    seed, started, what = study.model_seed(name.id), time.time(), runs.describe_run(name)
    if not encoder_missing:
        runs.finished_before(*[path] if head_missing else [path, head_path])
    training.seed_weights(seed, "contrastive", "weights")
    model = training.into_buffers(
        models.ContrastiveEncoder(
            flags.model_depth, flags.widen_factor, flags.dropout, flags.projection_head
        ),
        study.device,
    )
    history = train_encoder(
        study,
        model,
        encoder,
        flags.epochs if encoder_missing else max(missing_epochs, default=0),
        missing_epochs,
        what,
    )
    if encoder_missing:
        runs.log_run(f"{what} encoder", history, started)
        if not flags.debug:
            runs.save_model(
                study,
                name,
                path,
                {"model": checkpoints.cpu_state(model)},
                configuration,
                model.encoder,
                history,
                started,
            )
    elif head_missing:
        checkpoints.load_encoder(model.encoder, path, study.architecture, len(data.class_names))
        history = (checkpoints.read_record(path) or {}).get("history", [])
    if not head_missing:
        return
    started = time.time()
    classifier, head_history = training.train_head(
        model.encoder,
        data,
        flags.head_epochs,
        flags.batch_size_head,
        (seed, "head"),
        f"{what} head",
        pruning=head_pruning,
        progress=resume.progress(study, head_path, head_configuration, seed, "head", [path]),
    )
    runs.log_run(f"{what} head", head_history, started)
    if flags.debug:
        return
    runs.save_model(
        study,
        head_name,
        head_path,
        {"head": checkpoints.cpu_state(classifier)},
        head_configuration,
        models.ContrastiveClassifier(model.encoder, classifier),
        head_history,
        started,
        encoder_sha256=checkpoints.file_sha256(path),
    )
    runs.store_curves(study, head_name, {study.learning_method: history, "head": head_history})


def train_encoder(
    study, model, encoder: tuple, epochs: int, missing_epochs: list[int], what: str
) -> list[dict]:
    """Trains the encoder with its projection head for so many epochs; returns the history."""
    from common import training
    from common.store import resume, runs

    flags, (name, path, configuration, pruning) = study.flags, encoder
    seed, keep = (
        study.model_seed(name.id),
        runs.epoch_saver(study, path, name, configuration, model, missing_epochs),
    )

    def at_epoch(done: int) -> None:
        keep(done)
        if flags.debug_classification_head and done and done % flags.debug_classification_head_epochs == 0:
            _, probe = training.train_head(
                model.encoder,
                study.data,
                2,
                flags.batch_size_head,
                (seed, "debug head", done - 1),
                f"{what} debug head",
            )
            cli.logger.info(
                "%s epoch %d: a throw-away head reaches test accuracy %.2f %%",
                what,
                done,
                100 * probe[-1]["test_accuracy"],
            )

    return training.train_contrastive(
        model,
        study.data,
        configuration,
        seed,
        what,
        range(epochs),
        pruning=pruning,
        at_epoch=at_epoch,
        progress=resume.progress(study, path, configuration, seed, "encoder")
        if epochs == flags.epochs
        else None,
    )


if __name__ == "__main__":
    sys.exit(main())
