"""What a window holds, and for how long: of its deliveries, of the memory, of the loop."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable
from typing import Any

import pytest

from actorbus import EventBus
from actorbus.archive import PAGE
from actorbus.ends import Mark
from actorbus.journal.base import Grave, Page, Record, Wants
from actorbus.journal.memory import MemoryJournal
from actorbus.scribe import SOME, Scribe
from actorbus.window import FIRST
from tests.handlers import Seen
from tests.test_durable import rest_of

pytestmark = pytest.mark.anyio

Make = Callable[..., EventBus]


class Listing(MemoryJournal):
    """A journal that lists what it is asked.

    Attributes:
        asked: The names of the calls, and how many records they were to return.
        held: Holds back the reading of dead letters until it is set.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, int]] = []
        self.held = threading.Event()
        self.held.set()

    def dead(self, after: str = "", limit: int = 1000, *, marked: str = "") -> list[Grave]:
        assert self.held.wait(10.0)
        return super().dead(after, limit, marked=marked)

    def read(self, after: int, limit: int, wants: Wants) -> Page:
        self.asked.append(("read", limit))
        return super().read(after, limit, wants)

    def recent(self, limit: int, wants: Wants, **bounds: Any) -> list[Record]:
        self.asked.append(("recent", limit))
        return super().recent(limit, wants, **bounds)


async def waiting_for(make_bus: Make, events: int) -> Listing:
    """Give a journal with so many events that the durable subscription `d` has not seen."""
    journal = Listing()
    async with make_bus(journal=journal) as bus:
        sub = bus.subscribe("a:*", Seen(), durable="d")
        await bus.settle()
        sub.unsubscribe()
        await sub.ended()
        for number in range(events):
            bus.publish("a:b", number)
    return journal


async def test_what_is_settled_is_freed_without_the_collector(make_bus: Make) -> None:
    """Neither a delivery read from the journal nor one just committed is part of a cycle."""
    seen, bus = Seen(), make_bus(journal=await waiting_for(make_bus, 100))
    bus.subscribe("a:*", seen, durable="d")
    gc.collect()
    gc.disable()
    try:
        async with bus:
            await bus.settle()
            for number in range(100):
                await bus.publish("a:b", number)
            await bus.settle()
            left = sum(isinstance(each, Mark) for each in gc.get_objects())
    finally:
        gc.enable()
    assert len(seen.got) == 200
    assert left <= 1  # the worker's last


async def test_a_page_is_handed_over_in_turns(
    make_bus: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Handlers run while the rest of a page waits, and get all of it in order."""
    monkeypatch.setattr("actorbus.window.TURN", -1.0)  # a look at the clock ends the turn
    bus = make_bus(journal=await waiting_for(make_bus, 10 * SOME))
    routed: list[int] = []
    got: list[int] = []

    async def handle(data: int) -> None:
        routed.append(bus.audit().subscriptions["d"].routed)
        got.append(data)

    bus.subscribe("a:*", handle, name="d", durable="d")
    async with bus:
        await bus.settle()
    assert got == [*range(10 * SOME)]
    assert routed[0] == SOME


async def test_a_page_half_handed_over_is_no_loss(
    make_bus: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bus closed between two turns leaves the rest to the next one, which repeats nothing."""
    monkeypatch.setattr("actorbus.window.TURN", -1.0)
    journal, seen = await waiting_for(make_bus, 10 * SOME), Seen()
    bus = make_bus(journal=journal)
    bus.subscribe("a:*", seen, durable="d")
    async with bus:
        while not seen.got:
            await asyncio.sleep(0)
        await bus.close(0.0)
    assert len(seen.got) < 10 * SOME
    assert seen.got + await rest_of(journal, make_bus) == [*range(10 * SOME)]


async def test_redelivery_does_not_wait_for_the_history(
    make_bus: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few events are read as soon as it has joined; more, when what was before is recalled."""
    journal, call = await waiting_for(make_bus, 500), Scribe.call

    def calling(scribe: Scribe, function: Any, done: Any, *, first: bool = False) -> None:
        call(scribe, function, done, first=first)
        if first:
            journal.held.set()

    monkeypatch.setattr(Scribe, "call", calling)
    journal.asked.clear()
    journal.held.clear()
    assert await rest_of(journal, make_bus) == [*range(500)]
    assert journal.asked[:2] == [("read", FIRST), ("recent", PAGE)]
