"""A disk whose power can be cut: a SQLite file system that knows what has been synced.

It writes to real files and keeps, for each, the bytes as of the last sync and what was written
since. At the cut the surviving file is the synced bytes and any part of the rest: none of it, a
start, some of it in any order, or a start with the last write torn between sectors. After the cut
nothing is written any more, but nothing fails either, so a journal can be closed as if nothing
were.

The journal is the production one: only its connection is made with `apsw`, which can take a file
system in Python, behind the few methods of `sqlite3` that a journal uses.
"""

from __future__ import annotations

import itertools
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import apsw

from actorbus.errors import JournalError
from actorbus.journal.sqlite import SqliteJournal

SECTOR = 512
_names = itertools.count()


class PowerCut(BaseException):
    """The power is gone."""


class Content:
    """A file as the disk has it: what is synced, and what is on its way."""

    def __init__(self) -> None:
        self.synced = bytearray()
        self.pending: list[tuple[int, bytes | None]] = []

    def sync(self) -> None:
        """Bring everything to the disk."""
        for write in self.pending:
            _apply(self.synced, write)
        self.pending.clear()

    def survivor(self, chance: random.Random) -> bytes:
        """Return what is found after a cut."""
        count = len(self.pending)
        kept = self.pending[: chance.randint(0, count)]
        way = chance.choice(["none", "start", "torn", "any"])
        if way == "none":
            kept = []
        elif way == "any":
            kept = [write for write in self.pending if chance.random() < 0.5]
        elif way == "torn" and kept and kept[-1][1]:
            place, data = kept[-1]
            sectors = chance.randint(0, len(data or b"") // SECTOR)
            kept[-1] = place, (data or b"")[: sectors * SECTOR]
        image = bytearray(self.synced)
        for write in kept:
            _apply(image, write)
        return bytes(image)


def _apply(image: bytearray, write: tuple[int, bytes | None]) -> None:
    place, data = write
    if data is None:
        del image[place:]
        return
    image.extend(bytes(max(place - len(image), 0)))
    image[place : place + len(data)] = data


class Disk(apsw.VFS):
    """A file system with a switch.

    Attributes:
        writes: Writes so far.
        cut_at: Number of the write at which the power goes; 0 for never.
        fail_sync: Called at every sync with the file's name; may raise.
    """

    def __init__(self) -> None:
        self.name = f"disk-{next(_names)}"
        self.files: dict[str, Content] = {}
        self.writes = 0
        self.cut_at = 0
        self.is_off = False
        self.fail_sync: Callable[[str], None] = lambda _: None
        super().__init__(self.name, "")

    def xOpen(self, name: Any, flags: Any) -> Any:
        """Open a file."""
        return DiskFile(self, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        """Delete a file, unless the power is off."""
        if not self.is_off:
            self.files.pop(filename, None)
            super().xDelete(filename, syncdir)

    def count_write(self) -> None:
        """Cut the power if it is time."""
        self.writes += 1
        if self.writes == self.cut_at:
            self.is_off = True
            raise PowerCut

    def survive(self, old: Path, new: Path, chance: random.Random) -> None:
        """Put into `new` what is left of the files in `old`."""
        new.mkdir()
        for name, content in self.files.items():
            (new / Path(name).name).touch(mode=0o600)
            (new / Path(name).name).write_bytes(content.survivor(chance))
        for lock in old.glob("*.lock"):
            shutil.copy(lock, new / lock.name)


class DiskFile(apsw.VFSFile):
    """A file on a `Disk`."""

    def __init__(self, disk: Disk, name: Any, flags: Any) -> None:
        self.disk = disk
        self.file = name.filename() if isinstance(name, apsw.URIFilename) else name
        self.content = disk.files.setdefault(self.file, Content())
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        """Write, or lose, some bytes."""
        if self.disk.is_off:
            return
        self.content.pending.append((offset, bytes(data)))
        super().xWrite(data, offset)
        self.disk.count_write()

    def xTruncate(self, newsize: int) -> None:
        """Cut the file off."""
        if not self.disk.is_off:
            self.content.pending.append((newsize, None))
            super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:
        """Bring the file to the disk."""
        if not self.disk.is_off:
            self.disk.fail_sync(self.file)
            self.content.sync()
            super().xSync(flags)


class Rows:
    """Rows as `sqlite3` gives them to a journal: text as bytes."""

    def __init__(self, rows: Iterator[tuple[Any, ...]]) -> None:
        self._rows = rows

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        with _translated():
            for row in self._rows:
                yield tuple(v.encode() if isinstance(v, str) else v for v in row)

    def fetchone(self) -> tuple[Any, ...] | None:
        """Return the next row."""
        return next(iter(self), None)

    def fetchall(self) -> list[tuple[Any, ...]]:
        """Return all rows."""
        return list(self)

    def close(self) -> None:
        """Let the statement go."""
        cast("apsw.Cursor", self._rows).close(force=True)


class ApswConnection:
    """As much of `sqlite3.Connection` as a journal uses."""

    def __init__(self, path: Path, disk: Disk) -> None:
        with _translated():
            self._own = apsw.Connection(str(path), vfs=disk.name)
        self.text_factory: type = bytes

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> Rows:
        """Run a statement up to its first row."""
        with _translated():
            return Rows(self._own.cursor().execute(sql, parameters))

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run a statement for each row."""
        with _translated():
            self._own.cursor().executemany(sql, rows)

    def executescript(self, sql: str) -> None:
        """Run statements to their ends."""
        with _translated():
            self._own.cursor().execute(sql).fetchall()

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""
        return bool(self._own.in_transaction)

    @property
    def total_changes(self) -> int:
        """Rows changed so far."""
        return int(self._own.total_changes())

    def set_authorizer(self, judge: Any) -> None:
        """Ask before a statement is compiled."""
        self._own.authorizer = judge

    def set_progress_handler(self, look: Any, instructions: int) -> None:
        """Ask while a statement runs."""
        self._own.set_progress_handler(look, instructions or 1)

    def close(self) -> None:
        """Close."""
        with _translated():
            self._own.close()


@contextmanager
def _translated() -> Iterator[None]:
    """Raise what `sqlite3` would."""
    try:
        yield
    except apsw.Error as error:
        raised = sqlite3.OperationalError(str(error))
        raised.sqlite_errorcode = vars(error)["extendedresult"]  # its stubs do not always say so
        raise raised from error


class JournalOnDisk(SqliteJournal):
    """The production journal on a simulated disk."""

    disk: Disk

    def _connect(self) -> sqlite3.Connection:
        return cast("sqlite3.Connection", ApswConnection(self.path, self.disk))


def left_by_cut(
    place: Path,
    durability: str,
    writes: int,
    chance: random.Random,
    live: Callable[[JournalOnDisk], None],
) -> Path:
    """Let a journal live until the power goes, at one of so many writes; return what is left."""
    (place / "before").mkdir(parents=True)
    journal = JournalOnDisk(place / "before" / "events.db", max_bytes=1 << 22)
    journal.disk = disk = Disk()
    disk.cut_at = chance.randint(1, writes)
    try:
        journal.open(durability)
        live(journal)
    except (PowerCut, JournalError):
        assert disk.is_off
    finally:
        journal.close(clean=False)
        disk.unregister()
    disk.survive(place / "before", place / "after", chance)
    return place / "after" / "events.db"
