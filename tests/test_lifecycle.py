"""Starting, settling, draining and closing a bus; and what is left afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from collections.abc import Callable
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal

from actorbus import (
    Actor,
    BusClosedError,
    BusNotRunningError,
    DeadlockError,
    DeadReason,
    Event,
    EventBus,
    RestartPolicy,
    RetryAfter,
    RetryPolicy,
)
from tests.conftest import heed_threads
from tests.virtual import VirtualLoop

Maker = Callable[..., EventBus]


def now() -> float:
    """Return the loop's time."""
    return asyncio.get_running_loop().time()


def live_timers() -> list[asyncio.TimerHandle]:
    """Return the loop's timers that are still to fire."""
    loop: Any = asyncio.get_running_loop()
    return [timer for timer in loop._scheduled if not timer.cancelled()]


def threads_of(bus: EventBus) -> list[str]:
    """Return the names of the bus's threads."""
    return [t.name for t in threading.enumerate() if t.name.startswith(f"actorbus-{bus.name}")]


async def hang(event: Event) -> None:
    """Handle for ever."""
    await asyncio.Event().wait()


class Stubborn:
    """A handler that swallows its cancellation, a few times.

    Attributes:
        over: Lets it end.
    """

    def __init__(self) -> None:
        self.over = asyncio.Event()

    async def __call__(self, event: Event) -> None:
        for _ in range(5):
            try:
                await self.over.wait()
                break
            except asyncio.CancelledError:
                continue


# -- starting -------------------------------------------------------------------------------------


async def test_async_with_starts_and_closes(make_bus: Maker) -> None:
    """Inside the block the bus is open, after it closed, and what was published is handled."""
    got: list[int] = []
    made = make_bus()
    made.subscribe("t", got.append, inline=True)
    async with made as bus:
        assert bus is made
        bus.publish("t", 1)
    assert got == [1]
    with pytest.raises(BusClosedError, match="closed"):
        bus.publish("t", 2)


async def test_an_exception_passes_through_the_block_after_the_drain(make_bus: Maker) -> None:
    """The block's own error is raised, and accepted work is finished first."""
    got: list[int] = []
    bus = make_bus()
    bus.subscribe("t", got.append, inline=True)
    with pytest.raises(LookupError):
        async with bus:
            bus.publish("t", 1)
            raise LookupError
    assert got == [1]


async def test_cancelling_the_block_still_drains(make_bus: Maker) -> None:
    """A cancelled ``async with`` brings its bus to rest before it lets go."""
    got: list[int] = []
    bus = make_bus()

    async def handler(data: int) -> None:
        await asyncio.sleep(1)
        got.append(data)

    bus.subscribe("t", handler)

    async def program() -> None:
        async with bus:
            bus.publish("t", 1)
            await asyncio.sleep(0.5)

    task = asyncio.create_task(program())
    await asyncio.sleep(0.1)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert got == [1]


async def test_start_returns_when_every_actor_has_started(make_bus: Maker) -> None:
    """After `start` every actor runs; starting twice changes nothing."""
    started: list[str] = []

    class Slow(Actor):
        async def on_start(self) -> None:
            await asyncio.sleep(3)
            started.append(self.name)

        async def receive(self, event: Event) -> None: ...

    bus = make_bus()
    refs = [bus.spawn(Slow, name=name) for name in ("one", "two")]
    await bus.start()
    assert started == ["one", "two"]
    assert [ref.state for ref in refs] == ["running", "running"]
    await bus.start()
    assert started == ["one", "two"]
    await bus.close()


# -- settle ---------------------------------------------------------------------------------------


async def test_settle_waits_for_waiting_queued_running_and_retrying(bus: EventBus) -> None:
    """Nothing is pending in any of the four ways when `settle` returns."""
    done: list[int] = []

    async def handler(event: Event) -> None:
        await asyncio.sleep(1)
        if event.data == 0 and not done:
            done.append(0)
            raise OSError
        done.append(event.data)

    bus.subscribe(
        "t", handler, name="s", mailbox=1, put_timeout=None,
        retry=RetryPolicy(base=7.0, jitter="none"),
    )  # fmt: skip
    bus.publish("t", 0)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for number in (1, 2):
        bus.publish("t", number)
    terms = bus.audit().subscriptions["s"]
    assert (terms.running, terms.queued, terms.waiting) == (1, 1, 1)
    await asyncio.sleep(2)
    assert bus.audit().subscriptions["s"].retrying == 1
    await bus.settle()
    assert done == [0, 0, 1, 2]
    assert bus.audit().totals.pending == 0


