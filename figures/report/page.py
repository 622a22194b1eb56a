"""The report of one data set as one HTML file that needs nothing else: fills report.html, by pure functions
from numbers and pictures to text."""

import base64
import html
import io
import math
import re
import shlex
from pathlib import Path
from string import Template

import numpy as np

from common.store.table import KEY_COLUMNS, MEASURES
from figures.report import claims, uncertainty
from figures.report.contents import Picture, Report, describe_population, gallery, provenance, shown
from figures.report.evidence import Compared, measures

TEMPLATE = Path(__file__).with_name("report.html")


def write(report: Report, pngs: dict[str, bytes], results_folder: Path) -> str:
    """The HTML. Same arrays, same bytes.

    Args:
        pngs: name of a picture -> what is drawn of it.
    """
    rows, commands = provenance(report.stored)
    command = f"figures/make_figures.py --results {shlex.quote(str(results_folder))}"
    values = {
        "name": text(results_folder.name),
        "missing": items(report.missing),
        "commands": text("\n".join(f"python {each}" for each in (*commands, command))),
        "made": "".join(map(made_line, rows)),
        "hours": f"{sum(row['seconds'] for row in rows) / 3600:.3g}",
        "resamples": f"{uncertainty.RESAMPLES:,}",
        "fewest_seeds": uncertainty.FEWEST_SEEDS,
    }
    if report.compared:
        values |= {
            "name": text(report.compared[0].arrays["data_title"]),
            "images": len(report.compared[0].labels),
            "learning": each_once(population.learning_method for population in report.compared),
            "networks": each_once(population.arrays["architecture"] for population in report.compared),
            "models": claims.either(len(each.pruned.ids) for each in report.compared),
            "elsewhere": " Some networks were made elsewhere." * any(row["made_elsewhere"] for row in rows),
            "claims": "".join(claim_line(claim, report.evidence) for claim in claims.CLAIMS),
            "high_sparsity": f"{100 * claims.HIGH_SPARSITY:g}",
            "evidence": "".join(claim_details(claim, report) for claim in claims.CLAIMS),
            "figures": figures(report.pictures, pngs),
            "galleries": "".join(
                gallery_details(population, index == 0)
                for index, population in enumerate(shown(report.compared))
            ),
            "populations": population_lines(report),
            "measures": "".join(f"<th>{text(measure.title)}</th>" for measure in MEASURES.values()),
            "measured": measure_lines(report),
            "meanings": items([f"{measure.title}: {measure.meaning}" for measure in MEASURES.values()]),
        }
    absent = ["nothing compared" if report.compared else "compared", *["missing"] * (not report.missing)]
    template = TEMPLATE.read_text(encoding="utf-8")
    for section in absent:
        template = re.sub(f"<!-- {section} -->.*?<!-- end -->", "", template, flags=re.DOTALL)
    return Template(template).substitute(values)


def text(value) -> str:
    """Text as HTML shows it."""
    return html.escape(str(value))


def each_once(values) -> str:
    return text(", ".join(dict.fromkeys(map(str, values))))


def items(texts: list[str]) -> str:
    """The items of a list."""
    return "".join(f"<li>{text(each)}</li>" for each in texts)


def line(cells: list[str], numbers: range = range(0)) -> str:
    """A row of a table, of cells in HTML; those at the places `numbers` are set as numbers."""
    number = ' class="number"'
    cells = [f"<td{number * (place in numbers)}>{cell}</td>" for place, cell in enumerate(cells)]
    return f"<tr>{''.join(cells)}</tr>"


def chip(verdict: str) -> str:
    """A verdict in a coloured frame, with a mark for those who do not see colours."""
    kinds = {claims.SUPPORTED: ("supported", "✓"), claims.NOT_SUPPORTED: ("not-supported", "✗")}
    kind, mark = kinds.get(verdict, ("not-decidable", "?"))
    return f'<span class="verdict {kind}">{mark} {text(verdict)}</span>'


# Claims


