"""Surroundings: what a program takes from outside its loop, for the time of a simulation.

Chance and wall time come from the seed and the virtual clock, ``time.sleep`` moves that clock,
names and numbers begin anew, threads become delays, garbage is collected at fixed steps, and
anyio's scopes keep an order. All of it is put back at the end.
"""

from __future__ import annotations

import gc
import itertools
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from anyio._backends._asyncio import CancelScope

from actorbus import catchup, dead_letter, event, plain, world
from actorbus.testing.loop import SimulatedLoop
from actorbus.threads import Job, Threads

BEGIN = 1_767_225_600.0
"""Unix seconds at which every simulation begins: 2026-01-01 00:00 UTC."""

_one = threading.Lock()


@contextmanager
def surroundings(loop: SimulatedLoop, seed: int) -> Iterator[None]:
    """Replace what is not the loop's while the block runs.

    Args:
        loop: Whose clock counts.
        seed: Of chance.

    Raises:
        RuntimeError: Another simulation runs in this process.
    """
    if not _one.acquire(blocking=False):
        raise RuntimeError("another simulation runs in this process: one at a time")
    try:
        collected, state = gc.isenabled(), random.getstate()
        changes = _changes(loop, seed)
        put_back = [(owner, name, getattr(owner, name)) for owner, name, _ in changes]
        try:
            gc.disable()
            random.seed(seed)
            for owner, name, stand_in in changes:
                setattr(owner, name, stand_in)
            yield
        finally:
            for owner, name, real in put_back:
                setattr(owner, name, real)
            random.setstate(state)
            if collected:
                gc.enable()
    finally:
        _one.release()


class _InOrder(dict[Any, None]):
    """A set that remembers in which order its members came."""

    def add(self, member: object) -> None:
        self[member] = None

    def remove(self, member: object) -> None:
        del self[member]

    def discard(self, member: object) -> None:
        self.pop(member, None)


def _changes(loop: SimulatedLoop, seed: int) -> list[tuple[Any, str, Any]]:
    here = threading.get_ident()
    chance = random.Random(f"{seed} of the world")  # noqa: S311 to be repeated, not to be secret
    numbers = itertools.count(1)
    real_submit, real_sleep = Threads.submit, time.sleep
    real_scope = CancelScope.__init__
    real_start, real_wait = threading.Thread.start, threading.Condition.wait

    def new_run() -> str:
        return f"{int(world.wall() * 1000):012x}{seed & 0xFFFFFFFF:08x}"

    def submit(threads: Threads, job: Job) -> bool:
        if threading.get_ident() != here:
            return real_submit(threads, job)
        return loop.workers.submit(threads, job)

    def start(thread: threading.Thread) -> None:
        if threading.get_ident() == here:
            raise RuntimeError(
                f"a simulation starts no real thread ({thread.name!r}): use asyncio.to_thread, "
                "loop.run_in_executor or a plain `def` handler, which it simulates"
            )
        real_start(thread)

    def wait(condition: threading.Condition, timeout: float | None = None) -> bool:
        blocks = timeout is None or timeout > 0
        if blocks and threading.get_ident() == here:
            raise RuntimeError(
                "a simulation has one thread: blocking it until another one does something "
                "would never end"
            )
        return real_wait(condition, timeout)

    def sleep(seconds: float) -> None:
        if threading.get_ident() == here:
            loop.sleep(seconds)
        else:
            real_sleep(seconds)

    def scope(self: CancelScope, *args: Any, **options: Any) -> None:
        real_scope(self, *args, **options)
        if threading.get_ident() == here:  # a group is cancelled scope by scope
            self._child_scopes = _InOrder()  # type: ignore[assignment]  # a set to whoever uses it

    return [
        (CancelScope, "__init__", scope),
        (world, "wall", lambda: BEGIN + loop.time()),
        (world, "random", chance.random),
        (world, "new_run", new_run),
        (world.run, "name", f"{int(BEGIN * 1000):012x}{seed & 0xFFFFFFFF:08x}"),
        (event, "NUMBERS", numbers),
        (plain, "NUMBERS", numbers),
        (catchup, "NUMBERS", numbers),
        (dead_letter, "_numbers", itertools.count(1)),
        (Threads, "submit", submit),
        (threading.Thread, "start", start),
        (threading.Condition, "wait", wait),
        (time, "sleep", sleep),
    ]
