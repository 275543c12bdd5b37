"""Full mailboxes: the line, its time limit, the stall, and what each overflow policy does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from actorbus import (
    ConfigurationError,
    DeadReason,
    Event,
    EventBus,
    MailboxFullError,
    Outcome,
    Receipt,
    RestartPolicy,
    RetryPolicy,
)
from tests.conftest import heed_threads
from tests.virtual import VirtualLoop

Maker = Callable[..., EventBus]


def reasons(bus: EventBus, subscription: str = "s") -> list[str]:
    """Return why deliveries of a subscription died, in order of death."""
    return [str(letter.reason) for letter in bus.dead_letters.list(subscription=subscription)]


def payloads(bus: EventBus, reason: str) -> list[Any]:
    """Return the payloads of the dead letters with a reason, in order of death."""
    return [letter.event.data for letter in bus.dead_letters.list(reason=reason)]


def now() -> float:
    """Return the loop's time."""
    return asyncio.get_running_loop().time()


class Gated:
    """A handler that starts one delivery at a time and ends it when the gate opens.

    Attributes:
        gate: Lets every handler go on.
        started: Payloads in the order in which handlers started.
    """

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.started: list[Any] = []

    async def __call__(self, event: Event) -> None:
        self.started.append(event.data)
        await self.gate.wait()


async def fill(bus: EventBus, topic: str = "t", *, upto: int = 1, first: int = 0) -> int:
    """Give a gated handler one event in hand and fill its mailbox; return the next number."""
    bus.publish(topic, first)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for number in range(first + 1, first + 1 + upto):
        bus.publish(topic, number)
    return first + 1 + upto


# -- bounded --------------------------------------------------------------------------------------


async def test_every_mailbox_is_bounded_and_a_batch_frees_no_room(bus: EventBus) -> None:
    """Capacity counts what has not started: one delivery in hand, and exactly `mailbox` queued."""
    handler = Gated()
    bus.subscribe("t", handler, name="s", mailbox=3)
    await fill(bus, upto=3)
    terms = bus.audit().subscriptions["s"]
    assert (terms.running, terms.queued, terms.waiting) == (1, 3, 0)
    receipt = bus.publish("t", 4)
    assert receipt.waiting == 1
    handler.gate.set()
    await receipt


@pytest.mark.parametrize("mailbox", [0, -1])
def test_the_bus_refuses_unbounded_mailboxes(mailbox: int) -> None:
    """`mailbox=0`, unbounded in asyncio, is a `ConfigurationError`."""
    with pytest.raises(ConfigurationError, match="mailbox must be at least 1"):
        EventBus("test").subscribe("t", Gated(), mailbox=mailbox)


async def test_a_batch_in_hand_frees_one_place_per_start(bus: EventBus) -> None:
    """However many deliveries a worker takes at a turn, each frees room only when it starts."""
    room: list[int] = []

    async def handler(event: Event) -> None:
        room.append(bus.explain("t").matches[0].room)

    bus.subscribe("t", handler, mailbox=40)
    for number in range(40):
        bus.publish("t", number)
    assert bus.explain("t").matches[0].room == 0
    await bus.settle()
    assert room == list(range(1, 41))


async def test_a_retrying_delivery_is_outside_the_capacity(bus: EventBus) -> None:
    """A delivery in hand or waiting for its next attempt takes no room."""

    async def handler(event: Event) -> None:
        raise OSError

    bus.subscribe("t", handler, name="s", mailbox=2, retry=RetryPolicy(base=4.0, jitter="none"))
    await fill(bus, upto=2)
    terms = bus.audit().subscriptions["s"]
    assert (terms.retrying, terms.queued) == (1, 2)
    assert bus.publish("t").waiting == 1


async def test_keyed_deliveries_that_wait_for_their_key_keep_their_room(bus: EventBus) -> None:
    """A delivery passed over because its key is busy still counts in the capacity."""
    handler = Gated()
    bus.subscribe("t", handler, name="s", mailbox=2, concurrency=2, key="key")
    for number in range(3):
        bus.publish("t", number, key="k")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    terms = bus.audit().subscriptions["s"]
    assert (terms.running, terms.queued) == (1, 2)
    other = bus.publish("t", 3, key="other")
    assert other.waiting == 1
    assert bus.explain("t").matches[0].room == 0
    handler.gate.set()
    await other
    await bus.settle()
    assert sorted(handler.started) == [0, 1, 2, 3]


