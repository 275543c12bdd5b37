"""Deadline: a time limit for one attempt after another, at the cost of a clock reading for each.

Setting a timer and cancelling it takes the loop longer than most handlers take. So there is one
timer; when it rings and the attempt it was set for is over, it is set for the present one, which
cannot be due before: all are given the same time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Deadline:
    """The time limit of the attempt that runs now.

    Args:
        loop: The running loop.
        seconds: What each attempt is given.
        late: Called when one has not ended in time.
    """

    __slots__ = ("_due", "_late", "_loop", "_seconds", "_timer")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, seconds: float, late: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._seconds = seconds
        self._late = late
        self._due: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """An attempt begins."""
        self._due = self._loop.time() + self._seconds
        if self._timer is None:
            self._timer = self._loop.call_at(self._due, self._ring)

    def end(self) -> None:
        """It has ended."""
        self._due = None

    def cancel(self) -> None:
        """There will be no other."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ring(self) -> None:
        self._timer = None
        if self._due is None:
            return
        if self._due <= self._loop.time():
            self._late()
        else:
            self._timer = self._loop.call_at(self._due, self._ring)
