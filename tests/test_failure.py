"""Failure of a delivery: retry in place, then a dead letter; time limits; errors of every kind."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import threading
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from actorbus import (
    Actor,
    ActorState,
    ConfigurationError,
    DeadReason,
    Event,
    EventBus,
    Outcome,
    Reject,
    RetryAfter,
    RetryPolicy,
    world,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ONCE = RetryPolicy.none()
STEADY = {"base": 1.0, "factor": 1.0, "jitter": "none"}


def now() -> float:
    """Return the loop's time."""
    return asyncio.get_running_loop().time()


class Failing:
    """An async handler that raises, a number of times or always, and notes when."""

    def __init__(self, error: BaseException | None = None, times: int = 1_000_000) -> None:
        self.error = error or ValueError("failing")
        self.times = times
        self.at: list[float] = []

    async def __call__(self, data: Any) -> Any:
        self.at.append(now())
        if len(self.at) <= self.times:
            raise self.error
        return "at last"

    @property
    def waits(self) -> list[float]:
        """Seconds between one attempt and the next."""
        return [later - earlier for earlier, later in pairwise(self.at)]


@pytest.fixture
def no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every drawn delay the longest it may be."""
    monkeypatch.setattr(world, "random", lambda: 1.0)


def asking(asked: list[type[BaseException]], directive: str) -> Callable[..., str]:
    """Return an on_failure that notes what it is asked and always answers the same."""

    def decide(error: BaseException, event: Event | None) -> str:
        asked.append(type(error))
        return directive

    return decide


def only_letter(bus: EventBus) -> Any:
    """Return the one dead letter of the bus."""
    [letter] = bus.dead_letters
    return letter


# -- retry ----------------------------------------------------------------------------------------


async def test_the_defaults_of_the_policy() -> None:
    """The numbers of the default policy are the documented ones."""
    policy = RetryPolicy()
    assert (policy.max_attempts, policy.base, policy.factor, policy.cap) == (5, 0.1, 2.0, 30.0)
    assert (policy.jitter, policy.max_elapsed) == ("full", 60.0)
    assert (policy.on, policy.never) == ((Exception,), ())


async def test_a_failed_delivery_is_tried_five_times_by_default(
    bus: EventBus, no_jitter: None
) -> None:
    """Attempts and the longest delays of the default policy: 0.1, 0.2, 0.4, 0.8 s."""
    handler = Failing()
    bus.subscribe("a:b", handler)
    assert not (await bus.publish("a:b").settled()).ok
    assert handler.waits == pytest.approx([0.1, 0.2, 0.4, 0.8])
    letter = only_letter(bus)
    assert (letter.reason, letter.attempts) == (DeadReason.RETRIES_EXHAUSTED, 5)


async def test_a_retry_is_the_same_delivery_in_place(bus: EventBus) -> None:
    """The same event comes again, the same delivery settles, acked once in the books."""
    events: list[Event] = []

    async def handler(event: Event) -> None:
        events.append(event)
        if len(events) < 3:
            raise ValueError

    bus.subscribe("a:b", handler, name="h", retry=RetryPolicy(base=0))
    result = await bus.publish("a:b", 1).settled()
    assert result.outcomes == {"h": Outcome.ACKED}
    assert len(events) == 3
    assert events[0] is events[1] is events[2]
    totals = bus.audit().totals
    assert (totals.routed, totals.acked, totals.dead) == (1, 1, 0)
    assert not bus.dead_letters


async def test_the_mailbox_waits_behind_a_retrying_delivery(bus: EventBus) -> None:
    """Later deliveries are handled after it, in order, and it counts as retrying meanwhile."""
    order: list[Any] = []

    async def handler(data: int) -> None:
        order.append(data)
        if data == 1 and order.count(1) < 3:
            raise ValueError

    bus.subscribe("a:b", handler, retry=RetryPolicy(**STEADY))  # type: ignore[arg-type]  # mixed
    for number in (1, 2, 3):
        bus.publish("a:b", number)
    await asyncio.sleep(0.5)
    totals = bus.audit().totals
    assert (order, totals.retrying, totals.queued, totals.running) == ([1], 1, 2, 0)
    await bus.settle()
    assert order == [1, 1, 1, 2, 3]


async def test_a_retrying_delivery_keeps_its_worker(bus: EventBus) -> None:
    """With concurrency=2 and two retrying deliveries a third one waits."""
    handled: list[tuple[str, float]] = []

    async def handler(data: str) -> None:
        handled.append((data, now()))
        if data == "bad":
            raise ValueError

    retry = RetryPolicy(max_attempts=2, **STEADY)  # type: ignore[arg-type]  # mixed
    bus.subscribe("a:b", handler, concurrency=2, retry=retry)
    for data in ("bad", "bad", "good"):
        bus.publish("a:b", data)
    await bus.settle()
    assert handled[-1][0] == "good"
    assert handled[-1][1] == pytest.approx(1.0)


async def test_with_a_key_a_retrying_delivery_keeps_only_its_key(bus: EventBus) -> None:
    """Other keys go on past it with the only worker; its own key waits and stays in order."""
    handled: list[Any] = []

    async def handler(event: Event) -> None:
        handled.append((event.key, event.data))
        if event.data == 1 and event.key == "bad" and handled.count(("bad", 1)) < 3:
            raise ValueError

    bus.subscribe("a:b", handler, key="key", retry=RetryPolicy(**STEADY))  # type: ignore[arg-type]
    for key, data in (("bad", 1), ("bad", 2), ("good", 1), ("good", 2)):
        bus.publish("a:b", data, key=key)
    await asyncio.sleep(0.5)
    assert handled == [("bad", 1), ("good", 1), ("good", 2)]
    totals = bus.audit().totals
    assert (totals.retrying, totals.queued) == (1, 1)
    await bus.settle()
    assert handled[3:] == [("bad", 1), ("bad", 1), ("bad", 2)]


async def test_exponential_delays_are_capped(bus: EventBus) -> None:
    """Without jitter the delays are exactly min(cap, base * factor ** (k - 1))."""
    handler = Failing()
    retry = RetryPolicy(6, base=0.5, factor=3, cap=5, jitter="none", max_elapsed=None)
    bus.subscribe("a:b", handler, retry=retry)
    await bus.publish("a:b").settled()
    assert handler.waits == pytest.approx([0.5, 1.5, 4.5, 5.0, 5.0])


async def test_full_jitter_draws_each_delay_from_chance(
    bus: EventBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each delay is the drawn share of the longest one."""
    draws = iter([0.5, 0.0, 0.25, 1.0])
    monkeypatch.setattr(world, "random", lambda: next(draws))
    handler = Failing()
    bus.subscribe("a:b", handler, retry=RetryPolicy(base=8, max_elapsed=None))
    await bus.publish("a:b").settled()
    assert handler.waits == pytest.approx([4.0, 0.0, 7.5, 30.0])


