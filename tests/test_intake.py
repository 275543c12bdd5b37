"""Publishing from other threads: the same call, in call order, waking the loop at once."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from actorbus import (
    BusClosedError,
    BusNotRunningError,
    DeadlockError,
    DeadReason,
    EventBus,
    InvalidTopicError,
    MailboxFullError,
    Receipt,
)
from actorbus import intake as intake_module
from tests.handlers import Gate, Seen

real_time = pytest.mark.parametrize("anyio_backend", ["asyncio"])


class Background(threading.Thread):
    """Runs a function in a thread; `outcome` is what it returned or raised."""

    def __init__(self, function: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self.outcome: Any = None
        self._function = function
        self.start()

    def run(self) -> None:
        try:
            self.outcome = self._function()
        except BaseException as error:
            self.outcome = error

    async def ended(self) -> Any:
        over = time.monotonic() + 20
        while self.is_alive():
            assert time.monotonic() < over, "the thread does not end"
            await asyncio.sleep(0.001)
        return self.outcome

    def joined(self) -> Any:
        self.join(20)
        assert not self.is_alive()
        return self.outcome


async def test_the_same_call_works_from_another_thread(bus: EventBus) -> None:
    """A thread's publish gives a receipt and is delivered on the loop."""
    seen = Seen()
    bus.subscribe("a", seen)
    receipt = await asyncio.to_thread(bus.publish, "a", 1)
    assert isinstance(receipt, Receipt)
    assert receipt.event.data == 1
    assert await receipt is receipt
    assert (receipt.deliveries, receipt.waiting, receipt.refused) == (1, 0, 0)
    assert (await receipt.settled()).ok
    assert seen.got == [1]


async def test_the_events_of_a_thread_are_routed_in_call_order(bus: EventBus) -> None:
    """One thread's thousand publishes arrive in call order."""
    seen = Seen()
    bus.subscribe("a", seen, mailbox=2000)

    def publish() -> None:
        for number in range(1000):
            bus.publish("a", number)

    await asyncio.to_thread(publish)
    await bus.settle()
    assert seen.got == list(range(1000))


async def test_a_thread_does_not_route_what_the_loop_has_routed_before(bus: EventBus) -> None:
    """A topic whose route is at hand is none the less routed on the loop, not in the thread."""
    seen = Seen()
    bus.subscribe("a", seen)
    await bus.publish("a", 1).settled()
    receipt = Background(lambda: bus.publish("a", 2)).joined()
    assert receipt.deliveries == 0  # the loop has not turned since, and only it could route
    await receipt.settled()
    assert seen.got == [1, 2]


async def test_each_of_several_threads_keeps_its_order(bus: EventBus) -> None:
    """Interleaved as they may be, every thread's events keep their order and none is lost."""
    seen = Seen()
    bus.subscribe("a", seen, mailbox=10_000)

    def publish(thread: int) -> None:
        for number in range(300):
            bus.publish("a", (thread, number))

    await asyncio.gather(*(asyncio.to_thread(publish, thread) for thread in range(5)))
    await bus.settle()
    for thread in range(5):
        assert [n for t, n in seen.got if t == thread] == list(range(300))
    assert bus.audit().balanced


async def test_the_loop_s_own_publish_does_not_overtake_a_thread_s(bus: EventBus) -> None:
    """An event whose call has returned in a thread is routed before one published later."""
    seen = Seen()
    bus.subscribe("a", seen)
    for number in range(0, 20, 2):
        Background(lambda number=number: bus.publish("a", number)).joined()  # type: ignore[misc]
        bus.publish("a", number + 1)
    await bus.settle()
    assert seen.got == list(range(20))


async def test_a_thread_s_event_meets_the_subscriptions_of_its_call(bus: EventBus) -> None:
    """Published before a subscribe it is not matched, before an unsubscribe it is."""
    early, late = Seen(), Seen()
    first = bus.subscribe("a", early)
    receipt = Background(lambda: bus.publish("a", 1)).joined()
    bus.subscribe("a", late)
    first.unsubscribe()
    await receipt.settled()
    await first.ended()
    assert (early.got, late.got) == ([1], [])


@real_time
async def test_a_thread_calls_the_loop_by_its_thread_safe_way(bus: EventBus) -> None:
    """In debug mode asyncio refuses whatever would leave a sleeping loop asleep."""
    bus.subscribe("a", Seen())
    asyncio.get_running_loop().set_debug(True)
    receipt = Background(lambda: bus.publish("a")).joined()
    assert isinstance(receipt, Receipt), receipt
    assert (await receipt.settled()).ok


