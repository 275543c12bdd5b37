"""Stuck: who waits, and where, when nothing can go on."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterable
from pathlib import PurePath
from typing import Any

from actorbus.mailbox import Mailbox
from actorbus.subscription import Subscription
from actorbus.traffic import _EVERY


def places(tasks: Iterable[asyncio.Task[Any]]) -> list[str]:
    """Return the name of each task, the coroutines it is in, and the line it waits at."""
    return [f"{task.get_name()}: {_place(task.get_coro())}" for task in tasks if not task.done()]


def _place(coroutine: Any) -> str:
    names: list[str] = []
    where = ""
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        if frame is None:
            break
        names.append(frame.f_code.co_name)
        where = f" ({PurePath(frame.f_code.co_filename).name}:{frame.f_lineno})"
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
    return " > ".join(names) + where


def mailboxes(loop: asyncio.AbstractEventLoop) -> list[str]:
    """Return a line for each mailbox that holds something, is waited for, or whose actor works."""
    owned: list[Mailbox[Any]] = []
    lines: list[str] = []
    for bus in _EVERY:
        for sub in bus.registry.everyone():
            if not isinstance(sub, Subscription):
                continue
            owned.append(sub.inbox.mailbox)
            if bus.loop is loop and (terms := sub.terms()).pending:
                lines.append(
                    f"of {sub.name!r} on bus {bus.name!r}: {terms.queued} queued, "
                    f"{terms.waiting} waiting, {terms.running} running, {terms.retrying} retrying"
                )
    known = {id(each) for each in owned}
    for each in gc.get_objects():  # slow, but only once, at the end of a run that fails
        if type(each) is Mailbox and id(each) not in known:
            waiting = [f for f in each._getters or () if f.get_loop() is loop and not f.done()]
            if waiting or each.line:
                lines.append(f"{each!r}: {len(waiting)} wait to get, {len(each.line or ())} to put")
    return sorted(lines)
