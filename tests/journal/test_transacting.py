"""Statements of a program's own: what they may do, what not, and what they leave behind."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from actorbus.errors import JournalError, JournalFullError, TransactionError
from actorbus.journal.base import Append, Bury, Entry, Grave, Join, Leave, Settle
from actorbus.journal.effects import Found, Row, Statement, Transact
from actorbus.journal.schema import TABLES
from actorbus.journal.sqlite import SqliteJournal
from actorbus.journal.trouble import code_of

NAMES = sorted({sql.split("(")[0].split()[2] for sql in TABLES if sql.startswith("CREATE TABLE")})


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[SqliteJournal]:
    """Give an open journal that must be sound at the end."""
    made = SqliteJournal(tmp_path / "events.db")
    made.open("process")
    made.commit([Join("billing", ("**",), 10), Append(Entry("1", "a", 1.0, b"{}"))])
    assert write(made, "CREATE TABLE own(id INTEGER PRIMARY KEY, it)") == [True]
    yield made
    assert {problem for *_, problem in made.verify()} == {None}
    assert [each.seq for each in made.read(0, 10, lambda _: True).records] == [1]
    made.close(clean=True)
    made.open("process")
    made.close(clean=True)


def put(*statements: str, **more: Any) -> Transact:
    """Return a transaction of statements without parameters."""
    return Transact(tuple(Statement(each, ((),)) for each in statements), **more)


def write(journal: SqliteJournal, *statements: str) -> list[Any]:
    """Commit statements."""
    return journal.commit([put(*statements)])


def rows(journal: SqliteJournal, query: str) -> Found:
    """Return what a query finds."""
    return journal.preview(put(), Statement(query, ((),)))


def why(found: Any) -> str:
    """Return why something was refused."""
    assert isinstance(found, TransactionError), found
    return found.reason


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE {}(it)",
        "CREATE TABLE IF NOT EXISTS {}(it)",
        "CREATE VIEW {} AS SELECT 1",
        "INSERT INTO {} DEFAULT VALUES",
        "DELETE FROM {}",
        "DELETE FROM main.{}",
        "DROP TABLE {}",
        "ALTER TABLE {} ADD COLUMN it",
        "CREATE INDEX mine ON {}(1)",
        "CREATE TRIGGER mine AFTER INSERT ON {} BEGIN SELECT 1; END",
        "INSERT INTO own(it) SELECT count(*) FROM {}",
        "UPDATE own SET it = (SELECT count(*) FROM {})",
        "WITH t AS (SELECT * FROM {}) INSERT INTO own(it) SELECT 1 FROM t",
    ],
)
def test_the_journal_s_own_tables_are_out_of_reach(
    journal: SqliteJournal, sql: str, name: str
) -> None:
    """However a statement names them; the error says which it is."""
    for spelt in name, name.upper(), f'"{name}"':
        (result,) = write(journal, sql.format(spelt))
        assert why(result) == f"the table {name!r} is the journal's: name one of your own"


@pytest.mark.parametrize("name", NAMES)
def test_they_cannot_be_read(journal: SqliteJournal, name: str) -> None:
    """Neither a row nor their number."""
    for query in f"SELECT * FROM {name}", f"SELECT count(*) FROM {name}":  # noqa: S608
        assert "is the journal's" in why(rows(journal, query))


@pytest.mark.parametrize(
    "sql",
    [
        "BEGIN",
        "COMMIT",
        "END",
        "ROLLBACK",
        "SAVEPOINT mine",
        "RELEASE effect",
        "ROLLBACK TO effect",
        "PRAGMA user_version=7",
        "PRAGMA synchronous=OFF",
        "PRAGMA writable_schema=ON",
        "SELECT * FROM pragma_user_version",
        "ATTACH ':memory:' AS other",
        "DETACH main",
        "ANALYZE",
        "CREATE TEMP TABLE event(it)",
        "CREATE TEMP VIEW event AS SELECT 1",
        "CREATE TEMP TRIGGER mine AFTER INSERT ON own BEGIN SELECT 1; END",
        "CREATE VIRTUAL TABLE mine USING fts5(it)",
    ],
)
def test_what_belongs_to_the_connection_is_refused(journal: SqliteJournal, sql: str) -> None:
    """Also behind a statement that is allowed; nothing of that is there afterwards."""
    (result,) = write(journal, "INSERT INTO own(it) VALUES(1)", sql)

    assert why(result) == "a transaction reads and writes tables of its own, no more"
    assert rows(journal, "SELECT * FROM own") == []


@pytest.mark.parametrize(
    "sql",
    [
        "VACUUM",
        "SELECT 1; SELECT 2",
        "SELECT ?",
        "SELECT load_extension('x')",
        "UPDATE sqlite_master SET sql = ''",
        "nonsense",
        "",
        "\x00",
    ],
)
def test_what_is_wrong_is_an_error_with_its_cause(journal: SqliteJournal, sql: str) -> None:
    """Of that transaction alone: what is committed with it is there."""
    beside = put("INSERT INTO own(it) VALUES(1)")
    refused, done = journal.commit([put("INSERT INTO own(it) VALUES(2)", sql), beside])

    if sql:
        assert isinstance(refused, TransactionError)
        assert refused.__cause__ is not None
        assert done is True
        assert rows(journal, "SELECT it FROM own") == [(1,)]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM event WHERE seq > ? ORDER BY seq",
        "SELECT * FROM durable",
    ],
)
def test_a_text_the_journal_uses_itself_is_judged(journal: SqliteJournal, sql: str) -> None:
    """Though the connection has it compiled; and the journal goes on using it."""
    journal.read(0, 10, lambda _: True)
    journal.status()
    parameters: Row = (0,) if "?" in sql else ()

    assert "is the journal's" in why(journal.preview(put(), Statement(sql, (parameters,))))
    assert journal.status().events == 1


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE other(id INTEGER PRIMARY KEY AUTOINCREMENT, it TEXT NOT NULL) STRICT",
        "CREATE TABLE other(id TEXT PRIMARY KEY) WITHOUT ROWID",
        "CREATE TABLE other AS SELECT it FROM own",
        "CREATE TABLE IF NOT EXISTS own(different)",
        "CREATE INDEX own_it ON own(it)",
        "CREATE VIEW seen_by_us AS SELECT it FROM own",
        "CREATE TRIGGER own_new AFTER INSERT ON own BEGIN UPDATE own SET it = 1; END",
        "ALTER TABLE own RENAME TO ours",
        "ALTER TABLE own ADD COLUMN log",
        "DROP TABLE own",
        "DROP TABLE IF EXISTS nowhere",
        "REINDEX own",
        "INSERT INTO own VALUES(1, json('[1]')) ON CONFLICT(id) DO UPDATE SET it = excluded.it",
        "INSERT INTO own(it) VALUES(1) RETURNING id",
        "DELETE FROM own WHERE it IN (SELECT name FROM sqlite_master)",
    ],
)
def test_what_a_program_does_with_its_tables_is_allowed(journal: SqliteJournal, sql: str) -> None:
    """Tables, indexes, views, triggers: to make, to change and to drop."""
    assert write(journal, sql) == [True]


def test_a_trigger_reaches_no_further(journal: SqliteJournal) -> None:
    """One that would write the journal can be made, and never does."""
    made = write(journal, "CREATE TRIGGER mine AFTER INSERT ON own BEGIN DELETE FROM event; END")
    (result,) = write(journal, "INSERT INTO own(it) VALUES(1)")

    assert made == [True]
    assert "'event' is the journal's" in why(result)


@pytest.mark.parametrize(
    "spoiling",
    [
        "INSERT OR ROLLBACK INTO single VALUES(1)",
        "INSERT INTO strict VALUES(1)",
        "INSERT INTO raising VALUES(1)",
    ],
)
def test_who_rolls_everything_back_is_left_out(journal: SqliteJournal, spoiling: str) -> None:
    """All else in the commit happens once, several such transactions or one."""
    write(journal, "CREATE TABLE single(it UNIQUE)", "INSERT INTO single VALUES(1)")
    write(journal, "CREATE TABLE strict(it UNIQUE ON CONFLICT ROLLBACK)")
    write(journal, "INSERT INTO strict VALUES(1)")
    write(journal, "CREATE TABLE raising(it)")
    stop = "BEGIN SELECT RAISE(ROLLBACK, 'UNIQUE'); END"
    write(journal, f"CREATE TRIGGER stop BEFORE INSERT ON raising {stop}")

    results = journal.commit(
        [
            put("INSERT INTO own(it) VALUES(1)"),
            put("INSERT INTO own(it) VALUES(2)", spoiling),
            Settle("billing", 1),
            put("INSERT INTO own(it) VALUES(3)", spoiling),
            put("INSERT INTO own(it) VALUES(4)"),
        ]
    )

    assert [results[0], results[2], results[4]] == [True, None, True]
    assert "UNIQUE" in why(results[1])
    assert "UNIQUE" in why(results[3])
    assert rows(journal, "SELECT it FROM own") == [(1,), (4,)]
    assert journal.status().cursors == {"billing": 1}


def test_a_statement_that_is_run_often_is_not_one_that_takes_long(
    journal: SqliteJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it took before does not count: each transaction has the same patience."""
    monkeypatch.setattr("actorbus.journal.transacting.ROUND", 100)
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50) "
    short = put(f"{numbers} INSERT INTO own(it) SELECT i FROM n")  # noqa: S608

    assert journal.commit([short] * 100) == [True] * 100
    long = put(f"{numbers} INSERT INTO own(it) SELECT a.i FROM n AS a, n AS b, n AS c")  # noqa: S608
    assert why(journal.commit([long])[0]) == "it takes too long, and everybody waits for it"


