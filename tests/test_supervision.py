"""Supervision: directives, budgets, strategies, trees, suspension."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from actorbus import (
    Actor,
    ActorState,
    ConfigurationError,
    DeadReason,
    Directive,
    Event,
    EventBus,
    Outcome,
    Reject,
    RestartPolicy,
    RetryPolicy,
    Supervisor,
    world,
)

if TYPE_CHECKING:
    from collections.abc import Callable

ONCE = RetryPolicy.none()


class Child(Actor):
    """Raises what it is sent if that is an error, sleeps a float, notes what happens to it."""

    retry = ONCE

    def __init__(self, log: list[Any]) -> None:
        self.log = log

    def note(self, *what: Any) -> None:
        """Write a line."""
        self.log.append((self.name, *what))

    async def on_start(self) -> None:
        self.note("start")

    async def receive(self, event: Event) -> Any:
        self.note("receive", event.data)
        if isinstance(event.data, BaseException):
            raise event.data
        if isinstance(event.data, float):
            await asyncio.sleep(event.data)
            self.note("woke", event.data)
        return event.data

    async def on_stop(self, reason: str) -> None:
        self.note("stop", reason)


def now() -> float:
    """Return the loop's time."""
    return asyncio.get_running_loop().time()


def lines(log: list[Any], *kinds: str) -> list[Any]:
    """Return the lines of these kinds, names and kinds only."""
    return [line[:2] for line in log if line[1] in kinds]


def restarts(bus: EventBus, name: str) -> int:
    """Return how often an actor was restarted, as an exporter would read it."""
    found = [row.ledger.restarts for row in bus.reading().actors if row.label == name]
    return found[0]


@pytest.fixture
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every drawn delay none at all."""
    monkeypatch.setattr(world, "random", lambda: 0.0)


@pytest.fixture
def no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every drawn delay the longest it may be."""
    monkeypatch.setattr(world, "random", lambda: 1.0)


async def fail_and_note(bus: EventBus, **options: Any) -> tuple[list[Any], Any]:
    """Spawn a child, let it fail once, and return its log and reference."""
    log: list[Any] = []
    ref = bus.spawn(lambda: Child(log), name="child", **options)
    await ref.tell(ValueError("wrong")).settled()
    await asyncio.sleep(1)
    return log, ref


# -- directives -----------------------------------------------------------------------------------


async def test_the_default_of_an_actor_class_is_restart(bus: EventBus) -> None:
    """An `Actor` that fails is built anew."""
    log, ref = await fail_and_note(bus)
    assert lines(log, "start", "stop") == [("child", k) for k in ("start", "stop", "start")]
    assert ref.state == ActorState.RUNNING


async def test_the_default_of_a_plain_handler_is_resume(bus: EventBus) -> None:
    """A function that fails goes on with the next delivery at once, and never gives up."""

    async def handler(data: Any) -> None:
        raise ValueError

    sub = bus.subscribe("a:b", handler, name="plain", retry=ONCE)
    for _ in range(50):
        await bus.publish("a:b").settled()
        assert sub.state == ActorState.RUNNING
    assert now() == 0
    assert restarts(bus, "plain") == 0


async def test_resume_keeps_the_instance(bus: EventBus) -> None:
    """RESUME goes on with the instance as it is."""
    log, ref = await fail_and_note(bus, on_failure="resume")
    assert lines(log, "start", "stop") == [("child", "start")]
    assert await ref.ask("x") == "x"


async def test_a_function_can_be_restarted_too(bus: EventBus) -> None:
    """RESTART of a function keeps its mailbox and starts its handler after the backoff."""
    seen: list[Any] = []

    async def handler(data: Any) -> None:
        seen.append(data)
        if data == 1:
            raise ValueError

    sub = bus.subscribe("a:b", handler, name="fn", retry=ONCE, on_failure=Directive.RESTART)
    first = bus.publish("a:b", 1)
    bus.publish("a:b", 2)
    await first.settled()
    assert sub.state == ActorState.RESTARTING
    await bus.settle()
    assert seen == [1, 2]
    assert restarts(bus, "fn") == 1


async def test_stop_ends_the_actor(bus: EventBus) -> None:
    """STOP ends the actor: the failed delivery is dead by its own fault, the rest `stopped`."""
    log: list[Any] = []
    ref = bus.spawn(lambda: Child(log), name="child", on_failure="stop")
    receipts = [ref.tell(each) for each in (ValueError(), "a", "b")]
    for receipt in receipts:
        await receipt.settled()
    await asyncio.sleep(1)
    assert ref.state == ActorState.STOPPED
    assert bus.actor("child") is None
    assert [letter.reason for letter in bus.dead_letters] == [
        DeadReason.RETRIES_EXHAUSTED, DeadReason.STOPPED, DeadReason.STOPPED,
    ]  # fmt: skip
    assert lines(log, "start", "stop") == [("child", "start"), ("child", "stop")]


async def test_escalate_at_the_root_suspends(bus: EventBus) -> None:
    """ESCALATE passes the failure on at once; at the root nobody is left to ask."""
    _, ref = await fail_and_note(bus, on_failure="escalate")
    assert ref.state == ActorState.SUSPENDED
    assert restarts(bus, "child") == 0


async def test_escalate_asks_the_parent_supervisor(bus: EventBus) -> None:
    """ESCALATE under a supervisor is answered with its strategy and costs its budget."""
    log: list[Any] = []
    sup = bus.supervisor("sup", strategy="one_for_all", max_restarts=1)
    one = sup.spawn(lambda: Child(log), name="one", on_failure="escalate")
    await sup.spawn(lambda: Child(log), name="two").ask("ready")
    await one.tell(ValueError()).settled()
    await asyncio.sleep(1)
    assert lines(log, "start") == [("one", "start"), ("two", "start")] * 2
    await one.tell(ValueError()).settled()
    await asyncio.sleep(1)
    assert one.state == ActorState.SUSPENDED


