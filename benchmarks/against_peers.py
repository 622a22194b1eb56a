"""Compares the speed of this code with common alternatives, each in a separate process, in turn.

    python benchmarks/against_peers.py --output benchmarks/against_peers_cpu.json

The alternatives: torchvision's transforms in a DataLoader like those of the published scripts (PIL, no loader
processes), a plain eager training loop on top of it, torch.nn.utils.prune's hooks, evaluating networks again
for every comparison, and scikit-learn's KNeighborsClassifier. Random images of CIFAR-10's size replace a data
set. Training of four networks and evaluation of a population run through the scripts, in a temporary folder.
Prints medians over the rounds; --output writes all times as JSON.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from measure import (
    BATCHES,
    ROOT,
    Contestant,
    build_parser,
    classification_epoch,
    contrastive_epoch,
    in_turn,
    random_data,
    save,
    start,
)

from common import cli
from common.settings import Architecture

VIEW_IMAGES, STEP_IMAGES, CONTRASTIVE_BATCH, SUPERVISED_BATCH = 512, 512, *BATCHES
VIEW_PASSES = 8  # passes over the images in one call
KEY, RATE = (0, "benchmark"), 0.01
SEEDS, SEED_EPOCHS, WORKERS = 4, 2, 2
MODELS, SPARSITIES, POPULATION_TEST = 3, (0.3, 0.5, 0.7, 0.9), 300
PROBE_TRAIN, PROBE_TEST, PROBE_SIDE = 20_000, 1_000, 8


@cli.command
def main(argv=None) -> None:
    flags = build_parser(__doc__).parse_args(argv)
    device, machine = start(flags.cuda_device)
    rows: dict = {}
    print(f"{'what':<64}{'here':>10}{'peer':>10}{'ratio':>8}{'MB':>8}{'peer':>8}   medians of {flags.rounds}")
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder) / "random", STEP_IMAGES, POPULATION_TEST)
        for what, count, contestants in contests(Path(folder)):
            results = in_turn(contestants, flags.rounds, device)
            rates = {who: count / result.median for who, result in results.items()}
            ours, *peers = results
            rows[what] = {
                "count": count,
                "rates": rates,
                "ratios": {peer: rates[ours] / rates[peer] for peer in peers},
                "megabytes": {who: result.megabytes for who, result in results.items()},
                "seconds": {who: result.seconds for who, result in results.items()},
            }
            for peer in peers:
                numbers = f"{rates[ours]:>10,.4g}{rates[peer]:>10,.4g}{rates[ours] / rates[peer]:>7.1f}x"
                memory = f"{results[ours].megabytes:>8.0f}{results[peer].megabytes:>8.0f}"
                print(f"{what:<64}{numbers}{memory}   {ours} : {peer}", flush=True)
    save(flags.output, machine, rounds=flags.rounds, results=rows)


def contests(folder: Path):
    """Yields every comparison: the counted unit, its number per call, and the contestants by name, of which
    the first is this code.

    Args:
        folder: holds random images.
    """
    torchvision, plain = "torchvision in a DataLoader", "plain loop fed by torchvision"
    for kind, count in (("contrastive", 2 * VIEW_IMAGES), ("supervised", VIEW_IMAGES)):
        yield (
            f"{kind} views/s",
            VIEW_PASSES * count,
            {"here": Contestant(our_views, (kind,)), torchvision: Contestant(peer_views, (kind,), True)},
        )
    yield (
        f"SupCon training, batch {CONTRASTIVE_BATCH} x 2 views, images/s",
        STEP_IMAGES,
        {
            "here": Contestant(contrastive_epoch, (STEP_IMAGES,)),
            plain: Contestant(peer_contrastive_epoch, (1,), True),
        },
    )
    yield (
        f"cross-entropy training, batch {SUPERVISED_BATCH}, images/s",
        STEP_IMAGES,
        {
            "here": Contestant(classification_epoch, (STEP_IMAGES,)),
            plain: Contestant(peer_classification_epoch, (), True),
        },
    )
    yield (
        f"finetuning at 90 %, batch {SUPERVISED_BATCH}, images/s",
        STEP_IMAGES,
        {
            "here": Contestant(finetuning_epoch),
            "the same with torch.nn.utils.prune": Contestant(finetuning_epoch, (True,)),
        },
    )
    yield (
        f"{SEEDS} SupCon networks, clr_training.py, images/s",
        SEEDS * SEED_EPOCHS * STEP_IMAGES,
        {
            f"--workers {WORKERS}": Contestant(seeds, (folder, WORKERS)),
            "--workers 0": Contestant(seeds, (folder, 0)),
            plain: Contestant(peer_contrastive_epoch, (SEEDS * SEED_EPOCHS,), True),
        },
    )
    yield (
        f"{MODELS} x (dense + {len(SPARSITIES)} sparsities), {POPULATION_TEST} test images, networks/s",
        MODELS * (1 + len(SPARSITIES)),
        {
            "each network once": Contestant(population, (folder,)),
            "once a comparison": Contestant(peer_population, (folder, 1), True),
            "once a comparison and figure (PIEs, Q-Score, UMAP)": Contestant(
                peer_population, (folder, 3), True
            ),
        },
    )
    yield (
        f"prediction depth, {PROBE_TRAIN:,} training images of 8x8, test images/s",
        PROBE_TEST,
        {
            "here": Contestant(our_depth),
            "scikit-learn on stored representations": Contestant(peer_depth, (), True),
        },
    )


def sgd(model, nesterov: bool = False):
    import torch

    return torch.optim.SGD(model.parameters(), RATE, momentum=0.9, nesterov=nesterov)


def step(loss, optimizer) -> None:
    """One plain training step."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def our_views(device, kind: str):
    """Returns the work of computing an epoch's views with new parameters, in the batches of training."""
    import torch

    from common import augment

    data, generator = random_data(VIEW_IMAGES, 1, 32, device), torch.Generator().manual_seed(0)

    def contrastive() -> None:
        drawn = {
            name: values.to(device)
            for name, values in augment.draw_contrastive(2 * VIEW_IMAGES, 32, 32, True, generator).items()
        }
        for rows in torch.arange(2 * VIEW_IMAGES, device=device).split(2 * CONTRASTIVE_BATCH):
            augment.contrastive_views(
                data.train_images.index_select(0, rows % VIEW_IMAGES),
                {name: values[rows] for name, values in drawn.items()},
                data.mean,
                data.std,
            )

    def supervised() -> None:
        drawn = {
            name: values.to(device)
            for name, values in augment.draw_supervised(VIEW_IMAGES, 32, 32, True, True, generator).items()
        }
        for rows in torch.arange(VIEW_IMAGES, device=device).split(SUPERVISED_BATCH):
            augment.supervised_views(
                data.train_images.index_select(0, rows),
                {name: values[rows] for name, values in drawn.items()},
                data.mean,
                data.std,
            )

    one_pass = contrastive if kind == "contrastive" else supervised
    return lambda: [one_pass() for _ in range(VIEW_PASSES)]


