"""Figures from stored arrays: pure functions from arrays to a matplotlib figure. Importing this costs a second: only when drawing.

Every .npz of a figure holds `figure` (its kind), `title` and what the kind needs; `draw` turns it into the picture again.
"""

import textwrap
from pathlib import Path

import matplotlib
import matplotlib.ticker
import numpy as np
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from common.store.files import write_atomically

matplotlib.use("Agg")

# Paul Tol's muted scheme and black: ten colours that colour-blind readers tell apart; markers tell them apart a second time.
CLASS_COLOURS = (
    "#332288",
    "#88CCEE",
    "#44AA99",
    "#117733",
    "#999933",
    "#DDCC77",
    "#CC6677",
    "#882255",
    "#AA4499",
    "#000000",
)
CLASS_MARKERS = ("o", "s", "^", "v", "D", "P", "X", "<", ">", "*")
REST_COLOUR, PIE_COLOUR, LINE_COLOUR = "#7A9CC6", "#D55E00", "#333333"
DENSITY_COLOURS = LinearSegmentedColormap.from_list(
    "density", ("#C9D9EA", REST_COLOUR, "#0B2545")
)  # a single image is seen on white
METHOD_COLOURS = {"SupCon": CLASS_COLOURS[0], "supervised": "#CC6677", "SimCLR": "#44AA99"}
LINE_STYLES = ("-", "--", ":", "-.")
DPI = 130


def save_figure(path: Path, figure: Figure) -> None:
    """Writes a picture in the format of its ending, atomically."""
    write_atomically(path, lambda temporary: figure.savefig(temporary, format=path.suffix[1:], dpi=DPI))


def draw(arrays: dict) -> Figure:
    """The figure that stored arrays describe.

    Raises:
        ValueError: arrays that are not those of a figure.
    """
    kinds = {
        "curves": draw_curves,
        "umap": draw_umap,
        "q_score": draw_q_score,
        "prediction_depth": draw_prediction_depth,
        "pies_distribution": draw_pies_distribution,
        "heat_maps": draw_heat_maps,
        "pies_per_class": draw_pies_per_class,
        "against_sparsity": draw_against_sparsity,
        "umap_grid": draw_umap_grid,
        "noise_floor": draw_noise_floor,
        "gallery": draw_gallery,
    }
    kind = str(arrays.get("figure"))
    if kind not in kinds:
        raise ValueError("no figure is stored in these arrays")
    return kinds[kind](arrays)


def _titled_figure(arrays: dict, width: float, height: float) -> Figure:
    letters = int(11 * width)  # of size 10 in a line
    lines = (
        _plain(arrays["title"]).replace(" ", "\xa0").replace("\xa0·\xa0", " · ").split("\n")
    )  # breaks between facts only
    lines = [part.strip(" ·") for line in lines for part in textwrap.wrap(line, letters)]
    figure = Figure(
        figsize=(width, height + 0.16 * max(0, len(lines) - 1)), layout="constrained"
    )  # a long title takes nothing from the panels
    figure.suptitle("\n".join(lines), fontsize=10)
    return figure


