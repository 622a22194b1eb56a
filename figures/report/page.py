"""The report as one HTML file that needs nothing else: fills templates/, by pure functions from numbers and
pictures to sentences and cells of tables."""

import base64
import io
import math
import re
import shlex
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from common.corruptions import STRENGTHS
from common.methods import describe
from common.store.table import MEASURES
from figures.report import claims, uncertainty
from figures.report.contents import (
    SIDE_BY_SIDE,
    Picture,
    Report,
    describe_population,
    gallery,
    provenance,
    shown,
)
from figures.report.evidence import measures
from figures.report.read import StoredPopulation

FLAG = r"--\w+(?![^<>]*>)"  # in text, not in a tag


def mark_flags(html: Markup) -> Markup:
    """No line ends within a flag that is marked so."""
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
    """A column of a table: which entry of its rows it shows, times `scale`, with so many decimals, None: as
    many as it has. Numbers stand at the right."""

    name: str
    title: str
    scale: float = 1
    decimals: int | None = 0
    signed: bool = False
    number: bool = True


class Table(NamedTuple):
    """Columns, and the cells of its rows."""

    columns: tuple[Column, ...]
    rows: list[list[str]]


def text_column(name: str, title: str) -> Column:
    return Column(name, title, number=False)


METHOD = text_column("learning_method", "method"), text_column("pruning_method", "pruning")
KEY = *METHOD, Column("sparsity", "sparsity (%)", 100, None)
POPULATIONS = (
    *KEY,
    Column("networks", "K"),
    Column("accuracy", "accuracy (%)", 100, 2),
    Column("pies", "PIEs"),
    Column("noise_floor", "noise floor, K/2"),
    Column("excess", "beyond it, K/2", signed=True),
    Column("ties_pruned", "ties"),
    Column("q_score_difference", "Q-Score, PIEs − others (standard deviations)", 1, 2, signed=True),
    Column("depth_difference", "depth, PIEs − others (standard deviations)", 1, 2, signed=True),
    text_column("origin", "origin"),
)
LOST_AND_GAINED = (
    *KEY,
    *(Column(name, each.title, each.scale, each.decimals) for name, each in MEASURES.items()),
)
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
    Column("seeds", "seeds"),
    Column("training", "training"),
    text_column("unpublished", "settings other than published"),
    text_column("devices", "machine"),
    text_column("versions", "versions"),
    text_column("days", "days"),
)
EVIDENCE = (
    text_column("comparison", "of"),
    KEY[-1],
    Column("models", "K"),
    Column("size", "difference"),
    Column("with_images", "over seeds and images"),
    Column("needed", "d"),
    text_column("mark", "mark"),
    text_column("note", ""),
)


def tabulate(columns: tuple[Column, ...], rows: list[dict]) -> Table:
    """Texts as they are, numbers and estimates as `show` writes them, nothing where a row has no entry."""

    def cell(row: dict, column: Column) -> str:
        value = row.get(column.name, "")
        return value if isinstance(value, str) else show(value, column.scale, column.decimals, column.signed)

    return Table(columns, [[cell(row, column) for column in columns] for row in rows])


def show(value: dict | float, scale: float = 1, decimals: int | None = 0, signed: bool = False) -> str:
    """`12 [8, 16]`, `12` of a number without an interval, a dash where it is not defined."""

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
    """The HTML, of one run or of two side by side. Same arrays, same bytes.

    Args:
        pngs: name of a picture -> what is drawn of it.
    """
    values = {
        "missing": report.missing,
        "pictures": [shown_picture(each, pngs) for each in report.pictures],
        "fewest_seeds": uncertainty.FEWEST_SEEDS,
    }
    if report.names:
        values |= of_two_runs(report)
    else:
        values |= of_one_run(report, results_folder)
        values |= {"test_set_pictures": [shown_picture(each, pngs) for each in report.test_set_pictures]}
    return TEMPLATES.get_template("two_runs.html" if report.names else "one_run.html").render(values)


