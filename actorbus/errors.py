"""Every public exception of actorbus, in one tree.

::

    ActorBusError
    ├── ConfigurationError (ValueError)     an option is wrong, alone or with another
    │   ├── InvalidTopicError               a topic breaks the grammar
    │   └── InvalidPatternError             a pattern breaks the grammar
    ├── BusNotRunningError                  no running loop to deliver on
    ├── BusClosedError                      the bus is draining or closed
    ├── MailboxFullError                    an overflow="fail" mailbox refused
    ├── DeadlockError                       waiting would close a cycle
    ├── NoResponderError                    nobody could answer an ask
    ├── AskTimeoutError (TimeoutError)      no answer in time
    ├── AskFailedError                      every answer failed; __cause__ is why
    ├── PayloadError                        a payload cannot be copied, encoded or converted
    ├── JournalError                        durable storage
    │   ├── JournalFullError
    │   ├── JournalCorruptError
    │   └── JournalLockedError
    ├── TransactionError                    a statement of an inbox handler was refused
    └── TransportError                      the engine between processes

Each class builds its own text from typed fields, so call sites carry no prose and every error
can be pickled. Payloads never appear in an error's text.
"""

from __future__ import annotations

from typing import Any


class ActorBusError(Exception):
    """Base of every error actorbus raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Rebuild from the fields, not from the rendered text."""
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(
    cls: type[ActorBusError], args: tuple[Any, ...], fields: dict[str, Any]
) -> ActorBusError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(fields)
    return error


class ConfigurationError(ActorBusError, ValueError):
    """An option is unknown, out of range, or at odds with another one."""


class InvalidTopicError(ConfigurationError):
    """A topic breaks the grammar.

    Attributes:
        topic: What was given, shortened to 80 characters.
        part: The offending part.
        reason: What is wrong with it.
    """

    def __init__(self, topic: object, part: object, reason: str) -> None:
        self.topic = _short(topic)
        self.part = _short(part)
        self.reason = reason
        super().__init__(f"invalid topic {self.topic}: {self.part} {reason}")


class InvalidPatternError(ConfigurationError):
    """A pattern breaks the grammar.

    Attributes:
        pattern: What was given, shortened to 80 characters.
        part: The offending part.
        reason: What is wrong with it.
    """

    def __init__(self, pattern: object, part: object, reason: str) -> None:
        self.pattern = _short(pattern)
        self.part = _short(part)
        self.reason = reason
        super().__init__(f"invalid pattern {self.pattern}: {self.part} {reason}")


class BusNotRunningError(ActorBusError):
    """There is no running event loop for the bus to deliver on.

    Attributes:
        bus: Name of the bus.
        forked: Whether it runs in the process that this one was forked from.
    """

    def __init__(self, bus: str, *, forked: bool = False) -> None:
        self.bus = bus
        self.forked = forked
        super().__init__(
            f"bus {bus!r} runs in the process that this one was forked from: publish there, or "
            "make a bus here, after the fork (if it has a journal, with one of its own)"
            if forked
            else f"bus {bus!r} has no running event loop: publish from inside a coroutine, "
            "use `async with EventBus(...) as bus`, or run the program with `bus.run(main)`"
        )


class BusClosedError(ActorBusError):
    """The bus is draining or closed and accepts nothing more.

    Attributes:
        bus: Name of the bus.
        draining: Whether accepted work is still being finished.
    """

    def __init__(self, bus: str, *, draining: bool = False) -> None:
        self.bus = bus
        self.draining = draining
        state = "draining and accepts" if draining else "closed and accepts"
        super().__init__(f"bus {bus!r} is {state} no more events; `await bus.start()` opens it")


class MailboxFullError(ActorBusError):
    """A mailbox with overflow="fail" was full; the delivery is a dead letter.

    Attributes:
        subscription: Whose mailbox.
        capacity: Deliveries it holds.
    """

    def __init__(self, subscription: str, capacity: int) -> None:
        self.subscription = subscription
        self.capacity = capacity
        super().__init__(f"mailbox of {subscription!r} is full (capacity {capacity})")


class DeadlockError(ActorBusError):
    """Waiting here could never end: everyone in the cycle waits for the next.

    Attributes:
        cycle: Names of the subscriptions, each waiting for the next, the last for the first.
    """

    def __init__(self, cycle: tuple[str, ...], doing: str = "publish") -> None:
        self.cycle = cycle
        self.doing = doing
        path = " -> ".join((*cycle, cycle[0])) if cycle else "itself"
        super().__init__(f"awaiting this {doing} would never end: {path}")


class NoResponderError(ActorBusError):
    """Nobody who could answer matches; streams and waits do not answer.

    Attributes:
        topic: What was asked.
    """

    def __init__(self, topic: str) -> None:
        self.topic = topic
        super().__init__(f"no handler matches {topic!r}, so nobody can answer")


class AskTimeoutError(ActorBusError, TimeoutError):
    """No answer came in time; the deliveries stay where they are.

    Attributes:
        topic: What was asked.
        timeout: Seconds waited.
    """

    def __init__(self, topic: str, timeout: float) -> None:
        self.topic = topic
        self.timeout = timeout
        super().__init__(f"no answer to {topic!r} within {timeout:g} s")


class AskFailedError(ActorBusError):
    """Every delivery of an ask has settled, none answered and at least one is dead.

    ``__cause__`` is the handler's error, where there is one.

    Attributes:
        topic: What was asked.
        subscription: Whose delivery is dead.
        reason: The dead letter's reason.
    """

    def __init__(self, topic: str, subscription: str, reason: str) -> None:
        self.topic = topic
        self.subscription = subscription
        self.reason = reason
        super().__init__(f"ask {topic!r} failed: {subscription!r} gave up ({reason})")


class PayloadError(ActorBusError):
    """A payload cannot be copied or encoded at publish.

    Attributes:
        topic: Of the event.
        action: What failed, such as "copy".
    """

    def __init__(self, topic: str, action: str) -> None:
        self.topic = topic
        self.action = action
        super().__init__(f"cannot {action} the payload of {topic!r}")


class JournalError(ActorBusError):
    """The journal could not do what was asked."""


class JournalFullError(JournalError):
    """The journal has no room: the disk or its own limit is full."""


class JournalCorruptError(JournalError):
    """The journal's log is damaged beyond a torn tail."""


class JournalLockedError(JournalError):
    """Another process owns the journal."""


class TransactionError(ActorBusError):
    """What a `Transaction` put down was refused, and nothing of it has happened.

    ``__cause__`` is SQLite's error, where there is one.

    Attributes:
        statement: The SQL that was refused, shortened to 80 characters, without its parameters.
        reason: What is wrong with it.
    """

    def __init__(self, statement: object, reason: str) -> None:
        self.statement = _short(statement)
        self.reason = reason
        super().__init__(f"the transaction was refused at {self.statement}: {reason}")


class TransportError(ActorBusError):
    """The engine between processes could not do what was asked."""


def _short(value: object, limit: int = 80) -> str:
    """Return a printable form of at most `limit` characters; control characters are escaped."""
    text = value if isinstance(value, str) else f"<{type(value).__name__}>"
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    return repr(text)
