"""Testing programs on actorbus: the same program under thousands of orders of its tasks.

::

    from actorbus.testing import simulate, sweep

    async def main():
        async with EventBus("shop") as bus:
            ...

    sweep(main, seeds=range(10_000))     # raises SweepFailure at the first seed that fails
    simulate(main, seed=4711)            # the same run again, step by step the same

A simulation has virtual time, a seeded order of task steps and seeded threads; a year of retries
takes as long as its steps. `cancel_at` cancels a task at its k-th await. Nothing here is needed in
production, and ``import actorbus`` does not load it.

    errors        what ends a simulation
    order         which of the ready steps comes next: the policies
    threads       jobs of threads, as seeded delays
    loop          the event loop: virtual time, one step after the other
    cutting       cancelling a task at its k-th await
    surroundings  what a program takes from outside its loop, for the time of a simulation
    stuck         who waits, and where
    simulation    one run
    progress      a bar for the terminal
    sweeping      many runs
"""

from __future__ import annotations

from actorbus.testing.cutting import Cut, cancel_at
from actorbus.testing.errors import SimulationDeadlock, StepLimitError, SweepFailure
from actorbus.testing.order import Policy
from actorbus.testing.simulation import MAX_STEPS, Run, simulate
from actorbus.testing.sweeping import Counts, sweep

__all__ = [
    "MAX_STEPS",
    "Counts",
    "Cut",
    "Policy",
    "Run",
    "SimulationDeadlock",
    "StepLimitError",
    "SweepFailure",
    "cancel_at",
    "simulate",
    "sweep",
]
