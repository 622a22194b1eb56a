"""Figures: what they show is what the arrays hold, nothing lies on anything else, and 10,000 images are drawn
soon."""

import time

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgba
from matplotlib.image import AxesImage

from common.plots import save_figure
from figures.report import plots

TITLE = "digits 8x8 · SupCon · global, sparsity 90 % · 3 models (WideResNet-16-2)"
LONG_TITLE = (
    "cifar10 · SupCon · global_magnitude_increase_iterative0.2_rewind0, sparsity 90.24 % · "
    "30 models (WideResNet-28-10)\n"
    "k-NN against the own final prediction, 30 of the models · 10,000 test images of 10 classes"
)
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
TAGS = [
    "global",
    "GMP",
    "later_GMP",
    "random",
    "filter_linf",
    "global_gradient",
    "layer_magnitude",
    "kernel",
    "snip",
    "GMP_kernel_l1",
    "global_iterative0.2",
    "filter_l2_finetune",
    "global_magnitude_rewind0",
]
SIZES = [(500, 20), (500, 0), (60, 60), (10_000, 1500)]


def drawn(kind, arrays, title=TITLE):
    figure = plots.draw(
        {key: np.asarray(value) for key, value in {"figure": kind, "title": title, **arrays}.items()}
    )
    FigureCanvasAgg(figure).draw()
    return figure


def some_pies(images, pies):
    return np.random.default_rng(1).permutation(images) < pies


def q_scores(images, pies):
    rng = np.random.default_rng(images)
    values = {
        f"{side}_{part}": place + 0.2 * rng.standard_normal(images)
        for part, place in (("q_score", 0.8), ("z_score", 4), ("l1_norm", 6))
        for side in ("dense", "pruned")
    }
    return {"is_pie": some_pies(images, pies), **values}


def depths(images, pies, models=3):
    rng = np.random.default_rng(images)
    dense, pruned = (
        np.clip(rng.normal(place, 3, (models, images)).round(), 0, 16).mean(0) for place in (5, 8)
    )
    return {"is_pie": some_pies(images, pies), "places": 16, "dense_depth": dense, "pruned_depth": pruned}


def against_sparsity(series):
    rng = np.random.default_rng(series)
    names = [(method, tag) for tag in TAGS for method in ("SupCon", "supervised")][:series]
    arrays = {
        "series": [f"{method} {tag}" for method, tag in names],
        "learning_methods": [method for method, _ in names],
        "ylabel": "accuracy (%)",
    }
    for index in range(series):
        sparsity = np.array([0.99, 0, 0.5, 0.7, 0.9, 0.95])[: 1 if index == 4 else None]  # in no order
        value = 90 + rng.random(len(sparsity))
        low, high = value - rng.random(len(sparsity)), value + rng.random(len(sparsity))
        low[0] = high[0] = np.nan
        arrays |= {
            f"sparsity_{index}": sparsity,
            f"value_{index}": value,
            f"low_{index}": low,
            f"high_{index}": high,
        }
    return arrays


def umap_grid(rows, columns, images, share=0.05):
    rng = np.random.default_rng(rows)
    arrays = {
        "class_names": CLASSES,
        "rows": [f"{method} {tag}" for tag in TAGS for method in ("SupCon", "supervised")][:rows],
        "columns": ["dense", *(f"sparsity {percent} %" for percent in (30, 50, 70, 90, 95, 99))][:columns],
    }
    for row, column in np.ndindex(rows, columns):
        if (row, column) != (0, 1):
            labels = rng.integers(0, 10, images)
            arrays |= {
                f"modal_labels_{row}_{column}": labels,
                f"coordinates_{row}_{column}": rng.normal(labels[:, None], 1, (images, 2)),
            }
            if column:
                arrays[f"is_pie_{row}_{column}"] = rng.random(images) < share * column
    return arrays


def noise_floor(panels, categories, splits, growth):
    rng = np.random.default_rng(categories)
    arrays = {"panels": ["SupCon", "supervised"][:panels]}
    for index in range(panels):
        arrays[f"names_{index}"] = [
            "dense against dense",
            *(f"{tag} {sparsity}" for tag in TAGS[:3] for sparsity in (0.5, 0.7, 0.9, 0.95, 0.99)),
        ][:categories]
        arrays[f"counts_{index}"] = rng.poisson(
            8 * growth ** np.linspace(0, 1, categories)[:, None], (categories, splits)
        )
    return arrays


