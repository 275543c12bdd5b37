"""Waiting that could never end is refused: cycles of full mailboxes, asks and settleds.

The last test is the proof: random topologies run with the guard and without it, and the guard
refuses something in exactly those that hang without it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from actorbus import (
    Actor,
    ActorRef,
    AskFailedError,
    DeadlockError,
    DeadReason,
    Event,
    EventBus,
    Receipt,
    RestartPolicy,
    RetryPolicy,
)
from tests.conftest import heed_threads
from tests.virtual import StuckLoopError, VirtualLoop

Maker = Callable[..., EventBus]
ONCE: dict[str, Any] = {"retry": RetryPolicy.none(), "put_timeout": None}


def dead(bus: EventBus, reason: str = "deadlock") -> list[tuple[str, Any]]:
    """Return subscription and payload of the dead letters with a reason."""
    return [(x.subscription, x.event.data) for x in bus.dead_letters.list(reason=reason)]


async def turns(count: int = 5) -> None:
    """Let the loop turn."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_awaiting_room_in_ones_own_full_mailbox(bus: EventBus) -> None:
    """Refused at once, naming the actor; the delivery that would close the cycle is dead."""
    errors: list[DeadlockError] = []

    async def handler(event: Event) -> None:
        if event.data == 0:
            for number in (10, 11, 12):
                try:
                    await bus.publish("t", number)
                except DeadlockError as error:
                    errors.append(error)

    bus.subscribe("t", handler, name="s", mailbox=2, **ONCE)
    bus.publish("t", 0)
    await bus.settle(timeout=1)
    assert asyncio.get_running_loop().time() == 0.0
    assert [error.cycle for error in errors] == [("s",)]
    assert "s -> s" in str(errors[0])
    assert dead(bus) == [("s", 12)]
    assert bus.audit().totals.acked == 3


async def test_a_probe_that_waits_for_its_own_actor(bus: EventBus) -> None:
    """A suspended actor has one worker, its probe: what that waits for nobody else will do."""
    errors: list[DeadlockError] = []

    async def handler(data: str) -> None:
        if data == "fail":
            raise ValueError
        if data == "probe":
            try:
                await bus.publish("t", "behind").settled()
            except DeadlockError as error:
                errors.append(error)

    bus.subscribe(
        "t", handler, name="s", on_failure="restart", restart=RestartPolicy(max_restarts=0),
        concurrency=2, **ONCE,
    )  # fmt: skip
    for data in ("fail", "probe"):
        bus.publish("t", data)
        await bus.settle()
    await asyncio.sleep(100)
    assert [error.cycle for error in errors] == [("s",)]
    assert dead(bus) == [("s", "behind")]


async def test_not_awaiting_is_no_deadlock(bus: EventBus) -> None:
    """A handler that publishes to itself without awaiting only stands in its own line."""

    async def handler(event: Event) -> None:
        if event.data == 0:
            bus.publish("t", 1)
            bus.publish("t", 2)

    bus.subscribe("t", handler, name="s", mailbox=1, **ONCE)
    bus.publish("t", 0)
    await bus.settle()
    assert bus.audit().totals.acked == 3


@pytest.mark.parametrize("size", [2, 3])
async def test_a_ring_of_full_mailboxes(bus: EventBus, size: int) -> None:
    """Every actor awaits room at the next: the one that closes the ring is refused."""
    errors: dict[str, DeadlockError] = {}
    everybody = asyncio.Event()

    def make(index: int) -> Any:
        async def handler(event: Event) -> None:
            if event.data != "go":
                return
            await everybody.wait()
            try:
                await bus.publish(f"t{(index + 1) % size}", f"from {index}")
            except DeadlockError as error:
                errors[f"s{index}"] = error

        return handler

    for index in range(size):
        bus.subscribe(f"t{index}", make(index), name=f"s{index}", mailbox=1, **ONCE)
    for index in range(size):
        bus.publish(f"t{index}", "go")
    await turns()
    for index in range(size):
        bus.publish(f"t{index}", "fill")
    everybody.set()
    await bus.settle(timeout=1)
    last = f"s{size - 1}"
    assert list(errors) == [last]
    assert set(errors[last].cycle) == {f"s{index}" for index in range(size)}
    assert errors[last].cycle[0] == last
    assert dead(bus) == [("s0", f"from {size - 1}")]
    assert bus.audit().totals.acked == 3 * size - 1


