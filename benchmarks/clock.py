"""Laps: how long work took, in CPU time and in wall time, and laps of two contenders in turn.

CPU time is the process's own, all threads together: it does not count what other programs do to
the machine, and it counts what a contender hides in threads. The garbage collector stays on, as
users have it; between laps, off the clock, everything is collected, so that nobody pays for the
litter of the one before.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Self

from benchmarks.case import Effort, Figure, Spread

Trial = Callable[[int], Awaitable["Lap"]]


@dataclass(frozen=True, slots=True)
class Lap:
    """One run of one contender."""

    count: int
    cpu: float
    wall: float

    @property
    def rate(self) -> float:
        """Per second of CPU time."""
        return self.count / max(self.cpu, 1e-9)

    @property
    def wall_rate(self) -> float:
        """Per second of wall time."""
        return self.count / max(self.wall, 1e-9)


class Stopwatch:
    """Times what runs inside its ``with``; what came before is collected first."""

    cpu = wall = 0.0

    def __enter__(self) -> Self:
        gc.collect()
        self.wall, self.cpu = -time.perf_counter(), -time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.cpu += time.process_time()
        self.wall += time.perf_counter()

    def lap(self, count: int) -> Lap:
        """Return what was timed as a lap of so many."""
        return Lap(count, self.cpu, self.wall)


class Collections:
    """Notes how long the garbage collector takes inside its ``with``, at worst.

    Attributes:
        longest: Milliseconds of the longest collection.
    """

    longest = 0.0

    def __enter__(self) -> Self:
        gc.callbacks.append(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        gc.callbacks.remove(self._note)

    def _note(self, phase: str, _: dict[str, int]) -> None:
        if phase == "start":
            self._began = time.perf_counter()
        else:
            self.longest = max(self.longest, 1000 * (time.perf_counter() - self._began))


async def fitting(trial: Trial, effort: Effort, most: int, least: int = 32) -> int:
    """Return a count for which one lap takes about `Effort.lap_seconds`; warms up on the way.

    The work is grown step by step, so that a contender whose cost rises with the count is not
    given more than it can do.
    """
    count = least
    while count < most:
        lap = await trial(count)
        if lap.wall >= effort.lap_seconds / 2:
            return max(least, min(most, int(count * effort.lap_seconds / lap.wall)))
        count = min(most, count * 4)
    return most


async def alternate(trials: Sequence[Trial], counts: Sequence[int], rounds: int) -> list[list[Lap]]:
    """Run all trials in turn, back and forth; return the laps of each."""
    laps: list[list[Lap]] = [[] for _ in trials]
    order = list(range(len(trials)))
    for _ in range(rounds):
        for index in order:
            laps[index].append(await trials[index](counts[index]))
        order.reverse()
    return laps


def ratio(subject: Sequence[Lap], baseline: Sequence[Lap]) -> Spread:
    """Return how many times as fast as the baseline, in CPU time, round by round."""
    return Spread.of(s.rate / b.rate for s, b in zip(subject, baseline, strict=True))


def wall_ratio(subject: Sequence[Lap], baseline: Sequence[Lap]) -> Spread:
    """Return how many times as fast as the baseline, in wall time, round by round."""
    return Spread.of(s.wall_rate / b.wall_rate for s, b in zip(subject, baseline, strict=True))


def rate_figure(
    what: str, unit: str, subject: Sequence[Lap], baseline: Sequence[Lap], against: str
) -> Figure:
    """Return the figure of a rate, per second of CPU time."""
    return Figure(
        what,
        unit,
        Spread.of(lap.rate for lap in subject),
        Spread.of(lap.rate for lap in baseline),
        ratio(subject, baseline),
        wall_ratio(subject, baseline),
        against,
        notes={
            "deliveries_per_lap": subject[0].count,
            "per_wall_second": Spread.of(lap.wall_rate for lap in subject).median,
        },
    )
