"""Measures the speedup by --precision and --compile, alone and together, after a check against the CPU.

    python benchmarks/switches.py --cuda_device 0 --output switches.json

On a GPU it first measures the difference from the CPU in float32: logits, losses and gradients of a step, and
k-NN labels. Then it times an epoch of WRN-16-2 including views, finetuning, evaluation and prediction depth,
with the published batches and 50,000 random images of CIFAR-10's size (on a CPU 512, and batches of 256 and
128). Prints one table of medians over the rounds, in turn; compilation time is excluded.
"""

import sys
from dataclasses import dataclass

from measure import (
    BATCHES,
    Contestant,
    build_parser,
    classification_epoch,
    classification_training,
    contrastive_epoch,
    contrastive_training,
    in_turn,
    masked_epoch,
    random_data,
    save,
    start,
)

from common import cli
from common.settings import Architecture

SWITCHES = {
    "float32": {},
    "tf32": {"precision": "tf32"},
    "bfloat16": {"precision": "bfloat16"},
    "--compile": {"compile": True},
    "tf32 --compile": {"precision": "tf32", "compile": True},
    "bfloat16 --compile": {"precision": "bfloat16", "compile": True},
}
STEP_IMAGES, PROBED = 256, 1_000  # images in the check


@dataclass(frozen=True)
class Sizes:
    """Numbers of training and test images, and batch sizes of contrastive and supervised training."""

    train: int
    test: int
    batches: tuple[int, int]


ON_CPU, ON_CUDA = Sizes(512, 500, BATCHES), Sizes(50_000, 10_000, (1024, 128))


@cli.command
def main(argv=None) -> None:
    flags = build_parser(__doc__).parse_args(argv)
    device, machine = start(flags.cuda_device)
    on_cuda = device.type == "cuda"
    sizes = ON_CUDA if on_cuda else ON_CPU
    distances = agreement(device) if on_cuda else {}
    for what, distance in distances.items():
        print(f"{what:<60}{distance:>12.2g}")
    if not on_cuda:
        print("no CUDA device: nothing to compare with the CPU; only bfloat16 and --compile are measured")
    on_cpu = ("float32", "bfloat16", "--compile")
    switches = SWITCHES if on_cuda else {name: SWITCHES[name] for name in on_cpu}
    print(f"{'seconds':<44}{'':<20}{'median':>8}{'ratio':>8}   of {flags.rounds}")
    rows = {}
    for what, prepare, arguments in works(sizes):
        kinds = switches if prepare in (contrastive_epoch, classification_epoch) else {"float32": None}
        contestants = {
            name: Contestant(prepare, (*arguments, *([] if switch is None else [switch])))
            for name, switch in kinds.items()
        }
        results = in_turn(contestants, flags.rounds, device)
        plain = results["float32"].median
        for name, result in results.items():
            print(f"{what:<44}{name:<20}{result.median:>8.3g}{plain / result.median:>8.2f}", flush=True)
        rows[what] = {
            name: {"seconds": result.seconds, "megabytes": result.megabytes}
            for name, result in results.items()
        }
    save(flags.output, machine, rounds=flags.rounds, agreement=distances, results=rows)


def works(sizes: Sizes):
    """Yields the name, the preparation and the arguments of everything to time."""
    contrastive, supervised = sizes.batches
    yield f"SupCon epoch, batch {contrastive} x 2", contrastive_epoch, (sizes.train, contrastive)
    yield f"cross-entropy epoch, batch {supervised}", classification_epoch, (sizes.train, supervised)
    yield "finetuning epoch, with masks", masked_epoch, (sizes.train, supervised)
    yield f"evaluation of a network, {sizes.test:,} images", evaluation, (sizes.test,)
    yield f"prediction depth of a network, {sizes.test:,} images", depth, (sizes.train, sizes.test)


def evaluation(device, test: int):
    from common import models, training
    from common.evaluation import evaluate_test_set

    network = training.prepare(models.SupervisedNetwork(Architecture(16, 2), 10), device)
    data = random_data(1, test, 32, device)
    return lambda: evaluate_test_set(network, data)


def depth(device, train: int, test: int):
    from common import models, training
    from common.store.evaluation import knn_at_layers

    network = training.prepare(models.SupervisedNetwork(Architecture(16, 2), 10), device).eval()
    data = random_data(train, test, 32, device)
    return lambda: knn_at_layers(network, data, 1024)


def agreement(device) -> dict[str, float]:
    """Compares the device with the CPU in float32, with the same weights and views: returns differences
    relative to the largest value, and the share of k-NN labels that differ."""
    import torch

    on_cpu, on_device = numbers(torch.device("cpu")), numbers(device)
    labels_differ = on_cpu.pop("k-NN labels") != on_device["k-NN labels"]
    distances = {}
    for what, reference in on_cpu.items():
        error = (on_device[what] - reference).abs().max() / reference.abs().max()
        distances[f"{what}, relative to the largest"] = float(error)
    distances["share of k-NN labels that differ"] = float(labels_differ.float().mean())
    return distances


def numbers(device) -> dict:
    """Returns logits, loss and gradient of one step of both trainings, and k-NN labels, all on the CPU."""
    import torch

    from common import evaluation, training
    from common.store.evaluation import knn_at_layers

    data, results = random_data(STEP_IMAGES, PROBED, 32, device), {}
    for what, training_of in (("supervised", classification_training), ("SupCon", contrastive_training)):
        run = training_of(data, STEP_IMAGES)
        network = run.network
        [batch] = batches = training.epoch_order(data, STEP_IMAGES, torch.Generator(), shuffle=False)
        run.draw(batches, torch.Generator().manual_seed(0))
        loss, _ = run.loss(batch)
        loss.backward()
        gradient = [parameter.grad.flatten() for parameter in network.parameters()]
        results |= {f"{what} loss": loss.detach().cpu(), f"{what} gradient": torch.cat(gradient).cpu()}
        network.eval()
        if what == "supervised":
            results["logits"] = evaluation.outputs(network, data.test_images, data).cpu()
            labels = knn_at_layers(network, data, 1024)
            results["k-NN labels"] = torch.stack([label.cpu() for label in labels.values()])
    return results


if __name__ == "__main__":
    sys.exit(main())
