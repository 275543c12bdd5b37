"""Virtual time for marked tests, whatever plugin runs them."""

from __future__ import annotations

import pytest

from tests.test_testing_plugin import RUNNERS, Outer, outer, use

__all__ = ["outer"]


@pytest.mark.parametrize(("mark", "args"), RUNNERS)
def test_a_backoff_takes_no_time(outer: Outer, mark: str, args: list[str]) -> None:
    """A retry 30 s later comes 30 s later by the loop's clock, on a loop that does not wait."""
    result = outer.run(
        f"""
from actorbus.testing import VirtualLoop

{use(mark)}
@pytest.mark.virtual_time
async def test_it(bus):
    loop, attempts = asyncio.get_running_loop(), []

    async def flaky(data):
        attempts.append(loop.time())
        if len(attempts) == 1:
            raise ConnectionError
    bus.subscribe("a", flaky, retry=RetryPolicy(base=30.0, jitter="none"))

    began = loop.time()
    assert (await bus.publish("a").settled()).ok
    assert isinstance(loop, VirtualLoop)
    assert [at - began for at in attempts] == [0, pytest.approx(30)]

{use(mark)}
async def test_unmarked():
    assert not isinstance(asyncio.get_running_loop(), VirtualLoop)
""",
        *args,
    )

    result.assert_outcomes(passed=2)


@pytest.mark.parametrize(
    "backend",
    [
        "'asyncio'",
        "('asyncio', {})",
        "('asyncio', {'debug': True})",
        "('asyncio', {'loop_factory': asyncio.SelectorEventLoop})",
        "('asyncio', {'loop_factory': VirtualLoop})",
    ],
)
@pytest.mark.parametrize("scope", ["function", "session"])
def test_every_backend_of_anyio_on_asyncio(outer: Outer, backend: str, scope: str) -> None:
    """Whatever loop the backend asks for, a marked test has a virtual one."""
    result = outer.run(f"""
from actorbus.testing import VirtualLoop

@pytest.fixture(scope="{scope}")
def anyio_backend():
    return {backend}

@pytest.mark.anyio
@pytest.mark.virtual_time
async def test_it(bus):
    assert isinstance(asyncio.get_running_loop(), VirtualLoop)
    await asyncio.sleep(1e6)
    bus.publish("a")
""")

    result.assert_outcomes(passed=1)


def test_a_plain_test_may_have_virtual_time(outer: Outer) -> None:
    """Loops that a marked plain test makes by `asyncio.run` are virtual, and after it none is."""
    result = outer.run("""
import threading
from actorbus.testing import VirtualLoop

async def kind():
    return type(asyncio.get_running_loop())

@pytest.mark.virtual_time
def test_it(bus):
    async def main():
        bus.publish("a")
        await asyncio.sleep(1e6)
    bus.run(main)
    elsewhere = []
    thread = threading.Thread(target=lambda: elsewhere.append(asyncio.run(kind())))
    thread.start()
    thread.join()
    assert not issubclass(elsewhere[0], VirtualLoop)

def test_after():
    assert not issubclass(asyncio.run(kind()), VirtualLoop)
""")

    result.assert_outcomes(passed=2)


def test_threads_of_a_bus_are_waited_for(outer: Outer) -> None:
    """While a handler blocks in a thread, on any bus, the clock stands: no timeout comes early."""
    result = outer.run("""
import threading, time

@pytest.mark.anyio
@pytest.mark.virtual_time
async def test_it():
    async with EventBus("mine") as bus:
        done = []
        def block(data):
            time.sleep(0.05)
            done.append(data)
        bus.subscribe("a", block)
        await bus.publish("a", 1).settled(timeout=3600)
        assert done == [1]
        assert asyncio.get_running_loop().time() < 3600
""")

    result.assert_outcomes(passed=1)


def test_a_thread_that_blocks_for_ever_is_given_up_once(outer: Outer) -> None:
    """The clock waits for a handler that never returns once, and then jumps as often as it may."""
    result = outer.run("""
import threading

@pytest.mark.anyio
@pytest.mark.virtual_time
async def test_it():
    asyncio.get_running_loop().patience = 0.1
    let_go = threading.Event()
    async with EventBus("mine") as bus:
        bus.subscribe("a", lambda data: let_go.wait())
        bus.publish("a", 1)
        for _ in range(1000):
            await asyncio.sleep(1)
        let_go.set()
""")

    result.assert_outcomes(passed=1)


def test_a_stuck_test_fails_at_once(outer: Outer) -> None:
    """What can never end, and what takes longer than its mark allows, fails without waiting."""
    result = outer.run("""
@pytest.mark.anyio
@pytest.mark.virtual_time
async def test_stuck():
    await asyncio.Event().wait()

@pytest.mark.anyio
@pytest.mark.virtual_time(timeout=60)
async def test_long():
    while True:
        await asyncio.sleep(1)
""")

    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["*nothing can ever wake the loop*", "*still busy at 60*"])


def test_a_loop_of_somebody_else_is_refused(outer: Outer) -> None:
    """A marked test on a loop that an unmarked one began fails and says why, and the other way."""
    fixture = """
@pytest.fixture(scope="module")
def anyio_backend():
    return "asyncio"

@pytest.fixture(scope="module")
async def shared(anyio_backend):
    yield

@pytest.mark.anyio
{first}
async def test_first(shared):
    pass

@pytest.mark.anyio
{second}
async def test_second(shared):
    pass
"""
    marked = "@pytest.mark.virtual_time"

    real = outer.run(fixture.format(first="", second=marked))
    virtual = outer.run(fixture.format(first=marked, second=""))
    both = outer.run(fixture.format(first=marked, second=marked))

    real.assert_outcomes(passed=1, failed=1)
    real.stdout.fnmatch_lines(["marked virtual_time, but it runs on *"])
    virtual.assert_outcomes(passed=1, failed=1)
    virtual.stdout.fnmatch_lines(["not marked virtual_time, but it runs on a loop *"])
    both.assert_outcomes(passed=2)


def test_a_loop_policy_of_their_own_is_refused(outer: Outer) -> None:
    """Where a policy of the user's makes the loop, the test says so instead of waiting."""
    result = outer.run(
        """
@pytest.fixture
def event_loop_policy():
    return asyncio.DefaultEventLoopPolicy()

@pytest.mark.asyncio
@pytest.mark.virtual_time
async def test_it():
    await asyncio.sleep(3600)
""",
        "--asyncio-mode=strict",
    )

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["marked virtual_time, but it runs on *policy*"])


def test_hypothesis_has_virtual_time_too(outer: Outer) -> None:
    """Every example of a property runs in virtual time."""
    for mark, args in (("anyio", ()), ("asyncio", ("--asyncio-mode=strict",))):
        result = outer.run(
            f"""
from actorbus.testing import VirtualLoop
from hypothesis import given, settings, strategies as st

{use(mark)}
@pytest.mark.virtual_time
@settings(max_examples=5, database=None)
@given(st.integers())
async def test_it(number):
    assert isinstance(asyncio.get_running_loop(), VirtualLoop)
    await asyncio.sleep(3600)
""",
            *args,
        )

        result.assert_outcomes(passed=1)
