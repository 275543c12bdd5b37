"""Transacting: statements of the program's own inside a journal's transaction.

They run in a savepoint, so that one which fails takes back its own transaction and nobody else's,
and under an authorizer, which lets them reach the program's own tables and nothing more. SQLite
asks it whenever a statement is compiled, and compiles all of them anew when it is put in place: so
a text that the journal has compiled for itself is judged, too.

A few things in SQL roll back the whole transaction, such as a conflict with ``OR ROLLBACK``. Then
the commit is done again without their author, who is named by `Spoilt`.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from itertools import count
from typing import Any

from actorbus.errors import TransactionError
from actorbus.journal.effects import Found, Row, Statement, Transact
from actorbus.journal.head import Head
from actorbus.journal.schema import TABLES, encode
from actorbus.journal.trouble import code_of

ROUND = 1_000_000
"""Instructions of SQLite's machine after which it asks whether to go on."""
ROUNDS = 50
"""How often a transaction may go on: some seconds, in which all commits wait."""

_TAKEN = {statement.split("(")[0].split()[2] for statement in TABLES} | {"sqlite_dbpage"}
_READS = {
    sqlite3.SQLITE_SELECT: 0, sqlite3.SQLITE_READ: 1, sqlite3.SQLITE_FUNCTION: 0,
    sqlite3.SQLITE_RECURSIVE: 0,
}  # fmt: skip
_WRITES = _READS | {
    sqlite3.SQLITE_INSERT: 1, sqlite3.SQLITE_UPDATE: 1, sqlite3.SQLITE_DELETE: 1,
    sqlite3.SQLITE_CREATE_TABLE: 1, sqlite3.SQLITE_DROP_TABLE: 1, sqlite3.SQLITE_ALTER_TABLE: 2,
    sqlite3.SQLITE_CREATE_INDEX: 2, sqlite3.SQLITE_DROP_INDEX: 2, sqlite3.SQLITE_REINDEX: 0,
    sqlite3.SQLITE_CREATE_TRIGGER: 2, sqlite3.SQLITE_DROP_TRIGGER: 2,
    sqlite3.SQLITE_CREATE_VIEW: 1, sqlite3.SQLITE_DROP_VIEW: 1,
}  # fmt: skip
"""What may be done, and which argument of the authorizer names the table; 0 for none."""
_ITS_OWN = (
    0, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_AUTH, sqlite3.SQLITE_RANGE, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_INTERRUPT,
)  # fmt: skip
"""The errors that are the statement's; the others are the journal's."""
_WRONG = (sqlite3.Error, sqlite3.Warning, Warning, ArithmeticError, TypeError, ValueError)
"""What `sqlite3` raises where a statement or its parameters are wrong."""


class Spoilt(Exception):  # noqa: N818 no error users see: it carries the one they do
    """A transaction has rolled back the whole commit.

    Attributes:
        transact: Whose it was.
        error: What is wrong with it.
    """

    def __init__(self, transact: Transact, error: TransactionError) -> None:
        super().__init__(str(error))
        self.transact = transact
        self.error = error


class Seen(Exception):  # noqa: N818 a preview that ends as it should
    """Ends the transaction of a preview, with what it has seen."""

    def __init__(self, found: Found) -> None:
        super().__init__()
        self.found = found


def take_effect(
    connection: sqlite3.Connection, head: Head, durable: int, op: Transact
) -> bool | TransactionError:
    """Run the statements of a transaction once for each event, inside a commit.

    Args:
        connection: Inside a transaction.
        head: The journal's figures.
        durable: Number of the durable subscription; 0 for none.
        op: The transaction.

    Returns:
        As for `Transact`; the delivery is left to be settled.

    Raises:
        Spoilt: It has rolled back the whole commit.
        sqlite3.Error: The journal is in trouble.
    """
    ask = connection.execute
    if durable and _has_taken_effect(connection, durable, op):
        return False
    ask("SAVEPOINT effect")
    error = _run(connection, op.statements)
    if error is not None:
        if not connection.in_transaction:
            raise Spoilt(op, error)
        ask("ROLLBACK TO effect")
    elif durable:
        note = (durable, encode(op.event), head.last, op.time + 0.0)
        ask("INSERT INTO effect VALUES(NULL,?,?,?,?)", note)
    ask("RELEASE effect")
    return error or True


def look(
    connection: sqlite3.Connection, durable: int, op: Transact, query: Statement | None
) -> Found:
    """Return what `Transactional.preview` does; the transaction it is in is to be rolled back."""
    if durable and _has_taken_effect(connection, durable, op):
        return None
    error = _run(connection, op.statements)
    if error is not None or query is None:
        return error or []
    rows: list[Row] = []
    connection.text_factory = str
    try:
        return _run(connection, (query,), _READS, rows) or rows
    finally:
        connection.text_factory = bytes


def _has_taken_effect(connection: sqlite3.Connection, durable: int, op: Transact) -> bool:
    key = (durable, encode(op.event))
    row = connection.execute("SELECT 1 FROM effect WHERE durable = ? AND id = ?", key).fetchone()
    return row is not None


def _run(
    connection: sqlite3.Connection,
    statements: tuple[Statement, ...],
    allowed: dict[int, int] = _WRITES,
    rows: list[Row] | None = None,
) -> TransactionError | None:
    """Run statements; return why one was refused.

    Args:
        connection: Inside a transaction.
        statements: What to run.
        allowed: What they may do.
        rows: Takes the rows they find; None lets those go.

    Raises:
        sqlite3.Error: The journal is in trouble.
    """
    with _guarded(connection, allowed) as refusals:
        for statement in statements:
            try:
                _execute(connection, statement, rows)
            except _WRONG as error:
                if code_of(error) not in _ITS_OWN:
                    raise
                refused = TransactionError(statement.sql, refusals[0] if refusals else str(error))
                refused.__cause__ = error
                return refused
    return None


def _execute(connection: sqlite3.Connection, statement: Statement, rows: list[Row] | None) -> None:
    """Run a statement to its end: one with rows does nothing beyond the row that is asked for."""
    if len(statement.runs) != 1:
        connection.executemany(statement.sql, statement.runs)
        return
    with closing(connection.execute(statement.sql, statement.runs[0])) as cursor:
        (deque(maxlen=0) if rows is None else rows).extend(cursor)


@contextmanager
def _guarded(connection: sqlite3.Connection, allowed: dict[int, int]) -> Iterator[list[str]]:
    """Let statements do only what is allowed; give a list that says why one was refused."""
    refusals: list[str] = []
    connection.set_authorizer(partial(_judge, allowed, refusals))
    connection.set_progress_handler(partial(_grow_impatient, refusals, count()), ROUND)
    try:
        yield refusals
    finally:
        connection.set_authorizer(None)
        connection.set_progress_handler(None, 0)


def _judge(allowed: dict[int, int], refusals: list[str], action: int, *given: Any) -> int:
    place = allowed.get(action)
    if place is None:
        only = "only reads" if allowed is _READS else "reads and writes tables of its own, no more"
        refusals.append(f"a transaction {only}")
        return sqlite3.SQLITE_DENY
    table = str(given[place - 1]).lower() if place else ""
    if table in _TAKEN:
        refusals.append(f"the table {table!r} is the journal's: name one of your own")
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK


def _grow_impatient(refusals: list[str], rounds: Iterator[int]) -> bool:
    """Return whether to give up; counted here, for SQLite counts on from one run to the next."""
    if next(rounds) < ROUNDS:
        return False
    refusals.append("it takes too long, and everybody waits for it")
    return True
