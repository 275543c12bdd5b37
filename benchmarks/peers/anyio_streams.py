"""anyio: a bounded memory object stream per subscriber; ``send`` yields to the loop every time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from benchmarks.contender import CAPACITY


class Peer:
    """A stream of 1,024 and a task per subscriber."""

    plain = False
    queue = "per subscriber, 1,024"
    counts = "the queue's length"
    publishes = "await send to each stream"

    def __init__(self) -> None:
        self.senders: list[MemoryObjectSendStream[Any]] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def open(self, handlers: Sequence[Any]) -> None:
        for handler in handlers:
            sender, receiver = anyio.create_memory_object_stream[Any](CAPACITY)
            self.senders.append(sender)
            self.tasks.append(asyncio.create_task(self.consume(receiver, handler)))

    async def consume(self, receiver: MemoryObjectReceiveStream[Any], handler: Any) -> None:
        """Handle what comes, until the stream is closed."""
        async with receiver:
            async for item in receiver:
                try:
                    await handler(item)
                except ValueError:
                    continue  # the loop is one's own with streams, so it is one that survives

    async def send(self, count: int) -> None:
        for number in range(count):
            for sender in self.senders:
                await sender.send(number)

    async def close(self) -> None:
        for sender in self.senders:
            sender.close()
        await asyncio.gather(*self.tasks, return_exceptions=True)