def _figure(arrays: dict, panels: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    figure = _titled_figure(arrays, width, height)
    return figure, figure.subplots(1, panels, squeeze=False)[0]


def _plain(text) -> str:
    """Text that matplotlib shows as it is: no mathematics between dollar signs, no label hidden by a leading underscore."""
    text = str(text).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def _labels(axes, xlabel: str, ylabel: str, title: str = "") -> None:
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.set_title(title, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)


def draw_curves(arrays: dict) -> Figure:
    """Training curves: `stages`, and for each stage s `s_epoch`, `s_loss`, `s_chance_loss`, and where they exist `s_test_loss`,
    `s_train_accuracy`, `s_test_accuracy`, and `s_sparsity`, drawn grey behind the loss."""
    stages = [str(stage) for stage in arrays["stages"]]
    panels = [
        (stage, quantity)
        for stage in stages
        for quantity in ("loss", "accuracy")
        if f"{stage}_{'train_' * (quantity == 'accuracy')}{quantity}" in arrays
    ]
    figure, axes = _figure(arrays, len(panels), 4.2 * len(panels), 3.4)
    for panel, (stage, quantity) in zip(axes, panels):
        epoch = arrays[f"{stage}_epoch"] + 1
        train = arrays[f"{stage}_loss" if quantity == "loss" else f"{stage}_train_accuracy"]
        scale = 100 if quantity == "accuracy" else 1
        panel.plot(
            epoch,
            scale * train,
            color=CLASS_COLOURS[0],
            label="training views",
            marker="." if len(epoch) < 3 else "",
        )
        if f"{stage}_test_{quantity}" in arrays:
            panel.plot(
                epoch,
                scale * arrays[f"{stage}_test_{quantity}"],
                color=PIE_COLOUR,
                linestyle="--",
                label="test images",
            )
        if quantity == "loss":
            if f"{stage}_sparsity" in arrays:
                _draw_sparsity(panel, epoch, arrays[f"{stage}_sparsity"])
            panel.axhline(
                arrays[f"{stage}_chance_loss"][0],
                color=LINE_COLOUR,
                linestyle=":",
                linewidth=1,
                label="chance",
            )
        _labels(panel, "epoch", "loss" if quantity == "loss" else "accuracy (%)", stage)
        panel.legend(fontsize=8, frameon=False)
    return figure


def _draw_sparsity(panel, epoch: np.ndarray, sparsity: np.ndarray) -> None:
    """The sparsity at the end of each epoch, grey, on a second axis."""
    second = panel.twinx()
    second.fill_between(epoch, 100 * sparsity, step="post", color="#DDDDDD", linewidth=0)
    second.set_ylabel("sparsity (%), grey")
    second.set_ylim(0, 100)
    second.spines[["top"]].set_visible(False)
    panel.set_zorder(second.get_zorder() + 1)  # curves before the grey
    panel.patch.set_visible(False)


def draw_umap(arrays: dict) -> Figure:
    """UMAP of latents: `coordinates` (N, 2), `modal_labels` (N,), `class_names` (C,), and for pruned networks `is_pie` (N,), which
    adds a second picture with the PIEs marked."""
    coordinates, labels = arrays["coordinates"], arrays["modal_labels"]
    class_names = [str(name) for name in arrays["class_names"]]
    with_pies = "is_pie" in arrays
    figure, axes = _figure(arrays, 1 + with_pies, 6.6 + 5.2 * with_pies, 5.2)
    size = 14 if len(labels) <= 2000 else 4
    _draw_classes(axes[0], coordinates, labels, class_names, size)
    _labels(axes[0], "UMAP 1", "UMAP 2", "classes by modal label")
    axes[0].legend(
        fontsize=8,
        frameon=False,
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
        title="modal label",
        title_fontsize=8,
        ncols=1 + (len(class_names) - 1) // 20,
        markerscale=1.5 if size > 10 else 3,
    )
    if with_pies:
        is_pie = arrays["is_pie"].astype(bool)
        larger, edge = next(
            style for most, *style in ((100, 18, 0.4), (1500, 6, 0.4), (np.inf, 0, 0)) if is_pie.sum() <= most
        )  # few must be found, many must not hide the rest
        axes[1].scatter(
            *coordinates[~is_pie].T,
            s=size,
            color="#BBBBBB",
            linewidths=0,
            label=f"other images ({(~is_pie).sum()})",
        )
        axes[1].scatter(
            *coordinates[is_pie].T,
            s=size + larger,
            color=PIE_COLOUR,
            marker="^",
            edgecolors="black",
            linewidths=edge,
            label=f"PIEs ({is_pie.sum()})",
        )
        _labels(axes[1], "UMAP 1", "UMAP 2", "PIEs marked")
        axes[1].legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.06), ncols=2)
        axes[1].set(xticks=[], yticks=[])
    return figure