def claim_line(claim: claims.Claim, evidence: list[dict]) -> str:
    """A claim, its verdict, and why."""
    rows = [row for row in evidence if row["claim"] == claim.number]
    verdict = claims.verdict(rows)
    reasons = tally(rows) + (claims.why_undecided(claim, rows) if verdict == claims.NOT_DECIDABLE else [])
    statement = text(f"{claim.number}. {claim.statement}")
    return line([statement, chip(verdict), "<br>".join(map(text, reasons))])


def tally(rows: list[dict]) -> list[str]:
    """How many differences lie where, part by part."""
    lines = []
    for part in dict.fromkeys(row["part"] for row in rows):
        sides = [claims.on_side(row) for row in rows if row["part"] == part]
        against = sum(claims.against(row) for row in rows if row["part"] == part)
        undecided = sides.count(None)
        if undecided < len(sides):
            without = f", {undecided} without interval" if undecided else ""
            lines.append(
                f"{part}: {sides.count(True)} of {len(sides)} differences on the claimed side, {against} on "
                f"the other, {sides.count(False) - against} unclear{without}"
            )
    return lines


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


def claim_details(claim: claims.Claim, report: Report) -> str:
    """The evidence: one table for each part, a line for each comparison, a column for each sparsity."""
    sections = []
    for part in claim.parts:
        rows = [row for row in report.evidence if (row["claim"], row["part"]) == (claim.number, part.name)]
        side = "above" if part.side > 0 else "below"
        sections.append(
            f"<h3>{text(part.name)} {chip(claims.verdict(rows))}</h3><p>Claimed to be {side} 0: "
            f"{text(part.difference)}. Intervals: {part.interval}. ✓ on the claimed side, ✗ on the other, ○ "
            "across 0.</p>"
        )
        if rows:
            sections.append(part_table(part, rows))
    confounds = items([*claim.confounds, *measured_confounds(claim.number, report)])
    return (
        f"<details><summary>Evidence for claim {claim.number}</summary>{''.join(sections)}"
        f"<h3>Confounds</h3><ul>{confounds}</ul></details>"
    )


