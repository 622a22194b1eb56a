"""The contents of a data set's report: numbers, figures, PIEs and provenance. figures/report/page.py writes
the page."""

import json
from collections.abc import Sequence
from itertools import product
from operator import attrgetter
from typing import NamedTuple

import numpy as np

from common.methods import with_sparsity
from figures.report import across, claims, evidence, measures, test_sets, uncertainty
from figures.report.read import StoredPopulation, grouped, load_outputs, read_figure, with_dense

SHOWN_SPARSITY = 0.95  # details are shown for one sparsity, the highest up to this one


class Picture(NamedTuple):
    """A figure of the report, with `arrays` for figures/report/plots.py."""

    name: str
    heading: str
    caption: str
    arrays: dict


class Report(NamedTuple):
    """The contents of the report as numbers and arrays.

    stored: all stored populations; compared: the pruned ones whose outputs are all stored; populations,
    dense: their rows of numbers and those of the dense ones; evidence: rows for the claims; missing: messages
    on what is not stored; test_sets: rows of results on alternative test sets; controls: finetuned
    populations, which are not among `compared`.
    """

    stored: Sequence[StoredPopulation] = ()
    compared: Sequence[StoredPopulation] = ()
    populations: Sequence[dict] = ()
    dense: Sequence[dict] = ()
    evidence: Sequence[dict] = ()
    pictures: Sequence[Picture] = ()
    missing: Sequence[str] = ()
    test_sets: Sequence[dict] = ()
    controls: Sequence[StoredPopulation] = ()


def collect(stored: list[StoredPopulation], figures: dict[str, dict], missing: list[str]) -> Report:
    """Returns the report on stored populations.

    Args:
        figures: those of figures/report/across.py; missing: its messages on missing masks.
    """
    loaded, not_stored = load_outputs([item for item in stored if item.pruning_method != "dense"])
    compared = [population for population in loaded if population.is_pruned]
    controls = [population for population in loaded if not population.is_pruned]
    missing = [f"{text}." for text in (*missing, *not_stored)]
    if not compared:
        return Report(stored, missing=missing, controls=controls)
    test_set_rows, clean_rows, unused_sets = test_sets.beside_clean(loaded)
    missing += [f"{text}." for text in unused_sets]
    beside_control = evidence.with_controls(compared, controls).values()
    missing += [
        f"the finetuned control of {method}: run its pruning_finetune script with --pruning_percentages 0.0 "
        "and the settings of its one-shot networks, then its PIE and depth scripts again."
        for method in sorted(
            {item.learning_method for item in beside_control if not evidence.has_control(item)}
        )
    ]
    populations = measures.population_rows([*controls, *compared])
    dense = measures.population_rows(
        [item for item in with_dense(compared) if item.pruning_method == "dense"]
    )
    grid, missing_grid = umap_grid(compared)
    joint_pictures, missing_joint = dense_against_pruned(compared)
    equal, number = of_equal_number([*compared, *controls])
    pictures = [against_sparsity(compared, equal, "excess")] if number > 1 else []  # one has no halves
    for picture in pictures:
        picture.arrays["zero"] = f"noise floor (halves, K = {number // 2})"
    pictures += [
        against_sparsity(compared, equal, "pies"),
        against_sparsity(compared, [*populations, *dense], "accuracy"),
        *measures_against_sparsity(stored, compared),
        *grid,
        *joint_pictures,
        *comparison_pictures(figures, compared),
    ]
    rows = evidence.all_evidence(compared, controls)
    pictures += filter(None, (forest(compared, rows, claim) for claim in claims.CLAIMS))
    pictures += filter(None, map(gallery_picture, shown(compared)))
    pictures += [
        shift(compared, [*clean_rows, *test_set_rows], name)
        for name in ("accuracy", "pie_share")
        if any(name in row for row in test_set_rows)
    ]
    missing = list(dict.fromkeys([*missing, *missing_grid, *missing_joint]))
    return Report(stored, compared, populations, dense, rows, pictures, missing, test_set_rows, controls)


# Figures

