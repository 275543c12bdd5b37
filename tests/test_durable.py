"""Durable subscriptions: what the bus makes of a journal, whatever journal it is.

The journals here are kept in memory, and a crash is another bus on a copy of one: what has been
committed is there, and nothing else.
"""

from __future__ import annotations

import asyncio
import copy
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actorbus import (
    BusClosedError,
    ConfigurationError,
    DeadReason,
    EventBus,
    JournalError,
    JournalFullError,
    JournalLockedError,
    Outcome,
    PayloadError,
    RetryPolicy,
    scribe,
    window,
)
from actorbus.journal.base import (
    Append,
    Attempt,
    Bury,
    Join,
    Opening,
    Operation,
    Page,
    Result,
    Settle,
    Wants,
)
from actorbus.journal.memory import MemoryJournal
from actorbus.testing import simulate
from tests.handlers import Gate, Seen, fail

pytestmark = pytest.mark.anyio

Make = Callable[..., EventBus]
Memory = TypeVar("Memory", bound=MemoryJournal)


class Failing(MemoryJournal):
    """A journal that can refuse commits, and hold them back.

    Attributes:
        broken: What a commit with an event raises.
        commits: How many operations each commit had.
    """

    def __init__(self) -> None:
        super().__init__()
        self.broken: JournalError | None = None
        self.commits: list[Sequence[Operation]] = []
        self.held = threading.Event()
        self.held.set()

    def commit(self, operations: Sequence[Operation]) -> list[Result]:
        self.held.wait(10.0)
        if self.broken is not None and any(isinstance(each, Append) for each in operations):
            raise self.broken
        self.commits.append(operations)
        return super().commit(operations)


class Damaging(MemoryJournal):
    """A journal in which some records are damaged."""

    def __init__(self) -> None:
        super().__init__()
        self.damaged: set[int] = set()

    def read(self, after: int, limit: int, wants: Wants) -> Page:
        page = super().read(after, limit, wants)
        records = [
            type(each)(each.seq, each.entry, each.seq not in self.damaged) for each in page.records
        ]
        return Page(records, page.upto, page.end)


class Stepped(MemoryJournal):
    """A journal that makes a commit when it is allowed one more."""

    def __init__(self) -> None:
        super().__init__()
        self._begun, self._allowed = threading.Semaphore(0), threading.Semaphore(0)

    def commit(self, operations: Sequence[Operation]) -> list[Result]:
        self._begun.release()
        self._allowed.acquire(timeout=10.0)
        return super().commit(operations)

    def begun(self) -> None:
        """Wait until one more commit has begun; the loop stands still meanwhile."""
        assert self._begun.acquire(timeout=10.0)

    def allow(self, commits: int = 1) -> None:
        """Let one end, or more."""
        self._allowed.release(commits)


class Refusing(MemoryJournal):
    """A journal that can refuse commits of nothing but what is settled.

    Attributes:
        refused: How many it has refused; None to refuse no more.
    """

    def __init__(self) -> None:
        super().__init__()
        self.refused: int | None = 0

    def commit(self, operations: Sequence[Operation]) -> list[Result]:
        if self.refused is not None and all(isinstance(each, Settle) for each in operations):
            self.refused += 1
            raise JournalError("not now")
        return super().commit(operations)


class Attentive(MemoryJournal):
    """A journal that remembers whose attempts it was told of."""

    def __init__(self) -> None:
        super().__init__()
        self.attempted: list[int] = []

    def commit(self, operations: Sequence[Operation]) -> list[Result]:
        self.attempted += [each.seq for each in operations if isinstance(each, Attempt)]
        return super().commit(operations)


def crashed(journal: Memory) -> Memory:
    """Return what a crash of the process would leave of a journal now."""
    image = copy.deepcopy(journal)
    image.close(clean=False)
    return image


async def rest_of(journal: MemoryJournal, make_bus: Make) -> list[Any]:
    """Return what a bus that comes next gives to the durable subscription `d`."""
    seen, bus = Seen(), make_bus(journal=journal)
    bus.subscribe("a:*", seen, durable="d")
    async with bus:
        await bus.settle()
    return seen.got


# -- publishing ------------------------------------------------------------------------------------


async def test_awaiting_means_committed(make_bus: Make) -> None:
    """Until the commit a delivery waits, in the ledger and on the receipt; then it is admitted."""
    journal, plain = Failing(), Seen()
    bus = make_bus(journal=journal)
    bus.subscribe("a:*", plain, name="plain")
    async with bus:
        journal.held.clear()
        receipt = bus.publish("a:b", 1)
        assert (receipt.deliveries, receipt.waiting) == (1, 1)
        assert bus.audit().subscriptions["plain"].waiting == 1
        assert plain.got == []
        journal.held.set()
        assert await receipt is receipt
        assert receipt.waiting == 0
        assert [len(each) for each in journal.commits if isinstance(each[0], Append)] == [1]
        assert (await receipt.settled()).outcomes == {"plain": Outcome.ACKED}
    assert plain.got == [1]


