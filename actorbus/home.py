"""Home: the loop of a bus, asked for the thread it runs in and the time, as cheaply as can be.

A publish asks both. ``asyncio.get_running_loop()`` makes a system call on Python 3.11, and
``loop.time()`` is a Python function around the clock.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Final, Protocol, cast

from actorbus import world

PAUSE = 20e-6  # seconds between the readings of two clocks beyond which they do not go together


class Home(Protocol):
    """What knows in which thread a loop runs now; None while it does not.

    It is an attribute of asyncio's own loops, set while they run, and of no others.
    """

    _thread_id: int | None


class Foreign:
    """A loop of another make, or none."""

    __slots__ = ("_loop",)

    def __init__(self, loop: asyncio.AbstractEventLoop | None) -> None:
        self._loop = loop

    @property
    def _thread_id(self) -> int | None:
        here = self._loop is not None and asyncio._get_running_loop() is self._loop
        return threading.get_ident() if here else None


NOWHERE: Final = cast("Home", Foreign(None))


def home_of(loop: asyncio.AbstractEventLoop) -> Home:
    """Return what tells in which thread a loop runs."""
    own = isinstance(loop, asyncio.BaseEventLoop) and hasattr(loop, "_thread_id")
    return cast("Home", loop if own else Foreign(loop))


def clock_of(loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    """Return what tells the time of a loop."""
    own = getattr(loop.time, "__func__", None) is asyncio.BaseEventLoop.time
    return time.monotonic if own else loop.time


class Epoch:
    """What turns the time of a loop into Unix time, for a moment; and whose the events are.

    Attributes:
        at: A loop time.
        wall: Unix seconds at that time.
        run: Name of the process's run.
        until: Loop time from which on to look again: clocks drift, and are set.
    """

    __slots__ = ("at", "run", "until", "wall")

    def __init__(self, at: float, wall: float, run: str) -> None:
        self.at = at
        self.wall = wall
        self.run = run
        self.until = at + 0.01

    def unix(self, at: float) -> float:
        """Return a loop time in Unix seconds."""
        return self.wall + (at - self.at)


NO_EPOCH: Final = Epoch(float("-inf"), 0.0, "")


def epoch_at(at: float, clock: Callable[[], float]) -> Epoch:
    """Return the epoch that begins at a loop time, which the loop's clock has just shown.

    It is good for that time alone if the thread was held up between the two readings, or if the
    loop's clock is not the system's: then it may be coarse, or stand still.
    """
    epoch = Epoch(at, world.wall(), world.run.name)
    if clock is not time.monotonic or clock() - at > PAUSE:
        epoch.until = at
    return epoch
