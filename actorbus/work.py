"""Work: what is done with a journal at one go, in the journal's thread.

Where there is no room for all of a commit, what there is room for is committed without the rest.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, cast

import msgspec

from actorbus.commits import Commits
from actorbus.errors import JournalError
from actorbus.journal.base import Append, Bury, Journal, Operation, Result
from actorbus.journal.effects import Transact

log = logging.getLogger("actorbus")

Done = Callable[[Any, JournalError | None], None]
"""Told of a result, or of why there is none; called on the loop."""


class Work(msgspec.Struct, eq=False):
    """A commit, or a call of the journal.

    Attributes:
        loop: Where they are who wait for it.
        operations: What is committed.
        done: Who is told of each result.
        call: What is called instead.
        apart: Whether it is committed by itself.
        results: Of each operation, or of the call.
        errors: Why there is none, by index.
        count: How many pieces of work it was made of.
        told: How many of those who wait have been told.
    """

    loop: asyncio.AbstractEventLoop | None = None
    operations: list[Operation] = []
    done: list[Done] = []
    call: Callable[[], Any] | None = None
    apart: bool = False
    results: Sequence[Any] = ()
    errors: dict[int, JournalError] = {}
    count: int = 1
    told: int = 0

    def goes_with(self, first: Work) -> bool:
        """Return whether it can be committed together with what comes before it."""
        alone = self.apart or first.apart or self.call is not None or first.call is not None
        return not alone and self.loop is first.loop

    def fail(self, error: JournalError) -> None:
        """Have no result."""
        self.errors = dict.fromkeys(range(len(self.done)), error)

    def perform(self, journal: Journal, commits: Commits) -> None:
        """Do it, and have its commits counted; blocks."""
        try:
            if self.call is not None:
                self.results = [self.call()]
            else:
                self.results = commits.make(journal, self.operations)
        except Exception as error:  # noqa: BLE001 whatever it is, somebody waits for the result
            self.fail(_told(journal, error))
            if self.call is None:
                self._perform_less(journal, commits)

    def _perform_less(self, journal: Journal, commits: Commits) -> None:
        """Commit what may need no room: what comes from outside waits longest, events first."""
        self.results = found = cast("list[Result]", [None] * len(self.operations))
        tried = [[*range(len(self.operations))]]
        fewer = (Bury,), (Bury, Transact), (Append, Transact), (Append, Bury, Transact)
        for without in fewer:
            kept = [i for i, each in enumerate(self.operations) if not isinstance(each, without)]
            if not kept or kept in tried:
                continue
            tried.append(kept)
            try:
                results = commits.make(journal, [self.operations[i] for i in kept])
            except Exception as error:  # noqa: BLE001 as above
                self.errors |= dict.fromkeys(kept, _told(journal, error))
            else:
                for i, result in zip(kept, results, strict=True):
                    found[i] = result
                    del self.errors[i]
                return


def together(works: list[Work]) -> Work:
    """Return one piece of work that does what several do."""
    if len(works) == 1:
        return works[0]
    operations = [each for work in works for each in work.operations]
    done = [each for work in works for each in work.done]
    return Work(works[0].loop, operations, done, count=len(works))


def _told(journal: Journal, error: Exception) -> JournalError:
    """Return an error of the journal; one it does not know of is a fault of its own."""
    if isinstance(error, JournalError):
        return error
    log.error("the journal %s broke", journal.url, exc_info=error)
    wrapped = JournalError(f"{journal.url} broke: {error!r}")
    wrapped.__cause__ = error
    return wrapped