def peer_views(device, kind: str):
    loader = peer_loader(random_data(VIEW_IMAGES, 1, 32, device), kind)

    def views() -> None:
        for _ in range(VIEW_PASSES):
            for _ in loader:
                pass

    return views


def peer_contrastive_epoch(device, epochs: int):
    """Returns the work of training for this many epochs in a plain SupCon loop."""
    import torch

    from common import models
    from common.losses import contrastive_loss

    model = models.ContrastiveEncoder(Architecture(16, 2)).to(device)
    loader = peer_loader(random_data(STEP_IMAGES, 1, 32, device), "contrastive")
    optimizer = sgd(model)

    def train() -> None:
        for _ in range(epochs):
            for views, targets in loader:
                features = model(torch.cat(views).to(device)).unflatten(0, (2, -1)).transpose(0, 1)
                step(contrastive_loss(features, targets.to(device), 0.5, 0.07), optimizer)

    return train


def peer_classification_epoch(device):
    import torch.nn.functional as F

    from common import models

    network = models.SupervisedNetwork(Architecture(16, 2), 10).to(device)
    loader = peer_loader(random_data(STEP_IMAGES, 1, 32, device), "supervised")
    optimizer = sgd(network)

    def epoch() -> None:
        for views, targets in loader:
            step(F.cross_entropy(network(views.to(device)), targets.to(device)), optimizer)

    return epoch


