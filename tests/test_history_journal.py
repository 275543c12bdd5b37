"""The past of a bus with a journal: reading it, and replay beyond what memory holds."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actorbus import (
    ActorState,
    BusClosedError,
    BusNotRunningError,
    ConfigurationError,
    DeadReason,
    Event,
    EventBus,
    HistoryStream,
    InvalidPatternError,
    JournalError,
    Outcome,
    Pattern,
)
from actorbus.journal.base import Append, Entry, Operation, Record, Result, Wants
from actorbus.journal.memory import MemoryJournal
from actorbus.journal.sqlite import SqliteJournal
from actorbus.testing import simulate
from tests.handlers import Seen
from tests.virtual import run

pytestmark = pytest.mark.anyio

Make = Callable[..., EventBus]
TOPICS = ("a:x", "a:y", "b", "c:z")
RECALLING = 0.0  # the time from which a bus that starts reads; whoever reads the past gives another
PATTERNS = ("a:*", "**", "b", "c:z", "d")


class Past(NamedTuple):
    """An event of before: its number is its payload."""

    number: int
    topic: str
    time: float


class Journal(MemoryJournal):
    """A journal that has a past, and can be slow, damaged and broken.

    Attributes:
        calls: What was asked of it, in order: ``"commit"`` and ``"read"``.
        damaged: Numbers of events that cannot be read.
        broken: What reading raises.
        looked: The widest range of numbers looked at in one call, and the most records returned.
    """

    def __init__(self, past: Sequence[Past] = (), pruned: int = 0) -> None:
        super().__init__(retention=math.inf)
        self.calls: list[str] = []
        self.damaged: set[int] = set()
        self.broken: JournalError | None = None
        self.looked = self.returned = 0
        self.open("process")
        for each in past:
            body = str(each.number).encode()
            self.commit([Append(Entry(f"id-{each.number}", each.topic, each.time, body))])
        self._remove(pruned)
        self.close(clean=True)

    def commit(self, operations: Sequence[Operation]) -> list[Result]:
        self.calls.append("commit")
        return super().commit(operations)

    def recent(
        self, limit: int, wants: Wants, *, since: float = 0.0, behind: int = 0, before: int = 0
    ) -> list[Record]:
        if since != RECALLING:
            self._called(limit)
            self.looked = max(self.looked, before - 1 - behind)
        found = super().recent(limit, wants, since=since, behind=behind, before=before)
        return self._as_they_are(found)

    def _called(self, limit: int) -> None:
        self.calls.append("read")
        self.returned = max(self.returned, limit)
        if self.broken is not None:
            raise self.broken

    def _as_they_are(self, records: list[Record]) -> list[Record]:
        return [Record(each.seq, each.entry, each.seq not in self.damaged) for each in records]


@contextmanager
def pieces(look: int = 3, piece: int = 2, recalled: int = 4) -> Iterator[None]:
    """Read in small pieces, and recall little."""
    with (
        patch("actorbus.lookback.LOOK", look),
        patch("actorbus.past.LOOK", look),
        patch("actorbus.lookback.PIECE", piece),
        patch("actorbus.archive.RECALLED", recalled),
    ):
        yield


def past_of(*topics: str, start: float = 1.0) -> list[Past]:
    """Return a past of one event a second."""
    return [Past(number, topic, start + number) for number, topic in enumerate(topics, 1)]


async def numbers(events: AsyncIterator[Event] | HistoryStream) -> list[Any]:
    """Return the payloads of some events."""
    return [event.data async for event in events]


def matching(past: Sequence[Past], patterns: Sequence[str], exclude: Sequence[str] = ()) -> Any:
    """Return the events of a past that match; the model of all that follows."""

    def matches(topic: str, texts: Sequence[str]) -> bool:
        return any(Pattern(text).matches(topic) for text in texts)

    return [e for e in past if matches(e.topic, patterns) and not matches(e.topic, exclude)]


pasts = st.lists(st.tuples(st.sampled_from(TOPICS), st.floats(0, 9).map(round)), max_size=25).map(
    lambda drawn: [Past(n, topic, float(time)) for n, (topic, time) in enumerate(drawn, 1)]
)
"""Any past, in which clocks were set as they may."""
times = st.none() | st.integers(-1, 10) | st.floats(0, 9)


# -- reading ---------------------------------------------------------------------------------------


@given(
    past=pasts,
    pruned=st.integers(0, 10),
    patterns=st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=2, unique=True),
    since=times,
    until=times,
    after=st.integers(0, 30),
    limit=st.none() | st.integers(0, 12),
    look=st.integers(1, 5),
    piece=st.integers(1, 4),
)
def test_reading_is_filtering(
    past: list[Past],
    pruned: int,
    patterns: list[str],
    since: float | None,
    until: float | None,
    after: int,
    limit: int | None,
    look: int,
    piece: int,
) -> None:
    """Whatever the pieces and the clocks, it gives exactly what matches, in the order of it."""
    pruned = min(pruned, len(past))
    wanted = [
        each.number
        for each in matching(past[pruned:], patterns)
        if each.number > after
        and (since is None or each.time >= since)
        and (until is None or each.time < until)
    ]
    if limit is not None:
        wanted = wanted[max(0, len(wanted) - limit) :]
    journal = Journal(past, pruned)

    async def main() -> None:
        async with EventBus(journal=journal) as bus:
            found = bus.read_history(patterns, since=since, until=until, after=after, limit=limit)
            assert await numbers(found) == wanted
            assert found.position == len(past)
            assert [each async for each in found] == []

    with pieces(look, piece):
        run(main)
    assert journal.looked <= max(look, piece)
    assert journal.returned <= max(piece, 1)


async def test_a_reading_goes_on_where_another_has_stopped(make_bus: Make) -> None:
    """`position` is that of the event in hand; behind it nothing is missing and nothing twice."""
    async with make_bus(journal=Journal(past_of(*["a:x", "b"] * 20))) as bus:
        first = bus.read_history("a:*")
        begun = [(await anext(first)).data for _ in range(7)]
        rest = await numbers(bus.read_history("a:*", after=first.position))
        assert begun + rest == [*range(1, 41, 2)]
        assert len(begun) == 7


async def test_events_come_back_whole(make_bus: Make) -> None:
    """Id, topic, payload, time, key, headers and whose consequence it is."""
    journal = Journal()
    async with make_bus(journal=journal) as bus:
        cause = await bus.publish("a:x", {"n": 1}, key="k", headers={"h": 1})
        await bus.publish("a:y", 2, cause=cause.event)
    async with make_bus(journal=journal) as bus:
        one, two = [event async for event in bus.read_history("a:*")]
    sent = cause.event
    assert (one.id, one.topic, one.data, one.time) == (sent.id, "a:x", {"n": 1}, sent.time)
    assert (one.key, one.headers) == ("k", {"h": 1})
    assert two.causation_id == two.correlation_id == one.id


async def test_it_ends_with_what_was_published_before_it_began(make_bus: Make) -> None:
    """Committed or not: what was published before is in it; what comes later is not."""
    async with make_bus(journal=Journal()) as bus:
        bus.publish("a", 1)
        bus.publish("a", 2)
        bus.publish("a", 3)
        with pieces(look=3, piece=2):
            reading = bus.read_history("a")
            got = [(await anext(reading)).data]
            await bus.publish("a", 4)
            assert got + await numbers(reading) == [1, 2, 3]
            assert reading.position == 3
        assert await numbers(bus.read_history("a", after=reading.position)) == [4]


async def test_a_time_is_a_datetime_or_seconds(make_bus: Make) -> None:
    """An aware datetime and Unix seconds name the same moment, `since` included, `until` not."""
    past = past_of(*["a"] * 9)
    async with make_bus(journal=Journal(past)) as bus:
        moment = datetime.fromtimestamp(past[3].time, UTC)
        assert await numbers(bus.read_history("a", since=moment)) == [4, 5, 6, 7, 8, 9]
        assert await numbers(bus.read_history("a", since=past[3].time)) == [4, 5, 6, 7, 8, 9]
        assert await numbers(bus.read_history("a", until=moment)) == [1, 2, 3]
        assert [e["data"] for e in bus.get_history("a", 3, since=moment)] == [7, 8, 9]
        assert [e["data"] for e in bus.get_history("a", 9, since=moment)] == [4, 5, 6, 7, 8, 9]
        assert bus.get_history("a", 0, since=moment) == []


async def test_without_a_journal_it_is_what_memory_holds(make_bus: Make) -> None:
    """The same call works on every bus."""
    bus = make_bus(history=5)
    async with bus:
        for number in range(9):
            bus.publish("a:x", number)
        bus.publish("b", 9)
        assert await numbers(bus.read_history("a:*")) == [4, 5, 6, 7, 8]
        assert await numbers(bus.read_history(["a:*", "b"], limit=2)) == [8, 9]
        assert await numbers(bus.read_history("b", until=0)) == []
    reading = bus.read_history("b")
    assert await numbers(reading) == [9]
    assert reading.position == 0


async def test_what_is_damaged_is_left_out_and_counted(
    make_bus: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """The rest is given, in a reading and in a replay, and the log says so."""
    journal, seen = Journal(past_of(*["a"] * 9)), Seen()
    journal.damaged = {2, 8}
    with pieces():
        async with make_bus(journal=journal, history=0) as bus:
            every, last = bus.read_history("a"), bus.read_history("a", limit=3)
            assert await numbers(every) == [1, 3, 4, 5, 6, 7, 9]
            assert await numbers(last) == [6, 7, 9]
            assert (every.damaged, last.damaged) == (2, 1)
            bus.subscribe("a", seen, replay=3)
            await bus.settle()
    assert seen.got == [6, 7, 9]
    assert "damaged" in caplog.text


async def test_a_reading_that_fails_can_be_gone_on_with(make_bus: Make) -> None:
    """The error is the reader's; asked again, it goes on where it was."""
    journal = Journal(past_of(*["a"] * 9))
    with pieces():
        async with make_bus(journal=journal) as bus:
            reading = bus.read_history("a")
            got = [(await anext(reading)).data for _ in range(4)]
            journal.broken = JournalError("not now")
            with pytest.raises(JournalError, match="not now"):
                await numbers(reading)
            journal.broken = None
            assert got + await numbers(reading) == [*range(1, 10)]


