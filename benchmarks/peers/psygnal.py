"""psygnal: compiled signals; async slots share one queue and one task in the whole process."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

from psygnal import SignalInstance
from psygnal._async import clear_async_backend, set_async_backend

from benchmarks.peers.pace import POLITELY, politely


class Peer:
    """A ``SignalInstance`` with async slots."""

    plain = False
    queue = "one per process, no bound"
    counts = ""
    publishes = POLITELY

    def __init__(self) -> None:
        self.signal = SignalInstance((int,))
        self.slots: list[Any] = []
        self.quiet = contextlib.redirect_stderr(io.StringIO())  # it prints failing slots

    async def open(self, handlers: Sequence[Any]) -> None:
        self.quiet.__enter__()
        await set_async_backend("asyncio").running.wait()
        self.slots = list(handlers)  # it holds them weakly
        for slot in self.slots:
            self.signal.connect(slot)

    async def send(self, count: int) -> None:
        await politely(self.signal.emit, count)

    async def burst(self, count: int) -> None:
        for number in range(count):
            self.signal.emit(number)

    async def close(self) -> None:
        self.signal.disconnect()
        clear_async_backend()
        self.quiet.__exit__(None, None, None)
