"""The loop with virtual time of `actorbus.testing`, as our own tests need it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, TypeVarTuple

from actorbus.testing import virtual
from actorbus.testing.virtual import StuckLoopError
from actorbus.threads import Threads

__all__ = ["StuckLoopError", "VirtualLoop", "run"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class VirtualLoop(virtual.VirtualLoop):
    """Waits for the threads of a bus only where a test says so: many block them for ever.

    For the journal's thread it always waits.
    """

    def heed(self, threads: virtual.Busy) -> None:
        """Wait for these threads if they are a journal's."""
        if isinstance(threads, Threads) and threads.limit == 1:
            super().heed(threads)


def run(
    main: Callable[[*Ts], Coroutine[Any, Any, T]], *args: *Ts, timeout_virtual: float = 1e7
) -> T:
    """Run an async function on a fresh `VirtualLoop`, as `actorbus.testing.run` does."""
    return virtual.run(main, *args, timeout_virtual=timeout_virtual, loop=VirtualLoop())
