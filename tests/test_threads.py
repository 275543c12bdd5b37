"""Plain handlers: they run in threads of the bus, in order, and may block for ever."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import socket
import subprocess
import sys
import threading
import time
from contextvars import ContextVar
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actorbus import Actor, DeadReason, Event, EventBus, Outcome, RetryPolicy
from actorbus import threads as threads_module
from actorbus.threads import Threads
from tests.conftest import heed_threads
from tests.handlers import Seen
from tests.virtual import run

real_time = pytest.mark.parametrize("anyio_backend", ["asyncio"])
"""For handlers that block: the virtual clock stands while a thread is busy."""


class Block:
    """A plain handler that notes what it gets and holds on to it until it is let go."""

    def __init__(self) -> None:
        self.got: list[Any] = []
        self.threads: set[int] = set()
        self.entered = threading.Semaphore(0)
        self.gate = threading.Event()

    def __call__(self, data: Any) -> None:
        self.got.append(data)
        self.threads.add(threading.get_ident())
        self.entered.release()
        self.gate.wait(30)


async def until(condition: Any, seconds: float = 5.0) -> None:
    """Let the loop run until something another thread does has come about."""
    over = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < over, "it did not come about"
        await asyncio.sleep(0.001)


# -- order and context --------------------------------------------------------------------------


@given(st.integers(1, 400), st.integers(1, 50), st.booleans())
def test_a_plain_handler_gets_everything_in_order(count: int, mailbox: int, lines: bool) -> None:
    """Through threads, mailbox and line every event is handled once, in publish order."""

    async def main() -> None:
        bus = EventBus()
        heed_threads(bus)
        got: list[int] = []
        bus.subscribe("a", got.append, mailbox=mailbox if lines else count, put_timeout=None)
        async with bus:
            for number in range(count):
                await bus.publish("a", number)
        assert got == list(range(count))
        assert bus.audit().balanced

    run(main)


async def test_one_delivery_at_a_time(bus: EventBus) -> None:
    """A plain handler with concurrency 1 is never run by two threads at once."""
    inside = 0
    peak = 0

    def handler(data: Any) -> None:
        nonlocal inside, peak
        inside += 1
        peak = max(peak, inside)
        time.sleep(0)
        inside -= 1

    bus.subscribe("a", handler)
    for number in range(300):
        bus.publish("a", number)
        if number % 50 == 0:
            await asyncio.sleep(0)
    await bus.settle()
    assert peak == 1


@real_time
async def test_concurrency_is_so_many_threads(bus: EventBus) -> None:
    """A plain handler with concurrency N blocks in N threads at once, no more."""
    block = Block()
    bus.subscribe("a", block, concurrency=3)
    for number in range(5):
        bus.publish("a", number)
    await until(lambda: len(block.got) == 3)
    await asyncio.sleep(0.02)
    assert len(block.got) == len(block.threads) == 3
    block.gate.set()
    await bus.settle()
    assert sorted(block.got) == list(range(5))


async def test_a_plain_handler_has_the_publisher_s_context_variables(bus: EventBus) -> None:
    """Each delivery sees the variables as they were at its publish; what it sets stays its own."""
    variable: ContextVar[str] = ContextVar("variable", default="none")
    seen: list[tuple[int, str]] = []

    def handler(data: int) -> None:
        seen.append((data, variable.get()))
        variable.set("changed")

    bus.subscribe("a", handler)

    def publish(number: int) -> None:
        variable.set(f"request {number}")
        bus.publish("a", number)

    for number in range(200):
        contextvars.copy_context().run(publish, number)
    bus.publish("a", 200)
    await bus.settle()
    assert seen == [*((number, f"request {number}") for number in range(200)), (200, "none")]
    assert variable.get() == "none"


async def test_the_context_is_the_one_of_a_publisher_in_another_thread_too(bus: EventBus) -> None:
    """Published from another thread, the handler sees that thread's variables."""
    variable: ContextVar[str] = ContextVar("variable", default="none")
    seen: list[str] = []
    bus.subscribe("a", lambda _: seen.append(variable.get()))

    def publish() -> None:
        variable.set("of the thread")
        bus.publish("a").wait(10)

    await asyncio.to_thread(publish)
    await bus.settle()
    assert seen == ["of the thread"]


