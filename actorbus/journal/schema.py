"""What a journal file looks like inside: its tables, its pragmas, and the checksum of every row.

SQLite tells of a broken page, hardly ever of a wrong byte in a row (36 of 40 flipped bits in a
database went unnoticed), so each row that a guarantee stands on carries a checksum of its own. The
numbers of events have no gaps, so a row that has vanished is noticed too: everything from
``log.pruned`` (exclusively) to the last number is there.

Text is kept as bytes (UTF-8) so that damaged text can be read at all; `sqlite3` refuses to.
"""

from __future__ import annotations

import sqlite3
from struct import Struct
from zlib import crc32

from actorbus.errors import ConfigurationError, JournalCorruptError, JournalError

APPLICATION = 0x41425553
"""The application id of a journal: "ABUS"."""
VERSION = 2
"""The version of the tables below; a change to any of them, even a space, needs another one."""
PAGE = 4_096
"""Bytes of a page."""

TABLES = (
    """CREATE TABLE event(
    seq INTEGER PRIMARY KEY, crc INTEGER, time REAL, codec INTEGER, once INTEGER,
    id BLOB, topic BLOB, meta BLOB, body BLOB)""",
    """CREATE TABLE durable(
    number INTEGER PRIMARY KEY, name BLOB UNIQUE, patterns BLOB, cursor INTEGER, window INTEGER,
    joined INTEGER, suspects INTEGER, crc INTEGER)""",
    """CREATE TABLE ahead(
    durable INTEGER, seq INTEGER, crc INTEGER, PRIMARY KEY(durable, seq)) WITHOUT ROWID""",
    """CREATE TABLE attempt(
    durable INTEGER, seq INTEGER, count INTEGER, PRIMARY KEY(durable, seq)) WITHOUT ROWID""",
    """CREATE TABLE dead(
    number INTEGER PRIMARY KEY, id BLOB UNIQUE, subscription BLOB, reason BLOB, died_at REAL,
    detail BLOB, seq INTEGER, time REAL, codec INTEGER, once INTEGER, event BLOB, topic BLOB,
    meta BLOB, body BLOB, crc INTEGER)""",
    """CREATE TABLE seen(
    id BLOB PRIMARY KEY, seq INTEGER, at REAL, crc INTEGER) WITHOUT ROWID""",
    """CREATE INDEX seen_at ON seen(at)""",
    """CREATE TABLE log(
    one INTEGER PRIMARY KEY, pruned INTEGER, last INTEGER, clean INTEGER, tick INTEGER,
    crc INTEGER)""",
    """CREATE TABLE marked(number INTEGER PRIMARY KEY, subscription BLOB)""",
    """CREATE INDEX marked_for ON marked(subscription, number)""",
    """CREATE TABLE effect(
    number INTEGER PRIMARY KEY, durable INTEGER, id BLOB, last INTEGER, time REAL,
    UNIQUE(durable, id))""",
)
_COUNTS = {1: 8, VERSION: len(TABLES)}
"""How many of them, from the first on, each version has: a file of an older one gets the rest."""

Row = tuple[int, int, float, int, int, bytes, bytes, bytes, bytes]
"""A row of the table `event`."""

_HEAD = Struct("<qdqBIII").pack


def seal(
    seq: int,
    time: float,
    codec: int,
    once: int,
    ident: bytes,
    topic: bytes,
    meta: bytes,
    body: bytes,
) -> int:
    """Return the checksum of an event's row.

    Raises:
        struct.error, TypeError: A column is of no type an event has; the row is damaged.
    """
    head = _HEAD(seq, time, codec, once, len(ident), len(topic), len(meta))
    return crc32(body, crc32(head + ident + topic + meta))


def seal_row(*columns: object) -> int:
    """Return the checksum of a row of one of the small tables."""
    return crc32(repr(columns).encode())


def encode(text: str) -> bytes:
    """Return text as it is kept; any text, half a surrogate pair too."""
    return text.encode("utf-8", "surrogatepass")


def decode(raw: bytes) -> str:
    """Return kept text.

    Raises:
        UnicodeDecodeError, TypeError: It is damaged.
    """
    return str(raw, "utf-8", "surrogatepass")


def prepare(connection: sqlite3.Connection, durability: str) -> bool:
    """Set a new connection up, before anything else is asked of it.

    The order matters: exclusive locking before anything that reads keeps the index of the log in
    memory, so that there is no third file, and a full disk can still be opened; and WAL is noted in
    the file, so whose that is comes first.

    Returns:
        Whether all tables are there already.

    Raises:
        JournalError: It is another program's database, or of a newer version, or the file system
            does not do what a write-ahead log needs.
        JournalCorruptError: It is a journal without its tables.
    """
    connection.text_factory = bytes
    ask = connection.execute
    ask("PRAGMA locking_mode=EXCLUSIVE")
    ask(f"PRAGMA page_size={PAGE}")
    ask("PRAGMA auto_vacuum=INCREMENTAL")
    ask("PRAGMA mmap_size=0")
    ask("PRAGMA trusted_schema=OFF")
    ask("PRAGMA foreign_keys=OFF")  # one put off to COMMIT would fail whoever is committed with it
    ask("PRAGMA cell_size_check=ON")
    is_made = identify(connection)
    if ask("PRAGMA journal_mode=WAL").fetchone() != (b"wal",):
        raise JournalError("SQLite cannot keep a write-ahead log here")
    ask(f"PRAGMA synchronous={SYNCHRONOUS[durability]}")
    ask("PRAGMA fullfsync=1")  # on a Mac fsync alone leaves the data in the drive's cache
    ask("PRAGMA checkpoint_fullfsync=1")
    return is_made


SYNCHRONOUS = {"power": "FULL", "process": "NORMAL"}
"""What each durability is to SQLite."""


def check_durability(durability: str) -> None:
    """Check that there is such a durability.

    Raises:
        ConfigurationError: There is none.
    """
    if durability not in SYNCHRONOUS:
        raise ConfigurationError(f'durability is "power" or "process", not {durability!r}')


def identify(connection: sqlite3.Connection) -> bool:
    """Say whether all tables are there already, and check that those there are are a journal's.

    Raises:
        JournalError: It is another program's database, or of a newer version.
        JournalCorruptError: It is a journal, but its tables are missing or others.
    """
    ask = connection.execute
    (application,) = ask("PRAGMA application_id").fetchone()
    (version,) = ask("PRAGMA user_version").fetchone()
    tables = {sql for (sql,) in ask("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")}
    if not (application or version or tables):
        return False
    if application != APPLICATION:
        raise JournalError("it is a database of another program: name another file")
    if version > VERSION:
        raise JournalError(
            f"it was written by a newer actorbus (version {version} of its tables, this one knows "
            f"{VERSION}): install that one, or name another file"
        )
    expected = {statement.encode() for statement in TABLES[: _COUNTS.get(version)]}
    if version not in _COUNTS or not expected <= tables:
        raise JournalCorruptError("its tables are not as they were: restore it from a backup")
    return bool(version == VERSION)


def create(connection: sqlite3.Connection) -> None:
    """Make the tables that are not there yet, all or none."""
    ask = connection.execute
    (version,) = ask("PRAGMA user_version").fetchone()
    ask("BEGIN IMMEDIATE")
    for statement in TABLES[_COUNTS.get(version, 0) :]:
        ask(statement)
    if not version:
        ask("INSERT INTO log VALUES(1, 0, 0, 1, 0, ?)", (seal_row(0, 0, 1, 0),))
    ask(f"PRAGMA application_id={APPLICATION}")
    ask(f"PRAGMA user_version={VERSION}")
    ask("COMMIT")