def finetuning_epoch(device, hooked: bool = False):
    """Returns the work of an epoch at 90 % sparsity, with masks after every step or with
    torch.nn.utils.prune."""
    from torch.nn.utils import prune

    from common import models, training
    from common.criteria import magnitude
    from common.pruning import global_masks, prunable_parameters
    from common.settings import Finetuning, defaults

    network = training.prepare(models.SupervisedNetwork(Architecture(16, 2), 10), device)
    scores = {name: magnitude(weight.detach()) for name, weight in prunable_parameters(network).items()}
    masks = global_masks(scores, 0.9)
    if hooked:
        for name, mask in masks.items():
            module, _, parameter = name.rpartition(".")
            prune.custom_from_mask(network.get_submodule(module), parameter, mask)
    settings = {**defaults(Finetuning), "batch_size": SUPERVISED_BATCH, "learning_rate": RATE}
    finetuning = training.CrossEntropy(network, random_data(STEP_IMAGES, 1, 32, device), settings)
    return lambda: training.fit(
        finetuning, training.TrainingContext(KEY), range(1), None if hooked else masks
    )


def pictures_of(images) -> list:
    from torchvision.transforms.functional import to_pil_image

    return [to_pil_image(image) for image in images.cpu()]


def peer_loader(data, kind: str):
    """Returns a DataLoader without loader processes that applies torchvision's transforms to PIL images, as
    published.

    Args:
        kind: 'contrastive' (two views of each image), 'supervised', or 'evaluation' (unchanged test images).
    """
    import torch
    from torchvision import transforms

    last = [transforms.ToTensor(), transforms.Normalize(data.mean, data.std)]
    transform = transforms.Compose(
        {
            "contrastive": [
                transforms.RandomResizedCrop(32, scale=(0.2, 1.0)),
                transforms.RandomHorizontalFlip(),
                transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
                transforms.RandomGrayscale(p=0.2),
                *last,
            ],
            "supervised": [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomVerticalFlip(),
                transforms.RandomHorizontalFlip(),
                *last,
            ],
            "evaluation": last,
        }[kind]
    )
    images, labels = data.train_images, data.train_labels
    if kind == "evaluation":
        images, labels = data.test_images, data.test_labels
    pictures = list(zip(pictures_of(images), labels.tolist()))

    class Views(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(pictures)

        def __getitem__(self, index: int):
            picture, label = pictures[index]
            if kind == "contrastive":
                return (transform(picture), transform(picture)), label
            return transform(picture), label

    batch = {"contrastive": CONTRASTIVE_BATCH, "supervised": SUPERVISED_BATCH, "evaluation": 1024}[kind]
    return torch.utils.data.DataLoader(Views(), batch, shuffle=kind != "evaluation")


def write_images(folder: Path, train: int, test: int) -> None:
    """Writes random images of ten classes as files for --dataset folder."""
    import torch

    data = random_data(train, test, 32, torch.device("cpu"))
    for part, images in (("train", data.train_images), ("test", data.test_images)):
        for index, picture in enumerate(pictures_of(images)):
            path = folder / part / str(index % 10) / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)


def on_images(folder: Path) -> list[str]:
    """Returns the flags that select the random images."""
    return ["--dataset", "folder", "--data_dir", str(folder / "random")]


