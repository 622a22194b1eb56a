"""A walk along docs/own_data.md: its commands, copied, with fewer epochs and networks."""

import contextlib
import importlib
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from conftest import read_csv, without_figures, write_few_digits

ROOT = Path(__file__).parent.parent
FEWER = {"--epochs": "1", "--head_epochs": "1", "--index_end": {"5": "1", "7": "2"}, "--size": "8"}
FEWER |= {"--models_number": {"6": "2", "8": "3"}, "--batch_size": "32"}


def blocks():
    """The blocks of commands of the walk, one list of words for each command."""
    page = (ROOT / "docs/own_data.md").read_text(encoding="utf-8")
    walk = page.split("## A complete example")[1].split("\n## ")[0]
    variables, found = {}, []
    for block in re.findall(r"```\n(.*?)```", walk, re.DOTALL):
        found.append([])
        for line in block.replace("\\\n", "").splitlines():
            if assigned := re.fullmatch(r"(\w+)=\((.*)\)", line):
                variables[assigned[1]] = assigned[2]
                continue
            for name, text in variables.items():
                line = line.replace(f'"${{{name}[@]}}"', text)
            found[-1].append(shlex.split(line))
    return found


def fewer(words):
    """The same command with fewer epochs and networks."""
    changed = list(words)
    for place, flag in enumerate(words[:-1]):
        if flag in FEWER:
            value = FEWER[flag]
            changed[place + 1] = value if isinstance(value, str) else value[words[place + 1]]
    return changed


def walk(block):
    for words in block:
        assert words[0] == "python"
        script = importlib.import_module(words[1].removesuffix(".py").replace("/", ".").split(".")[-1])
        assert script.main(fewer(words[2:])) == 0, words


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """The first block has been walked, with a few digits as photos, one of them broken."""
    folder = tmp_path_factory.mktemp("walk")
    write_few_digits(folder / "digits")
    (folder / "digits/train").rename(folder / "photos")
    (folder / "photos/digit 1/broken.jpg").write_text("no image")
    with contextlib.chdir(folder), without_figures(), pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        patch.syspath_prepend(str(ROOT / "figures"))
        # What takes longest:
        patch.setattr("common.plots.save_figure", lambda path, figure: None)
        patch.setattr("common.comparison.umap_coordinates", lambda latent: np.float32(latent[:, :2]))
        walk(blocks()[0])
    return folder


def table(folder):
    rows = read_csv(folder / "results.csv")
    return {(row["learning_method"], row["pruning_method"], row["sparsity"]): row for row in rows}


def test_a_folder_of_photos_becomes_a_report(work):
    rows = table(work / "pies/photos_16")
    assert {key[:2] for key in rows} == {
        (learning, pruning)
        for learning in ("SupCon", "supervised")
        for pruning in ("dense", "finetuned", "global")
    }
    page = (work / "pies/photos_16/report.html").read_text(encoding="utf-8")
    missing = page.partition('<h2 id="missing">')[2].partition("<h2")[0]
    assert "No population or figure besides what the claims above list" in missing and "<li>" not in missing
    assert "temperature" not in rows["SupCon", "dense", "0.0"]["unpublished"]


@pytest.mark.usefixtures("empty_figures")
def test_a_second_temperature_stands_beside_the_first(work, monkeypatch):
    monkeypatch.chdir(work)
    monkeypatch.syspath_prepend(str(ROOT / "figures"))
    before = {path: path.read_bytes() for path in (work / "pies/photos_16/SupCon").rglob("*.npz")}
    monkeypatch.setattr("common.comparison.umap_coordinates", lambda latent: np.float32(latent[:, :2]))
    walk(blocks()[1])
    assert before == {path: path.read_bytes() for path in before}
    colder = table(work / "pies/photos_16/runs/colder")
    assert "temperature 0.1" in colder["SupCon", "dense", "0.0"]["unpublished"]
    [changed] = (work / "pies/photos_16/against").glob("*/changed.csv")
    assert "SupCon,dense,temperature,0.5,0.1" in changed.read_text()
    assert (changed.parent / "report.html").exists()