async def test_retries_of_many_deliveries_do_not_come_in_a_herd(bus: EventBus) -> None:
    """Deliveries that fail together are tried again at different times."""
    again: list[float] = []

    async def handler(event: Event) -> None:
        if event.data is None:
            event.headers["again"].append(now())
        raise ValueError

    retry = RetryPolicy(max_attempts=2, base=10)
    bus.subscribe("a:b", handler, concurrency=50, retry=retry)
    for _ in range(50):
        bus.publish("a:b", headers={"again": again})
    await bus.settle()
    times = sorted(at for at in again if at > 0)
    assert len(again) == 100
    assert len(set(times)) > 40
    assert times[-1] - times[0] > 5


async def test_no_attempt_starts_later_than_max_elapsed(bus: EventBus) -> None:
    """The delivery is dead at the failure whose delay would end too late, not later."""
    handler = Failing()
    retry = RetryPolicy(100, max_elapsed=4.5, **STEADY)  # type: ignore[arg-type]  # mixed
    bus.subscribe("a:b", handler, retry=retry)
    await bus.publish("a:b").settled()
    assert handler.at == pytest.approx([0, 1, 2, 3, 4])
    assert now() == pytest.approx(4.0)
    assert only_letter(bus).reason == DeadReason.RETRIES_EXHAUSTED


