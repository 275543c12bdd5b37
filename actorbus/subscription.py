"""Subscription: patterns, a handler, policies; and the books of its deliveries.

A subscription settles deliveries: acked, dead or conflated, each counted once. What runs them is
its life (the actor); what lets them in is its inbox.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from actorbus import world
from actorbus.admission import Inbox
from actorbus.backlog import Backlog
from actorbus.dead_letter import DeadLetter
from actorbus.ledger import Ledger, Terms
from actorbus.receipt import Exchange, Receipt
from actorbus.watch import hear, ring
from actorbus.words import ActorState, DeadReason, Outcome

if TYPE_CHECKING:
    from actorbus.handler import Signature
    from actorbus.mailbox import Place
    from actorbus.options import Options
    from actorbus.receipt import Route
    from actorbus.topic import Pattern


class Bus(Exchange, Protocol):
    """What a subscription needs to know of its bus."""

    backlog: Backlog
    face: Any  # the `EventBus`
    recorder: Any  # the way into the journal, if there is one

    def book(self) -> None:
        """Bring the books up to what was published."""

    def bury(self, letter: DeadLetter, receipt: Receipt) -> None:
        """Keep, log and announce the dead letter of a delivery."""

    def end(self, subscription: Subscription) -> int:
        """Route nothing more to a subscription; what it has admitted is still handled."""

    def tell(self, sub: Subscription, data: Any, key: Any) -> Receipt:
        """Deliver to one subscription alone."""

    def quiet(self) -> None:
        """Let whoever waits for idleness look again."""


class Life(Protocol):
    """What a subscription needs to know of its actor."""

    state: ActorState

    def rouse(self) -> None:
        """Set a worker to work."""

    def progress(self) -> None:
        """Bring the books up to what threads have done."""

    def in_hand(self, receipt: Receipt) -> bool:
        """Return whether a worker holds the delivery, or it waits to be run again."""

    def pending(self) -> tuple[int, int, int]:
        """Return how many deliveries are parked for a key, running, and retrying."""

    def withdraw(self, receipt: Receipt) -> bool:
        """Take out a delivery that waits to be run again; return whether it stood there."""

    def cut(self) -> None:
        """Take back what workers have taken together, or lent to threads, and not begun."""

    def discard(self, reason: DeadReason) -> None:
        """Give up everything that is not in hand."""

    async def stop(self, why: str) -> None:
        """Finish what is in hand, give up the rest, end."""


class Window(Protocol):
    """What a durable subscription needs to know of its way into the journal."""

    def join(self) -> None:
        """Find out how far it has come, and go on from there."""

    def arrive(self, receipt: Receipt) -> None:
        """Deliver an event it matches, just committed, unless it has fallen behind."""

    def holds(self, receipt: Receipt) -> bool:
        """Return whether the delivery of a published event is open."""

    def takes_back(self, receipt: Receipt, reason: DeadReason) -> bool:
        """Leave a delivery to the journal that nobody has failed on; return whether it is so."""


class Held(Protocol):
    """What a subscription needs to know of where deliveries wait that come behind its replay."""

    def keep(self, receipt: Receipt) -> None:
        """Keep a delivery until the replay is there."""


class Over:
    """The life of a subscription that has ended for good."""

    state = ActorState.STOPPED

    def rouse(self) -> None:
        """Do nothing."""

    progress = cut = rouse

    def in_hand(self, receipt: Receipt) -> bool:  # noqa: ARG002
        """Return False."""
        return False

    withdraw = in_hand

    def pending(self) -> tuple[int, int, int]:
        """Return nothing."""
        return 0, 0, 0

    def discard(self, reason: DeadReason) -> None:
        """Do nothing."""

    async def stop(self, why: str) -> None:
        """Do nothing."""


class Subscription:
    """Patterns, a handler and policies: who gets which events, and how they are handled.

    Made by ``bus.subscribe`` and ``bus.spawn``.

    Attributes:
        name: Unique among the live subscriptions of the bus.
        patterns: What it listens to; may be empty for an actor that is only told and asked.
    """

    __slots__ = (
        "_bells", "_expected", "bus", "handler", "held", "inbox", "ledger", "life", "name",
        "options", "order", "own_route", "patterns", "signature", "window",
    )  # fmt: skip

    answers = True

    def __init__(
        self,
        bus: Bus,
        name: str,
        patterns: tuple[Pattern, ...],
        handler: Any,
        options: Options,
        signature: Signature,
        order: int,
    ) -> None:
        self.bus = bus
        self.name = name
        self.patterns = patterns
        self.handler = handler
        self.options = options
        self.signature = signature
        self.order = order
        self.ledger = Ledger()
        self.life: Life
        self.own_route: Route | None = None
        self.window: Window | None = None  # into the journal, if it is durable
        self._expected: dict[Receipt, None] | None = None  # events that wait for their commit
        self.held: Held | None = None  # of these, what is committed and waits for a replay
        self._bells: list[asyncio.Future[None]] | None = None
        self.inbox = Inbox(
            self, self.ledger, options.mailbox, options.overflow, options.put_timeout,
            options.key,
        )  # fmt: skip

    def __repr__(self) -> str:
        """Show name, patterns and state."""
        patterns = ", ".join(map(str, self.patterns))
        return f"<Subscription {self.name!r} [{patterns}] {self.state}>"

    @property
    def state(self) -> ActorState:
        """Where its actor is in its life."""
        return self.life.state

    def unsubscribe(self) -> int:
        """Match no new event; what stands in the mailbox and its line is still handled.

        Returns:
            1, or 0 if it had ended before.
        """
        return self.bus.end(self)

    async def ended(self) -> None:
        """Wait until it is unsubscribed or stopped and its last delivery has settled."""
        while self.state is not ActorState.STOPPED:
            await self.hear()

    @property
    def threaded(self) -> bool:
        """Whether its handler runs in a thread."""
        return not (self.signature.is_async or self.options.inline)

    # -- for the engine ---------------------------------------------------------------------------

    @property
    def backlog(self) -> Backlog:
        """The bus's events that stand in no mailbox yet."""
        return self.bus.backlog

    @property
    def suspended(self) -> bool:
        """Whether its actor is suspended."""
        return self.life.state is ActorState.SUSPENDED

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The running loop."""
        loop = self.bus.loop
        assert loop is not None  # noqa: S101 deliveries exist only on a bus that has run
        return loop

    def progress(self) -> None:
        """Bring the books up to what threads have done."""
        self.life.progress()

    @property
    def rouse(self) -> Callable[[], None]:
        """Sets a sleeping worker to work."""
        return self.life.rouse

    def wants(self, topic: str) -> bool:
        """Return whether no exclude pattern matches a topic."""
        return not any(pattern.matches(topic) for pattern in self.options.exclude)

    def holds(self, receipt: Receipt) -> bool:
        """Return whether the delivery of a receipt is still open here."""
        if receipt.fates and self.name in receipt.fates:
            return False
        if self.window is not None and receipt.logged:
            return self.window.holds(receipt)
        places = receipt.places or ()
        self.life.progress()
        return (
            any(addressee is self for addressee, _ in places)
            or receipt in (self._expected or ())
            or receipt in self.inbox.items
            or self.life.in_hand(receipt)
        )

    def withdraw(self, receipt: Receipt, reason: DeadReason) -> bool:
        """Give up a delivery that has not started; return whether there was one."""
        self.life.cut()
        standing = any(addressee is self for addressee, _ in receipt.places or ())
        if not (self.inbox.withdraw(receipt) or self.life.withdraw(receipt)):
            return False
        if standing:
            self.inbox.refuse(receipt, reason)
        else:
            self.give_up(receipt, reason)
        return True

    def reawaited(self, place: Place[Receipt], *, awaited: bool) -> None:
        """Take note that somebody began, or the last one ceased, to await a place in the line."""
        self.inbox.reawaited(place, awaited=awaited)

    def acked(self, receipt: Receipt, reply: object = None) -> None:
        """Count a delivery as handled."""
        self.ledger.acked += 1
        if receipt.watch is not None:
            receipt.watch.settle(self, reply)

    def conflate(self, receipt: Receipt) -> None:
        """Count a delivery as replaced by a newer one."""
        self.ledger.conflated += 1
        receipt.settle(self, Outcome.CONFLATED)

    def give_up(
        self,
        receipt: Receipt,
        reason: DeadReason,
        error: BaseException | None = None,
        attempts: int = 0,
        first_failed_at: float | None = None,
    ) -> None:
        """Make a dead letter of a delivery.

        Args:
            receipt: Whose delivery.
            reason: Why.
            error: What the handler raised last, if anything.
            attempts: Attempts made.
            first_failed_at: Unix seconds of the first failure.
        """
        if self.window is not None and self.window.takes_back(receipt, reason):
            return
        self.ledger.bury(reason)
        letter = DeadLetter(
            event=receipt.event,
            subscription=self.name,
            reason=reason,
            error=error,
            attempts=attempts,
            first_failed_at=first_failed_at,
            died_at=world.wall(),
            handler=self.handler,
            options=self.options,
        )
        self.bus.bury(letter, receipt)
        failed = None if receipt.watch is None else (self.name, str(reason), error)
        receipt.settle(self, Outcome.DEAD, failed)

    def pending(self) -> tuple[int, int, int, int]:
        """Return how many deliveries are waiting, queued, running and retrying, by looking.

        The rest of the books is true then, too.
        """
        self.bus.book()
        parked, running, retrying = self.life.pending()
        waiting = self.inbox.waiting + len(self._expected or ())
        return waiting, len(self.inbox.items) + parked, running, retrying

    def terms(self) -> Terms:
        """Return the terms of the law."""
        pending = self.pending()  # first: it brings the books up to date
        ledger = self.ledger
        settled = ledger.routed, ledger.acked, ledger.dead_total, ledger.conflated
        return Terms(*settled, *pending)

    # -- waiting for a commit ---------------------------------------------------------------------

    def expect(self, receipt: Receipt) -> None:
        """Count a delivery as waiting until its event is committed."""
        if self._expected is None:
            self._expected = {}
        self._expected[receipt] = None
        self.ledger.routed += 1

    def admit(self, receipt: Receipt) -> None:
        """Let a delivery in whose event is committed, unless it was given up meanwhile."""
        if self.held is not None:
            self.held.keep(receipt)
        elif self._expected is not None and self._expected.pop(receipt, self) is None:
            self.ledger.routed -= 1  # the inbox counts it
            self.inbox.offer(receipt)

    def unexpected(self, receipt: Receipt, outcome: Outcome) -> None:
        """Count a delivery that there will not be, its event being committed not or already."""
        if self._expected is not None and self._expected.pop(receipt, self) is None:
            if outcome is Outcome.DEAD:
                self.ledger.bury(DeadReason.COMMIT_FAILED)
            else:
                self.ledger.conflated += 1

    def discard(self, reason: DeadReason) -> None:
        """Give up what waits for a commit, stands in the line or in the mailbox."""
        expected, self._expected = self._expected or {}, None
        for receipt in expected:
            self.inbox.refuse(receipt, reason)
        self.inbox.clear(reason)

    def let_go(self) -> None:
        """Keep nothing of the user's, once ended: receipts may keep the subscription for long."""
        self.life = Over()
        self.handler = None
        self.options = replace(self.options, key=None, on_failure=None)
        self.signature = replace(self.signature, convert=None)
        self.inbox.rouse = self.life.rouse
        self.inbox.key = self.inbox.parking = None

    async def hear(self) -> None:
        """Wait until a worker has finished or left, or the actor has ended."""
        if self._bells is None:
            self._bells = []
        await hear(self._bells)

    def ring(self) -> None:
        """Wake whoever waits for one of these."""
        if self._bells:
            ring(self._bells)
