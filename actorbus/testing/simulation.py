"""Simulation: one run of a scenario under a seed."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from array import array
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from random import Random
from typing import Any, Generic, TypeVar

from actorbus.checks import choice
from actorbus.errors import ConfigurationError
from actorbus.testing.errors import SimulationDeadlock, StepLimitError
from actorbus.testing.loop import SimulatedLoop, name_of
from actorbus.testing.order import Policy, order_of
from actorbus.testing.surroundings import surroundings

T = TypeVar("T")

MAX_STEPS = 1_000_000
"""Steps a run may take unless told otherwise: a handful of seconds of real time."""

AFTERWARDS = 100_000
"""Steps the tasks that are left may take to end when they are cancelled."""


@dataclass(frozen=True)
class Run(Generic[T]):
    """What a simulation came to.

    Attributes:
        result: What the scenario returned.
        seed: The seed.
        policy: The policy.
        steps: Steps taken.
        virtual_seconds: How long it took on the virtual clock.
    """

    result: T
    seed: int
    policy: Policy
    steps: int
    virtual_seconds: float
    _times: array[float] = field(repr=False)
    _names: Sequence[str] = field(repr=False)
    _whats: Sequence[str] = field(repr=False)

    @cached_property
    def trace(self) -> tuple[str, ...]:
        """The steps, one line each: number, virtual seconds, task ("-" for none), what ran."""
        steps = zip(self._times, self._names, self._whats, strict=True)
        return tuple(f"{i} {at:.5f} {who} {what}" for i, (at, who, what) in enumerate(steps, 1))

    @cached_property
    def digest(self) -> str:
        """16 hexadecimal digits of the trace: equal in every process for an equal trace."""
        return hashlib.sha256("\n".join(self.trace).encode()).hexdigest()[:16]


def simulate(
    main: Callable[[], Coroutine[Any, Any, T]],
    *,
    seed: int = 0,
    policy: Policy | str = Policy.RANDOM,
    max_steps: int = MAX_STEPS,
) -> Run[T]:
    """Run a scenario on a loop with virtual time and a seeded order of task steps.

    Equal seeds give equal runs, in every process: the order of the tasks, the delays of threads,
    `random` and all that `actorbus.world` gives follow from the seed. The scenario makes what it
    needs, its bus above all; what it leaves behind is cancelled and closed.

    Args:
        main: The scenario, an async function without arguments.
        seed: Chooses the order.
        policy: How: ``"random"``, ``"fifo"`` (asyncio's own order) or ``"pct"`` (priorities).
        max_steps: Steps it may take.

    Returns:
        What it came to.

    Raises:
        SimulationDeadlock: Nothing can run and no timer is set.
        StepLimitError: The scenario has not ended after `max_steps`.
        BaseException: What the scenario raises, or a callback of its; a note names the seed.
        ConfigurationError: `policy` is none, or `max_steps` is less than 1.
        TypeError: `main` returns no coroutine.
        RuntimeError: A loop runs in this thread, or another simulation in this process.
    """
    chosen = check(policy, max_steps)
    draws = Random(f"{seed} of the order")  # noqa: S311 to be repeated, not to be secret
    delays = Random(f"{seed} of the threads")  # noqa: S311 likewise
    loop = SimulatedLoop(order_of(chosen, draws), max_steps, delays)
    try:
        with surroundings(loop, seed):
            try:
                result = loop.run_until_complete(_task(main, loop))
                return Run(
                    result, seed, chosen, loop.steps, loop.time(), loop.times, loop.names,
                    loop.whats,
                )  # fmt: skip
            finally:
                _release(loop)
    except BaseException as error:
        error.add_note(f"simulated: {replay_line(main, seed, chosen, max_steps)}")
        raise
    finally:
        loop.close()


def check(policy: Policy | str, max_steps: int) -> Policy:
    """Return the policy; refuse options that are none, and to run inside another loop.

    Raises:
        ConfigurationError: As `simulate` says.
        RuntimeError: A loop runs in this thread.
    """
    if asyncio._get_running_loop() is not None:
        raise RuntimeError("a simulation has a loop of its own and cannot run inside another")
    if max_steps < 1:
        raise ConfigurationError(f"max_steps must be at least 1, not {max_steps!r}")
    return choice("policy", Policy, policy)


def replay_line(main: object, seed: int, policy: Policy, max_steps: int) -> str:
    """Return the line of Python that repeats a run."""
    steps = "" if max_steps == MAX_STEPS else f", max_steps={max_steps}"
    return f"simulate({name_of(main)}, seed={seed}, policy={str(policy)!r}{steps})"


def _task(main: Callable[[], Coroutine[Any, Any, T]], loop: SimulatedLoop) -> asyncio.Task[T]:
    coroutine = main()
    if not asyncio.iscoroutine(coroutine):
        raise TypeError(f"main must be an async function, not {main!r}")
    task: asyncio.Task[T] = loop.create_task(coroutine, name="main")
    return task


def _release(loop: SimulatedLoop) -> None:
    """End what the scenario has left: tasks, async generators, jobs of threads."""
    loop.forget()
    loop.max_steps = loop.steps + AFTERWARDS
    with contextlib.suppress(SimulationDeadlock, StepLimitError):
        while left := [task for task in loop.tasks if not task.done()]:
            for task in left:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    with contextlib.suppress(SimulationDeadlock, StepLimitError):
        loop.max_steps = loop.steps + AFTERWARDS
        loop.run_until_complete(loop.shutdown_asyncgens())
    for task in loop.tasks:  # they will not end
        task._log_destroy_pending = False
    loop.workers.abandon()
