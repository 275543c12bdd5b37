"""What a test must not leave behind: dead letters nobody looked at, and books that do not balance.

A test of pytest's is over before its fixtures are; both are looked at here, from outside the loop,
which the fixture keeps open for that.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass

from actorbus.bus import EventBus
from actorbus.dead_letter import DeadLetter

SETTLE = 1.0  # seconds of the loop's clock a bus may take to settle when its test is over
CLOSE = 5.0  # seconds it may take to close
SHOWN = 5  # dead letters told of


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a test may leave behind.

    Attributes:
        allow_dead_letters: Whether the bus may hold dead letters.
        allow_imbalance: Whether its ledger may be out of balance.
    """

    allow_dead_letters: bool = False
    allow_imbalance: bool = False


def settle(bus: EventBus) -> None:
    """Let a bus finish what its test has begun, for a moment; what takes longer is for `close`."""
    loop = _loop_of(bus)
    if loop is not None:
        with suppress(TimeoutError):
            loop.run_until_complete(bus.settle(SETTLE))


def close(bus: EventBus) -> None:
    """Drain and close a bus, where its loop is still there."""
    loop = _loop_of(bus)
    if loop is not None:
        loop.run_until_complete(bus.close(CLOSE))
    bus._engine.settle_lost_loop()
    bus._engine.threads.close()


def _loop_of(bus: EventBus) -> asyncio.AbstractEventLoop | None:
    engine = bus._engine
    loop = engine.loop
    usable = engine.running and loop is not None and not (loop.is_closed() or loop.is_running())
    return loop if usable else None


def fault(bus: EventBus, allowed: Allowance) -> str | None:
    """Return what is wrong with what a test leaves behind, or None."""
    audit, letters = bus.audit(), list(bus.dead_letters)
    evicted = bus.dead_letters.evicted
    if not (audit.balanced or allowed.allow_imbalance):
        return f"the books of bus {bus.name!r} do not balance at the end of the test\n{audit}"
    if (letters or evicted) and not allowed.allow_dead_letters:
        return (
            f"the test leaves {_tell(bus.name, letters, evicted)}\n"
            "If that is right, look at them and `await bus.dead_letters.discard()`, or mark the "
            "test @pytest.mark.actorbus(allow_dead_letters=True)"
        )
    return None


def note(bus: EventBus) -> str | None:
    """Return what may explain why a test has failed, or None."""
    letters = list(bus.dead_letters)
    return f"meanwhile {_tell(bus.name, letters, 0)}" if letters else None


def _tell(bus: str, letters: list[DeadLetter], evicted: int) -> str:
    count = len(letters) + evicted
    lines = [f"{count} dead letter{'' if count == 1 else 's'} on bus {bus!r}"]
    lines += [f"  {_line(letter)}" for letter in letters[-SHOWN:]]
    if count > SHOWN:
        lines.append(f"  and {count - SHOWN} before")
    return "\n".join(lines)


def _line(letter: DeadLetter) -> str:
    cause = letter.traceback.rstrip().rpartition("\n")[2]
    attempts = f"{letter.attempts} attempt{'' if letter.attempts == 1 else 's'}"
    why = f"{letter.reason}, {attempts}" if letter.attempts else str(letter.reason)
    return f"{letter.event.topic} -> {letter.subscription} ({why}){': ' * bool(cause)}{cause}"
