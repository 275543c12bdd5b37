"""Engine: the state of a running bus, and what its parts ask of it.

`EventBus` is what users see; the engine is what subscriptions, lives, receipts and references see.
It owns the loop, the tasks, the threads, the routes and the store of dead letters.
"""

from __future__ import annotations

import asyncio
import os
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from contextvars import copy_context
from copy import deepcopy
from typing import Any

from actorbus import world
from actorbus.dead_letter import DeadLetter, DeadLetters
from actorbus.delivery import Nap
from actorbus.errors import BusNotRunningError, ConfigurationError, PayloadError
from actorbus.event import Event, new_event
from actorbus.hand import Hand, in_hand
from actorbus.home import NO_EPOCH, NOWHERE, Epoch, clock_of, home_of
from actorbus.hooks import HOOK
from actorbus.intake import Intake
from actorbus.lag import LagSampler
from actorbus.life import Life
from actorbus.options import check_ids
from actorbus.receipt import Receipt, Route, receipt_of
from actorbus.registry import Registry
from actorbus.routing import overdue
from actorbus.storm import StormLog
from actorbus.subscription import Subscription
from actorbus.threads import Job, Threads
from actorbus.waiting import guard
from actorbus.watch import Watch, hear, ring
from actorbus.words import ActorState, DeadReason

_ENGINES: weakref.WeakSet[Engine] = weakref.WeakSet()


def _forked() -> None:
    """Let every publish of a forked child ask where it is: its loop only seems to run."""
    for engine in _ENGINES:
        engine.plain = False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


