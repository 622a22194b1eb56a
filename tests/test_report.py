"""The report: every number on the page is found again, slowly, in the stored arrays; the page needs nothing
but itself."""

import base64
import csv
import html
import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import stored_results
from conftest import read_csv
from PIL import Image
from test_evidence import Stored

from common.store.files import read_arrays
from figures import make_figures
from figures.report import contents, measures, page
from figures.report.read import load_outputs, read_populations

BROWSER = next(
    filter(
        None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))
    ),
    None,
)
METHODS, SPARSITIES = ("GMP", "later_GMP"), (0.7, 0.9)
SMALL = dict(
    models=1, learning=("supervised",), methods=("GMP",), sparsities=(0.9,), q_score=False, umap=False
)


def make(folder, *flags):
    return make_figures.main(["--results", str(folder), *map(str, flags)])


class Page(HTMLParser):
    """Tables as lists of rows of texts, by the heading above them; images, links and all text."""

    def __init__(self, source):
        super().__init__()
        self.tables, self.images, self.words, self.tags = [], [], [], []
        self.heading, self._cell, self._tag = "", None, ""
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "table":
            self.tables.append((self.heading, []))
        elif tag == "tr":
            self.tables[-1][1].append([])
        elif tag in ("td", "th"):
            self._cell = []
        elif tag == "br" and self._cell is not None:
            self._cell.append("\n")
        elif tag in ("h1", "h2", "h3", "summary"):
            self.heading = ""
        elif tag == "img":
            self.images.append(dict(attributes))
        self._tag = tag

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.tables[-1][1][-1].append("".join(self._cell))
            self._cell = None

    def handle_data(self, data):
        self.words.append(data)
        if self._cell is not None:
            self._cell.append(data)
        elif self._tag in ("h1", "h2", "h3", "span", "summary"):
            self.heading += data

    def table(self, heading):
        return next(rows for own, rows in self.tables if heading in own)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "pies" / "A & <b>"
    stored_results.make_results(folder, models=6, methods=METHODS, sparsities=SPARSITIES, depth_models=6)
    other = dict(learning=("SupCon",), methods=("GMP",), sparsities=(0.9,), depths=False, umap=False)
    stored_results.make_results(folder / "test_sets/noise_1", models=6, q_score=False, shift=0.3, **other)
    assert make(folder) == 0
    return folder


@pytest.fixture(scope="module")
def read(folder):
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def compared_in(folder):
    return load_outputs(stored_results.pruned_populations(folder))[0]


def votes(members, image):
    """(modal label, how many networks predict it); the smallest label of a tie."""
    counts = Counter(int(one["predictions"][image]) for one in members)
    return min(counts, key=lambda label: (-counts[label], label)), counts


# Numbers


def test_the_gallery_and_the_list_have_the_most_confident_pies_with_their_votes(folder):
    pixels = stored_results.make_data(folder.name).images
    for one in compared_in(folder):
        key = stored_results.key_of(one)
        stored = Stored(folder, key)
        dense, members = stored.dense.values(), stored.pruned.values()
        q_score = np.load(stored_results.population_path(folder, key))["q_score"]
        expected = []
        for i, label in enumerate(stored.truth):
            (d, from_dense), (p, from_pruned) = votes(dense, i), votes(members, i)
            if d != p:
                ahead = (from_dense[d] - from_dense[p]) / 6 + (from_pruned[p] - from_pruned[d]) / 6
                names = [stored_results.CLASS_NAMES[k] for k in (label, d, p)]
                expected.append((-ahead / 2, i, *names, from_dense[d], from_pruned[p]))
        expected = sorted(expected)
        columns = ("label", "dense", "pruned", "dense_agreeing", "pruned_agreeing")
        shown = contents.gallery(one)
        facts = [tuple(entry[name] for name in columns) for entry in shown]
        assert facts == [row[2:] for row in expected[:48]]
        for entry, (confidence, image, *_) in zip(shown, expected):
            assert np.array_equal(entry["image"], pixels[image])
            assert entry["confidence"] == pytest.approx(-confidence)
        listed = read_csv(folder / "report" / "pies_{}_{}_{}sparsity.csv".format(*key))
        assert [row["image"] for row in listed] == [f"test/a/{row[1]}.png" for row in expected]
        for row, (_, image, *facts) in zip(listed, expected):
            assert [row[name] for name in columns] == list(map(str, facts))
            depths = one.depths["pruned_depth_prediction"][:, image]
            numbers = [q_score[image], sum(depths) / len(depths)]
            shown = [float(row["image_q_score"]), float(row["image_depth"])]
            assert shown == pytest.approx(numbers, abs=1e-6)
            leads = [
                np.diff(sorted([*votes(each, image)[1].values(), 0])[-2:])[0] for each in (dense, members)
            ]
            assert float(row["margin"]) == pytest.approx(min(leads) / 6, abs=1e-6)


