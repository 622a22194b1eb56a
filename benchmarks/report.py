"""Times the report on 30 dense and 30 pruned networks of 24 combinations with 10,000 test images.

    python benchmarks/report.py

Predictions are synthetic, with about 94 % accuracy; networks of one combination disagree on 10 % of the
images. Prints wall-clock and CPU seconds and the peak memory of figures/make_figures.py.
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

from common import cli  # noqa: E402

MODELS, IMAGES, CLASSES, PROBED = 30, 10_000, 10, 10
SPARSITIES = (0.5, 0.7, 0.9, 0.95)
DISPUTED, ALWAYS_WRONG = 0.1, 0.02  # shares of images
RIVAL = 0.8  # share of the errors on an image that predict the same class


def predict(key: Key, ids: list[int], data: Data, damage: float) -> Networks:
    """Makes networks that err at random on disputed images; pruned ones share draws with the dense network of
    their id."""
    images, shared_rng = len(data.labels), np.random.default_rng(len(key[0]))
    position, rng = shared_rng.random(images), np.random.default_rng(stored_results.seeds_of(key))
    chance = np.where(position < DISPUTED, shared_rng.beta(0.6, 0.9, images), position > 1 - ALWAYS_WRONG)
    rival = (data.labels + shared_rng.integers(1, CLASSES, images)) % CLASSES
    chance = np.clip(chance + (position < DISPUTED) * rng.normal(0, 0.3 * damage, images), 0, 1)
    draws = np.stack([np.random.default_rng([len(key[0]), seed]).random(images) for seed in ids])
    is_redrawn = rng.random(draws.shape) < damage  # pruning redraws these
    is_wrong = np.where(is_redrawn, rng.random(draws.shape), draws) < chance
    wrong_labels = np.where(rng.random(draws.shape) < RIVAL, rival, (rival + 1) % CLASSES)
    return Networks(key, list(ids), np.where(is_wrong, wrong_labels, data.labels).astype(np.int16))


def main() -> None:
    cli.Parser(__doc__).parse_args()
    stored_results.predict = predict
    sizes = dict(models=MODELS, images=IMAGES, classes=CLASSES, depth_models=PROBED, sparsities=SPARSITIES)
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "synthetic"
        make_results(results, **sizes)
        networks = predict(("supervised", "dense", 0.0), range(MODELS), make_data("", IMAGES, CLASSES), 0)
        disputed = (networks.predictions != networks.predictions[0]).any(0).mean()
        started = time.perf_counter()
        command = [sys.executable, ROOT / "figures" / "make_figures.py", "--results", results]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        elapsed, used = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{100 * disputed:.0f} % of the images are disputed by dense supervised networks")
    print(f"{elapsed:.0f} s, {used.ru_utime + used.ru_stime:.0f} s of CPU, {used.ru_maxrss / 1e6:.2f} GB")


if __name__ == "__main__":
    main()
