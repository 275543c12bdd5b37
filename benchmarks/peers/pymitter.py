"""pymitter: an event emitter with wildcards; the publisher awaits the handlers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pymitter import EventEmitter


class Peer:
    """An ``EventEmitter`` with ``emit_async``; no queue."""

    plain = False
    queue = "none"
    counts = ""
    publishes = "await emit_async; the handlers have run when it returns"

    def __init__(self) -> None:
        self.emitter = EventEmitter(wildcard=True, delimiter=":")

    async def open(self, handlers: Sequence[Any]) -> None:
        for handler in handlers:
            self.emitter.on("bench:event", handler)

    async def send(self, count: int) -> None:
        emit = self.emitter.emit_async
        for number in range(count):
            await emit("bench:event", number)

    async def close(self) -> None:
        self.emitter.off_all()
