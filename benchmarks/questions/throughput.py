"""How many deliveries a second, for one subscriber and for many?"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from actorbus import RetryPolicy
from benchmarks.case import Case, Effort, Figure, Goal
from benchmarks.clock import alternate, fitting, rate_figure, ratio
from benchmarks.contender import TOPIC, Bus, Contender, Floor, Queues, Shape, race
from benchmarks.peers import load
from benchmarks.peers.probe import probe

MOST = 200_000  # deliveries a lap
COMPLETION = (
    "the clock runs from before the first publish until the last handler call of the last "
    "subscriber has set a future that the main task awaits"
)


class OneTry(Bus):
    """actorbus as the peers are: a failed delivery is not tried again."""

    def __init__(self) -> None:
        super().__init__(options={"retry": RetryPolicy.none()})

    async def burst(self, count: int) -> None:
        """Publish without awaiting anything."""
        for number in range(count):
            self.bus.publish(TOPIC, number)

    async def close(self) -> None:
        await self.bus.close(timeout=0)


async def against_queues(
    make: Callable[[], Contender], shape: Shape, effort: Effort, name: str
) -> Figure:
    """Run a contender in turn with the baseline and the floor."""
    trials = [partial(race, each, shape) for each in (Queues, make, Floor)]
    least = 4 * shape.subscribers * shape.publishers
    counts = [await fitting(each, effort, effort.pick(MOST, 4_000), least) for each in trials]
    baseline, subject, floor = await alternate(trials, counts, effort.rounds)
    figure = rate_figure(name, "deliveries/s", subject, baseline, "asyncio.Queue(1024)")
    figure.notes["share_of_floor"] = ratio(subject, floor).median
    figure.notes["ns_per_delivery"] = 1e9 / figure.subject.median
    return figure


def case(name: str, shape: Shape, least: float | None, text: str, *, awaited: bool = True) -> Case:
    """Make the case of one fan-out."""
    single = shape == Shape()

    async def measure(effort: Effort) -> list[Figure]:
        remarks = await probe(OneTry) if single and awaited else {}
        figure = await against_queues(partial(Bus, awaited=awaited), shape, effort, "actorbus")
        figure.notes |= remarks
        if least is not None:
            figure.goal = Goal("ratio", at_least=least)
        return [figure]

    async def measure_peer(effort: Effort, peer: str) -> list[Figure]:
        make = load(peer)
        remarks = await probe(make) if single else {}
        figure = await against_queues(make, shape, effort, peer)
        figure.notes |= {**remarks, "publishes": make.publishes, "queue": make.queue}
        return [figure]

    if not awaited:
        completion = f"{COMPLETION}; the publisher yields every 256 events"
        return Case(f"throughput.{name}", text, completion, measure)
    times = {"isolating": 2.0} | ({"pyee": 8.0, "bubus": 1000.0} if single else {})
    return Case(f"throughput.{name}", text, COMPLETION, measure, measure_peer, times)


CASES = [
    case("1-1", Shape(), 1.3, "One publisher awaits each publish, one subscriber"),
    case("1-1-no-await", Shape(), 1.7, "One publisher, no await, one subscriber", awaited=False),
    case("1-10", Shape(10), 3.0, "One publisher awaits each publish, 10 subscribers"),
    case("1-100", Shape(100), 3.5, "One publisher awaits each publish, 100 subscribers"),
    case("10-10", Shape(10, 10), None, "10 publishers await each publish, 10 subscribers"),
]