async def test_a_plain_handler_that_fails_is_retried_in_order(bus: EventBus) -> None:
    """A failing delivery is tried again before the ones behind it, then given up."""
    runs: list[int] = []

    def handler(data: int) -> None:
        runs.append(data)
        if data == 1:
            raise ValueError(data)

    bus.subscribe("a", handler, retry=RetryPolicy(max_attempts=3, base=1.0))
    for number in range(4):
        bus.publish("a", number)
    await bus.settle()
    assert runs == [0, 1, 1, 1, 2, 3]
    [letter] = bus.dead_letters
    assert (letter.reason, letter.attempts) == (DeadReason.RETRIES_EXHAUSTED, 3)
    assert "ValueError" in letter.traceback


async def test_unsubscribe_lets_queued_deliveries_be_handled(bus: EventBus) -> None:
    """What is queued for a thread when its subscription ends is handled all the same."""
    got: list[int] = []
    sub = bus.subscribe("a", got.append)
    for number in range(300):
        bus.publish("a", number)
    sub.unsubscribe()
    await sub.ended()
    assert got == list(range(300))


# -- hops and acks ------------------------------------------------------------------------------


async def test_queued_events_share_thread_hops(bus: EventBus) -> None:
    """A hundred queued events do not take a hundred trips to a thread."""
    hops = 0
    submit = bus._engine.threads.submit  # there is no public way to count hops

    def counted(job: Any) -> bool:
        nonlocal hops
        hops += 1
        return submit(job)

    bus._engine.threads.submit = counted  # type: ignore[method-assign]
    got: list[int] = []
    bus.subscribe("a", got.append)
    for number in range(100):
        bus.publish("a", number)
    await bus.settle()
    assert got == list(range(100))
    assert hops <= 3


@real_time
async def test_no_ack_waits_more_than_5_ms_for_the_deliveries_behind_it(bus: EventBus) -> None:
    """The first delivery of a shared hop settles while the second one blocks."""
    gate = threading.Event()
    loop = asyncio.get_running_loop()
    ended: list[float] = []

    def handler(data: int) -> None:
        if data:
            gate.wait(30)
        else:
            ended.append(loop.time())

    bus.subscribe("a", handler)
    first = bus.publish("a", 0)
    second = bus.publish("a", 1)
    assert (await first.settled(timeout=10)).ok
    late = loop.time() - ended[0]
    assert not gate.is_set()
    assert bus.audit().totals.running == 1
    gate.set()
    assert (await second.settled(timeout=10)).ok
    assert late < 0.1  # 5 ms and whatever a loaded machine adds; without it, 30 s


@real_time
async def test_each_slow_delivery_of_a_hop_is_acked_as_it_ends(bus: EventBus) -> None:
    """However slow each is, a delivery settles when it ends, not with the last of its hop."""
    gates = [threading.Event() for _ in range(5)]
    bus.subscribe("a", lambda number: gates[number].wait(30))
    receipts = [bus.publish("a", number) for number in range(5)]
    for gate, receipt in zip(gates, receipts, strict=True):
        await asyncio.sleep(0.02)  # longer than a look at the thread's progress
        gate.set()
        assert (await receipt.settled(timeout=10)).ok
    assert bus.audit().totals.acked == 5


@real_time
async def test_room_is_freed_as_each_delivery_starts(bus: EventBus) -> None:
    """Deliveries lent to a thread stay in the capacity until they start."""
    block = Block()
    bus.subscribe("a", block, name="b", mailbox=3, put_timeout=None)
    bus.publish("a", 0)
    await until(lambda: block.got)
    receipts = [bus.publish("a", number) for number in range(1, 5)]
    assert [receipt.waiting for receipt in receipts] == [0, 0, 0, 1]
    terms = bus.audit().subscriptions["b"]
    assert (terms.running, terms.queued, terms.waiting) == (1, 3, 1)
    block.gate.set()
    await bus.settle()
    assert block.got == list(range(5))


