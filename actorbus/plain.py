"""The plain case of a publish, in one piece: most publishes are, and a call costs more than a step.

Plain is an event published on the bus's own loop while the bus is open, to subscribers that only
need it appended to their queues. What follows from any of these not being so is the business of
`EventBus.publish` itself. An event without options or cause is not even made until somebody asks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from threading import get_ident
from typing import Any, ParamSpec, cast

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
        if not route.doors or not engine.plain or engine.home._thread_id != get_ident():
            return general(self, topic, data, **options)
        event = None
        if options or (at_work.workers and in_hand.get() is not None):
            try:
                event = engine.make_event(topic, data, **options)
            except TypeError:  # an option there is not: publish will say so
                return general(self, topic, data, **options)
            if engine.max_hops is not None and event._hops > engine.max_hops:
                return cast("Receipt", engine.deliver(route, event))
        at = engine.clock()
        epoch = engine.epoch
        if at >= epoch.until:
            epoch = engine.look_at_clock(at)
        number = next(NUMBERS) if event is None else event._number
        receipt = Receipt(route, data, at, epoch, number, event)
        route.ring.append(receipt)
        backlog = engine.backlog
        if backlog.route is route and backlog.room:
            backlog.room -= 1
            backlog.add(receipt)
        else:
            engine.routes.offer(route, receipt)
        return receipt

    general = cast("Callable[..., Receipt]", publish)
    return cast("Callable[P, Receipt]", plain)
