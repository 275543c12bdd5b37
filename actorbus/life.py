"""Life: one actor from its start to its end.

States: starting, running, restarting, suspended, stopping, stopped. Only a running actor has
workers that take new mail; a suspended one has a single worker while it is probed. The mailbox
belongs to the subscription and outlives every instance.

Everything that can hang (a handler that swallows its cancellation, a hook that never returns) is
waited for with a deadline and then abandoned; a drain names whoever was.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from actorbus.actor import Actor, ActorRef
from actorbus.event import Event
from actorbus.hand import in_hand
from actorbus.hooks import Hooks
from actorbus.restart import Backoff, Window, doubling
from actorbus.staff import Staff
from actorbus.subscription import Subscription
from actorbus.words import ActorState, DeadReason, Directive, GiveUp
from actorbus.worker import GRACE
from actorbus.workplace import Host

PROBE, PROBE_CAP = 60.0, 900.0  # seconds until a suspended actor is first probed, and at most

log = logging.getLogger("actorbus")


class Parent(Protocol):
    """What a life needs to know of its supervisor."""

    def failed(self, life: Life, error: BaseException, event: Event | None) -> None:
        """Restart an actor, or pass its failure on."""

    def escalate(self, life: Life, error: BaseException, event: Event | None) -> None:
        """Pass a failure on."""

    def dismiss(self, life: Life) -> None:
        """Forget an actor that ends."""


class Life(Staff):
    """The actor of one subscription.

    Args:
        sub: The subscription.
        host: The bus.
        parent: Its supervisor.
        factory: Builds an instance of an `Actor` class; None for a function.
        first: The instance to begin with, where one was needed to find the options.

    Attributes:
        window: Its budget of restarts, once one was spent.
        backoff: Its delays between restarts, once there was one.
        ref: The one reference to it, once made.
        hooks: Its instances, where it is an `Actor` class; None for a function.
    """

    __slots__ = (
        "_acked_at_begin", "_halting", "_misjudged", "_probe", "_probes", "backoff", "hooks",
        "parent", "ref", "window",
    )  # fmt: skip

    def __init__(
        self,
        sub: Subscription,
        host: Host,
        parent: Parent,
        factory: Callable[[], Actor] | None = None,
        first: Actor | None = None,
    ) -> None:
        super().__init__(sub, host)
        self.parent = parent
        self.window: Window | None = None
        self.backoff: Backoff | None = None
        self.ref: ActorRef | None = None
        self.hooks = None if factory is None else Hooks(self, factory, first)
        self._halting: asyncio.Task[None] | None = None
        self._acked_at_begin = 0
        self._misjudged = False
        self._probes = 0
        self._probe: asyncio.TimerHandle | None = None

    def _hire(self) -> None:
        if self.hooks is not None:  # not before: a bound method is one more object to collect
            self.handled_by(self.hooks.receive)
        super()._hire()

    # -- states -----------------------------------------------------------------------------------

    def become(self, state: ActorState) -> None:
        """Enter a state and say so."""
        self.state = state
        if state is not ActorState.RUNNING:
            self.sub.inbox.asleep = 0
            self.host.busy.add(self.sub)
            for worker in self.workers:
                worker.release()  # it may finish what it has in hand, but takes nothing new
        news = {"subscription": self.sub.name, "state": str(state)}
        self.host.announce(f"$bus:actor:{state}", news)

    def open(self) -> None:
        """Let an actor work that need not wait for a hook."""
        self._acked_at_begin = self.sub.ledger.acked
        if self.hooks is not None:
            self.become(ActorState.STARTING)
            try:
                self.hooks.start_at_once(self.ref)
            except Exception as error:  # noqa: BLE001 any failure to start is one of the actor
                self._not_started(error)
                return
        self._run()
        if self.finishing:
            self.background(self.wind_up("unsubscribed", for_good=True))

    def _run(self) -> None:
        self._halting = None
        self.become(ActorState.RUNNING)
        self.staff_up()

    async def begin(self) -> None:
        """Build and start an instance, then let it work; a failure is a failure of the actor."""
        if self._halting is not None:  # by another restart, which this one has overtaken
            await asyncio.wait({self._halting})
        unended = self._halting is None and self.state is ActorState.RESTARTING  # by a later one
        if unended or (self.hooks is not None and self.hooks.building) or not self._may_begin():
            return
        if self.state is ActorState.STARTING:
            self.become(ActorState.STARTING)
        if await self._build():
            if not self._may_begin():
                await self._take_leave("stopped")
            elif self._halting is None or self._halting.done():
                self._run()
            else:  # a restart has come meanwhile: it ends this instance, and begins another
                await asyncio.wait({self._halting})
                await self._take_leave("restart")

    def _may_begin(self) -> bool:
        return self.state in (ActorState.STARTING, ActorState.RESTARTING)

    async def _build(self) -> bool:
        """Make and start an instance; return whether it has started."""
        self._acked_at_begin = self.sub.ledger.acked
        if self.hooks is None:
            return True
        try:
            await self.hooks.start(self.ref)
        except (KeyboardInterrupt, SystemExit, asyncio.CancelledError):
            raise
        except BaseException as error:  # noqa: BLE001 any failure to start is one of the actor
            self._not_started(error)
            return False
        return True

    def _not_started(self, error: BaseException) -> None:
        log.warning("actor %r failed to start", self.sub.name, exc_info=error)
        if self.state is ActorState.SUSPENDED:
            self.suspend()
        elif self._may_begin():
            directive = self._directive(error, None)
            resumes = directive is Directive.RESUME  # there is nothing to resume
            self._fail(error, None, Directive.RESTART if resumes else directive)

    async def _take_leave(self, why: str) -> None:
        if self.hooks is not None:
            await self.hooks.leave(why)

    # -- failure ----------------------------------------------------------------------------------

    def judge(self, error: BaseException, event: Event | None) -> bool:
        """Decide what a failure means for the actor; return whether the worker goes on."""
        if self.state in (ActorState.STOPPING, ActorState.STOPPED):
            return True
        if self.probing:
            self.suspend()
            return False
        if self.state is ActorState.RESTARTING:
            return False  # another worker or a sibling has failed just before: one restart will do
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
        default = Directive.RESTART if self.hooks is not None else Directive.RESUME
        chosen = self.sub.options.on_failure
        if chosen is None or isinstance(chosen, Directive):
            return chosen or default
        try:
            return Directive(chosen(error, event))
        except Exception as wrong:
            if not self._misjudged:  # once: it may well fail on every event
                self._misjudged = True
                log.warning("on_failure of %r failed", self.sub.name, exc_info=wrong)
            return default

    def spend(self) -> bool:
        """Return whether a restart is granted: from the budget, or free if something was acked."""
        if self.sub.ledger.acked > self._acked_at_begin:
            return True
        if self.window is None:
            policy = self.sub.options.restart
            self.window = Window(policy.max_restarts, policy.within)
        return self.window.allow(self.loop.time())

    def give_up(self, error: BaseException) -> None:
        """Do what the restart policy says when nobody is left to ask."""
        match self.sub.options.restart.on_give_up:
            case GiveUp.STOP:
                self.stop_soon("gave up")
            case GiveUp.RAISE:
                self.suspend()  # so that its mail does not hold up the end
                self.host.collapse(error)
            case _:
                log.error("actor %r is suspended", self.sub.name, exc_info=error)
                self.suspend()

    async def halt(self, error: BaseException | None, event: Event | None, why: str) -> None:
        """End the present instance, keeping its mail; one that is being ended is only waited for.

        Args:
            error: What it failed with; None if it is not the one that failed.
            event: The event it failed on, if any.
            why: For ``on_stop``.
        """
        if self._halting is None or self._halting.done():
            self._halting = self.background(self._halt(error, event, why))
        await asyncio.wait({self._halting})

    async def _halt(self, error: BaseException | None, event: Event | None, why: str) -> None:
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
        self.workers = tuple(w for w in self.workers if w.holds is not None)
        self.sub.ring()  # a stop may wait for those that have just been struck off
        if self.hooks is not None:
            await self.hooks.end(error, event, why)

    # -- suspension -------------------------------------------------------------------------------

    def suspend(self) -> None:
        """Let the mailbox fill, and try one delivery now and then."""
        self.probing = False
        self.become(ActorState.SUSPENDED)
        if self.host.draining:
            self.discard(DeadReason.SUSPENDED)
        self.host.quiet()
        self.background(self.halt(None, None, "suspended"))
        wait = doubling(self._probes, PROBE, PROBE_CAP)
        if self._probe is not None:  # another worker has failed just before
            self._probe.cancel()
        self._probe = self.loop.call_later(wait, lambda: self.background(self._begin_probe()))
        self._probes += 1

    async def _begin_probe(self) -> None:
        if self.state is not ActorState.SUSPENDED or self.probing or not await self._build():
            return
        if self.sub.suspended:
            self.probing = True
            self.sub.inbox.asleep = 1
            if self.ready:
                self.rouse()
        else:  # it was stopped meanwhile
            await self._take_leave("stopped")

    def probed(self) -> None:
        """Resume: the probe of a suspended actor was acked."""
        self.probing = False
        self._probes = 0
        self.window = None
        self._run()

    # -- end --------------------------------------------------------------------------------------

    def background(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a step of the actor's life in a task of its own."""
        task = asyncio.Task(coroutine, loop=self.loop, name=f"actorbus:{self.sub.name}:life")
        self.host.keep(task, self.sub.name, step=True)
        task.add_done_callback(self._life_went_on)
        return task

    def _life_went_on(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (broken := task.exception()) is not None:
            log.error("life of %r broke", self.sub.name, exc_info=broken)

    def finish(self) -> None:
        """Handle what is there, then end."""
        self.finishing = True
        if self.host.running:  # not at once: a publish under way may still offer something
            self.background(self.wind_up("unsubscribed", for_good=True))
        elif not self.sub.terms().pending:
            self.become_stopped()

    async def wind_up(self, why: str, *, for_good: bool = False) -> None:
        """Handle what is there, then stop."""
        while self.sub.terms().pending and self.state is not ActorState.STOPPED:
            await self.sub.hear()
        await self.stop(why, for_good=for_good)

    def stop_soon(
        self, why: str, reason: DeadReason = DeadReason.STOPPED, *, for_good: bool = True
    ) -> None:
        """Give up what is not in hand and end, without waiting.

        Args:
            why: For ``on_stop``.
            reason: Of the dead letters.
            for_good: Whether the subscription ends too; else it can be opened again.
        """
        if for_good and self.host.retire(self.sub):
            self.finishing = True
        if self.state in (ActorState.STOPPING, ActorState.STOPPED):
            return
        if self.state is ActorState.STARTING and not self.host.running:  # it has never begun
            self.become_stopped(for_good=for_good)
            return
        self.become(ActorState.STOPPING)
        self.parting = reason
        self.cancel_timers()
        self.discard(reason)
        for worker in self.workers:
            worker.release()
        self.background(self._stopped(why, for_good=for_good))

    async def stop(
        self, why: str, reason: DeadReason = DeadReason.STOPPED, *, for_good: bool = True
    ) -> None:
        """Finish what is in hand, give up the rest, end; arguments as for `stop_soon`.

        Called in a handler of the actor itself it does not wait for that handler.
        """
        self.stop_soon(why, reason, for_good=for_good)
        mine = in_hand.get()
        if mine is None or mine.actor is not self.sub or not mine.is_here():
            await self.sub.ended()

    async def _stopped(self, why: str, *, for_good: bool) -> None:
        while self.workers:
            await self.sub.hear()
        if self.hooks is not None:
            self.hooks.cancel()
            await self.hooks.leave(why)
        self.become_stopped(for_good=for_good)

    def cancel_timers(self) -> None:
        """Stop every clock of the actor."""
        for timer in (self._probe, self._rehire):
            if timer is not None:
                timer.cancel()
        self._probe, self._rehire, self.probing = None, None, False
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
        self.sub.ring()
        self.host.quiet()

    def reset(self) -> None:
        """Forget the loop that was closed under us; everything open is dead."""
        self.cancel_timers()
        self.lose(DeadReason.LOOP_CLOSED)
        self._halting = None
        if self.hooks is not None:
            self.hooks.forget()
        self.state = ActorState.STARTING
        if self.finishing:
            self.become_stopped()
