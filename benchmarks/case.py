"""What a case asks, what it promises, and what came out.

A `Figure` is always a quantity of the subject beside the same quantity of a baseline that ran in
the same process, in turn with it. Its ``ratio`` says how many times as good as the baseline the
subject is: above 1 is better, whether the quantity is a rate, a latency or a size.
"""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from benchmarks.peers import BUSES


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and range of one quantity over the rounds."""

    median: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Sum up the values of all rounds."""
        found = sorted(values)
        return cls(statistics.median(found), found[0], found[-1], len(found))


@dataclass(frozen=True, slots=True)
class Goal:
    """What a figure has to reach.

    Attributes:
        of: Which part of the figure: its ratio to the baseline, its own quantity, or the worst
            round of that quantity (for a "never").
        at_least: Lower bound, or None.
        at_most: Upper bound, or None.
    """

    of: Literal["ratio", "subject", "worst"]
    at_least: float | None = None
    at_most: float | None = None

    def met_by(self, value: float) -> bool:
        """Return whether a value reaches the goal."""
        low = self.at_least is None or value >= self.at_least
        return low and (self.at_most is None or value <= self.at_most)

    def __str__(self) -> str:
        bounds = (("≥", self.at_least), ("≤", self.at_most))
        text = " ".join(f"{sign} {bound:,g}" for sign, bound in bounds if bound is not None)
        return f"{text} x" if self.of == "ratio" else text


@dataclass(slots=True)
class Figure:
    """One line of the result.

    Attributes:
        what: What was measured, short.
        unit: Of `subject` and `baseline`.
        subject: The quantity of actorbus (or of a peer).
        baseline: The same quantity of the baseline.
        ratio: How many times as good as the baseline, round by round, in CPU time where the
            quantity is a rate.
        wall: The same ratio in wall time, where CPU time was the measure.
        against: What the baseline is.
        goal: What it has to reach, or None.
        met: Whether it does; None where nothing is judged.
        notes: Further quantities.
    """

    what: str
    unit: str
    subject: Spread
    baseline: Spread | None = None
    ratio: Spread | None = None
    wall: Spread | None = None
    against: str = "asyncio.Queue(1024)"
    goal: Goal | None = None
    met: bool | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    def judge(self) -> None:
        """Decide whether the goal is met."""
        if self.goal is not None and (value := self.judged) is not None:
            self.met = self.goal.met_by(value)

    @property
    def judged(self) -> float | None:
        """The value the goal looks at."""
        if self.goal is None:
            return None
        if self.goal.of == "ratio":
            return None if self.ratio is None else self.ratio.median
        if self.goal.of == "worst":
            return self.subject.high
        return self.subject.median

    def to_json(self) -> dict[str, Any]:
        """Return the figure as plain data, the goal also in words."""
        plain = asdict(self)
        plain["goal_text"] = None if self.goal is None else str(self.goal)
        return plain


@dataclass(frozen=True, slots=True)
class Effort:
    """How much work a run may spend.

    Attributes:
        quick: Whether this is a smoke run, too short to judge anything.
        rounds: Alternations of baseline and subject; at least 5 unless quick.
        lap_seconds: How long one lap should take at least, roughly.
    """

    quick: bool = False
    rounds: int = 7
    lap_seconds: float = 0.12

    @classmethod
    def brief(cls) -> Effort:
        """Return the effort of a smoke run."""
        return cls(quick=True, rounds=3, lap_seconds=0.01)

    def pick(self, full: int, quick: int) -> int:
        """Return a size: the full one, or the one of a smoke run."""
        return quick if self.quick else full


Measure = Callable[[Effort], Awaitable[Sequence[Figure]]]
MeasurePeer = Callable[[Effort, str], Awaitable[Sequence[Figure]]]


@dataclass(frozen=True, slots=True)
class Case:
    """One measurement, run in a process of its own.

    Attributes:
        name: Unique; ``question.detail``.
        question: What it answers, in one sentence.
        completion: How the end of the work is awaited.
        measure: A coroutine function that measures actorbus.
        peer: One that measures a peer by name, where peers can answer too.
        times: The least ratio of actorbus to a peer, by peer; ``isolating`` stands for the fastest
            one that a slow and a failing neighbour does not harm.
        rivals: The peers that can answer.
    """

    name: str
    question: str
    completion: str
    measure: Measure
    peer: MeasurePeer | None = None
    times: dict[str, float] = field(default_factory=dict)
    rivals: Collection[str] = tuple(BUSES)
