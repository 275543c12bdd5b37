"""Running a bus as a program: it owns the loop, and a signal drains it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Runnable(Protocol):
    """What running needs of a bus."""

    async def __aenter__(self) -> Any:
        """Start it."""

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object, /
    ) -> bool | None:
        """Drain and close it."""


def run_bus(bus: Runnable, main: Callable[[], Awaitable[T]] | None) -> T | None:
    """Run a bus, and a main function on it, to the end.

    Args:
        bus: The bus.
        main: Awaited while the bus runs; None serves until a signal.

    Returns:
        What `main` returned; None if a signal ended it.
    """
    with asyncio.Runner() as runner:
        return runner.run(_run(bus, main))


async def _run(bus: Runnable, main: Callable[[], Awaitable[T]] | None) -> T | None:
    stop = _Signals()
    async with bus:
        task = asyncio.ensure_future(_serve(main))
        stop.ends(task)
        try:
            return await task
        except asyncio.CancelledError:
            if not stop.received:
                task.cancel()
                raise
            return None
        finally:
            stop.ends(None)


async def _serve(main: Callable[[], Awaitable[T]] | None) -> T | None:
    if main is not None:
        return await main()
    await asyncio.Event().wait()
    return None


class _Signals:
    """The first signal ends a task, the second the process."""

    def __init__(self) -> None:
        self.received = 0
        self._task: asyncio.Future[Any] | None = None
        if threading.current_thread() is not threading.main_thread():
            return  # only the main thread hears signals
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                loop.add_signal_handler(number, self._receive, number)
            except NotImplementedError:  # an event loop without signals, as on Windows
                signal.signal(number, lambda n, _: loop.call_soon_threadsafe(self._receive, n))

    def ends(self, task: asyncio.Future[Any] | None) -> None:
        """Say which task the first signal ends, though it may have come before."""
        self._task = task
        if self.received and task is not None:
            task.cancel()

    def _receive(self, number: int) -> None:
        self.received += 1
        if self.received == 1:
            if self._task is not None:
                self._task.cancel()
            return
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(128 + number)
