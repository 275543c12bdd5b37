"""broadcaster: channels; unbounded queues and one listener task for all."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from broadcaster import Broadcast

from benchmarks.contender import YIELD_EVERY


class Peer:
    """A ``Broadcast`` in memory, one task per subscriber."""

    plain = False
    queue = "per subscriber, no bound"
    counts = ""
    publishes = f"await publish, which never waits; yields every {YIELD_EVERY} events"

    def __init__(self) -> None:
        self.broadcast = Broadcast("memory://")
        self.tasks: list[asyncio.Task[None]] = []

    async def open(self, handlers: Sequence[Any]) -> None:
        await self.broadcast.connect()
        for handler in handlers:
            ready = asyncio.Event()
            self.tasks.append(asyncio.create_task(self.consume(handler, ready)))
            await ready.wait()

    async def consume(self, handler: Any, ready: asyncio.Event) -> None:
        """Handle what comes, until cancelled."""
        async with self.broadcast.subscribe("event") as subscriber:
            ready.set()
            async for event in subscriber:
                try:
                    await handler(event.message)
                except ValueError:
                    continue  # the loop is one's own with channels, so it is one that survives

    async def send(self, count: int) -> None:
        publish = self.broadcast.publish
        for number in range(count):
            await publish("event", number)
            if number % YIELD_EVERY == 0:
                await asyncio.sleep(0)

    async def burst(self, count: int) -> None:
        for number in range(count):
            await self.broadcast.publish("event", number)

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.broadcast.disconnect()