@given(cuts=st.lists(st.integers(0, 12), max_size=6), seed=st.integers(0, 1_000_000))
def test_a_reading_that_is_cancelled_loses_nothing(cuts: list[int], seed: int) -> None:
    """Wherever it is cancelled: asked again, it gives the next event."""

    async def main() -> None:
        got: list[Any] = []
        async with EventBus(journal=Journal(past_of(*["a", "b"] * 8))) as bus:
            reading = bus.read_history("a")

            async def read() -> None:
                async for event in reading:
                    got.append(event.data)
                    await asyncio.sleep(0)

            for cut in cuts:
                task = asyncio.ensure_future(read())
                for _ in range(cut):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait({task})
            await read()
        assert got == [*range(1, 17, 2)]

    with pieces():
        simulate(main, seed=seed)


async def test_a_reading_ends_with_its_bus(make_bus: Make) -> None:
    """After a close it says so, and from another loop; it starts a bus that never ran."""
    bus = make_bus(journal=Journal(past_of("a", "a")))
    with pieces(look=1, piece=1):
        reading = bus.read_history("a")
        assert (await anext(reading)).data == 1
        other = asyncio.to_thread(lambda: asyncio.run(numbers(bus.read_history("a"))))
        with pytest.raises(BusNotRunningError):
            await other
        await bus.close()
        with pytest.raises(BusClosedError):
            await anext(reading)


