"""The figures of docs/reliability.md, made from the reports beside it and from nothing else.

::

    python -m tests.figures        write them again

They stand between two marks, so that a test can make them again and compare.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import provenance

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reliability.md"
REPORTS = ROOT / "docs" / "reliability"

BEGIN = "<!-- figures of docs/reliability/, written by `python -m tests.figures`: do not edit -->"
END = "<!-- end of figures -->"
MARKED = re.compile(re.escape(BEGIN) + r"\n.*?" + re.escape(END), re.DOTALL)

Report = dict[str, Any]


def where() -> Report:
    """Return where, when and on what a report is made."""
    found = provenance()
    return {name: found[name] for name in ("started", "machine", "python", "commit")}


def save(report: Report, path: Path) -> None:
    """Write a report, in a form that a diff can show."""
    text = json.dumps(report, indent=1, ensure_ascii=False)
    flat = re.sub(r"\[[^\[\]{}]*\]", lambda found: " ".join(found.group().split()), text)
    path.write_text(flat + "\n", encoding="utf-8")


def load(name: str) -> Report:
    """Return a committed report."""
    report: Report = json.loads((REPORTS / f"{name}.json").read_text(encoding="utf-8"))
    return report


def rewrite(text: str, sweep: Report, soak: Report, examples: Report) -> str:
    """Return a page with its figures replaced by those of three reports.

    Raises:
        ValueError: The page does not have the two marks once, or a report has failures.
    """
    if len(MARKED.findall(text)) != 1:
        raise ValueError("the page has to hold the marks of the figures once")
    if sweep["failures"] or soak["faults"]:
        raise ValueError("a run that has failed is no figure")
    lines = [
        BEGIN, *summary(sweep, soak, examples), "", *scenarios(sweep), "", *soaked(soak), "",
        *sources(sweep=sweep, soak=soak, examples=examples), END,
    ]  # fmt: skip
    return MARKED.sub(lambda _: "\n".join(lines), text)


def summary(sweep: Report, soak: Report, examples: Report) -> list[str]:
    """Return the table of everything."""
    totals, faults = soak["totals"], sweep["faults"]
    minutes = soak["seconds"] / 60
    listed = ", ".join(f"{n:,} {name}" for name, n in _largest_first(faults))
    rows = [
        ("simulated runs, none failed",
         f"{sweep['runs']:,} of {len(sweep['scenarios'])} scenarios, "
         f"{sweep['steps'] / 1e6:.1f} million steps, in {sweep['cpu_seconds']:.0f} s of CPU",
         "`python -m tests.sweep --json docs/reliability/sweep.json`"),
        ("virtual time covered", _span(sweep["virtual_seconds"]), "the same"),
        ("faults injected", f"{sum(faults.values()):,}: {listed}", "the same"),
        ("examples of properties, all passed",
         f"{examples['examples']:,} of {examples['properties']} properties",
         "`python -m tests.examples --json docs/reliability/examples.json`"),
        ("mutants caught", "see [mutants.md](mutants.md)", "`python -m tests.mutants`"),
        ("events through the soak",
         f"{totals['published']:,} events, {totals['routed']:,} deliveries in {minutes:.0f} "
         f"minutes; the ledger balanced at every one of {soak['seconds']:,} looks",
         "`python -m tests.soak --json docs/reliability/soak.json`"),
    ]  # fmt: skip
    return table(("what", "figure", "made by"), rows)


def scenarios(sweep: Report) -> list[str]:
    """Return the table of the sweep."""
    rows = [
        (f"`{name}`", f"{each['runs']:,}", f"{each['steps']:,}", _span(each["virtual_seconds"]),
         f"{sum(each['faults'].values()):,}")
        for name, each in sweep["scenarios"].items()
    ]  # fmt: skip
    return table(("scenario", "runs", "steps", "virtual time", "faults"), rows)


def soaked(soak: Report) -> list[str]:
    """Return the tables of the soak."""
    words = {"rss_mib": "resident memory, MiB", "objects": "objects of the collector",
             "tasks": "tasks", "threads": "threads", "fds": "open files"}  # fmt: skip
    drift = [
        (words[name], *(f"{each[part]:,.4g}" if each[part] < 1000 else f"{each[part]:,.0f}"
                        for part in ("early", "late", "allowed")))
        for name, each in soak["drift"].items()
    ]  # fmt: skip
    counts = {**{name: soak["totals"][name] for name in ("acked", "dead", "conflated")},
              **soak["counts"]}  # fmt: skip
    happened = ", ".join(f"{count:,} {name}" for name, count in _largest_first(counts))
    return [
        *table(("in the soak, median of", "second fifth", "last fifth", "at most"), drift),
        "",
        f"What happened in it: {happened}. A look came {1000 * soak['late_median']:.1f} ms late in "
        f"the median. {len(soak['gaps'])} gaps, in which the process was not run, "
        f"{sum(soak['gaps']):.0f} s together, are not counted as time.",
    ]


def sources(**reports: Report) -> list[str]:
    """Return where the reports were made."""
    return [
        f"- [{name}.json](reliability/{name}.json): {each['started'][:10]}, "
        f"{each['python']['implementation']} {each['python']['version']}, "
        f"{each['machine']['system']}, {each['machine']['processor']}, "
        f"{each['machine']['cores']} cores, load {each['machine']['load']} at the start, at "
        f"{(each['commit']['id'] or 'no commit')[:10]}"
        f"{' with changes' if each['commit']['changed'] else ''}"
        for name, each in reports.items()
    ]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _largest_first(counts: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _span(seconds: float) -> str:
    """Return a span of time in the unit that suits it."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:,.1f} s"


def main() -> int:
    """Write the page again; return the exit code."""
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(rewrite(text, load("sweep"), load("soak"), load("examples")), encoding="utf-8")
    print(PAGE.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
