"""Catch-up: a new subscription begins with the last events of the history.

Without a journal that is one step, taken at the call. With one, memory may not hold enough, and the
rest is read meanwhile: what is published from the call on is *held*, in order, counted as waiting,
until what was published before it has been offered.

Invariants:
    - What the journal holds when the call's own question reaches it was published before the call,
      and nothing else: the journal answers in the order in which it was asked. So there is no gap
      and no duplicate, and an event whose commit fails is replayed to nobody.
    - It is read from the newest backwards: a reading that is cut short lacks only the oldest.
    - Who awaits what is held waits, but not for longer than `put_timeout`, and no more than a
      mailbox is held: then the reading is cut short.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Protocol

import msgspec

from actorbus.errors import ConfigurationError, JournalError
from actorbus.event import NUMBERS, Event
from actorbus.journal.base import Status, Wants
from actorbus.lookback import LookBack, Piece, Wanted, matching
from actorbus.mailbox import Place
from actorbus.receipt import Exchange, Receipt, Route, receipt_of
from actorbus.recorder import Recorder
from actorbus.routing import Routes
from actorbus.subscription import Subscription
from actorbus.tap import EventStream, Found
from actorbus.topic import Pattern
from actorbus.words import ActorState

EVERYTHING = 1_000_000_000

log = logging.getLogger("actorbus")

Done = Callable[[list[Event]], None]


class Owner(Exchange, Protocol):
    """What catching up needs of the engine."""

    recorder: Recorder | None

    @property
    def running(self) -> bool:
        """Whether actors may work."""


class Replay(msgspec.Struct):
    """What is to be replayed.

    Attributes:
        name: To whom, for the log.
        patterns: Of the topics.
        wants: Says whether a topic is wanted; called in the thread of the journal, too.
        count: Events at most, the last ones.
        since: Those from this Unix time on.
        after: Those behind this number of the journal.
        before: Those published before the event with this number.
        enough: Whether it is to be cut short.
    """

    name: str
    patterns: tuple[Pattern, ...]
    wants: Wants
    count: int
    since: float
    after: int
    before: int
    enough: Callable[[], bool]


class Held:
    """What comes while the replay of a subscription is read.

    It has a place of its own in each receipt: so whoever awaits one waits, and who looks for a
    deadlock sees that this wait ends by itself.

    Attributes:
        name: Of the subscription.
    """

    answers = False

    def __init__(self, sub: Subscription) -> None:
        self.name = sub.name
        self._sub = sub
        self._places: list[Place[Receipt]] = []

    def keep(self, receipt: Receipt) -> None:
        """Keep a delivery until the replay is there."""
        place = Place(receipt, _nothing)
        self._places.append(place)
        receipt.stand(self, place)

    def let_go(self) -> None:
        """Admit all there is, in order."""
        for place in self._places:
            self._sub.admit(place.item)
            place.item.moved(place)

    def is_enough(self) -> bool:
        """Return whether nothing more may be held, or not for longer."""
        options, places = self._sub.options, self._places
        if not places or options.put_timeout is None:
            return len(places) >= options.mailbox
        waited = self._sub.loop.time() - places[0].item.at
        return len(places) >= options.mailbox or waited >= options.put_timeout

    def holds(self, receipt: Receipt) -> bool:
        """Return whether a delivery is kept."""
        return any(place.item is receipt for place in self._places)

    def reawaited(self, place: Place[Receipt], *, awaited: bool) -> None:
        """Do nothing: whether somebody awaits it makes no difference here."""


def _nothing(_: object) -> None:
    """Do nothing: nobody moves in from such a place."""


class CatchUps:
    """The catch-ups of one bus.

    Args:
        owner: The bus.
        routes: Its routes, and its history.
        route_to: Returns a route that leads to one subscription alone.
    """

    def __init__(
        self, owner: Owner, routes: Routes, route_to: Callable[[Subscription], Route]
    ) -> None:
        self._owner = owner
        self._routes = routes
        self._route_to = route_to
        self._due: dict[Subscription, int] = {}  # and the number of the event they begin before

    def enter(self, sub: Subscription) -> None:
        """Replay to a new subscription, at once or when the bus starts."""
        if sub.options.replay:
            self._due[sub] = next(NUMBERS)
            if self._owner.running:
                self._begin(sub)

    def begin(self) -> None:
        """Replay to those who subscribed before the bus ran, and does now."""
        if self._owner.recorder is not None:  # which somebody else may have had meanwhile
            self._routes.history.doubt(next(NUMBERS))
        for sub in [*self._due]:
            self._begin(sub)

    def leave(self, sub: Subscription) -> None:
        """Replay nothing to a subscription that ends."""
        self._due.pop(sub, None)

    def _begin(self, sub: Subscription) -> None:
        options, held = sub.options, Held(sub)
        if self._owner.recorder is not None:
            sub.held = held
        matches = matching(sub.patterns)
        replay = Replay(
            sub.name, sub.patterns, lambda topic: matches(topic) and sub.wants(topic),
            options.replay, options.since, options.after,
            self._due[sub], lambda: sub not in self._due or held.is_enough(),
        )  # fmt: skip
        self.find(replay, partial(self._found, sub, held))

    def _found(self, sub: Subscription, held: Held, events: list[Event]) -> None:
        sub.held = None
        if self._due.pop(sub, None) and sub.state not in (ActorState.STOPPING, ActorState.STOPPED):
            route = self._route_to(sub)
            if held.is_enough() and len(events) < sub.options.replay:
                log.warning("replay to %r was cut short, of %d events", sub.name, len(events))
            for event in events:
                sub.inbox.offer(receipt_of(event, route, sub.loop.time()))
        held.let_go()

    def to_stream(
        self, stream: EventStream, count: int, since: float, after: int, found: Found
    ) -> None:
        """Find the last events of the history for a stream to begin with."""
        route = Route(self._owner, "", (stream.offer,), (stream,))
        replay = Replay(
            stream.name, stream.patterns, matching(stream.patterns), count, since, after,
            next(NUMBERS), lambda: stream.crowded,
        )  # fmt: skip
        self.find(replay, lambda events: found([receipt_of(event, route, 0.0) for event in events]))

    # -- finding ----------------------------------------------------------------------------------

    def check(self, after: int) -> None:
        """Refuse a number of the journal where there is none."""
        if after and self._owner.recorder is None:
            raise ConfigurationError("after is a number of the journal, and this bus has none")

    def find(self, replay: Replay, done: Done) -> None:
        """Find what is to be replayed; `done` is told of it, at once if there is no journal."""
        recorder = self._owner.recorder
        if recorder is None:
            done(self._remembered(replay)[-replay.count :])
            return
        scribe = recorder.scribe
        scribe.call(scribe.journal.status, partial(self._look_back, recorder, replay, done))

    def _look_back(
        self,
        recorder: Recorder,
        replay: Replay,
        done: Done,
        status: Status | None,
        error: JournalError | None,
    ) -> None:
        """Look into memory, and into the journal if that is not enough."""
        remembered = self._remembered(replay)

        def told(piece: Piece | None, error: JournalError | None) -> None:
            if piece is None:
                log.error("replay to %r is of what memory holds: %s", replay.name, error)
            found = remembered if piece is None else [event for _, event in piece.events]
            done(found[-replay.count :])

        whole = self._routes.whole_from(replay.patterns)
        sure = sum(each._number >= whole for each in remembered)
        if status is None:
            told(None, error)
        elif not replay.after and (sure >= replay.count or whole == float("-inf")):
            done(remembered[-replay.count :])
        else:
            wanted = Wanted(replay.wants, replay.since, after=replay.after)
            LookBack(recorder.turns, wanted, replay.count, replay.enough, told).begin(status)

    def _remembered(self, replay: Replay) -> list[Event]:
        return [
            each
            for each in self._routes.recent(replay.patterns, EVERYTHING)
            if each._number < replay.before
            and each.time >= replay.since
            and replay.wants(each.topic)
        ]
