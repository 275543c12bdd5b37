"""Mailbox: asyncio.Queue's public interface, and a line in which nobody is overtaken."""

from __future__ import annotations

import asyncio
import sys
import unittest
from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from actorbus.mailbox import Mailbox, Place
from tests.virtual import VirtualLoop

queues: Any = pytest.importorskip("test.test_asyncio.test_queues", reason="needs CPython's tests")

# What CPython's tests ask of the inside of asyncio.Queue, or of its repr, and not of its interface:
INSIDE = {
    "QueueBasicTests.test_repr",  # repr
    "QueueBasicTests.test_str",  # repr
    "QueueGetTests.test_get_with_putters",  # _putters
    "QueueGetTests.test_cancelled_getters_not_being_held_in_self_getters",  # _getters
    "QueuePutTests.test_cancelled_puts_not_being_held_in_self_putters",  # _putters
    "QueueJoinTests.test_format",  # _format, _unfinished_tasks
    "QueueShutdownTests.test_format",  # _format
}
# The classes of the module that test the plain FIFO queue; the others test Lifo and Priority.
FIFO = ("QueueBasicTests", "QueueGetTests", "QueuePutTests", "QueueJoinTests", "QueueShutdownTests")


def cpython_tests() -> list[str]:
    """Return the names of CPython's tests of the FIFO queue that need nothing but its interface."""
    cases = [getattr(queues, name) for name in FIFO if hasattr(queues, name)]
    names = [
        f"{case.__name__}.{name}"
        for case in cases
        for name in unittest.TestLoader().getTestCaseNames(case)
    ]
    return [name for name in names if name not in INSIDE]