def test_curves_are_drawn_from_the_numbers_of_the_table(folder):
    rows = measures.population_rows(compared_in(folder))
    for name, scale in (("pies", 1), ("excess", 1), ("accuracy", 100)):
        arrays = read_arrays(folder / "report" / f"{name}_against_sparsity.npz")
        drawn = {
            (str(series), float(x)): values
            for index, series in enumerate(arrays["series"])
            for x, *values in zip(*(arrays[f"{key}_{index}"] for key in ("sparsity", "value", "low", "high")))
        }
        assert len(drawn) == len(rows) + (2 if name == "accuracy" else 0)  # and the dense networks
        for row in rows:
            values = drawn[f"{row['learning_method']} {row['pruning_method']}", row["sparsity"]]
            assert values == pytest.approx([scale * row[name][key] for key in ("value", "low", "high")])


def test_figures_of_claims_show_the_rows_that_decide_and_their_means(folder, read):
    deciding = [row for row in read_csv(folder / "report/evidence.csv") if row["decides"] == "True"]
    for number in "1234":
        rows = [row for row in deciding if row["claim"] == number]
        arrays = read_arrays(folder / "report" / f"claim_{number}.npz")
        scales = [100 if "points" in measure else 1 for measure in arrays["measures"]]
        numbers = [[float(row[name]) for row in rows] for name in ("value", "low", "high", "smallest")]
        assert arrays["numbers"] == pytest.approx(np.array(numbers) * scales, rel=1e-3)
        means = [row["is_mean"] == "True" for row in rows]
        assert [name == "mean" for name in arrays["rows"]] == means and any(means)
        marks = [row["mark"] for row in rows if row["mark"]]
        assert [mark for mark, mean in zip(arrays["marks"], means) if not mean] == marks
    assert all(f"Claim {number}. " in read.text for number in "1234")


def test_bad_networks_are_named(folder):
    def row_of(method, sparsity, accuracy):
        key = {"learning_method": "SupCon", "pruning_method": method, "sparsity": sparsity}
        return key | {"accuracy": {"value": accuracy}}

    compared = compared_in(folder)
    guessing = np.bincount(compared[0].labels).max() / len(compared[0].labels)
    report = contents.Report(
        compared=compared,
        dense=[row_of("dense", 0.0, 0.79)],
        populations=[row_of("GMP", 0.9, guessing + 0.09), row_of("global", 0.9, guessing + 0.11)],
    )
    weak, lost = page.warnings(report)
    assert "SupCon dense: 79.00 %" in weak
    assert "SupCon GMP, 90 % pruned: " in lost and "global" not in lost


def test_the_gallery_on_the_page_is_that_of_one_sparsity_of_every_method(folder, read):
    compared = compared_in(folder)
    chosen = [one for one in compared if one.sparsity == 0.9]  # the highest up to 95 %
    assert contents.shown(compared) == chosen and len(chosen) == 4
    tiles = [image for image in read.images if "style" not in image]
    assert len(tiles) == sum(min(48, int(one.is_pie.sum())) for one in chosen)
    first = contents.gallery(chosen[0])[0]
    assert base64.b64decode(tiles[0]["src"].split(",")[1]) == page.png_of(first["image"])
    assert (
        f"label {first['label']} dense {first['dense']} ({first['dense_agreeing']} of 6) pruned "
        f"{first['pruned']} ({first['pruned_agreeing']} of 6)" in read.text
    )


def test_tables_are_there_in_latex_too_with_eight_columns_at_most(folder):
    tables = list(folder.glob("*/*.tex"))
    names = {path.stem for path in tables}
    assert names >= {"evidence", "populations", "results", "class_recall", "pie_overlap", "weight_movement"}
    for path in tables:
        title, *rows = [line for line in path.read_text().splitlines() if line.endswith(r" \\")]
        assert title.count(" & ") < 8 and {row.count(" & ") for row in rows} == {title.count(" & ")}
        if path.stem != "results":
            with path.with_suffix(".csv").open(newline="") as file:
                assert len(list(csv.reader(file))) == len(rows) + 1
    assert re.search(r"& \d+ \{\}\[\d+, \d+\] &", (folder / "report/populations.tex").read_text())
    assert r"later\_GMP" in (folder / "report/results.tex").read_text()


