"""Where a run took place: machine, Python, versions and commit.

A report may be published, so nothing here names one particular machine or whose it is.
"""

from __future__ import annotations

import asyncio
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.peers import installed

ROOT = Path(__file__).parents[1]
DISTRIBUTIONS = ("actorbus", "anyio", "msgspec", "prometheus-client", "matplotlib")


def provenance() -> dict[str, Any]:
    """Return everything a reader needs to judge whether two runs can be compared."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "system": platform.system(),
            "processor": _processor(),
            "cores": os.cpu_count(),
            "load": _load(),
        },
        "python": {
            "version": platform.python_version(),
            "implementation": platform.python_implementation(),
            "compiler": platform.python_compiler(),
            "event_loop": _event_loop(),
        },
        "versions": {**_versions(), **installed()},
        "commit": _commit(),
    }


def _event_loop() -> str:
    loop = asyncio.new_event_loop()
    loop.close()
    return type(loop).__name__


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _load() -> float | None:
    """Return how many programs wanted a core in the last minute, where that is known."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def _versions() -> dict[str, str]:
    found = {}
    for name in DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _commit() -> dict[str, Any]:
    """Return the commit, and whether the tree differs from it; None where there is no git."""
    return {"id": _git("rev-parse", "HEAD"), "changed": bool(_git("status", "--porcelain"))}


def _git(*command: str) -> str | None:
    try:
        ran = subprocess.run(  # noqa: S603 both commands are fixed
            ["git", *command],  # noqa: S607 whichever git there is
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return ran.stdout.strip()
