"""The ledger: every delivery is in exactly one column, at every instant."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actorbus import Actor, DeadReason, Event, EventBus, RetryPolicy
from actorbus.ledger import BUCKETS, Audit, Histogram, Ledger, Terms
from tests.conftest import heed_threads

Maker = Callable[..., EventBus]


def columns(bus: EventBus, name: str = "s") -> dict[str, int]:
    """Return the columns of a subscription that are not 0, `routed` left out."""
    terms = bus.audit().subscriptions[name]
    named = {field: getattr(terms, field) for field in Terms.__slots__ if field != "routed"}
    return {field: count for field, count in named.items() if count}


# -- every column is counted ----------------------------------------------------------------------


async def test_one_delivery_in_every_column(make_bus: Maker) -> None:
    """The law's terms: acked, dead, conflated, waiting, queued, running and retrying."""
    bus = make_bus()
    await bus.start()
    blocked = asyncio.Event()

    async def handler(event: Event) -> None:
        if event.data == "fail":
            raise OSError
        if event.data == "wait":
            await blocked.wait()

    slow = RetryPolicy(base=100.0, jitter="none", max_elapsed=None)
    bus.subscribe("block", handler, name="block", mailbox=1, put_timeout=None)
    bus.subscribe("retry", handler, name="retry", retry=slow)
    bus.subscribe("dead", handler, name="dead", retry=RetryPolicy.none())
    bus.subscribe("latest", handler, name="latest", overflow="latest")
    for topic, data in [
        ("block", "ok"), ("block", "wait"), ("block", "wait"), ("block", "wait"),
        ("retry", "fail"), ("dead", "fail"), ("latest", "wait"), ("latest", 1), ("latest", 2),
    ]:  # fmt: skip
        bus.publish(topic, data)
        await asyncio.sleep(0.1)
    assert columns(bus, "block") == {"acked": 1, "running": 1, "queued": 1, "waiting": 1}
    assert columns(bus, "retry") == {"retrying": 1}
    assert columns(bus, "dead") == {"dead": 1}
    assert columns(bus, "latest") == {"running": 1, "queued": 1, "conflated": 1}
    audit = bus.audit()
    assert audit.balanced
    assert audit.totals == Terms(9, 1, 1, 1, 1, 2, 2, 1)
    assert audit.totals.pending == 6
    blocked.set()
    await bus.close()
    assert bus.audit().totals.pending == 0


async def test_the_books_balance_at_every_turn_and_inside_every_handler(bus: EventBus) -> None:
    """Asked at any instant, also by the handler that is just running, the ledger balances."""
    looks = 0

    def look() -> None:
        nonlocal looks
        looks += 1
        audit = bus.audit()
        assert audit.balanced, str(audit)

    async def handler(event: Event) -> None:
        look()
        if event.data % 3 == 0:
            await asyncio.sleep(0.1)
        look()
        if event.data % 5 == 0:
            raise OSError

    def plain(event: Event) -> None:
        look()

    policies: list[dict[str, Any]] = [
        {}, {"concurrency": 3}, {"key": lambda event: event.data % 2, "concurrency": 2},
        {"overflow": "drop_old"}, {"overflow": "drop_new"}, {"overflow": "latest"},
        {"overflow": "fail"},
    ]  # fmt: skip
    for policy in policies:
        bus.subscribe("t", handler, mailbox=3, retry=RetryPolicy(max_attempts=2), **policy)
    bus.subscribe("t", plain, inline=True)

    loop: Any = asyncio.get_running_loop()
    plain_turn = loop._run_once

    def turn() -> None:
        plain_turn()
        look()

    loop._run_once = turn
    try:
        for number in range(40):
            bus.publish("t", number)
            look()
        await bus.settle()
    finally:
        del loop._run_once
    assert looks > 150


async def test_the_books_balance_inside_key_functions_conversions_and_logs(
    bus: EventBus, caplog: pytest.LogCaptureFixture
) -> None:
    """User code called between two steps of a delivery sees balanced books too."""
    seen: list[bool] = []

    def key(event: Event) -> object:
        seen.append(bus.audit().balanced)
        if event.data == 3:
            raise LookupError
        return event.data % 2

    async def handler(event: Event) -> None:
        if event.data == 1:
            raise OSError

    bus.subscribe("t", handler, mailbox=2, key=key, overflow="latest", retry=RetryPolicy.none())
    bus.subscribe("t", handler, mailbox=9, key=key, concurrency=2, retry=RetryPolicy.none())

    class Looking(logging.Handler):
        def emit(self, record: object) -> None:
            seen.append(bus.audit().balanced)

    log = logging.getLogger("actorbus")
    looking = Looking()
    log.addHandler(looking)
    try:
        for number in range(6):
            bus.publish("t", number)
        await bus.settle()
    finally:
        log.removeHandler(looking)
    assert len(seen) > 12
    assert all(seen)


