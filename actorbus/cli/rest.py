"""A journal at rest: found, opened, and left as it was.

Looking makes no journal and changes no other program's file, so what is no journal is refused
before it is opened. An unclean stop stays one: the journal is closed as it was found, and which
deliveries may have been running is noted until their durable subscription joins again.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from actorbus.cli.errors import CommandError
from actorbus.journal.base import Journal, Opening
from actorbus.journal.schema import APPLICATION
from actorbus.journal.sqlite import SqliteJournal

VARIABLE = "ACTORBUS_URL"
"""The environment variable that names a journal where no argument does."""
_MAGIC = b"SQLite format 3\0"
_APPLICATION_AT = 68
"""Where the application id stands in the header of an SQLite file; four bytes, big-endian."""


@contextmanager
def at_rest(url: str) -> Iterator[tuple[Journal, Opening]]:
    """Give a journal that nobody else has open.

    Args:
        url: Of the journal, such as ``sqlite:///events.db``; empty takes that of the environment.

    Yields:
        The journal, and what opening it has found.

    Raises:
        CommandError: There is no journal.
        ConfigurationError: `url` is no journal's.
        JournalError: It cannot be opened: a process owns it, or it is damaged.
    """
    url = url or os.environ.get(VARIABLE, "")
    if not url:
        raise CommandError(
            f"which journal? Name one, such as sqlite:///events.db, or set {VARIABLE}"
        )
    journal = SqliteJournal.from_url(url)
    _check_file(journal.path)
    opening = journal.open("power")
    try:
        for warning in opening.warnings:
            sys.stderr.write(f"actorbus: {warning}\n")
        yield journal, opening
    finally:
        journal.close(clean=opening.clean)


def split_url(arguments: list[str]) -> tuple[str, list[str]]:
    """Take the URL out of a command's arguments.

    Returns:
        The first that is a URL, or an empty text, and the rest.
    """
    url = next((each for each in arguments if "://" in each), "")
    return url, [each for each in arguments if each != url]


def _check_file(path: Path) -> None:
    """Check, by its first bytes, that a file is a journal.

    One that was never written back has its application id in the write-ahead file only.

    Raises:
        CommandError: There is none, or it is something else.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_APPLICATION_AT + 4)
    except OSError as error:
        raise CommandError(f"there is no journal {str(path)!r}: {error.strerror}") from error
    application = int.from_bytes(head[_APPLICATION_AT:], "big")
    log = path.with_name(f"{path.name}-wal")
    fresh = not application and log.exists() and APPLICATION.to_bytes(4, "big") in log.read_bytes()
    if not head.startswith(_MAGIC) or not (application == APPLICATION or fresh):
        raise CommandError(f"{str(path)!r} is no journal of actorbus")
