"""What an exporter is told of a journal: commits, room, and how far each durable has come.

The journals are kept in memory, under virtual time but where a thread reads the figures; a crash is
another bus on a copy of one.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import anyio.to_thread
import pytest

from actorbus import (
    EventBus,
    JournalError,
    JournalLockedError,
    RetryPolicy,
    looking,
    registry,
    world,
)
from actorbus.commits import Commits
from actorbus.journal.base import Leave, Operation, Page, Result, Status
from actorbus.journal.memory import MemoryJournal
from actorbus.ledger import SIZES
from actorbus.rows import JournalReading
from tests.handlers import Gate, Seen, fail
from tests.test_durable import Failing, crashed

pytestmark = pytest.mark.anyio

Make = Callable[..., EventBus]


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Stop the wall clock, and give what sets it forward, or back."""
    now = 1_700_000_000.0
    monkeypatch.setattr(world, "wall", lambda: now)

    def by(seconds: float) -> None:
        nonlocal now
        now += seconds

    return by


async def journal_of(bus: EventBus) -> JournalReading:
    """Return what is known of a bus's journal when it has been looked at."""
    looked = asyncio.Event()
    bus._engine.look_into_journal(looked.set)
    await looked.wait()
    found = bus.reading().journal
    assert found is not None
    return found


async def lags(bus: EventBus) -> dict[str, int]:
    """Return what is not read, per label, when the journal has been looked at."""
    await journal_of(bus)
    return {label: lag for label, (lag, _) in bus.reading().durables.items()}


# -- commits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 2, 3, 2_000, 2_001, 9_999])
def test_a_commit_counts_in_the_bucket_of_its_size(size: int) -> None:
    """The first bucket whose bound it does not exceed; the operations add up."""

    class Idle(MemoryJournal):
        def commit(self, operations: Sequence[Operation]) -> list[Result]:
            return []

    commits = Commits()
    for _ in range(3):
        commits.make(Idle(), [Leave("d")] * size)

    *counts, total = commits.operations
    fits = [bound for bound in SIZES if size <= bound]
    assert counts.index(3) == len(SIZES) - len(fits)
    assert (sum(counts), total) == (3, 3 * size)
    assert sum(commits.seconds[:-1]) == 3
    assert commits.seconds[-1] >= 0


def test_a_commit_that_fails_is_not_counted() -> None:
    """It raises what the journal has raised."""
    commits = Commits()
    with pytest.raises(JournalError):
        commits.make(MemoryJournal(), [])

    assert sum(commits.operations) == sum(commits.seconds) == 0


async def test_every_commit_of_a_bus_is_counted(make_bus: Make) -> None:
    """As many as the journal has made, and all that was in them."""
    journal = Failing()
    bus = make_bus(journal=journal)
    bus.subscribe("a:*", Seen(), durable="d")
    async with bus:
        await asyncio.gather(*(bus.publish("a:b", number) for number in range(100)))
        await bus.settle()
        *counts, operations = (await journal_of(bus)).commit_operations
        *times, _ = (await journal_of(bus)).commit_seconds
    made = [len(each) for each in journal.commits]
    assert sum(counts) == sum(times) == len(made)
    assert operations == sum(made) > 100


async def test_events_that_wait_for_their_commit(make_bus: Make) -> None:
    """They are counted at once, and no more when they are committed."""
    journal = Failing()
    bus = make_bus(journal=journal)
    async with bus:
        journal.held.clear()
        receipts = [bus.publish("a:b", number) for number in range(3)]
        reading = bus.reading().journal
        assert reading is not None
        assert reading.uncommitted == 3
        journal.held.set()
        await asyncio.gather(*receipts)
        assert (await journal_of(bus)).uncommitted == 0


# -- lag -------------------------------------------------------------------------------------------


