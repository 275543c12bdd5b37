"""The scenarios: small programs on a bus, each of which ends with the books held against it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from tests.sweep.scenarios import durable, failure, living, outside, pressure

Scenario = Callable[[], Coroutine[Any, Any, None]]

SCENARIOS: dict[str, Scenario] = {
    "everything": living.everything,
    "backpressure": pressure.backpressure,
    "overflow": pressure.overflow,
    "keyed": pressure.keyed,
    "groups": pressure.groups,
    "ring": pressure.ring,
    "hops": pressure.hops,
    "retries": failure.retries,
    "one_for_one": partial(failure.restarts, "one_for_one"),
    "one_for_all": partial(failure.restarts, "one_for_all"),
    "rest_for_one": partial(failure.restarts, "rest_for_one"),
    "escalation": failure.escalation,
    "stubborn": failure.stubborn,
    "letters": failure.letters,
    "threads": outside.threads,
    "thread_abandoned": outside.thread_abandoned,
    "foreign": outside.foreign,
    "asks": outside.asks,
    "streams": outside.streams,
    "stops": living.stops,
    "drains": living.drains,
    "operations_cut": living.operations_cut,
    "durable": durable.durable,
}
"""By the names the command line takes."""
