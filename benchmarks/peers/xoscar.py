"""xoscar: asyncio actors, compiled; one method call per message."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import xoscar

HANDLERS: dict[str, Any] = {}
"""By actor name: what is passed to an actor's constructor is copied."""


class Subscriber(xoscar.Actor):  # type: ignore[misc]  # it has no types
    """Hands every message to a handler."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.handler = HANDLERS[name]

    async def on(self, number: int) -> None:
        """Handle one message."""
        await self.handler(number)


class Peer:
    """A pool without sub-processes, one actor per handler."""

    plain = False
    queue = "a task per message"
    counts = ""
    publishes = "await ref.on.tell() for each actor, which never waits for room"

    def __init__(self) -> None:
        self.pool: Any = None
        self.refs: list[Any] = []

    async def open(self, handlers: Sequence[Any]) -> None:
        self.pool = await xoscar.create_actor_pool("127.0.0.1:0", n_process=0)
        for index, handler in enumerate(handlers):
            HANDLERS[name := f"subscriber-{index}"] = handler
            ref = await xoscar.create_actor(
                Subscriber, name, address=self.pool.external_address, uid=name
            )
            self.refs.append(ref)

    async def send(self, count: int) -> None:
        for number in range(count):
            for ref in self.refs:
                await ref.on.tell(number)

    async def close(self) -> None:
        await self.pool.stop()
        HANDLERS.clear()
