"""`bus.explain`: who would get a topic, through which pattern, and who only just would not."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from actorbus import Event, EventBus, InvalidTopicError


async def handler(event: Event) -> None:
    """Do nothing."""


def reasons(bus: EventBus, topic: str) -> dict[str, str]:
    """Return the near misses: name to reason."""
    return {miss.subscription: miss.reason for miss in bus.explain(topic).near_misses}


def subscribe(bus: EventBus, name: str, patterns: Any, **options: Any) -> None:
    """Subscribe the handler."""
    bus.subscribe(patterns, handler, name=name, **options)


def test_who_and_through_which_pattern() -> None:
    """Every subscription that would get it, in order of subscription, with its first match."""
    bus = EventBus("test")
    subscribe(bus, "both", ["user:*", "user:login"])
    subscribe(bus, "all", "**")
    subscribe(bus, "other", "order:*")
    found = bus.explain("user:login")
    assert found.topic == "user:login"
    assert [(m.subscription, m.pattern) for m in found.matches] == [
        ("both", "user:*"),
        ("all", "**"),
    ]


async def test_it_agrees_with_publish(bus: EventBus) -> None:
    """Who is said to get it gets it, excludes and ended subscriptions left out."""
    got: list[str] = []

    def make(name: str) -> Any:
        async def named(event: Event) -> None:
            got.append(name)

        return named

    for name, patterns, exclude in [
        ("exact", "a:b", ()), ("segment", "a:*", ()), ("part", "a:b*", ()),
        ("excluded", "a:*", "*:b"), ("tail", "a:**", ()), ("else", "a:c", ()),
    ]:  # fmt: skip
        bus.subscribe(patterns, make(name), name=name, exclude=exclude)
    bus.subscribe("a:b", make("gone"), name="gone").unsubscribe()
    said = [match.subscription for match in bus.explain("a:b").matches]
    receipt = bus.publish("a:b")
    await bus.settle()
    assert said == got == ["exact", "segment", "part", "tail"]
    assert receipt.deliveries == 4


async def test_state_and_room(bus: EventBus) -> None:
    """A match says in which state its actor is and how much room its mailbox has."""
    gate = asyncio.Event()

    async def slow(event: Event) -> None:
        await gate.wait()

    bus.subscribe("t", slow, name="s", mailbox=5, group="g")
    bus.publish("t")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for _ in range(2):
        bus.publish("t")
    (match,) = bus.explain("t").matches
    assert (match.state, match.room, match.group) == ("running", 3, "g")
    async with bus.events("t"):
        stream = bus.explain("t").matches[-1]
        assert stream.state == "stream"
    gate.set()


@pytest.mark.parametrize(
    ("pattern", "topic", "reason"),
    [
        ("user:Login", "user:login", "upper and lower case differ"),
        ("user:*", "user", "matches 2 segments, the topic has 1"),
        ("user:*", "user:a:b", "matches 2 segments, the topic has 3"),
        ("user", "user:login", "matches 1 segment, the topic has 2"),
        ("user:login", "user:logout", "segment 2 is 'login', the topic has 'logout'"),
        ("users:*", "user:login", "segment 1 is 'users', the topic has 'user'"),
        ("user:**:done", "user:login", "the rest of the pattern does not match"),
    ],
)
def test_near_misses_say_why(pattern: str, topic: str, reason: str) -> None:
    """One who only just does not get it is named, with the pattern and the reason."""
    bus = EventBus("test")
    subscribe(bus, "s", pattern)
    found = bus.explain(topic)
    assert found.matches == ()
    (miss,) = found.near_misses
    assert (miss.subscription, miss.pattern, miss.reason) == ("s", pattern, reason)


def test_an_exclude_is_a_near_miss() -> None:
    """Who matches and excludes it is told so."""
    bus = EventBus("test")
    subscribe(bus, "s", "user:*", exclude=["*:login", "x"])
    assert reasons(bus, "user:login") == {"s": "excluded by *:login"}


def test_what_is_far_off_is_no_near_miss() -> None:
    """Subscriptions that have nothing to do with the topic are left out, also the bus's own."""
    bus = EventBus("test")
    subscribe(bus, "far", "order:created:*:x")
    subscribe(bus, "own", "$bus:*")
    assert reasons(bus, "user:login") == {}


def test_near_misses_are_few_and_the_nearest_first() -> None:
    """Of a thousand, twenty are named."""
    bus = EventBus("test")
    for number in range(1000):
        subscribe(bus, f"s{number}", f"user:x{number}")
    subscribe(bus, "nearest", "user:LOGIN")
    misses = bus.explain("user:login").near_misses
    assert len(misses) == 20
    assert misses[0].subscription == "nearest"


def test_the_text_is_for_people() -> None:
    """str() names topic, subscriptions, patterns, groups, near misses and why."""
    bus = EventBus("test")
    subscribe(bus, "audit", "user:*", group="g")
    subscribe(bus, "typo", "user:Login")
    text = str(bus.explain("user:login"))
    assert text.splitlines()[0] == "user:login -> 1 subscription"
    for word in ("audit", "user:*", "group g", "near misses", "typo", "case differ"):
        assert word in text
    assert str(bus.explain("a")) == "a -> 0 subscriptions"


def test_own_topics_can_be_explained_and_bad_ones_are_refused() -> None:
    """`$` topics are looked up like others; a wildcard is no topic."""
    bus = EventBus("test")
    subscribe(bus, "own", "$bus:dead_letter:*")
    subscribe(bus, "all", "**")
    assert [m.subscription for m in bus.explain("$bus:dead_letter:poison").matches] == ["own"]
    with pytest.raises(InvalidTopicError):
        bus.explain("user:*")
