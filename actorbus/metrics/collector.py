"""Collector: what one registry exports, of any number of buses.

Invariant: one registry has one collector for all of its buses, so every family appears once.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Protocol
from weakref import WeakKeyDictionary

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.metrics_core import Metric

from actorbus.metrics.families import described, families
from actorbus.rows import BusReading

if TYPE_CHECKING:
    from prometheus_client.registry import Collector


class Readable(Protocol):
    """What the exporter needs of a bus."""

    @property
    def name(self) -> str:
        """The label of everything the bus exports."""

    def reading(self) -> BusReading:
        """Return a copy of all counters; callable on any thread."""

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


class _Collector:
    """All buses of one registry."""

    def __init__(self) -> None:
        self._buses: tuple[Readable, ...] = ()

    def add(self, bus: Readable) -> None:
        self._buses = (*(known for known in self._buses if known is not bus), bus)

    def describe(self) -> Iterable[Metric]:
        """Name the families without reading a bus: otherwise registering would collect."""
        return described()

    def collect(self) -> Iterator[Metric]:
        """Read every bus, then yield each family once."""
        return families([bus.reading() for bus in self._buses])


_collectors: WeakKeyDictionary[CollectorRegistry, _Collector] = WeakKeyDictionary()
_lock = threading.Lock()