def test_how_it_was_made_names_commands_seeds_hours_and_machine(folder, read):
    rows = read.table("Commands, settings, machines")[1:]
    assert len(rows) == 2 * (1 + len(METHODS) * len(SPARSITIES))
    total = 0
    for method, pruning, _, count, seeds, training, unpublished, machine, versions, days in rows:
        seconds = sum(60 + one for one in range(6))
        total += seconds
        assert (count, seeds, training) == ("6", "0, 1, 2, 3, 4, 5", f"{seconds / 3600:.2f}")
        assert unpublished == "epochs 3"
        assert (
            machine == "a processor, 2 cores, 2 threads"
            and versions == "torch 2.0, python 3.12"
            and days.startswith("2024-05-01, ")
            and days.endswith(" 2024-05-06")
        )
    assert total == 10 * 375 and "1.04 recorded hours of training" in read.text
    for command in (
        "sup_training.py --pruning 0.9",
        "clr_training.py --pruning 0.0",
        "clr_pie_kmodels_detection.py --dataset folder",
        "sup_prediction_depth.py --dataset folder",
        "figures/make_figures.py --results",
    ):
        assert f"python {command}" in read.text


# The page


def test_the_page_needs_nothing_but_itself(folder, read):
    source = (folder / "report.html").read_text(encoding="utf-8")
    for tag, attributes in read.tags:
        assert tag not in ("script", "link", "iframe", "object") or attributes.get("href") == "data:,"
        for name in ("src", "href", "srcset", "action", "data"):
            assert attributes.get(name, "data:").startswith(("data:", "#"))
    assert not re.search(r"https?:|@import|url\(", source)
    drawn = [image for image in read.images if "style" in image]
    assert len(drawn) == 3 + 4 + len(contents.CURVES) + 1 + 2 * 4 + 4 + 2 and all(
        image["alt"] for image in read.images
    )
    for image in drawn:
        picture = Image.open(io.BytesIO(base64.b64decode(image["src"].split(",")[1])))
        assert f"max-width: {picture.width}px" in image["style"]


def test_names_of_the_data_are_words_on_the_page_not_html(folder, read):
    assert (
        "<b>" not in (folder / "report.html").read_text(encoding="utf-8")
        and "on A & <b>" in read.text
        and "No population or figure besides what the claims above list" in read.text
    )


def test_what_is_missing_is_named_and_the_rest_is_there_and_the_same_when_made_again(tmp_path, empty_figures):
    folder = tmp_path / "pies" / "few"
    stored_results.make_results(
        folder,
        models=3,
        methods=("global", "GMP"),
        sparsities=(0.9,),
        depths=False,
        umap=False,
        q_score=False,
    )
    (folder / "supervised" / "evaluations" / "supervised_GMP_0.9_id1.npz").unlink()
    assert make(folder) == 0
    source = (folder / "report.html").read_text(encoding="utf-8")
    assert make(folder) == 0 and (folder / "report.html").read_text(encoding="utf-8") == source
    read = Page(source)
    for words in (
        "everything but its figures of supervised GMP 0.9",
        "prediction depth of SupCon global 0.9",
        "UMAP of SupCon dense: run its PIE script with --plot_umap",
        "Q-Score, dense against pruned of supervised global 0.9: run its PIE script with --plot_q_score",
        "masks of supervised GMP 0.9",
        "the finetuned control of SupCon: run its pruning_finetune script",
    ):
        assert words in read.text, words
    # no control, late pruning or depths
    assert read.text.count("? nothing to compare Not judged whether") == 4
    assert "[" not in "".join(cell for row in read.table("Accuracy and PIEs") for cell in row)
    (folder / "supervised" / "evaluations").rename(tmp_path / "away")
    (folder / "SupCon" / "evaluations").rename(tmp_path / "away too")
    assert make(folder) == 0 and "No pruned population is stored here" in (folder / "report.html").read_text(
        encoding="utf-8"
    )


def test_results_of_an_older_version_are_refused_in_one_line(tmp_path, capsys):
    stored_results.make_results(tmp_path, **SMALL)
    path = stored_results.population_path(tmp_path, ("supervised", "GMP", 0.9))
    stored_results.rewrite(path, row='{"learning_method": "supervised"}')
    assert make(tmp_path) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "sup_pie_kmodels_detection.py and sup_prediction_depth.py again" in line and str(tmp_path) in line


