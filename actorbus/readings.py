"""Readings: the books of everybody, copied for an exporter without holding the loop.

Whoever has a label of its own is copied in one step: at most 1,000 rows. Those who share one are
added up in further steps, between which the loop goes on; where they are few there is no further
step. Each is read at one instant, so whatever the steps, the sums balance; and each is read once,
so no total falls: one that ends meanwhile is still in the list made at the first step, and not yet
in the sum of the ended ones, which was copied then.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from operator import add

from actorbus.ledger import Ledger, Terms
from actorbus.rows import OTHERS, STREAMS, Rows, pack
from actorbus.subscription import Subscription
from actorbus.tap import Tap
from actorbus.words import ActorState

STEP = 100  # subscriptions added up in one step: under 1 ms
LARGE = 20_000  # of 100,000 the list alone takes 2 ms, and 4 ms more if it is collected at once

_DOWN = (ActorState.SUSPENDED, ActorState.STOPPING, ActorState.STOPPED)


def settled(ledger: Ledger) -> Terms:
    """Return the terms of books in which nothing is pending."""
    return Terms(ledger.routed, ledger.acked, ledger.dead_total, ledger.conflated)


def copied(
    subs: Iterable[Subscription],
    taps: Iterable[Tap],
    labels: Mapping[Subscription, str],
    ended: Mapping[str, Ledger],
) -> Generator[None, None, Rows]:
    """Copy the books of everybody, on the loop, in steps.

    Args:
        subs: The subscriptions, those included that only finish their mail.
        taps: The open streams and waits.
        labels: Which of the subscriptions are exported under a label of their own.
        ended: The books of those that have ended, per label that is shared.

    Returns:
        A row for each label.
    """
    rows, labels = Rows(), dict(labels)
    sums = {label: _Sum(ledger) for label, ledger in ended.items()}
    everybody: list[Ledger | Subscription] = [*(tap.ledger for tap in taps), *subs]
    if len(everybody) > LARGE:
        yield
    for sub, label in labels.items():
        pending = sub.pending()  # first: it brings the books up to what threads have done
        up, capacity = _is_up(sub), sub.options.mailbox
        rows.packed.append(pack(label, sub.ledger, pending, sub.ledger.acked, up, capacity))
    shared = (each for each in everybody if each not in labels)
    for number, each in enumerate(shared, 1):
        if isinstance(each, Ledger):
            sums[STREAMS].ledger.merge(each)
        else:
            sums[OTHERS].add(each)
        if number % STEP == 0:
            yield
    for label, one in sums.items():
        succeeded = one.ledger.acked if label != STREAMS else 0  # each ack was one attempt
        rows.packed.append(pack(label, one.ledger, one.pending, succeeded, one.up, one.capacity))
    return rows


class _Sum:
    """The actors that share a label, added up."""

    def __init__(self, ended: Ledger) -> None:
        self.ledger = ended.copy()
        self.pending: tuple[int, ...] = (0, 0, 0, 0)
        self.up: bool | None = None
        self.capacity = 0

    def add(self, sub: Subscription) -> None:
        """Add the books of one, read at one instant."""
        self.pending = tuple(map(add, self.pending, sub.pending()))
        self.ledger.merge(sub.ledger)
        self.up = self.up is not False and _is_up(sub)
        self.capacity += sub.options.mailbox


def _is_up(sub: Subscription) -> bool:
    return sub.state not in _DOWN
