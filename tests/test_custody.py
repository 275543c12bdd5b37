"""What the owner of a journal may ask of it while the bus runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actorbus import (
    BusClosedError,
    BusNotRunningError,
    ConfigurationError,
    EventBus,
    InvalidPatternError,
    Reject,
    RetryPolicy,
)
from actorbus.journal.base import Append, Bury, Entry, Grave, Join
from actorbus.journal.memory import MemoryJournal
from actorbus.journal.sqlite import SqliteJournal
from actorbus.survey import PAGE, DurableInfo
from tests.handlers import Gate, Seen

pytestmark = pytest.mark.anyio

Make = Callable[..., EventBus]
ONCE = RetryPolicy.none()


class Slow(MemoryJournal):
    """A journal of which each piece of a verification is noted, and what is committed between."""

    def __init__(self) -> None:
        super().__init__(retention=0.0)
        self.steps: list[str] = []

    def commit(self, operations: Any) -> Any:
        self.steps.append("commit")
        return super().commit(operations)

    def verify(self, *, whole: bool = True) -> Any:
        assert not whole, "what takes long is left out while others wait"
        for number in range(5):
            self.steps.append("verify")
            yield number + 1, 5, None if number else "something is wrong"


async def refuse(data: Any) -> None:
    raise Reject("no")


async def test_info_tells_what_there_is(make_bus: Make) -> None:
    """As for a journal at rest; the lag of a durable that is stuck, too."""
    journal, gate = MemoryJournal(), Gate()
    bus = make_bus(journal=journal)
    bus.subscribe("a:*", gate, durable="stuck", mailbox=1)
    bus.subscribe("b:*", refuse, durable="refuses")
    async with bus:
        for number in range(7):
            await bus.publish("a:b", number)
        await bus.publish("b:c").settled()
        await gate.entered()
        await asyncio.sleep(1.0)
        info = await bus.journal.info()
        assert (info.url, info.events, info.first, info.last) == ("memory://", 8, 1, 8)
        assert (info.dead_letters, info.clean, info.marked_for_replay) == (1, True, {})
        assert info.durables == (
            DurableInfo("stuck", ("a:*",), 0, 7),
            DurableInfo("refuses", ("b:*",), 8, 0),
        )
        gate.open()


async def test_verify_goes_in_pieces(make_bus: Make) -> None:
    """Commits come between; settle does not wait for the end; what is wrong is told."""
    journal = Slow()
    bus = make_bus(journal=journal)
    async with bus:
        verifying = asyncio.create_task(bus.journal.verify())
        for _ in range(3):
            await bus.publish("a:b")
        await bus.settle()
        assert not verifying.done()
        assert await verifying == ("something is wrong",)
    steps = "".join(step[0] for step in journal.steps)
    assert steps.count("v") == 5
    assert "vc" in steps


async def test_verify_of_a_file_that_is_written_meanwhile(make_bus: Make, tmp_path: Path) -> None:
    """What comes, and what is pruned between two pieces, is no damage."""
    journal = SqliteJournal(tmp_path / "events.db", max_bytes=1 << 24, retention=0.0)
    journal.open("process")
    many = [Append(Entry(str(n), "a:b", 1.0, b"1")) for n in range(9_000)]
    journal.commit([Join("d", ("a:*",), 10), *many])
    journal.close(clean=True)
    bus = make_bus(journal=journal, durability="process")
    async with bus:
        verifying = asyncio.create_task(bus.journal.verify())
        await bus.publish("a:c")
        assert await bus.journal.forget("d")
        assert await bus.journal.prune() >= 9_000
        assert await verifying == ()
        assert await bus.journal.verify() == ()


async def test_verify_finds_damage(make_bus: Make, tmp_path: Path) -> None:
    """A damaged event of a journal that is open is named."""
    path = tmp_path / "events.db"
    journal = SqliteJournal(path)
    async with make_bus(journal=journal, durability="process") as bus:
        await bus.publish("a:somewhere", 1)
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b"somewhere", b"somewhexe", 1))
    async with make_bus(journal=SqliteJournal(path), durability="process") as bus:
        assert await bus.journal.verify() == ("event 1 is damaged",)
        (line,) = [line async for line in bus.journal.export("other:topic")]
        assert (line["seq"], line["damaged"]) == (1, True)


async def test_prune_says_how_many(make_bus: Make) -> None:
    """What is past retention and settled goes at once, not in a minute."""
    journal, seen = MemoryJournal(retention=0.0), Seen()
    bus = make_bus(journal=journal)
    bus.subscribe("a:*", seen, durable="d")
    async with bus:
        await asyncio.sleep(1.0)
        for number in range(5):
            await bus.publish("a:b", number)
        await bus.settle()
        await asyncio.sleep(1.0)
        assert await bus.journal.prune() == 5
        assert await bus.journal.prune() == 0


async def test_export_is_what_was_published(make_bus: Make) -> None:
    """In order, page after page, with all that belongs to it; by pattern and time."""
    bus = make_bus(journal=MemoryJournal())
    async with bus:
        await bus.publish("a:b", {"n": 0}, key="k", id="one")
        for number in range(1, PAGE + 10):
            bus.publish(f"a:{number % 2}", {"n": number})
        await bus.settle()
        lines = [line async for line in bus.journal.export()]
        assert [line["data"]["n"] for line in lines] == [*range(PAGE + 10)]
        assert (lines[0]["id"], lines[0]["key"], lines[0]["seq"]) == ("one", "k", 1)
        odd = [line["seq"] async for line in bus.journal.export("a:1")]
        assert odd == [*range(2, PAGE + 11, 2)]
        assert [line async for line in bus.journal.export(since=lines[-1]["time"] + 1.0)] == []
        with pytest.raises(InvalidPatternError):
            await anext(bus.journal.export("a:["))


async def test_forget_lets_go(make_bus: Make) -> None:
    """One that is live is refused by name; one that is gone holds nothing back any more."""
    journal = MemoryJournal()
    bus = make_bus(journal=journal)
    sub = bus.subscribe("a:*", Seen(), durable="d")
    async with bus:
        with pytest.raises(ConfigurationError, match="'d' is live"):
            await bus.journal.forget("d")
        sub.unsubscribe()
        await sub.ended()
        assert await bus.journal.forget("d")
        assert not await bus.journal.forget("d")
        assert journal.status().cursors == {}


# -- dead letters ----------------------------------------------------------------------------------


def filled(count: int) -> MemoryJournal:
    """Return a journal with dead letters, of `s` and of `t` in turn."""
    journal = MemoryJournal()
    journal.open("power")
    for number in range(count):
        event = Entry(f"e{number}", "a:b", 1.0, str(number).encode())
        journal.commit([Bury(Grave(f"g{number}", "st"[number % 2], "rejected", event, 1.0))])
    journal.close(clean=True)
    return journal


async def test_dead_letters_beyond_the_store(make_bus: Make) -> None:
    """All that the journal keeps, by filter."""
    count = 2 * PAGE + 5
    async with make_bus(journal=filled(count), dead_letters=3) as bus:
        assert len(bus.dead_letters) == 3
        every = [letter.id async for letter in bus.journal.dead_letters()]
        assert every == [f"g{number}" for number in range(count)]
        found = [letter async for letter in bus.journal.dead_letters(subscription="t")]
        assert [letter.event.data for letter in found] == [*range(1, count, 2)]
        assert [letter async for letter in bus.journal.dead_letters(reason="poison")] == []
        with pytest.raises(ConfigurationError):
            await anext(bus.journal.dead_letters(reason="boredom"))


async def test_replay_beyond_the_store(make_bus: Make) -> None:
    """Everything that fits is handled once, though the bus holds three; the rest stays."""
    count, seen = 2 * PAGE, Seen()
    journal = filled(count)
    bus = make_bus(journal=journal, dead_letters=3)
    bus.subscribe("a:*", seen, name="s", mailbox=5)
    async with bus:
        assert await bus.journal.replay("g2") == 1
        assert await bus.journal.replay(subscription="s") in (PAGE, PAGE - 1)
        await bus.settle()
        assert sorted(seen.got) == [*range(0, count, 2)]
        assert journal.status().dead == PAGE
        assert await bus.journal.replay("unknown") == 0


async def test_replay_again_while_it_is_under_way(make_bus: Make) -> None:
    """What is under way is not given twice; what failed meanwhile is given again."""
    gate = Gate()
    journal = filled(8)
    bus = make_bus(journal=journal)
    bus.subscribe("a:*", gate, name="s", mailbox=1)
    async with bus:
        assert await bus.journal.replay(subscription="s") == 4
        await gate.entered()
        for _ in range(3):
            await bus.journal.replay(subscription="s")
        gate.open()
        await bus.settle()
    assert gate.got == [0, 2, 4, 6]


async def test_replay_leaves_out_what_nobody_can_be_given(make_bus: Make) -> None:
    """A letter of no subscription, or damaged, is not marked."""
    journal = filled(1)
    journal.open("power")
    journal.commit([
        Bury(Grave("n", "", "commit_failed", Entry("e", "a:b", 1.0, b"1"), 1.0)),
        Bury(Grave("d", "s", "rejected", Entry("e", "a:b", 1.0, b"?"), 1.0)),
    ])  # fmt: skip
    journal.close(clean=True)
    async with make_bus(journal=journal) as bus:
        assert await bus.journal.replay() == 1
        assert journal.status().marked == {"s": 1}


async def test_discard_beyond_the_store(make_bus: Make) -> None:
    """Here and in the journal; those that fit not are not touched."""
    count = 2 * PAGE + 6
    journal = filled(count)
    async with make_bus(journal=journal, dead_letters=4) as bus:
        assert await bus.journal.discard("g0") == 1
        assert await bus.journal.discard(subscription="s") == count // 2 - 1
        assert {letter.subscription for letter in bus.dead_letters} == {"t"}
        assert journal.status().dead == count // 2
        assert await bus.journal.discard() == count // 2
        assert len(bus.dead_letters) == 0
        assert journal.status().dead == 0


async def test_a_letter_that_waits_for_room_is_not_discarded(make_bus: Make) -> None:
    """It is in the hands of a replay, as with `DeadLetters.discard`."""
    gate = Gate()
    bus = make_bus(journal=filled(2))
    bus.subscribe("a:*", gate, name="s", mailbox=1, put_timeout=None)
    async with bus:
        bus.publish("a:c", "in hand")
        await gate.entered()
        await bus.publish("a:c", "queued")
        replaying = asyncio.create_task(bus.dead_letters.replay("g0"))
        await asyncio.sleep(1.0)
        assert await bus.journal.discard() == 1
        assert [letter.id for letter in bus.dead_letters] == ["g0"]
        gate.open()
        assert await replaying == 1
        await bus.settle()
    assert gate.got == ["in hand", "queued", 0]


# -- who may ask -----------------------------------------------------------------------------------


async def test_a_bus_that_does_not_run_here_is_refused(make_bus: Make) -> None:
    """Before the start, after the close, from another loop; and one without a journal."""
    bus = make_bus(journal=MemoryJournal())
    with pytest.raises(BusNotRunningError):
        await bus.journal.info()
    async with bus:
        with pytest.raises(BusNotRunningError):
            await asyncio.to_thread(lambda: asyncio.run(bus.journal.info()))
    with pytest.raises(BusClosedError):
        await bus.journal.prune()
    with pytest.raises(ConfigurationError, match="no journal"):
        assert make_bus().journal


async def test_a_drain_does_not_wait_for_a_long_look(make_bus: Make) -> None:
    """It is over with an error, and the bus closes."""
    journal = Slow()
    bus = make_bus(journal=journal)
    async with bus:
        verifying = asyncio.create_task(bus.journal.verify())
        await asyncio.sleep(0)
        report = await bus.close()
        assert report.complete
        with pytest.raises(BusClosedError):
            await verifying
    assert journal.steps.count("verify") < 5
