"""Who publishes, asks, comes and goes, replays, scrapes and gives up: all at once, until ended.

Nobody who must be served has a deadline: on a machine that was asleep every deadline is over.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

from prometheus_client import CollectorRegistry, generate_latest

from actorbus import (
    Actor,
    AskFailedError,
    AskTimeoutError,
    Event,
    NoResponderError,
    metrics,
)
from tests.soak.load import Load, awaited

TICK = 0.01  # seconds between two pulses
MIX = {"fast": 80, "flaky": 8, "thread": 6, "crash": 4, "frail": 2}
STRATEGIES = ("one_for_one", "one_for_all", "rest_for_one")


async def pulse(load: Load, rate: int) -> None:
    """Publish at most so many events a second of the usual mix; wait for room after each pulse."""
    kinds, weights = list(MIX), list(MIX.values())
    for number in itertools.count():
        each = max(1, rate // 100)
        for kind in load.chance.choices(kinds, weights, k=each):
            lot = load.chance.randrange(20)
            last = STRATEGIES[lot % 3] if kind == "crash" else str(lot)
            receipt = load.publish(f"{kind}:{last}", number, key=lot)
        await receipt
        await asyncio.sleep(TICK)


async def burst(load: Load) -> None:
    """Publish more at once than the slow ones have room for, then wait for room."""
    for number in range(60):
        receipt = load.publish(f"slow:{number % 10}", number, key=number % 7)
    await awaited(receipt)


async def polite(load: Load) -> None:
    """Publish at the pace of the subscriber."""
    for number in range(20):
        await load.publish("polite:request", number)


async def ask(load: Load) -> None:
    """Ask: for an answer, where there is none, and for too short a time."""
    for number in range(10):
        if await load.ask("ask:double", number, None) != 2 * number:
            raise AssertionError("the answer is another question's")
    with suppress(AskFailedError):
        await load.ask("ask:refused", 0, None)
    with suppress(AskTimeoutError):
        await load.ask("ask:late", 0, 0.05)
    load.done["asks"] += 12


async def give_up(load: Load) -> None:
    """Wait for what was published, and be cancelled meanwhile."""
    receipts = [load.publish("polite:late", number) for number in range(4)]
    tasks = [asyncio.create_task(each.settled()) for each in receipts]
    await asyncio.sleep(0.005 * load.chance.random())
    for task in tasks:
        task.cancel()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    load.done["waits cancelled"] += sum(isinstance(e, asyncio.CancelledError) for e in ended)


async def ring(load: Load) -> None:
    """Send more around the ring than its mailboxes hold."""
    for number in range(3):
        load.publish(f"ring:{number}", 10)
    load.publish("stubborn") if load.chance.random() < 0.05 else None


async def come_and_go(load: Load) -> None:
    """Subscribe, get every event until unsubscribing and none after, and end."""
    got: list[int] = []

    async def handle(event: Event) -> None:
        await asyncio.sleep(0)
        got.append(event.data)

    topic = f"guest:{load.chance.randrange(500)}"
    sub = load.bus.subscribe(topic, handle, name=f"guest{load.done['subscriptions ended']}")
    for number in range(5):
        load.publish(topic, number)
    sub.unsubscribe()
    load.publish(topic, 5)
    await sub.ended()
    if got != [*range(5)]:
        raise AssertionError(f"{got} of {topic!r}, not 0 to 4")
    load.done["subscriptions ended"] += 1


async def hire_and_fire(load: Load) -> None:
    """Spawn an actor, tell it and ask it, stop it with mail in its mailbox."""

    class Temporary(Actor):
        async def receive(self, event: Event) -> object:
            await asyncio.sleep(0.001)
            return event.data

    ref = load.bus.spawn(Temporary, name=f"temporary{load.done['actors stopped']}")
    if await ref.ask("who", timeout=None) != "who":
        raise AssertionError("another actor's answer")
    for number in range(3):
        ref.tell(number)
    await ref.stop()
    with suppress(NoResponderError):
        await ref.ask("who")
        raise AssertionError("an answer of nobody")
    load.done["actors stopped"] += 1


async def stream(load: Load) -> None:
    """Read a few events of a stream, and wait for one more."""
    async with load.bus.events("fast:*", mailbox=20, replay=5) as events:
        read = 0
        async for _ in events:
            await asyncio.sleep(0)
            read += 1
            if read == 100:
                break
    await load.bus.wait_for("fast:*", where=lambda event: event.key == 3, timeout=None)
    load.done["streams ended"] += 1


async def look_through_letters(load: Load) -> None:
    """Replay what may go better now; discard the rest."""
    letters = load.bus.dead_letters
    for name in ("retried", "thread_flaky", "one_for_all0"):
        load.done["letters replayed"] += await letters.replay(subscription=name)
    await letters.discard()


async def look(load: Load, registry: CollectorRegistry) -> None:
    """Scrape the metrics, and ask for all else there is to see."""
    await asyncio.to_thread(generate_latest, registry)
    load.bus.get_stats()
    load.bus.get_history("**", 20)
    load.bus.explain("fast:1")
    load.done["scrapes"] += 1


async def again(every: float, chore: Callable[[], Awaitable[object]]) -> None:
    """Do a chore, again and again."""
    while True:
        await chore()
        await asyncio.sleep(every)


async def from_threads(load: Load) -> None:
    """Publish from two threads, which wait for room now and then, until cancelled."""
    over = threading.Event()

    def publish() -> None:
        for number in itertools.count():
            receipt = load.publish(f"thread:{number % 5}", number)
            if number % 10 == 0:
                receipt.wait()
            if over.wait(0.02):
                return

    threads = [threading.Thread(target=publish, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        await asyncio.Event().wait()
    finally:
        over.set()
        while any(thread.is_alive() for thread in threads):
            with suppress(asyncio.CancelledError):  # they wait for room: let the loop make it
                await asyncio.sleep(TICK)


async def all_of(load: Load, rate: int) -> None:
    """Do everything at once, until cancelled; the first that fails ends it."""
    registry = CollectorRegistry()
    metrics.register(load.bus, registry)
    chores: dict[Callable[[Load], Awaitable[None]], float] = {
        burst: 0.5, polite: 0.05, ask: 0.1, give_up: 0.05, ring: 0.2, come_and_go: 0.02,
        hire_and_fire: 0.1, stream: 0.2, look_through_letters: 1.0,
    }  # fmt: skip
    async with asyncio.TaskGroup() as group:
        group.create_task(pulse(load, rate))
        group.create_task(from_threads(load))
        group.create_task(again(5.0, partial(look, load, registry)))
        for chore, every in chores.items():
            group.create_task(again(every, partial(chore, load)))
