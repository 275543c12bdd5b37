"""`bus.get_history`: the last events, as dicts, oldest first."""

from __future__ import annotations

import asyncio
import functools
import gc
import weakref
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from actorbus import (
    Actor,
    ActorState,
    ConfigurationError,
    Event,
    EventBus,
    InvalidPatternError,
    NoResponderError,
)
from actorbus.subscription import Subscription
from tests.handlers import Seen

Maker = Callable[..., EventBus]


def data(bus: EventBus, pattern: str, limit: int = 10) -> list[Any]:
    """Return the payloads of the history."""
    return [entry["data"] for entry in bus.get_history(pattern, limit)]


async def test_entries_are_dicts_with_exactly_their_keys(bus: EventBus) -> None:
    """id, topic, timestamp (aware, UTC) and data, and nothing more."""
    receipt = bus.publish("user:login", {"user": 1})
    (entry,) = bus.get_history("user:login")
    assert entry == {
        "id": receipt.event.id,
        "topic": "user:login",
        "timestamp": receipt.event.timestamp,
        "data": {"user": 1},
    }
    assert isinstance(entry["timestamp"], datetime)
    assert entry["timestamp"].tzinfo is UTC


async def test_the_last_ones_oldest_first(bus: EventBus) -> None:
    """Ten by default, `limit` of them otherwise, in publish order."""
    for number in range(30):
        bus.publish("t", number)
    assert data(bus, "t") == list(range(20, 30))
    assert data(bus, "t", 3) == [27, 28, 29]
    assert data(bus, "t", 0) == []
    assert data(bus, "t", 1000) == list(range(30))


async def test_patterns_merge_topics_in_publish_order(bus: EventBus) -> None:
    """A pattern shows the last matching events of all its topics together."""
    for number in range(12):
        bus.publish(("a:x", "a:y", "b:x")[number % 3], number)
    assert data(bus, "a:*", 4) == [6, 7, 9, 10]
    assert data(bus, "**", 3) == [9, 10, 11]
    assert data(bus, "c:*") == []


async def test_history_is_kept_per_topic(make_bus: Maker) -> None:
    """A busy topic does not push out a quiet one: `history` events of each are kept."""
    bus = make_bus(history=5)
    async with bus:
        bus.publish("quiet", "q")
        for number in range(100):
            bus.publish("busy", number)
        assert data(bus, "busy", 100) == [95, 96, 97, 98, 99]
        assert data(bus, "quiet") == ["q"]


async def test_without_history_nothing_is_kept(make_bus: Maker) -> None:
    """`history=0` keeps nothing."""
    bus = make_bus(history=0)
    async with bus:
        bus.publish("t", 1)
        assert data(bus, "**") == []


async def test_the_1000_most_recently_used_topics_are_kept(bus: EventBus) -> None:
    """Topics are names from outside: older ones make way, whether or not anybody listens."""
    bus.publish("first", 0)
    for number in range(1500):
        bus.publish(f"t:{number}", number)
        if number == 700:
            bus.publish("first", 1)  # used again, so no longer the oldest
    kept = data(bus, "**", 5000)
    assert len(kept) == 1001
    assert data(bus, "first") == [0, 1]
    assert data(bus, "t:1499") == [1499]
    assert data(bus, "t:500") == []


async def test_a_dropped_topic_that_comes_back_is_kept_again(bus: EventBus) -> None:
    """A topic that was pushed out begins anew, subscribed or not."""
    got: list[int] = []
    bus.subscribe("back", got.append, inline=True)
    bus.publish("back", 1)
    for number in range(3000):
        bus.publish(f"t:{number}")
    bus.publish("back", 2)
    await bus.settle()
    assert data(bus, "back") == [2]
    assert got == [1, 2]


async def test_events_nobody_wanted_and_refused_ones_are_in_the_history(bus: EventBus) -> None:
    """History is of what was published, not of what was handled."""

    async def handler(event: Event) -> None: ...

    bus.subscribe("full", handler, mailbox=1, overflow="drop_new")
    for number in range(3):
        bus.publish("full", number)
    bus.publish("nobody", 3)
    assert data(bus, "**") == [0, 1, 2, 3]


