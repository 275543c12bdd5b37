"""Model: the whole bus against books of its own, every choice Hypothesis's.

Who subscribes with which policies under which supervisor, what is published and what each handler
does with it, which ready step comes next, when time passes: a failure shrinks to a short list of
such choices. The loop is simulated, threads included, so the same choices give the same run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

try:
    from hypothesis import strategies as st
    from hypothesis.stateful import initialize, precondition, rule
except ImportError as error:
    raise ImportError(
        "BusModel needs Hypothesis: pip install hypothesis, or the extra actorbus[test]"
    ) from error

from actorbus.actor import Actor, ActorRef
from actorbus.event import Event
from actorbus.receipt import Receipt
from actorbus.restart import RestartPolicy
from actorbus.retry import RetryPolicy
from actorbus.subscription import Subscription
from actorbus.supervisor import Supervisor
from actorbus.testing import drawing
from actorbus.testing.books import Book
from actorbus.testing.invariants import Invariants
from actorbus.testing.scripts import Script, perform, perform_plainly

GRACE = 15.0  # seconds a close may take beyond its timeout, whatever handlers do


class BusModel(Invariants):
    """A Hypothesis state machine over a real bus, to test it with handlers of your own beside.

    Subclass it, subscribe in `set_up`, add rules and invariants, and let pytest find its
    ``TestCase``::

        from hypothesis import strategies as st
        from hypothesis.stateful import invariant, rule

        from actorbus.testing import BusModel

        class ShopModel(BusModel):
            bus_options = {"max_hops": 8, "dead_letters": 100}

            def set_up(self):
                self.stock = 3
                self.bus.subscribe("shop:order", self.reserve, name="reserve", mailbox=2)

            async def reserve(self, amount):
                if amount > self.stock:
                    raise ValueError("sold out")
                self.stock -= amount
                await self.bus.publish("shop:reserved", amount)

            @rule(amount=st.integers(1, 2))
            def order(self, amount):
                self.call(self.try_publish, "shop:order", amount)

            @invariant()
            def never_oversold(self):
                assert self.stock >= 0
                reserved = [e for e in self.published if e.topic == "shop:reserved"]
                assert sum(event.data for event in reserved) <= 3

        TestShop = ShopModel.TestCase

    Beside your own rules its rules go on: strangers subscribe (to ``**`` too, in many manners),
    publish, fail, hang, restart and leave, the bus is closed and started again, and after every
    step the numbered invariants are checked, for your subscriptions too. In the end every handler
    has to come to rest.

    What is yours to set: `bus_options` or `make_bus`, for the bus; `most_strangers`, how many
    subscriptions the model makes (0 for none but yours); `most_supervisors`.

    What is yours to use in rules: `call`, for anything that needs the loop; `try_publish`, which
    knows that the bus may be closed; `begin`, for a coroutine; `published` and `handled`;
    `admission` and `settlement`, which wait for a receipt and check it; `step`, `advance` and
    every other rule.

    A failure prints its rules, which can be run as a test, and a ``@reproduce_failure`` line. Where
    a rule takes an ``order``, 0 is asyncio's own and any other number seeds one.

    Attributes:
        bus: The bus. Handlers, actors and publishes need no wrapping.
        loop: Its loop, of which time and order are the model's.
        gate: What the model's own handlers wait for that hang.
    """

    most_strangers = 6
    most_supervisors = 3

    def __init__(self) -> None:
        self.strangers: list[tuple[Book, Subscription | ActorRef]] = []
        self.supervisors: list[Supervisor] = []
        self.abandoned: tuple[str, ...] = ()
        super().__init__()

    # -- who there is -----------------------------------------------------------------------------

    @initialize(
        seed=drawing.orders,
        strategy=st.none() | drawing.strategies,
        first=st.lists(st.tuples(drawing.kinds, drawing.policies), min_size=1, max_size=4),
    )
    def begin_with(
        self, seed: int, strategy: str | None, first: list[tuple[str, dict[str, Any]]]
    ) -> None:
        """Have somebody to publish to; `seed` decides the delays of threads."""
        self.loop.workers._chance.seed(seed)
        if strategy is not None and self.most_supervisors:
            self.supervise(0, strategy, 2, 60.0)
        for kind, policy in first[: self.most_strangers]:
            self.subscribe(["**"], kind, policy, len(self.supervisors))

    @precondition(lambda self: len(self.supervisors) < self.most_supervisors)
    @rule(
        under=drawing.which,
        strategy=drawing.strategies,
        max_restarts=st.integers(0, 2),
        within=st.sampled_from((5.0, 60.0)),
    )
    def supervise(self, under: int, strategy: str, max_restarts: int, within: float) -> None:
        """Add a supervisor, perhaps under another."""
        name = f"supervisor{len(self.supervisors)}"
        add = self._parent(under).supervisor
        made = self.call(add, name, strategy, max_restarts=max_restarts, within=within)
        self.supervisors.append(made)

    def _parent(self, under: int) -> Any:
        return [self.bus, *self.supervisors][under % (len(self.supervisors) + 1)]

    @precondition(lambda self: len(self.strangers) < self.most_strangers)
    @rule(
        patterns=drawing.patterns, kind=drawing.kinds, policy=drawing.policies, under=drawing.which
    )
    def subscribe(self, patterns: list[str], kind: str, policy: dict[str, Any], under: int) -> None:
        """Add a subscription or an actor with some policies."""
        number = len(self.strangers)
        options = _options(f"s{number}", kind, policy)

        def add() -> Subscription | ActorRef:
            parent = self._parent(under)
            if kind == "actor":
                made: ActorRef = parent.spawn(self._factory(number), patterns=patterns, **options)
            else:
                made = parent.subscribe(patterns, self._handler(number, kind), **options)
            return made

        handle = self.call(add)
        self.strangers.append((self.witness.newest[options["name"]], handle))

    def _handler(self, number: int, kind: str) -> Callable[..., Any]:
        async def on_loop(event: Event) -> object:
            return await perform(self, self.strangers[number][0], number, event)

        async def of_payload(data: Any) -> object:
            return await perform(self, self.strangers[number][0], number, data)

        def plain(data: Any) -> object:
            return perform_plainly(self, self.strangers[number][0], number, data)

        handlers: dict[str, Callable[..., Any]] = {"async": on_loop, "payload": of_payload}
        return handlers.get(kind, plain)

    def _factory(self, number: int) -> Callable[[], Actor]:
        handler = self._handler(number, "async")

        class Stranger(Actor):
            async def receive(self, event: Event) -> object:
                return await handler(event)

        return Stranger

    @precondition(lambda self: any(book.live for book, _ in self.strangers))
    @rule(which=drawing.which)
    def leave(self, which: int) -> None:
        """Unsubscribe a stranger, or stop an actor."""
        live = [each for each in self.strangers if each[0].live]
        book, handle = live[which % len(live)]
        if isinstance(handle, Subscription):
            self.call(self.witness.ended, book)
            self.call(self.bus.unsubscribe, handle)
        else:
            self.call(lambda: self.begin(self._stopping(book, handle)))

    async def _stopping(self, book: Book, ref: ActorRef) -> None:
        if book.live:
            self.witness.ended(book)
        await ref.stop()

    # -- what happens -----------------------------------------------------------------------------

    @rule(
        topic=drawing.topics,
        data=drawing.scripts,
        key=drawing.keys,
        times=st.integers(1, 5),
        waits=drawing.waits,
    )
    def publish(self, topic: str, data: Script, key: Any, times: int, waits: str | None) -> None:
        """Publish from outside, awaited, waited for or neither."""
        if waits is None:
            for _ in range(times):
                self.call(self.try_publish, topic, data, key)
        else:
            self.call(lambda: self.begin(self._publishing(topic, data, key, times, waits)))

    async def _publishing(self, topic: str, data: Script, key: Any, times: int, waits: str) -> None:
        for _ in range(times):
            receipt: Receipt | None = self.try_publish(topic, data, key)
            if receipt is not None:
                await (self.admission if waits == "admission" else self.settlement)(receipt)

    @rule(topic=drawing.topics, data=drawing.scripts)
    def ask(self, topic: str, data: Script) -> None:
        """Ask from outside."""
        self.call(lambda: self.begin(self.asking(topic, data)))

    @precondition(lambda self: self.waiters)
    @rule(which=drawing.which)
    def cancel_a_waiter(self, which: int) -> None:
        """Cancel somebody who waits; nothing is taken back."""
        tasks = list(self.waiters)
        self.call(tasks[which % len(tasks)].cancel)

    @rule()
    def release(self) -> None:
        """Let every handler that hangs go on."""
        self.call(self.gate.set)
        self.gate = type(self.gate)()

    @rule(picks=drawing.picks)
    def step(self, picks: list[int]) -> None:
        """Let one ready step after the other run; 0 picks the one that has waited longest."""
        self.loop.step(picks)

    @rule(seconds=st.sampled_from((0.01, 0.6, 2.0, 6.0, 61.0, 1000.0)), order=drawing.orders)
    def advance(self, seconds: float, order: int) -> None:
        """Let time pass."""
        self.loop.advance(seconds, order)

    @precondition(lambda self: len(self.bus.dead_letters) > 0)
    @rule(which=drawing.which)
    def replay(self, which: int) -> None:
        """Replay a dead letter."""
        letters = [each for each in self.bus.dead_letters if self._may_replay(each)]
        if letters:
            letter = letters[which % len(letters)]
            self.call(lambda: self.begin(self._replaying(letter.id)))

    def _may_replay(self, letter: Any) -> bool:
        """Return whether the books can tell the new delivery from any other of the event."""
        book = self.witness.newest[letter.subscription]
        account = book.accounts.get(letter.event._number)
        return account is not None and not account.open

    async def _replaying(self, letter: str) -> None:
        left = await self.bus.dead_letters.replay(letter)
        if left and self.bus.dead_letters.get(letter) is not None:
            self.witness.flaw(6, f"letter {letter} is held though it was replayed")

    @precondition(lambda self: len(self.bus.dead_letters) > 0)
    @rule(which=drawing.which)
    def discard(self, which: int) -> None:
        """Discard a dead letter."""
        letters = list(self.bus.dead_letters)
        letter = letters[which % len(letters)].id
        self.loop.finish(self.bus.dead_letters.discard(letter))

    @rule(topic=drawing.topics)
    def look_back(self, topic: str) -> None:
        """Compare the history of a topic with what was published."""
        size = self.bus._engine.routes.history._size
        wanted = [event.id for event in self.published if event.topic == topic]
        told = [each["id"] for each in self.bus.get_history(topic, size + 1)]
        if told != (wanted[-size:] if size else []):
            self.witness.flaw(6, f"the history of {topic} is {told}, of {wanted}")

    # -- the end ----------------------------------------------------------------------------------

    @precondition(lambda self: not self.witness.closed)
    @rule(timeout=st.sampled_from((0.5, 10.0)), order=drawing.orders)
    def close(self, timeout: float, order: int) -> None:
        """Close the bus; it takes a bounded time whatever the handlers do."""
        began = self.loop.time()
        report = self.loop.finish(self.bus.close(timeout), order)
        self.witness.closed = True
        took = self.loop.time() - began
        found = [] if took <= timeout + GRACE else [f"close({timeout}) took {took} s"]
        self.abandoned += report.abandoned
        self.i12_closed(self.abandoned)
        self._look("I12 closed means closed", found)

    @precondition(lambda self: self.witness.closed)
    @rule()
    def open_again(self) -> None:
        """Start the bus again, with the subscriptions it has."""
        self.witness.reopened()
        self.loop.finish(self.bus.start())

    def come_to_an_end(self) -> None:
        """Let all handlers end, close the bus, and look at what is left."""
        self.everything_holds()
        self.i8_liveness()
        if not self.witness.closed:
            self.close(25.0, 0)
        self.loop.advance(30.0)
        self.i12_closed(())
        self.everything_holds()


def _options(name: str, kind: str, policy: dict[str, Any]) -> dict[str, Any]:
    """Return the options a policy comes to, those left out that do not go together."""
    chosen = dict(policy)
    attempts, most = chosen.pop("attempts", 1), chosen.pop("max_restarts", 1)
    gives_up = chosen.pop("on_give_up", "suspend")
    chosen["restart"] = RestartPolicy(most, within=30.0, on_give_up=gives_up)
    if chosen.get("guarantee") != "at_most_once":
        chosen["retry"] = RetryPolicy(max_attempts=attempts, base=0.5, jitter="none")
    if chosen.get("overflow", "block") != "block":
        chosen.pop("put_timeout", None)
    if kind in ("thread", "inline"):
        chosen.pop("timeout", None)
    if chosen.get("group") is not None:
        chosen.pop("replay", None)
    return {"name": name, "inline": kind == "inline", **chosen}
