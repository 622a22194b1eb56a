"""Times the report of 30 dense and 30 pruned networks of 24 combinations on 10,000 test images.

    python benchmarks/report.py

The networks are made up, of about 94 % accuracy; on 10 % of the images those of one combination disagree.
Prints seconds, of the clock and of the processor, and the most memory that figures/make_figures.py held.
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import stored_results  # noqa: E402
from stored_results import Data, Key, Networks, make_data, make_results  # noqa: E402

MODELS, IMAGES, CLASSES, PROBED = 30, 10_000, 10, 10
SPARSITIES = (0.5, 0.7, 0.9, 0.95)
DISPUTED, ALWAYS_WRONG = 0.1, 0.02  # shares of the images
RIVAL = 0.8  # of the errors on an image are of one class


def predict(key: Key, ids: list[int], data: Data, damage: float) -> Networks:
    """Networks that err at random on disputed images, each pruned one beside the dense one of its id."""
    images, easy = len(data.labels), np.random.default_rng(len(key[0]))
    share, rng = easy.random(images), np.random.default_rng(stored_results.seeds_of(key))
    chance = np.where(share < DISPUTED, easy.beta(0.6, 0.9, images), share > 1 - ALWAYS_WRONG)
    rival = (data.labels + easy.integers(1, CLASSES, images)) % CLASSES
    chance = np.clip(chance + (share < DISPUTED) * rng.normal(0, 0.3 * damage, images), 0, 1)
    drawn = np.stack([np.random.default_rng([len(key[0]), each]).random(images) for each in ids])
    fresh = rng.random(drawn.shape) < damage  # what pruning draws anew
    errs = np.where(fresh, rng.random(drawn.shape), drawn) < chance
    other = np.where(rng.random(drawn.shape) < RIVAL, rival, (rival + 1) % CLASSES)
    return Networks(key, list(ids), np.where(errs, other, data.labels).astype(np.int16))


def main() -> None:
    stored_results.predict = predict
    sizes = dict(models=MODELS, images=IMAGES, classes=CLASSES, depth_models=PROBED, sparsities=SPARSITIES)
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "made up"
        make_results(results, **sizes)
        networks = predict(("supervised", "dense", 0.0), range(MODELS), make_data("", IMAGES, CLASSES), 0)
        disputed = (networks.predictions != networks.predictions[0]).any(0).mean()
        begun = time.perf_counter()
        command = [sys.executable, ROOT / "figures" / "make_figures.py", "--results", results]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        elapsed, used = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{100 * disputed:.0f} % of the images are disputed, by dense supervised networks")
    print(f"{elapsed:.0f} s, {used.ru_utime + used.ru_stime:.0f} s of CPU, {used.ru_maxrss / 1e6:.2f} GB")


if __name__ == "__main__":
    main()
