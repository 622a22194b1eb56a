"""Figures of the scripts: pure functions from stored arrays or training histories to matplotlib figures. N
images, C classes.

The .npz of a figure holds `figure` (its kind), `title` and the arrays of that kind; `draw` redraws the figure
from it. figures/report/plots.py draws the additional kinds of the report. Importing this takes a second.
"""

import textwrap
from pathlib import Path

import numpy as np
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Annotation
from matplotlib.ticker import MaxNLocator

from common.store.files import write_atomically

rcParams.update(
    {
        "figure.titlesize": 10,
        "axes.titlesize": 9,
        "legend.fontsize": 8,
        "legend.title_fontsize": 8,
        "legend.frameon": False,
        "pdf.fonttype": 42,  # embeds text as editable TrueType
        "ps.fonttype": 42,
    }
)

# Paul Tol's colour-blind-safe muted scheme, and black. Markers distinguish classes as well.
CLASS_COLOURS = "#332288 #88CCEE #44AA99 #117733 #999933 #DDCC77 #CC6677 #882255 #AA4499 #000000".split()
CLASS_MARKERS = "os^vDpX<>*"  # P would vanish where small
REST_COLOUR, PIE_COLOUR, LINE_COLOUR, GREY = "#4878A8", "#D55E00", "#333333", "#CCCCCC"
BESIDE = dict(loc="center left", bbox_to_anchor=(1.0, 0.5))  # places a legend to the right of its panel
DPI = 130
PAPER = {"font.size": 8, "axes.titlesize": 8}
PAPER_WIDTH, PAPER_HEIGHT = 3.25, 8.0  # of one column, in inches
SHARE_COLOURS = LinearSegmentedColormap.from_list("share", (REST_COLOUR, "#DDDDDD", PIE_COLOUR))
LATENTS_LEGEND = "modal label; grey: not a PIE"
FEW = 10  # cells with fewer images are drawn faint
SHOWN = {  # kind of a script's figure -> how its title begins
    "curves": "Training curves",
    "umap": "UMAP of the latents",
    "q_score": "Q-Score, dense against pruned networks",
    "prediction_depth": "Prediction depth, dense against pruned networks",
    "pies_distribution": "PIEs of each class",
}


def lay_out(figure: Figure) -> Figure:
    """Lays out a figure and removes its layout engine, with which savefig would draw everything twice;
    returns the figure."""
    if engine := figure.get_layout_engine():
        figure.set_dpi(DPI)
        for _ in range(2):  # a legend outside panels of fixed aspect needs two passes
            engine.execute(figure)
        figure.set_layout_engine(None)
    return figure


def save_figure(path: Path, figure: Figure) -> None:
    """Writes a figure atomically, in the format of the file's suffix."""
    lay_out(figure)
    write_atomically(path, lambda temporary: figure.savefig(temporary, format=path.suffix[1:], dpi=DPI))


def is_paper(arrays: dict) -> bool:
    """Whether the figure has the style of a paper's column, by `style` ()."""
    return arrays.get("style") == "paper"


def title_lines(arrays: dict) -> list[str]:
    """Returns the lines of the title: what the figure shows and for which networks, then the settings."""
    networks, *settings = str(arrays["title"]).split("\n")
    shown = SHOWN.get(str(arrays["figure"]), "").replace("pruned", str(arrays.get("networks", "pruned")))
    return [f"{shown} · {networks}" if shown else networks, *settings]


def titled_figure(
    arrays: dict, width: float, height: float, rows: int = 1, columns: int = 1, **grid
) -> tuple[Figure, np.ndarray]:
    """Makes a figure with empty panels (rows * columns,). The title above them adds to `height`; settings are
    in small letters.

    In the style of a paper the figure is one column wide and has no title, which goes into the caption.

    Args:
        width, height: in inches; grid: further arguments of Figure.subplots.
    """
    title, settings = [], []
    if is_paper(arrays):
        # At least an inch for each row.
        height = min(height, max(PAPER_HEIGHT, rows), rows * (PAPER_WIDTH / columns + 0.3))
        width = PAPER_WIDTH
    else:
        shown, *lines = map(plain, title_lines(arrays))
        title = [line.strip(" ·") for line in textwrap.wrap(shown, int(11 * width))]
        settings = textwrap.wrap(" · ".join(lines), int(15 * width))
    figure = Figure(figsize=(width, height + 0.16 * len(title + settings)), layout="constrained")
    if title:
        # Empty lines of the title reserve space for the settings.
        figure.suptitle("\n".join(title + [" "] * len(settings)))
        figure.add_artist(
            Annotation(
                "\n".join(settings),
                (0.5, 1),
                (0, -4 - 12 * len(title)),  # points
                xycoords="figure fraction",
                textcoords="offset points",
                annotation_clip=False,
                ha="center",
                va="top",
                fontsize=7,
                color="#555555",
                linespacing=1.5,
                in_layout=False,
            )
        )
    return figure, figure.subplots(rows, columns, squeeze=False, **grid).ravel()


