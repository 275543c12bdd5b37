"""Lots: what a worker takes together is still queued, in order, and counted once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from actorbus import (
    Actor,
    ActorState,
    AskFailedError,
    DeadReason,
    Event,
    EventBus,
    Overflow,
    RestartPolicy,
    RetryPolicy,
)
from actorbus import lot as lots
from actorbus.admission import Inbox
from actorbus.backlog import Backlog
from actorbus.home import NO_EPOCH
from actorbus.ledger import Ledger
from actorbus.lot import Lot
from actorbus.receipt import Receipt, Route
from tests.handlers import Gate, Seen
from tests.virtual import VirtualLoop, run

Maker = Callable[..., EventBus]

# -- the lot against a model ----------------------------------------------------------------------


class Owner:
    """A subscription with one worker, which has one lot."""

    name = "owner"
    answers = True
    suspended = False

    def __init__(self, overflow: Overflow, capacity: int, *, single: bool) -> None:
        self.loop = VirtualLoop()
        self.ledger = Ledger()
        self.refused: list[Receipt] = []
        self.backlog = Backlog()
        self.inbox = Inbox(self, self.ledger, capacity, overflow, None, None)
        self.inbox.open()
        self.inbox.asleep = 0
        self.single = single
        self.hire()

    def hire(self) -> None:
        """Begin with a new worker, and so a new lot."""
        self.lot = Lot(self.inbox, self.loop, single=self.single)

    def rouse(self) -> None:
        """Do nothing: its worker is awake."""

    def progress(self) -> None:
        """Bring the books up to date, as a life does."""
        self.lot.put_back()

    def give_up(
        self, receipt: Receipt, reason: DeadReason, error: BaseException | None = None
    ) -> None:
        """Remember what was given up."""
        self.refused.append(receipt)

    def conflate(self, receipt: Receipt) -> None:
        """Never called."""
        raise AssertionError

    def holds(self, receipt: Receipt) -> bool:
        """Never called."""
        raise AssertionError

    def reawaited(self, place: Any, *, awaited: bool) -> None:
        """Never called."""
        raise AssertionError


class Model:
    """What a lot and its mailbox must amount to: one queue, one in hand, a count."""

    def __init__(self, overflow: Overflow, capacity: int, *, single: bool) -> None:
        self.owner = Owner(overflow, capacity, single=single)
        self.capacity = capacity
        self.queue: deque[Receipt] = deque()
        self.begun: list[Receipt] = []  # ever, in order
        self.in_hand: Receipt | None = None
        self.failed = self.lost = 0
        self.rest: Any = None
        self.route = Route(None, "t")  # type: ignore[arg-type]  # nobody asks for its bus
        self.number = 0

    @property
    def lot(self) -> Lot:
        return self.owner.lot

    def arrive(self, through_the_door: bool) -> None:
        """A publish, by either way in."""
        self.number += 1
        receipt = Receipt(self.route, self.number, 0.0, NO_EPOCH, self.number)
        inbox = self.owner.inbox
        refused = len(self.owner.refused)
        if through_the_door and len(inbox.items) < inbox.gate:
            inbox.items.append(receipt)
            inbox.ledger.routed += 1
        else:
            inbox.offer(receipt)
        assert len(inbox.items) <= inbox.mailbox.limit
        given_up = self.owner.refused[refused:]
        self.queue.append(receipt)
        for each in given_up:
            self.queue.remove(each)

    def begin(self, size: int) -> None:
        """Begin a chunk, as the worker does when there is mail."""
        if self.rest is None and (self.owner.inbox.items or self.lot.stock):
            self.rest = self.lot.begin(size)
            assert self.lot.in_hand is None
            self.step()

    def step(self) -> None:
        """Go on to the next of the chunk; at its end close it."""
        if self.rest is None:
            return
        receipt = next(self.rest, None)
        if receipt is None:
            self.close(failed=False)
            return
        assert receipt is self.queue.popleft()
        self.begun.append(receipt)
        self.in_hand = receipt

    def close(self, *, failed: bool) -> None:
        """The chunk is over, or the one in hand has failed and ends it."""
        if self.rest is None:
            return
        if not failed:
            for receipt in self.rest:
                assert receipt is self.queue.popleft()
                self.begun.append(receipt)
        chunk = self.lot.close(failed=failed)
        assert chunk == self.begun[-len(chunk) :]
        self.failed += failed
        self.rest = self.in_hand = None
        if not failed:
            assert self.owner.ledger.acked == len(self.begun) - self.failed - self.lost

    def let_go(self) -> None:
        """What is in hand is settled elsewhere; the worker ends."""
        if self.rest is not None:
            self.lot.let_go()
            assert next(self.rest, None) is None
            self.lost += 1
            self.rest = self.in_hand = None
            self.owner.hire()

    def look(self) -> None:
        """Somebody looks at the books."""
        self.owner.progress()
        inbox = self.owner.inbox
        line = [place.item for place in inbox.mailbox.line or ()]
        assert [*inbox.items, *line] == list(self.queue)
        assert inbox.mailbox.limit == self.capacity
        assert len(inbox.items) == min(len(self.queue), self.capacity)
        assert self.lot.stock == []
        running = self.in_hand is not None
        ledger = self.owner.ledger
        assert ledger.acked == len(self.begun) - running - self.failed - self.lost
        dead = len(self.owner.refused)
        settled = ledger.acked + self.failed + self.lost + dead
        assert ledger.routed == settled + len(self.queue) + running

    def check(self) -> None:
        """What holds without looking."""
        assert self.lot.in_hand is self.in_hand
        inbox = self.owner.inbox
        assert inbox.gate == inbox.mailbox.limit <= self.capacity
        line = len(inbox.mailbox.line or ())
        assert len(self.queue) - line <= self.capacity
        assert not line or len(inbox.items) == inbox.mailbox.limit == self.capacity


STEPS = st.one_of(
    st.tuples(st.just("arrive"), st.booleans()),
    st.tuples(st.just("begin"), st.integers(1, 5)),
    st.tuples(st.just("step")),
    st.tuples(st.just("step")),
    st.tuples(st.sampled_from(["done", "fail", "let_go", "look"])),
)


@given(
    st.lists(STEPS, max_size=60),
    st.integers(1, 8),
    st.integers(1, 6),
    st.booleans(),
    st.sampled_from([Overflow.BLOCK, Overflow.DROP_NEW]),
)
@example(  # a full lot: what is published meanwhile finds the room of what has begun
    [*[("arrive", True)] * 4, ("begin", 4), ("step",), *[("arrive", True)] * 3, ("look",)],
    4, 4, False, Overflow.BLOCK,
)  # fmt: skip
@example(  # a chunk cut short by a look, then a failure
    [*[("arrive", True)] * 4, ("begin", 3), ("step",), ("look",), ("fail",), ("begin", 3)],
    4, 2, False, Overflow.DROP_NEW,
)  # fmt: skip
def test_a_lot_is_one_queue_whatever_happens(
    steps: list[tuple[Any, ...]], capacity: int, most: int, single: bool, overflow: Overflow
) -> None:
    """Order is kept, nothing is lost or doubled, acked and queued add up, the limit comes back."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lots, "MOST", most)
        model = Model(overflow, capacity, single=single)
        try:
            for what, *how in steps:
                match what:
                    case "done" | "fail":
                        model.close(failed=what == "fail")
                    case _:
                        getattr(model, what)(*how)
                model.check()
            model.look()
            model.close(failed=False)
            while model.queue:
                model.begin(64)
                model.close(failed=False)
            model.look()
        finally:
            model.owner.loop.close()


