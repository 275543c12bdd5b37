"""Scripts: what the handlers of a model do, written in the events they get.

The payload of an event holds three actions, and a subscription follows the one its number points
to, so one event can succeed here, fail there and hang elsewhere.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, NamedTuple, Protocol

from actorbus.event import Event
from actorbus.hand import in_hand
from actorbus.receipt import Receipt
from actorbus.retry import Reject, RetryAfter
from actorbus.testing.books import Book

Action = tuple[Any, ...]
OK: Action = ("ok",)


class Script(NamedTuple):
    """Three actions; a subscription follows one of them."""

    first: Action
    second: Action
    third: Action


class CrashError(Exception):
    """What a failing handler raises."""


class HardError(BaseException):
    """What no ``except Exception`` sees."""


class Stage(Protocol):
    """What a script needs of the model."""

    bus: Any
    gate: asyncio.Event

    async def admission(self, receipt: Receipt) -> None:
        """Await a receipt."""

    async def settlement(self, receipt: Receipt) -> None:
        """Wait until a receipt is settled."""

    async def asking(self, topic: str, data: Any) -> None:
        """Ask."""

    def try_publish(self, topic: str, data: Any, key: Any = None) -> Receipt | None:
        """Publish; None if the bus is closed."""


async def perform(stage: Stage, book: Book, number: int, given: Any) -> object:
    """Do what the script says, in a handler on the loop; reply with the event's id."""
    match _action(number, given):
        case ("hang",):
            await stage.gate.wait()
        case ("deaf",):
            await _deaf(stage.gate)
        case ("sleep", seconds):
            await asyncio.sleep(seconds)
        case ("unsubscribe",):
            if not book.actor:
                stage.bus.unsubscribe(book.sub)
        case ("publish", topic, data, waits):
            await _publish(stage, topic, data, waits)
        case ("echo", waits):
            await _publish(stage, _event().topic, given, waits)
        case ("ask", topic, data):
            await stage.asking(topic, data)
        case action:
            _raise(book, action)
    return _event().id


def perform_plainly(stage: Stage, book: Book, number: int, given: Any) -> object:
    """Do what the script says, as far as a plain function can."""
    match _action(number, given):
        case ("sleep", seconds):
            time.sleep(min(seconds, 0.01))  # on the loop it holds up everybody
        case ("publish", topic, data, _):
            stage.try_publish(topic, data)
        case ("echo", _):
            stage.try_publish(_event().topic, given)
        case action:
            _raise(book, action)
    return _event().id


def _action(number: int, given: Any) -> Action:
    data = given.data if isinstance(given, Event) else given
    return data[number % 3] if isinstance(data, Script) else OK


def _event() -> Event:
    hand: Any = in_hand.get()
    return hand.receipt.event  # type: ignore[no-any-return]  # in a handler there is one


def _raise(book: Book, action: Action) -> None:
    match action:
        case ("fail", times):
            hand: Any = in_hand.get()
            if book.accounts[hand.receipt._number].attempts <= times:
                raise CrashError
        case ("reject",):
            raise Reject("not wanted")
        case ("later", seconds):
            raise RetryAfter(seconds)
        case ("cancel",):
            raise asyncio.CancelledError
        case ("hard",):
            raise HardError


async def _deaf(gate: asyncio.Event) -> None:
    while True:
        try:
            await gate.wait()
        except asyncio.CancelledError:
            continue
        return


async def _publish(stage: Stage, topic: str, given: Any, waits: str | None) -> None:
    data = given.data if isinstance(given, Event) else given
    receipt = stage.try_publish(topic, data)
    if receipt is None:
        return
    if waits == "admission":
        await stage.admission(receipt)
    elif waits == "settlement":
        await stage.settlement(receipt)
