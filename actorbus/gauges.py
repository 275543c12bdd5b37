"""Gauges: what a journal holds, for whoever exports it.

What the bus knows itself is read when it is asked for: how far the live durable subscriptions have
come. The rest is in the journal, whose thread looks it up between two commits: when the bus starts,
at each scrape, and when it comes to rest. A scrape gets what was found last, so it is answered
whatever the journal is doing, and after the end of the bus, too.

A durable subscription that nobody has subscribed to now holds back what it has not settled. The
journal does not know which of that it wants, so all of it counts (label ``_ended``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import msgspec

from actorbus import world
from actorbus.errors import JournalError
from actorbus.journal.base import Journal, Status
from actorbus.rows import ENDED, OTHERS, JournalReading
from actorbus.scribe import Scribe
from actorbus.window import Window


class _Found(msgspec.Struct, frozen=True):
    """What a look into a journal has found.

    Attributes:
        status: Its figures.
        held: Events that are held back for durable subscriptions without a subscriber.
        oldest: Unix seconds of the oldest of them; None if there is none.
    """

    status: Status = Status(0, 0, 0, 0, 0, 0, {}, 0.0)
    held: int = 0
    oldest: float | None = None


class Gauges:
    """Knows what a journal holds.

    Args:
        scribe: The way into the journal.
        windows: Of the live durable subscriptions, by name.
    """

    def __init__(self, scribe: Scribe, windows: Mapping[str, Window]) -> None:
        self._scribe = scribe
        self._windows = windows
        self._found = _Found()
        self._waiting: list[Callable[[], None]] = []

    def begin(self) -> None:
        """Look for the first time on a loop; who waited on another one waits no more."""
        self._waiting.clear()
        self.look(lambda: None)

    @property
    def looking(self) -> bool:
        """Whether a look is under way."""
        return bool(self._waiting)

    def look(self, then: Callable[[], None]) -> None:
        """Let the journal's thread look.

        Args:
            then: Called on the loop when it has, or could not.
        """
        self._waiting.append(then)
        if len(self._waiting) == 1:
            live, journal = frozenset(self._windows), self._scribe.journal
            self._scribe.call(lambda: _look(journal, live), self._told)

    def _told(self, found: _Found | None, _: JournalError | None) -> None:
        self._found = found or self._found
        waiting, self._waiting = self._waiting, []
        for then in waiting:
            then()

    def journal(self) -> JournalReading:
        """Return the figures of the whole."""
        commits, status = self._scribe.commits, self._found.status
        return JournalReading(
            commit_seconds=commits.seconds,
            commit_operations=commits.operations,
            uncommitted=self._scribe.uncommitted,
            events=status.events,
            dead_letters=status.dead,
            bytes=status.bytes,
            limit=status.limit or float("inf"),
        )

    def durables(self, labels: Mapping[str, str]) -> dict[str, tuple[int, float]]:
        """Return how many events are not read, and the age of the oldest one not settled.

        Args:
            labels: Of the durable subscriptions that are exported under one of their own.

        Returns:
            Both per label; the age is in seconds.
        """
        now, found = world.wall(), self._found
        rows = {ENDED: (found.held, _age(found.oldest, now))}
        for name, window in self._windows.items():
            label = labels.get(name, OTHERS)
            lag, age = rows.get(label, (0, 0.0))
            rows[label] = lag + window.unread, max(age, _age(window.oldest, now))
        return rows


def _look(journal: Journal, live: Collection[str]) -> _Found:
    """Look into a journal, in its thread."""
    status = journal.status()
    cursors = {name: cursor for name, cursor in status.cursors.items() if name not in live}
    held = sum(status.last - cursor - status.ahead.get(name, 0) for name, cursor in cursors.items())
    page = journal.read(min(cursors.values(), default=status.last), 1, lambda _: True)
    oldest = next((each.entry.time for each in page.records if each.sound), None)
    return _Found(status, held, oldest)


def _age(time: float | None, now: float) -> float:
    return 0.0 if time is None else max(0.0, now - time)
