"""Cutting: cancelling a task at its k-th await.

Cancellation arrives where a task waits, so a program has as many places to be cut as awaits that
wait. Trying them all, one run each, finds what no timing would::

    for k in itertools.count(1):
        if not simulate(partial(scenario, k)).result:   # the scenario returns cut.struck
            break                                       # it ends before its k-th await
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


class Cut:
    """One cancellation to come.

    Attributes:
        at: The await at which the task is cancelled.
        awaits: Awaits of the task so far.
        struck: Whether it has been cancelled.
    """

    __slots__ = ("_strike", "at", "awaits", "struck")

    def __init__(self, at: int, strike: Callable[[], object]) -> None:
        self._strike = strike
        self.at = at
        self.awaits = 0
        self.struck = False

    def awaited(self) -> None:
        """Take note that the task waits."""
        self.awaits += 1
        if self.awaits == self.at:
            self.struck = True
            self._strike()


def cancel_at(k: int, task: asyncio.Task[Any] | None = None) -> Cut:
    """Cancel a task of the running simulation at its k-th await from now on.

    Only an await that waits counts: one whose result is there does not give the loop its turn, and
    nothing can be cancelled at it.

    Args:
        k: Which await, from 1.
        task: Which task; None is the one that calls.

    Returns:
        What tells whether it came to that: its `struck` stays False where the task ends before.

    Raises:
        ValueError: `k` is less than 1.
        RuntimeError: No simulation is running here.
    """
    if k < 1:
        raise ValueError(f"k counts awaits from 1, not {k!r}")
    cuts = getattr(asyncio.get_running_loop(), "cuts", None)  # the loop of a simulation has them
    if cuts is None:
        raise RuntimeError("cancel_at works inside simulate() only")
    chosen = task or asyncio.current_task()
    if chosen is None:
        raise RuntimeError("no task runs here: name one")
    cut = Cut(k, chosen.cancel)
    cuts.setdefault(chosen, []).append(cut)
    return cut