async def test_what_a_thread_was_lent_keeps_its_room(bus: EventBus) -> None:
    """Deliveries lent to a thread in one go count in the capacity until they start."""
    go = threading.Event()
    started: list[int] = []

    def handler(data: int) -> None:
        started.append(data)
        go.wait(10)

    bus.subscribe("t", handler, name="s", mailbox=3)
    for number in range(3):
        bus.publish("t", number)
    while not started:
        await asyncio.sleep(0)
    assert bus.audit().subscriptions["s"].running == 1
    terms = bus.audit().subscriptions["s"]
    assert (terms.running, terms.queued) == (1, 2)
    bus.publish("t", 3)
    receipt = bus.publish("t", 4)
    assert receipt.waiting == 1
    go.set()
    await bus.settle()
    assert started == [0, 1, 2, 3, 4]


# -- the line -------------------------------------------------------------------------------------


async def test_a_full_mailbox_makes_a_delivery_wait_awaited_or_not(bus: EventBus) -> None:
    """Under `block` a delivery stands in the line until there is room, and none is lost."""
    handler = Gated()
    bus.subscribe("t", handler, mailbox=1)
    following = await fill(bus)
    unawaited = bus.publish("t", following)

    async def publishing() -> None:
        assert (await bus.publish("t", following + 1)).refused == 0

    awaited = asyncio.create_task(publishing())
    await asyncio.sleep(1)
    assert unawaited.waiting == 1
    assert not awaited.done()
    handler.gate.set()
    await awaited
    await bus.settle()
    assert handler.started == [0, 1, 2, 3]


async def _await(receipt: Receipt) -> Receipt:
    return await receipt


async def test_the_line_is_entered_by_the_call_and_left_in_order(bus: EventBus) -> None:
    """Deliveries enter in publish order, whoever awaits them and however late."""
    handler = Gated()
    bus.subscribe("t", handler, mailbox=1)
    following = await fill(bus)
    tasks = []
    for number in range(following, following + 4):
        receipt = bus.publish("t", number)
        assert receipt.waiting == 1
        tasks.append(asyncio.create_task(_await(receipt)))
        await asyncio.sleep(0)
    handler.gate.set()
    await asyncio.gather(*tasks)
    await bus.settle()
    assert handler.started == list(range(6))


async def test_the_time_limit_runs_from_the_publish_of_each(bus: EventBus) -> None:
    """A delivery gives up `put_timeout` after its own publish, not after that of the first."""
    handler = Gated()
    bus.subscribe("t", handler, name="s", mailbox=1, put_timeout=5.0)
    following = await fill(bus)
    begun = now()
    deaths: dict[int, float] = {}

    async def publishing(number: int) -> None:
        receipt = await bus.publish("t", number)
        assert receipt.refused == 1
        deaths[number] = now() - begun

    async with asyncio.TaskGroup() as group:
        for number in range(following, following + 3):
            group.create_task(publishing(number))
            await asyncio.sleep(1.5)
    assert deaths == pytest.approx({2: 5.0, 3: 6.5, 4: 8.0})
    assert reasons(bus) == [DeadReason.OVERFLOW_TIMEOUT] * 3
    handler.gate.set()


async def test_the_time_limit_counts_from_publish_not_from_the_await(bus: EventBus) -> None:
    """Awaiting a receipt late gives it no more time."""
    handler = Gated()
    bus.subscribe("t", handler, mailbox=1, put_timeout=5.0)
    following = await fill(bus)
    begun = now()
    receipt = bus.publish("t", following)
    await asyncio.sleep(3)
    await receipt
    assert now() - begun == pytest.approx(5.0)
    handler.gate.set()


