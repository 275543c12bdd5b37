"""Actors: spawning, hooks and their order, state, tell, stop, options."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from actorbus import (
    Actor,
    ActorRef,
    ActorState,
    ConfigurationError,
    DeadReason,
    Event,
    EventBus,
    Outcome,
    Receipt,
    RestartPolicy,
    RetryPolicy,
    world,
)

if TYPE_CHECKING:
    from collections.abc import Callable

ONCE = RetryPolicy.none()


class Diary(Actor):
    """Writes down what happens to it; a payload that is an error is raised."""

    patterns = ("diary:*",)
    retry = ONCE

    def __init__(self, lines: list[Any], number: int = 0) -> None:
        self.lines = lines
        self.number = number

    async def on_start(self) -> None:
        self.lines.append(("start", self.number))

    async def receive(self, event: Event) -> Any:
        self.lines.append(("receive", self.number, event.data))
        if isinstance(event.data, BaseException):
            raise event.data
        return event.data

    async def on_restart(self, error: BaseException, event: Event | None) -> None:
        self.lines.append(("restart", self.number, error, event and event.data))

    async def on_stop(self, reason: str) -> None:
        self.lines.append(("stop", self.number, reason))


def diaries(lines: list[Any]) -> Callable[[], Diary]:
    """Return a factory whose instances are numbered from 1."""
    count = iter(range(1, 1000))
    return lambda: Diary(lines, next(count))


async def test_an_actor_gets_the_events_of_its_patterns(bus: EventBus) -> None:
    """The class's patterns are what it listens to, and nothing else."""
    lines: list[Any] = []
    bus.spawn(diaries(lines))
    await bus.publish("diary:a", 1).settled()
    await bus.publish("other:a", 2).settled()
    assert lines == [("start", 1), ("receive", 1, 1)]


async def test_receive_gets_the_event_itself(bus: EventBus) -> None:
    """A `receive` annotated `Event` gets the very event that was published."""
    seen: list[Event] = []

    class Taker(Actor):
        patterns = "a:*"

        async def receive(self, event: Event) -> None:
            seen.append(event)

    bus.spawn(Taker)
    receipt = bus.publish("a:b", 1)
    await receipt.settled()
    assert seen == [receipt.event]
    assert seen[0] is receipt.event


async def test_a_receive_annotated_otherwise_gets_the_payload(bus: EventBus) -> None:
    """An actor's handler is called by its annotation, as a function is."""

    class Taker(Actor):
        patterns = "a:*"

        async def receive(self, event: Any) -> Any:
            return event

    bus.spawn(Taker)
    assert await bus.ask("a:b", {"n": 1}) == {"n": 1}


async def test_hooks_run_in_order_around_a_restart(bus: EventBus) -> None:
    """on_restart, then on_stop, both on the failed instance, before on_start on the new one."""
    lines: list[Any] = []
    bus.spawn(diaries(lines))
    wrong = ValueError("wrong")
    bus.publish("diary:a", wrong)
    bus.publish("diary:a", 2)
    await bus.settle()
    assert lines == [
        ("start", 1),
        ("receive", 1, wrong),
        ("restart", 1, wrong, wrong),
        ("stop", 1, "restart"),
        ("start", 2),
        ("receive", 2, 2),
    ]


async def test_on_stop_once_for_every_instance_that_started() -> None:
    """Every instance that started is stopped exactly once, the last when the bus closes."""
    lines: list[Any] = []
    async with EventBus("stops") as bus:
        bus.spawn(diaries(lines))
        for number in range(3):
            await bus.publish("diary:a", ValueError(number)).settled()
            await bus.settle()
        await bus.publish("diary:a", "fine").settled()
    started = [line[1] for line in lines if line[0] == "start"]
    stopped = [line[1] for line in lines if line[0] == "stop"]
    assert started == stopped == [1, 2, 3, 4]


async def test_an_instance_that_did_not_start_is_not_stopped() -> None:
    """on_stop is for instances whose on_start returned; the others only hear of their failure."""
    lines: list[Any] = []

    class Late(Diary):
        async def on_start(self) -> None:
            await super().on_start()
            if self.number == 1:
                raise ValueError("not yet")

    count = iter(range(1, 10))
    async with EventBus("late") as bus:
        bus.spawn(lambda: Late(lines, next(count)))
        await bus.publish("diary:a", "x").settled()
    assert [line for line in lines if line[0] == "stop"] == [("stop", 2, "drained")]


