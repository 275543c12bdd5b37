"""The plain case of a publish: nothing tells it from the general one, but the time it takes."""

from __future__ import annotations

import asyncio
import contextvars
import enum
import gc
import logging
import os
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from actorbus import (
    BusNotRunningError,
    Event,
    EventBus,
    MailboxFullError,
    RetryPolicy,
    backlog,
    home,
    world,
)
from actorbus.hand import at_work
from actorbus.home import NO_EPOCH, NOWHERE, clock_of, home_of
from actorbus.topic import Pattern
from tests.handlers import Gate, Seen
from tests.virtual import VirtualLoop, run

Maker = Callable[..., EventBus]
Take = Callable[[EventBus, Callable[[], float]], None]

# -- both ways side by side -----------------------------------------------------------------------

RETRY = RetryPolicy(max_attempts=2, base=0.1, jitter="none")
TOPICS = ("a", "b", "a:x", "c")
SUBSCRIPTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("a", {}),
    ("**", {"mailbox": 3, "overflow": "drop_new"}),
    ("a:*", {"mailbox": 2, "overflow": "drop_old"}),
    ("a", {"mailbox": 2, "overflow": "fail"}),
    ("b", {"mailbox": 2, "put_timeout": 1.0}),
    ("c", {"mailbox": 2, "overflow": "latest"}),
    ("b", {"concurrency": 2, "mailbox": 4}),
    ("a", {"key": lambda event: event.data % 2, "concurrency": 2}),
    ("b", {"group": "g"}),
    ("b", {"group": "g", "mailbox": 3}),
    ("**", {"replay": 3, "mailbox": 5}),
    ("c", {"retry": RetryPolicy.none()}),
)
STEPS = st.one_of(
    st.tuples(st.just("publish"), st.sampled_from(TOPICS), st.integers(1, 6)),
    st.tuples(st.just("publish"), st.sampled_from(TOPICS), st.integers(1, 6)),
    st.tuples(st.just("await"), st.sampled_from(TOPICS)),
    st.tuples(st.just("keyed"), st.sampled_from(TOPICS)),
    st.tuples(st.just("subscribe"), st.integers(0, len(SUBSCRIPTIONS) - 1)),
    st.tuples(st.just("unsubscribe"), st.integers(0, 20)),
    st.tuples(st.just("look")),
    st.tuples(st.just("turn"), st.integers(1, 5)),
    st.tuples(st.just("sleep"), st.sampled_from([0.001, 0.5, 2.0])),
)


async def story(steps: list[tuple[Any, ...]], *, plain: bool) -> list[Any]:  # noqa: PLR0912
    """Live through some steps and return all that can be seen."""
    log: list[Any] = []
    async with EventBus("two", dead_letters=10_000) as bus:
        if not plain:
            bus._engine.home = NOWHERE
        subs: list[Any] = []
        taken: list[Any] = []
        count = 0

        def handler_for(number: int) -> Any:
            async def handler(event: Event) -> None:
                log.append((number, event.topic, event.data, event.causation_id is None))
                if event.data % 7 == 3:
                    await asyncio.sleep(0.01)
                if event.data % 5 == 4:
                    raise OSError(event.data)
                if event.data % 11 == 10 and event.topic != "c":
                    bus.publish("c", event.data + 100)

            return handler

        def look() -> None:
            audit = bus.audit()
            assert audit.balanced, str(audit)
            log.append(audit)
            log.append(bus.get_stats())
            log.append([(e["topic"], e["data"]) for e in bus.get_history("**", 50)])
            log.append([(r.deliveries, r.waiting, r.refused) for r in taken])
            log.append([(d.subscription, d.event.data, d.reason) for d in bus.dead_letters])

        for what, *how in steps:
            match what:
                case "publish":
                    for _ in range(how[1]):
                        taken.append(bus.publish(how[0], count))
                        count += 1
                case "await":
                    receipt = bus.publish(how[0], count)
                    if receipt.pause:  # the general way has no bursts and makes none
                        receipt.pause = False
                    try:
                        await receipt
                    except MailboxFullError as error:
                        log.append(str(error))
                    count += 1
                case "keyed":
                    taken.append(bus.publish(how[0], count, key=count % 2))
                    count += 1
                case "subscribe":
                    pattern, options = SUBSCRIPTIONS[how[0]]
                    number = len(subs)
                    subs.append(
                        bus.subscribe(
                            pattern, handler_for(number), name=f"s{number}",
                            **{"retry": RETRY, **options},
                        )
                    )  # fmt: skip
                case "unsubscribe" if subs:
                    log.append(subs[how[0] % len(subs)].unsubscribe())
                case "look":
                    look()
                case "turn":
                    for _ in range(how[0]):
                        await asyncio.sleep(0)
                case "sleep":
                    await asyncio.sleep(how[0])
        look()
        await bus.settle()
        look()
        numbers = [receipt.event._number for receipt in taken]
        assert numbers == sorted(set(numbers))
    return log


