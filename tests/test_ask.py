"""Ask: every way it can end, and that it always ends."""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actorbus import (
    Actor,
    AskFailedError,
    AskTimeoutError,
    BusClosedError,
    DeadlockError,
    DeadReason,
    Event,
    EventBus,
    InvalidTopicError,
    NoResponderError,
    Outcome,
    Reject,
    RestartPolicy,
    RetryPolicy,
)
from tests.virtual import run

if TYPE_CHECKING:
    from collections.abc import Callable

ONCE = RetryPolicy.none()


class Echo(Actor):
    """Answers with what it is asked; raises an error, sleeps a float."""

    patterns = ("echo:*",)
    retry = ONCE

    async def receive(self, event: Event) -> Any:
        if isinstance(event.data, BaseException):
            raise event.data
        if isinstance(event.data, float):
            await asyncio.sleep(event.data)
        return event.data


def now() -> float:
    """Return the loop's time."""
    return asyncio.get_running_loop().time()


async def test_ask_returns_the_reply(bus: EventBus) -> None:
    """By topic and by reference, the reply is what the handler returned."""
    ref = bus.spawn(Echo)
    assert await bus.ask("echo:x", "hello") == "hello"
    assert await ref.ask("hello") == "hello"


async def test_ask_passes_key_and_headers(bus: EventBus) -> None:
    """An asked event carries a key and headers like a published one."""

    async def handler(event: Event) -> Any:
        return (event.key, event.headers)

    bus.subscribe("a:b", handler)
    assert await bus.ask("a:b", key="k", headers={"h": 1}) == ("k", {"h": 1})


async def test_the_first_reply_that_is_not_none_wins(bus: EventBus) -> None:
    """None is no reply: a later one that says something is waited for, the rest are not."""
    delays = {"silent": 0.0, "quick": 1.0, "slow": 2.0}

    async def answer(name: str, _: Any) -> str | None:
        await asyncio.sleep(delays[name])
        return None if name == "silent" else name

    for name in delays:
        bus.subscribe("who:*", functools.partial(answer, name), name=name)
    before = now()
    assert await bus.ask("who:is") == "quick"
    assert now() - before == pytest.approx(1.0)


@pytest.mark.parametrize("reply", [0, False, "", (), {}])
async def test_an_empty_reply_is_a_reply(bus: EventBus, reply: Any) -> None:
    """Only None means no reply; whatever else is false is returned at once."""

    async def slow(_: Any) -> None:
        await asyncio.sleep(100)

    async def quick(_: Any) -> Any:
        return reply

    bus.subscribe("a:b", slow)
    bus.subscribe("a:b", quick)
    assert await bus.ask("a:b") == reply


async def test_none_when_all_have_settled_and_none_replied(bus: EventBus) -> None:
    """Without a reply the ask ends with None as soon as the last delivery has settled."""

    async def handler(_: Any) -> None:
        await asyncio.sleep(2)

    bus.subscribe("a:b", handler, name="one")
    bus.subscribe("a:*", handler, name="two")
    before = now()
    assert await bus.ask("a:b", timeout=None) is None
    assert now() - before == pytest.approx(2.0)


async def test_a_retried_handler_may_still_reply(bus: EventBus) -> None:
    """A failed attempt is not the end: the reply of a later one counts."""
    attempts: list[int] = []

    async def handler(_: Any) -> int:
        attempts.append(1)
        if len(attempts) < 3:
            raise ValueError
        return len(attempts)

    bus.subscribe("a:b", handler)
    assert await bus.ask("a:b") == 3


async def test_a_plain_function_replies_too(bus: EventBus) -> None:
    """A handler in a thread, and an inline one, can answer."""

    def double(data: int) -> int:
        return 2 * data

    bus.subscribe("thread:x", double, name="thread")
    bus.subscribe("inline:x", double, name="inline", inline=True)
    assert [await bus.ask("thread:x", 21), await bus.ask("inline:x", 4)] == [42, 8]


async def test_no_responder_at_once_when_no_handler_matches(bus: EventBus) -> None:
    """An ask nobody could answer fails without waiting, and publishes nothing."""
    before = now()
    with pytest.raises(NoResponderError, match="nobody:here"):
        await bus.ask("nobody:here", timeout=None)
    assert now() == before
    assert bus.get_history("**") == []


async def test_streams_and_waits_are_no_responders(bus: EventBus) -> None:
    """Who only listens cannot answer: the ask fails at once."""
    waiting = asyncio.create_task(bus.wait_for("a:*"))
    await asyncio.sleep(0)
    async with bus.events("a:*"):
        with pytest.raises(NoResponderError):
            await bus.ask("a:b")
    assert not waiting.done()
    waiting.cancel()


