"""Loaders, names and pure functions under random and extreme input: against slow versions, exact counts,
bounds and symmetries."""

import dataclasses
import io
import itertools
import json
import math
import os
import tempfile
from collections import Counter
from fractions import Fraction
from pathlib import Path

import hypothesis.configuration
import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from common import augment, comparison, data, losses, methods, metrics, pruning
from common.cli import UserError
from common.store import table
from common.store.checkpoints import differing_code
from common.store.names import CheckpointName, parse_name
from common.store.files import read_object
from common.store.populations import Member, Population, recorded_command
from figures.report import page, similarity

# Its caches: not into the repository.
hypothesis.configuration.set_hypothesis_home_dir(tempfile.gettempdir() + "/hypothesis")
FUZZ = settings(derandomize=True, deadline=None, max_examples=60, database=None)

seeds = st.integers(0, 2**32 - 1)
shares = st.one_of(st.sampled_from([0.0, 1e-300, 1e-12, 0.5, 1 - 1e-12, 1.0]), st.floats(0, 1))
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


def same(one, other, tolerance=1e-9):
    np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


# Folders of images

MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F")
FORMATS = {
    "png": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "jpeg": ("L", "RGB", "CMYK"),
    "gif": ("1", "L", "P", "RGB", "RGBA"),
    "bmp": ("1", "L", "P", "RGB", "RGBA"),
    "tiff": MODES,
    "webp": ("L", "RGB", "RGBA"),
    "ppm": ("1", "L", "RGB", "I;16"),
}
image_kinds = st.sampled_from([(format, mode) for format, modes in FORMATS.items() for mode in modes])
READABLE = [*itertools.product(["png", "bmp"], ["1", "L", "RGB"])]
READABLE += [("gif", "P"), ("tiff", "RGBA"), ("png", "LA")]
file_names = st.one_of(
    st.sampled_from(
        ["0", "-x", "a b.PNG", "*.png", "[a]", "~", "x" * 200, "日本.jpg", "ü\n.png"]
        + ["$HOME", "a.txt", ".hidden", "..png", "\udcff.gif"]
    ),
    st.text(
        st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=20
    ).filter(lambda name: name not in (".", "..")),
)


def image_bytes(format, mode, width, height, seed, constant):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    if constant:
        pixels[:] = pixels[0, 0]
    if mode == "I;16":
        image = Image.fromarray(pixels.astype(np.uint16) * 257)
    else:
        image = Image.fromarray(pixels).convert(mode)
    file = io.BytesIO()
    image.save(file, format)
    return file.getvalue()


@st.composite
def spoilt_bytes(draw):
    """An image cut off, with other bytes here and there, or no image at all."""
    format, mode = draw(image_kinds)
    content = bytearray(image_bytes(format, mode, 9, 8, draw(seeds), False))
    for place, value in draw(st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=6)):
        content[place % len(content)] = value
    cut = draw(st.one_of(st.none(), st.integers(0, len(content))))
    return draw(st.one_of(st.just(bytes(content[:cut])), st.binary(max_size=50)))


@st.composite
def image_folders(draw):
    """{path: bytes} of train/ and test/: mostly of one size, and mostly of two classes or more."""
    size = draw(st.tuples(*[st.sampled_from([1, 7, 8, 9, 16, 33])] * 2))
    class_names = draw(st.lists(file_names, min_size=1, max_size=3, unique=True))
    files = {}
    for part, class_name in itertools.product(("train", "test"), class_names):
        for name in draw(st.lists(file_names, min_size=part == "train", max_size=3, unique=True)):
            width, height = draw(
                st.one_of(st.just(size), st.just(size), st.just(size), st.tuples(*[st.integers(1, 20)] * 2))
            )
            files[f"{part}/{class_name}/{name}"] = image_bytes(
                *draw(image_kinds), width, height, draw(seeds), draw(st.booleans())
            )
    return files


def write_files(root, files):
    for name, content in files.items():
        path = os.fsencode(root / name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content)


def check_dataset(dataset):
    assert len(dataset.class_names) >= 2 and len(dataset.checksum) == 64
    for images, labels in (
        (dataset.train_images, dataset.train_labels),
        (dataset.test_images, dataset.test_labels),
    ):
        assert images.dtype == torch.uint8 and images.ndim == 4 and images.shape[1] == 3
        assert min(images.shape[2:]) >= 8
        assert labels.dtype == torch.int64 and len(labels) == len(images) > 0
        assert 0 <= labels.min() and labels.max() < len(dataset.class_names)
    assert dataset.train_images.shape[1:] == dataset.test_images.shape[1:]
    assert set(dataset.train_labels.tolist()) == set(range(len(dataset.class_names)))
    assert all(0 <= value <= 1 for value in dataset.mean) and all(0 < value <= 1 for value in dataset.std)


