"""Writes the report as one self-contained HTML file. Pure functions turn numbers and pictures into sentences
and table cells, which fill templates/."""

import base64
import io
import math
import re
import shlex
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from common.corruptions import STRENGTHS
from common.methods import FINETUNED, SMALL, parse_method, with_sparsity
from figures.report import claims, uncertainty
from figures.report.contents import (
    Picture,
    Report,
    caption,
    describe_population,
    gallery,
    provenance,
    shown,
)
from figures.report.read import StoredPopulation

FLAG = r"--\w+(?![^<>]*>)"  # a flag in text, not in a tag


def mark_flags(html: Markup) -> Markup:
    """Marks flags, within which lines must not break."""
    return Markup(re.sub(FLAG, r"<span class='flag'>\g<0></span>", str(html)))


TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters["mark_flags"] = mark_flags


class Column(NamedTuple):
    """A column of a table: the entry `name` of each row, times `scale`, with `decimals` (None: as many as it
    has). Numbers are aligned right."""

    name: str
    title: str
    scale: float = 1
    decimals: int | None = 0
    signed: bool = False
    number: bool = True


class Table(NamedTuple):
    """Columns, and the cells of every row."""

    columns: tuple[Column, ...]
    rows: list[list[str]]


def text_column(name: str, title: str = "") -> Column:
    """Returns a column of texts; its title is its name unless given."""
    return Column(name, title or name, number=False)


METHOD = text_column("learning_method", "method"), text_column("pruning_method", "pruning")
KEY = *METHOD, Column("sparsity", "sparsity", 1, None)
PIE_COUNTS = (
    Column("networks", "K"),
    Column("accuracy", "accuracy (%)", 100, 2),
    Column("pies", "PIEs"),
    Column("noise_floor", "floor of dense, K/2"),
    Column("excess", "excess over dense, K/2", signed=True),
)
POPULATIONS = *KEY, *PIE_COUNTS
TEST_SETS = (
    text_column("test_set", "test set"),
    *KEY,
    Column("networks", "K"),
    Column("images", "images"),
    Column("accuracy", "accuracy (%)", 100, 2),
    Column("clean_accuracy", "clean", 100, 2),
    Column("difference", "difference (points)", 100, 2, signed=True),
    Column("pies", "PIEs"),
    Column("clean_pies", "clean"),
    Column("jaccard", "Jaccard similarity of both PIE sets", 1, 3),
    Column("jaccard_chance", "by chance", 1, 3),
)
MADE = (
    *KEY,
    Column("networks", "networks"),
    text_column("seeds"),
    Column("seconds", "training (hours)", 1 / 3600, 2),
    text_column("unpublished", "settings that differ from the paper's"),
    text_column("devices", "machine"),
    text_column("versions"),
    text_column("days", "date"),
)
WEAK, NEAR_CHANCE = 0.8, 0.1  # accuracy of weak dense networks; distance from chance accuracy
WEAK_DENSE = "Dense accuracy below 80 %; better networks may react differently to pruning"
NEAR_GUESSING = "After pruning or finetuning at most 10 points more accurate than guessing"
TOPICS = {  # heading -> prefixes of the names of its figures
    "Excess PIEs and accuracy against sparsity": ("excess", "accuracy_against"),
    "PIEs and further measures against sparsity": ("pies_against", "calibration", "cka"),
    "Q-Score and prediction depth": ("q_score", "prediction_depth"),
    "UMAP of the latents": ("umap",),
    "Which images and classes are PIEs": ("pie_overlap", "pies_per_class", "class_recall"),
    "Masks": ("mask",),
}
EVIDENCE = (
    text_column("comparison"),
    KEY[-1],
    Column("models", "K"),
    Column("size", "difference"),
    Column("with_images", "over seeds and images"),
    Column("needed", "d"),
    text_column("mark"),
    text_column("note"),
)


def tabulate(columns: tuple[Column, ...], rows: list[dict]) -> Table:
    """Formats rows: texts and lists of texts as they are, numbers and estimates by `show`, missing entries as
    empty cells."""

    def cell(row: dict, column: Column) -> str:
        value = row.get(column.name, "")
        if isinstance(value, list):
            value = ", ".join(map(str, value)) or "not recorded"
        return value if isinstance(value, str) else show(value, column.scale, column.decimals, column.signed)

    return Table(columns, [[cell(row, column) for column in columns] for row in rows])


