"""bubus: an asyncio event bus on pydantic; a queue of 50 per bus, handlers one after the other."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from bubus import BaseEvent, EventBus

logging.getLogger("bubus").setLevel(logging.CRITICAL)
BATCH = 40  # a burst of 51 raises


class Tick(BaseEvent[None]):
    """The event."""

    number: int


class Peer:
    """An ``EventBus``, given no more than it can hold."""

    plain = False
    queue = "per bus, 50"
    counts = "results of recent events"
    publishes = f"slowed down: dispatch {BATCH}, then await wait_until_idle(); 51 at once raise"

    def __init__(self) -> None:
        self.bus = EventBus()

    async def open(self, handlers: Sequence[Any]) -> None:
        for handler in handlers:
            self.bus.on(Tick, handler)

    async def send(self, count: int) -> None:
        for number in range(count):
            self.bus.dispatch(Tick(number=number))
            if number % BATCH == BATCH - 1:
                await self.bus.wait_until_idle()
        await self.bus.wait_until_idle()

    async def burst(self, count: int) -> None:
        for number in range(count):
            self.bus.dispatch(Tick(number=number))

    async def close(self) -> None:
        await self.bus.stop(timeout=0, clear=True)
