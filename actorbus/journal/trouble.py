"""What SQLite's errors mean to the owner of a journal, and what to do about them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from actorbus.errors import (
    JournalCorruptError,
    JournalError,
    JournalFullError,
    JournalLockedError,
)

_LOW = 0xFF
"""The bits of an extended error code that are the plain one."""
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_TAKEN = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_HARMLESS = (
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_TOOBIG,
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_READONLY,
    *_TAKEN,
)


def code_of(error: Exception) -> int:
    """Return SQLite's plain error code; 0 where the error is not SQLite's own."""
    return getattr(error, "sqlite_errorcode", 0) & _LOW


def is_full(error: sqlite3.Error) -> bool:
    """Return whether it says that there is no room."""
    return code_of(error) == sqlite3.SQLITE_FULL


def is_unclear(error: sqlite3.Error) -> bool:
    """Return whether it leaves open what is on the disk."""
    return code_of(error) not in _HARMLESS


def _trouble(error: Exception) -> JournalError:
    """Return the journal's error for one of SQLite's or of the system."""
    if isinstance(error, JournalError):
        return error
    if isinstance(error, UnicodeDecodeError):  # what SQLite says of a damaged name
        return JournalCorruptError("its tables are damaged: restore it from a backup")
    if isinstance(error, OSError):
        return JournalError(f"it cannot be used: {error.strerror or error}")
    code = code_of(error)
    if code == sqlite3.SQLITE_FULL:
        return JournalFullError("its disk is full: free some space there")
    if code in _DAMAGED:
        return JournalCorruptError(f"it is damaged ({error}): restore it from a backup")
    if code in _TAKEN:
        return JournalLockedError("another program has it open: close it there")
    return JournalError(str(error))


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Turn SQLite's and the system's errors into the journal's, and name the file in each.

    Raises:
        JournalError: What it was.
    """
    try:
        yield
    except (sqlite3.Error, JournalError, OSError, UnicodeDecodeError) as error:
        ours = _trouble(error)
        raise type(ours)(f"journal {str(path)!r}: {ours}") from error


class SuppressFull:
    """Goes on behind a block in which SQLite says that there is no room."""

    def __enter__(self) -> None:
        """Begin the block."""

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        """Return whether the block was left for want of room."""
        return isinstance(error, sqlite3.Error) and is_full(error)
