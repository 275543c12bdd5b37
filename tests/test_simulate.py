"""`actorbus.testing`: seeded orders, virtual time, simulated threads, sweeps and cuts."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import io
import os
import pickle
import queue
import random
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextvars import ContextVar
from functools import partial
from itertools import count, product
from typing import Any

import anyio
import pytest

from actorbus import ConfigurationError, EventBus, Mailbox, RetryPolicy, world
from actorbus.testing import (
    Policy,
    SimulationDeadlock,
    StepLimitError,
    SweepFailure,
    cancel_at,
    simulate,
    sweep,
)
from actorbus.testing.progress import Progress
from actorbus.testing.surroundings import BEGIN

POLICIES = list(Policy)


async def racing() -> list[str]:
    """Three tasks write down their steps; return in which order they came."""
    order: list[str] = []

    async def run(name: str) -> None:
        for _ in range(4):
            order.append(name)
            await asyncio.sleep(0)

    await asyncio.gather(*map(run, "abc"))
    return order


async def on_a_bus() -> list[tuple[str, int, float]]:
    """Three subscribers, one in a thread, retries with jitter; return what they saw, and when."""
    seen: list[tuple[str, int, float]] = []
    bus = EventBus("shop")

    def note(name: str, data: int) -> None:
        seen.append((name, data, round(world.wall() - BEGIN, 4)))

    @bus.subscribe("order:*", name="flaky", retry=RetryPolicy(max_attempts=3))
    async def flaky(data: int) -> None:
        note("flaky", data)
        if data % 2 and world.random() < 0.5:
            raise ConnectionError

    @bus.subscribe("order:*", name="thread")
    def in_thread(data: int) -> None:
        note("thread", data)

    @bus.subscribe({"order:placed"}, name="plain")  # a set of patterns: its order must not show
    async def plain(data: int) -> None:
        await asyncio.sleep(random.random())  # noqa: S311 seeded, too
        note("plain", data)

    async with bus:
        for number in range(10):
            await bus.publish("order:placed", number)
        await bus.settle()
    return seen


# -- determinism -----------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
def test_equal_seeds_give_equal_runs(policy: Policy) -> None:
    """Trace, result, steps and time follow from the seed."""
    first = simulate(on_a_bus, seed=3, policy=policy)
    clutter = [object() for _ in range(997)]
    second = simulate(on_a_bus, seed=3, policy=policy)

    assert clutter
    assert first.trace == second.trace
    assert first == second
    assert len(first.trace) == first.steps


@pytest.mark.parametrize("policy", POLICIES)
def test_equal_seeds_give_equal_runs_in_every_process(policy: Policy) -> None:
    """Neither the order of hashes nor that of addresses shows."""
    code = (
        "from tests.test_simulate import *;"
        f"run = simulate(on_a_bus, seed=11, policy={str(policy)!r});"
        "print(run.digest, run.result)"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True, text=True, check=True, timeout=50,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip

    run = simulate(on_a_bus, seed=11, policy=policy)
    assert said == {f"{run.digest} {run.result}\n"}


def test_seeds_give_different_orders() -> None:
    """Random and pct try many orders, fifo the one of asyncio."""
    orders = {
        policy: {tuple(simulate(racing, seed=seed, policy=policy).result) for seed in range(50)}
        for policy in POLICIES
    }

    assert orders[Policy.FIFO] == {tuple("abc" * 4)}
    assert tuple(asyncio.run(racing())) in orders[Policy.FIFO]
    assert len(orders[Policy.RANDOM]) > 40
    assert len(orders[Policy.PCT]) > 5


@pytest.mark.parametrize("policy", POLICIES)
def test_callbacks_keep_the_order_they_were_given_in(policy: Policy) -> None:
    """What asyncio promises of `call_soon` and of timers is true in every order."""

    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        called: list[int] = []
        task = asyncio.create_task(racing())
        for number in range(20):
            loop.call_soon(called.append, number)
            loop.call_later((40 - number) / 1000, called.append, 40 - number)
        await asyncio.sleep(1.0)
        await task
        return called

    for seed in range(30):
        called = simulate(main, seed=seed, policy=policy).result
        assert called == [*range(20), *range(21, 41)]


@pytest.mark.parametrize("policy", ["random", "pct"])
def test_timers_of_one_time_come_in_any_order(policy: str) -> None:
    """asyncio leaves their order undefined, so all are tried."""

    async def main() -> str:
        loop = asyncio.get_running_loop()
        called: list[str] = []
        for name in "abc":
            loop.call_at(1.0, called.append, name)
        await asyncio.sleep(2.0)
        return "".join(called)

    assert len({simulate(main, seed=seed, policy=policy).result for seed in range(100)}) == 6


def test_a_group_s_tasks_are_cancelled_in_one_order() -> None:
    """asyncio and anyio keep tasks in sets: where they lie in memory must not matter."""

    async def main() -> list[str]:
        order: list[str] = []

        async def wait(name: str) -> None:
            try:
                await asyncio.sleep(10)
            finally:
                order.append(name)

        async def fail() -> None:
            await asyncio.sleep(1)
            raise ValueError

        try:
            async with asyncio.TaskGroup() as group:
                for number in range(20):
                    group.create_task(wait(f"asyncio{number}"))
                group.create_task(fail())
        except ExceptionGroup:
            pass
        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(wait, f"anyio{number}")
            await asyncio.sleep(1)
            tasks.cancel_scope.cancel()
        return order

    clutter: list[object] = []
    runs = set()
    for size in (0, 1, 37, 1000, 4321):
        run = simulate(main, policy="fifo")
        runs.add((run.digest, tuple(run.result)))
        clutter += [object() for _ in range(size)]

    assert len(runs) == 1


def test_garbage_is_collected_at_fixed_steps_only() -> None:
    """What the collector finalizes comes at the same step in every run."""

    async def main() -> bool:
        return gc.isenabled()

    assert not simulate(main).result
    assert gc.isenabled()


# -- finding bugs ----------------------------------------------------------------------------------


async def lost_wake_up() -> None:
    """A toy queue that looks, then waits: a put between the two wakes nobody."""
    items: list[int] = []
    bell: list[asyncio.Future[None]] = []

    async def get() -> int:
        if not items:
            await asyncio.sleep(0)  # whatever a later hand adds here
            bell.append(asyncio.get_running_loop().create_future())
            await bell[0]
        return items.pop()

    async def put() -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        items.append(1)
        for waiter in bell:
            waiter.set_result(None)

    await asyncio.gather(get(), put())


async def lost_update() -> None:
    """A toy account that reads, waits and writes: two at once lose one payment."""
    balance = 0

    async def pay(pause: int) -> None:
        nonlocal balance
        for _ in range(pause):
            await asyncio.sleep(0)
        seen = balance
        await asyncio.sleep(0)
        balance = seen + 1

    await asyncio.gather(pay(0), pay(2))
    assert balance == 2


@pytest.mark.parametrize("policy", ["random", "pct"])
@pytest.mark.parametrize(("bug", "ends"), [(lost_wake_up, SimulationDeadlock),
                                           (lost_update, AssertionError)])  # fmt: skip
def test_a_bug_of_order_is_found(bug: Any, ends: type[Exception], policy: str) -> None:
    """Orders other than asyncio's own show what it hides; the seed found replays it."""
    with pytest.raises(SweepFailure) as failure:
        sweep(bug, seeds=range(500), policy=policy)

    assert isinstance(failure.value.__cause__, ends)
    for _ in range(2):
        with pytest.raises(ends):
            simulate(bug, seed=failure.value.seed, policy=failure.value.policy)


