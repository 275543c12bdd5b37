"""Lot: what a worker takes out of its mailbox together, so that taking costs a busy actor nothing.

A lot is handled in chunks, which are timed together; a handler that lets the loop go round is the
last of its chunk. What has not begun is still queued: the mailbox's limit is lower by the size of
the lot, and whoever looks at the books or finds the mailbox full has it put back first, so nothing
but the worker ever has to know of lots. While a line waits, or where others take deliveries from
the front of the mailbox too, they are taken one by one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from operator import length_hint

from actorbus.admission import Inbox
from actorbus.receipt import Receipt

MOST = 1024  # deliveries taken together: whoever looks must put them back
NOTHING: Iterator[Receipt] = iter(())


class Lot:
    """The deliveries one worker has taken.

    Args:
        inbox: Where they come from.
        loop: The running loop.
        single: Whether to take them one by one in any case.

    Attributes:
        stock: Taken and not yet in a chunk, the oldest last.
    """

    __slots__ = (
        "_booked", "_chunk", "_cut", "_cutter", "_inbox", "_kept", "_loop", "_rest", "_shut",
        "_single", "stock",
    )  # fmt: skip

    def __init__(self, inbox: Inbox, loop: asyncio.AbstractEventLoop, *, single: bool) -> None:
        self._inbox = inbox
        self._loop = loop
        self._single = single
        self.stock: list[Receipt] = []
        self._chunk: list[Receipt] = []  # being handled, in order
        self._rest = NOTHING  # of the chunk: not begun
        self._booked = 0  # of the chunk
        self._kept = 0  # places in the mailbox
        self._shut = self._cut = False
        self._cutter: asyncio.Handle | None = None

    def begin(self, size: int) -> Iterator[Receipt]:
        """Begin a chunk of up to so many deliveries; each begins when the iteration reaches it."""
        self._booked = 0
        self._cut = False
        if (
            size > 1
            and self._cutter is None  # taken one by one, more may yet come than there is now
            and (self.stock or self._single or self._inbox.pressed or len(self._inbox.items) > 1)
        ):
            self._cutter = self._loop.call_soon(self._cut_short)
        if self._single or (self._inbox.pressed and not self.stock):
            self._chunk = []
            return self._one_by_one(size)
        if not self.stock:
            self._take()
        self._chunk = self.stock[: -size - 1 : -1]
        del self.stock[-size:]
        self._rest = iter(self._chunk)
        return self._rest

    def _cut_short(self) -> None:
        """End the chunk with the delivery in hand: its handler has let the loop go round."""
        self._cutter = None
        self.put_back()
        self._cut = True

    def _one_by_one(self, size: int) -> Iterator[Receipt]:
        inbox, items, chunk = self._inbox, self._inbox.items, self._chunk
        while items and len(chunk) < size and not (self._cut or self._shut):
            receipt = items.popleft()
            chunk.append(receipt)
            if inbox.pressed:
                inbox.relieve()
            yield receipt

    def _take(self) -> None:
        items = self._inbox.items
        if len(items) <= MOST:
            self.stock.extend(reversed(items))
            items.clear()
        else:
            self.stock.extend(items.popleft() for _ in range(MOST))
            self.stock.reverse()
        self._keep(len(self.stock))

    @property
    def in_hand(self) -> Receipt | None:
        """The delivery that has begun last and is not closed, or None."""
        begun = len(self._chunk) - length_hint(self._rest)
        return self._chunk[begun - 1] if begun else None

    def shut(self) -> None:
        """Begin no other."""
        self.put_back()
        self._shut = True

    def let_go(self) -> None:
        """Begin no other, and forget the one in hand: it is settled elsewhere."""
        self.shut()
        self._chunk = []

    def close(self, *, failed: bool) -> list[Receipt]:
        """End the chunk, and book it.

        Args:
            failed: Whether the last that has begun has failed; what has not begun is put back then.

        Returns:
            Those that have begun, in order.
        """
        if failed:
            self.put_back()
        chunk, self._chunk, self._rest = self._chunk, [], NOTHING
        self._inbox.ledger.acked += len(chunk) - self._booked - failed
        if not self.stock:
            self._keep(0)
            if self._cutter is not None:
                self._cutter.cancel()
                self._cutter = None
        return chunk

    def put_back(self) -> None:
        """Put back what has not begun, and book what is done; the last begun is in hand."""
        rest, self._rest = list(self._rest), NOTHING
        if rest:
            del self._chunk[-len(rest) :]
        if self._chunk:
            done = len(self._chunk) - 1
            self._inbox.ledger.acked += done - self._booked
            self._booked = done
        if self._kept:
            self._inbox.items.extendleft(self.stock)
            self._inbox.items.extendleft(reversed(rest))
            self.stock.clear()
            self._keep(0)

    def _keep(self, places: int) -> None:
        if places != self._kept:
            self._inbox.keep_room(places - self._kept)
            self._kept = places
