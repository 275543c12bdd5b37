"""Bursts: events of one topic are put into the mailboxes together, and nobody can tell."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from actorbus import ActorState, Event, EventBus
from actorbus.backlog import LEAST, MOST
from tests.handlers import Gate, Seen

BURST = LEAST + 4


async def burst(bus: EventBus, count: int = BURST, topic: str = "t") -> list[Any]:
    """Publish until the events stand in no mailbox yet; return the receipts of those."""
    receipts = []
    while bus._engine.backlog.route is None:
        bus.publish(topic, "first")
    for number in range(count):
        receipts.append(bus.publish(topic, number))
    return receipts


def held(bus: EventBus) -> int:
    """Return how many events stand in no mailbox yet."""
    return len(bus._engine.backlog._receipts)


async def test_a_burst_is_held_back_and_arrives_in_order(bus: EventBus) -> None:
    """Every subscriber gets every event, in the order of publishing."""
    seen = [Seen() for _ in range(5)]
    for each in seen:
        bus.subscribe("t", each)
    await burst(bus)
    assert held(bus) == BURST
    await bus.settle()
    assert held(bus) == 0
    for each in seen:
        assert [data for data in each.got if data != "first"] == list(range(BURST))


LOOKS: dict[str, Callable[[EventBus, Any, list[Any]], Any]] = {
    "audit": lambda bus, sub, receipts: bus.audit().totals.queued >= BURST,
    "stats": lambda bus, sub, receipts: bus.get_stats()["events_by_type"]["t"] >= BURST,
    "reading": lambda bus, sub, receipts: bus.reading().published["t"] >= BURST,
    "explain": lambda bus, sub, receipts: bus.explain("t").matches[0].room <= 1000 - BURST,
    "terms": lambda bus, sub, receipts: sub.terms().queued >= BURST,
    "holds": lambda bus, sub, receipts: sub.holds(receipts[-1]),
    "withdraw": lambda bus, sub, receipts: sub.withdraw(receipts[-1], "stopped"),
}


@pytest.mark.parametrize("look", LOOKS)
async def test_who_looks_finds_the_events_where_they_belong(bus: EventBus, look: str) -> None:
    """Whatever is asked, the answer counts the events of the burst."""
    gate = Gate()
    sub = bus.subscribe("t", gate)
    receipts = await burst(bus)
    assert held(bus) == BURST
    assert LOOKS[look](bus, sub, receipts)
    assert held(bus) == 0
    assert bus.audit().balanced
    gate.open()


async def test_other_events_keep_their_place_behind_a_burst(bus: EventBus) -> None:
    """Another topic, a told event, one with a group or a stream: none overtakes."""
    seen, stream = Seen(), Seen()
    sub = bus.subscribe(["t", "u", "v"], seen, name="s")
    bus.subscribe("u", Seen(), group="g")
    ref = bus.actor("s")
    assert ref is not None
    later: list[Callable[[], Any]] = [
        lambda: bus.publish("v", "other"),
        lambda: bus.publish("u", "grouped"),
        lambda: ref.tell("told"),
        lambda: bus.publish("v", "other", key=1),
    ]
    for publish in later:
        await burst(bus)
        publish()
        await bus.settle()
    got = [data for data in seen.got if data != "first"]
    numbers = list(range(BURST))
    assert got == [*numbers, "other", *numbers, "grouped", *numbers, "told", *numbers, "other"]
    assert sub.state is ActorState.RUNNING
    assert stream.got == []


async def test_a_worker_that_falls_asleep_is_woken_by_what_was_held_back(bus: EventBus) -> None:
    """A handler publishes a burst to itself and returns: nobody else would ever look."""
    got: list[Any] = []

    async def handler(data: Any) -> None:
        got.append(data)
        if data == "start":
            for number in range(BURST):
                bus.publish("u", number)

    bus.subscribe("t", handler)
    bus.subscribe("u", handler)
    await bus.publish("u", "warm").settled()
    bus.publish("t", "start")
    for _ in range(20):
        await asyncio.sleep(0)
    assert got == ["warm", "start", *range(BURST)]


async def test_a_key_function_that_publishes_is_not_left_with_it(bus: EventBus) -> None:
    """What a worker's own look at its mailbox has published is handled though it falls asleep."""
    got: list[Any] = []

    def key(event: Event) -> Any:
        if event.data == "start":
            for number in range(BURST):
                bus.publish("t", number)
        return event.data

    async def handler(data: Any) -> None:
        got.append(data)

    bus.subscribe("t", handler, key=key)
    for data in ("warm", "start"):
        bus.publish("t", data)
        for _ in range(20):
            await asyncio.sleep(0)
    assert got == ["warm", *range(BURST), "start"] or got == ["warm", "start", *range(BURST)]