@pytest.mark.parametrize("bug", [lost_wake_up, lost_update])
def test_the_order_of_asyncio_hides_it(bug: Any) -> None:
    """The same bugs do not show in the one order that tests usually see."""
    asyncio.run(bug())
    assert sweep(bug, seeds=range(100), policy="fifo").orders == 1


# -- virtual time ----------------------------------------------------------------------------------


def test_a_year_of_retries_is_a_matter_of_steps() -> None:
    """The clock jumps from timer to timer."""
    year = 365 * 86400.0

    async def main() -> int:
        bus = EventBus("year")
        policy = RetryPolicy(max_attempts=10_000, cap=3600, jitter="none", max_elapsed=None)
        attempts = 0

        @bus.subscribe("job", retry=policy)
        async def job(data: None) -> None:
            nonlocal attempts
            attempts += 1
            if asyncio.get_running_loop().time() < year:
                raise ConnectionError

        async with bus:
            await bus.publish("job")
            await bus.settle()
        return attempts

    run = simulate(main)

    assert run.result > 8700
    assert run.virtual_seconds > year
    assert run.steps < 50_000


@pytest.mark.parametrize("policy", POLICIES)
def test_spinning_does_not_freeze_the_clock(policy: Policy) -> None:
    """Every step costs time, so a task that only yields lets timers come."""

    async def main() -> None:
        over = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(0.05, over.set_result, None)
        while not over.done():
            await asyncio.sleep(0)

    for seed in range(5):
        run = simulate(main, seed=seed, policy=policy)
        assert 0.05 < run.virtual_seconds < 0.1


