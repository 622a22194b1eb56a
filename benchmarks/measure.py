"""What the benchmarks share: the machine in words, random data, epochs, contestants in turn, the JSON.

Every contestant is a process of its own, so that none profits from what another has set or left in memory.
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

BATCHES, RATE = (256, 128), 0.01  # contrastive and supervised batches; a rate at which nothing diverges


@dataclass(frozen=True)
class Contestant:
    """Who is measured.

    prepare: (device, *arguments) -> the work, a function without arguments.
    published: without this project's settings of the process.
    """

    prepare: Callable
    arguments: tuple = ()
    published: bool = False


def build_parser(docstring: str) -> cli.Parser:
    """A parser with --cuda_device, --rounds and --output."""
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
        help="how often each is measured, in turn with the others",
    )
    parser.add_argument("--output", type=values.path, default=None, help="JSON file, None: print only")
    return parser


def start(cuda_device: int):
    """The device that is measured, said on the terminal, and a description of the machine."""
    import platform

    import torch

    cli.logger.addHandler(cli.logging.StreamHandler(sys.stdout))
    cli.logger.setLevel(cli.logging.INFO)
    process.set_determinism(True)
    device = process.select_device(cuda_device)
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else platform.processor() or platform.machine()
    )
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
    """A data set of random images (N, 3, side, side) and labels, always the same."""
    import torch

    from common.data import ImageDataset
    from common.datasets import CIFAR10_STATISTICS

    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (train + test, 3, side, side), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, (train + test,), generator=generator)
    parts = images[:train], labels[:train], images[train:], labels[train:]
    facts = tuple("0123456789"), *CIFAR10_STATISTICS, True, True
    return ImageDataset("random", "random", *parts, *facts).to(device)


def contrastive_training(data, batch_size: int, shape: tuple[int, int] = (16, 2), **settings):
    """SupCon of a WideResNet of this depth and width on the data's device."""
    from common import models, training

    settings = {
        **{"learning_method": "SupCon", "epochs": 1, "batch_size": batch_size, "learning_rate": RATE},
        **{"momentum": 0.9, "weight_decay": 0.0, "temperature": 0.5, "base_temperature": 0.07},
        **{"lars": False, "cosine_annealing": False, "warmup_epochs": 0, **settings},
    }
    training.seed_weights("benchmark", "contrastive")
    model = training.prepare(models.ContrastiveEncoder(Architecture(*shape)), data.train_images.device)
    return training.Contrastive(model, data, settings)


def classification_training(data, batch_size: int, shape: tuple[int, int] = (16, 2), **settings):
    """Cross-entropy of a WideResNet of this depth and width on the data's device."""
    from common import models, training

    settings = {
        **{"batch_size": batch_size, "learning_rate": RATE, "momentum": 0.9, "weight_decay": 0.0},
        **settings,
    }
    training.seed_weights("benchmark", "supervised")
    network = training.prepare(models.SupervisedNetwork(Architecture(*shape), 10), data.train_images.device)
    return training.CrossEntropy(network, data, settings)


def contrastive_epoch(device, images: int, batch_size: int = BATCHES[0], switches: dict | None = None):
    """A SupCon epoch over so many images, views included."""
    from common import training

    of_model = contrastive_training(random_data(images, 1, 32, device), batch_size, **(switches or {}))
    return lambda: training.fit(of_model, training.TrainingContext((0, "contrastive")), range(1))


def classification_epoch(device, images: int, batch_size: int = BATCHES[1], switches: dict | None = None):
    """A cross-entropy epoch over so many images, views included."""
    from common import training

    of_network = classification_training(random_data(images, 1, 32, device), batch_size, **(switches or {}))
    return lambda: training.fit(of_network, training.TrainingContext((0, "supervised")), range(1))


def masked_epoch(device, images: int, batch_size: int = BATCHES[1]):
    """The same as in finetuning, with masks that prune nothing."""
    import torch

    from common import training
    from common.pruning import prunable_parameters

    of_network = classification_training(random_data(images, 1, 32, device), batch_size)
    masks = {
        name: torch.ones_like(weight) for name, weight in prunable_parameters(of_network.network).items()
    }
    return lambda: training.fit(of_network, training.TrainingContext((0, "supervised")), range(1), masks)


def timed(work: Callable[[], None], device) -> float:
    """Seconds of one call, the device's work included."""
    import torch

    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _memory(what: str, device) -> int:
    """Bytes that this process has in memory now (VmRSS) or had at most (VmHWM); on a GPU those of its
    tensors there."""
    import torch

    if device.type == "cuda":
        read = torch.cuda.memory_allocated if what == "VmRSS" else torch.cuda.max_memory_allocated
        return read(device)
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return 1024 * int(line.split()[1])


def _contest(contestant: Contestant, device, connection) -> None:
    """A contestant's process: one call that is not counted (caches, lazy imports), then one whenever it is
    asked.

    It answers with seconds and bytes.
    """
    import torch

    process.set_determinism(True)  # as the scripts do; peers are not measured at another precision
    if device.type == "cpu" and not contestant.published:
        process.keep_freed_memory()
    work = contestant.prepare(device, *contestant.arguments)
    before = _memory("VmRSS", device)
    # From here on, the most is counted anew.
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
    """seconds of every round; their median; megabytes of the work at most, beside what its preparation
    holds."""

    seconds: list[float]
    median: float
    megabytes: float


def in_turn(contestants: dict[str, Contestant], rounds: int, device) -> dict[str, Result]:
    """Times the contestants, each in a process of its own, one after the other in every round.

    Raises:
        UserError: a contestant ended before its time.
    """
    context = multiprocessing.get_context("spawn")
    connections, processes, found = {}, [], {who: [] for who in contestants}
    try:
        for who, contestant in contestants.items():
            connections[who], other = context.Pipe()
            processes.append(context.Process(target=_contest, args=(contestant, device, other), daemon=True))
            processes[-1].start()
            other.close()
            connections[who].recv()
        for _ in range(rounds):
            for who, connection in connections.items():
                connection.send(True)
                found[who].append(connection.recv())
    except EOFError:
        raise cli.UserError(f"{who}: its process ended, see above") from None
    finally:
        for connection in connections.values():
            with contextlib.suppress(OSError):
                connection.send(False)
        for one in processes:
            one.join()
    return {
        who: Result(
            [seconds for seconds, _ in rounds_of],
            statistics.median(seconds for seconds, _ in rounds_of),
            rounds_of[-1][1] / 2**20,
        )
        for who, rounds_of in found.items()
    }


def save(output: str | None, machine: dict, **content) -> None:
    """Writes what was measured as JSON, where a file is named."""
    if output is not None:
        from common.store.files import write_json

        write_json(Path(output), {"machine": machine, **content})