async def test_only_the_closing_delivery_is_dead(bus: EventBus) -> None:
    """Of one publish to several, the others stand, and the error comes when they are admitted."""
    errors: list[float] = []
    loop = asyncio.get_running_loop()

    async def own(event: Event) -> None:
        if event.data == 0:
            bus.publish("t", 1)
            try:
                await bus.publish("t", 2)
            except DeadlockError:
                errors.append(loop.time())

    got: list[int] = []

    async def slow(event: Event) -> None:
        await asyncio.sleep(3)
        got.append(event.data)

    bus.subscribe("t", own, name="own", mailbox=1, **ONCE)
    bus.subscribe("t", slow, name="slow", mailbox=1, **ONCE)
    bus.publish("t", 0)
    await bus.settle()
    assert errors == [3.0]
    assert dead(bus) == [("own", 2)]
    assert got == [0, 1, 2]


@pytest.mark.parametrize("what", ["ask", "settled"])
async def test_a_cycle_through_a_reply_or_a_settlement(bus: EventBus, what: str) -> None:
    """Asking, or waiting for the settlement of, somebody who waits for oneself is refused."""
    errors: list[DeadlockError] = []

    async def first(event: Event) -> None:
        if what == "ask":
            await bus.ask("second", timeout=None)
        else:
            await bus.publish("second").settled()

    async def second(event: Event) -> None:
        try:
            if what == "ask":
                await bus.ask("first", timeout=None)
            else:
                await bus.publish("first").settled()
        except DeadlockError as error:
            errors.append(error)

    bus.subscribe("first", first, name="one", **ONCE)
    bus.subscribe("second", second, name="two", **ONCE)
    receipt = bus.publish("first")
    assert (await receipt.settled(timeout=1)).ok
    assert [set(error.cycle) for error in errors] == [{"one", "two"}]
    assert errors[0].doing == what
    assert [name for name, _ in dead(bus)] == ["one"]


async def test_asking_oneself(bus: EventBus) -> None:
    """An actor that asks itself is refused at once, by reference and by topic."""
    errors: list[DeadlockError] = []

    class Selfish(Actor):
        patterns = ("me",)

        async def receive(self, event: Event) -> None:
            if event.data != "go":
                return
            ref: ActorRef = self.ref
            for asking in (ref.ask(timeout=None), bus.ask("me", timeout=None)):
                try:
                    await asking
                except DeadlockError as error:
                    errors.append(error)

    ref = bus.spawn(Selfish, name="me", **ONCE)
    ref.tell("go")
    await bus.settle(timeout=1)
    assert [error.cycle for error in errors] == [("me",), ("me",)]


async def test_an_ask_with_somebody_free_to_answer_is_no_deadlock(bus: EventBus) -> None:
    """Two could answer and one of them waits for us: the other one's reply ends the wait."""

    async def asking(event: Event) -> object:
        if event.data == "go":
            return await bus.ask("q", timeout=None)
        return None

    async def free(event: Event) -> str:
        await asyncio.sleep(1)
        return "here"

    bus.subscribe(["go", "q"], asking, name="asking", **ONCE)
    bus.subscribe("q", free, name="free", **ONCE)
    assert await bus.ask("go", "go", timeout=None) == "here"
    assert not len(bus.dead_letters)


async def test_a_free_worker_is_no_deadlock(bus: EventBus) -> None:
    """A second worker of the same actor makes room, so the await returns."""

    async def handler(event: Event) -> None:
        if event.data == 0:
            for number in (1, 2, 3, 4):
                await bus.publish("t", number)
        await asyncio.sleep(1)

    bus.subscribe("t", handler, name="s", mailbox=1, concurrency=2, **ONCE)
    bus.publish("t", 0)
    await bus.settle(timeout=100)
    assert not len(bus.dead_letters)
    assert bus.audit().totals.acked == 5