def show(value: dict | float, scale: float = 1, decimals: int | None = 0, signed: bool = False) -> str:
    """Formats an estimate as `12 [8, 16]`, without an interval as `12`, an undefined one as a dash."""

    def number(value: float) -> str:
        if decimals is None:
            return f"{scale * value:g}"
        form = f"{'+' if signed else ''}.{decimals}f"
        return format(round(scale * value, decimals) + 0.0, form).replace("-", "−")

    estimate = value if isinstance(value, dict) else {"value": value, "low": math.nan}
    if math.isnan(estimate["value"]):
        return "–"
    ends = "" if math.isnan(estimate["low"]) else f" [{number(estimate['low'])}, {number(estimate['high'])}]"
    return number(estimate["value"]) + ends


def write(report: Report, pngs: dict[str, bytes], results_folder: Path) -> str:
    """Returns the HTML of one run. The same arrays give the same bytes.

    Args:
        pngs: name of a picture -> its PNG.
    """
    values = of_one_run(report, results_folder)
    if report.compared:
        values |= of_populations(report, [shown_picture(picture, pngs) for picture in report.pictures])
    return TEMPLATES.get_template("one_run.html").render(values)


def of_one_run(report: Report, results_folder: Path) -> dict:
    """Returns the values for one_run.html that need no compared populations."""
    name, (rows, commands) = results_folder.resolve().name, provenance(report.stored)
    commands += dict.fromkeys(row["command"] for row in report.test_sets)
    seconds = sum(row["seconds"] for row in rows)
    rows = [row | {"seconds": row["seconds"] or math.nan} for row in rows]  # nan: not recorded
    strengths = (
        f"{kind}_: {', '.join(map(str, values))}, {meaning}" for kind, (meaning, values) in STRENGTHS.items()
    )
    commands.append(f"figures/make_figures.py --results {shlex.quote(str(results_folder))}")
    return {
        "title": f"Report: {name}",
        "name": name,
        "is_compared": bool(report.compared),
        "commands": "\n".join(f"python {command}" for command in commands),
        "made": tabulate(MADE, rows),
        "training": show(seconds, 1 / 3600, 2),
        "test_sets": tabulate(TEST_SETS, report.test_sets),
        "strengths": "; ".join(strengths),
        "external": any(row["made_elsewhere"] for row in rows),
        "missing": report.missing,
        "fewest_seeds": uncertainty.FEWEST_SEEDS,
    }


def of_populations(report: Report, pictures: list[dict]) -> dict:
    """Returns the values for one_run.html about compared populations."""
    compared = report.compared
    methods = dict.fromkeys(item.pruning_method for item in (*report.controls, *compared))
    settings = (
        f"{item.learning_method}: {item.row.get('unpublished') or 'none'}"
        for item in report.stored
        if item.pruning_method == "dense"
    )
    rows = sorted([*report.dense, *report.populations], key=lambda row: row["learning_method"])
    return {
        "name": compared[0].arrays["data_title"],
        "images": len(compared[0].labels),
        "settings": "; ".join(settings),
        "networks": ", ".join(dict.fromkeys(population.network for population in compared)),
        "pruning": "; ".join(f"{method} ({describe(method)})" for method in methods),
        "models": claims.either(len(population.pruned.ids) for population in compared),
        "warnings": warnings(report),
        "claims": [shown_claim(claim, report.evidence, pictures) for claim in claims.CLAIMS],
        "rules": [f"{name}: {rule}." for name, rule in claims.RULES],
        "forest": caption("claim"),
        "protocol": protocol(report.stored),
        "high_sparsity": f"{100 * claims.HIGH_SPARSITY:g}",
        "galleries": [shown_gallery(population) for population in shown(compared)],
        "test_set_pictures": [picture for picture in pictures if picture["name"].startswith("test_sets")],
        "topics": {
            heading: [picture for picture in pictures if picture["name"].startswith(names)]
            for heading, names in TOPICS.items()
        },
        "populations": tabulate(POPULATIONS, rows),
    }


def describe(name: str) -> str:
    """Describes a pruning method in words."""
    if name == "dense":
        return name
    if name == FINETUNED:
        return "finetuned alone, not pruned"
    if name == SMALL:
        return "narrower dense networks with as many weights"
    method = parse_method(name)
    scope = {"global": "global", "layer": "layer-wise", "erk": "Erdős-Rényi"}[method.scope]
    criterion = "" if method.criterion == "magnitude" else f" by {method.criterion}"
    if method.gradual:
        return f"{method.schedule} gradual{'' if method.scope == 'layer' else f' {scope}'} pruning{criterion}"
    if method.schedule == "one-shot":
        return f"one-shot {scope} pruning{criterion}, then finetuning"
    after = {
        "rewind": f"rewound to epoch {method.rewind_epoch}",
        "reinit": "reinitialised",
        "lr_rewind": f"learning rate rewound to epoch {method.rewind_epoch}",
        "finetune": "finetuned",
    }[method.after]
    return f"iterative {scope} pruning{criterion}, {100 * method.rate:g} % an iteration, {after}"


