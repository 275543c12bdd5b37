"""Durable books: what a model knows of a bus with a journal, through all its processes.

They are written by what can be seen from outside: an operation is committed or refused, a handler
begins and ends, a letter is buried, a receipt is awaited, a process ends. What contradicts the
contract is a `Flaw`, with the number of the invariant in the reliability study.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec.json import decode

from actorbus.dead_letter import DeadLetter
from actorbus.event import Event
from actorbus.journal.base import (
    Append,
    Attempt,
    Bury,
    Entry,
    Exhume,
    Join,
    Opening,
    Operation,
    Result,
    Settle,
    Status,
)
from actorbus.receipt import Receipt
from actorbus.testing.arrivals import Flaw
from actorbus.testing.course import Course
from actorbus.testing.known import Known
from actorbus.topic import Pattern
from actorbus.words import DeadReason


@dataclass(eq=False)
class Publication:
    """One publish in this process.

    Attributes:
        receipt: What it has returned.
        plain: Who was subscribed and matched, of those that are not durable.
        durable: Which durable subscriptions there were; of a new one, from now on.
        seq: The number of its event, once that is committed; 0 if it was published before.
    """

    receipt: Receipt
    plain: tuple[str, ...]
    durable: tuple[str, ...]
    seq: int | None = None


@dataclass(eq=False)
class Plain:
    """A subscription that is not durable: of one process.

    Attributes:
        patterns: What it listens to.
        handled: The numbers it has been given, in order.
        live: Whether it is subscribed.
    """

    patterns: list[Pattern]
    handled: list[int]
    live: bool = True


def number_of(data: Any) -> int:
    """Return the number that a payload of the model has, unlike any other's."""
    return int(data["n"])


