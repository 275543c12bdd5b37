"""The loop of a simulation: virtual time, one step after the other, in a seeded order.

A step is one callback asyncio would run: the next piece of a task, a timer that is due, a
callback. Each costs `COST` virtual seconds, so code that spins until a time has come gets there;
when nothing can run the clock jumps to the next timer. Nothing takes real time but the steps.

Leans on internals of asyncio, pinned by a test for each version of Python: ``_run_once``,
``_scheduled``, ``_stopping``, ``_thread_id``, `asyncio.Handle`'s ``_cancelled`` and ``_run``, and
that a task's steps are methods bound to it. Sockets, pipes, signals and subprocesses are not there:
using them raises `NotImplementedError`.
"""

from __future__ import annotations

import asyncio
import gc
import heapq
from array import array
from asyncio import Handle, events
from asyncio.tasks import _PyTask  # type: ignore[attr-defined]  # a task by another name
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextvars import Context
from functools import partial
from itertools import count, groupby
from operator import attrgetter
from random import Random
from threading import get_ident
from typing import Any, TypeVar, TypeVarTuple

from actorbus.testing.cutting import Cut
from actorbus.testing.errors import SimulationDeadlock, StepLimitError
from actorbus.testing.order import Order
from actorbus.testing.stuck import mailboxes, places
from actorbus.testing.threads import Workers

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

COST = 1e-5  # virtual seconds of a step
SWEPT = 4096  # steps between two collections of young garbage
CROWD = 100  # timers from which on the cancelled ones are cleared away when they are the most
ELSEWHERE = -1  # stands for the loop's thread while the program is to believe it is in another
STEPS = {None, "task_wakeup", "__step", "__wakeup"}  # names of what asyncio calls to step a task
TASKS = (asyncio.Task, _PyTask)


class SimulatedTask(asyncio.Task[Any]):
    """A task whose hash is its number, so that no order depends on where it lies in memory.

    asyncio and anyio keep tasks in sets and cancel them in the order of those.
    """

    def __init__(self, coro: Coroutine[Any, Any, Any], *, number: int, **options: Any) -> None:
        self.number = number
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self.number


