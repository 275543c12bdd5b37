"""The suite a journal with tables of the program's own must pass, beside that of any journal.

::

    from actorbus.testing.journal_tables import TableContract

    class TestMyJournal(TableContract):
        def make(self, place, **options):
            return MyJournal(place / "events", **options)

The statements are plain SQL. What a journal refuses beyond its own tables is up to it.
"""

from __future__ import annotations

from typing import Any

import pytest

from actorbus.errors import TransactionError
from actorbus.journal.base import Append, Appended, Attempt, Join, Journal, Standing
from actorbus.journal.effects import Statement, Transact, Transactional
from actorbus.testing.journal_contract import START, JournalContract, entry


class TableContract(JournalContract):
    """A test for each guarantee of `actorbus.journal.effects`; see the module."""

    @pytest.fixture
    def tables(self, journal: Journal) -> Journal:
        """Give an open journal with a table of the program's own, and a durable subscription."""
        made = Transact((Statement("CREATE TABLE own(it TEXT)", ((),)),))
        assert journal.commit([made, Join("billing", ("**",), 10)])[0] is True
        return journal

    def test_a_transaction_settles_its_delivery(self, tables: Journal) -> None:
        """In the same commit; the attempts that were noted are not needed any more."""
        tables.commit([Append(entry(str(number))) for number in range(3)])
        tables.commit([Attempt("billing", 2), Attempt("billing", 3)])

        assert tables.commit([Transact((), "billing", "1", 2, START)]) == [True]

        standing = Standing(0, frozenset({2}), {3: 1})
        assert tables.commit([Join("billing", ("**",), 10)]) == [standing]

    def test_a_transaction_takes_effect_once_for_each_id(self, tables: Journal) -> None:
        """Whatever it would write the second time; its delivery is settled all the same."""
        tables.commit([Append(entry(str(number))) for number in range(3)])
        write = Statement("INSERT INTO own VALUES(?)", (("written",),))

        results = tables.commit([Transact((write,), "billing", "1", n, START) for n in (1, 2)])

        assert results == [True, False]
        assert tables.status().ahead == {"billing": 2}
        assert self.rows(tables) == [("written",)]

    def test_a_refused_transaction_harms_no_other(self, tables: Journal) -> None:
        """Nothing of it has happened, neither its note nor its settlement; all else has."""
        write = Statement("INSERT INTO own VALUES(?)", (("written",),))
        wrong = Statement("INSERT INTO nowhere VALUES(1)", ((),))
        refused, done, appended = tables.commit(
            [
                Transact((write, wrong), "billing", "1", 1, START),
                Transact((write,), "billing", "2", 0, START),
                Append(entry("1")),
            ]
        )

        assert isinstance(refused, TransactionError)
        assert (done, appended) == (True, Appended(1))
        assert self.rows(tables) == [("written",)]
        assert tables.commit([Transact((write,), "billing", "1", 1, START)]) == [True]

    def test_a_preview_changes_nothing(self, tables: Journal) -> None:
        """It sees what would be, and takes it back."""
        write = Statement("INSERT INTO own VALUES(?)", (("one",), ("two",)))

        assert self.rows(tables, Transact((write,))) == [("one",), ("two",)]
        assert self.rows(tables) == []

    def rows(self, journal: Journal, transact: Transact | None = None) -> Any:
        """Return what is in the program's table, or would be."""
        assert isinstance(journal, Transactional)
        query = Statement("SELECT it FROM own ORDER BY rowid", ((),))
        return journal.preview(transact or Transact(()), query)