async def test_lag_is_what_is_not_in_the_window(make_bus: Make) -> None:
    """Each durable subscription counts what it wants: that is in its ledger, or it is lag."""
    gate = Gate()
    bus = make_bus(journal=MemoryJournal())
    bus.subscribe("a:*", gate, name="stuck", durable="s", mailbox=2)
    bus.subscribe("a:*", Seen(), name="quick", durable="q", mailbox=2)
    bus.subscribe("other:*", Seen(), name="idle", durable="i")
    bus.subscribe("a:*", Seen(), name="plain")
    assert await lags(bus) == {"_ended": 0, "stuck": 0, "quick": 0, "idle": 0}
    async with bus:
        for number in range(20):
            await bus.publish("a:b", number)
            routed = bus.audit().subscriptions["stuck"].routed
            assert (await lags(bus))["stuck"] == number + 1 - routed
        await asyncio.sleep(1.0)
        assert await lags(bus) == {"_ended": 0, "stuck": 17, "quick": 0, "idle": 0}
        gate.open()
        await bus.settle()
        assert await lags(bus) == {"_ended": 0, "stuck": 0, "quick": 0, "idle": 0}


async def test_lag_after_a_start_is_the_backlog(make_bus: Make) -> None:
    """A crash leaves a backlog: it counts from the start on, and what comes then counts, too."""
    journal, gate = MemoryJournal(), Gate()
    bus = make_bus(journal=journal)
    bus.subscribe("a:*", gate, durable="d", mailbox=3)
    async with bus:
        for number in range(50):
            await bus.publish("a:b", number)
        image = crashed(journal)
        gate.open()
    got, allowed = list[int](), asyncio.Semaphore(0)
    other = make_bus(journal=image)

    async def handle(data: int) -> None:
        got.append(data)
        await allowed.acquire()

    other.subscribe("a:*", handle, name="d", durable="d", mailbox=3)
    async with other:
        for number in range(50, 60):
            assert (await lags(other))["d"] == number - other.audit().subscriptions["d"].routed
            await other.publish("a:b", number)
        for _ in range(60):
            await asyncio.sleep(1.0)
            assert (await lags(other))["d"] == 60 - other.audit().subscriptions["d"].routed
            allowed.release()
        await other.settle()
    assert got == [*range(60)]


async def test_lag_of_before_the_start_is_an_upper_bound(make_bus: Make) -> None:
    """What nobody here wants counts until it has been passed; of later events it never does."""
    journal, gate = MemoryJournal(), Gate()
    bus = make_bus(journal=journal)
    sub = bus.subscribe("a:*", gate, durable="d")
    async with bus:
        await bus.publish("a:b")
        sub.unsubscribe()
        gate.open()
        await sub.ended()
        for number in range(10):
            await bus.publish("a:b" if number in (2, 8) else "other:topic", number)
    gate = Gate()
    other = make_bus(journal=journal)
    other.subscribe("a:*", gate, name="d", durable="d", mailbox=1)
    async with other:
        await gate.entered()
        for number in range(5):
            await other.publish("other:topic", number)
        assert gate.got == [2]
        assert 0 < (await lags(other))["d"] <= 7
        gate.open()
        await other.settle()
        assert await lags(other) == {"_ended": 0, "d": 0}
    assert gate.got == [2, 8]


async def test_what_a_stop_takes_back_is_lag_again(make_bus: Make) -> None:
    """At rest the figures are those of the end: ledger and lag together are all there is."""
    gate = Gate()
    bus = make_bus(journal=MemoryJournal())

    async def publish_late(data: Any) -> None:
        await asyncio.sleep(0.5)
        await bus.publish("a:b", data)

    bus.subscribe("a:*", gate, name="d", durable="d", mailbox=5)
    bus.subscribe("start:*", publish_late, name="late")
    async with bus:
        for number in range(30):
            await bus.publish("a:b", number)
        await bus.publish("start:it", 30)
        await bus.close(1.0)
    terms, reading = bus.audit().subscriptions["d"], bus.reading()
    assert terms.acked == 0
    assert terms.routed + reading.durables["d"][0] == 31
    assert reading.journal is not None
    assert reading.journal.events == 32
    async with bus:
        await asyncio.sleep(1.0)
        assert bus.reading().durables["d"][0] == 32 - 5  # what it does not want counts, too
        gate.open()
        await bus.settle()


# -- age -------------------------------------------------------------------------------------------


