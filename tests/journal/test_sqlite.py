"""The SQLite journal keeps the contract, and its files are where and what they should be."""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from actorbus.errors import ConfigurationError, JournalCorruptError, JournalError
from actorbus.journal.base import (
    Append,
    Appended,
    Attempt,
    Bury,
    Entry,
    Grave,
    Join,
    Leave,
    Replay,
    Settle,
)
from actorbus.journal.sqlite import SqliteJournal
from actorbus.testing.journal_tables import TableContract

posix = pytest.mark.skipif(os.name != "posix", reason="rights of POSIX")


class TestSqliteJournal(TableContract):
    """Every guarantee, on a disk."""

    def make(self, place: Path, **options: Any) -> SqliteJournal:
        return SqliteJournal(place / "events.db", **options)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


def touch(path: Path) -> None:
    """Make a journal with an event and close it."""
    journal = SqliteJournal(path)
    journal.open("power")
    journal.commit([Append(Entry("1", "a", 1.0, b"body"))])
    journal.close(clean=True)


def refusal(path: Path) -> str:
    """Return why a journal cannot be opened; it names the file, on one line."""
    with pytest.raises(JournalError) as caught:
        SqliteJournal(path).open("power")
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- addresses ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///events.db", Path("events.db").absolute()),
        ("sqlite:////var/lib/events.db", Path("/var/lib/events.db")),
        ("sqlite:///a%20b.db?max_bytes=2000000&retention=60&window=1.5", Path("a b.db").absolute()),
    ],
)
def test_a_url_names_a_file(url: str, path: Path) -> None:
    """Three slashes are relative, four absolute; options stand behind the question mark."""
    journal = SqliteJournal.from_url(url)

    assert journal.path == path
    assert SqliteJournal.from_url(journal.url).path == path


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("sqlite://:memory:", "would lose every event"),
        ("sqlite:///:memory:", "would lose every event"),
        ("sqlite://", "names no file"),
        ("sqlite://host/events.db", "names no file"),
        ("postgres:///events.db", "is no journal"),
        ("sqlite:///events.db?size=1", "no option 'size'; there are max_bytes, retention, window"),
        ("sqlite:///events.db?window=soon", "window must be a number, not 'soon'"),
        ("sqlite:///events.db?max_bytes=1e9", "max_bytes must be a number, not '1e9'"),
        ("sqlite:///events.db?max_bytes=1", "max_bytes must be at least 1048576, not 1"),
        ("sqlite:///events.db?retention=-1", "retention and window are seconds"),
        ("sqlite:///events.db?window=nan", "retention and window are seconds"),
    ],
)
def test_a_wrong_url_says_what_is_wrong(url: str, why: str) -> None:
    """What cannot be a journal is refused before anything is opened."""
    with pytest.raises(ConfigurationError) as caught:
        SqliteJournal.from_url(url)
    assert why in str(caught.value)


def test_there_are_two_durabilities(path: Path) -> None:
    """Another word is refused, and leaves nothing behind."""
    with pytest.raises(ConfigurationError, match='"power" or "process"'):
        SqliteJournal(path).open("full")
    assert not path.exists()


# -- files ----------------------------------------------------------------------------------------


@posix
@pytest.mark.parametrize("umask", [0o000, 0o777])
def test_its_files_are_for_the_owner_alone(path: Path, umask: int) -> None:
    """Every file has mode 0600, whatever the umask."""
    before = os.umask(umask)
    try:
        journal = SqliteJournal(path)
        journal.open("power")
        journal.commit([Append(Entry("1", "a", 1.0, b"body"))])
    finally:
        os.umask(before)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    journal.close(clean=True)

    assert set(modes) == {"events.db", "events.db-wal", "events.db.lock", "events.db.ballast"}
    assert set(modes.values()) == {0o600}


@posix
@pytest.mark.parametrize("name", ["events.db", "events.db.lock", "events.db-wal"])
def test_a_link_is_refused(path: Path, name: str) -> None:
    """A link in place of one of its files leads somewhere else."""
    if name != "events.db":
        touch(path)
    path.with_name(name).unlink(missing_ok=True)
    (path.parent / "elsewhere").touch(mode=0o600)
    path.with_name(name).symlink_to(path.parent / "elsewhere")

    assert f"{name!r} is a link" in refusal(path)


@posix
def test_what_others_may_write_is_refused(path: Path) -> None:
    """A file that is open to others is not trusted, nor a directory where files can be swapped."""
    touch(path)
    path.chmod(0o660)
    assert "others may write 'events.db': `chmod 600` it" in refusal(path)
    path.chmod(0o600)
    path.parent.chmod(0o777)
    assert "everybody may replace files" in refusal(path)
    path.parent.chmod(0o1777)
    touch(path)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="root can give files away")
def test_a_file_of_somebody_else_is_refused(path: Path) -> None:
    """Whoever owns the file may change it at any time."""
    touch(path)
    os.chown(path, 12_345, -1)

    assert "belongs to another user (uid 12345)" in refusal(path)


