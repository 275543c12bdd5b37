"""Sync handlers: a plain def runs in a thread of the bus, so it may block; the loop goes on."""

import asyncio
import threading
import time
from typing import Any

from actorbus import EventBus

bus = EventBus("sync")
loop_thread = threading.current_thread()


@bus.subscribe("report:wanted", name="writer")
def write_report(data: dict[str, Any]) -> None:
    time.sleep(0.1)  # blocks this actor's thread and nothing else
    print("report", data["number"], "written, on the loop's thread:", on_loop())


@bus.subscribe("report:*", name="counter", inline=True)
def count(data: dict[str, Any]) -> None:
    """Fast and never blocking, so it may run on the loop: no thread, no hop."""
    print("counted", data["number"], "on the loop's thread:", on_loop())


def on_loop() -> bool:
    return threading.current_thread() is loop_thread


def work() -> None:
    """Publish from another thread: the same call; wait() is the blocking form of await."""
    bus.publish("report:wanted", {"number": 3}).wait(timeout=1.0)


async def main() -> None:
    started = time.monotonic()
    for number in (1, 2):
        bus.publish("report:wanted", {"number": number})
    print("published in less than a report takes:", time.monotonic() - started < 0.1)
    await bus.settle()  # reports of one actor are written in order
    await asyncio.to_thread(work)
    await bus.settle()


bus.run(main)

# Output:
# published in less than a report takes: True
# counted 1 on the loop's thread: True
# counted 2 on the loop's thread: True
# report 1 written, on the loop's thread: False
# report 2 written, on the loop's thread: False
# counted 3 on the loop's thread: True
# report 3 written, on the loop's thread: False
