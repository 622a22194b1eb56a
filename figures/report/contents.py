"""What the report of one data set shows: numbers, figures, PIEs and provenance. figures/report/page.py writes
it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from operator import attrgetter
from typing import NamedTuple

import numpy as np

from common.cli import UserError
from common.methods import FINETUNED, with_sparsity
from common.store.files import differences
from common.store.table import MEASURES, Measure
from figures.report import across, claims, evidence, test_sets, uncertainty
from figures.report.claims import either
from figures.report.evidence import Pair
from figures.report.read import StoredPopulation, grouped, load_outputs, read_figure

SHOWN_SPARSITY = 0.95  # of the figures that would be too many: the highest sparsity up to this one


@dataclass(frozen=True)
class Picture:
    """A figure of the report: `arrays` as figures/report/plots.py takes them."""

    name: str
    heading: str
    caption: str
    arrays: dict


class Report(NamedTuple):
    """All that the report says, as numbers and arrays.

    stored: all populations, as they are stored; compared: the pruned ones of which everything is stored;
    populations, dense: rows of numbers of them and of the dense ones; evidence: rows for the claims;
    missing: what is not stored, in words; test_sets: rows of numbers on other test images;
    test_set_pictures; controls: the finetuned ones, which count as pruned nowhere and are in `populations`
    and `test_sets` alone. Of two runs side by side alone: names, of the runs; changed, rows of settings that
    differ; differences, rows of numbers of both.
    """

    stored: Sequence[StoredPopulation] = ()
    compared: Sequence[StoredPopulation] = ()
    populations: Sequence[dict] = ()
    dense: Sequence[dict] = ()
    evidence: Sequence[dict] = ()
    pictures: Sequence[Picture] = ()
    missing: Sequence[str] = ()
    test_sets: Sequence[dict] = ()
    test_set_pictures: Sequence[Picture] = ()
    controls: Sequence[StoredPopulation] = ()
    names: tuple[str, ...] = ()
    changed: Sequence[dict] = ()
    differences: Sequence[dict] = ()


def collect(
    stored: list[StoredPopulation], comparisons: dict[str, across.Comparison], missing: list[str]
) -> Report:
    """The report on stored populations, with their comparisons of figures/report/across.py; `missing`
    there."""
    loaded, not_stored = load_outputs([each for each in stored if each.pruning_method != "dense"])
    compared = [population for population in loaded if population.is_pruned]
    controls = [population for population in loaded if not population.is_pruned]
    shifted, clean, left_out = test_sets.beside_clean(loaded) if compared else ([], [], [])
    missing = [f"{text}." for text in (*missing, *not_stored, *left_out)]
    if not compared:
        return Report(stored, missing=missing)
    dense = [each for each in evidence.with_dense(compared) if each.pruning_method == "dense"]
    populations, dense = evidence.population_rows(compared), evidence.population_rows(dense)
    grid, not_stored = umap_grid(compared)
    joint, no_joint = dense_against_pruned(compared)
    equal, floors = of_equal_number(compared)
    curves = [against_sparsity(compared, equal, name, *CAPTIONS[name]) for name in ("pies", "excess")]
    curves[0].arrays.update(floors)
    curves[1].arrays.update(
        {"floor_methods": [""], "floors": [[0, 0]], "floor_networks": floors["floor_networks"]}
    )
    pictures = [
        *curves,
        against_sparsity(compared, [*populations, *dense], "accuracy", *CAPTIONS["accuracy"]),
        *measures_against_sparsity(stored, compared),
        *grid,
        *joint,
        *comparison_pictures(comparisons, compared),
    ]
    missing += not_stored + no_joint
    few = {len(each.seeds) for each in compared} & set(range(uncertainty.FEWEST_SEEDS))
    if few:
        missing.append(
            f"Intervals, noise floor and verdicts of populations of {either(few)} models: "
            f"they need {uncertainty.FEWEST_SEEDS}."
        )
    rows = evidence.all_evidence(compared, controls)
    populations = [*populations, *evidence.population_rows(controls)]
    pictures += filter(None, (forest(compared, rows, claim) for claim in claims.CLAIMS))
    missing = list(dict.fromkeys(missing))
    shifts = [
        shift(compared, [*clean, *shifted], name) for name in SHIFTS if any(name in row for row in shifted)
    ]
    return Report(stored, compared, populations, dense, rows, pictures, missing, shifted, shifts, controls)


def table_rows(rows: list[dict]) -> list[dict]:
    """Rows of a CSV: every number of a population, with its interval in columns of its own."""
    ends = ("low", "high", "models")
    return [
        {
            column: value
            for name, cell in row.items()
            for column, value in (
                {name: cell["value"]} | {f"{name}_{end}": cell[end] for end in ends if end in cell}
                if isinstance(cell, dict)
                else {name: cell}
            ).items()
        }
        for row in rows
    ]


# Figures


def of_equal_number(compared: list[StoredPopulation]) -> tuple[list[dict], dict]:
    """Rows of PIEs of equally many networks, as their number changes with that of the networks: of the first
    seeds of all populations that have as many as the smallest one with intervals.

    Returns:
        rows; the noise floors of learning methods, of 95 % of the splits, as figures/report/plots.py takes
        them.
    """
    numbers, rows, floors = [len(each.seeds) for each in compared], [], {}
    fewest = min([number for number in numbers if number >= uncertainty.FEWEST_SEEDS], default=min(numbers))
    for population in compared:
        seeds = population.seeds[:fewest]
        if len(seeds) == fewest:
            pies = {name: evidence.estimate(name, population, seeds) for name in ("pies", "excess")}
            rows.append(population.key | pies)
            if fewest > 1:
                splits = evidence.between_halves(population, seeds, uncertainty.splits_of_sets).floor[0]
                floors.setdefault(population.learning_method, np.percentile(splits, [2.5, 97.5]))
    arrays = {"floor_methods": list(floors), "floors": list(floors.values()), "floor_networks": fewest // 2}
    return rows, arrays


CAPTIONS = {  # number that is drawn against sparsity -> heading, caption
    "pies": (
        "PIEs against sparsity",
        "Images whose modal label over the pruned networks differs from that over the dense ones. "
        "Look for contrastive curves above supervised ones (claim 1) and for early above late pruning "
        "(claim 3). All are of K networks; populations of fewer are left out. Bars: 95 % intervals, "
        "half-sampling over seeds. Band: the noise floor, images that dense networks of opposite halves of "
        "the seeds differ on, in 95 % of the splits.",
    ),
    "excess": (
        "PIEs beyond the noise floor, against sparsity",
        "Between halves of the seeds: images that dense and pruned networks differ on, minus those that "
        "dense networks of either half differ on. At 0, the noise floor, pruning changes no more labels than "
        "other seeds do. Bars: 95 % intervals over seeds.",
    ),
    "accuracy": (
        "Accuracy against sparsity",
        "Mean over the networks. Look whether accuracy falls as soon as PIEs rise: the paper's point "
        "is that it falls later. Bars: 95 % intervals, Student's t over networks.",
    ),
}
COMPARISONS = {  # figures of figures/report/across.py that the report shows: name -> heading, caption
    "pie_overlap": (
        "Overlap of PIE sets",
        "How many times as large as of random sets of these sizes the Jaccard similarity of two PIE sets is: "
        "1 is chance. Look whether combinations of one learning method (claim 2) or of one sparsity are more "
        "alike than others.",
    ),
    "pies_per_class": (  # at one sparsity
        "PIEs of each class, common and unique",
        "Every PIE at this sparsity once, by its true label. "
        "Look for classes that suffer more than others, and whether it is the same classes for all methods.",
    ),
    "mask_similarity": (
        "Similarity of masks",
        "How many times as large as of random masks of the same density in each layer the Jaccard similarity "
        "of kept weights is: 1 is chance. Look whether masks of one seed agree across methods, and whether "
        "different seeds agree beyond chance.",
    ),
    "class_recall": (
        "Recall of each class",
        "How much more or less than the accuracy over all classes the recall of a class changes with "
        "pruning. Stars: significant, corrected for the number of classes.",
    ),
}


def caption(name: str) -> str:
    """The caption of a figure, by its name or, of a script's figure, by its kind; "" where its title says
    all."""
    texts = {f"test_sets_{number}": each for number, each in SHIFTS.items()}
    texts |= CAPTIONS | COMPARISONS | JOINT | {"umap": UMAP, "claim": FOREST, "pies_distribution": [""]}
    return texts[max(filter(name.startswith, texts), key=len, default="pies_distribution")][-1]


def comparison_pictures(
    comparisons: dict[str, across.Comparison], compared: list[StoredPopulation]
) -> list[Picture]:
    """Those of the figures of figures/report/across.py that the report shows."""
    figures = {name: arrays for each in comparisons.values() for name, arrays in each.figures.items()}
    per_class = f"pies_per_class_{max(each.sparsity for each in shown(compared))}sparsity"
    pictures = []
    for kind, texts in COMPARISONS.items():
        name = per_class if kind == "pies_per_class" else kind
        if name in figures:
            pictures.append(Picture(name, *texts, figures[name]))
    return pictures


def shown(compared: list[StoredPopulation]) -> list[StoredPopulation]:
    """Of each learning and pruning method the one sparsity of which details are shown."""
    return [
        max(
            [population for population in group if population.sparsity <= SHOWN_SPARSITY],
            key=attrgetter("sparsity"),
            default=group[0],
        )
        for group in grouped(compared, "method").values()
    ]


def describe_population(population: StoredPopulation, kind: str = "") -> str:
    """A population in headings, named as in flags and tables, with its networks, or those that were probed
    where the kind of figure is prediction_depth."""
    networks = population.pruned.depth_ids if kind == "prediction_depth" else population.pruned.ids
    return f"{with_sparsity(population.method, population.sparsity)}, {len(networks)} models"


def file_name(population: StoredPopulation) -> str:
    """A population in names of figures."""
    return f"{population.learning_method}_{population.pruning_method}_{population.sparsity}sparsity"


JOINT = {  # kind of figure -> heading, what to run for it, caption
    "q_score": (
        "Q-Score, dense against pruned",
        "its PIE script with --plot_q_score",
        "Colour: the share of PIEs among the images of a cell, grey where it is that of all images. Look for "
        "PIEs at the left and below (claim 4). Below the dashed line pruning has lowered the quality of an "
        "image's latent. At the sides the share of PIEs and of others: dense networks on top, pruned right.",
    ),
    "prediction_depth": (
        "Prediction depth, dense against pruned",
        "its prediction_depth script",
        "How many layers of the network come before the k-NN has settled on the network's prediction. "
        "Colour: the share of PIEs among the images of a cell, grey where it is that of all images. Look for "
        "PIEs at the top and right (claim 4): they are settled late. Above the dashed line pruning has made "
        "an image harder.",
    ),
}


def dense_against_pruned(compared: list[StoredPopulation]) -> tuple[list[Picture], list[str]]:
    """The scripts' figures of Q-Score and depth at one sparsity, and in words those that are missing."""
    pictures, missing = [], []
    for kind, (heading, script, caption) in JOINT.items():
        for population in shown(compared):
            arrays = read_figure(population, kind)
            if arrays is None:
                missing.append(f"{heading} of {population.label}: run {script}.")
                continue
            title = f"{heading}: {describe_population(population, kind)}"
            pictures.append(Picture(f"{kind}_{file_name(population)}", title, caption, arrays))
    return pictures, missing