@given(st.lists(STEPS, max_size=40), st.sampled_from([(8, 1000), (2, 3), (1, 1000)]))
@example([("subscribe", 8), ("subscribe", 9), ("publish", "b", 6), ("turn", 1)] * 2, (8, 1000))
@example([("subscribe", 0), ("subscribe", 11), ("turn", 2), ("publish", "a", 6)] * 2, (1, 1000))
@example(  # a burst on one topic, and events of another in its midst
    [("subscribe", 0), ("subscribe", 11), *[("publish", "a", 5), ("publish", "c", 2)] * 2], (1, 9)
)
def test_the_plain_way_is_the_general_way(
    steps: list[tuple[Any, ...]], burst: tuple[int, int]
) -> None:
    """Order per subscriber, books, statistics, history, refusals: the same at every look."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backlog, "LEAST", burst[0])
        patch.setattr(backlog, "MOST", burst[1])
        assert run(_both, steps) is None


async def _both(steps: list[tuple[Any, ...]]) -> None:
    logging.disable(logging.CRITICAL)
    try:
        plain = await story(steps, plain=True)
        general = await story(steps, plain=False)
    finally:
        logging.disable(logging.NOTSET)
    assert plain == general


# -- the event ------------------------------------------------------------------------------------


async def test_everybody_meets_the_very_same_event(bus: EventBus) -> None:
    """Receipt, handlers, history and dead letter: one event, made once."""
    met: list[Event] = []

    async def one(event: Event) -> None:
        met.append(event)

    async def two(event: Event) -> None:
        met.append(event)
        raise OSError

    bus.subscribe("a", one)
    bus.subscribe("a", two, retry=RetryPolicy.none())
    bus.publish("a")
    await bus.settle()
    met.clear()
    for _ in range(3):
        receipt = bus.publish("a", object())
        await bus.settle()
        (last,) = bus._engine.routes.recent((Pattern("a"),), 1)
        met += [receipt.event, receipt.event, last, [*bus.dead_letters][-1].event]
        assert all(each is met[-1] for each in met[-6:])
    assert len(met) == 18


async def test_the_topic_of_an_event_is_text_whoever_published_first(bus: EventBus) -> None:
    """A route remembers its topic as plain text, not as the word of whoever used it first."""

    class Word(str, enum.Enum):  # noqa: UP042 not a StrEnum: its text is another
        A = "a"

    bus.subscribe("a", Seen())
    bus.publish(Word.A)
    for topic in ("a", Word.A):
        assert type(bus.publish(topic).event.topic) is str


def test_the_time_of_an_event_is_that_of_its_publish(make_bus: Maker) -> None:
    """Unix seconds between those before and after, in bursts too."""

    async def main() -> None:
        async with make_bus() as bus:
            bus.subscribe("a", Seen(), mailbox=100_000)
            for _ in range(2000):
                before = time.time()
                receipt = bus.publish("a")
                after = time.time()
                assert before - 1e-4 <= receipt.event.time <= after + 1e-4
            before = time.time()
            burst = [bus.publish("a") for _ in range(20_000)]
            after = time.time()
            times = [receipt.event.time for receipt in burst]
            assert before - 1e-4 <= times[0]
            assert times[-1] <= after + 1e-4

    asyncio.run(main())


@pytest.fixture
def take_for_the_system_s(monkeypatch: pytest.MonkeyPatch) -> Take:
    """Give what lets a bus take a clock for that of the system, and so of asyncio's own loops."""

    def take(bus: EventBus, clock: Callable[[], float]) -> None:
        monkeypatch.setattr(home, "time", SimpleNamespace(monotonic=clock))
        bus._engine.clock = clock
        bus._engine.epoch = NO_EPOCH

    return take