async def test_the_last_free_worker_closes_the_cycle(bus: EventBus) -> None:
    """With both workers awaiting room in their own mailbox the second is refused."""
    both = asyncio.Barrier(2)
    errors: list[DeadlockError] = []

    async def handler(event: Event) -> None:
        if event.data != "go":
            return
        await both.wait()
        try:
            await bus.publish("t", "fill")
            await bus.publish("t", "more")
        except DeadlockError as error:
            errors.append(error)

    bus.subscribe("t", handler, name="s", mailbox=1, concurrency=2, **ONCE)
    bus.publish("t", "go")
    await turns()
    bus.publish("t", "go")
    await bus.settle(timeout=1)
    assert [error.cycle for error in errors] == [("s",)]


async def test_a_free_worker_with_nothing_but_busy_keys_is_no_help(bus: EventBus) -> None:
    """A keyed handler that awaits room held by its own key alone is refused, not left to hang."""
    refused: list[tuple[str, ...]] = []

    async def handler(event: Event) -> None:
        if event.data == "first":
            try:
                for number in range(3):
                    await bus.publish("a", number, key="k")
            except DeadlockError as error:
                refused.append(error.cycle)

    bus.subscribe("a", handler, name="keyed", key="key", concurrency=2, mailbox=1, put_timeout=None)
    bus.publish("a", "first", key="k")
    await bus.settle(1)

    assert refused == [("keyed",)]
    assert [letter.reason for letter in bus.dead_letters] == ["deadlock"]


async def test_a_line_of_ones_own_key_ahead_is_refused(bus: EventBus) -> None:
    """Room behind deliveries of the key in hand never comes, though a free key is queued first."""
    refused: list[tuple[str, ...]] = []
    let_go = asyncio.Event()

    async def handler(event: Event) -> None:
        if event.data == "first":
            await let_go.wait()
            try:
                await bus.publish("a", "inner")
            except DeadlockError as error:
                refused.append(error.cycle)

    bus.subscribe("a", handler, name="keyed", key="key", concurrency=2, mailbox=1, put_timeout=None)
    bus.publish("a", "first", key="k")
    await turns()
    bus.publish("a", "queued without a key")
    bus.publish("a", "in the line", key="k")
    let_go.set()
    await bus.settle(1)

    assert refused == [("keyed",)]


async def test_asking_for_ones_own_key_is_refused(bus: EventBus) -> None:
    """With a free worker, an ask of the key in hand still waits for the handler that asks."""
    seen: list[object] = []

    async def handler(event: Event) -> object:
        if event.data == "outer":
            try:
                seen.append(await bus.ask("a", "inner", key="k"))
            except DeadlockError as error:
                seen.append(error.cycle)
        return event.data

    bus.subscribe("a", handler, name="keyed", key="key", concurrency=3)
    bus.publish("a", "outer", key="k")
    await bus.settle(1)

    assert seen == [("keyed",)]


async def test_a_publisher_outside_every_handler_is_never_refused(bus: EventBus) -> None:
    """Neither an outside task nor one a handler has started is part of a cycle."""
    tasks: list[asyncio.Task[Receipt]] = []

    async def later(number: int) -> Receipt:
        return await bus.publish("t", number)

    async def handler(event: Event) -> None:
        if event.data == 0:
            tasks.extend(asyncio.create_task(later(number)) for number in (1, 2, 3))
            await asyncio.sleep(1)

    bus.subscribe("t", handler, name="s", mailbox=1, **ONCE)
    bus.publish("t", 0)
    await bus.settle()
    await asyncio.gather(*tasks)
    assert not len(bus.dead_letters)


async def test_no_stale_edges(bus: EventBus) -> None:
    """Once a delivery is admitted nobody waits for it, whether or not the waiter has run yet."""
    errors: list[str] = []
    second_may_publish = asyncio.Event()

    async def first(event: Event) -> None:
        if event.data == "go":
            await bus.publish("two", "x")

    async def second(event: Event) -> None:
        if event.data == "start":
            await second_may_publish.wait()
        elif event.data == "fill":
            # Taking this made room: the first one's delivery is in, though it has not run since.
            try:
                await bus.publish("one", "y")
            except DeadlockError as error:
                errors.append(str(error))

    bus.subscribe("one", first, name="one", mailbox=1, **ONCE)
    bus.subscribe("two", second, name="two", mailbox=1, **ONCE)
    bus.publish("two", "start")
    await turns()
    bus.publish("two", "fill")
    bus.publish("one", "go")
    await turns()
    bus.publish("one", "fill")
    second_may_publish.set()
    await bus.settle(timeout=1)
    assert errors == []
    assert not len(bus.dead_letters)


