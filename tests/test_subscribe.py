"""Subscribing: live at once, ended cleanly, named, and safe wherever it is called."""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import weakref
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actorbus import (
    ActorState,
    ConfigurationError,
    DeadReason,
    Event,
    EventBus,
    Guarantee,
    InvalidPatternError,
    RetryPolicy,
    Subscription,
    registry,
)
from tests.handlers import Gate, Seen
from tests.virtual import run


async def named(data: Any) -> None:
    """A handler with a name of its own."""


# -- the forms ----------------------------------------------------------------------------------


async def test_the_decorator_returns_the_function(bus: EventBus) -> None:
    """Decorated, a function stays itself and is subscribed."""
    got = []

    async def handler(data: Any) -> str:
        got.append(data)
        return "direct"

    assert bus.subscribe("a")(handler) is handler
    assert await handler(0) == "direct"
    await bus.publish("a", 1).settled()
    assert got == [0, 1]


async def test_the_decorator_is_stackable(bus: EventBus) -> None:
    """Each decorator is a subscription of its own, even for one and the same event."""
    got = []

    @bus.subscribe("a", name="one")
    @bus.subscribe("b", name="two")
    @bus.subscribe("*", name="three")
    async def handler(data: Any) -> None:
        got.append(data)

    receipt = bus.publish("a", 1)
    assert receipt.deliveries == 2
    assert set((await receipt.settled()).outcomes) == {"one", "three"}
    assert set((await bus.publish("b", 2).settled()).outcomes) == {"two", "three"}
    assert got == [1, 1, 2, 2]


async def test_the_call_returns_a_subscription(bus: EventBus) -> None:
    """Called with a handler, `subscribe` returns a Subscription with its name."""
    sub = bus.subscribe("user:login", named)
    assert isinstance(sub, Subscription)
    assert sub.name == f"{__name__}.named"
    assert sub.state is ActorState.RUNNING
    assert sub.name in repr(sub)
    assert "user:login" in repr(sub)


async def test_several_patterns_are_one_subscription(bus: EventBus) -> None:
    """A list of patterns is one subscription; matched by several, it gets the event once."""
    seen = Seen()
    bus.subscribe(["a:*", "b:**", "a:b"], seen)
    assert bus.publish("a:b", 1).deliveries == 1
    bus.publish("b", 2)
    bus.publish("c", 3)
    await bus.settle()
    assert seen.got == [1, 2]
    assert bus.get_stats()["subscriptions"] == 1


async def test_patterns_may_be_any_iterable(bus: EventBus) -> None:
    """A generator of patterns does, as an argument and in the decorator."""
    one, two = Seen(), Seen()
    bus.subscribe((topic for topic in ("a", "b")), one)
    bus.subscribe(topic for topic in ("a", "b"))(two)
    for topic in ("a", "b"):
        await bus.publish(topic, topic).settled()
    assert one.got == two.got == ["a", "b"]


async def test_exclude_takes_patterns(bus: EventBus) -> None:
    """Topics an exclude pattern matches are not delivered, whether it is one or several."""
    one, two = Seen(), Seen()
    bus.subscribe("a:**", one, exclude="a:x:*")
    bus.subscribe("a:**", two, exclude=["a:x:*", "a"])
    for topic in ("a", "a:x", "a:x:y", "a:y"):
        bus.publish(topic, topic)
    await bus.settle()
    assert one.got == ["a", "a:x", "a:y"]
    assert two.got == ["a:x", "a:y"]
    assert "a:x:y" in [entry["topic"] for entry in bus.get_history("**")]


# -- live when the call returns -----------------------------------------------------------------