async def test_the_age_of_the_oldest_not_settled(
    make_bus: Make, later: Callable[[float], None]
) -> None:
    """It grows while the oldest is in hand, and falls to that of the next, or to 0."""
    gates = [Gate(), Gate()]
    bus = make_bus(journal=MemoryJournal())

    async def handle(data: int) -> None:
        await gates[data](data)

    bus.subscribe("a:*", handle, name="d", durable="d")

    def age() -> float:
        return bus.reading().durables["d"][1]

    async with bus:
        assert age() == 0.0
        await bus.publish("a:b", 0)
        later(10.0)
        await bus.publish("a:b", 1)
        later(5.0)
        assert age() == 15.0
        gates[0].open()
        await gates[1].entered()
        assert age() == 5.0
        later(-60.0)
        assert age() == 0.0
        gates[1].open()
        await bus.settle()
        later(1_000.0)
        assert age() == 0.0


# -- who is away -----------------------------------------------------------------------------------


async def test_what_is_held_back_for_nobody(make_bus: Make, later: Callable[[float], None]) -> None:
    """Those without a subscriber count together: all they hold, and the age of the oldest."""
    journal = MemoryJournal()
    bus = make_bus(journal=journal)
    away = [bus.subscribe("a:*", Seen(), durable=name) for name in ("one", "two")]
    async with bus:
        await bus.publish("a:b", 0)
        await bus.settle()
        away[0].unsubscribe()
        await away[0].ended()
        await bus.publish("a:b", 1)
        await bus.settle()
        later(7.0)
        away[1].unsubscribe()
        await away[1].ended()
        await bus.publish("a:b", 2)
        await journal_of(bus)
        assert bus.reading().durables == {"_ended": (3, 7.0)}
    other = make_bus(journal=journal)
    other.subscribe("a:*", Seen(), name="two", durable="two")
    async with other:
        await other.settle()
        await journal_of(other)
        assert other.reading().durables == {"_ended": (2, 7.0), "two": (0, 0.0)}
        later(-60.0)
        assert other.reading().durables["_ended"] == (2, 0.0)


async def test_what_is_settled_ahead_is_not_held_back(make_bus: Make) -> None:
    """Of what is behind the cursor only the rest is."""
    journal, gate = MemoryJournal(), Gate(1)
    bus = make_bus(journal=journal)
    bus.subscribe("a:*", gate, durable="d", concurrency=2)
    async with bus:
        for number in range(5):
            await bus.publish("a:b", number)
        await asyncio.sleep(1.0)
        image = crashed(journal)
        gate.open()
    async with make_bus(journal=image) as other:
        assert await lags(other) == {"_ended": 1}


