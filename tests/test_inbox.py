"""Inbox: what a handler writes is committed with its acknowledgement, once for each event id."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actorbus import (
    Actor,
    BusClosedError,
    ConfigurationError,
    DeadReason,
    Event,
    EventBus,
    JournalFullError,
    Outcome,
    RetryPolicy,
    Transaction,
    TransactionError,
)
from actorbus.journal import transacting
from actorbus.journal.base import Exhume, Operation, Result
from actorbus.journal.effects import Transact
from actorbus.journal.memory import MemoryJournal
from actorbus.journal.sqlite import SqliteJournal
from actorbus.testing import simulate
from actorbus.testing.journal_model import QUICK
from tests.conftest import heed_threads

pytestmark = pytest.mark.anyio

Make = Callable[..., EventBus]
ONCE = RetryPolicy.none()
TWICE = RetryPolicy(max_attempts=2)


@pytest.fixture
async def bus(make_bus: Make, tmp_path: Path) -> EventBus:
    """Give a bus whose journal is a file."""
    made = make_bus(journal=SqliteJournal(tmp_path / "events.db"))
    heed_threads(made)
    return made


async def create(bus: EventBus) -> None:
    """Make the table that the handlers here write."""
    async with bus.transaction() as tx:
        tx.execute("CREATE TABLE own(it)")


async def written(bus: EventBus) -> list[Any]:
    """Return what is in it."""
    async with bus.transaction() as tx:
        return [it for (it,) in await tx.fetch("SELECT it FROM own ORDER BY rowid")]


class Held(SqliteJournal):
    """A journal whose transactions wait until they are let go, and that can keep dead letters.

    Attributes:
        begun: Set when one has begun.
        keeps: Whether it forgets to let dead letters go.
    """

    def __init__(self, path: Path, **options: Any) -> None:
        super().__init__(path, **options)
        self.begun, self.held = threading.Event(), threading.Event()
        self.held.set()
        self.keeps = False

    def commit(self, operations: Sequence[Operation]) -> list[Result]:
        if any(isinstance(each, Transact) and each.durable for each in operations):
            self.begun.set()
            self.held.wait(10.0)
        if self.keeps:
            nothing = Exhume(())
            operations = [nothing if isinstance(op, Exhume) else op for op in operations]
        return super().commit(operations)


# -- what is written -------------------------------------------------------------------------------


async def test_what_a_handler_writes_is_there_when_it_is_acked(bus: EventBus) -> None:
    """Statements run in order, with parameters by place and by name, each row of many."""

    async def handle(data: int, tx: Transaction) -> None:
        tx.execute("INSERT INTO own VALUES(?)", (data,))
        tx.execute("UPDATE own SET it = it + :more WHERE it = :it", {"it": data, "more": 1})
        tx.executemany("INSERT INTO own VALUES(?)", [(each,) for each in (b"b", "ü", None, 1.5)])

    bus.subscribe("a:*", handle, durable="d", inbox=True)
    async with bus:
        await create(bus)
        await (await bus.publish("a:b", 1)).settled()
        assert await written(bus) == [2, b"b", "ü", None, 1.5]


async def test_a_handler_that_fails_writes_nothing(bus: EventBus) -> None:
    """Of its attempts only the one that returns takes effect."""
    attempts = 0

    async def handle(data: int, tx: Transaction) -> None:
        nonlocal attempts
        attempts += 1
        tx.execute("INSERT INTO own VALUES(?)", (attempts,))
        if attempts < 3:
            raise ValueError(data)

    bus.subscribe("a:*", handle, durable="d", inbox=True)
    async with bus:
        await create(bus)
        await bus.publish("a:b", 1)
        await bus.settle()
        assert await written(bus) == [3]


async def test_an_event_of_one_id_takes_effect_once(make_bus: Make, tmp_path: Path) -> None:
    """However often it is published, and long after the journal has ceased to compare ids."""
    bus = make_bus(journal=SqliteJournal(tmp_path / "events.db", window=0.0))
    calls = []

    async def handle(event: Event, tx: Transaction) -> None:
        calls.append(event.data)
        tx.execute("INSERT INTO own VALUES(?)", (event.data,))

    bus.subscribe("a:*", handle, name="sub", durable="d", inbox=True)
    async with bus:
        await create(bus)
        for data in "first", "second":
            receipt = await bus.publish("a:b", data, id="one")
            assert (await receipt.settled()).outcomes == {"sub": Outcome.ACKED}
        assert calls == ["first", "second"]
        assert await written(bus) == ["first"]


async def test_a_handler_of_an_event_that_took_effect_need_not_go_on(
    make_bus: Make, tmp_path: Path
) -> None:
    """It would read what it has written itself; so it is left at the first look, and acked."""
    bus = make_bus(journal=SqliteJournal(tmp_path / "events.db", window=0.0))

    async def handle(event: Event, tx: Transaction) -> None:
        if await tx.fetch("SELECT 1 FROM own"):
            raise ValueError("twice")
        tx.execute("INSERT INTO own VALUES(?)", (event.data,))

    bus.subscribe("a:*", handle, durable="d", inbox=True, retry=ONCE)
    async with bus:
        await create(bus)
        for data in "first", "second":
            await bus.publish("a:b", data, id="one")
        await bus.settle()
        assert not list(bus.dead_letters)
        assert await written(bus) == ["first"]


async def test_it_is_left_in_a_task_group_too(make_bus: Make, tmp_path: Path) -> None:
    """Though that makes a group of what it raises."""
    bus = make_bus(journal=SqliteJournal(tmp_path / "events.db", window=0.0))

    async def handle(event: Event, tx: Transaction) -> None:
        tx.execute("INSERT INTO own VALUES(?)", (event.data,))
        async with asyncio.TaskGroup() as group:
            group.create_task(tx.fetch("SELECT 1 FROM own"))

    bus.subscribe("a:*", handle, durable="d", inbox=True, retry=ONCE)
    async with bus:
        await create(bus)
        for data in "first", "second":
            await bus.publish("a:b", data, id="one")
        await bus.settle()
        assert not list(bus.dead_letters)
        assert await written(bus) == ["first"]


async def test_each_subscription_has_an_inbox_of_its_own(bus: EventBus) -> None:
    """An event takes effect once for each of two."""
    for name in "one", "two":

        async def handle(data: int, tx: Transaction, name: str = name) -> None:
            tx.execute("INSERT INTO own VALUES(?)", (f"{name} {data}",))

        bus.subscribe("a:*", handle, durable=name, inbox=True)
    async with bus:
        await create(bus)
        for number in range(5):
            bus.publish("a:b", number)
        await bus.settle()
        names = [f"{name} {number}" for name in ("one", "two") for number in range(5)]
        assert sorted(await written(bus)) == names


async def test_a_refused_statement_fails_the_attempt_and_nobody_else(bus: EventBus) -> None:
    """Its error has SQLite's as cause; what is committed with it stays, whatever it rolls back."""

    async def handle(data: int, tx: Transaction) -> None:
        tx.execute("INSERT INTO own VALUES(?)", (data,))
        if data == 1:
            tx.execute("INSERT INTO single VALUES('there')")
        if data == 2:
            tx.execute("INSERT OR ROLLBACK INTO single VALUES('there')")

    bus.subscribe("a:*", handle, durable="d", inbox=True, retry=ONCE, concurrency=5)
    async with bus:
        await create(bus)
        async with bus.transaction() as tx:
            tx.execute("CREATE TABLE single(it UNIQUE)")
            tx.execute("INSERT INTO single VALUES('there')")
        await asyncio.gather(*(bus.publish("a:b", number) for number in range(5)))
        await bus.settle()
        assert await written(bus) == [0, 3, 4]
        for letter in bus.dead_letters:
            assert letter.reason is DeadReason.RETRIES_EXHAUSTED
            assert isinstance(letter.error, TransactionError)
            assert isinstance(letter.error.__cause__, sqlite3.IntegrityError)
            assert letter.error.reason == "UNIQUE constraint failed: single.it"
        assert sorted(each.event.data for each in bus.dead_letters) == [1, 2]


