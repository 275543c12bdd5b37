"""Routing: from a topic to what one publish of it has to call.

A route is compiled once per topic and then found with one dict access, so everything that can be
known from the topic alone is decided here: who gets it, in which order, which history ring it goes
to, which counter, and whether a thread will want the publisher's context.
"""

from __future__ import annotations

from collections.abc import Callable

from actorbus.admission import Inbox
from actorbus.backlog import Backlog
from actorbus.event import Event
from actorbus.history import History
from actorbus.receipt import Exchange, Receipt, Route, Tally
from actorbus.router import Router
from actorbus.subscription import Subscription
from actorbus.tap import Tap
from actorbus.topic import Pattern
from actorbus.words import DeadReason, Overflow

OTHER = "_other"
UNBOOKED = 1000  # routes with events that are not in the books, at most
NAMED_TOPICS = 200  # topics counted by name; names come from outside and must not grow a table

Target = Subscription | Tap


class Group:
    """Members that share events: each goes to one of them.

    Attributes:
        name: The group's name.
    """

    __slots__ = ("_last", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self._last = 0  # order of the member chosen last

    def choose(self, members: tuple[Subscription, ...]) -> Subscription:
        """Return the member with most room, ties in turn; suspended ones only if all are."""
        able = [member for member in members if not member.suspended] or list(members)
        rooms = [_room(member) for member in able]
        most = max(rooms)
        best = [member for member, room in zip(able, rooms, strict=True) if room == most]
        chosen = next((member for member in best if member.order > self._last), best[0])
        self._last = chosen.order
        return chosen


def _room(member: Subscription) -> int:
    member.progress()
    return member.inbox.room - member.inbox.waiting


class Share:
    """The members of a group that match one topic."""

    __slots__ = ("group", "members")

    def __init__(self, group: Group, members: tuple[Subscription, ...]) -> None:
        self.group = group
        self.members = members

    def offer(self, receipt: Receipt) -> None:
        """Deliver to one member."""
        self.pick(receipt).inbox.offer(receipt)

    def pick(self, receipt: Receipt) -> Subscription:
        """Choose a member, and let the receipt know whom."""
        chosen = self.group.choose(self.members)
        if receipt.members is None:
            receipt.members = []
        receipt.members.append(chosen)
        return chosen


class Routes:
    """The routes of one bus.

    Args:
        exchange: The bus.
        history: Events kept per topic.

    Attributes:
        cache: Topic to route, for the hot path; the same dict for ever.
        tallies: Events counted per topic, of the first topics that had a subscriber.
        other: Events counted on all other topics.
    """

    def __init__(self, exchange: Exchange, history: int) -> None:
        self._exchange = exchange
        self._router: Router[Target, Route] = Router(self._compile)
        self.cache = self._router.cache
        self.history = History(history, evicted=self._router.forget)
        self.tallies: dict[str, Tally] = {}
        self.other = Tally()
        self._groups: dict[str, Group] = {}
        self._own_listeners = 0
        self._unbooked: list[Route] = []
        self.backlog = Backlog()

    @property
    def listened_to(self) -> bool:
        """Whether somebody listens to the bus's own topics."""
        return self._own_listeners > 0

    def add(self, target: Target) -> None:
        """Route to a subscription from now on."""
        for pattern in target.patterns:
            self._router.add(pattern, target)
            self._own_listeners += pattern.text.startswith("$")

    def remove(self, target: Target) -> None:
        """Route nothing more to a subscription."""
        for pattern in target.patterns:
            self._router.remove(pattern, target)
            self._own_listeners -= pattern.text.startswith("$")

    def route(self, topic: str) -> Route:
        """Return the route of a checked topic."""
        return self._router.route(topic)

    def offer(self, route: Route, receipt: Receipt) -> None:
        """Put a plain event into every mailbox of its route; a second one begins a burst."""
        backlog = self.backlog
        if backlog.route is route:  # it has taken all it can
            receipt.pause = True
        backlog.flush()
        if not route.events:
            self._unbooked.append(route)
        route.events += 1
        full: list[Inbox] | None = None
        for items, append, inbox in route.doors:
            if len(items) < inbox.gate:
                append(receipt)
            else:  # or asleep
                full = full or []
                full.append(inbox)
        if full is not None:
            for inbox in full:
                inbox.ledger.routed -= 1  # counted with the rest; each counts it again itself
            for inbox in full:
                inbox.offer(receipt)
        elif backlog.last is route:
            backlog.begin(route)
        backlog.last = route
        if len(self._unbooked) > UNBOOKED:
            self.book()

    def book(self) -> None:
        """Book the events of the plain case: once for each topic and subscription, not for each."""
        self.backlog.flush()
        for route in self._unbooked:
            events, route.events = route.events, 0
            route.tally.events += events
            for _, _, inbox in route.doors:
                inbox.ledger.routed += events
        self._unbooked.clear()

    def targets(self, topic: str) -> list[Target]:
        """Return who matches a topic, in order of subscription, excludes taken off."""
        return _wanting(topic, self._router.match(topic))

    def candidates(self, pattern: Pattern) -> list[Target]:
        """Return who may have subscribed to a pattern: it matches its own text, as a topic."""
        return sorted(self._router.match(pattern.text), key=_order)

    def group(self, name: str) -> Group:
        """Return a group, made on demand."""
        return self._groups.setdefault(name, Group(name))

    def tally(self, topic: str, *, wanted: bool) -> Tally:
        """Return the counter of a topic."""
        tally = self.tallies.get(topic)
        if tally is not None:
            return tally
        if not wanted or len(self.tallies) >= NAMED_TOPICS:
            return self.other
        return self.tallies.setdefault(topic, Tally())

    def published(self) -> dict[str, int]:
        """Return the events published per topic, and on all other topics."""
        self.book()
        counts = {topic: tally.events for topic, tally in self.tallies.items()}
        return {**counts, OTHER: self.other.events}

    def recent(self, patterns: tuple[Pattern, ...], limit: int) -> list[Event]:
        """Return the last events that match one of several patterns, oldest first."""
        found = {
            event._number: event
            for pattern in patterns
            for event in self.history.last(pattern, limit)
        }
        return [found[number] for number in sorted(found)][-limit:] if limit else []

    def whole_from(self, patterns: tuple[Pattern, ...]) -> float:
        """Return the number of an event from which on the history lacks nothing that matches."""
        return max(map(self.history.whole_from, patterns), default=float("-inf"))

    def _compile(self, topic: str, matched: tuple[Target, ...]) -> Route:
        topic = str.__str__(topic)  # it may be an enumeration's word, and serves all publishers
        targets = _wanting(topic, matched)
        offers: list[Callable[[Receipt], None]] = []
        singles: list[Target] = []
        shares: dict[str, list[Subscription]] = {}
        for target in targets:
            offer = target.offer if isinstance(target, Tap) else target.inbox.open()
            if isinstance(target, Subscription) and target.options.group is not None:
                shares.setdefault(target.options.group, []).append(target)
                continue
            singles.append(target)
            offers.append(offer)
        shared = [Share(self.group(name), tuple(members)) for name, members in shares.items()]
        offers += [share.offer for share in shared]
        route = Route(self._exchange, topic, offers, singles)
        route.shares = tuple(shared)
        subs = [each for each in targets if isinstance(each, Subscription)]
        route.threaded = any(each.threaded for each in subs)
        if not topic.startswith("$"):
            route.public = True
            route.ring = self.history.ring(topic)
            route.tally = self.tally(topic, wanted=bool(offers))
            if not route.threaded and all(_is_plain(target) for target in targets):
                route.doors = tuple(each.inbox.door for each in subs)
        return route


def overdue(route: Route, receipt: Receipt, reason: DeadReason) -> None:
    """Refuse an event to every subscription it matches; taps still see it."""
    chosen: list[Target] = [share.pick(receipt) for share in route.shares]
    for target in (*route.addressees, *chosen):
        if isinstance(target, Subscription):
            target.ledger.routed += 1
            target.inbox.refuse(receipt, reason)
        elif isinstance(target, Tap):
            target.offer(receipt)


def _is_plain(target: Target) -> bool:
    """Return whether a delivery only has to be put where there is room."""
    return (
        isinstance(target, Subscription)
        and target.options.group is None
        and target.options.overflow is not Overflow.LATEST
    )


def _wanting(topic: str, matched: tuple[Target, ...]) -> list[Target]:
    """Return who of those that match takes a topic, in order of subscription."""
    wanting = (each for each in matched if isinstance(each, Tap) or each.wants(topic))
    return sorted(wanting, key=_order)


def _order(target: Target) -> int:
    return target.order