@real_time
async def test_a_thread_s_publish_wakes_the_loop_at_once(bus: EventBus) -> None:
    """A loop with nothing to do for a minute handles the event now."""
    handled = asyncio.Event()

    async def handler(data: Any) -> None:
        handled.set()

    bus.subscribe("a", handler)
    loop = asyncio.get_running_loop()
    far = loop.call_later(60, lambda: None)
    timer = threading.Timer(0.02, bus.publish, ["a"])
    timer.start()
    started = loop.time()
    await handled.wait()
    assert loop.time() - started < 10
    far.cancel()
    timer.join()


async def test_settle_waits_for_what_is_on_its_way(bus: EventBus) -> None:
    """`settle` counts what threads have published though the loop has not routed it yet."""
    seen = Seen()
    bus.subscribe("a", seen)
    Background(lambda: [bus.publish("a", number) for number in range(10)]).joined()
    await bus.settle()
    assert seen.got == list(range(10))


async def test_close_delivers_what_is_on_its_way(make_bus: Any) -> None:
    """What a thread has published before a close is handled by it."""
    bus = make_bus()
    seen = Seen()
    bus.subscribe("a", seen)
    await bus.start()
    Background(lambda: [bus.publish("a", number) for number in range(10)]).joined()
    await bus.close()
    assert seen.got == list(range(10))


# -- the blocking await -------------------------------------------------------------------------


@real_time
async def test_wait_blocks_until_admission(bus: EventBus) -> None:
    """`receipt.wait()` returns the receipt when the delivery has room, no sooner."""
    gate = Gate()
    bus.subscribe("a", gate, mailbox=1, put_timeout=None)
    bus.publish("a", 0)
    await gate.entered()
    bus.publish("a", 1)
    thread = Background(lambda: bus.publish("a", 2).wait())
    await asyncio.sleep(0.05)
    assert thread.is_alive()
    gate.open()
    receipt = await thread.ended()
    assert isinstance(receipt, Receipt)
    assert receipt.event.data == 2
    await bus.settle()
    assert gate.got == [0, 1, 2]


@real_time
async def test_wait_raises_at_its_timeout_and_takes_nothing_back(bus: EventBus) -> None:
    """`wait(timeout)` raises TimeoutError in the thread; the delivery stays in its line."""
    gate = Gate()
    bus.subscribe("a", gate, mailbox=1, put_timeout=None)
    bus.publish("a", 0)
    await gate.entered()
    bus.publish("a", 1)
    assert isinstance(
        await Background(lambda: bus.publish("a", 2).wait(0.02)).ended(), TimeoutError
    )
    gate.open()
    await bus.settle()
    assert gate.got == [0, 1, 2]


@real_time
async def test_wait_raises_what_awaiting_would(bus: EventBus) -> None:
    """An `overflow="fail"` refusal raises MailboxFullError in the thread too."""
    gate = Gate()
    bus.subscribe("a", gate, mailbox=1, overflow="fail")
    bus.publish("a", 0)
    await gate.entered()
    bus.publish("a", 1)
    outcome = await Background(lambda: bus.publish("a", 2).wait(10)).ended()
    assert isinstance(outcome, MailboxFullError)
    gate.open()


@real_time
async def test_wait_in_a_plain_handler_that_would_never_end_is_a_deadlock(bus: EventBus) -> None:
    """A plain handler that waits for room in its own full mailbox gets a DeadlockError."""
    outcomes: list[Any] = []

    def feed_itself(data: int) -> None:
        if data:
            return
        bus.publish("a", 1).wait(10)
        try:
            outcomes.append(bus.publish("a", 2).wait(10))
        except DeadlockError as error:
            outcomes.append(error)

    bus.subscribe("a", feed_itself, name="self", mailbox=1, put_timeout=None)
    bus.publish("a", 0)
    await bus.settle(timeout=20)
    assert [type(outcome) for outcome in outcomes] == [DeadlockError]
    assert [letter.reason for letter in bus.dead_letters] == [DeadReason.DEADLOCK]


async def test_wait_on_the_loop_s_own_thread_is_refused(bus: EventBus) -> None:
    """It would block the loop for ever: a RuntimeError that says to await."""
    receipt = bus.publish("a")
    with pytest.raises(RuntimeError, match="await"):
        receipt.wait()


async def test_wait_in_a_thread_started_by_a_handler(bus: EventBus) -> None:
    """`asyncio.to_thread` in a handler carries its context along, and waiting works there."""
    done: list[Any] = []

    async def handler(data: Any) -> None:
        done.append(await asyncio.to_thread(lambda: bus.publish("b").wait(10)))

    bus.subscribe("a", handler)
    assert (await bus.publish("a").settled()).ok
    assert done[0].event.causation_id is not None


