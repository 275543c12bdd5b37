"""Waiting: what the engine's state says about who waits for whom.

The graph is never kept: it is read off the workers when somebody in a handler is about to wait. A
worker is blocked while its handler awaits a receipt with places left in lines, or a watch with
deliveries left to settle; the moment the last one is admitted or settled there is no edge any more,
whether or not the waiter has run.

Workers are nodes of their own: room can be made by any worker of an actor, a reply only by the one
that has the request in hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from actorbus.deadlock import Wait, closing_cycle
from actorbus.errors import DeadlockError
from actorbus.hand import Hand
from actorbus.life import Life
from actorbus.receipt import Receipt, Watch
from actorbus.subscription import Subscription
from actorbus.words import ActorState, DeadReason

Node = Any  # a Subscription, a Hand, or a tap


def guard(hand: Hand, receipt: Receipt, watch: Watch | None) -> None:
    """Give up the deliveries whose awaiting would close a cycle, and let the receipt say so.

    Args:
        hand: The worker whose handler is about to wait.
        receipt: What it published.
        watch: What it waits for; None for admission.
    """
    if watch is not None and watch.asking:
        nodes = tuple(_node(each, receipt) for each in watch.pending)
        cycle = closing_cycle(hand, Wait(nodes, any_of=True), (), _waits)
        if cycle is not None:
            _refuse(receipt, list(watch.pending), cycle, "ask")
        return
    doing = "publish" if watch is None else "settled"
    waited_for = [each for each, _ in receipt.places or ()] if watch is None else [*watch.pending]
    for addressee in waited_for:
        cycle = closing_cycle(hand, Wait((_node(addressee, receipt),)), (), _waits)
        if cycle is not None:
            _refuse(receipt, [addressee], cycle, doing)


def _refuse(receipt: Receipt, addressees: list[Any], cycle: tuple[Node, ...], doing: str) -> None:
    receipt.refusal = partial(DeadlockError, _names(cycle), doing)
    for addressee in addressees:
        if isinstance(addressee, Subscription):
            addressee.withdraw(receipt, DeadReason.DEADLOCK)


def _node(addressee: Any, receipt: Receipt) -> Node:
    if isinstance(addressee, Subscription) and isinstance(addressee.life, Life):
        return addressee.life.holder(receipt) or addressee
    return addressee


def _waits(node: Node) -> Sequence[Wait[Node]] | None:
    """Return what a node waits for, or None if it is free to move."""
    if isinstance(node, Hand):
        wait = _wait_of(node)
        return None if wait is None else [wait]
    if not isinstance(node, Subscription) or not isinstance(node.life, Life):
        return None
    workers = [worker for worker in node.life.workers if worker.holds is not None]
    if node.state is not ActorState.RUNNING or len(workers) < node.options.concurrency:
        return None
    if any(_wait_of(worker) is None for worker in workers):
        return None
    return [Wait(tuple(workers), any_of=True)]


def _wait_of(worker: Hand) -> Wait[Node] | None:
    blocked = worker.blocked
    if isinstance(blocked, Receipt):
        targets = tuple(addressee for addressee, _ in blocked.places or ())
        return Wait(targets) if targets else None
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
