"""``python -m benchmarks``: run, compare, plot.

::

    python -m benchmarks                               everything, about ten minutes with peers
    python -m benchmarks --only throughput --no-peers  one question, actorbus alone
    python -m benchmarks --quick                       a smoke run that judges nothing
    python -m benchmarks compare A.json B.json         two runs side by side
    python -m benchmarks plot A.json docs/img          the charts of an earlier run
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import show
from benchmarks.case import Case
from benchmarks.compare import compare
from benchmarks.plot import draw
from benchmarks.questions import all_cases
from benchmarks.runner import FORMAT, jobs, run


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` is no error
    if given[:1] == ["compare"]:
        return _compare(given[1:])
    if given[:1] == ["plot"]:
        return _plot(given[1:])
    return _run(given)


def _run(given: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="How fast is actorbus, next to what you would use instead, and at what cost?",
        epilog="Also: `compare A.json B.json` and `plot FILE.json DIR`.",
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="cases, or whole questions")
    parser.add_argument("--list", action="store_true", help="show the cases and end")
    parser.add_argument("--quick", action="store_true", help="a smoke run: judges nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    parser.add_argument("--plot", type=Path, metavar="DIR", help="draw SVG charts")
    parser.add_argument(
        "--peers",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="measure the peers that are installed (default: unless --quick)",
    )
    options = parser.parse_args(given)
    cases = [case for case in all_cases() if _wanted(case, options.only)]
    if not cases:
        parser.error(f"no case or question is called {' or '.join(options.only)}; see --list")
    if options.list:
        show.table("Cases", ("case", "question"), [(case.name, case.question) for case in cases])
        return 0
    peers = not options.quick if options.peers is None else options.peers
    plan = jobs(cases, peers=peers)
    report = run(plan, quick=options.quick, step=show.Progress(len(plan)).step)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    show.report(report)
    if options.plot:
        _draw(report, options.plot)
    return int(any(r["error"] for r in report["results"] if r["subject"] == "actorbus"))


def _wanted(case: Case, only: Sequence[str] | None) -> bool:
    return only is None or case.name in only or case.name.partition(".")[0] in only


def _compare(given: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks compare")
    parser.add_argument("first", type=Path, metavar="A")
    parser.add_argument("second", type=Path, metavar="B")
    options = parser.parse_args(given)
    compare(_read(options.first), _read(options.second))
    return 0


def _plot(given: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks plot")
    parser.add_argument("report", type=Path, metavar="FILE")
    parser.add_argument("folder", type=Path, metavar="DIR")
    options = parser.parse_args(given)
    _draw(_read(options.report), options.folder)
    return 0


def _draw(report: dict[str, Any], folder: Path) -> None:
    try:
        written = draw(report, folder)
    except ImportError:
        sys.exit("charts need matplotlib: pip install 'actorbus[bench]'")
    print("\n".join(str(path) for path in written))


def _read(path: Path) -> dict[str, Any]:
    try:
        report: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        sys.exit(f"{path} cannot be read: {error}")
    if not isinstance(report, dict) or report.get("format") != FORMAT:
        sys.exit(f"{path} is no report of this program")
    return report


if __name__ == "__main__":
    raise SystemExit(main())
