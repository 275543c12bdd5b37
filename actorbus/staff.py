"""Staff: the workers of one actor, and the deliveries they hand back.

Workers are hired when there is mail and nobody to take it, up to the actor's concurrency, and then
sleep between deliveries: an idle function costs no task. ``inbox.asleep`` counts the workers that
could start at once, hired or not; while it is 0 an offer wakes nobody.

A worker leaves when it is released (it finishes what it has in hand), evicted (what it has in hand
is interrupted and kept in `Staff.resume`) or abandoned (its handler will not end: its delivery is
taken from it, and nothing waits for it any more).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Any

from actorbus.delivery import Delivery
from actorbus.event import Event
from actorbus.hand import in_hand
from actorbus.handler import preparation
from actorbus.keyed import KeyedThreadWorker, KeyedWorker, Keys
from actorbus.receipt import Receipt
from actorbus.subscription import Subscription
from actorbus.threaded import ThreadWorker
from actorbus.threads import Job
from actorbus.transaction import calling
from actorbus.words import ActorState, DeadReason, Overflow
from actorbus.worker import POISON, Worker
from actorbus.workplace import Host

log = logging.getLogger("actorbus")


class Staff:
    """The workers of one actor.

    Args:
        sub: The subscription.
        host: The bus.

    Attributes:
        state: Where the actor is in its life.
        workers: Those hired and not gone.
        resume: Interrupted deliveries, run before anything else.
        keys: Of a keyed actor, the busy keys; else None.
        naps: The bus's delays that a drain shortens.
        together: Whether several deliveries are taken at once, or lent to a thread.
        probing: Whether a suspended actor tries one delivery.
        finishing: Whether it ends once its mail is handled.
        parting: Why deliveries die that are cut short while it stops.
    """

    __slots__ = (
        "_hire_as", "_missing", "_rehire", "_sleepers", "call", "context", "finishing",
        "histograms", "host", "keys", "naps", "parting", "prepare", "probing", "resume", "state",
        "sub", "together", "workers",
    )  # fmt: skip

    def __init__(self, sub: Subscription, host: Host) -> None:
        options = sub.options
        self.sub = sub
        self.host = host
        self.state = ActorState.STARTING
        self.histograms = host.histograms
        self.resume = _NONE  # a deque is made when it is needed: an empty one takes 600 bytes
        self.naps = host.naps
        self.workers: tuple[Worker, ...] = ()
        self.probing, self.finishing, self.parting = False, False, DeadReason.STOPPED
        self.keys = Keys(sub, options.key) if options.key is not None else None
        sub.inbox.parking = self.keys
        pushes_out = options.overflow in (Overflow.DROP_OLD, Overflow.LATEST)
        self.together = options.concurrency == 1 and not pushes_out
        self.handled_by(sub.handler)
        self.prepare = preparation(sub.signature, copies=host.copies)
        self.context: Context = copy_context()
        if in_hand.get() is not None:  # subscribing in a handler passes no event on
            self.context.run(in_hand.set, None)
        self._hire_as: type[Worker] = _WORKERS[self.keys is not None, sub.threaded]
        self._sleepers: list[Worker] | None = None  # once one was hired
        self._rehire: asyncio.TimerHandle | None = None
        self._missing = 0  # workers whose task somebody else has cancelled

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The running loop."""
        return self.sub.loop

    @property
    def longest_nap(self) -> float:
        """Seconds a retry or restart may be put off."""
        return self.host.longest_nap

    # -- what a life adds -------------------------------------------------------------------------

    def judge(self, error: BaseException, event: Event | None) -> bool:
        """Decide what a failure means for the actor; return whether the worker goes on."""
        raise NotImplementedError

    def probed(self) -> None:
        """Take note that the probe of a suspended actor was acked."""
        raise NotImplementedError

    def suspend(self) -> None:
        """Let the mailbox fill."""
        raise NotImplementedError

    # -- counting ---------------------------------------------------------------------------------

    def progress(self) -> None:
        """Bring the books up to what threads have done."""
        for worker in self.workers:
            worker.progress()

    def pending(self) -> tuple[int, int, int]:
        """Return how many deliveries are parked for a key, running, and retrying."""
        self.progress()
        running = retrying = 0
        for worker in self.workers:
            running += worker.running
            retrying += worker.retrying
        parked = 0
        if self.keys is not None:
            parked = len(self.keys.parked)
            retrying += len(self.keys.later) + len(self.keys.due)
        return parked, running, retrying + len(self.resume)

    def in_hand(self, receipt: Receipt) -> bool:
        """Return whether a worker holds the delivery, or it waits to be run again."""
        if any(worker.holds is receipt for worker in self.workers):
            return True
        again = [*self.resume]
        if self.keys is not None:
            if receipt in self.keys.parked:
                return True
            again += [*self.keys.later, *self.keys.due]
        return any(delivery.receipt is receipt for delivery in again)

    def holder(self, receipt: Receipt) -> Worker | None:
        """Return the worker that has a delivery in hand, or None."""
        return next((worker for worker in self.workers if worker.holds is receipt), None)

    def keyholder(self, key: Any) -> Worker | None:
        """Return the worker whose delivery holds a key, or None."""
        held = (w for w in self.workers if w.delivery is not None and w.delivery.key == key)
        return next(held, None)

    def withdraw(self, receipt: Receipt) -> bool:
        """Take out a delivery that waits to be run again; return whether it stood there."""
        for delivery in self.resume:
            if delivery.receipt is receipt:
                self.resume.remove(delivery)
                return True
        return False

    def cut(self) -> None:
        """Take back what workers have taken together, or lent to threads, and not begun."""
        for worker in self.workers:
            worker.cut()

    # -- hiring -----------------------------------------------------------------------------------

    def rouse(self) -> None:
        """Set a sleeping worker to work, or hire one."""
        inbox = self.sub.inbox
        if not inbox.asleep:
            return
        self.host.busy.add(self.sub)
        inbox.asleep -= 1
        while self._sleepers:
            worker = self._sleepers.pop()
            if worker.waker is not None and not worker.waker.done():
                worker.waker.set_result(None)
                return
        self._hire()

    def _hire(self) -> None:
        worker = self._hire_as(self)
        self.workers += (worker,)
        context = self.context if self.sub.options.concurrency == 1 else self.context.copy()
        # asyncio.Task itself, not create_task: an eager task factory would run the handler inside
        # the publish that has roused it.
        task = asyncio.Task(
            worker.run(), loop=self.loop, name=f"actorbus:{self.sub.name}", context=context
        )
        worker.task = task
        self.host.keep(task, self.sub.name)
        task.add_done_callback(lambda _: self._left(worker))

    def sleeps(self, worker: Worker) -> None:
        """Take note that a worker has nothing to do."""
        if self._sleepers is None:
            self._sleepers = []
        self._sleepers.append(worker)
        self.sub.inbox.asleep += 1
        self.sub.ring()
        self.settle_down()

    def settle_down(self) -> None:
        """Leave the busy ones once nothing is pending."""
        sub = self.sub
        if sub.inbox.asleep == sub.options.concurrency and not (self.keys and self.keys.later):
            self.host.busy.discard(sub)
        self.host.quiet()

    def _left(self, worker: Worker) -> None:
        """Take note that a worker's task has ended."""
        if self._sleepers and worker in self._sleepers:
            self._sleepers.remove(worker)
        if worker not in self.workers:
            return  # abandoned before
        self._dismiss(worker)
        receipt = worker.holds
        if receipt is not None:
            self._lost(worker, receipt)
        elif not worker.evicted and self.state is ActorState.RUNNING:
            if worker.task is not None and worker.task.cancelled():
                self._rehire_soon()
            else:
                self._work_again()
        self.sub.ring()
        self.host.quiet()

    def _dismiss(self, worker: Worker) -> None:
        self.workers = tuple(each for each in self.workers if each is not worker)
        self.sub.ring()  # a stop waits for the last of them

    def _lost(self, worker: Worker, receipt: Receipt) -> None:
        """A worker's task was cancelled from outside, or broke, with a delivery in hand.

        At the end of ``asyncio.run`` this is the last thing that happens; otherwise the actor must
        go on, but not before a loop that is being closed has had the time to close.
        """
        task = worker.task
        if task is not None and not task.cancelled() and (broken := task.exception()) is not None:
            log.error("worker of %r broke", self.sub.name, exc_info=broken)
        delivery = worker.delivery or Delivery(receipt)
        worker.abandon()
        self.interrupted(delivery)
        self._rehire_soon()

    def _rehire_soon(self) -> None:
        self._missing += 1
        if self._missing == 1:
            self._rehire = self.loop.call_later(0.1, self._make_up)

    def _make_up(self) -> None:
        missing, self._missing = self._missing, 0
        for _ in range(missing):
            self._work_again()

    def _work_again(self) -> None:
        if self.state is not ActorState.RUNNING:
            return
        self.sub.inbox.asleep += 1
        if self.ready:
            self.rouse()
        else:
            self.settle_down()

    def staff_up(self) -> None:
        """Let as many workers begin as there is mail for."""
        inbox = self.sub.inbox
        inbox.asleep = self.sub.options.concurrency - len(self.workers)
        self._missing = 0
        for _ in range(min(self.ready, inbox.asleep)):
            self.rouse()
        self.settle_down()

    @property
    def ready(self) -> int:
        """Deliveries a worker could take, at least: 0 only if there is none."""
        ready = len(self.resume) + len(self.sub.inbox.items)
        return ready if self.keys is None else ready + self.keys.ready

    # -- handing back -----------------------------------------------------------------------------

    def interrupted(self, delivery: Delivery, *, between: bool = False) -> None:
        """Keep a delivery that was cut short, to be run first; unless it may not run again.

        Args:
            delivery: The delivery.
            between: Whether it waited for an attempt, so that none was cut short.
        """
        sub = self.sub
        if not between:
            delivery.interruptions += 1
            delivery.attempts = max(0, delivery.attempts - 1)
        reason = None
        if sub.options.once and not between:
            reason = DeadReason.INTERRUPTED
        elif delivery.interruptions >= POISON:
            reason = DeadReason.POISON
        elif self.state in (ActorState.STOPPING, ActorState.STOPPED):
            reason = self.parting
        if reason is None:
            if self.resume is _NONE:
                self.resume = deque()
            self.resume.append(delivery)
            return
        begun = delivery.attempts + delivery.interruptions
        sub.give_up(delivery.receipt, reason, None, begun, delivery.first_failed_at)
        if self.keys is not None:
            self.keys.release(delivery.key)

    def abandon(self, worker: Worker, reason: DeadReason | None) -> None:
        """Take the delivery from a worker whose handler will not end, and go on without it.

        Args:
            worker: The worker.
            reason: Why its delivery is dead; None to run it again.
        """
        receipt, delivery = worker.holds, worker.delivery
        self._dismiss(worker)
        worker.abandon()
        log.error("a handler of %r does not end and is left to itself", self.sub.name)
        if receipt is None:
            return
        delivery = delivery or Delivery(receipt)
        if reason is None:
            self.interrupted(delivery)
        else:
            self.sub.give_up(receipt, reason, None, max(1, delivery.attempts))
            if self.keys is not None:
                self.keys.release(delivery.key)
        if self.state is ActorState.RUNNING:
            self._work_again()
        elif self.probing:
            self.suspend()

    def discard(self, reason: DeadReason) -> None:
        """Give up everything that is not in hand."""
        self.cut()
        while self.resume:
            self._bury(self.resume.popleft(), reason)
        if self.keys is not None:
            for delivery, timer in list(self.keys.later.items()):
                timer.cancel()
                self.naps.pop(timer, None)
                del self.keys.later[delivery]
                self._bury(delivery, reason)
            while self.keys.due:
                self._bury(self.keys.due.popleft(), reason)
        self.sub.discard(reason)
        self.sub.ring()

    def _bury(self, delivery: Delivery, reason: DeadReason) -> None:
        self.sub.give_up(
            delivery.receipt, reason, None, delivery.attempts, delivery.first_failed_at
        )
        if self.keys is not None:
            self.keys.release(delivery.key)

    def cut_off(self, reason: DeadReason) -> None:
        """Give up everything, in hand or not, at once; whoever will not end is abandoned."""
        self.discard(reason)
        for worker in self.workers:
            receipt, attempts = worker.holds, worker.attempts
            worker.evict()
            worker.abandon()
            self._dismiss(worker)
            if receipt is not None:
                self.sub.give_up(receipt, reason, None, attempts)
        if self.keys is not None:
            self.keys.clear()
        self._sleepers = None
        self.sub.ring()

    def lose(self, reason: DeadReason) -> None:
        """Give up everything, the loop being closed: no task of it will ever run again."""
        self.discard(reason)
        workers, self.workers = self.workers, ()
        for worker in workers:
            if worker.holds is not None:
                self.sub.give_up(worker.holds, reason, None, worker.attempts)
            worker.let_go()
        if self.keys is not None:
            self.keys.clear()
        self._sleepers = None

    def lend(self, job: Job) -> None:
        """Run a job in a thread of the bus."""
        self.host.lend(job, self.sub.name)

    def handled_by(self, handler: Any) -> None:
        """Let a handler take the deliveries from now on."""
        self.sub.handler = handler
        self.call: Callable[[Any], Any] = calling(self.sub)


_NONE: deque[Delivery] = deque(maxlen=0)  # shared by all that have had no delivery interrupted
_WORKERS: dict[tuple[bool, bool], type[Worker]] = {
    (False, False): Worker,
    (False, True): ThreadWorker,
    (True, False): KeyedWorker,
    (True, True): KeyedThreadWorker,
}
