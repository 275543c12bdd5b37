"""Asking: waiting for a reply, and every way in which none may come."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from actorbus.errors import AskFailedError, AskTimeoutError, NoResponderError
from actorbus.event import Event
from actorbus.hand import cause_in_hand
from actorbus.part import Part
from actorbus.receipt import Receipt
from actorbus.subscription import Subscription
from actorbus.topic import check_topic
from actorbus.watch import Watch
from actorbus.words import ActorState


class Asking(Part):
    """The part of `EventBus` that waits for replies."""

    def _event_for(self, topic: str, data: Any, key: Any) -> Event:
        """Make an event of the bus's own for one actor."""
        raise NotImplementedError

    async def ask(
        self,
        topic: str,
        data: Any = None,
        timeout: float | None = 5.0,
        *,
        key: Any = None,
        headers: Mapping[str, Any] | None = None,
    ) -> Any:
        """Publish an event and wait for the first reply that is not None.

        Args:
            topic: What to ask.
            data: The payload.
            timeout: Seconds; None waits for ever.
            key: The publish key.
            headers: Whatever else belongs to the event.

        Returns:
            The reply; None when every handler has settled and none gave one.

        Raises:
            NoResponderError: No handler matches; streams and waits do not answer.
            AskFailedError: All have settled, none replied and one is dead.
            AskTimeoutError: No reply in time; cancelling or timing out takes nothing back.
            DeadlockError: Whoever could answer waits for the caller.
            InvalidTopicError, BusNotRunningError, BusClosedError: As for `publish`.
        """
        check_topic(topic)
        cause = cause_in_hand()
        self._begin_here(caused=cause is not None)
        route = self._engine.routes.route(topic)
        if not route.shares and not any(each.answers for each in route.addressees):
            raise NoResponderError(topic)
        event = self._engine.make_event(topic, data, key, headers, cause=cause)
        event, entry = self._engine.recorded(event)
        receipt = self._engine.receipt_for(route, event)
        receipt.watch = Watch(receipt, asking=True)
        self._engine.dispatch(route, receipt, entry)
        return await answer(receipt, timeout)

    async def _ask_actor(self, sub: Subscription, data: Any, timeout: float | None) -> Any:
        if sub.state in (ActorState.STOPPING, ActorState.STOPPED) and not self._engine.closed:
            raise NoResponderError(f"$bus:tell:{sub.name}")
        event = self._event_for(f"$bus:tell:{sub.name}", data, None)
        return await answer(self._engine.hand_over(event, sub, asking=True), timeout)


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
