"""How a handler wants to be called, found once, when it subscribes.

A handler takes one argument; one with an inbox takes its transaction as a second. The first
parameter's annotation decides what it gets: the event, the payload converted to a dataclass,
``msgspec.Struct``, ``TypedDict`` or pydantic model, or else the payload as it is. Nothing is
inspected per event.

`inspect` takes 25 us for a handler, as long as all else that makes an actor. A plain function or
method says the same with its code object, in 1 us; everything else is inspected.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import sys
import typing
from collections.abc import Callable
from copy import deepcopy
from operator import attrgetter
from types import CodeType, FunctionType, MethodType
from typing import Any, Final, is_typeddict

import msgspec

from actorbus.errors import ConfigurationError
from actorbus.event import Event

Prepare = Callable[[Event], Any]

payload: Prepare = attrgetter("data")
"""What prepares an event for a handler that takes the payload as it is."""


@dataclasses.dataclass(frozen=True, slots=True)
class Signature:
    """How to call a handler.

    Attributes:
        is_async: Whether calling it gives a coroutine.
        wants_event: Whether it takes the event rather than the payload.
        convert: Turns the payload into what the handler takes; None passes it as it is. Raises
            `InvalidPayload`.
    """

    is_async: bool
    wants_event: bool
    convert: Callable[[Any], Any] | None


_OF_THE_PAYLOAD = {is_async: Signature(is_async, False, None) for is_async in (False, True)}
_OF_THE_EVENT = {is_async: Signature(is_async, True, None) for is_async in (False, True)}
_NOT_PLAIN: Final = object()


class InvalidPayload(Exception):  # noqa: N818 not an error users see: it carries the reason
    """A payload does not fit the handler's annotation; ``__cause__`` says why."""


def inspect_handler(handler: Any, arguments: int = 1) -> Signature:
    """Find out how a handler wants to be called.

    Args:
        handler: A function, method, partial or object with ``__call__``.
        arguments: What it takes: one, or with an inbox two.

    Returns:
        How to call it.

    Raises:
        ConfigurationError: It cannot be called with so many arguments, is a generator, or its
            annotation cannot be resolved.
    """
    if not callable(handler):
        raise ConfigurationError(f"a handler must be callable, not {type(handler).__name__}")
    function = _function(handler)
    annotation = _plain_annotation(function, arguments) if function is handler else _NOT_PLAIN
    if annotation is not _NOT_PLAIN:
        is_async = bool(function.__code__.co_flags & inspect.CO_COROUTINE)
    else:
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise ConfigurationError(
                f"handler {describe(handler)} is a generator function and would never run: "
                "use return, or iterate over bus.events()"
            )
        annotation = _first_annotation(handler, arguments)
        is_async = any(inspect.iscoroutinefunction(each) for each in (function, handler))
    if isinstance(annotation, str):
        annotation = _resolve(handler, function, annotation)
    if annotation is Event:
        return _OF_THE_EVENT[is_async]
    convert = _converter(annotation)
    return _OF_THE_PAYLOAD[is_async] if convert is None else Signature(is_async, False, convert)


def describe(handler: Any) -> str:
    """Return ``module.qualname`` of a handler."""
    function = _function(handler)
    module = getattr(function, "__module__", None) or type(handler).__module__
    name = getattr(function, "__qualname__", None) or type(handler).__qualname__
    return f"{module}.{name}"


def same_handler(one: Any, other: Any) -> bool:
    """Return whether two handlers are the same: equal, or partials of the same call."""
    if isinstance(one, functools.partial) and isinstance(other, functools.partial):
        return (
            same_handler(one.func, other.func)
            and one.args == other.args
            and one.keywords == other.keywords
        )
    return bool(one == other)


def _function(handler: Any) -> Any:
    while isinstance(handler, functools.partial):
        handler = handler.func
    if inspect.isroutine(handler) or inspect.isclass(handler):
        return handler
    return getattr(handler, "__call__", handler)  # noqa: B004 the method itself is wanted


