"""How to publish where publishing is a plain call that never waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from benchmarks.contender import YIELD_EVERY


async def politely(publish: Callable[[Any], object], count: int) -> None:
    """Publish so many events, yielding to the loop now and then."""
    for number in range(count):
        publish(number)
        if number % YIELD_EVERY == 0:
            await asyncio.sleep(0)


POLITELY = f"a plain call; yields every {YIELD_EVERY} events"
