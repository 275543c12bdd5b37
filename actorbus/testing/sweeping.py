"""Sweeping: a scenario under many seeds, until one fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sized
from dataclasses import dataclass
from typing import Any

from actorbus.testing.errors import SweepFailure
from actorbus.testing.order import Policy
from actorbus.testing.progress import Progress
from actorbus.testing.simulation import MAX_STEPS, check, replay_line, simulate


@dataclass(frozen=True, slots=True)
class Counts:
    """What a sweep without failure came to.

    Attributes:
        runs: Seeds tried.
        orders: Different orders of steps among them.
        steps: Steps of all runs.
        virtual_seconds: Virtual seconds of all runs.
    """

    runs: int
    orders: int
    steps: int
    virtual_seconds: float

    def __str__(self) -> str:
        return (
            f"{self.runs:,} runs in {self.orders:,} orders passed: {self.steps:,} steps, "
            f"{self.virtual_seconds:,.0f} virtual s"
        )


def sweep(
    main: Callable[[], Coroutine[Any, Any, object]],
    *,
    seeds: Iterable[int] = range(10_000),
    policy: Policy | str = Policy.RANDOM,
    max_steps: int = MAX_STEPS,
    progress: bool | None = None,
) -> Counts:
    """Simulate a scenario under one seed after the other, and stop at the first that fails.

    Args:
        main: The scenario, as for `simulate`.
        seeds: The seeds.
        policy: As for `simulate`.
        max_steps: As for `simulate`, for each run.
        progress: Whether to draw a bar on standard error; None draws it on a terminal.

    Returns:
        How much was tried.

    Raises:
        SweepFailure: A seed failed; raised from what it raised, and says how to replay it.
        ConfigurationError: As for `simulate`.
        RuntimeError: As for `simulate`.
    """
    chosen = check(policy, max_steps)
    bar = Progress(len(seeds) if isinstance(seeds, Sized) else None, progress)
    orders: set[int] = set()
    runs, steps, seconds = 0, 0, 0.0
    try:
        for seed in seeds:
            try:
                run = simulate(main, seed=seed, policy=chosen, max_steps=max_steps)
            except (Exception, asyncio.CancelledError) as error:
                line = replay_line(main, seed, chosen, max_steps)
                what = f"{type(error).__name__}: {error}"
                raise SweepFailure(seed, chosen, line, runs, what) from error
            orders.add(hash((tuple(run._names), tuple(run._whats))))
            runs, steps = runs + 1, steps + run.steps
            seconds += run.virtual_seconds
            bar.step()
    finally:
        bar.end()
    return Counts(runs, len(orders), steps, seconds)
