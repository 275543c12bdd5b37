"""Who listens: each plugin subscribes to topics and knows neither the publisher nor the others.

Each shows one thing: an event with its topic (`Notifications`), wildcards (`Analytics`), a checked
payload and a handler that publishes (`plan_preparation`), a plain ``def`` that blocks (`welcome`),
an actor with state that answers questions (`Board`), and one that fails (`Webhooks`).
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from typing import TYPE_CHECKING

import msgspec

from actorbus.actor import Actor
from actorbus.cli.demo.tasks import Tasks, keep
from actorbus.event import Event
from actorbus.retry import RetryPolicy

if TYPE_CHECKING:
    from actorbus.actor import ActorRef
    from actorbus.bus import EventBus


class CalendarEvent(msgspec.Struct):
    """Payload of ``calendar:event_created``."""

    user_id: str
    event_id: str
    date: str


def install(bus: EventBus, tasks: Tasks) -> ActorRef:
    """Subscribe every plugin to `bus`; the only place that knows all of them.

    Returns:
        The board, which can be asked.
    """
    notifications, analytics, partner = Notifications(), Analytics(), Partner()
    topics = ["task_manager:task_created", "task_manager:task_completed"]
    bus.subscribe(topics, notifications.note, name="notifications")
    bus.subscribe("task_manager:*", analytics.task, name="analytics.tasks")
    bus.subscribe("**", analytics.anything, name="analytics.everything")
    bus.subscribe("user:registered", welcome, name="mailer")

    @bus.subscribe("calendar:event_created", name="calendar_to_task")
    async def plan_preparation(data: CalendarEvent) -> None:
        await tasks.create(data.user_id, f"Prepare for event on {data.date}")

    board = bus.spawn(Board, name="board")
    supervisor = bus.supervisor("integrations")
    supervisor.spawn(lambda: Webhooks(partner), name="webhooks", retry=WEBHOOK_RETRY)
    return board


class Notifications:
    """Tells users what became of their tasks."""

    def __init__(self) -> None:
        self.latest: deque[str] = deque(maxlen=100)

    async def note(self, event: Event) -> None:
        """Keep a line for the user's inbox."""
        action = event.topic.rpartition("_")[2]
        self.latest.append(f"{event.data['user_id']}: task {action}")


class Analytics:
    """Counts, with one wildcard for the tasks and one for everything."""

    def __init__(self) -> None:
        self.titles_seen = 0
        self.by_topic: Counter[str] = Counter()

    async def task(self, data: dict[str, str]) -> None:
        """Count a title; the payload as it was published."""
        self.titles_seen += "title" in data

    async def anything(self, event: Event) -> None:
        """Count an event by its topic."""
        self.by_topic[event.topic] += 1


class UserRegistered(msgspec.Struct):
    """Payload of ``user:registered``."""

    user_id: str
    email: str


def welcome(data: UserRegistered) -> str:
    """Send a welcome mail as most libraries do it: blocking. It runs in a thread of the bus."""
    time.sleep(0.01)
    return f"Welcome, {data.email}"


class Board(Actor):
    """How many tasks each user has open and completed; asked by ``GET /users/{user_id}``."""

    patterns = ("task_manager:task_created", "task_manager:task_completed")

    def __init__(self) -> None:
        self._open: dict[str, int] = {}
        self._completed: dict[str, int] = {}

    async def receive(self, event: Event) -> dict[str, int] | None:
        """Count a task, or answer a question (which is told, so it comes with another topic)."""
        user = event.data["user_id"]
        if event.topic == "task_manager:task_created":
            keep(self._open, user, self._open.get(user, 0) + 1)
        elif event.topic == "task_manager:task_completed":
            keep(self._open, user, self._open.get(user, 0) - 1)
            keep(self._completed, user, self._completed.get(user, 0) + 1)
        else:
            return {"open": self._open.get(user, 0), "completed": self._completed.get(user, 0)}
        return None


WEBHOOK_RETRY = RetryPolicy(max_attempts=3, base=0.05, factor=2.0, cap=0.2)


class Webhooks(Actor):
    """Tells a partner about completed tasks; the partner is what fails.

    Three attempts, then the delivery is a dead letter and this actor is restarted with a new
    connection; its mailbox waits for the new instance.
    """

    patterns = ("task_manager:task_completed",)

    def __init__(self, partner: Partner) -> None:
        self._partner = partner

    async def receive(self, event: Event) -> None:
        """Deliver one completed task."""
        await self._partner.post(event.id, event.data["title"])


class Partner:
    """Somebody else's service: mostly well, sometimes down, and open to suggestion.

    A title with the word "slow" takes half a second, one with "flaky" fails twice and one with
    "broken" for good. By itself it fails once for every 7th delivery and for good for every 25th,
    the latter not twice within `PEACE` seconds, so that restarts start over without delay.
    """

    PEACE = 75.0

    def __init__(self) -> None:
        self._deliveries = 0
        self._down_at = float("-inf")
        self._failing: dict[str, int] = {}

    async def post(self, delivery: str, title: str) -> None:
        """Accept a delivery, or raise as a network would."""
        if "slow" in title:
            await asyncio.sleep(0.5)
        if delivery not in self._failing:
            keep(self._failing, delivery, self._plan(title))
        if self._failing[delivery] > 0:
            self._failing[delivery] -= 1
            raise ConnectionError("the partner does not answer")
        del self._failing[delivery]

    def _plan(self, title: str) -> int:
        """Return how many attempts of a new delivery are to fail."""
        self._deliveries += 1
        now = asyncio.get_running_loop().time()
        due = self._deliveries % 25 == 0 and now - self._down_at > self.PEACE
        if "broken" in title or due:
            self._down_at = now
            return WEBHOOK_RETRY.max_attempts
        if "flaky" in title:
            return WEBHOOK_RETRY.max_attempts - 1
        return int(self._deliveries % 7 == 0)