def of_one_run(report: Report, results_folder: Path) -> dict:
    """What one_run.html shows."""
    rows, commands = provenance(report.stored)
    commands += dict.fromkeys(row["command"] for row in report.test_sets)
    commands.append(f"figures/make_figures.py --results {shlex.quote(str(results_folder))}")
    values = {
        "name": results_folder.name,
        "is_compared": bool(report.compared),
        "commands": "\n".join(f"python {each}" for each in commands),
        "made": tabulate(MADE, list(map(made_row, rows))),
        "training": duration(sum(row["seconds"] for row in rows)),
        "test_sets": tabulate(TEST_SETS, report.test_sets),
    }
    if report.compared:
        values |= of_populations(report)
        values["elsewhere"] = any(row["made_elsewhere"] for row in rows)
    return values | {"title": f"Report: {values['name']}"}


def of_populations(report: Report) -> dict:
    """What one_run.html shows of populations of which everything is stored."""
    compared = report.compared
    rows = {tuple(row[each.name] for each in KEY): row for row in (*report.dense, *report.populations)}
    populations = [
        population.row | row
        for population in report.stored
        if (row := rows.get(tuple(population.key.values())))
    ]
    methods = dict.fromkeys(each.pruning_method for each in (*report.controls, *compared))
    strengths = (f"{kind}_: {', '.join(map(str, by))}, {what}" for kind, (what, by) in STRENGTHS.items())
    return {
        "name": compared[0].arrays["data_title"],
        "images": len(compared[0].labels),
        "learning": ", ".join(dict.fromkeys(population.learning_method for population in compared)),
        "networks": ", ".join(dict.fromkeys(each.network for each in compared)),
        "pruning": ", ".join(f"{method}: {describe(method)}" for method in methods),
        "models": claims.either(len(each.pruned.ids) for each in compared),
        "settings": settings(report),
        "conclusion": conclusion(report.evidence),
        "claims": [shown_claim(claim, report.evidence) for claim in claims.CLAIMS],
        "rules": [f"{name}: {rule}." for name, rule in claims.RULES],
        "protocol": protocol(report.stored),
        "high_sparsity": f"{100 * claims.HIGH_SPARSITY:g}",
        "galleries": [shown_gallery(population) for population in shown(compared)],
        "populations": tabulate(POPULATIONS, populations),
        "measures": tabulate(LOST_AND_GAINED, [each.key | measures(each) for each in report.stored]),
        "meanings": [f"{measure.title}: {measure.meaning}" for measure in MEASURES.values()],
        "strengths": "; ".join(strengths),
    }


def of_two_runs(report: Report) -> dict:
    """What two_runs.html shows."""
    first, second = report.names
    changed = (
        *METHOD,
        text_column("sparsities", "sparsities (%)"),
        text_column("setting", "setting"),
        text_column("first", first),
        text_column("second", second),
    )
    differences = []
    for name, (title, _, *form) in SIDE_BY_SIDE.items():
        if name == "overlap":
            numbers = Column("whole", "similarity", *form), Column("chance", "by chance", *form)
        else:
            numbers = [Column("first", first, *form), Column("second", second, *form)]
            numbers.append(Column("whole", f"{first} − {second}", *form, signed=True))
        columns = (*KEY, Column("models", "K"), *numbers, text_column("seeds", "seeds"))
        rows = [
            row | {"whole": row, "seeds": "the same" if row["paired"] else "different"}
            for row in report.differences
            if row["measure"] == name
        ]
        if rows:
            differences.append((title[0].upper() + title[1:], tabulate(columns, rows)))
    return {
        "title": " against ".join(report.names),
        "names": report.names,
        "changed": Table(changed, tabulate(changed, report.changed).rows or [["no recorded setting"]]),
        "differences": differences,
    }


def settings(report: Report) -> str:
    """In what the dense networks differ from the published ones."""
    dense = [each.row for each in report.stored if each.pruning_method == "dense"]
    recorded = [row for row in dense if "unpublished" in row]
    words = [f"{row['learning_method']}: {row['unpublished'] or 'none'}" for row in recorded]
    return "; ".join(words) or "not recorded"


# Claims


def conclusion(evidence: list[dict]) -> str:
    """The verdicts in one sentence."""
    verdicts: dict[str, list[str]] = {}
    for claim in claims.CLAIMS:
        verdicts.setdefault(claims.judge(evidence, claim.number), []).append(str(claim.number))
    said = (f"{verdict}: claim {' and claim '.join(numbers)}" for verdict, numbers in verdicts.items())
    return f"Of the paper's claims, {'; '.join(said)}."