async def test_max_elapsed_counts_from_the_first_attempt_and_with_the_attempts(
    bus: EventBus,
) -> None:
    """Waiting in the mailbox does not count, the time the attempts take does."""
    starts: list[float] = []

    async def handler(data: str) -> None:
        if data == "slow":
            await asyncio.sleep(100)
            return
        starts.append(now())
        await asyncio.sleep(2)
        raise ValueError

    retry = RetryPolicy(100, max_elapsed=7, **STEADY)  # type: ignore[arg-type]  # mixed
    bus.subscribe("a:b", handler, retry=retry)
    bus.publish("a:b", "slow")
    await bus.publish("a:b", "bad").settled()
    assert starts == pytest.approx([100, 103, 106])


async def test_max_elapsed_none_is_no_limit(bus: EventBus) -> None:
    """Without a limit only the attempts are counted."""
    handler = Failing()
    retry = RetryPolicy(10, base=30, factor=1, jitter="none", max_elapsed=None)
    bus.subscribe("a:b", handler, retry=retry)
    await bus.publish("a:b").settled()
    assert handler.at[-1] == pytest.approx(270)


async def test_with_a_key_no_attempt_after_max_elapsed_when_the_worker_is_busy(
    bus: EventBus,
) -> None:
    """A retry that finds its actor busy beyond max_elapsed is not made any more."""
    starts: list[float] = []

    async def handler(event: Event) -> None:
        if event.key == "slow":
            await asyncio.sleep(10)
            return
        starts.append(now())
        raise ValueError("mine")

    retry = RetryPolicy(100, max_elapsed=5, **STEADY)  # type: ignore[arg-type]  # mixed
    bus.subscribe("a:b", handler, key="key", retry=retry)
    bus.publish("a:b", key="bad")
    bus.publish("a:b", key="slow")
    await bus.settle()
    assert starts == [0.0]
    letter = only_letter(bus)
    assert (letter.reason, str(letter.error)) == (DeadReason.RETRIES_EXHAUSTED, "mine")


async def test_none_is_one_attempt(bus: EventBus) -> None:
    """`RetryPolicy.none()` tries once."""
    handler = Failing()
    bus.subscribe("a:b", handler, retry=RetryPolicy.none())
    await bus.publish("a:b").settled()
    assert len(handler.at) == only_letter(bus).attempts == 1


@pytest.mark.parametrize(
    ("error", "attempts"),
    [(KeyError(), 3), (ValueError(), 1), (IndexError(), 1), (LookupError(), 3)],
)
async def test_on_names_what_is_retried_and_never_wins(
    bus: EventBus, error: Exception, attempts: int
) -> None:
    """An error outside `on` or in `never` is dead at once, with the reason of exhausted retries."""
    handler = Failing(error)
    policy = RetryPolicy(3, base=0, on=LookupError, never=IndexError)
    bus.subscribe("a:b", handler, retry=policy)
    await bus.publish("a:b").settled()
    letter = only_letter(bus)
    assert len(handler.at) == letter.attempts == attempts
    assert letter.reason == DeadReason.RETRIES_EXHAUSTED
    assert letter.error is error


async def test_reject_is_dead_at_once_and_no_failure_of_the_actor(bus: EventBus) -> None:
    """`Reject` is never retried, its reason is `rejected`, and nobody is asked for a directive."""
    asked: list[type[BaseException]] = []
    handler = Failing(Reject("not mine"))
    sub = bus.subscribe("a:b", handler, on_failure=asking(asked, "restart"))
    await bus.publish("a:b").settled()
    letter = only_letter(bus)
    assert (letter.reason, letter.attempts, str(letter.error)) == ("rejected", 1, "not mine")
    assert (asked, sub.state) == ([], ActorState.RUNNING)