# -- what is read ----------------------------------------------------------------------------------


async def test_a_handler_sees_what_it_has_put_down(bus: EventBus) -> None:
    """And what was committed before; yet nothing of it is there until it returns."""
    seen: list[Any] = []

    async def handle(data: str, tx: Transaction) -> None:
        tx.execute("INSERT INTO own VALUES(?)", (data,))
        seen.append(await tx.fetch("SELECT it FROM own WHERE it <> :no", {"no": "ö"}))
        seen.append(await written(bus))

    bus.subscribe("a:*", handle, durable="d", inbox=True)
    async with bus:
        await create(bus)
        for data in "ä", "ö", "ü":
            await bus.publish("a:b", data)
        await bus.settle()
    assert seen == [
        [("ä",)], [], [("ä",)], ["ä"], [("ä",), ("ü",)], ["ä", "ö"],
    ]  # fmt: skip


async def test_a_fetch_writes_nothing(bus: EventBus) -> None:
    """What would look as if it did is refused, and so is one behind a wrong statement."""
    errors: list[str] = []

    async def handle(data: str, tx: Transaction) -> None:
        try:
            await tx.fetch("INSERT INTO own VALUES(1) RETURNING it")
        except TransactionError as error:
            errors.append(error.reason)
        tx.execute("INSERT INTO nowhere VALUES(1)")
        await tx.fetch("SELECT 1")

    bus.subscribe("a:*", handle, durable="d", inbox=True, retry=ONCE)
    async with bus:
        await create(bus)
        await bus.publish("a:b")
        await bus.settle()
        (letter,) = bus.dead_letters
        assert await written(bus) == []
    assert errors == ["a transaction only reads"]
    assert "no such table: nowhere" in str(letter.error)


