"""One small adapter per rival: the same handlers, the same counting, its own way of publishing.

Each adapter module is named after its distribution and holds one class, ``Peer``, a `Contender`
that also says in ``publishes`` how it is driven, in ``queue`` where an event waits (``none``: the
publisher runs the handlers) and in ``counts`` what it can tell of its deliveries. The versions are
pinned in the extra ``actorbus[bench]``. A queue in a file has no handlers: it is made of an empty
folder, has ``put``, ``through`` (put, take, acknowledge) and ``close``, and says ``publishes``.

An adapter does what the peer's documentation recommends and nothing to slow it down, unless the
peer cannot work otherwise; then ``publishes`` says so.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

BUSES = {
    "pyee": "pyee",
    "blinker": "blinker",
    "bubus": "bubus",
    "aiopubsub": "aiopubsub",
    "pymitter": "pymitter",
    "psygnal": "psygnal",
    "broadcaster": "broadcaster",
    "eventkit": "eventkit",
    "pykka": "pykka",
    "xoscar": "xoscar",
    "anyio_streams": "anyio",
}
"""What publishes in memory: adapter module to distribution."""
QUEUES = {"persist_queue": "persist-queue", "litequeue": "litequeue"}
"""What keeps items in a file, likewise."""
PEERS = BUSES | QUEUES


def load(name: str) -> Any:
    """Return the adapter class of a peer; importing it imports the peer."""
    return import_module(f"benchmarks.peers.{name}").Peer


def installed() -> dict[str, str]:
    """Return the version of every peer that is installed, by adapter name."""
    found = {}
    for name, distribution in PEERS.items():
        try:
            found[name] = version(distribution)
        except PackageNotFoundError:
            continue
    return found
