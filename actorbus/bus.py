"""EventBus: what users hold. The composition root, and the way of one event.

::

    publish -> route (one dict access) -> offer to each inbox -> mailbox -> worker -> handler

`EventBus.publish` is the hot path; see `plain` for its plain case. Everything but a running bus on
its own loop goes through `_begin`, which starts the bus, sends the event over from another thread,
or says why not.
"""

from __future__ import annotations

import asyncio
from asyncio import _get_running_loop
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, Self, TypeVar, Unpack, overload

from actorbus.actor import Actor, ActorRef
from actorbus.asking import Asking
from actorbus.checks import whole
from actorbus.engine import Engine
from actorbus.errors import (
    BusClosedError,
    BusNotRunningError,
    ConfigurationError,
)
from actorbus.event import Event
from actorbus.hand import cause_in_hand
from actorbus.journal.base import Journal
from actorbus.lifecycle import Lifecycle
from actorbus.listening import Listening
from actorbus.looking import Looking
from actorbus.options import SubscribeOptions
from actorbus.plain import plain_first
from actorbus.receipt import Receipt
from actorbus.subscription import Subscription
from actorbus.supervisor import Supervisor
from actorbus.tables import Tables
from actorbus.topic import check_topic
from actorbus.words import Strategy

F = TypeVar("F", bound=Callable[..., Any])


