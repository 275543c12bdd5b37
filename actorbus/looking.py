"""Looking: what a bus tells of itself, and its journal. Nothing here changes the bus."""

from __future__ import annotations

import asyncio
from asyncio import _get_running_loop
from collections.abc import Generator, Iterable
from concurrent.futures import Future
from datetime import datetime
from threading import Event as Signal
from typing import Any

from actorbus.catchup import EVERYTHING
from actorbus.checks import whole
from actorbus.custody import Custody
from actorbus.dead_letter import DeadLetters
from actorbus.errors import ConfigurationError
from actorbus.event import Event
from actorbus.explain import Explanation, explain
from actorbus.ledger import Audit
from actorbus.lookback import ALWAYS, NEVER, Wanted, matching
from actorbus.options import moment
from actorbus.part import Part
from actorbus.past import HistoryStream
from actorbus.recorder import Recorder
from actorbus.rows import BusReading
from actorbus.tap import parse_patterns
from actorbus.topic import Pattern, check_topic

PATIENCE = 0.25  # seconds a reading waits for a journal that is held up


class Looking(Part):
    """The part of `EventBus` that tells: ledger, statistics, history, explanations, readings."""

    @property
    def dead_letters(self) -> DeadLetters:
        """The dead letters: iterate, ``list``, ``replay``, ``discard``."""
        self._engine.settle_lost_loop()
        return self._engine.dead_letters

    @property
    def journal(self) -> Custody:
        """The journal, for its owner: ``info``, ``verify``, ``prune``, ``export``, ``forget``.

        Raises:
            ConfigurationError: The bus has none.
        """
        engine = self._engine
        if engine.recorder is None or engine.replays is None:
            raise ConfigurationError(f"bus {engine.name!r} has no journal")
        return Custody(engine, engine.recorder, engine.replays)

    def explain(self, topic: str) -> Explanation:
        """Say who would get a topic, through which pattern, and which near misses would not."""
        check_topic(topic, system=True)
        return explain(topic, self._engine.registry.everyone(), self._engine.routes)

    def audit(self) -> Audit:
        """Return the ledger: every subscription's terms, and whether they balance."""
        self._engine.settle_lost_loop()
        return self._engine.registry.audit()

    def get_stats(self) -> dict[str, Any]:
        """Return the counts of the bus.

        Returns:
            ``events_published``, ``events_delivered`` (acked deliveries), ``delivery_failures``
            (dead ones), ``events_by_type`` (the first 200 topics that had a subscriber, the rest
            under ``_other``) and ``subscriptions`` (live ones).
        """
        totals = self.audit().totals
        published = self._engine.routes.published()
        return {
            "events_published": sum(published.values()),
            "events_delivered": totals.acked,
            "delivery_failures": totals.dead,
            "events_by_type": {topic: count for topic, count in published.items() if count},
            "subscriptions": len(self._engine.registry.live),
        }

    def get_history(
        self, pattern: str, limit: int = 10, *, since: datetime | float | None = None
    ) -> list[dict[str, Any]]:
        """Return the last events that match, oldest first, of those in memory.

        These are the last ``history`` events of each of the 1,000 topics used last; after a start
        with a journal the last 10,000 events of that. `read_history` goes further back.

        Args:
            pattern: A topic or a pattern.
            limit: How many at most.
            since: Only those from this time on: an aware datetime, or Unix seconds.

        Returns:
            Dicts with ``id``, ``topic``, ``timestamp`` (aware datetime, UTC) and ``data``.
        """
        at_most, start = whole("limit", limit), moment("since", since, default=ALWAYS)
        recent = self._engine.routes.recent
        if since is None:
            events = recent((Pattern(pattern),), at_most)
        else:
            new = [e for e in recent((Pattern(pattern),), EVERYTHING) if e.time >= start]
            events = new[max(0, len(new) - at_most) :]
        return [
            {"id": e.id, "topic": e.topic, "timestamp": e.timestamp, "data": e.data} for e in events
        ]

    def read_history(
        self,
        patterns: str | Iterable[str],
        *,
        since: datetime | float | None = None,
        until: datetime | float | None = None,
        after: int = 0,
        limit: int | None = None,
    ) -> HistoryStream:
        """Read the events of the past: ``async for event in bus.read_history("order:*")``.

        On a bus with a journal these are all events in it, from the oldest one it keeps to the last
        one that was published before the first event is asked for; else those in memory. They are
        read a piece at a time, while the bus goes on.

        Args:
            patterns: A topic, a pattern or several.
            since: Only those from this time on: an aware datetime, or Unix seconds.
            until: Only those before this time.
            after: Only those behind this number of the journal: the `HistoryStream.position` of an
                earlier reading, or the ``seq`` of an export.
            limit: Only the last so many; they are read before the first is given.

        Returns:
            The events, oldest first, as an asynchronous iterator.

        Raises:
            InvalidPatternError: A pattern breaks the grammar.
            ConfigurationError: An option is out of range, or `after` given without a journal.
        """
        parsed = parse_patterns(patterns)
        wanted = Wanted(
            matching(parsed),
            moment("since", since, default=ALWAYS),
            moment("until", until, default=NEVER),
            whole("after", after),
        )
        self._engine.registry.catchups.check(after)
        most = None if limit is None else whole("limit", limit)
        return HistoryStream(_Shelf(self, parsed), wanted, most)

    def reading(self) -> BusReading:
        """Copy the books for an exporter; callable on any thread.

        While the bus runs the copy is made on its loop, in one step as long as few subscriptions
        share a label; the calling thread waits. On the loop's own thread there is always one step.
        Another thread waits a moment, too, for what only the journal knows; on the loop's own that
        is what was found at the reading before.
        """
        engine = self._engine
        loop = engine.loop
        here = _get_running_loop() is loop
        if here:
            engine.look_into_journal()
        on = engine.running and not engine.forked
        if loop is None or here or not (on and loop.is_running()):
            return _at_once(self._read())
        made: Future[BusReading] = Future()
        try:
            if engine.recorder is not None:
                looked = Signal()
                loop.call_soon_threadsafe(engine.look_into_journal, looked.set)
                looked.wait(PATIENCE)
            loop.call_soon_threadsafe(_step, loop, self._read(), made)
        except RuntimeError:  # closed in between
            return _at_once(self._read())
        while True:
            try:
                return made.result(0.1)
            except TimeoutError:
                if not loop.is_running():
                    return _at_once(self._read())

    def _read(self) -> Generator[None, None, BusReading]:
        """Copy the books in steps, the first of which has all but what shares a label."""
        engine = self._engine
        engine.settle_lost_loop()
        reading = BusReading(
            bus=engine.name,
            published=engine.routes.published(),
            unrouted=engine.unrouted,
            blocked_seconds=engine.blocked_seconds,
            dead_letters_held=len(engine.dead_letters),
            loop_lag=None if engine.lag.lag is None else engine.lag.lag.copy(),
        )
        if engine.recorder is not None:
            gauges = engine.recorder.gauges
            reading.journal = gauges.journal()
            reading.durables = gauges.durables(engine.registry.durable_labels())
        reading.actors = yield from engine.registry.readings()
        return reading

    def sample_loop_lag(self) -> None:
        """Sample the event loop's lag from now on; metrics ask for it."""
        loop = self._engine.loop
        if loop is not None and loop.is_running() and _get_running_loop() is not loop:
            loop.call_soon_threadsafe(self._engine.lag.want)
        else:
            self._engine.lag.want()


class _Shelf:
    """Where a bus keeps its past."""

    def __init__(self, bus: Looking, patterns: tuple[Pattern, ...]) -> None:
        self._bus = bus
        self._patterns = patterns

    def reader(self) -> Recorder | None:
        recorder = self._bus._engine.recorder
        if recorder is not None:
            self._bus._begin_here(caused=True)
        return recorder

    def remembered(self, wanted: Wanted) -> list[Event]:
        events = self._bus._engine.routes.recent(self._patterns, EVERYTHING)
        return [each for each in events if wanted.since <= each.time < wanted.until]


_Steps = Generator[None, None, BusReading]


def _at_once(steps: _Steps) -> BusReading:
    """Take every step and return the result."""
    while True:
        try:
            next(steps)
        except StopIteration as last:
            return last.value  # type: ignore[no-any-return]  # what the generator says it returns


def _step(loop: asyncio.AbstractEventLoop, steps: _Steps, made: Future[BusReading]) -> None:
    """Take one step on the loop, and the next at its next turn."""
    try:
        next(steps)
    except StopIteration as last:
        made.set_result(last.value)
    except BaseException as error:
        made.set_exception(error)
        raise
    else:
        loop.call_soon(_step, loop, steps, made)
