"""Effects: what a handler writes into the journal itself, together with its acknowledgement.

A journal that is a database can keep tables of the program's own beside its events. What is written
there in the commit that settles a delivery happens exactly when the delivery is settled, so an
event cannot take effect twice, whatever is killed or cut off in between. The journal notes the
event's id in the same commit: should the event come again, from a second publish or as a dead
letter that is replayed, there is nothing more to do.

Source: "Life beyond Distributed Transactions" (Helland, 2007): remember what was processed, where
its effects are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import msgspec

from actorbus.errors import TransactionError

Value = None | int | float | str | bytes
Parameters = tuple[Value, ...] | Mapping[str, Value]
Row = tuple[Any, ...]
Found = Sequence[Row] | TransactionError | None
"""What a preview has seen: rows, why there are none, or None if the event has been dealt with."""


class Statement(msgspec.Struct, frozen=True):
    """One statement of SQL.

    Attributes:
        sql: The text.
        runs: The parameters of each run of it, in order.
    """

    sql: str
    runs: tuple[Parameters, ...]


class Transact(msgspec.Struct, frozen=True):
    """An operation: run statements and settle a delivery, unless its event has been dealt with.

    The result is True; False if the journal remembers that the durable subscription has dealt with
    an event of this id, then the delivery is settled and no statement is run; or, if a statement
    was refused, the `TransactionError`: then nothing of this operation has happened, while all else
    in the commit has.

    Attributes:
        statements: What to run, in order.
        durable: Name of the durable subscription; empty to run the statements for nobody.
        event: Id of the event.
        seq: Number of the event; 0 if there is nothing to settle.
        time: Unix seconds: since when the id is remembered. It is for as long as the journal keeps
            the events published until then, and its retention at least, unless the room is needed.
    """

    statements: tuple[Statement, ...]
    durable: str = ""
    event: str = ""
    seq: int = 0
    time: float = 0.0


@runtime_checkable
class Transactional(Protocol):
    """What a journal has beside `Journal` whose `commit` takes a `Transact`.

    Statements reach the program's own tables only: neither those of the journal, nor what belongs
    to its connection or ends its transaction.
    """

    def preview(self, transact: Transact, query: Statement | None = None) -> Found:
        """Return what a query would find if a transaction had been committed, which it is not.

        Args:
            transact: What has been put down so far.
            query: Reads; None for no rows.

        Returns:
            The rows; None if the event has been dealt with; an error if a statement was refused.

        Raises:
            JournalError: It could not be done; the text says why.
        """
