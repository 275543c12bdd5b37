"""Rows as records: reading a journal file, with an eye on every row.

A row whose checksum is wrong is never skipped, not even where its topic is not wanted: the topic
may be what is damaged. A number without a row is a record, too, for numbers have no gaps.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from functools import partial
from typing import Any, TypeVar

import msgspec

from actorbus.errors import JournalCorruptError
from actorbus.journal.base import Entry, Grave, Page, Record, Status, Wants
from actorbus.journal.head import Head
from actorbus.journal.schema import Row, decode, seal, seal_row
from actorbus.journal.writing import Durable

T = TypeVar("T")

LOOK = 2_048
"""Events one page looks at, at most."""
PAGE_BYTES = 1 << 23
"""Bytes of bodies after which a page ends."""
_GRAVES = 256
"""Dead letters looked at in one piece."""
_patterns = msgspec.json.Decoder(tuple[str, ...]).decode
_DAMAGE = (TypeError, ValueError, struct.error)
"""What reading a damaged column may raise."""
_FORWARD = "SELECT * FROM event WHERE seq > ? ORDER BY seq"
_ONE = "SELECT * FROM event WHERE seq = ?"
_BACKWARD = """
SELECT seq, topic FROM event WHERE seq > ? AND seq < ? AND time >= ? ORDER BY seq DESC"""
_AHEAD = "SELECT name, count(*) FROM ahead JOIN durable ON number = durable GROUP BY number"
_BURIED = """
SELECT * FROM dead WHERE number > ifnull((SELECT number FROM dead WHERE id = ?), 0)
ORDER BY number LIMIT ?"""
_MARKED = """
SELECT dead.* FROM marked JOIN dead ON dead.number = marked.number WHERE marked.subscription = ?1
AND marked.number > ifnull((SELECT number FROM dead WHERE id = ?2), 0) ORDER BY 1 LIMIT ?3"""
_MARKS = "SELECT subscription, count(*) FROM marked GROUP BY subscription"
_LOOSE = "SELECT count(*) FROM marked WHERE number NOT IN (SELECT number FROM dead)"


def read(connection: sqlite3.Connection, head: Head, after: int, limit: int, wants: Wants) -> Page:
    """Return a page of the log; see `actorbus.journal.base.Journal.read`."""
    upto = max(after, head.pruned)
    stop = min(upto + LOOK, head.last)
    records: list[Record] = []
    size = 0
    wanted: dict[bytes, bool] = {}
    with closing(connection.execute(_FORWARD, (upto,))) as rows:
        for seq, row in _gapless(rows, upto, stop):
            if len(records) == limit or size > PAGE_BYTES:
                break
            upto = seq
            if row is None:
                records.append(_record(connection, seq))
                continue
            topic, body = row[6], row[8]
            if topic not in wanted:
                wanted[topic] = wants(decode(topic))
            if wanted[topic]:
                records.append(_sound(row))
                size += len(body)
    return Page(records, upto, end=upto >= head.last)


def recent(
    connection: sqlite3.Connection, limit: int, wants: Wants, since: float, behind: int, before: int
) -> list[Record]:
    """Return the last wanted records; see `actorbus.journal.base.Journal.recent`."""
    numbers: list[int] = []  # first: every row whole would be twice as dear where few are wanted
    with closing(connection.execute(_BACKWARD, (behind, before, since))) as rows:
        for seq, topic in rows:
            if len(numbers) == limit:
                break
            if wants(_text(topic)):
                numbers.append(seq)
    return [_record(connection, seq) for seq in reversed(numbers)]


def dead(connection: sqlite3.Connection, after: bytes, limit: int, marked: bytes) -> list[Grave]:
    """Return dead letters; see `actorbus.journal.base.Journal.dead`."""
    if marked:
        rows = connection.execute(_MARKED, (marked, after, limit))
    else:
        rows = connection.execute(_BURIED, (after, limit))
    return [_grave(row) for row in rows]


Look = Callable[[Callable[[sqlite3.Connection, Head], T]], T]
"""Looks at an open file, as it is now."""


def verify(look: Look[Any], *, whole: bool) -> Iterator[tuple[int, int, str | None]]:
    """Look at everything; see `actorbus.journal.base.Journal.verify`.

    Events and dead letters may come and go meanwhile: each piece goes by what is there then.
    """
    head: Head = look(lambda _, now: now.copy())
    looked, total = 0, head.last - head.pruned + head.dead + 1
    for problem in look(lambda connection, _: [*_notes(connection, whole=whole)]):
        yield looked, total, problem
    looked += 1
    yield looked, total, None
    upto = head.pruned
    while upto < head.last:
        page: Page = look(partial(_damaged, after=upto))
        for record in page.records:
            yield looked, total, f"event {record.seq} is damaged"
        looked += min(page.upto, head.last) - upto
        upto = page.upto
        yield looked, total, None
    number = 0
    while rows := look(partial(_letters, after=number)):
        for row in rows:
            if not _grave(row).sound:
                yield looked, total, f"dead letter {row[0]} is damaged"
        looked, number = looked + len(rows), rows[-1][0]
        yield looked, total, None


def _notes(connection: sqlite3.Connection, *, whole: bool) -> Iterator[str]:
    """Yield what is wrong beside events and dead letters."""
    ask = connection.execute
    for line in ask("PRAGMA integrity_check(10)").fetchall() if whole else ():
        if line[0] != b"ok":
            yield _text(line[0])
    check_notes(connection)
    ((loose,),) = ask(_LOOSE)
    if loose:
        yield f"{loose} marks for replay are of no dead letter"


def _damaged(connection: sqlite3.Connection, head: Head, *, after: int) -> Page:
    return read(connection, head, after, LOOK, lambda _: False)


def _letters(connection: sqlite3.Connection, _: Head, *, after: int) -> list[Any]:
    ask = "SELECT * FROM dead WHERE number > ? ORDER BY number LIMIT ?"
    return connection.execute(ask, (after, _GRAVES)).fetchall()


def status(connection: sqlite3.Connection, head: Head, size: int, limit: int) -> Status:
    """Return a journal's figures, without counting events."""
    ask = connection.execute
    durables = [Durable.of(row) for row in ask("SELECT * FROM durable")]
    events = head.last - head.pruned
    oldest = ask("SELECT time FROM event WHERE seq = ?", (head.pruned + 1,)).fetchone()
    return Status(
        events=events,
        first=head.pruned + 1 if events else 0,
        last=head.last,
        bytes=size,
        limit=limit,
        dead=head.dead,
        cursors={_text(each.name): each.cursor for each in durables},
        oldest=_as(float, oldest and oldest[0]),
        patterns={_text(each.name): _patterns(each.patterns) for each in durables},
        ahead={_text(name): count for name, count in ask(_AHEAD)},
        marked={_text(name): count for name, count in ask(_MARKS)},
    )


