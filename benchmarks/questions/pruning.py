"""Does a commit ever wait for pruning?

A journal is opened that is full of events past retention, and pruned a piece at a time while 10
publishers await each commit; then they publish for as long while nothing is pruned. A commit waits
for one piece at most, so what can block it is the longest piece. A piece is a commit of its own,
and the disk takes its time for any: the baseline is the longest of the publishers' commits while
nothing is pruned, and where that alone exceeds the goal, nothing is judged.

Beside it stands what a publisher sees: how long it waits for a commit, p99 and longest.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

from actorbus import EventBus
from actorbus.journal.base import Operation, Result
from actorbus.journal.sqlite import SqliteJournal
from benchmarks.case import Case, Effort, Figure, Goal, Spread
from benchmarks.disk import ORDER, TOPIC, folder
from benchmarks.questions.redelivery import fill

EVENTS = 200_000  # past retention
ROUNDS = 5
PUBLISHERS = 10
BLOCK_MS = 20.0
AGE = 8 * 86_400.0  # seconds; retention is a week


class Timed(SqliteJournal):
    """A journal that notes how long each commit and each piece took, in ms."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.commits: list[float] = []
        self.pieces: list[float] = []
        self.pruned = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def commit(self, operations: Sequence[Operation]) -> list[Result]:
        began = time.perf_counter()
        results = super().commit(operations)
        self.commits.append(1000 * (time.perf_counter() - began))
        return results

    def prune(self, now: float) -> bool:
        began = time.perf_counter()
        more = super().prune(now)
        self.pieces.append(1000 * (time.perf_counter() - began))
        if not more:
            self._loop.call_soon_threadsafe(self.pruned.set)
        return more


async def _publishing(bus: EventBus, until: asyncio.Event) -> list[float]:
    """Publish and await until told to stop; return how long each await took, in ms."""
    waits: list[float] = []

    async def publish() -> None:
        while not until.is_set():
            began = time.perf_counter()
            await bus.publish(TOPIC, ORDER)
            waits.append(1000 * (time.perf_counter() - began))

    await asyncio.gather(*(publish() for _ in range(PUBLISHERS)))
    return waits


async def _round(count: int) -> tuple[Timed, list[float], list[float], list[float]]:
    """Return the journal, the awaits while it prunes and while not, and the commits while not."""
    with folder() as home:
        fill(home / "bus.db", count, 0, time.time() - AGE)
        journal = Timed(home / "bus.db")
        bus = EventBus("bench", journal=journal)
        await bus.start()
        began = time.perf_counter()
        pruning = await _publishing(bus, journal.pruned)
        over = asyncio.Event()
        asyncio.get_running_loop().call_later(time.perf_counter() - began, over.set)
        journal.commits.clear()
        quiet = await _publishing(bus, over)
        commits = journal.commits.copy()
        await bus.close()
    return journal, pruning, quiet, commits


async def measure(effort: Effort) -> list[Figure]:
    """Return the longest piece, and the waits of publishers."""
    longest, alone, waits, pieces = [], [], [], 0
    for _ in range(effort.pick(ROUNDS, 2)):
        journal, pruning, quiet, commits = await _round(effort.pick(EVENTS, 5_000))
        longest.append(max(journal.pieces))
        alone.append(max(commits))
        waits.append((pruning, quiet))
        pieces += len(journal.pieces)
    piece = Figure(
        "longest piece",
        "ms",
        Spread.of(longest),
        Spread.of(alone),
        Spread.of(a / b for a, b in zip(alone, longest, strict=True)),
        against="the longest commit while nothing is pruned",
        goal=Goal("worst", at_most=BLOCK_MS) if max(alone) <= BLOCK_MS else None,
        notes={"pieces": pieces},
    )
    return [piece, *(_waits(name, share, waits) for name, share in (("p99", 0.99), ("max", 1.0)))]


def _waits(name: str, share: float, waits: Sequence[tuple[list[float], list[float]]]) -> Figure:
    def at(found: list[float]) -> float:
        return sorted(found)[int(share * (len(found) - 1))]

    return Figure(
        f"a publisher waits, {name}",
        "ms",
        Spread.of(at(pruning) for pruning, _ in waits),
        Spread.of(at(quiet) for _, quiet in waits),
        Spread.of(at(quiet) / at(pruning) for pruning, quiet in waits),
        against="while nothing is pruned",
    )


CASES = [
    Case(
        "pruning.blocks",
        f"{EVENTS:,} events past retention are pruned beside publishers",
        "the journal has nothing more to prune",
        measure,
    )
]
