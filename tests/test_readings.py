"""Readings: everybody's books for an exporter, in steps that are short and sums that balance."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import Callable, Generator
from typing import Any

import anyio.to_thread
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actorbus import DeadReason, Event, EventBus, RetryPolicy, readings, registry
from actorbus.ledger import Histogram, Ledger, Terms
from actorbus.rows import ActorReading, Rows, merged, pack, unpack
from actorbus.subscription import Subscription
from tests.virtual import VirtualLoop

COUNTERS = ("routed", "acked", "conflated", "errors", "timeouts", "cancelled", "retries",
            "restarts", "succeeded")  # fmt: skip

counts = st.integers(0, 1000)


@st.composite
def ledgers(draw: st.DrawFn) -> Ledger:
    """Make books in which anything may have happened."""
    ledger = Ledger()
    for name in COUNTERS:
        setattr(ledger, name, draw(counts))
    ledger.dead = draw(st.dictionaries(st.sampled_from(DeadReason), st.integers(1, 9), max_size=3))
    for seconds in draw(st.lists(st.sampled_from([0.00005, 0.25, 64.0]), max_size=3)):
        ledger.waited(seconds)
        ledger.took(seconds)
    return ledger


def told(ledger: Ledger) -> tuple[Any, ...]:
    """Return all that books say."""
    histograms = [h and (h.counts, h.total) for h in (ledger.wait, ledger.duration)]
    return [getattr(ledger, name) for name in COUNTERS], ledger.dead, histograms


def packed(ledger: Ledger, pending: tuple[int, ...] = (0, 0, 0, 0), **more: Any) -> Any:
    """Return books as a row."""
    return pack("label", ledger, pending, ledger.succeeded, **more)


def steps(bus: EventBus) -> Generator[None, None, Rows]:
    """Begin a reading."""
    return bus._engine.registry.readings()


def drive(reading: Generator[None, None, Rows]) -> tuple[int, Rows]:
    """Take all steps of a reading; return how many there were, and the rows."""
    count = 0
    while True:
        count += 1
        try:
            next(reading)
        except StopIteration as last:
            return count, last.value


# -- rows ---------------------------------------------------------------------------------------


@given(ledgers(), st.tuples(counts, counts, counts, counts), st.sampled_from([None, True, False]))
def test_a_row_gives_back_what_was_packed(
    ledger: Ledger, pending: tuple[int, ...], up: bool | None
) -> None:
    """Packing and unpacking change nothing, and the terms agree with the ledger."""
    reading = unpack(packed(ledger, pending, up=up, capacity=7))

    assert told(reading.ledger) == told(ledger)
    settled = ledger.routed, ledger.acked, ledger.dead_total, ledger.conflated
    assert reading.terms == Terms(*settled, *pending)
    assert (reading.label, reading.up, reading.capacity) == ("label", up, 7)


@given(ledgers(), ledgers())
def test_rows_add_up_like_ledgers(one: Ledger, other: Ledger) -> None:
    """The sum of two rows is the row of the merged ledgers."""
    total = one.copy()
    total.merge(other)

    row = merged(packed(one, (1, 2, 3, 4), capacity=5), packed(other, (5, 6, 7, 8), capacity=6))

    assert row == packed(total, (6, 8, 10, 12), capacity=11)


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [(None, None, None), (None, True, True), (False, None, False), (True, False, False),
     (False, True, False), (True, True, True), (None, False, False), (True, None, True)],
)  # fmt: skip
def test_a_sum_is_up_if_all_are(one: bool | None, other: bool | None, both: bool | None) -> None:
    """One broken actor shows; what is no actor has no say."""
    assert merged(packed(Ledger(), up=one), packed(Ledger(), up=other))[1] is both


def test_a_row_does_not_change_with_the_books() -> None:
    """What was packed is a copy."""
    ledger = Ledger()
    ledger.waited(0.2)
    row = packed(ledger)
    before = told(unpack(row).ledger)

    ledger.routed += 1
    ledger.bury(DeadReason.STOPPED)
    ledger.waited(0.2)

    assert told(unpack(row).ledger) == before


@given(st.lists(st.lists(counts, max_size=3), max_size=3))
def test_histograms_merge_in_any_order(observed: list[list[int]]) -> None:
    """Merging counts what adding one by one would have counted."""
    whole, total = Histogram(), Histogram()
    for seconds in observed:
        part = Histogram()
        for each in seconds:
            part.add(each)
            whole.add(each)
        total.merge(part)

    assert (total.counts, total.total) == (whole.counts, whole.total)


# -- steps --------------------------------------------------------------------------------------


async def ignore(event: Event) -> None:
    """Handle an event, or fail if it says so."""
    if event.data == "fail":
        raise ValueError


def populate(bus: EventBus, count: int) -> list[Subscription]:
    """Subscribe so many handlers."""
    once = RetryPolicy.none()
    return [bus.subscribe("a:*", ignore, name=f"s{n}", retry=once) for n in range(count)]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make labels few and steps short."""
    monkeypatch.setattr(registry, "LABELS", 2)
    monkeypatch.setattr(readings, "STEP", 3)
    monkeypatch.setattr(readings, "LARGE", 5)


async def test_few_are_read_in_one_step(bus: EventBus) -> None:
    """While those who share a label are few, everything is copied at one instant."""
    populate(bus, 30)
    assert drive(steps(bus))[0] == 1


