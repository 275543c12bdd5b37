"""Reproduce: a dead letter as a pytest module that fails as the handler did.

The test gives the recorded event to the handler by way of a bus of its own, so that everything the
bus does on the way is done again: the conversion of the payload, the thread, the context. What can
not be written as Python stands there as a TODO, and then the test fails with the reason: it never
passes without having called the handler.

Invariant: the text compiles, whatever the event, the error and the handler are.
"""

from __future__ import annotations

import inspect
import re
import sys
from datetime import UTC, datetime
from typing import Any, Protocol

from actorbus.event import Event
from actorbus.literal import Names, Unwritable, name_of, path_of, write
from actorbus.words import DeadReason

TELL = "$bus:tell:"
MATCHED = 160  # characters of the error's text
ITS_OWN = (DeadReason.REJECTED, DeadReason.RETRIES_EXHAUSTED, DeadReason.INVALID_PAYLOAD)
"""The reasons that are the handler's; the others have to do with the mailbox or the bus."""

_EITHER = inspect.Parameter.POSITIONAL_OR_KEYWORD
_TAKEN = (
    "DATA", "HANDLER", "HEADERS", "KEY", "EventBus", "RetryPolicy", "asyncio", "bus", "letter",
    "letters", "pytest", "re", "receipt", "reproduce", "tmp_path",
)  # fmt: skip


class Letter(Protocol):
    """What the test is made of."""

    @property
    def id(self) -> str: ...  # noqa: D102 the dead letter's
    @property
    def event(self) -> Event: ...  # noqa: D102
    @property
    def subscription(self) -> str: ...  # noqa: D102
    @property
    def reason(self) -> DeadReason: ...  # noqa: D102
    @property
    def error(self) -> BaseException | None: ...  # noqa: D102
    @property
    def attempts(self) -> int: ...  # noqa: D102
    @property
    def died_at(self) -> float: ...  # noqa: D102


def as_pytest(letter: Letter, handler: Any, timeout: float | None, *, inline: bool) -> str:
    """Return a test module.

    Args:
        letter: The dead letter.
        handler: What failed; None looks it up by the subscription's name.
        timeout: Of the subscription.
        inline: Whether its handler, a plain function, ran on the loop.

    Returns:
        Python source that needs nothing but pytest, actorbus and what the handler needs.
    """
    return _Test(letter, handler, timeout, inline).source()


class _Test:
    """One module being written."""

    def __init__(self, letter: Letter, handler: Any, timeout: float | None, inline: bool) -> None:
        self._letter = letter
        self._todo: list[str] = []
        self._test = f"test_dead_letter_of_{_identifier(letter.subscription)}"
        self._names = Names((*_TAKEN, self._test))
        self._placeholder: list[str] = []
        self._options = ['name="reproduced"', "retry=RetryPolicy.none()", 'on_failure="resume"']
        self._options += [f"timeout={timeout!r}"] * (timeout is not None)
        self._options += ["inline=True"] * inline
        self._handler = handler if handler is not None else _found(letter.subscription)
        self._inbox = _takes_transaction(self._handler)
        if self._inbox:
            self._options += ['durable="reproduced"', "inbox=True"]
            self._todo.append("create the tables it writes, in bus.transaction()")

    def source(self) -> str:
        """Return the whole module."""
        event = self._letter.event
        given = [f"DATA = {self._value('payload', event.data)}"]
        if event.key is not None:
            given.append(f"KEY = {self._value('key', event.key)}")
        if event.headers is not None:
            given.append(f"HEADERS = {self._value('headers', event.headers)}")
        listening, publishing, raising = self._listening(), self._publishing(), self._raising()
        todo = [f"    pytest.fail({_text('TODO: ' + '; '.join(self._todo))})", ""]
        return "\n".join([
            *self._head(), "",
            "import asyncio", "import re", "",
            "import pytest", "",
            "from actorbus import EventBus, RetryPolicy", *self._names.lines(), "",
            *given, *self._placeholder, "", "",
            f"def {self._test}({'tmp_path' * self._inbox}):",
            *(todo if self._todo else []),
            "    async def reproduce():",
            f"        async with {self._bus()} as bus:",
            f"            {listening}",
            f"            receipt = {publishing}",
            "            await receipt.settled()",
            "            return list(bus.dead_letters)",
            "",
            "    letters = asyncio.run(reproduce())",
            "    # This passes while the handler fails as it did. After the fix turn it round:",
            "    # assert letters == []  instead of the lines below.",
            f"    with {raising}:",
            "        for letter in letters:",
            "            raise letter.error",
            "",
        ])  # fmt: skip

    def _head(self) -> list[str]:
        letter = self._letter
        died = _line(_when(letter.died_at))
        attempts = f"{letter.attempts} attempt{'' if letter.attempts == 1 else 's'}"
        return [
            f"# Dead letter {_line(letter.id)}: {_line(letter.event.topic)} for "
            f"{_line(letter.subscription)}",
            f"# Given up {died}: {_line(str(letter.reason))}, {_line(attempts)}.",
            "# The event is the recorded one but for its time and its cause.",
        ]

    def _value(self, what: str, value: Any) -> str:
        try:
            return write(value, self._names)
        except Unwritable as why:
            self._todo.append(f"rebuild the {what}, which is not written here: {why}")
            return f"None  # TODO: {_line(str(why))}; it was {_line(_show(value))}"

    def _bus(self) -> str:
        journal = ', journal=f"sqlite:///{tmp_path}/events.db"' * self._inbox
        return f'EventBus("reproduction"{journal})'

    def _listening(self) -> str:
        """Return the statement that subscribes."""
        handler, topic = self._handler, self._letter.event.topic
        topic = "reproduced" if topic.startswith("$") else topic
        try:
            if isinstance(handler, tuple):
                kind, method = handler
                return self._method(kind, method, topic)
            name = self._names.of(handler)
        except Unwritable as why:
            self._todo.append(f"import the handler as HANDLER, which is not done here: {why}")
            self._placeholder = [f"HANDLER = print  # TODO: {_line(str(why))}"]
            name = "HANDLER"
        return _call("bus.subscribe", [_text(topic), name, *self._options])

    def _method(self, kind: type, method: str, topic: str) -> str:
        """Return the statement that spawns an actor."""
        if method != "receive" or not hasattr(kind, "on_restart"):
            raise Unwritable(f"{name_of(kind)}.{_line(method)} needs its instance")
        name = self._names.of(kind)
        try:
            inspect.signature(kind).bind()
        except Exception:  # noqa: BLE001 a user's class
            self._todo.append(f"give {name} the arguments it is made with")
        return _call("bus.spawn", [name, f"patterns={_text(topic)}", *self._options])

    def _publishing(self) -> str:
        event = self._letter.event
        given = ["DATA", *["key=KEY"] * (event.key is not None)]
        if event.topic.startswith(TELL):
            return _call('bus.actor("reproduced").tell', given)
        if event.topic.startswith("$"):
            self._todo.append(f"{event.topic} is the bus's own: nobody else can publish it")
        given += ["headers=HEADERS"] * (event.headers is not None)
        given += [f"id={_text(event.id)}", f"correlation_id={_text(event.correlation_id)}"]
        return _call("bus.publish", [_text(event.topic), *given])

    def _raising(self) -> str:
        """Return the context manager that expects the error."""
        letter = self._letter
        error = letter.error
        if error is None or letter.reason not in ITS_OWN:
            self._todo.append(
                f"find out what was wrong: the delivery was given up as {letter.reason}, and that "
                "is not the handler's doing alone"
            )
        if error is None:
            return "pytest.raises(Exception)"
        match = _matched(error)
        kind = self._error_class(type(error))
        return f"pytest.raises({kind}{f', match=re.escape({_text(match)})' if match else ''})"

    def _error_class(self, kind: type) -> str:
        """Return the name of an error's class, or of the nearest base that can be imported."""
        for base in kind.__mro__:
            try:
                return self._names.of(base)
            except Unwritable:
                continue
        return "BaseException"


