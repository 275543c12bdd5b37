"""What do 100,000 idle actors cost: how fast are they made, how many bytes is each?

The baseline is an idle ``asyncio.Queue(1024)`` with a task that awaits ``get``. Bytes are what the
interpreter has allocated (`tracemalloc`), counted on a smaller number apart from the clock; what
the operating system sees for all of them is in the notes.
"""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Awaitable, Callable
from typing import Any

from actorbus import Actor, Event, EventBus
from benchmarks.case import Case, Effort, Figure, Goal, Spread
from benchmarks.clock import Lap, Stopwatch, alternate, rate_figure
from benchmarks.residence import resident_bytes

ACTORS = 100_000
TRACED = 4_000


class Idler(Actor):
    """An actor with nothing to do."""

    async def receive(self, event: Event) -> None:
        """Handle one event, if ever one comes."""


async def idle(_: Any) -> None:
    """Handle one event, if ever one comes."""


class Functions:
    """Subscriptions of functions."""

    def __init__(self) -> None:
        self.bus = EventBus("bench")

    async def make(self, count: int) -> None:
        """Make so many."""
        for number in range(count):
            self.bus.subscribe(f"idle:{number}", idle, name=f"idle-{number}")
        await self.settled()

    async def settled(self) -> None:
        """Wait until they are ready."""
        await self.bus.start()
        await self.bus.settle()

    async def close(self) -> None:
        """End them all."""
        await self.bus.close()


class Classes(Functions):
    """Actors with a class of their own, subscribed to nothing but what they are told."""

    async def make(self, count: int) -> None:
        for number in range(count):
            self.bus.spawn(Idler, name=f"idle-{number}")
        await self.settled()


class IdleQueues:
    """Queues with a task each."""

    def __init__(self) -> None:
        self.tasks: list[asyncio.Task[None]] = []

    async def make(self, count: int) -> None:
        """Make so many."""
        for _ in range(count):
            queue: asyncio.Queue[Any] = asyncio.Queue(1024)
            self.tasks.append(asyncio.create_task(_consume(queue)))
        await asyncio.sleep(0)

    async def close(self) -> None:
        """End them all."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def _consume(queue: asyncio.Queue[Any]) -> None:
    while True:
        await idle(await queue.get())


Maker = Callable[[], Any]


def _spawning(maker: Maker) -> Callable[[int], Awaitable[Lap]]:
    async def trial(count: int) -> Lap:
        many = maker()
        with Stopwatch() as watch:
            await many.make(count)
        await many.close()
        return watch.lap(count)

    return trial


async def _bytes_each(maker: Maker, count: int) -> float:
    warm = maker()
    await warm.make(10)
    await warm.close()
    many = maker()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    await many.make(count)
    held = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    await many.close()
    return held / count


async def _resident_each(maker: Maker, count: int) -> float:
    many = maker()
    before = resident_bytes()
    await many.make(count)
    held = resident_bytes() - before
    await many.close()
    return held / count


def case(name: str, text: str, maker: Maker) -> Case:
    """Make the case of one kind of actor."""

    async def measure(effort: Effort) -> list[Figure]:
        count = effort.pick(ACTORS, 500)
        resident = await _resident_each(maker, count)  # first: later ones find memory to reuse
        trials = [_spawning(IdleQueues), _spawning(maker)]
        rounds = min(effort.rounds, 5)
        baseline, subject = await alternate(trials, [count, count], rounds)
        against = "Queue and task"
        rate = rate_figure("spawned", "actors/s", subject, baseline, against)
        rate.goal = Goal("subject", at_least=50_000)
        traced = effort.pick(TRACED, 500)
        sizes = [
            [await _bytes_each(kind, traced) for kind in (IdleQueues, maker)] for _ in range(rounds)
        ]
        queues, each = zip(*sizes, strict=True)
        size = Figure(
            "size",
            "bytes each",
            Spread.of(each),
            Spread.of(queues),
            Spread.of(q / e for q, e in sizes),
            against=against,
            goal=Goal("subject", at_most=2048),
            notes={"resident_bytes_each": resident},
        )
        return [rate, size]

    completion = "all are made, started, and the bus has settled"
    return Case(f"idle.{name}", text, completion, measure)


CASES = [
    case("functions", f"{ACTORS:,} idle subscriptions of a function", Functions),
    case("classes", f"{ACTORS:,} idle actors with a class of their own", Classes),
]
