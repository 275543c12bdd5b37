"""Two runs side by side: what became better, what became worse, what is within the noise."""

from __future__ import annotations

from typing import Any

from benchmarks.show import Row, spread, table

Key = tuple[str, str, str]
HEAD = ("case", "figure", "A", "B", "change", "")


def compare(first: dict[str, Any], second: dict[str, Any]) -> None:
    """Print a table of two reports; a quick one is compared but not judged."""
    for name, data in (("A", first), ("B", second)):
        commit = (data["commit"]["id"] or "no commit")[:12]
        changed = ", changed since" if data["commit"]["changed"] else ""
        python, quick = data["python"]["version"], ", quick" if data["quick"] else ""
        print(f"{name}: {data['started']}, {commit}{changed}, Python {python}{quick}")
    judge = not (first["quick"] or second["quick"])
    table(
        "B against A",
        HEAD if judge else HEAD[:-1],
        [row if judge else row[:-1] for row in rows(first, second)],
    )
    if first["machine"]["processor"] != second["machine"]["processor"]:
        print("The two ran on different processors: compare multiples of the baseline only.")


def rows(first: dict[str, Any], second: dict[str, Any]) -> list[Row]:
    """Return one row for each figure that both reports have."""
    before, after = figures(first), figures(second)
    found = []
    for key in before.keys() & after.keys():
        if before[key]["ratio"] is not None and after[key]["ratio"] is not None:
            old, new, sign, up = before[key]["ratio"], after[key]["ratio"], "x", True
        else:
            old, new = before[key]["subject"], after[key]["subject"]
            sign, up = f" {after[key]['unit']}", False  # costs and growth: less is better
        case, subject, what = key
        name = what if subject == "actorbus" else f"{subject}: {what}"
        change = _change(old["median"], new["median"])
        found.append((case, name, spread(old, sign), spread(new, sign), change, word(old, new, up)))
    order = {name: index for index, name in enumerate(first["cases"])}
    return sorted(found, key=lambda row: (order[row[0]], row[1]))


def figures(report: dict[str, Any]) -> dict[Key, dict[str, Any]]:
    """Return the figures of a report by case, subject and name."""
    return {
        (result["case"], result["subject"], figure["what"]): figure
        for result in report["results"]
        for figure in result["figures"]
    }


def word(old: dict[str, Any], new: dict[str, Any], up: bool) -> str:
    """Say what a change means: ranges that overlap mean nothing, nor does a single round."""
    if min(old["rounds"], new["rounds"]) == 1:
        return ""
    if old["low"] <= new["high"] and new["low"] <= old["high"]:
        return ""
    return "better" if (new["median"] > old["median"]) is up else "WORSE"


def _change(old: float, new: float) -> str:
    return f"{100 * (new / old - 1):+.0f} %" if old else "—"
