"""Delivery: what is known of a delivery that has not gone smoothly; and the delays it may take.

A delivery that is handled at the first attempt never needs an object of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from actorbus.receipt import Receipt


class Delivery:
    """A delivery that has not gone smoothly, and what is known of its past.

    Attributes:
        receipt: Whose delivery.
        key: Of a keyed actor, held until the delivery has settled.
        attempts: Attempts begun, less the interrupted ones.
        interruptions: Restarts it did not cause and that cut an attempt short.
        began: Loop time at which the first attempt started.
        first_failed_at: Unix seconds of the first failure, or None.
        error: What the last attempt raised, where somebody else is to make the next; else None.
    """

    __slots__ = ("attempts", "began", "error", "first_failed_at", "interruptions", "key", "receipt")

    def __init__(self, receipt: Receipt, key: Any = None) -> None:
        self.receipt = receipt
        self.key = key
        self.attempts = 0
        self.interruptions = 0
        self.began = 0.0
        self.first_failed_at: float | None = None
        self.error: BaseException | None = None


class NotBegun(asyncio.CancelledError):
    """An attempt was called off before the handler was called."""


class Nap:
    """A timer that can be shortened, and that its owner can be found by."""

    __slots__ = ("_due", "_loop", "_over", "_timer")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, seconds: float, over: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._over = over
        self._due = loop.time() + seconds
        self._timer = loop.call_at(self._due, over)

    def shorten(self, seconds: float) -> None:
        """End no later than so many seconds from now."""
        due = self._loop.time() + seconds
        if due < self._due:
            self._due = due
            self._timer.cancel()
            self._timer = self._loop.call_at(due, self._over)

    def cancel(self) -> None:
        """End without calling anybody."""
        self._timer.cancel()


async def nap(loop: asyncio.AbstractEventLoop, naps: dict[Nap, None], seconds: float) -> None:
    """Sleep, shortened when whoever keeps `naps` says so."""
    over: asyncio.Future[None] = loop.create_future()
    timer = Nap(loop, seconds, lambda: None if over.done() else over.set_result(None))
    naps[timer] = None
    try:
        await over
    finally:
        timer.cancel()
        naps.pop(timer, None)