def _found(subscription: str) -> Any:
    """Return the handler that a default name stands for, if its module is loaded; else None."""
    path = subscription.partition("#")[0].split(".")
    for length in range(len(path) - 1, 0, -1):
        found: Any = sys.modules.get(".".join(path[:length]))
        if found is None:
            continue
        try:
            for part in path[length:]:
                found = getattr(found, part)
            path_of(found)
        except Exception:  # noqa: BLE001 somebody's module or class: anything may be wrong
            return None
        return found
    return None


def _takes_transaction(handler: Any) -> bool:
    """Return whether a handler takes ``(data, tx)``: it had an inbox."""
    try:
        method = isinstance(handler, tuple)
        parameters = inspect.signature(getattr(*handler) if method else handler).parameters
    except Exception:  # noqa: BLE001 a user's object: anything may be wrong
        return False
    needed = [
        each
        for each in parameters.values()
        if each.default is each.empty and each.kind in (each.POSITIONAL_ONLY, _EITHER)
    ]
    return len(needed) > 1 + method


def _matched(error: BaseException) -> str:
    """Return the part of an error's text that may be expected again: no addresses."""
    try:
        text = str(error)
        return text[:MATCHED].partition(" at 0x")[0] if type(text) is str else ""
    except Exception:  # noqa: BLE001 a user's error
        return ""


def _when(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(" ", "seconds")
    except Exception:  # noqa: BLE001 read from storage: anything may be wrong
        return "at an unknown time"


def _identifier(name: str) -> str:
    return re.sub(r"[^0-9A-Za-z]+", "_", name)[-60:].strip("_") or "a_handler"


def _show(value: Any) -> str:
    try:
        return repr(value)
    except Exception as flaw:  # noqa: BLE001 a user's object
        return f"something whose repr raises {type(flaw).__name__}"


def _line(text: Any) -> str:
    """Return text on one line, for a comment."""
    return "".join(c if c.isprintable() else "?" for c in str(text)[:200])


def _text(text: str) -> str:
    """Return a string's literal."""
    return repr(str(text))


def _call(function: str, arguments: list[str]) -> str:
    """Return a call that stands at the depth of the statements inside the bus."""
    line = f"{function}({', '.join(arguments)})"
    if len(line) <= 70:
        return line
    inner = "".join(f"\n                {each}," for each in arguments)
    return f"{function}({inner}\n            )"
