"""Tables: a program's own, in the journal's database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from actorbus.errors import ConfigurationError
from actorbus.hand import cause_in_hand
from actorbus.part import Part
from actorbus.transaction import Transaction, check_tables


class Tables(Part):
    """The part of `EventBus` that reads and writes tables of the program's own."""

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Write tables of your own in the journal's database: ``async with ... as tx``.

        What is put down is committed at the end of the block, all of it or nothing; a block that
        raises writes nothing. For the tables that handlers with an inbox write: to create them
        before the first event, to look at them from outside.

        Raises:
            ConfigurationError: The bus has no journal, or one without tables.
            BusNotRunningError: The bus runs on another loop, or there is none.
            BusClosedError: The bus is closed.
            TransactionError: A statement was refused; nothing has happened.
            JournalError: It could not be committed; `JournalFullError` if there is no room.

        Cancelled while it is committed it may have happened or not.
        """
        engine = self._engine
        if engine.recorder is None:
            raise ConfigurationError("transaction() needs a bus with a journal")
        check_tables(engine.recorder.scribe.journal)
        loop = self._begin_here(caused=cause_in_hand() is not None)
        tx = Transaction(engine.name, loop, engine.recorder.scribe)
        try:
            yield tx
        finally:
            tx._close()
        await tx._commit()
