"""Dead letters seen from the bus: the store, replay, and the bus's own events."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from actorbus import (
    Actor,
    ActorState,
    ConfigurationError,
    DeadLetter,
    DeadReason,
    Event,
    EventBus,
    InvalidPatternError,
    InvalidTopicError,
    Outcome,
    Reject,
    RestartPolicy,
    RetryPolicy,
)

if TYPE_CHECKING:
    from collections.abc import Callable

ONCE = RetryPolicy.none()


class Shop:
    """A handler that fails while it is closed."""

    def __init__(self) -> None:
        self.closed = True
        self.seen: list[Event] = []

    async def __call__(self, event: Event) -> Any:
        if self.closed:
            raise ValueError("closed")
        self.seen.append(event)


def shop(bus: EventBus, pattern: str = "order:*", name: str = "shop", **options: Any) -> Shop:
    """Subscribe a shop."""
    handler = Shop()
    bus.subscribe(pattern, handler, name=name, retry=ONCE, **options)
    return handler


async def publish(bus: EventBus, *topics: str) -> None:
    """Publish and settle one event after the other."""
    for topic in topics:
        await bus.publish(topic).settled()


# -- the store ------------------------------------------------------------------------------------


async def test_len_iteration_and_list_show_the_letters_oldest_first(bus: EventBus) -> None:
    """The store has a length, can be walked, and lists what fits."""
    shop(bus)
    await publish(bus, "order:a", "order:b", "order:c")
    assert len(bus.dead_letters) == 3
    assert [letter.event.topic for letter in bus.dead_letters] == ["order:a", "order:b", "order:c"]
    assert all(isinstance(letter, DeadLetter) for letter in bus.dead_letters)
    assert bus.dead_letters.list() == list(bus.dead_letters)


async def test_list_filters_by_topic_subscription_and_reason(bus: EventBus) -> None:
    """Each filter alone and all together; a topic filter is a pattern."""

    async def refuse(_: Any) -> None:
        raise Reject

    shop(bus)
    bus.subscribe("**", refuse, name="all")
    await publish(bus, "order:a", "user:a")
    letters = bus.dead_letters

    def found(**filters: Any) -> set[tuple[str, str]]:
        return {(each.subscription, each.event.topic) for each in letters.list(**filters)}

    assert found(topic="order:*") == {("shop", "order:a"), ("all", "order:a")}
    assert found(subscription="all") == {("all", "order:a"), ("all", "user:a")}
    assert found(reason="rejected") == {("all", "order:a"), ("all", "user:a")}
    assert found(reason=DeadReason.RETRIES_EXHAUSTED) == {("shop", "order:a")}
    assert found(topic="user:*", subscription="all", reason="rejected") == {("all", "user:a")}
    assert found(topic="user:*", subscription="shop") == set()


async def test_a_wrong_filter_is_refused(bus: EventBus) -> None:
    """A reason or pattern that does not exist is an error, not an empty answer."""
    with pytest.raises(ConfigurationError):
        bus.dead_letters.list(reason="boredom")
    with pytest.raises(InvalidPatternError):
        bus.dead_letters.list(topic="a::b")


async def test_the_store_is_bounded_and_evicts_the_oldest_of_the_largest_group(
    make_bus: Callable[..., EventBus],
) -> None:
    """A storm of one kind does not wash out a rare letter; what is let go is counted."""
    bus = make_bus("small", dead_letters=5)
    async with bus:
        shop(bus)
        shop(bus, "rare:*", name="rare")
        await publish(bus, "rare:one", *(f"order:{n}" for n in range(10)))
        topics = [letter.event.topic for letter in bus.dead_letters]
        assert topics == ["rare:one", "order:6", "order:7", "order:8", "order:9"]
        assert bus.dead_letters.evicted == 6
        assert bus.audit().totals.dead == 11


async def test_the_default_store_holds_a_thousand(bus: EventBus) -> None:
    """Without an option 1,000 letters are kept."""
    shop(bus)
    for number in range(1005):
        bus.publish(f"order:{number}")
    await bus.settle()
    assert (len(bus.dead_letters), bus.dead_letters.evicted) == (1000, 5)


async def test_discard_forgets_what_fits_and_says_how_many(bus: EventBus) -> None:
    """By id, by filter, and all."""
    shop(bus)
    shop(bus, "user:*", name="users")
    await publish(bus, "order:a", "order:b", "user:a", "user:b")
    first = bus.dead_letters.list()[0]
    assert await bus.dead_letters.discard(first.id) == 1
    assert await bus.dead_letters.discard(first.id) == 0
    assert await bus.dead_letters.discard(subscription="users") == 2
    assert await bus.dead_letters.discard() == 1
    assert len(bus.dead_letters) == 0
    assert bus.audit().totals.dead == 4


# -- replay ---------------------------------------------------------------------------------------


async def test_replay_reaches_only_the_subscription_that_failed(bus: EventBus) -> None:
    """The same event comes again, to that subscription and to nobody else."""
    failing = shop(bus)
    healthy = shop(bus, name="healthy")
    healthy.closed = False
    stream: list[Event] = []
    bus.subscribe("order:*", stream.append, name="stream", inline=True)
    receipt = bus.publish("order:a", 1)
    await receipt.settled()
    failing.closed = False
    assert await bus.dead_letters.replay() == 1
    await bus.settle()
    assert failing.seen == [receipt.event]
    assert failing.seen[0] is receipt.event
    assert len(healthy.seen) == len(stream) == 1


async def test_replay_is_a_new_delivery(bus: EventBus) -> None:
    """In the books it is routed once more; the letter of the first stays counted as dead."""
    failing = shop(bus)
    await publish(bus, "order:a")
    failing.closed = False
    await bus.dead_letters.replay()
    await bus.settle()
    totals = bus.audit().totals
    assert (totals.routed, totals.dead, totals.acked) == (2, 1, 1)
    assert bus.get_stats()["events_published"] == 1
    assert len(bus.get_history("**")) == 1


async def test_a_replayed_delivery_has_all_its_attempts_again(bus: EventBus) -> None:
    """The new delivery is retried by the policy, and dies a new death."""
    attempts: list[int] = []

    async def handler(_: Any) -> None:
        attempts.append(1)
        raise ValueError

    bus.subscribe("a:b", handler, retry=RetryPolicy(3, base=0))
    await publish(bus, "a:b")
    first = bus.dead_letters.list()[0]
    assert await bus.dead_letters.replay(first.id) == 1
    await bus.settle()
    [second] = bus.dead_letters
    assert len(attempts) == 6
    assert second.id != first.id
    assert (second.attempts, second.event) == (3, first.event)


async def test_replay_by_filter_keeps_the_order(bus: EventBus) -> None:
    """Only what fits is replayed, oldest first; the rest stays."""
    orders = shop(bus)
    shop(bus, "user:*", name="users")
    await publish(bus, "order:a", "user:a", "order:b", "order:c")
    orders.closed = False
    assert await bus.dead_letters.replay(subscription="shop") == 3
    await bus.settle()
    assert [event.topic for event in orders.seen] == ["order:a", "order:b", "order:c"]
    assert [letter.event.topic for letter in bus.dead_letters] == ["user:a"]
    assert await bus.dead_letters.replay("no such id") == 0


async def test_a_letter_leaves_the_store_when_it_is_admitted(bus: EventBus) -> None:
    """While its redelivery waits for room the letter is kept; admitted, it is gone."""
    handling = asyncio.Event()
    go = asyncio.Event()

    async def handler(data: Any) -> None:
        if data == "bad" and not go.is_set():
            raise ValueError
        handling.set()
        await go.wait()

    bus.subscribe("a:b", handler, mailbox=1, put_timeout=None, retry=ONCE)
    await bus.publish("a:b", "bad").settled()
    bus.publish("a:b", "in hand")
    await handling.wait()
    await bus.publish("a:b", "queued")
    replaying = asyncio.create_task(bus.dead_letters.replay())
    await asyncio.sleep(10)
    assert (len(bus.dead_letters), replaying.done()) == (1, False)
    go.set()
    assert await replaying == 1
    assert len(bus.dead_letters) == 0
    await bus.settle()


async def test_a_letter_that_is_not_admitted_stays(bus: EventBus) -> None:
    """A full mailbox that refuses the redelivery costs no letter."""
    handling = asyncio.Event()

    async def handler(data: Any) -> None:
        if data == "bad":
            raise ValueError
        handling.set()
        await asyncio.sleep(10)

    bus.subscribe("a:b", handler, mailbox=1, overflow="drop_new", retry=ONCE)
    await bus.publish("a:b", "bad").settled()
    first = bus.dead_letters.list()[0]
    bus.publish("a:b", "in hand")
    await handling.wait()
    await bus.publish("a:b", "queued")
    assert await bus.dead_letters.replay(first.id) == 0
    assert bus.dead_letters.get(first.id) is first


async def test_a_letter_of_a_subscription_that_is_gone_stays(bus: EventBus) -> None:
    """There is nobody to replay to; a new subscription of the same name takes it."""
    handler = shop(bus)
    await publish(bus, "order:a")
    bus.unsubscribe("order:*", handler)
    assert await bus.dead_letters.replay() == 0
    assert len(bus.dead_letters) == 1
    again = shop(bus)
    again.closed = False
    assert await bus.dead_letters.replay() == 1
    await bus.settle()
    assert len(again.seen) == 1


async def test_a_told_event_can_be_replayed(bus: EventBus) -> None:
    """What an actor was told and gave up goes back to that actor."""

    class Moody(Actor):
        good = False

        async def receive(self, event: Event) -> Any:
            if not Moody.good:
                raise ValueError
            return event.data

    ref = bus.spawn(Moody, name="moody", retry=ONCE, on_failure="resume")
    await ref.tell("hello").settled()
    Moody.good = True
    assert await bus.dead_letters.replay(subscription="moody") == 1
    await bus.settle()
    assert bus.audit().totals.acked == 1


# -- events of the bus's own ----------------------------------------------------------------------


async def test_every_death_is_an_event_with_its_reason(bus: EventBus) -> None:
    """`$bus:dead_letter:<reason>` carries the dead letter."""
    letters: list[tuple[str, DeadLetter]] = []

    async def note(event: Event) -> None:
        letters.append((event.topic, event.data))

    async def refuse(_: Any) -> None:
        raise Reject

    bus.subscribe("$bus:dead_letter:*", note)
    shop(bus)
    bus.subscribe("order:*", refuse, name="refuse")
    await publish(bus, "order:a")
    await bus.settle()
    assert sorted(topic for topic, _ in letters) == [
        "$bus:dead_letter:rejected", "$bus:dead_letter:retries_exhausted",
    ]  # fmt: skip
    assert {id(letter) for _, letter in letters} == {id(letter) for letter in bus.dead_letters}


async def test_a_reason_can_be_listened_to_alone(bus: EventBus) -> None:
    """The reason is a segment of the topic."""
    got: list[str] = []

    async def note(event: Event) -> None:
        got.append(event.topic)

    bus.subscribe("$bus:dead_letter:rejected", note)
    shop(bus)
    await publish(bus, "order:a")
    await bus.settle()
    assert got == []


async def test_every_state_of_an_actor_is_an_event(bus: EventBus) -> None:
    """`$bus:actor:<state>` for each state it enters, with the subscription's name."""
    got: list[tuple[str, Any]] = []

    async def note(event: Event) -> None:
        if event.data["subscription"] == "it":
            got.append((event.topic, event.data["state"]))

    class It(Actor):
        async def receive(self, event: Event) -> None:
            if event.data:
                raise ValueError

    bus.subscribe("$bus:actor:*", note, name="note")
    ref = bus.spawn(It, name="it", retry=ONCE, restart=RestartPolicy(max_restarts=1))
    for _ in range(2):
        await ref.tell(data=True).settled()
        await asyncio.sleep(1)
    await ref.stop()
    await bus.settle()
    states = ["starting", "running", "restarting", "running", "suspended", "stopping", "stopped"]
    assert got == [(f"$bus:actor:{state}", state) for state in states]


