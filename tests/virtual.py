"""The loop with virtual time, which `actorbus.testing` has for everybody."""

from __future__ import annotations

from actorbus.testing.virtual import StuckLoopError, VirtualLoop, run

__all__ = ["StuckLoopError", "VirtualLoop", "run"]
