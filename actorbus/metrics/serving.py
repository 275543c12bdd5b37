"""Serving: metrics over HTTP, rendered outside the event loop."""

from __future__ import annotations

import gzip
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import Any, Self
from urllib.parse import parse_qs

import anyio.to_thread
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.exposition import choose_encoder, gzip_accepted

from actorbus.metrics.collector import Readable, register

_Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
_Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


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
