"""How soon does a durable subscription get what waits for it, and how fast, with 1,000,000 events?

The journal was closed properly; the cursor of the subscription is before its first event. *Starts*
counts from the call of ``start()``, the opening of the journal included, to the first call of the
handler; ``after_start`` in the notes counts from its return, and is negative: handlers do not wait
for it. *Streamed* is per second of wall time, from the first call to the last, with all that is
noted as settled meanwhile.

The baseline reads the same rows by hand in one thread, a thousand at a time, decodes the JSON and
awaits the same handler: no checksum, and nothing is remembered of what was handled.
"""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import time
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from actorbus import EventBus
from actorbus.journal.base import Append, Join
from actorbus.journal.sqlite import SqliteJournal
from benchmarks.case import Case, Effort, Figure, Goal, Spread
from benchmarks.clock import Collections, Lap, Stopwatch, wall_ratio
from benchmarks.contender import CAPACITY
from benchmarks.disk import TOPIC, entry, folder
from benchmarks.questions.durable import hold_figure
from benchmarks.questions.scrape import longest_turn

EVENTS = 1_000_000
ROUNDS = 3  # each takes some ten seconds, and half a minute is enough to find a slow turn
TOGETHER = 10_000  # rows in a commit while the journal is filled
PAGE = 1_000


class Reader:
    """A handler that notes its first call and waits for its last.

    Args:
        count: Calls it is to see.
    """

    def __init__(self, count: int) -> None:
        self.first = 0.0
        self.left = count
        self.done = asyncio.get_running_loop().create_future()

    async def handle(self, _: Any) -> None:
        """Handle one event."""
        if not self.first:
            self.first = time.perf_counter()
        self.left -= 1
        if not self.left:
            self.done.set_result(None)


def fill(path: Path, count: int, readers: int, time: float) -> None:
    """Make a journal with so many events, and durable subscriptions that have seen none of them."""
    journal = SqliteJournal(path)
    journal.open("process")
    journal.commit([Join(f"reader-{n}", (TOPIC,), CAPACITY + 1) for n in range(readers)])
    for start in range(0, count, TOGETHER):
        numbers = range(start, min(count, start + TOGETHER))
        journal.commit([Append(entry(number, time)) for number in numbers])
    journal.close(clean=True)


def _bus(path: Path, number: int, count: int) -> tuple[EventBus, Reader]:
    reader, name = Reader(count), f"reader-{number}"
    bus = EventBus("bench", journal=SqliteJournal(path))
    bus.subscribe(TOPIC, reader.handle, name=name, durable=name, mailbox=CAPACITY)
    return bus, reader


async def redelivered(path: Path, number: int, count: int) -> tuple[Lap, float, float]:
    """Let a subscription have all; return the lap, and the ms from and after ``start()``."""
    bus, reader = _bus(path, number, count)
    with Stopwatch() as watch:
        began = time.perf_counter()
        await bus.start()
        started = time.perf_counter()
        await reader.done
        ended = time.perf_counter()
    await bus.close()
    lap = Lap(count, watch.cpu, ended - reader.first)
    return lap, 1000 * (reader.first - began), 1000 * (reader.first - started)


async def held(path: Path, number: int, count: int, collector: Collections) -> tuple[float, float]:
    """Return how long the loop was held, and how long all took, in ms."""
    bus, reader = _bus(path, number, count)

    async def work() -> None:
        await bus.start()
        await reader.done

    gc.collect()  # what came before
    with collector:
        found = await longest_turn(work)
    await bus.close()
    return found


async def by_hand(path: Path, count: int) -> Lap:
    """Time reading the same rows, and awaiting the handler with each."""
    reader, decode = Reader(count), msgspec.json.Decoder().decode
    connection = sqlite3.connect(path)
    with Stopwatch() as watch:
        rows = connection.execute("SELECT id, topic, time, body FROM event ORDER BY seq")
        while page := rows.fetchmany(PAGE):
            for *_, body in page:
                await reader.handle(decode(body))
            await asyncio.sleep(0)
    connection.close()
    assert reader.done.done()
    return watch.lap(count)


async def measure(effort: Effort) -> list[Figure]:
    """Return when redelivery starts, how fast it streams, and how long it holds the loop."""
    count = effort.pick(EVENTS, 5_000)
    hand, laps, starts, after, holds, idles = [], [], [], [], [], []
    collector = Collections()
    with folder() as home:
        path = home / "bus.db"
        fill(path, count, 2 * ROUNDS, time.time())
        for number in range(ROUNDS):
            hand.append(await by_hand(path, count))
            lap, from_start, after_start = await redelivered(path, number, count)
            laps.append(lap)
            starts.append(from_start)
            after.append(after_start)
        for number in range(ROUNDS, 2 * ROUNDS):
            hold, took = await held(path, number, count, collector)
            idle, _ = await longest_turn(partial(asyncio.sleep, took / 1000))
            holds.append(hold)
            idles.append(idle)
    begin = Figure(
        "starts",
        "ms",
        Spread.of(starts),
        against="",
        goal=Goal("subject", at_most=10.0),
        notes={"after_start": Spread.of(after).median, "events": count},
    )
    stream = Figure(
        "streamed",
        "deliveries/s",
        Spread.of(lap.wall_rate for lap in laps),
        Spread.of(lap.wall_rate for lap in hand),
        wall_ratio(laps, hand),
        against="rows read by hand",
        goal=Goal("subject", at_least=100_000),
    )
    return [stream, begin, hold_figure(holds, idles, collector)]


CASES = [
    Case(
        f"redelivery.{EVENTS}",
        f"A durable subscription with {EVENTS:,} events to come",
        "the last handler call",
        measure,
    )
]
