"""Event: identity, order, cause and conversation; and that it cannot be changed."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actorbus import DeadReason, Event, EventBus, Outcome
from tests.handlers import Seen
from tests.virtual import run


class Kept:
    """Remembers events."""

    def __init__(self) -> None:
        self.got: list[Event] = []

    async def __call__(self, event: Event) -> None:
        self.got.append(event)


FIELDS = {
    "id", "topic", "data", "time", "key", "headers", "correlation_id", "causation_id", "timestamp",
}  # fmt: skip


@pytest.mark.parametrize("field", sorted(FIELDS))
async def test_an_event_is_frozen(bus: EventBus, field: str) -> None:
    """No field of an event can be set."""
    event = bus.publish("a", 1).event
    assert hasattr(event, field)
    with pytest.raises(AttributeError):
        setattr(event, field, "x")


async def test_an_event_holds_what_was_published(bus: EventBus) -> None:
    """Topic, data, key, headers, id and correlation id are what the publisher said."""
    before = time.time()
    event = bus.publish(
        "a:b", {"n": 1}, key="k", headers={"h": 1}, id="mine", correlation_id="talk"
    ).event
    assert (event.topic, event.data, event.key, event.headers) == ("a:b", {"n": 1}, "k", {"h": 1})
    assert (event.id, event.correlation_id, event.causation_id) == ("mine", "talk", None)
    assert before <= event.time <= time.time()


async def test_the_timestamp_is_the_time_in_utc(bus: EventBus) -> None:
    """`timestamp` is `time` as an aware datetime in UTC."""
    event = bus.publish("a").event
    assert event.timestamp.tzinfo is UTC
    assert event.timestamp == datetime.fromtimestamp(event.time, UTC)


async def test_options_not_given_are_none(bus: EventBus) -> None:
    """Key, headers and causation id of a bare publish are None; its correlation id is its id."""
    event = bus.publish("a").event
    assert (event.data, event.key, event.headers, event.causation_id) == (None,) * 4
    assert isinstance(event.id, str)
    assert event.correlation_id == event.id


@given(st.integers(1, 3000))
def test_ids_sort_by_publish_order(count: int) -> None:
    """The ids of a bus, sorted as text, are in the order of publishing, each once."""

    ids: list[str] = []

    async def main() -> None:
        async with EventBus() as bus:
            ids.extend(bus.publish("a").event.id for _ in range(count))

    run(main)
    assert ids == sorted(set(ids))


async def test_ids_of_two_buses_of_one_process_differ(make_bus: Any) -> None:
    """No two events have one id, though they are of different buses."""
    async with make_bus("one") as one, make_bus("two") as two:
        ids = [bus.publish("a").event.id for bus in (one, two) for _ in range(100)]
        assert len(set(ids)) == 200


PUBLISH_ONE = (
    "import asyncio\nfrom actorbus import EventBus\n"
    "async def main():\n"
    "    async with EventBus() as bus: print(bus.publish('a').event.id)\n"
    "asyncio.run(main())"
)


def test_ids_of_two_processes_differ() -> None:
    """Two processes that publish the same thing give it two ids."""
    ids = {
        subprocess.run(
            [sys.executable, "-c", PUBLISH_ONE], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    }
    assert len(ids) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_ids_of_a_fork_differ() -> None:
    """A forked child numbers its events on, but under another name."""
    bus = EventBus()

    async def publish() -> str:
        return bus.publish("a").event.id

    run(publish)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, run(publish).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        theirs = pipe.read()
    os.waitpid(child, 0)
    ours = run(publish)
    assert theirs
    assert theirs.split("-")[0] != ours.split("-")[0]


# -- cause and conversation ---------------------------------------------------------------------


async def test_a_handler_s_event_has_the_event_in_hand_as_its_cause(bus: EventBus) -> None:
    """An event published by a handler names its cause and inherits the correlation id."""
    kept = Kept()

    async def pass_on(data: Any) -> None:
        bus.publish("b", data)

    bus.subscribe("a", pass_on)
    bus.subscribe("b", kept)
    root = bus.publish("a", 1).event
    talk = bus.publish("a", 2, correlation_id="talk").event
    await bus.settle()
    assert [event.causation_id for event in kept.got] == [root.id, talk.id]
    assert [event.correlation_id for event in kept.got] == [root.id, "talk"]


async def test_a_plain_handler_s_event_has_the_event_in_hand_as_its_cause(bus: EventBus) -> None:
    """Published from a handler's thread, an event has its cause too."""
    kept = Kept()

    def pass_on(data: Any) -> None:
        bus.publish("b", data)

    def inline(data: Any) -> None:
        bus.publish("c", data)

    bus.subscribe("a", pass_on)
    bus.subscribe("a", inline, inline=True)
    bus.subscribe(["b", "c"], kept)
    roots = [bus.publish("a", number).event for number in range(20)]
    await bus.settle()
    for topic in ("b", "c"):
        mine = [event for event in kept.got if event.topic == topic]
        assert [event.causation_id for event in mine] == [root.id for root in roots]
        assert [event.correlation_id for event in mine] == [root.id for root in roots]


