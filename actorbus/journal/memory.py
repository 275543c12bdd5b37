"""MemoryJournal: the reference implementation, and a journal for tests.

It keeps everything between `MemoryJournal.close` and the next `MemoryJournal.open` of the same
object, so a test can end a bus and start another one on what was left. Nothing survives the
process.

Invariant: event number ``n`` is at ``events[n - pruned - 1]``; numbers have no gaps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import msgspec

from actorbus.errors import JournalError, JournalFullError, JournalLockedError
from actorbus.journal.base import (
    Append,
    Appended,
    Attempt,
    Bury,
    Entry,
    Exhume,
    Grave,
    Join,
    Leave,
    Opening,
    Operation,
    Page,
    Record,
    Replay,
    Result,
    Settle,
    Standing,
    Status,
    Wants,
)
from actorbus.journal.clock import JournalClock
from actorbus.journal.effects import Transact

_LOOK = 4_096
"""Events a call of `MemoryJournal.read` looks at, at most."""


class _Durable(msgspec.Struct):
    """How far one has come, and what the journal was told of it."""

    cursor: int
    patterns: tuple[str, ...] = ()
    window: int = 0
    joined: bool = False
    suspects: int = 0
    ahead: set[int] = msgspec.field(default_factory=set)
    attempts: dict[int, int] = msgspec.field(default_factory=dict)

    def has_settled(self, seq: int) -> bool:
        return seq <= self.cursor or seq in self.ahead


class MemoryJournal:
    """A journal in memory.

    Args:
        max_bytes: The most that events and dead letters may take; 0 for no limit.
        retention: Seconds an event is kept after it was published.
        window: Seconds an id is remembered (`Entry.once`).
    """

    def __init__(
        self, *, max_bytes: int = 0, retention: float = 7 * 86_400.0, window: float = 600.0
    ) -> None:
        self._limit = max_bytes
        self._retention = retention
        self._clock = JournalClock(window)
        self._events: list[Record] = []
        self._pruned = 0
        self._durables: dict[str, _Durable] = {}
        self._graves: dict[str, Grave] = {}
        self._marked: set[str] = set()
        self._seen: dict[str, tuple[int, float]] = {}
        self._bytes = 0
        self._open = False
        self._clean = True

    @property
    def url(self) -> str:
        """Where it is, for people."""
        return "memory://"

    @property
    def _last(self) -> int:
        return self._pruned + len(self._events)

    def open(self, durability: str) -> Opening:  # noqa: ARG002 - memory knows one durability
        """Take possession; see `actorbus.journal.base.Journal.open`."""
        if self._open:
            raise JournalLockedError(f"{self.url} is open already, in this process")
        clean, self._open, self._clean = self._clean, True, False
        for durable in self._durables.values():
            if durable.joined and not clean:
                durable.suspects = durable.window
            durable.joined = False
        return Opening(last=self._last, clean=clean)

    def commit(self, operations: Sequence[Operation]) -> list[Result]:
        """Do all of it, or nothing; see `actorbus.journal.base.Journal.commit`."""
        self._check_open()
        self._make_room(sum(map(_growth, operations)))
        return [self._do(operation) for operation in operations]

    def read(self, after: int, limit: int, wants: Wants) -> Page:
        """Return the first wanted records behind a number, at most `limit`."""
        self._check_open()
        start = max(after - self._pruned, 0)
        upto = max(after, self._pruned)
        records: list[Record] = []
        for record in islice(self._events, start, start + _LOOK):
            if len(records) == limit:
                break
            upto = record.seq
            if wants(record.entry.topic):
                records.append(record)
        return Page(records, upto, end=upto >= self._last)

    def recent(
        self, limit: int, wants: Wants, *, since: float = 0.0, behind: int = 0, before: int = 0
    ) -> list[Record]:
        """Return the last wanted records, at most `limit`, oldest first."""
        self._check_open()
        stop = min(before - 1 if before else self._last, self._last) - self._pruned
        places = range(stop - 1, max(behind - self._pruned, 0) - 1, -1)
        wanted = (
            record
            for record in map(self._events.__getitem__, places)
            if record.entry.time >= since and wants(record.entry.topic)
        )
        return [*islice(wanted, limit)][::-1]

    def dead(self, after: str = "", limit: int = 1000, *, marked: str = "") -> list[Grave]:
        """Return dead letters in order of burial."""
        self._check_open()
        ids = list(self._graves)
        start = ids.index(after) + 1 if after in self._graves else 0
        graves = (self._graves[ident] for ident in ids[start:])
        wanted = (each for each in graves if not marked or self._is_marked(each, marked))
        return [*islice(wanted, limit)]

    def _is_marked(self, grave: Grave, subscription: str) -> bool:
        return grave.id in self._marked and grave.subscription == subscription

    def prune(self, now: float) -> bool:
        """Remove what is past retention and needed by nobody; return whether there is more."""
        self._check_open()
        today = self._clock.at(now)
        self._seen = {key: seen for key, seen in self._seen.items() if seen[1] > today}
        count = 0
        for place, record in enumerate(self._events[: self._unneeded()], start=1):
            if record.entry.time < now - self._retention:
                count = place  # what came before is older, whatever the clock showed then
        self._remove(count)
        return False

    def status(self) -> Status:
        """Return its figures."""
        self._check_open()
        return Status(
            events=len(self._events),
            first=self._pruned + 1 if self._events else 0,
            last=self._last,
            bytes=self._bytes,
            limit=self._limit,
            dead=len(self._graves),
            cursors={name: durable.cursor for name, durable in self._durables.items()},
            oldest=self._events[0].entry.time if self._events else 0.0,
            patterns={name: durable.patterns for name, durable in self._durables.items()},
            ahead={name: len(each.ahead) for name, each in self._durables.items() if each.ahead},
            marked=dict(Counter(self._graves[ident].subscription for ident in self._marked)),
        )

    def verify(self, *, whole: bool = True) -> Iterator[tuple[int, int, str | None]]:  # noqa: ARG002 - it has but one piece
        """Look at everything; memory is never damaged."""
        self._check_open()
        count = len(self._events)
        yield count, count, None

    def close(self, *, clean: bool) -> None:
        """Give it up; does nothing if it is not open."""
        if self._open:
            self._open, self._clean = False, clean

    def _check_open(self) -> None:
        if not self._open:
            raise JournalError(f"{self.url} is not open")

    # -- room -------------------------------------------------------------------------------------

    def _make_room(self, more: int) -> None:
        """Remove the oldest that nobody needs, if need be.

        Raises:
            JournalFullError: Too much is needed.
        """
        if not self._limit or not more:
            return
        count, free, unneeded = 0, self._limit - self._bytes, self._unneeded()
        while free < more and count < unneeded:
            free += _size(self._events[count].entry)
            count += 1
        if free < more:
            raise JournalFullError(f"{self.url} is full: {self._bytes} of {self._limit} bytes")
        self._remove(count)

    def _unneeded(self) -> int:
        """Return how many of the oldest events no cursor needs."""
        cursors = [durable.cursor for durable in self._durables.values()]
        return max(min(cursors, default=self._last) - self._pruned, 0)

    def _remove(self, count: int) -> None:
        self._bytes -= sum(_size(record.entry) for record in self._events[:count])
        del self._events[:count]
        self._pruned += count

    # -- operations -------------------------------------------------------------------------------

    def _do(self, operation: Operation) -> Result:
        match operation:
            case Append(entry):
                return self._append(entry)
            case Join():
                return self._join(operation)
            case Settle():
                self._settle(operation)
                return None
            case Attempt(name, seq):
                return self._attempt(name, seq)
            case Bury(grave, instead):
                self._exhume([instead])
                if self._graves.setdefault(grave.id, grave) is grave:
                    self._bytes += _size(grave.entry)
                return None
            case Exhume(ids):
                return self._exhume(ids)
            case Replay(ids):
                found = {ident for ident in ids if ident in self._graves}
                found = {ident for ident in found if self._graves[ident].subscription}
                self._marked |= found
                return len(found)
            case Leave(name):
                return self._durables.pop(name, None) is not None
            case Transact():
                raise JournalError(f"{self.url} keeps no tables")

    def _append(self, entry: Entry) -> Appended:
        if entry.once:
            today = self._clock.at(entry.time)
            seq, end = self._seen.get(entry.id, (0, today))
            if end > today:
                return Appended(seq, duplicate=True)
            self._seen[entry.id] = self._last + 1, today + self._clock.window
        self._events.append(Record(self._last + 1, entry))
        self._bytes += _size(entry)
        return Appended(self._last)

    def _join(self, join: Join) -> Standing:
        created = join.durable not in self._durables
        start = self._last if join.after is None else min(join.after, self._last)
        durable = self._durables.setdefault(join.durable, _Durable(start))
        durable.patterns, durable.window, durable.joined = join.patterns, join.window, True
        return Standing(
            durable.cursor,
            frozenset(durable.ahead),
            dict(durable.attempts),
            durable.suspects,
            created,
        )

    def _settle(self, settle: Settle) -> None:
        durable = self._durables.get(settle.durable)
        if durable is None:
            return
        durable.cursor = max(durable.cursor, min(settle.cursor, self._last))
        durable.suspects = 0 if settle.trusted else durable.suspects
        ahead = durable.ahead | {seq for seq in settle.ahead if seq <= self._last}
        durable.ahead = {seq for seq in ahead if seq > durable.cursor}
        durable.attempts = {
            seq: count for seq, count in durable.attempts.items() if not durable.has_settled(seq)
        }

    def _exhume(self, ids: Iterable[str]) -> int:
        gone = [self._graves.pop(ident) for ident in ids if ident in self._graves]
        self._bytes -= sum(_size(grave.entry) for grave in gone)
        self._marked -= {grave.id for grave in gone}
        return len(gone)

    def _attempt(self, name: str, seq: int) -> int:
        durable = self._durables.get(name)
        if durable is None or seq > self._last or durable.has_settled(seq):
            return 0
        count = durable.attempts[seq] = durable.attempts.get(seq, 0) + 1
        return count


def _growth(operation: Operation) -> int:
    """Return how many bytes an operation adds at most; what has to go on at the limit adds none."""
    return _size(operation.entry) if isinstance(operation, Append) else 0


def _size(entry: Entry) -> int:
    return len(entry.id) + len(entry.topic) + len(entry.body) + len(entry.meta)
