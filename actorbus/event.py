"""Event: one immutable fact.

An event is a frozen ``msgspec.Struct``: about half the cost of a slots class, measured. It stays
visible to the garbage collector, because a payload may hold a cycle through user objects.

Ids are formatted when they are read: most events are handled without anybody asking. An id is the
run of the process (20 hexadecimal digits, sortable by time), a dash, and the event's number in that
run (12 digits), so ids of one bus sort by publish order and no two buses, processes or forks share
one.
"""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from actorbus import world


class Event(msgspec.Struct, frozen=True, eq=False, repr_omit_defaults=True):
    """An immutable fact: what was published, when, and why.

    Attributes:
        topic: Segments joined by ``:``, such as ``task_manager:task_created``.
        data: The payload, passed by reference; it must not be changed after publish.
        time: Unix seconds at the publish call.
        key: The publish key, or None.
        headers: What the publisher attached; a mapping of its own choosing, or None.
    """

    topic: str
    data: Any
    time: float
    key: Any = None
    headers: Any = None
    _run: str = ""
    _number: int = 0
    _id: str | None = None
    _correlation: str | int | None = None  # a number is that of an event of the same run
    _causation: str | int | None = None
    _hops: int = 0

    @property
    def id(self) -> str:
        """The event's id: unique across processes and forks, sortable by publish order."""
        return self._id or self._full(self._number)

    @property
    def correlation_id(self) -> str:
        """The id of the conversation; a root event's is its own id."""
        return self.id if self._correlation is None else self._full(self._correlation)

    @property
    def causation_id(self) -> str | None:
        """The id of the event in whose handling this one was published, or None for a root."""
        return None if self._causation is None else self._full(self._causation)

    @property
    def timestamp(self) -> datetime:
        """The time of publishing as an aware datetime in UTC."""
        return datetime.fromtimestamp(self.time, UTC)

    def _full(self, id_: str | int) -> str:
        return f"{self._run}-{id_:012x}" if isinstance(id_, int) else id_

    def with_data(self, data: Any) -> Event:
        """Return the same event with another payload, as a copying bus hands it out."""
        return msgspec.structs.replace(self, data=data)

    def __repr__(self) -> str:
        """Show what identifies the event; payloads stay out of logs."""
        return f"Event(id={self.id!r}, topic={self.topic!r})"


NUMBERS: Final = itertools.count(1)
"""Numbers of the events of all buses of the process, which share one run's name."""


def new_event(
    topic: str,
    data: Any,
    key: Any = None,
    headers: Any = None,
    id: str | None = None,  # noqa: A002 the publish option
    correlation_id: str | None = None,
    cause: Event | None = None,
) -> Event:
    """Make an event that is published now; its cause decides its conversation."""
    time, run, number = world.wall(), world.run.name, next(NUMBERS)
    if cause is None:
        return Event(topic, data, time, key, headers, run, number, id, correlation_id)
    if cause._run == run:  # then a number will do: few ids are ever read
        causation = cause._id or cause._number
        correlation = correlation_id or cause._correlation or causation
    else:
        causation, correlation = cause.id, correlation_id or cause.correlation_id
    return Event(
        topic, data, time, key, headers, run, number, id, correlation, causation, cause._hops + 1
    )
