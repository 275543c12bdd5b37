"""Where a journal is, as a URL: ``sqlite:///events.db?max_bytes=100000000``.

Three slashes and a relative path, four and an absolute one, as everywhere in Python.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from actorbus.errors import ConfigurationError

NUMBERS: dict[str, Callable[[str], float]] = {"max_bytes": int, "retention": float, "window": float}
"""What may stand behind the question mark."""


def parse(url: str) -> tuple[str, dict[str, Any]]:
    """Return the path and the options a URL names.

    Raises:
        ConfigurationError: It is no such URL, or an option is unknown or not a number.
    """
    parts = urlsplit(url)
    if parts.scheme != "sqlite":
        raise ConfigurationError(f"{url!r} is no journal: write sqlite:///events.db")
    path = unquote(parts.path.removeprefix("/"))
    if ":memory:" in (path, parts.netloc):
        raise ConfigurationError(
            f"{url!r} would lose every event with the process: name a file, or have no journal"
        )
    if parts.netloc or not path:
        raise ConfigurationError(
            f"{url!r} names no file: write sqlite:///relative.db or sqlite:////absolute.db"
        )
    options = parse_qsl(parts.query, keep_blank_values=True)
    return path, {name: _number(name, text) for name, text in options}


def _number(name: str, text: str) -> float:
    if name not in NUMBERS:
        known = ", ".join(NUMBERS)
        raise ConfigurationError(f"a journal has no option {name!r}; there are {known}")
    try:
        return NUMBERS[name](text)
    except ValueError:
        raise ConfigurationError(f"the journal's {name} must be a number, not {text!r}") from None
