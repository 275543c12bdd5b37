"""How fast are events committed to disk, next to `sqlite3` by hand and to queues on SQLite?

Wall time: whoever waits for a disk waits, and the disk is the same for both. `benchmarks.disk` says
what the raw baseline does. The queues commit each item by itself, as they are made, with
``synchronous=FULL``, one caller and no thread in between, which is their fastest: they are asked
how many items a second, actorbus how many with 100 publishers, who share commits. Where handlers
are in the case, each item is also taken and acknowledged.

A burst is published without a pause and without awaiting; it is over when the last receipt says
that its event is on disk, and all those before it are.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from actorbus import EventBus
from actorbus.journal.base import Operation, Result
from actorbus.journal.sqlite import SqliteJournal
from benchmarks.case import Case, Effort, Figure, Goal, Spread
from benchmarks.clock import (
    Collections,
    Lap,
    Stopwatch,
    Trial,
    alternate,
    fitting,
    ratio,
    wall_ratio,
)
from benchmarks.contender import CAPACITY, Count
from benchmarks.disk import ORDER, TOPIC, folder, group, raw
from benchmarks.peers import QUEUES, load
from benchmarks.questions.scrape import longest_turn

PUBLISHERS = 100
BURST = 10_000  # as many events as may wait for a commit
MOST = 100_000  # events a lap
LAP_SECONDS = 0.5  # a checkpoint takes a while, and each lap should have some
TIMES = 10.0  # as fast as a queue on SQLite
HOLD_MS = 5.0
RAW = "sqlite3, rows ready"

Publish = Callable[[EventBus, int], Awaitable[None]]


class Counting(SqliteJournal):
    """A journal that counts its commits."""

    commits = 0

    def commit(self, operations: Sequence[Operation]) -> list[Result]:
        self.commits += 1
        return super().commit(operations)


async def awaited(publishers: int, bus: EventBus, count: int) -> None:
    """Publish from many tasks, each awaiting every receipt."""

    async def publish(share: int) -> None:
        for _ in range(share):
            await bus.publish(TOPIC, ORDER)

    await asyncio.gather(*(publish(count // publishers) for _ in range(publishers)))


async def burst(bus: EventBus, count: int) -> None:
    """Publish without awaiting anything but the last receipt."""
    receipts = [bus.publish(TOPIC, ORDER) for _ in range(count)]
    await receipts[-1]


async def durable(publish: Publish, step: int, handled: bool, commits: list[float], n: int) -> Lap:
    """Time about so many events on a bus with a journal.

    Args:
        publish: How.
        step: The count is a multiple of it.
        handled: Whether there is a durable subscription, and the clock runs until it has them all.
        commits: Gets the events per commit.
        n: How many.
    """
    events = max(1, n // step) * step
    count = Count(int(handled), events)
    with folder() as home:
        journal = Counting(home / "bus.db")
        bus = EventBus("bench", journal=journal)
        for handler in count.handlers:
            bus.subscribe(TOPIC, handler, name="reader", durable="reader", mailbox=CAPACITY)
        await bus.start()
        await bus.settle()
        before = journal.commits
        with Stopwatch() as watch:
            await publish(bus, events)
            if handled:
                await count.finished()
        commits.append(events / (journal.commits - before))
        await bus.close()
    return watch.lap(events)


async def queued(peer: str, handled: bool, count: int) -> Lap:
    """Time so many items of a queue on SQLite: put, and also taken and acknowledged if asked."""
    with folder() as home:
        store: Any = load(peer)(home)
        work = store.through if handled else store.put
        with Stopwatch() as watch:
            for _ in range(count):
                work(ORDER)
        store.close()
    return watch.lap(count)


def _figure(name: str, subject: Sequence[Lap], baseline: Sequence[Lap]) -> Figure:
    return Figure(
        name,
        "events/s",
        Spread.of(lap.wall_rate for lap in subject),
        Spread.of(lap.wall_rate for lap in baseline),
        wall_ratio(subject, baseline),
        against=RAW,
        notes={"events_per_lap": subject[0].count, "ratio_in_cpu": ratio(subject, baseline).median},
    )


async def _against_raw(
    name: str, trial: Trial, batch: int, effort: Effort, most: int = MOST
) -> Figure:
    """Run a contender in turn with the raw baseline."""
    if not effort.quick:
        effort = replace(effort, lap_seconds=LAP_SECONDS)
    trials: list[Trial] = [partial(raw, batch), trial]
    counts = [await fitting(each, effort, effort.pick(most, 1_000), batch) for each in trials]
    counts = [each // batch * batch for each in counts]
    baseline, subject = await alternate(trials, counts, effort.rounds)
    return _figure(name, subject, baseline)


def case(
    name: str, text: str, publishers: int, least: float | None, *, handled: bool = False
) -> Case:
    """Make the case of publishers that await."""

    async def measure(effort: Effort) -> list[Figure]:
        commits: list[float] = []
        trial = partial(durable, partial(awaited, publishers), publishers, handled, commits)
        figure = await _against_raw("actorbus", trial, publishers, effort)
        figure.notes["events_per_commit"] = Spread.of(commits[-effort.rounds :]).median
        if least is None:
            return [figure]
        figure.goal = Goal("ratio", at_least=least)
        hand = partial(group, publishers)
        return [figure, await _against_raw("by hand", hand, publishers, effort)]

    async def measure_peer(effort: Effort, peer: str) -> list[Figure]:
        figure = await _against_raw(peer, partial(queued, peer, handled), publishers, effort)
        figure.notes["publishes"] = load(peer).publishes
        return [figure]

    completion = "every receipt has been awaited" + ", and the last handler called" * handled
    if publishers == 1:
        return Case(f"durable.{name}", text, completion, measure)
    times = dict.fromkeys(QUEUES, TIMES)
    return Case(f"durable.{name}", text, completion, measure, measure_peer, times, QUEUES)


async def measure_burst(effort: Effort) -> list[Figure]:
    """Return the rate of a burst: the baseline commits all of it at once."""
    count = effort.pick(BURST, 1_000)
    trials = [partial(raw, count), partial(durable, burst, 1, False, [])]
    baseline, subject = await alternate(trials, (count, count), effort.rounds)
    return [_figure("actorbus", subject, baseline)]


async def measure_hold(effort: Effort) -> list[Figure]:
    """Return how long the loop was held at worst, with 100 publishers and a durable handler."""
    holds, idles, collector = [], [], Collections()
    count = effort.pick(20_000, 1_000)
    for _ in range(effort.rounds):
        with folder() as home:
            held, took = await _held(home, count, collector)
        idle, _ = await longest_turn(partial(asyncio.sleep, took / 1000))
        holds.append(held)
        idles.append(idle)
    return [hold_figure(holds, idles, collector)]


async def _held(home: Path, count: int, collector: Collections) -> tuple[float, float]:
    counted = Count(1, count)
    bus = EventBus("bench", journal=SqliteJournal(home / "bus.db"))
    bus.subscribe(TOPIC, counted.handlers[0], durable="reader", mailbox=CAPACITY)
    await bus.start()
    await bus.settle()

    async def work() -> None:
        await awaited(PUBLISHERS, bus, count)
        await counted.finished()

    gc.collect()  # what came before
    with collector:
        found = await longest_turn(work)
    await bus.close()
    return found


def hold_figure(holds: Sequence[float], idles: Sequence[float], collector: Collections) -> Figure:
    """Return the figure of how long the loop was held; where an idle one is, nothing is judged.

    The longest garbage collection meanwhile is in the notes: it is part of what is judged.
    """
    return Figure(
        "loop held",
        "ms",
        Spread.of(holds),
        Spread.of(idles),
        Spread.of(i / h for i, h in zip(idles, holds, strict=True)),
        against="an idle loop",
        goal=Goal("worst", at_most=HOLD_MS) if max(idles) <= HOLD_MS else None,
        notes={"longest_collection_ms": collector.longest},
    )


CASES = [
    case("100", "100 publishers await each commit", PUBLISHERS, 0.5),
    case("100-handled", "The same with a durable subscription", PUBLISHERS, None, handled=True),
    case("1", "One publisher awaits each commit", 1, 0.8),
    case("1-handled", "The same with a durable subscription", 1, None, handled=True),
    Case("durable.burst", f"{BURST:,} publishes, none awaited", "all are on disk", measure_burst),
    Case("durable.hold", "How long durable publishing holds the loop", "all are handled",
         measure_hold),
]  # fmt: skip
