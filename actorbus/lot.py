"""Lot: what a worker takes out of its mailbox together, so that taking costs a busy actor nothing.

A lot is handled in chunks, which are timed together. What has not begun is still queued: the
mailbox's limit is lower by the size of the lot, and whoever looks at the books or finds the mailbox
full has it put back first, so nothing but the worker ever has to know of lots. While a line waits,
or where somebody may take deliveries from the front of the mailbox, a lot is one delivery.
"""

from __future__ import annotations

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
        single: Whether to take them one by one.

    Attributes:
        stock: Taken and not yet in a chunk, the oldest last.
    """

    __slots__ = ("_booked", "_chunk", "_inbox", "_kept", "_rest", "_single", "stock")

    def __init__(self, inbox: Inbox, *, single: bool) -> None:
        self._inbox = inbox
        self._single = single
        self.stock: list[Receipt] = []
        self._chunk: list[Receipt] = []  # being handled, in order
        self._rest = NOTHING  # of the chunk: not begun
        self._booked = 0  # of the chunk
        self._kept = 0  # places in the mailbox

    def begin(self, size: int) -> Iterator[Receipt]:
        """Begin a chunk of up to so many deliveries; each begins when the iteration reaches it."""
        if not self.stock:
            self._take()
        self._chunk = self.stock[: -size - 1 : -1]
        del self.stock[-size:]
        self._booked = 0
        self._rest = iter(self._chunk)
        return self._rest

    def _take(self) -> None:
        inbox, items = self._inbox, self._inbox.items
        if inbox.pressed or self._single:
            if items:
                self.stock.append(items.popleft())
            if inbox.pressed:
                inbox.relieve()
            return
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

    def let_go(self) -> None:
        """Forget the delivery in hand: it is settled elsewhere."""
        self.put_back()
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
        if self._kept and not self.stock:
            self._keep(0)
        return chunk

    def put_back(self) -> None:
        """Put back what has not begun, and book what is done; the last begun is in hand."""
        rest = list(self._rest)
        if self._rest is not NOTHING:
            self._rest = NOTHING
            if rest:
                del self._chunk[-len(rest) :]
            self._booked = len(self._chunk) - 1
            self._inbox.ledger.acked += self._booked
        if self._kept:
            self._inbox.items.extendleft(self.stock)
            self._inbox.items.extendleft(reversed(rest))
            self.stock.clear()
            self._keep(0)

    def _keep(self, places: int) -> None:
        self._inbox.keep_room(places - self._kept)
        self._kept = places
