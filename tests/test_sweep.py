"""The sweep itself: its scenarios pass, and what is wrong is found, named and seen again."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from actorbus import Event
from actorbus.subscription import Subscription
from actorbus.testing import simulate, sweep
from tests.sweep.__main__ import main
from tests.sweep.books import Books, books, faults, matches
from tests.sweep.runs import LOT, lots, up_to
from tests.sweep.scenarios import SCENARIOS


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenario_passes(name: str) -> None:
    """Each comes to its end with its books in order, whatever the policy."""
    for policy in ("fifo", "random", "pct"):
        assert sweep(SCENARIOS[name], seeds=range(5), policy=policy).runs == 5


def test_every_kind_of_fault_is_injected_and_counted() -> None:
    """What the scenarios say they do to the bus happens."""
    faults.clear()
    for scenario in SCENARIOS.values():
        sweep(scenario, seeds=range(10))

    assert {name for name, count in faults.items() if count} >= {
        "abandoned threads", "cancellations", "cancellations by handlers", "deadlocks",
        "endless chains", "failing starts", "handler errors", "hangs", "rejections",
        "swallowed cancellations",
    }  # fmt: skip


# -- the books -------------------------------------------------------------------------------------


async def loses(case: Books, event: Event) -> None:
    """Note one event less than was handled."""
    if event.data == 2:
        case.handled["job"].pop()


async def doubles(case: Books, event: Event) -> None:
    """Handle an event twice."""
    if event.data == 2:
        case.note("job", event)


async def invents(case: Books, event: Event) -> None:
    """Handle an event that nobody has published."""
    case.handled["job"].append(99)


async def swaps(case: Books, event: Event) -> None:
    """Handle two events in the wrong order."""
    case.handled["job"].sort(reverse=True)


async def leaves(case: Books, event: Event) -> None:
    """Leave a task behind."""
    case.task = asyncio.create_task(asyncio.sleep(3600), name="left")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (loses, r"job: lost \{1: 1\}, conflated 0"),
        (doubles, r"job: twice, or never sent: \{2: 1\}"),
        (invents, r"job: twice, or never sent: \{99: "),
        (swaps, r"job: out of order: \["),
        (leaves, r"left running: \['left'"),
    ],
)
def test_what_is_wrong_does_not_pass(
    wrong: Callable[[Books, Event], Awaitable[None]], said: str
) -> None:
    """The books of a scenario find a delivery lost, doubled or out of order, and a task left."""

    async def scenario() -> None:
        async with books() as case:
            case.subscribe("job", "job", lambda event: wrong(case, event))
            for _ in range(4):
                await case.publish("job").settled()

    with pytest.raises(AssertionError, match=said):
        simulate(scenario)


def test_the_patterns_of_the_scenarios_are_those_of_the_bus() -> None:
    """The comparison of strings knows the patterns that are used."""
    assert [matches(each, "job:1") for each in ("**", "job:*", "job:1")] == [True] * 3
    assert [matches(each, "job:1") for each in ("job", "*", "job:2", "job:1:*")] == [False] * 4


# -- the command -----------------------------------------------------------------------------------


async def racing() -> None:
    """Two tasks add to a number they have read before a pause: wrong in some orders only."""
    number = 0

    async def add() -> None:
        nonlocal number
        read = number
        await asyncio.sleep(0)
        number = read + 1

    async def other() -> None:
        for _ in range(3):
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        group.create_task(other())
        first = group.create_task(add())
        await other()
        second = group.create_task(add())
    assert first.done()
    assert second.done()
    assert number == 2, "an addition is lost"


def test_a_fault_in_a_scenario_is_found_and_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1, the scenario, its seed and its policy; and the line given fails again."""
    monkeypatch.setitem(SCENARIOS, "racing", racing)

    code = main(["--only", "racing", "--runs", "100", "--jobs", "1"])

    assert code == 1
    out = capsys.readouterr().out
    assert re.search(r"racing fails with seed \d+ under \w+: AssertionError: an addition", out)
    found = re.search(r"python -m tests\.sweep (--only racing --policy \w+ --seed \d+)\n", out)
    assert found
    with pytest.raises(AssertionError, match="an addition is lost"):
        main(found.group(1).split())


def test_a_fault_in_the_bus_is_found_and_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bus that forgets to count what it drops does not pass."""
    monkeypatch.setattr(Subscription, "conflate", lambda *_: None)

    assert main(["--only", "overflow", "groups", "--runs", "100", "--jobs", "1"]) == 1

    out = capsys.readouterr().out
    assert "overflow fails with seed 0 under random: AssertionError" in out
    assert "groups fails" not in out


def test_runs_in_several_processes_are_counted_once(tmp_path: Path) -> None:
    """As many runs as asked for, and the same figures as in one process."""
    reports = []
    for jobs in ("1", "2"):
        file = tmp_path / "deep" / f"{jobs}.json"
        asked = ["--only", "ring", "retries", "--runs", "230", "--jobs", jobs, "--json", str(file)]
        assert main(asked) == 0
        reports.append(json.loads(file.read_text()))

    one, two = reports
    assert one["runs"] == two["runs"] == 230
    assert one["scenarios"] == two["scenarios"]
    assert one["faults"] == two["faults"]
    assert sum(each["runs"] for each in one["scenarios"].values()) == 230


def test_no_run_is_made_twice() -> None:
    """Every run is of another scenario, policy or seed, and there are as many as asked for."""
    runs = [
        (lot.scenario, lot.policy, seed)
        for lot in up_to(10 * LOT + 7, lots(["a", "b"], 5))
        for seed in lot.seeds
    ]

    assert len(runs) == len(set(runs)) == 10 * LOT + 7
    assert {policy for _, policy, _ in runs} == {"random", "pct", "fifo"}
