"""The bus under the simulation: any order of its tasks, any await cancelled, nothing lost."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import pytest

from actorbus import Actor, DeadlockError, Event, EventBus, RestartPolicy, RetryPolicy
from actorbus.testing import simulate, sweep
from tests.sweep.scenarios.living import OPERATIONS, Operation, cut_at, everything

Scenario = Callable[[], Coroutine[Any, Any, Any]]


# -- the order of a bus comes from its program, not from where its objects lie ---------------------


async def retries_cut_short_by_a_drain() -> list[int]:
    """Thirty actors wait for their next attempt; return in which order a drain lets them."""
    order: list[int] = []
    bus = EventBus("drain")

    def failing(number: int) -> Callable[[Any], Coroutine[Any, Any, None]]:
        async def fail(data: Any) -> None:
            order.append(number)
            raise ValueError(number)

        return fail

    for number in range(30):
        retry = RetryPolicy(max_attempts=2, base=20.0, jitter="none")
        bus.subscribe("a:b", failing(number), name=f"actor{number}", retry=retry)
    async with bus:
        bus.publish("a:b")
        await asyncio.sleep(1.0)
        order.clear()
    return order


async def a_choice_of_cycles() -> list[tuple[str, ...]]:
    """Six actors wait for one that is about to wait for them; return the cycles refused."""
    refused: list[tuple[str, ...]] = []
    bus = EventBus("cycles")

    @bus.subscribe("hub", name="hub")
    async def hub(data: Any) -> None:
        if data != "first":
            return
        receipt = bus.publish("spoke")
        await asyncio.sleep(1.0)
        try:
            await receipt.settled()
        except DeadlockError as error:
            refused.append(error.cycle)

    async def spoke(data: Any) -> None:
        await bus.publish("hub", "again").settled()

    for number in range(6):
        bus.subscribe("spoke", spoke, name=f"spoke{number}")
    async with bus:
        await bus.publish("hub", "first").settled()
    return refused


@pytest.mark.parametrize("scenario", [retries_cut_short_by_a_drain, a_choice_of_cycles])
def test_the_order_does_not_depend_on_where_objects_lie(scenario: Scenario) -> None:
    """Runs of one seed are equal whatever the memory looks like."""
    kept: list[object] = []
    seen = set()
    for clutter in (0, 1, 37, 1000, 4321):
        run = simulate(scenario, policy="fifo")
        seen.add((run.digest, tuple(run.result)))
        kept += [object() for _ in range(clutter)]

    assert len(seen) == 1


async def cut_off_before_a_thread_was_free() -> int:
    """A close cuts off what waits for a thread; return how many letters a handler finds."""
    bus, seen = EventBus("cut"), [0]

    @bus.subscribe("a:b", name="thread", concurrency=2)
    def thread(data: Any) -> None:
        seen.append(len(bus.dead_letters.list(subscription="thread")))

    @bus.subscribe("a:b", name="hangs")
    async def hangs(data: Any) -> None:
        await asyncio.sleep(1000)

    @bus.subscribe("a:c", name="blocks", inline=True)
    def blocks(data: Any) -> None:
        time.sleep(2)  # meanwhile both the deadline passes and the thread gets free

    async with bus:
        bus.publish("a:b")
        await asyncio.sleep(0)
        closing = asyncio.create_task(bus.close(0.0001))
        bus.publish("a:c", cause=Event("a:b", None, 0.0))
        await closing
    return max(seen)


def test_a_thread_begins_nothing_that_is_dead() -> None:
    """What a close has cut off is not handled afterwards, whatever thread gets free then."""
    for seed in range(200):
        assert simulate(cut_off_before_a_thread_was_free, seed=seed).result == 0


# -- any order -------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["random", "pct"])
def test_in_any_order_everything_is_handled_once(policy: str) -> None:
    """No order of tasks loses or doubles a delivery, or leaves one behind."""
    counts = sweep(everything, seeds=range(150), policy=policy)

    assert counts.orders > 100
    assert sweep(everything, seeds=[0], policy="fifo").runs == 1


# -- any await cancelled ---------------------------------------------------------------------------


@pytest.mark.parametrize("operation", OPERATIONS)
def test_cut_at_any_await_nothing_is_lost_or_doubled(operation: Operation) -> None:
    """Cancelling an operation, wherever it waits and whatever the order, leaves the bus whole."""
    for seed in range(40):
        cuts = 0
        while simulate(partial(cut_at, operation, cuts + 1), seed=seed).result:
            cuts += 1
        assert cuts


# -- at every instant ------------------------------------------------------------------------------


async def watched(subscribe: Callable[[EventBus], object], every: float) -> None:
    """Publish to subscribers, and look at the books again and again."""
    bus = EventBus("watched")
    subscribe(bus)

    async def look() -> None:
        while True:
            assert bus.audit().balanced, str(bus.audit())
            await asyncio.sleep(every)

    async with bus:
        looking = asyncio.create_task(look())
        for number in range(12):
            bus.publish("job", number)
            await asyncio.sleep(random.choice([0.0, 0.01]))  # noqa: S311 seeded
        await bus.settle()
        assert not looking.done(), looking.exception()
        looking.cancel()


def test_the_books_of_parallel_threads_balance_at_every_instant() -> None:
    """A worker that has handled several events in a row has booked all but the last."""

    def handle(data: int) -> None: ...

    def subscribe(bus: EventBus) -> None:
        bus.subscribe("job", handle, concurrency=2)

    sweep(partial(watched, subscribe, 0.0005), seeds=range(100), policy="fifo")


def test_restarts_that_overtake_one_another_leave_every_actor_at_work() -> None:
    """None is left running without a worker, and no worker out of the books."""

    class Frail(Actor):
        patterns = ("job",)

        async def on_start(self) -> None:
            await asyncio.sleep(random.choice([0.0, 0.01]))  # noqa: S311 seeded

        async def receive(self, event: Event) -> None:
            await asyncio.sleep(random.choice([0.0, 0.0, 0.01]))  # noqa: S311 seeded
            if random.random() < 0.3:  # noqa: S311 seeded
                raise ValueError

    def subscribe(bus: EventBus) -> None:
        together = bus.supervisor("together", strategy="one_for_all", max_restarts=1000)
        options: dict[str, Any] = {
            "concurrency": 2,
            "retry": RetryPolicy.none(),
            "restart": RestartPolicy(max_restarts=1000),
        }
        for number in range(3):
            together.spawn(Frail, name=f"frail{number}", **options)

    sweep(partial(watched, subscribe, 0.01), seeds=range(100), max_steps=100_000)


async def stopped_as_it_fails() -> None:
    """Stop an actor that a failure is about to restart."""

    class Frail(Actor):
        async def receive(self, event: Event) -> None:
            raise ValueError

    async with EventBus("frail") as bus:
        ref = bus.spawn(Frail, patterns="job", retry=RetryPolicy.none())
        await bus.start()
        bus.publish("job")
        await asyncio.sleep(0)
        await ref.stop()


@pytest.mark.parametrize("policy", ["random", "pct"])
def test_a_stop_in_the_midst_of_a_restart_comes_to_its_end(policy: str) -> None:
    """Whoever strikes a worker off the list tells the stop that waits for the last one."""
    sweep(stopped_as_it_fails, seeds=range(300), policy=policy)


async def suspended_twice_at_once() -> list[str]:
    """Two workers give their actor up in one moment; return the timers left after the close."""
    async with EventBus("twice") as bus:

        async def fail(data: Any) -> None:
            await asyncio.sleep(1)
            raise ValueError

        bus.subscribe(
            "a:b", fail, name="s", concurrency=2, retry=RetryPolicy.none(),
            on_failure="restart", restart=RestartPolicy(max_restarts=0),
        )  # fmt: skip
        bus.publish("a:b")
        bus.publish("a:b")
        await asyncio.sleep(10)
    loop: Any = asyncio.get_running_loop()
    return [repr(timer) for timer in loop._scheduled if not timer.cancelled()]


def test_an_actor_given_up_twice_leaves_no_timer() -> None:
    """The clock of its next probe is one, whoever has set it."""
    for seed in range(20):
        assert simulate(suspended_twice_at_once, seed=seed).result == []