async def test_a_function_tells_of_its_states_too(bus: EventBus) -> None:
    """A plain subscription is an actor like any other."""
    got: list[str] = []

    async def note(event: Event) -> None:
        if event.data["subscription"] == "it":
            got.append(event.data["state"])

    async def handler(_: Any) -> None:
        pass

    bus.subscribe("$bus:actor:**", note, name="note")
    sub = bus.subscribe("a:b", handler, name="it")
    sub.unsubscribe()
    await sub.ended()
    await bus.settle()
    assert (got[0], got[-1]) == ("running", "stopped")


async def test_a_dying_delivery_of_the_bus_own_makes_no_event(bus: EventBus) -> None:
    """It is a dead letter, but no further event: a failing listener does not feed itself."""
    calls: list[str] = []

    async def broken(event: Event) -> None:
        calls.append(event.topic)
        raise ValueError

    bus.subscribe("$bus:dead_letter:**", broken, name="broken", retry=ONCE)
    shop(bus)
    await publish(bus, "order:a")
    await bus.settle()
    assert calls == ["$bus:dead_letter:retries_exhausted"]
    assert len(bus.dead_letters.list(subscription="broken")) == 1
    assert len(bus.dead_letters) == 2


async def test_a_told_event_that_dies_makes_no_event(bus: EventBus) -> None:
    """A told event has a topic of the bus's own, so its death is not announced."""
    calls: list[str] = []

    async def note(event: Event) -> None:
        calls.append(event.topic)

    bus.subscribe("$bus:dead_letter:**", note)
    shop(bus)
    ref = bus.actor("shop")
    assert ref is not None
    assert (await ref.tell().settled()).outcomes == {"shop": Outcome.DEAD}
    await bus.settle()
    assert calls == []
    assert len(bus.dead_letters) == 1