async def test_one_timer_per_mailbox(bus: EventBus) -> None:
    """However long the line, the loop holds one timer for it, and none when it is empty."""
    loop: Any = asyncio.get_running_loop()
    made: list[float] = []
    plain = loop.call_at

    def call_at(when: float, *args: Any, **options: Any) -> asyncio.TimerHandle:
        made.append(when)
        handle: asyncio.TimerHandle = plain(when, *args, **options)
        return handle

    handler = Gated()
    bus.subscribe("t", handler, mailbox=50)
    following = await fill(bus, upto=50)
    loop.call_at = call_at
    try:
        for number in range(following, following + 50):
            bus.publish("t", number)
        assert len(made) == 1
    finally:
        del loop.call_at
    handler.gate.set()
    await bus.settle()
    live = [timer for timer in loop._scheduled if not timer.cancelled()]
    assert not live


# -- the stall ------------------------------------------------------------------------------------


async def test_after_a_timeout_the_mailbox_is_stalled_until_a_take(bus: EventBus) -> None:
    """A stuck subscriber costs one `put_timeout` per episode; the take ends the episode."""
    handler = Gated()
    bus.subscribe("t", handler, name="s", mailbox=1, put_timeout=5.0)
    following = await fill(bus)
    begun = now()
    await bus.publish("t", following)
    assert now() - begun == pytest.approx(5.0)
    for number in range(10, 15):
        receipt = await bus.publish("t", number)
        assert receipt.refused == 1
    assert now() - begun == pytest.approx(5.0)
    assert reasons(bus) == ["overflow_timeout", *["stalled"] * 5]
    handler.gate.set()
    await bus.settle()
    handler.gate.clear()
    begun = now()
    await fill(bus, first=20)
    await bus.publish("t", 22)  # a new episode
    assert now() - begun == pytest.approx(5.0)
    assert reasons(bus)[-1] == "overflow_timeout"
    handler.gate.set()


async def test_a_stalled_mailbox_with_room_takes_deliveries(bus: EventBus) -> None:
    """Stalled refuses only what finds the mailbox full."""
    handler = Gated()
    bus.subscribe("t", handler, name="s", mailbox=1, put_timeout=1.0)
    following = await fill(bus)
    await bus.publish("t", following)
    handler.gate.set()
    await asyncio.sleep(0.1)
    handler.gate.clear()
    receipt = await bus.publish("t", 9)
    assert receipt.refused == 0
    handler.gate.set()
    await bus.settle()
    assert handler.started == [0, 1, 9]


async def test_a_suspended_actor_is_stalled(bus: EventBus) -> None:
    """While an actor is suspended its mailbox fills, and what finds it full is dead at once."""

    async def handler(event: Event) -> None:
        raise OSError

    bus.subscribe(
        "t", handler, name="s", mailbox=2, retry=RetryPolicy.none(), on_failure="restart",
        restart=RestartPolicy(max_restarts=0),
    )  # fmt: skip
    bus.publish("t", 0)
    await asyncio.sleep(0.1)
    ref = bus.actor("s")
    assert ref is not None
    assert ref.state == "suspended"
    begun = now()
    receipts = [await bus.publish("t", number) for number in range(1, 5)]
    assert [receipt.refused for receipt in receipts] == [0, 0, 1, 1]
    assert now() == begun
    assert reasons(bus)[1:] == ["stalled", "stalled"]


async def test_without_put_timeout_it_waits_for_ever_and_never_stalls(bus: EventBus) -> None:
    """`put_timeout=None`: no timer, no stall, not even while the actor is suspended."""
    handler = Gated()
    bus.subscribe("t", handler, name="s", mailbox=1, put_timeout=None)
    following = await fill(bus)
    receipt = bus.publish("t", following)
    awaited = asyncio.create_task(_await(receipt))
    await asyncio.sleep(1e6)
    assert receipt.waiting == 1
    assert bus.publish("t", following + 1).waiting == 1
    handler.gate.set()
    await awaited
    await bus.settle()
    assert not len(bus.dead_letters)


