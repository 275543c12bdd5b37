"""What the durable cases write, and what one writes by hand: `sqlite3`, and nothing around it.

The raw baseline has the pragmas, the table and the columns of a journal, taken from the journal's
own code, and as many rows in a commit as there are publishers that wait for it. Its rows are ready
before the clock runs: no encoding, no checksum, no id, no thread, no loop. Nothing that keeps
events in SQLite can be faster.

A group commit by hand is what one would write in asyncio: it encodes each payload, makes a
checksum, and tasks await futures that are resolved after each commit, which a thread makes.

Files are made anew for each lap, in the project's folder and not where temporary files go: that may
be in memory, where a commit costs nothing.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from actorbus.journal import schema
from actorbus.journal.base import Entry
from actorbus.journal.store import Sizes
from benchmarks.clock import Lap, Stopwatch
from benchmarks.machine import ROOT

TOPIC = "order:placed"
ORDER: dict[str, Any] = {
    "order_id": "7f3a1c9e-52d4-4b8e-9a57-1f0e6d2c8b41",
    "customer": {"id": 48_213, "email": "ada@example.org", "country": "GB"},
    "items": [{"sku": "AB-1042", "count": 2, "price": 19.95}, {"sku": "CD-7", "count": 1}],
    "note": "leave it with a friend",
}
"""The payload: 225 bytes of JSON."""
INSERT = "INSERT INTO event VALUES(?,?,?,?,?,?,?,?,?)"
LOG_PAGES = Sizes.of(1 << 30).log // schema.PAGE


@contextmanager
def folder() -> Iterator[Path]:
    """Give a folder on the project's own disk, for as long as it is needed."""
    with TemporaryDirectory(prefix=".bench-", dir=ROOT) as path:
        yield Path(path)


def entry(number: int, time: float) -> Entry:
    """Return an event as a journal keeps it."""
    return Entry(f"{number:032x}", TOPIC, time, msgspec.json.encode(ORDER))


def row(number: int) -> schema.Row:
    """Return an event as a row of a journal."""
    each = entry(number, 1.8e9)
    columns = (each.time, 0, 0, each.id.encode(), TOPIC.encode(), b"", each.body)
    return (number, schema.seal(number, *columns), *columns)


def connect(path: Path) -> sqlite3.Connection:
    """Open a file as a journal does."""
    connection = sqlite3.connect(path, isolation_level=None)
    if not schema.prepare(connection, "power"):
        schema.create(connection)
    connection.execute(f"PRAGMA wal_autocheckpoint={LOG_PAGES}")
    return connection


async def raw(batch: int, count: int) -> Lap:
    """Time so many rows, a batch in each commit."""
    ready = [row(number) for number in range(1, count + 1)]
    batches = [ready[start : start + batch] for start in range(0, count, batch)]
    with folder() as home:
        connection = connect(home / "raw.db")
        with Stopwatch() as watch:
            for each in batches:
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany(INSERT, each)
                connection.execute("COMMIT")
        connection.close()
    return watch.lap(count)


async def group(publishers: int, count: int) -> Lap:
    """Time a group commit by hand: tasks await futures, a thread commits what has come together."""
    loop = asyncio.get_running_loop()
    ready: list[schema.Row] = []
    futures: list[asyncio.Future[None]] = []
    work: SimpleQueue[Any] = SimpleQueue()
    numbers = iter(range(1, count + 1))

    def resolve(done: list[asyncio.Future[None]]) -> None:
        for future in done:
            future.set_result(None)

    def commit(path: Path) -> None:
        connection = connect(path)
        while (batch := work.get()) is not None:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(INSERT, batch[0])
            connection.execute("COMMIT")
            loop.call_soon_threadsafe(resolve, batch[1])
        connection.close()

    def seal() -> None:
        work.put((ready.copy(), futures.copy()))
        ready.clear()
        futures.clear()

    async def publish(share: int) -> None:
        for _ in range(share):
            if not ready:
                loop.call_soon(seal)
            ready.append(row(next(numbers)))
            futures.append(future := loop.create_future())
            await future

    with folder() as home:
        thread = threading.Thread(target=commit, args=(home / "group.db",))
        thread.start()
        with Stopwatch() as watch:
            await asyncio.gather(*(publish(count // publishers) for _ in range(publishers)))
        work.put(None)
        thread.join()
    return watch.lap(count)
