"""What the fixture `bus` needs of pytest-asyncio; loaded only where that plugin is.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio


async def _kept() -> AsyncIterator[None]:
    """Keep the loop of the test open until the bus that asked for this is closed."""
    yield


try:
    _actorbus_loop = pytest_asyncio.fixture(loop_scope="function", name="_actorbus_loop")(_kept)
except TypeError:  # before 0.24 the scope of the loop was that of the fixture
    _actorbus_loop = pytest_asyncio.fixture(name="_actorbus_loop")(_kept)
