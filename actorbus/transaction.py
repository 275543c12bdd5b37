"""Transaction: what a handler with an inbox writes, committed together with its acknowledgement.

The handler puts statements down; when it has returned, one operation of the journal runs them,
notes the event's id and settles the delivery, all in one commit. So there is no instant at which
one has happened and the other has not. Whoever makes the delivery again finds the note, and what
it writes is let go:

* An attempt that was cut off while its commit was under way has an open outcome. Before the next
  one the journal is asked, behind that commit; if it went through there is nothing more to do.
* An event that is published again, or replayed as a dead letter, is met by its id.

Invariant: a handler that does not return writes nothing, and one whose delivery was taken from it
(it would not end, say) writes nothing either.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from actorbus import world
from actorbus.errors import ConfigurationError, JournalError, TransactionError
from actorbus.hand import in_hand
from actorbus.journal.base import Journal
from actorbus.journal.effects import (
    Found,
    Parameters,
    Row,
    Statement,
    Transact,
    Transactional,
    Value,
)
from actorbus.outside import blocking
from actorbus.scribe import Scribe
from actorbus.subscription import Subscription
from actorbus.threaded import call_plain
from actorbus.work import Done

T = TypeVar("T")
_Given = Value | bytearray | memoryview
Given = Iterable[_Given] | Mapping[str, _Given]
"""The parameters of a statement: those of ``?`` in order, or those of ``:name`` by name."""

_LARGEST = 1 << 63


class HandledBefore(BaseException):
    """The event has taken effect already: the handler need not go on.

    No `Exception`: a handler that deals with errors of its own is not to take it for one.
    """


_FAILURE = (Exception, BaseExceptionGroup, HandledBefore)
"""What comes of it: where the handler has a task group, a group of it and others."""


class Transaction:
    """Writes tables of your own in the journal's database.

    A handler of ``subscribe(..., durable=..., inbox=True)`` gets one as its second argument: what
    it writes is committed together with its acknowledgement, once for each event id.
    ``async with bus.transaction() as tx`` makes one for everything else, such as creating the
    tables, or looking at them.

    Statements are put down and run together at the end, in order: all of them, or none. Any table
    may be made, altered and dropped but the journal's own, which nobody else can see. What belongs
    to the connection (PRAGMA, ATTACH, BEGIN and the like) is refused; foreign keys are not checked.
    """

    __slots__ = (
        "_bus", "_durable", "_event", "_is_done", "_is_open", "_loop", "_scribe", "_seq",
        "_statements",
    )  # fmt: skip

    def __init__(
        self,
        bus: str,
        loop: asyncio.AbstractEventLoop,
        scribe: Scribe,
        durable: str = "",
        event: str = "",
        seq: int = 0,
    ) -> None:
        self._bus = bus
        self._loop = loop
        self._scribe = scribe
        self._durable = durable
        self._event = event
        self._seq = seq
        self._statements: list[Statement] = []
        self._is_open = True
        self._is_done = False  # as far as is known: whether the event has taken effect

    def execute(self, sql: str, parameters: Given = ()) -> None:
        """Put a statement down; it runs when the handler has returned.

        Args:
            sql: One statement.
            parameters: Its parameters: None, int, float, str or bytes each, copied now.

        Raises:
            TransactionError: A parameter is of another type.
            RuntimeError: The handler has returned.
        """
        self._put(sql, [parameters])

    def executemany(self, sql: str, rows: Iterable[Given]) -> None:
        """Put a statement down that runs once for each row of parameters.

        Args:
            sql: One statement that inserts, updates or deletes.
            rows: The parameters of each run, copied now.

        Raises:
            TransactionError: A parameter is not None, int, float, str or bytes.
            RuntimeError: The handler has returned.
        """
        self._put(sql, rows)

    async def fetch(self, sql: str, parameters: Given = ()) -> list[Row]:
        """Return the rows a query finds, as if all that was put down so far had been done.

        Everything that was committed before is seen, and what others commit from now on is not:
        where several handlers write the same rows, let the statement itself work out what is new
        (``SET total = total + ?``) rather than the handler. Keep it short: everybody's commits
        wait for it. Where the event turns out to have taken effect already it does not return:
        the handler is left, and its delivery acked.

        Args:
            sql: One statement that reads.
            parameters: As for `execute`.

        Returns:
            A list of tuples.

        Raises:
            TransactionError: The query, or a statement put down before, is refused.
            JournalError: The journal cannot be read.
            RuntimeError: The handler has returned.

        Cancelling takes nothing back.
        """
        found = await self._preview(self._checked(sql, [parameters]))
        if found is None:
            self._is_done = True
            raise HandledBefore
        if isinstance(found, TransactionError):
            raise found
        return [*found]

    def fetch_blocking(self, sql: str, parameters: Given = ()) -> list[Row]:
        """Return what `fetch` does; for a handler in a thread.

        Raises:
            RuntimeError: It would block the event loop; or the handler has returned.
            BusNotRunningError: The loop does not run any more.
            TransactionError, JournalError: As for `fetch`.
        """
        return blocking(self.fetch(sql, parameters), self._loop, self._bus, None)

    # -- putting down -----------------------------------------------------------------------------

    def _put(self, sql: str, rows: Iterable[Given]) -> None:
        self._statements.append(self._checked(sql, rows))

    def _checked(self, sql: str, rows: Iterable[Given]) -> Statement:
        if not self._is_open:
            raise RuntimeError("this transaction is over: its handler has returned")
        if not isinstance(sql, str):
            raise TransactionError(sql, "a statement is text")
        return Statement(sql, tuple(_copied(sql, row) for row in rows))

    # -- for the engine ---------------------------------------------------------------------------

    def _close(self) -> None:
        self._is_open = False

    @property
    def _transact(self) -> Transact:
        statements = tuple(self._statements)
        return Transact(statements, self._durable, self._event, self._seq, world.wall())

    async def _preview(self, query: Statement | None = None) -> Found:
        journal, transact = cast("Transactional", self._scribe.journal), self._transact
        return cast(
            "Found",
            await _told(
                lambda done: self._scribe.call(lambda: journal.preview(transact, query), done)
            ),
        )

    async def _commit(self) -> None:
        """Bring it about.

        Raises:
            TransactionError: A statement was refused.
            JournalError: It could not be committed.
        """
        if not (self._statements or self._durable):
            return
        result = await _told(lambda done: self._scribe.put(self._transact, done))
        if isinstance(result, TransactionError):
            raise result


class Inbox:
    """How the deliveries of a subscription with an inbox are handled.

    Args:
        sub: The subscription.
    """

    __slots__ = ("_sub",)

    def __init__(self, sub: Subscription) -> None:
        self._sub = sub

    async def on_loop(self, data: Any) -> Any:
        """Handle a delivery on the loop; `data` is what the handler takes."""
        sub, delivery, reply = self._sub, _Delivery(self._sub), None
        if delivery.doubtful and await delivery.is_done():
            return None
        with delivery.handling() as tx:
            if sub.signature.is_async:
                reply = await sub.handler(data, tx)
            else:
                reply = call_plain(lambda given: sub.handler(given, tx), data)
        await delivery.commit()
        return reply

    def in_thread(self, data: Any) -> Any:
        """Handle a delivery in a thread."""
        sub, delivery, reply = self._sub, _Delivery(self._sub), None
        if delivery.doubtful and self._wait(delivery.is_done()):
            return None
        with delivery.handling() as tx:
            reply = call_plain(lambda given: sub.handler(given, tx), data)
        self._wait(delivery.commit())
        return reply

    def _wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return blocking(coroutine, self._sub.loop, self._sub.bus.name, None)


class _Delivery:
    """What is in hand when a handler is called; when it returns that may be something else.

    Attributes:
        doubtful: Whether the event may have taken effect, as far as is known here.
    """

    __slots__ = ("_hand", "_receipt", "_tx", "doubtful")

    def __init__(self, sub: Subscription) -> None:
        hand: Any = in_hand.get()
        receipt, past = hand.receipt, hand.delivery
        begun_before = past is not None and past.attempts + past.interruptions > 1
        self.doubtful = begun_before or not receipt.logged  # a dead letter, perhaps
        self._hand, self._receipt = hand, receipt
        scribe, name = sub.bus.recorder.scribe, sub.options.durable or ""
        event = receipt.event.id
        self._tx = Transaction(sub.bus.name, sub.loop, scribe, name, event, receipt.logged)

    async def is_done(self) -> bool:
        """Ask the journal whether the event has taken effect."""
        return await self._tx._preview() is None

    @contextmanager
    def handling(self) -> Iterator[Transaction]:
        """Give the handler its transaction; one that learns that all is done may fail."""
        try:
            yield self._tx
        except _FAILURE:
            if not self._tx._is_done:
                raise
        finally:
            self._tx._close()

    async def commit(self) -> None:
        """Bring about what the handler has put down.

        Raises:
            TransactionError, JournalError: It could not be.
            RuntimeError: The delivery was given up meanwhile, and is a dead letter already.
        """
        if self._hand.receipt is not self._receipt:
            raise RuntimeError("the delivery was taken from its handler before that returned")
        await self._tx._commit()


def calling(sub: Subscription) -> Callable[[Any], Any]:
    """Return how the handler of a subscription is called with what it takes."""
    if sub.options.inbox:
        inbox = Inbox(sub)
        return inbox.in_thread if sub.threaded else inbox.on_loop
    if not sub.options.inline:
        return cast("Callable[[Any], Any]", sub.handler)

    async def inline(data: Any) -> Any:
        return call_plain(sub.handler, data)

    return inline


def check_tables(journal: Journal) -> None:
    """Check that a journal can keep tables of the program's own.

    Raises:
        ConfigurationError: It cannot.
    """
    if not isinstance(journal, Transactional):
        raise ConfigurationError(
            f"inbox=True and transactions need a journal with tables, such as "
            f"'sqlite:///events.db', and {journal.url} has none"
        )


async def _told(ask: Callable[[Done], None]) -> Any:
    """Wait for what a journal answers; cancelling takes nothing back."""
    answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def done(result: Any, error: JournalError | None) -> None:
        if answered.done():
            return  # nobody waits any more
        if error is None:
            answered.set_result(result)
        else:
            answered.set_exception(error)

    ask(done)
    return await answered


def _copied(sql: str, given: Given) -> Parameters:
    """Return parameters as they are now.

    Raises:
        TransactionError: One is of no type that a database keeps.
    """
    if isinstance(given, Mapping):
        return {str(name): _plain(sql, value) for name, value in given.items()}
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise TransactionError(sql, f"parameters are a sequence or a mapping, not {_kind(given)}")
    return tuple(_plain(sql, value) for value in given)


def _plain(sql: str, value: Any) -> Value:
    if value is None or type(value) in (float, str, bytes):
        return cast("Value", value)
    if isinstance(value, int) and -_LARGEST <= value < _LARGEST:
        return int(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, float):
        return float(value)
    raise TransactionError(
        sql, f"a parameter is None, int (64 bits), float, str or bytes, not {_kind(value)}"
    )


def _kind(value: object) -> str:
    return type(value).__qualname__
