"""Figures of the report, from arrays as common/plots.py describes them; `draw` serves both."""

import io
import textwrap
from itertools import product
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator

from common import plots
from common.corruptions import CLEAN, CORRUPTIONS
from common.plots import (
    BELOW,
    BESIDE,
    CLASS_COLOURS,
    CLASS_MARKERS,
    LINE_COLOUR,
    label_axes,
    names_in,
    plain,
    titled_figure,
)
from common.store.files import read_arrays, write_arrays, write_atomically
from figures.report.read import damaged

METHOD_COLOURS = {"SupCon": CLASS_COLOURS[0], "supervised": "#CC6677", "SimCLR": "#44AA99"}
LINE_STYLES = ("-", "--", ":", "-.")


def draw(arrays: dict) -> Figure:
    """The figure that stored arrays describe, of the report or of a script; errors as in common/plots.py."""
    return plots.draw(arrays, KINDS)


def picture(arrays: dict, form: str = "png") -> bytes:
    """The picture of stored arrays: png, pdf or svg."""
    file = io.BytesIO()
    plots.lay_out(draw(arrays)).savefig(file, format=form, dpi=plots.DPI)
    return file.getvalue()


def store(path: Path, arrays: dict) -> bytes:
    """Writes a figure's arrays and, beside them, its picture, which is returned."""
    write_arrays(path, arrays, {})
    png = picture(read_arrays(path))
    write_atomically(path.with_suffix(".png"), lambda temporary: temporary.write_bytes(png))
    return png


def draw_again(path: Path, form: str = "png") -> bytes:
    """The picture of a figure whose arrays are stored.

    Raises:
        UserError: they are not those of a figure.
    """
    try:
        return picture(read_arrays(path) or {}, form)
    except (ValueError, KeyError, TypeError, IndexError, OverflowError):
        raise damaged(path) from None


