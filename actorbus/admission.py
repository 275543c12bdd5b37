"""Admission: what happens between the router and a mailbox.

`Inbox.offer` is the whole of a delivery's way in: append while there is room, else what the
overflow policy says. It is called once per delivery of every publish, so it is one call deep.

The line (policy ``block``): a delivery stands in it until there is room or its time is up. One
timer per mailbox is enough, because the time allowed is the same for all and they stand in order.
Those nobody awaits may fill the line up to the mailbox's size. Whether somebody awaits a delivery
is only plain a moment later, so the newest one is judged at the next offer or the loop's next turn.

Stalled: after a delivery has timed out in the line, and while the actor is suspended, one that
finds the mailbox full is dead at once, until a delivery is next taken. So a stuck subscriber costs
a publisher's await one ``put_timeout``, not one per event.

An inbox no route leads to yet is closed: it has no mailbox of its own, which takes 900 bytes and is
one container more for the garbage collector. Whoever makes a route opens it first, so that the way
in itself need not look.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, Protocol

from actorbus.backlog import Backlog
from actorbus.errors import MailboxFullError
from actorbus.ledger import Ledger
from actorbus.mailbox import Mailbox, Place
from actorbus.receipt import Addressee, Receipt
from actorbus.words import DeadReason, Overflow

Door = tuple[deque[Receipt], Callable[[Receipt], None], "Inbox"]


class Owner(Addressee, Protocol):
    """What an inbox needs to know of the subscription it belongs to."""

    @property
    def backlog(self) -> Backlog:
        """The bus's events that stand in no mailbox yet."""

    @property
    def suspended(self) -> bool:
        """Whether its actor is suspended."""

    @property
    def rouse(self) -> Callable[[], None]:
        """Sets a sleeping worker to work."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The running loop."""

    def progress(self) -> None:
        """Bring the books up to what threads have done."""

    def give_up(
        self, receipt: Receipt, reason: DeadReason, error: BaseException | None = None
    ) -> None:
        """Make a dead letter of a delivery."""

    def conflate(self, receipt: Receipt) -> None:
        """Count a delivery as replaced."""


class Parking(Protocol):
    """Where a keyed actor keeps admitted deliveries whose key is busy; they are still queued."""

    def oldest(self) -> Receipt | None:
        """Take out the delivery that has waited longest, or None if none waits."""

    def replace(self, key: Hashable, receipt: Receipt) -> Receipt | None:
        """Put a delivery in the place of one with the same key; return that one, or None."""

    def withdraw(self, receipt: Receipt) -> bool:
        """Take one delivery out; return whether it stood there."""


_CLOSED: Mailbox[Receipt] = Mailbox()  # shared by all inboxes that are closed; empty for ever
_CLOSED.items = deque(maxlen=0)
_NO_BACKLOG = Backlog()


