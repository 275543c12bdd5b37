"""Handlers for tests: one that fails, one that remembers, one that holds on."""

from __future__ import annotations

import asyncio
from typing import Any


async def fail(data: Any) -> None:
    """Fail every time."""
    raise ValueError(data)


class Seen:
    """Remembers what it gets."""

    def __init__(self) -> None:
        self.got: list[Any] = []

    async def __call__(self, data: Any) -> None:
        self.got.append(data)


class Gate(Seen):
    """Remembers what it gets, and ends no call until it is opened.

    Args:
        only: What it holds on to; everything, if nothing is named.

    Attributes:
        inside: Calls that have begun and not ended.
        peak: The most there were at once.
    """

    def __init__(self, *only: Any) -> None:
        super().__init__()
        self._only = only
        self.inside = self.peak = 0
        self._opened = asyncio.Event()
        self._entered = asyncio.Condition()

    async def __call__(self, data: Any) -> None:
        self.got.append(data)
        if self._only and data not in self._only:
            return
        self.inside += 1
        self.peak = max(self.peak, self.inside)
        async with self._entered:
            self._entered.notify_all()
        try:
            await self._opened.wait()
        finally:
            self.inside -= 1

    def open(self) -> None:
        """Let every call end, now and later."""
        self._opened.set()

    async def entered(self, calls: int = 1) -> None:
        """Wait until so many calls are inside."""
        async with self._entered:
            await self._entered.wait_for(lambda: self.inside >= calls)
