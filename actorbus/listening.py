"""Listening: streams of events, and waiting for one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

from actorbus.event import Event
from actorbus.part import Part
from actorbus.tap import EventStream, Found, Tap, Waiting, parse_patterns
from actorbus.words import Overflow


class Listening(Part):
    """The part of `EventBus` that hands events to a waiting task."""

    def events(
        self,
        patterns: str | Iterable[str],
        *,
        mailbox: int = 1000,
        overflow: Overflow | str = Overflow.DROP_OLD,
        replay: int = 0,
        since: datetime | float | None = None,
        after: int = 0,
    ) -> EventStream:
        """Open a stream: ``async with bus.events("task:*") as events: async for event in events``.

        Args:
            patterns: A pattern or several.
            mailbox: Events the buffer holds.
            overflow: ``drop_old``, ``drop_new`` or ``latest``; what is dropped is counted.
            replay: Begin with the last so many matching events of the history.
            since: Of these only those from this time on: an aware datetime, or Unix seconds.
            after: Of these only those behind this number of the journal.

        Raises:
            ConfigurationError: An option is out of range.
            InvalidPatternError: A pattern breaks the grammar.
        """
        name = (
            f"events:{','.join(map(str, parsed))}" if (parsed := parse_patterns(patterns)) else ""
        )
        stream = EventStream(_TapHost(self), name, parsed, mailbox, overflow, replay, since, after)
        self._engine.registry.catchups.check(after)
        return stream

    async def wait_for(
        self,
        patterns: str | Iterable[str],
        *,
        where: Callable[[Event], Any] | None = None,
        timeout: float | None = None,
    ) -> Event:
        """Wait for the next matching event.

        Args:
            patterns: A pattern or several.
            where: Takes the event and says whether it is the one.
            timeout: Seconds; None waits for ever.

        Returns:
            The event.

        Raises:
            TimeoutError: None came in time.
            BusClosedError: The bus was closed meanwhile.
            Exception: Whatever `where` raises.
        """
        parsed = parse_patterns(patterns)
        tap = Waiting(self._engine.name, f"wait:{','.join(map(str, parsed))}", parsed, where)
        host = _TapHost(self)
        host.add_tap(tap)
        try:
            async with asyncio.timeout(timeout):
                return await tap.found
        finally:
            host.remove_tap(tap)


class _TapHost:
    """How a stream reaches its bus, starting it if need be."""

    def __init__(self, bus: Listening) -> None:
        self._bus = bus
        self.name = bus._engine.name

    def add_tap(self, tap: Tap) -> None:
        self._bus._begin_here(caused=False)
        self._bus._engine.registry.add_tap(tap)

    def replay(
        self, stream: EventStream, count: int, since: float, after: int, found: Found
    ) -> None:
        self._bus._engine.registry.catchups.to_stream(stream, count, since, after, found)

    def remove_tap(self, tap: Tap) -> None:
        self._bus._engine.registry.remove_tap(tap)
