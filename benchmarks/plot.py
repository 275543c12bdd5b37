"""SVG for the README, light and dark: the same JSON gives the same bytes.

No date, no random identifiers, no system fonts: all are switched off or fixed. (Another version of
matplotlib may draw differently.)
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.show import short

SHAPES = {"throughput.1-1": "1 → 1", "throughput.1-10": "1 → 10", "throughput.1-100": "1 → 100"}
THEMES = {
    "light": {"text": "#1f2328", "own": "#1a7f64", "other": "#b6bec9", "line": "#6e7781"},
    "dark": {"text": "#e6edf3", "own": "#3fb68b", "other": "#57606a", "line": "#8b949e"},
}
SETTINGS = {
    "svg.hashsalt": "actorbus",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 9,
}


def draw(report: dict[str, Any], folder: Path) -> list[Path]:
    """Draw the charts of a report.

    Args:
        report: As written by ``--json``.
        folder: Where to; made if missing.

    Returns:
        The files written.

    Raises:
        ImportError: matplotlib is missing.
    """
    matplotlib = import_module("matplotlib")  # by name: it is not always installed
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    charts = {"throughput": _throughput, "costs": _costs}
    with matplotlib.rc_context(SETTINGS):
        for name, chart in charts.items():
            for theme, colours in THEMES.items():
                figure = chart(report, colours)
                if figure is None:
                    continue
                path = folder / f"{name}-{theme}.svg"
                figure.savefig(path, format="svg", transparent=True, metadata={"Date": None})
                written.append(path)
    return written


def _throughput(report: dict[str, Any], colours: dict[str, str]) -> Any:
    """Draw multiples of the baseline, actorbus and peers, one panel per fan-out.

    A logarithmic scale has no zero to begin at: the bars begin at the baseline.
    """
    panels = {case: bars for case in SHAPES if (bars := _ratios(report, case))}
    if not panels:
        return None
    height = 0.9 + 0.24 * max(len(bars) for bars in panels.values())
    figure = import_module("matplotlib.figure").Figure((9.6, height), layout="constrained")
    figure.suptitle(
        "Deliveries per CPU second, as multiples of an asyncio.Queue(1024) by hand (log scale)",
        color=colours["text"], fontsize=10,
    )  # fmt: skip
    for axes, (case, bars) in zip(
        figure.subplots(1, len(panels), squeeze=False, sharex=True)[0], panels.items(), strict=True
    ):
        axes.set_title(SHAPES[case], color=colours["text"], fontsize=9)
        axes.set_xscale("log")
        _bars(axes, bars, colours, lambda value: f"{short(value)}x", start=1.0)
        axes.axvline(1, color=colours["line"], linewidth=0.8)
        axes.tick_params(axis="x", labelbottom=False)  # every bar has its figure
        axes.tick_params(axis="y", pad=12)
    return figure


def _costs(report: dict[str, Any], colours: dict[str, str]) -> Any:
    """Draw what each feature costs, in per cent of a delivery."""
    bars = {
        result["case"].partition(".")[2]: figure["subject"]
        for result in report["results"]
        for figure in result["figures"]
        if result["case"].startswith("features.") and figure["what"] == "cost"
    }
    if not bars:
        return None
    size = (6.4, 0.9 + 0.24 * len(bars))
    figure = import_module("matplotlib.figure").Figure(size, layout="constrained")
    axes = figure.subplots()
    axes.set_title("CPU time a feature adds to a delivery", color=colours["text"], fontsize=10)
    _bars(axes, _sorted(bars), colours, lambda value: f"{value:+.0f} %")
    return figure


def _ratios(report: dict[str, Any], case: str) -> dict[str, dict[str, Any]]:
    found = {}
    for result in report["results"]:
        if result["case"] == case and result["figures"]:
            figure = result["figures"][0]
            queued = figure["notes"].get("queue") != "none"
            found[result["subject"] + ("" if queued else " (no queue)")] = figure["ratio"]
    return _sorted(found)


def _sorted(bars: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return dict(sorted(bars.items(), key=lambda item: (item[1]["median"], item[0])))


def _bars(
    axes: Any,
    bars: dict[str, dict[str, Any]],
    colours: dict[str, str],
    label: Callable[[float], str],
    *,
    start: float = 0.0,
) -> None:
    """Draw bars from `start` to the medians, a line from best to worst, and the figures."""
    names = list(bars)
    medians = [bars[name]["median"] for name in names]
    fills = [colours["own" if name == "actorbus" else "other"] for name in names]
    widths = [median - start for median in medians]
    axes.barh(names, widths, left=start, color=fills, height=0.68)
    for row, name in enumerate(names):
        spread = bars[name]
        axes.plot([spread["low"], spread["high"]], [row, row], color=colours["line"], linewidth=1)
        left = spread["median"] < start
        at = min(spread["low"], start) if left else max(spread["high"], start)
        axes.annotate(
            label(spread["median"]), (at, row), (-4 if left else 4, 0), color=colours["text"],
            textcoords="offset points", ha="right" if left else "left", va="center", fontsize=8,
        )  # fmt: skip
    axes.margins(x=0.28 if start == 0 else 0.42)
    axes.tick_params(colors=colours["text"], labelsize=8)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.tick_params(which="both", length=0)
