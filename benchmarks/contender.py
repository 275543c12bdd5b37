"""Who runs: actorbus, the queue one would write by hand, and the floor; peers do likewise.

Every contender gets the same handlers, one per subscriber, and the same way of counting. The clock
runs from just before the first publish until the last handler call of the last subscriber has set
a future; making subscribers and closing them is off the clock.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from actorbus import EventBus
from benchmarks.clock import Lap, Stopwatch

YIELD_EVERY = 256  # events between two yields of a publisher that nothing else makes wait
CAPACITY = 1024
PATIENCE = 10.0  # seconds without the last delivery after which events count as lost
TOPIC = "bench:event"

Handler = Callable[[Any], Awaitable[None]]


class LostError(Exception):
    """Not every delivery arrived."""


class Count:
    """Handlers that count, and the moment when all of them have seen everything.

    Args:
        subscribers: Handlers to make.
        each: Calls each of them is to see.
        plain: Whether they are plain functions, to be called in threads.
    """

    def __init__(self, subscribers: int, each: int, *, plain: bool = False) -> None:
        self._loop = asyncio.get_running_loop()
        self._done = self._loop.create_future()
        self._missing = subscribers
        self._each = each
        self._lock = threading.Lock()
        self._left: list[Callable[[], int]] = []
        make = self._plain if plain else self._handler
        self.handlers: list[Any] = [make() for _ in range(subscribers)]

    def _handler(self) -> Handler:
        left = self._each

        async def handle(_: Any) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                self._one_is_through()

        self._left.append(lambda: left)
        return handle

    def _plain(self) -> Callable[[Any], None]:
        left = self._each

        def handle(_: Any) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                with self._lock:
                    self._loop.call_soon_threadsafe(self._one_is_through)

        self._left.append(lambda: left)
        return handle

    def _one_is_through(self) -> None:
        self._missing -= 1
        if self._missing == 0 and not self._done.done():
            self._done.set_result(None)

    @property
    def missing(self) -> int:
        """Deliveries not seen yet."""
        return sum(left() for left in self._left)

    async def finished(self, patience: float = PATIENCE) -> None:
        """Wait for the last delivery.

        Raises:
            LostError: It did not come in time.
        """
        await asyncio.wait({self._done}, timeout=patience)
        if not self._done.done():
            total = self._each * len(self.handlers)
            raise LostError(f"{self.missing:,} of {total:,} deliveries never arrived")


class Contender(Protocol):
    """What can be measured.

    Attributes:
        plain: Whether its handlers are plain functions.
        queue: What stands between a publisher and a handler, in a few words; ``none``: the
            publisher runs the handlers.
        counts: What it can tell of its deliveries without your help; empty: nothing.
    """

    plain: bool
    queue: str
    counts: str

    async def open(self, handlers: Sequence[Any]) -> None:
        """Subscribe the handlers, all to the same events."""

    async def send(self, count: int) -> None:
        """Publish so many events, the way its documentation says."""

    async def close(self) -> None:
        """Release everything."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How many publish how many to whom."""

    subscribers: int = 1
    publishers: int = 1


async def race(make: Callable[[], Contender], shape: Shape, deliveries: int) -> Lap:
    """Time one contender on about so many deliveries."""
    share = max(1, deliveries // (shape.subscribers * shape.publishers))
    events = share * shape.publishers
    contender = make()
    count = Count(shape.subscribers, events, plain=contender.plain)
    await contender.open(count.handlers)
    try:
        with Stopwatch() as watch:
            if shape.publishers == 1:
                await contender.send(events)
            else:
                await asyncio.gather(*(contender.send(share) for _ in range(shape.publishers)))
            await count.finished()
    finally:
        await contender.close()
    return watch.lap(events * shape.subscribers)


class Bus:
    """actorbus.

    Args:
        awaited: Whether each publish is awaited; otherwise the publisher yields now and then.
        patterns: What each subscriber subscribes to, in turn.
        bus: Options of the bus.
        options: Options of every subscription.
        publish: Options of every publish.
    """

    plain = False
    queue = "per subscriber, 1,024"
    counts = "every delivery"

    def __init__(
        self,
        *,
        awaited: bool = True,
        patterns: Sequence[str] = (TOPIC,),
        bus: dict[str, Any] | None = None,
        options: dict[str, Any] | None = None,
        publish: dict[str, Any] | None = None,
    ) -> None:
        self.awaited = awaited
        self.patterns = patterns
        self.bus = EventBus("bench", **(bus or {}))
        self.options = {"mailbox": CAPACITY, **(options or {})}
        self.publish = publish or {}

    async def open(self, handlers: Sequence[Any]) -> None:
        for index, handler in enumerate(handlers):
            pattern = self.patterns[index % len(self.patterns)]
            self.bus.subscribe(pattern, handler, name=f"subscriber-{index}", **self.options)
        await self.bus.start()

    async def send(self, count: int) -> None:
        publish, options = self.bus.publish, self.publish
        if options:
            for number in range(count):
                await publish(TOPIC, number, **options)
        elif self.awaited:
            for number in range(count):
                await publish(TOPIC, number)
        else:
            for number in range(count):
                publish(TOPIC, number)
                if number % YIELD_EVERY == 0:
                    await asyncio.sleep(0)

    async def close(self) -> None:
        await self.bus.close()


class PlainBus(Bus):
    """actorbus with handlers that are plain functions."""

    plain = True


class Queues:
    """The baseline: what one writes by hand, a bounded queue and a task per subscriber."""

    plain = False
    queue = "per subscriber, 1,024"
    counts = ""

    def __init__(self) -> None:
        self.queues: list[asyncio.Queue[Any]] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def open(self, handlers: Sequence[Handler]) -> None:
        for handler in handlers:
            queue: asyncio.Queue[Any] = asyncio.Queue(CAPACITY)
            self.queues.append(queue)
            self.tasks.append(asyncio.create_task(self.consume(queue, handler)))
        await asyncio.sleep(0)

    async def consume(self, queue: asyncio.Queue[Any], handler: Handler) -> None:
        """Handle what comes, for ever."""
        while True:
            await handler(await queue.get())

    async def send(self, count: int) -> None:
        queues = self.queues
        for number in range(count):
            for queue in queues:
                await queue.put(number)

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


class Floor:
    """The floor: calling the handlers in a loop. No queue, no isolation, nothing to wait for."""

    plain = False
    queue = "none"
    counts = ""

    def __init__(self) -> None:
        self.handlers: Sequence[Handler] = ()

    async def open(self, handlers: Sequence[Handler]) -> None:
        self.handlers = handlers

    async def send(self, count: int) -> None:
        for number in range(count):
            for handler in self.handlers:
                await handler(number)

    async def close(self) -> None:
        self.handlers = ()
