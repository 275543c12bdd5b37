"""Report: what caught which fault, for a terminal, as JSON and as Markdown."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from statistics import median
from typing import Any, NamedTuple, TextIO

from tests.mutants.fault import MODELS
from tests.mutants.trial import HANGS, Result, Verdict

WIDTH = 24  # characters of the bar
MACHINE = "::runTest"  # how pytest calls what a state machine does


class Took(NamedTuple):
    """What all trials took, the tests without a fault included.

    Attributes:
        seconds: From begin to end.
        processor: Seconds of processor time, which a busy machine does not change much.
    """

    seconds: float
    processor: float


class Bar:
    """How far the trials have come: each verdict on a line, on a terminal a bar below them.

    Args:
        total: Faults.
        stream: Where.
    """

    def __init__(self, total: int, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._total = total
        self._done = 0
        self._write("first the tests without any fault\n")

    def step(self, verdict: Verdict) -> None:
        """Show one more verdict."""
        self._done += 1
        self._write(f"{verdict.result:<9}{verdict.fault.name}: {caught_by(verdict)}\n")

    def end(self) -> None:
        """Take the bar away."""
        self._total = 0
        self._write("")

    def _write(self, line: str) -> None:
        clear = bar = ""
        if self._stream.isatty():
            clear = "\r\x1b[K"
            if self._total:
                full = WIDTH * self._done // self._total
                bar = f"[{'#' * full}{'.' * (WIDTH - full)}] {self._done}/{self._total} faults"
        self._stream.write(f"{clear}{line}{bar}")
        self._stream.flush()


def caught_by(verdict: Verdict) -> str:
    """Return the test that saw a fault, without its parameters; of a machine the invariant."""
    if verdict.test is None:
        return "nothing" if verdict.result is Result.SURVIVED else "the run itself"
    test = verdict.test.removeprefix("tests/").partition("[")[0]
    if test.endswith(MACHINE) and verdict.where is not None:
        return f"{test.removesuffix(MACHINE)}, {verdict.where}"
    return f"{test}, {HANGS}" if verdict.error == HANGS else test


def examples(verdict: Verdict) -> str:
    """Return how many runs of the test it took."""
    if verdict.result is not Result.CAUGHT:
        return "-"
    return "1 test" if verdict.examples is None else str(verdict.examples)


def by_models(verdict: Verdict) -> bool:
    """Return whether only tests were run that know no single fault."""
    files = {test.partition("::")[0] for test in verdict.fault.seen_by}
    return verdict.result is Result.CAUGHT and files <= {*MODELS}


def summary(verdicts: Sequence[Verdict], took: Took) -> str:
    """Return the result of all trials in a few words.

    Args:
        verdicts: Of every fault.
        took: What it took in all.
    """
    counts = Counter(verdict.result for verdict in verdicts)
    parts = [f"{counts[result]} {result}" for result in Result if counts[result]]
    alone = sum(map(by_models, verdicts))
    typical = median(verdict.seconds for verdict in verdicts)
    return (
        f"{len(verdicts)} faults: {', '.join(parts)}; {alone} by models and simulations alone; "
        f"{took.seconds:.0f} s in all, {took.processor:.0f} s of processor time, "
        f"the median fault {typical:.1f} s"
    )


def table(verdicts: Sequence[Verdict]) -> str:
    """Return the table for a terminal."""
    head = ("fault", "caught by", "examples", "s", "what it breaks")
    rows = [head] + [
        (v.fault.name, caught_by(v), examples(v), f"{v.seconds:.1f}", v.fault.breaks)
        for v in verdicts
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    return "\n".join(
        "  ".join(
            [*(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)), row[-1]]
        )
        for row in rows
    )


def as_json(verdicts: Sequence[Verdict], took: Took) -> str:
    """Return everything there is to know, as JSON."""
    faults = [_plain(verdict) for verdict in verdicts]
    return json.dumps({**took._asdict(), "faults": faults}, indent=1) + "\n"


def _plain(verdict: Verdict) -> dict[str, Any]:
    fields = asdict(verdict)
    fault = fields.pop("fault")
    return {**fault, "tests": verdict.fault.seen_by, **fields, "seconds": round(verdict.seconds, 1)}


def as_markdown(verdicts: Sequence[Verdict], took: Took) -> str:
    """Return a page with the table."""
    lines = [
        "# The tests can fail",
        "",
        "Each row is a fault planted in a copy of actorbus, and what caught it: the test, and the",
        "invariant where the test is a state machine. *Examples* is how many examples Hypothesis,",
        "or how many seeds a sweep, had run when the first one failed. Made by:",
        "",
        "    python -m tests.mutants --markdown docs/mutants.md",
        "",
        summary(verdicts, took) + ".",
        "",
        "| what it breaks | in | caught by | examples | s |",
        "|---|---|---|--:|--:|",
    ]
    lines += [
        f"| {v.fault.breaks} | `{v.fault.file}` | {_code(caught_by(v))} "
        f"| {examples(v)} | {v.seconds:.1f} |"
        for v in verdicts
    ]
    return "\n".join(lines) + "\n"


def _code(text: str) -> str:
    test, comma, where = text.partition(", ")
    return f"`{test}`{comma}" + (f"`{where}`" if comma else "")
