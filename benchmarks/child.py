"""One case in a process of its own: measure, print JSON, end.

Whatever a contender prints or logs goes to standard error; standard output holds one JSON object.
A contender that fails is an answer too: the error is in the JSON and the exit code is 0.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
import warnings
from typing import Any

from benchmarks.case import Case, Effort, Figure
from benchmarks.questions import all_cases


async def measure(case: Case, effort: Effort, peer: str | None) -> list[Figure]:
    """Return the figures of actorbus, or of one peer."""
    if peer is None:
        return list(await case.measure(effort))
    if case.peer is None:
        raise ValueError(f"no peer can answer {case.name}")
    return list(await case.peer(effort, peer))


def answer(case: Case, effort: Effort, peer: str | None) -> dict[str, Any]:
    """Run one case and return what came out as plain data."""
    began = time.perf_counter()
    result: dict[str, Any] = {"case": case.name, "subject": peer or "actorbus", "error": None}
    try:
        figures = asyncio.run(measure(case, effort, peer))
    except Exception as error:  # noqa: BLE001 a peer that fails is a result
        result["error"], figures = f"{type(error).__name__}: {error}", []
    if not effort.quick:
        for figure in figures:
            figure.judge()
    result["figures"] = [figure.to_json() for figure in figures]
    result["seconds"] = time.perf_counter() - began
    return result


def main() -> None:
    """Run the case named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.child")
    parser.add_argument("case")
    parser.add_argument("--peer")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    cases = {case.name: case for case in all_cases()}
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")  # peers use what newer Pythons deprecate
    effort = Effort.brief() if given.quick else Effort()
    with output:
        json.dump(answer(cases[given.case], effort, given.peer), output)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # a peer's threads must not hold the process


if __name__ == "__main__":
    main()
