"""SqliteJournal: one file that survives ``kill -9`` and, if asked to, power loss.

The standard library's `sqlite3` in WAL mode, one connection, one transaction for each commit.
Everything beyond that is in the files beside this one:

    place    where the file may be, and for whom
    lock     who owns it; what a forked child may not do
    wal      whether the write-ahead file is damaged, seen before SQLite sees it
    schema   the tables, the pragmas, the checksum of a row
    head     what the owner knows without asking
    writing  operations as statements
    transacting  statements of the program's own, on tables of its own
    reading  rows as records
    pruning  what nobody needs, a little at a time
    room     what is still written when there is little left
    ballast  room for a full disk
    store    the connection; transactions, and whether they have happened
    trouble  what SQLite's errors mean
    address  a journal's URL

Not covered: media that fail, network file systems, a copy of the file without its ``-wal``, a drive
that says it has written and has not.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import NoReturn, Self

import msgspec

from actorbus.errors import (
    ConfigurationError,
    JournalCorruptError,
    JournalError,
    TransactionError,
)
from actorbus.journal import pruning, reading, transacting
from actorbus.journal.address import parse
from actorbus.journal.ballast import Ballast
from actorbus.journal.base import (
    Append,
    Bury,
    Grave,
    Opening,
    Operation,
    Page,
    Record,
    Result,
    Status,
    Wants,
)
from actorbus.journal.effects import Found, Statement, Transact
from actorbus.journal.head import Head
from actorbus.journal.lock import Ownership, lock_path
from actorbus.journal.place import Whereabouts, check_directory, claim
from actorbus.journal.room import EVER, Room, make_room
from actorbus.journal.schema import check_durability, encode
from actorbus.journal.store import Action, Sizes, Store, T
from actorbus.journal.trouble import told
from actorbus.journal.wal import is_damaged
from actorbus.journal.writing import Durable, Writing

_MIB = 1 << 20
_WEEK = 7 * 86_400.0
_LAST = (1 << 63) - 1
_CHECKED = 256 * _MIB
"""Bytes up to which a file is checked whole after an unclean end: about a third of a second."""


class SqliteJournal:
    """A journal in one SQLite file.

    Args:
        path: Of the file; its directory must exist. Beside it are ``-wal``, ``.lock`` and
            ``.ballast``.
        max_bytes: The most all of them may take, at least 1 MiB. A single commit may exceed it by
            its own size for a moment.
        retention: Seconds an event is kept after it was published, unless the room is needed.
        window: Seconds an id is remembered (`Entry.once`).

    Raises:
        ConfigurationError: An option is out of range.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        max_bytes: int = 1 << 30,
        retention: float = _WEEK,
        window: float = 600.0,
    ) -> None:
        if max_bytes < _MIB:
            raise ConfigurationError(f"max_bytes must be at least {_MIB}, not {max_bytes}")
        if not (retention >= 0 and window >= 0):
            raise ConfigurationError("retention and window are seconds, and at least 0")
        self.path = Path(path).absolute()
        self._url = f"sqlite:///{path}"
        self._limit = max_bytes
        self._retention = retention
        self._window = window
        self._sizes = Sizes.of(max_bytes)
        self._ballast = Ballast(self._beside(".ballast"), self._sizes.ballast)
        self._room = Room(self.path, max_bytes, self._sizes, self._ballast)
        self._ownership: Ownership | None = None
        self._store: Store | None = None
        self._whereabouts: Whereabouts | None = None

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Make one from ``sqlite:///events.db?max_bytes=...&retention=...&window=...``.

        Raises:
            ConfigurationError: It is no such URL, or an option is unknown or out of range.
        """
        path, options = parse(url)
        return cls(path, **options)

    @property
    def url(self) -> str:
        """Where it is, for people."""
        return self._url

    # -- possession -------------------------------------------------------------------------------

    def open(self, durability: str) -> Opening:
        """Take possession; see `actorbus.journal.base.Journal.open`."""
        check_durability(durability)
        with told(self.path):
            check_directory(self.path.parent)
            ownership = Ownership(self.path)
            try:
                opening = self._take(ownership, durability)
                ownership.declare(durability)
            except BaseException:
                self._let_go()
                ownership.release()
                raise
        self._ownership = ownership
        self._whereabouts = Whereabouts(self.path)
        return opening

    def close(self, *, clean: bool) -> None:
        """Give it up; see `actorbus.journal.base.Journal.close`.

        An end that cannot be noted, on a full disk say, counts as unclean.
        """
        ownership, self._ownership = self._ownership, None
        if ownership is None:
            return
        if ownership.is_ours and clean and self._store is not None:
            with suppress(sqlite3.Error, JournalError):
                self._store.run(_note_end)
        if ownership.is_ours:
            self._let_go()
        ownership.release()

    def _take(self, ownership: Ownership, durability: str) -> Opening:
        warnings = [*self._look_at_log(ownership.before)]
        if not claim(self.path) and not self.path.stat().st_size:
            warnings.append(f"journal {self.path.name!r} was empty: it starts anew")
        if not self._ballast.restore():
            warnings.append(
                f"the disk has no room for a ballast of {self._sizes.ballast} bytes: if it fills "
                "up, nothing can be settled or pruned until there is space again"
            )

        def connect() -> sqlite3.Connection:
            connection = self._connect()
            ownership.guard(connection)
            return connection

        self._store = store = Store(connect, durability, self._window, self._sizes)
        clean = self._room.with_ballast(lambda: self._begin(store))
        return Opening(last=store.head.last, clean=clean, warnings=tuple(warnings))

    def _look_at_log(self, before: str) -> Iterator[str]:
        """Look at the write-ahead file before SQLite takes damage for its end."""
        if not is_damaged(self._beside("-wal")):
            return
        if before != "process":
            raise JournalCorruptError(
                "its write-ahead file is damaged, and committed events are lost: restore the file "
                "from a backup, or accept the loss by opening it once with the sqlite3 program"
            )
        yield (
            f"journal {self.path.name!r} was written with durability='process', and the newest "
            "commits before a power loss are gone"
        )

    def _begin(self, store: Store) -> bool:
        """Check what is there, and note that somebody has it; return whether it was left clean."""
        connection, clean = store.connection, store.head.clean
        reading.check(connection, whole=not clean and self.path.stat().st_size < _CHECKED)
        store.run(_note_begin)
        return clean

    def _let_go(self) -> None:
        store, self._store = self._store, None
        if store is not None:
            store.close()

    def _connect(self) -> sqlite3.Connection:
        """Connect; calls come one at a time, but not from one thread."""
        return sqlite3.connect(self.path, timeout=0, isolation_level=None, check_same_thread=False)

    def _beside(self, end: str) -> Path:
        return self.path.with_name(self.path.name + end)

    @contextmanager
    def _working(self) -> Iterator[Store]:
        """Give the store to a call that needs it, and name the file in what goes wrong."""
        ownership, store = self._ownership, self._store
        if ownership is None or store is None:
            raise JournalError(f"journal {str(self.path)!r} is not open")
        if not ownership.is_ours:
            raise JournalError(
                f"journal {str(self.path)!r} was opened before a fork: only the parent may use it"
            )
        with told(self.path):
            yield store

    # -- writing ----------------------------------------------------------------------------------

    def commit(self, operations: Sequence[Operation]) -> list[Result]:
        """Do all of it, or nothing; see `actorbus.journal.base.Journal.commit`."""
        refused: dict[int, TransactionError] = {}

        def write(connection: sqlite3.Connection, head: Head) -> list[Result]:
            return Writing(connection, head, refused).do(operations)

        kinds = {type(operation) for operation in operations}
        with self._working() as store:
            if self._whereabouts is not None and store.is_open:  # else its log is made anew
                self._whereabouts.look(monotonic())
            while True:
                try:
                    return self._commit(store, kinds, write)
                except transacting.Spoilt as spoilt:
                    refused[id(spoilt.transact)] = spoilt.error

    def _commit(
        self, store: Store, kinds: set[type[Operation]], write: Action[list[Result]]
    ) -> list[Result]:
        if Append in kinds or Transact in kinds:
            return self._room.keep(store, write)
        if Bury in kinds:
            return self._room.with_ballast(lambda: self._room.bury(store, write))
        return self._room.with_ballast(lambda: self._room.beyond(store, write))

    def preview(self, transact: Transact, query: Statement | None = None) -> Found:
        """Look ahead; see `actorbus.journal.effects.Transactional.preview`."""

        def look(connection: sqlite3.Connection, head: Head) -> NoReturn:
            raise transacting.Seen(Writing(connection, head).look(transact, query))

        with self._working() as store:
            try:
                return self._room.beyond(store, look)  # it is taken back, and fills nothing
            except transacting.Seen as seen:
                return seen.found

    def prune(self, now: float) -> bool:
        """Remove some of what is not needed; see `actorbus.journal.base.Journal.prune`."""
        with self._working() as store:
            if self._ballast.given_up:
                self._ballast.restore()
            until = EVER if store.is_crowded() else now - self._retention

            def remove(connection: sqlite3.Connection, head: Head) -> bool:
                more = make_room(connection, head, until)
                return pruning.forget_ids(connection, head, now) or more

            more = self._room.with_ballast(lambda: self._room.beyond(store, remove))
            return more or pruning.shrink(store.connection)

    # -- reading ----------------------------------------------------------------------------------

    def read(self, after: int, limit: int, wants: Wants) -> Page:
        """Return a page of the log; see `actorbus.journal.base.Journal.read`."""
        with self._working() as store:
            return reading.read(store.connection, store.head, after, limit, wants)

    def recent(
        self, limit: int, wants: Wants, *, since: float = 0.0, behind: int = 0, before: int = 0
    ) -> list[Record]:
        """Return the last wanted records; see `actorbus.journal.base.Journal.recent`."""
        with self._working() as store:
            return reading.recent(store.connection, limit, wants, since, behind, before or _LAST)

    def dead(self, after: str = "", limit: int = 1000, *, marked: str = "") -> list[Grave]:
        """Return dead letters in order of burial; see `actorbus.journal.base.Journal.dead`."""
        with self._working() as store:
            return reading.dead(store.connection, encode(after), limit, encode(marked))

    def status(self) -> Status:
        """Return its figures."""
        with self._working() as store:
            return reading.status(store.connection, store.head, self._bytes(), self._limit)

    def verify(self, *, whole: bool = True) -> Iterator[tuple[int, int, str | None]]:
        """Look at everything; see `actorbus.journal.base.Journal.verify`."""
        return reading.verify(self._look, whole=whole)

    def _look(self, piece: Callable[[sqlite3.Connection, Head], T]) -> T:
        with self._working() as store:
            return piece(store.connection, store.head)

    def _bytes(self) -> int:
        """Return the size of all files together."""
        files = (self.path, self._beside("-wal"), lock_path(self.path), self._ballast.path)
        size = 0
        for file in files:
            with suppress(FileNotFoundError):
                size += file.stat().st_size
        return size


def _note_begin(connection: sqlite3.Connection, head: Head) -> None:
    """Note that the file is in use, and whose deliveries may have been running at the last end."""
    ask = connection.execute
    for row in ask("SELECT * FROM durable WHERE joined").fetchall():
        durable = Durable.of(row)
        suspects = durable.suspects if head.clean else durable.window
        left = msgspec.structs.replace(durable, joined=0, suspects=suspects)
        ask("INSERT OR REPLACE INTO durable VALUES(?,?,?,?,?,?,?,?)", left.row)
    head.clean = False
    head.write(ask)


def _note_end(connection: sqlite3.Connection, head: Head) -> None:
    """Note that the file is not in use, and which event is the last."""
    head.clean = True
    head.write(connection.execute)