async def test_on_restart_of_an_instance_that_failed_to_start_has_no_event(bus: EventBus) -> None:
    """The instance that failed hears of it, with no event if it failed to start."""
    lines: list[Any] = []
    wrong = ValueError("not yet")

    class Late(Diary):
        async def on_start(self) -> None:
            if self.number == 1:
                raise wrong

    count = iter(range(1, 10))
    bus.spawn(lambda: Late(lines, next(count)))
    await bus.publish("diary:a", "x").settled()
    assert lines == [("restart", 1, wrong, None), ("receive", 2, "x")]


async def test_a_sibling_that_did_not_fail_is_stopped_without_on_restart(bus: EventBus) -> None:
    """on_restart is called on the instance that failed, and on no other."""
    mine: list[Any] = []
    other: list[Any] = []
    group = bus.supervisor("group", strategy="one_for_all")
    group.spawn(diaries(mine), name="mine")
    ref = group.spawn(diaries(other), name="other")
    await ref.ask("hello")
    failing = bus.actor("mine")
    assert failing is not None
    await failing.tell(ValueError("wrong")).settled()
    await asyncio.sleep(1)
    await bus.settle()
    assert other == [("start", 1), ("receive", 1, "hello"), ("stop", 1, "restart"), ("start", 2)]


async def test_a_hook_that_fails_on_the_way_out_stops_nothing(bus: EventBus) -> None:
    """A failing on_restart or on_stop is logged, and the restart goes on."""

    class Sulky(Actor):
        retry = ONCE

        async def receive(self, event: Event) -> Any:
            if event.data == "fail":
                raise ValueError
            return event.data

        async def on_restart(self, error: BaseException, event: Event | None) -> None:
            raise RuntimeError("on_restart")

        async def on_stop(self, reason: str) -> None:
            raise KeyError("on_stop")

    ref = bus.spawn(Sulky)
    ref.tell("fail")
    assert await ref.ask("fine") == "fine"
    await asyncio.wait_for(ref.stop(), 60)
    assert ref.state == ActorState.STOPPED


@pytest.mark.parametrize("hook", ["on_restart", "on_stop"])
async def test_a_hook_that_raises_a_base_exception_stops_nothing(bus: EventBus, hook: str) -> None:
    """Not even an error outside `Exception` in a hook keeps the actor from going on or ending."""

    class Rude(BaseException):
        pass

    class Sulky(Diary):
        async def on_restart(self, error: BaseException, event: Event | None) -> None:
            if hook == "on_restart":
                raise Rude

        async def on_stop(self, reason: str) -> None:
            if hook == "on_stop":
                raise Rude

    ref = bus.spawn(lambda: Sulky([]))
    ref.tell(ValueError())
    assert await ref.ask("fine") == "fine"
    await asyncio.wait_for(ref.stop(), 60)
    assert ref.state == ActorState.STOPPED


async def test_a_hook_that_never_ends_holds_nobody_up(bus: EventBus) -> None:
    """A hook on the way out is given up after five seconds."""

    class Slow(Diary):
        async def on_restart(self, error: BaseException, event: Event | None) -> None:
            await asyncio.Event().wait()

    lines: list[Any] = []
    ref = bus.spawn(lambda: Slow(lines))
    ref.tell(ValueError())
    assert await ref.ask("fine", timeout=8.0) == "fine"


async def test_spawn_takes_the_options_of_subscribe(bus: EventBus) -> None:
    """An option of subscribe works in spawn; an unknown one is refused."""
    lines: list[Any] = []
    bus.spawn(diaries(lines), name="diary", exclude="diary:secret")
    assert bus.publish("diary:secret", 1).deliveries == 0
    with pytest.raises(ConfigurationError, match="nonsense"):
        bus.spawn(diaries(lines), nonsense=1)  # type: ignore[call-arg]  # that is the point


async def test_a_class_will_do_as_the_factory(bus: EventBus) -> None:
    """`spawn` takes a class, and every restart calls it again."""
    made: list[Any] = []

    class Plain(Actor):
        retry = ONCE

        def __init__(self) -> None:
            made.append(self)

        async def receive(self, event: Event) -> Any:
            if event.data == "fail":
                raise ValueError
            return self

    ref = bus.spawn(Plain)
    ref.tell("fail")
    assert await ref.ask("who") is made[-1]
    assert len(made) == 2


