"""Invariants: what is true of a bus after every step, each compared with the model's own books.

The numbers are those of the reliability study. I10, the cursors of durable subscriptions, begins
with the journal.
"""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis.stateful import invariant

from actorbus.ledger import Terms
from actorbus.testing.books import Book
from actorbus.testing.stage import LONG, PATIENCE, Stage

ENOUGH = 400  # quarters of an hour within which suspended actors have tried all they hold


class BrokenInvariantError(AssertionError):
    """The bus contradicts the contract.

    Attributes:
        invariant: Its number and name, such as ``I4 order``.
    """

    def __init__(self, invariant: str, texts: list[str]) -> None:
        self.invariant = invariant
        super().__init__(f"{invariant}: " + "; ".join(texts))


class Invariants(Stage):
    """The invariants of a bus in memory."""

    def _look(self, name: str, found: list[str]) -> None:
        """Raise if an invariant is broken, by what was found now or seen before."""
        number = int(name.partition(" ")[0][1:])
        seen = [flaw.text for flaw in self.witness.flaws if flaw.number == number]
        if seen or found:
            raise BrokenInvariantError(name, [*seen, *found])

    def i1_conservation(self) -> None:
        """I1: routed = acked + dead + conflated + what is pending, each as the model counts it."""
        found: list[str] = []
        audit = self.bus.audit()
        for book in self.witness.books.values():
            terms = book.sub.terms()
            out = _out(book, terms)
            if terms.difference:
                out.append(f"the books are out by {terms.difference}")
            if out:
                found.append(f"{book.name!r}: {', '.join(out)}")
        routed = sum(book.routed for book in self.witness.books.values())
        told = sum(t.routed for n, t in audit.subscriptions.items() if not self._is_tap(n))
        if told - self._ended_taps() != routed:
            found.append(f"the audit says {told} routed in all, the model {routed}")
        if not audit.balanced:
            found.append(str(audit))
        self._look("I1 conservation", found)

    def _is_tap(self, name: str) -> bool:
        return any(tap.name == name for tap in self.bus._engine.registry.taps)

    def _ended_taps(self) -> int:
        return self.bus._engine.registry._sums["_streams"].routed

    def i2_nothing_invented(self) -> None:
        """I2: every event a handler was given, or a letter tells of, came to that subscription."""
        self._look("I2 nothing invented", [])

    def i3_handled_once(self) -> None:
        """I3: a delivery is handled once, tried again as its policy says, never twice at once."""
        found = [
            f"{book.name!r} has handled event {account.number} {account.acked} times of "
            f"{account.routed}"
            for book in self.witness.books.values()
            for account in book.accounts.values()
            if account.acked > account.routed
        ]
        self._look("I3 handled once", found)

    def i4_order(self) -> None:
        """I4: one worker begins events in publish order; one key's events likewise, one by one."""
        self._look("I4 order", [])

    def i5_settled_is_final(self) -> None:
        """I5: after its ack, its letter or its replacement a delivery is not touched again."""
        self._look("I5 settled is final", [])

    def i6_bounds(self) -> None:
        """I6: mailboxes, lines, workers, letters, history and the router's cache are bounded."""
        found: list[str] = []
        for book in self.witness.books.values():
            if book.open:
                found += _beyond(book, book.sub.terms())
        letters: Any = self.bus.dead_letters
        if len(letters) > letters.limit:
            found.append(f"{len(letters)} dead letters are held of {letters.limit}")
        held = self.witness.buried - letters.evicted - letters.left
        if len(letters) != held:
            found.append(f"{len(letters)} dead letters are held, and {held} should be")
        router = self.bus._engine.routes._router
        cached = len(router._young.routes) + len(router._old.routes)
        if cached > 2 * router._cache_size:
            found.append(f"{cached} topics are cached, of 2 * {router._cache_size}")
        self._look("I6 bounds", found)

    def i7_receipts(self) -> None:
        """I7: a receipt resolves once, with the truth: admitted or given up, settled or not."""
        for task in [task for task in self.waiters if task.done()]:
            del self.waiters[task]
            if not task.cancelled():
                task.result()
        self._look("I7 receipts", [])

    def i9_subscription_interval(self) -> None:
        """I9: an event goes to who subscribed before it and has not left, and to nobody else."""
        self._look("I9 subscription interval", [])

    def i11_restart_intensity(self) -> None:
        """I11: restarts follow strategy and budget: as often as they allow, and no oftener."""
        self.witness.check_kin()
        self._look("I11 restart intensity", [])

    def i8_liveness(self) -> None:
        """I8: when no handler hangs any more, everything is settled and everybody has his answer.

        Checked at the end of an example.
        """
        self.gate.set()
        if not self.witness.closed:
            self.finish(self.bus.settle(LONG), 8, "the bus does not settle")
        for _ in range(ENOUGH):
            if not (self.bus.audit().totals.pending or self.waiters):
                break
            self.loop.advance(900.0)
            self.i7_receipts()
        self.loop.advance(PATIENCE)
        self.i7_receipts()
        found = [f"{task.get_name()} still waits" for task in self.waiters]
        for book in self.witness.books.values():
            terms = book.sub.terms()
            if terms.pending:
                found.append(f"{book.name!r} still has {terms}")
        self._look("I8 liveness", found)

    def i12_closed(self, abandoned: tuple[str, ...]) -> None:
        """I12: after close() no handler runs; no task, thread or timer remains but what it names.

        Checked after every close.
        """
        found: list[str] = []
        if pending := self.bus.audit().totals.pending:
            found.append(f"{pending} deliveries are pending")
        for task in asyncio.all_tasks(self.loop):
            name = task.get_name().removeprefix("actorbus:").partition(":")[0]
            if task not in self.waiters and name not in abandoned:
                found.append(f"task {task.get_name()!r} remains")
        found += [
            f"a timer remains: {timer}"
            for timer in self.loop._scheduled
            if not timer._cancelled and is_ours(timer._callback)
        ]
        busy = self.bus._engine.threads.owners - {*abandoned}
        if busy:
            found.append(f"threads still work for {sorted(busy)}")
        self._look("I12 closed means closed", found)

    @invariant()
    def everything_holds(self) -> None:
        """Look at every invariant."""
        checks = {
            1: self.i1_conservation, 2: self.i2_nothing_invented, 3: self.i3_handled_once,
            4: self.i4_order, 5: self.i5_settled_is_final, 6: self.i6_bounds, 7: self.i7_receipts,
            9: self.i9_subscription_interval, 11: self.i11_restart_intensity,
        }  # fmt: skip
        if self.witness.flaws and self.witness.flaws[0].number in checks:
            checks[self.witness.flaws[0].number]()  # what was seen first says most
        for check in checks.values():
            check()


