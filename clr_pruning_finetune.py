"""Prunes dense contrastive networks and trains them on with fixed masks: once, with finetuning, or iteratively.

    python clr_pruning_finetune.py --dataset digits --models_number 3 --epochs 10 --pruning_percentages 0.5,0.9,0.95,0.99
    python clr_pruning_finetune.py --dataset digits --models_number 3 --pruning_schedule iterative --iterations 4 --rate 0.5 --after rewind

Reads the dense networks of clr_training.py (and for --after rewind the weights that its --save_epochs kept). Writes
models/[NAME/]{encoder_name}_encoder_..._global_... and ..._head_..._global_..._id{id}.pt with a JSON beside each that says how it was
made. Network i comes from dense network i. Finished ones are skipped one by one. Masks are over encoder and classifier head together;
when a network is trained again, its projection head is rewound or reinitialised with the encoder, and never pruned.
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
    from common.store.finetuning import Twin, finetune_population
    from common.study import open_studies

    for study in open_studies("clr_pruning_finetune", flags, writes_models=True):
        finetune_population(study, Twin(("encoder", "head"), payloads, initial_network, retrain))


def payloads(network) -> tuple[dict, ...]:
    """The two files of one network: the bare encoder without projection head, and the classifier head."""
    from common.store.checkpoints import cpu_state

    return {"model": cpu_state(network.encoder)}, {"head": cpu_state(network.classification_head)}


def new_model(study, weights, key: tuple):
    """An encoder with projection head: with the weights in that file, of its initialisation or of a later epoch; without one, newly
    initialised from `key`."""
    from common import models, training
    from common.store import checkpoints

    shape = study.architecture
    training.seed_weights(*key)
    model = models.ContrastiveEncoder(shape.depth, shape.widen_factor, shape.dropout, shape.projection_head)
    if weights is not None:
        checkpoints.load_epoch(model, weights, shape, len(study.data.class_names))
    return model


def head_key(seed: int, weights, key: tuple) -> tuple:
    """What the classifier head's initialisation depends on: as in the dense training, or on the new initialisation's key."""
    return (seed, "head") if weights is not None else (*key, "head")


def initial_network(study, seed: int, weights, key: tuple):
    """The classifier before its training: the encoder in that file or a new one, and the head, whose initialisation its key gives."""
    from common import models, training

    encoder = new_model(study, weights, key).encoder
    return models.ContrastiveClassifier(
        encoder, training.new_head(encoder, study.data, head_key(seed, weights, key))
    )


def retrain(
    study,
    settings: dict,
    weights,
    key: tuple,
    masks: dict,
    first_epoch: int,
    seed: int,
    description: str,
    progress_of,
) -> tuple:
    """Trains encoder and head as the dense ones were, from kept weights or a new initialisation, with fixed masks."""
    from common import models, training
    from common.store import checkpoints

    def own(part: str) -> dict:
        return {
            name.removeprefix(f"{part}."): mask for name, mask in masks.items() if name.startswith(f"{part}.")
        }

    model = training.into_buffers(new_model(study, weights, key), study.device)
    history = training.train_contrastive(
        model,
        study.data,
        settings,
        seed,
        description,
        range(first_epoch, settings["epochs"]),
        own("encoder"),
        progress=progress_of(0),
    )
    head, head_history = training.train_head(
        model.encoder,
        study.data,
        settings["head_epochs"],
        settings["batch_size_head"],
        head_key(seed, weights, key),
        f"{description} head",
        own("classification_head"),
        progress=progress_of(1),
    )
    network = models.ContrastiveClassifier(model.encoder, head)
    return network, [
        ({"model": checkpoints.cpu_state(model)}, history),
        ({"head": checkpoints.cpu_state(head)}, head_history),
    ]


if __name__ == "__main__":
    sys.exit(main())
