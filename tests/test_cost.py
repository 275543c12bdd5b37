"""What the plain path costs, counted in work instead of time, so that it cannot creep up.

Counted are the bytecode instructions that run in `actorbus` and the calls made from there, those to
C functions and to the handler included. The numbers are the same in every run of one Python version
and differ between versions. Who makes the path shorter lowers them here; who makes it longer finds
out which line it was, and that a publish to a hundred subscribers takes each step of the fan-out a
hundred times.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import pytest

import actorbus
from actorbus import EventBus
from tests.virtual import run

ROOT = str(Path(actorbus.__file__).parent)
SLACK = 0.1  # of an instruction or a call: one more per publish or delivery is too many


class Cost(NamedTuple):
    """What something takes on the average."""

    instructions: float
    calls: float


# For each Python version: of a publish in a burst, however many subscribers there are; of one that
# is not, to one and to a hundred; and of a delivery to a fast handler in a long lot, with its share
# of what the lot and its chunks of 64 take.
MOST: dict[tuple[int, int], dict[str, Cost]] = {
    (3, 11): {
        "publish in a burst": Cost(96, 6),
        "publish to 1": Cost(161, 10),
        "publish to 100": Cost(2141, 208),
        "delivery": Cost(23.60, 1.22),
    },
    (3, 12): {
        "publish in a burst": Cost(88, 6),
        "publish to 1": Cost(148, 10),
        "publish to 100": Cost(1930, 208),
        "delivery": Cost(23.41, 1.22),
    },
    (3, 13): {
        "publish in a burst": Cost(89, 6),
        "publish to 1": Cost(146, 10),
        "publish to 100": Cost(1829, 208),
        "delivery": Cost(23.55, 1.22),
    },
}

pytestmark = [
    pytest.mark.skipif(sys.version_info[:2] not in MOST, reason="not measured on this version"),
    pytest.mark.skipif(sys.gettrace() is not None, reason="somebody else traces"),
]


class Meter:
    """Counts what runs in `actorbus` while it is on."""

    def __init__(self) -> None:
        self.instructions = 0
        self.calls = 0

    def count(self, what: Callable[[], object]) -> None:
        """Count what a plain call takes."""
        self._on()
        try:
            what()
        finally:
            self._off()

    async def count_until(self, done: Callable[[], Awaitable[object]]) -> None:
        """Count what the loop runs until something is done."""
        self._on()
        try:
            await done()
        finally:
            self._off()

    def _on(self) -> None:
        gc.disable()
        sys.setprofile(self._profile)
        sys.settrace(self._trace)

    def _off(self) -> None:
        sys.settrace(None)
        sys.setprofile(None)
        gc.enable()

    def _trace(self, frame: FrameType, what: str, _: Any) -> Any:
        if not _ours(frame):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return self._step

    def _step(self, frame: FrameType, what: str, _: Any) -> Any:
        self.instructions += what == "opcode"
        return self._step

    def _profile(self, frame: FrameType, what: str, _: Any) -> None:
        if what == "c_call":
            self.calls += _ours(frame)
        elif what == "call":
            self.calls += _ours(frame) or (frame.f_back is not None and _ours(frame.f_back))


def _ours(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(ROOT)


async def nothing(data: object) -> None:
    """Handle a delivery in no time."""


async def of_publish(subscribers: int, *topics: str) -> Cost:
    """Return the cost of a plain publish to these topics in turn, whose subscribers have room."""
    async with EventBus() as bus:
        for number in range(subscribers * len(topics)):
            bus.subscribe(topics[number % len(topics)], nothing, mailbox=100_000)
        for topic in topics * 3:
            bus.publish(topic)  # its route is compiled, its workers are awake
        bus._engine.clock = time.monotonic  # as on a loop of asyncio
        bus._engine.epoch.until = float("inf")

        def publish(times: int) -> Meter:
            meter = Meter()
            meter.count(lambda: [bus.publish(topic) for _ in range(times) for topic in topics])
            return meter

        publish(10)
        few, many = publish(10), publish(110)
    return _difference(few, many, 100 * len(topics))


async def of_delivery() -> Cost:
    """Return the cost of a delivery to a fast handler in a long lot, its share of the lot's."""
    async with EventBus() as bus:
        bus.subscribe("t", nothing, mailbox=1024)

        async def deliver(deliveries: int) -> Meter:
            for _ in range(deliveries):
                bus.publish("t")
            meter = Meter()
            await meter.count_until(bus.settle)
            return meter

        await deliver(1024)
        few, many = await deliver(512), await deliver(1024)
    return _difference(few, many, 512)


def _difference(few: Meter, many: Meter, more: int) -> Cost:
    return Cost((many.instructions - few.instructions) / more, (many.calls - few.calls) / more)


MEASURED: dict[str, Callable[[], Awaitable[Cost]]] = {
    "publish in a burst": lambda: of_publish(100, "t"),
    "publish to 1": lambda: of_publish(1, "t", "u"),
    "publish to 100": lambda: of_publish(100, "t", "u"),
    "delivery": of_delivery,
}


@pytest.mark.parametrize("what", MEASURED)
def test_the_plain_path_costs_no_more_than_it_did(what: str) -> None:
    """Not one instruction and not one call more, for a publish or for a delivery."""

    async def measured() -> Cost:
        return await MEASURED[what]()

    cost, most = run(measured), MOST[sys.version_info[:2]][what]
    assert cost.instructions < most.instructions + SLACK
    assert cost.calls < most.calls + SLACK
    assert run(measured) == cost  # or the numbers say nothing
