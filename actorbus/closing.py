"""Closing: how a bus comes to rest. A written procedure, because the order is the guarantee.

1. Refuse what nobody has in hand: publishes without a cause, from the call on.
2. Shorten every delay to a second; what suspended actors hold is dead at once.
3. Wait until nothing is pending, told so rather than asking, or the deadline.
4. Stop the actors in reverse order of their start.
5. What the deadline cuts off is dead (``drain_timeout``); whoever does not end is named.

A close then releases streams, threads, timers and tasks, and the journal, which is named if it
does not come to its end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import anyio

from actorbus.delivery import Nap
from actorbus.hand import Hand
from actorbus.life import Life
from actorbus.scribe import Scribe
from actorbus.subscription import Subscription
from actorbus.watch import hear
from actorbus.words import ActorState, DeadReason
from actorbus.worker import GRACE

SHORT = 1.0  # seconds a retry or restart may be put off while draining


@dataclass(frozen=True, slots=True)
class DrainReport:
    """What a drain came to.

    Attributes:
        acked: Deliveries handled meanwhile.
        dead: Deliveries given up meanwhile.
        abandoned: Names of the subscriptions whose handlers did not end; of the journal, too.
        seconds: How long it took.
        complete: Whether nothing was cut off and nobody abandoned.
    """

    acked: int = 0
    dead: int = 0
    abandoned: tuple[str, ...] = ()
    seconds: float = 0.0
    complete: bool = True

    def __str__(self) -> str:
        left = f", abandoned {', '.join(self.abandoned)}" if self.abandoned else ""
        word = "complete" if self.complete else "INCOMPLETE"
        return (
            f"drained in {self.seconds:.2f} s: {self.acked} acked, {self.dead} dead{left}; {word}"
        )


class Closable(Protocol):
    """What closing needs of a bus."""

    name: str
    busy: set[Subscription]
    naps: dict[Nap, None]
    idle_bells: list[asyncio.Future[None]]

    def lives(self) -> list[Life]:
        """Return the actors in order of start."""

    def settled_counts(self) -> tuple[int, int]:
        """Return how many deliveries are acked and dead."""

    def catch_up(self) -> bool:
        """Route what other threads have published so far; return whether there was any."""

    def clear_suspended(self, among: Iterable[Any]) -> None:
        """Give up the mail of suspended actors."""

    def at_the_journal(self) -> list[str]:
        """Return the names of those who wait for the journal, and its own if it is at work."""

    def stragglers(self, hand: Hand | None) -> tuple[str, ...]:
        """Return the names of those whose handlers have been abandoned and still run."""


async def until_idle(bus: Closable, hand: Hand | None = None) -> None:
    """Wait until nothing is pending, except in suspended actors and in the caller's own."""
    while True:
        if busy_names(bus.busy, hand) or bus.at_the_journal():
            await hear(bus.idle_bells)
        elif not bus.catch_up():  # after the look: it may have found a handler's thread at its end
            return


def busy_names(subscriptions: Iterable[Subscription], hand: Hand | None = None) -> list[str]:
    """Return the names of the subscriptions with pending deliveries."""
    found = []
    for sub in subscriptions:
        mine = hand is not None and hand.actor is sub
        if not mine and not sub.suspended and sub.terms().pending:
            found.append(sub.name)
    return sorted(found)


async def drain(bus: Closable, timeout: float | None, hand: Hand | None) -> DrainReport:
    """Bring a bus to rest.

    Args:
        bus: The bus, running and refusing what has no cause.
        timeout: Seconds until what is left is cut off; None waits for ever.
        hand: The worker in whose handler this was asked for, if any: it is not waited for.

    Returns:
        What it came to.
    """
    started = anyio.current_time()
    acked, dead = bus.settled_counts()
    for nap in list(bus.naps):
        nap.shorten(SHORT)
    bus.clear_suspended(life.sub for life in bus.lives())
    own = None if hand is None else hand.actor
    with anyio.move_on_after(timeout) as limit:
        await until_idle(bus, hand)
        for life in reversed(bus.lives()):
            if life.sub is own:  # what stands behind this very handler is handled after it
                life.background(life.wind_up("drained"))
            else:
                await life.stop("drained", _reason(life), for_good=False)
    cut_off = False
    if limit.cancelled_caught:
        cut_off = await _cut_off([life for life in reversed(bus.lives()) if life.sub is not own])
    acked_now, dead_now = bus.settled_counts()
    abandoned = bus.stragglers(hand)
    return DrainReport(
        acked=acked_now - acked,
        dead=dead_now - dead,
        abandoned=abandoned,
        seconds=anyio.current_time() - started,
        complete=not (abandoned or cut_off),
    )


async def _cut_off(lives: list[Life]) -> bool:
    """Give up everything at once; return whether there was anything."""
    tasks: list[asyncio.Task[None]] = []
    left = any(life.sub.terms().pending for life in lives)
    for life in lives:
        tasks += [w.task for w in life.workers if w.task is not None and not w.task.done()]
        life.cut_off(_reason(life))
    if tasks:
        await asyncio.wait(tasks, timeout=GRACE)
    for life in lives:
        await life.stop("drained", _reason(life), for_good=False)
    return left


def _reason(life: Life) -> DeadReason:
    """Return why the mail of an actor dies that is still there when the bus stops it."""
    suspended = life.state is ActorState.SUSPENDED
    return DeadReason.SUSPENDED if suspended else DeadReason.DRAIN_TIMEOUT


async def end_tasks(
    tasks: Callable[[], Iterable[asyncio.Task[object]]], spared: Iterable[asyncio.Task[object]]
) -> None:
    """Cancel tasks and wait for them, a bounded time."""
    left = [task for task in tasks() if task not in spared and not task.done()]
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left, timeout=GRACE)


async def close_journal(scribe: Scribe, seconds: float | None, report: DrainReport) -> DrainReport:
    """Let a journal finish what it is at, and close it.

    Args:
        scribe: The way into it.
        seconds: How long that may take, but at least a second; None waits for ever.
        report: Of the drain.

    Returns:
        The report, with the journal's name in it if it did not come to its end.
    """
    limit = None if seconds is None else max(GRACE, seconds)
    await scribe.close(limit, clean=not report.abandoned)
    if not scribe.given_up:
        return report
    return replace(report, abandoned=(*report.abandoned, scribe.journal.url), complete=False)