class SimulatedLoop(asyncio.BaseEventLoop):
    """An event loop with virtual time and a seeded order.

    Args:
        order: Chooses the next step.
        max_steps: Steps it may take.
        chance: Draws the delays of threads.

    Attributes:
        steps: Steps taken.
        times: The virtual time of each step.
        names: The task of each step, or "-".
        whats: What each step ran.
        tasks: Every task that has not ended, in order of their making, and what it runs.
        cuts: Tasks to be cancelled at an await.
        workers: The simulated threads.
    """

    _scheduled: list[Any]
    _stopping: bool
    _thread_id: int | None
    _timer_cancelled_count: int
    _task_factory: Any
    _exception_handler: Any

    def __init__(self, order: Order, max_steps: int, chance: Random) -> None:
        super().__init__()
        self._order = order
        self._now = 0.0
        self._own_thread = get_ident()
        self._numbers, self._unnamed = count(1), count(1)
        self.max_steps = max_steps
        self.steps = 0
        self.tasks: dict[Any, str] = {}
        self.cuts: dict[Any, list[Cut]] = {}
        self.workers = Workers(self, chance)
        self.forget()

    def forget(self) -> None:
        """Begin a new record."""
        self.times = array("d")
        self.names: list[str] = []
        self.whats: list[str] = []

    # -- what asyncio asks of a loop --------------------------------------------------------------

    def time(self) -> float:
        """Return virtual seconds; 0 when the loop is made."""
        return self._now

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> Handle:
        """As asyncio's; whose step it is decides how freely it is ordered."""
        self._check_closed()  # type: ignore[attr-defined]
        handle = Handle(callback, args, self, context)
        owner = getattr(callback, "__self__", None)
        if isinstance(owner, TASKS) and getattr(callback, "__name__", None) in STEPS:
            if owner not in self.tasks:
                self._enrol(owner)
            self._order.put(handle, owner)
        else:
            self._order.put(handle, None)
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> Handle:
        """As asyncio's, for simulated threads; a real one has no place in a seeded order.

        Raises:
            RuntimeError: Called in another thread.
        """
        if get_ident() != self._own_thread:
            raise RuntimeError("a real thread calls into a simulation: its order is not seeded")
        return self.call_soon(callback, *args, context=context)

    def create_task(self, coro: Any, **options: Any) -> Any:
        """As asyncio's."""
        if self._task_factory is not None:
            return super().create_task(coro, **options)
        self._check_closed()  # type: ignore[attr-defined]
        return SimulatedTask(coro, number=next(self._numbers), loop=self, **options)

    def run_in_executor(self, _: Any, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        """Run a function in a simulated thread, whatever the executor."""
        return self.workers.call(partial(func, *args))

    async def shutdown_default_executor(self, *_: Any) -> None:
        """Do nothing: there is none."""

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """As asyncio's, but what a callback raises ends the simulation instead of being logged."""
        error = context.get("exception")
        if self._exception_handler is None and "handle" in context and error is not None:
            raise error
        super().call_exception_handler(context)

    def _process_events(self, event_list: object) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """There is nobody to wake."""

    # -- what the simulation asks of it -----------------------------------------------------------

    def in_thread(self, job: Callable[[], T]) -> T:
        """Run a job as a thread would see it, and return what it returns."""
        thread, self._thread_id = self._thread_id, ELSEWHERE
        events._set_running_loop(None)
        try:
            return Context().run(job)
        finally:
            events._set_running_loop(self)
            self._thread_id = thread

    def sleep(self, seconds: float) -> None:
        """Let time pass in the midst of a step; nothing else runs meanwhile."""
        self._now += max(0.0, seconds)

    def _enrol(self, task: Any) -> None:
        if task.get_name().startswith("Task-"):  # asyncio numbers the tasks of the whole process
            task.set_name(f"task-{next(self._unnamed)}")
        coroutine = task.get_coro()
        self.tasks[task] = getattr(coroutine, "__qualname__", type(coroutine).__name__)

    def _run_once(self) -> None:
        """Take steps until the loop is stopped."""
        order = self._order
        while not self._stopping:
            if self._scheduled:
                self._ring()
            if not order:
                self._jump()
                continue
            handle, task = order.take()
            if handle._cancelled:
                continue
            if self.steps >= self.max_steps:
                raise StepLimitError(self.max_steps, Counter(self.names).most_common(3))
            self._note(handle, task)
            handle._run()
            if task is not None:
                self._stepped(task)
            if not self.steps % SWEPT:
                gc.collect(0)

    def _note(self, handle: Any, task: Any) -> None:
        self.steps += 1
        self._now += COST
        self.times.append(self._now)
        if task is None:
            self.names.append("-")
            self.whats.append(name_of(handle._callback))
        else:
            self.names.append(task.get_name())
            self.whats.append(self.tasks[task])

    def _stepped(self, task: Any) -> None:
        if task.done():
            del self.tasks[task]
            self.cuts.pop(task, None)
        elif task in self.cuts:
            for cut in self.cuts[task]:
                cut.awaited()

    def _ring(self) -> None:
        """Put the timers that are due among what could run."""
        timers, now, order = self._scheduled, self._now, self._order
        if len(timers) > CROWD and self._timer_cancelled_count * 2 > len(timers):
            for timer in timers:
                timer._scheduled = not timer._cancelled
            timers[:] = [timer for timer in timers if not timer._cancelled]
            heapq.heapify(timers)
            self._timer_cancelled_count = 0
        due: list[Any] = []
        while timers and (timers[0]._when <= now or timers[0]._cancelled):
            timer = heapq.heappop(timers)
            timer._scheduled = False
            if timer._cancelled:
                self._timer_cancelled_count -= 1
            else:
                due.append(timer)
        for timer in due if len(due) < 2 else self._mixed(due):
            order.put(timer, None)

    def _mixed(self, due: list[Any]) -> Iterator[Any]:
        """Return timers in the order of their times, those of one time in any."""
        for _, group in groupby(due, key=attrgetter("_when")):
            timers = list(group)
            self._order.mix(timers)
            yield from timers

    def _jump(self) -> None:
        """Go to the next timer."""
        if not self._scheduled:
            raise SimulationDeadlock(places(self.tasks), mailboxes(self))
        self._now = max(self._now, self._scheduled[0]._when)


def name_of(callback: Any) -> str:
    """Return a name of a callback that is the same in every process."""
    while isinstance(callback, partial):
        callback = callback.func
    name = getattr(callback, "__qualname__", None)
    return name if isinstance(name, str) else type(callback).__qualname__
