"""Life: one actor from its start to its end.

States: starting, running, restarting, suspended, stopping, stopped. Only a running actor has
workers that take new mail; a suspended one has a single worker while it is probed. The mailbox
belongs to the subscription and outlives every instance.

Workers are hired when there is mail and nobody to take it: an idle function costs no task.

Everything that can hang (a handler that swallows its cancellation, a hook that never returns) is
waited for with a deadline and then abandoned: its task is kept in `Host.abandoned` by name, and
nothing waits for it any more.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from copy import deepcopy
from operator import attrgetter
from typing import Any, Protocol

from actorbus import world
from actorbus.actor import Actor, ActorRef
from actorbus.errors import ConfigurationError
from actorbus.event import Event
from actorbus.hand import in_hand
from actorbus.keyed import KeyedThreadWorker, KeyedWorker, Keys
from actorbus.receipt import Receipt, hear, ring
from actorbus.restart import Backoff, Window, doubling
from actorbus.subscription import Subscription
from actorbus.threaded import ThreadWorker, call_plain
from actorbus.words import ActorState, DeadReason, Directive, GiveUp, Overflow
from actorbus.worker import GRACE, POISON, Delivery, Nap, Worker, nap

HOOK = 5.0  # seconds a hook may take before the actor goes on without it
PROBE = 60.0  # seconds until a suspended actor is first probed
PROBE_CAP = 900.0

log = logging.getLogger("actorbus")


class Host(Protocol):
    """What a life needs to know of its bus."""

    name: str
    histograms: bool
    longest_nap: float
    busy: set[Subscription]
    copies: bool
    draining: bool

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop the bus runs on."""

    @property
    def running(self) -> bool:
        """Whether actors may work."""

    def keep(self, task: asyncio.Task[Any], owner: str) -> None:
        """Hold a task strongly until it ends."""

    def lend(self, job: Callable[[], None], owner: str) -> None:
        """Run a job in a thread."""

    def quiet(self) -> None:
        """Look whether somebody waits for the bus to be idle."""

    def announce(self, topic: str, data: object) -> None:
        """Publish an event of the bus's own."""

    def forget(self, subscription: Subscription) -> None:
        """Close the books of a subscription that has ended."""

    def end(self, subscription: Subscription) -> int:
        """Route nothing more to a subscription."""

    def collapse(self, error: BaseException) -> None:
        """Close the bus because an actor gave up for all of it."""


class Parent(Protocol):
    """What a life needs to know of its supervisor."""

    def failed(self, life: Life, error: BaseException, event: Event | None) -> None:
        """Restart an actor, or pass its failure on."""

    def escalate(self, life: Life, error: BaseException, event: Event | None) -> None:
        """Pass a failure on."""


