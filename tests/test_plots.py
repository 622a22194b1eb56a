"""Figures: what they show is what the arrays hold, and nothing lies on anything else."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.text import Text

from common.corruptions import CLEAN
from common.plots import CLASS_COLOURS, PAPER_WIDTH
from figures.report import plots

TITLE = (
    "cifar10 · SupCon · global_magnitude_increase_iterative0.2_rewind0, 90.24 % pruned\n"
    "30 networks (WideResNet-28-10)\nk-NN against the network's final prediction, 30 of the networks"
)
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
SHORT = [name[:3] for name in CLASSES]  # long ones are turned, and their boxes overlap
TAGS = ["global", "GMP", "later_GMP", "random", "filter_linf", "layer_magnitude", "kernel", "filter_l2"]


def drawn(kind, arrays, title=TITLE, **style):
    about = {"figure": kind, "title": title, **arrays, **style}
    figure = plots.draw({key: np.asarray(value) for key, value in about.items()})
    FigureCanvasAgg(plots.plots.lay_out(figure)).draw()
    return figure


def some_pies(images, pies):
    return np.random.default_rng(1).permutation(images) < pies


def q_scores(images, pies):
    rng = np.random.default_rng(images)
    middles = {"q_score": 0.8, "z_score": 4, "l1_norm": 6}
    values = {
        f"{side}_{part}": middle + 0.2 * rng.standard_normal(images)
        for part, middle in middles.items()
        for side in ("dense", "pruned")
    }
    return {"is_pie": some_pies(images, pies), **values}


def depths(images, pies, models=3, layers=16):
    rng = np.random.default_rng(images)
    dense, pruned = (
        np.clip(rng.normal(mean, 3, (models, images)).round(), 0, layers).mean(0) for mean in (5, 8)
    )
    return {"is_pie": some_pies(images, pies), "places": layers, "dense_depth": dense, "pruned_depth": pruned}


def against_sparsity(series):
    rng = np.random.default_rng(series)
    names = [(method, tag) for tag in TAGS for method in ("SupCon", "supervised")][:series]
    arrays = {
        "series": [f"{method} {tag}" for method, tag in names],
        "learning_methods": [method for method, _ in names],
        "networks": ["6 or 8"] * series,
        "ylabel": "accuracy (%)",
    }
    for index in range(series):
        sparsity = np.array([0.99, 0, 0.5, 0.7, 0.9, 0.95])[: 1 if index == 4 else None]  # in no order
        value = 90 + rng.random(len(sparsity))
        low, high = value - rng.random(len(sparsity)), value + rng.random(len(sparsity))
        low[0] = high[0] = np.nan
        of_series = dict(sparsity=sparsity, value=value, low=low, high=high)
        arrays |= {f"{key}_{index}": values for key, values in of_series.items()}
    return arrays


def on_test_sets(methods, names):
    """Of all methods; of the last one only on the first two test sets."""
    arrays, series = against_sparsity(6), [f"{method} · {name}" for method in methods for name in names]
    series = series[: len(series) - len(names) + 2]
    for index in range(6, len(series)):
        arrays |= {f"{key}_{index}": arrays[f"{key}_0"] for key in ("sparsity", "value", "low", "high")}
    return arrays | {"series": series}


def latents(images, pies):
    labels = np.random.default_rng(images).integers(0, 10, images)
    coordinates = np.random.default_rng(images).normal(labels[:, None], 1, (images, 2))
    return {"coordinates": coordinates, "modal_labels": labels, "is_pie": some_pies(images, pies)}


def umap_grid(populations, images, pies):
    arrays = {"class_names": CLASSES, "populations": ["SupCon dense", *TAGS[: populations - 1]]}
    for index in range(populations):
        cell = latents(images, pies)
        arrays |= {f"{name}_{index}": cell[name] for name in cell if index or name != "is_pie"}
    return arrays


def gallery(images):
    pixels = np.random.default_rng(0).integers(0, 256, (images, 3, 8, 8), dtype=np.uint8)
    return {
        "images": pixels,
        "captions": ["true automobile\ndense automobile (28 of 30)\npruned airplane"] * images,
    }


def heat_maps(rows, columns):
    panels = np.random.default_rng(0).random((2, rows, columns))
    texts = [[[f"{value:.2f}" for value in row] for row in panel] for panel in panels]
    names = [f"SupCon {tag}, 90 % pruned" for tag in (TAGS * 4)[:rows]]
    shown = dict(panels=panels, texts=texts, panel_titles=["one", "other"], rows=names, diverging=False)
    return shown | dict(columns=CLASSES[:columns], quantity="Jaccard similarity", xlabel="true class")


def per_class(sets):
    counts = np.random.default_rng(sets).integers(0, 99, (sets + 1, 10))
    return {"class_names": SHORT, "sets": TAGS[:sets], "counts": counts}


def forest(pairs):
    """Two measures: for each pair and their mean a row."""
    rows = [
        *(f"SupCon GMP_global against\nsupervised {tag}, 90 % pruned" for tag in TAGS[:pairs]),
        "mean",
    ] * 2
    value = np.linspace(-1, 2, len(rows))
    return {
        "measures": np.repeat(["accuracy lost (points)", "excess PIEs (images)"], pairs + 1),
        "rows": rows,
        "marks": [("for", "against", "open")[index % 3] for index in range(len(rows))],
        "numbers": [value, value - 0.5, value + 0.5, np.full(len(rows), 0.4)],
    }


KINDS = [
    ("forest", forest(4)),
    ("q_score", q_scores(500, 0)),
    ("prediction_depth", depths(10_000, 1500)),
    ("against_sparsity", against_sparsity(16)),
    ("test_sets", on_test_sets(["SupCon global", "GMP"], [CLEAN, "noise_1", "noise_5", "blur_1"])),
    (
        "test_sets",
        on_test_sets(["SupCon global", "GMP"], [CLEAN, *(f"{name}_severity3" for name in CLASSES + SHORT)]),
    ),
    ("test_sets", on_test_sets("ABCD", [CLEAN, "noise_1", "blur_1", "contrast_1", "jpeg_1"])),
    ("umap", latents(500, 200) | {"class_names": CLASSES}),
    ("umap_grid", umap_grid(6, 2500, 900)),
    ("gallery", gallery(13)),
    ("heat_maps", heat_maps(8, 10)),
    ("heat_maps", heat_maps(26, 10)),
    ("pies_per_class", per_class(8)),
    ("pies_distribution", {"class_names": SHORT, "pies_per_class": np.arange(10) ** 4, "images": 9999}),
]


def all_axes(figure):
    return [axes for panel in figure.axes if panel.get_visible() for axes in (panel, *panel.child_axes)]


def check_nothing_overlaps(figure):
    """Texts and legends are inside the picture, on no other one, and, but for what is written into a panel,
    on no panel."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    outside = [*figure.legends, *(axes.get_legend() for axes in all_axes(figure) if axes.get_legend())]
    outside += [figure._suptitle] if figure._suptitle else []
    for axes in all_axes(figure):
        outside += [axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label]
        for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            ticks = [tick for tick in axis.get_major_ticks() if min(limits) <= tick.get_loc() <= max(limits)]
            outside += [
                label for tick in ticks for label in (tick.label1, tick.label2) if label.get_visible()
            ]
    outside = [text for text in outside if not hasattr(text, "get_text") or text.get_text().strip()]
    boxes = np.array([text.get_window_extent(renderer).extents for text in outside]) + [0.5, 0.5, -0.5, -0.5]
    panels = [axes.get_window_extent(renderer).extents for axes in all_axes(figure)]
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= [figure.bbox.x1, figure.bbox.y1]).all()
    for index, box in enumerate(boxes):
        others = np.concatenate([np.delete(boxes, index, 0), np.array(panels) + [1, 1, -1, -1]])
        hit = ((others[:, :2] < box[2:]) & (others[:, 2:] > box[:2])).all(1)
        assert not hit.any(), (outside[index], np.flatnonzero(hit))