# -- in the midst of a lot ------------------------------------------------------------------------


async def fill(bus: EventBus, topic: str, count: int) -> None:
    """Let the worker's chunks grow, so that the next mail is taken in long ones."""
    for _ in range(count):
        bus.publish(topic, "fast")
    await bus.settle()


async def test_every_look_in_the_midst_of_a_lot_sees_the_truth(bus: EventBus) -> None:
    """Audit, statistics, explanation and reading, from inside a handler, count each delivery."""
    looks: list[tuple[int, int, int]] = []

    async def handler(data: Any) -> None:
        if isinstance(data, int):
            terms = bus.audit().subscriptions["s"]
            assert terms.difference == 0
            assert terms.running == 1
            room = bus.explain("t").matches[0].room
            (row,) = (each for each in bus.reading().actors if each.label == "s")
            assert row.terms == terms
            assert bus.get_stats()["events_delivered"] == terms.acked
            looks.append((terms.acked, terms.queued, room))

    bus.subscribe("t", handler, name="s", mailbox=200)
    await fill(bus, "t", 127)
    for number in range(100):
        bus.publish("t", number)
    await bus.settle()
    assert looks == [(127 + n, 99 - n, 101 + n) for n in range(100)]


async def test_unsubscribing_oneself_in_the_midst_of_a_lot(bus: EventBus) -> None:
    """What stood in the mailbox is still handled; what comes later is not matched."""
    got: list[Any] = []

    async def handler(data: Any) -> None:
        got.append(data)
        if data == 10:
            assert bus.unsubscribe("t", handler) == 1
            bus.publish("t", "late")

    sub = bus.subscribe("t", handler)
    for number in range(50):
        bus.publish("t", number)
    await sub.ended()
    assert got == list(range(50))


