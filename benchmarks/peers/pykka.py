"""pykka: actors in threads; unbounded inboxes, plain handlers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

from pykka import ActorRef, ThreadingActor

logging.getLogger("pykka").setLevel(logging.CRITICAL + 1)


class Subscriber(ThreadingActor):
    """Hands every message to a handler."""

    use_daemon_thread = True

    def __init__(self, handler: Callable[[Any], None]) -> None:
        super().__init__()
        self.handler = handler

    def on_receive(self, message: Any) -> None:
        """Handle one message."""
        self.handler(message)


class Peer:
    """A ``ThreadingActor`` per handler, told from another thread."""

    plain = True
    queue = "per actor, no bound"
    counts = ""
    publishes = "tell each actor, in a worker thread; the handlers are plain functions"

    def __init__(self) -> None:
        self.actors: list[ActorRef[Subscriber]] = []

    async def open(self, handlers: Sequence[Any]) -> None:
        self.actors = [Subscriber.start(handler) for handler in handlers]

    async def send(self, count: int) -> None:
        await asyncio.to_thread(self._tell_all, count)

    def _tell_all(self, count: int) -> None:
        for number in range(count):
            for actor in self.actors:
                if actor.is_alive():
                    actor.tell(number)

    async def close(self) -> None:
        for actor in self.actors:
            actor.stop(block=False)