def test_text_is_text_to_a_program_and_bytes_to_the_journal(journal: SqliteJournal) -> None:
    """A preview leaves the connection as it was, whatever it finds."""
    assert rows(journal, "SELECT 'ü', x'ff', 1, 1.5, NULL") == [("ü", b"\xff", 1, 1.5, None)]
    assert "cast" not in why(rows(journal, "SELECT CAST(x'ff' AS TEXT)"))
    assert journal.read(0, 1, lambda _: True).records[0].entry.topic == "a"


def test_an_unknown_durable_writes_nothing(journal: SqliteJournal) -> None:
    """Nobody would remember it."""
    nobody = put("INSERT INTO own(it) VALUES(1)", durable="nobody", event="1")

    assert "'nobody'" in why(journal.commit([nobody])[0])
    assert rows(journal, "SELECT it FROM own") == []


def test_who_leaves_is_forgotten(journal: SqliteJournal) -> None:
    """One that comes back under the name has an inbox of its own."""
    one = put("INSERT INTO own(it) VALUES(1)", durable="billing", event="1")

    assert journal.commit([one, one]) == [True, False]
    journal.commit([Leave("billing"), Join("billing", ("**",), 10)])
    assert journal.commit([one, one]) == [True, False]


def test_an_id_is_remembered_with_the_events_of_its_time(tmp_path: Path) -> None:
    """For the retention, and while a durable holds back what was published until then."""
    journal = SqliteJournal(tmp_path / "events.db", retention=100.0)
    journal.open("process")
    one = Transact((), durable="billing", event="one", time=1_000.0)
    journal.commit([Join("billing", ("**",), 10), Join("slow", ("**",), 10)])
    journal.commit([Append(Entry("1", "a", 1_000.0, b"")), Settle("billing", 1)])

    def is_known_at(now: float) -> bool:
        while journal.prune(now):
            pass
        return journal.preview(one) is None

    assert journal.commit([one]) == [True]
    assert is_known_at(2_000.0), "the event is still there"
    journal.commit([Settle("slow", 1)])
    assert is_known_at(1_099.0), "it is younger than the retention"
    assert not is_known_at(1_101.0)
    journal.close(clean=True)