@pytest.mark.parametrize("factory", [lambda: object(), Diary([]), 7])
async def test_spawn_refuses_what_makes_no_actor(bus: EventBus, factory: Any) -> None:
    """What is no factory, or makes something else, is refused at the call."""
    with pytest.raises(ConfigurationError):
        bus.spawn(factory)


async def test_an_actor_without_receive_is_refused(bus: EventBus) -> None:
    """An actor that could handle nothing is refused at the call."""
    with pytest.raises(ConfigurationError, match="receive"):
        bus.spawn(Actor)


async def test_a_restart_has_fresh_state_and_the_old_mailbox(bus: EventBus) -> None:
    """What the instance kept is gone after a restart; what the mailbox held is not."""

    class Counter(Actor):
        patterns = "n:*"
        retry = ONCE

        def __init__(self) -> None:
            self.seen: list[Any] = []

        async def receive(self, event: Event) -> None:
            self.seen.append(event.data)
            results.append(list(self.seen))
            if event.data == 2:
                raise ValueError

    results: list[list[Any]] = []
    bus.spawn(Counter)
    for number in range(1, 5):
        bus.publish("n:x", number)
    await bus.settle()
    assert results == [[1], [1, 2], [3], [3, 4]]


async def test_what_arrives_during_a_restart_is_kept(bus: EventBus) -> None:
    """The mailbox takes deliveries while no instance is there."""
    lines: list[Any] = []
    ref = bus.spawn(diaries(lines), mailbox=3)
    failing = ref.tell(ValueError())
    await failing.settled()
    assert ref.state == ActorState.RESTARTING
    receipts = [ref.tell(number) for number in range(3)]
    assert [receipt.waiting for receipt in receipts] == [0, 0, 0]
    await bus.settle()
    assert [line[2] for line in lines if line[:2] == ("receive", 2)] == [0, 1, 2]


async def test_bus_name_and_ref_are_there_from_on_start_on(bus: EventBus) -> None:
    """An actor knows its bus, its name and the reference to itself when on_start runs."""
    known: list[Any] = []

    class Knowing(Actor):
        async def on_start(self) -> None:
            known.append((self.bus, self.name, self.ref))

        async def receive(self, event: Event) -> Any:
            if event.data == "fail":
                raise ValueError
            return (self.bus, self.name, self.ref)

    ref = bus.spawn(Knowing, name="knowing", retry=ONCE)
    assert await ref.ask() == (bus, "knowing", ref)
    ref.tell("fail")
    assert await ref.ask() == (bus, "knowing", ref)
    assert known == [(bus, "knowing", ref)] * 2


async def test_on_start_runs_before_the_first_delivery(bus: EventBus) -> None:
    """No delivery is handled before on_start has returned, however long it takes."""
    lines: list[Any] = []

    class Slow(Diary):
        async def on_start(self) -> None:
            await asyncio.sleep(3)
            await super().on_start()

    ref = bus.spawn(lambda: Slow(lines))
    receipt = bus.publish("diary:a", 1)
    await asyncio.sleep(2)
    assert lines == []
    assert ref.state == ActorState.STARTING
    await receipt.settled()
    assert lines == [("start", 0), ("receive", 0, 1)]


class Prompt(Actor):
    """Has nothing to do before its first delivery."""

    async def receive(self, event: Event) -> Any:
        return (self.name, self.ref)


async def test_an_actor_without_on_start_runs_at_once(bus: EventBus) -> None:
    """It needs no task of its own to start: one that is idle costs none at all."""
    await bus.start()
    tasks = asyncio.all_tasks()
    ref = bus.spawn(Prompt)
    assert ref.state == ActorState.RUNNING
    assert asyncio.all_tasks() == tasks
    assert await ref.ask() == (ref.name, ref)