async def test_the_buss_own_events_are_in_no_history(bus: EventBus) -> None:
    """Topics that start with `$` leave no trace, tells included."""

    async def handler(event: Event) -> None: ...

    bus.subscribe("$bus:**", handler)
    bus.subscribe("t", handler, name="s")
    ref = bus.actor("s")
    assert ref is not None
    ref.tell(1)
    await bus.settle()
    assert data(bus, "**") == []
    assert data(bus, "$bus:**") == []


async def test_bad_arguments_say_so(bus: EventBus) -> None:
    """A broken pattern and a limit out of range are refused."""
    with pytest.raises(InvalidPatternError):
        bus.get_history("a::b")
    with pytest.raises(ConfigurationError, match="limit"):
        bus.get_history("a", -1)


async def test_history_keeps_at_most_one_former_route_of_a_topic(bus: EventBus) -> None:
    """Subscribers come and go between the events of a topic: what is kept of them is bounded."""
    gc.collect()
    before = sum(isinstance(each, Subscription) for each in gc.get_objects())
    for number in range(30):
        short = bus.subscribe("t", Seen())
        for _ in range(3):
            await bus.publish("t", number).settled()
        short.unsubscribe()
        await short.ended()
    await asyncio.sleep(0)
    gc.collect()
    kept = sum(isinstance(each, Subscription) for each in gc.get_objects()) - before
    assert kept <= 2
    assert data(bus, "t", 6) == [28, 28, 28, 29, 29, 29]


async def test_the_order_stays_when_the_route_of_a_topic_changes(bus: EventBus) -> None:
    """The last ones are the last ones, though the older have been made events meanwhile."""
    bus.subscribe("t", Seen())
    for number in range(9):
        bus.publish("t", number)
        if number % 4 == 3:
            bus.subscribe("t", Seen())
    assert data(bus, "t", 3) == [6, 7, 8]
    numbers = [entry._number for entry in bus._engine.routes.history.ring("t")]
    assert numbers == sorted(numbers)


async def test_a_replay_over_several_patterns_is_of_the_last_events_of_all(bus: EventBus) -> None:
    """`replay=n` gives the last n in publish order, whichever pattern each of them matched."""
    for number, topic in enumerate(("a", "a", "a", "b", "b", "a", "b")):
        bus.publish(topic, number)
    seen = Seen()
    bus.subscribe(["a", "b"], seen, replay=3)
    await bus.settle()
    assert seen.got == [4, 5, 6]


class Plugin:
    """A handler with everything that may be given beside it."""

    async def on(self, data: Any) -> None:
        """Handle nothing."""

    def key(self, event: Event) -> int:
        """Return the one key."""
        return 1

    def directive(self, error: BaseException, event: Event | None) -> str:
        """Go on."""
        return "resume"


class Quiet(Actor):
    """An actor that remembers nothing."""

    patterns = ("t",)

    async def receive(self, event: Event) -> None:
        """Handle nothing."""


@pytest.mark.parametrize("options", [{}, {"key": True}], ids=["plain", "keyed"])
async def test_history_keeps_no_handler_of_an_ended_subscription(
    bus: EventBus, options: dict[str, bool]
) -> None:
    """Handler, instance, factory, key function and on_failure go, though the events stay."""
    plugin, factory = Plugin(), functools.partial(Quiet)
    keyed: Any = {"key": plugin.key} if options else {}
    sub = bus.subscribe("t", plugin.on, on_failure=plugin.directive, **keyed)
    ref = bus.spawn(factory)
    await bus.settle()
    for number in range(3):
        await bus.publish("t", number).settled()
    made = bus._registry.live[ref.name].handler.__self__
    assert isinstance(made, Quiet)
    held = [weakref.ref(each) for each in (plugin, factory, made)]
    sub.unsubscribe()
    await sub.ended()
    await ref.stop()
    del plugin, factory, made, keyed
    await asyncio.sleep(0)
    gc.collect()
    assert [each() for each in held] == [None, None, None]
    assert data(bus, "t") == [0, 1, 2]
    assert sub.state is ref.state is ActorState.STOPPED
    assert sub.unsubscribe() == 0
    await ref.stop()
    assert ref.tell(1).refused == 1
    with pytest.raises(NoResponderError):
        await ref.ask(1)
