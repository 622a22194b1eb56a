"""The report of one data set as one HTML file that needs nothing else: pure functions from numbers and pictures to text."""

import base64
import html
import io
import math
import shlex
from pathlib import Path

import numpy as np

from common.methods import order
from common.store import results
from figures.report import claims, contents, uncertainty
from figures.report.evidence import Compared

CSS = """
:root { --ink: #1d2733; --soft: #5c6875; --line: #d8dee5; --paper: #ffffff; --shade: #f5f7f9; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 70rem; font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); }
h1 { font-size: 1.6rem; line-height: 1.2; } h2 { margin-top: 2.5rem; border-bottom: 2px solid var(--line); } h3 { margin: 1.8rem 0 .3rem; }
p, li, figcaption { max-width: 46rem; } .soft, figcaption { color: var(--soft); }
figure { margin: 1.5rem 0; } figcaption { margin-bottom: .6rem; } .wide { overflow-x: auto; border: 1px solid var(--line); } .wide img { display: block; width: 100%; }
table { border-collapse: collapse; font-size: .9rem; } td, th { white-space: nowrap; } .claims td, details td { white-space: normal; } details td.number, .supported, .not-supported { white-space: nowrap; }
th, td { padding: .35rem .6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
thead th { background: var(--shade); white-space: normal; } td.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; margin: 1rem 0; } .verdict { display: inline-block; padding: .1rem .5rem; border: 2px solid; border-radius: .3rem; font-weight: 600; }
.supported { color: #00583f; background: #e3f4ee; } .not-supported { color: #8a3800; background: #fdeee2; } .not-decidable { color: #4a4f57; background: #eef0f3; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(10.4rem, 1fr)); gap: .8rem; } .gallery figure, .gallery figcaption { margin: 0; }
.gallery img { width: 6.5rem; height: 6.5rem; image-rendering: pixelated; border: 1px solid var(--line); } .gallery figcaption { font-size: .8rem; line-height: 1.35; color: var(--ink); }
summary { cursor: pointer; padding: .3rem 0; font-weight: 600; } pre { white-space: pre-wrap; overflow-wrap: anywhere; padding: .6rem; background: var(--shade); font-size: .85rem; }
.notice { border-left: 4px solid #b8860b; background: #fdf7e6; padding: .5rem 1rem; }
@media (max-width: 40rem) { .claims thead { display: none; } .claims tr, .claims td { display: block; border: 0; } .claims tr { border-bottom: 2px solid var(--line); padding: .6rem 0; } }
"""


def write(found: dict, drawn: list[tuple[contents.Picture, bytes]], results_folder: Path) -> str:
    """The HTML. Same arrays, same bytes.

    Args:
        found: of `collect`; drawn: pictures in their order, with their PNG.
    """
    compared = found["compared"]
    name = str(compared[0].combination.arrays["data_title"]) if compared else results_folder.name
    parts = [
        f"<h1>Does it hold? Pruning, contrastive and supervised learning on {text(name)}</h1>",
        summary(compared),
    ]
    if found["missing"]:
        parts.append(
            f'<div class="notice"><strong>Missing here:</strong><ul>{"".join(f"<li>{text(words)}</li>" for words in found["missing"])}</ul></div>'
        )
    if compared:
        parts += [
            claims_section(found),
            figures_section(drawn),
            gallery_section(compared),
            table_section(found, results_folder),
        ]
    parts += [made_section(compared, results_folder), reading_section()]
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>Report: {text(name)}</title><link rel="icon" href="data:,"><style>{CSS}</style></head>\n<body>\n'
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def text(words) -> str:
    """Words as HTML shows them."""
    return html.escape(str(words))


def summary(compared: list[Compared]) -> str:
    """Data, networks, and whose study it is."""
    if not compared:
        return "<p>No pruned population is stored here.</p>"
    arrays = compared[0].combination.arrays
    learning = ", ".join(dict.fromkeys(one.learning_method for one in compared))
    models = sorted({len(one.pruned.ids) for one in compared})
    networks = ", ".join(dict.fromkeys(str(one.combination.arrays["architecture"]) for one in compared))
    elsewhere = any(row["made_elsewhere"] for row in contents.provenance(compared)[0])
    return (
        f"<p>{text(arrays['data_title'])}, {len(arrays['labels'])} test images; {text(learning)}; networks {text(networks)}; {' or '.join(map(str, models))} models of each "
        f"kind.{' Some networks were made elsewhere.' if elsewhere else ''} A reproduction of Corti, Entezari, Hooker, Bacciu, Saukh 2022, "
        "<em>Studying the impact of magnitude pruning on contrastive learning methods</em>. Every number is computed from stored arrays; what they do not hold is not shown.</p>"
    )


