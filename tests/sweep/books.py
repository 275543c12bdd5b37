"""Books of a scenario's own: every delivery accounted for, by a count that is not the bus's.

Each event carries a number. Whoever wants its topic is noted when it is published, by a comparison
of strings instead of the router; handlers note what they have handled. At the end every number
stands once, as handled or as a dead letter, with every subscription that wanted it; what stands
nowhere is as many as the ledger says were conflated. Nothing is left running.

`faults` counts what scenarios do to the bus, when they do it.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from actorbus import Actor, ActorRef, Event, EventBus, Receipt, Subscription, Supervisor
from actorbus.testing import cancel_at

Behave = Callable[[Event], Awaitable[object]]

PAUSES = (0.0, 0.0, 0.0, 0.01, 0.5)
"""Virtual seconds a step of a scenario takes; most are over at once."""

faults: Counter[str] = Counter()
"""What was done to the bus, by name; cleared by whoever counts."""


async def pause(_: object = None) -> None:
    """Let others run, and sometimes time pass."""
    await asyncio.sleep(random.choice(PAUSES))


def matches(pattern: str, topic: str) -> bool:
    """Say whether one of the few patterns the scenarios use matches a topic."""
    return pattern in ("**", topic) or (
        pattern.endswith(":*") and pattern[:-2] == topic.rpartition(":")[0]
    )


class Books:
    """A bus, and what was published to it and handled.

    Args:
        options: Of the bus.

    Attributes:
        bus: The bus.
        sent: The numbers published to each account, a subscription or a group.
        handled: The numbers handled by each account, in order.
        unordered: Accounts whose deliveries need not be handled in publish order.
    """

    def __init__(self, **options: Any) -> None:
        self.bus = EventBus("sweep", **options)
        self.sent: dict[str, list[int]] = defaultdict(list)
        self.handled: dict[str, list[int]] = defaultdict(list)
        self.unordered: set[str] = set()
        self._numbers = itertools.count(1)
        self._live: dict[str, tuple[str, str]] = {}  # subscription: its account and pattern
        self._accounts: dict[str, str] = {}

    # -- who is there -----------------------------------------------------------------------------

    def subscribe(
        self, pattern: str, name: str, behave: Behave = pause, *, to: Any = None, **options: Any
    ) -> Subscription:
        """Subscribe what behaves so and then notes that it has handled the event."""

        async def handle(event: Event) -> object:
            reply = await behave(event)
            self.note(name, event)
            return reply

        self._open(pattern, name, options)
        made: Subscription = (to or self.bus).subscribe(pattern, handle, name=name, **options)
        return made

    def subscribe_thread(
        self, pattern: str, name: str, behave: Callable[[Event], object], **options: Any
    ) -> Subscription:
        """Subscribe what behaves so in a thread."""

        def handle(event: Event) -> None:
            behave(event)
            self.note(name, event)

        self._open(pattern, name, options)
        return self.bus.subscribe(pattern, handle, name=name, **options)

    def spawn(
        self, pattern: str, name: str, behave: Behave = pause, *, to: Supervisor | None = None,
        **options: Any,
    ) -> ActorRef:  # fmt: skip
        """Spawn an actor that behaves so; its start takes time and may fail."""
        self._open(pattern, name, options)
        make = lambda: Recorded(self, behave)  # noqa: E731 a factory
        return (to or self.bus).spawn(make, patterns=pattern, name=name, **options)

    def leave(self, name: str) -> None:
        """Take note that a subscription gets nothing more."""
        del self._live[name]

    def note(self, name: str, event: Event) -> None:
        """Take note that an event was handled."""
        self.handled[self._accounts[name]].append(event.data)

    def _open(self, pattern: str, name: str, options: dict[str, Any]) -> None:
        account = options.get("group") or name
        self._live[name] = (account, pattern)
        self._accounts[name] = account
        if options.get("concurrency", 1) > 1 or options.get("group"):
            self.unordered.add(account)

    # -- what is published ------------------------------------------------------------------------

    def publish(self, topic: str, **options: Any) -> Receipt:
        """Publish the next number."""
        number = next(self._numbers)
        receipt = self.bus.publish(topic, number, **options)
        self._send(topic, number)
        return receipt

    def ask(self, topic: str, timeout: float | None = None) -> Coroutine[Any, Any, Any]:
        """Ask with the next number; somebody has to be there, and the coroutine be awaited."""
        number = next(self._numbers)
        self._send(topic, number)
        return self.bus.ask(topic, number, timeout)

    def _send(self, topic: str, number: int) -> None:
        for account in {one for one, pattern in self._live.values() if matches(pattern, topic)}:
            self.sent[account].append(number)

    # -- the end ----------------------------------------------------------------------------------

    def check(self) -> None:
        """Hold the books of the bus against these."""
        audit = self.bus.audit()
        assert audit.balanced, str(audit)
        assert audit.totals.pending == 0, str(audit)
        dead: dict[str, list[int]] = defaultdict(list)
        for letter in self.bus.dead_letters:
            if letter.subscription in self._accounts:
                dead[self._accounts[letter.subscription]].append(letter.event.data)
        conflated: Counter[str] = Counter()
        for name, terms in audit.subscriptions.items():
            conflated[self._accounts.get(name, name)] += terms.conflated
        for account in {*self.sent, *self.handled, *dead}:
            self._check(account, dead[account], conflated[account])
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"left running: {sorted(task.get_name() for task in left)}"

    def _check(self, account: str, dead: list[int], conflated: int) -> None:
        sent, handled = Counter(self.sent[account]), self.handled[account]
        found = Counter(handled) + Counter(dead)
        assert not found - sent, f"{account}: twice, or never sent: {dict(found - sent)}"
        lost = sent - found
        assert lost.total() == conflated, f"{account}: lost {dict(lost)}, conflated {conflated}"
        if account not in self.unordered:
            assert handled == sorted(handled), f"{account}: out of order: {handled}"


class Recorded(Actor):
    """An actor that behaves as it is told, and starts slowly and sometimes not at all."""

    def __init__(self, books: Books, behave: Behave) -> None:
        self.books = books
        self.behave = behave

    async def on_start(self) -> None:
        await pause()
        if random.random() < 0.1:
            raise fault("failing starts", ConnectionError())

    async def receive(self, event: Event) -> object:
        reply = await self.behave(event)
        self.books.note(self.name, event)
        return reply


@asynccontextmanager
async def books(**options: Any) -> AsyncIterator[Books]:
    """Give a running bus with books of its own; close it at the end, and compare."""
    made = Books(**options)
    async with made.bus:
        yield made
    made.check()


# -- faults ----------------------------------------------------------------------------------------


def fault(name: str, error: BaseException) -> BaseException:
    """Count a fault, and return what to raise."""
    faults[name] += 1
    return error


def failing(share: float) -> Behave:
    """Return what pauses, then fails in one of so many cases."""

    async def behave(_: Event) -> None:
        await pause()
        if random.random() < share:
            raise fault("handler errors", ConnectionError())

    return behave


async def cut(operation: Coroutine[Any, Any, object], most: int = 12) -> None:
    """Run an operation, cancelled at one of its first awaits if it has so many."""
    task = asyncio.create_task(operation, name="operation")
    about = cancel_at(random.randint(1, most), task)
    await asyncio.wait({task})
    faults["cancellations"] += about.struck
    if not task.cancelled():
        task.result()
