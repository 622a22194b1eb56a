"""Figures of the scripts: pure functions from stored arrays, or the histories of trainings, to a matplotlib
figure. N images, C classes.

Every .npz of a figure holds `figure` (its kind), `title` and what the kind needs; `draw` turns it into the
picture again. figures/report/plots.py draws the report's own kinds. Importing this costs a second.
"""

import textwrap
from pathlib import Path

import numpy as np
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, NullFormatter

from common.store.files import write_atomically

rcParams.update({"figure.titlesize": 10, "axes.titlesize": 9, "legend.fontsize": 8})
rcParams.update({"legend.title_fontsize": 8, "legend.frameon": False})

# Paul Tol's muted scheme and black, which colour-blind readers tell apart; markers tell classes apart again.
CLASS_COLOURS = "#332288 #88CCEE #44AA99 #117733 #999933 #DDCC77 #CC6677 #882255 #AA4499 #000000".split()
CLASS_MARKERS = "os^vDPX<>*"
REST_COLOUR, PIE_COLOUR, LINE_COLOUR = "#7A9CC6", "#D55E00", "#333333"
DENSITY_COLOURS = LinearSegmentedColormap.from_list("density", ("#C9D9EA", REST_COLOUR, "#0B2545"))
BESIDE = dict(loc="center left", bbox_to_anchor=(1.0, 0.5))  # a legend at the right of its panel
BELOW = "outside lower center"  # a legend of the whole figure
DPI = 130


def lay_out(figure: Figure) -> Figure:
    """The same figure, laid out once for all: savefig would draw all of it for that."""
    if engine := figure.get_layout_engine():
        figure.set_dpi(DPI)
        engine.execute(figure)
        figure.set_layout_engine(None)
    return figure


def save_figure(path: Path, figure: Figure) -> None:
    """Writes a picture in the format of its ending, atomically."""
    lay_out(figure)
    write_atomically(path, lambda temporary: figure.savefig(temporary, format=path.suffix[1:], dpi=DPI))


def titled_figure(
    arrays: dict, width: float, height: float, rows: int = 1, columns: int = 1, **grid
) -> tuple[Figure, np.ndarray]:
    """A figure of so many inches with the arrays' title, and its empty panels (rows * columns,); a long title
    takes nothing from the panels. `grid`: as for Figure.subplots."""
    letters, lines = int(11 * width), []  # of size 10 in a line
    for row in plain(arrays["title"]).split("\n"):
        # Lines break between facts, and within those that are longer than a line.
        facts = [fact if len(fact) > letters else fact.replace(" ", "\xa0") for fact in row.split(" · ")]
        lines += [line.strip(" ·") for line in textwrap.wrap(" · ".join(facts), letters)]
    figure = Figure(figsize=(width, height + 0.16 * max(0, len(lines) - 1)), layout="constrained")
    figure.suptitle("\n".join(lines))
    return figure, figure.subplots(rows, columns, squeeze=False, **grid).ravel()


def plain(text) -> str:
    """Text that matplotlib shows as it is: no mathematics between dollars, no hidden label."""
    text = str(text).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def names_in(arrays: dict, key: str = "class_names") -> list[str]:
    """Stored names, as matplotlib is to show them."""
    return list(map(plain, arrays[key]))


def label_axes(panel: Axes, xlabel: str, ylabel: str, title: str = "") -> None:
    """Names both axes and the panel, and leaves out the lines at the top and right."""
    panel.set(xlabel=xlabel, ylabel=ylabel, title=title)
    panel.spines[["top", "right"]].set_visible(False)


def label_classes(panel: Axes, names: list[str], title: str) -> None:
    """Axes of numbers of PIEs in each class."""
    turned = dict(rotation=45, ha="right") if max(map(len, names)) > 6 else {}
    panel.set_xticks(range(len(names)), names, **turned)
    panel.yaxis.get_major_locator().set_params(integer=True)
    label_axes(panel, "true class", "PIEs (images)", title)


