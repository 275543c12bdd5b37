"""A journal that does not answer, and one that is not to be had yet.

The clock is real where a thread is held up, since virtual time would wait for it; what a bus waits
is 0 seconds then.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import anyio.to_thread
import pytest

from actorbus import Actor, Event, EventBus, JournalError, JournalLockedError, closing
from actorbus.journal.base import Opening, Operation, Record, Result
from actorbus.journal.memory import MemoryJournal
from actorbus.window import RECOVERY
from tests.handlers import Seen

pytestmark = pytest.mark.anyio

Make = Callable[..., EventBus]

real_time = pytest.mark.parametrize("anyio_backend", ["asyncio"])


class Stalling(MemoryJournal):
    """A journal that can stop answering.

    Attributes:
        stalls: Whether the next call does.
        stalled: Set when one has begun that does not end.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stalls = False
        self.stalled, self.answers = threading.Event(), threading.Event()

    def commit(self, operations: Sequence[Operation]) -> list[Result]:
        self._stall()
        return super().commit(operations)

    def recent(self, *which: Any, **limits: Any) -> list[Record]:
        self._stall()
        return super().recent(*which, **limits)

    def open(self, durability: str) -> Opening:
        self._stall()
        return super().open(durability)

    def close(self, *, clean: bool) -> None:
        self._stall()
        super().close(clean=clean)

    def _stall(self) -> None:
        if self.stalls:
            self.stalled.set()
            self.answers.wait()


@pytest.fixture
def journal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stalling]:
    """A journal that answers at last, for a bus that does not wait for it."""
    monkeypatch.setattr(closing, "GRACE", 0.0)
    journal = Stalling()
    yield journal
    journal.answers.set()


async def stalled(journal: Stalling) -> None:
    """Wait until a call of the journal has begun."""
    await anyio.to_thread.run_sync(journal.stalled.wait)


# -- closing ---------------------------------------------------------------------------------------


@real_time
async def test_a_close_waits_no_longer_than_it_may_for_a_commit(
    make_bus: Make, journal: Stalling, caplog: pytest.LogCaptureFixture
) -> None:
    """The report names the journal, the log too, and who awaits is told what is known."""
    bus, seen = make_bus(journal=journal), Seen()
    bus.subscribe("a:*", seen, name="s")
    await bus.start()
    journal.stalls = True
    begun = bus.publish("a:b", 1)
    await stalled(journal)
    waiting = bus.publish("a:b", 2)
    await asyncio.sleep(0)
    reports = await asyncio.gather(bus.close(0.0), bus.close(0.0))
    for report in [*reports, await bus.close(0.0)]:
        assert report.abandoned == (journal.url,)
        assert not report.complete
    with pytest.raises(JournalError, match="not known whether this was committed"):
        await begun
    with pytest.raises(JournalError, match="this was not committed"):
        await waiting
    assert "of 2 events it is not known" in caplog.text
    assert bus.audit().balanced
    letters = {
        (each.event.topic, each.subscription, each.reason) for each in bus.dead_letters.list()
    }
    assert letters == {("a:b", "s", "drain_timeout"), ("a:b", "", "commit_failed")}
    assert seen.got == []


@real_time
async def test_a_journal_that_answers_late_is_closed_then(
    make_bus: Make, journal: Stalling
) -> None:
    """Nothing comes of it on the bus; what was begun is there for the next one."""
    bus, seen = make_bus(journal=journal), Seen()
    bus.subscribe("a:*", seen, durable="d")
    await bus.start()
    journal.stalls = True
    receipts = [bus.publish("a:b", 1)]
    await stalled(journal)
    receipts.append(bus.publish("a:b", 2))
    await bus.close(0.0)
    for receipt in receipts:
        with pytest.raises(JournalError):
            await receipt
    starting = asyncio.ensure_future(bus.start())
    for _ in range(20):
        await asyncio.sleep(0)
    assert not starting.done()
    journal.stalls = False
    journal.answers.set()
    await starting
    await bus.publish("a:b", 3)
    report = await bus.close()
    assert report.complete
    assert seen.got == [1, 3]
    assert bus.audit().balanced


