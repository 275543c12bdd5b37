"""Failure against its promises: whatever handlers do, budgets hold and deaths are recorded."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from actorbus import (
    Actor,
    ActorState,
    Event,
    EventBus,
    Outcome,
    Reject,
    RestartPolicy,
    RetryAfter,
    RetryPolicy,
    world,
)
from tests.virtual import run

if TYPE_CHECKING:
    from collections.abc import Callable

EPSILON = 1e-6

seconds = st.sampled_from([0.0, 0.1, 0.5, 1.0, 3.0, 10.0])
draws = st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=20)
policies = st.builds(
    RetryPolicy,
    max_attempts=st.integers(1, 6),
    base=seconds,
    factor=st.sampled_from([1.0, 1.5, 2.0]),
    cap=seconds,
    jitter=st.sampled_from(["full", "none"]),
    max_elapsed=st.none() | seconds,
    on=st.sampled_from([(Exception,), (LookupError,), (KeyError, RuntimeError)]),
    never=st.sampled_from([(), (IndexError,), (KeyError,)]),
)


def now() -> float:
    """Return the loop's time."""
    return asyncio.get_running_loop().time()


def chance(numbers: list[float]) -> Any:
    """Let `world.random` return these numbers over and over."""
    return patch.object(world, "random", itertools.cycle(numbers).__next__)


# -- attempts and delays --------------------------------------------------------------------------


@dataclass(frozen=True)
class Attempt:
    """What one attempt does: take so long, then raise, or return."""

    takes: float
    error: BaseException | None


errors = st.sampled_from(
    [
        None,
        ValueError(),
        KeyError(),
        IndexError(),
        Reject(),
        RetryAfter(2),
        asyncio.CancelledError(),
    ]
)
attempts = st.lists(st.builds(Attempt, seconds, errors), min_size=6, max_size=6)


@given(policies, attempts, draws, st.booleans())
def test_attempts_and_delays_stay_within_the_policy(
    policy: RetryPolicy, plan: list[Attempt], numbers: list[float], keyed: bool
) -> None:
    """As often, as late and as soon as the policy says: no more, no less."""
    with chance(numbers):
        run(_attempts_within_the_policy, policy, plan, keyed)


async def _attempts_within_the_policy(
    policy: RetryPolicy, plan: list[Attempt], keyed: bool
) -> None:
    spans: list[tuple[float, float]] = []

    async def handler(_: Any) -> None:
        step, began = plan[len(spans)], now()
        await asyncio.sleep(step.takes)
        spans.append((began, now()))
        if step.error is not None:
            raise step.error

    async with EventBus("attempts") as bus:
        key = "key" if keyed else None
        bus.subscribe("a:b", handler, name="h", retry=policy, key=key)
        result = await bus.publish("a:b", key="k").settled()
        letters = list(bus.dead_letters)
        assert bus.audit().balanced
    last = plan[len(spans) - 1].error
    assert 1 <= len(spans) <= policy.max_attempts
    for number, ((_, ended), (again, _)) in enumerate(itertools.pairwise(spans), 1):
        error = plan[number - 1].error
        assert error is not None
        assert _may_retry(policy, error)
        _check_delay(policy, number, error, again - ended)
        if policy.max_elapsed is not None:
            assert again - spans[0][0] <= policy.max_elapsed + EPSILON
    if last is None:
        assert result.outcomes == {"h": Outcome.ACKED}
        assert letters == []
        return
    assert result.outcomes == {"h": Outcome.DEAD}
    [letter] = letters
    assert (letter.attempts, letter.error) == (len(spans), last)
    assert letter.reason == ("rejected" if isinstance(last, Reject) else "retries_exhausted")
    if len(spans) < policy.max_attempts and _may_retry(policy, last):
        assert policy.max_elapsed is not None  # nothing else may end it so early
        longest = _longest(policy, len(spans), last)
        assert spans[-1][1] - spans[0][0] + longest > policy.max_elapsed - EPSILON


def _may_retry(policy: RetryPolicy, error: BaseException) -> bool:
    """Say by the contract's words whether an error may be tried again."""
    kind: type[BaseException] = type(error)
    if isinstance(error, asyncio.CancelledError):
        kind = Exception  # one a handler raises by itself is an error like any other
    if issubclass(kind, Reject) or issubclass(kind, tuple(policy.never)):  # type: ignore[arg-type]
        return False
    return issubclass(kind, RetryAfter) or issubclass(kind, tuple(policy.on))  # type: ignore[arg-type]


def _longest(policy: RetryPolicy, number: int, error: BaseException) -> float:
    if isinstance(error, RetryAfter):
        return error.seconds
    return min(policy.cap, policy.base * policy.factor ** (number - 1))


def _check_delay(policy: RetryPolicy, number: int, error: BaseException, waited: float) -> None:
    longest = _longest(policy, number, error)
    assert waited <= longest + EPSILON
    if policy.jitter == "none" or isinstance(error, RetryAfter):
        assert waited == pytest.approx(longest, abs=EPSILON)


# -- a bus full of trouble ------------------------------------------------------------------------