async def test_bad_arguments_say_so(make_bus: Make) -> None:
    """At the call, and by name."""
    bus = make_bus(journal=Journal())
    with pytest.raises(InvalidPatternError):
        bus.read_history("a::b")
    naive = datetime(2026, 1, 1)  # noqa: DTZ001 - what is to be refused
    wrong: list[dict[str, Any]] = [
        {"since": naive}, {"since": "yesterday"}, {"until": math.nan}, {"until": True},
        {"since": 10**400}, {"after": -1}, {"after": 1.5}, {"limit": -1},
    ]  # fmt: skip
    for options in wrong:
        with pytest.raises(ConfigurationError, match=next(iter(options))):
            bus.read_history("a", **options)
    with pytest.raises(ConfigurationError, match=r"after.*journal"):
        make_bus().read_history("a", after=1)
    with pytest.raises(ConfigurationError, match="since"):
        bus.get_history("a", since=naive)


async def test_a_commit_waits_for_one_piece_at_most(make_bus: Make) -> None:
    """However many read, and whatever they have to look through."""
    journal = Journal(past_of(*["a"] * 60))
    with pieces():
        async with make_bus(journal=journal, history=0) as bus:
            readings = [numbers(bus.read_history("b")) for _ in range(3)]
            tasks = [asyncio.ensure_future(each) for each in readings]
            for _ in range(3):
                bus.subscribe("b", Seen(), replay=5)
            between = []
            for number in range(12):
                await asyncio.sleep(0)
                before = len(journal.calls)
                await bus.publish("c", number)
                calls = journal.calls[before:]
                between.append(calls.index("commit"))
            await asyncio.gather(*tasks)
            await bus.settle()
    assert max(between) <= 1
    assert journal.calls.count("read") >= 6 * 20