SIDE_BY_SIDE = {  # of two runs
    "accuracy": Measure("test accuracy (%)", "", 100, 2),
    "pies": Measure("PIEs (images)", ""),
    "excess": Measure("PIEs beyond the noise floor, between halves of the seeds (images)", ""),
    "q_score": Measure("mean Q-Score of all test images", "", 1, 3),
    "depth": Measure("mean prediction depth of all test images (layers)", "", 1, 2),
    "overlap": Measure("Jaccard similarity of the PIE sets", "", 1, 3),
}
SHOWN = SIDE_BY_SIDE | {
    "pie_share": Measure("PIEs (% of the images)", "", 100),
    "excess": Measure("PIEs beyond the noise floor (images)", ""),
}
CURVES = ("calibration_error", "cka")  # the measures that are drawn


def measures_against_sparsity(
    stored: list[StoredPopulation], compared: list[StoredPopulation]
) -> list[Picture]:
    """What pruning loses and keeps against sparsity."""
    rows = [each.key | evidence.measures(each) for each in stored if each.pruning_method != FINETUNED]
    pictures = []
    for name in CURVES:
        heading, meaning, _, _ = MEASURES[name]
        heading = heading[0].upper() + heading[1:]
        if chosen := [row for row in rows if name in row]:
            caption = f"{meaning[0].upper()}{meaning[1:]}. Mean over networks. Bars: 95 % intervals."
            pictures.append(against_sparsity(compared, chosen, name, heading, caption))
    return pictures


