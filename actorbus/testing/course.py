"""Course: what a model knows of one durable subscription without asking the bus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from actorbus.encoding import decoded
from actorbus.event import Event
from actorbus.journal.base import Record
from actorbus.testing.known import Known
from actorbus.topic import Pattern
from actorbus.words import DeadReason

OWN_REASONS = {
    DeadReason.REJECTED, DeadReason.RETRIES_EXHAUSTED, DeadReason.POISON, DeadReason.CHECKSUM,
}  # fmt: skip
"""What a delivery of a durable subscription may die of; a stop only puts it off."""


class Course:
    """One durable subscription through all processes.

    Args:
        name: Of the subscription, and in the journal.
        patterns: What it listens to.
        known: What has been committed.

    Attributes:
        options: As it was subscribed last.
        live: Whether it is subscribed in this process.
        joined: Whether the journal has heard of it in this process.
        begun: Attempts of each event in this process.
        running: What is handled at this moment, with its key.
        done: What was settled in this process, and how.
        seen: Every event that was ever begun or given up.
        suspected: What was begun in a process that ended badly, and is not known to be settled.
        noted: Attempts committed in this process.
        fatal: How often an event was running when a process ended badly, since a good end.
        exact: Whether the journal has been told all that it should; a failed commit ends that.
    """

    def __init__(self, name: str, patterns: tuple[str, ...], known: Known) -> None:
        self.name = name
        self.patterns = [Pattern(text) for text in patterns]
        self.known = known
        self.options: dict[str, Any] = {}
        self.live = False
        self.seen: set[int] = set()
        self.suspected: set[int] = set()
        self.fatal: Counter[int] = Counter()
        self.begin_anew()

    def begin_anew(self) -> None:
        """Take note that a bus begins."""
        self.begun: Counter[int] = Counter()
        self.running: dict[int, Any] = {}
        self.done: dict[int, str] = {}
        self.noted: set[int] = set()
        self.exact, self.joined = True, False

    @property
    def most(self) -> int:
        """How many may be begun that the journal does not know to be settled."""
        return int(self.options["mailbox"]) + int(self.options["concurrency"])

    def wants(self, seq: int) -> bool:
        """Return whether an event is for it."""
        place = self.known.places.get(self.name)
        if place is None or not place.start < seq <= len(self.known.log):
            return False
        topic = self.known.log[seq - 1].topic
        return any(pattern.matches(topic) for pattern in self.patterns)

    def wanted(self, first: int, last: int) -> Iterator[int]:
        """Yield the numbers in a range that are for it."""
        return filter(self.wants, range(first, min(last, len(self.known.log)) + 1))

    def is_settled(self, seq: int) -> bool:
        """Return whether an event is settled, known to the journal or not yet."""
        return seq in self.done or self.known.settled(self.name, seq)

    def unsettled(self) -> list[int]:
        """Return what is for it and still open."""
        return [s for s in self.wanted(1, len(self.known.log)) if not self.is_settled(s)]

    # -- a process ends ---------------------------------------------------------------------------

    def crash(self) -> None:
        """Take note that the process has ended badly."""
        if self.exact:
            self.fatal.update([*self.running])
            self.suspected |= {*self.begun}
        self._go()

    def end(self) -> None:
        """Take note that the process has ended as it should."""
        self.suspected -= {*self.begun}
        for seq in self.begun:
            del self.fatal[seq]
        self._go()

    def _go(self) -> None:
        self.live = False
        self.suspected -= {s for s in self.suspected if self.known.settled(self.name, s)}
        self.begin_anew()

    def forget_behind(self, last: int) -> None:
        """Forget the events that a power cut has taken."""
        self.seen = {seq for seq in self.seen if seq <= last}
        self.suspected = {seq for seq in self.suspected if seq <= last}
        for seq in [seq for seq in self.fatal if seq > last]:
            del self.fatal[seq]

    # -- a handler begins and ends ----------------------------------------------------------------

    def begin(self, seq: int, event: Event) -> Iterator[tuple[int, str]]:
        """Take note that a handler begins; yield what contradicts the contract, and its number."""
        what = f"{self.name!r} began event {seq}"
        if not self.wants(seq) or self.known.log[seq - 1].id != event.id:
            yield 2, f"{what}, which is not for it"
            return
        if self.known.settled(self.name, seq):
            yield 5, f"{what}, which the journal knows to be settled"
        elif seq in self.done:
            yield 3, f"{what} again, which is settled: {self.done[seq]}"
        elif seq in self.running:
            yield 3, f"{what} twice at the same time"
        yield from ((3, f"{what} {text}") for text in self._too_often(seq))
        yield from ((4, f"{what} {text}") for text in self._out_of_order(seq, event.key))
        yield from ((6, f"{what} {text}") for text in self._beyond(seq))
        self.begun[seq] += 1
        self.seen.add(seq)
        self.running[seq] = event.key

    def _too_often(self, seq: int) -> Iterator[str]:
        most = int(self.options["attempts"])
        if self.begun[seq] >= most:
            yield f"once more after {most} attempts"
        if self.fatal[seq] >= max(2, most):
            yield f"after it was running at {self.fatal[seq]} bad ends"
        if seq in self.suspected:
            if seq not in self.noted:
                yield "which may have ended the process, and the attempt is not noted"
            if self.running:
                yield f"which may have ended the process, beside {[*self.running]}"

    def _out_of_order(self, seq: int, key: Any) -> Iterator[str]:
        keyed = self.options["key"] is not None
        if keyed and key is None:
            return
        if keyed and key in self.running.values():
            yield f"though its key {key!r} is busy"
        if self.begun[seq] or (self.options["concurrency"] > 1 and not keyed):
            return
        before = [
            s for s in self.wanted(1, seq - 1)
            if s not in self.seen and (not keyed or self._key(s) == key)
        ]  # fmt: skip
        later = [s for s in self.begun if s > seq and (not keyed or self._key(s) == key)]
        if before or later:
            yield f"before {before}, after {later}"

    def _key(self, seq: int) -> Any:
        return decoded(Record(seq, self.known.log[seq - 1])).key

    def _beyond(self, seq: int) -> Iterator[str]:
        if len(self.running) >= int(self.options["concurrency"]):
            yield f"beside {[*self.running]}"
        unknown = {s for s in {*self.begun, seq} if not self.known.settled(self.name, s)}
        if self.exact and len(unknown) > self.most:
            yield f"as one of {len(unknown)} of which the journal knows nothing; {self.most} may be"

    def end_attempt(self, seq: int, *, ok: bool) -> None:
        """Take note that a handler has ended."""
        self.running.pop(seq, None)
        if ok:
            self.done[seq] = "handled"

    def bury(self, seq: int, reason: DeadReason, *, damaged: bool) -> Iterator[tuple[int, str]]:
        """Take note of a dead letter; yield what contradicts the contract, and its number."""
        what = f"{self.name!r} gave up event {seq} ({reason})"
        if self.is_settled(seq):
            yield 5, f"{what}, settled before: {self.done.get(seq)}"
        if not self.wants(seq):
            yield 2, f"{what}, which is not for it"
        most = int(self.options["attempts"])
        reasons = {
            DeadReason.CHECKSUM: damaged,
            DeadReason.RETRIES_EXHAUSTED: self.begun[seq] >= most,
            DeadReason.REJECTED: self.begun[seq] > 0,
            DeadReason.POISON: self._noted(seq) >= max(2, most),
        }
        if not reasons.get(reason, False):
            yield 1, f"{what} for no reason: {self.begun[seq]} attempts, {self._noted(seq)} noted"
        self.running.pop(seq, None)
        self.seen.add(seq)
        self.done[seq] = reason

    def _noted(self, seq: int) -> int:
        place = self.known.places.get(self.name)
        return 0 if place is None else place.attempts.get(seq, 0)
