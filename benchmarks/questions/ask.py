"""How long is a round trip: ask, handle, reply?

The baseline is a queue of (request, future) pairs and a task that sets the future's result.
"""

from __future__ import annotations

import asyncio
from typing import Any

from actorbus import EventBus
from benchmarks.case import Case, Effort, Figure
from benchmarks.clock import Lap, Stopwatch, alternate, fitting, rate_figure
from benchmarks.contender import CAPACITY, TOPIC


async def reply(data: Any) -> Any:
    """Reply with what was asked."""
    return data


async def asks(count: int, *, timeout: float | None = 5.0) -> Lap:
    """Time so many asks, one after the other."""
    async with EventBus("bench") as bus:
        bus.subscribe(TOPIC, reply, mailbox=CAPACITY)
        with Stopwatch() as watch:
            for number in range(count):
                await bus.ask(TOPIC, number + 1, timeout)
    return watch.lap(count)


async def asks_without_timeout(count: int) -> Lap:
    """Time so many asks that would wait for ever."""
    return await asks(count, timeout=None)


async def by_hand(count: int) -> Lap:
    """Time so many round trips through a queue, without a timeout."""
    queue: asyncio.Queue[tuple[int, asyncio.Future[Any]]] = asyncio.Queue(CAPACITY)

    async def consume() -> None:
        while True:
            number, future = await queue.get()
            future.set_result(await reply(number))

    consumer = asyncio.create_task(consume())
    loop = asyncio.get_running_loop()
    with Stopwatch() as watch:
        for number in range(count):
            future = loop.create_future()
            await queue.put((number + 1, future))
            await future
    consumer.cancel()
    return watch.lap(count)


async def measure(effort: Effort) -> list[Figure]:
    """Return the rate of round trips, with and without a timeout."""
    trials = (by_hand, asks, asks_without_timeout)
    counts = [await fitting(each, effort, effort.pick(20_000, 500)) for each in trials]
    baseline, timed, free = await alternate(trials, counts, effort.rounds)
    against = "Queue and future"
    return [
        rate_figure("ask, timeout=5", "round trips/s", timed, baseline, against),
        rate_figure("ask, timeout=None", "round trips/s", free, baseline, against),
    ]


CASES = [
    Case("ask.round-trip", "Ask and wait for the reply", "each reply before the next ask", measure)
]