async def test_the_call_fixes_matching(make_bus: Make) -> None:
    """Who subscribes between the call and the commit does not get the event; who leaves does."""
    journal, early, late = Failing(), Seen(), Seen()
    bus = make_bus(journal=journal)
    sub = bus.subscribe("a:*", early)
    async with bus:
        journal.held.clear()
        receipt = bus.publish("a:b", 1)
        bus.subscribe("a:*", late)
        sub.unsubscribe()
        journal.held.set()
        await receipt.settled()
        await sub.ended()
    assert (early.got, late.got) == ([1], [])


async def test_what_waits_together_is_committed_together(make_bus: Make) -> None:
    """A hundred publishers cost a few commits, and everybody gets the events in one order."""
    journal, first, second = Failing(), Seen(), Seen()
    bus = make_bus(journal=journal)
    bus.subscribe("a:*", first, name="first")
    bus.subscribe("a:*", second, name="second", durable="second")
    async with bus:
        await asyncio.gather(*(bus.publish("a:b", number) for number in range(100)))
        await bus.settle()
    appends = [c for c in journal.commits if any(isinstance(each, Append) for each in c)]
    assert len(appends) < 10
    assert first.got == second.got == [*range(100)]


@pytest.mark.parametrize("awaited", [True, False])
async def test_a_failed_commit_routes_to_nobody(make_bus: Make, awaited: bool) -> None:
    """Awaiting raises, and the event is one dead letter, awaited or not; the books balance."""
    journal, plain, durable = Failing(), Seen(), Seen()
    bus = make_bus(journal=journal)
    bus.subscribe("a:*", plain, name="plain")
    bus.subscribe("a:*", durable, name="durable", durable="d")
    async with bus:
        await bus.publish("a:b", 1)
        journal.broken = JournalFullError("no room")
        receipt = bus.publish("a:b", 2)
        if awaited:
            with pytest.raises(JournalFullError, match="no room"):
                await receipt
        await bus.settle()
        (letter,) = bus.dead_letters
        assert (letter.reason, letter.event.data) == (DeadReason.COMMIT_FAILED, 2)
        assert not (await receipt.settled()).ok
        assert bus.audit().balanced
        assert [each["data"] for each in bus.get_history("a:b")] == [1]
        journal.broken = None
        await bus.publish("a:b", 3)
        await bus.settle()
    assert plain.got == durable.got == [1, 3]
    assert bus.audit().subscriptions["plain"].dead == 1


async def test_settled_deliveries_are_noted_though_the_disk_is_full(make_bus: Make) -> None:
    """Only events need room: acknowledgements ride on without them."""
    journal, seen = Failing(), Gate()
    bus = make_bus(journal=journal)
    bus.subscribe("a:*", seen, durable="d")
    async with bus:
        await bus.publish("a:b", 1)
        journal.broken = JournalFullError("no room")
        bus.publish("a:b", 2)
        seen.open()
        await bus.settle()
        assert journal.status().cursors == {"d": 1}


async def test_at_most_ten_thousand_wait_for_a_commit(make_bus: Make) -> None:
    """One more is refused at the call; nothing of those before is lost."""
    journal, seen = Failing(), Seen()
    bus = make_bus(journal=journal)
    bus.subscribe("a:*", seen, durable="d")
    async with bus:
        journal.held.clear()
        for number in range(10_000):
            bus.publish("a:b", number)
        with pytest.raises(JournalFullError, match="10,000"):
            bus.publish("a:b", 10_000)
        journal.held.set()
        await bus.settle()
        assert len(bus.get_history("a:b", 100)) == 100
    assert seen.got == [*range(10_000)]


async def test_a_thread_is_held_back_instead(make_bus: Make) -> None:
    """A thread's publishes wait for room; none is refused and none is lost."""
    journal, seen = Failing(), Seen()
    bus = make_bus(journal=journal)
    bus.subscribe("a:*", seen, durable="d")
    async with bus:

        def flood() -> None:
            for number in range(12_000):
                bus.publish("a:b", number)

        await asyncio.to_thread(flood)
        await bus.settle()
    assert seen.got == [*range(12_000)]


async def test_a_payload_is_encoded_at_the_call(make_bus: Make) -> None:
    """What cannot be written is refused there; handlers get what was written."""
    seen, plain = Seen(), Seen()
    bus = make_bus(journal=MemoryJournal())
    bus.subscribe("a:*", seen, durable="d")
    bus.subscribe("a:*", plain)
    async with bus:
        with pytest.raises(PayloadError):
            bus.publish("a:b", object())
        data = {"pair": (1, 2)}
        receipt = bus.publish("a:b", data, headers={"from": ("here",)}, key=7)
        data["pair"] = (3, 4)
        await receipt
        await bus.settle()
        assert (receipt.event.headers, receipt.event.key) == ({"from": ["here"]}, 7)
    assert seen.got == plain.got == [{"pair": [1, 2]}]


async def test_an_id_is_kept_once(make_bus: Make) -> None:
    """A second publish with the same id is conflated with the first."""
    seen, plain = Seen(), Seen()
    journal = MemoryJournal()
    bus = make_bus(journal=journal)
    bus.subscribe("a:*", seen, name="seen", durable="d")
    bus.subscribe("a:*", plain, name="plain")
    async with bus:
        await bus.publish("a:b", "first", id="one")
        again = await bus.publish("a:b", "second", id="one")
        outcomes = (await again.settled()).outcomes
        await bus.settle()
        assert outcomes == {"plain": Outcome.CONFLATED, "seen": Outcome.CONFLATED}
        assert journal.status().events == 1
        assert [each["data"] for each in bus.get_history("a:b")] == ["first"]
    assert seen.got == plain.got == ["first"]


