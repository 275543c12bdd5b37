"""The books across a crash: two processes, two ledgers, and the journal between them.

A ledger begins at 0 with its process. What the one before has settled and the journal knows of is
settled; all else that is in the journal is routed again, and is in the new ledger or in the lag.
"""

from __future__ import annotations

import asyncio
import copy
from typing import NamedTuple

from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from actorbus import EventBus, RetryPolicy, metrics
from actorbus.journal.memory import MemoryJournal
from actorbus.testing import simulate
from tests.test_durable import crashed
from tests.test_metrics import at, scrape

DURABLES = ("works", "fails")


class Left(NamedTuple):
    """What a crash has left of a durable subscription.

    Attributes:
        noted: Deliveries that the journal knows to be settled.
        open: Those it does not.
    """

    noted: set[int]
    open: set[int]


def left_by(image: MemoryJournal) -> tuple[dict[str, Left], set[int]]:
    """Return what is left of each durable subscription, and the events of which a letter is."""
    journal = copy.deepcopy(image)
    journal.open("power")
    events, left = {each.seq for each in journal.read(0, 1_000, lambda _: True).records}, {}
    for name in DURABLES:
        durable = journal._durables.get(name)
        noted = {seq for seq in events if durable is None or durable.has_settled(seq)}
        left[name] = Left(noted, events - noted)
    return left, {grave.seq for grave in journal.dead()}


class Crash:
    """A program that crashes once, and what is true of its books.

    Args:
        handled: Deliveries after which it does.
        turns: Of the loop, from then on.
        events: Published before, and afterwards.
        concurrency: Of its durable subscriptions.
    """

    def __init__(self, handled: int, turns: int, events: int, concurrency: int) -> None:
        self.handled = handled
        self.turns = turns
        self.events = events
        self.concurrency = concurrency

    def bus(self, journal: MemoryJournal) -> EventBus:
        """Return a bus with a subscription that works and one that fails now and then."""
        bus = EventBus("crash", journal=journal)

        async def work(data: int) -> None:
            await asyncio.sleep(-data % 4 * 0.01)  # so that some are settled ahead of others
            self.handled -= 1

        async def fail(data: int) -> None:
            await work(data)
            if data % 3 == 0:
                raise ValueError(data)

        for name, handler in zip(DURABLES, (work, fail), strict=True):
            bus.subscribe(
                "a:*", handler, name=name, durable=name, mailbox=3, concurrency=self.concurrency,
                retry=RetryPolicy.none(),
            )  # fmt: skip
        return bus

    async def publish(self, bus: EventBus) -> None:
        """Publish, each event after the commit of the one before."""
        for number in range(self.events):
            await bus.publish("a:b", number)

    async def main(self) -> None:
        """Crash, start again, and compare the books at every turn."""
        journal = MemoryJournal()
        first = self.bus(journal)
        await first.start()
        publisher = asyncio.ensure_future(self.publish(first))
        while self.handled > 0 and not publisher.done():
            await asyncio.sleep(0.0005)
        for _ in range(self.turns):
            await asyncio.sleep(0)
        image, audit = crashed(journal), first.audit()
        publisher.cancel()
        await first.close(0.0)

        left, letters = left_by(image)
        assert audit.balanced, str(audit)
        for name in DURABLES:
            terms = audit.subscriptions[name]
            assert len(left[name].noted) <= terms.acked + terms.dead
        failed = {seq for seq in left["fails"].noted if (seq - 1) % 3 == 0}
        assert failed <= letters  # no delivery is noted as settled whose letter could be lost
        async with self.bus(image) as second:
            await self.compare(second, left)

    async def compare(self, bus: EventBus, left: dict[str, Left]) -> None:
        """Look at the books of the second life."""
        for _ in range(20):
            await asyncio.sleep(0.0005)
            for name in DURABLES:
                assert self.known(bus, name) in (0, len(left[name].open))  # 0 until it has joined
        for number in range(self.events):
            await bus.publish("a:b", number)
            for name in DURABLES:
                assert self.known(bus, name) == len(left[name].open) + number + 1
        await bus.settle()
        registry = CollectorRegistry()
        metrics.register(bus, registry)
        samples = scrape(registry)
        for name in DURABLES:
            terms, of = bus.audit().subscriptions[name], {"bus": "crash", "subscription": name}
            assert terms.routed == terms.acked + terms.dead == len(left[name].open) + self.events
            assert at(samples, "actorbus_routed_deliveries_total", **of) == terms.routed
            assert at(samples, "actorbus_journal_lag", **of) == 0
            assert at(samples, "actorbus_journal_oldest_unacked_seconds", **of) == 0
        assert at(samples, "actorbus_journal_lag", bus="crash", subscription="_ended") == 0

    def known(self, bus: EventBus, name: str) -> int:
        """Return what is in the ledger of a durable subscription or behind its window."""
        assert bus.audit().balanced, str(bus.audit())
        routed, (lag, _) = bus.audit().subscriptions[name].routed, bus.reading().durables[name]
        return routed + lag


@given(
    handled=st.integers(0, 30), turns=st.integers(0, 20), events=st.integers(1, 15),
    concurrency=st.integers(1, 3), seed=st.integers(0, 1_000_000),
)  # fmt: skip
@example(handled=8, turns=5, events=10, concurrency=1, seed=3)  # settled, and others in hand
@example(handled=19, turns=8, events=12, concurrency=3, seed=63)  # settled ahead of one in hand
@example(handled=11, turns=5, events=8, concurrency=2, seed=31)
def test_the_books_balance_across_a_crash(
    handled: int, turns: int, events: int, concurrency: int, seed: int
) -> None:
    """What the journal does not know to be settled is in the new ledger, or lag; nothing else."""
    simulate(Crash(handled, turns, events, concurrency).main, seed=seed)
