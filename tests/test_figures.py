"""docs/reliability.md is true: its figures are those of the reports, its program runs."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests import figures
from tests.figures import PAGE, load, rewrite, save
from tests.test_readme import README, Snippets, parse, rows

NAMES = ("sweep", "soak", "examples")


def reports() -> dict[str, Any]:
    """Return the committed reports."""
    return {name: copy.deepcopy(load(name)) for name in NAMES}


def test_the_figures_are_those_of_the_committed_reports() -> None:
    """Made again from the JSON beside it, the page is the same text."""
    text = PAGE.read_text(encoding="utf-8")

    assert rewrite(text, **reports()) == text


def test_another_report_makes_another_page() -> None:
    """Each of the reports stands in the page."""
    text = PAGE.read_text(encoding="utf-8")
    for name, part in (("sweep", "runs"), ("soak", "seconds"), ("examples", "examples")):
        others = reports()
        others[name][part] += 60

        assert rewrite(text, **others) != text


@pytest.mark.parametrize(("name", "part"), [("sweep", "failures"), ("soak", "faults")])
def test_what_has_failed_is_no_figure(name: str, part: str) -> None:
    """A report with failures is refused, and so is a page without the marks."""
    others = reports()
    others[name][part] = ["wrong"]

    with pytest.raises(ValueError, match="failed"):
        rewrite(PAGE.read_text(encoding="utf-8"), **others)
    with pytest.raises(ValueError, match="marks"):
        rewrite("nothing", **reports())


def test_the_committed_reports_are_what_was_promised() -> None:
    """At least 50,000 runs of at least ten scenarios, and half an hour of soak, judged."""
    found = reports()

    assert found["sweep"]["runs"] >= 50_000
    assert len(found["sweep"]["scenarios"]) >= 10
    assert found["soak"]["seconds"] >= 1800
    assert found["soak"]["judged"]
    for report in found.values():
        assert not report["commit"]["changed"]


def counts(cells: Iterable[str]) -> set[tuple[int, ...]]:
    """Return the figures of a column, of each cell and of each two that follow one another."""
    of = [[int(n.replace(",", "")) for n in re.findall(r"\d[\d,]*", each)] for each in cells]
    sums = [[*map(sum, zip(*two, strict=False))] for two in pairwise(of)]
    return {tuple(each) for each in (*of, *sums)}


def test_the_figures_of_the_readme_are_those_of_the_page() -> None:
    """How often a promise was tried is said with details here, and in short there."""
    page, readme = PAGE.read_text(encoding="utf-8"), README.read_text(encoding="utf-8")
    known = counts(row[1] for row in rows(page, "## A bus with a journal"))
    tried = [row[1].partition(":")[0] for row in rows(readme, "#### The promise")]
    inbox = counts(row[1] for row in rows(page, "## Effectively once"))
    in_short = re.search(r"^Of .* acknowledged,", readme, re.MULTILINE)

    figures = [each for each in tried if re.search(r"\d", each)]
    assert len(figures) >= 5
    assert [each for each in figures if not counts([each]) <= known] == []
    assert in_short is not None
    assert counts([in_short.group()]) <= inbox


def test_every_command_of_the_page_exists() -> None:
    """What is to be typed is a module of this tree."""
    named = set(re.findall(r"python -m (tests\.\w+)", PAGE.read_text(encoding="utf-8")))

    assert named >= {"tests.sweep", "tests.soak", "tests.examples"}
    for module in named - {"tests.mutants"}:
        assert find_spec(module) is not None


def test_the_program_of_the_page_runs_and_prints_what_is_shown() -> None:
    """Its block of text is the output of its block of Python."""
    snippets = Snippets()

    for example in parse(PAGE, snippets).examples():
        example.evaluate()

    assert snippets.run == 1
    assert snippets.printed == ""


def test_a_report_is_saved_so_that_it_can_be_compared(tmp_path: Path) -> None:
    """Lists of numbers take one line, and nothing is lost."""
    report = {"a": {"b": [1, 2.5, 3]}, "c": [{"d": "…"}], "e": []}

    save(report, tmp_path / "report.json")

    text = (tmp_path / "report.json").read_text(encoding="utf-8")
    assert json.loads(text) == report
    assert '"b": [ 1, 2.5, 3 ]' in text


def test_spans_are_told_in_a_unit_that_suits() -> None:
    """Seconds, minutes, hours, days."""
    spans = [figures._span(each) for each in (1.0, 150.0, 9000.0, 1e6)]

    assert spans == ["1.0 s", "2.5 minutes", "2.5 hours", "11.6 days"]
