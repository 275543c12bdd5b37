"""Traffic: how events get from a publish to the inboxes, and letters to the store.

An event is made, gets a receipt, and takes the route of its topic; one from another thread waits in
the intake until the loop takes it; one for an actor alone takes that actor's own.
"""

from __future__ import annotations

import asyncio
import os
import time
import weakref
from collections.abc import Iterable, Mapping
from contextvars import copy_context
from copy import deepcopy
from functools import partial
from typing import Any, cast

from actorbus.archive import Redelivery, bury, why_not
from actorbus.backlog import Backlog
from actorbus.dead_letter import DeadLetter, DeadLetters
from actorbus.encoding import encoded
from actorbus.errors import BusNotRunningError, ConfigurationError, PayloadError
from actorbus.event import Event, new_event
from actorbus.hand import in_hand
from actorbus.home import NO_EPOCH, NOWHERE, Epoch, epoch_at
from actorbus.intake import UNROUTED, Intake, To
from actorbus.journal.base import Entry
from actorbus.options import check_ids
from actorbus.receipt import Receipt, Route, receipt_of
from actorbus.recorder import Recorder
from actorbus.registry import Registry
from actorbus.replays import Replays
from actorbus.routing import Routes, overdue
from actorbus.storm import StormLog
from actorbus.subscription import Subscription
from actorbus.waiting import guard
from actorbus.watch import Watch
from actorbus.words import ActorState, DeadReason

UNBURIED = "its dead letter stays in memory only"  # in the log

_EVERY: weakref.WeakSet[Traffic] = weakref.WeakSet()


def _forked() -> None:
    """Let every publish of a forked child ask where it is: its loop only seems to run."""
    for traffic in _EVERY:
        traffic.look_twice()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


