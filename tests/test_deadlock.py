"""closing_cycle: a wait is refused exactly when it could never end."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actorbus.deadlock import Wait, closing_cycle

Graph = dict[int, list[Wait[int]] | None]
wait_of = st.builds(Wait, st.lists(st.integers(0, 4), max_size=3).map(tuple), st.booleans())
graphs = st.dictionaries(
    st.integers(0, 4), st.none() | st.lists(wait_of, min_size=1, max_size=2), max_size=5
)


def ask(graph: Graph, start: int, wait: Wait[int]) -> tuple[int, ...] | None:
    return closing_cycle(start, wait, graph.get(start, []), lambda actor: graph.get(actor))


def is_stuck(whole: Graph, some: set[int]) -> bool:
    """Say by definition whether a set of actors can never move, given that nobody else can help."""
    return all(
        whole.get(actor) is not None
        and all(
            (all(t in some for t in wait.targets) and bool(wait.targets))
            if wait.any_of
            else any(t in some for t in wait.targets)
            for wait in whole[actor] or ()
        )
        for actor in some
    )


def stuck_sets(whole: Graph) -> Iterator[set[int]]:
    for size in range(1, 6):
        for some in combinations(range(5), size):
            if is_stuck(whole, set(some)):
                yield set(some)


def leads_to(whole: Graph, some: set[int], origin: int, goal: int) -> bool:
    """Say whether a chain of waits inside `some` leads from one actor to another."""
    reached, before = {origin}, set[int]()
    targets: set[int] = set()
    while reached != before:
        before = set(reached)
        targets = {t for a in reached for w in whole[a] or () for t in w.targets if t in some}
        reached |= targets
    return goal in targets


@given(graphs, st.integers(0, 4), wait_of)
def test_refused_exactly_when_stuck_by_definition(
    graph: Graph, start: int, wait: Wait[int]
) -> None:
    """A wait is refused if and only if some stuck set has a cycle through its actor."""
    others = graph.get(start, [])
    whole: Graph = {**graph, start: None if others is None else [wait, *others]}
    cycle = ask(graph, start, wait)
    truth = any(start in some and leads_to(whole, some, start, start) for some in stuck_sets(whole))
    assert (cycle is not None) is truth


@given(graphs, st.integers(0, 4), wait_of)
def test_the_answer_is_a_cycle(graph: Graph, start: int, wait: Wait[int]) -> None:
    """Each actor of the answer waits for the next, the last for the first, and none comes twice."""
    cycle = ask(graph, start, wait)
    if cycle is None:
        return
    others = graph.get(start, [])
    assert others is not None
    whole: Graph = {**graph, start: [wait, *others]}
    assert cycle[0] == start
    assert len(set(cycle)) == len(cycle)
    for actor, following in zip(cycle, (*cycle[1:], start), strict=True):
        waits = whole[actor]
        assert waits is not None
        assert any(following in one.targets for one in waits)


@given(graphs, st.integers(0, 4), wait_of)
def test_each_actor_is_asked_at_most_once(graph: Graph, start: int, wait: Wait[int]) -> None:
    """The waits of an actor are read once at most, and those of the start never."""
    asked: list[int] = []

    def waits(actor: int) -> Sequence[Wait[int]] | None:
        asked.append(actor)
        return graph.get(actor)

    closing_cycle(start, wait, graph.get(start, []), waits)
    assert len(asked) == len(set(asked))
    assert start not in asked


@given(graphs)
def test_if_every_wait_is_asked_about_nobody_is_ever_stuck(graph: Graph) -> None:
    """Waits begun one by one, each only if not refused, never leave a stuck set."""
    workers = {actor: len(waits or ()) for actor, waits in graph.items()}
    begun: dict[int, list[Wait[int]]] = {actor: [] for actor in graph}

    def waits(actor: int) -> Sequence[Wait[int]] | None:
        mine = begun.get(actor, [])
        return mine if mine and len(mine) == workers[actor] else None

    for actor, planned in graph.items():
        for wait in planned or ():
            others = begun[actor] if len(begun[actor]) == workers[actor] - 1 else None
            if closing_cycle(actor, wait, others, waits) is None:
                begun[actor].append(wait)
        whole: Graph = {a: list(w) if (w := waits(a)) is not None else None for a in graph}
        assert not any(True for _ in stuck_sets(whole))


def publish(*targets: str) -> Wait[str]:
    return Wait(targets)


def first_reply(*targets: str) -> Wait[str]:
    return Wait(targets, any_of=True)


def test_publishing_to_oneself() -> None:
    """A lone worker that waits for its own mailbox is a cycle of one."""
    assert closing_cycle("a", publish("a"), [], lambda _: None) == ("a",)
    assert closing_cycle("a", first_reply("a"), [], lambda _: None) == ("a",)


def test_a_free_worker_of_the_same_actor() -> None:
    """With another worker free, waiting for oneself is no deadlock."""
    assert closing_cycle("a", publish("a"), None, lambda _: None) is None


def test_a_ring() -> None:
    """The actors of a ring are named in the order in which they wait."""
    graph = {"b": [publish("c")], "c": [publish("a")]}
    assert closing_cycle("a", publish("b"), [], graph.get) == ("a", "b", "c")
    assert closing_cycle("a", publish("b"), [], {"b": [publish("c")]}.get) is None


def test_a_publish_needs_all_and_an_ask_any() -> None:
    """One stuck target blocks a publish for ever; an ask is blocked only by all of them."""
    graph = {"b": [publish("a")]}
    assert closing_cycle("a", publish("free", "b"), [], graph.get) == ("a", "b")
    assert closing_cycle("a", first_reply("free", "b"), [], graph.get) is None
    assert closing_cycle("a", first_reply("b", "b"), [], graph.get) == ("a", "b")
    assert closing_cycle("a", first_reply(), [], graph.get) is None
    assert closing_cycle("a", publish(), [], graph.get) is None


def test_every_worker_must_be_stuck() -> None:
    """An actor whose other worker's wait can end is not stuck."""
    graph = {"b": [publish("a")]}
    assert closing_cycle("a", publish("b"), [publish("free")], graph.get) is None
    assert closing_cycle("a", publish("b"), [publish("b")], graph.get) == ("a", "b")
    graph = {"b": [publish("a"), publish("free")]}
    assert closing_cycle("a", publish("b"), [], graph.get) is None


