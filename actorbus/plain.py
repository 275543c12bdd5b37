"""The plain case of a publish, in one piece: most publishes are, and a call costs more than a step.

Plain is an event without options, published on the bus's own loop while the bus is open, by nobody
who has a delivery in hand, to subscribers that only need it appended to their queues. What follows
from any of these not being so is the business of `EventBus.publish` itself.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from threading import get_ident
from typing import Any, ParamSpec, cast

from actorbus.admission import Inbox
from actorbus.event import NUMBERS
from actorbus.hand import at_work, in_hand
from actorbus.receipt import Receipt

P = ParamSpec("P")


def plain_first(publish: Callable[P, Receipt]) -> Callable[P, Receipt]:
    """Let a bus's `publish` do the plain case here, and everything else itself."""

    @wraps(publish)
    def plain(self: Any, topic: str, data: Any = None, **options: Any) -> Receipt:
        engine = self._engine
        try:
            route = self._cache[topic]
        except (KeyError, TypeError):  # not text, perhaps: publish will say so
            return general(self, topic, data, **options)
        if (
            options
            or not route.doors
            or not engine.plain
            or (at_work.workers and in_hand.get() is not None)
            or engine.home._thread_id != get_ident()
        ):
            return general(self, topic, data, **options)
        at = engine.clock()
        epoch = engine.epoch
        if at >= epoch.until:
            epoch = engine.look_at_clock(at)
        receipt = Receipt(route, data, at, epoch, next(NUMBERS))
        route.ring.append(receipt)
        full: list[Inbox] | None = None
        for items, append, inbox in route.doors:
            if len(items) < inbox.gate:
                append(receipt)
            elif full is None:
                full = [inbox]
            else:
                full.append(inbox)
        events = route.events
        if not events:
            engine.routes.has_events(route)
        route.events = events + 1
        if full is not None:  # or somebody has to be woken; each counts the event itself
            for inbox in full:
                inbox.ledger.routed -= 1
            for inbox in full:
                inbox.offer(receipt)
        return receipt

    general = cast("Callable[..., Receipt]", publish)
    return cast("Callable[P, Receipt]", plain)
