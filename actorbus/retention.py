"""Retention: lets a journal forget what is old enough and needed by nobody.

Soon after a start and every minute from then on the journal is asked to prune, a piece at a time:
it does that in its thread, in its turn, so a commit waits for one piece at most, and between two
pieces whoever waits for the journal finds it idle.

A durable subscription that gets nothing settles nothing, and its cursor would hold back all that
others publish. So the idle ones are moved along with the minutes, and with what is committed:
counted in bytes, too, since a journal's limit may be as small as a few large events.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from actorbus import world
from actorbus.errors import JournalError
from actorbus.scribe import Scribe
from actorbus.window import Window

PERIOD = 60.0  # seconds from one look to the next
PAUSE = 0.005  # seconds between two pieces
EVENTS = 1_000  # committed, after which idle cursors are moved along
BYTES = 1 << 18  # or so much of them

log = logging.getLogger("actorbus")


class Retention:
    """Prunes a journal while its bus runs.

    Args:
        scribe: The way into the journal.
        windows: Of the live durable subscriptions, by name.
    """

    def __init__(self, scribe: Scribe, windows: Mapping[str, Window]) -> None:
        self._scribe = scribe
        self._windows = windows
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._events = self._bytes = 0

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look after the journal from now on."""
        self.end()
        self._loop = loop
        self._look_in(PAUSE)

    def end(self) -> None:
        """Do nothing more."""
        self._loop = None
        if self._timer is not None:
            self._timer.cancel()

    def committed(self, size: int) -> None:
        """Take note of an event, of so many bytes."""
        self._events += 1
        self._bytes += size
        if self._events >= EVENTS or self._bytes >= BYTES:
            self.move_along()

    def move_along(self) -> None:
        """Let idle cursors hold nothing back."""
        self._events = self._bytes = 0
        for window in self._windows.values():
            window.idle()

    def _look_in(self, seconds: float) -> None:
        if self._loop is not None:
            self._timer = self._loop.call_later(seconds, self._look)

    def _look(self) -> None:
        self.move_along()
        now = world.wall()
        self._scribe.call(lambda: self._scribe.journal.prune(now), self._pruned)

    def _pruned(self, more: bool | None, error: JournalError | None) -> None:
        if error is not None and self._scribe.is_open:
            log.error("what is past retention stays in the journal: %s", error)
        self._look_in(PAUSE if more else PERIOD)
