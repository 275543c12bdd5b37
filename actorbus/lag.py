"""Event loop lag: how late the loop calls back, sampled once metrics are exported."""

from __future__ import annotations

import asyncio

from actorbus.ledger import Histogram

EVERY = 0.5  # seconds


class LagSampler:
    """A timer that notes how late it is.

    Attributes:
        lag: What was seen, in seconds; None until sampling is wanted.
    """

    __slots__ = ("_due", "_loop", "_timer", "lag")

    def __init__(self) -> None:
        self.lag: Histogram | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    def want(self) -> None:
        """Sample from now on, whenever the bus runs."""
        if self.lag is None:
            self.lag = Histogram()
            if self._loop is not None:
                self._again()

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """The bus runs on a loop."""
        self._loop = loop
        if self.lag is not None:
            self._again()

    def stop(self) -> None:
        """The bus runs no more."""
        self._loop = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _again(self) -> None:
        if self._loop is not None:
            self._due = self._loop.time() + EVERY
            self._timer = self._loop.call_at(self._due, self._sample)

    def _sample(self) -> None:
        if self._loop is not None and self.lag is not None:
            self.lag.add(max(0.0, self._loop.time() - self._due))
            self._again()