async def test_an_actor_without_on_start_waits_its_turn(bus: EventBus) -> None:
    """Started in order, those that need no time to start included."""

    class Slow(Prompt):
        async def on_start(self) -> None:
            await asyncio.sleep(1)

    await bus.start()
    slow, prompt = bus.spawn(Slow), bus.spawn(Prompt)
    await asyncio.sleep(0.5)
    assert (slow.state, prompt.state) == (ActorState.STARTING, ActorState.STARTING)
    await asyncio.sleep(1)
    assert (slow.state, prompt.state) == (ActorState.RUNNING, ActorState.RUNNING)


async def test_an_on_start_of_the_instance_s_own_is_run(bus: EventBus) -> None:
    """A hook set on the instance counts as much as one of the class."""
    lines: list[str] = []

    class Instance(Prompt):
        def __init__(self) -> None:
            self.on_start = self.prepare  # type: ignore[method-assign]  # the point

        async def prepare(self) -> None:
            lines.append(self.name)

    await bus.spawn(Instance, name="it").ask()
    assert lines == ["it"]


async def test_an_instance_that_takes_no_name_has_failed_to_start(bus: EventBus) -> None:
    """What an instance raises when it is given its attributes is a failure of the actor."""
    asked: list[Any] = []

    class Closed(Prompt):
        def __setattr__(self, name: str, value: Any) -> None:
            raise AttributeError(name)

        async def on_restart(self, error: BaseException, event: Event | None) -> None:
            asked.append(type(error))

    ref = bus.spawn(Closed, restart=RestartPolicy(max_restarts=1))
    await asyncio.sleep(60)
    assert asked == [AttributeError]
    assert ref.state == ActorState.SUSPENDED


@pytest.mark.parametrize("error", [ValueError("x"), asyncio.CancelledError(), BaseException("x")])
async def test_a_failure_to_start_is_a_failure_of_the_actor(
    bus: EventBus, error: BaseException
) -> None:
    """An on_start that raises is answered with a restart; mail waits for the next instance."""

    class Late(Diary):
        async def on_start(self) -> None:
            await super().on_start()
            if self.number == 1:
                raise error

    lines: list[Any] = []
    count = iter(range(1, 10))
    ref = bus.spawn(lambda: Late(lines, next(count)))
    assert await ref.ask("x") == "x"
    assert [line for line in lines if line[0] == "receive"] == [("receive", 2, "x")]


async def test_a_factory_that_fails_is_a_failure_of_the_actor(bus: EventBus) -> None:
    """A factory that raises when a restart calls it is called again."""
    lines: list[Any] = []
    calls = iter(range(1, 10))

    def make() -> Diary:
        number = next(calls)
        if number == 2:
            raise ValueError("no parts")
        return Diary(lines, number)

    ref = bus.spawn(make)
    ref.tell(ValueError())
    await ref.ask("x")
    assert lines[-1] == ("receive", 3, "x")


async def test_failures_to_start_spend_the_restart_budget(bus: EventBus) -> None:
    """An actor that never starts is suspended when its budget is spent."""
    starts: list[float] = []

    class Never(Diary):
        async def on_start(self) -> None:
            starts.append(asyncio.get_running_loop().time())
            raise ValueError("never")

    ref = bus.spawn(lambda: Never([]), restart=RestartPolicy(max_restarts=3))
    await asyncio.sleep(30)
    assert ref.state == ActorState.SUSPENDED
    assert len(starts) == 4


async def test_failures_to_start_spend_the_budget_after_a_good_instance_too(bus: EventBus) -> None:
    """What an earlier instance acked is no credit for instances that cannot start."""
    starts: list[int] = []

    class Once(Diary):
        async def on_start(self) -> None:
            starts.append(self.number)
            if self.number > 1:
                raise ValueError("broken for good")

    count = iter(range(1, 1000))
    policy = RestartPolicy(max_restarts=2, within=1000)
    ref = bus.spawn(lambda: Once([], next(count)), restart=policy)
    await ref.ask("fine")
    ref.tell(ValueError())
    await asyncio.sleep(50)
    assert ref.state == ActorState.SUSPENDED
    assert starts == [1, 2, 3, 4]  # the first restart was free, two were paid for


