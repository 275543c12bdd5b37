"""The SQLite journal keeps the contract, and its files are where and what they should be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from actorbus.journal.sqlite import SqliteJournal
from actorbus.testing.journal_contract import JournalContract


class TestSqliteJournal(JournalContract):
    """Every guarantee, on a disk."""

    def make(self, place: Path, **options: Any) -> SqliteJournal:
        return SqliteJournal(place / "events.db", **options)
