"""blinker: signals; the sender awaits the receivers one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from blinker import Signal


class Peer:
    """A ``Signal`` sent with ``send_async``; no queue."""

    plain = False
    queue = "none"
    counts = ""
    publishes = "await send_async; the handlers have run when it returns"

    def __init__(self) -> None:
        self.signal = Signal()

    async def open(self, handlers: Sequence[Any]) -> None:
        for handler in handlers:
            self.signal.connect(handler, weak=False)

    async def send(self, count: int) -> None:
        send = self.signal.send_async
        for number in range(count):
            await send(number)

    async def close(self) -> None:
        self.signal.receivers.clear()