# -- replay ----------------------------------------------------------------------------------------


class Wish(NamedTuple):
    """A subscription with a replay, or a stream."""

    patterns: list[str]
    exclude: list[str]
    replay: int
    since: float | None
    after: int
    stream: bool

    def chosen(self, past: Sequence[Past]) -> list[int]:
        """Return what of a past is to be replayed."""
        found = matching(past, self.patterns, self.exclude)
        late = [each for each in found if self.since is None or each.time >= self.since]
        return [each.number for each in late if each.number > self.after][-self.replay :]

    def live(self, published: Sequence[Past]) -> list[int]:
        """Return what is to come after it."""
        return [each.number for each in matching(published, self.patterns, self.exclude)]


wishes = st.builds(
    Wish,
    patterns=st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=2, unique=True),
    exclude=st.just([]) | st.lists(st.sampled_from(PATTERNS), max_size=1),
    replay=st.integers(1, 8),
    since=times,
    after=st.sampled_from([0, 0, 0, 5, 20]),
    stream=st.booleans(),
)
steps = st.lists(st.sampled_from(TOPICS) | st.integers(1, 4) | wishes, max_size=20)
"""Topics to publish to, turns of the loop to wait, and subscriptions to make."""


class Story:
    """A bus with a past, on which some publish while others begin to listen.

    Attributes:
        expected: What everybody should get.
        got: What they have got.
    """

    def __init__(self, journal: Journal, past: list[Past], history: int) -> None:
        self.expected: list[list[int]] = []
        self.got: list[list[int]] = []
        self._bus = EventBus("story", journal=journal, history=history)
        self._past = past
        self._number = journal._last
        self._listeners: list[tuple[Wish, int]] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def main(self, early: list[Wish], steps: list[str | int | Wish]) -> None:
        """Do everything, and find out what should have come of it."""
        bus, before = self._bus, len(self._past)
        for wish in early:
            self._listen(wish)
        await bus.start()
        for step in steps:
            if isinstance(step, Wish):
                self._listen(step)
            elif isinstance(step, str):
                self._number += 1
                self._past.append(Past(self._number, step, math.inf))
                bus.publish(step, self._number)
            else:
                for _ in range(step):
                    await asyncio.sleep(0)
        while len(self._listeners) < len(early) + sum(isinstance(each, Wish) for each in steps):
            await asyncio.sleep(0)
        await bus.settle()
        assert bus.audit().balanced
        await bus.close()
        await asyncio.gather(*self._tasks)
        assert len(self._past) - before == sum(isinstance(each, str) for each in steps)
        for wish, turn in self._listeners:
            past, live = self._past[:turn], self._past[turn:]
            self.expected.append(wish.chosen(past) + wish.live(live))

    def _listen(self, wish: Wish) -> None:
        got: list[int] = []
        if wish.stream:
            self._tasks.append(asyncio.ensure_future(self._stream(wish._replace(exclude=[]), got)))
            return
        self._begun(wish, got)

        async def handle(data: int) -> None:
            got.append(data)

        self._bus.subscribe(
            wish.patterns, handle, exclude=wish.exclude, replay=wish.replay, since=wish.since,
            after=wish.after, put_timeout=None,
        )  # fmt: skip

    async def _stream(self, wish: Wish, got: list[int]) -> None:
        self._begun(wish, got)
        _, _, replay, since, after, _ = wish
        stream = self._bus.events(wish.patterns, replay=replay, since=since, after=after)
        async with stream as events:
            got += await numbers(events)

    def _begun(self, wish: Wish, got: list[int]) -> None:
        self._listeners.append((wish, len(self._past)))
        self.got.append(got)


