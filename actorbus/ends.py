"""Ends: whoever has published an event hears how a durable subscription's delivery of it ended.

A delivery from the journal has a receipt of its own; the publisher's is told by its number. How a
delivery died is remembered for a while, since a publisher may ask only when it is over; all others
are acked.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, ClassVar, Protocol

import msgspec

from actorbus.receipt import Addressee, Receipt
from actorbus.words import DeadReason, Outcome

RETURNED = (
    DeadReason.STOPPED, DeadReason.SUSPENDED, DeadReason.DRAIN_TIMEOUT, DeadReason.LOOP_CLOSED,
)  # fmt: skip
"""What takes a delivery away without anybody having failed."""
DEAD = 10_000  # deliveries that died and are remembered


class Settled(Protocol):
    """Whoever keeps account of the deliveries."""

    def settled(self, seq: int, reply: object, failed: tuple[str, str, Any] | None) -> None:
        """Take note that a delivery was settled."""


class Mark(msgspec.Struct, eq=False):
    """Stands in the place of a watch on a delivery from the journal: the window wants to know.

    It knows the number only: with the receipt, which has it, each delivery would be a cycle.

    Attributes:
        window: Whose delivery it is.
        seq: The number of its event.
        failed: As of a `Watch`.
    """

    asking: ClassVar = False
    pending: ClassVar = ()

    window: Settled
    seq: int
    failed: tuple[str, str, Any] | None = None

    def settle(self, _: object, reply: object = None) -> None:
        """Pass on that the delivery is settled."""
        self.window.settled(self.seq, reply, self.failed)


class Ends:
    """How the deliveries of a durable subscription end.

    Args:
        sub: The subscription.

    Attributes:
        watchers: Receipts of publishers that want to know, by number of the event.
    """

    def __init__(self, sub: Addressee) -> None:
        self.watchers: dict[int, list[Receipt]] = {}
        self._sub = sub
        self._dead: OrderedDict[int, Outcome] = OrderedDict()

    def watch(self, receipt: Receipt) -> None:
        """Tell a publisher's receipt of the end when it comes."""
        watchers = self.watchers.setdefault(receipt.logged, [])
        if receipt not in watchers:
            watchers.append(receipt)

    def recall(self, receipt: Receipt) -> None:
        """Tell a publisher's receipt of an end that has come."""
        fate = self._dead.get(receipt.logged)
        if fate is not None:
            receipt.settle(self._sub, fate)

    def tell(
        self, seq: int, fate: Outcome | None, reply: object, failed: tuple[str, str, Any] | None
    ) -> None:
        """Tell whoever wants to know.

        Args:
            seq: The number of the event.
            fate: The outcome, unless it was acked.
            reply: What the handler returned.
            failed: As of a `Watch`.
        """
        if fate is not None:
            self._dead[seq] = fate
            if len(self._dead) > DEAD:
                self._dead.popitem(last=False)
        for receipt in self.watchers.pop(seq, ()):
            if fate is not None:
                receipt.settle(self._sub, fate, failed)
            elif receipt.watch is not None:
                receipt.watch.settle(self._sub, reply)
