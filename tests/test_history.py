"""History: what is kept, what is shown, what is dropped and who hears of it."""

from __future__ import annotations

from collections import OrderedDict, deque

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from actorbus.event import Event
from actorbus.history import Entry, History
from actorbus.topic import Pattern

EVERYTHING = Pattern("**")


class Publisher:
    """Publishes as the engine does: it keeps each ring until it hears that it was dropped."""

    def __init__(self, size: int, *, topics: int = 1000) -> None:
        self.history = History(size, topics=topics, evicted=self.drop)
        self.rings: dict[str, deque[Entry]] = {}
        self.dropped: list[str] = []
        self.number = 0

    def drop(self, topic: str) -> None:
        self.dropped.append(topic)
        del self.rings[topic]

    def publish(self, *topics: str) -> None:
        for topic in topics:
            if topic not in self.rings:
                self.rings[topic] = self.history.ring(topic)
            self.number += 1
            self.rings[topic].append(Event(topic, self.number, 0.0, _number=self.number))

    def shown(self, pattern: str = "**", limit: int = 1_000_000) -> list[int]:
        return [event.data for event in self.history.last(Pattern(pattern), limit)]


def test_last_events_of_a_topic_oldest_first() -> None:
    """A topic keeps its last `size` events; `last` gives the newest `limit` of them in order."""
    bus = Publisher(3)
    bus.publish(*["a"] * 5)
    assert bus.shown("a") == [3, 4, 5]
    assert bus.shown("a", 2) == [4, 5]
    assert bus.shown("b") == []


def test_topics_are_merged_in_publish_order() -> None:
    """A wildcard gives the newest events of all topics it matches, as they were published."""
    bus = Publisher(10)
    bus.publish("a:x", "b:x", "a:y", "b:x", "a:x", "b:z", "a:x")
    assert bus.shown("a:*") == [1, 3, 5, 7]
    assert bus.shown("**:x") == [1, 2, 4, 5, 7]
    assert bus.shown("**", 3) == [5, 6, 7]
    assert bus.shown("b:x", 1) == [4]


def test_busy_topic_does_not_push_out_a_quiet_one() -> None:
    """Each topic has its own room."""
    bus = Publisher(2)
    bus.publish("quiet", *["busy"] * 1000)
    assert bus.shown("quiet") == [1]
    assert bus.shown("*") == [1, 1000, 1001]


@pytest.mark.parametrize("limit", [0, -1])
def test_no_limit_below_one(limit: int) -> None:
    """A limit of nothing gives nothing."""
    bus = Publisher(3)
    bus.publish("a", "a")
    assert bus.shown("a", limit) == bus.shown("**", limit) == []


def test_order_is_the_number_not_the_time() -> None:
    """A wall clock that steps back does not change the order."""
    history = History(10)
    for number, (topic, seconds) in enumerate([("a", 9.0), ("b", 5.0), ("a", 1.0)]):
        history.ring(topic).append(Event(topic, number, seconds, _number=number))
    assert [event.data for event in history.last(EVERYTHING, 10)] == [0, 1, 2]


def test_ring_is_the_same_until_dropped() -> None:
    """A topic has one ring, bounded by the size."""
    history = History(7)
    ring = history.ring("a")
    assert history.ring("a") is ring
    assert ring.maxlen == 7
    assert history.ring("b") is not ring


def test_size_zero_keeps_nothing() -> None:
    """Without history nothing is held, not even a ring per topic."""
    bus = Publisher(0)
    bus.publish(*(f"t{number}" for number in range(5000)))
    assert len(bus.history) == 0
    assert bus.shown() == bus.shown("t1") == []
    assert bus.dropped == []
    assert bus.history.ring("a") is bus.history.ring("b")


@pytest.mark.parametrize(("size", "topics"), [(-1, 10), (10, 0), (10, -1)])
def test_impossible_sizes_are_refused(size: int, topics: int) -> None:
    """A negative size or no topics at all is a ValueError."""
    with pytest.raises(ValueError, match="size must be 0 or more and topics 1 or more"):
        History(size, topics=topics)


@pytest.mark.parametrize("topics", [1, 2, 10, 100])
def test_only_the_most_recently_used_topics_are_shown(topics: int) -> None:
    """After any number of topics exactly the last `topics` are shown, by either way of asking."""
    bus = Publisher(2, topics=topics)
    for number in range(1, 3 * topics + 50):
        bus.publish(f"t{number}")
        assert bus.shown() == [*range(max(1, number - topics + 1), number + 1)]
        gone, kept = number - topics, number - topics + 1
        assert bus.shown(f"t{gone}") == []
        assert kept < 1 or bus.shown(f"t{kept}") == [kept]


def test_use_counts_not_age() -> None:
    """The oldest topic stays as long as it is used, though nothing but appends says so."""
    bus = Publisher(1, topics=4)
    bus.publish("first")
    for number in range(200):
        bus.publish(f"t{number}", "first")
    assert "first" not in bus.dropped
    assert bus.shown("first") == [bus.number]