def class_style(label: int) -> dict:
    """Colour and marker of a class."""
    return dict(color=CLASS_COLOURS[label % 10], marker=CLASS_MARKERS[(label + label // 10) % 10])


def pie_style(count: int, colour: str = PIE_COLOUR) -> dict:
    """Open triangles for so many PIEs: few must be found, many must not hide what they lie on."""
    room = np.clip(10 / np.sqrt(max(count, 1)), 0.12, 1)
    edge = dict(facecolors="none", edgecolors=colour, linewidths=0.2 + 0.6 * room)
    return dict(marker="^", s=26 * room, alpha=0.2 + 0.7 * room, rasterized=True, **edge)


def pie_labels(is_pie: np.ndarray) -> tuple[str, str]:
    """What legends say of the other images and of the PIEs."""
    return f"other images ({(~is_pie).sum()})", f"PIEs ({is_pie.sum()})"


def draw_classes(
    panel: Axes, coordinates: np.ndarray, labels: np.ndarray, names: list[str], size: float
) -> None:
    """Points (N, 2) in the colours and markers of their classes (N,)."""
    look = dict(s=size, alpha=0.8, linewidths=0, rasterized=True)
    for label, name in enumerate(names):
        panel.scatter(*coordinates[labels == label].T, label=name, **look, **class_style(label))


def draw_curves(title: str, histories: dict[str, list[dict]]) -> Figure:
    """Training curves of the history of each stage: loss, chance_loss, and where they exist test_loss,
    train_accuracy, test_accuracy, and the sparsity, drawn grey behind the loss."""
    quantities = (("loss", "loss", 1, "loss"), ("train_accuracy", "accuracy", 100, "accuracy (%)"))
    curves = [(stage, *quantity) for stage in histories for quantity in quantities]
    curves = [curve for curve in curves if curve[1] in histories[curve[0]][0]]
    figure, panels = titled_figure({"title": title}, 4.2 * len(curves), 3.4, 1, len(curves))
    for panel, (stage, train, quantity, scale, ylabel) in zip(panels, curves):
        history = histories[stage]
        keys = dict.fromkeys(key for entry in history for key in entry)  # sparsity: from the first pruning on
        values = {key: np.array([entry.get(key, 0.0) for entry in history]) for key in keys}
        epoch, test = values["epoch"] + 1, f"test_{quantity}"
        look = dict(marker="." * (len(epoch) < 3))  # a line needs more to be seen
        panel.plot(epoch, scale * values[train], color=CLASS_COLOURS[0], label="training views", **look)
        if test in values:
            panel.plot(epoch, scale * values[test], "--", color=PIE_COLOUR, label="test images", **look)
        if quantity == "loss":
            if "sparsity" in values:
                _draw_sparsity(panel, epoch, values["sparsity"])
            chance = history[0]["chance_loss"]
            panel.axhline(chance, color=LINE_COLOUR, linestyle=":", linewidth=1, label="chance")
        label_axes(panel, "epoch", ylabel, stage)
        panel.legend()
    return figure


def _draw_sparsity(panel: Axes, epoch: np.ndarray, sparsity: np.ndarray) -> None:
    """The sparsity at the end of each epoch, grey, on a second axis."""
    second = panel.twinx()
    second.fill_between(epoch, 100 * sparsity, step="post", color="#DDDDDD", linewidth=0)
    second.set(ylabel="sparsity (%), grey", ylim=(0, 100))
    second.spines[["top"]].set_visible(False)
    panel.set_zorder(second.get_zorder() + 1)  # curves before the grey
    panel.patch.set_visible(False)


def draw_umap(arrays: dict) -> Figure:
    """UMAP of latents: `coordinates` (N, 2), `modal_labels` (N,), `class_names` (C,), and for pruned networks
    `is_pie` (N,), which adds a second picture with the PIEs marked."""
    coordinates, with_pies, names = arrays["coordinates"], "is_pie" in arrays, names_in(arrays)
    columns = 1 + (len(names) - 1) // 20
    beside = columns * (0.075 * max(map(len, names)) + 0.5)
    figure, panels = titled_figure(arrays, 4.7 * (1 + with_pies) + beside, 5, 1, 1 + with_pies)
    size, scale = (14, 1.5) if len(coordinates) <= 2000 else (4, 3)
    for panel, title in zip(panels, ("modal labels", "PIEs")):
        square_units(panel)
        label_axes(panel, "UMAP 1", "UMAP 2", title)
    draw_classes(panels[0], coordinates, arrays["modal_labels"], names, size)
    place = dict(loc="outside right center", ncols=columns, markerscale=scale)
    figure.legend(handles=list(panels[0].collections), **place)
    if with_pies:
        is_pie = arrays["is_pie"]
        rest_label, pie_label = pie_labels(is_pie)
        panels[1].scatter(*coordinates[~is_pie].T, s=size, color="#BBBBBB", linewidths=0)
        panels[1].scatter(*coordinates[is_pie].T, **pie_style(is_pie.sum()))
        panels[1].set_title(f"triangles: {pie_label}; grey: {rest_label}")
    return figure


def square_units(panel: Axes) -> None:
    """A square panel without ticks in which distances are the same in all directions."""
    panel.set(xticks=[], yticks=[], box_aspect=1)
    panel.set_aspect("equal", adjustable="datalim")


def draw_q_score(arrays: dict) -> Figure:
    """Dense against pruned: `dense_q_score`, `pruned_q_score` (N,), as for z_score, l1_norm; `is_pie` (N,);
    `networks` () names what is not pruned."""
    figure, panels = titled_figure(arrays, 11.0, 3.9, 1, 3)
    sides = sides_of(arrays)
    names = {"q_score": "Q-Score", "z_score": "Z-score", "l1_norm": "L1 norm"}
    for panel, (quantity, name) in zip(panels, names.items()):
        values = np.concatenate([arrays[f"dense_{quantity}"], arrays[f"pruned_{quantity}"]])
        cells = 60 if len(values) > 4000 else 30
        low, high = np.histogram_bin_edges(values[np.isfinite(values)], 1)
        margin = 0.03 * (high - low)
        edges = np.linspace(low - margin, high + margin, cells + 1)
        _draw_joint(panel, arrays, quantity, edges, "")
        label_axes(panel, *(f"{name}, {kind} networks" for kind in sides))
    _explain_joint(figure, arrays["is_pie"])
    return figure


def draw_prediction_depth(arrays: dict) -> Figure:
    """Prediction depth, dense against pruned: `dense_depth`, `pruned_depth`, `is_pie` (N,), `places` (),
    `networks` as in `draw_q_score`."""
    title, _, target = str(arrays["title"]).partition("\n")
    figure, (panel,) = titled_figure({"title": title}, 7.2, 6.6)
    # Depths are multiples of 1 / models: cells and bars hold a whole number of them, against stripes.
    steps = np.diff(np.unique([arrays["dense_depth"], arrays["pruned_depth"]]))
    step, layers = min(steps[steps > 1e-4], default=1.0), int(arrays["places"])
    width = step * np.ceil((layers / step + 1) / 60)
    edges = width * np.arange(np.ceil(round((layers + step) / width, 6)) + 1) - step / 2
    _draw_joint(panel, arrays, "depth", edges, plain(target))
    label_axes(panel, *(f"prediction depth, {kind} networks (places)" for kind in sides_of(arrays)))
    _explain_joint(figure, arrays["is_pie"], "; larger: several at one point")
    return figure


def sides_of(arrays: dict) -> tuple[str, str]:
    """What the networks on both axes are."""
    return "dense", str(arrays.get("networks", "pruned"))


def _draw_joint(panel: Axes, arrays: dict, quantity: str, edges: np.ndarray, title: str) -> None:
    """Dense against pruned: how many of the other images are in each cell between `edges`, the PIEs on them,
    and at the sides what share (%) of either lies in bars of two cells. Images without a value are left out,
    and counted in the title."""
    dense, pruned, is_pie = arrays[f"dense_{quantity}"], arrays[f"pruned_{quantity}"], arrays["is_pie"]
    defined = np.isfinite(dense) & np.isfinite(pruned)
    others, pies = defined & ~is_pie, defined & is_pie
    look = dict(cmap=DENSITY_COLOURS, norm=LogNorm(1, 10), rasterized=True)
    panel.hist2d(dense[others], pruned[others], edges, cmin=1, **look)
    points, together = np.unique(np.stack([dense, pruned], 1)[pies], axis=0, return_counts=True)
    style = pie_style(len(points))
    panel.scatter(*points.T, **style | {"s": style["s"] * np.sqrt(together)})
    bars = edges[0] + 2 * (edges[1] - edges[0]) * np.arange(len(edges) // 2 + 1)
    limits = edges[0], max(edges[-1], bars[-1])
    panel.plot(limits, limits, "--", color=LINE_COLOUR, linewidth=1, label=" = ".join(sides_of(arrays)))
    panel.set(xlim=limits, ylim=limits, box_aspect=1)  # with equal limits: equal units
    panel.locator_params(nbins=6, steps=[1, 2, 5, 10])  # equal limits: the same ticks
    top = panel.inset_axes([0, 1.03, 1, 0.2], sharex=panel)
    right = panel.inset_axes([1.03, 0, 0.2, 1], sharey=panel)
    if not defined.all():
        title = f"{title} ({(~defined).sum()} images without a value)".strip()
    top.set_title(title)
    sides = ((top, dense, "vertical", top.yaxis), (right, pruned, "horizontal", right.xaxis))
    for side, values, direction, axis in sides:
        for chosen, colour, width in ((others, REST_COLOUR, 0), (pies, PIE_COLOUR, 1.3)):
            if chosen.any():
                shares = 100 * np.histogram(values[chosen], bars)[0] / chosen.sum()
                side.stairs(shares, bars, orientation=direction, color=colour, fill=not width, lw=width)
        side.tick_params(labelsize=8, labelbottom=side is right, labelleft=side is top)
        axis.set_major_locator(MaxNLocator(2, prune="lower"))  # 0 would lie on a tick of the panel
        axis.set_label_text("%", fontsize=8)
        side.spines[["top", "right"]].set_visible(False)


def _explain_joint(figure: Figure, is_pie: np.ndarray, sizes: str = "") -> None:
    """One scale of colours for all panels, and what the signs, and sizes of triangles, are."""
    panels = figure.axes
    cells = [panel.collections[0] for panel in panels]
    highest = max(10, *(mesh.get_array().filled(0).max() for mesh in cells))
    for mesh in cells:
        mesh.set_clim(1, highest)
    place = dict(ax=panels, shrink=0.6, pad=0.02, aspect=30)
    bar = figure.colorbar(cells[0], **place, format="%g", label="other images in a cell")
    bar.ax.yaxis.set_minor_formatter(NullFormatter())
    rest_label, pie_label = pie_labels(is_pie)
    handles = [
        Patch(color=REST_COLOUR, label=rest_label),
        Line2D([], [], color=PIE_COLOUR, marker="^", mfc="none", label=f"{pie_label}{sizes}"),
        *panels[0].lines,
    ]
    figure.legend(handles=handles, loc=BELOW, ncols=3)


def draw_pies_distribution(arrays: dict) -> Figure:
    """PIEs per true class: `pies_per_class` (C,), `class_names` (C,), `images` () in all."""
    names, counts = names_in(arrays), arrays["pies_per_class"]
    figure, (panel,) = titled_figure(arrays, max(6.5, 0.5 * len(names)), 4.0)
    bars = panel.bar(range(len(names)), counts, color=REST_COLOUR, edgecolor="black", linewidth=0.4)
    panel.bar_label(bars, fontsize=8)
    label_classes(panel, names, f"{counts.sum()} PIEs of {arrays['images']} test images")
    panel.margins(y=0.12)
    return figure


KINDS = {
    "umap": draw_umap,
    "q_score": draw_q_score,
    "prediction_depth": draw_prediction_depth,
    "pies_distribution": draw_pies_distribution,
}


def draw(arrays: dict, kinds: dict = KINDS) -> Figure:
    """The figure that stored arrays describe, of one of these kinds.

    Raises:
        ValueError: arrays that are not those of a figure.
    """
    kind = str(arrays.get("figure"))
    if kind not in kinds:
        raise ValueError("no figure is stored in these arrays")
    return kinds[kind](arrays)
