"""The whole bus against a small model, one loop turn at a time.

Hypothesis owns every choice: who subscribes with which policies, what is published and what each
handler does with it, when the loop turns and when time passes. The loop is a `VirtualLoop` that the
machine steps itself, so a failure shrinks to a short list of such choices.

What a handler does is written in the event: the payload holds three actions, and a subscription
follows the one its number points to, so one event can succeed here, fail there and hang elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from actorbus import (
    Actor,
    ActorBusError,
    ActorRef,
    BusClosedError,
    DeadlockError,
    Event,
    EventBus,
    MailboxFullError,
    Pattern,
    Receipt,
    Reject,
    RestartPolicy,
    RetryPolicy,
    Subscription,
)
from tests.virtual import VirtualLoop

T = TypeVar("T")

TOPICS = ("a:x", "a:y", "b:x")
PATTERNS = ("a:*", "b:*", "**", "a:x")
KEYS = (None, "k", "l")

Action = tuple[Any, ...]


class CrashError(Exception):
    """What a failing handler raises."""


class HardError(BaseException):
    """What no ``except Exception`` sees."""


@dataclass
class Model:
    """What is known of one subscription without asking the bus.

    Attributes:
        starts: (event id, attempt) in the order in which handlers started.
        open: Event ids with an attempt under way.
        done: Event ids handled to the end, and how often.
    """

    number: int
    name: str
    patterns: tuple[Pattern, ...]
    options: dict[str, Any]
    spawned: bool
    live: bool = True
    handle: Any = None
    starts: list[str] = field(default_factory=list)
    open: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)
    busy_keys: Counter[Any] = field(default_factory=Counter)

    @property
    def group(self) -> str | None:
        """The group it belongs to."""
        group: str | None = self.options.get("group")
        return group

    @property
    def ordered(self) -> bool:
        """Whether its first deliveries come in publish order."""
        return (
            self.options.get("concurrency", 1) == 1
            and self.options.get("key") is None
            and self.options["overflow"] != "latest"
        )

    def matches(self, topic: str) -> bool:
        """Return whether it gets a topic now."""
        return self.live and any(pattern.matches(topic) for pattern in self.patterns)


simple_actions = st.one_of(
    st.just(("ok",)),
    st.just(("ok",)),
    st.tuples(st.just("fail"), st.integers(1, 4)),
    st.just(("hang",)),
    st.tuples(st.just("sleep"), st.sampled_from((0.0, 0.5, 7.0))),
    st.just(("reject",)),
    st.just(("hard",)),
    st.just(("unsubscribe",)),
)
plain = st.tuples(simple_actions, simple_actions, simple_actions)
actions = st.one_of(
    simple_actions,
    st.tuples(st.just("publish"), st.sampled_from(TOPICS), plain, st.booleans()),
    st.tuples(st.just("publish"), st.sampled_from(TOPICS), plain, st.booleans()),
)
payloads = st.tuples(actions, actions, actions)

policies = st.one_of(
    st.fixed_dictionaries(
        {"overflow": st.just("block"), "put_timeout": st.sampled_from((0.0, 1.0, 5.0, None))}
    ),
    st.fixed_dictionaries(
        {"overflow": st.sampled_from(("drop_new", "drop_old", "latest", "fail"))}
    ),
)
handlings = st.fixed_dictionaries(
    {
        "mailbox": st.integers(1, 4),
        "concurrency": st.integers(1, 3),
        "key": st.sampled_from((None, None, "key")),
        "group": st.sampled_from((None, None, "g")),
        "guarantee": st.sampled_from(("at_least_once", "at_least_once", "at_most_once")),
    }
)


class BusMachine(RuleBasedStateMachine):
    """Steps a bus and its model side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.log = logging.getLogger("actorbus")
        self.level = self.log.level
        self.log.setLevel(logging.CRITICAL + 1)
        self.loop = VirtualLoop()
        self.broken: list[str] = []
        self.loop.set_exception_handler(lambda _, context: self.broken.append(repr(context)))
        self.bus = EventBus("model", dead_letters=1_000_000, max_hops=3)
        self.models: list[Model] = []
        self.published: dict[str, Event] = {}
        self.routed = 0  # deliveries the model expects
        self.replayed: Counter[tuple[str, str]] = Counter()  # (subscription, event id)
        self.left_the_store = 0
        self.in_replay: set[str] = set()
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self.awaiting: Counter[str] = Counter()
        self.gate = asyncio.Event()
        self.open_gate = False
        self.closed = False

    @initialize(
        first=st.lists(st.tuples(policies, handlings, st.booleans()), min_size=1, max_size=3)
    )
    def start(self, first: list[tuple[dict[str, Any], dict[str, Any], bool]]) -> None:
        """Open the bus, with somebody to publish to."""
        self.loop.run_until_complete(self.bus.start())
        for policy, handling, patient in first:
            self.subscribe(["**"], policy, handling, spawned=False, patient=patient)

    # -- running things on the loop ---------------------------------------------------------------

    def on_loop(self, call: Callable[[], T]) -> T:
        """Call a function inside a turn of the loop."""
        box: list[T | BaseException] = []

        def run() -> None:
            try:
                box.append(call())
            except BaseException as error:
                box.append(error)

        self.loop.call_soon(run)
        self.turn()
        if isinstance(box[0], BaseException):
            raise box[0]
        return box[0]

    def turn(self) -> None:
        """Run the loop once."""
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()

    def begin(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Run a coroutine beside everything else."""
        task = self.loop.create_task(coroutine)
        self.tasks[task] = None

    # -- what handlers do -------------------------------------------------------------------------

    async def handle(self, model: Model, event: Event) -> object:
        """Follow the event's script, keeping the model's books."""
        identity, key = event.id, event.key if model.options.get("key") else None
        model.starts.append(identity)
        if model.open[identity]:
            self.broken.append(f"{model.name} runs {identity} twice at the same time")
        if key is not None and model.busy_keys[key]:
            self.broken.append(f"{model.name} runs key {key} twice at the same time")
        model.open[identity] += 1
        model.busy_keys[key] += 1
        try:
            reply = await self.act(model, event)
        except AssertionError as error:  # of the model, not of the script
            self.broken.append(repr(error))
            raise
        finally:
            model.open[identity] -= 1
            model.busy_keys[key] -= 1
        model.done[identity] += 1
        return reply

    async def act(self, model: Model, event: Event) -> object:
        """Do what the script says."""
        match event.data[model.number % 3]:
            case ("fail", times) if model.starts.count(event.id) <= times:
                raise CrashError
            case ("hang",):
                if not self.open_gate:
                    await self.gate.wait()
            case ("sleep", seconds):
                await asyncio.sleep(seconds)
            case ("reject",):
                raise Reject("not wanted")
            case ("hard",):
                raise HardError
            case ("unsubscribe",):
                model.live = False
                self.bus.unsubscribe(model.handle) if not model.spawned else None
                if model.spawned:
                    model.live = True
            case ("publish", topic, data, awaited):
                receipt = self.publish_now(topic, data, None)
                if awaited and receipt is not None:
                    await self.admission(receipt)
        return event.id

    def publish_now(self, topic: str, data: Any, key: Any) -> Receipt | None:
        """Publish, and expect what the contract says of it."""
        matching = [model for model in self.models if model.matches(topic)]
        groups = {model.group for model in matching if model.group}
        expected = sum(model.group is None for model in matching) + len(groups)
        try:
            receipt = self.bus.publish(topic, data, key=key)
        except BusClosedError:
            assert self.closed, "refused though the bus is open"
            return None
        self.published[receipt.event.id] = receipt.event
        self.routed += expected
        assert receipt.deliveries == expected
        return receipt

    async def admission(self, receipt: Receipt) -> None:
        """Await a receipt; what it may raise is no concern here."""
        with contextlib.suppress(MailboxFullError, DeadlockError):
            assert await receipt is receipt
        assert not receipt.waiting, "awaiting has returned though deliveries wait"

    async def settlement(self, receipt: Receipt) -> None:
        """Wait until every delivery of a receipt has settled."""
        result = await receipt.settled()
        assert len(result.outcomes) == receipt.deliveries
        assert not receipt.waiting

    async def asking(self, topic: str, data: Any) -> None:
        """Ask; it must end, somehow."""
        matching = [model for model in self.models if model.matches(topic)]
        groups = {model.group for model in matching if model.group}
        expected = sum(model.group is None for model in matching) + len(groups)
        self.routed += expected
        began = self.loop.time()
        try:
            await self.bus.ask(topic, data, timeout=20.0)
        except BusClosedError:
            self.routed -= expected
            assert self.closed
        except ActorBusError:
            pass
        assert self.loop.time() <= began + 20.001

    # -- rules ------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.models) < 6)
    @rule(
        patterns=st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=2, unique=True),
        policy=policies,
        handling=handlings,
        spawned=st.booleans(),
        patient=st.booleans(),
    )
    def subscribe(
        self,
        patterns: list[str],
        policy: dict[str, Any],
        handling: dict[str, Any],
        spawned: bool,
        patient: bool,
    ) -> None:
        """Add a subscription or an actor with some policies."""
        options = {k: v for k, v in {**policy, **handling}.items() if v is not None}
        if policy["overflow"] == "block":
            options["put_timeout"] = policy["put_timeout"]
        if options["guarantee"] == "at_least_once":
            attempts = 3 if patient else 1
            options["retry"] = RetryPolicy(max_attempts=attempts, base=0.5, jitter="none")
        number = len(self.models)
        options["name"] = f"s{number}"
        parsed = tuple(map(Pattern, patterns))
        model = Model(number, options["name"], parsed, options, spawned)

        async def handler(event: Event) -> object:
            return await self.handle(model, event)

        def enter() -> None:
            if spawned:
                model.handle = self.spawn(model, patterns, options)
            else:
                model.handle = self.bus.subscribe(patterns, handler, **options)
            self.models.append(model)

        self.on_loop(enter)

    def spawn(self, model: Model, patterns: list[str], options: dict[str, Any]) -> ActorRef:
        """Spawn an actor that restarts when it fails and gives up soon."""
        machine = self

        class Scripted(Actor):
            async def receive(self, event: Event) -> object:
                return await machine.handle(model, event)

        Scripted.patterns = patterns
        policy = RestartPolicy(max_restarts=2, within=30.0)
        return self.bus.spawn(Scripted, restart=policy, **options)

    @rule(
        topic=st.sampled_from(TOPICS),
        data=payloads,
        key=st.sampled_from(KEYS),
        times=st.integers(1, 6),
        waits=st.sampled_from((None, "admission", "settlement")),
    )
    def publish(self, topic: str, data: Any, key: Any, times: int, waits: str | None) -> None:
        """Publish from outside, awaited, waited for or not."""

        async def publishing() -> None:
            for _ in range(times):
                receipt = self.publish_now(topic, data, key)
                if receipt is None:
                    return
                if waits == "admission":
                    await self.admission(receipt)
                elif waits == "settlement":
                    await self.settlement(receipt)

        self.begin(publishing())
        self.turn()

    @rule(topic=st.sampled_from(TOPICS), data=payloads)
    def ask(self, topic: str, data: Any) -> None:
        """Ask from outside."""
        self.begin(self.asking(topic, data))
        self.turn()

    @precondition(lambda self: self.tasks)
    @rule(which=st.integers(0, 1000))
    def cancel_a_publisher(self, which: int) -> None:
        """Cancel somebody who waits; nothing is taken back."""
        tasks = list(self.tasks)
        tasks[which % len(tasks)].cancel()
        self.turn()

    @precondition(lambda self: any(model.live for model in self.models))
    @rule(which=st.integers(0, 1000))
    def unsubscribe(self, which: int) -> None:
        """End a subscription from outside, or stop an actor."""
        live = [model for model in self.models if model.live]
        model = live[which % len(live)]
        if isinstance(model.handle, Subscription):

            def leave() -> None:
                was_live, model.live = model.live, False
                assert self.bus.unsubscribe(model.handle) == was_live

            self.on_loop(leave)
            return

        async def stopping() -> None:
            model.live = False
            await model.handle.stop()

        self.begin(stopping())
        self.turn()

    @rule()
    def release(self) -> None:
        """Let every handler that hangs go on."""
        self.on_loop(self.gate.set)
        self.turn()
        self.gate = asyncio.Event()

    @rule(turns=st.integers(1, 10))
    def step(self, turns: int) -> None:
        """Let the loop turn."""
        for _ in range(turns):
            self.turn()

    @rule(seconds=st.sampled_from((0.01, 0.6, 2.0, 6.0, 61.0, 1000.0)))
    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.loop.call_later(seconds, self.loop.stop)
        self.loop.run_forever()

    @precondition(lambda self: len(self.bus.dead_letters) > 0)
    @rule(which=st.integers(0, 1000))
    def replay(self, which: int) -> None:
        """Replay a dead letter."""
        letters = [one for one in self.bus.dead_letters if one.id not in self.in_replay]
        if not letters:
            return
        letter = letters[which % len(letters)]
        model = next(m for m in self.models if m.name == letter.subscription)

        async def replaying() -> None:
            self.routed += model.live and not self.closed
            self.in_replay.add(letter.id)
            self.replayed[model.name, letter.event.id] += 1
            before = self.bus.audit().totals.routed
            try:
                left = await self.bus.dead_letters.replay(letter.id)
                self.left_the_store += left
            finally:
                self.in_replay.discard(letter.id)
            assert before <= self.bus.audit().totals.routed

        self.begin(replaying())
        self.turn()

    @precondition(lambda self: not self.closed)
    @rule(timeout=st.sampled_from((0.5, 10.0)))
    def close(self, timeout: float) -> None:
        """Close the bus; it takes a bounded time whatever the handlers do."""
        began = self.loop.time()
        self.closed = True
        self.loop.run_until_complete(self.bus.close(timeout))
        assert self.loop.time() <= began + timeout + 10.0
        assert not self.bus.audit().totals.pending

    # -- invariants -------------------------------------------------------------------------------

    @invariant()
    def nothing_is_broken(self) -> None:
        """No handler saw a rule broken, and no error got lost."""
        finished = [task for task in self.tasks if task.done()]
        for task in finished:
            del self.tasks[task]
            if not task.cancelled():
                task.result()
        assert not self.broken

    @invariant()
    def the_books_balance(self) -> None:
        """Every term is counted, none left over; and the totals are the model's."""
        audit = self.bus.audit()
        assert audit.balanced, str(audit)
        if not self.in_replay:
            assert audit.totals.routed == self.routed, f"{self.routed} expected: {audit}"

    @invariant()
    def capacity_holds(self) -> None:
        """No mailbox holds more than its size, no line more unawaited places than that."""
        terms = self.bus.audit().subscriptions
        for model in self.models:
            if model.name in terms:
                assert terms[model.name].queued <= model.options["mailbox"], model.name
                assert terms[model.name].running <= model.options["concurrency"], model.name

    @invariant()
    def nothing_is_invented(self) -> None:
        """What was handled was published and matches."""
        for model in self.models:
            for identity in set(model.starts):
                event = self.published.get(identity)
                if event is not None:
                    assert any(pattern.matches(event.topic) for pattern in model.patterns)

    @invariant()
    def handled_at_most_once(self) -> None:
        """A delivery that succeeded is not run again, unless it was replayed from the store."""
        for model in self.models:
            for identity, times in model.done.items():
                assert times <= 1 + self.replayed[model.name, identity]
            if model.options["guarantee"] == "at_most_once":
                for identity, times in Counter(model.starts).items():
                    assert times <= 1 + self.replayed[model.name, identity]

    @invariant()
    def first_deliveries_are_in_order(self) -> None:
        """One worker starts events in publish order, and one key's events likewise."""
        for model in self.models:
            if model.options["overflow"] == "latest":
                continue
            firsts: dict[Any, list[str]] = defaultdict(list)
            for identity in dict.fromkeys(model.starts):
                if self.replayed[model.name, identity] or identity not in self.published:
                    continue
                key = self.published[identity].key if model.options.get("key") else None
                if model.ordered or key is not None:
                    firsts[key].append(identity)
            for order in firsts.values():
                assert order == sorted(order), model.name

    @invariant()
    def one_dead_letter_per_dead_delivery(self) -> None:
        """What died is in the store, each once."""
        if not self.in_replay:
            dead = self.bus.audit().totals.dead
            assert len(self.bus.dead_letters) + self.left_the_store == dead

    def teardown(self) -> None:
        """Let go of everything: all settles, everybody who waits is told, nothing remains."""
        try:
            if sys.exc_info()[0] is None:  # else something has failed already: let that be seen
                self.come_to_an_end()
        finally:
            self.log.setLevel(self.level)
            # In a thread of its own: what handlers raise now must not be chained to the failure.
            cleaning = threading.Thread(target=self.clean_up)
            cleaning.start()
            cleaning.join()

    def clean_up(self) -> None:
        """End what a failed run has left."""
        for _ in range(20):
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
            self.advance(2.0)
        self.loop.close()

    def come_to_an_end(self) -> None:
        """Let all handlers end, close the bus, and look at what is left."""
        self.open_gate = True
        self.on_loop(self.gate.set)
        if not self.closed:
            self.loop.run_until_complete(self.bus.settle(timeout=1e6))
            self.closed = True
            self.loop.run_until_complete(self.bus.close())
        self.advance(30.0)
        self.nothing_is_broken()
        self.the_books_balance()
        self.first_deliveries_are_in_order()
        self.handled_at_most_once()
        self.one_dead_letter_per_dead_delivery()
        assert not self.bus.audit().totals.pending
        assert not self.tasks, "somebody still waits"
        assert not asyncio.all_tasks(self.loop), "tasks remain"


TestBusModel = pytest.mark.timeout(600)(BusMachine.TestCase)  # shrinking takes its time
TestBusModel.settings = settings(max_examples=4 * settings().max_examples, stateful_step_count=30)
