"""Threads, simulated: a job runs on the loop at a seeded moment, and its end is told at another.

A job is one step: it begins after a delay, and after a second one whoever waits learns of its end.
Inside it the program sees what it would see in a thread: no running loop, and a loop that belongs
to somebody else. Nothing else runs meanwhile, so ``time.sleep`` in a job moves the clock for all.
What needs a second thread to go on cannot be simulated: waiting for an event, a condition, a queue,
a future or ``receipt.wait()`` raises `RuntimeError` instead of blocking for ever. A bare
``threading.Lock`` that is taken blocks for real, and so does a loop that a job runs itself.
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import Callable
from random import Random
from typing import Any, Protocol, TypeVar

from actorbus.threads import Job, Threads

T = TypeVar("T")

DELAYS = (0.0, 0.0001, 0.001, 0.01, 0.1, 1.0)
"""Seconds until a job starts, and until its end is known."""


class Ground(Protocol):
    """What simulated threads need of the loop."""

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> object:
        """Call back after a delay."""

    def in_thread(self, job: Callable[[], T]) -> T:
        """Run a job as a thread would see it, and return what it returns."""

    def create_future(self) -> Future[Any]:
        """Return a future of the loop."""


class Pool:
    """What is known of one pool of the bus: jobs run in order of submission, `limit` at most."""

    def __init__(self, workers: Workers, threads: Threads) -> None:
        self._workers = workers
        self._threads = threads
        self._taken = 0
        self._called = 0  # taken and not yet begun

    def submit(self, job: Job) -> bool:
        """Run a job; return whether a thread takes it at once."""
        self._threads._jobs.append(job)
        return self._take()

    def _take(self) -> bool:
        if self._taken >= self._threads.limit or self._called >= len(self._threads._jobs):
            return False
        self._taken += 1
        self._called += 1
        self._workers.later(self._begin)
        return True

    def _begin(self) -> None:
        self._called -= 1
        job = self._threads._jobs.popleft()
        self._threads._telling += 1
        self._workers.later(self._end, self._workers.ground.in_thread(job))

    def _end(self, told: Callable[[], None] | None) -> None:
        self._taken -= 1
        self._threads._telling -= 1
        self._take()
        if told is not None:
            self._workers.ground.in_thread(told)

    def abandon(self) -> None:
        """Forget what has not run: the loop is over."""
        self._threads._jobs.clear()
        self._threads._lent.clear()
        self._threads._telling = 0


class Workers:
    """The threads of a simulation.

    Args:
        ground: The loop.
        chance: Draws the delays.
    """

    def __init__(self, ground: Ground, chance: Random) -> None:
        self.ground = ground
        self._chance = chance
        self._pools: dict[Threads, Pool] = {}

    def later(self, callback: Callable[..., object], *args: Any) -> None:
        """Call back after a seeded delay."""
        self.ground.call_later(self._chance.choice(DELAYS), callback, *args)

    def submit(self, threads: Threads, job: Job) -> bool:
        """Run a job of the bus; what `Threads.submit` does in a simulation."""
        pool = self._pools.get(threads)
        if pool is None:
            pool = self._pools[threads] = Pool(self, threads)
        return pool.submit(job)

    def call(self, func: Callable[[], T]) -> Future[T]:
        """Run a function in a thread; what ``run_in_executor`` does in a simulation."""
        future: Future[T] = self.ground.create_future()
        self.later(self._begin, func, future)
        return future

    def _begin(self, func: Callable[[], T], future: Future[T]) -> None:
        if future.cancelled():
            return

        def job() -> tuple[T | None, BaseException | None]:
            try:
                return func(), None
            except BaseException as error:  # noqa: BLE001 an executor hands over whatever it is
                return None, error

        self.later(_tell, future, *self.ground.in_thread(job))

    def abandon(self) -> None:
        """Forget what has not run: the loop is over."""
        for pool in self._pools.values():
            pool.abandon()
        self._pools.clear()


def _tell(future: Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
