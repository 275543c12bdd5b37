"""Worker: the loop that takes deliveries from a mailbox and runs the handler.

Returned is ack, raised is nack: there is no acknowledgement to forget. A failed delivery is tried
again in place, the mailbox waiting behind it, until it is acked or given up; then the actor's life
decides what becomes of the actor.

The chunk rule: deliveries are timed together, up to 64 at a time. A chunk that took no longer than
the first histogram bucket puts all its durations there; one that took longer held one slow
delivery, since one that lets the loop go round ends its chunk, and the next ones are timed singly
until they are fast again. Waits are booked together when the first and the last of the chunk fall
into one bucket, else one by one, the starts taken as evenly spread. A clock reading costs as much
as half a trivial handler call.

A worker whose handler will not end is abandoned: its delivery is taken from it (`receipt` is None
then) and whatever the handler returns later is ignored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from actorbus import world
from actorbus.deadline import Deadline
from actorbus.delivery import Delivery, NotBegun, nap
from actorbus.hand import Hand, at_work, in_hand
from actorbus.handler import InvalidPayload, payload
from actorbus.ledger import BUCKETS
from actorbus.lot import Lot
from actorbus.receipt import Receipt
from actorbus.retry import Reject
from actorbus.words import DeadReason
from actorbus.workplace import Workplace

TURN = 0.005  # seconds a busy worker keeps the loop before it yields
CHUNK = 64  # deliveries timed together
FAST = BUCKETS[0]
GRACE = 1.0  # seconds a cancelled handler may go on before it is abandoned
POISON = 3  # interruptions after which a delivery is given up


class Worker(Hand):
    """Runs one actor's deliveries, one at a time, in a task of its own."""

    __slots__ = (
        "_deadline", "_expired", "_grace", "_mark", "_receipt", "_size", "_turn", "delivery",
        "evicted", "keen", "life", "loop", "lot", "retrying", "waker",
    )  # fmt: skip

    def __init__(self, life: Workplace) -> None:
        super().__init__(life.sub)
        self.life = life
        self.delivery: Delivery | None = None
        self.waker: asyncio.Future[None] | None = None
        self.retrying = False
        self.keen = True
        self.evicted = False
        self._expired = False
        timeout = life.sub.options.timeout
        self._deadline = None if timeout is None else Deadline(life.loop, timeout, self._expire)
        self._grace: asyncio.TimerHandle | None = None
        self._size = 1
        self.lot = Lot(life.sub.inbox, life.loop, single=not life.together)
        self.loop = life.loop
        self._mark = self._turn = 0.0

    async def run(self) -> None:
        """Work until there is no more to do, or the worker is evicted."""
        in_hand.set(self)
        at_work.workers += 1
        self._mark = self._turn = self.loop.time()  # not when it was hired
        try:
            await self._work()
        finally:
            at_work.workers -= 1
            if self._deadline is not None:
                self._deadline.cancel()

    @property
    def receipt(self) -> Any:
        """The receipt of the delivery in hand, or None."""
        return self._receipt or self.lot.in_hand

    @receipt.setter
    def receipt(self, receipt: Receipt | None) -> None:
        self._receipt = receipt

    @property
    def holds(self) -> Receipt | None:
        """The same, as far as the books go."""
        receipt: Receipt | None = self.receipt
        return receipt

    @property
    def attempts(self) -> int:
        """Attempts begun for the delivery in hand."""
        return 1 if self.delivery is None else self.delivery.attempts

    @property
    def running(self) -> int:
        """Deliveries being handled now."""
        return 1 if self.receipt is not None and not self.retrying else 0

    def evict(self) -> None:
        """End the worker, interrupting what it has in hand."""
        self.keen = False
        self.evicted = True
        self.lot.shut()
        if self.task is not None:
            self.task.cancel()

    def release(self) -> None:
        """End the worker when it has finished what it has in hand."""
        self.keen = False
        self.lot.shut()
        if self.waker is not None and self.task is not None:
            self.evicted = True
            self.task.cancel()

    def abandon(self) -> None:
        """Take note that nobody waits for the handler any more."""
        self.keen = False
        self.let_go()

    def let_go(self) -> None:
        """Forget the delivery in hand."""
        self.lot.let_go()
        self.receipt = self.delivery = None

    def progress(self) -> None:
        """Bring the books up to what is done."""
        self.lot.put_back()

    def cut(self) -> None:
        """Take back what has not begun."""
        self.lot.put_back()

    # -- the loop ---------------------------------------------------------------------------------

    async def _work(self) -> None:
        life = self.life
        inbox = life.sub.inbox
        while self.keen:
            if life.resume:
                going_on = await self.handle(life.resume.popleft())
            elif inbox.items:
                going_on = await self._lot()
            elif life.finishing:
                return
            else:
                await self.sleep()
                continue
            if not going_on:
                return

    async def sleep(self) -> None:
        """Wait until roused."""
        self.waker = self.loop.create_future()
        self.life.sleeps(self)
        at_work.workers -= 1
        try:
            await self.waker
        finally:
            at_work.workers += 1
            self.waker = None
        self._mark = self._turn = self.loop.time()

    async def breathe(self) -> None:
        """Yield to the loop if the worker has kept it for a turn."""
        if self._mark - self._turn > TURN:
            await asyncio.sleep(0)
            self._mark = self._turn = self.loop.time()

    async def _lot(self) -> bool:
        """Take and handle a lot of deliveries, or a turn's part of it; return whether to go on."""
        if self._mark - self._turn > TURN:
            await self.breathe()
            if not (self.keen and self.life.sub.inbox.items):
                return True
        life, lot = self.life, self.lot
        ledger, call = life.sub.inbox.ledger, self.call
        prepare = None if life.prepare is payload else life.prepare
        while True:
            started = self._mark
            failure: BaseException | None = None
            try:
                for receipt in lot.begin(self._size):
                    reply = await call(receipt.data if prepare is None else prepare(receipt.event))
                    if receipt.extra is not None and receipt.watch is not None and lot.in_hand:
                        receipt.watch.settle(life.sub, reply)
            except BaseException as error:  # noqa: BLE001 every failure of a handler is its delivery's
                failure = error
            if lot.in_hand is None:
                return False  # abandoned meanwhile: the delivery was settled elsewhere
            self._mark = self.loop.time()
            chunk = lot.close(failed=failure is not None)
            if life.histograms:
                ledger.account(chunk, started, self._mark)
            if failure is not None:
                self._size = 1
                delivery = Delivery(receipt)
                delivery.attempts, delivery.began = 1, started
                return await self.handle(delivery, failure)
            self._size = min(CHUNK, self._size * 2) if self._mark - started <= FAST else 1
            self.receipt = None
            if life.probing:
                life.probed()
            if not lot.stock or self._mark - self._turn > TURN:
                lot.put_back()
                return True

    # -- a delivery that has failed, or was interrupted -------------------------------------------

    async def handle(self, delivery: Delivery, error: BaseException | None = None) -> bool:
        """Bring one delivery to its end: acked, given up, or handed back.

        Args:
            delivery: Whose turn it is.
            error: What its attempt has just raised; None to make an attempt.

        Returns:
            Whether the worker goes on with the next.
        """
        sub, receipt = self.life.sub, delivery.receipt
        self.receipt, self.delivery = receipt, delivery
        while True:
            if error is None and delivery.error is not None and self._too_late(delivery):
                return self._give_up(delivery, delivery.error)
            if error is None:
                delivery.error = None
                error = await self._attempt(delivery)
            if self.receipt is not receipt:
                return False
            if error is None:
                return self._finished(delivery)
            if self.evicted and not isinstance(error, (KeyboardInterrupt, SystemExit)):
                waited = isinstance(error, NotBegun)
                delivery.attempts -= waited
                return self._hand_back(delivery, between=waited)
            error = self._classified(error)
            again = self._delay(delivery, error)
            if again is None:
                return self._give_up(delivery, error)
            try:
                wait_here = await self._pause(delivery, again)
            except asyncio.CancelledError:
                if self.evicted and self.receipt is receipt:
                    delivery.error = error
                    return self._hand_back(delivery, between=True)
                raise
            finally:
                self.retrying = False
            if self.receipt is not receipt:
                return False
            if not wait_here:
                delivery.error = error
                self.receipt = self.delivery = None
                return True
            sub.ledger.retries += 1
            error = None

    async def _attempt(self, delivery: Delivery) -> BaseException | None:
        life, receipt = self.life, delivery.receipt
        started = self.loop.time()
        if delivery.attempts == 0:
            delivery.began = started
        delivery.attempts += 1
        failure: BaseException | None = None
        reply = None
        try:
            reply = await self.call(life.prepare(receipt.event))
        except BaseException as error:  # noqa: BLE001 every failure of a handler is its delivery's
            failure = error
        self._mark = self.loop.time()
        if self.receipt is receipt:
            if life.histograms:
                life.sub.ledger.took(self._mark - started)
                if started == delivery.began:
                    life.sub.ledger.waited(started - receipt.at)
            if failure is None:
                life.sub.acked(receipt, reply)
        return failure

    def _finished(self, delivery: Delivery) -> bool:
        self.receipt = self.delivery = None
        self._settled(delivery)
        if self.life.probing:
            self.life.probed()
        return True

    def _settled(self, delivery: Delivery) -> None:
        """Take note that a delivery is acked or given up; the keyed worker frees its key."""

    def _hand_back(self, delivery: Delivery, *, between: bool = False) -> bool:
        """Keep an interrupted delivery for the next instance; the worker ends."""
        self.receipt = self.delivery = None
        self.life.sub.ledger.cancelled += not between
        self.life.interrupted(delivery, between=between)
        return False

    def _too_late(self, delivery: Delivery) -> bool:
        """Return whether a restart or a busy actor has put a retry off beyond its time."""
        limit = self.life.sub.options.retry.max_elapsed
        return limit is not None and self.loop.time() - delivery.began > limit

    def _classified(self, error: BaseException) -> BaseException:
        """Count a failed attempt; tell a time limit from a cancellation nobody asked us for."""
        ledger = self.life.sub.ledger
        if self._expired:
            self._calm()
            timeout = self.life.sub.options.timeout
            late = TimeoutError(f"the handler ran longer than its timeout of {timeout:g} s")
            late.__cause__ = error if not isinstance(error, asyncio.CancelledError) else None
            ledger.timeouts += 1
            return late
        if isinstance(error, asyncio.CancelledError):
            if self.task is not None and self.task.cancelling():
                raise error  # the task itself was cancelled, as at the end of asyncio.run
            ledger.cancelled += 1
        elif isinstance(error, GeneratorExit) and not self.is_here():
            raise error  # the coroutine is being closed with its loop
        elif not isinstance(error, InvalidPayload):
            ledger.errors += 1
        return error

    def _delay(self, delivery: Delivery, error: BaseException) -> float | None:
        if delivery.first_failed_at is None:
            delivery.first_failed_at = world.wall()
        retry = self.life.sub.options.retry  # of one attempt, under at_most_once
        if isinstance(error, InvalidPayload) or delivery.attempts >= retry.max_attempts:
            return None  # before anything is worked out
        elapsed = self.loop.time() - delivery.began
        delay = retry.delay(delivery.attempts, error, elapsed, world.random)
        return None if delay is None else min(delay, self.life.longest_nap)

    def _give_up(self, delivery: Delivery, error: BaseException) -> bool:
        sub, receipt = self.life.sub, delivery.receipt
        reason, cause, faulty = DeadReason.RETRIES_EXHAUSTED, error, True
        if isinstance(error, InvalidPayload):
            delivery.attempts -= 1
            reason, faulty = DeadReason.INVALID_PAYLOAD, False
            cause = error.__cause__ or error
        elif isinstance(error, Reject):
            reason, faulty = DeadReason.REJECTED, False
        self.receipt = self.delivery = None
        sub.give_up(receipt, reason, cause, delivery.attempts, delivery.first_failed_at)
        self._settled(delivery)
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise error
        return not faulty or self.life.judge(cause, receipt.event)

    async def _pause(self, delivery: Delivery, seconds: float) -> bool:  # noqa: ARG002 keyed: used
        """Wait before the next attempt, if at all; return False if somebody else will make it."""
        self.retrying = True
        await (nap(self.loop, self.life.naps, seconds) if seconds else self.breathe())
        return True

    # -- time limits ------------------------------------------------------------------------------

    @property
    def call(self) -> Callable[[Any], Any]:
        """How to call the handler with what it takes."""
        return self.life.call if self._deadline is None else self._timed

    async def _timed(self, argument: Any) -> Any:
        assert self._deadline is not None  # noqa: S101 else it is not called
        self._deadline.begin()
        try:
            reply = await self.life.call(argument)
        finally:
            self._deadline.end()
            if self._grace is not None:
                self._grace.cancel()
        if self._expired:
            self._calm()  # it has swallowed the cancellation and finished after all
        return reply

    def _expire(self) -> None:
        if self.task is None or self.evicted:
            return
        self._expired = True
        self.task.cancel()
        self._grace = self.loop.call_later(GRACE, self._ignored)

    def _ignored(self) -> None:
        self._expired = False
        self.life.sub.ledger.timeouts += 1
        self.life.abandon(self, DeadReason.TIMEOUT_IGNORED)

    def _calm(self) -> None:
        """Forget the cancellation a time limit has asked for."""
        self._expired = False
        if self.task is not None and not self.evicted:
            self.task.uncancel()