@dataclass(frozen=True)
class Trouble:
    """One subscription of a troubled bus."""

    actor: bool
    concurrency: int
    once: bool
    keyed: bool
    mailbox: int
    overflow: str
    timeout: float | None


@dataclass(frozen=True)
class Mail:
    """One event and what handling it does: sleep so long, then this."""

    after: float
    takes: float
    what: str


troubles = st.lists(
    st.builds(
        Trouble,
        actor=st.booleans(),
        concurrency=st.sampled_from([1, 1, 2, 3]),
        once=st.booleans(),
        keyed=st.booleans(),
        mailbox=st.sampled_from([1, 2, 100]),
        overflow=st.sampled_from(["block", "drop_new", "drop_old", "latest", "fail"]),
        timeout=st.sampled_from([None, 0.7]),
    ),
    min_size=1,
    max_size=3,
)
mails = st.lists(
    st.builds(
        Mail,
        after=st.sampled_from([0.0, 0.0, 0.3, 2.0]),
        takes=st.sampled_from([0.0, 0.2, 1.0]),
        what=st.sampled_from(["ack", "ack", "fail", "cancel", "reject", "odd", "deaf"]),
    ),
    max_size=12,
)
strategies = st.sampled_from(["one_for_one", "one_for_all", "rest_for_one"])


class Odd(BaseException):
    """An error outside `Exception`."""


class World:
    """A bus of troubled subscriptions under one supervisor, and what was seen to happen."""

    def __init__(self, bus: EventBus, chosen: list[Trouble], strategy: str) -> None:
        self.bus = bus
        self.begun: Counter[tuple[str, str]] = Counter()
        sup = bus.supervisor("sup", strategy=strategy)
        for number, trouble in enumerate(chosen):
            name = f"sub{number}"
            options: dict[str, Any] = {
                "name": name,
                "concurrency": trouble.concurrency,
                "mailbox": trouble.mailbox,
                "overflow": trouble.overflow,
                "timeout": trouble.timeout,
                "key": "key" if trouble.keyed else None,
            }
            if trouble.once:
                options["guarantee"] = "at_most_once"
            else:
                options["retry"] = RetryPolicy(2, base=0.5)
            if trouble.actor:
                sup.spawn(self.actor(name), **options)
            else:
                sup.subscribe("mail:*", self.handler(name), **options)

    def handler(self, name: str) -> Callable[[Event], Any]:
        """Return a function that does what its mail says."""

        async def handle(event: Event) -> None:
            await self.handle(name, event)

        return handle

    def actor(self, name: str) -> Callable[[], Actor]:
        """Return a factory of actors that do what their mail says."""
        handle = self.handle

        class Troubled(Actor):
            patterns = "mail:*"

            async def receive(self, event: Event) -> None:
                await handle(name, event)

        return Troubled

    async def handle(self, name: str, event: Event) -> None:
        """Do what the mail says."""
        self.begun[name, event.id] += 1
        mail: Mail = event.data
        if mail.what == "deaf":
            await _deaf(mail.takes + 3)
        await asyncio.sleep(mail.takes)
        match mail.what:
            case "fail":
                raise ValueError
            case "cancel":
                raise asyncio.CancelledError
            case "reject":
                raise Reject
            case "odd":
                raise Odd


async def _deaf(takes: float) -> None:
    until = now() + takes
    while now() < until:
        try:
            await asyncio.sleep(until - now())
        except asyncio.CancelledError:
            continue


PAIR = [
    Trouble(True, 2, True, False, 1, "block", None),
    Trouble(True, 2, False, False, 1, "block", None),
]
TRIO = [
    Trouble(True, 3, False, False, 1, "block", None),
    Trouble(False, 1, False, False, 1, "block", None),
]
OVERTAKING = [
    *[Mail(0.0, 0.0, "ack")] * 4,
    Mail(0.0, 0.0, "fail"),
    Mail(0.0, 0.0, "deaf"),
    Mail(0.3, 0.0, "deaf"),
    Mail(0.0, 0.0, "fail"),
    Mail(2.0, 0.0, "ack"),
]


FINISHING = [
    Mail(0.0, 1.0, "odd"),
    Mail(0.3, 0.2, "deaf"),
    Mail(0.3, 1.0, "ack"),
    Mail(2.0, 0.0, "ack"),
]


@example(PAIR, OVERTAKING, "one_for_all", [0.0], 0.5)  # two restarts of one actor at once
@example(TRIO, FINISHING, "one_for_all", [0.0], 0.5)  # a worker that ends while its actor restarts
@given(troubles, mails, strategies, draws, st.sampled_from([0.5, 5.0, 100.0]))
def test_every_death_has_one_dead_letter_and_at_most_once_is_never_run_twice(
    chosen: list[Trouble], mail: list[Mail], strategy: str, numbers: list[float], timeout: float
) -> None:
    """Failures, restarts, time limits, overflow, close: the books, letters and outcomes agree."""
    with chance(numbers):
        run(_troubled, chosen, mail, strategy, timeout)


