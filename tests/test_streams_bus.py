"""`bus.events` and `bus.wait_for`: events for a task instead of an actor."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal

from actorbus import (
    BusClosedError,
    BusNotRunningError,
    ConfigurationError,
    Event,
    EventBus,
    Outcome,
)
from actorbus.ledger import Terms
from actorbus.tap import EventStream

Maker = Callable[..., EventBus]


async def take(events: EventStream, count: int) -> list[Any]:
    """Return the payloads of the next events."""
    return [(await anext(events)).data for _ in range(count)]


# -- events ---------------------------------------------------------------------------------------


async def test_a_stream_yields_matching_events_in_order(bus: EventBus) -> None:
    """Events published inside the block come in publish order, those before and others do not."""
    bus.publish("task:a", "before")
    async with bus.events("task:*") as events:
        for number in range(3):
            bus.publish("task:a", number)
            bus.publish("other", number)
        got = []
        async for event in events:
            assert isinstance(event, Event)
            got.append(event.data)
            if len(got) == 3:
                break
    assert got == [0, 1, 2]


async def test_iteration_waits_for_the_next_event(bus: EventBus) -> None:
    """An empty stream waits, without a timer of its own."""
    async with bus.events(["a", "b"]) as events:
        reading = asyncio.create_task(take(events, 1))
        await asyncio.sleep(100)
        assert not reading.done()
        bus.publish("b", 1)
        assert await reading == [1]


async def test_an_event_matching_several_patterns_comes_once(bus: EventBus) -> None:
    """Several patterns are one subscription."""
    async with bus.events(["t", "*", "**"]) as events:
        bus.publish("t", 1)
        bus.publish("t", 2)
        assert await take(events, 2) == [1, 2]


async def test_leaving_the_block_ends_the_subscription(bus: EventBus) -> None:
    """Afterwards nothing is routed to it, and its counts stay in the books."""
    async with bus.events("t") as events:
        assert bus.publish("t", 1).deliveries == 1
    assert bus.publish("t", 2).deliveries == 0
    assert await take(events, 1) == [1]
    with pytest.raises(StopAsyncIteration):
        await anext(events)
    assert bus.audit().subscriptions == {"_ended": Terms(routed=1, acked=1)}


async def test_an_error_in_the_block_ends_the_subscription(bus: EventBus) -> None:
    """However the block is left."""
    with pytest.raises(LookupError):
        async with bus.events("t"):
            raise LookupError
    assert bus.publish("t").deliveries == 0


async def test_a_delivery_is_acked_on_entering_the_buffer(bus: EventBus) -> None:
    """Nobody needs to read for a publisher's `settled` to return."""
    async with bus.events("t"):
        receipt = bus.publish("t")
        result = await receipt.settled(timeout=0.1)
        assert list(result.outcomes.values()) == [Outcome.ACKED]
        assert bus.audit().totals == Terms(routed=1, acked=1)


async def test_drop_old_is_the_default_and_counted(bus: EventBus) -> None:
    """A full buffer drops its oldest: conflated, never a dead letter."""
    async with bus.events("t", mailbox=3) as events:
        for number in range(10):
            bus.publish("t", number)
        assert events.dropped == 7
        assert await take(events, 3) == [7, 8, 9]
        audit = bus.audit()
        assert audit.balanced
        assert (audit.totals.acked, audit.totals.conflated) == (3, 7)
    assert not len(bus.dead_letters)


async def test_a_stream_holds_a_thousand_by_default(bus: EventBus) -> None:
    """`mailbox=1000` unless told otherwise."""
    async with bus.events("t") as events:
        for number in range(1001):
            bus.publish("t", number)
        assert events.dropped == 1
        assert await take(events, 1) == [1]


async def test_a_stream_opened_again_is_counted_once(bus: EventBus) -> None:
    """What it counted before is in the sum of the ended ones, and not in its own books too."""
    stream = bus.events("t", mailbox=1)
    for _ in range(2):
        async with stream:
            bus.publish("t", 1)
            bus.publish("t", 2)
            assert stream.dropped == 1
            assert await take(stream, 1) == [2]
    assert bus.audit().totals == Terms(routed=4, acked=2, conflated=2)


async def test_drop_new_drops_the_new_one(bus: EventBus) -> None:
    """The new delivery itself is conflated, and its receipt says so."""
    async with bus.events("t", mailbox=2, overflow="drop_new") as events:
        receipts = [bus.publish("t", number) for number in range(3)]
        assert events.dropped == 1
        outcomes = [list((await r.settled()).outcomes.values()) for r in receipts]
        assert outcomes == [[Outcome.ACKED], [Outcome.ACKED], [Outcome.CONFLATED]]
        assert await take(events, 2) == [0, 1]


async def test_latest_replaces_in_place(bus: EventBus) -> None:
    """By publish key, else by topic; full of others, the oldest goes."""
    async with bus.events("t:*", mailbox=2, overflow="latest") as events:
        bus.publish("t:a", 1)
        bus.publish("t:b", 2)
        bus.publish("t:a", 3)
        assert events.dropped == 1
        bus.publish("t:c", 4, key="k")
        assert events.dropped == 2
        assert await take(events, 2) == [2, 4]


async def test_replay_begins_with_the_history(bus: EventBus) -> None:
    """The last n matching events, then live ones: no gap and no duplicate."""
    for number in range(5):
        bus.publish("t", number)
        bus.publish("other", number)
    async with bus.events("t", replay=3) as events:
        bus.publish("t", 5)
        assert await take(events, 4) == [2, 3, 4, 5]