@pytest.mark.parametrize(
    ("directive", "state"),
    [("stop", ActorState.STOPPED), ("escalate", ActorState.SUSPENDED)],
)
async def test_a_failure_to_start_is_answered_with_the_directive(
    bus: EventBus, directive: str, state: ActorState
) -> None:
    """on_failure decides on a failure to start too, and is told of no event."""
    asked: list[Any] = []

    class Never(Diary):
        async def on_start(self) -> None:
            raise ValueError("never")

    def decide(error: BaseException, event: Event | None) -> str:
        asked.append((type(error), event))
        return directive

    ref = bus.spawn(lambda: Never([]), on_failure=decide)
    await asyncio.sleep(1)
    assert asked == [(ValueError, None)]
    assert ref.state == state


async def test_an_actor_that_cannot_start_does_not_keep_others_from_starting() -> None:
    """One on_start that hangs or fails does not stop the bus or its other actors."""

    class Hangs(Diary):
        async def on_start(self) -> None:
            await asyncio.Event().wait()

    class Fails(Diary):
        async def on_start(self) -> None:
            raise ValueError

    bus = EventBus("starts")
    bus.spawn(lambda: Hangs([]), name="hangs")
    bus.spawn(lambda: Fails([]), name="fails")
    good = bus.spawn(lambda: Diary([]), name="good")
    async with bus:
        assert await good.ask("x") == "x"
        await bus.close(timeout=1)


async def test_options_given_to_spawn_win_over_class_attributes(bus: EventBus) -> None:
    """A class attribute named like an option sets it; the same option of spawn wins."""
    attempts: list[str] = []

    class Stubborn(Actor):
        name = "stubborn"
        retry = RetryPolicy(max_attempts=3)
        on_failure: ClassVar[str] = "resume"

        async def receive(self, event: Event) -> None:
            attempts.append(self.name)
            raise ValueError

    by_class = bus.spawn(Stubborn)
    by_call = bus.spawn(Stubborn, name="docile", retry=RetryPolicy(max_attempts=2))
    for ref in (by_class, by_call):
        await ref.tell().settled()
    assert attempts == ["stubborn"] * 3 + ["docile"] * 2
    assert (by_class.state, by_call.state) == (ActorState.RUNNING, ActorState.RUNNING)


async def test_a_class_attribute_of_the_wrong_kind_is_refused(bus: EventBus) -> None:
    """Options set by attributes are checked like those of the call."""

    class Wrong(Diary):
        mailbox = 0

    with pytest.raises(ConfigurationError, match="mailbox"):
        bus.spawn(lambda: Wrong([]))


async def test_patterns_may_be_empty(bus: EventBus) -> None:
    """An actor without patterns can be told and asked, and hears nothing else."""

    class Quiet(Actor):
        async def receive(self, event: Event) -> Any:
            return event.data

    ref = bus.spawn(Quiet)
    assert bus.publish("any:thing", 1).deliveries == 0
    assert await ref.ask(5) == 5


async def test_subclasses_need_not_call_super_init(bus: EventBus) -> None:
    """An actor whose __init__ calls nobody works like any other."""

    class Lean(Actor):
        patterns = ("lean:*",)

        def __init__(self) -> None:
            self.answer = 42

        async def receive(self, event: Event) -> int:
            return self.answer

    ref = bus.spawn(Lean)
    assert await ref.ask() == 42
    assert await bus.ask("lean:x") == 42


async def test_tell_returns_a_receipt_and_uses_the_bus_own_topic(bus: EventBus) -> None:
    """A told event has the topic `$bus:tell:<name>` and reaches that actor alone."""
    lines: list[Any] = []
    ref = bus.spawn(diaries(lines), name="first")
    bus.spawn(diaries(lines), name="second")
    receipt = ref.tell("hello", key="k")
    assert isinstance(receipt, Receipt)
    assert receipt.event.topic == "$bus:tell:first"
    assert (receipt.event.key, receipt.deliveries) == ("k", 1)
    assert (await receipt.settled()).outcomes == {"first": Outcome.ACKED}
    assert [line for line in lines if line[0] == "receive"] == [("receive", 1, "hello")]


async def test_state_follows_the_life_of_the_actor(bus: EventBus) -> None:
    """A reference tells starting, running, restarting, stopping and stopped apart."""
    go = asyncio.Event()

    class Careful(Diary):
        async def on_start(self) -> None:
            await asyncio.sleep(1)

        async def receive(self, event: Event) -> None:
            if event.data == "fail":
                raise ValueError
            await go.wait()

    ref = bus.spawn(lambda: Careful([]))
    seen = [ref.state]
    await asyncio.sleep(1.1)
    seen.append(ref.state)
    await ref.tell("fail").settled()
    seen.append(ref.state)
    await asyncio.sleep(2)
    ref.tell("wait")
    await asyncio.sleep(0)
    ending = asyncio.create_task(ref.stop())
    await asyncio.sleep(0.1)
    seen.append(ref.state)
    go.set()
    await ending
    seen.append(ref.state)
    assert seen == ["starting", "running", "restarting", "stopping", "stopped"]


