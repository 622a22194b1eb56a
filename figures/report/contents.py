"""What the report of one data set shows: numbers, figures, gallery and provenance, from its stored arrays. figures/report/page.py writes it."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common import metrics
from common.methods import describe, order
from common.store import results
from figures.report import across, evidence, uncertainty
from figures.report.evidence import Compared

SHOWN_SPARSITY = 0.95  # of the figures that would be too many: the highest sparsity up to this one


@dataclass(frozen=True)
class Picture:
    """A figure of the report: `arrays` as common/plots.py takes them."""

    name: str
    heading: str
    caption: str
    arrays: dict


def collect(results_folder: Path, left_out: list[str]) -> dict:
    """All that the report says, as numbers and arrays, from the stored arrays of a data set: `compared`, `populations`, `dense`, `evidence`,
    `floors`, `pictures` and, in words, `missing`; `left_out` of figures/report/across.py."""
    compared, missing = evidence.read_compared(results_folder)
    found = {
        "compared": compared,
        "populations": [],
        "dense": [],
        "evidence": [],
        "floors": {},
        "pictures": [],
    }
    missing = [f"{words}." for words in (*left_out, *missing)]
    absent = [row for row in results.read_table(results_folder) if row["status"] == "absent"]
    missing += [
        "{learning_method} {pruning_method} {sparsity}: asked for, but there are no such networks.".format(
            **row
        )
        for row in absent
    ]
    if compared:
        labels = evidence.labels_of_sets(compared[0].classes)
        found |= {
            "populations": evidence.populations(compared, labels),
            "dense": evidence.dense_populations(compared),
            "evidence": evidence.all_evidence(compared, labels),
            "floors": evidence.noise_floors(compared),
        }
        found["pictures"], without = pictures(compared, found)
        missing += without
        few = sorted({len(one.seeds) for one in compared if len(one.seeds) < uncertainty.FEWEST_SEEDS})
        if few:
            missing.append(
                f"Intervals, noise floor and verdicts of populations of {' or '.join(map(str, few))} models: they need {uncertainty.FEWEST_SEEDS}."
            )
    return {**found, "missing": list(dict.fromkeys(missing))}


# Figures


COMPARISONS = {  # figures of figures/report/across.py that the report shows: name up to "_0.95sparsity" -> heading, caption
    "pie_overlap": (
        "Overlap of PIE sets",
        "Jaccard similarity of the PIE sets of all pairs, beside that of random sets of these sizes. Look whether combinations of one learning method (claim 2) "
        "or of one sparsity are more alike than others.",
    ),
    "pies_unique": (
        "PIEs that one combination alone has",
        "The share of a combination's PIEs that no other combination of that sparsity has, beside random sets of these sizes. Far below chance: "
        "the combinations find the same images hard.",
    ),
    "pies_per_class": (
        "PIEs per class, common and unique",
        "Every PIE at this sparsity once, by its true label. "
        "Look for classes that suffer more than others, and whether it is the same classes for all methods.",
    ),
    "mask_similarity": (
        "Similarity of masks",
        "Jaccard similarity of kept weights, of networks of the same seed and of different seeds, beside random masks. Look whether masks of one seed "
        "agree across methods, and whether different seeds agree beyond chance.",
    ),
    "class_recall": (
        "Recall per class",
        "How much more or less than the accuracy over all classes the recall of a class changes with pruning. "
        "Stars: significant, corrected for the number of classes.",
    ),
}


def comparison_pictures(comparisons: dict[str, dict], compared: list[Compared]) -> list[Picture]:
    """Those of the figures of figures/report/across.py, name -> arrays, that the report shows; per class at one sparsity."""
    found = []
    sparsity = max((one.sparsity for one in shown(compared)), default=0)
    for name, (heading, caption) in COMPARISONS.items():
        own = f"{name}_{sparsity}sparsity" if name == "pies_per_class" else name
        if own in comparisons:
            found.append(Picture(own, heading, caption, comparisons[own]))
    return found


def pictures(compared: list[Compared], found: dict) -> tuple[list[Picture], list[str]]:
    """The figures that are not among those of figures/report/across.py, and in words those that are missing."""
    made, missing = [*against_sparsity(compared, found)], []
    if found["floors"]:
        made.append(noise_floor(compared, found["floors"]))
    grid, without = umap_grid(compared)
    made += [grid] if grid else []
    missing += without
    for kind, heading, flag, caption in (
        (
            "q_score",
            "Q-Score, dense against pruned",
            "its PIE script with --plot_q_score",
            "Every image once; colour: how many of the images that are no PIEs lie there, triangles: PIEs. Look for PIEs below and left of the bulk: "
            "that is claim 4. Below the dashed line, pruning has lowered the quality of an image's latent. The margins show dense networks on top, pruned ones at the right.",
        ),
        (
            "prediction_depth",
            "Prediction depth, dense against pruned",
            "its prediction_depth script",
            "As above, in places of the network that come before the k-NN has settled on the network's prediction. Look for PIEs high and right: "
            "they are settled late. Above the dashed line pruning has made an image harder.",
        ),
    ):
        for one in shown(compared):
            arrays = evidence.stored_figure(one.combination, kind, {"figure"})
            if arrays is None:
                missing.append(f"{heading} of {one.combination.label}: run {flag}.")
            else:
                made.append(
                    Picture(f"{kind}_{file_name(one)}", f"{heading}: {describe_one(one)}", caption, arrays)
                )
    return made, missing


def shown(compared: list[Compared]) -> list[Compared]:
    """Of each learning and pruning method the one sparsity of which details are shown."""
    groups: dict[tuple, list[Compared]] = {}
    for one in compared:
        groups.setdefault(one.combination.key[:2], []).append(one)
    return [
        max(
            (one for one in own if one.sparsity <= SHOWN_SPARSITY),
            key=lambda one: one.sparsity,
            default=own[0],
        )
        for own in groups.values()
    ]


def describe_one(one: Compared) -> str:
    """A combination in the words of headings."""
    return f"{one.learning_method}, {describe(one.combination.key[1])}, sparsity {100 * one.sparsity:g} %, {len(one.pruned.ids)} models"


def file_name(one: Compared) -> str:
    """A combination in names of figures."""
    return "{}_{}_{}sparsity".format(*one.combination.key)


def against_sparsity(compared: list[Compared], found: dict) -> list[Picture]:
    """PIEs and accuracy against sparsity with their intervals, of all learning and pruning methods."""
    combinations = [one.combination for one in compared]
    made = []
    for name, heading, ylabel, scale, caption in (
        (
            "pies",
            "PIEs against sparsity",
            "PIEs (images)",
            1,
            "Images whose modal label over the pruned networks differs from that over the dense ones. Look for contrastive curves above supervised ones (claim 1) and for early "
            "above late pruning (claim 3). Bars: 95 % intervals, delete-2 jackknife over seeds; without bars there are fewer than 6 models.",
        ),
        (
            "accuracy",
            "Accuracy against sparsity",
            "test accuracy (%)",
            100,
            "Mean over the networks. Look whether accuracy falls as soon as PIEs rise: the paper's point is that it falls later. Bars: 95 % intervals, bootstrap over seeds.",
        ),
    ):
        rows = [*found["populations"], *(found["dense"] if name == "accuracy" else [])]
        series: dict[tuple[str, str], list[dict]] = {}
        for row in rows:
            series.setdefault((row["learning_method"], row["pruning_method"]), []).append(row)
        arrays = {
            "figure": "against_sparsity",
            "title": across.title(combinations, heading),
            "ylabel": ylabel,
            "panel_title": "",
            "series": [" ".join(key) for key in series],
            "learning_methods": [method for method, _ in series],
        }
        for index, own in enumerate(series.values()):
            arrays |= {
                f"sparsity_{index}": [row["sparsity"] for row in own],
                **{
                    f"{key}_{index}": [scale * row[name][key] for row in own]
                    for key in ("value", "low", "high")
                },
            }
        made.append(Picture(f"{name}_against_sparsity", heading, caption, arrays))
    return made


def noise_floor(compared: list[Compared], floors: dict[str, dict[str, np.ndarray]]) -> Picture:
    seeds = sorted({len(one.seeds) // 2 for one in compared if len(one.seeds) >= uncertainty.FEWEST_SEEDS})
    arrays = {
        "figure": "noise_floor",
        "panels": list(floors),
        "title": across.title(
            [one.combination for one in compared],
            f"PIEs between halves of {' or '.join(map(str, seeds))} models, {uncertainty.SPLITS} random splits",
        ),
    }
    for index, floor in enumerate(floors.values()):
        arrays |= {f"names_{index}": list(floor), f"counts_{index}": np.stack(list(floor.values()))}
    return Picture(
        "noise_floor",
        "Noise floor: PIEs that come from the seeds alone",
        "One half of the dense networks against the other half (nothing is pruned there), beside the same half against the pruned networks of the other half. "
        "Look how far a box stands away from that of dense against dense: only what is beyond it comes from pruning. Fewer models make more PIEs, "
        "so that these counts are higher than those of all models.",
        arrays,
    )


def umap_grid(compared: list[Compared]) -> tuple[Picture | None, list[str]]:
    """All stored UMAPs, method x sparsity, and in words those that are not stored."""
    rows = sorted({one.combination.key[:2] for one in compared}, key=lambda key: (key[0], order(key[1])))
    columns = [0.0, *sorted({one.sparsity for one in compared})]
    arrays = {
        "figure": "umap_grid",
        "rows": [" ".join(key) for key in rows],
        "columns": ["dense", *(f"{100 * column:g} %" for column in columns[1:])],
        "class_names": compared[0].combination.arrays["class_names"],
        "title": across.title([one.combination for one in compared], "UMAP of latents, PIEs marked"),
    }
    missing, cells = [], 0
    for one in compared:
        row = rows.index(one.combination.key[:2])
        for column, stored in (
            (columns.index(one.sparsity), evidence.stored_figure(one.combination, "umap", {"coordinates"})),
            (0, dense_umap(one)),
        ):
            if stored is None:
                missing.append(
                    f"UMAP of {one.combination.label if column else f'{one.learning_method} dense'}: run its PIE script with --plot_umap."
                )
                continue
            cells += 1
            arrays |= {
                f"{key}_{row}_{column}": stored[key]
                for key in ("coordinates", "modal_labels", "is_pie")
                if key in stored
            }
    caption = (
        "One UMAP for each population, of the latents of one network or of their mean (see the title of the single figure); axes have no meaning beyond near and far, "
        "and panels cannot be laid over each other. Look whether classes stay apart as sparsity grows, and whether PIEs lie between classes."
    )
    return Picture(
        "umap_grid", "UMAP of the latents, method by sparsity", caption, arrays
    ) if cells else None, missing


def dense_umap(one: Compared) -> dict | None:
    """The stored UMAP of the dense networks that a combination was compared with."""
    made = json.loads(str(one.combination.arrays["made"]))
    for path in sorted((one.combination.folder / "umap").glob("*_dense_0.0sparsity_*.npz")):
        arrays = results.read_arrays(path) or {}
        if (
            "coordinates" in arrays
            and json.loads(str(arrays["made"]))["checkpoints"] == made["dense_checkpoints"]
        ):
            return arrays
    return None


# The PIEs themselves, and how all was made


def gallery(one: Compared) -> list[dict]:
    """The stored PIEs: image (3, H, W) uint8, label, dense and pruned modal labels, how many networks agree with them, confidence of the
    disagreement."""
    arrays, found = one.combination.arrays, []
    names = [str(name) for name in arrays["class_names"]]
    votes = metrics.disagreement(one.dense.predictions, one.pruned.predictions, one.classes)
    for place, image in zip(arrays.get("gallery", ()), arrays.get("gallery_images", ())):
        found.append(
            {
                "image": image,
                "label": names[arrays["labels"][place]],
                "dense": names[arrays["dense_modal_labels"][place]],
                "pruned": names[arrays["modal_labels"][place]],
                **{key: votes[key][place] for key in votes},
            }
        )
    return found


def gallery_picture(one: Compared) -> Picture | None:
    """The gallery as one figure, for papers; on the page it is text and images."""
    entries = gallery(one)
    if not entries:
        return None
    captions = [
        "label {label}\ndense {dense} ({dense_agreeing} of {})\npruned {pruned} ({pruned_agreeing} of {})".format(
            len(one.dense.ids), len(one.pruned.ids), **entry
        )
        for entry in entries
    ]
    heading = f"{len(entries)} of {int(one.combination.arrays['is_pie'].sum())} PIEs, the most confident disagreements first"
    return Picture(
        f"gallery_{file_name(one)}",
        heading,
        "",
        {
            "figure": "gallery",
            "title": f"{one.combination.arrays['title']} · {heading}",
            "images": np.stack([entry["image"] for entry in entries]),
            "captions": captions,
        },
    )


def provenance(compared: list[Compared]) -> tuple[list[dict], list[str]]:
    """How every population came to be, the dense ones once, and all commands in their order.

    Returns:
        rows of learning_method, pruning_method, sparsity, and what `comparison.runs` found; commands.
    """
    rows, analyses = {}, []
    for one in compared:
        for networks, whose, (pruning_method, sparsity) in (
            (one.dense, "dense_", ("dense", 0.0)),
            (one.pruned, "", one.combination.key[1:]),
        ):
            if f"{whose}runs" in one.combination.arrays:
                run = json.loads(str(one.combination.arrays[f"{whose}runs"]))
                rows.setdefault(
                    networks,
                    {
                        "learning_method": one.learning_method,
                        "pruning_method": pruning_method,
                        "sparsity": sparsity,
                        **run,
                    },
                )
                analyses.append(run["analysis"])
        depths = evidence.read_depths(one.combination)
        analyses += [json.loads(str(depths["runs"]))["analysis"]] if depths and "runs" in depths else []
    trainings = [command for row in rows.values() for command in row["commands"] if command]
    return list(rows.values()), list(dict.fromkeys([*trainings, *analyses]))
