"""Virtual time for a test, whatever runs it: pytest-asyncio, anyio's plugin, or ``asyncio.run``.

The plugins differ, and between versions, in how they let one choose a loop. They agree on who makes
it: asyncio's policy, or an ``asyncio.Runner``. So while a marked test is set up, run and torn down,
both make virtual loops on the test's thread.

Invariant: no test silently has the other kind of time. A marked test that finds itself on a real
loop fails (a fixture of a wider scope has made it, or a policy of its own), and so does an unmarked
one on a loop that was made for a marked one.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
import threading
import warnings
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import pytest

from actorbus.testing.virtual import VirtualLoop

HORIZON = 1e7
"""Virtual seconds a test may take unless its mark says otherwise: about four months."""

_REAL = (
    "marked virtual_time, but it runs on {loop}: {why}. Give the fixture that makes the loop the "
    "test's own scope, or mark every test that shares the loop"
)
_VIRTUAL = (
    "not marked virtual_time, but it runs on a loop that was made for a test that is: both share "
    "a fixture of a wider scope. Mark all of them, or give the loop the scope of one test"
)

_made: weakref.WeakSet[VirtualLoop] = weakref.WeakSet()


class _MarkedLoop(VirtualLoop):
    """A loop made for a marked test."""

    def __init__(self) -> None:
        super().__init__()
        _made.add(self)


@contextmanager
def virtual_loops() -> Iterator[None]:
    """Let asyncio make virtual loops on this thread, and only there."""
    thread, policy = threading.get_ident(), _policy()
    plain, initialise = policy.new_event_loop, asyncio.Runner.__init__

    def new_event_loop() -> asyncio.AbstractEventLoop:
        return _MarkedLoop() if threading.get_ident() == thread else plain()

    def runner(
        self: asyncio.Runner,
        *,
        debug: bool | None = None,
        loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
    ) -> None:
        if loop_factory is not None and threading.get_ident() == thread:
            loop_factory = _virtual(loop_factory)
        initialise(self, debug=debug, loop_factory=loop_factory)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policy, "new_event_loop", new_event_loop)
        patch.setattr(asyncio.Runner, "__init__", runner)
        yield


def _virtual(
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
) -> Callable[[], asyncio.AbstractEventLoop]:
    """Return a loop factory that makes a virtual loop where another one does not."""

    def factory() -> asyncio.AbstractEventLoop:
        loop = loop_factory()
        if isinstance(loop, VirtualLoop):
            return loop
        loop.close()
        return _MarkedLoop()

    return factory


def _policy() -> asyncio.AbstractEventLoopPolicy:
    with warnings.catch_warnings():  # deprecated from Python 3.14 on, and gone in 3.16
        warnings.simplefilter("ignore", DeprecationWarning)
        return asyncio.get_event_loop_policy()


@contextmanager
def checked(item: pytest.Item, seconds: float | None) -> Iterator[None]:
    """Let a test begin with a look at the kind of loop it runs on.

    Args:
        item: The test; only async functions are concerned.
        seconds: Virtual seconds it may take; None for a test that is not marked.
    """
    place = _place(item)
    if place is None or (seconds is None and not any(not loop.is_closed() for loop in _made)):
        yield
        return
    holder, name = place
    test = getattr(holder, name)

    @functools.wraps(test)
    async def looking(*args: Any, **kwargs: Any) -> None:
        if seconds is None:
            await _on_real(test(*args, **kwargs))
        else:
            await _on_virtual(seconds, test(*args, **kwargs))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(holder, name, looking)
        yield


def _place(item: pytest.Item) -> tuple[Any, str] | None:
    """Return where the async function of a test stands, or None if it has none."""
    if not isinstance(item, pytest.Function):
        return None
    test = item.obj
    place = (test.hypothesis, "inner_test") if hasattr(test, "hypothesis") else (item, "obj")
    return place if inspect.iscoroutinefunction(getattr(*place)) else None


async def _on_virtual(seconds: float, test: Awaitable[object]) -> None:
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        _refuse(test, _REAL.format(loop="no asyncio loop", why="virtual time is asyncio's only"))
    if not isinstance(loop, VirtualLoop):
        why = "somebody else has made it, before the test or with a loop policy of their own"
        _refuse(test, _REAL.format(loop=type(loop).__name__, why=why))
    before, loop.horizon = loop.horizon, loop.time() + seconds
    try:
        await test
    finally:
        loop.horizon = before if math.isfinite(before) else math.inf


async def _on_real(test: Awaitable[object]) -> None:
    try:
        loop: object = asyncio.get_running_loop()
    except RuntimeError:
        loop = None
    if loop in _made:
        _refuse(test, _VIRTUAL)
    await test


def _refuse(test: Awaitable[object], why: str) -> NoReturn:
    if inspect.iscoroutine(test):
        test.close()  # else Python warns that it was never awaited
    pytest.fail(why, pytrace=False)
