"""Hooks: the instances of an `Actor` class, and what they do when they start, restart and stop.

Each hook runs in a task of its own, in the actor's context, so that one that never returns can be
left.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from actorbus.actor import Actor, ActorRef
from actorbus.errors import ConfigurationError
from actorbus.event import Event
from actorbus.staff import Staff
from actorbus.worker import GRACE

HOOK = 5.0  # seconds a hook may take before the actor goes on without it

log = logging.getLogger("actorbus")


class Hooks:
    """Makes the instances of one actor, one at a time, and runs their hooks.

    Args:
        staff: The actor's.
        factory: Builds an instance.
        first: The instance to begin with, which was needed to find the options.

    Attributes:
        building: Whether one is being made and started.
    """

    __slots__ = ("_factory", "_first", "_present", "_staff", "_task", "_unstarted", "building")

    def __init__(self, staff: Staff, factory: Callable[[], Actor], first: Actor | None) -> None:
        self._staff = staff
        self._factory = factory
        self._first = first
        self._task: asyncio.Task[None] | None = None
        self.building = False
        self._present: Actor | None = None  # started and not stopped
        self._unstarted: Actor | None = None  # its on_start has failed

    @property
    def nothing_to_await(self) -> bool:
        """Whether the next instance is there and has no ``on_start`` of its own."""
        first = self._first
        return first is not None and getattr(first.on_start, "__func__", None) is Actor.on_start

    async def start(self, ref: ActorRef | None) -> None:
        """Make the next instance and wait until it has started.

        Raises:
            BaseException: Whatever the factory or ``on_start`` raises.
        """
        self.building = True
        try:
            instance = self._make(ref)
            try:
                await self.run(instance.on_start(), bound=None)
            except (KeyboardInterrupt, SystemExit, asyncio.CancelledError):
                raise
            except BaseException:
                self._unstarted = instance
                raise
        finally:
            self.building = False
        self._employ(instance)

    def start_at_once(self, ref: ActorRef | None) -> None:
        """Take the first instance as started."""
        self._employ(self._make(ref))

    def _make(self, ref: ActorRef | None) -> Actor:
        staff = self._staff
        instance, self._first = self._first, None
        if instance is None:
            instance = self._factory()
        if not isinstance(instance, Actor):
            raise ConfigurationError("the factory must return an Actor")
        try:
            instance.bus, instance.name, instance.ref = staff.host.face, staff.sub.name, ref
        except Exception:
            self._unstarted = instance
            raise
        return instance

    def _employ(self, instance: Actor) -> None:
        self._present = instance

    @property
    def receive(self) -> Any:
        """The handler of the instance there is, bound when it is asked for; None between two."""
        instance = self._first if self._present is None else self._present
        return None if instance is None else instance.receive

    async def end(self, error: BaseException | None, event: Event | None, why: str) -> None:
        """End the present instance; tell it, or the one that did not start, what has failed.

        Args:
            error: What it failed with; None if it is not the one that failed.
            event: The event it failed on, if any.
            why: For ``on_stop``.
        """
        failed = self._unstarted if self._present is None else self._present
        self._unstarted = None
        if failed is not None and error is not None:
            await self.quietly(failed.on_restart(error, event))
        await self.leave(why)

    async def leave(self, why: str) -> None:
        """Let the present instance clean up; there is none afterwards."""
        instance, self._present = self._present, None
        if instance is not None:
            await self.quietly(instance.on_stop(why))

    async def run(self, hook: Coroutine[Any, Any, Any], bound: float | None) -> None:
        """Run a hook in the actor's context, for a bounded time.

        Raises:
            Exception: Whatever the hook raises.
            TimeoutError: It did not end; its task is abandoned.
        """
        staff = self._staff
        task = asyncio.Task(
            hook, loop=staff.loop, context=staff.context, name=f"actorbus:{staff.sub.name}:hook"
        )
        staff.host.keep(task, staff.sub.name)
        self._task = task
        try:
            await asyncio.wait({task}, timeout=bound)
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait({task}, timeout=GRACE)
            raise
        if task.done():
            self._task = None
        else:
            task.cancel()
            raise TimeoutError(f"a hook of {staff.sub.name!r} did not end within {bound} s")
        if task.cancelled():
            raise RuntimeError(f"a hook of {staff.sub.name!r} was cancelled")
        if isinstance(error := task.exception(), (KeyboardInterrupt, SystemExit)):
            raise RuntimeError(f"a hook of {staff.sub.name!r} ended the program") from error  # noqa: TRY004
        task.result()

    async def quietly(self, hook: Coroutine[Any, Any, Any]) -> None:
        """Run a hook on the way out, which cannot fail anything more: log what it raises."""
        try:
            await self.run(hook, HOOK)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            log.warning("a hook of %r failed", self._staff.sub.name, exc_info=error)

    def cancel(self) -> None:
        """End the hook that runs, if one does."""
        if self._task is not None:
            self._task.cancel()

    def forget(self) -> None:
        """Forget the instance of a loop that was closed."""
        self._present = None
        self.building = False