def add_legend(figure: Figure, handles: list, **look) -> None:
    """Adds a legend below all panels; the figure grows to hold it."""
    letters = max(len(handle.get_label()) for handle in handles)
    columns = max(1, int(figure.get_figwidth() / (0.065 * letters + 0.5)))
    figure.set_figheight(figure.get_figheight() + 0.17 * (2 + (len(handles) - 1) // columns))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, **look)


def plain(text) -> str:
    """Escapes text that matplotlib would read as mathematics ($...$) or hide (a label with a leading _)."""
    text = str(text).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def names_in(arrays: dict, key: str = "class_names") -> list[str]:
    """Returns stored names, escaped for matplotlib."""
    return list(map(plain, arrays[key]))


def label_axes(panel: Axes, xlabel: str, ylabel: str, title: str = "") -> None:
    """Labels both axes, gives the panel a title and removes its top and right spines."""
    panel.set(xlabel=xlabel, ylabel=ylabel, title=title)
    panel.spines[["top", "right"]].set_visible(False)


def label_classes(panel: Axes, names: list[str], title: str) -> None:
    """Labels the axes of a panel of PIEs per class."""
    turned = dict(rotation=45, ha="right") if max(map(len, names)) > 6 else {}
    panel.set_xticks(range(len(names)), names, **turned)
    panel.yaxis.get_major_locator().set_params(integer=True)
    label_axes(panel, "true class", "PIEs (images)", title)
    panel.set_ylim(0, max(1, panel.get_ylim()[1]))


def class_style(label: int) -> dict:
    """Returns colour and marker of a class."""
    return dict(color=CLASS_COLOURS[label % 10], marker=CLASS_MARKERS[(label + label // 10) % 10])


def class_handles(names: list[str]) -> list[Line2D]:
    """Returns the legend entries of the classes."""
    look = dict(linestyle="", markersize=5)
    return [Line2D([], [], label=name, **look, **class_style(label)) for label, name in enumerate(names)]


def draw_latents(
    panel: Axes, coordinates: np.ndarray, labels: np.ndarray, is_pie: np.ndarray | None = None
) -> None:
    """Draws points (N, 2) in the colours and markers of their classes (N,), on a square panel without ticks
    and with equal units on both axes. With `is_pie` (N,) all images but PIEs are grey."""
    panel.set(xticks=[], yticks=[], box_aspect=1)
    panel.set_aspect("equal", adjustable="datalim")
    look = dict(linewidths=0, rasterized=True)
    size = panel.bbox.width * (0.03 if len(labels) <= 2000 else 0.011)
    if is_pie is not None:
        panel.scatter(*coordinates[~is_pie].T, s=size / 2, color=GREY, **look)
        coordinates, labels = coordinates[is_pie], labels[is_pie]
    for label in np.unique(labels):
        panel.scatter(*coordinates[labels == label].T, s=size, alpha=0.8, **look, **class_style(label))


def draw_curves(title: str, histories: dict[str, list[dict]]) -> Figure:
    """Draws the training curves of every stage: loss, chance_loss and, if recorded, test_loss,
    train_accuracy, test_accuracy, and the sparsity in grey behind the loss."""
    quantities = (
        ("loss", "test_loss", 1, "loss"),
        ("train_accuracy", "test_accuracy", 100, "accuracy (%)"),
    )
    curves = [
        (stage, history, *quantity)
        for stage, history in histories.items()
        for quantity in quantities
        if quantity[0] in history[0]
    ]
    figure, panels = titled_figure(
        {"figure": "curves", "title": title}, 4.2 * len(curves), 3.4, 1, len(curves)
    )
    for panel, (stage, history, train, test, scale, ylabel) in zip(panels, curves):
        # The last entry has every key: sparsity is recorded from the first pruning on.
        values = {key: np.array([entry.get(key, 0.0) for entry in history]) for key in history[-1]}
        epoch = values["epoch"] + 1
        look = dict(marker="." * (len(epoch) < 3))  # too short to see as a line
        panel.plot(epoch, scale * values[train], color=CLASS_COLOURS[0], label="training views", **look)
        if test in values:
            panel.plot(epoch, scale * values[test], "--", color=PIE_COLOUR, label="test images", **look)
        if train == "loss":
            if "sparsity" in values:
                _draw_sparsity(panel, epoch, values["sparsity"])
            chance = history[0]["chance_loss"]
            panel.axhline(chance, color=LINE_COLOUR, linestyle=":", linewidth=1, label="chance")
        label_axes(panel, "epoch", ylabel, stage)
        panel.legend()
    return figure


def _draw_sparsity(panel: Axes, epoch: np.ndarray, sparsity: np.ndarray) -> None:
    """Draws the sparsity at the end of each epoch in grey, on a second axis."""
    second = panel.twinx()
    second.fill_between(epoch, 100 * sparsity, step="post", color="#DDDDDD", linewidth=0)
    second.set(ylabel="sparsity (%), grey", ylim=(0, 100))
    second.spines[["top"]].set_visible(False)
    panel.set_zorder(second.get_zorder() + 1)  # curves in front of the grey
    panel.patch.set_visible(False)


def draw_umap(arrays: dict) -> Figure:
    """Draws the UMAP of latents: `coordinates` (N, 2), `modal_labels` (N,), `class_names` (C,). For pruned
    networks `is_pie` (N,) adds a second panel, in which only PIEs have the colours of their classes."""
    shown = {"all images": None}
    if "is_pie" in arrays:
        shown[f"PIEs ({arrays['is_pie'].sum()})"] = arrays["is_pie"]
    figure, panels = titled_figure(arrays, 4.7 * len(shown), 4.9, 1, len(shown))
    for panel, (title, is_pie) in zip(panels, shown.items()):
        label_axes(panel, "UMAP 1", "UMAP 2", title)
        draw_latents(panel, arrays["coordinates"], arrays["modal_labels"], is_pie)
    add_legend(figure, class_handles(names_in(arrays)), title=LATENTS_LEGEND)
    return figure


def draw_q_score(arrays: dict) -> Figure:
    """Draws dense against pruned values: `dense_q_score`, `pruned_q_score` (N,), likewise for z_score and
    l1_norm; `is_pie` (N,); `networks` (): the word for networks that are not pruned but finetuned."""
    shape = (3, 1) if is_paper(arrays) else (1, 3)
    figure, panels = titled_figure(arrays, 11.5, 3.5 * shape[0], *shape)
    names = {"q_score": "Q-Score", "z_score": "Z-score", "l1_norm": "L1 norm"}
    for panel, (quantity, name) in zip(panels, names.items()):
        values = np.concatenate([arrays[f"dense_{quantity}"], arrays[f"pruned_{quantity}"]])
        edges = np.histogram_bin_edges(values[np.isfinite(values)], 30)
        _draw_joint(panel, arrays, quantity, name, edges)
    _explain_joint(figure, arrays)
    return figure


def draw_prediction_depth(arrays: dict) -> Figure:
    """Draws dense against pruned prediction depth: `dense_depth`, `pruned_depth`, `is_pie` (N,), `places` ()
    the number of layers, `networks` as in `draw_q_score`."""
    figure, (panel,) = titled_figure(arrays, 7.2, 6.2)
    # Depths are multiples of 1 / models. Cells and bars span a whole number of multiples to avoid stripes.
    steps = np.diff(np.unique([arrays["dense_depth"], arrays["pruned_depth"]]))
    step, layers = min(steps[steps > 1e-4], default=1.0), int(arrays["places"])
    width = step * np.ceil((layers / step + 1) / 40)
    edges = width * np.arange(np.ceil(round((layers + step) / width, 6)) + 1) - step / 2
    _draw_joint(panel, arrays, "depth", "depth (layers)", edges)
    spacing = -(-layers // 5)
    ticks = [*range(0, layers - spacing // 2, spacing), layers]
    panel.set(xticks=ticks, yticks=ticks)
    _explain_joint(figure, arrays)
    return figure


def _draw_joint(panel: Axes, arrays: dict, quantity: str, name: str, edges: np.ndarray) -> None:
    """Draws dense against pruned values: the share (%) of PIEs among the images in each cell between `edges`,
    faint for few images. Histograms at the sides compare PIEs with the rest. Images without a value are left
    out; the title gives their number."""
    dense, pruned, is_pie = arrays[f"dense_{quantity}"], arrays[f"pruned_{quantity}"], arrays["is_pie"]
    defined = np.isfinite(dense) & np.isfinite(pruned)
    rest, pies = defined & ~is_pie, defined & is_pie
    images, pie_images = (
        np.histogram2d(pruned[chosen], dense[chosen], (edges, edges))[0] for chosen in (defined, pies)
    )
    shares = 100 * (pie_images / np.where(images > 0, images, np.nan))
    # Grey is the share of PIEs among all images; colours show where PIEs are more or less frequent.
    norm = TwoSlopeNorm(np.clip(100 * is_pie.mean(), 1, 99), 0, 100)
    faint = np.clip(images / FEW, 0.2, 1)
    panel.pcolormesh(edges, edges, shares, cmap=SHARE_COLOURS, norm=norm, alpha=faint, rasterized=True)
    limits = edges[[0, -1]]
    sides = "dense", str(arrays.get("networks", "pruned"))
    panel.plot(limits, limits, "--", color=LINE_COLOUR, linewidth=1, label=" = ".join(sides))
    label_axes(panel, *(f"{name}, {kind} networks" for kind in sides))
    panel.set(xlim=limits, ylim=limits, box_aspect=1)  # equal limits, hence equal units
    panel.locator_params(nbins=6, steps=[1, 2, 5, 10])  # equal limits, hence equal ticks
    top = panel.inset_axes([0, 1.03, 1, 0.2], sharex=panel)
    right = panel.inset_axes([1.03, 0, 0.2, 1], sharey=panel)
    if not defined.all():
        top.set_title(f"({(~defined).sum()} images without a value)")
    margins = ((top, dense, "vertical", top.yaxis), (right, pruned, "horizontal", right.xaxis))
    for side, values, direction, axis in margins:
        for chosen, colour, width in ((rest, REST_COLOUR, 0), (pies, PIE_COLOUR, 1.3)):
            if chosen.any():
                shares = 100 * np.histogram(values[chosen], edges)[0] / chosen.sum()
                side.stairs(shares, edges, orientation=direction, color=colour, fill=not width, lw=width)
        side.tick_params(labelsize=8, labelbottom=side is right, labelleft=side is top)
        axis.set_major_locator(MaxNLocator(2, prune="lower"))  # 0 would overlap a tick of the panel
        axis.set_label_text("%", fontsize=8)
        side.spines[["top", "right"]].set_visible(False)


def _explain_joint(figure: Figure, arrays: dict) -> None:
    """Adds the colour bar of all panels, and the legend."""
    panels, is_pie = figure.axes, arrays["is_pie"]
    cells = panels[0].collections[0]
    figure.colorbar(
        cells,
        ax=panels,
        shrink=0.8,
        aspect=30,
        location="bottom" if is_paper(arrays) else "right",
        ticks=[0, cells.norm.vcenter, 100],
        format="%.0f",
        label="PIEs in a cell (% of its images)",
    )
    handles = [
        Patch(color=REST_COLOUR, label=f"other images ({(~is_pie).sum()})"),
        Line2D([], [], color=PIE_COLOUR, label=f"PIEs ({is_pie.sum()})"),
        Patch(color=REST_COLOUR, alpha=0.2, label=f"faint: fewer than {FEW} images in a cell"),
        *panels[0].lines,
    ]
    add_legend(figure, handles)


def draw_pies_distribution(arrays: dict) -> Figure:
    """Draws PIEs per true class: `pies_per_class` (C,), `class_names` (C,), `images` (), all images."""
    names, counts = names_in(arrays), arrays["pies_per_class"]
    figure, (panel,) = titled_figure(arrays, max(6.5, 0.5 * len(names)), 3.2)
    bars = panel.bar(range(len(names)), counts, color=REST_COLOUR)
    panel.bar_label(bars, fontsize=8)
    panel.margins(y=0.12)
    label_classes(panel, names, f"{counts.sum()} PIEs of {arrays['images']} test images")
    return figure


KINDS = {
    "umap": draw_umap,
    "q_score": draw_q_score,
    "prediction_depth": draw_prediction_depth,
    "pies_distribution": draw_pies_distribution,
}


def draw(arrays: dict, kinds: dict = KINDS) -> Figure:
    """Draws the figure that stored arrays describe.

    Args:
        kinds: kind of figure -> function that draws it.
    Raises:
        ValueError: the arrays describe no figure of these kinds.
    """
    kind = str(arrays.get("figure"))
    if kind not in kinds:
        raise ValueError("no figure is stored in these arrays")
    return kinds[kind](arrays)
