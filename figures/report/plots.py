"""Figures of the report, drawn from stored arrays like those of common/plots.py; `draw` draws both."""

import io
import textwrap
from collections.abc import Iterable
from itertools import product
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from common import plots
from common.corruptions import CLEAN, CORRUPTIONS
from common.methods import FINETUNED
from common.plots import (
    BESIDE,
    CLASS_COLOURS,
    CLASS_MARKERS,
    GREY,
    LINE_COLOUR,
    add_legend,
    is_paper,
    label_axes,
    names_in,
    plain,
    titled_figure,
)
from common.store.files import read_arrays, write_arrays, write_atomically
from figures.report.read import damaged

METHOD_COLOURS = {"SupCon": CLASS_COLOURS[0], "supervised": "#CC6677", "SimCLR": "#44AA99"}
MARK_COLOURS = {"for": "#117733", "against": "#D55E00", "open": "#666666"}
LINE_STYLES = ("-", "--", ":", "-.")


def draw(arrays: dict) -> Figure:
    """Draws the figure that stored arrays describe, of the report or of a script; errors as in
    common/plots.py."""
    return plots.draw(arrays, KINDS)


def picture(arrays: dict, form: str = "png") -> bytes:
    """Renders the figure of stored arrays as png, pdf or svg."""
    file = io.BytesIO()
    with rc_context(plots.PAPER if is_paper(arrays) else {}):
        plots.lay_out(draw(arrays)).savefig(file, format=form, dpi=plots.DPI)
    return file.getvalue()


def store(path: Path, arrays: dict) -> bytes:
    """Stores the arrays of a figure and, beside them, its PNG; returns the PNG."""
    write_arrays(path, arrays, {})
    png = picture(read_arrays(path))
    write_atomically(path.with_suffix(".png"), lambda temporary: temporary.write_bytes(png))
    return png


def draw_again(path: Path, form: str = "png", style: str = "screen") -> tuple[bytes, str]:
    """Redraws a stored figure; returns the picture, and its title, settings and names of numbered rows.

    Raises:
        UserError: the arrays are not those of a figure.
    """
    try:
        arrays = (read_arrays(path) or {}) | {"style": style}
        rows = arrays["rows"] if arrays["figure"] == "heat_maps" else ()
        return picture(arrays, form), "\n".join([*plots.title_lines(arrays), *rows])
    except (ValueError, KeyError, TypeError, IndexError, OverflowError):
        raise damaged(path) from None


def draw_heat_maps(arrays: dict) -> Figure:
    """Draws heat maps: `panels` (P, R, C) with `panel_titles` (P,), names of `rows` (R,) and `columns` (C,),
    `texts` (P, R, C) in the cells; `diverging` (): colours around 0; `quantity` and `xlabel` (): labels of
    colours and columns. On paper the rows are numbered."""
    panels, titles = arrays["panels"].astype(float), names_in(arrays, "panel_titles")
    rows, columns, paper = names_in(arrays, "rows"), names_in(arrays, "columns"), is_paper(arrays)
    if paper:
        rows = [str(number) for number in range(1, 1 + len(rows))]
    cell = 0.14 + 0.07 * max(map(len, arrays["texts"].ravel()))  # inches
    left, bottom = (0.08 * max(map(len, names)) for names in (rows, columns))
    height = len(titles) * (0.27 * len(rows) + 0.3 + bottom) + 0.9
    figure, grid = titled_figure(arrays, max(6.5, cell * len(columns) + 1.3 + left), height, len(titles))
    if paper:  # room for the number of every row
        needed = len(titles) * (0.14 * len(rows) + 0.3) + 1
        figure.set_figheight(max(figure.get_figheight(), needed))
    # Clip colours at a percentile, so that a few large values do not hide other differences.
    highest, diverging = np.nanpercentile(np.abs(panels), 98) or 1, bool(arrays["diverging"])
    colours = dict(cmap="PuOr" if diverging else "cividis", vmin=-highest * diverging, vmax=highest)
    for panel, title, values, texts in zip(grid, titles, panels, arrays["texts"]):
        image = panel.imshow(values, aspect="auto", **colours)
        panel.set_yticks(range(len(rows)), rows, fontsize=8)
        panel.set_xticks(range(len(columns)), columns, fontsize=8, rotation=90 * (bottom > 0.2))
        panel.spines[:].set_visible(False)
        panel.set_title(title, x=0, ha="left")  # visible before a wide map is scrolled
        if paper and cell * len(columns) > 3:  # too narrow for numbers
            texts = np.where(np.char.find(texts, "*") >= 0, "*", "")
        for (row, column), text in np.ndenumerate(texts):
            is_extreme = abs(values[row, column]) > 0.5 * highest  # dark if diverging, else bright
            colour = "black" if is_extreme != diverging else "white"
            # Measuring texts for the layout would take most of the time, and they are inside the panel.
            look = dict(ha="center", va="center", fontsize=8, color=colour, in_layout=False)
            panel.text(column, row, text, **look)
    figure.colorbar(
        image,
        ax=list(grid),
        aspect=40,
        pad=0.02,
        location="bottom" if paper else "right",
        label=textwrap.fill(plain(arrays["quantity"]), 48 if paper else int(9 * height)),
        extend="both" if diverging else "max",
    )
    grid[-1].set_xlabel(plain(arrays["xlabel"]))
    return figure


