"""``python -m tests.mutants``: plant faults, and see that the tests see them."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

from tests.mutants.fault import Fault, StaleFaultError
from tests.mutants.faults import FAULTS
from tests.mutants.report import Bar, Took, as_json, as_markdown, summary, table
from tests.mutants.trial import Result, UnsoundError, Verdict, try_all

TEACHES = """\
what happens: the tree is copied to a temporary directory; there the tests named by the faults must
pass first. Then each fault gets a copy of its own, and pytest runs the tests that should see it,
until one fails. Every run comes to the same: Hypothesis takes no chances, and hashes have no seed.

examples:
  python -m tests.mutants                              all of them
  python -m tests.mutants --list                       what they break, and which tests are asked
  python -m tests.mutants --only line-served-backwards
  python -m tests.mutants --only line- key-            all whose names begin so
  python -m tests.mutants --json mutants.json --markdown docs/mutants.md

exit code: 0 all caught; 1 a fault survived, or broke more than it should; 2 nothing was proved: the
tests fail without a fault, or a fault does not fit the source any more.

A fault that survives is a test that is missing. To add a fault, see tests/README.md.
"""


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(
        prog="python -m tests.mutants",
        description="Plant faults in copies of actorbus, and see that the tests see them.",
        epilog=TEACHES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--list", action="store_true", help="say which faults there are, run nothing")
    made.add_argument(
        "--only", nargs="+", metavar="NAME", default=(), help="only these; a beginning will do"
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="also write everything as JSON")
    made.add_argument("--markdown", type=Path, metavar="FILE", help="also write a page")
    made.add_argument(
        "--jobs", type=int, metavar="N", default=os.cpu_count() or 1,
        help="runs of pytest at a time; default: one for each processor",
    )  # fmt: skip
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit code."""
    line = parser()
    given = line.parse_args(arguments)
    if given.jobs < 1:
        line.error("--jobs must be at least 1")
    unknown = [name for name in given.only if not chosen([name])]
    if unknown:
        line.error(f"no fault is called {', '.join(unknown)}; --list shows them all")
    faults = chosen(given.only)
    if given.list:
        for fault in faults:
            asked = "\n  ".join(fault.seen_by)
            sys.stdout.write(f"{fault.name} ({fault.path})\n  {fault.breaks}\n  {asked}\n")
        return 0
    began = perf_counter()
    try:
        verdicts = tried(faults, given.jobs)
    except (StaleFaultError, UnsoundError) as error:
        sys.stderr.write(f"{error}\nnothing is proved: {type(error).__doc__}\n")
        return 2
    spent = os.times()
    took = Took(perf_counter() - began, spent.children_user + spent.children_system)
    return told(verdicts, took, given.json, given.markdown)


def chosen(names: Sequence[str]) -> list[Fault]:
    """Return the faults with such names, in their order; all without any."""
    return [fault for fault in FAULTS if not names or fault.name.startswith(tuple(names))]


def tried(faults: Sequence[Fault], jobs: int) -> list[Verdict]:
    """Return what became of each fault, in their order."""
    bar = Bar(len(faults))
    verdicts: dict[str, Verdict] = {}
    try:
        for verdict in try_all(faults, jobs):
            verdicts[verdict.fault.name] = verdict
            bar.step(verdict)
    finally:
        bar.end()
    return [verdicts[fault.name] for fault in faults]


def told(verdicts: Sequence[Verdict], took: Took, json: Path | None, markdown: Path | None) -> int:
    """Show the verdicts and write the files; return the exit code."""
    if json is not None:
        json.write_text(as_json(verdicts, took))
    if markdown is not None:
        markdown.write_text(as_markdown(verdicts, took))
    sys.stdout.write(f"{table(verdicts)}\n\n{summary(verdicts, took)}\n")
    missed = [verdict for verdict in verdicts if verdict.result is not Result.CAUGHT]
    for verdict in missed:
        sys.stdout.write(f"\n{verdict.result}: {verdict.fault.name}: {verdict.fault.breaks}\n")
        sys.stdout.write(f"  asked: {', '.join(verdict.fault.seen_by)}\n{verdict.error or ''}\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
