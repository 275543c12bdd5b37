"""Publishing: a plain call that routes, whoever is slow, wherever the loop is, whatever waits."""

from __future__ import annotations

import asyncio
import gc
import inspect
import warnings
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actorbus import (
    Actor,
    BusClosedError,
    BusNotRunningError,
    ConfigurationError,
    DeadReason,
    Event,
    EventBus,
    InvalidTopicError,
    MailboxFullError,
    Outcome,
    PayloadError,
    RetryPolicy,
    event_bus,
)
from tests.handlers import Gate, Seen
from tests.virtual import VirtualLoop, run

DEFAULTS = {
    "name": "default", "history": 100, "dead_letters": 1000, "max_hops": 64, "threads": 256,
    "histograms": True, "copy": None, "journal": None, "durability": "power", "transport": None,
}  # fmt: skip


def test_the_bus_has_the_options_and_defaults_of_the_contract() -> None:
    """EventBus takes a name and, by keyword alone, the options with their documented defaults."""
    parameters = inspect.signature(EventBus).parameters
    assert {name: each.default for name, each in parameters.items()} == DEFAULTS
    by_keyword = [name for name, each in parameters.items() if each.kind is each.KEYWORD_ONLY]
    assert by_keyword == [name for name in DEFAULTS if name != "name"]
    assert event_bus.name == EventBus().name == "default"


@pytest.mark.parametrize(
    "options",
    [
        {"history": -1}, {"dead_letters": -1}, {"max_hops": 0}, {"threads": 0}, {"histograms": 1},
        {"copy": "shallow"}, {"durability": "hope"}, {"history": 1.5}, {"threads": True},
        {"name": ""}, {"journal": 5}, {"transport": 5},
    ],
    ids=str,
)  # fmt: skip
def test_a_bad_option_of_the_bus_is_refused_by_name(options: dict[str, Any]) -> None:
    """A bus option out of range is a ConfigurationError that names the option."""
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        EventBus(**options)


def test_publish_has_the_signature_of_the_contract() -> None:
    """`publish` takes topic and data, and everything else by keyword with the default None."""
    parameters = inspect.signature(EventBus.publish).parameters
    assert list(parameters) == [
        "self", "topic", "data", "key", "headers", "id", "correlation_id", "cause",
    ]  # fmt: skip
    assert all(parameters[name].default is None for name in list(parameters)[2:])
    assert all(
        parameters[name].kind is inspect.Parameter.KEYWORD_ONLY for name in list(parameters)[3:]
    )
    assert not inspect.iscoroutinefunction(EventBus.publish)


async def test_an_option_there_is_not_is_refused_in_the_name_of_publish(bus: EventBus) -> None:
    """The error names `publish` and the option, whether or not the topic has subscribers."""
    for _ in range(2):
        with pytest.raises(TypeError, match=r"publish\(\) got an unexpected .* 'priority'"):
            bus.publish("t", 1, priority=1)  # type: ignore[call-arg]
        bus.subscribe("t", Seen())
        bus.publish("t", 0)


# -- the call itself routes ---------------------------------------------------------------------


async def test_the_call_routes_to_the_mailbox_with_room_and_the_line_of_the_full_one(
    bus: EventBus,
) -> None:
    """When `publish` returns the delivery is queued where there is room and waiting elsewhere."""
    narrow, wide = Gate(), Gate()
    bus.subscribe("a", narrow, name="narrow", mailbox=1)
    bus.subscribe("a", wide, name="wide", mailbox=10)
    bus.publish("a", 0)
    await narrow.entered()
    bus.publish("a", 1)
    receipt = bus.publish("a", 2)
    terms = bus.audit().subscriptions
    assert (terms["narrow"].running, terms["narrow"].queued, terms["narrow"].waiting) == (1, 1, 1)
    assert (terms["wide"].running, terms["wide"].queued, terms["wide"].waiting) == (1, 2, 0)
    assert (receipt.deliveries, receipt.waiting, receipt.refused) == (2, 1, 0)
    narrow.open()
    wide.open()


@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    awaited=st.lists(st.booleans(), min_size=1, max_size=12),
)
def test_every_subscriber_gets_every_event_in_publish_order(
    sizes: list[int], awaited: list[bool]
) -> None:
    """Awaited or not, what is published arrives at every subscriber in publish order."""

    async def main() -> None:
        seen = [Seen() for _ in sizes]
        async with EventBus() as bus:
            for each, size in zip(seen, sizes, strict=True):
                bus.subscribe("a", each, mailbox=max(size, len(awaited)), put_timeout=None)
            for number, wait in enumerate(awaited):
                receipt = bus.publish("a", number)
                if wait:
                    await receipt
        for each in seen:
            assert each.got == list(range(len(awaited)))

    run(main)


