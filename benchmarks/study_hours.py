"""Estimates the hours of the published study from one measured epoch of each kind of training.

    python benchmarks/study_hours.py --cuda_device 0

Dense, gradually pruned and one-shot networks. Trains on random images of CIFAR-10's size, 50,000 on CUDA and
a part of them on the CPU, scaled up: no data set is needed. Writes nothing.
"""

import sys

from measure import classification_epoch, contrastive_epoch, random_data, timed

from common import cli, process

IMAGES, CPU_IMAGES = 50_000, 1024  # one step of the contrastive batch
MODELS, SPARSITIES = 30, 5
# Dense, and early and late gradual pruning to four sparsities, whose masks and prunings cost little beside a
# step.
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
    process.set_determinism(True)
    device = process.select_device(flags.cuda_device)
    images = IMAGES if device.type == "cuda" else CPU_IMAGES
    seconds = {kind: value * IMAGES / images for kind, value in measure(device, images).items()}
    print(
        f"measured on {images:,} random 32x32 images{'' if images == IMAGES else f', scaled to {IMAGES:,}'}"
        f" (torch {torch.__version__}):"
    )
    hours = 0.0
    for kind, epochs in EPOCHS.items():
        of_kind = seconds[kind] * epochs / 3600
        hours += of_kind
        print(f"  {kind:<26} {seconds[kind]:8.2f} s an epoch x {epochs:>6,} epochs = {of_kind:9.1f} h")
    print(
        f"estimate for {MODELS} networks of each kind, both methods, {TRAININGS} trainings and {SPARSITIES} "
        f"one-shot sparsities: {hours:.1f} hours (evaluation and figures not counted)"
    )


def measure(device, images: int) -> dict[str, float]:
    """Seconds of one epoch over so many images, for each kind of training, after a short warm-up."""
    kinds = {
        "SupCon, batch 1024": (contrastive_epoch, 1024),
        "head, batch 256": (head_epoch,),
        "cross-entropy, batch 128": (classification_epoch, 128),
        "finetuning, batch 128": (classification_epoch, 128, True),
    }
    seconds = {}
    for kind, (prepare, *more) in kinds.items():
        timed(prepare(device, 256, *more), device)
        seconds[kind] = timed(prepare(device, images, *more), device)
    return seconds


def head_epoch(device, images: int):
    """An epoch of a linear classifier on a frozen encoder, views included."""
    from common import models, training

    encoder = training.prepare(models.WideResNet(16, 2), device)
    head = training.prepare(models.ClassificationHead(encoder.latent_size, 10), device)
    settings = {"head_epochs": 1, "batch_size_head": 256}
    of_head = training.Head(encoder, head, random_data(images, 1, 32, device), settings)
    return lambda: training.fit(of_head, training.Run((0, "head")), range(1))


if __name__ == "__main__":
    sys.exit(main())