def protocol(stored: list[StoredPopulation]) -> str:
    """When measures and rules were fixed, and which results had been seen or could have been by then."""
    earlier = [each.label for each in stored if max(each.runs["days"], default="") <= claims.PROTOCOL_DATE]
    which = ", ".join(earlier) or "none"
    return (
        f"Measures and rules are those of docs/protocol.md of {claims.PROTOCOL_DATE}. Seen by then: "
        f"{claims.SEEN_BEFORE}. Populations here that were trained by then, or at an unknown time: {which}."
    )


def shown_claim(claim: claims.Claim, evidence: list[dict]) -> dict:
    """A claim with its verdict, its measures, and what else could make the differences."""
    own = [row for row in evidence if row["claim"] == claim.number]
    measures = []
    for measure in claim.measures:
        rows = [shown_difference(row, measure) for row in own if row["measure"] == measure.name]
        rows.sort(key=itemgetter("decides"), reverse=True)
        mean = next((row for row in rows if row["is_mean"] and row["decides"] == measure.decides), None)
        size = f"{mean['size']} {measure.unit}" if mean else "–"
        table = tabulate(EVIDENCE, rows)
        measures.append(vars(measure) | {"size": size, "d": mean["needed"] if mean else "–", "table": table})
    return {
        "number": claim.number,
        "statement": claim.statement,
        "verdict": claims.judge(evidence, claim.number),
        "marks": claims.count_marks(own),
        "missing": claims.missing(evidence, claim),
        "confounds": claim.confounds,
        "measures": measures,
    }


def shown_difference(row: dict, measure: claims.Measure) -> dict:
    """A row of evidence in the unit of its measure."""
    form = measure.scale, measure.decimals
    words = {"size": show(row, *form, signed=True), "needed": show(row["smallest"], *form), "with_images": ""}
    if "image_low" in row:
        both = {"value": row["value"], "low": row["image_low"], "high": row["image_high"]}
        words["with_images"] = show(both, *form, signed=True)
    return row | words | {"mark": row["mark"] or ("" if row["is_mean"] else "does not decide")}


# Figures and PIEs


def shown_picture(picture: Picture, pngs: dict[str, bytes]) -> dict:
    """A figure with what to look for; smallest: the width at which its smallest letters, of size 8, can still
    be read."""
    png = pngs[picture.name]
    width = int.from_bytes(png[16:20], "big")  # in the header of every PNG
    return vars(picture) | {"width": width, "smallest": round(0.75 * width), "source": png_uri(png)}


def png_uri(png: bytes) -> str:
    """A picture inside the page."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def shown_gallery(population: StoredPopulation) -> dict:
    """The PIEs of one population."""
    entries, total = gallery(population), int(population.is_pie.sum())
    number = f"{len(entries)} of " * (len(entries) < total) + (f"{total} PIEs" if total else "no PIEs")
    return {
        "heading": f"{describe_population(population)}: {number}",
        "entries": [entry | {"source": png_uri(png_of(entry["image"]))} for entry in entries],
        **dict(zip(("dense", "pruned"), population.voters)),
    }


def png_of(image: np.ndarray) -> bytes:
    """(3, H, W) uint8 as it is, pixel by pixel."""
    from matplotlib.image import imsave

    png = io.BytesIO()
    imsave(png, np.ascontiguousarray(image.transpose(1, 2, 0)), format="png")
    return png.getvalue()


# How populations were made


def made_row(row: dict) -> dict:
    """Networks, seeds, time of training, machine, versions and days of a population."""
    words = {
        "seeds": show_seeds(row["seeds"]),
        "training": duration(row["seconds"]),
        "unpublished": row["unpublished"],
        "devices": "; ".join(row["devices"]),
        "versions": "; ".join(row["versions"]),
        "days": " to ".join(dict.fromkeys(row["days"][:1] + row["days"][-1:])),
    }
    return row | {name: text or "not recorded" for name, text in words.items()}


def duration(seconds: float) -> str:
    """`2 h 5 min`, `5 min`; at least one minute, nothing for 0."""
    hours, minutes = divmod(math.ceil(seconds / 60), 60)
    return " ".join([f"{hours} h"] * (hours > 0) + [f"{minutes} min"] * (minutes > 0))


def show_seeds(seeds: list[int]) -> str:
    """[0, 1, 2, 5] as `0-2, 5`."""
    spans = np.split(seeds, np.flatnonzero(np.diff(seeds) != 1) + 1) if seeds else []
    return ", ".join("-".join(dict.fromkeys((f"{span[0]}", f"{span[-1]}"))) for span in spans)