@pytest.mark.parametrize("kind, arrays", KINDS)
def test_nothing_lies_on_anything_else_and_titles_say_what_is_shown(kind, arrays):
    figure = drawn(kind, arrays)
    check_nothing_overlaps(figure)
    title, settings = (text.get_text() for text in (figure._suptitle, figure.artists[-1]))
    words = " ".join([*title.split(), *settings.split()]).replace(" · ", " ")
    assert words.removeprefix(plots.plots.SHOWN.get(kind, "")).split() == TITLE.replace(" · ", " ").split()
    assert "30 networks" in settings and figure.artists[-1].get_fontsize() < figure._suptitle.get_fontsize()


@pytest.mark.parametrize("kind, arrays", KINDS)
def test_on_paper_a_figure_is_a_column_wide_without_title_in_letters_of_8_points(kind, arrays, tmp_path):
    with plots.rc_context(plots.plots.PAPER):
        figure = drawn(kind, arrays, style="paper")
        check_nothing_overlaps(figure)
    assert figure.get_figwidth() == PAPER_WIDTH == 3.25 and figure._suptitle is None and not figure.artists
    sizes = {text.get_fontsize() for text in figure.findobj(Text) if text.get_text().strip()}
    assert sizes == {8}


def test_small_points_of_every_class_are_seen():
    for label in range(10):
        figure = drawn("umap_grid", umap_grid(4, 3000, 900) | {"modal_labels_0": np.full(3000, label)})
        (left, bottom), (right, top) = figure.axes[0].bbox.get_points().astype(int) + [[5], [-5]]
        pixels = np.asarray(figure.canvas.buffer_rgba())[::-1][bottom:top, left:right]
        assert (pixels.min(-1) < 240).mean() > 0.01, CLASSES[label]


