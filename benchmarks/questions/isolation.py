"""What does a healthy subscriber lose beside a slow one, and beside a failing one?

Compared with a healthy neighbour, which has to be served as well. The publisher awaits nothing and
yields every 256 events; the clock stops when the healthy subscriber has everything. The slow
neighbour sleeps 10 ms for each event, so its mailbox overflows; the failing one fails for good
every time. The baseline is a pair of queues fed with ``await put``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from actorbus import RetryPolicy
from benchmarks.case import Case, Effort, Figure, Spread
from benchmarks.clock import Lap, Stopwatch, alternate
from benchmarks.contender import Bus, Contender, Count, Handler, Queues

NAP = 0.01
Neighbour = Callable[[Any], Awaitable[None]]


async def healthy(_: Any) -> None:
    """Do nothing."""


async def slow(_: Any) -> None:
    """Take a while."""
    await asyncio.sleep(NAP)


async def failing(_: Any) -> None:
    """Fail."""
    raise ValueError("a bad neighbour")


class SurvivingQueues(Queues):
    """The baseline, with consumers that survive a failure."""

    async def consume(self, queue: Any, handler: Handler) -> None:
        while True:
            item = await queue.get()
            try:  # noqa: SIM105 as one writes it where time matters
                await handler(item)
            except ValueError:
                pass


class ImpatientBus(Bus):
    """actorbus; when it is over, what still stands in mailboxes is given up."""

    def __init__(self) -> None:
        super().__init__(awaited=False, options={"retry": RetryPolicy.none()})

    async def close(self) -> None:
        await self.bus.close(timeout=0)


async def beside(make: Callable[[], Contender], neighbour: Neighbour, events: int) -> Lap:
    """Time how long the healthy one takes for so many events beside a neighbour."""
    count = Count(1, events)
    handlers: Sequence[Any] = [*count.handlers, neighbour]
    contender = make()
    await contender.open(handlers)
    with Stopwatch() as watch:
        sending = asyncio.create_task(contender.send(events))
        await count.finished()
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    await contender.close()
    return watch.lap(events)


def case(name: str, neighbour: Neighbour) -> Case:
    """Make the case of one kind of neighbour."""

    async def measure(effort: Effort) -> list[Figure]:
        many, few = effort.pick(20_000, 500), effort.pick(1_100, 100)
        makers = (ImpatientBus, SurvivingQueues)
        trials = [partial(beside, make, each) for make in makers for each in (healthy, neighbour)]
        # Beside a slow neighbour the queues do a hundred events a second once its queue is full.
        slowed = few if neighbour is slow else many
        laps = await alternate(trials, [many, many, slowed, slowed], effort.rounds)
        bus, queues = _kept(laps[1], laps[0]), _kept(laps[3], laps[2])
        return [
            Figure(
                f"kept beside a {name} one",
                "% of its rate",
                Spread.of(bus),
                Spread.of(queues),
                Spread.of(b / q for b, q in zip(bus, queues, strict=True)),
                notes={"events": many, "events_of_queues": slowed},
            )
        ]

    text = f"What a healthy subscriber keeps of its rate beside a {name} neighbour"
    return Case(f"isolation.{name}", text, "the healthy subscriber has every event", measure)


def _kept(beside_bad: Sequence[Lap], beside_good: Sequence[Lap]) -> list[float]:
    """Return per cent of the wall rate, round by round: what a waiting publisher loses is time."""
    pairs = zip(beside_bad, beside_good, strict=True)
    return [100 * bad.wall_rate / good.wall_rate for bad, good in pairs]


CASES = [case("slow", slow), case("failing", failing)]