def load(files):
    """The data set of these files, or the UserError that refused them; any other exception goes on."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "pets"
        root.mkdir()
        write_files(root, files)
        try:
            return data.load_dataset("folder", str(root))
        except UserError as error:
            return error


@FUZZ
@given(image_folders())
def test_a_folder_of_images_gives_a_valid_data_set_or_is_refused(files):
    loaded = load(files)
    if isinstance(loaded, UserError):
        return
    check_dataset(loaded)
    seen = [name for name in files if not any(word.startswith(".") for word in name.split("/"))]
    assert len(loaded.train_images) + len(loaded.test_images) == len(seen)
    assert loaded.checksum == load(files).checksum


@FUZZ
@given(
    st.lists(st.sampled_from(READABLE), min_size=4, max_size=8),
    st.integers(8, 20),
    st.integers(8, 20),
    st.booleans(),
)
def test_a_folder_of_readable_images_of_one_size_is_never_refused(kinds, width, height, constant):
    files = {
        f"{part}/{'ab'[index % 2]}/{index}": image_bytes(*kind, width, height, index, constant)
        for part in ("train", "test")
        for index, kind in enumerate(kinds)
    }
    loaded = load({**files, "train/a/.hidden": b"", "test/.hidden/0": b""})
    check_dataset(loaded)
    order = [*range(0, len(kinds), 2), *range(1, len(kinds), 2)]
    assert loaded.train_labels.tolist() == [index % 2 for index in order]
    for image, index in zip(loaded.train_images, order):
        raw = np.asarray(Image.open(io.BytesIO(files[f"train/{'ab'[index % 2]}/{index}"])).convert("RGB"))
        np.testing.assert_array_equal(image.permute(1, 2, 0), raw)


@pytest.mark.filterwarnings("ignore")
@settings(FUZZ, max_examples=300)
@given(spoilt_bytes())
def test_spoilt_bytes_are_read_as_an_image_or_refused(content):
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as place:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)  # no large memory for sizes made of spoilt bytes
        path = Path(place) / "image"
        path.write_bytes(content)
        try:
            with data.open_image(path) as image:
                pixels = np.asarray(data.upright(image))
        except UserError as error:
            assert "image is not a readable image" in str(error) and "\n" not in str(error)
        else:
            assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3


@pytest.mark.parametrize(
    "error",
    [
        SyntaxError("broken PNG file"),
        RuntimeError("Failed to decode"),
        NotImplementedError("pixel format"),
        EOFError("no more"),
        IndexError("list index out of range"),
        MemoryError(),
        OSError("truncated\nfile"),
    ],
)
def test_whatever_the_decoder_raises_is_one_line_for_the_user(error, tmp_path, monkeypatch):
    def broken(path, formats):
        raise error

    monkeypatch.setattr(Image, "open", broken)
    (tmp_path / "a.png").touch()
    with pytest.raises(UserError, match="a.png is not a readable image") as refused:
        with data.open_image(tmp_path / "a.png"):
            pass
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("format, mode", [("png", "I;16"), ("tiff", "I;16"), ("tiff", "I"), ("tiff", "F")])
def test_an_image_of_more_than_8_bits_a_channel_is_refused_not_clipped_to_white(format, mode):
    files = {
        f"{part}/{name}/0": image_bytes(format, mode, 9, 8, 0, False)
        for part in ("train", "test")
        for name in "ab"
    }
    loaded = load(files)
    assert isinstance(loaded, UserError) and "8 bits" in str(loaded)


@FUZZ
@given(
    hnp.arrays(
        np.uint8,
        hnp.array_shapes(min_dims=3, max_dims=3, max_side=6),
        elements=st.sampled_from([0, 1, 127, 254, 255]),
    )
)
def test_channel_statistics_are_those_of_the_pixels_or_1_without_spread(pixels):
    images = torch.from_numpy(np.stack([pixels, np.roll(pixels, 1), np.full_like(pixels, pixels.flat[0])], 1))
    mean, std = data.channel_statistics(images)
    scaled = images.numpy().astype(np.float64) / 255
    same(mean, scaled.mean((0, 2, 3)), 1e-6)
    spread = scaled.std((0, 2, 3))
    same(std, np.where(spread > 1e-9, spread, 1), 1e-6)
    assert std[2] == 1


# PIEs, Q-Score, prediction depth


@st.composite
def populations(draw, count=1):
    """(num_classes, predictions ...): `count` populations over the same images."""
    classes, images = draw(st.integers(1, 5)), draw(st.integers(0, 8))
    dtype = draw(st.sampled_from([np.int8, np.uint8, np.int16, np.int32, np.int64]))
    return classes, *(
        draw(hnp.arrays(dtype, (draw(st.integers(1, 6)), images), elements=st.integers(0, classes - 1)))
        for _ in range(count)
    )


def slow_modal(predictions, classes):
    votes = [Counter(column.tolist()) for column in predictions.T]
    labels = [max(range(classes), key=lambda label: (vote[label], -label)) for vote in votes]
    return labels, [
        sum(vote[other] == vote[label] for other in range(classes)) > 1 for vote, label in zip(votes, labels)
    ]


@FUZZ
@given(populations(), seeds)
def test_modal_labels_equal_a_slow_count_in_any_order_of_models_and_images(population, seed):
    classes, predictions = population
    labels, tied = metrics.modal_labels(predictions, classes)
    assert (labels.tolist(), tied.tolist()) == slow_modal(predictions, classes)
    assert labels.dtype == np.int64 and tied.dtype == bool
    rng = np.random.default_rng(seed)
    models, images = rng.permutation(len(predictions)), rng.permutation(predictions.shape[1])
    again, again_tied = metrics.modal_labels(predictions[models][:, images], classes)
    assert (again == labels[images]).all() and (again_tied == tied[images]).all()
    counts = metrics.vote_counts(predictions, classes)
    assert counts.shape == (predictions.shape[1], classes) and (counts.sum(1) == len(predictions)).all()


@FUZZ
@given(populations(), st.sampled_from([-128, -1, 0, 1, 50]), st.data())
def test_predictions_outside_the_classes_or_of_a_wrong_shape_are_refused(population, beyond, draws):
    classes, predictions = population
    predictions = predictions.astype(np.int64)
    for wrong in (predictions[0], predictions[:0], predictions[None]):
        with pytest.raises(ValueError, match="shape"):
            metrics.modal_labels(wrong, classes)
    if predictions.size:
        predictions.flat[draws.draw(st.integers(0, predictions.size - 1))] = (
            beyond if beyond < 0 else classes + beyond
        )
        with pytest.raises(ValueError, match="between 0"):
            metrics.find_pies(predictions, predictions, classes)


@FUZZ
@given(populations(count=2), st.integers(1, 4), seeds)
def test_pies_are_where_slow_modal_labels_differ(population, times, seed):
    classes, dense, pruned = population
    is_pie = metrics.find_pies(dense, pruned, classes)
    assert is_pie.tolist() == [
        one != other for one, other in zip(slow_modal(dense, classes)[0], slow_modal(pruned, classes)[0])
    ]
    assert (metrics.find_pies(pruned, dense, classes) == is_pie).all()
    assert (metrics.find_pies(np.tile(dense, (times, 1)), pruned, classes) == is_pie).all(), (
        "every model counted as often changes no vote"
    )
    assert not metrics.find_pies(dense, dense, classes).any()
    labels = np.random.default_rng(seed).integers(0, classes, len(is_pie))
    counts = metrics.pies_per_class(is_pie, labels, classes)
    assert counts.tolist() == [
        sum(1 for pie, label in zip(is_pie, labels) if pie and label == one) for one in range(classes)
    ]


latent_values = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.1, 3e38, -3e38, 1e-45, -1e-40]), st.floats(-100, 100, width=32)
)
latents = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=7), elements=latent_values
)


@FUZZ
@given(latents, st.sampled_from([0.0, 0.1, 7.0]), seeds)
def test_q_scores_are_defined_where_dimensions_differ_and_keep_their_bounds(latent, constant, seed):
    latent = np.concatenate([latent, np.full((2, latent.shape[1]), constant, np.float32)])
    latent[-1, 0] = np.nextafter(latent[-1, 0], np.float32(10))  # the smallest spread that float32 can have
    found = metrics.q_scores(latent)
    zero, equal = (latent == 0).all(1), (latent == latent[:, :1]).all(1)
    assert (np.isnan(found["l1_norm"]) == zero).all()
    assert (np.isnan(found["z_score"]) == equal).all() and (np.isnan(found["q_score"]) == equal).all()
    dimensions = latent.shape[1]
    l1_norm, z_score = found["l1_norm"][~zero], found["z_score"][~equal]
    assert (l1_norm > 1 - 1e-9).all() and (l1_norm < math.sqrt(dimensions) + 1e-9).all()
    assert (z_score > 0).all() and (z_score < math.sqrt(dimensions - 1) + 1e-6).all(), (
        "one of n numbers is at most sqrt(n - 1) deviations off"
    )
    same(found["q_score"], found["z_score"] / found["l1_norm"])
    shuffled = metrics.q_scores(latent[:, np.random.default_rng(seed).permutation(dimensions)])
    scaled = metrics.q_scores(latent.astype(np.float64) * 1024)
    for name, values in found.items():
        assert values.dtype == np.float64
        same(shuffled[name], values, 1e-5)
        same(scaled[name], values, 1e-12)


@pytest.mark.filterwarnings("ignore:invalid value")
@FUZZ
@given(latents, st.sampled_from([math.inf, -math.inf, math.nan]), st.data())
def test_a_latent_that_is_not_finite_has_no_q_score_and_spoils_no_other(latent, value, draws):
    row, column = (draws.draw(st.integers(0, side - 1)) for side in latent.shape)
    spoilt = latent.copy()
    spoilt[row, column] = value
    whole, found = metrics.q_scores(latent), metrics.q_scores(spoilt)
    for name, values in found.items():
        assert np.isnan(values[row])
        same(np.delete(values, row), np.delete(whole[name], row), 1e-12)


@pytest.mark.filterwarnings("ignore:invalid value")
@FUZZ
@given(
    hnp.arrays(
        np.float64,
        hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=6),
        elements=st.one_of(st.sampled_from([math.nan, math.inf, -math.inf, 0.0]), st.floats(-1e6, 1e6)),
    )
)
def test_the_mean_over_defined_values_is_that_of_the_others(values):
    found = metrics.mean_over_defined(values)
    for column, mean in zip(values.T, found, strict=True):
        defined = [value for value in column.tolist() if not math.isnan(value)]
        if math.inf in defined and -math.inf in defined or not defined:
            assert math.isnan(mean)
        else:
            assert mean == pytest.approx(sum(defined) / len(defined), rel=1e-12, abs=1e-9)


def possible_winners(distances, labels, classes, k):
    """The classes that may win the vote of the k nearest, where distances nearly equal to the k-th may come
    in any order."""
    nearest = np.sort(distances)[k - 1]
    slack = 1e-4 * (1 + nearest)
    certain = np.bincount(labels[distances < nearest - slack], minlength=classes)
    maybe = np.bincount(labels[np.abs(distances - nearest) <= slack], minlength=classes)
    winners = set()
    for chosen in itertools.product(*(range(count + 1) for count in maybe)):
        if sum(chosen) == k - certain.sum():
            winners.add(int((certain + np.array(chosen)).argmax()))
    return winners


@FUZZ
@given(
    st.tuples(st.integers(1, 12), st.integers(0, 6), st.integers(1, 3), st.integers(1, 3)),
    st.sampled_from([1, 3, 50]),
    st.sampled_from([0, 10_000]),
    seeds,
    st.data(),
)
def test_knn_labels_win_a_slow_vote_for_any_chunk(sizes, reach, offset, seed, draws):
    train_count, test_count, dimensions, classes = sizes
    k, rng = draws.draw(st.integers(1, train_count)), np.random.default_rng(seed)
    train, test = (
        rng.integers(-reach, reach + 1, (count, dimensions)) + offset for count in (train_count, test_count)
    )
    labels = rng.integers(0, classes, train_count)
    for chunk in (1, 4 * train_count * 2, 2**24):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(metrics, "CHUNK_BYTES", chunk)
            points = [torch.tensor(values, dtype=torch.float32) for values in (train, test)]
            points[1] = points[1].reshape(test_count, dimensions)
            found = metrics.knn_labels(points[0], torch.tensor(labels), points[1], classes, k)
        assert found.shape == (test_count,) and found.dtype == torch.int64
        for point, label in zip(test, found.tolist()):
            assert label in possible_winners(((train - point) ** 2).sum(1), labels, classes, k)


@FUZZ
@given(st.integers(1, 10), st.integers(1, 4), st.sampled_from([math.nan, math.inf, -math.inf, 3e38]), seeds)
def test_knn_labels_are_classes_whatever_the_points_and_too_few_are_refused(count, classes, value, seed):
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(count, 3, generator=generator)
    points[torch.rand(count, 3, generator=generator) < 0.3] = value
    labels = torch.randint(0, classes, (count,), generator=generator)
    found = metrics.knn_labels(points, labels, points, classes, count)
    assert (found == torch.bincount(labels, minlength=classes).argmax()).all(), (
        "where all are neighbours, places do not matter"
    )
    assert set(metrics.knn_labels(points, labels, points, classes, 1).tolist()) <= set(labels.tolist())
    with pytest.raises(ValueError, match="neighbours"):
        metrics.knn_labels(points, labels, points, classes, count + 1)


@FUZZ
@given(st.integers(1, 6), st.integers(0, 8), st.integers(1, 3), seeds)
def test_depths_equal_slow_walks_and_differ_only_where_all_places_agree(places, images, classes, seed):
    rng = np.random.default_rng(seed)
    knn, labels = rng.integers(0, classes, (places, images)), rng.integers(0, classes, images)
    depth, label_depth = metrics.prediction_depth(knn, labels), metrics.label_prediction_depth(knn, labels)
    for image in range(images):
        agree = [knn[place, image] == labels[image] for place in range(places)]
        assert depth[image] == next(first for first in range(places + 1) if all(agree[first:]))
        assert label_depth[image] == max([1, *(place + 1 for place in range(places) if not agree[place])])
    assert ((depth == label_depth) | ((depth == 0) & (label_depth == 1))).all()
    assert (
        metrics.prediction_depth(np.concatenate([knn, knn]), labels) == np.where(depth > 0, depth + places, 0)
    ).all()


# Pruning

score_values = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, 2.0, math.inf, math.nan]), st.floats(-5, 5, width=32)
)
tensor_shapes = st.one_of(
    st.tuples(st.integers(1, 8)), st.tuples(*[st.integers(1, 4)] * 2), st.tuples(*[st.integers(1, 3)] * 4)
)


@st.composite
def score_dicts(draw, values=score_values):
    shapes = draw(st.lists(tensor_shapes, min_size=1, max_size=4))
    return {
        f"layer{index}": torch.from_numpy(draw(hnp.arrays(np.float32, shape, elements=values)))
        for index, shape in enumerate(shapes)
    }


def slow_mask(scores, sparsity):
    """A list of 0 and 1: the round(sparsity * n) lowest, the earlier first, numbers that are none last."""
    numbers = [(math.isnan(score), 0 if math.isnan(score) else score) for score in scores]
    order = sorted(range(len(scores)), key=lambda index: (numbers[index], index))
    pruned = set(order[: round(sparsity * len(scores))])
    return [0.0 if index in pruned else 1.0 for index in range(len(scores))]


def asked_zeros(shapes, sparsity, scope, criterion):
    """Groups of tensors, and the number of zeros in each: all together, each tensor, or each convolution."""
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    if methods.is_filter_criterion(criterion):
        filters = {name: shape[0] for name, shape in shapes.items() if len(shape) == 4}
        return {(name,): round(sparsity * n) * sizes[name] // n for name, n in filters.items()}
    if scope == "layer":
        return {(name,): round(sparsity * size) for name, size in sizes.items()}
    return {tuple(sizes): round(sparsity * sum(sizes.values()))}


def zeros_by_group(masks, groups):
    return {names: sum(int((masks[name] == 0).sum()) for name in names) for names in groups}


@FUZZ
@given(score_dicts(), shares)
def test_global_and_layer_masks_equal_a_slow_sort(scores, sparsity):
    flat = slow_mask([value for score in scores.values() for value in score.flatten().tolist()], sparsity)
    by_layer = [kept for score in scores.values() for kept in slow_mask(score.flatten().tolist(), sparsity)]
    for found, expected in (
        (pruning.global_masks(scores, sparsity), flat),
        (pruning.layer_masks(scores, sparsity), by_layer),
    ):
        assert [value for mask in found.values() for value in mask.flatten().tolist()] == expected
        assert {name: mask.shape for name, mask in found.items()} == {
            name: score.shape for name, score in scores.items()
        }


@FUZZ
@given(score_dicts(), shares)
def test_filter_masks_prune_the_lowest_filters_whole_and_no_linear_layer(scores, sparsity):
    for name, mask in pruning.filter_masks(scores, sparsity).items():
        score = scores[name]
        assert mask.shape == score.shape
        highest = [
            math.nan if score[row].isnan().any() else score[row].max().item() for row in range(len(score))
        ]
        kept = slow_mask(highest, sparsity) if score.ndim == 4 else [1.0] * len(score)
        for row, expected in enumerate(kept):
            assert (mask[row] == expected).all()


@FUZZ
@given(
    score_dicts(st.one_of(st.sampled_from([0.0, 1.0, math.inf, math.nan]), st.floats(-5, 5, width=32))),
    st.lists(shares, min_size=1, max_size=4),
    st.sampled_from(methods.SCOPES),
    st.sampled_from(sorted(methods.CRITERIA)),
    seeds,
)
def test_masks_of_growing_sparsity_keep_what_is_pruned_and_have_exactly_the_asked_zeros(
    scores, sparsities, scope, criterion, seed
):
    shapes, masks = {name: score.shape for name, score in scores.items()}, {}
    generator = torch.Generator().manual_seed(seed)
    for sparsity in sorted(sparsities):
        before, masks = masks, pruning.next_masks(scores, sparsity, scope, criterion, masks)
        asked = asked_zeros(shapes, sparsity, scope, criterion)
        assert zeros_by_group(masks, asked) == asked
        counted = {name for names in asked for name in names}
        assert all((masks[name] == 1).all() for name in set(masks) - counted)
        assert all((masks[name] <= mask).all() for name, mask in before.items()), "nothing comes back"
        again = pruning.next_masks(scores, sparsity, scope, criterion, masks)
        assert all(torch.equal(again[name], mask) for name, mask in masks.items()), (
            "pruning twice to one sparsity prunes once"
        )
        scores = {
            name: score[torch.randperm(len(score), generator=generator)] for name, score in scores.items()
        }


@FUZZ
@given(st.integers(-30, 200), st.integers(0, 200), st.integers(1, 250), shares)
def test_gradual_sparsities_never_fall_and_end_at_the_asked_one(begin, length, frequency, sparsity):
    found = pruning.GradualPruning(sparsity, begin, begin + length, frequency).sparsities()
    steps = {
        step
        for step in range(begin, begin + length + 1)
        if (step - begin) % frequency == 0 or step == begin + length
    }
    assert set(found) == {step for step in steps if step >= 1} and list(found) == sorted(found)
    values = list(found.values())
    assert all(0 <= one <= other for one, other in zip(values, values[1:]))
    if begin + length >= 1:
        assert found[begin + length] == sparsity
    if length and begin >= 1:
        assert found[begin] == 0
    for step, value in found.items():
        share = 1 - (1 - Fraction(step - begin, length)) ** 3 if length else 1
        exact = Fraction(sparsity) * share
        assert value == pytest.approx(float(exact), rel=1e-9, abs=1e-12)


def small_network(channels, filters, outputs, generator, zeros):
    """A convolution, batch norm and a linear layer, with that share of zeros of either sign."""
    network = nn.Sequential(
        nn.Conv2d(channels, filters, 3, bias=False),
        nn.BatchNorm2d(filters),
        nn.Flatten(),
        nn.Linear(filters, outputs),
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
            parameter[torch.rand(parameter.shape, generator=generator) < zeros / 2] = 0.0
            parameter[torch.rand(parameter.shape, generator=generator) < zeros / 2] = -0.0
    return network


@FUZZ
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), shares, shares, seeds)
def test_measured_sparsity_equals_a_slow_count_before_and_after_pruning(
    channels, filters, outputs, zeros, sparsity, seed
):
    network = small_network(channels, filters, outputs, torch.Generator().manual_seed(seed), zeros)
    network[3].bias.data[0] = math.nan
    for _ in range(2):
        found = pruning.measure_sparsity(network)
        counts = {
            name: (sum(value == 0 for value in tensor.flatten().tolist()), tensor.numel())
            for name, tensor in network.state_dict().items()
            if name in ("0.weight", "3.weight", "3.bias")
        }
        assert (found["zeros"], found["counted"]) == tuple(map(sum, zip(*counts.values())))
        assert found["total"] == found["zeros"] / found["counted"]
        assert found["per_tensor"] == {name: count / size for name, (count, size) in counts.items()}
        (a, n), (b, m) = counts["0.weight"], counts["3.weight"]
        assert found["weights_only"] == (a + b) / (n + m)
        scores = {
            name: weight.detach().abs() for name, weight in pruning.prunable_parameters(network).items()
        }
        asked, before = round(sparsity * found["counted"]), found["zeros"]
        masks = pruning.global_masks(scores, min(sparsity, 1 - 1 / found["counted"]))
        pruning.apply_masks(network, masks)  # NaN is kept: it cannot be masked
        after = pruning.measure_sparsity(network)["zeros"]
        assert after == max(before, min(asked, found["counted"] - 1)), (
            "zeros are the lowest magnitudes: they are pruned first"
        )
        assert all(
            ((mask == 0) == (network.state_dict()[name] == 0)).all()
            for name, mask in pruning.masks_of(network).items()
        )


@FUZZ
@given(
    score_dicts(st.one_of(st.sampled_from([0.0, 1.0]), st.floats(-5, 5, width=32))),
    st.sampled_from([0.0, 1e-6, 1.0, 1e6]),
    shares,
    seeds,
)
def test_weight_movement_is_the_relative_change_of_kept_weights(before, step, density, seed):
    generator = torch.Generator().manual_seed(seed)
    before = {name: torch.where(weight.abs() < 1e-10, 0, weight) for name, weight in before.items()}
    after = {
        name: weight + step * torch.randn(weight.shape, generator=generator)
        for name, weight in before.items()
    }
    masks = {
        name: (torch.rand(weight.shape, generator=generator) < density).float()
        for name, weight in before.items()
    }
    found = pruning.weight_movement(before, after, masks)
    for name, mask in masks.items():
        kept = [
            (a, b)
            for a, b, one in zip(*(tensors[name].flatten().tolist() for tensors in (before, after, masks)))
            if one
        ]
        size = math.sqrt(sum(a * a for a, _ in kept))
        assert (name in found) == (size > 0)
        if size > 0:
            assert found[name] == pytest.approx(
                math.sqrt(sum((b - a) ** 2 for a, b in kept)) / size, rel=1e-4, abs=1e-6
            )
    assert all(value == 0 for value in pruning.weight_movement(before, before, masks).values())


# Losses


def slow_loss(features, labels, temperature, base):
    images, views, _ = features.shape
    anchors = [(image, view) for view in range(views) for image in range(images)]
    total = 0.0
    for one in anchors:
        logits = {
            other: float(features[one] @ features[other]) / temperature for other in anchors if other != one
        }
        highest = max(logits.values())
        log_sum = highest + math.log(sum(math.exp(value - highest) for value in logits.values()))
        positives = [other for other in logits if labels[other[0]] == labels[one[0]]]
        total -= sum(logits[other] - log_sum for other in positives) / max(1, len(positives))
    return temperature / base * total / len(anchors)


@st.composite
def feature_batches(draw):
    """(N, V, D) of unit norm, among them equal and opposite ones, with labels, or None."""
    images, views, dimensions = draw(
        st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 4)).filter(
            lambda shape: shape[0] * shape[1] > 1
        )
    )
    features = torch.randn(
        images, views, dimensions, generator=torch.Generator().manual_seed(draw(seeds)), dtype=torch.float64
    )
    if draw(st.booleans()):
        features = features.sign() * (torch.arange(dimensions) == 0)
    labels = draw(
        st.one_of(st.none(), st.lists(st.integers(0, 3), min_size=images, max_size=images).map(torch.tensor))
    )
    return features / features.norm(dim=-1, keepdim=True), labels


@FUZZ
@given(feature_batches(), st.floats(0.01, 100), st.sampled_from([0.07, 1.0]), seeds)
def test_the_contrastive_loss_equals_slow_loops_in_any_order_and_its_gradient_is_finite(
    batch, temperature, base, seed
):
    features, labels = batch
    inputs = features.float().requires_grad_()
    loss = losses.contrastive_loss(inputs, labels, temperature, base)
    images, views = features.shape[:2]
    expected = slow_loss(
        features, list(range(images)) if labels is None else labels.tolist(), temperature, base
    )
    tolerance = {"rel": 1e-4, "abs": 1e-4 * (1 + temperature) / base}
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(expected, **tolerance)
    assert loss.item() >= -1e-6 * (1 + temperature) / base, "minus the logarithm of a probability"
    loss.backward()
    assert inputs.grad.isfinite().all()
    generator = torch.Generator().manual_seed(seed)
    image_order, view_order = (torch.randperm(count, generator=generator) for count in (images, views))
    others = None if labels is None else 7 - labels[image_order]
    inputs = features.float()[image_order][:, view_order]
    shuffled = losses.contrastive_loss(inputs, others, temperature, base)
    assert shuffled.item() == pytest.approx(expected, **tolerance)


@FUZZ
@given(feature_batches(), st.sampled_from([math.nan, math.inf, 0.0, 1.5, -3.0]), st.data())
def test_features_that_are_not_of_unit_norm_or_shape_are_refused(batch, factor, draws):
    features, labels = batch
    images, views, _ = features.shape
    for wrong in (features[0], features[None], features[:1, :1], features[:0]):
        with pytest.raises(ValueError):
            losses.contrastive_loss(wrong, None, 0.5)
    with pytest.raises(ValueError, match="labels"):
        losses.contrastive_loss(features, torch.zeros(images + 1, dtype=torch.int64), 0.5)
    spoilt = features.clone()
    spoilt[draws.draw(st.integers(0, images - 1)), draws.draw(st.integers(0, views - 1))] *= factor
    with pytest.raises(ValueError, match="unit"):
        losses.contrastive_loss(spoilt, labels, 0.5)


@FUZZ
@given(st.integers(1, 6), st.integers(1, 4), st.floats(0.01, 100), st.sampled_from([0.07, 1.0]))
def test_the_chance_loss_is_that_of_equal_features_grows_with_views_and_needs_two(
    images, views, temperature, base
):
    if images * views < 2:
        with pytest.raises(ValueError):
            losses.chance_contrastive_loss(images * views, temperature, base)
        return
    chance = losses.chance_contrastive_loss(images * views, temperature, base)
    alike = losses.contrastive_loss(
        torch.ones(images, views, 1), torch.zeros(images, dtype=torch.int64), temperature, base
    )
    assert chance == pytest.approx(alike.item(), rel=1e-4, abs=1e-4)
    assert 0 <= chance < losses.chance_contrastive_loss(images * views + 1, temperature, base)


# Augmentation

sides = st.one_of(st.sampled_from([1, 2, 8, 33]), st.integers(1, 40))


def random_images(count, height, width, generator, level):
    """Noise, or, where `level` is a number, one level everywhere."""
    if level is not None:
        return torch.full((count, 3, height, width), level, dtype=torch.uint8)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def check_pixels(views, images):
    """Finite, of the images' shape, and within the normalised [0, 1]."""
    assert views.dtype == torch.float32 and views.shape == images.shape and views.isfinite().all()
    for channel, mean, std in zip(views.unbind(1), MEAN, STD):
        assert channel.min() >= (0 - mean) / std - 1e-5 and channel.max() <= (1 - mean) / std + 1e-5


