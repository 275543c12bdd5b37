"""Books: what a model knows of every delivery without asking the bus.

A book is kept per subscription, an account per event in it. They are written by what can be seen
from outside: an event is published, a handler begins and ends, a letter is buried.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from actorbus.subscription import Subscription
from actorbus.words import ActorState, Overflow


@dataclass(eq=False, slots=True)
class Account:
    """One event at one subscription.

    Attributes:
        number: Of the event; None while it is being published.
        place: Where it came in the order of routing.
        routed: Deliveries of it: 1, and one more for each replay.
        fresh: Those not begun and not settled.
        again: Those begun, neither under way nor settled: between two attempts, or interrupted.
        attempt: The attempt under way, or None.
        attempts: Attempts begun.
        failed: Attempts that raised, of the delivery in hand.
        acked: Deliveries handled.
        dead: Deliveries given up.
        conflated: Deliveries replaced by a newer one.
        began: Loop time of the first attempt of the delivery in hand.
        key: What makes it wait for others, of a keyed subscription.
        past: Whether the event was published before, and came from the history.
        cleared: Whether it has left a mailbox that was emptied.
    """

    number: int | None
    place: int
    routed: int = 0
    fresh: int = 0
    again: int = 0
    attempt: Attempt | None = None
    attempts: int = 0
    failed: int = 0
    acked: int = 0
    dead: int = 0
    conflated: int = 0
    began: float = 0.0
    past: bool = False
    cleared: bool = False
    key: Any = None

    @property
    def open(self) -> int:
        """Deliveries that may still be handled."""
        return self.fresh + self.again + (self.attempt is not None)


@dataclass(eq=False, slots=True)
class Attempt:
    """One call of a handler.

    Attributes:
        task: The task it runs in; None in a thread.
    """

    account: Account
    task: Any


@dataclass(eq=False)
class Book:
    """One subscription.

    Attributes:
        sub: The subscription; its options and patterns are what was asked for.
        actor: Whether it is an `Actor` class.
        accounts: Per number of an event.
        incoming: The account of the event that is being published.
        live: Whether new events are matched.
        disturbed: Whether a restart or a stop may have cut attempts short.
        stalled: Whether a delivery has timed out in the line since one was last begun.
        fresh, running, again: The sums of the accounts.
        begun: Per key, the place of the last event that was begun.
        queue: Under ``latest``, what is queued, by what makes two events the same.
    """

    sub: Subscription
    actor: bool
    accounts: dict[int, Account] = field(default_factory=dict)
    incoming: Account | None = None
    live: bool = True
    disturbed: bool = False
    stalled: bool = False
    routed: int = 0
    acked: int = 0
    dead: int = 0
    conflated: int = 0
    fresh: int = 0
    running: int = 0
    again: int = 0
    state: ActorState = ActorState.STARTING
    begun: dict[Any, int] = field(default_factory=dict)
    queue: dict[Any, Account] = field(default_factory=dict)

    def __post_init__(self) -> None:
        options = self.sub.options
        self.name = self.sub.name
        self.patterns = self.sub.patterns
        self.options = options
        self.keyed = options.key is not None
        self.threaded = self.sub.threaded  # when a thread has begun a delivery, the bus hears late
        self.latest = options.overflow is Overflow.LATEST and not self.threaded

    @property
    def open(self) -> bool:
        """Whether anything may still happen."""
        return bool(self.live or self.fresh or self.running or self.again)

    @property
    def heard(self) -> int:
        """Deliveries handled, as far as the bus can know."""
        return self.sub.ledger.acked if self.threaded else self.acked

    def matches(self, topic: str) -> bool:
        """Return whether it gets a topic now."""
        return (
            self.live
            and any(pattern.matches(topic) for pattern in self.patterns)
            and not any(pattern.matches(topic) for pattern in self.options.exclude)
        )

    # -- an event comes ---------------------------------------------------------------------------

    def route(self, number: int | None, place: int) -> Account:
        """Open the account of an event that is being routed here, or add a delivery to it."""
        account = None if number is None else self.accounts.get(number)
        if account is None:
            account = Account(number, place)
            if number is None:
                self.incoming = account
            else:
                self.accounts[number] = account
        account.place = place
        account.routed += 1
        account.fresh += 1
        account.failed = 0
        self.routed += 1
        self.fresh += 1
        return account

    def arrived(self, number: int) -> Account | None:
        """Name the account of the event that was being published."""
        account, self.incoming = self.incoming, None
        if account is not None:
            account.number = number
            self.accounts[number] = account
        return account

    def refused(self) -> None:
        """Close the account again: the publish has raised."""
        if self.incoming is not None:
            self.incoming = None
            self.routed -= 1
            self.fresh -= 1

    def conflate(self, key: Any, account: Account) -> None:
        """Let an event take the queued one's place, under ``latest``."""
        replaced = self.queue.get(key)
        if replaced is None and len(self.queue) >= self.options.mailbox:
            replaced = self.queue.pop(next(iter(self.queue)))
        if replaced is not None:
            replaced.fresh -= 1
            self.fresh -= 1
            self.conflated += 1
            replaced.conflated += 1
        self.queue[key] = account
        if not account.fresh:
            self.leave_queue(account)

    def leave_queue(self, account: Account) -> None:
        """Take an event out of the queue of ``latest``."""
        for key, each in self.queue.items():
            if each is account:
                del self.queue[key]
                return

    # -- a handler begins and ends ----------------------------------------------------------------

    def begin(self, account: Account, task: Any, now: float) -> Attempt:
        """Take note of an attempt."""
        if account.again:
            account.again -= 1
            self.again -= 1
        elif account.fresh:
            account.fresh -= 1
            self.fresh -= 1
            account.failed = 0
            account.began = now
            self.stalled = False
            self.leave_queue(account)
        else:  # the one before was abandoned, and is run again
            self.running -= 1
        account.attempts += 1
        account.attempt = Attempt(account, task)
        self.running += 1
        return account.attempt

    def end(self, attempt: Attempt, *, ok: bool, failed: bool) -> bool:
        """Take note of its end; return False if it was abandoned long before."""
        account = attempt.account
        if account.attempt is not attempt:
            return False
        account.attempt = None
        self.running -= 1
        account.failed += failed
        if ok:
            account.acked += 1
            self.acked += 1
        else:
            account.again += 1
            self.again += 1
        return True

    def unack(self, account: Account) -> None:
        """Take back an end in a thread that the bus has not waited for."""
        account.acked -= 1
        self.acked -= 1
        account.again += 1
        self.again += 1

    def bury(self, account: Account) -> None:
        """Take note of a dead letter."""
        if account.attempt is not None:
            account.attempt = None
            self.running -= 1
        elif account.again:
            account.again -= 1
            self.again -= 1
        else:
            account.fresh -= 1
            self.fresh -= 1
            self.leave_queue(account)
        account.dead += 1
        self.dead += 1