async def test_a_parked_delivery_takes_its_place_from_a_burst(bus: EventBus) -> None:
    """A key function publishes a burst while the delivery it looks at is parked."""
    capacity = 2 * LEAST
    gate = Gate()

    def key(event: Event) -> Any:
        if event.data == "start":
            for number in range(capacity):
                bus.publish("t", number)
        return "same"

    sub = bus.subscribe("t", gate, key=key, concurrency=2, mailbox=capacity, put_timeout=None)
    for data in ("first", "start", "more"):
        bus.publish("t", data)
    for _ in range(20):
        await asyncio.sleep(0)
        assert sub.terms().queued <= capacity
    gate.open()
    await bus.settle()
    assert len(gate.got) == 3 + capacity


async def test_a_worker_that_is_free_ends_a_burst_and_is_woken(bus: EventBus) -> None:
    """Whoever sets a worker free need not look into the mailbox first."""
    gate = Gate()
    inbox = bus.subscribe("t", gate).inbox
    await burst(bus)
    wake, woken = inbox.rouse, list[int]()
    inbox.rouse = lambda: woken.append(len(inbox.items))
    inbox.asleep = 1
    assert woken
    assert woken[0] >= BURST
    inbox.asleep, inbox.rouse = 0, wake
    gate.open()


@pytest.mark.parametrize("capacity", [LEAST, LEAST + 1, 2 * LEAST, 100])
async def test_a_burst_fills_no_mailbox_beyond_its_capacity(bus: EventBus, capacity: int) -> None:
    """The smallest mailbox decides; what does not fit stands in its line."""
    gates = [Gate(), Gate()]
    for gate, size in zip(gates, [capacity, 1000], strict=True):
        bus.subscribe("t", gate, mailbox=size, put_timeout=None)
    await bus.publish("t", 0)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    receipts = [bus.publish("t", number) for number in range(1, 2 * capacity)]
    terms = [sub.terms() for sub in bus._registry.live.values()]
    assert [each.queued for each in terms] == [capacity, 2 * capacity - 1]
    assert [each.waiting for each in terms] == [capacity - 1, 0]
    assert [receipt.waiting for receipt in receipts] == [0] * capacity + [1] * (capacity - 1)
    for gate in gates:
        gate.open()
    await bus.settle()
    assert [gate.got for gate in gates] == [list(range(2 * capacity))] * 2


async def test_whoever_awaits_every_event_lets_the_loop_go_round(bus: EventBus) -> None:
    """A publisher that awaits holds the loop for no more than a burst, though there is room."""
    bus.subscribe("t", Seen(), mailbox=10 * MOST)
    turns = 0

    def turn() -> None:
        nonlocal turns
        turns += 1
        loop.call_soon(turn)

    loop = asyncio.get_running_loop()
    loop.call_soon(turn)
    for number in range(5 * MOST):
        await bus.publish("t", number)
    assert turns >= 4
    assert bus.audit().totals.waiting == 0


async def test_the_pause_comes_before_the_mailbox_is_full(bus: EventBus) -> None:
    """With a fast subscriber a publisher that awaits never stands in a line."""
    bus.subscribe("t", Seen(), mailbox=100)
    for number in range(1000):
        receipt = bus.publish("t", number)
        assert receipt.waiting == 0
        await receipt


ENDS: dict[str, Callable[[EventBus, Any], Awaitable[Any] | Any]] = {
    "unsubscribe": lambda bus, sub: sub.unsubscribe(),
    "drain": lambda bus, sub: bus.drain(),
    "close": lambda bus, sub: bus.close(),
    "stop": lambda bus, sub: bus.actor("s").stop(),  # type: ignore[union-attr]
}


@pytest.mark.parametrize("end", ENDS)
async def test_a_burst_outlives_nothing(bus: EventBus, end: str) -> None:
    """What was published before an end is handled, or dead with a reason."""
    got: list[Event] = []

    async def handler(event: Event) -> None:
        got.append(event)

    sub = bus.subscribe("t", handler, name="s")
    await burst(bus)
    published = bus._engine.routes.published()["t"]
    await burst(bus)
    published += BURST
    ended = ENDS[end](bus, sub)
    if asyncio.iscoroutine(ended):
        await ended
    await bus.settle()
    totals = bus.audit().totals
    assert totals.routed >= published
    assert totals.acked + totals.dead == totals.routed
    assert totals.acked == len(got)
    if end != "stop":
        assert totals.dead == 0