def against_sparsity(
    compared: list[StoredPopulation], rows: list[dict], name: str, heading: str, caption: str
) -> Picture:
    """A number of all learning and pruning methods against sparsity, with intervals."""
    ylabel, _, scale, _ = SHOWN.get(name) or MEASURES[name]
    series: dict[str, list[dict]] = {}
    for row in rows:
        run = f" · {row['run']}" if "run" in row else ""
        series.setdefault(f"{row['learning_method']} {row['pruning_method']}{run}", []).append(row)
    networks = [[row[name].get("models", row.get("networks")) for row in group] for group in series.values()]
    arrays = {
        "figure": "against_sparsity",
        "title": across.title(compared, heading, sum(networks, [])),
        "ylabel": ylabel,
        "series": list(series),
        "networks": list(map(either, networks)),
        "learning_methods": [group[0]["learning_method"] for group in series.values()],
    }
    if name in ("pies", "pie_share"):
        arrays |= {"counts": True, "ylabel": f"{ylabel}, square-root scale"}
    for index, group in enumerate(series.values()):
        arrays[f"sparsity_{index}"] = [row["sparsity"] for row in group]
        for key in ("value", "low", "high"):
            arrays[f"{key}_{index}"] = [scale * row[name][key] for row in group]
    return Picture(f"{name}_against_sparsity", heading, caption, arrays)


