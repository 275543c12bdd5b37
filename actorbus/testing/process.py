"""Process: a loop, what surrounds it, and a bus with a journal; it may end at any moment."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import ExitStack
from typing import Any, TypeVar

from actorbus import scribe, window, world
from actorbus.bus import EventBus
from actorbus.executor import Executor
from actorbus.testing.stepping import SteppedLoop
from actorbus.testing.surroundings import BEGIN, surroundings
from actorbus.testing.tape import Tape
from actorbus.work import Work

T = TypeVar("T")

MAX_STEPS = 200_000  # of one process
AHEAD = 3  # deliveries settled beyond an open one, here; so few that it happens
UNCOMMITTED = 8  # events that wait for a commit, here


class Process:
    """One process of a model.

    Args:
        number: Which, from 1.
        tape: Its journal.
        ahead: Seconds by which its wall clock is ahead of its loop's; asked again and again.
        options: Of the bus.

    Attributes:
        bus: The bus; it does not run yet.
        loop: Its loop.
        tape: Its journal.
        gate: What handlers wait for that hang.
        waiters: Tasks that were begun from outside and have not ended.
        over: Whether it has ended: what is left of it is seen by nobody.
        doomed: Whether it is about to end.
        troubles: What the loop was told that nobody has caught.
    """

    def __init__(
        self, number: int, tape: Tape, ahead: Callable[[], float], options: Mapping[str, Any]
    ) -> None:
        self.over = self.doomed = False
        self.tape = tape
        tape.die = self.die
        self.waiters: dict[asyncio.Task[Any], None] = {}
        self.troubles: list[str] = []
        self.loop = loop = SteppedLoop(MAX_STEPS, number)
        self._props = ExitStack()
        self._props.callback(loop.close)
        self._props.enter_context(surroundings(loop, number))
        loop.set_exception_handler(lambda _, context: self.troubles.append(str(context)))
        self._stand_in(world, "wall", lambda: BEGIN + ahead() + loop.time())
        self._stand_in(scribe, "UNCOMMITTED", UNCOMMITTED)
        self._stand_in(window, "AHEAD", AHEAD)
        self.gate = asyncio.Event()
        self.bus = EventBus("durable", journal=tape, **options)
        recorder = self.bus._engine.recorder
        assert recorder is not None  # noqa: S101 it has a journal
        self._note_giving_up(recorder.scribe._executor)

    def _stand_in(self, owner: Any, name: str, stand_in: Any) -> None:
        self._props.callback(setattr, owner, name, getattr(owner, name))
        setattr(owner, name, stand_in)

    def call(self, function: Callable[..., T], *args: Any, **options: Any) -> T:
        """Call a function on the loop, before anything else runs, and return what it returns."""
        return self.loop.call(lambda: function(*args, **options))

    def begin(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Run a coroutine beside everything else; what it raises fails the model."""
        self.waiters[self.loop.create_task(coroutine)] = None

    def finish(self, awaitable: Awaitable[Any], order: int = 0) -> Any:
        """Run until something is done, or the process has ended; then the result is None."""
        try:
            return self.loop.finish(awaitable, order)
        except RuntimeError:
            if not self.doomed:
                raise
            return None

    def _note_giving_up(self, executor: Executor) -> None:
        """Let the books know of what a close does not wait for."""
        give_up = executor.give_up

        def noting() -> tuple[list[Work], list[Work]]:
            begun, waiting = give_up()
            self.tape.books.refused(
                [each for work in (*begun, *waiting) for each in work.operations]
            )
            return begun, waiting

        self._stand_in(executor, "give_up", noting)

    def die(self) -> None:
        """End after this step."""
        self.doomed = self.tape.gone = True
        self.loop.stop()

    def end(self) -> None:
        """Let go of what is left; nothing of it reaches the journal or the books any more."""
        if self.over:
            return
        self.over = self.tape.gone = True
        try:
            self.loop.let_go()
        finally:
            self._props.close()