@given(st.lists(st.sampled_from(["publish", "subscribe", "unsubscribe", "turn"]), max_size=30))
def test_a_subscriber_gets_exactly_what_is_published_while_it_is_live(steps: list[str]) -> None:
    """Whatever the order of calls, an event goes to those subscribed at its publish, each once."""

    async def main() -> None:
        async with EventBus() as bus:
            live: list[tuple[Subscription, Seen, list[int]]] = []
            ever: list[tuple[Seen, list[int]]] = []
            for number, step in enumerate(steps):
                if step == "publish":
                    assert bus.publish("a", number).deliveries == len(live)
                    for _, _, expected in live:
                        expected.append(number)
                elif step == "subscribe":
                    seen, expected = Seen(), []
                    live.append((bus.subscribe("a", seen), seen, expected))
                    ever.append((seen, expected))
                elif step == "unsubscribe" and live:
                    assert live.pop(0)[0].unsubscribe() == 1
                else:
                    await asyncio.sleep(0)
            await bus.settle()
            assert [seen.got for seen, _ in ever] == [expected for _, expected in ever]
            assert bus.audit().balanced

    run(main)


async def test_subscribing_in_a_handler_is_live_at_once(bus: EventBus) -> None:
    """Subscribed by a handler, the next line's event is matched and the one in hand is not."""
    seen = Seen()

    async def enlist(data: Any) -> None:
        if data == "in hand":
            bus.subscribe("a", seen)
            bus.publish("a", "next line")

    bus.subscribe("a", enlist)
    bus.publish("a", "in hand")
    await bus.settle()
    assert seen.got == ["next line"]


# -- the end ------------------------------------------------------------------------------------


async def test_after_unsubscribe_the_mailbox_and_its_line_are_still_handled(
    bus: EventBus,
) -> None:
    """What stood in the mailbox or the line is handled; what is published later is not matched."""
    gate = Gate()
    sub = bus.subscribe("a", gate, mailbox=2, put_timeout=None)
    bus.publish("a", 0)
    await gate.entered()
    for number in range(1, 5):
        receipt = bus.publish("a", number)
    assert receipt.waiting == 1
    assert sub.unsubscribe() == 1
    assert bus.publish("a", 5).deliveries == 0
    gate.open()
    await sub.ended()
    assert gate.got == [0, 1, 2, 3, 4]
    assert receipt.waiting == 0


async def test_ended_waits_for_the_last_delivery(bus: EventBus) -> None:
    """`ended()` returns once unsubscribed and settled, not before, and then at once."""
    gate = Gate()
    sub = bus.subscribe("a", gate)
    ended = asyncio.ensure_future(sub.ended())
    bus.publish("a")
    await gate.entered()
    assert not ended.done()
    sub.unsubscribe()
    await asyncio.sleep(10)
    assert not ended.done()
    gate.open()
    await ended
    await sub.ended()
    assert sub.state is ActorState.STOPPED


async def test_unsubscribe_says_how_many_have_ended(bus: EventBus) -> None:
    """`unsubscribe` returns the number of subscriptions it ended, 0 the second time."""
    for _ in range(3):
        bus.subscribe("a", named)
    other = bus.subscribe("b", named)
    assert bus.unsubscribe("a", named) == 3
    assert bus.unsubscribe("a", named) == 0
    assert bus.unsubscribe("b", Seen()) == 0
    assert bus.unsubscribe("c", named) == 0
    assert bus.unsubscribe(other) == 1
    assert bus.unsubscribe(other) == 0
    assert other.unsubscribe() == 0
    assert bus.get_stats()["subscriptions"] == 0


async def test_unsubscribe_takes_the_patterns_in_any_order(bus: EventBus) -> None:
    """A subscription to several patterns is found by the same patterns."""
    bus.subscribe(["a", "b:*"], named)
    assert bus.unsubscribe(["b:*", "a"], named) == 1


async def test_unsubscribe_finds_every_kind_of_pattern(bus: EventBus) -> None:
    """A wildcard pattern ends its own subscriptions only, in order, whatever else it matches."""
    handler = Seen()
    others = [bus.subscribe(each, handler) for each in ("a:b", "**", "a:*:c", ["a:*", "b"])]
    for pattern in ("a:*", "a:**", "a_*:b", "$bus:*", "**:a"):
        bus.subscribe(pattern, handler, exclude=pattern)
        assert bus.unsubscribe(pattern, handler) == 1
    assert {sub.state for sub in others} == {ActorState.RUNNING}