def test_letters_in_a_pdf_are_true_type():
    arrays = {key: np.asarray(value) for key, value in per_class(2).items()}
    pdf = plots.picture({"figure": "pies_per_class", "title": TITLE, **arrays}, "pdf")
    assert b"/CIDFontType2" in pdf and b"/Type3" not in pdf


@pytest.mark.parametrize("kind, images, pies", [("q_score", 500, 20), ("prediction_depth", 2000, 300)])
def test_a_cell_has_the_share_of_pies_and_the_sides_all_images(kind, images, pies):
    """Of images with a value in both kinds of networks; some have none."""
    arrays = (q_scores if kind == "q_score" else depths)(images, pies)
    is_pie, names = arrays["is_pie"], ["q_score", "z_score", "l1_norm"] if kind == "q_score" else ["depth"]
    arrays[f"dense_{names[0]}"][np.flatnonzero(~is_pie)[:7]] = np.nan
    figure = drawn(kind, arrays)
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert shown[:2] == [f"other images ({images - pies})", f"PIEs ({pies})"]
    for panel, name in zip(figure.axes, names):
        dense, pruned = arrays[f"dense_{name}"], arrays[f"pruned_{name}"]
        defined = ~np.isnan(dense + pruned)
        [mesh] = panel.collections
        edges, shares = mesh.get_coordinates()[0, :, 0], mesh.get_array()
        cells = np.stack([np.digitize(values, edges) - 1 for values in (pruned, dense)])[:, defined]
        cells = np.minimum(cells, len(edges) - 2)  # the last edge belongs to the last cell
        for row, column in np.unique(cells, axis=1).T:  # rows are pruned networks, columns dense ones
            inside = is_pie[defined][(cells == [[row], [column]]).all(0)]
            assert shares[row, column] == pytest.approx(100 * inside.mean())
        assert shares.count() == len(np.unique(cells, axis=1).T)
        for side, values in zip(panel.child_axes, (dense, pruned)):
            for patch, chosen in zip(side.patches, (defined & ~is_pie, defined & is_pie), strict=True):
                expected = 100 * np.histogram(values[chosen], edges)[0] / chosen.sum()
                assert patch.get_data().values == pytest.approx(expected)
        said = panel.child_axes[0].get_title()
        assert said == ("(7 images without a value)" if name == names[0] else "")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value, pies", [(np.nan, 60), (3.0, 0)])
