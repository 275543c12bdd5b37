"""Room: what may still be written into a journal file when there is little left, and what not.

Events stop first, then dead letters; what settles goes on into a reserve of its own, since it makes
room. Where the disk itself is full, the ballast gives its room to what must go on.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

from actorbus.errors import JournalFullError
from actorbus.journal import pruning
from actorbus.journal.ballast import Ballast
from actorbus.journal.base import Result
from actorbus.journal.head import Head
from actorbus.journal.store import Action, Sizes, Store, T
from actorbus.journal.trouble import SuppressFull, is_full

EVER = float("inf")


class Room:
    """The room of one file.

    Args:
        path: Of the file.
        limit: Bytes it and what belongs to it may take.
        sizes: How they are shared out.
        ballast: Its ballast.
    """

    def __init__(self, path: Path, limit: int, sizes: Sizes, ballast: Ballast) -> None:
        self._path = path
        self._limit = limit
        self._sizes = sizes
        self._ballast = ballast

    def keep(self, store: Store, write: Action[list[Result]]) -> list[Result]:
        """Do what keeps events: not with the room of the ballast, nor beyond their own."""
        if not self._ballast.given_up or self._ballast.restore():
            with SuppressFull():
                return store.run(write)
        return self._squeeze(store, write)

    def bury(self, store: Store, write: Action[list[Result]]) -> list[Result]:
        """Do what keeps dead letters: at the limit in a room that is not needed for settling."""
        with SuppressFull():
            return store.run(write)
        try:
            return self._squeeze(store, write)
        except JournalFullError as full:
            try:
                with store.for_letters():
                    return store.run(write)
            except sqlite3.Error as error:
                if is_full(error) and self._free() >= self._sizes.ballast:
                    raise full from None
                raise

    def _squeeze(self, store: Store, write: Action[list[Result]]) -> list[Result]:
        """Write into what is free inside the file, and remove what nobody needs until it fits.

        Raises:
            JournalFullError: There is not enough of it.
        """

        def remove(connection: sqlite3.Connection, head: Head) -> bool:
            return make_room(connection, head, EVER)

        while True:
            with SuppressFull(), store.frozen():
                return store.run(write)
            if not self.with_ballast(lambda: self.beyond(store, remove)):
                raise JournalFullError(
                    f"it has no room: it may take {self._limit} bytes, its disk has {self._free()} "
                    "free, and all that is in it is needed by a durable subscription, is a dead "
                    "letter, or is in the program's tables: free its disk, raise max_bytes, "
                    "discard dead letters, or forget a durable that lags and never comes back"
                )

    def beyond(self, store: Store, action: Action[T]) -> T:
        """Do what makes room: at the limit of the file it may go a little beyond."""
        with SuppressFull():
            return store.run(action)
        with store.reserve():
            return store.run(action)

    def with_ballast(self, action: Callable[[], T]) -> T:
        """Do what must go on when the disk is full, if need be with the room of the ballast."""
        try:
            return action()
        except sqlite3.Error as error:
            if not is_full(error) or self._free() >= self._sizes.ballast:  # it is at its own limit
                raise
        self._ballast.release()
        return action()

    def _free(self) -> int:
        """Return how many bytes are free on the disk."""
        return shutil.disk_usage(self._path.parent).free


def make_room(connection: sqlite3.Connection, head: Head, until: float) -> bool:
    """Remove a piece of what is older than `until` and needed by nobody; return whether it did."""
    events = pruning.remove_events(connection, head, until)
    return pruning.forget_effects(connection, head, until) or events
