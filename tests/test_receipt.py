"""Receipt: what a publisher can look at, await, await again, and give up awaiting."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actorbus import (
    DeadlockError,
    DeadReason,
    EventBus,
    MailboxFullError,
    Outcome,
    Receipt,
    RetryPolicy,
)
from tests.handlers import Gate, Seen, fail
from tests.virtual import run


async def admitted(receipt: Receipt) -> Receipt:
    return await receipt


async def full(bus: EventBus, **options: Any) -> Gate:
    """Subscribe a handler that holds on, with one delivery in hand and a full mailbox of 1."""
    gate = Gate()
    bus.subscribe("a", gate, mailbox=1, **{"name": "full", **options})
    bus.publish("a", "in hand")
    await gate.entered()
    bus.publish("a", "queued")
    return gate


def test_settled_takes_a_timeout() -> None:
    """`settled(timeout=None)` and `wait(timeout=None)` wait for ever unless told otherwise."""
    assert inspect.signature(Receipt.settled).parameters["timeout"].default is None
    assert inspect.signature(Receipt.wait).parameters["timeout"].default is None


async def test_awaiting_returns_the_receipt(bus: EventBus) -> None:
    """`await receipt` is the receipt, whether it had to wait or not."""
    gate = await full(bus)
    other = bus.publish("b")
    assert await other is other
    receipt = bus.publish("a")
    waiting = asyncio.ensure_future(admitted(receipt))
    await asyncio.sleep(0)
    assert not waiting.done()
    gate.open()
    assert await waiting is receipt


async def test_awaiting_returns_at_admission_not_at_the_end(bus: EventBus) -> None:
    """The await ends when the delivery has room, however long the handler takes."""
    gate = Gate()
    bus.subscribe("a", gate, mailbox=1)
    await bus.publish("a", 1)
    await gate.entered()
    await bus.publish("a", 2)
    assert gate.got == [1]
    gate.open()


async def test_awaiting_returns_when_the_delivery_is_given_up(bus: EventBus) -> None:
    """A delivery that times out in the line ends the await too, without an error."""
    gate = await full(bus, put_timeout=2.0)
    receipt = await bus.publish("a", "late")
    assert (receipt.waiting, receipt.refused) == (0, 1)
    assert [letter.reason for letter in bus.dead_letters] == [DeadReason.OVERFLOW_TIMEOUT]
    gate.open()


async def test_the_counts_follow_the_deliveries(bus: EventBus) -> None:
    """`waiting` falls as deliveries are admitted, `refused` rises as they are given up."""
    one = await full(bus, name="one", put_timeout=None)
    two = Gate()
    bus.subscribe("b", two, name="two", mailbox=1, put_timeout=3.0)
    bus.subscribe("b", one, name="one on b", mailbox=1, put_timeout=None)
    for number in range(2):
        bus.publish("b", number)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    receipt = bus.publish("b", 2)
    assert receipt.event.data == 2
    assert (receipt.deliveries, receipt.waiting, receipt.refused) == (2, 2, 0)
    await asyncio.sleep(3.5)
    assert (receipt.deliveries, receipt.waiting, receipt.refused) == (2, 1, 1)
    one.open()
    await receipt
    assert (receipt.deliveries, receipt.waiting, receipt.refused) == (2, 0, 1)
    two.open()


async def test_the_error_comes_after_all_others_are_admitted(bus: EventBus) -> None:
    """MailboxFullError is raised only when every other delivery is admitted or given up."""
    failing = await full(bus, name="fails", overflow="fail")
    blocking = Gate()
    bus.subscribe("a", blocking, name="blocks", mailbox=1, put_timeout=None)
    bus.publish("a", 0)
    await blocking.entered()
    bus.publish("a", 1)
    receipt = bus.publish("a", 2)
    waiting = asyncio.ensure_future(admitted(receipt))
    await asyncio.sleep(10)
    assert not waiting.done()
    blocking.open()
    with pytest.raises(MailboxFullError) as caught:
        await waiting
    assert (caught.value.subscription, caught.value.capacity) == ("fails", 1)
    assert (receipt.waiting, receipt.refused) == (0, 1)
    failing.open()


async def test_the_error_comes_at_every_await(bus: EventBus) -> None:
    """Awaited again, a refused receipt raises again; not awaited, it raises nowhere."""
    gate = await full(bus, overflow="fail")
    receipt = bus.publish("a")
    for _ in range(2):
        with pytest.raises(MailboxFullError):
            await receipt
    assert not (await receipt.settled(timeout=1)).ok
    gate.open()


async def test_a_deadlock_is_raised_after_the_others_stand(bus: EventBus) -> None:
    """DeadlockError is raised to the handler; the other deliveries of the event are made."""
    errors: list[DeadlockError] = []
    seen = Seen()

    async def feed_itself(data: int) -> None:
        if data:
            return
        bus.publish("a", 1)
        try:
            await bus.publish("a", 2)
        except DeadlockError as error:
            errors.append(error)

    bus.subscribe("a", feed_itself, name="self", mailbox=1, put_timeout=None)
    bus.subscribe("a", seen, name="other")
    bus.publish("a", 0)
    await bus.settle()
    assert [error.cycle for error in errors] == [("self",)]
    assert seen.got == [0, 1, 2]
    assert [letter.reason for letter in bus.dead_letters] == [DeadReason.DEADLOCK]


@pytest.mark.parametrize("overflow", ["block", "drop_new", "drop_old", "latest"])
async def test_other_policies_never_raise(bus: EventBus, overflow: str) -> None:
    """Awaiting a receipt whose delivery was dropped, replaced or timed out raises nothing."""
    gate = await full(bus, overflow=overflow)
    receipts = [await bus.publish("a", number) for number in range(3)]
    assert all(receipt.waiting == 0 for receipt in receipts)
    gate.open()


async def test_a_receipt_may_be_awaited_again(bus: EventBus) -> None:
    """Awaited a second time it returns at once."""
    receipt = bus.publish("a")
    assert await receipt is await receipt
    gate = await full(bus)
    late = bus.publish("a")
    gate.open()
    assert await late is await late
    assert (await late.settled()) == (await late.settled())


async def test_a_receipt_may_be_awaited_by_several_tasks(bus: EventBus) -> None:
    """Every task that awaits admission or settlement is woken."""
    gate = await full(bus)
    receipt = bus.publish("a")
    admissions = [asyncio.ensure_future(admitted(receipt)) for _ in range(3)]
    settlements = [asyncio.ensure_future(receipt.settled()) for _ in range(3)]
    await asyncio.sleep(0)
    gate.open()
    assert await asyncio.gather(*admissions) == [receipt] * 3
    assert all(result.ok for result in await asyncio.gather(*settlements))


@given(cancelled=st.lists(st.booleans(), min_size=1, max_size=6), settled=st.booleans())
def test_cancelling_the_await_takes_nothing_back(cancelled: list[bool], settled: bool) -> None:
    """Whichever awaits are cancelled, every delivery that found a place is handled, in order."""

    async def main() -> None:
        async with EventBus() as bus:
            gate = Gate()
            bus.subscribe("a", gate, name="g", mailbox=10, put_timeout=None)
            bus.publish("a", -1)
            await gate.entered()
            for _ in range(10):
                bus.publish("a", -1)
            receipts = [bus.publish("a", number) for number in range(len(cancelled))]
            waits = [
                asyncio.ensure_future(each.settled() if settled else admitted(each))
                for each in receipts
            ]
            await asyncio.sleep(0)
            for wait, cancel in zip(waits, cancelled, strict=True):
                if cancel:
                    wait.cancel()
            await asyncio.sleep(0)
            gate.open()
            await bus.settle()
            assert gate.got[11:] == list(range(len(cancelled)))
            assert bus.audit().balanced
            for wait, cancel in zip(waits, cancelled, strict=True):
                assert wait.cancelled() == cancel

    run(main)


# -- settled ------------------------------------------------------------------------------------


async def test_settled_waits_for_every_delivery(bus: EventBus) -> None:
    """`settled` returns when the last handler has ended, with an outcome for each by name."""
    gate, seen = Gate(), Seen()
    bus.subscribe("a", gate, name="slow")
    bus.subscribe("a", seen, name="fast")
    receipt = bus.publish("a")
    waiting = asyncio.ensure_future(receipt.settled())
    await asyncio.sleep(100)
    assert not waiting.done()
    gate.open()
    result = await waiting
    assert result.ok
    assert result.outcomes == {"slow": Outcome.ACKED, "fast": Outcome.ACKED}


async def test_settled_after_the_fact_has_the_same_outcomes(bus: EventBus) -> None:
    """Asked for only after everything has settled, the outcomes are the same."""
    bus.subscribe("a", fail, name="fails", retry=RetryPolicy.none())
    bus.subscribe("a", Seen(), name="works")
    receipt = bus.publish("a")
    await bus.settle()
    result = await receipt.settled()
    assert result.outcomes == {"fails": Outcome.DEAD, "works": Outcome.ACKED}
    assert not result.ok


async def test_settled_waits_through_retries(bus: EventBus) -> None:
    """A delivery that is being retried has not settled."""
    attempts = []

    async def flaky(data: Any) -> None:
        attempts.append(data)
        if len(attempts) < 3:
            raise ValueError

    policy = RetryPolicy(base=1.0, jitter="none", max_attempts=3)
    bus.subscribe("a", flaky, name="flaky", retry=policy)
    result = await bus.publish("a").settled()
    assert result.outcomes == {"flaky": Outcome.ACKED}
    assert len(attempts) == 3


async def test_ok_means_none_dead(bus: EventBus) -> None:
    """A conflated delivery is no failure, a dead one is."""
    gate = await full(bus, overflow="latest")
    replaced = bus.publish("a")
    newer = bus.publish("a")
    result = await replaced.settled()
    assert result.outcomes == {"full": Outcome.CONFLATED}
    assert result.ok
    gate.open()
    assert (await newer.settled()).ok


async def test_settled_names_a_member_of_a_group(bus: EventBus) -> None:
    """Of a group the outcome is under the name of the member that got the event."""
    bus.subscribe("a", Seen(), name="one", group="g")
    bus.subscribe("a", Seen(), name="two", group="g")
    names = [tuple((await bus.publish("a").settled()).outcomes) for _ in range(2)]
    assert sorted(names) == [("one",), ("two",)]


async def test_settled_raises_at_its_timeout(bus: EventBus) -> None:
    """`settled(timeout)` raises TimeoutError in time and takes nothing back."""
    gate = Gate()
    bus.subscribe("a", gate, name="slow")
    receipt = bus.publish("a", 1)
    loop = asyncio.get_running_loop()
    before = loop.time()
    with pytest.raises(TimeoutError):
        await receipt.settled(timeout=7)
    assert loop.time() - before == pytest.approx(7)
    gate.open()
    assert (await receipt.settled(timeout=7)).ok
    assert gate.got == [1]


@given(
    st.lists(st.sampled_from(["ack", "fail", "conflate", "drop"]), min_size=1, max_size=4),
    st.booleans(),
)
def test_outcomes_are_what_became_of_each_delivery(fates: list[str], early: bool) -> None:
    """Whoever fails, drops or conflates, and whenever one asks, each outcome is the right one."""
    outcome = {
        "ack": Outcome.ACKED, "fail": Outcome.DEAD, "drop": Outcome.DEAD,
        "conflate": Outcome.CONFLATED,
    }  # fmt: skip

    async def main() -> None:
        async with EventBus() as bus:
            gates = []

            async def fail(data: Any) -> None:
                raise ValueError(data)

            for number, fate in enumerate(fates):
                gate = Gate()
                gates.append(gate)
                name = f"{fate} {number}"
                if fate == "fail":
                    bus.subscribe("a", fail, name=name, retry=RetryPolicy.none())
                elif fate == "ack":
                    bus.subscribe("a", gate, name=name)
                else:
                    overflow = "latest" if fate == "conflate" else "drop_new"
                    bus.subscribe(["a", "full"], gate, name=name, mailbox=1, overflow=overflow)
            bus.publish("full")
            for fate, gate in zip(fates, gates, strict=True):
                if fate in {"conflate", "drop"}:
                    await gate.entered()
            if "drop" in fates or "conflate" in fates:
                bus.publish("full")
            receipt = bus.publish("a", 1)
            bus.publish("full")
            if "conflate" in fates:
                bus.publish("a", 2)
            waiting = asyncio.ensure_future(receipt.settled()) if early else None
            await asyncio.sleep(0)
            for gate in gates:
                gate.open()
            await bus.settle()
            result = await (waiting or receipt.settled())
            assert result.outcomes == {
                f"{fate} {number}": outcome[fate] for number, fate in enumerate(fates)
            }
            assert result.ok == (Outcome.DEAD not in result.outcomes.values())

    run(main)


async def test_a_receipt_shows_itself(bus: EventBus) -> None:
    """The repr has the event's topic and the three counts."""
    bus.subscribe("a:b", Seen())
    text = repr(bus.publish("a:b", "secret"))
    assert "a:b" in text
    assert "deliveries=1, waiting=0, refused=0" in text
    assert "secret" not in text


async def test_two_receipts_are_never_equal(bus: EventBus) -> None:
    """Receipts are compared and hashed by identity."""
    one, two = bus.publish("a", 1, id="same"), bus.publish("a", 1, id="same")
    assert one != two
    assert len({one, two}) == 2