def test_depths_of_other_networks_are_not_in_the_table(tmp_path):
    stored_results.make_results(tmp_path, **SMALL)
    path = stored_results.population_path(tmp_path, ("supervised", "GMP", 0.9), depth=True)
    assert "depth_models" in read_populations(tmp_path)[1].row
    stored_results.rewrite(path, {"checkpoints": ["of other networks"]})
    assert "depth_models" not in read_populations(tmp_path)[1].row


def test_finetuned_controls_are_in_the_tables_and_count_as_pruned_nowhere(
    tmp_path, monkeypatch, empty_figures
):
    """The same results with controls and without: tables of populations and of test sets have more lines,
    there are lists of their PIEs, curves have their points, and one-shot networks are evidence; all other
    tables are the same, byte by byte."""
    folder, files, pages = Path("digits"), [], []
    shared = dict(models=6, sparsities=(0.9,), damage=lambda learning, method, sparsity: 0.4 + sparsity)
    for name, methods in (("with", ("finetuned", "global", "GMP")), ("without", ("global", "GMP"))):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        stored_results.make_results(folder, methods=methods, **shared)
        for place in ("test_sets/noise_1", "runs/other"):
            moved = dict(methods=methods, shift=0.3, umap=False, q_score=False)
            stored_results.make_results(folder / place, **shared, **moved)
        assert make(folder) == make(folder, "--against", folder / "runs/other") == 0
        made = [
            path for kind in ("report", "similarity", "against") for path in folder.glob(f"{kind}/**/*.*")
        ]
        made = [path for path in made if path.is_file() and not path.name.startswith("claim_")]
        names = [re.sub(r"other_\w+", "other", path.relative_to(folder).as_posix()) for path in made]
        files.append(dict(zip(names, (path.read_bytes() for path in made))))
        pages.append(Page((folder / "report.html").read_text(encoding="utf-8")))
    lists = {f"report/pies_{learning}_finetuned_0.0sparsity.csv" for learning in ("SupCon", "supervised")}
    assert files[0].keys() == files[1].keys() | lists
    tables = {f"report/{name}.{ending}" for name in ("populations", "test_sets") for ending in ("csv", "tex")}
    changed = {name for name, content in files[1].items() if files[0][name] != content}
    evidence = {f"report/evidence.{ending}" for ending in ("csv", "tex")}  # of which they are the reference
    curves = {name for name in files[0] if "against_sparsity" in name}
    assert changed - curves == tables | {"report/results.tex"} | evidence
    for heading in ("Accuracy and PIEs", "PIEs among other test images"):
        rows, others = (each.table(heading) for each in pages)
        controls = [row for row in rows if "finetuned" in row]
        assert [row for row in rows if row not in controls] == others and len(controls) == 2


def test_neither_torch_nor_training_is_imported(tmp_path):
    """The whole report, in a process that has no torch."""
    folder, no_torch = tmp_path / "digits", tmp_path / "no torch"
    stored_results.make_results(folder, **SMALL)
    no_torch.mkdir()
    (no_torch / "torch.py").write_text("raise ImportError('no torch here')")
    script = Path(__file__).parent.parent / "figures" / "make_figures.py"
    environment = os.environ | {"PYTHONPATH": str(no_torch)}
    command = [sys.executable, script, "--results", folder]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert (folder / "report.html").exists() and (folder / "similarity" / "class_recall.csv").exists()


def test_numbers_are_shown_with_their_sign_their_interval_or_a_dash():
    assert page.show({"value": math.nan, "low": math.nan, "high": math.nan}) == "–"
    assert page.show({"value": 3.0, "low": math.nan, "high": math.nan}) == "3"
    assert page.show({"value": -0.0004, "low": -0.12, "high": 0.26}, 1, 1, True) == "+0.0 [−0.1, +0.3]"
    assert page.show({"value": 0.5, "low": 0.25, "high": 0.75}, 100, 1) == "50.0 [25.0, 75.0]"


def test_curves_of_pies_are_of_equally_many_networks(tmp_path):
    keys = [("supervised", "global", 0.9), ("supervised", "GMP", 0.9)]
    ids = dict(zip(keys, ([0, 1, 2, 3, 4, 5, 6, 7], [7, 6, 5, 4, 3, 1])), dense=list(range(8)))
    ids[("supervised", "dense", 0.0)] = ids.pop("dense")
    make = {"learning": ("supervised",), "methods": ("global", "GMP"), "sparsities": (0.9,), "depths": False}
    stored_results.make_results(tmp_path / "few", models=8, ids=ids, umap=False, q_score=False, **make)
    compared = compared_in(tmp_path / "few")
    rows, number = contents.of_equal_number(compared)
    for row, population in zip(rows, compared, strict=True):
        assert row["pies"] == measures.estimate("pies", population, population.seeds[:6])
    assert number == 6
    pictures = contents.collect(read_populations(tmp_path / "few"), {}, []).pictures
    networks = {each.name: each.arrays.get("networks") for each in pictures}
    assert networks["pies_against_sparsity"] == ["6", "6"]
    assert networks["accuracy_against_sparsity"] == ["8", "6", "8"]