async def test_a_statement_cannot_hold_up_everybody(
    bus: EventBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that does not end is given up, its attempt has failed, and the others go on."""
    monkeypatch.setattr(transacting, "ROUND", 1_000)
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "

    async def handle(data: int, tx: Transaction) -> None:
        if data == 1:
            tx.execute(f"{endless} INSERT INTO own SELECT i FROM n")  # noqa: S608
        if data == 2:
            await tx.fetch(f"{endless} SELECT max(i) FROM n")  # noqa: S608
        tx.execute("INSERT INTO own VALUES(?)", (data,))

    bus.subscribe("a:*", handle, durable="d", inbox=True, retry=ONCE, concurrency=4)
    async with bus:
        await create(bus)
        await asyncio.gather(*(bus.publish("a:b", number) for number in range(4)))
        await bus.settle()
        assert await written(bus) == [0, 3]
        reasons = {getattr(each.error, "reason", "") for each in bus.dead_letters}
        assert reasons == {"it takes too long, and everybody waits for it"}


# -- parameters ------------------------------------------------------------------------------------


async def test_parameters_are_copied_at_the_call(bus: EventBus) -> None:
    """What is changed afterwards is not written."""

    async def handle(data: Any, tx: Transaction) -> None:
        raw, row = bytearray(b"before"), [1]
        tx.execute("INSERT INTO own VALUES(?)", (raw,))
        tx.execute("INSERT INTO own VALUES(?)", row)
        raw[:], row[:] = b"after", [2]

    bus.subscribe("a:*", handle, durable="d", inbox=True)
    async with bus:
        await create(bus)
        await bus.publish("a:b")
        await bus.settle()
        assert await written(bus) == [b"before", 1]


@pytest.mark.parametrize(
    ("sql", "parameters"),
    [
        ("SELECT ?", (datetime.now(UTC),)),
        ("SELECT ?", (1 << 63,)),
        ("SELECT ?", ([],)),
        ("SELECT ?", "a"),
        ("SELECT ?", 1),
        (5, ()),
    ],
)
async def test_what_is_no_parameter_is_refused_at_the_call(
    bus: EventBus, sql: Any, parameters: Any
) -> None:
    """In the handler, where the mistake is."""
    async with bus, bus.transaction() as tx:
        with pytest.raises(TransactionError):
            tx.execute(sql, parameters)
        with pytest.raises(TransactionError):
            await tx.fetch(sql, parameters)


async def test_a_parameter_that_cannot_be_encoded_is_refused(bus: EventBus) -> None:
    """Half a surrogate pair is found by SQLite, and harms nobody else."""
    async with bus:
        with pytest.raises(TransactionError):
            async with bus.transaction() as tx:
                tx.execute("SELECT ?", ("\ud800",))
        await create(bus)


async def test_a_transaction_is_over_with_its_handler(bus: EventBus) -> None:
    """Whoever has kept it can put nothing down any more."""
    kept: list[Transaction] = []

    async def handle(data: Any, tx: Transaction) -> None:
        kept.append(tx)

    bus.subscribe("a:*", handle, durable="d", inbox=True)
    async with bus:
        await bus.publish("a:b")
        await bus.settle()
        with pytest.raises(RuntimeError, match="over"):
            kept[0].execute("SELECT 1")
        with pytest.raises(RuntimeError, match="over"):
            await kept[0].fetch("SELECT 1")


# -- how handlers are called -----------------------------------------------------------------------


async def test_a_plain_function_in_a_thread(bus: EventBus) -> None:
    """It puts down and reads as others do, and the loop goes on meanwhile."""

    def handle(data: int, tx: Transaction) -> int:
        ((count,),) = tx.fetch_blocking("SELECT count(*) FROM own")
        tx.execute("INSERT INTO own VALUES(?)", (count,))
        return data + 1

    bus.subscribe("a:*", handle, durable="d", inbox=True)
    async with bus:
        await create(bus)
        for number in range(20):
            bus.publish("a:b", number)
        await bus.settle()
        assert await written(bus) == [*range(20)]
        assert await bus.ask("a:b", 41) == 42


async def test_a_thread_s_event_takes_effect_once(make_bus: Make, tmp_path: Path) -> None:
    """Read or not, whatever the attempt; and what is refused fails it."""
    bus = make_bus(journal=SqliteJournal(tmp_path / "events.db", window=0.0))
    heed_threads(bus)

    def handle(event: Event, tx: Transaction) -> None:
        if event.data == "reads":
            tx.fetch_blocking("SELECT 1")
        tx.execute("INSERT INTO own VALUES(?)", (event.data,))
        if event.data == "fails":
            tx.execute("INSERT INTO nowhere VALUES(1)")

    bus.subscribe("a:*", handle, durable="d", inbox=True, retry=TWICE)
    async with bus:
        await create(bus)
        for data in "first", "second", "reads":
            await bus.publish("a:b", data, id="one")
        await bus.publish("a:b", "fails")
        await bus.settle()
        assert await written(bus) == ["first"]
        (letter,) = bus.dead_letters
        assert (letter.event.data, letter.attempts) == ("fails", 2)


async def test_a_plain_function_on_the_loop(bus: EventBus) -> None:
    """It cannot wait for a row there, and is told so."""
    errors: list[str] = []

    def handle(data: int, tx: Transaction) -> None:
        try:
            tx.fetch_blocking("SELECT 1")
        except RuntimeError as error:
            errors.append(str(error))
        tx.execute("INSERT INTO own VALUES(?)", (data,))

    bus.subscribe("a:*", handle, durable="d", inbox=True, inline=True)
    async with bus:
        await create(bus)
        await bus.publish("a:b", 1)
        await bus.settle()
        assert await written(bus) == [1]
    assert len(errors) == 1


async def test_an_actor_class(bus: EventBus) -> None:
    """Its `receive` takes the transaction as well, and a restart changes nothing."""

    class Counting(Actor):
        patterns = "a:*"
        durable: ClassVar[str] = "counting"
        inbox: ClassVar[bool] = True
        failed: ClassVar[bool] = False

        async def receive(self, event: Event, tx: Transaction) -> None:  # type: ignore[override] # the inbox adds one
            tx.execute("INSERT INTO own VALUES(?)", (event.data,))
            if event.data == 1 and not Counting.failed:
                Counting.failed = True
                raise ValueError

    bus.spawn(Counting, retry=TWICE)
    async with bus:
        await create(bus)
        for number in range(3):
            await bus.publish("a:b", number)
        await bus.settle()
        assert await written(bus) == [0, 1, 2]


async def test_keys_are_handled_at_once(bus: EventBus) -> None:
    """Each key in order, several keys in one commit."""

    async def handle(event: Event, tx: Transaction) -> None:
        tx.execute("INSERT INTO own VALUES(?)", (event.data,))

    bus.subscribe("a:*", handle, durable="d", inbox=True, concurrency=4, key="key")
    async with bus:
        await create(bus)
        await asyncio.gather(*(bus.publish("a:b", n, key=n % 4) for n in range(40)))
        await bus.settle()
        found = await written(bus)
        for key in range(4):
            assert [each for each in found if each % 4 == key] == [*range(key, 40, 4)]


async def test_an_actor_that_is_told(bus: EventBus) -> None:
    """An event of its own, that no journal has seen, takes effect once as well."""

    async def handle(event: Event, tx: Transaction) -> None:
        tx.execute("INSERT INTO own VALUES(?)", (event.data,))

    bus.subscribe("a:*", handle, name="told", durable="d", inbox=True)
    async with bus:
        await create(bus)
        ref = bus.actor("told")
        assert ref is not None
        await (await ref.tell(7)).settled()
        assert await written(bus) == [7]


# -- commits that are cut off ----------------------------------------------------------------------


async def test_a_handler_cut_off_while_its_commit_is_under_way(
    make_bus: Make, tmp_path: Path
) -> None:
    """The next attempt asks the journal first, and finds that there is nothing left to do."""
    journal = Held(tmp_path / "events.db")
    bus, calls = make_bus(journal=journal), 0

    async def handle(data: int, tx: Transaction) -> None:
        nonlocal calls
        calls += 1
        tx.execute("INSERT INTO own VALUES(?)", (data,))

    bus.subscribe("a:*", handle, name="sub", durable="d", inbox=True, retry=ONCE)
    async with bus:
        await create(bus)
        journal.held.clear()
        receipt = await bus.publish("a:b", 1)
        while calls == 0:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert journal.begun.wait(10.0)
        (worker,) = (each for each in asyncio.all_tasks() if each.get_name() == "actorbus:sub")
        worker.cancel()
        await asyncio.wait({worker})
        journal.held.set()
        assert (await receipt.settled()).outcomes == {"sub": Outcome.ACKED}
        assert calls == 1
        assert await written(bus) == [1]


async def test_a_handler_that_was_abandoned_writes_nothing(bus: EventBus) -> None:
    """Its delivery is a dead letter: what it puts down comes too late."""
    go_on = asyncio.Event()

    async def handle(data: int, tx: Transaction) -> None:
        while not go_on.is_set():
            with suppress(asyncio.CancelledError):
                await go_on.wait()
        tx.execute("INSERT INTO own VALUES(?)", (data,))

    bus.subscribe("a:*", handle, durable="d", inbox=True, timeout=1.0, retry=ONCE)
    async with bus:
        await create(bus)
        await bus.publish("a:b", 1)
        await bus.settle()
        (letter,) = bus.dead_letters
        assert letter.reason is DeadReason.TIMEOUT_IGNORED
        go_on.set()
        await asyncio.sleep(1.0)
        assert await written(bus) == []


async def test_a_replayed_dead_letter_takes_effect_once(make_bus: Make, tmp_path: Path) -> None:
    """Also when the process dies before the letter is let go, and it is replayed again."""
    broken, calls = True, 0

    async def handle(data: int, tx: Transaction) -> None:
        nonlocal calls
        calls += 1
        if broken:
            raise ValueError(data)
        tx.execute("INSERT INTO own VALUES(?)", (data,))

    for life in range(3):
        journal = Held(tmp_path / "events.db")
        journal.keeps = life < 2
        bus = make_bus(f"life {life}", journal=journal)
        bus.subscribe("a:*", handle, name="sub", durable="d", inbox=True, retry=ONCE)
        async with bus:
            if life == 0:
                await create(bus)
                await bus.publish("a:b", 1)
                await bus.settle()
                broken = False
            assert await bus.dead_letters.replay() == 1
            await bus.settle()
            assert await written(bus) == [1]
            assert calls == 2
    journal.open("power")
    assert journal.dead() == []
    journal.close(clean=True)


# -- room ------------------------------------------------------------------------------------------


async def test_a_full_journal_fails_the_attempt_and_loses_nothing(
    make_bus: Make, tmp_path: Path
) -> None:
    """The effect comes with the attempt that finds room; what only settles goes on meanwhile."""
    bus = make_bus(journal=SqliteJournal(tmp_path / "events.db", max_bytes=1 << 20))
    beside: list[str] = []
    attempts = 0

    async def handle(data: str, tx: Transaction) -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 3:
            async with bus.transaction() as other:
                other.execute("DELETE FROM filling")
        tx.execute("INSERT INTO own VALUES(?)", (bytes(300_000),))

    async def settle(data: str) -> None:
        beside.append(data)

    bus.subscribe("a:*", handle, name="sub", durable="d", inbox=True)
    bus.subscribe("a:*", settle, name="beside", durable="beside")
    async with bus:
        await create(bus)
        async with bus.transaction() as tx:
            tx.execute("CREATE TABLE filling(it)")
            tx.executemany("INSERT INTO filling VALUES(?)", [(bytes(3_000),)] * 120)
        await bus.publish("a:b", "one")
        await bus.settle()
        assert [len(each) for each in await written(bus)] == [300_000]
        assert (attempts, beside) == (3, ["one"])
        with pytest.raises(JournalFullError):
            async with bus.transaction() as tx:
                tx.execute("INSERT INTO filling VALUES(?)", (bytes(900_000),))


# -- tables without a handler ----------------------------------------------------------------------


async def test_a_block_that_raises_writes_nothing(bus: EventBus) -> None:
    """All of a transaction or none of it, and none of one that is refused."""
    async with bus:
        await create(bus)
        with pytest.raises(KeyError):
            async with bus.transaction() as tx:
                tx.execute("INSERT INTO own VALUES(1)")
                raise KeyError
        with pytest.raises(TransactionError, match="nowhere"):
            async with bus.transaction() as tx:
                tx.execute("INSERT INTO own VALUES(2)")
                tx.execute("INSERT INTO nowhere VALUES(2)")
        assert await written(bus) == []
    with pytest.raises(BusClosedError):
        async with bus.transaction():
            pass


async def test_tables_last(bus: EventBus, make_bus: Make, tmp_path: Path) -> None:
    """What is in them is there after a restart, and the journal finds nothing wrong with them."""
    async with bus:
        await create(bus)
        async with bus.transaction() as tx:
            tx.execute("CREATE INDEX own_it ON own(it)")
            tx.execute("CREATE VIEW twice AS SELECT it FROM own UNION ALL SELECT it FROM own")
            tx.execute("INSERT INTO own VALUES(1)")
    async with make_bus(journal=(journal := SqliteJournal(tmp_path / "events.db"))) as again:
        async with again.transaction() as tx:
            assert await tx.fetch("SELECT it FROM twice") == [(1,), (1,)]
        assert {problem for *_, problem in journal.verify()} == {None}


async def test_where_there_are_no_tables(make_bus: Make) -> None:
    """A bus without a journal, or with one in memory, says so at once."""
    for bus in make_bus("without"), make_bus("in memory", journal=MemoryJournal()):
        async with bus:
            with pytest.raises(ConfigurationError, match="journal"):
                async with bus.transaction():
                    pass


# -- options ---------------------------------------------------------------------------------------


async def one(data: Any) -> None:
    """Take one argument."""


async def two(data: Any, tx: Transaction) -> None:
    """Take two arguments."""


@pytest.mark.parametrize(
    ("handler", "options", "words"),
    [
        (two, {"inbox": True}, "inbox without durable"),
        (one, {"inbox": True, "durable": "d"}, r"two arguments with inbox=True, \(data, tx\)"),
        (two, {"durable": "d"}, "one argument"),
        (two, {"inbox": 1, "durable": "d"}, "inbox must be True or False"),
    ],
)
async def test_a_bad_combination_is_refused_at_once(
    bus: EventBus, handler: Any, options: Any, words: str
) -> None:
    """Saying which and why."""
    with pytest.raises(ConfigurationError, match=words):
        bus.subscribe("a:*", handler, **options)


def test_a_journal_without_tables_is_refused_at_once() -> None:
    """An inbox needs a database."""
    bus = EventBus(journal=MemoryJournal())
    with pytest.raises(ConfigurationError, match="journal with tables"):
        bus.subscribe("a:*", two, durable="d", inbox=True)


async def test_the_first_parameter_says_what_a_handler_takes(bus: EventBus) -> None:
    """As without an inbox; of a callable object and of a method, too."""
    got: list[Any] = []

    class Handler:
        async def __call__(self, event: Event, tx: Transaction) -> None:
            got.append(event.topic)

        async def handle(self, data: Any, tx: Transaction, more: int = 0) -> None:
            got.append(data)

    bus.subscribe("a:*", Handler(), durable="object", inbox=True)
    bus.subscribe("a:*", Handler().handle, durable="method", inbox=True)
    async with bus:
        await bus.publish("a:b", 1)
        await bus.settle()
    assert sorted(map(str, got)) == ["1", "a:b"]


# -- crashes ---------------------------------------------------------------------------------------


class Lives:
    """A program that publishes, handles, and crashes again and again.

    A crash is a copy of the journal's files between two steps of the loop. The publisher goes on
    where its acknowledgements end, so an event may be published twice, under one id.
    """

    def __init__(self, place: Path, crashes: list[int], events: int, slow: float) -> None:
        self.place = place
        self.crashes = crashes
        self.events = events
        self.slow = slow
        self.acknowledged: list[str] = []
        self.rows: list[tuple[str, str]] = []

    async def main(self) -> None:
        """Run all lives."""
        for life, crash in enumerate([*self.crashes, None]):
            bus = self.bus(self.place / str(life))
            await bus.start()
            async with bus.transaction() as tx:
                tx.execute("CREATE TABLE IF NOT EXISTS own(who, event)")
            publisher = asyncio.ensure_future(self.publish(bus, life))
            if crash is None:
                await publisher
                await bus.settle()
                async with bus.transaction() as tx:
                    self.rows = await tx.fetch("SELECT who, event FROM own")
                assert not list(bus.dead_letters)
            else:
                for _ in range(crash):
                    await asyncio.sleep(0)
                shutil.copytree(self.place / str(life), self.place / str(life + 1))
            acknowledged = [*self.acknowledged]
            publisher.cancel()
            await bus.close(0.0)
            self.acknowledged = acknowledged

    def bus(self, place: Path) -> EventBus:
        """Return a bus that handles durably."""
        place.mkdir(exist_ok=True)
        bus = EventBus("lives", journal=SqliteJournal(place / "events.db", max_bytes=1 << 22))

        async def handle(event: Event, tx: Transaction) -> None:
            tx.execute("INSERT INTO own VALUES('one', ?)", (event.id,))
            await asyncio.sleep(self.slow)

        async def look(event: Event, tx: Transaction) -> None:
            tx.execute("INSERT INTO own VALUES('three', ?)", (event.id,))
            own = "SELECT count(*) FROM own WHERE who = 'three' AND event = ?"
            assert await tx.fetch(own, (event.id,)) == [(1,)]

        options: dict[str, Any] = {"inbox": True, "mailbox": 3, "timeout": 0.5}
        patient = RetryPolicy(max_attempts=1_000, max_elapsed=None)
        bus.subscribe("a:*", handle, durable="one", retry=patient, **options)
        bus.subscribe("a:*", look, durable="three", concurrency=3, retry=patient, **options)
        return bus

    async def publish(self, bus: EventBus, life: int) -> None:
        """Publish, remembering what was acknowledged."""
        for number in range(len(self.acknowledged), (life + 1) * self.events):
            receipt = await bus.publish("a:b", number, id=f"event {number}")
            self.acknowledged.append(receipt.event.id)


@given(
    crashes=st.lists(st.integers(0, 150), max_size=4),
    events=st.integers(1, 8),
    slow=st.sampled_from([0.0, 0.1, 0.49]),
    seed=st.integers(0, 1_000_000),
)
def test_whenever_it_crashes_an_event_takes_effect_once(
    crashes: list[int], events: int, slow: float, seed: int
) -> None:
    """For each subscription, whatever was acknowledged; timeouts cut commits off besides."""
    with tempfile.TemporaryDirectory(dir=QUICK) as place:
        lives = Lives(Path(place), crashes, events, slow)
        simulate(lives.main, seed=seed)
    assert len(lives.acknowledged) == (len(crashes) + 1) * events
    each = Counter(lives.rows)
    assert set(each.values()) == {1}
    assert each.keys() == {(who, it) for who in ("one", "three") for it in lives.acknowledged}
