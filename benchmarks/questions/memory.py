"""Does memory stay flat while 1,000,000 events pass through a bus that keeps up?"""

from __future__ import annotations

import asyncio

from actorbus import EventBus
from benchmarks.case import Case, Effort, Figure, Goal, Spread
from benchmarks.contender import CAPACITY, YIELD_EVERY
from benchmarks.residence import MIB, resident_bytes

EVENTS = 1_000_000
BATCHES = 10
WARM = 2  # batches after which the history and the allocator have what they need
TOPICS = 100


async def nothing(_: object) -> None:
    """Handle one event."""


async def growth_of_bus(batch: int) -> list[int]:
    """Return the resident bytes after each batch through actorbus."""
    held = []
    async with EventBus("bench") as bus:
        bus.subscribe("bench:**", nothing, mailbox=CAPACITY)
        for _ in range(BATCHES):
            for number in range(batch):
                bus.publish(f"bench:{number % TOPICS}", {"number": number})
                if number % YIELD_EVERY == 0:
                    await asyncio.sleep(0)
            await bus.settle()
            held.append(resident_bytes())
    return held


async def growth_of_queue(batch: int) -> list[int]:
    """Return the resident bytes after each batch through the baseline."""
    held = []
    queue: asyncio.Queue[object] = asyncio.Queue(CAPACITY)

    async def consume() -> None:
        while True:
            await nothing(await queue.get())
            queue.task_done()

    consumer = asyncio.create_task(consume())
    for _ in range(BATCHES):
        for number in range(batch):
            await queue.put({"number": number})
        await queue.join()
        held.append(resident_bytes())
    consumer.cancel()
    return held


def _grown(held: list[int]) -> float:
    return (held[-1] - held[WARM - 1]) / MIB


async def measure(effort: Effort) -> list[Figure]:
    """Return how much memory grew once warm."""
    batch = effort.pick(EVENTS // BATCHES, 500)
    buses, queues = [], []
    for _ in range(min(effort.rounds, 5)):  # the bus first: later ones find memory to reuse
        buses.append(await growth_of_bus(batch))
        queues.append(await growth_of_queue(batch))
    figure = Figure(
        "growth",
        "MiB",
        Spread.of(_grown(held) for held in buses),
        Spread.of(_grown(held) for held in queues),
        goal=Goal("worst", at_most=1.0),
        notes={"resident_mib": [round(held / MIB, 2) for held in buses[0]]},
    )
    return [figure]


CASES = [
    Case(
        "memory.flat",
        f"{EVENTS:,} events through a drained bus: growth after part {WARM} of {BATCHES}",
        "after each part: bus.settle(), then a full collection",
        measure,
    )
]
