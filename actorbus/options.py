"""The options of a subscription: one place for their defaults, and for every refusal.

An option that makes no sense is refused when the subscription is made, in words that say which
option and why, never later and never silently.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from typing import Any, TypedDict

from actorbus.checks import choice, number, seconds, whole
from actorbus.errors import ConfigurationError
from actorbus.event import Event
from actorbus.handler import Signature
from actorbus.restart import RestartPolicy
from actorbus.retry import RetryPolicy
from actorbus.topic import Pattern
from actorbus.words import Directive, Guarantee, Overflow

OnFailure = Directive | str | Callable[[BaseException, Event | None], Directive | str]
Key = str | Callable[[Event], Hashable]
NEEDS_REPLAY = "since and after say how far back a replay goes: they need replay"


class SubscribeOptions(TypedDict, total=False):
    """The keyword options of ``subscribe`` and ``spawn``.

    Attributes:
        name: Unique among the live ones; default ``module.qualname``, then ``…#2``.
        mailbox: Deliveries the mailbox holds, at least 1; default 1000.
        overflow: What a full mailbox does; default ``"block"``.
        put_timeout: Seconds a delivery may wait for room under ``block``; None waits for ever;
            default 5.0.
        retry: The retry policy; default ``RetryPolicy()``.
        restart: The restart policy; default ``RestartPolicy()``.
        on_failure: A directive, or a callable on (error, event) that returns one; default
            ``"resume"`` for functions and ``"restart"`` for `Actor` classes.
        timeout: Seconds one attempt of an async handler may take; default None, no limit.
        concurrency: Deliveries handled at once; default 1.
        key: ``"key"`` for the publish key, or a callable on the event: one key is never handled
            twice at the same time and stays in order.
        group: Each event goes to exactly one member of the group.
        durable: Name of a durable subscription; needs a journal or a transport.
        inbox: The handler takes ``(data, tx)``, and what it writes with the `Transaction` is
            committed together with its acknowledgement, once for each event id; needs `durable`
            and a journal with tables, such as ``sqlite:///events.db``; default False.
        guarantee: ``"at_least_once"`` (default) or ``"at_most_once"``.
        exclude: Patterns of topics it does not want.
        replay: First deliver the last so many matching events of the history; default 0.
        since: Of these only those from this time on: an aware datetime, or Unix seconds.
        after: Of these only those behind this number of the journal, such as
            `HistoryStream.position`.
        inline: Run a plain ``def`` on the loop instead of a thread; default False.
    """

    name: str | None
    mailbox: int
    overflow: Overflow | str
    put_timeout: float | None
    retry: RetryPolicy
    restart: RestartPolicy
    on_failure: OnFailure
    timeout: float | None
    concurrency: int
    key: Key | None
    group: str | None
    durable: str | None
    inbox: bool
    guarantee: Guarantee | str
    exclude: str | Iterable[str]
    replay: int
    since: datetime | float | None
    after: int
    inline: bool


@dataclass(frozen=True, slots=True)
class Options:
    """The options of one subscription, its name apart, checked and in their one form."""

    mailbox: int
    overflow: Overflow
    put_timeout: float | None
    retry: RetryPolicy
    restart: RestartPolicy
    on_failure: Directive | Callable[[BaseException, Event | None], Directive | str] | None
    timeout: float | None
    concurrency: int
    key: Callable[[Event], Hashable] | None
    group: str | None
    durable: str | None
    inbox: bool
    guarantee: Guarantee
    exclude: tuple[Pattern, ...]
    replay: int
    since: float
    after: int
    inline: bool

    @property
    def once(self) -> bool:
        """Whether a delivery is never run twice."""
        return self.guarantee is Guarantee.AT_MOST_ONCE


_DEFAULT_RETRY = RetryPolicy()
_NO_RETRY = RetryPolicy.none()
_DEFAULT_RESTART = RestartPolicy()


def check_options(given: Mapping[str, Any], signature: Signature) -> Options:
    """Check the options of a subscription.

    Args:
        given: The options that were given, by name.
        signature: How the handler wants to be called.

    Returns:
        The options in their one form; where none but a name was given, the same object each time.

    Raises:
        ConfigurationError: An option is unknown, of the wrong type, out of range, or at odds with
            another one or with the handler.
    """
    _optional_text("name", given.get("name"))
    if given.keys() <= {"name"}:
        return _DEFAULTS
    if unknown := sorted(given.keys() - SubscribeOptions.__annotations__.keys()):
        known = ", ".join(sorted(SubscribeOptions.__annotations__))
        raise ConfigurationError(f"unknown option {unknown[0]!r}; the options are {known}")
    _check_combinations(given, signature)
    options = _in_one_form(given)
    if options.replay > options.mailbox:
        raise ConfigurationError(
            f"replay={options.replay} does not fit into mailbox={options.mailbox}"
        )
    return options


def _in_one_form(given: Mapping[str, Any]) -> Options:
    once = choice("guarantee", Guarantee, given.get("guarantee", Guarantee.AT_LEAST_ONCE))
    at_most_once = once is Guarantee.AT_MOST_ONCE
    return Options(
        mailbox=whole("mailbox", given.get("mailbox", 1000), at_least=1),
        overflow=choice("overflow", Overflow, given.get("overflow", Overflow.BLOCK)),
        put_timeout=_seconds("put_timeout", given.get("put_timeout", 5.0), zero=True),
        retry=_policy("retry", RetryPolicy, given, _NO_RETRY if at_most_once else _DEFAULT_RETRY),
        restart=_policy("restart", RestartPolicy, given, _DEFAULT_RESTART),
        on_failure=_on_failure(given.get("on_failure")),
        timeout=_seconds("timeout", given.get("timeout")),
        concurrency=whole("concurrency", given.get("concurrency", 1), at_least=1),
        key=_key(given.get("key")),
        group=_optional_text("group", given.get("group")),
        durable=_optional_text("durable", given.get("durable")),
        inbox=_flag("inbox", given.get("inbox", False)),
        guarantee=once,
        exclude=_patterns(given.get("exclude", ())),
        replay=whole("replay", given.get("replay", 0)),
        since=moment("since", given.get("since"), default=-math.inf),
        after=whole("after", given.get("after", 0)),
        inline=_flag("inline", given.get("inline", False)),
    )


def _check_combinations(given: Mapping[str, Any], signature: Signature) -> None:
    overflow = given.get("overflow", Overflow.BLOCK)
    at_most_once = given.get("guarantee") == Guarantee.AT_MOST_ONCE
    durable = given.get("durable") is not None
    rules = (
        (
            durable and bool(given.get("group")),
            "durable with group: within one process a durable subscription shares with nobody",
        ),
        (
            durable and bool(given.get("replay")),
            "durable with replay: a durable subscription goes on where it has stopped",
        ),
        (
            durable and at_most_once,
            "durable with guarantee='at_most_once': after a crash a delivery may run once more",
        ),
        (
            durable and overflow != Overflow.BLOCK,
            f"durable with overflow={str(overflow)!r}: its backlog lives in the journal",
        ),
        (
            bool(given.get("inbox")) and not durable,
            "inbox without durable: what is written with an acknowledgement needs one that lasts",
        ),
        (
            bool(given.get("group")) and bool(given.get("replay")),
            "group with replay: history cannot be shared out among members",
        ),
        (
            not given.get("replay")
            and (given.get("since") is not None or bool(given.get("after"))),
            NEEDS_REPLAY,
        ),
        (
            bool(given.get("inline")) and signature.is_async,
            "inline=True is for a plain def; an async def runs on the loop anyway",
        ),
        (
            given.get("timeout") is not None and not signature.is_async,
            "timeout needs an async def: a thread cannot be cancelled",
        ),
        (
            "put_timeout" in given and overflow != Overflow.BLOCK,
            f"put_timeout goes with overflow='block'; overflow={str(overflow)!r} never waits",
        ),
        (
            at_most_once and "retry" in given,
            "guarantee='at_most_once' never runs a delivery twice, so it takes no retry policy",
        ),
    )
    for broken, why in rules:
        if broken:
            raise ConfigurationError(why)


def moment(option: str, value: object, *, default: float) -> float:
    """Return Unix seconds, or refuse what names no moment.

    Args:
        option: Its name, for the error.
        value: An aware datetime, Unix seconds, or None.
        default: What None means.

    Raises:
        ConfigurationError: It is none of these.
    """
    if value is None:
        return default
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.timestamp()
    if isinstance(value, int | float) and not isinstance(value, bool):
        return number(option, value, at_least=-math.inf)
    raise ConfigurationError(f"{option} must be an aware datetime or Unix seconds, not {value!r}")


def _seconds(option: str, value: object, *, zero: bool = False) -> float | None:
    return None if value is None else seconds(option, value, zero=zero)


def _policy(option: str, kind: type, given: Mapping[str, Any], default: Any) -> Any:
    value = given.get(option, default)
    if not isinstance(value, kind):
        raise ConfigurationError(f"{option} must be a {kind.__name__}, not {value!r}")
    return value


def _on_failure(value: Any) -> Any:
    if value is None or (callable(value) and not isinstance(value, type)):
        return value
    return choice("on_failure", Directive, value)


def _key(value: Any) -> Any:
    if value is None or (callable(value) and not isinstance(value, str)):
        return value
    if value == "key":
        return attrgetter("key")
    raise ConfigurationError(f"key must be 'key' or a callable on the event, not {value!r}")


def _optional_text(option: str, value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ConfigurationError(f"{option} must be printable text, not {value!r}")
    return value


def _flag(option: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ConfigurationError(f"{option} must be True or False, not {value!r}")
    return value


def _patterns(value: Any) -> tuple[Pattern, ...]:
    if isinstance(value, str):
        return (Pattern(value),)
    try:
        return tuple(Pattern(each) for each in value)
    except TypeError:
        raise ConfigurationError(f"exclude must be patterns, not {value!r}") from None


_DEFAULTS = _in_one_form({})


def check_ids(id_: Any, correlation_id: Any) -> None:
    """Check the ids given to a publish.

    Raises:
        ConfigurationError: One is not printable text.
    """
    for option, value in (("id", id_), ("correlation_id", correlation_id)):
        if value is not None and not (isinstance(value, str) and value and value.isprintable()):
            raise ConfigurationError(f"{option} must be printable text, not {value!r:.80}")