CAPTIONS = {  # beginning of a figure's name, or kind of a script's figure -> heading, caption
    "pies": (
        "PIEs against sparsity",
        "Images whose modal label over the pruned networks differs from that over the dense ones. "
        "All populations have K networks, the first ones; smaller ones are left out. Bars: 95 % intervals, "
        "half-sampling over seeds.",
    ),
    "excess": (
        "PIEs beyond the noise floor, against sparsity",
        "Between halves of the seeds: the number of images on which dense and pruned networks differ, minus "
        "that on which dense networks differ. At 0, the noise floor, pruning changes no more labels than a "
        "change of seeds. The reference is the dense networks; claim 1 compares one-shot networks with their "
        "control. Bars: 95 % intervals over seeds.",
    ),
    "accuracy": (
        "Accuracy against sparsity",
        "Mean over the networks. Bars: 95 % intervals, Student's t over networks.",
    ),
    "calibration_error": (
        "Calibration error (%)",
        "|accuracy - confidence|, averaged over 15 bins of confidence. Mean over networks. Bars: 95 % "
        "intervals.",
    ),
    "cka": (
        "CKA with dense",
        "Similarity of the latents of the dense and the pruned network of one seed. Mean over networks. "
        "Bars: 95 % intervals.",
    ),
    "pie_overlap": (
        "Overlap of PIE sets",
        "Jaccard similarity of two PIE sets, divided by that of random sets of these sizes: 1 is chance. "
        "Those of one learning method share dense networks.",
    ),
    "pies_per_class": (  # at one sparsity
        "PIEs of each class, common and unique",
        "Every PIE at this sparsity appears once, by its true label. "
        "Look for classes that suffer more than others, and whether they are the same for all methods.",
    ),
    "mask_similarity": (
        "Similarity of masks",
        "Jaccard similarity of kept weights, divided by that of random masks of the same density in each "
        "layer: 1 is chance. Check whether masks of one seed agree across methods, and whether masks of "
        "different seeds agree beyond chance.",
    ),
    "class_recall": (
        "Recall of each class",
        "Change of the recall of a class from dense to pruned (and finetuned) networks, minus the change of "
        "the accuracy over all classes. "
        "Stars: significant, corrected for the number of classes.",
    ),
    "q_score": (
        "Q-Score, dense against pruned",
        "Colour: the share of PIEs among the images of a cell; grey: the share among all images. Look for "
        "PIEs at the left and bottom (claim 4, which also controls for difficulty). Below the dashed line "
        "pruning has lowered the quality of an image's latent. Histograms of PIEs and other images: dense "
        "networks on top, pruned ones right.",
    ),
    "prediction_depth": (
        "Prediction depth, dense against pruned",
        "The number of layers before the k-NN settles on the network's prediction, or on the true label if "
        "the title says so. "
        "Colour: the share of PIEs among the images of a cell; grey: the share among all images. Look for "
        "PIEs at the top and right (claim 4, which also controls for difficulty). Above the dashed line "
        "pruning has made an image harder.",
    ),
    "umap": (
        "UMAP of the latents",
        "One UMAP for each population, of the latents of one network or their mean over networks. Axes have "
        "no meaning, and positions cannot be compared between panels. Dense networks: all images; pruned "
        "ones: PIEs by their modal label, others grey. Check whether classes stay apart and PIEs lie between "
        "them.",
    ),
    "claim": (  # with the statement of the claim as the heading
        "",
        "Right of 0: as claimed. Grey: less than d, the smallest difference that matters. Green: for the "
        "claim, orange: against it, both beyond d by Holm's method at 5 %; the mean, last: if its interval "
        "lies beyond d.",
    ),
    "test_sets_accuracy": (
        "Accuracy on other test images, against sparsity",
        "Check whether a curve falls at lower sparsities than the clean one: then pruning costs more on "
        "these images than the clean accuracy shows. Bars: 95 % intervals, Student's t over networks.",
    ),
    "test_sets_pie_share": (
        "PIEs among other test images, against sparsity",
        "Each test set has separate PIEs, from the labels that the same networks give its images. Check "
        "whether they become more with the strength. Square-root scale; bars: 95 % intervals, half-sampling "
        "over seeds.",
    ),
    "pies_distribution": ("", ""),  # the title suffices
}


def caption(name: str) -> str:
    """Returns the caption of a figure, given its name or, for a script's figure, its kind; "" if the title
    suffices."""
    return CAPTIONS[max(filter(name.startswith, CAPTIONS), key=len, default="pies_distribution")][1]


