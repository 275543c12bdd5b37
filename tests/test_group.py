"""Groups: each event goes to exactly one member whose patterns match, the one with most room."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actorbus import ActorState, EventBus, RestartPolicy, RetryPolicy
from tests.handlers import Gate, Seen, fail
from tests.virtual import run

PATTERNS = ["a:*", "a:x", "**", "b:*"]


@given(
    members=st.lists(
        st.tuples(st.sampled_from(PATTERNS), st.sampled_from(["g", "h", None])),
        min_size=1, max_size=6,
    ),
    topics=st.lists(st.sampled_from(["a:x", "a:y", "b:x", "c"]), max_size=20),
)  # fmt: skip
def test_each_event_goes_to_exactly_one_matching_member_of_each_group(
    members: list[tuple[str, str | None]], topics: list[str]
) -> None:
    """Per group one matching member gets each event; who is in no group gets all it matches."""

    async def main() -> None:
        async with EventBus() as bus:
            seen = [Seen() for _ in members]
            subs = [
                bus.subscribe(pattern, each, group=group)
                for (pattern, group), each in zip(members, seen, strict=True)
            ]
            for number, topic in enumerate(topics):
                bus.publish(topic, number)
            await bus.settle()
            for number, topic in enumerate(topics):
                for group in ("g", "h", None):
                    fit = [
                        each
                        for (_, mine), each, sub in zip(members, seen, subs, strict=True)
                        if mine == group and sub.patterns[0].matches(topic)
                    ]
                    got = sum(each.got.count(number) for each in fit)
                    assert got == (len(fit) if group is None else min(1, len(fit)))
            assert sum(len(each.got) for each in seen) == bus.audit().totals.acked
            assert all(each.got == sorted(each.got) for each in seen)

    run(main)


async def test_the_receipt_counts_one_delivery_for_a_group(bus: EventBus) -> None:
    """A group of three and one without are two deliveries."""
    for _ in range(3):
        bus.subscribe("a", Seen(), group="g")
    bus.subscribe("a", Seen())
    assert bus.publish("a").deliveries == 2


async def test_the_member_with_most_room_gets_the_event(bus: EventBus) -> None:
    """Room is what the mailbox holds less what stands in it and its line."""
    wide, narrow = Gate(), Gate()
    bus.subscribe("a", wide, name="wide", mailbox=5, group="g")
    bus.subscribe("a", narrow, name="narrow", mailbox=3, group="g")

    def queued() -> tuple[int, int]:
        terms = bus.audit().subscriptions
        return terms["wide"].queued, terms["narrow"].queued

    for _ in range(2):
        bus.publish("a")
    assert queued() == (2, 0)
    for _ in range(4):
        bus.publish("a")
    assert queued() == (4, 2)
    wide.open()
    narrow.open()


@pytest.mark.parametrize("members", [2, 3, 5])
async def test_ties_go_in_turn(bus: EventBus, members: int) -> None:
    """Members with equal room take turns, in order of subscription."""
    seen = [Seen() for _ in range(members)]
    for each in seen:
        bus.subscribe("a", each, group="g")
    for number in range(4 * members):
        await bus.publish("a", number).settled()
    assert [len(each.got) for each in seen] == [4] * members
    assert [each.got[0] for each in seen] == list(range(members))


async def test_ties_go_in_turn_though_a_fuller_member_stands_between(bus: EventBus) -> None:
    """A member with less room changes nothing about whose turn it is among the others."""
    one, full, two = Seen(), Gate(), Seen()
    bus.subscribe("a", one, group="g", mailbox=10)
    bus.subscribe("a", two, group="g", mailbox=10)
    bus.subscribe("a", full, group="g", mailbox=1)
    for number in range(12):
        await bus.publish("a", number).settled()
    assert (len(one.got), len(two.got), full.got) == (6, 6, [])
    assert one.got == list(range(0, 12, 2))


async def test_suspended_members_are_chosen_only_when_all_are(bus: EventBus) -> None:
    """While one member works the suspended one gets nothing; alone, it gets its mail."""
    seen = Seen()
    policy = RestartPolicy(max_restarts=0)
    broken = bus.subscribe(
        ["a", "break"], fail, group="g", retry=RetryPolicy.none(), restart=policy,
        on_failure="restart",
    )  # fmt: skip
    await bus.publish("break").settled()
    assert broken.state is ActorState.SUSPENDED
    works = bus.subscribe("a", seen, group="g", mailbox=1)
    for number in range(5):
        await bus.publish("a", number).settled()
    assert seen.got == list(range(5))
    works.unsubscribe()
    receipt = bus.publish("a")
    assert receipt.deliveries == 1
    assert (await receipt.settled()).outcomes.keys() == {broken.name}


async def test_a_member_that_leaves_gets_no_more(bus: EventBus) -> None:
    """After an unsubscribe the other members have it all, after the last nobody."""
    one, two = Seen(), Seen()
    sub = bus.subscribe("a", one, group="g")
    last = bus.subscribe("a", two, group="g")
    for number in range(4):
        await bus.publish("a", number).settled()
    sub.unsubscribe()
    for number in range(4, 6):
        await bus.publish("a", number).settled()
    assert Counter(len(each.got) for each in (one, two)) == Counter([2, 4])
    last.unsubscribe()
    assert bus.publish("a").deliveries == 0


async def test_a_full_group_follows_the_chosen_member_s_policy(bus: EventBus) -> None:
    """When all are full, the event stands in the line of the member with most room."""
    gates = [Gate(), Gate()]
    for gate in gates:
        bus.subscribe("a", gate, group="g", mailbox=1, put_timeout=None)
    for number in range(2):
        bus.publish("a", number)
    for gate in gates:
        await gate.entered()
    receipts = [bus.publish("a", number) for number in range(2, 6)]
    assert [receipt.waiting for receipt in receipts] == [0, 0, 1, 1]
    for gate in gates:
        gate.open()
    await bus.settle()
    assert sorted(number for gate in gates for number in gate.got) == list(range(6))
    assert [len(gate.got) for gate in gates] == [3, 3]