@given(st.integers(1, 4), st.lists(st.booleans(), min_size=1, max_size=12))
def test_the_line_keeps_publish_order_too(mailbox: int, awaited: list[bool]) -> None:
    """Through the mailbox or its line, awaited or not, no delivery overtakes an earlier one."""

    async def main() -> None:
        gate = Gate()
        async with EventBus() as bus:
            bus.subscribe("a", gate, name="g", mailbox=mailbox, put_timeout=None)
            receipts = [bus.publish("a", number) for number in range(len(awaited))]
            waits = [
                asyncio.ensure_future(_admitted(receipt))
                for receipt, wait in zip(receipts, awaited, strict=True)
                if wait
            ]
            gate.open()
            await asyncio.gather(*waits)
            await bus.settle()
            refused = [receipt.event.data for receipt in receipts if receipt.refused]
            assert gate.got == [n for n in range(len(awaited)) if n not in refused]
            assert bus.audit().balanced

    run(main)


async def _admitted(receipt: Any) -> Any:
    return await receipt


async def test_a_forgotten_await_warns_of_nothing(bus: EventBus) -> None:
    """A receipt dropped unawaited gives no warning, and what fits is delivered."""
    seen = Seen()
    bus.subscribe("a", seen)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for number in range(500):
            bus.publish("a", number)
        gc.collect()
    await bus.settle()
    assert caught == []
    assert seen.got == list(range(500))


async def test_publish_to_nobody_is_a_receipt_like_any_other(bus: EventBus) -> None:
    """An event nobody wants settles at once, with no deliveries."""
    receipt = bus.publish("nobody:here", 1)
    assert await receipt is receipt
    result = await receipt.settled(timeout=0.1)
    assert (receipt.deliveries, result.ok, result.outcomes) == (0, True, {})


# -- nobody harms another -----------------------------------------------------------------------


async def test_a_failing_subscriber_harms_no_other_and_not_the_publisher(bus: EventBus) -> None:
    """What a handler raises reaches neither the publisher nor another subscriber."""
    seen = Seen()

    async def fail(data: Any) -> None:
        raise LookupError(data)

    bus.subscribe("a", fail, name="fails", retry=RetryPolicy.none())
    bus.subscribe("a", seen, name="works")
    receipt = await bus.publish("a", 1)
    result = await receipt.settled()
    assert result.outcomes == {"fails": Outcome.DEAD, "works": Outcome.ACKED}
    assert not result.ok
    assert seen.got == [1]


async def test_a_stuck_subscriber_delays_neither_the_call_nor_another(bus: EventBus) -> None:
    """While one subscriber is stuck and full, `publish` takes no time and others go on."""
    gate, seen = Gate(), Seen()
    bus.subscribe("a", gate, name="stuck", mailbox=1, put_timeout=None)
    bus.subscribe("a", seen, name="works")
    loop = asyncio.get_running_loop()
    before = loop.time()
    receipts = [bus.publish("a", number) for number in range(3)]
    assert loop.time() == before
    while len(seen.got) < 3:
        await asyncio.sleep(0)
    assert receipts[-1].waiting == 1
    gate.open()


async def test_a_stuck_subscriber_delays_the_await_by_one_put_timeout_per_episode(
    bus: EventBus,
) -> None:
    """Ten awaited publishes to a stuck, full subscriber cost one put_timeout, not ten."""
    gate = Gate()
    bus.subscribe("a", gate, name="stuck", mailbox=1, put_timeout=3.0)
    loop = asyncio.get_running_loop()
    before = loop.time()
    for number in range(12):
        await bus.publish("a", number)
    assert loop.time() - before == pytest.approx(3.0)
    reasons = [letter.reason for letter in bus.dead_letters]
    assert reasons == [DeadReason.OVERFLOW_TIMEOUT] + [DeadReason.STALLED] * 9
    gate.open()


# -- starting and ending ------------------------------------------------------------------------


class Counter(Actor):
    patterns = ("a",)
    counted = 0

    async def receive(self, event: Event) -> int:
        type(self).counted += 1
        return type(self).counted


def test_registering_needs_no_loop_and_starts_with_the_bus() -> None:
    """`subscribe`, `spawn` and `supervisor` work without a loop; the first publish starts all."""
    bus = EventBus()
    seen, below = Seen(), Seen()
    Counter.counted = 0
    bus.subscribe("a", seen)
    bus.spawn(Counter)
    bus.supervisor("s").subscribe("a", below)

    async def main() -> None:
        result = await bus.publish("a", 1).settled()
        assert result.ok
        await bus.close()

    run(main)
    assert (seen.got, below.got, Counter.counted) == ([1], [1], 1)


