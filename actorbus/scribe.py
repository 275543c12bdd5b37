"""Scribe: brings what a bus does into its journal, much of it in one commit.

Everything that has been put down in one turn of the loop is committed together, and so is what has
piled up while the commit before was under way: group commit without a timer, which costs an idle
bus no delay and a busy one a fraction of a commit per event. Only settled deliveries wait a moment
for company (`PATIENCE`), since nobody waits for them.

Dead letters for which there is no room are put down again, a few with each commit in turn, until
there is; then all of them. What somebody has settled and the journal could not note is said again,
too, in front of all else: who joins next under that name must not be told less.

The loop is told of results in the order in which things were put down, whether or not they were
committed together.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import anyio

from actorbus.errors import JournalError, JournalFullError
from actorbus.executor import Executor
from actorbus.journal.base import (
    Append,
    Appended,
    Bury,
    Exhume,
    Journal,
    Opening,
    Operation,
    Settle,
)
from actorbus.threads import Threads
from actorbus.watch import hear, ring
from actorbus.work import Done, Work

UNCOMMITTED = 10_000  # events that wait for a commit, at most
OWED = 10_000  # dead letters put down again until there is room, at most
TURN = 0.003  # seconds the loop is kept for results, about
SOME = 16  # results between two looks at the clock
PATIENCE = 0.005  # seconds a settled delivery may wait for a commit to ride in

log = logging.getLogger("actorbus")


class Settling(Protocol):
    """Whoever settles deliveries of a durable subscription."""

    def settlement(self) -> tuple[Settle, Done] | None:
        """Return what is to be noted of it, if anything, and who is told of the commit."""


class Scribe:
    """The way into a journal, and its thread.

    Args:
        journal: The journal.
        threads: A pool of one thread.
        durability: As for `Journal.open`.
        eased: Called on the loop whenever something has come to its end.

    Attributes:
        last: The number of the last event known to be committed.
        uncommitted: Events that wait for a commit.
        commits: What was measured of the commits.
        given_up: Whether the journal had not come to its end when it had to be closed.
    """

    def __init__(
        self, journal: Journal, threads: Threads, durability: str, eased: Callable[[], None]
    ) -> None:
        self.journal = journal
        self.threads = threads
        self._executor = Executor(journal, durability, threads, self._finish)
        self.last = self.uncommitted = 0
        self.commits = self._executor.commits
        self.given_up = False
        self._eased = eased
        self._loop: asyncio.AbstractEventLoop | None = None
        self._next = Work()
        self._settling: dict[Settling, None] = {}
        self._unheard: dict[Settling, None] = {}  # whose last settlement was not committed
        self._sealing: asyncio.Handle | None = None
        self._under_way = 0
        self._finished: deque[Work] = deque()
        self._owed: deque[Bury] = deque(maxlen=OWED)  # dead letters there was no room for
        self._bells: list[asyncio.Future[None]] = []
        self._open = False
        self._opened: Opening | JournalError | None = None

    @property
    def room(self) -> int:
        """Events that may be put down now."""
        return UNCOMMITTED - self.uncommitted

    @property
    def busy(self) -> bool:
        """Whether anything is under way, or waits for its moment."""
        return bool(self._under_way or self._next.operations or self._settling)

    # -- opening and closing ----------------------------------------------------------------------

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin on a loop; what an earlier one has left is nobody's any more."""
        self._loop = loop
        self.threads.heeded_by(loop)
        self._next, self._sealing, self._under_way, self.uncommitted = Work(loop), None, 0, 0
        self.given_up = False
        self._settling.clear()
        self._unheard.clear()
        self._finished.clear()
        self._bells.clear()
        if not self._open or self._opened is None:  # a loop may end before it is told
            self._open, self._opened = True, None
            self.call(self._executor.open_journal, self._is_open)

    def _is_open(self, opening: Opening | None, error: JournalError | None) -> None:
        self._opened = opening or error
        self._open = opening is not None
        self.last = self.last if opening is None else opening.last

    @property
    def is_open(self) -> bool:
        """Whether the journal is open."""
        return isinstance(self._opened, Opening)

    @property
    def is_refused(self) -> bool:
        """Whether the journal could not be opened, and nothing is left of the attempt."""
        return isinstance(self._opened, JournalError) and not self.busy

    async def opened(self) -> Opening:
        """Wait until the journal is open; return what that has found.

        Raises:
            JournalError: It could not be opened.
        """
        while self._opened is None:
            await self.hear()
        if isinstance(self._opened, JournalError):
            raise self._opened
        return self._opened

    async def hear(self) -> None:
        """Wait until something has come to its end."""
        await hear(self._bells)

    async def close(self, timeout: float | None, *, clean: bool) -> None:
        """Commit what has been put down, and close the journal.

        Args:
            timeout: Seconds until it is given up; None waits for ever. Whoever waits is told then,
                and the journal is closed when it has done what it is at.
            clean: Whether no handler of a durable subscription runs any more.
        """
        self._settling |= self._unheard
        close = partial(self._executor.close_journal, clean=clean)
        with anyio.move_on_after(timeout) as limit:
            await self._rest()
            if self._open:
                self._open = False
                self.call(close, _dropped)
                await self._rest()
        if limit.cancelled_caught and not self.given_up:
            await self._give_up()
            self._executor.submit(Work(call=close))
        self.threads.close()

    async def _rest(self) -> None:
        """Wait until nothing is under way."""
        self.seal()
        while self.busy:
            await self.hear()
            self.seal()

    async def _give_up(self) -> None:
        """Wait no more, and tell whoever does."""
        self._open, self.given_up = False, True
        url = self.journal.url
        log.error(
            "journal %s did not come to its end: the bus is closed without it, and of %d events it "
            "is not known whether they were committed", url, self.uncommitted,
        )  # fmt: skip
        unknown = JournalError(f"{url} took too long: it is not known whether this was committed")
        never = JournalError(f"{url} took too long: this was not committed")
        while self.busy:
            self.seal()
            begun, waiting = self._executor.give_up()
            for works, error in ((begun, unknown), (waiting, never)):
                for each in works:
                    work = Work(self._loop, each.operations, each.done)  # the thread has the other
                    work.fail(error)
                    self._finish(work)
            await asyncio.sleep(0)

    # -- putting down -----------------------------------------------------------------------------

    def append(self, operation: Append, done: Done) -> None:
        """Keep an event.

        Raises:
            JournalFullError: Too many wait for a commit already.
        """
        if self.uncommitted >= UNCOMMITTED:
            raise JournalFullError(
                f"{UNCOMMITTED:,} events wait for a commit to {self.journal.url}: "
                "await the receipts to publish no faster than the disk can write"
            )
        self.uncommitted += 1
        work = self._next  # here on it is `put`, written out: every publish comes this way
        work.operations.append(operation)
        work.done.append(done)
        if self._sealing is None or type(self._sealing) is asyncio.TimerHandle:
            self._seal_in(0.0)

    def put(self, operation: Operation, done: Done | None = None) -> None:
        """Put something down for the next commit."""
        self._next.operations.append(operation)
        self._next.done.append(done or _dropped)
        self._seal_in(0.0)

    def call(self, function: Callable[[], Any], done: Done, *, first: bool = False) -> None:
        """Call the journal after everything put down before, or `first`: before what is to come."""
        self.seal()
        self._hand_over(Work(self._loop, [], [done], function), first=first)

    def settled(self, who: Settling, *, soon: bool = False) -> None:
        """Ask somebody what he has settled, when the next commit is made.

        Args:
            who: The one to ask.
            soon: Whether it is much already.
        """
        self._settling[who] = None
        self._seal_in(0.0 if soon else PATIENCE)

    def unheard(self, who: Settling) -> None:
        """Ask somebody again, whenever a commit is made: what he has settled was not noted."""
        self._unheard[who] = None

    def _seal_in(self, seconds: float) -> None:
        loop = self._loop
        assert loop is not None  # noqa: S101 nothing is put down before the start
        if self._sealing is not None:
            if seconds or not isinstance(self._sealing, asyncio.TimerHandle):
                return
            self._sealing.cancel()
        self._sealing = (
            loop.call_later(seconds, self.seal) if seconds else loop.call_soon(self.seal)
        )

    def seal(self) -> None:
        """Send what has been put down on its way."""
        if self._sealing is not None:
            self._sealing.cancel()
            self._sealing = None
        work, self._next = self._next, Work(self._loop)
        if self._owed and (work.operations or self._settling):
            self._bury_some()
        if self._unheard and (work.operations or self._settling):
            later, work = work, self._settled_by(self._unheard, Work(self._loop))
            work.operations += later.operations
            work.done += later.done
        self._settled_by(self._settling, work)
        if work.operations:
            self._hand_over(work)

    def _bury_some(self) -> None:
        """Put a few owed dead letters down again, and if there is room for those, the next ones.

        A full journal may stay so for long, and each commit would take as long as all of them do.
        """
        owed: list[Operation] = [self._owed.popleft() for _ in range(min(SOME, len(self._owed)))]
        if owed:
            done = [_dropped] * (len(owed) - 1)
            self._hand_over(Work(self._loop, owed, [*done, self._some_buried], apart=True))

    def _some_buried(self, _: object, error: JournalError | None) -> None:
        if error is None:
            self._bury_some()

    def _settled_by(self, settling: dict[Settling, None], work: Work) -> Work:
        """Add to a commit what some have settled, and ask them no more."""
        for who in settling:
            settlement = who.settlement()
            if settlement is not None:
                work.operations.append(settlement[0])
                work.done.append(settlement[1])
        settling.clear()
        return work

    def _hand_over(self, work: Work, *, first: bool = False) -> None:
        self._under_way += 1
        self._executor.submit(work, first=first)

    # -- back on the loop -------------------------------------------------------------------------

    def _finish(self, work: Work) -> None:
        """Pass results on, in order, without keeping the loop for longer than a turn."""
        if work.loop is not self._loop:
            return
        self._finished.append(work)
        if len(self._finished) == 1:
            self._pass_on()

    def _pass_on(self) -> None:
        loop = self._loop
        assert loop is not None  # noqa: S101 something has been put down
        until = loop.time() + TURN
        while self._finished:
            work = self._finished[0]
            while work.told < len(work.done):
                self._pass_some(work)
                if loop.time() > until:
                    loop.call_soon(self._pass_on)
                    return
            self._finished.popleft()
            self._under_way -= work.count
            ring(self._bells)
            self._eased()

    def _pass_some(self, work: Work) -> None:
        """Pass on some results; whoever is told may start anything, so nothing is kept here."""
        operations, results, done, errors = work.operations, work.results, work.done, work.errors
        for index in range(work.told, min(work.told + SOME, len(done))):
            work.told = index + 1
            error = errors.get(index) if errors else None
            result = None if error is not None else results[index]
            if type(result) is Appended:
                self.uncommitted -= 1
                if result.seq > self.last:
                    self.last = result.seq
            elif error is not None and operations:
                self._not_done(operations[index])
            elif self._owed and operations:
                self._owe_less(operations[index])
            done[index](result, error)

    def _not_done(self, operation: Operation) -> None:
        if isinstance(operation, Append):
            self.uncommitted -= 1
        elif isinstance(operation, Bury):
            self._owed.append(operation)

    def _owe_less(self, operation: Operation) -> None:
        """Bury no dead letter that has left before there was room for it."""
        if isinstance(operation, Exhume):
            gone = {*operation.ids}
        elif isinstance(operation, Bury) and operation.instead:
            gone = {operation.instead}
        else:
            return
        kept = (each for each in self._owed if each.grave.id not in gone)
        self._owed = deque(kept, maxlen=OWED)


def _dropped(_: object, __: JournalError | None) -> None:
    """Want to know nothing."""