async def test_publishing_to_oneself_in_the_midst_of_a_lot(bus: EventBus) -> None:
    """Order of entry is order of arrival, and no delivery is refused while there is room."""
    got: list[int] = []

    async def handler(data: int) -> None:
        got.append(data)
        if data < 500:
            assert bus.publish("t", data + 100).refused == 0

    bus.subscribe("t", handler, mailbox=100, overflow="fail")
    for number in range(100):
        bus.publish("t", number)
    await bus.settle()
    assert got == list(range(600))


async def test_settled_of_a_delivery_of_the_same_lot(bus: EventBus) -> None:
    """One that is done has settled; one behind can only settle after, and is refused at once."""
    receipts: list[Any] = []
    met: list[Any] = []

    async def handler(data: Any) -> None:
        if data == 20:
            met.append((await receipts[19].settled()).ok)
            try:
                await receipts[21].settled()
            except Exception as error:
                met.append(type(error).__name__)

    bus.subscribe("t", handler, name="s")
    receipts += [bus.publish("t", number) for number in range(40)]
    await bus.settle()
    assert met == [True, "DeadlockError"]
    assert [letter.event.data for letter in bus.dead_letters] == [21]
    assert bus.audit().totals.acked == 39


async def test_a_worker_cancelled_from_outside_in_the_midst_of_a_lot(bus: EventBus) -> None:
    """The delivery in hand is run again first, the rest after it, in order."""
    gate = Gate()
    bus.subscribe("t", gate)
    for number in range(20):
        bus.publish("t", number)
    await gate.entered()
    (task,) = (each for each in asyncio.all_tasks() if "Gate" in each.get_name())
    task.cancel()
    await asyncio.sleep(0)
    gate.open()
    await bus.settle()
    assert gate.got == [0, *range(20)]


class Stop:
    """Remembers what it gets; at one delivery it says so and waits.

    Attributes:
        arrived: Set when that delivery is in hand.
        go_on: To be set.
    """

    def __init__(self, at: Any) -> None:
        self.got: list[Any] = []
        self.arrived, self.go_on = asyncio.Event(), asyncio.Event()
        self._at = at

    async def __call__(self, data: Any) -> None:
        if data != "fast":
            self.got.append(data)
        if data == self._at:
            self.arrived.set()
            await self.go_on.wait()


async def test_a_loop_closed_in_the_midst_of_a_lot(make_bus: Maker) -> None:
    """What is done is acked; what is in hand and what is behind it is dead (`loop_closed`)."""
    bus = make_bus()

    async def first() -> None:
        stop = Stop(at=10)
        bus.subscribe("t", stop, name="s")
        await bus.start()
        await fill(bus, "t", 127)
        for number in range(30):
            bus.publish("t", number)
        await stop.arrived.wait()

    await asyncio.to_thread(run, first)
    terms = bus.audit().subscriptions["s"]
    assert (terms.acked, terms.dead, terms.pending) == (137, 20, 0)
    assert {letter.reason for letter in bus.dead_letters} == {DeadReason.LOOP_CLOSED}
    assert [letter.event.data for letter in bus.dead_letters] == list(range(10, 30))


@pytest.mark.parametrize("end", ["stop", "close"])
async def test_an_end_in_the_midst_of_a_lot(make_bus: Maker, end: str) -> None:
    """Stopping finishes what is in hand; a drain out of time gives that up as well."""
    async with make_bus() as bus:
        stop = Stop(at=10)
        bus.subscribe("t", stop, name="s")
        await fill(bus, "t", 127)
        for number in range(30):
            bus.publish("t", number)
        await stop.arrived.wait()
        if end == "stop":
            ref = bus.actor("s")
            assert ref is not None
            ending = asyncio.create_task(ref.stop())
            await asyncio.sleep(1)
            stop.go_on.set()
            await ending
        else:
            await bus.close(timeout=1)
        reasons = {letter.event.data: letter.reason for letter in bus.dead_letters}
        if end == "stop":
            assert reasons == dict.fromkeys(range(11, 30), DeadReason.STOPPED)
        else:
            assert reasons == dict.fromkeys(range(10, 30), DeadReason.DRAIN_TIMEOUT)
        assert stop.got == list(range(11))
        assert bus.audit().totals.acked == 127 + (11 if end == "stop" else 10)