async def test_streams_and_waits_beside_a_handler_do_not_answer_for_it(bus: EventBus) -> None:
    """A stream or wait that takes the event neither replies nor ends the ask."""
    waiting = asyncio.create_task(bus.wait_for("a:*"))
    await asyncio.sleep(0)

    async def handler(_: Any) -> str:
        await asyncio.sleep(1)
        return "reply"

    bus.subscribe("a:b", handler)
    async with bus.events("a:*"):
        assert await bus.ask("a:b") == "reply"
    assert (await waiting).topic == "a:b"


async def test_no_responder_when_the_actor_is_stopped(bus: EventBus) -> None:
    """A reference to an actor that is gone says so at once."""
    ref = bus.spawn(Echo)
    await ref.stop()
    with pytest.raises(NoResponderError):
        await ref.ask("x", timeout=None)


async def test_ask_failed_when_all_settled_none_replied_and_one_is_dead(bus: EventBus) -> None:
    """The error names the subscription and its reason, and its cause is the handler's error."""
    wrong = ValueError("wrong")

    async def silent(_: Any) -> None:
        await asyncio.sleep(3)

    async def failing(_: Any) -> None:
        raise wrong

    bus.subscribe("a:b", silent)
    bus.subscribe("a:b", failing, name="failing", retry=ONCE)
    before = now()
    with pytest.raises(AskFailedError) as caught:
        await bus.ask("a:b")
    assert now() - before == pytest.approx(3.0)  # all have settled
    assert caught.value.__cause__ is wrong
    assert (caught.value.subscription, caught.value.reason) == ("failing", "retries_exhausted")


async def test_a_reply_outweighs_a_dead_delivery(bus: EventBus) -> None:
    """An ask one handler fails and another answers is answered."""

    async def failing(_: Any) -> None:
        raise ValueError

    async def replying(_: Any) -> str:
        await asyncio.sleep(1)
        return "reply"

    bus.subscribe("a:b", failing, retry=ONCE)
    bus.subscribe("a:b", replying)
    assert await bus.ask("a:b") == "reply"


async def test_a_rejected_ask_fails_with_the_rejection(bus: EventBus) -> None:
    """`Reject` in the handler is the cause of the asker's error."""
    ref = bus.spawn(Echo)
    with pytest.raises(AskFailedError) as caught:
        await ref.ask(Reject("not me"))
    assert isinstance(caught.value.__cause__, Reject)
    assert caught.value.reason == DeadReason.REJECTED


async def test_ask_of_a_full_mailbox_that_refuses_fails_at_once(bus: EventBus) -> None:
    """A delivery given up at admission is a dead one: the ask fails without waiting."""

    async def slow(_: Any) -> None:
        await asyncio.sleep(10)

    bus.subscribe("a:b", slow, name="slow", mailbox=1, overflow="drop_new")
    await bus.publish("a:b")
    await asyncio.sleep(0.1)
    await bus.publish("a:b")
    before = now()
    with pytest.raises(AskFailedError) as caught:
        await bus.ask("a:b")
    assert now() == before
    assert (caught.value.reason, caught.value.__cause__) == (DeadReason.OVERFLOW, None)


@pytest.mark.parametrize("inside", [False, True])
async def test_a_mailbox_that_fails_is_one_dead_delivery_of_an_ask(
    bus: EventBus, *, inside: bool
) -> None:
    """overflow="fail" neither hides another's reply nor changes how a failed ask ends."""
    outcomes: list[Any] = []

    async def slow(_: Any) -> None:
        await asyncio.sleep(10)

    async def replying(_: Any) -> str:
        return "reply"

    async def asking(_: Any) -> None:
        outcomes.append(await bus.ask("a:b"))
        try:
            await bus.ask("a:c")
        except AskFailedError as error:
            outcomes.append(error.reason)

    bus.subscribe("a:*", slow, name="slow", mailbox=1, overflow="fail")
    bus.subscribe("a:b", replying)
    await bus.publish("a:x")
    await asyncio.sleep(0.1)
    await bus.publish("a:x")
    if inside:
        bus.subscribe("go:*", asking, retry=ONCE)
        await bus.publish("go:go").settled()
    else:
        await asking(None)
    assert outcomes == ["reply", DeadReason.OVERFLOW]