def test_values_that_are_all_the_same_or_missing_can_be_drawn_with_or_without_pies(value, pies):
    for kind, arrays in (("q_score", q_scores(60, pies)), ("prediction_depth", depths(60, pies))):
        same = {key: np.full(60, value) for key in arrays if key.startswith(("dense", "pruned"))}
        drawn(kind, arrays | same)
    nowhere = dict(pies_per_class=np.zeros(10, int), class_names=SHORT, images=60)
    assert drawn("pies_distribution", nowhere).axes[0].get_ylim() == (0, 1)


@pytest.mark.parametrize("series", [2, 16])
def test_points_are_over_the_tick_of_their_sparsity_and_bars_end_where_intervals_do(series):
    arrays = against_sparsity(series)
    figure = drawn("against_sparsity", arrays)
    panel, styles = figure.axes[0], set()
    ticks = dict(zip((text.get_text() for text in panel.get_xticklabels()), panel.get_xticks()))
    assert ticks == {"0": 0, "0.5": 1, "0.7": 2, "0.9": 3, "0.95": 4, "0.99": 5}
    for index, (line, bars) in enumerate(zip(panel.lines, panel.collections, strict=True)):
        keys = [f"{key}_{index}" for key in ("sparsity", "value", "low", "high")]
        sparsity, value, low, high = (arrays[key][np.argsort(arrays[keys[0]])] for key in keys)
        offsets = line.get_xdata() - [ticks[f"{each:g}"] for each in sparsity]
        assert np.array_equal(line.get_ydata(), value) and np.abs(offsets).max() <= 0.08
        known = ~np.isnan(low)
        expected = [[[x, a], [x, b]] for x, a, b in zip(line.get_xdata()[known], low[known], high[known])]
        assert [segment.tolist() for segment in bars.get_segments()] == expected
        styles.add((line.get_color(), line.get_marker(), line.get_linestyle()))
    assert len(styles) == series
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == [f"{name} (K = 6 or 8)" for name in arrays["series"]]


def test_dense_and_finetuned_networks_look_the_same_in_every_figure():
    arrays = against_sparsity(2) | {"learning_methods": ["supervised"] * 2}
    names = ["supervised finetuned", "supervised dense"]
    for position, series in enumerate((names, names[::-1])):
        panel = drawn("against_sparsity", arrays | {"series": series}).axes[0]
        assert panel.lines[position].get_marker() == plots.line_style(0)[0]


def test_small_multiples_show_every_image_and_pies_in_the_colours_of_their_classes():
    arrays = umap_grid(3, 500, 100)
    for index, panel in enumerate(drawn("umap_grid", arrays).axes[:3]):
        coordinates, labels = arrays[f"coordinates_{index}"], arrays[f"modal_labels_{index}"]
        groups, chosen = list(panel.collections), np.ones(500, bool)
        name, shown = arrays["populations"][index], "100 PIEs" if index else "all images"
        assert panel.get_title().split("\n") == [name, shown]
        if index:
            chosen, others = arrays[f"is_pie_{index}"], groups.pop(0)
            assert np.array_equal(others.get_offsets(), coordinates[~chosen])
        for label, group in zip(np.unique(labels[chosen]), groups, strict=True):
            assert np.array_equal(group.get_offsets(), coordinates[chosen & (labels == label)])
            assert to_hex(group.get_facecolor()[0]) == CLASS_COLOURS[label].lower()


def test_the_colours_of_a_heat_map_are_not_set_by_one_cell():
    arrays = heat_maps(8, 10)
    arrays["panels"][0, 0, 0] = 1000
    assert drawn("heat_maps", arrays).axes[0].images[0].get_clim()[1] <= 1


def test_training_curves_show_the_history():
    entry = {"loss": 2.0, "test_loss": 2.1, "chance_loss": 2.3, "train_accuracy": 0.4, "test_accuracy": 0.3}
    history = [{"epoch": epoch, "sparsity": 0.5, **entry} for epoch in range(4)]
    panels = plots.plots.draw_curves(TITLE, {"head": history}).axes[:2]
    shown = [[(line.get_label(), line.get_ydata()[0]) for line in panel.lines] for panel in panels]
    assert shown[0] == [("training views", 2.0), ("test images", 2.1), ("chance", 2.3)]
    assert shown[1] == [("training views", 40.0), ("test images", 30.0)]
    assert [panel.get_ylabel() for panel in panels] == ["loss", "accuracy (%)"]