async def test_on_failure_may_be_a_callable(bus: EventBus) -> None:
    """The callable gets the error and the event, and its directive is obeyed."""
    asked: list[Any] = []

    def decide(error: BaseException, event: Event | None) -> Directive:
        asked.append((str(error), event and event.data))
        return Directive.STOP if isinstance(error, KeyError) else Directive.RESUME

    wrong = ValueError("wrong")
    ref = bus.spawn(lambda: Child([]), on_failure=decide)
    await ref.tell(wrong).settled()
    assert asked == [("wrong", wrong)]
    assert str(ref.state) == "running"
    await ref.tell(KeyError("worse")).settled()
    await asyncio.sleep(1)
    assert ref.state == ActorState.STOPPED


async def test_a_callable_that_fails_or_talks_nonsense_means_the_default(bus: EventBus) -> None:
    """A broken on_failure is no way to lose an actor: the default directive applies."""

    def broken(error: BaseException, event: Event | None) -> Directive:
        raise RuntimeError

    def nonsense(error: BaseException, event: Event | None) -> str:
        return "shrug"

    async def handler(data: Any) -> None:
        raise ValueError

    sub = bus.subscribe("a:b", handler, retry=ONCE, on_failure=broken)
    ref = bus.spawn(lambda: Child([]), name="child", on_failure=nonsense)
    await bus.publish("a:b").settled()
    assert sub.state == ActorState.RUNNING
    await ref.tell(ValueError()).settled()
    assert ref.state == ActorState.RESTARTING


async def test_the_directive_follows_the_dead_letter(bus: EventBus) -> None:
    """Retry, then dead letter, then directive: each is done when the next begins."""
    order: list[str] = []

    async def handler(data: Any) -> None:
        order.append("attempt")
        raise ValueError

    def decide(error: BaseException, event: Event | None) -> str:
        order.append(f"directive after {len(bus.dead_letters)} dead letter")
        return "restart"

    bus.subscribe("a:b", handler, name="x", retry=RetryPolicy(max_attempts=3), on_failure=decide)
    await bus.publish("a:b").settled()
    assert order == ["attempt"] * 3 + ["directive after 1 dead letter"]


async def test_a_rejection_or_a_misfit_payload_is_no_failure_of_the_actor(bus: EventBus) -> None:
    """`Reject` asks nobody for a directive and costs no restart."""
    log: list[Any] = []
    ref = bus.spawn(lambda: Child(log), name="child", restart=RestartPolicy(max_restarts=0))
    await ref.tell(Reject("no")).settled()
    assert await ref.ask("x") == "x"
    assert lines(log, "start") == [("child", "start")]


# -- restart --------------------------------------------------------------------------------------


async def test_the_failed_delivery_is_settled_before_the_restart(bus: EventBus) -> None:
    """When on_restart or the new on_start runs, the failed delivery is dead and booked."""
    held: list[int] = []

    class Nosy(Child):
        async def on_start(self) -> None:
            held.append(len(bus.dead_letters))

        async def on_restart(self, error: BaseException, event: Event | None) -> None:
            held.append(len(bus.dead_letters))

    ref = bus.spawn(lambda: Nosy([]))
    await ref.ask("x")
    await ref.tell(ValueError()).settled()
    await asyncio.sleep(1)
    assert held == [0, 1, 1]


async def test_backoff_doubles_to_thirty_seconds(bus: EventBus, no_jitter: None) -> None:
    """The longest delays before restarts are 0.2, 0.4, 0.8, ... and never more than 30 s."""
    starts: list[float] = []

    class Never(Child):
        async def on_start(self) -> None:
            starts.append(now())
            raise ValueError

    bus.spawn(lambda: Never([]), restart=RestartPolicy(max_restarts=10, within=1000))
    await asyncio.sleep(200)
    waits = [later - earlier for earlier, later in pairwise(starts)]
    assert waits[:10] == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0])