class DurableBooks:
    """The books.

    Args:
        loses: Whether a power cut may take the newest commits.

    Attributes:
        known: What has been committed.
        courses: The durable subscriptions, by name.
        plain: The others, of this process.
        publications: Of this process, by the number in the payload.
        flaws: What contradicts the contract.
        damaged: Numbers of the events whose rows are damaged.
        failures: Calls of the journal that have failed in this process.
        leaving: Dead letters that may leave the journal: discarded, or replayed and settled.
        replays: Dead letters that are handled once more, by subscription and id of the event.
    """

    def __init__(self, *, loses: bool = False) -> None:
        self._loses = loses
        self._images: list[Known] = []  # what had been committed after each commit
        self._possible: list[Known] = []  # one of these is what a power cut has left
        self.known = Known()
        self.courses: dict[str, Course] = {}
        self.flaws: list[Flaw] = []
        self.damaged: set[int] = set()
        self.leaving: set[str] = set()
        self._begin_anew()

    def _begin_anew(self) -> None:
        self.plain: dict[str, Plain] = {}
        self.publications: dict[int, Publication] = {}
        self.replays: dict[tuple[str, str], str] = {}
        self.failures = 0
        self._unburied: set[tuple[str, int]] = set()  # for whose letters there was no room
        for course in self.courses.values():
            course.begin_anew()

    def _keep_image(self) -> None:
        if self._loses:
            self._images.append(self.known.image())

    def flaw(self, number: int, text: str) -> None:
        """Take note of a contradiction."""
        self.flaws.append(Flaw(number, text))

    def _note(self, flaws: Iterable[tuple[int, str]]) -> None:
        self.flaws += [Flaw(*each) for each in flaws]

    def course(self, name: str, patterns: tuple[str, ...]) -> Course:
        """Return the course of a durable subscription."""
        made = self.courses.get(name)
        if made is None:
            made = self.courses[name] = Course(name, patterns, self.known)
        return made

    # -- the journal ------------------------------------------------------------------------------

    def opened(self, opening: Opening, status: Status) -> None:
        """Take note that the journal is open: it holds all that was committed, and no more."""
        possible, self._possible = self._possible or [self.known], []
        alike = [image for image in possible if not image.differs(status)]
        found = alike[-1] if alike else None
        self.known.maybe = [image.attempts() for image in alike[:-1]]
        if found is None or opening.last != status.last:
            self.flaw(10, f"{self.known.differs(status)}; the opening tells of {opening.last}")
        elif found is not self.known:
            self._go_back_to(found.image())
        self._images.clear()
        self._keep_image()

    def _go_back_to(self, image: Known) -> None:
        self.known.log[:] = image.log
        self.known.places, self.known.graves = image.places, image.graves
        self.known.buried = image.buried
        for course in self.courses.values():
            course.forget_behind(len(image.log))

    def asked(self, operations: Sequence[Operation]) -> None:
        """Look at what is to be committed."""
        buried = {(o.grave.subscription, o.grave.seq) for o in operations if isinstance(o, Bury)}
        for operation in operations:
            if isinstance(operation, Settle):
                self._note(self._too_soon(operation, buried))
            elif lost := _leaving(operation) - self.leaving:
                self.flaw(10, f"dead letters leave the journal that nobody has let go: {lost}")

    def _too_soon(self, settle: Settle, buried: set[tuple[str, int]]) -> Iterator[tuple[int, str]]:
        name, known = settle.durable, self.known
        course, place = self.courses[name], known.places.get(settle.durable)
        if place is None or not place.cursor <= settle.cursor <= len(known.log):
            yield 10, f"the cursor of {name!r} goes from {place} to {settle.cursor}"
            return
        graves = known.buried | buried | self._unburied
        told = [*course.wanted(place.cursor + 1, settle.cursor), *settle.ahead]
        for seq in told:
            if not course.is_settled(seq):
                yield 10, f"event {seq} of {name!r} is told to be settled, and is open"
            elif course.done.get(seq, "handled") != "handled" and (name, seq) not in graves:
                yield 10, f"event {seq} of {name!r} is told to be settled before its burial"

    def refused(self, operations: Sequence[Operation]) -> None:
        """Take note of a commit that has failed."""
        self.failures += 1
        for operation in operations:
            if isinstance(operation, (Settle, Join)):
                self.courses[operation.durable].exact = False
            elif isinstance(operation, Bury):
                self._unburied.add((operation.grave.subscription, operation.grave.seq))

    def committed(self, operations: Sequence[Operation], results: Sequence[Result]) -> None:
        """Take note of a commit."""
        for operation, result in zip(operations, results, strict=True):
            wrong = self.known.add(operation, result)
            if wrong is not None:
                self.flaw(10, wrong)
            if isinstance(operation, Join):
                self.courses[operation.durable].joined = True
            elif isinstance(operation, Append):
                self._appended(operation.entry, getattr(result, "duplicate", False))
            elif isinstance(operation, Attempt) and result:
                self.courses[operation.durable].noted.add(operation.seq)
        self._keep_image()

    def _appended(self, entry: Entry, duplicate: bool) -> None:
        publication = self.publications.get(number_of(decode(entry.body)))
        if publication is None or publication.seq is not None:
            self.flaw(2, f"{entry.id} was committed, and nobody has published it, or not twice")
            return
        publication.seq = 0 if duplicate else len(self.known.log)
        for name in publication.durable:
            if not duplicate and self.courses[name].exact and name not in self.known.places:
                self.flaw(9, f"event {publication.seq} came before {name!r}, subscribed before it")

    def pruned(self, status: Status) -> None:
        """Take note of what a journal keeps."""
        last = status.last
        first = status.first or last + 1
        for name, place in self.known.places.items():
            if place.cursor + 1 < first:
                self.flaw(10, f"event {place.cursor + 1} is pruned, and {name!r} may need it")

    def closed(self, *, clean: bool) -> None:
        """Take note that the bus has come to rest."""
        for name, course in self.courses.items():
            unknown = [seq for seq in course.done if not self.known.settled(name, seq)]
            if course.exact and unknown:
                self.flaw(10, f"{name!r} has settled {unknown}, and the journal knows nothing")
            if clean:
                course.end()
            else:
                course.crash()
        self._begin_anew()

    def crash(self) -> None:
        """Take note that the process has ended badly."""
        for course in self.courses.values():
            course.crash()
        self._begin_anew()

    def cut_power(self) -> None:
        """Take note that the newest commits may be gone, if that may be: all they have told."""
        self._possible = [*self._images]
        for course in self.courses.values():
            course.exact = course.exact and not self._loses
        self.crash()

    # -- publishing -------------------------------------------------------------------------------

    def published(self, receipt: Receipt) -> Publication:
        """Take note of a publish."""
        topic = receipt.event.topic
        plain = [
            name for name, each in self.plain.items()
            if each.live and any(pattern.matches(topic) for pattern in each.patterns)
        ]  # fmt: skip
        durable = [name for name, each in self.courses.items() if each.live]
        made = Publication(receipt, tuple(plain), tuple(durable))
        self.publications[number_of(receipt.event.data)] = made
        return made

    # -- handling ---------------------------------------------------------------------------------

    def begin(self, name: str, seq: int, event: Event) -> None:
        """Take note that a handler begins."""
        if self._replayed(name, seq, event):
            return
        if name in self.courses:
            self._note(self.courses[name].begin(seq, event))
        else:
            self._begin_plain(name, event)

    def _begin_plain(self, name: str, event: Event) -> None:
        handled = self.plain[name].handled
        publication = self.publications.get(number_of(event.data))
        seq = publication.seq if publication is not None else None
        if publication is None or name not in publication.plain:
            self.flaw(9, f"{name!r} was given {event.id}, which is not for it")
        elif not seq:
            self.flaw(7, f"{name!r} was given {event.id}, which is not committed")
        elif handled and seq <= handled[-1]:
            self.flaw(4, f"{name!r} was given event {seq} after {handled[-1]}")
        handled.append(seq or 0)

    def end(self, name: str, seq: int, event: Event, *, ok: bool) -> None:
        """Take note that a handler has ended."""
        letter = self._replayed(name, seq, event)
        if letter is not None:
            if ok:
                self.leaving.add(letter)
        elif name in self.courses:
            self.courses[name].end_attempt(seq, ok=ok)

    def _replayed(self, name: str, seq: int, event: Event) -> str | None:
        """Return the dead letter whose delivery it is: only that has no number."""
        return None if seq else self.replays.get((name, event.id))

    def bury(self, letter: DeadLetter, seq: int) -> None:
        """Take note of a dead letter."""
        name, ident = letter.subscription, letter.event.id
        if letter.reason is DeadReason.COMMIT_FAILED:
            if not self.failures:
                self.flaw(7, f"{ident} could not be committed, and no commit has failed")
            return
        replayed = self._replayed(name, seq, letter.event)
        if replayed is not None:
            self.leaving.add(replayed)
        elif name in self.courses:
            damaged = seq in self.damaged
            self._note(self.courses[name].bury(seq, letter.reason, damaged=damaged))
        elif letter.reason is not DeadReason.DRAIN_TIMEOUT:
            self.flaw(1, f"{name!r} gave up {ident}: {letter.reason}")

    # -- the end ----------------------------------------------------------------------------------

    def unfinished(self) -> Iterator[str]:
        """Yield what is open though everything has settled."""
        for name, course in self.courses.items():
            if left := course.unsettled():
                yield f"{name!r} has not settled {left}"
        for each in self.publications.values():
            for name in each.plain:
                if each.seq and each.seq not in self.plain[name].handled:
                    yield f"{name!r} was never given event {each.seq}"


def _leaving(operation: Operation) -> set[str]:
    """Return the dead letters that leave a journal with an operation."""
    if isinstance(operation, Exhume):
        return {*operation.ids}
    return {operation.instead} - {""} if isinstance(operation, Bury) else set()
