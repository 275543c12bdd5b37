"""Extra: what only some receipts need to remember, and so none of the others has room for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import msgspec

if TYPE_CHECKING:
    from actorbus.mailbox import Place
    from actorbus.watch import Watch
    from actorbus.words import Outcome

T = TypeVar("T")


class Extra(msgspec.Struct, eq=False):
    """What only some receipts need, made when something is to be remembered; see `Receipt`."""

    awaiting: int = 0
    bells: list[asyncio.Future[None]] | None = None
    context: Context | None = None
    fates: dict[str, Outcome] | None = None
    logged: int = 0
    members: list[Any] | None = None
    pause: bool = False
    places: list[tuple[Any, Place[Any]]] | None = None
    refusal: Callable[[], Exception] | None = None
    refused: int = 0
    watch: Watch | None = None


class Remembering(Protocol):
    """What has an `Extra` once it needs one."""

    extra: Extra | None


class Rare(Generic[T]):
    """An attribute that is kept in an `Extra`."""

    __slots__ = ("_default", "_name")

    def __init__(self, default: T) -> None:
        self._default = default

    def __set_name__(self, _: type, name: str) -> None:
        self._name = name

    def __get__(self, it: Remembering, _: type) -> T:
        extra = it.extra
        return self._default if extra is None else getattr(extra, self._name)

    def __set__(self, it: Remembering, value: T) -> None:
        if it.extra is None:
            it.extra = Extra()
        setattr(it.extra, self._name, value)