# -- blocking for ever --------------------------------------------------------------------------


@real_time
async def test_a_handler_that_blocks_touches_nobody_else(bus: EventBus) -> None:
    """While one blocks, the loop, async and plain actors and the default executor go on."""
    block, seen = Block(), Seen()
    plain: list[int] = []
    bus.subscribe("a", block, name="stuck")
    bus.subscribe("a", seen)
    bus.subscribe("a", plain.append)
    receipts = [bus.publish("a", number) for number in range(10)]
    await until(lambda: len(seen.got) == 10 and len(plain) == 10)
    assert await asyncio.wait_for(asyncio.to_thread(lambda: 5), 10) == 5
    loop = asyncio.get_running_loop()
    assert await asyncio.wait_for(loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM), 10)
    assert block.got == [0]
    with pytest.raises(TimeoutError):
        await receipts[0].settled(timeout=0.01)
    block.gate.set()
    await bus.settle()
    assert block.got == list(range(10))


@real_time
async def test_many_blocked_actors_leave_the_default_executor_alone(bus: EventBus) -> None:
    """Fifty blocked actors are fifty threads of the bus and none of asyncio's."""
    blocks = [Block() for _ in range(50)]
    for block in blocks:
        bus.subscribe("a", block)
    bus.publish("a")
    await until(lambda: all(block.got for block in blocks))
    names = {thread.name for thread in threading.enumerate()}
    assert sum(name.startswith("actorbus-test-") for name in names) == 50
    assert not any(name.startswith("asyncio_") for name in names)
    assert await asyncio.wait_for(asyncio.to_thread(lambda: 5), 10) == 5
    for block in blocks:
        block.gate.set()
    await bus.settle()


@real_time
async def test_close_abandons_and_names_a_handler_that_blocks(make_bus: Any) -> None:
    """A blocked handler cannot hold up `close`: its delivery is dead and its name in the report."""
    bus = make_bus()
    block = Block()
    bus.subscribe("a", block, name="stuck")
    receipt = bus.publish("a")
    await until(lambda: block.got)
    report = await asyncio.wait_for(bus.close(timeout=0.05), 10)
    assert report.abandoned == ("stuck",)
    assert not report.complete
    assert (await receipt.settled()).outcomes == {"stuck": Outcome.DEAD}
    assert [letter.reason for letter in bus.dead_letters] == [DeadReason.DRAIN_TIMEOUT]
    block.gate.set()
    await until(lambda: not bus_threads())
    assert bus.audit().totals.acked == 0


BLOCKED = """
import asyncio, threading
from actorbus import EventBus
async def main():
    bus = EventBus()
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()
    def block(data):
        loop.call_soon_threadsafe(begun.set)
        threading.Event().wait()
    bus.subscribe("a", block)
    bus.publish("a")
    await begun.wait()
    await bus.close(timeout=0.05)
asyncio.run(main())
"""


def test_a_blocked_handler_does_not_hold_up_the_program_s_end() -> None:
    """Threads of the bus are daemons: the interpreter does not wait for them."""
    subprocess.run([sys.executable, "-c", BLOCKED], check=True, timeout=30)


# -- how many -----------------------------------------------------------------------------------


def bus_threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name.startswith("actorbus-test-")]


