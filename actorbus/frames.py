"""Frames: where an error was raised, noted without keeping a frame alive.

A failure storm makes many letters and few readers, so a new letter notes code and
position of each frame (2 µs for three frames) and the text is made when it is first read. A
``traceback.TracebackException`` made at once costs 14 µs, and on Python 3.12 2.5 ms for a
NameError or AttributeError, whose "Did you mean" is worked out in Python.
"""

from __future__ import annotations

import itertools
import traceback as tracebacks
from collections.abc import Callable
from types import CodeType, MethodType, TracebackType
from typing import Any

Frame = tuple[CodeType, int, int]  # with the last instruction and its line
Noted = list[tuple[BaseException, list[Frame]]]

FRAMES = 100  # innermost frames noted per error; a recursion of 1,000 would take 100 kB a letter
CHAIN = 50  # errors whose frames are noted, causes, contexts and members of groups included
FREED = 1000  # errors whose frames are let go


def chain(error: BaseException, limit: int) -> list[BaseException]:
    """Return an error with its causes, contexts and members, each once, the nearest `limit`."""
    return _walked(error, limit, lambda one: one.__context__)


def own_chain(error: BaseException, limit: int) -> list[BaseException]:
    """Return an error with those of its chain that were raised below the same handler.

    An error raised while somebody outside was handling one of his own, as when a loop is run inside
    an ``except`` block, has that one as its context: it is not ours to touch.
    """
    return _walked(error, limit, _own_context)


def _walked(
    error: BaseException, limit: int, context: Callable[[BaseException], BaseException | None]
) -> list[BaseException]:
    if _is_alone(error):
        return [error]
    found, known = [error], {id(error)}
    for one in found:  # grows while it is walked
        members = one.exceptions[:limit] if isinstance(one, BaseExceptionGroup) else ()
        for other in (one.__cause__, context(one), *members):
            if other is not None and id(other) not in known and len(found) < limit:
                found.append(other)
                known.add(id(other))
    return found


def _is_alone(error: BaseException) -> bool:
    """Return whether an error is all of its chain, as nearly every one is."""
    return (
        error.__context__ is None
        and error.__cause__ is None
        and not isinstance(error, BaseExceptionGroup)
    )


def _own_context(error: BaseException) -> BaseException | None:
    """Return the context if it was caught in a frame that the error's traceback passes through."""
    context, trace = error.__context__, error.__traceback__
    if context is None or context.__traceback__ is None:
        return None
    while trace is not None and trace.tb_frame is not context.__traceback__.tb_frame:
        trace = trace.tb_next
    return None if trace is None else context


def trace_of(handler: Any) -> Any:
    """Return what can be kept of a handler without keeping an instance alive.

    Args:
        handler: A handler.

    Returns:
        The handler; of a method its class and name, unless it is a class's own.
    """
    if type(handler) is not MethodType or isinstance(handler.__self__, type):
        return handler
    return type(handler.__self__), handler.__func__.__name__


def note(error: BaseException) -> Noted:
    """Note where each error of a chain was raised, without keeping a frame."""
    if _is_alone(error):
        return [(error, _frames(error.__traceback__))]
    return [(one, _frames(one.__traceback__)) for one in chain(error, CHAIN)]


def _frames(trace: TracebackType | None) -> list[Frame]:
    noted = []
    while trace is not None:
        noted.append((trace.tb_frame.f_code, trace.tb_lasti, trace.tb_lineno))
        trace = trace.tb_next
    return noted if len(noted) <= FRAMES else noted[-FRAMES:]


def render(error: BaseException, noted: Noted) -> str:
    """Return the text that Python would print for the error with these frames."""
    frames = {id(one): stack for one, stack in noted}
    try:
        whole = tracebacks.TracebackException(
            type(error), error, None, lookup_lines=False, compact=True
        )
        parts = [(whole, error)]
        for part, one in parts:  # grows while it is walked
            stack = [_summary(*frame) for frame in frames.get(id(one), [])]
            part.stack = tracebacks.StackSummary.from_list(stack)
            parts += _parts(part, one)
        return "".join(whole.format())
    except Exception as flaw:  # noqa: BLE001 - the error is a user's object: anything may be wrong
        return f"{type(error).__qualname__} (no traceback: {type(flaw).__name__} in rendering it)\n"


def _parts(
    part: tracebacks.TracebackException, error: BaseException
) -> list[tuple[tracebacks.TracebackException, BaseException]]:
    """Return what belongs to one part of a traceback, each with its error."""
    below = [(part.__cause__, error.__cause__), (part.__context__, error.__context__)]
    if isinstance(error, BaseExceptionGroup):
        below += zip(part.exceptions or (), error.exceptions, strict=False)
    return [(one, its) for one, its in below if one is not None and its is not None]


def _summary(code: CodeType, instruction: int, line: int) -> tracebacks.FrameSummary:
    positions = itertools.islice(code.co_positions(), instruction // 2, None)
    _, end_line, column, end_column = next(positions, (None,) * 4)
    return tracebacks.FrameSummary(
        code.co_filename, line, code.co_name, lookup_line=False,
        end_lineno=end_line, colno=column, end_colno=end_column,
    )  # fmt: skip
