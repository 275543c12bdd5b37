"""The promise of a durable bus, each clause in real processes with the fault it speaks of."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from actorbus import EventBus, JournalLockedError
from actorbus.journal.sqlite import SqliteJournal
from tests.e2e import faults, lives

if sys.platform == "win32":
    pytest.skip("it has no kill -9 and no fork", allow_module_level=True)

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(3600)]

KILLS = int(os.environ.get("ACTORBUS_KILLS", "8"))
"""How often a program is killed in each durability; 200 for a thorough look."""
LONG = 60.0
"""Seconds after which a process that has not come to its end hangs."""

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["tests.e2e.faults"])


def begin(target: Any, *args: Any, **kwargs: Any) -> BaseProcess:
    """Start a function in a process of its own."""
    process = processes.Process(target=target, args=args, kwargs=kwargs)
    process.start()
    return process


def end(process: BaseProcess) -> int | None:
    """Wait for the end of a process; return its exit code, None if it hangs."""
    process.join(LONG)
    code = process.exitcode
    if code is None:
        process.kill()
        process.join()
    return code


def until(process: BaseProcess, condition: Callable[[], bool]) -> None:
    """Wait until something is so, while a process lives."""
    for _ in range(int(LONG / 0.02)):
        if condition():
            return
        process.join(0.02)
        assert process.exitcode is None, "it has ended by itself"
    raise AssertionError("it does not come to be so")


def kill_again_and_again(live: Any, directory: Path, durability: str, seconds: float) -> None:
    """Kill a program `KILLS` times, each within so many seconds, and let its last life end."""
    chance = random.Random(f"{durability} {KILLS}")  # noqa: S311 - only when to kill
    for life in range(KILLS):
        process = begin(live, directory, durability, life)
        process.join(chance.random() ** 2 * seconds)
        assert process.exitcode is None, "it has ended by itself"
        process.kill()
        process.join()
    assert end(begin(live, directory, durability, KILLS, last=True)) == 0


def opened(directory: Path) -> SqliteJournal:
    """Return the journal in a directory, open."""
    journal = SqliteJournal(directory / "events.db")
    journal.open("power")
    return journal


# -- kill -9 ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("durability", ["power", "process"])
def test_whenever_it_is_killed_nothing_acknowledged_is_lost(
    tmp_path: Path, durability: lives.Durability
) -> None:
    """What is acknowledged is handled, in order at first, little of it twice; no row is double."""
    kill_again_and_again(lives.live, tmp_path, durability, 1.2)
    found = lives.look(tmp_path, KILLS)
    sys.stdout.write(f"\n{durability}: {found}\n")
    nothing: dict[str, set[str]] = {name: set() for name in lives.DURABLES}
    assert found.acknowledged > 0
    assert found.lost == set()
    assert found.duplicate_rows == set()
    assert found.never == nothing
    assert found.invented == nothing
    assert not any(found.disorder.values())
    assert found.left == []
    for name, options in lives.DURABLES.items():
        assert max(found.again[name]) <= lives.ROOM + options.get("concurrency", 1)


# -- an event that kills ---------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 3])
def test_an_event_that_kills_the_process_is_poison_and_no_other_is(
    tmp_path: Path, concurrency: int
) -> None:
    """It is started as often as its policy allows; the rest is handled."""
    codes: list[int | None] = []
    while codes[-1:] != [0]:
        codes.append(end(begin(faults.die_of, tmp_path, len(codes), concurrency)))
        assert len(codes) < 10
    events = {str(number) for number in range(faults.EVENTS)}
    begun, done, beside = (
        [word for (word,) in lives.lines(tmp_path / name)] for name in ("begun", "done", "beside")
    )
    deadly = str(faults.DEADLY)
    assert codes == [9] * faults.ATTEMPTS + [0]
    assert begun.count(deadly) == faults.ATTEMPTS
    assert set(done) == events - {deadly}
    assert set(beside) == events
    journal = opened(tmp_path)
    (grave,) = journal.dead()
    assert (grave.subscription.rpartition(".")[2], grave.reason) == ("handle", "poison")
    assert grave.entry.body.decode() == deadly
    assert b'"attempts":3' in grave.detail
    journal.close(clean=True)


# -- other processes -------------------------------------------------------------------------------


def test_a_forked_child_cannot_publish_and_harms_nothing(tmp_path: Path) -> None:
    """Its publish raises at the call; what the parent publishes before and after is all there."""
    assert end(begin(faults.fork_and_go_on, tmp_path)) == 0
    assert lives.lines(tmp_path / "done") == [[str(number)] for number in range(20)]
    journal = opened(tmp_path)
    assert [row.entry.body for row in journal.recent(100, lambda _: True)] == [
        str(number).encode() for number in range(20)
    ]
    assert [each for *_, each in journal.verify() if each] == []
    journal.close(clean=True)


def test_a_second_process_is_told_who_has_the_journal(tmp_path: Path) -> None:
    """It gets a `JournalLockedError` with the owner's pid; the owner goes on."""
    owner = begin(lives.live, tmp_path, "process", 0)
    until(owner, lambda: len(lives.lines(tmp_path / "acks")) > 10)

    async def try_it() -> None:
        with pytest.raises(JournalLockedError, match=rf"process {owner.pid}\b"):
            await EventBus("second", journal=f"sqlite:///{tmp_path}/events.db").start()

    asyncio.run(try_it())
    before = len(lives.lines(tmp_path / "acks"))
    until(owner, lambda: len(lives.lines(tmp_path / "acks")) > before + 10)
    owner.kill()
    owner.join()
    assert end(begin(lives.live, tmp_path, "power", 1, last=True)) == 0
    assert lives.look(tmp_path, 1).lost == set()