FOREST = (
    "Right of 0 a difference is for the claim, left of it against; the last line is the mean. Grey bands: "
    "less than d, the smallest difference that matters. Green and orange: for and against, beyond d by "
    "Holm's method at 5 %.",
)


def forest(compared: list[StoredPopulation], rows: list[dict], claim: claims.Claim) -> Picture | None:
    """The rows that decide on a claim and their means; None where there are none."""
    deciding = [row for row in rows if row["claim"] == claim.number and row["decides"]]
    if not deciding:
        return None
    outcomes = {claims.SUPPORTED: claims.FOR, claims.CONTRADICTED: claims.AGAINST}
    of_mean = outcomes.get(claims.judge(rows, claim.number), claims.OPEN)
    measures = [claims.MEASURES[claim.number, row["measure"]] for row in deciding]
    numbers = [[row[name] for row in deciding] for name in ("value", "low", "high", "smallest")]
    arrays = {
        "figure": "forest",
        "title": across.title(compared, f"Claim {claim.number}"),
        "measures": [f"{measure.name} ({measure.unit or 'no unit'})" for measure in measures],
        "rows": ["mean" if row["is_mean"] else pair_label(row) for row in deciding],
        "marks": [of_mean if row["is_mean"] else row["mark"] for row in deciding],
        "numbers": np.array(numbers) * [measure.scale for measure in measures],
    }
    return Picture(f"claim_{claim.number}", claim.statement, *FOREST, arrays)


def pair_label(row: dict) -> str:
    """What a row of evidence is of."""
    return with_sparsity(row["comparison"].replace("against ", "against\n"), row["sparsity"])


SHIFTS = {  # what is drawn of test sets -> heading, caption
    "accuracy": (
        "Accuracy on other test images, against sparsity",
        "Look whether a curve falls at lower sparsities than the clean one does: there pruning costs more on "
        "these images than the clean accuracy tells. Bars: 95 % intervals, Student's t over networks.",
    ),
    "pie_share": (
        "PIEs among other test images, against sparsity",
        "Each test set has PIEs of its own, by the labels that the same networks give its images. Look "
        "whether they become more with the strength. Square-root scale; bars: 95 % intervals, half-sampling "
        "over seeds.",
    ),
}


def shift(compared: list[StoredPopulation], all_rows: list[dict], name: str) -> Picture:
    """A number on all test sets against sparsity, with each pruning method the dense networks too."""
    methods = grouped(compared, "learning_method", "pruning_method")
    rows = [
        {**row, "pruning_method": pruning, "run": row["test_set"]}
        for (learning, pruning), row in product(methods, all_rows)
        if name in row and row["learning_method"] == learning and row["pruning_method"] in (pruning, "dense")
    ]
    picture = against_sparsity(compared, rows, name, *SHIFTS[name])
    arrays = picture.arrays | {"figure": "test_sets"}
    return replace(picture, name=f"test_sets_{name}", arrays=arrays)


UMAP = (  # heading, caption
    "UMAP of the latents",
    "One UMAP for each population, of the latents of one network or of their mean; axes have no meaning "
    "beyond near and far, and panels cannot be laid over each other. Dense networks: all images; pruned "
    "ones: PIEs by their modal label, others grey. Look whether classes stay apart, and PIEs lie between.",
)


