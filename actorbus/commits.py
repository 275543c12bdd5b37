"""Commits: how long a journal takes for them, and how much is in each.

Counted in the thread of the journal, by nobody else; two looks at the clock for each commit. A copy
that is taken meanwhile may lack a part of the one being counted.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from time import perf_counter

from actorbus.journal.base import Journal, Operation, Result
from actorbus.ledger import SIZES, Histogram
from actorbus.rows import observed


class Commits:
    """Counts the commits of one journal."""

    def __init__(self) -> None:
        self._seconds = Histogram()
        self._counts = [0] * (len(SIZES) + 1)
        self._operations = 0

    def make(self, journal: Journal, operations: Sequence[Operation]) -> list[Result]:
        """Commit, and count it; one that fails is not counted.

        Raises:
            JournalError: As of `Journal.commit`.
        """
        began = perf_counter()
        results = journal.commit(operations)
        self._seconds.add(perf_counter() - began)
        self._counts[bisect_left(SIZES, len(operations))] += 1
        self._operations += len(operations)
        return results

    @property
    def seconds(self) -> tuple[float, ...]:
        """How many took how long, per bucket of `BUCKETS`, and the seconds of all."""
        return observed(self._seconds)

    @property
    def operations(self) -> tuple[float, ...]:
        """How many were how large, per bucket of `SIZES`, and the operations of all."""
        return *self._counts, self._operations