@real_time
async def test_a_coroutine_on_another_loop_may_await(bus: EventBus) -> None:
    """A receipt is awaited, and settles, on a loop of another thread as on the bus's own."""
    gate = Gate()
    bus.subscribe("a", gate, name="g", mailbox=1, put_timeout=None)
    bus.publish("a", 0)
    await gate.entered()
    bus.publish("a", 1)

    async def elsewhere() -> Any:
        receipt = bus.publish("a", 2)
        assert await receipt is receipt
        return await receipt.settled(timeout=10)

    thread = Background(lambda: asyncio.run(elsewhere()))
    await asyncio.sleep(0.02)
    gate.open()
    assert (await thread.ended()).ok
    assert gate.got == [0, 1, 2]


# -- the bound ----------------------------------------------------------------------------------


def test_the_bound_is_ten_thousand() -> None:
    """At most 10,000 events of other threads may be unrouted."""
    assert intake_module.UNROUTED == 10_000


@real_time
async def test_the_next_call_blocks_its_thread(
    bus: EventBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the bound reached a publish blocks its thread until the loop has routed."""
    monkeypatch.setattr(intake_module, "UNROUTED", 100)
    seen = Seen()
    bus.subscribe("a", seen)
    published: list[int] = []

    def publish() -> None:
        for number in range(150):
            bus.publish("a", number)
            published.append(number)

    thread = Background(publish)
    thread.join(0.2)  # the loop stands still meanwhile
    assert thread.is_alive()
    assert len(published) == 100
    await thread.ended()
    await bus.settle()
    assert seen.got == list(range(150))


# -- refused ------------------------------------------------------------------------------------


@real_time
async def test_errors_are_raised_in_the_calling_thread(make_bus: Any) -> None:
    """An invalid topic, a closed bus: raised at the call, in the thread."""
    bus = make_bus()
    await bus.start()
    assert isinstance(await Background(lambda: bus.publish("a b")).ended(), InvalidTopicError)
    assert isinstance(await Background(lambda: bus.publish("$bus:x")).ended(), InvalidTopicError)
    await bus.close()
    assert isinstance(await Background(lambda: bus.publish("a")).ended(), BusClosedError)


def test_a_thread_cannot_start_a_bus() -> None:
    """Without a running loop a thread's publish raises BusNotRunningError."""
    bus = EventBus()
    bus.subscribe("a", Seen())
    assert isinstance(Background(lambda: bus.publish("a")).joined(), BusNotRunningError)


@real_time
async def test_a_thread_that_waits_for_room_learns_of_the_close(
    make_bus: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A publish blocked at the bound ends when the bus closes: delivered or BusClosedError."""
    monkeypatch.setattr(intake_module, "UNROUTED", 1)
    bus = make_bus()
    seen = Seen()
    bus.subscribe("a", seen)
    await bus.start()

    def publish() -> int:
        for number in range(10_000_000):
            try:
                bus.publish("a", number)
            except BusClosedError:
                return number
        return -1

    thread = Background(publish)
    await asyncio.sleep(0.02)
    await bus.close()
    refused = await thread.ended()
    assert seen.got == list(range(refused))


def test_events_on_their_way_when_the_loop_is_lost_are_dead_letters() -> None:
    """Accepted from a thread but never routed, an event is dead (loop_closed), not forgotten."""
    bus = EventBus()
    seen = Seen()
    bus.subscribe("a", seen, name="s")

    async def first() -> None:
        await bus.publish("a", 0).settled()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(first())

    async def second() -> None:
        Background(lambda: bus.publish("a", 1)).joined()
        asyncio.get_running_loop().stop()  # ends before the next turn routes it

    task = loop.create_task(second())
    loop.run_forever()
    assert task.done()
    assert len(bus.dead_letters) == 0
    loop.close()
    assert [(each.reason, each.event.data) for each in bus.dead_letters] == [
        (DeadReason.LOOP_CLOSED, 1)
    ]
    assert bus.audit().balanced
    assert bus.get_stats()["events_published"] == 2


def test_a_thread_that_waits_does_not_wait_for_a_dead_loop() -> None:
    """When the loop ends under a waiting thread, `wait` raises BusNotRunningError."""
    bus = EventBus()
    threads: list[Background] = []

    async def main() -> None:
        gate = Gate()
        bus.subscribe("a", gate, mailbox=1, put_timeout=None)
        bus.publish("a", 0)
        await gate.entered()
        bus.publish("a", 1)
        threads.append(Background(lambda: bus.publish("a", 2).wait()))
        while bus.audit().totals.waiting == 0:
            await asyncio.sleep(0.001)

    asyncio.run(main())
    assert isinstance(threads[0].joined(), BusNotRunningError)
