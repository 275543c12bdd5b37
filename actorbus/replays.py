"""Replays: what is marked in a journal is replayed as soon as somebody is there to handle it.

Dead letters are marked while the journal is at rest (``actorbus dead-letters replay``), or by the
owner. A start asks for the names of those they are to go to; whenever one of these is live, its
letters are read a page at a time and redelivered as `DeadLetters.replay` does, in the order of
burial; they fill no mailbox beyond its room.

Invariants:
    - A letter, and with it its mark, leaves the journal when its new delivery is settled, so a
      crash before repeats it. One that is refused stays marked, for the next start.
    - No letter is redelivered that somebody else has replayed or discarded since the start.
    - No more is held than a page for each subscription; a page ends when all of it is settled.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Protocol

from actorbus.archive import asked, exhume, letter_of
from actorbus.dead_letter import DeadLetter
from actorbus.errors import JournalError
from actorbus.scribe import Scribe
from actorbus.watch import hear, ring

PAGE = 100  # dead letters of a subscription that are read, and redelivered, together

log = logging.getLogger("actorbus")


class Host(Protocol):
    """What it needs to know of the bus."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop it runs on."""

    @property
    def running(self) -> bool:
        """Whether actors may work."""

    def is_live(self, name: str) -> bool:
        """Return whether there is a live subscription of that name."""

    def is_full(self, name: str) -> bool:
        """Return whether the mailbox of the live subscription of that name has no room."""

    def is_suspended(self, name: str) -> bool:
        """Return whether the actor of that name is suspended."""

    async def replay(self, letter: DeadLetter) -> bool:
        """Redeliver a letter; return whether it was admitted."""

    def keep(self, task: asyncio.Task[Any], owner: str, *, step: bool = False) -> None:
        """Hold a task strongly until it ends."""

    def quiet(self) -> None:
        """Let whoever waits for idleness look again."""


class Replays:
    """Replays what is marked in the journal, and lets letters go that are handled.

    Args:
        scribe: The way into the journal.
        host: The bus.
    """

    def __init__(self, scribe: Scribe, host: Host) -> None:
        self._scribe = scribe
        self._host = host
        self._marked: dict[str, set[str]] = {}  # by name: what has been replayed or discarded
        self._at_work: dict[str, asyncio.Task[None]] = {}
        self._open: Counter[str] = Counter()  # new deliveries that have not settled
        self._bells: list[asyncio.Future[None]] = []

    def begin(self) -> None:
        """Ask the journal what is marked; nothing of an earlier loop matters any more."""
        self._marked, self._at_work, self._bells = {}, {}, []
        self._open.clear()
        self._scribe.call(lambda: self._scribe.journal.status().marked, self._told)

    def end(self) -> None:
        """Begin no more of it; what is under way is settled as usual."""
        self._marked = {}
        ring(self._bells)

    def _told(self, marked: Mapping[str, int] | None, error: JournalError | None) -> None:
        if marked is not None:
            self.want(marked)
        elif self._scribe.is_open:
            log.error("what is marked for replay waits for the next start: %s", error)

    def want(self, names: Iterable[str]) -> None:
        """Replay what is marked for these, now or when they are there."""
        if self._host.running:
            for name in names:
                self._marked[name] = {*self._marked.get(name, ())}
                self.take_up(name)

    def take_up(self, name: str) -> None:
        """Begin with a subscription, if it is live and anything is marked for it."""
        loop = self._host.loop
        if name not in self._marked or name in self._at_work or loop is None:
            return
        if self._host.is_live(name):
            task = asyncio.Task(self._replay(name), loop=loop, name=f"actorbus:replay:{name}")
            self._at_work[name] = task
            task.add_done_callback(partial(self._over, name))
            self._host.keep(task, "")

    def _over(self, name: str, task: asyncio.Task[None]) -> None:
        if self._at_work.get(name) is not task:
            return
        del self._at_work[name]
        if not task.cancelled() and (broken := task.exception()) is not None:
            self._marked.pop(name, None)
            log.error("what is marked for %r waits for the next start", name, exc_info=broken)
        self.take_up(name)
        self._host.quiet()

    @property
    def busy(self) -> list[str]:
        """The names of those who are given replays now; not of suspended ones."""
        return [
            name
            for name in self._at_work
            if name in self._marked and not self._host.is_suspended(name)
        ]

    async def _replay(self, name: str) -> None:
        """Replay page after page."""
        after, gone = "", self._marked[name]
        while letters := await self._page(name, after):
            for letter in letters:
                while self._goes_on(name, gone) and self._open[name] and self._host.is_full(name):
                    await hear(self._bells)
                if not self._goes_on(name, gone):
                    return
                if letter.id in gone or not await self._host.replay(letter):
                    after = letter.id
            while self._goes_on(name, gone) and self._open[name]:
                await hear(self._bells)
            gone.intersection_update(letter.id for letter in letters)
        if self._goes_on(name, gone):
            del self._marked[name]

    def _goes_on(self, name: str, gone: set[str]) -> bool:
        return self._marked.get(name) is gone and self._host.is_live(name)

    async def _page(self, name: str, after: str) -> list[DeadLetter]:
        journal = self._scribe.journal
        graves = await asked(self._scribe, lambda: journal.dead(after, PAGE, marked=name))
        return [letter_of(grave) for grave in graves]

    # -- new deliveries ---------------------------------------------------------------------------

    def began(self, letter: DeadLetter) -> None:
        """Take note of a new delivery, whoever has asked for it."""
        self._open[letter.subscription] += 1
        self._marked.get(letter.subscription, set()).add(letter.id)

    def refused(self, letter: DeadLetter) -> None:
        """Take note that one was not admitted."""
        self._marked.get(letter.subscription, set()).discard(letter.id)

    def settled(self, letter: DeadLetter, *, handled: bool) -> None:
        """Take note that one is over; if its event was handled, the letter is done with."""
        self._open[letter.subscription] -= 1
        if handled:
            self.let_go([letter])
        if self._open[letter.subscription] <= 0:
            del self._open[letter.subscription]
        ring(self._bells)

    def gone(self, letters: Iterable[DeadLetter]) -> None:
        """Take note of letters that are not to be replayed any more."""
        for letter in letters:
            self._marked.get(letter.subscription, set()).add(letter.id)

    def let_go(self, letters: list[DeadLetter]) -> None:
        """Remove letters from the journal."""
        self.gone(letters)
        if self._host.running:
            exhume(self._scribe, letters)