async def test_without_put_timeout_a_suspended_actor_makes_publishers_wait(bus: EventBus) -> None:
    """`put_timeout=None` on a suspended actor: the line, not the stall."""
    broken = True

    async def handler(event: Event) -> None:
        if broken:
            raise OSError

    bus.subscribe(
        "t", handler, name="s", mailbox=1, put_timeout=None, retry=RetryPolicy.none(),
        on_failure="restart", restart=RestartPolicy(max_restarts=0),
    )  # fmt: skip
    bus.publish("t")
    await asyncio.sleep(0.1)
    bus.publish("t")
    receipt = bus.publish("t")
    assert receipt.waiting == 1
    broken = False
    await receipt  # the probe after a minute makes room
    assert now() == pytest.approx(60.0, abs=1.0)


# -- nobody awaits --------------------------------------------------------------------------------


async def test_unawaited_deliveries_fill_the_line_up_to_the_mailbox_size(bus: EventBus) -> None:
    """`mailbox` deliveries nobody awaits may stand in the line; one more is dead (`overflow`)."""
    handler = Gated()
    bus.subscribe("t", handler, name="s", mailbox=3)
    following = await fill(bus, upto=3)
    receipts = [bus.publish("t", number) for number in range(following, following + 5)]
    await asyncio.sleep(0)
    assert [receipt.waiting for receipt in receipts] == [1, 1, 1, 0, 0]
    assert [receipt.refused for receipt in receipts] == [0, 0, 0, 1, 1]
    assert reasons(bus) == ["overflow", "overflow"]
    handler.gate.set()
    await bus.settle()
    assert handler.started == list(range(7))


async def test_whether_it_is_awaited_is_decided_at_the_next_publish(bus: EventBus) -> None:
    """The one too many is dead as soon as the next publish here shows it is unawaited."""
    handler = Gated()
    bus.subscribe("t", handler, name="s", mailbox=1)
    following = await fill(bus)
    bus.publish("t", following)
    one_more = bus.publish("t", following + 1)
    assert one_more.refused == 0  # it may yet be awaited
    bus.publish("t", following + 2)
    assert one_more.refused == 1
    handler.gate.set()


async def test_whether_it_is_awaited_is_decided_at_the_loops_next_turn(bus: EventBus) -> None:
    """Without another publish the loop's next turn decides."""
    handler = Gated()
    bus.subscribe("t", handler, name="s", mailbox=1)
    following = await fill(bus)
    bus.publish("t", following)
    one_more = bus.publish("t", following + 1)
    assert one_more.refused == 0
    await asyncio.sleep(0)
    assert one_more.refused == 1
    handler.gate.set()


async def test_awaited_deliveries_have_no_such_limit(bus: EventBus) -> None:
    """Any number of publishers may await room in one small mailbox, and none is lost."""
    handler = Gated()
    bus.subscribe("t", handler, mailbox=1, put_timeout=None)
    following = await fill(bus)

    async def publishing(number: int) -> None:
        assert (await bus.publish("t", number)).refused == 0

    async with asyncio.TaskGroup() as group:
        for number in range(following, following + 200):
            group.create_task(publishing(number))
        await asyncio.sleep(1)
        assert bus.audit().totals.waiting == 200
        handler.gate.set()
    await bus.settle()
    assert handler.started == list(range(202))


async def test_settled_and_ask_await_too(bus: EventBus) -> None:
    """Waiting for the outcome or the reply counts as awaiting the delivery."""
    handler = Gated()
    bus.subscribe("t", handler, mailbox=1, put_timeout=None)
    following = await fill(bus)
    bus.publish("t", following)
    await asyncio.sleep(0)

    async def settling() -> None:
        assert (await bus.publish("t", following + 1).settled()).ok

    async with asyncio.TaskGroup() as group:
        group.create_task(settling())
        group.create_task(bus.ask("t", following + 2, timeout=None))
        await asyncio.sleep(1)
        assert bus.audit().totals.waiting == 3
        handler.gate.set()
    assert handler.started == [0, 1, 2, 3, 4]


