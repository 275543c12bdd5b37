"""No room: on a full disk and at its own limit a journal loses nothing, and goes on with room."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from actorbus.errors import JournalFullError
from actorbus.journal.base import Append, Bury, Entry, Exhume, Grave, Join, Operation, Settle
from actorbus.journal.sqlite import SqliteJournal
from tests.journal.test_owners import HEAD

MIB = 1 << 20

FULL = """
from actorbus.errors import JournalFullError
from actorbus.journal.base import Bury, Exhume, Grave, Join, Settle

journal = SqliteJournal(sys.argv[1], max_bytes=int(sys.argv[2]))
opening = journal.open("power")
print("warnings", len(opening.warnings))
(standing,) = journal.commit([Join("billing", ("**",), 10)])

def fill():
    last = journal.status().last
    try:
        while True:
            (appended,) = journal.commit([Append(Entry(str(last + 1), "a", 1.0, bytes(20_000)))])
            last += 1
            assert appended.seq == last
    except JournalFullError as error:
        assert "has no room" in str(error), error
    return last

def holds(upto):
    seen = journal.status().first - 1
    while seen < upto:
        page = journal.read(seen, 100, lambda topic: True)
        found = [(r.seq, r.entry.id, r.sound) for r in page.records]
        assert found == [(n, str(n), True) for n in range(seen + 1, page.upto + 1)]
        seen = page.upto
    assert seen == upto

filler = os.open(os.path.dirname(sys.argv[1]) + "/filler", os.O_WRONLY | os.O_CREAT)
os.write(filler, bytes(1_000_000))
last = fill()
assert last > 20, last
holds(last)
def fill_disk():
    try:
        while True:
            os.write(filler, bytes(4_096))
    except OSError:
        pass
fill_disk()
assert fill() == last
holds(last)
"""

SETTLES = """
journal._ballast.release()
assert fill() == last, "the room of the ballast is not for events"
journal._ballast.release()
journal.prune(0.0)
assert os.path.exists(sys.argv[1] + ".ballast")
grave = Grave("g", "billing", "rejected", Entry("1", "a", 1.0, b"body"), 1.0)
for number in range(1, last - 10):
    journal.commit([Settle("billing", number, (number + 2,))])
journal.commit([Bury(grave)])
while journal.prune(1e9):
    pass
fill_disk()
journal.close(clean=False)
journal.open("power")
assert journal.status().cursors == {"billing": last - 11}
assert journal.dead() == [grave]
more = fill()
assert more > last, "what was pruned makes room for events"
holds(more)
last = more
"""

ROOM = """
os.ftruncate(filler, 500_000)
assert fill() > last
holds(journal.status().last)
os.ftruncate(filler, 0)
journal.commit([Settle("billing", last)])
assert [problem for _, _, problem in journal.verify() if problem] == []
journal.close(clean=True)
print("through")
"""


def on_small_disk(tmp_path: Path, code: str, max_bytes: int, disk_bytes: int) -> str:
    """Run code on a disk of its own, of which nothing is left when the process has ended."""
    if not shutil.which("unshare"):
        pytest.skip("unshare makes the small disk, and is not here")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size={disk_bytes},mode=700 none '{disk}'"
    unshare = ["unshare", "--mount", "--map-root-user"]
    if subprocess.run([*unshare, "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("no right to mount a small disk")
    (tmp_path / "code.py").write_text(HEAD + code)
    run = f"{mount} && exec '{sys.executable}' '{tmp_path}/code.py' '{disk}/events.db' {max_bytes}"
    ran = subprocess.run([*unshare, "sh", "-c", run], capture_output=True, text=True, timeout=50)
    assert (ran.stderr, ran.returncode) == ("", 0)
    return ran.stdout


def test_a_full_disk_with_ballast(tmp_path: Path) -> None:
    """New events are refused; settling, burying, pruning and a restart go on; so it comes back."""
    out = on_small_disk(tmp_path, FULL + SETTLES + ROOM, 64 * MIB, 24 * MIB)

    assert out == "warnings 0\nthrough\n"


def test_a_full_disk_that_is_too_small_for_ballast(tmp_path: Path) -> None:
    """Everything is refused, and works again as soon as there is space."""
    out = on_small_disk(tmp_path, FULL + ROOM, 1024 * MIB, 6 * MIB)

    assert out == "warnings 1\nthrough\n"


def test_at_its_limit_room_is_made_by_what_settles(tmp_path: Path) -> None:
    """At the limit of its own dead letters come and go, and no file is beyond the limit."""
    journal = SqliteJournal(tmp_path / "events.db", max_bytes=4 * MIB)
    journal.open("process")
    journal.commit([Join("billing", ("**",), 10)])
    number = 0
    for number in range(1, 1_000):
        one = Entry(str(number), "a", 1.0, bytes(5_000))
        try:
            journal.commit([Append(one)])
        except JournalFullError:
            break
        assert journal.status().bytes <= 4 * MIB
    grave = Grave("g", "billing", "rejected", one, 1.0)
    for cursor in range(number):
        journal.commit([Bury(grave), Settle("billing", cursor, (cursor + 2,))])
        assert journal.commit([Exhume(("g",))]) == [1]
    assert journal.status().bytes <= 4 * MIB
    assert journal.status().events == number - 1

    while journal.prune(2.0):
        pass

    assert journal.status().first > 1
    journal.commit([Append(one)])
    journal.close(clean=True)


def test_at_its_limit_dead_letters_leave_room_to_settle(tmp_path: Path) -> None:
    """They take a bounded room of their own, and then what has been settled meanwhile."""
    journal = SqliteJournal(tmp_path / "events.db", max_bytes=4 * MIB)
    journal.open("process")
    journal.commit([Join("billing", ("**",), 10)])
    events = fill_up(journal, lambda number: Append(letter_of(number).grave.entry))
    buried = fill_up(journal, letter_of)
    assert 40 < buried < events // 8
    for number in range(2, events):
        journal.commit([Settle("billing", 0, (number,))])
    assert journal.status().bytes <= 4 * MIB

    journal.commit([Settle("billing", events // 2)])

    more = fill_up(journal, lambda number: letter_of(events + number))
    assert events // 5 < more < events
    journal.commit([Settle("billing", events)])
    assert journal.status().dead == buried + more
    assert journal.status().bytes <= 4 * MIB
    journal.commit([Append(letter_of(0).grave.entry)])
    journal.close(clean=True)


def letter_of(number: int) -> Bury:
    event = Entry(str(number), "a", 1.0, bytes(2_000))
    return Bury(Grave(f"g{number}", "billing", "rejected", event, 1.0, b"", number))


def fill_up(journal: SqliteJournal, make: Callable[[int], Operation]) -> int:
    """Commit one operation after the other until there is no room; return how many fitted."""
    with pytest.raises(JournalFullError, match="no room"):
        for number in range(1, 10_000):
            journal.commit([make(number)])
    return number - 1
