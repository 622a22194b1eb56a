"""Counts the peak GPU memory of training and prediction depth, without a GPU.

    python benchmarks/gpu_memory.py

Runs two steps on a stand-in for a CUDA device (tests/cuda_stand_in.py), with random data of CIFAR-10's size
and three small batches, and extrapolates: the peak is a + b n + c n^2 for batch size n. Prints it beside a
formula: the data, and activations that the backward pass keeps. Neither includes workspaces, fragmentation or
the memory of CUDA itself. Takes minutes on a CPU; writes nothing.
"""

import sys
from unittest import mock

import numpy as np
from measure import ROOT, classification_training, contrastive_training, random_data

from common import cli
from common.settings import Architecture

SIZES = ((16, 2), (16, 4), (28, 10))  # depth and width
CONTRASTIVE, SUPERVISED, TRAIN, TEST = 1024, 128, 50_000, 10_000
DEPTH_TEST = 2_000  # more images than one chunk of the k-NN holds


def kept_values(depth: int, width: int, side: int = 32) -> int:
    """Returns the number of values that the backward pass keeps per image.

    These are the input of the stem; the input, both ReLU outputs and the first convolution's output of every
    block; and input and output of the last batch norm and ReLU.
    """
    values, channels, pixels = 3 * side**2, 16, side**2
    for group in range(3):
        out_channels, out_pixels = 16 * width * 2**group, side**2 // 4**group
        for _ in range((depth - 4) // 6):
            values += 2 * channels * pixels + 2 * out_channels * out_pixels
            channels, pixels = out_channels, out_pixels
    return values + 2 * channels * pixels


def build_parser() -> cli.Parser:
    return cli.Parser(__doc__)


@cli.command
def main(argv=None) -> None:
    build_parser().parse_args(argv)
    data = (TRAIN + TEST) * (3 * 32**2 + 8)
    print(f"{'what':<44}{'kept + data (GiB)':>18}{'counted (GiB)':>15}   counted at")
    for depth, width in SIZES:
        batches = (32, 64, 128) if depth < 28 else (8, 12, 16)
        counted = scaled(lambda n: peak(contrastive_training, (depth, width), n), batches, CONTRASTIVE)
        what = f"SupCon, {CONTRASTIVE} x 2 views, WRN-{depth}-{width}"
        report(what, 4 * 2 * CONTRASTIVE * kept_values(depth, width) + data, counted, f"batches of {batches}")
    counted = peak(classification_training, (16, 2), SUPERVISED)
    what = f"cross-entropy, {SUPERVISED}, WRN-16-2"
    report(what, 4 * SUPERVISED * kept_values(16, 2) + data, counted, "this batch")
    report("test set after an epoch, WRN-16-2", None, test_set_peak(), "all test images")
    report("prediction depth, WRN-16-2", None, depth_peak(), f"{DEPTH_TEST} test images")


def report(what: str, computed: int | None, counted: float, at: str) -> None:
    numbers = "".join(f"{'-' if size is None else f'{size / 2**30:.2f}':>16}" for size in (computed, counted))
    print(f"{what:<44}{numbers}   {at}", flush=True)


def scaled(count, batches: tuple[int, ...], batch: int) -> float:
    """Extrapolates the peak to a batch size by a parabola through three smaller ones."""
    powers = np.vander(np.array(batches, float), 3)
    return float(np.polyval(np.linalg.solve(powers, [*map(count, batches)]), batch))


def stand_in():
    sys.path.insert(0, str(ROOT / "tests"))
    from cuda_stand_in import CudaStandIn

    return CudaStandIn()


def peak(make_training, shape: tuple[int, int], batch: int) -> int:
    """Returns the peak memory in bytes of two steps; the second includes the optimizer's momentum."""
    import torch

    from common import training

    order = training.epoch_order
    with stand_in() as device_stand_in:
        device = torch.device("cuda", 0)
        run = make_training(random_data(TRAIN, TEST, 32, device), batch, shape)
        run.test_scores = dict
        with mock.patch.object(training, "epoch_order", lambda *args: order(*args)[:2]):
            training.fit(run, training.TrainingContext((0, "memory")), range(1))
        return device_stand_in.peak


def test_set_peak() -> int:
    """Returns the peak memory in bytes of evaluating a network on the test set."""
    import torch

    from common import evaluation, models, training

    with stand_in() as device_stand_in:
        device = torch.device("cuda", 0)
        network = training.prepare(models.SupervisedNetwork(Architecture(16, 2), 10), device)
        evaluation.evaluate_test_set(network, random_data(TRAIN, TEST, 32, device))
        return device_stand_in.peak


def depth_peak() -> int:
    """Returns the peak memory in bytes of probing the layers of a network, in the batches of the scripts."""
    import torch

    from common import models, training
    from common.store.evaluation import knn_at_layers

    with stand_in() as device_stand_in:
        device = torch.device("cuda", 0)
        network = training.prepare(models.SupervisedNetwork(Architecture(16, 2), 10), device).eval()
        knn_at_layers(network, random_data(TRAIN, DEPTH_TEST, 32, device), 1024)
        return device_stand_in.peak


if __name__ == "__main__":
    sys.exit(main())