class Traffic:
    """The ways of a bus's events.

    Attributes:
        name: Of the bus.
        loop: The loop it runs on, or ran on last; None before the first start.
        open: Whether every publish is accepted.
        ready: Whether besides nothing is on its way from another thread.
        plain: Whether besides payloads are neither copied nor kept in a journal, so that a publish
            on the loop needs no further question.
        home: The loop as far as telling in which thread it runs now.
        clock: Returns the loop's time.
        epoch: What turns that into Unix time.
        draining: Whether only events with a cause are accepted.
        closed: Whether the bus was closed and not started again.
        registry: Subscriptions, streams and supervisors.
        routes: Topics to subscriptions.
        backlog: Events that stand in no mailbox yet.
        dead_letters: The store.
        recorder: The way into the journal, if there is one.
        replays: What is to be replayed of that.
        intake: Events from other threads.
        unrouted: Events that matched nobody.
        blocked_seconds: Seconds publishers spent awaiting room.
    """

    registry: Registry
    routes: Routes
    backlog: Backlog

    def __init__(
        self, name: str, face: Any, dead_letters: int, max_hops: int | None, *, copies: bool
    ) -> None:
        self.name = name
        self.face = face
        self.loop: asyncio.AbstractEventLoop | None = None
        self.home = NOWHERE
        self.clock = time.monotonic
        self.epoch = NO_EPOCH
        self.open = self.ready = self.plain = self.draining = self.closed = False
        self.copies = copies
        self.max_hops = max_hops
        self.recorder: Recorder | None = None
        self.replays: Replays | None = None
        self.unrouted = 0
        self.blocked_seconds = 0.0
        self.guard = guard
        self.dead_letters = DeadLetters(dead_letters, self._redeliver)
        self.intake = Intake(name, self._arrive, self._room)
        self._on_its_way = Route(self, "")
        self._on_its_way.routed = False
        self._storm = StormLog()
        self._pid = os.getpid()
        _EVERY.add(self)

    @property
    def running(self) -> bool:
        """Whether actors may work."""
        return (self.open or self.draining) and self.loop is not None and not self.loop.is_closed()

    @property
    def forked(self) -> bool:
        """Whether this is a forked child: its loop only seems to run."""
        return os.getpid() != self._pid

    # -- one event --------------------------------------------------------------------------------

    def look_at_clock(self, at: float) -> Epoch:
        """Return the present epoch, at a loop time."""
        if at >= self.epoch.until:
            self.epoch = epoch_at(at, self.clock)
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

    def recorded(self, event: Event, *, once: bool = False) -> tuple[Event, Entry | None]:
        """Return an event as handlers get it, and what a journal is to keep, if there is one.

        Args:
            event: As it was published.
            once: Whether an event of its id that was published before makes it a duplicate.

        Raises:
            PayloadError: It cannot be written.
        """
        return (event, None) if self.recorder is None else encoded(event, once=once)

    def receipt_for(self, route: Route, event: Event) -> Receipt:
        """Return the receipt of an event that is to take a route, now."""
        receipt = receipt_of(event, route, self.clock())
        if route.threaded:
            receipt.context = copy_context()
        return receipt

    def deliver(self, route: Route, event: Event, entry: Entry | None = None) -> Receipt:
        """Publish an event that has been made, on the loop."""
        receipt = self.receipt_for(route, event)
        self.dispatch(route, receipt, entry)
        return receipt

    def dispatch(self, route: Route, receipt: Receipt, entry: Entry | None = None) -> None:
        """Hand a receipt to every inbox of a route; the slow twin of what `publish` does.

        Args:
            route: Of the event's topic.
            receipt: Of the event.
            entry: What a journal is to keep first.

        Raises:
            JournalFullError: Too many events wait for a commit.
        """
        event = receipt.event
        late = self.max_hops is not None and event._hops > self.max_hops
        if entry is not None and not late:
            assert self.recorder is not None  # noqa: S101 without one there is no entry
            self.recorder.take(route, receipt, entry)
        route.ring.append(event)
        route.tally.events += 1
        if route.public and not route.offers:
            self.unrouted += 1
        if late:
            overdue(route, receipt, DeadReason.MAX_HOPS)
        elif entry is None:
            for offer in route.offers:
                offer(receipt)
        if self.draining:
            self.clear_suspended(receipt.addressees())

    def clear_suspended(self, among: Iterable[Any]) -> None:
        """Give up the mail of suspended actors: a drain does not wait for their probes."""
        for each in among:
            if isinstance(each, Subscription) and each.suspended:
                each.life.discard(DeadReason.SUSPENDED)

    def from_thread(self, event: Event, to: To = None) -> Receipt:
        """Send an event made in another thread on its way to the loop.

        Args:
            event: The event.
            to: The one it is for; None, or the journal's entry, if it is for all who match.
        """
        if self.loop is None or self.forked:
            raise BusNotRunningError(self.name, forked=self.forked)
        receipt = receipt_of(event, self._on_its_way, self.loop.time())
        receipt.context = copy_context()
        self.intake.put(receipt, to, caused=event.causation_id is not None)
        self.look_twice()
        return receipt

    def look_twice(self) -> None:
        """Let every publish ask how things stand; callable from any thread."""
        self.ready = self.plain = False

    def catch_up(self) -> bool:
        """Route what other threads have published so far; return whether there was any."""
        if self.ready or not self.running or asyncio._get_running_loop() is not self.loop:
            return False
        self.be_ready()  # first: what arrives meanwhile takes it back
        routed = self.intake.flush()
        if self.intake.waiting:  # for the journal: what is published now must not overtake it
            self.look_twice()
        return routed

    def be_ready(self) -> None:
        """Let a publish ask nothing more, if the bus is open."""
        self.ready = self.open
        self.plain = self.open and not self.copies and self.recorder is None

    def _room(self) -> int:
        return UNROUTED if self.recorder is None else self.recorder.scribe.room

    def _arrive(self, receipt: Receipt, to: To) -> None:
        if not self.running:
            self._too_late(receipt, to)
        elif isinstance(to, Subscription):
            self._deliver(receipt, to)
        else:
            receipt.route = self.routes.route(receipt.event.topic)
            self.dispatch(receipt.route, receipt, to)
        receipt.admitted()

    def _too_late(self, receipt: Receipt, to: To) -> None:
        """Give up an event that was on its way when the bus came to rest or its loop was closed."""
        if isinstance(to, Subscription):
            route = self.registry.own_route(to)
        else:
            route = self.routes.route(receipt.event.topic)
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

    def is_live(self, name: str) -> bool:
        """Return whether there is a live subscription of that name, and no drain has stopped it."""
        sub = self.registry.live.get(name)
        return sub is not None and sub.state not in (ActorState.STOPPING, ActorState.STOPPED)

    async def replay(self, letter: DeadLetter) -> bool:
        """Redeliver a letter, whether the store holds it or not; return whether it was admitted."""
        if self.dead_letters.get(letter.id) is not None:
            return bool(await self.dead_letters.replay(letter.id))
        return await self._redeliver(letter)

    async def _redeliver(self, letter: DeadLetter) -> bool:
        if self.loop is None or not self.running or not self.is_live(letter.subscription):
            return False
        if why_not(letter) is not None:
            return False
        sub = self.registry.live[letter.subscription]
        receipt = receipt_of(letter.event, self.registry.own_route(sub), self.loop.time())
        receipt.watch = cast("Watch", Redelivery(letter, self._redelivered))
        if self.replays is not None:
            self.replays.began(letter)
        sub.inbox.offer(receipt)
        receipt.refusal = None
        try:
            await receipt
        except asyncio.CancelledError:
            if receipt.places:  # nobody waits any more for room in a mailbox that is full
                sub.withdraw(receipt, DeadReason.OVERFLOW)
            if not receipt.refused:  # it was admitted in this very moment
                self.dead_letters.remove(letter)
            raise
        if receipt.refused and self.replays is not None:
            self.replays.refused(letter)
        return not receipt.refused

    def _redelivered(self, letter: DeadLetter, *, handled: bool) -> None:
        if self.replays is not None:
            self.replays.settled(letter, handled=handled)

    def announce(self, topic: str, data: object) -> None:
        """Publish an event of the bus's own, if anybody listens to those."""
        if not self.routes.listened_to or not self.running or self.loop is None:
            return
        self.deliver(self.routes.route(topic), new_event(topic, data))

    def bury(self, letter: DeadLetter, receipt: Receipt) -> None:
        """Keep, log and announce a dead letter.

        Of what was replayed one letter is kept: the old one where its new delivery was not
        admitted, or the journal cannot be told any more; else the new one, in the old one's place.

        Args:
            letter: The letter.
            receipt: Whose delivery has died.
        """
        watch: object = receipt.watch
        if not isinstance(watch, Redelivery):
            self._keep(letter, receipt.logged)
        elif not (receipt.refused and self._keeps(watch.letter)):
            self.dead_letters.remove(watch.letter)
            lost = self.recorder is not None and not self.running
            self._keep(watch.letter if lost else letter, receipt.logged, watch.letter)
        self._log(letter, letter.reason, letter.error)
        if self.routes.listened_to and not letter.event.topic.startswith("$"):
            self.announce(f"$bus:dead_letter:{letter.reason}", letter)

    def _keeps(self, letter: DeadLetter) -> bool:
        """Return whether a letter is in the journal, or in the store and not let go meanwhile."""
        return self.recorder is not None or self.dead_letters.get(letter.id) is not None

    def _keep(self, letter: DeadLetter, logged: int, instead: DeadLetter | None = None) -> None:
        self.dead_letters.add(letter)
        if self.recorder is not None and self.running:
            stays = partial(self._log, letter, UNBURIED)
            bury(self.recorder.scribe, letter, logged, instead, stays)

    def _log(self, letter: DeadLetter, reason: str, error: BaseException | None) -> None:
        now = 0.0 if self.loop is None else self.loop.time()
        self._storm.failure(letter.subscription, reason, error, letter.event, now)
