"""Stepping: a simulated loop whose every step somebody else asks for.

A model calls, steps and lets time pass from outside; between two such calls nothing runs. Which of
the ready steps comes next is the caller's choice too, so Hypothesis can draw it and shrink it: 0
is always asyncio's own order.
"""

from __future__ import annotations

import math
from asyncio import Handle
from collections.abc import Awaitable, Callable, Iterator, Sequence
from random import Random
from typing import Any, TypeVar

from actorbus.testing.loop import SimulatedLoop
from actorbus.testing.order import Step, Task

T = TypeVar("T")

UNLIMITED = 1 << 62


class Chosen:
    """The steps that could run, and whose turn it is by somebody else's choice.

    Attributes:
        first: A callback that comes before all others, once.
        picks: Which step comes next: each number counts the ready tasks, and the row of callbacks,
            from the one that has been ready longest.
        chance: Chooses when there are no picks; None is asyncio's own order.
    """

    def __init__(self) -> None:
        self._steps: list[Step] = []
        self.first: Handle | None = None
        self.picks: Iterator[int] = iter(())
        self.chance: Random | None = None

    def __len__(self) -> int:
        return len(self._steps) + (self.first is not None)

    def put(self, handle: Handle, task: Task) -> None:
        """Add a step that could run."""
        self._steps.append((handle, task))

    def take(self) -> Step:
        """Remove the step that comes next."""
        if self.first is not None:
            first, self.first = self.first, None
            return first, None
        steps = self._steps
        pick = next(self.picks, None)
        if pick is None:
            pick = 0 if self.chance is None else self.chance.randrange(len(steps))
        if not pick or len(steps) == 1:
            return steps.pop(0)
        choices = [i for i, (_, task) in enumerate(steps) if task is not None]
        row = next((i for i, (_, task) in enumerate(steps) if task is None), None)
        if row is not None:
            choices = sorted([*choices, row])
        return steps.pop(choices[pick % len(choices)])

    def mix(self, timers: list[Handle]) -> None:
        """Order timers that are due at the same time."""
        if self.chance is not None:
            self.chance.shuffle(timers)


class SteppedLoop(SimulatedLoop):
    """A simulated loop that runs as far as it is told.

    Args:
        max_steps: Steps it may take.
        seed: Of the delays of threads.
    """

    def __init__(self, max_steps: int, seed: int) -> None:
        self._chosen = Chosen()
        self._left = UNLIMITED
        self._horizon: float | None = None
        super().__init__(self._chosen, max_steps, Random(f"{seed} of the threads"))  # noqa: S311

    def call(self, function: Callable[[], T]) -> T:
        """Call a function in a step of its own, before any other."""
        box: list[T] = []
        error: list[BaseException] = []

        def step() -> None:
            try:
                box.append(function())
            except BaseException as raised:  # noqa: BLE001 handed to whoever has called
                error.append(raised)

        self._chosen.first = Handle(step, (), self)
        self._go(1, self.time())
        if error:
            raise error[0]
        return box[0]

    def step(self, picks: Sequence[int]) -> None:
        """Take one step for each pick, as long as something can run without time passing."""
        self._chosen.picks = iter(picks)
        if picks:
            self._go(len(picks), self.time())

    def advance(self, seconds: float, order: int = 0) -> None:
        """Run everything until so many seconds have passed, in asyncio's order or a seeded one."""
        self._seed(order)
        self._go(UNLIMITED, self.time() + seconds)

    def finish(self, awaitable: Awaitable[T], order: int = 0) -> T:
        """Run until an awaitable is done, and return its result.

        Raises:
            SimulationDeadlock: Nothing can run and no timer is set.
        """
        self._seed(order)
        self._left, self._horizon = UNLIMITED, math.inf
        return self.run_until_complete(awaitable)

    def let_go(self) -> None:
        """Cancel tasks, some times over, until none is left, and let the threads be."""
        allowed = self.max_steps
        for _ in range(20):
            for task in list(self.tasks):
                task.cancel()
            self.max_steps = self.steps + allowed
            self.advance(2.0)
            if not self.tasks:
                break
        self.workers.abandon()

    def _seed(self, order: int) -> None:
        self._chosen.chance = Random(order) if order else None  # noqa: S311 to be repeated

    def _go(self, steps: int, until: float) -> None:
        self._left, self._horizon = steps, until
        self.run_forever()

    def _note(self, handle: Any, task: Any) -> None:
        super()._note(handle, task)
        self._left -= 1
        if not self._left:
            self.stop()

    def _jump(self) -> None:
        horizon = math.inf if self._horizon is None else self._horizon
        if horizon == math.inf or (self._scheduled and self._scheduled[0]._when <= horizon):
            super()._jump()
        else:
            self.sleep(horizon - self.time())
            self.stop()
