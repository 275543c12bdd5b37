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
from benchmarks.clock import Lap, Stopwatch, rate_figure
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


def build_dict(size: int) -> dict[str, Any]:
    """Return a dict of so many exact topics."""
    return {topic(number): (0,) for number in range(size)}


def timed(make: Callable[[int], Any], size: int) -> tuple[Any, Lap]:
    """Return what is made, and how long it took."""
    with Stopwatch() as watch:
        made = make(size)
    return made, watch.lap(size)


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
        router, first = timed(build, actual)
        held = (resident_bytes() - before) / MIB
        before = resident_bytes()
        exact, first_dict = timed(build_dict, actual)
        held_dict = (resident_bytes() - before) / MIB
        figures = _look_ups(router, exact, actual, effort)
        laps, laps_dict = [first], [first_dict]
        for _ in range(min(effort.rounds, 5) - 1):
            laps.append(timed(build, actual)[1])
            laps_dict.append(timed(build_dict, actual)[1])
        against = "a dict of exact topics"
        figures.append(rate_figure("build", "patterns/s", laps, laps_dict, against))
        # Once: what is built later finds memory that what went before has left.
        own, theirs, ratio = (Spread.of([n]) for n in (held, held_dict, held_dict / max(held, 0.1)))
        figures.append(Figure("memory", "MiB", own, theirs, ratio, against=against))
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


CASES = [case(size) for size in SIZES]