async def test_backoff_draws_between_nothing_and_the_longest(
    bus: EventBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jitter is full: the drawn number is the share of the longest delay."""
    starts: list[float] = []

    class Never(Child):
        async def on_start(self) -> None:
            starts.append(now())
            raise ValueError

    draws = iter([0.5, 0.0, 0.25])
    monkeypatch.setattr(world, "random", lambda: next(draws))
    bus.spawn(lambda: Never([]), restart=RestartPolicy(max_restarts=3))
    await asyncio.sleep(10)
    assert starts == pytest.approx([0.0, 0.1, 0.1, 0.3])


async def test_backoff_starts_over_after_sixty_seconds_without_failure(
    bus: EventBus, no_jitter: None
) -> None:
    """A failure after more than a minute of health waits 0.2 s again; one before does not."""
    waits: list[float] = []
    ref = bus.spawn(lambda: Child([]), restart=RestartPolicy(max_restarts=100))
    for health in (0.0, 59.0, 61.0):
        await asyncio.sleep(health)
        await ref.tell(ValueError()).settled()
        before = now()
        await ref.ask("x", timeout=None)
        waits.append(now() - before)
    assert waits == pytest.approx([0.2, 0.4, 0.2])


async def test_interrupted_deliveries_run_first_on_the_new_instance(bus: EventBus) -> None:
    """What another worker had in hand when its sibling failed comes before the mailbox."""
    log: list[Any] = []
    ref = bus.spawn(lambda: Child(log), name="child", concurrency=2)
    receipts = [ref.tell(each) for each in (5.0, ValueError("wrong"), "queued")]
    await asyncio.sleep(0.001)
    await bus.settle()
    received = [line[2] for line in log if line[1] == "receive"]
    assert received[0] == received[2] == 5.0
    assert received[3] == "queued"
    assert [(await receipt.settled()).ok for receipt in receipts] == [True, False, True]


async def test_a_siblings_failure_interrupts_and_the_delivery_runs_again(bus: EventBus) -> None:
    """one_for_all: the healthy sibling's delivery is cut short, and run first afterwards."""
    log: list[Any] = []
    sup = bus.supervisor("sup", strategy="one_for_all")
    bad = sup.spawn(lambda: Child(log), name="bad")
    good = sup.spawn(lambda: Child(log), name="good")
    receipt = good.tell(5.0)
    later = good.tell("later")
    await asyncio.sleep(1)
    bad.tell(ValueError())
    assert (await receipt.settled()).ok
    await later.settled()
    received = [line[2] for line in log if line[:2] == ("good", "receive")]
    assert received == [5.0, 5.0, "later"]


async def test_an_interrupted_at_most_once_delivery_is_dead(bus: EventBus) -> None:
    """Under at_most_once a delivery cut short is dead (`interrupted`), after its one attempt."""
    log: list[Any] = []

    async def once(data: float) -> None:
        log.append(data)
        await asyncio.sleep(data)

    sup = bus.supervisor("sup", strategy="one_for_all")
    bad = sup.spawn(lambda: Child([]), name="bad")
    sup.subscribe("a:b", once, name="once", guarantee="at_most_once")
    receipt = bus.publish("a:b", 5.0)
    queued = bus.publish("a:b", 0.0)
    await asyncio.sleep(1)
    bad.tell(ValueError())
    assert (await receipt.settled()).outcomes == {"once": Outcome.DEAD}
    assert (await queued.settled()).ok
    assert log == [5.0, 0.0]
    letters = bus.dead_letters.list(subscription="once")
    assert [(letter.reason, letter.attempts) for letter in letters] == [("interrupted", 1)]


async def test_three_interruptions_are_poison(bus: EventBus) -> None:
    """A delivery cut short by three restarts it did not cause is dead (`poison`)."""
    log: list[Any] = []
    sup = bus.supervisor("sup", strategy="one_for_all")
    bad = sup.spawn(lambda: Child([]), name="bad", restart=RestartPolicy(max_restarts=10))
    good = sup.spawn(lambda: Child(log), name="good")
    receipt = good.tell(1000.0)
    for _ in range(3):
        await asyncio.sleep(2)
        assert not bus.dead_letters.list(subscription="good")
        await bad.tell(ValueError()).settled()
    assert not (await receipt.settled()).ok
    assert await good.ask("next") == "next"
    assert [line[2] for line in log if line[1] == "receive"] == [1000.0] * 3 + ["next"]
    letters = bus.dead_letters.list(subscription="good")
    assert [(letter.reason, letter.attempts) for letter in letters] == [(DeadReason.POISON, 3)]


async def test_an_interruption_is_not_charged_as_an_attempt(bus: EventBus) -> None:
    """The retry budget counts failures of the handler, not restarts of others."""
    attempts: list[str] = []

    async def flaky(data: Any) -> None:
        attempts.append("begun")
        await asyncio.sleep(1)
        attempts.append("failed")
        raise ValueError

    sup = bus.supervisor("sup", strategy="one_for_all")
    bad = sup.spawn(lambda: Child([]), name="bad")
    sup.subscribe("a:b", flaky, name="flaky", retry=RetryPolicy(max_attempts=2, base=0))
    receipt = bus.publish("a:b")
    await asyncio.sleep(0.5)
    bad.tell(ValueError())
    await receipt.settled()
    assert attempts == ["begun", *["begun", "failed"] * 2]
    assert bus.dead_letters.list(subscription="flaky")[0].attempts == 2


async def test_an_interrupted_wait_between_attempts_grants_no_further_attempt(
    bus: EventBus, no_jitter: None
) -> None:
    """A restart during the delay before a retry neither adds an attempt nor counts as poison."""
    attempts: list[float] = []

    async def failing(data: Any) -> None:
        attempts.append(now())
        raise ValueError

    sup = bus.supervisor("sup", strategy="one_for_all")
    bad = sup.spawn(lambda: Child([]), name="bad", restart=RestartPolicy(max_restarts=100))
    retry = RetryPolicy(max_attempts=6, base=10, factor=1, max_elapsed=None)
    sup.subscribe("a:b", failing, name="failing", retry=retry)
    receipt = bus.publish("a:b")
    for _ in range(4):
        await asyncio.sleep(4)
        await bad.tell(ValueError()).settled()
    await receipt.settled()
    assert len(attempts) == 6
    [letter] = bus.dead_letters.list(subscription="failing")
    assert (letter.reason, letter.attempts) == (DeadReason.RETRIES_EXHAUSTED, 6)


async def test_no_attempt_after_max_elapsed_even_after_a_siblings_restart(
    bus: EventBus, no_jitter: None
) -> None:
    """A retry put off by a restart beyond max_elapsed is not made any more."""
    attempts: list[float] = []

    async def failing(data: Any) -> None:
        attempts.append(now())
        raise ValueError("mine")

    class Slow(Child):
        async def on_stop(self, reason: str) -> None:
            await asyncio.sleep(4)

    sup = bus.supervisor("sup", strategy="one_for_all")
    bad = sup.spawn(lambda: Slow([]), name="bad")
    await bad.ask("x")
    sup.subscribe(
        "a:b", failing, name="failing",
        retry=RetryPolicy(base=1, factor=1, max_elapsed=2, jitter="none"),
    )  # fmt: skip
    receipt = bus.publish("a:b")
    await asyncio.sleep(0.5)
    bad.tell(ValueError())
    await receipt.settled()
    assert now() - attempts[0] > 4
    assert len(attempts) == 1
    [letter] = bus.dead_letters.list(subscription="failing")
    assert (letter.reason, str(letter.error)) == (DeadReason.RETRIES_EXHAUSTED, "mine")


async def test_a_handler_that_swallows_its_cancellation_holds_up_no_restart(bus: EventBus) -> None:
    """A worker that will not end is left to itself after a second; the actor goes on without it."""
    seen: list[Any] = []
    release = asyncio.Event()

    class Deaf(Child):
        async def receive(self, event: Event) -> Any:
            seen.append(event.data)
            if event.data == "deaf" and seen.count("deaf") == 1:
                while not release.is_set():
                    try:
                        await release.wait()
                    except asyncio.CancelledError:
                        continue
            return await super().receive(event)

    ref = bus.spawn(lambda: Deaf([]), name="deaf", concurrency=2)
    receipts = [ref.tell("deaf"), ref.tell(ValueError())]
    before = now()
    assert await ref.ask("next") == "next"
    assert now() - before < 2
    assert [(await receipt.settled()).ok for receipt in receipts] == [True, False]
    assert seen.count("deaf") == 2
    release.set()
    await asyncio.sleep(1)
    assert bus.audit().totals.acked == 2


# -- budget ---------------------------------------------------------------------------------------


async def test_the_nth_restart_still_happens_and_the_next_failure_gives_up(bus: EventBus) -> None:
    """With max_restarts=3 three failures restart, the fourth suspends."""
    log: list[Any] = []
    ref = bus.spawn(lambda: Child(log), name="child", restart=RestartPolicy(max_restarts=3))
    for expected in [ActorState.RUNNING] * 3 + [ActorState.SUSPENDED]:
        await ref.tell(ValueError()).settled()
        await asyncio.sleep(2)
        assert ref.state == expected
    assert restarts(bus, "child") == 3


async def test_the_default_budget_is_five_in_thirty_seconds(bus: EventBus) -> None:
    """By default five restarts happen within 30 s and the sixth failure gives up."""
    ref = bus.spawn(lambda: Child([]), name="child")
    for _ in range(6):
        assert ref.state != ActorState.SUSPENDED
        await ref.tell(ValueError()).settled()
        await asyncio.sleep(0)
    assert ref.state == ActorState.SUSPENDED
    assert restarts(bus, "child") == 5
    assert now() < 30


async def test_no_restart_at_all_with_a_budget_of_none(bus: EventBus) -> None:
    """max_restarts=0 gives up at the first failure."""
    _, ref = await fail_and_note(bus, restart=RestartPolicy(max_restarts=0))
    assert ref.state == ActorState.SUSPENDED


async def test_the_window_slides(bus: EventBus, no_backoff: None) -> None:
    """Restarts older than the window do not count: one every 11 s goes on for ever."""
    ref = bus.spawn(
        lambda: Child([]), name="child", restart=RestartPolicy(max_restarts=2, within=20)
    )
    for _ in range(10):
        await ref.tell(ValueError()).settled()
        await asyncio.sleep(11)
        assert ref.state == ActorState.RUNNING
    for _ in range(2):
        await asyncio.sleep(1)
        await ref.tell(ValueError()).settled()
    await asyncio.sleep(1)
    assert ref.state == ActorState.SUSPENDED


async def test_a_restart_after_an_ack_is_free(bus: EventBus, no_backoff: None) -> None:
    """Only restarts of instances that had acked nothing count."""
    ref = bus.spawn(lambda: Child([]), name="child", restart=RestartPolicy(max_restarts=1))
    for _ in range(10):
        await ref.ask("fine")
        await ref.tell(ValueError()).settled()
    await asyncio.sleep(1)
    assert ref.state == ActorState.RUNNING
    for expected in (ActorState.RUNNING, ActorState.SUSPENDED):
        await ref.tell(ValueError()).settled()
        await asyncio.sleep(1)
        assert ref.state == expected


async def test_two_workers_failing_at_once_cost_one_restart(bus: EventBus) -> None:
    """What fails while its actor is being restarted already is dead, and costs nothing more."""

    class Slow(Child):
        async def receive(self, event: Event) -> Any:
            await asyncio.sleep(1)
            raise ValueError

    ref = bus.spawn(
        lambda: Slow([]), name="child", concurrency=3, restart=RestartPolicy(max_restarts=1)
    )
    receipts = [ref.tell(number) for number in range(3)]
    for receipt in receipts:
        await receipt.settled()
    await asyncio.sleep(5)
    assert ref.state == ActorState.RUNNING
    assert restarts(bus, "child") == 1
    assert len(bus.dead_letters) == 3


async def test_budgets_are_per_actor(bus: EventBus) -> None:
    """Siblings do not share a budget: one is suspended, the other runs on."""
    policy = RestartPolicy(max_restarts=1)
    bad = bus.spawn(lambda: Child([]), name="bad", restart=policy)
    good = bus.spawn(lambda: Child([]), name="good", restart=policy)
    for ref in (bad, bad, good):
        await ref.tell(ValueError()).settled()
        await asyncio.sleep(1)
    assert (bad.state, good.state) == (ActorState.SUSPENDED, ActorState.RUNNING)


# -- suspension -----------------------------------------------------------------------------------


async def suspended(bus: EventBus, log: list[Any], **options: Any) -> Any:
    """Return the reference of an actor that has just been suspended."""
    ref = bus.spawn(
        lambda: Child(log), name="child", restart=RestartPolicy(max_restarts=0), **options
    )
    await ref.tell(ValueError("first")).settled()
    await asyncio.sleep(0)
    assert ref.state == ActorState.SUSPENDED
    return ref


async def test_a_suspended_actors_mailbox_keeps_filling(bus: EventBus) -> None:
    """Deliveries are admitted while the actor is suspended, up to the mailbox's size."""
    log: list[Any] = []
    ref = await suspended(bus, log, mailbox=2)
    receipts = [ref.tell(number) for number in range(3)]
    assert [receipt.refused for receipt in receipts] == [0, 0, 1]
    await asyncio.sleep(50)
    assert bus.audit().totals.queued == 2
    assert lines(log, "receive") == [("child", "receive")]


async def test_a_probe_after_sixty_seconds_and_a_success_resumes(bus: EventBus) -> None:
    """One delivery is tried on a new instance after 60 s; acked, the actor runs on."""
    log: list[Any] = []
    ref = await suspended(bus, log)
    began = now()
    receipts = [ref.tell(number) for number in range(3)]
    await asyncio.sleep(59)
    assert lines(log, "start") == [("child", "start")]
    for receipt in receipts:
        assert (await receipt.settled()).ok
    assert now() - began == pytest.approx(60.0, abs=0.1)
    assert lines(log, "start") == [("child", "start")] * 2
    assert ref.state == ActorState.RUNNING


async def test_only_one_delivery_is_tried_per_probe(bus: EventBus) -> None:
    """However many workers the actor has, a failing probe costs one delivery."""
    log: list[Any] = []
    ref = await suspended(bus, log, concurrency=4)
    for number in range(3):
        ref.tell(ValueError(number))
    await asyncio.sleep(65)
    assert [line[2].args for line in log if line[1] == "receive"][1:] == [(0,)]
    assert bus.audit().totals.queued == 2


async def test_what_arrives_during_a_probe_waits_for_its_end(bus: EventBus) -> None:
    """While one delivery is tried no other is, though more workers would be free."""
    log: list[Any] = []
    ref = await suspended(bus, log, concurrency=4)
    probe = ref.tell(10.0)
    await asyncio.sleep(65)
    late = ref.tell("late")
    await asyncio.sleep(1)
    assert log[-1] == ("child", "receive", 10.0)
    await probe.settled()
    assert (await late.settled()).ok
    assert log[-2:] == [("child", "woke", 10.0), ("child", "receive", "late")]


async def test_a_worker_takes_nothing_new_while_its_actor_is_restarting(
    bus: EventBus, no_backoff: None
) -> None:
    """What another worker has in hand it may finish; the next delivery is the new instance's."""
    made: list[Child] = []
    taken: list[tuple[Child, Any]] = []

    class Slow(Child):
        async def receive(self, event: Event) -> Any:
            taken.append((self, event.data))
            return await super().receive(event)

        async def on_stop(self, reason: str) -> None:
            await asyncio.sleep(2)

    def make() -> Child:
        made.append(Slow([]))
        return made[-1]

    sup = bus.supervisor("sup", strategy="one_for_all")
    first = sup.spawn(make, name="first", concurrency=2)
    await sup.spawn(lambda: Slow([]), name="second").ask("ready")
    in_hand = first.tell(1.0)
    await asyncio.sleep(0.5)
    await first.tell(ValueError()).settled()
    await asyncio.sleep(0.1)
    for number in range(10):
        first.tell(number)
        await asyncio.sleep(0.2)
        assert bus.audit().balanced
    assert (await in_hand.settled()).ok
    await bus.settle()
    assert [data for each, data in taken if each is made[-1]] == list(range(10))


async def test_a_failing_probe_is_dead_like_any_other(bus: EventBus) -> None:
    """The probe's delivery is retried by its policy, then dead (`retries_exhausted`)."""
    attempts: list[int] = []

    class Flaky(Child):
        retry = RetryPolicy(max_attempts=3, base=0)

        async def receive(self, event: Event) -> Any:
            attempts.append(event.data)
            raise ValueError

    ref = bus.spawn(lambda: Flaky([]), name="child", restart=RestartPolicy(max_restarts=0))
    await ref.tell(1).settled()
    probe = ref.tell(2)
    assert not (await probe.settled()).ok
    assert attempts == [1] * 3 + [2] * 3
    assert ref.state == ActorState.SUSPENDED
    reasons = [(letter.reason, letter.attempts) for letter in bus.dead_letters]
    assert reasons == [(DeadReason.RETRIES_EXHAUSTED, 3)] * 2


async def test_probes_double_from_a_minute_to_fifteen(bus: EventBus) -> None:
    """Failing probes come after 60, 120, 240, 480, 900 and again 900 s."""
    times: list[float] = []

    class Dead(Child):
        async def receive(self, event: Event) -> Any:
            times.append(now())
            raise ValueError

    ref = bus.spawn(lambda: Dead([]), name="child", restart=RestartPolicy(max_restarts=0))
    for number in range(7):
        ref.tell(number)
    await asyncio.sleep(5000)
    waits = [later - earlier for earlier, later in pairwise(times)]
    assert waits == pytest.approx([60, 120, 240, 480, 900, 900], abs=0.1)


async def test_a_success_starts_the_probes_over(bus: EventBus) -> None:
    """After a resume the next suspension is probed after 60 s again, with a fresh budget."""
    log: list[Any] = []
    ref = await suspended(bus, log)
    ref.tell(ValueError("probe"))
    fine = ref.tell("fine")
    await fine.settled()
    assert now() == pytest.approx(180, abs=0.1)
    await ref.tell(ValueError("again")).settled()  # free: the instance has acked
    await ref.tell(ValueError("and again")).settled()
    assert ref.state == ActorState.SUSPENDED
    before = now()
    await ref.ask("x", timeout=None)
    assert now() - before == pytest.approx(60, abs=0.1)


async def test_a_probe_that_cannot_start_waits_for_the_next(bus: EventBus) -> None:
    """An on_start that fails for a probe costs no delivery; the next probe comes later."""
    starts: list[float] = []

    class Late(Child):
        async def on_start(self) -> None:
            starts.append(now())
            if 1 < len(starts) < 4:
                raise ValueError

    ref = bus.spawn(lambda: Late([]), name="child", restart=RestartPolicy(max_restarts=0))
    await ref.tell(ValueError()).settled()
    assert await ref.ask("x", timeout=None) == "x"
    waits = [later - earlier for earlier, later in pairwise(starts)]
    assert waits == pytest.approx([60, 120, 240], abs=0.1)
    assert len(bus.dead_letters) == 1


async def test_a_probe_that_hangs_is_bounded_by_the_timeout(bus: EventBus) -> None:
    """A probe that ignores its time limit is dead and the actor stays suspended."""

    class Deaf(Child):
        async def receive(self, event: Event) -> Any:
            if event.data == "fail":
                raise ValueError
            for _ in range(10):
                try:
                    await asyncio.sleep(1)
                except asyncio.CancelledError:
                    continue

    ref = bus.spawn(
        lambda: Deaf([]), name="child", timeout=2, restart=RestartPolicy(max_restarts=0)
    )
    await ref.tell("fail").settled()
    assert not (await ref.tell("hang").settled()).ok
    assert ref.state == ActorState.SUSPENDED
    assert [letter.reason for letter in bus.dead_letters][1:] == [DeadReason.TIMEOUT_IGNORED]
    await asyncio.sleep(20)


async def test_a_suspended_function_is_probed_too(bus: EventBus) -> None:
    """Suspension and probes work for plain handlers, in a thread and on the loop."""
    for name in ("inline", "thread"):
        seen: list[Any] = []

        def handler(data: Any, seen: list[Any] = seen) -> None:
            seen.append(data)
            if data == "bad":
                raise ValueError

        sub = bus.subscribe(
            f"{name}:x", handler, name=name, retry=ONCE, on_failure="restart",
            restart=RestartPolicy(max_restarts=0), inline=name == "inline",
        )  # fmt: skip
        receipts = [bus.publish(f"{name}:x", data) for data in ("bad", "bad", "good", "good")]
        for receipt in receipts:
            await receipt.settled()
        assert seen == ["bad", "bad", "good", "good"]
        assert sub.state == ActorState.RUNNING


async def test_draining_gives_up_a_suspended_actors_mail_at_once(
    make_bus: Callable[..., EventBus],
) -> None:
    """Closing does not wait for a probe: the mail is dead (`suspended`)."""
    bus = make_bus("drain")
    async with bus:
        ref = await suspended(bus, [])
        ref.tell("x")
        before = now()
    assert now() - before < 1
    assert [letter.reason for letter in bus.dead_letters][1:] == [DeadReason.SUSPENDED]


# -- on_give_up -----------------------------------------------------------------------------------


async def test_on_give_up_stop(bus: EventBus) -> None:
    """on_give_up="stop": the actor ends and its mail is dead (`stopped`)."""
    policy = RestartPolicy(max_restarts=0, on_give_up="stop")
    ref = bus.spawn(lambda: Child([]), name="child", restart=policy)
    ref.tell(ValueError())
    await ref.tell("x").settled()
    await asyncio.sleep(1)
    assert ref.state == ActorState.STOPPED
    assert [letter.reason for letter in bus.dead_letters][1:] == [DeadReason.STOPPED]


async def test_on_give_up_raise_leaves_the_async_with() -> None:
    """on_give_up="raise": the block ends with the handler's error and the bus is closed."""
    wrong = ValueError("wrong")
    policy = RestartPolicy(max_restarts=0, on_give_up="raise")
    reached = False
    with pytest.raises(ValueError, match="wrong") as caught:
        async with EventBus("raise") as bus:
            ref = bus.spawn(lambda: Child([]), restart=policy)
            ref.tell(wrong)
            rest = ref.tell("rest")
            await asyncio.sleep(100)
            reached = True
    assert caught.value is wrong
    assert not reached
    assert now() < 10  # the rest of its mail was not waited for
    assert not (await rest.settled()).ok
    assert bus.audit().balanced
    assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]  # we are in one


