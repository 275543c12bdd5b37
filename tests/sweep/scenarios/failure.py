"""Failing handlers: retries, restarts under every strategy, suspension, replay, the stubborn."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from functools import partial

from actorbus import Event, Reject, RestartPolicy, RetryAfter, RetryPolicy
from tests.sweep.books import books, cut, failing, fault, faults, pause

RETRY = RetryPolicy(max_attempts=3, base=1.0, cap=30.0)
ONCE = RetryPolicy.none()
MANY = RestartPolicy(max_restarts=1000)


async def troubled(_: Event) -> None:
    """Fail in one of the ways handlers do, or hang."""
    await pause()
    lot = random.randrange(12)
    if lot == 0:
        raise fault("rejections", Reject())
    if lot == 1:
        raise fault("handler errors", RetryAfter(5.0))
    if lot == 2:
        raise fault("cancellations by handlers", asyncio.CancelledError())
    if lot == 3:
        faults["hangs"] += 1
        await asyncio.Event().wait()
    if lot < 7:
        raise fault("handler errors", ConnectionError())


async def retries() -> None:
    """Failures and hangs, tried again within the policy; or never, under at_most_once."""
    async with books() as case:
        case.subscribe("job", "retried", troubled, retry=RETRY, timeout=10.0)
        case.subscribe("job", "once", troubled, guarantee="at_most_once", timeout=10.0)
        case.subscribe("job", "keyed", troubled, retry=RETRY, timeout=10.0, key="key",
                       concurrency=2)  # fmt: skip
        for number in range(8):
            case.publish("job", key=number % 3)
            await pause()
        await case.bus.settle()


async def restarts(strategy: str) -> None:
    """Three actors under one supervisor restart one another, in the midst of their work."""
    async with books() as case:
        team = case.bus.supervisor("team", strategy, max_restarts=1000)
        for number in range(3):
            case.spawn("job", f"actor{number}", failing(0.15), to=team, retry=ONCE, restart=MANY,
                       concurrency=random.randint(1, 2))  # fmt: skip
        for _ in range(7):
            case.publish("job")
            await pause()
        await case.bus.settle()


async def escalation() -> None:
    """Budgets are spent all the way up a tree, until the actor is suspended and probed."""
    well = False

    async def ill(_: Event) -> None:
        await pause()
        if not well:
            raise fault("handler errors", ConnectionError())

    async with books() as case:
        upper = case.bus.supervisor("upper", "one_for_all", max_restarts=1)
        lower = upper.supervisor("lower", "rest_for_one", max_restarts=1)
        spent = RestartPolicy(max_restarts=1)
        case.spawn("job", "first", to=upper)
        case.spawn("job", "ill", ill, to=lower, retry=ONCE, restart=spent)
        case.spawn("job", "last", to=lower)
        for _ in range(7):
            case.publish("job")
            await asyncio.sleep(random.choice([0.0, 1.0, 20.0]))
        await asyncio.sleep(random.choice([0.0, 100.0]))
        well = True
        await asyncio.sleep(7200.0)
        case.publish("job")
        await case.bus.settle()


async def stubborn() -> None:
    """Handlers that swallow their cancellation are abandoned, and end when they like."""

    async def swallow(_: Event) -> None:
        await pause()
        if random.random() < 0.3:
            faults["swallowed cancellations"] += 1
            for _turn in range(4):
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(2.0)
            raise fault("handler errors", ConnectionError())

    async with books() as case:
        case.subscribe("job", "stubborn", swallow, timeout=1.0, retry=ONCE)
        case.spawn("job", "actor", swallow, timeout=1.0, retry=ONCE, restart=MANY, concurrency=2)
        for _ in range(8):
            case.publish("job")
        await case.bus.close(random.choice([1.0, 25.0]))
        await asyncio.sleep(10.0)


async def letters() -> None:
    """Dead letters are replayed while more arrive, by two at once, one of them cancelled."""
    async with books() as case:
        case.unordered.add("ill")
        replay = partial(case.bus.dead_letters.replay, subscription="ill")
        case.subscribe("job", "ill", failing(0.5), retry=ONCE)
        case.subscribe("job", "narrow", mailbox=1, overflow="drop_new")
        for _ in range(3):
            for _ in range(4):
                case.publish("job")
                await pause()
            await asyncio.gather(replay(), cut(replay(), 4))
        await case.bus.settle()