async def test_a_cancelled_publisher_leaves_its_delivery_as_one_nobody_awaits(
    bus: EventBus,
) -> None:
    """Cancelling the await takes nothing back while the line has room for unawaited ones."""
    handler = Gated()
    bus.subscribe("t", handler, name="s", mailbox=1, put_timeout=None)
    following = await fill(bus)
    tasks = []
    for number in range(following, following + 2):
        tasks.append(asyncio.create_task(_await(bus.publish("t", number))))
        await asyncio.sleep(0)
    tasks[0].cancel()
    await asyncio.sleep(0)
    assert bus.audit().totals.waiting == 2
    tasks[1].cancel()  # a second one nobody awaits: one more than the mailbox's size
    await asyncio.wait(tasks)
    assert payloads(bus, "overflow") == [3]
    handler.gate.set()
    await bus.settle()
    assert handler.started == [0, 1, 2]


async def test_a_delivery_awaited_again_is_awaited(bus: EventBus) -> None:
    """Awaiting a receipt later takes its delivery off the unawaited ones."""
    handler = Gated()
    bus.subscribe("t", handler, name="s", mailbox=1)
    following = await fill(bus)
    first = bus.publish("t", following)
    await asyncio.sleep(0)  # judged: nobody awaits it
    awaited = asyncio.create_task(_await(first))
    await asyncio.sleep(0)
    second = bus.publish("t", following + 1)
    await asyncio.sleep(0)
    assert (first.waiting, second.waiting) == (1, 1)
    handler.gate.set()
    await awaited


async def test_several_tasks_may_await_one_receipt(bus: EventBus) -> None:
    """All of them return; one cancelled leaves it awaited by the others."""
    handler = Gated()
    bus.subscribe("t", handler, mailbox=1)
    following = await fill(bus)
    box: list[Receipt] = []

    async def publishing() -> None:
        box.append(bus.publish("t", following))
        await box[0]

    publisher = asyncio.create_task(publishing())
    await asyncio.sleep(0)
    others = [asyncio.create_task(_await(box[0])) for _ in range(2)]
    await asyncio.sleep(0)
    publisher.cancel()
    await asyncio.sleep(0)
    in_the_line = [bus.publish("t", following + number) for number in (1, 2)]
    await asyncio.sleep(1)
    assert [receipt.waiting for receipt in (box[0], *in_the_line)] == [1, 1, 0]
    assert not any(task.done() for task in others)
    handler.gate.set()
    assert await asyncio.gather(*others) == [box[0], box[0]]
    assert await box[0] is box[0]


async def test_awaiting_waits_for_every_mailbox_and_no_longer(bus: EventBus) -> None:
    """The await returns when the last line is left; other mailboxes have it at the call."""
    slow, slower = Gated(), Gated()
    quick: list[int] = []
    bus.subscribe("t", slow, name="slow", mailbox=1)
    bus.subscribe("t", slower, name="slower", mailbox=1)
    bus.subscribe("t", quick.append, inline=True)
    await fill(bus)
    await bus.publish("u")
    receipt = bus.publish("t", 2)
    assert (receipt.deliveries, receipt.waiting, receipt.refused) == (3, 2, 0)
    awaited = asyncio.create_task(_await(receipt))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert quick == [0, 1, 2]
    slow.gate.set()
    await asyncio.sleep(1)
    assert receipt.waiting == 1
    assert not awaited.done()
    slower.gate.set()
    await awaited


async def test_one_slow_subscriber_delays_neither_the_call_nor_the_others(bus: EventBus) -> None:
    """With one mailbox full for ever, unawaited publishing takes no time and others get it all."""
    handler = Gated()
    quick: list[tuple[int, float]] = []
    bus.subscribe("t", handler, name="stuck", mailbox=1)

    async def other(event: Event) -> None:
        quick.append((event.data, now()))

    bus.subscribe("t", other, name="quick", mailbox=200)
    for number in range(100):
        bus.publish("t", number)
    assert now() == 0.0
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert quick == [(number, 0.0) for number in range(100)]
    handler.gate.set()


# -- the other policies ---------------------------------------------------------------------------


async def test_drop_new_gives_up_the_new_one(bus: EventBus) -> None:
    """`drop_new`: what finds the mailbox full is dead (`overflow`); awaiting raises nothing."""
    handler = Gated()
    bus.subscribe("t", handler, name="s", mailbox=1, overflow="drop_new")
    following = await fill(bus)
    receipt = await bus.publish("t", following)
    assert (receipt.waiting, receipt.refused) == (0, 1)
    assert payloads(bus, "overflow") == [following]
    handler.gate.set()
    await bus.settle()
    assert handler.started == [0, 1]


