"""How long does a scrape take with 1,000 actors, and how long does it hold the event loop?

The ASGI application is called as a server would call it. Meanwhile a task notes the time between
two turns of the loop; the longest is how long the loop was held. The baseline for that is the same
task while nothing is scraped, which is what the machine itself does to the loop; where that alone
exceeds the goal, nothing is judged. The baseline for the time is as many series in plain
prometheus_client metrics, rendered on the loop. What making the actors has left is collected
before; nothing is between the scrapes, so a full collection they provoke is in the worst turn, and
counted in the notes.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry, Histogram, generate_latest

from actorbus import EventBus
from actorbus.metrics import make_asgi_app
from benchmarks.case import Case, Effort, Figure, Goal, Spread

ACTORS = 1_000
LIMIT_MS = 10.0
SCOPE = {"type": "http", "method": "GET", "path": "/metrics", "query_string": b"", "headers": []}


async def handle(_: Any) -> None:
    """Handle one event."""


async def scraped(app: Any) -> int:
    """Scrape once; return the bytes of the answer."""
    size = 0

    async def send(message: dict[str, Any]) -> None:
        nonlocal size
        size += len(message.get("body", b""))

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    await app(SCOPE, receive, send)
    return size


async def longest_turn(work: Callable[[], Awaitable[Any]]) -> tuple[float, float]:
    """Return the longest turn of the loop during some work, and how long that took, in ms."""
    longest = 0.0
    running = True

    async def watch() -> None:
        nonlocal longest
        before = time.perf_counter()
        while running:
            await asyncio.sleep(0)
            now = time.perf_counter()
            longest = max(longest, now - before)
            before = now

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0)
    began = time.perf_counter()
    await work()
    took = time.perf_counter() - began
    running = False
    await watching
    return longest * 1000, took * 1000


def full_collections() -> int:
    """Return how often everything was collected so far: each stops the loop for some 50 ms."""
    return int(gc.get_stats()[-1]["collections"])


def _by_hand(actors: int) -> CollectorRegistry:
    """Return a registry with four histograms per actor: 60 series each."""
    registry = CollectorRegistry()
    buckets = [0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0]
    for part in range(4):
        family = Histogram(f"by_hand_{part}", "-", ["actor"], registry=registry, buckets=buckets)
        for number in range(actors):
            family.labels(f"actor-{number}").observe(0.001)
    return registry


async def measure(effort: Effort) -> list[Figure]:
    """Return how long the loop was held, and how long a scrape took."""
    actors = effort.pick(ACTORS, 50)
    async with EventBus("bench") as bus:
        for number in range(actors):
            bus.subscribe(f"scraped:{number}", handle, name=f"actor-{number}")
            bus.publish(f"scraped:{number}", number)
        await bus.settle()
        app = make_asgi_app(bus)
        size = await scraped(app)
        holds, idles, times, by_hand = [], [], [], []
        gc.collect()  # what making the actors has left; what the scrapes leave is theirs to pay for
        before = full_collections()
        for _ in range(effort.rounds):
            held, took = await longest_turn(partial(scraped, app))
            idle, _ = await longest_turn(partial(asyncio.sleep, took / 1000))
            holds.append(held)
            idles.append(idle)
        full = full_collections() - before
        registry = _by_hand(actors)  # not before: its objects would lengthen every collection
        for _ in range(effort.rounds):
            times.append((await longest_turn(partial(scraped, app)))[1])
            began = time.perf_counter()
            generate_latest(registry)
            by_hand.append(1000 * (time.perf_counter() - began))
    hold = Figure(
        "loop held",
        "ms",
        Spread.of(holds),
        Spread.of(idles),
        Spread.of(i / h for i, h in zip(idles, holds, strict=True)),
        against="an idle loop",
        goal=Goal("worst", at_most=LIMIT_MS) if max(idles) <= LIMIT_MS else None,
        notes={"actors": actors, "bytes": size, "full_collections": full},
    )
    took_figure = Figure(
        "scrape",
        "ms",
        Spread.of(times),
        Spread.of(by_hand),
        Spread.of(b / t for b, t in zip(by_hand, times, strict=True)),
        against="rendered on the loop",
    )
    return [hold, took_figure]


CASES = [
    Case("scrape.1000-actors", f"A scrape of {ACTORS:,} actors", "the last byte is sent", measure)
]
