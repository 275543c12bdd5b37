"""The SQLite journal keeps the contract, and its files are where and what they should be."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from actorbus import JournalError
from actorbus.journal.sqlite import SqliteJournal
from actorbus.testing.journal_contract import JournalContract


class TestSqliteJournal(JournalContract):
    """Every guarantee, on a disk."""

    def make(self, place: Path, **options: Any) -> SqliteJournal:
        return SqliteJournal(place / "events.db", **options)


def test_another_program_s_database_is_not_changed(tmp_path: Path) -> None:
    """It is refused before anything is set in it: its own program expects it as it was."""
    path = tmp_path / "events.db"
    with closing(sqlite3.connect(path)) as theirs:
        theirs.execute("CREATE TABLE mine(a)")
    before = path.read_bytes()

    with pytest.raises(JournalError, match="another program"):
        SqliteJournal(path).open("power")

    assert path.read_bytes() == before
