"""Curtain: what a model stands on; however it ends, everything is let go of and put back."""

from __future__ import annotations

import logging
import sys
from contextlib import ExitStack
from typing import ClassVar

from hypothesis.stateful import RuleBasedStateMachine


class Curtain(RuleBasedStateMachine):
    """A state machine that is silent while it runs, and leaves nothing behind."""

    _on_stage: ClassVar[Curtain | None] = None

    def __init__(self) -> None:
        super().__init__()
        if Curtain._on_stage is not None:  # the constructor of a subclass has raised
            Curtain._on_stage._leave()
        self._props = ExitStack()
        Curtain._on_stage = self
        log = logging.getLogger("actorbus")
        self._props.callback(log.setLevel, log.level)
        log.setLevel(logging.CRITICAL + 1)
        try:
            self._set_the_stage()
        except BaseException:
            self._leave()
            raise

    def _set_the_stage(self) -> None:
        """Make what the rules need; `_props` puts things back."""
        raise NotImplementedError

    def teardown(self) -> None:
        """Let go of everything: all settles, everybody who waits is told, nothing remains."""
        failure = sys.exc_info()[1]
        traces = [] if failure is None else [(failure, failure.__traceback__)]
        try:
            if failure is None:  # else something has failed already: let that be seen
                self.come_to_an_end()
        finally:
            self._leave()
            for error, trace in traces:  # handlers have raised meanwhile, in its context
                error.__traceback__ = trace

    def come_to_an_end(self) -> None:
        """Say what must be true in the end."""

    def _leave(self) -> None:
        """End what is left, and put everything back."""
        Curtain._on_stage = None
        try:
            self._end_what_is_left()
        finally:
            self._props.close()

    def _end_what_is_left(self) -> None:
        raise NotImplementedError
