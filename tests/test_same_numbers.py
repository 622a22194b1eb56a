"""A chain of the eight scripts on a few digits: the checksum of every model, of every array of a network, and
the table's numbers.

They were taken before the code was laid out anew, and hold on one kind of machine only: elsewhere sums round
in other ways. There another checkout gives them: CHAIN_CHECKOUT=/path/to/it python -m pytest
tests/test_same_numbers.py. To take them again, on purpose: python tests/test_same_numbers.py
"""

import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common import comparison  # noqa: E402

PINNED = Path(__file__).parent / "golden" / "chain.json"
SMALL = "--dataset folder --data_dir few --model_depth 10 --widen_factor 1 --threads 1"
SUPERVISED = f"sup_training {SMALL} --epochs 3 --batch_size 16 --learning_rate 0.1"
CONTRASTIVE = f"clr_training {SMALL} --epochs 3 --batch_size 20 --head_epochs 3 --batch_size_head 16"
HEAD_STEPS = "--begin_epoch_head 0.5 --end_epoch_head 2"
ITERATIVE = "--models_number 2 --pruning_schedule iterative --iterations 2 --rate 0.5"
COMPARED = "--models_number 2 --pruning_percentages 0.5,0.75,0.9"
METHODS = "--pruning_methods global,GMP,later_GMP,global_iterative0.5_rewind1"
COMMANDS = (
    f"{SUPERVISED} --index_end 1 --dropout 0.1 --save_path dropout",
    f"{SUPERVISED} --index_end 1 --save_epochs 0,1",
    f"{SUPERVISED} --index_end 1 --pruning 0.9 --begin_epoch 0.25 --end_epoch 1",
    f"{SUPERVISED} --index_end 1 --pruning 0.9 --schedule late --criterion snip --scope global "
    "--begin_epoch 1 --end_epoch 2.5 --save_path snip",
    f"{SUPERVISED} --index_end 1 --pruning 0.9 --schedule late --begin_epoch 1 --end_epoch 2.5",
    f"{CONTRASTIVE} --index_end 1 --pruning_percentages 0.0 --save_epochs 0,1 "
    "--debug_classification_head --debug_classification_head_epochs 2",
    f"{CONTRASTIVE} --index_end 1 --pruning_percentages 0.9 --begin_epoch 1 --end_epoch 2.5 {HEAD_STEPS}",
    f"{CONTRASTIVE} --index_end 0 --pruning_percentages 0.9 --criterion snip --begin_epoch 1 --end_epoch 2.5 "
    f"{HEAD_STEPS} --method SimCLR --lars --cosine_annealing --dropout 0.1 --encoder_save_path lars",
    *(
        f"{script}_pruning_finetune {SMALL} {flags}"
        for script in ("sup", "clr")
        for flags in (
            "--models_number 2 --pruning_percentages 0.5,0.9 --epochs 2",
            f"{ITERATIVE} --after rewind --rewind_epoch 1",
            f"{ITERATIVE} --after reinit",
            f"{ITERATIVE} --after finetune --epochs 1 --criterion random",
        )
    ),
    *(
        f"{script}_{stage} {SMALL} {COMPARED} {METHODS} {flags}"
        for script in ("sup", "clr")
        for stage, flags in (
            ("pie_kmodels_detection", "--plot_q_score --plot_umap --umap_models 2"),
            ("prediction_depth", "--prediction_depth_models 2"),
        )
    ),
)
TEXT_COLUMNS = ("learning_method", "pruning_method", "sparsity")


def machine() -> dict:
    """What the last digits of a sum depend on."""
    capability = torch.backends.cpu.get_cpu_capability()
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "torch": torch.__version__.split("+")[0],
        "numpy": np.__version__,
        "cpu": capability,
        "model": (model or [platform.machine()])[0],
    }


def run_chain(folder: Path) -> None:
    """Runs all commands in `folder`."""
    from conftest import write_few_digits
    from test_scripts import main

    os.chdir(folder)
    write_few_digits(folder / "few")
    for command in COMMANDS:
        script, *flags = command.split()
        assert main(script, *flags) == 0, command


def checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


def checksums(folder: Path) -> dict[str, str]:
    """Every model's file, every array that was computed of a network, every number of the table."""
    from conftest import read_csv

    sums = {
        str(path.relative_to(folder)): checksum(path.read_bytes()) for path in sorted(folder.rglob("*.pt"))
    }
    for kind in ("evaluations", "votes"):
        for path in sorted(folder.rglob(f"{kind}/*.npz")):
            with np.load(path) as arrays:
                for name in sorted(set(arrays.files) - {"made"}):
                    array = arrays[name]
                    is_text = array.dtype.kind == "U"
                    content = repr(array.tolist()).encode() if is_text else array.tobytes()
                    sums[f"{kind}/{path.stem}/{name}"] = checksum(content)
    for row in read_csv(next(folder.rglob("results.csv"))):
        row_name = "/".join(row[column] for column in TEXT_COLUMNS)
        sums |= {f"table/{row_name}/{name}": text for name, text in row.items() if is_number(text)}
    return sums


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def checksums_of(checkout: Path, folder: Path) -> dict[str, str]:
    """Those of the chain by another checkout's code, with its own commands."""
    code = (
        "import json, pathlib, sys; from common import comparison; import test_same_numbers as chain\n"
        "comparison.umap_coordinates = lambda latent: latent[:, :2]; folder = pathlib.Path(sys.argv[1])\n"
        "chain.run_chain(folder); (folder / 'sums.json').write_text(json.dumps(chain.checksums(folder)))"
    )
    folder.mkdir()
    paths = os.pathsep.join(map(str, (checkout, checkout / "tests")))
    environment = {**os.environ, "PYTHONPATH": paths}
    subprocess.run([sys.executable, "-c", code, folder], cwd=folder, env=environment, check=True)
    return json.loads((folder / "sums.json").read_text())


def test_the_chain_gives_the_same_numbers(tmp_path, monkeypatch, unsaved_figures):
    pinned, checkout = json.loads(PINNED.read_text()), os.environ.get("CHAIN_CHECKOUT")
    if checkout:
        pinned = {"checksums": checksums_of(Path(checkout).resolve(), tmp_path / "of another checkout")}
    elif pinned["machine"] != machine():
        pytest.skip(
            f"the checksums were taken on {pinned['machine']}, this is {machine()}; CHAIN_CHECKOUT names a "
            "checkout to compare with"
        )
    tmp_path = tmp_path / "here"
    tmp_path.mkdir()
    monkeypatch.chdir(tmp_path)
    # UMAP takes half a minute to be compiled; its coordinates are not among the numbers.
    monkeypatch.setattr(comparison, "umap_coordinates", lambda latent: latent[:, :2])
    run_chain(tmp_path)
    measured = checksums(tmp_path)  # of more, where arrays and columns were added since
    differing = [name for name, text in pinned["checksums"].items() if measured.get(name) != text]
    assert not differing, differing[:20]
    assert len(pinned["checksums"]) > 500


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as work:
        run_chain(Path(work))
        content = {"machine": machine(), "checksums": checksums(Path(work))}
    PINNED.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    print(f"{len(content['checksums'])} checksums in {PINNED}")
