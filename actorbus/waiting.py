"""Waiting: what the engine's state says about who waits for whom.

The graph is never kept: it is read off the workers when somebody in a handler is about to wait. A
worker is blocked while its handler awaits a receipt with places left in lines, or a watch with
deliveries left to settle; the moment the last one is admitted or settled there is no edge any more,
whether or not the waiter has run.

Workers are nodes of their own: room can be made by any worker of an actor, a reply only by the one
that has the request in hand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from itertools import combinations
from typing import Any, NamedTuple

from actorbus.deadlock import Wait, closing_cycle
from actorbus.errors import DeadlockError
from actorbus.hand import Hand
from actorbus.life import Life
from actorbus.mailbox import Place
from actorbus.receipt import Receipt
from actorbus.subscription import Subscription
from actorbus.watch import Watch
from actorbus.words import ActorState, DeadReason
from actorbus.worker import Worker

Node = Any  # a Subscription, a Hand, a Room, or a tap
MOST_HOLDERS = 8  # workers whose combinations are looked at; beyond, a cycle may be missed


def guard(hand: Hand, receipt: Receipt, watch: Watch | None) -> None:
    """Give up the deliveries whose awaiting would close a cycle, and let the receipt say so.

    Args:
        hand: The worker whose handler is about to wait.
        receipt: What it published.
        watch: What it waits for; None for admission.
    """
    waits = partial(_waits, asking=hand)
    if watch is not None and watch.asking:
        nodes = tuple(_node(each, receipt) for each in watch.pending)
        cycle = closing_cycle(hand, Wait(nodes, any_of=True), (), waits)
        if cycle is not None:
            _refuse(receipt, list(watch.pending), cycle, "ask")
        return
    doing = "publish" if watch is None else "settled"
    places = receipt.places or ()
    waited_for = [each for each, _ in places] if watch is None else [*watch.pending]
    found = _rooms(receipt) if watch is None else [_node(each, receipt) for each in waited_for]
    for addressee, node in zip(waited_for, found, strict=True):
        cycle = closing_cycle(hand, Wait((node,)), (), waits)
        if cycle is not None:
            _refuse(receipt, [addressee], cycle, doing)


def _refuse(receipt: Receipt, addressees: list[Any], cycle: tuple[Node, ...], doing: str) -> None:
    receipt.refusal = partial(DeadlockError, _names(cycle), doing)
    for addressee in addressees:
        if isinstance(addressee, Subscription):
            addressee.withdraw(receipt, DeadReason.DEADLOCK)


def _node(addressee: Any, receipt: Receipt) -> Node:
    if not isinstance(addressee, Subscription) or not isinstance(addressee.life, Life):
        return addressee
    life = addressee.life
    holder = life.holder(receipt)
    if holder is None and life.keys is not None:
        key = life.keys.busy_key(receipt)
        if key is not None:
            return life.keyholder(key) or addressee
        standing = (place for each, place in receipt.places or () if each is addressee)
        return next((_room(addressee, place) for place in standing), addressee)
    return holder or addressee


class Room(NamedTuple):
    """Room for one place in the line of a keyed actor.

    It depends on more than a free worker: what stands before the place may wait for busy keys, and
    if that alone fills the mailbox only those who hold the keys can make room.
    """

    sub: Subscription
    place: Place[Receipt]

    @property
    def name(self) -> str:
        """The actor's name."""
        return self.sub.name


def _rooms(receipt: Receipt) -> list[Node]:
    """Return what stands for the room each of a receipt's places waits for."""
    return [_room(addressee, place) for addressee, place in receipt.places or ()]


def _room(addressee: Any, place: Place[Receipt]) -> Node:
    keyed = isinstance(addressee, Subscription) and addressee.options.key is not None
    return Room(addressee, place) if keyed else addressee


def _waits_for_room(room: Room) -> Sequence[Wait[Node]] | None:
    """Return the sets of waits of which one must end for the place to move in.

    It moves in once fewer deliveries before it than the mailbox holds are stuck behind busy keys.
    """
    life = room.sub.life
    assert isinstance(life, Life)  # noqa: S101 a subscription has no other
    assert life.keys is not None  # noqa: S101 of a keyed actor
    stuck = Counter[Worker]()
    for key in life.keys.ahead(room.place):
        holder = life.keyholder(key)
        if holder is not None:  # else held by a delivery that waits for its next attempt
            stuck[holder] += 1
    to_free = stuck.total() - room.sub.options.mailbox + 1
    if to_free <= 0:
        return [Wait((room.sub,))]
    if len(stuck) > MOST_HOLDERS:
        return [Wait((room.sub, holder)) for holder in stuck]  # as if each alone were enough
    sets = (c for size in range(1, len(stuck) + 1) for c in combinations(stuck, size))
    return [Wait((room.sub, *c)) for c in sets if sum(stuck[w] for w in c) >= to_free]


def _waits(node: Node, asking: Hand) -> Sequence[Wait[Node]] | None:
    """Return what a node waits for, or None if it is free to move; `asking` is about to wait."""
    if isinstance(node, Hand):
        wait = _wait_of(node)
        return None if wait is None else [wait]
    if isinstance(node, Room):
        return _waits_for_room(node)
    if not isinstance(node, Subscription) or not isinstance(node.life, Life):
        return None
    life = node.life
    workers = [worker for worker in life.workers if worker.holds is not None]
    if node.state is not ActorState.RUNNING and not life.probing:
        return None
    if len(workers) < (1 if life.probing else node.options.concurrency):
        keys = set() if life.keys is None else life.keys.held_up_by()
        if not keys:
            return None
        workers = [w for w in workers if w.delivery is not None and w.delivery.key in keys]
        if len(workers) < len(keys):
            return None  # a key is held by a delivery that waits for its next attempt
    if any(_wait_of(worker) is None for worker in workers if worker is not asking):
        return None
    return [Wait(tuple(workers), any_of=True)]


def _wait_of(worker: Hand) -> Wait[Node] | None:
    blocked = worker.blocked
    if isinstance(blocked, Receipt):
        rooms = _rooms(blocked)
        return Wait(tuple(rooms)) if rooms else None
    if not isinstance(blocked, Watch) or blocked.done:
        return None
    nodes = tuple(_node(each, blocked.receipt) for each in blocked.pending)
    return Wait(nodes, any_of=blocked.asking)


def _names(cycle: tuple[Node, ...]) -> tuple[str, ...]:
    names: list[str] = []
    for node in cycle:
        name = node.actor.name if isinstance(node, Hand) else node.name
        if not names or names[-1] != name:
            names.append(name)
    if len(names) > 1 and names[0] == names[-1]:
        names.pop()
    return tuple(names)