def test_ask_starts_the_bus_too() -> None:
    """`ask` inside a running loop starts a bus that was never started."""
    bus = EventBus()

    @bus.subscribe("double")
    async def double(data: int) -> int:
        return 2 * data

    async def main() -> None:
        assert await bus.ask("double", 21) == 42
        await bus.close()

    run(main)


def test_publish_without_a_loop_says_what_to_do() -> None:
    """Without a running loop `publish` raises BusNotRunningError with the ways out."""
    bus = EventBus("shop")
    bus.subscribe("a", Seen())
    with pytest.raises(BusNotRunningError, match="shop") as caught:
        bus.publish("a", 1)
    assert "async with" in str(caught.value)
    assert "run(" in str(caught.value)
    assert bus.get_stats()["events_published"] == 0


def test_ask_needs_the_loop_of_the_bus() -> None:
    """`ask` driven without a running loop raises BusNotRunningError."""
    bus = EventBus()
    bus.subscribe("a", Seen())
    with pytest.raises(BusNotRunningError):
        bus.ask("a").send(None)


async def test_after_close_publish_and_ask_are_refused(make_bus: Any) -> None:
    """After `close()` every publish and ask is a BusClosedError, and nothing is counted."""
    bus = make_bus()
    bus.subscribe("a", Seen())
    await bus.publish("a", 1).settled()
    await bus.close()
    with pytest.raises(BusClosedError):
        bus.publish("a", 2)
    with pytest.raises(BusClosedError):
        await bus.ask("a", 2)
    assert bus.get_stats()["events_published"] == 1


async def test_a_bus_closed_before_it_ever_ran_is_closed(make_bus: Any) -> None:
    """`close()` of a bus that never started closes it all the same."""
    bus = make_bus()
    await bus.close()
    with pytest.raises(BusClosedError):
        bus.publish("a")


@pytest.mark.parametrize(
    "topic", ["", "a:", "a b", "a:*", "a:**", "$bus:x", "a:" * 16 + "a", "x" * 513, 5, None, ["a"]]
)
async def test_an_invalid_topic_is_refused_at_the_call(bus: EventBus, topic: Any) -> None:
    """A topic that breaks the grammar raises at the call and leaves no trace."""
    bus.subscribe("**", Seen())
    with pytest.raises(InvalidTopicError):
        bus.publish(topic, 1)
    assert bus.get_stats()["events_published"] == 0


@pytest.mark.parametrize(
    "options",
    [
        {"headers": 5}, {"headers": "x"}, {"id": 5}, {"id": ""}, {"id": "a\nb"},
        {"correlation_id": 5}, {"cause": "event"},
    ],
    ids=str,
)  # fmt: skip
async def test_a_bad_publish_option_is_refused_at_the_call(
    bus: EventBus, options: dict[str, Any]
) -> None:
    """A publish option of the wrong kind is a ConfigurationError naming it; nothing is routed."""
    seen = Seen()
    bus.subscribe("a", seen)
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        bus.publish("a", 1, **options)
    await bus.settle()
    assert seen.got == []


# -- a second loop ------------------------------------------------------------------------------


def test_a_second_run_starts_the_bus_again_with_its_subscriptions() -> None:
    """After its loop was closed a bus delivers in the next one; what was open is loop_closed."""
    bus = EventBus()
    seen, stuck = Seen(), []

    async def hang(data: Any) -> None:
        stuck.append(data)
        if len(stuck) == 1:
            await asyncio.Event().wait()

    bus.subscribe("a", seen, name="seen")
    bus.subscribe("a", hang, name="hangs", mailbox=1)

    async def first() -> None:
        for number in range(3):  # one in hand, one queued, one in the line
            bus.publish("a", number)
            await asyncio.sleep(0)
        await asyncio.sleep(0.1)

    async def second() -> None:
        assert (await bus.publish("a", 3).settled()).ok
        await bus.close()

    run(first)
    assert [(each.reason, each.event.data) for each in bus.dead_letters] == [
        (DeadReason.LOOP_CLOSED, number) for number in bus_order(bus)
    ]
    assert len(bus.dead_letters) == 3
    assert bus.audit().balanced
    assert bus.audit().totals.pending == 0
    run(second)
    assert seen.got == [0, 1, 2, 3]
    assert stuck == [0, 3]
    assert bus.audit().balanced


def bus_order(bus: EventBus) -> list[int]:
    return [each.event.data for each in bus.dead_letters]


