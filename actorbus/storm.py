"""Storm log: failures are logged in full while they are few, and counted when they are many.

Writing one traceback takes longer than handling a hundred events, so a subscription that fails on
every event would otherwise be slowed by its own log. The first three of a kind are logged in full;
after that one line at the 10th, 100th, 1,000th and so on says how many there were. A minute of
silence starts the count anew. When too many kinds fail at once to be told apart, those beyond the
first 1,000 share one count.

A journal that is full or locked is no surprise, and where in our own code that was found helps
nobody: its error is a part of the line, in the place of a traceback.
"""

from __future__ import annotations

import logging
from collections import OrderedDict

from actorbus.errors import JournalFullError, JournalLockedError

FULL = 3
QUIET = 60.0  # seconds without one after which counting starts over
KINDS = 1000  # kinds counted at once; those beyond share a count
OTHER = "others"
EXPECTED = (JournalFullError, JournalLockedError)  # whose text says all there is to know

log = logging.getLogger("actorbus")


class _Tally:
    """How many there were of a kind, and when the last."""

    __slots__ = ("count", "last")

    def __init__(self, now: float) -> None:
        self.count = 0
        self.last = now


class StormLog:
    """Logs one kind of failure after another without ever being flooded by one."""

    __slots__ = ("_kinds",)

    def __init__(self) -> None:
        self._kinds: OrderedDict[tuple[str, str, str], _Tally] = OrderedDict()

    def failure(
        self, subscription: str, reason: str, error: BaseException | None, event: object, now: float
    ) -> None:
        """Log a dead letter.

        Args:
            subscription: Whose.
            reason: Why it died.
            error: What the handler raised, if anything.
            event: The event; shown without its payload.
            now: Monotonic seconds.
        """
        if not log.isEnabledFor(logging.WARNING):
            return
        kind = (subscription, reason, type(error).__name__)
        tally = self._kinds.get(kind)
        if tally is None:
            kind = self._counted_as(kind, now)
            tally = self._kinds.setdefault(kind, _Tally(now))
        count = tally.count = 1 if now - tally.last > QUIET else tally.count + 1
        tally.last = now
        self._kinds.move_to_end(kind)
        if count > FULL and count % 10:
            return
        if count <= FULL:
            known = isinstance(error, EXPECTED)
            log.warning(
                "%r gave up %r: %s%s", subscription, event, reason, f": {error}" if known else "",
                exc_info=None if known else error,
                extra={"subscription": subscription, "reason": reason, "count": count},
            )  # fmt: skip
        elif _is_power_of_ten(count):
            log.warning(
                "%r gave up %d deliveries: %s%s", kind[0], count, reason,
                "" if error is None else f" ({kind[2]})",
                extra={"subscription": subscription, "reason": reason, "count": count},
            )  # fmt: skip

    def _counted_as(self, kind: tuple[str, str, str], now: float) -> tuple[str, str, str]:
        """Return a new kind itself while there is room for it, else the one that others share."""
        if len(self._kinds) < KINDS:
            return kind
        quietest = next(iter(self._kinds))
        if now - self._kinds[quietest].last <= QUIET:
            return (OTHER, kind[1], OTHER)
        del self._kinds[quietest]
        return kind


def _is_power_of_ten(count: int) -> bool:
    while count % 10 == 0:
        count //= 10
    return count == 1