def chip(words: str) -> str:
    """A verdict in a coloured frame, with a mark for those who do not see colours."""
    kind = {claims.SUPPORTED: "supported", claims.NOT_SUPPORTED: "not-supported"}.get(words, "not-decidable")
    mark = {"supported": "✓", "not-supported": "✗", "not-decidable": "?"}[kind]
    return f'<span class="verdict {kind}">{mark} {text(words)}</span>'


def claims_section(found: dict) -> str:
    """The table of the claims, and the evidence for each."""
    rows, lines, details = found["evidence"], [], []
    for claim in claims.CLAIMS:
        own = [row for row in rows if row["claim"] == claim.number]
        decided = claims.verdict(own)
        why = [*tally(own), *(claims.why_undecided(claim, own) if decided == claims.NOT_DECIDABLE else [])]
        lines.append(
            f"<tr><td>{claim.number}. {text(claim.statement)}</td><td>{chip(decided)}</td><td>{'<br>'.join(map(text, why))}</td></tr>"
        )
        details.append(claim_details(claim, own, measured_confounds(claim.number, found)))
    return (
        '<h2 id="claims">Claims</h2><table class="claims"><thead><tr><th>Claim of the paper</th><th>Verdict here</th><th>Evidence</th></tr></thead>'
        f'<tbody>{"".join(lines)}</tbody></table><p class="soft">Supported: the 95 % interval of every difference lies on the claimed side at every stored sparsity from '
        f"{100 * claims.HIGH_SPARSITY:g} %. Not supported: one does not, which is no proof of the contrary. The rules were fixed before the results.</p>"
        + "".join(details)
    )


def tally(rows: list[dict]) -> list[str]:
    """How many differences lie where, part by part."""
    words = []
    for part in dict.fromkeys(row["part"] for row in rows):
        sides = [claims.on_side(row) for row in rows if row["part"] == part]
        against = sum(claims.against(row) for row in rows if row["part"] == part)
        decided = len(sides) - sides.count(None)
        if decided:
            words.append(
                f"{part}: {sides.count(True)} of {len(sides)} differences on the claimed side, {against} on the other, {decided - sides.count(True) - against} unclear"
                + (f", {sides.count(None)} without interval" if None in sides else "")
            )
    return words


def measured_confounds(number: int, found: dict) -> list[str]:
    """What the stored arrays say of a claim's confounds."""
    if number == 1:
        return [
            "Test accuracy of the dense networks here: "
            + ", ".join(
                f"{row['learning_method']} {show(row['accuracy'], 100, 2)} %" for row in found["dense"]
            )
            + ".",
            *(
                f"Noise floor of {method} here: {np.median(floor['dense against dense']):g} PIEs between halves of the dense networks, in the median."
                for method, floor in found["floors"].items()
            ),
        ]
    if number == 3:
        other = sorted(
            {
                (row["group"], row["comparison"])
                for row in found["evidence"]
                if row["claim"] == 3 and not row["matched"]
            }
        )
        return [
            f"Here without networks of the same scope: {group}, {comparison}." for group, comparison in other
        ]
    return []


