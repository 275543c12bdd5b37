"""Window: what a durable subscription has read of the journal and not settled.

The backlog lives in the journal; the mailbox holds a part of it. As long as the subscription keeps
up it is *live*: what has just been committed goes straight to the mailbox, if there is room. If
there is none it falls behind, and reads from the journal whenever half of the mailbox is free,
until it has caught up. So publishers never wait for it, and it never holds more than its mailbox.

Invariants:
    - What is open was read in the order of the journal; everything up to `position` that is not
      open is settled or concerns nobody. So the cursor is just before the first that is open.
    - The journal is told that something is settled after it was, never before.
    - Of what the journal does not know to be settled no more is begun than `Join` has told it: so
      it knows how many may have been running when the process was killed.
    - A delivery that a stop or a deadline takes away is not settled, and no dead letter: it stays
      in the journal, and whoever joins next gets it.

After an unclean stop the first deliveries may have been running, and one of them may be why: they
are run one at a time, each attempt noted in the journal before it begins. One that has been begun
as often as its policy allows, the start before the crash included, is dead (``poison``).
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from actorbus.encoding import DamagedError, decoded, remains
from actorbus.ends import RETURNED, Ends, Mark
from actorbus.errors import JournalError
from actorbus.event import Event
from actorbus.extra import Extra
from actorbus.home import NO_EPOCH
from actorbus.journal.base import Attempt, Join, Page, Record, Settle, Standing, Wants
from actorbus.receipt import Receipt, Route
from actorbus.scribe import SOME, TURN, Scribe
from actorbus.words import DeadReason
from actorbus.work import Done

if TYPE_CHECKING:
    from actorbus.subscription import Subscription
    from actorbus.watch import Watch

AHEAD = 10_000  # deliveries that may be settled beyond the first open one
RECOVERY = 1.0  # seconds after which a journal that has failed is asked again
FIRST = 64  # events read after joining: handlers have something to do while more is read
FEW = 16  # open deliveries at which more of a backlog is handed over, unless concurrency asks more
DEPTH = 4  # times as many are open then: what lives longer costs full garbage collections
MUCH = 100  # settled deliveries that need not wait for company

log = logging.getLogger("actorbus")


class Window:
    """The way of a durable subscription into the journal.

    Args:
        sub: The subscription.
        scribe: The way into the journal.

    Attributes:
        name: Under which the journal knows it.
        active: Whether it delivers.
        live: Whether what is committed next is the next it wants.
        wants: Says whether a topic concerns it; callable in the journal's thread.
        lag: Events committed since it joined that it wants and has not read.
    """

    def __init__(self, sub: Subscription, scribe: Scribe, name: str) -> None:
        self.name = name
        self.active = self.live = False
        self.lag = 0
        self._sub = sub
        self._scribe = scribe
        self._position = 0
        self._before = 0  # the last event there was when it joined
        self._open: OrderedDict[int, Receipt] = OrderedDict()
        self._ahead: set[int] = set()
        self._most = sub.options.mailbox + sub.options.concurrency
        self._much = min(MUCH, self._most // 2)
        self._unknown = 0  # handed over, and not settled as far as the journal knows
        self._fresh = 0  # settled, and the journal has not been asked to note it
        self._unnoted: list[int] = []
        self._noted = 0  # the cursor the journal knows
        self._suspects = 0
        self._skip: frozenset[int] = frozenset()
        self._reading = self._roused = False
        self._rest: Page | None = None  # read, and not yet handed over
        self._few = max(FEW, 2 * sub.options.concurrency) if sub.options.key is None else self._most
        self._waking: asyncio.TimerHandle | None = None
        self._start: int | None = None  # the last event there was when it could not join
        self._round = 0  # of joins: what an earlier one has asked for is nobody's any more
        self._ends = Ends(sub)
        self.wants: Wants = lru_cache(AHEAD)(self._wants)
        self._route = lru_cache(AHEAD)(self._route_of)

    @property
    def cursor(self) -> int:
        """Everything up to this number that concerns it is settled."""
        return next(iter(self._open)) - 1 if self._open else self._position

    @property
    def unread(self) -> int:
        """Events in the journal that it wants and has not read, at most.

        Of those there were before it joined it knows only how many are left to look at.
        """
        settled = sum(seq > self._position for seq in self._skip)
        return self.lag + max(0, self._before - self._position - settled)

    @property
    def oldest(self) -> float | None:
        """Unix seconds of the oldest event it has read and not settled; None if there is none."""
        return next((receipt.event.time for receipt in self._open.values()), None)

    @property
    def behind(self) -> bool:
        """Whether it still has to read, or to hear, what the journal holds for it."""
        return self.active and not self.live

    @property
    def stuck(self) -> bool:
        """Whether its actor is suspended."""
        return self._sub.suspended

    def _wants(self, topic: str) -> bool:
        return any(each.matches(topic) for each in self._sub.patterns) and self._sub.wants(topic)

    # -- joining ----------------------------------------------------------------------------------

    def join(self) -> None:
        """Find out how far it has come, and go on from there."""
        self.pause()
        self.active, self.live, self._reading, self._roused = True, False, True, False
        self._rest = None
        self._open.clear()
        self._ahead.clear()
        self._unnoted.clear()
        self._unknown = self._fresh = 0
        self._round += 1
        self._scribe.seal()  # first comes what an earlier subscription of the name has settled
        patterns = tuple(pattern.text for pattern in self._sub.patterns)
        join = Join(self.name, patterns, self._most, self._start)
        self._scribe.put(join, self._in_this_round(self._joined))

    def pause(self) -> None:
        """Read no more: the bus comes to rest, or the subscription ends."""
        self.active = self.live = False
        if self._waking is not None:
            self._waking.cancel()

    def _in_this_round(self, done: Any) -> Any:
        now = self._round

        def told(result: Any, error: JournalError | None) -> None:
            if now == self._round:
                self._reading = False
                done(result, error)

        return told

    def _joined(self, standing: Standing | None, error: JournalError | None) -> None:
        if standing is None:
            if self._scribe.is_open:
                self._start = self._scribe.last if self._start is None else self._start
                self._try_later(error, self.join)
            else:
                log.error("durable %r is idle: %s", self.name, error)
                self.pause()
            return
        self._position = self._noted = standing.cursor
        self.lag, self._before = 0, self._scribe.last
        self._skip = standing.ahead
        self._suspects = standing.suspects
        self.read_on(first=True)

    # -- reading ----------------------------------------------------------------------------------

    @property
    def room(self) -> int:
        """Deliveries it may hand over now."""
        if len(self._ahead) >= AHEAD:
            return 0
        if self._suspects:
            return 0 if self._open else 1
        inbox = self._sub.inbox
        return 0 if inbox.waiting else min(inbox.room, self._most - self._unknown)

    def read_on(self, *, first: bool = False) -> None:
        """Read what comes next, if it has fallen behind and there is room for it.

        Args:
            first: Whether it has just joined: then a little, before the journal does anything else.
        """
        if not self.behind or self._reading:
            return
        room = min(self.room, FIRST) if first else self.room
        if room and (room * 2 >= self._sub.options.mailbox or not self._open or self._suspects):
            self._reading = True
            after, journal = self._position, self._scribe.journal
            self._scribe.call(
                lambda: journal.read(after, room, self.wants),
                self._in_this_round(self._read),
                first=first,
            )

    def _read(self, page: Page | None, error: JournalError | None) -> None:
        if page is None:
            self._try_later(error, self._read_soon)
            return
        if not self.active:
            return
        loop, room = self._sub.loop, self.room
        until = loop.time() + TURN
        for index, record in enumerate(page.records, 1):
            if record.seq not in self._skip:
                if not room:
                    break
                if self._suspects:
                    self._suspect(record)
                    return
                self._hand_over(record)
                room -= 1
            else:
                self._position = record.seq
            if index % SOME == 0 and (len(self._open) >= self._few * DEPTH or loop.time() > until):
                self._reading = True
                self._rest = Page(page.records[index:], page.upto, page.end)
                self._go_on()
                return
        else:
            self._position = max(self._position, page.upto)
            if page.end and self._position >= self._scribe.last:
                self.live, self.lag, self._suspects = True, 0, 0
                self._skip = frozenset()
        self._sub.bus.quiet()
        self.read_on()

    def _try_later(self, error: JournalError | None, again: Callable[[], None]) -> None:
        """Go on when the journal may have recovered: a full disk may have space again."""
        log.error("durable %r waits for its journal: %s", self.name, error)
        if self.active and not self._roused:
            self._roused = True
            self._waking = self._sub.loop.call_later(RECOVERY, again)

    def _suspect(self, record: Record) -> None:
        """Note the attempt first: the event may be what has ended the process."""
        self._reading = True
        attempt = Attempt(self.name, record.seq)

        def noted(count: int | None, error: JournalError | None) -> None:
            if count is None:
                self._try_later(error, self._read_soon)
                return
            if not self.active:
                return
            self._suspects -= 1
            # The start before the crash could not be foreseen, and is not among those noted.
            noted_at_most = max(1, self._sub.options.retry.max_attempts - 1)
            self._hand_over(record, DeadReason.POISON if count > noted_at_most else None, count)
            self.read_on()

        self._scribe.put(attempt, self._in_this_round(noted))

    # -- delivering -------------------------------------------------------------------------------

    def arrive(self, receipt: Receipt) -> None:
        """Deliver an event it matches, just committed, unless it has fallen behind."""
        seq = receipt.logged
        if receipt.watch is not None:
            self._ends.watch(receipt)
        if self.live and seq > self._position:
            if self.room:
                self._position = seq
                self._deliver(receipt.event, seq)
                return
            self.live, self._position = False, seq - 1
        self.lag += 1

    def _hand_over(
        self, record: Record, reason: DeadReason | None = None, attempts: int = 0
    ) -> None:
        try:
            event = decoded(record)
        except DamagedError:
            event, reason = remains(record), DeadReason.CHECKSUM
        self._position = record.seq  # first: it may be settled at once
        if record.seq > self._before:
            self.lag = max(0, self.lag - 1)
        if reason is None:
            self._deliver(event, record.seq)
        else:
            receipt = self._opened(event, record.seq)
            self._sub.ledger.routed += 1
            self._sub.give_up(receipt, reason, None, attempts)

    def _deliver(self, event: Event, seq: int) -> None:
        receipt = self._opened(event, seq)
        self._sub.inbox.offer(receipt)

    def _opened(self, event: Event, seq: int) -> Receipt:
        extra = Extra(logged=seq, watch=cast("Watch", Mark(self, seq)))
        route, at = self._route(event.topic), self._sub.loop.time()
        receipt = Receipt(route, event.data, at, NO_EPOCH, event._number, event, extra)
        self._open[seq] = receipt
        self._unknown += 1
        return receipt

    def _route_of(self, topic: str) -> Route:
        return Route(self._sub.bus, topic, (self._sub.inbox.open(),), (self._sub,))

    # -- settling ---------------------------------------------------------------------------------

    def holds(self, receipt: Receipt) -> bool:
        """Return whether the delivery of a published event is open; then it is told of its end."""
        seq = receipt.logged
        if seq in self._ahead or (seq <= self._position and seq not in self._open):
            self._ends.recall(receipt)
            return False
        self._ends.watch(receipt)
        return True

    def settled(self, seq: int, reply: object, failed: tuple[str, str, Any] | None) -> None:
        """Take note that a delivery was settled."""
        receipt = self._open.pop(seq, None)
        if receipt is None:
            return
        if self._open and next(iter(self._open)) < seq:
            self._ahead.add(seq)
            self._unnoted.append(seq)
        elif self._ahead:
            self._ahead = {each for each in self._ahead if each > self.cursor}
        self._fresh += 1
        soon = self._fresh == self._much
        if soon or self._fresh == 1:
            self._scribe.settled(self, soon=soon)
        fate = receipt.fates.get(self._sub.name) if receipt.fates else None
        if fate is not None or self._ends.watchers:
            self._ends.tell(seq, fate, reply, failed)
        if not self.live and self.active:
            self._go_on()

    def _go_on(self) -> None:
        """Hand over what has been read, or read; soon, as the worker still keeps some places."""
        if self._rest is not None:
            if len(self._open) <= self._few:
                self._sub.loop.call_soon(self._in_this_round(self._read), self._rest, None)
                self._rest = None
        elif not (self._reading or self._roused):
            self._roused = True
            self._sub.loop.call_soon(self._read_soon)

    def _read_soon(self) -> None:
        self._roused = False
        self.read_on()

    def settlement(self) -> tuple[Settle, Done] | None:
        """Return what the journal is to note, and who is told whether it did."""
        if self.live:
            self._position = max(self._position, self._scribe.last)
        cursor, settled, fresh = self.cursor, self._unnoted, self._fresh
        if cursor <= self._noted and not settled:
            return None
        self._noted, self._unnoted, self._fresh, now = cursor, [], 0, self._round

        def told(_: object, error: JournalError | None) -> None:
            if now == self._round:
                self._unknown -= fresh  # a journal that notes nothing holds up nobody
                self._told(error)

        ahead, trusted = tuple(seq for seq in settled if seq > cursor), not self._suspects
        return Settle(self.name, cursor, ahead, trusted=trusted), told

    def _told(self, error: JournalError | None) -> None:
        if error is not None:  # next time everything is said again
            self._unnoted = [*self._ahead]
            self._noted = 0
            self._scribe.unheard(self)
        self.read_on()

    def idle(self) -> None:
        """Move an idle cursor along, so that the journal may forget what nobody here wants."""
        if self.live and not self._open and self._scribe.last > self._noted:
            self._scribe.settled(self)

    def takes_back(self, receipt: Receipt, reason: DeadReason) -> bool:
        """Leave a delivery to the journal that nobody has failed on; return whether it is so."""
        if reason not in RETURNED or self._open.get(receipt.logged) is not receipt:
            return False
        self.pause()  # it stays open, so that the cursor stays before it
        self._sub.ledger.routed -= 1
        self.lag += 1
        return True