def of_equal_number(populations: list[StoredPopulation]) -> tuple[list[dict], int]:
    """Computes PIEs of equally many networks, because the number of PIEs depends on that of networks. It uses
    as many seeds as the smallest pruned population with intervals has, and leaves out smaller populations.

    Returns:
        rows; the number of networks.
    """
    numbers, rows = [len(item.seeds) for item in populations if item.is_pruned], []
    fewest = min([number for number in numbers if number >= uncertainty.FEWEST_SEEDS], default=min(numbers))
    for population in populations:
        seeds = population.seeds[:fewest]
        if len(seeds) == fewest:
            pies = {name: measures.estimate(name, population, seeds) for name in ("pies", "excess")}
            rows.append(population.key | pies)
    return rows, fewest


def comparison_pictures(figures: dict[str, dict], compared: list[StoredPopulation]) -> list[Picture]:
    """Returns the figures of figures/report/across.py that the report shows."""
    per_class = f"pies_per_class_{max(item.sparsity for item in shown(compared))}sparsity"
    pictures = []
    for kind in ("pie_overlap", "pies_per_class", "mask_similarity", "class_recall"):
        name = per_class if kind == "pies_per_class" else kind
        if name in figures:
            pictures.append(Picture(name, *CAPTIONS[kind], figures[name]))
    return pictures


def shown(compared: list[StoredPopulation]) -> list[StoredPopulation]:
    """Returns the population whose details are shown, for each learning and pruning method."""
    return [
        max(
            [population for population in group if population.sparsity <= SHOWN_SPARSITY],
            key=attrgetter("sparsity"),
            default=group[0],
        )
        for group in grouped(compared, "method").values()
    ]


def describe_population(population: StoredPopulation, kind: str = "") -> str:
    """Names a population in headings, as in flags and tables, with the number of its networks (for
    prediction_depth figures: of its probed networks)."""
    networks = population.pruned.depth_ids if kind == "prediction_depth" else population.pruned.ids
    return f"{with_sparsity(population.method, population.sparsity)}, {len(networks)} networks"


def file_name(population: StoredPopulation) -> str:
    """Names a population in file names of figures."""
    return f"{population.learning_method}_{population.pruning_method}_{population.sparsity}sparsity"


def dense_against_pruned(compared: list[StoredPopulation]) -> tuple[list[Picture], list[str]]:
    """Returns the scripts' figures of Q-Score and depth at one sparsity, and messages on missing ones."""
    pictures, missing = [], []
    scripts = {
        "q_score": "its PIE script with --plot_q_score",
        "prediction_depth": "its prediction_depth script",
    }
    for kind, script in scripts.items():
        heading, text = CAPTIONS[kind]
        for population in shown(compared):
            arrays = read_figure(population, kind)
            if arrays is None:
                missing.append(f"{heading} of {population.label}: run {script}.")
                continue
            title = f"{heading}: {describe_population(population, kind)}"
            pictures.append(Picture(f"{kind}_{file_name(population)}", title, text, arrays))
    return pictures, missing


class Measure(NamedTuple):
    """How the report shows a number: times `scale`, with `decimals` decimals."""

    title: str
    scale: int = 1
    decimals: int = 0


SIDE_BY_SIDE = {  # measures of two runs
    "accuracy": Measure("test accuracy (%)", 100, 2),
    "pies": Measure("PIEs (images)"),
    "excess": Measure("PIEs beyond the noise floor, between halves of the seeds (images)"),
    "q_score": Measure("mean Q-Score of all test images", 1, 3),
    "depth": Measure("mean prediction depth of all test images (layers)", 1, 2),
    "overlap": Measure("Jaccard similarity of the PIE sets", 1, 3),
}
CURVES = {  # columns of results.csv drawn against sparsity; arrays of the same name hold a value per network
    "calibration_error": Measure("calibration error (%)", 100),
    "cka": Measure("CKA with dense"),
}
SHOWN = (
    SIDE_BY_SIDE
    | CURVES
    | {
        "pie_share": Measure("PIEs (% of the images)", 100),
        "excess": Measure("PIEs beyond the noise floor (images)"),
    }
)