def claim_details(claim: claims.Claim, rows: list[dict], measured: list[str]) -> str:
    """The evidence: one table for each part, a line for each comparison, a column for each sparsity."""
    found = [f"<details><summary>Evidence for claim {claim.number}</summary>"]
    for part in claim.parts:
        own = [row for row in rows if row["part"] == part.name]
        side = "above" if part.side > 0 else "below"
        found.append(
            f"<h3>{text(part.name)} {chip(claims.verdict(own))}</h3><p>Claimed to be {side} 0: {text(part.difference)}. "
            f"Intervals: {part.interval}. ✓ on the claimed side, ✗ on the other, ○ across 0.</p>"
        )
        if not own:
            continue
        sparsities = sorted({row["sparsity"] for row in own})
        cells = {(row["group"], row["comparison"], row["sparsity"]): row for row in own}
        head = "".join(f"<th>{100 * sparsity:g} %</th>" for sparsity in sparsities)
        body = ""
        for group, comparison in dict.fromkeys((row["group"], row["comparison"]) for row in own):
            line = "".join(
                f'<td class="number">{cell(cells.get((group, comparison, sparsity)), part)}</td>'
                for sparsity in sparsities
            )
            body += f"<tr><td>{text(group)}</td><td>{text(comparison)}</td>{line}</tr>"
        found.append(
            f'<div class="scroll"><table><thead><tr><th>of</th><th>difference</th>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        )
    found.append(
        f"<h3>Confounds</h3><ul>{''.join(f'<li>{text(words)}</li>' for words in (*claim.confounds, *measured))}</ul></details>"
    )
    return "".join(found)


def cell(row: dict | None, part: claims.Part) -> str:
    """A difference with its interval and, as a mark, on which side of 0 that is: the claimed one, the other, neither."""
    if row is None:
        return ""
    mark = (
        " ✓"
        if claims.on_side(row)
        else " ✗"
        if claims.against(row)
        else ""
        if claims.on_side(row) is None
        else " ○"
    )
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


def figures_section(drawn: list[tuple[contents.Picture, bytes]]) -> str:
    """All figures with what to look for."""
    parts = [
        '<h2 id="figures">Figures</h2><p class="soft">On a small screen figures can be scrolled sideways.</p>'
    ]
    before = ""
    for picture, png in drawn:
        width = int.from_bytes(
            png[16:20], "big"
        )  # in the header of every PNG; at 55 % its smallest letters can still be read
        caption = (
            f"<figcaption>{text(picture.caption)}</figcaption>" if picture.caption != before else ""
        )  # once for figures of one kind
        before = picture.caption
        parts.append(
            f'<figure id="{text(picture.name)}"><h3>{text(picture.heading)}</h3>{caption}<div class="wide"><img alt="{text(picture.heading)}" '
            f'style="max-width: {width}px; min-width: {round(0.55 * width)}px" src="{png_uri(png)}"></div></figure>'
        )
    return "".join(parts)


def png_uri(png: bytes) -> str:
    """A picture inside the page."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def gallery_section(compared: list[Compared]) -> str:
    """The PIEs of one sparsity of each learning and pruning method."""
    parts = [
        '<h2 id="gallery">The PIEs themselves</h2><p>The most confident disagreements first: 1 where all dense networks agree on one label and all pruned ones on another. '
        "Look whether you would have known the label.</p>"
    ]
    for index, one in enumerate(contents.shown(compared)):
        entries = contents.gallery(one)
        total = int(one.combination.arrays["is_pie"].sum())
        tiles = "".join(
            f'<figure><img alt="{text(entry["label"])}" src="{png_uri(png_of(entry["image"]))}"><figcaption>label <strong>{text(entry["label"])}</strong><br>dense '
            f"{text(entry['dense'])} ({entry['dense_agreeing']} of {len(one.dense.ids)})<br>pruned {text(entry['pruned'])} ({entry['pruned_agreeing']} of {len(one.pruned.ids)})"
            f'<br><span class="soft">confidence {entry["confidence"]:.2f}</span></figcaption></figure>'
            for entry in entries
        )
        number = (
            f"{len(entries)} of {total} PIEs"
            if len(entries) < total
            else f"{total} PIEs"
            if total
            else "no PIEs"
        )
        parts.append(
            f'<details{" open" if index == 0 else ""}><summary>{text(contents.describe_one(one))}: {number}</summary><div class="gallery">{tiles}</div></details>'
        )
    return "".join(parts)


def png_of(image: np.ndarray) -> bytes:
    """(3, H, W) uint8 as it is, pixel by pixel."""
    from matplotlib.image import imsave

    png = io.BytesIO()
    imsave(png, np.ascontiguousarray(image.transpose(1, 2, 0)), format="png")
    return png.getvalue()


def table_section(found: dict, results_folder: Path) -> str:
    """One line for each population."""
    columns = (
        "method",
        "pruning",
        "sparsity (%)",
        "K",
        "accuracy (%)",
        "PIEs",
        "ties",
        "Q-Score, PIEs − others",
        "depth, PIEs − others (places)",
        "origin",
    )
    table = {
        (row["learning_method"], row["pruning_method"], float(row["sparsity"])): row
        for row in results.read_table(results_folder)
    }
    lines = []
    for row in sorted(
        [*found["dense"], *found["populations"]],
        key=lambda row: (row["learning_method"], order(row["pruning_method"]), row["sparsity"]),
    ):
        stored = table.get((row["learning_method"], row["pruning_method"], row["sparsity"]), {})
        cells = [text(row["learning_method"]), text(row["pruning_method"])]
        numbers = [
            f"{100 * row['sparsity']:g}",
            str(row["networks"]),
            show(row["accuracy"], 100, 2),
            show(row["pies"]) if "pies" in row else "",
            text(stored.get("ties_pruned") or ""),
            show(row["q_score"], 1, 3, True) if "q_score" in row else "",
            show(row["depth"], 1, 2, True) if "depth" in row else "",
        ]
        lines.append(
            "<tr>"
            + "".join(f"<td>{value}</td>" for value in cells)
            + "".join(f'<td class="number">{value}</td>' for value in numbers)
            + f"<td>{text(stored.get('origin', ''))}</td></tr>"
        )
    head = "".join(f"<th>{text(column)}</th>" for column in columns)
    return (
        f'<h2 id="table">All populations</h2><div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
        f'<p class="soft">In brackets 95 % intervals. All columns: {text(results.table_path(results_folder).name)}, beside this report.</p>'
    )


def made_section(compared: list[Compared], results_folder: Path) -> str:
    """Commands, and for each population networks, seeds, hours of training, machine, versions and days."""
    rows, commands = contents.provenance(compared)
    lines = ""
    for row in rows:
        days = " to ".join(dict.fromkeys((row["days"][0], row["days"][-1]))) if row["days"] else ""
        cells = (
            row["learning_method"],
            row["pruning_method"],
            f"{100 * row['sparsity']:g}",
            row["networks"],
            seeds(row["seeds"]),
            f"{row['seconds'] / 3600:.3g}",
            *(
                words or "not recorded"
                for words in ("; ".join(row["devices"]), "; ".join(row["versions"]), days)
            ),
        )
        lines += f"<tr>{''.join(f'<td>{text(value)}</td>' for value in cells)}</tr>"
    head = "".join(
        f"<th>{column}</th>"
        for column in (
            "method",
            "pruning",
            "sparsity (%)",
            "networks",
            "seeds",
            "hours",
            "machine",
            "versions",
            "days",
        )
    )
    listed = "\n".join(
        f"python {command}"
        for command in (*commands, f"figures/make_figures.py --results {shlex.quote(str(results_folder))}")
    )
    return (
        f'<h2 id="made">How it was made</h2><p>Commands, training first:</p><pre>{text(listed)}</pre>'
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>'
        f'<p class="soft">{sum(row["seconds"] for row in rows) / 3600:.3g} hours of training together, added up over processes that may have run at once; evaluation is not in them.</p>'
    )


def seeds(found: list[int]) -> str:
    """[0, 1, 2] as `0-2`."""
    from common.store.populations import show_ids

    return show_ids(found) if found else "not recorded"


def reading_section() -> str:
    """What the intervals are and are not."""
    return (
        f'<h2 id="reading">How to read the intervals</h2><ul><li>They say how sure a number is over other draws of the seeds, for these test images and this training: not for other data.</li>'
        f"<li>PIE counts, shares and Jaccard similarities: delete-2 jackknife. All but two seeds vote, every pair once; dense and pruned networks of one seed leave together. "
        "A bootstrap would draw some networks twice, which makes modal labels noisier and counts higher than they are. "
        "These intervals err on the wide side, and more models narrow them only a little: an interval across 0 does not say that there is no difference.</li>"
        f"<li>Means over networks: bootstrap over seeds, {uncertainty.RESAMPLES:,} resamples, percentiles widened for few seeds.</li>"
        f"<li>With fewer than {uncertainty.FEWEST_SEEDS} models there is no interval and no verdict.</li><li>Intervals are not corrected for their number. A claim needs all of its own, "
        "which makes 'supported' harder to reach, not easier.</li></ul>"
    )