def test_on_give_up_raise_leaves_run() -> None:
    """on_give_up="raise": `run` raises the handler's error instead of returning."""
    bus = EventBus("raise")
    wrong = ValueError("wrong")
    policy = RestartPolicy(max_restarts=0, on_give_up="raise")
    ref = bus.spawn(lambda: Child([]), restart=policy)

    async def main() -> None:
        ref.tell(wrong)
        await asyncio.sleep(100)

    with pytest.raises(ValueError, match="wrong") as caught:
        bus.run(main)
    assert caught.value is wrong
    assert bus.audit().balanced


async def test_give_up_at_a_supervisor_before_the_root(bus: EventBus) -> None:
    """on_give_up is for the root: a supervisor with budget left restarts instead."""
    sup = bus.supervisor("sup", max_restarts=1)
    policy = RestartPolicy(max_restarts=0, on_give_up="stop")
    ref = sup.spawn(lambda: Child([]), name="child", restart=policy)
    await ref.tell(ValueError()).settled()
    assert await ref.ask("x") == "x"
    for _ in range(2):  # the first is free: the instance has acked
        await ref.tell(ValueError()).settled()
        await asyncio.sleep(1)
    assert ref.state == ActorState.STOPPED


# -- supervisors and trees ------------------------------------------------------------------------