def test_wall_time_names_and_chance_follow_the_seed_and_are_put_back() -> None:
    """`actorbus.world` and `random` are the simulation's while it lasts."""
    before = (world.wall, world.random, world.new_run, world.run.name, time.sleep)
    state = random.getstate()

    async def main() -> tuple[float, str, float, float, str, list[str]]:
        await asyncio.sleep(100)
        async with EventBus("ids") as bus:
            ids = [bus.publish("a").event.id for _ in range(2)]
        draws = world.random(), random.random()  # noqa: S311 seeded, too
        return world.wall(), world.run.name, *draws, world.new_run(), ids

    runs = [simulate(main, seed=seed).result for seed in (1, 1, 2)]

    assert runs[0] == runs[1] != runs[2]
    assert runs[0][0] == pytest.approx(BEGIN + 100, abs=0.01)
    assert [id_.partition("-")[2] for id_ in runs[0][5]] == ["000000000001", "000000000002"]
    assert (world.wall, world.random, world.new_run, world.run.name, time.sleep) == before
    assert random.getstate() == state


# -- how it ends -----------------------------------------------------------------------------------


def test_a_deadlock_names_tasks_and_mailboxes() -> None:
    """Nothing runnable and no timer: who waits, where, and what stands in which mailbox."""

    async def main() -> None:
        box: Mailbox[int] = Mailbox(1)
        async with EventBus("stuck") as bus:

            @bus.subscribe("job", name="worker")
            async def work(data: None) -> None:
                await box.get()

            bus.publish("job")
            bus.publish("job")
            await bus.settle()

    with pytest.raises(SimulationDeadlock) as deadlock:
        simulate(main, seed=5)

    error = deadlock.value
    assert any(each.startswith("main: main > settle") for each in error.tasks)
    assert any("work > get (mailbox.py:" in each for each in error.tasks)
    assert any("'worker' on bus 'stuck': 1 queued, 0 waiting, 1 running" in each
               for each in error.mailboxes)  # fmt: skip
    assert any("1 wait to get" in each for each in error.mailboxes)
    assert "seed=5" in "".join(error.__notes__)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # noqa: S301 our own


def test_too_many_steps_name_the_busiest() -> None:
    """`max_steps` ends what would not, and says who took them."""

    async def spin() -> None:
        while True:
            await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.create_task(spin(), name="spinner")

    with pytest.raises(StepLimitError, match=r"max_steps=300; the busiest: spinner \(\d+\)"):
        simulate(main, max_steps=300)


@pytest.mark.parametrize("raised", [ValueError, asyncio.CancelledError, KeyboardInterrupt])
def test_an_exception_of_the_scenario_carries_the_seed(raised: type[BaseException]) -> None:
    """It propagates as it is, with the line that replays it in a note."""

    async def scenario() -> None:
        raise raised

    with pytest.raises(raised) as error:
        simulate(scenario, seed=42, policy="pct")

    assert "scenario, seed=42, policy='pct')" in error.value.__notes__[0]


def test_an_exception_of_a_callback_ends_the_run() -> None:
    """What asyncio would only log is a failure, unless the scenario has a handler of its own."""

    async def main() -> None:
        asyncio.get_running_loop().call_soon(int, "x")
        await asyncio.sleep(1)

    async def handled() -> list[str]:
        seen: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, about: seen.append(
            str(about["exception"])))  # fmt: skip
        await main()
        return seen

    with pytest.raises(ValueError, match="invalid literal"):
        simulate(main)
    assert len(simulate(handled).result) == 1


