"""A busy actor shares the loop: it yields once 5 ms have passed, and looks at the clock in time."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from actorbus import Event, EventBus, RetryPolicy


class Clock:
    """Lets virtual time pass inside a handler, as work does."""

    def __init__(self) -> None:
        self.loop: Any = asyncio.get_running_loop()

    def work(self, seconds: float) -> None:
        """Keep the loop for so long."""
        self.loop._now += seconds


async def longest_turn(bus: EventBus, events: int) -> tuple[float, int]:
    """Return the longest time and most deliveries between two turns of a bystander."""
    loop = asyncio.get_running_loop()
    times, counts = [loop.time()], [0]
    over = False

    async def bystander() -> None:
        while not over:
            times.append(loop.time())
            counts.append(bus.audit().totals.acked)
            await asyncio.sleep(0)
        times.append(loop.time())
        counts.append(bus.audit().totals.acked)

    watching = asyncio.create_task(bystander())
    await asyncio.sleep(0)
    for number in range(events):
        bus.publish("t", number)
    while bus.audit().totals.acked < events:
        await asyncio.sleep(0)
    over = True
    await watching
    pairs = itertools.pairwise(times)
    steps = itertools.pairwise(counts)
    return max(b - a for a, b in pairs), max(b - a for a, b in steps)


@pytest.mark.parametrize("options", [{}, {"concurrency": 2}, {"key": "key"}, {"timeout": 9.0}])
async def test_it_yields_once_five_milliseconds_have_passed(
    bus: EventBus, options: dict[str, Any]
) -> None:
    """With handlers of 1 ms each, nobody waits longer than 5 ms and the delivery in hand."""
    clock = Clock()

    async def handler(event: Event) -> None:
        clock.work(0.001)

    bus.subscribe("t", handler, mailbox=1000, **options)
    longest, most = await longest_turn(bus, 300)
    workers = options.get("concurrency", 1)
    assert longest <= workers * 0.0071
    assert most <= workers * 7


async def test_it_does_not_yield_before(bus: EventBus) -> None:
    """Yielding costs, so fast handlers share a turn: 5 ms of them, not one."""
    clock = Clock()

    async def handler(event: Event) -> None:
        clock.work(0.000_001)

    bus.subscribe("t", handler, mailbox=1000)
    _, most = await longest_turn(bus, 1000)
    assert most >= 500


async def test_a_slow_handler_among_fast_ones_yields_after_it(bus: EventBus) -> None:
    """One that keeps the loop for 20 ms is followed by at most 64 before the clock is looked at."""
    clock = Clock()
    loop = asyncio.get_running_loop()
    seen: list[int] = []

    async def handler(event: Event) -> None:
        if event.data == 400:
            clock.work(0.020)
            loop.call_soon(lambda: seen.append(bus.audit().totals.acked))

    bus.subscribe("t", handler, mailbox=2000)
    for number in range(2000):
        bus.publish("t", number)
    await bus.settle()
    assert 400 <= seen[0] <= 400 + 64


async def test_it_looks_at_the_clock_at_least_every_64_deliveries(bus: EventBus) -> None:
    """However fast its handlers are, a worker reads the time once per 64 deliveries at least."""
    loop: Any = asyncio.get_running_loop()
    handled = 0
    looks: list[int] = []
    plain = loop.time

    def time() -> float:
        looks.append(handled)
        now: float = plain()
        return now

    async def handler(event: Event) -> None:
        nonlocal handled
        handled += 1

    bus.subscribe("t", handler, mailbox=5000)
    for number in range(5000):
        bus.publish("t", number)
    loop.time = time
    try:
        while handled < 5000:
            await asyncio.sleep(0)
    finally:
        del loop.time
    gaps = [b - a for a, b in itertools.pairwise(looks)]
    assert max(gaps) <= 64


async def test_two_busy_actors_take_turns(bus: EventBus) -> None:
    """Neither of two busy actors runs through its mail before the other begins."""
    clock = Clock()
    order: list[str] = []

    def make(name: str) -> Any:
        async def handler(event: Event) -> None:
            clock.work(0.002)
            order.append(name)

        return handler

    for name in ("one", "two"):
        bus.subscribe("t", make(name), name=name)
    for number in range(50):
        bus.publish("t", number)
    await bus.settle()
    runs = "".join(name[0] for name in order)
    runs = runs[: min(runs.rindex("o"), runs.rindex("t"))]  # then one has the loop to itself
    assert "oooo" not in runs
    assert "tttt" not in runs


@pytest.mark.parametrize("options", [{}, {"concurrency": 2}, {"key": "key"}])
async def test_retries_without_delay_yield_too(bus: EventBus, options: dict[str, Any]) -> None:
    """An actor that fails and tries again at once keeps the loop no longer than a busy one."""
    clock = Clock()
    failures = itertools.cycle([True] * 19 + [False])

    async def handler(event: Event) -> None:
        clock.work(0.001)
        if next(failures):
            raise ValueError

    retry = RetryPolicy(1000, base=0)
    bus.subscribe("t", handler, mailbox=1000, retry=retry, **options)
    longest, _ = await longest_turn(bus, 20)
    assert longest <= options.get("concurrency", 1) * 0.0071


async def test_a_retry_without_delay_takes_no_timer(
    bus: EventBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the turn lasts the next attempt follows at once: no timer and no other task."""
    loop = asyncio.get_running_loop()
    timers: list[float] = []
    attempts: list[int] = []
    turns = 0

    def turn() -> None:
        nonlocal turns
        turns += 1
        loop.call_soon(turn)

    def call_at(when: float, *args: Any, real: Any = loop.call_at, **kwargs: Any) -> Any:
        timers.append(when)
        return real(when, *args, **kwargs)

    async def handler(event: Event) -> None:
        attempts.append(turns)
        if len(attempts) < 5:
            raise ValueError

    bus.subscribe("t", handler, name="h", retry=RetryPolicy(5, base=0))
    monkeypatch.setattr(loop, "call_at", call_at)
    loop.call_soon(turn)
    result = await bus.publish("t").settled()
    assert result.ok
    assert len(attempts) == 5
    assert len(set(attempts)) == 1
    assert timers == []
    row = next(row for row in bus.reading().actors if row.label == "h")
    assert (row.ledger.retries, row.ledger.errors) == (4, 4)
