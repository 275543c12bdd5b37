"""What an actor costs that has nothing to do: most actors of a large program are such."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from actorbus import Actor, ActorState, Event, EventBus

MANY = 1000
BYTES = 1700
"""Each, at most; 1,200 for a function and 1,400 for a class on Python 3.11, the goal being 2,048.

An empty deque takes 600, a dict of more than 30 attributes 1,600, an empty set 200.
"""
CONTAINERS = 13
"""Each, at most, that the garbage collector looks at: 7 for a function, 10 for a class.

It looks at each again and again, which is half of what making many actors costs.
"""


class Idler(Actor):
    """An actor with nothing to do."""

    async def receive(self, event: Event) -> None: ...


async def idle(_: Any) -> None: ...


def subscribe(bus: EventBus, number: int) -> None:
    """Subscribe a function."""
    bus.subscribe(f"idle:{number}", idle, name=f"function-{number}")


def spawn(bus: EventBus, number: int) -> None:
    """Spawn an actor with a class."""
    bus.spawn(Idler, name=f"class-{number}")


both = pytest.mark.parametrize("make", [subscribe, spawn])


@both
async def test_an_idle_actor_is_small(bus: EventBus, make: Callable[[EventBus, int], None]) -> None:
    """It takes no more than the documented bytes, all that the bus keeps of it included."""
    await bus.start()
    make(bus, MANY)
    gc.collect()
    tracemalloc.start()
    for number in range(MANY):
        make(bus, number)
    await bus.settle()
    gc.collect()
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held / MANY < BYTES


@both
async def test_an_idle_actor_is_little_work_for_the_garbage_collector(
    bus: EventBus, make: Callable[[EventBus, int], None]
) -> None:
    """It is made of few containers, and of no task."""
    await bus.start()
    make(bus, MANY)
    tasks = asyncio.all_tasks()
    gc.collect()
    before = len(gc.get_objects())
    for number in range(MANY):
        make(bus, number)
    await bus.settle()
    gc.collect()
    held = len(gc.get_objects()) - before
    assert held / MANY < CONTAINERS
    assert asyncio.all_tasks() == tasks


@both
async def test_what_was_idle_works_like_any_other(
    bus: EventBus, make: Callable[[EventBus, int], None]
) -> None:
    """What an idle actor goes without is there with its first delivery, and its own."""
    await bus.start()
    for number in range(3):
        make(bus, number)
    subs = [*bus._registry.live.values()]
    for count, sub in enumerate(subs, start=1):
        for _ in range(count):
            bus.actor(sub.name).tell()  # type: ignore[union-attr]  # it lives
    assert [len(sub.inbox.items) for sub in subs] == [1, 2, 3]
    await bus.settle()
    assert [sub.terms().acked for sub in subs] == [1, 2, 3]
    assert {sub.state for sub in subs} == {ActorState.RUNNING}
