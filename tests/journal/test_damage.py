"""Damage: a bit flipped in any file is seen, and nothing comes out as something else."""

from __future__ import annotations

import os
import random
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from actorbus.errors import JournalCorruptError, JournalError
from actorbus.journal import schema
from actorbus.journal.base import (
    Append,
    Attempt,
    Bury,
    Entry,
    Grave,
    Join,
    Record,
    Settle,
    Standing,
)
from actorbus.journal.sqlite import SqliteJournal
from actorbus.testing.journal_model import QUICK

EVENTS = 40
SIZE = 1 << 26


FLIPS = int(os.environ.get("ACTORBUS_FLIPS", "300"))
"""Bits flipped, one at a time."""


@pytest.fixture
def quick() -> Iterator[Path]:
    """Give a directory where a sync costs nothing."""
    with TemporaryDirectory(dir=QUICK) as place:
        yield Path(place)


def everything(_: str) -> bool:
    return True


def entry(number: int) -> Entry:
    return Entry(
        f"id-{number}", f"topic:{number % 3}", 1.0, f"body {number} ".encode() * 90, b"meta"
    )


def made(place: Path, *, durability: str = "power", copy: bool = False) -> Path:
    """Make a journal, a commit for each event; return its path, or that of a copy while in use."""
    journal = SqliteJournal(place / "events.db", max_bytes=SIZE)
    journal.open(durability)
    journal.commit([Join("billing", ("**",), 10), Join("mail", ("**",), 10)])
    for number in range(1, EVENTS + 1):
        journal.commit([Append(entry(number))])
    journal.commit([Settle("billing", 5, (7, 9)), Attempt("billing", 6)])
    journal.commit([Bury(Grave(f"g{n}", "billing", "rejected", entry(n), 1.0)) for n in (1, 2)])
    if copy:
        (place / "copy").mkdir()
        for name in ("events.db", "events.db-wal", "events.db.lock"):
            shutil.copy(place / name, place / "copy" / name)
    journal.close(clean=True)
    return place / "copy" / "events.db" if copy else journal.path


def flip(path: Path, place: int, bit: int = 0) -> None:
    """Flip a bit."""
    raw = bytearray(path.read_bytes())
    raw[place] ^= 1 << bit
    path.write_bytes(raw)


def seen(path: Path) -> tuple[list[Record], list[Standing], list[Grave]]:
    """Return all that a bus would see of a journal."""
    journal = SqliteJournal(path, max_bytes=SIZE)
    journal.open("power")
    try:
        standings: Any = journal.commit([Join("billing", ("**",), 10), Join("mail", ("**",), 10)])
        return journal.read(0, 1000, everything).records, standings, journal.dead()
    finally:
        journal.close(clean=True)


def problems(path: Path) -> list[str]:
    """Return what `verify` finds."""
    journal = SqliteJournal(path, max_bytes=SIZE)
    journal.open("power")
    try:
        return [problem for _, _, problem in journal.verify() if problem]
    finally:
        journal.close(clean=True)


@pytest.mark.slow
def test_a_bit_flipped_in_the_log_is_seen(quick: Path) -> None:
    """A damaged write-ahead file is an error; only in its last commits it is like a torn tail."""
    original = made(quick, copy=True)
    wal = original.with_name("events.db-wal").read_bytes()
    chance = random.Random(1)  # noqa: S311 - seeded on purpose
    refused = 0
    for trial in range(FLIPS):
        place = quick / str(trial)
        shutil.copytree(original.parent, place)
        flip(place / "events.db-wal", chance.randrange(len(wal)), chance.randrange(8))
        try:
            records, _, _ = seen(place / "events.db")
        except JournalCorruptError:
            refused += 1
        else:
            assert records == [Record(n, entry(n)) for n in range(1, len(records) + 1)]
            assert len(records) >= EVENTS - 2, f"trial {trial} lost events without a word"

    assert refused > FLIPS * 2 // 3


def test_a_damaged_head_of_the_log_is_seen(quick: Path) -> None:
    """A log that SQLite would ignore as a whole is no empty one."""
    path = made(quick, copy=True)
    wal = path.with_name("events.db-wal")
    for place in range(32):
        flip(wal, place)
        with pytest.raises(JournalCorruptError, match="write-ahead file is damaged"):
            seen(path)
        flip(wal, place)

    assert len(seen(path)[0]) == EVENTS