def test_figures_can_be_drawn_again_for_papers_with_title_settings_and_caption_beside_each(
    tmp_path, empty_figures
):
    folder, out = tmp_path / "A & <b>", tmp_path / "out"
    stored_results.make_results(folder, **{**SMALL, "models": 6, "umap": True})
    for path in folder.glob("*/umap/*.npz"):
        path.with_name(f".{path.name}.tmp.npz").write_text("of a script that was killed")
    assert make(folder, "--output_dir", out, "--style", "paper", "--format", "pdf") == 0
    texts = {path.stem: path.read_text() for path in out.glob("*.txt")}
    assert texts.keys() == {path.stem for path in out.glob("*.pdf")}
    assert not any(re.search(r"[ &<>]", name) for name in texts)
    for name, first, caption in (
        ("pies_against_sparsity", "PIEs against sparsity · A & <b> · ", "Images whose"),
        ("umap_grid", "UMAP of the latents · A & <b> · ", "One UMAP for each"),
    ):
        lines = texts[f"A_b_report_{name}_6models"].splitlines()
        assert lines[0].startswith(first) and lines[-1].startswith(caption)
        of_each = "6 networks of each combination (WideResNet-10-1)"
        assert (lines[1] == of_each) is (name != "umap_grid")  # whose latents are of fewer
    # The names of the rows of a heat map, which are numbered on paper.
    assert "\nsupervised GMP, 90 % pruned\n" in texts["A_b_similarity_class_recall_6models"]


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on PATH")
@pytest.mark.parametrize("width", [390, 1200])
def test_a_browser_shows_every_image_and_nothing_sticks_out(folder, tmp_path, width):
    """The report in a frame as wide as a phone or a screen, with every section unfolded; without a
    network."""
    source = (folder / "report.html").read_text(encoding="utf-8").replace("<details>", "<details open>")
    probe = """onload = () => {
      const d = document.getElementById("frame").contentDocument, all = query =>
      [...d.querySelectorAll(query)];
      const outside = e =>
        e.getBoundingClientRect().right > WIDTH + 1 && !e.closest(".wide, .scroll, pre");
      const names = performance.getEntriesByType("resource").map(resource => resource.name);
      document.title = JSON.stringify({
        images: d.images.length,
        broken: all("img").filter(image => !image.complete || !image.naturalWidth).length,
        width: d.documentElement.scrollWidth,
        outside: all("body *").filter(outside).map(e => e.tagName + " " + e.textContent.slice(0, 40)),
        broken_flags: all(".flag").filter(e => e.getClientRects().length != 1).length,
        flags: all(".flag").length,
        numbers: all("td.number").filter(e => getComputedStyle(e.closest("table").rows[0].cells[e.cellIndex])
          .textAlign != "right").length,
        requests: names.filter(name => !name.startsWith("data:")),
        small: all("p, li, td, figcaption").filter(e => parseFloat(getComputedStyle(e).fontSize) < 12).length,
        folded: (all("details").forEach(e => e.open = false), d.documentElement.scrollHeight)
      })
    }""".replace("WIDTH", str(width))
    (tmp_path / "frame.html").write_text(
        '<!DOCTYPE html><meta charset="utf-8"><body style="margin: 0">'
        f'<iframe id="frame" width="{width}" height="900" style="border: 0" '
        f'srcdoc="{html.escape(source)}"></iframe><script>{probe}</script>',
        encoding="utf-8",
    )
    done = subprocess.run(
        [
            BROWSER,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            "--virtual-time-budget=20000",
            "--dump-dom",
            (tmp_path / "frame.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    seen = json.loads(html.unescape(re.search("<title>(.*?)</title>", done.stdout).group(1)))
    assert (
        seen["images"] > 20
        and seen["broken"] == 0
        and seen["outside"] == []
        and seen["width"] <= width
        and seen["requests"] == []
        and seen["small"] == 0
        and seen["broken_flags"] == 0 < seen["flags"]
        and seen["numbers"] == 0
        and seen["folded"] < (9000 if width > 1000 else 11_000)
    )
