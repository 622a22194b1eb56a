"""PIEs of any networks, from arrays alone."""

import os
import re

import numpy as np
import pytest
from conftest import read_csv
from matplotlib.image import imsave

from figures import compare_predictions

LABELS = np.arange(40) % 3


@pytest.fixture
def arrays(tmp_path, monkeypatch):
    """A function that writes changed arrays and runs the script on them; returns its status."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    dense, pruned = (
        np.where(rng.random((7, 40)) < wrong, rng.integers(0, 3, (7, 40)), LABELS) for wrong in (0.4, 0.7)
    )

    def run(*flags, **changed):
        for name, array in ({"dense": dense, "pruned": pruned, "labels": LABELS} | changed).items():
            np.save(f"{name}.npy", array)
        return compare_predictions.main(
            ["--dense", "dense.npy", "--pruned", "pruned.npy", "--labels", "labels.npy", *map(str, flags)]
        )

    run.dense, run.pruned = dense, pruned
    return run


def modal(predictions, image):
    votes = predictions[:, image].tolist()
    return max(sorted(set(votes)), key=votes.count)  # of equal counts the smallest class


def rows(name):
    return read_csv(f"predictions/{name}.csv")


def as_probabilities(classes):
    return np.eye(3)[classes] * 0.8 + 0.2 / 3


def test_numbers_equal_slow_counts_from_class_ids_and_from_probabilities(arrays, tmp_path):
    assert arrays() == 0
    pies = [i for i in range(40) if modal(arrays.dense, i) != modal(arrays.pruned, i)]
    lost = [i for i in pies if modal(arrays.dense, i) == LABELS[i]]
    (row,) = rows("comparisons")
    assert 0 < len(lost) < len(pies)
    assert [int(float(row[name])) for name in ("networks", "pies", "lost")] == [7, len(pies), len(lost)]
    assert float(row["accuracy"]) == pytest.approx((arrays.pruned == LABELS).mean(), abs=1e-6)
    assert float(row["accuracy_low"]) < float(row["accuracy"]) and row["probability_change"] == ""
    found = {int(each["image"]): (each["label"], each["kind"] == "lost") for each in rows("pies_pruned")}
    assert found == {i: (str(LABELS[i]), i in lost) for i in pies}
    by_class = {each["class"]: int(each["pies"]) for each in rows("classes")}
    assert by_class == {str(c): sum(LABELS[i] == c for i in pies) for c in range(3)}
    sides = {name: as_probabilities(getattr(arrays, name)) for name in ("dense", "pruned")}
    assert arrays(**sides) == 0
    (again,) = rows("comparisons")
    change = np.mean(sides["pruned"] - sides["dense"], 0)
    assert again["pies"] == row["pies"] and again["excess"] == row["excess"]
    assert 0 < float(again["probability_change"]) < (change**2).sum(1).mean()


def test_the_page_has_names_and_pictures_and_only_its_files_are_replaced(arrays, tmp_path):
    (tmp_path / "names.txt").write_text("cat\ndog\n<bird>\n", "utf-8-sig")
    for index in range(40):
        path = tmp_path / f"photos/{index // 3}/{index % 3}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        imsave(path, np.full((40, 30, 3), index * 6, np.uint8))
    (tmp_path / "predictions").mkdir()
    (tmp_path / "predictions/notes.csv").write_text("mine")
    more = "--names", "names.txt", "--images", "photos", "--pruned", "as before=dense.npy"
    assert arrays(*more) == 0 == arrays(*more)
    page = (tmp_path / "predictions/report.html").read_text()
    count = len(rows("pies_pruned"))
    assert page.count("<img") == count > 0 and "&lt;bird&gt;" in page and "as before: 0 PIEs" in page
    assert {row["label"] for row in rows("pies_pruned")} <= {"cat", "dog", "<bird>"}
    assert (tmp_path / "predictions/notes.csv").read_text() == "mine"


def test_arrays_that_may_not_belong_together_are_told(arrays, capsys):
    assert arrays(dense=arrays.dense[:2], labels=LABELS + 1) == 0
    notes = "note: 2 dense networks, 7 of pruned: equally .*note: labels run from 1 to 3, predictions to 2"
    assert re.match(notes, capsys.readouterr().out, re.DOTALL)


def test_one_network_has_no_excess(arrays, capsys):
    assert arrays(dense=arrays.dense[:1], pruned=arrays.pruned[:1]) == 0
    assert re.fullmatch(r"pruned: \d+ PIEs of 40 images, K = 1", capsys.readouterr().out.split("\n")[0])


@pytest.mark.parametrize(
    "flags, changed, words",
    [
        ([], {"labels": LABELS[:5]}, "--dense dense.npy: shape (7, 40), int64; give class ids"),
        ([], {"labels": LABELS - 1}, "--labels labels.npy"),
        ([], {"labels": np.full(40, 2**63, np.uint64)}, "--labels labels.npy"),
        ([], {"dense": np.zeros((7, 40))}, "--dense dense.npy: shape (7, 40), float64"),
        ([], {"pruned": np.full((7, 40), -1)}, "class ids start at 0, not at -1"),
        ([], {"pruned": np.full((7, 40), 2**63, np.uint64)}, "give ids from 0 without gaps, or --names"),
        ([], {"pruned": np.zeros((7, 40, 3))}, "sum to 1"),
        ([], {"pruned": np.full((7, 40, 3), np.nan)}, "sum to 1"),
        ([], {"pruned": as_probabilities(np.zeros((7, 40), int)), "labels": LABELS + 1}, "class id 3"),
        ([], {"dense": np.array([["a"] * 40])}, "--dense dense.npy: shape (1, 40), <U1"),
        (["--pruned", "words.npy"], {}, "words.npy is not a .npy file of numbers"),
        (["--pruned", "damaged.npy"], {}, "damaged.npy is not a .npy file of numbers"),
        (["--pruned", "missing.npy"], {}, "--pruned missing.npy is not a file"),
        (["--pruned", "fifo.npy"], {}, "fifo.npy is not a file"),
        (["--pruned", "x/pruned.npy"], {}, "two files of --pruned have the same name"),
        (["--names", "words.npy"], {}, "class id 2"),
        (["--images", "."], {}, "0 images, the arrays have 40"),
    ],
)
def test_other_arrays_are_refused_in_one_line(arrays, capsys, tmp_path, flags, changed, words):
    (tmp_path / "words.npy").write_text("word")
    np.save(tmp_path / "damaged.npy", LABELS)
    content = (tmp_path / "damaged.npy").read_bytes()
    (tmp_path / "damaged.npy").write_bytes(content.replace(b")", b" "))
    os.mkfifo(tmp_path / "fifo.npy")
    assert arrays(*flags, **changed) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and words in said and not (tmp_path / "predictions").exists()
