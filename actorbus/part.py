"""Part: what each part of `EventBus` knows of the whole."""

from __future__ import annotations

import asyncio

from actorbus.engine import Engine
from actorbus.errors import BusNotRunningError


class Part:
    """A part of `EventBus`."""

    _engine: Engine

    def _begin(self, *, caused: bool) -> asyncio.AbstractEventLoop | None:
        """Start the bus if need be; return None where it runs in another thread."""
        raise NotImplementedError

    def _begin_here(self, *, caused: bool) -> asyncio.AbstractEventLoop:
        """Start the bus if need be, and return its loop.

        Raises:
            BusNotRunningError: It runs on another loop, in another thread, or there is none.
            BusClosedError: It accepts nothing more.
        """
        loop = self._begin(caused=caused)
        if loop is None:
            raise BusNotRunningError(self._engine.name)
        return loop
