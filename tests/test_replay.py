"""Replay of dead letters: one letter for one delivery, however often it is replayed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from actorbus import (
    DeadLetter,
    DeadlockError,
    DeadReason,
    EventBus,
    JournalFullError,
    RestartPolicy,
    RetryPolicy,
)
from actorbus.journal.base import Bury, Entry, Grave, Operation, Result
from actorbus.journal.memory import MemoryJournal
from tests.handlers import fail

pytestmark = pytest.mark.anyio

ONCE = RetryPolicy.none()
Make = Callable[..., EventBus]


class Watched(MemoryJournal):
    """A journal that notes how many dead letters each commit has left, and may take none.

    Attributes:
        full: Whether it takes none.
        buried: How many there were after a commit.
    """

    def __init__(self) -> None:
        super().__init__()
        self.full = False
        self.buried: set[int] = set()

    def commit(self, operations: Sequence[Operation]) -> list[Result]:
        if self.full and any(isinstance(each, Bury) for each in operations):
            raise JournalFullError("no room for the dead")
        results = super().commit(operations)
        self.buried.add(self.status().dead)
        return results


class Stuck:
    """Fails on "bad" and holds on to everything else until it is let go."""

    def __init__(self) -> None:
        self.inside = asyncio.Event()
        self.go = asyncio.Event()

    async def __call__(self, data: Any) -> None:
        if data == "bad":
            raise ValueError(data)
        self.inside.set()
        await self.go.wait()


async def stuck_with_a_letter(bus: EventBus, **options: Any) -> Stuck:
    """Subscribe somebody who has a letter, one delivery in hand, and a full mailbox of one."""
    handler = Stuck()
    bus.subscribe("a:b", handler, name="stuck", mailbox=1, retry=ONCE, **options)
    await bus.publish("a:b", "bad").settled()
    bus.publish("a:b", "in hand")
    await handler.inside.wait()
    await bus.publish("a:b", "queued")
    return handler


@pytest.mark.parametrize("journal", [False, True])
@pytest.mark.parametrize(
    ("options", "reasons"),
    [
        ({"overflow": "drop_new"}, ["overflow", "overflow", "overflow"]),
        ({"overflow": "fail"}, ["overflow", "overflow", "overflow"]),
        ({"put_timeout": 1.0}, ["overflow_timeout", "stalled", "stalled"]),
    ],
)
async def test_replays_that_are_refused_make_no_further_letters(
    make_bus: Make, options: dict[str, Any], reasons: list[str], journal: bool
) -> None:
    """The letter stays, alone; each refusal is in the books, in the log and announced."""
    kept = MemoryJournal()
    bus = make_bus(journal=kept if journal else None)
    told: list[str] = []

    async def note(letter: DeadLetter) -> None:
        told.append(letter.reason)

    bus.subscribe("$bus:dead_letter:**", note, name="note")
    async with bus:
        handler = await stuck_with_a_letter(bus, **options)
        (first,) = bus.dead_letters
        for _ in range(3):
            assert await bus.dead_letters.replay() == 0
        assert list(bus.dead_letters) == [first]
        assert bus.audit().subscriptions["stuck"].dead == 4
        handler.go.set()
        await bus.settle()
        assert told == ["retries_exhausted", *reasons]
    if journal:
        kept.open("power")
        assert [grave.id for grave in kept.dead()] == [first.id]


async def test_a_replay_refused_by_a_suspended_actor_makes_no_further_letter(bus: EventBus) -> None:
    """A full mailbox whose actor is suspended refuses at once; that is no second letter."""
    options: Any = {"retry": ONCE, "on_failure": "restart", "mailbox": 1}
    bus.subscribe("a:b", fail, name="s", restart=RestartPolicy(max_restarts=1), **options)
    for _ in range(2):
        await bus.publish("a:b").settled()
        await asyncio.sleep(1.0)
    await bus.publish("a:b")
    assert len(bus.dead_letters) == 2
    assert await bus.dead_letters.replay() == 0
    assert len(bus.dead_letters) == 2
    await bus.close()


async def test_a_replay_that_would_deadlock_makes_no_further_letter(bus: EventBus) -> None:
    """The error says so, and the letter stays the only one."""
    errors: list[BaseException] = []

    async def handle(data: Any) -> None:
        if data == "bad":
            raise ValueError
        if data == "replay":
            await bus.publish("a:b", "fills the mailbox")
            try:
                await bus.dead_letters.replay()
            except DeadlockError as error:
                errors.append(error)

    bus.subscribe("a:b", handle, name="own", mailbox=1, retry=ONCE)
    await bus.publish("a:b", "bad").settled()
    (first,) = bus.dead_letters
    await bus.publish("a:b", "replay").settled()
    assert len(errors) == 1
    assert list(bus.dead_letters) == [first]


async def test_a_cancelled_replay_takes_its_delivery_back(bus: EventBus) -> None:
    """What waited for room then is not delivered later, beside the letter that stays."""
    handler = await stuck_with_a_letter(bus, put_timeout=None)
    (first,) = bus.dead_letters
    for _ in range(2):
        replaying = asyncio.create_task(bus.dead_letters.replay())
        await asyncio.sleep(10)
        replaying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await replaying
    assert list(bus.dead_letters) == [first]
    terms = bus.audit().subscriptions["stuck"]
    assert (terms.waiting, terms.queued, terms.dead) == (0, 1, 3)
    handler.go.set()
    await bus.settle()
    assert list(bus.dead_letters) == [first]


async def test_a_replay_cancelled_as_it_is_admitted_is_a_replay(bus: EventBus) -> None:
    """There was room in the same moment: the letter leaves, and is not delivered twice."""
    handler = await stuck_with_a_letter(bus, put_timeout=None)
    replaying = asyncio.create_task(bus.dead_letters.replay())
    await asyncio.sleep(10)
    handler.go.set()
    while bus.audit().subscriptions["stuck"].waiting:
        await asyncio.sleep(0)
    replaying.cancel()
    await asyncio.wait([replaying])
    await bus.settle()
    assert len(bus.dead_letters) == 1  # the new delivery's
    assert bus.audit().subscriptions["stuck"].dead == 2


async def test_a_letter_evicted_while_it_is_replayed_is_replaced(make_bus: Make) -> None:
    """If it is gone from the store when its new delivery is refused, that one's letter is kept."""
    bus = make_bus(dead_letters=1)
    async with bus:
        handler = await stuck_with_a_letter(bus, put_timeout=20.0)
        replaying = asyncio.create_task(bus.dead_letters.replay())
        await asyncio.sleep(10)

        async def fail(_: Any) -> None:
            raise ValueError

        bus.subscribe("a:c", fail, name="other", retry=ONCE)
        await bus.publish("a:c").settled()
        await asyncio.sleep(20)
        assert await replaying == 0
        (letter,) = bus.dead_letters
        assert (letter.event.data, letter.reason) == ("bad", "overflow_timeout")
        handler.go.set()