@pytest.mark.parametrize("late", [False, True])
async def test_a_receipt_knows_of_a_durable_delivery_that_died(make_bus: Make, late: bool) -> None:
    """Also where the delivery has settled before anybody looked at the receipt."""
    bus = make_bus(journal=MemoryJournal())
    bus.subscribe("a:*", fail, name="d", durable="d", retry=RetryPolicy.none())
    async with bus:
        for number in range(3):
            receipt = bus.publish("a:b", number)
            if late:
                await bus.settle()
            assert (await receipt.settled()).outcomes == {"d": Outcome.DEAD}


async def test_publishing_from_a_thread(make_bus: Make) -> None:
    """The call works there, too, and `wait` means committed."""
    journal, seen = MemoryJournal(), Seen()
    bus = make_bus(journal=journal)
    bus.subscribe("a:*", seen, durable="d")
    async with bus:
        await asyncio.to_thread(lambda: bus.publish("a:b", (1,)).wait(5.0))
        assert journal.status().events == 1
        with pytest.raises(PayloadError):
            await asyncio.to_thread(bus.publish, "a:b", object())
        await bus.settle()
    assert seen.got == [[1]]


async def test_asking_a_durable_subscription(make_bus: Make) -> None:
    """Its handler's reply comes back."""
    bus = make_bus(journal=MemoryJournal())

    async def double(data: int) -> int:
        return 2 * data

    bus.subscribe("a:*", double, durable="d")
    async with bus:
        assert await bus.ask("a:b", 21) == 42


# -- the window ------------------------------------------------------------------------------------


async def test_a_publisher_never_waits_for_a_durable(make_bus: Make) -> None:
    """Its backlog lives in the journal: a mailbox of one and a stuck handler hold up nobody."""
    stuck = Gate()
    bus = make_bus(journal=MemoryJournal())
    bus.subscribe("a:*", stuck, name="stuck", durable="d", mailbox=1)
    async with bus:
        for number in range(50):
            await bus.publish("a:b", number)
        terms = bus.audit().subscriptions["stuck"]
        assert terms.waiting == 0
        assert terms.routed <= 2
        with pytest.raises(TimeoutError, match="stuck"):
            await bus.settle(1.0)
        stuck.open()
        await bus.settle()
        assert bus.audit().subscriptions["stuck"].acked == 50
    assert stuck.got == [*range(50)]


@pytest.mark.parametrize("options", [{"concurrency": 3}, {"concurrency": 2, "key": "key"}])
async def test_settled_out_of_order(make_bus: Make, options: dict[str, Any]) -> None:
    """What is settled behind a slow one is not run again after a crash; the slow one is."""
    journal, slow = MemoryJournal(), asyncio.Event()
    bus = make_bus(journal=journal)
    done: list[int] = []

    async def handle(data: int) -> None:
        if data == 0:
            await slow.wait()
        done.append(data)

    bus.subscribe("a:*", handle, durable="d", **options)
    async with bus:
        for number in range(20):
            await bus.publish("a:b", number, key=number)
        await asyncio.sleep(1.0)
        assert done == [*range(1, 20)]
        image = crashed(journal)
        slow.set()
    assert await rest_of(image, make_bus) == [0]


async def test_a_new_durable_begins_with_its_first_subscribe(make_bus: Make) -> None:
    """What was published before, committed or not, is not for it; afterwards it misses nothing."""
    journal, seen = Failing(), Seen()
    bus = make_bus(journal=journal)
    async with bus:
        await bus.publish("a:b", 1)
        journal.held.clear()
        before = bus.publish("a:b", 2)
        sub = bus.subscribe("a:*", seen, durable="d")
        bus.publish("a:b", 3)
        journal.held.set()
        await before
        await bus.settle()
        sub.unsubscribe()
        await sub.ended()
        await bus.publish("a:b", 4)
        bus.subscribe("a:*", seen, durable="d")
        await bus.settle()
    assert seen.got == [3, 4]


async def test_a_restart_goes_on_where_it_stopped(make_bus: Make) -> None:
    """What nobody has handled is handled by the next bus, in order, and nothing twice."""
    journal, gate, rest = MemoryJournal(), Gate(), Seen()
    bus = make_bus(journal=journal)
    bus.subscribe("a:*", gate, name="d", durable="d", mailbox=5)
    async with bus:
        for number in range(30):
            await bus.publish("a:b", number)
        report = await bus.close(0.0)
        assert report.dead == 0
        assert list(bus.dead_letters) == []
        assert bus.audit().balanced
    other = make_bus(journal=journal)
    other.subscribe("a:*", rest, durable="d")
    async with other:
        await other.publish("a:b", 30)
        await other.settle()
    assert rest.got == [*range(31)]


async def test_a_bus_may_be_closed_and_started_again(make_bus: Make) -> None:
    """Close gives the journal back, start takes it again."""
    journal, seen = MemoryJournal(), Seen()
    bus = make_bus(journal=journal)
    bus.subscribe("a:*", seen, durable="d")
    for number in range(3):
        await bus.start()
        await bus.publish("a:b", number)
        await bus.settle()
        await bus.close()
        journal.open("power")
        journal.close(clean=True)
        with pytest.raises(BusClosedError):
            bus.publish("a:b")
    assert seen.got == [0, 1, 2]


