"""Streams: events as an aiostream stream, for pipelines of operators.

::

    from aiostream import pipe
    from actorbus.streams import stream

    def payload(event: Event, *_: Event) -> Any:
        return event.data

    batches = stream(bus, "task:*") | pipe.map(payload) | pipe.chunks(100)
    async with batches.stream() as streamer:
        async for batch in streamer:
            writer.tell(batch)

A stream is ``bus.events`` inside: bounded, its oldest event dropped when nobody reads, listening
from its first step to the moment it is left, by its end, an error or a cancellation.

aiostream is licensed under the GPL, version 3 or later, and this project under MIT: so this is the
only file that imports it, and it comes with the extra ``actorbus[streams]`` only.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from datetime import datetime
from typing import TYPE_CHECKING

from actorbus.event import Event
from actorbus.words import Overflow

if TYPE_CHECKING:
    from aiostream.core import Stream

    from actorbus.bus import EventBus
    from actorbus.tap import EventStream

try:
    from aiostream import operator
except ImportError as missing:
    raise ImportError(
        "actorbus.streams needs aiostream: install actorbus[streams]", name="aiostream"
    ) from missing


def stream(
    bus: EventBus,
    patterns: str | Iterable[str],
    *,
    mailbox: int = 1000,
    overflow: Overflow | str = Overflow.DROP_OLD,
    replay: int = 0,
    since: datetime | float | None = None,
    after: int = 0,
) -> Stream[Event]:
    """Return an aiostream stream of events.

    It may be run several times, and at the same time: each run is a subscription of its own, which
    begins with the run and ends with it. Cancelling a run ends its subscription.

    Args:
        bus: The bus.
        patterns: A pattern or several.
        mailbox: Events the buffer holds.
        overflow: ``drop_old``, ``drop_new`` or ``latest``: what the full buffer drops.
        replay: Begin with the last so many matching events of the history.
        since: Of these only those from this time on: an aware datetime, or Unix seconds.
        after: Of these only those behind this number of the journal.

    Returns:
        A stream; it ends when the bus is closed.

    Raises:
        ConfigurationError: An option is out of range.
        InvalidPatternError: A pattern breaks the grammar.
    """
    wanted = [patterns] if isinstance(patterns, str) else list(patterns)

    def listening() -> EventStream:
        return bus.events(
            wanted, mailbox=mailbox, overflow=overflow, replay=replay, since=since, after=after
        )

    listening()  # checks, here and now

    async def follow() -> AsyncIterator[Event]:
        async with listening() as events:
            async for event in events:
                yield event

    follow.__name__ = "stream"
    made: Stream[Event] = operator(follow)()
    return made