def family(sup: Supervisor, log: list[Any], **options: Any) -> dict[str, Any]:
    """Spawn three children and return their references by name."""
    return {name: sup.spawn(lambda: Child(log), name=name, **options) for name in ("a", "b", "c")}


@pytest.mark.parametrize(
    ("strategy", "concerned"),
    [("one_for_one", "b"), ("one_for_all", "abc"), ("rest_for_one", "bc")],
)
async def test_strategies_name_who_is_restarted(
    bus: EventBus, strategy: str, concerned: str
) -> None:
    """The failing child and its siblings by strategy: stopped in reverse, started in order."""
    log: list[Any] = []
    refs = family(bus.supervisor("sup", strategy=strategy), log)
    await refs["c"].ask("ready")
    log.clear()
    await refs["b"].tell(ValueError()).settled()
    await asyncio.sleep(1)
    assert lines(log, "stop") == [(name, "stop") for name in reversed(concerned)]
    assert lines(log, "start") == [(name, "start") for name in concerned]
    assert [restarts(bus, name) for name in "abc"] == [int(name in concerned) for name in "abc"]


async def test_all_are_stopped_before_any_is_started(bus: EventBus) -> None:
    """one_for_all: no child starts before the last one has stopped."""
    log: list[Any] = []
    refs = family(bus.supervisor("sup", strategy="one_for_all"), log)
    await refs["c"].ask("ready")
    log.clear()
    await refs["a"].tell(ValueError()).settled()
    await asyncio.sleep(1)
    kinds = [line[1] for line in log if line[1] != "receive"]
    assert kinds == ["stop"] * 3 + ["start"] * 3


