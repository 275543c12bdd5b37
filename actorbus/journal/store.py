"""Store: the one connection to a journal file, and the transactions on it.

Invariant: `Store.head` is what the file holds. A transaction gets a copy to work on; it counts when
COMMIT has returned.

After an error that leaves open what is on the disk (a failed sync, say) the answer is looked up:
the file is closed and opened again, and its log written back, for what a failed sync has lost no
later one brings. Source: "fsyncgate" (PostgreSQL, 2018).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TypeVar

import msgspec

from actorbus.errors import JournalError
from actorbus.journal import schema
from actorbus.journal.head import Head, find
from actorbus.journal.trouble import SuppressFull, is_unclear

T = TypeVar("T")
Action = Callable[[sqlite3.Connection, Head], T]
"""What a transaction does; the head is its own copy."""

_MIB = 1 << 20


class Sizes(msgspec.Struct, frozen=True):
    """How the room a journal may take is shared out.

    Attributes:
        ballast: Bytes of the ballast.
        log: Bytes after which the write-ahead file is written back; it may be twice as long.
        pages: Pages of the file that events may fill.
        letters: Pages beyond, for dead letters too.
        reserve: Pages beyond those, for what makes room: settling, exhuming, pruning.
    """

    ballast: int
    log: int
    pages: int
    letters: int
    reserve: int

    @classmethod
    def of(cls, max_bytes: int) -> Sizes:
        """Share `max_bytes` out."""
        log = min(4 * _MIB, max_bytes // 16)
        ballast = log * 5 // 2
        pages = (max_bytes - ballast - 2 * log) // schema.PAGE
        part = pages // 16
        return cls(ballast, log, pages - 2 * part, part, part)


class Store:
    """A journal file that is open.

    Args:
        connect: Makes a connection.
        durability: What a commit survives.
        window: Seconds an id is remembered.
        sizes: The room there is.

    Attributes:
        head: What the file holds.
    """

    head: Head

    def __init__(
        self,
        connect: Callable[[], sqlite3.Connection],
        durability: str,
        window: float,
        sizes: Sizes,
    ) -> None:
        self._connect = connect
        self._durability = durability
        self._window = window
        self._sizes = sizes
        self._connection: sqlite3.Connection | None = None

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection; a new one, if there is none or the last had to be given up.

        Raises:
            sqlite3.Error, JournalError: It cannot be opened.
        """
        if self._connection is None:
            self._open()
        assert self._connection is not None  # noqa: S101 - open has made it, told to mypy
        return self._connection

    @property
    def is_open(self) -> bool:
        """Whether there is a connection."""
        return self._connection is not None

    def _open(self) -> Head:
        """Connect, make the tables if there are none, and return the head that was found.

        What was read from the log may be in the system's memory only, and a sync that failed before
        would not fail again. So the log is written back, and a commit follows, which starts a new
        one and syncs it: what is left of the old one on the disk is void.

        Raises:
            sqlite3.Error, JournalError: It cannot be opened.
        """
        self._connection = connection = self._connect()
        try:
            is_made = schema.prepare(connection, self._durability)
            ask = connection.execute
            ask(f"PRAGMA wal_autocheckpoint={self._sizes.log // schema.PAGE}")
            ask(f"PRAGMA journal_size_limit={self._sizes.log}")
            if not is_made:
                schema.create(connection)
            self._allow(self._sizes.pages)
            found = find(connection, self._window)
            with SuppressFull():
                ask("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            self.head = found.copy()
            ask("BEGIN IMMEDIATE")
            self.head.write(ask)
            ask("COMMIT")
        except BaseException:
            self.close()
            raise
        return found

    def close(self) -> None:
        """Let the file go; what has been committed is written back."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    def run(self, action: Action[T]) -> T:
        """Do something in a transaction, and return its result when it is durable.

        Raises:
            sqlite3.Error: It has not happened.
            JournalError: It cannot even be said whether it has.
        """
        connection, head = self.connection, self.head.copy()
        try:
            connection.execute("BEGIN IMMEDIATE")
            result = action(connection, head)
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            if self._undo(connection) and not is_unclear(error):
                raise
            if not self._has_happened(head, error):
                raise
            return result
        except BaseException:
            if not self._undo(connection):
                self.close()
            raise
        self.head = head
        return result

    def for_letters(self) -> AbstractContextManager[None]:
        """Let dead letters fill the file a little further."""
        return self._within(self._sizes.pages + self._sizes.letters)

    def reserve(self) -> AbstractContextManager[None]:
        """Let what makes room fill the file a little further than anything else."""
        return self._within(self._sizes.pages + self._sizes.letters + self._sizes.reserve)

    def frozen(self) -> AbstractContextManager[None]:
        """Let nothing but what is free inside the file be filled."""
        (pages,) = self.connection.execute("PRAGMA page_count").fetchone()
        return self._within(min(pages, self._sizes.pages))

    @contextmanager
    def _within(self, pages: int) -> Iterator[None]:
        self._allow(pages)
        try:
            yield
        finally:
            if self._connection is not None:
                self._allow(self._sizes.pages)

    def is_crowded(self) -> bool:
        """Return whether events fill so much of their room that the oldest should go."""
        (free,) = self.connection.execute("PRAGMA freelist_count").fetchone()
        (pages,) = self.connection.execute("PRAGMA page_count").fetchone()
        return bool(pages - free > self._sizes.pages * 7 // 8)

    def _allow(self, pages: int) -> None:
        self.connection.execute(f"PRAGMA max_page_count={pages}").fetchone()

    def _undo(self, connection: sqlite3.Connection) -> bool:
        """Roll back if SQLite has not; return whether that went well."""
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            return False
        return True

    def _has_happened(self, head: Head, error: sqlite3.Error) -> bool:
        """Look up whether a transaction that ended with an error has happened all the same."""
        before = self.head
        self.close()
        try:
            found = self._open()
        except (sqlite3.Error, JournalError) as again:
            self.close()
            raise JournalError(
                f"{error}; whether the last commit has happened is not known before the file can "
                f"be opened again ({again}): see to its disk"
            ) from again
        return found.is_at(head) and not before.is_at(head)