async def test_ask_times_out_and_takes_nothing_back(bus: EventBus) -> None:
    """After an `AskTimeoutError` the delivery is still handled and acked."""
    lines: list[Any] = []

    async def slow(data: Any) -> Any:
        await asyncio.sleep(10)
        lines.append(data)
        return data

    bus.subscribe("a:b", slow, name="slow")
    before = now()
    with pytest.raises(AskTimeoutError, match=r"a:b.*2 s") as caught:
        await bus.ask("a:b", 1, timeout=2)
    assert isinstance(caught.value, TimeoutError)
    assert now() - before == pytest.approx(2.0)
    await bus.settle()
    assert lines == [1]
    assert bus.audit().totals.acked == 1


async def test_the_default_timeout_is_five_seconds(bus: EventBus) -> None:
    """An ask without a timeout of its own ends after 5 s."""
    ref = bus.spawn(Echo)
    for ask in (bus.ask("echo:x", 100.0), ref.ask(100.0)):
        before = now()
        with pytest.raises(AskTimeoutError):
            await ask
        assert now() - before == pytest.approx(5.0)


async def test_cancelling_an_ask_takes_nothing_back(bus: EventBus) -> None:
    """A cancelled asker's delivery is handled like any other."""
    ref = bus.spawn(Echo)
    asking = asyncio.create_task(ref.ask(3.0))
    await asyncio.sleep(1)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await bus.settle()
    assert bus.audit().totals.acked == 1


async def test_an_actor_that_asks_itself_deadlocks(bus: EventBus) -> None:
    """A cycle of one is refused at once, naming the actor; its own delivery is dead."""
    caught: list[DeadlockError] = []

    class Narcissus(Actor):
        async def receive(self, event: Event) -> str:
            try:
                await self.ref.ask(event.data)
            except DeadlockError as error:
                caught.append(error)
            return "fine"

    ref = bus.spawn(Narcissus, name="narcissus")
    before = now()
    assert await ref.ask("x", timeout=None) == "fine"
    assert now() == before
    assert caught[0].cycle == ("narcissus",)
    assert [letter.reason for letter in bus.dead_letters] == [DeadReason.DEADLOCK]


async def test_a_cycle_of_three_deadlocks(bus: EventBus) -> None:
    """A asks B asks C asks A: the last of them is refused at once and names the cycle."""
    caught: list[DeadlockError] = []
    following = {"a": "b", "b": "c", "c": "a"}

    class Link(Actor):
        async def receive(self, event: Event) -> Any:
            follower = bus.actor(following[self.name])
            assert follower is not None
            try:
                return await follower.ask(event.data, timeout=None)
            except DeadlockError as error:
                caught.append(error)
                return "broken"

    refs = [bus.spawn(Link, name=name) for name in following]
    before = now()
    assert await refs[0].ask("x", timeout=None) == "broken"
    assert now() == before
    assert len(caught) == 1
    assert set(caught[0].cycle) == {"a", "b", "c"}


async def test_a_cycle_with_a_free_worker_is_no_deadlock(bus: EventBus) -> None:
    """An actor with a second worker can answer its own question."""

    class Two(Actor):
        async def receive(self, event: Event) -> Any:
            return await self.ref.ask(event.data - 1) if event.data else "bottom"

    ref = bus.spawn(Two, concurrency=2)
    assert await ref.ask(1) == "bottom"


async def test_ask_checks_its_topic(bus: EventBus) -> None:
    """A wildcard, or a topic of the bus's own, cannot be asked."""
    for topic in ("a:*", "$bus:tell:x"):
        with pytest.raises(InvalidTopicError):
            await bus.ask(topic)


async def test_ask_of_a_closed_bus_is_refused() -> None:
    """After a close both forms raise `BusClosedError`."""
    async with EventBus("closed") as bus:
        ref = bus.spawn(Echo)
    for ask in (bus.ask("echo:x", 1), ref.ask(1)):
        with pytest.raises(BusClosedError):
            await ask


async def test_ask_ends_when_the_bus_is_closed_meanwhile() -> None:
    """An ask without a timeout ends with the bus: its delivery is dead, and it says so."""
    async with EventBus("closing") as bus:

        async def stuck(_: Any) -> None:
            await asyncio.Event().wait()

        bus.subscribe("a:b", stuck)
        asking = asyncio.create_task(bus.ask("a:b", timeout=None))
        await asyncio.sleep(1)
        await bus.close(timeout=2)
        with pytest.raises(AskFailedError) as caught:
            await asyncio.wait_for(asking, 10)
    assert caught.value.reason == DeadReason.DRAIN_TIMEOUT


