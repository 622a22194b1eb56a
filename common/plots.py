"""Figures from stored arrays: pure functions from arrays to a matplotlib figure. Importing this costs a second: only when drawing.

Every .npz of a figure holds `figure` (its kind), `title` and what the kind needs; `draw` turns it into the picture again.
"""

import textwrap
from pathlib import Path

import matplotlib
import matplotlib.ticker
import numpy as np
from matplotlib.figure import Figure

from common.files import write_atomically

matplotlib.use("Agg")

# Paul Tol's muted scheme and black: ten colours that colour-blind readers tell apart; markers tell them apart a second time.
CLASS_COLOURS = ("#332288", "#88CCEE", "#44AA99", "#117733", "#999933", "#DDCC77", "#CC6677", "#882255", "#AA4499", "#000000")
CLASS_MARKERS = ("o", "s", "^", "v", "D", "P", "X", "<", ">", "*")
REST_COLOUR, PIE_COLOUR, LINE_COLOUR = "#7A9CC6", "#D55E00", "#333333"
DPI = 130


def save_figure(path: Path, figure: Figure) -> None:
    """Writes a picture in the format of its ending, atomically."""
    write_atomically(path, lambda temporary: figure.savefig(temporary, format=path.suffix[1:], dpi=DPI))


def draw(arrays: dict) -> Figure:
    """The figure that stored arrays describe.

    Raises:
        ValueError: arrays that are not those of a figure.
    """
    kinds = {"curves": draw_curves, "umap": draw_umap, "q_score": draw_q_score, "prediction_depth": draw_prediction_depth,
             "pies_distribution": draw_pies_distribution, "heat_maps": draw_heat_maps, "pies_per_class": draw_pies_per_class}
    kind = str(arrays.get("figure"))
    if kind not in kinds:
        raise ValueError("no figure is stored in these arrays")
    return kinds[kind](arrays)