class EventBus(Lifecycle, Listening, Asking, Looking, Tables):
    """Events inside a process with the guarantees of a broker.

    Every subscriber is a supervised actor with its own bounded mailbox. The bus starts by itself at
    the first publish inside a running loop; ``async with`` or ``run`` also bring it to rest.

    Args:
        name: Its name in logs, metrics and errors.
        history: Events kept per topic, of the 1,000 most recently used topics.
        dead_letters: Dead letters kept.
        max_hops: Longest causal chain of events; None for no limit.
        threads: Threads at most for plain ``def`` handlers.
        histograms: Whether waits and durations are measured.
        copy: ``"deep"`` gives every handler a copy of its own; None passes payloads by reference.
        journal: Where events are kept so that they survive the process: a URL such as
            ``sqlite:///events.db``, or a `Journal`. None keeps them in memory only.
        durability: What a commit survives: ``"power"`` loss too, or the death of the ``"process"``,
            which is faster.
        transport: Not available in this version.

    Raises:
        ConfigurationError: An option is out of range.

    One bus belongs to one event loop at a time; `publish` and `dead_letters` may be used from
    other threads, everything else from the loop's own.
    """

    def __init__(
        self,
        name: str = "default",
        *,
        history: int = 100,
        dead_letters: int = 1000,
        max_hops: int | None = 64,
        threads: int = 256,
        histograms: bool = True,
        copy: Literal["deep"] | None = None,
        journal: str | Journal | None = None,
        durability: Literal["power", "process"] = "power",
        transport: None = None,
    ) -> None:
        if not isinstance(name, str) or not name:
            raise ConfigurationError(f"name must be text, not {name!r}")
        if copy not in (None, "deep"):
            raise ConfigurationError(f"copy must be None or 'deep', not {copy!r}")
        if durability not in ("power", "process"):
            raise ConfigurationError(f"durability must be 'power' or 'process', not {durability!r}")
        if transport is not None:
            raise ConfigurationError("this version has no transport")
        if not isinstance(histograms, bool):
            raise ConfigurationError(f"histograms must be True or False, not {histograms!r}")
        engine = Engine(
            name,
            self,
            history=whole("history", history),
            dead_letters=whole("dead_letters", dead_letters),
            max_hops=None if max_hops is None else whole("max_hops", max_hops, at_least=1),
            threads=whole("threads", threads, at_least=1),
            histograms=histograms,
            copies=copy == "deep",
            journal=_journal(journal),
            durability=durability,
        )
        super().__init__(engine)
        self._registry = engine.registry
        self._routes = engine.routes
        self._cache = engine.routes.cache

    @classmethod
    def from_url(cls, url: str, **options: Any) -> Self:
        """Make a bus as a URL says.

        Args:
            url: ``memory://``, or a journal's, such as ``sqlite:///events.db``.
            **options: As for the class.

        Raises:
            ConfigurationError: The URL names nothing this version has, or an option is wrong.
        """
        if url == "memory://":
            return cls(**options)
        if url.startswith("nats:"):
            return cls(transport=url, **options)  # type: ignore[arg-type]  # which says why not
        if "journal" in options:
            raise ConfigurationError("from_url takes the journal from the URL")
        return cls(journal=url, **options)

    def __repr__(self) -> str:
        """Show name, state and the number of subscriptions."""
        return f"<EventBus {self.name!r} {self._state} subscriptions={len(self._registry.live)}>"

    @property
    def name(self) -> str:
        """The bus's name."""
        return self._engine.name

    @property
    def _state(self) -> str:
        engine = self._engine
        if engine.open:
            return "running"
        return "draining" if engine.draining else "closed" if engine.closed else "new"

    # -- publish ----------------------------------------------------------------------------------

    @plain_first
    def publish(
        self,
        topic: str,
        data: Any = None,
        *,
        key: Any = None,
        headers: Mapping[str, Any] | None = None,
        id: str | None = None,  # noqa: A002 the contract's name
        correlation_id: str | None = None,
        cause: Event | None = None,
    ) -> Receipt:
        """Publish an event; a plain call that may be awaited.

        When it returns, the event stands in every mailbox that has room and in the line of every
        full one. It may be called from any thread.

        Args:
            topic: Segments joined by ``:``, such as ``user:registered``.
            data: The payload; passed by reference and not to be changed afterwards.
            key: The publish key, for keyed subscribers.
            headers: Whatever else belongs to the event.
            id: An id of your own; default a new one.
            correlation_id: Of the conversation; default the cause's, or the event's own id.
            cause: The event this one follows from; default the one the calling handler has in hand.

        Returns:
            A receipt: ``await`` it for backpressure, ``await receipt.settled()`` for the outcome.

        Raises:
            InvalidTopicError: The topic breaks the grammar, holds a wildcard, or starts with ``$``.
            BusNotRunningError: There is no running loop to deliver on.
            BusClosedError: The bus is draining or closed.
            PayloadError: The payload cannot be copied (``copy="deep"``) or written (`journal`).
            JournalFullError: 10,000 events wait for a commit.
        """
        engine = self._engine
        loop = _get_running_loop()
        if loop is not engine.loop or not engine.ready or loop is None:
            loop = self._begin(caused=cause is not None or cause_in_hand() is not None)
        if not isinstance(topic, str) or topic not in self._cache:
            check_topic(topic)
        event = engine.make_event(topic, data, key, headers, id, correlation_id, cause)
        event, entry = engine.recorded(event, once=id is not None)
        if loop is None:
            return engine.from_thread(event, entry)
        return engine.deliver(self._routes.route(topic), event, entry)

    def _begin(self, *, caused: bool) -> asyncio.AbstractEventLoop | None:
        """Make ready for a publish that is not the plain case; return None to go by thread."""
        engine = self._engine
        engine.settle_lost_loop()
        here, loop = _get_running_loop(), engine.loop
        if engine.running and loop is not None:
            if here is not loop:
                if not loop.is_running():
                    raise BusNotRunningError(self.name, forked=engine.forked)
                return None
            if engine.open or caused:
                engine.catch_up()
                return here
        if engine.draining or engine.closed:
            raise BusClosedError(self.name, draining=engine.draining)
        if here is None:
            raise BusNotRunningError(self.name)
        engine.start(here)
        return here

    def _event_for(self, topic: str, data: Any, key: Any) -> Event:
        """Make an event of the bus's own for one actor."""
        cause = cause_in_hand()
        self._begin(caused=cause is not None)
        return self._engine.make_event(topic, data, key, cause=cause)

    # -- subscribe --------------------------------------------------------------------------------

    @overload
    def subscribe(
        self,
        patterns: str | Iterable[str],
        handler: None = None,
        **options: Unpack[SubscribeOptions],
    ) -> Callable[[F], F]: ...
    @overload
    def subscribe(
        self,
        patterns: str | Iterable[str],
        handler: Callable[..., Any],
        **options: Unpack[SubscribeOptions],
    ) -> Subscription: ...
    def subscribe(
        self,
        patterns: str | Iterable[str],
        handler: Callable[..., Any] | None = None,
        **options: Unpack[SubscribeOptions],
    ) -> Any:
        """Subscribe a handler, by call or as a decorator.

        Live when the call returns. Works without a running loop: it starts with the bus.

        Args:
            patterns: A pattern, such as ``task_manager:*``, or several.
            handler: Takes one argument: the payload, or the event if its first parameter is
                annotated `Event`, or the payload converted to the annotated type.
            **options: See `SubscribeOptions`.

        Returns:
            A `Subscription`; as a decorator, the function.

        Raises:
            InvalidPatternError: A pattern breaks the grammar.
            ConfigurationError: An option or the handler makes no sense; the text says why.
        """
        return self._registry.root.subscribe(patterns, handler, **options)

    def unsubscribe(
        self, pattern: str | Iterable[str] | Subscription, handler: Callable[..., Any] | None = None
    ) -> int:
        """End subscriptions: no new event is matched, what stands in the mailbox is handled.

        Args:
            pattern: The pattern or patterns given to `subscribe`, or a `Subscription`.
            handler: The handler; equal bound methods and partials count as the same.

        Returns:
            How many ended; 0 if there was none.

        Raises:
            ConfigurationError: A pattern without a handler.
        """
        if isinstance(pattern, Subscription):
            return pattern.unsubscribe() if pattern.bus is self._engine else 0
        if handler is None:
            raise ConfigurationError("unsubscribe needs the handler, or a Subscription")
        return self._registry.unsubscribe(pattern, handler)

    def spawn(
        self,
        factory: Callable[[], Actor],
        *,
        patterns: str | Iterable[str] | None = None,
        **options: Unpack[SubscribeOptions],
    ) -> ActorRef:
        """Spawn an actor with state.

        Args:
            factory: Builds an instance; called at once and again for every restart. A class will
                do.
            patterns: What it listens to; default the class's own.
            **options: See `SubscribeOptions`; they win over the class's attributes of that name.

        Returns:
            A reference to tell, ask and stop it.

        Raises:
            ConfigurationError: An option, or what the factory returned, makes no sense.
        """
        return self._registry.root.spawn(factory, patterns=patterns, **options)

    def supervisor(
        self,
        name: str,
        strategy: Strategy | str = Strategy.ONE_FOR_ONE,
        max_restarts: int = 3,
        within: float = 60.0,
    ) -> Supervisor:
        """Add a supervisor: a group of actors that share restarts and a budget for escalations.

        Args:
            name: Unique on this bus.
            strategy: ``one_for_one``, ``one_for_all`` or ``rest_for_one``.
            max_restarts: Escalations it answers within the window.
            within: Seconds, the length of the sliding window.

        Returns:
            A supervisor with ``subscribe``, ``spawn`` and ``supervisor`` of its own.

        Raises:
            ConfigurationError: The name is taken or an option out of range.
        """
        return self._registry.root.supervisor(name, strategy, max_restarts, within)

    def actor(self, name: str) -> ActorRef | None:
        """Return the reference to a live actor or subscription, or None."""
        sub = self._registry.live.get(name)
        return None if sub is None else self._registry.reference(sub)


def _journal(given: str | Journal | None) -> Journal | None:
    """Return the journal an option names.

    Raises:
        ConfigurationError: It names none.
    """
    if not isinstance(given, str):
        if given is not None and not isinstance(given, Journal):
            raise ConfigurationError(f"journal must be a URL or a Journal, not {given!r}")
        return given
    if not given.startswith("sqlite:"):
        raise ConfigurationError(
            f"journal must be a URL such as 'sqlite:///events.db', not {given!r}"
        )
    from actorbus.journal.sqlite import SqliteJournal  # loads sqlite3

    return SqliteJournal.from_url(given)
