"""EventBus: what users hold. The composition root, and the way of one event.

::

    publish -> route (one dict access) -> offer to each inbox -> mailbox -> worker -> handler

`EventBus.publish` is the hot path: it makes one event and one receipt and calls one bound method
per delivery. Everything but a running bus on its own loop goes through `_begin`, which starts the
bus, sends the event over from another thread, or says why not.
"""

from __future__ import annotations

import asyncio
import threading
from asyncio import _get_running_loop
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextvars import copy_context
from typing import Any, Literal, Self, TypeVar, Unpack, overload

import anyio

from actorbus import closing
from actorbus.actor import Actor, ActorRef
from actorbus.closing import DrainReport
from actorbus.dead_letter import DeadLetters
from actorbus.engine import Engine
from actorbus.errors import (
    AskFailedError,
    AskTimeoutError,
    BusClosedError,
    BusNotRunningError,
    ConfigurationError,
    DeadlockError,
    NoResponderError,
)
from actorbus.event import Event
from actorbus.explain import Explanation, explain
from actorbus.hand import in_hand
from actorbus.ledger import Audit, BusReading
from actorbus.options import SubscribeOptions, whole
from actorbus.receipt import Receipt, Watch
from actorbus.running import run_bus
from actorbus.subscription import Subscription
from actorbus.supervisor import Supervisor
from actorbus.tap import EventStream, Tap, Waiting, parse_patterns
from actorbus.topic import Pattern, check_topic
from actorbus.words import ActorState, Overflow, Strategy

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