def _plain_annotation(function: Any, arguments: int) -> Any:
    """Return the first annotation of a function or method whose code object says it all.

    Returns:
        The annotation as it is written, None for none; `_NOT_PLAIN` where it takes `inspect` to
        tell, or to say what is wrong.
    """
    bound = isinstance(function, MethodType)
    if bound:
        function = function.__func__
    if not isinstance(function, FunctionType) or function.__dict__:  # wrapped, or marked
        return _NOT_PLAIN
    code = function.__code__
    required = code.co_argcount - len(function.__defaults__ or ())
    if (
        code.co_argcount < bound + arguments
        or required > bound + arguments
        or code.co_kwonlyargcount
        or code.co_flags & (inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR)
    ):
        return _NOT_PLAIN
    return function.__annotations__.get(code.co_varnames[bound])


def _first_annotation(handler: Any, arguments: int) -> Any:
    try:
        signature = inspect.signature(handler)
    except ValueError:
        return None  # a builtin that does not tell
    try:
        signature.bind(*[None] * arguments)
    except TypeError as error:
        what = "one argument" if arguments == 1 else "two arguments with inbox=True, (data, tx)"
        raise ConfigurationError(
            f"handler {describe(handler)}{signature} must take {what}: {error}"
        ) from error
    annotation = next(iter(signature.parameters.values())).annotation
    return None if annotation is inspect.Parameter.empty else annotation


def _resolve(handler: Any, function: Any, annotation: str) -> Any:
    namespace = getattr(inspect.unwrap(function), "__globals__", None)
    if namespace is None:
        namespace = vars(sys.modules.get(getattr(function, "__module__", ""), typing))
    try:
        code = _compiled(annotation)
        return eval(code, namespace, _closure(function))  # noqa: S307 the author's own text
    except Exception as error:
        raise ConfigurationError(
            f"handler {describe(handler)}: the annotation {annotation!r} of its first parameter "
            f"cannot be resolved: {error}"
        ) from error


@functools.lru_cache(maxsize=256)
def _compiled(annotation: str) -> CodeType:
    return compile(annotation.strip(), "<annotation>", "eval")


def _closure(function: Any) -> dict[str, Any]:
    """Return what the function closes over; `inspect` resolves against globals alone."""
    code = getattr(function, "__code__", None)
    if code is None:
        return {}
    found = {}
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=False):
        with contextlib.suppress(ValueError):  # empty: a handler that names itself, not bound yet
            found[name] = cell.cell_contents
    return found


# In a journal's JSON every key of a dict is a text, also where the annotation says int.
_convert = functools.partial(msgspec.convert, str_keys=True)


def _converter(annotation: Any) -> Callable[[Any], Any] | None:
    if not isinstance(annotation, type):
        return None
    if hasattr(annotation, "model_validate") and hasattr(annotation, "model_fields"):
        return _checked(annotation.model_validate)  # pydantic, known by its shape: not imported
    if is_typeddict(annotation):
        return _checked(functools.partial(_convert, type=annotation))
    if dataclasses.is_dataclass(annotation) or issubclass(annotation, msgspec.Struct):
        convert = functools.partial(_convert, type=annotation, from_attributes=True)
        return _checked(convert, instance_of=annotation)
    return None


def _checked(
    convert: Callable[[Any], Any], instance_of: type | None = None
) -> Callable[[Any], Any]:
    def checked(data: Any) -> Any:
        if instance_of is not None and isinstance(data, instance_of):
            return data
        try:
            return convert(data)
        except Exception as error:
            raise InvalidPayload from error

    return checked


def preparation(signature: Signature, *, copies: bool) -> Prepare:
    """Return what turns an event into the handler's argument.

    Args:
        signature: How the handler wants to be called.
        copies: Whether every handler gets a payload of its own.

    Returns:
        A function of the event; raises `InvalidPayload`.
    """
    convert = signature.convert
    if signature.wants_event:
        return _own_copy if copies else _itself
    if copies:
        return lambda event: (
            deepcopy(event.data) if convert is None else convert(deepcopy(event.data))
        )
    if convert is not None:
        return lambda event: convert(event.data)
    return payload


def _itself(event: Event) -> Event:
    return event


def _own_copy(event: Event) -> Event:
    return event.with_data(deepcopy(event.data))