async def test_the_mail_of_every_restarted_child_is_kept(bus: EventBus) -> None:
    """A strategy loses no delivery of anybody."""
    log: list[Any] = []
    refs = family(bus.supervisor("sup", strategy="one_for_all"), log)
    await refs["c"].ask("ready")
    receipts = [ref.tell(number) for ref in refs.values() for number in range(5)]
    refs["a"].tell(ValueError())
    await bus.settle()
    assert all([(await receipt.settled()).ok for receipt in receipts])


async def test_a_bus_starts_its_actors_in_order_and_stops_them_in_reverse() -> None:
    """Trees of any depth: started in the order they were made, stopped in reverse."""
    log: list[Any] = []
    bus = EventBus("tree")
    bus.spawn(lambda: Child(log), name="1")
    outer = bus.supervisor("outer")
    outer.spawn(lambda: Child(log), name="2")
    inner = outer.supervisor("inner")
    inner.spawn(lambda: Child(log), name="3")
    inner.supervisor("innermost").spawn(lambda: Child(log), name="4")
    outer.spawn(lambda: Child(log), name="5")
    bus.spawn(lambda: Child(log), name="6")
    async with bus:
        assert lines(log, "start") == [(str(n), "start") for n in range(1, 7)]
    assert lines(log, "stop") == [(str(n), "stop") for n in range(6, 0, -1)]