@given(
    past=pasts,
    pruned=st.integers(0, 10),
    history=st.integers(0, 6),
    recalled=st.integers(1, 30),
    look=st.integers(1, 5),
    early=st.lists(wishes.filter(lambda wish: not wish.stream), max_size=2),
    steps=steps,
    seed=st.integers(0, 1_000_000),
)
def test_replay_is_of_the_past_and_then_live(
    past: list[Past],
    pruned: int,
    history: int,
    recalled: int,
    look: int,
    early: list[Wish],
    steps: list[str | int | Wish],
    seed: int,
) -> None:
    """The last n of all there is, then what comes: no gap, no duplicate, in order, for everybody.

    Whatever memory holds, whatever is published while the journal is read.
    """
    pruned = min(pruned, len(past))
    story = Story(Journal(past, pruned), past[pruned:], history)

    with pieces(look, 2, recalled):
        simulate(lambda: story.main(early, steps), seed=seed)

    assert story.got == story.expected


async def test_history_then_live_without_a_gap(make_bus: Make) -> None:
    """All of the past is read, however long; from its end a replay and live events go on."""
    seen = Seen()
    with pieces():
        async with make_bus(journal=Journal(past_of(*["a", "b"] * 30)), history=2) as bus:
            past = bus.read_history("a")
            got = await numbers(past)
            for number in (61, 62, 63):
                bus.publish("a", number)
            bus.subscribe("a", seen, replay=10, after=past.position)
            bus.publish("a", 64)
            await bus.settle()
    assert got == [*range(1, 61, 2)]
    assert seen.got == [61, 62, 63, 64]


async def test_memory_that_is_enough_is_not_read_around(make_bus: Make) -> None:
    """The journal is read for a replay only if memory may lack some of it."""
    journal, first, second = Journal(past_of(*["a"] * 9)), Seen(), Seen()
    with pieces(recalled=4):
        async with make_bus(journal=journal) as bus:
            journal.calls.clear()
            bus.subscribe("a", first, replay=4)
            await bus.settle()
            assert "read" not in journal.calls
            bus.subscribe("a", second, replay=5)
            await bus.settle()
            assert "read" in journal.calls
    assert (first.got, second.got) == ([6, 7, 8, 9], [5, 6, 7, 8, 9])


async def test_what_somebody_else_has_written_meanwhile_is_replayed(make_bus: Make) -> None:
    """A bus that is opened again does not take what it remembers for all there is."""
    journal, seen = Journal(), Seen()
    first, second = make_bus(journal=journal), make_bus(journal=journal)
    for bus, number in (first, 1), (second, 2), (first, 3):
        async with bus:
            await bus.publish("a", number)
    async with first:
        first.subscribe("a", seen, replay=3)
        await first.settle()
    assert seen.got == [1, 2, 3]


