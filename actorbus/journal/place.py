"""Where a journal file may be, and how its files are opened: for the owner alone.

What is in a journal is as private as the events. Its files are made with mode 0600 whatever the
umask, a link in place of one is refused, and so is a file that somebody else owns or may write. In
a directory where everybody may write, only one with the sticky bit (like ``/tmp``) will do: in
another one everybody could put a file of theirs in place of ours.

A file that is removed while it is open takes what is written to it along, and nothing of that
fails. So the owner looks for it now and then.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from actorbus.errors import JournalError

LOOK = 1.0  # seconds from one look at whether a file is still there to the next

_POSIX = os.name == "posix"
_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def open_private(path: Path, flags: int) -> int:
    """Open a file of the journal, and check that it is ours alone.

    Args:
        path: Of the file.
        flags: As for `os.open`.

    Returns:
        A descriptor that children do not inherit.

    Raises:
        JournalError: It is a link, somebody else's, or open to others.
        OSError: It cannot be opened.
    """
    is_new = not path.exists()
    try:
        handle = os.open(path, flags | _FLAGS, 0o600)
    except OSError as error:
        if path.is_symlink():
            raise JournalError(f"{path.name!r} is a link: name the file itself") from error
        raise
    try:
        if is_new and _POSIX:
            os.fchmod(handle, 0o600)  # whatever the umask has taken away
        _check_file(path, os.fstat(handle))
    except BaseException:
        os.close(handle)
        raise
    return handle


class Whereabouts:
    """Whether the file that was opened is still the one of its name, and its log is there.

    Args:
        path: Of the file, which is open.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._log = path.with_name(f"{path.name}-wal")
        self._opened = path.stat()
        self._next = 0.0

    def look(self, now: float) -> None:
        """Look, unless it was there less than `LOOK` ago.

        Args:
            now: Seconds of a clock that does not go back.

        Raises:
            JournalError: It is gone; if it comes back, all is well again.
        """
        if now < self._next:
            return
        with suppress(FileNotFoundError):
            if os.path.samestat(self._path.stat(), self._opened) and self._log.exists():
                self._next = now + LOOK
                return
        raise JournalError(
            "it was removed or replaced while it was open, and what is written to it would be "
            "lost: put its files back, or close it and open it anew"
        )


def claim(path: Path) -> bool:
    """Make a journal file, or check the one there is.

    Returns:
        Whether it is new.

    Raises:
        JournalError: It cannot be used; the text says why and what to do.
        OSError: It cannot be opened or made.
    """
    is_new = not path.exists()
    os.close(open_private(path, os.O_RDWR | os.O_CREAT))
    if is_new:
        sync_directory(path.parent)
    beside = path.with_name(f"{path.name}-wal")
    if beside.exists() or beside.is_symlink():
        os.close(open_private(beside, os.O_RDWR))
    return is_new


def check_directory(directory: Path) -> None:
    """Check that there is a directory and that not everybody may replace its files.

    Raises:
        JournalError: There is none, or everybody may.
    """
    if not directory.is_dir():
        raise JournalError(f"there is no directory {str(directory)!r}: make it first")
    mode = directory.stat().st_mode
    if _POSIX and mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise JournalError(
            f"everybody may replace files in {str(directory)!r}: `chmod o-w` it, or name another"
        )


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable, where there is such a thing."""
    if _POSIX:
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _check_file(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise JournalError(f"{path.name!r} is not a file")
    if not _POSIX:
        return
    if found.st_uid != os.geteuid():
        raise JournalError(
            f"{path.name!r} belongs to another user (uid {found.st_uid}): run as that one, or name "
            "another file"
        )
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise JournalError(f"others may write {path.name!r}: `chmod 600` it")
