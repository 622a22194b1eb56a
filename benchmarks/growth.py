"""Measures how time and memory grow with images and models, and how far a step is from the machine's limit.

    python benchmarks/growth.py --output benchmarks/growth_cpu.json

Uses random images. Times are medians over the rounds, with sizes in turn. Memory is the peak of a separate
process beyond network and images. The limit of a training step is the longer of two times: its operations at
the best rate of a large matrix product or convolution, and its bytes (every operation reads and writes its
tensors once) at the rate of a large copy.
"""

import sys
import tempfile
from pathlib import Path

from measure import (
    BATCHES,
    Contestant,
    build_parser,
    classification_epoch,
    contrastive_epoch,
    in_turn,
    random_data,
    save,
    start,
    timed,
)

from common import cli
from common.settings import Architecture

SIZES = (1, 2, 4)
EPOCH_IMAGES, MODELS, MODEL_IMAGES, DEPTH_IMAGES, TEST_IMAGES = 256, 1, 256, 5_000, 500
MODEL_PREDICTIONS, PREDICTED = 30, 10_000
CONTRASTIVE_BATCH, SUPERVISED_BATCH = BATCHES


@cli.command
def main(argv=None) -> None:
    flags = build_parser(__doc__).parse_args(argv)
    device, machine = start(flags.cuda_device)
    growth, limits = {}, {}
    seconds, memory = f"{'1x (s)':>9}{'2x':>8}{'4x':>8}", f"{'1x (MB)':>10}{'2x':>8}{'4x':>8}"
    print(f"{'what':<72}{seconds}{memory}   medians of {flags.rounds}")
    for what, prepare in KINDS.items():
        results = in_turn({f"{size}x": Contestant(prepare, (size,)) for size in SIZES}, flags.rounds, device)
        growth[what] = {
            size: {"seconds": result.seconds, "megabytes": result.megabytes}
            for size, result in results.items()
        }
        first, *more = results.values()
        times = "".join(f"{size.median / first.median:>7.1f}x" for size in more)
        memory = "".join(f"{size.megabytes:>8.0f}" for size in more)
        print(f"{what:<72}{first.median:>9.3g}{times}{first.megabytes:>10.0f}{memory}", flush=True)
    rates = {
        "matrix product, 2048^3": product_rate(device, flags.rounds),
        "convolution, 3x3, 128 channels": convolution_rate(device, flags.rounds),
    }
    bandwidth = copy_rate(device, flags.rounds)
    print(
        ", ".join(f"{what} {rate / 1e9:,.0f} GFLOP/s" for what, rate in rates.items())
        + f", copy {bandwidth / 1e9:,.1f} GB/s"
    )
    print(f"{'training step':<72}{'GFLOP':>9}{'GB':>8}{'limit (s)':>11}{'here (s)':>10}{'ratio':>8}")
    for what, (prepare, batch) in STEPS.items():
        operations, moved = count(prepare(device, batch))
        limit = max(operations / max(rates.values()), moved / bandwidth)
        here = in_turn({what: Contestant(prepare, (batch,))}, flags.rounds, device)[what].median
        limits[what] = {"operations": operations, "bytes": moved, "limit_seconds": limit, "seconds": here}
        amounts, times = f"{operations / 1e9:>9.1f}{moved / 1e9:>8.2f}", f"{limit:>11.3f}{here:>10.3f}"
        print(f"{what:<72}{amounts}{times}{here / limit:>7.1f}x", flush=True)
    rates["copy"] = bandwidth
    save(flags.output, machine, rounds=flags.rounds, growth=growth, rates=rates, limits=limits)


def contrastive_epochs(device, size: int):
    return contrastive_epoch(device, size * EPOCH_IMAGES)


def classification_epochs(device, size: int):
    return classification_epoch(device, size * EPOCH_IMAGES)


