"""Mailbox: the bounded queue of one actor, with a line for those who wait.

Invariants:

* ``len(items) <= limit``: nothing enters a full mailbox by any path.
* The line is non-empty only while the mailbox is full: the first in the line moves in at the very
  call that takes an item out, so nobody who arrives later can overtake (``asyncio.Queue`` lets a
  late ``put`` overtake one that already waits).
* Order of entry is order of arrival, through the line or not.

Two faces. `Mailbox` speaks the public interface of ``asyncio.Queue``. Its owner, the engine, uses
`items`, `limit` and the line directly and decides what a full mailbox does; a mailbox only moves
things and returns facts. Every operation is O(1), except `leave` and `replace`, which are O(n) in
the length of the line or the distance from the nearer end.

A ``put`` that is cancelled leaves the line; one that is cancelled in the same turn in which its
item moved in takes it back, unless a consumer already has it.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Callable
from types import GenericAlias
from typing import Any, ClassVar, Generic, TypeVar

T = TypeVar("T")


class Place(Generic[T]):
    """A place in the line of a full mailbox.

    Attributes:
        item: What waits.
        deadline: Loop time after which it is given up, or None.
        unawaited: Whether it counts among those nobody awaits.
        admitted: Called with the place when its item has moved in.
    """

    __slots__ = ("admitted", "deadline", "item", "unawaited")

    def __init__(
        self, item: T, admitted: Callable[[Place[T]], None], deadline: float | None = None
    ) -> None:
        self.item = item
        self.admitted = admitted
        self.deadline = deadline
        self.unawaited = False


class Mailbox(Generic[T]):
    """A bounded FIFO queue whose waiting puts are never overtaken.

    Speaks the public interface of ``asyncio.Queue``. Not thread-safe.

    Args:
        maxsize: Items it holds; 0 or less is unbounded.

    Attributes:
        items: The queued items, oldest first; for the owner.
        limit: Items that may stand in `items` now; for the owner.
        line: Places waiting for room, oldest first, or None if nobody ever waited.
    """

    __slots__ = (
        "_finished",
        "_getters",
        "_maxsize",
        "_shut",
        "_unfinished",
        "items",
        "limit",
        "line",
    )

    __class_getitem__: ClassVar[Any] = classmethod(GenericAlias)

    def __init__(self, maxsize: int = 0) -> None:
        self._maxsize = maxsize
        self.limit = maxsize if maxsize > 0 else sys.maxsize
        self.items: deque[T] = deque()
        self.line: deque[Place[T]] | None = None  # made on demand: an empty deque takes 600 bytes
        self._getters: deque[asyncio.Future[None]] | None = None
        self._finished: asyncio.Event | None = None
        self._unfinished = 0
        self._shut = False

    def __repr__(self) -> str:
        """Show size, bound and line."""
        waiting = f" line={len(self.line)}" if self.line else ""
        return f"<Mailbox {len(self.items)}/{self._maxsize or '∞'}{waiting}>"

    # -- the owner's face -------------------------------------------------------------------------

    def stand(self, place: Place[T]) -> None:
        """Put a place at the end of the line."""
        if self.line is None:
            self.line = deque()
        self.line.append(place)

    def leave(self, place: Place[T]) -> bool:
        """Take a place out of the line; return False when it stands there no more."""
        if self.line is None or place not in self.line:
            return False
        self.line.remove(place)
        return True

    def advance(self) -> None:
        """Move the first in the line in, as far as there is room."""
        items, line = self.items, self.line
        while line and len(items) < self.limit:
            place = line.popleft()
            items.append(place.item)
            place.admitted(place)

    # -- asyncio.Queue's face ---------------------------------------------------------------------

    @property
    def maxsize(self) -> int:
        """Items the mailbox holds; 0 or less is unbounded."""
        return self._maxsize

    def qsize(self) -> int:
        """Return the number of queued items."""
        return len(self.items)

    def empty(self) -> bool:
        """Return whether nothing is queued."""
        return not self.items

    def full(self) -> bool:
        """Return whether there is no room."""
        return len(self.items) >= self.limit

    async def put(self, item: T) -> None:
        """Put an item, waiting in the line while the mailbox is full.

        Args:
            item: What to put.

        Raises:
            asyncio.QueueShutDown: The mailbox was shut down (Python 3.13 and later).
        """
        if self._shut or not self.full():
            return self.put_nowait(item)
        moved = asyncio.get_running_loop().create_future()

        def admitted(place: Place[T]) -> None:
            if place.deadline is None:  # else shut down: it leaves the line without moving in
                self._entered()
            if not moved.done():
                moved.set_result(None)

        place = Place(item, admitted)
        self.stand(place)
        try:
            await moved
        except BaseException:
            self._take_back(place)
            raise
        if place.deadline is not None:
            _raise_shut_down()
        return None

    def put_nowait(self, item: T) -> None:
        """Put an item at once.

        Args:
            item: What to put.

        Raises:
            asyncio.QueueFull: The mailbox is full.
            asyncio.QueueShutDown: The mailbox was shut down (Python 3.13 and later).
        """
        if self._shut:
            _raise_shut_down()
        if self.full():
            raise asyncio.QueueFull
        self.items.append(item)
        self._entered()

    async def get(self) -> T:
        """Take the oldest item, waiting for one.

        Returns:
            The item.

        Raises:
            asyncio.QueueShutDown: The mailbox was shut down and is empty (Python 3.13 and later).
        """
        while not self.items:
            if self._shut:
                _raise_shut_down()
            if self._getters is None:
                self._getters = deque()
            getter = asyncio.get_running_loop().create_future()
            self._getters.append(getter)
            try:
                await getter
            except BaseException:
                getter.cancel()
                if getter in self._getters:
                    self._getters.remove(getter)
                if self.items and not getter.cancelled():
                    self._wake_getter()  # it was our turn and we cannot take it: pass it on
                raise
        return self.get_nowait()

    def get_nowait(self) -> T:
        """Take the oldest item at once.

        Returns:
            The item.

        Raises:
            asyncio.QueueEmpty: Nothing is queued.
            asyncio.QueueShutDown: The mailbox was shut down and is empty (Python 3.13 and later).
        """
        if not self.items:
            if self._shut:
                _raise_shut_down()
            raise asyncio.QueueEmpty
        item = self.items.popleft()
        self.advance()
        return item

    def task_done(self) -> None:
        """Say that one item taken earlier is finished.

        Raises:
            ValueError: Called more often than items were put.
        """
        if self._unfinished <= 0:
            raise ValueError("task_done() called too many times")
        self._unfinished -= 1
        if self._unfinished == 0 and self._finished is not None:
            self._finished.set()

    async def join(self) -> None:
        """Wait until every item put has been said to be finished."""
        if self._unfinished > 0:
            if self._finished is None or self._finished.is_set():
                self._finished = asyncio.Event()
            await self._finished.wait()

    if hasattr(asyncio, "QueueShutDown"):

        def shutdown(self, immediate: bool = False) -> None:  # asyncio's own signature
            """Refuse further puts; gets go on until the mailbox is empty.

            Args:
                immediate: Drop what is queued, and make every get raise at once.
            """
            self._shut = True
            if immediate:
                while self.items:
                    self.items.popleft()
                    if self._unfinished > 0:
                        self.task_done()
            for getter in self._getters or ():
                if not getter.done():
                    getter.set_result(None)
            for place in self.line or ():
                place.deadline = 0.0
                place.admitted(place)
            self._getters = self.line = None

    def _entered(self) -> None:
        self._unfinished += 1
        self._wake_getter()

    def _wake_getter(self) -> None:
        while self._getters:
            getter = self._getters.popleft()
            if not getter.done():
                getter.set_result(None)
                return

    def _take_back(self, place: Place[T]) -> None:
        if self.leave(place) or place.deadline is not None:
            return
        for index in range(len(self.items) - 1, -1, -1):
            if self.items[index] is place.item:
                del self.items[index]
                self.advance()
                self.task_done()
                return


def _raise_shut_down() -> None:
    shut_down: Any = asyncio.QueueShutDown  # type: ignore[attr-defined]  # only from 3.13 on
    raise shut_down
