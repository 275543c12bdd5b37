"""Where the time of one event goes, from one publisher to one subscriber: ``benchmarks anatomy``.

Each part is timed by itself, all parts in turn, and given in nanoseconds of CPU time and as a share
of what an event takes through a queue by hand. The parts of a publish are the same steps in a loop
of their own, so they add up only roughly. What they show is the floor: none of them can be left out
by a bus that knows its thread, its time, its publisher's delivery and its receivers' reply.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from statistics import median
from threading import get_ident
from typing import Any

from actorbus import EventBus
from actorbus.event import NUMBERS
from actorbus.home import NO_EPOCH
from actorbus.receipt import Receipt, Route
from benchmarks import show

BURST = 1_000  # events that fit into the mailbox

Part = Callable[[int], Awaitable[float]]


async def nothing(data: object) -> None:
    """Handle an event in no time."""


def _timed(work: Callable[[int], object]) -> Part:
    async def part(times: int) -> float:
        began = time.process_time()
        work(times)
        return (time.process_time() - began) / times

    return part


def _empty(times: int) -> None:
    for _ in range(times):
        pass


def _call(times: int) -> None:
    def publish(topic: str, data: Any = None, **options: Any) -> None:
        pass

    for number in range(times):
        publish("t", number)


def _thread(times: int) -> None:
    home: Any = asyncio.get_running_loop()
    for _ in range(times):
        if home._thread_id != get_ident():
            raise AssertionError


def _clock(times: int) -> None:
    clock = time.monotonic
    for _ in range(times):
        clock()


def _receipt(times: int) -> None:
    exchange: Any = None
    route = Route(exchange, "t")
    for number in range(times):
        Receipt(route, number, 0.0, NO_EPOCH, next(NUMBERS))


def _history(times: int) -> None:
    ring: deque[int] = deque(maxlen=100)
    for number in range(times):
        ring.append(number)


async def _floor(times: int) -> float:
    began = time.process_time()
    for number in range(times):
        await nothing(number)
    return (time.process_time() - began) / times


async def _by_hand(times: int) -> float:
    queue: asyncio.Queue[int] = asyncio.Queue(1024)

    async def consume() -> None:
        for _ in range(times):
            await nothing(await queue.get())

    task = asyncio.create_task(consume())
    began = time.process_time()
    for number in range(times):
        await queue.put(number)
    await task
    return (time.process_time() - began) / times


async def _bus(times: int, what: str) -> float:
    """Time the publishes, the awaits or the deliveries of bursts of 1,000, or all of it."""
    async with EventBus("anatomy") as bus:
        bus.subscribe("t", nothing, mailbox=1024)
        await bus.publish("t").settled()
        took = 0.0
        if what == "all":
            began = time.process_time()
            for number in range(times):
                await bus.publish("t", number)
            await bus.settle()
            return (time.process_time() - began) / times
        for _ in range(times // BURST):
            receipt = bus.publish("t")
            began = time.process_time()
            for number in range(BURST - 1):
                bus.publish("t", number)
            published = time.process_time()
            await bus.settle()
            settled = time.process_time()
            for _ in range(BURST):
                await receipt
            ended = time.process_time()
            parts = {"publish": published - began, "deliver": settled - published}
            took += parts.get(what, ended - settled)
        return took / times


async def _without_collector(times: int) -> float:
    gc.disable()
    try:
        return await _bus(times, "all")
    finally:
        gc.enable()


PARTS: dict[str, Part] = {
    "a queue by hand": _by_hand,
    "await publish, all of it": partial(_bus, what="all"),
    "the same without garbage collections": _without_collector,
    "publish": partial(_bus, what="publish"),
    "  a call with keyword options": _timed(_call),
    "  is this the loop's thread?": _timed(_thread),
    "  the clock": _timed(_clock),
    "  the receipt and its number": _timed(_receipt),
    "  the history": _timed(_history),
    "await a receipt that is ready": partial(_bus, what="await"),
    "deliver": partial(_bus, what="deliver"),
    "  a bare `await handler(x)`": _floor,
}


async def measure(times: int, rounds: int) -> dict[str, float]:
    """Return the median of every part in seconds, the loop around it taken off."""
    taken: dict[str, list[float]] = {name: [] for name in PARTS}
    around = []
    empty = _timed(_empty)
    for _ in range(rounds):
        around.append(await empty(times))
        for name, part in PARTS.items():
            gc.collect()
            taken[name].append(await part(times))
    return {name: max(0.0, median(each) - median(around)) for name, each in taken.items()}


def main(*, quick: bool) -> None:
    """Measure and print."""
    found = asyncio.run(measure(BURST, 1) if quick else measure(20 * BURST, 15))
    whole = max(found["a queue by hand"], 1e-9)
    rows = [(name, f"{s * 1e9:.0f}", f"{s / whole:.2f}") for name, s in found.items()]
    show.table("One event, one subscriber", ("part", "ns", "x a queue by hand"), rows)
