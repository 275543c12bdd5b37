"""How long does it take to drain a mailbox of 100,000 deliveries?"""

from __future__ import annotations

import asyncio
from typing import Any

from actorbus import EventBus
from benchmarks.case import Case, Effort, Figure
from benchmarks.clock import Lap, Stopwatch, alternate, rate_figure
from benchmarks.contender import TOPIC

QUEUED = 100_000


async def handle(_: Any) -> None:
    """Handle one event."""


async def drained(count: int) -> Lap:
    """Fill a mailbox, off the clock, and time the drain."""
    bus = EventBus("bench")
    bus.subscribe(TOPIC, handle, mailbox=count)
    await bus.start()
    for number in range(count):
        bus.publish(TOPIC, number)
    with Stopwatch() as watch:
        report = await bus.drain(timeout=60)
    if not report.complete or bus.audit().totals.acked != count:
        raise RuntimeError(f"the drain left something: {report}")
    await bus.close()
    return watch.lap(count)


async def emptied(count: int) -> Lap:
    """Fill a queue, off the clock, and time until it is empty."""
    queue: asyncio.Queue[int] = asyncio.Queue(count)
    for number in range(count):
        queue.put_nowait(number)

    async def consume() -> None:
        while True:
            await handle(await queue.get())
            queue.task_done()

    with Stopwatch() as watch:
        consumer = asyncio.create_task(consume())
        await queue.join()
    consumer.cancel()
    return watch.lap(count)


async def measure(effort: Effort) -> list[Figure]:
    """Return the rate of draining, and the seconds."""
    count = effort.pick(QUEUED, 1_000)
    baseline, subject = await alternate((emptied, drained), (count, count), effort.rounds)
    figure = rate_figure("drained", "deliveries/s", subject, baseline, "Queue.join()")
    figure.notes["seconds"] = sorted(lap.wall for lap in subject)[len(subject) // 2]
    return [figure]


CASES = [
    Case(
        "drain.100000",
        f"Drain {QUEUED:,} queued deliveries",
        "bus.drain() has returned and its report is complete",
        measure,
    )
]
