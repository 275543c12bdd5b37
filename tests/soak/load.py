"""The bus under load: a subscriber of every kind, each with a count of its own.

The counts are the soak's, not the bus's: at the end the ledger has to agree with them.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from random import Random
from typing import Any

from actorbus import (
    Actor,
    DeadlockError,
    Event,
    EventBus,
    MailboxFullError,
    Receipt,
    Reject,
    RestartPolicy,
    RetryAfter,
    RetryPolicy,
    Subscription,
    life,
    supervisor,
)
from actorbus.restart import Backoff

Behave = Callable[[Event], Awaitable[object]]

QUICK = RetryPolicy(max_attempts=3, base=0.002, cap=0.02)
ONCE = RetryPolicy.none()
OFTEN = RestartPolicy(max_restarts=1000, within=1.0)
FRAIL = RestartPolicy(max_restarts=1, within=5.0)
ROOM = 200
"""In most mailboxes: a machine that is too busy for the rate makes no mountain of deliveries."""
EPOCH = 5.0  # seconds for which whoever depends on "the database" is well, then not


def hurry() -> None:
    """Shorten what no policy can: a suspended actor is probed after a minute, restarts back off.

    So that a soak of minutes goes through hours of them.
    """
    life.PROBE, life.PROBE_CAP = 1.0, 4.0
    vars(supervisor)["Backoff"] = lambda: Backoff(0.02, 0.5, 5.0)


class Load:
    """The bus, its subscribers, and what they and their publishers have counted.

    Args:
        seed: Of every choice.

    Attributes:
        bus: The bus.
        chance: Draws the choices.
        published: Events published.
        handled: Handlers that returned, by name of the subscription.
        done: What else has been done, by name.
        sure: The subscriptions whose handlers return exactly as often as a delivery is acked: all
            but the one whose handler outlives its delivery, and those that come and go.
    """

    def __init__(self, seed: int) -> None:
        self.bus = EventBus("soak", history=20, dead_letters=500, threads=16)
        self.chance = Random(seed)
        self.published = 0
        self.handled: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._subscribe_steady()
        self._subscribe_slow()
        self._subscribe_failing()
        self._subscribe_threads()
        self._subscribe_ring()
        self._supervise()
        self.sure = self.bus.audit().subscriptions.keys() - {"stubborn"}

    # -- counting ---------------------------------------------------------------------------------

    def publish(self, topic: str, data: Any = None, **options: Any) -> Receipt:
        """Publish, and count it; from any thread."""
        with self._lock:
            self.published += 1
        return self.bus.publish(topic, data, **options)

    async def ask(self, topic: str, data: Any, timeout: float | None) -> Any:
        """Ask, and count what is published by it."""
        self.published += 1
        return await self.bus.ask(topic, data, timeout)

    def subscribe(self, pattern: str, name: str, behave: Behave, **options: Any) -> Subscription:
        """Subscribe what `behave` does, counting how often it returns."""

        async def handle(event: Event) -> object:
            reply = await behave(event)
            self.handled[name] += 1
            return reply

        return self.bus.subscribe(pattern, handle, name=name, **{"mailbox": ROOM, **options})

    def subscribe_thread(
        self, pattern: str, name: str, behave: Callable[[Event], object], **options: Any
    ) -> None:
        """Subscribe what runs in a thread, counting how often it returns."""

        def handle(event: Event) -> None:
            behave(event)
            with self._lock:
                self.handled[name] += 1

        self.bus.subscribe(pattern, handle, name=name, mailbox=ROOM, **options)

    # -- behaviour --------------------------------------------------------------------------------

    async def quick(self, event: Event) -> None:
        """Return at once."""

    def slow(self, seconds: float) -> Behave:
        """Take so long."""

        async def behave(event: Event) -> None:
            await asyncio.sleep(seconds)

        return behave

    async def flaky(self, event: Event) -> None:
        """Fail in one of several ways, one time in ten; hang one time in five hundred."""
        await asyncio.sleep(0)
        lot = self.chance.random()
        if lot < 0.002:
            await asyncio.sleep(60)
        if lot < 0.02:
            raise Reject("not for us")
        if lot < 0.03:
            raise RetryAfter(0.01)
        if lot < 0.1:
            raise ConnectionError("the network")

    async def ill_at_times(self, event: Event) -> None:
        """Fail whenever the database is down."""
        if int(asyncio.get_running_loop().time() / EPOCH) % 2:
            raise ConnectionError("the database is down")

    async def stubborn(self, event: Event) -> None:
        """Swallow a cancellation, for longer than anybody waits."""
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.2)

    async def onward(self, event: Event) -> None:
        """Publish to the next of the ring and wait for room, until the hops are spent."""
        here, hops = event.topic.rpartition(":")[2], event.data
        if hops:
            try:
                await self.publish(f"ring:{(int(here) + 1) % 3}", hops - 1)
            except DeadlockError:
                self.done["deadlocks refused"] += 1
                raise

    async def reply(self, event: Event) -> int:
        """Answer an ask."""
        await asyncio.sleep(0)
        return int(event.data) * 2

    async def refuse(self, event: Event) -> None:
        """Answer no ask."""
        raise ValueError("no answer")

    # -- subscribers ------------------------------------------------------------------------------

    def _subscribe_steady(self) -> None:
        """Those that get by."""
        self.subscribe("**", "witness", self.quick, mailbox=100_000, put_timeout=None)
        self.subscribe("fast:*", "fast", self.quick)
        self.subscribe("fast:*", "latest", self.slow(0.002), overflow="latest", mailbox=50)
        self.subscribe("fast:*", "keyed", self.slow(0.001), key="key", concurrency=8)
        for member in range(3):
            self.subscribe("fast:*", f"member{member}", self.slow(0.001), group="team",
                           concurrency=2)  # fmt: skip
        self.subscribe("ask:double", "doubler", self.reply, concurrency=4)
        self.subscribe("ask:refused", "refuser", self.refuse, retry=ONCE)
        self.subscribe("ask:late", "late", self.slow(0.2), concurrency=4)
        self.subscribe("polite:*", "polite", self.slow(0.002), mailbox=4, put_timeout=None)

    def _subscribe_slow(self) -> None:
        """Those whose mailboxes are full at every burst."""
        options: dict[str, dict[str, Any]] = {
            "waits": {"put_timeout": None},
            "times_out": {"put_timeout": 0.05},
            "drop_new": {"overflow": "drop_new"},
            "drop_old": {"overflow": "drop_old"},
            "conflates": {"overflow": "latest", "key": "key"},
            "fails": {"overflow": "fail"},
        }
        for name, each in options.items():
            self.subscribe("slow:*", name, self.slow(0.005), mailbox=20, **each)

    def _subscribe_failing(self) -> None:
        """Those that fail, and are retried, resumed, restarted, suspended or given up on."""
        self.subscribe("flaky:*", "retried", self.flaky, retry=QUICK, timeout=0.05)
        self.subscribe("flaky:*", "once", self.flaky, guarantee="at_most_once", timeout=0.05,
                       concurrency=2)  # fmt: skip
        self.subscribe("flaky:0", "restarted", self.flaky, retry=ONCE, on_failure="restart",
                       restart=OFTEN, timeout=0.05)  # fmt: skip
        self.subscribe("flaky:*", "keyed_retry", self.flaky, retry=QUICK, key="key",
                       concurrency=4, timeout=0.05)  # fmt: skip
        self.subscribe("frail:*", "frail", self.ill_at_times, retry=ONCE, on_failure="restart",
                       restart=FRAIL, mailbox=50)  # fmt: skip
        self.subscribe("stubborn", "stubborn", self.stubborn, retry=ONCE, timeout=0.05,
                       mailbox=4, overflow="drop_new")  # fmt: skip

    def _subscribe_threads(self) -> None:
        """Those that run in threads."""

        def work(event: Event) -> None:
            time.sleep(0.0005)

        def fail(event: Event) -> None:
            if self.chance.random() < 0.05:
                raise OSError("the disk")

        self.subscribe_thread("thread:*", "thread", work)
        self.subscribe_thread("thread:*", "threads", work, concurrency=3)
        self.subscribe_thread("thread:*", "thread_flaky", fail, retry=QUICK)
        self.subscribe_thread("fast:*", "inline", lambda _: None, inline=True)

    def _subscribe_ring(self) -> None:
        """Three that publish to one another and wait for room in mailboxes of two."""
        for number in range(3):
            self.subscribe(f"ring:{number}", f"ring{number}", self.onward, mailbox=2, retry=ONCE,
                           put_timeout=None)  # fmt: skip

    def _supervise(self) -> None:
        """Actors with state under supervisors of every strategy, in a tree."""
        tree = self.bus.supervisor("tree", max_restarts=1000, within=1.0)
        for strategy in ("one_for_one", "one_for_all", "rest_for_one"):
            team = tree.supervisor(strategy, strategy, max_restarts=1000, within=1.0)
            options: tuple[dict[str, Any], ...] = (
                {"retry": ONCE, "on_failure": "restart"},
                {"guarantee": "at_most_once", "on_failure": "restart"},
                {"retry": QUICK, "on_failure": "escalate", "concurrency": 3},
            )
            for number, each in enumerate(options):
                team.spawn(lambda: Clerk(self), name=f"{strategy}{number}",
                           patterns=f"crash:{strategy}", restart=OFTEN, **each)  # fmt: skip


class Clerk(Actor):
    """An actor with state that fails now and then, also while it starts."""

    def __init__(self, load: Load) -> None:
        self.load = load

    async def on_start(self) -> None:
        await asyncio.sleep(0.001)
        if self.load.chance.random() < 0.05:
            raise ConnectionError("not yet")

    async def receive(self, event: Event) -> None:
        await asyncio.sleep(0.001)
        if self.load.chance.random() < 0.005:
            raise ValueError("a bug")
        self.load.handled[self.name] += 1

    async def on_stop(self, reason: str) -> None:
        self.load.done["instances ended"] += 1


async def awaited(receipt: Receipt) -> None:
    """Wait for room, where one of the subscribers may refuse."""
    with suppress(MailboxFullError):
        await receipt