async def test_a_replayed_delivery_that_dies_leaves_one_letter_in_the_journal(
    make_bus: Make,
) -> None:
    """The new one takes the place of the old in one step, so that no crash can part them."""
    journal = Watched()
    bus = make_bus(journal=journal)
    bus.subscribe("a:b", fail, name="s", durable="s", retry=ONCE)
    async with bus:
        await bus.publish("a:b")
        await bus.settle()
        for _ in range(3):
            assert await bus.dead_letters.replay() == 1
            await bus.settle()
            assert [grave.id for grave in journal.dead()] == [each.id for each in bus.dead_letters]
    assert journal.buried == {0, 1}


async def test_a_letter_stays_as_long_as_there_is_no_room_for_the_next(make_bus: Make) -> None:
    """A replayed delivery that dies while the journal takes no letters loses neither."""
    journal = Watched()
    bus = make_bus(journal=journal)
    bus.subscribe("a:b", fail, name="s", retry=ONCE)
    async with bus:
        await bus.publish("a:b", 1)
        await bus.settle()
        (first,) = bus.dead_letters
        journal.full = True
        assert await bus.dead_letters.replay() == 1
        await bus.settle()
        (second,) = bus.dead_letters
        await bus.publish("a:c")
        assert [grave.id for grave in journal.dead()] == [first.id]
        journal.full = False
        await bus.publish("a:c")
        assert [grave.id for grave in journal.dead()] == [second.id]


async def test_a_replay_that_loses_its_loop_leaves_the_letter() -> None:
    """What was running on a loop that is closed is the old letter again, here and on the disk."""
    journal, handled = MemoryJournal(), list[str]()
    bus = EventBus("s", journal=journal)

    async def handle(data: str) -> None:
        handled.append(data)
        if len(handled) == 1:
            raise ValueError
        await asyncio.Event().wait()

    bus.subscribe("a:b", handle, name="s", retry=ONCE)

    async def first() -> None:
        await bus.publish("a:b", "one")
        await bus.settle()
        assert await bus.dead_letters.replay() == 1
        await asyncio.sleep(0)
        assert len(handled) == 2

    def lose() -> None:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(first())
        loop.close()

    await asyncio.to_thread(lose)
    (letter,) = bus.dead_letters
    assert (letter.reason, letter.event.data) == ("retries_exhausted", "one")
    await bus.start()
    assert [grave.id for grave in journal.dead()] == [letter.id]
    assert bus.audit().subscriptions["s"].dead == 2
    await bus.close()


async def test_a_damaged_letter_is_not_replayed(make_bus: Make) -> None:
    """Nothing is left of its event that a handler could be given."""
    journal, handled = MemoryJournal(), list[Any]()
    journal.open("power")
    event = Entry("e", "a:b", 1.0, b"not json", b"")
    journal.commit([Bury(Grave("g", "s", "rejected", event, 1.0))])
    journal.close(clean=True)
    bus = make_bus(journal=journal)

    async def handle(data: Any) -> None:
        handled.append(data)

    bus.subscribe("a:b", handle, name="s")
    async with bus:
        (letter,) = bus.dead_letters
        assert letter.reason == DeadReason.CHECKSUM
        assert await bus.dead_letters.replay() == 0
        await bus.settle()
        assert list(bus.dead_letters) == [letter]
    assert handled == []
