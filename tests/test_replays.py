"""Dead letters marked in a journal: replayed by the next bus, as soon as somebody is there."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from actorbus import Event, EventBus, RestartPolicy, RetryPolicy
from actorbus.journal.base import Bury, Entry, Grave, Replay
from actorbus.journal.memory import MemoryJournal
from actorbus.replays import PAGE
from tests.handlers import Gate, Seen, fail

pytestmark = pytest.mark.anyio

ONCE = RetryPolicy.none()
Make = Callable[..., EventBus]


def grave(number: int, name: str = "s") -> Grave:
    event = Entry(f"e{number}", "a:b", 1.0, str(number).encode())
    return Grave(f"{name}{number}", name, "rejected", event, 1.0)


def left_behind(graves: Iterable[Grave], marked: Iterable[Grave]) -> MemoryJournal:
    """Return a journal with dead letters, some of them marked."""
    journal = MemoryJournal()
    journal.open("power")
    journal.commit([Bury(each) for each in graves])
    journal.commit([Replay(tuple(each.id for each in marked))])
    journal.close(clean=True)
    return journal


def ids(journal: MemoryJournal) -> list[str]:
    return [each.id for each in journal.dead()]


@pytest.mark.parametrize("durable", [None, "d"])
async def test_what_is_marked_is_replayed(make_bus: Make, durable: str | None) -> None:
    """In the order of burial, to its subscription; then it is gone. The rest is left alone."""
    graves = [grave(number) for number in range(6)]
    journal, seen, other = left_behind(graves, graves[1::2]), Seen(), Seen()
    bus = make_bus(journal=journal)
    bus.subscribe("a:*", seen, name="s", durable=durable)
    bus.subscribe("a:*", other, name="other")
    async with bus:
        await bus.settle()
        assert (seen.got, other.got) == ([1, 3, 5], [])
        assert ids(journal) == [each.id for each in bus.dead_letters] == ["s0", "s2", "s4"]
    assert bus.audit().subscriptions["s"].acked == 3


async def test_more_than_a_page_and_than_the_store_holds(make_bus: Make) -> None:
    """A small store and a small mailbox hold nothing up, and nothing is delivered twice."""
    graves = [grave(number) for number in range(3 * PAGE + 7)]
    journal, seen = left_behind(graves, graves), Seen()
    bus = make_bus(journal=journal, dead_letters=5)
    bus.subscribe("a:*", seen, name="s", mailbox=3)
    async with bus:
        await bus.settle()
        assert ids(journal) == []
        assert len(bus.dead_letters) == 0
    assert seen.got == [*range(3 * PAGE + 7)]


async def test_it_waits_for_its_subscription(make_bus: Make) -> None:
    """One that comes later gets its letters then; those of one that never comes stay marked."""
    graves = [grave(1), grave(2, "never"), grave(3)]
    journal, seen = left_behind(graves, graves), Seen()
    bus = make_bus(journal=journal)
    async with bus:
        await bus.settle()
        assert len(bus.dead_letters) == 3
        bus.subscribe("a:*", seen, name="s")
        await bus.settle()
        assert seen.got == [1, 3]
        assert journal.status().marked == {"never": 1}
    async with make_bus(journal=journal) as again:
        again.subscribe("a:*", seen, name="never")
        await again.settle()
    assert seen.got == [1, 3, 2]


async def test_one_that_goes_and_comes_again_goes_on(make_bus: Make) -> None:
    """What it had not been given yet is given to its successor; what it had, is not."""
    graves = [grave(number) for number in range(5)]
    journal, gate, seen = left_behind(graves, graves), Gate(), Seen()
    bus = make_bus(journal=journal)
    first = bus.subscribe("a:*", gate, name="s", mailbox=1)
    async with bus:
        await gate.entered()
        await asyncio.sleep(1.0)
        first.unsubscribe()
        gate.open()
        await first.ended()
        bus.subscribe("a:*", seen, name="s")
        await bus.settle()
    assert sorted(gate.got + seen.got) == [0, 1, 2, 3, 4]
    assert len(seen.got) >= 2


async def test_a_crash_repeats_what_was_not_settled(make_bus: Make) -> None:
    """The mark stays until the new delivery is settled."""
    graves = [grave(1), grave(2)]
    journal, gate, seen = left_behind(graves, graves), Gate(), Seen()
    bus = make_bus(journal=journal)
    bus.subscribe("a:*", gate, name="s")
    async with bus:
        await gate.entered()
        image = copy.deepcopy(journal)
        image.close(clean=False)
        gate.open()
    again = make_bus(journal=image)
    again.subscribe("a:*", seen, name="s")
    async with again:
        await again.settle()
    assert (gate.got, seen.got) == ([1, 2], [1, 2])


async def test_one_that_fails_again_is_an_ordinary_letter(make_bus: Make) -> None:
    """It is not replayed for ever: the new letter has no mark."""
    journal = left_behind([grave(1)], [grave(1)])
    bus = make_bus(journal=journal)
    calls: list[Any] = []

    async def fail(data: Any) -> None:
        calls.append(data)
        raise ValueError

    bus.subscribe("a:*", fail, name="s", retry=ONCE)
    async with bus:
        await bus.settle()
        (letter,) = bus.dead_letters
        assert (calls, letter.reason) == ([1], "retries_exhausted")
        assert ids(journal) == [letter.id] != ["s1"]
        assert journal.status().marked == {}


@pytest.mark.parametrize(("store", "held"), [(1, 0), (1000, 2)])
async def test_one_that_is_refused_stays_marked(make_bus: Make, store: int, held: int) -> None:
    """The others go; this one is for the next start, whether or not the store holds it."""
    graves = [grave(number) for number in range(5)]
    journal, seen = left_behind(graves, graves), Seen()
    bus = make_bus(journal=journal, dead_letters=store)

    def key(event: Event) -> int:
        if event.data in (0, 3):
            raise ValueError
        return int(event.data)

    bus.subscribe("a:*", seen, name="s", overflow="latest", key=key)
    async with bus:
        await bus.settle()
        assert seen.got == [1, 2, 4]
        assert ids(journal) == ["s0", "s3"]
        assert len(bus.dead_letters) == held
        assert journal.status().marked == {"s": 2}
    async with make_bus(journal=journal) as again:
        again.subscribe("a:*", seen, name="s")
        await again.settle()
    assert seen.got == [1, 2, 4, 0, 3]


async def test_a_slow_one_is_given_no_more_than_it_has_room_for(make_bus: Make) -> None:
    """None is refused for want of room that only other replays have taken."""
    graves = [grave(number) for number in range(9)]
    journal, seen = left_behind(graves, graves), list[int]()
    bus = make_bus(journal=journal)

    async def handle(data: int) -> None:
        await asyncio.sleep(10.0)
        seen.append(data)

    bus.subscribe("a:*", handle, name="s", mailbox=2, put_timeout=1.0)
    async with bus:
        await bus.settle()
        assert seen == [*range(9)]
        assert bus.audit().totals.dead == 0


async def test_what_somebody_else_replays_or_discards_is_not_replayed(make_bus: Make) -> None:
    """Whoever comes first has it: the letter is delivered once, or not at all."""
    graves = [grave(number) for number in range(6)]
    journal, seen = left_behind(graves, graves), Seen()
    bus = make_bus(journal=journal)
    async with bus:
        bus.subscribe("a:*", seen, name="s")
        assert await bus.dead_letters.discard("s1") == 1
        assert await bus.dead_letters.replay("s3") == 1
        assert await bus.dead_letters.replay("s4") == 1
        await bus.settle()
    assert sorted(seen.got) == [0, 2, 3, 4, 5]
    journal.open("power")
    assert journal.status().dead == 0


async def test_a_damaged_one_is_left_alone(make_bus: Make) -> None:
    """There is nothing to replay of it; it stays, and holds nobody up."""
    broken = Grave("x", "s", "rejected", Entry("e", "a:b", 1.0, b"not json"), 1.0)
    journal, seen = left_behind([broken, grave(1)], [broken, grave(1)]), Seen()
    bus = make_bus(journal=journal)
    bus.subscribe("a:*", seen, name="s")
    async with bus:
        await bus.settle()
        assert ids(journal) == ["x"]
    assert seen.got == [1]


async def test_a_drain_begins_no_more(make_bus: Make) -> None:
    """What is under way is finished, what is not stays marked."""
    graves = [grave(number) for number in range(50)]
    journal, gate = left_behind(graves, graves), Gate()
    bus = make_bus(journal=journal)
    bus.subscribe("a:*", gate, name="s", mailbox=1)
    async with bus:
        await gate.entered()
        closing = asyncio.create_task(bus.close())
        await asyncio.sleep(0.1)
        gate.open()
        report = await closing
        assert report.complete
    assert len(gate.got) < 10
    journal.open("power")
    assert journal.status().marked == {"s": 50 - len(gate.got)}


async def test_a_suspended_one_holds_nobody_up(make_bus: Make) -> None:
    """Its letters wait in its mailbox, the rest in the journal; the bus settles without them."""
    graves = [*(grave(n) for n in range(30)), *(grave(n, "works") for n in range(3))]
    journal, seen = left_behind(graves, graves), Seen()
    bus = make_bus(journal=journal)
    policy = RestartPolicy(max_restarts=0)
    bus.subscribe(
        "a:*", fail, name="s", mailbox=2, retry=ONCE, on_failure="restart", restart=policy
    )
    bus.subscribe("a:*", seen, name="works")
    async with bus:
        await bus.settle()
        assert seen.got == [0, 1, 2]
        assert journal.status().dead == 30
        await bus.close()
    assert journal.open("power")
    assert journal.status().dead == 30


async def test_a_bus_that_starts_again_asks_again(make_bus: Make) -> None:
    """What was marked while it was closed is replayed, though it knows its letters."""
    journal, seen = left_behind([grave(1), grave(2)], []), Seen()
    bus = make_bus(journal=journal)
    bus.subscribe("a:*", seen, name="s")
    async with bus:
        await bus.settle()
    journal.open("power")
    journal.commit([Replay(("s2",))])
    journal.close(clean=True)
    async with bus:
        await bus.settle()
        assert [each.id for each in bus.dead_letters] == ["s1"]
    assert seen.got == [2]