async def test_stop_finishes_the_delivery_in_hand_and_gives_up_the_rest(bus: EventBus) -> None:
    """After `stop` the one in hand is acked, the queued and waiting ones are dead (`stopped`)."""
    lines: list[Any] = []

    class Slow(Diary):
        async def receive(self, event: Event) -> None:
            await asyncio.sleep(1)
            self.lines.append(event.data)

    ref = bus.spawn(lambda: Slow(lines), name="slow", mailbox=2)
    await asyncio.sleep(0.1)
    receipts = [ref.tell(number) for number in range(4)]
    await asyncio.sleep(0.1)
    await ref.stop()
    assert lines == [("start", 0), 0, ("stop", 0, "stopped")]
    outcomes = [(await receipt.settled()).outcomes["slow"] for receipt in receipts]
    assert outcomes == [Outcome.ACKED] + [Outcome.DEAD] * 3
    assert [letter.reason for letter in bus.dead_letters] == [DeadReason.STOPPED] * 3
    assert [letter.attempts for letter in bus.dead_letters] == [0] * 3


async def test_stop_lets_a_retrying_delivery_come_to_its_end(bus: EventBus) -> None:
    """A delivery between two attempts is in hand: `stop` waits for its last attempt."""
    attempts: list[int] = []

    class Flaky(Actor):
        async def receive(self, event: Event) -> None:
            attempts.append(1)
            if len(attempts) < 3:
                raise ValueError

    ref = bus.spawn(Flaky, retry=RetryPolicy(base=1, jitter="none"))
    receipt = ref.tell()
    await asyncio.sleep(0.5)
    await ref.stop()
    assert (await receipt.settled()).ok
    assert len(attempts) == 3


async def test_a_stopped_actor_is_gone(bus: EventBus) -> None:
    """A stopped actor matches nothing, is not found, and what it is told is dead (`stopped`)."""
    ref = bus.spawn(diaries([]), name="gone")
    assert bus.actor("gone") is ref
    await ref.stop()
    await ref.stop()
    assert bus.actor("gone") is None
    assert bus.publish("diary:a").deliveries == 0
    assert not (await ref.tell(1).settled()).ok
    assert [letter.reason for letter in bus.dead_letters] == [DeadReason.STOPPED]
    again = bus.spawn(diaries([]), name="gone")
    assert await again.ask("x") == "x"


async def test_an_actor_may_stop_itself(bus: EventBus) -> None:
    """`stop` in a handler of the actor does not wait for that handler."""

    class Weary(Actor):
        async def receive(self, event: Event) -> str:
            await self.ref.stop()
            return "last words"

    ref = bus.spawn(Weary)
    assert await asyncio.wait_for(ref.ask(), 5) == "last words"
    await ref.stop()
    assert ref.state == ActorState.STOPPED


async def test_an_actor_can_be_stopped_while_it_starts(bus: EventBus) -> None:
    """`stop` ends an on_start that hangs, and whatever it was told is dead."""

    class Hangs(Diary):
        async def on_start(self) -> None:
            await asyncio.Event().wait()

    ref = bus.spawn(lambda: Hangs([]))
    receipt = ref.tell(1)
    await asyncio.sleep(0.1)
    await asyncio.wait_for(ref.stop(), 60)
    assert ref.state == ActorState.STOPPED
    assert not (await receipt.settled()).ok


async def test_an_instance_that_starts_while_it_is_stopped_is_stopped(bus: EventBus) -> None:
    """An on_start that will not be cancelled and returns is followed by its on_stop."""
    lines: list[Any] = []

    class Deaf(Diary):
        async def on_start(self) -> None:
            try:
                await asyncio.sleep(2)
            except asyncio.CancelledError:
                await asyncio.sleep(0.5)
            await super().on_start()

    ref = bus.spawn(lambda: Deaf(lines))
    await asyncio.sleep(0.1)
    await asyncio.wait_for(ref.stop(), 60)
    await asyncio.sleep(5)
    assert [line[0] for line in lines] == ["start", "stop"]


