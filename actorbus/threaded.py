"""Actors whose handler is a plain ``def``: it runs in a thread, in order.

A thread hop costs as much as a hundred trivial handler calls, so queued events share one: the
thread is lent the first deliveries of the mailbox and starts them one after the other. They stay
queued, in the mailbox and in its capacity, until the loop learns that they have started; it learns
at least every 5 ms while there is progress, so no ack waits longer than that for the deliveries
behind it. Once a handler has taken longer than that, the thread itself reports each one as it ends,
so a handler that blocks for ever costs the loop nothing.

The lock of a batch is held for a few instructions: it decides whether the thread may start the next
delivery or the loop may take it back.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable
from contextvars import Context
from typing import Any

from actorbus.delivery import Delivery, NotBegun
from actorbus.event import Event
from actorbus.hand import in_hand
from actorbus.receipt import Receipt
from actorbus.worker import Worker

BATCH = 128  # deliveries lent to a thread at once
TICK = 0.005  # seconds between two looks at a thread's progress


def call_plain(handler: Callable[[Any], Any], argument: Any) -> Any:
    """Call a plain function; refuse a coroutine it returns, which nobody would await."""
    reply = handler(argument)
    if inspect.iscoroutine(reply):
        reply.close()
        raise TypeError("the handler returned a coroutine: make it `async def`")
    return reply


class Hop:
    """One or more calls in one thread.

    Attributes:
        receipts: What to handle, in order.
        limit: How many of them may be started.
        started: How many have been.
        replies: What the finished ones returned, and the seconds each took.
        failure: What the last started one raised, or None.
        report: Whether the thread tells the loop when next it starts or ends one.
    """

    __slots__ = (
        "_loop", "_over", "_prepare", "_worker", "began", "done", "failure", "limit", "lock",
        "receipts", "replies", "report", "started",
    )  # fmt: skip

    def __init__(
        self, worker: ThreadWorker, receipts: list[Receipt], prepare: Callable[[Event], Any]
    ) -> None:
        self._worker = worker
        self._prepare = prepare
        self._loop = worker.life.loop
        self._over = False
        self.receipts = receipts
        self.limit = len(receipts)
        self.started = 0
        self.replies: list[tuple[Any, float, float]] = []
        self.failure: BaseException | None = None
        self.began = 0.0
        self.report = False
        self.lock = threading.Lock()
        self.done: asyncio.Future[None] = self._loop.create_future()

    def cut(self) -> bool:
        """Let the thread start no more; return whether one is still being handled."""
        with self.lock:
            self.limit = min(self.limit, self.started)
            over = self.started == len(self.replies) or self.failure is not None or self._over
        return not over

    def run(self) -> Callable[[], None]:
        """Handle the receipts, in the thread; return what tells the loop of the end."""
        worker = self._worker
        handler, clock = worker.life.call, self._loop.time
        for index, receipt in enumerate(self.receipts):
            with self.lock:
                if index >= self.limit:
                    break
                self.started = index + 1
                report, self.report = self.report, False
            if report:
                self._tell(worker.reported)
            worker.thread = threading.get_ident()
            worker.receipt = receipt
            context = Context() if receipt.context is None else receipt.context.copy()
            began = self.began = clock()
            try:
                reply = context.run(self._call, handler, receipt)
            except BaseException as error:  # noqa: BLE001 every failure of a handler is its delivery's
                self.failure = error
                break
            with self.lock:
                self.replies.append((reply, began, clock()))
                report, self.report = self.report, False
            if report:
                self._tell(worker.reported)
        self._over = True
        return self._end

    def _call(self, handler: Any, receipt: Receipt) -> Any:
        in_hand.set(self._worker)
        return call_plain(handler, self._prepare(receipt.event))

    def _tell(self, what: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(what)
        except RuntimeError:
            if not self._loop.is_closed():
                raise  # a closed loop has settled its deliveries without us; anything else is new

    def _end(self) -> None:
        self._tell(self._finish)

    def _finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


class ThreadWorker(Worker):
    """A worker that lends what is queued to a thread.

    Attributes:
        hop: What the thread does now, or None.
    """

    __slots__ = ("_lent", "_settled_here", "_taken", "_ticker", "abandoned", "hop")

    def __init__(self, life: Any) -> None:
        super().__init__(life)
        self.hop: Hop | None = None
        self.abandoned = False
        self._lent = False  # whether the hop's receipts still stand in the mailbox
        self._taken = 0
        self._settled_here = 0
        self._ticker: asyncio.TimerHandle | None = None

    @property
    def running(self) -> int:
        """Deliveries being handled now, as far as the books go."""
        if self.hop is not None and self._lent:
            return self._taken - self._settled_here
        return super().running

    @property
    def holds(self) -> Receipt | None:
        """The receipt of the delivery in hand as far as the books go, or None."""
        if self.hop is not None and self._lent:
            busy = self._taken > self._settled_here
            return self.hop.receipts[self._taken - 1] if busy else None
        return super().holds

    @property
    def call(self) -> Callable[[Any], Any]:
        """How to call the handler: one hop for one delivery."""
        return self._single

    async def _single(self, argument: Any) -> Any:
        hop = Hop(self, [self.receipt], lambda _: argument)
        await self._run(hop, lent=False)
        if hop.failure is not None:
            raise hop.failure
        if not hop.started:
            raise NotBegun  # evicted while it waited for a thread
        return hop.replies[0][0]

    async def _lot(self) -> bool:
        """Lend the first deliveries of the mailbox to a thread."""
        if not self.life.together:
            return await super()._lot()
        items = self.life.sub.inbox.items
        receipts = [
            items[index] for index in range(min(1 if self.life.probing else BATCH, len(items)))
        ]
        hop = Hop(self, receipts, self.life.prepare)
        await self._run(hop, lent=True)
        if self.abandoned:
            return False
        started, self.receipt = self._taken, None
        self.hop = None
        if hop.failure is None:
            if self._settled_here and self.life.probing:
                self.life.probed()
            return True
        delivery = Delivery(receipts[started - 1])
        delivery.attempts = 1
        delivery.began = hop.began
        return await self.handle(delivery, hop.failure)

    async def _run(self, hop: Hop, *, lent: bool) -> None:
        self.hop, self._lent, self._taken, self._settled_here = hop, lent, 0, 0
        self.life.lend(hop.run)
        if lent:
            self._tick_again()
        try:
            while not hop.done.done():
                try:
                    await asyncio.wait({hop.done})
                except asyncio.CancelledError:
                    if not self.evicted or self.abandoned:
                        raise
                    if not hop.cut():
                        break
        finally:
            if self._ticker is not None:
                self._ticker.cancel()
            hop.cut()
            if lent and not self.abandoned:
                self.progress()
            self.thread = None
            if not lent:
                self.hop = None

    def progress(self) -> None:
        """Bring the books up to what the thread has done."""
        hop = self.hop
        if hop is None or not self._lent:
            super().progress()
            return
        if self.abandoned:
            return
        with hop.lock:
            started, finished = hop.started, len(hop.replies)
        life, sub = self.life, self.life.sub
        while self._taken < started or self._settled_here < finished:
            if self._taken <= self._settled_here:
                sub.inbox.items.popleft()
                self._taken += 1
                if sub.inbox.pressed:
                    sub.inbox.relieve()
                continue
            reply, began, ended = hop.replies[self._settled_here]
            receipt = hop.receipts[self._settled_here]
            self._settled_here += 1
            if life.histograms:
                sub.ledger.waited(began - receipt.at)
                sub.ledger.took(ended - began)
            sub.acked(receipt, reply)

    def _tick(self) -> None:
        hop = self.hop
        if hop is None or hop.done.done():
            return
        before = self._settled_here
        self.progress()
        if self._settled_here > before:
            self._tick_again()
            return
        with hop.lock:  # slow: the thread tells us when something happens, and we look again
            hop.report = True
        self.progress()

    def _tick_again(self) -> None:
        self._ticker = self.life.loop.call_later(TICK, self._tick)

    def reported(self) -> None:
        """Take note that the thread has told of a slow delivery's end."""
        self.progress()
        if self.hop is not None and not self.hop.done.done():
            self._tick_again()

    def cut(self) -> None:
        """Take back what the thread has not started."""
        if self.hop is not None and self._lent:
            self.hop.cut()
            self.progress()

    def release(self) -> None:
        """End the worker when it has finished what it has in hand."""
        super().release()
        self.cut()

    def abandon(self) -> None:
        """Leave the thread to itself."""
        super().abandon()
        self.abandoned = True
        if self.hop is not None:
            self.hop.cut()  # now: until the task ends a thread may begin what is dead
        self.hop = None
        if self.task is not None:
            self.task.cancel()