async def test_an_ask_that_has_its_reply_is_no_edge(bus: EventBus) -> None:
    """Nobody is waited for any more once one has replied, whether or not the asker has run yet."""
    errors: list[str] = []

    async def asking(event: Event) -> object:
        return await bus.ask("q", timeout=None) if event.data == "go" else None

    async def replies(event: Event) -> str:
        return "here"

    async def waits(event: Event) -> None:
        try:
            await bus.publish("asking", "x").settled()
        except DeadlockError as error:
            errors.append(str(error))

    bus.subscribe("asking", asking, name="asking", **ONCE)
    bus.subscribe("q", replies, name="replies", **ONCE)
    bus.subscribe("q", waits, name="waits", **ONCE)
    bus.publish("asking", "go")
    await bus.settle(timeout=1)
    assert errors == []
    assert not len(bus.dead_letters)


async def test_the_room_of_a_refused_settled_goes_to_the_line(bus: EventBus) -> None:
    """What is given up in the mailbox lets the next in the line move in."""
    got: list[Any] = []

    async def handler(event: Event) -> None:
        got.append(event.data)
        if event.data == "go":
            queued = bus.publish("t", "queued")
            line = bus.publish("t", "line")
            with pytest.raises(DeadlockError):
                await queued.settled()
            assert line.waiting == 0

    bus.subscribe("t", handler, name="s", mailbox=1, **ONCE)
    bus.publish("t", "go")
    await bus.settle(timeout=1)
    assert got == ["go", "line"]
    assert dead(bus) == [("s", "queued")]


async def test_an_edge_ends_with_a_cancelled_await(bus: EventBus) -> None:
    """A handler that stops awaiting, by a time limit of its own, is free again."""
    errors: list[str] = []

    async def first(event: Event) -> None:
        if event.data == "go":
            try:
                async with asyncio.timeout(1):
                    await bus.publish("two", "x")
            except TimeoutError:
                await asyncio.sleep(10)

    async def second(event: Event) -> None:
        if event.data == "start":
            await asyncio.sleep(5)
            try:
                await bus.publish("one", "y")
            except DeadlockError as error:
                errors.append(str(error))

    bus.subscribe("one", first, name="one", mailbox=1, **ONCE)
    bus.subscribe("two", second, name="two", mailbox=1, **ONCE)
    bus.publish("two", "start")
    await turns()
    bus.publish("two", "fill")
    bus.publish("one", "go")
    await turns()
    bus.publish("one", "fill")
    await bus.settle(timeout=100)
    assert errors == []


async def test_a_sync_handler_that_waits_in_its_thread(make_bus: Maker) -> None:
    """`receipt.wait()` in a handler's own thread is guarded like an await in a task."""
    bus = make_bus()
    heed_threads(bus)
    await bus.start()
    errors: list[DeadlockError] = []

    def handler(data: int) -> None:
        if data == 0:
            for number in (1, 2, 3):
                try:
                    bus.publish("t", number).wait(5)
                except DeadlockError as error:
                    errors.append(error)

    bus.subscribe("t", handler, name="s", mailbox=2, **ONCE)
    bus.publish("t", 0)
    await bus.settle(timeout=30)
    assert [error.cycle for error in errors] == [("s",)]
    assert dead(bus) == [("s", 3)]
    assert (await bus.close()).complete


async def test_a_cycle_of_a_thread_and_a_task(make_bus: Maker) -> None:
    """A sync actor and an async one that wait for each other: the second to wait is refused."""
    bus = make_bus()
    heed_threads(bus)
    await bus.start()
    refused: list[str] = []
    go = threading.Event()
    filled = asyncio.Event()

    def plain(data: str) -> None:
        if data == "go":
            go.wait(10)
            try:
                bus.publish("task", "x").wait(10)
            except DeadlockError:
                refused.append("thread")

    async def coroutine(event: Event) -> None:
        if event.data == "go":
            await filled.wait()
            go.set()
            while bus.audit().subscriptions["task"].waiting == 0:
                await asyncio.sleep(0)
            try:
                await bus.publish("thread", "y")
            except DeadlockError:
                refused.append("task")

    bus.subscribe("thread", plain, name="thread", mailbox=1, **ONCE)
    bus.subscribe("task", coroutine, name="task", mailbox=1, **ONCE)
    bus.publish("thread", "go")
    bus.publish("thread", "fill")
    while bus.audit().subscriptions["thread"].running == 0:
        await asyncio.sleep(0)
    bus.publish("thread", "fill")
    bus.publish("task", "go")
    await turns(2)
    bus.publish("task", "fill")
    filled.set()
    await bus.settle(timeout=30)
    assert len(refused) == 1
    assert len(dead(bus)) == 1
    await bus.close()


