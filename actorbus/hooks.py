"""Hooks: running what an `Actor` does when it starts, restarts and stops.

Each runs in a task of its own, in the actor's context, so that one that never returns can be left.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from actorbus.staff import Staff
from actorbus.worker import GRACE

HOOK = 5.0  # seconds a hook may take before the actor goes on without it

log = logging.getLogger("actorbus")


class Hooks:
    """Runs the hooks of one actor."""

    __slots__ = ("_staff", "_task")

    def __init__(self, staff: Staff) -> None:
        self._staff = staff
        self._task: asyncio.Task[None] | None = None

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
        if not task.done():
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
