"""``python -m benchmarks``: run, show, compare, plot, readme, anatomy.

::

    python -m benchmarks                               everything, a quarter of an hour with peers
    python -m benchmarks --only throughput --no-peers  one question, actorbus alone
    python -m benchmarks --quick                       a smoke run that judges nothing
    python -m benchmarks show A.json                   the tables of an earlier run
    python -m benchmarks compare A.json B.json         two runs side by side
    python -m benchmarks plot A.json docs/img          the charts of an earlier run
    python -m benchmarks readme A.json                 its figures and charts, into the README
    python -m benchmarks anatomy                       where the time of one event goes
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks import anatomy, show
from benchmarks.case import Case
from benchmarks.compare import compare
from benchmarks.machine import ROOT
from benchmarks.peers import PEERS, installed
from benchmarks.plot import draw
from benchmarks.questions import all_cases
from benchmarks.readme import rewrite
from benchmarks.runner import FORMAT, jobs, run

NO_CHARTS = "charts need matplotlib: pip install 'actorbus[bench]'"


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` is no error
    others = {
        "show": _show,
        "compare": _compare,
        "plot": _plot,
        "readme": _readme,
        "anatomy": _anatomy,
    }
    if given and given[0] in others:
        return others[given[0]](given[1:])
    return _run(given)


def _run(given: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="How fast is actorbus, next to what you would use instead, and at what cost?",
        epilog="Also: `show FILE`, `compare A B`, `plot FILE DIR`, `readme FILE`, `anatomy`.",
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
        rows = [(case.name, case.question, case.completion) for case in cases]
        show.table("Cases", ("case", "question", "the clock stops when"), rows)
        return 0
    if options.plot and find_spec("matplotlib") is None:
        parser.error(NO_CHARTS)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)  # not after ten minutes
    peers = not options.quick if options.peers is None else options.peers
    if peers and (missing := sorted(PEERS.keys() - installed())):
        print(f"not installed, so not measured: {', '.join(missing)}", file=sys.stderr)
    plan = jobs(cases, peers=peers)
    report = run(plan, quick=options.quick, step=show.Progress(len(plan)).step)
    if options.json:
        text = json.dumps(report, indent=1, ensure_ascii=False)
        options.json.write_text(f"{text}\n", encoding="utf-8")
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


def _show(given: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks show")
    parser.add_argument("report", type=Path, metavar="FILE")
    show.report(_read(parser.parse_args(given).report))
    return 0


def _readme(given: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks readme",
        description="Replace the figures and the charts of the README by those of a report.",
    )
    parser.add_argument("report", type=Path, metavar="FILE")
    parser.add_argument("--into", type=Path, default=ROOT / "README.md", metavar="README")
    parser.add_argument("--charts", type=Path, default=ROOT / "docs" / "img", metavar="DIR")
    parser.add_argument("--text-only", action="store_true", help="leave the charts as they are")
    options = parser.parse_args(given)
    report = _read(options.report)
    noted = report["versions"].get("matplotlib")
    try:
        if not options.text_only and noted not in (None, version("matplotlib")):
            sys.exit(f"the charts of this report are to be drawn by matplotlib {noted}")
        home = options.into.resolve().parent
        text = rewrite(
            options.into.read_text(encoding="utf-8"), report, options.report.resolve(),
            options.charts.resolve(), home,
        )  # fmt: skip
    except PackageNotFoundError:
        sys.exit(NO_CHARTS)
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    options.into.write_text(text, encoding="utf-8")
    print(options.into)
    if not options.text_only:
        _draw(report, options.charts)
    return 0


def _anatomy(given: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks anatomy",
        description="Where the time of one event goes, from one publisher to one subscriber.",
    )
    parser.add_argument("--quick", action="store_true", help="a smoke run")
    anatomy.main(quick=parser.parse_args(given).quick)
    return 0


def _draw(report: dict[str, Any], folder: Path) -> None:
    try:
        written = draw(report, folder)
    except ImportError:
        sys.exit(NO_CHARTS)
    print("\n".join(str(path) for path in written))


def _read(path: Path) -> dict[str, Any]:
    try:
        report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        sys.exit(f"{path} cannot be read: {error}")
    if not isinstance(report, dict) or report.get("format") != FORMAT:
        sys.exit(f"{path} is no report of this program")
    return report


if __name__ == "__main__":
    raise SystemExit(main())