class Inbox:
    """The way into one actor's mailbox.

    Args:
        owner: The subscription.
        ledger: Its books.
        capacity: Deliveries the mailbox holds.
        overflow: What a full mailbox does.
        put_timeout: Seconds a delivery may stand in the line, or None for ever.
        key: For ``latest``: what makes two events the same.

    Attributes:
        offer: The way in, once it is open: takes a receipt.
        rouse: Called when something was admitted and a worker sleeps.
        gate: While fewer deliveries than this are queued, another has only to be appended: there
            is room, and nobody to wake.
        key: For ``latest``, what makes two events the same.
        pressed: Whether the next take has to look after the line or the stall.
        parking: Of a keyed actor: the admitted deliveries that wait for a busy key.
    """

    __slots__ = (
        "_asleep", "_backlog", "_capacity", "_entered", "_judging", "_newest", "_overflow",
        "_owner", "_positions", "_put_timeout", "_stalled", "_timer", "_unawaited", "gate",
        "key", "ledger", "mailbox", "offer", "parking", "pressed", "rouse",
    )  # fmt: skip

    def __init__(
        self,
        owner: Owner,
        ledger: Ledger,
        capacity: int,
        overflow: Overflow,
        put_timeout: float | None,
        key: Callable[[Any], Hashable] | None,
    ) -> None:
        self.mailbox = _CLOSED
        self._backlog = _NO_BACKLOG
        self.ledger = ledger
        self.rouse: Callable[[], None]
        self.offer: Callable[[Receipt], None]
        self.gate = 0
        self._asleep = 0
        self.pressed = False
        self.parking: Parking | None = None
        self._owner = owner
        self._capacity = capacity
        self._overflow = overflow
        self._put_timeout = put_timeout
        self.key = key
        self._stalled = False
        self._unawaited = 0
        self._newest: Place[Receipt] | None = None
        self._judging = False
        self._timer: asyncio.TimerHandle | None = None
        self._positions: dict[Hashable, int]  # latest: where the last of each key entered
        self._entered = 0  # latest: deliveries ever admitted

    @property
    def items(self) -> deque[Receipt]:
        """What stands in the mailbox."""
        if self._backlog.route is not None:
            self._backlog.flush()
        return self.mailbox.items

    @property
    def door(self) -> Door:
        """What a publisher needs who does himself what `offer` would do if there is room."""
        return self.items, self.items.append, self

    @property
    def room(self) -> int:
        """Free places in the mailbox; less than 0 if more is kept for a busy key than it holds."""
        limit = self._capacity if self.mailbox is _CLOSED else self.mailbox.limit
        return limit - len(self.items)

    @property
    def asleep(self) -> int:
        """Workers that could start at once."""
        return self._asleep

    @asleep.setter
    def asleep(self, workers: int) -> None:
        self._asleep = workers
        self.keep_room(0)

    def keep_room(self, places: int) -> None:
        """Keep room for so many deliveries that were taken, but are still queued."""
        self.mailbox.limit -= places
        self.gate = 0 if self._asleep else self.mailbox.limit
        if self._backlog.route is not None:  # it has counted on the room there was
            self._backlog.flush()

    # -- in ---------------------------------------------------------------------------------------

    def open(self) -> Callable[[Receipt], None]:
        """Make ready for the first delivery, if that has not been done; return the way in."""
        if self.mailbox is _CLOSED:
            self.mailbox = Mailbox(self._capacity)
            self._backlog = self._owner.backlog
            self._positions = {}
            self.rouse = self._owner.rouse
            latest = self._overflow is Overflow.LATEST
            self.offer = self._offer_latest if latest else self._offer
            self.keep_room(0)
        return self.offer

    def _offer(self, receipt: Receipt) -> None:
        self.ledger.routed += 1
        items = self.items
        if len(items) < self.mailbox.limit:
            items.append(receipt)
            if self._asleep:
                self.rouse()
        else:
            self._full(receipt)

    def _full(self, receipt: Receipt) -> None:
        self._owner.progress()  # a thread may have started what stood here
        if len(self.items) < self.mailbox.limit:
            self.items.append(receipt)
            return
        match self._overflow:
            case Overflow.BLOCK:
                self._stand(receipt)
            case Overflow.DROP_OLD:
                oldest = self._push_out()
                self.items.append(receipt)
                self._owner.give_up(oldest, DeadReason.OVERFLOW)
            case _:
                if self._overflow is Overflow.FAIL:
                    name, capacity = self._owner.name, self.mailbox.maxsize
                    receipt.refusal = receipt.refusal or partial(MailboxFullError, name, capacity)
                self.refuse(receipt, DeadReason.OVERFLOW)

    def _push_out(self) -> Receipt:
        """Take the oldest delivery out of a full mailbox; the parked ones came before the rest."""
        oldest = self.parking.oldest() if self.parking is not None else None
        return self.items.popleft() if oldest is None else oldest

    def refuse(
        self, receipt: Receipt, reason: DeadReason, error: BaseException | None = None
    ) -> None:
        """Give up a delivery that was not admitted."""
        receipt.refused += 1
        self._owner.give_up(receipt, reason, error)

    # -- the line ---------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Deliveries in the line."""
        return len(self.mailbox.line) if self.mailbox.line else 0

    def _stand(self, receipt: Receipt) -> None:
        if self._put_timeout is not None and (self._stalled or self._owner.suspended):
            self.refuse(receipt, DeadReason.STALLED)
            return
        self._judge_newest()
        deadline = None if self._put_timeout is None else receipt.at + self._put_timeout
        place = Place(receipt, self._moved_in, deadline)
        self.mailbox.stand(place)
        receipt.stand(self._owner, place)
        self.pressed = True
        self._newest = place
        if not self._judging:
            self._judging = True
            self._owner.loop.call_soon(self._judge_later)
        if self._timer is None and deadline is not None:
            self._timer = self._owner.loop.call_at(deadline, self._expire)

    def _judge_later(self) -> None:
        self._judging = False
        self._judge_newest()

    def _judge_newest(self) -> None:
        place, self._newest = self._newest, None
        if place is not None and not place.item.awaiting:
            self._nobody_awaits(place)

    def _nobody_awaits(self, place: Place[Receipt]) -> None:
        if self._unawaited < self.mailbox.maxsize:
            self._unawaited += 1
            place.unawaited = True
        elif self.leave(place):
            self.refuse(place.item, DeadReason.OVERFLOW)

    def reawaited(self, place: Place[Receipt], *, awaited: bool) -> None:
        """Take note that somebody began, or the last one ceased, to await a place."""
        if awaited:
            if place.unawaited:
                place.unawaited = False
                self._unawaited -= 1
        elif place is not self._newest and not place.unawaited:
            self._nobody_awaits(place)

    def _moved_in(self, place: Place[Receipt]) -> None:
        self._forget(place)
        if self._asleep:
            self.rouse()

    def leave(self, place: Place[Receipt]) -> bool:
        """Take a place out of the line for good; return False when it stands there no more."""
        if not self.mailbox.leave(place):
            return False
        self._forget(place)
        return True

    def _forget(self, place: Place[Receipt]) -> None:
        if place.unawaited:
            self._unawaited -= 1
        if place is self._newest:
            self._newest = None
        if not self.mailbox.line:
            self.cancel_timer()
        place.item.moved(place)

    def _expire(self) -> None:
        self._timer = None
        self._owner.progress()
        line = self.mailbox.line
        now = self._owner.loop.time()
        while line and line[0].deadline is not None and line[0].deadline <= now:
            place = line[0]
            self._stalled = self.pressed = True
            self.leave(place)
            self.refuse(place.item, DeadReason.OVERFLOW_TIMEOUT)
        if line and line[0].deadline is not None:
            self._timer = self._owner.loop.call_at(line[0].deadline, self._expire)

    def relieve(self) -> None:
        """Look after the line and the stall once a delivery was taken."""
        self._stalled = False
        self.mailbox.advance()
        self.pressed = bool(self.mailbox.line)

    # -- latest -----------------------------------------------------------------------------------

    def _offer_latest(self, receipt: Receipt) -> None:
        """Replace the queued event of the same key, in its place; else enter, pushing out one.

        A position counts from the first delivery ever admitted, so it stays true while deliveries
        leave at the front; the deque's own index is the position less what has left.
        """
        try:  # the user's code first: it may look at the books
            key = self._same(receipt)
            index = self._positions.get(key, -1) - (self._entered - len(self.items))
        except Exception as error:  # noqa: BLE001 the user's key function, or a key without hash
            self.ledger.routed += 1
            self.refuse(receipt, DeadReason.RETRIES_EXHAUSTED, error)
            return
        self.ledger.routed += 1
        replaced = self.parking.replace(key, receipt) if self.parking is not None else None
        if replaced is None and 0 <= index < len(self.items):
            replaced, self.items[index] = self.items[index], receipt
        if replaced is not None:
            self._owner.conflate(replaced)
            return
        pushed_out = self._push_out() if len(self.items) >= self.mailbox.limit else None
        self._enter(key, receipt)
        if pushed_out is not None:
            self._owner.conflate(pushed_out)
        if self._asleep:
            self.rouse()

    def _same(self, receipt: Receipt) -> Hashable:
        event = receipt.event
        key: Hashable = None if self.key is None else self.key(event)
        if key is None:
            key = event.topic if event.key is None else event.key
        return key

    def _enter(self, key: Hashable, receipt: Receipt) -> None:
        if len(self._positions) > 2 * self.mailbox.maxsize + 16:
            left = self._entered - len(self.items)
            self._positions = {k: at for k, at in self._positions.items() if at >= left}
        self._positions[key] = self._entered
        self._entered += 1
        self.items.append(receipt)

    # -- out --------------------------------------------------------------------------------------

    def withdraw(self, receipt: Receipt) -> bool:
        """Take one delivery out of the line or the mailbox; return whether it stood there."""
        for place in self.mailbox.line or ():
            if place.item is receipt:
                return self.leave(place)
        if receipt in self.items:
            self.items.remove(receipt)
            if self._overflow is Overflow.LATEST:  # the positions behind it have moved
                kept, self._positions = list(self.items), {}
                self._entered = len(kept)
                self._positions = {self._same(each): at for at, each in enumerate(kept)}
            self.relieve()
            return True
        return self.parking is not None and self.parking.withdraw(receipt)

    def clear(self, reason: DeadReason) -> None:
        """Give up everything in the mailbox and its line."""
        while self.mailbox.line:
            place = self.mailbox.line[0]
            self.leave(place)
            self.refuse(place.item, reason)
        while self.parking is not None and (receipt := self.parking.oldest()) is not None:
            self._owner.give_up(receipt, reason)
        while self.items:
            self._owner.give_up(self.items.popleft(), reason)
        self.pressed = self._stalled = self._judging = False

    def cancel_timer(self) -> None:
        """Stop the clock of the line."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
