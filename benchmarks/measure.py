"""Shared code of the benchmarks: machine description, random data, epochs, contestants in turn, JSON output.

Every contestant runs in a separate process, so that none profits from settings or memory of another.
"""

import contextlib
import multiprocessing
import os
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from common import cli, process, values  # noqa: E402
from common.settings import Architecture  # noqa: E402

BATCHES, RATE = (256, 128), 0.01  # contrastive and supervised batches; a safe learning rate


@dataclass(frozen=True)
class Contestant:
    """Work to measure.

    prepare: (device, *arguments) -> the work, a function without arguments; published: run it without this
    project's process settings.
    """

    prepare: Callable
    arguments: tuple = ()
    published: bool = False


def build_parser(docstring: str) -> cli.Parser:
    """Returns a parser with --cuda_device, --rounds and --output."""
    parser = cli.Parser(docstring)
    parser.add_argument(
        "--cuda_device",
        type=values.natural_number,
        default=0,
        help="CUDA device id; without CUDA the CPU is measured",
    )
    parser.add_argument(
        "--rounds",
        type=values.positive_integer,
        default=5,
        help="number of measurements of each contestant, in turn",
    )
    parser.add_argument("--output", type=values.path, default=None, help="JSON file (None: print only)")
    return parser


def start(cuda_device: int):
    """Selects the device to measure; prints and returns a description of the machine."""
    import platform

    import torch

    cli.logger.addHandler(cli.logging.StreamHandler(sys.stdout))
    cli.logger.setLevel(cli.logging.INFO)
    process.set_determinism(True)
    device = process.select_device(cuda_device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else process.processor()
    machine = {
        "device": f"{device.type}: {name}",
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    return device, machine


def random_data(train: int, test: int, side: int, device):
    """Returns a data set of random images (N, 3, side, side) and labels, always the same."""
    import torch

    from common.data import ImageDataset
    from common.datasets import CIFAR10_STATISTICS

    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (train + test, 3, side, side), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, (train + test,), generator=generator)
    halves = images[:train], labels[:train], images[train:], labels[train:]
    statistics = tuple("0123456789"), *CIFAR10_STATISTICS, True, True
    return ImageDataset("random", "random", *halves, *statistics).to(device)


def contrastive_training(data, batch_size: int, shape: tuple[int, int] = (16, 2), **settings):
    """Makes SupCon training of a WideResNet of this depth and width on the data's device."""
    from common import models, training

    settings = {
        "learning_method": "SupCon",
        "epochs": 1,
        "batch_size": batch_size,
        "learning_rate": RATE,
        "momentum": 0.9,
        "weight_decay": 0.0,
        "temperature": 0.5,
        "base_temperature": 0.07,
        "lars": False,
        "cosine_annealing": False,
        "warmup_epochs": 0,
        **settings,
    }
    training.seed_weights("benchmark", "contrastive")
    model = training.prepare(models.ContrastiveEncoder(Architecture(*shape)), data.train_images.device)
    return training.Contrastive(model, data, settings)


def classification_training(data, batch_size: int, shape: tuple[int, int] = (16, 2), **settings):
    """Makes cross-entropy training of a WideResNet of this depth and width on the data's device."""
    from common import models, training

    settings = {
        "batch_size": batch_size,
        "learning_rate": RATE,
        "momentum": 0.9,
        "weight_decay": 0.0,
        **settings,
    }
    training.seed_weights("benchmark", "supervised")
    network = training.prepare(models.SupervisedNetwork(Architecture(*shape), 10), data.train_images.device)
    return training.CrossEntropy(network, data, settings)


def contrastive_epoch(device, images: int, batch_size: int = BATCHES[0], switches: dict | None = None):
    """Returns the work of a SupCon epoch over this many images, including views."""
    from common import training

    run = contrastive_training(random_data(images, 1, 32, device), batch_size, **(switches or {}))
    return lambda: training.fit(run, training.TrainingContext((0, "contrastive")), range(1))


def classification_epoch(device, images: int, batch_size: int = BATCHES[1], switches: dict | None = None):
    """Returns the work of a cross-entropy epoch over this many images, including views."""
    from common import training

    run = classification_training(random_data(images, 1, 32, device), batch_size, **(switches or {}))
    return lambda: training.fit(run, training.TrainingContext((0, "supervised")), range(1))


def masked_epoch(device, images: int, batch_size: int = BATCHES[1]):
    """Returns the work of a cross-entropy epoch with masks, like in finetuning, which prune nothing."""
    import torch

    from common import training
    from common.pruning import prunable_parameters

    run = classification_training(random_data(images, 1, 32, device), batch_size)
    masks = {name: torch.ones_like(weight) for name, weight in prunable_parameters(run.network).items()}
    return lambda: training.fit(run, training.TrainingContext((0, "supervised")), range(1), masks)


def timed(work: Callable[[], None], device) -> float:
    """Measures the seconds of one call, including work on the device."""
    import torch

    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _memory(what: str, device) -> int:
    """Returns the current (VmRSS) or peak (VmHWM) memory of this process in bytes; on a GPU, of its tensors
    there."""
    import torch

    if device.type == "cuda":
        read = torch.cuda.memory_allocated if what == "VmRSS" else torch.cuda.max_memory_allocated
        return read(device)
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return 1024 * int(line.split()[1])


def _contest(contestant: Contestant, device, connection) -> None:
    """Runs in a contestant's process: after a warm-up call (caches, lazy imports), each request triggers
    a call, whose seconds and bytes are sent back.
    """
    import torch

    process.set_determinism(True)  # like the scripts, so that all contestants use the same precision
    if device.type == "cpu" and not contestant.published:
        process.keep_freed_memory()
    work = contestant.prepare(device, *contestant.arguments)
    before = _memory("VmRSS", device)
    # Reset the peak.
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        Path("/proc/self/clear_refs").write_text("5")
    timed(work, device)
    connection.send(None)
    while connection.recv():
        connection.send((timed(work, device), _memory("VmHWM", device) - before))


@dataclass(frozen=True)
class Result:
    """Seconds of every round, their median, and the peak memory of the work in MB beyond its preparation."""

    seconds: list[float]
    median: float
    megabytes: float


def in_turn(contestants: dict[str, Contestant], rounds: int, device) -> dict[str, Result]:
    """Times the contestants, each in a separate process, one after the other in every round.

    Raises:
        UserError: the process of a contestant ended early.
    """
    context = multiprocessing.get_context("spawn")
    connections, processes, measurements = {}, [], {name: [] for name in contestants}
    try:
        for name, contestant in contestants.items():
            connections[name], child_end = context.Pipe()
            processes.append(
                context.Process(target=_contest, args=(contestant, device, child_end), daemon=True)
            )
            processes[-1].start()
            child_end.close()
            connections[name].recv()
        for _ in range(rounds):
            for name, connection in connections.items():
                connection.send(True)
                measurements[name].append(connection.recv())
    except EOFError:
        raise cli.UserError(f"{name}: its process ended, see above") from None
    finally:
        for connection in connections.values():
            with contextlib.suppress(OSError):
                connection.send(False)
        for worker in processes:
            worker.join()
    return {
        name: Result(
            [seconds for seconds, _ in results],
            statistics.median(seconds for seconds, _ in results),
            results[-1][1] / 2**20,
        )
        for name, results in measurements.items()
    }


def save(output: str | None, machine: dict, **content) -> None:
    """Writes measurements as JSON if a file is given."""
    if output is not None:
        from common.store.files import write_json

        write_json(Path(output), {"machine": machine, **content})
