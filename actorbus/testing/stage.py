"""Stage: a bus on a stepped loop, with a witness; what a model's rules and invariants stand on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, ClassVar, TypeVar

from actorbus.bus import EventBus
from actorbus.errors import (
    ActorBusError,
    AskTimeoutError,
    BusClosedError,
    DeadlockError,
    MailboxFullError,
)
from actorbus.event import Event
from actorbus.receipt import Receipt
from actorbus.testing.books import Account, Book
from actorbus.testing.curtain import Curtain
from actorbus.testing.errors import SimulationDeadlock
from actorbus.testing.stepping import SteppedLoop
from actorbus.testing.surroundings import surroundings
from actorbus.testing.witness import Witness
from actorbus.words import DeadReason, Outcome, Overflow

T = TypeVar("T")

MAX_STEPS = (
    200_000  # of one example: a tenth of a second of them is already a hundred times the usual
)
PATIENCE = 20.0  # seconds an ask of the model waits
LONG = 1e7  # seconds within which everything has to come to an end
CACHED = 2  # topics a generation of the router's cache holds here, so that it is put to use


class Stage(Curtain):
    """A bus on a stepped loop.

    Attributes:
        bus: The bus.
        loop: Its loop; time and order are the model's.
        witness: What has been seen of the bus.
        gate: What handlers wait for that hang.
        waiters: The tasks that were begun here and have not ended.
    """

    bus_options: ClassVar[Mapping[str, Any]] = {"dead_letters": 40, "max_hops": 3, "history": 5}

    def _set_the_stage(self) -> None:
        self.loop = SteppedLoop(MAX_STEPS, 0)
        self._props.callback(self.loop.close)
        self._props.enter_context(surroundings(self.loop, 0))
        self.gate = asyncio.Event()
        self.bus = self.make_bus()
        self.bus._engine.routes._router._cache_size = CACHED
        self.witness = Witness(self.bus, self.loop.time)
        self.loop.set_exception_handler(self._told)
        self.waiters: dict[asyncio.Task[Any], None] = {}
        self.set_up()
        self.loop.finish(self.bus.start())

    def make_bus(self) -> EventBus:
        """Return the bus to test; it must not run yet."""
        return EventBus("model", **self.bus_options)

    def set_up(self) -> None:
        """Subscribe handlers of your own; called before the bus starts."""

    # -- running things on the loop ---------------------------------------------------------------

    def call(self, function: Callable[..., T], *args: Any, **options: Any) -> T:
        """Call a function on the loop, before anything else runs, and return what it returns."""
        return self.loop.call(lambda: function(*args, **options))

    def begin(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Run a coroutine beside everything else; what it raises fails the model."""
        self.waiters[self.loop.create_task(coroutine)] = None

    def _told(self, _: object, context: dict[str, Any]) -> None:
        self.witness.flaw(12, f"the loop was told: {context}")

    # -- publishing, and the promises of a receipt ------------------------------------------------

    def try_publish(self, topic: str, data: Any, key: Any = None) -> Receipt | None:
        """Publish; None if the bus is closed, as it must be then."""
        closing = self.bus._engine.draining or self.bus._engine.closed
        try:
            return self.bus.publish(topic, data, key=key)
        except BusClosedError:
            if not closing:
                self.witness.flaw(7, "a publish was refused though the bus was open")
            return None

    async def admission(self, receipt: Receipt) -> None:
        """Await a receipt, and check that it tells the truth."""
        number = receipt._number
        try:
            self._expect(await receipt is receipt, f"awaiting {number} gave something else")
        except MailboxFullError:
            refused = self._died(number, DeadReason.OVERFLOW, Overflow.FAIL)
            self._expect(refused, f"awaiting {number} raised MailboxFullError: nobody has refused")
        except DeadlockError:
            dead = self._died(number, DeadReason.DEADLOCK)
            self._expect(dead, f"awaiting {number} raised DeadlockError: nobody has died of one")
        else:
            full = self._died(number, DeadReason.OVERFLOW, Overflow.FAIL)
            self._expect(not full, f"awaiting {number} did not raise MailboxFullError")
        self._expect(not receipt.waiting, f"awaiting {number} has ended: {receipt.waiting} wait")
        for book, account in self._accounts(number):
            self._admitted(book, account)

    def _admitted(self, book: Book, account: Account) -> None:
        replayed = account.routed > 1  # then the one that stands there is not this receipt's
        if not account.fresh or replayed or book.latest or book.keyed or book.threaded:
            return
        before = sum(a.fresh for a in book.accounts.values() if a.place <= account.place)
        self._expect(
            before <= book.options.mailbox,
            f"event {account.number} is the {before}. of {book.name!r}, whose mailbox holds "
            f"{book.options.mailbox}, and is said to be admitted",
        )

    async def settlement(self, receipt: Receipt) -> None:
        """Wait until a receipt is settled, and check that it tells the truth."""
        try:
            result = await receipt.settled()
        except DeadlockError:
            return
        number = receipt._number
        for book, account in self._accounts(number):
            if account.routed > 1 or book.threaded:
                continue
            told = result.outcomes.get(book.name)
            true = Outcome.CONFLATED
            if account.acked or account.dead:
                true = Outcome.DEAD if account.dead else Outcome.ACKED
            settled = not account.open
            self._expect(
                settled and told is true,
                f"event {number} is {told} at {book.name!r}, says the receipt; it is "
                f"{true if settled else 'open'}",
            )
        self._expect(not receipt.waiting, f"event {number} is settled and waits")

    async def asking(self, topic: str, data: Any) -> None:
        """Ask; it must end, somehow and in time."""
        began = self.loop.time()
        try:
            await self.bus.ask(topic, data, timeout=PATIENCE)
        except AskTimeoutError:
            self._expect(self.loop.time() >= began + PATIENCE, "an ask timed out before its time")
        except ActorBusError:
            pass
        took = self.loop.time() - began
        self._expect(took <= PATIENCE + 1, f"an ask that may wait {PATIENCE} s took {took} s")

    def _accounts(self, number: int) -> list[tuple[Book, Account]]:
        """Return the accounts of those a receipt speaks of."""
        found = [(book, book.accounts.get(number)) for book in self.witness.books.values()]
        return [(book, account) for book, account in found if account and not account.past]

    def _died(self, number: int, reason: DeadReason, overflow: Overflow | None = None) -> bool:
        return any(
            why is reason and (overflow is None or book.options.overflow is overflow)
            for book, why in self.witness.deaths.get(number, ())
        )

    def _expect(self, true: bool, otherwise: str) -> None:
        if not true:
            self.witness.flaw(7, otherwise)

    # -- what a test may ask ----------------------------------------------------------------------

    @property
    def published(self) -> list[Event]:
        """The events so far, in order."""
        seen = self.witness.published
        return [seen[number].event for number in sorted(seen)]

    def handled(self, name: str) -> list[Event]:
        """Return the events a subscription has handled, in the order of their publishing."""
        book = self.witness.newest[name]
        acked = sorted(number for number, each in book.accounts.items() if each.acked)
        return [self.witness.published[number].event for number in acked]

    # -- the end ----------------------------------------------------------------------------------

    def finish(self, awaitable: Any, number: int, what: str) -> Any:
        """Run until something is done; a deadlock contradicts an invariant."""
        try:
            return self.loop.finish(awaitable)
        except (SimulationDeadlock, TimeoutError) as error:
            self.witness.flaw(number, f"{what}: {error}")
            return None

    def _end_what_is_left(self) -> None:
        self.gate.set()
        self.loop.let_go()