def test_a_loop_closed_with_tasks_pending_is_no_obstacle() -> None:
    """A loop closed without cancelling its tasks leaves loop_closed letters and a usable bus."""
    bus = EventBus()
    calls = []

    async def hang(data: Any) -> None:
        calls.append(data)
        if data == 0:
            await asyncio.Event().wait()

    bus.subscribe("a", hang, mailbox=1)

    async def first() -> None:
        for number in range(3):
            bus.publish("a", number)
            await asyncio.sleep(0)

    async def second() -> None:
        assert (await bus.publish("a", 9).settled(timeout=1)).ok
        await bus.close()

    loop = VirtualLoop()
    loop.set_exception_handler(lambda *_: None)
    loop.run_until_complete(first())
    left = asyncio.all_tasks(loop)
    loop.close()
    assert {each.reason for each in bus.dead_letters} == {DeadReason.LOOP_CLOSED}
    assert len(bus.dead_letters) == 3
    run(second)
    assert calls == [0, 9]
    for task in left:  # asyncio complains of pending tasks, and rightly, but not about the bus
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # no public way


def test_a_lost_loop_does_not_keep_a_key_busy() -> None:
    """A key in hand when the loop was closed is free in the next one."""
    bus = EventBus()
    calls = []

    async def hang(data: Any) -> None:
        calls.append(data)
        if data == 0:
            await asyncio.Event().wait()

    bus.subscribe("a", hang, key="key", concurrency=2)

    async def first() -> None:
        bus.publish("a", 0, key="k")
        bus.publish("a", 1, key="k")
        await asyncio.sleep(0.1)

    async def second() -> None:
        assert (await bus.publish("a", 2, key="k").settled(timeout=1)).ok
        await bus.close()

    run(first)
    run(second)
    assert calls == [0, 2]


def test_publish_on_a_loop_that_stands_still_is_refused() -> None:
    """While the bus's loop exists but does not run, `publish` raises BusNotRunningError."""
    bus = EventBus()
    seen = Seen()
    bus.subscribe("a", seen)
    loop = VirtualLoop()

    async def first() -> None:
        await bus.publish("a", 1).settled()

    loop.run_until_complete(first())
    with pytest.raises(BusNotRunningError):
        bus.publish("a", 2)
    loop.run_until_complete(bus.close())
    loop.close()
    assert seen.got == [1]


# -- payloads -----------------------------------------------------------------------------------


async def test_payloads_are_passed_by_reference(bus: EventBus) -> None:
    """Every handler gets the very object that was published."""
    one, two = Seen(), Seen()
    bus.subscribe("a", one)
    bus.subscribe("a", two)
    payload = {"n": [1]}
    await bus.publish("a", payload).settled()
    assert one.got[0] is payload
    assert two.got[0] is payload


async def test_copy_deep_isolates_publisher_and_handlers(make_bus: Any) -> None:
    """With copy="deep" a change by the publisher or a handler is seen by nobody else."""
    async with make_bus(copy="deep") as bus:
        events: list[Event] = []

        async def change(data: dict[str, list[int]]) -> None:
            data["n"].append(2)

        async def whole(event: Event) -> None:
            events.append(event)
            event.data["n"].append(3)

        seen = Seen()
        bus.subscribe("a", change)
        bus.subscribe("a", whole)
        bus.subscribe("a", seen)
        payload = {"n": [1]}
        receipt = bus.publish("a", payload)
        payload["n"].append(9)
        await receipt.settled()
        assert seen.got == [{"n": [1]}]
        assert events[0].data == {"n": [1, 3]}
        assert events[0].id == receipt.event.id
        assert bus.get_history("a")[0]["data"] == {"n": [1]}


async def test_a_payload_that_cannot_be_copied_is_refused_at_the_call(make_bus: Any) -> None:
    """With copy="deep" a payload that cannot be copied raises PayloadError and goes nowhere."""
    async with make_bus(copy="deep") as bus:
        seen = Seen()
        bus.subscribe("a", seen)
        with pytest.raises(PayloadError):
            bus.publish("a", (each for each in "x"))
        await bus.settle()
        assert seen.got == []


# -- refusing -----------------------------------------------------------------------------------


async def test_a_refusal_reaches_the_publisher_who_awaits_and_harms_no_other(
    bus: EventBus,
) -> None:
    """`overflow="fail"` raises on await alone; the other subscribers have the event."""
    gate, seen = Gate(), Seen()
    bus.subscribe("a", gate, name="full", mailbox=1, overflow="fail")
    bus.subscribe("a", seen, name="works")
    bus.publish("a", 0)
    await gate.entered()
    bus.publish("a", 1)
    receipt = bus.publish("a", 2)
    assert (receipt.deliveries, receipt.waiting, receipt.refused) == (2, 0, 1)
    with pytest.raises(MailboxFullError, match="full"):
        await receipt
    gate.open()
    await bus.settle()
    assert seen.got == [0, 1, 2]
    assert gate.got == [0, 1]