def test_a_cycle_of_others_is_not_closed() -> None:
    """Waiting for actors that already wait for each other in vain closes no cycle itself."""
    graph = {"b": [publish("c")], "c": [publish("b")]}
    assert closing_cycle("a", publish("b"), [], graph.get) is None


def test_a_wait_without_end_leaves_a_cycle_of_the_other_worker() -> None:
    """A last worker lost to others' cycle makes its actor's own older cycle a deadlock."""
    graph = {"b": [publish("c")], "c": [publish("b")], "d": [publish("a")]}
    assert closing_cycle("a", publish("b"), [publish("d")], graph.get) == ("a", "d")


def test_the_cycle_runs_through_the_new_wait() -> None:
    """Where the new wait lies on a cycle that one is named, though another is shorter."""
    graph = {"b": [publish("c")], "c": [publish("a")], "d": [publish("a")]}
    assert closing_cycle("a", publish("b"), [publish("d")], graph.get) == ("a", "b", "c")


def test_a_long_chain_is_walked_without_recursion() -> None:
    """A ring of 20,000 actors is found, each one looked at once."""
    size = 20_000
    found = closing_cycle(0, Wait((1,)), [], lambda actor: [Wait(((actor + 1) % size,))])
    assert found == tuple(range(size))


# A simulated bus: actors with bounded mailboxes, lines before them, and workers whose handlers
# publish and ask, stepped in random order. Without the guard a run hangs or not: that is the truth.


@dataclass(eq=False)
class Delivery:
    """One event for one actor: in a line or mailbox (`place` is the actor), then in hand."""

    place: Hashable
    depth: int
    admitted: Worker | None = None  # who waits for it to be admitted
    replied: Worker | None = None  # who waits for its reply


@dataclass(eq=False)
class Worker:
    """One worker: idle without work, blocked while `missing` holds deliveries."""

    actor: int
    number: int
    hand: Delivery | None = None
    todo: list[tuple[bool, list[int]]] = field(default_factory=list)
    missing: list[Delivery] = field(default_factory=list)
    asks: bool = False

    def wait(self) -> Wait[Hashable]:
        return Wait(tuple(delivery.place for delivery in self.missing), any_of=self.asks)


