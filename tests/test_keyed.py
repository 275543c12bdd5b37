"""Concurrency and keys: N at once, one key never twice at once and in order, none held up."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actorbus import DeadReason, Event, EventBus, RetryPolicy
from tests.conftest import heed_threads
from tests.handlers import Gate
from tests.virtual import run


async def test_concurrency_handles_up_to_n_at_once(bus: EventBus) -> None:
    """With concurrency N exactly N of many deliveries are in hand, no more."""
    gate = Gate()
    bus.subscribe("a", gate, name="g", concurrency=3)
    for number in range(10):
        bus.publish("a", number)
    await gate.entered(3)
    await asyncio.sleep(1)
    assert (gate.inside, gate.got) == (3, [0, 1, 2])
    terms = bus.audit().subscriptions["g"]
    assert (terms.running, terms.queued) == (3, 7)
    gate.open()
    await bus.settle()
    assert gate.peak == 3
    assert gate.got == list(range(10))


async def test_without_concurrency_one_at_a_time(bus: EventBus) -> None:
    """By default the next delivery starts when the one before has ended."""
    gate = Gate()
    bus.subscribe("a", gate)
    for number in range(5):
        bus.publish("a", number)
    await gate.entered()
    await asyncio.sleep(1)
    assert gate.got == [0]
    gate.open()
    await bus.settle()
    assert (gate.got, gate.peak) == ([0, 1, 2, 3, 4], 1)


Step = tuple[int, float, int]


@given(
    steps=st.lists(
        st.tuples(
            st.one_of(st.none(), st.integers(0, 3)),  # key
            st.sampled_from([0.0, 0.0, 1.0, 2.5]),  # seconds the handler takes
            st.integers(0, 2),  # failures before it succeeds
        ),
        max_size=25,
    ),
    concurrency=st.integers(1, 4),
    mailbox=st.integers(1, 25),
    by_callable=st.booleans(),
    plain=st.booleans(),
)
def test_one_key_is_never_handled_twice_at_once_and_stays_in_order(
    steps: list[tuple[int | None, float, int]],
    concurrency: int,
    mailbox: int,
    by_callable: bool,
    plain: bool,
) -> None:
    """Through retries, lines and threads: per key one at a time, in order, each handled once."""
    busy: set[int] = set()
    handled: dict[Any, list[int]] = defaultdict(list)
    tries: dict[int, int] = defaultdict(int)
    inside = peak = 0

    def enter(event: Event) -> None:
        nonlocal inside, peak
        inside += 1
        peak = max(peak, inside)
        if event.key is not None:
            assert event.key not in busy
            busy.add(event.key)

    def leave(event: Event) -> None:
        nonlocal inside
        inside -= 1
        busy.discard(event.key)
        number, _, failures = event.data
        tries[number] += 1
        if tries[number] <= failures:
            raise ValueError(number)
        handled[event.key].append(number)

    async def handler(event: Event) -> None:
        enter(event)
        await asyncio.sleep(event.data[1])
        leave(event)

    def in_thread(event: Event) -> None:
        enter(event)
        leave(event)

    async def main() -> None:
        bus = EventBus()
        heed_threads(bus)
        async with bus:
            bus.subscribe(
                "a", in_thread if plain else handler, concurrency=concurrency, mailbox=mailbox,
                put_timeout=None, retry=RetryPolicy(base=1.0, max_attempts=3),
                key=(lambda event: event.key) if by_callable else "key",
            )  # fmt: skip
            for number, (key, seconds, failures) in enumerate(steps):
                await bus.publish("a", (number, seconds, failures), key=key)
            await bus.settle()
            assert bus.audit().balanced
            assert len(bus.dead_letters) == 0

    run(main)
    for key in {key for key, _, _ in steps} - {None}:
        assert handled[key] == [n for n, step in enumerate(steps) if step[0] == key]
    assert sorted(handled[None]) == [n for n, step in enumerate(steps) if step[0] is None]
    assert peak <= concurrency


async def test_a_busy_key_does_not_hold_up_others(bus: EventBus) -> None:
    """While one key is stuck, with much of its mail before them, other keys are handled."""
    gate = asyncio.Event()
    done: list[Any] = []

    async def handler(event: Event) -> None:
        if event.key == "stuck":
            await gate.wait()
        done.append(event.data)

    bus.subscribe("a", handler, name="k", key="key", concurrency=2)
    for number in range(5):
        bus.publish("a", ("stuck", number), key="stuck")
    for number in range(5):
        bus.publish("a", ("free", number), key=f"free {number}")
    await asyncio.sleep(1)
    assert done == [("free", number) for number in range(5)]
    terms = bus.audit().subscriptions["k"]
    assert (terms.running, terms.queued) == (1, 4)
    gate.set()
    await bus.settle()
    assert done[5:] == [("stuck", number) for number in range(5)]


async def test_a_retrying_key_does_not_hold_up_others(bus: EventBus) -> None:
    """A delivery that waits for its next attempt keeps its key, not its worker."""
    done: list[Any] = []

    async def handler(event: Event) -> None:
        done.append(event.data)
        if event.data == "bad":
            raise ValueError

    policy = RetryPolicy(max_attempts=2, base=10.0, jitter="none")
    bus.subscribe("a", handler, name="k", key="key", retry=policy)
    bus.publish("a", "bad", key=1)
    bus.publish("a", "behind", key=1)
    bus.publish("a", "other", key=2)
    await asyncio.sleep(5)
    assert done == ["bad", "other"]
    terms = bus.audit().subscriptions["k"]
    assert (terms.running, terms.retrying, terms.queued) == (0, 1, 1)
    await bus.settle()
    assert done == ["bad", "other", "bad", "behind"]


async def test_a_callable_key_gets_the_event(bus: EventBus) -> None:
    """`key=` as a callable is called with the event; equal results are one key."""
    gate = Gate()
    bus.subscribe("a", gate, key=lambda event: event.data % 2, concurrency=4)
    for number in range(6):
        bus.publish("a", number)
    await gate.entered(2)
    await asyncio.sleep(1)
    assert gate.got == [0, 1]
    gate.open()
    await bus.settle()
    assert [n for n in gate.got if n % 2] == [1, 3, 5]
    assert [n for n in gate.got if n % 2 == 0] == [0, 2, 4]


async def test_events_without_a_key_are_not_ordered_by_one(bus: EventBus) -> None:
    """A publish key of None is no key: such deliveries run beside each other."""
    gate = Gate()
    bus.subscribe("a", gate, key="key", concurrency=3)
    for number in range(3):
        bus.publish("a", number)
    await gate.entered(3)
    gate.open()


@pytest.mark.parametrize("bad", ["raises", "unhashable"])
async def test_a_key_that_cannot_be_found_is_a_dead_letter(bus: EventBus, bad: str) -> None:
    """If the key function raises or gives no hash, that delivery is dead and others go on."""
    gate = Gate()
    gate.open()

    def key(event: Event) -> Any:
        if event.data == "good":
            return 1
        return [] if bad == "unhashable" else event.data.nothing

    bus.subscribe("a", gate, key=key)
    for data in ("good", "bad", "good"):
        bus.publish("a", data)
    await bus.settle()
    assert gate.got == ["good", "good"]
    assert [letter.reason for letter in bus.dead_letters] == [DeadReason.RETRIES_EXHAUSTED]


async def test_parked_deliveries_count_in_the_capacity(bus: EventBus) -> None:
    """What waits behind a busy key fills the mailbox like anything queued."""
    gate = Gate()
    bus.subscribe("a", gate, name="k", key="key", concurrency=2, mailbox=2, put_timeout=None)
    bus.publish("a", 0, key=1)
    await gate.entered()
    for number in (1, 2):
        await bus.publish("a", number, key=1)
        await asyncio.sleep(1)
    assert bus.publish("a", 3, key=2).waiting == 1
    gate.open()
    await bus.settle()
    assert sorted(gate.got) == [0, 1, 2, 3]


async def test_a_key_cut_off_by_a_close_is_free_after_the_next_start(make_bus: Any) -> None:
    """A delivery cut off by the drain's deadline does not keep its key busy for ever."""
    bus = make_bus()
    got: list[int] = []

    async def handler(data: int) -> None:
        got.append(data)
        if data == 0:
            await asyncio.Event().wait()

    bus.subscribe("a", handler, key="key")
    bus.publish("a", 0, key=1)
    bus.publish("a", 1, key=1)
    await asyncio.sleep(1)
    await bus.close(timeout=1)
    assert {letter.reason for letter in bus.dead_letters} == {DeadReason.DRAIN_TIMEOUT}
    await bus.start()
    assert (await bus.publish("a", 2, key=1).settled(timeout=5)).ok
    await bus.close()
    assert got == [0, 2]


async def test_a_delivery_in_hand_is_finished_though_its_actor_stops(bus: EventBus) -> None:
    """It is tried again, by the worker that has it: after a stop there is no other to do it."""
    attempts: list[float] = []

    async def handler(data: object) -> None:
        attempts.append(asyncio.get_running_loop().time())
        await asyncio.sleep(1.0)
        if len(attempts) == 1:
            raise ValueError

    bus.subscribe("a:b", handler, name="s", key="key", retry=RetryPolicy(3, 0.5, jitter="none"))
    bus.publish("a:b", key="k")
    await asyncio.sleep(0.5)
    ref = bus.actor("s")
    assert ref is not None
    await ref.stop()

    assert len(attempts) == 2
    assert bus.audit().totals.acked == 1
