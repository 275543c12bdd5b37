"""Order: which of the steps that could run comes next.

What asyncio promises stays true under every policy: callbacks given to ``call_soon`` run in the
order they were given, timers that are due join them in the order of their times (equal times: in
any), and a task's own steps follow one another. What the policies choose is how the steps of
*different tasks*, and the row of callbacks, are interleaved. asyncio has an order for that too, but
a program that relies on it breaks with the next ``await`` somebody adds, or with a slower answer;
those are the bugs sought.

* ``fifo``: asyncio's own order. Finds what depends on time alone.
* ``random``: each ready task, and the row of callbacks, is as likely as any other.
* ``pct``: the ready task of the highest priority. Priorities are drawn at random, and at a few
  seeded points of the run the one that is about to run drops below all others. Finds a bug that
  needs few orderings with a known probability, however many steps surround it: S. Burckhardt,
  P. Kothari, M. Musuvathi, S. Nagarakatte, "A Randomized Scheduler with Probabilistic Guarantees
  of Finding Bugs", ASPLOS 2010. Two departures. The length of a run is not known beforehand, so
  the points are drawn evenly on a logarithmic scale up to 10,000 steps. And a task that has taken
  a hundred steps in a row while others could run drops too, or a spinning one would go on for ever.

Every operation is O(1), under ``pct`` O(ready tasks).
"""

from __future__ import annotations

from asyncio import Handle
from collections import deque
from collections.abc import Callable
from enum import StrEnum
from random import Random
from typing import Any, Protocol

Task = Any
Step = tuple[Handle, Task]
"""A handle that could run, and the task whose step it is; None for any other callback."""

DEPTH = 3  # priority drops of a run under pct
HORIZON = 10_000  # steps within which they fall
ROW = 100  # steps a task may take in a row under pct while others wait


class Policy(StrEnum):
    """How the next step is chosen."""

    RANDOM = "random"
    FIFO = "fifo"
    PCT = "pct"


class Order(Protocol):
    """The steps that could run."""

    def __len__(self) -> int: ...

    def put(self, handle: Handle, task: Task) -> None:
        """Add a step that could run."""

    def take(self) -> Step:
        """Remove the step that comes next; there must be one."""

    @property
    def mix(self) -> Callable[[list[Handle]], None]:
        """Orders timers that are due at the same time, which asyncio leaves undefined."""


class Fifo:
    """Asyncio's own order."""

    def __init__(self) -> None:
        self._steps: deque[Step] = deque()

    def __len__(self) -> int:
        return len(self._steps)

    def put(self, handle: Handle, task: Task) -> None:
        """Add a step that could run."""
        self._steps.append((handle, task))

    def take(self) -> Step:
        """Remove the step that comes next."""
        return self._steps.popleft()

    def mix(self, timers: list[Handle]) -> None:
        """Leave timers that are due at the same time as they are."""


class Shuffled:
    """Any order: each task, and the row of callbacks, is as likely as any other."""

    def __init__(self, chance: Random) -> None:
        self._draw = chance.random
        self.mix: Callable[[list[Handle]], None] = chance.shuffle
        self._callbacks: deque[Handle] = deque()
        self._steps: list[Step] = []

    def __len__(self) -> int:
        return len(self._steps) + len(self._callbacks)

    def put(self, handle: Handle, task: Task) -> None:
        """Add a step that could run."""
        if task is None:
            self._callbacks.append(handle)
        else:
            self._steps.append((handle, task))

    def take(self) -> Step:
        """Remove the step that comes next."""
        steps = self._steps
        ready = len(steps)
        choices = ready + 1 if self._callbacks else ready
        index = int(self._draw() * choices) if choices > 1 else 0
        if index == ready:
            return self._callbacks.popleft(), None
        steps[index], steps[-1] = steps[-1], steps[index]
        return steps.pop()


class Prioritized:
    """The ready task of the highest priority; the row of callbacks counts as one."""

    def __init__(self, chance: Random) -> None:
        self._chance = chance
        self.mix: Callable[[list[Handle]], None] = chance.shuffle
        self._callbacks: deque[Handle] = deque()
        self._ready: dict[Task, Handle] = {}
        self._priorities: dict[Task, float] = {None: chance.random()}
        self._drops = {int(HORIZON ** chance.random()) for _ in range(DEPTH)}
        self._lowest = 0.0
        self._taken = 0
        self._last: Task = None
        self._row = 0

    def __len__(self) -> int:
        return len(self._ready) + len(self._callbacks)

    def put(self, handle: Handle, task: Task) -> None:
        """Add a step that could run."""
        if task is None:
            self._callbacks.append(handle)
            return
        if task not in self._priorities:
            self._priorities[task] = self._chance.random()
        self._ready[task] = handle

    def take(self) -> Step:
        """Remove the step that comes next."""
        self._taken += 1
        task = self._highest()
        if self._taken in self._drops or self._hogs(task):
            self._lowest -= 1.0
            self._priorities[task] = self._lowest
            task = self._highest()
        if task is None:
            return self._callbacks.popleft(), None
        return self._ready.pop(task), task

    def _highest(self) -> Task:
        ready = [*self._ready, None] if self._callbacks else self._ready
        return max(ready, key=self._priorities.__getitem__)

    def _hogs(self, task: Task) -> bool:
        self._row = self._row + 1 if task is self._last and len(self) > 1 else 0
        self._last = task
        return self._row >= ROW


def order_of(policy: Policy, chance: Random) -> Order:
    """Return an empty order of a policy."""
    if policy is Policy.FIFO:
        return Fifo()
    return Shuffled(chance) if policy is Policy.RANDOM else Prioritized(chance)