class EventBus:
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
        journal: Not available in this version.
        durability: Of the journal.
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
        journal: None = None,
        durability: Literal["power", "process"] = "power",
        transport: None = None,
    ) -> None:
        if not isinstance(name, str) or not name:
            raise ConfigurationError(f"name must be text, not {name!r}")
        if copy not in (None, "deep"):
            raise ConfigurationError(f"copy must be None or 'deep', not {copy!r}")
        if durability not in ("power", "process"):
            raise ConfigurationError(f"durability must be 'power' or 'process', not {durability!r}")
        if journal is not None or transport is not None:
            raise ConfigurationError("this version has no journal and no transport")
        if not isinstance(histograms, bool):
            raise ConfigurationError(f"histograms must be True or False, not {histograms!r}")
        self._engine = Engine(
            name,
            self,
            history=whole("history", history),
            dead_letters=whole("dead_letters", dead_letters),
            max_hops=None if max_hops is None else whole("max_hops", max_hops, at_least=1),
            threads=whole("threads", threads, at_least=1),
            histograms=histograms,
            copies=copy == "deep",
        )
        self._engine.on_collapse = self._collapse
        self._registry = self._engine.registry
        self._routes = self._engine.routes
        self._cache = self._routes.cache
        self._closing: asyncio.Task[DrainReport] | None = None
        self._report = DrainReport()
        self._collapsed: BaseException | None = None
        self._entered: asyncio.Task[Any] | None = None

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
            PayloadError: The payload cannot be copied (``copy="deep"``).
        """
        engine = self._engine
        loop = _get_running_loop()
        if loop is not engine.loop or not engine.open or loop is None:
            loop = self._begin(caused=cause is not None or _cause() is not None)
        if loop is not None:
            try:
                route = self._cache.get(topic)
            except TypeError:
                route = None  # unhashable, so no text: the check below says so
            if route is None:
                check_topic(topic)
                route = self._routes.route(topic)
        else:
            check_topic(topic)
        if cause is None and (hand := in_hand.get()) is not None:
            cause = hand.event
        if headers is not None or id is not None or correlation_id is not None or cause is not None:
            _check_publish_options(headers, id, correlation_id, cause)
        event = engine.make_event(topic, data, key, headers, id, correlation_id, cause)
        if loop is None:
            return engine.from_thread(event)
        receipt = Receipt(event, route, loop.time())
        if route.threaded:
            receipt.context = copy_context()
        if cause is not None or not route.offers:
            engine.dispatch(route, receipt)
            return receipt
        route.ring.append(event)
        route.tally.events += 1
        for offer in route.offers:
            offer(receipt)
        return receipt

    def _begin(self, *, caused: bool) -> asyncio.AbstractEventLoop | None:
        """Make ready for a publish that is not the plain case; return None to go by thread."""
        engine = self._engine
        engine.settle_lost_loop()
        here, loop = _get_running_loop(), engine.loop
        if engine.running and loop is not None:
            if here is not loop:
                if not loop.is_running():
                    raise BusNotRunningError(self.name)
                return None
            if engine.open or caused:
                return here
        if engine.draining or engine.closed:
            raise BusClosedError(self.name, draining=engine.draining)
        if here is None:
            raise BusNotRunningError(self.name)
        engine.start(here)
        return here

    def _event_for(self, topic: str, data: Any, key: Any) -> Event:
        """Make an event of the bus's own for one actor."""
        cause = _cause()
        if self._begin(caused=cause is not None) is None:
            raise BusNotRunningError(self.name)
        return self._engine.make_event(topic, data, key, None, None, None, cause)

    # -- subscribe --------------------------------------------------------------------------------

    @overload
    def subscribe(
        self, patterns: str | Iterable[str], handler: None = None, **options: Unpack[SubscribeOptions]
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
        return self._registry.root.subscribe(patterns, handler, **options)  # type: ignore[arg-type]  # both forms

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
        self, factory: Callable[[], Actor], **options: Unpack[SubscribeOptions]
    ) -> ActorRef:
        """Spawn an actor with state.

        Args:
            factory: Builds an instance; called at once and again for every restart. A class will
                do.
            **options: See `SubscribeOptions`; they win over the class's attributes of that name.

        Returns:
            A reference to tell, ask and stop it.

        Raises:
            ConfigurationError: An option, or what the factory returned, makes no sense.
        """
        return self._registry.root.spawn(factory, **options)

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

    # -- ask --------------------------------------------------------------------------------------

    async def ask(
        self,
        topic: str,
        data: Any = None,
        timeout: float | None = 5.0,  # noqa: ASYNC109 the contract's name
        *,
        key: Any = None,
        headers: Mapping[str, Any] | None = None,
    ) -> Any:
        """Publish an event and wait for the first reply that is not None.

        Args:
            topic: What to ask.
            data: The payload.
            timeout: Seconds; None waits for ever.
            key: The publish key.
            headers: Whatever else belongs to the event.

        Returns:
            The reply; None when every handler has settled and none gave one.

        Raises:
            NoResponderError: No handler matches; streams and waits do not answer.
            AskFailedError: All have settled, none replied and one is dead.
            AskTimeoutError: No reply in time; cancelling or timing out takes nothing back.
            DeadlockError: Whoever could answer waits for the caller.
            InvalidTopicError, BusNotRunningError, BusClosedError: As for `publish`.
        """
        check_topic(topic)
        cause = _cause()
        if self._begin(caused=cause is not None) is None:
            raise BusNotRunningError(self.name)
        route = self._routes.route(topic)
        if not route.shares and not any(each.answers for each in route.addressees):
            raise NoResponderError(topic)
        event = self._engine.make_event(topic, data, key, headers, None, None, cause)
        receipt = Receipt(event, route, asyncio.get_running_loop().time())
        if route.threaded:
            receipt.context = copy_context()
        receipt.watch = Watch(receipt, asking=True)
        self._engine.dispatch(route, receipt)
        return await _answer(receipt, timeout)

    async def _ask_actor(self, sub: Subscription, data: Any, timeout: float | None) -> Any:  # noqa: ASYNC109
        if sub.state in (ActorState.STOPPING, ActorState.STOPPED) and not self._engine.closed:
            raise NoResponderError(f"$bus:tell:{sub.name}")
        return await _answer(self._engine.tell(sub, data, None, watch=True), timeout)

    # -- streams and waits ------------------------------------------------------------------------

    def events(
        self,
        patterns: str | Iterable[str],
        *,
        mailbox: int = 1000,
        overflow: Overflow | str = Overflow.DROP_OLD,
        replay: int = 0,
    ) -> EventStream:
        """Open a stream: ``async with bus.events("task:*") as events: async for event in events``.

        Args:
            patterns: A pattern or several.
            mailbox: Events the buffer holds.
            overflow: ``drop_old``, ``drop_new`` or ``latest``; what is dropped is counted.
            replay: Begin with the last so many matching events of the history.

        Raises:
            ConfigurationError: An option is out of range.
            InvalidPatternError: A pattern breaks the grammar.
        """
        name = f"events:{','.join(map(str, parsed))}" if (parsed := parse_patterns(patterns)) else ""
        return EventStream(_TapHost(self), name, parsed, mailbox, overflow, replay)

    async def wait_for(
        self,
        patterns: str | Iterable[str],
        *,
        where: Callable[[Event], Any] | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 the contract's name
    ) -> Event:
        """Wait for the next matching event.

        Args:
            patterns: A pattern or several.
            where: Takes the event and says whether it is the one.
            timeout: Seconds; None waits for ever.

        Returns:
            The event.

        Raises:
            TimeoutError: None came in time.
            BusClosedError: The bus was closed meanwhile.
            Exception: Whatever `where` raises.
        """
        parsed = parse_patterns(patterns)
        tap = Waiting(self.name, f"wait:{','.join(map(str, parsed))}", parsed, where)
        host = _TapHost(self)
        host.add_tap(tap, 0)
        try:
            async with asyncio.timeout(timeout):
                return await tap.found
        finally:
            host.remove_tap(tap)

    # -- looking ----------------------------------------------------------------------------------

    @property
    def dead_letters(self) -> DeadLetters:
        """The dead letters: iterate, ``list``, ``replay``, ``discard``."""
        self._engine.settle_lost_loop()
        return self._engine.dead_letters

    def explain(self, topic: str) -> Explanation:
        """Say who would get a topic, through which pattern, and which near misses would not."""
        check_topic(topic, system=True)
        return explain(topic, self._registry.everyone(), self._routes)

    def audit(self) -> Audit:
        """Return the ledger: every subscription's terms, and whether they balance."""
        self._engine.settle_lost_loop()
        return self._registry.audit()

    def get_stats(self) -> dict[str, Any]:
        """Return the counts of the bus.

        Returns:
            ``events_published``, ``events_delivered`` (acked deliveries), ``delivery_failures``
            (dead ones), ``events_by_type`` (the first 200 topics that had a subscriber, the rest
            under ``_other``) and ``subscriptions`` (live ones).
        """
        totals = self.audit().totals
        published = self._routes.published()
        return {
            "events_published": sum(published.values()),
            "events_delivered": totals.acked,
            "delivery_failures": totals.dead,
            "events_by_type": {topic: count for topic, count in published.items() if count},
            "subscriptions": len(self._registry.live),
        }

    def get_history(self, pattern: str, limit: int = 10) -> list[dict[str, Any]]:
        """Return the last events that match, oldest first.

        Args:
            pattern: A topic or a pattern.
            limit: How many at most.

        Returns:
            Dicts with ``id``, ``topic``, ``timestamp`` (aware datetime, UTC) and ``data``.
        """
        events = self._routes.recent((Pattern(pattern),), whole("limit", limit))
        return [
            {"id": e.id, "topic": e.topic, "timestamp": e.timestamp, "data": e.data} for e in events
        ]

    def reading(self) -> BusReading:
        """Copy the books for an exporter; callable on any thread.

        While the bus runs the copy is made in one step on its loop; the calling thread waits.
        """
        engine = self._engine
        loop = engine.loop
        if loop is None or _get_running_loop() is loop or not (engine.running and loop.is_running()):
            return self._read()
        made, box = threading.Event(), list[BusReading]()

        def read() -> None:
            box.append(self._read())
            made.set()

        try:
            loop.call_soon_threadsafe(read)
        except RuntimeError:  # closed in between
            return self._read()
        while not made.wait(0.1):
            if not loop.is_running():
                return self._read()
        return box[0]

    def _read(self) -> BusReading:
        engine = self._engine
        engine.settle_lost_loop()
        return BusReading(
            bus=self.name,
            published=self._routes.published(),
            unrouted=engine.unrouted,
            blocked_seconds=engine.blocked_seconds,
            dead_letters_held=len(engine.dead_letters),
            loop_lag=None if engine.lag.lag is None else engine.lag.lag.copy(),
            actors=self._registry.readings(),
        )

    def sample_loop_lag(self) -> None:
        """Sample the event loop's lag from now on; metrics ask for it."""
        loop = self._engine.loop
        if loop is not None and loop.is_running() and _get_running_loop() is not loop:
            loop.call_soon_threadsafe(self._engine.lag.want)
        else:
            self._engine.lag.want()

    # -- life cycle -------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the bus, or open it again with its subscriptions after a close.

        Raises:
            BusNotRunningError: It runs on another loop.
        """
        if self._closing is not None:
            await asyncio.wait({self._closing})
        engine = self._engine
        engine.settle_lost_loop()
        loop = asyncio.get_running_loop()
        if engine.running:
            if engine.loop is not loop:
                raise BusNotRunningError(self.name)
        else:
            self._closing = self._collapsed = None
            engine.start(loop)
        await engine.started()

    async def __aenter__(self) -> Self:
        """Start the bus."""
        self._entered = asyncio.current_task()
        await self.start()
        return self

    async def __aexit__(self, kind: Any, error: BaseException | None, _: object) -> bool:
        """Drain and close the bus.

        Raises:
            BaseException: What an actor gave up with under ``on_give_up="raise"``.
        """
        task, self._entered = self._entered, None
        with anyio.CancelScope(shield=True):
            await self.close()
        collapsed, self._collapsed = self._collapsed, None
        if collapsed is not None:
            if isinstance(error, asyncio.CancelledError) and task is not None:
                task.uncancel()
            raise collapsed
        return False

    def _collapse(self, error: BaseException) -> None:
        """End the bus, and the block it lives in, because an actor gave up for all of it."""
        if self._collapsed is not None:
            return
        self._collapsed = error
        if self._entered is not None:
            self._entered.cancel()
        else:
            self._close_soon(25.0)

    async def settle(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 contract
        """Wait until no delivery is waiting, queued, running or retrying.

        Mail of suspended actors does not count.

        Args:
            timeout: Seconds; None waits for ever.

        Raises:
            TimeoutError: Not in time; names the busy subscriptions.
            DeadlockError: Called in a handler, whose own delivery would never settle.
        """
        hand = in_hand.get()
        if hand is not None and hand.is_here():
            raise DeadlockError((hand.actor.name,), "settle")
        engine = self._engine
        engine.settle_lost_loop()
        engine.intake.flush()
        with anyio.move_on_after(timeout) as limit:
            await closing.until_idle(engine)
        if limit.cancelled_caught:
            busy = ", ".join(closing.busy_names(engine.busy))
            raise TimeoutError(f"bus {self.name!r} is not settled after {timeout:g} s: {busy}")

    async def drain(self, timeout: float | None = 25.0) -> DrainReport:  # noqa: ASYNC109 contract
        """Finish accepted work and accept no more.

        Publishes without a cause in hand are refused, those of handlers accepted; no delay is
        longer than a second; actors stop in reverse order.

        Args:
            timeout: Seconds; what is left then is dead (``drain_timeout``). None waits for ever.

        Returns:
            What it came to; the same report for every caller.

        In a handler it does not wait for that handler's actor. Cancelling the call does not stop
        the drain.
        """
        return await asyncio.shield(self._close_soon(timeout))

    async def close(self, timeout: float | None = 25.0) -> DrainReport:  # noqa: ASYNC109 contract
        """Drain, then release threads, timers and tasks.

        The ledger, the dead letters and the history stay readable; ``start()`` opens the bus again
        with its subscriptions.

        Args:
            timeout: As for `drain`.

        Returns:
            The drain's report.
        """
        report = await self.drain(timeout)
        engine = self._engine
        engine.closed = True
        hand = in_hand.get()
        own = hand.actor.name if hand is not None and hand.is_here() else None
        spared = {
            asyncio.current_task(), *(task for task, name in engine.tasks.items() if name == own),
        }  # fmt: skip
        self._registry.end_taps()
        await closing.end_tasks(lambda: list(engine.tasks), [task for task in spared if task])
        engine.threads.close()
        return report

    def _close_soon(self, timeout: float | None) -> asyncio.Task[DrainReport]:
        if self._closing is None:
            hand = in_hand.get()
            own = hand if hand is not None and hand.is_here() else None
            self._closing = asyncio.Task(
                self._drain(timeout, own), loop=asyncio.get_running_loop(),
                name=f"actorbus:{self.name}:drain",
            )  # fmt: skip
        return self._closing

    async def _drain(self, timeout: float | None, hand: Any) -> DrainReport:  # noqa: ASYNC109
        engine = self._engine
        if not engine.running:
            engine.closed = True
            return self._report
        self._report = await closing.drain(engine, timeout, hand)
        engine.come_to_rest()
        return self._report

    def run(self, main: Callable[[], Awaitable[T]] | None = None) -> T | None:
        """Run a program: own the loop, start the bus, await `main`, drain.

        The first SIGTERM or SIGINT cancels `main` and drains; the second ends the process with
        128 plus its number.

        Args:
            main: A coroutine function; None serves until a signal.

        Returns:
            What `main` returned; None if a signal ended it.

        Raises:
            BaseException: What `main` raised, or an actor under ``on_give_up="raise"``.
        """
        return run_bus(self, main)


class _TapHost:
    """How a stream reaches its bus, starting it if need be."""

    def __init__(self, bus: EventBus) -> None:
        self._bus = bus
        self.name = bus.name

    def add_tap(self, tap: Tap, replay: int) -> None:
        bus = self._bus
        bus._begin(caused=False)
        bus._registry.add_tap(tap, replay)

    def remove_tap(self, tap: Tap) -> None:
        self._bus._registry.remove_tap(tap)


async def _answer(receipt: Receipt, timeout: float | None) -> Any:  # noqa: ASYNC109
    watch = receipt.watch
    assert watch is not None  # noqa: S101 asked for with a watch
    watch.pending = {*receipt.still_open()}
    topic = receipt.event.topic
    try:
        async with asyncio.timeout(timeout):
            await receipt.watching(watch)
    except TimeoutError:
        raise AskTimeoutError(topic, timeout or 0.0) from None
    if watch.reply is None and watch.failed is not None:
        subscription, reason, error = watch.failed
        raise AskFailedError(topic, subscription, reason) from error
    return watch.reply


def _cause() -> Event | None:
    hand = in_hand.get()
    return None if hand is None else hand.event


def _check_publish_options(headers: Any, id_: Any, correlation_id: Any, cause: Any) -> None:
    if headers is not None and not isinstance(headers, Mapping):
        raise ConfigurationError(f"headers must be a mapping, not {type(headers).__name__}")
    for option, value in (("id", id_), ("correlation_id", correlation_id)):
        if value is not None and not (isinstance(value, str) and value and value.isprintable()):
            raise ConfigurationError(f"{option} must be printable text, not {value!r:.80}")
    if cause is not None and not isinstance(cause, Event):
        raise ConfigurationError(f"cause must be an Event, not {type(cause).__name__}")
