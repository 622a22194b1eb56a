"""Prunes dense supervised networks and trains them on with fixed masks: once, with finetuning, or iteratively.

    python sup_pruning_finetune.py --dataset digits --models_number 3 --epochs 10 --pruning_percentages 0.5,0.9,0.95,0.99
    python sup_pruning_finetune.py --dataset digits --models_number 3 --pruning_schedule iterative --iterations 4 --rate 0.5 --after rewind

Reads the dense networks of sup_training.py (and for --after rewind the weights that its --save_epochs kept). Writes
models/[NAME/]wideResNet_global_..._id{id}.pt with a JSON beside each that says how it was made. Network i comes from dense network i.
Finished ones are skipped one by one.
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
    from common.store.finetuning import Twin, finetune_population
    from common.study import open_studies

    for study in open_studies("sup_pruning_finetune", flags, writes_models=True):
        finetune_population(study, Twin(("supervised",), payloads, initial_network, retrain))


def payloads(network) -> tuple[dict, ...]:
    """The one file of a network: its bare state_dict."""
    from common.store.checkpoints import cpu_state

    return (cpu_state(network),)


def initial_network(study, seed: int, weights, key: tuple):
    """The network with the weights in that file, of its initialisation or of a later epoch; without one, newly initialised from `key`."""
    from common import models, training
    from common.store import checkpoints

    shape, classes = study.architecture, len(study.data.class_names)
    training.seed_weights(*key)
    network = models.SupervisedNetwork(shape.depth, shape.widen_factor, shape.dropout, classes)
    if weights is not None:
        checkpoints.load_epoch(network, weights, shape, classes)
    return network


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
    """Trains a network as the dense one was, from kept weights or a new initialisation, with fixed masks."""
    from common import training

    network = training.into_buffers(initial_network(study, seed, weights, key), study.device)
    history = training.train_supervised(
        network,
        study.data,
        settings,
        seed,
        description,
        range(first_epoch, settings["epochs"]),
        masks,
        progress=progress_of(0),
    )
    return network, [(payload, history) for payload in payloads(network)]


if __name__ == "__main__":
    sys.exit(main())
