"""Deadlines: one timer for all attempts of a worker, and each has its full time, no more."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actorbus import EventBus, RetryPolicy
from actorbus.deadline import Deadline
from tests.virtual import run


@given(st.lists(st.tuples(st.floats(0, 3), st.floats(0, 3)), max_size=20))
def test_whoever_takes_longer_than_the_limit_is_late_in_time(
    attempts: list[tuple[float, float]],
) -> None:
    """Attempts of any length after breaks of any length: late is who takes too long, at its due."""

    async def live() -> None:
        loop = asyncio.get_running_loop()
        late: list[float] = []
        deadline = Deadline(loop, 1.0, lambda: late.append(loop.time()))
        expected = []
        for pause, takes in attempts:
            await asyncio.sleep(pause)
            due = loop.time() + 1.0
            deadline.begin()
            await asyncio.sleep(takes)
            deadline.end()
            if takes > 1.001:
                expected.append(due)
            elif takes > 0.999:
                late = late[: len(expected)]  # either will do
        deadline.cancel()
        await asyncio.sleep(5.0)
        assert late == pytest.approx(expected, abs=1e-3)

    run(live)


async def test_attempts_one_after_the_other_take_one_timer(
    bus: EventBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred fast deliveries with a time limit set one timer, not a hundred."""
    loop = asyncio.get_running_loop()
    timers: list[float] = []

    def call_at(when: float, *args: Any, real: Any = loop.call_at, **kwargs: Any) -> Any:
        timers.append(when)
        return real(when, *args, **kwargs)

    async def handler(data: object) -> None:
        await asyncio.sleep(0)

    bus.subscribe("t", handler, timeout=5.0)
    monkeypatch.setattr(loop, "call_at", call_at)
    for number in range(100):
        bus.publish("t", number)
    await bus.settle()
    assert len(timers) == 1


async def test_a_later_attempt_has_its_full_time(bus: EventBus) -> None:
    """The timer that was set for an earlier attempt is set anew for the one that runs."""
    loop = asyncio.get_running_loop()
    ended: list[float] = []

    async def handler(seconds: float) -> None:
        try:
            await asyncio.sleep(seconds)
        finally:
            ended.append(loop.time())

    bus.subscribe("t", handler, timeout=1.0, retry=RetryPolicy.none())
    began = loop.time()
    for seconds in (0.6, 0.9, 60.0):
        bus.publish("t", seconds)
    await bus.settle()
    assert [at - began for at in ended] == pytest.approx([0.6, 1.5, 2.5], abs=1e-3)
    assert [letter.reason for letter in bus.dead_letters] == ["retries_exhausted"]


async def test_no_timer_is_left_when_a_worker_has_ended(bus: EventBus) -> None:
    """A long limit keeps nothing alive."""

    async def handler(data: object) -> None:
        pass

    sub = bus.subscribe("t", handler, timeout=1e6)
    await bus.publish("t").settled()
    loop: Any = asyncio.get_running_loop()
    assert [t for t in loop._scheduled if t.when() > 1e5 and not t.cancelled()]
    sub.unsubscribe()
    await sub.ended()
    assert not [t for t in loop._scheduled if t.when() > 1e5 and not t.cancelled()]
