"""SIGKILL at any instant: nothing acknowledged is lost, nothing is there twice or out of order.

A child commits under load, and writes what is acknowledged into a file of its own; at some instant
it is killed, and started again on what is left. ACTORBUS_KILLS sets how often; 1,000 for a release.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from actorbus.journal.base import Join, Standing
from actorbus.journal.sqlite import SqliteJournal

KILLS = int(os.environ.get("ACTORBUS_KILLS", "10"))
LIMIT = 1 << 26

HEAD = """
import os, random, signal, sys
from actorbus.journal.base import Append, Attempt, Entry, Join, Settle
from actorbus.journal.sqlite import SqliteJournal

path, durability = sys.argv[1], sys.argv[2]
acknowledged = os.open(path + ".acknowledged", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
journal = SqliteJournal(path, max_bytes=1 << 26)
"""
PUBLISH = """
last = journal.open(durability).last
print("open", flush=True)
while True:
    count = random.choice([1, 1, 10, 500])
    ids = [str(number) for number in range(last + 1, last + 1 + count)]
    body = bytes(random.choice([10, 200, 5_000]))
    done = journal.commit([Append(Entry(i, "a", 1.0, body, once=True)) for i in ids])
    assert [appended.seq for appended in done] == [*map(int, ids)]
    last += count
    os.write(acknowledged, f"{last}\\n".encode())
"""
CONSUME = """
last = journal.open(durability).last
(standing,) = journal.commit([Join("billing", ("**",), 10)])
if last - standing.cursor < 50_000:
    last = journal.commit([Append(Entry(str(n), "a", 1.0, b"")) for n in range(100_000)])[-1].seq
print("open", flush=True)
cursor, ahead = standing.cursor, standing.ahead
while cursor + 60 < last:
    journal.commit([Attempt("billing", cursor + 1)])
    step = random.choice([1, 1, 5, 50])
    ahead = (cursor + step + 2, cursor + step + 3)
    cursor += step
    journal.commit([Settle("billing", cursor, ahead)])
    os.write(acknowledged, f"{cursor}\\n".encode())
signal.pause()
"""


def kill_one(path: Path, code: str, durability: str, seconds: float) -> int:
    """Let a child work for some time and kill it; return the last number it has acknowledged."""
    child = subprocess.Popen(
        [sys.executable, "-c", HEAD + code, str(path), durability],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout
    assert child.stderr
    assert child.stdout.readline() == "open\n", child.stderr.read()
    try:
        child.wait(seconds)
    except subprocess.TimeoutExpired:
        child.kill()
    assert child.wait(30) == -9, child.stderr.read()
    child.stdout.close()
    child.stderr.close()
    *whole, _ = Path(f"{path}.acknowledged").read_text().split("\n")
    return int(whole[-1]) if whole else 0


@pytest.mark.slow
@pytest.mark.timeout(60 + 10 * KILLS)
@pytest.mark.parametrize("durability", ["power", "process"])
def test_a_killed_publisher_loses_nothing(tmp_path: Path, durability: str) -> None:
    """Every acknowledged event is there once, in order and sound, after each of many kills."""
    path, chance = tmp_path / "events.db", random.Random(3)  # noqa: S311 - seeded on purpose
    for _ in range(KILLS):
        acknowledged = kill_one(path, PUBLISH, durability, chance.uniform(0.0, 0.4))
        journal = SqliteJournal(path, max_bytes=LIMIT)
        opening = journal.open("power")
        assert not opening.clean
        assert opening.warnings == ()
        assert opening.last >= acknowledged
        upto = max(acknowledged - 10_000, journal.status().first - 1)
        while upto < opening.last:
            page = journal.read(upto, 4_096, lambda _: True)
            ids = [(record.sound, record.seq, record.entry.id) for record in page.records]
            assert ids == [(True, n, str(n)) for n in range(upto + 1, page.upto + 1)]
            upto = page.upto
        assert {problem for _, _, problem in journal.verify()} == {None}
        journal.close(clean=False)


@pytest.mark.slow
@pytest.mark.timeout(60 + 10 * KILLS)
def test_a_killed_consumer_repeats_only_what_it_had_not_settled(tmp_path: Path) -> None:
    """No cursor goes back behind what was acknowledged, and what was begun is a suspect."""
    path, chance = tmp_path / "events.db", random.Random(4)  # noqa: S311 - seeded on purpose
    for _ in range(KILLS):
        acknowledged = kill_one(path, CONSUME, "power", chance.uniform(0.0, 0.3))
        journal = SqliteJournal(path, max_bytes=LIMIT)
        journal.open("power")
        (standing,) = journal.commit([Join("billing", ("**",), 10)])
        assert isinstance(standing, Standing)
        assert standing.cursor >= acknowledged
        assert standing.suspects == 10
        ahead = {seq - standing.cursor for seq in standing.ahead}
        assert not standing.cursor or {2, 3} <= ahead <= {1, 2, 3}
        assert all(seq > standing.cursor for seq in standing.attempts)
        assert {problem for _, _, problem in journal.verify()} == {None}
        journal.close(clean=False)