async def test_a_catch_all_never_sees_the_bus_own_topics(bus: EventBus) -> None:
    """A wildcard in the first segment matches no topic that starts with `$`."""
    got: list[str] = []

    async def note(event: Event) -> None:
        got.append(event.topic)
        if event.topic == "order:b":
            raise ValueError

    for pattern in ("**", "*:**", "*:dead_letter:*", "**:retries_exhausted", "*bus:**", "$*:**"):
        bus.subscribe(pattern, note, name=f"on {pattern}", retry=ONCE)
    shop(bus)
    ref = bus.actor("shop")
    assert ref is not None
    await publish(bus, "order:a", "order:b")
    await ref.tell().settled()
    bus.spawn(lambda: Listener([]), name="listener")
    await bus.settle()
    assert set(got) == {"order:a", "order:b"}


class Listener(Actor):
    """Notes the states it hears of, and fails on each."""

    patterns = ("$bus:actor:*",)
    retry = ONCE

    def __init__(self, got: list[str]) -> None:
        self.got = got

    async def receive(self, event: Event) -> None:
        self.got.append(event.data["state"])
        raise ValueError


async def test_an_actor_that_fails_on_its_own_states_comes_to_rest(bus: EventBus) -> None:
    """Even who listens to the very events its failures make is stopped by its budget."""
    got: list[str] = []
    ref = bus.spawn(lambda: Listener(got), name="listener")
    await asyncio.sleep(50)
    assert ref.state == ActorState.SUSPENDED
    assert len(got) < 20


