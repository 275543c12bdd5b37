"""What the type checker sees of the public API. Checked by mypy, never run.

Each `type: ignore` below is a proof: mypy warns of one that hides no error, so every line that
carries one is refused today.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, assert_type

from actorbus import (
    Actor,
    ActorRef,
    ActorState,
    Audit,
    DeadLetter,
    DeadLetters,
    DeadReason,
    Directive,
    DrainReport,
    Event,
    EventBus,
    EventStream,
    Explanation,
    GiveUp,
    HistoryStream,
    Outcome,
    Overflow,
    Pattern,
    Receipt,
    RestartPolicy,
    RetryPolicy,
    Settlement,
    Strategy,
    Subscription,
    Supervisor,
    Transaction,
    event_bus,
)

assert_type(event_bus, EventBus)


@dataclass
class Order:
    """A payload."""

    amount: int


# -- a decorator returns the function unchanged ---------------------------------------------------


@event_bus.subscribe("order:*")
async def on_order(order: Order) -> int:
    return order.amount


@event_bus.subscribe(["a:*", "b:**"], name="both", mailbox=10, overflow="drop_old")
@event_bus.subscribe("c:*", overflow=Overflow.BLOCK, put_timeout=None)
def on_any(event: Event) -> str:
    return event.topic


async def decorated() -> None:
    assert_type(await on_order(Order(1)), int)
    assert_type(on_any(Event("a:b", None, 0.0)), str)
    await on_order("no order")  # type: ignore[arg-type]
    on_any(1)  # type: ignore[arg-type]


# -- the call form returns a subscription ---------------------------------------------------------


async def called(bus: EventBus, handler: Callable[[Any], Awaitable[None]]) -> None:
    sub = bus.subscribe("user:login", handler)
    assert_type(sub, Subscription)
    assert_type(sub.name, str)
    assert_type(sub.patterns, tuple[Pattern, ...])
    assert_type(sub.state, ActorState)
    assert_type(sub.unsubscribe(), int)
    assert_type(bus.unsubscribe("user:login", handler), int)
    assert_type(bus.unsubscribe(sub), int)
    await sub.ended()

    bus.subscribe(
        ["a:*"],
        handler,
        name="all",
        mailbox=1000,
        overflow="block",
        put_timeout=5.0,
        retry=RetryPolicy(max_attempts=5, jitter="none", on=(OSError,), never=ValueError),
        restart=RestartPolicy(max_restarts=5, within=30.0, on_give_up=GiveUp.STOP),
        on_failure=lambda error, event: Directive.RESTART,
        timeout=None,
        concurrency=4,
        key=lambda event: event.key,
        group="workers",
        guarantee="at_least_once",
        exclude=("a:b",),
        replay=0,
        since=None,
        after=0,
        inline=False,
    )


def mistaken(bus: EventBus, handler: Callable[[Any], Awaitable[None]]) -> None:
    bus.subscribe("a:b", handler, mailbx=10)  # type: ignore[call-overload]
    bus.subscribe("a:b", handler, mailbox="10")  # type: ignore[call-overload]
    bus.subscribe("a:b", handler, retry=5)  # type: ignore[call-overload]
    bus.subscribe(1, handler)  # type: ignore[call-overload]
    bus.subscribe("a:b", "handler")  # type: ignore[call-overload]
    bus.publish(b"a:b")  # type: ignore[arg-type]
    bus.publish("a:b", 1, 2)  # type: ignore[call-arg]
    bus.publish("a:b", priority=1)  # type: ignore[call-arg]
    bus.spawn(Inventory, stock=1)  # type: ignore[call-arg]
    bus.spawn(Order)  # type: ignore[arg-type]
    EventBus(copy="shallow")  # type: ignore[arg-type]
    EventBus("a", 5)  # type: ignore[call-arg]
    RetryPolicy(attempts=3)  # type: ignore[call-arg]
    RetryPolicy(jitter="some")  # type: ignore[arg-type]
    RestartPolicy(on_give_up="explode")  # type: ignore[arg-type]


# -- publish --------------------------------------------------------------------------------------


async def published(bus: EventBus) -> None:
    receipt = bus.publish("a:b", {"n": 1}, key=1, headers={"h": 1}, cause=None)
    assert_type(receipt, Receipt)
    assert_type(await receipt, Receipt)
    assert_type(receipt.wait(1.0), Receipt)
    assert_type(receipt.event, Event)
    assert_type((receipt.deliveries, receipt.waiting, receipt.refused), tuple[int, int, int])
    result = await receipt.settled(timeout=1.0)
    assert_type(result, Settlement)
    assert_type(result.ok, bool)
    assert_type(result.outcomes, dict[str, Outcome])


def event(event: Event) -> None:
    assert_type((event.id, event.topic, event.correlation_id), tuple[str, str, str])
    assert_type(event.causation_id, str | None)
    assert_type(event.time, float)
    assert_type(event.data, Any)
    event.topic = "c:d"  # type: ignore[misc]


# -- actors ---------------------------------------------------------------------------------------


class Inventory(Actor):
    """An actor."""

    patterns = ("inventory:*",)

    async def receive(self, event: Event) -> int:
        return 1


async def asked(bus: EventBus) -> None:
    ref = bus.spawn(Inventory, name="inventory", mailbox=5, on_failure="restart")
    assert_type(ref, ActorRef)
    assert_type(ref.state, ActorState)
    assert_type(ref.tell(1), Receipt)
    assert_type(await ref.ask(1, timeout=5.0), Any)
    assert_type(await bus.ask("inventory:reserve", 1, timeout=5.0), Any)
    assert_type(bus.actor("inventory"), ActorRef | None)
    await ref.stop()


def supervised(bus: EventBus, handler: Callable[[Any], Awaitable[None]]) -> None:
    group = bus.supervisor("plugins", strategy="one_for_all", max_restarts=3, within=60.0)
    assert_type(group, Supervisor)
    assert_type(group.supervisor("inner", Strategy.REST_FOR_ONE), Supervisor)
    assert_type(group.subscribe("a:b", handler), Subscription)
    assert_type(group.spawn(Inventory), ActorRef)
    group.subscribe("a:b", handler, mailbx=1)  # type: ignore[call-overload]

    @group.subscribe("a:b")
    def same(data: int) -> str:
        return str(data)

    assert_type(same(1), str)


# -- streams, dead letters, looking, life cycle ---------------------------------------------------


async def streamed(bus: EventBus) -> None:
    async with bus.events("a:*", mailbox=10, overflow="drop_new", replay=1, since=0.5) as events:
        assert_type(events, EventStream)
        assert_type(events.dropped, int)
        async for each in events:
            assert_type(each, Event)
    found = await bus.wait_for("a:*", where=lambda event: event.data == 1, timeout=1.0)
    assert_type(found, Event)
    past = bus.read_history(["a:*", "b"], since=datetime.now(UTC), until=5, after=3, limit=9)
    assert_type(past, HistoryStream)
    assert_type(past.position, int)
    async for each in past:
        assert_type(each, Event)


async def buried(bus: EventBus) -> None:
    letters = bus.dead_letters
    assert_type(letters, DeadLetters)
    assert_type(len(letters), int)
    for letter in letters:
        assert_type(letter, DeadLetter)
        assert_type(letter.reason, DeadReason)
        assert_type(letter.error, BaseException | None)
        assert_type((letter.traceback, letter.attempts), tuple[str, int])
    assert_type(letters.list(reason="poison"), list[DeadLetter])
    assert_type(await letters.replay(subscription="mail"), int)
    assert_type(await letters.discard("dl-1"), int)


async def wrote(bus: EventBus) -> None:
    async def handle(event: Event, tx: Transaction) -> None:
        tx.execute("INSERT INTO own VALUES(?, ?)", (event.id, b""))
        tx.execute("INSERT INTO own VALUES(:id, NULL)", {"id": event.id})
        tx.executemany("DELETE FROM own WHERE id = ?", [[1], [2.5]])
        assert_type(await tx.fetch("SELECT id FROM own"), list[tuple[Any, ...]])

    def in_a_thread(data: dict[str, Any], tx: Transaction) -> None:
        assert_type(tx.fetch_blocking("SELECT 1"), list[tuple[Any, ...]])

    bus.subscribe("a:*", handle, durable="d", inbox=True)
    bus.subscribe("a:*", in_a_thread, durable="e", inbox=True)
    async with bus.transaction() as tx:
        assert_type(tx, Transaction)


async def looked_at(bus: EventBus) -> None:
    assert_type(bus.audit(), Audit)
    assert_type(bus.audit().balanced, bool)
    assert_type(bus.get_stats(), dict[str, Any])
    assert_type(bus.get_history("a:*", limit=5), list[dict[str, Any]])
    assert_type(bus.explain("a:b"), Explanation)


async def lived(bus: EventBus) -> None:
    async with EventBus("other", history=10, copy="deep", max_hops=None) as other:
        assert_type(other, EventBus)
        await other.settle(timeout=1.0)
    await bus.start()
    assert_type(await bus.drain(timeout=1.0), DrainReport)
    report = await bus.close(timeout=None)
    assert_type(report.abandoned, tuple[str, ...])


def ran(bus: EventBus) -> None:
    async def main() -> int:
        return 1

    assert_type(bus.run(main), int | None)