async def test_retry_after_sets_its_own_delay_and_is_an_attempt(bus: EventBus) -> None:
    """The handler's own delay is taken as it is, and max_attempts holds."""
    handler = Failing(RetryAfter(7, "busy"))
    retry = RetryPolicy(3, cap=1, on=KeyError, max_elapsed=None)
    bus.subscribe("a:b", handler, retry=retry)
    await bus.publish("a:b").settled()
    assert handler.waits == pytest.approx([7, 7])
    letter = only_letter(bus)
    assert (letter.reason, letter.attempts) == (DeadReason.RETRIES_EXHAUSTED, 3)


async def test_retry_after_respects_max_elapsed(bus: EventBus) -> None:
    """A delay that would end after max_elapsed gives the delivery up at once."""
    handler = Failing(RetryAfter(61))
    bus.subscribe("a:b", handler)
    await bus.publish("a:b").settled()
    assert handler.at == [0.0]
    assert now() == 0.0


@pytest.mark.parametrize("error", [ValueError(), RetryAfter(1), asyncio.CancelledError()])
async def test_at_most_once_is_never_run_twice(bus: EventBus, error: BaseException) -> None:
    """Under at_most_once whatever goes wrong ends the delivery after its one attempt."""
    handler = Failing(error)
    bus.subscribe("a:b", handler, guarantee="at_most_once")
    await bus.publish("a:b").settled()
    assert len(handler.at) == 1
    assert only_letter(bus).reason == DeadReason.RETRIES_EXHAUSTED


async def test_at_most_once_takes_no_retry_policy(bus: EventBus) -> None:
    """The combination is refused when it is made."""
    with pytest.raises(ConfigurationError, match="at_most_once"):
        bus.subscribe("a:b", Failing(), guarantee="at_most_once", retry=ONCE)