async def test_later_ones_share_a_label(
    make_bus: Make, later: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are no more labels than there are of subscriptions; the lags of the others add up."""
    monkeypatch.setattr(registry, "LABELS", 2)
    bus, gate = make_bus(journal=MemoryJournal()), Gate()
    for number in range(4):
        bus.subscribe("a:*", gate, name=f"s{number}", durable=f"d{number}", mailbox=1)
    async with bus:
        for _ in range(5):
            await bus.publish("a:b")
        later(3.0)
        durables = bus.reading().durables
        gate.open()
    assert durables.keys() == {"_ended", "s0", "s1", "_other"}
    assert durables["_other"] == (2 * durables["s0"][0], 3.0)


# -- room ------------------------------------------------------------------------------------------


async def test_what_is_in_the_journal(make_bus: Make) -> None:
    """Events, dead letters and bytes are those of the journal, from the start on and at rest."""
    journal = MemoryJournal(max_bytes=5_000)
    bus = make_bus(journal=journal)
    bus.subscribe("a:*", fail, durable="d", retry=RetryPolicy.none())
    before = bus.reading().journal
    async with bus:
        for _ in range(3):
            await bus.publish("a:b", "x")
        await bus.publish("other:topic")
        await bus.settle()
        now = await journal_of(bus)
        status = journal.status()
    for reading in (now, bus.reading().journal):
        assert reading is not None
        assert reading[3:] == (4, 3, status.bytes, 5_000)
    assert before is not None
    assert before[2:] == (0, 0, 0, 0, float("inf"))
    async with make_bus(journal=journal) as other:
        assert other.reading().journal == before[:3] + now[3:]  # there was no commit yet


async def test_a_start_waits_until_the_journal_has_told_what_is_in_it(make_bus: Make) -> None:
    """What is read first is what is there, not zeros."""

    class Unhurried(MemoryJournal):
        asked, tells = threading.Event(), threading.Event()

        def read(self, *which: Any) -> Page:  # without a durable, only such a look reads
            self.asked.set()
            self.tells.wait()
            return super().read(*which)

    journal = Unhurried()
    bus = make_bus(journal=journal)
    starting = asyncio.ensure_future(bus.start())
    try:
        await anyio.to_thread.run_sync(journal.asked.wait)
        for _ in range(20):
            await asyncio.sleep(0)
        assert not starting.done()
    finally:
        journal.tells.set()
        await starting
        await bus.close()


async def test_a_bus_without_a_journal_tells_of_none(bus: EventBus) -> None:
    """Neither numbers nor labels."""
    assert bus.reading().journal is None
    assert bus.reading().durables == {}


async def test_a_bus_may_be_started_again(make_bus: Make) -> None:
    """Each life looks anew, also where the one before ended with its loop."""
    bus = make_bus(journal=MemoryJournal())
    for count in range(1, 4):
        async with bus:
            await bus.publish("a:b")
            assert (await journal_of(bus)).events == count


def test_a_loop_that_was_lost_takes_nobody_along() -> None:
    """Who waits for a look there is not waited for by the next one."""
    journal = Failing()
    bus = EventBus("test", journal=journal)

    async def lose() -> None:
        await bus.start()
        journal.held.clear()
        bus.publish("a:b")
        await asyncio.sleep(0)
        bus.reading()

    async def find() -> None:
        async with bus:
            await bus.publish("a:b")
            assert (await journal_of(bus)).events == 2

    asyncio.run(lose())
    journal.held.set()
    asyncio.run(find())


async def test_a_reading_on_the_loop_is_that_of_the_look_before(make_bus: Make) -> None:
    """It cannot wait; it lets the journal be looked at for the next one."""
    bus = make_bus(journal=MemoryJournal())
    async with bus:
        await bus.publish("a:b")
        found = [bus.reading().journal]
        await bus.settle()
        found.append(bus.reading().journal)
    assert [each and each.events for each in found] == [0, 1]


async def test_a_journal_that_cannot_be_looked_at(make_bus: Make) -> None:
    """The figures stay as they were, and nobody waits; neither does who has no journal to open."""

    class Blind(MemoryJournal):
        blind = False

        def status(self) -> Status:
            if self.blind:
                raise JournalError("no")
            return super().status()

    journal = Blind()
    bus = make_bus(journal=journal)
    async with bus:
        await bus.publish("a:b")
        assert (await journal_of(bus)).events == 1
        journal.blind = True
        await bus.publish("a:b")
        assert (await journal_of(bus)).events == 1
        other = make_bus(journal=journal)
        with pytest.raises(JournalLockedError):
            await other.start()
        reading = other.reading().journal
        assert reading is not None
        assert reading.events == 0


# -- from other threads ----------------------------------------------------------------------------


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_reading_in_another_thread_is_fresh(
    anyio_backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for the journal's thread, while the loop goes on."""
    monkeypatch.setattr(looking, "PATIENCE", 60.0)
    async with EventBus("test", journal=MemoryJournal()) as bus:
        for count in range(1, 4):
            await bus.publish("a:b")
            reading = await anyio.to_thread.run_sync(bus.reading)
            assert reading.journal is not None
            assert reading.journal.events == count


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_journal_that_is_held_up_holds_up_no_reading(
    anyio_backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that takes its time costs a reading its freshness, and nothing else."""
    monkeypatch.setattr(looking, "PATIENCE", 0.001)
    journal = Failing()
    async with EventBus("test", journal=journal) as bus:
        await bus.publish("a:b")
        await anyio.to_thread.run_sync(bus.reading)
        journal.held.clear()
        receipt = bus.publish("a:b")
        for _ in range(3):
            reading = await anyio.to_thread.run_sync(bus.reading)
            assert reading.journal is not None
            assert reading.journal.events <= 1
            assert reading.journal.uncommitted == 1
        journal.held.set()
        await receipt
        assert (await journal_of(bus)).events == 2
    assert not [each for each in threading.enumerate() if "actorbus-test" in each.name]