async def test_the_books_balance_while_threads_work(make_bus: Maker) -> None:
    """What a thread has started and finished is counted at the audit, not later."""
    bus = make_bus()
    heed_threads(bus)
    await bus.start()
    step = threading.Semaphore(0)
    started: list[int] = []

    def handler(data: int) -> None:
        started.append(data)
        step.acquire(timeout=10)

    bus.subscribe("t", handler, name="s")
    for number in range(5):
        bus.publish("t", number)
    for number in range(5):
        while len(started) <= number:
            await asyncio.sleep(0)
        audit = bus.audit()
        assert audit.balanced, str(audit)
        assert audit.subscriptions["s"].acked == number
        assert audit.subscriptions["s"].running == 1
        step.release()
    await bus.close()
    assert columns(bus) == {"acked": 5}


async def test_the_pending_terms_are_counted_not_remainders(
    bus: EventBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A delivery lost by a fault shows as a difference; a remainder would hide it."""
    blocked = asyncio.Event()

    async def handler(event: Event) -> None:
        await blocked.wait()

    sub = bus.subscribe("t", handler, name="s")
    for number in range(3):
        bus.publish("t", number)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert bus.audit().balanced  # whoever looks has what was taken together put back
    lost = sub.inbox.items.pop()
    audit = bus.audit()
    assert not audit.balanced
    assert audit.differences == {"s": 1}
    assert "OUT OF BALANCE" in str(audit)
    assert "(out by 1)" in str(audit)
    sub.inbox.items.append(lost)
    assert bus.audit().balanced
    blocked.set()


async def test_no_total_falls_when_subscriptions_and_streams_end(bus: EventBus) -> None:
    """Counts of the ended move to `_ended`; the totals stay."""

    async def handler(event: Event) -> None: ...

    sub = bus.subscribe("t", handler, name="s")
    async with bus.events("t"):
        bus.publish("t")
        await bus.settle()
        before = bus.audit().totals
    sub.unsubscribe()
    await sub.ended()
    after = bus.audit()
    assert after.totals == before
    assert after.subscriptions == {"_ended": Terms(routed=2, acked=2)}


async def test_told_and_replayed_deliveries_are_in_the_books(bus: EventBus) -> None:
    """A tell and a replay of a dead letter are deliveries like any other."""
    broken = True

    class Each(Actor):
        async def receive(self, event: Event) -> None:
            if broken:
                raise OSError

    ref = bus.spawn(Each, name="s", retry=RetryPolicy.none(), on_failure="resume")
    ref.tell(1)
    await bus.settle()
    assert columns(bus) == {"dead": 1}
    broken = False
    assert await bus.dead_letters.replay() == 1
    await bus.settle()
    assert columns(bus) == {"dead": 1, "acked": 1}
    assert bus.audit().subscriptions["s"].routed == 2


# -- get_stats ------------------------------------------------------------------------------------


async def test_the_stats_have_exactly_their_keys(bus: EventBus) -> None:
    """events_published, events_delivered, delivery_failures, events_by_type, subscriptions."""

    async def good(event: Event) -> None: ...

    async def bad(event: Event) -> None:
        raise OSError

    bus.subscribe("a", good)
    bus.subscribe("b", bad, retry=RetryPolicy.none())
    for topic in ("a", "a", "b", "nobody"):
        bus.publish(topic)
    await bus.settle()
    assert bus.get_stats() == {
        "events_published": 4,
        "events_delivered": 2,
        "delivery_failures": 1,
        "events_by_type": {"a": 2, "b": 1, "_other": 1},
        "subscriptions": 2,
    }


async def test_events_by_type_names_the_first_200_topics_with_a_subscriber(bus: EventBus) -> None:
    """Topics are names from outside: the 201st and those nobody wanted share `_other`."""

    async def handler(event: Event) -> None: ...

    bus.publish("early:0")
    bus.subscribe("t:*", handler)
    for number in range(250):
        bus.publish(f"t:{number}")
    bus.publish("t:3")
    await bus.settle()
    by_type = bus.get_stats()["events_by_type"]
    assert len(by_type) == 201
    assert by_type["_other"] == 51
    assert by_type["t:199"] == 1
    assert by_type["t:3"] == 2
    assert "t:200" not in by_type


async def test_the_buss_own_topics_are_in_no_statistics(bus: EventBus) -> None:
    """Topics that start with `$` are counted as no publish."""

    async def bad(event: Event) -> None:
        raise OSError

    async def handler(event: Event) -> None: ...

    bus.subscribe("$bus:dead_letter:*", handler)
    bus.subscribe("t", bad, retry=RetryPolicy.none())
    bus.publish("t")
    await bus.settle()
    assert bus.get_stats()["events_published"] == 1
    assert bus.get_stats()["events_by_type"] == {"t": 1}


# -- the parts ------------------------------------------------------------------------------------

counts = st.integers(0, 100)
all_terms = st.builds(Terms, *[counts] * 8)


@given(all_terms)
def test_difference_is_what_the_law_is_out_by(terms: Terms) -> None:
    """An audit balances exactly when every subscription's difference is 0."""
    out = terms.difference
    right = replace(terms, routed=terms.routed - out)
    assert right.difference == 0
    assert Audit("b", {"s": right}, right).balanced
    wrong = replace(right, acked=right.acked + 1)
    audit = Audit("b", {"s": wrong, "other": right}, wrong + right)
    assert not audit.balanced
    assert audit.differences == {"s": -1}


def test_errors_that_cancel_out_are_still_errors() -> None:
    """One delivery too many here and one too few there do not balance."""
    more, less = Terms(routed=1, acked=2), Terms(routed=1)
    audit = Audit("b", {"more": more, "less": less}, more + less)
    assert audit.totals.difference == 0
    assert not audit.balanced


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(1, 5))))
def test_a_histogram_counts_each_observation_in_its_bucket(seen: list[tuple[float, int]]) -> None:
    """A bucket holds what is at most its bound and more than the one below; merging adds."""
    one, other = Histogram(), Histogram()
    for index, (seconds, times) in enumerate(seen):
        (one if index % 2 else other).add(seconds, times)
    whole = other.copy()
    whole.merge(one)
    for number, bound in enumerate(BUCKETS):
        below = sum(times for seconds, times in seen if seconds <= bound)
        assert sum(whole.counts[: number + 1]) == below
    assert sum(whole.counts) == sum(times for _, times in seen)
    assert whole.total == pytest.approx(sum(seconds * times for seconds, times in seen))