@pytest.mark.parametrize("name", cpython_tests())
def test_cpythons_own_fifo_tests_pass(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """CPython's FIFO tests for asyncio.Queue pass on Mailbox, each as it stands."""
    as_seen_there = {**vars(asyncio), "Queue": Mailbox}
    monkeypatch.setattr(queues, "asyncio", SimpleNamespace(**as_seen_there))
    case, method = name.split(".")
    kind = getattr(queues, case)
    if getattr(kind, "q_class", None) is asyncio.Queue:
        monkeypatch.setattr(kind, "q_class", Mailbox)
    result = unittest.TestResult()
    kind(method).run(result)
    assert result.testsRun == 1
    assert result.wasSuccessful(), (result.failures + result.errors)[0][1]


def test_cpythons_tests_are_there() -> None:
    """The tests are found: at least the 28 that 3.11 has."""
    assert len(cpython_tests()) >= 28
    if sys.version_info >= (3, 13):
        assert any(name.startswith("QueueShutdownTests") for name in cpython_tests())


def test_shutdown_is_there_exactly_where_asyncio_has_it() -> None:
    """`shutdown` exists on Mailbox if and only if it exists on asyncio.Queue."""
    assert hasattr(Mailbox, "shutdown") == hasattr(asyncio.Queue, "shutdown")


def test_every_public_name_of_asyncio_queue_is_there() -> None:
    """The public interface of asyncio.Queue is there, name by name."""
    public = {name for name in dir(asyncio.Queue) if not name.startswith("_")}
    assert public <= set(dir(Mailbox))


@pytest.mark.parametrize("maxsize", [0, -1])
async def test_zero_is_unbounded(maxsize: int) -> None:
    """maxsize 0 or less is unbounded, as in asyncio."""
    box: Mailbox[int] = Mailbox(maxsize)
    for number in range(10_000):
        box.put_nowait(number)
    assert not box.full()
    assert box.qsize() == 10_000
    assert box.maxsize == maxsize


# -- nobody is overtaken --------------------------------------------------------------------------


async def test_a_waiting_put_is_not_overtaken_by_a_later_one() -> None:
    """What waits for room moves in at the very take that makes it; a later put has to wait."""
    box: Mailbox[str] = Mailbox(1)
    box.put_nowait("first")
    waiting = asyncio.create_task(box.put("second"))
    await asyncio.sleep(0)
    assert box.get_nowait() == "first"
    with pytest.raises(asyncio.QueueFull):
        box.put_nowait("third")  # asyncio.Queue lets this one in
    assert await box.get() == "second"
    await waiting


async def test_join_waits_for_what_has_moved_in() -> None:
    """An item counts as unfinished from the moment it is in the mailbox, through the line too."""
    box: Mailbox[int] = Mailbox(1)
    box.put_nowait(1)
    waiting = asyncio.create_task(box.put(2))
    await asyncio.sleep(0)
    joined = asyncio.create_task(box.join())
    await asyncio.sleep(0)
    box.get_nowait()
    box.task_done()
    await asyncio.sleep(0)
    assert box.qsize() == 1
    assert not joined.done()
    assert await box.get() == 2
    box.task_done()
    await joined
    await waiting


async def test_what_has_moved_in_can_be_finished_at_once() -> None:
    """A consumer may take an item and finish it before the task that put it runs again."""
    box: Mailbox[int] = Mailbox(1)
    box.put_nowait(1)
    waiting = asyncio.create_task(box.put(2))
    await asyncio.sleep(0)
    assert [box.get_nowait(), box.get_nowait()] == [1, 2]
    box.task_done()
    box.task_done()
    await waiting
    await asyncio.wait_for(box.join(), 1)
    with pytest.raises(ValueError, match="too many"):
        box.task_done()


async def test_what_moves_in_wakes_a_getter_even_if_its_put_never_runs_again() -> None:
    """A waiting get is served by an item from the line."""
    box: Mailbox[int] = Mailbox(1)
    first, second = (asyncio.create_task(box.get()) for _ in range(2))
    await asyncio.sleep(0)
    box.put_nowait(1)
    waiting = asyncio.create_task(box.put(2))
    assert [await first, await second] == [1, 2]
    await waiting


async def test_a_cancelled_put_leaves_no_ghost() -> None:
    """A put cancelled in the line leaves neither an item nor an unfinished one behind."""
    box: Mailbox[int] = Mailbox(1)
    box.put_nowait(1)
    waiting = asyncio.create_task(box.put(2))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait({waiting})
    assert box.get_nowait() == 1
    assert box.empty()
    box.task_done()
    await asyncio.wait_for(box.join(), 1)


async def test_a_put_cancelled_in_the_turn_it_moved_in_takes_its_item_back() -> None:
    """Cancelled puts put nothing, also when room was made in the same turn."""
    box: Mailbox[int] = Mailbox(1)
    box.put_nowait(1)
    waiting, behind = (asyncio.create_task(box.put(n)) for n in (2, 3))
    await asyncio.sleep(0)
    assert box.get_nowait() == 1
    waiting.cancel()
    await asyncio.wait({waiting})
    assert waiting.cancelled()
    assert await box.get() == 3
    await behind
    for _ in range(2):
        box.task_done()
    await asyncio.wait_for(box.join(), 1)


async def test_a_get_cancelled_in_its_turn_passes_the_turn_on() -> None:
    """What woke it wakes the next in its stead."""
    box: Mailbox[int] = Mailbox(1)
    first, second = (asyncio.create_task(box.get()) for _ in range(2))
    await asyncio.sleep(0)
    box.put_nowait(1)
    first.cancel()
    await asyncio.wait({first})
    assert first.cancelled()
    assert await asyncio.wait_for(second, 1) == 1


class NeverOvertaken(RuleBasedStateMachine):
    """Puts, gets and cancellations in any order: items leave in the order in which puts began."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        self.box: Mailbox[int] = Mailbox(2)
        self.next = 0
        self.expected: deque[int] = deque()  # what is in the mailbox or its line, in order
        self.puts: dict[int, asyncio.Task[None]] = {}
        self.gets: list[asyncio.Task[int]] = []
        self.got: list[int] = []
        self.unfinished = 0

    def turn(self) -> None:
        """Run the loop once."""
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()

    def do(self, call: Any) -> Any:
        """Call a function inside a turn."""
        box: list[Any] = []

        async def run() -> None:
            try:
                box.append(call())
            except (asyncio.QueueFull, asyncio.QueueEmpty) as error:
                box.append(error)

        task = self.loop.create_task(run())
        self.turn()
        assert task.done()
        return box[0]

    @rule()
    def put(self) -> None:
        """Put, waiting if need be."""
        number, self.next = self.next, self.next + 1
        self.expected.append(number)
        task = self.loop.create_task(self.box.put(number))
        self.puts[number] = task
        self.turn()

    @rule()
    def put_nowait(self) -> None:
        """Put without waiting: refused exactly when the mailbox is full."""
        number, self.next = self.next, self.next + 1
        full = self.box.qsize() == 2
        answer = self.do(lambda: self.box.put_nowait(number))
        assert isinstance(answer, asyncio.QueueFull) == full
        if not full:
            self.expected.append(number)

    @rule()
    def get(self) -> None:
        """Get, waiting if need be."""
        self.gets.append(self.loop.create_task(self.box.get()))
        self.turn()

    @rule(times=st.integers(1, 3))
    def get_nowait(self, times: int) -> None:
        """Get several in one turn without waiting."""

        def take() -> None:
            for _ in range(times):
                if not self.box.empty():
                    self.took(self.box.get_nowait())

        self.do(take)

    @precondition(lambda self: self.puts)
    @rule(which=st.integers(0, 100), room=st.booleans())
    def cancel_a_put(self, which: int, room: bool) -> None:
        """Cancel a put, perhaps in the very turn in which it moves in."""
        number = list(self.puts)[which % len(self.puts)]
        if room and not any(not task.done() for task in self.gets):
            self.do(lambda: self.took(self.box.get_nowait()) if not self.box.empty() else None)
        task = self.puts[number]
        if task.cancel():
            self.loop.run_until_complete(asyncio.wait({task}))
        if task.cancelled() and number in self.expected:
            self.expected.remove(number)

    @precondition(lambda self: self.gets)
    @rule(which=st.integers(0, 100))
    def cancel_a_get(self, which: int) -> None:
        """Cancel a get."""
        self.gets[which % len(self.gets)].cancel()
        self.turn()

    @rule(turns=st.integers(1, 3))
    def step(self, turns: int) -> None:
        """Let the loop turn."""
        for _ in range(turns):
            self.turn()

    def took(self, number: int) -> None:
        """Compare what was taken with what had to come."""
        assert number == self.expected.popleft()
        self.got.append(number)

    @invariant()
    def order_holds(self) -> None:
        """What waiting gets received came in order, and everything settles when let."""
        arrived = sorted(t.result() for t in self.gets if t.done() and not t.cancelled())
        self.gets = [task for task in self.gets if not task.done()]
        for number in arrived:  # concurrent gets: who gets which is theirs, the set is ours
            self.took(number)
        self.puts = {n: task for n, task in self.puts.items() if not task.done()}
        assert self.box.qsize() <= 2

    def teardown(self) -> None:
        """Take all there is: nothing is lost, and every put that waits returns."""
        if sys.exc_info()[0] is None:
            for task in self.gets:
                task.cancel()
            self.step(3)
            self.order_holds()
            while self.expected:
                self.do(lambda: self.took(self.box.get_nowait()))
            self.step(2)
            self.order_holds()
            assert not self.puts
            assert self.box.empty()
            for _ in self.got:
                self.box.task_done()
            self.loop.run_until_complete(asyncio.wait_for(self.box.join(), 1))
        for left in asyncio.all_tasks(self.loop):
            left.cancel()
        self.step(2)
        self.loop.close()


TestNeverOvertaken = NeverOvertaken.TestCase


# -- the owner's face -----------------------------------------------------------------------------


def test_the_first_in_the_line_moves_in_as_far_as_there_is_room() -> None:
    """`advance` lets in as many as fit, oldest first, and tells each."""
    box: Mailbox[int] = Mailbox(2)
    told: list[int] = []
    for number in range(4):
        box.stand(Place(number, lambda place: told.append(place.item)))
    box.advance()
    assert (list(box.items), told) == ([0, 1], [0, 1])
    assert [place.item for place in box.line or ()] == [2, 3]
    box.items.popleft()
    box.advance()
    assert (list(box.items), told) == ([1, 2], [0, 1, 2])


def test_a_place_leaves_once() -> None:
    """`leave` takes a place out of the middle of the line, and says when it is gone."""
    box: Mailbox[int] = Mailbox(1)
    places = [Place(number, lambda _: None) for number in range(3)]
    assert not box.leave(places[0])
    for place in places:
        box.stand(place)
    assert box.leave(places[1])
    assert not box.leave(places[1])
    assert [place.item for place in box.line or ()] == [0, 2]


def test_repr_shows_size_bound_and_line() -> None:
    """The repr says how full it is."""
    box: Mailbox[int] = Mailbox(1)
    box.put_nowait(1)
    box.stand(Place(2, lambda _: None))
    assert repr(box) == "<Mailbox 1/1 line=1>"
    assert repr(Mailbox()) == "<Mailbox 0/∞>"
