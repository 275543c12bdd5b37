"""A bus with a journal: two lives on it, the first cut off at work."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Iterator
from functools import partial
from typing import Any

from actorbus import Event, EventBus, JournalError, RetryPolicy
from actorbus.hand import in_hand
from actorbus.journal.memory import MemoryJournal
from actorbus.testing.durable_books import DurableBooks
from actorbus.testing.tape import Tape
from tests.sweep.books import fault, faults, pause

POLICIES: dict[str, dict[str, Any]] = {
    "narrow": {"mailbox": 1, "concurrency": 1, "key": None, "attempts": 2},
    "wide": {"mailbox": 4, "concurrency": 3, "key": None, "attempts": 1},
    "keyed": {"mailbox": 2, "concurrency": 2, "key": "key", "attempts": 3},
}
"""The durable subscriptions."""


class Life:
    """One bus on the journal."""

    def __init__(self, journal: MemoryJournal, books: DurableBooks, numbers: Iterator[int]) -> None:
        self.books = books
        self.numbers = numbers
        self.tape = Tape(journal, books)
        self.tape.seconds = random.choice([0.0, 0.001, 0.3])
        self.bus = EventBus("durable", journal=self.tape)
        engine: Any = self.bus._engine
        engine.bury = partial(self._bury, engine.bury)
        for name, policy in POLICIES.items():
            options = {key: value for key, value in policy.items() if key != "attempts"}
            retry = RetryPolicy(max_attempts=policy["attempts"], base=0.1, max_elapsed=None)
            self.books.course(name, ("job",)).options = policy
            options |= {"name": name, "durable": name, "retry": retry}
            self.bus.subscribe("job", self._handler(name), **options)
            self.books.courses[name].live = True

    def _bury(self, real: Any, letter: Any, receipt: Any) -> None:
        if not self.tape.gone:
            self.books.bury(letter, receipt.logged)
        real(letter, receipt)

    def _handler(self, name: str) -> Any:
        async def handle(event: Event) -> None:
            hand: Any = in_hand.get()
            seq, ok = hand.receipt.logged, False
            if self.tape.gone:
                return
            self.books.begin(name, seq, event)
            try:
                await pause()
                if random.random() < 0.1:
                    raise fault("handler errors", ConnectionError())
                ok = True
            finally:
                if not self.tape.gone:
                    self.books.end(name, seq, event, ok=ok)

        return handle

    async def publish(self) -> None:
        """Publish some events; what is acknowledged is committed."""
        for _ in range(4):
            data = {"n": next(self.numbers)}
            made = self.books.published(self.bus.publish("job", data, key=random.randrange(2)))
            try:
                await made.receipt
            except JournalError:
                assert made.seq is None or self.tape.gone, f"{data} has failed and is committed"
            else:
                assert made.seq is not None, f"{data} is acknowledged and not committed"
            await pause()

    async def kill(self) -> None:
        """End it at once; nothing of it is seen any more."""
        faults["crashes"] += 1
        self.tape.gone = True
        self.tape.journal.close(clean=False)
        self.books.crash()
        await self.bus.close(0.0)


async def durable() -> None:
    """Durable subscriptions on a slow journal that fails, killed at work and begun again."""
    journal, books, numbers = MemoryJournal(), DurableBooks(), itertools.count(1)
    life = Life(journal, books, numbers)
    await life.bus.start()
    publishing = asyncio.ensure_future(life.publish())
    for _ in range(random.randrange(60)):
        await asyncio.sleep(0)
    await pause()
    life.tape.failures = random.choice([0, 0, 1, 3])
    faults["failing commits"] += life.tape.failures
    await pause()
    await life.kill()
    publishing.cancel()
    await asyncio.wait({publishing})
    life = Life(journal, books, numbers)
    async with life.bus:
        await life.publish()
        await life.bus.settle()
        assert life.bus.audit().balanced, str(life.bus.audit())
        assert not [*books.unfinished()], [*books.unfinished()]
    assert not books.flaws, books.flaws