@pytest.mark.parametrize("topics", [1, 8, 1000])
def test_rings_are_bounded(topics: int) -> None:
    """Attacker-chosen topics hold at most 1.25 x `topics` rings, 8 more when those are few."""
    bus = Publisher(1, topics=topics)
    for number in range(5 * topics + 100):
        bus.publish(f"t{number}")
        assert len(bus.history) <= topics + max(topics // 4, 8)
    assert len(bus.dropped) + len(bus.history) == 5 * topics + 100
    assert set(bus.rings) == {f"t{n}" for n in range(len(bus.dropped), 5 * topics + 100)}


def test_one_drop_makes_room_for_the_whole_slack() -> None:
    """When the rings overflow, all but the `topics` most recently used ones go at once."""
    bus = Publisher(1, topics=100)
    bus.publish(*(f"t{number}" for number in range(125)))
    assert bus.dropped == []
    bus.publish("one_more")
    assert bus.dropped == [f"t{number}" for number in range(25)]
    assert len(bus.history) == 101


def test_rings_that_stay_empty_are_bounded_and_push_nothing_out() -> None:
    """Rings asked for and never used do not pile up and cost no used topic its events."""
    dropped: list[str] = []
    history = History(1, topics=10, evicted=dropped.append)
    for number in range(10):
        history.ring(f"used{number}").append(Event("t", number, 0.0, _number=number))
    for number in range(10_000):
        history.ring(f"empty{number}")
        assert len(history) <= 18
    assert [name for name in dropped if name.startswith("used")] == []
    assert [bool(history.ring(f"used{number}")) for number in range(10)] == [True] * 10


def test_dropping_is_amortised() -> None:
    """Rings are dropped in batches, even while some stay empty for ever."""
    batches = 0
    history = History(1, topics=1000)
    prune = History._prune

    class Counting(History):
        __slots__ = ()

        def _prune(self) -> None:
            nonlocal batches
            batches += 1
            prune(self)

    history = Counting(1, topics=1000)
    for number in range(20_000):
        ring = history.ring(f"t{number}")
        if number % 2:
            ring.append(Event("t", number, 0.0, _number=number))
    assert batches <= 20_000 / 125


@pytest.mark.parametrize("topics", [1, 5, 40])
def test_fresh_ring_is_not_dropped_before_its_first_event(topics: int) -> None:
    """A ring just asked for outlives the asking and a few others asked for at once."""
    bus = Publisher(3, topics=topics)
    for number in range(10 * topics + 100):
        names = [f"t{number}:{other}" for other in range(3)]
        rings = [bus.history.ring(name) for name in names]
        bus.rings.update(zip(names, rings, strict=True))
        bus.publish(*names)
        for name, ring in zip(names[-topics:], rings[-topics:], strict=True):
            assert bus.history.ring(name) is ring
            assert bus.shown(name) == [ring[-1]._number]


def test_dropped_ring_starts_anew() -> None:
    """A topic that comes back after its ring was dropped has none of its old events."""
    bus = Publisher(5, topics=2)
    bus.publish("old", *(f"t{number}" for number in range(50)), "old")
    assert bus.dropped[0] == "old"
    assert bus.shown("old") == [bus.number]


def test_without_a_listener_rings_are_dropped_all_the_same() -> None:
    """`evicted` is optional."""
    history = History(1, topics=1)
    for number in range(100):
        history.ring(f"t{number}").append(Event("t", number, 0.0, _number=number))
    assert len(history) <= 9


@given(
    st.lists(st.integers(0, 25).map(lambda number: f"t{number % 2}:{number}"), max_size=200),
    st.integers(1, 3),
    st.integers(1, 12),
    st.integers(1, 30),
)
@example([f"t0:{number % 26}" for number in range(80)], 2, 3, 5)
def test_history_lies_between_two_models(
    published: list[str], size: int, topics: int, limit: int
) -> None:
    """What is shown is at least a strict LRU's and at most the full log's, in topics exactly."""
    bus = Publisher(size, topics=topics)
    least: OrderedDict[str, deque[int]] = OrderedDict()
    log: dict[str, list[int]] = {}
    for number, topic in enumerate(published, 1):
        bus.publish(topic)
        log.setdefault(topic, []).append(number)
        least.setdefault(topic, deque(maxlen=size)).append(number)
        least.move_to_end(topic)
        if len(least) > topics:
            least.popitem(last=False)
    shown = {topic: bus.shown(topic) for topic in log}
    assert {topic for topic, events in shown.items() if events} == set(least)
    for topic, events in least.items():
        assert shown[topic] == log[topic][-len(shown[topic]) :]
        assert [*events] == shown[topic][-len(events) :]
        assert len(shown[topic]) <= size
    for pattern in ("**", "t0:*", "t1:**"):
        matching = [n for t, events in shown.items() if Pattern(pattern).matches(t) for n in events]
        assert bus.shown(pattern, limit) == sorted(matching)[-limit:]
