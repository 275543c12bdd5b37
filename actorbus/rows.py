"""Rows: the books as an exporter gets them, copied on the loop and rendered elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import add
from typing import Any, NamedTuple

from actorbus.ledger import Histogram, Ledger, Terms
from actorbus.words import DeadReason

ENDED = "_ended"
STREAMS = "_streams"
OTHERS = "_other"


@dataclass(slots=True)
class ActorReading:
    """One subscription, or those that share a label, copied for an exporter.

    Attributes:
        label: Name to export it under.
        ledger: A copy of its books.
        terms: The pending terms at the same instant.
        up: Whether the actor works; None for rows that are no actor (streams, ended ones).
        capacity: Of the mailbox, in deliveries.
    """

    label: str
    ledger: Ledger
    terms: Terms
    up: bool | None = None
    capacity: int = 0


class JournalReading(NamedTuple):
    """A journal, copied for an exporter.

    Attributes:
        commit_seconds: Commits per bucket of `BUCKETS` by how long they took, then their sum.
        commit_operations: Commits per bucket of `SIZES` by what was in them, then their sum.
        uncommitted: Events that wait for a commit.
        events: Events kept.
        dead_letters: Dead letters kept.
        bytes: Size on disk, with everything that belongs to it.
        limit: Bytes it may grow to; infinity for no limit.
    """

    commit_seconds: tuple[float, ...]
    commit_operations: tuple[float, ...]
    uncommitted: int
    events: int
    dead_letters: int
    bytes: int
    limit: float

    def plus(self, other: JournalReading) -> JournalReading:
        """Return the sum of two."""
        return JournalReading._make(map(_sum, self, other))


@dataclass(slots=True)
class BusReading:
    """A bus, copied for an exporter on the loop.

    Attributes:
        bus: Its name.
        published: Events per topic of the bounded set, ``_other`` for the rest.
        unrouted: Events that matched no subscription.
        blocked_seconds: Seconds publishers spent awaiting room.
        dead_letters_held: Dead letters in the store.
        loop_lag: Lag of the event loop, sampled.
        actors: One reading per label.
        journal: Of its journal, if it has one.
        durables: Of that the events not read, at most, and the age in seconds of the oldest one not
            settled, per label.
    """

    bus: str
    published: dict[str, int] = field(default_factory=dict)
    unrouted: int = 0
    blocked_seconds: float = 0.0
    dead_letters_held: int = 0
    loop_lag: Histogram | None = None
    actors: Sequence[ActorReading] = field(default_factory=list)
    journal: JournalReading | None = None
    durables: dict[str, tuple[int, float]] = field(default_factory=dict)


Row = tuple[Any, ...]

ROW = (
    "label", "up", "capacity", "routed", "acked", "conflated", "retries", "restarts",
    "attempts", "pending", "dead", "wait", "duration",
)  # fmt: skip
"""The fields of a `Row`; the last five are tuples of numbers.

``attempts`` are those that succeeded, raised, timed out and were cancelled, ``pending`` the last
four terms, ``dead`` the count per reason, the histograms their counts and then their sum.
"""


def pack(
    label: str,
    ledger: Ledger,
    pending: tuple[int, ...],
    succeeded: int,
    up: bool | None = None,
    capacity: int = 0,
) -> Row:
    """Return the numbers of a reading as one tuple, which the collector soon ceases to track.

    1,000 readings kept as objects are 8,000 more for it to go through, and provoke a full
    collection, which stops the loop for 50 ms, at every fifth scrape.
    """
    return (
        label, up, capacity,
        ledger.routed, ledger.acked, ledger.conflated, ledger.retries, ledger.restarts,
        (succeeded, ledger.errors, ledger.timeouts, ledger.cancelled),
        pending,
        tuple([ledger.dead.get(reason, 0) for reason in DeadReason]) if ledger.dead else _NO_DEAD,
        observed(ledger.wait), observed(ledger.duration),
    )  # fmt: skip


def observed(histogram: Histogram | None) -> tuple[float, ...]:
    """Return the counts of a histogram, then its sum."""
    return _NOTHING if histogram is None else (*histogram.counts, histogram.total)


def unpack(row: Row) -> ActorReading:
    """Return the reading of a row."""
    ledger = Ledger()
    (
        label, up, capacity,
        ledger.routed, ledger.acked, ledger.conflated, ledger.retries, ledger.restarts,
        (ledger.succeeded, ledger.errors, ledger.timeouts, ledger.cancelled),
        pending, dead, wait, duration,
    ) = row  # fmt: skip
    ledger.dead = {reason: n for reason, n in zip(DeadReason, dead, strict=True) if n}
    ledger.wait, ledger.duration = _histogram(wait), _histogram(duration)
    settled = ledger.routed, ledger.acked, ledger.dead_total, ledger.conflated
    return ActorReading(label, ledger, Terms(*settled, *pending), up, capacity)


def _histogram(numbers: tuple[Any, ...]) -> Histogram | None:
    if numbers is _NOTHING:
        return None
    made = Histogram()
    *made.counts, made.total = numbers
    return made


def merged(one: Row, other: Row) -> Row:
    """Return the sum of two rows; both have to be up."""
    up = other[1] if one[1] is None else one[1] and other[1] is not False
    return one[0], up, *map(_sum, one[2:], other[2:])


def _sum(one: Any, other: Any) -> Any:
    return tuple(map(add, one, other)) if isinstance(one, tuple) else one + other


_NO_DEAD = (0,) * len(DeadReason)
_NOTHING = observed(Histogram())


class Rows(Sequence[ActorReading]):
    """Readings kept as rows, each made when it is looked at.

    Attributes:
        packed: The rows.
    """

    __slots__ = ("packed",)

    def __init__(self) -> None:
        self.packed: list[Row] = []

    def __len__(self) -> int:
        return len(self.packed)

    def __getitem__(self, index: Any) -> Any:
        return unpack(self.packed[index])


def rows_of(readings: Sequence[ActorReading]) -> Iterable[Row]:
    """Return readings of either kind as rows."""
    if isinstance(readings, Rows):
        return readings.packed
    return [
        pack(r.label, r.ledger, r.terms.places, r.ledger.succeeded, r.up, r.capacity)
        for r in readings
    ]
