"""Watch: waiting until a receipt has settled, and how it did; the bells that wake waiters."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from actorbus.words import Outcome


@dataclass(frozen=True, slots=True)
class Settlement:
    """What became of every delivery of one event.

    Attributes:
        outcomes: The outcome per subscription name.
    """

    outcomes: dict[str, Outcome]

    @property
    def ok(self) -> bool:
        """Whether none is dead."""
        return Outcome.DEAD not in self.outcomes.values()


class Answerer(Protocol):
    """What a watch needs to know of a subscription."""

    @property
    def answers(self) -> bool:
        """Whether it can answer an ask: streams and waits cannot."""


class Watch:
    """Somebody wants to know of every settled delivery of a receipt.

    Attributes:
        receipt: The receipt.
        pending: Who has not settled yet, in order of their subscriptions.
        asking: Whether the first reply that is not None ends the wait.
        reply: The first such reply.
        failed: (subscription, reason, error) of the first dead delivery, or None.
    """

    __slots__ = ("asking", "bells", "failed", "pending", "receipt", "reply")

    def __init__(
        self, receipt: Any, pending: Iterable[Answerer] = (), *, asking: bool = False
    ) -> None:
        self.receipt = receipt
        self.pending = dict.fromkeys(pending)
        self.asking = asking
        self.reply: Any = None
        self.failed: tuple[str, str, BaseException | None] | None = None
        self.bells: list[asyncio.Future[None]] = []

    @property
    def done(self) -> bool:
        """Whether there is nothing more to wait for."""
        return not self.pending or (self.asking and self.reply is not None)

    def settle(self, addressee: Answerer, reply: object = None) -> None:
        """Take note of one settled delivery."""
        self.pending.pop(addressee, None)
        if reply is not None and self.reply is None and addressee.answers:
            self.reply = reply
        if self.done:
            ring(self.bells)

    async def wait(self) -> None:
        """Wait until done; cancelling takes nothing back."""
        while not self.done:
            await hear(self.bells)


def ring(bells: list[asyncio.Future[None]]) -> None:
    """Wake everybody who hears one of the bells."""
    for bell in bells:
        if not bell.done() and not bell.get_loop().is_closed():
            bell.set_result(None)
    bells.clear()


async def hear(bells: list[asyncio.Future[None]]) -> None:
    """Wait for the next `ring`."""
    bell = asyncio.get_running_loop().create_future()
    bells.append(bell)
    try:
        await bell
    finally:
        if bell in bells:
            bells.remove(bell)
