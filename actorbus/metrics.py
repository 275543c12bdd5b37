"""Prometheus: the ledger, exported.

Nothing here runs per event. A scrape asks each bus for a `BusReading` (plain integers, which the
bus copies in one step on its own loop), turns it into metric families and lets prometheus_client
render them; `make_asgi_app` and `serve` do all of that outside the event loop.

Invariants:

* One registry has one collector for all of its buses, so every family appears once.
* Every label set exists at 0 as soon as its actor does: a counter that first appears at 1 has
  never increased as far as Prometheus can see, and an alert on it would not fire.
* Rows that share a label are summed, and so are buses that share a name: whatever is registered,
  no series appears twice.

A scrape is linear in the number of exported subscriptions: 63 series each.
"""

from __future__ import annotations

import asyncio
import gzip
import platform
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from itertools import accumulate, islice
from typing import TYPE_CHECKING, Any, Protocol, Self
from urllib.parse import parse_qs
from weakref import WeakKeyDictionary

import anyio.to_thread
from prometheus_client import REGISTRY, CollectorRegistry, start_http_server
from prometheus_client.exposition import choose_encoder, gzip_accepted
from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample

from actorbus.ledger import BUCKETS, ActorReading, BusReading, Histogram, Ledger, Terms
from actorbus.words import DeadReason

if TYPE_CHECKING:
    from prometheus_client.registry import Collector

_Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
_Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
_Labels = dict[str, str]


class Readable(Protocol):
    """What the exporter needs of a bus."""

    @property
    def name(self) -> str:
        """The label of everything the bus exports."""

    def reading(self) -> BusReading:
        """Return a copy of all counters, made in one step; callable on any thread."""

    def sample_loop_lag(self) -> None:
        """Start sampling the lag of the event loop; harmless when it has started already."""


def register(bus: Readable, registry: CollectorRegistry = REGISTRY) -> Collector:
    """Export `bus` through `registry`, beside whatever the registry exports already.

    Registering a bus again changes nothing. Buses of one name are summed. A registered bus is
    kept, and exported, until the collector is unregistered.

    Args:
        bus: The bus; it need not have started.
        registry: Where to export it; the process-wide registry of prometheus_client by default.

    Returns:
        The collector of that registry, for ``registry.unregister(collector)``.
    """
    bus.sample_loop_lag()
    with _lock:
        collector = _collectors.get(registry)
        try:
            if collector is not None:
                registry.unregister(collector)
        except KeyError:  # someone took it out: what it exported is not to come back
            collector = None
        if collector is None:
            collector = _collectors[registry] = _Collector()
        collector.add(bus)
        registry.register(collector)
    return collector


def make_asgi_app(bus: Readable) -> MetricsApp:
    """Return an ASGI application that answers with the metrics of `bus`.

    It is an object, not a function, so both ``app.mount("/metrics", metrics_app)`` and
    ``app.add_route("/metrics", metrics_app)`` work; the latter answers without a redirect.
    """
    return MetricsApp(bus)


def serve(bus: Readable, port: int, addr: str = "127.0.0.1") -> MetricsServer:
    """Serve the metrics of `bus` from a daemon thread, until ``close()`` or the end of a ``with``.

    Args:
        bus: The bus; it need not have started.
        port: TCP port; 0 takes any free one.
        addr: Address to bind, by default reachable from this host only.

    Raises:
        OSError: The address cannot be bound.
    """
    return MetricsServer(bus, port, addr)


class MetricsServer:
    """A small HTTP server for the metrics of one bus, in a daemon thread.

    Attributes:
        port: The TCP port it listens on.
    """

    def __init__(self, bus: Readable, port: int, addr: str) -> None:
        self._server, self._thread = start_http_server(port, addr, registry=_registry_of(bus))
        self.port = self._server.server_port

    def close(self) -> None:
        """Stop listening and wait for the thread to end; closing twice is harmless."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class MetricsApp:
    """The application of `make_asgi_app`: answers GET and HEAD, on any path."""

    def __init__(self, bus: Readable) -> None:
        self._registry = _registry_of(bus)

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Answer one request; cancelling it waits for the rendering thread."""
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})
        elif scope["type"] != "http":
            raise ValueError(f"the metrics application does not speak {scope['type']!r}")
        elif scope["method"] not in ("GET", "HEAD"):
            allow = [(b"allow", b"GET, HEAD"), (b"content-type", b"text/plain; charset=utf-8")]
            await _respond(scope, send, 405, allow, b"use GET or HEAD\n")
        else:
            rendered = await anyio.to_thread.run_sync(partial(_render, self._registry, scope))
            await _respond(scope, send, 200, *rendered)