async def test_settle_follows_chains_of_events(bus: EventBus) -> None:
    """What handlers publish meanwhile is waited for too."""
    got: list[str] = []

    async def first(event: Event) -> None:
        await asyncio.sleep(1)
        bus.publish("second")

    async def second(event: Event) -> None:
        await asyncio.sleep(1)
        got.append(event.topic)

    bus.subscribe("first", first)
    bus.subscribe("second", second)
    bus.publish("first")
    await bus.settle()
    assert got == ["second"]


async def test_settle_is_pushed_not_polled(bus: EventBus) -> None:
    """Waiting a day for a handler takes a handful of loop turns and no timer of its own."""
    loop: Any = asyncio.get_running_loop()
    turns = 0
    plain = loop._run_once

    def counting() -> None:
        nonlocal turns
        turns += 1
        plain()

    async def handler(event: Event) -> None:
        await asyncio.sleep(86_400)

    bus.subscribe("t", handler)
    bus.publish("t")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    settling = asyncio.create_task(bus.settle())
    await asyncio.sleep(0)
    assert len(live_timers()) == 1  # the handler's own
    loop._run_once = counting
    try:
        await settling
    finally:
        del loop._run_once
    assert now() == 86_400
    assert turns < 10


async def test_settle_ignores_suspended_actors(bus: EventBus) -> None:
    """Mail of a suspended actor does not hold up `settle`."""

    async def handler(event: Event) -> None:
        raise OSError

    bus.subscribe(
        "t", handler, name="s", retry=RetryPolicy.none(), on_failure="restart",
        restart=RestartPolicy(max_restarts=0),
    )  # fmt: skip
    bus.publish("t")
    await bus.settle(timeout=1)
    bus.publish("t")
    await bus.settle(timeout=1)
    assert bus.audit().subscriptions["s"].queued == 1


async def test_settle_returns_when_a_busy_actor_is_suspended(bus: EventBus) -> None:
    """A settle under way is told of a suspension."""

    async def handler(event: Event) -> None:
        await asyncio.sleep(2)
        raise OSError

    bus.subscribe(
        "t", handler, name="s", retry=RetryPolicy.none(), on_failure="restart",
        restart=RestartPolicy(max_restarts=0),
    )  # fmt: skip
    for _ in range(3):
        bus.publish("t")
    await bus.settle(timeout=10)
    assert now() < 3
    assert bus.audit().subscriptions["s"].queued == 2


async def test_settle_names_the_busy_ones(make_bus: Maker) -> None:
    """`TimeoutError` says who is busy, and only them."""
    bus = make_bus()
    async with bus:
        bus.subscribe("t", hang, name="stuck")
        bus.subscribe("t", hang, name="stuck_too")
        bus.subscribe("u", hang, name="idle")
        bus.publish("t")
        with pytest.raises(TimeoutError, match="stuck, stuck_too") as caught:
            await bus.settle(timeout=2)
        assert "idle" not in str(caught.value)
        assert now() == 2
        await bus.close(timeout=0.1)


async def test_settle_inside_a_handler_is_a_deadlock(bus: EventBus) -> None:
    """A handler's own delivery would never settle: refused at once."""

    async def handler(event: Event) -> None:
        await bus.settle()

    bus.subscribe("t", handler, name="s", retry=RetryPolicy.none())
    await bus.publish("t").settled()
    (letter,) = bus.dead_letters
    assert isinstance(letter.error, DeadlockError)
    assert letter.error.cycle == ("s",)


async def test_settle_includes_what_threads_have_published(bus: EventBus) -> None:
    """An event on its way from another thread counts as accepted."""
    got: list[int] = []

    async def handler(data: int) -> None:
        await asyncio.sleep(1)
        got.append(data)

    bus.subscribe("t", handler)
    await asyncio.to_thread(bus.publish, "t", 1)
    await bus.settle()
    assert got == [1]


# -- drain ----------------------------------------------------------------------------------------


