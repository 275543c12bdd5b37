"""The one door to wall time, identity and chance.

Everything that must not be repeatable in production and must be repeatable in a test comes
through this module: wall-clock time, the identity of a run, random numbers. Monotonic time is not
here: it is the event loop's own (``loop.time()``), so a loop with virtual time controls it.

Tests replace the functions of `world` (``monkeypatch.setattr(world, "random", ...)``); callers
therefore go through the module and never keep a function of it.
"""

from __future__ import annotations

import os
import random as _random
import time as _time

wall = _time.time
"""Return Unix seconds."""

random = _random.random
"""Return a float in [0, 1)."""


def new_run() -> str:
    """Return a name for this run of this process: 20 hexadecimal digits, sortable by time.

    12 digits of Unix milliseconds and 8 of chance, so that runs of one machine sort by their start
    and two processes that start in the same millisecond still differ.
    """
    return f"{int(wall() * 1000):012x}{int.from_bytes(os.urandom(4)):08x}"


class Run:
    """The identity of the current process's run; a forked child gets its own.

    Attributes:
        name: As `new_run` returns it.
    """

    __slots__ = ("name",)

    def __init__(self) -> None:
        self.name = new_run()

    def renew(self) -> None:
        """Take a new identity, as a forked child must."""
        self.name = new_run()


run = Run()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=run.renew)