@FUZZ
@given(
    st.integers(1, 20), st.one_of(sides, st.just(500)), st.one_of(sides, st.just(500)), st.booleans(), seeds
)
def test_drawn_contrastive_parameters_keep_their_bounds(count, height, width, horizontal, seed):
    drawn, again = (
        augment.draw_contrastive(count, height, width, horizontal, torch.Generator().manual_seed(seed))
        for _ in range(2)
    )
    assert all(torch.equal(values, again[name]) and len(values) == count for name, values in drawn.items())
    top, left, box_height, box_width = drawn["box"].unbind(1)
    assert (top >= 0).all() and (box_height >= 1).all() and (top + box_height <= height).all()
    assert (left >= 0).all() and (box_width >= 1).all() and (left + box_width <= width).all()
    assert horizontal or not drawn["flip"].any()
    assert (drawn["hue"].abs() <= 0.1).all()
    kind, factor = drawn["kind"], drawn["factor"]
    assert torch.equal(kind[:, :3].sort(1).values, torch.arange(3).expand(count, 3)) and torch.equal(
        kind[:, :3], kind[:, 3:]
    )
    assert (factor >= 0.6 - 1e-6).all() and (factor <= 1.4 + 1e-6).all()
    assert ((factor[:, :3] == 1) | (factor[:, 3:] == 1)).all(), (
        "every blend before the hue shift or after it, not both"
    )


