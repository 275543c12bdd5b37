"""History: the last events of the topics in use.

One ring (a bounded deque) per topic. What stands in it is an event, or a receipt that can make its
event when somebody asks. A receipt holds the route of its time, and so the subscriptions: when a
topic's ring is asked for again, because its route has changed, all in it become events, each once.
Whoever publishes keeps the ring beside the topic's route and
appends to it, so an event costs one ``deque.append`` and nothing is looked up.

Kept: the last ``size`` events of each of the ``topics`` most recently used topics. A topic's last
use is the number of the newest event in its ring, which every append sets without further work; it
is read only when there are too many rings.

Invariants: `last` shows no topic outside the ``topics`` most recently used ones; at most
1.25 x ``topics`` rings are held (8 more than ``topics`` when those are few), whatever topics are
asked for; a ring still without events is kept while it is among the newest ``topics`` / 8 of those
(4 at least), so the append must follow `History.ring` closely.

Complexity: `ring` is O(1) amortised: the rings are ranked, O(n log n), once per ``topics`` / 8 new
ones at least. `last` is a dict look-up for an exact pattern, otherwise one match per ring and the
merge of at most ``limit`` rings.

Source: dropping in batches with some slack instead of an ordered dict is our own; keeping an LRU
order would cost a move per publish.
"""

from __future__ import annotations

from collections import deque
from heapq import nlargest
from typing import TYPE_CHECKING, Final, Protocol

from actorbus.event import Event

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from actorbus.topic import Pattern

_LEAST_SLACK: Final = 8


class Unmade(Protocol):
    """What can make its event when somebody asks."""

    @property
    def _number(self) -> int: ...

    @property
    def event(self) -> Event:
        """The event."""


Entry = Event | Unmade


class History:
    """Bounded rings of events, one per topic.

    Args:
        size: Events kept per topic; 0 keeps nothing.
        topics: Topics kept, the most recently used ones.
        evicted: Called with the topic of each ring that is dropped: whoever kept that ring must
            ask for a new one before the next append.

    Raises:
        ValueError: `size` is negative or `topics` below 1.
    """

    __slots__ = (
        "_evicted", "_made", "_missing", "_nothing", "_rings", "_size", "_slack", "_topics",
    )  # fmt: skip

    def __init__(
        self, size: int, *, topics: int = 1000, evicted: Callable[[str], None] | None = None
    ) -> None:
        if size < 0 or topics < 1:
            raise ValueError(
                f"size must be 0 or more and topics 1 or more, not {size} and {topics}"
            )
        self._size = size
        self._topics = topics
        self._slack = max(topics // 4, _LEAST_SLACK)
        self._evicted = evicted
        self._rings: dict[str, deque[Entry]] = {}
        self._made: dict[str, Entry] = {}  # per topic: it and what is older are events
        self._nothing: deque[Entry] = deque(maxlen=0)
        self._missing = float("-inf")  # the number up to which whole topics may be missing

    def __len__(self) -> int:
        """Return the number of rings held."""
        return len(self._rings)

    def ring(self, topic: str) -> deque[Entry]:
        """Return the ring of a topic, to append its events to in publish order.

        A ring that a topic has not had yet may drop others; `evicted` is called for each.

        Args:
            topic: A valid topic; it is not checked again.
        """
        if not self._size:
            return self._nothing
        ring = self._rings.get(topic)
        if ring is None:
            if len(self._rings) >= self._topics + self._slack:
                self._prune()
            ring = self._rings[topic] = deque(maxlen=self._size)
        elif ring:
            self._make(topic, ring)
        return ring

    def _make(self, topic: str, ring: deque[Entry]) -> None:
        """Turn every receipt of a ring into its event."""
        made, fresh = self._made.get(topic), deque[Entry]()
        while ring and ring[-1] is not made:
            entry = ring.pop()
            fresh.appendleft(entry if isinstance(entry, Event) else entry.event)
        ring.extend(fresh)
        self._made[topic] = ring[-1]

    def doubt(self, number: int) -> None:
        """Take note that of the events up to a number some may not be here."""
        self._missing = number

    def recall(self, events: list[Event], *, whole: bool) -> None:
        """Put in events of before.

        Args:
            events: The last ones, oldest first; their numbers are below those of all others.
            whole: Whether there were no others before.
        """
        self._missing = float("-inf") if whole else events[0]._number - 1 if events else 0
        for event in reversed(events):
            ring = self.ring(event.topic)
            if len(ring) != ring.maxlen:
                ring.appendleft(event)

    def whole_from(self, pattern: Pattern) -> float:
        """Return the number of an event from which on nothing that matches is missing here.

        Minus infinity, if nothing was ever lost; infinity, if it is not known: once there were too
        many topics, there is always one more than are shown.
        """
        if not self._size or len(self._rings) > self._topics:
            return float("inf")
        full = [ring for ring in self._matching(pattern) if len(ring) == ring.maxlen]
        return max([self._missing + 1, *(_number(ring[0]) for ring in full)])

    def last(self, pattern: Pattern, limit: int) -> list[Event]:
        """Return the last events whose topic matches, oldest first, in publish order.

        Args:
            pattern: Which topics.
            limit: Events at most; 0 or less gives none.
        """
        if limit <= 0:
            return []
        # A ring older than `limit` others that match has nothing newer than any of their last
        # events, so it cannot contribute.
        rings = nlargest(limit, self._matching(pattern), key=_last_use)
        entries = [entry for ring in rings for entry in list(ring)[-limit:]]
        entries.sort(key=_number)
        return [e if isinstance(e, Event) else e.event for e in entries[-limit:]]

    def _matching(self, pattern: Pattern) -> Iterable[deque[Entry]]:
        """Return the rings to show for a pattern; none is empty."""
        if pattern.exact:
            ring = self._rings.get(pattern.text)
            return [ring] if ring and self._is_recent(ring) else []
        rings = {topic: ring for topic, ring in self._rings.items() if ring}
        if len(rings) > self._topics:
            rings = dict(nlargest(self._topics, rings.items(), key=lambda item: _last_use(item[1])))
        return [ring for topic, ring in rings.items() if pattern.matches(topic)]

    def _is_recent(self, ring: deque[Entry]) -> bool:
        """Return whether `ring` is one of the `topics` most recently used."""
        if len(self._rings) <= self._topics:
            return True
        used = _last_use(ring)
        newer = sum(1 for other in self._rings.values() if other and _last_use(other) > used)
        return newer < self._topics

    def _prune(self) -> None:
        """Drop the least recently used rings, down to `topics` and a few that are still empty.

        An empty ring was asked for and its event is about to come, so it is no older than the
        others. Only half the slack is spent on such rings: those that never get an event must
        neither pile up nor make every call prune.
        """
        used = sorted((t for t, ring in self._rings.items() if ring), key=self._last_use_of)
        empty = [t for t, ring in self._rings.items() if not ring]
        dropped = used[: -self._topics] + empty[: -(self._slack // 2)]
        for topic in dropped:
            del self._rings[topic]
            self._made.pop(topic, None)
        if self._evicted is not None:
            for topic in dropped:
                self._evicted(topic)

    def _last_use_of(self, topic: str) -> int:
        return _last_use(self._rings[topic])


def _number(entry: Entry) -> int:
    return entry._number


def _last_use(ring: deque[Entry]) -> int:
    return _number(ring[-1])
