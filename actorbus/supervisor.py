"""Supervisor: whose failure concerns whom.

A supervisor restarts a failing child, and with it the siblings its strategy names. When a child's
own budget is spent the failure comes to the supervisor, counts in its budget and is answered with
its strategy; when that is spent too it goes to the parent, where the whole supervisor is the child.
At the root there is nobody left to ask.

Restarts are carried out by one task each, made of steps that may be repeated or overtaken: halt
what is not halted, wait, begin what is restarting. So a second failure during a restart needs no
lock and no queue, and a shutdown can always come between.

Source: OTP's ``supervisor`` (strategies, intensity, reverse order of stopping), except that an
actor's budget is its own, not shared with its siblings, and that restarts back off.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from itertools import dropwhile
from typing import Any, Protocol, TypeVar, Unpack, overload

from actorbus import world
from actorbus.actor import Actor, ActorRef
from actorbus.checks import choice, seconds, whole
from actorbus.delivery import nap
from actorbus.event import Event
from actorbus.hooks import HOOK
from actorbus.life import Life
from actorbus.options import SubscribeOptions
from actorbus.restart import Backoff, Window
from actorbus.subscription import Subscription
from actorbus.words import ActorState, Strategy

log = logging.getLogger("actorbus")
F = TypeVar("F", bound=Callable[..., Any])


class Registry(Protocol):
    """What a supervisor needs of its bus."""

    def check(self, patterns: Any, options: SubscribeOptions) -> tuple[str, ...]:
        """Refuse what makes no sense whatever the handler will be; return the patterns."""

    def add_subscription(
        self, patterns: Any, handler: Any, parent: Supervisor, options: SubscribeOptions
    ) -> Subscription:
        """Register a handler."""

    def add_actor(
        self,
        factory: Callable[[], Actor],
        patterns: Any,
        parent: Supervisor,
        options: SubscribeOptions,
    ) -> ActorRef:
        """Register an actor."""

    def add_supervisor(
        self, name: str, parent: Supervisor, strategy: Any, max_restarts: int, within: float
    ) -> Supervisor:
        """Register a supervisor."""


class Supervisor:
    """A node of the supervision tree; made by ``bus.supervisor`` or another supervisor.

    Attributes:
        name: Unique among the supervisors of the bus.
        strategy: Which siblings share the restart of a child.
        parent: The supervisor above, or None for the root.
    """

    def __init__(
        self,
        bus: Registry,
        name: str,
        parent: Supervisor | None,
        strategy: Strategy | str = Strategy.ONE_FOR_ONE,
        max_restarts: int = 3,
        within: float = 60.0,
    ) -> None:
        self.strategy = choice("strategy", Strategy, strategy)
        self.name = name
        self.parent = parent
        self.children: dict[Life | Supervisor, None] = {}  # in order of start
        self._bus = bus
        self._window = Window(whole("max_restarts", max_restarts), seconds("within", within))

    def __repr__(self) -> str:
        """Show name, strategy and the number of children."""
        return f"<Supervisor {self.name!r} {self.strategy} children={len(self.children)}>"

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
        """Subscribe a handler under this supervisor, as ``bus.subscribe`` does."""
        if handler is not None:
            return self._bus.add_subscription(patterns, handler, self, options)

        checked = self._bus.check(patterns, options)

        def decorate(function: F) -> F:
            self._bus.add_subscription(checked, function, self, options)
            return function

        return decorate

    def spawn(
        self,
        factory: Callable[[], Actor],
        *,
        patterns: str | Iterable[str] | None = None,
        **options: Unpack[SubscribeOptions],
    ) -> ActorRef:
        """Spawn an actor under this supervisor, as ``bus.spawn`` does."""
        return self._bus.add_actor(factory, patterns, self, options)

    def supervisor(
        self,
        name: str,
        strategy: Strategy | str = Strategy.ONE_FOR_ONE,
        max_restarts: int = 3,
        within: float = 60.0,
    ) -> Supervisor:
        """Add a supervisor under this one, as ``bus.supervisor`` does."""
        return self._bus.add_supervisor(name, self, strategy, max_restarts, within)

    # -- for the engine ---------------------------------------------------------------------------

    def lives(self) -> list[Life]:
        """Return the actors below, in order of start."""
        found: list[Life] = []
        for child in self.children:
            found += [child] if isinstance(child, Life) else child.lives()
        return found

    def dismiss(self, life: Life) -> None:
        """Forget a child that is to restart with its siblings no more."""
        self.children.pop(life, None)

    def failed(self, life: Life, error: BaseException, event: Event | None) -> None:
        """Restart a child, and who shares its restart; or pass its failure on."""
        if life.spend():
            self._restart(life, life, error, event)
        else:
            self.escalate(life, error, event)

    def escalate(
        self,
        life: Life,
        error: BaseException,
        event: Event | None,
        child: Life | Supervisor | None = None,
    ) -> None:
        """Take a failure a child could not deal with.

        Args:
            life: The actor that failed.
            error: What it failed with.
            event: The event it failed on, if any.
            child: The child of this supervisor it came from; None for the actor itself.
        """
        if self.parent is None:
            life.give_up(error)
        elif self._window.allow(life.loop.time()):
            life.window = None
            self._restart(child or life, life, error, event)
        else:
            self.parent.escalate(life, error, event, child=self)

    def _scope(self, child: Life | Supervisor) -> list[Life]:
        if child not in self.children:
            return [child] if isinstance(child, Life) else child.lives()
        match self.strategy:
            case Strategy.ONE_FOR_ALL:
                chosen = [*self.children]
            case Strategy.REST_FOR_ONE:
                chosen = [*dropwhile(lambda other: other is not child, self.children)]
            case _:
                chosen = [child]
        found: list[Life] = []
        for each in chosen:
            found += [each] if isinstance(each, Life) else each.lives()
        return found

    def _restart(
        self, child: Life | Supervisor, life: Life, error: BaseException, event: Event | None
    ) -> None:
        left_alone = (ActorState.STOPPING, ActorState.STOPPED, ActorState.SUSPENDED)
        scope = [each for each in self._scope(child) if each.state not in left_alone]
        for each in scope:
            each.become(ActorState.RESTARTING)
        life.background(self._carry_out(scope, life, error, event))

    async def _carry_out(
        self, scope: list[Life], life: Life, error: BaseException, event: Event | None
    ) -> None:
        for each in reversed(scope):
            if each.state is ActorState.RESTARTING:
                await each.halt(error if each is life else None, event, "restart")
        if life.backoff is None:
            life.backoff = Backoff()
        delay = life.backoff.next(life.loop.time(), world.random)
        await nap(life.loop, life.naps, min(delay, life.longest_nap))
        for each in scope:
            if each.state is ActorState.RESTARTING:
                each.sub.ledger.restarts += 1
                await asyncio.wait({each.background(each.begin())}, timeout=HOOK)