TICK = 2.0**-20  # seconds: sums of these are exact
SECONDS = st.integers(0, 2**26).map(lambda ticks: ticks * TICK)


@given(st.lists(st.floats(0, 100)))
def test_a_histogram_counts_several_as_it_does_each(seen: list[float]) -> None:
    """`spread` is `add` of every one."""
    together, singly = Histogram(), Histogram()
    together.spread(seen.copy())
    for seconds in seen:
        singly.add(seconds)
    assert together.counts == singly.counts
    assert together.total == pytest.approx(singly.total)


class At:
    """Something published at a loop time."""

    def __init__(self, at: float) -> None:
        self.at = at


@given(
    st.lists(st.one_of(st.integers(0, 60), st.integers(0, 2**24)), min_size=1, max_size=64),
    st.one_of(st.integers(0, 120), st.integers(0, 2**24)),
    st.one_of(st.integers(0, 2), st.integers(0, 2**20)),
)
def test_accounting_together_is_accounting_one_by_one(
    gaps: list[int], delay: int, each: int
) -> None:
    """Waits counted in the same buckets, as if the starts were evenly spread; durations add up."""
    ats = list(accumulate(gap * TICK for gap in gaps))
    count, began, took = len(ats), ats[-1] + delay * TICK, len(ats) * each * TICK
    together, singly = Ledger(), Ledger()
    together.account([At(at) for at in ats], began, began + took)
    for number, at in enumerate(ats):
        singly.waited(began + number * each * TICK - at)
    assert together.wait is not None
    assert singly.wait is not None
    assert together.wait.counts == singly.wait.counts
    off = abs(together.wait.total - singly.wait.total)
    assert off <= count * ((ats[-1] - ats[0]) / 2 + took)
    filled = [number for number, times in enumerate(together.wait.counts) if times]
    if len(filled) > 1:  # booked one by one
        assert together.wait.total == pytest.approx(singly.wait.total)
    assert together.duration is not None
    assert sum(together.duration.counts) == count
    assert together.duration.total == took
    if took <= BUCKETS[0]:
        assert together.duration.counts[0] == count
    else:
        one = Histogram()
        one.add(took)
        one.add(0.0, count - 1)
        assert together.duration.counts == one.counts


@given(SECONDS, st.integers(1, 64), st.integers(0, 60))
def test_evenly_published_waits_are_summed_exactly(began: float, count: int, gap: int) -> None:
    """Where the publishes are evenly spread too, the sum is that of each."""
    ats = [began - (count - number) * gap * TICK for number in range(count)]
    ledger = Ledger()
    ledger.account([At(at) for at in ats], began, began)
    assert ledger.wait is not None
    assert ledger.wait.total == pytest.approx(sum(began - at for at in ats))


def test_merging_ledgers_adds_everything_and_copies_are_independent() -> None:
    """A sum of ledgers has the sum of each of their columns."""
    one, other = Ledger(), Ledger()
    for ledger in (one, other):
        ledger.routed, ledger.acked, ledger.conflated = 9, 4, 1
        ledger.bury(DeadReason.OVERFLOW)
        ledger.waited(0.5, 2)
        ledger.took(0.1)
        ledger.errors = ledger.retries = ledger.restarts = ledger.timeouts = ledger.cancelled = 2
    other.bury(DeadReason.POISON)
    whole = one.copy()
    whole.merge(other)
    assert (whole.routed, whole.acked, whole.conflated, whole.dead_total) == (18, 8, 2, 3)
    assert whole.dead == {DeadReason.OVERFLOW: 2, DeadReason.POISON: 1}
    assert (whole.errors, whole.retries, whole.restarts) == (4, 4, 4)
    assert (whole.timeouts, whole.cancelled) == (4, 4)
    assert whole.wait is not None
    assert whole.wait.total == 2.0
    assert one.routed == 9
    assert one.wait is not None
    assert one.wait.total == 1.0