@real_time
async def test_at_most_threads_at_once_and_exhaustion_is_announced(make_bus: Any) -> None:
    """With all taken further actors wait, `$bus:threads:exhausted` says so, none is lost."""
    async with make_bus(threads=2) as bus:
        said: list[Event] = []

        async def listen(event: Event) -> None:
            said.append(event)

        bus.subscribe("$bus:threads:exhausted", listen)
        blocks = [Block() for _ in range(4)]
        for block in blocks:
            bus.subscribe("a", block)
        assert bus_threads() == []
        bus.publish("a")
        await until(lambda: sum(len(block.got) for block in blocks) == 2)
        await until(lambda: said)
        await asyncio.sleep(0.02)
        assert sum(len(block.got) for block in blocks) == len(bus_threads()) == 2
        assert [event.data for event in said] == [{"threads": 2}]
        for block in blocks:
            block.gate.set()
        await bus.settle(timeout=10)
        assert [block.got for block in blocks] == [[None]] * 4
        assert len(bus_threads()) == 2


@real_time
@pytest.mark.parametrize("guarantee", ["at_least_once", "at_most_once"])
async def test_a_delivery_that_no_thread_has_begun_is_not_interrupted(
    make_bus: Any, guarantee: str
) -> None:
    """Restarts while it waits for a thread are none of its own: it runs once, when there is one."""
    async with make_bus(threads=1) as bus:
        block, seen = Block(), Seen()
        bus.subscribe("block", block)
        bus.publish("block")
        await until(lambda: block.got)
        family = bus.supervisor("family", "one_for_all", max_restarts=10)

        class Failing(Actor):
            async def receive(self, event: Event) -> None:
                raise ValueError

        bad = family.spawn(Failing, retry=RetryPolicy.none())
        options = {"concurrency": 2, "guarantee": guarantee}
        sub = family.subscribe("work", lambda data: seen.got.append(data), name="work", **options)
        bus.publish("work", 1)
        for failures in range(1, 4):
            bad.tell(None)
            await until(lambda: sub.ledger.restarts == failures)  # noqa: B023 looked at here
        block.gate.set()
        await bus.settle(timeout=10)
        assert seen.got == [1]
        assert bus.dead_letters.list(subscription=sub.name) == []


@real_time
async def test_threads_are_made_on_demand_and_used_again(make_bus: Any) -> None:
    """No thread before it is needed; one after another need only one."""
    async with make_bus() as bus:
        got: list[int] = []
        for _ in range(5):
            bus.subscribe("b:*", got.append)
        bus.subscribe("a", got.append)
        assert bus_threads() == []
        for number in range(20):
            await bus.publish("a", number).settled()
        assert got == list(range(20))
        assert 1 <= len(bus_threads()) <= 2
        assert all(thread.daemon for thread in bus_threads())
    assert bus_threads() == []