@pytest.mark.parametrize("topic", ["$bus:dead_letter:rejected", "$bus:tell:shop", "$mine", "$:a"])
async def test_publishing_to_the_bus_own_is_refused(bus: EventBus, topic: str) -> None:
    """A first segment that starts with `$` cannot be published to."""
    shop(bus)
    with pytest.raises(InvalidTopicError, match=r"\$"):
        bus.publish(topic)
    with pytest.raises(InvalidTopicError):
        await bus.ask(topic)
    assert bus.audit().totals.routed == 0


async def test_a_dollar_elsewhere_is_an_ordinary_character(bus: EventBus) -> None:
    """Only the first segment's first character makes a topic the bus's own."""
    got: list[str] = []

    async def note(event: Event) -> None:
        got.append(event.topic)

    bus.subscribe("**", note)
    await publish(bus, "price:$", "a$:b")
    assert got == ["price:$", "a$:b"]


async def test_the_bus_own_events_are_in_no_history_or_statistics(bus: EventBus) -> None:
    """Neither the history, nor the counts by topic, nor replay of history know them."""

    async def note(_: Any) -> None:
        pass

    bus.subscribe("$bus:**", note, name="note")
    shop(bus)
    await publish(bus, "order:a")
    ref = bus.actor("shop")
    assert ref is not None
    await ref.tell().settled()
    await bus.settle()
    assert bus.audit().subscriptions["note"].acked > 0
    assert [event["topic"] for event in bus.get_history("**")] == ["order:a"]
    assert bus.get_history("$bus:**") == []
    stats = bus.get_stats()
    assert stats["events_published"] == 1
    assert stats["events_by_type"] == {"order:a": 1}
    replayed: list[str] = []

    async def late(event: Event) -> None:
        replayed.append(event.topic)

    bus.subscribe(["**", "$bus:**"], late, replay=100)
    await bus.settle()
    assert [topic for topic in replayed if not topic.startswith("$bus:actor")] == ["order:a"]


async def test_a_replay_while_the_bus_drains_finds_its_actor_stopped(bus: EventBus) -> None:
    """It is not admitted where nobody takes it any more: the letter stays."""

    async def refuse(data: object) -> None:
        raise ValueError

    bus.subscribe("a:b", refuse, name="s", retry=RetryPolicy.none())
    await bus.publish("a:b").settled()
    life: Any = bus._registry.live["s"].life
    await life.stop("drained", for_good=False)  # as a drain does, one after the other
    assert await bus.dead_letters.replay() == 0
    assert len(bus.dead_letters) == 1
    assert bus.audit().totals.pending == 0
