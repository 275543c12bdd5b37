"""aiopubsub: an unbounded queue and a loop task per subscriber, a task per event."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from aiopubsub import Hub, Key, Publisher, Subscriber

from benchmarks.peers.pace import POLITELY, politely

logging.getLogger("aiopubsub").setLevel(logging.CRITICAL)
logging.getLogger("Loop").setLevel(logging.CRITICAL)


def without_key(handler: Any) -> Callable[[Key, Any], Awaitable[None]]:
    """Return a listener that leaves out the key it is given."""

    def listen(_: Key, message: Any) -> Awaitable[None]:
        called: Awaitable[None] = handler(message)
        return called

    return listen


class Peer:
    """A ``Hub`` with one ``Subscriber`` per handler."""

    plain = False
    queue = "per subscriber, no bound"
    counts = ""
    publishes = POLITELY

    def __init__(self) -> None:
        self.hub = Hub()
        self.publisher = Publisher(self.hub, prefix=Key("bench"))
        self.subscribers: list[Subscriber] = []

    async def open(self, handlers: Sequence[Any]) -> None:
        for index, handler in enumerate(handlers):
            subscriber = Subscriber(self.hub, f"subscriber-{index}")
            subscriber.add_async_listener(Key("bench", "event"), without_key(handler))
            self.subscribers.append(subscriber)

    async def send(self, count: int) -> None:
        publish, key = self.publisher.publish, Key("event")
        await politely(lambda number: publish(key, number), count)

    async def burst(self, count: int) -> None:
        for number in range(count):
            self.publisher.publish(Key("event"), number)

    async def close(self) -> None:
        for subscriber in self.subscribers:
            await subscriber.remove_all_listeners()
