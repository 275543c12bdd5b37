"""The known hazards of asyncio that belong to publishing, subscribing, threads and handlers.

Each test is named after the number of the hazard in the study of them.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import os
import random
import threading
import traceback
import tracemalloc
import warnings
import weakref
from contextvars import ContextVar
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actorbus import BusClosedError, BusNotRunningError, DeadReason, Event, EventBus
from tests.handlers import Gate, Seen
from tests.virtual import VirtualLoop, run

real_time = pytest.mark.parametrize("anyio_backend", ["asyncio"])


async def test_hazard_01_a_forgotten_await(bus: EventBus) -> None:
    """Nothing is lost, warned of or left behind when nobody awaits the receipt."""
    seen, gate = Seen(), Gate()
    bus.subscribe("a", seen)
    bus.subscribe("a", gate, name="full", mailbox=1, overflow="fail")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in range(5):
            bus.publish("a", number)
        gc.collect()
        gate.open()
        await bus.settle()
    assert seen.got == list(range(5))
    refused = bus.dead_letters.list(subscription="full")
    assert [letter.reason for letter in refused] == [DeadReason.OVERFLOW] * 4


async def test_hazard_03_a_task_is_not_collected_in_the_midst_of_a_handler(bus: EventBus) -> None:
    """A handler that waits for something only it refers to survives the garbage collector."""
    done: list[Any] = []
    timers: list[asyncio.TimerHandle] = []

    async def handler(data: Any) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        weak = weakref.ref(future)
        timers.append(asyncio.get_running_loop().call_later(10, lambda: wake(weak())))
        await future
        done.append(data)

    def wake(future: asyncio.Future[None] | None) -> None:
        assert future is not None, "the task was collected with what it waits for"
        future.set_result(None)

    bus.subscribe("a", handler, concurrency=3)
    for number in range(3):
        bus.publish("a", number)
    await asyncio.sleep(1)
    gc.collect()
    await bus.settle()
    assert sorted(done) == [0, 1, 2]


def test_hazard_09_one_bus_and_a_second_loop() -> None:
    """A global bus used by one loop after the other works in each, its mailboxes included."""
    bus = EventBus()
    got: list[int] = []

    async def handler(data: int) -> None:
        await asyncio.sleep(0)
        got.append(data)

    bus.subscribe("a", handler, mailbox=1)

    async def main(start: int) -> None:
        for number in range(start, start + 5):
            await bus.publish("a", number)  # has to wait for room, which binds to a loop
        await bus.settle()

    for start in (0, 5, 10):
        asyncio.run(main(start))
    assert got == list(range(15))
    assert len(bus.dead_letters) == 0


@real_time
async def test_hazard_10_a_thread_s_publish_wakes_a_sleeping_loop(bus: EventBus) -> None:
    """The handler runs when the thread publishes, not at the loop's next timer."""
    handled = asyncio.Event()

    async def handler(data: Any) -> None:
        handled.set()

    bus.subscribe("a", handler)
    timer = threading.Timer(0.02, lambda: bus.publish("a"))
    timer.start()
    await asyncio.wait_for(handled.wait(), 20)
    timer.join()


async def test_hazard_11_a_payload_shared_by_handlers(make_bus: Any) -> None:
    """By reference by default; with copy="deep" two handlers that append see only their own."""

    async def lists(**options: Any) -> list[list[int]]:
        got: list[list[int]] = []

        async def append(data: list[int]) -> None:
            data.append(len(got))
            got.append(data)

        async with make_bus(**options) as bus:
            for _ in range(2):
                bus.subscribe("a", append)
            bus.publish("a", [9])
        return got

    assert await lists() == [[9, 0, 1], [9, 0, 1]]
    assert await lists(copy="deep") == [[9, 0], [9, 1]]


async def test_hazard_12_a_feedback_loop_ends(bus: EventBus) -> None:
    """Two handlers that answer each other for ever are stopped after 64 hops."""
    count = 0

    async def ping(data: Any) -> None:
        nonlocal count
        count += 1
        bus.publish("pong")

    async def pong(data: Any) -> None:
        nonlocal count
        count += 1
        bus.publish("ping")

    bus.subscribe("ping", ping)
    bus.subscribe("pong", pong)
    bus.publish("ping")
    await bus.settle()
    assert count == 65
    assert [letter.reason for letter in bus.dead_letters] == [DeadReason.MAX_HOPS]


