"""Views: every operation against torchvision on one image at a time, and the distributions of what is
drawn."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as V

from common import augment

SIZES = [(32, 32), (8, 8), (24, 40)]
PADDING = {32: 4, 8: 1, 24: 3, 40: 5}
MEAN, STD = (0.4915, 0.4823, 0.4468), (0.2047, 0.2435, 0.2616)
BLENDS = {0: V.adjust_brightness, 1: V.adjust_contrast, 2: V.adjust_saturation}
DRAWS = 24000
LEAST_P = 1e-3  # the seeds are fixed: a p-value below this is a wrong distribution, not bad luck


def random_images(count, height, width, seed=0):
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def random_bytes(count, height, width, seed=0):
    return torch.randint(
        0, 256, (count, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def assert_near(actual, expected, tolerance=1e-5):
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


def assert_share(flags, probability):
    spread = math.sqrt(probability * (1 - probability) / len(flags))
    assert abs(flags.double().mean().item() - probability) <= 4 * spread


def assert_uniform(values, low, high):
    values = np.asarray(values, dtype=np.float64)
    close = 15 * (high - low) / len(values)  # farther from an end than this once in e^15 times
    assert low <= values.min() <= low + close and high - close <= values.max() <= high
    assert stats.kstest(values, "uniform", (low, high - low)).pvalue > LEAST_P


def assert_equally_likely(values, outcomes):
    values = values.tolist()
    counts = [values.count(outcome) for outcome in outcomes]
    assert sum(counts) == len(values)
    assert stats.chisquare(counts).pvalue > LEAST_P


def one_image_crop(image, box, flip):
    """Crop, resize to the image's own size and flip, as torchvision does it."""
    top, left, height, width = box.tolist()
    view = V.resized_crop(image, top, left, height, width, list(image.shape[-2:]), antialias=True)
    return V.horizontal_flip(view) if flip else view


def jitter_order(parameters, view):
    """[(operation, amount)] in the order in which they act: 0 to 2 as in `kind`, 'hue' the shift; [] without
    jitter."""
    hue = parameters["hue"][view].item()
    if hue == 0:
        return []
    slots = list(zip(parameters["kind"][view].tolist(), parameters["factor"][view].tolist()))
    before, after = (
        [(kind, factor) for kind, factor in part if factor != 1] for part in (slots[:3], slots[3:])
    )
    return before + [("hue", hue)] + after


def one_contrastive_view(image, parameters, view):
    image = one_image_crop(image.float() / 255, parameters["box"][view], parameters["flip"][view])
    for operation, amount in jitter_order(parameters, view):
        image = V.adjust_hue(image, amount) if operation == "hue" else BLENDS[operation](image, amount)
    if parameters["grey"][view]:
        image = V.rgb_to_grayscale(image, num_output_channels=3)
    return V.normalize(image, MEAN, STD)


def one_supervised_view(image, top, left, vertical, horizontal):
    height, width = image.shape[-2:]
    rows, columns = PADDING[height], PADDING[width]
    padded = torch.zeros(3, height + 2 * rows, width + 2 * columns)
    padded[:, rows : rows + height, columns : columns + width] = image.float() / 255
    view = padded[:, top : top + height, left : left + width]
    if vertical:
        view = torch.stack([view[:, row] for row in reversed(range(height))], 1)
    if horizontal:
        view = torch.stack([view[:, :, column] for column in reversed(range(width))], 2)
    return torch.stack([(view[channel] - MEAN[channel]) / STD[channel] for channel in range(3)])


@pytest.fixture(scope="module")
def drawn():
    return augment.draw_contrastive(DRAWS, 32, 32, True, augment.stream("drawn"))