async def test_one_starts_only_when_the_one_before_has_started() -> None:
    """Started in order means one after the other, on_start included."""
    log: list[Any] = []

    class Slow(Child):
        async def on_start(self) -> None:
            await asyncio.sleep(1)
            await super().on_start()

    bus = EventBus("order")
    bus.spawn(lambda: Slow(log), name="slow")
    bus.spawn(lambda: Child(log), name="quick")
    async with bus:
        assert lines(log, "start") == [("slow", "start"), ("quick", "start")]


async def test_an_on_start_that_hangs_in_a_restart_does_not_keep_siblings_from_starting(
    bus: EventBus,
) -> None:
    """A restart starts its children in order, but waits for none of them for ever."""
    log: list[Any] = []
    count = 0

    class Hangs(Child):
        async def on_start(self) -> None:
            nonlocal count
            count += 1
            if count == 2:
                await asyncio.Event().wait()

    sup = bus.supervisor("sup", strategy="one_for_all")
    hanging = sup.spawn(lambda: Hangs([]), name="hangs")
    other = sup.spawn(lambda: Child(log), name="other")
    await other.ask("ready")
    await hanging.tell(ValueError()).settled()
    assert await other.ask("x", timeout=20) == "x"
    await hanging.stop()


async def test_a_supervisor_has_subscribe_spawn_and_supervisor(bus: EventBus) -> None:
    """All three work below a supervisor as on the bus, the decorator included."""
    sup = bus.supervisor("sup").supervisor("below")
    got: list[Any] = []

    @sup.subscribe("a:*", name="decorated")
    async def decorated(data: Any) -> None:
        got.append(data)

    called = sup.subscribe("a:*", decorated, name="called")
    ref = sup.spawn(lambda: Child([]), name="child")
    await bus.publish("a:b", 1).settled()
    assert got == [1, 1]
    assert await ref.ask("x") == "x"
    assert called.unsubscribe() == 1


async def test_a_functions_restart_follows_the_strategy(bus: EventBus) -> None:
    """A function with on_failure="restart" takes its siblings along."""
    log: list[Any] = []

    async def failing(data: Any) -> None:
        raise ValueError

    sup = bus.supervisor("sup", strategy="one_for_all")
    sup.subscribe("a:b", failing, name="fn", retry=ONCE, on_failure="restart")
    await sup.spawn(lambda: Child(log), name="child").ask("ready")
    await bus.publish("a:b").settled()
    await asyncio.sleep(1)
    assert lines(log, "start") == [("child", "start")] * 2


async def test_a_spent_budget_goes_to_the_parent_and_counts_there(bus: EventBus) -> None:
    """The parent answers with its strategy, `max_restarts` times; then its own parent is asked."""
    log: list[Any] = []
    sup = bus.supervisor("sup", strategy="one_for_all", max_restarts=2, within=1000)
    policy = RestartPolicy(max_restarts=1, within=1000)
    bad = sup.spawn(lambda: Child(log), name="bad", restart=policy)
    sup.spawn(lambda: Child(log), name="good")
    await bad.ask("ready")
    log.clear()
    states = []
    await asyncio.sleep(1)
    bad.tell(ValueError("free"))
    for number in range(6):
        await asyncio.sleep(40)
        bad.tell(ValueError(number))
        await asyncio.sleep(0.1)
        states.append(bad.state)
    # own budget, parent, own budget, parent, own budget, give up
    assert states[-1] == ActorState.SUSPENDED
    assert ActorState.SUSPENDED not in states[:-1]
    assert bus.actor("good").state == ActorState.RUNNING  # type: ignore[union-attr]  # it is there


async def test_an_escalation_restarts_the_whole_child_supervisor(bus: EventBus) -> None:
    """Above, the failing supervisor is the child: its actors are restarted, by that strategy."""
    log: list[Any] = []
    top = bus.supervisor("top", strategy="rest_for_one", max_restarts=1)
    top.spawn(lambda: Child(log), name="before")
    middle = top.supervisor("middle", max_restarts=0)
    bad = middle.spawn(lambda: Child(log), name="bad", restart=RestartPolicy(max_restarts=0))
    middle.spawn(lambda: Child(log), name="beside")
    after = top.spawn(lambda: Child(log), name="after")
    await after.ask("ready")
    log.clear()
    await bad.tell(ValueError()).settled()
    await asyncio.sleep(1)
    names = ["bad", "beside", "after"]
    assert lines(log, "stop") == [(name, "stop") for name in reversed(names)]
    assert lines(log, "start") == [(name, "start") for name in names]
    await bad.tell(ValueError()).settled()
    await asyncio.sleep(1)
    assert bad.state == ActorState.SUSPENDED


async def test_the_supervisors_default_budget_is_three_in_sixty_seconds(bus: EventBus) -> None:
    """Three escalations are answered, the fourth within a minute is passed on."""
    sup = bus.supervisor("sup")
    ref = sup.spawn(lambda: Child([]), name="child", on_failure="escalate")
    for expected in [ActorState.RUNNING] * 3 + [ActorState.SUSPENDED]:
        await ref.tell(ValueError()).settled()
        await asyncio.sleep(5)
        assert ref.state == expected


async def test_the_supervisors_window_slides(bus: EventBus, no_backoff: None) -> None:
    """Escalations further apart than the window are always answered."""
    sup = bus.supervisor("sup", max_restarts=1, within=10)
    ref = sup.spawn(lambda: Child([]), name="child", on_failure="escalate")
    for _ in range(5):
        await ref.tell(ValueError()).settled()
        await asyncio.sleep(11)
        assert ref.state == ActorState.RUNNING


async def test_a_suspended_or_stopped_sibling_is_left_alone(bus: EventBus) -> None:
    """A strategy does not wake a suspended sibling nor a stopped one."""
    log: list[Any] = []
    sup = bus.supervisor("sup", strategy="one_for_all", max_restarts=0)
    gone = sup.spawn(lambda: Child(log), name="gone")
    bad = sup.spawn(lambda: Child(log), name="bad", on_failure="escalate")
    one = sup.spawn(lambda: Child(log), name="one")
    await gone.stop()
    await bad.tell(ValueError()).settled()
    await asyncio.sleep(1)
    log.clear()
    await one.tell(ValueError()).settled()
    await asyncio.sleep(1)
    assert lines(log, "start") == [("one", "start")]
    assert bad.state == ActorState.SUSPENDED