async def test_the_retry_clock_is_the_loops_not_the_walls(
    bus: EventBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wall clock that jumps back a day between attempts changes no delay and no limit."""
    times = iter(range(10**9, 0, -86_400))
    monkeypatch.setattr(world, "wall", lambda: float(next(times)))
    handler = Failing()
    bus.subscribe("a:b", handler, retry=RetryPolicy(3, **STEADY))  # type: ignore[arg-type]  # mixed
    await bus.publish("a:b").settled()
    assert handler.waits == pytest.approx([1, 1])


async def test_sync_handlers_are_retried_too(bus: EventBus) -> None:
    """A plain function in a thread is retried in place like an async one."""
    seen: list[int] = []

    def handler(data: int) -> None:
        seen.append(data)
        if data == 1 and len(seen) < 3:
            raise ValueError

    bus.subscribe("a:b", handler, retry=RetryPolicy(base=0))
    receipts = [bus.publish("a:b", number) for number in (1, 2)]
    assert all([(await receipt.settled()).ok for receipt in receipts])
    assert seen == [1, 1, 1, 2]


async def test_one_failing_subscriber_harms_no_other(bus: EventBus) -> None:
    """While one subscriber retries, its siblings have long handled the event."""
    done: list[float] = []

    async def healthy(data: Any) -> None:
        done.append(now())

    bus.subscribe("a:b", Failing(), retry=RetryPolicy(**STEADY))  # type: ignore[arg-type]  # mixed
    bus.subscribe("a:b", healthy)
    receipt = bus.publish("a:b")
    await receipt
    bus.publish("a:b")
    assert not (await receipt.settled()).ok
    assert done == [0.0, 0.0]


# -- dead letters of failures ---------------------------------------------------------------------


async def test_a_dead_letter_tells_what_happened(
    bus: EventBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All its fields: event, subscription, reason, error, traceback, attempts and times."""
    monkeypatch.setattr(world, "wall", lambda: 1000.0 + now())
    handler = Failing(ValueError("out of stock"))
    bus.subscribe("a:b", handler, name="h", retry=RetryPolicy(2, **STEADY))  # type: ignore[arg-type]
    receipt = bus.publish("a:b", 1)
    await receipt.settled()
    letter = only_letter(bus)
    assert isinstance(letter.id, str)
    assert letter.id
    assert letter.event is receipt.event
    assert (letter.subscription, letter.reason) == ("h", DeadReason.RETRIES_EXHAUSTED)
    assert letter.error is handler.error
    assert isinstance(letter.traceback, str)
    assert "out of stock" in letter.traceback
    assert "raise self.error" in letter.traceback
    assert letter.attempts == 2
    assert type(letter.attempts) is int
    assert (letter.first_failed_at, letter.died_at) == (1000.0, 1001.0)


async def test_the_last_error_is_kept(bus: EventBus) -> None:
    """Of several attempts the dead letter has the last one's error."""
    errors = [ValueError("first"), KeyError("last")]

    async def handler(data: Any) -> None:
        raise errors.pop(0)

    bus.subscribe("a:b", handler, retry=RetryPolicy(2, base=0))
    await bus.publish("a:b").settled()
    assert isinstance(only_letter(bus).error, KeyError)


@dataclass
class Order:
    """A payload with a shape."""

    number: int


@pytest.mark.parametrize("data", ["not an order", {"number": "x"}, None])
async def test_a_misfit_payload_is_dead_not_retried_and_no_failure(
    bus: EventBus, data: Any
) -> None:
    """`invalid_payload`: the handler never runs, no retry, no directive, the cause is the error."""
    asked: list[type[BaseException]] = []
    got: list[Order] = []

    async def handler(order: Order) -> None:
        got.append(order)

    bus.subscribe("a:b", handler, on_failure=asking(asked, "stop"))
    bad, good = bus.publish("a:b", data), bus.publish("a:b", {"number": 7})
    assert not (await bad.settled()).ok
    assert (await good.settled()).ok
    letter = only_letter(bus)
    assert (letter.reason, letter.attempts) == (DeadReason.INVALID_PAYLOAD, 0)
    assert letter.error is not None
    assert (asked, got) == ([], [Order(7)])


async def test_a_misfit_payload_in_a_thread_is_the_same(bus: EventBus) -> None:
    """A plain function's payload is checked the same way."""
    got: list[Order] = []

    def handler(order: Order) -> None:
        got.append(order)

    bus.subscribe("a:b", handler)
    bus.publish("a:b", "bad")
    await bus.publish("a:b", {"number": 1}).settled()
    assert got == [Order(1)]
    assert only_letter(bus).reason == DeadReason.INVALID_PAYLOAD


# -- time limits ----------------------------------------------------------------------------------


async def test_a_timeout_bounds_one_attempt_and_is_retried(bus: EventBus) -> None:
    """Each attempt gets the whole time; the last one's end is a `TimeoutError`."""
    starts: list[float] = []

    async def handler(data: Any) -> None:
        starts.append(now())
        await asyncio.sleep(100)

    bus.subscribe("a:b", handler, timeout=2, retry=RetryPolicy(3, **STEADY))  # type: ignore[arg-type]
    await bus.publish("a:b").settled()
    assert starts == pytest.approx([0, 3, 6])
    letter = only_letter(bus)
    assert (letter.reason, letter.attempts) == (DeadReason.RETRIES_EXHAUSTED, 3)
    assert isinstance(letter.error, TimeoutError)


async def test_an_attempt_in_time_is_not_touched(bus: EventBus) -> None:
    """A handler that ends in time never notices its limit, one after the other."""

    async def handler(data: Any) -> Any:
        await asyncio.sleep(1.9)
        return data

    bus.subscribe("a:b", handler, timeout=2)
    assert [await bus.ask("a:b", number) for number in range(5)] == list(range(5))


async def test_a_handler_still_running_a_second_after_its_cancellation_is_abandoned(
    bus: EventBus,
) -> None:
    """`timeout_ignored` after timeout + 1 s; the actor goes on; the late return changes nothing."""
    ended: list[float] = []

    async def handler(data: Any) -> None:
        if data == "fine":
            return
        began = now()
        while now() < began + 50:
            try:
                await asyncio.sleep(began + 50 - now())
            except asyncio.CancelledError:
                continue
        ended.append(now())

    sub = bus.subscribe("a:b", handler, name="deaf", timeout=2)
    stuck, fine = bus.publish("a:b", "stuck"), bus.publish("a:b", "fine")
    assert (await fine.settled()).ok
    assert now() == pytest.approx(3.0)
    assert (await stuck.settled()).outcomes == {"deaf": Outcome.DEAD}
    letter = only_letter(bus)
    assert (letter.reason, letter.attempts) == (DeadReason.TIMEOUT_IGNORED, 1)
    assert sub.state == ActorState.RUNNING
    await asyncio.sleep(60)
    assert ended == [pytest.approx(50.0)]
    totals = bus.audit().totals
    assert (totals.acked, totals.dead) == (1, 1)


async def test_a_stop_does_not_wait_for_a_handler_that_is_abandoned(bus: EventBus) -> None:
    """The actor has stopped when its last handler is given up, not when that ends."""

    async def deaf(data: Any) -> None:
        while now() < 50:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(50 - now())

    bus.subscribe("a:b", deaf, name="deaf", timeout=2)
    bus.publish("a:b")
    await asyncio.sleep(1)
    ref = bus.actor("deaf")
    assert ref is not None

    await ref.stop()

    assert now() == pytest.approx(3.0)
    assert only_letter(bus).reason == DeadReason.TIMEOUT_IGNORED
    await asyncio.sleep(50)


async def test_a_handler_that_cleans_up_in_time_is_not_abandoned(bus: EventBus) -> None:
    """Up to a second of cleaning up after the cancellation is a plain timeout."""

    async def handler(data: Any) -> None:
        try:
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(0.9)

    bus.subscribe("a:b", handler, timeout=1, retry=ONCE)
    await bus.publish("a:b").settled()
    letter = only_letter(bus)
    assert letter.reason == DeadReason.RETRIES_EXHAUSTED
    assert isinstance(letter.error, TimeoutError)


async def test_a_handler_that_finishes_in_spite_of_its_cancellation_has_finished(
    bus: EventBus,
) -> None:
    """A swallowed time limit with a return within the second of grace is an ack."""

    async def handler(data: Any) -> str:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            return "partial"
        return "whole"

    bus.subscribe("a:b", handler, timeout=1)
    assert await bus.ask("a:b") == "partial"
    assert await bus.ask("a:b") == "partial"  # and the worker is none the worse for it


async def test_a_timed_out_at_most_once_delivery_is_not_run_again(bus: EventBus) -> None:
    """A time limit is a failure like another: under at_most_once the delivery is dead."""
    starts: list[float] = []

    async def handler(data: Any) -> None:
        starts.append(now())
        await asyncio.sleep(100)

    bus.subscribe("a:b", handler, timeout=1, guarantee="at_most_once")
    await bus.publish("a:b").settled()
    assert starts == [0.0]


async def test_a_time_limit_leaves_no_cancellation_behind(bus: EventBus) -> None:
    """After one was met, a handler that raises `CancelledError` by itself has still failed."""

    async def handler(data: str) -> None:
        if data == "slow":
            await asyncio.sleep(100)
        raise asyncio.CancelledError("mine")

    bus.subscribe("a:b", handler, name="h", timeout=1, retry=ONCE)
    await bus.publish("a:b", "slow").settled()
    began = now()
    result = await bus.publish("a:b", "by itself").settled()
    assert result.outcomes == {"h": Outcome.DEAD}
    assert now() == began


# -- cancellation ---------------------------------------------------------------------------------


async def test_a_handler_that_raises_cancelled_error_has_failed(bus: EventBus) -> None:
    """It is retried and dead like any `Exception`, and the actor goes on."""
    handler = Failing(asyncio.CancelledError("mine"))
    sub = bus.subscribe("a:b", handler, retry=RetryPolicy(3, base=0))
    await bus.publish("a:b").settled()
    letter = only_letter(bus)
    assert (len(handler.at), letter.attempts) == (3, 3)
    assert letter.reason == DeadReason.RETRIES_EXHAUSTED
    assert isinstance(letter.error, asyncio.CancelledError)
    handler.times = 0
    assert (await bus.publish("a:b").settled()).ok
    assert sub.state == ActorState.RUNNING


async def test_an_awaited_task_that_was_cancelled_fails_the_handler(bus: EventBus) -> None:
    """The `CancelledError` of somebody else's task is the handler's failure, not its end."""

    async def handler(data: Any) -> None:
        task = asyncio.create_task(asyncio.sleep(100))
        await asyncio.sleep(0)
        task.cancel()
        await task

    bus.subscribe("a:b", handler, retry=RetryPolicy(2, base=0))
    await bus.publish("a:b").settled()
    assert only_letter(bus).attempts == 2


async def test_an_actor_that_raises_cancelled_error_is_restarted(bus: EventBus) -> None:
    """For an `Actor` it is a failure of the actor too, with its directive."""
    made: list[int] = []

    class Cancelling(Actor):
        def __init__(self) -> None:
            made.append(1)

        async def receive(self, event: Event) -> str:
            if event.data:
                raise asyncio.CancelledError
            return "fine"

    ref = bus.spawn(Cancelling, retry=ONCE)
    await ref.tell(data=True).settled()
    assert await ref.ask() == "fine"
    assert len(made) == 2


async def test_a_handler_that_swallows_cancellation_cannot_hold_up_close() -> None:
    """`close` returns soon after its deadline, names it, and its delivery is dead."""
    release = asyncio.Event()

    async def deaf(data: Any) -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    bus = EventBus("deaf")
    await bus.start()
    bus.subscribe("a:b", deaf, name="deaf")
    bus.publish("a:b")
    await asyncio.sleep(1)
    before = now()
    report = await bus.close(timeout=3)
    assert now() - before <= 3 + 3
    assert report.abandoned == ("deaf",)
    assert not report.complete
    assert only_letter(bus).reason == DeadReason.DRAIN_TIMEOUT
    assert bus.audit().balanced
    release.set()
    await asyncio.sleep(1)
    assert bus.audit().totals.acked == 0


# -- what is no Exception -------------------------------------------------------------------------


class Odd(BaseException):
    """An error outside `Exception`."""


@pytest.mark.parametrize("error", [Odd("odd"), GeneratorExit()])
async def test_a_base_exception_is_dead_at_once_and_the_actor_goes_on(
    bus: EventBus, error: BaseException
) -> None:
    """What is no `Exception` is outside the default `on`: one attempt, then the directive."""
    asked: list[type[BaseException]] = []
    handler = Failing(error, times=1)
    bus.subscribe("a:b", handler, on_failure=asking(asked, "resume"))
    assert not (await bus.publish("a:b").settled()).ok
    assert (await bus.publish("a:b").settled()).ok
    letter = only_letter(bus)
    assert (letter.reason, letter.attempts) == (DeadReason.RETRIES_EXHAUSTED, 1)
    assert letter.error is error
    assert asked == [type(error)]


async def test_a_base_exception_named_in_on_is_retried(bus: EventBus) -> None:
    """`on` may name any exception class."""
    handler = Failing(Odd(), times=1)
    bus.subscribe("a:b", handler, retry=RetryPolicy(base=0, on=Odd))
    assert (await bus.publish("a:b").settled()).ok


async def test_a_base_exception_in_a_thread_is_the_same(bus: EventBus) -> None:
    """A plain function that raises something odd harms its delivery alone."""

    def handler(data: Any) -> None:
        if data == "odd":
            raise Odd

    bus.subscribe("a:b", handler)
    bus.publish("a:b", "odd")
    assert (await bus.publish("a:b").settled()).ok
    assert isinstance(only_letter(bus).error, Odd)


PROGRAM = """
    import asyncio, atexit
    from actorbus import Actor, EventBus

    bus = EventBus("program")
    handled = []

    def tell():
        letters = [(l.reason.value, type(l.error).__name__, l.attempts) for l in bus.dead_letters]
        print(letters, handled, bus.audit().balanced, flush=True)

    atexit.register(tell)

    {handler}

    async def main():
        bus.publish("a:b", 1)
        bus.publish("a:b", 2)
        bus.publish("a:b", 3)
        await asyncio.sleep(20)
        print("never reached")

    {start}
"""

HANDLERS = {
    "async": """
    @bus.subscribe("a:b")
    async def handler(data):
        if data == 2:
            raise {error}
        handled.append(data)
""",
    "thread": """
    @bus.subscribe("a:b")
    def handler(data):
        if data == 2:
            raise {error}
        handled.append(data)
""",
    "actor": """
    class It(Actor):
        patterns = "a:b"
        async def receive(self, event: "object"):
            if event == 2:
                raise {error}
            handled.append(event)
    bus.spawn(It)
""",
}

STARTS = {
    "run": "bus.run(main)",
    "with": """
    async def around():
        async with bus:
            await main()
    asyncio.run(around())
""",
}


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize(("error", "code"), [("SystemExit(3)", 3), ("KeyboardInterrupt", None)])
def test_what_ends_the_program_settles_its_delivery_first(
    start: str, handler: str, error: str, code: int | None
) -> None:
    """The delivery is dead, once, without a retry; the program ends as that error ends programs."""
    text = PROGRAM.format(
        handler=HANDLERS[handler].format(error=error).strip("\n").lstrip(),
        start=STARTS[start].strip("\n").lstrip(),
    )
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text)],
        capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    name = error.partition("(")[0]
    assert f"('retries_exhausted', '{name}', 1)" in done.stdout, done.stdout + done.stderr
    assert done.stdout.count("retries_exhausted") == 1
    assert done.stdout.strip().endswith("True")
    assert "never reached" not in done.stdout
    if code is None:
        assert done.returncode != 0
        assert "KeyboardInterrupt" in done.stderr
    else:
        assert done.returncode == code