def test_what_a_scenario_leaves_is_released() -> None:
    """Tasks are cancelled, async generators closed, the loop too; a bus can be used again."""
    ended: list[str] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            ended.append("generator")

    async def wait() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            ended.append("task")

    async def stubborn() -> None:
        while True:
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                ended.append("stubborn")

    bus = EventBus("kept")
    kept: list[object] = []

    async def main() -> asyncio.AbstractEventLoop:
        generator = numbers()
        kept.append(generator)
        await anext(generator)
        bus.publish("a")
        kept.extend([asyncio.create_task(wait()), asyncio.create_task(stubborn())])
        await asyncio.sleep(0.5)
        return asyncio.get_running_loop()

    loop = simulate(main).result

    assert loop.is_closed()
    assert {"generator", "task", "stubborn"} <= set(ended)

    async def again() -> None:
        async with bus:
            await bus.publish("a").settled()

    asyncio.run(again())


def test_errors_of_use() -> None:
    """What makes no sense is refused at the call."""

    async def fine() -> None: ...

    async def nested() -> None:
        with pytest.raises(RuntimeError, match="cannot run inside another"):
            simulate(fine)
        with pytest.raises(RuntimeError, match="cannot run inside another"):
            sweep(fine, seeds=[1])
        with pytest.raises(RuntimeError, match="one at a time"):
            await asyncio.to_thread(simulate, fine)

    simulate(nested)
    with pytest.raises(ConfigurationError, match="'random', 'fifo', 'pct'"):
        simulate(fine, policy="chaos")
    with pytest.raises(ConfigurationError, match="max_steps"):
        sweep(fine, max_steps=0)
    with pytest.raises(TypeError, match="async function"):
        simulate(lambda: 5)  # type: ignore[arg-type, return-value]  # a wrong one on purpose
    with pytest.raises(RuntimeError, match="inside simulate"):
        asyncio.run(_cut_outside())
    with pytest.raises(NotImplementedError):
        simulate(partial(asyncio.open_connection, "localhost", 1))


async def _cut_outside() -> None:
    cancel_at(1)


# -- threads ---------------------------------------------------------------------------------------

here: ContextVar[str] = ContextVar("here", default="nowhere")


def test_handlers_in_threads_are_seeded_delays() -> None:
    """They see no running loop and their publisher's context, and publish as a thread would."""

    async def main() -> tuple[list[str], list[tuple[int, int]], float]:
        where: list[str] = []
        heard: list[tuple[int, int]] = []
        async with EventBus("threads", threads=2) as bus:

            def work(number: int, data: int) -> None:
                with pytest.raises(RuntimeError, match="no running event loop"):
                    asyncio.get_running_loop()
                where.append(here.get())
                time.sleep(60)
                bus.publish("done", (data, number))

            for number in range(4):
                bus.subscribe("job", partial(work, number), name=f"worker{number}")

            @bus.subscribe("done")
            async def done(data: tuple[int, int]) -> None:
                heard.append(data)

            here.set("publisher")
            for number in range(3):
                bus.publish("job", number)
            await bus.settle()
            assert bus.audit().balanced
        return where, heard, asyncio.get_running_loop().time()

    threads = threading.active_count()
    runs = [simulate(main, seed=seed).result for seed in range(20)]

    assert threading.active_count() == threads
    assert all(where == ["publisher"] * 12 for where, _, _ in runs)
    assert all(sorted(heard) == [*product(range(3), range(4))] for _, heard, _ in runs)
    assert len({tuple(heard) for _, heard, _ in runs}) > 5
    assert all(12 * 60 <= seconds < 12 * 60 + 20 for _, _, seconds in runs)


