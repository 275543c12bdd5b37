"""The soak itself: what is out of balance, miscounted or growing is found."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.soak.__main__ import wrong_counts
from tests.soak.load import Load
from tests.soak.watch import GAP, Look, columns, drifts, gaps, look_at, too_large, watch

LOOK = Look(
    second=1.0, late=0.0, published=0, settled=0, pending=0, rss_mib=40.0, tasks=50, threads=9,
    fds=9, objects=40_000,
)  # fmt: skip


@pytest.fixture
async def load() -> Load:
    """Give the load of a soak, after some events of the subscribers that need no thread."""
    made = Load(0)
    async with made.bus:
        for number in range(20):
            await made.publish("fast:1", number, key=number % 3)
        await made.ask("ask:double", 2, None)
        await made.bus.settle()
    return made


async def test_counts_that_agree_are_no_fault(load: Load) -> None:
    """The soak's own counts and the ledger's are the same."""
    assert wrong_counts(load, load.bus.audit()) == []
    assert load.handled["fast"] == 20


async def test_a_delivery_too_many_or_too_few_is_a_fault(load: Load) -> None:
    """What a handler or a publisher has counted otherwise than the bus is told."""
    load.handled["fast"] += 1
    load.handled["doubler"] -= 1
    load.published += 1

    assert wrong_counts(load, load.bus.audit()) == [
        "21 events published, but {'events published': 22, 'witness': 21}",
        "doubler: 1 acked, 0 handlers returned",
        "fast: 20 acked, 21 handlers returned",
    ]


async def test_books_that_are_out_are_told_with_their_second(load: Load) -> None:
    """Every look compares; one imbalance is a fault even if the next look sees none."""
    [sub] = [each for each in load.bus._registry.live.values() if each.name == "fast"]

    def tell(seen: list[Look]) -> None:
        sub.ledger.routed += {1: 7, 2: -7}.get(len(seen), 0)

    seen, faults = await watch(load.bus, 3, tell)

    assert len(seen) == 3
    assert faults == ["at 2 s the books were out: {'fast': 7}"]


async def test_a_look_sees_the_process(load: Load) -> None:
    """There is memory, a task, a thread, and what the bus has published."""
    look, differences = look_at(load.bus, 3.0, 0.5)

    assert differences == {}
    assert (look.second, look.late, look.published, look.pending) == (3.0, 0.5, 21, 0)
    assert look.rss_mib > 1
    assert look.tasks >= 1
    assert look.threads >= 1
    assert look.objects > 1000


@pytest.mark.parametrize(
    ("name", "flat", "grown"),
    [("rss_mib", 41.9, 42.1), ("objects", 41_900, 42_100), ("tasks", 55, 56), ("threads", 12, 13),
     ("fds", 10, 11)],
)  # fmt: skip
def test_what_grows_beyond_its_bound_is_a_fault(name: str, flat: Any, grown: Any) -> None:
    """The median of the last fifth may be 5 % above that of the second, and a little more."""
    for last, faults in ((flat, 0), (grown, 1)):
        seen = [LOOK] * 80 + [replace(LOOK, **{name: last})] * 20

        assert len([*too_large(drifts(seen))]) == faults


def test_a_warm_up_and_a_peak_are_no_growth() -> None:
    """The first fifth does not count, nor does what is over soon."""
    small, peak = replace(LOOK, rss_mib=10.0), replace(LOOK, rss_mib=90.0)
    seen = [small] * 20 + [LOOK] * 71 + [peak] * 9

    assert [*too_large(drifts(seen))] == []


def test_a_gap_is_told_and_looks_are_thinned() -> None:
    """A machine that was asleep is no fault; a long soak makes no long report."""
    late = replace(LOOK, late=GAP + 7.0)
    seen = [LOOK, late, *[replace(LOOK, second=float(number)) for number in range(1000)]]

    assert gaps(seen) == [8.0]
    assert len(columns(seen)["second"]) <= 180
    assert columns(seen[:3])["late"] == [0.0, 8.0, 0.0]
