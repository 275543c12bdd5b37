"""Head: what the owner of a journal file knows without asking, and how it is found at open.

A commit works on a copy, which takes the place of the old one when it is through. ``(last, tick)``
is another pair after every commit that changed anything, so it tells whether one has happened.

Source: two numbers are enough for what is kept, as in Kafka's log: from where, and up to where.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

from actorbus.errors import JournalCorruptError
from actorbus.journal.clock import JournalClock
from actorbus.journal.schema import seal_row

Ask = Callable[..., Any]


class Head:
    """The figures of an open journal.

    Attributes:
        last: Number of the last event.
        pruned: Number of the last event that is gone; everything between the two is there.
        tick: Counts the commits that did more than append.
        dead: Dead letters.
        clock: What ages are counted on.
        clean: Whether the file says that it was closed properly.
    """

    __slots__ = ("clean", "clock", "dead", "last", "pruned", "tick")

    def __init__(
        self, last: int, pruned: int, tick: int, dead: int, clock: JournalClock, *, clean: bool
    ) -> None:
        self.last = last
        self.pruned = pruned
        self.tick = tick
        self.dead = dead
        self.clock = clock
        self.clean = clean

    def copy(self) -> Head:
        """Return one that changes on its own."""
        return Head(
            self.last, self.pruned, self.tick, self.dead, self.clock.copy(), clean=self.clean
        )

    def is_at(self, other: Head) -> bool:
        """Return whether both are after the same commit."""
        return (self.last, self.tick) == (other.last, other.tick)

    def write(self, ask: Ask) -> None:
        """Write it down, inside a transaction."""
        self.tick += 1
        row = (self.pruned, self.last, +self.clean, self.tick)
        ask(
            "UPDATE log SET pruned = ?, last = ?, clean = ?, tick = ?, crc = ?",
            (*row, seal_row(*row)),
        )


def find(connection: sqlite3.Connection, window: float) -> Head:
    """Return the head of the file.

    Args:
        connection: To a file with the journal's tables.
        window: Seconds an id is remembered.

    Raises:
        JournalCorruptError: What was committed is missing, or what is noted of it is damaged.
    """
    ask = connection.execute
    row = ask("SELECT pruned, last, clean, tick, crc FROM log").fetchone()
    if row is None or seal_row(*row[:-1]) != row[-1]:
        raise JournalCorruptError("what is noted of the log is damaged: restore it from a backup")
    pruned, noted, clean, tick, _ = row
    (first,) = ask("SELECT min(seq) FROM event").fetchone()
    (last,) = ask("SELECT ifnull(max(seq), ?) FROM event", (pruned,)).fetchone()
    if last < noted or (first is not None and first <= pruned):
        raise JournalCorruptError(
            f"events are missing: the last was {noted}, found is {last}; restore the file from a "
            "backup"
        )
    (dead,) = ask("SELECT count(*) FROM dead").fetchone()
    (newest,) = ask("SELECT max(at) FROM seen").fetchone()
    clock = JournalClock(window) if newest is None else JournalClock(window, newest)
    return Head(last, pruned, tick, dead, clock, clean=bool(clean))
