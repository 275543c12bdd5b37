"""Past: what a journal holds, as events one after the other.

Nothing is read before somebody asks for the next event, and then a piece at a time: so whoever is
slow keeps no more than a piece in memory, and a commit never waits for more than one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, Self

from actorbus.errors import JournalError
from actorbus.event import Event
from actorbus.journal.base import Status
from actorbus.lookback import LOOK, LookBack, Piece, Wanted, forwards, width
from actorbus.recorder import Recorder
from actorbus.work import Done


class Host(Protocol):
    """What reading the past needs of a bus."""

    def reader(self) -> Recorder | None:
        """Return the way into the journal, if there is one, the bus running.

        Raises:
            BusNotRunningError: It does not run here.
            BusClosedError: It is closed.
        """

    def remembered(self, wanted: Wanted) -> list[Event]:
        """Return the events in memory that are wanted."""


class HistoryStream:
    """Events of the past, oldest first: ``async for event in bus.read_history("order:*")``.

    It ends with what was published before the first event was asked for. What is pruned meanwhile
    is gone.

    Attributes:
        position: The number, in the journal, of the last event it has given; at its end that of the
            last event there was. Another reading goes on from there (``after=stream.position``).
            It stays 0 on a bus without a journal.
        damaged: How many events it came by that cannot be read.
    """

    def __init__(self, host: Host, wanted: Wanted, limit: int | None) -> None:
        self.position = wanted.after
        self.damaged = 0
        self._host = host
        self._wanted = wanted
        self._limit = limit
        self._next: deque[tuple[int, Event]] = deque()
        self._at = 0  # up to here it has looked
        self._width = LOOK  # so far it looks next
        self._end: int | None = None  # and up to here it will

    def __aiter__(self) -> Self:
        """Iterate over the events."""
        return self

    async def __anext__(self) -> Event:
        """Return the next event.

        Raises:
            JournalError: It cannot be read; asking again tries again.
            BusNotRunningError: The bus does not run on this loop.
            BusClosedError: The bus is closed.

        Cancelling loses nothing: asking again goes on where it was.
        """
        while not self._next:
            if self._end is None:
                await self._begin()
            elif self._at < self._end:
                at = self._at
                self._take(await self._asked(self._look_on))
                self._width = width(len(self._next), self._at - at)
            else:
                self.position = self._end
                raise StopAsyncIteration
        self.position, event = self._next.popleft()
        return event

    def _take(self, piece: Piece) -> None:
        self._next.extend(piece.events)
        self._at = piece.at
        self.damaged += piece.damaged

    async def _begin(self) -> None:
        if self._host.reader() is None:
            events = self._host.remembered(self._wanted)
            first = 0 if self._limit is None else max(0, len(events) - self._limit)
            self._next.extend((0, event) for event in events[first:])
            self._end = 0
            return
        status: Status = await self._asked(
            lambda recorder, told: recorder.scribe.call(recorder.scribe.journal.status, told)
        )
        at = self._wanted.floor(status)
        if self._limit is not None:
            self._take(await self._asked(partial(self._look_back, status)))
            at = status.last
        self._at, self._end = at, status.last

    def _look_on(self, recorder: Recorder, told: Done) -> None:
        assert self._end is not None  # noqa: S101 the caller has looked
        upto = min(self._at + self._width, self._end)
        recorder.turns.call(partial(forwards, self._wanted, self._at, upto), told)

    def _look_back(self, status: Status, recorder: Recorder, told: Done) -> None:
        assert self._limit is not None  # noqa: S101 the caller has looked
        LookBack(recorder.turns, self._wanted, self._limit, lambda: False, told).begin(status)

    async def _asked(self, ask: Callable[[Recorder, Done], None]) -> Any:
        """Ask the journal, and wait for the answer."""
        recorder = self._host.reader()
        assert recorder is not None  # noqa: S101 without one nobody asks
        answer = asyncio.get_running_loop().create_future()

        def told(result: Any, error: JournalError | None) -> None:
            if answer.done():  # nobody waits any more
                return
            if error is None:
                answer.set_result(result)
            else:
                answer.set_exception(error)

        ask(recorder, told)
        return await answer
