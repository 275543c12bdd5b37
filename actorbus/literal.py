"""Literal: a value as Python source that makes an equal one, or the reason why there is none.

What is written: the built-in values and containers, dates, decimals, UUIDs, members of
enumerations, named tuples, dataclasses, ``msgspec.Struct`` and pydantic models whose classes can be
imported by their names. The exact type counts: a subclass may be anything.

Invariants: what is returned compiles; nothing that a value does when it is looked at escapes as
anything but `Unwritable`; the text has a bounded length and depth, so a recursive value ends too.
"""

from __future__ import annotations

import builtins
import dataclasses
import datetime as dt
import decimal
import enum
import keyword
import math
import sys
import uuid
from collections.abc import Iterable
from textwrap import indent
from types import MethodType
from typing import Any

import msgspec

LONGEST = 20_000  # characters
DEEPEST = 30  # levels of nesting; Python's own parser gives up near 90
WIDTH = 88  # characters of a line that is not broken
SHORT = 12  # characters of an item that shares its line with others


class Unwritable(Exception):  # noqa: N818 not an error users see: it carries the reason
    """There is no source for a value; the text says why."""


class Names:
    """The imports of a module that is being written.

    Args:
        taken: Names that mean something else there, beside those of the built-ins.
    """

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = {*taken, *dir(builtins)}
        self._lines: dict[tuple[str, str], tuple[str, str]] = {}

    def of(self, thing: Any) -> str:
        """Return the expression by which a class or function is known in the module.

        Raises:
            Unwritable: It cannot be imported by its module and name.
        """
        module, path = path_of(thing)
        if module == "builtins":
            return ".".join(path)
        root, *rest = path
        if (module, root) not in self._lines:
            name, number = root, 2
            while name in self._taken:
                name, number = f"{root}_{number}", number + 1
            self._taken.add(name)
            renamed = root if name == root else f"{root} as {name}"
            self._lines[module, root] = (name, f"from {module} import {renamed}")
        return ".".join([self._lines[module, root][0], *rest])

    def lines(self) -> list[str]:
        """Return the import statements."""
        return sorted(line for _, line in self._lines.values())


def path_of(thing: Any) -> tuple[str, list[str]]:
    """Return the module, and the names from there, by which a class or function is found.

    Raises:
        Unwritable: It is not found there.
    """
    try:
        module, path = str(thing.__module__), str(thing.__qualname__).split(".")
        found: Any = sys.modules[module]
        for part in path:
            found = getattr(found, part)
        same = found is thing or (isinstance(thing, MethodType) and found == thing)
    except Exception as flaw:
        raise Unwritable(f"{name_of(thing)} cannot be imported by its name") from flaw
    if module == "__main__":
        raise Unwritable(f"{name_of(thing)} is defined in __main__: move it to a module")
    if not same or not all(map(_is_name, (*module.split("."), *path))):
        raise Unwritable(f"{name_of(thing)} cannot be imported by its name")
    return module, path


def _is_name(text: str) -> bool:
    return text.isidentifier() and not keyword.iskeyword(text)


def write(value: Any, names: Names) -> str:
    """Return Python source for a value.

    Args:
        value: Anything.
        names: Gets the imports the source needs.

    Raises:
        Unwritable: There is none.
    """
    try:
        return _Writer(names).write(value, 0)
    except Unwritable:
        raise
    except Exception as flaw:
        raise Unwritable(f"{name_of(type(value))} raises {name_of(type(flaw))}") from flaw