class Simulation:
    """A random topology; `exact` looks at single workers, so that asks can be judged too."""

    def __init__(self, seed: int, *, guard: bool, exact: bool) -> None:
        self.chance = random.Random(seed)  # noqa: S311 - a repeatable choice, no secret
        self.guard, self.exact, self.refused = guard, exact, 0
        actors = range(self.chance.randint(1, 4))
        self.room = [self.chance.randint(1, 2) for _ in actors]
        self.workers = [[Worker(a, n) for n in range(self.chance.randint(1, 2))] for a in actors]
        self.mail: list[deque[Delivery]] = [deque() for _ in actors]
        self.line: list[deque[Delivery]] = [deque() for _ in actors]
        self.plan = [
            [
                (exact and self.chance.random() < 0.5, self.chance.sample(actors, k))
                for k in self.chance.choices(range(min(2, len(actors)) + 1), k=2)
            ]
            for _ in actors
        ]
        for _ in range(self.chance.randint(1, 6)):  # from publishers outside every actor
            actor = self.chance.choice(actors)
            self.send(actor, Delivery(actor, depth=3))

    def run(self) -> bool:
        """Step until nothing can; return whether somebody still waits."""
        while moves := list(self.moves()):
            self.chance.choice(moves)()
        return any(worker.missing for team in self.workers for worker in team)

    def moves(self) -> Iterator[Callable[[], None]]:
        for actor, team in enumerate(self.workers):
            for worker in team:
                if worker.hand is None and self.mail[actor]:
                    yield partial(self.take, worker)
                elif worker.hand is not None and not worker.missing:
                    yield partial(self.go_on, worker)

    def send(self, actor: int, delivery: Delivery) -> bool:
        full = len(self.mail[actor]) >= self.room[actor]
        (self.line if full else self.mail)[actor].append(delivery)
        return not full

    def take(self, worker: Worker) -> None:
        worker.hand = self.mail[worker.actor].popleft()
        if self.exact:
            worker.hand.place = ("worker", worker.actor, worker.number)
        worker.todo = list(self.plan[worker.actor]) if worker.hand.depth else []
        if self.line[worker.actor]:
            admitted = self.line[worker.actor].popleft()
            self.mail[worker.actor].append(admitted)
            if admitted.admitted is not None:
                admitted.admitted.missing.remove(admitted)

    def go_on(self, worker: Worker) -> None:
        assert worker.hand is not None
        if worker.todo:
            self.call(worker, *worker.todo.pop())
            return
        done, worker.hand = worker.hand, None
        if done.replied is not None and done in done.replied.missing:
            done.replied.missing.clear()  # the first reply ends an ask

    def call(self, worker: Worker, asks: bool, targets: list[int]) -> None:
        assert worker.hand is not None
        missing = []
        for actor in targets:
            delivery = Delivery(actor, worker.hand.depth - 1)
            if not self.send(actor, delivery) or asks:
                missing.append(delivery)
        wait = Wait[Hashable](tuple(delivery.place for delivery in missing), any_of=asks)
        if self.guard and missing and self.cycle(worker, wait):
            self.refused += 1
            for line in self.line:
                for delivery in [d for d in line if d in missing]:
                    line.remove(delivery)
            return
        worker.missing, worker.asks = missing, asks
        for delivery in missing:
            delivery.admitted, delivery.replied = (None, worker) if asks else (worker, None)

    def cycle(self, worker: Worker, wait: Wait[Hashable]) -> tuple[Hashable, ...] | None:
        if self.exact:
            me = ("worker", worker.actor, worker.number)
            worker.missing, worker.asks = [Delivery(None, 0)], False  # blocked, while it is judged
            found = closing_cycle(me, wait, (), self.exact_waits)
            worker.missing = []
            return found
        team = [other for other in self.workers[worker.actor] if other is not worker]
        others = [w.wait() for w in team] if all(w.missing for w in team) else None
        return closing_cycle(worker.actor, wait, others, self.waits)

    def waits(self, actor: Any) -> list[Wait[Hashable]] | None:
        team = self.workers[actor]
        return [w.wait() for w in team] if all(w.missing for w in team) else None

    def exact_waits(self, node: Any) -> list[Wait[Hashable]] | None:
        if isinstance(node, tuple):
            worker = self.workers[node[1]][node[2]]
            return [worker.wait()] if worker.missing else None
        team = [("worker", w.actor, w.number) for w in self.workers[node]]
        blocked = all(w.missing for w in self.workers[node])
        return [Wait(tuple(team), any_of=True)] if blocked else None


@pytest.mark.parametrize("exact", [False, True], ids=["publishes", "publishes and asks"])
def test_refusals_are_exactly_the_deadlocks_of_a_simulated_bus(exact: bool) -> None:
    """Per seed: the guard refuses if and only if the same run hangs without it; then none hangs."""
    hung = 0
    for seed in range(2000):
        hangs = Simulation(seed, guard=False, exact=exact).run()
        guarded = Simulation(seed, guard=True, exact=exact)
        assert not guarded.run(), f"seed {seed} hangs with the guard"
        assert (guarded.refused > 0) is hangs, f"seed {seed}: {guarded.refused} refused"
        hung += hangs
    assert 200 < hung < 1800  # the sample tells both apart
