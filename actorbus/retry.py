"""Retry: whether, and how long from now, the same delivery is tried again. Pure.

Invariants:
    - The delay after the k-th failure lies in [0, ``min(cap, base * factor ** (k - 1))``], the
      jitter inside the cap; only `RetryAfter` sets another one.
    - No delivery has more than ``max_attempts`` attempts, and none starts later than
      ``max_elapsed`` seconds after the first: a delay that would end later is given up at once
      instead of being waited for in vain.
    - ``never`` wins over ``on``. What ends the program (`KeyboardInterrupt`, `SystemExit`) is never
      retried.

Every decision is O(1). "Full jitter" is the scheme of Marc Brooker, "Exponential Backoff And
Jitter" (AWS Architecture Blog, 2015): of the schemes compared there it makes the fewest calls.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Literal

from actorbus.checks import choice, number, whole
from actorbus.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_ENDS_THE_PROGRAM = (KeyboardInterrupt, SystemExit, GeneratorExit)


class Reject(Exception):  # noqa: N818 - an instruction to the bus, not a fault of it
    """Raised by a handler that will never accept this event.

    The delivery is dead at once (``rejected``) and the actor has not failed.
    """


_NEVER = (Reject, *_ENDS_THE_PROGRAM)


class RetryAfter(Exception):  # noqa: N818 - an instruction to the bus, not a fault of it
    """Raised by a handler that knows when to be tried again, as after an HTTP 429.

    It counts as an attempt like any other, whatever the policy's ``on`` says.

    Args:
        seconds: How long to wait, a finite number of at least 0; not limited by ``cap``.
        reason: Why, for the dead letter and the log.

    Raises:
        ConfigurationError: `seconds` is not such a number.

    Attributes:
        seconds: How long to wait.
        reason: Why, or an empty string.
    """

    def __init__(self, seconds: float, reason: str = "") -> None:
        self.seconds = number("seconds", seconds)
        self.reason = reason
        super().__init__(seconds, reason)  # the arguments themselves, so that it can be pickled

    def __str__(self) -> str:
        why = f": {self.reason}" if self.reason else ""
        return f"retry after {self.seconds:g} s{why}"


class Jitter(StrEnum):
    """How chance spreads the delays."""

    FULL = "full"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how fast a failed delivery is tried again.

    Attributes:
        max_attempts: Attempts in all, the first included; at least 1.
        base: Seconds: the longest delay after the first failure; at least 0.
        factor: What each further failure multiplies it by; at least 1.
        cap: Seconds: no delay is longer.
        jitter: ``"full"`` draws each delay from [0, the longest], ``"none"`` takes the longest.
        max_elapsed: Seconds after the start of the first attempt; none starts later. None: no
            limit.
        on: Exception classes that are retried; one class or several. Always a tuple once made.
        never: Exception classes that are not, even where `on` has them. Always a tuple once made.

    Raises:
        ConfigurationError: An option is out of range or of the wrong type.
    """

    max_attempts: int = 5
    base: float = 0.1
    factor: float = 2.0
    cap: float = 30.0
    jitter: Jitter | Literal["full", "none"] = Jitter.FULL
    max_elapsed: float | None = 60.0
    on: type[BaseException] | Iterable[type[BaseException]] = (Exception,)
    never: type[BaseException] | Iterable[type[BaseException]] = ()

    def __post_init__(self) -> None:
        """Check every option and bring it into its one form."""
        keep = object.__setattr__  # the way into a frozen dataclass
        keep(self, "max_attempts", whole("max_attempts", self.max_attempts, at_least=1))
        keep(self, "base", number("base", self.base))
        keep(self, "factor", number("factor", self.factor, at_least=1))
        keep(self, "cap", number("cap", self.cap))
        keep(self, "jitter", choice("jitter", Jitter, self.jitter))
        if self.max_elapsed is not None:
            keep(self, "max_elapsed", number("max_elapsed", self.max_elapsed))
        keep(self, "on", _classes("on", self.on))
        keep(self, "never", _classes("never", self.never))
        if not self.on:
            raise ConfigurationError(
                "on is empty, so no error would be retried: use RetryPolicy.none()"
            )

    @classmethod
    def none(cls) -> RetryPolicy:
        """Return the policy of one attempt and no retry."""
        return cls(max_attempts=1)

    def delay(
        self, attempt: int, error: BaseException, elapsed: float, random: Callable[[], float]
    ) -> float | None:
        """Decide what follows a failed attempt.

        Args:
            attempt: Number of the attempt that failed, from 1.
            error: What it raised.
            elapsed: Seconds since the first attempt started.
            random: Returns a float in [0, 1); called once where there is a draw, else not at all.

        Returns:
            Seconds to wait before the next attempt, or None to give the delivery up.
        """
        if attempt >= self.max_attempts or not self.retries(error):
            return None
        if isinstance(error, RetryAfter):
            wait = error.seconds
        else:
            wait = self.longest(attempt)
            if self.jitter is Jitter.FULL:
                wait *= random()
        if self.max_elapsed is not None and elapsed + wait > self.max_elapsed:
            return None
        return wait

    def retries(self, error: BaseException) -> bool:
        """Return whether an error of this kind may be tried again at all.

        Args:
            error: What an attempt raised. An `asyncio.CancelledError` counts as an `Exception`.

        Returns:
            Whether another attempt is allowed, budgets aside.
        """
        if isinstance(error, _NEVER) or (self.never and _is_a(error, self.never)):
            return False
        return isinstance(error, RetryAfter) or _is_a(error, self.on)

    def longest(self, attempt: int) -> float:
        """Return the longest delay after a failed attempt.

        Args:
            attempt: Number of the attempt that failed, from 1.

        Returns:
            Seconds, ``min(cap, base * factor ** (attempt - 1))``.
        """
        try:
            return min(self.cap, self.base * self.factor ** (attempt - 1))
        except OverflowError:  # beyond 1e308, so beyond any cap
            return self.cap if self.base else 0.0


def _is_a(error: BaseException, classes: object) -> bool:
    """Return whether `error` is of one of `classes`, a cancellation passing for an Exception."""
    assert isinstance(classes, tuple)  # noqa: S101 - what __post_init__ made, told to mypy
    if isinstance(error, asyncio.CancelledError) and Exception in classes:
        return True
    return isinstance(error, classes)


def _classes(option: str, value: object) -> tuple[type[BaseException], ...]:
    """Return `value`, one exception class or several, as a tuple, or refuse it."""
    try:
        several = (value,) if isinstance(value, type) else tuple(value)  # type: ignore[arg-type]  # what is not iterable is the error below
    except TypeError:
        raise ConfigurationError(
            f"{option} must be an exception class or several, not {value!r}"
        ) from None
    for one in several:
        if not (isinstance(one, type) and issubclass(one, BaseException)):
            raise ConfigurationError(f"{option} must hold exception classes, not {one!r}")
        if option == "on" and issubclass(one, _ENDS_THE_PROGRAM):
            raise ConfigurationError(f"on holds {one.__name__}, which is never retried")
    return several
