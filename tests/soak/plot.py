"""A chart of a soak: events, memory, and what else must not grow, over time."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.plot import SETTINGS, THEMES

PANELS = {
    "published": "million events",
    "rss_mib": "MiB resident",
    "objects": "thousand objects",
    "tasks": "tasks",
}
SCALES = {"published": 1e6, "objects": 1e3}


def draw(report: dict[str, Any], folder: Path) -> list[Path]:
    """Draw the chart of a soak, light and dark; return the files.

    Args:
        report: As written by ``--json``.
        folder: Where to; made if missing.
    """
    matplotlib = import_module("matplotlib")  # by name: it is not always installed
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with matplotlib.rc_context(SETTINGS):
        for theme, colours in THEMES.items():
            path = folder / f"soak-{theme}.svg"
            _chart(report["looks"], colours).savefig(
                path, format="svg", transparent=True, metadata={"Date": None}
            )
            written.append(path)
    return written


def _chart(looks: dict[str, list[Any]], colours: dict[str, str]) -> Any:
    figure = import_module("matplotlib.figure").Figure((9.6, 2.2), layout="constrained")
    minutes = [second / 60 for second in looks["second"]]
    panels = zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True)
    for axes, (name, title) in panels:
        values = [value / SCALES.get(name, 1) for value in looks[name]]
        axes.plot(minutes, values, color=colours["own"], linewidth=1.2)
        axes.set_title(title, color=colours["text"], fontsize=9)
        axes.set_ylim(0, 1.15 * max(values))
        axes.set_xlabel("minutes", color=colours["text"], fontsize=8)
        axes.tick_params(colors=colours["text"], labelsize=8, length=0)
        for side in axes.spines.values():
            side.set_color(colours["line"])
    return figure
