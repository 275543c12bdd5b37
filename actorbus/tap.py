"""Taps: subscriptions that hand events to a waiting task instead of an actor.

A delivery is acked on entering the buffer. What a full buffer drops is conflated, never a dead
letter: whoever opens a stream has chosen to see the newest.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import datetime
from functools import partial
from typing import Any, Protocol, Self

from actorbus.checks import whole
from actorbus.errors import BusClosedError, ConfigurationError
from actorbus.event import Event
from actorbus.ledger import Ledger, Terms
from actorbus.mailbox import Place
from actorbus.options import NEEDS_REPLAY, moment
from actorbus.receipt import Receipt
from actorbus.topic import Pattern
from actorbus.watch import hear, ring
from actorbus.words import Outcome, Overflow

Found = Callable[[list[Receipt]], None]
"""Told of what is to be replayed."""


class TapHost(Protocol):
    """What a tap needs of its bus."""

    name: str

    def add_tap(self, tap: Tap) -> None:
        """Route to a tap from now on."""

    def replay(
        self, stream: EventStream, count: int, since: float, after: int, found: Found
    ) -> None:
        """Find so many events of the history for a stream to begin with."""

    def remove_tap(self, tap: Tap) -> None:
        """Route nothing more to a tap."""


class Tap:
    """A subscription without an actor.

    Attributes:
        name: For the audit and the outcomes.
        patterns: What it listens to.
        ledger: Its books.
        order: Its place among the subscriptions.
    """

    answers = False

    def __init__(self, name: str, patterns: tuple[Pattern, ...]) -> None:
        self.name = name
        self.patterns = patterns
        self.ledger = Ledger()
        self.order = 0
        self.over = False

    def offer(self, receipt: Receipt) -> None:
        """Take a delivery."""
        self.ledger.routed += 1
        self.ledger.acked += 1
        self.take(receipt.event)

    def take(self, event: Event) -> None:
        """Take an event."""
        raise NotImplementedError

    def end(self) -> None:
        """Take note that nothing more will come."""
        self.over = True

    def holds(self, receipt: Receipt) -> bool:  # noqa: ARG002 the interface of an addressee
        """Return False: a delivery is settled when it arrives."""
        return False

    def reawaited(self, place: Place[Receipt], *, awaited: bool) -> None:
        """Do nothing: a tap has no line."""

    def terms(self) -> Terms:
        """Return the terms of the law."""
        ledger = self.ledger
        return Terms(routed=ledger.routed, acked=ledger.acked, conflated=ledger.conflated)


class EventStream(Tap):
    """Events as they come; ``async with bus.events(...) as events: async for event in events``.

    Attributes:
        dropped: Events the full buffer has dropped.
    """

    def __init__(
        self,
        host: TapHost,
        name: str,
        patterns: tuple[Pattern, ...],
        mailbox: int,
        overflow: Overflow | str,
        replay: int,
        since: datetime | float | None = None,
        after: int = 0,
    ) -> None:
        super().__init__(name, patterns)
        allowed = (Overflow.DROP_OLD, Overflow.DROP_NEW, Overflow.LATEST)
        if overflow not in allowed:
            names = ", ".join(repr(str(word)) for word in allowed)
            raise ConfigurationError(
                f"overflow of a stream must be one of {names}: it never blocks"
            )
        self._size = whole("mailbox", mailbox, at_least=1)
        self._overflow = Overflow(overflow)
        self._replay = whole("replay", replay)
        if self._replay > self._size:
            raise ConfigurationError(f"replay={replay} does not fit into mailbox={mailbox}")
        self._since = moment("since", since, default=-math.inf)
        self._after = whole("after", after)
        if not replay and (since is not None or after):
            raise ConfigurationError(NEEDS_REPLAY)
        self._host = host
        self._buffer: deque[Event] = deque()
        self._held: list[Receipt] | None = None  # what comes while the past is read
        self._bells: list[asyncio.Future[None]] = []
        self._open = False

    @property
    def dropped(self) -> int:
        """Events the full buffer has dropped or replaced."""
        return self.ledger.conflated

    async def __aenter__(self) -> Self:
        """Begin to listen; an event published from here on is in the stream.

        It returns when the replay, if there is one, is in the buffer.
        """
        self.ledger = Ledger()  # what an earlier `async with` counted is in the sum of the ended
        self.over = False
        self._open = True
        self._host.add_tap(self)
        if self._replay:
            held = self._held = []
            found = partial(self._begin_with, held)
            try:
                self._host.replay(self, self._replay, self._since, self._after, found)
                while self._held is not None and not self.over:
                    await hear(self._bells)
            except BaseException:
                await self.__aexit__()
                raise
        return self

    @property
    def crowded(self) -> bool:
        """Whether no more of the past need be read: the buffer is full, or nobody listens."""
        return self.over or len(self._held or ()) >= self._size

    def _begin_with(self, held: list[Receipt], receipts: list[Receipt]) -> None:
        """Take what is replayed, and then what has come meanwhile."""
        if self._held is held:  # else it was left, and perhaps opened again
            self._held = None
            for receipt in (*receipts, *held):
                self.offer(receipt)
            ring(self._bells)

    async def __aexit__(self, *_: object) -> None:
        """End the subscription."""
        self._open = False
        self._held = None
        self._host.remove_tap(self)
        self.end()

    def __aiter__(self) -> AsyncIterator[Event]:
        """Iterate over the events, waiting for each."""
        return self

    async def __anext__(self) -> Event:
        """Return the next event, waiting for it."""
        if not self._open and not self.over:
            raise RuntimeError("use `async with bus.events(...) as events` before iterating")
        while not self._buffer:
            if self.over:
                raise StopAsyncIteration
            await hear(self._bells)
        return self._buffer.popleft()

    def offer(self, receipt: Receipt) -> None:
        """Take a delivery into the buffer, or let one go."""
        if self._held is not None:
            self._held.append(receipt)
            return
        self.ledger.routed += 1
        event, buffer = receipt.event, self._buffer
        if self._overflow is Overflow.LATEST and self._replaced(event):
            self.ledger.conflated += 1
        elif len(buffer) < self._size:
            self.ledger.acked += 1
            buffer.append(event)
        else:
            self.ledger.conflated += 1  # of the two, one is in the buffer and one is gone
            if self._overflow is Overflow.DROP_NEW:
                receipt.settle(self, Outcome.CONFLATED)
                return
            buffer.popleft()
            buffer.append(event)
        ring(self._bells)

    def _replaced(self, event: Event) -> bool:
        same = _same(event)
        for index, queued in enumerate(self._buffer):
            if _same(queued) == same:
                self._buffer[index] = event
                return True
        return False

    def end(self) -> None:
        """End the iteration once the buffer is empty."""
        super().end()
        ring(self._bells)


def _same(event: Event) -> Any:
    return event.topic if event.key is None else event.key


class Waiting(Tap):
    """One task waits for one event."""

    def __init__(
        self,
        bus: str,
        name: str,
        patterns: tuple[Pattern, ...],
        where: Callable[[Event], Any] | None,
    ) -> None:
        super().__init__(name, patterns)
        self._bus = bus
        self._where = where
        self.found: asyncio.Future[Event] = asyncio.get_running_loop().create_future()

    def take(self, event: Event) -> None:
        """Take an event, if it is the one."""
        if self.found.done():
            return
        try:
            if self._where is None or self._where(event):
                self.found.set_result(event)
        except Exception as error:  # noqa: BLE001 the waiter's own predicate: the error is its own
            self.found.set_exception(error)

    def end(self) -> None:
        """Tell the waiter that nothing more will come."""
        super().end()
        if not self.found.done() and not self.found.get_loop().is_closed():
            self.found.set_exception(BusClosedError(self._bus))


def parse_patterns(patterns: str | Iterable[str]) -> tuple[Pattern, ...]:
    """Return one or more patterns, each once.

    Raises:
        InvalidPatternError: One breaks the grammar.
        ConfigurationError: It is no pattern and no series of patterns.
    """
    if isinstance(patterns, str):
        return (Pattern(patterns),)
    try:
        given = list(patterns)
    except TypeError:
        raise ConfigurationError(
            f"patterns must be a pattern or several, not {type(patterns).__name__}"
        ) from None
    return tuple(dict.fromkeys(Pattern(each) for each in given))
