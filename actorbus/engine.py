"""Engine: the state of a running bus, and what its parts ask of it.

`EventBus` is what users see; the engine is what subscriptions, lives, receipts and references see.
It owns the loop, the tasks, the threads, the routes and the store of dead letters.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable
from typing import Any

from actorbus.archive import Memories
from actorbus.delivery import Nap
from actorbus.hand import Hand
from actorbus.home import NO_EPOCH, clock_of, home_of
from actorbus.hooks import HOOK
from actorbus.journal.base import Journal
from actorbus.lag import LagSampler
from actorbus.life import Life
from actorbus.recorder import Recorder
from actorbus.registry import Registry
from actorbus.replays import Replays
from actorbus.scribe import Scribe
from actorbus.subscription import Subscription
from actorbus.threads import Job, Threads
from actorbus.traffic import Traffic
from actorbus.watch import hear, ring
from actorbus.words import ActorState


class Engine(Traffic):
    """What runs a bus.

    Attributes:
        registry: Subscriptions, streams and supervisors.
        busy: Subscriptions that may have pending deliveries.
        naps: Delays that a drain shortens, in the order they began.
        idle_bells: Rung whenever an actor has become idle.
        longest_nap: Seconds a retry or restart may be put off.
    """

    def __init__(
        self,
        name: str,
        face: Any,
        *,
        history: int,
        dead_letters: int,
        max_hops: int | None,
        threads: int,
        histograms: bool,
        copies: bool,
        journal: Journal | None,
        durability: str,
    ) -> None:
        super().__init__(name, face, dead_letters, max_hops, copies=copies)
        if journal is not None:
            threads_ = Threads(1, f"actorbus-{name}-journal")
            scribe = Scribe(journal, threads_, durability, self._eased)
            self.recorder = Recorder(scribe, self.bury, self._try_again)
            self.replays = Replays(scribe, self)
            self.dead_letters.discarded = self.replays.let_go
        self.histograms = histograms
        self.longest_nap = float("inf")
        self.busy: set[Subscription] = set()
        self.naps: dict[Nap, None] = {}
        self.idle_bells: list[asyncio.Future[None]] = []
        self.registry = Registry(self, history)
        self.routes = self.registry.routes
        self.backlog = self.routes.backlog
        self.threads = Threads(threads, f"actorbus-{name}", self._threads_exhausted)
        self.lag = LagSampler()
        self.tasks: dict[asyncio.Task[Any], str] = {}
        self.on_collapse: Callable[[BaseException], None] | None = None
        self._steps: set[asyncio.Task[Any]] = set()
        self._to_start: deque[Life] = deque()
        self._starter: asyncio.Task[None] | None = None

    # -- starting ---------------------------------------------------------------------------------

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin on a loop; what another loop has left open is dead."""
        self.settle_lost_loop()
        self.loop = loop
        self._pid = os.getpid()
        self.open, self.draining, self.closed = True, False, False
        self.home, self.clock, self.epoch = home_of(loop), clock_of(loop), NO_EPOCH
        self.be_ready()
        self.longest_nap = float("inf")
        self.intake.open(loop)
        self.lag.start(loop)
        self._open_journal()
        self.threads.heeded_by(loop)
        lives = self.registry.root.lives()
        for life in lives:
            life.state = ActorState.STARTING
        for life in lives:
            self.begin(life)
        self.registry.catchups.begin()

    def _open_journal(self) -> None:
        """Open the journal, if there is one; once more, if it could not be opened."""
        if self.recorder is not None and self.replays is not None and self.loop is not None:
            self.recorder.open(self.loop, self.dead_letters.limit, self._recalled)
            self.replays.begin()

    def _try_again(self) -> None:
        if self.open:
            self._open_journal()

    def _recalled(self, memories: Memories) -> None:
        """Take up some of what the journal knows of the time before, the last events first."""
        self.routes.history.recall(memories.events, whole=not memories.before)
        for letter in memories.letters:
            self.dead_letters.add(letter)

    def begin(self, life: Life) -> None:
        """Start an actor: in its turn, or at once where there is nothing to wait for."""
        if self.replays is not None:
            self.replays.take_up(life.sub.name)
        if life.hooks is None or (self._starter is None and life.hooks.nothing_to_await):
            life.open()
            return
        self.busy.add(life.sub)
        self._to_start.append(life)
        if self._starter is None and self.loop is not None:
            self._starter = asyncio.Task(
                self._start_in_turn(), loop=self.loop, name=f"actorbus:{self.name}:starter"
            )
            self.keep(self._starter, "")

    async def _start_in_turn(self) -> None:
        try:
            while self._to_start:
                life = self._to_start.popleft()
                await asyncio.wait({life.background(life.begin())}, timeout=HOOK)
        finally:
            self._starter = None
            self.quiet()

    async def started(self) -> None:
        """Wait until every actor has had its turn to start."""
        while self._starter is not None:
            await hear(self.idle_bells)

    def settle_lost_loop(self) -> None:
        """Give up what stands on a loop that was closed without the bus."""
        loop = self.loop
        if loop is None or not loop.is_closed() or not (self.open or self.draining):
            return
        self.open = self.draining = False
        self.look_twice()
        self.tasks.clear()
        self._steps.clear()
        self._to_start.clear()
        self._starter = None
        self.idle_bells.clear()
        self.naps.clear()
        self.lag.stop()
        for life in self.registry.every_life():
            life.reset()
        self.registry.end_taps()
        self.intake.close()
        self.intake.flush()
        self.busy.clear()

    # -- what the parts need ----------------------------------------------------------------------

    def keep(self, task: asyncio.Task[Any], owner: str, *, step: bool = False) -> None:
        """Hold a task strongly until it ends; a step of a life is nobody's handler."""
        self.tasks[task] = owner
        if step:
            self._steps.add(task)
        task.add_done_callback(self._let_go)

    def _let_go(self, task: asyncio.Task[Any]) -> None:
        self.tasks.pop(task, None)
        self._steps.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waits for the task deals with it

    def lend(self, job: Job, owner: str) -> None:
        """Run a job in a thread."""
        self.threads.lend(job, owner)

    def _threads_exhausted(self) -> None:
        self.announce("$bus:threads:exhausted", {"threads": self.threads.limit})

    def book(self) -> None:
        """Bring the books up to what was published."""
        self.routes.book()

    def quiet(self) -> None:
        """Let whoever waits for idleness look again."""
        if self.idle_bells:
            ring(self.idle_bells)

    def end(self, subscription: Subscription) -> int:
        """Route nothing more to a subscription; return 1, or 0 if it had ended before."""
        return self.registry.end(subscription)

    def retire(self, subscription: Subscription) -> bool:
        """Route nothing more to a subscription; return False if it had ended before."""
        return self.registry.retire(subscription)

    def forget(self, subscription: Subscription) -> None:
        """Close the books of a subscription that has ended."""
        self.registry.forget(subscription)

    def collapse(self, error: BaseException) -> None:
        """Close the bus because an actor gave up for all of it."""
        if self.on_collapse is not None:
            self.on_collapse(error)

    def at_the_journal(self) -> list[str]:
        """Return the names of those who wait for the journal, and its own if it is at work."""
        if self.recorder is None or self.replays is None:
            return []
        scribe = self.recorder.scribe
        url = [scribe.journal.url] if scribe.busy else []
        return [*self.recorder.behind(), *self.replays.busy, *url]

    def is_full(self, name: str) -> bool:
        """Return whether the mailbox of the live subscription of that name has no room."""
        return self.registry.live[name].inbox.room <= 0

    def is_suspended(self, name: str) -> bool:
        """Return whether the actor of that name is suspended."""
        sub = self.registry.live.get(name)
        return sub is not None and sub.suspended

    def _eased(self) -> None:
        """Go on with what had to wait for the journal."""
        self.intake.flush()
        self.quiet()

    def look_into_journal(self, then: Callable[[], None] = lambda: None) -> None:
        """Find out what the journal holds; call `then` when that is known, or cannot be."""
        if self.recorder is not None and self.running:
            self.recorder.gauges.look(then)
        else:
            then()

    def lives(self) -> list[Life]:
        """Return the actors in order of start, those included that only finish their mail."""
        return self.registry.every_life()

    def settled_counts(self) -> tuple[int, int]:
        """Return how many deliveries are acked and dead."""
        totals = self.registry.audit().totals
        return totals.acked, totals.dead

    def refuse_new(self) -> None:
        """Accept only what has a cause."""
        self.intake.restrict()
        self.intake.flush()
        self.open, self.draining = False, True
        self.look_twice()
        self.longest_nap = 1.0
        if self.recorder is not None and self.replays is not None:
            self.recorder.pause()
            self.replays.end()

    def come_to_rest(self) -> None:
        """Accept nothing more."""
        self.look_into_journal()
        self.intake.close()
        self.draining = False
        self.closed = True
        self.lag.stop()
        self.registry.end_taps()

    def stragglers(self, hand: Hand | None) -> tuple[str, ...]:
        """Return the names of those whose handlers still run though nobody waits for them."""
        handling = [each for each in self.tasks.items() if each[0] not in self._steps]
        names = {owner for task, owner in handling if owner and not task.done()}
        names |= self.threads.owners
        if hand is not None:
            names.discard(hand.actor.name)
        return tuple(sorted(names))
