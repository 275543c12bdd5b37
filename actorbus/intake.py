"""Intake: publishing from other threads.

The event is made at the call, in the calling thread; it is routed on the bus's loop, in call order.
At most 10,000 may be on their way: the next call blocks its thread, so a fast thread is held back
like a fast task, instead of filling the memory.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable

from actorbus.errors import BusClosedError, BusNotRunningError
from actorbus.journal.base import Entry
from actorbus.receipt import Receipt
from actorbus.subscription import Subscription

UNROUTED = 10_000

To = Subscription | Entry | None
"""The one an event is for; None, or what a journal is to keep, if it is for all who match."""


class Intake:
    """Receipts on their way from other threads to the loop.

    Args:
        bus: Name of the bus.
        dispatch: Routes one receipt, or delivers it to the one it is for; called on the loop.
        room: Says how many may be routed now; whoever makes more calls `flush`.
    """

    def __init__(
        self, bus: str, dispatch: Callable[[Receipt, To], None], room: Callable[[], int]
    ) -> None:
        self._bus = bus
        self._dispatch = dispatch
        self._room_behind = room
        self._receipts: deque[tuple[Receipt, To]] = deque()
        self._room = threading.Condition()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._scheduled = False
        self._open = False
        self._draining = False

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take receipts from now on."""
        with self._room:
            self._loop, self._scheduled = loop, False
            self._open, self._draining = True, False
            self._receipts.clear()

    def restrict(self) -> None:
        """Take only events that have a cause from now on: the bus drains."""
        with self._room:
            self._draining = True

    def close(self) -> None:
        """Take nothing more; whoever waits for room is told so."""
        with self._room:
            self._open = False
            self._room.notify_all()

    def put(self, receipt: Receipt, to: To, *, caused: bool) -> None:
        """Send a receipt on its way; blocks the calling thread while too many are.

        Args:
            receipt: The receipt.
            to: Whom it is for.
            caused: Whether its event has a cause.

        Raises:
            BusClosedError: The bus is draining or closed.
            BusNotRunningError: The loop was closed without the bus.
        """
        with self._room:
            while True:
                self._check(caused=caused)
                if len(self._receipts) < UNROUTED:
                    break
                self._room.wait(1.0)  # a loop that dies wakes nobody: look now and then
            self._receipts.append((receipt, to))
            wake, self._scheduled = not self._scheduled, True
            loop = self._loop
        if wake and loop is not None:
            loop.call_soon_threadsafe(self.flush)

    @property
    def waiting(self) -> bool:
        """Whether any could not be routed yet."""
        return bool(self._receipts)

    def flush(self) -> bool:
        """Route what has arrived, in call order; return whether there was any. For the loop."""
        if not self._receipts:  # who puts one in calls this afterwards
            return False
        with self._room:
            waiting = self._receipts
            count = min(len(waiting), self._room_behind()) if self._open else len(waiting)
            receipts = [waiting.popleft() for _ in range(count)]
            self._scheduled = False
            self._room.notify_all()
        for receipt, to in receipts:
            self._dispatch(receipt, to)
        return bool(receipts)

    def _check(self, *, caused: bool) -> None:
        if not self._open or (self._draining and not caused):
            raise BusClosedError(self._bus, draining=self._open)
        if self._loop is None or self._loop.is_closed():
            raise BusNotRunningError(self._bus)