def warnings(report: Report) -> list[str]:
    """Returns warnings about networks that are too weak to say much about good ones."""
    labels = report.compared[0].labels
    highest_chance = np.bincount(labels).max() / len(labels) + NEAR_CHANCE
    kinds = (WEAK_DENSE, WEAK, report.dense), (NEAR_GUESSING, highest_chance, report.populations)
    messages = []
    for reason, threshold, rows in kinds:
        names = [
            f"{row['learning_method']} {with_sparsity(row['pruning_method'], row['sparsity'])}: "
            f"{show(row['accuracy']['value'], 100, 2)} %"
            for row in rows
            if row["accuracy"]["value"] < threshold
        ]
        messages += [f"{reason}: {'; '.join(names)}."] if names else []
    return messages


# Claims


def protocol(stored: list[StoredPopulation]) -> str:
    """States when measures and rules were fixed, and which results had been seen by then or could have
    been."""
    earlier = [item.label for item in stored if max(item.runs["days"], default="") <= claims.PROTOCOL_DATE]
    labels = ", ".join(earlier) or "none"
    return (
        f"Measures and rules are those of docs/protocol.md of {claims.PROTOCOL_DATE}, with the changes "
        f"dated there. Seen by then: {claims.SEEN_BEFORE}. Populations here that were trained by then, or at "
        f"an unknown time: {labels}."
    )


def shown_claim(claim: claims.Claim, evidence: list[dict], pictures: list[dict]) -> dict:
    """Returns a claim with its finding, verdict, figure and measures for the page."""
    rows = [row for row in evidence if row["claim"] == claim.number]
    measures = []
    for measure in claim.measures:
        its_rows = [row for row in rows if row["measure"] == measure.name]
        differences = [shown_difference(row, measure) for row in its_rows]
        shown_measure = {
            "means": [row for row in differences if row["is_mean"]],
            "table": tabulate(EVIDENCE, differences),
            "marks": claims.count_marks(its_rows),
        }
        measures.append(measure._asdict() | shown_measure)
    verdict = claims.judge(evidence, claim.number)
    return claim._asdict() | {
        "finding": claims.FINDINGS[verdict].format(*claim.outcomes),
        "verdict": verdict,
        "picture": next((item for item in pictures if item["name"] == f"claim_{claim.number}"), None),
        "missing": claims.missing(evidence, claim),
        "measures": measures,
    }


def shown_difference(row: dict, measure: claims.Measure) -> dict:
    """Formats a row of evidence in the unit of its measure."""
    precision = measure.scale, measure.decimals
    cells = {"size": show(row, *precision, signed=True)}
    cells["needed"] = show(row["smallest"], *precision) if row["decides"] else ""
    if "image_low" in row:
        over_images = {"value": row["value"], "low": row["image_low"], "high": row["image_high"]}
        cells["with_images"] = show(over_images, *precision, signed=True)
    return row | cells


# Figures and PIEs


def shown_picture(picture: Picture, pngs: dict[str, bytes]) -> dict:
    """Returns a figure with its caption for the page; smallest: the width at which its smallest letters, of
    size 8, remain readable."""
    png = pngs[picture.name]
    width = int.from_bytes(png[16:20], "big")  # from the PNG header
    return picture._asdict() | {"width": width, "smallest": round(0.6 * width), "source": png_uri(png)}


def png_uri(png: bytes) -> str:
    """Returns a data URI, which embeds a picture in the page."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def shown_gallery(population: StoredPopulation) -> dict:
    """Returns the gallery of one population's PIEs for the page."""
    entries, total = gallery(population), int(population.is_pie.sum())
    number = f"{len(entries)} of " * (len(entries) < total) + (f"{total} PIEs" if total else "no PIEs")
    return {
        "heading": f"{describe_population(population)}: {number}",
        "entries": [entry | {"source": png_uri(png_of(entry["image"]))} for entry in entries],
    }


def png_of(image: np.ndarray) -> bytes:
    """Encodes an image (3, H, W) uint8 as PNG, one pixel per pixel."""
    from matplotlib.image import imsave

    png = io.BytesIO()
    imsave(png, np.ascontiguousarray(image.transpose(1, 2, 0)), format="png")
    return png.getvalue()
