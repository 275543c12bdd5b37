"""Witness: sees everything that happens on one bus, and keeps the model's books of it.

It stands in the doorways of a bus: where events are routed, handlers called, letters buried and
states announced. What it sees it writes down, and what contradicts the books is a `Flaw`. It
changes nothing, and sees what real code does too: handlers, actors and publishes that know nothing
of the model.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable
from typing import Any

from actorbus.actor import Actor
from actorbus.archive import Redelivery
from actorbus.bus import EventBus
from actorbus.dead_letter import DeadLetter
from actorbus.hand import in_hand
from actorbus.handler import same_handler
from actorbus.subscription import Subscription
from actorbus.testing.arrivals import Arrivals
from actorbus.testing.books import Account, Attempt, Book
from actorbus.testing.reasons import CLEARING, unreasonable
from actorbus.words import ActorState, DeadReason, Overflow


class Witness(Arrivals):
    """What is seen of a bus; arguments and attributes as for `Arrivals`."""

    def __init__(self, bus: EventBus, now: Callable[[], float]) -> None:
        super().__init__(bus, now)
        engine, registry = bus._engine, bus._engine.registry
        self.stand_in(
            (engine, "bury", self._bury),
            (engine, "announce", self._announce),
            (registry, "add_subscription", self._add_subscription),
            (registry, "add_actor", self._add_actor),
            (registry, "add_supervisor", self._add_supervisor),
            (registry, "retire", self._retire),
            (registry.catchups, "_begin", self._replay),
        )

    # -- subscriptions ----------------------------------------------------------------------------

    def _enter(self, sub: Subscription) -> Book:
        life: Any = sub.life
        book = Book(sub, life.hooks is not None)
        self.books[sub] = self.newest[sub.name] = book
        self.kin.add(book, life.parent)
        return book

    def _add_subscription(
        self, real: Any, patterns: Any, handler: Any, parent: Any, options: Any
    ) -> Any:
        sub = real(patterns, handler, parent, options)
        life: Any = sub.life
        book = self.books.get(sub) or self._enter(sub)
        book.state = sub.state
        if sub.threaded or sub.options.inline:
            life.handled_by(PlainHandler(self, book, handler))
        else:
            life.call = self._watched(book, handler)
        return sub

    def _add_actor(self, real: Any, factory: Any, patterns: Any, parent: Any, options: Any) -> Any:
        made: list[Any] = []
        book: list[Book] = []

        def build() -> Any:
            instance = factory()
            if type(instance).on_start is not Actor.on_start:
                self.kin.exact = False
            made.append(instance)
            if book:
                instance.receive = self._watched(book[0], instance.receive)
            return instance

        ref = real(build if callable(factory) else factory, patterns, parent, options)
        sub = self.bus._engine.registry.live[ref.name]
        life: Any = sub.life
        book.append(self.books.get(sub) or self._enter(sub))
        book[0].state = sub.state
        received = made[0].receive
        made[0].receive = self._watched(book[0], received)
        if life.call == received:  # it has started
            life.call = sub.handler = made[0].receive
        return ref

    def _add_supervisor(
        self, real: Any, name: str, parent: Any, strategy: Any, max_restarts: int, within: float
    ) -> Any:
        made = real(name, parent, strategy, max_restarts, within)
        self.kin.add_supervisor(made, parent, strategy, max_restarts, within)
        return made

    def _retire(self, real: Any, sub: Subscription) -> bool:
        book = self.books[sub]
        if book.live:
            self.ended(book)
        return bool(real(sub))

    def ended(self, book: Book) -> None:
        """Take note that a subscription is to get nothing more."""
        self.bus._engine.catch_up()  # as the bus would, while it still matches
        book.live = False
        self.kin.dismiss(book)

    def reopened(self) -> None:
        """Take note that the bus is about to start again: every actor with it."""
        self.closed = False
        for book in self.books.values():
            if book.live:
                book.state = ActorState.STARTING

    def _replay(self, real: Any, sub: Subscription) -> None:
        book = self.books.get(sub) or self._enter(sub)
        before = sub.ledger.routed
        real(sub)
        came = sub.ledger.routed - before
        fitting = [
            number
            for number, receipt in sorted(self.published.items())
            if book.matches(receipt.event.topic) and not receipt.event.topic.startswith("$")
        ]
        wanted = fitting[len(fitting) - min(sub.options.replay, len(fitting)) :]
        if came != len(wanted):
            self.flaw(9, f"{sub.name!r} was given {came} past events, not {len(wanted)}")
        for number in wanted:
            account = self.route(book, number)
            account.past = True
            self.keyed(book, account, self.published[number])

    # -- handling ---------------------------------------------------------------------------------

    def _watched(self, book: Book, handler: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(handler)
        async def watched(argument: Any) -> Any:
            attempt = self.begin(book)
            try:
                reply = await handler(argument)
            except BaseException as error:
                self.end(book, attempt, error)
                raise
            self.end(book, attempt, None)
            return reply

        return watched

    def begin(self, book: Book) -> Attempt | None:
        """Take note that a handler begins."""
        hand: Any = in_hand.get()
        number = hand.receipt._number
        account = self.account(book, number)
        if account is None:
            self.flaw(2, f"{book.name!r} was given event {number}, which never came to it")
            return None
        self._may_begin(book, account)
        if book.state is ActorState.SUSPENDED:
            self.kin.probed(book)
        task = None if book.threaded else asyncio.current_task()
        return book.begin(account, task, self.now())

    def _may_begin(self, book: Book, account: Account) -> None:
        name, number = book.name, account.number
        if self.closed:
            self.flaw(12, f"{name!r} began event {number} after the bus had closed")
        before = account.attempt
        if before is not None and not account.again + account.fresh:
            left = before.task is not None and (before.task.cancelling() or before.task.done())
            if not left and not book.threaded:
                self.flaw(3, f"{name!r} runs event {number} twice at the same time")
        elif self._unheard(book, account):
            book.unack(account)
        elif not account.open:
            rule = 3 if account.acked else 5
            self.flaw(rule, f"{name!r} began event {number} again, which is settled: {account}")
            account.again += 1
            book.again += 1
        self._in_order(book, account)
        self._in_measure(book, account)

    def _unheard(self, book: Book, account: Account) -> bool:
        """Return whether a thread has handled it, and the bus may have gone on without hearing."""
        cut = book.disturbed or not self.bus._engine.open
        return book.threaded and cut and account.acked > 0 and not account.open

    def _in_order(self, book: Book, account: Account) -> None:
        if book.keyed and account.key is not None:
            held = [
                each for each in book.accounts.values()
                if each is not account and each.key == account.key and each.attempt is not None
                and not (each.attempt.task is not None and each.attempt.task.cancelling())
            ]  # fmt: skip
            if held:
                self.flaw(4, f"{book.name!r} runs key {account.key!r} twice at the same time")
        first = account.fresh and not account.again and account.attempts == 0
        if not first or book.options.overflow is Overflow.LATEST or account.routed > 1:
            return
        if book.keyed and account.key is None:
            return
        if not book.keyed and book.options.concurrency > 1:
            return
        last = book.begun.get(account.key, 0)
        if account.place < last:
            self.flaw(4, f"{book.name!r} began event {account.number} after a later one")
        book.begun[account.key] = account.place

    def _in_measure(self, book: Book, account: Account) -> None:
        if account.fresh and not account.again:
            return
        options = book.options
        if options.once:
            self.flaw(3, f"{book.name!r} is at_most_once and began event {account.number} again")
        elif account.failed >= options.retry.max_attempts and not (
            book.threaded and book.disturbed
        ):
            self.flaw(
                3,
                f"{book.name!r} began event {account.number} once more after {account.failed} of "
                f"{options.retry.max_attempts} attempts had failed",
            )

    def end(self, book: Book, attempt: Attempt | None, error: BaseException | None) -> None:
        """Take note that a handler has ended."""
        if attempt is None:
            return
        task = attempt.task
        cut = task is not None and task.cancelling() and book.state is not ActorState.RUNNING
        failed = error is not None and not cut
        book.end(attempt, ok=error is None, failed=failed)

    # -- settling ---------------------------------------------------------------------------------

    def _bury(self, real: Any, letter: DeadLetter, receipt: Any) -> None:
        self.buried += not (receipt.refused and self._held(receipt.watch))
        number = letter.event._number
        book = next((b for b in self._named(letter.subscription) if number in b.accounts), None)
        book = book or self.newest.get(letter.subscription)
        account = None if book is None else self.account(book, number)
        if book is None or account is None:
            self.flaw(2, f"{letter.subscription!r} buried event {number}, which never came to it")
        else:
            self._dead(book, account, letter)
        real(letter, receipt)

    def _held(self, watch: Any) -> bool:
        """Return whether a delivery is the replay of a letter that is still there."""
        letters = self.bus.dead_letters
        return isinstance(watch, Redelivery) and letters.get(watch.letter.id) is not None

    def _named(self, name: str) -> list[Book]:
        newest = self.newest.get(name)
        older = [b for b in self.books.values() if b.name == name and b is not newest]
        return [*([newest] if newest else []), *older]

    def _dead(self, book: Book, account: Account, letter: DeadLetter) -> None:
        if self._unheard(book, account):
            book.unack(account)
        if not account.open:
            self.flaw(5, f"{book.name!r} buried event {account.number}, settled before: {account}")
            return
        publish = self._underway
        coming = publish is not None and any(book in each for each in publish.groups.values())
        engine = self.bus._engine
        draining = engine.draining or engine.closed
        text = unreasonable(book, account, letter, draining=draining, coming=coming)
        if text is not None:
            self.flaw(1, f"{book.name!r} gave up event {account.number} ({letter.reason}): {text}")
        book.bury(account)
        account.cleared = letter.reason in CLEARING
        book.stalled |= letter.reason is DeadReason.OVERFLOW_TIMEOUT
        self.deaths.setdefault(letter.event._number, []).append((book, letter.reason))
        exhausted = letter.reason is DeadReason.RETRIES_EXHAUSTED and letter.attempts > 0
        if exhausted or book.state is ActorState.SUSPENDED:
            self.check_kin()
            self.kin.failed(book, self.now())

    def check_kin(self) -> None:
        """Compare what supervisors have done with what they had to do."""
        late = self.kin.overdue()
        if late is not None:
            self.flaw(11, late)

    def _announce(self, real: Any, topic: str, data: Any) -> None:
        if topic.startswith("$bus:actor:"):
            name, state = data["subscription"], ActorState(data["state"])
            there = [book for book in self._named(name) if book.sub.state is state]
            there.sort(key=lambda book: book.state is state)  # who has changed, or the newest
            for book in there[:1]:
                book.disturbed |= state is not ActorState.RUNNING
                wrong = self.kin.entered(book, state)
                if wrong is not None:
                    self.flaw(11, wrong)
        real(topic, data)


class PlainHandler:
    """A plain function that is watched; equal to the function it stands for."""

    def __init__(self, witness: Witness, book: Book, handler: Any) -> None:
        functools.update_wrapper(self, handler)
        self._witness = witness
        self._book = book
        self._handler = handler

    def __call__(self, argument: Any) -> Any:
        """Call the function."""
        attempt = self._witness.begin(self._book)
        try:
            reply = self._handler(argument)
            if inspect.iscoroutine(reply):
                return reply
        except BaseException as error:
            self._witness.end(self._book, attempt, error)
            raise
        self._witness.end(self._book, attempt, None)
        return reply

    def __eq__(self, other: object) -> bool:
        return same_handler(self._handler, other)

    def __hash__(self) -> int:
        return hash(self._handler)
