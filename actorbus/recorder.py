"""Recorder: the way of an event on a bus with a journal, from the call to the commit.

The call fixes who gets it, and in which order. Then it waits for the commit, counted as waiting by
everybody it is for, and when it is durable they get it, in the order of the journal. If it cannot
be committed nobody gets it, and it is one dead letter (``commit_failed``); if it was published
before, under the same id, its deliveries are conflated with those.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from copy import copy
from functools import partial
from typing import Any

from actorbus.archive import PIECES, Memories, recall
from actorbus.dead_letter import DeadLetter
from actorbus.errors import ConfigurationError, JournalError
from actorbus.extra import Extra
from actorbus.gauges import Gauges
from actorbus.journal.base import Append, Appended, Entry
from actorbus.lookback import Turns
from actorbus.receipt import Receipt, Route
from actorbus.retention import Retention
from actorbus.scribe import Scribe
from actorbus.subscription import Subscription
from actorbus.window import RECOVERY, Window
from actorbus.words import DeadReason, Outcome

log = logging.getLogger("actorbus")

Recalled = Callable[[Memories], None]


class Recorder:
    """Publishes by way of the journal.

    Args:
        scribe: The way into the journal.
        bury: Keeps a dead letter.
        try_again: Opens the journal on this loop, after it could not be opened.

    Attributes:
        windows: Of the live durable subscriptions, by name.
        turns: For those who read the past of the journal.
        recalled: Whether the bus knows what the journal does of the time before.
        gauges: What the journal holds, for an exporter.
    """

    def __init__(
        self,
        scribe: Scribe,
        bury: Callable[[DeadLetter, Receipt], None],
        try_again: Callable[[], None],
    ) -> None:
        self.scribe = scribe
        self.windows: dict[str, Window] = {}
        self.turns = Turns(scribe)
        self.recalled = False
        self.gauges = Gauges(scribe, self.windows)
        self._retention = Retention(scribe, self.windows)
        self._recalled: Recalled
        self._memories: Memories | None = None  # the last ones: a loop may end before it has all
        self._bury = bury
        self._try_again = try_again
        self._next_try = 0.0

    def open(self, loop: asyncio.AbstractEventLoop, letters: int, recalled: Recalled) -> None:
        """Begin on a loop: open the journal, and let the durable subscriptions go on.

        Args:
            loop: The loop.
            letters: Dead letters to recall, at most.
            recalled: Told what the journal knows of the time before, the first time only: some at
                a time, first the dead letters, then the last events before those before them.
        """
        self._next_try = loop.time() + RECOVERY
        self.scribe.open(loop)
        self.turns.reset()
        for window in self.windows.values():
            window.join()
        if not self.recalled:
            self._recalled = recalled
            self._recall(letters)
        self.gauges.begin()
        self._retention.begin(loop)

    async def ready(self) -> None:
        """Wait until the journal is open and has told what it knows, and how much it holds.

        Raises:
            JournalError: It cannot be opened.
        """
        await self.scribe.opened()
        while not self.recalled or self.gauges.looking:
            await self.scribe.hear()

    def _recall(self, letters: int) -> None:
        """Ask the journal for what it knows, in pieces: what a window reads first goes between.

        For all of them now, so that nothing is committed before: what is replayed comes first.
        """
        pieces = recall(self.scribe.journal, letters, self._memories)
        for left in reversed(range(PIECES)):
            self.scribe.call(lambda: next(pieces, None), partial(self._told, left))

    def _told(self, left: int, memories: Memories | None, error: JournalError | None) -> None:
        if self.recalled or not self.scribe.is_open:
            return
        if error is not None:
            log.error("history and dead letters of before cannot be read: %s", error)
            self._recalled(Memories(before=1))
        elif memories is not None:
            self._memories = memories
            self._recalled(memories)
        self.recalled = not left

    def add(self, sub: Subscription, name: str) -> None:
        """Give a subscription its window.

        Raises:
            ConfigurationError: Another one has the name.
        """
        if name in self.windows:
            raise ConfigurationError(f"there is a live durable subscription named {name!r} already")
        sub.window = self.windows[name] = Window(sub, self.scribe, name)

    def remove(self, name: str) -> None:
        """Read nothing more for a subscription that has ended; its name may be taken again."""
        self.windows.pop(name).pause()

    def pause(self) -> None:
        """Read nothing more for anybody, and let the journal be."""
        for window in self.windows.values():
            window.pause()
        self._retention.end()

    def move_along(self) -> None:
        """Let idle cursors hold nothing back."""
        self._retention.move_along()

    def behind(self) -> list[str]:
        """Return the names of the subscriptions that have not read all the journal holds for them.

        Those who cannot because they are suspended are left out.
        """
        return [w.name for w in self.windows.values() if w.behind and not w.stuck]

    def take(self, route: Route, receipt: Receipt, entry: Entry) -> None:
        """Fix who gets an event, and put it down.

        Raises:
            JournalFullError: Too many events wait for a commit.
        """
        if not self.scribe.is_open and self.scribe.is_refused:
            self._open_late()
        targets: Sequence[Any] = route.addressees
        if route.shares:
            targets = [*targets, *(share.pick(receipt) for share in route.shares)]
        self.scribe.append(Append(entry), partial(self._done, route, receipt, targets, entry))
        receipt.route = route.stand_in or _unrouted(route)
        if receipt.extra is None:
            receipt.extra = Extra()
        for each in targets:
            if isinstance(each, Subscription) and each.window is None:
                each.expect(receipt)

    def _open_late(self) -> None:
        """Try a journal again that could not be opened when a publish started the bus."""
        loop = asyncio.get_running_loop()
        if loop.time() >= self._next_try:
            self._try_again()

    def _done(
        self,
        route: Route,
        receipt: Receipt,
        targets: Sequence[Any],
        entry: Entry,
        appended: Appended | None,
        error: JournalError | None,
    ) -> None:
        receipt.route = route
        if appended is None:
            self._failed(receipt, targets, error)
            self._retention.move_along()  # the journal may be full of what only they hold back
        elif appended.duplicate:
            self._duplicate(receipt, targets)
        else:
            receipt.logged = appended.seq
            self._retention.committed(len(entry.body))
            for each in targets:
                if not isinstance(each, Subscription):
                    each.offer(receipt)
                elif each.window is not None:
                    each.window.arrive(receipt)
                else:
                    each.admit(receipt)
        receipt.admitted()

    def _failed(self, receipt: Receipt, targets: Sequence[Any], error: JournalError | None) -> None:
        reason = DeadReason.COMMIT_FAILED
        receipt.refusal = partial(_of_its_own, error or JournalError("the journal is closed"))
        for each in targets:
            if isinstance(each, Subscription):
                each.unexpected(receipt, Outcome.DEAD)
                receipt.refused += 1
                receipt.settle(each, Outcome.DEAD, (each.name, str(reason), error))
        _forget(receipt)
        self._bury(DeadLetter(receipt.event, "", reason, error=error), receipt)

    def _duplicate(self, receipt: Receipt, targets: Sequence[Any]) -> None:
        for each in targets:
            if isinstance(each, Subscription):
                each.unexpected(receipt, Outcome.CONFLATED)
                receipt.settle(each, Outcome.CONFLATED)
        _forget(receipt)


def _of_its_own(error: JournalError) -> JournalError:
    """Return a copy for whoever awaits: a raised error keeps the frames it has passed through.

    One that is shared would keep those of everybody, and grow with each.
    """
    copied = copy(error).with_traceback(error.__traceback__)
    copied.__cause__ = error.__cause__
    return copied


def _unrouted(route: Route) -> Route:
    """Make the stand-in of a route for an event that waits for its commit."""
    route.stand_in = Route(route.exchange, route.topic, route.offers, route.addressees)
    route.stand_in.routed = False
    return route.stand_in


def _forget(receipt: Receipt) -> None:
    """Take an event out of the history that nobody got."""
    if receipt.event in receipt.route.ring:
        receipt.route.ring.remove(receipt.event)
