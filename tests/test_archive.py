"""What a bus recalls: dead letters, of which a damaged one harms no other, and the last events."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from actorbus import DeadReason, EventBus
from actorbus.archive import PAGE, graves, letter_of
from actorbus.journal.base import Append, Bury, Entry, Grave
from actorbus.journal.memory import MemoryJournal
from tests.handlers import Seen

EVENT = Entry("e", "order:paid", 1.0, b'{"id": 1}')


@pytest.mark.parametrize(
    "damaged",
    [
        Grave("g", "billing", "rejected", EVENT, 2.0, sound=False),
        Grave("g", "billing", "rejec\\xffed", EVENT, 2.0),
    ],
)
def test_a_damaged_grave_is_a_letter_without_payload(damaged: Grave) -> None:
    """What is not what was buried is never given out as if it were, and stops nothing."""
    letter = letter_of(damaged)

    assert (letter.id, letter.reason, letter.event.data) == ("g", DeadReason.CHECKSUM, None)


class Unreadable(MemoryJournal):
    """A journal in which the ids of some dead letters have become unreadable."""

    def dead(self, after: str = "", limit: int = 1000, *, marked: str = "") -> list[Grave]:
        whole = super().dead(after, limit, marked=marked)
        return [
            Grave(f"?{each.id}", "", "", EVENT, 0.0, sound=False) if each.id.endswith("7") else each
            for each in whole
        ]


def test_every_grave_is_read_once() -> None:
    """Also where the last one of a page is one whose id the journal does not know."""
    journal = Unreadable()
    journal.open("process")
    count = 2 * PAGE + 8  # the last is a 7
    journal.commit([Bury(Grave(f"{n}", "s", "rejected", EVENT, 0.0)) for n in range(8, count)])

    found = [each.id.removeprefix("?") for each in graves(journal)]

    assert found == [f"{n}" for n in range(8, count)]


@pytest.mark.anyio
async def test_history_is_recalled_some_at_a_time(
    make_bus: Callable[..., EventBus], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each event is in it once and in order, also where others are published meanwhile."""
    monkeypatch.setattr("actorbus.archive.PAGE", 3)
    monkeypatch.setattr("actorbus.recorder.PIECES", 5)
    journal, seen = MemoryJournal(), Seen()
    async with make_bus(journal=journal) as bus:
        for number in range(10):
            await bus.publish(f"a:{number % 2}", number)
    other = make_bus(journal=journal)
    other.subscribe("a:*", seen, replay=4)
    for number in (10, 11):
        other.publish(f"a:{number % 2}", number)  # it starts by this, and has recalled nothing yet
    async with other:
        await other.settle()
        kept = other.get_history("a:*", 100)
    assert [each["data"] for each in kept] == [*range(12)]
    assert seen.got == [6, 7, 8, 9, 10, 11]


@pytest.mark.anyio
async def test_no_more_is_recalled_than_there_is_room_for(
    make_bus: Callable[..., EventBus], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last ones, where the journal has more."""
    monkeypatch.setattr("actorbus.archive.PAGE", 3)
    monkeypatch.setattr("actorbus.archive.RECALLED", 6)
    journal = MemoryJournal()
    async with make_bus(journal=journal) as bus:
        for number in range(10):
            await bus.publish("a:b", number)
    async with make_bus(journal=journal) as other:
        assert [each["data"] for each in other.get_history("a:*", 100)] == [*range(4, 10)]


@pytest.mark.parametrize("turns", range(0, 24, 2))
def test_a_loop_that_ends_meanwhile_leaves_the_rest_to_the_next(
    turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever that is, each event is in the history once, and each dead letter in the store."""
    monkeypatch.setattr("actorbus.archive.PAGE", 2)
    monkeypatch.setattr("actorbus.recorder.PIECES", 6)
    journal = MemoryJournal()
    journal.open("process")
    events = [Entry(f"e{n}", "a:b", 1.0, str(n).encode()) for n in range(8)]
    journal.commit([Append(each) for each in events])
    journal.commit([Bury(Grave("g", "s", "rejected", EVENT, 0.0))])
    journal.close(clean=True)
    bus = EventBus("test", journal=journal)

    async def begin() -> None:
        starting = asyncio.ensure_future(bus.start())
        for _ in range(turns):
            await asyncio.sleep(0)
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)

    async def go_on() -> list[int]:
        await bus.start()
        kept = [each["data"] for each in bus.get_history("a:*", 100)]
        await bus.close()
        return kept

    asyncio.run(begin())
    assert asyncio.run(go_on()) == [*range(8)]
    assert [each.id for each in bus.dead_letters] == ["g"]
