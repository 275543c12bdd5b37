"""Backlog: events of one topic that have been published and stand in no mailbox yet.

A burst on one topic is put into the mailboxes together: while it lasts, an event costs one append,
however many subscribers there are. Nobody can tell. The backlog is flushed before anybody looks at
a mailbox (`Inbox.items`), takes from one, or counts; before another event can reach one; and when a
worker falls asleep. It takes no more events than every one of the mailboxes has room for, less one:
whoever awaits the next one lets the loop go round, before he is made to.
"""

from __future__ import annotations

from collections import deque
from itertools import repeat
from typing import Protocol

from actorbus.receipt import Receipt, Route

LEAST = 8  # events there must be room for to make it worth while
MOST = 1000  # events of a burst; then a publisher that awaits lets the loop go round


_extend = deque[Receipt].extend
_exhaust = deque[None](maxlen=0).extend


class Inboxes(Protocol):
    """What a backlog needs to know of an inbox."""

    gate: int

    @property
    def asleep(self) -> int:
        """Workers that could start at once."""

    def rouse(self) -> None:
        """Set one of them to work."""


class Backlog:
    """The events of a burst.

    Attributes:
        route: The one they take; None while there is no burst.
        room: How many more may be added.
        last: The route of the last event that was put into the mailboxes at once.
        add: Adds a receipt, once `route` and `room` allow.
    """

    __slots__ = ("_receipts", "add", "last", "room", "route")

    def __init__(self) -> None:
        self._receipts: list[Receipt] = []
        self.add = self._receipts.append
        self.route: Route | None = None
        self.last: Route | None = None
        self.room = 0

    def begin(self, route: Route) -> None:
        """Begin a burst, if there is room for one; call it when the last one has been flushed."""
        room = min(inbox.gate - len(items) for items, _, inbox in route.doors)
        if room >= LEAST:
            self.route, self.room = route, min(room - 1, MOST)  # one is left for the pause

    def flush(self) -> None:
        """End the burst: put its events into the mailboxes."""
        if self.route is None:
            return
        queues = [items for items, _, _ in self.route.doors]
        fresh: list[Receipt] = []
        add = fresh.append
        # From here on nothing is made, so no finalizer runs that publishes in between.
        route, receipts = self.route, self._receipts
        self.route, self._receipts, self.add = None, fresh, add
        if not receipts:
            return
        route.events += len(receipts)
        _exhaust(map(_extend, queues, repeat(receipts)))
        for _, _, inbox in route.doors:
            if inbox.asleep:
                inbox.rouse()
