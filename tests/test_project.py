"""Rules of the project that a machine can check: width, format, size, parameters, imports, links of pages."""

import ast
import importlib
import re
import shutil
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WIDTH = 110
README_BYTES = 9_000
# Of common/; of common/, figures/ and the scripts together.
COMMON_TOKENS, ALL_TOKENS = 54_610, 87_900
PARAMETERS = 6
NO_TOKENS = {
    getattr(tokenize, name) for name in "COMMENT NL NEWLINE INDENT DEDENT ENCODING ENDMARKER".split()
}


SCRIPTS = sorted(ROOT.glob("*.py"))
COMMON, FIGURES = (sorted((ROOT / name).rglob("*.py")) for name in ("common", "figures"))
CHECKS = sorted([*(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")])
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def name_of(path):
    return str(path.relative_to(ROOT))


CODE = ["common", "figures", *map(name_of, SCRIPTS)]


def listed(findings):
    """What an assertion shows: one finding a line."""
    return "\n" + "\n".join(findings)


def ruff(*words):
    command = [sys.executable, "-m", "ruff", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_every_file_is_as_ruff_formats_it():
    done = ruff("format", "--check", "tests", "benchmarks", *CODE)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_function_has_many_parameters():
    """But score_weights, which takes every quantity that a criterion may look at."""
    limit = f"lint.pylint.max-args={PARAMETERS}"
    done = ruff("check", "--select", "PLR0913", "--config", limit, "--output-format", "concise", *CODE)
    assert re.findall(r"^(\S+py):", done.stdout, re.MULTILINE) == ["common/pruning.py"], done.stdout


def wide_lines(path):
    lines = path.read_text().splitlines()
    return [
        f"{name_of(path)}:{number}: {len(line)} columns"
        for number, line in enumerate(lines, 1)
        if len(line) > WIDTH and not (path.suffix == ".md" and line.startswith("|"))
    ]


def test_no_line_is_wider_than_the_page():
    shell = [*ROOT.glob("*.sh"), ROOT / ".ci/run"]
    paths = [*SCRIPTS, *COMMON, *FIGURES, *CHECKS, *PAGES, *shell]
    wide = [line for path in paths for line in wide_lines(path)]
    assert not wide, listed(wide)


def tokens(path):
    """How many tokens a file has for Python, without comments, line ends and indents; a docstring is one."""
    count, nested = 0, 0
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            kind = tokenize.tok_name[token.type]
            # From Python 3.12 on an f-string is many tokens: here it is one, as before.
            nested -= kind == "FSTRING_END"
            count += token.type not in NO_TOKENS and not nested and kind != "FSTRING_END"
            nested += kind == "FSTRING_START"
    return count


def test_the_project_is_small():
    common = sum(map(tokens, COMMON))
    everything = common + sum(map(tokens, [*FIGURES, *SCRIPTS]))
    assert common <= COMMON_TOKENS and everything <= ALL_TOKENS, f"{common} in common/, {everything} in all"


def imported(path):
    """Names of the modules that a file imports, in functions too."""
    waiting, names = [ast.parse(path.read_text())], set()
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
        waiting.extend(ast.iter_child_nodes(node))
    return names


def test_the_report_is_imported_without_torch():
    modules = [name_of(path).removesuffix(".py").replace("/", ".") for path in FIGURES]
    code = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "figures.make_figures" in done.stdout.split() and "torch" not in done.stdout.split()


def cycle(imports):
    """A module's name that imports itself by way of others, and these; None where there is none."""

    def reach(name, way):
        for other in imports.get(name, ()):
            if other == way[0]:
                return way
            if other not in way and (found := reach(other, [*way, other])):
                return found
        return None

    return next(filter(None, (reach(name, [name]) for name in imports)), None)


def test_no_module_imports_itself_by_way_of_others():
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"] and not cycle({"a": {"b"}, "b": ()})
    modules = {name_of(path).removesuffix(".py").replace("/", "."): path for path in COMMON}
    imports = {name: imported(path) & modules.keys() for name, path in modules.items()}
    assert not cycle(imports)


def prose(page):
    """The text of a page without its code blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(page):
    """What a link to a heading of this page may end with."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead_links(page):
    dead = []
    for link in re.findall(r"\]\(([^)]+)\)", prose(page)):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if re.match(r"\w+:", link):
            continue
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(link)
    return dead


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_and_picture_of_a_page_is_there(page):
    assert not dead_links(page)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_file_of_this_project_that_a_page_names_is_there(page):
    named = re.findall(r"\b(?:common|figures|tests|benchmarks|docs)/[\w/.-]*\.\w+", page.read_text())
    missing = sorted({path for path in named if not (ROOT / path).exists()})
    assert not missing, listed(missing)


# Flags of other programs that the pages name: torchrun, sbatch.
OTHER_FLAGS = {"nproc_per_node", "nnodes", "rdzv_backend", "rdzv_endpoint", "array", "gres", "wrap"}
OTHER_FLAGS |= {"time", "requeue", "open", "signal"}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_flag_that_a_page_names_is_one(page):
    parsers = [importlib.import_module(path.stem).build_parser() for path in SCRIPTS]
    flags = {flag.removeprefix("--") for parser in parsers for flag in parser._option_string_actions}
    tools = [path for path in CHECKS if not path.name.startswith("test_")]
    for path in [*FIGURES, *tools, ROOT / "common/cli.py", ROOT / "setup.sh"]:
        flags |= set(re.findall(r"--([a-z]\w*)", path.read_text()))
    named = set(re.findall(r"--([a-z]\w*)", page.read_text())) - OTHER_FLAGS - {"no"}  # --no-debug
    assert not named - flags, listed(sorted(named - flags))


# What bash makes of a block of commands: the words of every call, with loops and variables put in.
RECORD = 'python() { printf "%s\\0" "$@"; printf "\\0"; }\n'
WITH_EXAMPLES = [
    *PAGES,
    *SCRIPTS,
    *(ROOT / f"figures/{name}.py" for name in ("make_figures", "compare_predictions")),
]


def blocks(path):
    """Blocks of commands: of a page, those that are fenced and those in tables; of a script, its examples."""
    text = path.read_text()
    if path.suffix == ".py":
        return ["\n".join(re.findall(r"^    (.*)", ast.get_docstring(ast.parse(text)), re.MULTILINE))]
    fenced = re.findall(r"^```\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [*fenced, *re.findall(r"^\|.*`(python \S+\.py[^`]*)`", text, re.MULTILINE)]


def commands(path, before=""):
    """The words of every call of python in the blocks of a file."""
    called = []
    for block in blocks(path):
        # Nothing but what is recorded can run: there is no PATH.
        shell = [shutil.which("bash"), "-c", f"{before}{RECORD}{block}"]
        done = subprocess.run(shell, env={"PATH": ""}, capture_output=True, text=True, check=False)
        called += [call.split("\0") for call in done.stdout.split("\0\0") if call]
    return called


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=name_of)
def test_every_command_can_be_pasted_into_bash_and_zsh_and_is_understood(path):
    called = commands(path)
    assert called or path.suffix == ".md"
    assert called == commands(path, "IFS=\n"), "zsh does not split what a variable holds into words"
    for script, *flags in called:
        module = Path(script).with_suffix("").as_posix().replace("/", ".")
        if ROOT / script in [*SCRIPTS, *FIGURES]:
            importlib.import_module(module).build_parser().parse_args(flags)


def test_commands_are_seen_as_bash_gives_them(tmp_path):
    page = tmp_path / "page.md"
    block = 'flags=(--data_dir "a b")\nfor x in sup clr; do\npython ${x}_training.py "${flags[@]}"\ndone\n'
    page.write_text(f"```\n{block}```\n| cell | `python sup_training.py` |\n")
    expected = [*([f"{x}_training.py", "--data_dir", "a b"] for x in ("sup", "clr")), ["sup_training.py"]]
    assert commands(page) == expected == commands(page, "IFS=\n")
    page.write_text("```\nflags='--epochs 3'\npython sup_training.py $flags\n```\n")
    assert commands(page) != commands(page, "IFS=\n")


def test_every_page_is_in_the_map_and_the_first_page_is_short():
    front = ROOT / "README.md"
    assert len(front.read_bytes()) <= README_BYTES
    assert all(f"]({name_of(page)})" in front.read_text() for page in PAGES[1:])