async def test_a_drain_finishes_accepted_work_and_accepts_no_more(make_bus: Maker) -> None:
    """Mailbox and line are emptied; publishes without a cause are refused at once."""
    bus = make_bus()
    got: list[int] = []

    async def handler(data: int) -> None:
        await asyncio.sleep(1)
        got.append(data)

    bus.subscribe("t", handler, mailbox=2, put_timeout=None)
    for number in range(4):
        bus.publish("t", number)
        await asyncio.sleep(0)
    draining = asyncio.create_task(bus.drain())
    await asyncio.sleep(0.1)
    with pytest.raises(BusClosedError, match="draining"):
        bus.publish("t", 9)
    with pytest.raises(BusClosedError):
        await bus.ask("t", 9)
    report = await draining
    assert got == [0, 1, 2, 3]
    assert (report.acked, report.dead, report.abandoned, report.complete) == (4, 0, (), True)
    assert report.seconds == pytest.approx(4.0, abs=0.1)
    with pytest.raises(BusClosedError):
        bus.publish("t", 9)


async def test_what_handlers_publish_during_a_drain_is_accepted(make_bus: Maker) -> None:
    """An event with a cause in hand, or given by `cause=`, still goes through."""
    bus = make_bus()
    got: list[str] = []

    async def first(event: Event) -> None:
        await asyncio.sleep(1)
        bus.publish("second")
        bus.publish("third", cause=event)

    async def others(event: Event) -> None:
        await asyncio.sleep(1)
        got.append(event.topic)

    async with bus:
        bus.subscribe("first", first)
        bus.subscribe(["second", "third"], others)
        bus.publish("first")
    assert got == ["second", "third"]


async def test_what_plain_handlers_publish_during_a_drain_is_accepted(bus: EventBus) -> None:
    """From the thread of a handler too, an event with a cause in hand goes through."""
    draining = threading.Event()
    got: list[str] = []

    def first(event: Event) -> None:
        assert draining.wait(20)
        bus.publish("second")

    async def second(event: Event) -> None:
        got.append(event.topic)

    bus.subscribe("first", first)
    bus.subscribe("second", second)
    bus.publish("first")
    closing = asyncio.create_task(bus.close())
    await asyncio.sleep(0)
    draining.set()
    await closing
    assert got == ["second"]


async def test_no_delay_is_longer_than_a_second_while_draining(make_bus: Maker) -> None:
    """Retries and restarts under way or begun during the drain wait one second at most."""
    bus = make_bus()
    attempts: list[float] = []

    async def handler(event: Event) -> None:
        attempts.append(now())
        if len(attempts) < 4:
            raise RetryAfter(1000)

    class Failing(Actor):
        failures = 0

        async def receive(self, event: Event) -> None:
            if event.data == "fail":
                raise OSError

    await bus.start()
    bus.subscribe("t", handler, retry=RetryPolicy(max_elapsed=None))
    bus.spawn(
        Failing, name="actor", retry=RetryPolicy.none(), restart=RestartPolicy(max_restarts=100)
    )
    ref = bus.actor("actor")
    assert ref is not None
    for _ in range(8):
        ref.tell("fail")
    bus.publish("t")
    await asyncio.sleep(5)
    report = await bus.close()
    assert report.complete
    gaps = [later - earlier for earlier, later in itertools.pairwise(attempts[1:])]
    assert attempts[1] <= 6.001
    assert all(gap <= 1.001 for gap in gaps)
    assert now() < 15


async def test_a_suspended_actors_mail_is_dead_at_once(make_bus: Maker) -> None:
    """`suspended`: what it holds when the drain begins, and what comes to it later."""
    bus = make_bus()

    async def broken(event: Event) -> None:
        raise OSError

    async def slow(event: Event) -> None:
        await asyncio.sleep(3)
        bus.publish("t", "late")

    await bus.start()
    bus.subscribe(
        "t", broken, name="s", retry=RetryPolicy.none(), on_failure="restart",
        restart=RestartPolicy(max_restarts=0),
    )  # fmt: skip
    bus.subscribe("slow", slow)
    bus.publish("t")
    await asyncio.sleep(1)
    for _ in range(3):
        bus.publish("t", "early")
    bus.publish("slow")
    draining = asyncio.create_task(bus.drain())
    await asyncio.sleep(0.1)
    assert [str(x.reason) for x in bus.dead_letters.list(reason="suspended")] == ["suspended"] * 3
    report = await draining
    late = [letter for letter in bus.dead_letters if letter.event.data == "late"]
    assert [letter.reason for letter in late] == [DeadReason.SUSPENDED]
    assert report.complete


