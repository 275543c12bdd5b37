"""Asking: waiting for a reply, and every way in which none may come."""

from __future__ import annotations

import asyncio
from typing import Any

from actorbus.errors import AskFailedError, AskTimeoutError
from actorbus.receipt import Receipt


async def answer(receipt: Receipt, timeout: float | None) -> Any:
    """Wait for the first reply that is not None.

    Args:
        receipt: Of an event that was dispatched with a watch that asks.
        timeout: Seconds; None waits for ever.

    Returns:
        The reply; None when all have settled and none gave one.

    Raises:
        AskTimeoutError: No reply in time.
        AskFailedError: All have settled, none replied and one is dead.
        DeadlockError: Whoever could answer waits for the caller.
    """
    watch = receipt.watch
    assert watch is not None  # noqa: S101 asked for with a watch
    watch.pending = dict.fromkeys(receipt.still_open())
    topic = receipt.event.topic
    try:
        async with asyncio.timeout(timeout):
            await receipt.watching(watch)
    except TimeoutError:
        raise AskTimeoutError(topic, timeout or 0.0) from None
    if watch.reply is None and watch.failed is not None:
        subscription, reason, error = watch.failed
        raise AskFailedError(topic, subscription, reason) from error
    return watch.reply
