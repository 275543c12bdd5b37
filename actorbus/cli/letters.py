"""`actorbus dead-letters`: the deliveries given up that a journal at rest keeps."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

from actorbus.archive import Filter, graves, letter_of, why_not
from actorbus.cli.errors import CommandError
from actorbus.cli.output import moment, plain, show_columns, show_json
from actorbus.cli.rest import at_rest
from actorbus.dead_letter import DeadLetter
from actorbus.journal.base import Exhume, Journal, Replay
from actorbus.survey import fields_of


def show_all(url: str, which: Filter, limit: int | None, *, as_json: bool) -> int:
    """Print dead letters, a line each, oldest first.

    Args:
        url: Of the journal.
        which: Those that fit it.
        limit: The last ones at most; None for all.
        as_json: Whether to print JSON rather than text.

    Returns:
        0.

    Raises:
        CommandError, ConfigurationError, JournalError: As for `at_rest`.
        InvalidPatternError: The filter's topic is no pattern.
    """
    with at_rest(url) as (journal, _):
        letters = deque(which.of(_letters(journal)), limit)
    if as_json:
        show_json([_summary(letter) for letter in letters])
        return 0
    rows = [
        (
            each.id, moment(each.died_at), each.reason, each.subscription, each.event.topic,
            _error(each),
        )
        for each in letters
    ]  # fmt: skip
    show_columns([("id", "died at", "reason", "subscription", "topic", "error"), *rows])
    return 0


def show_one(url: str, ident: str, *, as_json: bool) -> int:
    """Print all there is to know of a dead letter.

    Returns:
        0.

    Raises:
        CommandError: There is none of that id; and as for `at_rest`.
        ConfigurationError, JournalError: As for `at_rest`.
    """
    letter = _find(url, ident)
    if as_json:
        more = {"event": fields_of(letter.event), "traceback": letter.traceback}
        show_json(_summary(letter) | more)
        return 0
    event, rest = letter.event, ("key", "headers", "correlation_id", "causation_id", "data")
    show_columns([
        ("dead letter", letter.id),
        ("subscription", letter.subscription),
        ("reason", letter.reason),
        ("attempts", str(letter.attempts)),
        ("first failed", moment(letter.first_failed_at)),
        ("died", moment(letter.died_at)),
        ("event", event.id),
        ("topic", event.topic),
        ("published", moment(event.time)),
        *((name, repr(getattr(event, name))) for name in rest),
    ])  # fmt: skip
    if letter.traceback:
        print(f"\n{plain(letter.traceback).rstrip()}")
    return 0


def show_test(url: str, ident: str) -> int:
    """Print a test that gives the event to the handler again; see `DeadLetter.as_pytest`.

    Returns:
        0.

    Raises:
        CommandError: There is none of that id; and as for `at_rest`.
        ConfigurationError, JournalError: As for `at_rest`.
    """
    print(_find(url, ident).as_pytest(), end="")
    return 0


def discard(url: str, ids: list[str], which: Filter, *, yes: bool, as_json: bool) -> int:
    """Forget dead letters, and print how many.

    Args:
        url: Of the journal.
        ids: Of the letters; none means all that fit the filter.
        which: Those that fit it.
        yes: Whether to do so without ids.
        as_json: Whether to print JSON rather than text.

    Returns:
        0.

    Raises:
        CommandError: There is none of an id, or neither ids nor a yes; and as for `at_rest`.
        InvalidPatternError: The filter's topic is no pattern.
        ConfigurationError, JournalError: As for `at_rest`.
    """
    with at_rest(url) as (journal, _):
        chosen = _chosen(journal, ids, which)
        if not (ids or yes):
            raise CommandError(f"{len(chosen)} dead letters would be lost: say so with --yes")
        (count,) = journal.commit([Exhume(tuple(chosen))])
    if as_json:
        show_json({"discarded": count})
    else:
        print(f"discarded {count} dead letters")
    return 0


def replay(url: str, ids: list[str], which: Filter, *, every: bool, as_json: bool) -> int:
    """Mark dead letters for the next bus that starts on the journal, and print how many.

    Those that nobody can be given are left out: of no subscription, or damaged.

    Args:
        url: Of the journal.
        ids: Of the letters; none means all that fit the filter.
        which: Those that fit it.
        every: Whether to do so without ids and filter.
        as_json: Whether to print JSON rather than text.

    Returns:
        0.

    Raises:
        CommandError: There is none of an id, or nobody can be given it, or nothing says which; and
            as for `at_rest`.
        InvalidPatternError: The filter's topic is no pattern.
        ConfigurationError, JournalError: As for `at_rest`.
    """
    with at_rest(url) as (journal, _):
        chosen = _chosen(journal, ids, which)
        if not (ids or every or any(which)):
            raise CommandError(f"{len(chosen)} dead letters would be replayed: say so with --all")
        wanted = [ident for ident, reason in chosen.items() if reason is None]
        for ident in ids:
            if chosen[ident] is not None:
                raise CommandError(f"dead letter {ident!r} cannot be replayed: {chosen[ident]}")
        (count,) = journal.commit([Replay(tuple(wanted))])
    left_out = len(chosen) - len(wanted)
    if as_json:
        show_json({"marked": count, "left_out": left_out})
        return 0
    print(f"marked {count} dead letters: the next bus on this journal replays them")
    if left_out:
        print(f"left out {left_out} that were of no subscription, or are damaged")
    return 0


def _chosen(journal: Journal, ids: list[str], which: Filter) -> dict[str, str | None]:
    """Return the given ids, or those of all that fit, and why one cannot be replayed.

    Raises:
        CommandError: One of the ids is of none that fits.
    """
    fitting = {letter.id: why_not(letter) for letter in which.of(_letters(journal))}
    missing = [ident for ident in ids if ident not in fitting]
    if missing:
        raise CommandError(f"there is no such dead letter {missing[0]!r}")
    return {ident: fitting[ident] for ident in ids or fitting}


def _letters(journal: Journal) -> Iterator[DeadLetter]:
    return map(letter_of, graves(journal))


def _find(url: str, ident: str) -> DeadLetter:
    with at_rest(url) as (journal, _):
        for letter in _letters(journal):
            if letter.id == ident:
                return letter
    raise CommandError(f"there is no dead letter {ident!r}")


def _summary(letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": letter.id,
        "subscription": letter.subscription,
        "reason": letter.reason,
        "topic": letter.event.topic,
        "event_id": letter.event.id,
        "attempts": letter.attempts,
        "first_failed_at": letter.first_failed_at,
        "died_at": letter.died_at,
        "error": _error(letter),
    }


def _error(letter: DeadLetter) -> str:
    """Return the last line of the traceback: what was raised."""
    return (letter.traceback.rstrip().splitlines() or [""])[-1].strip()
