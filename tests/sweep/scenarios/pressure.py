"""Full mailboxes: waiting for room, every overflow policy, keys, groups, rings of publishers."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress

from actorbus import DeadlockError, Event, MailboxFullError
from tests.sweep.books import Books, books, cut, fault, faults, pause


async def publishing(case: Books, topic: str, events: int) -> None:
    """Publish and wait for room each time."""
    for _ in range(events):
        await case.publish(topic)
        await pause()


async def backpressure() -> None:
    """Three publishers wait for a slow subscriber; one of them is cancelled."""
    async with books() as case, asyncio.TaskGroup() as group:
        case.subscribe("job:*", "slow", mailbox=2, put_timeout=None)
        case.subscribe("job:*", "impatient", mailbox=2, put_timeout=0.3)
        case.subscribe("job:1", "quick")
        group.create_task(publishing(case, "job:1", 7))
        group.create_task(publishing(case, "job:2", 6))
        group.create_task(cut(publishing(case, "job:3", 6)))


async def overflow() -> None:
    """More is published than there is room for, under each policy; some of it awaited."""
    async with books() as case:
        case.unordered.add("latest")
        for policy in ("drop_new", "drop_old", "latest", "fail"):
            case.subscribe("job", policy, mailbox=random.randint(1, 3), overflow=policy)
        case.subscribe("job", "block", mailbox=2, put_timeout=random.choice([None, 0.0, 0.02]))
        for number in range(12):
            receipt = case.publish("job", key=number % 3)
            if random.random() < 0.4:
                with suppress(MailboxFullError):
                    await receipt


async def keyed() -> None:
    """Three workers and two keys: in order within a key, never two of one at once."""
    busy: set[object] = set()
    order: dict[object, list[int]] = {0: [], 1: []}

    async def work(event: Event) -> None:
        assert event.key not in busy
        busy.add(event.key)
        await pause()
        busy.remove(event.key)
        order[event.key].append(event.data)

    async with books() as case:
        case.subscribe("job:*", "keyed", work, concurrency=3, key="key", mailbox=4)
        case.subscribe("job:*", "free", concurrency=2)
        for _ in range(16):
            await case.publish("job:1", key=random.randrange(2))
            await pause()
    assert all(numbers == sorted(numbers) for numbers in order.values()), order


async def groups() -> None:
    """Each event goes to one member, while members come and go."""
    async with books() as case:
        case.subscribe("job", "steady", group="team", mailbox=2)
        case.subscribe("job", "beside")
        for number in range(4):
            guest = case.subscribe("job", f"guest{number}", group="team", mailbox=2)
            for _ in range(4):
                await case.publish("job")
            guest.unsubscribe()
            case.leave(f"guest{number}")


async def ring() -> None:
    """Three publish to one another and wait for room that they themselves would have to make."""
    async with books() as case:

        async def onward(event: Event) -> None:
            await pause()
            if len(case.sent["ring0"]) < 12:
                topic = f"ring:{(int(event.topic[-1]) + random.randint(0, 2)) % 3}"
                with suppress(DeadlockError):
                    await _counted(case, topic)

        for number in range(3):
            case.subscribe(f"ring:{number}", f"ring{number}", onward, mailbox=1, put_timeout=None)
        for number in range(3):
            case.publish(f"ring:{number}")
            case.publish(f"ring:{number}")
        await case.bus.settle()


async def _counted(case: Books, topic: str) -> None:
    try:
        await case.publish(topic)
    except DeadlockError as error:
        raise fault("deadlocks", error) from None


async def hops() -> None:
    """A chain of events without an end ends as dead letters, one for each who wants it."""
    async with books(max_hops=8) as case:

        async def again(event: Event) -> None:
            await pause()
            case.publish("echo")

        case.subscribe("echo", "echo", again)
        case.subscribe("echo", "witness")
        case.publish("echo")
        await case.bus.settle()
        faults["endless chains"] += 1
