"""Tape: a journal in front of a journal, which sees every commit and fails as it is told.

What it fails with is what a journal may fail with by its contract (`actorbus.journal.base`): a
commit that raises has not happened, a full journal may still take what makes room or nothing at
all, and a process may end in the midst of a commit, just before it is durable or just after.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from typing import Any, TypeVar

from actorbus.errors import JournalError, JournalFullError
from actorbus.journal.base import (
    Append,
    Grave,
    Journal,
    Opening,
    Operation,
    Page,
    Record,
    Result,
    Status,
    Wants,
)
from actorbus.testing.durable_books import DurableBooks

T = TypeVar("T")


class Disk(StrEnum):
    """How much room there is."""

    ROOMY = "roomy"
    FULL = "full"  # for events; what settles or buries still fits
    SOLID = "solid"  # to the last byte


class Tape:
    """What a bus of a model takes for its journal; one for each process.

    Args:
        journal: The journal behind it.
        books: Told of every commit.

    Attributes:
        disk: How much room there is.
        failures: How many of the next calls fail, as a disk may that is not full.
        deadly: Whether the process ends at the next commit, and on which side of it; None if not.
        seconds: How long a commit takes.
        is_open: Whether the journal is.
        die: Ends the process.
        gone: Whether the process has ended: then nothing reaches the journal any more.
    """

    def __init__(self, journal: Journal, books: DurableBooks) -> None:
        self.journal = journal
        self.books = books
        self.disk = Disk.ROOMY
        self.failures = 0
        self.deadly: str | None = None
        self.seconds = 0.0
        self.is_open = self.gone = False
        self.die: Callable[[], None] = lambda: None

    @property
    def url(self) -> str:
        """Where it is, for people."""
        return self.journal.url

    def mend(self) -> None:
        """Fail no more."""
        self.disk, self.failures, self.deadly = Disk.ROOMY, 0, None

    def open(self, durability: str) -> Opening:
        """Take possession; what is there must be what was committed."""
        opening = self._reach(lambda: self.journal.open(durability), may_fail=False)
        self.is_open = True
        self.books.opened(opening, self.journal.status())
        return opening

    def commit(self, operations: Sequence[Operation]) -> list[Result]:
        """Do all of it, or nothing."""
        time.sleep(self.seconds)
        self._check_alive()
        try:
            self._fail_if_told(operations)
            self.books.asked(operations)
            results = self._reach(lambda: self.journal.commit(operations))
        except JournalError:
            if not self.gone:
                self.books.refused(operations)
            raise
        self.books.committed(operations, results)
        if self.deadly is not None:
            self._end("the process has ended after its commit")
        return results

    def _fail_if_told(self, operations: Sequence[Operation]) -> None:
        if self.deadly == "before":
            self._end("the process has ended before its commit")
        appends = any(isinstance(each, Append) for each in operations)
        if self.disk is Disk.SOLID or (appends and self.disk is Disk.FULL):
            raise JournalFullError("no room")

    def _end(self, why: str) -> None:
        self.gone = True
        self.die()
        raise JournalError(why)

    def _reach(self, call: Callable[[], T], *, may_fail: bool = True) -> T:
        self._check_alive()
        if may_fail and self.failures:
            self.failures -= 1
            self.books.failures += 1
            raise JournalError("not now")
        return call()

    def _check_alive(self) -> None:
        if self.gone:
            raise JournalError("the process has ended")

    def read(self, after: int, limit: int, wants: Wants) -> Page:
        """Return a page of the log; damaged records are marked."""
        page = self._reach(lambda: self.journal.read(after, limit, wants))
        return Page(self._marked(page.records), page.upto, page.end)

    def recent(self, limit: int, wants: Wants, **bounds: Any) -> list[Record]:
        """Return the last wanted records; damaged ones are marked."""
        return self._marked(self._reach(lambda: self.journal.recent(limit, wants, **bounds)))

    def _marked(self, records: list[Record]) -> list[Record]:
        damaged = self.books.damaged
        return [Record(each.seq, each.entry, each.seq not in damaged) for each in records]

    def dead(self, after: str = "", limit: int = 1000, *, marked: str = "") -> list[Grave]:
        """Return dead letters in order of burial."""
        return self._reach(lambda: self.journal.dead(after, limit, marked=marked))

    def prune(self, now: float) -> bool:
        """Remove some of what is past retention; what a cursor needs has to stay."""
        more = self._reach(lambda: self.journal.prune(now))
        self.books.pruned(self.journal.status())
        return more

    def status(self) -> Status:
        """Return its figures."""
        return self._reach(self.journal.status)

    def verify(self, *, whole: bool = True) -> Iterator[tuple[int, int, str | None]]:
        """Look at everything."""
        return self._reach(lambda: self.journal.verify(whole=whole))

    def close(self, *, clean: bool) -> None:
        """Give it up."""
        if not self.gone:
            self.is_open = False
            self.journal.close(clean=clean)
            self.books.closed(clean=clean)