async def test_a_journal_in_use_is_refused(make_bus: Make) -> None:
    """The second bus says so when it starts, and is closed; it can try again later."""
    journal = MemoryJournal()
    first, second = make_bus(journal=journal), make_bus(journal=journal)
    async with first:
        with pytest.raises(JournalLockedError):
            await second.start()
        with pytest.raises(BusClosedError):
            second.publish("a:b")
    async with second:
        await second.publish("a:b")


async def test_a_publish_that_starts_a_bus_without_a_journal_raises_when_awaited(
    make_bus: Make,
) -> None:
    """The call has started it; that the journal is not to be had shows when it is awaited."""
    journal = MemoryJournal()
    journal.open("power")
    bus = make_bus(journal=journal)
    receipt = bus.publish("a:b")
    with pytest.raises(JournalLockedError):
        await receipt
    (letter,) = bus.dead_letters
    assert letter.reason == DeadReason.COMMIT_FAILED
    await bus.close()


# -- failure ---------------------------------------------------------------------------------------


async def test_dead_letters_survive(make_bus: Make) -> None:
    """They are there after a restart, can be replayed then, and are gone from the journal after."""
    journal, works = MemoryJournal(), Seen()
    bus = make_bus(journal=journal)

    async def fail(data: Any) -> None:
        raise ValueError(f"no {data}")

    bus.subscribe("a:*", fail, name="d", durable="d", retry=RetryPolicy.none())
    async with bus:
        for number in range(3):
            await bus.publish("a:b", number)
        await bus.settle()
    other = make_bus(journal=journal)
    other.subscribe("a:*", works, name="d", durable="d")
    async with other:
        letters = list(other.dead_letters)
        assert [each.event.data for each in letters] == [0, 1, 2]
        assert "ValueError: no 0" in letters[0].traceback
        assert letters[0].attempts == 1
        assert await other.dead_letters.replay(letters[1].id) == 1
        assert await other.dead_letters.discard(letters[0].id) == 1
        await other.settle()
    assert works.got == [1]
    journal.open("power")
    assert [grave.id for grave in journal.dead()] == [letters[2].id]


async def test_a_replay_that_a_crash_interrupts_leaves_the_letter(make_bus: Make) -> None:
    """A dead letter stays in the journal until its new delivery is settled."""
    journal, gate = MemoryJournal(), Gate()
    bus = make_bus(journal=journal)
    bus.subscribe("a:*", gate, name="d", durable="d", timeout=1.0, retry=RetryPolicy.none())
    async with bus:
        await bus.publish("a:b", 1)
        await bus.settle()
        assert await bus.dead_letters.replay() == 1
        image = crashed(journal)
        gate.open()
    image.open("power")
    assert [grave.subscription for grave in image.dead()] == ["d"]


async def test_the_last_dead_letters_are_recalled(make_bus: Make) -> None:
    """Of more than the store holds the last ones are there after a restart; the rest is kept."""
    journal = MemoryJournal()
    for first in (0, 4):
        bus = make_bus(journal=journal, dead_letters=3)
        bus.subscribe("a:*", fail, name="d", durable="d", retry=RetryPolicy.none())
        async with bus:
            if first:
                assert [each.event.data for each in bus.dead_letters] == [1, 2, 3]
            for number in range(first, first + 4):
                await bus.publish("a:b", number)
            await bus.settle()
    journal.open("power")
    assert [(grave.seq, grave.entry.body) for grave in journal.dead()] == [
        (number + 1, str(number).encode()) for number in range(8)
    ]


async def test_a_journal_that_breaks_is_an_error_and_no_hang(make_bus: Make) -> None:
    """What an implementation did not foresee is a `JournalError` with that as its cause."""

    class Broken(MemoryJournal):
        def commit(self, operations: Sequence[Operation]) -> list[Result]:
            raise KeyError("what")

    async with make_bus(journal=Broken()) as bus:
        with pytest.raises(JournalError, match="KeyError") as caught:
            await bus.publish("a:b")
        assert isinstance(caught.value.__cause__, KeyError)


async def test_who_awaits_a_failed_commit_gets_an_error_of_their_own(make_bus: Make) -> None:
    """A shared one would keep the frames of all who have awaited it, and grow with each."""
    cause = OSError("taken")

    class Locked(MemoryJournal):
        def open(self, durability: str) -> Opening:
            raise JournalLockedError("it is open elsewhere") from cause

    bus, errors = make_bus(journal=Locked()), []
    for number in range(3):
        with pytest.raises(JournalLockedError, match=r"^it is open elsewhere$") as caught:
            await bus.publish("a:b", number)
        errors.append(caught.value)
    assert len({id(each) for each in errors}) == 3
    assert [each.__cause__ for each in errors] == [cause] * 3
    assert len({len([*traceback.walk_tb(each.__traceback__)]) for each in errors}) == 1


class Graveless(MemoryJournal):
    """A journal that can have no room for dead letters."""

    full, tried = True, 0

    def commit(self, operations: Sequence[Operation]) -> list[Result]:
        self.tried += sum(isinstance(each, Bury) for each in operations)
        if self.full and any(isinstance(each, Bury) for each in operations):
            raise JournalFullError("no room for the dead")
        return super().commit(operations)


