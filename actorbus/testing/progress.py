"""A bar that says how far a sweep has come, rewritten in place on a terminal."""

from __future__ import annotations

import sys
from time import perf_counter
from typing import TextIO

WIDTH = 24  # characters
EVERY = 0.1  # seconds between two drawings


class Progress:
    """The bar.

    Args:
        total: Runs to come, or None where that is not known.
        shown: Whether to draw it; None draws it on a terminal.
        stream: Where.
    """

    def __init__(
        self, total: int | None, shown: bool | None = None, stream: TextIO | None = None
    ) -> None:
        self._stream = stream or sys.stderr
        self._shown = self._stream.isatty() if shown is None else shown
        self._total = total
        self._done = 0
        self._began = self._drawn = perf_counter()

    def step(self) -> None:
        """Take note of one more run."""
        self._done += 1
        if self._shown and (now := perf_counter()) - self._drawn >= EVERY:
            self._drawn = now
            self._draw("")

    def end(self) -> None:
        """Draw it a last time, and end the line."""
        if self._shown:
            self._draw("\n")

    def _draw(self, end: str) -> None:
        rate = self._done / max(1e-9, perf_counter() - self._began)
        of = bar = ""
        if self._total is not None:
            full = WIDTH * self._done // max(1, self._total)
            bar = f"[{'#' * full}{'.' * (WIDTH - full)}] "
            of = f"/{self._total:,}"
        line = f"\r\x1b[K{bar}{self._done:,}{of} runs, {rate:,.0f} a second{end}"
        self._stream.write(line)
        self._stream.flush()