class Life:
    """The actor of one subscription.

    Args:
        sub: The subscription.
        host: The bus.
        parent: Its supervisor.
        factory: Builds an instance of an `Actor` class; None for a function.
        first: The instance to begin with, where one was needed to find the options.
    """

    def __init__(
        self,
        sub: Subscription,
        host: Host,
        parent: Parent,
        factory: Callable[[], Actor] | None = None,
        first: Actor | None = None,
    ) -> None:
        options = sub.options
        self.sub = sub
        self.host = host
        self.parent = parent
        self.state = ActorState.STARTING
        self.histograms = host.histograms
        self.resume: deque[Delivery] = deque()
        self.naps: set[Nap] = set()
        self.workers: list[Worker] = []
        self.probing = self.finishing = False
        self.window = Window(options.restart.max_restarts, options.restart.within)
        self.backoff = Backoff()
        self.keys = Keys(sub, options.key) if options.key is not None else None
        if self.keys is not None:
            sub.inbox.parking = self.keys
        threaded = not sub.signature.is_async and not options.inline
        self.lends = (
            threaded
            and options.concurrency == 1
            and options.overflow not in (Overflow.DROP_OLD, Overflow.LATEST)
        )
        self.call: Callable[[Any], Any] = sub.handler
        self.prepare = _preparation(sub, copies=host.copies)
        if options.inline:
            self.call = self._inline
        self._hire_as: type[Worker] = _WORKERS[self.keys is not None, threaded]
        self._factory = factory
        self._first = first
        self._instance: Actor | None = None
        self._sleepers: list[Worker] = []
        self._context: Context = copy_context()
        self._context.run(in_hand.set, None)  # subscribing in a handler passes no event on
        self._acked_at_begin = 0
        self._probes = 0
        self._probe: asyncio.TimerHandle | None = None
        self._rehire: asyncio.TimerHandle | None = None
        self._bells: list[asyncio.Future[None]] = []
        self._hook: asyncio.Task[None] | None = None
        self.ref: ActorRef | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The running loop."""
        return self.sub.loop

    @property
    def longest_nap(self) -> float:
        """Seconds a retry or restart may be put off."""
        return self.host.longest_nap

    @property
    def has_hooks(self) -> bool:
        """Whether it is an `Actor` with an instance to start and stop."""
        return self._factory is not None

    # -- counting ---------------------------------------------------------------------------------

    def pending(self) -> tuple[int, int, int]:
        """Return how many deliveries are parked for a key, running, and retrying."""
        running = retrying = 0
        for worker in self.workers:
            if isinstance(worker, ThreadWorker):
                worker.progress()
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

    def withdraw(self, receipt: Receipt) -> bool:
        """Take out a delivery that waits to be run again; return whether it stood there."""
        for delivery in self.resume:
            if delivery.receipt is receipt:
                self.resume.remove(delivery)
                return True
        return False

    def cut(self) -> None:
        """Take back what threads were lent and have not started."""
        for worker in self.workers:
            if isinstance(worker, ThreadWorker):
                worker.cut()

    # -- workers ----------------------------------------------------------------------------------

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
        self.workers.append(worker)
        context = self._context if self.sub.options.concurrency == 1 else self._context.copy()
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
        self._sleepers.append(worker)
        self.sub.inbox.asleep += 1
        self._ring()
        self.settle_down()

    def settle_down(self) -> None:
        """Leave the busy ones once nothing is pending."""
        sub = self.sub
        if sub.inbox.asleep == sub.options.concurrency and not (self.keys and self.keys.later):
            self.host.busy.discard(sub)
        self.host.quiet()

    def _left(self, worker: Worker) -> None:
        """Take note that a worker's task has ended."""
        if worker in self._sleepers:
            self._sleepers.remove(worker)
        if worker not in self.workers:
            return  # abandoned before
        self.workers.remove(worker)
        receipt = worker.holds
        if receipt is not None:
            self._lost(worker, receipt)
        elif not worker.evicted and self.state is ActorState.RUNNING:
            self._work_again()
        self._ring()
        self.host.quiet()

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
        self._rehire = self.loop.call_later(0.1, self._work_again)

    def _work_again(self) -> None:
        if self.state is not ActorState.RUNNING:
            return
        self.sub.inbox.asleep += 1
        if self.resume or self.sub.inbox.items or (self.keys and self.keys.ready):
            self.rouse()
        else:
            self.settle_down()

    def interrupted(self, delivery: Delivery) -> None:
        """Keep a delivery that was cut short, to be run first; unless it may not run again."""
        sub = self.sub
        delivery.interruptions += 1
        delivery.attempts = max(0, delivery.attempts - 1)
        reason = None
        if sub.options.once:
            reason = DeadReason.INTERRUPTED
        elif delivery.interruptions >= POISON:
            reason = DeadReason.POISON
        elif self.state in (ActorState.STOPPING, ActorState.STOPPED):
            reason = DeadReason.STOPPED
        if reason is None:
            self.resume.append(delivery)
            return
        sub.give_up(delivery.receipt, reason, None, delivery.attempts, delivery.first_failed_at)
        if self.keys is not None:
            self.keys.release(delivery.key)

    def abandon(self, worker: Worker, reason: DeadReason | None) -> None:
        """Take the delivery from a worker whose handler will not end, and go on without it.

        Args:
            worker: The worker.
            reason: Why its delivery is dead; None to run it again.
        """
        receipt, delivery = worker.holds, worker.delivery
        if worker in self.workers:
            self.workers.remove(worker)
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

    def lend(self, job: Callable[[], None]) -> None:
        """Run a job in a thread of the bus."""
        self.host.lend(job, self.sub.name)

    async def _inline(self, argument: Any) -> Any:
        return call_plain(self.sub.handler, argument)

    # -- states -----------------------------------------------------------------------------------

    def become(self, state: ActorState) -> None:
        """Enter a state and say so."""
        self.state = state
        if state is not ActorState.RUNNING:
            self.sub.inbox.asleep = 0
            self.host.busy.add(self.sub)
        self.host.announce(
            f"$bus:actor:{state}", {"subscription": self.sub.name, "state": str(state)}
        )

    def open(self) -> None:
        """Let a function work: there is nothing to start."""
        self._run()
        if self.finishing:
            self.background(self._finish())

    def _run(self) -> None:
        self._acked_at_begin = self.sub.ledger.acked
        self.become(ActorState.RUNNING)
        inbox = self.sub.inbox
        inbox.asleep = self.sub.options.concurrency - len(self.workers)
        ready = len(self.resume) + len(inbox.items)
        if self.keys is not None and self.keys.ready:
            ready += 1 + len(self.keys.due)
        for _ in range(min(ready, inbox.asleep)):
            self.rouse()
        self.settle_down()

    async def begin(self) -> None:
        """Build and start an instance, then let it work; a failure is a failure of the actor."""
        if self.state in (ActorState.STOPPING, ActorState.STOPPED, ActorState.RUNNING):
            return
        if not await self._build():
            return
        if self.state in (ActorState.STARTING, ActorState.RESTARTING):
            self._run()

    async def _build(self) -> bool:
        if self._factory is None:
            return True
        try:
            instance, self._first = self._first or self._factory(), None
            if not isinstance(instance, Actor):
                raise ConfigurationError("the factory must return an Actor")  # noqa: TRY301, TRY004
            instance.bus, instance.name, instance.ref = self.host, self.sub.name, self.ref
            await self._in_context(instance.on_start(), bound=None)
        except Exception as error:  # noqa: BLE001 any failure to start is a failure of the actor
            log.warning("actor %r failed to start", self.sub.name, exc_info=error)
            if self.state is ActorState.SUSPENDED:
                self.suspend()
            elif self.state not in (ActorState.STOPPING, ActorState.STOPPED):
                self._fail(error, None)
            return False
        self._instance = instance
        self.call = self.sub.handler = instance.receive
        return True

    async def _in_context(self, hook: Coroutine[Any, Any, Any], bound: float | None) -> None:
        """Run a hook in the actor's context, for a bounded time.

        Raises:
            Exception: Whatever the hook raises.
            TimeoutError: It did not end; its task is abandoned.
        """
        task = asyncio.Task(
            hook, loop=self.loop, context=self._context, name=f"actorbus:{self.sub.name}:hook"
        )
        self.host.keep(task, self.sub.name)
        self._hook = task
        try:
            await asyncio.wait({task}, timeout=bound)
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait({task}, timeout=GRACE)
            raise
        if not task.done():
            task.cancel()
            raise TimeoutError(f"a hook of {self.sub.name!r} did not end within {bound} s")
        if task.cancelled():
            raise RuntimeError(f"a hook of {self.sub.name!r} was cancelled")
        task.result()

    async def _quietly(self, hook: Coroutine[Any, Any, Any]) -> None:
        try:
            await self._in_context(hook, HOOK)
        except Exception as error:  # noqa: BLE001 a hook on the way out cannot fail anything more
            log.warning("a hook of %r failed", self.sub.name, exc_info=error)

    # -- failure ----------------------------------------------------------------------------------

    def judge(self, error: BaseException, event: Event | None) -> bool:
        """Decide what a failure means for the actor; return whether the worker goes on."""
        if self.state in (ActorState.STOPPING, ActorState.STOPPED):
            return True
        if self.probing:
            self.suspend()
            return False
        directive = self._directive(error, event)
        if directive is Directive.RESUME:
            return True
        self._fail(error, event, directive)
        return False

    def _fail(
        self, error: BaseException, event: Event | None, directive: Directive = Directive.RESTART
    ) -> None:
        match directive:
            case Directive.STOP:
                self.stop_soon("stopped")
            case Directive.ESCALATE:
                self.parent.escalate(self, error, event)
            case _:
                self.parent.failed(self, error, event)

    def _directive(self, error: BaseException, event: Event | None) -> Directive:
        default = Directive.RESTART if self.has_hooks else Directive.RESUME
        chosen = self.sub.options.on_failure
        if chosen is None:
            return default
        if isinstance(chosen, Directive):
            return chosen
        try:
            return Directive(chosen(error, event))
        except Exception as wrong:  # noqa: BLE001 the user's function
            log.warning("on_failure of %r failed", self.sub.name, exc_info=wrong)
            return default

    def spend(self) -> bool:
        """Take one restart from the budget; return whether there was one.

        A restart costs nothing if the instance it ends had acked something.
        """
        if self.sub.ledger.acked > self._acked_at_begin:
            return True
        return self.window.allow(self.loop.time())

    def give_up(self, error: BaseException) -> None:
        """Do what the restart policy says when nobody is left to ask."""
        match self.sub.options.restart.on_give_up:
            case GiveUp.STOP:
                self.stop_soon("gave up")
            case GiveUp.RAISE:
                self.become(ActorState.RESTARTING)
                self.host.collapse(error)
            case _:
                log.error("actor %r is suspended", self.sub.name, exc_info=error)
                self.suspend()

    async def halt(self, error: BaseException | None, event: Event | None, why: str) -> None:
        """End the present instance, keeping its mail.

        Args:
            error: What it failed with; None if it is not the one that failed.
            event: The event it failed on, if any.
            why: For ``on_stop``.
        """
        workers = [w for w in self.workers if w.task is not None]
        for worker in workers:
            worker.evict()
        tasks = [w.task for w in workers if w.task is not None and not w.task.done()]
        if current := asyncio.current_task():
            tasks = [task for task in tasks if task is not current]
        if tasks:
            await asyncio.wait(tasks, timeout=GRACE)
            for worker in workers:
                if worker in self.workers and worker.task in tasks and not worker.task.done():
                    self.abandon(worker, None)
        self.workers = [w for w in self.workers if w.holds is not None]
        instance, self._instance = self._instance, None
        if instance is not None:
            if error is not None:
                await self._quietly(instance.on_restart(error, event))
            await self._quietly(instance.on_stop(why))

    # -- suspension -------------------------------------------------------------------------------

    def suspend(self) -> None:
        """Let the mailbox fill, and try one delivery now and then."""
        self.probing = False
        self.become(ActorState.SUSPENDED)
        if self.host.draining:
            self.discard(DeadReason.SUSPENDED)
        self.host.quiet()
        self.background(self.halt(None, None, "suspended"))
        self._probe = self.loop.call_later(doubling(self._probes, PROBE, PROBE_CAP), self._try_one)
        self._probes += 1

    def _try_one(self) -> None:
        self.background(self._begin_probe())

    async def _begin_probe(self) -> None:
        if self.state is not ActorState.SUSPENDED or self.probing:
            return
        if await self._build() and self.state is ActorState.SUSPENDED:
            self.probing = True
            self.sub.inbox.asleep = 1
            if self.resume or self.sub.inbox.items or (self.keys and self.keys.ready):
                self.rouse()

    def probed(self) -> None:
        """Resume: the probe of a suspended actor was acked."""
        self.probing = False
        self._probes = 0
        self.window.clear()
        self._run()

    # -- end --------------------------------------------------------------------------------------

    def background(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a step of the actor's life in a task of its own."""
        task = asyncio.Task(coroutine, loop=self.loop, name=f"actorbus:{self.sub.name}:life")
        self.host.keep(task, self.sub.name)
        task.add_done_callback(self._life_went_on)
        return task

    def _life_went_on(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (broken := task.exception()) is not None:
            log.error("life of %r broke", self.sub.name, exc_info=broken)

    def finish(self) -> None:
        """Handle what is there, then end."""
        self.finishing = True
        if not self.host.running or self.loop.is_closed():
            if not self.sub.terms().pending:
                self.become_stopped()
            return
        if self.state is ActorState.RUNNING and not self.has_hooks and not self.sub.terms().pending:
            for worker in list(self.workers):
                worker.evict()
            self.become_stopped()
        else:
            self.background(self._finish())

    async def _finish(self) -> None:
        await self.wind_up("unsubscribed", for_good=True)

    async def wind_up(self, why: str, *, for_good: bool = False) -> None:
        """Handle what is there, then stop."""
        while self.sub.terms().pending and self.state is not ActorState.STOPPED:
            await hear(self._bells)
        await self.stop(why, for_good=for_good)

    def stop_soon(self, why: str) -> None:
        """Stop without waiting."""
        self.host.end(self.sub)
        self.background(self.stop(why))

    async def stop(
        self, why: str, reason: DeadReason = DeadReason.STOPPED, *, for_good: bool = True
    ) -> None:
        """Finish what is in hand, give up the rest, end.

        Called in a handler of the actor itself it does not wait for that handler.

        Args:
            why: For ``on_stop``.
            reason: Of the dead letters.
            for_good: Whether the subscription ends too; else it can be opened again.
        """
        if for_good:
            self.host.end(self.sub)
        if self.state is ActorState.STOPPED:
            return
        if self.state is not ActorState.STOPPING:
            self.become(ActorState.STOPPING)
            self.cancel_timers()
            self.discard(reason)
            for worker in list(self.workers):
                worker.release()
            self.background(self._stopped(why, for_good=for_good))
        mine = in_hand.get()
        if mine is None or mine.actor is not self.sub or not mine.is_here():
            await self.sub.ended()

    async def _stopped(self, why: str, *, for_good: bool) -> None:
        while any(worker.holds is not None for worker in self.workers):
            await hear(self._bells)
        if self._hook is not None:
            self._hook.cancel()
        instance, self._instance = self._instance, None
        if instance is not None:
            await self._quietly(instance.on_stop(why))
        self.become_stopped(for_good=for_good)

    def discard(self, reason: DeadReason) -> None:
        """Give up everything that is not in hand."""
        self.cut()
        while self.resume:
            self._bury(self.resume.popleft(), reason)
        if self.keys is not None:
            for delivery, timer in list(self.keys.later.items()):
                timer.cancel()
                self.naps.discard(timer)
                del self.keys.later[delivery]
                self._bury(delivery, reason)
            while self.keys.due:
                self._bury(self.keys.due.popleft(), reason)
        self.sub.inbox.clear(reason)
        self._ring()

    def _bury(self, delivery: Delivery, reason: DeadReason) -> None:
        self.sub.give_up(
            delivery.receipt, reason, None, delivery.attempts, delivery.first_failed_at
        )
        if self.keys is not None:
            self.keys.release(delivery.key)

    def cut_off(self, reason: DeadReason) -> None:
        """Give up everything, in hand or not, at once; whoever will not end is abandoned."""
        self.cancel_timers()
        self.discard(reason)
        for worker in list(self.workers):
            receipt, delivery = worker.holds, worker.delivery
            attempts = delivery.attempts if delivery is not None else 1
            worker.evict()
            worker.abandon()
            self.workers.remove(worker)
            if receipt is not None:
                self.sub.give_up(receipt, reason, None, attempts)
        self._sleepers.clear()
        self._ring()

    def cancel_timers(self) -> None:
        """Stop every clock of the actor."""
        for timer in (self._probe, self._rehire):
            if timer is not None:
                timer.cancel()
        self._probe = self._rehire = None
        self.probing = False
        self.sub.inbox.cancel_timer()

    def become_stopped(self, *, for_good: bool = True) -> None:
        """End, for good or until the bus is started again."""
        if self.state is ActorState.STOPPED:
            return
        self.become(ActorState.STOPPED)
        self.host.busy.discard(self.sub)
        self.sub.inbox.cancel_timer()
        if for_good or self.finishing:
            self.host.forget(self.sub)
        self.sub.has_ended()
        self._ring()
        self.host.quiet()

    def reset(self) -> None:
        """Forget the loop that was closed under us; everything open is dead."""
        self.cut_off(DeadReason.LOOP_CLOSED)
        self._instance = None
        self.naps.clear()
        self.state = ActorState.STARTING

    def _ring(self) -> None:
        ring(self._bells)


def _preparation(sub: Subscription, *, copies: bool) -> Callable[[Event], Any]:
    """Return what turns an event into the handler's argument."""
    signature = sub.signature
    if signature.wants_event:
        return _own_copy if copies else _itself
    convert = signature.convert
    if copies:
        return lambda event: deepcopy(event.data) if convert is None else convert(deepcopy(event.data))
    if convert is not None:
        return lambda event: convert(event.data)
    return attrgetter("data")


def _itself(event: Event) -> Event:
    return event


def _own_copy(event: Event) -> Event:
    return event.with_data(deepcopy(event.data))


_WORKERS: dict[tuple[bool, bool], type[Worker]] = {
    (False, False): Worker,
    (False, True): ThreadWorker,
    (True, False): KeyedWorker,
    (True, True): KeyedThreadWorker,
}
