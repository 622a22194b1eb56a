"""The report of one data set as one HTML file that needs nothing else: fills report.html, by pure functions
from numbers and pictures to text."""

import base64
import html
import io
import math
import re
import shlex
from operator import itemgetter
from pathlib import Path
from string import Template

import numpy as np

from common.corruptions import STRENGTHS
from common.methods import describe
from common.store.table import KEY_COLUMNS, MEASURES
from figures.report import against, claims, uncertainty
from figures.report.contents import Picture, Report, describe_population, gallery, provenance, shown
from figures.report.evidence import Compared, measures

TEMPLATE = Path(__file__).with_name("report.html")
FLAG = r"--\w+(?![^<>]*>)"  # in text, not in a tag: no line ends within it


def write(report: Report, pngs: dict[str, bytes], results_folder: Path) -> str:
    """The HTML. Same arrays, same bytes.

    Args:
        pngs: name of a picture -> what is drawn of it.
    """
    rows, commands = provenance(report.stored)
    commands += dict.fromkeys(row["command"] for row in report.test_sets)
    command = f"figures/make_figures.py --results {shlex.quote(str(results_folder))}"
    values = {
        "name": text(results_folder.name),
        "missing": items(report.missing),
        "commands": text("\n".join(f"python {each}" for each in (*commands, command))),
        "made": "".join(map(made_line, rows)),
        "training": duration(sum(row["seconds"] for row in rows)),
        "fewest_seeds": uncertainty.FEWEST_SEEDS,
    }
    if report.compared:
        values |= {
            "name": text(report.compared[0].arrays["data_title"]),
            "images": len(report.compared[0].labels),
            "learning": each_once(population.learning_method for population in report.compared),
            "networks": each_once(population.arrays["architecture"] for population in report.compared),
            "pruning": each_once(
                f"{population.pruning_method}: {describe(population.pruning_method)}"
                for population in (*report.controls, *report.compared)
            ),
            "models": claims.either(len(each.pruned.ids) for each in report.compared),
            "settings": text(settings(report)),
            "elsewhere": " Some networks were made elsewhere." * any(row["made_elsewhere"] for row in rows),
            "conclusion": text(" ".join(conclusion(report))),
            "claims": claim_lines(report.evidence),
            "rules": items([f"{name}: {rule}." for name, rule, _ in claims.RULES]),
            "high_sparsity": f"{100 * claims.HIGH_SPARSITY:g}",
            "evidence": "".join(claim_details(claim, report) for claim in claims.CLAIMS),
            "figures": figures(report.pictures, pngs),
            "galleries": "".join(
                gallery_details(population, index == 0)
                for index, population in enumerate(shown(report.compared))
            ),
            "populations": population_lines(report),
            "measures": "".join(
                f'<th class="number">{text(measure.title)}</th>' for measure in MEASURES.values()
            ),
            "measured": measure_lines(report),
            "shifts": figures(report.test_set_pictures, pngs),
            "strengths": text(
                "; ".join(
                    f"{kind}_: {', '.join(map(str, by))}, {what}" for kind, (what, by) in STRENGTHS.items()
                )
            ),
            "test_sets": test_set_lines(report.test_sets),
            "meanings": items([f"{measure.title}: {measure.meaning}" for measure in MEASURES.values()]),
        }
    values["title"] = f"Report: {values['name']}"
    absent = ["nothing compared" if report.compared else "compared", *["missing"] * (not report.missing)]
    absent += ["test sets"] * (not report.test_sets)
    return fill(values, ["two runs", *absent])


def write_against(report: against.Report, pngs: dict[str, bytes]) -> str:
    """The HTML of two runs side by side; `pngs` as in `write`."""
    values = {
        "title": text(" against ".join(report.names)),
        "first": text(report.names[0]),
        "second": text(report.names[1]),
        "changed": "".join(line([text(row[name]) for name in against.CHANGED]) for row in report.changed)
        or line(["no recorded setting"]),
        "differences": "".join(
            difference_table(report, measure, *shown) for measure, shown in against.MEASURES.items()
        ),
        "alone": items(report.alone),
        "figures": figures(report.pictures, pngs),
        "fewest_seeds": uncertainty.FEWEST_SEEDS,
    }
    return fill(values, ["of one run", "nothing compared", "compared", "missing", "test sets"])


