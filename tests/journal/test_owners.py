"""One owner: second processes, forks, and files that are closed behind the owner's back."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from actorbus.errors import JournalError
from actorbus.journal import place
from actorbus.journal.base import Append, Entry
from actorbus.journal.sqlite import SqliteJournal

HEAD = """
import os, signal, sys, time
from actorbus.errors import JournalError
from actorbus.journal.base import Append, Entry
from actorbus.journal.sqlite import SqliteJournal

journal = SqliteJournal(sys.argv[1])
one = Append(Entry("1", "a", 1.0, b"body"))
"""


def python(code: str, path: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own, with a journal that is not open yet."""
    return subprocess.run(
        [sys.executable, "-c", HEAD + code, str(path)], capture_output=True, text=True, timeout=50
    )


def last(path: Path) -> int:
    """Open a journal and return the last number."""
    journal = SqliteJournal(path)
    opening = journal.open("power")
    assert {problem for _, _, problem in journal.verify()} == {None}
    journal.close(clean=True)
    return opening.last


@pytest.mark.parametrize("behind", [False, True])
def test_a_second_process_is_refused(tmp_path: Path, behind: bool) -> None:
    """It is told who the owner is; also when the file was opened and closed behind the owner."""
    path = tmp_path / "events.db"
    journal = SqliteJournal(path)
    journal.open("power")
    if behind:
        path.read_bytes()  # drops every POSIX lock this process holds on the file

    ran = python("journal.open('power')", path)

    journal.commit([Append(Entry("1", "a", 1.0, b""))])
    journal.close(clean=True)
    assert "JournalLockedError" in ran.stderr
    assert f"open in process {os.getpid()}" in ran.stderr
    assert last(path) == 1


def test_another_program_s_lock_is_an_error(tmp_path: Path) -> None:
    """Whoever has the file open with SQLite, without being an actorbus, is in the way, too."""
    path = tmp_path / "events.db"
    assert last(path) == 0
    code = f"""
import sqlite3
other = sqlite3.connect({str(path)!r}); other.execute("BEGIN EXCLUSIVE")
try:
    journal.open("power")
except JournalError as error:
    print(type(error).__name__, error)
other.rollback(); other.close()
journal.open("power"); journal.close(clean=True)
"""
    ran = python(code, path)

    assert ran.stderr == ""
    assert "JournalLockedError" in ran.stdout
    assert "another program has it open" in ran.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
class TestFork:
    """A child that inherits an open journal."""

    def test_a_forked_child_can_do_nothing_with_it(self, tmp_path: Path) -> None:
        """Every call is refused, closing does nothing, and the parent goes on."""
        path = tmp_path / "events.db"
        code = """
journal.open("power"); journal.commit([one])
child = os.fork()
if not child:
    for call in (lambda: journal.commit([one]), lambda: journal.read(0, 1, bool), journal.status):
        try:
            call()
            print("went through")
        except JournalError as error:
            print(error)
    journal.close(clean=True)
    sys.exit()
os.waitpid(child, 0)
journal.commit([one]); journal.close(clean=True)
"""
        ran = python(code, path)

        assert ran.stderr == ""
        assert ran.stdout.count("was opened before a fork: only the parent may use it") == 3
        assert "went through" not in ran.stdout
        assert last(path) == 2

    @pytest.mark.parametrize("leaving", ["sys.exit()", "del journal; sys.exit()"])
    def test_a_child_that_ends_leaves_the_log_alone(self, tmp_path: Path, leaving: str) -> None:
        """SQLite would write the log back and delete it under the parent, who is then killed."""
        path = tmp_path / "events.db"
        code = f"""
journal.open("power"); journal.commit([one] * 100)
child = os.fork()
if not child:
    {leaving}
os.waitpid(child, 0)
for _ in range(20):
    journal.commit([one])
os.kill(os.getpid(), signal.SIGKILL)
"""
        ran = python(code, path)

        assert (ran.stderr, ran.returncode) == ("", -9)
        assert last(path) == 120

    def test_a_child_cannot_succeed_its_parent(self, tmp_path: Path) -> None:
        """When the parent is gone the child is told so, and harms nothing by trying."""
        path = tmp_path / "events.db"
        code = """
journal.open("power"); journal.commit([one] * 100)
end, kept = os.pipe()
if not os.fork():
    os.close(kept)
    os.read(end, 1)  # until the parent is gone
    for one in (journal, SqliteJournal(sys.argv[1])):
        try:
            one.open("power")
        except JournalError as error:
            print(error, flush=True)
    sys.exit()
for _ in range(20):
    journal.commit([one])
os.kill(os.getpid(), signal.SIGKILL)
"""
        ran = python(code, path)

        assert ran.stderr == ""
        assert ran.stdout.count("this process was forked from one that had it open") == 2
        assert last(path) == 120

    def test_a_child_does_not_outlive_the_lock(self, tmp_path: Path) -> None:
        """When the owner is killed its child, which is still there, owns nothing."""
        path = tmp_path / "events.db"
        code = """
journal.open("power")
if not os.fork():
    print(os.getpid(), flush=True)
    sys.stdin.read()
    os._exit(0)
os.kill(os.getpid(), signal.SIGKILL)
"""
        owner = subprocess.Popen(
            [sys.executable, "-c", HEAD + code, str(path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert owner.stdin
        assert owner.stdout
        assert int(owner.stdout.readline())
        assert owner.wait(30) == -9

        assert last(path) == 0

        owner.stdin.close()  # the child ends by itself
        owner.stdout.close()


def test_a_closed_journal_is_free(tmp_path: Path) -> None:
    """After close a second process opens it; whoever crashes while opening leaves no lock."""
    path = tmp_path / "events.db"
    (tmp_path / "events.db").write_bytes(b"no database at all" * 100)
    path.chmod(0o600)
    journal = SqliteJournal(path)
    for _ in range(2):
        with pytest.raises(JournalError, match="not a database"):
            journal.open("power")
    path.unlink()

    assert last(path) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="a file that is open cannot be moved there")
@pytest.mark.parametrize("gone", ["events.db", "events.db-wal"])
def test_a_file_that_is_gone_takes_no_more_events(
    tmp_path: Path, gone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written to a file without a name is lost, so it is an error; until it is back."""
    monkeypatch.setattr(place, "LOOK", 0.0)
    path = tmp_path / "events.db"
    journal = SqliteJournal(path)
    journal.open("power")
    journal.commit([Append(Entry("1", "a", 1.0, b""))])
    (tmp_path / gone).rename(tmp_path / "elsewhere")

    for _ in range(2):
        with pytest.raises(JournalError, match=r"events\.db.*removed or replaced"):
            journal.commit([Append(Entry("2", "a", 1.0, b""))])

    (tmp_path / "elsewhere").rename(tmp_path / gone)
    journal.commit([Append(Entry("3", "a", 1.0, b""))])
    journal.close(clean=True)
    assert last(path) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="a file that is open cannot be moved there")
def test_a_file_put_in_place_of_an_open_one_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a backup restored under a running program."""
    monkeypatch.setattr(place, "LOOK", 0.0)
    path = tmp_path / "events.db"
    journal = SqliteJournal(path)
    journal.open("power")
    copy = tmp_path / "backup"
    copy.write_bytes(path.read_bytes())
    copy.replace(path)

    with pytest.raises(JournalError, match="removed or replaced"):
        journal.commit([Append(Entry("1", "a", 1.0, b""))])
    journal.close(clean=False)
