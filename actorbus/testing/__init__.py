"""Testing programs on actorbus: without waiting, in every order, and with nothing left unsaid.

::

    from actorbus.testing import simulate, sweep

    async def main():
        async with EventBus("shop") as bus:
            ...

    sweep(main, seeds=range(10_000))     # raises SweepFailure at the first seed that fails
    simulate(main, seed=4711)            # the same run again, step by step the same

A simulation has virtual time, a seeded order of task steps and seeded threads; a year of retries
takes as long as its steps. `cancel_at` cancels a task at its k-th await.

pytest finds its plugin by itself: the fixtures ``bus``, ``recorder`` and ``assert_published``, and
the marks ``actorbus`` and ``virtual_time``. Nothing here is needed in production, and
``import actorbus`` does not load it.

    errors        what ends a simulation
    order         which of the ready steps comes next: the policies
    threads       jobs of threads, as seeded delays
    loop          the loop of a simulation: virtual time, one step after the other
    cutting       cancelling a task at its k-th await
    surroundings  what a program takes from outside its loop, for the time of a simulation
    stuck         who waits, and where
    simulation    one run
    progress      a bar for the terminal
    sweeping      many runs

    stepping      a simulated loop that runs as far as it is told
    books         what a model knows of every delivery without asking the bus
    kin           who is to restart with whom
    reasons       what has to be true of a delivery that is given up
    arrivals      where every event goes, and where it must
    witness       handlers, letters and states, as they are seen
    curtain       a model leaves nothing behind, however it ends
    stage         a bus on a stepped loop, with a witness
    scripts       what the handlers of a model do
    drawing       what Hypothesis may choose
    invariants    what is true after every step
    model         `BusModel`, to subclass; it needs Hypothesis

    known         what a journal must hold, by the commits it has acknowledged
    course        what a model knows of a durable subscription
    durable_books what a model knows of a bus with a journal, through all its processes
    tape          a journal in front of a journal: it sees commits, and fails as it is told
    process       a loop, what surrounds it and a bus; it may end at any moment
    durable_stage one process after the other on a journal
    durable_model `DurableModel`, to subclass with a journal of your own; it needs Hypothesis

    virtual       a loop for ordinary tests, whose time jumps instead of passing
    recorder      what was published, and assertions that show what was published instead
    guard         what a test must not leave behind
    clock         which tests run on a virtual loop, whatever plugin runs them
    plugin        pytest's fixtures, marks and hooks

    journal_model     what a journal should do, and a machine that compares one with it
    journal_contract  the suite any journal must pass
    journal_tables    and one that keeps tables of the program's own
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from actorbus.testing.cutting import Cut, cancel_at
    from actorbus.testing.durable_model import DurableModel
    from actorbus.testing.errors import SimulationDeadlock, StepLimitError, SweepFailure
    from actorbus.testing.model import BusModel
    from actorbus.testing.order import Policy
    from actorbus.testing.recorder import Recorder
    from actorbus.testing.simulation import MAX_STEPS, Run, simulate
    from actorbus.testing.sweeping import Counts, sweep
    from actorbus.testing.virtual import StuckLoopError, VirtualLoop, run

__all__ = [
    "MAX_STEPS",
    "BusModel",
    "Counts",
    "Cut",
    "DurableModel",
    "Policy",
    "Recorder",
    "Run",
    "SimulationDeadlock",
    "StepLimitError",
    "StuckLoopError",
    "SweepFailure",
    "VirtualLoop",
    "cancel_at",
    "run",
    "simulate",
    "sweep",
]

_HOMES = {
    "cutting": ("Cut", "cancel_at"),
    "durable_model": ("DurableModel",),
    "errors": ("SimulationDeadlock", "StepLimitError", "SweepFailure"),
    "model": ("BusModel",),
    "order": ("Policy",),
    "recorder": ("Recorder",),
    "simulation": ("MAX_STEPS", "Run", "simulate"),
    "sweeping": ("Counts", "sweep"),
    "virtual": ("StuckLoopError", "VirtualLoop", "run"),
}


def __getattr__(name: str) -> Any:
    """Load what is asked for: every run of pytest imports the plugin, few of them simulate."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"actorbus.testing.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