@real_time
@pytest.mark.parametrize("call", ["open", "read", "close"])
async def test_a_close_waits_no_longer_than_it_may_for_any_call(
    make_bus: Make, journal: Stalling, call: str
) -> None:
    """Whoever has made it is told."""
    bus = make_bus(journal=journal)
    asked: asyncio.Future[Any] | None = None
    if call == "open":
        journal.stalls = True
        asked = asyncio.ensure_future(bus.start())
        await stalled(journal)
    else:
        await bus.start()
        await bus.publish("a:b")
        journal.stalls = True
    if call == "read":
        asked = asyncio.ensure_future(anext(aiter(bus.read_history("a:*"))))
        await stalled(journal)
    report = await bus.close(0.0)
    assert (report.abandoned, report.complete) == ((journal.url,), False)
    if asked is not None:
        with pytest.raises(JournalError, match="took too long"):
            await asked


@real_time
async def test_a_journal_that_is_only_slow_has_a_second(
    make_bus: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However little the drain has left: its last commit counts."""
    journal = Stalling()
    monkeypatch.setattr(closing, "GRACE", 60.0)
    bus = make_bus(journal=journal)
    await bus.start()
    journal.stalls = True
    receipt = bus.publish("a:b", 1)
    await stalled(journal)
    closed = asyncio.ensure_future(bus.close(0.0))
    await asyncio.sleep(0)
    journal.stalls = False
    journal.answers.set()
    assert (await closed).complete
    await receipt


# -- opening late ----------------------------------------------------------------------------------


class Taken(MemoryJournal):
    """A journal that somebody else has.

    Attributes:
        taken: Whether they still have it.
        asked: How often it was to be opened.
    """

    taken, asked = True, 0

    def open(self, durability: str) -> Opening:
        self.asked += 1
        if self.taken:
            raise JournalLockedError("somebody else has it")
        return super().open(durability)


async def test_a_bus_that_a_publish_has_started_tries_its_journal_again(make_bus: Make) -> None:
    """Once a second at most, whenever there is something to publish."""
    journal, seen = Taken(), Seen()
    other = make_bus(journal=journal)
    journal.taken = False
    async with other:
        other.subscribe("a:*", Seen(), durable="d")
        await other.publish("b:before", "of before")
    journal.taken, journal.asked = True, 0
    bus = make_bus(journal=journal)
    bus.subscribe("a:*", seen, durable="d")
    for number in range(5):
        with pytest.raises(JournalLockedError):
            await bus.publish("a:b", number)
    assert journal.asked == 1
    await asyncio.sleep(RECOVERY)
    with pytest.raises(JournalLockedError):
        await bus.publish("a:b", 5)
    assert journal.asked == 2
    journal.taken = False
    with pytest.raises(JournalLockedError):
        await bus.publish("a:b", 6)
    await asyncio.sleep(RECOVERY)
    await bus.publish("a:b", 7)
    await bus.settle()
    assert (journal.asked, seen.got) == (3, [7])
    assert [each["data"] for each in bus.get_history("b:before")] == ["of before"]
    assert (await bus.close()).complete
    assert bus.audit().balanced


async def test_a_bus_that_drains_tries_its_journal_no_more(make_bus: Make) -> None:
    """It would only begin what has to end."""
    journal, go_on, told = Taken(), asyncio.Event(), list[JournalError]()

    class Last(Actor):
        async def receive(self, event: Event) -> None:
            await go_on.wait()
            try:
                await bus.publish("a:b")
            except JournalError as error:
                told.append(error)

    bus = make_bus(journal=journal)
    ref = bus.spawn(Last)
    with pytest.raises(JournalLockedError):
        await bus.publish("a:b")
    ref.tell("publish")
    await asyncio.sleep(RECOVERY)
    journal.taken = False
    closed = asyncio.ensure_future(bus.close())
    await asyncio.sleep(0)
    go_on.set()
    assert (await closed).complete
    assert (journal.asked, len(told)) == (1, 1)
