"""Families: what a scrape has read, as Prometheus wants it.

Invariants:

* Every label set exists at 0 as soon as its actor does: a counter that first appears at 1 has
  never increased as far as Prometheus can see, and an alert on it would not fire.
* Rows that share a label are summed, and so are buses that share a name: whatever is registered,
  no series appears twice.
"""

from __future__ import annotations

import asyncio
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from itertools import accumulate, islice
from typing import Any, cast

from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample

from actorbus.ledger import BUCKETS, SIZES, Histogram
from actorbus.rows import ROW, BusReading, Row, merged, observed, rows_of
from actorbus.words import DeadReason

_Labels = dict[str, str]

STEP = 256  # samples between two pauses
PAUSE = 1e-6  # seconds; a sleep of 0 does not hand the interpreter over


class _Scrape:
    """What all buses read at one scrape, with everything that shares a label summed."""

    def __init__(self, readings: Iterable[BusReading]) -> None:
        buses: dict[str, list[BusReading]] = {}
        rows: dict[tuple[str, str], Row] = {}
        self.durables: dict[tuple[str, str], tuple[int, float]] = {}
        for reading in readings:
            bus = _clean(reading.bus)
            buses.setdefault(bus, []).append(reading)
            for row in rows_of(reading.actors):
                key = bus, _clean(row[0])
                rows[key] = merged(rows[key], row) if key in rows else row
            for label, (lag, age) in reading.durables.items():
                key = bus, _clean(label)
                others_lag, others_age = self.durables.get(key, (0, 0.0))
                self.durables[key] = others_lag + lag, max(others_age, age)
        self.buses = {name: _sum_buses(parts) for name, parts in buses.items()}
        self.labels = [{"bus": bus, "subscription": label} for bus, label in rows]
        self.columns = dict(zip(ROW, zip(*rows.values(), strict=True), strict=False))

    def column(self, name: str) -> Iterator[tuple[_Labels, Any]]:
        """Walk one column: of each row its labels and its value."""
        return zip(self.labels, self.columns.get(name, ()), strict=False)


def _sum_buses(parts: list[BusReading]) -> BusReading:
    total = BusReading(parts[0].bus, loop_lag=Histogram())
    for part in parts:
        for topic, count in part.published.items():
            total.published[topic] = total.published.get(topic, 0) + count
        total.unrouted += part.unrouted
        total.blocked_seconds += part.blocked_seconds
        total.dead_letters_held += part.dead_letters_held
        if total.loop_lag is not None and part.loop_lag is not None:
            total.loop_lag.merge(part.loop_lag)
        if part.journal is not None:
            total.journal = part.journal.plus(total.journal) if total.journal else part.journal
    return total