async def test_ask_ends_when_the_actor_is_stopped_meanwhile(bus: EventBus) -> None:
    """A queued ask of an actor that is stopped fails, with the reason `stopped`."""
    ref = bus.spawn(Echo)
    bus.publish("echo:x", 3.0)
    asking = asyncio.create_task(ref.ask("x", timeout=None))
    await asyncio.sleep(1)
    await ref.stop()
    with pytest.raises(AskFailedError) as caught:
        await asyncio.wait_for(asking, 10)
    assert caught.value.reason == DeadReason.STOPPED


async def test_ask_of_a_suspended_actor_ends_with_its_probe(bus: EventBus) -> None:
    """Without a timeout it waits for the probe; with one it does not."""
    ref = bus.spawn(Echo, restart=RestartPolicy(max_restarts=0))
    await ref.tell(ValueError()).settled()
    with pytest.raises(AskTimeoutError):
        await ref.ask("x", timeout=10)
    assert await ref.ask("y", timeout=None) == "y"


async def test_ask_asks_one_member_of_a_group(bus: EventBus) -> None:
    """A group answers through the member that gets the event."""

    async def answer(name: str, _: Any) -> str:
        return name

    for name in ("one", "two"):
        bus.subscribe("a:b", functools.partial(answer, name), name=name, group="g")
    replies = {await bus.ask("a:b") for _ in range(4)}
    assert replies == {"one", "two"}
    assert bus.audit().totals.routed == 4


async def test_an_asked_event_has_the_askers_as_its_cause(bus: EventBus) -> None:
    """An event asked by a handler follows from the event in hand."""
    asked: list[Event] = []

    async def outer(event: Event) -> Any:
        return await bus.ask("in:ner")

    async def inner(event: Event) -> str:
        asked.append(event)
        return event.causation_id or ""

    bus.subscribe("out:er", outer)
    bus.subscribe("in:ner", inner)
    reply = await bus.ask("out:er")
    assert reply
    assert asked[0].correlation_id == reply


Behaviour = tuple[str, float]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["reply", "none", "fail", "reject", "hang", "swallow"]),
            st.sampled_from([0.0, 0.5, 1.0, 4.0]),
        ),
        max_size=4,
    )
)
def test_an_ask_always_ends_and_as_promised(behaviours: list[Behaviour]) -> None:
    """Whatever the handlers do, the ask ends in time and the way its rules say."""
    run(_ask_them, behaviours, timeout_virtual=500)


async def _ask_them(behaviours: list[Behaviour]) -> None:
    async with EventBus("any") as bus:
        for number, (what, delay) in enumerate(behaviours):
            bus.subscribe("a:b", _handler(what, delay), name=f"{number}", retry=ONCE)
        replies = [delay for what, delay in behaviours if what == "reply"]
        stuck = any(what in ("hang", "swallow") for what, _ in behaviours)
        before = now()
        try:
            outcome = await bus.ask("a:b", timeout=3.0)
        except (NoResponderError, AskFailedError, AskTimeoutError) as error:
            outcome = type(error)
        took = now() - before
        await bus.close(timeout=1)
        assert bus.audit().balanced
    last = max((delay for _, delay in behaviours), default=0.0)
    if not behaviours:
        assert (outcome, took) == (NoResponderError, 0.0)
    elif replies and min(replies) < 3:
        assert outcome == "reply"
        assert took == pytest.approx(min(replies))
    elif stuck or last > 3:
        assert outcome is AskTimeoutError
        assert took == pytest.approx(3.0)
    elif any(what in ("fail", "reject") for what, _ in behaviours):
        assert outcome is AskFailedError
    else:
        assert outcome is None


def _handler(what: str, delay: float) -> Callable[[Any], Any]:
    async def handler(_: Any) -> str | None:
        await asyncio.sleep(delay)
        match what:
            case "fail":
                raise ValueError
            case "reject":
                raise Reject("no")
            case "hang":
                await asyncio.Event().wait()
            case "swallow":
                for _second in range(200):
                    try:
                        await asyncio.sleep(1)
                    except asyncio.CancelledError:
                        continue
        return "reply" if what == "reply" else None

    return handler


async def test_settled_receipt_of_a_tell_and_an_ask_count_alike(bus: EventBus) -> None:
    """An ask is one delivery in the books, like a tell."""
    ref = bus.spawn(Echo, name="echo")
    await ref.ask(1)
    assert (await ref.tell(2).settled()).outcomes == {"echo": Outcome.ACKED}
    assert bus.audit().totals.acked == 2
