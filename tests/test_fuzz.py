"""Random and spoilt input where examples do not reach: bytes of images, names of files, JSONs."""

import io
import json
import math
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common import comparison, data, methods
from common.cli import UserError
from common.store import table
from common.store.checkpoints import differing_code
from common.store.names import CheckpointName, parse_name
from common.store.files import read_object
from common.store.populations import Member, Population, recorded_command
from figures.report import page

FORMATS = {"PNG": "RGBA", "JPEG": "CMYK", "GIF": "P", "BMP": "L", "TIFF": "F", "WEBP": "RGB", "PPM": "1"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("format, mode", FORMATS.items())
def test_spoilt_bytes_are_read_as_an_image_or_refused(tmp_path, monkeypatch, format, mode):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)  # no large memory for sizes made of spoilt bytes
    rng, file, path, refused = random.Random(0), io.BytesIO(), tmp_path / "image", 0
    Image.effect_noise((9, 8), 80).convert(mode).save(file, format)
    for case in range(60):
        content = bytearray(file.getvalue())
        for _ in range(case % 6):
            content[rng.randrange(len(content))] = rng.randrange(256)
        path.write_bytes(content[: rng.randrange(len(content)) if case % 2 else None])
        try:
            with data.open_image(path) as image:
                pixels = np.asarray(data.upright(image))
        except UserError as error:
            refused += 1
            assert "image is not a readable image" in str(error) and "\n" not in str(error)
        else:
            assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
    assert 10 < refused


def random_name(rng):
    schedule = rng.choice(["dense", "one-shot", "early", "late", "iterative"])
    criterion, method = rng.choice(sorted(methods.CRITERIA)), methods.PruningMethod(schedule)
    scope = "layer" if methods.is_filter_criterion(criterion) else rng.choice(methods.SCOPES)
    if schedule != "dense":
        method = methods.PruningMethod(schedule, criterion, scope)
    if schedule == "iterative":
        after = rng.choice(methods.AFTER)
        epoch = rng.randrange(2**31) if after in methods.REWOUND else 0
        method = replace(method, rate=rng.uniform(0.01, 0.99), after=after, rewind_epoch=epoch)
    assert methods.parse_method(str(method)) == method
    facts = str(method), 0.0 if schedule == "dense" else rng.random(), rng.randrange(2**31), rng.randrange(10)
    if rng.random() < 0.5:
        shape = {"widen_factor": rng.randrange(1, 99), "depth": rng.randrange(999), "dropout": rng.random()}
        return CheckpointName("supervised", "supervised", *facts, **shape)
    encoder = rng.choice(
        ["a_encoder", "x_head_SupCon_0.3pruning", "wideResNet", "x.pt", "a_id0.pt", "W-10-1"]
    )
    sizes = {"encoder_name": encoder, "batch_size": rng.randrange(2**31)}
    sizes["temperature"] = math.exp(rng.gauss(0, 40))
    return CheckpointName(rng.choice(["encoder", "head"]), rng.choice(["SupCon", "SimCLR"]), *facts, **sizes)


def test_every_checkpoint_is_read_back_from_its_name_and_a_spoilt_name_is_no_other():
    rng = random.Random(0)
    for _ in range(500):
        text = str(name := random_name(rng))
        assert parse_name(text) == name
        place, part = (
            rng.randrange(len(text)),
            rng.choice([*"_.-09aG+ \n\0٣", "pruning", "_global", ".pt", ""]),
        )
        spoilt = parse_name(text[:place] + part + text[place + 1 :])
        assert spoilt is None or parse_name(str(spoilt)) == spoilt


RUNS = {"commands": ["a.py --b 'c d'"], "devices": ["cpu"], "versions": ["torch 2"], "days": ["2024-05-01"]}
RUNS |= {"seeds": [0, 1], "seconds": 1.5, "networks": 2, "made_elsewhere": 0, "analysis": "a.py"}
RECORD = {
    "checkpoint_sha256": "sum",
    "configuration": {"epochs": 2, "batch_size": 8, "lr_milestones": [5], "dense": {"epochs": 3}},
    "history": [{"epoch": 0, "loss": 1.5}],
    "code": {"models": "sum"},
    "data": {"checksum": "sum", "class_names": ["a"], "horizontal_flip": True},
    "sparsity": {"zeros": 3},
    "seed": 0,
    "accuracy_as_pruned": 0.5,
    "movement": {"fc.weight": 0.1},
    "run": {"command": "a.py", "seconds": 1.5, "threads": 1, "written": "2024", "versions": {"torch": "2"}},
}
ROW = {"learning_method": "supervised", "pruning_method": "global", "sparsity": 0.9, "population": "sum"}
ROW |= {"models": 2, "accuracy_mean": 0.5, "accuracy_std": None, "pies": 3, "origin": "made here"}
WRONG = [None, True, -1, 1.5, "text", "an 'open one", [], {}, [[]], {"a": 1}, [None]]
WRONG_TEXTS = ["1" + "0" * 400, "NaN", "-Infinity", "1e999", '"\\ud800"', '"\\udcff"']
WRONG_TEXTS += ["[" * 2000 + "]" * 2000, '{"a":' * 2000 + "1" + "}" * 2000, *map(json.dumps, WRONG)]


def spoilt(content, whole=None):
    """The text of a JSON with every node in turn other, each of `WRONG_TEXTS`, left out, or there twice."""
    whole = content if whole is None else whole
    for key in list(content) if isinstance(content, dict) else range(len(content)):
        kept = content[key]
        for text in WRONG_TEXTS:
            content[key] = "here"
            yield json.dumps(whole).replace('"here"', text)
            if isinstance(content, dict):
                yield json.dumps(whole).replace('"here"', f"1, {json.dumps(key)}: {text}")
        content[key] = kept
        if isinstance(kept, dict | list):
            yield from spoilt(kept, whole)
        if isinstance(content, dict):
            del content[key]
            yield json.dumps(whole)
            content[key] = kept


def use_record(record):
    path = Path("wideResNet-1_global_0.9pruning_1epochs_10depth_0.0dropout_id0.pt")
    member = Member((path,), (parse_name(path.name),), (record,), ("sum",))
    population = Population("supervised", "global", 0.9, (member,))
    assert str(population) and comparison.runs(population)["networks"] == 1
    assert isinstance(population.unpublished, dict) and isinstance(recorded_command(record), list)
    differing_code(record.get("code"))


def use_runs(runs):
    assert page.made_line(ROW | {"unpublished": ""} | runs)


def use_row(row):
    if table.is_row(row):
        assert table.format_table([row])


@pytest.mark.parametrize(
    "kind, content, use", [("record", RECORD, use_record), ("runs", RUNS, use_runs), ("row", ROW, use_row)]
)
def test_a_spoilt_json_is_refused_or_can_be_used(kind, content, use):
    refused = taken = 0
    for text in spoilt(content):
        try:
            stored = read_object(text, kind)
        except ValueError:
            refused += 1
        else:
            taken += 1
            use(stored)
    assert min(refused, taken) > 20 and read_object(json.dumps(content), kind) == content