@FUZZ
@given(st.integers(1, 5), sides, sides, st.sampled_from([None, 0, 255]), st.integers(1, 3), seeds)
def test_contrastive_views_stay_within_the_pixels_and_do_not_depend_on_chunks_or_neighbours(
    count, height, width, level, chunk, seed
):
    generator = torch.Generator().manual_seed(seed)
    images = random_images(count, height, width, generator, level)
    drawn, kept = augment.draw_contrastive(count, height, width, True, generator), images.clone()
    views = augment.contrastive_views(images, drawn, MEAN, STD)
    check_pixels(views, images)
    assert torch.equal(images, kept)
    if level == 0:
        same(views, augment.evaluation_images(images, MEAN, STD), 1e-5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(augment, "CHUNK_PIXELS", chunk * height * width)
        same(augment.contrastive_views(images, drawn, MEAN, STD), views, 1e-5)
    order = torch.randperm(count, generator=generator)
    reordered = {name: values[order] for name, values in drawn.items()}
    same(augment.contrastive_views(images[order], reordered, MEAN, STD), views[order], 1e-5)


@FUZZ
@given(st.integers(1, 5), sides, sides, st.booleans(), st.booleans(), st.sampled_from([None, 0, 255]), seeds)
def test_supervised_views_equal_padding_and_slicing(count, height, width, horizontal, vertical, level, seed):
    generator = torch.Generator().manual_seed(seed)
    images = random_images(count, height, width, generator, level)
    drawn = augment.draw_supervised(count, height, width, horizontal, vertical, generator)
    rows, columns = augment.padding(height), augment.padding(width)
    assert (drawn["offset"] >= 0).all() and (drawn["offset"] <= torch.tensor([2 * rows, 2 * columns])).all()
    assert (horizontal or not drawn["horizontal"].any()) and (vertical or not drawn["vertical"].any())
    views = augment.supervised_views(images, drawn, MEAN, STD)
    check_pixels(views, images)
    for index in range(count):
        padded = np.pad(images[index].numpy(), ((0, 0), (rows, rows), (columns, columns)))
        top, left = drawn["offset"][index].tolist()
        expected = padded[:, top : top + height, left : left + width]
        expected = expected[:, ::-1] if drawn["vertical"][index] else expected
        expected = expected[:, :, ::-1] if drawn["horizontal"][index] else expected
        whole = augment.evaluation_images(torch.from_numpy(expected.copy())[None], MEAN, STD)[0]
        assert torch.equal(views[index], whole)


# Names


@st.composite
def pruning_methods(draw):
    schedule = draw(st.sampled_from(["dense", "one-shot", "early", "late", "iterative"]))
    if schedule == "dense":
        return methods.PruningMethod("dense")
    criterion = draw(st.sampled_from(sorted(methods.CRITERIA)))
    scope = "layer" if methods.is_filter_criterion(criterion) else draw(st.sampled_from(methods.SCOPES))
    if schedule != "iterative":
        return methods.PruningMethod(schedule, criterion, scope)
    after = draw(st.sampled_from(methods.AFTER))
    rate, epoch = draw(st.floats(0.01, 0.99)), draw(st.integers(0, 2**31 - 1)) if after == "rewind" else 0
    return methods.PruningMethod(schedule, criterion, scope, rate, after, epoch)


whole_numbers = st.integers(0, 2**31 - 1)
fractions = st.floats(0, 1, exclude_max=True)
encoder_names = st.one_of(
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,20}", fullmatch=True),
    st.sampled_from(
        ["a_encoder", "x_head_SupCon_0.3pruning", "wideResNet", "wideResNet_0.3pruning_205epochs"]
        + ["x.pt", "a_id0.pt"]
    ),
)