async def test_an_actor_never_started_can_be_stopped() -> None:
    """`stop` works on an actor whose bus has never run."""
    bus = EventBus("idle")
    ref = bus.spawn(diaries([]), name="idle")
    await ref.stop()
    assert ref.state == ActorState.STOPPED
    assert bus.actor("idle") is None


async def test_actor_finds_the_reference_by_name(bus: EventBus) -> None:
    """`bus.actor` gives the reference `spawn` gave, and None for an unknown name."""
    ref = bus.spawn(diaries([]), name="known")
    found = bus.actor("known")
    assert isinstance(found, ActorRef)
    assert found is ref
    assert bus.actor("unknown") is None


async def test_a_function_can_be_told_and_asked_by_name(bus: EventBus) -> None:
    """Every subscription is an actor: `bus.actor` finds plain handlers too."""

    async def double(data: int) -> int:
        return 2 * data

    bus.subscribe("a:b", double, name="double")
    ref = bus.actor("double")
    assert ref is not None
    assert await ref.ask(21) == 42


async def test_spawn_works_before_the_bus_runs() -> None:
    """An actor spawned without a loop starts with the bus."""
    lines: list[Any] = []
    bus = EventBus("early")
    ref = bus.spawn(diaries(lines), name="early")
    assert (lines, ref.state) == ([], ActorState.STARTING)
    async with bus:
        assert ref.state == ActorState.RUNNING
        assert await ref.ask("x") == "x"


async def test_a_bus_started_again_starts_its_actors_anew() -> None:
    """After a close, `start` builds new instances for the same references."""
    lines: list[Any] = []
    bus = EventBus("again")
    ref = bus.spawn(diaries(lines), name="again")
    for _ in range(2):
        async with bus:
            await ref.ask("x")
    kinds = [line[:2] for line in lines]
    one = [("start", 1), ("receive", 1), ("stop", 1)]
    assert kinds == [*one, ("start", 2), ("receive", 2), ("stop", 2)]
    assert bus.audit().balanced


async def test_handlers_of_an_actor_share_one_context(bus: EventBus) -> None:
    """What a handler sets in its context the next one of the same actor sees, and nobody else."""
    from contextvars import ContextVar

    seen: ContextVar[int] = ContextVar("seen", default=0)

    class Counting(Actor):
        async def on_start(self) -> None:
            seen.set(10)

        async def receive(self, event: Event) -> int:
            seen.set(seen.get() + 1)
            return seen.get()

    ref, other = bus.spawn(Counting, name="one"), bus.spawn(Counting, name="other")
    assert [await ref.ask(), await ref.ask(), await other.ask()] == [11, 12, 11]
    assert seen.get() == 0


async def test_actors_are_handled_one_at_a_time_in_order(bus: EventBus) -> None:
    """An actor handles one delivery at a time, in the order of their publishes."""
    busy = 0
    order: list[int] = []

    class Sequential(Actor):
        patterns = "s:*"

        async def receive(self, event: Event) -> None:
            nonlocal busy
            busy += 1
            assert busy == 1
            await asyncio.sleep(world.random())
            order.append(event.data)
            busy -= 1

    bus.spawn(Sequential)
    for number in range(20):
        bus.publish("s:x", number)
    await bus.settle()
    assert order == list(range(20))
    assert not bus.dead_letters


@pytest.mark.parametrize("started", [False, True])
async def test_an_actor_is_unsubscribed_by_its_receive_before_any_mail(started: bool) -> None:
    """The bound method of its instance is its handler, whether or not it has started or worked."""
    bus = EventBus("unsubscribe")
    if started:
        await bus.start()
    made: list[Actor] = []

    class Idle(Actor):
        patterns = ("idle:*",)

        def __init__(self) -> None:
            made.append(self)

        async def receive(self, event: Event) -> None:
            """Handle nothing."""

    bus.spawn(Idle, name="one")
    bus.spawn(Idle, name="two")
    assert bus.unsubscribe("idle:*", made[1].receive) == 1
    assert bus.actor("one") is not None
    assert bus.actor("two") is None
    await bus.close()