class Engine:
    """What runs a bus.

    Attributes:
        name: Of the bus.
        loop: The loop it runs on, or ran on last; None before the first start.
        open: Whether every publish is accepted.
        plain: Whether besides nothing is on its way from another thread and payloads are not
            copied, so that a publish on the loop needs no further question.
        home: The loop as far as telling in which thread it runs now.
        clock: Returns the loop's time.
        epoch: What turns that into Unix time.
        draining: Whether only events with a cause are accepted.
        closed: Whether the bus was closed and not started again.
        registry: Subscriptions, streams and supervisors.
        busy: Subscriptions that may have pending deliveries.
        naps: Delays that a drain shortens.
        idle_bells: Rung whenever an actor has become idle.
        blocked_seconds: Seconds publishers spent awaiting room.
        unrouted: Events that matched nobody.
        longest_nap: Seconds a retry or restart may be put off.
    """

    def __init__(
        self,
        name: str,
        face: Any,
        *,
        history: int,
        dead_letters: int,
        max_hops: int | None,
        threads: int,
        histograms: bool,
        copies: bool,
    ) -> None:
        self.name = name
        self.face = face
        self.loop: asyncio.AbstractEventLoop | None = None
        self.home = NOWHERE
        self.clock = time.monotonic
        self.epoch = NO_EPOCH
        self.open = self.plain = self.draining = self.closed = False
        self.histograms = histograms
        self.copies = copies
        self.max_hops = max_hops
        self.longest_nap = float("inf")
        self.blocked_seconds = 0.0
        self.unrouted = 0
        self.busy: set[Subscription] = set()
        self.naps: set[Nap] = set()
        self.idle_bells: list[asyncio.Future[None]] = []
        self.registry = Registry(self, history)
        self.routes = self.registry.routes
        self.dead_letters = DeadLetters(dead_letters, self._redeliver)
        self.threads = Threads(threads, f"actorbus-{name}", self._threads_exhausted)
        self.intake = Intake(name, self._arrive)
        self.lag = LagSampler()
        self.tasks: dict[asyncio.Task[Any], str] = {}
        self.on_collapse: Callable[[BaseException], None] | None = None
        self.guard = guard
        self._on_its_way = Route(self, "")
        self._on_its_way.routed = False
        self._storm = StormLog()
        self._steps: set[asyncio.Task[Any]] = set()
        self._to_start: deque[Life] = deque()
        self._starter: asyncio.Task[None] | None = None
        self._pid = os.getpid()
        _ENGINES.add(self)

    # -- starting ---------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether actors may work."""
        return (self.open or self.draining) and self.loop is not None and not self.loop.is_closed()

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin on a loop; what another loop has left open is dead."""
        self.settle_lost_loop()
        self.loop = loop
        self._pid = os.getpid()
        self.open, self.draining, self.closed = True, False, False
        self.home, self.clock, self.epoch = home_of(loop), clock_of(loop), NO_EPOCH
        self.plain = not self.copies
        self.longest_nap = float("inf")
        self.intake.open(loop)
        self.lag.start(loop)
        lives = self.registry.root.lives()
        for life in lives:
            life.state = ActorState.STARTING
        for life in lives:
            self.begin(life)
        self.registry.replay_held_back()

    def begin(self, life: Life) -> None:
        """Start an actor: in its turn, or at once where there is nothing to wait for."""
        if life.hooks is None or (self._starter is None and life.hooks.nothing_to_await):
            life.open()
            return
        self.busy.add(life.sub)
        self._to_start.append(life)
        if self._starter is None and self.loop is not None:
            self._starter = asyncio.Task(
                self._start_in_turn(), loop=self.loop, name=f"actorbus:{self.name}:starter"
            )
            self.keep(self._starter, "")

    async def _start_in_turn(self) -> None:
        try:
            while self._to_start:
                life = self._to_start.popleft()
                await asyncio.wait({life.background(life.begin())}, timeout=HOOK)
        finally:
            self._starter = None
            self.quiet()

    async def started(self) -> None:
        """Wait until every actor has had its turn to start."""
        while self._starter is not None:
            await hear(self.idle_bells)

    def settle_lost_loop(self) -> None:
        """Give up what stands on a loop that was closed without the bus."""
        loop = self.loop
        if loop is None or not loop.is_closed() or not (self.open or self.draining):
            return
        self.open = self.plain = self.draining = False
        self.tasks.clear()
        self._steps.clear()
        self._to_start.clear()
        self._starter = None
        self.idle_bells.clear()
        self.naps.clear()
        self.lag.stop()
        for life in self.registry.every_life():
            life.reset()
        self.registry.end_taps()
        self.intake.close()
        self.intake.flush()
        self.busy.clear()

    # -- one event --------------------------------------------------------------------------------

    def look_at_clock(self, at: float) -> Epoch:
        """Return the present epoch, at a loop time."""
        if at >= self.epoch.until:
            self.epoch = Epoch(at, world.wall(), world.run.name)
        return self.epoch

    def make_event(
        self,
        topic: str,
        data: Any,
        key: Any = None,
        headers: Mapping[str, Any] | None = None,
        id: str | None = None,  # noqa: A002 the publish option
        correlation_id: str | None = None,
        cause: Event | None = None,
    ) -> Event:
        """Make the event of a publish; its cause is what the caller has in hand, unless given."""
        if cause is None:
            if (hand := in_hand.get()) is not None:
                cause = hand.event
        elif not isinstance(cause, Event):
            raise ConfigurationError(f"cause must be an Event, not {type(cause).__name__}")
        if headers is not None and not isinstance(headers, (dict, Mapping)):
            raise ConfigurationError(f"headers must be a mapping, not {type(headers).__name__}")
        if id is not None or correlation_id is not None:
            check_ids(id, correlation_id)
        if self.copies:
            try:
                data = deepcopy(data)
            except Exception as error:
                raise PayloadError(topic, "copy") from error
        return new_event(topic, data, key, headers, id, correlation_id, cause)

    def receipt_for(self, route: Route, event: Event) -> Receipt:
        """Return the receipt of an event that is to take a route, now."""
        receipt = receipt_of(event, route, self.clock())
        if route.threaded:
            receipt.context = copy_context()
        return receipt

    def deliver(self, route: Route, event: Event) -> Receipt:
        """Publish an event that has been made, on the loop."""
        receipt = self.receipt_for(route, event)
        self.dispatch(route, receipt)
        return receipt

    def dispatch(self, route: Route, receipt: Receipt) -> None:
        """Hand a receipt to every inbox of a route; the slow twin of what `publish` does."""
        event = receipt.event
        route.ring.append(event)
        route.tally.events += 1
        if route.public and not route.offers:
            self.unrouted += 1
        if self.max_hops is not None and event._hops > self.max_hops:
            overdue(route, receipt, DeadReason.MAX_HOPS)
            return
        for offer in route.offers:
            offer(receipt)
        if self.draining:
            self.clear_suspended()

    def clear_suspended(self) -> None:
        """Give up the mail of suspended actors: a drain does not wait for their probes."""
        for life in self.registry.every_life():
            if life.state is ActorState.SUSPENDED:
                life.discard(DeadReason.SUSPENDED)

    def from_thread(self, event: Event, to: Subscription | None = None) -> Receipt:
        """Send an event made in another thread on its way to the loop, to all or to one."""
        if self.loop is None or os.getpid() != self._pid:
            raise BusNotRunningError(self.name)
        receipt = receipt_of(event, self._on_its_way, self.loop.time())
        receipt.context = copy_context()
        self.intake.put(receipt, to, caused=event.causation_id is not None)
        self.plain = False
        return receipt

    def catch_up(self) -> bool:
        """Route what other threads have published so far; return whether there was any."""
        if self.plain or not self.running or asyncio._get_running_loop() is not self.loop:
            return False
        self.plain = self.open and not self.copies  # first: what arrives meanwhile takes it back
        return self.intake.flush()

    def _arrive(self, receipt: Receipt, to: Subscription | None) -> None:
        if not self.running:
            self._too_late(receipt, to)
        elif to is None:
            receipt.route = self.routes.route(receipt.event.topic)
            self.dispatch(receipt.route, receipt)
        else:
            self._deliver(receipt, to)
        receipt.admitted()

    def _too_late(self, receipt: Receipt, to: Subscription | None) -> None:
        """Give up an event that was on its way when the bus came to rest or its loop was closed."""
        topic = receipt.event.topic
        route = self.routes.route(topic) if to is None else self.registry.own_route(to)
        receipt.route = route
        route.ring.append(receipt.event)
        route.tally.events += 1
        overdue(route, receipt, DeadReason.STOPPED if self.closed else DeadReason.LOOP_CLOSED)

    def _deliver(self, receipt: Receipt, sub: Subscription) -> None:
        receipt.route = self.registry.own_route(sub)
        if sub.state in (ActorState.STOPPED, ActorState.STOPPING):
            self.registry.tell_ended(sub, receipt)
        else:
            sub.inbox.offer(receipt)

    def tell(self, sub: Subscription, data: Any, key: Any) -> Receipt:
        """Deliver an event to one subscription alone; callable from any thread."""
        event = self.face._event_for(f"$bus:tell:{sub.name}", data, key)
        if asyncio._get_running_loop() is not self.loop:
            return self.from_thread(event, sub)
        return self.hand_over(event, sub)

    def hand_over(self, event: Event, sub: Subscription, *, asking: bool = False) -> Receipt:
        """Deliver an event to one subscription, on the loop."""
        receipt = receipt_of(event, self._on_its_way, sub.loop.time())
        if sub.threaded:
            receipt.context = copy_context()
        if asking:
            receipt.watch = Watch(receipt, asking=True)
        self._deliver(receipt, sub)
        return receipt

    async def _redeliver(self, letter: DeadLetter) -> bool:
        sub = self.registry.live.get(letter.subscription)
        if sub is None or self.loop is None or not self.running:
            return False
        receipt = receipt_of(letter.event, self.registry.own_route(sub), self.loop.time())
        sub.inbox.offer(receipt)
        receipt.refusal = None
        await receipt
        return not receipt.refused

    def announce(self, topic: str, data: object) -> None:
        """Publish an event of the bus's own, if anybody listens to those."""
        if not self.routes.listened_to or not self.running or self.loop is None:
            return
        self.deliver(self.routes.route(topic), new_event(topic, data))

    def bury(self, letter: DeadLetter) -> None:
        """Keep, log and announce a dead letter."""
        self.dead_letters.add(letter)
        now = 0.0 if self.loop is None else self.loop.time()
        self._storm.failure(letter.subscription, letter.reason, letter.error, letter.event, now)
        if self.routes.listened_to and not letter.event.topic.startswith("$"):
            self.announce(f"$bus:dead_letter:{letter.reason}", letter)

    # -- what the parts need ----------------------------------------------------------------------

    def keep(self, task: asyncio.Task[Any], owner: str, *, step: bool = False) -> None:
        """Hold a task strongly until it ends; a step of a life is nobody's handler."""
        self.tasks[task] = owner
        if step:
            self._steps.add(task)
        task.add_done_callback(self._let_go)

    def _let_go(self, task: asyncio.Task[Any]) -> None:
        self.tasks.pop(task, None)
        self._steps.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waits for the task deals with it

    def lend(self, job: Job, owner: str) -> None:
        """Run a job in a thread."""
        self.threads.lend(job, owner)

    def _threads_exhausted(self) -> None:
        self.announce("$bus:threads:exhausted", {"threads": self.threads.limit})

    def book(self) -> None:
        """Bring the books up to what was published."""
        self.routes.book()

    def quiet(self) -> None:
        """Let whoever waits for idleness look again."""
        if self.idle_bells:
            ring(self.idle_bells)

    def end(self, subscription: Subscription) -> int:
        """Route nothing more to a subscription; return 1, or 0 if it had ended before."""
        return self.registry.end(subscription)

    def retire(self, subscription: Subscription) -> bool:
        """Route nothing more to a subscription; return False if it had ended before."""
        return self.registry.retire(subscription)

    def forget(self, subscription: Subscription) -> None:
        """Close the books of a subscription that has ended."""
        self.registry.forget(subscription)

    def collapse(self, error: BaseException) -> None:
        """Close the bus because an actor gave up for all of it."""
        if self.on_collapse is not None:
            self.on_collapse(error)

    def lives(self) -> list[Life]:
        """Return the actors in order of start, those included that only finish their mail."""
        return self.registry.every_life()

    def settled_counts(self) -> tuple[int, int]:
        """Return how many deliveries are acked and dead."""
        totals = self.registry.audit().totals
        return totals.acked, totals.dead

    def refuse_new(self) -> None:
        """Accept only what has a cause."""
        self.intake.restrict()
        self.intake.flush()
        self.open, self.plain, self.draining = False, False, True
        self.longest_nap = 1.0

    def come_to_rest(self) -> None:
        """Accept nothing more."""
        self.intake.close()
        self.draining = False
        self.closed = True
        self.lag.stop()
        self.registry.end_taps()

    def stragglers(self, hand: Hand | None) -> tuple[str, ...]:
        """Return the names of those whose handlers still run though nobody waits for them."""
        handling = [each for each in self.tasks.items() if each[0] not in self._steps]
        names = {owner for task, owner in handling if owner and not task.done()}
        names |= self.threads.owners
        if hand is not None:
            names.discard(hand.actor.name)
        return tuple(sorted(names))