def _draw_classes(
    panel, coordinates: np.ndarray, labels: np.ndarray, class_names: list[str], size: float
) -> None:
    for label, name in enumerate(class_names):
        panel.scatter(
            *coordinates[labels == label].T,
            s=size,
            alpha=0.8,
            linewidths=0,
            color=CLASS_COLOURS[label % 10],
            marker=CLASS_MARKERS[(label + label // 10) % 10],
            label=_plain(name),
            rasterized=True,
        )
    panel.set(xticks=[], yticks=[])


def draw_q_score(arrays: dict) -> Figure:
    """Q-Score, Z-score and L1 norm, dense against pruned: `dense_q_score`, `pruned_q_score` (N,) and so on, `is_pie` (N,)."""
    is_pie = arrays["is_pie"].astype(bool)
    figure, axes = _figure(arrays, 3, 14.0, 5.1)
    norm = LogNorm(1, 10)  # of all panels; its end follows the fullest cell
    for panel, (quantity, name) in zip(
        axes, (("q_score", "Q-Score"), ("z_score", "Z-score"), ("l1_norm", "L1 norm"))
    ):
        dense, pruned = arrays[f"dense_{quantity}"], arrays[f"pruned_{quantity}"]
        values = np.concatenate([dense, pruned])
        values = values[np.isfinite(values)] if np.isfinite(values).any() else np.array([0.0, 1.0])
        margin = 0.03 * np.ptp(values) or max(0.1 * abs(values[0]), 0.1)
        edges = np.linspace(values.min() - margin, values.max() + margin, 61 if len(dense) > 2000 else 31)
        _draw_joint(panel, dense, pruned, is_pie, edges, edges[::2], norm, name)
        _labels(panel, f"{name}, dense networks", f"{name}, pruned networks")
    _explain_joint(figure, axes, is_pie)
    return figure


def draw_prediction_depth(arrays: dict) -> Figure:
    """Prediction depth, dense against pruned: `dense_depth`, `pruned_depth`, `is_pie` (N,), `places` ()."""
    dense, pruned, places = arrays["dense_depth"], arrays["pruned_depth"], int(arrays["places"])
    is_pie = arrays["is_pie"].astype(bool)
    figure, (panel,) = _figure(arrays, 1, 7.2, 6.6)
    # Depths are multiples of 1 / models: cells and bars hold a whole number of them, or they would be stripes.
    steps = np.diff(np.unique(np.concatenate([dense, pruned])))
    step = min(steps[steps > 1e-4], default=1.0)
    edges, wider = (
        -step / 2 + width * np.arange(np.ceil(round((places + step) / width, 6)) + 1)
        for width in (step * np.ceil((places / step + 1) / cells) for cells in (60, 30))
    )
    _draw_joint(
        panel,
        dense,
        pruned,
        is_pie,
        edges,
        wider,
        LogNorm(1, 10),
        "larger triangles: several PIEs at one point",
    )
    _labels(panel, "prediction depth, dense networks (places)", "prediction depth, pruned networks (places)")
    _explain_joint(figure, [panel], is_pie)
    return figure


def _draw_joint(
    panel,
    dense: np.ndarray,
    pruned: np.ndarray,
    is_pie: np.ndarray,
    edges: np.ndarray,
    wider: np.ndarray,
    norm: LogNorm,
    title: str,
) -> None:
    """Dense against pruned: how many of the other images are in each cell between `edges`, the PIEs on them, and at the sides what share
    of either lies between the edges `wider`. Images without a value are left out, and counted in the title."""
    defined = np.isfinite(dense) & np.isfinite(pruned)
    groups = {"other images": defined & ~is_pie, "PIEs": defined & is_pie}
    counts = np.histogram2d(dense[groups["other images"]], pruned[groups["other images"]], [edges, edges])[0]
    norm.vmax = max(norm.vmax, counts.max())
    panel.pcolormesh(
        edges, edges, np.ma.masked_equal(counts.T, 0), cmap=DENSITY_COLOURS, norm=norm, rasterized=True
    )
    points, together = np.unique(
        np.stack([dense[groups["PIEs"]], pruned[groups["PIEs"]]], 1), axis=0, return_counts=True
    )
    size, alpha, width = next(
        style
        for most, *style in (
            (100, 26, 0.9, 0.5),
            (600, 14, 0.75, 0.3),
            (1500, 8, 0.6, 0.15),
            (np.inf, 3, 0.5, 0),
        )
        if len(points) <= most
    )
    panel.scatter(
        *points.T,
        s=size * np.sqrt(together),
        color=PIE_COLOUR,
        marker="^",
        edgecolors="black",
        linewidths=width,
        alpha=alpha,
        rasterized=True,
    )
    limits = edges[0], max(edges[-1], wider[-1])
    panel.plot(limits, limits, color=LINE_COLOUR, linewidth=1, linestyle="--")
    panel.set(xlim=limits, ylim=limits, box_aspect=1)  # with equal limits: equal units
    top = panel.inset_axes([0, 1.03, 1, 0.2], sharex=panel)
    right = panel.inset_axes([1.03, 0, 0.2, 1], sharey=panel)
    for axis in (panel.xaxis, panel.yaxis):  # equal limits: the same ticks
        axis.set_major_locator(matplotlib.ticker.MaxNLocator(8, steps=[1, 2, 5, 10]))
    for side, values, orientation in ((top, dense, "vertical"), (right, pruned, "horizontal")):
        for name, chosen in groups.items():
            if chosen.any():
                style = (
                    dict(color=PIE_COLOUR, linewidth=1.3)
                    if name == "PIEs"
                    else dict(color=REST_COLOUR, fill=True)
                )
                side.stairs(
                    100 * np.histogram(values[chosen], wider)[0] / chosen.sum(),
                    wider,
                    orientation=orientation,
                    **style,
                )
        side.tick_params(labelsize=7, labelbottom=side is right, labelleft=side is top)
        (side.yaxis if side is top else side.xaxis).set_major_locator(
            matplotlib.ticker.MaxNLocator(2, min_n_ticks=2)
        )
        side.spines[["top", "right"]].set_visible(False)
    top.set_ylabel("share (%)", fontsize=7)
    right.set_xlabel("share (%)", fontsize=7)
    left_out = f" ({(~defined).sum()} images without a value)" if not defined.all() else ""
    top.set_title(f"{title}{left_out}", fontsize=9)


def _explain_joint(figure: Figure, panels, is_pie: np.ndarray) -> None:
    bar = figure.colorbar(
        panels[0].collections[0],
        ax=panels,
        shrink=0.6,
        pad=0.02,
        aspect=30,
        format="%g",
        label="other images in a cell",
    )
    bar.ax.yaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
    handles = [
        Patch(color=REST_COLOUR, label=f"other images ({(~is_pie).sum()})"),
        Line2D(
            [],
            [],
            color=PIE_COLOUR,
            marker="^",
            markeredgecolor="black",
            markeredgewidth=0.5,
            label=f"PIEs ({is_pie.sum()})",
        ),
        Line2D([], [], color=LINE_COLOUR, linewidth=1, linestyle="--", label="dense = pruned"),
    ]
    figure.legend(handles=handles, fontsize=8, frameon=False, loc="outside lower center", ncols=3)


def draw_pies_distribution(arrays: dict) -> Figure:
    """PIEs per true class: `pies_per_class` (C,), `class_names` (C,)."""
    names = [_plain(name) for name in arrays["class_names"]]
    counts = arrays["pies_per_class"]
    figure, (panel,) = _figure(arrays, 1, max(6.5, 0.5 * len(names)), 4.0)
    bars = panel.bar(range(len(names)), counts, color=REST_COLOUR, edgecolor="black", linewidth=0.4)
    panel.bar_label(bars, fontsize=8)
    long = max(map(len, names)) > 6
    panel.set_xticks(range(len(names)), names, rotation=45 if long else 0, ha="right" if long else "center")
    panel.yaxis.get_major_locator().set_params(integer=True)
    panel.margins(y=0.12)
    _labels(
        panel,
        "true class",
        "PIEs (images)",
        f"{int(counts.sum())} PIEs of {int(arrays['images'])} test images",
    )
    return figure


def draw_heat_maps(arrays: dict) -> Figure:
    """Heat maps, two or three side by side: `panel_titles` (P,), and for each panel p `panel_p` (R, C), `rows_p`, `columns_p` names and
    `texts_p` (R, C) written into the cells; `diverging` () colours around 0. Names that a neighbour shows already are left out."""
    titles = [str(title) for title in arrays["panel_titles"]]
    panels = [arrays[f"panel_{index}"] for index in range(len(titles))]
    rows, columns = (
        [[_plain(name) for name in arrays[f"{side}_{index}"]] for index in range(len(titles))]
        for side in ("rows", "columns")
    )
    across = 3 if len(titles) == 3 else min(2, len(titles))
    show_rows = [index % across == 0 or rows[index] != rows[index - 1] for index in range(len(titles))]
    show_columns = [
        index + across >= len(titles) or columns[index] != columns[index + across]
        for index in range(len(titles))
    ]
    widths = [
        max(0.42 * panel.shape[1], 0.07 * len(title)) + 0.075 * shown * max(map(len, names)) + 0.8
        for panel, names, title, shown in zip(panels, rows, titles, show_rows)
    ]
    heights = [
        0.3 * panel.shape[0] + 0.075 * shown * max(map(len, names)) + 0.5
        for panel, names, shown in zip(panels, columns, show_columns)
    ]
    heights = [max(heights[start : start + across]) for start in range(0, len(titles), across)]
    figure = _titled_figure(arrays, max(8.0, sum(widths[:across])), 0.5 + sum(heights))
    ratios = [max(0.42 * panel.shape[1], 0.07 * len(title)) for panel, title in zip(panels, titles)][:across]
    grid = figure.subplots(len(heights), across, squeeze=False, width_ratios=ratios).ravel()
    diverging = bool(arrays["diverging"])
    highest = max((np.abs(panel[~np.isnan(panel)]).max(initial=0) for panel in panels), default=0) or 1
    for index, (panel, values) in enumerate(zip(grid, panels)):
        image = panel.imshow(
            values,
            cmap="PuOr" if diverging else "cividis",
            vmin=-highest if diverging else 0,
            vmax=highest,
            aspect="auto",
        )
        panel.set_yticks(
            range(values.shape[0]), rows[index] if show_rows[index] else [""] * values.shape[0], fontsize=7
        )
        panel.set_xticks(
            range(values.shape[1]),
            columns[index] if show_columns[index] else [""] * values.shape[1],
            fontsize=7,
            rotation=90,
        )
        panel.set_title(titles[index], fontsize=9)
        panel.set_facecolor("#EEEEEE")  # where there is no value
        for row, column in np.ndindex(values.shape):
            red, green, blue, _ = image.cmap(image.norm(values[row, column]))
            dark = not np.isnan(values[row, column]) and 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
            panel.text(
                column,
                row,
                str(arrays[f"texts_{index}"][row][column]),
                ha="center",
                va="center",
                fontsize=6,
                color="white" if dark else "black",
            )
        if index % across == across - 1 or index == len(titles) - 1:
            figure.colorbar(image, ax=panel, fraction=0.08, pad=0.02).ax.tick_params(labelsize=7)
    for panel in grid[len(titles) :]:
        panel.set_visible(False)
    return figure


def draw_pies_per_class(arrays: dict) -> Figure:
    """PIEs of several sets per true class, stacked: `counts` (G + 1, C), unique to each of `sets` (G,), then in two sets or more;
    `class_names` (C,)."""
    names, sets = [_plain(name) for name in arrays["class_names"]], [str(one) for one in arrays["sets"]]
    counts = arrays["counts"]
    figure = _titled_figure(arrays, max(8.0, 0.6 * len(names) + 3), max(4.4, 0.17 * len(sets) + 1.4))
    panel = figure.subplots()
    colours = [CLASS_COLOURS[index % 10] for index in range(len(sets))] + ["#BBBBBB"]
    hatches = ["", "///", "...", "xxx"]
    bottom = np.zeros(len(names))
    for index, (row, colour) in enumerate(zip(counts, colours)):
        label = f"only {sets[index]}" if index < len(sets) else "in two sets or more"
        panel.bar(
            range(len(names)),
            row,
            bottom=bottom,
            color=colour,
            edgecolor="white",
            linewidth=0.4,
            hatch=hatches[index // 10 % 4] if index < len(sets) else "",
            label=f"{label} ({int(row.sum())})",
        )
        bottom += row
    long = max(map(len, names)) > 6
    panel.set_xticks(range(len(names)), names, rotation=45 if long else 0, ha="right" if long else "center")
    panel.yaxis.get_major_locator().set_params(integer=True)
    _labels(panel, "true class", "PIEs (images)", "each image once")
    panel.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def draw_against_sparsity(arrays: dict) -> Figure:
    """A number against sparsity: `ylabel`, `panel_title`, `series` and `learning_methods` (S,), and for each series s `sparsity_s`,
    `value_s`, `low_s`, `high_s` (n,), NaN where there is no interval; perhaps a line at `horizontal` () called `horizontal_name`."""
    series, methods = ([_plain(name) for name in arrays[key]] for key in ("series", "learning_methods"))
    within = [
        name.replace(method, "").strip() for name, method in zip(series, methods)
    ]  # the same marker for both learning methods
    kinds = list(dict.fromkeys(within))
    sparsities = np.unique(np.concatenate([arrays[f"sparsity_{index}"] for index in range(len(series))]))
    figure, (panel,) = _figure(
        arrays,
        1,
        max(6.5, 0.08 * len(series) * len(sparsities)) + 0.075 * max(map(len, series)) + 0.6,
        max(4.2, 0.19 * len(series) + 1.4),
    )
    interval = False
    for index, (name, method) in enumerate(zip(series, methods)):
        order, kind = np.argsort(arrays[f"sparsity_{index}"]), kinds.index(within[index])
        sparsity, value, low, high = (
            arrays[f"{part}_{index}"][order].astype(float) for part in ("sparsity", "value", "low", "high")
        )
        place = np.searchsorted(sparsities, sparsity) + 0.7 * (
            (index + 0.5) / len(series) - 0.5
        )  # so that no interval hides another
        known, colour = np.isfinite(low) & np.isfinite(high), METHOD_COLOURS.get(method, LINE_COLOUR)
        panel.vlines(place[known], low[known], high[known], color=colour, linewidth=1.1, alpha=0.7)
        panel.plot(
            place,
            value,
            color=colour,
            marker=CLASS_MARKERS[kind % 10],
            linestyle=LINE_STYLES[(kind + kind // 10) % 4],
            linewidth=1,
            markersize=5,
            markeredgecolor="white",
            markeredgewidth=0.4,
            label=name,
        )
        interval |= known.any()
    if "horizontal" in arrays:
        panel.axhline(
            float(arrays["horizontal"]),
            color=LINE_COLOUR,
            linestyle=":",
            linewidth=1.2,
            label=_plain(arrays["horizontal_name"]),
        )
    panel.set_xticks(range(len(sparsities)), [f"{100 * sparsity:g}" for sparsity in sparsities])
    panel.set_xticks(np.arange(len(sparsities) + 1) - 0.5, minor=True)
    panel.grid(which="minor", axis="x", color="#E4E4E4")  # between what is of one sparsity
    panel.tick_params(which="minor", length=0)
    panel.set_xlim(-0.5, len(sparsities) - 0.5)
    _labels(panel, "sparsity (%), not to scale", _plain(arrays["ylabel"]), _plain(arrays["panel_title"]))
    panel.legend(
        fontsize=8,
        frameon=False,
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
        handlelength=3,
        title="bars: 95 % intervals" if interval else None,
        title_fontsize=8,
    )
    return figure


def draw_umap_grid(arrays: dict) -> Figure:
    """UMAPs in rows and columns: `class_names` (C,), `rows`, `columns` names, and for row r and column c, where there are networks,
    `coordinates_r_c` (N, 2), `modal_labels_r_c` (N,), and for pruned ones `is_pie_r_c` (N,)."""
    class_names, rows, columns = (
        [_plain(name) for name in arrays[key]] for key in ("class_names", "rows", "columns")
    )
    side = 1.7 if len(rows) * len(columns) > 6 else 2.6
    # Names of methods are broken after underscores.
    rows, columns = (
        [textwrap.fill(name.replace("_", "_ "), letters).replace("_ ", "_") for name in names]
        for names, letters in ((rows, 20), (columns, int(11 * side)))
    )
    width = max(7.0, side * len(columns) + 1.8)
    deep = -(
        -len(class_names) // max(1, int(width / (0.075 * max(map(len, class_names)) + 0.45)))
    )  # of the legend
    figure = _titled_figure(arrays, width, side * len(rows) + 0.18 * deep + 0.8)
    grid = figure.subplots(len(rows), len(columns), squeeze=False)
    for (row, column), panel in np.ndenumerate(grid):
        panel.set(xticks=[], yticks=[], box_aspect=1)
        panel.spines[:].set_color("#BBBBBB")
        if row == 0:
            panel.set_title(columns[column], fontsize=9)
        if column == 0:
            panel.set_ylabel(rows[row], fontsize=9, rotation=0, ha="right", va="center")
        if f"coordinates_{row}_{column}" not in arrays:
            panel.text(
                0.5,
                0.5,
                "no networks",
                color="#888888",
                fontsize=8,
                ha="center",
                va="center",
                transform=panel.transAxes,
            )
            continue
        coordinates, labels = arrays[f"coordinates_{row}_{column}"], arrays[f"modal_labels_{row}_{column}"]
        _draw_classes(panel, coordinates, labels, class_names, side * (2 if len(labels) <= 2000 else 0.4))
        if f"is_pie_{row}_{column}" in arrays:
            is_pie = arrays[f"is_pie_{row}_{column}"].astype(bool)
            colours = [CLASS_COLOURS[label % 10] for label in labels[is_pie]]
            panel.scatter(
                *coordinates[is_pie].T,
                s=side * np.clip(900 / max(is_pie.sum(), 1), 0.9, 9),
                marker="^",
                c=colours,
                rasterized=True,
                edgecolors=["white" if colour == "#000000" else "black" for colour in colours],
                linewidths=0.6 if is_pie.sum() <= 150 else 0.3 if is_pie.sum() <= 1000 else 0.15,
            )
            panel.text(
                0.97,
                0.03,
                f"{is_pie.sum()} PIEs",
                fontsize=7,
                ha="right",
                va="bottom",
                transform=panel.transAxes,
                bbox=dict(facecolor="white", alpha=0.8, linewidth=0, pad=1),
            )
    handles = [
        Line2D(
            [],
            [],
            linestyle="",
            marker=CLASS_MARKERS[(label + label // 10) % 10],
            color=CLASS_COLOURS[label % 10],
            markersize=5,
            label=name,
        )
        for label, name in enumerate(class_names)
    ]
    figure.legend(
        handles=handles,
        fontsize=8,
        frameon=False,
        loc="outside lower center",
        ncols=-(-len(class_names) // deep),
        title_fontsize=8,
        title="modal label"
        + "; PIEs are triangles with an edge" * any(key.startswith("is_pie_") for key in arrays),
    )
    return figure


def draw_noise_floor(arrays: dict) -> Figure:
    """PIEs that chance makes: `panels` (P,) learning methods, and for each panel p `names_p` (G,), the first of them dense networks
    against dense networks, and `counts_p` (G, S) over S random splits; whiskers from the 2.5th to the 97.5th percentile."""
    titles = [_plain(name) for name in arrays["panels"]]
    highest = max(len(arrays[f"names_{index}"]) for index in range(len(titles)))
    figure, axes = _figure(arrays, len(titles), max(7.0, 5.6 * len(titles)), 0.34 * highest + 1.6)
    for index, (panel, title) in enumerate(zip(axes, titles)):
        counts = arrays[f"counts_{index}"]
        low, first, median, third, high = np.percentile(counts, [2.5, 25, 50, 75, 97.5], axis=1)
        colours = ["#999999"] + [REST_COLOUR] * (len(counts) - 1)
        jitter = 0.5 * (
            np.arange(counts.shape[1]) * 0.618034 % 1 - 0.5
        )  # the golden ratio spreads any number of points
        panel.axvspan(low[0], high[0], color="#EEEEEE", linewidth=0, zorder=0)
        for place, (own, colour) in enumerate(zip(counts, colours)):
            panel.scatter(
                own,
                place + jitter,
                s=7,
                color=colour,
                alpha=min(0.6, 40 / len(own)),
                linewidths=0,
                rasterized=True,
            )
        places = np.arange(len(counts))
        panel.hlines(places, low, high, color=LINE_COLOUR, linewidth=1)
        panel.barh(
            places,
            third - first,
            0.56,
            left=first,
            color=colours,
            alpha=0.7,
            edgecolor=LINE_COLOUR,
            linewidth=0.8,
        )
        panel.vlines(median, places - 0.28, places + 0.28, color="black", linewidth=2)
        label, linear = "PIEs (images)", max(median[0], 1)
        if counts.max() > 50 * linear:
            panel.set_xscale("symlog", linthresh=linear)
            panel.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
            label = f"PIEs (images), logarithmic above {linear:g}"
        panel.set_xlim(
            left=-0.02 * (linear if panel.get_xscale() == "symlog" else panel.get_xlim()[1])
        )  # boxes at 0 are seen
        panel.set_yticks(places, [_plain(name) for name in arrays[f"names_{index}"]], fontsize=8)
        panel.set_ylim(len(counts) - 0.5, -0.5)  # the first on top
        _labels(panel, label, "", title)
    return figure


def draw_gallery(arrays: dict) -> Figure:
    """Images with captions, six in a row: `images` (G, 3, H, W) of bytes, `captions` (G,) of short lines."""
    captions = [
        "\n".join(textwrap.fill(line, 30) for line in _plain(caption).split("\n"))
        for caption in arrays["captions"]
    ]
    across, deep = min(6, len(captions)), -(-len(captions) // 6)
    figure = _titled_figure(
        arrays,
        max(6.0, 1.8 * across),
        (1.95 + 0.12 * max(caption.count("\n") for caption in captions)) * deep + 0.4,
    )
    figure.set_layout_engine("compressed")  # square images leave no gaps
    grid = figure.subplots(deep, across, squeeze=False).ravel()
    for panel, image, caption in zip(grid, arrays["images"], captions):
        panel.imshow(image.transpose(1, 2, 0), interpolation="nearest")
        panel.set(xticks=[], yticks=[])
        panel.spines[:].set_visible(False)
        panel.set_xlabel(caption, fontsize=6.5, labelpad=2)
    for panel in grid[len(captions) :]:
        panel.set_visible(False)
    return figure