def test_unsubscribing_looks_at_no_other_subscription(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ending one of many by its pattern looks at those alone that its pattern may be of."""
    bus, handler = EventBus("many"), Seen()
    for number in range(100):
        bus.subscribe(f"n:{number}:*", handler, name=str(number))
    compared: list[Any] = []

    def compare(*pair: Any) -> bool:
        compared.append(pair)
        return True

    monkeypatch.setattr(registry, "same_handler", compare)
    assert bus.unsubscribe("n:70:*", handler) == 1
    assert len(compared) == 1


async def test_unsubscribe_needs_a_handler_or_a_subscription(bus: EventBus) -> None:
    """A pattern alone would say too little: a ConfigurationError."""
    with pytest.raises(ConfigurationError):
        bus.unsubscribe("a")


async def test_unsubscribe_of_another_bus_s_subscription_does_nothing(
    bus: EventBus, make_bus: Any
) -> None:
    """A Subscription of another bus is not ended."""
    sub = make_bus("other").subscribe("a", named)
    assert bus.unsubscribe(sub) == 0
    assert sub.unsubscribe() == 1


def test_unsubscribe_before_the_bus_runs() -> None:
    """A subscription ended before the start gets nothing, its held-back replay neither."""
    bus = EventBus()
    seen = Seen()

    async def main() -> None:
        await bus.publish("a", 1)
        await bus.close()

    run(main)
    sub = bus.subscribe("a", seen, replay=1)
    assert sub.unsubscribe() == 1

    async def again() -> None:
        async with bus:
            await bus.publish("a", 2)
            await bus.settle(timeout=1)
            await sub.ended()
            assert bus.audit().totals.pending == 0

    run(again)
    assert seen.got == []


async def test_unsubscribing_oneself_in_the_handler(bus: EventBus) -> None:
    """A handler may end its own subscription; what is queued behind it is still handled."""
    got = []

    async def once(data: int) -> None:
        got.append(data)
        sub.unsubscribe()

    sub = bus.subscribe("a", once)
    bus.publish("a", 1)
    bus.publish("a", 2)
    await sub.ended()
    assert bus.publish("a", 3).deliveries == 0
    assert got == [1, 2]


async def test_unsubscribing_another_in_a_handler(bus: EventBus) -> None:
    """A handler may end another subscription; the event both got is handled by both."""
    seen = Seen()

    async def end_it(data: Any) -> None:
        assert bus.unsubscribe(other) == 1

    bus.subscribe("a", end_it)
    other = bus.subscribe("a", seen)
    await bus.publish("a", 1).settled()
    await other.ended()
    assert seen.got == [1]


@pytest.mark.parametrize("what", ["subscribe", "unsubscribe"])
async def test_changing_subscriptions_during_dispatch(bus: EventBus, what: str) -> None:
    """Subscribing or unsubscribing in the midst of a publish neither loses nor doubles it."""
    before, after, late = Seen(), Seen(), Seen()

    def change(event: Event) -> bool:
        if what == "subscribe":
            bus.subscribe("a", late)
        else:
            first.unsubscribe()
            last.unsubscribe()
        return True

    first = bus.subscribe("a", before)
    waiting = asyncio.ensure_future(bus.wait_for("a", where=change))
    await asyncio.sleep(0)
    last = bus.subscribe("a", after)
    receipt = bus.publish("a", 1)
    await waiting
    await receipt.settled(timeout=1)
    await bus.settle(timeout=1)
    assert (before.got, after.got, late.got) == ([1], [1], [])
    if what == "unsubscribe":
        await first.ended()
        await last.ended()
    bus.publish("a", 2)
    await bus.settle(timeout=1)
    assert late.got == ([2] if what == "subscribe" else [])


async def test_unsubscribing_in_the_log_of_a_dead_letter(bus: EventBus) -> None:
    """A log handler that unsubscribes while an event is being refused does no harm."""
    gate, seen = Gate(), Seen()
    full = bus.subscribe("a", gate, mailbox=1, overflow="fail")
    later = bus.subscribe("a", seen)
    bus.publish("a", 0)
    await gate.entered()
    bus.publish("a", 1)

    class Ends(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            full.unsubscribe()
            later.unsubscribe()

    ends = Ends()
    logging.getLogger("actorbus").addHandler(ends)
    try:
        bus.publish("a", 2)
    finally:
        logging.getLogger("actorbus").removeHandler(ends)
    gate.open()
    await full.ended()
    await later.ended()
    assert gate.got == [0, 1]
    assert seen.got == [0, 1, 2]


# -- handlers -----------------------------------------------------------------------------------


class Plugin:
    """A class whose bound methods subscribe."""

    def __init__(self) -> None:
        self.got: list[Any] = []

    async def on_event(self, data: Any) -> None:
        self.got.append(data)


async def test_handlers_are_held_strongly(bus: EventBus) -> None:
    """A bound method of an object nobody else holds keeps working, and lets go when it ends."""
    plugin = Plugin()
    got, alive = plugin.got, weakref.ref(plugin)
    sub = bus.subscribe("a", plugin.on_event)
    del plugin
    gc.collect()
    await bus.publish("a", 1).settled()
    assert got == [1]
    sub.unsubscribe()
    await sub.ended()
    del sub
    await asyncio.sleep(1)
    gc.collect()
    assert alive() is None


async def test_equal_bound_methods_and_partials_unsubscribe(bus: EventBus) -> None:
    """A bound method or partial made anew counts as the one that was subscribed."""
    plugin, other = Plugin(), Plugin()

    async def with_prefix(prefix: str, data: Any, *, suffix: str = "") -> None:
        """Take a payload last."""

    bus.subscribe("a", plugin.on_event)
    bus.subscribe("a", functools.partial(with_prefix, "x", suffix="y"))
    bus.subscribe("a", functools.partial(functools.partial(with_prefix, "x"), suffix="y"))
    bus.subscribe("a", functools.partial(plugin.on_event))
    assert bus.unsubscribe("a", other.on_event) == 0
    assert bus.unsubscribe("a", functools.partial(with_prefix, "z", suffix="y")) == 0
    assert bus.unsubscribe("a", functools.partial(with_prefix, "x")) == 0
    assert bus.unsubscribe("a", plugin.on_event) == 1
    assert bus.unsubscribe("a", functools.partial(with_prefix, "x", suffix="y")) == 2
    assert bus.unsubscribe("a", functools.partial(plugin.on_event)) == 1


# -- names --------------------------------------------------------------------------------------


async def test_the_default_name_is_module_and_qualname_then_numbered(bus: EventBus) -> None:
    """Without `name=` a subscription is `module.qualname`, then `…#2`; a freed name is free."""
    subs = [bus.subscribe("a", named) for _ in range(3)]
    base = f"{__name__}.named"
    assert [sub.name for sub in subs] == [base, f"{base}#2", f"{base}#3"]
    subs[1].unsubscribe()
    assert bus.subscribe("a", named).name == f"{base}#2"
    plugin = Plugin()
    assert bus.subscribe("a", plugin.on_event).name == f"{__name__}.Plugin.on_event"
    assert bus.subscribe("a", functools.partial(named)).name == f"{base}#4"


@given(st.lists(st.none() | st.integers(1, 6), max_size=40))
def test_the_default_name_is_the_first_that_is_free(script: list[int | None]) -> None:
    """Whatever was subscribed, by default (None) or explicitly, and ended, by number."""
    bus, live = EventBus("names"), dict[str, Subscription]()
    names = [f"{__name__}.named", *(f"{__name__}.named#{number}" for number in range(2, 50))]
    for number in script:
        if number is None:
            sub = bus.subscribe("a", named)
            assert sub.name == next(name for name in names if name not in live)
            live[sub.name] = sub
        elif names[number - 1] in live:
            live.pop(names[number - 1]).unsubscribe()
        elif number % 2:
            live[names[number - 1]] = bus.subscribe("a", named, name=names[number - 1])


async def test_an_explicit_duplicate_is_refused_while_the_other_lives(bus: EventBus) -> None:
    """Two live subscriptions cannot be given one name; after the first has ended it is free."""
    first = bus.subscribe("a", named, name="audit")
    with pytest.raises(ConfigurationError, match="audit"):
        bus.subscribe("b", named, name="audit")
    assert bus.publish("b").deliveries == 0
    first.unsubscribe()
    assert bus.subscribe("b", named, name="audit").name == "audit"


# -- refused at the call ------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["", "a::b", "a b", "a:*b*", "*:*:*:*:*", "a:?", "x" * 513])
async def test_a_bad_pattern_is_refused_at_the_call(bus: EventBus, pattern: str) -> None:
    """A pattern that breaks the grammar raises at once, in the call, decorator and exclude."""
    with pytest.raises(InvalidPatternError):
        bus.subscribe(pattern, named)
    with pytest.raises(InvalidPatternError):
        bus.subscribe(["a", pattern], named)
    with pytest.raises(InvalidPatternError):
        bus.subscribe(pattern)
    with pytest.raises(InvalidPatternError):
        bus.subscribe("a", named, exclude=pattern)
    assert bus.get_stats()["subscriptions"] == 0


@pytest.mark.parametrize("patterns", [[], 5, None, named])
async def test_what_is_no_pattern_is_refused(bus: EventBus, patterns: Any) -> None:
    """No pattern at all, a number, None or the function itself are ConfigurationErrors."""
    with pytest.raises(ConfigurationError):
        bus.subscribe(patterns, named)
    with pytest.raises(ConfigurationError):
        bus.subscribe(patterns)


# -- guarantee ----------------------------------------------------------------------------------


async def test_at_least_once_is_the_default_and_retries(bus: EventBus) -> None:
    """By default a failing delivery is run again until it is acked."""
    runs = []

    async def flaky(data: Any) -> None:
        runs.append(data)
        if len(runs) < 4:
            raise OSError

    sub = bus.subscribe("a", flaky)
    assert sub.options.guarantee is Guarantee.AT_LEAST_ONCE
    assert (await bus.publish("a").settled()).ok
    assert len(runs) == 4


async def test_at_most_once_never_runs_a_delivery_twice(bus: EventBus) -> None:
    """Under at_most_once the first failure is a dead letter (retries_exhausted)."""
    runs = []

    async def fail(data: Any) -> None:
        runs.append(data)
        raise OSError

    bus.subscribe("a", fail, guarantee="at_most_once")
    for number in range(3):
        bus.publish("a", number)
    await bus.settle()
    assert runs == [0, 1, 2]
    assert {each.reason for each in bus.dead_letters} == {DeadReason.RETRIES_EXHAUSTED}
    assert [each.attempts for each in bus.dead_letters] == [1, 1, 1]


# -- replay -------------------------------------------------------------------------------------


@given(
    before=st.lists(st.sampled_from(["a:x", "a:y", "b"]), max_size=12),
    after=st.lists(st.sampled_from(["a:x", "b"]), max_size=5),
    replay=st.integers(0, 15),
    running=st.booleans(),
    excluded=st.booleans(),
)
def test_replay_gives_the_last_matching_events_then_live_ones(
    before: list[str], after: list[str], replay: int, running: bool, excluded: bool
) -> None:
    """`replay=n` is the last n matching events in order, then live ones: no gap, no duplicate."""
    bus = EventBus()
    seen = Seen()
    options: dict[str, Any] = {"exclude": "a:y"} if excluded else {}
    wanted = {"a:x"} if excluded else {"a:x", "a:y"}

    async def publish(topics: list[str], start: int) -> None:
        for number, topic in enumerate(topics, start):
            bus.publish(topic, number)
            await asyncio.sleep(0)

    async def main() -> None:
        await publish(before, 0)
        if running:
            bus.subscribe("a:*", seen, replay=replay, **options)
            await publish(after, len(before))
        await bus.close()

    async def again() -> None:
        bus.subscribe("a:*", seen, replay=replay, **options)
        await publish(after, len(before))
        await bus.close()

    run(main)
    if not running:
        run(start_then(bus, again))
    old = [number for number, topic in enumerate(before) if topic in wanted]
    new = [number for number, topic in enumerate(after, len(before)) if topic in wanted]
    assert seen.got == (old[-replay:] if replay else []) + new
    assert bus.audit().balanced


def start_then(bus: EventBus, main: Any) -> Any:
    async def both() -> None:
        await bus.start()
        await main()

    return both


def test_replay_of_a_subscription_made_before_the_bus_runs_comes_first() -> None:
    """Subscribed while the bus is closed, history comes at the start, before anything new."""
    bus = EventBus()
    seen = Seen()

    async def first() -> None:
        for number in range(5):
            bus.publish("a", number)
        await bus.close()

    async def second() -> None:
        async with bus:
            bus.publish("a", 5)

    run(first)
    bus.subscribe("a", seen, replay=2)
    run(second)
    assert seen.got == [3, 4, 5]
    run(second)
    assert seen.got == [3, 4, 5, 5]


async def test_replay_to_a_plain_handler(bus: EventBus) -> None:
    """A handler in a thread gets its replay too."""
    for number in range(5):
        bus.publish("a", number)
    got: list[int] = []
    bus.subscribe("a", got.append, replay=3)
    bus.publish("a", 5)
    await bus.settle()
    assert got == [2, 3, 4, 5]


# -- timeout ------------------------------------------------------------------------------------


async def test_timeout_bounds_one_attempt(bus: EventBus) -> None:
    """An attempt longer than `timeout` is cancelled and retried; each attempt has its own time."""
    started: list[float] = []
    loop = asyncio.get_running_loop()

    async def slow(data: Any) -> None:
        started.append(loop.time())
        await asyncio.sleep(5 if len(started) < 3 else 1.9)

    policy = RetryPolicy(base=1.0, factor=1.0, jitter="none")
    bus.subscribe("a", slow, timeout=2.0, retry=policy)
    assert (await bus.publish("a").settled()).ok
    assert started == pytest.approx([0, 3, 6])


async def test_a_delivery_that_always_times_out_is_dead(bus: EventBus) -> None:
    """After the last attempt the dead letter holds a TimeoutError; the actor goes on."""
    done = []

    async def slow(data: int) -> None:
        await asyncio.sleep(data)
        done.append(data)

    bus.subscribe("a", slow, timeout=2.0, retry=RetryPolicy(max_attempts=2))
    bus.publish("a", 5)
    bus.publish("a", 1)
    await bus.settle()
    [letter] = bus.dead_letters
    assert (letter.reason, letter.attempts) == (DeadReason.RETRIES_EXHAUSTED, 2)
    assert isinstance(letter.error, TimeoutError)
    assert done == [1]


async def test_a_handler_that_ignores_its_cancellation_is_abandoned_after_a_second(
    bus: EventBus,
) -> None:
    """Still running 1 s after its cancellation, it is dead (timeout_ignored); the actor goes on."""
    loop = asyncio.get_running_loop()
    seen: list[tuple[int, float]] = []
    ended = []

    async def stubborn(data: int) -> None:
        seen.append((data, loop.time()))
        if data:
            return
        try:
            await asyncio.sleep(50)
        except asyncio.CancelledError:
            await asyncio.sleep(10)
            ended.append(data)

    bus.subscribe("a", stubborn, timeout=2.0)
    stuck = bus.publish("a", 0)
    bus.publish("a", 1)
    await stuck.settled()
    assert loop.time() == pytest.approx(3.0)
    await bus.settle()
    assert seen == [(0, 0.0), (1, pytest.approx(3.0))]
    assert [letter.reason for letter in bus.dead_letters] == [DeadReason.TIMEOUT_IGNORED]
    await asyncio.sleep(20)
    assert ended == [0]
    assert bus.audit().totals.acked == 1


async def test_a_cancelled_handler_has_a_second_to_clean_up(bus: EventBus) -> None:
    """A handler that ends within the second after its cancellation is not abandoned."""
    cleaned = []

    async def tidy(data: Any) -> None:
        try:
            await asyncio.sleep(50)
        finally:
            await asyncio.sleep(0.9)
            cleaned.append(data)

    bus.subscribe("a", tidy, timeout=2.0, guarantee="at_most_once")
    await bus.publish("a", 1).settled()
    assert cleaned == [1]
    assert [letter.reason for letter in bus.dead_letters] == [DeadReason.RETRIES_EXHAUSTED]


async def test_without_a_timeout_an_attempt_may_take_for_ever(bus: EventBus) -> None:
    """`timeout=None`, the default, is no limit."""

    async def slow(data: Any) -> None:
        await asyncio.sleep(1e6)

    bus.subscribe("a", slow)
    assert (await bus.publish("a").settled()).ok
