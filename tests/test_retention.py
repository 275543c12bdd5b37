"""Retention: what a durable bus lets its journal forget, and when.

The journals here are kept in memory, under virtual time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from actorbus import EventBus, JournalError, world
from actorbus.journal.memory import MemoryJournal
from tests.handlers import Gate, Seen

pytestmark = pytest.mark.anyio

Make = Callable[..., EventBus]


class Old(MemoryJournal):
    """A journal that keeps events for a second, and prunes in two pieces."""

    def __init__(self, **options: Any) -> None:
        super().__init__(retention=1.0, **options)
        self.pieces: list[bool] = []

    def prune(self, now: float) -> bool:
        super().prune(now)
        self.pieces.append(len(self.pieces) % 2 == 0)
        return self.pieces[-1]


def kept(journal: MemoryJournal) -> list[int]:
    """Return the payloads of the events that are in a journal."""
    return [int(each.entry.body) for each in journal.recent(100, lambda _: True)]


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Give what sets the clock forward, or back."""

    def by(seconds: float) -> None:
        now = world.wall() + seconds
        monkeypatch.setattr(world, "wall", lambda: now)

    return by


async def test_what_is_old_is_pruned_every_minute(
    make_bus: Make, later: Callable[[float], None]
) -> None:
    """After the start and every minute, piece by piece; and what is not old is not."""
    journal, seen = Old(), Seen()
    bus = make_bus(journal=journal)
    bus.subscribe("a:*", seen, durable="d")
    async with bus:
        await asyncio.sleep(1.0)
        assert journal.pieces == [True, False]
        for number in range(5):
            await bus.publish("a:b", number)
        await bus.settle()
        later(10.0)
        await bus.publish("a:b", 5)
        await bus.settle()
        assert kept(journal) == [0, 1, 2, 3, 4, 5]
        await asyncio.sleep(61.0)
        assert kept(journal) == [5]
        assert journal.pieces == [True, False] * 2
    await asyncio.sleep(1_000.0)
    assert journal.pieces == [True, False] * 2


async def test_what_a_cursor_needs_is_kept(make_bus: Make, later: Callable[[float], None]) -> None:
    """Neither a stuck durable subscription nor one that is away loses what it has not had."""
    journal, gate, seen = Old(), Gate(), Seen()
    bus = make_bus(journal=journal)
    sub = bus.subscribe("a:*", Seen(), durable="away")
    bus.subscribe("a:*", gate, durable="stuck", mailbox=2)
    async with bus:
        await bus.publish("a:b", 0)
        await asyncio.sleep(1.0)  # the one that goes away has it now
        sub.unsubscribe()
        await sub.ended()
        for number in range(1, 5):
            await bus.publish("a:b", number)
        later(86_400.0)
        await asyncio.sleep(86_400.0)
        assert kept(journal) == [0, 1, 2, 3, 4]
        gate.open()
        await bus.settle()
        await asyncio.sleep(61.0)
        assert kept(journal) == [1, 2, 3, 4]
        bus.subscribe("a:*", seen, durable="away")
        await bus.settle()
        await asyncio.sleep(61.0)
        assert kept(journal) == []
    assert seen.got == [1, 2, 3, 4]


async def test_an_idle_durable_holds_nothing_back(
    make_bus: Make, later: Callable[[float], None]
) -> None:
    """What others publish is pruned though it settles nothing, and is not replayed to it."""
    journal, seen = Old(), Seen()
    bus = make_bus(journal=journal)
    bus.subscribe("never:*", seen, durable="idle")
    async with bus:
        for number in range(5):
            await bus.publish("a:b", number)
        later(10.0)
        await asyncio.sleep(125.0)
        assert kept(journal) == []
        await bus.publish("never:mind", 5)
        await bus.settle()
    assert seen.got == [5]


async def test_an_idle_durable_does_not_fill_the_journal(make_bus: Make) -> None:
    """Its cursor is moved along with what is committed, not only with the minutes."""
    journal = MemoryJournal(max_bytes=2 << 20)
    bus = make_bus(journal=journal)
    bus.subscribe("never:*", Seen(), durable="idle")
    async with bus:
        for _ in range(100):
            await bus.publish("a:b", "x" * 100_000)


async def test_a_journal_that_cannot_prune_says_so(
    make_bus: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """The bus goes on, and tries again."""

    class Stubborn(MemoryJournal):
        def prune(self, now: float) -> bool:
            raise JournalError("no")

    seen = Seen()
    bus = make_bus(journal=Stubborn())
    bus.subscribe("a:*", seen, durable="d")
    async with bus:
        await asyncio.sleep(61.0)
        await bus.publish("a:b", 1)
        await bus.settle()
    assert seen.got == [1]
    assert [each for each in caplog.messages if "retention" in each] == 2 * [
        "what is past retention stays in the journal: no"
    ]