def difference_table(report: against.Report, measure: str, title: str, scale: float, decimals: int) -> str:
    """One measure of both runs, a line for each method and sparsity."""
    lines, names = "", [*map(text, report.names)]
    heads = [*names, f"{names[0]} − {names[1]}"] if measure != "overlap" else ["similarity", "by chance"]
    for row in report.rows:
        if row["measure"] != measure:
            continue
        cells = [text(row[name]) for name in KEY_COLUMNS[:2]] + [
            f"{100 * row['sparsity']:g}",
            str(row["models"]),
        ]
        single = ("chance",) if measure == "overlap" else ("first", "second")
        numbers = [show(row[name], scale, decimals) for name in single]
        whole = show(row, scale, decimals, signed=measure != "overlap")
        cells += [whole, *numbers] if measure == "overlap" else [*numbers, whole]
        lines += line([*cells, "the same" if row["paired"] else "different"], range(2, 4 + len(heads)))
    if not lines:
        return ""
    titles = "".join(f'<th class="number">{name}</th>' for name in ("sparsity (%)", "K", *heads))
    head = f"<th>method</th><th>pruning</th>{titles}<th>seeds</th>"
    heading = text(title[0].upper() + title[1:])
    return (
        f'<h3>{heading}</h3><div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )


def fill(values: dict, absent: list[str]) -> str:
    """report.html without the absent sections."""
    template = TEMPLATE.read_text(encoding="utf-8")
    for section in absent:
        template = re.sub(f"<!-- {section} -->.*?<!-- end -->", "", template, flags=re.DOTALL)
    values = {
        name: re.sub(FLAG, r"<span class='flag'>\g<0></span>", str(value)) for name, value in values.items()
    }
    return Template(template).substitute(values)


def settings(report: Report) -> str:
    """In what the dense networks differ from the published ones."""
    dense = [each.row for each in report.stored if each.pruning_method == "dense"]
    said = [
        f"{row['learning_method']}: {row['unpublished'] or 'none'}" for row in dense if "unpublished" in row
    ]
    return "; ".join(said) or "not recorded"


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
    kinds = {claims.SUPPORTED: ("supported", "✓"), claims.CONTRADICTED: ("not-supported", "✗")}
    kind, mark = kinds.get(verdict, ("not-decidable", "?"))
    return f'<span class="verdict {kind}">{mark} {text(verdict)}</span>'


# Claims


def conclusion(report: Report) -> list[str]:
    """The report in a few sentences."""
    verdicts: dict[str, list[str]] = {}
    undecided: dict[str, list[str]] = {}  # why -> the claims
    for claim in claims.CLAIMS:
        verdict = claims.verdict(report.evidence, claim.deciding)
        verdicts.setdefault(verdict, []).append(str(claim.number))
        if verdict not in (claims.SUPPORTED, claims.CONTRADICTED):
            reason = claims.why(claim, report.evidence)[-1].rstrip(".")
            undecided.setdefault(f"{reason[0].lower()}{reason[1:]}", []).append(str(claim.number))
    said = (f"{verdict}: claim {' and claim '.join(numbers)}" for verdict, numbers in verdicts.items())
    sentences = [f"Of the paper's claims, {'; '.join(said)}."]
    deciding = [part for claim in claims.CLAIMS for part in claim.deciding]
    largest = claims.rows_of(report.evidence, deciding)[:1]
    if largest and claims.on_side(largest[0]) is not None:
        side = "for" if claims.strength(largest[0]) > 0 else "against"
        name = claims.named(largest)
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


def claim_lines(evidence: list[dict]) -> str:
    """Every measure of every claim with the difference that is least in favour; claims, and measures of one
    claim, with the largest evidence first."""
    tables = []
    for claim in claims.CLAIMS:
        lines, verdict = [], chip(claims.verdict(evidence, claim.deciding))
        of_part = claims.verdicts(evidence, claim)
        for part in claim.parts:
            rows = claims.rows_of(evidence, (part,))
            known = [row for row in rows if claims.on_side(row) is not None]
            least = min(known, key=claims.strength, default=None)
            cells = [text(claims.named([least])), size(least)] if least else [text(part.name), "–"]
            beside = "" if part.decides else "<br>(does not decide)"
            cells.append(chip(of_part[part.name]) + beside)
            lines.append((abs(claims.strength(least)) if least else -1, cells))
        lines.sort(key=itemgetter(0), reverse=True)
        first = [f"{text(f'{claim.number}. {claim.statement}')}<br>{verdict}", *[""] * (len(lines) - 1)]
        tables.append((lines[0][0], [[name, *cells] for name, (_, cells) in zip(first, lines)]))
    tables.sort(key=itemgetter(0), reverse=True)
    return "".join(line(cells, range(2, 3)) for _, table in tables for cells in table)


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
    verdict, contrary = claims.verdict(report.evidence, claim.deciding), contradicting(claim, report.evidence)
    sections, of_part = (
        [f"<ul>{items(claims.why(claim, report.evidence))}</ul>"],
        claims.verdicts(report.evidence, claim),
    )
    for part in claim.parts:
        rows = claims.rows_of(report.evidence, (part,))
        side = "above" if part.side > 0 else "below"
        sections.append(
            f"<h3>{text(part.name)} {chip(of_part[part.name])}</h3><p>Claimed to be {side} 0: "
            f"{text(part.difference)}. Intervals: {part.interval}.</p>"
        )
        if rows:
            sections.append(part_table(rows, contrary))
    confounds = items([*claim.confounds, *measured_confounds(claim.number, report)])
    return (
        f"<details><summary>Evidence for claim {claim.number}: {text(verdict)}</summary>{''.join(sections)}"
        f"<h3>Confounds</h3><ul>{confounds}</ul></details>"
    )


def contradicting(claim: claims.Claim, evidence: list[dict]) -> list[dict]:
    """The differences that alone contradict the claim."""
    rows = claims.rows_of(evidence, claim.deciding)
    return claims.against(rows, claims.compared(rows))


def part_table(rows: list[dict], contrary: list[dict]) -> str:
    """All differences of a part of a claim, the largest evidence first."""
    numbers = "".join(f'<th class="number">{name}</th>' for name in ("sparsity (%)", "K", "size"))
    head = f"<th>of</th><th>difference</th>{numbers}<th>where it lies</th><th></th>"
    body = ""
    for row in rows:
        note = row.get("note", "")
        if not math.isnan(row.get("circular", math.nan)):
            note = show_circular(row)
        names = [text(row[name]) for name in ("group", "comparison")]
        numbers = [f"{100 * row['sparsity']:g}", str(row["models"]), size(row)]
        body += line(
            [*names, *numbers, where(row, contrary), f'<span class="soft">{text(note)}</span>'], range(2, 5)
        )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def show_circular(row: dict) -> str:
    """What the number would be if PIEs were measured in the networks that make them, and the difference."""
    part = claims.PARTS[row["claim"], row["part"]]
    circular, difference = (
        show(value, part.scale, part.decimals, signed=True)
        for value in (row["circular"], row["value"] - row["circular"])
    )
    return f"circular {circular}, difference {difference}"


def where(row: dict, contrary: list[dict]) -> str:
    """On which side of 0 a difference's interval lies."""
    if claims.on_side(row) is None:
        return "no interval"
    if claims.on_side(row):
        return "✓ as claimed"
    if row in contrary:
        return "✗ contrary"
    return "(✗) contrary at 95 % only" if claims.against([row]) else "○ across 0"


def show(row: dict | float, scale: float = 1, decimals: int = 0, signed: bool = False) -> str:
    """`12 [8, 16]`, `12` of a number without an interval, a dash where it is not defined."""

    def number(value: float) -> str:
        form = f"{'+' if signed else ''}.{decimals}f"
        return format(round(scale * value, decimals) + 0.0, form).replace("-", "−")

    row = row if isinstance(row, dict) else {"value": row, "low": math.nan}
    if math.isnan(row["value"]):
        return "–"
    interval = "" if math.isnan(row["low"]) else f" [{number(row['low'])}, {number(row['high'])}]"
    return number(row["value"]) + interval


# Figures and PIEs


def figures(pictures: list[Picture], pngs: dict[str, bytes]) -> str:
    """All figures with what to look for."""
    sections = []
    for picture in pictures:
        png = pngs[picture.name]
        width = int.from_bytes(png[16:20], "big")  # in the header of every PNG
        smallest = round(0.75 * width)  # at which its smallest letters, of size 8, can still be read
        sections.append(
            f'<figure id="{text(picture.name)}"><h3>{text(picture.heading)}</h3>'
            f'<figcaption>{text(picture.caption)}</figcaption><div class="wide">'
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
    "pies_margin_10",
    "pies_margin_20",
    "pies_ties_to_largest",
    "noise_floor",
    "excess",
    "excess_of_all",
    "ties_pruned",
    "q_score",
    "depth",
    "origin",
)
SHOWN_AS = {  # for `show`
    "accuracy": (100, 2),
    "pies": (),
    "noise_floor": (),
    "excess_of_all": (),
    "excess": (1, 0, True),
    "q_score": (1, 3, True),
    "depth": (1, 2, True),
}


def population_lines(report: Report) -> str:
    """One line for each population."""
    rows = {tuple(row[name] for name in KEY_COLUMNS): row for row in (*report.dense, *report.populations)}
    lines = []
    for population in report.stored:
        if row := rows.get(tuple(population.facts.values())):
            numbers = {name: show(row[name], *how) for name, how in SHOWN_AS.items() if name in row}
            cells = population.row | row | numbers | {"sparsity": f"{100 * population.sparsity:g}"}
            lines.append(line([text(cells.get(name, "")) for name in POPULATION_COLUMNS], range(2, 15)))
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


TEST_SETS_AS = {  # for `show`
    "accuracy": (100, 2),
    "clean_accuracy": (100, 2),
    "difference": (100, 2, True),
    "pies": (),
    "clean_pies": (),
    "jaccard": (1, 3),
    "jaccard_chance": (1, 3),
}


def test_set_lines(rows: list[dict]) -> str:
    """One line for each test set and population."""
    lines, columns = [], ("test_set", *KEY_COLUMNS, "networks", "images", *TEST_SETS_AS)
    for row in rows:
        numbers = {name: show(row[name], *how) for name, how in TEST_SETS_AS.items() if name in row}
        cells = row | numbers | {"sparsity": f"{100 * row['sparsity']:g}"}
        lines.append(line([text(cells.get(name, "")) for name in columns], range(3, len(columns))))
    return "".join(lines)


def made_line(row: dict) -> str:
    """Networks, seeds, time of training, machine, versions and days of a population."""
    cells = (
        row["learning_method"],
        row["pruning_method"],
        f"{100 * row['sparsity']:g}",
        row["networks"],
        show_seeds(row["seeds"]),
        duration(row["seconds"]),
        row["unpublished"],
        "; ".join(row["devices"]),
        "; ".join(row["versions"]),
        " to ".join(dict.fromkeys(row["days"][:1] + row["days"][-1:])),
    )
    return line([text(cell or "not recorded") for cell in cells], range(2, 6))


def duration(seconds: float) -> str:
    """`2 h 5 min`, `5 min`; at least one minute, nothing for 0."""
    hours, minutes = divmod(math.ceil(seconds / 60), 60)
    return " ".join([f"{hours} h"] * (hours > 0) + [f"{minutes} min"] * (minutes > 0))


def show_seeds(seeds: list[int]) -> str:
    """[0, 1, 2, 5] as `0-2, 5`."""
    runs = np.split(seeds, np.flatnonzero(np.diff(seeds) != 1) + 1) if seeds else []
    return ", ".join("-".join(dict.fromkeys((f"{run[0]}", f"{run[-1]}"))) for run in runs)