def trained_models(device, size: int):
    """Returns the work of training and saving `size` networks in sequence, like sup_training.py."""
    import torch

    from common import models, training
    from common.store import files, records

    data = random_data(MODEL_IMAGES, 100, 32, device)
    settings = {"batch_size": SUPERVISED_BATCH, "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 5e-4}

    def train() -> None:
        with tempfile.TemporaryDirectory() as folder:
            for seed in range(MODELS * size):
                training.seed_weights(seed, "supervised", "weights")
                network = training.prepare(models.SupervisedNetwork(Architecture(16, 2), 10), device)
                supervised = training.CrossEntropy(network, data, settings)
                training.fit(supervised, training.TrainingContext((seed, "supervised")), range(1))
                state, path = records.cpu_state(network), Path(folder) / f"{seed}.pt"
                files.write_atomically(path, lambda temporary, state=state: torch.save(state, temporary))

    return train


def evaluated_models(device, size: int):
    """Returns the work of computing latents, predictions and Q-Scores of `size` networks in sequence."""
    import torch

    from common import evaluation, metrics, models, training

    data = random_data(1, TEST_IMAGES, 32, device)
    network = training.prepare(models.SupervisedNetwork(Architecture(16, 2), 10), device).eval()

    @torch.no_grad()
    def evaluate() -> None:
        for _ in range(size):
            latent = evaluation.outputs(network.latent, data.test_images, data)
            network.classify(latent).argmax(1).cpu(), metrics.q_scores(latent.cpu().numpy())

    return evaluate


def pies(device, size: int):
    """Returns the work of finding the PIEs of `size` x MODEL_PREDICTIONS dense and as many pruned models."""
    import numpy as np

    from common import metrics

    generator = np.random.default_rng(0)
    dense, pruned = (generator.integers(0, 10, (size * MODEL_PREDICTIONS, PREDICTED)) for _ in range(2))
    return lambda: metrics.find_pies(dense, pruned, 10)


def depth(device, size: int):
    """Returns the work of computing k-NN labels at all layers of a network for `size` x DEPTH_IMAGES training
    images of 8x8."""
    from common import models, training
    from common.store import evaluation

    data = random_data(size * DEPTH_IMAGES, TEST_IMAGES, 8, device)
    network = training.prepare(models.SupervisedNetwork(Architecture(16, 2), 10), device).eval()
    return lambda: evaluation.knn_at_layers(network, data, 1024)


KINDS = {
    f"SupCon epoch, {EPOCH_IMAGES} images of 32x32, batch {CONTRASTIVE_BATCH}": contrastive_epochs,
    f"cross-entropy epoch, {EPOCH_IMAGES} images of 32x32, batch {SUPERVISED_BATCH}": classification_epochs,
    f"networks trained and saved, {MODELS} on {MODEL_IMAGES} images of 32x32": trained_models,
    f"networks evaluated, 1 on {TEST_IMAGES} images of 32x32": evaluated_models,
    f"PIEs, {MODEL_PREDICTIONS} + {MODEL_PREDICTIONS} models, {PREDICTED:,} images, from predictions": pies,
    f"prediction depth, {DEPTH_IMAGES:,} training and {TEST_IMAGES} test images of 8x8": depth,
}
STEPS = {
    f"SupCon, batch {CONTRASTIVE_BATCH} x 2 views": (contrastive_epoch, CONTRASTIVE_BATCH),
    f"cross-entropy, batch {SUPERVISED_BATCH}": (classification_epoch, SUPERVISED_BATCH),
}


def count(work) -> tuple[int, int]:
    """Counts floating-point operations of products and convolutions in `work`, and the bytes of all tensors
    that its operations read and write."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves
    from torch.utils.flop_counter import FlopCounterMode

    class Bytes(TorchDispatchMode):
        moved = 0

        def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):
            result = operation(*arguments, **(keywords or {}))
            if not operation.is_view and "empty" not in operation.name():
                tensors = {
                    id(leaf): leaf
                    for leaf in tree_leaves((arguments, keywords, result))
                    if isinstance(leaf, torch.Tensor)
                }
                Bytes.moved += sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
            return result

    with FlopCounterMode(display=False) as operations:
        work()
    with Bytes():
        work()
    return operations.get_total_flops(), Bytes.moved


def _best(work, device, rounds: int) -> float:
    """Returns the seconds of the fastest of many calls, because rates are limits."""
    return min(timed(work, device) for _ in range(10 * rounds))


def product_rate(device, rounds: int) -> float:
    """Measures operations per second of a large float32 matrix product."""
    import torch

    left, right = torch.randn(2048, 2048, device=device), torch.randn(2048, 2048, device=device)
    return 2 * 2048**3 / _best(lambda: left @ right, device, rounds)


def convolution_rate(device, rounds: int) -> float:
    """Measures operations per second of a 3x3 convolution, 128 to 128 channels, on 128 images of 32x32."""
    import torch

    images = torch.randn(128, 128, 32, 32, device=device).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(128, 128, 3, 3, device=device).contiguous(memory_format=torch.channels_last)
    seconds = _best(lambda: torch.nn.functional.conv2d(images, weight, padding=1), device, rounds)
    return 2 * images.numel() * 128 * 9 / seconds


def copy_rate(device, rounds: int) -> float:
    """Measures bytes per second, read and written, of a copy too large for any cache."""
    import torch

    source = torch.ones(2**26, device=device)  # 256 MB
    target = torch.zeros_like(source)
    return 2 * 4 * source.numel() / _best(lambda: target.copy_(source), device, rounds)


if __name__ == "__main__":
    sys.exit(main())
