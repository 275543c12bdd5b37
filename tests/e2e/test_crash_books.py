"""The books of a process that is killed, and of the one that comes after it, in a real file."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from actorbus import EventBus, metrics
from tests.handlers import Gate, Seen
from tests.test_metrics import at, scrape

if sys.platform == "win32":
    pytest.skip("it has no kill -9", allow_module_level=True)

pytestmark = pytest.mark.e2e

EVENTS, HANDLED = 20, 5


async def live(directory: Path) -> None:
    """Publish, handle some of it, and die with the next one in hand."""
    bus, gate = EventBus("shop", journal=f"sqlite:///{directory}/events.db"), Gate(HANDLED)
    bus.subscribe("order:*", gate, name="billing", durable="billing", mailbox=3)
    await bus.start()
    for number in range(EVENTS):
        await bus.publish("order:paid", number)
    await gate.entered()
    await bus.publish("other:topic")  # what is settled is in the commit of this, or before it
    os.kill(os.getpid(), signal.SIGKILL)


def die(directory: Path) -> None:
    """Be the process that is killed."""
    asyncio.run(live(directory))


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_the_next_process_routes_again_what_was_not_settled(
    anyio_backend: str, tmp_path: Path
) -> None:
    """Its ledger begins at 0, and at the end has all that the journal had left, once."""
    process = multiprocessing.get_context("forkserver").Process(target=die, args=(tmp_path,))
    process.start()
    process.join(50.0)
    assert process.exitcode == -signal.SIGKILL

    registry, seen = CollectorRegistry(), Seen()
    bus = EventBus("shop", journal=f"sqlite:///{tmp_path}/events.db")
    bus.subscribe("order:*", seen, name="billing", durable="billing", mailbox=3)
    metrics.register(bus, registry)
    async with bus:
        await bus.settle()
        assert bus.audit().balanced
    terms, samples = bus.audit().subscriptions["billing"], scrape(registry)
    of = {"bus": "shop", "subscription": "billing"}
    assert seen.got == [*range(HANDLED, EVENTS)]
    assert terms.routed == terms.acked == EVENTS - HANDLED
    assert at(samples, "actorbus_routed_deliveries_total", **of) == EVENTS - HANDLED
    assert at(samples, "actorbus_acked_deliveries_total", **of) == EVENTS - HANDLED
    assert at(samples, "actorbus_journal_lag", **of) == 0
    assert at(samples, "actorbus_journal_oldest_unacked_seconds", **of) == 0
    assert at(samples, "actorbus_journal_events", bus="shop") == EVENTS + 1
