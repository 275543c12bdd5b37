"""``python -m tests.sweep``: run them, show what they came to; exit 1 if one failed."""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from time import monotonic
from typing import Any

from actorbus.testing import simulate
from tests.figures import save, where
from tests.sweep.runs import MAX_STEPS, Lot, Result, lots, run, up_to
from tests.sweep.scenarios import SCENARIOS

Results = dict[str, Result]


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.sweep", description=__doc__)
    parser.add_argument("--runs", type=int, default=50_000)
    parser.add_argument("--seconds", type=float, help="go on for so long, instead of --runs")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, metavar="NAME")
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="the first seed")
    parser.add_argument("--seed", type=int, help="run this one alone, in this process")
    parser.add_argument("--policy", default="random", help="of that one: random, pct or fifo")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    options = parser.parse_args(arguments)
    names = options.only or list(SCENARIOS)
    if options.seed is not None:
        for name in names:
            simulate(SCENARIOS[name], seed=options.seed, policy=options.policy, max_steps=MAX_STEPS)
            print(f"{name} passes with seed {options.seed} under {options.policy}")
        return 0
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
    began = monotonic()
    results: Results = {}
    endless = lots(names, options.first)
    if options.seconds is None:
        wanted, total = up_to(options.runs, endless), options.runs
    else:
        until = began + options.seconds
        wanted, total = itertools.takewhile(lambda _: monotonic() < until, endless), None
    for name, result in done(wanted, options.jobs):
        results.setdefault(name, Result()).add(result)
        tell(results, total, monotonic() - began)
    report = {**where(), "jobs": options.jobs, **figures(results, monotonic() - began)}
    show(report)
    if options.json:
        save(report, options.json)
    return 1 if report["failures"] else 0


def done(wanted: Iterable[Lot], jobs: int) -> Iterator[tuple[str, Result]]:
    """Run lots in so many processes, or in this one; return what they came to as they end."""
    if jobs < 2:
        yield from map(run, wanted)
        return
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        running: set[Future[tuple[str, Result]]] = set()
        for lot in wanted:
            running.add(pool.submit(run, lot))
            if len(running) > 2 * jobs:
                ended, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (each.result() for each in ended)
        yield from (each.result() for each in running)


def figures(results: Results, seconds: float) -> dict[str, Any]:
    """Return what the runs came to, together and by scenario."""
    together = Result()
    for each in results.values():
        together.add(each)
    return {
        "seconds": round(seconds, 1),
        "cpu_seconds": round(sum(os.times()[:4]), 1),  # of the processes that have ended, too
        **asdict(together),
        "scenarios": {name: asdict(each) for name, each in sorted(results.items())},
    }


def tell(results: Results, total: int | None, seconds: float) -> None:
    """Draw a bar on a terminal."""
    if not sys.stderr.isatty():
        return
    runs = sum(each.runs for each in results.values())
    failed = sum(len(each.failures) for each in results.values())
    full = 24 * runs // total if total else 0
    bar = f"[{'#' * full}{'.' * (24 - full)}] " if total else ""
    line = f"{bar}{runs:,} runs, {runs / max(1e-9, seconds):,.0f} a second, {failed} failed"
    sys.stderr.write(f"\r\x1b[K{line}")
    sys.stderr.flush()


def show(report: dict[str, Any]) -> None:
    """Print the table, and every failure with the line that repeats it."""
    if sys.stderr.isatty():
        sys.stderr.write("\n")
    print(f"{'scenario':18}{'runs':>9}{'steps':>13}{'virtual s':>13}{'faults':>9}{'failed':>8}")
    for name, each in [*report["scenarios"].items(), ("together", report)]:
        print(
            f"{name:18}{each['runs']:>9,}{each['steps']:>13,}{each['virtual_seconds']:>13,.0f}"
            f"{sum(each['faults'].values()):>9,}{len(each['failures']):>8}"
        )
    listed = sorted(report["faults"].items(), key=lambda item: -item[1])
    print("faults:", ", ".join(f"{count:,} {name}" for name, count in listed) or "none")
    print(
        f"{report['runs']:,} runs in {report['seconds']} s ({report['cpu_seconds']} s of CPU), "
        f"{len(report['failures'])} failed"
    )
    for failure in report["failures"]:
        print(failure)


if __name__ == "__main__":
    sys.exit(main())