async def test_the_first_attempt_of_a_chunk_fails_alone(bus: EventBus) -> None:
    """Among many fast deliveries the failing one dies and each other is handled once, in order."""
    handled: list[int] = []

    async def handler(data: int) -> None:
        if data % 10 == 3:
            raise ValueError(data)
        handled.append(data)

    bus.subscribe("a:b", handler, retry=ONCE)
    for number in range(300):
        bus.publish("a:b", number)
    await bus.settle()
    assert handled == [number for number in range(300) if number % 10 != 3]
    assert [int(str(letter.error)) for letter in bus.dead_letters] == list(range(3, 300, 10))


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """Give an event that is set at the end, so that no thread is left blocked."""
    event = threading.Event()
    yield event
    event.set()


async def test_a_failure_while_stopping_asks_for_no_directive(bus: EventBus) -> None:
    """What fails in hand while its actor stops is dead, and the stop goes on."""
    asked: list[type[BaseException]] = []

    async def handler(data: Any) -> None:
        await asyncio.sleep(1)
        raise ValueError

    bus.subscribe(
        "a:b", handler, name="h", retry=ONCE,
        on_failure=asking(asked, "restart"),
    )  # fmt: skip
    receipt = bus.publish("a:b")
    await asyncio.sleep(0.1)
    ref = bus.actor("h")
    assert ref is not None
    await asyncio.wait_for(ref.stop(), 10)
    assert not (await receipt.settled()).ok
    assert (asked, ref.state) == ([], ActorState.STOPPED)


async def test_an_interrupted_thread_is_left_to_itself(
    make_bus: Callable[..., EventBus], release: threading.Event
) -> None:
    """A thread cannot be cancelled: at_most_once, its delivery is dead (`interrupted`)."""
    bus = make_bus("thread")
    entered = threading.Event()

    def blocking(data: Any) -> None:
        entered.set()
        release.wait(10)

    async def failing(data: Any) -> None:
        raise ValueError

    async with bus:
        sup = bus.supervisor("sup", strategy="one_for_all")
        sup.subscribe("a:b", blocking, name="blocking", guarantee="at_most_once")
        sup.subscribe("a:c", failing, name="bad", retry=ONCE, on_failure="restart")
        receipt = bus.publish("a:b")
        while not entered.is_set():
            await asyncio.sleep(0)
        bus.publish("a:c")
        result = await receipt.settled(timeout=30)
        assert result.outcomes == {"blocking": Outcome.DEAD}
        letters = bus.dead_letters.list(subscription="blocking")
        assert [letter.reason for letter in letters] == [DeadReason.INTERRUPTED]
        release.set()