def check(connection: sqlite3.Connection, *, whole: bool) -> None:
    """Check the pages of the small tables, or of all, and what is noted in them.

    Raises:
        JournalCorruptError: Something is damaged.
    """
    for table in ("",) if whole else ("(durable)", "(ahead)", "(log)"):
        ((line,), *_) = connection.execute(f"PRAGMA quick_check{table}").fetchall()
        if line != b"ok":
            raise JournalCorruptError(f"it is damaged ({_text(line)}): restore it from a backup")
    check_notes(connection)


def check_notes(connection: sqlite3.Connection) -> None:
    """Check what is noted of the durable subscriptions, every row of it.

    Raises:
        JournalCorruptError: Something is damaged: to go on would skip or repeat events.
    """
    for row in connection.execute("SELECT * FROM durable"):
        Durable.of(row)
    for durable, seq, crc in connection.execute("SELECT * FROM ahead"):
        if seal_row(durable, seq) != crc:
            raise JournalCorruptError(
                "what is noted as settled is damaged: restore the file from a backup"
            )


def _gapless(rows: Iterable[Row], after: int, stop: int) -> Iterator[tuple[int, Row | None]]:
    """Yield each number up to `stop` in order, with its row if that is sound, whatever they are."""
    expected = after + 1
    for row in rows:
        seq = row[0]
        sound = _is_sound(row)
        if seq > expected and sound:
            yield from ((number, None) for number in range(expected, min(seq, stop + 1)))
        elif seq != expected:
            continue  # its number is what is damaged
        if seq <= stop:
            yield seq, row if sound else None
        expected = seq + 1
        if expected > stop:
            return
    yield from ((number, None) for number in range(expected, stop + 1))


def _is_sound(row: Row) -> bool:
    seq, crc, time, codec, once, ident, topic, meta, body = row
    try:
        return seal(seq, time, codec, once, ident, topic, meta, body) == crc
    except _DAMAGE:
        return False


def _sound(row: Row) -> Record:
    seq, _, time, codec, once, ident, topic, meta, body = row
    return Record(seq, Entry(decode(ident), decode(topic), time, body, meta, codec, once == 1))


def _record(connection: sqlite3.Connection, seq: int) -> Record:
    """Return an event by its number: as it is, or what is left of it."""
    row = connection.execute(_ONE, (seq,)).fetchone()
    if row is None:
        return Record(seq, Entry("", "", 0.0, b""), sound=False)
    if _is_sound(row):
        return _sound(row)
    return Record(seq, _remains(*row[2:]), sound=False)


def _grave(row: tuple[Any, ...]) -> Grave:
    """Return a dead letter; the event's columns are those of `_remains`."""
    _, ident, subscription, reason, died_at, detail, seq, *event, crc = row
    return Grave(
        id=_text(ident),
        subscription=_text(subscription),
        reason=_text(reason),
        entry=_remains(*event),
        died_at=_as(float, died_at),
        detail=_as(bytes, detail),
        seq=_as(int, seq),
        sound=seal_row(*row[:-1]) == crc,
    )


def _remains(*columns: object) -> Entry:
    """Return what can be read of an entry."""
    time, codec, once, ident, topic, meta, body = columns
    return Entry(
        id=_text(ident),
        topic=_text(topic),
        time=_as(float, time),
        body=_as(bytes, body),
        meta=_as(bytes, meta),
        codec=_as(int, codec),
        once=once == 1,
    )


def _as(kind: type[T], value: object) -> T:
    """Return a value of damaged type as an empty one of the right type."""
    return value if isinstance(value, kind) else kind()


def _text(raw: object) -> str:
    """Return text, whatever has become of it."""
    try:
        return decode(_as(bytes, raw))
    except UnicodeDecodeError:
        return _as(bytes, raw).decode("utf-8", "backslashreplace")