def umap_grid(compared: list[StoredPopulation]) -> tuple[list[Picture], list[str]]:
    """All stored UMAPs, the dense ones of each learning method first; and in words those that are not
    stored."""
    arrays = {
        "figure": "umap_grid",
        "class_names": compared[0].class_names,
        "title": across.title(compared, UMAP[0]),
    }
    names, missing = [], []
    for population in evidence.with_dense(compared):
        is_dense = population.pruning_method == "dense"
        umap = read_figure(population, "umap", dense=is_dense)
        if umap is None:
            name = population.method if is_dense else population.label
            missing.append(f"UMAP of {name}: run its PIE script with --plot_umap.")
            continue
        shown_arrays = {"coordinates", "modal_labels", "is_pie"} & umap.keys()
        arrays |= {f"{name}_{len(names)}": umap[name] for name in shown_arrays}
        names.append(with_sparsity(population.method, population.sparsity))
    arrays["populations"] = names
    picture = Picture("umap_grid", *UMAP, arrays)
    return [picture] if names else [], missing


# The PIEs themselves, and how all was made


def gallery(population: StoredPopulation) -> list[dict]:
    """The stored PIEs: image (3, H, W) uint8, label, dense and pruned modal labels, how many networks agree
    with them, and the confidence of the disagreement, as metrics.disagreement says it."""
    arrays, pictures = population.arrays, population.arrays["gallery_images"]
    return [
        {"image": image, **votes_on(population, place)} for place, image in zip(arrays["gallery"], pictures)
    ]


def votes_on(population: StoredPopulation, place: int) -> dict:
    """An image's label, both modal labels, how many networks agree with them, and how confident they are."""
    arrays, names = population.arrays, population.class_names
    return {
        "label": names[arrays["labels"][place]],
        "dense": names[arrays["dense_modal_labels"][place]],
        "pruned": names[arrays["modal_labels"][place]],
        "dense_agreeing": arrays["dense_votes"][place],
        "pruned_agreeing": arrays["votes"][place],
        "confidence": arrays["confidence"][place],
    }


def pie_list(population: StoredPopulation) -> list[dict]:
    """One row for every PIE, the most confident disagreement first: image (file, or its place among the test
    images), label and votes, the margin (the lead of the modal label, as a share of the votes), and, averaged
    over the pruned networks, Q-Score and prediction depth; NaN where predictions or depths are not stored."""
    arrays, depths = population.arrays, population.depths
    margin = np.full(len(population.is_pie), np.nan)
    if population.pruned:
        margin = evidence.vote_leads(population) / len(population.seeds)
    depth = depths["pruned_depth_prediction"].mean(0) if depths else np.full(len(population.is_pie), np.nan)
    rows = [
        {
            "image": str(name),
            **votes_on(population, place),
            "margin": margin[place],
            "image_q_score": arrays["q_score"][place],
            "image_depth": depth[place],
        }
        for name, place in zip(arrays["pie_images"], np.flatnonzero(population.is_pie))
    ]
    return sorted(rows, key=lambda row: -row["confidence"])


def gallery_picture(population: StoredPopulation) -> Picture | None:
    """The gallery as one figure, for papers; on the page it is text and images."""
    entries = gallery(population)
    if not entries:
        return None
    caption = (
        "label {label}\ndense {dense} ({dense_agreeing} of {})\npruned {pruned} ({pruned_agreeing} of {})"
    )
    heading = f"PIEs ({population.is_pie.sum()} in all), the most confident disagreements first"
    arrays = {
        "figure": "gallery",
        "title": f"{heading} · {population.arrays['title']}",
        "images": np.stack([entry["image"] for entry in entries]),
        "captions": [caption.format(*population.voters, **entry) for entry in entries],
    }
    return Picture(f"gallery_{file_name(population)}", heading, "", arrays)


def provenance(stored: list[StoredPopulation]) -> tuple[list[dict], list[str]]:
    """How every population came to be, and all commands in their order.

    Returns:
        rows of learning_method, pruning_method, sparsity, and what the PIE script says of their making;
        commands.
    """
    rows = [{"unpublished": "not recorded"} | population.row | population.runs for population in stored]
    commands = [command for row in rows for command in row["commands"] if command]
    for population, row in zip(stored, rows):
        commands.append(row["analysis"])
        if population.depths and "runs" in population.depths:
            commands.append(json.loads(str(population.depths["runs"]))["analysis"])
    return rows, list(dict.fromkeys(commands))


