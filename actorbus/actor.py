"""Actor: a handler with state, and the reference by which others reach it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from actorbus.event import Event

if TYPE_CHECKING:
    from collections.abc import Sequence

    from actorbus.receipt import Receipt
    from actorbus.subscription import Subscription
    from actorbus.words import ActorState


class ActorRef:
    """A reference to an actor, made by ``bus.spawn`` and found by ``bus.actor``.

    Attributes:
        name: The actor's name.
    """

    __slots__ = ("__weakref__", "_sub", "name")

    def __init__(self, sub: Subscription) -> None:
        self._sub = sub
        self.name = sub.name

    def __repr__(self) -> str:
        """Show name and state."""
        return f"<ActorRef {self.name!r} {self.state}>"

    @property
    def state(self) -> ActorState:
        """Where the actor is in its life; ``stopped`` once it is gone."""
        return self._sub.state

    def tell(self, data: Any = None, *, key: Any = None) -> Receipt:
        """Send the actor an event of its own, on the topic ``$bus:tell:<name>``.

        Args:
            data: The payload.
            key: The publish key.

        Returns:
            The receipt, awaitable like any other. A stopped actor's delivery is dead (``stopped``).

        Raises:
            BusNotRunningError: There is no running loop.
            BusClosedError: The bus is closed.
        """
        return self._sub.bus.tell(self._sub, data, key)

    async def ask(self, data: Any = None, timeout: float | None = 5.0) -> Any:
        """Send the actor an event and wait for what its handler returns.

        Args:
            data: The payload.
            timeout: Seconds; None waits for ever.

        Returns:
            The reply; None if the handler returned None.

        Raises:
            NoResponderError: The actor is gone.
            AskFailedError: The delivery is dead; ``__cause__`` is the handler's error.
            AskTimeoutError: No reply in time; the delivery stays.
            DeadlockError: The actor waits for the caller.
        """
        return await self._sub.bus.face._ask_actor(self._sub, data, timeout)

    async def stop(self) -> None:
        """Finish the delivery in hand, make dead letters of the rest (``stopped``), and end.

        Called in a handler of the actor itself it does not wait for that handler.
        """
        await self._sub.life.stop("stopped")


class Actor:
    """A handler with state: subclass it and give ``bus.spawn`` a factory.

    A restart builds a new instance from the factory: fresh state, the mailbox kept. Class
    attributes with the name of an option of ``subscribe`` set it; what ``spawn`` is given wins.

    Attributes:
        patterns: What it listens to; may be empty.
        bus: The bus, from `on_start` on.
        name: The actor's name, from `on_start` on.
        ref: The reference to itself, from `on_start` on.
    """

    patterns: ClassVar[str | Sequence[str]] = ()
    bus: Any
    name: str
    ref: Any

    async def on_start(self) -> None:
        """Prepare; called before the first delivery. Its failure is a failure of the actor."""

    async def receive(self, event: Event) -> Any:
        """Handle one event; what it returns is the reply to an ask.

        Args:
            event: The event; annotate another type to get the payload converted.
        """
        raise NotImplementedError(f"{type(self).__qualname__} has no receive()")

    async def on_restart(self, error: BaseException, event: Event | None) -> None:
        """Take leave; called on the instance that failed, before its `on_stop`.

        Args:
            error: What it failed with.
            event: The event it failed on; None if it failed to start.
        """

    async def on_stop(self, reason: str) -> None:
        """Clean up; called once for every instance that has started.

        Args:
            reason: Such as ``"restart"``, ``"stopped"``, ``"unsubscribed"`` or ``"drained"``.
        """