async def _troubled(chosen: list[Trouble], mail: list[Mail], strategy: str, timeout: float) -> None:
    async with EventBus("troubled") as bus:
        seen = World(bus, chosen, strategy)
        receipts = []
        for number, one in enumerate(mail):
            await asyncio.sleep(one.after)
            receipts.append(bus.publish(f"mail:{number % 2}", one, key=number % 3))
            assert bus.audit().balanced, str(bus.audit())
        await bus.close(timeout=timeout)
        assert bus.audit().balanced, str(bus.audit())
        results = [await receipt.settled(timeout=1) for receipt in receipts]
        await asyncio.sleep(60)  # whoever was abandoned ends, and changes nothing
    totals = bus.audit().totals
    assert (totals.pending, totals.routed) == (0, len(mail) * len(chosen))
    letters = Counter((letter.subscription, letter.event.id) for letter in bus.dead_letters)
    dead = {
        (name, receipt.event.id)
        for receipt, result in zip(receipts, results, strict=True)
        for name, outcome in result.outcomes.items()
        if outcome is Outcome.DEAD
    }
    assert set(letters) == dead
    assert set(letters.values()) <= {1}
    assert totals.dead == len(dead)
    for number, trouble in enumerate(chosen):
        runs = [count for (name, _), count in seen.begun.items() if name == f"sub{number}"]
        if trouble.once:
            assert set(runs) <= {1}


# -- the restart budget ---------------------------------------------------------------------------


@given(
    st.integers(0, 4),
    st.sampled_from([1.0, 5.0, 30.0]),
    st.lists(st.tuples(st.sampled_from([0.0, 0.3, 2.0, 6.0, 40.0]), st.booleans()), max_size=25),
    draws,
)
def test_restarts_in_any_window_stay_within_the_budget(
    limit: int, within: float, mail: list[tuple[float, bool]], numbers: list[float]
) -> None:
    """No window holds more restarts that count than the budget, and it gives up only then."""
    with chance(numbers):
        run(_restarts_within_the_budget, limit, within, mail)


async def _restarts_within_the_budget(
    limit: int, within: float, mail: list[tuple[float, bool]]
) -> None:
    counted: list[float] = []
    gave_up: list[float] = []

    class Fragile(Actor):
        def __init__(self) -> None:
            self.acked = 0

        async def receive(self, event: Event) -> None:
            if not event.data:
                self.acked += 1
                return
            if not self.acked:
                counted.append(now())
            raise ValueError

    async with EventBus("budget") as bus:
        policy = RestartPolicy(max_restarts=limit, within=within)
        ref = bus.spawn(Fragile, name="it", retry=RetryPolicy.none(), restart=policy)
        for after, fails in mail:
            await asyncio.sleep(after)
            await ref.tell(fails).settled()
            await asyncio.sleep(0)
            if ref.state == ActorState.SUSPENDED:
                gave_up.append(counted.pop())
                break
    for number, first in enumerate(counted):
        held = [at for at in counted[number:] if at - first <= within - EPSILON]
        assert len(held) <= limit
    for at in gave_up:
        held = [earlier for earlier in counted if at - earlier <= within + EPSILON]
        assert len(held) >= limit  # the n-th restart still happened


# -- replay ---------------------------------------------------------------------------------------

patterns = st.sampled_from(["a:*", "a:x", "b:*", "**"])
topics = st.sampled_from(["a:x", "a:y", "b:x"])


@given(
    st.lists(st.tuples(patterns, st.booleans()), min_size=1, max_size=5),
    st.lists(topics, max_size=10),
    st.sampled_from([{}, {"subscription": "0"}, {"topic": "a:*"}, {"reason": "rejected"}]),
    st.booleans(),
)
def test_replay_reaches_only_the_subscription_that_failed(
    subscribers: list[tuple[str, bool]], published: list[str], filters: dict[str, str], healed: bool
) -> None:
    """Each letter that fits is one more delivery to its own subscription; nobody else notices."""
    run(_replayed, subscribers, published, filters, healed)


async def _replayed(
    subscribers: list[tuple[str, bool]], published: list[str], filters: dict[str, str], healed: bool
) -> None:
    got: Counter[tuple[str, str]] = Counter()
    works = False

    def handler(name: str, fails: bool) -> Callable[[Event], Any]:
        async def handle(event: Event) -> None:
            got[name, event.id] += 1
            if fails and not works:
                raise Reject if event.topic == "a:y" else ValueError

        return handle

    async with EventBus("replay") as bus:
        for number, (pattern, fails) in enumerate(subscribers):
            name = str(number)
            bus.subscribe(pattern, handler(name, fails), name=name, retry=RetryPolicy.none())
        for topic in published:
            bus.publish(topic)
        await bus.settle()
        before = got.copy()
        fitting = bus.dead_letters.list(**filters)
        held = len(bus.dead_letters)
        works = healed
        assert await bus.dead_letters.replay(**filters) == len(fitting)
        await bus.settle()
        again = Counter((letter.subscription, letter.event.id) for letter in fitting)
        assert got - before == again
        failed_again = 0 if healed else len(fitting)
        assert len(bus.dead_letters) == held - len(fitting) + failed_again
        assert not {letter.id for letter in fitting} & {letter.id for letter in bus.dead_letters}
        assert bus.audit().balanced
