"""Life cycle: starting a bus, waiting for it, and bringing it to rest."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Self, TypeVar

import anyio

from actorbus import closing
from actorbus.closing import DrainReport
from actorbus.engine import Engine
from actorbus.errors import BusNotRunningError, DeadlockError, JournalError
from actorbus.hand import in_hand
from actorbus.running import run_bus

T = TypeVar("T")


class Lifecycle:
    """The part of `EventBus` that starts, settles, drains, closes and runs."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        engine.on_collapse = self._collapse
        self._closing: asyncio.Task[DrainReport] | None = None
        self._report = DrainReport()
        self._collapsed: BaseException | None = None
        self._entered: asyncio.Task[Any] | None = None

    async def start(self) -> None:
        """Start the bus, or open it again with its subscriptions after a close.

        Raises:
            BusNotRunningError: It runs on another loop.
            JournalError: The journal cannot be opened; the bus is closed then.
        """
        closing = self._closing
        if closing is not None and not (closing.done() or closing.get_loop().is_closed()):
            await asyncio.wait({closing})
        engine = self._engine
        engine.settle_lost_loop()
        loop = asyncio.get_running_loop()
        if engine.running:
            if engine.loop is not loop:
                raise BusNotRunningError(self._engine.name)
        else:
            self._closing = self._collapsed = None
            engine.start(loop)
        anyio.CancelScope()  # loads anyio's backend now rather than in the first settle or drain
        await engine.started()
        if engine.recorder is not None:
            try:
                await engine.recorder.ready()
            except JournalError:
                await self.close(0.0)
                raise

    async def __aenter__(self) -> Self:
        """Start the bus."""
        self._entered = asyncio.current_task()
        await self.start()
        return self

    async def __aexit__(
        self, _: type[BaseException] | None, error: BaseException | None, __: object
    ) -> bool:
        """Drain and close the bus.

        Raises:
            BaseException: What an actor gave up with under ``on_give_up="raise"``.
        """
        task, self._entered = self._entered, None
        with anyio.CancelScope(shield=True):
            await self.close()
        collapsed, self._collapsed = self._collapsed, None
        if collapsed is not None:
            if isinstance(error, asyncio.CancelledError) and task is not None:
                task.uncancel()
            raise collapsed
        return False

    def _collapse(self, error: BaseException) -> None:
        """End the bus, and the block it lives in, because an actor gave up for all of it."""
        if self._collapsed is not None:
            return
        self._collapsed = error
        if self._entered is not None:
            self._entered.cancel()
        else:
            self._close_soon(25.0)

    async def settle(self, timeout: float | None = None) -> None:
        """Wait until no delivery is waiting, queued, running or retrying.

        Mail of suspended actors does not count.

        Args:
            timeout: Seconds; None waits for ever.

        Raises:
            TimeoutError: Not in time; names the busy subscriptions.
            DeadlockError: Called in a handler, whose own delivery would never settle.
        """
        hand = in_hand.get()
        if hand is not None and hand.is_here():
            raise DeadlockError((hand.actor.name,), "settle")
        engine = self._engine
        engine.settle_lost_loop()
        engine.intake.flush()
        with anyio.move_on_after(timeout) as limit:
            await closing.until_idle(engine)
        if limit.cancelled_caught:
            busy = ", ".join([*closing.busy_names(engine.busy), *engine.at_the_journal()])
            raise TimeoutError(
                f"bus {self._engine.name!r} is not settled after {timeout:g} s: {busy}"
            )

    async def drain(self, timeout: float | None = 25.0) -> DrainReport:
        """Finish accepted work and accept no more.

        Publishes without a cause in hand are refused, those of handlers accepted; no delay is
        longer than a second; actors stop in reverse order.

        Args:
            timeout: Seconds; what is left then is dead (``drain_timeout``). None waits for ever.

        Returns:
            What it came to; the same report for every caller.

        In a handler it does not wait for that handler's actor. Cancelling the call does not stop
        the drain.
        """
        return await asyncio.shield(self._close_soon(timeout))

    async def close(self, timeout: float | None = 25.0) -> DrainReport:
        """Drain, then release threads, timers and tasks.

        The ledger, the dead letters and the history stay readable; ``start()`` opens the bus again
        with its subscriptions.

        Args:
            timeout: As for `drain`. A journal that is at work has what is left of it, at least a
                second; then it is named in the report, and who awaits an event is told that it is
                not known whether that was committed.

        Returns:
            The drain's report.
        """
        started = anyio.current_time()
        report = await self.drain(timeout)
        engine = self._engine
        engine.closed = True
        hand = in_hand.get()
        own = hand.actor.name if hand is not None and hand.is_here() else None
        spared = {
            asyncio.current_task(), *(task for task, name in engine.tasks.items() if name == own),
        }  # fmt: skip
        await closing.end_tasks(lambda: list(engine.tasks), [task for task in spared if task])
        engine.threads.close()
        if engine.recorder is not None:
            left = None if timeout is None else timeout - (anyio.current_time() - started)
            report = await closing.close_journal(engine.recorder.scribe, left, report)
        return report

    def _close_soon(self, timeout: float | None) -> asyncio.Task[DrainReport]:
        if self._closing is None or (self._closing.done() and self._engine.running):
            hand = in_hand.get()  # a drain that is over though the bus runs died with its loop
            own = hand if hand is not None and hand.is_here() else None
            if self._engine.running:
                self._engine.refuse_new()  # from this call on, not from the task's first step
            self._closing = asyncio.Task(
                self._drain(timeout, own), loop=asyncio.get_running_loop(),
                name=f"actorbus:{self._engine.name}:drain",
            )  # fmt: skip
        return self._closing

    async def _drain(self, timeout: float | None, hand: Any) -> DrainReport:
        engine = self._engine
        if not engine.running:
            engine.closed = True
            return self._report
        self._report = await closing.drain(engine, timeout, hand)
        engine.come_to_rest()
        return self._report

    def run(self, main: Callable[[], Awaitable[T]] | None = None) -> T | None:
        """Run a program: own the loop, start the bus, await `main`, drain.

        The first SIGTERM or SIGINT cancels `main` and drains; the second ends the process with
        128 plus its number.

        Args:
            main: A coroutine function; None serves until a signal.

        Returns:
            What `main` returned; None if a signal ended it.

        Raises:
            BaseException: What `main` raised, or an actor under ``on_give_up="raise"``.
        """
        return run_bus(self, main)
