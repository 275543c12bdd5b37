"""What do failures cost: every delivery once, and every delivery for good?

The baseline does by hand what can be done in a few lines: an immediate second attempt, and a
bounded list of what failed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from actorbus import RetryPolicy
from benchmarks.case import Case, Effort, Figure
from benchmarks.clock import alternate, fitting, rate_figure
from benchmarks.contender import Bus, Contender, Handler, Queues, Shape, race
from benchmarks.questions.throughput import COMPLETION

Wrap = Callable[[Handler], Handler]


def failing_once(handler: Handler) -> Handler:
    """Return a handler that fails at the first attempt of every delivery."""
    failed = False

    async def handle(data: Any) -> None:
        nonlocal failed
        failed = not failed
        if failed:
            raise ValueError("once")
        await handler(data)

    return handle


def failing_always(handler: Handler) -> Handler:
    """Return a handler that counts, then fails."""

    async def handle(data: Any) -> None:
        await handler(data)
        raise ValueError("for good")

    return handle


class FailingBus(Bus):
    """actorbus with handlers that fail."""

    def __init__(self, wrap: Wrap, retry: RetryPolicy) -> None:
        super().__init__(options={"retry": retry})
        self.wrap = wrap

    async def open(self, handlers: Sequence[Any]) -> None:
        await super().open([self.wrap(handler) for handler in handlers])


class FailingQueues(Queues):
    """The baseline with handlers that fail."""

    def __init__(self, wrap: Wrap, attempts: int) -> None:
        super().__init__()
        self.wrap = wrap
        self.attempts = attempts
        self.dead: deque[tuple[Any, Exception]] = deque(maxlen=1000)

    async def consume(self, queue: Any, handler: Handler) -> None:
        handle = self.wrap(handler)
        while True:
            item = await queue.get()
            for attempt in range(1, self.attempts + 1):
                try:
                    await handle(item)
                    break
                except Exception as error:  # noqa: BLE001 that is what is measured
                    if attempt == self.attempts:
                        self.dead.append((item, error))


def case(name: str, text: str, wrap: Wrap, retry: RetryPolicy) -> Case:
    """Make the case of one kind of failure."""

    async def measure(effort: Effort) -> list[Figure]:
        makers: list[Callable[[], Contender]] = [
            partial(FailingQueues, wrap, retry.max_attempts),
            partial(FailingBus, wrap, retry),
        ]
        trials = [partial(race, make, Shape()) for make in makers]
        most = effort.pick(40_000, 1_000)
        counts = [await fitting(each, effort, most) for each in trials]
        baseline, subject = await alternate(trials, counts, effort.rounds)
        return [rate_figure(name, "deliveries/s", subject, baseline, "Queue, try and except")]

    return Case(f"failures.{name}", text, COMPLETION, measure)


CASES = [
    case(
        "once",
        "Every delivery fails once and is retried without delay",
        failing_once,
        RetryPolicy(max_attempts=2, base=0.0, jitter="none"),
    ),
    case(
        "for-good",
        "Every delivery fails for good and is a dead letter",
        failing_always,
        RetryPolicy.none(),
    ),
]
