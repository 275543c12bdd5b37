"""The way into a journal where loops come and go."""

from __future__ import annotations

import asyncio
import threading

import pytest

from actorbus import EventBus
from actorbus.journal.base import Opening
from actorbus.journal.memory import MemoryJournal


class Held(MemoryJournal):
    """A journal that opens when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.opening, self.let, self.is_open = (threading.Event() for _ in range(3))

    def open(self, durability: str) -> Opening:
        self.opening.set()
        assert self.let.wait(10.0)
        opening = super().open(durability)
        self.is_open.set()
        return opening


@pytest.mark.parametrize("during", [True, False])
def test_a_loop_that_ends_while_the_journal_opens(during: bool) -> None:
    """The next one has the journal, whether that has opened before it or while it runs."""
    journal = Held()
    bus = EventBus("test", journal=journal)

    async def begin() -> None:
        starting = asyncio.ensure_future(bus.start())
        await asyncio.to_thread(journal.opening.wait, 10.0)
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)

    async def go_on() -> None:
        async with asyncio.timeout(10.0):
            starting = asyncio.ensure_future(bus.start())
            await asyncio.sleep(0)
            journal.let.set()
            await starting
            await bus.publish("a:b", 1)
            await bus.close()

    asyncio.run(begin())
    if not during:
        journal.let.set()
        assert journal.is_open.wait(10.0)
    asyncio.run(go_on())
    assert [record.entry.body for record in journal._events] == [b"1"]
