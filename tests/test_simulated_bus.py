"""The bus under the simulation: any order of its tasks, any await cancelled, nothing lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from actorbus import DeadlockError, EventBus, RetryPolicy
from actorbus.testing import simulate

Scenario = Callable[[], Coroutine[Any, Any, Any]]


# -- the order of a bus comes from its program, not from where its objects lie ---------------------


async def retries_cut_short_by_a_drain() -> list[int]:
    """Thirty actors wait for their next attempt; return in which order a drain lets them."""
    order: list[int] = []
    bus = EventBus("drain")

    def failing(number: int) -> Callable[[Any], Coroutine[Any, Any, None]]:
        async def fail(data: Any) -> None:
            order.append(number)
            raise ValueError(number)

        return fail

    for number in range(30):
        retry = RetryPolicy(max_attempts=2, base=20.0, jitter="none")
        bus.subscribe("a:b", failing(number), name=f"actor{number}", retry=retry)
    async with bus:
        bus.publish("a:b")
        await asyncio.sleep(1.0)
        order.clear()
    return order


async def a_choice_of_cycles() -> list[tuple[str, ...]]:
    """Six actors wait for one that is about to wait for them; return the cycles refused."""
    refused: list[tuple[str, ...]] = []
    bus = EventBus("cycles")

    @bus.subscribe("hub", name="hub")
    async def hub(data: Any) -> None:
        if data != "first":
            return
        receipt = bus.publish("spoke")
        await asyncio.sleep(1.0)
        try:
            await receipt.settled()
        except DeadlockError as error:
            refused.append(error.cycle)

    async def spoke(data: Any) -> None:
        await bus.publish("hub", "again").settled()

    for number in range(6):
        bus.subscribe("spoke", spoke, name=f"spoke{number}")
    async with bus:
        await bus.publish("hub", "first").settled()
    return refused


@pytest.mark.parametrize("scenario", [retries_cut_short_by_a_drain, a_choice_of_cycles])
def test_the_order_does_not_depend_on_where_objects_lie(scenario: Scenario) -> None:
    """Runs of one seed are equal whatever the memory looks like."""
    kept: list[object] = []
    seen = set()
    for clutter in (0, 1, 37, 1000, 4321):
        run = simulate(scenario, policy="fifo")
        seen.add((run.digest, tuple(run.result)))
        kept += [object() for _ in range(clutter)]

    assert len(seen) == 1
