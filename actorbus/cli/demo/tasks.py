"""The application: what its users can do, each with the event it publishes.

It knows nobody who listens. Everything it remembers is bounded, oldest out first, so the demo can
run for weeks.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from actorbus.bus import EventBus

_T = TypeVar("_T")

KEPT = 10_000
"""Entries of each kind remembered at most."""


@dataclass(slots=True)
class Task:
    """One task of one user."""

    task_id: str
    user_id: str
    title: str
    done: bool = False


class Tasks:
    """The task manager.

    Every method publishes and awaits the receipt, so a full mailbox slows its callers down instead
    of filling the memory.

    Attributes:
        by_id: The tasks remembered.
        users: The users remembered, with their e-mail address.
    """

    def __init__(self, bus: EventBus) -> None:
        self._bus = bus
        self._numbers = count(1)
        self.by_id: dict[str, Task] = {}
        self.users: dict[str, str] = {}

    async def create(self, user_id: str, title: str) -> Task:
        """Create a task and publish ``task_manager:task_created``."""
        task = Task(f"task-{next(self._numbers)}", user_id, title)
        keep(self.by_id, task.task_id, task)
        await self._bus.publish("task_manager:task_created", _payload(task))
        return task

    async def complete(self, task_id: str) -> Task | None:
        """Complete a task and publish ``task_manager:task_completed``, once.

        Returns:
            The task, or None if there is no such task.
        """
        task = self.by_id.get(task_id)
        if task is not None and not task.done:
            task.done = True
            await self._bus.publish("task_manager:task_completed", _payload(task))
        return task

    async def register(self, user_id: str, email: str) -> None:
        """Register a user and publish ``user:registered``."""
        keep(self.users, user_id, email)
        await self._bus.publish("user:registered", {"user_id": user_id, "email": email})

    async def enter(self, user_id: str, event_id: str, date: str) -> None:
        """Enter an appointment and publish ``calendar:event_created``."""
        payload = {"user_id": user_id, "event_id": event_id, "date": date}
        await self._bus.publish("calendar:event_created", payload)


def _payload(task: Task) -> dict[str, str]:
    return {"user_id": task.user_id, "task_id": task.task_id, "title": task.title}


def keep(kept: dict[str, _T], key: str, value: _T) -> None:
    """Put `value` into `kept`, and the oldest one out where that makes one too many."""
    kept[key] = value
    if len(kept) > KEPT:
        del kept[next(iter(kept))]
