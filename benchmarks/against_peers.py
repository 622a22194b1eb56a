"""Measures views, training steps, masked finetuning and k-NN against what a user would take instead, in one run, interleaved.

    python benchmarks/against_peers.py --rounds 5
    python benchmarks/against_peers.py --rounds 5 --output benchmarks/against_peers_cpu.json

Peers: torchvision's transforms in a DataLoader as the published scripts use them (PIL, no loader processes), a plain eager training loop
fed by it, torch.nn.utils.prune's hooks, and scikit-learn's KNeighborsClassifier. Random images of CIFAR-10's size: no data set is needed.
Prints medians over the rounds and, with --output, writes them as JSON.
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common import cli  # noqa: E402

VIEW_IMAGES, STEP_IMAGES, CONTRASTIVE_BATCH, SUPERVISED_BATCH = 512, 512, 256, 128
KNN_TRAIN, KNN_TEST, KNN_WIDTH = 10_000, 1_000, 128


def build_parser() -> cli.Parser:
    parser = cli.Parser(__doc__)
    parser.add_argument("--cuda_device", type=cli.natural_number, default=0, help="CUDA device id; without CUDA the CPU is measured")
    parser.add_argument("--rounds", type=cli.positive_integer, default=5, help="how often each is measured, in turn with its peer")
    parser.add_argument("--output", type=Path, default=None, help="JSON file, None: print only")
    return parser


@cli.command
def main(argv=None) -> None:
    flags = build_parser().parse_args(argv)
    import platform
    import statistics

    import torch

    cli.logger.addHandler(cli.logging.StreamHandler(sys.stdout))
    cli.logger.setLevel(cli.logging.INFO)
    device = cli.select_device(flags.cuda_device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    machine = {"device": f"{device.type}: {name}", "threads": torch.get_num_threads(), "torch": torch.__version__, "python": platform.python_version()}
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    rows = {}
    print(f"{'what':<44}{'ours':>14}{'peer':>14}{'ratio':>9}   medians of {flags.rounds}, images/s")
    for what, (count, ours, peer) in measurements(device).items():
        seconds = {"ours": [], "peer": []}
        for work in (ours, peer):
            work()  # caches and lazy imports
        for _ in range(flags.rounds):
            for who, work in (("ours", ours), ("peer", peer)):
                started = time.perf_counter()
                work()
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                seconds[who].append(time.perf_counter() - started)
        rates = {who: count / statistics.median(times) for who, times in seconds.items()}
        rows[what] = {**rates, "ratio": rates["ours"] / rates["peer"], "images": count, "seconds": seconds}
        print(f"{what:<44}{rates['ours']:>14,.0f}{rates['peer']:>14,.0f}{rates['ours'] / rates['peer']:>8.1f}x", flush=True)
    if flags.output is not None:
        from common.checkpoints import write_json

        write_json(flags.output, {"machine": machine, "rounds": flags.rounds, "results": rows})


def measurements(device) -> dict:
    """what -> (images, our work, the peer's work on the same number of images)."""
    import copy

    import torch
    import torch.nn.functional as F
    from sklearn.neighbors import KNeighborsClassifier
    from torch.nn.utils import prune

    from common import augment, metrics, models, training
    from common.data import CIFAR10_MEAN, CIFAR10_STD, ImageDataset
    from common.losses import contrastive_loss
    from common.pruning import global_masks, magnitude, prunable_parameters

    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (VIEW_IMAGES, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, (VIEW_IMAGES,), generator=generator)
    data = ImageDataset("random", "random", images, labels, images[:100], labels[:100], tuple("0123456789"), CIFAR10_MEAN, CIFAR10_STD, True, True).to(device)
    loaders = {kind: peer_loader(images, labels, kind) for kind in ("contrastive", "supervised")}
    bar, settings = training.progress_bar(0, ""), {"learning_method": "SupCon", "batch_size": CONTRASTIVE_BATCH, "temperature": 0.5,
                                                   "base_temperature": 0.07, "lars": False}

    def our_contrastive_views() -> None:
        drawn = {name: values.to(device) for name, values in augment.draw_contrastive(2 * VIEW_IMAGES, 32, 32, True, generator).items()}
        for rows in torch.arange(2 * VIEW_IMAGES).split(2 * CONTRASTIVE_BATCH):
            augment.contrastive_views(data.train_images[rows % VIEW_IMAGES], {name: values[rows] for name, values in drawn.items()}, data.mean, data.std)

    def our_supervised_views() -> None:
        drawn = {name: values.to(device) for name, values in augment.draw_supervised(VIEW_IMAGES, 32, 32, True, True, generator).items()}
        for rows in torch.arange(VIEW_IMAGES).split(SUPERVISED_BATCH):
            augment.supervised_views(data.train_images[rows], {name: values[rows] for name, values in drawn.items()}, data.mean, data.std)

    def peer_views(kind: str) -> None:
        for _ in loaders[kind]:
            pass

    encoder, peer_encoder = training.prepare(models.ContrastiveEncoder(16, 2, 0.0, "mlp"), device), models.ContrastiveEncoder(16, 2, 0.0, "mlp").to(device)
    network, peer_network = training.prepare(models.SupervisedNetwork(16, 2, 0.0, 10), device), models.SupervisedNetwork(16, 2, 0.0, 10).to(device)
    rates = [0.01] * (STEP_IMAGES // CONTRASTIVE_BATCH)

    def sgd(model, nesterov: bool = False):
        return torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, nesterov=nesterov)

    optimizers = {id(model): sgd(model) for model in (encoder, peer_encoder, network, peer_network)}

    def peer_contrastive_steps() -> None:
        peer_encoder.train()
        for views, targets in loaders["contrastive"]:
            features = peer_encoder(torch.cat(views).to(device)).unflatten(0, (2, -1)).transpose(0, 1)
            step(contrastive_loss(features, targets.to(device), 0.5, 0.07), optimizers[id(peer_encoder)])

    def peer_classification_steps(model, optimizer, batches) -> None:
        model.train()
        for views, targets in batches:
            step(F.cross_entropy(model(views.to(device)), targets.to(device)), optimizer)

    def step(loss, optimizer) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    masked, hooked = training.prepare(copy.deepcopy(network), device), training.prepare(copy.deepcopy(network), device)
    masks = global_masks({name: magnitude(weight.detach()) for name, weight in prunable_parameters(masked).items()}, 0.9)
    for name, mask in masks.items():
        prune.custom_from_mask(hooked.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], mask)
    masked_optimizer, hooked_optimizer = sgd(masked, True), sgd(hooked, True)

    train, test = torch.randn(KNN_TRAIN, KNN_WIDTH, generator=generator), torch.randn(KNN_TEST, KNN_WIDTH, generator=generator)
    classes = torch.randint(0, 10, (KNN_TRAIN,), generator=generator)
    on_device = train.to(device), classes.to(device), test.to(device)
    key = (0, "benchmark", 0)
    return {
        "contrastive views": (2 * VIEW_IMAGES, our_contrastive_views, lambda: peer_views("contrastive")),
        "supervised views": (VIEW_IMAGES, our_supervised_views, lambda: peer_views("supervised")),
        f"SupCon training with views, batch {CONTRASTIVE_BATCH}": (
            STEP_IMAGES, lambda: training.contrastive_epoch(encoder, data, settings, optimizers[id(encoder)], rates, {}, key, bar), peer_contrastive_steps),
        f"cross-entropy training with views, batch {SUPERVISED_BATCH}": (
            STEP_IMAGES, lambda: training.classification_epoch(network, data, SUPERVISED_BATCH, optimizers[id(network)], {}, key, bar),
            lambda: peer_classification_steps(peer_network, optimizers[id(peer_network)], loaders["supervised"])),
        "finetuning at 90 %, masks against prune hooks": (
            STEP_IMAGES, lambda: training.classification_epoch(masked, data, SUPERVISED_BATCH, masked_optimizer, masks, key, bar),
            lambda: training.classification_epoch(hooked, data, SUPERVISED_BATCH, hooked_optimizer, {}, key, bar)),
        f"k-NN labels, {KNN_TRAIN:,} x {KNN_WIDTH} training points": (
            KNN_TEST, lambda: metrics.knn_labels(*on_device, 10).cpu(),
            lambda: KNeighborsClassifier(metrics.NEIGHBOURS, n_jobs=-1).fit(train.numpy(), classes.numpy()).predict(test.numpy())),
    }