async def test_actors_stop_in_reverse_order_of_their_start(make_bus: Maker) -> None:
    """The last to start is the first to stop, one after the other, through the supervisors."""
    bus = make_bus()
    stopped: list[str] = []

    class Each(Actor):
        async def receive(self, event: Event) -> None: ...

        async def on_stop(self, reason: str) -> None:
            assert reason == "drained"
            await asyncio.sleep(1)
            stopped.append(self.name)

    bus.spawn(Each, name="one")
    below = bus.supervisor("below")
    below.spawn(Each, name="two")
    below.spawn(Each, name="three")
    bus.spawn(Each, name="four")
    async with bus:
        pass
    assert stopped == ["four", "three", "two", "one"]


async def test_what_the_deadline_cuts_off_is_dead(make_bus: Maker) -> None:
    """`drain_timeout` for what was in hand, queued and waiting; nothing is left open."""
    bus = make_bus()
    await bus.start()
    bus.subscribe("t", hang, name="s", mailbox=2, put_timeout=None)
    receipts = []
    for number in range(4):
        receipts.append(bus.publish("t", number))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert receipts[3].waiting == 1
    report = await bus.close(timeout=3)
    assert now() == pytest.approx(3.0, abs=0.1)
    assert (report.acked, report.dead, report.complete) == (0, 4, False)
    assert report.abandoned == ()
    letters = bus.dead_letters.list()
    assert sorted(letter.event.data for letter in letters) == [0, 1, 2, 3]
    assert {letter.reason for letter in letters} == {DeadReason.DRAIN_TIMEOUT}
    assert bus.audit().totals.pending == 0


async def test_a_handler_that_will_not_end_is_abandoned_and_named(make_bus: Maker) -> None:
    """A close takes its time and a second of grace, whatever a handler does with cancellation."""
    bus = make_bus()
    await bus.start()
    before = asyncio.all_tasks()
    stubborn = Stubborn()
    bus.subscribe("t", stubborn, name="stubborn")
    bus.subscribe("t", hang, name="hanging")
    bus.publish("t")
    await asyncio.sleep(0.1)
    report = await bus.close(timeout=2)
    assert report.abandoned == ("stubborn",)
    assert not report.complete
    assert now() < 6
    left = asyncio.all_tasks() - before
    assert [task.get_name() for task in left] == ["actorbus:stubborn"]
    stubborn.over.set()
    await asyncio.wait(left, timeout=1)
    assert asyncio.all_tasks() == before


async def test_a_sync_handler_that_blocks_for_ever_is_named(make_bus: Maker) -> None:
    """A thread cannot be ended: it is named, and the rest of the bus comes to rest."""
    bus = make_bus()
    go, began = threading.Event(), threading.Event()

    def blocked(data: object) -> None:
        began.set()
        go.wait(20)

    await bus.start()
    bus.subscribe("t", blocked, name="blocked")
    bus.publish("t")
    await asyncio.to_thread(began.wait, 10)
    report = await bus.close(timeout=1)
    assert report.abandoned == ("blocked",)
    assert [letter.reason for letter in bus.dead_letters] == [DeadReason.DRAIN_TIMEOUT]
    go.set()


async def test_an_idle_bus_drains_completely_even_without_time(make_bus: Maker) -> None:
    """With nothing to cut off, a deadline of zero cuts nothing off."""
    bus = make_bus()
    await bus.start()
    bus.subscribe("t", hang)
    report = await bus.close(timeout=0)
    assert report.complete
    assert report.abandoned == ()


# -- close ----------------------------------------------------------------------------------------


async def test_closing_is_idempotent(make_bus: Maker) -> None:
    """Everybody who drains or closes gets the same report, at the same time or later."""
    bus = make_bus()
    await bus.start()

    async def handler(event: Event) -> None:
        await asyncio.sleep(2)

    bus.subscribe("t", handler)
    bus.publish("t")
    reports = await asyncio.gather(bus.close(), bus.drain(), bus.close())
    assert reports[0] is reports[1] is reports[2]
    assert await bus.close() is reports[0]
    assert reports[0].acked == 1
    assert now() == pytest.approx(2.0)


