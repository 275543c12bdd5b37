"""Pruning: removing the oldest of what nobody needs, a little at a time.

A piece is small enough that a commit never waits for it longer than 20 ms: one DELETE of 250,000
rows took half a second and grew the write-ahead file to 65 MiB. Events go in the order of their
numbers only, so what is kept never has a gap.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing

from actorbus.journal.head import Head

ROWS = 500
"""Rows of one piece at most."""
BYTES = 1 << 17
"""Bytes of events after which a piece ends."""
_VACUUM = 64
"""Pages given back to the file system in one piece."""
_LOOSE = 1_024
"""Free pages a file keeps for what comes next: 4 MiB."""
_OLDEST = """
SELECT seq, time < ?, length(meta) + length(body) FROM event WHERE seq > ? AND seq <= ?
ORDER BY seq LIMIT ?"""
_NOTED = "SELECT number, time < ? AND last <= ? FROM effect ORDER BY number LIMIT ?"


def remove_events(connection: sqlite3.Connection, head: Head, until: float) -> bool:
    """Remove a piece of what nobody needs, inside a transaction.

    Args:
        connection: Inside a transaction.
        head: A copy that belongs to the transaction.
        until: Unix seconds; only events published before. Infinite: any.

    Returns:
        Whether anything was removed.
    """
    ask = connection.execute
    (needed,) = ask("SELECT ifnull(min(cursor), ?) FROM durable", (head.last,)).fetchone()
    gone, size = head.pruned, 0
    with closing(ask(_OLDEST, (until, head.pruned, needed, ROWS))) as rows:
        for seq, is_old, length in rows:
            if is_old:  # and so is what came before, whatever the clock showed then
                gone = seq
            size += length or 0
            if size > BYTES:
                break
    if gone == head.pruned:
        return False
    ask("DELETE FROM event WHERE seq <= ?", (gone,))
    head.pruned = gone
    head.write(ask)
    return True


def forget_effects(connection: sqlite3.Connection, head: Head, until: float) -> bool:
    """Remove a piece of what is noted of events that took effect and are gone themselves.

    Args:
        connection: Inside a transaction.
        head: A copy that belongs to the transaction.
        until: Unix seconds; only what was noted before. Infinite: any.

    Returns:
        Whether anything was removed.
    """
    ask, gone = connection.execute, 0
    with closing(ask(_NOTED, (until, head.pruned, ROWS))) as rows:
        for number, is_old in rows:
            gone = number if is_old else gone  # and so is what was noted before
    if gone:
        ask("DELETE FROM effect WHERE number <= ?", (gone,))
        head.write(ask)
    return gone > 0


def forget_ids(connection: sqlite3.Connection, head: Head, now: float) -> bool:
    """Remove a piece of what is remembered of ids for longer than the window.

    Args:
        connection: Inside a transaction.
        head: A copy that belongs to the transaction.
        now: Unix seconds.

    Returns:
        Whether there may be more.
    """
    until = head.clock.at(now) - head.clock.window
    before = connection.total_changes
    connection.execute(
        "DELETE FROM seen WHERE id IN (SELECT id FROM seen WHERE at <= ? LIMIT ?)", (until, ROWS)
    )
    return connection.total_changes - before == ROWS


def shrink(connection: sqlite3.Connection) -> bool:
    """Give some free pages back to the file system, if there are many; return whether it did.

    Through ``executescript``, which steps a statement to its end: ``execute`` frees one page only.
    """
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    if free < max(_LOOSE, pages // 4):
        return False
    connection.executescript(f"PRAGMA incremental_vacuum({_VACUUM})")
    return True