def draw_pies_per_class(arrays: dict) -> Figure:
    """Draws PIEs of several sets per true class, stacked: `counts` (G + 1, C), first those unique to each of
    `sets` (G,), then those in two sets or more; `class_names` (C,)."""
    names, counts = names_in(arrays), arrays["counts"]
    sets = [*(f"only {name}" for name in arrays["sets"]), "in two sets or more"]
    figure, (panel,) = titled_figure(arrays, max(7.0, 0.6 * len(names)), 3.2)
    for g, (label, row) in enumerate(zip(sets, counts)):
        shared = g == len(sets) - 1
        panel.bar(
            range(len(names)),
            row,
            bottom=counts[:g].sum(0),
            label=f"{label} ({row.sum()})",
            color=GREY if shared else CLASS_COLOURS[g % 10],
            hatch="" if shared else ("", "///", "...", "xxx")[g // 10 % 4],
            edgecolor="white",
        )
    plots.label_classes(panel, names, "each image once")
    add_legend(figure, panel.containers[::-1])
    return figure


def scale_y(panels: Iterable[Axes], counts: bool) -> None:
    """Gives all panels the same ticks, the last one above the highest point. `counts` are on a square-root
    scale, which separates small numbers and makes error bars about equally long."""
    ends = np.array([panel.dataLim.intervaly for panel in panels])
    ends = ends[np.isfinite(ends).all(1)]
    if not ends.size:
        return
    ticks = MaxNLocator(6).tick_values(0 if counts else ends.min(), ends.max())
    for panel in panels:
        if counts:
            roots = lambda count: np.sign(count) * np.sqrt(np.abs(count)), lambda root: root * np.abs(root)
            panel.set_yscale("function", functions=roots)
        panel.set(yticks=ticks, ylim=ticks[[0, -1]])


def draw_lines(panel: Axes, arrays: dict, looks: dict[int, tuple[str, str, str]]) -> None:
    """Draws series of `draw_against_sparsity`; `looks` maps their indices to label, style and colour."""
    sparsities = np.unique(np.concatenate([arrays[key] for key in arrays if key.startswith("sparsity_")]))
    for rank, (index, (label, style, colour)) in enumerate(looks.items()):
        columns = [arrays[f"{key}_{index}"] for key in ("sparsity", "value", "low", "high")]
        sparsity, value, low, high = np.array(columns)[:, np.argsort(columns[0])]
        # Shift series slightly, so that intervals do not overlap.
        position = np.searchsorted(sparsities, sparsity) + 0.16 * ((rank + 0.5) / len(looks) - 0.5)
        has_interval = np.isfinite(low + high)
        panel.vlines(
            position[has_interval],
            low[has_interval],
            high[has_interval],
            color=colour,
            linewidth=1.1,
            alpha=0.7,
        )
        edge = dict(markersize=5, markeredgecolor="white", markeredgewidth=0.4)
        panel.plot(position, value, style, color=colour, linewidth=1, label=label, clip_on=False, **edge)
    panel.set_xticks(range(len(sparsities)), [f"{sparsity:g}" for sparsity in sparsities])
    panel.set_xlim(-0.4, len(sparsities) - 0.6)


def line_style(kind: int) -> str:
    """Returns marker and line style of a kind of series."""
    return f"{CLASS_MARKERS[kind % 10]}{LINE_STYLES[(kind + kind // 10) % 4]}"


def draw_against_sparsity(arrays: dict) -> Figure:
    """Draws a number against sparsity: `ylabel`, `series`, `learning_methods` and numbers of `networks` (S,),
    and for each series s `sparsity_s`, `value_s`, `low_s`, `high_s` (n,), NaN without an interval. `counts`
    (): the number counts images; `zero` (): the name of a line at 0."""
    series, methods = names_in(arrays, "series"), names_in(arrays, "learning_methods")
    pruning = [name.replace(method, "").strip() for name, method in zip(series, methods)]
    # All learning methods share markers; the absence of the last kinds does not change those of the others.
    kinds = sorted(dict.fromkeys(pruning), key=lambda kind: (kind == "dense", kind == FINETUNED))
    figure, (panel,) = titled_figure(arrays, 7.5, 3.4)
    looks = {
        index: (
            f"{name} (K = {number})",
            line_style(kinds.index(kind)),
            METHOD_COLOURS.get(method, LINE_COLOUR),
        )
        for index, (name, number, kind, method) in enumerate(
            zip(series, arrays["networks"], pruning, methods)
        )
    }
    draw_lines(panel, arrays, looks)
    if "zero" in arrays:
        # In front of the axis, which may lie there too.
        look = dict(color=LINE_COLOUR, linestyle=":", linewidth=1.5, zorder=3, clip_on=False)
        panel.axhline(0, label=str(arrays["zero"]), **look)
    label_axes(panel, "sparsity (not to scale)", plain(arrays["ylabel"]))
    scale_y([panel], "counts" in arrays)
    has_intervals = any(bars.get_segments() for bars in panel.collections)
    title = "bars: 95 % intervals" if has_intervals else None
    add_legend(figure, panel.get_legend_handles_labels()[0], handlelength=3, title=title)
    return figure


def draw_test_sets(arrays: dict) -> Figure:
    """Draws arrays of `draw_against_sparsity` for series named METHOD · TEST_SET: a row of panels per kind
    of test set, which also shows the clean images, and a column per method."""
    series = [name.split(" · ") for name in names_in(arrays, "series")]
    kinds: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for _, name in series if name != CLEAN):
        kinds.setdefault(CORRUPTIONS.get(name, ("other images",))[0], [CLEAN]).append(name)
    methods = list(dict.fromkeys(method for method, _ in series))
    rows, columns, colours = len(kinds), len(methods), [LINE_COLOUR, CLASS_COLOURS[6], *CLASS_COLOURS]
    ylabel = plain(arrays["ylabel"]).replace(", ", "\n")  # as long as a low panel
    if is_paper(arrays):
        rows, columns = rows * columns, 1
    longest = max(map(len, kinds.values()))  # legend
    size = 3.1 * columns + 2, max(2.1, 0.17 * longest + 0.3) * rows + 0.5
    figure, panels = titled_figure(arrays, *size, rows, columns, sharex=True, sharey=True)
    for panel, ((kind, names), method) in zip(panels, product(kinds.items(), methods)):
        styles = {name: (line_style(rank), colours[rank % 12]) for rank, name in enumerate(names)}
        looks = {
            index: ("", *styles[name])
            for index, (pruning, name) in enumerate(series)
            if pruning == method and name in names
        }
        draw_lines(panel, arrays, looks)
        label_axes(panel, "", f"{kind}\n{ylabel}", method)
        if is_paper(arrays) or method == methods[-1]:
            # The legend names all test sets of the row, even if this method lacks some.
            for name, (style, colour) in styles.items():
                panel.plot([], [], style, color=colour, linewidth=1, markersize=5, label=name)
            panel.legend(**BESIDE, handlelength=3)
    for panel in panels[-columns:]:
        panel.set_xlabel("sparsity (not to scale)")
        panel.tick_params(axis="x", rotation=90)
    scale_y(panels, "counts" in arrays)
    return figure


