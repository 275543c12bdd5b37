"""Custody: what the owner of a journal may ask of it while the bus runs.

The same as `actorbus journal` and `actorbus dead-letters` offer for a journal at rest. All of it
takes the journal's thread in turn with the commits, in short pieces with a pause between them: a
commit waits for one piece at most, and `settle` and `drain` do not wait for the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol, TypeVar

from actorbus import world
from actorbus.archive import Filter, asked, committed, letter_of, why_not
from actorbus.dead_letter import DeadLetter, DeadLetters, reason_of
from actorbus.errors import (
    BusClosedError,
    BusNotRunningError,
    ConfigurationError,
    JournalCorruptError,
)
from actorbus.journal.base import Exhume, Grave, Leave, Page, Replay, Wants
from actorbus.recorder import Recorder
from actorbus.replays import Replays
from actorbus.retention import PAUSE
from actorbus.survey import PAGE, JournalInfo, Lags, line_of
from actorbus.topic import Pattern
from actorbus.words import DeadReason

T = TypeVar("T")


class Keeper(Protocol):
    """What it needs to know of the bus."""

    name: str
    open: bool
    draining: bool
    closed: bool
    dead_letters: DeadLetters

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop it runs on."""


class Custody:
    """The journal of a running bus, for its owner: ``bus.journal``.

    Every call raises `BusNotRunningError` where the bus does not run on the caller's loop,
    `BusClosedError` once it drains, and `JournalError` if the journal cannot answer. A call that is
    cancelled leaves done what it has done.

    Args:
        keeper: The bus.
        recorder: Its way into the journal.
        replays: What it replays of that.
    """

    def __init__(self, keeper: Keeper, recorder: Recorder, replays: Replays) -> None:
        self._keeper = keeper
        self._recorder = recorder
        self._replays = replays
        self._scribe = recorder.scribe
        self._journal = recorder.scribe.journal

    def __repr__(self) -> str:
        """Show where the journal is."""
        return f"<Custody of {self._journal.url}>"

    async def info(self) -> JournalInfo:
        """Return how much the journal holds, and how far each durable subscription has come.

        Counting what is behind reads it once; the figures are those of the call.
        """
        lags = Lags(await self._ask(self._journal.status))
        while lags.upto < lags.last:
            lags.count(await self._read(lags.upto, lags.wants))
        opening = await self._scribe.opened()
        return lags.info(self._journal.url, clean=opening.clean)

    async def verify(self) -> tuple[str, ...]:
        """Look at every event, dead letter and note; return what is wrong.

        What only a journal at rest can be asked is left out: whether each page of its file is as it
        should be takes too long in one piece. ``actorbus journal verify`` looks at that, too.
        """
        steps = self._journal.verify(whole=False)
        problems: list[str] = []
        try:
            while (step := await self._piece(lambda: next(steps, None))) is not None:
                if step[2] is not None:
                    problems.append(step[2])
        except JournalCorruptError as error:
            problems.append(str(error))
        return tuple(problems)

    async def prune(self) -> int:
        """Remove what is past retention and needed by nobody; return how many events that was.

        The bus does so by itself every minute.
        """
        self._recorder.move_along()
        before = await self._ask(self._journal.status)
        while await self._piece(lambda: self._journal.prune(world.wall())):
            pass
        after = await self._ask(self._journal.status)
        return (after.last - after.events) - (before.last - before.events)

    async def export(
        self, pattern: str = "**", since: float = float("-inf")
    ) -> AsyncIterator[dict[str, Any]]:
        """Iterate over the events kept, oldest first; those published meanwhile may be among them.

        Args:
            pattern: Which topics.
            since: Only those published from this Unix time on.

        Yields:
            Dicts with ``seq, id, topic, time, key, headers, correlation_id, causation_id, data``;
            of a damaged event, whatever its topic, with ``seq, id, topic, damaged``.

        Raises:
            InvalidPatternError: `pattern` is none.
        """
        wants, upto, end = Pattern(pattern).matches, 0, False
        while not end:
            page = await self._read(upto, wants)
            for record in page.records:
                if record.entry.time >= since or not record.sound:
                    yield line_of(record)
            upto, end = page.upto, page.end

    async def forget(self, durable: str) -> bool:
        """Forget a durable subscription, so that nothing is kept for it any more.

        Args:
            durable: Its name.

        Returns:
            Whether there was one.

        Raises:
            ConfigurationError: It is live.
        """
        if durable in self._recorder.windows:
            raise ConfigurationError(f"{durable!r} is live: unsubscribe it before it is forgotten")
        self._check()
        return bool(await committed(self._scribe, Leave(durable)))

    # -- dead letters -----------------------------------------------------------------------------

    async def dead_letters(
        self,
        *,
        topic: str | None = None,
        subscription: str | None = None,
        reason: DeadReason | str | None = None,
    ) -> AsyncIterator[DeadLetter]:
        """Iterate over the dead letters that fit, oldest first: also those beyond the bus's store.

        Args:
            topic: A pattern for the event's topic.
            subscription: The exact name of a subscription; empty for those of none.
            reason: Why they were given up.

        Raises:
            InvalidPatternError: `topic` is no pattern.
            ConfigurationError: `reason` is none.
        """
        async for page in self._pages(None, _filter(topic, subscription, reason)):
            for letter in page:
                yield letter

    async def replay(
        self,
        id: str | None = None,  # noqa: A002 the field's name
        *,
        topic: str | None = None,
        subscription: str | None = None,
        reason: DeadReason | str | None = None,
    ) -> int:
        """Mark the dead letters that fit; each is replayed as soon as its subscription is live.

        Also those beyond the bus's store, and at the next start what is not replayed in this run.
        One that nobody can be given, being of no subscription or damaged, is left out.

        Args:
            id: Of one.
            topic: As for `dead_letters`.
            subscription: As for `dead_letters`.
            reason: As for `dead_letters`.

        Returns:
            How many were marked.

        Raises:
            InvalidPatternError, ConfigurationError: As for `dead_letters`.
        """
        count = 0
        async for page in self._pages(id, _filter(topic, subscription, reason)):
            wanted = [letter for letter in page if why_not(letter) is None]
            marks = Replay(tuple(letter.id for letter in wanted))
            count += await committed(self._scribe, marks)
            self._replays.want({letter.subscription for letter in wanted})
        return count

    async def discard(
        self,
        id: str | None = None,  # noqa: A002 the field's name
        *,
        topic: str | None = None,
        subscription: str | None = None,
        reason: DeadReason | str | None = None,
    ) -> int:
        """Forget the dead letters that fit, but for those that wait for room in a mailbox just now.

        Also those beyond the bus's store.

        Args:
            id: Of one.
            topic: As for `dead_letters`.
            subscription: As for `dead_letters`.
            reason: As for `dead_letters`.

        Returns:
            How many were forgotten.

        Raises:
            InvalidPatternError, ConfigurationError: As for `dead_letters`.
        """
        count = 0
        async for page in self._pages(id, _filter(topic, subscription, reason)):
            store = self._keeper.dead_letters
            held = [letter for letter in page if store.get(letter.id) is not None]
            for letter in held:
                count += await store.discard(letter.id)
            others = [letter for letter in page if letter not in held]
            self._replays.gone(others)
            count += await committed(self._scribe, Exhume(tuple(each.id for each in others)))
        return count

    async def _pages(self, ident: str | None, which: Filter) -> AsyncIterator[list[DeadLetter]]:
        """Yield the letters that fit, each once, though some leave meanwhile."""
        after, seen = "", set[str]()

        def read() -> list[Grave]:
            return self._journal.dead(after, PAGE)

        while page := await self._piece(read):
            fresh = [grave for grave in page if grave.id not in seen]
            seen.update(grave.id for grave in fresh)
            last = next((grave.id for grave in reversed(page) if grave.sound), after)
            if last == after and not fresh:
                return
            after = last  # if it leaves meanwhile, all of them come again
            letters = (letter_of(each) for each in fresh if ident in (None, each.id))
            if found := [*which.of(letters)]:
                yield found

    # -- the journal's thread ---------------------------------------------------------------------

    async def _read(self, after: int, wants: Wants) -> Page:
        return await self._piece(lambda: self._journal.read(after, PAGE, wants))

    async def _piece(self, function: Callable[[], T]) -> T:
        """Do a piece of something longer: whoever else waits for the journal comes between."""
        result = await self._ask(function)
        await asyncio.sleep(PAUSE)
        return result

    async def _ask(self, function: Callable[[], T]) -> T:
        self._check()
        return await asked(self._scribe, function)

    def _check(self) -> None:
        keeper = self._keeper
        if keeper.draining or keeper.closed:
            raise BusClosedError(keeper.name, draining=keeper.draining)
        if not keeper.open or keeper.loop is not asyncio.get_running_loop():
            raise BusNotRunningError(keeper.name)


def _filter(topic: str | None, subscription: str | None, reason: DeadReason | str | None) -> Filter:
    """Return a filter, checked.

    Raises:
        InvalidPatternError: `topic` is no pattern.
        ConfigurationError: `reason` is none.
    """
    if topic is not None:
        Pattern(topic)
    return Filter(topic, subscription, None if reason is None else reason_of(reason))