def _titled_figure(arrays: dict, width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    letters = int(11 * width)  # of size 10 in a line
    lines = _plain(arrays["title"]).replace(" ", "\xa0").replace("\xa0·\xa0", " · ").split("\n")  # breaks between facts only
    figure.suptitle("\n".join(part.strip(" ·") for line in lines for part in textwrap.wrap(line, letters)), fontsize=10)
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
    panels = [(stage, quantity) for stage in stages for quantity in ("loss", "accuracy") if f"{stage}_{'train_' * (quantity == 'accuracy')}{quantity}" in arrays]
    figure, axes = _figure(arrays, len(panels), 4.2 * len(panels), 3.4)
    for panel, (stage, quantity) in zip(axes, panels):
        epoch = arrays[f"{stage}_epoch"] + 1
        train = arrays[f"{stage}_loss" if quantity == "loss" else f"{stage}_train_accuracy"]
        scale = 100 if quantity == "accuracy" else 1
        panel.plot(epoch, scale * train, color=CLASS_COLOURS[0], label="training views", marker="." if len(epoch) < 3 else "")
        if f"{stage}_test_{quantity}" in arrays:
            panel.plot(epoch, scale * arrays[f"{stage}_test_{quantity}"], color=PIE_COLOUR, linestyle="--", label="test images")
        if quantity == "loss":
            if f"{stage}_sparsity" in arrays:
                _draw_sparsity(panel, epoch, arrays[f"{stage}_sparsity"])
            panel.axhline(arrays[f"{stage}_chance_loss"][0], color=LINE_COLOUR, linestyle=":", linewidth=1, label="chance")
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
    for label, name in enumerate(class_names):
        own = coordinates[labels == label]
        style = dict(s=size, alpha=0.8, linewidths=0, color=CLASS_COLOURS[label % 10], marker=CLASS_MARKERS[(label + label // 10) % 10])
        axes[0].scatter(*own.T, label=_plain(name), **style)
    _labels(axes[0], "UMAP 1", "UMAP 2", "classes by modal label")
    axes[0].legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5), title="modal label", title_fontsize=8,
                   ncols=1 + (len(class_names) - 1) // 20, markerscale=1.5 if size > 10 else 3)
    if with_pies:
        is_pie = arrays["is_pie"].astype(bool)
        axes[1].scatter(*coordinates[~is_pie].T, s=size, color="#BBBBBB", linewidths=0, label=f"other images ({(~is_pie).sum()})")
        axes[1].scatter(*coordinates[is_pie].T, s=size + _pie_extra(is_pie), color=PIE_COLOUR, marker="^", edgecolors="black", linewidths=0.4, label=f"PIEs ({is_pie.sum()})")
        _labels(axes[1], "UMAP 1", "UMAP 2", "PIEs marked")
        axes[1].legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2)
    for panel in axes:
        panel.set_xticks([])
        panel.set_yticks([])
    return figure


def draw_q_score(arrays: dict) -> Figure:
    """Q-Score, Z-score and L1 norm, dense against pruned: `dense_q_score`, `pruned_q_score` (N,) and so on, `is_pie` (N,)."""
    is_pie = arrays["is_pie"].astype(bool)
    figure, axes = _figure(arrays, 3, 13.2, 5.4)
    for panel, (quantity, name) in zip(axes, (("q_score", "Q-Score"), ("z_score", "Z-score"), ("l1_norm", "L1 norm"))):
        dense, pruned = arrays[f"dense_{quantity}"], arrays[f"pruned_{quantity}"]
        size = 10 if len(dense) <= 2000 else 3
        panel.scatter(dense[~is_pie], pruned[~is_pie], s=size, color=REST_COLOUR, alpha=0.6, linewidths=0, label=f"other images ({(~is_pie).sum()})")
        panel.scatter(dense[is_pie], pruned[is_pie], s=size + _pie_extra(is_pie), color=PIE_COLOUR, marker="^", edgecolors="black", linewidths=0.4, label=f"PIEs ({is_pie.sum()})")
        _identity(panel)
        _labels(panel, f"{name}, dense networks", f"{name}, pruned networks", name)
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize=8, frameon=False, loc="outside lower center", ncols=3)
    return figure


def _pie_extra(is_pie: np.ndarray) -> int:
    """How much larger a PIE's marker is than another image's: few must be found, many must not hide the rest."""
    return 18 if is_pie.sum() <= 100 else 6


def _identity(panel) -> None:
    low = min(panel.get_xlim()[0], panel.get_ylim()[0])
    high = max(panel.get_xlim()[1], panel.get_ylim()[1])
    panel.plot([low, high], [low, high], color=LINE_COLOUR, linewidth=1, linestyle="--", label="dense = pruned", zorder=0)
    panel.set_xlim(low, high)
    panel.set_ylim(low, high)
    panel.set_box_aspect(1)  # with equal limits: equal units


def draw_prediction_depth(arrays: dict) -> Figure:
    """Prediction depth, dense against pruned, and its distribution: `dense_depth`, `pruned_depth`, `is_pie` (N,), `places` ()."""
    is_pie = arrays["is_pie"].astype(bool)
    dense, pruned = arrays["dense_depth"], arrays["pruned_depth"]
    figure, axes = _figure(arrays, 2, 11.5, 5.0)
    groups = ((~is_pie, REST_COLOUR, "o", "other images"), (is_pie, PIE_COLOUR, "^", "PIEs"))
    for chosen, colour, marker, name in groups:
        # Depths are multiples of 1 / models: images on one point are drawn as one marker whose area grows with their number.
        points, counts = np.unique(np.stack([dense[chosen], pruned[chosen]], 1), axis=0, return_counts=True)
        axes[0].scatter(*points.T, s=10 + 8 * np.sqrt(counts), color=colour, marker=marker, alpha=0.75, edgecolors="black", linewidths=0.3,
                        label=f"{name} ({chosen.sum()})")
    _identity(axes[0])
    _labels(axes[0], "prediction depth, dense networks (places)", "prediction depth, pruned networks (places)",
            "each image; larger markers: several images")
    bins = np.arange(int(arrays["places"]) + 2) - 0.5
    for chosen, colour, _, name in groups:
        for depth, style, kind in ((dense, "--", "dense"), (pruned, "-", "pruned")):
            if chosen.any():
                axes[1].hist(depth[chosen], bins, density=True, histtype="step", color=colour, linestyle=style, linewidth=1.5,
                             label=f"{name}, {kind} networks")
    _labels(axes[1], "prediction depth (places)", "share of the images", "distribution")
    axes[0].yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    for panel in axes:
        panel.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
        panel.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
    return figure


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
    _labels(panel, "true class", "PIEs (images)", f"{int(counts.sum())} PIEs of {int(arrays['images'])} test images")
    return figure


def draw_heat_maps(arrays: dict) -> Figure:
    """Heat maps, two or three side by side: `panel_titles` (P,), and for each panel p `panel_p` (R, C), `rows_p`, `columns_p` names and
    `texts_p` (R, C) written into the cells; `diverging` () colours around 0. Names that a neighbour shows already are left out."""
    titles = [str(title) for title in arrays["panel_titles"]]
    panels = [arrays[f"panel_{index}"] for index in range(len(titles))]
    rows, columns = ([[_plain(name) for name in arrays[f"{side}_{index}"]] for index in range(len(titles))] for side in ("rows", "columns"))
    across = 3 if len(titles) == 3 else min(2, len(titles))
    show_rows = [index % across == 0 or rows[index] != rows[index - 1] for index in range(len(titles))]
    show_columns = [index + across >= len(titles) or columns[index] != columns[index + across] for index in range(len(titles))]
    widths = [max(0.42 * panel.shape[1], 0.07 * len(title)) + 0.075 * shown * max(map(len, names)) + 0.8
              for panel, names, title, shown in zip(panels, rows, titles, show_rows)]
    heights = [0.3 * panel.shape[0] + 0.075 * shown * max(map(len, names)) + 0.5 for panel, names, shown in zip(panels, columns, show_columns)]
    heights = [max(heights[start:start + across]) for start in range(0, len(titles), across)]
    figure = _titled_figure(arrays, max(8.0, sum(widths[:across])), 0.5 + sum(heights))
    ratios = [max(0.42 * panel.shape[1], 0.07 * len(title)) for panel, title in zip(panels, titles)][:across]
    grid = figure.subplots(len(heights), across, squeeze=False, width_ratios=ratios).ravel()
    diverging = bool(arrays["diverging"])
    highest = max((np.abs(panel[~np.isnan(panel)]).max(initial=0) for panel in panels), default=0) or 1
    for index, (panel, values) in enumerate(zip(grid, panels)):
        image = panel.imshow(values, cmap="PuOr" if diverging else "cividis", vmin=-highest if diverging else 0, vmax=highest, aspect="auto")
        panel.set_yticks(range(values.shape[0]), rows[index] if show_rows[index] else [""] * values.shape[0], fontsize=7)
        panel.set_xticks(range(values.shape[1]), columns[index] if show_columns[index] else [""] * values.shape[1], fontsize=7, rotation=90)
        panel.set_title(titles[index], fontsize=9)
        panel.set_facecolor("#EEEEEE")  # where there is no value
        for row, column in np.ndindex(values.shape):
            red, green, blue, _ = image.cmap(image.norm(values[row, column]))
            dark = not np.isnan(values[row, column]) and 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
            panel.text(column, row, str(arrays[f"texts_{index}"][row][column]), ha="center", va="center", fontsize=6, color="white" if dark else "black")
        if index % across == across - 1 or index == len(titles) - 1:
            figure.colorbar(image, ax=panel, fraction=0.08, pad=0.02).ax.tick_params(labelsize=7)
    for panel in grid[len(titles):]:
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
        panel.bar(range(len(names)), row, bottom=bottom, color=colour, edgecolor="white", linewidth=0.4, hatch=hatches[index // 10 % 4] if index < len(sets) else "",
                  label=f"{label} ({int(row.sum())})")
        bottom += row
    long = max(map(len, names)) > 6
    panel.set_xticks(range(len(names)), names, rotation=45 if long else 0, ha="right" if long else "center")
    panel.yaxis.get_major_locator().set_params(integer=True)
    _labels(panel, "true class", "PIEs (images)", "each image once")
    panel.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
