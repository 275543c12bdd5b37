"""Fixtures every test may use: virtual time, a bus that must balance, Hypothesis profiles."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from actorbus import EventBus
from tests.virtual import VirtualLoop

settings.register_profile(
    "ci", max_examples=200, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)  # fmt: skip
settings.register_profile(
    "dev", settings.get_profile("ci"), max_examples=50, derandomize=False, print_blob=True
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if "CI" in os.environ else "dev"))


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Run async tests on asyncio with virtual time."""
    return "asyncio", {"loop_factory": VirtualLoop}


def heed_threads(bus: EventBus) -> None:
    """Let the virtual clock wait while a handler runs in a thread of the bus."""
    loop = asyncio.get_running_loop()
    if isinstance(loop, VirtualLoop):
        before = loop.waits_for_threads
        loop.waits_for_threads = lambda: before() or bus._engine.threads.busy > 0


@pytest.fixture
async def bus(anyio_backend: object) -> AsyncIterator[EventBus]:
    """Give a running bus; afterwards its books must balance and nothing of it may remain."""
    made = EventBus("test")
    heed_threads(made)
    async with made:
        yield made
        assert made.audit().balanced, str(made.audit())
    assert made.audit().balanced, str(made.audit())


@pytest.fixture
def make_bus(anyio_backend: object) -> Iterator[Callable[..., EventBus]]:
    """Give a maker of buses with options; each is checked at the end."""
    made: list[EventBus] = []

    def make(*args: Any, **options: Any) -> EventBus:
        bus = EventBus(*(args or ("test",)), **options)
        made.append(bus)
        return bus

    yield make
    for each in made:
        assert each.audit().balanced, str(each.audit())
    gc.collect()