async def test_cancelling_a_drain_does_not_stop_it(make_bus: Maker) -> None:
    """A cancelled `drain` goes on for whoever asks next."""
    bus = make_bus()
    await bus.start()

    async def handler(event: Event) -> None:
        await asyncio.sleep(5)

    bus.subscribe("t", handler)
    bus.publish("t")
    draining = asyncio.create_task(bus.drain())
    await asyncio.sleep(1)
    draining.cancel()
    await asyncio.wait({draining})
    report = await bus.close()
    assert report.acked == 1
    assert report.seconds == pytest.approx(5.0)


async def test_closing_inside_a_handler_does_not_wait_for_it(make_bus: Maker) -> None:
    """The handler gets its report, goes on and is acked; what stands behind it is handled."""
    bus = make_bus()
    before = asyncio.all_tasks()
    got: list[object] = []

    async def closer(event: Event) -> None:
        if event.data == 0:
            report = await bus.close()
            got.append(report.complete)
        got.append(event.data)

    await bus.start()
    bus.subscribe("t", closer, name="s")
    first, second = bus.publish("t", 0), bus.publish("t", 1)
    result = await first.settled(timeout=5)
    assert result.ok
    assert (await second.settled(timeout=5)).ok
    assert got == [True, 0, 1]
    await asyncio.sleep(5)
    assert asyncio.all_tasks() == before
    assert bus.audit().balanced


async def test_closing_inside_a_sync_handler_of_another_bus_thread(make_bus: Maker) -> None:
    """A thread may ask the loop to close the bus that it works for."""
    bus = make_bus()
    heed_threads(bus)
    loop = asyncio.get_running_loop()
    futures: list[Any] = []

    def handler(data: object) -> None:
        futures.append(asyncio.run_coroutine_threadsafe(bus.close(), loop))

    await bus.start()
    bus.subscribe("t", handler)
    assert (await bus.publish("t").settled(timeout=5)).ok
    report = await asyncio.wrap_future(futures[0])
    assert report.complete


async def test_after_close_no_task_thread_or_timer_remains(make_bus: Maker) -> None:
    """Retries, restarts, probes, lines, streams, threads, lag: nothing of it outlives the bus."""
    bus = make_bus()
    heed_threads(bus)
    before = asyncio.all_tasks()

    class Failing(Actor):
        async def receive(self, event: Event) -> None:
            raise OSError

    async def failing(event: Event) -> None:
        raise OSError

    async with bus:
        bus.sample_loop_lag()
        bus.subscribe("t", lambda data: None, name="thread", concurrency=3)
        bus.subscribe("t", hang, name="full", mailbox=1)
        bus.subscribe("t", failing, name="later", key="key", retry=RetryPolicy(base=30.0))
        bus.subscribe("t", failing, name="retrying", retry=RetryPolicy(base=30.0))
        bus.spawn(Failing, name="restarting", retry=RetryPolicy.none())
        bus.subscribe("t", hang, name="timing", timeout=1000.0)
        bus.subscribe(
            "t", failing, name="suspended", retry=RetryPolicy.none(), on_failure="restart",
            restart=RestartPolicy(max_restarts=0),
        )  # fmt: skip
        reading = asyncio.create_task(_read_all(bus))
        ref = bus.actor("restarting")
        assert ref is not None
        for number in range(3):
            ref.tell(number)
            bus.publish("t", number, key=number)
            await asyncio.sleep(0)
        await asyncio.sleep(0.1)
        assert threads_of(bus)
        await bus.close(timeout=1)
        await reading
    assert asyncio.all_tasks() == before
    assert live_timers() == []
    assert threads_of(bus) == []


async def _read_all(bus: EventBus) -> list[Event]:
    async with bus.events("**") as events:
        return [event async for event in events]


async def test_books_dead_letters_and_history_stay_readable(make_bus: Maker) -> None:
    """After the close one can still look at everything."""
    bus = make_bus()
    async with bus:
        bus.subscribe("t", hang, name="s")
        bus.publish("t", 1)
        await bus.close(timeout=0.1)
    assert bus.audit().totals.dead == 1
    assert len(bus.dead_letters) == 1
    assert [entry["data"] for entry in bus.get_history("t")] == [1]
    assert bus.get_stats()["delivery_failures"] == 1
    assert "s" in str(bus.explain("t"))