# Two runs side by side: the same methods and sparsities under other settings, data or seeds.


def collect_runs(
    first: list[StoredPopulation], second: list[StoredPopulation], names: tuple[str, str]
) -> Report:
    """The report on the stored populations of two runs.

    Raises:
        UserError: they have nothing in common.
    """
    pruned = [[each for each in run if each.is_pruned] for run in (first, second)]
    (compared, not_stored), (others, others_not_stored) = map(load_outputs, pruned)
    of_key = {each.label: each for each in evidence.with_dense(others)}
    pairs = [
        run_pair(each, of_key[each.label]) for each in evidence.with_dense(compared) if each.label in of_key
    ]
    if all(pair.first.pruning_method == "dense" for pair in pairs):
        raise UserError(
            f"--against: {names[0]} and {names[1]} have no learning method, pruning method and sparsity in "
            "common of which everything is stored; run the PIE scripts for one in both"
        )
    labels = [[population.label for population in each] for each in (compared, others)]
    alone = [
        f"Only in {name}: {', '.join(only)}."
        for name, own, other in zip(names, labels, labels[::-1])
        if (only := [label for label in own if label not in other])
    ]
    for name, texts in zip(names, (not_stored, others_not_stored)):
        alone += [f"{name}: {text}." for text in texts]
    return Report(
        missing=alone,
        names=names,
        changed=changed_settings(first, second),
        differences=[row for pair in pairs for row in run_differences(pair)],
    )


def run_pair(first: StoredPopulation, second: StoredPopulation) -> Pair:
    """Networks are paired where the smaller population's seeds are among the larger one's."""
    ids, trained = [], []
    for population in (first, second):
        ids.append(set(population.seeds))
        trained.append(set(population.runs["seeds"]))
    paired = all(len(set.intersection(*sets)) == min(map(len, sets)) for sets in (ids, trained))
    return Pair(first, second, paired, tuple(sorted(set.intersection(*ids))) if paired else None)


def run_differences(pair: Pair) -> list[dict]:
    """Rows of method, sparsity, measure, models, paired, first, second, and the difference first minus second
    with its interval; of `overlap` the similarity itself and what random sets of these sizes have."""
    measured, dense = {}, pair.first.pruning_method == "dense"
    for name in (
        ("accuracy", "q_score") if dense else [each for each in SIDE_BY_SIDE if each in evidence.STATISTICS]
    ):
        both = evidence.compare(name, pair)
        if both.difference["models"]:
            ends = {"first": both.first["value"], "second": both.second["value"]}
            measured[name] = ends | both.difference
    if not dense and pair.first.made["data"] == pair.second.made["data"]:
        measured["overlap"] = evidence.overlap(pair)
    about = {"models": 0, "paired": pair.paired}
    return [pair.first.key | {"measure": name} | about | row for name, row in measured.items()]


def changed_settings(first: list[StoredPopulation], second: list[StoredPopulation]) -> list[dict]:
    """Settings and data in which the runs differ: rows of learning and pruning method, sparsities, setting,
    and its value in both; one row for all sparsities that differ alike. Those of the dense networks that
    pruned ones come from stand with the dense ones."""
    others, rows = {each.label: each for each in second}, {}
    for population in first:
        other = others.get(population.label)
        if other is None:
            continue
        for key, values in differences(*map(recorded_settings, (population, other))).items():
            if key.startswith("dense."):
                continue  # said of the dense networks
            name = population.learning_method, population.pruning_method, key, *map(str, values)
            rows.setdefault(name, []).append(f"{100 * population.sparsity:g}")
    titles = ("learning_method", "pruning_method", "setting", "first", "second")
    return [dict(zip(titles, name)) | {"sparsities": ", ".join(each)} for name, each in rows.items()]


def recorded_settings(population: StoredPopulation) -> dict:
    """Settings of training, data, number and days of the networks."""
    arrays, days = population.arrays, population.runs["days"]
    return json.loads(str(arrays.get("settings", "{}"))) | {
        "data": population.made["data"][:12],
        "networks": len(arrays["ids"]),
        "architecture": population.network,
        "days": " to ".join(dict.fromkeys(days[:1] + days[-1:])),
    }
