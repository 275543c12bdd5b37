"""`actorbus dead-letters`: the deliveries given up that a journal at rest keeps."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from actorbus.archive import graves, letter_of
from actorbus.cli.errors import CommandError
from actorbus.cli.output import fields_of, moment, plain, show_columns, show_json
from actorbus.cli.rest import at_rest
from actorbus.dead_letter import DeadLetter
from actorbus.journal.base import Exhume, Journal
from actorbus.topic import Pattern
from actorbus.words import DeadReason


class Filter(NamedTuple):
    """Which dead letters; what is None fits all.

    Attributes:
        topic: A pattern for the event's topic.
        subscription: The exact name of a subscription.
        reason: Why they were given up.
    """

    topic: str | None = None
    subscription: str | None = None
    reason: DeadReason | None = None

    def of(self, letters: Iterable[DeadLetter]) -> Iterator[DeadLetter]:
        """Yield the letters that fit.

        Raises:
            InvalidPatternError: `topic` is no pattern.
        """
        pattern = Pattern(self.topic or "**")
        for letter in letters:
            if (
                (self.topic is None or pattern.matches(letter.event.topic))
                and self.subscription in (None, letter.subscription)
                and self.reason in (None, letter.reason)
            ):
                yield letter


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
        fitting = [letter.id for letter in which.of(_letters(journal))]
        missing = [ident for ident in ids if ident not in fitting]
        if missing:
            raise CommandError(f"there is no such dead letter {missing[0]!r}")
        if not (ids or yes):
            raise CommandError(f"{len(fitting)} dead letters would be lost: say so with --yes")
        (count,) = journal.commit([Exhume(tuple(ids or fitting))])
    if as_json:
        show_json({"discarded": count})
    else:
        print(f"discarded {count} dead letters")
    return 0


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