class _Writer:
    """Writes one value."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._left = LONGEST

    def write(self, value: Any, level: int) -> str:
        if level > DEEPEST:
            raise Unwritable(f"it is nested deeper than {DEEPEST} levels, or contains itself")
        self._spend(1)
        kind = type(value)
        if value is None or kind is bool:
            return repr(value)
        if kind is int:
            self._spend(value.bit_length() // 4)
            return repr(value) if value.bit_length() < 1000 else hex(value)
        if kind is float:
            return repr(value) if math.isfinite(value) else f"float({repr(value)!r})"
        if kind in (str, bytes):
            self._spend(len(value))
            text = repr(value)
            self._spend(len(text) - len(value))
            return text
        if kind in (list, tuple, set, frozenset, dict):
            return self._container(kind, value, level)
        return self._object(kind, value, level)

    def _container(self, kind: type, value: Any, level: int) -> str:
        self._spend(len(value))
        if kind is dict:
            pairs = [
                f"{self.write(key, level + 1)}: {self.write(item, level + 1)}"
                for key, item in value.items()
            ]
            return _block("{", pairs, "}")
        items = [self.write(item, level + 1) for item in value]
        if kind is list:
            return _block("[", items, "]")
        if kind is tuple:
            return f"({items[0]},)" if len(items) == 1 else _block("(", items, ")")
        items.sort()
        if kind is set and items:
            return _block("{", items, "}")
        return _block(f"{kind.__name__}([", items, "])") if items else f"{kind.__name__}()"

    def _object(self, kind: type, value: Any, level: int) -> str:
        name = self._names.of(kind)
        if isinstance(value, enum.Enum):
            if not isinstance(value.name, str) or kind[value.name] is not value:  # type: ignore[index]  # a class of enum's
                raise Unwritable(f"{name_of(kind)} has no member of this name")
            return f"{name}[{value.name!r}]"
        if kind in (dt.datetime, dt.date, dt.time):
            zone = getattr(value, "tzinfo", None)
            if zone is not None and type(zone) is not dt.timezone:
                raise Unwritable(f"a time in {name_of(type(zone))} has no literal")
            return f"{name}.fromisoformat({value.isoformat()!r})"
        if kind is dt.timedelta:
            return f"{name}({value.days}, {value.seconds}, {value.microseconds})"
        if kind in (decimal.Decimal, uuid.UUID):
            return f"{name}({str(value)!r})"
        if hasattr(kind, "model_fields") and hasattr(kind, "model_dump"):
            return f"{name}.model_validate({self.write(value.model_dump(), level + 1)})"
        fields = _fields(kind)
        given = [f"{each}={self.write(getattr(value, each), level + 1)}" for each in fields]
        return _block(f"{name}(", given, ")")

    def _spend(self, characters: int) -> None:
        self._left -= characters
        if self._left < 0:
            raise Unwritable(f"it takes more than {LONGEST:,} characters")


def _fields(kind: type) -> list[str]:
    """Return the names of the arguments that make an equal instance of a class."""
    if issubclass(kind, msgspec.Struct):
        return list(kind.__struct_fields__)
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        return list(kind._fields)
    if dataclasses.is_dataclass(kind):
        fields = dataclasses.fields(kind)
        made_by_itself = kind.__dataclass_params__.init  # type: ignore[attr-defined]  # typeshed has it not
        if made_by_itself and all(field.init for field in fields):
            return [field.name for field in fields]
    raise Unwritable(f"{name_of(kind)} has no literal")


def _block(opening: str, items: list[str], closing: str) -> str:
    line = f"{opening}{', '.join(items)}{closing}"
    if len(line) <= WIDTH and "\n" not in line:
        return line
    inner = "".join(f"{line},\n" for line in _packed(items))
    return (
        f"{opening}\n{indent(inner, '    ')}{closing}"  # a literal holds no line break of its own
    )


def _packed(items: list[str]) -> list[str]:
    """Return items in lines: several in one where all are short."""
    if any(len(item) > SHORT for item in items):
        return items
    lines = [""]
    for item in items:
        if lines[-1] and len(lines[-1]) + len(item) > WIDTH - 10:
            lines.append("")
        lines[-1] += f", {item}" if lines[-1] else item
    return lines


def name_of(thing: Any) -> str:
    """Return the name of a class or function on one line, whatever it is."""
    try:
        text = f"{thing.__module__}.{thing.__qualname__}"
    except Exception:  # noqa: BLE001 a user's object
        text = type(thing).__name__
    return "".join(c if c.isprintable() else "?" for c in text)[:120]