async def test_topics_that_memory_has_dropped_are_replayed(make_bus: Make) -> None:
    """However many topics there were since."""
    seen, other = Seen(), Seen()
    async with make_bus(journal=Journal()) as bus:
        bus.publish("rare:a", 1)
        bus.publish("rare:b", 2)
        for number in range(1_300):
            bus.publish(f"t:{number}", number)
        bus.publish("rare:b", 3)
        bus.subscribe("rare:*", seen, replay=3)
        bus.subscribe("rare:b", other, replay=1)
        await bus.settle()
    assert (seen.got, other.got) == ([1, 2, 3], [3])


async def test_what_is_pruned_is_not_looked_for(make_bus: Make) -> None:
    """Neither forwards nor backwards, however much it was."""
    journal, seen = Journal(past_of(*["a"] * 90), pruned=88), Seen()
    with pieces(look=1):
        async with make_bus(journal=journal, history=0) as bus:
            assert await numbers(bus.read_history("a")) == [89, 90]
            assert await numbers(bus.read_history("a", limit=5)) == [89, 90]
            bus.subscribe("a", seen, replay=5)
            await bus.settle()
    assert seen.got == [89, 90]
    assert journal.calls.count("read") <= 10


class Refusing(Journal):
    """A journal that refuses some events."""

    def commit(self, operations: Sequence[Operation]) -> list[Result]:
        if any(isinstance(each, Append) and each.entry.topic == "a:bad" for each in operations):
            raise JournalError("no")
        return super().commit(operations)


async def test_what_is_not_committed_is_replayed_to_nobody(make_bus: Make) -> None:
    """Though it stood in the history when the subscription was made."""
    seen = Seen()
    bus = make_bus(journal=Refusing())
    async with bus:
        await bus.publish("a:good", 1)
        bus.publish("a:bad", 2)
        bus.subscribe("a:*", seen, replay=3)
        await bus.publish("a:good", 3)
        await bus.settle()
    assert seen.got == [1, 3]