@real_time
async def test_threads_end_when_idle(make_bus: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread idle for a while ends, and the next delivery has a new one."""
    monkeypatch.setattr(threads_module, "IDLE", 0.02)
    async with make_bus() as bus:
        got: list[int] = []
        bus.subscribe("a", got.append)
        await bus.publish("a", 1).settled()
        await until(lambda: not bus_threads())
        await bus.publish("a", 2).settled()
        assert got == [1, 2]


@real_time
async def test_no_thread_remains_after_close(make_bus: Any) -> None:
    """When `close` returns, every thread whose handler had ended is gone."""
    for _ in range(20):
        bus = make_bus()
        for _ in range(5):
            bus.subscribe("a", lambda _: None)
        bus.publish("a")
        await bus.close()
        assert bus_threads() == []


# -- the pool by itself -------------------------------------------------------------------------


@given(limit=st.integers(1, 4), jobs=st.integers(0, 30))
def test_the_pool_runs_each_job_once_and_never_more_at_once_than_its_limit(
    limit: int, jobs: int
) -> None:
    """Whatever the limit, every job runs once, in order of submission where there is one thread."""
    pool = Threads(limit, "pool")
    ran, all_ran = list[int](), threading.Semaphore(0)
    submitted, before = threading.Event(), {*threading.enumerate()}

    def job(number: int) -> None:
        ran.append(number)
        submitted.wait(10)  # so that a second job needs a second thread
        all_ran.release()

    for number in range(jobs):
        pool.submit(lambda number=number: job(number))  # type: ignore[misc]  # bound early
    made = {*threading.enumerate()} - before
    submitted.set()
    assert len(made) == min(limit, jobs)
    for _ in range(jobs):
        assert all_ran.acquire(timeout=10)
    assert sorted(ran) == list(range(jobs))
    if limit == 1:
        assert ran == list(range(jobs))
    pool.close()


def test_submit_says_whether_a_thread_takes_the_job() -> None:
    """True while there is a thread for it, False when all are taken."""
    pool, gate, begun = Threads(2, "pool"), threading.Event(), threading.Semaphore(0)

    def job() -> None:
        begun.release()
        gate.wait(30)

    assert [pool.submit(job) for _ in range(4)] == [True, True, False, False]
    for _ in range(2):
        assert begun.acquire(timeout=10)
    assert pool.busy == 4
    gate.set()
    for _ in range(2):
        assert begun.acquire(timeout=10)
    pool.close()


def test_a_finished_job_is_not_kept_alive() -> None:
    """The pool holds nothing of a job once it has run."""
    pool, done = Threads(1, "pool"), threading.Event()

    class Big:
        pass

    big = Big()
    alive = threading.Event()

    def job(held: Big = big) -> None:
        alive.set()

    pool.submit(job)
    pool.submit(done.set)
    assert done.wait(10)
    del job
    referrers = [each for each in gc.get_referrers(big) if type(each).__name__ == "tuple"]
    assert referrers == []
    pool.close()


@real_time
async def test_a_started_delivery_no_longer_fills_the_mailbox(bus: EventBus) -> None:
    """What a thread has started leaves room at once for the next publish, and for the line."""
    block, dropping = Block(), Block()
    bus.subscribe("a", block, mailbox=1, put_timeout=None)
    bus.subscribe("b", dropping, mailbox=1, overflow="drop_new")
    for topic, each in (("a", block), ("b", dropping)):
        bus.publish(topic, 0)
        await until(lambda each=each: each.got)
        receipt = bus.publish(topic, 1)
        assert (receipt.waiting, receipt.refused) == (0, 0)
    block.gate.set()
    dropping.gate.set()
    await bus.settle()
    assert block.got == dropping.got == [0, 1]


@real_time
async def test_the_line_moves_up_when_a_thread_starts_a_delivery(bus: EventBus) -> None:
    """An awaited publish to a full mailbox returns when the thread starts, not when it ends."""
    block = Block()
    bus.subscribe("a", block, mailbox=1, put_timeout=None)
    bus.publish("a", 0)
    receipt = bus.publish("a", 1)
    assert receipt.waiting == 1
    assert await asyncio.wait_for(receipt, 10) is receipt
    assert block.got == [0]
    block.gate.set()
    await bus.settle()


async def test_each_delivery_of_several_workers_is_the_cause_of_what_it_publishes(
    bus: EventBus,
) -> None:
    """What came while a thread was at work has its own event in hand, not the one before it."""
    causes: list[tuple[str, str | None]] = []
    gates = {"one": threading.Event(), "other": threading.Event()}
    seen = asyncio.Event()

    def handle(event: Event) -> None:
        if event.data in gates:
            assert gates[event.data].wait(10.0)
        bus.publish("seen:by", event.id)

    async def note(event: Event) -> None:
        causes.append((event.data, event.causation_id))
        seen.set()

    bus.subscribe("a:*", handle, concurrency=2, mailbox=10)
    bus.subscribe("seen:by", note)
    bus.publish("a:b", "one")  # keeps one worker
    await asyncio.sleep(0)
    bus.publish("a:b", "fast")  # lets the other one take two at a time
    await seen.wait()
    bus.publish("a:b", "other")
    for _ in range(20):
        await asyncio.sleep(0)
    bus.publish("a:b", "late")  # comes while that one is under way
    for gate in gates.values():
        gate.set()
    await bus.settle()
    assert len(causes) == 4
    assert all(published == cause for published, cause in causes)
