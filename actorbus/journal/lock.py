"""The lock beside a journal file: one owner, in this process or another.

SQLite's own lock is not enough: POSIX drops it as soon as anything in the process closes any
descriptor of the file (a backup, a hash, a viewer), and then a second process may write. So the
owner holds an ``flock`` on a file beside the journal, which goes with the process however it ends.
The file stays where it is: removing it would let two openers lock two files of one name.

The file tells who owns it, and how durable what it wrote last is meant to be.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import msgspec

from actorbus.errors import JournalLockedError
from actorbus.journal.place import open_private

if sys.platform == "win32":
    import msvcrt

    def _seize(handle: int) -> None:
        os.lseek(handle, 1 << 30, os.SEEK_SET)  # far behind the text, which others may read
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _seize(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


class _Kept(msgspec.Struct, gc=False):
    """Keeps an object for ever: a cycle that no collector sees."""

    what: object


class Ownership:
    """The lock of one journal file, held from its making to `release`.

    Args:
        journal: The file it is for.

    Attributes:
        before: What the last owner promised; empty if there was none.

    Raises:
        JournalLockedError: Somebody else has it.
        OSError: The lock's file cannot be opened.
    """

    def __init__(self, journal: Path) -> None:
        self.path = lock_path(journal)
        if self.path in _INHERITED:
            raise JournalLockedError(
                "this process was forked from one that had it open: use it in a process of its own"
            )
        self._pid = os.getpid()
        self._dangers: list[object] = []
        self._handle = open_private(self.path, os.O_RDWR | os.O_CREAT)
        try:
            self._seize()
            self.before = (self._read()[1:] or [""])[0]
            self._write(self.before)
        except BaseException:
            os.close(self._handle)
            raise
        _HELD.add(self)

    def _seize(self) -> None:
        try:
            _seize(self._handle)
        except OSError as error:
            if error.errno not in _TAKEN:
                raise  # the file system knows no locks
            raise JournalLockedError(_taken(self._read())) from error

    @property
    def is_ours(self) -> bool:
        """Whether this process is the one that took it; a forked child is not."""
        return self._pid == os.getpid()

    def declare(self, durability: str) -> None:
        """Note what the owner promises from now on, so that it is known after a power loss."""
        self._write(durability)
        if durability != self.before:
            os.fsync(self._handle)

    def guard(self, danger: object) -> None:
        """Let a forked child never release an object: closing would write where the owner does."""
        self._dangers.append(danger)

    def release(self) -> None:
        """Give it up."""
        _HELD.discard(self)
        if self.is_ours:
            os.close(self._handle)

    def _read(self) -> list[str]:
        os.lseek(self._handle, 0, os.SEEK_SET)
        return os.read(self._handle, _LENGTH).decode("ascii", "replace").split()

    def _write(self, durability: str) -> None:
        """Write in place: on a full disk there is no room for more."""
        os.lseek(self._handle, 0, os.SEEK_SET)
        os.write(self._handle, f"{self._pid} {durability}\n".rjust(_LENGTH).encode())

    def disown(self) -> None:
        """Leave it to the parent: without this, its lock would last as long as the child.

        The child can never open that file: SQLite in it believes that it has it open.
        """
        _INHERITED.add(self.path)
        os.close(self._handle)
        if self._dangers:
            kept = _Kept(None)
            kept.what = [kept, self._dangers]


_LENGTH = 32
"""Bytes of a lock's text."""
_TAKEN = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES)
_HELD: set[Ownership] = set()
_INHERITED: set[Path] = set()


def _disown_all() -> None:
    for ownership in tuple(_HELD):
        ownership.disown()
    _HELD.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_disown_all)


def lock_path(journal: Path) -> Path:
    """Return where the lock of a journal file is."""
    return journal.with_name(f"{journal.name}.lock")


def _taken(owner: list[str]) -> str:
    who = f"process {owner[0]}" if owner else "another process"
    if owner[:1] == [str(os.getpid())]:
        who = f"this process ({owner[0]})"
    return f"it is open in {who}: close it there first, or name another file"