async def test_drop_old_gives_up_the_oldest_queued(bus: EventBus) -> None:
    """`drop_old`: the oldest queued delivery is dead (`overflow`), never the one in hand."""
    handler = Gated()
    bus.subscribe("t", handler, name="s", mailbox=2, overflow="drop_old")
    following = await fill(bus, upto=2)
    receipt = await bus.publish("t", following)
    assert (receipt.waiting, receipt.refused) == (0, 0)
    assert payloads(bus, "overflow") == [1]
    handler.gate.set()
    await bus.settle()
    assert handler.started == [0, 2, 3]


async def test_drop_old_with_keys_gives_up_the_oldest_of_all(bus: EventBus) -> None:
    """A delivery passed over for its busy key is older than what came after it."""
    handler = Gated()
    bus.subscribe("t", handler, name="s", mailbox=2, overflow="drop_old", concurrency=2, key="key")
    for number in range(3):
        bus.publish("t", number, key="k")
        await asyncio.sleep(0)
    bus.publish("t", 3, key="k")
    assert payloads(bus, "overflow") == [1]
    handler.gate.set()
    await bus.settle()
    assert handler.started == [0, 2, 3]


async def test_fail_raises_on_await_after_all_others_are_admitted(bus: EventBus) -> None:
    """`fail`: dead (`overflow`), `MailboxFullError` on every await, once the lines are left."""
    refusing, blocking = Gated(), Gated()
    bus.subscribe("t", refusing, name="s", mailbox=1, overflow="fail")
    bus.subscribe("t", blocking, name="slow", mailbox=1)
    following = await fill(bus)
    receipt = bus.publish("t", following)
    assert (receipt.refused, receipt.waiting) == (1, 1)
    awaited = asyncio.create_task(_await(receipt))
    await asyncio.sleep(1)
    assert not awaited.done()
    blocking.gate.set()
    with pytest.raises(MailboxFullError, match="'s' is full") as caught:
        await awaited
    assert caught.value.capacity == 1
    with pytest.raises(MailboxFullError):
        await receipt
    assert payloads(bus, "overflow") == [following]
    refusing.gate.set()
    result = await receipt.settled()
    assert result.outcomes == {"s": Outcome.DEAD, "slow": Outcome.ACKED}
    assert not result.ok


async def test_fail_unawaited_warns_of_nothing(bus: EventBus) -> None:
    """A refused delivery whose receipt is dropped is a dead letter and no warning."""
    handler = Gated()
    bus.subscribe("t", handler, name="s", mailbox=1, overflow="fail")
    following = await fill(bus)
    bus.publish("t", following)
    assert payloads(bus, "overflow") == [following]
    handler.gate.set()


# -- latest ---------------------------------------------------------------------------------------


async def test_latest_replaces_the_queued_event_of_its_topic_in_place(bus: EventBus) -> None:
    """Same topic: the newer takes the older's place, though the mailbox has room."""
    handler = Gated()
    bus.subscribe("t:*", handler, name="s", mailbox=10, overflow="latest")
    await fill(bus, "t:a", upto=0)
    first = bus.publish("t:a", "a1")
    bus.publish("t:b", "b1")
    bus.publish("t:a", "a2")
    terms = bus.audit().subscriptions["s"]
    assert (terms.queued, terms.conflated, terms.dead) == (2, 1, 0)
    handler.gate.set()
    await bus.settle()
    assert handler.started == [0, "a2", "b1"]
    assert (await first.settled()).outcomes == {"s": Outcome.CONFLATED}
    assert (await first.settled()).ok