@pytest.mark.usefixtures("small")
async def test_no_step_reads_many(bus: EventBus, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step looks at the labelled ones, or at so many of the others, however many there are."""
    populate(bus, 20)
    looked = [0]

    def pending(sub: Subscription, real: Any = Subscription.pending) -> Any:
        looked[-1] += 1
        return real(sub)

    monkeypatch.setattr(Subscription, "pending", pending)
    reading = steps(bus)
    for _ in reading:
        looked.append(0)

    assert sum(looked) == 20
    assert max(looked) <= registry.LABELS + readings.STEP


@pytest.mark.usefixtures("small")
async def test_one_row_for_each_label(bus: EventBus) -> None:
    """The first ones have a row of their own, the later ones, the streams and the ended share."""
    subs = populate(bus, 7)
    async with bus.events("a:*"), bus.events("a:*"):
        bus.publish("a:b", "fail")
        await bus.settle()
        subs[1].unsubscribe()
        await subs[1].ended()
        _, rows = drive(steps(bus))

    assert [(r.label, r.ledger.routed, r.ledger.errors, r.up, r.capacity) for r in rows] == [
        ("s0", 1, 1, True, 1000),
        ("_ended", 1, 1, None, 0),
        ("_streams", 2, 0, None, 0),
        ("_other", 5, 5, True, 5000),
    ]
    assert rows[0].label == "s0"
    assert len(rows) == 4


async def test_no_row_is_tracked_for_long(bus: EventBus) -> None:
    """A reading leaves nothing to the collector, however many actors there are."""
    populate(bus, 300)
    bus.publish("a:b", "fail")
    await bus.settle()
    _, rows = drive(steps(bus))
    gc.collect()
    gc.collect()

    assert len(rows) == 303
    assert not any(gc.is_tracked(row) for row in rows.packed)


CHANGES: dict[str, Callable[[EventBus], object]] = {
    "publish": lambda bus: bus.publish("a:b"),
    "fail": lambda bus: bus.publish("a:b", "fail"),
    "subscribe": lambda bus: bus.subscribe("a:*", ignore, retry=RetryPolicy.none()),
    "end oldest": lambda bus: next(iter(bus._engine.registry.live.values())).unsubscribe(),
    "end newest": lambda bus: next(reversed(bus._engine.registry.live.values())).unsubscribe(),
    "nothing": lambda bus: None,
}


@given(st.lists(st.tuples(st.sampled_from(sorted(CHANGES)), st.integers(0, 2)), max_size=30))
@pytest.mark.usefixtures("small")
def test_whatever_happens_between_steps_the_books_balance(changes: list[tuple[str, int]]) -> None:
    """Each row balances, nobody is read twice or left out, and no total falls."""

    async def main() -> None:
        async with EventBus("test") as bus:
            populate(bus, 8)
            bus.subscribe("a:*", ignore, name="kept")
            stream = bus.events("a:*")
            async with stream:
                await check(bus)
            async with stream:
                await check(bus)

    async def check(bus: EventBus) -> None:
        reading, before = steps(bus), totals(bus)
        for change, turns in [*changes, *[("nothing", 0)] * 30]:
            try:
                next(reading)
            except StopIteration as last:
                rows: Rows = last.value
                assert all(row.terms.difference == 0 for row in rows)
                now = total(rows)
                assert all(b <= n for b, n in zip(before, now, strict=True))
                assert all(n <= t for n, t in zip(now, totals(bus), strict=True))
                reading, before = steps(bus), now
            if bus.get_stats()["subscriptions"] > 1:
                CHANGES[change](bus)
            for _ in range(turns):
                await asyncio.sleep(0)

    def totals(bus: EventBus) -> tuple[int, ...]:
        return total(bus.reading().actors)

    def total(rows: Any) -> tuple[int, ...]:
        return tuple(
            sum(getattr(row.terms, f) for row in rows) for f in ("routed", "acked", "dead")
        )

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())


# -- from other threads -------------------------------------------------------------------------


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_loop_goes_on_between_steps(anyio_backend: str) -> None:
    """A reading in another thread equals one at once, and others have their turn meanwhile."""
    async with EventBus("test") as bus:
        populate(bus, 50)
        await bus.publish("a:b", "fail").settled()
        turns = 0

        def turn() -> None:
            nonlocal turns
            turns += 1
            loop.call_soon(turn)

        loop = asyncio.get_running_loop()
        loop.call_soon(turn)
        one, other = bus.reading(), await anyio.to_thread.run_sync(bus.reading)

    assert turns >= 50 // readings.STEP
    assert [told(row.ledger) for row in one.actors] == [told(row.ledger) for row in other.actors]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_an_error_in_reading_reaches_the_reader(
    anyio_backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader in another thread is told, instead of waiting for ever."""
    async with EventBus("test") as bus:
        monkeypatch.setattr(bus._engine.routes, "published", lambda: 1 / 0)
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        with pytest.raises(ZeroDivisionError):
            await anyio.to_thread.run_sync(bus.reading)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
async def test_a_forked_child_reads_what_there_was(bus: EventBus) -> None:
    """Its loop only seems to run: a reading there does not wait for it."""
    populate(bus, 1)
    await bus.publish("a:b").settled()
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        os._exit(bus.reading().actors[0].ledger.acked)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 1


def test_readings_are_rows_of_either_kind() -> None:
    """An exporter takes readings kept as rows and those kept as objects."""
    rows = Rows()
    rows.packed.append(packed(Ledger()))
    assert isinstance(rows[0], ActorReading)
    assert [row.label for row in rows] == ["label"]
