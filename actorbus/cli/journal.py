"""`actorbus journal`: look at a journal at rest, check it, prune it, take it elsewhere."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, BinaryIO

import msgspec

from actorbus import world
from actorbus.cli.errors import CommandError
from actorbus.cli.output import Tell, moment, plain, progress, show_columns, show_json
from actorbus.cli.rest import at_rest
from actorbus.errors import JournalCorruptError
from actorbus.journal.base import Journal, Leave, Record, Status, Wants
from actorbus.survey import PAGE, Lags, line_of
from actorbus.topic import Pattern


def info(url: str, *, as_json: bool) -> int:
    """Print a journal's figures, and how far each durable subscription has come.

    Returns:
        0.

    Raises:
        CommandError, ConfigurationError, JournalError: As for `at_rest`.
    """
    with at_rest(url) as (journal, opening), progress("reading what is behind") as tell:
        lags = Lags(journal.status())
        start = lags.upto
        while lags.upto < lags.last:
            lags.count(journal.read(lags.upto, PAGE, lags.wants))
            tell(lags.upto - start, lags.last - start)
    facts = msgspec.to_builtins(lags.info(journal.url, clean=opening.clean))
    (show_json if as_json else _show_facts)(facts)
    return 0


def _show_facts(facts: dict[str, Any]) -> None:
    show_columns([
        ("journal", facts["url"]),
        ("events", "{events:,}, from {first:,} to {last:,}".format_map(facts)),
        ("oldest", moment(facts["oldest"])),
        ("bytes", "{bytes:,} of {limit:,}".format_map(facts)),
        ("dead letters", f"{facts['dead_letters']:,}"),
        ("to be replayed", f"{sum(facts['marked_for_replay'].values()):,}"),
        ("last stop", "clean" if facts["clean"] else "unclean: the next owner takes care"),
    ])  # fmt: skip
    if facts["durables"]:
        print()
        rows = [(d["name"], f"{d['cursor']:,}", f"{d['lag']:,}") for d in facts["durables"]]
        show_columns([("durable", "cursor", "lag"), *rows])


def verify(url: str, *, as_json: bool) -> int:
    """Look at everything in a journal, and print what is wrong, a line each.

    Returns:
        0 if nothing is wrong, else 1.

    Raises:
        CommandError, ConfigurationError, JournalError: As for `at_rest`, but damage.
    """
    problems: list[str] = []
    looked = 0
    try:
        with at_rest(url) as (journal, _), progress("looking at everything") as tell:
            for looked, total, problem in journal.verify():
                tell(looked, total)
                if problem is not None:
                    problems.append(problem)
    except JournalCorruptError as error:
        problems.append(str(error))
    if as_json:
        show_json({"looked_at": looked, "problems": problems})
    for problem in () if as_json else problems:
        print(plain(problem))
    if not problems and not as_json:
        print(f"nothing is wrong: looked at {looked:,} events, dead letters and notes")
    return 1 if problems else 0


def prune(url: str, *, as_json: bool) -> int:
    """Remove what is past retention and needed by nobody; print how much that was.

    Returns:
        0.

    Raises:
        CommandError, ConfigurationError, JournalError: As for `at_rest`.
    """
    with at_rest(url) as (journal, _):
        before = journal.status()
        while journal.prune(world.wall()):
            pass
        after = journal.status()
    events = before.events - after.events
    if as_json:
        show_json({"removed": events, "events": after.events, "bytes": after.bytes})
    else:
        print(f"removed {events:,} events; {after.events:,} are left, {after.bytes:,} bytes")
    return 0


def export(url: str, pattern: str, since: str | None, output: str | None) -> int:
    """Write events as JSON lines, oldest first; a damaged one says so in its line.

    Args:
        url: Of the journal.
        pattern: Which topics.
        since: From which time on, as ISO 8601 (UTC unless it says otherwise) or Unix seconds.
        output: A file to make; standard output if there is none.

    Returns:
        0, or 1 if an event is damaged.

    Raises:
        CommandError: `since` is no time, or `output` cannot be made; and as for `at_rest`.
        InvalidPatternError: `pattern` is none.
        ConfigurationError, JournalError: As for `at_rest`.
    """
    wants, start, damaged = Pattern(pattern).matches, _time(since), 0
    visible = output is not None or not sys.stdout.isatty()
    with (
        at_rest(url) as (journal, _),
        _sink(output) as file,
        progress("exporting", show_at_all=visible) as tell,
    ):
        status = journal.status()
        for record in _records(journal, status, status.first - 1, wants, tell):
            if record.entry.time >= start or not record.sound:
                line = line_of(record)
                damaged += "damaged" in line
                file.write(json.dumps(line).encode() + b"\n")
    if damaged:
        sys.stderr.write(f"actorbus: {damaged} of the events are damaged\n")
    return 1 if damaged else 0


def forget(url: str, durable: str, *, yes: bool) -> int:
    """Remove a durable subscription from a journal, so that it holds nothing back.

    Returns:
        0.

    Raises:
        CommandError: There is none of that name, or nobody has said yes; and as for `at_rest`.
        ConfigurationError, JournalError: As for `at_rest`.
    """
    with at_rest(url) as (journal, _):
        cursors = journal.status().cursors
        if durable not in cursors:
            known = ", ".join(cursors) or "none"
            raise CommandError(f"there is no durable subscription {durable!r}; there are: {known}")
        if not yes:
            raise CommandError(
                f"what {durable!r} has not settled would never reach it: say so with --yes"
            )
        journal.commit([Leave(durable)])
    print(f"forgot {plain(durable)}")
    return 0


def _records(
    journal: Journal, status: Status, after: int, wants: Wants, tell: Tell
) -> Iterator[Record]:
    """Yield every wanted record behind a number."""
    done, end = after, after >= status.last
    while not end:
        page = journal.read(done, PAGE, wants)
        yield from page.records
        done, end = page.upto, page.end
        tell(done - after, status.last - after)


@contextmanager
def _sink(path: str | None) -> Iterator[BinaryIO]:
    """Give what to write to: standard output, or a new file that is as private as the journal."""
    if path is None:
        yield sys.stdout.buffer
        return
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise CommandError(f"cannot make {path!r}: {error.strerror}") from error
    with open(handle, "wb") as file:  # noqa: PTH123 - a descriptor
        yield file


def _time(text: str | None) -> float:
    if text is None:
        return float("-inf")
    for read in _READERS:
        try:
            return read(text)
        except ValueError:
            continue
    raise CommandError(f"{text!r} is no time: write 2026-01-31, 2026-01-31T12:00 or Unix seconds")


def _iso(text: str) -> float:
    time = datetime.fromisoformat(text)
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


_READERS: tuple[Callable[[str], float], ...] = (float, _iso)