def part_table(part: claims.Part, rows: list[dict]) -> str:
    """The differences of a part of a claim."""
    sparsities = sorted({row["sparsity"] for row in rows})
    lines: dict[tuple[str, str], dict[float, str]] = {}
    for row in rows:
        cells = lines.setdefault((text(row["group"]), text(row["comparison"])), {})
        cells[row["sparsity"]] = difference(row, part)
    head = "".join(f"<th>{100 * sparsity:g} %</th>" for sparsity in sparsities)
    body = "".join(
        line([*names, *(cells.get(sparsity, "") for sparsity in sparsities)], range(2, 2 + len(sparsities)))
        for names, cells in lines.items()
    )
    return (
        f'<div class="scroll"><table><thead><tr><th>of</th><th>difference</th>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def difference(row: dict, part: claims.Part) -> str:
    """A difference with its interval and a mark for its side of 0: the claimed one, the other, neither."""
    mark = {True: " ✓", False: " ✗" if claims.against(row) else " ○", None: ""}[claims.on_side(row)]
    note = f"<br><span class='soft'>{text(row['note'])}</span>" if row.get("note") else ""
    return f"{show(row, part.scale, part.decimals, signed=True)}{mark}{note}"


def show(row: dict, scale: float = 1, decimals: int = 0, signed: bool = False) -> str:
    """`12 [8, 16]`, `12` without an interval, a dash where the value is not defined."""

    def number(value: float) -> str:
        return f"{round(scale * value, decimals) + 0.0:{'+' if signed else ''}.{decimals}f}".replace("-", "−")

    if math.isnan(row["value"]):
        return "–"
    interval = "" if math.isnan(row["low"]) else f" [{number(row['low'])}, {number(row['high'])}]"
    return number(row["value"]) + interval


# Figures and PIEs


def figures(pictures: list[Picture], pngs: dict[str, bytes]) -> str:
    """All figures with what to look for; a caption once for figures of one kind."""
    sections, before = [], ""
    for picture in pictures:
        png = pngs[picture.name]
        width = int.from_bytes(png[16:20], "big")  # in the header of every PNG
        smallest = round(0.55 * width)  # at which its smallest letters can still be read
        caption = f"<figcaption>{text(picture.caption)}</figcaption>" if picture.caption != before else ""
        before = picture.caption
        sections.append(
            f'<figure id="{text(picture.name)}"><h3>{text(picture.heading)}</h3>{caption}<div class="wide">'
            f'<img alt="{text(picture.heading)}" style="max-width: {width}px; min-width: {smallest}px" '
            f'src="{png_uri(png)}"></div></figure>'
        )
    return "".join(sections)


def png_uri(png: bytes) -> str:
    """A picture inside the page."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def gallery_details(population: Compared, is_open: bool) -> str:
    """The PIEs of one population."""
    entries, total = gallery(population), int(population.is_pie.sum())
    dense, pruned = len(population.dense.ids), len(population.pruned.ids)
    tiles = "".join(
        f'<figure><img alt="{text(entry["label"])}" src="{png_uri(png_of(entry["image"]))}"><figcaption>'
        f"label <strong>{text(entry['label'])}</strong>"
        f"<br>dense {text(entry['dense'])} ({entry['dense_agreeing']} of {dense})"
        f"<br>pruned {text(entry['pruned'])} ({entry['pruned_agreeing']} of {pruned})"
        f'<br><span class="soft">confidence {entry["confidence"]:.2f}</span></figcaption></figure>'
        for entry in entries
    )
    number = f"{len(entries)} of " * (len(entries) < total) + (f"{total} PIEs" if total else "no PIEs")
    return (
        f"<details{' open' * is_open}><summary>{text(describe_population(population))}: {number}</summary>"
        f'<div class="gallery">{tiles}</div></details>'
    )


def png_of(image: np.ndarray) -> bytes:
    """(3, H, W) uint8 as it is, pixel by pixel."""
    from matplotlib.image import imsave

    png = io.BytesIO()
    imsave(png, np.ascontiguousarray(image.transpose(1, 2, 0)), format="png")
    return png.getvalue()


# Populations, and how they were made

POPULATION_COLUMNS = (
    *KEY_COLUMNS,
    "networks",
    "accuracy",
    "pies",
    "ties_pruned",
    "q_score",
    "depth",
    "origin",
)
SHOWN_AS = {"accuracy": (100, 2), "pies": (), "q_score": (1, 3, True), "depth": (1, 2, True)}  # for `show`


def population_lines(report: Report) -> str:
    """One line for each population."""
    rows = {tuple(row[name] for name in KEY_COLUMNS): row for row in (*report.dense, *report.populations)}
    lines = []
    for population in report.stored:
        if row := rows.get(tuple(population.facts.values())):
            numbers = {name: show(row[name], *how) for name, how in SHOWN_AS.items() if name in row}
            cells = population.row | row | numbers | {"sparsity": f"{100 * population.sparsity:g}"}
            lines.append(line([text(cells.get(name, "")) for name in POPULATION_COLUMNS], range(2, 9)))
    return "".join(lines)


def measure_lines(report: Report) -> str:
    """What pruning loses and keeps: one line for each population."""
    lines = []
    for population in report.stored:
        numbers = measures(population)
        cells = [population.learning_method, population.pruning_method, f"{100 * population.sparsity:g}"]
        for name, (_, _, scale, decimals) in MEASURES.items():
            cells.append(show(numbers[name], scale, decimals) if name in numbers else "")
        lines.append(line([*map(text, cells)], range(2, len(cells))))
    return "".join(lines)


def made_line(row: dict) -> str:
    """Networks, seeds, hours of training, machine, versions and days of a population."""
    cells = (
        row["learning_method"],
        row["pruning_method"],
        f"{100 * row['sparsity']:g}",
        row["networks"],
        show_seeds(row["seeds"]),
        f"{row['seconds'] / 3600:.3g}",
        "; ".join(row["devices"]),
        "; ".join(row["versions"]),
        " to ".join(dict.fromkeys(row["days"][:1] + row["days"][-1:])),
    )
    return line([text(cell or "not recorded") for cell in cells])


def show_seeds(seeds: list[int]) -> str:
    """[0, 1, 2, 5] as `0-2, 5`."""
    runs = np.split(seeds, np.flatnonzero(np.diff(seeds) != 1) + 1) if seeds else []
    return ", ".join("-".join(dict.fromkeys((f"{run[0]}", f"{run[-1]}"))) for run in runs)
