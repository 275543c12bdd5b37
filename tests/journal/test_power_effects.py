"""Power cuts while transactions are committed: an effect is there with its acknowledgement."""

from __future__ import annotations

import random
import sys
from functools import partial
from pathlib import Path

import pytest

from actorbus.journal.base import Append, Entry, Join
from actorbus.journal.effects import Statement, Transact
from actorbus.journal.sqlite import SqliteJournal

apsw = pytest.importorskip("apsw", reason="the simulated disk is made with apsw")

from tests.journal.power import JournalOnDisk, left_by_cut  # noqa: E402 - it needs apsw
from tests.journal.test_power import CUTS, cuts  # noqa: E402 - it needs apsw

WRITES = 300
CREATE = Transact((Statement("CREATE TABLE own(id TEXT)", ((),)),))
ALL = Statement("SELECT id FROM own ORDER BY rowid", ((),))


def effect(number: int) -> Transact:
    """Return the transaction of an event."""
    write = Statement("INSERT INTO own VALUES(?)", ((str(number),),))
    return Transact((write,), "billing", str(number), number, 1.0)


def live(journal: JournalOnDisk, acknowledged: list[int], chance: random.Random) -> None:
    """Let events take effect, several in a commit, until the power goes."""
    journal.commit([Join("billing", ("**",), 10), CREATE])
    last = 0
    while True:
        numbers = [*range(last + 1, last + 1 + chance.choice([1, 1, 3, 20]))]
        body = bytes(chance.choice([10, 3_000]))
        appends = [Append(Entry(str(number), "a", 1.0, body)) for number in numbers]
        journal.commit([*appends, *map(effect, numbers)])
        if journal.disk.is_off:
            return
        last = numbers[-1]
        acknowledged.append(last)


@cuts
@pytest.mark.slow
@pytest.mark.parametrize("durability", ["power", "process"])
def test_an_effect_is_there_with_its_acknowledgement(tmp_path: Path, durability: str) -> None:
    """Both or neither, and with "power" both, where it was committed; and no effect twice."""
    promised = lost = 0
    for seed in range(CUTS):
        chance, acknowledged = random.Random(seed), [0]  # noqa: S311 - seeded on purpose
        life = partial(live, acknowledged=acknowledged, chance=chance)
        left = left_by_cut(tmp_path / str(seed), durability, WRITES, chance, life)
        promised += acknowledged[-1]
        lost += max(0, acknowledged[-1] - found(left, durability))
        assert durability == "process" or not lost, f"seed {seed}"
    sys.stdout.write(f"\n{durability}: {promised} took effect, {lost} lost with the newest\n")
    assert promised > 0


def found(path: Path, durability: str) -> int:
    """Open what is left, check it, and return how many events took effect."""
    journal = SqliteJournal(path, max_bytes=1 << 22)
    last = journal.open(durability).last
    try:
        assert {problem for _, _, problem in journal.verify()} == {None}
        if not last:
            return 0
        assert journal.preview(Transact(()), ALL) == [(str(n),) for n in range(1, last + 1)]
        assert journal.status().ahead == {"billing": last}
        assert journal.commit([effect(number) for number in range(1, last + 1)]) == [False] * last
    finally:
        journal.close(clean=True)
    return last
