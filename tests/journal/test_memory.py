"""The reference implementation keeps the contract."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from actorbus.journal.memory import MemoryJournal
from actorbus.testing.journal_contract import JournalContract

_MADE: dict[Path, MemoryJournal] = {}


class TestMemoryJournal(JournalContract):
    """Every guarantee; a place stands for an object."""

    def make(self, place: Path, **options: Any) -> MemoryJournal:
        return _MADE.setdefault(place, MemoryJournal(**options))
