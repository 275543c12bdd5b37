"""What no rate tells: what does a burst do, does a bad neighbour do harm, does a publisher wait?"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any, cast

from benchmarks.contender import Contender, Count, LostError

BURST = 2_000
EVENTS = 10
NAP = 0.05  # seconds the slow neighbour takes for each event
HARM = EVENTS * NAP / 2  # seconds after which the healthy one was held up
FLOOD = 5_000  # events for one who takes none: more than any bound, few enough to be quick
HELD = 1.0  # seconds after which a publisher counts as waiting


async def probe(make: Callable[[], Contender]) -> dict[str, Any]:
    """Return what a contender does with a burst and with bad neighbours.

    Returns:
        ``burst``: what becomes of 2,000 events published without a pause. ``isolates``: whether
        a healthy subscriber gets everything in time beside a slow and a failing one; ``harm``:
        what happens to it otherwise. ``failing_called``: how often the failing one was called.
        ``waits``: whether a publisher is made to wait for a subscriber that is stuck. ``queue``
        and ``counts`` are what the contender says of itself.
    """
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda *_: None)
    harm, called = await _neighbours(make)
    burst = await _burst(make)
    waits = "raises" if burst.startswith("raises") else await _pressure(make)
    loop.set_exception_handler(None)
    contender = make()
    return {
        "queue": contender.queue,
        "counts": contender.counts,
        "waits": waits,
        "burst": burst,
        "isolates": not harm,
        "harm": harm,
        "failing_called": f"{called} of {EVENTS}",
    }


async def _burst(make: Callable[[], Contender]) -> str:
    contender = make()
    count = Count(1, BURST, plain=contender.plain)
    await contender.open(count.handlers)
    publish = getattr(contender, "burst", contender.send)
    try:
        await publish(BURST)
        await count.finished(3.0)
    except LostError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 a peer that raises is the answer
        return f"raises {type(error).__name__} with {count.missing:,} of {BURST:,} to go"
    finally:
        await contender.close()
    return "ok"


async def _neighbours(make: Callable[[], Contender]) -> tuple[str, int]:
    contender = make()
    healthy = Count(1, EVENTS, plain=contender.plain)
    slow: Any = _slow_plain if contender.plain else _slow
    fail, calls = _failing(plain=contender.plain)
    await contender.open([slow, fail, *healthy.handlers])
    began = time.perf_counter()
    sending = asyncio.create_task(contender.send(EVENTS))
    harm = ""
    try:
        await healthy.finished(HARM)
    except LostError:
        took = time.perf_counter() - began
        harm = f"{healthy.missing} of {EVENTS} late or lost after {took:.2f} s"
    if sending.done() and (error := sending.exception()) is not None:
        harm = f"{type(error).__name__} raised in the publisher"
    await asyncio.sleep(NAP)  # for the failing one, which has no turn to wait for
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    await asyncio.wait({asyncio.ensure_future(_closing(contender))}, timeout=3.0)
    return harm, len(calls)


async def _pressure(make: Callable[[], Contender]) -> str:
    """Return whether a publisher waits for a subscriber that is stuck with its first event."""
    contender = make()
    release = threading.Event() if contender.plain else asyncio.Event()

    def hold_plain(_: object) -> None:
        release.wait()

    async def hold(_: object) -> None:
        await cast("asyncio.Event", release).wait()

    await contender.open([hold_plain if contender.plain else hold])
    sending = asyncio.create_task(contender.send(FLOOD))
    await asyncio.wait({sending}, timeout=HELD)
    waits = "yes" if not sending.done() else "raises" if sending.exception() else "no"
    sending.cancel()
    release.set()
    await asyncio.gather(sending, return_exceptions=True)
    await asyncio.wait({asyncio.ensure_future(_closing(contender))}, timeout=3.0)
    return waits


async def _closing(contender: Contender) -> None:
    with contextlib.suppress(Exception):  # it was asked about its subscribers, not its shutdown
        await contender.close()


async def _slow(_: object) -> None:
    await asyncio.sleep(NAP)


def _failing(*, plain: bool) -> tuple[Any, list[object]]:
    calls: list[object] = []

    def fail_plain(data: object) -> None:
        calls.append(data)
        raise ValueError("a bad neighbour")

    async def fail(data: object) -> None:
        fail_plain(data)

    return fail_plain if plain else fail, calls


def _slow_plain(_: object) -> None:
    time.sleep(NAP)
