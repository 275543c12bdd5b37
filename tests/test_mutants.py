"""The planted faults fit the source of today, and the command tells a caught one from a missed."""

from __future__ import annotations

import ast
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from actorbus.testing import SweepFailure
from tests.mutants.__main__ import main, told
from tests.mutants.fault import ROOT, Fault, StaleFaultError
from tests.mutants.faults import FAULTS
from tests.mutants.report import Took, by_models, caught_by
from tests.mutants.trial import Result, UnsoundError, Verdict, judge, try_all
from tests.mutants.witness import evidence
from tests.test_readme import names_in

DEEP = replace(
    next(fault for fault in FAULTS if fault.name == "deep-needs-a-segment"),
    tests=("tests/test_topic.py::test_matching_agrees_with_the_grammar",),
)


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
def test_a_fault_fits_the_source(fault: Fault) -> None:
    """Its old text occurs once, its new one makes another program, its tests exist."""
    source = (ROOT / fault.path).read_text()
    planted = fault.planted(source)
    assert ast.dump(ast.parse(planted)) != ast.dump(ast.parse(source))
    for test in fault.seen_by:
        file, _, name = test.partition("::")
        assert (ROOT / file).is_file(), test
        assert not name or name in names_in(ROOT / file), test


def test_the_faults_are_many_and_differ() -> None:
    """At least sixty, no two of one name or one change, ten or more left to the models alone."""
    assert len(FAULTS) >= 60
    assert max(Counter(fault.name for fault in FAULTS).values()) == 1
    assert (
        max(Counter((f.file, f.planted((ROOT / f.path).read_text())) for f in FAULTS).values()) == 1
    )
    assert sum(by_models(Verdict(fault, Result.CAUGHT, 0.0)) for fault in FAULTS) >= 10


@pytest.mark.parametrize("old", ["no such text", "self"], ids=["gone", "several times"])
def test_a_stale_fault_is_an_error(old: str) -> None:
    """A fault whose old text is not there exactly once is refused before anything runs."""
    stale = replace(DEEP, old=old)
    with pytest.raises(StaleFaultError, match="deep-needs-a-segment"):
        stale.planted((ROOT / stale.path).read_text())
    with pytest.raises(StaleFaultError):
        list(try_all([stale], 1))
    with pytest.raises(StaleFaultError, match="the old one"):
        replace(DEEP, new=DEEP.old).planted(DEEP.old)


@pytest.mark.slow
def test_one_is_caught_one_survives_and_one_is_broken() -> None:
    """In real runs: the evidence is the test's own, and what proves nothing counts as nothing."""
    harmless = replace(DEEP, name="harmless", new=f"{DEEP.old}  # and nothing else")
    broken = replace(DEEP, name="broken", new="return (")
    before = (ROOT / DEEP.path).read_text()
    found = {v.fault.name: v for v in try_all([DEEP, harmless, broken], 2)}
    caught = found[DEEP.name]
    assert caught.result is Result.CAUGHT
    assert caught.test == DEEP.tests[0]
    assert caught.line is not None
    assert caught.line.startswith("assert")
    assert caught.error is not None
    assert caught.examples is not None
    assert 1 <= caught.examples <= 200
    assert found["harmless"].result is Result.SURVIVED
    assert found["broken"].result is Result.BROKEN
    assert (ROOT / DEEP.path).read_text() == before


@pytest.mark.slow
def test_tests_that_fail_anyway_prove_nothing() -> None:
    """Tests that do not pass without a fault are an error, not a catch."""
    with pytest.raises(UnsoundError, match="no_such_test"):
        list(try_all([replace(DEEP, tests=("tests/test_topic.py::no_such_test",))], 1))


@pytest.mark.parametrize(
    ("code", "facts", "result"),
    [
        (0, {"test": "t", "failed": False}, Result.SURVIVED),
        (1, {"test": "t", "failed": True}, Result.CAUGHT),
        (None, {"test": "t", "failed": False}, Result.CAUGHT),  # stopped at the time limit
        (1, {"test": "t", "failed": False}, Result.CAUGHT),  # by the test's own
        (None, {}, Result.BROKEN),
        (2, {}, Result.BROKEN),  # no test could be collected
        (4, {}, Result.BROKEN),
        (3, {"test": "t", "failed": False}, Result.BROKEN),
    ],
)
def test_only_a_failed_or_a_hanging_test_catches(
    code: int | None, facts: dict[str, object], result: Result
) -> None:
    """A run that could not begin, or broke down, says nothing about the tests."""
    assert judge(code, "", dict(facts))["result"] is result


def test_what_hangs_is_caught_by_the_time_limit() -> None:
    """The report says so: it is the weakest evidence there is."""
    fields = judge(None, "", {"test": "tests/test_x.py::test_y", "failed": False})
    assert (
        caught_by(Verdict(DEEP, seconds=120.0, **fields)) == "test_x.py::test_y, at the time limit"
    )


def test_the_evidence_is_what_the_sweep_or_the_group_holds() -> None:
    """It is the innermost error that counts, and of a sweep its number of seeds."""

    def fails() -> None:
        assert not ROOT, "inside"

    try:
        fails()
    except AssertionError as error:
        inside = error
    sweep = SweepFailure(seed=7, policy="random", replay="", passed=6, what="")
    sweep.__cause__ = ExceptionGroup("several", [inside])
    found = evidence(sweep)
    assert (found["where"], found["examples"]) == ("fails", 7)
    assert found["line"] == 'assert not ROOT, "inside"'
    assert found["error"].startswith("AssertionError: inside")


SEEN = Verdict(
    DEEP, Result.CAUGHT, 1.25, "tests/properties/test_x.py::TestX::runTest", "an_invariant",
    "assert x", "AssertionError", 12,
)  # fmt: skip
MISSED = Verdict(replace(DEEP, name="missed"), Result.SURVIVED, 2.0)


def test_the_report_says_what_caught_it_and_what_nothing_caught(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Terminal, JSON and page name test, invariant and examples; a survivor is exit 1."""
    files = tmp_path / "a.json", tmp_path / "a.md"
    took = Took(seconds=3.0, processor=5.0)
    assert told([SEEN], took, *files) == 0
    assert told([SEEN, MISSED], took, *files) == 1
    out = capsys.readouterr().out
    assert "properties/test_x.py::TestX, an_invariant  12" in out
    assert f"survived: missed: {DEEP.breaks}" in out
    first, second = json.loads(files[0].read_text())["faults"]
    assert (first["result"], first["where"], first["examples"]) == ("caught", "an_invariant", 12)
    assert (second["result"], second["test"]) == ("survived", None)
    page = files[1].read_text()
    assert "| `properties/test_x.py::TestX`, `an_invariant` | 12 | 1.2 |" in page
    assert "python -m tests.mutants --markdown docs/mutants.md" in page
    assert "2 faults: 1 caught, 1 survived; 0 by models" in out
    assert "3 s in all, 5 s of processor time, the median fault 1.6 s" in out


def test_the_list_shows_every_fault(capsys: pytest.CaptureFixture[str]) -> None:
    """`--list` runs nothing; `--only` takes beginnings of names and refuses what there is not."""
    assert main(["--list"]) == 0
    listed = capsys.readouterr().out
    assert all(f"{fault.name} (" in listed for fault in FAULTS)
    assert main(["--list", "--only", "key-"]) == 0
    assert {line.split()[0][:4] for line in capsys.readouterr().out.splitlines()[::3]} == {"key-"}
    with pytest.raises(SystemExit):
        main(["--only", "nonsense"])
    assert "nonsense" in capsys.readouterr().err
