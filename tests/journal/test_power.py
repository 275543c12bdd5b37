"""Power cuts at any write, and syncs that fail: what was acknowledged is there, or it is said."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from actorbus.errors import JournalError
from actorbus.journal import schema
from actorbus.journal.base import Append, Appended, Attempt, Entry, Join, Operation, Settle
from actorbus.journal.sqlite import SqliteJournal

apsw = pytest.importorskip("apsw", reason="the simulated disk is made with apsw")

from tests.journal.power import Disk, JournalOnDisk, left_by_cut  # noqa: E402 - it needs apsw

CUTS = int(os.environ.get("ACTORBUS_CUTS", "40"))
"""Power cuts for each durability; 1,000 for a release."""
WRITES = 400
cuts = pytest.mark.filterwarnings(
    # Where SQLite goes on after a failed write, apsw has nobody to raise the cut to.
    "ignore::pytest.PytestUnraisableExceptionWarning"
)


class Story:
    """What a session did before its power was cut.

    Attributes:
        begun: Ids in order of their commits.
        acknowledged: How many of them were acknowledged.
        cursor: The highest cursor that was acknowledged.
    """

    def __init__(self, begun: list[str] | None = None) -> None:
        self.begun = begun or []
        self.acknowledged = 0
        self.cursor = 0


def live(journal: JournalOnDisk, story: Story, chance: random.Random) -> None:
    """Commit batches of any size until the power goes."""
    journal.commit([Join("billing", ("**",), 10)])
    while True:
        count = chance.choice([1, 1, 3, 20])
        ids = [str(len(story.begun) + i) for i in range(count)]
        story.begun += ids
        body = bytes(chance.choice([10, 300, 9_000]))
        cursor = story.acknowledged
        results = journal.commit(
            [*(Append(Entry(i, "a", 1.0, body)) for i in ids), Settle("billing", cursor)]
        )
        if journal.disk.is_off:
            return
        assert results[-2] == Appended(len(story.begun))
        story.acknowledged, story.cursor = len(story.begun), cursor
        if chance.random() < 0.1:
            journal.prune(0.0)


def cut(place: Path, durability: str, seed: int) -> tuple[Story, Path]:
    """Let a journal live until the power goes, and return what it did and what is left."""
    chance, story = random.Random(seed), Story()  # noqa: S311 - seeded on purpose
    life = partial(live, story=story, chance=chance)
    return story, left_by_cut(place, durability, WRITES, chance, life)


def found(path: Path, durability: str, story: Story) -> int:
    """Open what is left, check it, and return how many events there are."""
    journal = SqliteJournal(path, max_bytes=1 << 22)
    opening = journal.open(durability)
    try:
        assert {problem for _, _, problem in journal.verify()} == {None}
        page = journal.read(0, 10_000, lambda _: True)
        ids = [record.entry.id for record in page.records]
        assert ids == story.begun[: len(ids)]
        assert all(record.sound for record in page.records)
        assert opening.last == len(ids)
        cursor = journal.status().cursors.get("billing", 0)
        assert cursor <= len(ids)
        if durability == "power":
            assert cursor >= story.cursor
        journal.commit([Append(Entry("more", "a", 1.0, b""))])
    finally:
        journal.close(clean=True)
    return len(ids)


@cuts
@pytest.mark.slow
def test_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    """With "power", whatever a cut leaves of the writes, every acknowledged event is there."""
    acknowledged = 0
    for seed in range(CUTS):
        story, left = cut(tmp_path / str(seed), "power", seed)
        assert found(left, "power", story) >= story.acknowledged, f"seed {seed}"
        acknowledged += story.acknowledged
    sys.stdout.write(f"\npower: {CUTS} cuts, {acknowledged} acknowledged, 0 lost\n")
    assert acknowledged > 0


@cuts
@pytest.mark.slow
def test_only_the_newest_are_lost(tmp_path: Path) -> None:
    """With "process", what is missing after a cut is the newest; the rest is whole, in order."""
    lost = []
    for seed in range(CUTS):
        story, left = cut(tmp_path / str(seed), "process", seed)
        lost.append(story.acknowledged - found(left, "process", story))

    sys.stdout.write(f"\nprocess: {CUTS} cuts, at most the last {max(lost)} lost\n")
    assert max(lost) > 0, "the disk loses nothing, so this shows nothing"


@cuts
@pytest.mark.slow
def test_the_disk_does_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without syncs the same cuts destroy journals: the simulation can see what it looks for."""
    monkeypatch.setitem(schema.SYNCHRONOUS, "power", "OFF")
    damaged = lost = 0
    for seed in range(CUTS):
        story, left = cut(tmp_path / str(seed), "power", seed)
        try:
            lost += found(left, "process", story) < story.acknowledged
        except (JournalError, AssertionError):
            damaged += 1

    sys.stdout.write(f"\nno syncs: {CUTS} cuts, {damaged} damaged, {lost} more with losses\n")
    assert damaged + lost > CUTS // 4


