"""Do subscribers with wildcards cost more than exact ones?

They should not: a topic's route is compiled once, whatever patterns led to it.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from benchmarks.case import Case, Effort, Figure, Goal
from benchmarks.clock import alternate, fitting, rate_figure
from benchmarks.contender import Bus, Shape, race
from benchmarks.questions.throughput import COMPLETION, MOST

WILD = ("bench:*", "bench:**", "*:event", "be*:event", "**:event")


def case(name: str, shape: Shape) -> Case:
    """Make the case of one fan-out."""

    async def measure(effort: Effort) -> list[Figure]:
        more = effort if effort.quick else replace(effort, rounds=15)  # 3 % is little
        trials = [partial(race, Bus, shape), partial(race, partial(Bus, patterns=WILD), shape)]
        counts = [await fitting(each, more, more.pick(MOST, 4_000), 40) for each in trials]
        exact, wild = await alternate(trials, [min(counts)] * 2, more.rounds)
        figure = rate_figure("wildcards", "deliveries/s", wild, exact, "exact subscribers")
        figure.goal = Goal("ratio", at_least=0.97)
        return [figure]

    text = f"Subscribers with wildcards instead of exact topics, {name}"
    return Case(f"wildcards.{name}", text, COMPLETION, measure)


CASES = [case("1-1", Shape()), case("1-10", Shape(10))]
