"""Arrivals: sees where every event of a bus goes, and compares it with where it must go.

Who must get an event is worked out from the patterns alone, before the bus routes it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

from actorbus.bus import EventBus
from actorbus.dead_letter import DeadLetter, DeadLetters
from actorbus.event import Event
from actorbus.subscription import Subscription
from actorbus.testing.books import Account, Book
from actorbus.testing.kin import ENDED, Kin
from actorbus.words import ActorState, DeadReason


class Flaw(NamedTuple):
    """Something that contradicts an invariant: its number, and what was seen."""

    number: int
    text: str


class Publish:
    """One publish while it is routed."""

    def __init__(self, singles: list[Book], groups: dict[str, dict[Book, int]]) -> None:
        self.singles = singles
        self.groups = groups  # per name: the members that match, and the room each has
        self.number: int | None = None


class Arrivals:
    """What is seen of a bus before any handler is.

    Args:
        bus: The bus, not yet running.
        now: Returns the loop's time.

    Attributes:
        books: One for every subscription there ever was.
        newest: The last one of each name.
        flaws: What contradicts an invariant.
        published: The events by number, and their topics.
        deaths: Per number, who gave the event up and why.
        buried: Dead letters so far.
        closed: Whether the bus has been closed; for whoever closes it to say.
        kin: The supervision tree.
    """

    def __init__(self, bus: EventBus, now: Callable[[], float]) -> None:
        self.bus = bus
        self.now = now
        self.books: dict[Subscription, Book] = {}
        self.newest: dict[str, Book] = {}
        self.flaws: list[Flaw] = []
        self.published: dict[int, Any] = {}
        self.kin = Kin()
        self.deaths: dict[int, list[tuple[Book, DeadReason]]] = {}
        self.buried = 0
        self.closed = False
        self._underway: Publish | None = None
        self._places = 0
        engine = bus._engine
        engine.dead_letters = Letters(engine.dead_letters.limit, self._redeliver)
        self.stand_in(
            (bus, "publish", self._publish),
            (engine, "dispatch", self._dispatch),
            (engine, "_deliver", self._deliver),
            (engine.intake, "_dispatch", self._arrive),
        )

    def flaw(self, number: int, text: str) -> None:
        """Take note of a contradiction."""
        self.flaws.append(Flaw(number, f"{text} at {self.now():.5f}"))

    def stand_in(self, *doorways: tuple[Any, str, Callable[..., Any]]) -> None:
        """Be called in place of what is called now, which comes as the first argument."""
        for owner, name, seen in doorways:
            setattr(owner, name, partial(seen, getattr(owner, name)))

    # -- routing ----------------------------------------------------------------------------------

    def _publish(self, real: Any, topic: str, data: Any = None, **options: Any) -> Any:
        if asyncio._get_running_loop() is None:
            return real(topic, data, **options)  # from a thread: it is routed when it arrives
        self.bus._engine.catch_up()  # as it would itself: what threads have published comes first
        with self._routing(topic) as publish:
            receipt = real(topic, data, **options)
            if publish.number is None:  # not dispatched: the plain case
                self._routed(publish, receipt)
        return receipt

    def _dispatch(self, real: Any, route: Any, receipt: Any, entry: Any = None) -> None:
        publish = self._underway
        if publish is not None and publish.number is None and route.public:
            publish.number = receipt._number
            real(route, receipt, entry)
            self._routed(publish, receipt)
            return
        with self._routing(route.topic) as publish:
            publish.number = receipt._number
            real(route, receipt, entry)
            self._routed(publish, receipt)

    def _arrive(self, real: Any, receipt: Any, to: Subscription | None) -> None:
        if to is not None or self.bus._engine.running:
            real(receipt, to)
            return
        with self._routing(receipt.event.topic) as publish:
            real(receipt, to)
            self._routed(publish, receipt)

    @contextmanager
    def _routing(self, topic: Any) -> Iterator[Publish]:
        before, publish = self._underway, self._expect(topic)
        self._underway = publish
        try:
            yield publish
        except BaseException:
            for book in publish.singles:
                book.refused()
            raise
        finally:
            self._underway = before

    def _expect(self, topic: Any) -> Publish:
        """Open an account wherever an event of a topic has to go."""
        singles: list[Book] = []
        groups: dict[str, dict[Book, int]] = {}
        for book in self.newest.values() if isinstance(topic, str) else ():
            if not book.matches(topic):
                continue
            group = book.options.group
            if group is None:
                self._places += 1
                book.route(None, self._places)
                singles.append(book)
            else:
                groups.setdefault(group, {})[book] = 0
        for members in groups.values():
            for book in members:
                terms = book.sub.terms()
                members[book] = book.options.mailbox - terms.queued - terms.waiting
        return Publish(singles, groups)

    def _routed(self, publish: Publish, receipt: Any) -> None:
        """Compare where an event went with where it had to go."""
        number = publish.number = receipt._number
        self.published[number] = receipt
        for book in publish.singles:
            book.arrived(number)
            self.keyed(book, book.accounts[number], receipt)
        chosen = {each: self.books[each] for each in receipt.members or () if each in self.books}
        for book in chosen.values():
            members = publish.groups.pop(book.options.group or "", None)
            self._chosen(book, members, number)
            self.keyed(book, book.accounts[number], receipt)
        for name in publish.groups:
            self.flaw(9, f"event {number} went to no member of group {name!r}")
        taps = sum(
            any(pattern.matches(receipt.route.topic) for pattern in tap.patterns)
            for tap in self.bus._engine.registry.taps
        )
        expected = len(publish.singles) + len(chosen) + taps
        if receipt.deliveries != expected and receipt.route.routed:
            names = ", ".join(book.name for book in (*publish.singles, *chosen.values()))
            self.flaw(
                9,
                f"an event of {receipt.route.topic!r} was matched {receipt.deliveries} times, "
                f"not {expected} ({names or 'nobody'} and {taps} streams)",
            )

    def _chosen(self, book: Book, members: dict[Book, int] | None, number: int) -> None:
        if members is None or book not in members:
            self.flaw(9, f"event {number} went to {book.name!r} of a group that it does not match")
        else:
            able = [m for m in members if m.state is not ActorState.SUSPENDED] or list(members)
            if book not in able or members[book] < max(members[m] for m in able):
                rooms = {each.name: room for each, room in members.items()}
                self.flaw(9, f"group {book.options.group!r} chose {book.name!r}; the room: {rooms}")
        if number not in book.accounts:
            self.route(book, number)

    def keyed(self, book: Book, account: Account, receipt: Any) -> None:
        """Take note of what makes an event wait for others, or replace one."""
        if book.options.key is not None:
            account.key = book.options.key(receipt.event)
        if book.latest and (account.fresh or account.cleared):  # in this publish, by what it did
            key = account.key
            if key is None:
                key = receipt.event.topic if receipt.event.key is None else receipt.event.key
            book.conflate(key, account)

    def route(self, book: Book, number: int) -> Account:
        """Open the account of an event at a subscription, or add a delivery to it."""
        self._places += 1
        return book.route(number, self._places)

    def _deliver(self, real: Any, receipt: Any, sub: Subscription) -> None:
        book = self.books[sub]
        account = self.route(book, receipt._number)
        self.published[receipt._number] = receipt
        self.keyed(book, account, receipt)
        real(receipt, sub)

    async def _redeliver(self, letter: DeadLetter) -> bool:
        book = self.newest.get(letter.subscription)
        stopped = book is not None and book.state in ENDED
        if book is not None and book.live and self.bus._engine.running and not stopped:
            account = self.route(book, letter.event._number)
            if book.latest:
                self.keyed(book, account, _Again(letter.event))
        return await self.bus._engine._redeliver(letter)

    def account(self, book: Book, number: int) -> Account | None:
        """Return the account of an event, opened in this very moment if it is being routed."""
        account = book.accounts.get(number)
        publish = self._underway
        if account is None and publish is not None:
            if book.incoming is not None:
                return book.arrived(number)
            if any(book in members for members in publish.groups.values()):
                return self.route(book, number)
        return account


class Letters(DeadLetters):
    """A store that counts what leaves it other than by eviction.

    Attributes:
        left: How many.
    """

    __slots__ = ("left",)

    def __init__(self, limit: int, redeliver: Callable[[DeadLetter], Awaitable[bool]]) -> None:
        super().__init__(limit, redeliver)
        self.left = 0

    def remove(self, letter: DeadLetter) -> None:
        """Take a letter out; one that has left already is no error."""
        self.left += self.get(letter.id) is not None
        super().remove(letter)


class _Again:
    """An event on its way once more."""

    def __init__(self, event: Event) -> None:
        self.event = event