async def test_start_opens_a_closed_bus_again_with_its_subscriptions(make_bus: Maker) -> None:
    """Functions and actors are there again, actors as new instances; the books go on."""
    bus = make_bus()
    instances: list[Actor] = []
    got: list[object] = []

    class Each(Actor):
        patterns = ("t",)

        async def on_start(self) -> None:
            instances.append(self)

        async def receive(self, event: Event) -> None:
            got.append((len(instances), event.data))

    bus.spawn(Each, name="actor")
    bus.subscribe("t", got.append, inline=True, name="function")
    for number in range(3):
        await bus.start()
        assert (await bus.publish("t", number).settled()).ok
        report = await bus.close()
        assert report.acked == 0  # settled before
    assert got == [(1, 0), 0, (2, 1), 1, (3, 2), 2]
    assert len(instances) == 3
    assert bus.audit().totals.acked == 6


async def test_closing_without_a_start(make_bus: Maker) -> None:
    """A bus that never ran closes at once, and can be started afterwards."""
    bus = make_bus()
    got: list[int] = []
    bus.subscribe("t", got.append, inline=True)
    report = await bus.close()
    assert report.complete
    with pytest.raises(BusClosedError):
        bus.publish("t", 1)
    await bus.start()
    await bus.publish("t", 2).settled()
    assert got == [2]
    await bus.close()


async def test_unsubscribing_everything_while_draining(make_bus: Maker) -> None:
    """A subscription that ends during the drain holds nothing up."""
    bus = make_bus()
    await bus.start()

    async def handler(event: Event) -> None:
        await asyncio.sleep(1)
        sub.unsubscribe()

    sub = bus.subscribe("t", handler)
    bus.publish("t")
    report = await bus.close()
    assert report.complete
    await asyncio.wait_for(sub.ended(), 1)


# -- more than one loop ---------------------------------------------------------------------------


