"""Operations as statements: what one commit of a journal writes.

Numbers are given here, not by SQLite: the file has one owner, so the next one is known. All events
of a commit go in as one statement over many rows, at its end; nothing else reads them before.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from types import MappingProxyType
from typing import Any, ClassVar

import msgspec

from actorbus.errors import JournalCorruptError, TransactionError
from actorbus.journal.base import (
    Append,
    Appended,
    Attempt,
    Bury,
    Entry,
    Exhume,
    Grave,
    Join,
    Leave,
    Operation,
    Replay,
    Result,
    Settle,
    Standing,
)
from actorbus.journal.effects import Found, Statement, Transact
from actorbus.journal.head import Head
from actorbus.journal.schema import Row, encode, seal, seal_row
from actorbus.journal.transacting import look, take_effect

_LOOKUP = 64
"""Ids asked for in one statement; always as many, so that SQLite compiles it once."""
_SEEN = f"SELECT id, seq, at, crc FROM seen WHERE id IN ({','.join('?' * _LOOKUP)})"  # noqa: S608 - no text of anybody's
_INSERT = {
    size: "INSERT INTO event VALUES" + ",".join(["(?,?,?,?,?,?,?,?,?)"] * size)
    for size in (64, 32, 16, 8, 4, 2, 1)
}
"""Statements for so many events; SQLite may take no more than 999 parameters."""
_UNUSED = """
SELECT 1 + max(ifnull((SELECT max(number) FROM durable), 0),
    ifnull((SELECT max(durable) FROM effect), 0))"""
_SETTLED = """
SELECT EXISTS(SELECT 1 FROM ahead WHERE durable = ?1 AND seq = ?2),
    (SELECT count FROM attempt WHERE durable = ?1 AND seq = ?2)"""


_UNMARK = "DELETE FROM marked WHERE number = (SELECT number FROM dead WHERE id = ?)"


class Durable(msgspec.Struct, frozen=True):
    """A row of the table of that name."""

    number: int
    name: bytes
    patterns: bytes
    cursor: int
    window: int
    joined: int = 1
    suspects: int = 0

    @property
    def row(self) -> tuple[object, ...]:
        """Its columns, sealed."""
        columns = msgspec.structs.astuple(self)
        return (*columns, seal_row(*columns))

    @staticmethod
    def of(row: tuple[object, ...]) -> Durable:
        """Return what a row says.

        Raises:
            JournalCorruptError: It is damaged.
        """
        if seal_row(*row[:-1]) != row[-1]:
            raise JournalCorruptError(
                f"what is noted of the durable subscription {row[1]!r} is damaged: restore the "
                "file from a backup"
            )
        return Durable(*row[:-1])  # type: ignore[arg-type] # the checksum vouches for the types


class Writing:
    """One commit.

    Args:
        connection: Inside a transaction.
        head: A copy that is this commit's own; afterwards as it is after the commit.
        refused: By the `id` of a `Transact`, why it is known to be refused.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        head: Head,
        refused: Mapping[int, TransactionError] = MappingProxyType({}),
    ) -> None:
        self._connection = connection
        self._ask = connection.execute
        self._all = connection.executemany
        self._head = head
        self._refused = refused
        self._rows: list[Row] = []
        self._topics: dict[str, bytes] = {}
        self._known: dict[bytes, tuple[int, float]] = {}
        self._fresh: list[bytes] = []

    def do(self, operations: Sequence[Operation]) -> list[Result]:
        """Do all of it, in order; return the results."""
        self._look_up([op.entry.id for op in operations if type(op) is Append and op.entry.once])
        append, others = self._append, self._OTHERS
        results: list[Result] = [
            append(op.entry) if type(op) is Append else others[type(op)](self, op)
            for op in operations
        ]
        self._insert()
        if self._fresh:
            self._remember()
        if len(self._rows) < len(operations):
            self._head.write(self._ask)
        return results

    # -- events -----------------------------------------------------------------------------------

    def _append(self, entry: Entry) -> Appended:
        if entry.once:
            return self._append_once(entry)
        return self._keep(entry, entry.id.encode("utf-8", "surrogatepass"))

    def _keep(self, entry: Entry, ident: bytes) -> Appended:
        topic = self._topics.get(entry.topic)
        if topic is None:
            topic = self._topics[entry.topic] = encode(entry.topic)
        time, codec, once = entry.time + 0.0, entry.codec, +entry.once
        meta, body = entry.meta, entry.body
        self._head.last = seq = self._head.last + 1
        crc = seal(seq, time, codec, once, ident, topic, meta, body)
        self._rows.append((seq, crc, time, codec, once, ident, topic, meta, body))
        return Appended(seq)

    def _insert(self) -> None:
        """Write the events, in few statements.

        At each step SQLite lets other threads in, and a busy one gives way after 5 ms only.
        """
        rows, start = self._rows, 0
        for size, statement in _INSERT.items():
            while len(rows) - start >= size:
                self._ask(statement, [*chain.from_iterable(rows[start : start + size])])
                start += size

    def _append_once(self, entry: Entry) -> Appended:
        ident, clock = encode(entry.id), self._head.clock
        today = clock.at(entry.time)
        seq, seen = self._known.get(ident, (0, float("-inf")))
        if seen > today - clock.window:
            return Appended(seq, duplicate=True)
        self._known[ident] = self._head.last + 1, today
        self._fresh.append(ident)
        return self._keep(entry, ident)

    def _look_up(self, ids: list[str]) -> None:
        """Find what is remembered of the ids, many in one statement."""
        for start in range(0, len(ids), _LOOKUP):
            some = [encode(ident) for ident in ids[start : start + _LOOKUP]]
            some += some[:1] * (_LOOKUP - len(some))
            for ident, seq, at, crc in self._ask(_SEEN, some):
                if seal_row(ident, seq, at) == crc:  # a damaged one is no promise
                    self._known[ident] = seq, at

    def _remember(self) -> None:
        rows = ((ident, *self._known[ident]) for ident in self._fresh)
        self._all(
            "INSERT OR REPLACE INTO seen VALUES(?,?,?,?)", [(*row, seal_row(*row)) for row in rows]
        )

    # -- durable subscriptions --------------------------------------------------------------------

    def _find(self, name: str) -> Durable | None:
        row = self._ask("SELECT * FROM durable WHERE name = ?", (encode(name),)).fetchone()
        return None if row is None else Durable.of(row)

    def _store(self, durable: Durable) -> None:
        self._ask("INSERT OR REPLACE INTO durable VALUES(?,?,?,?,?,?,?,?)", durable.row)

    def _join(self, op: Join) -> Standing:
        patterns = msgspec.json.encode(op.patterns)
        old = self._find(op.durable)
        if old is None:
            (number,) = self._ask(_UNUSED).fetchone()
            last = self._head.last
            cursor = last if op.after is None else min(op.after, last)
            new = Durable(number, encode(op.durable), patterns, cursor, op.window)
        else:
            new = msgspec.structs.replace(old, patterns=patterns, window=op.window, joined=1)
        self._store(new)
        own = (new.number,)
        return Standing(
            cursor=new.cursor,
            ahead=frozenset(
                seq for (seq,) in self._ask("SELECT seq FROM ahead WHERE durable = ?", own)
            ),
            attempts=dict(self._ask("SELECT seq, count FROM attempt WHERE durable = ?", own)),
            suspects=new.suspects,
            created=old is None,
        )

    def _settle(self, op: Settle) -> None:
        old = self._find(op.durable)
        if old is None:
            return
        number, cursor, last = old.number, min(op.cursor, self._head.last), self._head.last
        if op.trusted and old.suspects:
            old = msgspec.structs.replace(old, suspects=0)
            self._store(old)
        if cursor > old.cursor:
            self._store(msgspec.structs.replace(old, cursor=cursor))
            self._ask("DELETE FROM ahead WHERE durable = ? AND seq <= ?", (number, cursor))
            self._ask("DELETE FROM attempt WHERE durable = ? AND seq <= ?", (number, cursor))
        behind = max(cursor, old.cursor)
        ahead = [(number, seq) for seq in op.ahead if behind < seq <= last]
        if ahead:
            self._all("DELETE FROM attempt WHERE durable = ? AND seq = ?", ahead)
            sealed = [(*key, seal_row(*key)) for key in ahead]
            self._all("INSERT OR IGNORE INTO ahead VALUES(?,?,?)", sealed)

    def _attempt(self, op: Attempt) -> int:
        durable, seq = self._find(op.durable), op.seq
        if durable is None or not durable.cursor < seq <= self._head.last:
            return 0
        settled, count = self._ask(_SETTLED, (durable.number, seq)).fetchone()
        if settled:
            return 0
        noted: int = (count or 0) + 1
        self._ask("INSERT OR REPLACE INTO attempt VALUES(?,?,?)", (durable.number, seq, noted))
        return noted

    def _leave(self, op: Leave) -> bool:
        durable = self._find(op.durable)
        if durable is None:
            return False
        own = (durable.number,)
        self._ask("DELETE FROM durable WHERE number = ?", own)
        self._ask("DELETE FROM ahead WHERE durable = ?", own)
        self._ask("DELETE FROM attempt WHERE durable = ?", own)
        return True

    def _transact(self, op: Transact) -> bool | TransactionError:
        if (refused := self._refused.get(id(op))) is not None:
            return refused
        number = self._number(op.durable)
        if op.durable and not number:
            return TransactionError("", f"there is no durable subscription {op.durable!r}")
        result = take_effect(self._connection, self._head, number, op)
        if op.seq and not isinstance(result, TransactionError):
            self._settle(Settle(op.durable, 0, (op.seq,)))
        return result

    def look(self, op: Transact, query: Statement | None) -> Found:
        """Return what `Transactional.preview` does; the transaction is to be rolled back."""
        return look(self._connection, self._number(op.durable), op, query)

    def _number(self, name: str) -> int:
        """Return the number of a durable subscription; 0 if there is none."""
        durable = self._find(name) if name else None
        return 0 if durable is None else durable.number

    # -- dead letters -----------------------------------------------------------------------------

    def _bury(self, op: Bury) -> None:
        grave = op.grave
        if op.instead:
            self._remove([op.instead])
        (number,) = self._ask("SELECT 1 + ifnull(max(number), 0) FROM dead").fetchone()
        row = (number, *grave_columns(grave))
        before = self._connection.total_changes
        self._ask(
            "INSERT OR IGNORE INTO dead VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            (*row, seal_row(*row)),
        )
        self._head.dead += self._connection.total_changes - before

    def _exhume(self, op: Exhume) -> int:
        return self._remove(op.ids)

    def _remove(self, ids: Iterable[str]) -> int:
        idents = [(encode(ident),) for ident in ids]
        self._all(_UNMARK, idents)
        before = self._connection.total_changes
        self._all("DELETE FROM dead WHERE id = ?", idents)
        gone = self._connection.total_changes - before
        self._head.dead -= gone
        return gone

    def _replay(self, op: Replay) -> int:
        count = 0
        for ident in op.ids:
            row = self._ask("SELECT * FROM dead WHERE id = ?", (encode(ident),)).fetchone()
            if row is not None and row[2] and seal_row(*row[:-1]) == row[-1]:
                self._ask("INSERT OR IGNORE INTO marked VALUES(?,?)", (row[0], row[2]))
                count += 1
        return count

    _OTHERS: ClassVar[dict[type[Operation], Callable[[Writing, Any], Result]]] = {
        Join: _join,
        Settle: _settle,
        Attempt: _attempt,
        Leave: _leave,
        Bury: _bury,
        Exhume: _exhume,
        Replay: _replay,
        Transact: _transact,
    }


def grave_columns(grave: Grave) -> tuple[object, ...]:
    """Return a dead letter as columns, without its place in the order of burial."""
    entry = grave.entry
    return (
        encode(grave.id), encode(grave.subscription), encode(grave.reason), grave.died_at + 0.0,
        grave.detail, grave.seq, entry.time + 0.0, entry.codec, +entry.once, encode(entry.id),
        encode(entry.topic), entry.meta, entry.body,
    )  # fmt: skip
