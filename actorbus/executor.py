"""Executor: the thread of a journal, and what waits for it.

Everything is done in the order in which it was submitted, commits that come one after the other
together. Whoever waits is told on their loop.

Invariant: of each piece of work that is submitted somebody is told once, unless it is given up.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable

from actorbus.commits import Commits
from actorbus.errors import JournalError
from actorbus.journal.base import Journal, Opening
from actorbus.threads import Threads
from actorbus.work import Work, together

TOGETHER = 2_000  # operations in one commit, about


class Executor:
    """Does the work of one journal.

    Args:
        journal: The journal.
        durability: As for `Journal.open`.
        threads: A pool of one thread.
        finish: Told of work that is done, on the loop of the work.

    Attributes:
        commits: What was measured of the commits.
    """

    def __init__(
        self, journal: Journal, durability: str, threads: Threads, finish: Callable[[Work], None]
    ) -> None:
        self.commits = Commits()
        self._journal = journal
        self._durability = durability
        self._threads = threads
        self._finish = finish
        self._ready: deque[Work] = deque()
        self._in_hand: list[Work] = []  # what the thread is at, while somebody wants to know
        self._working = False
        self._lock = threading.Lock()
        self._opening: Opening | None = None  # in the thread: while the journal is open
        self._broken: JournalError | None = None  # in the thread: why it could not be opened

    def submit(self, work: Work, *, first: bool = False) -> None:
        """Do something when its turn comes, or `first`: before what waits."""
        with self._lock:
            (self._ready.appendleft if first else self._ready.append)(work)
            if self._working:
                return
            self._working = True
        self._threads.submit(self._work)

    def give_up(self) -> tuple[list[Work], list[Work]]:
        """Tell nobody of anything that is not done yet.

        Returns:
            What has begun, and may be done; and what has not, and never will be.
        """
        with self._lock:
            begun, self._in_hand = self._in_hand, []
            waiting, self._ready = [*self._ready], deque()
        return begun, waiting

    # -- in the thread ----------------------------------------------------------------------------

    def open_journal(self) -> Opening:
        """Open the journal, unless it is open.

        Raises:
            JournalError: It cannot be opened; then nothing can be done with it.
        """
        self._broken = None
        try:
            self._opening = self._opening or self._journal.open(self._durability)
        except JournalError as error:
            self._broken = error  # what comes behind it fails for the same reason
            raise
        return self._opening

    def close_journal(self, *, clean: bool) -> None:
        """Close the journal; see `Journal.close`."""
        self._opening = None
        self._journal.close(clean=clean)

    def _work(self) -> None:
        while works := self._take():
            work = together(works)
            if self._broken is not None and work.call is None:
                work.fail(self._broken)
            else:
                work.perform(self._journal, self.commits)
            with self._lock:
                wanted, self._in_hand = self._in_hand, []
            if wanted and work.loop is not None:
                self._tell(work, work.loop)

    def _take(self) -> list[Work]:
        """Take what comes next: a call, or commits that can be one."""
        with self._lock:
            works: list[Work] = []
            operations = 0
            while self._ready and operations < TOGETHER:
                if works and not self._ready[0].goes_with(works[0]):
                    break
                works.append(self._ready.popleft())
                operations += len(works[-1].operations)
            self._working, self._in_hand = bool(works), works
            return works

    def _tell(self, work: Work, loop: asyncio.AbstractEventLoop) -> None:
        """Let a loop know; if it is closed, forget what else it wants: another may be at work."""
        try:
            loop.call_soon_threadsafe(self._finish, work)
        except RuntimeError:
            with self._lock:
                self._ready = deque(each for each in self._ready if each.loop is not loop)
