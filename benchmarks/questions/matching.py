"""Does finding the subscribers of a topic get slower with more patterns?

The mix: 60 % exact patterns and 10 % each with ``*``, ``**`` at the end, ``**`` in the middle, and
an affix. Each look-up is timed by itself. The baseline is one look-up in a dict of exact topics of
the same size, which is all a bus without wildcards needs; the time to read the clock is in both.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Any

from actorbus.router import Router
from actorbus.topic import Pattern
from benchmarks.case import Case, Effort, Figure, Goal, Spread
from benchmarks.clock import Stopwatch
from benchmarks.residence import MIB, resident_bytes

SIZES = (10, 1_000, 100_000, 1_000_000)
HOT = 1_000  # topics that fit into the cache
LOOKUPS = 20_000


def pattern(number: int) -> str:
    """Return the text of one pattern of the mix."""
    service, kind, item = number % 997, number % 89, number
    match number % 10:
        case 0:
            return f"service{service}:*:item{item}"
        case 1:
            return f"service{service}:kind{kind}:item{item}:**"
        case 2:
            return f"service{service}:**:item{item}"
        case 3:
            return f"service{service}:kind{kind}:item{item}_*"
        case _:
            return f"service{service}:kind{kind}:item{item}"


def topic(number: int) -> str:
    """Return a topic that some pattern of the mix was made for."""
    service, kind = number % 997, number % 89
    tail = {1: ":a:b", 3: "_x"}.get(number % 10, "")
    return f"service{service}:kind{kind}:item{number}{tail}"


def build(size: int) -> Router[int, Any]:
    """Return a router with so many patterns."""
    router: Router[int, Any] = Router(lambda _, values: values)
    for number in range(size):
        router.add(Pattern(pattern(number)), 0)
    return router


def each_time(look: Callable[[str], Any], topics: Sequence[str]) -> list[float]:
    """Return the microseconds of every look-up, in order of length."""
    clock = time.perf_counter_ns
    times = []
    for text in topics:
        began = clock()
        look(text)
        times.append((clock() - began) / 1000)
    times.sort()
    return times


def case(size: int) -> Case:
    """Make the case of one number of patterns."""

    async def measure(effort: Effort) -> list[Figure]:
        actual = min(size, 20_000) if effort.quick else size
        before = resident_bytes()
        with Stopwatch() as building:
            router = build(actual)
        held = (resident_bytes() - before) / MIB
        before = resident_bytes()
        with Stopwatch() as building_dict:
            exact = {topic(number): (0,) for number in range(actual)}
        held_dict = (resident_bytes() - before) / MIB
        figures = _look_ups(router, exact, actual, effort)
        rates = [actual / watch.cpu for watch in (building, building_dict)]
        figures.append(_single("build", "patterns/s", rates[0], rates[1], rates[0] / rates[1]))
        figures.append(_single("memory", "MiB", held, held_dict, held_dict / max(held, 1e-3)))
        if size == SIZES[-1]:
            goals = {"cold p50": 6.0, "cold p99": 20.0, "memory": 300.0}
            for figure in figures:
                if figure.what in goals:
                    figure.goal = Goal("subject", at_most=goals[figure.what])
        return figures

    text = f"Finding subscribers among {size:,} patterns"
    return Case(f"matching.{size}", text, "each look-up returns before the next", measure)


def _look_ups(
    router: Router[int, Any], exact: dict[str, Any], size: int, effort: Effort
) -> list[Figure]:
    chance = random.Random(7)  # noqa: S311 any repeatable order will do
    lookups = effort.pick(LOOKUPS, 500)
    hot = [topic(number) for number in chance.sample(range(size), min(size, HOT))]
    colds, cacheds, dicts = [], [], []
    for _ in range(effort.rounds):
        topics = [topic(chance.randrange(size)) for _ in range(lookups)]
        dicts.append(each_time(exact.get, topics))
        colds.append(each_time(router.match, topics))
        for text in hot:
            router.route(text)
        cacheds.append(each_time(router.route, [chance.choice(hot) for _ in range(lookups)]))
    figures = []
    for name, found in (("cold", colds), ("cached", cacheds)):
        for quantile, share in (("p50", 0.5), ("p99", 0.99)):
            subject, baseline = (
                [times[int(share * (len(times) - 1))] for times in rounds]
                for rounds in (found, dicts)
            )
            ratios = [b / s for s, b in zip(subject, baseline, strict=True)]
            figures.append(
                Figure(
                    f"{name} {quantile}",
                    "µs",
                    Spread.of(subject),
                    Spread.of(baseline),
                    Spread.of(ratios),
                    against="one dict look-up",
                )
            )
    return figures


def _single(what: str, unit: str, subject: float, baseline: float, ratio: float) -> Figure:
    own, theirs, times = (Spread.of([value]) for value in (subject, baseline, ratio))
    return Figure(what, unit, own, theirs, times, against="a dict of exact topics")


CASES = [case(size) for size in SIZES]
