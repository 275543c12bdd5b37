"""An event loop with virtual time: a year of sleeping takes no time at all.

The loop's clock stands still while anything is ready and jumps to the next timer when nothing is.
What cannot be jumped over is a thread: while one has work the clock stands and the loop waits for
it in real time. The loop knows of threads that ``run_in_executor`` and ``asyncio.to_thread``
started, and of those of every bus that runs on it; about others it asks
`VirtualLoop.waits_for_threads`. A socket is not waited for while there is a timer to jump to.

The hooks are a selector of its own, ``loop.time`` and ``_clock_resolution``; the last is private,
and needed because a float of 10^7 seconds cannot tell the nanoseconds asyncio adds to it.

With pytest, mark a test ``virtual_time``. Elsewhere ``asyncio.Runner(loop_factory=VirtualLoop)``,
`run`, or, for every test of anyio's plugin, an ``anyio_backend`` that returns
``("asyncio", {"loop_factory": VirtualLoop})``.
"""

from __future__ import annotations

import asyncio
import math
import selectors
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, TypeVarTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from concurrent.futures import Executor

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


SLICE = 0.005  # real seconds between two looks whether threads are busy


class StuckLoopError(AssertionError):
    """Nothing can ever wake the loop, or its virtual time has run out."""


class Busy(Protocol):
    """Threads that may call the loop."""

    @property
    def busy(self) -> int:
        """Jobs that run now or wait for a thread."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """A selector loop whose time jumps instead of passing.

    Attributes:
        waits_for_threads: Returns whether a thread the loop does not know of will call it back.
        patience: Real seconds to wait for a thread before the clock jumps, once and for all, or,
            with no timer to jump to, before `StuckLoopError` is raised.
        horizon: Virtual seconds at which `StuckLoopError` is raised.
    """

    _selector: selectors.BaseSelector
    _clock_resolution: float

    def __init__(self) -> None:
        self.waits_for_threads: Callable[[], bool] = lambda: False
        self.patience = 10.0
        self.horizon = math.inf
        self._now = 0.0
        self._calls_in_threads = 0
        self._heeded: list[Busy] = []
        self._given_up = 0
        selector = _JumpingSelector()
        selector.loop = self
        super().__init__(selector)
        self._clock_resolution = 1e-6  # without it a timer due now is never due: time stands still
        self._own_descriptors = len(selector.get_map())

    def time(self) -> float:
        """Return virtual seconds; 0 when the loop is made."""
        return self._now

    def heed(self, threads: Busy) -> None:
        """Let the clock stand while these threads have work; a bus that starts here asks for it."""
        if threads not in self._heeded:
            self._heeded.append(threads)

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """As asyncio's; the clock stands until the call has ended."""
        future = super().run_in_executor(executor, func, *args)
        self._calls_in_threads += 1
        future.add_done_callback(self._call_ended)
        return future

    async def shutdown_default_executor(self, *timeout: Any) -> None:
        """As asyncio's; the clock stands until its threads have ended."""
        self._calls_in_threads += 1
        try:
            await super().shutdown_default_executor(*timeout)
        finally:
            self._calls_in_threads -= 1

    def idle(self, timeout: float | None, wait: Callable[[float | None], list[Any]]) -> list[Any]:
        """Decide what a loop does that has nothing to do.

        Args:
            timeout: Seconds to the next timer, or None without one.
            wait: Waits for descriptors for so many real seconds and returns the ready ones.

        Returns:
            The ready descriptors.

        Raises:
            StuckLoopError: Nothing can ever wake the loop, or the horizon is reached.
        """
        patient_until = monotonic() + self.patience
        waited_for = self._given_up if timeout is not None else 0
        while (busy := self._busy_threads()) > waited_for and monotonic() < patient_until:
            if events := wait(SLICE):  # not longer: a thread that has called may be idle any moment
                return events
        self._given_up = busy  # who blocks for ever is waited for once, not at every jump
        if events := wait(0):  # a thread may have called just before it was idle
            return events
        if busy:
            if timeout is None:
                raise StuckLoopError(f"no thread called within {self.patience} s: {self._tasks()}")
        elif timeout is None:
            if len(self._selector.get_map()) > self._own_descriptors:
                return wait(None)  # a socket or pipe may wake it
            raise StuckLoopError(f"nothing can ever wake the loop: {self._tasks()}")
        assert timeout is not None  # noqa: S101 without a timer every way above has ended
        if self._now + timeout > self.horizon:
            raise StuckLoopError(f"still busy at {self.horizon:g} virtual s: {self._tasks()}")
        self._now += timeout
        return []

    def _busy_threads(self) -> int:
        of_buses = sum(threads.busy for threads in self._heeded)
        return self._calls_in_threads + of_buses + bool(self.waits_for_threads())

    def _call_ended(self, _: asyncio.Future[Any]) -> None:
        self._calls_in_threads -= 1

    def _tasks(self) -> str:
        """Return the name and place of every pending task."""
        return "; ".join(sorted(map(_describe, asyncio.all_tasks(self)))) or "no task is pending"


class _JumpingSelector(selectors.DefaultSelector):
    """Polls, and leaves the waiting to the loop."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        return self.loop.idle(timeout, super().select)


def _describe(task: asyncio.Task[Any]) -> str:
    frames = task.get_stack(limit=1)
    where = f" at {frames[0].f_code.co_filename}:{frames[0].f_lineno}" if frames else ""
    return f"{task.get_name()}{where}"


def run(
    main: Callable[[*Ts], Coroutine[Any, Any, T]],
    *args: *Ts,
    timeout_virtual: float = 1e7,
    loop: VirtualLoop | None = None,
) -> T:
    """Run an async function on a fresh `VirtualLoop` to its end.

    Args:
        main: The async function.
        args: What it is called with.
        timeout_virtual: Virtual seconds it may take.
        loop: A loop to use instead, which is closed at the end.

    Returns:
        What it returns.

    Raises:
        StuckLoopError: It waits for what can never come, or takes longer.
    """
    made = loop or VirtualLoop()
    made.horizon = timeout_virtual
    with asyncio.Runner(loop_factory=lambda: made) as runner:
        try:
            return runner.run(main(*args))
        finally:
            made.horizon = math.inf  # cancelled tasks may take their time to end
