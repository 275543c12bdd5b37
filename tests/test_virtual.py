"""VirtualLoop: time jumps, order stays, threads still count."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.virtual import StuckLoopError, VirtualLoop, run

YEAR = 365 * 86400.0


def test_a_year_of_sleeping_passes_in_no_time() -> None:
    """A sleep of a year ends at once, a year later by the loop's clock."""

    async def main() -> float:
        await asyncio.sleep(YEAR)
        return asyncio.get_running_loop().time()

    began = time.monotonic()
    assert run(main, timeout_virtual=2 * YEAR) == pytest.approx(YEAR)
    assert time.monotonic() - began < 5


@given(st.lists(st.floats(0, 1e6), max_size=30))
def test_timers_fire_in_order_and_on_time(delays: list[float]) -> None:
    """However timers are set they fire in the order of their times, each at its own time."""

    async def main() -> list[tuple[float, float]]:
        loop, fired = asyncio.get_running_loop(), list[tuple[float, float]]()
        for delay in delays:
            loop.call_later(delay, lambda delay=delay: fired.append((delay, loop.time())))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
        await asyncio.sleep(2e6)
        return fired

    fired = run(main)
    assert [delay for delay, _ in fired] == sorted(delays)
    assert all(at == pytest.approx(delay, abs=1e-6) for delay, at in fired)


def test_the_clock_stands_while_something_is_ready() -> None:
    """Tasks that only yield take no virtual time."""

    async def main() -> float:
        for _ in range(1000):
            await asyncio.sleep(0)
        return asyncio.get_running_loop().time()

    assert run(main) == 0.0


def test_timeouts_are_virtual() -> None:
    """asyncio's and anyio's deadlines follow the loop's clock."""

    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3600):
                await asyncio.Event().wait()
        with anyio.move_on_after(3600):
            await anyio.sleep_forever()
        return asyncio.get_running_loop().time()

    assert run(main) == pytest.approx(7200)


def test_a_thread_wakes_the_loop() -> None:
    """While a thread will call back the clock stands, and its call arrives."""

    async def main() -> tuple[str, float]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        answer: asyncio.Future[str] = loop.create_future()
        go = threading.Event()

        def work() -> None:
            go.wait(10)
            loop.call_soon_threadsafe(answer.set_result, "done")

        thread = threading.Thread(target=work)
        loop.waits_for_threads = thread.is_alive
        thread.start()
        loop.call_soon(go.set)
        async with asyncio.timeout(60):  # a timer the clock must not jump to
            result = await answer
        thread.join()
        return result, loop.time()

    assert run(main) == ("done", 0.0)


def test_calls_in_an_executor_need_no_hint() -> None:
    """asyncio.to_thread works under a deadline, and the loop ends with its threads."""

    async def main() -> tuple[str, float]:
        async with asyncio.timeout(1):
            name = await asyncio.to_thread(lambda: threading.current_thread().name)
        now = asyncio.get_running_loop().time()
        await asyncio.sleep(1)  # with no call left the clock jumps again
        return name, now

    began = time.monotonic()
    name, now = run(main)
    assert name != threading.current_thread().name
    assert now == 0.0
    assert time.monotonic() - began < 5


def test_what_can_never_wake_is_named() -> None:
    """Waiting for nothing raises at once and names the task and its place."""

    async def main() -> None:
        asyncio.current_task().set_name("the waiting one")  # type: ignore[union-attr]  # there is a task here
        await asyncio.Event().wait()

    with pytest.raises(
        StuckLoopError, match=r"nothing can ever wake .*the waiting one at .*\.py:\d+"
    ):
        run(main)


def test_virtual_time_can_run_out() -> None:
    """A timer that keeps coming back does not keep a stuck test alive; clean-up still may wait."""
    cleaned = []

    async def tick() -> None:
        while True:
            await asyncio.sleep(1)

    async def main() -> None:
        ticking = asyncio.create_task(tick())
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(100)
            cleaned.append(ticking.cancelled() or ticking.cancelling() or ticking.done())

    with pytest.raises(StuckLoopError, match="still busy at 50 virtual s"):
        run(main, timeout_virtual=50)
    assert cleaned == [True]


def test_a_silent_thread_is_given_up_on() -> None:
    """A thread that never calls holds the clock for `patience` real seconds, then it jumps."""

    async def main() -> float:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.patience, loop.waits_for_threads = 0.01, lambda: True
        await asyncio.sleep(5)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 5)
        now = loop.time()
        await asyncio.Event().wait()
        return now

    with pytest.raises(StuckLoopError, match=r"no thread called within 0\.01 s"):
        run(main)


def test_a_socket_wakes_the_loop() -> None:
    """With a socket to read the loop waits for it in real time when no timer is left."""

    async def main() -> bytes:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        near, far = socket.socketpair()
        idle, really_idle = threading.Event(), loop.idle

        def seen_idle(*args: Any) -> list[Any]:
            idle.set()
            return really_idle(*args)

        def send() -> None:
            idle.wait(10)
            far.sendall(b"hello")

        loop.idle = seen_idle  # type: ignore[assignment, method-assign]  # to know when the loop is idle
        with near, far:
            near.setblocking(False)
            thread = threading.Thread(target=send)
            thread.start()
            received = await loop.sock_recv(near, 5)
            thread.join()
            return received

    assert run(main) == b"hello"


def test_what_has_arrived_comes_before_a_timer() -> None:
    """The clock does not jump over a socket that can be read."""

    async def main() -> float:
        loop = asyncio.get_running_loop()
        near, far = socket.socketpair()
        with near, far:
            readable = asyncio.Event()
            loop.add_reader(near, readable.set)
            far.sendall(b"hello")
            async with asyncio.timeout(1):
                await readable.wait()
            loop.remove_reader(near)
        return loop.time()

    assert run(main) == 0.0


def test_errors_and_arguments_pass_through() -> None:
    """`run` hands over arguments and raises what the function raises."""

    async def divide(a: int, b: int) -> float:
        return a / b

    assert run(divide, 6, 3) == 2
    with pytest.raises(ZeroDivisionError):
        run(divide, 6, 0)


@pytest.mark.anyio
class TestUnderAnyio:
    """The loop serves anyio's own test runner too."""

    @pytest.fixture
    def anyio_backend(self) -> tuple[str, dict[str, object]]:
        return "asyncio", {"loop_factory": VirtualLoop}

    async def test_anyio_sleeps_virtually(self) -> None:
        """A day of anyio.sleep passes in no time, in a task group."""
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep, 86400)
        assert anyio.current_time() >= 86400
