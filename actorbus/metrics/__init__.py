"""Prometheus: the ledger, exported.

    families    a scrape as metric families: the table, and the samples of each
    collector   all buses of a registry
    serving     an ASGI application, and a server of its own

Nothing here runs per event. A scrape asks each bus for a `BusReading` (plain integers, which the
bus copies on its own loop), turns it into metric families and lets prometheus_client render them;
`make_asgi_app` and `serve` do all of that outside the event loop.

A scrape is linear in the number of exported subscriptions: 63 series each, two more of a durable
one. A bus with a journal has 36 more; where none has one these families are left out.
"""

from __future__ import annotations

from actorbus.metrics.collector import Readable, register
from actorbus.metrics.serving import MetricsApp, MetricsServer, make_asgi_app, serve

__all__ = ["MetricsApp", "MetricsServer", "Readable", "make_asgi_app", "register", "serve"]