async def test_a_slow_reader_delays_nobody(bus: EventBus) -> None:
    """Streams never block a publisher, awaited or not."""
    async with bus.events("t", mailbox=1):
        for number in range(100):
            await bus.publish("t", number)
        assert asyncio.get_running_loop().time() == 0.0


async def test_closing_the_bus_ends_the_iteration(make_bus: Maker) -> None:
    """What stands in the buffer still comes, then the stream ends."""
    bus = make_bus()
    await bus.start()
    got: list[Any] = []

    async def reading() -> None:
        async with bus.events("t") as events:
            async for event in events:
                got.append(event.data)

    task = asyncio.create_task(reading())
    await asyncio.sleep(0)
    bus.publish("t", 1)
    await bus.close()
    await asyncio.wait_for(task, 1)
    assert got == [1]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"overflow": "block"}, "never blocks"),
        ({"overflow": "fail"}, "never blocks"),
        ({"mailbox": 0}, "mailbox"),
        ({"replay": -1}, "replay"),
        ({"replay": 5, "mailbox": 4}, "replay"),
        ({"since": 5.0}, "since.*replay"),
        ({"since": "now", "replay": 1}, "since"),
        ({"after": 5}, "after.*replay"),
        ({"after": 5, "replay": 1}, "after.*journal"),
    ],
)
async def test_options_out_of_range_are_refused_at_the_call(
    bus: EventBus, options: dict[str, Any], word: str
) -> None:
    """A stream never blocks, and its replay fits into it."""
    with pytest.raises(ConfigurationError, match=word):
        bus.events("t", **options)


async def test_iterating_without_the_block_says_what_to_do(bus: EventBus) -> None:
    """A stream that was not entered would miss events: it refuses to wait for them."""
    with pytest.raises(RuntimeError, match="async with"):
        await anext(bus.events("t"))


async def test_opening_a_stream_starts_the_bus(make_bus: Maker) -> None:
    """In a running loop, like a publish; a closed bus refuses."""
    bus = make_bus()
    async with bus.events("t") as events:
        bus.publish("t", 1)
        assert await take(events, 1) == [1]
    await bus.close()
    with pytest.raises(BusClosedError):
        async with bus.events("t"):
            pass
    with pytest.raises(BusClosedError):
        await bus.wait_for("t")


def test_streams_and_waits_belong_to_the_buss_own_loop() -> None:
    """On another loop than the one the bus runs on both are refused."""
    bus = EventBus("test")

    async def elsewhere() -> None:
        with pytest.raises(BusNotRunningError):
            async with bus.events("t"):
                pass
        with pytest.raises(BusNotRunningError):
            await bus.wait_for("t", timeout=1)

    with start_blocking_portal() as portal, portal.wrap_async_context_manager(bus):
        asyncio.run(elsewhere())


# -- wait_for -------------------------------------------------------------------------------------


async def test_wait_for_returns_the_next_matching_event(bus: EventBus) -> None:
    """The event itself, the first that is published after the call and fits."""
    bus.publish("task:done", 0)
    waiting = asyncio.create_task(
        bus.wait_for("task:*", where=lambda event: event.data > 1, timeout=2.0)
    )
    await asyncio.sleep(0)
    for number in range(1, 4):
        bus.publish("task:done", number)
    event = await waiting
    assert isinstance(event, Event)
    assert event.data == 2


async def test_wait_for_times_out(bus: EventBus) -> None:
    """`TimeoutError` after `timeout`, and its subscription ends."""
    with pytest.raises(TimeoutError):
        await bus.wait_for("t", timeout=2.0)
    assert asyncio.get_running_loop().time() == 2.0
    assert bus.publish("t").deliveries == 0


async def test_wait_for_waits_for_ever_by_default(bus: EventBus) -> None:
    """Without a timeout nothing but an event, the bus's end or a cancellation ends it."""
    waiting = asyncio.create_task(bus.wait_for("t"))
    await asyncio.sleep(1e6)
    bus.publish("t", 1)
    assert (await waiting).data == 1
    waiting = asyncio.create_task(bus.wait_for("t"))
    await asyncio.sleep(1)
    waiting.cancel()
    await asyncio.wait({waiting})
    assert bus.publish("t").deliveries == 0


async def test_an_error_of_where_is_the_waiters(bus: EventBus) -> None:
    """The predicate's error is raised where it was given, not where the event was published."""

    def where(event: Event) -> bool:
        raise LookupError

    waiting = asyncio.create_task(bus.wait_for("t", where=where))
    await asyncio.sleep(0)
    receipt = bus.publish("t")
    assert (await receipt.settled()).ok
    with pytest.raises(LookupError):
        await waiting


async def test_closing_the_bus_ends_a_wait(make_bus: Maker) -> None:
    """A wait that nothing can end any more raises `BusClosedError`."""
    bus = make_bus()
    await bus.start()
    waiting = asyncio.create_task(bus.wait_for("t"))
    await asyncio.sleep(0)
    await bus.close()
    with pytest.raises(BusClosedError):
        await waiting


async def test_several_waits_and_several_patterns(bus: EventBus) -> None:
    """Each waits for itself; one wait may name several patterns."""
    waits = [asyncio.create_task(bus.wait_for(["a", "b:*"])) for _ in range(3)]
    await asyncio.sleep(0)
    bus.publish("b:x", 1)
    bus.publish("a", 2)
    assert [event.data for event in await asyncio.gather(*waits)] == [1, 1, 1]
