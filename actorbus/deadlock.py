"""Deadlock: would this wait close a cycle? Pure, and generic over what an actor is.

The model: an actor has one or more workers; a worker that runs or idles is free, one that waits for
other actors is blocked. A wait ends when the actors it is for take their mail, and an actor takes
mail while it has a worker that is free or will be. A set of actors is stuck when every worker of
each of them waits for ever on account of the set itself.

That is exact for waits for room, which any worker of the target can make. A reply comes from the
one worker that has the request in hand, whether or not others are free; where that matters, let
single workers be actors too: a worker has its own wait only, an actor waits for any of its workers
(``Wait(workers, any_of=True)``), a wait names the actor while a delivery is queued and the worker
once it is in hand, and ``start`` is the worker, with no others.

Invariants:
    - A wait is refused exactly when it would leave its actor stuck in a cycle through itself: no
      false alarm, none missed. If every wait is asked about before it begins, no actor is ever
      stuck.
    - The answer depends on the arguments only.

Complexity: O(actors + workers + targets) of what can be reached from the wait through blocked
workers. Nothing is asked on the fast path: only a wait for a full mailbox or a reply comes here.

Source: the greatest fixed point of the AND-OR wait-for graph (Knapp, "Deadlock Detection in
Distributed Databases", ACM Computing Surveys, 1987), computed from its complement: actors that
are free are taken away, and with them every wait they end.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable, Sequence

A = TypeVar("A", bound="Hashable")


class Wait(NamedTuple, Generic[A]):
    """What one blocked worker waits for.

    Attributes:
        targets: The actors it waits for; none, and the wait is as good as over.
        any_of: False where all of them must move for the wait to end (a publish, a settled), so
            that one stuck target blocks it for ever. True where one will do (an ask: any reply
            ends it), so that only all of them stuck block it.
    """

    targets: Collection[A]
    any_of: bool = False


def closing_cycle(
    start: A,
    wait: Wait[A],
    others: Sequence[Wait[A]] | None,
    waits: Callable[[A], Sequence[Wait[A]] | None],
) -> tuple[A, ...] | None:
    """Return the cycle that one more wait would close.

    Args:
        start: The actor of the worker that is about to wait.
        wait: What that worker would wait for.
        others: What the other workers of `start` wait for, one each; None if one of them is free.
        waits: Returns the same for all workers of another actor: one wait for each, or None if one
            of them is free. Called at most once for each actor and never for `start`.

    Returns:
        The actors of the cycle, each waiting for the next and the last for the first, beginning
        with `start`; through `wait` itself if it can be. None if the wait can end, and also if it
        cannot but only because of a cycle without `start`, which it does not close.
    """
    if others is None:
        return None
    blocked = _blocked(start, (wait, *others), waits)
    stuck = _stuck(blocked)
    if start not in stuck:
        return None
    edges = {
        actor: [target for one in blocked[actor] for target in one.targets if target in stuck]
        for actor in stuck
    }
    first = [target for target in wait.targets if target in stuck]
    return _path_back(start, first, edges) or _path_back(start, edges[start], edges)


def _blocked(
    start: A, own: Sequence[Wait[A]], waits: Callable[[A], Sequence[Wait[A]] | None]
) -> dict[A, Sequence[Wait[A]]]:
    """Return the waits of every actor without a free worker that `start` can reach."""
    asked: dict[A, Sequence[Wait[A]] | None] = {start: own}
    queue = [own]
    for its_waits in queue:  # grows while it is walked
        for wait in its_waits:
            for target in wait.targets:
                if target not in asked:
                    found = asked[target] = waits(target)
                    if found is not None:
                        queue.append(found)
    return {actor: found for actor, found in asked.items() if found is not None}


def _stuck(blocked: dict[A, Sequence[Wait[A]]]) -> set[A]:
    """Return the actors that no free one can ever set free, directly or through others."""
    missing: dict[tuple[A, int], int] = {}  # targets that must still move for a wait to end
    waiting_for: dict[A, list[tuple[A, int]]] = {}  # the waits each target is part of
    for actor, its_waits in blocked.items():
        for number, wait in enumerate(its_waits):
            missing[actor, number] = 1 if wait.any_of and wait.targets else len(wait.targets)
            for target in wait.targets:
                waiting_for.setdefault(target, []).append((actor, number))
    stuck = set(blocked)
    free = [target for target in waiting_for if target not in blocked]
    for (actor, _), count in missing.items():
        if count == 0 and actor in stuck:
            stuck.discard(actor)
            free.append(actor)
    for moving in free:  # grows while it is walked
        for actor, number in waiting_for.get(moving, ()):
            missing[actor, number] -= 1
            if missing[actor, number] <= 0 and actor in stuck:
                stuck.discard(actor)
                free.append(actor)
    return stuck


def _path_back(start: A, first: Sequence[A], edges: dict[A, list[A]]) -> tuple[A, ...] | None:
    """Return a shortest cycle from `start` over one of `first` back to it, or None."""
    before: dict[A, A] = {}
    queue = deque((start, target) for target in first)
    while queue:
        origin, actor = queue.popleft()
        if actor == start:
            return _walked(start, origin, before)
        if actor not in before:
            before[actor] = origin
            queue.extend((actor, target) for target in edges[actor])
    return None


def _walked(start: A, last: A, before: dict[A, A]) -> tuple[A, ...]:
    """Return the way from `start` to `last`."""
    way = [last]
    while way[-1] != start:
        way.append(before[way[-1]])
    return tuple(reversed(way))
