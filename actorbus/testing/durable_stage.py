"""Durable stage: one process after the other on one journal, and who subscribes and publishes."""

from __future__ import annotations

import asyncio
import itertools
from functools import partial
from typing import Any, ClassVar

from actorbus.errors import (
    BusClosedError,
    JournalError,
    JournalFullError,
)
from actorbus.event import Event
from actorbus.hand import in_hand
from actorbus.journal.base import Journal
from actorbus.journal.memory import MemoryJournal
from actorbus.retry import Reject, RetryAfter, RetryPolicy
from actorbus.subscription import Subscription
from actorbus.testing.curtain import Curtain
from actorbus.testing.durable_books import DurableBooks, Plain, Publication
from actorbus.testing.process import UNCOMMITTED, Process
from actorbus.testing.scripts import CrashError
from actorbus.testing.tape import Disk, Tape
from actorbus.topic import Pattern
from actorbus.words import Outcome

DURABLES = {"d0": ("a:*",), "d1": ("**",), "d2": ("a:x", "b:*")}
"""The durable subscriptions there may be, and what each listens to."""

PLAIN = {"p0": ("**",), "p1": ("b:*",)}
"""The others."""

ALL = {**DURABLES, **PLAIN}


class DurableStage(Curtain):
    """Processes on a journal.

    Attributes:
        process: The one that runs.
        books: What has been seen of all of them.
        journal: The journal, as the processes have left it.
    """

    durability: ClassVar[str] = "power"
    retention: ClassVar[float] = 100.0
    window: ClassVar[float] = 60.0
    process: Process

    def _set_the_stage(self) -> None:
        self.books = DurableBooks(loses=self.durability == "process")
        self.disk = Disk.ROOMY
        self.subs: dict[str, Subscription] = {}
        self.policies: dict[str, dict[str, Any]] = {}
        self.asked: dict[str, None] = {}  # who is to be subscribed in every process
        self.jumped = self._elapsed = 0.0
        self._processes, self._numbers = itertools.count(1), itertools.count(1)
        self.journal = self.make_journal()

    @property
    def has_begun(self) -> bool:
        """Whether there is a process."""
        return hasattr(self, "process")

    # -- to be overridden -------------------------------------------------------------------------

    def make_journal(self) -> Journal:
        """Return the journal to test; it is not open yet."""
        return MemoryJournal(retention=self.retention, window=self.window)

    def left_by_crash(self, journal: Journal) -> Journal:
        """Return what is found after the process has been killed that had a journal open."""
        journal.close(clean=False)
        return journal

    def left_by_power_cut(self, journal: Journal, which: int) -> Journal | None:  # noqa: ARG002
        """Return what is found after the power was cut; None if that cannot be simulated.

        Args:
            journal: As the process had it open.
            which: Chooses, where there are several possibilities.
        """
        return None

    # -- processes --------------------------------------------------------------------------------

    @property
    def bus(self) -> Any:
        """The bus of the process that runs."""
        return self.process.bus

    def begin_process(self) -> None:
        """Begin a process, subscribe whoever was subscribed before, and start its bus."""
        tape = Tape(self.journal, self.books)
        tape.disk = self.disk
        process = self.process = Process(
            next(self._processes), tape, lambda: self._elapsed + self.jumped,
            {"durability": self.durability, "dead_letters": 40, "history": 5},
        )  # fmt: skip
        engine: Any = process.bus._engine
        engine.bury = partial(self._bury, process, engine.bury)
        self.subs.clear()
        for name in self.asked:
            self.subscribe_as(name)
        process.finish(process.bus.start())

    def _bury(self, process: Process, real: Any, letter: Any, receipt: Any) -> None:
        if not process.over:
            self.books.bury(letter, receipt.logged)
        real(letter, receipt)

    def end_process(self) -> None:
        """Let the process go as it is."""
        process = self.process
        self._elapsed += process.loop.time()
        self.disk = process.tape.disk
        process.end()

    def kill(self) -> None:
        """End the process badly, whatever it does."""
        self.end_process()
        self.books.crash()
        self.journal = self.left_by_crash(self.journal)

    # -- subscribing ------------------------------------------------------------------------------

    def subscribe_as(self, name: str) -> None:
        """Subscribe one of those there may be."""
        process = self.process

        async def handle(event: Event) -> None:
            await self._handle(process, name, event)

        options: dict[str, Any] = {}
        if name in DURABLES:
            policy = self.policies[name]
            self.books.course(name, DURABLES[name]).options = policy
            retry = RetryPolicy(
                max_attempts=policy["attempts"], base=0.5, jitter="none", max_elapsed=None
            )
            options = {"durable": name, **policy, "retry": retry}
            del options["attempts"]
        subscribe: Any = process.bus.subscribe
        self.subs[name] = process.call(subscribe, [*ALL[name]], handle, name=name, **options)
        self.enlist(name)

    def enlist(self, name: str) -> None:
        """Take note that one gets what is published from now on."""
        if name in DURABLES:
            self.books.courses[name].live = True
        else:
            patterns = [Pattern(text) for text in PLAIN[name]]
            self.books.plain.setdefault(name, Plain(patterns, [])).live = True

    def unsubscribe(self, name: str) -> None:
        """Unsubscribe one; what its mailbox holds is still handled."""
        if name in DURABLES:
            self.books.courses[name].live = False
        elif name in self.books.plain:
            self.books.plain[name].live = False
        self.process.call(self.bus.unsubscribe, self.subs[name])

    # -- handling ---------------------------------------------------------------------------------

    async def _handle(self, process: Process, name: str, event: Event) -> None:
        hand: Any = in_hand.get()
        seq = hand.receipt.logged
        if process.over:
            return
        self.books.begin(name, seq, event)
        try:
            await self._perform(process, name, seq, event)
        except BaseException:
            if not process.over:
                self.books.end(name, seq, event, ok=False)
            raise
        if not process.over:
            self.books.end(name, seq, event, ok=True)

    async def _perform(self, process: Process, name: str, seq: int, event: Event) -> None:
        number = int(name[1:])
        action = event.data["do"][number % 3]
        durable = name in DURABLES
        match action:
            case ["sleep", seconds]:
                await asyncio.sleep(seconds)
            case ["hang"]:
                await process.gate.wait()
            case ["publish", topic]:
                await self._publishing(process, topic, [["ok"]] * 3, None, None, "admission")
            case ["fail", times] if durable:
                if self.books.courses[name].begun[seq] <= times:
                    raise CrashError
            case ["reject"] if durable:
                raise Reject("not wanted")
            case ["later", seconds] if durable:
                if self.books.courses[name].begun[seq] <= 1:
                    raise RetryAfter(seconds)
            case ["kill"] if durable:
                process.die()
                await asyncio.Event().wait()

    # -- publishing -------------------------------------------------------------------------------

    def try_publish(
        self, process: Process, topic: str, do: list[Any], key: Any, ident: str | None
    ) -> Publication | None:
        """Publish; None if it is refused at the call, as it must be then."""
        engine: Any = process.bus._engine
        data = {"n": next(self._numbers), "do": do}
        waiting = engine.recorder.scribe.uncommitted
        closing = engine.draining or engine.closed
        try:
            receipt = process.bus.publish(topic, data, key=key, id=ident)
        except BusClosedError:
            self._expect(closing, "a publish was refused though the bus was open")
        except JournalFullError:
            self._expect(waiting >= UNCOMMITTED, f"a publish was refused, and {waiting} wait")
        else:
            if not process.over:
                return self.books.published(receipt)
        return None

    async def _publishing(
        self, process: Process, topic: str, do: list[Any], key: Any, ident: str | None, waits: str
    ) -> None:
        publication = self.try_publish(process, topic, do, key, ident)
        if publication is not None:
            await (self.admission if waits == "admission" else self.settlement)(
                process, publication
            )

    async def admission(self, process: Process, publication: Publication) -> None:
        """Await a receipt, and check that it tells the truth."""
        receipt, error = publication.receipt, None
        try:
            await receipt
        except JournalError as raised:
            error = raised
        if process.over:
            return
        number = publication.receipt.event.data["n"]
        if error is None:
            told = publication.seq is not None
            self._expect(told, f"publish {number} is said to be committed, and is not")
        else:
            unknown = "not known" in str(error) or publication.seq is None
            self._expect(unknown, f"publish {number} is committed, and raised {error!r}")
            self._expect(self.books.failures > 0, f"publish {number} raised {error!r} for nothing")
        self._expect(not receipt.waiting, f"awaiting {number} has ended: {receipt.waiting} wait")

    async def settlement(self, process: Process, publication: Publication) -> None:
        """Wait until a receipt is settled, and check that it tells the truth."""
        result = await publication.receipt.settled()
        if process.over or not publication.seq:
            return
        for name, outcome in result.outcomes.items():
            course = self.books.courses.get(name)
            done = course.done.get(publication.seq) if course is not None else None
            if course is None or (done is None and course.is_settled(publication.seq)):
                continue
            true = {None: None, "handled": Outcome.ACKED}.get(done, Outcome.DEAD)
            self._expect(
                outcome is true, f"event {publication.seq} is {outcome} at {name!r}: {true}"
            )

    def _expect(self, true: bool, otherwise: str) -> None:
        if not true:
            self.books.flaw(7, otherwise)

    # -- the end ----------------------------------------------------------------------------------

    def _end_what_is_left(self) -> None:
        if self.has_begun:
            self.process.end()