def test_what_is_remembered_makes_room(tmp_path: Path) -> None:
    """A journal is not filled by its notes: the oldest go, and it never is full."""
    journal = SqliteJournal(tmp_path / "events.db", max_bytes=1 << 20)
    journal.open("process")
    journal.commit([Join("billing", ("**",), 10)])
    for number in range(20_000 // 100):
        idents = [f"{number}-{each}-{'long' * 20}" for each in range(100)]
        notes = [Transact((), durable="billing", event=each, time=1.0) for each in idents]
        assert journal.commit(notes) == [True] * 100
    assert journal.preview(notes[-1]) is None
    assert journal.status().bytes <= 1 << 20
    journal.close(clean=True)


def test_at_the_limit_what_settles_goes_on(tmp_path: Path) -> None:
    """A program's tables do not take the room that settling and burying need."""
    journal = SqliteJournal(tmp_path / "events.db", max_bytes=1 << 20)
    journal.open("process")
    journal.commit([Join("billing", ("**",), 10), Append(Entry("1", "a", 1.0, b""))])
    write(journal, "CREATE TABLE own(it)")
    with pytest.raises(JournalFullError):
        for _ in range(10_000):
            journal.commit([Transact((Statement("INSERT INTO own VALUES(zeroblob(900))", ((),)),))])

    grave = Grave("g", "billing", "rejected", Entry("1", "a", 1.0, bytes(10_000)), 1.0)
    journal.commit([Bury(grave), Settle("billing", 1)])
    assert journal.dead() == [grave]
    assert write(journal, "DELETE FROM own WHERE rowid < 100") == [True]
    assert write(journal, "INSERT INTO own VALUES(zeroblob(900))") == [True]
    journal.close(clean=True)


def test_a_journal_in_trouble_is_no_mistake_of_the_program(
    journal: SqliteJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fails is an error of the journal, for everybody in the commit."""
    broken = sqlite3.OperationalError("disk I/O error")
    broken.sqlite_errorcode = sqlite3.SQLITE_IOERR

    def fail(*_: Any) -> None:
        raise broken

    assert code_of(broken) == sqlite3.SQLITE_IOERR
    with monkeypatch.context() as patch:
        patch.setattr("actorbus.journal.transacting._execute", fail)
        with pytest.raises(JournalError, match="disk I/O error"):
            write(journal, "INSERT INTO own(it) VALUES(1)")
    assert rows(journal, "SELECT it FROM own") == []
