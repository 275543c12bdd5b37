"""Reasons: what has to be true of a delivery that is given up, for each reason there is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from actorbus.dead_letter import DeadLetter
from actorbus.retry import Reject, RetryAfter
from actorbus.testing.books import Account, Book
from actorbus.testing.surroundings import BEGIN
from actorbus.words import ActorState, DeadReason, Overflow

EPSILON = 1e-6  # seconds: what floats lose
LIVES = 3  # interruptions after which a delivery is poison
CLEARING = (DeadReason.SUSPENDED, DeadReason.STOPPED, DeadReason.DRAIN_TIMEOUT)
"""Why all that is in a mailbox is given up."""


def unreasonable(
    book: Book, account: Account, letter: DeadLetter, *, draining: bool, coming: bool
) -> str | None:
    """Return why a delivery must not die of the reason its letter gives, or None.

    Args:
        book: The subscription's.
        account: The event's.
        letter: What was buried.
        draining: Whether the bus drains or is closed.
        coming: Whether an event may be coming that is not in the book yet.
    """
    if letter.reason in _PRESSED:
        return _pressed(book, account, letter, coming=coming)
    if letter.reason in (DeadReason.DRAIN_TIMEOUT, DeadReason.LOOP_CLOSED) and not draining:
        return "the bus is open"
    look = _LOOKS.get(letter.reason)
    return None if look is None else look(book, account, letter)


def _rejected(_: Book, account: Account, letter: DeadLetter) -> str | None:
    fits = isinstance(letter.error, Reject) and account.failed > 0
    return None if fits else "no handler has rejected it"


def _exhausted(book: Book, account: Account, letter: DeadLetter) -> str | None:
    if not account.failed:
        unmade = letter.attempts == 0 and book.latest  # its key could not be made
        return None if unmade or book.options.timeout is not None else "no attempt has failed"
    retry, error = book.options.retry, letter.error
    if book.options.once or book.options.timeout is not None or error is None:
        return None
    kind = Exception if isinstance(error, asyncio.CancelledError) else type(error)
    tried, never = (tuple[Any, ...](kinds) for kinds in (retry.on, retry.never))  # type: ignore[arg-type]  # once made they are tuples
    again = issubclass(kind, (*tried, RetryAfter)) and not issubclass(kind, never)
    if not again or account.failed >= retry.max_attempts:
        return None
    delay = min(retry.cap, retry.base * retry.factor ** (account.failed - 1))
    if isinstance(error, RetryAfter):
        delay = error.seconds
    spent = letter.died_at - BEGIN - account.began
    if retry.max_elapsed is not None and spent + delay > retry.max_elapsed - EPSILON:
        return None
    return f"only {account.failed} of {retry.max_attempts} attempts have failed"


def _pressed(book: Book, account: Account, letter: DeadLetter, *, coming: bool) -> str | None:
    """Look at what may only happen where there is no room."""
    options, reason = book.options, letter.reason
    if options.overflow is Overflow.LATEST:
        return "overflow='latest' gives nothing up"
    if options.overflow is not Overflow.BLOCK and reason is not DeadReason.OVERFLOW:
        return f"overflow={str(options.overflow)!r} has no line"
    others = book.fresh - (account.fresh > 0) + coming
    room = options.mailbox
    if options.overflow is Overflow.BLOCK and reason is DeadReason.OVERFLOW and account.routed == 1:
        room *= 2  # the line has as many places for those nobody awaits; a replay gives its own up
    if book.threaded:  # the loop hears late of what a thread has begun
        return None
    if others < room:
        return f"there was room: {others} others of {room} were not begun"
    if reason is DeadReason.OVERFLOW_TIMEOUT:
        allowed, took = options.put_timeout, letter.died_at - letter.event.time
        if allowed is None or took < allowed - EPSILON:
            return f"it stood {took:g} s in the line, and put_timeout is {allowed}"
    if reason is DeadReason.STALLED and not (book.stalled or book.state is ActorState.SUSPENDED):
        return "the mailbox was not stalled"
    return _in_turn(book, account)


def _in_turn(book: Book, account: Account) -> str | None:
    waiting = [each.place for each in book.accounts.values() if each.fresh]
    if book.options.overflow is Overflow.DROP_OLD and account.place > min(waiting):
        return "it was not the oldest"
    newest = book.options.overflow in (Overflow.DROP_NEW, Overflow.FAIL)
    if newest and account.place < max(waiting):
        return "it was not the newest"
    return None


def _caused(_: Book, __: Account, letter: DeadLetter) -> str | None:
    return None if letter.event.causation_id is not None else "no handler has published it"


def _over(book: Book, _: Account, __: DeadLetter) -> str | None:
    if not book.live and book.state in (ActorState.STOPPING, ActorState.STOPPED):
        return None
    return f"its actor is {book.state} and {'' if book.live else 'no more '}subscribed"


def _suspended(book: Book, _: Account, __: DeadLetter) -> str | None:
    ends = ActorState.STOPPING  # by a drain, which gives up at once what a suspended one holds
    fits = book.state in (ActorState.SUSPENDED, ends)
    return None if fits else f"its actor is {book.state}"


def _interrupted(book: Book, account: Account, _: DeadLetter) -> str | None:
    fits = book.options.once and (account.attempts or book.threaded)
    return None if fits else "it may run again, or has never begun"


def _poison(book: Book, account: Account, _: DeadLetter) -> str | None:
    cut = account.attempts - account.failed
    return None if cut >= LIVES or book.threaded else f"it was interrupted {cut} times"


def _late(book: Book, account: Account, _: DeadLetter) -> str | None:
    fits = book.options.timeout is not None and account.attempt is not None
    return None if fits else "no attempt of it has a time limit"


_PRESSED = (DeadReason.OVERFLOW, DeadReason.OVERFLOW_TIMEOUT, DeadReason.STALLED)
_LOOKS: dict[DeadReason, Callable[[Book, Account, DeadLetter], str | None]] = {
    DeadReason.REJECTED: _rejected,
    DeadReason.RETRIES_EXHAUSTED: _exhausted,
    DeadReason.DEADLOCK: _caused,
    DeadReason.MAX_HOPS: _caused,
    DeadReason.STOPPED: _over,
    DeadReason.SUSPENDED: _suspended,
    DeadReason.INTERRUPTED: _interrupted,
    DeadReason.POISON: _poison,
    DeadReason.TIMEOUT_IGNORED: _late,
}