def measures_against_sparsity(
    stored: list[StoredPopulation], compared: list[StoredPopulation]
) -> list[Picture]:
    """Draws the measures of `CURVES` against sparsity."""
    pictures = []
    for name in CURVES:
        rows = [
            item.key | {name: measures.estimate(name, item)}
            for item in stored
            if name in item.arrays and item.row.get(name) is not None  # None: no network has it
        ]
        if rows:
            pictures.append(against_sparsity(compared, rows, name))
    return pictures


def against_sparsity(
    compared: list[StoredPopulation], rows: list[dict], name: str, kind: str = ""
) -> Picture:
    """Draws a number against sparsity for all learning and pruning methods, with intervals.

    Args:
        kind: the key of its heading and caption (default: its name).
    """
    (heading, text), (ylabel, scale, _) = CAPTIONS[kind or name], SHOWN[name]
    series: dict[str, list[dict]] = {}
    for row in rows:
        test_set = f" · {row['test_set']}" if "test_set" in row else ""
        series.setdefault(f"{row['learning_method']} {row['pruning_method']}{test_set}", []).append(row)
    networks = [[row[name].get("models", row.get("networks")) for row in group] for group in series.values()]
    arrays = {
        "figure": "against_sparsity",
        "title": across.title(compared, heading, sum(networks, [])),
        "ylabel": ylabel,
        "series": list(series),
        "networks": list(map(claims.either, networks)),
        "learning_methods": [group[0]["learning_method"] for group in series.values()],
    }
    if name in ("pies", "pie_share"):
        arrays |= {"counts": True, "ylabel": f"{ylabel}, square-root scale"}
    for index, group in enumerate(series.values()):
        arrays[f"sparsity_{index}"] = [row["sparsity"] for row in group]
        for key in ("value", "low", "high"):
            arrays[f"{key}_{index}"] = [scale * row[name][key] for row in group]
    return Picture(f"{name}_against_sparsity", heading, text, arrays)


def forest(compared: list[StoredPopulation], rows: list[dict], claim: claims.Claim) -> Picture | None:
    """Draws the deciding rows of a claim and their means; None without any number."""
    deciding = [row for row in rows if row["claim"] == claim.number and row["decides"]]
    if all(np.isnan(row["value"]) for row in deciding):
        return None
    shown_measures = [claims.MEASURES[claim.number, row["measure"]] for row in deciding]
    numbers = [[row[name] for row in deciding] for name in ("value", "low", "high", "smallest")]
    arrays = {
        "figure": "forest",
        "title": across.title(compared, f"Claim {claim.number}", [row["models"] for row in deciding]),
        "measures": [f"{measure.name} ({measure.unit})".removesuffix(" ()") for measure in shown_measures],
        "rows": ["mean" if row["is_mean"] else pair_label(row) for row in deciding],
        "marks": [claims.mark_mean(row) if row["is_mean"] else row["mark"] for row in deciding],
        "numbers": np.array(numbers) * [measure.scale for measure in shown_measures],
    }
    return Picture(f"claim_{claim.number}", claim.statement, caption("claim"), arrays)


def pair_label(row: dict) -> str:
    """Labels a row of evidence with what it compares."""
    return with_sparsity(row["comparison"].replace("against ", "against\n"), row["sparsity"])


def shift(compared: list[StoredPopulation], all_rows: list[dict], name: str) -> Picture:
    """Draws a number on all test sets against sparsity; every pruning method starts with the dense
    networks."""
    evaluated = {row["learning_method"] for row in all_rows}
    compared = [population for population in compared if population.learning_method in evaluated]
    methods = grouped(compared, "learning_method", "pruning_method")
    rows = [
        row | {"pruning_method": pruning}
        for (learning, pruning), row in product(methods, all_rows)
        if name in row and row["learning_method"] == learning and row["pruning_method"] in (pruning, "dense")
    ]
    picture = against_sparsity(compared, rows, name, f"test_sets_{name}")
    arrays = picture.arrays | {"figure": "test_sets"}
    return picture._replace(name=f"test_sets_{name}", arrays=arrays)