def test_the_log_of_a_process_may_end_early(tmp_path: Path) -> None:
    """Written with "process", commits missing after a power loss are a warning, as promised."""
    path = made(tmp_path, durability="process", copy=True)
    wal = path.with_name("events.db-wal")
    flip(wal, wal.stat().st_size // 2)
    journal = SqliteJournal(path, max_bytes=SIZE)

    opening = journal.open("power")

    journal.close(clean=True)
    assert opening.last < EVENTS
    assert "the newest commits before a power loss are gone" in opening.warnings[0]


@pytest.mark.parametrize("size", [0, 20, 32, 5_000])
def test_a_torn_log_is_no_damage(tmp_path: Path, size: int) -> None:
    """A log that ends early, as after a crash, is just shorter."""
    path = made(tmp_path, copy=True)
    wal = path.with_name("events.db-wal")
    wal.write_bytes(wal.read_bytes()[:size])

    records, _, _ = seen(path)

    assert records == [Record(n, entry(n)) for n in range(1, len(records) + 1)]


def test_a_bit_flipped_in_a_body_harms_one_event(tmp_path: Path) -> None:
    """It is marked, whether its topic is wanted or not; all others are what they were."""
    path = made(tmp_path)
    place = path.read_bytes().index(b"body 17 ")
    flip(path, place)

    records, _, _ = seen(path)

    assert [record.seq for record in records if not record.sound] == [17]
    assert records[16].entry.id == "id-17"
    assert records[:16] + records[17:] == [
        Record(n, entry(n)) for n in range(1, EVENTS + 1) if n != 17
    ]
    assert problems(path) == ["event 17 is damaged"]
    journal = SqliteJournal(path)
    journal.open("power")
    assert [r.seq for r in journal.read(0, 99, lambda _: False).records] == [17]
    journal.close(clean=True)


def test_a_wrong_number_harms_one_event(tmp_path: Path) -> None:
    """An event whose number is damaged is missing where it was, and all others are there."""
    path = made(tmp_path)
    # A cell: the number, the length of the head, and the types of number, crc, time, codec, once.
    cell = re.search(rb"\x0a.\x00[\x04-\x06]\x09\x08\x08", path.read_bytes(), re.DOTALL)
    assert cell
    flip(path, cell.start(), 2)

    records, _, _ = seen(path)

    assert [record.seq for record in records] == [*range(1, EVENTS + 1)]
    assert [record.seq for record in records if not record.sound] == [10]


def test_a_vanished_row_is_an_event_that_is_marked(tmp_path: Path) -> None:
    """Numbers have no gaps, so a row that is not there any more is noticed, in its place."""
    path = made(tmp_path)
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM event WHERE seq IN (3, 4)")
    connection.close()

    records, _, _ = seen(path)

    assert [record.seq for record in records] == [*range(1, EVENTS + 1)]
    assert [record.seq for record in records if not record.sound] == [3, 4]


def test_a_vanished_end_is_an_error(tmp_path: Path) -> None:
    """The last number is noted at a clean end, so its event cannot vanish."""
    path = made(tmp_path)
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM event WHERE seq = ?", (EVENTS,))
    connection.close()

    with pytest.raises(JournalCorruptError, match=f"the last was {EVENTS}, found is {EVENTS - 1}"):
        seen(path)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE durable SET cursor = 30",
        "UPDATE durable SET name = x'00' WHERE name = x'6d61696c'",
        "UPDATE ahead SET seq = 8 WHERE seq = 7",
        "UPDATE log SET pruned = 10",
        "DELETE FROM log",
    ],
)
def test_a_wrong_note_is_an_error(tmp_path: Path, change: str) -> None:
    """What would skip events if it were believed is not."""
    path = made(tmp_path)
    with sqlite3.connect(path) as connection:
        connection.execute(change)
    connection.close()

    with pytest.raises(JournalCorruptError, match="damaged"):
        seen(path)


@pytest.mark.slow
def test_no_bit_in_the_file_changes_what_comes_out(quick: Path) -> None:
    """Any bit of the file flipped: an error, a mark, or nothing at all, but nothing else."""
    path = made(quick)
    expected = seen(path)
    original = path.read_bytes()
    chance = random.Random(2)  # noqa: S311 - seeded on purpose
    errors = marks = 0
    (quick / "copy").mkdir()
    copy = quick / "copy" / "events.db"
    for _ in range(FLIPS):
        copy.unlink(missing_ok=True)
        copy.touch(mode=0o600)
        copy.write_bytes(original)
        place, bit = chance.randrange(len(original)), chance.randrange(8)
        flip(copy, place, bit)
        try:
            records, standings, graves = seen(copy)
        except JournalError:
            errors += 1
            continue
        sound = [record for record in records if record.sound]
        marks += len(sound) < EVENTS
        assert [record.seq for record in records] == [*range(1, EVENTS + 1)], (place, bit)
        assert all(record in expected[0] for record in sound), (place, bit)
        assert [g for g in graves if g.sound and g not in expected[2]] == [], (place, bit)
        assert len(graves) == 2, (place, bit)
        for standing, true in zip(standings, expected[1], strict=True):
            assert (standing.cursor, standing.ahead) == (true.cursor, true.ahead), (place, bit)

    assert errors > FLIPS // 60
    assert marks > FLIPS // 5


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: -3 * schema.PAGE])


def wipe(path: Path) -> None:
    path.write_bytes(bytes(100) + path.read_bytes()[100:])


@pytest.mark.parametrize("harm", [truncate, wipe])
def test_a_broken_file_is_an_error(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    """A file that is cut off or has no head is refused."""
    path = made(tmp_path)
    harm(path)

    with pytest.raises(JournalCorruptError, match=r"events\.db.*restore it from a backup"):
        seen(path)