def test_a_pause_between_two_clocks_is_in_no_event_s_time(
    make_bus: Maker, monkeypatch: pytest.MonkeyPatch, take_for_the_system_s: Take
) -> None:
    """Where the thread is held up between reading the two clocks, they are read again."""

    class Clocks:
        now = 100.0
        pause = 0.0

        def wall(self) -> float:
            self.now += self.pause
            return 1e9 + self.now

    clocks = Clocks()

    async def main() -> None:
        async with make_bus() as bus:
            bus.subscribe("a", Seen())
            bus.publish("a")
            monkeypatch.setattr(world, "wall", clocks.wall)
            take_for_the_system_s(bus, lambda: clocks.now)
            clocks.pause = 0.005
            first = bus.publish("a")
            clocks.pause = 0.0
            clocks.now += 0.001
            second = bus.publish("a")
            assert first.event.time == pytest.approx(1e9 + 100.005, abs=1e-6)
            assert second.event.time == pytest.approx(1e9 + 100.006, abs=1e-6)
            clocks.now += 0.009
            assert bus.publish("a").event.time == pytest.approx(1e9 + 100.015, abs=1e-6)

    asyncio.run(main())


async def test_the_wall_clock_is_set(bus: EventBus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events have the new time, at once where the loop's clock is not the system's."""
    now = [1000.0]
    monkeypatch.setattr(world, "wall", lambda: now[0])
    bus.subscribe("a", Seen())
    times = []
    for step in (0.0, 3600.0, -7200.0):
        now[0] += step
        times += [bus.publish("a").event.time, bus.publish("a").event.time]
    assert times == [1000.0, 1000.0, 4600.0, 4600.0, -2600.0, -2600.0]


def test_the_wall_clock_is_set_while_a_system_loop_runs(
    make_bus: Maker, monkeypatch: pytest.MonkeyPatch, take_for_the_system_s: Take
) -> None:
    """On asyncio's own loops an event shows the new time 10 ms later."""

    async def main() -> None:
        async with make_bus() as bus:
            bus.subscribe("a", Seen())
            bus.publish("a")
            engine = bus._engine
            now, shift = [engine.clock()], [0.0]
            monkeypatch.setattr(world, "wall", lambda: now[0] + shift[0])
            take_for_the_system_s(bus, lambda: now[0])
            for _ in range(2):
                assert bus.publish("a").event.time == now[0]
            shift[0] = -50.0
            now[0] += 0.0101
            assert bus.publish("a").event.time == now[0] - 50.0

    asyncio.run(main())


async def test_ids_sort_by_publish_order_whatever_the_way(bus: EventBus) -> None:
    """Plain publishes, those with options, those from threads: one sequence without doubles."""
    got: list[str] = []

    async def handler(event: Event) -> None:
        got.append(event.id)

    bus.subscribe("a", handler)
    bus.publish("a")
    made: list[str] = []
    for number in range(100):
        made.append(bus.publish("a").event.id)
        made.append(bus.publish("a", key=number).event.id)
        made.append((await asyncio.to_thread(bus.publish, "a")).event.id)
    await bus.settle()
    assert made == sorted(set(made))
    assert got[1:] == made
    assert [each["id"] for each in bus.get_history("a", 100)] == made[-100:]


# -- the books ------------------------------------------------------------------------------------


class Parting:
    """A payload that publishes when it goes."""

    def __init__(self, bus: EventBus) -> None:
        self.bus = bus

    def __del__(self) -> None:
        self.bus.publish("a", "within")


@pytest.mark.parametrize("before", [0, 1, 2, 20])
async def test_a_publish_within_a_publish_is_counted(make_bus: Maker, before: int) -> None:
    """A finalizer may publish while history lets its payload go to make room for another."""
    bus = make_bus(history=1)
    seen = Seen()
    bus.subscribe("a", seen)
    bus.publish("a", Parting(bus))
    await bus.settle()
    seen.got.clear()
    for number in range(before):
        bus.publish("b", number)
    bus.publish("a", "around")
    assert bus.audit().balanced, str(bus.audit())
    assert bus.get_stats()["events_published"] == 3 + before
    await bus.settle()
    assert sorted(seen.got) == ["around", "within"]


async def test_who_looks_at_the_books_in_the_midst_of_a_fan_out_finds_them_right(
    bus: EventBus, caplog: pytest.LogCaptureFixture
) -> None:
    """One full mailbox has its line in the log while others are still to be offered."""
    looks: list[bool] = []

    class Looking(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            audit = bus.audit()
            looks.append(audit.balanced)
            assert bus.get_stats()["events_published"] == count

    count = 0
    gates = [Gate() for _ in range(6)]
    for number, gate in enumerate(gates):
        overflow = ("drop_new", "drop_old", "fail")[number % 3]
        bus.subscribe("a", gate, name=f"s{number}", mailbox=1, overflow=overflow)
    bus.subscribe("a", Seen(), mailbox=1000)
    logger = logging.getLogger("actorbus")
    handler = Looking()
    logger.addHandler(handler)
    try:
        for _ in range(5):
            count += 1
            bus.publish("a", count)
            await asyncio.sleep(0)
    finally:
        logger.removeHandler(handler)
    assert len(looks) >= 6
    assert all(looks)
    for gate in gates:
        gate.open()
    await bus.settle()


async def test_thousands_of_topics_that_are_never_looked_at(make_bus: Maker) -> None:
    """What is not booked yet is bounded, and none of it is lost."""
    async with make_bus(history=0) as bus:  # with one, the routes of old topics are forgotten
        bus.subscribe("**", Seen(), name="s", mailbox=100_000)
        for _ in range(3):
            for number in range(2500):
                bus.publish(f"t:{number}")
        assert 0 < len(bus._engine.routes._unbooked) <= 1000
        assert bus.audit().totals.routed == 7500
        assert bus.get_stats()["events_published"] == 7500
        assert not bus._engine.routes._unbooked


async def test_a_copying_bus_copies_every_payload(make_bus: Maker) -> None:
    """However many came before: what is changed after the publish is changed for nobody."""
    async with make_bus(copy="deep") as bus:
        seen = Seen()
        bus.subscribe("a", seen)
        for number in range(4):
            payload = [number]
            bus.publish("a", payload)
            payload.append(-1)
        await bus.settle()
        assert seen.got == [[0], [1], [2], [3]]


# -- where it runs --------------------------------------------------------------------------------


async def test_nobody_is_at_work_once_all_sleep(bus: EventBus) -> None:
    """However a worker ends: asleep, cancelled, released, timed out."""
    before = at_work.workers
    gate = Gate()
    subs = [bus.subscribe("a", gate), bus.subscribe("a", Seen(), concurrency=3)]
    subs.append(bus.subscribe("a", gate, timeout=1.0, retry=RetryPolicy.none()))
    subs.append(bus.subscribe("a", Seen(), key=lambda event: 1))
    for number in range(5):
        bus.publish("a", number)
    await gate.entered(2)
    assert at_work.workers > before
    (task, *_) = (each for each in asyncio.all_tasks() if "Gate" in each.get_name())
    task.cancel()
    await asyncio.sleep(10)
    gate.open()
    await bus.settle()
    assert at_work.workers == before
    for sub in subs:
        sub.unsubscribe()
        await sub.ended()
    await asyncio.sleep(0)
    assert at_work.workers == before


def test_nobody_is_at_work_once_the_loop_is_closed(make_bus: Maker) -> None:
    """Workers of a closed loop are not counted for ever, whatever they were doing."""
    gc.collect()
    before = at_work.workers
    bus = make_bus()

    async def main() -> None:
        gate = Gate()
        for _ in range(3):
            bus.subscribe("a", gate)
            bus.subscribe("a", Seen())
        bus.publish("a", 1)
        bus.publish("a", 2)
        await gate.entered(3)

    run(main)
    assert bus.audit().balanced
    gc.collect()
    assert at_work.workers == before


async def test_a_cause_while_the_delivery_is_in_hand_and_never_after(bus: EventBus) -> None:
    """In the handler, in a task it made, in a call it scheduled; not once the actor sleeps."""
    met: dict[str, str | None] = {}
    outlives = asyncio.Event()
    tasks: list[asyncio.Task[None]] = []

    def publish(how: str) -> None:
        met[how] = bus.publish("other").event.causation_id

    async def later() -> None:
        publish("task")
        await outlives.wait()
        publish("after")

    async def handler(event: Event) -> None:
        if event.data != "mid":
            return
        publish("handler")
        asyncio.get_running_loop().call_soon(publish, "call")
        tasks.append(asyncio.create_task(later()))
        await asyncio.sleep(1)
        publish("again")

    bus.subscribe("a", handler)
    bus.subscribe("other", Seen())
    bus.publish("other")
    for data in range(200):
        bus.publish("a", data)
    await bus.settle()
    receipts = [bus.publish("a", data) for data in (*range(20), "mid", *range(20))]
    await bus.settle()
    outlives.set()
    await tasks[0]
    publish("outside")
    cause = receipts[20].event.id
    assert met.pop("after") is None
    assert met.pop("outside") is None
    assert met == dict.fromkeys(("handler", "call", "task", "again"), cause)


def test_a_loop_that_does_not_run_takes_nothing(make_bus: Maker) -> None:
    """Between two runs of a loop, on its own thread, a publish says so and appends nowhere."""
    bus = make_bus()
    loop = asyncio.new_event_loop()
    seen = Seen()
    bus.subscribe("a", seen)

    async def publish(data: int) -> None:
        bus.publish("a", data)
        bus.publish("a", data)
        await bus.settle()

    try:
        loop.run_until_complete(publish(1))
        with pytest.raises(BusNotRunningError):
            bus.publish("a", 2)
        loop.run_until_complete(publish(3))
        assert seen.got == [1, 1, 3, 3]
        loop.run_until_complete(bus.close())
    finally:
        loop.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("plain", [True, False])
async def test_a_child_forked_in_the_midst_of_a_lot(bus: EventBus, plain: bool) -> None:
    """It publishes nothing into its copies of the mailboxes, and can begin with a new bus."""
    codes: list[int] = []

    def in_child() -> int:
        (sub,) = (each for each in bus._registry.live.values() if each.name == "s")
        queued = len(sub.inbox.items)
        for _ in range(3):
            try:
                bus.publish("a", "child")
            except BusNotRunningError:
                continue
            return 2
        if len(sub.inbox.items) != queued:
            return 3
        fresh, seen = EventBus("fresh"), Seen()
        fresh.subscribe("a", seen)

        async def main() -> None:
            for data in range(5):
                receipt = fresh.publish("a", data)
                assert receipt.event.causation_id is None
                assert receipt.event.id.startswith(world.run.name)
            await fresh.close()

        asyncio.run(main())
        return 0 if seen.got == list(range(5)) else 4

    async def handler(data: Any) -> None:
        if data != 10:
            return
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = contextvars.Context().run(in_child)
            finally:
                os._exit(code)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    if not plain:
        bus._engine.home = NOWHERE
    bus.subscribe("a", handler, name="s")
    for data in range(30):
        bus.publish("a", data)
    await bus.settle()
    assert codes == [0]
    assert bus.audit().totals.acked == 30


class Strange(asyncio.AbstractEventLoop):
    """A loop of another make, with a clock of its own: what uvloop is to the bus."""

    def __init__(self) -> None:
        self._inner = asyncio.SelectorEventLoop()

    def time(self) -> float:
        return self._inner.time() + 1000.0

    def call_at(self, when: float, *args: Any, **options: Any) -> Any:  # type: ignore[override]
        return self._inner.call_at(when - 1000.0, *args, **options)

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, **options: Any) -> Any:
        return asyncio.Task(coro, loop=self, **options)

    def run(self, main: Any) -> Any:
        """Run a coroutine to its end."""
        self._inner.call_soon(asyncio._set_running_loop, self)
        task = self.create_task(main)
        task.add_done_callback(lambda _: self._inner.stop())
        self._inner.run_forever()
        return task.result()


def _through(name: str) -> Any:
    return lambda self, *args, **options: getattr(self._inner, name)(*args, **options)


for _name in (
    "call_soon", "call_soon_threadsafe", "call_later", "is_running", "is_closed", "close",
    "get_debug", "call_exception_handler", "get_task_factory",
):  # fmt: skip
    setattr(Strange, _name, _through(_name))
Strange.__abstractmethods__ = frozenset()  # type: ignore[attr-defined]


def test_a_loop_of_another_make(make_bus: Maker) -> None:
    """A loop that does not say in which thread it runs serves as well, clock and threads too."""
    loop = Strange()  # type: ignore[abstract]  # the rest is not asked for
    bus = make_bus()
    seen = Seen()
    bus.subscribe("a", seen)
    bus.subscribe("a", Gate(), mailbox=1, put_timeout=0.01, name="full")

    async def main() -> None:
        assert asyncio.get_running_loop() is loop
        assert not hasattr(loop, "_thread_id")
        for data in range(3):
            before = time.time()
            receipt = await bus.publish("a", data)
            assert receipt.at > 1000.0
            assert before - 0.01 <= receipt.event.time <= time.time() + 0.01
        done: asyncio.Future[Any] = loop.create_future()

        def in_thread() -> None:
            receipt = bus.publish("a", 3)
            receipt.wait(10)
            loop.call_soon_threadsafe(done.set_result, receipt)

        thread = threading.Thread(target=in_thread)
        thread.start()
        await done
        thread.join()
        await bus.close(timeout=0.01)

    try:
        loop.run(main())
    finally:
        loop.close()
    assert seen.got == [0, 1, 2, 3]
    assert home_of(loop)._thread_id is None


@pytest.mark.parametrize("kind", [asyncio.SelectorEventLoop, VirtualLoop, Strange])
def test_the_clock_of_a_loop_is_the_loop_s(kind: Any) -> None:
    """The short cut to the system's clock is taken only where the loop takes it too."""
    loop = kind()
    try:
        clock = clock_of(loop)
        assert (clock is time.monotonic) == (kind is asyncio.SelectorEventLoop)
        assert loop.time() <= clock() <= loop.time()
    finally:
        loop.close()
