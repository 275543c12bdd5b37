"""Tables and a progress bar; with rich where it is installed, in plain text where it is not."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, TextIO

from benchmarks.peers import QUEUES

Row = Sequence[str]
VERDICT = {True: "met", False: "MISSED", None: ""}
FACTS = {
    "failing_called": "failing called",
    "burst": "burst",
    "waits": "full: waits",
    "queue": "queue",
    "counts": "counts",
}
"""What is asked of each peer besides its rate, and the column it stands in."""
WIDTH = 24  # characters of the progress bar


class Progress:
    """A line that says how far a run has come, rewritten in place on a terminal."""

    def __init__(self, total: int, stream: TextIO = sys.stderr) -> None:
        self.total = total
        self.done = -1
        self.stream = stream

    def step(self, title: str) -> None:
        """Show that the next job begins; an empty title ends the line."""
        self.done += 1
        full = WIDTH * self.done // max(1, self.total)
        line = f"[{'#' * full}{'.' * (WIDTH - full)}] {self.done}/{self.total} {title}"
        if self.stream.isatty():
            end = "" if title else "\n"
            print(f"\r\x1b[K{line}", end=end, file=self.stream, flush=True)
        else:
            print(line.rstrip(), file=self.stream, flush=True)


def table(title: str, head: Row, rows: Sequence[Row]) -> None:
    """Print a table on standard output."""
    if not rows:
        return
    try:
        rich_table = import_module("rich.table")  # by name: rich is not always installed
        console = import_module("rich.console").Console()
    except ImportError:
        _plain(title, head, rows)
        return
    if not console.is_terminal:
        _plain(title, head, rows)
        return
    drawn = rich_table.Table(title=title, title_justify="left", title_style="bold")
    for index, name in enumerate(head):
        drawn.add_column(name, justify="left" if index < 2 else "right", overflow="fold")
    for row in rows:
        style = "red" if "MISSED" in row else None
        drawn.add_row(*row, style=style)
    console.print(drawn)


def _plain(title: str, head: Row, rows: Sequence[Row]) -> None:
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    print(f"\n{title}")
    for row in (head, ["-" * width for width in widths], *rows):
        cells = (
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join(cells).rstrip())


def number(value: float | None) -> str:
    """Return a number with three significant digits, or whole where it is large."""
    if value is None:
        return "—"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def short(ratio: float) -> str:
    """Return a multiple: two digits are all it is worth."""
    return f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:#.2g}" if ratio >= 0.01 else f"{ratio:.1g}"


def spread(found: dict[str, Any] | None, sign: str = "") -> str:
    """Return median and range."""
    if found is None:
        return "—"
    if found["rounds"] == 1:
        return number(found["median"]) + sign
    return f"{number(found['median'])}{sign} ({number(found['low'])}–{number(found['high'])})"


def report(data: dict[str, Any]) -> None:
    """Print everything a run has found."""
    title = "actorbus" + (" (quick: too short to judge anything)" if data["quick"] else "")
    head = ("case", "figure", "median (range)", "unit", "baseline", "x baseline", "x wall")
    table(title, (*head, "goal", ""), [row for each in data["results"] for row in _own(each)])
    shapes = [name for name in data["cases"] if name.startswith("throughput.")]
    table("Peers, multiples of asyncio.Queue(1024)", *_peers(data, shapes))
    table("Queues on SQLite, multiples of sqlite3 by hand", *_queues(data))
    table(
        "actorbus against peers",
        ("case", "figure", "value (range)", "goal", ""),
        [
            (v["case"], v["what"], spread({**v, "median": v["value"], "rounds": 2}, "x"),
             v["goal_text"], VERDICT[v["met"]])
            for v in data["verdicts"]
        ],
    )  # fmt: skip
    for line in (*_slowed(data), *_failed(data)):
        print(line)
    print(summary(data))


def summary(data: dict[str, Any]) -> str:
    """Return one line: how many goals were met."""
    judged = [figure["met"] for result in data["results"] for figure in result["figures"]]
    judged += [verdict["met"] for verdict in data["verdicts"]]
    if data["quick"]:
        return "quick run: nothing judged"
    text = f"goals: {judged.count(True)} met, {judged.count(False)} missed"
    broken = len(_failed(data))
    return text + (f"; {broken} of {len(data['results'])} measurements failed" * bool(broken))


def _failed(data: dict[str, Any]) -> list[str]:
    return [
        f"FAILED {r['case']} {r['subject']}: {r['error']}" for r in data["results"] if r["error"]
    ]


def _slowed(data: dict[str, Any]) -> list[str]:
    driven = {
        result["subject"]: figure["notes"].get("publishes", "")
        for result in data["results"]
        for figure in result["figures"]
    }
    return [f"{peer}: {how}" for peer, how in driven.items() if how.startswith("slowed down")]


def _own(result: dict[str, Any]) -> list[Row]:
    if result["subject"] != "actorbus":
        return []
    return [
        (
            result["case"],
            figure["what"],
            spread(figure["subject"]),
            figure["unit"],
            number(figure["baseline"] and figure["baseline"]["median"]),
            spread(figure["ratio"], "x"),
            number(figure["wall"] and figure["wall"]["median"]),
            figure["goal_text"] or "",
            VERDICT[figure["met"]],
        )
        for figure in result["figures"]
    ]


def _peers(data: dict[str, Any], shapes: Sequence[str]) -> tuple[Row, list[Row]]:
    found: dict[str, dict[str, Any]] = {}
    for result in data["results"]:
        if result["subject"] != "actorbus" and result["case"] in shapes:
            found.setdefault(result["subject"], {})[result["case"]] = result
    shapes = [name for name in shapes if any(name in results for results in found.values())]
    rows: list[Row] = []
    for peer, results in found.items():
        cells = []
        notes: dict[str, Any] = {}
        for shape in shapes:
            figures = results.get(shape, {}).get("figures")
            cells.append(spread(figures[0]["ratio"], "x") if figures else "failed")
            notes |= figures[0]["notes"] if figures else {}
        harm = {True: "isolates", False: notes.get("harm", ""), None: ""}[notes.get("isolates")]
        version = data["versions"].get(peer, "")
        facts = (notes.get(fact, "") for fact in FACTS)
        rows.append((peer, version, *cells, harm, *facts))
    shown = (name.partition(".")[2] for name in shapes)
    head: Row = ("peer", "version", *shown, "beside bad neighbours", *FACTS.values())
    return head, rows


def _queues(data: dict[str, Any]) -> tuple[Row, list[Row]]:
    rows: list[Row] = [
        (
            result["case"],
            f"{result['subject']} {data['versions'].get(result['subject'], '')}",
            spread(figure["subject"]),
            spread(figure["ratio"], "x"),
            figure["notes"]["publishes"],
        )
        for result in data["results"]
        for figure in result["figures"]
        if result["subject"] in QUEUES
    ]
    return ("case", "queue", "items/s", "x baseline", "how"), rows