async def test_overlapping_restarts_build_one_instance_each(bus: EventBus) -> None:
    """A restart that overtakes another never leaves two instances of one actor."""
    log: list[Any] = []

    class Slow(Child):
        async def on_start(self) -> None:
            await asyncio.sleep(2)
            await super().on_start()

    sup = bus.supervisor("sup", strategy="rest_for_one")
    first = sup.spawn(lambda: Child(log), name="first")
    second = sup.spawn(lambda: Slow(log), name="second")
    await second.ask("ready")
    log.clear()
    await second.tell(ValueError()).settled()
    await asyncio.sleep(1)  # the second is starting
    await first.tell(ValueError()).settled()
    await asyncio.sleep(10)
    assert await second.ask("fine") == "fine"
    await second.stop()
    started, stopped = log.count(("second", "start")), len(lines(log, "stop"))
    mine = [line for line in lines(log, "stop") if line[0] == "second"]
    assert len(mine) == started + 1  # and the one from before
    assert stopped == len(mine) + 1


async def test_a_restart_waits_for_the_end_another_one_has_begun(
    bus: EventBus, no_backoff: None
) -> None:
    """Two restarts of one actor at once end its instance once, and start the next after that."""
    log: list[Any] = []

    class Deaf(Child):
        async def receive(self, event: Event) -> Any:
            if event.data == "deaf":
                until = now() + 5
                while now() < until:
                    try:
                        await asyncio.sleep(until - now())
                    except asyncio.CancelledError:
                        continue
            return await super().receive(event)

    sup = bus.supervisor("sup", strategy="rest_for_one")
    first = sup.spawn(lambda: Child([]), name="first")
    second = sup.spawn(lambda: Deaf(log), name="second", concurrency=2)
    await second.ask("ready")
    log.clear()
    second.tell("deaf")
    await asyncio.sleep(0.1)
    await second.tell(ValueError()).settled()  # waits a second for the deaf one
    await asyncio.sleep(0.3)
    await first.tell(ValueError()).settled()  # concerns the second too
    for _ in range(20):
        await asyncio.sleep(0.1)
        second.tell(0.05)
        await asyncio.sleep(0)
        assert bus.audit().balanced, str(bus.audit())
    await bus.settle()
    assert lines(log, "start", "stop") == [("second", "stop"), ("second", "start")]


async def test_no_instance_is_built_while_another_restart_still_ends_one(
    bus: EventBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restart that comes late waits for the hooks of the instance another one is ending."""
    draws = iter([1.0])  # the first restart waits 0.2 s, the others not at all
    monkeypatch.setattr(world, "random", lambda: next(draws, 0.0))
    log: list[str] = []

    class Second(Actor):
        async def on_start(self) -> None:
            log.append("start")
            if log == ["start", "start"]:
                raise ValueError

        async def receive(self, event: Event) -> None:
            raise ValueError

        async def on_restart(self, error: BaseException, event: Event | None) -> None:
            if event is None:
                await asyncio.sleep(3)
                log.append("ended")

    sup = bus.supervisor("sup", strategy="rest_for_one")
    first = sup.spawn(lambda: Child([]), name="first", retry=ONCE)
    second = sup.spawn(Second, name="second", retry=ONCE)
    await bus.start()
    await second.tell(None).settled()
    await asyncio.sleep(0.1)
    await first.tell(ValueError()).settled()  # overtakes: the next one fails to start at once
    await asyncio.sleep(10)
    assert log == ["start", "start", "ended", "start"]


async def test_a_supervisors_name_is_unique_and_its_options_are_checked(bus: EventBus) -> None:
    """A taken name, an unknown strategy or a budget out of range is refused."""
    bus.supervisor("sup")
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("sup", {}),
        ("", {}),
        ("x", {"strategy": "all_for_one"}),
        ("x", {"max_restarts": -1}),
        ("x", {"within": 0}),
    ]
    for name, options in wrong:
        with pytest.raises(ConfigurationError):
            bus.supervisor(name, **options)


async def test_an_acquitted_failure_elsewhere_harms_nobody(bus: EventBus) -> None:
    """one_for_one: other actors never notice a restart."""
    log: list[Any] = []
    refs = family(bus.supervisor("sup"), log)
    slow = refs["a"].tell(10.0)
    await asyncio.sleep(1)
    await refs["b"].tell(ValueError()).settled()
    assert (await slow.settled()).ok
    assert [line for line in log if line[0] == "a"] == [
        ("a", "start"), ("a", "receive", 10.0), ("a", "woke", 10.0),
    ]  # fmt: skip


async def test_a_restart_begins_nothing_that_a_later_one_has_yet_to_end(
    bus: EventBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three restarts overlap: every instance is ended before the next one of its actor starts."""
    draws = iter([0.0, 1.0, 0.0])
    monkeypatch.setattr(world, "random", lambda: next(draws))
    log: list[Any] = []

    class Slow(Child):
        async def on_start(self) -> None:
            if any(line[1] == "receive" for line in log):
                await asyncio.sleep(0.1)
            self.note("start")

    class Clinging(Child):
        async def on_stop(self, reason: str) -> None:
            if now() > 0.15:
                await asyncio.sleep(1.0)
            self.note("stop", reason)

    team = bus.supervisor("team", "one_for_all")
    first = team.spawn(lambda: Child(log), name="first")
    slow = team.spawn(lambda: Slow(log), name="slow")
    last = team.spawn(lambda: Clinging(log), name="last")
    await bus.start()
    last.tell(ValueError())  # at once: `first` begins anew, then `slow`
    await asyncio.sleep(0.05)
    first.tell(ValueError())  # while `slow` begins: all again at 0.25
    await asyncio.sleep(0.15)
    last.tell(ValueError())  # while that waits; `last` takes a second to end
    await asyncio.sleep(5.0)

    for actor in (first, slow, last):
        assert actor.state == ActorState.RUNNING
        steps = [kind for name, kind in lines(log, "start", "stop") if name == actor.name]
        assert steps == ["start", "stop"] * (len(steps) // 2) + ["start"]
    assert await slow.ask(1) == 1
