"""What a worker has in hand, found from anywhere below the handler it runs.

One context variable, set once per worker task or thread, holds the worker; the worker holds the
delivery. So an event published by a handler finds its cause without a variable being set per
event, which would cost half as much as the handler call itself.
"""

from __future__ import annotations

import asyncio
import threading
from asyncio import _get_running_loop
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from actorbus.event import Event


class Hand:
    """The part of a worker that publishing and waiting need to know.

    Attributes:
        actor: The subscription it works for.
        receipt: The receipt of the delivery in hand, or None.
        blocked: What the handler awaits now (a receipt or a watch), or None.
        task: The task it runs in, or None for a thread.
        thread: The thread its handler runs in now, or None.
    """

    __slots__ = ("actor", "blocked", "receipt", "task", "thread")

    def __init__(self, actor: Any) -> None:
        self.actor = actor
        self.receipt: Any = None
        self.blocked: Any = None
        self.task: asyncio.Task[None] | None = None
        self.thread: int | None = None

    @property
    def event(self) -> Event | None:
        """The event in hand, or None between two deliveries."""
        receipt = self.receipt
        return None if receipt is None else receipt.event

    def is_here(self) -> bool:
        """Return whether the caller runs in the handler's own task or thread."""
        if self.receipt is None:
            return False
        if self.thread is not None:
            return self.thread == threading.get_ident()
        return _get_running_loop() is not None and self.task is asyncio.current_task()


class AtWork:
    """How many workers of this process are not asleep, and so may have a delivery in hand.

    While it is 0, nobody need look for one: reading a context variable that is not set takes a
    search.
    """

    __slots__ = ("workers",)

    def __init__(self) -> None:
        self.workers = 0


at_work = AtWork()

in_hand: ContextVar[Hand | None] = ContextVar("actorbus_in_hand", default=None)


def cause_in_hand() -> Event | None:
    """Return the event in whose handling the caller runs, or None."""
    hand = in_hand.get()
    return None if hand is None else hand.event
