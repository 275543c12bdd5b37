"""The options of a subscription: their defaults, and every combination that is refused at once."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actorbus import (
    Actor,
    ConfigurationError,
    Directive,
    Event,
    EventBus,
    Guarantee,
    Overflow,
    RestartPolicy,
    RetryPolicy,
)
from actorbus.options import SubscribeOptions
from tests.handlers import Seen


async def handler(data: Any) -> None: ...
def plain(data: Any) -> None: ...


def subscribe(bus: EventBus, function: Callable[..., Any] = handler, **options: Any) -> Any:
    return bus.subscribe("a", function, **options)


def test_the_defaults_are_those_of_the_contract() -> None:
    """Each option left out has its documented default."""
    options = EventBus().subscribe("a", handler).options
    assert (options.mailbox, options.overflow, options.put_timeout) == (1000, Overflow.BLOCK, 5.0)
    assert (options.retry, options.restart) == (RetryPolicy(), RestartPolicy())
    assert (options.timeout, options.concurrency, options.key) == (None, 1, None)
    assert (options.group, options.guarantee) == (None, Guarantee.AT_LEAST_ONCE)
    assert (options.exclude, options.replay, options.inline) == ((), 0, False)
    assert options.on_failure is None


def test_the_options_are_those_of_the_contract() -> None:
    """`subscribe` knows exactly the documented options."""
    assert set(SubscribeOptions.__annotations__) == {
        "name", "mailbox", "overflow", "put_timeout", "retry", "restart", "on_failure", "timeout",
        "concurrency", "key", "group", "durable", "inbox", "guarantee", "exclude", "replay",
        "since", "after", "inline",
    }  # fmt: skip
    assert list(inspect.signature(EventBus.subscribe).parameters)[:3] == [
        "self", "patterns", "handler",
    ]  # fmt: skip


def test_subscriptions_that_set_nothing_share_their_options() -> None:
    """A name is no difference; an option that is given is."""
    bus = EventBus()
    one, two = (bus.subscribe("a", handler, name=name).options for name in ("one", "two"))
    assert one is two
    assert bus.subscribe("a", handler, mailbox=5).options.mailbox == 5
    assert one.mailbox == 1000


@pytest.mark.parametrize(
    "options",
    [
        *({"overflow": each} for each in ("block", "drop_new", "drop_old", "latest", "fail")),
        *({"on_failure": each} for each in ("resume", "restart", "stop", "escalate")),
        *({"guarantee": each} for each in ("at_least_once", "at_most_once")),
        {"put_timeout": None}, {"put_timeout": 0}, {"timeout": 0.001}, {"key": "key"},
        {"key": lambda event: event.id}, {"on_failure": lambda error, event: "stop"},
        {"on_failure": Directive.STOP}, {"mailbox": 1}, {"replay": 1000}, {"group": "g"},
        {"exclude": "b"}, {"exclude": ("b", "c:*")}, {"name": "x"}, {"durable": None},
        {"overflow": "drop_new", "guarantee": "at_most_once"}, {"group": "g", "replay": 0},
    ],
    ids=str,
)  # fmt: skip
def test_what_makes_sense_is_taken(options: dict[str, Any]) -> None:
    """Every documented value is accepted, an enumeration also as its string."""
    subscribe(EventBus(), **options)


BAD_VALUES: list[dict[str, Any]] = [
    {"mailbox": 0}, {"mailbox": -1}, {"mailbox": 1.5}, {"mailbox": True}, {"mailbox": None},
    {"mailbox": math.inf}, {"mailbox": "9"},
    {"overflow": "drop"}, {"overflow": 5}, {"overflow": None},
    {"put_timeout": -1}, {"put_timeout": math.nan}, {"put_timeout": math.inf},
    {"put_timeout": "5"}, {"put_timeout": True},
    {"timeout": 0}, {"timeout": -1}, {"timeout": math.nan}, {"timeout": math.inf},
    {"timeout": "5"}, {"timeout": False}, {"timeout": 10**400},
    {"concurrency": 0}, {"concurrency": -1}, {"concurrency": 2.0}, {"concurrency": True},
    {"key": "topic"}, {"key": 5}, {"group": ""}, {"group": 5}, {"name": ""}, {"name": 5},
    {"guarantee": "exactly_once"}, {"guarantee": None}, {"exclude": 5}, {"exclude": [5]},
    {"exclude": "a b"}, {"replay": -1}, {"replay": 1.0}, {"replay": True}, {"since": "now"},
    {"since": datetime(2026, 1, 1)}, {"since": math.nan}, {"since": True}, {"after": -1},  # noqa: DTZ001
    {"after": 1.0}, {"inline": 1},
    {"inline": None}, {"retry": 3}, {"retry": None}, {"restart": 3}, {"restart": None},
    {"on_failure": "explode"}, {"on_failure": 5}, {"on_failure": Directive},
]  # fmt: skip


@pytest.mark.parametrize("options", BAD_VALUES, ids=str)
def test_a_value_out_of_range_is_refused_by_name(options: dict[str, Any]) -> None:
    """A wrong type or a number out of range is a ConfigurationError, in the call and decorator."""
    bus = EventBus()
    [name] = options
    with pytest.raises(ConfigurationError, match=None if name == "exclude" else name) as caught:
        subscribe(bus, **options)
    assert isinstance(caught.value, ValueError)
    with pytest.raises(ConfigurationError):
        bus.subscribe("a", **options)
    with pytest.raises(ConfigurationError):
        bus.supervisor("s").subscribe("a", handler, **options)
    assert bus.get_stats()["subscriptions"] == 0


BAD_TOGETHER: list[tuple[dict[str, Any], Callable[..., Any], str]] = [
    ({"durable": "d"}, handler, "durable.*journal.*transport"),
    ({"durable": "d", "group": "g"}, handler, "durable"),
    ({"durable": "d", "replay": 1}, handler, "durable"),
    ({"durable": "d", "guarantee": "at_most_once"}, handler, "durable"),
    ({"durable": "d", "overflow": "drop_old"}, handler, "durable"),
    ({"group": "g", "replay": 1}, handler, "group.*replay"),
    ({"replay": 11, "mailbox": 10}, handler, "replay=11.*mailbox=10"),
    ({"replay": 1001}, handler, "replay=1001.*mailbox=1000"),
    ({"since": 5.0}, handler, "since.*replay"),
    ({"after": 5}, handler, "after.*replay"),
    ({"after": 5, "replay": 1}, handler, "after.*journal"),
    ({"inline": True}, handler, "inline.*async def"),
    ({"timeout": 1.0}, plain, "timeout.*async def"),
    ({"timeout": 1.0, "inline": True}, plain, "timeout.*async def"),
    *(
        ({"overflow": each, "put_timeout": 5.0}, handler, f"put_timeout.*{each}")
        for each in ("drop_new", "drop_old", "latest", "fail")
    ),
    ({"overflow": "drop_new", "put_timeout": None}, handler, "put_timeout"),
    ({"guarantee": "at_most_once", "retry": RetryPolicy()}, handler, "at_most_once.*retry"),
    ({"guarantee": Guarantee.AT_MOST_ONCE, "retry": RetryPolicy.none()}, handler, "at_most_once"),
]


@pytest.mark.parametrize(("options", "function", "why"), BAD_TOGETHER, ids=str)
def test_a_bad_combination_is_refused_and_says_which_and_why(
    options: dict[str, Any], function: Callable[..., Any], why: str
) -> None:
    """Options at odds with each other or the handler are a ConfigurationError naming both."""
    bus = EventBus()
    with pytest.raises(ConfigurationError, match=why):
        subscribe(bus, function, **options)
    with pytest.raises(ConfigurationError, match=why):
        bus.subscribe("a", **options)(function)
    assert bus.get_stats()["subscriptions"] == 0


def test_an_unknown_option_is_refused_and_the_known_ones_are_named() -> None:
    """A misspelt option is a ConfigurationError, even before the decorator has its function."""
    options: dict[str, Any] = {"maibox": 10}
    with pytest.raises(ConfigurationError, match=r"maibox.*mailbox"):
        subscribe(EventBus(), **options)
    with pytest.raises(ConfigurationError, match=r"maibox.*mailbox"):
        EventBus().subscribe("a", **options)


@given(st.text(min_size=1).filter(lambda text: text not in SubscribeOptions.__annotations__))
def test_no_other_option_is_ever_taken(option: str) -> None:
    """Whatever is not on the list is refused."""
    if option in {"patterns", "handler", "self"}:
        return
    with pytest.raises(ConfigurationError):
        EventBus().subscribe("a", handler, **{option: None})  # type: ignore[call-overload]  # the point


@pytest.mark.parametrize(
    "make",
    [
        lambda: RetryPolicy(on=()), lambda: RetryPolicy(max_attempts=0),
        lambda: RetryPolicy(base=-1), lambda: RetryPolicy(jitter="some"),  # type: ignore[arg-type]
        lambda: RestartPolicy(max_restarts=-1), lambda: RestartPolicy(within=0),
        lambda: RestartPolicy(on_give_up="cry"),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_a_policy_is_checked_when_it_is_made(make: Callable[[], object]) -> None:
    """A policy that makes no sense, an empty `on` included, is refused before any subscribe."""
    with pytest.raises(ConfigurationError):
        make()


def test_class_attributes_of_an_actor_are_checked_like_options() -> None:
    """An Actor class with a bad option is refused by `spawn`."""

    class Bad(Actor):
        mailbox = 0

        async def receive(self, event: Event) -> None: ...

    with pytest.raises(ConfigurationError, match="mailbox"):
        EventBus().spawn(Bad)


def test_an_actor_class_is_no_handler() -> None:
    """Subscribing an Actor class says to spawn it."""

    class Some(Actor):
        async def receive(self, event: Event) -> None: ...

    with pytest.raises(ConfigurationError, match="spawn"):
        EventBus().subscribe("a", Some)


async def test_a_refused_subscription_leaves_no_trace(bus: EventBus) -> None:
    """After a refusal nothing is subscribed, counted or named."""
    with pytest.raises(ConfigurationError):
        bus.subscribe("a", Seen(), name="x", mailbox=0)
    assert bus.publish("a").deliveries == 0
    bus.subscribe("a", Seen(), name="x")