async def test_a_time_limit_that_is_ignored_in_the_midst_of_a_lot(bus: EventBus) -> None:
    """The one in hand is dead; those before it are acked, those behind it handled next."""
    got: list[Any] = []

    async def handler(data: Any) -> None:
        got.append(data)
        if data == 10:
            while True:
                try:
                    await asyncio.sleep(3600)
                    return
                except asyncio.CancelledError:
                    continue

    bus.subscribe("t", handler, name="s", timeout=5.0)
    await fill(bus, "t", 127)
    got.clear()
    for number in range(30):
        bus.publish("t", number)
    await bus.settle()
    assert got == list(range(30))
    (letter,) = bus.dead_letters
    assert (letter.event.data, letter.reason) == (10, DeadReason.TIMEOUT_IGNORED)
    assert bus.audit().totals.acked == 127 + 29
    await asyncio.sleep(4000)  # what it returns at last is ignored
    assert bus.audit().totals.acked == 127 + 29


async def test_a_time_limit_in_the_midst_of_a_lot(bus: EventBus) -> None:
    """It is that delivery's attempt that ran out of time, and only that."""
    stop = Stop(at=10)
    bus.subscribe("t", stop, name="s", timeout=5.0, retry=RetryPolicy.none())
    await fill(bus, "t", 127)
    for number in range(30):
        bus.publish("t", number)
    await bus.settle()
    assert stop.got == list(range(30))
    assert [letter.event.data for letter in bus.dead_letters] == [10]
    assert isinstance(next(iter(bus.dead_letters)).error, TimeoutError)
    (row,) = (each for each in bus.reading().actors if each.label == "s")
    assert row.ledger.timeouts == 1


async def test_a_member_with_a_lot_open_has_the_room_it_has(bus: EventBus) -> None:
    """A group chooses by what is queued, whether or not a member has taken it together."""
    stop = Stop(at=0)
    one = bus.subscribe("g", stop, name="one", group="g", mailbox=20)
    bus.subscribe("alone", Seen(), name="other", mailbox=20)
    bus.publish("g", 0)
    await stop.arrived.wait()
    stop._at = 5
    for number in range(1, 11):
        bus.publish("g", number)
    stop.go_on.set()
    stop.go_on = asyncio.Event()
    stop.arrived.clear()
    await stop.arrived.wait()  # 5 in hand, 6 to 10 taken
    gate = Gate()
    bus.subscribe("g", gate, name="two", group="g", mailbox=19)
    bus.publish("g", "x")
    assert (one.inbox.waiting, len(one.inbox.items)) == (0, 5)
    assert bus.audit().subscriptions["two"].pending == 1
    for _ in range(3):
        bus.publish("g", "y")
    assert bus.audit().subscriptions["two"].pending == 4
    stop.go_on.set()
    gate.open()
    await bus.settle()


@pytest.mark.parametrize("options", [{}, {"key": lambda event: 1}], ids=["plain", "keyed"])
async def test_a_worker_that_is_to_end_takes_nothing_when_it_has_yielded(
    bus: EventBus, options: dict[str, Any]
) -> None:
    """A sibling fails while a busy actor yields: the old instance begins nothing more."""
    got: list[Any] = []

    class Busy(Actor):
        patterns = ("t",)

        async def receive(self, event: Event) -> None:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, VirtualLoop)
            loop._now += 0.002
            got.append((id(self), event.data))

    class Failing(Actor):
        patterns = ("t",)

        async def receive(self, event: Event) -> None:
            if event.data == 0:
                got.append("failure")
                raise OSError

    both = bus.supervisor("both", strategy="one_for_all")
    both.spawn(Busy, name="busy", guarantee="at_most_once", **options)
    both.spawn(Failing, name="failing", retry=RetryPolicy.none())
    await asyncio.sleep(1)  # both have started
    for number in range(10):
        bus.publish("t", number)
    await bus.settle()
    then = got.index("failure")
    before, after = got[:then], got[then + 1 :]
    assert [data for _, data in before + after] == list(range(10))
    assert {who for who, _ in before}.isdisjoint({who for who, _ in after})


