"""Receipt: what `publish` gives back, and everything a publisher can wait for.

A receipt is also what stands in the mailboxes: one object per publish, none per delivery. What has
become of a delivery is found by looking: it is dead or conflated if the receipt says so, open if it
still stands somewhere, acked otherwise. Only a receipt somebody watches is told of each ack.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from contextvars import Context
from types import coroutine
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import msgspec

from actorbus.event import Event
from actorbus.extra import Extra, Rare
from actorbus.hand import Hand, in_hand
from actorbus.home import NO_EPOCH, Epoch
from actorbus.outside import blocking, elsewhere, is_outside
from actorbus.watch import Settlement, Watch, ring
from actorbus.words import Outcome

if TYPE_CHECKING:
    from actorbus.mailbox import Place

T = TypeVar("T")


class Addressee(Protocol):
    """What a receipt needs to know of a subscription."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def answers(self) -> bool:
        """Whether it can answer an ask: streams and waits cannot."""

    def holds(self, receipt: Receipt) -> bool:
        """Return whether the delivery is still open."""

    def reawaited(self, place: Place[Receipt], *, awaited: bool) -> None:
        """Take note that somebody began, or the last one ceased, to await a place in the line."""


class Exchange(Protocol):
    """What a receipt needs to know of its bus."""

    name: str
    blocked_seconds: float

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop it delivers on."""

    def guard(self, hand: Hand, receipt: Receipt, watch: Watch | None) -> None:
        """Give up the deliveries whose awaiting would close a cycle; tell the receipt."""


class Route:
    """Where the events of one topic go; compiled once, looked up with one dict access.

    Attributes:
        exchange: The bus.
        topic: The topic, as the publisher wrote it.
        offers: One bound method per delivery, in order of subscription.
        addressees: Who gets each event; group members are chosen per event.
        shares: The groups among them.
        doors: The queue and the inbox of each, where every delivery is a plain one; else empty.
        events: Those published through the doors and not yet in any books.
        ring: The topic's history.
        tally: Counts the topic's events.
        public: Whether it is a user's topic: the bus's own are in no history or statistics.
        threaded: Whether a handler among them runs in a thread and wants the context.
        routed: False only for the stand-in of an event that is still on its way: from a thread, or
            to the journal.
        stand_in: That for the journal, once made.
    """

    __slots__ = (
        "addressees", "doors", "events", "exchange", "offers", "public", "ring", "routed", "shares",
        "stand_in", "tally", "threaded", "topic",
    )  # fmt: skip

    def __init__(
        self,
        exchange: Exchange,
        topic: str,
        offers: Sequence[Callable[[Receipt], None]] = (),
        addressees: Iterable[Addressee] = (),
    ) -> None:
        self.exchange = exchange
        self.topic = topic
        self.offers = tuple(offers)
        self.doors: tuple[Any, ...] = ()
        self.addressees = tuple(addressees)
        self.shares: tuple[Any, ...] = ()
        self.ring: deque[Any] = deque(maxlen=0)
        self.events = 0
        self.tally = Tally()
        self.public = False
        self.threaded = False
        self.routed = True
        self.stand_in: Route | None = None


class Tally:
    """A count that several routes may share."""

    __slots__ = ("events",)

    def __init__(self) -> None:
        self.events = 0


Places = list[tuple[Addressee, "Place[Receipt]"]]


class Receipt(msgspec.Struct, eq=False):
    """What became of one publish so far; awaitable.

    ``await receipt`` returns the receipt when every delivery is admitted to its mailbox or given
    up. Not awaiting it loses nothing that fits.

    Attributes:
        data: The payload.
        refused: Number of deliveries given up before they were admitted.
    """

    route: Route
    data: Any
    at: float  # loop time of the publish
    _epoch: Epoch
    _number: int
    _event: Event | None = None  # made when somebody asks for it: a handler of payloads does not
    extra: Extra | None = None

    refused = Rare(0)
    context = Rare[Context | None](None)  # the publisher's, where a handler runs in a thread
    places = Rare[Places | None](None)  # in the lines now
    members = Rare[list[Addressee] | None](None)  # whom the groups chose
    fates = Rare[dict[str, Outcome] | None](None)  # of the deliveries that are dead or conflated
    refusal = Rare[Callable[[], Exception] | None](None)  # what awaiting raises
    watch = Rare[Watch | None](None)
    awaiting = Rare(0)  # tasks that await admission
    logged = Rare(0)  # its number in the journal, once committed
    pause = Rare(False)  # whether awaiting lets the loop go round once, even if there is room
    bells = Rare[list[asyncio.Future[None]] | None](None)

    @property
    def event(self) -> Event:
        """The event that was published."""
        event = self._event
        if event is None:
            time, run = self._epoch.unix(self.at), self._epoch.run
            event = Event(self.route.topic, self.data, time, None, None, run, self._number)
            self._event = event
        return event

    @property
    def deliveries(self) -> int:
        """Number of subscriptions the event matched."""
        return len(self.route.offers)

    @property
    def waiting(self) -> int:
        """Number of deliveries that wait for a commit or stand in the line of a full mailbox."""
        return len(self.places or ()) if self.route.routed else self.deliveries

    def __repr__(self) -> str:
        """Show the event's id and topic, and the counts."""
        return (
            f"Receipt({self.event!r}, deliveries={self.deliveries}, "
            f"waiting={self.waiting}, refused={self.refused})"
        )

    def __await__(self) -> Generator[Any, None, Receipt]:
        """Wait for admission: backpressure.

        Returns:
            The receipt.

        Raises:
            MailboxFullError: An ``overflow="fail"`` mailbox refused.
            DeadlockError: Awaiting here would have closed a cycle of full mailboxes.

        Both only after every other delivery is admitted or given up. Cancelling takes nothing back.
        """
        extra = self.extra
        if extra is None:
            return self
        if extra.places or extra.refusal is not None or not self.route.routed:
            hand, exchange = _own_hand(), self.route.exchange
            if is_outside(exchange.loop):
                waiting = elsewhere(self._admitted(hand), exchange.loop, exchange.name)
                yield from waiting.__await__()
            else:
                yield from self._admission(hand)
        elif extra.pause:
            extra.pause = False
            yield
        return self

    def wait(self, timeout: float | None = None) -> Receipt:
        """Wait for admission from another thread.

        Args:
            timeout: Longest wait in seconds; None waits for ever.

        Returns:
            The receipt.

        Raises:
            RuntimeError: Called on the thread of the bus's loop, where it would never return.
            TimeoutError: Not admitted in time; the deliveries stay in their lines.
            BusNotRunningError: The bus's loop runs no more.
        """
        exchange = self.route.exchange
        blocking(self._admitted(_own_hand()), exchange.loop, exchange.name, timeout)
        return self

    async def settled(self, timeout: float | None = None) -> Settlement:
        """Wait until every delivery is settled.

        Args:
            timeout: Longest wait in seconds; None waits for ever.

        Returns:
            The outcome per subscription.

        Raises:
            TimeoutError: Not all settled in time.
            DeadlockError: Awaited in a handler that its own actors wait for.

        Cancelling takes nothing back.
        """
        exchange = self.route.exchange
        if is_outside(exchange.loop):
            return await elsewhere(self.settled(timeout), exchange.loop, exchange.name)
        async with asyncio.timeout(timeout):
            while not self.route.routed:
                extra = self.extra = self.extra or Extra()
                await self._heard(extra)
            await self.watching(self.watched())
        fates = self.fates or {}
        names = [addressee.name for addressee in self.addressees()]
        return Settlement({name: fates.get(name, Outcome.ACKED) for name in names})

    # -- for the engine ---------------------------------------------------------------------------

    def addressees(self) -> Iterable[Addressee]:
        """Return who got, or stands to get, the event."""
        return (*self.route.addressees, *(self.members or ()))

    def watched(self) -> Watch:
        """Return the receipt's watch, made by looking at what is still open."""
        if self.watch is None:
            self.watch = Watch(self, self.still_open())
        return self.watch

    def still_open(self) -> list[Addressee]:
        """Return whose delivery has not settled."""
        return [each for each in self.addressees() if not self.route.routed or each.holds(self)]

    async def watching(self, watch: Watch) -> None:
        """Wait for a watch, refusing to where the wait could never end."""
        hand = _own_hand()
        if hand is not None:
            refusal = self.refusal
            self.route.exchange.guard(hand, self, watch)
            if self.refusal is not None and self.refusal is not refusal:
                raise self.refusal()
            hand.blocked = watch
        self._count_awaiting(1)
        try:
            await watch.wait()
        finally:
            self._count_awaiting(-1)
            if hand is not None:
                hand.blocked = None

    def settle(
        self, addressee: Addressee, outcome: Outcome, failed: tuple[str, str, Any] | None = None
    ) -> None:
        """Record a delivery that is dead or conflated."""
        if self.fates is None:
            self.fates = {}
        self.fates[addressee.name] = outcome
        if self.watch is not None:
            self.watch.failed = self.watch.failed or failed
            self.watch.settle(addressee)

    def stand(self, addressee: Addressee, place: Place[Receipt]) -> None:
        """Record a place in a line."""
        if self.places is None:
            self.places = []
        self.places.append((addressee, place))

    def moved(self, place: Place[Receipt]) -> None:
        """Record that a place is left, for the mailbox or for good."""
        self.places = [entry for entry in self.places or () if entry[1] is not place]
        if not self.places:
            self.admitted()

    def admitted(self) -> None:
        """Wake whoever awaits admission, if nothing is left to wait for."""
        extra = self.extra
        if extra is not None and extra.bells and self.route.routed and not extra.places:
            ring(extra.bells)

    async def _admitted(self, hand: Hand | None) -> None:
        await self._admission(hand)

    @coroutine  # not ``async``: an awaited publish to a journal goes through here
    def _admission(self, hand: Hand | None) -> Generator[Any, None, None]:
        """Wait for admission; `hand` is the worker whose handler waits, if any."""
        extra = self._count_awaiting(1)
        try:
            while extra.places or not self.route.routed:
                if hand is not None:
                    self.route.exchange.guard(hand, self, None)
                    hand.blocked = self
                yield from self._heard(extra)
        finally:
            if hand is not None:
                hand.blocked = None
            self._count_awaiting(-1)
        if extra.refusal is not None:
            raise extra.refusal()

    @coroutine
    def _heard(self, extra: Extra) -> Generator[Any, None, None]:
        if not extra.places and self.route.routed:
            return  # the guard has just given up the last one
        bells = extra.bells
        if bells is None:
            bells = extra.bells = []
        exchange, loop = self.route.exchange, asyncio.get_running_loop()
        started = loop.time()
        bell = loop.create_future()
        bells.append(bell)
        try:
            yield from bell
        finally:
            if bell in bells:
                bells.remove(bell)
            exchange.blocked_seconds += loop.time() - started

    def _count_awaiting(self, change: int) -> Extra:
        extra = self.extra = self.extra or Extra()
        extra.awaiting += change
        if extra.awaiting == 0 or extra.awaiting == change:
            for addressee, place in extra.places or ():
                addressee.reawaited(place, awaited=extra.awaiting > 0)
        return extra


def receipt_of(event: Event, route: Route, at: float) -> Receipt:
    """Return a receipt of an event that has been made, published at a loop time."""
    return Receipt(route, event.data, at, NO_EPOCH, event._number, event)


def _own_hand() -> Hand | None:
    """Return the worker in whose handler's own task or thread the caller runs, if in any."""
    hand = in_hand.get()
    return hand if hand is not None and hand.is_here() else None
