"""Durable model: a bus with a journal through crashes, power cuts and full disks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

try:
    from hypothesis import strategies as st
    from hypothesis.stateful import initialize, invariant, precondition, rule
except ImportError as error:
    raise ImportError(
        "DurableModel needs Hypothesis: pip install hypothesis, or the extra actorbus[test]"
    ) from error

from actorbus.testing.durable_stage import DURABLES, PLAIN, DurableStage
from actorbus.testing.errors import SimulationDeadlock
from actorbus.testing.invariants import BrokenInvariantError, is_ours
from actorbus.testing.tape import Disk

DAY = 86_400.0
LONG = 1e6  # seconds within which everything has to settle
ROUNDS = 200  # processes that may be ended by their events before all of those are dead letters
NAMES = {
    1: "conservation", 2: "nothing invented", 3: "handled", 4: "order", 5: "settled is final",
    6: "bounds", 7: "receipts", 8: "liveness", 9: "subscription interval", 10: "cursor",
    12: "closed means closed",
}  # fmt: skip

_topics = st.sampled_from(("a:x", "a:y", "b:x", "b:y"))
_actions = st.sampled_from(
    (
        ["ok"], ["ok"], ["ok"], ["fail", 1], ["fail", 9], ["hang"], ["sleep", 0.0], ["sleep", 0.5],
        ["sleep", 7.0], ["reject"], ["later", 0.3], ["publish", "b:x"], ["kill"],
    )
)  # fmt: skip
_scripts = st.lists(_actions, min_size=3, max_size=3)
_keys = st.sampled_from((None, "k", "l"))
_idents = st.sampled_from((None, None, "one", "two"))
_waits = st.sampled_from((None, "admission", "settlement"))
_which = st.integers(0, 1000)
_orders = st.integers(0, 1 << 16)
_troubles = st.sampled_from(
    (
        ("disk", Disk.ROOMY), ("disk", Disk.FULL), ("disk", Disk.SOLID), ("fail", 1), ("fail", 4),
        ("clock", -DAY), ("clock", -50.0), ("clock", 50.0), ("clock", DAY), ("damage",),
        ("crash in a commit", "before"), ("crash in a commit", "after"), ("crash",), ("crash",),
        ("power cut",), ("power cut",),
    )
)  # fmt: skip
_publishes: dict[str, Any] = {
    "topic": _topics, "do": _scripts, "key": _keys, "ident": _idents, "times": st.integers(1, 6),
    "waits": _waits,
}  # fmt: skip
_policies = st.fixed_dictionaries(
    {
        "mailbox": st.integers(1, 4),
        "concurrency": st.sampled_from((1, 1, 2, 3)),
        "key": st.sampled_from((None, "key")),
        "attempts": st.integers(1, 3),
        "timeout": st.sampled_from((None, 0.7)),
    }
)


class DurableModel(DurableStage):
    """A Hypothesis state machine over a bus on a journal, to test a `Journal` of your own with.

    Subclass it, say how your journal is made, and let pytest find its ``TestCase``::

        from actorbus.journal.memory import MemoryJournal
        from actorbus.testing import DurableModel

        class OwnModel(DurableModel):
            def make_journal(self):
                return MemoryJournal(retention=self.retention, window=self.window)

        TestOwn = OwnModel.TestCase

    Durable subscriptions and others come and go; events are published, with ids and without,
    awaited or not; handlers succeed, fail, hang, publish and kill the process. The process ends
    between any two steps or in the midst of a commit, and another one begins on the journal it has
    left; the disk is full, or fails; the clock is set; bits flip. After every step what was seen is
    held against the contract, by number of the reliability study. In the end everything is mended,
    and every event that was committed must be settled with every durable subscription it is for.

    What is yours to set or override: `make_journal`; `left_by_crash`, if a journal that was killed
    is not opened again by the same object; `left_by_power_cut`, if power cuts can be simulated;
    `durability`; and `retention` and `window`, seconds, which the journal should have.
    """

    @initialize(
        policies=st.lists(_policies, min_size=3, max_size=3),
        durables=st.integers(1, 3),
        events=st.lists(st.fixed_dictionaries(_publishes), max_size=4),
    )
    def begin_with(
        self, policies: list[dict[str, Any]], durables: int, events: list[dict[str, Any]]
    ) -> None:
        """Begin the first process, and have somebody there, and something to do."""
        self.policies = dict(zip(DURABLES, policies, strict=True))
        self.asked = dict.fromkeys([*DURABLES][:durables])
        self.begin_process()
        for each in events:
            self.publish(**each)

    # -- who there is -----------------------------------------------------------------------------

    @rule(name=st.sampled_from((*DURABLES, *PLAIN)))
    def subscribe(self, name: str) -> None:
        """Subscribe one that is not there, or unsubscribe one that is."""
        sub = self.subs.get(name)
        if name in self.asked:
            self.asked.pop(name)
            self.unsubscribe(name)
        elif not self._closed and (sub is None or sub.state.name == "STOPPED"):
            self.asked[name] = None
            self.subscribe_as(name)

    # -- what happens -----------------------------------------------------------------------------

    @property
    def _closed(self) -> bool:
        return bool(self.bus._engine.closed)

    @rule(**_publishes)
    def publish(
        self, topic: str, do: list[Any], key: Any, ident: str | None, times: int, waits: str | None
    ) -> None:
        """Publish from outside, awaited, waited for or neither."""
        process = self.process
        for _ in range(times):
            if waits is None:
                process.call(self.try_publish, process, topic, do, key, ident)
            else:
                coroutine = self._publishing(process, topic, do, key, ident, waits)
                process.call(process.begin, coroutine)

    @rule()
    def release(self) -> None:
        """Let every handler that hangs go on."""
        self.process.call(self.process.gate.set)
        self.process.gate = asyncio.Event()

    @rule(picks=st.lists(st.integers(0, 5), min_size=1, max_size=12))
    def step(self, picks: list[int]) -> None:
        """Let one ready step after the other run; 0 picks the one that has waited longest."""
        self.process.loop.step(picks)

    @rule(seconds=st.sampled_from((0.001, 0.01, 0.6, 2.0, 6.0, 61.0)), order=_orders)
    def advance(self, seconds: float, order: int) -> None:
        """Let time pass; with a minute the journal is pruned."""
        self.process.loop.advance(seconds, order)

    @precondition(lambda self: len(self.bus.dead_letters) > 0 and not self._closed)
    @rule(which=_which, discard=st.booleans())
    def replay(self, which: int, discard: bool) -> None:
        """Replay a dead letter, or discard it."""
        letters, process = [*self.bus.dead_letters], self.process
        letter = letters[which % len(letters)]
        if discard:
            self.books.leaving.add(letter.id)
            process.finish(self.bus.dead_letters.discard(letter.id))
        elif (letter.subscription, letter.event.id) not in self.books.replays:
            self.books.replays[letter.subscription, letter.event.id] = letter.id
            process.call(process.begin, self.bus.dead_letters.replay(letter.id))

    # -- what goes wrong --------------------------------------------------------------------------

    @rule(what=_troubles, which=_which)
    def go_wrong(self, what: tuple[Any, ...], which: int) -> None:
        """End the process in some way, let the disk fail, set the clock or flip a bit."""
        tape = self.process.tape
        match what:
            case ("disk", disk):
                tape.disk = disk
            case ("fail", times):  # as a disk may that is not full
                tape.failures = times
            case ("clock", seconds):
                self.jumped += seconds
            case ("damage",) if self.books.known.log:
                self.books.damaged.add(1 + which % len(self.books.known.log))
            case ("crash in a commit", side):
                tape.deadly = side
            case ("crash",):
                self.crash()
            case ("power cut",):
                self.cut_power(which)

    def crash(self) -> None:
        """Kill the process, and let another one begin on what is left of the journal."""
        self.kill()
        self.begin_process()

    def cut_power(self, which: int) -> None:
        """Cut the power; with durability "process" the newest commits may be gone."""
        left = self.left_by_power_cut(self.journal, which)
        if left is not None:
            self.end_process()
            self.books.cut_power()
            self.journal = left
            self.begin_process()

    # -- the end ----------------------------------------------------------------------------------

    @precondition(lambda self: not self._closed)
    @rule(timeout=st.sampled_from((0.0, 0.5, 10.0)), order=_orders)
    def close(self, timeout: float, order: int) -> None:
        """Close the bus; a journal that takes longer is closed when it has done what it is at."""
        process = self.process
        report = process.finish(self.bus.close(timeout), order)
        while report and process.tape.url in report.abandoned and process.tape.is_open:
            process.loop.advance(1.0, order)
        if not process.doomed:
            self._look(12, [*self._left_running()])

    @precondition(lambda self: self._closed)
    @rule(anew=st.booleans())
    def open_again(self, anew: bool) -> None:
        """Start the bus again, or a new one in another process."""
        if anew:
            self.end_process()
            self.begin_process()
            return
        for name in self.asked:
            self.enlist(name)
        self.process.finish(self.bus.start())

    def _left_running(self) -> Iterator[str]:
        process = self.process
        if process.tape.is_open:
            yield "the journal is open"
        for task in asyncio.all_tasks(process.loop):
            if task not in process.waiters:
                yield f"task {task.get_name()!r} remains"
        for timer in process.loop._scheduled:
            if not timer._cancelled and is_ours(timer._callback):
                yield f"a timer remains: {timer}"

    @invariant()
    def everything_holds(self) -> None:
        """Look at all that has been seen."""
        if not self.has_begun:
            return
        if self.process.doomed:
            self.crash()
        process = self.process
        for task in [task for task in process.waiters if task.done()]:
            del process.waiters[task]
            if not task.cancelled():
                task.result()
        audit = self.bus.audit()
        if not audit.balanced:
            self._look(1, [str(audit)])
        if process.troubles:
            self._look(12, process.troubles)
        if self.books.flaws:
            self._look(self.books.flaws[0].number, [])

    def _look(self, number: int, found: list[str]) -> None:
        seen = [flaw.text for flaw in self.books.flaws if flaw.number == number]
        if seen or found:
            raise BrokenInvariantError(f"I{number} {NAMES[number]}", [*seen, *found])

    def come_to_an_end(self) -> None:
        """Mend everything, let all settle, and look at what is left."""
        if not self.has_begun:
            return
        self.everything_holds()
        for _ in range(ROUNDS):
            self._mend()
            self._settle()
            if not self.process.doomed:
                break
            self.crash()
        self.everything_holds()
        self._look(8, [*self.books.unfinished()])
        self.process.loop.advance(130.0)
        self.everything_holds()
        known = self.books.known
        self._look(
            10,
            [
                f"{seq} of {name!r} is settled, and the journal does not know"
                for name, course in self.books.courses.items()
                for seq in course.wanted(1, len(known.log))
                if not known.settled(name, seq)
            ],
        )
        for _ in range(2):  # the second one begins on what the first has left
            self.close(25.0, 0)
            self.open_again(anew=True)
            self.everything_holds()

    def _mend(self) -> None:
        self.process.tape.mend()
        if self._closed:
            self.open_again(anew=True)
        self.process.tape.mend()
        self.process.call(self.process.gate.set)
        for name in DURABLES:
            self._bring_back(name)

    def _bring_back(self, name: str) -> None:
        sub = self.subs.get(name)
        if name in self.asked or name not in self.books.courses:
            return
        if sub is not None:
            self.process.finish(sub.ended())
        if not self.process.doomed:
            self.asked[name] = None
            self.subscribe_as(name)

    def _settle(self) -> None:
        process = self.process
        try:
            process.finish(self.bus.settle(LONG))
        except (SimulationDeadlock, TimeoutError) as error:
            self._look(8, [f"the bus does not settle: {error}"])
        if not process.doomed:
            process.loop.advance(5.0)