@st.composite
def checkpoint_names(draw):
    method = draw(pruning_methods())
    sparsity = 0.0 if method.schedule == "dense" else draw(fractions.filter(bool))
    facts = (str(method), sparsity, draw(whole_numbers), draw(whole_numbers))
    if draw(st.booleans()):
        shape = {"widen_factor": draw(st.integers(1, 2**31 - 1)), "depth": draw(whole_numbers)}
        return CheckpointName("supervised", "supervised", *facts, dropout=draw(fractions), **shape)
    part = draw(st.sampled_from(["encoder", "head"])), draw(st.sampled_from(["SupCon", "SimCLR"]))
    sizes = {"encoder_name": draw(encoder_names), "batch_size": draw(whole_numbers)}
    temperature = draw(st.floats(0, exclude_min=True, allow_infinity=False))
    return CheckpointName(*part, *facts, temperature=temperature, **sizes)


@settings(FUZZ, max_examples=300)
@given(pruning_methods(), pruning_methods())
def test_every_pruning_method_is_read_back_from_its_name(method, other):
    assert methods.parse_method(str(method)) == method
    assert (str(method) == str(other)) == (method == other)
    assert methods.order(str(method)) and methods.describe(str(method))


@settings(FUZZ, max_examples=300)
@given(checkpoint_names())
def test_every_checkpoint_is_read_back_from_its_name(name):
    assert parse_name(str(name)) == name


