"""Keyed actors: one key is never handled twice at the same time, and stays in order.

A delivery whose key is busy is parked, still queued and still counted in the mailbox's capacity, so
that the ones behind it with other keys can go on. A retrying delivery keeps its key and gives up
its worker. Every step is O(1), except pushing out the oldest parked delivery.

There is no static assignment of keys to workers: a key goes to whichever worker is free, so two
busy keys never share one worker while another idles (the "sticky queue" of ractor's factory).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from itertools import takewhile
from typing import Any

from actorbus.delivery import Delivery, Nap
from actorbus.mailbox import Place
from actorbus.receipt import Receipt
from actorbus.subscription import Subscription
from actorbus.threaded import ThreadWorker
from actorbus.words import ActorState, DeadReason
from actorbus.worker import Worker


class Keys:
    """The busy keys of one actor, and the deliveries parked behind them.

    Attributes:
        later: Deliveries waiting for their next attempt without a worker, and their timers.
        due: Deliveries whose time has come.
    """

    __slots__ = ("_busy", "_free", "_key", "_parked", "_sub", "due", "later", "parked")

    def __init__(self, sub: Subscription, key: Callable[[Any], Hashable]) -> None:
        self._sub = sub
        self._key = key
        self._busy: set[Hashable] = set()
        self._free: deque[Hashable] = deque()  # keys that wait only for a worker
        self._parked: dict[Hashable, deque[Receipt]] = {}
        self.parked: dict[Receipt, Hashable] = {}  # the same, in order of arrival
        self.later: dict[Delivery, Nap] = {}
        self.due: deque[Delivery] = deque()

    def take(self) -> Delivery | None:
        """Take the next delivery whose key is free, parking those whose key is busy."""
        if self.due:
            return self.due.popleft()
        while self._free:
            key = self._free.popleft()
            if queue := self._parked.get(key):
                receipt = queue[0]
                self._unpark(receipt, key)
                self._sub.inbox.relieve()
                return Delivery(receipt, key)
            self._busy.discard(key)
        items = self._sub.inbox.items
        while items:
            receipt = items[0]  # it stays in the books until the user's code has returned
            failure: Exception | None = None
            try:
                key = self._key(receipt.event)
                busy = key in self._busy
            except Exception as error:  # noqa: BLE001 the user's key function, or no hash
                failure = error
            if receipt not in items:
                continue  # the user's code has published, and pushed it out
            items.remove(receipt)
            if failure is not None:
                self._sub.inbox.relieve()
                self._sub.give_up(receipt, DeadReason.RETRIES_EXHAUSTED, failure)
                continue
            if not busy:
                if key is not None:
                    self._busy.add(key)
                self._sub.inbox.relieve()
                return Delivery(receipt, key)
            self._parked.setdefault(key, deque()).append(receipt)
            self.parked[receipt] = key
            self._sub.inbox.keep_room(1)
        return None

    def release(self, key: Hashable) -> None:
        """Let the next delivery of a key go, after one has settled."""
        if key in self._parked:
            self._free.append(key)
        else:
            self._busy.discard(key)

    def busy_key(self, receipt: Receipt) -> Hashable:
        """Return the busy key a queued delivery waits for, or None if it waits for none."""
        try:
            key = self.parked[receipt] if receipt in self.parked else self._key(receipt.event)
            busy = key in self._busy
        except Exception:  # noqa: BLE001 the user's key function: taking it will say so
            return None
        return key if busy else None

    def ahead(self, place: Place[Receipt]) -> list[Hashable]:
        """Return the busy keys of the deliveries before a place in the line, one for each."""
        line = takewhile(lambda other: other is not place, self._sub.inbox.mailbox.line or ())
        before = (*self.parked, *self._sub.inbox.items, *(other.item for other in line))
        return [key for key in map(self.busy_key, before) if key is not None]

    def held_up_by(self) -> set[Hashable]:
        """Return the busy keys all queued deliveries wait for; empty if one could be taken now."""
        if self.due or self._free:
            return set()
        keys = {self.busy_key(receipt) for receipt in (*self.parked, *self._sub.inbox.items)}
        return set() if None in keys else keys

    def clear(self) -> None:
        """Forget every busy key, once nothing is left in hand, parked or retrying."""
        self._busy.clear()
        self._free.clear()

    @property
    def ready(self) -> bool:
        """Whether there is something to take, as far as can be told without taking it."""
        return bool(self.due or self._free or self._sub.inbox.items)

    # -- parking: what the inbox needs ------------------------------------------------------------

    def oldest(self) -> Receipt | None:
        """Take out the parked delivery that has waited longest, or None."""
        if not self.parked:
            return None
        receipt = next(iter(self.parked))
        self._unpark(receipt, self.parked[receipt])
        return receipt

    def replace(self, key: Hashable, receipt: Receipt) -> Receipt | None:
        """Put a delivery in the place of a parked one with the same key; return that one."""
        queue = self._parked.get(key)
        if not queue:
            return None
        replaced, queue[-1] = queue[-1], receipt
        del self.parked[replaced]
        self.parked[receipt] = key
        return replaced

    def withdraw(self, receipt: Receipt) -> bool:
        """Take one parked delivery out; return whether it stood there."""
        if receipt not in self.parked:
            return False
        self._unpark(receipt, self.parked[receipt])
        self._sub.inbox.relieve()
        return True

    def _unpark(self, receipt: Receipt, key: Hashable) -> None:
        del self.parked[receipt]
        queue = self._parked[key]
        queue.remove(receipt)
        if not queue:
            del self._parked[key]
        self._sub.inbox.keep_room(-1)


class KeyedWorker(Worker):
    """A worker that passes over busy keys."""

    __slots__ = ()

    @property
    def _keys(self) -> Keys:
        keys: Keys = self.life.keys
        return keys

    async def _work(self) -> None:
        life = self.life
        while self.keen:
            delivery = life.resume.popleft() if life.resume else self._keys.take()
            if delivery is None:
                if life.finishing and not self._keys.later:
                    return
                await self.sleep()
                continue
            if not await self.handle(delivery):
                return
            await self.breathe()

    def _settled(self, delivery: Delivery) -> None:
        self._keys.release(delivery.key)

    async def _pause(self, delivery: Delivery, seconds: float) -> bool:
        """Keep the key and give up the worker, unless too many do so already."""
        keys, life = self._keys, self.life
        ends = life.state in (ActorState.STOPPING, ActorState.STOPPED)  # nobody else will make it
        if ends or len(keys.later) >= life.sub.options.mailbox:
            return await super()._pause(delivery, seconds)
        nap = Nap(life.loop, seconds, lambda: self._due(delivery))
        keys.later[delivery] = nap
        life.naps[nap] = None
        return False

    def _due(self, delivery: Delivery) -> None:
        life = self.life
        nap = self._keys.later.pop(delivery)
        life.naps.pop(nap, None)
        life.sub.ledger.retries += 1
        self._keys.due.append(delivery)
        life.rouse()


class KeyedThreadWorker(KeyedWorker, ThreadWorker):
    """A worker that passes over busy keys and runs each delivery in a thread."""

    __slots__ = ()
