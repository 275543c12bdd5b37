"""One bad subscriber harms nobody else.

The proof needs no stop-watch: with three bad neighbours, a subscriber gets the same events in the
same turns of the loop and at the same virtual times as it does alone.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, Self

import pytest

from actorbus import Event, EventBus, RetryPolicy

Maker = Callable[..., EventBus]
Seen = list[tuple[Any, int, float]]  # payload, turns since its publish, seconds since its publish


class Turns:
    """Counts the turns of the running loop."""

    def __init__(self) -> None:
        loop: Any = asyncio.get_running_loop()
        self.loop = loop
        self.count = 0
        self._plain = loop._run_once

    def __enter__(self) -> Self:
        def counting() -> None:
            self.count += 1
            self._plain()

        self.loop._run_once = counting
        return self

    def __exit__(self, *_: object) -> None:
        del self.loop._run_once


async def watch(bus: EventBus, events: int, gap: float) -> tuple[Seen, list[float]]:
    """Publish to a good subscriber; return when it got each event, and how long each call took."""
    loop: Any = asyncio.get_running_loop()
    seen: Seen = []
    calls: list[float] = []
    with Turns() as turns:

        async def good(event: Event) -> None:
            number, turn, at = event.data
            seen.append((number, turns.count - turn, loop.time() - at))

        bus.subscribe("t", good, name="good", mailbox=events)
        for number in range(events):
            began = loop.time()
            bus.publish("t", (number, turns.count, loop.time()))
            calls.append(loop.time() - began)
            await asyncio.sleep(gap)
        await asyncio.sleep(0.01)
    return seen, calls


async def hang(event: Event) -> None:
    """Handle for ever."""
    await asyncio.Event().wait()


async def fail(event: Event) -> None:
    """Fail every time."""
    raise OSError(event.topic)


@pytest.mark.parametrize("gap", [0.0, 0.01])
async def test_bad_neighbours_change_nothing_for_a_good_one(make_bus: Maker, gap: float) -> None:
    """One blocked for ever, one failing, one asleep in its thread: the fourth is as if alone."""
    alone = make_bus("alone")
    async with alone:
        expected, _ = await watch(alone, 200, gap)

    crowded = make_bus("crowded")
    release = threading.Event()
    began = threading.Event()

    def asleep(data: object) -> None:
        began.set()
        release.wait(30)

    await crowded.start()
    crowded.subscribe("t", hang, name="blocked", mailbox=5)
    crowded.subscribe("t", fail, name="failing", retry=RetryPolicy.none())
    crowded.subscribe("t", asleep, name="asleep", mailbox=5)
    crowded.publish("t", (0, 0, 0.0))
    await asyncio.to_thread(began.wait, 10)
    seen, calls = await watch(crowded, 200, gap)
    stuck = crowded.audit().subscriptions
    release.set()
    report = await crowded.close(timeout=1)

    assert [number for number, _, _ in seen] == list(range(200))
    assert max(turns for _, turns, _ in seen) <= max(turns for _, turns, _ in expected)
    assert [seconds for _, _, seconds in seen] == [seconds for _, _, seconds in expected]
    assert calls == [0.0] * 200
    assert stuck["blocked"].running == 1
    assert stuck["asleep"].running == 1
    assert stuck["failing"].dead == 201
    assert stuck["good"].acked == 200
    assert not report.complete


async def test_an_awaiting_publisher_loses_one_put_timeout_per_episode(make_bus: Maker) -> None:
    """A publisher that awaits is delayed by a stuck subscriber once, by `put_timeout`, not more."""
    bus = make_bus()
    await bus.start()
    loop = asyncio.get_running_loop()
    got: list[Any] = []
    bus.subscribe("t", hang, name="stuck", mailbox=3, put_timeout=5.0)
    bus.subscribe("t", got.append, inline=True)
    for number in range(100):
        await bus.publish("t", number)
    assert loop.time() == pytest.approx(5.0)
    await asyncio.sleep(0)
    assert got == list(range(100))
    await bus.close(timeout=0)


async def test_a_thread_asleep_takes_no_thread_of_others(make_bus: Maker) -> None:
    """The default executor and other sync actors go on while handlers sleep in their threads."""
    bus = make_bus()
    await bus.start()
    release = threading.Event()
    got: list[int] = []
    for number in range(40):
        bus.subscribe("sleep", lambda data: release.wait(30), name=f"asleep{number}")
    bus.subscribe("work", got.append)
    bus.publish("sleep")
    await asyncio.sleep(0.01)
    assert await asyncio.to_thread(lambda: "free") == "free"
    receipt = bus.publish("work", 1)
    done = asyncio.ensure_future(receipt.settled())
    while not done.done():
        await asyncio.to_thread(lambda: None)
    assert got == [1]
    release.set()
    await bus.close(timeout=5)


async def test_the_memory_of_a_stuck_subscriber_is_bounded(make_bus: Maker) -> None:
    """However much is published, a stuck subscriber holds its mailbox, its line and one in hand."""
    bus = make_bus(dead_letters=10)
    await bus.start()
    bus.subscribe("t", hang, name="stuck", mailbox=10, put_timeout=None)
    for number in range(2000):
        bus.publish("t", number)
        if number % 100 == 0:
            await asyncio.sleep(0)
    await asyncio.sleep(0)
    terms = bus.audit().subscriptions["stuck"]
    assert (terms.running, terms.queued, terms.waiting) == (1, 10, 10)
    assert terms.dead == 2000 - 21
    await bus.close(timeout=0)
