"""litequeue: a queue in an SQLite file, each call a transaction of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from litequeue import LiteQueue


class Peer:
    """A ``LiteQueue``, made to survive power loss: by itself it is ``synchronous=NORMAL``.

    Args:
        home: An empty folder.
    """

    publishes = "one put a commit; synchronous=FULL instead of its NORMAL, JSON by msgspec"

    def __init__(self, home: Path) -> None:
        self.store = LiteQueue(home / "queue.db")
        self.store.conn.execute("PRAGMA synchronous=FULL")

    def put(self, data: Any) -> None:
        """Keep an item."""
        self.store.put(msgspec.json.encode(data).decode())

    def through(self, data: Any) -> None:
        """Keep an item, take it and say that it is done."""
        self.put(data)
        item = self.store.pop()
        msgspec.json.decode(item.data)
        self.store.done(item.message_id)

    def close(self) -> None:
        """Release the file."""
        self.store.conn.close()