@FUZZ
@given(checkpoint_names(), checkpoint_names(), st.data())
def test_names_differ_where_any_fact_does(name, other, draws):
    assert (str(name) == str(other)) == (name == other)
    field = draws.draw(st.sampled_from(["id", "epochs", "sparsity"]))
    changed = dataclasses.replace(name, **{field: getattr(other, field)})
    assert (str(name) == str(changed)) == (name == changed)


@settings(FUZZ, max_examples=200)
@given(
    checkpoint_names(),
    st.lists(
        st.tuples(
            st.integers(0, 200), st.sampled_from(list("_.-09aG+ \n\0٣") + ["pruning", "_global", ".pt"])
        ),
        max_size=3,
    ),
    st.integers(0, 5),
)
def test_a_spoilt_name_is_none_or_another_that_is_read_back(name, inserts, cut):
    text = str(name)
    for place, part in inserts:
        place %= len(text)
        text = text[:place] + part + text[place + 1 :]
    found = parse_name(text[: len(text) - cut])
    assert found is None or parse_name(str(found)) == found


@FUZZ
@given(st.floats(0.01, 0.99), st.integers(0, 200))
def test_iterations_prune_more_and_more_but_never_all_of_it_by_more_than_rounding(rate, iteration):
    one, other = (methods.iteration_sparsity(rate, count) for count in (iteration, iteration + 1))
    assert 0 <= one <= other <= 1 and round(one, 4) == one
    assert abs((1 - other) - (1 - one) * (1 - rate)) <= 1.01e-4


