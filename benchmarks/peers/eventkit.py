"""eventkit: event pipelines; every call of an async handler becomes a task."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from eventkit import Event

from benchmarks.peers.pace import POLITELY, politely

logging.getLogger("eventkit").setLevel(logging.CRITICAL)


class Peer:
    """An ``Event`` with coroutine functions as listeners."""

    plain = False
    queue = "a task per call"
    counts = ""
    publishes = POLITELY

    def __init__(self) -> None:
        self.event = Event("event")

    async def open(self, handlers: Sequence[Any]) -> None:
        for handler in handlers:
            self.event.connect(handler, keep_ref=True)

    async def send(self, count: int) -> None:
        await politely(self.event.emit, count)

    async def burst(self, count: int) -> None:
        for number in range(count):
            self.event.emit(number)

    async def close(self) -> None:
        self.event.clear()