def umap_grid(compared: list[StoredPopulation]) -> tuple[list[Picture], list[str]]:
    """Returns a figure of all stored UMAPs, the dense ones first, and messages on missing ones."""
    arrays = {
        "figure": "umap_grid",
        "class_names": compared[0].class_names,
        "title": across.title(compared, CAPTIONS["umap"][0]).split("\n")[0],  # of fewer networks
    }
    names, missing = [], []
    for population in with_dense(compared):
        umap = read_figure(population, "umap")
        if umap is None:
            name = population.method if population.pruning_method == "dense" else population.label
            missing.append(f"UMAP of {name}: run its PIE script with --plot_umap.")
            continue
        shown_arrays = [name for name in ("coordinates", "modal_labels", "is_pie") if name in umap]
        arrays |= {f"{name}_{len(names)}": umap[name] for name in shown_arrays}
        names.append(with_sparsity(population.method, population.sparsity))
    arrays["populations"] = names
    picture = Picture("umap_grid", *CAPTIONS["umap"], arrays)
    return [picture] if names else [], missing


# PIEs and provenance


def gallery(population: StoredPopulation) -> list[dict]:
    """Returns the stored PIEs: `votes_on` each, the number of voters, and its image (3, H, W) uint8."""
    arrays, voters = population.arrays, population.row["voters"]
    return [
        {"image": image, "voters": voters, **votes_on(population, index)}
        for index, image in zip(arrays["gallery"], arrays["gallery_images"])
    ]


def votes_on(population: StoredPopulation, index: int) -> dict:
    """Returns the label of an image, both modal labels, numbers of networks that predict them, and the
    confidence by metrics.disagreement."""
    arrays, names = population.arrays, population.class_names
    return {
        "label": names[arrays["labels"][index]],
        "dense": names[arrays["dense_modal_labels"][index]],
        "pruned": names[arrays["modal_labels"][index]],
        "dense_agreeing": arrays["dense_votes"][index],
        "pruned_agreeing": arrays["votes"][index],
        "confidence": arrays["confidence"][index],
    }


def pie_list(population: StoredPopulation) -> list[dict]:
    """Returns one row per PIE, the most confident disagreement first: image (file, or index among the test
    images), label and votes, margin (lead of the modal label, as a share of the votes), and Q-Score and
    prediction depth averaged over the pruned networks. Margin and depth are NaN if not stored."""
    arrays, depths = population.arrays, population.depths
    margin = depth = np.full(len(population.is_pie), np.nan)
    if population.pruned:
        margin = measures.vote_leads(population) / len(population.seeds)
    if depths:
        depth = depths["pruned_depth_prediction"].mean(0)
    rows = [
        {
            "image": str(name),
            **votes_on(population, index),
            "margin": margin[index],
            "image_q_score": arrays["q_score"][index],
            "image_depth": depth[index],
        }
        for name, index in zip(arrays["pie_images"], np.flatnonzero(population.is_pie))
    ]
    return sorted(rows, key=lambda row: -row["confidence"])


def gallery_picture(population: StoredPopulation) -> Picture | None:
    """Returns the gallery as one figure, for papers; the page shows text and images in its place."""
    entries = gallery(population)
    if not entries:
        return None
    caption = (
        "label {label}\ndense {dense} ({dense_agreeing} of {voters})\n"
        "pruned {pruned} ({pruned_agreeing} of {voters})"
    )
    heading = f"PIEs ({population.is_pie.sum()} in all), the most confident disagreements first"
    arrays = {
        "figure": "gallery",
        "title": f"{heading} · {population.arrays['title']}",
        "images": np.stack([entry["image"] for entry in entries]),
        "captions": [caption.format(**entry) for entry in entries],
    }
    return Picture(f"gallery_{file_name(population)}", heading, "", arrays)


def provenance(stored: list[StoredPopulation]) -> tuple[list[dict], list[str]]:
    """Returns the provenance of every population, and all commands in order.

    Returns:
        rows of learning_method, pruning_method, sparsity, and what the PIE script recorded about training;
        commands.
    """
    rows = [population.row | population.runs for population in stored]
    commands = [command for row in rows for command in row["commands"] if command]
    for population, row in zip(stored, rows):
        commands.append(row["analysis"])
        if population.depths:
            commands.append(json.loads(str(population.depths["runs"]))["analysis"])
    return rows, list(dict.fromkeys(commands))