# Similarity


@st.composite
def mask_sets(draw):
    sizes = draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    masks = draw(hnp.arrays(bool, (draw(st.integers(1, 5)), sum(sizes))))
    numbers = st.lists(st.integers(0, 2), min_size=len(masks), max_size=len(masks))
    groups = np.unique(draw(numbers), return_inverse=True)[1]
    return masks, sizes, groups, np.array(draw(numbers))


def slow_jaccard(one, other):
    return (one & other).sum() / (one | other).sum() if (one | other).any() else math.nan


@FUZZ
@given(mask_sets(), seeds)
def test_mask_similarities_equal_slow_pairs_are_symmetric_and_do_not_depend_on_the_order(case, seed):
    masks, sizes, groups, seeds_of = case
    found = similarity.mask_similarity(masks, sizes, groups, seeds_of)
    ends = np.cumsum(sizes)
    parts = [slice(end - size, end) for end, size in zip(ends, sizes)] + [slice(None)]
    counts = similarity.mask_intersections(masks, sizes)
    for one, other in itertools.product(range(len(masks)), repeat=2):
        assert counts[one, other].tolist() == [
            (masks[one, part] & masks[other, part]).sum() for part in parts[:-1]
        ]
    for one, other in itertools.product(range(groups.max() + 1), repeat=2):
        pairs = [
            (a, b)
            for a, b in itertools.product(np.flatnonzero(groups == one), np.flatnonzero(groups == other))
            if a != b
        ]
        for alike, means, number in (
            (True, found.same, found.same_pairs),
            (False, found.different, found.different_pairs),
        ):
            chosen = [(a, b) for a, b in pairs if (seeds_of[a] == seeds_of[b]) == alike]
            assert number[one, other] == len(chosen)
            for layer, part in enumerate(parts):
                values = [slow_jaccard(masks[a, part], masks[b, part]) for a, b in chosen]
                values = [value for value in values if not math.isnan(value)]
                same(means[one, other, layer], np.mean(values) if values else math.nan)
    order = np.random.default_rng(seed).permutation(len(masks))
    shuffled = similarity.mask_similarity(masks[order], sizes, groups[order], seeds_of[order])
    for field in dataclasses.fields(found):
        values = getattr(found, field.name)
        same(values, values.swapaxes(0, 1))
        same(getattr(shuffled, field.name), values)
        assert (
            field.name.endswith("pairs") or (np.isnan(values) | (values >= 0) & (values <= 1 + 1e-12)).all()
        )


@FUZZ
@given(hnp.arrays(bool, hnp.array_shapes(min_dims=4, max_dims=4, max_side=4)))
def test_zero_shares_equal_a_slow_count(mask):
    filters, channels = similarity.zero_shares(mask)
    assert filters == pytest.approx(sum(not one.any() for one in mask) / mask.shape[0])
    assert channels == pytest.approx(
        sum(not mask[:, channel].any() for channel in range(mask.shape[1])) / mask.shape[1]
    )


