"""Random and spoilt input where examples do not reach: bytes of images, names of files."""

import io
import math
import random
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from common import data, methods
from common.cli import UserError
from common.store.names import CheckpointName, parse_name

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