class FailingSync:
    """Lets the next syncs fail; as with Linux, what was to be synced never reaches the disk."""

    def __init__(self, disk: Disk, times: int) -> None:
        self.disk = disk
        self.times = times

    def __call__(self, file: str) -> None:
        if self.times:
            self.times -= 1
            self.disk.files[file].pending.clear()
            raise apsw.exception_for(apsw.SQLITE_IOERR_FSYNC)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[JournalOnDisk]:
    made = JournalOnDisk(tmp_path / "events.db", max_bytes=1 << 22)
    made.disk = Disk()
    made.open("power")
    made.commit([Join("billing", ("**",), 10), Append(Entry("1", "a", 1.0, b""))])
    yield made
    made.close(clean=True)
    made.disk.unregister()


TWO: list[Operation] = [Append(Entry("2", "a", 1.0, b"")), Attempt("billing", 1)]


@pytest.mark.parametrize("times", range(1, 7))
def test_what_a_failed_sync_leaves_is_looked_up(
    journal: JournalOnDisk, tmp_path: Path, times: int
) -> None:
    """A commit whose syncs fail has happened, with its results, or it has not: what it says holds.

    After one failure SQLite forgets the commit; after two the log that is opened again has it;
    after more the answer cannot be looked up yet, and that is said.
    """
    journal.disk.fail_sync = FailingSync(journal.disk, times)
    try:
        assert journal.commit(TWO) == [Appended(2), 1]
        possible = {2}
    except JournalError as error:
        possible = {1, 2} if "not known" in str(error) else {1}
    journal.disk.fail_sync = FailingSync(journal.disk, 0)

    last = journal.status().last
    assert last in possible
    journal.disk.survive(journal.path.parent, tmp_path / "after", random.Random(5))  # noqa: S311 - seeded
    assert found(tmp_path / "after" / "events.db", "process", Story(["1", "2"])) == last
    assert possible == {1: {1}, 2: {2}}.get(times, {1, 2})
    assert journal.read(0, 9, lambda _: True).upto == last
    assert journal.commit(TWO) == [Appended(last + 1), last]
    assert {problem for _, _, problem in journal.verify()} == {None}


def test_a_disk_that_is_gone_is_said_until_it_is_back(journal: JournalOnDisk) -> None:
    """As long as nothing can be looked up every call fails; then the journal goes on."""
    journal.disk.fail_sync = FailingSync(journal.disk, 1_000_000)
    with pytest.raises(JournalError, match="not known before the file can be opened again"):
        journal.commit(TWO)
    with pytest.raises(JournalError):
        journal.commit(TWO)
    journal.disk.fail_sync = FailingSync(journal.disk, 0)

    last = journal.status().last

    assert last in (1, 2)
    assert journal.commit(TWO) == [Appended(last + 1), last]
