"""How long from the moment an event is due to its handler, at 10 %, 50 % and 90 % of the peak?

Events are due at fixed times, whatever became of those before: each latency counts from the time
an event was *due*, not from when a late publisher got round to it (that would leave out exactly
the waits that matter; the error is known as coordinated omission).

One pacer task publishes what is due, 64 events at most, and yields to the loop. The peak is what
the slower of the two contenders does when everything is due at once, so both see the same rates.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from actorbus import EventBus
from benchmarks.case import Case, Effort, Figure, Spread
from benchmarks.contender import CAPACITY, PATIENCE, TOPIC, LostError

SHARES = (0.1, 0.5, 0.9)
QUANTILES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}
AT_ONCE = 64

Publish = Callable[[float], Any]
Run = Callable[[int, float], Any]


async def on_bus(count: int, rate: float) -> list[float]:
    """Return the latency of every event through actorbus."""
    handler, latencies, done = _recorder(count)
    async with EventBus("bench") as bus:
        bus.subscribe(TOPIC, handler, mailbox=CAPACITY)

        async def publish(due: float) -> None:
            await bus.publish(TOPIC, due)

        await _pace(publish, count, rate)
        await _all_in(done)
    return latencies


async def on_queue(count: int, rate: float) -> list[float]:
    """Return the latency of every event through the baseline."""
    handler, latencies, done = _recorder(count)
    queue: asyncio.Queue[float] = asyncio.Queue(CAPACITY)

    async def consume() -> None:
        while True:
            await handler(await queue.get())

    async def publish(due: float) -> None:
        await queue.put(due)

    consumer = asyncio.create_task(consume())
    await _pace(publish, count, rate)
    await _all_in(done)
    consumer.cancel()
    return latencies


def _recorder(count: int) -> tuple[Callable[[float], Any], list[float], asyncio.Event]:
    latencies: list[float] = []
    done = asyncio.Event()
    clock, record = time.perf_counter, latencies.append

    async def handle(due: float) -> None:
        record(clock() - due)
        if len(latencies) == count:
            done.set()

    return handle, latencies, done


async def _pace(publish: Publish, count: int, rate: float) -> None:
    clock = time.perf_counter
    began, sent = clock(), 0
    while sent < count:
        due = min(count, sent + AT_ONCE, 1 + int((clock() - began) * rate)) if rate else count
        for number in range(sent, min(due, sent + AT_ONCE)):
            await publish(began + number / rate if rate else clock())
        sent = max(sent, min(due, sent + AT_ONCE))
        await asyncio.sleep(0)


async def _all_in(done: asyncio.Event) -> None:
    try:
        await asyncio.wait_for(done.wait(), PATIENCE)
    except TimeoutError as error:
        raise LostError("not every event arrived") from error


async def _peak(run: Run, count: int, rounds: int) -> float:
    rates = []
    for _ in range(rounds):
        began = time.perf_counter()
        await run(count, 0)
        rates.append(count / (time.perf_counter() - began))
    return Spread.of(rates).median


def _quantiles(latencies: Sequence[float]) -> dict[str, float]:
    ordered = sorted(latencies)
    return {n: 1e6 * ordered[int(q * (len(ordered) - 1))] for n, q in QUANTILES.items()}


def case(share: float) -> Case:
    """Make the case of one load."""

    async def measure(effort: Effort) -> list[Figure]:
        burst = effort.pick(20_000, 1_000)
        peak = min([await _peak(run, burst, effort.rounds) for run in (on_queue, on_bus)])
        rate = share * peak
        count = int(rate * (0.02 if effort.quick else 0.4)) + 1
        rounds: list[tuple[dict[str, float], dict[str, float]]] = []
        for number in range(effort.rounds):
            order = (on_queue, on_bus) if number % 2 == 0 else (on_bus, on_queue)
            found = {run: _quantiles(await run(count, rate)) for run in order}
            rounds.append((found[on_queue], found[on_bus]))
        return [_figure(name, rounds, rate) for name in QUANTILES]

    text = f"Latency at {share:.0%} of the peak rate"
    completion = "every event's own latency, from when it was due until its handler runs"
    return Case(f"latency.{share * 100:.0f}", text, completion, measure)


def _figure(
    name: str, rounds: Sequence[tuple[dict[str, float], dict[str, float]]], rate: float
) -> Figure:
    return Figure(
        name,
        "µs",
        Spread.of(bus[name] for _, bus in rounds),
        Spread.of(queue[name] for queue, _ in rounds),
        Spread.of(queue[name] / bus[name] for queue, bus in rounds),
        notes={"events_per_second": rate},
    )


CASES = [case(share) for share in SHARES]
