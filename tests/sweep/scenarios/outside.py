"""What reaches out of the loop or waits for an answer: threads, asks, streams, waits."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress

from actorbus import AskFailedError, AskTimeoutError, Event, RetryPolicy
from tests.sweep.books import Books, books, cut, failing, fault, faults, pause

RETRY = RetryPolicy(max_attempts=2, base=0.1)


async def threads() -> None:
    """Sync handlers in fewer threads than they want, failing, retried, several at once."""

    def work(_: Event) -> None:
        time.sleep(random.choice([0.0, 0.01]))
        if random.random() < 0.2:
            raise fault("handler errors", OSError())

    async with books(threads=2) as case:
        case.subscribe_thread("job", "one", work, retry=RETRY, mailbox=2)
        case.subscribe_thread("job", "several", work, retry=RETRY, concurrency=2)
        case.subscribe_thread("job", "inline", lambda _: None, inline=True)
        for _ in range(8):
            await case.publish("job")
            await pause()
        await case.bus.settle()


async def thread_abandoned() -> None:
    """A close does not wait for a thread that does not end; it says whose it was."""

    def hang(_: Event) -> None:
        time.sleep(50.0)  # of virtual time; its end is known some steps later

    async with books() as case:
        hung = case.bus.subscribe("hang", hang, name="hung")
        case.subscribe("job", "quick")
        case.bus.publish("hang")
        for _ in range(5):
            case.publish("job")
        await pause()
        report = await case.bus.close(random.choice([0.0, 0.0, 0.5, 25.0]))
        assert set(report.abandoned) <= {hung.name}, report
        faults["abandoned threads"] += len(report.abandoned)
        await asyncio.sleep(60.0)


async def foreign() -> None:
    """Three threads publish while the loop does; the bus is closed in the midst of it."""
    async with books() as case:
        case.subscribe("job:*", "slow", mailbox=3)
        case.subscribe("job:1", "quick")

        def publish() -> None:
            for _ in range(3):
                case.publish("job:1")

        jobs = [asyncio.create_task(asyncio.to_thread(publish)) for _ in range(3)]
        for _ in range(4):
            await case.publish("job:2")
            await pause()
        await asyncio.gather(*jobs)


async def asks() -> None:
    """Asks that are answered, that fail, that come too late and that are cancelled."""

    async def reply(event: Event) -> int:
        await pause()
        return int(event.data)

    async def question(case: Books, topic: str, timeout: float | None) -> None:
        with suppress(AskFailedError, AskTimeoutError):
            assert await case.ask(topic, timeout) in case.sent["reply"]

    async with books() as case:
        case.subscribe("ask:*", "reply", reply, concurrency=2)
        case.subscribe("ask:ill", "ill", failing(0.7), retry=RetryPolicy.none())
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(question(case, "ask:well", None))
                group.create_task(question(case, "ask:ill", 0.02))
                group.create_task(cut(question(case, "ask:well", 1.0), 2))
        await case.bus.settle()


async def streams() -> None:
    """A stream is read more slowly than it is fed: what was neither read nor dropped is missing."""
    async with books() as case:
        case.subscribe("job:*", "witness")
        feeding = asyncio.create_task(_feed(case))
        async with case.bus.events("job:*", mailbox=3, replay=2) as events:
            read: list[int] = []
            waiting = asyncio.create_task(case.bus.wait_for("job:2"))
            async for event in events:
                read.append(event.data)
                await pause()
                if event.topic == "job:last":
                    break
            assert read == sorted(set(read)), read
            assert len(read) + events.dropped >= len(case.sent["witness"]) - 3
        await feeding
        while not waiting.done():  # it may have begun to wait when all was over
            case.publish("job:2")
            await pause()
        assert waiting.result().topic == "job:2"


async def _feed(case: Books) -> None:
    for number in range(14):
        case.publish(f"job:{number % 3}")
        await pause()
    case.publish("job:last")