def draw_heat_maps(arrays: dict) -> Figure:
    """Heat maps, two in a row: `panels` (P, R, C) with `panel_titles` (P,), names of `rows` (R,) and
    `columns` (C,), `texts` (P, R, C) written into the cells; `diverging` () colours around 0; what the
    colours and the columns are, `quantity` and `xlabel` ()."""
    panels, titles = arrays["panels"].astype(float), names_in(arrays, "panel_titles")
    rows, columns = names_in(arrays, "rows"), names_in(arrays, "columns")
    cell = 0.14 + 0.07 * max(map(len, arrays["texts"].ravel()))  # inches
    across = 1 if len(titles) == 1 or cell * len(columns) > 4 else 2
    width = [
        max(cell * len(columns), *(0.07 * len(title) for title in titles[i::across])) for i in range(across)
    ]
    height, deep = 0.28 * len(rows) + 0.5, -(-len(titles) // across)
    beside, below = (0.09 * max(map(len, names)) for names in (rows, columns))
    tall = max(1.6, deep * height)
    size = max(6.5, sum(width) + 1.3 + 0.2 * across + beside), 0.9 + tall + below
    figure, grid = titled_figure(arrays, *size, deep, across, width_ratios=width)
    highest, diverging = np.nanmax(np.abs(panels), initial=0) or 1, bool(arrays["diverging"])
    colours = dict(cmap="PuOr" if diverging else "cividis", vmin=-highest * diverging, vmax=highest)
    for index, (panel, values) in enumerate(zip(grid, panels)):
        image = panel.imshow(values, aspect="auto", **colours)
        panel.set_yticks(range(len(rows)), rows, fontsize=9)
        panel.set_xticks(range(len(columns)), columns, fontsize=9, rotation=90)
        panel.tick_params(labelleft=index % across == 0, labelbottom=index + across >= len(titles))
        panel.set(facecolor="#EEEEEE")  # seen where there is no value
        panel.set_title(titles[index], x=0, ha="left")  # seen before a wide map is scrolled
        darkness = image.to_rgba(values) @ (-0.299, -0.587, -0.114, 1)  # 0 where there is no value
        for (row, column), text in np.ndenumerate(arrays["texts"][index]):
            colour = "white" if darkness[row, column] > 0.5 else "black"
            # Inside the panel: nothing to be measured for the layout, which would take most of the time.
            look = dict(ha="center", va="center", fontsize=8, color=colour, in_layout=False)
            panel.text(column, row, text, **look)
    bar = dict(ax=list(grid), fraction=0.3 / size[0], aspect=40, pad=0.02)
    quantity = textwrap.fill(plain(arrays.get("quantity", "")), int(11 * tall))
    figure.colorbar(image, label=quantity, **bar)
    grid[-1].set_xlabel(plain(arrays.get("xlabel", "")))
    return figure


def draw_pies_per_class(arrays: dict) -> Figure:
    """PIEs of several sets per true class, stacked: `counts` (G + 1, C), unique to each of `sets` (G,), then
    in two sets or more; `class_names` (C,)."""
    names, counts = names_in(arrays), arrays["counts"]
    sets = [*(f"only {name}" for name in arrays["sets"]), "in two sets or more"]
    size = max(8.0, 0.6 * len(names) + 3), max(4.4, 0.17 * len(sets) + 1.23)
    figure, (panel,) = titled_figure(arrays, *size)
    for g, (label, row) in enumerate(zip(sets, counts)):
        shared = g == len(sets) - 1
        panel.bar(
            range(len(names)),
            row,
            bottom=counts[:g].sum(0),
            label=f"{label} ({row.sum()})",
            color="#BBBBBB" if shared else CLASS_COLOURS[g % 10],
            hatch="" if shared else ("", "///", "...", "xxx")[g // 10 % 4],
            edgecolor="white",
            linewidth=0.4,
        )
    plots.label_classes(panel, names, "each image once")
    panel.legend(**BESIDE)
    return figure


def square_root_scale(panel: Axes, which: str, highest: float) -> None:
    """Counts up to `highest` on the axis `x` or `y` with a square-root scale, where few are told apart beside
    many and the errors of all are about as long; with ticks that do not collide."""
    highest = max(1, highest)
    axis, ticks, apart = getattr(panel, f"{which}axis"), [0.0], np.sqrt(highest) / 9
    for tick in np.outer(10.0 ** np.arange(6), (1, 2, 5)).ravel():
        if np.sqrt(tick) - np.sqrt(ticks[-1]) > apart:
            ticks.append(tick)
    functions = lambda count: np.sign(count) * np.sqrt(np.abs(count)), lambda root: root * np.abs(root)
    getattr(panel, f"set_{which}scale")("function", functions=functions)
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter("{x:g}")
    panel.set(**{f"{which}lim": (-0.002 * highest, 1.1 * highest)})  # what is at 0 is seen


def draw_lines(panel: Axes, arrays: dict, looks: dict[int, tuple[str, str, str]]) -> bool:
    """The series at these places among those of `draw_against_sparsity`, in looks of label, style and colour;
    whether some have an interval."""
    all_ = [values for key, values in arrays.items() if key.startswith("sparsity_")]
    sparsities, with_intervals = np.unique(np.concatenate(all_)), False
    for order, (index, (label, style, colour)) in enumerate(looks.items()):
        columns = [arrays[f"{key}_{index}"] for key in ("sparsity", "value", "low", "high")]
        sparsity, value, low, high = np.array(columns)[:, np.argsort(columns[0])]
        # Beside one another, so that no interval hides another.
        place = np.searchsorted(sparsities, sparsity) + 0.7 * ((order + 0.5) / len(looks) - 0.5)
        known = np.isfinite(low + high)
        panel.vlines(place[known], low[known], high[known], color=colour, linewidth=1.1, alpha=0.7)
        edge = dict(markersize=5, markeredgecolor="white", markeredgewidth=0.4)
        panel.plot(place, value, style, color=colour, linewidth=1, label=label, **edge)
        with_intervals |= known.any()
    panel.set_xticks(range(len(sparsities)), [f"{100 * sparsity:g}" for sparsity in sparsities])
    panel.set_xticks(np.arange(len(sparsities) + 1) - 0.5, minor=True)
    panel.grid(which="minor", axis="x", color="#E4E4E4")  # between what is of one sparsity
    panel.tick_params(which="minor", length=0)
    panel.set_xlim(-0.5, len(sparsities) - 0.5)
    return with_intervals


def line_style(kind: int) -> str:
    """Marker and line of the series of a kind."""
    return f"{CLASS_MARKERS[kind % 10]}{LINE_STYLES[(kind + kind // 10) % 4]}"


def draw_against_sparsity(arrays: dict) -> Figure:
    """A number against sparsity: `ylabel`, `series` and `learning_methods` (S,), and for each series s
    `sparsity_s`, `value_s`, `low_s`, `high_s` (n,), NaN where there is no interval. `counts` () where the
    number is one of images."""
    series, methods = names_in(arrays, "series"), names_in(arrays, "learning_methods")
    pruning = [name.replace(method, "").strip() for name, method in zip(series, methods)]
    # The same marker for all learning methods, and whether or not dense networks have the number.
    kinds = sorted(dict.fromkeys(pruning), key=lambda kind: kind == "dense")
    sparsities = np.unique(np.concatenate([arrays[f"sparsity_{index}"] for index in range(len(series))]))
    width = max(6.5, 0.08 * len(series) * len(sparsities)) + 0.075 * max(map(len, series)) + 0.6
    figure, (panel,) = titled_figure(arrays, width, max(4.2, 0.19 * len(series) + 1.4))
    looks = {
        index: (name, line_style(kinds.index(kind)), METHOD_COLOURS.get(method, LINE_COLOUR))
        for index, (name, kind, method) in enumerate(zip(series, pruning, methods))
    }
    with_intervals = draw_lines(panel, arrays, looks)
    ylabel = plain(arrays["ylabel"])
    if "counts" in arrays:
        square_root_scale(panel, "y", panel.dataLim.y1)
        ylabel += ", square-root scale"
    label_axes(panel, "sparsity (%), not to scale", ylabel)
    panel.legend(**BESIDE, handlelength=3, title="bars: 95 % intervals" if with_intervals else None)
    return figure


def draw_test_sets(arrays: dict) -> Figure:
    """What `draw_against_sparsity` takes, of series named METHOD · TEST_SET: a row of panels for each kind
    of test set, beside the clean images, a column for each method."""
    series = [name.split(" · ") for name in names_in(arrays, "series")]
    kinds: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for _, name in series if name != CLEAN):
        kinds.setdefault(CORRUPTIONS.get(name, ("other images",))[0], [CLEAN]).append(name)
    methods = list(dict.fromkeys(method for method, _ in series))
    shape, colours = (len(kinds), len(methods)), [LINE_COLOUR, CLASS_COLOURS[6], *CLASS_COLOURS]
    size = 2.9 * shape[1] + 2, 1.9 * shape[0] + 0.9
    figure, panels = titled_figure(arrays, *size, *shape, sharex=True, sharey=True)
    for panel, ((kind, names), method) in zip(panels, product(kinds.items(), methods)):
        styles = {name: (line_style(place), colours[place % 12]) for place, name in enumerate(names)}
        looks = {
            index: ("", *styles[name])
            for index, (own, name) in enumerate(series)
            if own == method and name in names
        }
        draw_lines(panel, arrays, looks)
        label_axes(panel, "", f"{kind}\n{plain(arrays['ylabel'])}" * (method == methods[0]))
        if method == methods[-1]:  # all test sets of the row, also those that this method lacks
            for name, (style, colour) in styles.items():
                panel.plot([], [], style, color=colour, linewidth=1, markersize=5, label=name)
            panel.legend(**BESIDE, handlelength=3)
    for top, bottom, method in zip(panels, panels[-shape[1] :], methods):
        top.set_title(method)
        bottom.set_xlabel("sparsity (%), not to scale")
    if "counts" in arrays:
        square_root_scale(panel, "y", max(panel.dataLim.y1 for panel in panels))
    return figure


def draw_umap_grid(arrays: dict) -> Figure:
    """UMAPs in rows and columns: `class_names` (C,), `rows`, `columns` names, and for row r and column c,
    where there are networks, `coordinates_r_c` (N, 2), `modal_labels_r_c` (N,), and for pruned ones
    `is_pie_r_c` (N,)."""
    names, rows, columns = (names_in(arrays, key) for key in ("class_names", "rows", "columns"))
    side = np.clip(9.2 / len(columns), 1.2, 2.6)
    width = max(7.0, side * len(columns) + 1.8)
    deep = -(-len(names) // max(1, int(width / (0.075 * max(map(len, names)) + 0.45))))  # of the legend
    height = (side + 0.18) * len(rows) + 0.18 * deep + 0.8
    figure, grid = titled_figure(arrays, width, height, len(rows), len(columns))
    for (row, column), panel in np.ndenumerate(grid.reshape(len(rows), len(columns))):
        cell = f"_{row}_{column}"
        plots.square_units(panel)
        panel.spines[:].set_color("#BBBBBB")
        if row == 0:
            panel.set_title(columns[column])
        if column == 0:
            panel.set_ylabel(_broken(rows[row]), fontsize=9, rotation=0, ha="right", va="center")
        if f"coordinates{cell}" not in arrays:
            style = dict(ha="center", va="center", color="#888888", fontsize=8)
            panel.text(0.5, 0.5, "no networks", transform=panel.transAxes, **style)
            continue
        coordinates, labels = arrays[f"coordinates{cell}"], arrays[f"modal_labels{cell}"]
        size = side * (2 if len(labels) <= 2000 else 0.4)
        plots.draw_classes(panel, coordinates, labels, names, size)
        if f"is_pie{cell}" in arrays:
            pies = coordinates[arrays[f"is_pie{cell}"]]
            style = plots.pie_style(len(pies) * (3 / side) ** 2, "black")  # in a small panel few are many
            panel.scatter(*pies.T, **style | {"s": 0.35 * side * style["s"]})
            panel.set_xlabel(f"{len(pies)} PIEs", fontsize=8, loc="right", labelpad=2)
    handles = [
        Line2D([], [], linestyle="", markersize=5, label=name, **plots.class_style(label))
        for label, name in enumerate(names)
    ]
    with_pies = any(key.startswith("is_pie_") for key in arrays)
    title = f"modal label{'; open triangles: PIEs' * with_pies}"
    figure.legend(handles=handles, loc=BELOW, ncols=-(-len(names) // deep), title=title)
    return figure


def _broken(name: str) -> str:
    """Learning and pruning method in short lines: between the two, and a long one after underscores."""
    lines = [textwrap.fill(word.replace("_", "_ "), 20) for word in name.split(" ")]
    return "\n".join(lines).replace("_ ", "_")


def draw_gallery(arrays: dict) -> Figure:
    """Images with captions, six in a row: `images` (G, 3, H, W) of bytes, `captions` (G,) of short lines."""
    captions = [
        "\n".join(textwrap.fill(line, 26) for line in caption.split("\n"))
        for caption in names_in(arrays, "captions")
    ]
    across, deep = min(6, len(captions)), -(-len(captions) // 6)
    height = 1.95 + 0.14 * max(caption.count("\n") for caption in captions)
    figure, panels = titled_figure(arrays, max(6.0, 1.8 * across), height * deep + 0.4, deep, across)
    figure.set_layout_engine("compressed")  # square images leave no gaps
    for panel in panels:
        panel.set(xticks=[], yticks=[])
        panel.spines[:].set_visible(False)
    for panel, image, caption in zip(panels, arrays["images"], captions):
        panel.imshow(image.transpose(1, 2, 0), interpolation="nearest")
        panel.set_xlabel(caption, fontsize=8, labelpad=2)
    return figure


KINDS = plots.KINDS | {
    "heat_maps": draw_heat_maps,
    "pies_per_class": draw_pies_per_class,
    "against_sparsity": draw_against_sparsity,
    "test_sets": draw_test_sets,
    "umap_grid": draw_umap_grid,
    "gallery": draw_gallery,
}