def _clean(text: str) -> str:
    """Return `text` fit for UTF-8: one lone surrogate would cost the whole scrape."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


_SPLIT = {
    "dead": ("reason", [reason.value for reason in DeadReason]),
    "pending": ("state", ["waiting", "queued", "running", "retrying"]),
    "attempts": ("outcome", ["ok", "error", "timeout", "cancelled"]),
}
_BOUNDS = {
    "seconds": (*(str(bound) for bound in BUCKETS), "+Inf"),
    "": (*(str(float(size)) for size in SIZES), "+Inf"),
}
"""Of the buckets of a histogram, by its unit."""
_Value = float | tuple[float, ...] | None
_Walk = Callable[[_Scrape], Iterable[tuple[_Labels, _Value]]]


@cache
def _release() -> str:
    """Return the version, read once: finding it takes a walk through the installed packages."""
    try:
        return version("actorbus")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "unknown"


def _build(_: _Scrape) -> Iterator[tuple[_Labels, _Value]]:
    yield {"version": _release(), "python": platform.python_version()}, 1


def _published(scrape: _Scrape) -> Iterator[tuple[_Labels, _Value]]:
    for bus, reading in scrape.buses.items():
        for topic, count in reading.published.items():
            yield {"bus": bus, "topic": _clean(topic)}, count


def _of_bus(field: str) -> _Walk:
    return lambda scrape: (({"bus": b}, getattr(r, field)) for b, r in scrape.buses.items())


def _loop_lag(scrape: _Scrape) -> Iterator[tuple[_Labels, _Value]]:
    for bus, reading in scrape.buses.items():
        yield {"bus": bus}, observed(reading.loop_lag)


def _of_journal(field: str) -> _Walk:
    return lambda scrape: (
        ({"bus": bus}, getattr(reading.journal, field))
        for bus, reading in scrape.buses.items()
        if reading.journal is not None
    )


def _of_durables(place: int) -> _Walk:
    return lambda scrape: (
        ({"bus": bus, "subscription": label}, numbers[place])
        for (bus, label), numbers in scrape.durables.items()
    )


def _column(name: str) -> _Walk:
    return lambda scrape: scrape.column(name)


def _of_actors(name: str) -> _Walk:
    """Walk a column without the rows that are no actor."""
    return lambda scrape: (
        (labels, value)
        for (labels, up), (_, value) in zip(scrape.column("up"), scrape.column(name), strict=True)
        if up is not None
    )


def _split(name: str) -> _Walk:
    """Walk a column whose values are one number for each value of a further label."""
    label, words = _SPLIT[name]
    return lambda scrape: (
        ({**labels, label: word}, number)
        for labels, numbers in scrape.column(name)
        for word, number in zip(words, numbers, strict=True)
    )


_Table = tuple[tuple[str, str, str, _Walk], ...]
_FAMILIES: _Table = (
    ("build_info", "gauge", "Always 1; the labels say what runs.", _build),
    ("published_events", "counter", "Events published, by topic.", _published),
    ("unrouted_events", "counter", "Events that matched no subscription.", _of_bus("unrouted")),
    ("routed_deliveries", "counter", "Deliveries routed.", _column("routed")),
    ("acked_deliveries", "counter", "Deliveries handled.", _column("acked")),
    ("conflated_deliveries", "counter", "Deliveries replaced by newer.", _column("conflated")),
    ("dead_deliveries", "counter", "Deliveries given up, by the reason on record.", _split("dead")),
    ("pending_deliveries", "gauge", "Deliveries not settled, and where.", _split("pending")),
    ("attempts", "counter", "Attempts at a delivery, by how they ended.", _split("attempts")),
    ("retries", "counter", "Attempts after the first.", _column("retries")),
    ("restarts", "counter", "Restarts of the actor.", _column("restarts")),
    ("actor_up", "gauge", "Whether the actor works: 1 yes, 0 no.", _of_actors("up")),
    ("mailbox_capacity", "gauge", "Deliveries the mailbox holds.", _of_actors("capacity")),
    ("mailbox_wait_seconds", "histogram", "From publish to handler.", _column("wait")),
    ("handler_duration_seconds", "histogram", "Of one attempt.", _column("duration")),
    ("publish_blocked_seconds", "counter", "Spent awaiting room.", _of_bus("blocked_seconds")),
    ("dead_letters_held", "gauge", "Dead letters in the store.", _of_bus("dead_letters_held")),
    ("event_loop_lag_seconds", "histogram", "How late the loop ran.", _loop_lag),
)  # fmt: skip
"""The table of metrics: name after ``actorbus_``, type, help, and where the values are."""
_OF_JOURNALS: _Table = (
    ("journal_commit_seconds", "histogram", "Of one commit.", _of_journal("commit_seconds")),
    ("journal_commit_operations", "histogram", "In one commit: events, acknowledgements, notes.",
        _of_journal("commit_operations")),
    ("journal_uncommitted_events", "gauge", "Events that wait for a commit.",
        _of_journal("uncommitted")),
    ("journal_events", "gauge", "Events kept.", _of_journal("events")),
    ("journal_dead_letters", "gauge", "Dead letters kept.", _of_journal("dead_letters")),
    ("journal_bytes", "gauge", "Size on disk.", _of_journal("bytes")),
    ("journal_limit_bytes", "gauge", "The most it may grow to.", _of_journal("limit")),
    ("journal_lag", "gauge", "Events not read; an upper bound until first caught up.",
        _of_durables(0)),
    ("journal_oldest_unacked_seconds", "gauge", "Age of the oldest event not settled.",
        _of_durables(1)),
)  # fmt: skip
"""The families of a bus with a journal; where none has one they are left out."""


def described() -> Iterable[Metric]:
    """Return every family without samples, and without reading a bus."""
    return [_metric(name, kind, text) for name, kind, text, _ in (*_FAMILIES, *_OF_JOURNALS)]


def families(readings: Iterable[BusReading]) -> Iterator[Metric]:
    """Yield every family once; their samples are made when they are walked."""
    scrape = _Scrape(readings)
    kept = any(reading.journal is not None for reading in scrape.buses.values())
    for name, kind, text, walk in (*_FAMILIES, *_OF_JOURNALS) if kept else _FAMILIES:
        metric = _metric(name, kind, text)
        make = partial(_histograms if kind == "histogram" else _numbers, metric, walk, scrape)
        metric.samples = _Samples(make)  # type: ignore[assignment]  # declared as a list
        yield metric


def _metric(name: str, kind: str, text: str) -> Metric:
    unit = "seconds" if name.endswith("_seconds") else ""
    return Metric(f"actorbus_{name}", text, kind, unit)


def _numbers(metric: Metric, walk: _Walk, scrape: _Scrape) -> Iterator[Sample]:
    name = f"{metric.name}_total" if metric.type == "counter" else metric.name
    for labels, value in walk(scrape):
        yield Sample(name, labels, value)  # type: ignore[arg-type]  # the table gives numbers


def _histograms(metric: Metric, walk: _Walk, scrape: _Scrape) -> Iterator[Sample]:
    bucket, count, total = (f"{metric.name}_{part}" for part in ("bucket", "count", "sum"))
    for labels, value in walk(scrape):
        *counts, whole = cast("tuple[float, ...]", value)
        sums = tuple(accumulate(counts))
        for bound, below in zip(_BOUNDS[metric.unit], sums, strict=True):
            yield Sample(bucket, {**labels, "le": bound}, below)
        yield Sample(count, labels, sums[-1])
        yield Sample(total, labels, whole)


class _Samples(Sequence[Sample]):
    """The samples of a family, made while they are walked, in steps that let other threads run.

    Samples that lived longer would provoke full garbage collections, which stop the loop for 60 ms.
    """

    def __init__(self, make: Callable[[], Iterator[Sample]]) -> None:
        self._make = make

    def __iter__(self) -> Iterator[Sample]:
        samples = self._make()
        while step := list(islice(samples, STEP)):
            yield from step
            _pause()

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __getitem__(self, index: Any) -> Any:
        return list(self)[index]


def _pause() -> None:
    """Let other threads run.

    A thread that keeps the interpreter busy gives it up every 5 ms only, so while it renders, each
    turn of the loop comes 5 ms late (1,000 actors: for 0.5 s); with these pauses the median is
    under 1 ms. Measured; rendering takes no longer.
    """
    if asyncio._get_running_loop() is None:  # the loop's own thread has nobody to wait for
        time.sleep(PAUSE)
