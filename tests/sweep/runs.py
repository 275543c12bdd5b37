"""Which runs there are, and one lot of them: one scenario, one policy, a range of seeds."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from actorbus.testing import SweepFailure, sweep
from tests.sweep.books import faults
from tests.sweep.scenarios import SCENARIOS

LOT = 50  # runs that are done together
MAX_STEPS = 100_000  # of a run; the usual one takes some hundred
POLICIES = ("random", "pct", "random", "pct", "fifo")
"""In turn: fifo finds little that depends on an order."""


@dataclass(frozen=True, slots=True)
class Lot:
    """Runs of one scenario under one policy.

    Attributes:
        scenario: Its name.
        policy: As for `simulate`.
        seeds: The seeds.
    """

    scenario: str
    policy: str
    seeds: range


@dataclass(slots=True)
class Result:
    """What runs came to.

    Attributes:
        runs: How many.
        steps: Steps of their loops.
        virtual_seconds: Seconds on their clocks.
        faults: What was done to the bus, by name.
        failures: What failed, and how to see it again.
    """

    runs: int = 0
    steps: int = 0
    virtual_seconds: float = 0.0
    faults: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def add(self, other: Result) -> None:
        """Add what other runs came to."""
        self.runs += other.runs
        self.steps += other.steps
        # Rounded, so that it does not depend on the order in which processes end.
        self.virtual_seconds = round(self.virtual_seconds + other.virtual_seconds, 6)
        self.failures += other.failures
        for name, count in other.faults.items():
            self.faults[name] = self.faults.get(name, 0) + count


def lots(names: Sequence[str], first: int = 0) -> Iterator[Lot]:
    """Return lots without end: every scenario in turn, under a policy after the other."""
    for turn in itertools.count():
        begin = first + turn * LOT
        policy = POLICIES[turn % len(POLICIES)]
        for name in names:
            yield Lot(name, policy, range(begin, begin + LOT))


def up_to(runs: int, endless: Iterator[Lot]) -> Iterator[Lot]:
    """Return lots of so many runs together."""
    while runs > 0:
        lot = next(endless)
        yield Lot(lot.scenario, lot.policy, lot.seeds[:runs])
        runs -= len(lot.seeds)


def run(lot: Lot) -> tuple[str, Result]:
    """Do the runs of a lot up to the first that fails; return the scenario and what they came to.

    Called in a process of the pool, which is for that alone.
    """
    logging.getLogger("actorbus").setLevel(logging.CRITICAL)  # failures are what it is made of
    faults.clear()
    result = Result()
    try:
        counts = sweep(
            SCENARIOS[lot.scenario], seeds=lot.seeds, policy=lot.policy, max_steps=MAX_STEPS,
            progress=False,
        )  # fmt: skip
    except SweepFailure as failure:
        result.runs = failure.passed + 1
        what = str(failure.__cause__).partition("\n")[0]
        result.failures.append(
            f"{lot.scenario} fails with seed {failure.seed} under {lot.policy}: "
            f"{type(failure.__cause__).__name__}: {what}\n"
            f"  python -m tests.sweep --only {lot.scenario} --policy {lot.policy} "
            f"--seed {failure.seed}"
        )
    else:
        result.runs, result.steps = counts.runs, counts.steps
        result.virtual_seconds = round(counts.virtual_seconds, 6)
    result.faults = dict(+faults)
    return lot.scenario, result
