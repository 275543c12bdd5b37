"""What a journal should do, as plain lists and sets, and a machine that compares one with that.

The model is as simple as can be and shares nothing with any journal but the words of
`actorbus.journal.base`. The machine does what Hypothesis thinks of to both and compares every
answer; a failure is shrunk to the fewest steps. Needs ``hypothesis``.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec.structs import replace

from actorbus.errors import TransactionError
from actorbus.journal.base import (
    Append,
    Appended,
    Attempt,
    Bury,
    Entry,
    Exhume,
    Grave,
    Join,
    Journal,
    Leave,
    Operation,
    Record,
    Replay,
    Result,
    Settle,
    Standing,
    Wants,
)
from actorbus.journal.effects import Statement, Transact, Transactional

MAX_BYTES = 1 << 22
"""More than anything a machine does takes; a small file is quickly made."""
REFUSED = TransactionError("", "it is what Hypothesis wanted")
QUICK = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - mkdtemp makes it private
"""Where a sync costs nothing: hundreds of journals are opened and closed."""
RETENTION = 86_400.0
WINDOW = 600.0
START = 1_700_000_000.0

TOPICS = ["a", "a:b", "ü"]
NAMES = st.sampled_from(["billing", "mail"])
IDS = st.sampled_from(["1", "2", "3"])
NUMBERS = st.integers(0, 12)
entries = st.builds(
    Entry,
    id=IDS,
    topic=st.sampled_from(TOPICS),
    time=st.just(0.0),
    body=st.binary(max_size=8),
    meta=st.binary(max_size=3),
    codec=st.integers(0, 3),
    once=st.booleans(),
)
graves = st.builds(Grave, IDS, NAMES, st.just("rejected"), entries, st.just(START))
WRITE = "INSERT INTO own VALUES(?)"
SPOIL = "INSERT OR ROLLBACK INTO own VALUES(CASE ? WHEN '' THEN 1 END)"
"""Breaks a rule of its table, and takes back everything."""
statements = st.lists(
    st.builds(
        Statement,
        st.sampled_from([WRITE, WRITE, WRITE, "DELETE FROM nowhere WHERE it = ?", SPOIL]),
        st.lists(st.tuples(IDS), min_size=1, max_size=2).map(tuple),
    ),
    max_size=2,
).map(tuple)
operations: st.SearchStrategy[list[Operation]] = st.lists(
    st.one_of(
        entries.map(Append),
        entries.map(Append),
        st.builds(Join, NAMES, st.just(("a:**",)), st.integers(1, 5), st.none() | NUMBERS),
        st.builds(Settle, NAMES, NUMBERS, st.lists(NUMBERS, max_size=3).map(tuple), st.booleans()),
        st.builds(Attempt, NAMES, NUMBERS),
        st.builds(Leave, NAMES),
        st.builds(Bury, graves, IDS | st.just("")),
        st.lists(IDS, max_size=3, unique=True).map(tuple).map(Exhume),
        st.lists(IDS, max_size=3, unique=True).map(tuple).map(Replay),
        st.builds(Transact, statements, NAMES | st.just(""), IDS, NUMBERS),
    ),
    max_size=6,
)
topic_sets = st.sets(st.sampled_from(TOPICS))


@dataclass
class Course:
    """How far a durable subscription of the model has come."""

    cursor: int
    settled: set[int] = field(default_factory=set)
    attempts: dict[int, int] = field(default_factory=dict)
    window: int = 0
    joined: bool = False
    suspects: int = 0


@dataclass
class Note:
    """An event that has taken effect.

    Attributes:
        course: On whose behalf.
        last: The last event there was then.
    """

    course: Course
    event: str
    last: int
    time: float


@dataclass
class Model:
    """What a journal holds, as it should."""

    log: list[Entry] = field(default_factory=list)
    pruned: int = 0
    courses: dict[str, Course] = field(default_factory=dict)
    graves: dict[str, Grave] = field(default_factory=dict)
    marked: set[str] = field(default_factory=set)
    first_seen: dict[str, tuple[int, float]] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)
    written: list[str] = field(default_factory=list)

    def kept(self) -> list[Record]:
        """Return what has not been pruned."""
        return [Record(i, entry) for i, entry in enumerate(self.log, 1) if i > self.pruned]

    def do(self, operation: Operation) -> Result:
        """Do one operation and return what its result should be."""
        match operation:
            case Append(entry):
                return self._append(entry)
            case Join(name, _, window, after):
                created, last = name not in self.courses, len(self.log)
                start = last if after is None else min(after, last)
                course = self.courses.setdefault(name, Course(start))
                course.window, course.joined = window, True
                ahead = frozenset(seq for seq in course.settled if seq > course.cursor)
                return Standing(
                    course.cursor, ahead, dict(course.attempts), course.suspects, created
                )
            case Settle(name, cursor, ahead, trusted):
                self._settle(name, cursor, ahead, trusted=trusted)
                return None
            case Attempt(name, seq):
                return self._attempt(name, seq)
            case Bury(grave, instead):
                self._exhume((instead,))
                self.graves.setdefault(grave.id, grave)
                return None
            case Exhume(ids):
                return self._exhume(ids)
            case Replay(ids):
                replayed = {ident for ident in ids if ident in self.graves}
                self.marked |= replayed
                return len(replayed)
            case Leave(name):
                return self.courses.pop(name, None) is not None
            case Transact():
                return self._transact(operation)

    def _append(self, entry: Entry) -> Appended:
        if entry.once:
            seq, time = self.first_seen.get(entry.id, (0, float("-inf")))
            if entry.time - time < WINDOW:
                return Appended(seq, duplicate=True)
            self.first_seen[entry.id] = len(self.log) + 1, entry.time
        self.log.append(entry)
        return Appended(len(self.log))

    def _exhume(self, ids: tuple[str, ...]) -> int:
        self.marked -= {*ids}
        return len([ident for ident in ids if self.graves.pop(ident, None)])

    def _settle(
        self, name: str, cursor: int, ahead: tuple[int, ...], *, trusted: bool = False
    ) -> None:
        if course := self.courses.get(name):
            course.suspects = 0 if trusted else course.suspects
            course.cursor = max(course.cursor, min(cursor, len(self.log)))
            course.settled |= {seq for seq in ahead if seq <= len(self.log)}
            for seq in [*course.attempts]:
                if seq <= course.cursor or seq in course.settled:
                    del course.attempts[seq]

    def _attempt(self, name: str, seq: int) -> int:
        course = self.courses.get(name)
        if not course or seq in course.settled or not course.cursor < seq <= len(self.log):
            return 0
        course.attempts[seq] = course.attempts.get(seq, 0) + 1
        return course.attempts[seq]

    def _transact(self, op: Transact) -> Result:
        course = self.courses.get(op.durable)
        if op.durable and course is None:
            return REFUSED
        if any(note.course is course and note.event == op.event for note in self.notes if course):
            self._settle(op.durable, 0, (op.seq,))
            return False
        if any(statement.sql != WRITE for statement in op.statements):
            return REFUSED
        self.written += [value for each in op.statements for (value,) in each.runs]  # type: ignore[misc] # strings, all of them
        if course is not None:
            self.notes.append(Note(course, op.event, len(self.log), op.time))
            self._settle(op.durable, 0, (op.seq,))
        return True

    def prune(self, now: float) -> None:
        """Remove what is past retention and needed by nobody."""
        needed = min((course.cursor for course in self.courses.values()), default=len(self.log))
        old = (i for i, e in enumerate(self.log, 1) if i <= needed and e.time < now - RETENTION)
        self.pruned = max(self.pruned, *old, 0)
        gone = [
            i
            for i, note in enumerate(self.notes, 1)
            if note.time < now - RETENTION and note.last <= self.pruned
        ]
        del self.notes[: max(gone, default=0)]

    def reopen(self, *, clean: bool) -> None:
        """Note an end and a new start."""
        for course in self.courses.values():
            if course.joined and not clean:
                course.suspects = course.window
            course.joined = False


def _blurred(result: Result) -> Result:
    return REFUSED if isinstance(result, TransactionError) else result


class JournalMachine(RuleBasedStateMachine):
    """Does the same to a journal and to the model, and compares."""

    make: ClassVar[Callable[..., Journal]]

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp(dir=QUICK))
        self.model = Model()
        self.now = START

    def teardown(self) -> None:
        """Give the journal and its directory up."""
        self.journal.close(clean=True)
        shutil.rmtree(self.place)

    @initialize()
    def begin(self) -> None:
        """Open a new journal."""
        self.journal = self._made()
        assert self.journal.open("process").last == 0
        if isinstance(self.journal, Transactional):
            made = Transact((Statement("CREATE TABLE own(id TEXT NOT NULL)", ((),)),))
            assert self.journal.commit([made]) == [True]

    def _made(self) -> Journal:
        return type(self).make(self.place, max_bytes=MAX_BYTES, retention=RETENTION, window=WINDOW)

    @rule(some=operations, cut=st.integers(1, 6))
    def commit(self, some: list[Operation], cut: int) -> None:
        """Every operation answers what it should, however the commits are cut."""
        dated = [self._dated(operation) for operation in some if self._can(operation)]
        for start in range(0, len(dated), cut):
            piece = dated[start : start + cut]
            found = [_blurred(result) for result in self.journal.commit(piece)]
            assert found == [self.model.do(each) for each in piece]

    def _can(self, operation: Operation) -> bool:
        return not isinstance(operation, Transact) or isinstance(self.journal, Transactional)

    def _dated(self, operation: Operation) -> Operation:
        if isinstance(operation, Transact):
            return replace(operation, time=self.now)
        if not isinstance(operation, Append):
            return operation
        fields: dict[str, Any] = {
            name: getattr(operation.entry, name) for name in Entry.__struct_fields__
        }
        return Append(Entry(**fields | {"time": self.now}))

    @rule(seconds=st.sampled_from([1.0, WINDOW / 2, WINDOW, RETENTION, 3 * RETENTION]))
    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds

    @rule(after=NUMBERS, limit=st.integers(1, 4), topics=topic_sets)
    def read(self, after: int, limit: int, topics: set[str]) -> None:
        """Pages put together are what is kept and wanted, in order."""
        found: list[Record] = []
        upto, end = after, False
        while not end:
            page = self.journal.read(upto, limit, topics.__contains__)
            assert len(page.records) <= limit
            assert all(upto < record.seq <= page.upto for record in page.records)
            assert page.end or page.upto > upto
            found += page.records
            upto, end = page.upto, page.end
        assert found == self._wanted(topics.__contains__, after)

    @rule(
        limit=st.integers(1, 5),
        topics=topic_sets,
        behind=NUMBERS,
        before=NUMBERS,
        ago=st.sampled_from([0.0, WINDOW, RETENTION]),
    )
    def recent(self, limit: int, topics: set[str], behind: int, before: int, ago: float) -> None:
        """The last ones are the end of what is wanted."""
        since = self.now - ago
        found = self.journal.recent(
            limit, topics.__contains__, since=since, behind=behind, before=before
        )
        wanted = [
            record
            for record in self._wanted(topics.__contains__, behind)
            if record.entry.time >= since and (not before or record.seq < before)
        ]
        assert found == wanted[-limit:]

    def _wanted(self, wants: Wants, after: int) -> list[Record]:
        return [
            record
            for record in self.model.kept()
            if record.seq > after and wants(record.entry.topic)
        ]

    @rule(after=IDS | st.just(""), limit=st.integers(1, 3), marked=NAMES | st.just(""))
    def dead(self, after: str, limit: int, marked: str) -> None:
        """Dead letters come in order of burial, all or those that are to be replayed."""
        graves = [*self.model.graves.values()]
        ids = [grave.id for grave in graves]
        start = ids.index(after) + 1 if after in ids else 0
        wanted = [
            grave
            for grave in graves[start:]
            if not marked or (grave.id in self.model.marked and grave.subscription == marked)
        ]
        assert self.journal.dead(after, limit, marked=marked) == wanted[:limit]

    @rule()
    def prune(self) -> None:
        """What goes is exactly what is old and needed by nobody."""
        while self.journal.prune(self.now):
            pass
        self.model.prune(self.now)

    @rule(clean=st.booleans())
    def reopen(self, clean: bool) -> None:
        """Nothing is forgotten between an end and a start."""
        self.journal.close(clean=clean)
        self.journal = self._made()
        opening = self.journal.open("process")
        assert (opening.last, opening.clean) == (len(self.model.log), clean)
        self.model.reopen(clean=clean)

    @invariant()
    def the_tables_are_true(self) -> None:
        """Whatever was refused, what is in the program's own table is what took effect."""
        if isinstance(self.journal, Transactional):
            query = Statement("SELECT id FROM own ORDER BY rowid", ((),))
            found = self.journal.preview(Transact(()), query)
            assert found == [(each,) for each in self.model.written]

    @invariant()
    def the_figures_are_true(self) -> None:
        """Whatever was done, the figures are those of the model."""
        status, kept = self.journal.status(), self.model.kept()
        assert status.events == len(kept)
        assert status.last == len(self.model.log)
        assert status.first == (kept[0].seq if kept else 0)
        assert status.oldest == (kept[0].entry.time if kept else 0.0)
        assert status.dead == len(self.model.graves)
        assert sum(status.marked.values()) == len(self.model.marked)
        assert status.cursors == {name: each.cursor for name, each in self.model.courses.items()}
