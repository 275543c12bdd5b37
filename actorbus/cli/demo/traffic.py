"""Built-in traffic: what a handful of users would do, at a steady rate.

The mix is fixed and repeats, so two runs of the demo publish the same events in the same order. A
bus that cannot keep up slows it down; what is more than a second behind is not made up for.
"""

from __future__ import annotations

from collections import deque
from itertools import count, cycle
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from actorbus.bus import EventBus
    from actorbus.cli.demo.tasks import Tasks

USERS = ("ada", "barbara", "edsger", "grace", "leslie", "tony")
TITLES = ("Write the report", "Call the plumber", "Book a flight", "Water the plants")
STEPS_A_SECOND = 50


class Traffic:
    """Everyday life of the task manager.

    Args:
        bus: Where events go that the application has no method for.
        tasks: The application.
    """

    def __init__(self, bus: EventBus, tasks: Tasks) -> None:
        self._bus = bus
        self._tasks = tasks
        self._users = cycle(USERS)
        self._titles = cycle(TITLES)
        self._numbers = count(1)
        self._open: deque[str] = deque(maxlen=1000)
        kinds: dict[str, Callable[[str], Awaitable[object]]] = {
            "c": self._create,
            "d": self._complete,
            "l": self._log_in,
            "p": self._run_plugin,
            "u": self._upgrade,
            "r": self._register,
            "e": self._make_appointment,
        }
        self._steps = cycle([kinds[kind] for kind in "rclpdcpdcleducdlpd"])

    async def run(self, rate: float) -> None:
        """Publish `rate` events a second until cancelled."""
        begun, done = anyio.current_time(), 0.0
        while True:
            due = (anyio.current_time() - begun) * rate
            done = max(done, due - rate)
            while done < due - 1:
                done += 1
                await next(self._steps)(next(self._users))
            await anyio.sleep(max(1 / rate if rate < STEPS_A_SECOND else 1 / STEPS_A_SECOND, 0))

    async def _create(self, user: str) -> None:
        task = await self._tasks.create(user, next(self._titles))
        self._open.append(task.task_id)

    async def _complete(self, user: str) -> None:
        if self._open:
            await self._tasks.complete(self._open.popleft())
        else:
            await self._log_in(user)

    async def _log_in(self, user: str) -> None:
        await self._bus.publish("user:login", {"user_id": user})

    async def _run_plugin(self, user: str) -> None:
        payload = {"plugin": "task_manager", "user": user, "execution_time": 0.004}
        await self._bus.publish("plugin_executed", payload)

    async def _upgrade(self, user: str) -> None:
        await self._bus.publish("subscription:updated", {"user_id": user, "tier": "pro"})

    async def _register(self, user: str) -> None:
        await self._tasks.register(user, f"{user}@example.com")

    async def _make_appointment(self, user: str) -> None:
        await self._tasks.enter(user, f"event-{next(self._numbers)}", "2025-10-20")