async def test_a_handler_that_swallows_its_end_is_the_last_of_its_lot(bus: EventBus) -> None:
    """A sibling fails in the midst of a lot: nothing more of it begins on the old instance."""
    got: list[Any] = []
    old: list[Actor] = []

    class Stubborn(Actor):
        patterns = ("t",)

        async def receive(self, event: Event) -> None:
            if event.data == "fast":
                return
            got.append((self in old, event.data))
            if event.data == 10:
                old.append(self)
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    return

    class Failing(Actor):
        patterns = ("fail",)

        async def receive(self, event: Event) -> None:
            raise OSError

    both = bus.supervisor("both", strategy="one_for_all")
    both.spawn(Stubborn, name="s")
    both.spawn(Failing, retry=RetryPolicy.none())
    await asyncio.sleep(1)
    await fill(bus, "t", 127)
    for number in range(30):
        bus.publish("t", number)
    await asyncio.sleep(1)
    bus.publish("fail")
    await asyncio.sleep(10)  # settle would look at the books, and so put the lot back
    await bus.settle()
    assert got == [(False, number) for number in range(30)]


async def test_what_an_abandoned_handler_returns_is_no_reply(bus: EventBus) -> None:
    """Its delivery is dead: whoever asked hears of that, not of a reply that came too late."""

    async def late(data: Any) -> str:
        for _ in range(2):
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                continue
        return "late"

    async def silent(data: Any) -> None:
        await asyncio.sleep(60)

    bus.subscribe("t", late, timeout=1.0)
    bus.subscribe("t", silent)
    with pytest.raises(AskFailedError):
        await bus.ask("t", timeout=None)


async def test_a_suspended_actor_tries_one_of_a_lot(bus: EventBus) -> None:
    """A probe is one delivery; once it is acked the rest follows, in order."""
    got: list[Any] = []
    broken = True

    class Fickle(Actor):
        patterns = ("t",)

        async def receive(self, event: Event) -> None:
            got.append(event.data)
            if broken:
                raise OSError

    ref = bus.spawn(
        Fickle, retry=RetryPolicy.none(), restart=RestartPolicy(max_restarts=0, within=1.0)
    )
    await bus.settle()
    for number in range(10):
        bus.publish("t", number)
    await asyncio.sleep(30)
    assert (got, ref.state) == ([0], ActorState.SUSPENDED)
    await asyncio.sleep(60)
    assert (got, ref.state) == ([0, 1], ActorState.SUSPENDED)
    broken = False
    await asyncio.sleep(600)
    assert (got, ref.state) == (list(range(10)), ActorState.RUNNING)


# -- what is measured -----------------------------------------------------------------------------


async def test_a_wait_lasts_until_the_worker_works(bus: EventBus) -> None:
    """What passes between the publish that hires a worker and its first step is waiting."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    bus.subscribe("t", Seen(), name="s")
    bus.publish("t")
    loop._now += 0.05  # the publisher works on
    await bus.settle()
    (row,) = (each for each in bus.reading().actors if each.label == "s")
    assert row.ledger.wait is not None
    assert row.ledger.duration is not None
    assert row.ledger.wait.total == pytest.approx(0.05)
    assert row.ledger.duration.total == 0.0


# -- the clock of a chunk -------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"overflow": "drop_old"}, {"concurrency": 2}])
async def test_a_slow_handler_ends_its_chunk(bus: EventBus, options: dict[str, Any]) -> None:
    """What others took in the same chunk is not counted as the time of the one that fails."""
    attempts: list[int] = []

    async def handler(number: int) -> None:
        if number < 100:
            return
        await asyncio.sleep(1.0)
        if number == 150:
            attempts.append(number)
            raise ValueError

    retry = RetryPolicy(5, base=0.1, jitter="none", max_elapsed=20.0)
    bus.subscribe("t", handler, name="h", retry=retry, mailbox=1000, **options)
    for number in range(160):
        bus.publish("t", number)
    await bus.settle()
    assert len(attempts) == 5
    row = next(row for row in bus.reading().actors if row.label == "h")
    duration = row.ledger.duration
    assert duration is not None
    assert sum(duration.counts[:8]) == 100  # those that took no time
    assert duration.counts[8] == 64  # 59 others of 1 s each, and the five attempts