async def test_a_replay_that_cannot_be_read_is_of_memory(
    make_bus: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says why, live events go on, a stream opens."""
    journal, seen = Journal(past_of(*["a"] * 9)), Seen()
    journal.broken = JournalError("unreadable")
    with pieces(recalled=2):
        async with make_bus(journal=journal) as bus:
            bus.subscribe("a", seen, replay=5)
            async with bus.events("a", replay=5) as events:
                bus.publish("a", 10)
                got = [(await anext(events)).data for _ in range(3)]
            await bus.settle()
    assert seen.got == got == [8, 9, 10]
    assert "unreadable" in caplog.text


class Slow(Journal):
    """A journal whose pieces of the past each come with a live event, as long as it may read."""

    publish: Callable[[], Any]

    def __init__(self, past: Sequence[Past]) -> None:
        super().__init__(past)
        self.gate = threading.Event()
        self.gate.set()

    def recent(
        self, limit: int, wants: Wants, *, since: float = 0.0, behind: int = 0, before: int = 0
    ) -> list[Record]:
        if since != RECALLING:
            self.publish()
            self.gate.wait(10.0)
        return super().recent(limit, wants, since=since, behind=behind, before=before)


def slow(bus: EventBus, journal: Slow, topic: str) -> list[Any]:
    """Publish to a topic for every piece that is read; return the receipts."""
    receipts: list[Any] = []
    loop = asyncio.get_running_loop()

    def publish() -> None:
        if bus._engine.open:
            receipts.append(bus.publish(topic, f"live {len(receipts)}"))

    journal.publish = lambda: loop.call_soon_threadsafe(publish)
    return receipts


async def test_what_comes_meanwhile_waits(make_bus: Make) -> None:
    """It is counted as waiting, whoever awaits it waits, and it settles like any other."""
    journal, seen = Slow(past_of("a", *["b"] * 20)), Seen()
    with pieces(look=1):
        bus = make_bus(journal=journal, history=0)
        async with bus:
            receipts = slow(bus, journal, "a")
            bus.subscribe("a", seen, name="s", replay=3)
            while len(receipts) < 10:
                await asyncio.sleep(0)
            receipt = receipts[0]
            while receipt.waiting and not bus._registry.live["s"].held:
                await asyncio.sleep(0)
            assert receipt.waiting == 1
            assert bus.audit().subscriptions["s"].waiting >= 5
            assert bus.audit().balanced
            settled = asyncio.ensure_future(receipt.settled())
            await asyncio.sleep(0)
            assert not settled.done()
            assert await receipts[1] is receipts[1]
            assert receipts[1].waiting == 0
            assert bus._registry.live["s"].held is None
            assert (await settled).outcomes == {"s": Outcome.ACKED}
            assert seen.got[:2] == [1, "live 0"]
            await bus.settle()
    assert seen.got == [1, *(f"live {n}" for n in range(len(receipts)))]


async def test_no_more_than_a_mailbox_is_held(
    make_bus: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """A replay that takes too long is cut short: it lacks the oldest, and no live event is lost."""
    journal, seen = Slow(past_of("a", *["b"] * 40, "a")), Seen()
    with pieces(look=1):
        async with make_bus(journal=journal, history=0) as bus:
            receipts = slow(bus, journal, "a")
            bus.subscribe("a", seen, replay=3, mailbox=5)
            await bus.settle()
            assert len(bus.dead_letters) == 0
    assert 5 <= len(receipts) < 15
    assert "cut short, of 1 events" in caplog.text
    assert seen.got == [42, *(f"live {n}" for n in range(len(receipts)))]


async def test_nobody_waits_for_a_replay_longer_than_for_room(make_bus: Make) -> None:
    """After `put_timeout` the replay is cut short, and who awaits goes on."""
    journal, seen = Slow(past_of(*["b"] * 40)), Seen()
    with pieces(look=1):
        async with make_bus(journal=journal, history=0) as bus:
            receipts = slow(bus, journal, "a")
            bus.subscribe("a", seen, replay=3, put_timeout=0.0)
            await bus.settle()
    assert 1 <= len(receipts) < 10
    assert seen.got == [f"live {n}" for n in range(len(receipts))]


async def test_who_leaves_while_the_past_is_read_gets_what_came_meanwhile(make_bus: Make) -> None:
    """Unsubscribed, it handles what is held and gets no replay; stopped, what is held is dead."""
    for stops in (False, True):
        journal, seen = Slow(past_of("a", *["b"] * 20)), Seen()
        with pieces(look=1):
            async with make_bus(journal=journal, history=0) as bus:
                receipts = slow(bus, journal, "a")
                sub = bus.subscribe("a", seen, name="s", replay=3)
                ref = bus.actor("s")
                while len(receipts) < 8:
                    await asyncio.sleep(0)
                assert ref is not None
                await (ref.stop() if stops else asyncio.sleep(0, sub.unsubscribe()))
                await sub.ended()
                await bus.settle()
                died = [letter.reason for letter in bus.dead_letters]
        assert 5 <= len(seen.got) + len(died) <= len(receipts) < 15
        assert 1 not in seen.got
        assert (seen.got == []) is stops
        assert set(died) == ({DeadReason.STOPPED} if stops else set())


async def test_a_drain_waits_for_a_replay(make_bus: Make) -> None:
    """And for what has come meanwhile."""
    journal, seen = Slow(past_of("a", *["b"] * 20)), Seen()
    with pieces(look=1):
        async with make_bus(journal=journal, history=0) as bus:
            receipts = slow(bus, journal, "a")
            bus.subscribe("a", seen, replay=3)
            while len(receipts) < 8:
                await asyncio.sleep(0)
            assert (await bus.drain()).complete
            assert len(seen.got) == 1 + len(receipts)
    assert seen.got[0] == 1


async def test_a_deadline_cuts_off_a_replay(make_bus: Make) -> None:
    """What is held is dead, and nothing comes after."""
    journal, seen = Slow(past_of("a", *["b"] * 20)), Seen()
    with pieces(look=1):
        bus = make_bus(journal=journal, history=0)
        async with bus:
            receipts = slow(bus, journal, "a")
            sub = bus.subscribe("a", seen, replay=3)
            while len(receipts) < 8:
                await asyncio.sleep(0)
            journal.gate.clear()
            closing = asyncio.ensure_future(bus.close(0.0))
            while sub.state is not ActorState.STOPPED:
                await asyncio.sleep(0)
            journal.gate.set()
            assert not (await closing).complete
        assert bus.audit().totals.pending == 0
    assert {letter.reason for letter in bus.dead_letters} == {DeadReason.DRAIN_TIMEOUT}
    assert (seen.got, len(bus.dead_letters)) == ([], len(receipts))


async def test_a_stream_that_is_given_up_while_it_opens(make_bus: Make) -> None:
    """Cancelled while the past is read, it listens no more."""
    journal = Slow(past_of(*["b"] * 20))
    with pieces(look=1):
        async with make_bus(journal=journal, history=0) as bus:
            receipts = slow(bus, journal, "a")
            stream = bus.events("a", replay=3)
            opening = asyncio.ensure_future(stream.__aenter__())
            while len(receipts) < 4:
                await asyncio.sleep(0)
            opening.cancel()
            await asyncio.wait({opening})
            await bus.settle()
            assert opening.cancelled()
            assert bus.publish("a", 0).deliveries == 0
            assert len(receipts) < 8


async def test_a_stream_that_is_opened_again_at_once(make_bus: Make) -> None:
    """What an earlier opening has asked for does not come to the later one."""
    journal = Slow(past_of(*["b"] * 20, *["a"] * 2))
    with pieces(look=1):
        async with make_bus(journal=journal, history=0) as bus:
            receipts = slow(bus, journal, "b")
            stream = bus.events("a", replay=3)
            opening = asyncio.ensure_future(stream.__aenter__())
            while len(receipts) < 2:
                await asyncio.sleep(0)
            opening.cancel()
            await asyncio.wait({opening})
            async with stream:
                bus.publish("a", 23)
                await bus.settle()
                assert [(await anext(stream)).data for _ in range(3)] == [21, 22, 23]
            assert not stream._buffer


def test_a_replay_that_a_loop_takes_with_it_comes_on_the_next(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A bus whose loop is closed under it replays at its next start what it had not."""
    journal, seen = Journal(past_of("a", *["b"] * 20)), Seen()
    bus = EventBus(journal=journal, history=0)

    async def first() -> None:
        await bus.start()
        bus.subscribe("a", seen, replay=3)
        await asyncio.sleep(0)

    async def second() -> None:
        async with bus:
            await bus.publish("a", 22)

    with caplog.at_level(logging.ERROR), pieces(look=1):
        run(first)
        run(second)
    assert seen.got == [1, 22]


async def test_a_real_file(make_bus: Make, tmp_path: Any) -> None:
    """The same from a file: forwards, backwards, and a replay beyond memory."""
    seen = Seen()
    async with make_bus(journal=SqliteJournal(tmp_path / "e.db")) as bus:
        for number in range(3_000):
            bus.publish(f"t:{number % 3}", number)
    journal = SqliteJournal(tmp_path / "e.db")
    with patch("actorbus.archive.RECALLED", 10):
        async with make_bus(journal=journal, history=5) as bus:
            assert await numbers(bus.read_history("t:1")) == [*range(1, 3_000, 3)]
            assert await numbers(bus.read_history("t:2", limit=3)) == [2993, 2996, 2999]
            bus.subscribe("t:0", seen, replay=700)
            bus.publish("t:0", 3_000)
            await bus.settle()
    assert seen.got == [*range(0, 3_001, 3)][-701:]