async def test_latest_goes_by_the_publish_key_before_the_topic(bus: EventBus) -> None:
    """Two keys of one topic are two; one key of two topics is one."""
    handler = Gated()
    bus.subscribe("t:*", handler, mailbox=10, overflow="latest")
    await fill(bus, "t:a", upto=0)
    for number, (topic, key) in enumerate(
        [("t:a", "k"), ("t:a", "l"), ("t:b", "k"), ("t:a", None), ("t:a", "l")]
    ):
        bus.publish(topic, number, key=key)
    handler.gate.set()
    await bus.settle()
    assert handler.started == [0, 2, 4, 3]


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_latest_goes_by_the_key_function_first(bus: EventBus, concurrency: int) -> None:
    """`key=` decides what is the same, whatever the publish key says."""
    handler = Gated()
    bus.subscribe(
        "t", handler, mailbox=10, overflow="latest", concurrency=concurrency,
        key=lambda event: event.data[0],
    )  # fmt: skip
    bus.publish("t", "a0")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for data in ("a1", "a2", "b1", "b2") if concurrency == 1 else ("a1", "a2"):
        bus.publish("t", data, key=data)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    handler.gate.set()
    await bus.settle()
    assert handler.started == (["a0", "a2", "b2"] if concurrency == 1 else ["a0", "a2"])
    assert bus.audit().totals.conflated == (2 if concurrency == 1 else 1)


async def test_latest_full_and_no_such_key_pushes_out_the_oldest(bus: EventBus) -> None:
    """Full of other keys: the oldest queued goes, conflated and no dead letter."""
    handler = Gated()
    bus.subscribe("t:*", handler, name="s", mailbox=2, overflow="latest")
    await fill(bus, "t:x", upto=0)
    receipts = [bus.publish(f"t:{letter}", letter) for letter in "abc"]
    assert bus.audit().subscriptions["s"].conflated == 1
    assert not len(bus.dead_letters)
    handler.gate.set()
    await bus.settle()
    assert handler.started == [0, "b", "c"]
    assert (await receipts[0].settled()).outcomes == {"s": Outcome.CONFLATED}


async def test_latest_never_replaces_what_is_in_hand(bus: EventBus) -> None:
    """An event that is being handled is handled; the newer one queues behind it."""
    handler = Gated()
    bus.subscribe("t", handler, mailbox=2, overflow="latest")
    for number in range(6):
        bus.publish("t", number)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    handler.gate.set()
    await bus.settle()
    assert handler.started == [0, 5]


async def test_latest_with_a_broken_key_function_is_a_dead_letter(bus: EventBus) -> None:
    """An error of the key function is that delivery's, not the publisher's."""
    handler = Gated()
    bus.subscribe("t", handler, name="s", overflow="latest", key=lambda event: event.data["k"])
    receipt = await bus.publish("t", {})
    assert receipt.refused == 1
    assert reasons(bus) == ["retries_exhausted"]


# -- threads --------------------------------------------------------------------------------------


async def test_a_publisher_in_a_thread_waits_for_room(bus: EventBus) -> None:
    """`receipt.wait()` in a thread returns when the delivery is admitted."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    handler = Gated()
    bus.subscribe("t", handler, mailbox=1, put_timeout=None)
    following = await fill(bus)

    def publish_and_wait() -> int:
        receipt = bus.publish("t", following)
        with pytest.raises(TimeoutError):
            receipt.wait(0.01)
        loop.call_soon_threadsafe(handler.gate.set)
        return receipt.wait().waiting

    assert await asyncio.to_thread(publish_and_wait) == 0
    await bus.settle()
    assert handler.started == [0, 1, 2]


async def test_drop_old_with_a_sync_handler_spares_what_its_thread_has_begun(
    make_bus: Maker,
) -> None:
    """With a plain `def`, `drop_old` gives up the oldest that has not started."""
    bus = make_bus()
    heed_threads(bus)
    go = threading.Event()
    started: list[int] = []

    def handler(data: int) -> None:
        started.append(data)
        go.wait(10)

    async with bus:
        bus.subscribe("t", handler, name="s", mailbox=2, overflow="drop_old")
        bus.publish("t", 0)
        while not started:
            await asyncio.sleep(0)
        for number in range(1, 5):
            bus.publish("t", number)
        assert payloads(bus, "overflow") == [1, 2]
        go.set()
        await bus.settle()
        assert started == [0, 3, 4]