async def test_hazard_12_the_storm_of_a_forking_feedback_loop_is_bounded(make_bus: Any) -> None:
    """A handler that publishes twice for each event doubles max_hops times, then it ends."""
    async with make_bus(max_hops=6) as bus:
        handled = 0

        async def twice(data: Any) -> None:
            nonlocal handled
            handled += 1
            bus.publish("a")
            bus.publish("a")

        bus.subscribe("a", twice)
        bus.publish("a")
        await bus.settle()
        assert handled == 2**7 - 1


@given(seed=st.integers(0, 10**6))
def test_hazard_16_unsubscribing_during_publish_and_dispatch(seed: int) -> None:
    """Whenever subscribers leave and others come, each gets what was published while it was in."""
    chance = random.Random(seed)  # noqa: S311 it only has to be repeatable

    async def main() -> None:
        async with EventBus() as bus:
            subs: list[tuple[Any, Seen, list[int]]] = []
            ever: list[tuple[Seen, list[int]]] = []

            def come() -> None:
                seen, due = Seen(), list[int]()
                options: dict[str, Any] = {"mailbox": chance.choice([1, 1000])}
                sub = bus.subscribe("a", seen, put_timeout=None, **options)
                subs.append((sub, seen, due))
                ever.append((seen, due))

            def go() -> None:
                if subs:
                    subs.pop(chance.randrange(len(subs)))[0].unsubscribe()

            async def meddle(event: Event) -> None:
                chance.choice([come, go, go])()
                await asyncio.sleep(0)

            bus.subscribe("a", meddle, mailbox=1000)

            async def publish() -> None:
                for number in range(10):
                    for _, _, due in subs:
                        due.append(number)
                    await bus.publish("a", number)
                    if chance.random() < 0.5:
                        await asyncio.sleep(0)

            come()
            await publish()
            await bus.settle()
            for seen, due in ever:
                assert seen.got == due
            assert bus.audit().balanced

    run(main)


@given(st.integers(0, 5))
def test_hazard_17_a_subscription_is_live_before_its_actor_has_run(turns: int) -> None:
    """The event published on the line after `subscribe` is handled, whatever the loop did."""

    async def main() -> None:
        async with EventBus() as bus:
            for _ in range(turns):
                await asyncio.sleep(0)
            seen = Seen()
            bus.subscribe("boot", seen)
            bus.publish("boot", 1)
            await bus.settle()
            assert seen.got == [1]

    run(main)


def test_hazard_18_publishing_before_the_start_and_after_the_close() -> None:
    """Before there is a loop and after a close it raises; between, and after a start, it works."""
    bus = EventBus()
    seen = Seen()
    bus.subscribe("a", seen)
    with pytest.raises(BusNotRunningError):
        bus.publish("a", 0)

    async def main() -> None:
        bus.publish("a", 1)
        await bus.close()
        with pytest.raises(BusClosedError):
            bus.publish("a", 2)
        await bus.start()
        bus.publish("a", 3)
        await bus.close()

    run(main)
    with pytest.raises(BusClosedError):
        bus.publish("a", 4)
    assert seen.got == [1, 3]
    assert bus.get_stats()["events_published"] == 2


async def test_hazard_23_names_from_outside_grow_no_table(bus: EventBus) -> None:
    """Fifty thousand topics nobody repeats cost bounded memory and bounded labels."""
    bus.subscribe("**", Seen(), mailbox=100_000)
    for number in range(20_000):
        bus.publish(f"attack:{number}")
    await bus.settle()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(20_000, 50_000):
            bus.publish(f"attack:{number}")
            if number % 1000 == 0:
                await bus.settle()
        await bus.settle()
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 6_000_000  # what was untraced is replaced by what is traced; 30,000 would be 20+
    by_type = bus.get_stats()["events_by_type"]
    assert len(by_type) <= 201
    assert by_type["_other"] == 50_000 - 200
    assert len(bus.get_history("**", limit=5000)) <= 1000


async def test_hazard_25_the_identity_of_a_handler(bus: EventBus) -> None:
    """Bound methods and partials made anew are the same handler, and live while subscribed."""

    class Plugin:
        def __init__(self) -> None:
            self.got: list[Any] = []

        async def on(self, data: Any) -> None:
            self.got.append(data)

    plugin = Plugin()
    assert plugin.on is not plugin.on
    bus.subscribe("a", plugin.on)
    bus.subscribe("a", functools.partial(plugin.on))
    assert bus.unsubscribe("a", plugin.on) == 1
    assert bus.unsubscribe("a", functools.partial(plugin.on)) == 1
    temporary = bus.subscribe("a", Plugin().on)
    gc.collect()
    await bus.publish("a", 1).settled()
    assert temporary.handler.__self__.got == [1]