def gallery(images, lines=3):
    return {
        "images": np.random.default_rng(0).integers(0, 256, (images, 3, 8, 8), dtype=np.uint8),
        "captions": [
            "\n".join(
                [f"true: automobile {index}", "dense: automobile 28/30", "pruned: airplane 17/30"][:lines]
            )
            for index in range(images)
        ],
    }


def all_axes(figure):
    return [axes for own in figure.axes if own.get_visible() for axes in (own, *own.child_axes)]


def check_nothing_overlaps(figure):
    """Texts and legends are inside the picture, on no other one, and, but for what is written into a panel,
    on no panel."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    outside = [
        figure._suptitle,
        *figure.legends,
        *(axes.get_legend() for axes in all_axes(figure) if axes.get_legend()),
    ]
    for axes in all_axes(figure):
        outside += [axes.title, axes.xaxis.label, axes.yaxis.label]
        for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            outside += [
                label
                for tick in axis.get_major_ticks()
                if min(limits) <= tick.get_loc() <= max(limits)
                for label in (tick.label1, tick.label2)
                if label.get_visible()
            ]
    outside = [text for text in outside if not hasattr(text, "get_text") or text.get_text().strip()]
    boxes = np.array([text.get_window_extent(renderer).extents for text in outside]) + [0.5, 0.5, -0.5, -0.5]
    panels = np.array([axes.get_window_extent(renderer).extents for axes in all_axes(figure)]) + [
        1,
        1,
        -1,
        -1,
    ]
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= [figure.bbox.x1, figure.bbox.y1]).all()
    for index, box in enumerate(boxes):
        others = np.concatenate([boxes[:index], boxes[index + 1 :], panels])
        hit = ((others[:, :2] < box[2:]) & (others[:, 2:] > box[:2])).all(1)
        assert not hit.any(), (outside[index], np.flatnonzero(hit))


@pytest.mark.parametrize("title", [TITLE, LONG_TITLE], ids=["title", "long title"])
@pytest.mark.parametrize(
    "kind, arrays",
    [
        *[("q_score", q_scores(*size)) for size in SIZES],
        *[("prediction_depth", depths(*size)) for size in SIZES],
        *[("against_sparsity", against_sparsity(series)) for series in (1, 2, 8, 26)],
        *[("umap_grid", umap_grid(*size)) for size in ((1, 1, 60), (1, 3, 500), (3, 2, 2500), (13, 7, 60))],
        *[("noise_floor", noise_floor(*size)) for size in ((1, 2, 3, 2), (2, 6, 100, 10), (2, 16, 100, 300))],
        *[
            ("gallery", gallery(images, lines))
            for images, lines in ((1, 3), (5, 2), (6, 3), (13, 3), (48, 3))
        ],
    ],
)
def test_nothing_lies_on_anything_else(kind, arrays, title):
    figure = drawn(kind, arrays, title)
    check_nothing_overlaps(figure)
    shown = " ".join([figure._suptitle.get_text(), *(axes.get_title() for axes in all_axes(figure))])
    shown = shown.replace("\xa0", " ").replace("\n", " ")
    assert all(fact in shown for line in title.split("\n") for fact in line.split(" · "))


def test_what_overlaps_is_found():
    figure = drawn("gallery", gallery(6))
    figure.axes[0].xaxis.label.set_fontsize(20)
    with pytest.raises(AssertionError):
        check_nothing_overlaps(figure)


@pytest.mark.parametrize(
    "kind, arrays",
    [
        ("q_score", q_scores(10_000, 1500)),
        ("prediction_depth", depths(10_000, 1500)),
        ("prediction_depth", depths(10_000, 1500, 30)),
        ("noise_floor", noise_floor(2, 16, 5000, 300)),
    ],
)
def test_much_is_drawn_soon(kind, arrays, tmp_path):
    started = time.process_time()
    save_figure(tmp_path / "figure.png", drawn(kind, arrays))
    assert (
        time.process_time() - started < 3
    )  # 0.8 s alone, and nearly half of it again because it is drawn twice here


@pytest.mark.parametrize("images, pies", SIZES)
@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("kind", ["q_score", "prediction_depth"])
def test_every_image_is_in_a_cell_or_a_triangle_and_in_the_shares(kind, images, pies, undefined):
    arrays = (q_scores if kind == "q_score" else depths)(images, pies)
    is_pie = arrays["is_pie"]
    names = ["q_score", "z_score", "l1_norm"] if kind == "q_score" else ["depth"]
    if undefined:
        arrays[f"pruned_{names[0]}"][is_pie] = np.nan
        arrays[f"dense_{names[0]}"][np.flatnonzero(~is_pie)[:7]] = np.nan
    figure = drawn(kind, arrays)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        f"other images ({images - pies})",
        f"PIEs ({pies})" + "; larger: several at one point" * (kind == "prediction_depth"),
        "dense = pruned",
    ]
    for panel, name in zip(figure.axes, names):
        dense, pruned = arrays[f"dense_{name}"], arrays[f"pruned_{name}"]
        defined = ~np.isnan(dense + pruned)
        mesh, triangles = panel.collections
        assert (mesh.get_array().sum() or 0) == (defined & ~is_pie).sum()
        points = np.unique(np.stack([dense, pruned], 1)[defined & is_pie], axis=0)
        assert sorted(map(tuple, triangles.get_offsets())) == sorted(map(tuple, points))
        assert (
            panel.get_xlim() == panel.get_ylim()
            and panel.get_xlim()[0] <= np.nanmin([dense, pruned])
            and np.nanmax([dense, pruned]) <= panel.get_xlim()[1]
        )
        top, right = panel.child_axes
        for side, values, own_limits in ((top, dense, top.get_xlim()), (right, pruned, right.get_ylim())):
            groups = [chosen for chosen in (defined & ~is_pie, defined & is_pie) if chosen.any()]
            assert len(side.patches) == len(groups) and own_limits == panel.get_xlim()
            edges = side.patches[0].get_data().edges if groups else []
            for patch, chosen in zip(side.patches, groups):
                assert patch.get_data().values.sum() == pytest.approx(100) and np.array_equal(
                    patch.get_data().edges, edges
                )
                assert patch.get_data().values == pytest.approx(
                    100 * np.histogram(values[chosen], edges)[0] / chosen.sum()
                )
        said = f"({(~defined).sum()} images without a value)" in top.get_title()
        assert said == (not defined.all())


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [np.nan, 0.0, 3.0])
def test_values_that_are_all_the_same_or_missing_can_be_drawn(value):
    for kind, arrays in (("q_score", q_scores(60, 9)), ("prediction_depth", depths(60, 9))):
        drawn(
            kind,
            {
                key: np.full(60, value) if key.startswith(("dense", "pruned")) else one
                for key, one in arrays.items()
            },
        )


def test_a_cell_is_where_its_images_are():
    arrays = {
        **q_scores(3, 0),
        "dense_q_score": np.array([0.0, 1.0, 1.0]),
        "pruned_q_score": np.array([0.2, 0.9, 0.9]),
    }
    mesh = drawn("q_score", arrays).axes[0].collections[0]
    edges = mesh.get_coordinates()[0, :, 0]
    found = {
        (int(row), int(column)): int(mesh.get_array()[row, column])
        for row, column in np.argwhere(mesh.get_array().filled(0))
    }
    place = {value: int(np.searchsorted(edges, value)) - 1 for value in (0.0, 0.2, 0.9, 1.0)}
    assert found == {
        (place[0.2], place[0.0]): 1,
        (place[0.9], place[1.0]): 2,
    }  # rows are pruned networks, columns dense ones


def test_pies_on_one_point_are_one_triangle_with_an_area_that_grows_with_their_number():
    is_pie = np.array([1, 1, 1, 1, 1, 1, 0], bool)
    arrays = {
        "dense_depth": np.array([2, 2, 2, 2, 5, 8, 8.0]),
        "pruned_depth": np.array([3, 3, 3, 3, 5, 9, 9.0]),
        "is_pie": is_pie,
        "places": 16,
    }
    triangles = drawn("prediction_depth", arrays).axes[0].collections[1]
    sizes = {
        tuple(point): size for point, size in zip(triangles.get_offsets().tolist(), triangles.get_sizes())
    }
    assert (
        set(sizes) == {(2, 3), (5, 5), (8, 9)}
        and sizes[5, 5] == sizes[8, 9]
        and sizes[2, 3] == pytest.approx(2 * sizes[5, 5])
    )


def one_umap(images=60, pies=9):
    rng = np.random.default_rng(0)
    umap = {"coordinates": rng.normal(size=(images, 2)) * [9, 1], "modal_labels": rng.integers(0, 10, images)}
    return {**umap, "is_pie": some_pies(images, pies), "class_names": CLASSES}


@pytest.mark.parametrize("series", [1, 2, 8, 26])
def test_bars_end_where_intervals_do_and_points_stand_beside_one_another(series):
    arrays = against_sparsity(series)
    panel = drawn("against_sparsity", arrays).axes[0]
    ticks = {text.get_text(): place for place, text in zip(panel.get_xticks(), panel.get_xticklabels())}
    assert (
        ticks == {"0": 0, "50": 1, "70": 2, "90": 3, "95": 4, "99": 5}
        and "not to scale" in panel.get_xlabel()
    )
    lines = panel.lines[:series]
    places = []
    for index, (line, bars) in enumerate(zip(lines, panel.collections)):
        order = np.argsort(arrays[f"sparsity_{index}"])
        value, low, high = (arrays[f"{part}_{index}"][order] for part in ("value", "low", "high"))
        assert np.array_equal(line.get_ydata(), value) and line.get_marker() not in ("", "None")
        assert [ticks[f"{100 * sparsity:g}"] for sparsity in arrays[f"sparsity_{index}"][order]] == np.round(
            line.get_xdata()
        ).tolist()
        known = ~np.isnan(low)
        expected = [[[x, a], [x, b]] for x, a, b in zip(line.get_xdata()[known], low[known], high[known])]
        assert [segment.tolist() for segment in bars.get_segments()] == expected
        places += line.get_xdata().tolist()
    apart = np.diff(np.sort(places))
    assert series == 1 or apart.min() > 0.02
    styles = [(to_hex(line.get_color()), line.get_marker(), line.get_linestyle()) for line in lines]
    assert len(set(styles)) == series
    assert {colour for colour, _, _ in styles} == {
        to_hex(plots.METHOD_COLOURS[method]) for method in arrays["learning_methods"]
    }
    tags = [name.split(" ")[1] for name in arrays["series"]]
    assert len(set(zip(tags, (style[1:] for style in styles)))) == len(
        set(tags)
    )  # a pruning method looks the same for both
    texts = [text.get_text() for text in panel.get_legend().get_texts()]
    assert texts == arrays["series"] and panel.get_legend().get_window_extent().x0 >= panel.bbox.x1


def test_counts_have_a_square_root_scale_and_ticks_that_stand_apart():
    arrays = against_sparsity(2)
    linear = drawn("against_sparsity", arrays).axes[0]
    assert linear.get_yscale() == "linear" and linear.get_ylabel() == "accuracy (%)"
    counts = np.array([0, 4, 9, 100, 900, 2500.0])
    arrays |= {
        "counts": True,
        "ylabel": "PIEs (images)",
        "value_0": counts,
        "low_0": counts,
        "high_0": counts,
    }
    panel = drawn("against_sparsity", arrays).axes[0]
    assert panel.get_ylabel() == "PIEs (images), square-root scale"
    height = panel.transData.transform([[0, count] for count in counts])[:, 1]
    assert (height - height[0]) / (height[-1] - height[0]) == pytest.approx(np.sqrt(counts / 2500))
    low, high = panel.get_ylim()
    ticks = [tick for tick in panel.get_yticks() if low <= tick <= high]
    assert ticks == [0, 50, 200, 500, 1000, 2000]


def test_without_intervals_no_bars_are_promised():
    arrays = against_sparsity(2)
    title = drawn("against_sparsity", arrays).axes[0].get_legend().get_title().get_text()
    assert "95 %" in title
    without = {
        key: np.full_like(value, np.nan) if key.startswith(("low", "high")) else value
        for key, value in arrays.items()
    }
    panel = drawn("against_sparsity", without).axes[0]
    assert "95 %" not in panel.get_legend().get_title().get_text() and not any(
        len(bars.get_segments()) for bars in panel.collections
    )


@pytest.mark.parametrize("rows, columns, images", [(1, 1, 60), (1, 3, 500), (3, 4, 10_000), (13, 7, 200)])
def test_a_grid_shows_every_image_and_every_pie_and_says_where_there_are_no_networks(rows, columns, images):
    arrays = umap_grid(rows, columns, images)
    figure = drawn("umap_grid", arrays)
    assert len(figure.axes) == rows * columns
    for (row, column), panel in np.ndenumerate(np.array(figure.axes).reshape(rows, columns)):
        texts = [text.get_text() for text in panel.texts]
        flat = [text.replace("\n", "").replace(" ", "") for text in (panel.get_title(), panel.get_ylabel())]
        assert flat == [
            arrays["columns"][column].replace(" ", "") if row == 0 else "",
            arrays["rows"][row].replace(" ", "") if column == 0 else "",
        ]
        assert not len(panel.get_xticks()) and not len(panel.get_yticks())
        if (row, column) == (0, 1):
            assert texts == ["no networks"] and not panel.collections
            continue
        labels = arrays[f"modal_labels_{row}_{column}"]
        assert [len(group.get_offsets()) for group in panel.collections[:10]] == np.bincount(
            labels, minlength=10
        ).tolist()
        if column == 0:
            assert texts == [] and len(panel.collections) == 10
            continue
        is_pie = arrays[f"is_pie_{row}_{column}"]
        pies = panel.collections[10]
        assert texts == [] and panel.get_xlabel() == f"{is_pie.sum()} PIEs"
        assert np.array_equal(pies.get_offsets(), arrays[f"coordinates_{row}_{column}"][is_pie])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == CLASSES
    assert ("PIEs" in figure.legends[0].get_title().get_text()) == any(
        key.startswith("is_pie") for key in arrays
    )


@pytest.mark.parametrize(
    "panels, categories, splits, growth",
    [(1, 2, 3, 2), (2, 6, 100, 10), (2, 16, 1000, 300), (2, 4, 10_000, 0)],
)
def test_boxes_stand_at_quartiles_and_every_split_is_a_point(panels, categories, splits, growth):
    arrays = noise_floor(panels, categories, splits, growth)
    figure = drawn("noise_floor", arrays)
    assert [panel.get_title() for panel in figure.axes] == arrays["panels"]
    for index, panel in enumerate(figure.axes):
        counts = arrays[f"counts_{index}"]
        points = panel.collections
        assert [set(group.get_offsets()[:, 0]) for group in points] == [set(own) for own in counts] and all(
            len(group.get_offsets()) == splits for group in points
        )
        places = [group.get_offsets()[:, 1] for group in points]
        assert all(
            np.abs(own - place).max() < 0.3 and len(set(own)) == splits for place, own in enumerate(places)
        )
        boxes = [patch for patch in panel.patches if patch.get_edgecolor() == to_rgba("#333333", 0.7)]
        ends = [(box.get_path().vertices[:, 0].min(), box.get_path().vertices[:, 0].max()) for box in boxes]
        assert np.allclose(ends, np.percentile(counts, [25, 75], axis=1).T)
        assert boxes[0].get_facecolor() != boxes[1].get_facecolor()
        lines = np.array([[*line.get_xdata()] for line in panel.lines]).reshape(categories, 3, 2)
        low, high = np.percentile(counts, [2.5, 97.5], axis=1)
        for row, (below, above, median), first, last in zip(counts, lines, low, high):
            assert below.tolist()[1] == min(row[row >= first].min(), below[0])
            assert above.tolist()[1] == max(row[row <= last].max(), above[0])
            assert median[0] == np.median(row)
        assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == arrays[f"names_{index}"]
        assert panel.get_ylim() == figure.axes[0].get_ylim() and panel.get_ylim()[0] > panel.get_ylim()[1]
        assert panel.get_xlim() == figure.axes[0].get_xlim() and panel.get_xlim()[0] < 0
        assert panel.get_xlim()[1] >= max(arrays[f"counts_{each}"].max() for each in range(panels))
        assert panel.get_xlabel() == "PIEs (images), square-root scale"


@pytest.mark.parametrize("images", [1, 5, 6, 7, 48])
def test_a_gallery_shows_every_image_as_it_is_with_its_caption(images):
    arrays = gallery(images)
    figure = drawn("gallery", arrays)
    panels = [panel for panel in figure.axes if panel.images]
    assert [panel.get_xlabel() for panel in panels] == arrays["captions"]
    for panel, image in zip(panels, arrays["images"]):
        (shown,) = [child for child in panel.get_children() if isinstance(child, AxesImage)]
        assert (
            np.array_equal(shown.get_array(), image.transpose(1, 2, 0))
            and shown.get_interpolation() == "nearest"
        )
    assert len({round(panel.get_position().y0, 4) for panel in panels}) == -(-images // 6)


def test_captions_and_names_are_shown_as_they_are():
    figure = drawn(
        "gallery",
        {**gallery(2), "captions": ["_a\n$x$", "b$\n" + "a very long line of a caption that says a lot"]},
    )
    assert (
        figure.axes[0].get_xlabel() == " _a\n\\$x\\$"
        and max(map(len, figure.axes[1].get_xlabel().split("\n"))) <= 30
    )
    arrays = {**against_sparsity(2), "series": ["_one", "t$w$o"]}
    assert [
        text.get_text() for text in drawn("against_sparsity", arrays).axes[0].get_legend().get_texts()
    ] == [" _one", "t\\$w\\$o"]
