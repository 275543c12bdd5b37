"""The README's figures, made from a report and from nothing else.

They stand between two marks; the first one names the report, so that a test can make them again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from os.path import relpath
from pathlib import Path
from typing import Any

from benchmarks.peers import QUEUES
from benchmarks.show import Row, short

BEGIN = "<!-- figures of {source}, written by `python -m benchmarks readme`: do not edit -->"
END = "<!-- end of figures -->"
MARKED = re.compile(r"<!-- figures of \S+.*?-->\n.*?<!-- end of figures -->", re.DOTALL)

Report = dict[str, Any]

HEADLINES: Sequence[tuple[str, str, Sequence[str]]] = (
    ("1 publisher → 1 subscriber, awaited", "throughput.1-1", ["actorbus"]),
    ("1 → 1, not awaited", "throughput.1-1-no-await", ["actorbus"]),
    ("1 → 10, awaited", "throughput.1-10", ["actorbus"]),
    ("1 → 100, awaited", "throughput.1-100", ["actorbus"]),
    ("10 → 10, awaited", "throughput.10-10", ["actorbus"]),
    ("every delivery fails once", "failures.once", ["once"]),
    ("every delivery fails for good", "failures.for-good", ["for-good"]),
    ("ask and wait for the reply", "ask.round-trip", ["ask, timeout=5"]),
    ("100,000 queued, drained", "drain.100000", ["drained"]),
    ("a healthy subscriber keeps, beside a slow one", "isolation.slow", ["kept beside a slow one"]),
    ("beside a failing one", "isolation.failing", ["kept beside a failing one"]),
    ("latency at 10 % load: p50, p99, p99.9", "latency.10", ["p50", "p99", "p99.9"]),
    ("at 50 % load", "latency.50", ["p50", "p99", "p99.9"]),
    ("at 90 % load", "latency.90", ["p50", "p99", "p99.9"]),
    ("100,000 idle subscriptions, made", "idle.functions", ["spawned"]),
    ("one of them", "idle.functions", ["size"]),
    ("a new topic, 1,000,000 patterns: p50, p99", "matching.1000000", ["cold p50", "cold p99"]),
    ("1,000,000 patterns in memory", "matching.1000000", ["memory"]),
    ("growth after 1,000,000 events", "memory.flat", ["growth"]),
    ("scrape of 1,000 actors", "scrape.1000-actors", ["scrape"]),
    ("it holds the loop for", "scrape.1000-actors", ["loop held"]),
    ("durable, 100 publishers await", "durable.100", ["actorbus"]),
    ("with a durable subscription", "durable.100-handled", ["actorbus"]),
    ("durable, 1 publisher awaits", "durable.1", ["actorbus"]),
    ("10,000 at once, until they are on disk", "durable.burst", ["actorbus"]),
    ("durable publishing holds the loop for", "durable.hold", ["loop held"]),
    ("1,000,000 redelivered", "redelivery.1000000", ["streamed"]),
    ("from `start()` to the first of them", "redelivery.1000000", ["starts"]),
    ("they hold the loop for", "redelivery.1000000", ["loop held"]),
    ("a commit waits for pruning, at most", "pruning.blocks", ["longest piece"]),
)  # fmt: skip
"""Label, case, and the figures to show in one line."""

SHAPES = {
    "throughput.1-1": "1 → 1",
    "throughput.1-10": "1 → 10",
    "throughput.1-100": "1 → 100",
    "throughput.10-10": "10 → 10",
}


PEERS = """\
The peers, as multiples of the same queue in CPU time; bold is faster than actorbus. *Beside bad
neighbours*: what becomes of a healthy subscriber beside a slow and a failing one. *Full: waits*: is
a publisher held up by a subscriber that is stuck? *Counts*: what can it tell of its deliveries?
With broadcaster and anyio the loop that calls a handler is yours; here it catches failures."""


def rewrite(text: str, report: Report, source: Path, images: Path, home: Path) -> str:
    """Return a README with its figures replaced by those of a report.

    Args:
        text: What the README says now.
        report: As written by ``--json``.
        source: The report's file.
        images: The folder of the charts.
        home: The README's folder; paths are written relative to it.

    Raises:
        ValueError: The report judges nothing, or the README does not have the two marks once.
    """
    if report["quick"]:
        raise ValueError("a quick run judges nothing, so the README cannot quote it")
    if len(MARKED.findall(text)) != 1:
        raise ValueError("the README has to hold the marks of the figures once")
    names = [Path(relpath(path, home)).as_posix() for path in (source, images)]
    lines = [BEGIN.format(source=names[0]), *section(report, *names), END]
    return MARKED.sub(lambda _: "\n".join(lines), text)


def section(report: Report, source: str, images: str) -> list[str]:
    """Return the lines between the marks."""
    return [
        *_picture(report, images),
        *_table(("", "actorbus", "x by hand", "in wall time", "by hand", "goal"),
                _headlines(report)),
        "",
        *_floor(report),
        *_goals(report),
        *_queues(report),
        "",
        PEERS,
        "",
        *_table(("", *SHAPES.values(), "queue", "beside bad neighbours", "full: waits",
                 "burst of 2,000", "counts"), _contenders(report)),
        "",
        *_faster(report),
        "",
        *_slowed(report),
        *_costs(report),
        *_source(report, source),
    ]  # fmt: skip


def figures(report: Report, subject: str = "actorbus") -> dict[tuple[str, str], dict[str, Any]]:
    """Return the figures of a contender by case and name."""
    return {
        (result["case"], figure["what"]): figure
        for result in report["results"]
        for figure in result["figures"]
        if result["subject"] == subject
    }


def _picture(report: Report, images: str) -> list[str]:
    alt = "Deliveries per CPU second of actorbus and its peers, as multiples of a queue by hand"
    if not any(result["case"] in SHAPES for result in report["results"]):
        return []
    return [
        "<picture>",
        f'  <source media="(prefers-color-scheme: dark)" srcset="{images}/throughput-dark.svg">',
        f'  <img alt="{alt}" src="{images}/throughput-light.svg">',
        "</picture>",
        "",
    ]


def _table(head: Row, rows: Sequence[Row]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


# -- actorbus by itself ---------------------------------------------------------------------------


def _headlines(report: Report) -> list[Row]:
    own = figures(report)
    failed = _failures(report, "actorbus")
    rows: list[Row] = []
    for label, case, names in HEADLINES:
        found = [own[case, name] for name in names if (case, name) in own]
        if found:
            rows.append((label, *_headline(found)))
        elif case in failed:
            rows.append((label, f"**failed**: {failed[case]}", "", "", "", ""))
    return rows


def _headline(found: Sequence[dict[str, Any]]) -> Row:
    first = found[0]
    values = " / ".join(rounded(figure["subject"]["median"]) for figure in found)
    worst = [figure for figure in found if figure["goal"] and figure["goal"]["of"] == "worst"]
    at_worst = "".join(f", at worst {rounded(each['subject']['high'])}" for each in worst)
    ratios = [figure["ratio"] for figure in found if figure["ratio"]]
    if len(ratios) == 1 and ratios[0]["rounds"] > 1:
        good = f"{times(ratios[0])} ({short(ratios[0]['low'])}–{short(ratios[0]['high'])})"
    else:
        good = " / ".join(times(ratio) for ratio in ratios) or "—"
    wall = times(first["wall"]) if first["wall"] else ""
    baseline = first["baseline"]
    hand = first["against"]
    if not ratios and baseline:
        hand += f": {rounded(baseline['median'])} {first['unit']}"
    goals = [f"{_goal(figure)}: {_verdict(figure['met'])}" for figure in found if figure["goal"]]
    return (f"{values} {first['unit']}{at_worst}", good, wall, hand, "; ".join(goals))


def _goal(figure: dict[str, Any]) -> str:
    text = str(figure["goal_text"])
    return text if figure["goal"]["of"] == "ratio" else f"{text} {figure['unit']}"


def _verdict(met: bool | None) -> str:
    return {True: "met", False: "**missed**", None: "not judged"}[met]


def _goals(report: Report) -> list[str]:
    judged = [figure for figure in figures(report).values() if figure["met"] is not None]
    met = sum(bool(each["met"]) for each in (*judged, *report["verdicts"]))
    total = len(judged) + len(report["verdicts"])
    missed = [
        f"- `{case}`, {figure['what']}: {_judged(figure)}, promised {_goal(figure)}"
        for (case, _), figure in figures(report).items()
        if figure["met"] is False
    ]
    missed += [
        f"- `{each['case']}`, {each['what']}: {short(each['value'])}x, promised {each['goal_text']}"
        for each in report["verdicts"]
        if each["met"] is False
    ]
    missed += [
        f"- `{case}` failed: {error}" for case, error in _failures(report, "actorbus").items()
    ]
    text = f"This project set itself {total} goals that this run could judge, and met {met}."
    return [text + " Missed:", "", *missed] if missed else [text]


def _floor(report: Report) -> list[str]:
    own = figures(report)
    shares = {
        name: own[case, "actorbus"]["notes"]["share_of_floor"]
        for case, name in SHAPES.items()
        if "share_of_floor" in own.get((case, "actorbus"), {"notes": {}})["notes"]
    }
    if not shares:
        return []
    listed = ", ".join(f"{100 * share:.0f} % in {name}" for name, share in shares.items())
    return [
        "The floor is a bare `await handler(x)` in a loop, without a queue or isolation. "
        f"Of its rate actorbus reaches {listed}.",
        "",
    ]


def _judged(figure: dict[str, Any]) -> str:
    if figure["goal"]["of"] == "ratio":
        return times(figure["ratio"])
    part = "high" if figure["goal"]["of"] == "worst" else "median"
    return f"{rounded(figure['subject'][part])} {figure['unit']}"


def _queues(report: Report) -> list[str]:
    """Return a sentence on the queues on SQLite, if any ran."""
    own = figures(report)
    found = [
        f"{peer} {_version(report, peer)} ({rounded(figure['subject']['median'])} items/s)"
        for peer in QUEUES
        for (case, _), figure in figures(report, peer).items()
        if case == "durable.100"
    ]
    if not found or ("durable.100", "actorbus") not in own:
        return []
    rate = rounded(own["durable.100", "actorbus"]["subject"]["median"])
    listed = " and ".join(found)
    return ["", f"Queues on SQLite, as durable and one commit each: {listed}; actorbus, {rate}."]


def _costs(report: Report) -> list[str]:
    costs = {
        case.partition(".")[2]: figure["subject"]["median"]
        for (case, what), figure in figures(report).items()
        if case.startswith("features.") and what == "cost"
    }
    if not costs:
        return []
    ordered = sorted(costs, key=lambda name: -costs[name])
    listed = ", ".join(f"{name} {costs[name]:+.0f} %" for name in ordered)
    return [f"What a feature adds to the CPU time of a 1 → 1 delivery: {listed}.", ""]


# -- beside the peers -----------------------------------------------------------------------------


def _contenders(report: Report) -> list[Row]:
    ratios = {name: _ratios(report, name) for name in ("actorbus", *_peers(report))}
    own = ratios["actorbus"]
    order = sorted(ratios, key=lambda name: -ratios[name].get("throughput.1-1", 0.0))
    rows: list[Row] = []
    for name in order:
        failed = _failures(report, name)
        cells = [_cell(ratios[name].get(case), own.get(case), case in failed) for case in SHAPES]
        title = "**actorbus**" if name == "actorbus" else f"{name} {_version(report, name)}"
        rows.append((title, *cells, *_facts(_notes(report, name))))
    return rows


def _cell(ratio: float | None, own: float | None, failed: bool) -> str:
    if ratio is None:
        return "failed" if failed else "—"
    text = f"{short(ratio)}x"
    return f"**{text}**" if own is not None and ratio > own else text


def _facts(notes: dict[str, Any]) -> Row:
    harm = {True: "no harm", False: notes.get("harm", ""), None: ""}[notes.get("isolates")]
    if _dies(notes):
        harm += ", the failing one dies"
    waits = "runs the handler" if notes.get("queue") == "none" else notes.get("waits", "")
    return (
        notes.get("queue", ""), harm, waits, notes.get("burst", ""),
        notes.get("counts") or "no",
    )  # fmt: skip


def _faster(report: Report) -> list[str]:
    own = _ratios(report, "actorbus")
    lines = []
    for peer in _peers(report):
        ratios = _ratios(report, peer)
        better = [
            f"{SHAPES[case]} ({short(ratios[case])}x, actorbus {short(own[case])}x)"
            for case in SHAPES
            if case in ratios and case in own and ratios[case] > own[case]
        ]
        if better:
            lacks = "; ".join(_lacks(_notes(report, peer))) or "nothing asked here"
            lines.append(f"- **{peer}**: {', '.join(better)}. What it lacks: {lacks}.")
    if not lines:
        return ["No peer was faster than actorbus in any of these."]
    return ["Faster than actorbus (bold in the table), and what they do not do for it:", "", *lines]


def _slowed(report: Report) -> list[str]:
    found = {peer: _notes(report, peer).get("publishes", "") for peer in _peers(report)}
    lines = [f"{peer} is {how}." for peer, how in found.items() if how.startswith("slowed down")]
    return [*lines, ""] if lines else []


def _lacks(notes: dict[str, Any]) -> Iterator[str]:
    if notes.get("queue") == "none":
        yield "no queue, so the publisher runs the handlers"
    if notes.get("isolates") is False:
        yield f"no isolation ({notes['harm']})"
    if notes.get("waits", "").startswith(("no", "raises")):
        yield "no backpressure"
    if notes.get("burst", "ok") != "ok":
        yield f"a burst {notes['burst']}"
    if _dies(notes):
        yield "a subscriber that failed once gets nothing more"
    if not notes.get("counts"):
        yield "no counts"


def _dies(notes: dict[str, Any]) -> bool:
    """Return whether a failing subscriber is called once and never again."""
    return notes.get("isolates") is True and notes.get("failing_called", "").startswith("1 of")


def _peers(report: Report) -> list[str]:
    return list(dict.fromkeys(
        result["subject"] for result in report["results"]
        if result["subject"] != "actorbus" and result["case"] in SHAPES
    ))  # fmt: skip


def _ratios(report: Report, subject: str) -> dict[str, float]:
    """Return the multiple of the baseline for each shape that a contender ran."""
    return {
        result["case"]: result["figures"][0]["ratio"]["median"]
        for result in report["results"]
        if result["subject"] == subject and result["case"] in SHAPES and result["figures"]
    }


def _notes(report: Report, subject: str) -> dict[str, Any]:
    notes: dict[str, Any] = {}
    for (case, _), figure in figures(report, subject).items():
        if case in SHAPES:
            notes |= figure["notes"]
    return notes


def _failures(report: Report, subject: str) -> dict[str, str]:
    return {
        result["case"]: result["error"].replace("|", "\\|")
        for result in report["results"]
        if result["subject"] == subject and result["error"]
    }


def _version(report: Report, peer: str) -> str:
    return str(report["versions"].get(peer, ""))


def _source(report: Report, source: str) -> list[str]:
    machine, python = report["machine"], report["python"]
    commit = (report["commit"]["id"] or "no commit")[:10]
    changed = " with changes" if report["commit"]["changed"] else ""
    return [
        f"Measured on {report['started'][:10]} with {python['implementation']} "
        f"{python['version']} on {machine['system']}, {machine['processor']}, "
        f"{machine['cores']} cores, load {machine['load']} at the start, at {commit}{changed}. "
        f"Every figure: [{source.rpartition('/')[2]}]({source})."
    ]


def times(spread: dict[str, Any]) -> str:
    """Return how many times as good."""
    return f"{short(spread['median'])}x"


def rounded(value: float) -> str:
    """Return a number with three significant digits and commas."""
    return f"{float(f'{value:.3g}'):,.0f}" if abs(value) >= 100 else f"{value:.3g}"
