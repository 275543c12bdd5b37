"""The life of the demo's process: listen, serve, drain, report.

On the first SIGINT or SIGTERM (or when its time is up) the server stops accepting and finishes its
requests, then the bus finishes what it has accepted, and the exit code is 0. The second signal ends
the process at once with 128 + its number.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import uvicorn

from actorbus.bus import EventBus
from actorbus.cli.demo.api import make_app, tries
from actorbus.cli.demo.plugins import install
from actorbus.cli.demo.tasks import Tasks
from actorbus.cli.demo.traffic import Traffic
from actorbus.cli.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from actorbus.ledger import Audit

GRACE = 10
"""Seconds the requests in hand get to finish."""

DRAIN = 25.0
"""Seconds the bus gets to finish what it has accepted."""


def run(host: str, port: int, rate: float, seconds: float) -> int:
    """Run the demo until its time is up or a signal comes.

    Args:
        host: Address to bind.
        port: TCP port; 0 takes any free one.
        rate: Events a second of built-in traffic; 0 for none.
        seconds: How long; 0 for until a signal.

    Returns:
        The exit code: 0 if everything that was accepted is settled, else 1.

    Raises:
        CommandError: The address cannot be bound.
    """
    _log_in_lines()
    with _listen(host, port) as listener:
        return anyio.run(partial(_serve, listener, rate, seconds))


def _log_in_lines() -> None:
    """Show the library's warnings without tracebacks: here the failures are part of the show."""
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)


class _OneLine(logging.Formatter):
    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
        return f"  {ei[0].__name__}: {ei[1]}"


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's delay off (40 ms an answer) only where the protocol is spelt out.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        reason = error.strerror or str(error)
        raise CommandError(f"cannot listen on {host}:{port}: {reason}") from error
    return listener


async def _serve(listener: socket.socket, rate: float, seconds: float) -> int:
    bus = EventBus("demo")
    async with bus:
        tasks = Tasks(bus)
        app = make_app(bus, tasks, install(bus, tasks))
        server = _Server(app)
        with server.stopped_by_signals():
            async with anyio.create_task_group() as group:
                if rate:
                    group.start_soon(Traffic(bus, tasks).run, rate)
                if seconds:
                    group.start_soon(server.stop_after, seconds)
                _welcome(listener, rate)
                await server.serve(sockets=[listener])
                group.cancel_scope.cancel()
            report = await bus.drain(timeout=DRAIN)
    _say(str(report))
    _say(_books(bus.audit()))
    return 0 if report.complete else 1


class _Server(uvicorn.Server):
    """uvicorn, with the signals in our hands: it would raise them again after the shutdown."""

    def __init__(self, app: object) -> None:
        super().__init__(
            uvicorn.Config(
                app,  # type: ignore[arg-type]  # an ASGI application
                lifespan="off",
                log_level="warning",
                access_log=False,
                timeout_graceful_shutdown=GRACE,
            )
        )

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield

    @contextmanager
    def stopped_by_signals(self) -> Iterator[None]:
        """Stop at the first SIGINT or SIGTERM, exit at the second."""
        before = {n: signal.signal(n, self._on_signal) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self.should_exit:
            os._exit(128 + number)
        self.should_exit = True

    async def stop_after(self, seconds: float) -> None:
        """Stop when `seconds` have passed."""
        await anyio.sleep(seconds)
        self.should_exit = True


def _welcome(listener: socket.socket, rate: float) -> None:
    host, port = listener.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    traffic = f"{rate:g} events a second" if rate else "none but yours"
    lines = [
        f"actorbus demo on {url}/  (traffic: {traffic})",
        "",
        "open",
        *(f"  {url}{path}" for path in ("/", "/stats", "/metrics", "/dead-letters")),
        "try",
        *(f"  {command}  # {what}" for what, command in tries(url)),
        "stop",
        "  Ctrl+C finishes what was accepted; a second one does not wait",
    ]
    _say("\n".join(lines))


def _books(audit: Audit) -> str:
    terms = audit.totals
    names = ("acked", "dead", "conflated", "waiting", "queued", "running", "retrying")
    right = " + ".join(f"{getattr(terms, name)} {name}" for name in names)
    word = "balanced" if audit.balanced else "OUT OF BALANCE"
    return f"audit {word}: {terms.routed} routed = {right}"


def _say(text: str) -> None:
    """Print at once, in colour where there is a terminal and rich is installed."""
    if sys.stdout.isatty():
        with suppress(ImportError):
            from rich.console import Console

            Console(soft_wrap=True, markup=False).print(text)
            return
    print(text, flush=True)
