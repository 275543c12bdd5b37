"""What commands print: JSON, columns, lines without surprises, and how far long work has come."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

Tell = Callable[[int, int], None]
"""Takes how much is done, and how much there is."""


def show_json(value: Any) -> None:
    """Print a value as JSON, for people too."""
    print(json.dumps(value, indent=2))


def show_columns(rows: Sequence[Sequence[str]]) -> None:
    """Print rows of text, each column as wide as its widest cell."""
    lines = [[plain(cell).replace("\n", "?") for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(map(str.ljust, line, widths)).rstrip())


def plain(text: str) -> str:
    """Return text that does nothing to a terminal but stand there; lines stay lines."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)


def moment(seconds: float | None) -> str:
    """Return a time as people read it, in UTC."""
    if not seconds:
        return "-"
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(" ", "seconds")
    except (ValueError, OverflowError, OSError):  # read from a damaged row
        return "?"


@contextmanager
def progress(what: str, *, show_at_all: bool = True) -> Iterator[Tell]:
    """Show how far something has come, on standard error if that is a terminal.

    Not where the result goes to a terminal at the same time: `show_at_all` says so.

    Args:
        what: What is done, for people.
        show_at_all: Whether to.

    Yields:
        What takes the progress; without a terminal or without rich it does nothing.
    """
    try:
        from rich.console import Console
        from rich.progress import Progress
    except ModuleNotFoundError:
        yield _nowhere
        return
    console = Console(stderr=True)
    if not (show_at_all and console.is_terminal):
        yield _nowhere
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(what)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _nowhere(_: int, __: int) -> None:
    """Tell nobody."""
