"""The README is true: its programs run, its outputs are what they print, its tests exist."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sybil import Document, Example, Sybil
from sybil.parsers.markdown import CodeBlockParser

from actorbus.metrics.families import described
from tests.test_testing_plugin import INSTALLED

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
TEST_README = ROOT / "tests" / "README.md"
JOURNAL = ROOT / "docs" / "journal.md"
COMMANDS = (
    'python -m pip install -e ".[all]" && python -m actorbus demo',
    'python -m pip install -e ".[all,test]" && python -m pytest',
)


class Snippets:
    """Runs the python blocks, each in a fresh namespace, and compares the text blocks.

    A block may use ``await`` at its top level: it is run as the body of a coroutine.
    """

    def __init__(self) -> None:
        self.run = 0
        self.printed = ""

    def python(self, example: Example) -> None:
        """Run one block on a loop of its own."""
        source = "\n" * (example.line + example.parsed.line_offset) + example.parsed
        code = compile(source, str(README), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        names: dict[str, Any] = {"__name__": "__main__"}
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            if code.co_flags & inspect.CO_COROUTINE:
                with asyncio.Runner() as runner:
                    runner.run(_execute(code, names))
            else:
                exec(code, names)  # noqa: S102 our own README
        self.printed = out.getvalue()
        self.run += 1

    def text(self, example: Example) -> None:
        """Compare a block with what the block above it has printed."""
        assert self.printed.splitlines() == example.parsed.splitlines()
        self.printed = ""


async def _execute(code: Any, names: dict[str, Any]) -> None:
    await eval(code, names)  # noqa: S307 our own README


def parse(path: Path, snippets: Snippets) -> Document:
    """Return the document with its python and text blocks as examples."""
    parsers = [
        CodeBlockParser("python", snippets.python),
        CodeBlockParser("text", snippets.text),
    ]
    return Sybil(parsers, path=str(path.parent), pattern=path.name).parse(path)


def blocks(language: str) -> list[str]:
    """Return the README's blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README.read_text(), re.DOTALL | re.MULTILINE)


def names_in(path: Path) -> set[str]:
    """Return the names of the tests a file defines, those of classes as ``Class::name``.

    A class that inherits all its tests stands for them.
    """
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef) and node.name.startswith("Test") and node.bases:
            found.add(node.name)
        inner = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}::" if isinstance(node, ast.ClassDef) else ""
        for each in inner:
            match each:
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                    found.add(prefix + name)
                case ast.Assign(targets=[ast.Name(id=name)]):  # a state machine's TestCase
                    found.add(name)
    return found


def named_tests(text: str) -> list[tuple[str, str]]:
    """Return every ``file::test`` a text names, as (path below tests/, name)."""
    return re.findall(r"`(?:tests/)?((?:\w+/)*test_\w+\.py)::([\w:]+)`", text)


def missing(text: str) -> list[str]:
    """Return the tests a text names that do not exist."""
    wrong = []
    for file, name in named_tests(text):
        path = ROOT / "tests" / file
        if not path.is_file() or name not in names_in(path):
            wrong.append(f"{file}::{name}")
    return wrong


def rows(text: str, heading: str) -> list[list[str]]:
    """Return the cells of the first table below a heading, without its head."""
    section = text.partition(f"\n{heading}\n")[2]
    lines = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)
    assert lines is not None, f"no table below {heading!r}"
    table = [line.strip("|").split("|") for line in lines.group().splitlines()]
    return [[cell.strip() for cell in line] for line in table[2:]]


def anchors(path: Path) -> set[str]:
    """Return what links may name of a page: its headings, written as GitHub does."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", each).lower().replace(" ", "-") for each in headings}


def test_every_snippet_runs_and_prints_what_is_shown() -> None:
    """Every python block runs by itself, and the text block below it is its output."""
    snippets = Snippets()
    examples = list(parse(README, snippets).examples())

    for example in examples:
        example.evaluate()

    assert snippets.run == len(blocks("python"))
    assert len(examples) == len(blocks("python")) + len(blocks("text"))


def test_the_test_in_the_readme_passes(pytester: pytest.Pytester) -> None:
    """The test that is shown passes in a pytest of its own, and takes no 30 seconds."""
    [code] = [block for block in blocks("python") if block.startswith("# test_billing.py\n")]
    pytester.makepyfile(test_billing=code)
    plugin = [] if INSTALLED else ["-p", "actorbus.testing.plugin"]

    result = pytester.runpytest_inprocess("--strict-markers", "-p", "no:asyncio", *plugin)

    result.assert_outcomes(passed=1)


def test_the_first_program_is_short_and_prints_what_is_shown(tmp_path: Path) -> None:
    """The README's first program has at most 20 lines and prints exactly the block below it."""
    program, output = blocks("python")[0], blocks("text")[0]
    file = tmp_path / "first.py"
    file.write_text(program)

    ran = subprocess.run([sys.executable, file], capture_output=True, text=True, timeout=30)

    assert len(program.splitlines()) <= 20
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == output


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_stand_in_the_readme_and_are_run(command: str) -> None:
    """What a newcomer is told to type stands in the README and is what `.ci/run` runs."""
    ci = re.sub(r" -q\b", "", (ROOT / ".ci" / "run").read_text())

    assert command in [line for block in blocks("console") for line in block.splitlines()]
    assert command in ci


def test_every_guarantee_has_a_test() -> None:
    """Every row of the table of guarantees names a test, and every test named exists."""
    table = rows(README.read_text(), "## What it guarantees")

    assert table
    assert [row[0] for row in table if not named_tests(row[-1])] == []
    assert missing(README.read_text()) == []


def test_every_clause_of_the_promise_has_a_test() -> None:
    """So has every row of the promise of a bus with a journal."""
    table = rows(README.read_text(), "#### The promise")

    assert table
    assert [row[0] for row in table if not named_tests(row[-1])] == []


def test_every_metric_that_is_named_exists() -> None:
    """Names in the README and in the alerts are those of a scrape, of which none is left out."""
    text = README.read_text() + JOURNAL.read_text()
    named = set(re.findall(r"\bactorbus_(?!options)(\w+)|`(journal_\w+)`", text))
    exported = {family.name.removeprefix("actorbus_") for family in described()}
    names = {re.sub("_(total|bucket)$", "", first or second) for first, second in named}

    assert names <= exported
    assert {name for name in exported if name.startswith("journal_")} <= names


def test_every_clause_has_a_test() -> None:
    """Every row of the table of clauses in tests/README.md names a test, and all of them exist."""
    text = TEST_README.read_text()
    table = rows(text, "## Which test checks which clause")

    assert table
    assert [row[0] for row in table if not named_tests(row[-1])] == []
    assert missing(text) == []


def test_every_link_leads_somewhere() -> None:
    """Every relative link of a page is a file of this tree, and a heading in it."""
    for path in (README, TEST_README, ROOT / "examples" / "README.md", *ROOT.glob("docs/*.md")):
        for link, heading in re.findall(r"\]\(([^)#:]*)#?([^):]*)\)", path.read_text()):
            page = path.parent / link if link else path

            assert page.exists(), f"{path.name}: {link}"
            assert not heading or heading in anchors(page), f"{path.name}: {link}#{heading}"