def draw_umap_grid(arrays: dict) -> Figure:
    """Draws UMAPs side by side: `class_names` (C,), names of `populations` (P,), and for each population p
    `coordinates_p` (N, 2), `modal_labels_p` (N,), and for pruned ones `is_pie_p` (N,)."""
    populations = names_in(arrays, "populations")
    columns = min(len(populations), 2 if is_paper(arrays) else 4)
    rows = -(-len(populations) // columns)
    figure, panels = titled_figure(arrays, max(5.5, 2.8 * columns), 3.3 * rows, rows, columns)
    for panel in panels[len(populations) :]:
        panel.set_visible(False)
    for index, (panel, population) in enumerate(zip(panels, populations)):
        is_pie = arrays.get(f"is_pie_{index}")
        cell = arrays[f"coordinates_{index}"], arrays[f"modal_labels_{index}"]
        plots.draw_latents(panel, *cell, is_pie)
        panel.spines[:].set_color(GREY)
        name = textwrap.fill(population.replace("_", "_ "), 24).replace("_ ", "_")  # breaks after _
        shown = "all images" if is_pie is None else f"{is_pie.sum()} PIEs"
        panel.set_title(f"{name}\n{shown}", fontsize=8)
    add_legend(figure, plots.class_handles(names_in(arrays)), title=plots.LATENTS_LEGEND)
    return figure


def draw_gallery(arrays: dict) -> Figure:
    """Draws images with captions, six per row: `images` (G, 3, H, W) uint8, `captions` (G,) of short
    lines."""
    captions = [
        "\n".join(textwrap.fill(line, 26) for line in caption.split("\n"))
        for caption in names_in(arrays, "captions")
    ]
    captions = captions[:8] if is_paper(arrays) else captions
    columns = min(2 if is_paper(arrays) else 6, len(captions))
    rows = -(-len(captions) // columns)
    height = 1.95 + 0.14 * max(caption.count("\n") for caption in captions)
    figure, panels = titled_figure(arrays, max(6.0, 1.8 * columns), height * rows + 0.4, rows, columns)
    figure.set_layout_engine("compressed")  # without gaps between square images
    for panel in panels:
        panel.set(xticks=[], yticks=[])
        panel.spines[:].set_visible(False)
    for panel, image, caption in zip(panels, arrays["images"], captions):
        panel.imshow(image.transpose(1, 2, 0), interpolation="nearest")
        panel.set_xlabel(caption, fontsize=8, labelpad=2)
    return figure


def draw_forest(arrays: dict) -> Figure:
    """Draws differences with 95 % intervals, a panel per measure: `measures`, `rows` and `marks` (D,) (for,
    against or open), and `numbers` (4, D): value, low, high and the smallest difference that matters, NaN
    without an interval. The last row of a measure is its mean."""
    rows, measures = np.array(names_in(arrays, "rows")), np.array(names_in(arrays, "measures"))
    lines = {name: list(dict.fromkeys(rows[measures == name])) for name in dict.fromkeys(measures.tolist())}
    sizes = [*map(len, lines.values())]
    height = 0.32 * sum(sizes) + 0.6 * len(sizes)
    figure, panels = titled_figure(arrays, 4.5, height, len(sizes), 1, height_ratios=sizes)  # fits a phone
    for panel, (name, labels) in zip(panels, lines.items()):
        for mark, colour in MARK_COLOURS.items():
            if mark not in arrays["marks"]:
                continue
            selected = (measures == name) & (arrays["marks"] == mark)
            value, low, high, smallest = arrays["numbers"][:, selected]
            positions = [labels.index(row) for row in rows[selected]]
            panel.barh(positions, 2 * smallest, left=-smallest, height=1, color="#E8E8E8")
            panel.hlines(positions, low, high, color=colour)
            panel.plot(value, positions, "D", color=colour, markersize=5, label=mark)
        panel.axvline(0, color=LINE_COLOUR, linewidth=0.8)
        panel.set_yticks(range(len(labels)), labels)
        panel.tick_params(labelsize=8)
        panel.set_ylim(len(labels) - 0.5, -0.5)
        label_axes(panel, textwrap.fill(name, 22 if is_paper(arrays) else 50), "")
        panel.xaxis.label.set_size(8)
    handles = panels[0].get_legend_handles_labels()[0]
    add_legend(figure, handles, title="lines: 95 % intervals; grey: less than d")
    return figure


KINDS = plots.KINDS | {
    "forest": draw_forest,
    "heat_maps": draw_heat_maps,
    "pies_per_class": draw_pies_per_class,
    "against_sparsity": draw_against_sparsity,
    "test_sets": draw_test_sets,
    "umap_grid": draw_umap_grid,
    "gallery": draw_gallery,
}
