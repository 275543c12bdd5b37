"""Survey: what a journal holds, told to people; a piece at a time, so that nobody waits for it.

The same for a journal at rest and for one whose bus runs: whoever asks reads the pages.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import msgspec

from actorbus.encoding import DamagedError, decoded
from actorbus.event import Event
from actorbus.journal.base import Page, Record, Status
from actorbus.topic import Pattern

PAGE = 1_000  # events read at a time


class DurableInfo(msgspec.Struct, frozen=True):
    """How far a durable subscription has come.

    Attributes:
        name: Its name.
        patterns: What it listened to when it last joined.
        cursor: Every event up to this number that concerns it is settled.
        lag: Events of its patterns that it has not settled; those that its ``exclude=`` takes out
            again are counted, for the journal does not know it.
    """

    name: str
    patterns: tuple[str, ...]
    cursor: int
    lag: int


class JournalInfo(msgspec.Struct, frozen=True):
    """What a journal holds, and for whom.

    Attributes:
        url: Where it is.
        events: Events kept.
        first: Number of the oldest one kept; 0 if there is none.
        last: Number of the last one ever kept; 0 if there was none.
        oldest: Unix seconds of the oldest event kept; None if there is none.
        bytes: Size on disk, with everything that belongs to it.
        limit: The most it may grow to; 0 for no limit.
        dead_letters: Dead letters kept.
        marked_for_replay: How many of them are to be replayed to each subscription.
        clean: Whether it was closed properly the last time.
        durables: The durable subscriptions.
    """

    url: str
    events: int
    first: int
    last: int
    oldest: float | None
    bytes: int
    limit: int
    dead_letters: int
    marked_for_replay: dict[str, int]
    clean: bool
    durables: tuple[DurableInfo, ...]


class Lags:
    """Counts what each durable subscription has not settled, by the patterns it had last.

    A damaged event is everybody's: its topic may be what is damaged.

    Args:
        status: Of the journal.

    Attributes:
        upto: Everything up to this number has been counted.
        last: The number to come to.
    """

    def __init__(self, status: Status) -> None:
        self.upto = min(status.cursors.values(), default=status.last)
        self.last = status.last
        self._status = status
        self._lags = {name: -status.ahead.get(name, 0) for name in status.cursors}
        patterns = {name: [*map(Pattern, texts)] for name, texts in status.patterns.items()}

        @lru_cache(10_000)
        def takers(topic: str) -> list[str]:
            return [name for name, its in patterns.items() if any(p.matches(topic) for p in its)]

        self._takers = takers

    def wants(self, topic: str) -> bool:
        """Return whether a topic is anybody's."""
        return bool(self._takers(topic))

    def count(self, page: Page) -> None:
        """Count the page behind what has been counted."""
        for record in page.records:
            for name in self._takers(record.entry.topic) if record.sound else self._lags:
                behind = self._status.cursors[name] < record.seq <= self.last
                self._lags[name] += behind
        self.upto = self.last if page.end else page.upto

    def info(self, url: str, *, clean: bool) -> JournalInfo:
        """Return all there is to tell.

        Args:
            url: Where the journal is.
            clean: Whether it was closed properly the last time.
        """
        status = self._status
        return JournalInfo(
            url, status.events, status.first, status.last, status.oldest or None, status.bytes,
            status.limit, status.dead, status.marked, clean,
            tuple(
                DurableInfo(name, status.patterns[name], cursor, max(self._lags[name], 0))
                for name, cursor in status.cursors.items()
            ),
        )  # fmt: skip


def fields_of(event: Event) -> dict[str, Any]:
    """Return an event as JSON shows it."""
    return {
        "id": event.id,
        "topic": event.topic,
        "time": event.time,
        "key": event.key,
        "headers": event.headers,
        "correlation_id": event.correlation_id,
        "causation_id": event.causation_id,
        "data": event.data,
    }


def line_of(record: Record) -> dict[str, Any]:
    """Return an event as an export writes it; a damaged one says so, and has no more than it is."""
    try:
        return {"seq": record.seq, **fields_of(decoded(record))}
    except DamagedError:
        entry = record.entry
        return {"seq": record.seq, "id": entry.id, "topic": entry.topic, "damaged": True}