async def test_a_deadlock_ask_is_also_an_error_of_its_handler(bus: EventBus) -> None:
    """Uncaught, it fails the delivery in hand like any other error."""

    async def handler(event: Event) -> None:
        await bus.ask("t", timeout=None)

    bus.subscribe("t", handler, name="s", **ONCE)
    with pytest.raises(AskFailedError) as caught:
        await bus.ask("t")
    assert isinstance(caught.value.__cause__, DeadlockError)
    assert sorted(str(x.reason) for x in bus.dead_letters) == ["deadlock", "retries_exhausted"]
    assert DeadReason.DEADLOCK in {x.reason for x in bus.dead_letters}


# -- random topologies ----------------------------------------------------------------------------

# Per actor: (mailbox, workers, what a handler publishes to: a list of actors, awaited by how).
waits = st.sampled_from(("admission", "admission", "admission", "settled", "ask"))
steps = st.lists(st.tuples(st.integers(0, 3), waits), max_size=2)
actors = st.tuples(st.integers(1, 2), st.integers(1, 2), steps)
topologies = st.lists(actors, min_size=1, max_size=4)
Topology = list[tuple[int, int, list[tuple[int, str]]]]


async def drive(topology: Topology, guarded: bool) -> tuple[bool, EventBus]:
    """Run a topology; return whether something was refused, and the bus."""
    bus = EventBus("random", max_hops=None)
    if not guarded:
        bus._engine.guard = lambda *_: None
    refused = False

    def make(plan: list[tuple[int, str]]) -> Any:
        async def handler(event: Event) -> int:
            nonlocal refused
            await asyncio.sleep(0)
            depth: int = event.data
            for target, how in plan if depth else ():
                topic = f"t{target % len(topology)}"
                try:
                    if how == "ask":
                        await bus.ask(topic, depth - 1, timeout=None)
                    elif how == "settled":
                        await bus.publish(topic, depth - 1).settled()
                    else:
                        await bus.publish(topic, depth - 1)
                except DeadlockError:
                    refused = True
                except AskFailedError:
                    pass  # another's refusal
            return 1

        return handler

    for index, (mailbox, workers, plan) in enumerate(topology):
        bus.subscribe(
            f"t{index}", make(plan), name=f"s{index}", mailbox=mailbox, concurrency=workers, **ONCE
        )
    await bus.start()

    async def outside(index: int) -> None:
        for _ in range(3):
            await bus.publish(f"t{index}", 3)

    await asyncio.gather(*(outside(index) for index in range(len(topology))))
    await bus.settle()
    await bus.close()
    return refused, bus


def hangs(topology: Topology) -> bool:
    """Return whether a topology comes to a stand without the guard."""
    loop = VirtualLoop()
    loop.set_exception_handler(lambda *_: None)
    try:
        loop.run_until_complete(drive(topology, guarded=False))
    except StuckLoopError:
        return True
    finally:
        for _ in range(50):
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.call_later(1, loop.stop)
            loop.run_forever()
        loop.close()
    return False


@settings(max_examples=150)
@example([(1, 1, [(0, "admission")])])
@example([(1, 1, [(1, "admission")]), (1, 1, [(0, "ask")])])
@example([(1, 2, [(0, "settled")])])
@given(topologies)
def test_the_guard_refuses_exactly_the_runs_that_hang_without_it(topology: Topology) -> None:
    """No false alarm and none missed; and with the guard every run comes to its end."""
    loop = VirtualLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        refused, bus = runner.run(drive(topology, guarded=True))
    assert bus.audit().balanced
    assert bus.audit().totals.pending == 0
    assert refused == hangs(topology)