@FUZZ
@given(st.integers(1, 300), st.data())
def test_chances_equal_exact_fractions(total, draws):
    one, other = (draws.draw(st.integers(0, total)) for _ in range(2))
    part = draws.draw(st.integers(1, total))
    exact = (
        Fraction(math.comb(total - part, one - part), math.comb(total, one)) if one >= part else Fraction(0)
    )
    assert similarity.chance_zero_share(total, one, part) == pytest.approx(float(exact), rel=1e-9, abs=1e-300)
    found = similarity.expected_jaccard(one, other, total)
    if one + other == 0:
        assert math.isnan(found)
        return
    exact = sum(
        Fraction(math.comb(one, k) * math.comb(total - one, other - k), math.comb(total, other))
        * Fraction(k, one + other - k)
        for k in range(max(0, one + other - total), min(one, other) + 1)
    )
    assert found == pytest.approx(float(exact), rel=1e-9, abs=1e-300)
    assert found == pytest.approx(similarity.expected_jaccard(other, one, total), rel=1e-9)


@FUZZ
@given(
    hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=8)),
    st.integers(1, 4),
    seeds,
)
def test_pie_overlaps_equal_python_sets_and_common_and_unique_pies_count_every_image_once(
    is_pie, classes, seed
):
    groups, images = is_pie.shape
    found = similarity.pie_overlap(is_pie)
    sets = [set(np.flatnonzero(row)) for row in is_pie]
    assert found["size"].tolist() == [len(one) for one in sets]
    for g, one in enumerate(sets):
        others = set().union(*(other for h, other in enumerate(sets) if h != g))
        same(found["unique"][g], len(one - others) / len(one) if one else math.nan)
        chance = math.prod(1 - len(other) / images for h, other in enumerate(sets) if h != g)
        same(found["chance_unique"][g], chance if one else math.nan)
        for h, other in enumerate(sets):
            same(found["jaccard"][g, h], len(one & other) / len(one | other) if one | other else math.nan)
            same(found["unique_pair"][g, h], len(one - other) / len(one) if one else math.nan)
            same(found["chance_unique_pair"][g, h], 1 - len(other) / images if one else math.nan)
    labels = np.random.default_rng(seed).integers(0, classes, images)
    counts = similarity.common_and_unique_pies(is_pie, labels, classes)
    assert counts.shape == (groups + 1, classes)
    assert counts.sum(0).tolist() == [(is_pie.any(0) & (labels == one)).sum() for one in range(classes)]
    assert counts[:-1].sum(1).tolist() == [
        len(one - set().union(*(other for h, other in enumerate(sets) if h != g)))
        for g, one in enumerate(sets)
    ]


@FUZZ
@given(populations(), seeds)
def test_recalls_equal_a_slow_count(population, seed):
    classes, predictions = population
    labels = np.random.default_rng(seed).integers(0, classes, predictions.shape[1])
    found = metrics.class_recalls(predictions, labels, classes)
    for model, one in itertools.product(range(len(predictions)), range(classes)):
        right = [predictions[model, image] == one for image in np.flatnonzero(labels == one)]
        same(found[model, one], sum(right) / len(right) if right else math.nan)


shares_of_four = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])
recall_tables = hnp.arrays(np.float64, st.tuples(st.integers(1, 5), st.just(3)), elements=shares_of_four)


@pytest.mark.filterwarnings("ignore")
@FUZZ
@given(recall_tables, recall_tables)
def test_tests_of_equal_means_equal_scipys_and_are_not_defined_without_spread(one, other):
    p = similarity.welch_test(one, other)
    expected = scipy.stats.ttest_ind(one, other, equal_var=False).pvalue
    for column in range(3):
        if min(len(one), len(other)) < 2 or np.ptp(one[:, column]) == np.ptp(other[:, column]) == 0:
            assert np.isnan(p[column])
        else:
            assert p[column] == pytest.approx(expected[column], rel=1e-6, abs=1e-9)
    same(similarity.welch_test(other, one), p)
    rows = min(len(one), len(other))
    one, other = one[:rows], other[:rows]
    p = similarity.paired_test(one, other)
    expected = scipy.stats.ttest_rel(one, other).pvalue
    for column in range(3):
        if rows < 2 or np.ptp((one - other)[:, column]) == 0:
            assert np.isnan(p[column])
        else:
            assert p[column] == pytest.approx(expected[column], rel=1e-6, abs=1e-9)


@FUZZ
@given(st.lists(st.one_of(st.sampled_from([0.0, 1.0, 0.01, math.nan]), st.floats(0, 1)), max_size=8), seeds)
def test_holms_correction_equals_its_definition_and_does_not_depend_on_the_order(values, seed):
    p = np.array(values, dtype=np.float64)
    found, defined = similarity.holm(p), sorted(value for value in values if not math.isnan(value))
    for value, corrected in zip(p, found, strict=True):
        if math.isnan(value):
            assert math.isnan(corrected)
        else:
            last = max(rank for rank, other in enumerate(defined) if other <= value)
            steps = [
                min(1.0, (len(defined) - rank) * other) for rank, other in enumerate(defined[: last + 1])
            ]
            assert corrected == pytest.approx(max(steps)) and value <= corrected <= 1
    order = np.random.default_rng(seed).permutation(len(p))
    same(similarity.holm(p[order]), found[order])


@pytest.mark.filterwarnings("ignore")
@FUZZ
@given(recall_tables, recall_tables, st.floats(-0.5, 0.5), seeds)
def test_compared_recalls_do_not_depend_on_the_order_of_models_or_on_a_common_shift(
    dense, pruned, shift, seed
):
    rng = np.random.default_rng(seed)
    ids = [rng.permutation(6)[: len(table)] for table in (dense, pruned)]

    def compare(dense, dense_ids, pruned, pruned_ids):
        return similarity.compare_recalls(
            similarity.Recalls(dense, dense.mean(1), dense_ids),
            similarity.Recalls(pruned, pruned.mean(1), pruned_ids),
        )

    found = compare(dense, ids[0], pruned, ids[1])
    assert found["paired_models"] == len(set(ids[0]) & set(ids[1]))
    same(found["difference"].sum(), 0)  # relative to the mean over the classes
    orders = [rng.permutation(len(table)) for table in (dense, pruned)]
    for other in (
        compare(dense[orders[0]], ids[0][orders[0]], pruned[orders[1]], ids[1][orders[1]]),
        compare(dense, ids[0], pruned + shift, ids[1]),
    ):
        for name in ("difference", "welch_p", "paired_p", "paired_p_holm"):
            same(other[name], found[name], 1e-6)


# JSONs

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
ROW |= {"models": 2, "accuracy_mean": 0.5, "accuracy_std": None, "pies": 3, "origin": "trained here"}
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