def test_executors_are_seeded_delays() -> None:
    """`asyncio.to_thread` and `run_in_executor` give results and errors, in any order."""

    async def main() -> tuple[Any, ...]:
        ended: list[int] = []
        here.set("caller")
        loop = asyncio.get_running_loop()
        got = await asyncio.gather(
            *(asyncio.to_thread(ended.append, number) for number in range(5)),
            asyncio.to_thread(here.get),
            loop.run_in_executor(concurrent.futures.ThreadPoolExecutor(1), here.get),
            loop.run_in_executor(None, int, "x"),
            return_exceptions=True,
        )
        dropped = asyncio.create_task(asyncio.to_thread(ended.append, 99))
        await asyncio.sleep(0)
        dropped.cancel()
        await loop.shutdown_default_executor()
        return tuple(ended), got[5], got[6], type(got[7])

    runs = [simulate(main, seed=seed).result for seed in range(20)]

    assert len({ended for ended, *_ in runs}) > 5
    assert {tuple(rest) for _, *rest in runs} == {("caller", "nowhere", ValueError)}


def test_what_needs_a_real_thread_is_refused() -> None:
    """Blocking for another thread would never end, so it raises instead."""

    async def main() -> list[str]:
        said: list[str] = []
        async with EventBus("blocking") as bus:

            def block(data: int) -> None:
                waits: list[Any] = [
                    bus.publish("other").wait, queue.Queue[int]().get, threading.Event().wait,
                    threading.Thread(target=print).start,
                    concurrent.futures.ThreadPoolExecutor(1).submit,
                ]  # fmt: skip
                for index, wait in enumerate(waits):
                    try:
                        wait(*([print] if index == 4 else []))
                    except RuntimeError as error:
                        said.append(str(error))

            bus.subscribe("job", block)
            await bus.publish("job").settled()
        return said

    said = simulate(main).result

    assert ["one thread" in each for each in said] == [True, True, True, False, False]
    assert ["no real thread" in each for each in said] == [False, False, False, True, True]


def test_a_real_thread_cannot_call_into_it() -> None:
    """Its order is not seeded; its own surroundings are the real ones."""
    told: list[str] = []
    begun = threading.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    def intrude() -> None:
        begun.wait(5)
        try:
            loops[0].call_soon_threadsafe(print)
        except RuntimeError as error:
            told.append(str(error))

    thread = threading.Thread(target=intrude)

    async def main() -> None:
        loops.append(asyncio.get_running_loop())
        begun.set()
        while not told:
            await asyncio.sleep(0)

    thread.start()
    simulate(main)
    thread.join()

    assert "not seeded" in told[0]


# -- sweeping --------------------------------------------------------------------------------------


def test_a_sweep_returns_the_counts() -> None:
    """How many runs, in how many orders, of how many steps."""
    counts = sweep(racing, seeds=range(40), progress=False)

    assert counts.runs == 40
    assert 30 < counts.orders <= 40
    assert counts.steps > 40 * 12
    assert str(counts).startswith("40 runs in ")


def test_a_sweep_stops_at_the_first_failure() -> None:
    """The error has the seed, the cause and the line that replays it."""
    tried: list[int] = []

    async def fails_at_three() -> None:
        tried.append(0)
        if len(tried) == 4:
            raise LookupError("the fourth")

    with pytest.raises(SweepFailure, match="seed 3 fails after 3 that passed") as failure:
        sweep(fails_at_three, max_steps=777)

    error = failure.value
    assert (error.seed, error.policy, error.passed) == (3, "random", 3)
    assert isinstance(error.__cause__, LookupError)
    assert error.replay.endswith("fails_at_three, seed=3, policy='random', max_steps=777)")
    assert error.replay in str(error)
    assert len(tried) == 4
    assert pickle.loads(pickle.dumps(error)).seed == 3  # noqa: S301 our own


