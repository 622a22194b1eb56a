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
    Column("pies_margin_10", "of margin 10 %"),
    Column("pies_margin_20", "20 %"),
    Column("pies_ties_to_largest", "ties to the largest class"),
    Column("noise_floor", "noise floor, K/2"),
    Column("excess", "beyond it, K/2", signed=True),
    Column("excess_of_all", "beyond it, K, at least"),
    Column("ties_pruned", "ties"),
    Column("q_score", "Q-Score, PIEs − others", 1, 3, signed=True),
    Column("depth", "depth, PIEs − others (places)", 1, 2, signed=True),
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
    text_column("group", "of"),
    text_column("comparison", "difference"),
    KEY[-1],
    Column("models", "K"),
    Column("size", "size"),
    text_column("where", "where it lies"),
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
    compared, all_claims = report.compared, [shown_claim(claim, report) for claim in claims.CLAIMS]
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
        "conclusion": " ".join(conclusion(report)),
        "claims": all_claims,
        "ranked_claims": sorted(all_claims, key=itemgetter("strength"), reverse=True),
        "rules": [f"{name}: {rule}." for name, rule, _ in claims.RULES],
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


def conclusion(report: Report) -> list[str]:
    """The report in a few sentences."""
    verdicts: dict[str, list[str]] = {}
    undecided: dict[str, list[str]] = {}  # why -> the claims
    for claim in claims.CLAIMS:
        verdict = claims.verdict(report.evidence, claim.deciding)
        verdicts.setdefault(verdict, []).append(str(claim.number))
        if verdict not in (claims.SUPPORTED, claims.CONTRADICTED):
            reason = claims.reasons(claim, report.evidence)[-1].rstrip(".")
            undecided.setdefault(f"{reason[0].lower()}{reason[1:]}", []).append(str(claim.number))
    said = (f"{verdict}: claim {' and claim '.join(numbers)}" for verdict, numbers in verdicts.items())
    sentences = [f"Of the paper's claims, {'; '.join(said)}."]
    deciding = [part for claim in claims.CLAIMS for part in claim.deciding]
    largest = claims.rows_of(report.evidence, deciding)[:1]
    if largest and claims.supports_claim(largest[0]) is not None:
        side = "for" if claims.strength(largest[0]) > 0 else "against"
        name = claims.describe(largest)
        sentences.append(
            f"Of single differences the one farthest from 0, in standard errors, is {side} claim "
            f"{largest[0]['claim']}: {name}: {size(largest[0])}."
        )
    pruned = [row for row in report.populations if row["sparsity"]]
    with_floor = [row for row in pruned if not math.isnan(row["excess"]["value"])]
    if with_floor:
        highest = max(row["sparsity"] for row in with_floor)
        with_floor = [row for row in with_floor if row["sparsity"] == highest]
        floor, excess = (
            f"{min(numbers):.0f} to {max(numbers):.0f}"
            for numbers in zip(*((row["noise_floor"], row["excess"]["value"]) for row in with_floor))
        )
        sentences.append(
            f"Between halves of the networks other seeds alone change the modal label of {floor} images, "
            f"depending on the learning method; pruning to {100 * highest:g} % changes that of {excess} more."
        )
    if undecided:
        reasons = (f"claim {' and claim '.join(numbers)}: {why}" for why, numbers in undecided.items())
        sentences.append(f"What is missing: {'; '.join(reasons)}.")
    return sentences


def size(row: dict) -> str:
    """A difference with its interval, in the unit of its part."""
    part = claims.PARTS[row["claim"], row["part"]]
    return show(row, part.scale, part.decimals, signed=True)


def shown_claim(claim: claims.Claim, report: Report) -> dict:
    """A claim with its verdict, what decided it, its measures, and what else could make the differences.
    Measures stand in their order, and, ranked, with the largest evidence first."""
    rows = claims.rows_of(report.evidence, claim.deciding)
    m = claims.with_interval(rows)
    contrary = [row for row in rows if claims.contradicts_claim(row, m)]
    verdicts = claims.verdicts(report.evidence, claim)
    parts = []
    for part in claim.parts:
        rows = claims.rows_of(report.evidence, (part,))
        known = [row for row in rows if claims.supports_claim(row) is not None]
        least = min(known, key=claims.strength, default=None)
        shown_rows = [
            row | {"size": size(row), "where": where(row, contrary), "note": note(row)} for row in rows
        ]
        about = {
            "verdict": verdicts[part.name],
            "least": claims.describe([least]) if least else part.name,
            "size": size(least) if least else "–",
            "strength": abs(claims.strength(least)) if least else -1,
            "table": tabulate(EVIDENCE, shown_rows),
        }
        parts.append(vars(part) | about)
    ranked = sorted(parts, key=itemgetter("strength"), reverse=True)
    return {
        "number": claim.number,
        "statement": claim.statement,
        "verdict": claims.verdict(report.evidence, claim.deciding),
        "reasons": claims.reasons(claim, report.evidence),
        "confounds": [*claim.confounds, *measured_confounds(claim.number, report)],
        "parts": parts,
        "ranked_parts": ranked,
        "strength": ranked[0]["strength"],
    }


def measured_confounds(number: int, report: Report) -> list[str]:
    """What the stored arrays say of a claim's confounds."""
    if number == 1:
        accuracies = [f"{row['learning_method']} {show(row['accuracy'], 100, 2)} %" for row in report.dense]
        return [
            f"Test accuracy of the dense networks here: {', '.join(accuracies)}.",
            *(
                f"Noise floor of {method} here: {np.median(floor['dense against dense']):g} PIEs between "
                "halves of the dense networks, in the median."
                for method, floor in report.floors.items()
            ),
        ]
    differ = {
        f"Here without networks of the same scope: {row['group']}, {row['comparison']}."
        for row in report.evidence
        if row["claim"] == number == 3 and not row["matched"]
    }
    return sorted(differ)


def note(row: dict) -> Markup:
    """What stands beside a difference: a note, or what the number would be if PIEs were measured in the
    networks that make them."""
    words = row.get("note", "")
    if not math.isnan(row.get("circular", math.nan)):
        part = claims.PARTS[row["claim"], row["part"]]
        circular, difference = (
            show(value, part.scale, part.decimals, signed=True)
            for value in (row["circular"], row["value"] - row["circular"])
        )
        words = f"circular {circular}, difference {difference}"
    return Markup('<span class="soft">{}</span>').format(words)


def where(row: dict, contrary: list[dict]) -> str:
    """On which side of 0 a difference's interval lies; contrary: those that alone contradict the claim."""
    if claims.supports_claim(row) is None:
        return "no interval"
    if claims.supports_claim(row):
        return "✓ as claimed"
    if row in contrary:
        return "✗ contrary"
    return "(✗) contrary at 95 % only" if claims.contradicts_claim(row) else "○ across 0"


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
        "dense": len(population.dense.ids),
        "pruned": len(population.pruned.ids),
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
