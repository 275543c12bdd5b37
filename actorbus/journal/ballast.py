"""Ballast: room kept aside, to be given up when the disk is full.

On a full disk SQLite can neither delete nor checkpoint, so nothing would help, not even pruning.
A file that is not needed for anything is removed then: its room goes to settling, burying and
pruning, never to new events, so it is enough until there is space again. It has to hold more than
two write-ahead files; 1 MiB was too little, 10 MiB suffices for one of 4 MiB.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from actorbus.journal.place import open_private

_BLOCK = bytes(1 << 16)


class Ballast:
    """A file of a given size, or the lack of it.

    Args:
        path: Of the file.
        size: Bytes of it.

    Attributes:
        given_up: Whether it was there and is not any more: what room there is is not for events.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.size = size
        self.given_up = False

    def release(self) -> None:
        """Give the room up, if there is any."""
        with suppress(FileNotFoundError):
            self.path.unlink()
            self.given_up = True

    def restore(self) -> bool:
        """Take the room again, if there is enough; return whether it is taken."""
        if not self.path.exists() or self.path.stat().st_size != self.size:
            try:
                self._fill()
            except OSError:
                self.path.unlink(missing_ok=True)
                return False
        self.given_up = False
        return True

    def _fill(self) -> None:
        handle = open_private(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(handle, 0, self.size)
                return
            for _ in range(0, self.size, len(_BLOCK)):
                os.write(handle, _BLOCK)
            os.fsync(handle)
        finally:
            os.close(handle)