def peer_loader(images, labels, kind: str):
    """torchvision's transforms on PIL images in a DataLoader without loader processes, as published; contrastive: two views of each image."""
    import torch
    from torchvision import transforms

    from common.data import CIFAR10_MEAN, CIFAR10_STD

    last = [transforms.ToTensor(), transforms.Normalize(CIFAR10_MEAN, CIFAR10_STD)]
    if kind == "contrastive":
        transform = transforms.Compose([transforms.RandomResizedCrop(32, scale=(0.2, 1.0)), transforms.RandomHorizontalFlip(), transforms.RandomApply(
            [transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8), transforms.RandomGrayscale(p=0.2), *last])
    else:
        transform = transforms.Compose([transforms.RandomCrop(32, padding=4), transforms.RandomVerticalFlip(), transforms.RandomHorizontalFlip(), *last])
    pictures = [(transforms.functional.to_pil_image(image), int(label)) for image, label in zip(images, labels)]

    class Views(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(pictures)

        def __getitem__(self, index: int):
            picture, label = pictures[index]
            return ((transform(picture), transform(picture)) if kind == "contrastive" else transform(picture)), label

    return torch.utils.data.DataLoader(Views(), CONTRASTIVE_BATCH if kind == "contrastive" else SUPERVISED_BATCH, shuffle=True)


if __name__ == "__main__":
    sys.exit(main())
