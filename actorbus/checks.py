"""Checks: what is given as an option comes out in one form, or is refused by the option's name."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import TypeVar

from actorbus.errors import ConfigurationError

Word = TypeVar("Word", bound=StrEnum)


def whole(option: str, value: object, at_least: int = 0) -> int:
    """Return a whole number of at least so much, or refuse it."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise ConfigurationError(f"{option} must be a whole number, not {value!r}")
    if value < at_least:
        raise ConfigurationError(f"{option} must be at least {at_least}, not {value}")
    return value


def number(option: str, value: object, at_least: float = 0) -> float:
    """Return a finite number of at least so much as a float, or refuse it."""
    found = _finite(option, value, "a number")
    if found < at_least:
        raise ConfigurationError(f"{option} must be at least {at_least:g}, not {value!r}")
    return found


def seconds(option: str, value: object, *, zero: bool = False) -> float:
    """Return a finite number above 0, or `zero` itself, as a float, or refuse it."""
    found = _finite(option, value, "a number of seconds")
    if found < 0 or (found == 0 and not zero):
        bound = "at least" if zero else "more than"
        raise ConfigurationError(f"{option} must be {bound} 0 seconds, not {value!r}")
    return found


def choice(option: str, words: type[Word], value: object) -> Word:
    """Return the word of an enumeration, or refuse what is none of it."""
    try:
        return words(value)  # type: ignore[arg-type]  # anything else is the error below
    except ValueError:
        names = ", ".join(repr(str(word)) for word in words)
        raise ConfigurationError(f"{option} must be one of {names}, not {value!r}") from None


def _finite(option: str, value: object, what: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ConfigurationError(f"{option} must be {what}, not {value!r}")
    try:
        found = float(value)
    except OverflowError:  # an int beyond 1e308
        found = math.inf
    if not math.isfinite(found):
        raise ConfigurationError(f"{option} must be finite, not {found}")
    return found