@pytest.fixture
def nobody() -> Iterator[None]:
    """Take root's rights away, for root may write anywhere."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(0)


@posix
def test_a_directory_without_the_right_to_write(nobody: None) -> None:
    """The reason is in the text; no error of another library."""
    with TemporaryDirectory() as place:
        Path(place).chmod(0o500)

        assert "cannot be used: Permission denied" in refusal(Path(place) / "events.db")

        Path(place).chmod(0o700)


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    """It is not made: the name may be a slip."""
    assert "there is no directory" in refusal(tmp_path / "none" / "events.db")
    assert list(tmp_path.iterdir()) == []


def test_an_emptied_file_is_reported(path: Path) -> None:
    """A file of no bytes is taken, but somebody should know."""
    path.touch(mode=0o600)
    journal = SqliteJournal(path)

    opening = journal.open("power")

    journal.close(clean=True)
    assert opening.warnings == ("journal 'events.db' was empty: it starts anew",)


def test_a_database_of_another_program_is_left_alone(path: Path) -> None:
    """Its tables are not ours to add to."""
    path.touch(mode=0o600)
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE theirs(x)")
    connection.close()

    assert "a database of another program" in refusal(path)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("PRAGMA user_version=3", "a newer actorbus (version 3 of its tables, this one knows 2)"),
        ("PRAGMA user_version=0", "its tables are not as they were"),
    ],
)
def test_another_version_is_refused(path: Path, change: str, why: str) -> None:
    """What a newer version has written is not touched."""
    touch(path)
    with sqlite3.connect(path) as connection:
        connection.execute(change)
    connection.close()

    assert why in refusal(path)


def test_any_thread_may_call(path: Path) -> None:
    """Calls come one at a time, each from another thread."""
    journal = SqliteJournal(path)
    journal.open("process")
    results: list[Any] = []

    def commit() -> None:
        results.extend(journal.commit([Append(Entry("1", "a", 1.0, b""))]))

    for _ in range(3):
        thread = threading.Thread(target=commit)
        thread.start()
        thread.join()

    assert results == [Appended(1), Appended(2), Appended(3)]
    journal.close(clean=True)


def test_what_is_left_behind_is_removed(path: Path) -> None:
    """Notes of what is settled, and of who has left, do not stay for ever."""
    journal = SqliteJournal(path)
    journal.open("process")
    journal.commit([Join(name, ("**",), 10) for name in ("billing", "mail")])
    journal.commit([Append(Entry(str(n), "a", 1.0, b"", once=True)) for n in range(10)])
    journal.commit([Attempt(name, n) for name in ("billing", "mail") for n in range(1, 11)])
    journal.commit([Settle("billing", 0, tuple(range(2, 10))), Settle("mail", 0, (3,))])

    journal.commit([Settle("billing", 10), Leave("mail")])
    while journal.prune(1e9):
        pass

    journal.close(clean=True)
    with sqlite3.connect(path) as connection:
        for table in ("ahead", "attempt", "seen", "event"):
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), table  # noqa: S608
    connection.close()


def test_a_lost_journal_is_corrupt_not_new(path: Path) -> None:
    """A file whose tables are gone is no new journal."""
    touch(path)
    with sqlite3.connect(path) as connection:
        for table in ("event", "durable", "ahead", "attempt", "dead", "seen", "log"):
            connection.execute(f"DROP TABLE {table}")
    connection.close()

    with pytest.raises(JournalCorruptError, match="its tables are not as they were"):
        SqliteJournal(path).open("power")


def test_another_program_s_database_is_not_changed(tmp_path: Path) -> None:
    """It is refused before anything is set in it: its own program expects it as it was."""
    path = tmp_path / "events.db"
    with closing(sqlite3.connect(path)) as theirs:
        theirs.execute("CREATE TABLE mine(a)")
    before = path.read_bytes()

    with pytest.raises(JournalError, match="another program"):
        SqliteJournal(path).open("power")

    assert path.read_bytes() == before


def test_a_file_of_the_version_before_is_brought_up(tmp_path: Path) -> None:
    """It has what it had, and does what it could not do then."""
    path = tmp_path / "events.db"
    grave = Grave("g", "billing", "rejected", Entry("1", "a", 1.0, b"{}"), 1.0)
    journal = SqliteJournal(path)
    journal.open("process")
    journal.commit([Append(grave.entry), Join("billing", ("**",), 10), Bury(grave)])
    journal.close(clean=True)
    before = sqlite3.connect(path)
    before.executescript("DROP TABLE marked; DROP TABLE effect; PRAGMA user_version=1")
    before.close()

    for marked in ({}, {"billing": 1}):
        journal.open("process")
        assert (journal.status().events, journal.status().marked) == (1, marked)
        assert journal.status().cursors == {"billing": 1}
        assert journal.dead() == [grave]
        assert journal.commit([Replay(("g",))]) == [1]
        journal.close(clean=True)


def test_verify_sees_a_mark_of_nothing(tmp_path: Path) -> None:
    """A mark for replay whose dead letter is not there is named."""
    path = tmp_path / "events.db"
    journal = SqliteJournal(path)
    journal.open("process")
    journal.close(clean=True)
    database = sqlite3.connect(path)
    database.execute("INSERT INTO marked VALUES(7, x'00')")
    database.commit()
    database.close()
    journal.open("process")
    found = [problem for _, _, problem in journal.verify() if problem]
    journal.close(clean=True)
    assert found == ["1 marks for replay are of no dead letter"]