async def test_a_chain_keeps_the_root_s_correlation_id(bus: EventBus) -> None:
    """Through a chain the correlation id stays the root's while the cause is the event before."""
    kept = Kept()

    async def count(event: Event) -> None:
        if event.data < 4:
            bus.publish("a", event.data + 1)

    bus.subscribe("a", count)
    bus.subscribe("a", kept)
    root = bus.publish("a", 0).event
    await bus.settle()
    assert {event.correlation_id for event in kept.got} == {root.id}
    assert [event.causation_id for event in kept.got] == [
        None, *(event.id for event in kept.got[:-1]),
    ]  # fmt: skip


async def test_concurrent_handlers_do_not_take_each_other_s_cause(bus: EventBus) -> None:
    """With several deliveries in hand each handler's events name their own cause."""
    kept = Kept()

    async def wait_then_publish(event: Event) -> None:
        await asyncio.sleep(10 - event.data)
        bus.publish("b", event.id)

    bus.subscribe("a", wait_then_publish, concurrency=5)
    bus.subscribe("b", kept)
    for number in range(10):
        bus.publish("a", number)
    await bus.settle()
    assert len(kept.got) == 10
    assert all(event.causation_id == event.data for event in kept.got)


async def test_a_task_that_outlives_its_handler_passes_the_cause(bus: EventBus) -> None:
    """`cause=event` wins over whatever is in hand, and gives cause and correlation id."""
    kept = Kept()
    tasks = []

    async def later(event: Event) -> None:
        await asyncio.sleep(5)
        bus.publish("b", cause=event)

    async def start(event: Event) -> None:
        tasks.append(asyncio.create_task(later(event)))

    bus.subscribe("a", start)
    bus.subscribe("b", kept)
    roots = [bus.publish("a", number).event for number in range(3)]
    await bus.settle()
    await asyncio.gather(*tasks)
    await bus.settle()
    assert [event.causation_id for event in kept.got] == [root.id for root in roots]
    assert [event.correlation_id for event in kept.got] == [root.id for root in roots]


async def test_a_correlation_id_of_one_s_own_wins(bus: EventBus) -> None:
    """A given correlation id is kept although there is a cause."""
    root = bus.publish("a").event
    event = bus.publish("b", cause=root, correlation_id="talk").event
    assert (event.causation_id, event.correlation_id) == (root.id, "talk")


async def test_subscribing_in_a_handler_passes_no_cause_on(bus: EventBus) -> None:
    """An actor made by a handler does not take that handler's event for its own."""
    kept = Kept()

    async def echo(event: Event) -> None:
        bus.publish("c")

    async def enlist(event: Event) -> None:
        bus.subscribe("b", echo)

    bus.subscribe("a", enlist)
    bus.subscribe("c", kept)
    await bus.publish("a").settled()
    mine = bus.publish("b").event
    await bus.settle()
    assert [event.causation_id for event in kept.got] == [mine.id]


# -- hops ---------------------------------------------------------------------------------------


async def hops(bus: EventBus, stop: int) -> list[int]:
    """Let an event beget the next until `stop`; return the ones handled."""
    handled: list[int] = []

    async def again(data: int) -> None:
        handled.append(data)
        if data < stop:
            bus.publish("a", data + 1)

    bus.subscribe("a", again, name="again")
    bus.publish("a", 0)
    await bus.settle()
    return handled


@pytest.mark.parametrize("limit", [1, 2, 64])
async def test_a_chain_longer_than_max_hops_is_a_dead_letter(make_bus: Any, limit: int) -> None:
    """The chain ends after `max_hops` causes, and the one too many is dead (max_hops)."""
    async with make_bus(max_hops=limit) as bus:
        assert await hops(bus, 1000) == list(range(limit + 1))
        [letter] = bus.dead_letters
        assert (letter.reason, letter.event.data) == (DeadReason.MAX_HOPS, limit + 1)


async def test_without_max_hops_a_chain_has_no_end(make_bus: Any) -> None:
    """`max_hops=None` is no limit."""
    async with make_bus(max_hops=None) as bus:
        assert await hops(bus, 1000) == list(range(1001))
        assert len(bus.dead_letters) == 0


async def test_too_many_hops_are_a_dead_letter_for_each_subscription(make_bus: Any) -> None:
    """Every subscription the event matches has its own max_hops letter; nobody runs it."""
    async with make_bus(max_hops=1) as bus:
        seen = Seen()
        for name in ("one", "two"):
            bus.subscribe("b", seen, name=name)
        bus.subscribe("b", seen, name="member", group="g")
        bus.subscribe("b", seen, name="member two", group="g")
        first = bus.publish("x").event
        second = bus.publish("x", cause=first).event
        receipt = bus.publish("b", cause=second)
        assert (receipt.deliveries, receipt.refused) == (3, 3)
        assert await receipt is receipt
        result = await receipt.settled()
        assert set(result.outcomes.values()) == {Outcome.DEAD}
        assert seen.got == []
        dead = sorted(letter.subscription for letter in bus.dead_letters.list(reason="max_hops"))
        assert dead[1:] == ["one", "two"]
        assert dead[0].startswith("member")


async def test_a_repr_shows_id_and_topic_but_no_payload(bus: EventBus) -> None:
    """An event's repr has what identifies it and never the payload."""
    event = bus.publish("a:b", "secret").event
    assert event.id in repr(event)
    assert "a:b" in repr(event)
    assert "secret" not in repr(event)
