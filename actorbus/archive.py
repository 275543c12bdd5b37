"""Archive: dead letters and history as a journal keeps them, and back.

A dead letter that is read back has the text of its traceback, but no error object and no handler.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar

import msgspec

from actorbus.dead_letter import DeadLetter
from actorbus.encoding import DamagedError, decoded, encoded, remains
from actorbus.errors import ActorBusError, JournalError, PayloadError
from actorbus.event import Event
from actorbus.journal.base import Bury, Exhume, Grave, Journal, Operation, Record
from actorbus.scribe import Scribe
from actorbus.topic import Pattern
from actorbus.words import DeadReason

T = TypeVar("T")

RECALLED = 10_000  # events of the journal that are in the history after a start, at most
PAGE = 1_000  # dead letters, or events, read at a time
PIECES = 1 + RECALLED // PAGE


class _Detail(msgspec.Struct, omit_defaults=True):
    """What a dead letter tells beside its event."""

    attempts: int = 0
    first_failed_at: float | None = None
    traceback: str = ""


_write = msgspec.json.Encoder().encode
_read = msgspec.json.Decoder(_Detail).decode


class Memories(msgspec.Struct):
    """Some of what a bus knows of its time before.

    Attributes:
        events: Events, oldest first.
        letters: Dead letters, oldest first.
        count: How many events have been recalled, these included.
        before: The number of the event before which there may be more; 0 if there is none.
    """

    events: list[Event] = []
    letters: list[DeadLetter] = []
    count: int = 0
    before: int = 0


def bury(
    scribe: Scribe,
    letter: DeadLetter,
    seq: int,
    instead: DeadLetter | None,
    stays: Callable[[ActorBusError], None],
) -> None:
    """Keep a dead letter in the journal.

    Args:
        scribe: The way into it.
        letter: The dead letter.
        seq: The number of its event in the journal; 0 if it has none.
        instead: The one whose place it takes, if any.
        stays: Told why it stays in memory only, if it must: its event cannot be written, as what an
            actor was told and no journal has seen, or there is no room.
    """
    try:
        _, entry = encoded(letter.event)
    except PayloadError as error:
        stays(error)
        return
    detail = _write(_Detail(letter.attempts, letter.first_failed_at, letter.traceback))
    reason = str(letter.reason)
    grave = Grave(letter.id, letter.subscription, reason, entry, letter.died_at, detail, seq)
    operation = Bury(grave, "" if instead is None else instead.id)
    scribe.put(operation, lambda _, error: None if error is None else stays(error))


def recall(journal: Journal, letters: int, so_far: Memories | None) -> Iterator[Memories]:
    """Yield what a bus should know when it starts, some at a time; each step blocks, not for long.

    The dead letters come first, and then the last events, those before them, and so on; `PIECES` in
    all, at most.

    Args:
        journal: An open one.
        letters: Dead letters at most, the last ones.
        so_far: What it knows already: to go on from there.
    """
    if so_far is None:
        buried = [letter_of(grave) for grave in deque(graves(journal), maxlen=letters)]
        so_far = Memories(letters=buried, before=journal.status().last + 1)
        yield so_far
    count, before = so_far.count, so_far.before
    while before and count < RECALLED:
        wanted = min(PAGE, RECALLED - count)
        records = journal.recent(wanted, lambda _: True, before=before)
        before = records[0].seq if len(records) == wanted else 0
        count += len(records)
        events = [_event(record, index - count) for index, record in enumerate(records)]
        yield Memories([each for each in events if each is not None], [], count, before)


def graves(journal: Journal) -> Iterator[Grave]:
    """Yield every dead letter of an open journal once, oldest first; none may leave meanwhile.

    Only a sound one says how far this has come: the journal would not know the id of another.
    """
    after, seen = "", set[str]()
    while page := [each for each in journal.dead(after, PAGE) if each.id not in seen]:
        yield from page
        seen = {each.id for each in page}
        after = next((each.id for each in reversed(page) if each.sound), after)


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


def why_not(letter: DeadLetter) -> str | None:
    """Return why nobody can be given a letter's event once more; None if somebody can."""
    if letter.reason is DeadReason.CHECKSUM:
        return "nothing is left of its event"
    if not letter.subscription:
        return f"it reached no subscription ({letter.reason}): publish its event again"
    return None


def _event(record: Record, number: int) -> Event | None:
    """Return an event that comes before all of this process, in order; None if it is damaged."""
    try:
        return msgspec.structs.replace(decoded(record), _number=number)
    except DamagedError:
        return None


def letter_of(grave: Grave) -> DeadLetter:
    """Return the dead letter that a journal kept; a damaged one died of its checksum."""
    record = Record(grave.seq, grave.entry, grave.sound)
    try:
        event, detail = decoded(record), _read(grave.detail or b"{}")
        reason = DeadReason(grave.reason)
    except (DamagedError, msgspec.DecodeError, ValueError):
        event, detail, reason = remains(record), _Detail(), DeadReason.CHECKSUM
    return DeadLetter(
        event, grave.subscription, reason, attempts=detail.attempts,
        first_failed_at=detail.first_failed_at, died_at=grave.died_at, id=grave.id,
        traceback=detail.traceback,
    )  # fmt: skip


class Redelivered(Protocol):
    """Whoever wants to know of the end of a new delivery."""

    def __call__(self, letter: DeadLetter, *, handled: bool) -> None:
        """Take note of it."""


class Redelivery(msgspec.Struct, eq=False):
    """Stands in the place of a watch on a dead letter's new delivery.

    The letter stays in the journal until that is settled: a crash before must not lose it. If it is
    given up once more, the new letter takes the place of this one.

    Attributes:
        letter: The letter.
        settled: Told of its end, and whether the event was handled.
        failed: As of a `Watch`.
    """

    asking: ClassVar = False
    pending: ClassVar = ()

    letter: DeadLetter
    settled: Redelivered
    failed: tuple[str, str, Any] | None = None

    def settle(self, _: object, __: object = None) -> None:
        """Pass on that the delivery is settled."""
        self.settled(self.letter, handled=self.failed is None)


def exhume(scribe: Scribe, letters: list[DeadLetter]) -> None:
    """Let dead letters go that were replayed or discarded."""
    if letters:
        scribe.put(Exhume(tuple(letter.id for letter in letters)))


async def asked(scribe: Scribe, function: Callable[[], T]) -> T:
    """Call the journal in its turn, and return the result.

    Raises:
        JournalError: It has none.
    """
    answer = asyncio.get_running_loop().create_future()
    scribe.call(function, partial(_tell, answer))
    result: T = await answer
    return result


async def committed(scribe: Scribe, operation: Operation) -> Any:
    """Put an operation down, and return its result when it is committed.

    Raises:
        JournalError: It was not.
    """
    answer = asyncio.get_running_loop().create_future()
    scribe.put(operation, partial(_tell, answer))
    return await answer


def _tell(answer: asyncio.Future[Any], result: Any, error: JournalError | None) -> None:
    if answer.done():  # nobody waits for it any more
        return
    if error is None:
        answer.set_result(result)
    else:
        answer.set_exception(error)