def _out(book: Book, terms: Terms) -> list[str]:
    """Return how the bus's terms differ from the model's."""
    begun = terms.running + terms.retrying
    pairs = [("routed", terms.routed, book.routed), ("dead", terms.dead, book.dead)]
    if book.threaded:  # the loop hears late of what a thread begins and ends
        told = terms.acked + terms.conflated + terms.pending
        true = book.acked + book.fresh + book.running + book.again
        pairs.append(("acked, conflated or pending", told, true))
    else:
        pairs += [
            ("acked", terms.acked, book.acked),
            ("conflated", terms.conflated, book.conflated),
            ("not begun", terms.waiting + terms.queued, book.fresh),
            ("running or retrying", begun, book.running + book.again),
        ]
        if not (book.disturbed or book.options.timeout is not None):
            pairs.append(("running", terms.running, book.running))
    return [f"{told} {what}, not {true}" for what, told, true in pairs if told != true]


def _beyond(book: Book, terms: Terms) -> list[str]:
    """Return which bounds a subscription breaks."""
    size, found = book.options.mailbox, []
    if terms.queued > size:
        found.append(f"{book.name!r} has {terms.queued} queued, of {size}")
    if terms.running > book.options.concurrency:
        found.append(f"{book.name!r} has {terms.running} running")
    line: Any = book.sub.inbox.mailbox.line or ()
    awaited = sum(place.item.awaiting > 0 for place in line)
    if terms.waiting > size + awaited + 1:  # one is not judged yet
        found.append(f"{book.name!r} has {terms.waiting} in line, {awaited} of them awaited")
    if terms.waiting and terms.queued < size and not book.keyed:
        found.append(f"{book.name!r} has {terms.waiting} in line though there is room")
    return found


def is_ours(callback: Any) -> bool:
    """Return whether a callback is the bus's own, and not of the testing tools."""
    owner = getattr(callback, "__self__", callback)
    module = getattr(type(owner) if owner is not callback else callback, "__module__", "") or ""
    return module.startswith("actorbus.") and not module.startswith("actorbus.testing")