async def test_hazard_26_context_variables(bus: EventBus) -> None:
    """An async actor never sees a publisher's request; a plain one sees that of its event."""
    request: ContextVar[str] = ContextVar("request", default="none")
    on_loop: list[str] = []
    in_thread: list[str] = []

    async def handler(data: Any) -> None:
        on_loop.append(request.get())

    request.set("subscriber's")
    bus.subscribe("a", handler)
    bus.subscribe("a", lambda _: in_thread.append(request.get()))
    for name in ("one", "two"):
        request.set(name)
        await bus.publish("a").settled()
    assert on_loop == ["subscriber's"] * 2
    assert in_thread == ["one", "two"]


class _Eager:
    """A task factory that would run a first step at once, for Pythons without one."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self, loop: Any, coro: Any, **options: Any) -> asyncio.Task[Any]:
        self.made += 1
        return asyncio.Task(coro, loop=loop, **options)


async def test_hazard_27_publish_makes_no_task_through_the_factory(bus: EventBus) -> None:
    """No publish runs a handler: a chain of a thousand needs no stack, eager factory or not."""
    loop = asyncio.get_running_loop()
    factory = _Eager()
    eager = getattr(asyncio, "eager_task_factory", None)
    loop.set_task_factory(eager or factory)
    depths: list[int] = []
    started: list[int] = []

    async def again(data: int) -> None:
        started.append(data)
        depths.append(len(traceback.extract_stack()))
        if data < 50:
            bus.publish("a", data + 1)
            assert started[-1] == data, "the handler ran inside the publish"

    try:
        bus.subscribe("a", again)
        bus.publish("a", 0)
        assert started == []
        await bus.settle()
    finally:
        loop.set_task_factory(None)
    assert started == list(range(51))
    assert len(set(depths)) <= 2
    assert factory.made == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
async def test_hazard_29_publishing_in_a_forked_child_raises(bus: EventBus) -> None:
    """A child forked while the bus runs is told at the call where it runs, and what to do."""
    seen = Seen()
    bus.subscribe("a", seen)
    bus.publish("a", 1)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            bus.publish("a", 2)
        except BusNotRunningError as error:
            code = 0 if error.forked and "make a bus here, after the fork" in str(error) else 3
        except BaseException:
            code = 2
        os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    await bus.settle()
    assert seen.got == [1]


def test_hazard_31_the_debug_mode_of_asyncio() -> None:
    """In debug mode, with warnings as errors, a busy bus neither warns nor breaks a rule."""
    complaints: list[Any] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_debug(True)
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        async with EventBus() as bus:
            got: list[int] = []
            seen, gate = Seen(), Gate()
            bus.subscribe("a", seen, mailbox=2)
            bus.subscribe("a", got.append)
            bus.subscribe("a", gate, mailbox=1, overflow="drop_old")
            sub = bus.subscribe("a", Seen(), concurrency=3, key="key")
            for number in range(50):
                await bus.publish("a", number, key=number % 3)
            await asyncio.to_thread(lambda: bus.publish("a", 50).wait(10))
            sub.unsubscribe()
            gate.open()
            await bus.settle()
            assert seen.got == got == list(range(51))
        gc.collect()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asyncio.run(main(), debug=True)
    assert complaints == []


def test_hazard_31_debug_mode_finds_no_call_from_the_wrong_thread() -> None:
    """On a debugging loop every call from a handler's thread is thread-safe."""

    async def main() -> None:
        async with EventBus() as bus:
            seen = Seen()
            bus.subscribe("b", seen)
            bus.subscribe("a", lambda number: bus.publish("b", number))
            for number in range(200):
                bus.publish("a", number)
            await bus.settle()
            assert seen.got == list(range(200))
            assert len(bus.dead_letters) == 0

    asyncio.run(main(), debug=True)


def test_the_loops_of_these_tests_have_virtual_time() -> None:
    """A hundred virtual hours pass at once, so nothing here depends on the machine's speed."""
    loop = VirtualLoop()
    loop.run_until_complete(asyncio.sleep(360_000))
    assert loop.time() == pytest.approx(360_000)
    loop.close()
