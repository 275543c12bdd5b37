"""Outside: waiting for something on the bus's loop, in a thread or on a loop of another thread."""

from __future__ import annotations

import asyncio
import math
import time
from asyncio import _get_running_loop
from collections.abc import Coroutine
from concurrent.futures import CancelledError
from typing import Any, TypeVar

from actorbus.errors import BusNotRunningError

T = TypeVar("T")

LOOK = 1.0  # seconds between two looks whether the loop still runs: a dead one wakes nobody


def is_outside(loop: asyncio.AbstractEventLoop | None) -> bool:
    """Return whether a running coroutine is not on the bus's loop."""
    return loop is not None and loop is not _get_running_loop()


async def elsewhere(
    coroutine: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop | None, bus: str
) -> T:
    """Await a coroutine that runs on the bus's loop, from another loop.

    Raises:
        BusNotRunningError: The bus's loop does not run.
        BaseException: What the coroutine raises.
    """
    if loop is None or not loop.is_running():
        coroutine.close()
        raise BusNotRunningError(bus)
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, loop))


def blocking(
    coroutine: Coroutine[Any, Any, T],
    loop: asyncio.AbstractEventLoop | None,
    bus: str,
    timeout: float | None,
) -> T:
    """Block this thread until a coroutine has run on the bus's loop.

    Raises:
        RuntimeError: This is the loop's own thread.
        TimeoutError: Not in time; the coroutine is cancelled.
        BusNotRunningError: The loop does not run, or ceased to.
        BaseException: What the coroutine raises.
    """
    if loop is None or not loop.is_running() or loop is _get_running_loop():
        coroutine.close()
        if loop is not None and loop is _get_running_loop():
            raise RuntimeError("waiting here would block the event loop: use `await`")
        raise BusNotRunningError(bus)
    future = asyncio.run_coroutine_threadsafe(coroutine, loop)
    over = math.inf if timeout is None else time.monotonic() + timeout
    while True:
        left = over - time.monotonic()
        try:
            return future.result(max(0.0, min(left, LOOK)))
        except TimeoutError:
            if left > LOOK and loop.is_running():
                continue
            future.cancel()
            if left > LOOK:
                raise BusNotRunningError(bus) from None
            raise
        except CancelledError:  # it was cancelled with its loop
            raise BusNotRunningError(bus) from None
