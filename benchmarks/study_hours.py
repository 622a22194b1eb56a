"""Estimates the hours of the published study from one measured epoch of each kind of training.

    python benchmarks/study_hours.py --cuda_device 0

The study: dense, gradually pruned and one-shot networks. Trains on random images of CIFAR-10's size, 50,000
on CUDA and a part of them on the CPU, scaled up: no data set is needed. Writes nothing.
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common import cli, process  # noqa: E402

IMAGES, CPU_IMAGES = 50_000, 1024  # one step of the contrastive batch
MODELS, SPARSITIES = 30, 5
# Dense, and early and late gradual pruning to 0.3, 0.5, 0.7, 0.9. Masks cost little beside a step.
TRAININGS = 1 + 2 * 4
EPOCHS = {
    "SupCon, batch 1024": 500 * TRAININGS * MODELS,
    "head, batch 256": 100 * TRAININGS * MODELS,
    "cross-entropy, batch 128": 205 * TRAININGS * MODELS,
    "finetuning, batch 128": 2 * 30 * SPARSITIES * MODELS,
}


def build_parser() -> cli.Parser:
    parser = cli.Parser(__doc__)
    parser.add_argument(
        "--cuda_device",
        type=cli.natural_number,
        default=0,
        help="CUDA device id; without CUDA the CPU is measured",
    )
    return parser


@cli.command
def main(argv=None) -> None:
    flags = build_parser().parse_args(argv)
    import torch

    cli.logger.addHandler(cli.logging.StreamHandler(sys.stdout))
    cli.logger.setLevel(cli.logging.INFO)
    device = process.select_device(flags.cuda_device)
    images = IMAGES if device.type == "cuda" else CPU_IMAGES
    seconds = {kind: value * IMAGES / images for kind, value in measure(device, images).items()}
    print(
        f"measured on {images:,} random 32x32 images{'' if images == IMAGES else f', scaled to {IMAGES:,}'}"
        f" (torch {torch.__version__}):"
    )
    hours = 0.0
    for kind, epochs in EPOCHS.items():
        hours += seconds[kind] * epochs / 3600
        print(
            f"  {kind:<26} {seconds[kind]:8.2f} s an epoch x {epochs:>6,} epochs"
            f" = {seconds[kind] * epochs / 3600:9.1f} h"
        )
    print(
        f"estimate for {MODELS} networks of each kind, both methods, {TRAININGS} trainings and"
        f" {SPARSITIES} one-shot sparsities: {hours:.1f} hours "
        "(evaluation and figures not counted)"
    )


def measure(device, images: int) -> dict[str, float]:
    """Seconds of one epoch over so many images, for each kind of training, after a short warm-up."""
    import torch

    from common import models, training
    from common.data import CIFAR10_MEAN, CIFAR10_STD, ImageDataset
    from common.pruning import prunable_parameters

    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (images, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, (images,), generator=generator)

    def dataset(size: int) -> ImageDataset:
        return ImageDataset(
            "random",
            "random",
            pixels[:size],
            labels[:size],
            pixels[:100],
            labels[:100],
            tuple("0123456789"),
            CIFAR10_MEAN,
            CIFAR10_STD,
            True,
            True,
        ).to(device)

    encoder = training.prepare(models.ContrastiveEncoder(16, 2, 0.0, "mlp"), device)
    network = training.prepare(models.SupervisedNetwork(16, 2, 0.0, 10), device)
    masks = {name: torch.ones_like(weight) for name, weight in prunable_parameters(network).items()}
    contrastive, plain = (
        torch.optim.SGD(encoder.parameters(), 0.05),
        torch.optim.SGD(network.parameters(), 1e-3),
    )
    settings = {
        "learning_method": "SupCon",
        "batch_size": 1024,
        "temperature": 0.5,
        "base_temperature": 0.07,
        "lars": False,
    }
    bar = training.progress_bar(0, "")
    kinds = {
        "SupCon, batch 1024": lambda data: training.contrastive_epoch(
            encoder, data, settings, contrastive, [0.05] * 50, {}, (0,), bar
        ),
        "head, batch 256": lambda data: training.train_head(encoder.encoder, data, 1, 256, (0,), ""),
        "cross-entropy, batch 128": lambda data: training.classification_epoch(
            network, data, 128, plain, {}, (0,), bar
        ),
        "finetuning, batch 128": lambda data: training.classification_epoch(
            network, data, 128, plain, masks, (0,), bar
        ),
    }
    seconds = {}
    for kind, epoch in kinds.items():
        epoch(dataset(256))
        data = dataset(images)
        started = time.perf_counter()
        epoch(data)  # ends with reading the loss, which waits for the device
        seconds[kind] = time.perf_counter() - started
    return seconds


if __name__ == "__main__":
    sys.exit(main())
