"""What does each feature cost?

Each is measured against the same bus without it, one publisher and one subscriber, in CPU time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry

from actorbus import Event, RetryPolicy
from actorbus.metrics import register
from benchmarks.case import Case, Effort, Figure, Goal, Spread
from benchmarks.clock import alternate, fitting, rate_figure
from benchmarks.contender import Bus, Contender, PlainBus, Queues, Shape, race
from benchmarks.questions.throughput import COMPLETION, MOST

Make = Callable[[], Contender]
CAUSE = Event("bench:cause", None, 0.0)
KEYS = 16


class Scraped(Bus):
    """actorbus, exported to Prometheus: registered, and its loop's lag sampled."""

    async def open(self, handlers: Sequence[Any]) -> None:
        register(self.bus, CollectorRegistry())
        await super().open(handlers)


def by_number(event: Event) -> int:
    """Return the key of an event."""
    return int(event.data) % KEYS


@dataclass(frozen=True, slots=True)
class Feature:
    """One feature: the bus with it, and the bus to compare with."""

    name: str
    text: str
    make: Make
    without: Make = Bus
    at_most_percent: float | None = None

    def case(self) -> Case:
        """Make its case."""
        return Case(f"features.{self.name}", self.text, COMPLETION, self.measure)

    async def measure(self, effort: Effort) -> list[Figure]:
        """Return its cost in per cent, and what is left beside the baseline."""
        trials = [partial(race, each, Shape()) for each in (Queues, self.without, self.make)]
        most = effort.pick(MOST // 2, 2_000)
        counts = [await fitting(each, effort, most) for each in trials]
        queues, without, having = await alternate(trials, counts, effort.rounds)
        figure = rate_figure("cost", "%", having, without, "the same bus without it")
        pairs = zip(having, without, strict=True)
        figure.subject = Spread.of(100 * (b.rate / a.rate - 1) for a, b in pairs)
        figure.baseline = None
        if self.at_most_percent is not None:
            figure.goal = Goal("subject", at_most=self.at_most_percent)
        rate = rate_figure("rate with it", "deliveries/s", having, queues, "asyncio.Queue(1024)")
        if self.make is PlainBus:
            # Waking a thread takes time that no CPU clock sees: judged by the wall clock.
            rate.subject = Spread.of(lap.wall_rate for lap in having)
            rate.baseline = Spread.of(lap.wall_rate for lap in queues)
            rate.what, rate.goal = "rate, wall time", Goal("subject", at_least=100_000)
        return [figure, rate]


def _with(**options: Any) -> Make:
    return partial(Bus, options=options)


FEATURES = [
    Feature(
        "histograms",
        "Waits and durations measured (the default)",
        Bus,
        partial(Bus, bus={"histograms": False}),
        at_most_percent=8,
    ),
    Feature("metrics", "Exported to Prometheus", Scraped),
    Feature("history", "History of 100 events per topic", Bus, partial(Bus, bus={"history": 0})),
    Feature("retry", "A retry policy, never needed", Bus, _with(retry=RetryPolicy.none())),
    Feature("timeout", "A timeout of 1 s on every attempt", _with(timeout=1.0)),
    Feature("concurrency", "Four deliveries at once", _with(concurrency=4)),
    Feature(
        "key",
        "In order per key, 16 keys, four at once",
        _with(key=by_number, concurrency=4),
        _with(concurrency=4),
    ),
    Feature("sync", "A plain def, run in a thread", PlainBus),
    Feature("inline", "A plain def, run on the loop", partial(PlainBus, options={"inline": True})),
    Feature(
        "context",
        "A cause on every event",
        partial(Bus, publish={"cause": CAUSE}),
        partial(Bus, publish={"key": None}),
    ),
    Feature(
        "headers",
        "Headers on every event",
        partial(Bus, publish={"headers": {"tenant": "a"}}),
        partial(Bus, publish={"key": None}),
    ),
]

CASES = [feature.case() for feature in FEATURES]
