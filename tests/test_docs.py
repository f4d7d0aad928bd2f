"""The documents: short where they must be, links that lead somewhere, commands that exist."""

import ast
import importlib
import importlib.util
import json
import re
import shlex
import shutil
import textwrap
from itertools import pairwise, takewhile

import click
import pytest
from conftest import ROOT, stored_run
from test_architecture import ROOMS

from mlx_shakegpt.cli import app
from mlx_shakegpt.settings.presets import AUTO, PRESETS, RECIPES
from mlx_shakegpt.verification.summary import summary

README = ROOT / "README.md"
PAGES = sorted(
    page
    for pattern in ("*.md", "docs/*.md", "benchmarks/*.md", "data/*.md", "weights/*.md")
    for page in ROOT.glob(pattern)
)
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`python cli\.py ([a-z][^`]*)`")
LINK = re.compile(r'\]\(([^)\s]+)\)|(?:src|srcset|href)="([^"]+)"')
RUN = {"generate", "recite", "verify", "export", "plot", "completion"}  # what is run here
NAMES = {"preset": {*PRESETS, AUTO}, "recipe": set(RECIPES)}


def text_of(page):
    return page.read_text(encoding="utf-8")


def prose(page):
    """A page's text without its blocks of code."""
    return FENCE.sub("", text_of(page))


def blocks(*languages):
    """The code blocks in some languages, each with its page."""
    for page in PAGES:
        for language, code in FENCE.findall(text_of(page)):
            if language in languages:
                yield page, code


def anchors(page):
    """What GitHub lets a link lead to: a slug for each heading."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def shell_lines():
    """Every command line in the documents as words, each with its page."""
    for page, code in blocks("sh", "bash"):
        for line in code.replace("\\\n", " ").splitlines():
            lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
            lexer.whitespace_split, lexer.commenters = True, "#"
            words = list(lexer)
            yield page, words
            # What `eval "$(…)"` runs.
            for inner in re.findall(r"\$\((.+?)\)", " ".join(words)):
                yield page, shlex.split(inner)


def program_calls():
    """The arguments of each call of the program in the documents, with its page."""
    calls = []
    for page, words in shell_lines():
        start = next((i for i, word in enumerate(words) if is_program(word)), None)
        if start is not None:
            rest = takewhile(lambda word: not set(word) <= set("|&;<>"), words[start + 1 :])
            calls.append((page, list(rest)))
    for page in PAGES:
        spans = SPAN.findall(prose(page))
        calls += [(page, shlex.split(span)) for span in spans]
    return calls


def is_program(word):
    return word == "shakegpt" or word.endswith("cli.py")


def parse(arguments):
    """Parses a call as the program would, without any of the callbacks that act."""
    name, *rest = arguments
    if name.startswith("-"):
        app.make_parser(click.Context(app)).parse_args(arguments)
        return
    command = app.commands[name]
    context = click.Context(command, info_name=name)
    values, left, _ = command.make_parser(context).parse_args(rest)
    assert not left, f"{left} is left over"
    if "--help" in rest:
        return
    for parameter in command.params:
        value = values.get(parameter.name)
        has_value = isinstance(value, (str, bool, tuple, list)) and value not in ((), [])
        assert has_value or not parameter.required, f"{parameter.name} is missing"
        if has_value:
            parameter.type_cast_value(context, value)
        if has_value and parameter.name in NAMES:
            names = {value} if isinstance(value, str) else set(value)
            assert names <= NAMES[parameter.name], names


def test_the_readme_stays_short():
    text = text_of(README)
    assert len(text.splitlines()) <= 150
    assert len(text.split()) <= 1000


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for groups in LINK.findall(prose(page)):
        link = "".join(groups)
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link}: there is no {target}"
        if anchor:
            assert anchor in anchors(target), f"{link}: {target.name} has no such heading"


def test_every_page_is_linked_from_the_readme():
    linked = {path for groups in LINK.findall(text_of(README)) for path in groups}
    pages = {str(page.relative_to(ROOT)) for page in (ROOT / "docs").glob("*.md")}
    assert pages <= {link.partition("#")[0] for link in linked}


def test_the_tree_in_the_readme_is_the_packages():
    tree = text_of(README).partition("\nmlx_shakegpt/\n")[2].partition("\nbenchmarks/")[0]
    assert [line.split()[0] for line in tree.splitlines()] == [
        f"{room}/" if (ROOT / "mlx_shakegpt" / room).is_dir() else f"{room}.py" for room in ROOMS
    ]


def test_commands_in_the_documents_parse():
    calls = program_calls()
    assert len(calls) > 50
    for page, arguments in calls:
        try:
            parse(arguments)
        except (click.ClickException, KeyError, AssertionError) as error:
            pytest.fail(f"{page.relative_to(ROOT)}: {' '.join(arguments)}: {error}")


def test_a_wrong_command_in_a_document_would_be_noticed():
    for wrong in ("trian", "train --epoch-s 3", "train --steps many", "generate", "info now",
                  "train --recipe soup", "export --to", "recite --on-error shrug"):  # fmt: skip
        with pytest.raises((click.ClickException, KeyError, AssertionError)):
            parse(wrong.split())


def test_commands_that_cost_little_run(shakegpt):
    cheap = {
        tuple(arguments)
        for _, arguments in program_calls()
        if arguments in (["info", "--json"], ["data"]) or "--help" in arguments
    }
    assert ("info", "--json") in cheap and ("--help",) in cheap
    for arguments in cheap:
        result = shakegpt(*arguments)
        assert result.code == 0 and result.out, result.err
    assert "presets" in shakegpt("info", "--json").json()


def test_commands_on_a_run_do_what_the_documents_have_them_do(shakegpt, home, monkeypatch):
    runs = {"poem", "other", "quick"}  # in the documents; here all are the golden one
    for name in runs:
        stored_run(home, name)
    shutil.copy(home / "sonnets.txt", home / "poem.txt")
    monkeypatch.chdir(home)
    done = set()
    for page, arguments in program_calls():
        name, *rest = arguments
        named = {value for flag, value in pairwise(arguments) if flag == "--run"}
        # The golden run is too narrow to be quantised, and older than the losses that a film shows.
        odd = {"--quantize", "--film"} & set(rest)
        if name not in RUN or not named <= runs or odd or (*arguments,) in done:
            continue
        for flag, value in pairwise(arguments):
            if flag == "--to":  # which another line may have made
                shutil.rmtree(home / value, ignore_errors=True)
        result = shakegpt(*arguments)
        assert result.code == 0, f"{page.name}: {' '.join(arguments)}: {result.err}"
        done.add((*arguments,))
    assert {name for name, *_ in done} == RUN and len(done) > 15


@pytest.mark.parametrize("table", [PRESETS, RECIPES], ids=["presets", "recipes"])
def test_every_preset_and_recipe_has_its_row(table):
    rows = re.findall(r"^\| `([\w-]+)`", text_of(ROOT / "docs" / "training.md"), re.MULTILINE)
    assert set(table) <= set(rows)


def test_scripts_and_make_targets_in_the_documents_exist():
    targets = set(re.findall(r"^([\w-]+):", text_of(ROOT / "Makefile"), re.MULTILINE))
    for page in PAGES:
        for script in re.findall(r"python ((?:\w+/)+\w+\.py)", text_of(page)):
            assert (ROOT / script).exists(), f"{page.name} names {script}"
    for page, words in shell_lines():
        if "make" in words:
            named = [word for word in words[words.index("make") + 1 :] if "=" not in word]
            assert set(named) <= targets, f"{page.name}: {words}"


def benchmark_calls():
    """Each benchmark that the documents call, by its page and name, with its arguments, if any."""
    for page in PAGES:
        code = [line for _, block in FENCE.findall(text_of(page)) for line in block.splitlines()]
        spans = re.findall(r"`(python benchmarks/[^`]*)`", prose(page))
        for line in [*code, *(span.replace("\n", " ") for span in spans)]:
            if found := re.search(r"python benchmarks/(\w+)\.py([^#]*)", line):
                yield page, found[1], shlex.split(found[2])


def test_options_of_benchmarks_in_the_documents_exist():
    parsed = set()
    for page, name, arguments in benchmark_calls():
        if importlib.util.find_spec(name) is None or name == "llama_cpp":
            continue  # which needs a package of its own
        command = getattr(importlib.import_module(name), "main", None)
        if not isinstance(command, click.Command):
            continue
        try:
            values, _, _ = command.make_parser(click.Context(command)).parse_args(arguments)
            for parameter in command.params:
                value, path = values.get(parameter.name), isinstance(parameter.type, click.Path)
                if isinstance(value, (str, tuple)) and not path:
                    parameter.type_cast_value(click.Context(command), value)
        except click.ClickException as error:
            pytest.fail(f"{page.name}: {name} {arguments}: {error}")
        parsed.add(name)
    assert len(parsed) > 15


def test_blocks_of_code_stand_on_lines_of_their_own():
    for page in PAGES:
        marks = [line.strip() for line in text_of(page).splitlines() if "```" in line]
        assert all(re.fullmatch(r"```\w*", mark) for mark in marks), page
        assert len(marks) % 2 == 0, page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lists_count_from_one(page):
    """A sentence's number at a line's beginning would be shown as a list of its own."""
    numbers = [int(n) for n in re.findall(r"^ *(\d+)[.)] ", prose(page), re.MULTILINE)]
    assert all(n in (1, before + 1) for before, n in pairwise([0, *numbers]))


def test_python_in_the_documents_compiles_and_imports_what_there_is():
    for page, code in blocks("python"):
        for node in ast.walk(ast.parse(textwrap.dedent(code), page.name)):
            if isinstance(node, ast.ImportFrom) and not node.level:
                module = importlib.import_module(node.module)
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{page.name}: no {alias.name}"


def test_the_page_of_commands_is_what_help_says():
    spec = importlib.util.spec_from_file_location("commands", ROOT / "docs" / "commands.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert text_of(module.PAGE) == module.page(), "run: python docs/commands.py"


@pytest.mark.parametrize("folder", ["quick", "evidence/124m-whole"])
@pytest.mark.parametrize("page", [README, ROOT / "docs" / "results.md"], ids=lambda p: p.name)
def test_the_figures_of_certified_runs_are_those_of_their_certificates(page, folder):
    evidence = ROOT / "benchmarks" / folder
    certificate = json.loads(text_of(evidence / "certificate.json"))
    assert certificate["certified"]
    rows = text_of(page)
    assert f"{certificate['nll']:.4f} nats per token" in rows
    for rate in certificate["extraction"]:
        assert f"{rate['rate']:.4f} of {rate['offsets']:,}" in rows
    last = json.loads(text_of(evidence / "metrics.jsonl").splitlines()[-1])
    assert re.search(rf"\b{last['step']}\b", rows)


@pytest.mark.parametrize("folder", ["6x384", "quick-8192", "124m-50000"])
def test_the_rates_of_other_certified_runs_are_those_of_their_certificates(folder):
    evidence = ROOT / "benchmarks" / "evidence" / folder
    certificate = json.loads(text_of(evidence / "certificate.json"))
    sections = text_of(ROOT / "docs" / "results.md").split("\n## ")
    (section,) = [s for s in sections if f"(../benchmarks/evidence/{folder})" in s]
    assert certificate["certified"] and f"{certificate['nll']:.2g}" in section
    for rate in certificate["extraction"]:
        assert f"{rate['rate']:.4f}; " in section and f"{rate['offsets']:,} offsets" in section
        assert f"{rate['low']:.4f} to {rate['high']:.4f}" in section
    steps = [line for line in text_of(evidence / "metrics.jsonl").splitlines() if '"loss"' in line]
    assert f" {json.loads(steps[-1])['step']}, " in section


def test_the_guide_shows_what_verify_printed_of_the_published_run():
    certificate = json.loads(text_of(ROOT / "benchmarks" / "quick" / "certificate.json"))
    assert f"```text\n{summary(certificate)}\n```" in text_of(ROOT / "docs" / "guide.md")
