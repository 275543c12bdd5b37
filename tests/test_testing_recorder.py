"""Recorder: what was published, and failures that say what was published instead."""

from __future__ import annotations

from typing import Any

import pytest

from actorbus import EventBus, InvalidPatternError, NoResponderError
from actorbus.testing import Recorder


def failure(recorder: Recorder, *args: Any, **options: Any) -> list[str]:
    """Return the lines of a failed assertion."""
    with pytest.raises(AssertionError) as raised:
        recorder.assert_published(*args, **options)
    return str(raised.value).splitlines()


async def test_it_records_at_the_publish_call(bus: EventBus) -> None:
    """An event is recorded when `publish` returns, in order, and only if a pattern matches."""
    recorder = Recorder(bus, "order:*", "user:**")

    for topic in ("order:paid", "order", "user", "other"):
        bus.publish(topic, topic.upper())

    assert recorder.topics == ["order:paid", "user"]
    assert recorder.data == ["ORDER:PAID", "USER"]
    assert [event.topic for event in recorder] == recorder.topics
    assert recorder[-1].topic == "user"
    assert len(recorder) == 2


async def test_it_ends_and_forgets(bus: EventBus) -> None:
    """A cleared recorder goes on, a closed one does not."""
    recorder = Recorder(bus)
    bus.publish("a")
    recorder.clear()
    bus.publish("b")
    recorder.close()
    bus.publish("c")

    assert recorder.topics == ["b"]


async def test_it_is_nobody(bus: EventBus) -> None:
    """A recorder is no subscription: it answers no ask, and the statistics do not count it."""
    Recorder(bus)

    with pytest.raises(NoResponderError):
        await bus.ask("a")
    assert bus.get_stats()["subscriptions"] == 0


async def test_what_was_published_passes(bus: EventBus) -> None:
    """Pattern, payload, number and condition narrow it down; the first event is returned."""
    recorder = Recorder(bus)
    bus.publish("order:paid", {"id": 1})
    bus.publish("order:paid", {"id": 2})

    first = recorder.assert_published("order:*")
    second = recorder.assert_published("order:paid", {"id": 2}, times=1)
    assert recorder.assert_published("order:paid", where=lambda e: e.data["id"] == 2) is second
    assert first is recorder[0]
    recorder.assert_published("order:paid", times=2)
    assert recorder.assert_published("user", times=0) is None
    recorder.assert_not_published("order:paid", {"id": 3})
    with pytest.raises(InvalidPatternError):
        recorder.assert_published("order::paid")


async def test_the_failure_shows_what_was_published_instead(bus: EventBus) -> None:
    """Each event is shown, with why it is not the one wherever it comes near."""
    recorder = Recorder(bus)
    empty = failure(recorder, "order:paid")
    for topic, data in (("order:Paid", 1), ("order:paid", {"id": 1, "x": 2}), ("user:in", None)):
        bus.publish(topic, data)

    assert empty == ["order:paid was not published; nothing that matches ** was"]
    assert failure(recorder, "order:paid", {"id": 3, "y": 4}) == [
        "order:paid with {'id': 3, 'y': 4} was not published",
        "published (3):",
        "  order:Paid 1   <- upper and lower case differ",
        "  order:paid {'id': 1, 'x': 2}   <- 'id' is 1, not 3; 'y' is missing; 'x' is not wanted",
        "  user:in None",
    ]
    assert failure(recorder, "order:paid", [1])[3].endswith("<- is dict, not list")
    assert failure(recorder, "order:paid", times=2)[0] == "order:paid was published once, not twice"
    assert failure(recorder, "user:in", where=lambda e: False)[0].startswith("user:in where ...")


async def test_a_failure_is_short_and_survives_payloads(bus: EventBus) -> None:
    """Many events, long payloads and those without a repr still make a failure one can read."""

    class Odd:
        def __repr__(self) -> str:
            raise RuntimeError

    recorder = Recorder(bus)
    for number in range(1000):
        bus.publish("a", [number] * 1000)
    bus.publish("a", Odd())

    lines = failure(recorder, "b")

    assert lines[1:3] == ["published (1001):", "  981 before"]
    assert len(lines) == 23
    assert max(map(len, lines)) < 300