# Pixels


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("height, width", SIZES)
def test_a_resized_crop_equals_torchvisions(height, width, flip):
    boxes = [
        (0, 0, height, width),
        (0, 0, 1, 1),
        (height - 1, width - 1, 1, 1),
        (0, width - 1, 1, 1),
        (height // 2, 3, 1, 1),
        (0, 0, 1, width),
        (height - 1, 0, 1, width),
        (0, 0, height, 1),
        (0, width - 1, height, 1),
        (0, 0, 2, 2),
        (height - 2, width - 2, 2, 2),
        (1, 1, height - 1, width - 1),
        (0, 0, height - 1, width - 1),
    ]
    boxes = torch.cat([torch.tensor(boxes), augment.crop_boxes(30, height, width, augment.stream("boxes"))])
    images = random_images(len(boxes), height, width)
    views = augment.resized_crop(images, boxes, torch.full((len(boxes),), flip))
    for image, box, view in zip(images, boxes, views):
        assert_near(view, one_image_crop(image, box, flip))


def test_each_image_of_a_batch_has_its_own_box_and_flip():
    images = random_images(2, 8, 8)
    whole = torch.tensor([[0, 0, 8, 8], [0, 0, 8, 8]])
    views = augment.resized_crop(images, whole, torch.tensor([False, True]))
    assert_near(views, torch.stack([images[0], images[1].flip(2)]), 1e-6)


@pytest.mark.parametrize("kind", BLENDS)
@pytest.mark.parametrize("height, width", SIZES)
def test_brightness_contrast_and_saturation_equal_torchvisions(height, width, kind):
    factors = [0.0, 0.3, 0.6, 0.85, 1.0, 1.2, 1.4, 3.0]
    images = random_images(len(factors), height, width, kind)
    views = augment.blend_(images.clone(), torch.full((len(factors),), kind), torch.tensor(factors))
    for image, factor, view in zip(images, factors, views):
        assert_near(view, BLENDS[kind](image, factor))


def test_each_image_of_a_batch_has_its_own_blend_and_factor():
    images = random_images(6, 8, 8)
    kinds, factors = [2, 0, 1, 1, 0, 2], [0.6, 1.4, 0.7, 1.3, 0.9, 1.1]
    views = augment.blend_(images.clone(), torch.tensor(kinds), torch.tensor(factors))
    for image, kind, factor, view in zip(images, kinds, factors, views):
        assert_near(view, BLENDS[kind](image, factor))


TURNS = [-1 / 3, -0.28, -0.1, -0.02, 0.0, 1e-4, 0.05, 0.1, 0.2, 1 / 3]


@pytest.mark.parametrize("height, width", SIZES)
def test_a_hue_shift_equals_torchvisions(height, width):
    images = random_images(len(TURNS), height, width)
    images[:, :, 0] = images[:, :1, 0]  # a grey row
    views = augment.shift_hue_(images.clone(), torch.tensor(TURNS))
    for image, turn, view in zip(images, TURNS, views):
        assert_near(view, V.adjust_hue(image, turn))


@pytest.mark.parametrize("turn", TURNS)
def test_a_hue_shift_of_greys_pure_colours_and_ties_equals_torchvisions(turn):
    # All 64 colours with channels from 4 levels: greys, black and white, pure colours, two equal channels on
    # top or below.
    colours = torch.tensor(list(itertools.product([0.0, 0.25, 0.6, 1.0], repeat=3)))
    image = colours.T.reshape(3, 8, 8)
    assert_near(augment.shift_hue_(image[None].clone(), torch.tensor([turn]))[0], V.adjust_hue(image, turn))


def test_a_third_of_a_turn_makes_red_green_and_leaves_grey_alone():
    red, green, blue = torch.eye(3)
    grey = torch.full((3,), 0.3)
    image = torch.stack([red, green, blue, grey], 1)[None, :, None]
    turned = augment.shift_hue_(image.clone(), torch.tensor([1 / 3]))
    assert_near(turned, torch.stack([green, blue, red, grey], 1)[None, :, None], 1e-6)
    assert torch.equal(turned[..., 3], image[..., 3])


@pytest.mark.parametrize("height, width", SIZES)
def test_greyscale_equals_torchvisions(height, width):
    images = random_images(5, height, width)
    for image, view in zip(images, augment.greyscale(images)):
        assert_near(view, V.rgb_to_grayscale(image, num_output_channels=1), 1e-6)


@pytest.mark.parametrize("height, width", SIZES)
def test_normalisation_equals_torchvisions(height, width):
    images = random_images(5, height, width)
    for image, view in zip(images, augment.normalise_(images.clone(), MEAN, STD)):
        assert_near(view, V.normalize(image, MEAN, STD))


@pytest.mark.parametrize("height, width", SIZES)
def test_evaluation_images_are_only_scaled_and_normalised(height, width):
    images = random_bytes(4, height, width)
    views = augment.evaluation_images(images, MEAN, STD)
    assert views.dtype == torch.float32
    for image, view in zip(images, views):
        assert_near(view, V.normalize(image.float() / 255, MEAN, STD))


@pytest.mark.parametrize("height, width", SIZES)
def test_contrastive_views_equal_torchvisions_operations_in_the_drawn_order(height, width):
    images = random_bytes(96, height, width)
    parameters = augment.draw_contrastive(len(images), height, width, True, augment.stream("views", height))
    views = augment.contrastive_views(images, parameters, MEAN, STD)
    assert views.dtype == torch.float32 and views.shape == images.shape
    lengths = [len(jitter_order(parameters, view)) for view in range(len(images))]
    assert set(lengths) == {0, 4} and parameters["flip"].any() and parameters["grey"].any()
    for view in range(len(images)):
        assert_near(
            views[view], one_contrastive_view(images[view], parameters, view), 1e-4
        )  # / std is a factor of 5


@pytest.mark.parametrize("height, width", SIZES)
def test_supervised_views_equal_padding_slicing_and_reversing(height, width):
    images = random_bytes(64, height, width)
    parameters = augment.draw_supervised(
        len(images), height, width, True, True, augment.stream("views", height)
    )
    views = augment.supervised_views(images, parameters, MEAN, STD)
    assert views.dtype == torch.float32 and views.shape == images.shape
    for view in range(len(images)):
        top, left = parameters["offset"][view].tolist()
        expected = one_supervised_view(
            images[view], top, left, parameters["vertical"][view], parameters["horizontal"][view]
        )
        assert_near(views[view], expected)


@pytest.mark.parametrize("height, width", [(8, 8), (8, 24)])
def test_supervised_views_of_every_offset_and_flip_equal_slicing(height, width):
    choices = list(
        itertools.product(
            range(2 * PADDING[height] + 1), range(2 * PADDING[width] + 1), [False, True], [False, True]
        )
    )
    tops, lefts, vertical, horizontal = (torch.tensor(column) for column in zip(*choices))
    images = random_bytes(len(choices), height, width)
    parameters = {"offset": torch.stack([tops, lefts], 1), "vertical": vertical, "horizontal": horizontal}
    views = augment.supervised_views(images, parameters, MEAN, STD)
    for image, choice, view in zip(images, choices, views):
        assert_near(view, one_supervised_view(image, *choice))


def test_the_central_offset_without_flips_is_the_image_itself():
    images = random_bytes(3, 32, 32)
    off = torch.zeros(3, dtype=torch.bool)
    parameters = {"offset": torch.full((3, 2), 4), "vertical": off, "horizontal": off}
    views = augment.supervised_views(images, parameters, MEAN, STD)
    assert torch.equal(views, augment.evaluation_images(images, MEAN, STD))


# What is drawn


@pytest.mark.parametrize(
    "height, width", [*SIZES, (16, 48)]
)  # at 16 x 48 some crops fall back to the central box
def test_crop_boxes_are_distributed_as_torchvisions(height, width):
    count = 6000
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    theirs = np.array([RandomResizedCrop.get_params(image, [0.2, 1.0], [3 / 4, 4 / 3]) for _ in range(count)])
    ours = augment.crop_boxes(count, height, width, augment.stream("boxes", height, width)).numpy()
    for values in (
        lambda box: box[:, 2] * box[:, 3],
        lambda box: box[:, 3],
        lambda box: box[:, 2],
        lambda box: box[:, 0],
        lambda box: box[:, 1],
    ):
        assert stats.ks_2samp(values(ours), values(theirs)).pvalue > LEAST_P


@pytest.mark.parametrize("height, width", [*SIZES, (16, 48), (5, 7), (1, 1)])
def test_crop_boxes_lie_within_the_image(height, width):
    top, left, box_height, box_width = augment.crop_boxes(5000, height, width, augment.stream("boxes")).T
    assert top.min() >= 0 and left.min() >= 0 and box_height.min() >= 1 and box_width.min() >= 1
    assert (top + box_height).max() <= height and (left + box_width).max() <= width


def test_crop_area_is_uniform_and_ratio_log_uniform_between_their_bounds():
    side = 3000  # so large that rounding to pixels does not show
    box = augment.crop_boxes(DRAWS, side, side, augment.stream("area")).double()
    share, log_ratio = box[:, 2] * box[:, 3] / side**2, (box[:, 3] / box[:, 2]).log()
    assert 0.199 < share.min() < 0.21 and 0.97 < share.max() <= 1
    assert log_ratio.abs().max() < math.log(4 / 3) + 2e-3
    # Boxes of up to 3/4 of the area always fit, so among them nothing was drawn again.
    always_fit = (share > 0.201) & (share < 0.74)
    assert_uniform(share[always_fit], 0.201, 0.74)
    assert_uniform(
        log_ratio[always_fit].clamp(math.log(3 / 4), math.log(4 / 3)), math.log(3 / 4), math.log(4 / 3)
    )


def test_crop_positions_reach_both_ends_equally_often():
    top, left, box_height, box_width = augment.crop_boxes(DRAWS, 32, 32, augment.stream("ends")).T
    for start, length in ((top, box_height), (left, box_width)):
        room = 32 - length
        of_room_4 = start[room == 4]
        assert len(of_room_4) > 500
        assert_equally_likely(of_room_4, range(5))


@pytest.mark.parametrize(
    "height, width", [(4, 400), (400, 4), (5, 500), (500, 5), (3, 301), (301, 3), (1, 90), (90, 1)]
)
def test_the_fallback_box_of_extreme_sizes_equals_torchvisions(height, width):
    expected = RandomResizedCrop.get_params(torch.empty(3, height, width), [0.2, 1.0], [3 / 4, 4 / 3])
    assert augment.crop_boxes(20, height, width, augment.stream("fallback")).tolist() == [list(expected)] * 20


def test_views_are_jittered_greyed_and_flipped_as_often_as_asked(drawn):
    assert_share(drawn["hue"] != 0, 0.8)
    assert_share(drawn["grey"], 0.2)
    assert_share(drawn["flip"], 0.5)


def test_views_without_jitter_have_neutral_factors_and_others_three_factors(drawn):
    changed = (drawn["factor"] != 1).sum(1)
    jittered = drawn["hue"] != 0
    assert (changed[jittered] == 3).all() and (changed[~jittered] == 0).all()


def test_no_contrastive_view_is_flipped_where_flips_are_off():
    assert not augment.draw_contrastive(2000, 32, 32, False, augment.stream("off"))["flip"].any()


def test_the_same_three_blends_are_listed_before_and_after_the_hue_shift(drawn):
    kind = drawn["kind"]
    assert torch.equal(kind[:, :3], kind[:, 3:])
    assert torch.equal(kind[:, :3].sort(1).values, torch.arange(3).expand(DRAWS, 3))


@pytest.mark.parametrize("kind", BLENDS)
def test_factors_are_uniform_from_0_6_to_1_4(drawn, kind):
    factors = drawn["factor"][(drawn["kind"] == kind) & (drawn["factor"] != 1)]
    assert len(factors) == (drawn["hue"] != 0).sum()
    assert_uniform(factors.double(), 0.6 - 1e-6, 1.4 + 1e-6)


def test_each_blend_has_its_own_strength(monkeypatch):
    monkeypatch.setattr(augment, "JITTER", (0.1, 0.2, 0.4))
    parameters = augment.draw_contrastive(DRAWS, 8, 8, True, augment.stream("strengths"))
    for kind, strength in enumerate(augment.JITTER):
        factors = parameters["factor"][(parameters["kind"] == kind) & (parameters["factor"] != 1)]
        assert_uniform(factors.double(), 1 - strength - 1e-6, 1 + strength + 1e-6)


def test_hue_shifts_are_uniform_up_to_a_tenth_of_a_turn(drawn):
    assert_uniform(drawn["hue"][drawn["hue"] != 0].double(), -0.1 - 1e-6, 0.1 + 1e-6)
    assert augment.HUE <= 1 / 3  # as far as shift_hue_ goes


def test_all_24_orders_of_the_four_operations_are_equally_likely(drawn):
    orders = [tuple(operation for operation, _ in jitter_order(drawn, view)) for view in range(DRAWS)]
    orders = [order for order in orders if order]
    expected = list(itertools.permutations([0, 1, 2, "hue"]))
    counts = [orders.count(order) for order in expected]
    assert sum(counts) == len(orders)
    assert stats.chisquare(counts).pvalue > LEAST_P


def test_the_parameters_of_a_view_are_independent_of_each_other(drawn):
    jittered = drawn["hue"] != 0
    factors = torch.zeros(DRAWS, 3)
    for kind in BLENDS:
        chosen = (drawn["kind"] == kind) & (drawn["factor"] != 1)
        factors[jittered, kind] = drawn["factor"][chosen]
    columns = [
        drawn["flip"],
        drawn["grey"],
        drawn["hue"],
        *factors.T,
        *drawn["kind"][:, :2].T,
        *drawn["box"][:, 2:].T,
    ]
    table = torch.stack([column[jittered].double() for column in columns])
    correlation = torch.corrcoef(table)
    correlation[6, 7] = correlation[7, 6] = 0  # two places of one permutation
    correlation[8, 9] = correlation[9, 8] = 0  # height and width of one box
    correlation.fill_diagonal_(0)
    assert correlation.abs().max() < 4.5 / math.sqrt(jittered.sum())
    assert_share(drawn["grey"][jittered], 0.2)
    assert_share(drawn["flip"][~jittered], 0.5)


@pytest.mark.parametrize("side, expected", [(32, 4), (8, 1), (16, 2), (64, 8)])
def test_padding_is_4_at_32_pixels_and_in_proportion_elsewhere(side, expected):
    assert augment.padding(side) == expected


@pytest.mark.parametrize("height, width", SIZES)
def test_supervised_offsets_are_uniform_with_both_ends(height, width):
    offset = augment.draw_supervised(DRAWS, height, width, True, True, augment.stream("offsets"))["offset"]
    rows, columns = 2 * PADDING[height] + 1, 2 * PADDING[width] + 1
    assert_equally_likely(offset[:, 0], range(rows))
    assert_equally_likely(offset[:, 1], range(columns))
    assert_equally_likely(offset[:, 0] * columns + offset[:, 1], range(rows * columns))


@pytest.mark.parametrize("horizontal", [False, True])
@pytest.mark.parametrize("vertical", [False, True])
def test_supervised_views_are_flipped_half_of_the_time_or_never(horizontal, vertical):
    parameters = augment.draw_supervised(DRAWS, 32, 32, horizontal, vertical, augment.stream("flips"))
    assert_share(parameters["horizontal"], 0.5 * horizontal)
    assert_share(parameters["vertical"], 0.5 * vertical)
    assert_share(parameters["horizontal"] & parameters["vertical"], 0.25 * horizontal * vertical)


# Streams


def draw_everything(key):
    generator = augment.stream(*key)
    return [
        *augment.draw_contrastive(20, 32, 32, True, generator).values(),
        *augment.draw_supervised(20, 32, 32, True, True, generator).values(),
    ]


def test_the_same_key_gives_the_same_parameters():
    first, second = (draw_everything((1, "clr", 3)) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_other_keys_give_other_streams():
    keys = [(seed, stage, epoch) for seed in range(6) for stage in ("encoder", "head") for epoch in range(50)]
    keys += [("1", "encoder", 0), (1, "encoder"), (1,), (11,), (1, 1), ()]
    assert len({augment.stream_seed(*key) for key in keys}) == len(keys)
    assert len({torch.rand(4, generator=augment.stream(*key)).numpy().tobytes() for key in keys}) == len(keys)
    assert all(0 <= augment.stream_seed(*key) < 2**32 for key in keys)


def test_no_two_epochs_of_the_published_training_share_a_stream():
    keys = [
        (seed, stage, epoch)
        for seed in range(30)
        for stage, epochs in (("contrastive", 500), ("supervised", 205))
        for epoch in range(epochs)
    ]
    assert len({augment.stream_seed(*key) for key in keys}) == len(keys)


def test_neighbouring_keys_give_unrelated_streams():
    first = torch.stack(
        [torch.rand(2, generator=augment.stream(0, "encoder", epoch)) for epoch in range(3000)]
    ).double()
    assert_uniform(first[:, 0], 0, 1)
    assert abs(np.corrcoef(first[:-1, 0], first[1:, 0])[0, 1]) < 4.5 / math.sqrt(len(first))


def test_a_seed_stays_the_same_across_versions():
    # Python's own hash of a string changes from one process to the next; a resumed run needs the same seed.
    assert augment.stream_seed(1, "stage", 2) == 51811509


def test_torchs_global_generator_is_neither_used_nor_moved():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = draw_everything((7,))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    assert all(torch.equal(one, other) for one, other in zip(first, draw_everything((7,)), strict=True))


@pytest.mark.parametrize("count, side", [(1, 8), (37, 8), (40, 32)])
def test_views_do_not_depend_on_the_chunks_they_are_computed_in(monkeypatch, count, side):
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)
    parameters = augment.draw_contrastive(count, side, side, True, generator)
    whole = augment.contrastive_views(images, parameters, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    for chunk in (1, 7):
        monkeypatch.setattr(augment, "CHUNK_PIXELS", chunk * side * side)
        assert torch.equal(
            augment.contrastive_views(images, parameters, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)), whole
        )


@pytest.mark.parametrize(
    "draw, compute",
    [
        (
            lambda count, side, generator: augment.draw_contrastive(count, side, side, True, generator),
            augment.contrastive_views,
        ),
        (
            lambda count, side, generator: augment.draw_supervised(count, side, side, True, True, generator),
            augment.supervised_views,
        ),
    ],
)
def test_views_are_one_graph_without_waiting_and_the_same_numbers_when_traced(draw, compute):
    images, parameters = random_bytes(40, 8, 8), draw(40, 8, augment.stream("traced"))
    traced = torch.compile(
        compute, backend="aot_eager", fullgraph=True, dynamic=False
    )  # fails where a number is read back
    assert torch.equal(traced(images, parameters, MEAN, STD), compute(images, parameters, MEAN, STD))


def test_views_are_channels_last_in_memory_and_leave_the_images_alone():
    images = random_bytes(40, 8, 12)
    before = images.clone()
    for views in (
        augment.contrastive_views(
            images, augment.draw_contrastive(40, 8, 12, True, augment.stream("layout")), MEAN, STD
        ),
        augment.supervised_views(
            images, augment.draw_supervised(40, 8, 12, True, True, augment.stream("layout")), MEAN, STD
        ),
        augment.evaluation_images(images, MEAN, STD),
    ):
        assert views.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(images, before)
