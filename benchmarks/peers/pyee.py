"""pyee: an event emitter; every call of an async handler becomes a task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyee.asyncio import AsyncIOEventEmitter

from benchmarks.peers.pace import POLITELY, politely


class Peer:
    """An ``AsyncIOEventEmitter``."""

    plain = False
    queue = "a task per call"
    counts = ""
    publishes = POLITELY

    def __init__(self) -> None:
        self.emitter = AsyncIOEventEmitter()

    async def open(self, handlers: Sequence[Any]) -> None:
        for handler in handlers:
            self.emitter.on("event", handler)

    async def send(self, count: int) -> None:
        emit = self.emitter.emit
        await politely(lambda number: emit("event", number), count)

    async def burst(self, count: int) -> None:
        for number in range(count):
            self.emitter.emit("event", number)

    async def close(self) -> None:
        self.emitter.remove_all_listeners()
