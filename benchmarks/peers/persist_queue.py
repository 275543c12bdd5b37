"""persist-queue: a queue in an SQLite file, each call a transaction of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from persistqueue import SQLiteAckQueue
from persistqueue.serializers import json


class Peer:
    """A ``SQLiteAckQueue``; it leaves ``synchronous`` at SQLite's default, which is FULL.

    Args:
        home: An empty folder.
    """

    publishes = "one put a commit; synchronous=FULL, JSON instead of pickle"

    def __init__(self, home: Path) -> None:
        self.store = SQLiteAckQueue(str(home), serializer=json)
        connection = self.store._putter  # there is no other way to make sure
        connection.execute("PRAGMA synchronous=FULL")
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)

    def put(self, data: Any) -> None:
        """Keep an item."""
        self.store.put(data)

    def through(self, data: Any) -> None:
        """Keep an item, take it and acknowledge it."""
        self.store.put(data)
        item = self.store.get(block=False, raw=True)
        self.store.ack(id=item["pqid"])

    def close(self) -> None:
        """Release the file."""
        self.store.close()
