"""Registry: who there is. Subscriptions, actors, streams, supervisors; their names and their books.

A subscription is *live* from the call that makes it until it is unsubscribed or stopped; then it is
*ending* while it still has mail; then it is forgotten and its counts go to a sum, so that no total
ever falls.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any, Protocol, cast

from actorbus.actor import Actor, ActorRef
from actorbus.catchup import CatchUps
from actorbus.errors import ConfigurationError
from actorbus.handler import Signature, describe, inspect_handler, same_handler
from actorbus.ledger import Audit, Ledger, Terms
from actorbus.life import Life
from actorbus.options import Options, SubscribeOptions, check_options
from actorbus.readings import copied, settled
from actorbus.receipt import Exchange, Receipt, Route
from actorbus.recorder import Recorder
from actorbus.routing import Routes
from actorbus.rows import ENDED, OTHERS, STREAMS, Rows
from actorbus.subscription import Bus, Subscription
from actorbus.supervisor import Supervisor
from actorbus.tap import Tap, parse_patterns
from actorbus.topic import Pattern
from actorbus.transaction import check_tables
from actorbus.words import DeadReason
from actorbus.workplace import Host

LABELS = 1000  # subscriptions exported under their own name

_OPTIONS = frozenset(SubscribeOptions.__annotations__)


class Owner(Host, Bus, Exchange, Protocol):
    """What a registry needs of the engine."""

    recorder: Recorder | None

    def catch_up(self) -> bool:
        """Route what other threads have published so far."""

    def begin(self, life: Life) -> None:
        """Start an actor."""


class Registry:
    """The subscriptions, streams and supervisors of one bus.

    Attributes:
        live: The live subscriptions by name.
        taps: The open streams and waits.
        root: The supervisor at the top.
        routes: Topics to subscriptions.
        catchups: Who is to begin with what history, and how it is found.
    """

    def __init__(self, owner: Owner, history: int) -> None:
        self.live: dict[str, Subscription] = {}
        self.taps: dict[Tap, None] = {}
        self.root = Supervisor(self, "root", None)
        self.routes = Routes(owner, history)
        self._owner = owner
        self._ending: dict[Subscription, None] = {}
        self._supervisors: dict[str, Supervisor] = {"root": self.root}
        self._numbers = itertools.count(1)
        self._taken: dict[str, int] = {}  # default names: the numbers up to this one are taken
        self._labels: dict[Subscription, str] = {}
        self._sums = {ENDED: Ledger(), STREAMS: Ledger(), OTHERS: Ledger()}
        self.catchups = CatchUps(owner, self.routes, self.own_route)

    # -- making -----------------------------------------------------------------------------------

    def check(self, patterns: Any, options: SubscribeOptions) -> tuple[str, ...]:
        """Refuse what makes no sense whatever the handler will be; return the patterns."""
        signature = Signature(is_async=not options.get("inline"), wants_event=False, convert=None)
        self._checked(options, signature)
        return tuple(pattern.text for pattern in _one_or_more(patterns))

    def add_subscription(
        self, patterns: Any, handler: Any, parent: Supervisor, options: SubscribeOptions
    ) -> Subscription:
        """Register a handler; live when the call returns."""
        parsed = _one_or_more(patterns)
        if isinstance(handler, type) and issubclass(handler, Actor):
            raise ConfigurationError(f"{handler.__qualname__} is an Actor: use spawn()")
        signature = inspect_handler(handler, _arguments(options))
        checked = self._checked(options, signature)
        name = self._name(options.get("name"), handler)
        sub = Subscription(
            self._owner, name, parsed, handler, checked, signature, next(self._numbers)
        )
        self._enter(sub, Life(sub, self._owner, parent), parent)
        return sub

    def add_actor(
        self,
        factory: Callable[[], Actor],
        patterns: Any,
        parent: Supervisor,
        options: SubscribeOptions,
    ) -> ActorRef:
        """Register an actor; live when the call returns."""
        if not callable(factory):
            raise ConfigurationError(
                "spawn takes a factory: a class or a callable without argument"
            )
        first = factory()
        if not isinstance(first, Actor):
            raise ConfigurationError(
                f"the factory must return an Actor, not {type(first).__name__}"
            )
        parsed = parse_patterns(first.patterns if patterns is None else patterns)
        given = {**_class_options(first), **options}
        signature = inspect_handler(first.receive, _arguments(given))
        if not signature.is_async:
            raise ConfigurationError(f"{type(first).__qualname__}.receive must be `async def`")
        if getattr(first.receive, "__func__", None) is Actor.receive:
            raise ConfigurationError(f"{type(first).__qualname__} has no receive()")
        checked = self._checked(given, signature)
        name = self._name(given.get("name"), type(first))
        sub = Subscription(
            self._owner, name, parsed, type(first).receive, checked, signature, next(self._numbers)
        )
        life = Life(sub, self._owner, parent, factory, first)
        self._enter(sub, life, parent)
        return self.reference(sub)

    def add_supervisor(
        self, name: str, parent: Supervisor, strategy: Any, max_restarts: int, within: float
    ) -> Supervisor:
        """Register a supervisor."""
        if not isinstance(name, str) or not name:
            raise ConfigurationError(f"a supervisor needs a name, not {name!r}")
        if name in self._supervisors:
            raise ConfigurationError(f"there is a supervisor named {name!r} already")
        made = Supervisor(self, name, parent, strategy, max_restarts, within)
        self._supervisors[name] = made
        parent.children[made] = None
        return made

    def add_tap(self, tap: Tap) -> None:
        """Route to a tap from now on."""
        self._owner.catch_up()
        tap.order = next(self._numbers)
        self.taps[tap] = None
        self.routes.add(tap)

    def _checked(self, given: Mapping[str, Any], signature: Signature) -> Options:
        options = check_options(given, signature)
        recorder = self._owner.recorder
        if options.durable is not None and recorder is None:
            raise ConfigurationError(
                "durable needs a bus with a journal or a transport, and this bus has neither"
            )
        if options.inbox and recorder is not None:
            check_tables(recorder.scribe.journal)
        self.catchups.check(options.after)
        return options

    def _enter(self, sub: Subscription, life: Life, parent: Supervisor) -> None:
        self._owner.catch_up()
        sub.life = life
        if self._owner.recorder is not None and sub.options.durable is not None:
            self._owner.recorder.add(sub, sub.options.durable)
        if life.hooks is not None:
            self.reference(sub)  # before it starts: its instances have it from then on
        self.live[sub.name] = sub
        if len(self._labels) < LABELS:
            self._labels[sub] = sub.name
        parent.children[life] = None
        self.routes.add(sub)
        if self._owner.running:
            if sub.window is not None:
                sub.window.join()
            self._owner.begin(life)
        self.catchups.enter(sub)

    def _name(self, given: str | None, handler: Any) -> str:
        if given is not None:
            if given in self.live:
                raise ConfigurationError(f"there is a live subscription named {given!r} already")
            return given
        default = describe(handler)
        number = self._taken.get(default, 0) + 1
        while (name := _numbered(default, number)) in self.live:
            number += 1
        self._taken[default] = number
        return name

    def _free(self, name: str) -> None:
        """Let a default name be given again, the lowest number first."""
        default, _, number = name.rpartition("#")
        if name in self._taken:
            default, number = name, "1"
        if default in self._taken and number.isdecimal():
            self._taken[default] = min(self._taken[default], int(number) - 1)
            if self._taken[default] <= 0:
                del self._taken[default]

    # -- finding ----------------------------------------------------------------------------------

    def reference(self, sub: Subscription) -> ActorRef:
        """Return the one reference to an actor."""
        life = cast("Life", sub.life)
        if life.ref is None:
            life.ref = ActorRef(sub)
        return life.ref

    def own_route(self, sub: Subscription) -> Route:
        """Return a route that leads to one subscription alone."""
        if sub.own_route is None:
            topic = f"$bus:tell:{sub.name}"
            sub.own_route = Route(self._owner, topic, (sub.inbox.open(),), (sub,))
        return sub.own_route

    def every_life(self) -> list[Life]:
        """Return the actors in order of start; those that only finish their mail come first."""
        lives = self.root.lives()
        known = set(lives)
        ending = [cast("Life", sub.life) for sub in self._ending]
        return [*(life for life in ending if life not in known), *lives]

    def everyone(self) -> Iterable[Subscription | Tap]:
        """Return the live subscriptions and the open streams and waits."""
        return [*self.live.values(), *self.taps]

    # -- ending -----------------------------------------------------------------------------------

    def unsubscribe(self, patterns: Any, handler: Any) -> int:
        """End the subscriptions of a handler to exactly these patterns; return how many."""
        wanted = set(parse_patterns(patterns))
        one = next(iter(wanted), None)
        found = [
            sub
            for sub in (self.live.values() if one is None else self.routes.candidates(one))
            if isinstance(sub, Subscription)
            and set(sub.patterns) == wanted
            and same_handler(_handler(sub), handler)
        ]
        for sub in found:
            sub.unsubscribe()
        return len(found)

    def end(self, sub: Subscription) -> int:
        """Route nothing more to a subscription, which handles what it has; 0 if it had ended."""
        if not self.retire(sub):
            return 0
        cast("Life", sub.life).finish()
        return 1

    def retire(self, sub: Subscription) -> bool:
        """Route nothing more to a subscription; return False if it had ended before."""
        if self.live.get(sub.name) is not sub:
            return False
        self._owner.catch_up()
        if self._owner.recorder is not None and sub.options.durable is not None:
            self._owner.recorder.remove(sub.options.durable)
        del self.live[sub.name]
        self.catchups.leave(sub)
        self._free(sub.name)
        self._ending[sub] = None
        self.routes.remove(sub)
        life = cast("Life", sub.life)
        life.parent.dismiss(life)
        return True

    def forget(self, sub: Subscription) -> None:
        """Close the books of a subscription that has ended and settled."""
        if sub in self._ending:
            del self._ending[sub]
            self.routes.book()
            label = ENDED if self._labels.pop(sub, None) else OTHERS
            self._sums[label].merge(sub.ledger)
            sub.let_go()

    def remove_tap(self, tap: Tap) -> None:
        """Route nothing more to a tap; its counts go to a sum."""
        if tap in self.taps:
            del self.taps[tap]
            self.routes.remove(tap)
            self._sums[STREAMS].merge(tap.ledger)

    def end_taps(self) -> None:
        """End every stream and wait."""
        for tap in list(self.taps):
            self.remove_tap(tap)
            tap.end()

    def tell_ended(self, sub: Subscription, receipt: Receipt) -> None:
        """Give up a delivery to an actor that is gone."""
        ledger = sub.ledger if sub in self._ending else self._sums[ENDED]
        ledger.routed += 1
        receipt.refused += 1
        counted, sub.ledger = sub.ledger, ledger
        sub.give_up(receipt, DeadReason.STOPPED)
        sub.ledger = counted

    # -- books ------------------------------------------------------------------------------------

    def audit(self) -> Audit:
        """Return the terms of every subscription and their sums."""
        terms: dict[str, Terms] = {}
        books: list[Subscription | Tap] = [*self.live.values(), *self._ending, *self.taps]
        for each in books:
            terms[each.name] = terms.get(each.name, Terms()) + each.terms()
        sums = [settled(ledger) for ledger in self._sums.values()]
        ended = sum(sums, Terms())
        if ended.routed:
            terms[ENDED] = ended
        return Audit(self._owner.name, terms, sum(terms.values(), Terms()))

    def readings(self) -> Generator[None, None, Rows]:
        """Copy the books of everybody, in steps; return a row for each label."""
        subs = itertools.chain(self.live.values(), self._ending)
        return copied(subs, self.taps, self._labels, self._sums)

    def durable_labels(self) -> dict[str, str]:
        """Return the labels of those durable subscriptions that have one of their own."""
        durables = ((sub.options.durable, label) for sub, label in self._labels.items())
        return {name: label for name, label in durables if name is not None}


def _arguments(options: Mapping[str, Any]) -> int:
    """Return how many arguments a handler takes."""
    return 2 if options.get("inbox") else 1


def _one_or_more(patterns: Any) -> tuple[Pattern, ...]:
    parsed = parse_patterns(patterns)
    if not parsed:
        raise ConfigurationError("a subscription needs at least one pattern")
    return parsed


def _class_options(instance: Actor) -> Mapping[str, Any]:
    """Return the options a class sets by attributes of the same name."""
    *kinds, _ = type(instance).__mro__
    options = {option for kind in kinds for option in _OPTIONS.intersection(vars(kind))}
    return {option: getattr(instance, option) for option in options}


def _handler(sub: Subscription) -> Any:
    hooks = cast("Life", sub.life).hooks
    return sub.handler if hooks is None else hooks.receive


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name}#{number}"
