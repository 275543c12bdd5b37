"""What the fixture `bus` needs of pytest-asyncio; loaded only where that plugin is.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio

try:
    _fixture: Any = pytest_asyncio.fixture(loop_scope="function")
except TypeError:  # before 0.24 the loop's scope was the fixture's
    _fixture = pytest_asyncio.fixture()


@_fixture  # type: ignore[untyped-decorator]  # whichever of the two it is
async def _actorbus_loop() -> AsyncIterator[None]:
    """Keep the loop of the test open until the bus that asked for this is closed."""
    yield