def run(main: Callable[[], Any]) -> Any:
    """Run on a loop of its own, as `asyncio.run` does."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main())


def test_a_second_run_keeps_the_subscriptions() -> None:
    """The same bus works in one `asyncio.run` after the other, closed in between or not."""
    bus = EventBus("test")
    got: list[object] = []
    bus.subscribe("t", got.append, inline=True)

    async def publishing(number: int) -> None:
        await bus.publish("t", number).settled()

    async def with_block(number: int) -> None:
        async with bus:
            await bus.publish("t", number).settled()

    async def closing() -> None:
        await bus.close()

    run(lambda: publishing(1))
    run(lambda: publishing(2))
    run(lambda: with_block(3))
    run(lambda: with_block(4))
    run(closing)
    run(lambda: with_block(5))
    assert got == [1, 2, 3, 4, 5]
    assert bus.audit().balanced


def test_open_deliveries_of_a_closed_loop_are_dead_letters() -> None:
    """`loop_closed` for what was in hand, queued, waiting and retrying; then it works again."""
    bus = EventBus("test")
    bus.subscribe("t", hang, name="hanging", mailbox=1, put_timeout=None)

    async def failing(event: Event) -> None:
        raise OSError

    bus.subscribe("t", failing, name="retrying", retry=RetryPolicy(base=50.0, jitter="none"))

    async def first() -> None:
        for number in range(3):
            bus.publish("t", number)
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    run(first)
    letters = bus.dead_letters.list(reason="loop_closed")
    assert sorted((x.subscription, x.event.data) for x in letters) == [
        (name, number) for name in ("hanging", "retrying") for number in range(3)
    ]
    audit = bus.audit()
    assert audit.balanced
    assert audit.totals.pending == 0
    with pytest.raises(BusNotRunningError):
        bus.publish("t")
    got: list[int] = []
    bus.unsubscribe("t", hang)
    bus.unsubscribe("t", failing)
    bus.subscribe("t", got.append, inline=True)

    async def second() -> None:
        await bus.publish("t", 7).settled()
        await bus.close()

    run(second)
    assert got == [7]
    assert bus.audit().balanced


def test_a_loop_closed_with_tasks_pending_does_no_harm() -> None:
    """Also where nobody cancelled the tasks: publish starts the bus anew on the next loop."""
    bus = EventBus("test")
    bus.subscribe("t", hang, name="hanging")
    waited: list[Any] = []

    async def first() -> None:
        receipt = bus.publish("t", 1)
        waited.append(asyncio.ensure_future(receipt.settled()))
        waited.append(asyncio.ensure_future(bus.wait_for("u")))
        waited.append(asyncio.ensure_future(_read_all(bus)))
        waited.append(asyncio.ensure_future(bus.settle()))
        await asyncio.sleep(1)

    loop = VirtualLoop()
    loop.set_exception_handler(lambda *_: None)
    loop.run_until_complete(first())
    loop.close()

    async def second() -> None:
        bus.unsubscribe("t", hang)
        bus.subscribe("t", got.append, inline=True, name="new")
        assert (await bus.publish("t", 2).settled()).ok
        await bus.close()

    got: list[int] = []
    run(second)
    assert got == [2]
    assert [letter.reason for letter in bus.dead_letters] == [DeadReason.LOOP_CLOSED]
    assert bus.audit().balanced
    for task in waited:
        task._log_destroy_pending = False


def test_a_subscription_that_was_ending_when_its_loop_was_closed_has_ended() -> None:
    """Unsubscribed with mail left: when the loop goes, the mail is dead and it has ended."""
    bus = EventBus("test")
    sub = bus.subscribe("t", hang, name="s")

    async def first() -> None:
        bus.publish("t")
        await asyncio.sleep(0)
        sub.unsubscribe()

    async def second() -> None:
        await bus.start()
        await asyncio.wait_for(sub.ended(), 5)
        await bus.close()

    run(first)
    run(second)
    assert bus.audit().totals.dead == 1
    assert "s" not in bus.audit().subscriptions


def test_a_close_cut_short_by_its_loop_is_forgotten() -> None:
    """A drain that died with its loop does not keep the next loop from closing the bus."""
    bus = EventBus("test")
    got: list[int] = []
    bus.subscribe("t", hang, name="hanging")

    async def first() -> None:
        bus.publish("t", 1)
        closing = asyncio.ensure_future(bus.close())
        await asyncio.sleep(1)
        assert not closing.done()

    async def second() -> None:
        bus.unsubscribe("t", hang)
        bus.subscribe("t", got.append, inline=True)
        await bus.publish("t", 2).settled()
        report = await bus.close()
        assert report.complete

    run(first)
    run(second)
    assert got == [2]


async def test_a_drain_refuses_from_its_first_step_on(bus: EventBus) -> None:
    """A publish that follows the call of `drain` by one turn is refused."""
    drain = asyncio.create_task(bus.drain())
    await asyncio.sleep(0)

    with pytest.raises(BusClosedError):
        bus.publish("a")
    await drain


async def test_what_reaches_a_suspended_actor_during_a_drain_is_dead_at_once(bus: EventBus) -> None:
    """Mail of a suspended actor is not kept until the drain is over."""
    gate = asyncio.Event()

    async def fail(event: Event) -> None:
        raise ValueError(event.topic)

    async def late(event: Event) -> None:
        await gate.wait()
        bus.publish("sick", "during the drain")
        assert [letter.reason for letter in bus.dead_letters][-1] == DeadReason.SUSPENDED

    policy = RestartPolicy(max_restarts=0)
    bus.subscribe("sick", fail, retry=RetryPolicy.none(), restart=policy, on_failure="restart")
    bus.subscribe("work", late)
    await bus.publish("sick").settled()
    bus.publish("work")
    drain = asyncio.create_task(bus.drain())
    await asyncio.sleep(0.1)
    gate.set()
    report = await drain

    assert (report.acked, report.dead, report.complete) == (1, 1, True)


async def test_what_a_suspended_actor_has_in_hand_when_a_drain_stops_it_is_suspended(
    bus: EventBus,
) -> None:
    """A handler that does not end takes its delivery along, for the reason its mail dies of."""
    gate = asyncio.Event()

    async def handle(data: str) -> None:
        if data == "fail":
            raise ValueError(data)
        while not gate.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await gate.wait()

    policy = RestartPolicy(max_restarts=0)
    bus.subscribe(
        "a", handle, name="s", concurrency=2, retry=RetryPolicy.none(), restart=policy,
        on_failure="restart",
    )  # fmt: skip
    bus.publish("a", "deaf")
    await bus.publish("a", "fail").settled()
    report = await bus.drain()
    gate.set()
    reasons = {str(letter.event.data): letter.reason for letter in bus.dead_letters.list()}
    assert reasons["deaf"] == DeadReason.SUSPENDED
    assert report.abandoned == ("s",)


def test_a_bus_belongs_to_one_loop_at_a_time() -> None:
    """Starting it on a second loop while the first runs is refused."""
    bus = EventBus("test")
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(bus),
        pytest.raises(BusNotRunningError),
    ):
        asyncio.run(bus.start())
