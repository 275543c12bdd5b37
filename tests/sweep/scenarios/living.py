"""Coming and going: everything at once, guests, drains, and operations cut at any await."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from actorbus import Actor, BusClosedError, Event, EventBus, Receipt, RetryPolicy
from actorbus.testing import cancel_at
from tests.sweep.books import Books, books, cut, failing, fault, faults, pause


async def everything() -> None:
    """Publishers, a slow, a flaky, a keyed and a threaded subscriber, one that leaves and comes."""
    begun: Counter[object] = Counter()

    async def flaky(event: Event) -> None:
        begun[event.data] += 1
        await asyncio.sleep(0)
        if begun[event.data] <= event.data % 3:
            raise fault("handler errors", ConnectionError())

    async def publish(case: Books, topic: str) -> None:
        for _ in range(6):
            await case.publish(topic, key=random.randrange(2))
            await asyncio.sleep(0)

    async def come_and_go(case: Books) -> None:
        for number in range(5):
            sub = case.subscribe("job:*", f"guest{number}")
            await asyncio.sleep(0)
            case.leave(sub.name)
            sub.unsubscribe()

    async with books() as case, asyncio.TaskGroup() as group:
        case.subscribe("job:*", "slow", mailbox=2, put_timeout=None)
        case.subscribe("job:*", "flaky", flaky, concurrency=2, retry=RetryPolicy(base=0.01))
        case.subscribe("job:*", "keyed", concurrency=3, key="key")
        case.subscribe_thread("job:*", "thread", lambda _: None)
        for topic in ("job:0", "job:1"):
            group.create_task(publish(case, topic))
        group.create_task(come_and_go(case))
    assert not case.bus.dead_letters.list(), case.bus.dead_letters.list()


async def stops() -> None:
    """Actors are stopped with mail in their mailboxes, and others spawned under their names."""
    async with books() as case:
        case.subscribe("job", "witness")
        for generation in range(3):
            name = f"actor{generation}"
            ref = case.spawn("job", name, failing(0.1), retry=RetryPolicy.none(), mailbox=3)
            for _ in range(5):
                await case.publish("job")
                await pause()
            case.leave(name)
            await asyncio.gather(ref.stop(), cut(ref.stop(), 3))
        await case.bus.settle()


async def drains() -> None:
    """The bus drains in the midst of work, some of which hangs; then it starts again."""

    async def hang(_: Event) -> None:
        await pause()
        if random.random() < 0.1:
            faults["hangs"] += 1
            await asyncio.sleep(3600.0)

    async with books() as case:
        case.subscribe("job", "slow", hang, mailbox=2)
        case.subscribe("job", "retried", failing(0.3), retry=RetryPolicy(base=20.0))
        case.spawn("job", "actor", concurrency=2)
        for timeout in (random.choice([0.0, 5.0]), 25.0):
            await case.bus.start()
            publishing = asyncio.create_task(_until_closed(case))
            await pause()
            await asyncio.gather(case.bus.close(timeout), cut(case.bus.drain(timeout), 3))
            await publishing


async def _until_closed(case: Books) -> None:
    with suppress(BusClosedError):
        for _ in range(8):
            await case.publish("job")
            await pause()


# -- any await cancelled ---------------------------------------------------------------------------


class Shop:
    """A bus whose slow subscriber has room for two, and two in line; and what was asked of it."""

    def __init__(self) -> None:
        self.bus = EventBus("shop")
        self.published = 0
        self.handled: Counter[int] = Counter()
        self.bus.subscribe("order", self.on_order, name="orders", mailbox=2, put_timeout=None)
        self.bus.subscribe("price", self.on_price, name="prices")

    async def on_order(self, number: int) -> None:
        await asyncio.sleep(0.01)
        self.handled[number] += 1

    async def on_price(self, number: int) -> int:
        await asyncio.sleep(0)
        self.handled[number] += 1
        return 2 * number

    def publish(self) -> Receipt:
        self.published += 1
        return self.bus.publish("order", self.published)

    async def ask(self) -> None:
        self.published = number = self.published + 1
        assert await self.bus.ask("price", number) == 2 * number


async def publishing(shop: Shop) -> None:
    """Wait for room, then for the outcome."""
    for _ in range(6):
        await shop.publish()
    assert (await shop.publish().settled()).ok


async def subscribing(shop: Shop) -> None:
    """Come with a replay and hooks, work, and go."""

    class Clerk(Actor):
        patterns = ("order",)

        async def on_start(self) -> None:
            await asyncio.sleep(0.01)

        async def receive(self, event: Event) -> None:
            await asyncio.sleep(0)

    clerk = shop.bus.spawn(Clerk, replay=2)
    await shop.bus.start()
    await shop.publish().settled()
    await clerk.stop()


async def unsubscribing(shop: Shop) -> None:
    """Go with mail in the mailbox and its line, and wait for its end."""

    async def other(data: int) -> None:
        await asyncio.sleep(0.01)

    sub = shop.bus.subscribe("order", other, mailbox=2, put_timeout=None)
    for _ in range(3):
        shop.publish()
    sub.unsubscribe()
    await sub.ended()


async def asking(shop: Shop) -> None:
    """Ask, one after the other and together."""
    await shop.ask()
    await asyncio.gather(shop.ask(), shop.ask())


async def draining(shop: Shop) -> None:
    """Drain with work left."""
    for _ in range(3):
        shop.publish()
    await shop.bus.drain()


async def closing(shop: Shop) -> None:
    """Close with work left."""
    for _ in range(3):
        shop.publish()
    await shop.bus.close()


Operation = Callable[[Shop], Coroutine[Any, Any, None]]

OPERATIONS: tuple[Operation, ...] = (
    publishing, subscribing, unsubscribing, asking, draining, closing,
)  # fmt: skip


async def cut_at(operation: Operation, k: int) -> bool:
    """Cancel an operation at its k-th await; then the books must balance, and nothing be lost."""
    shop = Shop()
    async with shop.bus:
        await shop.publish()
        task = asyncio.create_task(operation(shop), name="operation")
        about = cancel_at(k, task)
        await asyncio.wait({task})
        assert shop.bus.audit().balanced, str(shop.bus.audit())
        if about.struck:
            assert task.cancelled()
        else:
            task.result()
    audit = shop.bus.audit()
    assert audit.balanced, str(audit)
    assert audit.totals.pending == audit.totals.dead == 0, shop.bus.dead_letters.list()
    assert shop.handled == Counter(range(1, shop.published + 1))
    assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    return about.struck


async def operations_cut() -> None:
    """An operation, of publish, subscribe, ask, drain and close, is cancelled at any await."""
    struck = await cut_at(random.choice(OPERATIONS), random.randint(1, 8))
    faults["cancellations"] += struck
