"""Programs on a journal that meet one fault each; every function runs in a process of its own.

What they note is in files beside the journal, as in `tests.e2e.lives`.
"""

from __future__ import annotations

import asyncio
import gc
import os
from pathlib import Path

from actorbus import BusNotRunningError, Event, EventBus, RetryPolicy
from tests.e2e.lives import Notes

EVENTS = 30
DEADLY = 7
ATTEMPTS = 3


def bus_on(directory: Path) -> EventBus:
    """Return a bus whose journal is in a directory."""
    return EventBus("faults", journal=f"sqlite:///{directory}/events.db")


def die_of(directory: Path, life: int, concurrency: int) -> None:
    """Handle events of which one ends the process at once; the first life publishes them."""
    asyncio.run(_die_of(directory, life, concurrency))


async def _die_of(directory: Path, life: int, concurrency: int) -> None:
    notes, bus = Notes(directory), bus_on(directory)

    async def handle(event: Event) -> None:
        notes.write("begun", f"{event.data}")
        if event.data == DEADLY:
            os._exit(9)
        await asyncio.sleep(0)
        notes.write("done", f"{event.data}")

    async def beside(event: Event) -> None:
        notes.write("beside", f"{event.data}")

    tries = RetryPolicy(max_attempts=ATTEMPTS)
    bus.subscribe("a:*", handle, durable="d", mailbox=10, concurrency=concurrency, retry=tries)
    bus.subscribe("a:*", beside, durable="beside", mailbox=10)
    async with bus:
        if life == 0:
            await asyncio.gather(*(bus.publish("a:b", number) for number in range(EVENTS)))
        await bus.settle()


def fork_and_go_on(directory: Path) -> None:
    """Publish, let a forked child try to, and publish again."""
    asyncio.run(_fork_and_go_on(directory))


async def _fork_and_go_on(directory: Path) -> None:
    notes, bus = Notes(directory), bus_on(directory)

    async def handle(event: Event) -> None:
        notes.write("done", f"{event.data}")

    bus.subscribe("a:*", handle, durable="d")
    async with bus:
        for number in range(10):
            await bus.publish("a:b", number)
        child = os.fork()
        if not child:
            os._exit(_try(bus))
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        for number in range(10, 20):
            await bus.publish("a:b", number)
        await bus.settle()


def _try(bus: EventBus) -> int:
    """Publish in a forked child; return 0 if the call itself says that this cannot be, and why."""
    try:
        bus.publish("a:b", -1)
    except BusNotRunningError as error:
        gc.collect()
        return 0 if error.forked else 2
    return 1