async def _respond(
    scope: _Scope, send: _Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes
) -> None:
    headers = [*headers, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


def _render(registry: CollectorRegistry, scope: _Scope) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Return the headers and the body the request asks for; runs outside the loop."""
    encode, content_type = choose_encoder(_header(scope, b"accept"))
    names = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("name[]")
    source: Any = registry.restricted_registry(names) if names else registry
    body = encode(source)
    headers = [(b"content-type", content_type.encode("latin-1"))]
    if gzip_accepted(_header(scope, b"accept-encoding")):
        body = gzip.compress(body, compresslevel=5)
        headers.append((b"content-encoding", b"gzip"))
    return headers, body


def _header(scope: _Scope, name: bytes) -> str:
    return ",".join(v.decode("latin-1") for k, v in scope["headers"] if k.lower() == name)


def _registry_of(bus: Readable) -> CollectorRegistry:
    registry = CollectorRegistry()
    register(bus, registry)
    return registry


class _Collector:
    """All buses of one registry."""

    def __init__(self) -> None:
        self._buses: tuple[Readable, ...] = ()

    def add(self, bus: Readable) -> None:
        self._buses = (*(known for known in self._buses if known is not bus), bus)

    def describe(self) -> Iterable[Metric]:
        """Name the families without reading a bus: otherwise registering would collect."""
        return [_metric(name, kind, text) for name, kind, text, _ in _FAMILIES]

    def collect(self) -> Iterator[Metric]:
        """Read every bus, then yield each family once."""
        return _families([bus.reading() for bus in self._buses])


_collectors: WeakKeyDictionary[CollectorRegistry, _Collector] = WeakKeyDictionary()
_lock = threading.Lock()


class _Scrape:
    """What all buses read at one scrape, with everything that shares a label summed."""

    def __init__(self, readings: Iterable[BusReading]) -> None:
        buses: dict[str, list[BusReading]] = {}
        actors: dict[tuple[str, str], list[ActorReading]] = {}
        for reading in readings:
            bus = _clean(reading.bus)
            buses.setdefault(bus, []).append(reading)
            for actor in reading.actors:
                actors.setdefault((bus, _clean(actor.label)), []).append(actor)
        self.buses = {name: _sum_buses(parts) for name, parts in buses.items()}
        self.rows = [
            ({"bus": bus, "subscription": label}, _sum_actors(parts))
            for (bus, label), parts in actors.items()
        ]


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
    return total


def _sum_actors(parts: list[ActorReading]) -> ActorReading:
    if len(parts) == 1:
        return parts[0]
    total = ActorReading(parts[0].label, Ledger(), Terms())
    for part in parts:
        total.ledger.merge(part.ledger)
        total.terms += part.terms
        if part.up is not None:
            total.up = part.up if total.up is None else total.up and part.up
            total.capacity += part.capacity
    return total


def _clean(text: str) -> str:
    """Return `text` fit for UTF-8: one lone surrogate would cost the whole scrape."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


_REASONS = tuple((reason, reason.value) for reason in DeadReason)
_STATES = ("waiting", "queued", "running", "retrying")
_OUTCOMES = {"ok": "succeeded", "error": "errors", "timeout": "timeouts", "cancelled": "cancelled"}
_BOUNDS = (*(str(bound) for bound in BUCKETS), "+Inf")
_EMPTY = Histogram()
_Value = float | Histogram | None
_Walk = Callable[[_Scrape], Iterable[tuple[_Labels, _Value]]]


def _build(_: _Scrape) -> Iterator[tuple[_Labels, _Value]]:
    try:
        release = version("actorbus")
    except PackageNotFoundError:  # run from a source tree that is not installed
        release = "unknown"
    yield {"version": release, "python": platform.python_version()}, 1


def _published(scrape: _Scrape) -> Iterator[tuple[_Labels, _Value]]:
    for bus, reading in scrape.buses.items():
        for topic, count in reading.published.items():
            yield {"bus": bus, "topic": _clean(topic)}, count


def _of_bus(field: str) -> _Walk:
    return lambda scrape: (({"bus": b}, getattr(r, field)) for b, r in scrape.buses.items())


def _of_ledger(field: str) -> _Walk:
    return lambda scrape: ((n, getattr(r.ledger, field)) for n, r in scrape.rows)


def _of_actor(field: str) -> _Walk:
    return lambda scrape: ((n, getattr(r, field)) for n, r in scrape.rows if r.up is not None)


def _dead(scrape: _Scrape) -> Iterator[tuple[_Labels, _Value]]:
    for labels, reading in scrape.rows:
        for reason, text in _REASONS:
            yield {**labels, "reason": text}, reading.ledger.dead.get(reason, 0)


def _pending(scrape: _Scrape) -> Iterator[tuple[_Labels, _Value]]:
    for labels, reading in scrape.rows:
        for state in _STATES:
            yield {**labels, "state": state}, getattr(reading.terms, state)


def _attempts(scrape: _Scrape) -> Iterator[tuple[_Labels, _Value]]:
    for labels, reading in scrape.rows:
        for outcome, field in _OUTCOMES.items():
            yield {**labels, "outcome": outcome}, getattr(reading.ledger, field)


_FAMILIES: tuple[tuple[str, str, str, _Walk], ...] = (
    ("build_info", "gauge", "Always 1; the labels say what runs.", _build),
    ("published_events", "counter", "Events published, by topic.", _published),
    ("unrouted_events", "counter", "Events that matched no subscription.", _of_bus("unrouted")),
    ("routed_deliveries", "counter", "Deliveries routed.", _of_ledger("routed")),
    ("acked_deliveries", "counter", "Deliveries handled.", _of_ledger("acked")),
    ("conflated_deliveries", "counter", "Deliveries replaced by newer.", _of_ledger("conflated")),
    ("dead_deliveries", "counter", "Deliveries given up, by the reason on record.", _dead),
    ("pending_deliveries", "gauge", "Deliveries not settled, by where they are.", _pending),
    ("attempts", "counter", "Attempts at a delivery, by how they ended.", _attempts),
    ("retries", "counter", "Attempts after the first.", _of_ledger("retries")),
    ("restarts", "counter", "Restarts of the actor.", _of_ledger("restarts")),
    ("actor_up", "gauge", "Whether the actor works: 1 yes, 0 no.", _of_actor("up")),
    ("mailbox_capacity", "gauge", "Deliveries the mailbox holds.", _of_actor("capacity")),
    ("mailbox_wait_seconds", "histogram", "From publish to handler.", _of_ledger("wait")),
    ("handler_duration_seconds", "histogram", "Of one attempt.", _of_ledger("duration")),
    ("publish_blocked_seconds", "counter", "Spent awaiting room.", _of_bus("blocked_seconds")),
    ("dead_letters_held", "gauge", "Dead letters in the store.", _of_bus("dead_letters_held")),
    ("event_loop_lag_seconds", "histogram", "How late the loop ran.", _of_bus("loop_lag")),
)  # fmt: skip
"""The table of metrics: name after ``actorbus_``, type, help, and where the values are."""


def _families(readings: Iterable[BusReading]) -> Iterator[Metric]:
    """Yield every family once; their samples are made when they are walked."""
    scrape = _Scrape(readings)
    for name, kind, text, walk in _FAMILIES:
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
        histogram = value if isinstance(value, Histogram) else _EMPTY
        sums = tuple(accumulate(histogram.counts))
        for bound, below in zip(_BOUNDS, sums, strict=True):
            yield Sample(bucket, {**labels, "le": bound}, below)
        yield Sample(count, labels, sums[-1])
        yield Sample(total, labels, histogram.total)


class _Samples(Sequence[Sample]):
    """The samples of a family, made while they are walked, in steps that let other threads run.

    A thread that keeps the interpreter busy gives it up every 5 ms only, so while it renders, each
    turn of the loop comes 5 ms late (1,000 actors: for 0.5 s); with these pauses the median is
    under 1 ms. And samples that lived longer would provoke full garbage collections, which stop
    the loop for 60 ms. All measured; rendering takes no longer.
    """

    STEP = 256
    PAUSE = 1e-6  # seconds; a sleep of 0 does not hand the interpreter over

    def __init__(self, make: Callable[[], Iterator[Sample]]) -> None:
        self._make = make

    def __iter__(self) -> Iterator[Sample]:
        samples = self._make()
        while step := list(islice(samples, self.STEP)):
            yield from step
            if asyncio._get_running_loop() is None:  # the loop's own thread has nobody to wait for
                time.sleep(self.PAUSE)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __getitem__(self, index: Any) -> Any:
        return list(self)[index]