async def test_a_dead_letter_that_cannot_be_buried_is_told_of(
    make_bus: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """Where there is no room for it the log says that it stays in memory only."""
    bus = make_bus(journal=Graveless())
    bus.subscribe("a:*", fail, name="d", durable="d", retry=RetryPolicy.none())
    async with bus:
        await bus.publish("a:b", 1)
        await bus.settle()
        assert [each.subscription for each in bus.dead_letters] == ["d"]
    assert [each for each in caplog.messages if "stays in memory only" in each]


async def test_a_dead_letter_is_buried_as_soon_as_there_is_room(make_bus: Make) -> None:
    """Its delivery is settled meanwhile, and no crash after the next commit can lose it."""
    journal, worked = Graveless(), Seen()
    bus = make_bus(journal=journal)
    bus.subscribe("a:*", fail, name="fails", durable="fails", retry=RetryPolicy.none())
    bus.subscribe("a:*", worked, name="works", durable="works")
    async with bus:
        for number in range(3):
            await bus.publish("a:b", number)
        await bus.settle()
        assert journal.status().cursors == {"fails": 3, "works": 3}
        assert journal.status().dead == 0
        journal.full = False
        await bus.publish("other:topic")
        image = crashed(journal)
    image.open("power")
    assert [grave.entry.body for grave in image.dead()] == [b"0", b"1", b"2"]
    assert worked.got == [0, 1, 2]


async def test_a_dead_letter_that_is_gone_is_not_buried(make_bus: Make) -> None:
    """Discarded, or replayed, while there was no room for it: then it does not come back."""
    journal, failing, seen = Graveless(), True, Seen()

    async def handle(data: Any) -> None:
        if failing:
            raise ValueError(data)
        await seen(data)

    bus = make_bus(journal=journal)
    bus.subscribe("a:*", handle, durable="d", retry=RetryPolicy.none())
    async with bus:
        for number in range(4):
            await bus.publish("a:b", number)
        await bus.settle()
        kept, discarded, replayed, failed = bus.dead_letters.list()
        await bus.dead_letters.discard(discarded.id)
        await bus.dead_letters.replay(failed.id)
        await bus.settle()
        failing = False
        await bus.dead_letters.replay(replayed.id)
        await bus.settle()
        journal.full = False
        await bus.publish("other:topic")
        letters = bus.dead_letters.list()
    journal.open("power")
    assert {grave.id for grave in journal.dead()} == {each.id for each in letters}
    assert [grave.entry.body for grave in journal.dead()] == [b"0", b"3"]
    assert (kept in letters, failed in letters, seen.got) == (True, False, [2])


async def test_dead_letters_without_room_do_not_make_every_commit_longer(make_bus: Make) -> None:
    """A few are tried again with each commit, and all of them once there is room."""
    letters = 20 * scribe.SOME

    journal = Graveless()
    bus = make_bus(journal=journal)

    async def fail(data: Any) -> None:
        raise ValueError(data)

    bus.subscribe("a:*", fail, name="fails", durable="fails", retry=RetryPolicy.none())
    async with bus:
        for number in range(letters):
            bus.publish("a:b", number)
        await bus.settle()
        journal.tried = 0
        await bus.publish("other:topic")
        await bus.settle()
        assert 0 < journal.tried <= scribe.SOME
        journal.full = False
        await bus.publish("other:topic")
        await bus.settle()
        assert journal.status().dead == letters


async def test_a_damaged_record_is_a_dead_letter(make_bus: Make) -> None:
    """Its reason is `checksum`, and the rest is delivered."""
    journal, gate, seen = Damaging(), Gate(), Seen()
    bus = make_bus(journal=journal)
    bus.subscribe("a:*", gate, durable="d")
    async with bus:
        for number in range(5):
            await bus.publish("a:b", number)
        await bus.close(0.0)
    journal.damaged = {3}
    other = make_bus(journal=journal)
    other.subscribe("a:*", seen, durable="d")
    async with other:
        await other.settle()
        (letter,) = other.dead_letters.list(reason="checksum")
        assert letter.event.topic == "a:b"
    assert seen.got == [0, 1, 3, 4]


async def test_however_much_is_damaged_the_rest_is_delivered(
    make_bus: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What dies at once is not settled ahead of anything: it holds up nobody."""
    monkeypatch.setattr(window, "AHEAD", 3)
    journal, gate, seen = Damaging(), Gate(), Seen()
    bus = make_bus(journal=journal)
    bus.subscribe("a:*", gate, durable="d")
    async with bus:
        for number in range(12):
            await bus.publish("a:b", number)
        await bus.close(0.0)
    journal.damaged = {*range(2, 11)}
    other = make_bus(journal=journal)
    other.subscribe("a:*", seen, durable="d", mailbox=2)
    async with other:
        await other.settle(100.0)
    assert seen.got == [0, 10, 11]


async def test_who_dies_at_a_close_is_buried_or_comes_again(make_bus: Make) -> None:
    """What is noted of a delivery when the bus has come to rest does not settle it any more."""

    class Slow(Damaging):
        def __init__(self) -> None:
            super().__init__()
            self.begun, self.held = threading.Event(), threading.Event()

        def commit(self, operations: Sequence[Operation]) -> list[Result]:
            if any(isinstance(each, Attempt) for each in operations):
                self.begun.set()
                self.held.wait(10.0)
            return super().commit(operations)

    before, gate = MemoryJournal(), Gate()
    bus = make_bus(journal=before)
    bus.subscribe("a:*", gate, durable="d")
    async with bus:
        await bus.publish("a:b", 1)
        journal = Slow()
        vars(journal).update(vars(crashed(before)))
        gate.open()
    journal.damaged = {1}
    other = make_bus(journal=journal)
    other.subscribe("a:*", Seen(), durable="d")
    await other.start()
    assert await asyncio.to_thread(journal.begun.wait, 10.0)
    closing = asyncio.ensure_future(other.close(0.0))
    for _ in range(50):
        await asyncio.sleep(0)
    journal.held.set()
    await closing
    journal.open("power")
    assert (journal.status().cursors, journal.status().dead) == ({"d": 0}, 0)


async def test_who_subscribes_again_at_once_gets_nothing_twice(make_bus: Make) -> None:
    """The journal hears what the one before has settled before the next one asks it."""
    seen = Seen()
    bus = make_bus(journal=MemoryJournal())
    async with bus:
        for number in range(3):
            sub = bus.subscribe("a:*", seen, durable="d")
            await bus.settle()
            await (await bus.publish("a:b", number)).settled()
            sub.unsubscribe()
            await sub.ended()
    assert seen.got == [0, 1, 2]


async def test_an_event_that_kills_the_process_is_dead_in_the_end(make_bus: Make) -> None:
    """Begun as often as the policy allows it is poison; no other is charged, all are delivered.

    Whether it had begun before the first crash nobody can know: that counts as one of them.
    """
    journal: MemoryJournal = MemoryJournal()
    seen: list[list[int]] = []
    bus = make_bus(journal=journal)
    gate = Gate()
    bus.subscribe("a:*", gate, durable="d")
    async with bus:
        for number in range(10):
            await bus.publish("a:b", number)
        journal = crashed(journal)
        gate.open()
    for _ in range(5):
        begun: list[int] = []
        seen.append(begun)
        deadly = asyncio.Event()

        async def handle(data: int) -> None:
            begun.append(data)  # noqa: B023 awaited before the next round
            if data == 4:
                deadly.set()  # noqa: B023
                await asyncio.Event().wait()

        bus = EventBus("again", journal=journal)
        bus.subscribe("a:*", handle, durable="d", retry=RetryPolicy(max_attempts=3))
        await bus.start()
        with pytest.MonkeyPatch.context():
            await asyncio.wait(
                [asyncio.ensure_future(deadly.wait()), asyncio.ensure_future(bus.settle())],
                return_when=asyncio.FIRST_COMPLETED,
            )
        await asyncio.sleep(1.0)
        journal, dead = crashed(journal), list(bus.dead_letters)
        await bus.close(0.0)
    assert seen == [[0, 1, 2, 3, 4], [4], [5, 6, 7, 8, 9], [], []]
    assert [(each.reason, each.event.data, each.attempts) for each in dead] == [("poison", 4, 3)]


@pytest.mark.parametrize("what", [Attempt, Page])
async def test_a_durable_goes_on_when_its_journal_has_recovered(make_bus: Make, what: Any) -> None:
    """A read or a note that failed is asked for again; nothing is skipped."""

    class Shaky(MemoryJournal):
        failures = 0

        def commit(self, operations: Sequence[Operation]) -> list[Result]:
            if what is Attempt and any(isinstance(each, Attempt) for each in operations):
                self.fail()
            return super().commit(operations)

        def read(self, after: int, limit: int, wants: Wants) -> Page:
            if what is Page:
                self.fail()
            return super().read(after, limit, wants)

        def fail(self) -> None:
            self.failures += 1
            if self.failures % 2:
                raise JournalFullError("just now")

    gate, bus = Gate(), make_bus(journal=(journal := Shaky()))
    bus.subscribe("a:*", gate, durable="d")
    async with bus:
        for number in range(5):
            await bus.publish("a:b", number)
        image = crashed(journal)
        gate.open()
    assert await rest_of(image, make_bus) == [0, 1, 2, 3, 4]
    assert isinstance(image, Shaky)
    assert image.failures > 1


async def test_a_durable_joins_when_its_journal_has_recovered(make_bus: Make) -> None:
    """A full disk keeps it from its place no longer than it is full, and it has missed nothing."""

    class Shy(MemoryJournal):
        failures = 2

        def commit(self, operations: Sequence[Operation]) -> list[Result]:
            if self.failures and any(isinstance(each, Join) for each in operations):
                self.failures -= 1
                raise JournalFullError("just now")
            return super().commit(operations)

    seen = Seen()
    bus = make_bus(journal=Shy())
    async with bus:
        await bus.publish("a:b", "before")
        bus.subscribe("a:*", seen, durable="d")
        await asyncio.sleep(0.1)
        await bus.publish("a:b", "before it has joined")
        await bus.settle()
        await bus.publish("a:b", "after")
        await bus.settle()
    assert seen.got == ["before it has joined", "after"]


async def test_a_bus_that_closes_waits_for_no_journal(make_bus: Make) -> None:
    """A durable whose journal has failed leaves no timer behind."""

    class Unreadable(MemoryJournal):
        def read(self, after: int, limit: int, wants: Wants) -> Page:
            raise JournalError("not today")

    bus = make_bus(journal=Unreadable())
    bus.subscribe("a:*", Seen(), durable="d")
    async with bus:
        await asyncio.sleep(0.5)
    timers: list[asyncio.TimerHandle] = vars(asyncio.get_running_loop())["_scheduled"]
    assert not [each for each in timers if not each.cancelled() and "Window" in repr(each)]


async def test_no_more_may_be_running_than_the_journal_was_told(make_bus: Make) -> None:
    """What is settled counts as begun until that is committed, too: a crash may come before."""
    journal, seen = Stepped(), Seen()
    bus = make_bus(journal=journal)
    bus.subscribe("a:*", seen, durable="d", mailbox=5)
    journal.allow()
    async with bus:
        journal.begun()  # the join
        first = [bus.publish("a:b", number) for number in range(5)]
        await asyncio.sleep(0)
        journal.begun()
        second = [bus.publish("a:b", number) for number in range(5, 10)]
        await asyncio.sleep(0)
        journal.allow()
        journal.begun()  # the second, before anything of the first is settled
        await asyncio.gather(*first)
        journal.allow()
        await asyncio.gather(*second)
        for _ in range(100):
            await asyncio.sleep(0)
        assert journal.status().cursors == {"d": 0}
        assert seen.got == [0, 1, 2, 3, 4, 5]
        journal.allow(100)
        await bus.settle()
    assert seen.got == [*range(10)]


async def test_a_settlement_that_fails_is_said_again(make_bus: Make) -> None:
    """A journal that cannot note what is settled holds up nobody, and hears of it later."""
    journal, seen = Refusing(), Seen()
    bus = make_bus(journal=journal)
    bus.subscribe("a:*", seen, durable="d", mailbox=5)
    async with bus:
        await asyncio.gather(*(bus.publish("a:b", number) for number in range(20)))
        await bus.settle()
        assert seen.got == [*range(20)]
        assert journal.refused
        assert journal.status().cursors == {"d": 0}
        journal.refused = None
        await bus.publish("a:b", 20)
        await bus.settle()
        assert journal.status().cursors == {"d": 21}


@pytest.mark.parametrize("again", [False, True])
async def test_a_settlement_that_fails_last_is_said_again(make_bus: Make, *, again: bool) -> None:
    """Though its subscription has ended: the next of its name gets no more than is open."""
    journal, seen = Refusing(), Seen()
    bus = make_bus(journal=journal)
    async with bus:
        sub = bus.subscribe("a:*", seen, durable="d")
        await bus.publish("a:b", 1)
        await bus.settle()
        sub.unsubscribe()
        await sub.ended()
        assert (journal.refused, journal.status().cursors) == (1, {"d": 0})
        if again:
            bus.subscribe("a:*", seen, durable="d")
            await bus.settle()
        journal.refused = None
    journal.open("power")
    assert (seen.got, journal.status().cursors) == ([1], {"d": 1})


async def test_what_is_settled_ahead_is_said_again(make_bus: Make) -> None:
    """Also behind a delivery that is open, where no later cursor would tell of it."""
    journal, gate = Refusing(), Gate(0)
    bus = make_bus(journal=journal)
    bus.subscribe("a:*", gate, durable="d", concurrency=2)
    async with bus:
        for number in range(5):
            await bus.publish("a:b", number)
        await asyncio.sleep(1.0)
        assert journal.refused
        journal.refused = None
        await bus.publish("a:b", 5)
        await asyncio.sleep(1.0)
        assert journal.status().ahead == {"d": 5}
        gate.open()


async def test_what_may_have_been_running_behind_settled_ones_is_suspect(make_bus: Make) -> None:
    """However many are settled between them: each is attempted alone, and that noted before."""
    journal, gate = Attentive(), Gate(0, 21)
    bus = make_bus(journal=journal)
    bus.subscribe("a:*", gate, durable="d", concurrency=2, mailbox=4)
    async with bus:
        for number in range(22):
            await bus.publish("a:b", number)
        await gate.entered(2)
        await asyncio.sleep(1.0)
        journal = crashed(journal)
        gate.open()
    await rest_of(journal, make_bus)
    assert journal.attempted == [1, 22]


async def test_what_was_not_run_before_a_clean_end_is_suspect_after_it(make_bus: Make) -> None:
    """A stop between two crashes absolves nobody; those who have been run alone are trusted."""
    journal = Attentive()

    async def attempted(handler: Seen, *, crash: bool = False) -> list[int]:
        """Go on with the journal for a moment, and return whose attempts it was told of."""
        nonlocal journal
        journal.attempted = []
        bus = make_bus(journal=journal)
        bus.subscribe("a:*", handler, durable="d", mailbox=4)
        async with bus:
            if not journal.status().last:
                for number in range(10):
                    await bus.publish("a:b", number)
            await asyncio.sleep(1.0)
            told = journal.attempted
            journal = crashed(journal) if crash else journal
            await bus.close(0.0)
        return told

    assert await attempted(Gate(), crash=True) == []
    assert await attempted(Gate()) == [1]
    assert await attempted(Seen()) == [1, 2, 3, 4, 5]
    assert await attempted(Seen()) == []


# -- history ---------------------------------------------------------------------------------------


async def test_history_survives(make_bus: Make) -> None:
    """What was published before a restart is in the history, and can be replayed."""
    journal, seen = MemoryJournal(), Seen()
    async with make_bus(journal=journal) as bus:
        for number in range(4):
            await bus.publish(f"a:{number % 2}", number)
    other = make_bus(journal=journal)
    other.subscribe("a:*", seen, replay=2)
    async with other:
        await other.publish("a:b", 4)
        await other.settle()
        assert [each["data"] for each in other.get_history("a:*")] == [0, 1, 2, 3, 4]
    assert seen.got == [2, 3, 4]


# -- options ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"group": "g"}, "group"),
        ({"replay": 1}, "replay"),
        ({"guarantee": "at_most_once"}, "at_most_once"),
        ({"overflow": "latest"}, "overflow"),
    ],
)
async def test_what_cannot_be_durable_is_refused(
    make_bus: Make, options: dict[str, Any], word: str
) -> None:
    """At once, saying which and why."""
    bus = make_bus(journal=MemoryJournal())
    with pytest.raises(ConfigurationError, match=word):
        bus.subscribe("a:*", Seen(), durable="d", **options)


async def test_a_name_is_taken_once(make_bus: Make) -> None:
    """Two live durable subscriptions of one name would share a cursor."""
    bus = make_bus(journal=MemoryJournal())
    bus.subscribe("a:*", Seen(), durable="d")
    with pytest.raises(ConfigurationError, match="'d'"):
        bus.subscribe("b:*", Seen(), durable="d")


@pytest.mark.parametrize("journal", ["events.db", "postgres://x", 5])
def test_what_is_no_journal_is_refused(journal: Any) -> None:
    """When the bus is made."""
    with pytest.raises(ConfigurationError, match="journal"):
        EventBus("x", journal=journal)


# -- crashes ---------------------------------------------------------------------------------------


class Lives:
    """A program that publishes, handles, and crashes again and again."""

    def __init__(self, crashes: list[int], events: int, concurrency: int) -> None:
        self.crashes = crashes
        self.events = events
        self.concurrency = concurrency
        self.acknowledged: list[int] = []
        self.handled: list[list[int]] = []

    async def main(self) -> None:
        """Run all lives."""
        journal, number = MemoryJournal(), 0
        for crash in [*self.crashes, None]:
            handled: list[int] = []
            self.handled.append(handled)
            bus = self.bus(journal, handled)
            await bus.start()
            end = number + self.events
            publisher = asyncio.ensure_future(self.publish(bus, range(number, end)))
            number = end
            if crash is None:
                await publisher
                await bus.settle()
            else:
                for _ in range(crash):
                    await asyncio.sleep(0)
            journal = crashed(journal)
            acknowledged = list(self.acknowledged)
            publisher.cancel()
            await bus.close(0.0)
            self.acknowledged = acknowledged

    def bus(self, journal: MemoryJournal, handled: list[int]) -> EventBus:
        """Return a bus that handles durably."""
        bus = EventBus("lives", journal=journal)

        async def handle(data: int) -> None:
            handled.append(data)
            await asyncio.sleep(0)

        bus.subscribe("a:*", handle, durable="d", mailbox=3, concurrency=self.concurrency)
        return bus

    async def publish(self, bus: EventBus, numbers: range) -> None:
        """Publish, remembering what was acknowledged."""
        for number in numbers:
            await bus.publish("a:b", number)
            self.acknowledged.append(number)


@given(
    crashes=st.lists(st.integers(0, 120), max_size=4),
    events=st.integers(1, 12),
    concurrency=st.integers(1, 3),
    seed=st.integers(0, 1_000_000),
)
def test_whenever_it_crashes_nothing_acknowledged_is_lost(
    crashes: list[int], events: int, concurrency: int, seed: int
) -> None:
    """Each is handled at least once; what a life handles comes in the order of the journal."""
    lives = Lives(crashes, events, concurrency)
    simulate(lives.main, seed=seed)
    assert set(lives.acknowledged) <= {each for life in lives.handled for each in life}
    for handled in lives.handled:
        assert len(set(handled)) == len(handled)
        if concurrency == 1:
            assert handled == sorted(handled)


async def test_a_bus_from_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`memory://` and `sqlite:` make one; anything else says so."""
    monkeypatch.chdir(tmp_path)
    async with EventBus.from_url("memory://", name="plain") as bus:
        assert bus.name == "plain"
        await bus.publish("a:b")
    async with EventBus.from_url("sqlite:///events.db", history=5) as bus:
        await bus.publish("a:b", 1)
    async with EventBus(journal="sqlite:///events.db") as bus:
        assert [each["data"] for each in bus.get_history("a:b")] == [1]
    with pytest.raises(ConfigurationError, match="postgres"):
        EventBus.from_url("postgres://x")
    with pytest.raises(ConfigurationError, match="this version has no transport"):
        EventBus.from_url("nats://host:4222")
    with pytest.raises(ConfigurationError, match="journal"):
        EventBus.from_url("sqlite:///events.db", journal=MemoryJournal())