def test_progress_is_drawn_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bar that rewrites its line; nothing where nobody looks."""
    monkeypatch.setattr("actorbus.testing.progress.EVERY", 0.0)
    piped, drawn = io.StringIO(), io.StringIO()
    for stream, shown in ((piped, None), (drawn, True)):
        bar = Progress(4, shown, stream)
        for _ in range(4):
            bar.step()
        bar.end()

    assert piped.getvalue() == ""
    assert "[######..................] 1/4 runs" in drawn.getvalue()
    assert drawn.getvalue().endswith("a second\n")
    endless = io.StringIO()
    monkeypatch.setattr(sys, "stderr", endless)
    sweep(racing, seeds=iter(range(3)), progress=True)
    assert "3 runs" in endless.getvalue()


# -- cutting ---------------------------------------------------------------------------------------


def test_a_task_is_cancelled_at_its_kth_await() -> None:
    """Awaits that wait are counted from the call on; a task that ends before is not struck."""

    async def main(k: int) -> tuple[int, bool, int]:
        done = 0

        async def work() -> None:
            nonlocal done
            for _ in range(3):
                await asyncio.sleep(1)
                done += 1

        task = asyncio.create_task(work())
        cut = cancel_at(k, task)
        await asyncio.wait({task})
        return done, cut.struck, cut.awaits

    runs = [simulate(partial(main, k)).result for k in range(1, 6)]

    assert runs == [(0, True, 1), (1, True, 2), (2, True, 3), (3, False, 3), (3, False, 3)]


def test_the_task_that_calls_may_be_cut() -> None:
    """Without a task it is the caller's own."""

    async def main() -> str:
        cancel_at(2)
        await asyncio.sleep(1)
        try:
            await asyncio.sleep(1)
        except asyncio.CancelledError:
            return "cut"
        return "whole"

    assert simulate(main).result == "cut"
    with pytest.raises(ValueError, match="from 1"):
        simulate(partial(_cut_at_zero))


async def _cut_at_zero() -> None:
    cancel_at(0)


def test_every_await_is_reached_by_counting() -> None:
    """Counting k up until it is not struck tries every await there is."""

    async def main(k: int) -> bool:
        task = asyncio.create_task(racing())
        cut = cancel_at(k, task)
        await asyncio.wait({task})
        return cut.struck

    assert next(k for k in count(1) if not simulate(partial(main, k)).result) == 2


# -- internals of asyncio --------------------------------------------------------------------------


def test_the_internals_leaned_on_are_there() -> None:
    """Of this version of Python: another one may need another look."""
    from asyncio import tasks

    from actorbus.testing.loop import STEPS

    seen: set[tuple[str | None, bool]] = set()

    class Looking(asyncio.SelectorEventLoop):
        def call_soon(  # type: ignore[override]  # as loose as can be
            self, callback: Any, *args: Any, context: Any = None
        ) -> Any:
            owner = getattr(callback, "__self__", None)
            if isinstance(owner, (asyncio.Task, tasks._PyTask)):  # type: ignore[attr-defined]
                seen.add((getattr(callback, "__name__", None), isinstance(owner, asyncio.Task)))
            return super().call_soon(callback, *args, context=context)

    async def main() -> None:
        await asyncio.sleep(0.001)
        loop = asyncio.get_running_loop()
        await tasks._PyTask(asyncio.sleep(0.001), loop=loop)  # type: ignore[attr-defined]

    loop: Any = Looking()
    timer = loop.call_later(5, print)
    handle = loop.call_soon(print, "")
    assert loop._scheduled == [timer]
    assert (timer._when, timer._scheduled, timer._cancelled) == (timer.when(), True, False)
    assert not handle._cancelled
    assert callable(handle._run)
    assert (loop._stopping, loop._thread_id, loop._timer_cancelled_count) == (False, None, 0)
    timer.cancel()
    assert loop._timer_cancelled_count == 1
    loop.run_until_complete(main())
    loop.close()
    assert seen == {(None, True), ("task_wakeup", True), ("__step", False), ("__wakeup", False)}
    assert {name for name, _ in seen} == STEPS


async def a_little_of_everything() -> list[str]:
    """Tasks, timers, time limits, cancellation, a thread, an async generator."""
    order = await racing()

    async def ticks() -> AsyncIterator[int]:
        for number in range(3):
            await asyncio.sleep(0.1)
            yield number

    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.to_thread(order.append, "thread"))
        group.create_task(asyncio.sleep(1000), name="cancelled").cancel()
        order += [str(number) async for number in ticks()]
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(asyncio.sleep(5)), timeout=1)
    return order


DIGESTS = {
    (3, 11): "b0a324cc6ca675b0",
    (3, 12): "a9da4fd1fca5b064",
    (3, 13): "72e0d56640804389",
}
"""Of one run on each version of Python; one that takes other steps gets a digest of its own."""


def test_a_run_takes_the_steps_it_always_took() -> None:
    """On this version of Python, down to asyncio's own callbacks."""
    assert simulate(a_little_of_everything, seed=1).digest == DIGESTS[sys.version_info[:2]]
