"""The books and the size of the process, second by second; and what is wrong with them.

A second is one of the loop's, and the soak is so many looks long: a process that was stopped for a
while makes a gap, which is counted and otherwise ignored.
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any

from actorbus import EventBus

EVERY = 1.0  # seconds between two looks
GAP = 1.0  # seconds a look may be late before it counts as a gap
DRIFT = 0.05  # how much a median may grow from the second to the last fifth
SLACK = {"rss_mib": 0, "objects": 0, "tasks": 3, "threads": 3, "fds": 1}
"""What may be added to that: the growth that says nothing in a number so small."""
JUDGED = 300  # looks from which on a drift is told from a warm-up


@dataclass(frozen=True, slots=True)
class Look:
    """What one look found.

    Attributes:
        second: Since the start, gaps included.
        late: Seconds by which the look came too late.
        published: Events so far.
        settled: Deliveries settled so far.
        pending: Deliveries waiting, queued, running or retrying.
        rss_mib: Resident memory.
        tasks: Tasks of the loop.
        threads: Threads of the process.
        fds: Open files.
        objects: Objects the garbage collector knows.
    """

    second: float
    late: float
    published: int
    settled: int
    pending: int
    rss_mib: float
    tasks: int
    threads: int
    fds: int
    objects: int


def look_at(bus: EventBus, second: float, late: float) -> tuple[Look, dict[str, int]]:
    """Return what there is to see, and whose books are out by how much."""
    audit = bus.audit()
    totals = audit.totals
    seen = Look(
        second=round(second, 2), late=round(late, 4), published=bus.get_stats()["events_published"],
        settled=totals.acked + totals.dead + totals.conflated, pending=totals.pending,
        rss_mib=round(rss() / 2**20, 2), tasks=len(asyncio.all_tasks()),
        threads=threading.active_count(), fds=open_files(), objects=len(gc.get_objects()),
    )  # fmt: skip
    return seen, audit.differences


async def watch(
    bus: EventBus, looks: int, tell: Callable[[list[Look]], None]
) -> tuple[list[Look], list[str]]:
    """Look every second; return what was seen, and when the books were out.

    Args:
        bus: Whose books.
        looks: How often.
        tell: Is given what was seen so far, after each look.
    """
    loop = asyncio.get_running_loop()
    began = due = loop.time()
    seen: list[Look] = []
    out: list[str] = []
    while len(seen) < looks:
        due += EVERY
        await asyncio.sleep(due - loop.time())
        now = loop.time()
        look, differences = look_at(bus, now - began, now - due)
        due = max(due, now - EVERY)  # after a gap it goes on from here
        seen.append(look)
        if differences:
            out.append(f"at {look.second:.0f} s the books were out: {differences}")
        tell(seen)
    return seen, out


def drifts(seen: Sequence[Look]) -> dict[str, dict[str, float]]:
    """Return each size at the second and at the last fifth, and how far the last may be."""
    fifth = max(1, len(seen) // 5)
    found = {}
    for name, slack in SLACK.items():
        early = median(getattr(each, name) for each in seen[fifth : 2 * fifth] or seen)
        late = median(getattr(each, name) for each in seen[-fifth:])
        allowed = early * (1 + DRIFT) + slack
        found[name] = {"early": early, "late": late, "allowed": round(allowed, 2)}
    return found


def too_large(found: dict[str, dict[str, float]]) -> Iterator[str]:
    """Say what has grown beyond its bound."""
    for name, each in found.items():
        if each["late"] > each["allowed"]:
            yield f"{name} grew from {each['early']} to {each['late']}: more than {each['allowed']}"


def gaps(seen: Sequence[Look]) -> list[float]:
    """Return the seconds by which looks came too late to be the bus's doing alone."""
    return [each.late for each in seen if each.late > GAP]


def columns(seen: Sequence[Look], most: int = 180) -> dict[str, list[Any]]:
    """Return at most so many of the looks, evenly spread, as one list per size."""
    thinned = [asdict(each) for each in seen[:: -(-len(seen) // most)]]
    return {one.name: [each[one.name] for each in thinned] for one in fields(Look)}


def rss() -> int:
    """Return the resident memory in bytes; its peak, where the system tells no more."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def open_files() -> int:
    """Return how many files are open, where the system tells."""
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0