def script(folder: Path, device, name: str, flags: str, *more) -> None:
    """Runs one of the scripts in `folder` on its random images."""
    command = [sys.executable, str(ROOT / f"{name}.py"), *on_images(folder), *flags.split(), *more]
    command += ["--cuda_device", str(device.index or 0)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        raise cli.UserError(f"{name}: {done.stderr.strip().splitlines()[-1]}")


def seeds(device, folder: Path, workers: int):
    """Returns the work of training four networks with clr_training.py, including process start, first steps
    and an epoch of each head."""

    def train() -> None:
        with tempfile.TemporaryDirectory(dir=folder) as models:
            flags = f"--index_end {SEEDS - 1} --epochs {SEED_EPOCHS} --batch_size {CONTRASTIVE_BATCH}"
            flags += f" --head_epochs 1 --pruning_percentages 0.0 --workers {workers}"
            folders = "--encoder_save_path", models, "--head_save_path", models
            script(folder, device, "clr_training", flags, *folders)

    return train


def find(device, folder: Path):
    """Returns the study in `folder` and its populations, the dense one first; trains them for an epoch if
    needed."""
    import sup_pie_kmodels_detection
    from common import comparison
    from common.study import open_studies

    model_flags = f"--models_number {MODELS} --pruning_percentages {','.join(map(str, SPARSITIES))}"
    if not (folder / "models").exists():
        flags = f"--index_end {MODELS - 1} --epochs 1 --learning_rate 0.1"
        script(folder, device, "sup_training", flags)
        script(folder, device, "sup_pruning_finetune", f"{model_flags} --epochs 1")
    os.chdir(folder)
    cli.logger.disabled = True  # keep its log out of the output
    flags = sup_pie_kmodels_detection.build_parser().parse_args([*on_images(folder), *model_flags.split()])
    study = next(open_studies("sup_pie_kmodels_detection", flags))
    return study, comparison.find_populations(study)


def population(device, folder: Path):
    """Returns the work of evaluating all networks, from checkpoints to stored predictions, Q-Scores and
    masks."""
    import shutil

    from common import comparison

    study, populations = find(device, folder)

    def evaluate() -> None:
        shutil.rmtree(study.method_folder / "evaluations", ignore_errors=True)
        for members in populations:
            comparison.evaluate_population(study, members)

    return evaluate


def peer_population(device, folder: Path, figures: int):
    """Returns the work of loading and evaluating both populations again for every sparsity and figure."""
    import torch

    from common import models

    study, (dense, *pruned) = find(device, folder)
    network = models.SupervisedNetwork(Architecture(16, 2), 10).to(device).eval()
    loader = peer_loader(study.data, "evaluation")

    @torch.no_grad()
    def evaluate() -> None:
        for sparse in pruned * figures:
            for member in (*dense.members, *sparse.members):
                network.load_state_dict(torch.load(member.paths[0], weights_only=True))
                for images, _ in loader:
                    latent = network.latent(images.to(device))
                    network.classify(latent).argmax(1).cpu(), latent.cpu()

    return evaluate


def probed(device):
    from common import models, training

    network = training.prepare(models.SupervisedNetwork(Architecture(16, 2), 10), device).eval()
    return random_data(PROBE_TRAIN, PROBE_TEST, PROBE_SIDE, device), network


def our_depth(device):
    """Returns the work of computing k-NN labels at the 16 layers of one network, including forward passes."""
    from common.store import evaluation

    data, network = probed(device)
    return lambda: evaluation.knn_at_layers(network, data, 1024)


def peer_depth(device):
    import torch
    from sklearn.neighbors import KNeighborsClassifier

    from common import evaluation, neighbours

    data, network = probed(device)

    @torch.no_grad()
    def representations(images) -> dict:
        parts = [network.representations(batch) for batch in evaluation.evaluation_batches(images, data)]
        return {layer: torch.cat([part[layer] for part in parts]).cpu().numpy() for layer in parts[0]}

    def probe() -> None:
        train, test = representations(data.train_images), representations(data.test_images)
        labels = data.train_labels.cpu().numpy()
        for layer in train:
            KNeighborsClassifier(neighbours.NEIGHBOURS).fit(train[layer], labels).predict(test[layer])

    return probe


if __name__ == "__main__":
    sys.exit(main())
